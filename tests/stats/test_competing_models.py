"""Hazard ratios under competing risks against a double loop, a bootstrap and the special cases."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from helpers.core.errors import StatsError
from helpers.stats.competing import derive_causes
from helpers.stats.competing_models import fit_cause_specific, fit_fine_gray
from helpers.stats.cox import fit_cox
from helpers.stats.ipcw import compute_censoring_survival


def draw(n: int = 200, *, seed: int = 3) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    x = pd.DataFrame({"a": rng.normal(size=n), "b": rng.integers(0, 2, n)})
    first, other = rng.exponential(10 / np.exp(0.7 * x["a"])), rng.exponential(14 / np.exp(0.4 * x["b"]))
    censor = rng.uniform(1, 20, n)
    time = np.minimum.reduce([first, other, censor])
    cause = np.where(time == censor, 0, np.where(time == first, 1, 2))
    return np.ceil(time * 5) / 5, cause, x


def write_out(beta: np.ndarray, time: np.ndarray, cause: np.ndarray, x: np.ndarray) -> float:
    """The weighted partial likelihood, one risk set after the other."""
    own, value = compute_censoring_survival(time, cause > 0, at=time), 0.0
    for i in np.flatnonzero(cause == 1):
        falling = compute_censoring_survival(time, cause > 0, at=[time[i]])[0] / own
        weight = np.where(time >= time[i], 1.0, np.where(cause == 2, falling, 0.0))
        value += x[i] @ beta - np.log((weight * np.exp(x @ beta)).sum())
    return value


def test_fine_and_gray_maximise_the_weighted_likelihood_written_out() -> None:
    time, cause, x = draw()
    table = fit_fine_gray(time, cause, x)
    design = x.to_numpy(float)
    centred = design - design.mean(axis=0)
    best = minimize(lambda b: -write_out(b, time, cause, design), [0.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x
    assert table["log_hr"].to_numpy() == pytest.approx(best, abs=1e-5)
    here = write_out(table["log_hr"].to_numpy(), time, cause, centred)
    assert here == pytest.approx(table["log_likelihood"].iloc[0], abs=1e-8)
    assert (table["n_events"].iloc[0], table["n_competing"].iloc[0]) == ((cause == 1).sum(), (cause == 2).sum())


def test_its_robust_error_is_the_bootstraps() -> None:
    time, cause, x = draw(300)
    rng, drawn = np.random.default_rng(6), []
    for _ in range(150):
        rows = rng.integers(0, 300, 300)
        drawn.append(fit_fine_gray(time[rows], cause[rows], x.iloc[rows].reset_index(drop=True))["log_hr"].to_numpy())
    assert np.std(drawn, axis=0) == pytest.approx(fit_fine_gray(time, cause, x)["se"].to_numpy(), rel=0.2)


def test_with_one_cause_it_is_cox() -> None:
    time, cause, x = draw()
    untied = time + np.linspace(0, 1e-3, time.size)
    alone = np.where(cause == 1, 1, 0)
    table = fit_fine_gray(untied, alone, x)
    plain = fit_cox(untied, alone == 1, x, robust=True)
    assert table["log_hr"].to_numpy() == pytest.approx(plain["log_hr"].to_numpy(), abs=1e-8)
    assert table["se"].to_numpy() == pytest.approx(plain["se"].to_numpy(), rel=1e-6)


def test_the_cause_specific_ratio_censors_the_other_cause() -> None:
    time, cause, x = draw()
    pd.testing.assert_frame_equal(fit_cause_specific(time, cause, x), fit_cox(time, cause == 1, x))
    assert fit_cause_specific(time, cause, x, of=2)["n_events"].iloc[0] == (cause == 2).sum()


def test_a_score_that_drives_one_cause_lowers_the_incidence_of_the_other() -> None:
    time, cause, x = draw(3000, seed=8)
    rate = fit_cause_specific(time, cause, x[["a"]], of=2)["log_hr"].item()
    incidence = fit_fine_gray(time, cause, x[["a"]], of=2)["log_hr"].item()
    assert abs(rate) < 0.1, "the rate of other death does not depend on a"
    assert incidence < -0.2, "but who had the event cannot die of something else first"


def test_a_term_that_separates_the_events_is_named() -> None:
    time, cause, x = draw(60)
    with pytest.raises(StatsError, match="no subdistribution model of perfect"):
        fit_fine_gray(
            np.arange(1.0, 61.0), np.where(np.arange(60) < 20, 1, 2), pd.DataFrame({"perfect": np.arange(60) < 20})
        )
    with pytest.raises(StatsError, match="cause 7 never happened"):
        fit_fine_gray(time, cause, x, of=7)


@pytest.mark.shared
def test_metabric_s_mki67_moves_recurrence_and_not_other_death(shared_data: Path) -> None:
    from helpers.cohort.imports.metabric import import_metabric

    raw = import_metabric(shared_data / "metabric")
    gene = raw.expression[raw.expression["gene"] == "MKI67"].set_index("case_id")["value"]
    cases = raw.cases[raw.cases["rfs_event"].notna() & raw.cases["os_event"].notna()]
    time, cause = derive_causes(
        cases["rfs_time_months"],
        cases["rfs_event"].astype(bool),
        death_time=cases["os_time_months"],
        death=cases["os_event"].astype(bool),
        composite=True,
    )
    score = gene.loc[cases["case_id"]].to_numpy()
    high = pd.DataFrame({"high": (score > np.median(score)) * 1.0})
    rate, incidence = fit_cause_specific(time, cause, high), fit_fine_gray(time, cause, high)
    assert rate["ci_low"].item() > 1
    assert incidence["ci_low"].item() > 1
    other = fit_fine_gray(time, cause, high, of=2)
    assert other["hazard_ratio"].item() < 1, "who recurs and dies of that does not die of something else"
