"""Measures of a classifier: scikit-learn as oracle, also of every resample, and hand-worked tables."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from helpers.core.errors import StatsError
from helpers.stats.classification import (
    DECISIONS,
    QUANTITIES,
    check_classes,
    choose_threshold,
    compare_classifiers,
    compute_arm_performance,
    compute_chance,
    compute_classification,
    compute_curves,
    compute_reliability,
    count_classes,
    measure_resamples,
)
from helpers.stats.resampling import draw_bootstrap_counts


def draw(n: int = 90, *, seed: int = 3, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.35).astype(float)
    p = 1 / (1 + np.exp(-(2 * y - 1 + 1.2 * rng.normal(size=n))))
    return y, np.round(p, 1 if ties else 9)


@pytest.mark.parametrize("ties", [True, False])
def test_every_resample_equals_scikit_learn_with_weights(ties: bool) -> None:
    y, p = draw(ties=ties)
    called = (p >= 0.5).astype(float)
    counts = draw_bootstrap_counts(len(y), n_boot=12, rng=np.random.default_rng(1))
    found = measure_resamples(y, p, called, counts)
    for b, w in enumerate(counts):
        expected = {
            "roc_auc": metrics.roc_auc_score(y, p, sample_weight=w),
            "pr_auc": metrics.average_precision_score(y, p, sample_weight=w),
            "accuracy": metrics.accuracy_score(y, called, sample_weight=w),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, called, sample_weight=w),
            "f1": metrics.f1_score(y, called, sample_weight=w),
            "mcc": metrics.matthews_corrcoef(y, called, sample_weight=w),
            "brier": metrics.brier_score_loss(y, p, sample_weight=w),
        }
        for name, value in expected.items():
            assert found[name][b] == pytest.approx(value), name


def test_the_calibration_line_is_that_of_an_unpenalised_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    y, p = draw(ties=False)
    logit = np.log(p / (1 - p))
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], y)
    table = compute_classification(y, p, n_boot=0, rng=np.random.default_rng(0)).set_index("quantity")["value"]
    assert table["calibration_slope"] == pytest.approx(fit.coef_[0, 0], abs=1e-4)
    assert table["calibration_intercept"] == pytest.approx(fit.intercept_[0], abs=1e-4)


def test_probabilities_that_mean_what_they_say_have_slope_one_and_a_small_calibration_error() -> None:
    rng = np.random.default_rng(5)
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(float)
    table = compute_classification(y, p, n_boot=0, rng=rng).set_index("quantity")["value"]
    assert table["calibration_slope"] == pytest.approx(1, abs=0.05)
    assert table["calibration_intercept"] == pytest.approx(0, abs=0.05)
    assert table["ece"] < 0.02
    assert compute_classification(y, p**3, n_boot=0, rng=rng).set_index("quantity")["value"]["ece"] > 0.15


def test_a_table_worked_by_hand() -> None:
    y = np.array([1, 1, 1, 0, 0, 0, 0, 0.0])
    p = np.array([0.9, 0.8, 0.3, 0.7, 0.2, 0.1, 0.1, 0.1])
    table = compute_classification(y, p, n_boot=200, rng=np.random.default_rng(0)).set_index("quantity")
    assert table.loc["accuracy", "value"] == pytest.approx(6 / 8)
    assert table.loc["f1", "value"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert table.loc["balanced_accuracy", "value"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert table.loc["roc_auc", "value"] == pytest.approx(14 / 15)
    assert table.loc["pr_auc", "value"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert table.loc["f1", "chance"] == pytest.approx(2 * 0.375 / 1.375)
    assert (table["n"] == 8).all()
    assert (table["n_positive"] == 3).all()
    inside = table.loc[list(DECISIONS)]
    assert (inside["ci_low"] <= inside["value"]).all()
    assert (inside["value"] <= inside["ci_high"]).all()


def test_chance_is_that_of_the_published_cohort() -> None:
    y = np.r_[np.ones(30), np.zeros(63)]
    chance = compute_chance(y)
    assert chance["pr_auc"] == pytest.approx(0.323, abs=5e-4)
    assert chance["f1"] == pytest.approx(0.488, abs=5e-4)
    assert chance["accuracy"] == pytest.approx(63 / 93)
    everybody = compute_classification(y, np.full(93, 30 / 93), threshold=0.0, n_boot=0, rng=np.random.default_rng(0))
    found = everybody.set_index("quantity")["value"]
    for name in ("pr_auc", "f1", "roc_auc", "brier", "log_loss", "ece"):
        assert found[name] == pytest.approx(chance[name]), name


def test_one_class_alone_gives_no_rank_but_a_brier_score() -> None:
    table = compute_classification(np.zeros(6), np.full(6, 0.2), n_boot=50, rng=np.random.default_rng(0))
    values = table.set_index("quantity")["value"]
    assert values[["roc_auc", "pr_auc", "f1", "mcc"]].isna().all()
    assert values["brier"] == pytest.approx(0.04)
    assert values["accuracy"] == 1


def make_predictions(*, repeats: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(8)
    y = (np.arange(80) % 3 == 0).astype(float)
    tables = []
    for arm, strength in (("strong", 1.5), ("weak", 0.4)):
        for repeat in range(repeats):
            score = strength * (2 * y - 1) + rng.normal(size=80)
            tables.append(pd.DataFrame({
                "case_id": [f"{i:02d}" for i in range(80)], "split": "development", "repeat": repeat,
                "fold": (np.arange(80) + repeat) % 4, "target": "t", "arm": arm, "y_true": y,
                "y_pred": 1 / (1 + np.exp(-score)), "threshold": 0.5,
            }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def test_the_better_arm_is_better_by_both_comparisons_and_nothing_beats_itself() -> None:
    predictions = make_predictions()
    table = compare_classifiers(
        predictions, [("strong", "weak"), ("weak", "weak")], n_boot=300, rng=np.random.default_rng(0)
    )
    first = table.query("arm == 'strong' and quantity == 'roc_auc'").iloc[0]
    assert first["ci_low"] > 0
    assert first["fold_low"] > 0
    assert first["difference"] == pytest.approx(first["value"] - first["other_value"])
    same = table.query("arm == 'weak'")
    assert (same[["difference", "ci_low", "ci_high", "fold_difference"]] == 0).all(axis=None)


def test_arms_judged_on_other_cases_are_not_compared() -> None:
    predictions = make_predictions()
    fewer = predictions[~((predictions["arm"] == "weak") & (predictions["case_id"] == "05"))]
    with pytest.raises(
        StatsError, match=r"arms 'strong' and 'weak' were judged on other cases .* case '05'.*\(2 such\)"
    ):
        compare_classifiers(fewer, [("strong", "weak")], n_boot=50, rng=np.random.default_rng(0))


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.5744, 0.7, 0.9])
def test_one_probability_for_everybody_has_no_calibration_slope(probability: float) -> None:
    y = (np.arange(50) % 3 == 0).astype(float)
    table = compute_classification(y, np.full(50, probability), n_boot=50, rng=np.random.default_rng(1))
    table = table.set_index("quantity")
    assert table.loc[["calibration_slope", "calibration_intercept"], ["value", "ci_low"]].isna().all(axis=None)
    assert table.loc["brier", "value"] == pytest.approx(np.mean((y - probability) ** 2))


def test_the_performance_of_an_arm_is_the_mean_over_repeats() -> None:
    predictions = make_predictions()
    site = pd.Series([f"S{i % 6}" for i in range(80)], index=[f"{i:02d}" for i in range(80)])
    table = compute_arm_performance(predictions, n_boot=200, rng=np.random.default_rng(0), site=site)
    row = table.query("arm == 'strong' and quantity == 'roc_auc'").iloc[0]
    by_repeat = [
        metrics.roc_auc_score(p["y_true"], p["y_pred"])
        for _, p in predictions.query("arm == 'strong'").groupby("repeat")
    ]
    assert row["value"] == pytest.approx(np.mean(by_repeat))
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["site_low"] < row["value"] < row["site_high"]
    assert (row["n"], row["n_positive"], row["n_repeats"]) == (80, 27, 2)
    assert set(table["quantity"]) == set(QUANTITIES)


def test_a_repeat_that_lacks_a_case_is_an_error() -> None:
    with pytest.raises(StatsError, match=r"repeat \d holds 79 predictions of 80 cases"):
        compute_arm_performance(
            make_predictions().query("arm == 'weak'").drop(index=[239]), rng=np.random.default_rng(0)
        )


def test_positives_are_counted_fold_by_fold() -> None:
    counts = count_classes(make_predictions(repeats=1).query("arm == 'weak'"))
    assert counts["n"].tolist() == [20, 20, 20, 20]
    assert counts["n_positive"].sum() == 27
    assert counts["step"].to_numpy() == pytest.approx(1 / counts["n_positive"].to_numpy())


def test_the_chosen_threshold_has_the_highest_f1_of_all() -> None:
    y, p = draw(ties=True)
    best = metrics.f1_score(y, p >= choose_threshold(y, p))
    assert best == pytest.approx(max(metrics.f1_score(y, p >= t) for t in np.unique(p)))
    assert choose_threshold(np.zeros(4), np.full(4, 0.3)) == 0.5


def test_reliability_counts_every_case_and_curves_begin_and_end_where_they_should() -> None:
    y, p = draw()
    bins = compute_reliability(y, p)
    assert bins["n"].sum() == len(y)
    assert ((bins["low"] <= bins["observed"] + 1e-9) & (bins["observed"] <= bins["high"] + 1e-9)).all()
    roc = compute_curves(y, p).query("curve == 'roc'")
    assert roc.iloc[0][["x", "y"]].tolist() == [0, 0]
    assert roc.iloc[-1][["x", "y"]].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("y", "p", "text"),
    [
        ([0, 2.0], [0.1, 0.2], r"case 1 has class np.float64\(2.0\) \(1 such\), expected 0 or 1"),
        ([0, 1.0], [0.1, 1.2], r"case 1 has probability np.float64\(1.2\) \(1 such\), expected 0 to 1"),
        ([0, 1.0], [0.1], r"\(2,\) classes and \(1,\) probabilities"),
    ],
)
def test_what_cannot_be_judged_is_named(y: list, p: list, text: str) -> None:
    with pytest.raises(StatsError, match=text):
        check_classes(np.array(y), np.array(p))
