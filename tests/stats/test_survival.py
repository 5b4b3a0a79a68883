"""Survival statistics: eight cases worked by hand, slow float64 oracles, and the constants of R's survival."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import OutcomeError, StatsError
from helpers.stats import survival
from helpers.stats.partial_likelihood import compute_event_moments
from helpers.stats.survival import Cutoff

EIGHT = pd.DataFrame(
    {
        "time": [0.0, 2.0, 3.0, 3.0, 5.0, 6.0, 6.0, 8.0],
        "event": [False, True, True, False, True, False, True, False],
        "group": ["low", "high", "high", "low", "high", "low", "low", "low"],
    }
)


def draw_cohort(n: int, *, seed: int, log_hr: float = 0.7, ties: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=n), rng.binomial(1, 0.4, size=n).astype(float)
    time = rng.exponential(60 * np.exp(-log_hr * x - 0.4 * z))
    censoring = rng.uniform(10, 150, size=n)
    seen = np.minimum(time, censoring)
    return pd.DataFrame(
        {
            "time": np.ceil(seen) if ties else seen,
            "event": time <= censoring,
            "x": x,
            "z": z,
            "site": rng.integers(0, 3, n),
        }
    )


# --- Kaplan–Meier and at-risk counts ---------------------------------------------------------------------------------


def test_km_of_eight_cases_worked_by_hand() -> None:
    curve = survival.fit_km(EIGHT["time"], EIGHT["event"]).set_index("time")
    assert curve["n_at_risk"].to_dict() == {0: 8, 2: 7, 3: 6, 5: 4, 6: 3, 8: 1}
    worked = {0: 1.0, 2: 6 / 7, 3: 6 / 7 * 5 / 6, 5: 5 / 7 * 3 / 4, 6: 15 / 28 * 2 / 3, 8: 5 / 14}
    assert curve["survival"].to_dict() == pytest.approx(worked, abs=1e-14)


def test_greenwood_interval_of_the_second_step_worked_by_hand() -> None:
    at_three = survival.fit_km(EIGHT["time"], EIGHT["event"], interval="log").set_index("time").loc[3]
    spread = math.sqrt(1 / (7 * 6) + 1 / (6 * 5))
    assert at_three["ci_low"] == pytest.approx(5 / 7 * math.exp(-survival.Z95 * spread), abs=1e-14)
    assert at_three["ci_high"] == 1.0, "the interval left [0, 1]"


def test_a_case_that_leaves_at_a_tick_is_still_at_risk_there() -> None:
    table = survival.count_at_risk(EIGHT["time"], EIGHT["event"], at=[0, 3, 6, 8, 9]).set_index("time")
    assert table["n_at_risk"].tolist() == [8, 6, 3, 1, 0]
    assert table["n_events"].tolist() == [0, 1, 3, 4, 4]
    assert (table[["n_at_risk", "n_events", "n_censored"]].sum(axis=1) == 8).all()


def test_survival_starts_at_one_never_rises_and_stays_inside_its_band() -> None:
    cohort = draw_cohort(300, seed=1)
    curve = survival.fit_km(cohort["time"], cohort["event"], group=cohort["site"])
    for _, one in curve.groupby("group"):
        assert one["survival"].iloc[0] == 1.0
        assert (one["survival"].diff().dropna() <= 0).all()
        known = one.dropna()
        assert ((known["ci_low"] <= known["survival"]) & (known["survival"] <= known["ci_high"])).all()
        assert known[["ci_low", "ci_high"]].stack().between(0, 1).all()


def test_without_censoring_km_is_the_share_still_free() -> None:
    time = np.random.default_rng(3).exponential(size=50)
    curve = survival.fit_km(time, np.ones(50, dtype=bool))
    assert curve["survival"].to_numpy() == pytest.approx([(time > t).mean() for t in curve["time"]], abs=1e-12)


def test_the_loglog_band_equals_that_of_lifelines() -> None:
    from lifelines import KaplanMeierFitter

    cohort = draw_cohort(200, seed=2)
    curve = survival.fit_km(cohort["time"], cohort["event"])
    theirs = KaplanMeierFitter().fit(cohort["time"], cohort["event"]).confidence_interval_survival_function_
    known = curve["survival"] > 0
    assert curve.loc[known, ["ci_low", "ci_high"]].to_numpy() == pytest.approx(theirs.to_numpy()[known], abs=1e-10)


def test_median_follow_up_of_eight_cases_worked_by_hand() -> None:
    assert 7 / 8 * 5 / 6 > 0.5 > 7 / 8 * 5 / 6 * 2 / 3, "reverse Kaplan–Meier at 3 and at 6"
    assert survival.estimate_follow_up(EIGHT["time"], EIGHT["event"])["median"].item() == 6.0


def test_a_median_that_is_never_reached_is_missing() -> None:
    median = survival.estimate_median(survival.fit_km([1.0, 2.0, 3.0], [True, False, False]))
    assert math.isnan(median["median"].item())


def test_rmst_is_the_area_under_the_curve_worked_by_hand() -> None:
    rmst = survival.estimate_rmst(EIGHT["time"], EIGHT["event"], horizon=7.0)["rmst"].item()
    assert rmst == pytest.approx(2 * 1 + 1 * 6 / 7 + 2 * 5 / 7 + 1 * 15 / 28 + 1 * 5 / 14, abs=1e-14)


# --- log-rank --------------------------------------------------------------------------------------------------------


def logrank_by_hand(time: np.ndarray, event: np.ndarray, high: np.ndarray) -> tuple[float, float, float]:
    """Observed, expected and variance of the events in `high`, one event time after another."""
    observed = expected = variance = 0.0
    for t in sorted(set(time[event])):
        n, n1 = (time >= t).sum(), ((time >= t) & high).sum()
        d = ((time == t) & event).sum()
        observed += ((time == t) & event & high).sum()
        expected += d * n1 / n
        variance += d * n1 * (n - n1) * (n - d) / (n * n * (n - 1)) if n > 1 else 0.0
    return observed, expected, variance


def test_logrank_of_two_groups_equals_the_textbook_sum() -> None:
    cohort = draw_cohort(150, seed=4)
    high = (cohort["x"] > 0).to_numpy()
    o, e, v = logrank_by_hand(cohort["time"].to_numpy(), cohort["event"].to_numpy(), high)
    table = survival.compare_logrank(cohort["time"], cohort["event"], high).set_index("group")
    assert table.loc[True, "n_events"] == o
    assert table.loc[True, "expected"] == pytest.approx(e, abs=1e-10)
    assert table.loc[True, "statistic"] == pytest.approx((o - e) ** 2 / v, abs=1e-10)


def test_logrank_of_three_groups_equals_lifelines() -> None:
    from lifelines.statistics import multivariate_logrank_test

    cohort = draw_cohort(200, seed=5)
    groups = pd.qcut(cohort["x"], 3, labels=False)
    theirs = multivariate_logrank_test(cohort["time"], groups, cohort["event"])
    ours = survival.compare_logrank(cohort["time"], cohort["event"], groups)
    assert ours["statistic"].iloc[0] == pytest.approx(theirs.test_statistic, abs=1e-8)
    assert ours["p"].iloc[0] == pytest.approx(theirs.p_value, abs=1e-12)
    assert ours["df"].iloc[0] == 2


def test_stratified_logrank_adds_the_strata_up() -> None:
    cohort = draw_cohort(240, seed=6)
    high = (cohort["x"] > 0).to_numpy()
    parts = [
        logrank_by_hand(
            *(cohort.loc[cohort["site"] == s, c].to_numpy() for c in ("time", "event")), high[cohort["site"] == s]
        )
        for s in range(3)
    ]
    o, e, v = np.sum(parts, axis=0)
    table = survival.compare_logrank(cohort["time"], cohort["event"], high, strata=cohort["site"])
    assert table["statistic"].iloc[0] == pytest.approx((o - e) ** 2 / v, abs=1e-10)


def test_expected_events_sum_to_the_observed() -> None:
    table = survival.compare_logrank(EIGHT["time"], EIGHT["event"], EIGHT["group"])
    assert table["expected"].sum() == pytest.approx(table["n_events"].sum())


# --- Cox -------------------------------------------------------------------------------------------------------------


def efron_log_likelihood(beta: np.ndarray, time: np.ndarray, event: np.ndarray, x: np.ndarray) -> float:
    """Efron's partial log likelihood, written as in his paper."""
    total = 0.0
    risk = np.exp(x @ beta)
    for t in sorted(set(time[event])):
        tied = event & (time == t)
        d = int(tied.sum())
        total += float((x[tied] @ beta).sum())
        total -= sum(math.log(risk[time >= t].sum() - k / d * risk[tied].sum()) for k in range(d))
    return total


