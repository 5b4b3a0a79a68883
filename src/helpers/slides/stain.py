"""Stains as light absorption: optical density, stain vectors, concentrations (Beer and Lambert).

Optical density is -ln(I / I0) per channel, I0 being the light through clear glass. A pixel's density is the sum of the
stains' vectors times their concentrations, so concentrations are comparable where colours are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import StainError

Floats = NDArray[np.float32]
DEFAULT_BACKGROUND = (245.0, 245.0, 245.0)
"""Clear glass, where a slide shows none."""
CLEAR_LEVEL = 200
CLEAR_CHROMA = 28
"""Clear glass: the darkest channel lies above the level, and the channels differ by less than the chroma."""
CLEAR_SHARE = 0.002
"""Smallest share of clear pixels from which the background is estimated."""
MIN_OD = 0.15
"""Mean density below which a pixel counts as unstained."""
MIN_PIXELS = 500
"""Fewest stained pixels from which vectors are estimated."""
MIN_NUCLEI = 30
"""Fewest nuclei from which the typical one is read."""
MIN_RADIUS_UM = 1.8
"""Smallest inscribed radius of what counts as a nucleus."""
MIN_CONTRAST = 1.25
"""Centre over edge of a nucleus; what is flatter is dark cytoplasm."""
FIRST_LEVEL = 0.6
"""Of the slide's 99th percentile of haematoxylin: where the search for the typical nucleus begins."""
EDGE_SHARE = 0.58
"""The nuclear edge is drawn where haematoxylin falls to this share of a typical nucleus."""
LEVEL_SD = 0.13
"""Spread of haematoxylin over nuclei of one kind, log scale."""
DARK_RATIO = 1.5
"""Haematoxylin of lymphocyte-like nuclei over that of epithelial ones."""
PERCENTILE_TAIL = 1.0
MIN_ANGLE_DEG = 5.0
"""Two stains closer than this are one stain."""
MAX_PERCENTILE = 99.0


@dataclass(frozen=True, kw_only=True)
class Stain:
    """Stain vectors of a slide and the range of their concentrations.

    Attributes
    ----------
    haematoxylin, eosin : tuple of 3 floats
        Density per unit of concentration in R, G, B; unit length.
    scale_h, scale_e : float
        99th percentile of the concentrations over the stained pixels: what "strong" means on this slide.
    split_h : float
        Concentration of haematoxylin that parts nuclei from the rest on this slide.
    nuclear_h : float
        Concentration of haematoxylin of the slide's typical large nucleus. From pixels alone (Otsu and the median above
        it) until `refine_nuclear_level` has seen whole nuclei.
    background : tuple of 3 floats
        Clear glass, grey levels.
    n_pixels : int
        Stained pixels used.
    method : str
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    scale_h: float
    scale_e: float
    split_h: float
    nuclear_h: float
    background: tuple[float, float, float]
    n_pixels: int
    method: str = "macenko"

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Both vectors, (2, 3), haematoxylin first."""
        return np.array([self.haematoxylin, self.eosin], dtype=np.float64)

    @property
    def unmixing(self) -> Floats:
        """Matrix (3, 2) that turns densities into concentrations (least squares)."""
        return np.linalg.pinv(self.vectors).astype(np.float32)

    def to_attributes(self) -> dict[str, Any]:
        """Return plain values to store beside the tiles.

        Returns
        -------
        dict
        """
        return {
            "stain_method": self.method,
            "stain_haematoxylin": list(self.haematoxylin),
            "stain_eosin": list(self.eosin),
            "stain_scale_h": self.scale_h,
            "stain_scale_e": self.scale_e,
            "stain_split_h": self.split_h,
            "stain_nuclear_h": self.nuclear_h,
            "stain_background": list(self.background),
            "stain_n_pixels": self.n_pixels,
        }

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any]) -> "Stain":
        """Read what `to_attributes` wrote.

        Parameters
        ----------
        attributes : dict

        Returns
        -------
        Stain
        """
        return cls(
            haematoxylin=round_triple(attributes["stain_haematoxylin"]),
            eosin=round_triple(attributes["stain_eosin"]),
            scale_h=float(attributes["stain_scale_h"]),
            scale_e=float(attributes["stain_scale_e"]),
            split_h=float(attributes["stain_split_h"]),
            nuclear_h=float(attributes["stain_nuclear_h"]),
            background=round_triple(attributes["stain_background"]),
            n_pixels=int(attributes["stain_n_pixels"]),
            method=str(attributes["stain_method"]),
        )


