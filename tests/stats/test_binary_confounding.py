"""The confounding panel for two classes: scikit-learn as oracle, a label that explains all, and one that explains nothing."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from helpers.models.linear import RidgeFolds
from helpers.stats.binary_confounding import compute_auc, compute_auc_columns, compute_auc_within, compute_binary_panel
from helpers.stats.classification_rows import (
    build_difference_rows,
    build_exact_rows,
    build_target_rows,
    judge_difference,
)


def test_the_auc_of_columns_is_scikit_learn_s_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((50, 4)) < 0.4).astype(float)
    score = np.round(rng.normal(size=(50, 4)) + y, 1)
    expected = [roc_auc_score(y[:, k], score[:, k]) for k in range(4)]
    assert compute_auc_columns(y, score) == pytest.approx(expected)
    value, low, high = compute_auc(y[:, 0], score[:, 0], n_boot=200, rng=rng)
    assert value == pytest.approx(expected[0])
    assert low < value < high
    assert np.isnan(compute_auc_columns(np.ones((5, 1)), score[:5, :1])).all()


def test_inside_strata_the_mean_is_weighted_by_cases_and_one_class_does_not_count() -> None:
    y = np.array([1, 0, 1, 0, 1, 1, 1, 0.0])[:, None]
    score = np.array([2, 1, 1, 2, 5, 5, 5, 4.0])[:, None]
    codes = np.array(["a", "a", "b", "b", "c", "c", "b", "a"])
    expected = (3 * 0.5 + 3 * 0.5) / 6
    assert compute_auc_within(y, score, codes, min_cases=2)[0] == pytest.approx(expected)
    assert np.isnan(compute_auc_within(y, score, codes, min_cases=9)[0])


def test_a_score_that_only_knows_the_label_is_nothing_inside_its_strata() -> None:
    rng = np.random.default_rng(3)
    n = 240
    label = rng.integers(0, 2, n)
    y = (rng.random(n) < np.where(label, 0.8, 0.2)).astype(float)
    x = pd.DataFrame(
        {"label": label + 0.1 * rng.normal(size=n), "noise": rng.normal(size=n)}, index=[f"{i:03d}" for i in range(n)]
    )
    splits = pd.DataFrame([
        {"repeat": 0, "fold": k, "case_id": case, "role": "test" if i % 4 == k else "train"} for k in range(4) for i, case in enumerate(x.index)
    ])  # fmt: skip
    folds = RidgeFolds(x, splits)
    at = x.index.get_indexer(folds.cases)
    y, label = y[at], label[at]
    predictions = pd.DataFrame(
        {"case_id": folds.cases, "fold": at % 4, "y_true": y, "y_pred": folds.refit(y[:, None])[:, 0]}
    )
    labels = pd.DataFrame(
        {"er": np.where(label, "positive", "negative"), "other": rng.choice(["u", "v"], n)}, index=folds.cases
    )
    panel = compute_binary_panel(
        predictions, labels, refit=folds.refit, n_boot=100, n_permutations=39, min_cases=20, rng=rng
    )
    rows = panel.drop_duplicates(["kind", "label"]).set_index(["kind", "label"]).sort_index()["value"]
    assert rows["image", "all cases"] > 0.7
    assert rows["label_only", "er"] > 0.7
    assert 0.4 < rows["label_only", "other"] < 0.6
    within = panel[panel["kind"] == "within_label"].set_index("label")
    assert within.loc["er", "p"] > 0.05
    assert within.loc["other", "p"] < 0.05


def test_a_planted_label_asks_for_a_gain_or_for_no_loss() -> None:
    found = {"difference": 0.05, "ci_low": 0.01, "ci_high": 0.09, "other": "image_linear"}
    assert judge_difference(found, "both")["holds"] is True
    assert judge_difference(found | {"ci_low": -0.01}, "both")["holds"] is None, "a small cohort leaves it open"
    assert judge_difference(found | {"ci_low": -0.09, "ci_high": -0.01}, "both")["holds"] is False
    assert judge_difference(found | {"other": "genes_linear", "difference": -0.005}, "genes")["holds"] is True
    assert judge_difference(found | {"other": "genes_linear", "difference": -0.02}, "genes")["holds"] is None
    assert (
        judge_difference(found | {"other": "genes_linear", "difference": -0.04, "ci_high": -0.02}, "genes")["holds"]
        is False
    )
    assert judge_difference(found, "") == {}
    row = found | {"split": "development", "arm": "cross_attention", "quantity": "roc_auc", "n": 9}
    ids = [r["id"] for t in ("", "both") for r in build_difference_rows(pd.DataFrame([row]), target=t)]
    assert ids == [
        "06/difference/cross_attention_vs_image_linear/oof",
        "06/difference_planted_both/cross_attention_vs_image_linear/oof",
    ]


def test_exact_zeros_hold_and_anything_else_does_not() -> None:
    table = pd.DataFrame(
        {"kind": ["cross_attention", "concat"], "largest_change": [0.0, 0.2], "image_gradient": [1e-12, 0.3]}
    )
    rows = {row["id"]: row["holds"] for row in build_exact_rows(table)}
    assert rows["06/image_effect/as_published_cross_attention/all"] is True
    assert rows["06/image_gradient/as_published_cross_attention/all"] is False
    assert rows["06/image_effect/as_published_concat/all"] is True


def test_targets_stand_beside_the_best_label() -> None:
    common = {"target": "er", "ci_low": 0.6, "ci_high": 0.8, "n": 50, "n_positive": 20}
    table = pd.DataFrame(
        [
            common | {"arm": "image_linear", "value": 0.7, "label": ""},
            common | {"arm": "label_alone", "value": 0.9, "label": "subtype"},
        ]
    )
    row = build_target_rows(table)[0]
    assert row["reference"] == 0.9
    assert row["source"] == "the label alone: subtype"
