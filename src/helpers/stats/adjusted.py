"""The score beside clinical covariates: the same cases in every model, missing values imputed, few events penalised."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.core.errors import StatsError
from helpers.stats.cox import summarize_log_ratios
from helpers.stats.fast_cox import NewtonFit, fit_efron
from helpers.stats.follow_up import Floats, truncate_follow_up
from helpers.stats.imputation import impute_covariates, pool_rubin

FEWEST_PER_TERM: Final = 10.0
"""Events per term below which the covariates of a multivariable model are shrunk."""
FEWEST_TERMS: Final = 1.5
"""Effective terms that are always left: the score, and half a term's worth of covariates."""


def choose_penalty(time: ArrayLike, event: ArrayLike, terms: pd.DataFrame, *, shrunk: ArrayLike) -> float:
    """Choose the ridge penalty at which there are `FEWEST_PER_TERM` events per *effective* term.

    The rule looks at the number of events and at the covariates, not at how well any of them does: a penalty tuned on
    few events would be as uncertain as what it is to steady.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    terms : DataFrame, (n_cases, n_terms)
    shrunk : array_like, (n_terms,), bool
        Terms that the penalty is laid on; the score is not among them.

    Returns
    -------
    float
        Per squared SD; 0 where there are events enough.

    References
    ----------
    Harrell 2015, Regression Modeling Strategies, section 4.5 (effective degrees of freedom). Gray 1992, J Am Stat Assoc
    87:942 (of a penalised Cox model).
    """
    from scipy.optimize import brentq

    laid = np.asarray(shrunk, dtype=np.float64)
    wanted = max(float(np.sum(np.asarray(event, dtype=bool))) / FEWEST_PER_TERM, FEWEST_TERMS)

    def excess(log_penalty: float) -> float:
        return fit_efron(time, event, terms, penalty=np.exp(log_penalty) * laid).df - wanted

    low, high = np.log(1e-4), np.log(1e6)
    if terms.shape[1] <= wanted or excess(low) <= 0:
        return 0.0
    return float(np.exp(brentq(excess, low, high, xtol=1e-3)))


def fit_adjusted(
    time: ArrayLike,
    event: ArrayLike,
    terms: pd.DataFrame,
    *,
    horizon: float | None = None,
    n_imputations: int = 20,
    seed: int = 20261,
    strata: ArrayLike | None = None,
) -> pd.DataFrame:
    """Fit every term alone and all together, on the same cases, with missing covariates imputed.

    The first term is the score, which must be complete. With fewer than `FEWEST_PER_TERM` events per term the
    covariates of the multivariable model (never the score) are shrunk by a ridge penalty until there are as many per
    effective term.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    terms : DataFrame, (n_cases, n_terms)
        NaN where a covariate is missing.
    horizon : float, optional
        Follow-up ends here.
    n_imputations : int
        Where anything is missing.
    seed : int
        Of the imputations.
    strata : array_like, (n_cases,), optional

    Returns
    -------
    DataFrame
        The columns of `fit_uni_and_multivariable`, with n_missing (of the term), missing_information, n_imputations
        (1 where nothing was missing), penalty (0 where none) and df (effective terms).

    Raises
    ------
    StatsError
        When the score is missing somewhere, or a model cannot be fitted.
    """
    if terms.iloc[:, 0].isna().any():
        msg = f"StatsError: the score is missing for {int(terms.iloc[:, 0].isna().sum())} cases. Drop them by name."
        raise StatsError(msg)
    times, events = truncate_follow_up(time, event, horizon)
    tables = impute_covariates(terms.reset_index(drop=True), time=times, event=events, n_imputations=n_imputations,
                               seed=seed)  # fmt: skip
    n_events = int(events.sum())

    def fit(names: list[str], penalty: Floats | None) -> pd.DataFrame:
        fits = [fit_efron(times, events, table[names], strata=strata, penalty=penalty) for table in tables]
        return _tabulate(names, fits).assign(n_events=n_events, events_per_term=n_events / len(names))

    rows = [fit([name], None).assign(model="univariable", penalty=0.0) for name in terms]
    rows.append(_fit_together(fit, times, events, tables[0]).assign(model="multivariable"))
    table = pd.concat(rows, ignore_index=True)
    missing = terms.isna().sum()
    table = table.assign(n=times.size, n_missing=table["term"].map(missing).astype(int))
    return table[["model", *(name for name in table if name != "model")]]


def _fit_together(
    fit: Callable[[list[str], Floats | None], pd.DataFrame], times: Floats, events: Any, table: pd.DataFrame
) -> pd.DataFrame:
    names = list(table.columns)
    shrunk = np.array([False] + [True] * (len(names) - 1))
    if events.sum() / len(names) >= FEWEST_PER_TERM or len(names) == 1:
        return fit(names, None).assign(penalty=0.0)
    penalty = choose_penalty(times, events, table, shrunk=shrunk)
    return fit(names, penalty * shrunk).assign(penalty=penalty)


def _tabulate(names: list[str], fits: list[NewtonFit]) -> pd.DataFrame:
    """Pool the fits of several imputations, or pass the only one on."""
    first = fits[0]
    table = summarize_log_ratios(names, first.log_hr, first.se)
    common = {"log_likelihood": float(np.mean([fit.log_likelihood for fit in fits])), "df": first.df}
    if len(fits) == 1:
        return table.assign(missing_information=0.0, n_imputations=1, **common)
    pooled = pool_rubin([fit.log_hr for fit in fits], [fit.se**2 for fit in fits])
    table = summarize_log_ratios(names, pooled["estimate"].to_numpy(), pooled["se"].to_numpy())
    table[["ci_low", "ci_high"]] = np.exp(pooled[["ci_low", "ci_high"]])
    extra = pooled[["p", "missing_information", "n_imputations"]]
    return table.assign(**{name: extra[name] for name in extra}, **common)
