"""Competing risks: a case that died of something else cannot recur, and is not merely 'censored'."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import OutcomeError, StatsError
from helpers.stats.follow_up import Z95, Floats, check_outcomes
from helpers.stats.kaplan_meier import fit_km


def derive_causes(
    time: ArrayLike, event: ArrayLike, *, death_time: ArrayLike, death: ArrayLike, composite: bool = False
) -> tuple[Floats, NDArray[np.intp]]:
    """Turn an endpoint and death into one time and one cause per case.

    Parameters
    ----------
    time : array_like, (n_cases,)
        Of the endpoint of interest.
    event : array_like, (n_cases,)
    death_time : array_like, (n_cases,)
        Time of death or last contact.
    death : array_like, (n_cases,); death of any cause
    composite : bool
        The endpoint counts death itself, such as "recurrence or death": an event at the time of death is that death.

    Returns
    -------
    time : ndarray, (n_cases,), float64
        Of the event of interest, else of death, else of the end of follow-up for the endpoint.
    cause : ndarray, (n_cases,), int
        0 censored, 1 the event of interest, 2 death without it.
    """
    first, happened = check_outcomes(time, event)
    last, died = check_outcomes(death_time, death)
    if composite:
        happened = happened & ~(died & (first == last))
    competing = ~happened & died
    return np.where(competing, last, first), np.where(happened, 1, np.where(competing, 2, 0))


def estimate_cumulative_incidence(time: ArrayLike, cause: ArrayLike, *, of: int = 1) -> pd.DataFrame:
    """Estimate the probability of one cause by time t in the presence of the others (Aalen–Johansen).

    Beside it stands 1 − Kaplan–Meier, which censors the other causes: it answers what would happen if nobody ever
    died of anything else, and is never the smaller of the two.

    Parameters
    ----------
    time : array_like, (n_cases,)
    cause : array_like, (n_cases,), int
        0 censored, 1, 2, … the causes.
    of : int
        The cause of interest.

    Returns
    -------
    DataFrame
        time, n_at_risk (just before `time`), n_events (of this cause), n_competing, n_censored, incidence, se,
        ci_low, ci_high (95 %, log-log), one_minus_km; the first row is time 0.

    Raises
    ------
    OutcomeError
        When a cause is not a whole number from 0.
    StatsError
        When the cause of interest never happened.

    References
    ----------
    Aalen and Johansen 1978, Scand J Stat 5:141. Variance: Marubini and Valsecchi 1995, eq. 10.12 (delta method).
    """
    times, _ = check_outcomes(time, np.zeros(np.size(time), dtype=bool))
    causes = check_causes(cause, times.size, of=of)
    any_cause, this = fit_km(times, causes > 0), fit_km(times, causes == of)
    survival = any_cause["survival"].to_numpy()
    before = np.concatenate([[1.0], survival[:-1]])
    at_risk, died = any_cause["n_at_risk"].to_numpy(float), any_cause["n_events"].to_numpy(float)
    mine = this["n_events"].to_numpy(float)
    incidence = np.cumsum(before * mine / at_risk)
    se = _compute_delta_se(incidence, before, at_risk, died, mine)
    low, high = _bound(incidence, se)
    return pd.DataFrame(
        {
            "time": any_cause["time"], "n_at_risk": at_risk.astype(int), "n_events": mine.astype(int),
            "n_competing": (died - mine).astype(int), "n_censored": any_cause["n_censored"],
            "incidence": incidence, "se": se, "ci_low": low, "ci_high": high,
            "one_minus_km": 1.0 - this["survival"],
        }
    )  # fmt: skip


def read_incidence(curve: pd.DataFrame, *, at: ArrayLike) -> pd.DataFrame:
    """Read a cumulative incidence curve at given times: the last step at or before each.

    Parameters
    ----------
    curve : DataFrame
        From `estimate_cumulative_incidence`.
    at : array_like, (n_times,)

    Returns
    -------
    DataFrame
        time (as asked), incidence, se, ci_low, ci_high, one_minus_km.

    Raises
    ------
    StatsError
        When a time lies before 0 or beyond follow-up.
    """
    moments = np.asarray(at, dtype=np.float64)
    end = float(curve["time"].iloc[-1])
    if (moments < 0).any() or (moments > end).any():
        msg = f"StatsError: incidence asked at {moments.tolist()}, but follow-up runs from 0 to {end:g}. Ask within it."
        raise StatsError(msg)
    rows = np.searchsorted(curve["time"].to_numpy(), moments, side="right") - 1
    columns = ["incidence", "se", "ci_low", "ci_high", "one_minus_km"]
    return curve.iloc[rows][columns].reset_index(drop=True).assign(time=moments)[["time", *columns]]


def check_causes(cause: ArrayLike, n_cases: int, *, of: int) -> NDArray[np.intp]:
    """Return the causes after checking that they are whole numbers and that the one of interest happened.

    Parameters
    ----------
    cause : array_like, (n_cases,), int
    n_cases : int
    of : int
        The cause of interest.

    Returns
    -------
    ndarray, (n_cases,), int

    Raises
    ------
    OutcomeError
        When a cause is not a whole number from 0.
    StatsError
        When the cause of interest never happened.
    """
    causes = np.asarray(cause)
    if causes.shape != (n_cases,) or not np.issubdtype(causes.dtype, np.integer) or (causes < 0).any():
        msg = (
            f"OutcomeError: causes of shape {causes.shape} and type {causes.dtype}, expected {n_cases} whole numbers "
            "(0 censored, 1, 2, … causes). Use derive_causes, or code them."
        )
        raise OutcomeError(msg)
    if not (causes == of).any():
        msg = f"StatsError: cause {of} never happened among {n_cases} cases (found {np.unique(causes).tolist()})."
        raise StatsError(msg + " Check the coding of causes.")
    return causes


def _compute_delta_se(incidence: Floats, before: Floats, at_risk: Floats, died: Floats, mine: Floats) -> Floats:
    """Return the standard error at every time: three sums over earlier times, expanded so that they accumulate."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hazard = np.where(at_risk > died, died / (at_risk * (at_risk - died)), 0.0)
    binomial = before**2 * (at_risk - mine) * mine / at_risk**3
    cross = before * mine / at_risk**2
    first = (
        incidence**2 * np.cumsum(hazard)
        - 2 * incidence * np.cumsum(incidence * hazard)
        + np.cumsum(incidence**2 * hazard)
    )
    third = incidence * np.cumsum(cross) - np.cumsum(incidence * cross)
    return np.sqrt(np.maximum(first + np.cumsum(binomial) - 2 * third, 0.0))


def _bound(incidence: Floats, se: Floats) -> tuple[Floats, Floats]:
    """Return the 95 % interval, symmetric on the scale log(−log incidence), which keeps it inside (0, 1)."""
    inside = (incidence > 0) & (incidence < 1)
    safe = np.where(inside, incidence, 0.5)
    half = Z95 * se / (safe * np.log(safe))
    low, high = safe ** np.exp(-half), safe ** np.exp(half)
    return np.where(inside, np.minimum(low, high), incidence), np.where(inside, np.maximum(low, high), incidence)
