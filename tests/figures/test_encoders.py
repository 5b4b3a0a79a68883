"""Figures of encoders show every view, every loss and every probe they are given."""

import numpy as np
import pandas as pd

from helpers.figures import style
from helpers.figures.encoders import ENCODER_COLOURS, plot_loss, plot_probe_forest, plot_views


def test_views_stand_in_one_strip_per_row_with_one_scale_bar():
    images = np.zeros((3, 20, 20, 3), np.uint8)
    _, axes = style.new_figure(rows=2)
    plot_views({"as drawn": images, "first view": images}, axes, um_per_px=0.5)
    assert axes[0].images[0].get_array().shape == (20, 66, 3)
    assert [ax.get_ylabel() for ax in axes] == ["as drawn", "first view"]
    assert [sum(line.get_gid() == "scale_bar" for line in ax.lines) for ax in axes] == [1, 0]


def test_every_part_of_a_loss_has_a_line_and_a_name():
    history = pd.DataFrame({"step": [1, 2, 3], "a_b": [3.0, 2.0, 1.0], "a_b_smooth": [3.0, 2.0, 1.0]})
    _, (ax,) = style.new_figure()
    history = history.assign(til_density=1.0, til_density_smooth=1.0)
    plot_loss(history, ax=ax, parts=["a_b", "til_density"])
    assert len(ax.lines) == 4
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a b", "TIL density"]


def test_the_forest_shows_each_encoder_in_its_colour_and_each_probe_in_its_row():
    table = pd.DataFrame(
        {
            "encoder": ["phantom-s", "mean_colour"] * 2,
            "row": ["density", "density", "size", "size"],
            "value": [0.8, 0.4, 0.5, 0.1],
            "ci_low": [0.7, 0.3, 0.4, 0.0],
            "ci_high": [0.9, 0.5, 0.6, 0.2],
        }
    )
    _, (ax,) = style.new_figure()
    plot_probe_forest(table, ax=ax, label="rho")
    marks = {line.get_label(): line for line in ax.lines if line.get_label() in ENCODER_COLOURS}
    assert marks["phantom-s"].get_xdata().tolist() == [0.8, 0.5]
    assert marks["phantom-s"].get_color() == ENCODER_COLOURS["phantom-s"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["density", "size"]
    assert np.abs(marks["phantom-s"].get_ydata() - [0, 1]).max() < 0.5
