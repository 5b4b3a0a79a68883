"""Is the log hazard straight in the score? A restricted cubic spline, its test, and the curve to draw."""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.core.errors import StatsError
from helpers.stats.fast_cox import NewtonFit, fit_efron
from helpers.stats.follow_up import Z95, Floats, truncate_follow_up
from helpers.stats.proportionality import compute_natural_spline

KNOT_QUANTILES: Final = {
    3: (0.10, 0.50, 0.90),
    4: (0.05, 0.35, 0.65, 0.95),
    5: (0.05, 0.275, 0.50, 0.725, 0.95),
}
"""Where Harrell puts the knots, as quantiles of the score; outcomes play no part."""


def fit_spline(
    time: ArrayLike,
    event: ArrayLike,
    score: ArrayLike,
    *,
    n_knots: int = 4,
    covariates: pd.DataFrame | None = None,
    horizon: float | None = None,
    n_points: int = 81,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fit a restricted cubic spline of a score in a Cox model, and test whether a straight line is enough.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    score : array_like, (n_cases,), none missing
    n_knots : {3, 4, 5}
        At `KNOT_QUANTILES` of the score.
    covariates : DataFrame, (n_cases, n_covariates), optional
        What the curve is adjusted for.
    horizon : float, optional
        Follow-up ends here, in the unit of `time`.
    n_points : int

    Returns
    -------
    curve : DataFrame
        score, hazard_ratio, ci_low, ci_high (against the median score, where all are 1), straight (the ratio of the
        linear model), from the 1st to the 99th percentile.
    test : DataFrame
        test ('any effect', 'curvature'), statistic (likelihood ratio), df, p, n, n_events, knots (words), reference.

    Raises
    ------
    StatsError
        When the score has too few different values for its knots, or no model can be fitted.

    References
    ----------
    Harrell 2015, Regression Modeling Strategies, sections 2.4.5 and 2.4.6.
    """
    values = np.asarray(score, dtype=np.float64)
    knots = _place_knots(values, n_knots)
    bases, rotation = _rotate(values, knots)
    others = pd.DataFrame(index=range(values.size)) if covariates is None else covariates.reset_index(drop=True)
    names = ["score", *(f"curve{k}" for k in range(1, bases.shape[1]))]
    terms = pd.concat([pd.DataFrame(bases, columns=names), others], axis=1)
    curved = fit_efron(time, event, terms, horizon=horizon)
    line = pd.concat([pd.DataFrame({"score": values}), others], axis=1)
    straight = fit_efron(time, event, line, horizon=horizon)
    alone = fit_efron(time, event, others, horizon=horizon).log_likelihood if others.shape[1] else None
    curve = _draw_curve(values, knots, rotation, curved=curved, straight=straight, n_points=n_points)
    n_events = int(truncate_follow_up(time, event, horizon)[1].sum())
    test = _test_curve(curved, straight, alone, n_curved=len(names)).assign(n=values.size, n_events=n_events)
    words = ", ".join(f"{knot:.3g}" for knot in knots)
    return curve, test.assign(knots=words, reference=float(np.median(values)))


def _place_knots(values: Floats, n_knots: int) -> Floats:
    if n_knots not in KNOT_QUANTILES or not np.isfinite(values).all():
        missing = int((~np.isfinite(values)).sum())
        msg = f"StatsError: {n_knots} knots asked for (3, 4 or 5) and {missing} scores missing. Drop cases by name."
        raise StatsError(msg)
    knots = np.unique(np.quantile(values, KNOT_QUANTILES[n_knots]))
    if knots.size < n_knots:
        msg = (
            f"StatsError: the score has only {np.unique(values).size} different values, so {n_knots} knots fall "
            "together. Take 3 knots, or treat the score as groups."
        )
        raise StatsError(msg)
    return knots


def _rotate(values: Floats, knots: Floats) -> tuple[Floats, Floats]:
    """Return the spline basis without its constant, made orthogonal, and the matrix that did it."""
    bases = compute_natural_spline(values, knots=knots)[:, 1:]
    triangle = np.linalg.qr(bases - bases.mean(axis=0), mode="r")
    rotation = np.linalg.inv(triangle) * np.sqrt(values.size)
    return bases @ rotation, rotation


def _draw_curve(
    values: Floats, knots: Floats, rotation: Floats, *, curved: NewtonFit, straight: NewtonFit, n_points: int
) -> pd.DataFrame:
    low, high = (float(np.quantile(values, share)) for share in (0.01, 0.99))
    at = np.linspace(low, high, n_points)
    reference = float(np.median(values))
    here = compute_natural_spline(at, knots=knots) - compute_natural_spline([reference], knots=knots)
    here = here[:, 1:] @ rotation
    size = here.shape[1]
    log_hr = here @ curved.log_hr[:size]
    half = Z95 * np.sqrt(np.einsum("np,pq,nq->n", here, curved.covariance[:size, :size], here).clip(0))
    return pd.DataFrame(
        {
            "score": at, "hazard_ratio": np.exp(log_hr), "ci_low": np.exp(log_hr - half),
            "ci_high": np.exp(log_hr + half), "straight": np.exp((at - reference) * straight.log_hr[0]),
        }
    )  # fmt: skip


def _test_curve(curved: NewtonFit, straight: NewtonFit, alone: float | None, *, n_curved: int) -> pd.DataFrame:
    from scipy.stats import chi2

    null = curved.log_likelihood_null if alone is None else alone
    steps = [("any effect", null, n_curved), ("curvature", straight.log_likelihood, n_curved - 1)]
    rows = []
    for name, base, df in steps:
        statistic = max(2 * (curved.log_likelihood - base), 0.0)
        rows.append((name, statistic, df, float(chi2.sf(statistic, df))))
    return pd.DataFrame(rows, columns=["test", "statistic", "df", "p"])
