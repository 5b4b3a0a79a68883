"""Cox models: the hazard ratio of a score, alone or adjusted, per SD, per unit, or high against low."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.core.errors import StatsError
from helpers.stats.follow_up import Z95, Bools, Floats, check_groups, truncate_follow_up
from helpers.stats.partial_likelihood import compute_score_residuals

SEPARATED_SE = 30.0
"""A standard error of log HR per SD of the covariate beyond this means that no finite estimate exists."""
LEVEL = 1e-3
"""A fit whose next Newton step is longer than this many standard errors has not reached the maximum."""
Scale = Literal["per_sd", "per_unit", "high_vs_low"]


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
    layers = None if strata is None else np.unique(check_groups(strata, times.size), return_inverse=True)[1]
    if layers is not None:
        frame["stratum"] = layers
    terms = list(map(str, design.columns))
    log_hr, covariance, log_likelihood = _run_newton(frame, terms, penalizer=penalizer)
    residual = compute_score_residuals(times, events, design.to_numpy(), log_hr=log_hr, strata=layers)
    if penalizer == 0:
        _check_level(residual, covariance, terms=terms, event=events)
    if robust or clusters is not None:
        covariance = _sandwich(covariance, residual, clusters)
    summary = summarize_log_ratios(list(design.columns), log_hr, np.sqrt(np.diag(covariance)))
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


def _sandwich(covariance: Floats, residual: Floats, clusters: ArrayLike | None) -> Floats:
    """Return Lin and Wei's covariance, the score summed within clusters where there are any."""
    if clusters is not None:
        codes = np.unique(check_groups(clusters, len(residual)), return_inverse=True)[1]
        summed = np.zeros((codes.max() + 1, residual.shape[1]))
        np.add.at(summed, codes, residual)
        residual = summed
    robust: Floats = covariance @ (residual.T @ residual) @ covariance
    return robust


def _run_newton(frame: pd.DataFrame, terms: list[str], *, penalizer: float) -> tuple[Floats, Floats, float]:
    """Return log hazard ratios, their model-based covariance and the log likelihood."""
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    fitter = CoxPHFitter(penalizer=penalizer)
    strata = ["stratum"] if "stratum" in frame else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # separation is judged by the estimate itself, here and in `_check_level`
            fitter.fit(frame, "time", "event", strata=strata, fit_options={"precision": 1e-13})
    except (ConvergenceError, np.linalg.LinAlgError) as error:
        raise StatsError(_describe_no_maximum(terms, frame["event"])) from error
    names = [f"x{i}" for i in range(len(terms))]
    log_hr, covariance = fitter.params_[names].to_numpy(), fitter.variance_matrix_.loc[names, names].to_numpy()
    se = np.sqrt(np.diag(covariance))
    _check_finite(log_hr, se, spread=frame[names].std().to_numpy(), terms=terms, n_events=int(frame["event"].sum()))
    return log_hr, covariance, float(fitter.log_likelihood_)


def _describe_no_maximum(terms: list[str], event: Any) -> str:
    return (
        f"StatsError: no Cox model of {', '.join(terms)} for {len(event)} cases with {int(np.sum(event))} events: the "
        "partial likelihood has no single maximum. Two terms may say the same thing, or one may separate events from "
        "survivors: leave it out, widen the horizon, or give a penalizer."
    )


def _check_level(residual: Floats, covariance: Floats, *, terms: list[str], event: Bools) -> None:
    """Refuse a point at which the likelihood still climbs: lifelines gives up with a warning and returns it."""
    step = covariance @ residual.sum(axis=0)
    if (np.abs(step) > LEVEL * np.sqrt(np.diag(covariance))).any():
        raise StatsError(_describe_no_maximum(terms, event))


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
        msg = (
            f"StatsError: no score among the {cases}, so no cut-off can be fitted. Check the join of scores and cases."
        )
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
