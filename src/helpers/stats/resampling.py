"""Resampling by case: bootstrap weights, permutations within a site, and fair comparison of repeated folds.

Bootstraps are drawn as *counts* (how often each case is in a resample), so that thousands of weighted statistics
come from a few matrix products. Permutations shuffle labels inside groups; the caller refits every fold on them.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from helpers.core.errors import StatsError

Refit = Callable[[np.ndarray], np.ndarray]
"""Refits every fold on labels (n_cases, k) and returns predictions of the held-out cases, (n_cases, k)."""
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Agreement of y_true and y_pred, both (n_cases, k), per column: (k,)."""


def draw_bootstrap_counts(
    n_cases: int, *, n_boot: int, rng: np.random.Generator, clusters: np.ndarray | None = None
) -> np.ndarray:
    """Draw bootstrap resamples as counts per case.

    Parameters
    ----------
    n_cases : int
    n_boot : int
    rng : numpy Generator
    clusters : ndarray, (n_cases,), optional
        With it, whole clusters (sites) are drawn instead of cases; each case names its own.

    Returns
    -------
    ndarray, (n_boot, n_cases), float
        How often each case is in each resample; rows sum to `n_cases` (roughly, with clusters).

    Raises
    ------
    StatsError
        When there are fewer than two cases, or than two clusters, to draw from, or a case has no cluster.
    """
    codes = np.arange(n_cases) if clusters is None else pd.factorize(np.asarray(clusters))[0]
    if (codes < 0).any():
        unlabelled = int((codes < 0).sum())
        msg = f"StatsError: {unlabelled} of {n_cases} cases have no cluster. Label them, or drop them by name."
        raise StatsError(msg)
    n_units = int(codes.max()) + 1 if n_cases else 0
    if n_units < 2:
        unit = "case" if clusters is None else "cluster"
        msg = f"StatsError: a bootstrap over {n_units} {unit}(s) has nothing to draw from; at least 2 are needed."
        raise StatsError(msg)
    drawn = rng.integers(0, n_units, size=(n_boot, n_units))
    flat = drawn + n_units * np.arange(n_boot)[:, None]
    counts = np.bincount(flat.ravel(), minlength=n_boot * n_units).reshape(n_boot, n_units)
    return counts[:, codes].astype(float)