def round_triple(values: Any) -> tuple[float, float, float]:
    """Return three numbers as plain floats of six digits, as they are stored.

    Parameters
    ----------
    values : sequence of 3 numbers

    Returns
    -------
    tuple of 3 floats
    """
    first, second, third = (round(float(value), 6) for value in values)
    return first, second, third


def estimate_background(image: NDArray[np.uint8]) -> tuple[tuple[float, float, float], str]:
    """Estimate the light through clear glass from an overview of the slide.

    Parameters
    ----------
    image : ndarray, (H, W, 3), uint8

    Returns
    -------
    background : tuple of 3 floats
        Median of the clear pixels, grey levels.
    source : str
        'clear glass', or 'default' where the slide shows less than 0.2 % of it.
    """
    pixels = image.reshape(-1, 3)
    darkest = pixels.min(axis=1)
    clear = (darkest >= CLEAR_LEVEL) & (pixels.max(axis=1) - darkest < CLEAR_CHROMA)
    if clear.mean() < CLEAR_SHARE:
        return DEFAULT_BACKGROUND, "default"
    level = np.median(darkest[clear])  # leave out the thin tissue that passed the test
    glass = pixels[clear & (darkest >= level)]
    return round_triple(np.median(glass, axis=0)), "clear glass"


def compute_od(rgb: NDArray[np.uint8], background: tuple[float, float, float]) -> Floats:
    """Return optical densities by table look-up.

    Parameters
    ----------
    rgb : ndarray, (..., 3), uint8
    background : tuple of 3 floats
        Clear glass, grey levels.

    Returns
    -------
    ndarray, (..., 3), float32
        -ln(I / I0); brighter than the background counts as 0, black as 0.5 grey levels.
    """
    levels = np.maximum(np.arange(256, dtype=np.float64), 0.5)[:, None]
    table = np.clip(-np.log(levels / np.asarray(background, np.float64)), 0.0, None).astype(np.float32)
    looked_up = cv2.LUT(np.ascontiguousarray(rgb).reshape(-1, 1, 3), table[None])
    return np.asarray(looked_up, dtype=np.float32).reshape(rgb.shape)


def select_stained(
    rgb: NDArray[np.uint8], background: tuple[float, float, float], *, item: str = "image"
) -> NDArray[np.float64]:
    """Return the densities of the stained pixels, or refuse with their count.

    Parameters
    ----------
    rgb : ndarray, (..., 3), uint8
    background : tuple of 3 floats
        Clear glass, grey levels.
    item : str
        What the pixels are of, for messages.

    Returns
    -------
    ndarray, (n, 3), float64
        Of pixels with a mean density above 0.15 and no channel black.

    Raises
    ------
    StainError
        When fewer than 500 pixels are stained.
    """
    od = compute_od(rgb.reshape(-1, 3), background)
    stained = od[(od.mean(axis=1) > MIN_OD) & (rgb.reshape(-1, 3).min(axis=1) > 0)].astype(np.float64)
    if len(stained) < MIN_PIXELS:
        msg = (
            f"StainError: {item} has {len(stained)} stained pixels of {od.shape[0]} (mean density above {MIN_OD}), "
            f"expected at least {MIN_PIXELS}. It is nearly white: leave it out, or give stain vectors by hand."
        )
        raise StainError(msg)
    return stained


