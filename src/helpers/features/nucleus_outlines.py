"""Outlines of nuclei as shapes that are proposed, snapped to the nearest edge and judged; no trained weights.

*Proposed* are the ellipse of every dark piece at several thresholds, whole and shrunk, and circles where the slopes of
haematoxylin point together from all sides: a pale nucleus with a dark rim is no dark piece, but it is such a circle.
*Snapped*: along rays at right angles to the shape, the place where haematoxylin falls most, neighbouring rays at most
one place apart (dynamic programming), twice. *Judged*: how much it falls along the outline, how elliptic the outline
is, and whether what lies outside is background all round. A part of a nucleus has nucleus outside, and a clump has
notches: both score less than the nucleus, so the choice between them needs no rule for splitting or joining.

An ellipse is a row of six numbers: x, y (px), half axes (um, the longer first), angle (from x towards y), and fit: 1
where the piece fills the ellipse of its second moments, less where it is bent or notched.

References
----------
Matas et al. 2004, doi 10.1016/j.imavis.2004.02.006 (regions at all thresholds); Loy and Zelinsky 2003, doi
10.1109/TPAMI.2003.1217601 (votes along slopes); Amini et al. 1990, doi 10.1109/34.57681 (outlines by dynamic
programming).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.features.stain_texture import Bools, Plane, Planes, disc, smooth

Floats = NDArray[np.float64]
Ellipses = NDArray[np.float64]
GAP = 2
"""Places between the two sides of an edge."""
WORST = 0.2
"""Share of an outline's rays that are its worst part."""
FEWEST_SEEN = 0.35
"""Share of an outline's rays that must lie inside the image."""
DEPTHS = (0.35, 0.55, 0.75)
"""Where the inside of an outline is read, in shares of its radius."""
RINGS_UM = (0.8, 1.4)
"""Distance outside an outline where its surroundings are read."""
LARGEST_UM = 28.0
"""Diameter of a circle with the longest border that is still followed."""


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
    levels, shrink_um : tuple of float
        Thresholds at which pieces are taken, in units of the threshold, and by how much they are shrunk.
    fit_least : float
        Fit below which a piece is no proposal.
    circles_um, vote_share : tuple of float, float
        Radii of circles, and the share of a circumference that must point to its centre.
    slopes, vote_sd, vote_apart : tuple of 2 floats, float, float
        Slopes (per um) from which a pixel votes, and votes in full; smoothing and least distance of centres, in radii.
    cells_um, growths : tuples of 2 floats
        Of ellipses whose centres share a cell and whose areas differ by less than a factor, one is kept: before the
        first and before the second snap.
    rays, places : int
        Rays of an outline, and places on each.
    reach_um : tuple of 2 floats
        How far the first and the second snap move an outline.
    stiff : float
        Fall of haematoxylin that a step between neighbouring rays must gain.
    clear : float
        Fall that counts as a clear edge.
    fit, own_fit : tuple of 2 floats
        Fit of the proposal and of the outline from which a score counts, and counts in full.
    worst, shaded : float
        Weight of the outline's worst fifth, and of the share of its surroundings that is as dark as itself.
    contrast : float
        Difference of inside and surroundings from which a score counts in full.
    hollow : tuple of 2 floats
        What the palest fifth of the inside must lie above the palest quarter of the surroundings for a score to count,
        and to count in full: below, it is a lumen among nuclei.
    full_um2, small : float
        Area below which a score falls, and the power of its fall.
    larger : float
        Power of the area by which of two outlines the larger is preferred.
    score : float
        Least score of a nucleus.
    dark, dark_score : float
        Share of the inside above the threshold from which a lower score is enough, and that score: nuclei of a thick or
        blurred place have no clear edge.
    shared : float
        Share of an outline that better ones may already hold.
    grow_um : float
        How far outside the steepest place a nucleus ends.
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
    levels: tuple[float, ...] = (0.75, 0.94, 1.17, 1.46, 1.83, 2.29)
    shrink_um: tuple[float, ...] = (0.0, 1.2)
    fit_least: float = 0.8
    circles_um: tuple[float, ...] = (2.5, 4.0, 6.0)
    vote_share: float = 0.4
    slopes: tuple[float, float] = (0.05, 0.25)
    vote_sd: float = 0.2
    vote_apart: float = 0.35
    cells_um: tuple[float, float] = (1.6, 0.8)
    growths: tuple[float, float] = (1.3, 1.25)
    rays: int = 24
    places: int = 11
    reach_um: tuple[float, float] = (1.25, 1.0)
    stiff: float = 0.005
    clear: float = 0.3
    fit: tuple[float, float] = (0.75, 0.97)
    own_fit: tuple[float, float] = (0.85, 0.95)
    worst: float = 0.5
    shaded: float = 0.3
    contrast: float = 0.1
    hollow: tuple[float, float] = (-0.1, 0.2)
    full_um2: float = 18.0
    small: float = 1.0
    larger: float = 0.1
    score: float = 0.45
    dark: float = 0.8
    dark_score: float = 0.4
    shared: float = 0.25
    grow_um: float = 0.25
    area_um2: tuple[float, float] = (6.0, 600.0)


