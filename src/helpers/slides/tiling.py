"""Tiles of a slide: where they lie, what they are worth, and the file that says so.

A tile is `tile_px` x `tile_px` pixels at the target um per px. On level 0 it is the whole number of px nearest to that
size, so that tiles never overlap or drift; the resolution this gives (the effective mpp, within half a px in a tile) is
stored with the tiles. Every tile with some tissue is written, in raster order, with its quality; filters come later.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core.errors import SlideError, StainError, TileError
from helpers.core.ledger import run_batch
from helpers.core.paths import atomic_write, resolve
from helpers.core.provenance import compute_key, fingerprint, list_versions
from helpers.core.specs import TilingSpec
from helpers.slides.annotation import find_annotated_tissue, locate_annotation, read_slide_annotations, write_outlines
from helpers.slides.qc import MEASURED, QC_COLUMNS, measure_stains, measure_tile, measure_typical
from helpers.slides.reader import RGB, Slide, open_slide
from helpers.slides.resample import Box
from helpers.slides.stain import Stain, fit_macenko, refine_nuclear_level
from helpers.slides.tilefile import TileTable, read_attribute, write_tiles
from helpers.slides.tissue import Tissue, compute_cover, find_tissue, outline_tissue

STAGE = "tile_slides"
VERSION = "3"
"""Raised whenever the same slide and spec would give other tiles: part of every key."""
LIBRARIES = ("histobook", "numpy", "opencv-python-headless", "openslide-python", "openslide-bin", "h5py")
ANNOTATION_FIELDS = ("annotation_classes", "annotation_use")
"""Part of a slide's key only where the slide has an annotation."""
MAX_MPP_ERROR = 0.02
"""Largest relative difference of the effective mpp from the one asked for."""
N_HELD = 20
"""Tiles, evenly spread over the slide, on which the typical nucleus is measured."""
MAX_INK = 0.01
MAX_THICK = 0.02
"""Shares of marker ink and of thickness above which a tile is left out when its slide's stains are estimated."""
MUCH = 0.10
"""Share above which ink or thickness fills much of a tile."""
MIN_FILLED = 0.35
"""Share of the tiles in question that must be filled much, or it is no ink and no fold."""
STAIN_SAMPLE = 200_000
"""Pixels of a slide from which its stains are estimated."""


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """Where the tiles of a slide lie.

    Attributes
    ----------
    coords_l0 : ndarray, (n, 2), int64
        Upper left corners x, y in level-0 px, in raster order.
    tissue_fraction : ndarray, (n,), float32
    edge_l0 : tuple of 2 ints
        Width and height of a tile, level-0 px.
    tile_px : int
    mpp : float
        Effective resolution of the tiles (mean of both axes), um per px.
    n_positions : int
        Grid positions looked at, tissue or not.
    """

    coords_l0: NDArray[np.int64]
    tissue_fraction: NDArray[np.float32]
    edge_l0: tuple[int, int]
    tile_px: int
    mpp: float
    n_positions: int


def plan_tiles(slide: Slide, spec: TilingSpec, tissue: Tissue) -> TilePlan:
    """Lay the grid over a slide and keep the positions with tissue.

    Parameters
    ----------
    slide : Slide
    spec : TilingSpec
    tissue : Tissue

    Returns
    -------
    TilePlan

    Raises
    ------
    TileError
        When the slide is smaller than a tile, no position holds enough tissue, or the tile is so small that its size
        in level-0 px misses the asked resolution by more than 2 %.
    """
    edge = plan_edge(slide, spec)
    coords = plan_grid(slide, spec, edge)
    cover = compute_cover(tissue, coords, edge)
    keep = cover >= spec.min_tissue_written
    if not keep.any():
        msg = (
            f"TileError: slide '{slide.slide_id}' has no tile with at least {spec.min_tissue_written:.0%} tissue "
            f"(best of {len(coords)}: {cover.max():.1%}). Lower min_tissue_written, or take it off the slide table."
        )
        raise TileError(msg)
    effective = (edge[0] * slide.resolution.mpp_x + edge[1] * slide.resolution.mpp_y) / 2 / spec.tile_px
    return TilePlan(
        coords_l0=coords[keep],
        tissue_fraction=cover[keep],
        edge_l0=edge,
        tile_px=spec.tile_px,
        mpp=effective,
        n_positions=len(coords),
    )


