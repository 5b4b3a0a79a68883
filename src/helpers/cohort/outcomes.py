"""The gate for outcomes: what happened, when, and what is not known.

`event` True means it happened. An unknown status is an error, or a loss with a name, never an event and never a
censoring. Time 0 is kept and counted; a negative time is an error.
"""

import math
from typing import Any

import pandas as pd
from pandas.api.types import is_bool_dtype, is_float_dtype

from helpers.cohort.textfiles import clean_cell
from helpers.core.errors import OutcomeError, SchemaError
from helpers.core.vocab import DAYS_PER_MONTH, ENDPOINTS, event_column, time_column

EVENT_WORDS = {
    **dict.fromkeys(["1", "1.0", "true", "dead", "deceased"], True),
    **dict.fromkeys(["0", "0.0", "false", "alive", "living"], False),
}
"""Accepted spellings of an event status, in lower case; '1:DECEASED' and '0:LIVING' (cBioPortal) count as well."""

MAX_MONTHS = 1_200
"""Longest believable follow-up: 100 years. A cohort in days is beyond it after 3.3 years."""

OUTCOME_ATTRS = ("endpoint", "losses", "n_time_zero")


def parse_event(value: Any) -> bool | None:
    """Read one event status.

    Parameters
    ----------
    value : Any
        A bool, a number, text, or missing.

    Returns
    -------
    bool or None
        True = happened, None = not stated.

    Raises
    ------
    ValueError
        When the value is none of the accepted words.
    """
    if value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    text = clean_cell(value)
    if text is None:
        return None
    word = text.lower().split(":")[0]
    if word not in EVENT_WORDS:
        raise ValueError(text)
    return EVENT_WORDS[word]


def flip_censorship(censored: pd.Series) -> pd.Series:
    """Turn a `censorship` column (1 = censored) into an event column (True = happened).

    Parameters
    ----------
    censored : Series
        As in the tables of PORPOISE and SurvPath, where 1 means that the event was *not* seen.

    Returns
    -------
    Series, boolean (nullable)
    """
    return ~censored.map(parse_event).astype("boolean")


def convert_days(days: pd.Series) -> pd.Series:
    """Convert follow-up in days to months of 365.25 / 12 days.

    Parameters
    ----------
    days : Series of float, days

    Returns
    -------
    Series of float, months
    """
    return days.astype(float) / DAYS_PER_MONTH


def check_outcome(cases: pd.DataFrame, endpoint: str) -> list[OutcomeError | SchemaError]:
    """List what is wrong with one endpoint's two columns.

    Parameters
    ----------
    cases : DataFrame
        With `case_id`; the endpoint's columns may be absent together, never one alone.
    endpoint : str
        One of `ENDPOINTS`.

    Returns
    -------
    list of OutcomeError or SchemaError
        Empty when all is well.
    """
    when, what = time_column(endpoint), event_column(endpoint)
    present = [name for name in (when, what) if name in cases]
    if len(present) == 1:
        absent = what if present[0] == when else when
        msg = f"SchemaError: table 'cases' has '{present[0]}' but no '{absent}'. Give both columns, or neither."
        return [SchemaError(msg)]
    if not present:
        return []
    return [*_check_times(cases, when), *_check_events(cases, what)]


def _check_times(cases: pd.DataFrame, when: str) -> list[OutcomeError | SchemaError]:
    problems: list[OutcomeError | SchemaError] = []
    if is_float_dtype(cases[when]) and cases[when].dropna().between(0, MAX_MONTHS).all():
        return problems
    for case_id, value in zip(cases["case_id"], cases[when], strict=True):
        number = to_number(value)
        if number is None:
            continue
        if math.isnan(number):
            remedy = "Write decimals with a point." if "," in str(value) else "Correct the cell."
            msg = f"SchemaError: case '{case_id}' has {when} '{value}', expected a number of months. {remedy}"
            problems.append(SchemaError(msg))
        elif number < 0 or math.isinf(number):
            msg = (
                f"OutcomeError: case '{case_id}' has {when} {number:g}, expected 0 or more months. "
                "Correct the date it was computed from, or empty the cell: the case is then lost by name."
            )
            problems.append(OutcomeError(msg))
        elif number > MAX_MONTHS:
            msg = (
                f"OutcomeError: case '{case_id}' has {when} {number:g}, expected at most {MAX_MONTHS} months. "
                f"Are these days? Then divide the whole column by {DAYS_PER_MONTH:g}."
            )
            problems.append(OutcomeError(msg))
    return problems


def _check_events(cases: pd.DataFrame, what: str) -> list[OutcomeError | SchemaError]:
    problems: list[OutcomeError | SchemaError] = []
    if is_bool_dtype(cases[what]):
        return problems
    for case_id, value in zip(cases["case_id"], cases[what], strict=True):
        try:
            parse_event(value)
        except ValueError:
            status = "vital status" if what == "os_event" else "event status"
            msg = (
                f"OutcomeError: case '{case_id}' has unknown {status} '{value}' in {what}, expected 1 or true (it "
                "happened), 0 or false (it did not). Correct it, or empty the cell: the case is then lost by name."
            )
            problems.append(OutcomeError(msg))
    return problems


