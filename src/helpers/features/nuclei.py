"""Nuclei of an H&E image without any trained weights: one number per nucleus, at any resolution.

Haematoxylin in units of the slide's typical nucleus (:mod:`~helpers.features.stain_texture`) → threshold between the
slide's, the tile's (Otsu) and the surroundings' level, holes filled → seeds where the distance to the edge and the
haematoxylin of nuclear scale peak together → watershed → halves of one nucleus joined again → an edge of its own for
each nucleus, half-way between its inside and its surroundings → outline smoothed, gaps in pale nuclei closed to their
convex hull → filters by area and contrast.

All lengths are um, all areas um2, all levels typical nuclei. They were set on phantom slides, whose nuclei are known,
and by eye on HER2ST sections, TCGA-BRCA and other images without outlines; never on the outlined images of the tests.

Where it fails: epithelium with purple cytoplasm (nests run together), coarse chromatin (one nucleus in parts), spindle
nuclei that touch round ones.

References
----------
Ruifrok and Johnston 2001 (colour deconvolution); Otsu 1979, doi 10.1109/TSMC.1979.4310076; Ridler and Calvard 1978,
doi 10.1109/TSMC.1978.4310039 (a threshold half-way between two means); Beucher and Lantuéjoul 1979 (watershed).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import FeatureError
from helpers.features.stain_texture import Bools, Plane, Planes, disc, separate_tile, smooth, smooth_wide
from helpers.slides.stain import MIN_PIXELS, Stain, estimate_background, fit_macenko, refine_nuclear_level

VERSION = "1"
Labels = NDArray[np.int32]
COARSEST_UM = 1.0
"""At coarser resolution a small nucleus has fewer than about 30 pixels and no outline."""
LEVELS = 128.0
"""Grey levels per typical nucleus in the histogram of Otsu's threshold."""
STAINED_SHARE = 0.7
"""A hole with less stained area than this is a lumen, not the inside of a pale nucleus."""
PIXEL_EDGES = np.pi / 4
"""Length of a seam per pair of pixels on its two sides, mean over directions."""
HULL_LEAST = 0.5
"""Object over its hull below which the object is no nucleus with a gap but something bent."""


@dataclass(frozen=True, kw_only=True)
class NucleusRules:
    """What decides where nuclei are; um, um2, and haematoxylin in typical nuclei.

    Attributes
    ----------
    blur_um : float
        SD of the smoothing before anything else.
    local, wide_um : float
        Weight of the surroundings' mean in the threshold, and the SD of those surroundings.
    otsu, otsu_range : float, tuple of 2 floats
        Weight of the tile's own Otsu threshold beside the slide's (geometric mean), and how far it may move it.
    above : float
        The threshold that the surroundings suggest, in units of their mean.
    lowest, highest : float
        Bounds of the threshold, in units of the tile's.
    nest, nest_um : float
        Inside nests of purple cytoplasm: share of the mean of what lies above the threshold nearby that a nucleus must
        exceed, and the SD of nearby.
    close_um, hole_um2 : float
        Gaps and holes that are closed.
    cap_um, seed_um, apart_um : float
        Depth beyond which deeper is no better a centre, SD of its smoothing, least distance of two centres.
    mix, fine_um, band_um : float
        um of depth that one typical nucleus of haematoxylin is worth, and its band of scale (SDs).
    seam, valley, joined_um2 : float
        Two parts are one nucleus when their seam is as long as this share of the smaller one's diameter, no paler than
        this share of the paler one, and their area is no larger.
    grow_um, edge, pull : float
        How far the own edge may lie outside the common one; where it lies between outside (0) and inside (1); weight
        of the threshold before.
    round_um : float
        SD of the smoothing of outlines.
    hull, hull_level : float
        Objects that fill less than this of their hull are filled up where the gap's mean lies this far between outside
        and inside.
    contrast : float
        Least difference of inside and surroundings.
    area_um2 : tuple of 2 floats
    """

    blur_um: float = 0.25
    local: float = 0.75
    wide_um: float = 11.0
    otsu: float = 0.6
    otsu_range: tuple[float, float] = (0.75, 1.6)
    above: float = 1.1
    lowest: float = 0.75
    highest: float = 2.0
    nest: float = 0.65
    nest_um: float = 7.0
    close_um: float = 0.5
    hole_um2: float = 15.0
    cap_um: float = 3.8
    seed_um: float = 0.9
    apart_um: float = 2.1
    mix: float = 2.5
    fine_um: float = 1.2
    band_um: float = 4.0
    seam: float = 0.95
    valley: float = 0.97
    joined_um2: float = 300.0
    grow_um: float = 2.0
    edge: float = 0.45
    pull: float = 0.4
    round_um: float = 0.6
    hull: float = 0.92
    hull_level: float = 0.3
    contrast: float = 0.12
    area_um2: tuple[float, float] = (9.0, 600.0)


