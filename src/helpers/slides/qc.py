"""Quality of a tile in numbers, stored beside its coordinates and never thrown away.

Thresholds are chapters' parameters, so a filter can change without reading a slide again. Everything is measured at the
tile's own um per px. The heuristics are guides for looking, not verdicts: their units and rules stand in `QC_COLUMNS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.slides.stain import MIN_OD, Stain, compute_od
from helpers.slides.tissue import INKS, find_ink

QC_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "tissue_fraction": "share of the tile inside the tissue mask",
        "focus_laplacian_var": "variance of the Laplacian of the grey tile, grey levels squared; low is blurred",
        "brightness": "mean grey level, 0 black to 1 white",
        "stained_fraction": "share of pixels with a mean optical density above 0.15",
        "pen_red_fraction": "share of pixels in the colour of red marker ink",
        "pen_green_fraction": "share of pixels in the colour of green marker ink",
        "pen_blue_fraction": "share of pixels in the colour of blue marker ink",
        "pen_black_fraction": "share of pixels in the colour of black marker ink",
        "od_red": "mean optical density of the stained pixels, red channel",
        "od_green": "mean optical density of the stained pixels, green channel",
        "od_blue": "mean optical density of the stained pixels, blue channel",
        "sharpness": "SD of the grey tile below 1 um over its SD at 1.5 to 4 um; low, against its slide, is blurred",
        "thick_fraction": "share whose palest place within 12 um is denser than 1.8 x the slide's tissue (fold)",
        "grey_fraction": "share of pixels darkened without colour (rim of an air bubble, dust, black ink)",
        "haematoxylin": "mean concentration of haematoxylin over the stained pixels, slide's own vectors",
        "eosin": "mean concentration of eosin over the stained pixels, slide's own vectors",
    }
)
MEASURED = tuple(name for name in QC_COLUMNS if name not in {"tissue_fraction", "haematoxylin", "eosin"})
"""Columns that `measure_tile` fills; the others come from the mask and from the slide's stain."""
FLOOR_UM = 12.0
"""Wider than a nucleus, so that crowded nuclei alone leave a pale place."""
THICK_RATIO = 1.8
GREY_RATIO = 1.35
"""How much more blue light per green light a grey shadow takes than the slide's tissue does."""
GREY_OD = 0.6
FINE_UM = 1.0
MIDDLE_UM = (1.5, 4.0)
INK_STEP = 4
"""Ink is judged on every fourth pixel of every fourth row."""
HAZE_CONTRAST = 0.02
"""SD of the density within 8 um below which stained tissue counts as structureless."""


@dataclass(frozen=True, kw_only=True)
class Typical:
    """What the tissue of a slide looks like on an overview; the yardstick for its tiles.

    Attributes
    ----------
    density : float
        Median optical density.
    blue_per_green : float
        Median ratio of the densities in blue and in green light.
    """

    density: float
    blue_per_green: float


def measure_typical(
    overview: NDArray[np.uint8], mask: NDArray[np.bool_], background: tuple[float, float, float]
) -> Typical:
    """Measure the tissue on an overview of about 8 um per px.

    Parameters
    ----------
    overview : ndarray, (h, w, 3), uint8
    mask : ndarray, (h, w), bool
        Tissue.
    background : tuple of 3 floats
        Clear glass, grey levels.

    Returns
    -------
    Typical
    """
    od = compute_od(overview, background)
    density = compute_density(od)
    stained = mask & (density > MIN_OD)
    chosen = stained if stained.any() else mask
    ratio = od[chosen][:, 2] / np.maximum(od[chosen][:, 1], 0.01)
    return Typical(density=max(0.05, float(np.median(density[mask]))), blue_per_green=max(0.1, float(np.median(ratio))))


