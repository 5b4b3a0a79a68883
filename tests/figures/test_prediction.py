"""Figures of chapter 03 draw what the tables say, and write n and intervals beside it."""

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from helpers.cohort.genes import name_score
from helpers.figures import prediction as figures
from helpers.figures.style import PALETTES, new_axes
from helpers.stats.correlation import compute_agreement, compute_calibration


def find(ax: Axes, gid: str) -> list:
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def read_texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_scatter_shows_every_case_the_identity_and_four_named_quantities() -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"y_true": rng.normal(size=40)})
    table["y_pred"] = 0.4 * table["y_true"] + rng.normal(size=40)
    agreement = compute_agreement(table["y_true"].to_numpy(), table["y_pred"].to_numpy(), n_boot=100, rng=rng)
    ax = figures.plot_agreement(table, agreement, ax=new_axes(), split="external", label="11-gene score (log2)")
    points = find(ax, "cases")[0]
    assert points.get_offsets().data == pytest.approx(table[["y_true", "y_pred"]].to_numpy())
    assert mpl.colors.to_hex(points.get_facecolor()[0]) == PALETTES["split"]["external"].lower()
    assert ax.get_title(loc="left") == "External, n = 40"
    assert ax.get_xlabel() == "measured 11-gene score (log2)"
    assert ax.get_xlim() == ax.get_ylim()
    for name in ("Spearman ρ", "Pearson r", "r² (squared r)", "R² (1 − SSE/SST)"):
        assert name in read_texts(ax)[0]


def test_forest_writes_n_and_interval_and_makes_the_summary_a_diamond() -> None:
    table = pd.DataFrame(
        {
            "label": ["B", "all"],
            "value": [0.5, -0.25],
            "ci_low": [0.3, np.nan],
            "ci_high": [0.7, np.nan],
            "n": [40, 90],
            "bold": [False, True],
        }
    )
    ax = figures.plot_forest(table, ax=new_axes())
    assert {"40", "0.50 (0.30 to 0.70)", "90", "−0.25"} <= set(read_texts(ax))
    assert [line.get_marker() for line in find(ax, "estimate")] == ["o", "D"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["B", "all"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_null_shows_its_99th_percentile_and_the_observed_value() -> None:
    null = np.random.default_rng(1).normal(-0.05, 0.05, 200)
    ax = figures.plot_permutation_null(null, ax=new_axes(), observed=0.64, q99=0.07)
    assert find(ax, "observed")[0].get_xdata()[0] == 0.64
    assert find(ax, "q99")[0].get_xdata()[0] == 0.07
    assert ax.get_ylabel() == "permutations (of 200)"
    assert sum(patch.get_height() for patch in ax.patches) == 200


PANEL = pd.DataFrame(
    {
        "label": ["all cases", "subtype", "subtype", "subtype", "subtype"],
        "kind": ["image", "label_only", "within_stratum", "within_stratum", "within_label"],
        "stratum": ["all", "all", "LumA", "tiny", "mean of strata"],
        "value": [0.65, 0.67, 0.29, np.nan, 0.35],
        "ci_low": [0.6, 0.63, 0.18, np.nan, np.nan],
        "ci_high": [0.7, 0.71, 0.38, np.nan, np.nan],
        "n": [683, 683, 314, 4, 615],
        "null_q95": [np.nan] * 4 + [0.11],
        "p": [np.nan] * 4 + [0.005],
    }
)


def test_panel_sets_each_label_against_the_image_and_leaves_out_strata_without_a_value() -> None:
    ax = figures.plot_label_only(PANEL, ax=new_axes())
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["Image", "Subtype alone"]
    assert [line.get_xdata()[0] for line in find(ax, "estimate")] == [0.65, 0.67]
    ax = figures.plot_strata(PANEL, ax=new_axes())
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["LumA", "Subtype: mean of strata"]
    assert read_texts(ax) == ["n 314", "n 615, p 0.005"]
    assert find(ax, "null_q95")[0].get_xdata()[0] == 0.11


def test_folds_means_and_pooled_values_share_an_axis() -> None:
    folds = pd.DataFrame(
        {"repeat": [0, 0, 1, 1], "fold": [0, 1, 0, 1], "value": [0.5, 0.7, 0.6, 0.6], "n": [50, 25, 40, 40]}
    )
    pooled = pd.DataFrame({"repeat": [0, 1], "pooled": [0.61, 0.6], "fold_mean": [0.57, 0.6]})
    ax = figures.plot_folds(folds, pooled, ax=new_axes())
    assert find(ax, "folds")[0].get_offsets().data[:, 1].tolist() == [0.5, 0.7, 0.6, 0.6]
    assert find(ax, "pooled")[0].get_ydata().tolist() == [0.61, 0.6]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one fold", "mean of folds", "pooled"]


def test_tile_map_puts_x_right_y_down_in_um_with_a_scale_bar() -> None:
    coords = np.array([[0.0, 0.0], [256.0, 0.0], [0.0, 512.0]])
    ax = figures.plot_tile_map(coords, np.array([1.0, 2.0, 3.0]), ax=new_axes(), tile_um=256.0, size_um=(600.0, 800.0))
    tiles = find(ax, "tiles")[0]
    corners = [path.vertices[0].tolist() for path in tiles.get_paths()]
    assert corners == coords.tolist()
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 600), (800, 0))
    assert read_texts(ax) == ["100 µm"]
    assert len(find(ax, "scale_bar")) == 1


