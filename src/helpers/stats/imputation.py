"""Missing covariates, filled several times: multiple imputation, and Rubin's rules for what it leaves uncertain."""

import warnings
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.core.errors import StatsError
from helpers.stats.follow_up import Floats, truncate_follow_up

SWEEPS: Final = 10
"""Rounds of chained equations per imputation."""


def impute_covariates(
    covariates: pd.DataFrame,
    *,
    time: ArrayLike,
    event: ArrayLike,
    n_imputations: int = 20,
    seed: int = 20261,
) -> list[pd.DataFrame]:
    """Fill missing covariates several times by chained Bayesian regressions that know the outcome.

    Each missing value is drawn from its predictive distribution given all other columns, whether the event happened
    and the cumulative hazard at the case's time: leaving the outcome out would pull every hazard ratio towards 1.
    Draws are normal and neither cut nor rounded, since both would distort means and correlations: a binary column gets
    values around its two codes, which enter a linear term without bias. Such a value is no statement about one patient.

    Parameters
    ----------
    covariates : DataFrame, (n_cases, n_terms), float
        NaN where missing; the score may be among them, complete.
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    n_imputations : int
    seed : int

    Returns
    -------
    list of DataFrame
        `n_imputations` complete tables; one table where nothing is missing.

    Raises
    ------
    StatsError
        When a column is known for fewer than 3 cases.

    References
    ----------
    van Buuren 2018, Flexible Imputation of Missing Data (chained equations). White and Royston 2009, Stat Med 28:1982
    (event and cumulative hazard as predictors). von Hippel 2013, Sociol Methods Res 42:105 (do not truncate). Draws by
    scikit-learn's IterativeImputer.
    """
    scarce = [name for name in covariates if covariates[name].notna().sum() < 3]
    if scarce:
        msg = f"StatsError: covariates {', '.join(map(str, scarce))} are known for fewer than 3 cases. Leave them out."
        raise StatsError(msg)
    if not covariates.isna().to_numpy().any():
        return [covariates]
    times, events = truncate_follow_up(time, event, None)
    known = np.column_stack([events, compute_cumulative_hazard(times, events)])
    numbers = covariates.to_numpy(dtype=np.float64)
    return [
        pd.DataFrame(_draw_once(numbers, known, seed=seed + k), columns=covariates.columns, index=covariates.index)
        for k in range(n_imputations)
    ]


def _draw_once(numbers: Floats, known: Floats, *, seed: int) -> Floats:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    table = np.column_stack([numbers, known])
    middle, spread = np.nanmean(table, axis=0), np.nanstd(table, axis=0)
    scaled = (table - middle) / np.where(spread > 0, spread, 1.0)
    imputer = IterativeImputer(sample_posterior=True, max_iter=SWEEPS, random_state=seed, skip_complete=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # draws never settle: the number of sweeps is the rule
        filled = imputer.fit_transform(scaled)
    filled = filled[:, : numbers.shape[1]] * np.where(spread > 0, spread, 1.0)[: numbers.shape[1]]
    filled = filled + middle[: numbers.shape[1]]
    return np.where(np.isnan(numbers), filled, numbers)


def compute_cumulative_hazard(time: ArrayLike, event: ArrayLike) -> Floats:
    """Return the Nelson–Aalen cumulative hazard at each case's own time.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)

    Returns
    -------
    ndarray, (n_cases,)
    """
    times, events = truncate_follow_up(time, event, None)
    moments, at = np.unique(times, return_inverse=True)
    died = np.bincount(at, events, moments.size)
    at_risk = np.cumsum(np.bincount(at, minlength=moments.size)[::-1])[::-1]
    return np.cumsum(died / at_risk)[at]


def pool_rubin(estimates: ArrayLike, variances: ArrayLike, *, complete_df: float = np.inf) -> pd.DataFrame:
    """Pool estimates of several imputations by Rubin's rules.

    Parameters
    ----------
    estimates : array_like, (n_imputations, n_terms)
    variances : array_like, (n_imputations, n_terms)
        Squared standard errors.
    complete_df : float
        Degrees of freedom with complete data; infinite for large samples.

    Returns
    -------
    DataFrame, one row per term
        estimate, se, df (Barnard and Rubin), ci_low, ci_high (95 %, t), p, missing_information (share of the variance
        that is due to missing values), n_imputations.

    Raises
    ------
    StatsError
        When shapes differ or fewer than 2 imputations are given.

    References
    ----------
    Rubin 1987, Multiple Imputation for Nonresponse in Surveys. Barnard and Rubin 1999, Biometrika 86:948.
    """
    from scipy.stats import t as student

    q, u = np.atleast_2d(np.asarray(estimates, float)), np.atleast_2d(np.asarray(variances, float))
    if q.shape != u.shape or q.shape[0] < 2:
        msg = f"StatsError: estimates of shape {q.shape} and variances of shape {u.shape}; expected the same, 2+ rows."
        raise StatsError(msg)
    m = q.shape[0]
    mean, within, between = q.mean(axis=0), u.mean(axis=0), q.var(axis=0, ddof=1)
    total = within + (1 + 1 / m) * between
    share = (1 + 1 / m) * between / total
    df = _compute_df(share, m, complete_df)
    half = student.ppf(0.975, df) * np.sqrt(total)
    p = 2 * student.sf(np.abs(mean) / np.sqrt(total), df)
    return pd.DataFrame(
        {
            "estimate": mean, "se": np.sqrt(total), "df": df, "ci_low": mean - half, "ci_high": mean + half, "p": p,
            "missing_information": share, "n_imputations": m,
        }
    )  # fmt: skip


def _compute_df(share: Floats, m: int, complete: float) -> Floats:
    with np.errstate(divide="ignore", over="ignore"):
        old = np.where(share > 0, (m - 1) / np.maximum(share, 1e-300) ** 2, np.inf)
    if not np.isfinite(complete):
        return np.minimum(old, 1e9)
    observed = (complete + 1) / (complete + 3) * complete * (1 - share)
    return 1 / (1 / np.minimum(old, 1e300) + 1 / observed)


def summarize_missing(covariates: pd.DataFrame) -> dict[str, Any]:
    """Count what is missing, for the page.

    Parameters
    ----------
    covariates : DataFrame

    Returns
    -------
    dict
        n (cases), n_complete, and missing: column to count, of those with any.
    """
    absent = covariates.isna().sum()
    return {
        "n": len(covariates),
        "n_complete": int(covariates.notna().all(axis=1).sum()),
        "missing": {str(name): int(count) for name, count in absent[absent > 0].items()},
    }
