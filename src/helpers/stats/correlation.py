"""Agreement of measured and predicted values: four quantities, each under its own name, with bootstrap intervals.

`r_squared` is the square of Pearson's r and never negative; `r2_score` is 1 - SSE/SST and may be. Papers print
either as "R2", so both are always reported.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers.core.errors import StatsError
from helpers.stats.resampling import compute_percentile_interval, draw_bootstrap_counts

QUANTITIES = ("spearman", "pearson", "r_squared", "r2_score")
MIN_CASES = 3


def compute_agreement(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    *,
    n_boot: int = 1000,
    rng: np.random.Generator,
    clusters: np.ndarray | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Measure how well predictions agree with measurements.

    Parameters
    ----------
    y_true, y_pred : ndarray, (n_cases,)
        One value per case.
    n_boot : int
        Bootstrap resamples; 0 gives no interval.
    rng : numpy Generator
    clusters : ndarray, (n_cases,), optional
        With it (sites), whole clusters are resampled instead of cases.
    level : float
        Of the percentile interval.

    Returns
    -------
    DataFrame
        quantity (spearman, pearson, r_squared, r2_score), value, ci_low, ci_high, n, resampled (case or cluster).

    Raises
    ------
    StatsError
        When lengths differ, a value is missing, fewer than 3 cases are given, or one side is constant.
    """
    y_true, y_pred = check_pairs(y_true, y_pred)
    value = _compute_weighted(y_true, y_pred, np.ones((1, len(y_true))))
    table = pd.DataFrame({"quantity": QUANTITIES, "value": [float(value[name][0]) for name in QUANTITIES]})
    intervals = np.full((len(QUANTITIES), 2), np.nan)
    if n_boot:
        counts = draw_bootstrap_counts(len(y_true), n_boot=n_boot, rng=rng, clusters=clusters)
        samples = _compute_weighted(y_true, y_pred, counts)
        intervals = np.array([compute_percentile_interval(samples[name], level=level) for name in QUANTITIES])
    resampled = "case" if clusters is None else "cluster"
    return table.assign(ci_low=intervals[:, 0], ci_high=intervals[:, 1], n=len(y_true), resampled=resampled)


def compute_agreement_by(
    predictions: pd.DataFrame,
    by: Sequence[str],
    *,
    n_boot: int = 0,
    rng: np.random.Generator,
    min_cases: int = 10,
) -> pd.DataFrame:
    """Measure the agreement in each group of a predictions table: per fold, site, stratum, target or arm.

    Parameters
    ----------
    predictions : DataFrame
        y_true, y_pred and the columns to group by.
    by : sequence of str
    n_boot : int
    rng : numpy Generator
    min_cases : int
        Smaller groups, and groups in which a side is constant, are listed with their n and no value.

    Returns
    -------
    DataFrame
        The columns of `by`, then those of `compute_agreement`.
    """
    tables = []
    for key, group in predictions.groupby(list(by), sort=True, dropna=False):
        varied = min(group["y_true"].nunique(), group["y_pred"].nunique()) > 1
        if varied and len(group) >= max(min_cases, MIN_CASES):
            table = compute_agreement(group["y_true"].to_numpy(), group["y_pred"].to_numpy(), n_boot=n_boot, rng=rng)
        else:
            table = pd.DataFrame({"quantity": QUANTITIES, "value": np.nan, "ci_low": np.nan, "ci_high": np.nan})
            table = table.assign(n=len(group), resampled="case")
        tables.append(table.assign(**dict(zip(by, key, strict=True)))[[*by, *table.columns]])
    return pd.concat(tables, ignore_index=True)


