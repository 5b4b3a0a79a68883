"""Random fields and point patterns that come out the same on every machine.

Only additions, products and comparisons act on the numbers here (no BLAS, no Fourier transform), sums that steer a
decision run over integers, and every random stream is named. So a seed means the same tissue everywhere.
"""

import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

SPLINE_SD = 151.0 / 315.0
"""SD of a cubic B-spline surface over unit white noise: the integral of the squared spline, once per axis."""


def make_rng(seed: int, stream: str) -> np.random.Generator:
    """Open a named random stream, so that drawing more of one thing changes nothing else.

    Parameters
    ----------
    seed : int
    stream : str

    Returns
    -------
    numpy.random.Generator
    """
    return np.random.default_rng([seed, zlib.crc32(stream.encode())])


def draw_noise(
    rng: np.random.Generator, y_um: NDArray[np.floating], x_um: NDArray[np.floating], *, wavelength_um: float
) -> Field:
    """Draw smooth noise of mean 0 and SD 1 on a grid.

    White noise on a lattice of one node per `wavelength_um`, interpolated by cubic B-splines. The lattice depends on
    the extent in um alone, so the same stream gives the same surface at every resolution.

    Parameters
    ----------
    rng : numpy.random.Generator
    y_um, x_um : ndarray, (height,) and (width,)
        Coordinates of rows and columns, um, increasing, from 0 or above.
    wavelength_um : float
        Lattice spacing, um; features are about twice as wide.

    Returns
    -------
    ndarray, (height, width), float32
    """
    nodes = [int(axis[-1] / wavelength_um) + 4 for axis in (y_um, x_um)]
    lattice = rng.standard_normal(nodes).astype(np.float32)
    rows = _interpolate(lattice, y_um / wavelength_um)
    return np.ascontiguousarray(_interpolate(rows.T, x_um / wavelength_um).T) / np.float32(SPLINE_SD)


def _interpolate(lattice: Field, at: NDArray[np.floating]) -> Field:
    """Cubic B-spline along axis 0; `at` in lattice units."""
    first = np.floor(at).astype(np.int64)
    t = (at - first).astype(np.float32)[:, None]
    s = 1 - t
    weights = (s * s * s, 4 - 6 * t * t + 3 * t * t * t, 4 - 6 * s * s + 3 * s * s * s, t * t * t)
    total = weights[0] * lattice[first]
    for step in (1, 2, 3):
        total += weights[step] * lattice[first + step]
    return np.asarray(total / np.float32(6), dtype=np.float32)


def select_share(field: Field, within: Mask, pixels: int) -> Mask:
    """Select the `pixels` highest pixels of a field inside a mask (all of it when it is smaller).

    Parameters
    ----------
    field : ndarray, (height, width), float32
    within : ndarray, (height, width), bool
    pixels : int

    Returns
    -------
    ndarray, (height, width), bool
    """
    values = field[within]
    if pixels <= 0 or values.size == 0:
        return np.zeros_like(within)
    if pixels >= values.size:
        return within.copy()
    cut = np.partition(values, values.size - pixels)[values.size - pixels]
    return within & (field >= cut)


def measure_depth(mask: Mask, pixel_um: float) -> Field:
    """Measure the distance of each inner pixel to the nearest outer one, um; 0 outside.

    Parameters
    ----------
    mask : ndarray, (height, width), bool
    pixel_um : float

    Returns
    -------
    ndarray, (height, width), float32
    """
    padded = np.pad(mask.astype(np.uint8), 1, mode="edge")
    if padded.all():
        return np.full(mask.shape, max(mask.shape) * pixel_um, dtype=np.float32)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1] * np.float32(pixel_um), np.float32)


def scatter_points(rng: np.random.Generator, per_mm2: Field, pixel_um: float) -> Points:
    """Scatter points as a Poisson process of varying intensity.

    Parameters
    ----------
    rng : numpy.random.Generator
    per_mm2 : ndarray, (height, width), float32
        Expected points per mm2.
    pixel_um : float
        um per pixel of `per_mm2`.

    Returns
    -------
    ndarray, (n_points, 2), float64
        x, y in um; the order is random.
    """
    cumulated = np.cumsum(np.rint(per_mm2.ravel() * np.float32(16)).astype(np.int64))
    total = int(cumulated[-1]) if cumulated.size else 0
    count = int(rng.poisson(total / 16 * (pixel_um / 1000.0) ** 2))
    if total == 0 or count == 0:
        return np.zeros((0, 2))
    pixel = np.searchsorted(cumulated, rng.integers(0, total, count), side="right")
    y, x = np.divmod(pixel, per_mm2.shape[1])
    return (np.column_stack([x, y]) + rng.random((count, 2))) * pixel_um


def keep_apart(points: Points, radius_um: NDArray[np.floating] | float) -> NDArray[np.int64]:
    """Keep points in their given order unless one already kept is nearer than the mean of both radii.

    Parameters
    ----------
    points : ndarray, (n, 2), um
    radius_um : float or ndarray, (n,)
        Least distance to a neighbour, um.

    Returns
    -------
    ndarray, (n_kept,), int64
        Rows kept, increasing.
    """
    count = len(points)
    radius = np.broadcast_to(np.asarray(radius_um, dtype=np.float64), (count,))
    if count < 2:
        return np.arange(count)
    pairs = cKDTree(points).query_pairs(float(radius.max()), output_type="ndarray")
    pairs.sort(axis=1)
    gap = points[pairs[:, 0]] - points[pairs[:, 1]]
    limit = (radius[pairs[:, 0]] + radius[pairs[:, 1]]) / 2
    pairs = pairs[gap[:, 0] * gap[:, 0] + gap[:, 1] * gap[:, 1] < limit * limit]
    return np.flatnonzero(_settle(count, pairs))


def _settle(count: int, pairs: NDArray[np.int64]) -> Mask:
    """Run the one-by-one rule in rounds: a point whose earlier neighbours are all gone is kept."""
    kept = np.zeros(count, dtype=bool)
    open_points = np.ones(count, dtype=bool)
    while len(pairs):
        blocked = np.zeros(count, dtype=bool)
        blocked[pairs[:, 1]] = True
        winners = open_points & ~blocked
        kept |= winners
        open_points &= ~winners
        open_points[pairs[winners[pairs[:, 0]], 1]] = False
        pairs = pairs[open_points[pairs[:, 0]] & open_points[pairs[:, 1]]]
    return kept | open_points


def sample_at(field: NDArray, points: Points, pixel_um: float) -> NDArray:
    """Read a field at points by nearest pixel, clipped to the field.

    Parameters
    ----------
    field : ndarray, (height, width)
    points : ndarray, (n, 2), um
    pixel_um : float

    Returns
    -------
    ndarray, (n,)
    """
    x, y = (points / pixel_um).astype(np.int64).T
    return field[np.clip(y, 0, field.shape[0] - 1), np.clip(x, 0, field.shape[1] - 1)]