RULES = NucleusRules()


def fit_image_stain(image: NDArray[np.uint8], *, um_per_px: float, item: str = "image") -> Stain:
    """Estimate the stains of one image that belongs to no tiled slide.

    Parameters
    ----------
    image : ndarray, (H, W, 3), uint8
    um_per_px : float
    item : str
        For messages.

    Returns
    -------
    Stain

    Raises
    ------
    StainError
        When the image is nearly white, or shows only one stain.
    """
    background, _ = estimate_background(image)
    stain = fit_macenko(image[::2, ::2].reshape(-1, 3), background, item=item)
    return refine_nuclear_level(stain, [image], um_per_px=um_per_px)


def segment_nuclei(
    tile: NDArray[np.uint8], stain: Stain | None, *, um_per_px: float, rules: NucleusRules = RULES
) -> Labels:
    """Find the nuclei of an image.

    Parameters
    ----------
    tile : ndarray, (H, W, 3), uint8
        RGB.
    stain : Stain or None
        Of the slide; None is refused, never replaced by a textbook's stains.
    um_per_px : float
        At most 1.
    rules : NucleusRules

    Returns
    -------
    ndarray, (H, W), int32
        Nuclei from 1 in raster order of their first pixel; 0 is everything else.

    Raises
    ------
    FeatureError
        When the image is no RGB image of bytes, too coarse, or its stains are unknown.
    """
    return segment_planes(separate_checked(tile, stain, um_per_px=um_per_px), rules=rules)


def separate_checked(tile: NDArray[np.uint8], stain: Stain | None, *, um_per_px: float) -> Planes:
    """Separate the stains of an image, or refuse it.

    Parameters
    ----------
    tile : ndarray, (H, W, 3), uint8
    stain : Stain or None
    um_per_px : float

    Returns
    -------
    Planes

    Raises
    ------
    FeatureError
    """
    if tile.ndim != 3 or tile.shape[2] != 3 or tile.dtype != np.uint8:
        msg = (
            f"FeatureError: nuclei are asked for in an array of shape {tile.shape} and type {tile.dtype}, expected "
            "(H, W, 3) and uint8. Give an RGB image, without its alpha channel."
        )
        raise FeatureError(msg)
    if not 0 < um_per_px <= COARSEST_UM:
        msg = (
            f"FeatureError: nuclei are asked for at {um_per_px:g} um per px, expected more than 0 and at most "
            f"{COARSEST_UM:g}. Tile at a finer resolution (mpp 0.5 is usual)."
        )
        raise FeatureError(msg)
    if stain is None:
        msg = (
            "FeatureError: nuclei are asked for without the slide's stains, expected its vectors (stain_reason in the "
            "tile file says why there are none). Leave the slide out; no textbook stain is put in their place."
        )
        raise FeatureError(msg)
    return separate_tile(tile, stain, um_per_px=um_per_px)


def segment_planes(planes: Planes, *, rules: NucleusRules = RULES) -> Labels:
    """Find the nuclei of a tile whose stains are separated.

    Parameters
    ----------
    planes : Planes
    rules : NucleusRules

    Returns
    -------
    ndarray, (H, W), int32
    """
    from skimage.segmentation import watershed

    h = smooth(planes.h, rules.blur_um, planes.um)
    level = find_level(h, planes, rules)
    nuclear = find_nuclear_area(h, level, planes, rules)
    ridge, seeds, n_seeds = place_seeds(h, nuclear, planes, rules)
    if n_seeds == 0:
        return np.zeros(h.shape, np.int32)
    reach = cv2.dilate(nuclear, disc(rules.grow_um / planes.um)) > 0
    basins = join_halves(watershed(-ridge, seeds, mask=reach), h, nuclear, um=planes.um, rules=rules)
    return _select_objects(_draw_edges(basins, h, nuclear, level, planes, rules), basins, h, planes, rules)


