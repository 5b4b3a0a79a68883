"""Time to event: Kaplan–Meier, log-rank, Cox, proportional hazards, concordance; tidy tables in and out, no plots.

`event` True means that it happened; False means that follow-up ended before it did. `risk` and `score` are higher
where the outlook is worse. Times may be in any unit; a horizon is in the same one. Everybody whose time is at least
t is at risk at t, so a case that leaves at t still counts there ("just before t"); time 0 is kept. lifelines draws
the curves and fits the Cox models; tests hold both against R's `survival`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import OutcomeError, StatsError
from helpers.stats.partial_likelihood import compute_event_moments

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
SEPARATED_SE = 30.0
"""A standard error of log HR per SD of the covariate beyond this means that no finite estimate exists."""
Scale = Literal["per_sd", "per_unit", "high_vs_low"]
Transform = Literal["km", "identity", "rank", "log"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Cutoff:
    """The value above which a case counts as 'high', and where it came from.

    Parameters
    ----------
    value : float
        In the score's unit; high means `score > value`.
    origin : str
        Words for figures: 'median of 412 training cases'.
    """

    value: float
    origin: str


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
    known = np.array([value in (0, 1) for value in statuses.tolist()], dtype=bool)
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
    labels = _check_groups(group, times.size)
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


def count_at_risk(
    time: ArrayLike, event: ArrayLike, *, at: ArrayLike, group: ArrayLike | None = None
) -> pd.DataFrame:
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
    labels = _check_groups(group, times.size)
    rows = []
    for label in np.unique(labels):
        mine = labels == label
        for moment in np.asarray(at, dtype=np.float64):
            gone = mine & (times < moment)
            counts = int((mine & ~gone).sum()), int((gone & events).sum()), int((gone & ~events).sum())
            rows.append((label, moment, *counts))
    return pd.DataFrame(rows, columns=["group", "time", "n_at_risk", "n_events", "n_censored"])


def _check_groups(group: ArrayLike | None, n_cases: int) -> NDArray[Any]:
    labels = np.full(n_cases, "all") if group is None else np.asarray(group)
    if labels.shape != (n_cases,) or pd.isna(labels).any():
        msg = (
            f"StatsError: group labels have shape {labels.shape} with {int(pd.isna(labels).sum())} missing, expected "
            f"({n_cases},) with none missing. Drop cases without a label by name."
        )
        raise StatsError(msg)
    return labels


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


def estimate_rmst(
    time: ArrayLike, event: ArrayLike, *, horizon: float, group: ArrayLike | None = None
) -> pd.DataFrame:
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
    labels = _check_groups(group, times.size)
    rows = []
    for label in np.unique(labels):
        mine = labels == label
        mean, se = _integrate_curve(_fit_curve(times[mine], events[mine], interval="log"), horizon)
        bounds = mean - Z95 * se, mean + Z95 * se
        rows.append((label, mean, se, *bounds, horizon, int(mine.sum()), int(events[mine].sum())))
    return pd.DataFrame(rows, columns=["group", "rmst", "se", "ci_low", "ci_high", "horizon", "n", "n_events"])


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
        One row per group: group, n, n_events, expected, and (equal in every row) statistic, df, p.

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
    labels, layers = _check_groups(group, times.size), _check_groups(strata, times.size)
    names = np.unique(labels)
    _check_comparable(labels, events)
    members = (labels[:, None] == names[None, :]).astype(float)  # (n_cases, n_groups)
    expected, covariance = np.zeros(names.size), np.zeros((names.size, names.size))
    for layer in np.unique(layers):
        mine = layers == layer
        more, spread = _sum_logrank(times[mine], events[mine], members[mine])
        expected, covariance = expected + more, covariance + spread
    observed = members[events].sum(axis=0)
    excess = (observed - expected)[:-1]
    statistic = float(excess @ np.linalg.lstsq(covariance[:-1, :-1], excess, rcond=None)[0])
    counts = {"group": names, "n": members.sum(axis=0).astype(int), "n_events": observed.astype(int)}
    test = {"statistic": statistic, "df": names.size - 1, "p": float(chi2.sf(statistic, names.size - 1))}
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


def fit_cox(
    time: ArrayLike,
    event: ArrayLike,
    covariates: pd.DataFrame,
    *,
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    robust: bool = False,
    horizon: float | None = None,
    penalizer: float = 0.0,
) -> pd.DataFrame:
    """Fit a Cox proportional-hazards model, ties by Efron.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    covariates : DataFrame, (n_cases, n_terms), numeric, none missing
    strata : array_like, (n_cases,), optional
        Each stratum has its own baseline hazard.
    clusters : array_like, (n_cases,), optional
        Cases that are not independent; standard errors become Lin and Wei's, summed within clusters.
    robust : bool
        Lin and Wei's standard errors.
    horizon : float, optional
        Follow-up ends here, in the unit of `time`.
    penalizer : float
        Ridge penalty of lifelines; 0 is the plain partial likelihood.

    Returns
    -------
    DataFrame
        One row per term: term, log_hr, se, z, hazard_ratio, ci_low, ci_high, p, and of the model n, n_events,
        events_per_term, log_likelihood.

    Raises
    ------
    StatsError
        When a covariate is missing, constant or not numeric, no event is left, or no finite estimate exists.

    References
    ----------
    Cox 1972, J R Stat Soc B 34:187. Efron 1977, J Am Stat Assoc 72:557. Lin and Wei 1989, J Am Stat Assoc 84:1074.
    """
    times, events = truncate_follow_up(time, event, horizon)
    design = check_covariates(covariates, events)
    frame = design.set_axis([f"x{i}" for i in range(design.shape[1])], axis=1).assign(time=times, event=events)
    options: dict[str, Any] = {"robust": robust}
    if strata is not None:
        frame["stratum"] = _check_groups(strata, times.size)
        options["strata"] = ["stratum"]
    if clusters is not None:
        frame["cluster"] = _check_groups(clusters, times.size)
        options["cluster_col"] = "cluster"
    summary, log_likelihood = _run_newton(frame, list(design.columns), penalizer=penalizer, options=options)
    n_events = int(events.sum())
    return summary.assign(
        n=times.size, n_events=n_events, events_per_term=n_events / len(summary), log_likelihood=log_likelihood
    )


def check_covariates(covariates: pd.DataFrame, events: Bools) -> pd.DataFrame:
    """Return the covariates as float64 after checking that a Cox model can be fitted to them.

    Parameters
    ----------
    covariates : DataFrame, (n_cases, n_terms)
    events : ndarray, (n_cases,), bool

    Returns
    -------
    DataFrame, (n_cases, n_terms), float64

    Raises
    ------
    StatsError
        When rows do not match, a value is missing, a column is constant, or there is no event.
    """
    n_events = int(events.sum())
    if len(covariates) != events.size or covariates.shape[1] == 0 or n_events == 0:
        msg = (
            f"StatsError: covariates of shape {covariates.shape} for {events.size} cases with {n_events} events, "
            "expected one row per case, at least one column and one event. Check the selection and the horizon."
        )
        raise StatsError(msg)
    design = covariates.reset_index(drop=True).astype(np.float64)
    missing = design.columns[~np.isfinite(design).all()]
    constant = [name for name in design.columns if design[name].nunique() < 2]
    if len(missing) or constant:
        counts = ", ".join(f"'{name}' ({int((~np.isfinite(design[name])).sum())})" for name in missing)
        msg = (
            f"StatsError: covariates with missing values: {counts or 'none'}; constant in these {len(design)} cases: "
            f"{', '.join(map(repr, constant)) or 'none'}. Choose complete cases by name; leave constants out."
        )
        raise StatsError(msg)
    return design


def _run_newton(
    frame: pd.DataFrame, terms: list[str], *, penalizer: float, options: dict[str, Any]
) -> tuple[pd.DataFrame, float]:
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    fitter = CoxPHFitter(penalizer=penalizer)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # separation is judged below, by the estimate itself
            fitter.fit(frame, "time", "event", fit_options={"precision": 1e-13}, **options)
    except (ConvergenceError, np.linalg.LinAlgError) as error:
        msg = (
            f"StatsError: no Cox model of {', '.join(terms)} for {len(frame)} cases with {int(frame['event'].sum())} "
            "events: the partial likelihood has no single maximum. Two terms may say the same thing, or one may "
            "separate events from survivors: leave it out, widen the horizon, or give a penalizer."
        )
        raise StatsError(msg) from error
    names = [f"x{i}" for i in range(len(terms))]
    log_hr, se = fitter.params_[names].to_numpy(), fitter.standard_errors_[names].to_numpy()
    _check_finite(log_hr, se, spread=frame[names].std().to_numpy(), terms=terms, n_events=int(frame["event"].sum()))
    return summarize_log_ratios(terms, log_hr, se), float(fitter.log_likelihood_)


def _check_finite(log_hr: Floats, se: Floats, *, spread: Floats, terms: list[str], n_events: int) -> None:
    runaway = ~(np.isfinite(log_hr) & np.isfinite(se)) | (se * spread > SEPARATED_SE)
    if runaway.any():
        named = ", ".join(f"'{terms[i]}' (log HR {log_hr[i]:.3g}, SE {se[i]:.3g})" for i in np.flatnonzero(runaway))
        msg = (
            f"StatsError: {named} separates the {n_events} events from the survivors, so its hazard ratio has no "
            "finite estimate. Choose another cut-off, merge groups, widen the horizon, or give a penalizer."
        )
        raise StatsError(msg)


def summarize_log_ratios(terms: Sequence[str], log_hr: Floats, se: Floats) -> pd.DataFrame:
    """Turn log hazard ratios and their standard errors into the tidy table every Cox function returns.

    Parameters
    ----------
    terms : sequence of str, (n_terms,)
    log_hr : ndarray, (n_terms,)
    se : ndarray, (n_terms,)

    Returns
    -------
    DataFrame
        term, log_hr, se, z, hazard_ratio, ci_low, ci_high (95 %, Wald), p (two-sided, Wald).
    """
    from scipy.stats import norm

    z = log_hr / se  # finite: `_check_finite`
    return pd.DataFrame(
        {
            "term": list(terms), "log_hr": log_hr, "se": se, "z": z, "hazard_ratio": np.exp(log_hr),
            "ci_low": np.exp(log_hr - Z95 * se), "ci_high": np.exp(log_hr + Z95 * se), "p": 2 * norm.sf(np.abs(z)),
        }
    )  # fmt: skip


def scale_score(
    score: ArrayLike, *, scale: Scale = "per_sd", cutoff: Cutoff | None = None, sd: float | None = None
) -> Floats:
    """Express a score on the scale of the hazard ratio.

    Parameters
    ----------
    score : array_like, (n_cases,), none missing
    scale : {'per_sd', 'per_unit', 'high_vs_low'}
    cutoff : Cutoff, optional
        Needed by 'high_vs_low'; high is `score > cutoff.value`.
    sd : float, optional
        For 'per_sd': the SD of the training cases; without it that of `score` (n − 1).

    Returns
    -------
    ndarray, (n_cases,), float64
        Score in SDs, in its own unit, or 1 (high) and 0 (low).

    Raises
    ------
    StatsError
        When a score is missing, the SD is not above 0, or 'high_vs_low' has no cut-off or only one side.
    """
    values = np.asarray(score, dtype=np.float64)
    missing = int((~np.isfinite(values)).sum())
    if missing:
        msg = f"StatsError: {missing} of {values.size} scores are missing. Drop these cases by name before fitting."
        raise StatsError(msg)
    if scale == "per_unit":
        return values
    if scale == "per_sd":
        return values / _check_sd(float(np.std(values, ddof=1)) if sd is None else sd)
    if cutoff is None:
        msg = "StatsError: scale 'high_vs_low' without a cut-off. Fit one on training cases: fit_cutoff(scores)."
        raise StatsError(msg)
    high = (values > cutoff.value).astype(np.float64)
    if high.min() == high.max():
        msg = (
            f"StatsError: cut-off {cutoff.value:.4g} ({cutoff.origin}) leaves all {values.size} cases on one side; "
            f"scores run from {values.min():.4g} to {values.max():.4g}. Check that both are in the same unit."
        )
        raise StatsError(msg)
    return high


def _check_sd(sd: float) -> float:
    if not (np.isfinite(sd) and sd > 0):
        msg = f"StatsError: the score's SD is {sd}, expected more than 0. A constant score has no hazard ratio."
        raise StatsError(msg)
    return sd


def fit_cutoff(training_scores: ArrayLike, *, quantile: float = 0.5, cases: str = "training cases") -> Cutoff:
    """Fit the cut-off between low and high on training cases.

    Parameters
    ----------
    training_scores : array_like, (n_cases,)
        Of the training cases only; missing ones are left out.
    quantile : float
        0.5 is the median.
    cases : str
        Words for the origin.

    Returns
    -------
    Cutoff

    Raises
    ------
    StatsError
        When no score is left.
    """
    values = np.asarray(training_scores, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        msg = f"StatsError: no score among the {cases}, so no cut-off can be fitted. Check the join of scores and cases."
        raise StatsError(msg)
    name = "median" if quantile == 0.5 else f"{100 * quantile:g}th percentile"
    return Cutoff(value=float(np.quantile(values, quantile)), origin=f"{name} of {values.size} {cases}")


def estimate_hazard_ratio(
    time: ArrayLike,
    event: ArrayLike,
    score: ArrayLike,
    *,
    scale: Scale = "per_sd",
    cutoff: Cutoff | None = None,
    sd: float | None = None,
    covariates: pd.DataFrame | None = None,
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    robust: bool = False,
    horizon: float | None = None,
) -> pd.DataFrame:
    """Estimate the hazard ratio of one score, alone or adjusted.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    score : array_like, (n_cases,), none missing; higher is worse
    scale : {'per_sd', 'per_unit', 'high_vs_low'}
    cutoff : Cutoff, optional
        Needed by 'high_vs_low'.
    sd : float, optional
        The SD that 'per_sd' divides by, from training cases; without it that of `score`.
    covariates : DataFrame, (n_cases, n_covariates), optional
        What the ratio is adjusted for.
    strata, clusters : array_like, (n_cases,), optional
    robust : bool
        As in `fit_cox`.
    horizon : float, optional
        Follow-up ends here, in the unit of `time`.

    Returns
    -------
    DataFrame
        One row: the columns of `fit_cox` for the score, and scale, sd, cutoff, cutoff_origin, n_high,
        n_events_high, adjusted_for, horizon.

    Raises
    ------
    StatsError
        As `scale_score` and `fit_cox`.
    """
    x = scale_score(score, scale=scale, cutoff=cutoff, sd=sd)
    design = pd.DataFrame({"score": x})
    if covariates is not None:
        design = pd.concat([design, covariates.reset_index(drop=True)], axis=1)
    fit = fit_cox(time, event, design, strata=strata, clusters=clusters, robust=robust, horizon=horizon)
    high = x == 1 if scale == "high_vs_low" else np.zeros(x.size, dtype=bool)
    used = np.std(np.asarray(score, dtype=float), ddof=1) if sd is None else sd
    return fit.iloc[[0]].assign(
        scale=scale,
        sd=used if scale == "per_sd" else np.nan,
        cutoff=cutoff.value if cutoff and scale == "high_vs_low" else np.nan,
        cutoff_origin=cutoff.origin if cutoff and scale == "high_vs_low" else "",
        n_high=int(high.sum()),
        n_events_high=int((truncate_follow_up(time, event, horizon)[1] & high).sum()),
        adjusted_for=", ".join(design.columns[1:]),
        horizon=np.nan if horizon is None else horizon,
    )


def fit_uni_and_multivariable(
    time: ArrayLike, event: ArrayLike, terms: pd.DataFrame, *, horizon: float | None = None, **options: Any
) -> pd.DataFrame:
    """Fit every term alone and all together, on the same cases, so that only the adjustment differs.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    terms : DataFrame, (n_cases, n_terms), numeric, none missing
    horizon : float, optional
        Follow-up ends here, in the unit of `time`.
    **options : Any
        Passed to `fit_cox`.

    Returns
    -------
    DataFrame
        The columns of `fit_cox` with `model` first: 'univariable' or 'multivariable'.

    Raises
    ------
    StatsError
        As `fit_cox`.
    """
    alone = [fit_cox(time, event, terms[[name]], horizon=horizon, **options) for name in terms.columns]
    together = fit_cox(time, event, terms, horizon=horizon, **options)
    table = pd.concat([*alone, together], ignore_index=True)
    table.insert(0, "model", ["univariable"] * len(alone) + ["multivariable"] * len(together))
    return table


def estimate_ratio_by_horizon(
    time: ArrayLike, event: ArrayLike, score: ArrayLike, *, horizons: Sequence[float], **options: Any
) -> pd.DataFrame:
    """Estimate the hazard ratio with follow-up ended at each horizon: what a shorter study would have reported.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    score : array_like, (n_cases,)
    horizons : sequence of float
        In the unit of `time`.
    **options : Any
        Passed to `estimate_hazard_ratio`.

    Returns
    -------
    DataFrame
        One row per horizon: start (0), end, the columns of `estimate_hazard_ratio`, and `note`, which says why a
        ratio is missing.
    """
    times, events = check_outcomes(time, event)
    rows = [_estimate_or_explain(times, events, score, horizon=end, **options).assign(end=end) for end in horizons]
    return pd.concat(rows, ignore_index=True).assign(start=0.0)


def estimate_ratio_by_period(
    time: ArrayLike,
    event: ArrayLike,
    score: ArrayLike,
    *,
    edges: Sequence[float],
    covariates: pd.DataFrame | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Estimate the hazard ratio within each period of follow-up, among those still at risk when it starts.

    Under proportional hazards all periods agree; where they do not, one number over all of follow-up is an average
    that depends on how long people were followed.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    score : array_like, (n_cases,)
    edges : sequence of float, increasing
        Periods are (edge, next edge]; the first one also holds time 0.
    covariates : DataFrame, (n_cases, n_covariates), optional
    **options : Any
        Passed to `estimate_hazard_ratio`; `sd` is fixed over the periods, so that units agree.

    Returns
    -------
    DataFrame
        One row per period: start, end, the columns of `estimate_hazard_ratio`, and `note`, which says why a ratio
        is missing.
    """
    times, events = check_outcomes(time, event)
    values = np.asarray(score, dtype=np.float64)
    if options.get("sd") is None:
        options["sd"] = float(np.std(values, ddof=1))
    rows = []
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        still = times > start if start > 0 else np.ones(times.size, dtype=bool)
        design = None if covariates is None else covariates.loc[still]
        row = _estimate_or_explain(
            times[still], events[still], values[still], covariates=design, horizon=end, **options
        )
        rows.append(row.assign(start=start, end=end))
    return pd.concat(rows, ignore_index=True)


