"""The fast Cox fit is the slow one: lifelines, R's constants, a likelihood written out, and resamples as tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats.cox import fit_cox
from helpers.stats.fast_cox import bootstrap_cox, estimate_profile_interval, fit_efron, fit_sorted, sort_cases
from helpers.stats.kaplan_meier import compare_logrank


def draw(n: int = 300, *, seed: int = 3, ties: bool = False) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    x = pd.DataFrame(rng.normal(size=(n, 3)) * [1.0, 20.0, 0.1] + [0.0, 500.0, 0.0], columns=["a", "b", "c"])
    time = rng.exponential(10 * np.exp(-0.6 * x["a"] - 0.02 * (x["b"] - 500)))
    censor = rng.uniform(1, 25, n)
    observed = np.minimum(time, censor)
    return (np.ceil(2 * observed) if ties else observed), time <= censor, x


def write_out(time: np.ndarray, event: np.ndarray, linear: np.ndarray) -> float:
    """Log partial likelihood without ties, one risk set after the other."""
    return float(sum(linear[i] - np.log(np.exp(linear[time >= time[i]]).sum()) for i in np.flatnonzero(event)))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
def test_the_fast_fit_equals_lifelines(ties: bool, stratified: bool) -> None:
    time, event, x = draw(ties=ties)
    strata = np.arange(300) % 4 if stratified else None
    slow, fast = fit_cox(time, event, x, strata=strata), fit_efron(time, event, x, strata=strata)
    assert fast.log_hr == pytest.approx(slow["log_hr"].to_numpy(), abs=1e-8)
    assert fast.se == pytest.approx(slow["se"].to_numpy(), abs=1e-8)
    assert fast.log_likelihood == pytest.approx(slow["log_likelihood"].iloc[0], abs=1e-8)


def test_the_likelihood_of_six_cases_written_out_with_a_tie_and_a_penalty() -> None:
    time, event = np.array([1.0, 2.0, 2.0, 2.0, 3.0, 4.0]), np.array([1, 1, 1, 0, 0, 1], dtype=bool)
    x = np.array([0.5, 1.0, -1.0, 0.0, 2.0, -0.5])
    fit = fit_efron(time, event, pd.DataFrame({"x": x}), penalty=[0.7])
    beta, weight = fit.log_hr[0], np.exp(fit.log_hr[0] * x)
    tied = weight[1] + weight[2]
    terms = [
        np.log(weight.sum()), np.log(weight[1:].sum()), np.log(weight[1:].sum() - tied / 2), np.log(weight[5])
    ]  # fmt: skip
    by_hand = beta * x[event].sum() - sum(terms)
    assert fit.log_likelihood == pytest.approx(by_hand, abs=1e-12)
    step = 1e-5

    def goal(value: float) -> float:
        w = np.exp(value * x)
        pair = w[1] + w[2]
        sums = np.log(w.sum()) + np.log(w[1:].sum()) + np.log(w[1:].sum() - pair / 2) + np.log(w[5])
        return value * x[event].sum() - sums - 0.35 * (value * x.std(ddof=1)) ** 2

    slope = (goal(beta + step) - goal(beta - step)) / (2 * step)
    assert slope == pytest.approx(0.0, abs=1e-6), "the penalised likelihood is flat at its maximum"
    assert 0 < fit.df < 1


def test_the_score_test_of_two_groups_is_the_logrank_test() -> None:
    time, event, x = draw()
    high = (x["a"] > 0).to_numpy(float)
    fit = fit_sorted(sort_cases(time, event, high[:, None]))
    assert fit.score_test == pytest.approx(compare_logrank(time, event, high)["statistic"].iloc[0], rel=1e-10)


def test_a_resample_is_the_table_with_its_rows_repeated() -> None:
    time, event, x = draw(80)
    cases = sort_cases(time, event, x.to_numpy())
    rows = np.sort(np.random.default_rng(5).integers(0, 80, 80))
    taken = cases.order[rows]
    table = fit_cox(time[taken], event[taken], x.iloc[taken].reset_index(drop=True))
    assert fit_sorted(cases, rows=rows).log_hr == pytest.approx(table["log_hr"].to_numpy(), abs=1e-8)


def test_the_bootstrap_spread_is_the_standard_error_and_the_seed_repeats_it() -> None:
    time, event, x = draw(400)
    one = bootstrap_cox(time, event, x, n_boot=300, rng=np.random.default_rng(1))
    assert one.std(axis=0) == pytest.approx(fit_efron(time, event, x).se, rel=0.15)
    np.testing.assert_array_equal(one, bootstrap_cox(time, event, x, n_boot=300, rng=np.random.default_rng(1)))


def test_resamples_of_whole_sites_spread_more_where_sites_repeat_their_cases() -> None:
    time, event, x = draw(100)
    many = [np.tile(values, 4) for values in (time, event)]
    table, site = pd.concat([x] * 4, ignore_index=True), np.tile(np.arange(100), 4)
    cases = bootstrap_cox(*many, table, n_boot=200, rng=np.random.default_rng(2))
    sites = bootstrap_cox(*many, table, n_boot=200, rng=np.random.default_rng(2), clusters=site)
    assert sites[:, 0].std() > 1.6 * cases[:, 0].std(), "four copies of a case are one case"


def test_the_profile_interval_ends_where_the_likelihood_has_fallen_by_its_quantile() -> None:
    time, event, x = draw(60)
    design = x[["a"]]
    low, high = estimate_profile_interval(time, event, design["a"])
    best = fit_efron(time, event, design)
    for end in (low, high):
        assert 2 * (best.log_likelihood - write_out(time, event, end * design["a"].to_numpy())) == pytest.approx(
            3.841459, abs=1e-5
        )
    wald = best.log_hr[0] + np.array([-1.96, 1.96]) * best.se[0]
    assert low == pytest.approx(wald[0], abs=0.1)
    assert high == pytest.approx(wald[1], abs=0.1)
    assert (best.log_hr[0] - low) != pytest.approx(high - best.log_hr[0], abs=1e-6), "a likelihood is no parabola"


def test_a_term_that_separates_events_from_survivors_is_an_error_and_an_open_interval() -> None:
    time, event = np.arange(1.0, 21.0), np.arange(20) < 10
    high = (np.arange(20) < 10).astype(float)
    with pytest.raises(StatsError, match="no Cox model of high for 20 cases with 10 events"):
        fit_efron(time, event, pd.DataFrame({"high": high}))
    assert estimate_profile_interval(time, event, high) == (-np.inf, np.inf)


@pytest.mark.shared
def test_the_fast_fit_of_gbsg_equals_r(shared_data: Path) -> None:
    raw = pd.read_csv(shared_data / "survival_classics" / "gbsg2.csv")
    x = pd.DataFrame(
        {
            "hormon": (raw["horTh"] == "yes") * 1.0, "age": raw["age"], "meno": (raw["menostat"] == "Post") * 1.0,
            "size": raw["tsize"], "grade": raw["tgrade"].str.len(), "nodes": raw["pnodes"], "pgr": raw["progrec"],
            "er": raw["estrec"],
        }
    )  # fmt: skip
    fit = fit_efron(raw["time"].astype(float), raw["cens"] == 1, x)
    assert fit.log_hr[0] == pytest.approx(-0.337202910030339, abs=1e-11)
    assert fit.se[0] == pytest.approx(0.128961753944937, abs=1e-11)


@pytest.mark.parametrize("seed", range(4, 7))
def test_a_term_that_no_survivor_has_is_refused_and_not_given_an_error_of_millions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 200))
    time, x = rng.exponential(10, n), (rng.random(n) < 0.3).astype(float)
    event = (rng.random(n) < 0.4) & (x == 1)
    with pytest.raises(StatsError, match="a term separates events from survivors"):
        fit_efron(time, event, pd.DataFrame({"x": x}))
    fit = fit_sorted(sort_cases(time, event, x[:, None]))
    assert not fit.converged
    assert np.isnan(fit.log_hr).all()
    assert estimate_profile_interval(time, event, x) == (-np.inf, np.inf)
