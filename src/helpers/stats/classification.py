"""How good a classifier of two classes is: twelve quantities, each with a case bootstrap, beside what chance gives.

Point values come from scikit-learn. Bootstraps are counts per case (`draw_bootstrap_counts`), so every quantity of a
thousand resamples is a few matrix products; a test holds the two ways together. A prediction carries a probability
and, where the model chose a threshold of its own, that threshold; it never comes from the cases that are judged.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.core.errors import StatsError
from helpers.stats.resampling import (
    compare_repeated_folds,
    compute_percentile_interval,
    draw_bootstrap_counts,
    list_unpaired,
)

DECISIONS: Final = ("accuracy", "balanced_accuracy", "f1", "mcc")
"""Quantities of a decision, that is of a probability and a threshold."""
RANKS: Final = ("roc_auc", "pr_auc")
CALIBRATION: Final = ("brier", "log_loss", "ece", "calibration_slope", "calibration_intercept")
QUANTITIES: Final = (*RANKS, *DECISIONS, *CALIBRATION)
N_BINS: Final = 10
CLIP: Final = 1e-6
"""Probabilities are kept this far from 0 and 1 where a logarithm is taken."""
Resamples = dict[str, np.ndarray]


def compute_classification(
    y_true: np.ndarray,
    y_prob: np.ndarray,
    *,
    threshold: np.ndarray | float = 0.5,
    n_boot: int = 1000,
    rng: np.random.Generator,
    clusters: np.ndarray | None = None,
) -> pd.DataFrame:
    """Measure a classifier of two classes with 95 % case-bootstrap intervals.

    Parameters
    ----------
    y_true : ndarray, (n,)
        1 for the positive class, 0 for the other.
    y_prob : ndarray, (n,), in [0, 1]
        Predicted probability of the positive class.
    threshold : float or ndarray, (n,)
        A case is called positive where its probability reaches it.
    n_boot : int
        0 gives no intervals.
    rng : numpy Generator
    clusters : ndarray, (n,), optional
        Whole clusters (sites) are drawn instead of cases.

    Returns
    -------
    DataFrame, one row per quantity of `QUANTITIES`
        quantity, value, ci_low, ci_high, chance, n, n_positive. `pr_auc` is average precision; `ece` has ten bins of
        equal count; `calibration_slope` and `_intercept` are those of a logistic regression of the class on the logit
        (1 and 0 where probabilities mean what they say). What needs both classes is missing where one is absent.

    Raises
    ------
    StatsError
        When a value is missing, a class is not 0 or 1, or a probability lies outside [0, 1].
    """
    y_true, y_prob = check_classes(y_true, y_prob)
    called = (y_prob >= threshold).astype(float)
    values, chance = measure_once(y_true, y_prob, called), compute_chance(y_true)
    intervals = dict.fromkeys(QUANTITIES, (np.nan, np.nan))
    if n_boot and len(y_true) > 1:
        counts = draw_bootstrap_counts(len(y_true), n_boot=n_boot, rng=rng, clusters=clusters)
        drawn = measure_resamples(y_true, y_prob, called, counts)
        intervals = {name: compute_percentile_interval(drawn[name]) for name in QUANTITIES}
    n, n_positive = len(y_true), int(y_true.sum())
    rows = [(name, values[name], *intervals[name], chance[name], n, n_positive) for name in QUANTITIES]
    return pd.DataFrame(rows, columns=["quantity", "value", "ci_low", "ci_high", "chance", "n", "n_positive"])


def check_classes(y_true: np.ndarray, y_prob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and probabilities as float64 after checking them.

    Parameters
    ----------
    y_true, y_prob : ndarray, (n,)

    Returns
    -------
    y_true, y_prob : ndarray, (n,), float64

    Raises
    ------
    StatsError
        When shapes differ, a value is missing, a class is not 0 or 1, or a probability lies outside [0, 1].
    """
    y_true, y_prob = np.asarray(y_true, float), np.asarray(y_prob, float)
    if y_true.shape != y_prob.shape or y_true.ndim != 1 or not len(y_true):
        msg = f"StatsError: {y_true.shape} classes and {y_prob.shape} probabilities; expected two equal lists of cases."
        raise StatsError(msg)
    wrong = np.flatnonzero(~np.isin(y_true, (0.0, 1.0)))
    if len(wrong):
        msg = f"StatsError: case {wrong[0]} has class {y_true[wrong[0]]!r} ({len(wrong)} such), expected 0 or 1."
        raise StatsError(msg)
    wrong = np.flatnonzero(~((y_prob >= 0) & (y_prob <= 1)))
    if len(wrong):
        msg = (
            f"StatsError: case {wrong[0]} has probability {y_prob[wrong[0]]!r} ({len(wrong)} such), expected 0 to 1. "
            "Turn scores into probabilities first."
        )
        raise StatsError(msg)
    return y_true, y_prob


