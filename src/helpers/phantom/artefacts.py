"""What goes wrong on real slides: tissue folds, blurred patches, pen marks, air bubbles; each in a known place."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.phantom.fields import make_rng
from helpers.phantom.plan import SlidePlan
from helpers.phantom.sprites import PLANE_MAX, Plane

INKS: tuple[tuple[float, float, float], ...] = (
    (0.28, 0.62, 0.42),
    (0.22, 0.30, 0.72),
    (0.20, 0.19, 0.22),
    (0.80, 0.22, 0.25),
)
"""Share of R, G, B that green, blue, black and red pen let through."""


@dataclass(frozen=True)
class Region:
    """The rectangle an artefact may have changed.

    Parameters
    ----------
    name : str
    top, left, bottom, right : int
        px of the slide; bottom and right are past the end.
    """

    name: str
    top: int
    left: int
    bottom: int
    right: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the rectangle."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def add_tissue_artefacts(plan: SlidePlan, haematoxylin: Plane, eosin: Plane) -> tuple[Region, ...]:
    """Fold the tissue where the plan says so, in place.

    Parameters
    ----------
    plan : SlidePlan
    haematoxylin, eosin : ndarray, (height, width), int16

    Returns
    -------
    tuple of Region
        Grown by the reach of the scanner's blur.
    """
    if "fold" not in plan.artefacts:
        return ()
    rng = make_rng(plan.seed, "fold")
    mask = _draw_stroke(rng, plan, haematoxylin.shape, width_um=rng.uniform(22, 45), soft_um=3.0)
    region = _bound("fold", mask, grow=0)
    shift = max(1, round(rng.uniform(25, 45) / plan.mpp))
    cover = mask[region.window].astype(np.int32)
    for plane in (haematoxylin, eosin):
        part = plane[region.window]
        other = np.roll(part, (shift, -shift // 2), axis=(0, 1)).astype(np.int32)
        doubled = part + ((other + (part >> 2)) * cover >> 8)  # a second layer, a little out of focus and darker
        part[...] = np.minimum(doubled, PLANE_MAX)
    reach = int(np.ceil(2.5 * plan.scanner_blur_um / plan.mpp)) + 1
    return (_bound("fold", mask, grow=reach),)


def add_lens_artefacts(plan: SlidePlan, image: NDArray[np.uint8]) -> tuple[Region, ...]:
    """Add blur, bubble and pen where the plan says so, in place.

    Parameters
    ----------
    plan : SlidePlan
    image : ndarray, (height, width, 3), uint8

    Returns
    -------
    tuple of Region
    """
    draw = {"blur": _add_blur, "bubble": _add_bubble, "pen": _add_pen}
    return tuple(draw[name](plan, image) for name in draw if name in plan.artefacts)


def _add_blur(plan: SlidePlan, image: NDArray[np.uint8]) -> Region:
    """Put a patch out of focus."""
    rng = make_rng(plan.seed, "blur")
    centre, radius = plan.slide_um * rng.uniform(0.3, 0.7, 2), plan.slide_um * rng.uniform(0.12, 0.20)
    mask = _draw_blob(rng, plan, image.shape[:2], centre, radius, soft_um=0.25 * radius)
    region = _bound("blur", mask, grow=0)
    sigma = rng.uniform(2.5, 4.5) / plan.mpp
    part = image[region.window]
    _blend(part, cv2.GaussianBlur(part, (0, 0), sigma), mask[region.window])
    return region


def _add_bubble(plan: SlidePlan, image: NDArray[np.uint8]) -> Region:
    """Trap air under the cover slip: a dark rim, a pale and soft inside."""
    rng = make_rng(plan.seed, "bubble")
    centre, radius = plan.slide_um * rng.uniform(0.2, 0.8, 2), plan.slide_um * rng.uniform(0.05, 0.10)
    whole = _draw_blob(rng, plan, image.shape[:2], centre, radius, soft_um=2.0, irregular=0.02)
    inner = _draw_blob(rng, plan, image.shape[:2], centre, radius - 7.0, soft_um=5.0, irregular=0.02)
    region = _bound("bubble", whole, grow=0)
    part = image[region.window]
    _blend(part, cv2.convertScaleAbs(part, alpha=0.42), whole[region.window])
    pale = cv2.GaussianBlur(image[region.window], (0, 0), 1.5 / plan.mpp)
    _blend(part, cv2.convertScaleAbs(pale, alpha=1.0, beta=0.0), inner[region.window] // 4)
    lifted = cv2.convertScaleAbs(part, alpha=2.05, beta=18)
    _blend(part, lifted, inner[region.window])
    return region


def _add_pen(plan: SlidePlan, image: NDArray[np.uint8]) -> Region:
    """Draw a stroke of ink."""
    rng = make_rng(plan.seed, "pen")
    ink = np.asarray(INKS[int(rng.integers(len(INKS)))])
    mask = _draw_stroke(rng, plan, image.shape[:2], width_um=rng.uniform(50, 110), soft_um=6.0)
    region = _bound("pen", mask, grow=0)
    part = image[region.window]
    levels = np.rint(np.arange(256)[:, None] * ink[None, :]).astype(np.uint8)
    _blend(part, cv2.LUT(part, levels[:, None, :]), mask[region.window])
    return region


def _blend(part: NDArray[np.uint8], over: NDArray[np.uint8], cover: NDArray[np.uint8]) -> None:
    """Lay one image over another, in place and in integers."""
    share = cover[..., None].astype(np.int32)
    part[...] = (part.astype(np.int32) * (255 - share) + over.astype(np.int32) * share + 127) // 255


def _bound(name: str, mask: NDArray[np.uint8], *, grow: int) -> Region:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Region(
        name,
        max(0, int(rows[0]) - grow),
        max(0, int(columns[0]) - grow),
        min(mask.shape[0], int(rows[-1]) + 1 + grow),
        min(mask.shape[1], int(columns[-1]) + 1 + grow),
    )


def _draw_stroke(
    rng: np.random.Generator, plan: SlidePlan, shape: tuple[int, int], *, width_um: float, soft_um: float
) -> NDArray[np.uint8]:
    """Draw a bent line across part of the slide."""
    start, bend, end = (plan.slide_um * rng.uniform(0.12, 0.88, 2) for _ in range(3))
    t = np.linspace(0, 1, 40)[:, None]
    path = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    mask = np.zeros(shape, np.uint8)
    corners = np.rint(path / plan.mpp).astype(np.int32)
    cv2.polylines(mask, [corners], False, 255, thickness=max(1, round(width_um / plan.mpp)))
    return _soften(mask, soft_um / plan.mpp)


def _draw_blob(
    rng: np.random.Generator,
    plan: SlidePlan,
    shape: tuple[int, int],
    centre: NDArray[np.float64],
    radius: float,
    *,
    soft_um: float,
    irregular: float = 0.12,
) -> NDArray[np.uint8]:
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    bound = 1 + irregular * np.cos(2 * angle + rng.uniform(0, 6)) + 0.5 * irregular * np.cos(3 * angle)
    path = centre + radius * bound[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(path / plan.mpp).astype(np.int32)], 255)
    return _soften(mask, soft_um / plan.mpp)


def _soften(mask: NDArray[np.uint8], width_px: float) -> NDArray[np.uint8]:
    edge = 2 * max(1, round(width_px / 2)) + 1
    return np.asarray(cv2.blur(cv2.blur(mask, (edge, edge)), (edge, edge)))
