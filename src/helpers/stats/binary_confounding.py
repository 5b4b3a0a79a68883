"""The confounding panel for targets of two classes: what a label alone predicts, and what is left for the image.

The same questions and the same table as `helpers.stats.confounding`, with the area under the ROC curve in place of a
correlation: 0.5 is chance.
"""

import numpy as np
import pandas as pd

from helpers.stats.classification import RANKS, measure_resamples
from helpers.stats.confounding import PanelQuantity, compute_confounding_panel, list_strata
from helpers.stats.resampling import Refit, compute_percentile_interval, draw_bootstrap_counts

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


def compute_auc_within(y_true: np.ndarray, y_pred: np.ndarray, codes: np.ndarray, *, min_cases: int) -> np.ndarray:
    """Case-weighted mean of the AUC inside strata, for every column; strata of one class do not count.

    Parameters
    ----------
    y_true, y_pred : ndarray, (n, k)
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
    values = np.stack([compute_auc_columns(y_true[codes == name], y_pred[codes == name]) for name in names])
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
    return compute_confounding_panel(
        predictions, labels, site=site, refit=refit, n_boot=n_boot, n_permutations=n_permutations, min_cases=min_cases,
        rng=rng, quantity=PanelQuantity(measure_auc, compute_auc_within),
    )  # fmt: skip


def measure_auc(
    y_true: np.ndarray, y_pred: np.ndarray, *, n_boot: int, rng: np.random.Generator
) -> tuple[float, float, float] | None:
    """Area under the ROC curve with its interval.

    Parameters
    ----------
    y_true, y_pred : ndarray, (n,)
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    value, low, high : float
        None where there is one class.
    """
    return compute_auc(y_true, y_pred, n_boot=n_boot, rng=rng) if 0 < y_true.sum() < len(y_true) else None
