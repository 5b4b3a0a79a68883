"""Pre-drawn nuclei and cells, ready to be stamped into the stain planes.

A sprite is drawn once per resolution from its own name, in um, and kept; a slide stamps some ten thousand of them.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from helpers.phantom.fields import Field, draw_noise, make_rng

PLANE_SCALE = 400
"""Codes of a stain plane per unit of optical density."""

PLANE_MAX = 1023
"""Largest code; one stain's optical density ends at 2.56."""

UNIT = 32
"""Fixed-point 1 of a stamp's darkness and contrast; both are clipped at `GAIN_MAX` so that int16 holds the sum."""

GAIN_MAX = (44, 72)

SIZE_STEP = 1.05
ANGLES = 4
"""Orientations drawn per quarter turn; the other quarters are views of them."""

VARIANTS = 5
NO_CAP = np.iinfo(np.int16).max

Plane = NDArray[np.int16]


@dataclass(frozen=True)
class Style:
    """How a kind of nucleus looks.

    Parameters
    ----------
    body, rim : float
        Haematoxylin of the nuclear body and its extra at the membrane, optical density.
    clump : float
        SD of the chromatin texture, optical density.
    clump_um : float
        Grain of the chromatin, um.
    nucleoli : float
        Expected nucleoli per nucleus.
    edge_um : float
        Width over which the edge fades, um.
    eosin_cap : float
        Eosin left over the nucleus, optical density.
    """

    body: float
    rim: float
    clump: float
    clump_um: float
    nucleoli: float = 0.0
    edge_um: float = 0.6
    eosin_cap: float = 0.13


STYLES: dict[str, Style] = {
    "tumour": Style(body=0.41, rim=0.15, clump=0.11, clump_um=1.15, nucleoli=0.7),
    "benign": Style(body=0.50, rim=0.12, clump=0.07, clump_um=0.9, nucleoli=0.15),
    "myoepithelial": Style(body=0.62, rim=0.05, clump=0.06, clump_um=0.9),
    "lymphocyte": Style(body=0.74, rim=0.06, clump=0.12, clump_um=1.0, edge_um=0.5),
    "fibroblast": Style(body=0.54, rim=0.06, clump=0.08, clump_um=0.9),
    "endothelial": Style(body=0.55, rim=0.05, clump=0.08, clump_um=0.9),
    "mitosis": Style(body=1.05, rim=0.0, clump=0.16, clump_um=0.8, edge_um=0.7),
    "apoptosis": Style(body=1.15, rim=0.0, clump=0.05, clump_um=1.0, edge_um=0.5),
}


@dataclass(frozen=True)
class Sprite:
    """One drawn cell, centred in its square.

    Parameters
    ----------
    body : ndarray, (n, n), int16
        Haematoxylin codes at darkness 1, 0 outside.
    clumps : ndarray, (n, n), int16
        Chromatin texture at contrast 1: codes around 0, of mean 0 over the nucleus.
    core : ndarray, (n, n), bool
        Where the nucleus hides what lies below.
    eosin_cap, eosin_floor : ndarray, (n, n), int16
        Most and least eosin that stays, codes.
    """

    body: Plane
    clumps: Plane
    core: NDArray[np.bool_]
    eosin_cap: Plane
    eosin_floor: Plane

    def turn(self, quarters: int) -> "Sprite":
        """Return the sprite turned by quarter turns (views, no copy)."""
        return Sprite(
            body=np.rot90(self.body, quarters),
            clumps=np.rot90(self.clumps, quarters),
            core=np.rot90(self.core, quarters),
            eosin_cap=np.rot90(self.eosin_cap, quarters),
            eosin_floor=np.rot90(self.eosin_floor, quarters),
        )


