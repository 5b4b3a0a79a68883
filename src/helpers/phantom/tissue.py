"""Where the tissues of a phantom slide lie: outline, tumour, nests, tubules, stroma, fat, benign glands, hotspots.

Everything is laid out on a grid of about 2 um, in um, and knows nothing of pixels or stains.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Voronoi

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
    select_share,
)
from helpers.phantom.plan import SlidePlan

LAYOUT_UM = 2.0
"""Wanted pixel of the layout grid, um; the true one divides the slide's edge."""

TUBULE_WALL_UM = 11.0
"""Epithelium between a lumen and the stroma, um: one to two cells."""

ADIPOCYTE_UM = 56.0
"""Least distance between centres of fat cells, um (adipocytes measure 50 to 100 um)."""

VESSELS_PER_MM2 = 7.0
"""Small vessels cut per mm2 of stroma."""

Polygon = NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """The layout of one slide. Masks share one grid of `pixel_um`; polygons are (n, 2) x, y in um.

    Parameters
    ----------
    pixel_um : float
        um per pixel of the grid.
    tissue, tumour, nest, cleft, fat, benign : ndarray, (n, n), bool
        Tissue; invasive tumour area (nests and the stroma between them); invasive epithelium including its lumina;
        retraction clefts around nests; fat; benign lobules.
    depth : ndarray, (n, n), float32
        Distance to the edge of the nest, um, inside nests.
    outside : ndarray, (n, n), float32
        Distance to the nearest nest, um, outside nests.
    fibre : ndarray, (n, n), float32
        Potential whose contour lines are the collagen fibres, um.
    proliferation : ndarray, (n, n), float32
        Local proliferation, z.
    lumina, glands, gland_lumina, vacuoles, vessels, vessel_lumina : list of ndarray
        Outlines of lumina inside nests, of benign epithelium and its lumina, of fat vacuoles, of vessels and their
        lumina.
    """

    pixel_um: float
    tissue: Mask
    tumour: Mask
    nest: Mask
    cleft: Mask
    fat: Mask
    benign: Mask
    depth: Field
    outside: Field
    fibre: Field
    proliferation: Field
    lumina: list[Polygon] = field(default_factory=list)
    glands: list[Polygon] = field(default_factory=list)
    gland_lumina: list[Polygon] = field(default_factory=list)
    vacuoles: list[Polygon] = field(default_factory=list)
    vessels: list[Polygon] = field(default_factory=list)
    vessel_lumina: list[Polygon] = field(default_factory=list)

    def fill(self, polygons: list[Polygon]) -> Mask:
        """Rasterise polygons on the layout grid.

        Parameters
        ----------
        polygons : list of ndarray, (n, 2), um

        Returns
        -------
        ndarray, (n, n), bool
        """
        return fill_polygons(polygons, self.tissue.shape, self.pixel_um) > 0


def fill_polygons(polygons: list[Polygon], shape: tuple[int, int], pixel_um: float) -> NDArray[np.uint8]:
    """Rasterise polygons: 255 inside, 0 outside.

    Parameters
    ----------
    polygons : list of ndarray, (n, 2), x and y in um
    shape : tuple of int, (height, width)
    pixel_um : float

    Returns
    -------
    ndarray, (height, width), uint8
    """
    mask = np.zeros(shape, dtype=np.uint8)
    corners = [np.rint((polygon / pixel_um - 0.5) * 16).astype(np.int32) for polygon in polygons]
    for corner in corners:
        cv2.fillPoly(mask, [corner], 255, lineType=cv2.LINE_8, shift=4)
    return mask


def plan_tissue(plan: SlidePlan) -> Tissue:
    """Lay out the tissues of a slide.

    Parameters
    ----------
    plan : SlidePlan

    Returns
    -------
    Tissue
    """
    grid = _Grid(plan)
    tissue = _outline(grid)
    tumour, fat, benign = _share_out(grid, tissue)
    nest = _plan_nests(grid, tumour)
    depth, outside = measure_depth(nest, grid.pixel_um), measure_depth(~nest, grid.pixel_um)
    glands, gland_lumina = _plan_glands(grid, benign)
    stroma = tissue & ~nest & ~fat & ~benign
    vessels, vessel_lumina = _plan_vessels(grid, stroma & (outside > 12))
    return Tissue(
        pixel_um=grid.pixel_um,
        tissue=tissue,
        tumour=tumour,
        nest=nest,
        lumina=_plan_lumina(grid, nest, depth),
        cleft=_plan_clefts(grid, outside, nest),
        fat=fat,
        benign=benign,
        depth=depth,
        outside=outside,
        fibre=_plan_fibres(grid, outside),
        proliferation=_plan_proliferation(grid, nest),
        glands=glands,
        gland_lumina=gland_lumina,
        vacuoles=_plan_vacuoles(grid, fat),
        vessels=vessels,
        vessel_lumina=vessel_lumina,
    )


