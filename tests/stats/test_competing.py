"""Competing risks: by hand, by a slow oracle, against lifelines, and on METABRIC."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import OutcomeError, StatsError
from helpers.stats.competing import derive_causes, estimate_cumulative_incidence, read_incidence
from helpers.stats.survival import fit_km

TIME = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
CAUSE = [1, 2, 0, 1, 2, 1, 0, 0]


def draw_causes(n: int, *, seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    latent = np.stack([rng.uniform(5, 90, n), rng.exponential(60, n), rng.exponential(80, n)])
    time = latent.min(axis=0)
    return (np.ceil(time) if ties else time), latent.argmin(axis=0)


def test_incidence_of_eight_cases_worked_by_hand() -> None:
    curve = estimate_cumulative_incidence(TIME, CAUSE).set_index("time")["incidence"]
    free_at_4, free_at_6 = 6 / 8, 6 / 8 * 3 / 5  # free of both causes just before
    assert curve[1.0] == pytest.approx(1 / 8)
    assert curve[4.0] == pytest.approx(1 / 8 + free_at_4 * 1 / 5)
    assert curve[6.0] == pytest.approx(1 / 8 + free_at_4 * 1 / 5 + free_at_6 * 1 / 3)
    assert curve[8.0] == curve[6.0]


@pytest.mark.parametrize("ties", [True, False])
def test_incidences_of_all_causes_and_survival_sum_to_one(ties: bool) -> None:
    time, cause = draw_causes(300, seed=1, ties=ties)
    first, second = (estimate_cumulative_incidence(time, cause, of=k)["incidence"] for k in (1, 2))
    free = fit_km(time, cause > 0)["survival"]
    assert (first + second + free).to_numpy() == pytest.approx(np.ones(len(free)), abs=1e-12)


def test_incidence_and_variance_equal_lifelines_on_untied_times() -> None:
    from lifelines import AalenJohansenFitter

    time, cause = draw_causes(250, seed=2, ties=False)
    ours = estimate_cumulative_incidence(time, cause)
    theirs = AalenJohansenFitter(calculate_variance=True).fit(time, cause, event_of_interest=1)
    assert ours["incidence"].to_numpy() == pytest.approx(theirs.cumulative_density_.iloc[:, 0].to_numpy(), abs=1e-12)
    variance = theirs.variance_.to_numpy()
    middle = slice(5, 200)
    assert ours["se"].to_numpy()[middle] ** 2 == pytest.approx(variance[middle], rel=0.05)


def test_the_standard_error_agrees_with_the_bootstrap() -> None:
    time, cause = draw_causes(200, seed=3, ties=True)
    rng = np.random.default_rng(4)
    drawn = [
        read_incidence(estimate_cumulative_incidence(time[i], cause[i]), at=[30.0])["incidence"].item()
        for i in rng.integers(0, 200, size=(400, 200))
    ]
    se = read_incidence(estimate_cumulative_incidence(time, cause), at=[30.0])["se"].item()
    assert se == pytest.approx(np.std(drawn), rel=0.12)


def test_with_one_cause_it_is_one_minus_km_with_greenwoods_error() -> None:
    time, cause = draw_causes(200, seed=5, ties=True)
    only = np.where(cause == 1, 1, 0)
    curve = estimate_cumulative_incidence(time, only)
    km = fit_km(time, only > 0, interval="log")
    assert curve["incidence"].to_numpy() == pytest.approx(1 - km["survival"].to_numpy(), abs=1e-12)
    spread = np.log(km["ci_high"] / km["survival"]).to_numpy() / 1.959963984540054 * km["survival"].to_numpy()
    inside = ((km["ci_high"] < 1) & (km["survival"] > 0)).to_numpy()
    assert curve["se"].to_numpy()[inside] == pytest.approx(spread[inside], rel=1e-9)


def test_one_minus_km_is_never_below_the_incidence() -> None:
    time, cause = draw_causes(300, seed=6, ties=True)
    curve = estimate_cumulative_incidence(time, cause)
    assert (curve["one_minus_km"] >= curve["incidence"] - 1e-12).all()
    assert curve["incidence"].diff().dropna().ge(0).all()
    assert ((curve["ci_low"] <= curve["incidence"]) & (curve["incidence"] <= curve["ci_high"])).all()


def test_death_without_recurrence_is_the_competing_cause() -> None:
    time, cause = derive_causes(
        [10.0, 20.0, 30.0], [True, False, False], death_time=[15.0, 25.0, 30.0], death=[True, True, False]
    )
    assert time.tolist() == [10.0, 25.0, 30.0]
    assert cause.tolist() == [1, 2, 0]


def test_in_a_composite_endpoint_an_event_at_the_time_of_death_is_the_death() -> None:
    time, cause = derive_causes(
        [10.0, 25.0, 30.0],
        [True, True, False],
        death_time=[15.0, 25.0, 30.0],
        death=[True, True, False],
        composite=True,
    )
    assert time.tolist() == [10.0, 25.0, 30.0]
    assert cause.tolist() == [1, 2, 0]


def test_incidence_is_read_at_the_last_step() -> None:
    curve = estimate_cumulative_incidence(TIME, CAUSE)
    assert read_incidence(curve, at=[0.5, 1.0, 1.5])["incidence"].tolist() == pytest.approx([0, 1 / 8, 1 / 8])
    with pytest.raises(StatsError, match=r"asked at \[9.0\], but follow-up runs from 0 to 8"):
        read_incidence(curve, at=[9.0])


def test_causes_must_be_whole_numbers_and_must_happen() -> None:
    with pytest.raises(OutcomeError, match=r"type float64, expected 2 whole numbers"):
        estimate_cumulative_incidence([1.0, 2.0], [0.0, 1.0])
    with pytest.raises(StatsError, match=r"cause 3 never happened among 8 cases \(found \[0, 1, 2\]\)"):
        estimate_cumulative_incidence(TIME, CAUSE, of=3)


def test_recurrence_in_metabric_is_overstated_by_one_minus_km(shared_data: Path) -> None:
    folder = shared_data / "metabric"
    joined = pd.read_csv(folder / "DERIVED_metabric_ihc4_joined.csv").merge(
        pd.read_csv(folder / "kaggle_Breast_Cancer_METABRIC.csv"), left_on="PATIENT_ID", right_on="Patient ID"
    )
    recurred = joined["Relapse Free Status"] == "Recurred"
    time, cause = derive_causes(
        joined["Relapse Free Status (Months)"].where(recurred, joined["time_months"]), recurred,
        death_time=joined["time_months"], death=joined["event"],
    )  # fmt: skip
    at_20_years = read_incidence(estimate_cumulative_incidence(time, cause), at=[240.0]).iloc[0]
    assert at_20_years["one_minus_km"] == pytest.approx(0.501, abs=0.001)
    assert at_20_years["incidence"] == pytest.approx(0.450, abs=0.001)
