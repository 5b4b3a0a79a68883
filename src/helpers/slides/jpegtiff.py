"""Tiled JPEG slides (Aperio, generic TIFF) read directly: every native tile is decoded once and stitched where asked.

OpenSlide decodes the same JPEG streams with the same library, then paints them through a premultiplied ARGB canvas and
hands out RGBA, which costs several times the decoding itself. Here the directory comes from tifffile, the bytes from
`os.pread`, the pixels from libjpeg-turbo; RGB is equal to OpenSlide's, bit for bit.

What is not such a slide is refused with a reason, and OpenSlide reads it. What OpenSlide calls damaged is damaged here
too: decoding stops on libjpeg's warnings, and then OpenSlide itself decides about the region.

Colour profiles (ICC) are not applied, as OpenSlide does not: colours are the scanner's, and stain methods see them.
"""

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import SlideError

if TYPE_CHECKING:
    from helpers.slides.reader import PixelSource

RGB = NDArray[np.uint8]
VENDORS: Final = ("aperio", "generic-tiff")
"""Formats whose tiles OpenSlide paints side by side, without overlaps or offsets."""
JPEG: Final = 7
PHOTOMETRIC: Final = {2: "rgb", 6: "ycbcr"}
CACHE_BYTES: Final = 128 * 1024**2
CACHE_ROWS: Final = 6
"""Rows of native tiles of level 0 kept decoded per open slide, at most the bytes above. Regions that are read in raster
order share native tiles with the regions beside and below them; more would only be memory that is touched anew."""
SOI: Final = b"\xff\xd8"
APP0: Final = b"\xff\xe0"
APP14: Final = b"\xff\xee"
ADOBE: Final = {
    "rgb": b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00",
    "ycbcr": b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01",
}
"""Adobe's marker, by which a JPEG stream says what its three components are; in a TIFF the directory says it."""