def fit_macenko(rgb: NDArray[np.uint8], background: tuple[float, float, float], *, item: str = "image") -> Stain:
    """Estimate haematoxylin and eosin vectors from the pixels of one slide.

    Parameters
    ----------
    rgb : ndarray, (n, 3), uint8
        Pixels, tissue or not; unstained ones are left out here.
    background : tuple of 3 floats
        Clear glass, grey levels.
    item : str
        What the pixels are of, for messages.

    Returns
    -------
    Stain
        Haematoxylin is the vector that absorbs the larger share of red light.

    Raises
    ------
    StainError
        When fewer than 500 pixels are stained, or they show only one stain.

    References
    ----------
    Macenko et al. 2009, doi 10.1109/ISBI.2009.5193250.
    """
    stained = select_stained(rgb, background, item=item)
    haematoxylin, eosin = _order_stains(_find_extremes(stained, item))
    concentrations = stained @ np.linalg.pinv(np.array([haematoxylin, eosin]))
    scale_h, scale_e = np.percentile(concentrations, MAX_PERCENTILE, axis=0)
    split_h = _split_by_otsu(concentrations[:, 0], top=float(scale_h))
    return Stain(
        haematoxylin=round_triple(haematoxylin),
        eosin=round_triple(eosin),
        scale_h=round(float(scale_h), 6),
        scale_e=round(float(scale_e), 6),
        split_h=round(split_h, 6),
        nuclear_h=round(float(np.median(concentrations[concentrations[:, 0] > split_h, 0])), 6),
        background=round_triple(background),
        n_pixels=len(stained),
    )


def _split_by_otsu(values: NDArray[np.float64], *, top: float) -> float:
    """Return the threshold that parts values between 0 and `top` into two classes of least spread."""
    levels = np.clip(values / top * 255, 0, 255).astype(np.uint8).reshape(-1, 1)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return (float(level) + 0.5) / 255 * top


def refine_nuclear_level(stain: Stain, tiles: Sequence[NDArray[np.uint8]], *, um_per_px: float) -> Stain:
    """Measure what a typical nucleus is on whole nuclei, which depends less on the mix of tissues than pixels do.

    Nuclei are peaks of the distance to the nuclear edge. Their haematoxylin is read as a mixture of pale (epithelial)
    and dark (lymphocyte-like) nuclei; the level is that of the pale ones, so that inflammation does not shift it.

    Parameters
    ----------
    stain : Stain
    tiles : sequence of ndarray, (H, W, 3), uint8
        A sample of the slide's tiles.
    um_per_px : float

    Returns
    -------
    Stain
        With `split_h` and `nuclear_h` replaced; unchanged where fewer than 30 nuclei are found.
    """
    level = FIRST_LEVEL * stain.scale_h
    split = EDGE_SHARE * level
    planes = [_smooth_haematoxylin(tile, stain, um_per_px) for tile in tiles]
    for _ in range(2):
        found = [_measure_centres(*pair, split, um_per_px) for pair in planes]
        centres = np.concatenate([np.empty(0, np.float32), *found])
        if len(centres) < MIN_NUCLEI:
            return stain
        level = _locate_pale(centres)
        split = EDGE_SHARE * level
    return replace(stain, split_h=round(split, 6), nuclear_h=round(level, 6))


def _smooth_haematoxylin(tile: NDArray[np.uint8], stain: Stain, um_per_px: float) -> tuple[Floats, Floats]:
    """Return the haematoxylin of a tile, smoothed by 0.5 um and by 1.1 um."""
    od = cv2.transform(compute_od(tile, stain.background), np.ascontiguousarray(stain.unmixing[:, :1].T))
    sharp = np.maximum(cv2.GaussianBlur(od, (0, 0), 0.5 / um_per_px), 0)
    return np.asarray(sharp, np.float32), np.asarray(cv2.GaussianBlur(sharp, (0, 0), 1.0 / um_per_px), np.float32)