def compute_chance(y_true: np.ndarray) -> dict[str, float]:
    """Return what a model that knows nothing reaches, by quantity.

    Parameters
    ----------
    y_true : ndarray, (n,), 0 or 1

    Returns
    -------
    dict of str to float
        Average precision: the share of positives; F1: that of calling everybody positive, 2π / (1 + π); accuracy:
        that of the larger class; Brier score and log loss: those of saying π of everybody; slope: NaN (undefined).
    """
    share = float(np.mean(y_true))
    entropy = -sum(p * np.log(p) for p in (share, 1 - share) if p > 0)
    return {
        "roc_auc": 0.5, "pr_auc": share, "accuracy": max(share, 1 - share), "balanced_accuracy": 0.5,
        "f1": 2 * share / (1 + share), "mcc": 0.0, "brier": share * (1 - share), "log_loss": entropy, "ece": 0.0,
        "calibration_slope": float("nan"), "calibration_intercept": float("nan"),
    }  # fmt: skip


def measure_once(y_true: np.ndarray, y_prob: np.ndarray, called: np.ndarray) -> dict[str, float]:
    """Measure every quantity once, by scikit-learn where it has it.

    Parameters
    ----------
    y_true, y_prob, called : ndarray, (n,)
        Class, probability, and the class called.

    Returns
    -------
    dict of str to float
    """
    from sklearn import metrics

    nothing = float("nan")
    both = 0 < y_true.sum() < len(y_true)
    plain = measure_resamples(y_true, y_prob, called, np.ones((1, len(y_true))))
    found = {name: float(plain[name][0]) for name in CALIBRATION}
    return found | {
        "roc_auc": float(metrics.roc_auc_score(y_true, y_prob)) if both else nothing,
        "pr_auc": float(metrics.average_precision_score(y_true, y_prob)) if both else nothing,
        "accuracy": float(metrics.accuracy_score(y_true, called)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(y_true, called)) if both else nothing,
        "f1": float(metrics.f1_score(y_true, called, zero_division=0.0)) if both else nothing,
        "mcc": float(metrics.matthews_corrcoef(y_true, called)) if both else nothing,
        "brier": float(metrics.brier_score_loss(y_true, y_prob)) if both else found["brier"],
    }


def measure_resamples(y_true: np.ndarray, y_prob: np.ndarray, called: np.ndarray, counts: np.ndarray) -> Resamples:
    """Measure every quantity of many weighted samples at once.

    Parameters
    ----------
    y_true, y_prob, called : ndarray, (n,)
    counts : ndarray, (n_boot, n)
        How often each case is in each resample.

    Returns
    -------
    dict of str to ndarray, (n_boot,)
        NaN where a resample holds one class only and the quantity needs two.
    """
    found = _measure_decisions(y_true, called, counts) | _measure_ranks(y_true, y_prob, counts)
    found |= _measure_calibration(y_true, y_prob, counts)
    positive = counts @ y_true
    one_class = (positive == 0) | (positive == counts.sum(axis=1))
    for name in (*RANKS, "balanced_accuracy", "f1", "mcc", "calibration_slope", "calibration_intercept"):
        found[name] = np.where(one_class, np.nan, found[name])
    return found


def _measure_decisions(y_true: np.ndarray, called: np.ndarray, counts: np.ndarray) -> Resamples:
    tp, fp = counts @ (y_true * called), counts @ ((1 - y_true) * called)
    fn, tn = counts @ (y_true * (1 - called)), counts @ ((1 - y_true) * (1 - called))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return {
            "accuracy": (tp + tn) / (tp + tn + fp + fn),
            "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
            "f1": np.where(tp > 0, 2 * tp / (2 * tp + fp + fn), 0.0),
            "mcc": np.where(spread > 0, (tp * tn - fp * fn) / np.where(spread > 0, spread, 1.0), 0.0),
        }


