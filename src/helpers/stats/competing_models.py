"""Hazard ratios under competing risks: of the cause itself, and of its incidence (Fine and Gray)."""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import StatsError
from helpers.stats.competing import check_causes
from helpers.stats.cox import check_covariates, fit_cox, summarize_log_ratios
from helpers.stats.follow_up import Floats, check_outcomes
from helpers.stats.ipcw import compute_censoring_survival

STEPS: Final = 50
RUNAWAY: Final = 25.0
"""A log hazard ratio per SD beyond this means that a term separates the events."""
FLAT: Final = 1e-6
"""So does an information per event, per SD, below this: the likelihood has become level."""
MODEL_LABELS: Final = {
    "cause_specific": "rate among those still free of either",
    "subdistribution": "cumulative incidence (Fine–Gray)",
}


def fit_cause_specific(time: ArrayLike, cause: ArrayLike, covariates: pd.DataFrame, *, of: int = 1) -> pd.DataFrame:
    """Fit the hazard of one cause; another cause ends follow-up as censoring does.

    The ratio says what drives the cause among those still free of every cause: the question of biology.

    Parameters
    ----------
    time : array_like, (n_cases,)
    cause : array_like, (n_cases,), int
        0 censored, 1, 2, … the causes.
    covariates : DataFrame, (n_cases, n_terms)
    of : int
        The cause of interest.

    Returns
    -------
    DataFrame
        As `fit_cox`.
    """
    causes = check_causes(cause, np.size(time), of=of)
    return fit_cox(time, causes == of, covariates)


def fit_fine_gray(time: ArrayLike, cause: ArrayLike, covariates: pd.DataFrame, *, of: int = 1) -> pd.DataFrame:
    """Fit the subdistribution hazard of one cause (Fine and Gray), weighted by the inverse probability of censoring.

    Who had another cause stays in the risk set, with a weight that falls as she would have been censored. The ratio
    says how the *incidence* changes with a term, other causes included: the question of a patient.

    Parameters
    ----------
    time : array_like, (n_cases,)
    cause : array_like, (n_cases,), int
        0 censored, 1, 2, … the causes.
    covariates : DataFrame, (n_cases, n_terms), none missing
    of : int
        The cause of interest.

    Returns
    -------
    DataFrame
        term, log_hr, se (robust, weights taken as known), z, hazard_ratio, ci_low, ci_high, p, n, n_events,
        n_competing, log_likelihood. Ties are Breslow's.

    Raises
    ------
    StatsError
        When a covariate cannot be used, or there is no maximum.

    References
    ----------
    Fine and Gray 1999, J Am Stat Assoc 94:496. Geskus 2011, Biometrics 67:39 (weights). Equal to `coxph` with
    ties = 'breslow' on the table that R's `finegray` makes.
    """
    times, _ = check_outcomes(time, np.zeros(np.size(time), dtype=bool))
    causes = check_causes(cause, times.size, of=of)
    event = causes == of
    design = check_covariates(covariates, event)
    spread = design.std().to_numpy()
    x = ((design - design.mean()) / spread).to_numpy()
    risk = _Subdistribution(times, causes, x, of=of)
    beta, value, information = _climb(risk, list(map(str, design.columns)))
    inverse = np.linalg.inv(information)
    residual = risk.compute_residuals(beta)
    robust = inverse @ (residual.T @ residual) @ inverse
    table = summarize_log_ratios(list(design.columns), beta / spread, np.sqrt(np.diag(robust)) / spread)
    counts = {"n": times.size, "n_events": int(event.sum()), "n_competing": int(((causes > 0) & ~event).sum())}
    return table.assign(**counts, log_likelihood=value)