class _Grid:
    """The layout grid of a plan, with its named noise fields."""

    def __init__(self, plan: SlidePlan) -> None:
        self.plan = plan
        self.n = max(8, round(plan.slide_um / LAYOUT_UM))
        self.pixel_um = plan.slide_um / self.n
        self.axis = (np.arange(self.n) + 0.5) * self.pixel_um

    def rng(self, stream: str) -> np.random.Generator:
        return make_rng(self.plan.seed, stream)

    def noise(self, stream: str, wavelength_um: float) -> Field:
        return draw_noise(self.rng(stream), self.axis, self.axis, wavelength_um=wavelength_um)

    def count(self, share: float, mask: Mask) -> int:
        return round(share * int(np.count_nonzero(mask)))


def _outline(grid: _Grid) -> Mask:
    """Draw one piece of tissue with a ragged edge, about four fifths of the field."""
    rng, edge = grid.rng("outline"), grid.plan.slide_um
    centre_x, centre_y = edge * (0.5 + 0.03 * rng.uniform(-1, 1, 2))
    half_x, half_y = edge * rng.uniform(0.46, 0.52, 2)
    radius = np.sqrt(((grid.axis[:, None] - centre_y) / half_y) ** 2 + ((grid.axis - centre_x) / half_x) ** 2)
    ragged = 0.10 * grid.noise("outline coarse", 0.2 * edge) + 0.03 * grid.noise("outline fine", 45.0)
    ragged += 0.008 * grid.noise("outline finest", 10.0)
    return np.asarray(1.0 - radius + ragged > 0)


def _share_out(grid: _Grid, tissue: Mask) -> tuple[Mask, Mask, Mask]:
    """Give tumour, fat and benign lobules their planned shares of the tissue."""
    plan = grid.plan
    rough = 0.25 * grid.noise("region fine", 45.0)
    tumour = select_share(grid.noise("tumour", 260.0) + rough, tissue, grid.count(plan.tumour_fraction, tissue))
    rest = tissue & ~tumour
    fat = select_share(grid.noise("fat", 230.0) + rough, rest, grid.count(plan.fat_fraction, tissue))
    rest &= ~fat
    benign = select_share(grid.noise("benign", 200.0), rest, grid.count(plan.benign_fraction, tissue))
    return tumour, fat, benign


def _plan_nests(grid: _Grid, tumour: Mask) -> Mask:
    """Cut the tumour into nests and single files."""
    plan = grid.plan
    size = grid.rng("nest size").uniform(36.0, 52.0) * (0.85 + 0.15 * (plan.tubule - 1.0))
    shape = grid.noise("nests", size) + 0.5 * grid.noise("nests fine", size / 2.6)
    epithelium = 1.0 - plan.tumour_stroma
    solid = tumour & _select_cohesive(grid, tumour)
    nest = select_share(shape, solid, grid.count(epithelium, solid))
    loose = tumour & ~solid
    nest |= select_share(_draw_files(grid), loose, grid.count(0.6 * epithelium, loose))
    return nest


