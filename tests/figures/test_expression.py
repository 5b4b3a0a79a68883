"""Figures of chapter 05: the artists that carry the message, and their labels."""

import numpy as np
import pandas as pd
import pytest

from helpers.figures import expression as figures
from helpers.figures.style import new_figure


@pytest.fixture
def ax():
    return new_figure()[1][0]


def find(ax, gid):
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


GENES = pd.DataFrame({
    "target": ["a", "b", "c"], "value": [0.2, 0.7, -0.1], "ci_low": [0.0, 0.6, -0.3], "ci_high": [0.4, 0.8, 0.1],
    "p": [0.05, 0.01, 0.6], "q": [0.08, 0.03, 0.6], "found": [False, True, False],
})  # fmt: skip


def test_genes_are_ranked_and_named(ax):
    figures.plot_ranked_genes(GENES, ax=ax, reference=0.465, reference_label="ridge")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["b", "a", "c"]
    assert ax.get_legend().get_texts()[0].get_text() == "found at FDR 5 % (1)"
    assert find(ax, "reference")[0].get_ydata()[0] == 0.465


def test_the_legend_names_the_level_at_which_genes_were_found(ax):
    figures.plot_ranked_genes(GENES, ax=ax, level=0.1)
    assert ax.get_legend().get_texts()[0].get_text() == "found at FDR 10 % (1)"


def test_the_volcano_says_how_many_pass(ax):
    figures.plot_volcano(GENES, ax=ax, named=["b"])
    assert any("1 of 3" in text.get_text() for text in ax.texts)
    assert "b" in {text.get_text() for text in ax.texts}
    assert len(find(ax, "level")) == 1


def test_contours_run_around_the_highest_tiles_only(ax):
    coords = np.stack(np.meshgrid(np.arange(5), np.arange(4)), axis=-1).reshape(-1, 2) * 100.0
    values = np.zeros(20)
    values[[6, 7]] = 1  # two neighbours: six edges around both
    figures.draw_contours(coords, values, ax=ax, tile_um=100.0, share=0.1)
    edges = find(ax, "contour")[0].get_segments()
    assert len(edges) == 6
    assert np.ptp(np.concatenate(edges), axis=0).tolist() == [200, 100], "x runs along, y down"


def test_map_quality_draws_one_line_per_gene_and_map(ax):
    table = pd.DataFrame({
        "target": ["a", "a"], "map": ["value", "tumour_mask"], "quantity": "auroc", "value": [0.8, 0.5],
        "ci_low": [0.7, 0.4], "ci_high": [0.9, 0.6],
    })  # fmt: skip
    figures.plot_map_quality(table, ax=ax)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a · Value", "a · Tumour share of the tile"]
    assert "AUROC" in ax.get_xlabel()


def test_deletion_draws_a_curve_per_map_with_its_unit(ax):
    table = pd.DataFrame(
        {"map": ["value", "value", "random", "random"], "share": [0, 0.5] * 2, "fall": [0, -1, 0, 0.1]}
    )
    figures.plot_deletion(table.assign(ci_low=table["fall"] - 0.1, ci_high=table["fall"] + 0.1), ax=ax)
    assert find(ax, "value")[0].get_xdata().tolist() == [0, 50]
    assert "log2" in ax.get_ylabel()


def test_screens_show_level_and_power():
    axes = new_figure(columns=2)[1]
    table = pd.DataFrame({
        "label": ["x", "null"], "proportion": [0.02, 0.01], "lower": [0.01, 0.0], "upper": [0.03, 0.02],
        "power": [0.95, np.nan], "null_share": [0.6, 1.0], "n_cohorts": [400, 400],
    })  # fmt: skip
    figures.plot_screens(table, axes=axes)
    assert len(find(axes[0], "proportion")) == 2
    assert len(find(axes[1], "power")) == 1, "without a link there is no power"
    assert "π₀ 1.00" in axes[0].get_yticklabels()[1].get_text()


def test_the_gallery_has_a_row_per_gene_and_a_scale_bar():
    axes = new_figure(rows=2, columns=2)[1]
    tiles = pd.DataFrame(
        {"target": ["a", "a", "b", "b"], "bin": [0, 1, 0, 1], "y_pred": [1.0, 2.0, 3.0, 4.0], "slide_id": "s"}
    )
    figures.plot_tile_gallery(tiles, [np.zeros((64, 64, 3), np.uint8)] * 4, axes=axes, tile_um=128.0, n_columns=2)
    assert [ax.get_ylabel() for ax in axes] == ["a", "", "b", ""]
    assert axes[3].texts[0].get_text() == "50 µm"


def test_structure_spots_and_pairs_carry_their_labels(ax):
    matrix = pd.DataFrame(np.eye(3), index=list("abc"), columns=list("abc"))
    figures.plot_gene_structure(matrix, ax=ax, title="Measured")
    assert find(ax, "structure")[0].get_clim() == (-1, 1)
    other = new_figure()[1][0]
    spots = pd.DataFrame({"x_l0": [0.0, 3000.0, 0.0], "y_l0": [0.0, 0.0, 3000.0], "v": [1.0, 2.0, 3.0]})
    figures.plot_spot_map(spots, ax=other, column="v", um_per_px=0.5)
    assert other.get_ylim()[0] > other.get_ylim()[1], "y runs down"
    assert any("1 mm" in text.get_text() for text in other.texts)
    third = new_figure()[1][0]
    figures.plot_paired_genes(
        GENES.assign(x=GENES["value"], y=GENES["p"]), ax=third, xlabel="x", ylabel="y", named=["b"]
    )
    assert [text.get_text() for text in third.texts] == ["b"]
