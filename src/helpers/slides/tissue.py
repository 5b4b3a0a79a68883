"""Where the tissue is: a mask on a small overview, and its outlines in level-0 px.

Two methods. 'robust' thresholds the optical density against the slide's own glass and leaves pen ink out, so that pale
stroma, a grey background or a marker line do not decide. 'otsu_saturation' is Otsu's threshold on HSV saturation, the
rule most papers name.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import TileError
from helpers.slides.reader import Slide
from helpers.slides.stain import compute_od, estimate_background

Method = Literal["robust", "otsu_saturation"]
Bools = NDArray[np.bool_]

SMOOTH_UM = 12.0
"""Gaussian SD that merges nuclei and the matter between them before thresholding."""
CLOSE_UM = 32.0
"""Gaps up to this width (lumina, fat cells, cracks) belong to the tissue."""
OPEN_UM = 16.0
"""Strands thinner than this (dust, hairs, glass edges) do not."""
OD_RANGE = (0.03, 0.12)
"""The robust threshold is Otsu's, kept within this range of mean density: below lies glass, above lies tissue."""
MAX_OVERVIEW_PX = 4096
"""Longer edge of the overview, px; larger slides get a coarser mask."""
HOLE_FRACTION = 4.0
"""Holes up to this many times the smallest kept island are filled."""


@dataclass(frozen=True, kw_only=True)
class Tissue:
    """The tissue of a slide.

    Attributes
    ----------
    mask : ndarray, (h, w), bool
    overview : ndarray, (h, w, 3), uint8
        What the mask was made from.
    scale_x, scale_y : float
        Level-0 px per px of the mask.
    um_per_px : float
        Of the mask, mean of both axes.
    background : tuple of 3 floats
        Clear glass, grey levels.
    background_source : str
    method : str
        'robust', 'otsu_saturation', or 'polygon' where somebody drew the mask.
    threshold : float
        In the method's own unit: mean density, or saturation 0-255; NaN where nothing was thresholded.
    """

    mask: Bools
    overview: NDArray[np.uint8]
    scale_x: float
    scale_y: float
    um_per_px: float
    background: tuple[float, float, float]
    background_source: str
    method: str
    threshold: float

    @property
    def area_mm2(self) -> float:
        """Area of the tissue, mm2."""
        return float(self.mask.sum()) * self.um_per_px**2 / 1e6


def find_tissue(slide: Slide, *, method: Method, um_per_px: float, min_area_um2: float) -> Tissue:
    """Find the tissue of a slide.

    Parameters
    ----------
    slide : Slide
    method : {'robust', 'otsu_saturation'}
    um_per_px : float
        Resolution of the mask; coarser where the slide would exceed 4,096 px.
    min_area_um2 : float
        Smaller islands are dropped, holes up to four times this are filled.

    Returns
    -------
    Tissue

    Raises
    ------
    TileError
        When no tissue is found.
    """
    whole = view_whole(slide, um_per_px=um_per_px)
    mask, threshold = compute_mask(
        whole.overview, whole.background, method=method, um_per_px=whole.um_per_px, min_area_um2=min_area_um2
    )
    if not mask.any():
        msg = (
            f"TileError: slide '{slide.slide_id}' shows no tissue ({method}, threshold {threshold:.3g}, islands from "
            f"{min_area_um2:g} um2). If there is some, try the other tissue_method or a smaller min_tissue_um2."
        )
        raise TileError(msg)
    return replace(whole, mask=mask, method=method, threshold=threshold)