def _estimate_or_explain(time: Floats, event: Bools, score: ArrayLike, **options: Any) -> pd.DataFrame:
    """Return the estimate, or a row without one whose `note` says why."""
    try:
        return estimate_hazard_ratio(time, event, score, **options).assign(note="")
    except (StatsError, OutcomeError) as error:
        n_events = int((event & (time <= options.get("horizon", np.inf))).sum())
        return pd.DataFrame({"term": ["score"], "n": [time.size], "n_events": [n_events], "note": [str(error)]})


def check_proportional_hazards(
    time: ArrayLike,
    event: ArrayLike,
    covariates: pd.DataFrame,
    *,
    transform: Transform = "km",
    strata: ArrayLike | None = None,
    horizon: float | None = None,
) -> pd.DataFrame:
    """Test whether hazard ratios are constant over follow-up: the score test of a term × g(time) interaction.

    This is `cox.zph` of R's survival 3.0 and later, equal to it to 9 digits. lifelines'
    `proportional_hazard_test` is another test, the approximation of 1994 that takes the variance of the residuals
    as constant over time; its statistics differ (for GBSG age: 10.53 here and in R).

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    covariates : DataFrame, (n_cases, n_terms)
    transform : {'km', 'identity', 'rank', 'log'}
        g(time); 'km' is 1 − Kaplan–Meier just before the event, R's default. 'log' needs every event after time 0.
    strata : array_like, (n_cases,), optional
    horizon : float, optional
        Follow-up ends here, in the unit of `time`.

    Returns
    -------
    DataFrame
        term, statistic (chi-squared), df, p; one row per term, then 'GLOBAL'. A small p means that the one hazard
        ratio of a Cox model hides a change over time.

    References
    ----------
    Grambsch and Therneau 1994, Biometrika 81:515. Therneau, `cox.zph` of survival 3.0, score test.
    """
    times, events = truncate_follow_up(time, event, horizon)
    walk = _walk_fit(times, events, covariates, strata=strata)
    g = transform_time(times, events, transform=transform)[walk.row]
    g = g - g.mean()
    drift = np.einsum("d,dp->p", g, walk.residual)  # the score of the interactions
    information = _fold_information(walk.covariance, g)
    n_terms = covariates.shape[1]
    tests = [_test_score(drift, information, [i], n_terms) for i in range(n_terms)]
    tests.append(_test_score(drift, information, list(range(n_terms)), n_terms))
    table = pd.DataFrame(tests, columns=["statistic", "df", "p"])
    table.insert(0, "term", [*covariates.columns, "GLOBAL"])
    return table