RULES = NucleusRules()


@dataclass(frozen=True)
class Outlines:
    """Outlines of one image, one row each.

    Attributes
    ----------
    x, y : ndarray, (n, rays), float32
        px; 0 is the centre of the first pixel.
    fall : ndarray, (n, rays), float32
        Haematoxylin just inside minus just outside.
    seen : ndarray, (n, rays), bool
        True where both sides lie inside the image.
    ellipses : ndarray, (n, 6), float64
        Of equal area moments as the outline; the fit is the outline's own.
    area_um2 : ndarray, (n,), float64
    """

    x: Plane
    y: Plane
    fall: Plane
    seen: Bools
    ellipses: Ellipses
    area_um2: Floats


def propose_ellipses(h: Plane, ratio: Plane, planes: Planes, rules: NucleusRules = RULES) -> Ellipses:
    """Propose where nuclei may be: many times more than there are.

    Parameters
    ----------
    h, ratio : ndarray, (H, W), float32
        Smoothed haematoxylin, and the same over its threshold.
    planes : Planes
    rules : NucleusRules

    Returns
    -------
    ndarray, (n, 6), float64
    """
    pieces = trace_pieces(ratio, planes.stained, um=planes.um, rules=rules)
    circles = find_circles(h, planes.stained, um=planes.um, rules=rules)
    return thin_out(np.concatenate([pieces, circles]), um=planes.um, cell_um=rules.cells_um[0], growth=rules.growths[0])


def trace_pieces(ratio: Plane, stained: Bools, *, um: float, rules: NucleusRules = RULES) -> Ellipses:
    """Fit an ellipse to every dark piece at every threshold, whole and shrunk, holes filled.

    Parameters
    ----------
    ratio : ndarray, (H, W), float32
        Haematoxylin over its threshold.
    stained : ndarray, (H, W), bool
    um : float
        um per px.
    rules : NucleusRules

    Returns
    -------
    ndarray, (n, 6), float64
        With areas within bounds and a fit of at least `fit_least`.
    """
    rows = []
    for level in rules.levels:
        mask = ((ratio > level) & stained).view(np.uint8)
        for shrink in rules.shrink_um:
            piece = mask if shrink == 0 else cv2.erode(mask, disc(shrink / um))
            lost = 0.0 if shrink == 0 else float(max(1, round(shrink / um))) * um
            shortest = max(5.0, 1.6 * np.pi * (np.sqrt(rules.area_um2[0] / np.pi) - lost) / um)
            contours, _ = cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            for contour in contours:
                if shortest <= len(contour) <= np.pi * LARGEST_UM / um:
                    m = cv2.moments(contour)
                    if m["m00"] >= 3:
                        rows.append((m["m10"], m["m01"], m["mu20"], m["mu02"], m["mu11"], m["m00"], lost))
    found = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return _fit_pieces(found, um, rules)


def _fit_pieces(rows: Floats, um: float, rules: NucleusRules) -> Ellipses:
    """Return the ellipses of moments, grown by what the pieces were shrunk, where size and fit are a nucleus's."""
    area, lost = rows[:, 5], rows[:, 6] + um / 2  # a contour runs through the centres of border pixels
    x, y, xx, yy, xy = (rows[:, :5] / area[:, None]).T
    long, short, angle, fit = _fit_ellipse(xx, yy, xy, area)
    long, short = long * um + lost, short * um + lost
    grown = np.pi * long * short
    kept = (fit > rules.fit_least) & (grown > rules.area_um2[0]) & (grown < rules.area_um2[1])
    return np.column_stack([x, y, long, short, angle, fit])[kept]