class NotDirectError(SlideError):
    """A slide, or a tile of it, is not one of those that are read directly; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class NativeLevel:
    """Where the native tiles of one level lie in the file.

    Attributes
    ----------
    width, height : int
        Of the level, px.
    tile_width, tile_height : int
        Of a native tile, px.
    offsets, sizes : ndarray, (n_tiles,), int64
        Bytes, in raster order; size 0 is a tile that was never written.
    colour : {'rgb', 'ycbcr'}
        What the directory calls the three components.
    tables : bytes
        Shared JPEG tables without their start and end; empty where every tile has its own.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    colour: str
    tables: bytes

    @property
    def n_across(self) -> int:
        """Native tiles in a row."""
        return -(-self.width // self.tile_width)

    def find_whole(self, x: int, y: int, width: int, height: int) -> int | None:
        """Return the number of the native tile that a region is, no more and no less.

        Parameters
        ----------
        x, y, width, height : int
            Px of the level.

        Returns
        -------
        int or None
        """
        if (width, height) != (self.tile_width, self.tile_height) or x % width or y % height:
            return None
        return y // height * self.n_across + x // width


def list_native_levels(
    path: Path, *, vendor: str, level_dimensions: tuple[tuple[int, int], ...]
) -> tuple[NativeLevel, ...]:
    """Find the native tiles of every level that OpenSlide lists.

    Parameters
    ----------
    path : Path
    vendor : str
        OpenSlide's name of the format.
    level_dimensions : tuple of (int, int)
        Width and height of each level, as OpenSlide lists them.

    Returns
    -------
    tuple of NativeLevel

    Raises
    ------
    NotDirectError
        When the slide is not a tiled JPEG TIFF through and through; says what it is.
    """
    import tifffile

    if vendor not in VENDORS:
        msg = f"{vendor} is not among {', '.join(VENDORS)}"
        raise NotDirectError(msg)
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
            return tuple(_match_level(pages, size, vendor=vendor) for size in level_dimensions)
    except (tifffile.TiffFileError, struct.error, ValueError, KeyError, IndexError, TypeError) as error:
        msg = f"its directory is unusual ({type(error).__name__}: {error})"
        raise NotDirectError(msg) from None


def _match_level(pages: list[Any], size: tuple[int, int], *, vendor: str) -> NativeLevel:
    """Return the one tiled page of this size as a level."""
    fitting = [page for page in pages if (page.imagewidth, page.imagelength) == size]
    if len(fitting) != 1:
        msg = f"{len(fitting)} tiled images of {size[0]} x {size[1]} px, expected 1"
        raise NotDirectError(msg)
    page = fitting[0]
    if int(page.compression) != JPEG:
        msg = f"compression is {getattr(page.compression, 'name', page.compression)}, expected JPEG"
        raise NotDirectError(msg)
    layout = (page.bitspersample, page.samplesperpixel, int(page.planarconfig))
    colour = PHOTOMETRIC.get(int(page.photometric))
    if layout != (8, 3, 1) or colour is None:
        msg = f"pixels are {layout} (bits, samples, planes) in colours {int(page.photometric)}, expected 8-bit RGB"
        raise NotDirectError(msg)
    level = NativeLevel(
        width=size[0], height=size[1], tile_width=page.tilewidth, tile_height=page.tilelength,
        offsets=np.asarray(page.dataoffsets, np.int64), sizes=np.asarray(page.databytecounts, np.int64),
        colour=colour, tables=(page.jpegtables or b"")[2:-2],
    )  # fmt: skip
    _check_tiles(level, vendor=vendor)
    return level


def _check_tiles(level: NativeLevel, *, vendor: str) -> None:
    expected = level.n_across * -(-level.height // level.tile_height)
    if not len(level.offsets) == len(level.sizes) == expected:
        msg = f"{len(level.offsets)} tile offsets and {len(level.sizes)} sizes, expected {expected}"
        raise NotDirectError(msg)
    if vendor == "aperio" and (level.sizes == 0).any():
        msg = "tiles are missing, which OpenSlide fills from another level"
        raise NotDirectError(msg)


def complete_stream(data: bytes, native: NativeLevel) -> bytes:
    """Put the colour marker and the shared tables into a tile's JPEG stream.

    Parameters
    ----------
    data : bytes
        As it lies in the file.
    native : NativeLevel

    Returns
    -------
    bytes

    Raises
    ------
    NotDirectError
        When the stream calls its components otherwise than the directory, which libjpeg would believe.
    """
    marker = data[2:4]
    says_other = marker == APP0 and native.colour == "rgb"
    says_other |= marker == APP14 and data[2:18] != ADOBE[native.colour]
    if says_other:
        msg = f"a tile's stream does not call its components {native.colour}, as the directory does"
        raise NotDirectError(msg)
    return SOI + ADOBE[native.colour] + native.tables + data[2:]


@dataclass(eq=False)
class HeldTile:
    """A decoded native tile and how many readers look at it now.

    Attributes
    ----------
    pixels : ndarray, (tile_height, tile_width, 3), uint8
    n_readers : int
    kept : bool
        Whether the cache still lists it.
    """

    pixels: RGB
    n_readers: int = 1
    kept: bool = False


class TileCache:
    """The native tiles that were decoded last, up to a number of bytes; safe to use from several threads.

    Tiles are decoded into memory that earlier tiles have left: touching fresh pages takes a third of the time that
    decoding a plain tile takes, and stops other threads meanwhile.

    Parameters
    ----------
    max_bytes : int
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._tiles: OrderedDict[tuple[int, int], HeldTile] = OrderedDict()
        self._spare: dict[tuple[int, ...], list[RGB]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, key: tuple[int, int], shape: tuple[int, int, int], decode: Callable[[RGB], None]) -> Iterator[RGB]:
        """Lend a tile for the length of a `with` block, decoded if need be.

        Parameters
        ----------
        key : tuple of 2 ints
            Level and number.
        shape : tuple of 3 ints
            (tile_height, tile_width, 3).
        decode : callable
            Fills an array of that shape.

        Yields
        ------
        ndarray, (tile_height, tile_width, 3), uint8
            Must not be kept.
        """
        tile = self._find(key)
        if tile is None:
            tile = HeldTile(self._find_room(shape))
            decode(tile.pixels)
            self._put(key, tile)
        try:
            yield tile.pixels
        finally:
            with self._lock:
                tile.n_readers -= 1
                self._reuse(tile)

    def _find(self, key: tuple[int, int]) -> HeldTile | None:
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
                tile.n_readers += 1
            return tile

    def _find_room(self, shape: tuple[int, int, int]) -> RGB:
        with self._lock:
            spare = self._spare.get(shape)
            if spare:
                return spare.pop()
        return np.empty(shape, np.uint8)

    def _put(self, key: tuple[int, int], tile: HeldTile) -> None:
        """Keep a tile, and forget the oldest ones beyond the limit."""
        with self._lock:
            if key not in self._tiles:  # another thread may have decoded it meanwhile
                self._tiles[key] = tile
                tile.kept = True
                self._n_bytes += tile.pixels.nbytes
            while self._n_bytes > self._max_bytes:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = self._tiles.popitem(last=False)[1]
        self._n_bytes -= oldest.pixels.nbytes
        oldest.kept = False
        self._reuse(oldest)

    def _reuse(self, tile: HeldTile) -> None:
        """Take back the memory of a tile that is neither listed nor read any more."""
        if not tile.kept and tile.n_readers == 0:
            self._spare.setdefault(tile.pixels.shape, []).append(tile.pixels)

    def forget(self) -> None:
        """Forget every tile; their memory is used again."""
        with self._lock:
            while self._tiles:
                self._drop_oldest()


class JpegTiffSource:
    """Pixels of a tiled JPEG TIFF, decoded tile by tile. Made by `open_source`.

    Parameters
    ----------
    path : Path
    levels : tuple of NativeLevel
    reference : PixelSource
        OpenSlide on the same file: states the properties, and decides where a native tile cannot be decoded here.
        Closed with this source.
    """

    name = "jpeg-tiff"
    note = ""

    def __init__(self, path: Path, *, levels: tuple[NativeLevel, ...], reference: "PixelSource") -> None:
        self._levels = levels
        self._reference = reference
        self.properties = reference.properties
        self.background = reference.background
        self.level_dimensions = tuple((level.width, level.height) for level in levels)
        self._cache = self._make_cache()
        self._file = os.open(path, os.O_RDONLY)

    def find_origin(self, level: int, x: int, y: int) -> tuple[float, float]:
        """Return where a pixel of a level begins: exactly where the level's downsample puts it.

        Parameters
        ----------
        level : int
        x, y : int
            Px of `level`.

        Returns
        -------
        tuple of 2 floats
            Level-0 px.
        """
        (width, height), (own_width, own_height) = self.level_dimensions[0], self.level_dimensions[level]
        return x * width / own_width, y * height / own_height

    def read_level(self, level: int, x: int, y: int, width: int, height: int, *, out: RGB | None = None) -> RGB:
        """Return pixels of a level.

        Parameters
        ----------
        level : int
        x, y : int
            Upper left corner, px of `level`.
        width, height : int
            Px of `level`; must lie inside it.
        out : ndarray, (height, width, 3), uint8, optional
            Contiguous; is filled and returned.

        Returns
        -------
        ndarray, (height, width, 3), uint8

        Raises
        ------
        SlideError
            When a native tile is damaged and OpenSlide says so too; never a white tile.
        """
        filled = np.empty((height, width, 3), np.uint8) if out is None else out
        try:
            self._stitch(level, x, y, filled)
        except NotDirectError:
            return self._reference.read_level(level, x, y, width, height, out=filled)
        return filled

    def _stitch(self, level: int, x: int, y: int, out: RGB) -> None:
        """Fill an array with the region whose upper left corner is (x, y)."""
        height, width = out.shape[:2]
        native = self._levels[level]
        number = native.find_whole(x, y, width, height)
        if number is not None:  # nothing to stitch, and nobody else needs this tile
            self._decode(level, number, out)
            return
        for row in range(y // native.tile_height, -(-(y + height) // native.tile_height)):
            for column in range(x // native.tile_width, -(-(x + width) // native.tile_width)):
                self._copy_part(level, (row, column), x, y, out)

    def _copy_part(self, level: int, place: tuple[int, int], x: int, y: int, out: RGB) -> None:
        """Copy what one native tile, given by row and column, has of a region."""
        native = self._levels[level]
        number = place[0] * native.n_across + place[1]
        shape = (native.tile_height, native.tile_width, 3)
        row, column = place[0] * native.tile_height, place[1] * native.tile_width
        top, left = max(row, y), max(column, x)
        bottom, right = min(row + shape[0], y + out.shape[0]), min(column + shape[1], x + out.shape[1])
        with self._cache.borrow((level, number), shape, lambda room: self._decode(level, number, room)) as tile:
            part = tile[top - row : bottom - row, left - column : right - column]
            out[top - y : bottom - y, left - x : right - x] = part

    def list_levels(self) -> tuple[NativeLevel, ...]:
        """Return the levels with the places of their native tiles.

        Returns
        -------
        tuple of NativeLevel
        """
        return self._levels

    def read_stream(self, level: int, number: int) -> bytes:
        """Return a native tile as it lies in the file, undecoded.

        Parameters
        ----------
        level : int
        number : int
            In raster order.

        Returns
        -------
        bytes
            Shorter than the directory says where the file ends before.
        """
        native = self._levels[level]
        return os.pread(self._file, int(native.sizes[number]), int(native.offsets[number]))

    def forget(self) -> None:
        """Empty the cache of decoded tiles."""
        self._cache.forget()

    def _make_cache(self) -> TileCache:
        finest = self._levels[0]
        row_bytes = finest.n_across * finest.tile_width * finest.tile_height * 3
        return TileCache(min(CACHE_BYTES, CACHE_ROWS * row_bytes))

    def _decode(self, level: int, number: int, out: RGB) -> None:
        """Decode a native tile into an array of its size."""
        import simplejpeg

        native = self._levels[level]
        size = int(native.sizes[number])
        if size == 0:
            out[:] = self.background
            return
        data = self.read_stream(level, number)
        try:
            tile = simplejpeg.decode_jpeg(complete_stream(data, native), "RGB", strict=True, buffer=out)
        except ValueError as error:
            raise NotDirectError(str(error)) from None
        if len(data) != size or data[:2] != SOI or tile.shape != out.shape:
            msg = f"native tile {number} has {len(data)} of {size} bytes and {tile.shape[1]} x {tile.shape[0]} px"
            raise NotDirectError(msg)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)
        self._reference.close()
