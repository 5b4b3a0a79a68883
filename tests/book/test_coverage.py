"""Coverage and level over table-only cohorts: the arithmetic, its repeatability, and a small run of the real thing."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.book.coverage import format_coverage, measure_coverage, summarize_coverage
from helpers.core.errors import RunError
from helpers.core.specs import PhantomSpec
from helpers.phantom.estimands import compute_estimands

PHANTOM = PhantomSpec(n_estimand=100_000)

pytestmark = pytest.mark.xdist_group("coverage")  # the truth and the cohorts are drawn once, not once per worker


@pytest.fixture(scope="module")
def estimands() -> dict[str, Any]:
    return compute_estimands(PHANTOM)


@pytest.fixture(scope="module")
def measured(estimands: dict[str, Any]) -> pd.DataFrame:
    return measure_coverage(PHANTOM, estimands, n_cohorts=250, sizes=[100])


def test_intervals_cover_and_the_logrank_test_keeps_its_level(measured: pd.DataFrame) -> None:
    summary = summarize_coverage(measured)
    assert set(summary["n_cohorts"]) == {250}
    covers = summary[summary["quantity"].str.endswith("interval covers")]
    assert covers["share"].between(0.91, 0.985).all(), "250 cohorts: 95 % within 3 standard errors"
    rejects = summary[summary["quantity"] == "log-rank rejects a null"]
    assert rejects["share"].between(0.012, 0.095).all()
    assert (summary["bias"].abs() < 0.06).all()


def test_a_wrong_truth_is_not_covered(measured: pd.DataFrame) -> None:
    shifted = (
        np.abs(measured["log_hr"] - (measured["truth"] + 0.6)) <= np.abs(measured["log_hr"] - measured["truth"])
    ).mean()
    assert shifted < 0.2, "estimates lie nearer to the planted value than to one 0.6 away"


def test_shares_of_four_cohorts_by_hand() -> None:
    rows = pd.DataFrame(
        {
            "n_cases": 100,
            "cohort": range(4),
            "endpoint": "rfs",
            "scale": "high_vs_low",
            "n_events": [30, 32, 34, 36],
            "log_hr": [0.1, 0.2, 0.3, 0.4],
            "truth": 0.2,
            "wald": [1, 1, 1, 0.0],
            "profile": 1.0,
            "rejected": [0, 0, 0, 1.0],
        }
    )
    table = summarize_coverage(rows).set_index("quantity")
    assert table.loc["Wald interval covers", "share"] == 0.75
    assert table.loc["log-rank rejects a null", "share"] == 0.25
    assert table["mean_events"].iloc[0] == 33
    assert table["bias"].iloc[0] == pytest.approx(0.05)
    assert table["holds"].isna().all(), "four cohorts judge nothing"
    assert "| too few cohorts |" in format_coverage(table.reset_index())
    many = summarize_coverage(pd.concat([rows] * 600)).set_index("quantity")
    assert not many.loc["Wald interval covers", "holds"]
    assert "| NO |" in format_coverage(many.reset_index())


def test_cohorts_are_the_same_however_many_are_drawn(measured: pd.DataFrame, estimands: dict[str, Any]) -> None:
    again = measure_coverage(PHANTOM, estimands, n_cohorts=3, sizes=[100])
    pd.testing.assert_frame_equal(again, measured[measured["cohort"] < 3].reset_index(drop=True))


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(RunError, match="0 cohorts of sizes"):
        measure_coverage(PHANTOM, {}, n_cohorts=0)