def test_cox_maximises_efrons_partial_likelihood() -> None:
    cohort = draw_cohort(120, seed=7)
    fit = survival.fit_cox(cohort["time"], cohort["event"], cohort[["x", "z"]])
    arrays = cohort["time"].to_numpy(), cohort["event"].to_numpy(), cohort[["x", "z"]].to_numpy()
    best = fit["log_hr"].to_numpy()
    here = efron_log_likelihood(best, *arrays)
    assert fit["log_likelihood"].iloc[0] == pytest.approx(here, abs=1e-8)
    for step in ([1e-3, 0], [-1e-3, 0], [0, 1e-3], [0, -1e-3]):
        assert efron_log_likelihood(best + step, *arrays) < here


def test_standard_errors_are_the_curvature_of_the_likelihood() -> None:
    cohort = draw_cohort(120, seed=8)
    fit = survival.fit_cox(cohort["time"], cohort["event"], cohort[["x"]])
    arrays = cohort["time"].to_numpy(), cohort["event"].to_numpy(), cohort[["x"]].to_numpy()
    best, h = fit["log_hr"].to_numpy(), 1e-3
    values = [efron_log_likelihood(best + s, *arrays) for s in (-h, 0, h)]
    curvature = -(values[0] - 2 * values[1] + values[2]) / h**2
    assert fit["se"].item() == pytest.approx(1 / math.sqrt(curvature), rel=1e-5)


