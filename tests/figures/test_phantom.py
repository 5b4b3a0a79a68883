"""Figures of the planted truth: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from helpers.core.specs import PhantomSpec
from helpers.figures.phantom import (
    plot_attenuation,
    plot_loadings,
    plot_planted_survival,
    plot_sites,
    plot_slide_and_truth,
)
from helpers.figures.style import new_figure
from helpers.phantom.omics import list_loadings
from helpers.phantom.survival import tabulate_planted_curves
from helpers.phantom.truth import list_sites

SPEC = PhantomSpec()


def list_texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in [*ax.texts, ax.title, ax._left_title]]


def test_a_slide_and_its_maps_share_the_frame_of_the_slide() -> None:
    fig, axes = new_figure(columns=4)
    maps = {name: np.full((30, 30), 0.5) for name in ("proliferation", "til", "nuclear_density")}
    maps["proliferation"][:5] = np.nan
    image = np.zeros((200, 200, 3), np.uint8)
    plot_slide_and_truth(image, maps, slide_um=1500, maps_um_per_px=50, axes=axes, title="S-1")
    assert axes[1].images[0].get_extent() == [0, 1500, 1500, 0], "maps must cover the slide, y downwards"
    assert axes[1].images[0].get_clim() == (-3, 3)
    assert {"S-1", "500 µm", "Proliferation, z"} <= set(list_texts(fig))


def test_scale_bar_of_a_slide_is_as_long_as_it_says() -> None:
    _, axes = new_figure(columns=4)
    maps = dict.fromkeys(("proliferation", "til", "nuclear_density"), np.zeros((3, 3)))
    plot_slide_and_truth(np.zeros((300, 300, 3), np.uint8), maps, slide_um=1500, maps_um_per_px=500, axes=axes)
    (bar,) = [line for line in axes[0].lines if line.get_gid() == "scale_bar"]
    assert np.ptp(bar.get_xdata()) * 1500 / 300 == pytest.approx(500)


def test_loadings_show_every_gene_that_loads_on_something_and_count_the_rest() -> None:
    table = list_loadings(SPEC)
    ax = plot_loadings(table)
    assert [label.get_text() for label in ax.get_xticklabels()] == table["gene"].head(62).tolist()
    assert ax.images[0].get_array()[0, 0] == table["proliferation"].iloc[0]
    assert "40 null and 8 housekeeping genes load on nothing" in ax._left_title.get_text()
    assert {"11-gene score", "other PAM50", "immune"} <= {text.get_text() for text in ax.texts}


def test_every_site_has_its_row_and_shift() -> None:
    sites = list_sites(SPEC)
    ax = plot_sites(sites)
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"site {name}" for name in "ABCDEFX"]
    assert "case mix −0.28 SD" in ax.texts[0].get_text()
    assert "case mix 0.00 SD" in ax.texts[-1].get_text()


def test_higher_latent_lies_lower() -> None:
    ax = plot_planted_survival(tabulate_planted_curves(SPEC))
    ends = {line.get_label(): line.get_ydata()[-1] for line in ax.lines}
    assert ends["latent −1 SD"] > ends["latent 0 SD"] > ends["latent +1 SD"]
    assert all(line.get_ydata()[0] == 1 for line in ax.lines)


def test_observed_curves_are_drawn_beside_the_planted() -> None:
    curves = tabulate_planted_curves(SPEC)
    ax = plot_planted_survival(curves, observed=curves)
    assert [line.get_gid() for line in ax.lines].count("observed") == 3


def test_attenuation_has_a_log_axis_and_names_its_points() -> None:
    rows = [("image", 0.3, 1.1), ("image", 0.6, 1.25), ("measured", 1.0, 1.4), ("latent", 0.9, 1.5)]
    table = pd.DataFrame(rows, columns=["kind", "spearman", "hr"])
    ax = plot_attenuation(table.assign(hr_low=table["hr"] * 0.98, hr_high=table["hr"] * 1.02))
    assert ax.get_yscale() == "log"
    assert {line.get_label() for line in ax.lines} >= {"image score", "measured 11-gene score", "latent itself"}
    (latent,) = [line for line in ax.lines if line.get_gid() == "latent"]
    assert (latent.get_xdata()[0], latent.get_ydata()[0]) == (0.9, 1.5)
