"""From a bag to one vector: what a linear head reads. Anything here is fitted on tiles of training cases, on no label.

- `PooledDescriptor`: a statistic of every feature (mean; or mean, SD and quantiles);
- `FourierDescriptor`: the mean over tiles of random cosines, whose inner products approximate a Gaussian kernel between
  *distributions* of tiles (kernel mean embedding). A linear head on it is non-linear in a tile and still additive;
- `GaussianDescriptor`: similarity of the case's mean to that of every training case, under a Gaussian kernel.

References
----------
Rahimi and Recht 2007 (random Fourier features); Muandet et al. 2017, doi 10.1561/2200000060 (kernel mean embedding).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from helpers.core.errors import ModelError
from helpers.models.bags import Bags, average_by_case, collect_bags

Arrays = dict[str, np.ndarray]
ADDITIVE = ("mean",)
"""Aggregations under which a linear score of a case is the mean of the scores of its tiles."""


class Descriptor(Protocol):
    """A bag to a vector."""

    def describe(self, bags: Bags) -> np.ndarray:
        """Describe every case, (n_cases, D)."""
        ...

    def describe_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Describe single tiles so that a case's vector is the mean of its tiles' vectors, (n_tiles, D)."""
        ...

    def to_arrays(self) -> Arrays:
        """Return plain arrays, from which `load_descriptor` rebuilds it."""
        ...


@dataclass(frozen=True)
class PooledDescriptor:
    """A statistic of every feature.

    Parameters
    ----------
    aggregation : str
        One of `helpers.models.pooling.AGGREGATIONS`.
    """

    aggregation: str = "mean"

    def describe(self, bags: Bags) -> np.ndarray:
        """Pool every case.

        Parameters
        ----------
        bags : Bags

        Returns
        -------
        ndarray, (n_cases, D)
        """
        return bags.pool(self.aggregation)

    def describe_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Return the tiles themselves.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, d)

        Raises
        ------
        ModelError
            When a case's statistic is not the mean of its tiles'.
        """
        if self.aggregation not in ADDITIVE:
            msg = (
                f"ModelError: with '{self.aggregation}' pooling a case's score is no mean over its tiles, so tiles "
                "have no score. Use an arm on means (ridge, pls, svr_linear, ridge_fourier) or a MIL arm for maps."
            )
            raise ModelError(msg)
        return np.asarray(tiles, float)

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        return {"kind": np.array("pooled"), "aggregation": np.array(self.aggregation)}


@dataclass(frozen=True)
class FourierDescriptor:
    """The mean over tiles of random cosines of the standardised tile.

    Parameters
    ----------
    mean, scale : ndarray, (d,)
        Of the tiles of the training cases, every case with the same weight.
    waves : ndarray, (d, D)
    phases : ndarray, (D,)
    """

    mean: np.ndarray
    scale: np.ndarray
    waves: np.ndarray
    phases: np.ndarray

    def describe(self, bags: Bags) -> np.ndarray:
        """Average the cosines over the tiles of every case.

        Parameters
        ----------
        bags : Bags

        Returns
        -------
        ndarray, (n_cases, D)
        """
        tiles, owner = bags.list_tiles()
        return average_by_case(self._compute_cosines(tiles), owner)

    def describe_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Return the cosines of single tiles.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, D)
        """
        return self._compute_cosines(tiles).astype(float)

    def _compute_cosines(self, tiles: np.ndarray) -> np.ndarray:
        """Single precision: a cosine of a tile needs no more, and costs a third."""
        waves = (self.waves / self.scale[:, None]).astype(np.float32)
        shift = (self.phases - (self.mean / self.scale) @ self.waves).astype(np.float32)
        angles = np.asarray(tiles, np.float32) @ waves + shift
        return np.cos(angles, out=angles)

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        named = {"mean": self.mean, "scale": self.scale, "waves": self.waves, "phases": self.phases}
        return {"kind": np.array("fourier")} | named


