"""What was planted under every tile of a phantom's slide, so that a map can be judged."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.core.errors import PhantomError

SMOOTH_UM = 50.0
"""Maps are smoothed by this SD before peaks are sought: a peak is a place, not a nucleus."""
MIN_TUMOUR = 0.5
"""Share of a tile that must be tumour for it to be judged."""
TRUTHS = {"proliferation": "proliferation", "til": "til"}
"""What a gene loads on, and the map that shows it."""


@dataclass(frozen=True)
class PlantedTiles:
    """Planted values under the tiles of one slide.

    Parameters
    ----------
    values : DataFrame, (n_tiles, ...)
        proliferation (z, mean over the tumour in the tile; NaN without tumour), til, nuclear_density (per mm2), tumour
        (share of the tile).
    inside : ndarray, (n_tiles,), bool
        Half tumour or more.
    peaks_um : dict of str to ndarray, (n_peaks, 2)
        Peaks x, y of proliferation and til inside tumour.
    """

    values: pd.DataFrame
    inside: np.ndarray
    peaks_um: dict[str, np.ndarray]


def average_over_tiles(values: np.ndarray, *, um_per_px: float, coords_um: np.ndarray, tile_um: float) -> np.ndarray:
    """Average a coarse map over tiles, each pixel weighted by the area it shares with the tile.

    Parameters
    ----------
    values : ndarray, (height, width)
        NaN where undefined; such pixels carry no weight.
    um_per_px : float
    coords_um : ndarray, (n_tiles, 2)
        Upper left corners x, y.
    tile_um : float

    Returns
    -------
    ndarray, (n_tiles,)
        NaN where nothing under the tile is defined.
    """
    shares_x = _share(coords_um[:, 0], values.shape[1], um_per_px, tile_um)
    shares_y = _share(coords_um[:, 1], values.shape[0], um_per_px, tile_um)
    known = np.isfinite(values)
    total = np.einsum("ty,yx,tx->t", shares_y, known.astype(float), shares_x, optimize=True)
    summed = np.einsum("ty,yx,tx->t", shares_y, np.where(known, values, 0.0), shares_x, optimize=True)
    return np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 1e-9)


def _share(corner: np.ndarray, n: int, um_per_px: float, tile_um: float) -> np.ndarray:
    """How much of every pixel along an axis lies in each tile, (n_tiles, n)."""
    low = np.arange(n) * um_per_px
    overlap = np.minimum(low + um_per_px, (corner + tile_um)[:, None]) - np.maximum(low, corner[:, None])
    return np.clip(overlap, 0.0, None)


def find_peaks(values: np.ndarray, *, um_per_px: float, smooth_um: float = SMOOTH_UM) -> np.ndarray:
    """Find where a map peaks: local maxima of the smoothed map, an SD or more above its mean.

    Parameters
    ----------
    values : ndarray, (height, width)
        NaN outside tumour.
    um_per_px : float
    smooth_um : float

    Returns
    -------
    ndarray, (n_peaks, 2)
        x, y of pixel centres, um; highest first.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter

    known = np.isfinite(values)
    if known.sum() < 2:
        return np.empty((0, 2))
    sigma = smooth_um / um_per_px
    weight = gaussian_filter(known.astype(float), sigma)
    smooth = gaussian_filter(np.where(known, values, 0.0), sigma) / np.maximum(weight, 1e-9)
    smooth = np.where(known, smooth, -np.inf)
    inside = smooth[known]
    reach = 2 * int(np.ceil(sigma)) + 1
    highest = (smooth == maximum_filter(smooth, size=reach)) & (smooth >= inside.mean() + inside.std())
    rows, columns = np.nonzero(highest & known)
    order = np.argsort(-smooth[rows, columns], kind="stable")
    return (np.stack([columns, rows], axis=1)[order] + 0.5) * um_per_px


def measure_planted(
    maps: dict[str, np.ndarray], um_per_px: float, *, coords_um: np.ndarray, tile_um: float
) -> PlantedTiles:
    """Measure what lies under the tiles of a slide.

    Parameters
    ----------
    maps : dict of str to ndarray
        From `helpers.phantom.generate.read_maps`.
    um_per_px : float
    coords_um : ndarray, (n_tiles, 2)
    tile_um : float

    Returns
    -------
    PlantedTiles

    Raises
    ------
    PhantomError
        When a map is missing.
    """
    missing = sorted({"proliferation", "tumour", "til"} - set(maps))
    if missing:
        msg = f"PhantomError: the truth maps lack {', '.join(missing)}; found {', '.join(maps)}. Draw the cohort again."
        raise PhantomError(msg)
    values = pd.DataFrame({
        name: average_over_tiles(layer, um_per_px=um_per_px, coords_um=coords_um, tile_um=tile_um)
        for name, layer in maps.items()
    })  # fmt: skip
    tumour = np.where(maps["tumour"] >= MIN_TUMOUR, 1.0, np.nan)
    peaks = {name: find_peaks(maps[name] * tumour, um_per_px=um_per_px) for name in TRUTHS}
    inside = (values["tumour"] >= MIN_TUMOUR) & values["proliferation"].notna()
    return PlantedTiles(values, inside.to_numpy(), peaks)
