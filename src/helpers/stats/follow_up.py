"""The gate for follow-up: every time and every event status is checked before anything is estimated from them."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import OutcomeError, StatsError

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def check_outcomes(time: ArrayLike, event: ArrayLike) -> tuple[Floats, Bools]:
    """Return times as float64 and events as bool after checking every case.

    Parameters
    ----------
    time : array_like, (n_cases,); 0 or more, finite
    event : array_like, (n_cases,); bool or 0/1, 1 = happened

    Returns
    -------
    time : ndarray, (n_cases,), float64
    event : ndarray, (n_cases,), bool

    Raises
    ------
    OutcomeError
        When lengths differ, nothing is given, a time is negative or missing, or a status is neither 0 nor 1.
    """
    times = np.asarray(time, dtype=np.float64)
    statuses = np.asarray(event)
    if times.ndim != 1 or times.shape != statuses.shape or times.size == 0:
        msg = (
            f"OutcomeError: {times.shape} times and {statuses.shape} event statuses, expected one of each per case "
            "and at least one case. Select the cases first, then pass both columns of the same table."
        )
        raise OutcomeError(msg)
    bad = np.flatnonzero(~(np.isfinite(times) & (times >= 0)))
    if bad.size:
        msg = (
            f"OutcomeError: {bad.size} of {times.size} times are negative or missing, first at position {bad[0]} "
            f"({times[bad[0]]}). Correct or drop these cases by name; time 0 is allowed."
        )
        raise OutcomeError(msg)
    return times, _check_events(statuses)


def _check_events(statuses: NDArray[Any]) -> Bools:
    known = np.array([value is not pd.NA and value in (0, 1) for value in statuses.tolist()], dtype=bool)
    if not known.all():
        first = int(np.flatnonzero(~known)[0])
        msg = (
            f"OutcomeError: {int((~known).sum())} of {known.size} event statuses are neither 0 nor 1, first at "
            f"position {first} ({statuses[first]!r}). An unknown status is never an event: drop the case by name."
        )
        raise OutcomeError(msg)
    return statuses.astype(bool)


def truncate_follow_up(time: ArrayLike, event: ArrayLike, horizon: float | None) -> tuple[Floats, Bools]:
    """End everybody's follow-up at a horizon: later events become censored there, an event at the horizon counts.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    horizon : float or None
        In the unit of `time`; None leaves all as it is.

    Returns
    -------
    time : ndarray, (n_cases,), float64
    event : ndarray, (n_cases,), bool

    Raises
    ------
    OutcomeError
        As `check_outcomes`.
    StatsError
        When the horizon is not above 0.
    """
    times, events = check_outcomes(time, event)
    if horizon is None:
        return times, events
    if not horizon > 0:
        msg = f"StatsError: horizon {horizon} leaves no follow-up, expected more than 0. Give it in the unit of time."
        raise StatsError(msg)
    return np.minimum(times, horizon), events & (times <= horizon)


def check_groups(group: ArrayLike | None, n_cases: int) -> NDArray[Any]:
    """Return one label per case after checking that none is missing.

    Parameters
    ----------
    group : array_like, (n_cases,), or None
        None puts everybody into the group 'all'.
    n_cases : int

    Returns
    -------
    ndarray, (n_cases,)

    Raises
    ------
    StatsError
        When lengths differ or a label is missing.
    """
    labels = np.full(n_cases, "all") if group is None else np.asarray(group)
    if labels.shape != (n_cases,) or pd.isna(labels).any():
        msg = (
            f"StatsError: group labels have shape {labels.shape} with {int(pd.isna(labels).sum())} missing, expected "
            f"({n_cases},) with none missing. Drop cases without a label by name."
        )
        raise StatsError(msg)
    return labels