def test_moments_of_the_risk_set_equal_a_double_loop() -> None:
    cohort = draw_cohort(60, seed=9)
    x, time, event = cohort[["x", "z"]].to_numpy(), cohort["time"].to_numpy(), cohort["event"].to_numpy()
    beta = np.array([0.4, -0.2])
    moments = compute_event_moments(time, event, x, log_hr=beta, strata=cohort["site"].to_numpy())
    weight = np.exp(x @ beta)
    rank: dict[tuple[int, float], int] = {}
    for position, row in enumerate(moments.row):
        site, t = cohort["site"][row], time[row]
        mine = (cohort["site"] == site).to_numpy()
        tied = mine & event & (time == t)
        k = rank[site, t] = rank.get((site, t), -1) + 1
        w = weight * (mine & (time >= t)) - k / tied.sum() * weight * tied
        mean = w @ x / w.sum()
        covariance = (w[:, None] * (x - mean)).T @ (x - mean) / w.sum()
        assert moments.mean[position] == pytest.approx(mean, abs=1e-12)
        assert moments.covariance[position] == pytest.approx(covariance, abs=1e-12)


def test_a_planted_hazard_ratio_is_recovered_and_order_does_not_matter() -> None:
    cohort = draw_cohort(4000, seed=10, log_hr=0.5)
    fit = survival.fit_cox(cohort["time"], cohort["event"], cohort[["x", "z"]]).set_index("term")
    assert fit.loc["x", "log_hr"] == pytest.approx(0.5, abs=3 * fit.loc["x", "se"])
    mixed = cohort.sample(frac=1.0, random_state=1)
    again = survival.fit_cox(mixed["time"], mixed["event"], mixed[["x", "z"]]).set_index("term")
    assert again["log_hr"].to_numpy() == pytest.approx(fit["log_hr"].to_numpy(), abs=1e-10)


def test_a_horizon_is_administrative_censoring() -> None:
    cohort = draw_cohort(300, seed=11)
    cut = survival.fit_cox(cohort["time"], cohort["event"], cohort[["x"]], horizon=36.0)
    time = cohort["time"].clip(upper=36.0)
    by_hand = survival.fit_cox(time, cohort["event"] & (cohort["time"] <= 36), cohort[["x"]])
    assert cut["log_hr"].item() == by_hand["log_hr"].item()
    assert cut["n_events"].item() == int((cohort["event"] & (cohort["time"] <= 36)).sum())


def test_an_event_at_the_horizon_counts_and_one_after_it_does_not() -> None:
    time, event = survival.truncate_follow_up([5.0, 10.0, 10.5], [True, True, True], 10.0)
    assert time.tolist() == [5.0, 10.0, 10.0]
    assert event.tolist() == [True, True, False]


def test_robust_errors_grow_when_every_case_is_entered_twice_but_clustered() -> None:
    cohort = draw_cohort(150, seed=12, ties=False)
    once = survival.fit_cox(cohort["time"], cohort["event"], cohort[["x"]], robust=True)
    twice = pd.concat([cohort, cohort], ignore_index=True)
    naive = survival.fit_cox(twice["time"], twice["event"], twice[["x"]])
    clustered = survival.fit_cox(
        twice["time"], twice["event"], twice[["x"]], clusters=np.tile(np.arange(len(cohort)), 2), robust=True
    )
    assert naive["se"].item() < 0.8 * once["se"].item()
    assert clustered["se"].item() == pytest.approx(once["se"].item(), rel=0.05)


def test_strata_remove_what_differs_between_sites_only() -> None:
    rng = np.random.default_rng(13)
    site = np.repeat([0, 1], 400)
    x = rng.normal(size=800) + 1.5 * site
    time = rng.exponential(50 / np.exp(2.0 * site))
    event = np.ones(800, dtype=bool)
    frame = pd.DataFrame({"x": x})
    pooled, within = survival.fit_cox(time, event, frame), survival.fit_cox(time, event, frame, strata=site)
    assert pooled["p"].item() < 1e-6, "the confounded association should show without strata"
    assert within["p"].item() > 0.01, "strata should remove it"


# --- the score's hazard ratio ----------------------------------------------------------------------------------------


