"""One row of numbers per nucleus: size, shape, haematoxylin, chromatin, neighbours; and the nuclei of a whole slide.

Everything is counted over pixels with one pass per measure (no loop over nuclei but for convex hulls), lengths are um,
haematoxylin is in units of the slide's typical nucleus, which is 1.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import FeatureError
from helpers.core.paths import resolve, write_table
from helpers.core.provenance import fingerprint
from helpers.features.nuclei import Labels, iterate_contours, segment_planes, separate_checked
from helpers.features.stain_texture import Planes, separate_grain
from helpers.slides.reader import open_slide
from helpers.slides.stain import Stain
from helpers.slides.tilefile import TileTable, read_tiles
from helpers.slides.tiling import iterate_tiles

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Rows = dict[str, Floats]
NEIGHBOURHOOD_UM = 25.0
TYPICAL = "typical nuclei"
"""Unit of haematoxylin: 1 is the slide's typical large nucleus."""


@dataclass(frozen=True)
class Measure:
    """One number and what it means.

    Attributes
    ----------
    name : str
    unit : str
        Empty for a ratio.
    meaning : str
    """

    name: str
    unit: str
    meaning: str


NUCLEUS_MEASURES = (
    Measure("area_um2", "um2", "area"),
    Measure("diameter_um", "um", "diameter of the circle of equal area"),
    Measure("major_um", "um", "major axis of the ellipse of equal second moments"),
    Measure("minor_um", "um", "minor axis of that ellipse"),
    Measure("eccentricity", "", "of that ellipse: 0 for a circle, towards 1 for a spindle"),
    Measure("perimeter_um", "um", "length of the outline (Cauchy–Crofton, four directions)"),
    Measure("circularity", "", "4 pi area / perimeter squared, at most 1: 1 for a circle"),
    Measure("solidity", "", "area over the area of the convex hull"),
    Measure("h_mean", TYPICAL, "mean haematoxylin: hyperchromasia is a high one"),
    Measure("h_sd", TYPICAL, "SD of haematoxylin inside"),
    Measure("chromatin_fine_sd", TYPICAL, "SD of grains below about 1 um"),
    Measure("chromatin_coarse_sd", TYPICAL, "SD of grains of about 1 to 2 um"),
    Measure("e_mean", "slide's 99th percentile", "mean eosin"),
    Measure("nearest_um", "um", "distance to the nearest other nucleus, centre to centre; 0 where there is none"),
    Measure("density_per_mm2", "per mm2", "other nuclei within 25 um, over the part of that disc inside the image"),
)
"""What is measured on every nucleus, in the order of the table's columns."""