def find_split(h: Plane, planes: Planes, rules: NucleusRules = RULES) -> float:
    """Return the tile's threshold: the slide's, moved towards the one that parts this tile into two classes best.

    Parameters
    ----------
    h : ndarray, (H, W), float32
        Smoothed haematoxylin, typical nuclei.
    planes : Planes
    rules : NucleusRules

    Returns
    -------
    float
        The slide's own where fewer than 500 pixels are stained.
    """
    stained = h[planes.stained]
    if len(stained) < MIN_PIXELS:
        return planes.split
    levels = np.clip(stained * LEVELS, 0, 255).astype(np.uint8).reshape(-1, 1)
    otsu = (cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] + 0.5) / LEVELS
    moved = (otsu / planes.split) ** rules.otsu
    return float(planes.split * np.clip(moved, *rules.otsu_range))


def find_level(h: Plane, planes: Planes, rules: NucleusRules = RULES) -> Plane:
    """Return the threshold at every pixel: between the tile's own and what the surroundings suggest.

    Parameters
    ----------
    h : ndarray, (H, W), float32
        Smoothed haematoxylin, typical nuclei.
    planes : Planes
    rules : NucleusRules

    Returns
    -------
    ndarray, (H, W), float32
    """
    split = find_split(h, planes, rules)
    around = smooth_wide(np.minimum(h, 1.5), rules.wide_um, planes.um)
    level = (1 - rules.local) * split + rules.local * rules.above * around
    return np.clip(level, rules.lowest * split, rules.highest * split).astype(np.float32)


def find_nuclear_area(h: Plane, level: Plane, planes: Planes, rules: NucleusRules = RULES) -> NDArray[np.uint8]:
    """Part nuclei from the rest and close small gaps and holes.

    Parameters
    ----------
    h, level : ndarray, (H, W), float32
        Smoothed haematoxylin and its threshold.
    planes : Planes
    rules : NucleusRules

    Returns
    -------
    ndarray, (H, W), uint8
        1 inside nuclei.
    """
    stained = ((h > level) & planes.stained).astype(np.float32)
    weight = smooth_wide(stained, rules.nest_um, planes.um)
    typical = smooth_wide(stained * np.minimum(h, 2.0), rules.nest_um, planes.um) / np.maximum(weight, 1e-3)
    found = ((stained > 0) & (h > rules.nest * typical)).astype(np.uint8)
    closed = cv2.morphologyEx(found, cv2.MORPH_CLOSE, disc(rules.close_um / planes.um))
    return _fill_holes(closed, planes, rules.hole_um2)


def _fill_holes(mask: NDArray[np.uint8], planes: Planes, largest_um2: float) -> NDArray[np.uint8]:
    """Fill small holes that are stained; white ones are lumina."""
    count, holes, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA]
    empty = np.bincount(holes[~planes.stained], minlength=count)
    filled = (area * planes.um**2 < largest_um2) & (empty < (1 - STAINED_SHARE) * area)
    filled[0] = False
    return np.asarray(mask | filled[holes], np.uint8)


def place_seeds(
    h: Plane, nuclear: NDArray[np.uint8], planes: Planes, rules: NucleusRules
) -> tuple[Plane, NDArray[np.int32], int]:
    """Find one seed per nucleus: where depth below the edge and haematoxylin of nuclear scale peak together.

    Parameters
    ----------
    h : ndarray, (H, W), float32
    nuclear : ndarray, (H, W), uint8
    planes : Planes
    rules : NucleusRules

    Returns
    -------
    ridge : ndarray, (H, W), float32
        um.
    seeds : ndarray, (H, W), int32
    n_seeds : int
    """
    um = planes.um
    depth = np.minimum(cv2.distanceTransform(nuclear, cv2.DIST_L2, 5) * np.float32(um), np.float32(rules.cap_um))
    bounded = np.minimum(h, np.float32(2.5))
    band = smooth(bounded, rules.fine_um, um) - smooth_wide(bounded, rules.band_um, um)
    ridge = smooth(depth, rules.seed_um, um) + np.float32(rules.mix) * band
    peak = (ridge >= cv2.dilate(ridge, disc(rules.apart_um / um))) & (depth > 1.0)
    count, seeds = cv2.connectedComponents(peak.astype(np.uint8), connectivity=8)
    return ridge, np.asarray(seeds, np.int32), count - 1