def plan_edge(slide: Slide, spec: TilingSpec) -> tuple[int, int]:
    """Return the size of a tile in level-0 px.

    Parameters
    ----------
    slide : Slide
    spec : TilingSpec

    Returns
    -------
    tuple of 2 ints
        Width and height, level-0 px.

    Raises
    ------
    TileError
        When rounding to whole px would miss the asked resolution by more than 2 %, or the slide is too small.
    """
    tile_um = spec.tile_px * spec.mpp
    exact = (tile_um / slide.resolution.mpp_x, tile_um / slide.resolution.mpp_y)
    edge = (max(1, round(exact[0])), max(1, round(exact[1])))
    error = max(abs(whole / part - 1) for whole, part in zip(edge, exact, strict=True))
    if error > MAX_MPP_ERROR:
        msg = (
            f"TileError: slide '{slide.slide_id}': a tile of {tile_um:g} um is {exact[0]:.2f} x {exact[1]:.2f} level-0 "
            f"px, and whole px would miss {spec.mpp:g} um per px by {error:.1%}. Use a larger tile_px."
        )
        raise TileError(msg)
    if edge[0] > slide.width or edge[1] > slide.height:
        msg = (
            f"TileError: slide '{slide.slide_id}' is {slide.width} x {slide.height} px, smaller than one tile of "
            f"{edge[0]} x {edge[1]} px ({tile_um:g} um). Take it off the slide table, or use a smaller tile_px."
        )
        raise TileError(msg)
    return edge


def plan_grid(slide: Slide, spec: TilingSpec, edge: tuple[int, int]) -> NDArray[np.int64]:
    """Return all positions of the grid that lie wholly inside the slide, in raster order.

    Parameters
    ----------
    slide : Slide
    spec : TilingSpec
    edge : tuple of 2 ints
        Width and height of a tile, level-0 px.

    Returns
    -------
    ndarray, (n, 2), int64
        x, y of the upper left corners, level-0 px.
    """
    share = 1 - spec.overlap_px / spec.tile_px
    step_x, step_y = max(1, round(edge[0] * share)), max(1, round(edge[1] * share))
    x = np.arange(0, slide.width - edge[0] + 1, step_x)
    y = np.arange(0, slide.height - edge[1] + 1, step_y)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    return np.stack([grid_x.ravel(), grid_y.ravel()], axis=1).astype(np.int64)


def read_tile(slide: Slide, plan: TilePlan | TileTable, index: int, *, out: RGB | None = None) -> RGB:
    """Read one tile of a plan.

    Parameters
    ----------
    slide : Slide
    plan : TilePlan or TileTable
    index : int
    out : ndarray, (tile_px, tile_px, 3), uint8, optional
        Contiguous; is filled and returned.

    Returns
    -------
    ndarray, (tile_px, tile_px, 3), uint8

    Raises
    ------
    SlideError
        When it cannot be decoded; never a white tile.
    """
    return slide.read_box(locate_tile(plan, index), width=plan.tile_px, height=plan.tile_px, out=out)


def locate_tile(plan: TilePlan | TileTable, index: int) -> Box:
    """Return where a tile lies.

    Parameters
    ----------
    plan : TilePlan or TileTable
    index : int

    Returns
    -------
    Box
        Level-0 px.
    """
    x, y = plan.coords_l0[index]
    return Box(left=int(x), top=int(y), width=plan.edge_l0[0], height=plan.edge_l0[1])


