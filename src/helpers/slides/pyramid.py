"""A slide as a deep-zoom pyramid: each level half the one before, cut into square tiles, for viewers.

The geometry does not depend on the levels that the file happens to hold; pixels are area means of the level-0 px that
a tile covers. Level 0 is the finest.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from helpers.core.errors import TileError
from helpers.slides.reader import RGB, Slide
from helpers.slides.resample import Box

TILE_PX = 512
QUALITY = 80
MAX_FACTOR = 8.0
"""Px decoded per px of a tile, along one axis, above which it is built from parts: bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """The geometry of a deep-zoom pyramid.

    Attributes
    ----------
    width, height : int
        Of level 0, px.
    tile_px : int
        Edge of a tile; those at the right and lower edge are smaller.
    """

    width: int
    height: int
    tile_px: int = TILE_PX

    @property
    def n_levels(self) -> int:
        """Number of levels; the coarsest fits one tile."""
        return 1 + max(0, math.ceil(math.log2(max(self.width, self.height) / self.tile_px)))

    def measure_level(self, level: int) -> tuple[int, int]:
        """Return the size of a level.

        Parameters
        ----------
        level : int
            0 is the finest.

        Returns
        -------
        tuple of 2 ints
            Width and height, px; the last px may stand for less than 2 ** level px of level 0.
        """
        return -(-self.width // 2**level), -(-self.height // 2**level)

    def count_tiles(self, level: int) -> tuple[int, int]:
        """Return the number of tiles of a level.

        Parameters
        ----------
        level : int

        Returns
        -------
        tuple of 2 ints
            Columns and rows.
        """
        width, height = self.measure_level(level)
        return -(-width // self.tile_px), -(-height // self.tile_px)

    def list_tiles(self, level: int) -> Iterator[tuple[int, int]]:
        """Yield column and row of every tile of a level, in raster order.

        Parameters
        ----------
        level : int

        Yields
        ------
        tuple of 2 ints
        """
        columns, rows = self.count_tiles(level)
        yield from ((column, row) for row in range(rows) for column in range(columns))

    def locate_tile(self, level: int, column: int, row: int) -> tuple[Box, tuple[int, int]]:
        """Return where a tile lies and how large it is.

        Parameters
        ----------
        level, column, row : int

        Returns
        -------
        box : Box
            Level-0 px, inside the slide.
        size : tuple of 2 ints
            Width and height of the tile, px of its level.

        Raises
        ------
        TileError
            When the pyramid has no such tile.
        """
        if not 0 <= level < self.n_levels:
            msg = f"TileError: level {level} of a pyramid of {self.n_levels} levels. Ask for 0 (finest) or above."
            raise TileError(msg)
        columns, rows = self.count_tiles(level)
        if not (0 <= column < columns and 0 <= row < rows):
            msg = (
                f"TileError: tile (column {column}, row {row}) of level {level}, which has {columns} x {rows} tiles "
                "(columns x rows). Ask for one of them, counted from 0."
            )
            raise TileError(msg)
        step = self.tile_px * 2**level
        left, top = column * step, row * step
        width, height = min(step, self.width - left), min(step, self.height - top)
        size = (-(-width // 2**level), -(-height // 2**level))
        return Box(left=left, top=top, width=width, height=height), size


def read_pyramid_tile(slide: Slide, pyramid: Pyramid, *, level: int, column: int, row: int) -> RGB:
    """Read a tile of a slide's pyramid.

    Parameters
    ----------
    slide : Slide
    pyramid : Pyramid
        Of this slide.
    level, column, row : int

    Returns
    -------
    ndarray, (h, w, 3), uint8
        Area means.

    Raises
    ------
    TileError
        When the pyramid has no such tile.
    SlideError
        When it cannot be decoded.
    """
    box, (width, height) = pyramid.locate_tile(level, column, row)
    step = 2.0**level
    factor = step / max(slide.level_downsamples[slide.pick_level(step)])
    if factor <= MAX_FACTOR:
        return slide.read_box(box, width=width, height=height)
    out = np.empty((height, width, 3), np.uint8)
    part = max(16, int(pyramid.tile_px * MAX_FACTOR / factor))
    for top in range(0, height, part):
        for left in range(0, width, part):
            n_x, n_y = min(part, width - left), min(part, height - top)
            inner = _cut(box, left / width, top / height, n_x / width, n_y / height)
            out[top : top + n_y, left : left + n_x] = slide.read_box(inner, width=n_x, height=n_y)
    return out


def _cut(box: Box, left: float, top: float, width: float, height: float) -> Box:
    """Return a part of a box, given as shares of its width and height."""
    return Box(
        left=box.left + left * box.width,
        top=box.top + top * box.height,
        width=width * box.width,
        height=height * box.height,
    )


def encode_jpeg(pixels: RGB, *, quality: int = QUALITY) -> bytes:
    """Return pixels as a JPEG (4:2:0), the same bytes for the same pixels.

    Parameters
    ----------
    pixels : ndarray, (h, w, 3), uint8
    quality : int
        1 to 100.

    Returns
    -------
    bytes
    """
    import simplejpeg

    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorsubsampling="420"))


def encode_pyramid(slide: Slide, pyramid: Pyramid, *, max_bytes: int) -> dict[tuple[int, int, int], bytes]:
    """Return the coarse part of a pyramid as JPEGs: whole levels, from the coarsest, as many as bytes allow.

    Parameters
    ----------
    slide : Slide
    pyramid : Pyramid
        Of this slide.
    max_bytes : int
        Of all JPEGs together; the coarsest level is always in.

    Returns
    -------
    dict of (level, column, row) to bytes
    """
    kept: dict[tuple[int, int, int], bytes] = {}
    for level in reversed(range(pyramid.n_levels)):
        fresh, room = {}, max_bytes - sum(map(len, kept.values()))
        for column, row in pyramid.list_tiles(level):
            pixels = read_pyramid_tile(slide, pyramid, level=level, column=column, row=row)
            fresh[(level, column, row)] = encode_jpeg(pixels)
            room -= len(fresh[(level, column, row)])
            if room < 0 and kept:
                return kept
        kept |= fresh
    return kept