@lru_cache(maxsize=30_000)
def get_sprite(
    mpp: float, family: int, kind: str, size: int, aspect: int, rough: int, angle: int, variant: int
) -> Sprite:
    """Draw a sprite, or return the one drawn before.

    Parameters
    ----------
    mpp : float
        um per px of the planes it is stamped into.
    family : int
        Set of drawings; families share no nucleus.
    kind : str
        A key of :data:`STYLES`, or "erythrocyte".
    size : int
        Diameter step: the equivalent diameter is `SIZE_STEP ** size` um.
    aspect : int
        Ratio of axes, 1 + aspect / 8.
    rough : int
        Irregularity of the outline, in 0.025.
    angle : int
        0 to 4 * ANGLES - 1: direction of the major axis in steps of 90 / ANGLES degrees, from x towards y.
    variant : int
        Which of the drawings of this description.

    Returns
    -------
    Sprite
    """
    if angle >= ANGLES:
        upright = get_sprite(mpp, family, kind, size, aspect, rough, angle % ANGLES, variant)
        return upright.turn(-(angle // ANGLES))  # rot90 turns from y towards x
    rng = make_rng(family, f"{kind} {size} {aspect} {rough} {angle} {variant}")
    diameter, ratio = SIZE_STEP**size, 1.0 + aspect / 8.0
    major, minor = diameter * ratio**0.5, diameter / ratio**0.5
    turn = (angle + rng.uniform(-0.5, 0.5)) * np.pi / 2 / ANGLES
    if kind == "mitosis":
        return _draw_mitosis(rng, mpp, diameter, turn, variant)
    if kind == "apoptosis":
        return _draw_apoptosis(rng, mpp, diameter)
    if kind == "erythrocyte":
        return _draw_erythrocyte(rng, mpp, diameter)
    return _draw_nucleus(rng, mpp, STYLES[kind], major=major, minor=minor, turn=turn, rough=0.025 * rough)


class _Canvas:
    """A square of pixels around the origin, in um."""

    def __init__(self, mpp: float, reach_um: float) -> None:
        half = int(np.ceil(reach_um / mpp))
        self.axis = np.arange(-half, half + 1) * mpp
        self.reach_um = half * mpp
        self.extent_um = reach_um

    def rotate(self, turn: float) -> tuple[Field, Field]:
        """Coordinates along and across a direction."""
        x, y = self.axis[None, :], self.axis[:, None]
        along = x * np.cos(turn) + y * np.sin(turn)
        return along.astype(np.float32), (y * np.cos(turn) - x * np.sin(turn)).astype(np.float32)

    def noise(self, rng: np.random.Generator, wavelength_um: float) -> Field:
        """Noise whose lattice is anchored at the centre and sized by the drawing, not by the pixels."""
        anchor = (int(self.extent_um / wavelength_um) + 2) * wavelength_um + 2.0
        at = np.append(self.axis + anchor, 2 * anchor)
        return draw_noise(rng, at, at, wavelength_um=wavelength_um)[:-1, :-1]


def _measure_ellipse(
    rng: np.random.Generator, canvas: _Canvas, *, major: float, minor: float, turn: float, rough: float
) -> Field:
    """Distance inside (positive) or outside a rough ellipse, um."""
    along, across = canvas.rotate(turn)
    u, v = along * np.float32(2 / major), across * np.float32(2 / minor)
    radius = np.sqrt(u * u + v * v)
    bearing = np.arctan2(v, u)
    bound = np.ones_like(radius)
    for wave, phase in zip((2, 3, 4, 5), rng.uniform(0, 2 * np.pi, 4), strict=True):
        size = rough * rng.standard_normal() * 2.0 / wave
        bound += np.float32(size) * np.cos(np.float32(wave) * bearing + np.float32(phase))
    slope = np.float32(0.5) * np.sqrt(np.float32(major * minor))
    return np.asarray((bound - radius) * slope, dtype=np.float32)


def _fade(distance: Field, edge_um: float) -> Field:
    return np.clip(distance / np.float32(edge_um) + np.float32(0.5), 0, 1)


def _codes(optical_density: Field) -> Plane:
    return np.rint(optical_density * np.float32(PLANE_SCALE)).astype(np.int16)


def _draw_nucleus(
    rng: np.random.Generator,
    mpp: float,
    style: Style,
    *,
    major: float,
    minor: float,
    turn: float,
    rough: float,
) -> Sprite:
    canvas = _Canvas(mpp, major * (0.5 + 2.2 * rough) + 1.0)
    inside = _measure_ellipse(rng, canvas, major=major, minor=minor, turn=turn, rough=rough)
    cover = _fade(inside, style.edge_um)
    rim = np.clip(1 - np.abs(inside - np.float32(0.55)) / np.float32(0.55), 0, 1)
    body = cover * (np.float32(style.body) + np.float32(style.rim) * rim)
    grain = canvas.noise(rng, style.clump_um) + np.float32(0.6) * canvas.noise(rng, 0.55 * style.clump_um)
    clumps = np.float32(style.clump) * (grain + np.float32(0.35) * grain * np.abs(grain))
    for _ in range(int(rng.poisson(style.nucleoli))):
        reach = 0.25 * minor * rng.random()
        bearing, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 0.95)
        along, across = canvas.rotate(bearing)
        square = (along - np.float32(reach)) ** 2 + across**2
        clumps += np.float32(0.30) * np.clip(1.3 - square / np.float32(size * size), 0, 1)
    return _assemble(body, clumps, cover, inside, style.eosin_cap)


def _assemble(body: Field, clumps: Field, cover: Field, inside: Field, eosin_cap: float) -> Sprite:
    """Turn optical densities into codes; the texture's mean over the nucleus becomes 0 exactly (in integers)."""
    core = cover > 0.5
    texture = _codes(clumps)
    mean = int(texture[core].sum(dtype=np.int64)) / max(1, int(np.count_nonzero(core)))
    texture = np.rint((texture - np.float32(mean)) * np.clip(inside / np.float32(0.8), 0, 1)).astype(np.int16)
    cap = np.where(core, np.int16(round(eosin_cap * PLANE_SCALE)), np.int16(NO_CAP))
    return Sprite(_codes(body), texture, core, cap, np.zeros_like(cap))


def _draw_mitosis(rng: np.random.Generator, mpp: float, cell_um: float, turn: float, variant: int) -> Sprite:
    """Draw a metaphase plate, two anaphase plates or a prometaphase clump in a clear zone."""
    style, canvas = STYLES["mitosis"], _Canvas(mpp, 0.50 * cell_um + 1.5)
    along, across = canvas.rotate(turn)
    ragged = np.float32(0.45) * canvas.noise(rng, 1.1)
    if variant % VARIANTS < 2:
        plate = _measure_bar(along, across, half_um=0.34 * cell_um, thick_um=1.5) + ragged
    elif variant % VARIANTS < 3:
        gap = np.float32(rng.uniform(1.8, 3.0))
        plate = _measure_bar(along, np.abs(across) - gap, half_um=0.27 * cell_um, thick_um=1.1) + ragged
    else:
        plate = np.float32(0.23 * cell_um) - np.sqrt(along**2 + across**2) + np.float32(2.4) * ragged
    cover = _fade(plate, style.edge_um)
    clumps = np.float32(style.clump) * canvas.noise(rng, style.clump_um)
    sprite = _assemble(cover * np.float32(style.body), clumps, cover, plate, style.eosin_cap)
    halo = _fade(plate + np.float32(1.6), 1.2) > 0.5  # a clear zone follows the chromosomes
    body = np.maximum(sprite.body, np.where(halo, np.int16(0.08 * PLANE_SCALE), np.int16(0)))
    return Sprite(body, sprite.clumps, halo, sprite.eosin_cap, sprite.eosin_floor)


def _measure_bar(along: Field, across: Field, *, half_um: float, thick_um: float) -> Field:
    beyond = np.maximum(np.abs(along) - np.float32(half_um - thick_um), 0)
    return np.float32(thick_um) - np.sqrt(beyond * beyond + across * across)


def _draw_apoptosis(rng: np.random.Generator, mpp: float, cell_um: float) -> Sprite:
    """Draw a shrunken pink cell with one to three round, very dark fragments."""
    style, canvas = STYLES["apoptosis"], _Canvas(mpp, 0.62 * cell_um + 1.0)
    x, y = canvas.rotate(0.0)
    fragments = np.full(x.shape, -9, np.float32)
    for size in rng.uniform(0.9, 2.1, int(rng.integers(1, 4))):
        at = rng.uniform(-0.17, 0.17, 2) * cell_um
        fragments = np.maximum(fragments, np.float32(size) - np.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2))
    cover = _fade(fragments, style.edge_um)
    sprite = _assemble(cover * np.float32(style.body), np.zeros_like(x), cover, fragments, style.eosin_cap)
    cell = _fade(np.float32(0.38 * cell_um) - np.sqrt(x * x + y * y), 1.2)
    floor = np.where(sprite.core, np.float32(0), cell * np.float32(0.45))
    return Sprite(sprite.body, sprite.clumps, cell > 0.5, sprite.eosin_cap, _codes(floor))


