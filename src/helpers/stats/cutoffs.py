"""What searching for the best cut-off does to a p-value."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.core.errors import StatsError
from helpers.stats.follow_up import Bools, Floats, check_outcomes


def scan_cutoffs(time: ArrayLike, event: ArrayLike, score: ArrayLike, *, quantiles: Sequence[float]) -> pd.DataFrame:
    """Test every cut-off of a list by the log-rank statistic, with its variance over permutations of the score.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    score : array_like, (n_cases,), none missing
    quantiles : sequence of float
        Cut-offs, as quantiles of the score.

    Returns
    -------
    DataFrame
        quantile, cutoff, n_high, statistic (chi-squared, 1 degree of freedom), p.

    Raises
    ------
    StatsError
        When a score is missing, or a cut-off leaves nobody on one side.

    References
    ----------
    Lausen and Schumacher 1992, Biometrics 48:73.
    """
    from scipy.stats import chi2

    excess = compute_excess(time, event)
    cuts, high = _split_at(score, quantiles)
    statistic = _test_splits(excess[None, :], high)[0]
    counts = {"quantile": list(quantiles), "cutoff": cuts, "n_high": high.sum(axis=0).astype(int)}
    return pd.DataFrame(counts | {"statistic": statistic, "p": chi2.sf(statistic, 1)})


def correct_best_cutoff(
    time: ArrayLike,
    event: ArrayLike,
    score: ArrayLike,
    *,
    quantiles: Sequence[float],
    n_permutations: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Say what the best of many cut-offs is worth: shuffle the score over cases, search again, and compare.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    score : array_like, (n_cases,)
    quantiles : sequence of float
        Cut-offs tried.
    n_permutations : int
    rng : Generator

    Returns
    -------
    DataFrame
        One row: best_quantile, best_p (as if it had been the only one), corrected_p (share of shuffled scores whose
        best cut-off does as well, the observed one included), false_alarms (share of shuffled scores whose best p is
        below 0.05), n_cutoffs, n_permutations.
    """
    from scipy.stats import chi2

    scan = scan_cutoffs(time, event, score, quantiles=quantiles)
    excess, high = compute_excess(time, event), _split_at(score, quantiles)[1]
    shuffled = rng.permuted(np.tile(excess, (n_permutations, 1)), axis=1)
    best = _test_splits(shuffled, high).max(axis=1)
    found = scan.loc[scan["statistic"].idxmax()]
    as_good = int((best >= found["statistic"]).sum())
    return pd.DataFrame(
        [
            {
                "best_quantile": found["quantile"], "best_p": found["p"],
                "corrected_p": (as_good + 1) / (n_permutations + 1),
                "false_alarms": float((chi2.sf(best, 1) < 0.05).mean()),
                "n_cutoffs": len(scan), "n_permutations": n_permutations,
            }
        ]
    )  # fmt: skip


def compute_excess(time: ArrayLike, event: ArrayLike) -> Floats:
    """Return observed minus expected events of every case if nothing mattered (the martingale residual).

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)

    Returns
    -------
    ndarray, (n_cases,), float64; sums to 0
    """
    times, events = check_outcomes(time, event)
    return _subtract_hazard(times, events)


def _subtract_hazard(times: Floats, events: Bools) -> Floats:
    moments, at = np.unique(times, return_inverse=True)
    died = np.bincount(at, weights=events, minlength=moments.size)
    at_risk = np.cumsum(np.bincount(at, minlength=moments.size)[::-1])[::-1]
    return events - np.cumsum(died / at_risk)[at]


def _split_at(score: ArrayLike, quantiles: Sequence[float]) -> tuple[Floats, Floats]:
    values = np.asarray(score, dtype=np.float64)
    missing = int((~np.isfinite(values)).sum())
    cuts = np.quantile(values, list(quantiles)) if not missing else np.empty(0)
    high = (values[:, None] > cuts[None, :]).astype(np.float64)  # (n_cases, n_cutoffs)
    if missing or not (high.any(axis=0) & (high == 0).any(axis=0)).all():
        msg = (
            f"StatsError: {missing} of {values.size} scores are missing, or a cut-off leaves nobody on one side. Drop "
            "cases without a score by name; keep quantiles inside (0, 1)."
        )
        raise StatsError(msg)
    return cuts, high


def _test_splits(excess: Floats, high: Floats) -> Floats:
    """Return chi-squared of every row of `excess` (n_draws, n_cases) at every cut-off, (n_draws, n_cutoffs)."""
    n, n_high = high.shape[0], high.sum(axis=0)
    variance = (excess**2).sum(axis=1)[:, None] * (n_high * (n - n_high) / (n * (n - 1)))[None, :]
    statistic: Floats = (excess @ high) ** 2 / variance
    return statistic
