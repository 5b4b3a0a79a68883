"""A Cox fit in a millisecond: Efron–Newton on sorted cases, for bootstraps, imputations and simulations.

`fit_cox` (lifelines) is what single numbers are reported from; this is the same partial likelihood for places that
need it thousands of times. A resample is a list of sorted rows with repeats: nothing is sorted again, and the repeats
are ties, as they would be in a table that holds a case twice.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import StatsError
from helpers.stats.cox import SEPARATED_SE, check_covariates
from helpers.stats.follow_up import Bools, Floats, check_groups, truncate_follow_up
from helpers.stats.resampling import draw_bootstrap_counts

STEPS: Final = 60
"""Newton steps after which a fit counts as not converged."""
TOLERANCE: Final = 1e-7
"""Newton steps end once no coefficient, per SD, moves by more; the last step squares the error."""
NEAR: Final = 1e-3
"""The same for resamples: what is left after such a step is about its square, far below the resampling noise."""
RUNAWAY: Final = 25.0
"""A log hazard ratio per SD beyond this means that a term separates events from survivors."""


@dataclass(frozen=True)
class NewtonFit:
    """A maximum of the (penalised) partial likelihood.

    Parameters
    ----------
    log_hr : ndarray, (n_terms,)
        NaN where there is no maximum.
    covariance : ndarray, (n_terms, n_terms)
        Inverse of the (penalised) information.
    log_likelihood : float
        Without the penalty.
    log_likelihood_null : float
        At log_hr 0.
    score_test : float
        Chi-squared of the score at log_hr 0: for one binary term without ties, the log-rank statistic.
    converged : bool
    df : float
        Effective degrees of freedom; the number of terms where nothing is penalised.
    """

    log_hr: Floats
    covariance: Floats
    log_likelihood: float
    log_likelihood_null: float
    score_test: float
    converged: bool
    df: float

    @property
    def se(self) -> Floats:
        """Standard errors, (n_terms,)."""
        return np.sqrt(np.diag(self.covariance))


@dataclass(frozen=True)
class SortedCases:
    """Cases in the order of stratum and time, with what the risk sets need.

    Parameters
    ----------
    time : ndarray, (n_cases,)
    event : ndarray, (n_cases,), bool
    x : ndarray, (n_cases, n_terms)
        Centred and in SDs.
    stratum : ndarray, (n_cases,), int
    spread : ndarray, (n_terms,)
        The SDs.
    order : ndarray, (n_cases,), int
        Row of the input that each sorted case came from.
    """

    time: Floats
    event: Bools
    x: Floats
    stratum: NDArray[np.intp]
    spread: Floats
    order: NDArray[np.intp]


def sort_cases(time: Floats, event: Bools, covariates: Floats, *, strata: ArrayLike | None = None) -> SortedCases:
    """Sort cases for `fit_sorted`, and put every term on the scale of its SD.

    Parameters
    ----------
    time : ndarray, (n_cases,)
    event : ndarray, (n_cases,), bool
    covariates : ndarray, (n_cases, n_terms)
    strata : array_like, (n_cases,), optional

    Returns
    -------
    SortedCases
    """
    layer = np.unique(check_groups(strata, time.size), return_inverse=True)[1].astype(np.intp)
    order = np.lexsort((time, layer))
    spread = covariates.std(axis=0, ddof=1)
    spread = np.where(spread > 0, spread, 1.0)
    x = (covariates - covariates.mean(axis=0)) / spread
    return SortedCases(time[order], event[order], x[order], layer[order], spread, order)


def fit_efron(
    time: ArrayLike,
    event: ArrayLike,
    covariates: pd.DataFrame,
    *,
    strata: ArrayLike | None = None,
    penalty: ArrayLike | None = None,
    horizon: float | None = None,
) -> NewtonFit:
    """Fit a Cox model by Newton's method, ties by Efron; equal to `fit_cox` to 1e-8.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    covariates : DataFrame, (n_cases, n_terms), numeric, none missing
    strata : array_like, (n_cases,), optional
    penalty : array_like, (n_terms,), optional
        Ridge penalty of each term, on the scale of its SD: half of it times the squared log HR per SD is subtracted
        from the log likelihood.
    horizon : float, optional
        Follow-up ends here, in the unit of `time`.

    Returns
    -------
    NewtonFit

    Raises
    ------
    StatsError
        When a covariate is missing, constant or not numeric, no event is left, or there is no maximum.

    References
    ----------
    Efron 1977, J Am Stat Assoc 72:557. Verweij and van Houwelingen 1994, Stat Med 13:2427 (penalty, df).
    """
    times, events = truncate_follow_up(time, event, horizon)
    design = check_covariates(covariates, events)
    cases = sort_cases(times, events, design.to_numpy(), strata=strata)
    fit = fit_sorted(cases, penalty=None if penalty is None else np.asarray(penalty, dtype=np.float64))
    if not fit.converged:
        msg = (
            f"StatsError: no Cox model of {', '.join(map(str, design.columns))} for {times.size} cases with "
            f"{int(events.sum())} events: a term separates events from survivors, or two say the same. Leave it out, "
            "widen the horizon, or give a penalty."
        )
        raise StatsError(msg)
    return fit


def fit_sorted(
    cases: SortedCases, *, rows: NDArray[np.intp] | None = None, penalty: Floats | None = None,
    start: Floats | None = None, tolerance: float = TOLERANCE,
) -> NewtonFit:  # fmt: skip
    """Fit sorted cases, or a resample of them; a fit without a maximum is returned as not converged.

    Parameters
    ----------
    cases : SortedCases
    rows : ndarray of int, increasing, optional
        Sorted rows of the resample, with repeats.
    penalty : ndarray, (n_terms,), optional
    start : ndarray, (n_terms,), optional
        Log HR per SD to start from, such as that of the whole sample; then nothing is computed at 0.
    tolerance : float
        As `TOLERANCE`.

    Returns
    -------
    NewtonFit
        In the units of the input.
    """
    risk = _index_risk_sets(cases, np.arange(cases.time.size) if rows is None else rows)
    ridge = np.zeros(cases.x.shape[1]) if penalty is None else penalty
    zero = np.zeros(cases.x.shape[1])
    beta = zero if start is None else start
    value, score, information = _evaluate(risk, beta)
    null, first = (value, float(score @ np.linalg.pinv(information) @ score)) if start is None else (np.nan, np.nan)
    beta, value, information, converged = _climb(risk, beta, (value, score, information), ridge, tolerance=tolerance)
    inverse = np.linalg.inv(information + np.diag(ridge)) if converged else np.diag(np.full(beta.size, np.nan))
    variance = np.diag(inverse)
    if not ((variance > 0) & (variance <= SEPARATED_SE**2)).all():  # the likelihood has become level
        nothing = np.full(beta.size, np.nan)
        return NewtonFit(nothing, np.diag(nothing), np.nan, null, first, converged=False, df=np.nan)
    scale = 1.0 / cases.spread
    df = float(np.trace(information @ inverse))
    return NewtonFit(beta * scale, inverse * np.outer(scale, scale), value, null, first, converged=True, df=df)


def _climb(
    risk: "_RiskSets", beta: Floats, here: tuple[float, Floats, Floats], ridge: Floats, *, tolerance: float
) -> tuple[Floats, float, Floats, bool]:
    """Take Newton steps, halved where they overshoot."""
    value, score, information = here
    goal = value - 0.5 * float(ridge @ beta**2)
    for _ in range(STEPS):
        try:
            step = np.linalg.solve(information + np.diag(ridge), score - ridge * beta)
        except np.linalg.LinAlgError:
            return beta, value, information, False
        for _half in range(20):
            tried = _evaluate(risk, beta + step)
            reached = tried[0] - 0.5 * float(ridge @ (beta + step) ** 2)
            if np.isfinite(reached) and reached >= goal - 1e-9 * abs(goal):
                break
            step = step / 2
        beta, (value, score, information), goal = beta + step, tried, reached
        if np.abs(beta).max() > RUNAWAY:
            return beta, value, information, False
        if np.abs(step).max() < tolerance:
            return beta, value, information, bool(np.linalg.cond(information + np.diag(ridge)) < 1e12)
    return beta, value, information, False


@dataclass(frozen=True)
class _RiskSets:
    """Where the risk set of each death begins and ends in the sorted rows, and its share of a tie; x is (terms, n)."""

    x: Floats
    event: Bools
    died: NDArray[np.intp]
    first: NDArray[np.intp]
    end: NDArray[np.intp]
    tied: NDArray[np.intp]
    tie_end: NDArray[np.intp]
    fraction: Floats


def _index_risk_sets(cases: SortedCases, rows: NDArray[np.intp]) -> _RiskSets:
    time, stratum, event = cases.time[rows], cases.stratum[rows], cases.event[rows]
    n = rows.size
    fresh = np.r_[True, (np.diff(time) != 0) | (np.diff(stratum) != 0)]
    group = np.cumsum(fresh) - 1
    starts = np.flatnonzero(fresh)
    stops = np.append(starts[1:], n)
    ends = np.append(np.flatnonzero(np.diff(stratum)) + 1, n)
    died = np.flatnonzero(event)
    before = np.concatenate([[0], np.cumsum(event)])  # deaths before each row
    first, stop = starts[group[died]], stops[group[died]]
    fraction = (before[died] - before[first]) / (before[stop] - before[first])
    tied = np.flatnonzero(fraction > 0)
    end = ends[np.searchsorted(ends, died, side="right")]
    x = np.ascontiguousarray(cases.x[rows].T)
    return _RiskSets(x, event, died, first, end, tied, stop[tied], fraction[tied])


def _evaluate(risk: _RiskSets, beta: Floats) -> tuple[float, Floats, Floats]:
    """Return log likelihood, score and information at a log HR per SD.

    The second moments need no running sums: case i enters them with its weight times the hazard that it lived through.
    """
    linear = beta @ risk.x
    linear = linear - linear.max(initial=-np.inf)
    weight = np.exp(np.maximum(linear, -700.0))
    moments = np.vstack([weight, weight * risk.x])  # (1 + n_terms, n)
    sums = _sum_ranges(moments, risk.first, risk.end)  # (1 + n_terms, n_deaths)
    if risk.tied.size:
        own = _sum_ranges(moments * risk.event, risk.first[risk.tied], risk.tie_end)
        sums[:, risk.tied] -= risk.fraction * own
    mean = sums[1:] / sums[0]
    lived = weight * _accumulate_hazard(risk, 1.0 / sums[0])
    information = (risk.x * lived) @ risk.x.T - mean @ mean.T
    value = float(linear[risk.died].sum() - np.log(sums[0]).sum())
    return value, risk.x[:, risk.died].sum(axis=1) - mean.sum(axis=1), information


def _accumulate_hazard(risk: _RiskSets, jump: Floats) -> Floats:
    """Return the hazard each case lived through while at risk; tied deaths share theirs, as Efron has it."""
    n = risk.event.size
    change = np.bincount(risk.first, jump, n + 1) - np.bincount(risk.end, jump, n + 1)
    hazard = np.cumsum(change[:n])
    if risk.tied.size:
        shared = risk.fraction * jump[risk.tied]
        own = np.bincount(risk.first[risk.tied], shared, n + 1) - np.bincount(risk.tie_end, shared, n + 1)
        hazard = hazard - np.cumsum(own[:n]) * risk.event
    return hazard


def _sum_ranges(rows: Floats, first: NDArray[np.intp], end: NDArray[np.intp]) -> Floats:
    """Sum columns first … end − 1 of each row, from sums that run from the end: the last risk sets are the smallest."""
    running = np.zeros((rows.shape[0], rows.shape[1] + 1))
    np.cumsum(rows[:, ::-1], axis=1, out=running[:, 1:])  # running[:, k]: the last k columns
    n = rows.shape[1]
    return running[:, n - first] - running[:, n - end]


def bootstrap_cox(
    time: ArrayLike,
    event: ArrayLike,
    covariates: pd.DataFrame,
    *,
    n_boot: int = 2000,
    rng: np.random.Generator,
    strata: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    horizon: float | None = None,
) -> Floats:
    """Refit a Cox model on resamples of the cases.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    covariates : DataFrame, (n_cases, n_terms)
    n_boot : int
    rng : numpy Generator
    strata : array_like, (n_cases,), optional
    clusters : array_like, (n_cases,), optional
        With it whole clusters (sites) are drawn instead of cases.
    horizon : float, optional

    Returns
    -------
    ndarray, (n_boot, n_terms)
        Log hazard ratios; NaN where a resample has no maximum.
    """
    times, events = truncate_follow_up(time, event, horizon)
    design = check_covariates(covariates, events).to_numpy()
    cases = sort_cases(times, events, design, strata=strata)
    start = fit_sorted(cases).log_hr * cases.spread
    start = start if np.isfinite(start).all() else np.zeros(start.size)
    groups = None if clusters is None else check_groups(clusters, times.size)[cases.order]
    found = np.full((n_boot, design.shape[1]), np.nan)
    for b in range(n_boot):
        counts = draw_bootstrap_counts(times.size, n_boot=1, rng=rng, clusters=groups)[0].astype(np.intp)
        rows = np.repeat(np.arange(times.size), counts)
        if cases.event[rows].any():
            found[b] = fit_sorted(cases, rows=rows, start=start, tolerance=NEAR).log_hr
    return found


def estimate_profile_interval(
    time: ArrayLike, event: ArrayLike, score: ArrayLike, *, horizon: float | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Find the profile-likelihood interval of one log hazard ratio; sound where few events make Wald's too narrow.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    score : array_like, (n_cases,)
    horizon : float, optional
    level : float

    Returns
    -------
    low, high : float
        Log hazard ratios at which twice the log likelihood has fallen by the quantile of chi-squared; infinite where
        it never does.

    Raises
    ------
    StatsError
        As `fit_efron`.
    """
    times, events = truncate_follow_up(time, event, horizon)
    design = check_covariates(pd.DataFrame({"score": np.asarray(score, dtype=np.float64)}), events).to_numpy()
    return profile_sorted(sort_cases(times, events, design), level=level)


