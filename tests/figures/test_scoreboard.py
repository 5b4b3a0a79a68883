"""What the comparison shows is what the table says."""

import matplotlib as mpl

mpl.use("Agg")

import pandas as pd

from helpers.figures.scoreboard import plot_comparison
from helpers.figures.style import new_axes

TABLE = pd.DataFrame(
    {
        "id": ["04/hazard_ratio/prolif11_image/rfs", "04/hazard_ratio/MKI67_image/rfs"],
        "value": [1.5, 1.2],
        "ci_low": [1.1, float("nan")],
        "ci_high": [2.0, float("nan")],
        "n": [150, 150],
        "n_events": [60, float("nan")],
        "reference": [1.65, float("nan")],
        "reference_low": [1.05, float("nan")],
        "reference_high": [2.61, float("nan")],
        "kind": ["published", "published"],
        "holds": [False, None],
    }
)


def test_values_references_and_verdicts_are_written_beside_the_dots():
    ax = plot_comparison(TABLE, ax=new_axes(), log=True, label="hazard ratio")
    texts = [text.get_text() for text in ax.texts]
    assert "1.50 (1.10, 2.00)" in texts
    assert "1.65 (1.05, 2.61)" in texts
    assert "150 (60)" in texts
    assert texts.count("does not hold") == 1
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_yticklabels()][0] == "04  hazard ratio  ·  prolif11 image · rfs"


def test_the_first_row_stands_on_top_and_missing_references_draw_nothing():
    ax = plot_comparison(TABLE, ax=new_axes())
    bottom, top = ax.get_ylim()
    assert bottom > top
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [1.65]