def test_per_sd_is_per_unit_to_the_power_of_the_sd() -> None:
    cohort = draw_cohort(200, seed=14)
    per_sd = survival.estimate_hazard_ratio(cohort["time"], cohort["event"], 3 * cohort["x"], scale="per_sd")
    per_unit = survival.estimate_hazard_ratio(cohort["time"], cohort["event"], 3 * cohort["x"], scale="per_unit")
    sd = (3 * cohort["x"]).std()
    assert per_sd["sd"].item() == pytest.approx(sd)
    assert per_sd["log_hr"].item() == pytest.approx(sd * per_unit["log_hr"].item(), abs=1e-10)


def test_the_training_sd_is_the_unit_when_it_is_given() -> None:
    cohort = draw_cohort(200, seed=14)
    one = survival.estimate_hazard_ratio(cohort["time"], cohort["event"], cohort["x"], scale="per_sd", sd=2.0)
    unit = survival.estimate_hazard_ratio(cohort["time"], cohort["event"], cohort["x"], scale="per_unit")
    assert one["log_hr"].item() == pytest.approx(2 * unit["log_hr"].item(), abs=1e-10)


def test_high_is_above_the_cutoff_of_the_training_cases() -> None:
    cutoff = survival.fit_cutoff([1.0, 2.0, 3.0, np.nan], cases="training cases")
    assert (cutoff.value, cutoff.origin) == (2.0, "median of 3 training cases")
    assert survival.scale_score([2.0, 2.1, 1.0], scale="high_vs_low", cutoff=cutoff).tolist() == [0.0, 1.0, 0.0]


def test_high_vs_low_counts_cases_and_events_and_states_the_origin() -> None:
    row = survival.estimate_hazard_ratio(
        EIGHT["time"], EIGHT["event"], [1, 3, 0, 2, 3, 1, 2, 0], scale="high_vs_low", cutoff=Cutoff(1.5, "by hand")
    ).iloc[0]
    assert (row["n"], row["n_events"], row["n_high"], row["n_events_high"]) == (8, 4, 4, 3)
    assert row["cutoff_origin"] == "by hand"


def test_uni_and_multivariable_are_fitted_on_the_same_cases() -> None:
    cohort = draw_cohort(250, seed=15)
    table = survival.fit_uni_and_multivariable(cohort["time"], cohort["event"], cohort[["x", "z"]])
    assert table.groupby("model")["term"].apply(list).to_dict() == {
        "univariable": ["x", "z"], "multivariable": ["x", "z"]
    }  # fmt: skip
    assert table["n"].nunique() == table["n_events"].nunique() == 1
    assert table.loc[table["model"] == "multivariable", "events_per_term"].iloc[0] == table["n_events"].iloc[0] / 2


def test_a_horizon_without_events_gives_a_row_that_says_why() -> None:
    table = survival.estimate_ratio_by_horizon(
        EIGHT["time"], EIGHT["event"], [1, 3, 0, 2, 3, 1, 2, 0], scale="per_unit", horizons=[1.0, 8.0]
    )
    assert "0 events" in table.loc[0, "note"]
    assert math.isnan(table.loc[0, "hazard_ratio"])
    assert table.loc[1, "note"] == ""


def test_periods_split_the_events_and_keep_one_unit() -> None:
    cohort = draw_cohort(400, seed=16)
    table = survival.estimate_ratio_by_period(cohort["time"], cohort["event"], cohort["x"], edges=[0, 20, 60, 200])
    assert table["n_events"].sum() == cohort["event"].sum()
    assert table["sd"].nunique() == 1
    assert (table["n"].diff().dropna() < 0).all(), "later periods hold fewer cases"


# --- proportional hazards --------------------------------------------------------------------------------------------


def draw_crossing(n: int, *, seed: int) -> pd.DataFrame:
    """A score that harms early and protects late."""
    rng = np.random.default_rng(seed)
    high = rng.binomial(1, 0.5, n)
    time = np.where(high == 1, rng.weibull(0.6, n), rng.weibull(2.0, n)) * 50
    censoring = rng.uniform(20, 150, n)
    return pd.DataFrame({"time": np.minimum(time, censoring), "event": time <= censoring, "x": high.astype(float)})


def test_crossing_hazards_are_found_and_proportional_ones_are_not() -> None:
    crossing, steady = draw_crossing(400, seed=17), draw_cohort(400, seed=18)
    assert survival.check_proportional_hazards(crossing["time"], crossing["event"], crossing[["x"]])["p"].min() < 1e-6
    assert survival.check_proportional_hazards(steady["time"], steady["event"], steady[["x"]])["p"].min() > 0.01


def test_the_ph_test_rejects_five_percent_of_proportional_cohorts() -> None:
    cohorts = (draw_cohort(150, seed=1000 + seed) for seed in range(300))
    p = [survival.check_proportional_hazards(c["time"], c["event"], c[["x"]])["p"].iloc[0] for c in cohorts]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.085


