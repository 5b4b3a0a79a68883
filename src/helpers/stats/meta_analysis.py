"""One hazard ratio per site, pooled: a random-effects meta-analysis that does not pretend sites are alike."""

from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.core.errors import StatsError
from helpers.stats.follow_up import Floats

Method = Literal["reml", "dl"]
FEWEST_STUDIES: Final = 2


def pool_random_effects(estimate: ArrayLike, se: ArrayLike, *, method: Method = "reml") -> pd.DataFrame:
    """Pool estimates of several sites, with Hartung and Knapp's interval.

    Few sites that happen to agree would give that interval next to no width (two ratios of 0.50 and 0.51, each with a
    standard error of 0.5: ± 0.06), so its standard error is never below the one that the sites' own errors imply: the
    modification of Knapp and Hartung 2003.

    Parameters
    ----------
    estimate : array_like, (n_sites,)
        Such as log hazard ratios.
    se : array_like, (n_sites,)
    method : {'reml', 'dl'}
        How the variance between sites is estimated: restricted maximum likelihood, or DerSimonian and Laird's moments.

    Returns
    -------
    DataFrame
        One row: estimate, se, ci_low, ci_high (95 %, t with n_sites − 1 degrees of freedom), p, tau2, i2 (share of the
        variance that lies between sites), q, df, p_heterogeneity, prediction_low, prediction_high (where a new site's
        true value is expected; missing below 3 sites), n_sites.

    Raises
    ------
    StatsError
        When there are fewer than two sites, or a standard error is not above 0.

    References
    ----------
    DerSimonian and Laird 1986, Control Clin Trials 7:177. Viechtbauer 2005, J Educ Behav Stat 30:261 (REML). Hartung
    and Knapp 2001, Stat Med 20:3875. Knapp and Hartung 2003, Stat Med 22:2693 (modification). Higgins, Thompson and
    Spiegelhalter 2009, J R Stat Soc A 172:137.
    """
    y, v = _check_studies(estimate, se)
    q, tau2 = _compute_moments(y, v)
    tau2 = _solve_reml(y, v, start=tau2) if method == "reml" else tau2
    weight = 1 / (v + tau2)
    mean = float(np.average(y, weights=weight))
    k = y.size
    scatter = float(np.sum(weight * (y - mean) ** 2) / (k - 1))
    spread = float(np.sqrt(max(scatter, 1.0) / weight.sum()))
    row = {"estimate": mean, "se": spread} | _bound(mean, spread, k, tau2, plain=float(1 / weight.sum()))
    return pd.DataFrame([row | _describe_heterogeneity(q, k, tau2, v) | {"n_sites": k}])


def _check_studies(estimate: ArrayLike, se: ArrayLike) -> tuple[Floats, Floats]:
    y, error = np.asarray(estimate, dtype=np.float64), np.asarray(se, dtype=np.float64)
    if y.shape != error.shape or y.size < FEWEST_STUDIES or not (np.isfinite(y).all() and (error > 0).all()):
        msg = (
            f"StatsError: {y.size} estimates and {error.size} standard errors, expected at least {FEWEST_STUDIES}, all "
            "finite, errors above 0. Leave out by name the sites without an estimate."
        )
        raise StatsError(msg)
    return y, error**2


def _compute_moments(y: Floats, v: Floats) -> tuple[float, float]:
    """Return Cochran's Q and DerSimonian and Laird's variance between sites."""
    weight = 1 / v
    q = float(np.sum(weight * (y - np.average(y, weights=weight)) ** 2))
    scale = weight.sum() - np.sum(weight**2) / weight.sum()
    return q, max(0.0, float((q - (y.size - 1)) / scale))


def _solve_reml(y: Floats, v: Floats, *, start: float) -> float:
    """Maximise the restricted likelihood in the variance between sites."""
    from scipy.optimize import minimize_scalar

    def loss(tau2: float) -> float:
        weight = 1 / (v + tau2)
        mean = np.average(y, weights=weight)
        return float(0.5 * (np.log(v + tau2).sum() + np.log(weight.sum()) + np.sum(weight * (y - mean) ** 2)))

    top = max(10 * start, float(np.var(y, ddof=1)) * 4, 1e-6)
    found = minimize_scalar(loss, bounds=(0.0, top), method="bounded", options={"xatol": 1e-12 * top})
    return 0.0 if loss(0.0) <= found.fun else float(found.x)


def _bound(mean: float, spread: float, k: int, tau2: float, *, plain: float) -> dict[str, float]:
    from scipy.stats import t as student

    half = float(student.ppf(0.975, k - 1)) * spread
    p = float(2 * student.sf(abs(mean / spread), k - 1))
    wide = float(student.ppf(0.975, k - 2)) * np.sqrt(tau2 + plain) if k > FEWEST_STUDIES else float("nan")
    bounds = {"ci_low": mean - half, "ci_high": mean + half, "p": p}
    return bounds | {"prediction_low": float(mean - wide), "prediction_high": float(mean + wide)}


def _describe_heterogeneity(q: float, k: int, tau2: float, v: Floats) -> dict[str, float]:
    from scipy.stats import chi2

    weight = 1 / v
    typical = (k - 1) * weight.sum() / (weight.sum() ** 2 - np.sum(weight**2))
    i2 = float(tau2 / (tau2 + typical))
    return {"tau2": tau2, "i2": i2, "q": q, "df": k - 1, "p_heterogeneity": float(chi2.sf(q, k - 1))}


def pool_ratios(sites: pd.DataFrame, *, method: Method = "reml") -> pd.DataFrame:
    """Pool the hazard ratios of sites.

    Parameters
    ----------
    sites : DataFrame
        One row per site: log_hr, se; rows without an estimate are left out and counted.
    method : {'reml', 'dl'}

    Returns
    -------
    DataFrame
        One row of `pool_random_effects`, with hazard_ratio, ci_low, ci_high, prediction_low, prediction_high as ratios,
        log_hr, n_left_out.
    """
    known = sites[sites["log_hr"].notna() & sites["se"].notna()]
    pooled = pool_random_effects(known["log_hr"], known["se"], method=method).rename(columns={"estimate": "log_hr"})
    ratios = ["ci_low", "ci_high", "prediction_low", "prediction_high"]
    pooled[ratios] = np.exp(pooled[ratios])
    return pooled.assign(hazard_ratio=np.exp(pooled["log_hr"]), n_left_out=len(sites) - len(known))