def _draw_erythrocyte(rng: np.random.Generator, mpp: float, diameter: float) -> Sprite:
    canvas = _Canvas(mpp, 0.7 * diameter + 0.5)
    major, minor, turn = 1.1 * diameter, 0.9 * diameter, rng.uniform(0, 3)
    inside = _measure_ellipse(rng, canvas, major=major, minor=minor, turn=turn, rough=0.03)
    zero = np.zeros(inside.shape, np.int16)
    floor = _codes(_fade(inside, 0.7) * np.float32(0.50))
    return Sprite(zero, zero, zero > 0, np.full_like(zero, NO_CAP), floor)


def stamp_sprite(
    haematoxylin: Plane, eosin: Plane, sprite: Sprite, *, row: int, column: int, darkness: int, contrast: int
) -> None:
    """Stamp a sprite into the planes, in place; its square must lie inside them.

    Parameters
    ----------
    haematoxylin, eosin : ndarray, (height, width), int16
        Stain planes, codes.
    sprite : Sprite
    row, column : int
        Pixel of the centre.
    darkness, contrast : int
        Factors of body and texture; `UNIT` is 1.
    """
    half = sprite.body.shape[0] // 2
    window = (slice(row - half, row + half + 1), slice(column - half, column + half + 1))
    below, pink = haematoxylin[window], eosin[window]
    value = sprite.body * np.int16(darkness)
    value += sprite.clumps * np.int16(contrast)
    value >>= 5
    np.maximum(value, sprite.body >> 2, out=value)  # cleared chromatin keeps a quarter of the stain
    np.copyto(below, value, where=sprite.core)
    np.maximum(below, value, out=below)
    np.minimum(pink, sprite.eosin_cap, out=pink)
    np.maximum(pink, sprite.eosin_floor, out=pink)
