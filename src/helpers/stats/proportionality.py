"""Is one hazard ratio enough? The test of proportional hazards, the ratio by horizon and period, and its drift."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import OutcomeError, StatsError
from helpers.stats.cox import check_covariates, estimate_hazard_ratio, fit_cox
from helpers.stats.follow_up import Z95, Bools, Floats, check_groups, check_outcomes, truncate_follow_up
from helpers.stats.kaplan_meier import fit_km
from helpers.stats.partial_likelihood import compute_event_moments

Transform = Literal["km", "identity", "rank", "log"]
LEVEL: Final = 1e10
"""A condition number of the test's information, scaled to correlations, beyond which there is nothing to test."""
RATIO_COLUMNS: Final = [
    "start", "end", "hazard_ratio", "ci_low", "ci_high", "log_hr", "se", "p", "n", "n_events", "scale", "sd", "cutoff",
    "cutoff_origin", "n_high", "n_events_high", "adjusted_for", "note",
]  # fmt: skip


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
        One row per horizon, columns `RATIO_COLUMNS`: start (0), end, the estimate, and `note`, which says why a ratio
        is missing.
    """
    times, events = check_outcomes(time, event)
    rows = [estimate_or_explain(times, events, score, horizon=end, **options).assign(end=end) for end in horizons]
    return pd.concat(rows, ignore_index=True).assign(start=0.0).reindex(columns=RATIO_COLUMNS)


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
        One row per period, columns `RATIO_COLUMNS`: start, end, the estimate, and `note`, which says why a ratio is
        missing.
    """
    times, events = check_outcomes(time, event)
    values = np.asarray(score, dtype=np.float64)
    if options.get("sd") is None:
        options["sd"] = float(np.std(values, ddof=1))
    rows = []
    for start, end in itertools.pairwise(edges):
        still = times > start if start > 0 else np.ones(times.size, dtype=bool)
        design = None if covariates is None else covariates.loc[still]
        row = estimate_or_explain(times[still], events[still], values[still], covariates=design, horizon=end, **options)
        rows.append(row.assign(start=start, end=end))
    return pd.concat(rows, ignore_index=True).reindex(columns=RATIO_COLUMNS)


def estimate_or_explain(time: Floats, event: Bools, score: ArrayLike, **options: Any) -> pd.DataFrame:
    """Estimate a hazard ratio, or return a row without one whose `note` says why.

    Parameters
    ----------
    time : ndarray, (n_cases,)
    event : ndarray, (n_cases,), bool
    score : array_like, (n_cases,)
    **options : Any
        Passed to `estimate_hazard_ratio`.

    Returns
    -------
    DataFrame
        One row.
    """
    try:
        return estimate_hazard_ratio(time, event, score, **options).assign(note="")
    except (StatsError, OutcomeError) as error:
        n_events = int((event & (time <= (options.get("horizon") or np.inf))).sum())
        return pd.DataFrame({"term": ["score"], "n": [time.size], "n_events": [n_events], "note": [str(error)]})


@dataclass(frozen=True)
class _Walk:
    """Residuals and covariances at each death of a fitted model, in units of each covariate's SD."""

    row: NDArray[np.intp]
    residual: Floats
    covariance: Floats
    log_hr: Floats
    spread: Floats


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

    Raises
    ------
    StatsError
        As `fit_cox`, and when there are too few events at different times to see a drift.

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


def _walk_fit(times: Floats, events: Bools, covariates: pd.DataFrame, *, strata: ArrayLike | None) -> _Walk:
    design = check_covariates(covariates, events)
    fit = fit_cox(times, events, design, strata=strata)
    spread = design.std().to_numpy()
    x = ((design - design.mean()) / spread).to_numpy()
    log_hr = fit["log_hr"].to_numpy() * spread
    layers = np.unique(check_groups(strata, times.size), return_inverse=True)[1]
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
    msg = (
        f"StatsError: transform '{transform}' is unknown or meets an event at time 0. Take 'km', 'rank' or 'identity'."
    )
    raise StatsError(msg)


def _fold_information(covariance: Floats, g: Floats) -> Floats:
    """Return the information of the terms and their interactions with g(time), (2 n_terms, 2 n_terms)."""
    plain, cross, square = (np.einsum("d,dpq->pq", g**power, covariance) for power in (0, 1, 2))
    return np.block([[plain, cross], [cross, square]])


def _test_score(drift: Floats, information: Floats, tested: list[int], n_terms: int) -> tuple[float, int, float]:
    from scipy.stats import chi2

    keep = [*range(n_terms), *(n_terms + i for i in tested)]
    score = np.concatenate([np.zeros(n_terms), drift[tested]])
    block = information[np.ix_(keep, keep)]
    size = np.sqrt(np.diag(block))
    if not (size > 0).all() or np.linalg.cond(block / np.outer(size, size)) > LEVEL:
        msg = (
            "StatsError: too few events at different times to see whether a hazard ratio drifts: the test of "
            "proportional hazards has no information beyond the ratio itself. Widen the horizon, or report no test."
        )
        raise StatsError(msg)
    statistic = float(score @ np.linalg.solve(block, score))
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
