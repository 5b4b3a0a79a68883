"""Measures of prediction under censoring: scikit-survival's numbers, loops over pairs, and what weights must undo."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats.concordance import compute_concordance
from helpers.stats.ipcw import (
    bootstrap_concordance,
    compute_brier,
    compute_censoring_survival,
    compute_time_auc,
    compute_uno_concordance,
    summarize_weights,
)

AT = [12.0, 24.0, 36.0, 60.0]


def draw(n: int = 120, *, censored: bool = True) -> dict[str, np.ndarray]:
    """The study that scikit-survival 0.28.0 was asked about; times have no ties."""
    rng = np.random.default_rng(20261)
    x = rng.normal(size=n)
    time = rng.exponential(60 / np.exp(0.6 * x))
    censor = rng.uniform(10, 150, n) if censored else np.full(n, np.inf)
    event = time <= censor
    risk = x + rng.normal(size=n) * 0.5
    probability = 1 - np.exp(-np.outer(np.exp(0.6 * x) / 60, AT))
    return {"time": np.minimum(time, censor), "event": event, "risk": risk, "probability": probability}


def test_uno_s_concordance_equals_scikit_survival() -> None:
    study = draw()
    row = compute_uno_concordance(study["time"], study["event"], study["risk"], horizon=60.0).iloc[0]
    assert row["concordance"] == pytest.approx(0.6314252717040166, abs=1e-12)


def test_the_auc_over_time_equals_scikit_survival() -> None:
    study = draw()
    auc = compute_time_auc(study["time"], study["event"], study["risk"], at=AT)["auc"]
    expected = [0.6662962962962964, 0.6847684653646201, 0.6874006139393335, 0.7114685415491985]
    assert auc.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_brier_score_and_its_integral_equal_scikit_survival() -> None:
    study = draw()
    table = compute_brier(study["time"], study["event"], study["probability"], at=AT)
    expected = [0.1718642650233459, 0.21835557421930482, 0.22024015451221815, 0.19321244671256183]
    assert table["brier"].tolist() == pytest.approx(expected, abs=1e-12)
    assert table["integrated"].iloc[-1] == pytest.approx(0.2069650963029667, abs=1e-12)


def test_without_censoring_the_weights_are_one_and_the_measures_are_the_plain_ones() -> None:
    study = draw(censored=False)
    time, event, risk = study["time"], study["event"], study["risk"]
    far = float(time.max()) + 1
    uno = compute_uno_concordance(time, event, risk, horizon=far)["concordance"].item()
    assert uno == pytest.approx(compute_concordance(time, event, risk)["concordance"].item(), abs=1e-12)
    auc = compute_time_auc(time, event, risk, at=[24.0])["auc"].item()
    ill, free = risk[time <= 24], risk[time > 24]
    assert auc == pytest.approx(np.mean(ill[:, None] > free[None, :]), abs=1e-12)
    brier = compute_brier(time, event, study["probability"][:, [1]], at=[24.0])["brier"].item()
    assert brier == pytest.approx(np.mean(((time <= 24) - study["probability"][:, 1]) ** 2), abs=1e-12)


def test_the_censoring_curve_of_six_cases_by_hand() -> None:
    time, event = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 5.0]), np.array([1, 0, 1, 0, 1, 0], dtype=bool)
    # at 2: five at risk, the event leaves first, so one of four is censored; at 3: one of three
    assert compute_censoring_survival(time, event, at=[2.0, 2.5, 3.5]).tolist() == pytest.approx([1, 0.75, 0.5])


def test_heavier_censoring_moves_harrell_and_not_uno() -> None:
    rng = np.random.default_rng(4)
    n = 4000
    x = rng.normal(size=n)
    time = rng.weibull(1.6, n) * 60 * np.exp(-0.5 * x) ** (1 / 1.6)
    found = {}
    for name, censor in (("late", rng.uniform(60, 200, n)), ("early", rng.exponential(35, n))):
        observed, event = np.minimum(time, censor), time <= censor
        harrell = compute_concordance(observed, event, x, horizon=60.0)["concordance"].item()
        found[name] = harrell, compute_uno_concordance(observed, event, x, horizon=60.0)["concordance"].item()
    assert abs(found["late"][1] - found["early"][1]) < 0.02


def test_a_bootstrap_by_products_equals_resampled_tables() -> None:
    study = draw(60)
    time, event, risk = (study[name] for name in ("time", "event", "risk"))
    found = bootstrap_concordance(
        time, event, np.column_stack([risk, -risk]), n_boot=20, rng=np.random.default_rng(9), block=7
    )
    rng = np.random.default_rng(9)
    drawn = rng.integers(0, 60, size=(20, 60))
    for b in range(20):
        rows = drawn[b]
        table = compute_concordance(time[rows], event[rows], risk[rows])["concordance"].item()
        assert found[b, 0] == pytest.approx(table, abs=1e-6)
        pairs_that_tie = found[b].sum()
        assert pairs_that_tie == pytest.approx(1.0, abs=1e-6), "a risk and its negative split every pair"


def test_the_interval_of_an_auc_comes_from_resampled_cases() -> None:
    study = draw()
    row = compute_time_auc(
        study["time"], study["event"], study["risk"], at=[36.0], n_boot=100, rng=np.random.default_rng(1)
    ).iloc[0]
    assert row["ci_low"] < row["auc"] < row["ci_high"]
    assert row["n_events"] == (study["event"] & (study["time"] <= 36)).sum()


def test_a_horizon_where_nobody_is_followed_is_refused_with_the_number() -> None:
    rng = np.random.default_rng(2)
    time, event = rng.uniform(0, 10, 400), rng.random(400) < 0.1
    time[0], event[0] = 10.5, True
    with pytest.raises(StatsError, match=r"chance of still being followed is down to 0\.\d+, expected at least 0.02"):
        compute_uno_concordance(time, event, rng.normal(size=400), horizon=11.0)
    assert summarize_weights(time, event, horizon=5.0)["uncensored"] < 1


def test_probabilities_of_another_shape_and_missing_risks_are_refused() -> None:
    study = draw()
    with pytest.raises(StatsError, match=r"probabilities of shape \(120, 4\) for 120 cases at 2 times"):
        compute_brier(study["time"], study["event"], study["probability"], at=[12.0, 24.0])
    with pytest.raises(StatsError, match="1 missing, for 120 cases"):
        compute_time_auc(study["time"], study["event"], np.r_[np.nan, study["risk"][1:]], at=AT)
    assert isinstance(compute_time_auc(study["time"], study["event"], study["risk"], at=AT), pd.DataFrame)


def test_whoever_is_censored_exactly_at_the_horizon_is_known_to_be_free_there() -> None:
    rng = np.random.default_rng(6)
    true, risk = rng.exponential(80, 300), rng.normal(size=300)
    time, event = np.minimum(true, 60.0), true <= 60
    probability = rng.uniform(size=(300, 1))
    brier = compute_brier(time, event, probability, at=[60.0])["brier"].item()
    assert brier == pytest.approx(np.mean((event - probability[:, 0]) ** 2), abs=1e-12), "nobody was lost: no weights"
    row = compute_time_auc(time, event, risk, at=[60.0]).iloc[0]
    assert row["n_free"] == (~event).sum()
    assert row["auc"] == pytest.approx(np.mean(risk[event][:, None] > risk[~event][None, :]), abs=1e-12)


def test_the_brier_score_before_the_first_event_is_that_of_everybody_free() -> None:
    table = compute_brier([10.0, 20.0, 30.0], [True, True, False], [[0.1, 0.4], [0.2, 0.5], [0.3, 0.6]], at=[5.0, 25.0])
    assert table["brier"].tolist() == pytest.approx([(0.01 + 0.04 + 0.09) / 3, (0.36 + 0.25 + 0.36) / 3])


def test_a_brier_score_beyond_follow_up_is_refused_and_not_made_of_the_events_alone() -> None:
    study = draw()
    beyond = float(study["time"].max()) + 1
    with pytest.raises(StatsError, match="0 of 120 cases are known to be free of the event at"):
        compute_brier(study["time"], study["event"], study["probability"][:, [0]], at=[beyond])
    everybody = np.ones(120, dtype=bool)
    known = compute_brier(study["time"], everybody, study["probability"][:, [0]], at=[beyond])["brier"].item()
    assert known == pytest.approx(np.mean((1 - study["probability"][:, 0]) ** 2))


def test_resamples_whose_weights_are_too_heavy_do_not_take_the_auc_away() -> None:
    rng = np.random.default_rng(2)
    time, event, risk = rng.uniform(0, 10, 400), rng.random(400) < 0.1, rng.normal(size=400)
    late = np.argsort(time)[-10]
    event[late], last = True, float(time[late])
    assert 0.02 < compute_censoring_survival(time, event, at=[last])[0] < 0.04, "some resamples fall below 0.02"
    row = compute_time_auc(time, event, risk, at=[last], n_boot=200, rng=np.random.default_rng(1)).iloc[0]
    assert np.isfinite(row["auc"])
    assert np.isnan(row["ci_low"]) or row["ci_low"] <= row["auc"]
