"""Draw a phantom H&E slide from its plan: pixels, truth maps, and the cells they show.

Layout in um (:mod:`~helpers.phantom.tissue`) → background planes (:mod:`~helpers.phantom.paint`) → cells stamped from
pre-drawn sprites (:mod:`~helpers.phantom.nuclei`) → optics, stains and noise (:mod:`~helpers.phantom.stains`) →
artefacts (:mod:`~helpers.phantom.artefacts`). What proliferation does to all this stands in
:mod:`~helpers.phantom.morphology`.

The planes hold optical density as integers, colours come from one look-up table, blurring and enlarging are
fixed-point: equal plans give equal pixels, bit for bit on one family of CPUs.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import PhantomError
from helpers.phantom.artefacts import Region, add_lens_artefacts, add_tissue_artefacts
from helpers.phantom.morphology import draw_preparation
from helpers.phantom.nuclei import KINDS, Cells, measure_reach, place_cells, stamp_cells
from helpers.phantom.paint import paint_background
from helpers.phantom.plan import SlidePlan
from helpers.phantom.sprites import Plane
from helpers.phantom.stains import add_noise, blur_plane, build_table, colour_planes
from helpers.phantom.tissue import Tissue, plan_tissue

__all__ = ["MAP_UM", "RenderedSlide", "SlidePlan", "render_slide"]

MAP_UM = 25.0
"""Wanted pixel of the truth maps, um; the true one divides the slide's edge."""

FINE_MPP = 0.40
"""Below this the background is painted at half resolution and enlarged; cells are always drawn at full resolution."""

LARGEST_PX = 32_000


@dataclass(frozen=True)
class RenderedSlide:
    """A drawn slide with its truth.

    Parameters
    ----------
    image : ndarray, (height, width, 3), uint8
        RGB at the plan's mpp.
    maps : dict of ndarray, (n, n), float32
        `proliferation`: mean z over the invasive epithelium of a pixel, NaN where there is none (weighted by `tumour`
        its mean is the plan's proliferation); `tumour`: share of the pixel that is invasive epithelium; `til`:
        lymphocytes per mm2; `nuclear_density`: nuclei of every kind per mm2.
    maps_um_per_px : float
        Pixel of the maps, um.
    cells : ndarray, (n_cells,)
        Every nucleus drawn: x_um, y_um, kind (index into `helpers.phantom.nuclei.KINDS`), diameter_um and more.
    counts : dict of str to int
        Nuclei per kind, lumina, vessels, fat cells; `tissue_um2`, `tumour_um2`, `nest_um2`.
    artefacts : tuple of Region
        Where artefacts lie; nothing outside was changed by them.
    """

    image: NDArray[np.uint8]
    maps: dict[str, NDArray[np.float32]]
    maps_um_per_px: float
    cells: Cells
    counts: dict[str, int]
    artefacts: tuple[Region, ...]


def render_slide(plan: SlidePlan) -> RenderedSlide:
    """Draw a slide.

    Parameters
    ----------
    plan : SlidePlan

    Returns
    -------
    RenderedSlide

    Raises
    ------
    PhantomError
        When the image would be larger than can be drawn in one piece.
    """
    edge_px = _count_pixels(plan)
    tissue, preparation = plan_tissue(plan), draw_preparation(plan)
    cells = place_cells(plan, tissue, preparation)
    haematoxylin, eosin = _draw_planes(plan, tissue, cells, edge_px)
    regions = add_tissue_artefacts(plan, haematoxylin, eosin)
    sigma_px = plan.scanner_blur_um / plan.mpp
    haematoxylin, eosin = blur_plane(haematoxylin, sigma_px), blur_plane(eosin, sigma_px)
    image = colour_planes(haematoxylin, eosin, build_table(plan, thickness=preparation.thickness))
    regions += add_lens_artefacts(plan, image)
    add_noise(image, plan)
    maps, map_um = _draw_maps(tissue, cells, plan.slide_um)
    return RenderedSlide(image, maps, map_um, cells, _count(tissue, cells), regions)


def _count_pixels(plan: SlidePlan) -> int:
    edge_px = round(plan.slide_um / plan.mpp)
    if edge_px > LARGEST_PX:
        msg = (
            f"slide {plan.slide_id!r}: {plan.slide_um:g} um at {plan.mpp:g} um per px is {edge_px} px wide, "
            f"expected at most {LARGEST_PX}. Lower slide_um or raise mpp."
        )
        raise PhantomError(msg)
    return edge_px


