"""What the comparison shows is what the table says."""

import itertools

import matplotlib as mpl

mpl.use("Agg")

import pandas as pd

from helpers.figures.scoreboard import COLUMNS, new_comparison, plot_comparison
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
    _, ax, beside = new_comparison(len(TABLE))
    plot_comparison(TABLE, ax=ax, beside=beside, log=True, label="hazard ratio")
    texts = [text.get_text() for text in beside.texts]
    assert "1.50 (1.10, 2.00)" in texts
    assert "1.65 (1.05, 2.61)" in texts
    assert "150 (60)" in texts
    assert texts.count("fails") == 1
    assert set(COLUMNS) <= set(texts)
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_yticklabels()][0] == "04  hazard ratio  ·  prolif11 image · rfs"
    assert ax.get_ylim() == beside.get_ylim(), "a number stands in the line of its dot"


def test_no_column_runs_into_the_next():
    fig, ax, beside = new_comparison(len(TABLE))
    wide = TABLE.assign(id="04/hazard_ratio/prolif11_image_erpos_her2neg/pfi_or_death", n=12345, n_events=1234)
    plot_comparison(wide, ax=ax, beside=beside)
    fig.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in beside.texts), key=lambda box: (round(box.y0), box.x0))
    for left, right in itertools.pairwise(boxes):
        same_line = abs(left.y0 - right.y0) < 2
        assert not same_line or left.x1 < right.x0


def test_the_first_row_stands_on_top_and_missing_references_draw_nothing():
    ax = plot_comparison(TABLE, ax=new_axes())
    bottom, top = ax.get_ylim()
    assert bottom > top
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [1.65]


def test_a_reference_open_on_one_side_is_written_as_a_bound():
    _, ax, beside = new_comparison(1)
    row = TABLE.iloc[[1]].assign(reference_high=0.35)
    plot_comparison(row, ax=ax, beside=beside)
    assert "≤ 0.35" in [text.get_text() for text in beside.texts]