def compute_percentile_interval(samples: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Return the central percentile interval of bootstrap samples.

    Parameters
    ----------
    samples : ndarray, (n_boot,)
        NaN marks a resample in which the statistic is undefined (all values equal); those are left out.
    level : float

    Returns
    -------
    low, high : float
        NaN when more than a tenth of the resamples are undefined.
    """
    samples = np.asarray(samples, float)
    defined = samples[~np.isnan(samples)]
    if len(defined) < 0.9 * len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def list_unpaired(first: pd.DataFrame, second: pd.DataFrame) -> list[tuple[int, int, str]]:
    """List the predictions that only one of two arms has: over these no difference is paired.

    Parameters
    ----------
    first, second : DataFrame
        repeat, fold, case_id.

    Returns
    -------
    list of (repeat, fold, case_id)
    """
    keys = [pd.MultiIndex.from_frame(rows[["repeat", "fold", "case_id"]]) for rows in (first, second)]
    return list(keys[0].symmetric_difference(keys[1]))


def permute_within(groups: np.ndarray, *, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Draw permutations of cases that keep every case inside its group.

    Parameters
    ----------
    groups : ndarray, (n_cases,)
        Site of each case, or site and stratum.
    n_permutations : int
    rng : numpy Generator

    Returns
    -------
    ndarray, (n_permutations, n_cases), int
        Row p gives, for each case, the case whose label it takes.
    """
    codes = pd.factorize(np.asarray(groups))[0]
    home = np.argsort(codes, kind="stable")  # the places of group 0, then of group 1, ...
    keys = codes + rng.random((n_permutations, len(codes)))  # codes are whole, so a random part keeps groups apart
    shuffled = np.argsort(keys, axis=1)
    permutations = np.empty_like(shuffled)
    permutations[:, home] = shuffled
    return permutations


def compute_permutation_null(
    y: np.ndarray, *, groups: np.ndarray, refit: Refit, statistic: Statistic, n_permutations: int,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Permute labels within groups, refit every fold, and measure the agreement each time.

    Parameters
    ----------
    y : ndarray, (n_cases,)
    groups : ndarray, (n_cases,)
    refit : callable
        Labels (n_cases, k) to held-out predictions (n_cases, k); it must fit and choose from these labels alone.
    statistic : callable
        (y_true, y_pred) to (k,).
    n_permutations : int
    rng : numpy Generator

    Returns
    -------
    ndarray, (n_permutations,)

    References
    ----------
    Ojala and Garriga 2010, J Mach Learn Res 11:1833 (permute labels and repeat the whole fit).
    """
    permuted = np.asarray(y, float)[permute_within(groups, n_permutations=n_permutations, rng=rng)].T
    return statistic(permuted, refit(permuted))


def compare_with_null(observed: float, null: np.ndarray) -> dict[str, float]:
    """Place an observed statistic in its permutation null.

    Parameters
    ----------
    observed : float
    null : ndarray, (n_permutations,)

    Returns
    -------
    dict
        observed, null_mean, null_sd, null_q95, null_q99, n_permutations, and p = (1 + number at or above) /
        (1 + number), one-sided, never zero (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585).

    Raises
    ------
    StatsError
        When the null is empty or undefined.
    """
    null = np.asarray(null, float)
    if not len(null) or np.isnan(null).any():
        msg = f"StatsError: the permutation null holds {len(null)} values, {int(np.isnan(null).sum())} undefined."
        raise StatsError(msg)
    q95, q99 = np.quantile(null, [0.95, 0.99])
    return {
        "observed": float(observed), "null_mean": float(null.mean()), "null_sd": float(null.std(ddof=1)),
        "null_q95": float(q95), "null_q99": float(q99), "n_permutations": len(null),
        "p": float((1 + np.sum(null >= observed)) / (1 + len(null))),
    }  # fmt: skip


def compare_repeated_folds(differences: np.ndarray, *, test_to_train: float, level: float = 0.95) -> dict[str, float]:
    """Test whether one model beats another over repeated cross-validation, with the Nadeau-Bengio correction.

    Training sets overlap, so fold-wise differences are not independent and a plain t-test is far too sure of itself.
    The variance is multiplied by (1/k + n_test/n_train) instead of 1/k.

    Parameters
    ----------
    differences : ndarray, (n_repeats * n_folds,)
        Score of A minus score of B, on the same folds.
    test_to_train : float
        Cases tested over cases trained on, per fold; 0.25 for 5 folds.
    level : float

    Returns
    -------
    dict
        difference (mean), ci_low, ci_high, t, p (two-sided), n (folds). Where all differences are equal and not 0 there
        is no spread to judge by: t, p and the interval are missing.

    Raises
    ------
    StatsError
        When fewer than two folds are given, or one is undefined.

    References
    ----------
    Nadeau and Bengio 2003, Machine Learning 52:239, doi 10.1023/A:1024068626366.
    """
    from scipy.stats import t as student

    differences = np.asarray(differences, float).ravel()
    n = len(differences)
    if n < 2 or np.isnan(differences).any():
        msg = f"StatsError: {n} fold differences, {int(np.isnan(differences).sum())} undefined; at least 2 are needed."
        raise StatsError(msg)
    mean = float(differences.mean())
    error = float(np.sqrt((1 / n + test_to_train) * differences.var(ddof=1)))
    spread = error > 1e-12 * abs(mean)  # equal differences differ by rounding
    half = float(student.ppf((1 + level) / 2, n - 1)) * error if spread or mean == 0 else float("nan")
    t = mean / error if spread else float("nan")
    p = float(2 * student.sf(abs(t), n - 1)) if spread else (1.0 if mean == 0 else float("nan"))
    return {"difference": mean, "ci_low": mean - half, "ci_high": mean + half, "t": t, "p": p, "n": n}
