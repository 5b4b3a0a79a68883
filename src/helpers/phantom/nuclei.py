"""Which cells a phantom slide holds, where, and how each one looks; placed in um, stamped in pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helpers.phantom import morphology as effect
from helpers.phantom.fields import (
    Field,
    Mask,
    Points,
    draw_noise,
    keep_apart,
    make_rng,
    measure_depth,
    sample_at,
    scatter_points,
)
from helpers.phantom.morphology import Preparation
from helpers.phantom.plan import SlidePlan
from helpers.phantom.sprites import ANGLES, GAIN_MAX, SIZE_STEP, UNIT, VARIANTS, Plane, get_sprite, stamp_sprite
from helpers.phantom.tissue import Polygon, Tissue

KINDS: tuple[str, ...] = (
    "erythrocyte",
    "fibroblast",
    "endothelial",
    "myoepithelial",
    "benign",
    "lymphocyte",
    "tumour",
    "mitosis",
    "apoptosis",
)
"""Kinds of cells in the order in which they are drawn; `kind` in :data:`CELL` is an index into it."""

CELL = np.dtype(
    [
        ("x_um", "f8"),
        ("y_um", "f8"),
        ("kind", "u1"),
        ("diameter_um", "f4"),
        ("aspect", "f4"),
        ("angle", "f4"),
        ("rough", "f4"),
        ("darkness", "f4"),
        ("contrast", "f4"),
    ]
)
"""One cell: centre, kind, equivalent nuclear diameter, ratio of axes, direction of the major axis (radian from x
towards y), irregularity of the outline, factors of optical density and chromatin contrast."""

Cells = NDArray[np.void]


@dataclass(frozen=True)
class Scene:
    """What placing cells needs.

    Parameters
    ----------
    plan : SlidePlan
    tissue : Tissue
    preparation : Preparation
    open_space : ndarray, (n, n), bool
        Where no nucleus can lie: glass, lumina, vacuoles, clefts.
    stroma : ndarray, (n, n), bool
        Connective tissue, in and around the tumour, without vessels.
    """

    plan: SlidePlan
    tissue: Tissue
    preparation: Preparation
    open_space: Mask
    stroma: Mask

    def rng(self, stream: str) -> np.random.Generator:
        """Open a random stream of this slide."""
        return make_rng(self.plan.seed, stream)


def place_cells(plan: SlidePlan, tissue: Tissue, preparation: Preparation) -> Cells:
    """Place every cell of a slide.

    Parameters
    ----------
    plan : SlidePlan
    tissue : Tissue
    preparation : Preparation

    Returns
    -------
    ndarray, (n_cells,), :data:`CELL`
        In the order in which they are drawn.
    """
    scene = _set_scene(plan, tissue, preparation)
    placed = [
        _place_erythrocytes(scene),
        _place_fibroblasts(scene),
        _line_polygons(scene, "endothelial", tissue.vessels, inset_um=1.4, spacing_um=13.0),
        _line_polygons(scene, "myoepithelial", tissue.glands, inset_um=1.5, spacing_um=11.0),
        _place_benign(scene),
        _place_lymphocytes(scene),
        _place_tumour(scene),
    ]
    cells = np.concatenate(placed)
    inside = (np.minimum(cells["x_um"], cells["y_um"]) >= 0) & (
        np.maximum(cells["x_um"], cells["y_um"]) < plan.slide_um
    )
    cells = cells[inside]  # glands and vessels may reach over the edge of the field
    return cells[np.argsort(cells["kind"], kind="stable")]


def measure_reach(cells: Cells) -> float:
    """Measure how far the largest drawing can reach from its centre, um, with room to spare.

    Parameters
    ----------
    cells : ndarray, (n_cells,), :data:`CELL`

    Returns
    -------
    float
    """
    if len(cells) == 0:
        return 0.0
    major = cells["diameter_um"] * np.sqrt(cells["aspect"])
    return float((major * (0.6 + 2.4 * cells["rough"])).max()) + 4.0


def stamp_cells(cells: Cells, haematoxylin: Plane, eosin: Plane, *, mpp: float, margin_px: int, family: int) -> None:
    """Draw cells into the stain planes, in place.

    Parameters
    ----------
    cells : ndarray, (n_cells,), :data:`CELL`
    haematoxylin, eosin : ndarray, (height, width), int16
        Planes with a margin all round, codes.
    mpp : float
        um per px.
    margin_px : int
        Width of the margin, px; wider than half the largest sprite.
    family : int
        Set of drawings.
    """
    size = np.rint(np.log(cells["diameter_um"]) / np.log(SIZE_STEP)).astype(int)
    aspect = np.rint((cells["aspect"] - 1.0) * 8).astype(int)
    rough = np.rint(cells["rough"] / 0.025).astype(int)
    angle = np.floor(cells["angle"] / (np.pi / 2 / ANGLES)).astype(int) % (4 * ANGLES)
    row = np.floor(cells["y_um"] / mpp).astype(int) + margin_px
    column = np.floor(cells["x_um"] / mpp).astype(int) + margin_px
    darkness = np.clip(np.rint(cells["darkness"] * UNIT), 8, GAIN_MAX[0]).astype(int)
    contrast = np.clip(np.rint(cells["contrast"] * UNIT), 0, GAIN_MAX[1]).astype(int)
    variant = np.arange(len(cells)) % VARIANTS
    columns = (cells["kind"], size, aspect, rough, angle, variant, row, column, darkness, contrast)
    for kind, s, a, r, turn, v, y, x, dark, grain in zip(*(part.tolist() for part in columns), strict=True):
        sprite = get_sprite(mpp, family, KINDS[kind], s, a, r, turn, v)
        stamp_sprite(haematoxylin, eosin, sprite, row=y, column=x, darkness=dark, contrast=grain)


def _set_scene(plan: SlidePlan, tissue: Tissue, preparation: Preparation) -> Scene:
    hollow = tissue.fill([*tissue.lumina, *tissue.vacuoles, *tissue.gland_lumina, *tissue.vessel_lumina])
    open_space = ~tissue.tissue | tissue.cleft | hollow
    stroma = ~open_space & ~tissue.nest & ~tissue.fill([*tissue.glands, *tissue.vessels])
    return Scene(plan, tissue, preparation, open_space, stroma)


def _make_cells(kind: str, points: Points, rng: np.random.Generator, **columns: NDArray | float) -> Cells:
    """Fill a table of one kind; columns not given take neutral values and a random direction."""
    cells = np.zeros(len(points), dtype=CELL)
    cells["x_um"], cells["y_um"], cells["kind"] = points[:, 0], points[:, 1], KINDS.index(kind)
    cells["angle"] = rng.uniform(0, 2 * np.pi, len(points))
    cells["aspect"], cells["darkness"], cells["contrast"] = 1.0, 1.0, 1.0
    for name, value in columns.items():
        cells[name] = value
    return cells


def _spread(rng: np.random.Generator, points: Points, sd: float) -> NDArray[np.float64]:
    """Log-normal factors around 1, one per point."""
    return np.exp(sd * rng.standard_normal(len(points)))


def _find_slope(field: Field, points: Points, pixel_um: float) -> NDArray[np.float64]:
    """Direction in which a field rises fastest at points, radian from x towards y."""
    across, along = np.array([2.0 * pixel_um, 0.0]), np.array([0.0, 2.0 * pixel_um])
    right, left = (sample_at(field, points + shift, pixel_um) for shift in (across, -across))
    down, up = (sample_at(field, points + shift, pixel_um) for shift in (along, -along))
    return np.arctan2(np.asarray(down - up, np.float64), np.asarray(right - left, np.float64))


def _place_tumour(scene: Scene) -> Cells:
    """Pack tumour nuclei into the nests; proliferation crowds, enlarges and coarsens them where it is high."""
    plan, tissue, rng = scene.plan, scene.tissue, scene.rng("tumour cells")
    mean_um = plan.nuclear_um * (1.0 + 0.10 * (plan.pleomorphism - 2.0))
    spacing = 1.06 * mean_um / scene.preparation.cellularity**0.5
    room = tissue.nest & ~scene.open_space & (measure_depth(~scene.open_space, tissue.pixel_um) > 2.6)
    room &= tissue.depth > 2.0
    crowd = np.where(room, np.float32(3.2e6 / spacing**2), np.float32(0))
    points = scatter_points(rng, crowd, tissue.pixel_um)
    z = np.clip(sample_at(tissue.proliferation, points, tissue.pixel_um).astype(float), -effect.Z_LIMIT, effect.Z_LIMIT)
    kept = keep_apart(points, spacing * np.exp(-0.5 * effect.CROWDING_PER_Z * z))
    return _shape_tumour(scene, rng, points[kept], z[kept], mean_um)


def _shape_tumour(
    scene: Scene, rng: np.random.Generator, points: Points, z: NDArray[np.float64], mean_um: float
) -> Cells:
    plan, grade = scene.plan, scene.plan.pleomorphism - 1.0
    cells = _make_cells(
        "tumour",
        points,
        rng,
        diameter_um=mean_um * np.exp(effect.SIZE_PER_Z * z) * _spread(rng, points, 0.08 + 0.06 * grade),
        aspect=1.0 + (plan.nuclear_aspect - 1.0) * rng.gamma(4.0, 0.25, len(points)),
        rough=(0.02 + 0.03 * grade) * _spread(rng, points, 0.3),
        darkness=scene.preparation.darkness
        * np.exp(effect.DARKNESS_PER_Z * z)
        * _spread(rng, points, effect.DARKNESS_CELL_SD),
        contrast=scene.preparation.contrast
        * np.exp(effect.CHROMATIN_PER_Z * z + effect.CHROMATIN_PER_PLEOMORPHISM * (grade - 1.0))
        * _spread(rng, points, effect.CHROMATIN_CELL_SD),
    )
    edge = sample_at(scene.tissue.depth, points, scene.tissue.pixel_um) < 12.0
    slope = _find_slope(scene.tissue.depth, points, scene.tissue.pixel_um) + 0.4 * rng.standard_normal(len(points))
    cells["angle"] = np.where(edge, slope, cells["angle"]) % (2 * np.pi)
    return _divide_and_die(scene, rng, cells, z, mean_um)


def _divide_and_die(
    scene: Scene, rng: np.random.Generator, cells: Cells, z: NDArray[np.float64], mean_um: float
) -> Cells:
    """Turn some tumour nuclei into mitotic figures and some into apoptotic bodies."""
    component = effect.MITOSIS_PER_COMPONENT * (scene.plan.mitosis - 2.0)
    chance = rng.random(len(cells))
    divides = chance < effect.MITOTIC_FRACTION * np.exp(effect.MITOSIS_PER_Z * z + component)
    dies = ~divides & (1.0 - chance < effect.APOPTOTIC_FRACTION * np.exp(effect.APOPTOSIS_PER_Z * z))
    for turned, kind, cell_um in ((divides, "mitosis", 1.35), (dies, "apoptosis", 1.25)):
        cells["kind"][turned] = KINDS.index(kind)
        cells["diameter_um"][turned] = cell_um * mean_um  # of the whole cell, not its nucleus
        for column in ("aspect", "darkness", "contrast"):
            cells[column][turned] = 1.0
        cells["rough"][turned] = 0.0
    return cells


def _place_benign(scene: Scene) -> Cells:
    tissue, rng = scene.tissue, scene.rng("benign cells")
    epithelium = tissue.fill(tissue.glands) & ~scene.open_space
    depth = measure_depth(epithelium, tissue.pixel_um)
    points = scatter_points(rng, np.where(depth > 2.5, np.float32(60_000), np.float32(0)), tissue.pixel_um)
    points = points[keep_apart(points, 6.4)]
    return _make_cells(
        "benign",
        points,
        rng,
        diameter_um=6.3 * _spread(rng, points, 0.07),
        aspect=1.0 + 0.3 * rng.gamma(4.0, 0.25, len(points)),
        rough=0.02,
        darkness=scene.preparation.darkness * _spread(rng, points, 0.08),
        contrast=scene.preparation.contrast,
        angle=(_find_slope(depth, points, tissue.pixel_um) + 0.3 * rng.standard_normal(len(points))) % (2 * np.pi),
    )


def _place_lymphocytes(scene: Scene) -> Cells:
    """Scatter lymphocytes in patches over the tumour's stroma and front, few inside nests."""
    plan, tissue, rng = scene.plan, scene.tissue, scene.rng("lymphocytes")
    axis = (np.arange(tissue.tissue.shape[0]) + 0.5) * tissue.pixel_um
    patches = 1.25 * draw_noise(rng, axis, axis, wavelength_um=55.0).astype(np.float64)
    patches = np.minimum(np.exp(patches - 0.70), 4.0)
    front = scene.stroma & (tissue.tumour | (tissue.outside < effect.TIL_REACH_UM))
    inside = tissue.nest & ~scene.open_space
    per_mm2 = effect.LYMPHOCYTES_PER_MM2 * plan.til_level * patches * (front + effect.INTRAEPITHELIAL_SHARE * inside)
    per_mm2 += 25.0 * scene.stroma
    points = scatter_points(rng, np.asarray(per_mm2, np.float32), tissue.pixel_um)
    points = points[keep_apart(points, 5.6)]
    return _make_cells(
        "lymphocyte",
        points,
        rng,
        diameter_um=6.0 * _spread(rng, points, 0.07),
        aspect=1.0 + 0.15 * rng.gamma(2.0, 0.5, len(points)),
        rough=0.02,
        darkness=scene.preparation.darkness * _spread(rng, points, 0.07),
        contrast=scene.preparation.contrast,
    )