def _measure_centres(sharp: Floats, soft: Floats, split: float, um_per_px: float) -> Floats:
    """Return the haematoxylin at the centres of nuclei of at least 1.8 um inscribed radius."""
    depth = cv2.distanceTransform((sharp > split).astype(np.uint8), cv2.DIST_L2, 5) * np.float32(um_per_px)
    ridge = cv2.GaussianBlur(depth, (0, 0), 0.75 / um_per_px)
    edge = 2 * max(1, round(2.0 / um_per_px)) + 1
    peak = (ridge >= cv2.dilate(ridge, np.ones((edge, edge), np.uint8))) & (depth > MIN_RADIUS_UM)
    found = np.asarray(soft[peak], dtype=np.float32)
    return found[found > MIN_CONTRAST * split]


def _locate_pale(values: Floats) -> float:
    """Return the level of the paler of two populations of nuclei, by maximum likelihood on a grid.

    Both are normal on the log scale with SD 0.13; the dark one lies 1.5 times higher and holds at most 70 %; 8 % belong
    to neither.
    """
    x = np.log(np.clip(values, 0.05, 20.0).astype(np.float64))[:, None]
    low, high = np.quantile(x, [0.02, 0.98])
    grid = np.linspace(low, high, 120)
    pale, dark = (np.exp(-0.5 * ((x - grid - shift) / LEVEL_SD) ** 2) for shift in (0.0, np.log(DARK_RATIO)))
    height = 0.92 / (LEVEL_SD * np.sqrt(2 * np.pi))
    likelihoods = [
        np.log(height * (share * dark + (1 - share) * pale) + 0.03).sum(axis=0) for share in np.linspace(0.05, 0.7, 10)
    ]
    best = np.unravel_index(int(np.argmax(likelihoods)), (10, 120))[1]
    return float(np.exp(grid[best]))


def _find_extremes(od: NDArray[np.float64], item: str) -> NDArray[np.float64]:
    """Return the two extreme directions of the densities in the plane that holds most of them, (2, 3)."""
    _, axes = np.linalg.eigh(od.T @ od / len(od))
    plane = axes[:, [2, 1]] * np.where(axes[:, [2, 1]].sum(axis=0) < 0, -1.0, 1.0)  # (3, 2)
    angles = np.arctan2(*(od @ plane).T[::-1])
    low, high = np.percentile(angles, [PERCENTILE_TAIL, 100 - PERCENTILE_TAIL])
    if np.degrees(high - low) < MIN_ANGLE_DEG:
        msg = (
            f"StainError: {item} shows one stain only ({np.degrees(high - low):.1f} degrees between the extreme "
            f"colours, expected at least {MIN_ANGLE_DEG}). Leave it out, or give stain vectors by hand."
        )
        raise StainError(msg)
    vectors = np.array([[np.cos(angle), np.sin(angle)] for angle in (low, high)]) @ plane.T
    vectors = np.clip(vectors, 0.0, None)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _order_stains(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    red_share = vectors[:, 0] / vectors.sum(axis=1)
    first = int(np.argmax(red_share))
    return vectors[first], vectors[1 - first]


def separate_stains(rgb: NDArray[np.uint8], stain: Stain) -> Floats:
    """Return the concentrations of haematoxylin and eosin.

    Parameters
    ----------
    rgb : ndarray, (..., 3), uint8
    stain : Stain

    Returns
    -------
    ndarray, (..., 2), float32
        Not below 0; 1 is one unit of density along the stain's vector.
    """
    od = compute_od(rgb, stain.background)
    return np.maximum(od @ stain.unmixing, 0.0)


def compute_angle(first: Any, second: Any) -> float:
    """Return the angle between two stain vectors.

    Parameters
    ----------
    first, second : sequence of 3 floats

    Returns
    -------
    float
        Degrees.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
