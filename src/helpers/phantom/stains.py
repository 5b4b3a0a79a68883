"""From stain planes to pixels by Beer and Lambert's law, through one look-up table."""

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.phantom.fields import make_rng
from helpers.phantom.plan import SlidePlan
from helpers.phantom.sprites import PLANE_MAX, PLANE_SCALE, Plane

BAND_PX = 512
"""Rows worked on at a time."""

NOISE_PX = 512
"""Edge of the noise tile that is repeated over a slide, px."""


def build_table(plan: SlidePlan, *, thickness: float = 1.0) -> NDArray[np.uint8]:
    """Tabulate the colour of every pair of stain amounts.

    Parameters
    ----------
    plan : SlidePlan
        Stain vectors, strengths and background are used.
    thickness : float
        Factor of both stains' concentrations.

    Returns
    -------
    ndarray, (PLANE_MAX + 1, PLANE_MAX + 1, 3), uint8
        R, G, B at [haematoxylin code, eosin code].
    """
    amount = np.arange(PLANE_MAX + 1) / PLANE_SCALE * thickness
    table = np.empty((PLANE_MAX + 1, PLANE_MAX + 1, 3), dtype=np.uint8)
    for channel in range(3):
        blue = 10.0 ** (-amount * plan.strength_h * plan.stain_h[channel])
        pink = 10.0 ** (-amount * plan.strength_e * plan.stain_e[channel])
        table[..., channel] = np.rint(plan.background[channel] * blue[:, None] * pink[None, :])
    return table


def colour_planes(haematoxylin: Plane, eosin: Plane, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Look up the colour of every pixel.

    Parameters
    ----------
    haematoxylin, eosin : ndarray, (height, width), int16
        Codes, 0 to PLANE_MAX.
    table : ndarray, (PLANE_MAX + 1, PLANE_MAX + 1, 3), uint8

    Returns
    -------
    ndarray, (height, width, 3), uint8
    """
    image = np.empty((*haematoxylin.shape, 3), dtype=np.uint8)
    for top in range(0, len(image), BAND_PX):
        band = slice(top, top + BAND_PX)
        places = cv2.merge([eosin[band], haematoxylin[band]])  # remap asks for x, then y
        cv2.remap(table, places, None, cv2.INTER_NEAREST, dst=image[band])
    return image


def blur_plane(plane: Plane, sigma_px: float) -> Plane:
    """Blur a plane by a Gaussian, in fixed-point arithmetic.

    Parameters
    ----------
    plane : ndarray, (height, width), int16, not negative
    sigma_px : float
        SD, px; below 0.2 nothing is done.

    Returns
    -------
    ndarray, (height, width), int16
    """
    if sigma_px < 0.2:
        return plane
    edge = 2 * max(1, int(np.ceil(2.5 * sigma_px))) + 1
    return np.asarray(cv2.GaussianBlur(plane.view(np.uint16), (edge, edge), sigma_px)).view(np.int16)


def add_noise(image: NDArray[np.uint8], plan: SlidePlan) -> None:
    """Add the scanner's noise, in place: one tile of Gaussian grey-level noise, repeated.

    Parameters
    ----------
    image : ndarray, (height, width, 3), uint8
    plan : SlidePlan
    """
    if plan.scanner_noise == 0:
        return
    rng = make_rng(plan.seed, "noise")
    grey = rng.standard_normal((NOISE_PX, NOISE_PX, 1)) + 0.5 * rng.standard_normal((NOISE_PX, NOISE_PX, 3))
    level = np.rint(grey * (plan.scanner_noise / 1.25**0.5)).astype(np.int16)
    lift, drop = np.clip(level, 0, 255).astype(np.uint8), np.clip(-level, 0, 255).astype(np.uint8)
    for top in range(0, image.shape[0], NOISE_PX):
        for left in range(0, image.shape[1], NOISE_PX):
            part = image[top : top + NOISE_PX, left : left + NOISE_PX]
            height, width = part.shape[:2]
            brighter = cv2.add(part, lift[:height, :width])
            part[...] = cv2.subtract(brighter, drop[:height, :width])
