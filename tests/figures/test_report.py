"""Pictures of a case's page: tiles where they lie, in um; the case on its side of the cut-off."""

import numpy as np
import pytest

from helpers.figures.report import plot_score_overlay, plot_score_position
from helpers.figures.style import PALETTES, new_figure

DRAWN = {"tile_um": 100.0, "size_um": (800.0, 500.0), "limits": (0.0, 2.0), "label": "score"}


def test_tiles_lie_in_um_on_a_slide_that_is_wider_than_high() -> None:
    _, axes = new_figure(columns=2)
    coords = np.array([[0.0, 400.0], [700.0, 0.0]])
    plot_score_overlay(
        np.zeros((50, 80, 3), np.uint8), coords, np.array([0.5, 1.5]), ax=axes[1], beside=axes[:1], **DRAWN
    )
    ax = axes[1]
    assert ax.images[0].get_extent() == [0, 800, 500, 0]
    (tiles,) = ax.collections
    assert tiles.get_gid() == "tiles"
    assert tiles.get_array().tolist() == [0.5, 1.5]
    assert tiles.get_clim() == (0.0, 2.0)
    assert tiles.get_paths()[1].get_extents().bounds == pytest.approx((700.0, 0.0, 100.0, 100.0))
    (bar,) = [line for line in ax.lines if line.get_gid() == "scale_bar"]
    assert np.ptp(bar.get_xdata()) == pytest.approx(200.0)
    assert [text.get_text() for text in ax.texts] == ["200 µm"]


def test_without_scores_only_the_slide_is_drawn() -> None:
    _, (ax,) = new_figure()
    plot_score_overlay(np.zeros((50, 80, 3), np.uint8), np.zeros((0, 2)), np.array([]), ax=ax, **DRAWN)
    assert len(ax.collections) == 0
    assert len(ax.figure.axes) == 1


@pytest.mark.parametrize(("score", "side", "align"), [(3.4, "high", "left"), (2.1, "low", "right")])
def test_the_case_stands_on_its_side_of_the_cut_off(score: float, side: str, align: str) -> None:
    _, (ax,) = new_figure()
    training = np.random.default_rng(1).normal(3, 1, 80)
    plot_score_position(training, ax=ax, score=score, cutoff=3.0, label="score")
    lines = {line.get_gid(): line for line in ax.lines}
    assert set(lines["score"].get_xdata()) == {score}
    assert lines["score"].get_color() == PALETTES["risk"][side]
    assert set(lines["cutoff"].get_xdata()) == {3.0}
    named = {text.get_text(): text for text in ax.texts}
    assert named[f"this case {score:.2f}"].get_ha() == align
    assert named["cut-off 3.00"].get_ha() != align
    assert sum(patch.get_height() for patch in ax.patches) == 80
    assert ax.get_ylabel() == "training cases (of 80)"
