"""The moments that every Cox computation is made of: mean and covariance of the covariates of those at risk.

At each death the partial likelihood compares the case that died with everybody at risk just before. Score,
information, Schoenfeld residuals and the test of proportional hazards are sums over these moments. Ties are
Efron's: of d tied deaths the k-th (k = 0 … d−1) sees the tied cases with weight 1 − k/d.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EventMoments:
    """What the risk set of each death looked like.

    Parameters
    ----------
    row : ndarray, (n_events,), int
        Position of the case that died.
    mean : ndarray, (n_events, n_terms)
        Hazard-weighted mean of the covariates over those at risk.
    covariance : ndarray, (n_events, n_terms, n_terms)
        Hazard-weighted covariance of the covariates over those at risk.
    """

    row: NDArray[np.intp]
    mean: Floats
    covariance: Floats


def compute_event_moments(
    time: Floats,
    event: NDArray[np.bool_],
    covariates: Floats,
    *,
    log_hr: Floats,
    strata: NDArray[np.intp] | None = None,
) -> EventMoments:
    """Compute mean and covariance of the covariates over the risk set of every death, ties by Efron.

    Parameters
    ----------
    time : ndarray, (n_cases,), float64
    event : ndarray, (n_cases,), bool; True = happened
    covariates : ndarray, (n_cases, n_terms), float64
    log_hr : ndarray, (n_terms,)
        Coefficients at which the hazard weights are taken.
    strata : ndarray, (n_cases,), int, optional
        Cases are compared only within their stratum.

    Returns
    -------
    EventMoments
        One row per death, ordered by stratum, then time.

    References
    ----------
    Efron 1977, J Am Stat Assoc 72:557. Therneau and Grambsch 2000, Modeling Survival Data, section 3.3.
    """
    strata = np.zeros(time.size, dtype=np.intp) if strata is None else strata
    parts = []
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        part = _walk_stratum(time[inside], event[inside], covariates[inside], log_hr)
        parts.append((inside[part.row], part.mean, part.covariance))
    rows, means, covariances = (np.concatenate(items) for items in zip(*parts, strict=True))
    return EventMoments(row=rows, mean=means, covariance=covariances)


def compute_score_residuals(
    time: Floats,
    event: NDArray[np.bool_],
    covariates: Floats,
    *,
    log_hr: Floats,
    strata: NDArray[np.intp] | None = None,
) -> Floats:
    """Compute each case's share of the score, ties by Efron: what a robust standard error is made of.

    Tied deaths share their residual alike, so the order of the rows plays no part. lifelines leaves ties out of it:
    its robust errors change with the order of tied rows.

    Parameters
    ----------
    time, event, covariates, log_hr, strata
        As in `compute_event_moments`.

    Returns
    -------
    ndarray, (n_cases, n_terms)
        Sums to 0 over the cases where `log_hr` is the maximum.

    References
    ----------
    Lin and Wei 1989, J Am Stat Assoc 84:1074. Therneau and Grambsch 2000, section 4.2 (score residuals, ties).
    """
    strata = np.zeros(time.size, dtype=np.intp) if strata is None else strata
    residual = np.zeros_like(covariates)
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        residual[inside] = _share_score(time[inside], event[inside], covariates[inside], log_hr)
    return residual


def _share_score(time: Floats, event: NDArray[np.bool_], covariates: Floats, log_hr: Floats) -> Floats:
    times, at = np.unique(time, return_inverse=True)
    linear = covariates @ log_hr
    weight = np.exp(linear - linear.max(initial=-np.inf))
    at_risk = [np.cumsum(sums[::-1], axis=0)[::-1] for sums in _sum_by_time(weight, covariates, at, times.size)[:2]]
    tied = _sum_by_time(weight * event, covariates, at, times.size)
    when = np.sort(at[event])
    fraction = _rank_ties(when)
    s0 = at_risk[0][when] - fraction * tied[0][when]
    mean = (at_risk[1][when] - fraction[:, None] * tied[1][when]) / s0[:, None]  # (n_events, n_terms)
    jump, drift = _spread(1 / s0, mean, when, times.size)
    own_jump, own_drift = _spread(fraction / s0, mean, when, times.size)  # what a tied death is not at risk for
    lived = np.cumsum(jump)[at] - own_jump[at] * event
    drifted = np.cumsum(drift, axis=0)[at] - own_drift[at] * event[:, None]
    center = (
        _spread(np.ones(when.size), mean, when, times.size)[1]
        / np.maximum(np.bincount(when, minlength=times.size), 1)[:, None]
    )
    seen = (covariates - center[at]) * event[:, None]
    return seen - weight[:, None] * (covariates * lived[:, None] - drifted)


def _spread(share: Floats, mean: Floats, when: NDArray[np.intp], n_times: int) -> tuple[Floats, Floats]:
    """Sum shares, and shares of the means, over the deaths at each time."""
    drift = np.zeros((n_times, mean.shape[1]))
    np.add.at(drift, when, share[:, None] * mean)
    return np.bincount(when, share, n_times).astype(np.float64), drift


def _walk_stratum(time: Floats, event: NDArray[np.bool_], covariates: Floats, log_hr: Floats) -> EventMoments:
    times, at = np.unique(time, return_inverse=True)
    linear = covariates @ log_hr
    weight = np.exp(linear - linear.max(initial=-np.inf))
    at_risk = [np.cumsum(sums[::-1], axis=0)[::-1] for sums in _sum_by_time(weight, covariates, at, times.size)]
    tied = _sum_by_time(weight * event, covariates, at, times.size)
    row = np.flatnonzero(event)
    row = row[np.argsort(time[row], kind="stable")]
    fraction = _rank_ties(at[row])  # k / d, 0 for the first of each tie
    s0, s1, s2 = (
        whole[at[row]] - _stretch(fraction, whole.ndim) * own[at[row]] for whole, own in zip(at_risk, tied, strict=True)
    )
    mean = s1 / s0[:, None]  # (n_events, n_terms)
    return EventMoments(row=row, mean=mean, covariance=s2 / s0[:, None, None] - mean[:, :, None] * mean[:, None, :])


def _sum_by_time(weight: Floats, covariates: Floats, at: NDArray[np.intp], n_times: int) -> tuple[Floats, ...]:
    """Sum weight, weight·x and weight·x·xᵀ over the cases that leave at each time."""
    n_terms = covariates.shape[1]
    s0, s1, s2 = np.zeros(n_times), np.zeros((n_times, n_terms)), np.zeros((n_times, n_terms, n_terms))
    weighted = weight[:, None] * covariates
    np.add.at(s0, at, weight)
    np.add.at(s1, at, weighted)
    np.add.at(s2, at, weighted[:, :, None] * covariates[:, None, :])
    return s0, s1, s2


def _rank_ties(at: NDArray[np.intp]) -> Floats:
    """Return k / d for the k-th of d deaths at the same time; `at` is sorted."""
    _, first, counts = np.unique(at, return_index=True, return_counts=True)
    rank = np.arange(at.size) - np.repeat(first, counts)
    return rank / np.repeat(counts, counts)


def _stretch(values: Floats, ndim: int) -> Floats:
    return values.reshape((-1,) + (1,) * (ndim - 1))
