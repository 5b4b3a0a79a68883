"""Power: the textbook's number of events, attenuation against simulation, and cohorts drawn like the one at hand."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats.cox import fit_cox
from helpers.stats.kaplan_meier import fit_km
from helpers.stats.power import (
    attenuate_ratio,
    compute_power,
    compute_wilson_interval,
    count_events_needed,
    describe_follow_up,
    find_baseline,
    simulate_outcomes,
    simulate_power,
    tabulate_needs,
    tabulate_power,
)


@pytest.fixture(scope="module")
def cohort() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    time, censor = rng.weibull(0.9, 400) * 220, rng.uniform(5, 180, 400)
    return np.round(np.minimum(time, censor), 1), time <= censor


def test_a_ratio_of_1_65_between_halves_needs_125_events_for_80_percent() -> None:
    assert count_events_needed(1.65) == pytest.approx(125.19, abs=0.01)
    assert count_events_needed(1 / 1.65) == pytest.approx(count_events_needed(1.65)), "a protective ratio needs as many"


def test_a_continuous_score_needs_a_quarter_of_the_events_of_the_same_ratio_between_halves() -> None:
    assert count_events_needed(1.5, scale="per_sd") == pytest.approx(count_events_needed(1.5) / 4)


def test_power_and_events_are_each_other_s_inverse() -> None:
    for ratio, power in ((1.3, 0.8), (2.2, 0.9)):
        assert compute_power(ratio, n_events=count_events_needed(ratio, power=power)) == pytest.approx(power, abs=1e-3)


def test_an_uneven_split_costs_events() -> None:
    assert count_events_needed(1.65, share_high=0.2) == pytest.approx(count_events_needed(1.65) * 0.25 / 0.16)


def test_attenuation_leaves_a_perfect_reading_alone_and_an_unrelated_one_at_one() -> None:
    for scale in ("per_sd", "high_vs_low"):
        assert attenuate_ratio(1.9, correlation=1.0, scale=scale) == pytest.approx(1.9)
        assert attenuate_ratio(1.9, correlation=0.0, scale=scale) == pytest.approx(1.0)
        assert attenuate_ratio(1.9, correlation=-0.5, scale=scale) < 1


@pytest.mark.parametrize("scale", ["per_sd", "high_vs_low"])
def test_attenuation_is_what_a_large_cohort_shows_early_in_follow_up(scale: str) -> None:
    rng = np.random.default_rng(7)
    n, rho, slope = 200_000, 0.6, 0.5
    score = rng.normal(size=n)
    reading = rho * score + np.sqrt(1 - rho**2) * rng.normal(size=n)
    time = rng.exponential(np.exp(-slope * score))
    event = time < 0.03
    observed = np.minimum(time, 0.03)
    from scipy.stats import norm

    itself = np.exp(slope) if scale == "per_sd" else norm.cdf(slope) / norm.cdf(-slope)
    x = reading if scale == "per_sd" else (reading > 0) * 1.0
    seen = fit_cox(observed, event, pd.DataFrame({"x": x})).iloc[0]
    expected = np.log(attenuate_ratio(itself, correlation=rho, scale=scale))
    assert abs(seen["log_hr"] - expected) < 3 * seen["se"]


def test_drawn_cohorts_have_the_event_and_censoring_curves_of_the_one_at_hand(
    cohort: tuple[np.ndarray, np.ndarray],
) -> None:
    follow_up = describe_follow_up(*cohort)
    rng = np.random.default_rng(3)
    time, event = simulate_outcomes(
        follow_up, 0.7 * rng.normal(size=100_000), baseline=find_baseline(follow_up, sd=0.7), rng=rng
    )
    for curve, mine in ((fit_km(time, event), fit_km(*cohort)), (fit_km(time, ~event), fit_km(cohort[0], ~cohort[1]))):
        for month in (12.0, 60.0, 120.0):
            drawn, own = (table.loc[table["time"] <= month, "survival"].iloc[-1] for table in (curve, mine))
            assert drawn == pytest.approx(own, abs=0.01)
    assert event.mean() == pytest.approx(cohort[1].mean(), abs=0.02)


def test_simulated_power_agrees_with_the_formula_and_a_null_is_rejected_at_its_level(
    cohort: tuple[np.ndarray, np.ndarray],
) -> None:
    follow_up = describe_follow_up(*cohort)
    found = simulate_power(follow_up, n_cases=400, hazard_ratio=1.5, n_simulations=300, rng=np.random.default_rng(5))
    assert found["ci_low"] - 0.05 <= found["formula"] <= found["ci_high"] + 0.05
    noise = simulate_power(
        follow_up, n_cases=400, hazard_ratio=1.5, correlation=1e-9, n_simulations=300, rng=np.random.default_rng(6)
    )
    assert noise["power"] == pytest.approx(0.05, abs=0.04)


def test_a_noisier_reading_needs_more_events_and_the_table_says_how_many() -> None:
    table = tabulate_needs(2.2, correlations=[1.0, 0.7, 0.4], event_share=0.25)
    assert table["n_events"].is_monotonic_increasing
    assert table["n_events"].iloc[0] == np.ceil(count_events_needed(2.2))
    assert table["n_cases"].iloc[0] == np.ceil(count_events_needed(2.2) / 0.25)
    assert table["relative"].iloc[0] == pytest.approx(1.0)


def test_wilson_s_interval_of_8_in_10() -> None:
    assert compute_wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_a_ratio_of_one_and_an_impossible_correlation_are_refused() -> None:
    with pytest.raises(StatsError, match="A ratio of 1 can never be found"):
        count_events_needed(1.0)
    with pytest.raises(StatsError, match=r"correlation 1\.2 and hazard ratio 1\.5"):
        attenuate_ratio(1.5, correlation=1.2)


def test_a_reading_without_correlation_finds_what_alpha_allows_and_needs_infinitely_many_events() -> None:
    assert compute_power(1.0, n_events=100) == pytest.approx(0.05)
    needs = tabulate_needs(1.65, correlations=[1.0, 0.0], event_share=0.3)
    assert needs["n_events"].tolist() == [126, np.inf]
    rng = np.random.default_rng(1)
    time = rng.exponential(60, 100)
    table = tabulate_power(
        describe_follow_up(np.minimum(time, 80), time < 80), n_cases=60, hazard_ratios=[1.65], correlation=0.0,
        n_simulations=100,
    )  # fmt: skip
    assert table["image_ratio"].item() == 1.0
    assert table["power"].item() < 0.15