@dataclass(frozen=True)
class Pixels:
    """The pixels of all nuclei of an image.

    Attributes
    ----------
    rows, columns : ndarray, (n_pixels,), int64
    number : ndarray, (n_pixels,), int64
        Nucleus, from 0.
    counts : ndarray, (n,), float64
        Pixels of each nucleus, at least 1.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    number: NDArray[np.int64]
    counts: Floats

    @classmethod
    def from_labels(cls, labels: Labels) -> "Pixels":
        """Collect the pixels of a label image."""
        rows, columns = np.nonzero(labels)
        number = labels[rows, columns].astype(np.int64) - 1
        n = int(labels.max()) if labels.size else 0
        return cls(rows, columns, number, np.maximum(np.bincount(number, minlength=n), 1).astype(np.float64))

    def average(self, values: NDArray[Any]) -> Floats:
        """Return the mean of each nucleus's pixels."""
        return np.bincount(self.number, weights=values, minlength=len(self.counts)) / self.counts

    def spread(self, plane: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Return mean and SD of a plane inside each nucleus."""
        values = plane[self.rows, self.columns].astype(np.float64)
        mean = self.average(values)
        return mean, np.sqrt(np.maximum(self.average(values * values) - mean**2, 0))


def measure_nuclei_rows(labels: Labels, planes: Planes) -> Rows:
    """Measure every nucleus of an image.

    Parameters
    ----------
    labels : ndarray, (H, W), int32
        Numbers from 1 without gaps.
    planes : Planes

    Returns
    -------
    dict of str to ndarray, (n,)
        x_px, y_px (centroid; 0 is the centre of the first pixel), at_border (1 where the image's edge cuts it), and
        the columns of `NUCLEUS_MEASURES`.
    """
    pixels = Pixels.from_labels(labels)
    x, y = pixels.average(pixels.columns), pixels.average(pixels.rows)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return {
        "x_px": x,
        "y_px": y,
        "at_border": np.isin(np.arange(1, len(x) + 1), border).astype(np.float64),
        "area_um2": pixels.counts * planes.um**2,
        "diameter_um": np.sqrt(4 / np.pi * pixels.counts) * planes.um,
        **_measure_ellipse(pixels, x, y, planes.um),
        **_measure_outline(labels, pixels.counts, planes.um),
        **_measure_stain(pixels, planes),
        **_measure_neighbours(x * planes.um, y * planes.um, labels.shape, planes.um),
    }


def _measure_ellipse(pixels: Pixels, x: Floats, y: Floats, um: float) -> Rows:
    dx, dy = pixels.columns - x[pixels.number], pixels.rows - y[pixels.number]
    xx, yy = pixels.average(dx * dx) + 1 / 12, pixels.average(dy * dy) + 1 / 12  # 1/12: a pixel's own extent
    middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, pixels.average(dx * dy))
    long, short = middle + half, np.maximum(middle - half, 1 / 12)
    return {
        "major_um": 4 * np.sqrt(long) * um,
        "minor_um": 4 * np.sqrt(short) * um,
        "eccentricity": np.sqrt(1 - np.minimum(short / long, 1)),
    }


def _measure_outline(labels: Labels, pixels: Floats, um: float) -> Rows:
    perimeter = count_crossings(labels) * um
    hull = np.ones(len(pixels))
    for number, window, contour in iterate_contours(labels):
        size = (window[0].stop - window[0].start, window[1].stop - window[1].start)
        hull[number - 1] = cv2.fillConvexPoly(np.zeros(size, np.uint8), cv2.convexHull(contour), 1).sum()
    circularity = 4 * np.pi * pixels * um**2 / np.maximum(perimeter, 1e-9) ** 2
    return {
        "perimeter_um": perimeter,
        "circularity": np.minimum(circularity, 1.0),
        "solidity": np.minimum(pixels / hull, 1.0),
    }


def count_crossings(labels: Labels) -> Floats:
    """Measure the outline of every object from its crossings with lines in four directions.

    Parameters
    ----------
    labels : ndarray, (H, W), int32

    Returns
    -------
    ndarray, (n,), float64
        Perimeter, px; the image's edge counts as outline.

    References
    ----------
    Crofton's formula: pi / 4 times the sum over four directions of half the crossings times the lines' distance.
    """
    padded = np.pad(labels, 1)
    n = int(padded.max())
    total = np.zeros(n + 1)
    pairs = (
        (padded[:, 1:], padded[:, :-1], 1.0),
        (padded[1:], padded[:-1], 1.0),
        (padded[1:, 1:], padded[:-1, :-1], np.sqrt(0.5)),
        (padded[1:, :-1], padded[:-1, 1:], np.sqrt(0.5)),
    )
    for first, second, distance in pairs:
        differ = first != second
        for side in (first[differ], second[differ]):
            total += np.bincount(side, minlength=n + 1) * distance
    return total[1:] * np.pi / 8


def _measure_stain(pixels: Pixels, planes: Planes) -> Rows:
    fine, coarse = separate_grain(planes)
    h_mean, h_sd = pixels.spread(planes.h)
    return {
        "h_mean": h_mean,
        "h_sd": h_sd,
        "chromatin_fine_sd": pixels.spread(fine)[1],
        "chromatin_coarse_sd": pixels.spread(coarse)[1],
        "e_mean": pixels.spread(planes.e)[0],
    }


def _measure_neighbours(x_um: Floats, y_um: Floats, shape: tuple[int, ...], um: float) -> Rows:
    from scipy.spatial import cKDTree

    if len(x_um) < 2:
        return {"nearest_um": np.zeros(len(x_um)), "density_per_mm2": np.zeros(len(x_um))}
    points = np.column_stack([x_um, y_um])
    tree = cKDTree(points)
    nearest = tree.query(points, k=2)[0][:, 1]
    others = tree.query_ball_point(points, NEIGHBOURHOOD_UM, return_length=True) - 1
    spots = points[:, None] + _spread_disc()[None]
    high = np.array([shape[1], shape[0]]) * um
    seen = ((spots >= -um / 2) & (spots < high - um / 2)).all(axis=2).mean(axis=1)
    return {"nearest_um": nearest, "density_per_mm2": others / (seen * np.pi * (NEIGHBOURHOOD_UM / 1000) ** 2)}


@lru_cache(maxsize=1)
def _spread_disc() -> Floats:
    """Return 97 places of equal area in the neighbourhood (sunflower), um from its centre."""
    place = np.arange(97)
    radius, angle = NEIGHBOURHOOD_UM * np.sqrt((place + 0.5) / 97), place * np.pi * (3 - np.sqrt(5))
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


def tabulate_nuclei(tile: NDArray[np.uint8], stain: Stain | None, *, um_per_px: float) -> "tuple[Labels, pd.DataFrame]":
    """Find and measure the nuclei of one image.

    Parameters
    ----------
    tile : ndarray, (H, W, 3), uint8
    stain : Stain or None
        Of the slide; None is refused.
    um_per_px : float

    Returns
    -------
    labels : ndarray, (H, W), int32
    table : DataFrame
        One row per nucleus, by rising number: x_px, y_px, at_border (bool), and `NUCLEUS_MEASURES`.

    Raises
    ------
    FeatureError
        When the image is no RGB image of bytes, too coarse, or its stains are unknown.
    """
    import pandas as pd

    planes = separate_checked(tile, stain, um_per_px=um_per_px)
    labels = segment_planes(planes)
    table = pd.DataFrame(measure_nuclei_rows(labels, planes))
    return labels, table.astype({"at_border": bool})


def tabulate_slide(path: str | Path, tiles_path: Path) -> "pd.DataFrame":
    """Find and measure every nucleus of a slide's tiles, each once.

    Where tiles overlap, a nucleus belongs to the tile in whose own part, up to the middle of the overlap, its centre
    lies. Where they only touch, a nucleus on the seam is cut in two; both parts are flagged `at_border`.

    Parameters
    ----------
    path : str or Path
        Of the slide.
    tiles_path : Path
        Of its tile file (chapter 01).

    Returns
    -------
    DataFrame
        slide_id, tile (row of the tile file), x_l0, y_l0 (centroid, level-0 px), at_border, `NUCLEUS_MEASURES`.

    Raises
    ------
    FeatureError
        When the slide is not the one that was tiled, has no stain vectors, or its tiles are too coarse.
    """
    import pandas as pd

    table, path = read_tiles(tiles_path), resolve(path)
    if path.is_file() and fingerprint(path) != table.attributes["slide_fingerprint"]:
        msg = f"FeatureError: slide '{table.slide_id}' is not the file that was tiled. Run chapter 01 again."
        raise FeatureError(msg)
    stain = Stain.from_attributes(table.attributes) if "stain_method" in table.attributes else None
    parts = []
    with open_slide(path, slide_id=table.slide_id, mpp=float(table.attributes["mpp_x"])) as slide:
        for index, (tile,) in enumerate(iterate_tiles(slide, table, batch_size=1)):
            found = tabulate_nuclei(tile, stain, um_per_px=table.mpp)[1]
            parts.append(_keep_owned(found, table, index))
    columns = ["slide_id", "tile", "x_l0", "y_l0", "at_border", *(measure.name for measure in NUCLEUS_MEASURES)]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True).assign(slide_id=table.slide_id)[columns]


def _keep_owned(found: "pd.DataFrame", table: TileTable, index: int) -> "pd.DataFrame":
    """Place nuclei on the slide and drop those that a neighbouring tile owns."""
    corner, edge = table.coords_l0[index], np.array(table.edge_l0)
    scale = edge / table.tile_px
    places = (found[["x_px", "y_px"]].to_numpy() + 0.5) * scale
    margin = table.overlap_px * scale / 2
    present = {(int(x), int(y)) for x, y in table.coords_l0}
    owned = np.ones(len(found), bool)
    for axis in (0, 1) if table.overlap_px else ():
        step = np.zeros(2)
        step[axis] = edge[axis] - 2 * margin[axis]
        for sign, beyond in ((-1, places[:, axis] < margin[axis]), (1, places[:, axis] >= edge[axis] - margin[axis])):
            neighbour = np.rint(corner + sign * step).astype(int)
            if any((neighbour[0] + dx, neighbour[1] + dy) in present for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
                owned &= ~beyond
    return found[owned].assign(tile=index, x_l0=(corner[0] + places[owned, 0]), y_l0=(corner[1] + places[owned, 1]))


def write_nuclei(path: str | Path, tiles_path: Path, target: Path) -> Path:
    """Write the nuclei of a slide as parquet.

    Parameters
    ----------
    path : str or Path
        Of the slide.
    tiles_path : Path
    target : Path
        `nuclei/<slide_id>.parquet`.

    Returns
    -------
    Path
    """
    return write_table(tabulate_slide(path, tiles_path), target)