@dataclass(frozen=True)
class _Walk:
    """Residuals and covariances at each death of a fitted model, in units of each covariate's SD."""

    row: NDArray[np.intp]
    residual: Floats
    covariance: Floats
    log_hr: Floats
    spread: Floats


def _walk_fit(times: Floats, events: Bools, covariates: pd.DataFrame, *, strata: ArrayLike | None) -> _Walk:
    design = check_covariates(covariates, events)
    fit = fit_cox(times, events, design, strata=strata)
    spread = design.std().to_numpy()
    x = ((design - design.mean()) / spread).to_numpy()
    log_hr = fit["log_hr"].to_numpy() * spread
    layers = np.unique(_check_groups(strata, times.size), return_inverse=True)[1]
    moments = compute_event_moments(times, events, x, log_hr=log_hr, strata=layers)
    residual = x[moments.row] - moments.mean
    return _Walk(moments.row, residual, moments.covariance, log_hr, spread)


def transform_time(time: ArrayLike, event: ArrayLike, *, transform: Transform) -> Floats:
    """Return g(time) of every case, on which a drift of the hazard ratio is looked for.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    transform : {'km', 'identity', 'rank', 'log'}

    Returns
    -------
    ndarray, (n_cases,), float64

    Raises
    ------
    StatsError
        When the transform is unknown, or 'log' meets an event at time 0.
    """
    times, events = check_outcomes(time, event)
    if transform == "identity":
        return times
    if transform == "rank":
        return pd.Series(times).rank().to_numpy()
    if transform == "km":
        curve = fit_km(times, events)
        before = np.concatenate([[1.0], curve["survival"].to_numpy()[:-1]])
        return 1.0 - before[np.searchsorted(curve["time"].to_numpy(), times)]
    if transform == "log" and not (events & (times == 0)).any():
        return np.log(np.where(times > 0, times, 1.0))
    msg = f"StatsError: transform '{transform}' is unknown or meets an event at time 0. Take 'km', 'rank' or 'identity'."
    raise StatsError(msg)