def _measure_ranks(y_true: np.ndarray, y_prob: np.ndarray, counts: np.ndarray) -> Resamples:
    """ROC-AUC with ties counted half, and average precision with ties taken together, as scikit-learn does."""
    order = np.argsort(-y_prob, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(y_prob[order]) != 0, True])  # last case of each distinct probability
    true_at = np.cumsum(counts[:, order] * y_true[order], axis=1)[:, ends]
    false_at = np.cumsum(counts[:, order] * (1 - y_true[order]), axis=1)[:, ends]
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, fallout = true_at / true_at[:, -1:], false_at / false_at[:, -1:]
        precision = np.where(true_at > 0, true_at / (true_at + false_at), 0.0)
        steps = np.diff(recall, axis=1, prepend=0.0)
        heights = recall - steps / 2
        widths = np.diff(fallout, axis=1, prepend=0.0)
        return {"roc_auc": (heights * widths).sum(axis=1), "pr_auc": (steps * precision).sum(axis=1)}


def _measure_calibration(y_true: np.ndarray, y_prob: np.ndarray, counts: np.ndarray) -> Resamples:
    total = counts.sum(axis=1)
    clipped = np.clip(y_prob, CLIP, 1 - CLIP)
    loss = -(y_true * np.log(clipped) + (1 - y_true) * np.log(1 - clipped))
    bins = cut_bins(y_prob)
    gaps = np.stack([np.abs(counts[:, rows] @ (y_true - y_prob)[rows]) for rows in bins], axis=1)
    slope, intercept = fit_calibration(y_true, np.log(clipped / (1 - clipped)), counts)
    return {
        "brier": counts @ (y_prob - y_true) ** 2 / total, "log_loss": counts @ loss / total,
        "ece": gaps.sum(axis=1) / total, "calibration_slope": slope, "calibration_intercept": intercept,
    }  # fmt: skip


def cut_bins(y_prob: np.ndarray, *, n_bins: int = N_BINS) -> list[np.ndarray]:
    """Cut cases into groups of like probability and about equal count; equal probabilities stay together.

    Parameters
    ----------
    y_prob : ndarray, (n,)
    n_bins : int

    Returns
    -------
    list of ndarray of int
        Cases of each bin, from the lowest; at most `n_bins`, none empty.
    """
    below = np.searchsorted(np.sort(y_prob), y_prob, side="left")
    codes = below * n_bins // len(y_prob)
    return [np.flatnonzero(codes == code) for code in np.unique(codes)]


