"""Figures of chapter 06: artists and labels, not pixels."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.specs import FusionArmName
from helpers.figures import classification as figures
from helpers.figures.style import new_axes, new_figure
from helpers.stats.classification import compute_arm_performance, compute_curves, compute_reliability


def make_performance() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    y = (np.arange(60) % 3 == 0).astype(float)
    rows = [
        pd.DataFrame({
            "case_id": [f"{i:02d}" for i in range(60)], "split": "development", "repeat": 0, "fold": np.arange(60) % 3, "target": "t",
            "arm": arm, "y_true": y, "y_pred": 1 / (1 + np.exp(-(2 * y - 1 + rng.normal(size=60)))), "threshold": 0.5,
        })
        for arm in ("image_linear", "genes_linear", "cross_attention", "image_permuted")
    ]  # fmt: skip
    return compute_arm_performance(pd.concat(rows), n_boot=50, rng=rng)


def find(ax, gid: str) -> list:
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def test_every_arm_of_the_spec_has_a_name_and_a_colour_of_its_kind() -> None:
    from typing import get_args

    names = [figures.name_arm(arm) for arm in get_args(FusionArmName)]
    assert len(set(names)) == len(names)
    assert all(name in figures.ARM_NAMES.values() for name in names)
    assert figures.colour_arm("image_net") != figures.colour_arm("genes_net") != figures.colour_arm("cross_attention")
    assert figures.colour_arm("image_permuted") == figures.colour_arm("genes_permuted")


def test_arms_stand_beside_chance_and_the_published_number() -> None:
    performance = make_performance()
    ax = figures.plot_arms(performance, ax=new_axes(), quantity="f1", declared="cross_attention", published=0.9379)
    assert len(find(ax, "estimate")) == len(find(ax, "interval")) == 4
    chance = find(ax, "chance")[0].get_xdata()[0]
    assert chance == pytest.approx(2 * (1 / 3) / (4 / 3))
    assert find(ax, "published")[0].get_xdata()[0] == 0.9379
    bold = [tick.get_text() for tick in ax.get_yticklabels() if tick.get_fontweight() == "bold"]
    assert bold == ["Cross-attention, both"]


def test_an_exact_zero_is_written_and_not_drawn_as_a_bar() -> None:
    summary = pd.DataFrame(
        {
            "kind": ["cross_attention", "concat"],
            "largest_change": [0.0, 0.3],
            "image_gradient": [0.0, 2.0],
            "gene_gradient": [1.0, 1.5],
        }
    )
    ax = figures.plot_gradients(summary, ax=new_axes())
    assert len(find(ax, "zero")) == 1
    assert "exactly 0" in [text.get_text() for text in ax.texts]
    outputs = pd.DataFrame({"kind": "cross_attention", "logit": [0.1, 0.2], "logit_exchanged": [0.1, 0.2]})
    ax = figures.plot_exchange(outputs, summary, ax=new_axes(), kind="cross_attention")
    assert ax.get_title(loc="left").endswith("change exactly 0")
    offsets = find(ax, "cases")[0].get_offsets()
    assert (offsets[:, 0] == offsets[:, 1]).all()


def test_folds_show_cases_positives_and_the_step() -> None:
    counts = pd.DataFrame(
        {
            "split": ["development", "external"],
            "repeat": 0,
            "fold": [0, -1],
            "n": [17, 40],
            "n_positive": [6, 0],
            "step": [1 / 6, np.nan],
        }
    )
    ax = figures.plot_class_counts(counts, ax=new_axes(), names=("Luminal", "Basal/HER2"))
    assert [text.get_text().strip() for text in ax.texts] == ["6 of 17; one = 0.17", "0 of 40"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["fold 1", "external"]
    assert sum(patch.get_width() for patch in ax.patches) == 57


def test_differences_are_filled_where_the_interval_excludes_zero() -> None:
    table = pd.DataFrame(
        {
            "quantity": "roc_auc",
            "other": ["image_linear", "genes_linear"],
            "difference": [0.2, 0.01],
            "ci_low": [0.1, -0.01],
            "ci_high": [0.3, 0.03],
        }
    )
    ax = figures.plot_differences(table, ax=new_axes(), quantity="roc_auc")
    clear, open_ = find(ax, "estimate")
    assert clear.get_markerfacecolor() != "white"
    assert open_.get_markerfacecolor() == "white"


def test_curves_reliability_and_gain_draw_every_case() -> None:
    rng = np.random.default_rng(2)
    y = (np.arange(50) % 2).astype(float)
    p = np.clip(0.5 + 0.3 * (2 * y - 1) + 0.2 * rng.normal(size=50), 0.01, 0.99)
    _, axes = new_figure(columns=2)
    figures.plot_curves({"late_fusion": compute_curves(y, p)}, axes=axes, chance=0.5)
    assert [ax.get_xlabel() for ax in axes] == ["false positive rate", "recall"]
    ax = figures.plot_reliability(compute_reliability(y, p), "words", ax=new_axes())
    assert len(find(ax, "bins")[0].get_xdata()) == 10
    gain = pd.DataFrame({"y_true": y, "without": 0.5, "with_images": p})
    ax = figures.plot_gain(gain, ax=new_axes(), names=("a", "b"))
    assert sum(len(find(ax, f"class{k}")[0].get_offsets()) for k in (0, 1)) == 50
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    right = np.mean(p[y == 1] > 0.5)
    assert labels[1].startswith(f"b: {right:.0%} moved right")


def test_attention_is_drawn_relative_to_looking_everywhere_alike() -> None:
    attention = np.array([[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.125, 0.125]])
    ax = figures.plot_attention(attention, ["LUMINAL_ER", "HER2"], ax=new_axes())
    drawn = ax.images[0].get_array()
    assert drawn[0].tolist() == [0, 0, 0, 0]
    assert drawn[1].tolist() == [1, 0, -1, -1]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["luminal er", "her2"]


def test_panels_tiles_counts_and_targets_name_what_they_show() -> None:
    panels = pd.DataFrame(
        {
            "panel": ["all groups", "5 random", "5 random"] * 2,
            "draw": [0, 0, 1] * 2,
            "arm": ["genes_linear"] * 3 + ["late_fusion"] * 3,
            "value": [0.9, 0.5, 0.6, 0.95, 0.7, 0.8],
        }
    )
    ax = figures.plot_panels(panels, ax=new_axes(), image=0.7)
    means = find(ax, "late_fusion")[0].get_ydata()
    assert means.tolist() == pytest.approx([0.95, 0.75])
    counts = pd.DataFrame(
        {"n_tiles": ["50", "all"], "arm": "image_linear", "value": [0.7, 0.8], "ci_low": 0.6, "ci_high": 0.9}
    )
    ax = figures.plot_tile_counts(counts, ax=new_axes())
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["50", "all"]
    targets = pd.DataFrame(
        {
            "target": "er",
            "arm": ["image_linear", "label_alone"],
            "label": ["", "subtype alone"],
            "value": [0.8, 0.9],
            "ci_low": 0.7,
            "ci_high": 0.95,
            "n": 50,
            "n_positive": 20,
        }
    )
    ax = figures.plot_targets(targets, ax=new_axes())
    assert ax.get_yticklabels()[0].get_text() == "ER (IHC)\n20 of 50"
    assert any("subtype alone" in text.get_text() for text in ax.texts)


def test_tiles_stand_in_one_row_per_group() -> None:
    _, axes = new_figure(rows=2, columns=3)
    tile = np.zeros((4, 4, 3), np.uint8)
    figures.plot_tiles_by_group({"HER2": [tile] * 3, "IMMUNE": [tile] * 3}, axes=axes)
    assert [ax.get_ylabel() for ax in axes] == ["her2", "", "", "immune", "", ""]
    assert all(len(ax.images) == 1 for ax in axes)