def _fold_information(covariance: Floats, g: Floats) -> Floats:
    """Return the information of the terms and their interactions with g(time), (2 n_terms, 2 n_terms)."""
    plain, cross, square = (np.einsum("d,dpq->pq", g**power, covariance) for power in (0, 1, 2))
    return np.block([[plain, cross], [cross, square]])


def _test_score(drift: Floats, information: Floats, tested: list[int], n_terms: int) -> tuple[float, int, float]:
    from scipy.stats import chi2

    keep = [*range(n_terms), *(n_terms + i for i in tested)]
    score = np.concatenate([np.zeros(n_terms), drift[tested]])
    statistic = float(score @ np.linalg.solve(information[np.ix_(keep, keep)], score))
    return statistic, len(tested), float(chi2.sf(statistic, len(tested)))


def compute_schoenfeld(
    time: ArrayLike,
    event: ArrayLike,
    covariates: pd.DataFrame,
    *,
    strata: ArrayLike | None = None,
    horizon: float | None = None,
    n_points: int = 60,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute scaled Schoenfeld residuals, whose running mean is the log hazard ratio as it changes with time.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    covariates : DataFrame, (n_cases, n_terms)
    strata : array_like, (n_cases,), optional
    horizon : float, optional
        Follow-up ends here, in the unit of `time`.
    n_points : int
        Points of the smooth.

    Returns
    -------
    residuals : DataFrame
        term, time, log_hr (scaled residual + coefficient); one row per death and term.
    smooth : DataFrame
        term, time, log_hr, ci_low, ci_high: a natural cubic spline with 4 degrees of freedom over g(time) = 1 − KM,
        its 95 % interval, and `average`, the log hazard ratio that the Cox model states.

    References
    ----------
    Grambsch and Therneau 1994, Biometrika 81:515; spline and interval as in `plot.cox.zph` of R's survival.
    """
    times, events = truncate_follow_up(time, event, horizon)
    walk = _walk_fit(times, events, covariates, strata=strata)
    variance = np.linalg.inv(walk.covariance.sum(axis=0))
    scaled = walk.residual @ variance * walk.row.size + walk.log_hr  # (n_events, n_terms), per SD
    g = transform_time(times, events, transform="km")[walk.row]
    order = np.argsort(times[walk.row], kind="stable")
    when, g, scaled = times[walk.row][order], g[order], scaled[order]
    residuals, smooths = [], []
    for i, term in enumerate(covariates.columns):
        spread = walk.spread[i]
        residuals.append(pd.DataFrame({"term": term, "time": when, "log_hr": scaled[:, i] / spread}))
        noise = float(np.sqrt(walk.row.size * variance[i, i]))
        smooth = _smooth_drift(g, when, scaled[:, i], noise=noise, n_points=n_points)
        smooth[["log_hr", "ci_low", "ci_high"]] /= spread
        smooths.append(smooth.assign(term=term, average=walk.log_hr[i] / spread))
    return pd.concat(residuals, ignore_index=True), pd.concat(smooths, ignore_index=True)


def _smooth_drift(g: Floats, when: Floats, drift: Floats, *, noise: float, n_points: int) -> pd.DataFrame:
    knots = np.unique(np.quantile(g, [0, 1 / 3, 2 / 3, 1]))
    basis = compute_natural_spline(g, knots=knots)
    at = np.linspace(g[0], g[-1], n_points)
    here = compute_natural_spline(at, knots=knots)
    inverse = np.linalg.pinv(basis.T @ basis)
    value = here @ (inverse @ (basis.T @ drift))
    half = Z95 * noise * np.sqrt(np.einsum("np,pq,nq->n", here, inverse, here))
    moment = np.interp(at, *_drop_repeats(g, when))
    return pd.DataFrame({"time": moment, "log_hr": value, "ci_low": value - half, "ci_high": value + half})


def _drop_repeats(g: Floats, when: Floats) -> tuple[Floats, Floats]:
    unique, first = np.unique(g, return_index=True)
    return unique, when[first]


def compute_natural_spline(x: ArrayLike, *, knots: ArrayLike) -> Floats:
    """Return the natural cubic spline basis: linear beyond the outer knots, as many columns as knots.

    Parameters
    ----------
    x : array_like, (n,)
    knots : array_like, (n_knots,), increasing

    Returns
    -------
    ndarray, (n, n_knots), float64
        1, x, and the curved columns.

    References
    ----------
    Hastie, Tibshirani and Friedman 2009, The Elements of Statistical Learning, eq. 5.4 and 5.5.
    """
    values, at = np.asarray(x, dtype=np.float64), np.asarray(knots, dtype=np.float64)
    columns = [np.ones(values.size), values][: max(at.size, 1)]
    if at.size > 2:
        cubes = np.maximum(values[:, None] - at[None, :], 0.0) ** 3
        slopes = (cubes[:, :-1] - cubes[:, [-1]]) / (at[-1] - at[:-1])
        columns += [slopes[:, k] - slopes[:, -1] for k in range(at.size - 2)]
    return np.stack(columns, axis=1)


def compute_concordance(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike, *, horizon: float | None = None
) -> pd.DataFrame:
    """Compute Harrell's concordance: how often, of two cases, the one with the higher risk has its event first.

    A pair counts when the earlier time is an event (at equal times: when one of them is censored). Equal risks
    count one half. The standard error is the infinitesimal jackknife over cases.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    risk : array_like, (n_cases,); higher is worse
    horizon : float, optional
        Follow-up ends here, in the unit of `time`.

    Returns
    -------
    DataFrame
        One row: concordance (0.5 = chance), se, ci_low, ci_high (95 %), n, n_events, n_pairs.

    Raises
    ------
    StatsError
        When a risk is missing, or no pair can be compared.

    References
    ----------
    Harrell, Lee and Mark 1996, Stat Med 15:361. Equal to `concordance` of R's survival.
    """
    times, events = truncate_follow_up(time, event, horizon)
    values = np.asarray(risk, dtype=np.float64)
    if values.shape != times.shape or not np.isfinite(values).all():
        msg = f"StatsError: {int((~np.isfinite(values)).sum())} of {values.size} risks are missing for {times.size} cases."
        raise StatsError(msg + " Drop these cases by name first.")
    agreed, pairs = _count_pairs(times, events, values)
    total = pairs.sum() / 2
    if total == 0:
        msg = f"StatsError: no two of {times.size} cases with {int(events.sum())} events can be compared. Widen the horizon."
        raise StatsError(msg)
    value = agreed.sum() / 2 / total
    se = float(np.sqrt(np.sum(((agreed - value * pairs) / total) ** 2)))
    bounds = {"ci_low": max(value - Z95 * se, 0.0), "ci_high": min(value + Z95 * se, 1.0)}
    counts = {"n": times.size, "n_events": int(events.sum()), "n_pairs": int(total)}
    return pd.DataFrame([{"concordance": value, "se": se} | bounds | counts])


def _count_pairs(time: Floats, event: Bools, risk: Floats) -> tuple[Floats, Floats]:
    """Return, per case, in how many comparable pairs it is, and in how many of them risk and order agree."""
    agreed, pairs = np.zeros(time.size), np.zeros(time.size)
    for i in np.flatnonzero(event):  # i is the earlier of the two
        later = (time > time[i]) | ((time == time[i]) & ~event)
        right = later * ((risk[i] > risk) + 0.5 * (risk[i] == risk))
        pairs += later
        agreed += right
        pairs[i] += later.sum()
        agreed[i] += right.sum()
    return agreed, pairs