def profile_sorted(cases: SortedCases, *, fit: NewtonFit | None = None, level: float = 0.95) -> tuple[float, float]:
    """Find the profile-likelihood interval of sorted cases with one term.

    Parameters
    ----------
    cases : SortedCases
    fit : NewtonFit, optional
        Of the same cases, where it is at hand.
    level : float

    Returns
    -------
    low, high : float
        Infinite where there is no maximum or no end.
    """
    from scipy.stats import chi2

    fit = fit or fit_sorted(cases)
    if not fit.converged:
        return -np.inf, np.inf
    risk = _index_risk_sets(cases, np.arange(cases.time.size))
    target = fit.log_likelihood - chi2.ppf(level, 1) / 2
    best, se = float(fit.log_hr[0] * cases.spread[0]), float(fit.se[0] * cases.spread[0])
    low, high = (_find_end(risk, best, sign * se, target) / cases.spread[0] for sign in (-1, 1))
    return float(low), float(high)


def _find_end(risk: _RiskSets, best: float, step: float, target: float) -> float:
    """Walk from the maximum until the log likelihood has fallen to `target`, by safeguarded Newton steps."""
    from scipy.optimize import brentq

    def excess(beta: float) -> float:
        return _evaluate(risk, np.array([beta]))[0] - target

    far = best + 2 * step
    while excess(far) > 0:
        far = best + 1.6 * (far - best)
        if abs(far) > RUNAWAY * 2:
            return float(np.sign(step) * np.inf)
    return float(brentq(excess, best, far, xtol=1e-8))
