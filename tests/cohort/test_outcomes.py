"""Endpoints: what happened, when, and what is not known."""

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.outcomes import combine_with_death, convert_days, parse_event, select_outcome
from helpers.cohort.tables import check_cases
from helpers.core.errors import OutcomeError


@pytest.fixture
def cases() -> pd.DataFrame:
    """Eight patients by hand; see the columns for who is who."""
    rows = [
        # id, pfi time, pfi, os time, os
        ("relapsed, alive", "10", "1", "40", "0"),
        ("relapsed, died", "10", "1", "20", "1"),
        ("died without relapse", "30", "0", "30", "1"),
        ("well", "50", "0", "50", "0"),
        ("seen once", "0", "0", "0", "0"),
        ("relapse unknown, died", "15", None, "15", "1"),
        ("fate unknown", "25", "0", "25", None),
        ("never seen again", None, None, None, None),
    ]
    names = ["case_id", "pfi_time_months", "pfi_event", "os_time_months", "os_event"]
    table, problems = check_cases(pd.DataFrame(rows, columns=names, dtype=object))
    assert not problems
    return table


def test_an_endpoint_is_taken_out_with_named_losses(cases):
    outcome = select_outcome(cases, "pfi")
    assert outcome["case_id"].tolist() == [
        "relapsed, alive", "relapsed, died", "died without relapse", "well", "seen once", "fate unknown",
    ]  # fmt: skip
    assert outcome["event"].tolist() == [True, True, False, False, False, False]
    assert outcome["event"].dtype == bool
    assert outcome.attrs["losses"] == {
        "relapse unknown, died": "pfi: unknown status",
        "never seen again": "pfi: not recorded",
    }


def test_time_zero_is_kept_and_counted(cases):
    outcome = select_outcome(cases, "os")
    assert "seen once" in set(outcome["case_id"])
    assert outcome.attrs["n_time_zero"] == 1


def test_a_status_without_a_time_is_lost_by_name(cases):
    cases.loc[cases["case_id"] == "well", "os_time_months"] = np.nan
    assert select_outcome(cases, "os").attrs["losses"]["well"] == "os: status without a follow-up time"


def test_progression_or_death_is_the_first_of_the_two(cases):
    time, event = combine_with_death(cases, "pfi")
    by_case = dict(zip(cases["case_id"], zip(time, event, strict=True), strict=True))
    assert by_case["relapsed, alive"] == (10.0, True)
    assert by_case["relapsed, died"] == (10.0, True)
    assert by_case["died without relapse"] == (30.0, True)
    assert by_case["well"] == (50.0, False)
    assert by_case["seen once"] == (0.0, False)


def test_progression_or_death_is_unknown_where_a_part_is(cases):
    _, event = combine_with_death(cases, "pfi")
    unknown = set(cases.loc[event.isna(), "case_id"])
    assert unknown == {"relapse unknown, died", "fate unknown", "never seen again"}


def test_an_absent_endpoint_lists_those_at_hand(cases):
    with pytest.raises(OutcomeError) as caught:
        select_outcome(cases, "rfs")
    assert str(caught.value) == (
        "OutcomeError: endpoint 'rfs' is not in the case table, which has: os, pfi. Choose one of these, or add the "
        "columns rfs_time_months and rfs_event."
    )


def test_an_endpoint_known_for_nobody_is_an_error(cases):
    cases["os_event"] = pd.Series([pd.NA] * len(cases), dtype="boolean")
    with pytest.raises(OutcomeError, match="no case of 8 has both os time and event"):
        select_outcome(cases, "os")


def test_months_are_a_twelfth_of_a_julian_year():
    assert convert_days(pd.Series([365.25, 30.4375, 0.0])).tolist() == [12.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), (0, False), (1.0, True), (True, True), ("1:DECEASED", True), ("0:LIVING", False), ("Dead", True),
     ("alive", False), (None, None), ("", None), (np.nan, None), (pd.NA, None), ("[Not Available]", None)],
)  # fmt: skip
def test_spellings_of_a_status(value, expected):
    assert parse_event(value) is expected


@pytest.mark.parametrize("value", ["2", "Unknown", "-1", "yes?", 0.5])
def test_anything_else_is_no_status(value):
    with pytest.raises(ValueError):
        parse_event(value)


def test_a_negative_time_does_not_reach_a_statistic(cases):
    cases.loc[0, "os_time_months"] = -1.0
    with pytest.raises(OutcomeError, match=r"case 'relapsed, alive' has os_time_months -1, expected 0 or more"):
        select_outcome(cases, "os")