def join_halves(
    basins: NDArray[Any], h: Plane, nuclear: NDArray[np.uint8], *, um: float, rules: NucleusRules = RULES
) -> Labels:
    """Join parts whose common seam is as long as they are wide and shows no pale line: halves of one nucleus.

    Parameters
    ----------
    basins : ndarray, (H, W), int
    h : ndarray, (H, W), float32
    nuclear : ndarray, (H, W), uint8
    um : float
        um per px.
    rules : NucleusRules

    Returns
    -------
    ndarray, (H, W), int32
        Numbered anew, without gaps.
    """
    n = int(basins.max()) + 1
    inside = np.where(nuclear > 0, basins, 0).ravel()
    pixels = np.bincount(inside, minlength=n).astype(np.float64)
    soft = smooth(h, rules.fine_um, um)  # near an edge as pale along the seam as elsewhere
    level = np.bincount(inside, weights=soft.ravel(), minlength=n) / np.maximum(pixels, 1)
    pairs, counts, seam_level = _measure_seams(inside.reshape(h.shape), soft, n)
    dark = seam_level >= rules.valley * level[pairs].min(axis=1)
    seams = {(int(a), int(b)): float(c) for (a, b), c in zip(pairs[dark], counts[dark] * um * PIXEL_EDGES, strict=True)}
    parent = _join_longest(seams, pixels * um**2, rules)
    _, numbers = np.unique(parent, return_inverse=True)
    return np.asarray(numbers, np.int32)[basins]