def view_whole(slide: Slide, *, um_per_px: float) -> Tissue:
    """Read the overview that masks are made on; everything counts as tissue yet.

    Parameters
    ----------
    slide : Slide
    um_per_px : float
        Resolution of the mask; coarser where the slide would exceed 4,096 px.

    Returns
    -------
    Tissue
        Its mask is True everywhere, its method 'whole'.
    """
    factor = max(um_per_px / slide.mpp, max(slide.width, slide.height) / MAX_OVERVIEW_PX, 1.0)
    width, height = max(1, round(slide.width / factor)), max(1, round(slide.height / factor))
    overview = slide.read_overview(width=width, height=height)
    scale_x, scale_y = slide.width / width, slide.height / height
    background, origin = estimate_background(overview)
    return Tissue(
        mask=np.ones((height, width), dtype=bool),
        overview=overview,
        scale_x=scale_x,
        scale_y=scale_y,
        um_per_px=(scale_x * slide.resolution.mpp_x + scale_y * slide.resolution.mpp_y) / 2,
        background=background,
        background_source=origin,
        method="whole",
        threshold=float("nan"),
    )


def compute_mask(
    image: NDArray[np.uint8],
    background: tuple[float, float, float],
    *,
    method: Method,
    um_per_px: float,
    min_area_um2: float,
) -> tuple[Bools, float]:
    """Separate tissue from glass on an overview.

    Parameters
    ----------
    image : ndarray, (h, w, 3), uint8
    background : tuple of 3 floats
        Clear glass, grey levels.
    method : {'robust', 'otsu_saturation'}
    um_per_px : float
    min_area_um2 : float

    Returns
    -------
    mask : ndarray, (h, w), bool
    threshold : float
    """
    if method == "otsu_saturation":
        raw, threshold = _threshold_saturation(image)
    else:
        raw, threshold = _threshold_density(image, background, um_per_px)
    return _clean(raw, um_per_px, min_area_um2), threshold


def _threshold_saturation(image: NDArray[np.uint8]) -> tuple[Bools, float]:
    saturation = cv2.medianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1], 7)
    threshold, mask = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return mask > 0, float(threshold)


def _threshold_density(
    image: NDArray[np.uint8], background: tuple[float, float, float], um_per_px: float
) -> tuple[Bools, float]:
    od = compute_od(image, background)
    ink = find_ink(od).any(axis=-1)
    stained = od.mean(axis=-1)
    stained[ink] = 0.0
    smooth = cv2.GaussianBlur(stained, (0, 0), max(0.5, SMOOTH_UM / um_per_px))
    scaled = np.clip(smooth / 0.5 * 255, 0, 255).astype(np.uint8)  # Otsu over densities 0 to 0.5
    level, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    threshold = float(np.clip(level / 255 * 0.5, *OD_RANGE))
    return (smooth > threshold) & ~ink, threshold


INKS = ("red", "green", "blue", "black")


def find_ink(od: NDArray[np.float32]) -> Bools:
    """Find marker ink by the order of the densities: haematoxylin and eosin absorb green most, ink does not.

    Parameters
    ----------
    od : ndarray, (..., 3), float32

    Returns
    -------
    ndarray, (..., 4), bool
        Red, green, blue, black. Thresholds were set on marker lines of public slides; a guide, not a verdict.
    """
    red, green, blue = od[..., 0], od[..., 1], od[..., 2]
    darkest = np.maximum(np.maximum(red, green), blue)
    palest = np.minimum(np.minimum(red, green), blue)
    is_red = (darkest > 0.35) & (blue > 0.75 * green) & (red < 0.35 * green)
    is_red |= (green > 1.4) & (blue > 0.66 * green) & (red < 0.38 * green)
    is_cold = (darkest > 0.30) & (red > 1.25 * green)
    is_green, is_blue = is_cold & (blue >= 0.9 * green), is_cold & (blue < 0.9 * green)
    is_black = (palest > 1.2) & (darkest < 1.35 * palest)
    return np.stack([is_red, is_green, is_blue, is_black], axis=-1)