def summarise_folds(foldwise: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average fold-wise agreement, weighting folds by their number of cases.

    Parameters
    ----------
    foldwise : DataFrame
        From `compute_agreement_by`, with one row per fold and quantity.
    by : sequence of str
        Columns to keep apart (repeat, target, arm); `quantity` is always kept apart.

    Returns
    -------
    DataFrame
        by, quantity, value (weighted mean), sd (between folds), low, high (range), n_folds, n.
    """
    defined = foldwise.dropna(subset="value")
    grouped = defined.assign(weighted=defined["value"] * defined["n"]).groupby([*by, "quantity"], as_index=False)
    table = grouped.agg(
        weighted=("weighted", "sum"), sd=("value", "std"), low=("value", "min"), high=("value", "max"),
        n_folds=("value", "size"), n=("n", "sum"),
    )  # fmt: skip
    table.insert(len(by) + 1, "value", table.pop("weighted") / table["n"])
    return table


def compute_spearman_columns(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """Spearman correlation of each column of one matrix with the same column of another.

    Parameters
    ----------
    y_true, y_pred : ndarray, (n_cases, k)

    Returns
    -------
    ndarray, (k,)
        NaN where a column is constant.
    """
    from scipy.stats import rankdata

    return compute_pearson_columns(rankdata(y_true, axis=0), rankdata(y_pred, axis=0))


def compute_pearson_columns(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column of one matrix with the same column of another.

    Parameters
    ----------
    y_true, y_pred : ndarray, (n_cases, k)

    Returns
    -------
    ndarray, (k,)
        NaN where a column is constant.
    """
    a, b = y_true - y_true.mean(0), y_pred - y_pred.mean(0)
    norm = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.divide((a * b).sum(0), norm, out=np.full(norm.shape, np.nan), where=norm > 0)


def check_pairs(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides as float arrays, or raise.

    Parameters
    ----------
    y_true, y_pred : array-like, (n_cases,)

    Returns
    -------
    y_true, y_pred : ndarray, (n_cases,), float64

    Raises
    ------
    StatsError
        When lengths differ, a value is missing, fewer than 3 cases are given, or one side is constant.
    """
    y_true, y_pred = np.asarray(y_true, float), np.asarray(y_pred, float)
    if y_true.shape != y_pred.shape or y_true.ndim != 1:
        msg = f"StatsError: y_true has shape {y_true.shape}, y_pred {y_pred.shape}; expected one value per case each."
        raise StatsError(msg)
    if len(y_true) < MIN_CASES:
        msg = f"StatsError: agreement of {len(y_true)} cases is undefined; at least {MIN_CASES} are needed."
        raise StatsError(msg)
    for name, values in (("y_true", y_true), ("y_pred", y_pred)):
        if not np.isfinite(values).all():
            msg = f"StatsError: {name} holds {int((~np.isfinite(values)).sum())} missing or infinite values. Drop them."
            raise StatsError(msg)
        if values.min() == values.max():
            msg = f"StatsError: {name} is {values[0]:g} in all {len(values)} cases, so a correlation is undefined."
            raise StatsError(msg)
    return y_true, y_pred


def _compute_weighted(y_true: np.ndarray, y_pred: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """All four quantities for every row of bootstrap counts, (n_boot, n_cases)."""
    pearson = _correlate(y_true, y_pred, counts)
    deviation = y_true - y_true.mean()
    sse = counts @ (y_true - y_pred) ** 2
    sst = counts @ deviation**2 - (counts @ deviation) ** 2 / counts.sum(1)  # around the resample's own mean
    r2 = 1 - np.divide(sse, sst, out=np.full(len(sst), np.nan), where=sst > 1e-12 * (deviation**2).sum())
    spearman = _correlate(_rank_weighted(y_true, counts), _rank_weighted(y_pred, counts), counts)
    return {"spearman": spearman, "pearson": pearson, "r_squared": pearson**2, "r2_score": r2}


def _rank_weighted(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average ranks of the cases inside each resample, (n_boot, n_cases); a case drawn twice ties with itself."""
    _, codes = np.unique(values, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(codes.max() + 1))
    per_value = np.add.reduceat(counts[:, order], starts, axis=1)  # (n_boot, n_values)
    below = np.cumsum(per_value, axis=1) - per_value
    return (below + (per_value + 1) / 2)[:, codes]


def _correlate(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation per row; `a` and `b` are (n_cases,) or (n_boot, n_cases)."""
    a, b = np.broadcast_to(a, counts.shape), np.broadcast_to(b, counts.shape)
    total = counts.sum(1, keepdims=True)
    a = a - (counts * a).sum(1, keepdims=True) / total
    b = b - (counts * b).sum(1, keepdims=True) / total
    norm = np.sqrt((counts * a**2).sum(1) * (counts * b**2).sum(1))
    return np.divide((counts * a * b).sum(1), norm, out=np.full(len(norm), np.nan), where=norm > 1e-300)


def compute_bootstrap_spearman(
    y_true: np.ndarray, y_pred: np.ndarray, *, n_boot: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Spearman correlation, and its values in resamples of cases.

    Parameters
    ----------
    y_true, y_pred : ndarray, (n_cases,)
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    value : float
    samples : ndarray, (n_boot,)

    Raises
    ------
    StatsError
        As `check_pairs`.
    """
    y_true, y_pred = check_pairs(y_true, y_pred)
    counts = np.vstack([np.ones(len(y_true)), draw_bootstrap_counts(len(y_true), n_boot=n_boot, rng=rng)])
    values = _correlate(_rank_weighted(y_true, counts), _rank_weighted(y_pred, counts), counts)
    return float(values[0]), values[1:]


def compute_foldwise_agreement(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    folds: np.ndarray,
    *,
    n_boot: int = 1000,
    rng: np.random.Generator,
    clusters: np.ndarray | None = None,
    min_cases: int = 10,
) -> pd.DataFrame:
    """Measure the agreement inside every fold, and average over folds by their number of cases.

    Resamples are of all cases (or whole sites) at once, so a fold may shrink or grow, as it would in another cohort.

    Parameters
    ----------
    y_true, y_pred, folds : ndarray, (n_cases,)
    n_boot : int
    rng : numpy Generator
    clusters : ndarray, (n_cases,), optional
        With it, whole clusters are resampled.
    min_cases : int
        Folds below it, or in which a side is constant, are left out.

    Returns
    -------
    DataFrame
        quantity, value, ci_low, ci_high, n_folds; values are missing where no fold is large enough.
    """
    y_true, y_pred = check_pairs(y_true, y_pred)
    counts = np.vstack(
        [np.ones(len(y_true)), draw_bootstrap_counts(len(y_true), n_boot=n_boot, rng=rng, clusters=clusters)]
    )
    total = {name: np.zeros(len(counts)) for name in QUANTITIES}
    weight = {name: np.zeros(len(counts)) for name in QUANTITIES}
    judged = [fold for fold in np.unique(folds) if _varies(y_true, y_pred, folds == fold, min_cases)]
    for fold in judged:
        rows = folds == fold
        drawn = np.flatnonzero((counts[:, rows] > 0).sum(axis=1) >= MIN_CASES)  # a fold may be left with nobody
        inside = counts[np.ix_(drawn, rows)]
        for name, values in _compute_weighted(y_true[rows], y_pred[rows], inside).items():
            known = np.isfinite(values)
            size = inside.sum(axis=1)[known]
            total[name][drawn[known]] += values[known] * size
            weight[name][drawn[known]] += size
    means = {name: total[name] / np.where(weight[name] > 0, weight[name], np.nan) for name in QUANTITIES}
    intervals = [compute_percentile_interval(means[name][1:]) for name in QUANTITIES]
    return pd.DataFrame({
        "quantity": QUANTITIES, "value": [float(means[name][0]) for name in QUANTITIES],
        "ci_low": [low for low, _ in intervals], "ci_high": [high for _, high in intervals], "n_folds": len(judged),
    })  # fmt: skip


def _varies(y_true: np.ndarray, y_pred: np.ndarray, rows: np.ndarray, min_cases: int) -> bool:
    return int(rows.sum()) >= max(min_cases, MIN_CASES) and min(np.ptp(y_true[rows]), np.ptp(y_pred[rows])) > 0


def compute_calibration(
    y_true: np.ndarray, y_pred: np.ndarray, *, n_boot: int = 1000, rng: np.random.Generator, n_bins: int = 10
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask whether predicted values can be taken at their word.

    Parameters
    ----------
    y_true, y_pred : ndarray, (n_cases,)
    n_boot : int
    rng : numpy Generator
    n_bins : int
        Of equal size, by prediction; fewer where there are less than 5 cases each.

    Returns
    -------
    summary : DataFrame
        quantity (slope: of the measured on the predicted value, 1 is ideal and below 1 predictions spread too far;
        mean_error: mean of predicted minus measured, 0 is ideal), value, ci_low, ci_high, n.
    bins : DataFrame
        predicted, measured (means), low, high (95 % interval of the mean measured value), n.
    """
    y_true, y_pred = check_pairs(y_true, y_pred)
    counts = np.vstack([np.ones(len(y_true)), draw_bootstrap_counts(len(y_true), n_boot=n_boot, rng=rng)])
    n = counts.sum(1)
    mean_true, mean_pred = counts @ y_true / n, counts @ y_pred / n
    covariance = counts @ (y_true * y_pred) / n - mean_true * mean_pred
    variance = counts @ y_pred**2 / n - mean_pred**2
    found = {"slope": covariance / np.where(variance > 0, variance, np.nan), "mean_error": mean_pred - mean_true}
    rows = []
    for name, values in found.items():
        low, high = compute_percentile_interval(values[1:])
        rows.append({"quantity": name, "value": float(values[0]), "ci_low": low, "ci_high": high, "n": len(y_true)})
    return pd.DataFrame(rows), _bin_calibration(y_true, y_pred, max(2, min(n_bins, len(y_true) // 5)))


def _bin_calibration(y_true: np.ndarray, y_pred: np.ndarray, n_bins: int) -> pd.DataFrame:
    from scipy.stats import t as student

    rows = []
    for inside in np.array_split(np.argsort(y_pred, kind="stable"), n_bins):
        n, mean = len(inside), float(y_true[inside].mean())
        half = float(student.ppf(0.975, n - 1) * y_true[inside].std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        predicted = float(y_pred[inside].mean())
        rows.append({"predicted": predicted, "measured": mean, "low": mean - half, "high": mean + half, "n": n})
    return pd.DataFrame(rows)
