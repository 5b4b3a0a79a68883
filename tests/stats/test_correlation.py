"""Agreement: four quantities under four names, intervals by resampling whole cases."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

from helpers.core.errors import StatsError
from helpers.stats.correlation import (
    compute_agreement,
    compute_agreement_by,
    compute_bootstrap_spearman,
    compute_calibration,
    compute_foldwise_agreement,
    compute_spearman_columns,
    summarise_folds,
)
from helpers.stats.resampling import draw_bootstrap_counts


def make_pairs(n: int = 80, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    y = rng.normal(size=n)
    predicted = 0.6 * y + rng.normal(size=n)
    return (np.round(y, 1), np.round(predicted, 1)) if ties else (y, predicted)


def look_up(table: pd.DataFrame) -> pd.Series:
    return table.set_index("quantity")["value"]


def test_quantities_equal_their_textbook_formulas() -> None:
    y, predicted = make_pairs()
    value = look_up(compute_agreement(y, predicted, n_boot=0, rng=np.random.default_rng(0)))
    assert value["spearman"] == pytest.approx(spearmanr(y, predicted).statistic, abs=1e-12)
    assert value["pearson"] == pytest.approx(pearsonr(y, predicted).statistic, abs=1e-12)
    assert value["r_squared"] == pytest.approx(pearsonr(y, predicted).statistic ** 2, abs=1e-12)
    assert value["r2_score"] == pytest.approx(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum(), abs=1e-12)


def test_bootstrap_interval_equals_a_slow_loop_over_the_same_resamples() -> None:
    y, predicted = make_pairs(n=40)
    table = compute_agreement(y, predicted, n_boot=60, rng=np.random.default_rng(5)).set_index("quantity")
    counts = draw_bootstrap_counts(40, n_boot=60, rng=np.random.default_rng(5)).astype(int)
    resamples = [np.repeat(np.arange(40), row) for row in counts]
    slow = {
        "spearman": [spearmanr(y[i], predicted[i]).statistic for i in resamples],
        "r2_score": [1 - ((y[i] - predicted[i]) ** 2).sum() / ((y[i] - y[i].mean()) ** 2).sum() for i in resamples],
    }
    for name, values in slow.items():
        assert table.loc[name, ["ci_low", "ci_high"]].to_numpy(float) == pytest.approx(
            np.quantile(values, [0.025, 0.975])
        )


def test_interval_covers_the_population_correlation_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(200):
        x = rng.normal(size=80)
        y = 0.5 * x + np.sqrt(0.75) * rng.normal(size=80)  # Pearson 0.5
        row = compute_agreement(x, y, n_boot=300, rng=rng).set_index("quantity").loc["pearson"]
        covered.append(row["ci_low"] <= 0.5 <= row["ci_high"])
    assert 0.89 <= np.mean(covered) <= 0.99


def test_resampling_whole_sites_widens_the_interval_when_sites_differ() -> None:
    rng = np.random.default_rng(2)
    site = np.repeat(np.arange(12), 20)
    shift = rng.normal(size=12)[site] * 2
    y, predicted = shift + rng.normal(size=240), shift + rng.normal(size=240)
    widths = {}
    for name, clusters in (("case", None), ("cluster", site)):
        row = (
            compute_agreement(y, predicted, n_boot=500, rng=rng, clusters=clusters)
            .set_index("quantity")
            .loc["spearman"]
        )
        assert row["resampled"] == name
        widths[name] = row["ci_high"] - row["ci_low"]
    assert widths["cluster"] > 1.5 * widths["case"]


def test_r_squared_flatters_a_biased_prediction_that_r2_score_condemns() -> None:
    y, _ = make_pairs(ties=False)
    value = look_up(compute_agreement(y, 3 * y + 10, n_boot=0, rng=np.random.default_rng(0)))
    assert value["r_squared"] == pytest.approx(1)
    assert value["r2_score"] < -10


def test_columns_of_spearman_equal_scipy() -> None:
    rng = np.random.default_rng(4)
    a, b = np.round(rng.normal(size=(30, 4)), 1), rng.normal(size=(30, 4))
    expected = [spearmanr(a[:, i], b[:, i]).statistic for i in range(4)]
    assert compute_spearman_columns(a, b) == pytest.approx(expected)


def test_folds_are_weighted_by_their_cases() -> None:
    rng = np.random.default_rng(6)
    y = rng.normal(size=60)
    table = pd.DataFrame({"fold": np.repeat([0, 1], [40, 20]), "y_true": y, "y_pred": np.r_[y[:40], -y[40:]]})
    folds = compute_agreement_by(table, ["fold"], rng=rng)
    mean = summarise_folds(folds, []).set_index("quantity").loc["spearman"]
    assert mean["value"] == pytest.approx((40 * 1 + 20 * -1) / 60)
    assert (mean["n_folds"], mean["low"], mean["high"]) == (2, pytest.approx(-1), pytest.approx(1))


def test_a_fold_too_small_to_judge_is_listed_without_a_value() -> None:
    table = pd.DataFrame({"fold": [0] * 12 + [1] * 4, "y_true": np.arange(16.0), "y_pred": np.arange(16.0) ** 2})
    folds = compute_agreement_by(table, ["fold"], rng=np.random.default_rng(0), min_cases=10).set_index(
        ["fold", "quantity"]
    )
    assert folds.loc[(1, "spearman"), "n"] == 4
    assert np.isnan(folds.loc[(1, "spearman"), "value"])


@pytest.mark.parametrize(
    ("y_true", "y_pred", "text"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0], r"y_true has shape \(3,\), y_pred \(2,\)"),
        ([1.0, 2.0], [1.0, 2.0], "agreement of 2 cases is undefined; at least 3"),
        ([1.0, np.nan, 3.0], [1.0, 2.0, 3.0], "y_true holds 1 missing or infinite values"),
        ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], "y_pred is 5 in all 3 cases"),
    ],
)
def test_what_has_no_agreement_says_why(y_true: list[float], y_pred: list[float], text: str) -> None:
    with pytest.raises(StatsError, match=text):
        compute_agreement(np.array(y_true), np.array(y_pred), rng=np.random.default_rng(0))


def test_foldwise_agreement_is_the_mean_of_folds_by_their_cases_and_leaves_small_ones_out() -> None:
    y, predicted = make_pairs()
    folds = np.repeat([0, 1, 2], [30, 45, 5])
    table = compute_foldwise_agreement(y, predicted, folds, n_boot=100, rng=np.random.default_rng(1), min_cases=10)
    inside = [spearmanr(y[folds == fold], predicted[folds == fold]).statistic for fold in (0, 1)]
    row = table.set_index("quantity").loc["spearman"]
    assert row["value"] == pytest.approx(np.average(inside, weights=[30, 45]))
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["n_folds"] == 2


def test_foldwise_interval_over_sites_is_wider_where_sites_differ() -> None:
    rng = np.random.default_rng(4)
    site = np.repeat(np.arange(12), 10)
    strength = rng.choice([-1.0, 1.0], 12)[site]
    y = rng.normal(size=120)
    predicted = strength * y + 0.5 * rng.normal(size=120)
    widths = {}
    for name, clusters in (("case", None), ("site", site)):
        table = compute_foldwise_agreement(
            y, predicted, site % 3, n_boot=300, rng=np.random.default_rng(1), clusters=clusters
        )
        row = table.set_index("quantity").loc["spearman"]
        widths[name] = row["ci_high"] - row["ci_low"]
    assert widths["site"] > 1.5 * widths["case"]


def test_calibration_finds_slope_and_bias_that_were_put_in() -> None:
    rng = np.random.default_rng(2)
    predicted = rng.normal(5, 1, 4000)
    y = 1 + 0.5 * predicted + 0.3 * rng.normal(size=4000)
    summary, bins = compute_calibration(y, predicted, n_boot=200, rng=rng, n_bins=8)
    rows = summary.set_index("quantity")
    assert rows.loc["slope", "value"] == pytest.approx(0.5, abs=0.02)
    assert rows.loc["slope", "ci_low"] < 0.5 < rows.loc["slope", "ci_high"]
    assert rows.loc["mean_error", "value"] == pytest.approx(1.5, abs=0.05)
    assert bins["n"].tolist() == [500] * 8
    assert bins["measured"].to_numpy() == pytest.approx(1 + 0.5 * bins["predicted"].to_numpy(), abs=0.06)
    assert bins["predicted"].is_monotonic_increasing


def test_bootstrap_of_spearman_equals_that_of_agreement() -> None:
    y, predicted = make_pairs()
    value, samples = compute_bootstrap_spearman(y, predicted, n_boot=200, rng=np.random.default_rng(5))
    table = compute_agreement(y, predicted, n_boot=200, rng=np.random.default_rng(5)).set_index("quantity")
    assert value == pytest.approx(table.loc["spearman", "value"])
    assert np.quantile(samples, [0.025, 0.975]) == pytest.approx(
        table.loc["spearman", ["ci_low", "ci_high"]].to_numpy(float)
    )
