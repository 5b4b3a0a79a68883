"""The confounding panel for targets of two classes: what a label alone predicts, and what is left for the image.

The same questions and the same table as `helpers.stats.confounding`, with the area under the ROC curve in place of a
correlation: 0.5 is chance.
"""

import numpy as np
import pandas as pd

from helpers.stats.classification import RANKS, measure_resamples
from helpers.stats.confounding import COLUMNS, MISSING, choose_label_folds, list_strata, predict_by_label
from helpers.stats.resampling import (
    Refit,
    compare_with_null,
    compute_percentile_interval,
    compute_permutation_null,
    draw_bootstrap_counts,
)

AUC = RANKS[0]


def compute_auc_columns(y_true: np.ndarray, y_score: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of every column; ties count half.

    Parameters
    ----------
    y_true : ndarray, (n, k), 0 or 1
    y_score : ndarray, (n, k)

    Returns
    -------
    ndarray, (k,)
        NaN where a column holds one class.
    """
    from scipy.stats import rankdata

    ranks = rankdata(y_score, axis=0)
    positive = y_true.sum(axis=0)
    negative = len(y_true) - positive
    with np.errstate(invalid="ignore", divide="ignore"):
        above = (ranks * y_true).sum(axis=0) - positive * (positive + 1) / 2
        return np.where((positive > 0) & (negative > 0), above / (positive * negative), np.nan)


def compute_auc(
    y_true: np.ndarray, y_score: np.ndarray, *, n_boot: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Area under the ROC curve with a case-bootstrap interval; scores need not be probabilities.

    Parameters
    ----------
    y_true, y_score : ndarray, (n,)
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    value, low, high : float
    """
    value = float(compute_auc_columns(y_true[:, None], y_score[:, None])[0])
    counts = draw_bootstrap_counts(len(y_true), n_boot=n_boot, rng=rng)
    ranks = np.unique(y_score, return_inverse=True)[1] / len(y_score)  # as a probability: the order is what counts
    drawn = measure_resamples(y_true, ranks, np.zeros(len(y_true)), counts)[AUC]
    return value, *compute_percentile_interval(drawn)


def compute_auc_within(y_true: np.ndarray, y_score: np.ndarray, codes: np.ndarray, *, min_cases: int) -> np.ndarray:
    """Case-weighted mean of the AUC inside strata, for every column; strata of one class do not count.

    Parameters
    ----------
    y_true, y_score : ndarray, (n, k)
    codes : ndarray, (n,)
    min_cases : int

    Returns
    -------
    ndarray, (k,)
        0.5 where no stratum holds both classes.
    """
    names = list_strata(codes, min_cases=min_cases)
    if not names:
        return np.full(y_true.shape[1], np.nan)
    values = np.stack([compute_auc_columns(y_true[codes == name], y_score[codes == name]) for name in names])
    weights = np.where(np.isnan(values), 0.0, np.array([[np.sum(codes == name)] for name in names], float))
    total = weights.sum(axis=0)
    mean = (np.nan_to_num(values) * weights).sum(axis=0) / np.maximum(total, 1)
    return np.where(total > 0, mean, 0.5)


def compute_binary_panel(
    predictions: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    site: pd.Series | None = None,
    refit: Refit | None = None,
    n_boot: int = 1000,
    n_permutations: int = 200,
    min_cases: int = 20,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Compute the panel for one target of two classes and one repeat.

    Parameters
    ----------
    predictions : DataFrame
        case_id, fold, y_true (0 or 1), y_pred: out of fold, each case once, in the order `refit` expects.
    labels : DataFrame
        Index `case_id`; one categorical column per label.
    site : Series, optional
        Index `case_id`; permutations stay inside sites too.
    refit : callable, optional
        Refits every fold on labels (n_cases, k) -> (n_cases, k); without it no p-values are given.
    n_boot, n_permutations, min_cases : int
    rng : numpy Generator

    Returns
    -------
    DataFrame
        The columns of `compute_confounding_panel`; `value` is an AUC.
    """
    y, score = (predictions[name].to_numpy(float) for name in ("y_true", "y_pred"))
    given = predictions["fold"].to_numpy()
    by_case = labels.loc[predictions["case_id"]].astype(object)
    by_case = by_case.where(by_case.notna(), MISSING).astype(str)
    rows = [_measure(y, score, n_boot, rng, label="all cases", kind="image", stratum="all", folds="given")]
    for name in labels.columns:
        codes = by_case[name].to_numpy()
        folds = choose_label_folds(codes, given, rng=rng)
        alone = predict_by_label(y, codes, folds)
        where = "given" if np.array_equal(folds, given) else "case-level"
        rows.append(_measure(y, alone, n_boot, rng, label=name, kind="label_only", stratum="all", folds=where))
        for stratum in sorted(set(codes) - {MISSING}):
            inside = codes == stratum
            kept = n_boot if inside.sum() >= min_cases else -1
            row = _measure(y[inside], score[inside], kept, rng, label=name, kind="within_stratum", stratum=stratum)
            rows.append(row | {"folds": "given"})
        within = _compare_within(predictions, codes, site, refit, n_permutations, min_cases, rng)
        rows.append({"label": name, "kind": "within_label", "stratum": "mean of strata"} | within)
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def _measure(
    y: np.ndarray, score: np.ndarray, n_boot: int, rng: np.random.Generator, **names: str
) -> dict[str, object]:
    row: dict[str, object] = {**names, "n": len(y)}
    if n_boot < 0 or not 0 < y.sum() < len(y):
        return row
    return row | dict(zip(("value", "ci_low", "ci_high"), compute_auc(y, score, n_boot=n_boot, rng=rng), strict=True))


def _compare_within(
    predictions: pd.DataFrame, codes: np.ndarray, site: pd.Series | None, refit: Refit | None, n_permutations: int,
    min_cases: int, rng: np.random.Generator,
) -> dict[str, object]:  # fmt: skip
    y, score = (predictions[name].to_numpy(float) for name in ("y_true", "y_pred"))
    names = list_strata(codes, min_cases=min_cases)
    value = float(compute_auc_within(y[:, None], score[:, None], codes, min_cases=min_cases)[0])
    row: dict[str, object] = {"value": value, "n": int(np.isin(codes, names).sum())}
    if refit is None or not names or not n_permutations:
        return row
    sites = codes if site is None else site.loc[predictions["case_id"]].astype(str).to_numpy()
    null = compute_permutation_null(
        y, groups=np.char.add(np.char.add(codes.astype(str), "\t"), sites.astype(str)), refit=refit,
        statistic=lambda a, b: compute_auc_within(a, b, codes, min_cases=min_cases),
        n_permutations=n_permutations, rng=rng,
    )  # fmt: skip
    compared = compare_with_null(value, null)
    return row | {name: compared[name] for name in ("null_mean", "null_q95", "p")}
