"""Everything between the nuclei: fibres, cytoplasm, fat, lumina and glass, painted as stain planes."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.phantom.fields import Field, Mask, Points, draw_noise, make_rng
from helpers.phantom.morphology import Preparation
from helpers.phantom.plan import SlidePlan
from helpers.phantom.sprites import PLANE_MAX, PLANE_SCALE, Plane
from helpers.phantom.tissue import Polygon, Tissue, fill_polygons

FIBRE_CODES = 32_768
FIBRE_PER_UM = 32
"""Steps of the fibre potential per um; it is folded to and fro over FIBRE_CODES steps (1,023 um)."""

NOISE_CODE = 42.0
"""Grey levels per SD when a noise field travels as uint8 around 128."""

BAND_PX = 128
GRAIN_PX = 512

Soft = NDArray[np.uint8]


@dataclass(frozen=True)
class Optics:
    """Optical densities of the tissues (the stains' typical amounts; eosin, haematoxylin).

    Parameters
    ----------
    stroma, nest, gland, fat : tuple of float
        (eosin, haematoxylin) of collagen, tumour cytoplasm, benign cytoplasm and fat septa.
    """

    stroma: tuple[float, float] = (0.185, 0.035)
    nest: tuple[float, float] = (0.150, 0.135)
    gland: tuple[float, float] = (0.160, 0.120)
    fat: tuple[float, float] = (0.190, 0.030)


def paint_background(
    plan: SlidePlan,
    tissue: Tissue,
    preparation: Preparation,
    centres: Points,
    *,
    shape: tuple[int, int],
    mpp: float,
) -> tuple[Plane, Plane]:
    """Paint a slide without its cells.

    Parameters
    ----------
    plan : SlidePlan
    tissue : Tissue
    preparation : Preparation
    centres : ndarray, (n, 2), um
        Tumour nuclei, between which cell borders run.
    shape : tuple of int, (height, width)
        px.
    mpp : float
        um per px.

    Returns
    -------
    haematoxylin, eosin : ndarray, (height, width), int16
        Codes, 0 to PLANE_MAX.
    """
    canvas = _Canvas(plan, tissue, preparation, centres, shape, mpp)
    haematoxylin, eosin = np.empty(shape, np.int16), np.empty(shape, np.int16)
    for top in range(0, shape[0], BAND_PX):
        band = slice(top, top + BAND_PX)
        canvas.paint_band(band, haematoxylin[band], eosin[band])
    return haematoxylin, eosin


class _Canvas:
    """The fields and masks of a slide, brought to the painted grid once."""

    def __init__(
        self,
        plan: SlidePlan,
        tissue: Tissue,
        preparation: Preparation,
        centres: Points,
        shape: tuple[int, int],
        mpp: float,
    ) -> None:
        self.plan, self.tissue, self.preparation, self.shape, self.mpp = plan, tissue, preparation, shape, mpp
        self.optics = Optics()
        self.fibre_table, self.crack_table = _draw_profiles(plan)
        self.code = self._enlarge(_fold(tissue.fibre))
        self.nest = self._soften(tissue.nest)
        self.fat, self.lobule = self._feather(tissue.fat), self._feather(tissue.benign)
        self.solid = cv2.subtract(self._soften(tissue.tissue), self._soften(tissue.cleft))
        self.gland = self._draw(tissue.glands)
        hollow = [*tissue.lumina, *tissue.vacuoles, *tissue.gland_lumina, *tissue.vessel_lumina]
        self.hollow, self.vessel = self._draw(hollow), self._draw(tissue.vessels)
        self.dense, self.amplitude = self._noise("dense", 70.0), self._noise("bundles", 26.0)
        self.cracks = self._noise("cracks", 48.0)
        self.border, self.gaps = self._enlarge(_draw_borders(centres, plan.slide_um)), self._noise("gaps", 20.0)
        self.mottle, self.thick = self._noise("mottle", 5.5), self._noise("thickness", 260.0)
        axis = np.arange(GRAIN_PX) * mpp
        self.grain = draw_noise(make_rng(plan.seed, "grain"), axis, axis, wavelength_um=0.9)

    def _enlarge(self, layout: NDArray) -> NDArray:
        return np.asarray(cv2.resize(layout, self.shape[::-1], interpolation=cv2.INTER_LINEAR_EXACT))

    def _soften(self, mask: Mask) -> Soft:
        """Bring a mask to the painted grid with an edge about 1.5 um wide."""
        smooth = cv2.GaussianBlur(mask.astype(np.uint8) * np.uint8(255), (5, 5), 1.0)
        steep = np.clip((np.arange(256) - 127.5) * 3.0 + 127.5, 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(self._enlarge(smooth), steep))

    def _feather(self, mask: Mask) -> Soft:
        """Bring a mask to the painted grid with an edge about 30 um wide."""
        return np.asarray(self._enlarge(cv2.blur(mask.astype(np.uint8) * np.uint8(255), (15, 15))))

    def _draw(self, polygons: list[Polygon]) -> Soft:
        return np.asarray(cv2.blur(fill_polygons(polygons, self.shape, self.mpp), (3, 3)))

    def _noise(self, stream: str, wavelength_um: float) -> Soft:
        step = self.tissue.pixel_um * (4 if wavelength_um > 24 else 1)
        axis = (np.arange(max(2, round(self.plan.slide_um / step))) + 0.5) * step
        noise = draw_noise(make_rng(self.plan.seed, stream), axis, axis, wavelength_um=wavelength_um)
        return np.asarray(self._enlarge(np.clip(np.rint(128 + NOISE_CODE * noise), 0, 255).astype(np.uint8)))

    def paint_band(self, band: slice, haematoxylin: Plane, eosin: Plane) -> None:
        """Mix the tissues of some rows into the planes."""
        pink, blue = self._paint_stroma(band)
        mottle = _decode(self.mottle[band])
        gap = np.clip(_decode(self.gaps[band]) + np.float32(0.5), np.float32(-0.3), 1) * self.border[band]
        filled = 1 - np.float32(0.55 / 255) * gap  # cells part along their borders, or touch and look darker there
        nest, cytoplasm = self.optics.nest, self.preparation.cytoplasm
        _mix(pink, self.nest[band], filled * (np.float32(nest[0]) + np.float32(0.032) * mottle))
        _mix(blue, self.nest[band], filled * np.float32(cytoplasm) * (np.float32(nest[1]) + np.float32(0.030) * mottle))
        _mix(pink, self.gland[band], np.float32(self.optics.gland[0]))
        _mix(blue, self.gland[band], np.float32(self.optics.gland[1] * cytoplasm))
        present = self._find_present(band)
        for plane, target in ((pink, eosin), (blue, haematoxylin)):
            plane *= present
            target[...] = np.clip(np.rint(plane * np.float32(PLANE_SCALE)), 0, PLANE_MAX)

    def _paint_stroma(self, band: slice) -> tuple[Field, Field]:
        """Paint fibres: bundles of varying contrast, loose where lobules and fat are, split by thin cracks."""
        fibre = self.fibre_table[self.code[band]]
        dense, amplitude = _decode(self.dense[band]), _decode(self.amplitude[band])
        pink = np.float32(self.optics.stroma[0]) * (1 + np.float32(0.22) * dense)
        pink += np.float32(0.060) * fibre * np.clip(1 + np.float32(0.45) * amplitude, 0.1, 2)
        open_to = np.clip(_decode(self.cracks[band]) + np.float32(0.15), 0, 1)
        pink *= 1 - self.crack_table[self.code[band]] * open_to
        pink *= np.float32(self.plan.collagen)
        blue = np.float32(self.optics.stroma[1]) + np.float32(0.35) * np.maximum(np.float32(0.10) - pink, 0)
        _mix(pink, self.lobule[band], pink * np.float32(0.62))
        _mix(pink, self.fat[band], np.float32(0.3) * pink + np.float32(0.7 * self.optics.fat[0]))
        _mix(pink, self.vessel[band], np.float32(0.26))
        return pink, np.asarray(blue, np.float32)

    def _find_present(self, band: slice) -> Field:
        """How much tissue the light crosses: 0 on glass and in lumina, else around 1 with thickness and grain."""
        present = self.solid[band].astype(np.float32) * (255 - self.hollow[band].astype(np.float32))
        present *= np.float32(1 / 255**2)
        present *= 1 + np.float32(0.05) * _decode(self.thick[band])
        rows = np.arange(band.start, min(band.stop, self.shape[0])) % GRAIN_PX
        repeats = -(-self.shape[1] // GRAIN_PX)
        present *= 1 + np.float32(0.07) * np.tile(self.grain[rows], (1, repeats))[:, : self.shape[1]]
        return present


def _draw_borders(centres: Points, slide_um: float) -> Soft:
    """Draw the lines halfway between neighbouring cells, at 1 um per px."""
    edge = max(2, round(slide_um))
    empty = np.full((edge, edge), 255, np.uint8)
    if len(centres) < 2:
        return np.zeros_like(empty)
    column, row = np.clip((centres * (edge / slide_um)).astype(int), 0, edge - 1).T
    empty[row, column] = 0
    _, label = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    border = np.zeros_like(empty)
    border[:, 1:][label[:, 1:] != label[:, :-1]] = 255
    border[1:][label[1:] != label[:-1]] = 255
    return np.asarray(cv2.GaussianBlur(border, (3, 3), 0.7))


def _mix(plane: Field, cover: Soft, value: Field | np.float32) -> None:
    """Lay a tissue over a plane, in place."""
    share = cover.astype(np.float32)
    share *= np.float32(1 / 255)
    plane += share * (value - plane)


def _decode(code: Soft) -> Field:
    return (code.astype(np.float32) - np.float32(128)) * np.float32(1 / NOISE_CODE)


def _fold(potential: Field) -> NDArray[np.int16]:
    """Fold the potential to and fro, so that neighbours stay neighbours and int16 holds it."""
    turn = np.float32(2 * (FIBRE_CODES - 1) / FIBRE_PER_UM)
    phase = np.mod(potential, turn)
    return np.rint(np.minimum(phase, turn - phase) * FIBRE_PER_UM).astype(np.int16)


def _draw_profiles(plan: SlidePlan) -> tuple[Field, Field]:
    """Draw eosin (SD about 1) and cracks (0 to 1) across the fibres."""
    at = np.arange(FIBRE_CODES) / FIBRE_PER_UM
    rng, line = make_rng(plan.seed, "fibre profile"), np.zeros(1)
    waves = [draw_noise(rng, line, at, wavelength_um=size)[0] for size in (1.1, 2.8, 9.0)]
    cracks = draw_noise(rng, line, at, wavelength_um=3.6)[0]
    scale = np.float32(1.25)  # one axis only: the spline's SD there is the root of SPLINE_SD, not itself
    fibre = (np.float32(0.60) * waves[0] + np.float32(0.65) * waves[1] + np.float32(0.45) * waves[2]) / scale
    return fibre, np.clip((cracks / scale - np.float32(0.9)) * 2, 0, 1)