def _plan_lumina(grid: _Grid, nest: Mask, depth: Field) -> list[Polygon]:
    """Open round lumina in the share of the epithelium that forms tubules, a wall's width from the stroma."""
    rng = grid.rng("lumina")
    tubular = 0.02 + 0.46 * (3.0 - grid.plan.tubule)
    forms = select_share(grid.noise("tubular zone", 90.0), nest, grid.count(tubular, nest))
    room = np.where(forms & (depth > TUBULE_WALL_UM + 3.0), np.float32(9000), np.float32(0))
    centres = scatter_points(rng, room, grid.pixel_um)
    space = sample_at(depth, centres, grid.pixel_um) - TUBULE_WALL_UM + rng.uniform(-1.0, 1.0, len(centres))
    order = np.argsort(-space, kind="stable")  # the roomiest places first
    centres, space = centres[order], space[order]
    radii = np.minimum(space, 5.0 + 17.0 * rng.random(len(centres)) ** 2)
    kept = keep_apart(centres, 2.0 * radii + 1.7 * TUBULE_WALL_UM)
    return [centres[row] + radii[row] * _draw_lobes(rng, irregular=0.13) for row in kept]


def _select_cohesive(grid: _Grid, tumour: Mask) -> Mask:
    if grid.plan.cohesion >= 1.0:
        return tumour
    return select_share(grid.noise("cohesion", 180.0), tumour, grid.count(grid.plan.cohesion, tumour))


def _draw_files(grid: _Grid) -> Field:
    """Score pixels for single-file growth: high along thin, broken lines."""
    ridge = -np.abs(grid.noise("files", 26.0)) + np.float32(0.25) * grid.noise("file breaks", 16.0)
    return np.asarray(ridge, dtype=np.float32)


def _plan_clefts(grid: _Grid, outside: Field, nest: Mask) -> Mask:
    """Open retraction clefts beside some stretches of the nests' edge."""
    shrunk = grid.noise("clefts", 38.0)
    return ~nest & (outside < 2.2 + 1.2 * shrunk) & (shrunk > 0.75)


def _plan_fibres(grid: _Grid, outside: Field) -> Field:
    """Draw the potential whose contours are fibres: a wavy plane wave that bends around nests."""
    angle = grid.rng("fibre angle").uniform(0.0, np.pi)
    plane = grid.axis * np.cos(angle) + grid.axis[:, None] * np.sin(angle)
    bends = 70.0 * grid.noise("fibre bends", 300.0) + 14.0 * grid.noise("fibre waves", 80.0)
    ripples = 3.0 * grid.noise("fibre ripples", 22.0) + 0.9 * grid.noise("fibre crimp", 8.0)
    wrap = 0.9 * np.minimum(outside, 40.0) * (1.0 - np.minimum(outside, 40.0) / 80.0)
    potential = np.asarray(plane + bends + ripples + wrap, dtype=np.float32)
    return potential + _measure_flatness(potential, grid.pixel_um) * 9.0 * grid.noise("fibre whorls", 13.0)


def _measure_flatness(potential: Field, pixel_um: float) -> Field:
    """1 where the potential stands still and would draw no fibre, 0 where it rises by 0.6 per um or more."""
    down, right = np.gradient(cv2.blur(potential, (7, 7)), pixel_um)
    flat = np.clip(1.0 - np.sqrt(down * down + right * right) / np.float32(0.6), 0, 1)
    return np.asarray(cv2.blur(flat, (9, 9)), dtype=np.float32)


def _plan_proliferation(grid: _Grid, nest: Mask) -> Field:
    """Vary proliferation inside the tumour, with hotspots, around the planned mean over the nests."""
    plan, rng = grid.plan, grid.rng("hotspots")
    local = plan.proliferation_spread * grid.noise("proliferation", 220.0).astype(np.float64)
    rows = np.flatnonzero(nest)
    if rows.size == 0:
        return np.asarray(local + plan.proliferation, dtype=np.float32)
    for centre in rows[rng.integers(0, rows.size, plan.hotspot_count)]:
        y, x = divmod(int(centre), grid.n)
        square = (grid.axis[:, None] - grid.axis[y]) ** 2 + (grid.axis - grid.axis[x]) ** 2
        local += plan.hotspot_gain * np.exp(-square / (2.0 * plan.hotspot_um**2))
    steps = np.rint(local[nest] * 65536.0).astype(np.int64)  # an integer sum has no order
    return np.asarray(local - int(steps.sum()) / steps.size / 65536.0 + plan.proliferation, dtype=np.float32)