def test_units_of_a_covariate_do_not_change_the_ph_test() -> None:
    cohort = draw_cohort(200, seed=19)
    one = survival.check_proportional_hazards(cohort["time"], cohort["event"], cohort[["x", "z"]])
    other = survival.check_proportional_hazards(cohort["time"], cohort["event"], cohort[["x", "z"]] * [1e4, 1.0])
    assert one["statistic"].to_numpy() == pytest.approx(other["statistic"].to_numpy(), rel=1e-6)


def test_schoenfeld_residuals_average_to_the_coefficient_and_follow_a_drift() -> None:
    crossing = draw_crossing(600, seed=20)
    residuals, smooth = survival.compute_schoenfeld(crossing["time"], crossing["event"], crossing[["x"]])
    fit = survival.fit_cox(crossing["time"], crossing["event"], crossing[["x"]])
    assert len(residuals) == crossing["event"].sum()
    assert residuals["log_hr"].mean() == pytest.approx(fit["log_hr"].item(), abs=1e-8)
    assert smooth["log_hr"].iloc[0] > 0.5 > -0.5 > smooth["log_hr"].iloc[-1]


def test_the_natural_spline_is_linear_beyond_its_knots() -> None:
    basis = survival.compute_natural_spline([-3, -2, -1, 11, 12, 13], knots=[0, 3, 6, 10])
    assert basis.shape == (6, 4)
    assert np.diff(basis[:3], n=2, axis=0) == pytest.approx(np.zeros((1, 4)), abs=1e-9)
    assert np.diff(basis[3:], n=2, axis=0) == pytest.approx(np.zeros((1, 4)), abs=1e-9)


# --- concordance -----------------------------------------------------------------------------------------------------