def _draw_planes(plan: SlidePlan, tissue: Tissue, cells: Cells, edge_px: int) -> tuple[Plane, Plane]:
    """Paint the background, give it a margin, stamp the cells, take the margin off again."""
    coarse = 2 if plan.mpp < FINE_MPP else 1
    painted_px = -(-edge_px // coarse)
    preparation = draw_preparation(plan)
    tumour = cells[np.isin(cells["kind"], [KINDS.index(kind) for kind in ("tumour", "mitosis", "apoptosis")])]
    centres = np.column_stack([tumour["x_um"], tumour["y_um"]])
    shape = (painted_px, painted_px)
    planes = paint_background(plan, tissue, preparation, centres, shape=shape, mpp=plan.mpp * coarse)
    margin_px = int(np.ceil(measure_reach(cells) / plan.mpp))
    haematoxylin, eosin = (_frame(plane, edge_px, coarse, margin_px) for plane in planes)
    stamp_cells(cells, haematoxylin, eosin, mpp=plan.mpp, margin_px=margin_px, family=plan.sprite_family)
    inner = slice(margin_px, margin_px + edge_px)
    return haematoxylin[inner, inner], eosin[inner, inner]


def _frame(plane: Plane, edge_px: int, coarse: int, margin_px: int) -> Plane:
    """Enlarge a painted plane to full resolution and put a margin around it."""
    framed = np.zeros((edge_px + 2 * margin_px,) * 2, np.int16)
    if coarse > 1:
        size = (plane.shape[1] * coarse, plane.shape[0] * coarse)
        plane = np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR_EXACT))
    framed[margin_px : margin_px + edge_px, margin_px : margin_px + edge_px] = plane[:edge_px, :edge_px]
    return framed


def _draw_maps(tissue: Tissue, cells: Cells, slide_um: float) -> tuple[dict[str, NDArray[np.float32]], float]:
    edge = max(1, round(slide_um / MAP_UM))
    map_um = slide_um / edge
    nest = tissue.nest & ~tissue.fill(tissue.lumina)
    area = _bin_pixels(np.ones(nest.shape), edge)
    tumour, weighted = _bin_pixels(nest, edge), _bin_pixels(nest * tissue.proliferation.astype(np.float64), edge)
    proliferation = np.full(tumour.shape, np.nan)
    np.divide(weighted, tumour, out=proliferation, where=tumour > 0)
    nuclei = cells[cells["kind"] != KINDS.index("erythrocyte")]
    til = cells[cells["kind"] == KINDS.index("lymphocyte")]
    maps = {
        "proliferation": proliferation,
        "tumour": tumour / area,
        "til": _bin_cells(til, edge, map_um),
        "nuclear_density": _bin_cells(nuclei, edge, map_um),
    }
    return {name: values.astype(np.float32) for name, values in maps.items()}, map_um


def _bin_pixels(field: NDArray, edge: int) -> NDArray[np.float64]:
    """Sum layout pixels into map pixels."""
    place = np.arange(field.shape[0]) * edge // field.shape[0]
    starts = np.searchsorted(place, np.arange(edge))
    rows = np.add.reduceat(field.astype(np.float64), starts, axis=0)
    return np.asarray(np.add.reduceat(rows, starts, axis=1))


def _bin_cells(cells: Cells, edge: int, map_um: float) -> NDArray[np.float64]:
    """Count cells per map pixel, per mm2."""
    row, column = (np.clip((cells[axis] / map_um).astype(int), 0, edge - 1) for axis in ("y_um", "x_um"))
    counts = np.bincount(row * edge + column, minlength=edge * edge).reshape(edge, edge)
    return counts / (map_um / 1000.0) ** 2


def _count(tissue: Tissue, cells: Cells) -> dict[str, int]:
    counts = {kind: int(np.count_nonzero(cells["kind"] == number)) for number, kind in enumerate(KINDS)}
    counts |= {"lumina": len(tissue.lumina), "vessels": len(tissue.vessels), "fat_cells": len(tissue.vacuoles)}
    square = tissue.pixel_um**2
    masks = {"tissue_um2": tissue.tissue, "tumour_um2": tissue.tumour, "nest_um2": tissue.nest}
    return counts | {name: round(np.count_nonzero(mask) * square) for name, mask in masks.items()}
