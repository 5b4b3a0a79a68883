"""Censoring, weighed out: inverse probability of censoring weights, and the measures of prediction that need them.

A case that is censored before a horizon says nothing about it; who is followed long enough speaks for her. The weight
is one over the probability of being uncensored so far, estimated by Kaplan–Meier of the censoring, so censoring must
not depend on the score. `risk` is higher where the outlook is worse.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.core.errors import StatsError
from helpers.stats.follow_up import Z95, Bools, Floats, check_outcomes, truncate_follow_up
from helpers.stats.resampling import compute_percentile_interval, draw_bootstrap_counts

SMALLEST: Final = 0.02
"""Below this probability of being uncensored a weight says more about one case than about the cohort: an error."""


def compute_censoring_survival(time: ArrayLike, event: ArrayLike, *, at: ArrayLike) -> Floats:
    """Return the probability of still being uncensored just before given times (Kaplan–Meier of the censoring).

    At equal times events come first, so a case that is censored at t was at risk for the events at t.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
        Any event that ends follow-up; False means censored.
    at : array_like, (n_times,)

    Returns
    -------
    ndarray, (n_times,)
    """
    times, events = check_outcomes(time, event)
    moments, where = np.unique(times, return_inverse=True)
    n_events = np.bincount(where, events, moments.size)
    n_censored = np.bincount(where, ~events, moments.size)
    at_risk = np.cumsum((n_events + n_censored)[::-1])[::-1] - n_events  # events leave first
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(at_risk > 0, 1.0 - n_censored / at_risk, 1.0)
    before = np.concatenate([[1.0], np.cumprod(factor)])
    return before[np.searchsorted(moments, np.asarray(at, dtype=np.float64), side="left")]


def _weigh_events(times: Floats, events: Bools, until: float) -> Floats:
    """Return 1 / G(T−) of the events up to a time, 0 elsewhere."""
    here = events & (times <= until)
    g = compute_censoring_survival(times, events, at=times)
    if (g[here] < SMALLEST).any() or not here.any():
        msg = (
            f"StatsError: {int(here.sum())} events up to {until:g}, where the chance of still being followed is down "
            f"to {g[here].min(initial=1.0):.3f}, expected at least {SMALLEST}. Choose an earlier horizon."
        )
        raise StatsError(msg)
    return np.where(here, 1.0 / np.maximum(g, 1e-12), 0.0)


def find_free(time: Floats, event: Bools, *, at: float) -> Bools:
    """Say who is known to be free of the event at a time: followed beyond it, or censored just then.

    Parameters
    ----------
    time : ndarray, (n_cases,)
    event : ndarray, (n_cases,), bool
    at : float

    Returns
    -------
    ndarray, (n_cases,), bool
        Whoever is among them has not been censored before `at`, so their weight is 1 / G(at−).
    """
    return (time > at) | ((time == at) & ~event)


def compute_uno_concordance(time: ArrayLike, event: ArrayLike, risk: ArrayLike, *, horizon: float) -> pd.DataFrame:
    """Compute Uno's concordance up to a horizon: Harrell's pairs, weighted so that censoring does not choose them.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    risk : array_like, (n_cases,); higher is worse
    horizon : float
        Pairs whose earlier event lies before it count.

    Returns
    -------
    DataFrame
        One row: concordance, se (infinitesimal jackknife, weights taken as known), ci_low, ci_high, n, n_events.

    References
    ----------
    Uno et al. 2011, Stat Med 30:1105.
    """
    times, events = check_outcomes(time, event)
    values = _check_risk(risk, times.size)
    weight = _weigh_events(times, events & (times < horizon), horizon) ** 2
    agreed, pairs = count_weighted_pairs(times, events, values, weight=weight)
    total = pairs.sum() / 2
    value = float(agreed.sum() / 2 / total)
    se = float(np.sqrt(np.sum(((agreed - value * pairs) / total) ** 2)))
    counts = {"n": times.size, "n_events": int((weight > 0).sum())}
    return pd.DataFrame([{"concordance": value, "se": se} | _limit(value, se) | counts])


def _check_risk(risk: ArrayLike, n_cases: int) -> Floats:
    values = np.asarray(risk, dtype=np.float64)
    if values.shape != (n_cases,) or not np.isfinite(values).all():
        missing = int((~np.isfinite(values)).sum())
        msg = f"StatsError: risks of shape {values.shape}, {missing} missing, for {n_cases} cases. Drop them by name."
        raise StatsError(msg)
    return values


def _limit(value: float, se: float) -> dict[str, float]:
    return {"ci_low": max(value - Z95 * se, 0.0), "ci_high": min(value + Z95 * se, 1.0)}


def count_weighted_pairs(times: Floats, events: Bools, risk: Floats, *, weight: Floats) -> tuple[Floats, Floats]:
    """Return, per case, the weight of its comparable pairs and of those in which risk and order agree.

    Parameters
    ----------
    times : ndarray, (n_cases,)
    events : ndarray, (n_cases,), bool
    risk : ndarray, (n_cases,)
    weight : ndarray, (n_cases,)
        Of the pairs in which the case is the earlier one; 0 leaves them out.

    Returns
    -------
    agreed, pairs : ndarray, (n_cases,)
    """
    agreed, pairs = np.zeros(times.size), np.zeros(times.size)
    for i in np.flatnonzero(events & (weight > 0)):
        later = ((times > times[i]) | ((times == times[i]) & ~events)) * weight[i]
        right = later * ((risk[i] > risk) + 0.5 * (risk[i] == risk))
        pairs += later
        agreed += right
        pairs[i] += later.sum()
        agreed[i] += right.sum()
    return agreed, pairs


def bootstrap_concordance(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    *,
    n_boot: int = 200,
    rng: np.random.Generator,
    horizon: float | None = None,
    block: int = 512,
) -> Floats:
    """Bootstrap Harrell's concordance of one or several risks on the same resamples, as matrix products.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    risk : array_like, (n_cases,) or (n_cases, n_models); higher is worse
    n_boot : int
    rng : numpy Generator
    horizon : float, optional
    block : int
        Events handled at once; bounds the memory.

    Returns
    -------
    ndarray, (n_boot, n_models)
        Differences of columns are paired.
    """
    times, events = truncate_follow_up(time, event, horizon)
    risks = np.asarray(risk, dtype=np.float64).reshape(times.size, -1)
    counts = draw_bootstrap_counts(times.size, n_boot=n_boot, rng=rng).T.astype(np.float32)  # (n_cases, n_boot)
    earlier = np.flatnonzero(events)
    pairs, agreed = np.zeros(n_boot), np.zeros((n_boot, risks.shape[1]))
    for start in range(0, earlier.size, block):
        rows = earlier[start : start + block]
        later = (times > times[rows, None]) | ((times == times[rows, None]) & ~events)
        pairs += np.einsum("eb,eb->b", counts[rows], later.astype(np.float32) @ counts, dtype=np.float64)
        for k in range(risks.shape[1]):
            mine, theirs = risks[rows, k, None], risks[:, k]
            right = (later * (0.5 * (mine > theirs) + 0.5 * (mine >= theirs))).astype(np.float32)
            agreed[:, k] += np.einsum("eb,eb->b", counts[rows], right @ counts, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pairs[:, None] > 0, agreed / pairs[:, None], np.nan)


def compute_time_auc(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    *,
    at: Sequence[float],
    n_boot: int = 0,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Compute the cumulative/dynamic AUC: of one case with the event by t and one without, who has the higher risk.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    risk : array_like, (n_cases,); higher is worse
    at : sequence of float
    n_boot : int
        Resamples of cases for the interval, weights recomputed; 0 gives none.
    rng : numpy Generator, optional
        Needed with `n_boot`.

    Returns
    -------
    DataFrame
        time, auc, ci_low, ci_high (percentile bootstrap; missing where more than a tenth of the resamples have no
        AUC), n_events (by t), n_free (known to be free at t).

    References
    ----------
    Uno et al. 2007, J Am Stat Assoc 102:527. Hung and Chiang 2010, Can J Stat 38:8.
    """
    times, events = check_outcomes(time, event)
    values = _check_risk(risk, times.size)
    rows = []
    for moment in at:
        value = _compute_auc(times, events, values, moment)
        low, high = np.nan, np.nan
        if n_boot and rng is not None:
            draws = [rng.integers(0, times.size, times.size) for _ in range(n_boot)]
            low, high = compute_percentile_interval(
                np.array([_resample_auc(times[d], events[d], values[d], moment) for d in draws])
            )
        counts = int((events & (times <= moment)).sum()), int(find_free(times, events, at=moment).sum())
        rows.append((float(moment), value, low, high, *counts))
    return pd.DataFrame(rows, columns=["time", "auc", "ci_low", "ci_high", "n_events", "n_free"])