def _climb(risk: "_Subdistribution", terms: list[str]) -> tuple[Floats, float, Floats]:
    beta = np.zeros(len(terms))
    for _ in range(STEPS):
        _, score, information = risk.evaluate(beta)
        try:
            step = np.linalg.solve(information, score)
        except np.linalg.LinAlgError:
            break
        step *= min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        beta = beta + step
        if np.abs(beta).max() > RUNAWAY or np.diag(information).min() < FLAT * risk.died.sum():
            break
        if np.abs(step).max() < 1e-9:
            return beta, *risk.evaluate(beta)[::2]
    msg = (
        f"StatsError: no subdistribution model of {', '.join(terms)}: a term separates the events, or two say the "
        "same. Leave one out."
    )
    raise StatsError(msg)


class _Subdistribution:
    """Weighted risk sets of one cause: those still free, and those with another cause at a falling weight."""

    def __init__(self, time: Floats, cause: NDArray[np.intp], x: Floats, *, of: int) -> None:
        self.x, self.time = x, time
        self.event = cause == of
        self.other = (cause > 0) & ~self.event
        self.moments, self.at = np.unique(time[self.event], return_inverse=True)
        self.died = np.bincount(self.at, minlength=self.moments.size).astype(float)
        self.here = compute_censoring_survival(time, cause > 0, at=self.moments)  # G just before each event
        self.own = compute_censoring_survival(time, cause > 0, at=time)
        self.first = np.searchsorted(self.moments, time, side="right")  # event times at or before each case's own

    def sum_risk_sets(self, columns: Floats) -> Floats:
        """Sum columns over the weighted risk set just before every event time, (n_moments, n_columns)."""
        free = np.zeros((self.moments.size + 1, columns.shape[1]))
        np.add.at(free, self.first, columns)
        still = np.cumsum(free[::-1], axis=0)[::-1][1:]  # own time at or after the moment
        gone = np.zeros_like(free)
        np.add.at(gone, self.first[self.other], (columns / self.own[:, None])[self.other])
        return still + self.here[:, None] * np.cumsum(gone, axis=0)[:-1]

    def evaluate(self, beta: Floats) -> tuple[float, Floats, Floats]:
        """Return log likelihood, score and information."""
        weight = np.exp(np.clip(self.x @ beta, -300, 300))
        n, p = self.x.shape
        outer = (self.x[:, :, None] * self.x[:, None, :]).reshape(n, p * p)
        sums = self.sum_risk_sets(weight[:, None] * np.column_stack([np.ones(n), self.x, outer]))
        mean = sums[:, 1 : p + 1] / sums[:, :1]
        second = (sums[:, p + 1 :] / sums[:, :1]).reshape(-1, p, p)
        covariance = second - mean[:, :, None] * mean[:, None, :]
        value = float((self.x @ beta)[self.event].sum() - self.died @ np.log(sums[:, 0]))
        score = self.x[self.event].sum(axis=0) - self.died @ mean
        return value, score, np.einsum("m,mpq->pq", self.died, covariance)

    def compute_residuals(self, beta: Floats) -> Floats:
        """Return each case's share of the score, (n_cases, n_terms)."""
        weight = np.exp(np.clip(self.x @ beta, -300, 300))
        n = self.x.shape[0]
        sums = self.sum_risk_sets(weight[:, None] * np.column_stack([np.ones(n), self.x]))
        mean = sums[:, 1:] / sums[:, :1]
        jump = self.died / sums[:, 0]  # of the baseline
        lived, drift = _running(jump), _running(jump[:, None] * mean)
        later, later_drift = _running(jump * self.here), _running((jump * self.here)[:, None] * mean)
        base, base_drift = lived[self.first], drift[self.first]
        left = np.where(self.other, 1.0 / self.own, 0.0)  # only another cause keeps a case at risk after its time
        after = (later[-1] - later[self.first]) * left
        after_drift = (later_drift[-1] - later_drift[self.first]) * left[:, None]
        expected = weight[:, None] * (self.x * (base + after)[:, None] - (base_drift + after_drift))
        seen = np.zeros_like(self.x)
        seen[self.event] = self.x[self.event] - mean[self.at]
        return seen - expected


def _running(values: Floats) -> Floats:
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