def test_targets_are_named_as_an_axis_should() -> None:
    assert name_score("prolif11") == "11-gene score"
    assert name_score("prolif11_pam50") == "11-gene score pam50"
    assert name_score("MKI67") == "MKI67"


ARMS = pd.DataFrame(
    {
        "arm": ["attention_mil", "ridge"], "pooled": [0.664, -0.01], "pooled_low": [0.658, -0.02],
        "pooled_high": [0.668, 0.0], "difference": [0.016, 0.0], "ci_low": [0.006, np.nan], "ci_high": [0.026, np.nan],
    }
)  # fmt: skip


def test_arms_are_drawn_as_differences_with_the_declared_one_marked() -> None:
    ax = figures.plot_arm_differences(ARMS, ax=new_axes(), reference="ridge", declared="attention_mil", title="MKI67")
    points = find(ax, "estimate")
    assert [point.get_xdata()[0] for point in points] == [0.016, 0.0]
    assert [point.get_marker() for point in points] == ["D", "o"]
    assert points[1].get_markerfacecolor() == "white"  # the reference has no difference of its own
    assert len(find(ax, "interval")) == 1
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["Attention MIL", "Ridge, mean"]
    assert {"0.664 (0.658 to 0.668)", "−0.010 (−0.020 to 0.000)"} <= set(read_texts(ax))
    assert ax.get_xlabel() == "Δρ against ridge, mean, same folds (95 % CI)"


def test_every_arm_has_a_label() -> None:
    from helpers.models.arms import list_arms

    assert set(figures.ARM_LABELS) == set(list_arms())


def test_calibration_draws_bins_identity_and_slope() -> None:
    rng = np.random.default_rng(1)
    predicted = rng.normal(size=60)
    summary, bins = compute_calibration(2 * predicted + 0.1 * rng.normal(size=60), predicted, n_boot=100, rng=rng)
    ax = figures.plot_calibration(bins, summary, ax=new_axes(), split="external", label="score")
    assert find(ax, "bins")[0].get_xdata() == pytest.approx(bins["predicted"].to_numpy())
    assert find(ax, "identity")[0].get_xdata() == pytest.approx(find(ax, "identity")[0].get_ydata())
    assert ax.get_xlim() == ax.get_ylim()
    assert "slope 1.99" in read_texts(ax)[0]
    assert ax.get_title(loc="left") == "External, n = 60"


def test_marked_tiles_are_outlined_on_the_map() -> None:
    coords = np.array([[0.0, 0.0], [128.0, 0.0], [0.0, 128.0]])
    marked = np.array([True, False, True])
    ax = figures.plot_tile_map(coords, np.array([3.0, 1.0, 2.0]), ax=new_axes(), tile_um=128.0, marked=marked)
    assert len(find(ax, "marked")[0].get_paths()) == 2