@dataclass(frozen=True)
class GaussianDescriptor:
    """Similarity exp(-gamma d²) of the mean of a case at distance d from landmarks, rotated by `weights`.

    Parameters
    ----------
    mean, scale : ndarray, (d,)
        Of the means of the training cases.
    landmarks : ndarray, (n, d)
        Standardised means of the training cases.
    gamma : float
    weights : ndarray, (n, D)
        The inverse root of the landmarks' kernel makes inner products equal the kernel.
    """

    mean: np.ndarray
    scale: np.ndarray
    landmarks: np.ndarray
    gamma: float
    weights: np.ndarray

    def describe(self, bags: Bags) -> np.ndarray:
        """Compare every case with the landmarks.

        Parameters
        ----------
        bags : Bags

        Returns
        -------
        ndarray, (n_cases, D)
        """
        return self.compare((bags.pool("mean") - self.mean) / self.scale) @ self.weights

    def compare(self, standardised: np.ndarray) -> np.ndarray:
        """Return the kernel between cases and landmarks.

        Parameters
        ----------
        standardised : ndarray, (n_cases, d)

        Returns
        -------
        ndarray, (n_cases, n)
        """
        return np.exp(-self.gamma * _square_distances(standardised, self.landmarks))

    def describe_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Refuse: a similarity of means is no mean over tiles.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray
            Never.

        Raises
        ------
        ModelError
            Always.
        """
        msg = (
            f"ModelError: a Gaussian kernel between means of cases gives no score to the {len(tiles)} tiles. Use an "
            "arm on means (ridge, pls, svr_linear, ridge_fourier) or a MIL arm for maps."
        )
        raise ModelError(msg)

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        named = {"mean": self.mean, "scale": self.scale, "landmarks": self.landmarks, "weights": self.weights}
        return {"kind": np.array("gaussian"), "gamma": np.array(self.gamma)} | named


def measure_tiles(bags: Bags) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD of the tiles of training cases; a case counts once, however many tiles it has.

    Parameters
    ----------
    bags : Bags

    Returns
    -------
    mean, scale : ndarray, (d,)
        `scale` is infinite where a feature is constant.
    """
    mean = bags.pool("mean").mean(axis=0)
    tiles, owner = bags.list_tiles()
    weight = (1.0 / bags.sizes / len(bags))[owner].astype(np.float32)
    variance = weight @ (tiles - mean.astype(np.float32)) ** 2
    return mean, guard_scale(np.sqrt(variance.astype(float)), mean)


def fit_fourier(bags: Bags, *, factor: float, n_waves: int, rng: np.random.Generator) -> FourierDescriptor:
    """Draw random waves whose length fits the spread of the training tiles.

    Parameters
    ----------
    bags : Bags
        Of training cases.
    factor : float
        Width of the kernel in units of the median distance between tiles.
    n_waves : int
        D.
    rng : numpy Generator

    Returns
    -------
    FourierDescriptor
    """
    tiles, _ = bags.list_tiles()
    mean, scale = measure_tiles(bags)
    sample = (tiles[rng.choice(len(tiles), size=min(400, len(tiles)), replace=False)] - mean) / scale
    distances = _square_distances(sample, sample)[np.triu_indices(len(sample), 1)]
    width = factor * float(np.sqrt(np.median(distances))) if len(distances) else factor
    waves = rng.normal(size=(bags.width, n_waves)) / max(width, 1e-12)
    return FourierDescriptor(mean, scale, waves, rng.uniform(0, 2 * np.pi, n_waves))


def fit_gaussian(bags: Bags, *, factor: float, whiten: bool = True) -> GaussianDescriptor:
    """Take the training cases as landmarks, with a width that fits the spread of their means.

    Parameters
    ----------
    bags : Bags
        Of training cases.
    factor : float
        Width in units of the median distance between cases.
    whiten : bool
        Rotate so that inner products equal the kernel (for ridge); otherwise return the kernel itself.

    Returns
    -------
    GaussianDescriptor
    """
    pooled = bags.pool("mean")
    mean = pooled.mean(0)
    scale = guard_scale(pooled.std(0), mean)
    x = (pooled - mean) / scale
    squared = _square_distances(x, x)
    gamma = 1.0 / (2 * factor**2 * max(float(np.median(squared[np.triu_indices(len(x), 1)])), 1e-12))
    if not whiten:
        return GaussianDescriptor(mean, scale, x, gamma, np.eye(len(x)))
    values, vectors = np.linalg.eigh(np.exp(-gamma * squared))
    kept = values > 1e-8 * values[-1]
    return GaussianDescriptor(mean, scale, x, gamma, vectors[:, kept] / np.sqrt(values[kept]))


def load_descriptor(arrays: Arrays) -> Descriptor:
    """Rebuild a descriptor from its arrays.

    Parameters
    ----------
    arrays : dict of str to ndarray

    Returns
    -------
    Descriptor

    Raises
    ------
    ModelError
        When the kind is unknown.
    """
    kind = str(arrays["kind"])
    if kind == "pooled":
        return PooledDescriptor(str(arrays["aggregation"]))
    if kind == "fourier":
        return FourierDescriptor(*(arrays[name] for name in ("mean", "scale", "waves", "phases")))
    if kind == "gaussian":
        mean, scale, landmarks = (arrays[name] for name in ("mean", "scale", "landmarks"))
        return GaussianDescriptor(mean, scale, landmarks, float(arrays["gamma"]), arrays["weights"])
    msg = f"ModelError: descriptor '{kind}' is unknown; expected pooled, fourier or gaussian. Save it again."
    raise ModelError(msg)


def guard_scale(scale: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return scales to divide by: a constant feature is divided by infinity, and so becomes 0.

    Parameters
    ----------
    scale, mean : ndarray, (d,)

    Returns
    -------
    ndarray, (d,)
    """
    return np.where(scale > 1e-6 * np.maximum(1e-6, np.abs(mean)), scale, np.inf)


def describe_bags(descriptor: Descriptor, bags: object) -> np.ndarray:
    """Describe bags given in any form.

    Parameters
    ----------
    descriptor : Descriptor
    bags : Bags or sequence of ndarray

    Returns
    -------
    ndarray, (n_cases, D)
    """
    return descriptor.describe(collect_bags(bags))  # type: ignore[arg-type]


def _square_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