def _compute_auc(times: Floats, events: Bools, risk: Floats, moment: float) -> float:
    """Return the weighted share of (event by t, free at t) pairs in the right order; ties count one half."""
    weight = _weigh_events(times, events, moment)
    ill, free = weight > 0, np.sort(risk[find_free(times, events, at=moment)])
    if not free.size:
        return float("nan")
    below = np.searchsorted(free, risk[ill], side="left")
    equal = np.searchsorted(free, risk[ill], side="right") - below
    return float(np.average((below + 0.5 * equal) / free.size, weights=weight[ill]))


def _resample_auc(times: Floats, events: Bools, risk: Floats, moment: float) -> float:
    """Return the AUC of a resample; missing where it has no event by then, or weights that are too heavy."""
    try:
        return _compute_auc(times, events, risk, moment)
    except StatsError:
        return float("nan")


def compute_brier(time: ArrayLike, event: ArrayLike, probability: ArrayLike, *, at: Sequence[float]) -> pd.DataFrame:
    """Compute the Brier score of predicted event probabilities at several times, weighted for censoring.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    probability : array_like, (n_cases, n_times)
        Predicted probability of the event by each time.
    at : sequence of float, (n_times,), increasing

    Returns
    -------
    DataFrame
        time, brier, integrated (the mean up to that time by the trapezoid rule, from the first time on).

    Raises
    ------
    StatsError
        When shapes differ, or hardly anybody is followed to one of the times.

    References
    ----------
    Graf et al. 1999, Stat Med 18:2529.
    """
    times, events = check_outcomes(time, event)
    predicted = np.asarray(probability, dtype=np.float64)
    moments = np.asarray(at, dtype=np.float64)
    if predicted.shape != (times.size, moments.size) or (np.diff(moments) <= 0).any():
        msg = (
            f"StatsError: probabilities of shape {predicted.shape} for {times.size} cases at {moments.size} times, "
            "expected one column per time, times increasing."
        )
        raise StatsError(msg)
    scores = np.array([_score_brier(times, events, predicted[:, k], moments[k]) for k in range(moments.size)])
    area = np.concatenate([[0.0], np.cumsum(np.diff(moments) * (scores[1:] + scores[:-1]) / 2)])
    span = moments - moments[0]
    integrated = np.where(span > 0, area / np.where(span > 0, span, 1.0), np.nan)
    return pd.DataFrame({"time": moments, "brier": scores, "integrated": integrated})


