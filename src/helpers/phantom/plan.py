"""What one phantom slide is made of: the seam between the planted truth and the renderer.

The truth side fills a :class:`SlidePlan` per slide; the renderer turns it into pixels and maps, deterministically.
Everything geometric is in µm, so a plan means the same tissue at every resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from helpers.core.errors import PhantomError

ARTEFACTS: tuple[str, ...] = ("pen", "blur", "fold", "bubble")
"""Artefacts the renderer knows; each occurs at most once per slide."""

Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class SlidePlan:
    """Everything the renderer needs to draw one slide; equal plans give equal pixels.

    Parameters
    ----------
    slide_id : str
        Names the slide in errors; does not influence the pixels (the seed does).
    seed : int
        Root of every random stream of this slide, >= 0. Two slides of one case share drivers, not seeds.
    slide_um : float
        Edge of the square field, um.
    mpp : float
        Resolution of the written pixels, um per px. The tissue does not depend on it.
    stain_h, stain_e : tuple of 3 floats
        Optical density of haematoxylin and eosin in R, G, B; unit length, no negative entry. A property of the site.
    strength_h, strength_e : float
        Multiplier of each stain's concentration (1 = typical). Site level times the case's own variation.
    background : tuple of 3 floats
        R, G, B of clear glass, grey levels (0, 255].
    scanner_blur_um : float
        SD of the scanner's point spread, um.
    scanner_noise : float
        SD of the pixel noise, grey levels.
    jpeg_quality : int
        JPEG quality 1-100 the slide is written with. Carried for the writer, not used by the renderer.
    proliferation : float
        Latent proliferation z of the case. The mean of the proliferation map over invasive tumour equals it.
    proliferation_spread : float
        SD of the smooth spatial variation of z inside the tumour, z units.
    hotspot_count : int
        Number of hotspots on the slide (placed inside the tumour).
    hotspot_gain : float
        Height of a hotspot above its surroundings, z units.
    hotspot_um : float
        Gaussian radius (SD) of a hotspot, um.
    tubule : float
        Tubule formation component, continuous 1 (most nests form tubules) to 3 (solid), Nottingham direction.
    pleomorphism : float
        Nuclear pleomorphism component, continuous 1 (small, uniform) to 3 (large, varied).
    mitosis : float
        Mitotic component, continuous 1-3. Multiplies the mitotic rate on top of the local proliferation.
    nuclear_um : float
        Mean equivalent diameter of tumour nuclei before pleomorphism and proliferation act, um.
    nuclear_aspect : float
        Mean ratio of major to minor axis of tumour nuclei, >= 1.
    til_level : float
        Stromal TIL level, 0-1: the share of stroma inside and around the tumour that lymphocytes populate.
    tumour_fraction : float
        Share of the tissue area that is invasive tumour (nests with the stroma between them), 0-1.
    tumour_stroma : float
        Share of the invasive tumour area that is stroma between the nests, 0-1.
    cohesion : float
        1 = cohesive nests (ductal), 0 = single files and single cells (lobular).
    benign_fraction : float
        Share of the tissue area that is benign ducts and lobules, 0-1.
    fat_fraction : float
        Share of the tissue area that is fat, 0-1. What tumour, benign and fat leave over is stroma.
    collagen : float
        Multiplier of the eosin density of stromal fibres (1 = typical).
    stroma_cellularity : float
        Fibroblast nuclei per mm2 of stroma.
    sprite_family : int
        Set of drawn nuclei; families share none (an encoder is trained on another one than the book's slides).
    artefacts : tuple of str
        Subset of :data:`ARTEFACTS`, without repetition.

    Raises
    ------
    PhantomError
        When a field lies outside its range; the message names slide, field, value and range.
    """

    slide_id: str
    seed: int
    slide_um: float = 1500.0
    mpp: float = 0.5
    stain_h: Vector = (0.651, 0.701, 0.290)
    stain_e: Vector = (0.216, 0.801, 0.558)
    strength_h: float = 1.0
    strength_e: float = 1.0
    background: Vector = (243.0, 243.0, 243.0)
    scanner_blur_um: float = 0.30
    scanner_noise: float = 1.5
    jpeg_quality: int = 85
    proliferation: float = 0.0
    proliferation_spread: float = 0.4
    hotspot_count: int = 2
    hotspot_gain: float = 1.0
    hotspot_um: float = 120.0
    tubule: float = 2.0
    pleomorphism: float = 2.0
    mitosis: float = 2.0
    nuclear_um: float = 8.5
    nuclear_aspect: float = 1.25
    til_level: float = 0.15
    tumour_fraction: float = 0.55
    tumour_stroma: float = 0.4
    cohesion: float = 1.0
    benign_fraction: float = 0.08
    fat_fraction: float = 0.08
    collagen: float = 1.0
    stroma_cellularity: float = 500.0
    sprite_family: int = 0
    artefacts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be drawn."""
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise PhantomError(
                    f"slide {self.slide_id!r}: {name} is {value!r}, expected {low} to {high}. Correct the plan."
                )
        for name in ("stain_h", "stain_e"):
            _check_stain(self.slide_id, name, getattr(self, name))
        self._check_background()
        self._check_shares()
        self._check_artefacts()

    def _check_background(self) -> None:
        if len(self.background) != 3 or not all(0 < level <= 255 for level in self.background):
            raise PhantomError(
                f"slide {self.slide_id!r}: background is {self.background}, expected three grey levels in (0, 255]. "
                "Correct the plan."
            )

    def _check_shares(self) -> None:
        total = self.tumour_fraction + self.benign_fraction + self.fat_fraction
        if total > 1.0 + 1e-9:
            raise PhantomError(
                f"slide {self.slide_id!r}: tumour_fraction + benign_fraction + fat_fraction is {total:.3f}, "
                "expected at most 1. Lower one of them."
            )

    def _check_artefacts(self) -> None:
        unknown = [name for name in self.artefacts if name not in ARTEFACTS]
        if unknown or len(set(self.artefacts)) != len(self.artefacts):
            raise PhantomError(
                f"slide {self.slide_id!r}: artefacts are {self.artefacts}, expected a subset of {ARTEFACTS} "
                "without repetition. Correct the plan."
            )


RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "slide_um": (50.0, 20_000.0),
    "mpp": (0.1, 2.0),
    "strength_h": (0.2, 3.0),
    "strength_e": (0.2, 3.0),
    "scanner_blur_um": (0.0, 5.0),
    "scanner_noise": (0.0, 20.0),
    "jpeg_quality": (1, 100),
    "proliferation": (-6.0, 6.0),
    "proliferation_spread": (0.0, 3.0),
    "hotspot_count": (0, 50),
    "hotspot_gain": (0.0, 5.0),
    "hotspot_um": (10.0, 2_000.0),
    "tubule": (1.0, 3.0),
    "pleomorphism": (1.0, 3.0),
    "mitosis": (1.0, 3.0),
    "nuclear_um": (4.0, 20.0),
    "nuclear_aspect": (1.0, 3.0),
    "til_level": (0.0, 1.0),
    "tumour_fraction": (0.0, 1.0),
    "tumour_stroma": (0.0, 0.95),
    "cohesion": (0.0, 1.0),
    "benign_fraction": (0.0, 1.0),
    "fat_fraction": (0.0, 1.0),
    "collagen": (0.2, 3.0),
    "stroma_cellularity": (0.0, 5_000.0),
    "sprite_family": (0, 2**31 - 1),
}
"""Inclusive range of every number in a plan, in the field's own unit."""


def _check_stain(slide_id: str, name: str, vector: Vector) -> None:
    length = math.sqrt(sum(component * component for component in vector))
    if len(vector) != 3 or min(vector) < 0 or abs(length - 1.0) > 0.01:
        raise PhantomError(
            f"slide {slide_id!r}: {name} is {vector} with length {length:.4f}, expected three optical densities "
            ">= 0 of unit length. Divide the vector by its length."
        )