def to_number(value: Any) -> float | None:
    """Read one number.

    Parameters
    ----------
    value : Any
        Number, text or missing.

    Returns
    -------
    float or None
        None where missing, NaN where the text is no number.
    """
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    text = clean_cell(value)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return math.nan


def read_times(column: pd.Series) -> pd.Series:
    """Turn a column of follow-up times into floats; call it after `check_outcome`.

    Parameters
    ----------
    column : Series
        Numbers, text or missing.

    Returns
    -------
    Series of float, months
    """
    return column.astype(float) if is_float_dtype(column) else column.map(to_number).astype(float)


def read_events(column: pd.Series) -> pd.Series:
    """Turn a column of event states into nullable booleans; call it after `check_outcome`.

    Parameters
    ----------
    column : Series
        Booleans, numbers, text or missing.

    Returns
    -------
    Series, boolean (nullable)
    """
    return column.astype("boolean") if is_bool_dtype(column) else column.map(parse_event).astype("boolean")


def list_endpoints(cases: pd.DataFrame) -> list[str]:
    """Return the endpoints that the case table carries, in the order of `ENDPOINTS`.

    Parameters
    ----------
    cases : DataFrame

    Returns
    -------
    list of str
    """
    return [name for name in ENDPOINTS if time_column(name) in cases and event_column(name) in cases]


def select_outcome(cases: pd.DataFrame, endpoint: str) -> pd.DataFrame:
    """Take one endpoint out of the case table; a case without it is lost by name.

    Parameters
    ----------
    cases : DataFrame
        Of `read_cases`.
    endpoint : str
        One of `ENDPOINTS`.

    Returns
    -------
    DataFrame
        `case_id`, `time_months` (float, >= 0), `event` (bool, True = happened). `.attrs` holds `endpoint`, `losses`
        (case_id to reason) and `n_time_zero`, the rows at time 0: kept, though no risk set contains them.

    Raises
    ------
    OutcomeError
        When the endpoint is unknown, absent from the table, or known for no case; or a value is impossible.
    """
    if endpoint not in list_endpoints(cases):
        listed = ", ".join(list_endpoints(cases)) or "none"
        msg = (
            f"OutcomeError: endpoint '{endpoint}' is not in the case table, which has: {listed}. "
            f"Choose one of these, or add the columns {endpoint}_time_months and {endpoint}_event."
        )
        raise OutcomeError(msg)
    problems = check_outcome(cases, endpoint)
    if problems:
        raise problems[0]
    time, event = read_times(cases[time_column(endpoint)]), read_events(cases[event_column(endpoint)])
    losses = _name_losses(cases["case_id"], time, event, endpoint)
    known = (time.notna() & event.notna()).to_numpy()
    if not known.any():
        msg = f"OutcomeError: no case of {len(cases)} has both {endpoint} time and event. Choose another endpoint."
        raise OutcomeError(msg)
    table = pd.DataFrame({"case_id": cases["case_id"], "time_months": time, "event": event.fillna(False).astype(bool)})[
        known
    ].reset_index(drop=True)
    table.attrs |= {"endpoint": endpoint, "losses": losses, "n_time_zero": int((table["time_months"] == 0).sum())}
    return table


def _name_losses(case_ids: pd.Series, time: pd.Series, event: pd.Series, endpoint: str) -> dict[str, str]:
    reasons = {}
    for case_id, no_time, no_event in zip(case_ids, time.isna(), event.isna(), strict=True):
        if no_time and no_event:
            reasons[case_id] = f"{endpoint}: not recorded"
        elif no_time:
            reasons[case_id] = f"{endpoint}: status without a follow-up time"
        elif no_event:
            reasons[case_id] = f"{endpoint}: unknown status"
    return reasons


def combine_with_death(cases: pd.DataFrame, endpoint: str) -> tuple[pd.Series, pd.Series]:
    """Build "endpoint or death": the first of the two, censored where both are.

    An endpoint such as the progression-free interval censors deaths without tumour. The combined endpoint counts
    them. Where either part is unknown the combination is unknown, even if the other part happened: a death says
    nothing about an earlier recurrence.

    Parameters
    ----------
    cases : DataFrame
        With time and event columns of `endpoint` and of os, as numbers and booleans.
    endpoint : str
        For example 'pfi'.

    Returns
    -------
    time : Series of float, months
        The endpoint's own time where it happened, the overall follow-up otherwise.
    event : Series, boolean (nullable)
    """
    part = cases[event_column(endpoint)].astype("boolean")
    death = cases["os_event"].astype("boolean")
    part_time = cases[time_column(endpoint)].astype(float)
    death_time = cases["os_time_months"].astype(float)
    time = part_time.where(part.fillna(False).astype(bool), death_time)
    known = part.notna() & death.notna() & part_time.notna() & death_time.notna()
    return time.where(known), (part | death).where(known).astype("boolean")