def _place_fibroblasts(scene: Scene) -> Cells:
    """Lay spindle nuclei along the fibres."""
    plan, tissue, rng = scene.plan, scene.tissue, scene.rng("fibroblasts")
    per_mm2 = np.float32(plan.stroma_cellularity) * scene.stroma * np.where(tissue.benign, 1.8, 1.0)
    points = scatter_points(rng, np.asarray(np.where(tissue.fat, 0.6, 1.0) * per_mm2, np.float32), tissue.pixel_um)
    points = points[keep_apart(points, 7.0)]
    along = _find_slope(tissue.fibre, points, tissue.pixel_um) + np.pi / 2 + 0.22 * rng.standard_normal(len(points))
    return _make_cells(
        "fibroblast",
        points,
        rng,
        diameter_um=5.4 * _spread(rng, points, 0.14),
        aspect=1.8 + 1.6 * rng.gamma(3.0, 1 / 3, len(points)),
        rough=0.025,
        darkness=scene.preparation.darkness * _spread(rng, points, 0.15),
        contrast=scene.preparation.contrast,
        angle=along % (2 * np.pi),
    )


def _line_polygons(scene: Scene, kind: str, outlines: list[Polygon], *, inset_um: float, spacing_um: float) -> Cells:
    """Lay flat nuclei along outlines."""
    rng, places, angles = scene.rng(kind), [np.zeros((0, 2))], [np.zeros(0)]
    for outline in outlines:
        centre = outline.mean(axis=0)
        edges = np.roll(outline, -1, axis=0) - outline
        around = float(np.sqrt((edges * edges).sum(axis=1)).sum())
        chosen = np.sort(rng.choice(len(outline), min(len(outline), max(3, int(around / spacing_um))), replace=False))
        spokes = outline[chosen] - centre
        length = np.sqrt((spokes * spokes).sum(axis=1, keepdims=True))
        places.append(centre + spokes * (1.0 - inset_um / length))
        angles.append(np.arctan2(edges[chosen, 1], edges[chosen, 0]))
    points, angle = np.concatenate(places), np.concatenate(angles)
    on_tissue = ~sample_at(scene.open_space, points, scene.tissue.pixel_um)
    points, angle = points[on_tissue], angle[on_tissue]
    size = 4.6 * _spread(rng, points, 0.12)
    aspect = 2.0 + rng.gamma(3.0, 0.25, len(points))
    return _make_cells(kind, points, rng, diameter_um=size, aspect=aspect, rough=0.02, angle=angle % (2 * np.pi))


def _place_erythrocytes(scene: Scene) -> Cells:
    tissue, rng = scene.tissue, scene.rng("erythrocytes")
    blood = tissue.fill(tissue.vessel_lumina) & tissue.tissue
    points = scatter_points(rng, np.where(blood, np.float32(9000), np.float32(0)), tissue.pixel_um)
    points = points[keep_apart(points, 5.0)]
    return _make_cells("erythrocyte", points, rng, diameter_um=6.2 * _spread(rng, points, 0.08))