def _measure_seams(
    labels: NDArray[Any], soft: Plane, n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return touching pairs (k, 2), the pixel edges between them, and the mean haematoxylin along them."""
    keys, levels = [], []
    for first, second in (((slice(None), slice(1, None)), (slice(None), slice(None, -1))), (np.s_[1:], np.s_[:-1])):
        a, b = labels[first], labels[second]
        touch = (a != b) & (a > 0) & (b > 0)
        low, high = np.minimum(a[touch], b[touch]), np.maximum(a[touch], b[touch])
        keys.append(low.astype(np.int64) * n + high)
        levels.append((soft[first][touch] + soft[second][touch]) / 2)
    key, place, counts = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    mean = np.bincount(place, weights=np.concatenate(levels), minlength=len(key)) / np.maximum(counts, 1)
    return np.column_stack([key // n, key % n]), counts, mean


def _join_longest(seams: dict[tuple[int, int], float], area: NDArray[np.float64], rules: NucleusRules) -> list[int]:
    """Return whom each part belongs to, joining the relatively longest seams first, until none is long enough."""
    parent = list(range(len(area)))
    while True:
        chosen = [
            (length / np.sqrt(4 / np.pi * min(area[a], area[b])), a, b)
            for (a, b), length in seams.items()
            if area[a] + area[b] <= rules.joined_um2
        ]
        taken: set[int] = set()
        for share, a, b in sorted(chosen, reverse=True):
            if share >= rules.seam and a not in taken and b not in taken:
                taken |= {a, b}
                parent = [a if owner == b else owner for owner in parent]
                area[a] += area[b]
        if not taken:
            return parent
        seams = _relabel_seams(seams, parent)


def _relabel_seams(seams: dict[tuple[int, int], float], parent: list[int]) -> dict[tuple[int, int], float]:
    added: dict[tuple[int, int], float] = {}
    for (a, b), length in seams.items():
        low, high = sorted((parent[a], parent[b]))
        if low != high:
            added[low, high] = added.get((low, high), 0.0) + length
    return added


def _draw_edges(
    basins: Labels, h: Plane, nuclear: NDArray[np.uint8], level: Plane, planes: Planes, rules: NucleusRules
) -> NDArray[np.uint8]:
    """Draw each nucleus's own edge: between the mean of its inside and the mean of the rest of its basin."""
    within, outside = _measure_sides(basins, (nuclear > 0) & (basins > 0), h, int(basins.max()) + 1)
    own = (rules.edge * within + (1 - rules.edge) * outside).astype(np.float32)
    inside = (h > (1 - rules.pull) * own[basins] + rules.pull * level) & (basins > 0)
    filled = _fill_holes((inside & planes.stained).astype(np.uint8), planes, rules.hole_um2)
    return np.asarray(smooth(filled.astype(np.float32), rules.round_um, planes.um) > 0.5, np.uint8)


def _measure_sides(basins: Labels, inside: Bools, h: Plane, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean haematoxylin inside and outside, per basin."""
    twice = (2 * basins + inside).ravel()
    counts = np.bincount(twice, minlength=2 * n)
    means = np.bincount(twice, weights=h.ravel(), minlength=2 * n) / np.maximum(counts, 1)
    outside, within = means[0 : 2 * n : 2], means[1 : 2 * n : 2]
    return within, outside


def _select_objects(mask: NDArray[np.uint8], basins: Labels, h: Plane, planes: Planes, rules: NucleusRules) -> Labels:
    """Keep the largest piece of each basin, fill its gaps, and drop what is too small, too large or too pale."""
    from skimage.measure import label

    pieces = np.asarray(label(np.where(mask > 0, basins, 0), connectivity=1), np.int32)
    n = int(pieces.max()) + 1
    pixels = np.bincount(pieces.ravel(), minlength=n)
    owner = np.zeros(n, np.int64)
    owner[pieces.ravel()] = basins.ravel()
    largest = np.zeros(int(basins.max()) + 1, np.int64)
    order = np.argsort(pixels[1:], kind="stable") + 1
    largest[owner[order]] = order
    whole = pieces == largest[basins]
    within, outside = _measure_sides(basins, whole, h, len(largest))
    alone = np.bincount(basins.ravel(), minlength=len(largest))[owner] - pixels < 0.05 * pixels
    area = pixels * planes.um**2
    kept = (largest[owner] == np.arange(n)) & (area >= rules.area_um2[0]) & (area <= rules.area_um2[1])
    kept &= ((within - outside)[owner] > rules.contrast) | alone
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)[pieces]
    levels = (outside + rules.hull_level * (within - outside))[owner][kept]
    return _fill_gaps(numbers, levels, h, planes.stained, rules)


def _fill_gaps(labels: Labels, levels: NDArray[np.float64], h: Plane, stained: Bools, rules: NucleusRules) -> Labels:
    """Fill objects up to their convex hull where the gap is stained as a pale nucleus is."""
    filled = labels.copy()
    for number, window, contour in iterate_contours(labels):
        hull = cv2.convexHull(contour)
        own = labels[window] == number
        drawn = cv2.fillConvexPoly(np.zeros(own.shape, np.uint8), hull, 1)
        share = own.sum() / max(1, int(drawn.sum()))
        if not HULL_LEAST < share < rules.hull:
            continue
        gap = (drawn > 0) & (filled[window] == 0) & stained[window]
        if gap.any() and h[window][gap].mean() > levels[number - 1]:
            filled[window][gap] = number
    return filled


def iterate_contours(labels: Labels) -> Iterator[tuple[int, tuple[slice, slice], NDArray[np.int32]]]:
    """Yield the outer contour of every object.

    Parameters
    ----------
    labels : ndarray, (H, W), int32
        Numbers without gaps.

    Yields
    ------
    number : int
    window : tuple of 2 slices
        Rows and columns of the object's box.
    contour : ndarray, (n, 1, 2), int32
        x, y of the border pixels within the box.
    """
    from scipy.ndimage import find_objects

    for number, window in enumerate(find_objects(labels), start=1):
        if window is not None:
            mask = (labels[window] == number).view(np.uint8)
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            yield number, window, np.asarray(max(contours, key=len), np.int32)
