"""Sites pooled by random effects: the BCG trials as metafor prints them, and an average worked by hand."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats.meta_analysis import pool_random_effects, pool_ratios

# Colditz et al. 1994, 13 trials of the BCG vaccine: cases and sizes of the vaccinated and of the control arm
CASES = np.array(
    [[4, 6, 3, 62, 33, 180, 8, 505, 29, 17, 186, 5, 27], [11, 29, 11, 248, 47, 372, 10, 499, 45, 65, 141, 3, 29]]
)
SIZES = np.array(
    [[123, 306, 231, 13598, 5069, 1541, 2545, 88391, 7499, 1716, 50634, 2498, 16913],
     [139, 303, 220, 12867, 5808, 1451, 629, 88391, 7277, 1665, 27338, 2341, 17854]]
)  # fmt: skip
LOG_RATIO = np.log(CASES[0] / SIZES[0] / (CASES[1] / SIZES[1]))
SE = np.sqrt((1 / CASES - 1 / SIZES).sum(axis=0))


def test_reml_of_the_bcg_trials_equals_metafor() -> None:
    row = pool_random_effects(LOG_RATIO, SE).iloc[0]
    assert row["estimate"] == pytest.approx(-0.7145, abs=5e-5)
    assert row["tau2"] == pytest.approx(0.3132, abs=5e-5)
    assert row["i2"] == pytest.approx(0.9222, abs=5e-5)
    assert (row["q"], row["df"]) == (pytest.approx(152.2330, abs=5e-5), 12)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((-1.1084, -0.3206), abs=5e-5)  # Hartung and Knapp


def test_moments_of_the_bcg_trials_equal_dersimonian_and_laird() -> None:
    row = pool_random_effects(LOG_RATIO, SE, method="dl").iloc[0]
    assert (row["estimate"], row["tau2"]) == pytest.approx((-0.7141, 0.3088), abs=5e-5)


def test_reml_is_the_top_of_its_likelihood() -> None:
    tau2 = pool_random_effects(LOG_RATIO, SE)["tau2"].item()

    def likelihood(value: float) -> float:
        weight = 1 / (SE**2 + value)
        mean = np.average(LOG_RATIO, weights=weight)
        return float(
            -0.5 * (np.log(SE**2 + value).sum() + np.log(weight.sum()) + (weight * (LOG_RATIO - mean) ** 2).sum())
        )

    assert likelihood(tau2) > max(likelihood(tau2 * 0.99), likelihood(tau2 * 1.01))


def test_two_equal_sites_have_no_variance_between_them() -> None:
    row = pool_random_effects([0.5, 0.5], [0.2, 0.4]).iloc[0]
    assert (row["estimate"], row["tau2"], row["i2"]) == (0.5, 0.0, 0.0)
    assert np.isnan(row["prediction_low"]), "two sites predict no third"


def test_intervals_of_the_mean_cover_over_many_draws() -> None:
    rng = np.random.default_rng(12)
    covered = 0
    for _ in range(400):
        se = rng.uniform(0.15, 0.6, 6)
        row = pool_random_effects(0.4 + rng.normal(0, 0.25, 6) + rng.normal(0, se), se).iloc[0]
        covered += row["ci_low"] <= 0.4 <= row["ci_high"]
    assert 0.92 <= covered / 400 <= 0.98


def test_sites_without_an_estimate_are_left_out_and_counted() -> None:
    sites = pd.DataFrame({"log_hr": [0.4, 0.6, np.nan, 0.2], "se": [0.2, 0.3, np.nan, 0.25]})
    row = pool_ratios(sites).iloc[0]
    assert (row["n_sites"], row["n_left_out"]) == (3, 1)
    assert row["hazard_ratio"] == pytest.approx(np.exp(row["log_hr"]))
    assert row["prediction_low"] < row["ci_low"] < row["hazard_ratio"] < row["ci_high"]


def test_one_site_is_no_meta_analysis() -> None:
    with pytest.raises(StatsError, match="1 estimates and 1 standard errors, expected at least 2"):
        pool_random_effects([0.3], [0.1])


def test_two_sites_that_happen_to_agree_are_no_more_certain_than_their_own_errors() -> None:
    row = pool_random_effects([0.50, 0.501], [0.5, 0.5]).iloc[0]
    assert row["se"] == pytest.approx(0.5 / np.sqrt(2))
    assert row["p"] > 0.2, "neither of the two is anything by itself"
    assert row["ci_low"] < 0 < row["ci_high"]