def iterate_tiles(
    slide: Slide,
    plan: TilePlan | TileTable,
    *,
    batch_size: int = 64,
    lend: Callable[[tuple[int, int, int, int]], RGB] | None = None,
) -> Iterator[RGB]:
    """Read the tiles of a plan in raster order, in batches, so that memory stays bounded.

    Parameters
    ----------
    slide : Slide
    plan : TilePlan or TileTable
    batch_size : int
    lend : callable, optional
        Returns memory for a batch of the shape it is given; by default each batch has its own.

    Yields
    ------
    ndarray, (up to batch_size, tile_px, tile_px, 3), uint8
    """
    n_tiles = len(plan.coords_l0)
    for start in range(0, n_tiles, batch_size):
        shape = (min(batch_size, n_tiles - start), plan.tile_px, plan.tile_px, 3)
        tiles = np.empty(shape, np.uint8) if lend is None else lend(shape)
        for number, tile in enumerate(tiles):
            read_tile(slide, plan, start + number, out=tile)
        yield tiles


def measure_tiles(slide: Slide, plan: TilePlan, tissue: Tissue) -> tuple[pd.DataFrame, Stain | None, str]:
    """Measure every tile and estimate the slide's stains from a sample of all tiles' pixels, in one pass.

    Parameters
    ----------
    slide : Slide
    plan : TilePlan
    tissue : Tissue

    Returns
    -------
    qc : DataFrame, one row per tile
        The columns of `QC_COLUMNS`.
    stain : Stain or None
    reason : str
        Why there is no stain; empty where there is.
    """
    typical = measure_typical(tissue.overview, tissue.mask, tissue.background)
    n_tiles = len(plan.coords_l0)
    step = max(1, round((n_tiles * plan.tile_px**2 / STAIN_SAMPLE) ** 0.5))
    wanted = set(np.linspace(0, n_tiles - 1, min(N_HELD, n_tiles)).round().astype(int).tolist())
    rows, sample, held = [], [], {}
    for index in range(n_tiles):
        tile = read_tile(slide, plan, index)
        rows.append(measure_tile(tile, tissue.background, um_per_px=plan.mpp, typical=typical))
        sample.append(tile[step // 2 :: step, step // 2 :: step].reshape(-1, 3))
        if index in wanted:
            held[index] = tile
    qc = pd.DataFrame(rows, columns=list(MEASURED))
    clean = choose_stain_tiles(qc)
    pixels = np.concatenate([sample[index] for index in clean])
    stain, reason = _fit_stain(pixels, tissue.background, slide.slide_id)
    if stain is not None:
        whole = [tile for index, tile in held.items() if index in set(clean.tolist())]
        stain = refine_nuclear_level(stain, whole, um_per_px=plan.mpp)
    qc = qc.assign(tissue_fraction=plan.tissue_fraction, **measure_stains(qc, stain))
    return qc[list(QC_COLUMNS)].astype(np.float32), stain, reason


def choose_stain_tiles(qc: pd.DataFrame) -> NDArray[np.intp]:
    """Choose the tiles on which a slide's stains are estimated: those without marker ink and folds.

    A marker line is the strongest colour of its slide, so that a hundredth of it bends the vectors; violet ink, which
    has the colour of haematoxylin, is dense everywhere, as a fold is. Both fill much of a tile that they touch. Where
    most tiles in question are filled a little only, it is the stain itself (a blue haematoxylin looks like ink, crowded
    nuclei look thick), and the criterion is not applied.

    Parameters
    ----------
    qc : DataFrame
        With the pen fractions and thick_fraction.

    Returns
    -------
    ndarray, (n,)
        Row numbers; all rows where no tile is clean.
    """
    ink = qc[[name for name in MEASURED if name.startswith("pen_")]].sum(axis=1).to_numpy()
    clean = np.ones(len(qc), dtype=bool)
    for share, limit in ((ink, MAX_INK), (qc["thick_fraction"].to_numpy(), MAX_THICK)):
        if (share > MUCH).sum() >= MIN_FILLED * (share > limit).sum():
            clean &= share <= limit
    return np.flatnonzero(clean) if clean.any() else np.arange(len(qc))


def _fit_stain(
    pixels: NDArray[np.uint8], background: tuple[float, float, float], slide_id: str
) -> tuple[Stain | None, str]:
    try:
        return fit_macenko(pixels, background, item=f"slide '{slide_id}'"), ""
    except StainError as error:
        return None, str(error)


def find_mask(slide: Slide, spec: TilingSpec) -> Tissue:
    """Find the tissue of a slide as the spec asks: detected, drawn, or both.

    Parameters
    ----------
    slide : Slide
    spec : TilingSpec

    Returns
    -------
    Tissue

    Raises
    ------
    TileError, AnnotationError
        When there is no tissue; when the slide's annotation is missing or cannot be used.
    """
    options = {"um_per_px": spec.mask_um_per_px, "min_area_um2": spec.min_tissue_um2}
    polygons = read_slide_annotations(slide, spec)
    if polygons is None:
        return find_tissue(slide, method=spec.tissue_method, **options)
    return find_annotated_tissue(slide, polygons, combine=spec.annotation_use, method=spec.tissue_method, **options)


def compute_tiling_key(path: Path, spec: TilingSpec, mpp: float | None, annotation: Path | None = None) -> str:
    """Return what identifies the tiles of a slide.

    Parameters
    ----------
    path : Path
    spec : TilingSpec
        Whole, but for `max_failed`, which is about the batch and not about a slide.
    mpp : float or None
        Of the slide table.
    annotation : Path, optional
        The slide's; its content is part of the key. Without one the key is what it is without annotations at all.

    Returns
    -------
    str, 64 hex digits
    """
    unrelated = ("max_failed",) if annotation else ("max_failed", *ANNOTATION_FIELDS)
    fields = {name: value for name, value in spec.key_fields().items() if name not in unrelated}
    versions = {name: list_versions()[name] for name in LIBRARIES}
    drawn = [fingerprint(annotation), list_versions()["shapely"]] if annotation else []
    return compute_key(STAGE, VERSION, fingerprint(path), fields, mpp, versions, *drawn)


def tile_slide(
    slide_id: str, path: str | Path, spec: TilingSpec, *, folder: Path, mpp: float | None = None
) -> tuple[str, str, str]:
    """Tile one slide: mask, grid, quality, stains.

    Writes `tiles/<id>.h5`, `thumbnails/<id>.jpg` and `outlines/<id>.geojson`.

    Parameters
    ----------
    slide_id : str
    path : str or Path
    spec : TilingSpec
    folder : Path
        The chapter's.
    mpp : float, optional
        Of the slide table.

    Returns
    -------
    status : str
        'ok', or 'reused' where the files there have the same key.
    key : str
    note : str
        Why OpenSlide read a slide that is read directly where it can be; empty otherwise.

    Raises
    ------
    SlideError, ResolutionError, TileError, AnnotationError
        Each naming the slide.
    """
    path = resolve(path)
    target, thumbnail = folder / "tiles" / f"{slide_id}.h5", folder / "thumbnails" / f"{slide_id}.jpg"
    outlines = folder / "outlines" / f"{slide_id}.geojson"
    with open_slide(path, slide_id=slide_id, mpp=mpp, fallback_mpp=spec.fallback_mpp) as slide:
        key = compute_tiling_key(path, spec, mpp, locate_annotation(slide_id, spec))
        if thumbnail.is_file() and outlines.is_file() and read_attribute(target, "key") == key:
            return "reused", key, slide.source.note
        plan_edge(slide, spec)
        tissue = find_mask(slide, spec)
        plan = plan_tiles(slide, spec, tissue)
        table = build_table(slide, spec, tissue, plan, key=key)
        write_thumbnail(slide.read_thumbnail(spec.thumbnail_px), thumbnail)
        note = slide.source.note
    write_outlines(table, outlines)
    write_tiles(table, target)
    return "ok", key, note


def build_table(slide: Slide, spec: TilingSpec, tissue: Tissue, plan: TilePlan, *, key: str) -> TileTable:
    """Measure a plan and put everything that is stored about a slide together.

    Parameters
    ----------
    slide : Slide
    spec : TilingSpec
    tissue : Tissue
    plan : TilePlan
    key : str

    Returns
    -------
    TileTable
    """
    qc, stain, reason = measure_tiles(slide, plan, tissue)
    points, rings = outline_tissue(tissue)
    resolution = slide.resolution
    attributes = {
        "key": key,
        "slide_fingerprint": fingerprint(slide.path),
        "spec_hash": compute_key(spec.key_fields()),
        "versions": ", ".join(f"{name} {list_versions()[name]}" for name in LIBRARIES),
        "reader": slide.source.name,
        "reader_note": slide.source.note,
        "mpp_effective": plan.mpp,
        "mpp_target": spec.mpp,
        "mpp_x": resolution.mpp_x,
        "mpp_y": resolution.mpp_y,
        "mpp_source": resolution.source,
        "mpp_header": float("nan") if resolution.header_mpp is None else resolution.header_mpp,
        "n_positions": plan.n_positions,
        "tissue_area_mm2": tissue.area_mm2,
        "tissue_method": tissue.method,
        "tissue_threshold": tissue.threshold,
        "background": list(tissue.background),
        "background_source": tissue.background_source,
        "stain_reason": reason,
        **(stain.to_attributes() if stain is not None else {}),
    }
    return TileTable(
        slide_id=slide.slide_id,
        coords_l0=plan.coords_l0,
        edge_l0=plan.edge_l0,
        tile_px=plan.tile_px,
        overlap_px=spec.overlap_px,
        size_l0=(slide.width, slide.height),
        qc=qc,
        points=points,
        rings=rings,
        attributes=attributes,
    )


def write_thumbnail(image: RGB, path: Path) -> None:
    """Write a thumbnail as JPEG, atomically. It is made from the pyramid, never from label or macro images.

    Parameters
    ----------
    image : ndarray, (h, w, 3), uint8
    path : Path
    """
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not done:
        msg = f"TileError: thumbnail '{path.name}' of {image.shape} could not be encoded as JPEG. Lower thumbnail_px."
        raise TileError(msg)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())


def pick_shard(ids: Sequence[str], shard: tuple[int, int]) -> list[str]:
    """Return the k-th of n parts of the slides: every n-th of the sorted ids.

    Parameters
    ----------
    ids : sequence of str
    shard : tuple of 2 ints
        (k, n), k from 1.

    Returns
    -------
    list of str
    """
    number, total = shard
    return sorted(ids)[number - 1 :: total]


def describe_no_path(slide_id: str) -> str:
    """Say that the slide table names no file for a slide.

    Parameters
    ----------
    slide_id : str

    Returns
    -------
    str
    """
    return f"SlideError: slide '{slide_id}' has an empty path in the slide table. Add its file, or drop the slide."


def tile_cohort(
    slides: pd.DataFrame, spec: TilingSpec, *, folder: Path, ledger: Path, shard: tuple[int, int] = (1, 1), workers: int
) -> pd.DataFrame:
    """Tile the slides of a cohort in threads; each fails alone.

    Parameters
    ----------
    slides : DataFrame
        slide_id, path and, where known, mpp.
    spec : TilingSpec
    folder : Path
        The chapter's; per-slide files of all shards lie in it.
    ledger : Path
    shard : tuple of 2 ints
    workers : int

    Returns
    -------
    DataFrame
        The ledger: slide_id, stage, status, reason, seconds, key.

    Raises
    ------
    RunError
        When more than `spec.max_failed` slides failed, after all were tried.
    """
    table = slides.set_index("slide_id")
    stated = table["mpp"] if "mpp" in table else pd.Series(np.nan, index=table.index)

    def work(slide_id: str) -> tuple[str, str, str]:
        mpp = None if pd.isna(stated[slide_id]) else float(stated[slide_id])
        path = table.at[slide_id, "path"]
        if not isinstance(path, str | Path):
            raise SlideError(describe_no_path(slide_id))
        return tile_slide(slide_id, path, spec, folder=folder, mpp=mpp)

    with use_one_thread_each(workers):
        return run_batch(
            pick_shard(list(table.index), shard),
            work,
            stage=STAGE,
            path=ledger,
            workers=workers,
            max_failed=spec.max_failed,
            describe="tile slides",
        )


@contextmanager
def use_one_thread_each(workers: int) -> Iterator[None]:
    """Keep OpenCV from starting threads of its own inside each of ours, for the length of a `with` block.

    Parameters
    ----------
    workers : int
        With one worker OpenCV keeps its threads.

    Yields
    ------
    None
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1 if workers > 1 else before)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