def concordance_by_pairs(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    """Every pair once: comparable when the earlier one had its event; tied risks count one half."""
    agreed = pairs = 0.0
    for i, j in combinations(range(time.size), 2):
        first, second = (i, j) if (time[i], not event[i]) <= (time[j], not event[j]) else (j, i)
        if not event[first] or (time[first] == time[second] and event[second]):
            continue
        pairs += 1
        agreed += 1.0 if risk[first] > risk[second] else 0.5 if risk[first] == risk[second] else 0.0
    return agreed / pairs


@pytest.mark.parametrize("seed", range(5))
def test_concordance_equals_a_loop_over_pairs_and_lifelines(seed: int) -> None:
    from lifelines.utils import concordance_index

    cohort = draw_cohort(80, seed=seed)
    risk = cohort["x"].round(1).to_numpy()
    value = survival.compute_concordance(cohort["time"], cohort["event"], risk)["concordance"].item()
    slow = concordance_by_pairs(cohort["time"].to_numpy(), cohort["event"].to_numpy(), risk)
    assert value == pytest.approx(slow, abs=1e-12)
    assert value == pytest.approx(concordance_index(cohort["time"], -risk, cohort["event"]), abs=1e-12)


def test_a_higher_risk_that_dies_first_is_perfectly_concordant() -> None:
    time, event = [1.0, 2.0, 3.0, 4.0], [True] * 4
    assert survival.compute_concordance(time, event, [4, 3, 2, 1])["concordance"].item() == 1.0
    assert survival.compute_concordance(time, event, [1, 2, 3, 4])["concordance"].item() == 0.0
    assert survival.compute_concordance(time, event, [7, 7, 7, 7])["concordance"].item() == 0.5


def test_the_standard_error_of_concordance_agrees_with_the_bootstrap() -> None:
    cohort = draw_cohort(200, seed=21)
    arrays = cohort["time"].to_numpy(), cohort["event"].to_numpy(), cohort["x"].to_numpy()
    rng = np.random.default_rng(22)
    drawn = [survival.compute_concordance(*(a[i] for a in arrays)) for i in rng.integers(0, 200, size=(400, 200))]
    spread = np.std([row["concordance"].item() for row in drawn])
    assert survival.compute_concordance(*arrays)["se"].item() == pytest.approx(spread, rel=0.12)


# --- what cannot be estimated says so --------------------------------------------------------------------------------


def test_a_negative_time_is_an_error_and_time_zero_is_not() -> None:
    with pytest.raises(OutcomeError, match=r"1 of 2 times are negative or missing, first at position 1 \(-3.0\)"):
        survival.check_outcomes([1.0, -3.0], [True, False])
    assert survival.check_outcomes([0.0, 1.0], [True, False])[0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("status", [2, None, "dead", float("nan")])
def test_an_unknown_status_is_never_an_event(status: object) -> None:
    with pytest.raises(OutcomeError, match="1 of 2 event statuses are neither 0 nor 1, first at position 1"):
        survival.check_outcomes([1.0, 2.0], pd.Series([1, status], dtype=object))


def test_lengths_that_differ_are_an_error() -> None:
    with pytest.raises(OutcomeError, match=r"\(3,\) times and \(2,\) event statuses"):
        survival.check_outcomes([1.0, 2.0, 3.0], [True, False])


def test_no_event_before_the_horizon_is_named() -> None:
    with pytest.raises(StatsError, match="8 cases with 0 events"):
        survival.fit_cox(EIGHT["time"], EIGHT["event"], pd.DataFrame({"x": range(8)}), horizon=1.0)


def test_missing_and_constant_covariates_are_named_with_counts() -> None:
    frame = pd.DataFrame({"age": [50.0, np.nan, np.nan, 4, 5, 6, 7, 8], "er": 1.0})
    with pytest.raises(StatsError, match=r"missing values: 'age' \(2\); constant in these 8 cases: 'er'"):
        survival.fit_cox(EIGHT["time"], EIGHT["event"], frame)


def test_a_covariate_that_separates_events_from_survivors_is_named() -> None:
    with pytest.raises(StatsError, match="separates the 2 events|no single maximum"):
        survival.fit_cox([1, 2, 3, 4, 5, 6], [1, 1, 0, 0, 0, 0], pd.DataFrame({"score": [1, 1, 0, 0, 0, 0]}))


def test_two_terms_that_say_the_same_are_an_error() -> None:
    cohort = draw_cohort(100, seed=23)
    with pytest.raises(StatsError, match="Two terms may say the same thing"):
        survival.fit_cox(cohort["time"], cohort["event"], cohort[["x"]].assign(again=2 * cohort["x"]))


def test_a_cutoff_that_leaves_everybody_on_one_side_is_an_error() -> None:
    with pytest.raises(StatsError, match=r"cut-off 10 \(RSEM\) leaves all 3 cases on one side"):
        survival.scale_score([1.0, 2.0, 3.0], scale="high_vs_low", cutoff=Cutoff(10.0, "RSEM"))


def test_high_vs_low_without_a_cutoff_is_an_error() -> None:
    with pytest.raises(StatsError, match="'high_vs_low' without a cut-off"):
        survival.scale_score([1.0, 2.0], scale="high_vs_low")


def test_a_constant_score_has_no_sd() -> None:
    with pytest.raises(StatsError, match="the score's SD is 0.0"):
        survival.scale_score([2.0, 2.0, 2.0], scale="per_sd")


def test_missing_scores_and_risks_are_counted() -> None:
    with pytest.raises(StatsError, match="1 of 2 scores are missing"):
        survival.scale_score([1.0, np.nan])
    with pytest.raises(StatsError, match="1 of 2 risks are missing"):
        survival.compute_concordance([1.0, 2.0], [True, True], [1.0, np.nan])


def test_one_group_cannot_be_compared() -> None:
    with pytest.raises(StatsError, match=r"1 group\(s\) \(low\) and 4 events among 8 cases"):
        survival.compare_logrank(EIGHT["time"], EIGHT["event"], ["low"] * 8)


def test_log_time_with_an_event_at_zero_is_an_error() -> None:
    with pytest.raises(StatsError, match="meets an event at time 0"):
        survival.transform_time([0.0, 1.0], [True, True], transform="log")


def test_the_difference_of_mean_times_is_that_of_the_means_and_its_error_adds_in_squares() -> None:
    rng = np.random.default_rng(14)
    time, group = rng.exponential(np.where(np.arange(200) % 2, 40.0, 80.0)), np.where(np.arange(200) % 2, "high", "low")
    event = rng.random(200) < 0.8
    row = survival.compare_rmst(time, event, group, horizon=60.0).iloc[0]
    means = survival.estimate_rmst(time, event, group=group, horizon=60.0).set_index("group")
    assert row["difference"] == pytest.approx(means.loc["high", "rmst"] - means.loc["low", "rmst"])
    assert row["se"] == pytest.approx(math.hypot(*means["se"]))
    assert (row["group"], row["reference"], row["n"]) == ("high", "low", 200)


def test_a_mean_time_beyond_follow_up_is_refused() -> None:
    time, event = np.array([1.0, 2.0, 3.0, 9.0]), np.array([1, 1, 0, 0], dtype=bool)
    with pytest.raises(StatsError, match="nobody in high is followed to 8"):
        survival.compare_rmst(time, event, np.array(["high", "high", "high", "low"]), horizon=8.0)


# --- real data: the constants of R ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gbsg(shared_data: Path) -> pd.DataFrame:
    raw = pd.read_csv(shared_data / "survival_classics" / "gbsg2.csv")
    return pd.DataFrame(
        {
            "time": raw["time"].astype(float), "event": raw["cens"] == 1, "hormon": (raw["horTh"] == "yes") * 1.0,
            "age": raw["age"], "meno": (raw["menostat"] == "Post") * 1.0, "size": raw["tsize"],
            "grade": raw["tgrade"].str.len(), "nodes": raw["pnodes"], "pgr": raw["progrec"], "er": raw["estrec"],
        }
    )  # fmt: skip


TERMS = ["hormon", "age", "meno", "size", "grade", "nodes", "pgr", "er"]
# R 4.2.2, survival 3.5-3: coxph(Surv(rfstime, status) ~ ..., data = gbsg), ties efron; survdiff; concordance; cox.zph
R_LOG_HR = [
    -0.337202910030339, -0.009392361197435, 0.267277163207848, 0.007716437553312, 0.280289409367683,
    0.049893907505001, -0.002237810118537, 0.000167428284895,
]  # fmt: skip
R_SE = [
    0.128961753944937, 0.009273288028142, 0.183336609668042, 0.003949684720243, 0.106055314527785,
    0.007409371523397, 0.000575759783076, 0.000447712311695,
]  # fmt: skip
R_ZPH = [
    0.257814488084, 10.532922074074, 5.705758822180, 0.193291951815, 7.889028718289, 0.934282395609, 4.316031594675,
    5.810652801446, 22.125525752542,
]  # fmt: skip


def test_cox_of_gbsg_equals_r(gbsg: pd.DataFrame) -> None:
    fit = survival.fit_cox(gbsg["time"], gbsg["event"], gbsg[TERMS])
    assert fit["log_hr"].to_numpy() == pytest.approx(R_LOG_HR, abs=2e-12)
    assert fit["se"].to_numpy() == pytest.approx(R_SE, abs=2e-12)
    assert fit["p"].iloc[0] == pytest.approx(8.92924544053e-03, rel=1e-10)
    assert (fit["n"].iloc[0], fit["n_events"].iloc[0]) == (686, 299)


def test_proportional_hazards_of_gbsg_equal_cox_zph_of_r(gbsg: pd.DataFrame) -> None:
    table = survival.check_proportional_hazards(gbsg["time"], gbsg["event"], gbsg[TERMS])
    assert table["term"].tolist() == [*TERMS, "GLOBAL"]
    assert table["statistic"].to_numpy() == pytest.approx(R_ZPH, abs=1e-8)
    assert table["df"].tolist() == [1] * 8 + [8]
    assert table["p"].iloc[-1] == pytest.approx(0.00468856213897, rel=1e-9)


def test_logrank_of_gbsg_equals_r(gbsg: pd.DataFrame) -> None:
    table = survival.compare_logrank(gbsg["time"], gbsg["event"], gbsg["hormon"])
    assert table["statistic"].iloc[0] == pytest.approx(8.56478085354, abs=1e-10)
    assert table["p"].iloc[0] == pytest.approx(0.00342728, abs=1e-8)
    assert table["expected"].tolist() == pytest.approx([180.34308, 118.65692], abs=1e-5)


def test_medians_and_mean_times_of_gbsg_equal_r(gbsg: pd.DataFrame) -> None:
    curve = survival.fit_km(gbsg["time"], gbsg["event"], group=gbsg["hormon"], interval="log")
    median = survival.estimate_median(curve)
    assert median[["median", "ci_low"]].to_numpy().tolist() == [[1528, 1296], [2018, 1918]]
    assert median["ci_high"].iloc[0] == 1814
    assert math.isnan(median["ci_high"].iloc[1])
    mean = survival.estimate_rmst(gbsg["time"], gbsg["event"], group=gbsg["hormon"], horizon=gbsg["time"].max())
    assert mean["rmst"].tolist() == pytest.approx([1559.76545196, 1816.48617638], abs=1e-8)
    assert mean["se"].tolist() == pytest.approx([53.8434056702, 65.4734804065], abs=1e-9)


def test_concordance_of_gbsg_equals_r(gbsg: pd.DataFrame) -> None:
    fit = survival.fit_cox(gbsg["time"], gbsg["event"], gbsg[TERMS])
    risk = gbsg[TERMS].to_numpy(float) @ fit["log_hr"].to_numpy()
    table = survival.compute_concordance(gbsg["time"], gbsg["event"], risk)
    assert table["concordance"].item() == pytest.approx(0.687928339546, abs=1e-12)


def test_mean_times_of_gbsg_differ_as_r_s_do(gbsg: pd.DataFrame) -> None:
    end = gbsg.groupby("hormon")["time"].max().min()
    row = survival.compare_rmst(gbsg["time"], gbsg["event"], -gbsg["hormon"], horizon=end).iloc[0]
    means = survival.estimate_rmst(gbsg["time"], gbsg["event"], group=gbsg["hormon"], horizon=end)["rmst"]
    assert row["difference"] == pytest.approx(means[1] - means[0])
    assert row["difference"] == pytest.approx(
        1816.48617638 - 1559.76545196, rel=0.1
    )  # R carries both curves on to the last day of all
    assert row["ci_low"] > 0, "hormone therapy buys time"


def test_a_score_that_orders_every_event_has_no_hazard_ratio() -> None:
    for n in (12, 40, 150):
        rng = np.random.default_rng(n)
        time = rng.exponential(20, n)
        event = rng.random(n) < 0.5
        with pytest.raises(StatsError, match="the partial likelihood has no single maximum"):
            survival.fit_cox(time, event, pd.DataFrame({"x": -time}))


def _sandwich_by_loops(time: np.ndarray, event: np.ndarray, x: np.ndarray, log_hr: float, cluster: np.ndarray) -> float:
    """Lin and Wei's standard error of one term, Efron's risk sets visited one after the other."""
    weight, residual, information = np.exp(log_hr * x), np.zeros(x.size), 0.0
    for moment in np.unique(time[event]):
        here, dying = time >= moment, (time == moment) & event
        d = int(dying.sum())
        for k in range(d):
            share = weight * (here - (k / d) * dying)
            share = share / share.sum()
            mean = float(share @ x)
            information += float(share @ x**2) - mean**2
            residual += dying * (x - mean) / d - share * (x - mean)
    summed = np.bincount(cluster, residual)
    return float(np.sqrt(summed @ summed) / information)


@pytest.mark.parametrize("clustered", [False, True])
def test_robust_errors_know_ties_and_not_the_order_of_the_rows(clustered: bool) -> None:
    cohort = draw_cohort(120, seed=21)
    cohort["time"] = np.ceil(cohort["time"] / 12)  # whole years
    cluster = np.arange(120) % 15 if clustered else np.arange(120)
    options = {"clusters": cluster} if clustered else {"robust": True}
    fit = survival.fit_cox(cohort["time"], cohort["event"], cohort[["x"]], **options).iloc[0]
    arrays = [cohort[name].to_numpy() for name in ("time", "event", "x")]
    assert fit["se"] == pytest.approx(_sandwich_by_loops(*arrays, fit["log_hr"], cluster), rel=1e-6)
    order = np.random.default_rng(1).permutation(120)
    turned = cohort.iloc[order].reset_index(drop=True)
    options = {"clusters": cluster[order]} if clustered else {"robust": True}
    again = survival.fit_cox(turned["time"], turned["event"], turned[["x"]], **options).iloc[0]
    assert again["se"] == pytest.approx(fit["se"], rel=1e-9)


def test_a_group_that_is_gone_before_anything_happens_costs_no_degree_of_freedom() -> None:
    cohort = draw_cohort(80, seed=30)
    time, event = cohort["time"].to_numpy() + 1.0, cohort["event"].to_numpy(bool)
    group = np.where(cohort["x"] > 0, "high", "low")
    two = survival.compare_logrank(time, event, group).iloc[0]
    with_gone = [np.append(values, more) for values, more in ((time, [0.5] * 5), (event, [False] * 5))]
    three = survival.compare_logrank(*with_gone, np.append(group, ["gone"] * 5)).iloc[0]
    assert three["df"] == 1, "as R's survdiff counts"
    assert three["p"] == pytest.approx(two["p"], rel=1e-9)
    alone = survival.compare_logrank([0.5, 0.5, 2.0, 3.0], [False, False, True, True], ["a", "a", "b", "b"]).iloc[0]
    assert (alone["statistic"], alone["p"]) == (0.0, 1.0)


def test_a_curve_that_has_reached_zero_is_known_for_ever() -> None:
    time = np.array([1.0, 2.0, 3.0, 5.0, 9.0, 10.0, 10.0])
    event = np.array([1, 1, 1, 0, 1, 0, 0], dtype=bool)
    group = np.array(["high"] * 3 + ["low"] * 4)
    row = survival.compare_rmst(time, event, group, horizon=8.0).iloc[0]
    assert row["difference"] == pytest.approx(2.0 - 8.0), "all of 'high' died by 3: a mean of 2"


def test_without_two_event_times_proportional_hazards_cannot_be_tested() -> None:
    rng = np.random.default_rng(31)
    x, event = pd.DataFrame({"x": rng.normal(size=40)}), np.arange(40) > 25
    with pytest.raises(StatsError, match="too few events at different times"):
        survival.check_proportional_hazards(np.repeat([1.0, 2.0], 20), event & (np.arange(40) > 19), x)


def test_an_unknown_status_is_named_whatever_stands_for_it() -> None:
    with pytest.raises(OutcomeError, match="1 of 2 event statuses are neither 0 nor 1"):
        survival.check_outcomes([1.0, 2.0], pd.array([True, None], dtype="boolean"))
