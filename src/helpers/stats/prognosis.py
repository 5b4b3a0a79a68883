"""Is a prognosis right, and worth having? Predicted risks out of fold, calibration, decisions, and added value.

Models are fitted on four fifths of the cases and judged on the rest, in turn, so that a model with more terms is not
flattered by having more of them. All models see the same cases and the same folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import StatsError
from helpers.stats.fast_cox import fit_efron
from helpers.stats.follow_up import Z95, Bools, Floats, check_outcomes, truncate_follow_up
from helpers.stats.ipcw import compute_brier, compute_time_auc, compute_uno_concordance, count_weighted_pairs
from helpers.stats.kaplan_meier import fit_km

FOLDS: Final = 5
FEWEST_PER_GROUP: Final = 20
"""Cases of a calibration group."""


@dataclass(frozen=True)
class Prognosis:
    """What one model predicts for cases it was not fitted on.

    Parameters
    ----------
    linear : ndarray, (n_cases,)
        Log hazard ratio against the average training case; 0 everywhere for the model without terms.
    probability : ndarray, (n_cases, n_times)
        Of the event by each time.
    at : ndarray, (n_times,)
    """

    linear: Floats
    probability: Floats
    at: Floats


def deal_folds(event: ArrayLike, *, n_folds: int = FOLDS, seed: int = 20261) -> NDArray[np.intp]:
    """Deal cases into folds with equal shares of events.

    Parameters
    ----------
    event : array_like, (n_cases,)
    n_folds : int
    seed : int

    Returns
    -------
    ndarray, (n_cases,), int
    """
    events = np.asarray(event, dtype=bool)
    rng = np.random.default_rng(seed)
    folds = np.empty(events.size, dtype=np.intp)
    for happened in (False, True):
        mine = np.flatnonzero(events == happened)
        folds[rng.permutation(mine)] = np.arange(mine.size) % n_folds
    return folds


def predict_out_of_fold(
    time: ArrayLike, event: ArrayLike, terms: pd.DataFrame, *, folds: NDArray[np.intp], at: Sequence[float]
) -> Prognosis:
    """Predict every case by a Cox model that was fitted on the other folds.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    terms : DataFrame, (n_cases, n_terms), none missing
        Without columns: everybody gets the event probability of the training cases.
    folds : ndarray, (n_cases,), int
        From `deal_folds`.
    at : sequence of float
        Times at which event probabilities are predicted.

    Returns
    -------
    Prognosis
    """
    times, events = check_outcomes(time, event)
    design = terms.reset_index(drop=True)
    linear, probability = np.zeros(times.size), np.zeros((times.size, len(at)))
    for fold in np.unique(folds):
        out = folds == fold
        slope = _fit_slope(times[~out], events[~out], design[~out])
        mean = design[~out].mean().to_numpy()
        score = (design.to_numpy(dtype=np.float64) - mean) @ slope if slope.size else np.zeros(times.size)
        hazard = compute_baseline_hazard(times[~out], events[~out], score[~out], at=at)
        linear[out] = score[out]
        probability[out] = 1.0 - np.exp(-np.exp(score[out])[:, None] * hazard)
    return Prognosis(linear, probability, np.asarray(at, dtype=np.float64))


def _fit_slope(time: Floats, event: Bools, terms: pd.DataFrame) -> Floats:
    if not terms.shape[1]:
        return np.zeros(0)
    varying = terms.nunique().to_numpy() > 1
    slope = np.zeros(terms.shape[1])
    slope[varying] = fit_efron(time, event, terms.loc[:, varying]).log_hr
    return slope


def compute_baseline_hazard(time: ArrayLike, event: ArrayLike, linear: ArrayLike, *, at: Sequence[float]) -> Floats:
    """Return Breslow's cumulative baseline hazard: that of a case whose log hazard ratio is 0.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    linear : array_like, (n_cases,)
        Log hazard ratios.
    at : sequence of float

    Returns
    -------
    ndarray, (n_times,)

    References
    ----------
    Breslow 1974, Biometrics 30:89.
    """
    times, events = check_outcomes(time, event)
    moments, where = np.unique(times, return_inverse=True)
    at_risk = np.cumsum(np.bincount(where, np.exp(np.asarray(linear, float)), moments.size)[::-1])[::-1]
    hazard = np.cumsum(np.bincount(where, events, moments.size) / at_risk)
    return np.concatenate([[0.0], hazard])[np.searchsorted(moments, np.asarray(at, float), side="right")]


def calibrate(
    time: ArrayLike, event: ArrayLike, probability: ArrayLike, *, horizon: float, n_groups: int = 5
) -> pd.DataFrame:
    """Compare predicted with observed event probabilities at a horizon, in groups of equal size.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    probability : array_like, (n_cases,)
        Predicted probability of the event by the horizon.
    horizon : float
    n_groups : int
        Fewer where a group would hold less than `FEWEST_PER_GROUP` cases.

    Returns
    -------
    DataFrame
        group (from the lowest), predicted (mean), observed (1 − Kaplan–Meier), ci_low, ci_high, n, n_events.
    """
    times, events = truncate_follow_up(time, event, horizon)
    predicted = np.asarray(probability, dtype=np.float64)
    n_groups = max(2, min(n_groups, times.size // FEWEST_PER_GROUP))
    edges = np.quantile(predicted, np.linspace(0, 1, n_groups + 1)[1:-1])
    group = np.searchsorted(edges, predicted, side="left")
    rows = []
    for number in np.unique(group):
        mine = group == number
        last = fit_km(times[mine], events[mine]).query("time <= @horizon").iloc[-1]
        bounds = 1 - last["ci_high"], 1 - last["ci_low"]
        counts = int(mine.sum()), int(events[mine].sum())
        rows.append((int(number), float(predicted[mine].mean()), 1 - last["survival"], *bounds, *counts))
    return pd.DataFrame(rows, columns=["group", "predicted", "observed", "ci_low", "ci_high", "n", "n_events"])


def summarize_calibration(
    time: ArrayLike, event: ArrayLike, prognosis: Prognosis, *, horizon: float
) -> dict[str, float]:
    """Return calibration in the large and the calibration slope.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    prognosis : Prognosis
        With `horizon` among its times.
    horizon : float

    Returns
    -------
    dict
        observed (1 − Kaplan–Meier), predicted (mean), ratio, slope (1: spread right, below: too extreme; NaN without
        terms), slope_se.
    """
    times, events = truncate_follow_up(time, event, horizon)
    column = int(np.flatnonzero(np.isclose(prognosis.at, horizon))[0])
    observed = 1 - float(fit_km(times, events)["survival"].iloc[-1])
    predicted = float(prognosis.probability[:, column].mean())
    slope, se = float("nan"), float("nan")
    if np.ptp(prognosis.linear) > 0:
        fit = fit_efron(times, events, pd.DataFrame({"linear": prognosis.linear}))
        slope, se = float(fit.log_hr[0]), float(fit.se[0])
    ratio = observed / predicted if predicted > 0 else float("nan")
    return {"observed": observed, "predicted": predicted, "ratio": ratio, "slope": slope, "slope_se": se}


def decide(
    time: ArrayLike, event: ArrayLike, probability: ArrayLike, *, horizon: float, thresholds: ArrayLike
) -> pd.DataFrame:
    """Compute the net benefit of treating those above a threshold of predicted risk (decision curve).

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    probability : array_like, (n_cases,)
        Predicted probability of the event by the horizon.
    horizon : float
    thresholds : array_like, (n_thresholds,), in (0, 1)

    Returns
    -------
    DataFrame
        threshold, net_benefit, treat_all (treat_none is 0), share_treated.

    References
    ----------
    Vickers et al. 2008, BMC Med Inform Decis Mak 8:53 (extension to censored outcomes).
    """
    times, events = truncate_follow_up(time, event, horizon)
    predicted = np.asarray(probability, dtype=np.float64)
    overall = _observe(times, events)
    rows = []
    for threshold in np.asarray(thresholds, dtype=np.float64):
        odds = threshold / (1 - threshold)
        treated = predicted >= threshold
        share = float(treated.mean())
        rate = _observe(times[treated], events[treated]) if treated.any() else 0.0
        rows.append((threshold, share * (rate - (1 - rate) * odds), overall - (1 - overall) * odds, share))
    return pd.DataFrame(rows, columns=["threshold", "net_benefit", "treat_all", "share_treated"])


def _observe(times: Floats, events: Bools) -> float:
    """Return 1 − Kaplan–Meier at the end of follow-up, without the table around it."""
    moments, where = np.unique(times, return_inverse=True)
    at_risk = np.cumsum(np.bincount(where, minlength=moments.size)[::-1])[::-1]
    return 1.0 - float(np.prod(1 - np.bincount(where, events, moments.size) / at_risk))


def compare_concordance(
    time: ArrayLike, event: ArrayLike, better: ArrayLike, base: ArrayLike, *, horizon: float | None = None
) -> dict[str, float]:
    """Compare Harrell's concordance of two risks on the same cases; the interval knows that they are paired.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    better, base : array_like, (n_cases,); higher is worse
    horizon : float, optional

    Returns
    -------
    dict
        difference (better − base), se (infinitesimal jackknife over cases), ci_low, ci_high, p.
    """
    from scipy.stats import norm

    times, events = truncate_follow_up(time, event, horizon)
    values, shares = [], []
    for risk in (better, base):
        agreed, pairs = count_weighted_pairs(times, events, np.asarray(risk, float), weight=np.ones(times.size))
        total = pairs.sum() / 2
        values.append(agreed.sum() / 2 / total)
        shares.append((agreed - values[-1] * pairs) / total)
    difference, se = float(values[0] - values[1]), float(np.sqrt(np.sum((shares[0] - shares[1]) ** 2)))
    p = float(2 * norm.sf(abs(difference) / se)) if se > 0 else 1.0
    return {
        "difference": difference, "se": se, "ci_low": difference - Z95 * se, "ci_high": difference + Z95 * se, "p": p
    }  # fmt: skip


def compare_likelihood(
    time: ArrayLike, event: ArrayLike, terms: pd.DataFrame, *, base: Sequence[str], horizon: float | None = None
) -> dict[str, float]:
    """Test by likelihood ratio whether all terms together say more than those of the base.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    terms : DataFrame, (n_cases, n_terms)
    base : sequence of str
        Columns of the smaller model; may be empty.
    horizon : float, optional

    Returns
    -------
    dict
        statistic, df, p, adequacy (share of the full model's likelihood ratio that the base reaches).

    Raises
    ------
    StatsError
        When the base is not a part of the terms.
    """
    from scipy.stats import chi2

    extra = [name for name in terms if name not in base]
    if not extra or set(base) - set(terms):
        msg = f"StatsError: base {list(base)} is no smaller part of {list(terms)}. Name columns of the table, not all."
        raise StatsError(msg)
    full = fit_efron(time, event, terms, horizon=horizon)
    null = full.log_likelihood_null
    small = fit_efron(time, event, terms[list(base)], horizon=horizon).log_likelihood if base else null
    statistic = max(2 * (full.log_likelihood - small), 0.0)
    whole = 2 * (full.log_likelihood - null)
    adequacy = 2 * (small - null) / whole if whole > 0 else float("nan")
    return {"statistic": statistic, "df": len(extra), "p": float(chi2.sf(statistic, len(extra))), "adequacy": adequacy}


def judge_models(
    time: ArrayLike,
    event: ArrayLike,
    models: Mapping[str, pd.DataFrame],
    *,
    base: str,
    horizon: float,
    n_boot: int = 200,
    seed: int = 20261,
) -> tuple[pd.DataFrame, dict[str, Prognosis]]:
    """Judge several models of the same cases, out of fold, and what each adds to a base model.

    Models are fitted to the horizon, so that effects which fade later do not blur what is predicted for it.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    models : mapping of str to DataFrame, (n_cases, n_terms)
        Words to terms; every model that is tested against the base holds the base's columns.
    base : str
        One of the models: the clinical one.
    horizon : float
        Of the AUC, the integrated Brier score and the calibration.
    n_boot : int
        Of the AUC's interval.
    seed : int
        Of folds and bootstraps.

    Returns
    -------
    table : DataFrame
        model, n_terms, concordance (Harrell, up to the horizon), uno, auc, auc_low, auc_high, integrated_brier, brier,
        observed, predicted, slope, then against the base: delta_concordance, delta_low, delta_high, lr_statistic,
        lr_df, lr_p; n, n_events.
    prognoses : dict of str to Prognosis
    """
    times, events = check_outcomes(time, event)
    cut, happened = truncate_follow_up(times, events, horizon)
    folds = deal_folds(happened, seed=seed)
    grid = np.linspace(0.1, 1.0, 10) * horizon
    prognoses = {
        name: predict_out_of_fold(cut, happened, terms, folds=folds, at=list(grid)) for name, terms in models.items()
    }
    rows = []
    for name, prognosis in prognoses.items():
        row = {"model": name, "n_terms": models[name].shape[1]}
        row |= _judge_one(times, events, prognosis, horizon=horizon, n_boot=n_boot, seed=seed)
        if name != base:
            row |= _compare_with_base(times, events, models, prognoses, name=name, base=base, horizon=horizon)
        rows.append(row)
    return pd.DataFrame(rows).assign(n=times.size, n_events=int(happened.sum()), horizon=horizon), prognoses


def _judge_one(
    times: Floats, events: Bools, prognosis: Prognosis, *, horizon: float, n_boot: int, seed: int
) -> dict[str, float]:
    brier = compute_brier(times, events, prognosis.probability, at=list(prognosis.at)).iloc[-1]
    row = {"brier": brier["brier"], "integrated_brier": brier["integrated"]}
    row |= summarize_calibration(times, events, prognosis, horizon=horizon)
    if np.ptp(prognosis.linear) == 0:
        return row | {"concordance": 0.5, "uno": 0.5, "auc": 0.5}
    rng = np.random.default_rng(seed)
    risk = prognosis.linear
    cut, happened = truncate_follow_up(times, events, horizon)
    agreed, pairs = count_weighted_pairs(cut, happened, risk, weight=np.ones(cut.size))
    auc = compute_time_auc(times, events, risk, at=[horizon], n_boot=n_boot, rng=rng).iloc[0]
    uno = compute_uno_concordance(times, events, risk, horizon=horizon).iloc[0]
    row |= {"concordance": agreed.sum() / pairs.sum(), "uno": uno["concordance"]}
    return row | {"auc": auc["auc"], "auc_low": auc["ci_low"], "auc_high": auc["ci_high"]}


def _compare_with_base(
    times: Floats,
    events: Bools,
    models: Mapping[str, pd.DataFrame],
    prognoses: Mapping[str, Prognosis],
    *,
    name: str,
    base: str,
    horizon: float,
) -> dict[str, float]:
    change = compare_concordance(times, events, prognoses[name].linear, prognoses[base].linear, horizon=horizon)
    row = {"delta_concordance": change["difference"], "delta_low": change["ci_low"], "delta_high": change["ci_high"]}
    if set(models[base]) < set(models[name]):
        ratio = compare_likelihood(times, events, models[name], base=list(models[base]), horizon=horizon)
        row |= {"lr_statistic": ratio["statistic"], "lr_df": ratio["df"], "lr_p": ratio["p"]}
        row |= {"adequacy": ratio["adequacy"]}
    return row
