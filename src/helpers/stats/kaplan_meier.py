"""Kaplan–Meier curves and what is read off them: numbers at risk, medians, restricted means, the log-rank test."""

from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import StatsError
from helpers.stats.follow_up import Z95, Bools, Floats, check_groups, check_outcomes, truncate_follow_up


def fit_km(
    time: ArrayLike,
    event: ArrayLike,
    *,
    group: ArrayLike | None = None,
    interval: Literal["loglog", "log"] = "loglog",
) -> pd.DataFrame:
    """Fit the Kaplan–Meier curve of each group, with Greenwood's 95 % interval.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    group : array_like, (n_cases,), optional
        One curve per value, in sorted order; without it the only group is 'all'.
    interval : {'loglog', 'log'}
        Scale on which the interval is symmetric: 'log' is R's default, 'loglog' stays inside [0, 1].

    Returns
    -------
    DataFrame
        group, time, survival, ci_low, ci_high, n_at_risk (just before `time`), n_events, n_censored; the first row
        of a group is time 0. The interval is missing once survival is 0.

    References
    ----------
    Kaplan and Meier 1958, J Am Stat Assoc 53:457. Kalbfleisch and Prentice 2002, section 1.4 (log-log).
    """
    times, events = check_outcomes(time, event)
    labels = check_groups(group, times.size)
    curves = [
        _fit_curve(times[labels == label], events[labels == label], interval=interval).assign(group=label)
        for label in np.unique(labels)
    ]
    columns = ["group", "time", "survival", "ci_low", "ci_high", "n_at_risk", "n_events", "n_censored"]
    return pd.concat(curves, ignore_index=True)[columns]


def _fit_curve(time: Floats, event: Bools, *, interval: str) -> pd.DataFrame:
    from lifelines import KaplanMeierFitter

    fitter = KaplanMeierFitter().fit(time, event)
    counts = fitter.event_table
    survival = fitter.survival_function_.iloc[:, 0].to_numpy()
    at_risk, died = counts["at_risk"].to_numpy(float), counts["observed"].to_numpy(float)
    low, high = _compute_greenwood(survival, at_risk, died, interval=interval)
    return pd.DataFrame(
        {
            "time": counts.index.to_numpy(float), "survival": survival, "ci_low": low, "ci_high": high,
            "n_at_risk": at_risk.astype(int), "n_events": died.astype(int),
            "n_censored": counts["censored"].to_numpy(int),
        }
    )  # fmt: skip