def _clean(mask: Bools, um_per_px: float, min_area_um2: float) -> Bools:
    """Close gaps, drop strands and small islands, fill small holes."""
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _disc(OPEN_UM / um_per_px))
    closed = np.asarray(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _disc(CLOSE_UM / um_per_px)))
    min_px = min_area_um2 / um_per_px**2
    kept = _drop_small(closed > 0, min_px)
    return kept | _find_holes(~kept, min_px * HOLE_FRACTION)


def _disc(diameter_px: float) -> Any:
    edge = max(1, round(diameter_px)) | 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (edge, edge))


def _drop_small(mask: Bools, min_px: float) -> Bools:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= min_px
    large[0] = False
    return np.asarray(large[labels], dtype=bool)


def _find_holes(glass: Bools, max_px: float) -> Bools:
    """Return small islands of glass that tissue encloses; glass at the edge of the scan may go on beyond it."""
    n_labels, labels, stats, _ = cv2.connectedComponentsWithStats(glass.astype(np.uint8), connectivity=8)
    hole = stats[:, cv2.CC_STAT_AREA] < max_px
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    hole[np.intersect1d(edge, np.arange(n_labels))] = False
    hole[0] = False
    return np.asarray(hole[labels], dtype=bool)


def outline_tissue(tissue: Tissue) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the outlines of the tissue in level-0 px.

    Parameters
    ----------
    tissue : Tissue

    Returns
    -------
    points : ndarray, (n_points, 2), float32
        x, y in level-0 px; all rings one after another.
    rings : ndarray, (n_rings, 3), int32
        First point, one past the last, and the ring that encloses it (-1 for an outer ring, else a hole's parent).
    """
    edges = np.pad(tissue.mask.astype(np.uint8), 1)
    contours, hierarchy = cv2.findContours(edges, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    points, rings, start = [], [], 0
    for ring, contour in enumerate(contours):
        corners = (contour.reshape(-1, 2) - 1 + 0.5) * [tissue.scale_x, tissue.scale_y]
        points.append(corners.astype(np.float32))
        rings.append([start, start + len(corners), int(hierarchy[0, ring, 3])])
        start += len(corners)
    return np.concatenate(points), np.array(rings, dtype=np.int32)


def compute_cover(tissue: Tissue, coords_l0: NDArray[np.int64], edge_l0: tuple[int, int]) -> NDArray[np.float32]:
    """Return the share of tissue in each tile, exactly, fractions of mask pixels included.

    Parameters
    ----------
    tissue : Tissue
    coords_l0 : ndarray, (n, 2), int64
        Upper left corners, level-0 px.
    edge_l0 : tuple of 2 ints
        Width and height of a tile, level-0 px.

    Returns
    -------
    ndarray, (n,), float32
        0 to 1.
    """
    total = np.asarray(cv2.integral(tissue.mask.astype(np.uint8), sdepth=cv2.CV_64F), np.float64)  # (h + 1, w + 1)
    left, top = coords_l0[:, 0] / tissue.scale_x, coords_l0[:, 1] / tissue.scale_y
    right, bottom = left + edge_l0[0] / tissue.scale_x, top + edge_l0[1] / tissue.scale_y
    inside = _sample(total, right, bottom) - _sample(total, left, bottom)
    inside -= _sample(total, right, top) - _sample(total, left, top)
    return np.clip(inside / ((right - left) * (bottom - top)), 0.0, 1.0).astype(np.float32)


def _sample(total: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate an integral image bilinearly, which is exact for a mask that is constant over each pixel."""
    x, y = np.clip(x, 0, total.shape[1] - 1), np.clip(y, 0, total.shape[0] - 1)
    column, row = np.minimum(x.astype(int), total.shape[1] - 2), np.minimum(y.astype(int), total.shape[0] - 2)
    dx, dy = x - column, y - row
    upper = total[row, column] * (1 - dx) + total[row, column + 1] * dx
    lower = total[row + 1, column] * (1 - dx) + total[row + 1, column + 1] * dx
    return np.asarray(upper * (1 - dy) + lower * dy)
