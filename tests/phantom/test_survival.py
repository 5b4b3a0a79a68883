"""Planted outcomes: the hazards that were stated, and endpoints that fit together."""

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from helpers.core.specs import PhantomSpec
from helpers.phantom.population import draw_cases, open_streams
from helpers.phantom.survival import (
    PHANTOM_ENDPOINTS,
    compute_endpoints,
    compute_linear_predictor,
    compute_recurrence_free,
    draw_times,
    tabulate_planted_curves,
)

N = 20_000


def draw(spec: PhantomSpec, *, n: int = N) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    streams = open_streams(11, "test")
    cases = draw_cases(spec, n, streams)
    return cases, draw_times(spec, cases, streams)


def test_recurrence_follows_the_stated_weibull() -> None:
    spec = PhantomSpec(log_hr_proliferation=0, log_hr_nodes=0, log_hr_size=0, log_hr_age=0)
    _, times = draw(spec)
    for months in (24.0, 60.0, 120.0, 240.0):
        expected = compute_recurrence_free(spec, np.array([months]))[0]
        assert (times["recurrence"] > months).mean() == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(N))
    assert compute_recurrence_free(spec, np.array([120.0]))[0] == pytest.approx(0.70)


def test_cox_on_uncensored_recurrence_finds_the_planted_log_hazard_ratios() -> None:
    spec = PhantomSpec()
    cases, times = draw(spec)
    table = pd.DataFrame({name: cases[name] for name in ("latent", "log_nodes", "log2_size")})
    table["age_decades"] = cases["age_years"] / 10
    table["time"], table["event"] = times["recurrence"], 1
    fit = CoxPHFitter().fit(table, "time", "event").summary
    planted = [spec.log_hr_proliferation, spec.log_hr_nodes, spec.log_hr_size, spec.log_hr_age]
    assert np.all(np.abs(fit["coef"] - planted) < 4 * fit["se(coef)"])


def test_other_deaths_rise_with_age_as_gompertz_says() -> None:
    spec = PhantomSpec()
    cases, times = draw(spec)
    for low, high in ((45, 55), (65, 75)):
        chosen = (cases["age_years"] >= low) & (cases["age_years"] < high)
        age = cases["age_years"][chosen]
        g = spec.other_death_slope
        integral = spec.other_death_60 * np.exp(g * (age - 60)) * np.expm1(g * 10) / g
        expected = np.mean(1 - np.exp(-integral))
        assert (times["other_death"][chosen] < 120).mean() == pytest.approx(
            expected, abs=4 * np.sqrt(0.25 / chosen.sum())
        )


def test_death_after_recurrence_has_the_planted_median() -> None:
    _, times = draw(PhantomSpec())
    assert np.median(times["disease_death"] - times["recurrence"]) == pytest.approx(18.5, abs=0.8)


def test_endpoints_fit_together() -> None:
    _, times = draw(PhantomSpec())
    seen = compute_endpoints(times)
    assert np.all(seen["rfs_time_months"] <= seen["os_time_months"]), "a recurrence after death"
    assert np.all(seen["os_event"] <= seen["rfs_event"]), "a death that is no recurrence-or-death"
    assert np.all(seen["dss_event"] <= seen["os_event"]), "a death of the disease that is no death"
    assert np.all(seen["pfi_event"] <= seen["rfs_event"]), "a recurrence that is no recurrence-or-death"
    np.testing.assert_array_equal(seen["dss_time_months"], seen["os_time_months"])


def test_no_time_is_zero_negative_or_beyond_follow_up() -> None:
    spec = PhantomSpec(recurrence_10y=0.999)
    _, times = draw(spec)
    seen = compute_endpoints(times)
    for endpoint in PHANTOM_ENDPOINTS:
        assert seen[f"{endpoint}_time_months"].min() > 0
        assert seen[f"{endpoint}_time_months"].max() <= spec.followup_max_months


def test_a_third_of_the_default_cohort_has_an_event_and_the_rest_is_followed_for_years() -> None:
    _, times = draw(PhantomSpec())
    seen = compute_endpoints(times)
    assert 0.30 < seen["rfs_event"].mean() < 0.45
    censored = seen["rfs_time_months"][~seen["rfs_event"]]
    assert np.median(censored) > 60


def test_without_dropout_and_other_deaths_only_accrual_censors() -> None:
    spec = PhantomSpec(dropout_per_year=0, other_death_60=0)
    _, times = draw(spec, n=500)
    assert times["censoring"].min() >= spec.followup_min_months
    assert np.isinf(times["other_death"]).all()


def test_linear_predictor_of_the_reference_case_is_zero() -> None:
    case = {
        "latent": np.zeros(1),
        "log_nodes": np.array([0.63]),
        "log2_size": np.array([0.2]),
        "age_years": np.array([61.0]),
    }
    assert compute_linear_predictor(PhantomSpec(), case)[0] == 0.0


def test_planted_curves_start_at_one_and_pass_the_stated_recurrence() -> None:
    curves = tabulate_planted_curves(PhantomSpec(), latents=(0.0,), n_points=145)
    assert curves["survival"].iloc[0] == 1.0
    assert curves.loc[curves["months"] == 120, "survival"].item() == pytest.approx(0.70)