def _plan_glands(grid: _Grid, benign: Mask) -> tuple[list[Polygon], list[Polygon]]:
    """Fill benign lobules with acini, and their deepest parts with a duct."""
    rng, depth = grid.rng("glands"), measure_depth(benign, grid.pixel_um)
    ducts = scatter_points(rng, np.where(depth > 50, np.float32(600), np.float32(0)), grid.pixel_um)
    ducts = ducts[keep_apart(ducts, 170.0)]
    acini = scatter_points(rng, np.where(depth > 12, np.float32(3000), np.float32(0)), grid.pixel_um)
    radii = np.concatenate([rng.uniform(34, 52, len(ducts)), rng.uniform(15, 22, len(acini))])
    centres = np.concatenate([ducts, acini])
    kept = keep_apart(centres, 2.25 * radii)
    walls = rng.uniform(10.0, 13.0, len(centres))
    outer, inner = [], []
    for row in kept:
        shape = _draw_lobes(rng, irregular=0.05 if row >= len(ducts) else 0.09)
        outer.append(centres[row] + radii[row] * shape)
        inner.append(centres[row] + (radii[row] - walls[row]) * shape)
    return outer, inner


def _draw_lobes(rng: np.random.Generator, *, irregular: float, points: int = 48) -> Polygon:
    """Draw a star-shaped outline of mean radius 1 around the origin."""
    angle = np.arange(points) * (2 * np.pi / points)
    radius = np.ones(points)
    for wave, phase in zip((2, 3, 4, 5), rng.uniform(0, 2 * np.pi, 4), strict=True):
        radius += irregular * rng.standard_normal() * np.cos(wave * angle + phase) * 1.6 / wave
    return np.clip(radius, 0.5, 1.5)[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def _plan_vessels(grid: _Grid, stroma: Mask) -> tuple[list[Polygon], list[Polygon]]:
    rng = grid.rng("vessels")
    room = measure_depth(stroma, grid.pixel_um)
    centres = scatter_points(rng, np.where(room > 14, np.float32(3 * VESSELS_PER_MM2), np.float32(0)), grid.pixel_um)
    kept = centres[keep_apart(centres, 60.0)]
    outer, inner = [], []
    for centre in kept:
        radius = min(float(rng.uniform(7, 22)), float(sample_at(room, centre[None], grid.pixel_um)[0]) - 3)
        shape = _draw_lobes(rng, irregular=0.16)
        outer.append(centre + radius * shape)
        inner.append(centre + (radius - rng.uniform(2.0, 3.5)) * shape)
    return outer, inner


def _plan_vacuoles(grid: _Grid, fat: Mask) -> list[Polygon]:
    """Divide fat into rounded polygonal cells with thin walls."""
    if not fat.any():
        return []
    rng, margin = grid.rng("fat cells"), 2 * ADIPOCYTE_UM
    side = grid.plan.slide_um + 2 * margin
    seeds = rng.uniform(-margin, grid.plan.slide_um + margin, (int(6.0 * (side / ADIPOCYTE_UM) ** 2), 2))
    seeds = seeds[keep_apart(seeds, ADIPOCYTE_UM * np.exp(0.22 * rng.standard_normal(len(seeds))))]
    return _cut_cells(seeds, fat, grid.pixel_um)


def _cut_cells(seeds: Points, fat: Mask, pixel_um: float) -> list[Polygon]:
    mesh, cells = Voronoi(seeds), []
    edge = fat.shape[0] * pixel_um
    inside = (seeds.min(axis=1) >= 0) & (seeds.max(axis=1) < edge)
    inside &= sample_at(fat, seeds, pixel_um)
    for row in np.flatnonzero(inside):
        region = mesh.regions[mesh.point_region[row]]
        if region and -1 not in region:
            cells.append(_round_off(mesh.vertices[region], wall_um=1.1))
    return cells


def _round_off(corners: Polygon, *, wall_um: float) -> Polygon:
    """Shrink a convex polygon by the wall and cut its corners twice (Chaikin)."""
    spokes = corners - corners.mean(axis=0)
    length = np.sqrt((spokes * spokes).sum(axis=1, keepdims=True))
    outline = corners.mean(axis=0) + spokes * np.maximum(1.0 - wall_um / np.maximum(length, wall_um), 0.1)
    for _ in range(2):
        after = np.roll(outline, -1, axis=0)
        outline = np.stack([0.82 * outline + 0.18 * after, 0.18 * outline + 0.82 * after], axis=1).reshape(-1, 2)
    return outline
