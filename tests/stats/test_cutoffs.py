"""Searching for the best cut-off: the scan is the log-rank test, and its best p-value is not a p-value."""

import numpy as np
import pytest

from helpers.core.errors import StatsError
from helpers.stats.cutoffs import compute_excess, correct_best_cutoff, scan_cutoffs
from helpers.stats.survival import compare_logrank

QUANTILES = np.arange(0.1, 0.91, 0.05)


def draw(n: int, *, seed: int, log_hr: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    time, censoring = rng.exponential(60 * np.exp(-log_hr * score)), rng.uniform(10, 150, n)
    return np.minimum(time, censoring), time <= censoring, score


def test_excess_of_eight_cases_worked_by_hand() -> None:
    time, event = [1, 2, 2, 3, 4, 5, 6, 7], [True, True, False, False, True, False, False, True]
    hazard = np.cumsum([1 / 8, 1 / 7, 0, 1 / 4, 0, 0, 1 / 1])
    expected = hazard[[0, 1, 1, 2, 3, 4, 5, 6]]
    assert compute_excess(time, event) == pytest.approx(np.array(event) - expected)


def test_observed_and_expected_events_balance() -> None:
    time, event, _ = draw(200, seed=1)
    assert compute_excess(time, event).sum() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("log_hr", [0.0, 0.2])
def test_each_cutoff_of_the_scan_agrees_with_the_logrank_test(log_hr: float) -> None:
    time, event, score = draw(400, seed=2, log_hr=log_hr)
    for row in scan_cutoffs(time, event, score, quantiles=[0.3, 0.5, 0.7]).itertuples():
        table = compare_logrank(time, event, score > row.cutoff)
        assert row.n_high == (score > row.cutoff).sum()
        assert row.statistic == pytest.approx(table["statistic"].iloc[0], rel=0.2, abs=0.05)


def test_one_cutoff_fixed_beforehand_alarms_in_five_percent() -> None:
    cohorts = (draw(120, seed=seed) for seed in range(600))
    p = np.array([scan_cutoffs(*cohort, quantiles=[0.5])["p"].item() for cohort in cohorts])
    assert 0.03 < (p < 0.05).mean() < 0.07


def test_the_best_of_seventeen_cutoffs_alarms_far_more_often_and_the_corrected_p_does_not() -> None:
    rng = np.random.default_rng(3)
    rows = [
        correct_best_cutoff(*draw(120, seed=seed), quantiles=QUANTILES, n_permutations=99, rng=rng).iloc[0]
        for seed in range(300)
    ]
    assert np.mean([row["best_p"] < 0.05 for row in rows]) > 0.2
    assert np.mean([row["false_alarms"] for row in rows]) > 0.2
    assert 0.02 < np.mean([row["corrected_p"] <= 0.05 for row in rows]) < 0.085


def test_a_real_effect_survives_the_correction() -> None:
    found = correct_best_cutoff(
        *draw(400, seed=4, log_hr=0.7), quantiles=QUANTILES, n_permutations=199, rng=np.random.default_rng(5)
    )
    assert found["corrected_p"].item() == pytest.approx(1 / 200)


def test_a_cutoff_beyond_all_scores_is_an_error() -> None:
    time, event, score = draw(20, seed=6)
    with pytest.raises(StatsError, match="a cut-off leaves nobody on one side"):
        scan_cutoffs(time, event, score, quantiles=[1.0])
