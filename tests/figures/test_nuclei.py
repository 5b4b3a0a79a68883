"""Outlines on a tile: where they are drawn, in which colour, and how many."""

import numpy as np
import pytest

from helpers.figures.nuclei import FATE_COLOURS, plot_nuclei, plot_nuclei_evaluation
from helpers.figures.style import new_axes

IMAGE = np.full((60, 80, 3), 230, np.uint8)


def place(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros((60, 80), np.int32)
    for number, (left, top, width, height) in enumerate(boxes, start=1):
        labels[top : top + height, left : left + width] = number
    return labels


def outlines(ax, gid: str) -> list[np.ndarray]:
    (collection,) = [artist for artist in ax.collections if artist.get_gid() == gid]
    return [path.vertices for path in collection.get_paths()]


def test_outlines_run_half_a_pixel_outside_the_nucleus_in_x_y() -> None:
    ax = plot_nuclei(IMAGE, place((50, 10, 12, 6), (0, 20, 5, 5)), ax=new_axes(), um_per_px=0.5)
    first, second = outlines(ax, "nuclei")
    assert (first[:, 0].min(), first[:, 0].max()) == (49.5, 61.5)
    assert (first[:, 1].min(), first[:, 1].max()) == (9.5, 15.5)
    assert second[:, 0].min() == -0.5, "a nucleus at the edge is closed"
    assert ax.get_title(loc="left") == "2 nuclei"


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    ax = plot_nuclei(IMAGE, place(), ax=new_axes(), um_per_px=0.5, length_um=10)
    (bar,) = [line for line in ax.lines if line.get_gid() == "scale_bar"]
    assert np.ptp(bar.get_xdata()) == pytest.approx(20)
    assert "10 µm" in [text.get_text() for text in ax.texts]


def test_matched_missed_and_false_have_their_colours_and_numbers() -> None:
    truth, found = place((5, 5, 6, 6), (40, 40, 6, 6)), place((6, 5, 6, 6), (60, 5, 6, 6))
    fates = {"matched": [1], "missed": [2], "false": [2]}
    ax = plot_nuclei_evaluation(IMAGE, truth, found, fates, ax=new_axes(), um_per_px=0.5)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["matched (1)", "missed (1)", "false (1)"]
    assert len(set(FATE_COLOURS.values())) == 3
    assert outlines(ax, "missed")[0][:, 0].min() == 39.5, "missed nuclei are drawn from the truth"
    assert outlines(ax, "false")[0][:, 0].min() == 59.5
    assert outlines(ax, "matched")[0][:, 0].min() == 5.5
