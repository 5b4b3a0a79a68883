"""The training domain of the embedded encoders: small phantom slides without a seed, nucleus or stain of the book.

What differs from a book slide: the seed, the set of drawn nuclei (`sprite_family`), the stain vectors (each pair lies
at least `MIN_STAIN_DEGREES` from those of every planted site), the size and elongation of the nuclei, and the mix of
tissues, all drawn from wide uniform laws without a case, a subtype or a site behind them. What is shared: the renderer,
and with it the rules by which tissue, chromatin and mitoses are drawn. So the book's slides are new to the encoder, but
its world is not.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from helpers.core.provenance import compute_key
from helpers.phantom.effects import SITES
from helpers.phantom.fields import make_rng
from helpers.phantom.nuclei import KINDS, Cells
from helpers.phantom.plan import SlidePlan, Vector
from helpers.phantom.renderer import RenderedSlide, render_slide

FAMILIES: Final = (7001, 7013, 7019, 7027)
"""Sets of drawn nuclei of the training domain; the book's slides use 0."""
MIN_STAIN_DEGREES: Final = 6.0
"""Least distance of a training pair of stain vectors from a site's: the larger of both vectors' angles, degrees."""
TILE_PX: Final = 256
MPP: Final = 0.5
LABEL_PX: Final = 128
"""Edge of the square for which morphology is counted: a quarter of a tile, 64 um."""
LABELS: Final = ("nuclear_density", "nuclear_size", "pleomorphism", "til_density", "tumour_fraction")
"""Nuclei and lymphocytes per mm2, mean and SD of the tumour nuclei's diameter (um), share of invasive epithelium."""
MIN_NUCLEI: Final = 5
"""Tumour nuclei that a square needs before their size is a label."""
MIN_INK: Final = 0.35
"""Share of a tile that must be darker than glass, or the tile is left out."""

# slide field: (low, high) of a uniform draw; wider than the book's, and independent of each other
DRAWN: Final[dict[str, tuple[float, float]]] = {
    "strength_h": (0.75, 1.35),
    "strength_e": (0.75, 1.35),
    "scanner_blur_um": (0.20, 0.45),
    "scanner_noise": (0.5, 1.5),
    "proliferation": (-2.5, 3.5),
    "tubule": (1.0, 3.0),
    "pleomorphism": (1.0, 3.0),
    "mitosis": (1.0, 3.0),
    "nuclear_um": (6.5, 11.0),
    "nuclear_aspect": (1.05, 1.80),
    "til_level": (0.02, 0.80),
    "tumour_fraction": (0.35, 0.80),
    "tumour_stroma": (0.10, 0.65),
    "cohesion": (0.0, 1.6),
    "benign_fraction": (0.0, 0.10),
    "fat_fraction": (0.0, 0.10),
    "collagen": (0.6, 1.5),
    "stroma_cellularity": (200.0, 1000.0),
}
STAIN_MEANS: Final[tuple[Vector, Vector]] = ((0.62, 0.70, 0.34), (0.16, 0.88, 0.42))
STAIN_SPREAD: Final = (0.07, 0.12)
"""SD of each component of haematoxylin and eosin around its mean, before the vector is brought to unit length."""


@dataclass(frozen=True)
class TrainingTiles:
    """Tiles of the training domain, in memory.

    Attributes
    ----------
    tiles : ndarray, (n, TILE_PX, TILE_PX, 3), uint8
    slide : ndarray, (n,), int64
        Row in `plans`.
    labels : ndarray, (n, 2, 2, 5), float32
        `LABELS` of each quarter of a tile (row, column); NaN where fewer than `MIN_NUCLEI` tumour nuclei lie.
    plans : tuple of SlidePlan
    fingerprints : tuple of str
        SHA-256 of each slide's pixels.
    """

    tiles: NDArray[np.uint8]
    slide: NDArray[np.int64]
    labels: NDArray[np.float32]
    plans: tuple[SlidePlan, ...]
    fingerprints: tuple[str, ...]


def plan_training_slides(n_slides: int, *, seed: int, slide_um: float = 640.0) -> tuple[SlidePlan, ...]:
    """Draw the plans of the training slides.

    Parameters
    ----------
    n_slides : int
    seed : int
        Root of every draw.
    slide_um : float
        Edge of a slide, um.

    Returns
    -------
    tuple of SlidePlan
        Neighbours share a set of drawn nuclei, so that a process draws each nucleus once.
    """
    return tuple(_plan_slide(number, n_slides, seed, slide_um) for number in range(n_slides))