def _compute_greenwood(survival: Floats, at_risk: Floats, died: Floats, *, interval: str) -> tuple[Floats, Floats]:
    """Return the 95 % interval; equal to survival before the first event, missing where survival is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(died / (at_risk * (at_risk - died)))  # of log survival
        if interval == "log":
            half = Z95 * np.sqrt(variance)
            low, high = survival * np.exp(-half), np.minimum(survival * np.exp(half), 1.0)
        else:
            half = Z95 * np.sqrt(variance) / np.log(survival)
            low, high = survival ** np.exp(-half), survival ** np.exp(half)
    alone = survival == 1.0
    low, high = np.where(alone, 1.0, low), np.where(alone, 1.0, high)
    gone = survival <= 0
    return np.where(gone, np.nan, low), np.where(gone, np.nan, high)


def count_at_risk(time: ArrayLike, event: ArrayLike, *, at: ArrayLike, group: ArrayLike | None = None) -> pd.DataFrame:
    """Count who is at risk just before each time: everybody whose own time is at least that.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    at : array_like, (n_times,)
    group : array_like, (n_cases,), optional

    Returns
    -------
    DataFrame
        group, time, n_at_risk, n_events (before `time`), n_censored (before `time`); the three sum to the group.
    """
    times, events = check_outcomes(time, event)
    labels = check_groups(group, times.size)
    rows = []
    for label in np.unique(labels):
        mine = labels == label
        for moment in np.asarray(at, dtype=np.float64):
            gone = mine & (times < moment)
            counts = int((mine & ~gone).sum()), int((gone & events).sum()), int((gone & ~events).sum())
            rows.append((label, moment, *counts))
    return pd.DataFrame(rows, columns=["group", "time", "n_at_risk", "n_events", "n_censored"])


def estimate_median(curve: pd.DataFrame, *, survival: float = 0.5) -> pd.DataFrame:
    """Read the median (or another quantile) off Kaplan–Meier curves: the first time survival is at or below it.

    Parameters
    ----------
    curve : DataFrame
        From `fit_km`.
    survival : float
        0.5 for the median.

    Returns
    -------
    DataFrame
        group, median, ci_low, ci_high; missing where a curve (or its band) never falls that far.
    """
    rows = []
    for label, rows_of_group in curve.groupby("group", sort=False):
        reached = [_find_first(rows_of_group, column, survival) for column in ("survival", "ci_low", "ci_high")]
        rows.append((label, *reached))
    return pd.DataFrame(rows, columns=["group", "median", "ci_low", "ci_high"])


def _find_first(curve: pd.DataFrame, column: str, level: float) -> float:
    below = curve.loc[curve[column] <= level + 1e-12, "time"]
    return float(below.iloc[0]) if len(below) else float("nan")


def estimate_follow_up(time: ArrayLike, event: ArrayLike) -> pd.DataFrame:
    """Estimate the median follow-up by the reverse Kaplan–Meier method, in which the event censors the censoring.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)

    Returns
    -------
    DataFrame
        One row: median, ci_low, ci_high, n, n_events.

    References
    ----------
    Schemper and Smith 1996, Control Clin Trials 17:343.
    """
    times, events = check_outcomes(time, event)
    median = estimate_median(fit_km(times, ~events)).drop(columns="group")
    return median.assign(n=times.size, n_events=int(events.sum()))


def estimate_rmst(time: ArrayLike, event: ArrayLike, *, horizon: float, group: ArrayLike | None = None) -> pd.DataFrame:
    """Estimate the restricted mean survival time: the area under each Kaplan–Meier curve up to a horizon.

    Needs no proportional hazards; where two curves cross it still says how much event-free time is lost.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    horizon : float
        In the unit of `time`; at most the shortest group's longest follow-up is trustworthy.
    group : array_like, (n_cases,), optional

    Returns
    -------
    DataFrame
        group, rmst, se, ci_low, ci_high, horizon, n, n_events (up to the horizon).

    References
    ----------
    Royston and Parmar 2013, BMC Med Res Methodol 13:152.
    """
    times, events = truncate_follow_up(time, event, horizon)
    labels = check_groups(group, times.size)
    rows = []
    for label in np.unique(labels):
        mine = labels == label
        mean, se = _integrate_curve(_fit_curve(times[mine], events[mine], interval="log"), horizon)
        bounds = mean - Z95 * se, mean + Z95 * se
        rows.append((label, mean, se, *bounds, horizon, int(mine.sum()), int(events[mine].sum())))
    return pd.DataFrame(rows, columns=["group", "rmst", "se", "ci_low", "ci_high", "horizon", "n", "n_events"])


def compare_rmst(time: ArrayLike, event: ArrayLike, group: ArrayLike, *, horizon: float) -> pd.DataFrame:
    """Compare the restricted mean survival time of groups with that of the last: event-free time lost by a horizon.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    group : array_like, (n_cases,)
        Sorted; the last label is the reference, so 'high' is compared with 'low'.
    horizon : float
        In the unit of `time`.

    Returns
    -------
    DataFrame
        group, reference, difference (group − reference), se, ci_low, ci_high, p, horizon, n, n_events.

    Raises
    ------
    StatsError
        When there is only one group, or the curve of a group is not known up to the horizon: it ends above 0 before.
    """
    from scipy.stats import norm

    times, events = check_outcomes(time, event)
    labels = check_groups(group, times.size)
    _check_comparable(labels, events)
    short = [
        str(name) for name in np.unique(labels) if _ends_early(times[labels == name], events[labels == name], horizon)
    ]
    if short:
        msg = (
            f"StatsError: nobody in {', '.join(short)} is followed to {horizon:g}, so the mean time up to there is not "
            "known. Choose an earlier horizon."
        )
        raise StatsError(msg)
    means = estimate_rmst(times, events, horizon=horizon, group=labels)
    reference, others = means.iloc[-1], means.iloc[:-1]
    difference = others["rmst"] - reference["rmst"]
    se = np.sqrt(others["se"] ** 2 + reference["se"] ** 2)
    return pd.DataFrame(
        {
            "group": others["group"], "reference": reference["group"], "difference": difference, "se": se,
            "ci_low": difference - Z95 * se, "ci_high": difference + Z95 * se,
            "p": 2 * norm.sf(np.abs(difference / se)), "horizon": horizon,
            "n": others["n"] + reference["n"], "n_events": others["n_events"] + reference["n_events"],
        }
    )  # fmt: skip


def _ends_early(time: Floats, event: Bools, horizon: float) -> bool:
    """Say whether a curve ends before a horizon, and not at 0."""
    return bool(time.max() < horizon and not event[time == time.max()].all())


def _integrate_curve(curve: pd.DataFrame, horizon: float) -> tuple[float, float]:
    times, survival = curve["time"].to_numpy(), curve["survival"].to_numpy()
    widths = np.diff(np.append(times, horizon))
    beyond = np.cumsum((widths * survival)[::-1])[::-1]  # area to the right of each time
    at_risk, died = curve["n_at_risk"].to_numpy(float), curve["n_events"].to_numpy(float)
    alive = at_risk > died
    variance = np.sum(beyond[alive] ** 2 * died[alive] / (at_risk[alive] * (at_risk[alive] - died[alive])))
    return float(beyond[0]), float(np.sqrt(variance))


def compare_logrank(
    time: ArrayLike, event: ArrayLike, group: ArrayLike, *, strata: ArrayLike | None = None
) -> pd.DataFrame:
    """Compare the hazards of two or more groups by the log-rank test.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    group : array_like, (n_cases,)
    strata : array_like, (n_cases,), optional
        Groups are compared within each stratum, and the differences added.

    Returns
    -------
    DataFrame
        One row per group: group, n, n_events, expected, and (equal in every row) statistic, df (groups that are at risk
        at an event, less one), p.

    Raises
    ------
    StatsError
        When there is only one group, or no event.

    References
    ----------
    Mantel 1966, Cancer Chemother Rep 50:163. Equal to `survdiff` of R's survival.
    """
    from scipy.stats import chi2

    times, events = check_outcomes(time, event)
    labels, layers = check_groups(group, times.size), check_groups(strata, times.size)
    names = np.unique(labels)
    _check_comparable(labels, events)
    members = (labels[:, None] == names[None, :]).astype(float)  # (n_cases, n_groups)
    expected, covariance = np.zeros(names.size), np.zeros((names.size, names.size))
    for layer in np.unique(layers):
        mine = layers == layer
        more, spread = _sum_logrank(times[mine], events[mine], members[mine])
        expected, covariance = expected + more, covariance + spread
    observed = members[events].sum(axis=0)
    seen = np.flatnonzero(expected > 0)  # a group that is never at risk when something happens says nothing
    excess, df = (observed - expected)[seen][:-1], seen.size - 1
    spread = covariance[np.ix_(seen, seen)][:-1, :-1]
    statistic = float(excess @ np.linalg.lstsq(spread, excess, rcond=None)[0]) if df else 0.0
    counts = {"group": names, "n": members.sum(axis=0).astype(int), "n_events": observed.astype(int)}
    test = {"statistic": statistic, "df": df, "p": float(chi2.sf(statistic, df)) if df else 1.0}
    return pd.DataFrame(counts | {"expected": expected} | test)


def _check_comparable(labels: NDArray[Any], events: Bools) -> None:
    names = np.unique(labels)
    if names.size < 2 or not events.any():
        msg = (
            f"StatsError: {names.size} group(s) ({', '.join(map(str, names))}) and {int(events.sum())} events among "
            f"{events.size} cases, expected at least two groups and one event. Check the cut-off and the horizon."
        )
        raise StatsError(msg)


def _sum_logrank(time: Floats, event: Bools, members: Floats) -> tuple[Floats, Floats]:
    """Sum expected events and their hypergeometric covariance over the event times of one stratum."""
    moments = np.unique(time[event])
    at_risk = (time[:, None] >= moments[None, :]).astype(float)  # (n_cases, n_moments)
    died = ((time[:, None] == moments[None, :]) & event[:, None]).sum(axis=0).astype(float)
    n = at_risk.sum(axis=0)
    share = (members.T @ at_risk) / n  # (n_groups, n_moments)
    scale = died * (n - died) / np.maximum(n - 1, 1)
    covariance = np.diag((share * scale).sum(axis=1)) - (share * scale) @ share.T
    return share @ died, covariance