def fit_calibration(y_true: np.ndarray, logit: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regress the class on the logit of its prediction, in every resample at once (Newton's method).

    Parameters
    ----------
    y_true, logit : ndarray, (n,)
    counts : ndarray, (n_boot, n)

    Returns
    -------
    slope, intercept : ndarray, (n_boot,)
        NaN where the fit does not converge, as with classes that the prediction separates, and where all predictions
        of a resample are equal, which leaves the slope undefined.
    """
    mean = counts @ logit / counts.sum(axis=1)
    alike = (counts * (logit - mean[:, None]) ** 2).sum(axis=1) <= 1e-18 * counts.sum(axis=1) * (1 + mean**2)
    share = np.clip(counts @ y_true / counts.sum(axis=1), 1e-6, 1 - 1e-6)
    slope, intercept = np.zeros(len(counts)), np.log(share / (1 - share))
    moved = np.full(len(counts), np.inf)
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(slope[:, None] * logit + intercept[:, None], -30, 30)))
        w, r = counts * np.maximum(p * (1 - p), 1e-12), counts * (y_true - p)
        a, b, c = w @ logit**2, w @ logit, w.sum(axis=1)
        g, h = r @ logit, r.sum(axis=1)
        det = np.maximum(a * c - b * b, 1e-12)
        step = np.clip(np.stack([(c * g - b * h) / det, (a * h - b * g) / det]), -1.0, 1.0)
        slope, intercept, moved = slope + step[0], intercept + step[1], np.abs(step).max(axis=0)
    lost = alike | (moved > 1e-3) | (np.abs(slope) > 1e3)
    return np.where(lost, np.nan, slope), np.where(lost, np.nan, intercept)


def compute_classification_by(
    predictions: pd.DataFrame, keys: Sequence[str], *, n_boot: int = 0, rng: np.random.Generator
) -> pd.DataFrame:
    """Measure every group of predictions.

    Parameters
    ----------
    predictions : DataFrame
        `keys`, y_true, y_pred (probability), threshold.
    keys : sequence of str
        Such as target, arm, split, repeat, fold.
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    DataFrame
        `keys` and the columns of `compute_classification`.
    """
    tables = []
    for key, rows in predictions.groupby(list(keys), sort=False, observed=True):
        found = compute_classification(
            rows["y_true"].to_numpy(), rows["y_pred"].to_numpy(), threshold=rows["threshold"].to_numpy(),
            n_boot=n_boot, rng=rng,
        )  # fmt: skip
        tables.append(found.assign(**dict(zip(keys, key, strict=True))))
    return pd.concat(tables, ignore_index=True)[[*keys, *tables[0].columns.drop(list(keys))]]


def compute_arm_performance(
    predictions: pd.DataFrame, *, n_boot: int = 1000, rng: np.random.Generator, site: pd.Series | None = None
) -> pd.DataFrame:
    """Measure every arm: the mean over repeats of pooled values and of fold means, with case-bootstrap intervals.

    A resample draws cases and takes them into every repeat, so the interval is of the mean over repeats.

    Parameters
    ----------
    predictions : DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred, threshold.
    n_boot : int
    rng : numpy Generator
        Every arm of a target and split gets the same resamples.
    site : Series, optional
        By `case_id`; adds site_low and site_high, from resampled sites, where there are five or more.

    Returns
    -------
    DataFrame
        target, arm, split, quantity, value, ci_low, ci_high, fold_mean, chance, n, n_positive, n_repeats.
    """
    tables = []
    seed = int(rng.integers(2**31))
    for (target, split, arm), rows in predictions.groupby(["target", "split", "arm"], sort=False, observed=True):
        values, drawn = resample_arm(rows, n_boot=n_boot, rng=np.random.default_rng(seed))
        one = rows.drop_duplicates("case_id")
        chance = compute_chance(one["y_true"].to_numpy(float))
        folds = summarise_folds(rows)
        table = pd.DataFrame({"quantity": list(QUANTITIES), "value": [values[name] for name in QUANTITIES]})
        ends = [compute_percentile_interval(drawn[name]) for name in QUANTITIES]
        table[["ci_low", "ci_high"]] = np.array(ends)
        if site is not None:
            table[["site_low", "site_high"]] = _resample_sites(rows, site, n_boot=n_boot, seed=seed)
        table["fold_mean"] = [folds[name] for name in QUANTITIES]
        table["chance"] = [chance[name] for name in QUANTITIES]
        counts = {"n": len(one), "n_positive": int(one["y_true"].sum()), "n_repeats": rows["repeat"].nunique()}
        tables.append(table.assign(target=target, arm=arm, split=split, **counts))
    found = pd.concat(tables, ignore_index=True)
    return found[["target", "arm", "split", *found.columns.drop(["target", "arm", "split"])]]


def _resample_sites(rows: pd.DataFrame, site: pd.Series, *, n_boot: int, seed: int) -> np.ndarray:
    sites = site.loc[rows["case_id"].unique()].astype(str)
    if sites.nunique() < 5:
        return np.full((len(QUANTITIES), 2), np.nan)
    _, drawn = resample_arm(rows, n_boot=n_boot, rng=np.random.default_rng(seed), clusters=sites)
    return np.array([compute_percentile_interval(drawn[name]) for name in QUANTITIES])


def resample_arm(
    rows: pd.DataFrame, *, n_boot: int, rng: np.random.Generator, clusters: pd.Series | None = None
) -> tuple[dict[str, float], Resamples]:
    """Measure one arm on one split: values averaged over repeats, and their resamples by case.

    Parameters
    ----------
    rows : DataFrame
        Predictions of one arm, target and split; every repeat holds the same cases.
    n_boot : int
    rng : numpy Generator
    clusters : Series, optional
        By `case_id`.

    Returns
    -------
    values : dict of str to float
    resamples : dict of str to ndarray, (n_boot,)

    Raises
    ------
    StatsError
        When a repeat lacks a case or holds one twice.
    """
    cases = pd.Index(sorted(rows["case_id"].unique()))
    codes = None if clusters is None else clusters.loc[cases].to_numpy()
    counts = draw_bootstrap_counts(len(cases), n_boot=n_boot, rng=rng, clusters=codes)
    values, drawn = [], []
    for repeat, part in rows.groupby("repeat"):
        if len(part) != len(cases):
            msg = f"StatsError: repeat {repeat} holds {len(part)} predictions of {len(cases)} cases, expected one each."
            raise StatsError(msg)
        part = part.set_index("case_id").loc[cases]
        y_true, y_prob = check_classes(part["y_true"].to_numpy(), part["y_pred"].to_numpy())
        called = (y_prob >= part["threshold"].to_numpy()).astype(float)
        values.append(measure_once(y_true, y_prob, called))
        drawn.append(measure_resamples(y_true, y_prob, called, counts))
    mean = {name: float(np.mean([found[name] for found in values])) for name in QUANTITIES}
    return mean, {name: np.mean([found[name] for found in drawn], axis=0) for name in QUANTITIES}


def summarise_folds(rows: pd.DataFrame) -> dict[str, float]:
    """Average every quantity over the folds of all repeats; folds with one class do not count where two are needed.

    Parameters
    ----------
    rows : DataFrame
        Predictions of one arm, target and split.

    Returns
    -------
    dict of str to float
        NaN where there are no folds (frozen cases).
    """
    folds = rows[rows["fold"] >= 0]
    if folds.empty:
        return dict.fromkeys(QUANTITIES, float("nan"))
    rng = np.random.default_rng(0)  # not drawn from: no interval is asked for
    table = compute_classification_by(folds, ["repeat", "fold"], rng=rng)
    means = table.groupby("quantity")["value"].mean()
    return {name: float(means[name]) for name in QUANTITIES}


def compare_classifiers(
    predictions: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    quantities: Sequence[str] = ("roc_auc", "pr_auc", "f1"),
    n_boot: int = 1000,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Compare arms pairwise on the same cases: paired bootstrap of the difference, and Nadeau-Bengio over folds.

    Parameters
    ----------
    predictions : DataFrame
        As in `compute_arm_performance`; only one target.
    pairs : sequence of (arm, other)
        The difference is arm minus other.
    quantities : sequence of str
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    DataFrame
        split, arm, other, quantity, value, other_value, difference, ci_low, ci_high (paired case bootstrap, averaged
        over repeats), fold_difference, fold_low, fold_high, p (over folds of all repeats, with the correction for
        overlapping training sets; missing on frozen cases), n.

    Raises
    ------
    StatsError
        When an arm has no predictions, or was judged on other cases than another.
    """
    seed, found = int(rng.integers(2**31)), []
    for split, rows in predictions.groupby("split", sort=False):
        by_arm = {str(arm): part for arm, part in rows.groupby("arm")}
        absent = [arm for pair in pairs for arm in pair if arm not in by_arm]
        if absent:
            msg = f"StatsError: arm '{absent[0]}' has no predictions on {split}; there are {', '.join(by_arm)}."
            raise StatsError(msg)
        wanted = dict.fromkeys(arm for pair in pairs for arm in pair)
        _check_same_cases({arm: by_arm[arm] for arm in wanted}, str(split))
        drawn = {a: resample_arm(by_arm[a], n_boot=n_boot, rng=np.random.default_rng(seed)) for a in wanted}
        for arm, other in pairs:
            for name in quantities:
                (a, many_a), (b, many_b) = drawn[arm], drawn[other]
                low, high = compute_percentile_interval(many_a[name] - many_b[name])
                row: dict[str, Any] = {"split": split, "arm": arm, "other": other, "quantity": name}
                row |= {"value": a[name], "other_value": b[name], "difference": a[name] - b[name]}
                row |= {"ci_low": low, "ci_high": high, "n": by_arm[arm]["case_id"].nunique()}
                found.append(row | compare_foldwise(by_arm[arm], by_arm[other], name))
    return pd.DataFrame(found)


def _check_same_cases(by_arm: dict[str, pd.DataFrame], split: str) -> None:
    """Raise where arms were judged on other cases: resamples of a pair would not be of the same cases."""
    first = next(iter(by_arm), "")
    for arm, mine in by_arm.items():
        other = list_unpaired(mine, by_arm[first])
        if other:
            repeat, fold, case_id = other[0]
            msg = (
                f"StatsError: arms '{first}' and '{arm}' were judged on other cases of {split}: case '{case_id}' of "
                f"repeat {repeat}, fold {fold} is in one of them only ({len(other)} such). Judge both on the same ones."
            )
            raise StatsError(msg)


def compare_foldwise(first: pd.DataFrame, second: pd.DataFrame, quantity: str) -> dict[str, float]:
    """Compare two arms fold by fold, with the correction for overlapping training sets.

    Parameters
    ----------
    first, second : DataFrame
        Predictions of two arms on the same folds.
    quantity : str

    Returns
    -------
    dict
        fold_difference, fold_low, fold_high, p; missing where there are fewer than two folds with both classes.
    """
    nothing = dict.fromkeys(("fold_difference", "fold_low", "fold_high", "p"), float("nan"))
    if (first["fold"] < 0).all():
        return nothing
    rng = np.random.default_rng(0)  # not drawn from: no interval is asked for
    keys, values = ["repeat", "fold"], []
    for rows in (first, second):
        table = compute_classification_by(rows[rows["fold"] >= 0], keys, rng=rng)
        values.append(table[table["quantity"] == quantity].set_index(keys)["value"])
    paired = (values[0] - values[1]).dropna()
    if len(paired) < 2:
        return nothing
    share = 1 / first.groupby("repeat")["fold"].nunique().mean()
    compared = compare_repeated_folds(paired.to_numpy(), test_to_train=share / (1 - share))
    names = {"fold_difference": "difference", "fold_low": "ci_low", "fold_high": "ci_high", "p": "p"}
    return {new: compared[old] for new, old in names.items()}


def count_classes(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count cases and positives of every fold and frozen split, of one arm.

    Parameters
    ----------
    predictions : DataFrame
        split, repeat, fold, case_id, y_true; one arm and target.

    Returns
    -------
    DataFrame
        split, repeat, fold, n, n_positive, step (by how much one positive moves recall: 1 / n_positive).
    """
    groups = predictions.groupby(["split", "repeat", "fold"], sort=True)["y_true"]
    table = groups.agg(n="size", n_positive="sum").reset_index().astype({"n_positive": int})
    return table.assign(step=np.where(table["n_positive"] > 0, 1 / table["n_positive"].clip(lower=1), np.nan))


def choose_threshold(y_true: np.ndarray, y_prob: np.ndarray) -> float:
    """Choose the threshold of the highest F1, half way between neighbouring probabilities.

    Parameters
    ----------
    y_true, y_prob : ndarray, (n,)
        Of cases that the judged model did not train on, and that are not judged.

    Returns
    -------
    float
        0.5 where one class is absent.
    """
    y_true, y_prob = check_classes(y_true, y_prob)
    if not 0 < y_true.sum() < len(y_true):
        return 0.5
    order = np.argsort(-y_prob, kind="stable")
    sorted_prob, hits = y_prob[order], np.cumsum(y_true[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + y_true.sum())
    ends = np.r_[np.diff(sorted_prob) != 0, True]  # a threshold cannot part equal probabilities
    best = int(np.argmax(np.where(ends, f1, -1.0)))
    below = sorted_prob[best + 1] if best + 1 < len(sorted_prob) else 0.0
    return float((sorted_prob[best] + below) / 2)


def compute_reliability(y_true: np.ndarray, y_prob: np.ndarray, *, n_bins: int = N_BINS) -> pd.DataFrame:
    """Average predicted and observed shares of groups of like probability, with Wilson intervals.

    Parameters
    ----------
    y_true, y_prob : ndarray, (n,)
    n_bins : int

    Returns
    -------
    DataFrame
        predicted, observed, low, high, n.
    """
    y_true, y_prob = check_classes(y_true, y_prob)
    rows = []
    for part in cut_bins(y_prob, n_bins=n_bins):
        n, share = len(part), float(y_true[part].mean())
        z = 1.959964
        centre, width = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        rows.append((float(y_prob[part].mean()), share, (centre - width) / scale, (centre + width) / scale, n))
    return pd.DataFrame(rows, columns=["predicted", "observed", "low", "high", "n"])


def compute_curves(y_true: np.ndarray, y_prob: np.ndarray) -> pd.DataFrame:
    """Return the ROC and the precision-recall curve as one table.

    Parameters
    ----------
    y_true, y_prob : ndarray, (n,)

    Returns
    -------
    DataFrame
        curve (roc, pr), x (false positive rate, recall), y (true positive rate, precision).
    """
    from sklearn import metrics

    y_true, y_prob = check_classes(y_true, y_prob)
    fpr, tpr, _ = metrics.roc_curve(y_true, y_prob)
    precision, recall, _ = metrics.precision_recall_curve(y_true, y_prob)
    roc = pd.DataFrame({"curve": "roc", "x": fpr, "y": tpr})
    return pd.concat([roc, pd.DataFrame({"curve": "pr", "x": recall[::-1], "y": precision[::-1]})], ignore_index=True)