def _plan_slide(number: int, n_slides: int, seed: int, slide_um: float) -> SlidePlan:
    rng = make_rng(seed, f"pretraining slide {number}")
    values = {name: round(float(rng.uniform(low, high)), 4) for name, (low, high) in DRAWN.items()}
    values["cohesion"] = min(1.0, values["cohesion"])
    stain_h, stain_e = draw_stains(rng)
    return SlidePlan(
        slide_id=f"TR-{number:04d}",
        seed=int(rng.integers(2**40)),
        slide_um=slide_um,
        mpp=MPP,
        stain_h=stain_h,
        stain_e=stain_e,
        background=(245.0, 245.0, 245.0),
        sprite_family=FAMILIES[number * len(FAMILIES) // n_slides],
        **values,  # type: ignore[arg-type]
    )


def draw_stains(rng: np.random.Generator) -> tuple[Vector, Vector]:
    """Draw a pair of stain vectors that is none of the book's.

    Parameters
    ----------
    rng : Generator

    Returns
    -------
    stain_h, stain_e : tuple of 3 floats
        Of unit length.
    """
    while True:
        h, e = (
            np.clip(np.asarray(mean) + spread * rng.standard_normal(3), 0.02, None)
            for mean, spread in zip(STAIN_MEANS, STAIN_SPREAD, strict=True)
        )
        stain_h, stain_e = _normalise(h), _normalise(e)
        apart = min(measure_stain_distance((stain_h, stain_e), (site.stain_h, site.stain_e)) for site in SITES)
        if apart >= MIN_STAIN_DEGREES and _measure_angle(stain_h, stain_e) > 18.0:
            return stain_h, stain_e


def measure_stain_distance(one: tuple[Vector, Vector], other: tuple[Vector, Vector]) -> float:
    """Return how far two pairs of stain vectors lie apart: the larger of both angles, degrees.

    Parameters
    ----------
    one, other : pair of tuples of 3 floats
        Haematoxylin, eosin.

    Returns
    -------
    float
    """
    return max(_measure_angle(a, b) for a, b in zip(one, other, strict=True))


def _normalise(vector: NDArray[np.float64]) -> Vector:
    red, green, blue = (round(float(part), 6) for part in vector / np.linalg.norm(vector))
    return red, green, blue


def _measure_angle(one: Vector, other: Vector) -> float:
    cosine = float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))
    return math.degrees(math.acos(min(1.0, cosine)))


def fingerprint_slide(rendered: RenderedSlide) -> str:
    """Return the SHA-256 of a slide's shape and pixels.

    Parameters
    ----------
    rendered : RenderedSlide

    Returns
    -------
    str, 64 hex digits
    """
    digest = hashlib.sha256(str(rendered.image.shape).encode())
    digest.update(np.ascontiguousarray(rendered.image).tobytes())
    return digest.hexdigest()


def compute_plan_key(plan: SlidePlan) -> str:
    """Return what identifies a plan without its name.

    Parameters
    ----------
    plan : SlidePlan

    Returns
    -------
    str, 64 hex digits
    """
    return compute_key({name: value for name, value in asdict(plan).items() if name != "slide_id"})


