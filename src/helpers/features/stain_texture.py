"""`stain_texture`: a tile as named numbers a pathologist would recognise, without any training.

Stains are separated with the slide's own vectors, haematoxylin is in units of the slide's typical nucleus, and every
length is in um, so the numbers mean the same on another scanner and after another staining. What is measured:

- *amount*: stained and empty area, mean and quantiles of both stains;
- *nuclei*: number per mm2 of stained area, radius, spread of the radius, darkness and crowding, from the peaks of the
  distance to the nuclear edge (no watershed: touching nuclei still count one by one);
- *chromatin*: contrast inside large nuclei at two grain sizes, bright and dark tails;
- *figures*: compact, very dark objects, sorted by what surrounds them: a cleared halo (mitosis-like), a pink one
  (apoptosis-like), or neither (lymphocyte-like);
- *architecture*: lumina inside cellular areas, empty vacuoles elsewhere, clustering of nuclei;
- *texture*: energy of both stains in bands of scale, and variograms, the scale-free relatives of GLCM contrast.

Thresholds are fractions of the slide's typical nucleus and were set by eye on phantom slides of other seeds than the
book's, and on public images. A descriptor, not a diagnosis: 'mitosis-like' is an object of that look.

References
----------
Ruifrok and Johnston 2001 (colour deconvolution); Haralick 1973, doi 10.1109/TSMC.1973.4309314 (texture); Elston and
Ellis 1991, doi 10.1111/j.1365-2559.1991.tb00229.x (what a grade counts).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.slides.stain import Stain, compute_od

VERSION = "1"
Plane = NDArray[np.float32]
Bools = NDArray[np.bool_]

PRESMOOTH_UM = 0.5
"""Every tile is brought to about this sharpness first, so that a scanner's own sharpness matters less."""
STAINED = 0.12
"""Mean density above which a pixel is stained."""
LARGE_RADIUS_UM = 2.6
"""Inscribed radius above which a nucleus counts as large (epithelial)."""
DARK = 1.2
"""Haematoxylin at the edge of a dark figure, in units of the slide's typical nucleus."""
DARKEST = 1.55
"""Haematoxylin that a dark figure reaches somewhere."""
FIGURE_UM2 = (6.0, 50.0)
"""Area of a dark figure."""
RINGS_UM = (1.0, 2.5, 4.0)
"""Edges of the two rings around a figure."""
WIDE_UM = 8.0
SHRINK_NUCLEI = 30.0
"""Nuclei added to the denominator of a rate, so that a tile with few nuclei says little."""
QUANTILES = (5, 25, 50, 75, 95)
BANDS_UM = ((0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0), (8.0, 16.0))
"""Bands of scale: difference of Gaussians of these SDs."""
LAGS_UM = (1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Planes:
    """A tile, stain by stain.

    Attributes
    ----------
    h, e : ndarray, (H, W), float32
        Haematoxylin in units of the slide's typical nucleus; eosin in units of the slide's 99th percentile.
    stained : ndarray, (H, W), bool
    split : float
        Nuclear threshold, in units of `h`.
    um : float
        um per px.
    """

    h: Plane
    e: Plane
    stained: Bools
    split: float
    um: float

    @property
    def area_mm2(self) -> float:
        """Stained area, mm2, at least a quarter of the tile."""
        return max(float(self.stained.sum()), 0.25 * self.stained.size) * self.um**2 / 1e6


def describe_tile(tile: NDArray[np.uint8], stain: Stain, *, um_per_px: float) -> NDArray[np.float32]:
    """Describe one tile.

    Parameters
    ----------
    tile : ndarray, (H, W, 3), uint8
    stain : Stain
        Of the slide.
    um_per_px : float

    Returns
    -------
    ndarray, (d,), float32
        In the order of `COLUMNS`; finite also for an empty tile.
    """
    return np.array(list(measure_tile(tile, stain, um_per_px=um_per_px).values()), dtype=np.float32)


def measure_tile(tile: NDArray[np.uint8], stain: Stain, *, um_per_px: float) -> dict[str, float]:
    """Describe one tile by name.

    Parameters
    ----------
    tile : ndarray, (H, W, 3), uint8
    stain : Stain
    um_per_px : float

    Returns
    -------
    dict of str to float
    """
    planes = separate_tile(tile, stain, um_per_px=um_per_px)
    nuclear = (planes.h > planes.split) & planes.stained
    depth = cv2.distanceTransform(nuclear.view(np.uint8), cv2.DIST_L2, 5) * np.float32(um_per_px)
    nuclei = find_nuclei(planes, depth)
    return {
        **measure_amount(planes, nuclear),
        **measure_nuclei(nuclei, planes),
        **measure_chromatin(planes, depth),
        **measure_figures(planes, int(nuclei.large.sum())),
        **measure_architecture(planes, nuclear, depth),
        **measure_texture(planes),
    }


def separate_tile(tile: NDArray[np.uint8], stain: Stain, *, um_per_px: float) -> Planes:
    """Separate the stains of a tile and bring them to the slide's own units.

    Parameters
    ----------
    tile : ndarray, (H, W, 3), uint8
    stain : Stain
    um_per_px : float

    Returns
    -------
    Planes
    """
    od = smooth(compute_od(tile, stain.background), PRESMOOTH_UM, um_per_px)
    density = cv2.transform(od, np.full((1, 3), 1 / 3, np.float32))
    scale = np.array([1 / max(stain.nuclear_h, 1e-3), 1 / max(stain.scale_e, 1e-3)], np.float32)
    mixed = cv2.transform(od, np.ascontiguousarray((stain.unmixing * scale).T))
    h, e = cv2.split(np.maximum(mixed, 0))
    return Planes(
        np.asarray(h), np.asarray(e), density > STAINED, stain.split_h / max(stain.nuclear_h, 1e-3), um_per_px
    )


def smooth(image: Plane, sd_um: float, um_per_px: float) -> Plane:
    """Blur with a Gaussian whose SD is in um.

    Parameters
    ----------
    image : ndarray, (H, W) or (H, W, C), float32
    sd_um : float
    um_per_px : float

    Returns
    -------
    ndarray
    """
    sd = sd_um / um_per_px
    edge = 2 * int(np.ceil(2.5 * sd)) + 1
    return np.asarray(cv2.GaussianBlur(image, (edge, edge), sd, borderType=cv2.BORDER_REFLECT), dtype=np.float32)


def smooth_wide(image: Plane, sd_um: float, um_per_px: float) -> Plane:
    """Blur widely, at a quarter of the resolution where the SD allows.

    Parameters
    ----------
    image : ndarray, (H, W), float32
    sd_um : float
    um_per_px : float

    Returns
    -------
    ndarray, (H, W), float32
    """
    step = 4 if sd_um / um_per_px > 6 else 1
    if step == 1:
        return smooth(image, sd_um, um_per_px)
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // step), max(1, height // step)), interpolation=cv2.INTER_AREA)
    blurred = smooth(np.asarray(small, np.float32), sd_um, um_per_px * step)
    return np.asarray(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def measure_amount(planes: Planes, nuclear: Bools) -> dict[str, float]:
    """Stained area, nuclear area, and the distribution of both stains over the stained area."""
    found = {
        "stained_fraction": float(planes.stained.mean()),
        "nuclear_fraction": float(nuclear.sum()) / max(1.0, float(planes.stained.sum())),
    }
    for name, plane in (("h", planes.h), ("e", planes.e)):
        values = find_quantiles(plane, planes.stained, top=3.0)
        found |= {f"{name}_q{q:02d}": value for q, value in zip(QUANTILES, values, strict=True)}
        mean, sd = cv2.meanStdDev(plane, mask=planes.stained.view(np.uint8))
        found |= {f"{name}_mean": float(mean[0, 0]), f"{name}_sd": float(sd[0, 0])}
    return found


def find_quantiles(plane: Plane, mask: Bools, *, top: float, n_bins: int = 256) -> NDArray[np.float64]:
    """Read quantiles off a histogram, which is many times faster than sorting.

    Parameters
    ----------
    plane : ndarray, (H, W), float32
    mask : ndarray, (H, W), bool
    top : float
        Values above count as this.
    n_bins : int

    Returns
    -------
    ndarray, (5,)
        At `QUANTILES`; 0 where the mask is empty.
    """
    counts = cv2.calcHist([np.minimum(plane, top * 0.9999)], [0], mask.view(np.uint8), [n_bins], [0, top]).ravel()
    total = counts.sum()
    if total == 0:
        return np.zeros(len(QUANTILES))
    return np.interp(np.array(QUANTILES) / 100, np.cumsum(counts) / total, (np.arange(n_bins) + 0.5) / n_bins * top)


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of a tile, one row each.

    Attributes
    ----------
    radius_um : ndarray, (n,)
        Of the largest inscribed circle.
    darkness : ndarray, (n,)
        Mean haematoxylin around the centre, in typical nuclei.
    crowding : ndarray, (n,)
        Share of nuclear area within about 10 um.
    """

    radius_um: Plane
    darkness: Plane
    crowding: Plane

    @property
    def large(self) -> Bools:
        """Nuclei of epithelial size."""
        return self.radius_um >= LARGE_RADIUS_UM


def find_nuclei(planes: Planes, depth: Plane) -> Nuclei:
    """Find nuclei as peaks of the distance to the nuclear edge.

    Parameters
    ----------
    planes : Planes
    depth : ndarray, (H, W), float32
        Distance to the nuclear edge, um.

    Returns
    -------
    Nuclei
    """
    ridge = smooth(depth, 0.75, planes.um)
    peak = (ridge >= cv2.dilate(ridge, disc(2.0 / planes.um))) & (depth > 1.0)
    rows, columns = np.nonzero(peak)
    local = smooth(planes.h, 1.0, planes.um)
    cover = smooth_wide((depth > 0).astype(np.float32), 10.0, planes.um)
    return Nuclei(depth[rows, columns], local[rows, columns], cover[rows, columns])


@lru_cache(maxsize=64)
def disc(radius_px: float) -> Any:
    """Return a round structuring element.

    Parameters
    ----------
    radius_px : float

    Returns
    -------
    ndarray, uint8
    """
    edge = 2 * max(1, round(radius_px)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (edge, edge))


def measure_nuclei(nuclei: Nuclei, planes: Planes) -> dict[str, float]:
    """Count nuclei and summarise their size, darkness and crowding."""
    large = nuclei.large
    small_dark = ~large & (nuclei.darkness > 1.3) & (nuclei.radius_um > 1.6)
    found = {
        "nuclei_per_mm2": len(large) / planes.area_mm2,
        "large_nuclei_per_mm2": float(large.sum()) / planes.area_mm2,
        "small_dark_nuclei_per_mm2": float(small_dark.sum()) / planes.area_mm2,
        "very_large_nuclei_per_mm2": float((nuclei.radius_um > 4.0).sum()) / planes.area_mm2,
        "large_nuclei_share": float(large.mean()) if len(large) else 0.0,
    }
    for name, values in (
        ("radius_um", nuclei.radius_um),
        ("darkness", nuclei.darkness),
        ("crowding", nuclei.crowding),
    ):
        found |= _summarise(f"large_nuclei_{name}", values[large])
    return found


def _summarise(name: str, values: Plane) -> dict[str, float]:
    if len(values) < 3:
        return {f"{name}_mean": 0.0, f"{name}_sd": 0.0, f"{name}_q90": 0.0}
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_sd": float(values.std()),
        f"{name}_q90": float(np.quantile(values, 0.9)),
    }


def measure_chromatin(planes: Planes, depth: Plane) -> dict[str, float]:
    """Contrast inside large nuclei: spread of haematoxylin in two grain sizes, and its tails."""
    core = depth > LARGE_RADIUS_UM - 0.8
    inside = cv2.dilate(core.view(np.uint8), disc(1.0 / planes.um)) > 0
    inside &= (depth > 0.9) & (smooth(planes.h, 1.5, planes.um) < DARK)
    n_inside = int(inside.sum())
    found = {"chromatin_area_fraction": n_inside / inside.size}
    for name, band in zip(("fine", "coarse"), separate_grain(planes), strict=True):
        values = band[inside] if n_inside > 50 else np.zeros(1, np.float32)
        spread = float(values.std())
        found |= {
            f"chromatin_{name}_sd": spread,
            f"chromatin_{name}_skew": float(((values - values.mean()) ** 3).mean()) / max(spread, 1e-3) ** 3,
            f"chromatin_{name}_spots": float((values > 0.25).mean()),
            f"chromatin_{name}_clearings": float((values < -0.15).mean()),
        }
    return found


def separate_grain(planes: Planes) -> tuple[Plane, Plane]:
    """Return haematoxylin at two grain sizes of chromatin: below about 1 um, and between about 1 and 2 um.

    Parameters
    ----------
    planes : Planes

    Returns
    -------
    fine, coarse : ndarray, (H, W), float32
        Differences from the surroundings, in typical nuclei.
    """
    fine = planes.h - smooth(planes.h, 1.0, planes.um)
    return fine, smooth(planes.h, 0.7, planes.um) - smooth(planes.h, 1.8, planes.um)


@dataclass(frozen=True)
class Figures:
    """Dark compact objects of a tile and what surrounds them, one row each.

    Attributes
    ----------
    darkness : ndarray, (n,)
        Mean haematoxylin, in typical nuclei.
    elongation : ndarray, (n,)
        Ratio of the axes of the ellipse of equal moments.
    near_h, near_e : ndarray, (n,)
        Both stains 1 to 2.5 um outside the edge.
    far_h : ndarray, (n,)
        Haematoxylin 2.5 to 4 um outside.
    wide_h : ndarray, (n,)
        Haematoxylin within about 8 um: high among epithelial cells, low in stroma.
    """

    darkness: Plane
    elongation: Plane
    near_h: Plane
    near_e: Plane
    far_h: Plane
    wide_h: Plane


def find_figures(planes: Planes) -> Figures:
    """Find compact objects that are darker than nuclei are.

    Parameters
    ----------
    planes : Planes

    Returns
    -------
    Figures
    """
    dark = ((planes.h > DARK) & planes.stained).view(np.uint8)
    _, labels, stats, centres = cv2.connectedComponentsWithStats(dark, connectivity=8)
    area = stats[1:, cv2.CC_STAT_AREA] * planes.um**2
    chosen = 1 + np.flatnonzero((area >= FIGURE_UM2[0]) & (area <= FIGURE_UM2[1]))
    wide = smooth_wide(planes.h, WIDE_UM, planes.um)
    rows = []
    for label in chosen:
        x, y = np.rint(centres[label]).astype(int)
        found = measure_figure(planes, labels, int(label), stats[label])
        if found is not None:
            rows.append((*found, float(wide[y, x])))
    return Figures(*np.array(rows, dtype=np.float32).reshape(-1, 6).T)


def measure_figure(
    planes: Planes, labels: NDArray[np.int32], label: int, box: NDArray[np.int32]
) -> tuple[float, float, float, float, float] | None:
    """Measure one dark object and two rings around it.

    Parameters
    ----------
    planes : Planes
    labels : ndarray, (H, W), int32
    label : int
    box : ndarray, (5,)
        Left, top, width, height and area of the object.

    Returns
    -------
    tuple of 5 floats, or None
        darkness, elongation, near_h, near_e, far_h; None where its darkest place is not dark enough.
    """
    margin = int(np.ceil(RINGS_UM[2] / planes.um)) + 1
    left, top, width, height = (int(value) for value in box[:4])
    window = (slice(max(0, top - margin), top + height + margin), slice(max(0, left - margin), left + width + margin))
    mask = (labels[window] == label).astype(np.uint8)
    h, e = planes.h[window], planes.e[window]
    inside = h[mask > 0]
    if inside.max() < DARKEST:
        return None
    grown = [cv2.dilate(mask, disc(reach / planes.um)) for reach in RINGS_UM]
    near, far = grown[1] - grown[0], grown[2] - grown[1]
    near_h, far_h = cv2.mean(h, near)[0], cv2.mean(h, far)[0]
    return float(inside.mean()), measure_elongation(mask), near_h, cv2.mean(e, near)[0], far_h


def measure_elongation(mask: NDArray[np.uint8]) -> float:
    """Return the ratio of the axes of the ellipse with the same second moments.

    Parameters
    ----------
    mask : ndarray, (h, w), uint8

    Returns
    -------
    float
        1 for a disc.
    """
    moments = cv2.moments(mask, True)
    xx, yy, xy = (moments[name] / moments["m00"] for name in ("mu20", "mu02", "mu11"))
    middle, half = (xx + yy) / 2 + 1 / 12, np.hypot((xx - yy) / 2, xy)  # 1/12: a pixel's own extent
    return float(np.sqrt((middle + half) / max(middle - half, 1e-6)))


def step(values: Plane, at: float, width: float) -> Plane:
    """Return a soft step from 0 below `at` to 1 above it (falling for a negative width).

    Parameters
    ----------
    values : ndarray
    at, width : float

    Returns
    -------
    ndarray
    """
    return np.asarray(1 / (1 + np.exp(-np.clip((values - at) / width, -30, 30))), dtype=np.float32)


def measure_figures(planes: Planes, n_large: int) -> dict[str, float]:
    """Count dark figures by their surroundings; each counts as much as it looks the part.

    Parameters
    ----------
    planes : Planes
    n_large : int
        Large nuclei of the tile.

    Returns
    -------
    dict of str to float
    """
    figures = find_figures(planes)
    halo = step(figures.near_h - figures.far_h, 0.0, -0.03) * step(figures.near_h, 0.6, -0.05)
    cellular = step(figures.wide_h, 0.38, 0.04)
    pink = step(figures.near_e, 0.52, 0.04)
    mitotic = step(figures.darkness, 1.55, 0.06) * halo * cellular * (1 - pink)
    plate = mitotic * step(figures.elongation, 1.7, 0.12)
    apoptotic = step(figures.darkness, 1.5, 0.06) * halo * pink
    stromal = (1 - halo) * (1 - cellular)
    sums = {
        "figures": float(len(figures.darkness)),
        "mitosis_like": float(mitotic.sum()),
        "plate_like": float(plate.sum()),
        "apoptosis_like": float(apoptotic.sum()),
        "lymphocyte_like": float(stromal.sum()),
    }
    found = {f"{name}_per_mm2": value / planes.area_mm2 for name, value in sums.items()}
    return found | {"mitosis_like_per_1000_large_nuclei": 1000 * sums["mitosis_like"] / (n_large + SHRINK_NUCLEI)}


def measure_architecture(planes: Planes, nuclear: Bools, depth: Plane) -> dict[str, float]:
    """Lumina and vacuoles, and how nuclei cluster."""
    empty = (~planes.stained).astype(np.float32)
    cellular = smooth_wide((depth > LARGE_RADIUS_UM - 1.2).astype(np.float32), 12.0, planes.um)
    cover = smooth_wide(nuclear.astype(np.float32), 16.0, planes.um)
    epithelium = cellular > 0.06
    n_pixels = empty.size
    return {
        "epithelium_fraction": float(epithelium.mean()),
        "lumen_fraction": float((empty * epithelium).sum()) / n_pixels,
        "vacuole_fraction": float((empty * ~epithelium).sum()) / n_pixels,
        "nuclear_cover_sd": float(cover.std()),
        "nuclear_cover_max": float(cover.max()),
        "eosin_in_epithelium": _mean_where(planes.e, epithelium & planes.stained & ~nuclear),
        "eosin_in_stroma": _mean_where(planes.e, ~epithelium & planes.stained & ~nuclear),
        "haematoxylin_in_cytoplasm": _mean_where(planes.h, epithelium & planes.stained & ~nuclear),
    }


def _mean_where(plane: Plane, mask: Bools) -> float:
    return float(cv2.mean(plane, mask.view(np.uint8))[0])


def measure_texture(planes: Planes) -> dict[str, float]:
    """Energy of both stains per band of scale, and variograms of haematoxylin."""
    found = {}
    for name, plane in (("h", planes.h), ("e", planes.e)):
        before = smooth(plane, BANDS_UM[0][0], planes.um)
        for low, high in BANDS_UM:
            after = smooth_wide(plane, high, planes.um)
            found[f"band_{name}_{low:g}_{high:g}um"] = _spread_where(before - after, planes.stained)
            before = after
    for lag in LAGS_UM:
        step = max(1, round(lag / planes.um))
        across = planes.h[:, step:] - planes.h[:, :-step]
        down = planes.h[step:] - planes.h[:-step]
        found[f"variogram_h_{lag:g}um"] = float((np.square(across).mean() + np.square(down).mean()) / 2)
    return found


def _spread_where(plane: Plane, mask: Bools) -> float:
    return float(cv2.meanStdDev(plane, mask=mask.view(np.uint8))[1][0, 0])


def list_columns() -> tuple[str, ...]:
    """Return the names of the numbers, in order.

    Returns
    -------
    tuple of str
    """
    stain = Stain(
        haematoxylin=(0.65, 0.70, 0.29), eosin=(0.07, 0.99, 0.11), scale_h=1.0, scale_e=1.0, split_h=0.3,
        nuclear_h=0.5, background=(245.0, 245.0, 245.0), n_pixels=0,
    )  # fmt: skip
    return tuple(measure_tile(np.full((64, 64, 3), 245, np.uint8), stain, um_per_px=0.5))


COLUMNS = list_columns()
