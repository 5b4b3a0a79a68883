"""Many tests at once: Holm for the secondary analyses of a plan, Benjamini–Hochberg where many targets are screened."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import StatsError


def adjust_holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values so that the chance of any false rejection stays below the level (Holm's step-down).

    Parameters
    ----------
    p_values : array_like, (n_tests,), in [0, 1]

    Returns
    -------
    ndarray, (n_tests,), float64
        In the order given; reject where it is at most the level.

    Raises
    ------
    StatsError
        When a p-value is missing or outside [0, 1]; every position is named.

    References
    ----------
    Holm 1979, Scand J Stat 6:65.
    """
    p = check_p_values(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    return _restore(np.minimum(stepped, 1.0), order)


def adjust_benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values so that the expected share of false discoveries stays below the level (step-up q-values).

    Parameters
    ----------
    p_values : array_like, (n_tests,), in [0, 1]
        Independent, or positively dependent.

    Returns
    -------
    ndarray, (n_tests,), float64
        q-values in the order given; call a discovery where it is at most the level.

    Raises
    ------
    StatsError
        When a p-value is missing or outside [0, 1]; every position is named.

    References
    ----------
    Benjamini and Hochberg 1995, J R Stat Soc B 57:289.
    """
    p = check_p_values(p_values)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * p.size / np.arange(1, p.size + 1)
    stepped = np.minimum.accumulate(scaled[::-1])[::-1]
    return _restore(np.minimum(stepped, 1.0), order)


def check_p_values(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return the p-values as float64 after checking that each one is a probability.

    Parameters
    ----------
    p_values : array_like, (n_tests,)

    Returns
    -------
    ndarray, (n_tests,), float64

    Raises
    ------
    StatsError
        When a p-value is missing or outside [0, 1]; every position is named.
    """
    p = np.asarray(p_values, dtype=np.float64)
    bad = np.flatnonzero(~((p >= 0) & (p <= 1)))
    if p.ndim != 1 or bad.size:
        named = ", ".join(f"[{i}] {p.ravel()[i]}" for i in bad[:10])
        msg = (
            f"StatsError: {bad.size} of {p.size} p-values (shape {p.shape}) are missing or outside [0, 1]: {named}. "
            "A test that could not be made is no test: leave it out and name it, then adjust the others."
        )
        raise StatsError(msg)
    return p


def _restore(values: NDArray[np.float64], order: NDArray[np.intp]) -> NDArray[np.float64]:
    """Put sorted values back into the order of the input."""
    restored = np.empty_like(values)
    restored[order] = values
    return restored