def render_training_tiles(plans: Sequence[SlidePlan], *, workers: int = 1) -> TrainingTiles:
    """Draw the training slides and cut them into tiles.

    Parameters
    ----------
    plans : sequence of SlidePlan
    workers : int
        Processes.

    Returns
    -------
    TrainingTiles
        In the order of the plans, whatever the number of workers.
    """
    if workers <= 1:
        drawn = [draw_training_slide(plan) for plan in plans]
    else:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        with context.Pool(workers, initializer=_use_one_thread) as pool:
            drawn = pool.map(draw_training_slide, plans, chunksize=max(1, len(plans) // (8 * workers)))
    counts = [len(tiles) for tiles, _, _ in drawn]
    return TrainingTiles(
        np.concatenate([tiles for tiles, _, _ in drawn]),
        np.repeat(np.arange(len(plans)), counts),
        np.concatenate([labels for _, labels, _ in drawn]),
        tuple(plans),
        tuple(found for _, _, found in drawn),
    )


def _use_one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def draw_training_slide(plan: SlidePlan) -> tuple[NDArray[np.uint8], NDArray[np.float32], str]:
    """Draw one slide; return its tiles, their labels and its fingerprint.

    Parameters
    ----------
    plan : SlidePlan
        Drawn at `MPP`.

    Returns
    -------
    tiles : ndarray, (n, TILE_PX, TILE_PX, 3), uint8
        Raster order; tiles that are mostly glass are left out.
    labels : ndarray, (n, 2, 2, 5), float32
    fingerprint : str
    """
    rendered = render_slide(plan)
    n = rendered.image.shape[0] // TILE_PX
    cut = rendered.image[: n * TILE_PX, : n * TILE_PX].reshape(n, TILE_PX, n, TILE_PX, 3).swapaxes(1, 2)
    tiles = np.ascontiguousarray(cut.reshape(n * n, TILE_PX, TILE_PX, 3))
    labels = label_squares(rendered, n_squares=2 * n, square_um=LABEL_PX * plan.mpp)
    labels = labels.reshape(n, 2, n, 2, len(LABELS)).swapaxes(1, 2).reshape(n * n, 2, 2, len(LABELS))
    ink = (tiles.min(axis=3) < 0.9 * min(plan.background)).mean(axis=(1, 2))
    keep = ink >= MIN_INK
    return tiles[keep], labels[keep], fingerprint_slide(rendered)


def label_squares(rendered: RenderedSlide, *, n_squares: int, square_um: float) -> NDArray[np.float32]:
    """Count the planted morphology in a grid of squares; mitoses and apoptotic bodies are in none of the labels.

    Parameters
    ----------
    rendered : RenderedSlide
    n_squares : int
        Along each axis, from the upper left corner.
    square_um : float
        Edge of a square, um.

    Returns
    -------
    ndarray, (n_squares, n_squares, 5), float32
        In the order of `LABELS`.
    """
    cells = rendered.cells
    nuclei = cells[~np.isin(cells["kind"], [KINDS.index(kind) for kind in ("erythrocyte", "mitosis", "apoptosis")])]
    tumour = cells[cells["kind"] == KINDS.index("tumour")]
    area_mm2 = (square_um / 1000.0) ** 2
    density = _sum_cells(nuclei, None, n_squares, square_um) / area_mm2
    til = _sum_cells(cells[cells["kind"] == KINDS.index("lymphocyte")], None, n_squares, square_um) / area_mm2
    count = _sum_cells(tumour, None, n_squares, square_um)
    enough = np.where(count >= MIN_NUCLEI, count, np.nan)
    diameter = tumour["diameter_um"].astype(np.float64)
    mean = _sum_cells(tumour, diameter, n_squares, square_um) / enough
    square = _sum_cells(tumour, diameter * diameter, n_squares, square_um) / enough
    sd = np.sqrt(np.maximum(square - mean * mean, 0.0))
    share = _average_map(rendered.maps["tumour"], rendered.maps_um_per_px, n_squares, square_um)
    return np.stack([density, mean, sd, til, share], axis=-1).astype(np.float32)


def _sum_cells(
    cells: Cells, weights: NDArray[np.float64] | None, n_squares: int, square_um: float
) -> NDArray[np.float64]:
    row, column = ((cells[axis] / square_um).astype(int) for axis in ("y_um", "x_um"))
    inside = (row < n_squares) & (column < n_squares)
    chosen = None if weights is None else weights[inside]
    flat = np.bincount((row * n_squares + column)[inside], chosen, minlength=n_squares * n_squares)
    return flat.reshape(n_squares, n_squares).astype(np.float64)


def _average_map(values: NDArray[np.float32], um_per_px: float, n_squares: int, square_um: float) -> NDArray:
    """Average a map of coarse pixels over squares, each pixel weighted by the area it shares with the square."""
    edges = np.arange(values.shape[0] + 1) * um_per_px
    low, high = np.arange(n_squares)[:, None] * square_um, (np.arange(n_squares)[:, None] + 1) * square_um
    overlap = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, None)
    weight = overlap / overlap.sum(axis=1, keepdims=True)
    return np.asarray(weight @ values.astype(np.float64) @ weight.T)