def _fit_ellipse(xx: Floats, yy: Floats, xy: Floats, area: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return half axes, angle and fit of the ellipses with these central second moments per area."""
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    long, short = (2 * np.sqrt(np.maximum(value, 1e-6)) for value in (middle + half, middle - half))
    return long, short, np.arctan2(2 * xy, xx - yy) / 2, area / (np.pi * long * short)


def find_circles(h: Plane, stained: Bools, *, um: float, rules: NucleusRules = RULES) -> Ellipses:
    """Find circles to whose centres the slopes of haematoxylin point from all sides.

    Parameters
    ----------
    h : ndarray, (H, W), float32
    stained : ndarray, (H, W), bool
    um : float
        um per px.
    rules : NucleusRules

    Returns
    -------
    ndarray, (n, 6), float64
        Fit is 1.
    """
    across, down = (cv2.Sobel(h, cv2.CV_32F, *order, ksize=3) / (8 * um) for order in ((1, 0), (0, 1)))
    slope = np.hypot(across, down)
    at = np.flatnonzero(slope > rules.slopes[0])
    y, x = np.divmod(at, h.shape[1])
    steep = slope.ravel()[at]
    towards = across.ravel()[at] / steep, down.ravel()[at] / steep
    weight = np.minimum(steep / rules.slopes[1], 1)
    found = []
    for radius in rules.circles_um:
        votes = _cast_votes(x + towards[0] * (radius / um), y + towards[1] * (radius / um), weight, h.shape)
        sd = max(0.5, rules.vote_sd * radius)
        share = smooth(votes, sd, um) * np.float32(sd**2 / (2 * radius * um))  # about 1 where a whole circle points
        peak = (share >= cv2.dilate(share, disc(rules.vote_apart * radius / um))) & (share > rules.vote_share)
        rows, columns = np.nonzero(peak & stained)
        shape = np.broadcast_to([radius, radius, 0.0, 1.0], (len(rows), 4))
        found.append(np.column_stack([columns, rows, shape]))
    return np.concatenate(found) if found else np.zeros((0, 6))


def _cast_votes(x: Plane, y: Plane, weight: Plane, shape: tuple[int, ...]) -> Plane:
    """Add up votes per pixel; those outside the image fall into a margin."""
    margin = 1 + int(np.ceil(max(0.0, -x.min(), -y.min(), x.max() - shape[1], y.max() - shape[0]))) if len(x) else 0
    height, width = shape[0] + 2 * margin, shape[1] + 2 * margin
    places = (np.rint(y) + margin) * width + (np.rint(x) + margin)
    votes = np.bincount(places.astype(np.int64), weights=weight, minlength=height * width).reshape(height, width)
    return np.ascontiguousarray(votes[margin : margin + shape[0], margin : margin + shape[1]], dtype=np.float32)


def thin_out(ellipses: Ellipses, *, um: float, cell_um: float, growth: float) -> Ellipses:
    """Keep one of several alike ellipses: the one that its piece fills best.

    Parameters
    ----------
    ellipses : ndarray, (n, 6)
    um : float
        um per px.
    cell_um, growth : float
        Edge of a cell of centres, and factor between classes of area.

    Returns
    -------
    ndarray, (m, 6)
    """
    best = ellipses[np.argsort(-ellipses[:, 5], kind="stable")]
    places = np.rint(best[:, :2] * (um / cell_um))
    sizes = np.rint(np.log(best[:, 2] * best[:, 3]) / np.log(growth))
    _, first = np.unique(np.column_stack([places, sizes]).astype(np.int64) @ _KEY, return_index=True)
    return best[first]


_KEY = np.array([1, 1 << 20, 1 << 40])


def snap_outlines(ellipses: Ellipses, h: Plane, *, um: float, reach_um: float, rules: NucleusRules = RULES) -> Outlines:
    """Move the outline of each ellipse to the steepest fall of haematoxylin nearby.

    Parameters
    ----------
    ellipses : ndarray, (n, 6)
    h : ndarray, (H, W), float32
    um : float
        um per px.
    reach_um : float
        How far it may move; at most three quarters of the shorter half axis.
    rules : NucleusRules

    Returns
    -------
    Outlines
    """
    ellipse = ellipses.astype(np.float32)
    points, normals = _lay_rays(ellipse, rules.rays)  # (2, rays, n), um from the centre
    half = np.minimum(np.float32(reach_um), 0.75 * np.maximum(ellipse[:, 3], 0.8))
    step = 2 * half / (rules.places - 1)
    places = np.arange(-GAP, rules.places + GAP, dtype=np.float32)[:, None] * step - half  # (places + 2 gaps, n)
    spread = points[:, :, None] + normals[:, :, None] * places  # (2, rays, places + 2 gaps, n)
    x, y = spread / np.float32(um) + ellipse.T[:2, None, None]
    fall = _measure_fall(read_plane(h, x.reshape(-1, len(half)), y.reshape(-1, len(half))).reshape(x.shape))
    path = walk_rays(fall, stiff=rules.stiff)  # (rays, n)
    chosen = np.take_along_axis(fall, path[:, None], axis=1)[:, 0]
    moved = np.asarray(path * step - half, dtype=np.float32)
    moved = np.asarray((np.roll(moved, 1, axis=0) + 2 * moved + np.roll(moved, -1, axis=0)) / 4, dtype=np.float32)
    x_px, y_px = ((points + normals * moved) / np.float32(um) + ellipse.T[:2, None]).transpose(0, 2, 1)
    seen = (x_px > 1) & (y_px > 1) & (x_px < h.shape[1] - 2) & (y_px < h.shape[0] - 2)
    shapes, area = measure_polygons(x_px.astype(np.float64) * um, y_px.astype(np.float64) * um)
    shapes[:, :2] /= um
    return Outlines(x_px, y_px, chosen.T, seen, shapes, area)


def _lay_rays(ellipse: Plane, rays: int) -> tuple[Plane, Plane]:
    """Return points on ellipses and the normals there, (2, rays, n), um from the centre."""
    turn = (np.arange(rays, dtype=np.float32) * np.float32(2 * np.pi / rays))[:, None]
    long, short = np.maximum(ellipse[:, 2], 1.0), np.maximum(ellipse[:, 3], 0.8)
    cos, sin = np.cos(ellipse[:, 4]), np.sin(ellipse[:, 4])
    point = np.stack([np.cos(turn) * long, np.sin(turn) * short])
    normal = np.stack([np.cos(turn) * short, np.sin(turn) * long])
    normal /= np.hypot(*normal)
    turned = (np.stack([cos * a[0] - sin * a[1], sin * a[0] + cos * a[1]]) for a in (point, normal))
    first, second = turned
    return first, second


def read_plane(plane: Plane, x: Plane, y: Plane) -> Plane:
    """Read an image at any places, between pixels linearly; outside, the nearest pixel counts.

    Parameters
    ----------
    plane : ndarray, (H, W), float32
    x, y : ndarray, (n, m), float32
        px.

    Returns
    -------
    ndarray, (n, m), float32
    """
    x, y = (np.ascontiguousarray(axis, dtype=np.float32) for axis in (x, y))
    return np.asarray(cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), dtype=np.float32)


def _measure_fall(values: Plane) -> Plane:
    """Return inside minus outside at every place of every ray, each side the mean of two places."""
    n = values.shape[1] - 2 * GAP
    inside = values[:, :n] + values[:, 1 : n + 1]
    outside = values[:, 2 * GAP :] + values[:, 2 * GAP - 1 : -1]
    return np.asarray((inside - outside) / 2, dtype=np.float32)


def walk_rays(fall: Plane, *, stiff: float) -> NDArray[np.int64]:
    """Choose one place on every ray so that the falls add up to most, neighbouring rays at most one place apart.

    Parameters
    ----------
    fall : ndarray, (rays, places, n), float32
    stiff : float
        Taken off for every step between neighbouring rays.

    Returns
    -------
    ndarray, (rays, n), int64
        The walk goes round once and a half and its middle round is kept, so that it closes.
    """
    rays, places, n = fall.shape
    turns, lead = rays + 2 * (rays // 4), rays // 4
    total = np.zeros((places, n), np.float32)
    steps = np.zeros((turns, places, n), np.int8)
    inner, outer = np.full_like(total, -np.inf), np.full_like(total, -np.inf)
    for turn in range(turns):
        np.subtract(total[:-1], np.float32(stiff), out=inner[1:])
        np.subtract(total[1:], np.float32(stiff), out=outer[:-1])
        moved = np.maximum(inner, outer)
        steps[turn] = np.where(total >= moved, 0, np.where(inner >= outer, -1, 1))
        total = np.maximum(total, moved) + fall[(turn - lead) % rays]
    place, path, every = total.argmax(axis=0), np.zeros((rays, n), np.int64), np.arange(n)
    for turn in range(turns - 1, lead - 1, -1):
        if turn < lead + rays:
            path[turn - lead] = place
        place = place + steps[turn][place, every]
    return path


def measure_polygons(x: Floats, y: Floats) -> tuple[Ellipses, Floats]:
    """Return the ellipses of equal moments of polygons, and their areas (Green's theorem).

    Parameters
    ----------
    x, y : ndarray, (n, corners), float64

    Returns
    -------
    ellipses : ndarray, (n, 6)
        All in the unit of x and y.
    area : ndarray, (n,)
    """
    middle = x.mean(axis=1, keepdims=True), y.mean(axis=1, keepdims=True)
    x, y = x - middle[0], y - middle[1]
    x2, y2 = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    cross = x * y2 - x2 * y
    area = cross.sum(axis=1) / 2
    safe = np.where(np.abs(area) < 1e-9, 1e-9, area)
    at_x, at_y = (((a + b) * cross).sum(axis=1) / (6 * safe) for a, b in ((x, x2), (y, y2)))
    xx, yy = (((a * a + a * b + b * b) * cross).sum(axis=1) / (12 * safe) for a, b in ((x, x2), (y, y2)))
    xy = ((x * y2 + 2 * x * y + 2 * x2 * y2 + x2 * y) * cross).sum(axis=1) / (24 * safe)
    found = _fit_ellipse(xx - at_x**2, yy - at_y**2, xy - at_x * at_y, np.abs(area))
    return np.column_stack([at_x + middle[0][:, 0], at_y + middle[1][:, 0], *found]), np.abs(area)


def settle_outlines(ellipses: Ellipses, h: Plane, *, um: float, rules: NucleusRules = RULES) -> tuple[Outlines, Floats]:
    """Snap twice, the second time from where the first ended.

    Parameters
    ----------
    ellipses : ndarray, (n, 6)
        Proposals.
    h : ndarray, (H, W), float32
    um : float
        um per px.
    rules : NucleusRules

    Returns
    -------
    outlines : Outlines
    fit : ndarray, (m,)
        Of the proposals that they came from.
    """
    first = snap_outlines(ellipses, h, um=um, reach_um=rules.reach_um[0], rules=rules)
    moved = np.column_stack([first.ellipses[:, :5], ellipses[:, 5]])
    kept = thin_out(moved, um=um, cell_um=rules.cells_um[1], growth=rules.growths[1])
    return snap_outlines(kept, h, um=um, reach_um=rules.reach_um[1], rules=rules), kept[:, 5]


def judge_outlines(outlines: Outlines, fit: Floats, h: Plane, *, um: float, rules: NucleusRules = RULES) -> Floats:
    """Score how much each outline looks like a nucleus's.

    Parameters
    ----------
    outlines : Outlines
    fit : ndarray, (n,)
        Of their proposals.
    h : ndarray, (H, W), float32
    um : float
        um per px.
    rules : NucleusRules

    Returns
    -------
    ndarray, (n,)
        0 for what cannot be one; about 1 for a dark ellipse with a clear edge on plain ground.
    """
    seen, fall = outlines.seen, outlines.fall / np.float32(rules.clear)
    count = np.maximum(seen.sum(axis=1), 1)
    edge = (np.clip(fall, 0, 1) * seen).sum(axis=1) / count
    worst = np.sort(np.where(seen, fall, np.inf), axis=1)[:, int(WORST * fall.shape[1])]
    worst = np.clip(np.where(np.isfinite(worst), worst, 0), -1, 1)
    contrast, shaded, depth = measure_surroundings(outlines, h, um=um)
    score = edge * (1 + rules.worst * worst) * (1 - rules.shaded * shaded)
    score *= np.clip(contrast / rules.contrast, 0, 1) * _rise(depth, rules.hollow)
    score *= _rise(fit, rules.fit) * _rise(outlines.ellipses[:, 5], rules.own_fit)
    score *= np.clip(outlines.area_um2 / rules.full_um2, 0, 1) ** rules.small
    low, high = rules.area_um2
    possible = (outlines.area_um2 > low) & (outlines.area_um2 < high) & (seen.mean(axis=1) >= FEWEST_SEEN)
    return np.where(possible, score, 0.0)


def _rise(values: Floats, between: tuple[float, float]) -> Floats:
    return np.clip((values - between[0]) / (between[1] - between[0]), 0, 1)


def measure_surroundings(outlines: Outlines, h: Plane, *, um: float) -> tuple[Floats, Floats, Floats]:
    """Compare the inside of each outline with what surrounds it.

    Parameters
    ----------
    outlines : Outlines
    h : ndarray, (H, W), float32
    um : float
        um per px.

    Returns
    -------
    contrast : ndarray, (n,)
        Mean haematoxylin inside minus that of the ring outside.
    shaded : ndarray, (n,)
        Share of the ring that is nearer to the inside than to the ring's palest quarter.
    depth : ndarray, (n,)
        Palest fifth of the inside minus the ring's palest quarter.
    """
    x, y, dx, dy = _split_rays(outlines)
    radius = np.maximum(np.hypot(dx, dy), np.float32(1e-3))
    within = _read_inside(outlines, h)
    inside = np.average([part.mean(axis=1) for part in within], axis=0, weights=DEPTHS)
    far = [np.asarray(1 + reach / um / radius, dtype=np.float32) for reach in RINGS_UM]
    ring = np.mean([read_plane(h, x + dx * k, y + dy * k) for k in far], axis=0)
    count = np.maximum(outlines.seen.sum(axis=1), 1)
    contrast = inside - (ring * outlines.seen).sum(axis=1) / count
    ordered = np.sort(np.where(outlines.seen, ring, np.inf), axis=1)
    pale = ordered[np.arange(len(count)), np.minimum(count // 4, ring.shape[1] - 1)]
    pale = np.where(np.isfinite(pale), pale, 0.0)
    border = pale + np.maximum(inside - pale, 0.05) / 2
    shaded = ((ring > border[:, None]) & outlines.seen).sum(axis=1) / count
    palest = np.quantile(np.concatenate(within[1:], axis=1).astype(np.float64), WORST, axis=1)
    return contrast, shaded, palest - pale


def _split_rays(outlines: Outlines) -> tuple[Plane, Plane, Plane, Plane]:
    """Return x, y of the centres, (n, 1), and from there to the outlines, (n, rays); px."""
    x, y = (outlines.ellipses[:, axis : axis + 1].astype(np.float32) for axis in (0, 1))
    return x, y, outlines.x - x, outlines.y - y


def _read_inside(outlines: Outlines, plane: Plane) -> list[Plane]:
    """Read a plane inside each outline, (n, rays) at each depth."""
    x, y, dx, dy = _split_rays(outlines)
    return [read_plane(plane, x + dx * np.float32(k), y + dy * np.float32(k)) for k in DEPTHS]


def accept_outlines(outlines: Outlines, scores: Floats, ratio: Plane, rules: NucleusRules = RULES) -> Bools:
    """Decide which outlines may be nuclei.

    Parameters
    ----------
    outlines : Outlines
    scores : ndarray, (n,)
    ratio : ndarray, (H, W), float32
        Haematoxylin over its threshold.
    rules : NucleusRules

    Returns
    -------
    ndarray, (n,), bool
        Those with enough of a score, for which less is enough where the inside is dark all over.
    """
    share = np.mean([(part > 1).mean(axis=1) for part in _read_inside(outlines, ratio)], axis=0)
    return (scores > rules.score) | ((share >= rules.dark) & (scores > rules.dark_score))