def measure_tile(
    tile: NDArray[np.uint8], background: tuple[float, float, float], *, um_per_px: float, typical: Typical
) -> dict[str, float]:
    """Measure one tile.

    Parameters
    ----------
    tile : ndarray, (H, W, 3), uint8
    background : tuple of 3 floats
        Clear glass, grey levels.
    um_per_px : float
    typical : Typical
        Of the slide.

    Returns
    -------
    dict
        The columns of `MEASURED`.
    """
    grey = np.asarray(cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY), np.uint8)
    od = compute_od(tile, background)
    density = compute_density(od)
    stained = density > MIN_OD
    coarse_od = od[::INK_STEP, ::INK_STEP]
    ink = find_ink(coarse_od).reshape(-1, len(INKS)).mean(axis=0)
    mean_od = cv2.mean(od, stained.view(np.uint8))[:3] if stained.any() else (np.nan,) * 3
    return {
        "focus_laplacian_var": float(cv2.Laplacian(grey, cv2.CV_32F).var()),
        "brightness": float(cv2.mean(grey)[0]) / 255,
        "stained_fraction": float(stained.mean()),
        **{f"pen_{name}_fraction": float(share) for name, share in zip(INKS, ink, strict=True)},
        **{f"od_{name}": float(value) for name, value in zip(("red", "green", "blue"), mean_od, strict=True)},
        "sharpness": measure_sharpness(grey, um_per_px),
        "thick_fraction": measure_thickness(density, um_per_px, limit=THICK_RATIO * typical.density),
        "grey_fraction": measure_grey(coarse_od, typical),
    }


def measure_sharpness(grey: NDArray[np.uint8], um_per_px: float) -> float:
    """Return fine detail relative to middle detail, which depends little on what the tile shows.

    Parameters
    ----------
    grey : ndarray, (H, W), uint8
    um_per_px : float

    Returns
    -------
    float
        About 0.6 to 1 in focus; 0 for an empty tile.
    """
    image = grey.astype(np.float32)
    fine = image - cv2.GaussianBlur(image, (0, 0), FINE_UM / um_per_px)
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    near, far = (cv2.GaussianBlur(half, (0, 0), sd / um_per_px / 2) for sd in MIDDLE_UM)
    middle_sd = float(cv2.meanStdDev(near - far)[1][0, 0])
    return float(cv2.meanStdDev(fine)[1][0, 0]) / middle_sd if middle_sd > 0.5 else 0.0


def measure_thickness(density: NDArray[np.float32], um_per_px: float, *, limit: float) -> float:
    """Return the share of a tile that is dense everywhere, also between nuclei.

    Parameters
    ----------
    density : ndarray, (H, W), float32
    um_per_px : float
    limit : float
        Density.

    Returns
    -------
    float
    """
    half = cv2.resize(density, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    edge = max(3, round(FLOOR_UM / um_per_px / 2) | 1)
    floor = cv2.erode(cv2.blur(half, (3, 3)), np.ones((edge, edge), np.uint8))
    return float((floor > limit).mean())


def measure_grey(od: NDArray[np.float32], typical: Typical) -> float:
    """Return the share of pixels that are dark without the colour of the slide's stains.

    Parameters
    ----------
    od : ndarray, (..., 3), float32
    typical : Typical

    Returns
    -------
    float
    """
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    dark = np.minimum(np.minimum(red, green), blue) > GREY_OD
    return float((dark & (blue > GREY_RATIO * typical.blue_per_green * green) & (red > 0.6 * green)).mean())


def compute_density(od: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean density over the three channels.

    Parameters
    ----------
    od : ndarray, (H, W, 3), float32

    Returns
    -------
    ndarray, (H, W), float32
    """
    return np.asarray(cv2.transform(od, np.full((1, 3), 1 / 3, np.float32)), dtype=np.float32)


def measure_stains(qc: pd.DataFrame, stain: Stain | None) -> pd.DataFrame:
    """Turn the tiles' mean densities into mean concentrations, which is exact because both are linear.

    Parameters
    ----------
    qc : DataFrame
        With od_red, od_green, od_blue.
    stain : Stain or None
        None where the slide's vectors could not be estimated: the columns are NaN.

    Returns
    -------
    DataFrame
        Columns haematoxylin and eosin.
    """
    od = qc[["od_red", "od_green", "od_blue"]].to_numpy(np.float32)
    mixed = od @ stain.unmixing if stain is not None else np.full((len(qc), 2), np.nan, np.float32)
    return pd.DataFrame(mixed, columns=["haematoxylin", "eosin"], index=qc.index)