def _score_brier(times: Floats, events: Bools, predicted: Floats, moment: float) -> float:
    free = find_free(times, events, at=moment)
    still = float(compute_censoring_survival(times, events, at=[moment])[0])
    unknown = not free.any() and not events[times == times.max()].all()
    if unknown or (free.any() and still < SMALLEST):
        msg = (
            f"StatsError: {int(free.sum())} of {times.size} cases are known to be free of the event at {moment:g} "
            f"(longest follow-up {times.max():g}, chance of still being followed {still:.3f}, expected at least "
            f"{SMALLEST}). Choose an earlier horizon."
        )
        raise StatsError(msg)
    happened = (events & (times <= moment)).any()
    weight = _weigh_events(times, events, moment) if happened else np.zeros(times.size)
    errors = weight * (1 - predicted) ** 2 + np.where(free, predicted**2 / max(still, SMALLEST), 0.0)
    return float(errors.mean())


def summarize_weights(time: ArrayLike, event: ArrayLike, *, horizon: float) -> dict[str, Any]:
    """Say how heavy the weights get up to a horizon.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    horizon : float

    Returns
    -------
    dict
        horizon, uncensored (probability just before it), largest (weight of an event).
    """
    times, events = check_outcomes(time, event)
    weight = _weigh_events(times, events, horizon)
    uncensored = float(compute_censoring_survival(times, events, at=[horizon])[0])
    return {"horizon": horizon, "uncensored": uncensored, "largest": float(weight.max())}
