"""One small interface to a slide's pixels: RGB of a region, given in level-0 px, at a resolution in um per px.

`open_slide` decides the resolution once and returns a `Slide`. The pixels come from a `PixelSource`: `JpegTiffSource`
decodes tiled JPEG slides itself, OpenSlide is the reference and reads all others. Both give the same RGB. Label and
macro images are never touched.
"""

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import SlideError, TileError
from helpers.slides.jpegtiff import JpegTiffSource, NotDirectError, list_native_levels
from helpers.slides.resample import WHOLE, Box, is_whole, resample_area
from helpers.slides.resolution import Resolution, resolve_mpp

RGB = NDArray[np.uint8]
Reader = Literal["auto", "openslide"]
LEVEL_TOLERANCE = 5e-3
"""A level whose downsample exceeds the wanted one by less than this share still serves it (2.0005 for 2)."""
BLOCK_PX = 1024
"""Edge of the blocks a thumbnail is built from, output px."""
SCRATCH_BYTES = 16 * 1024**2
"""Largest region whose memory a thread keeps for the next one."""
OPAQUE = 0xFF000000
TIFF_FIELDS = {42: (2, 12, 4, 4), 43: (8, 20, 8, 8)}
"""By version (42 classic, 43 BigTIFF): bytes of a count, of an entry, of an offset; where the first offset lies."""
DAMAGED = "The file is damaged or incomplete: fetch or export it again, or take it off the slide table."


class PixelSource(Protocol):
    """What a reader of a file format must offer."""

    name: str
    note: str
    level_dimensions: tuple[tuple[int, int], ...]
    background: tuple[int, int, int]

    @property
    def properties(self) -> Mapping[str, str]:
        """Properties of the file, in OpenSlide's names."""
        ...

    def find_origin(self, level: int, x: int, y: int) -> tuple[float, float]:
        """Return where, in level-0 px, the pixels begin that `read_level` returns for a corner in px of the level."""
        ...

    def read_level(self, level: int, x: int, y: int, width: int, height: int, *, out: RGB | None = None) -> RGB:
        """Return (height, width, 3) pixels of a level, from a corner in px of that level; in `out` where given."""
        ...

    def close(self) -> None:
        """Give the file back."""
        ...


class OpenSlideSource:
    """Pixels through OpenSlide, every format it knows; transparent areas take the slide's background colour.

    Parameters
    ----------
    path : Path
    slide_id : str
        For messages.

    Raises
    ------
    SlideError
        When OpenSlide cannot open the file.
    """

    name = "openslide"
    note = ""

    def __init__(self, path: Path, slide_id: str) -> None:
        import openslide

        self._failure = openslide.OpenSlideError
        self._slide_id = slide_id
        try:
            self._handle = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError:
            raise SlideError(_describe_unknown(path, slide_id)) from None
        except openslide.OpenSlideError as error:
            msg = f"SlideError: slide '{slide_id}' ('{path.name}') cannot be opened: {error}. {DAMAGED}"
            raise SlideError(msg) from None
        self.level_dimensions = tuple(self._handle.level_dimensions)
        colour = self._handle.properties.get("openslide.background-color", "FFFFFF")
        self.background = (int(colour[0:2], 16), int(colour[2:4], 16), int(colour[4:6], 16))

    @property
    def properties(self) -> Mapping[str, str]:
        """Properties of the file, in OpenSlide's names."""
        return self._handle.properties

    def find_origin(self, level: int, x: int, y: int) -> tuple[float, float]:
        """Return the whole level-0 pixel from which OpenSlide reads; it interpolates where the level's own differ.

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
        return float(round(x * width / own_width)), float(round(y * height / own_height))

    def read_level(self, level: int, x: int, y: int, width: int, height: int, *, out: RGB | None = None) -> RGB:
        """Return pixels of a level.

        Parameters
        ----------
        level : int
        x, y : int
            Upper left corner, px of `level`.
        width, height : int
            Px of `level`.
        out : ndarray, (height, width, 3), uint8, optional
            Contiguous; is filled and returned.

        Returns
        -------
        ndarray, (height, width, 3), uint8

        Raises
        ------
        SlideError
            When the region cannot be decoded; never a white tile.
        """
        x_l0, y_l0 = (int(value) for value in self.find_origin(level, x, y))
        try:
            rgba = np.asarray(self._handle.read_region((x_l0, y_l0), level, (width, height)))
        except self._failure as error:
            msg = (
                f"SlideError: slide '{self._slide_id}': the region of {width} x {height} px at ({x_l0}, {y_l0}), level "
                f"{level}, cannot be decoded: {error}. {DAMAGED}"
            )
            raise SlideError(msg) from None
        pixels = composite(rgba, self.background)
        if out is None:
            return pixels
        np.copyto(out, pixels)
        return out

    def close(self) -> None:
        """Give the file back."""
        self._handle.close()


def composite(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> RGB:
    """Lay a transparent image on a background colour.

    Parameters
    ----------
    rgba : ndarray, (H, W, 4), uint8, not premultiplied
    background : tuple of 3 ints

    Returns
    -------
    ndarray, (H, W, 3), uint8
    """
    if int(np.ascontiguousarray(rgba).view("<u4").min()) >= OPAQUE:  # alpha is the highest byte of a pixel
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
    share = rgba[..., 3:].astype(np.float32) / 255
    mixed = rgba[..., :3] * share + np.asarray(background, np.float32) * (1 - share)
    return np.rint(mixed).astype(np.uint8)


def _describe_unknown(path: Path, slide_id: str) -> str:
    size = path.stat().st_size
    missing = find_missing_directory(path)
    with path.open("rb") as file:
        start = file.read(4)
    if missing is not None:
        found = f"is a TIFF cut short: it has {size} bytes and one of its directories should lie at byte {missing}"
    else:
        found = f"({size} bytes, begins with {start!r}) is of no format that OpenSlide reads"
    return f"SlideError: slide '{slide_id}' ('{path.name}') {found}. {DAMAGED}"


def find_missing_directory(path: Path) -> int | None:
    """Follow the chain of a TIFF's directories and return the first that lies beyond the end of the file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    int or None
        Byte offset; None where all directories are inside, or the file is no TIFF.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order: Literal["little", "big"] = "big" if start[:2] == b"MM" else "little"
        version = int.from_bytes(start[2:4], order)
        if start[:2] not in {b"II", b"MM"} or version not in TIFF_FIELDS or len(start) < 16:
            return None
        n_count, n_entry, n_offset, first = TIFF_FIELDS[version]
        offset, seen = int.from_bytes(start[first : first + n_offset], order), set[int]()
        while offset and offset not in seen:
            if offset + n_count > size:
                return offset
            seen.add(offset)
            file.seek(offset)
            n_entries = int.from_bytes(file.read(n_count), order)
            file.seek(n_entries * n_entry, 1)
            field = file.read(n_offset)
            offset = int.from_bytes(field, order) if len(field) == n_offset else size
    return None


@dataclass(frozen=True, kw_only=True)
class Region:
    """The pixels of one level that a box needs, and where the box lies in them.

    Attributes
    ----------
    level : int
    x, y : int
        Upper left corner, px of `level`.
    width, height : int
        Of what the level holds, px.
    n_x, n_y : int
        Of what the box covers, px; more than the above where a level ends a fraction of a pixel before the slide does:
        its last row or column then stands for what is missing.
    inner : Box
        The box, in px of `level` from the corner.
    """

    level: int
    x: int
    y: int
    width: int
    height: int
    n_x: int
    n_y: int
    inner: Box


class Scratch(threading.local):
    """Memory for pixels that are resampled at once: each thread's own, so that fresh pages are touched once."""

    def __init__(self) -> None:
        self._room: RGB = np.empty(0, np.uint8)

    def lend(self, height: int, width: int) -> RGB:
        """Lend an array until the same thread asks again.

        Parameters
        ----------
        height, width : int

        Returns
        -------
        ndarray, (height, width, 3), uint8
        """
        n_bytes = height * width * 3
        if n_bytes > SCRATCH_BYTES:
            return np.empty((height, width, 3), np.uint8)
        if self._room.size < n_bytes:
            self._room = np.empty(n_bytes, np.uint8)
        return self._room[:n_bytes].reshape(height, width, 3)


@dataclass(frozen=True)
class Slide:
    """An open slide with its resolution; a context manager. Made by `open_slide`.

    Attributes
    ----------
    slide_id : str
    path : Path
    source : PixelSource
    resolution : Resolution
    width, height : int
        Of level 0, px.
    level_downsamples : tuple of (float, float)
        Level-0 px per px of each level along x and y, unrounded (2.0005 stays 2.0005).
    """

    slide_id: str
    path: Path
    source: PixelSource
    resolution: Resolution
    width: int = field(init=False)
    height: int = field(init=False)
    level_downsamples: tuple[tuple[float, float], ...] = field(init=False)
    _scratch: "Scratch" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Derive the geometry from the levels' sizes."""
        sizes = self.source.level_dimensions
        (width, height) = sizes[0]
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "height", height)
        object.__setattr__(self, "_scratch", Scratch())
        object.__setattr__(self, "level_downsamples", tuple((width / w, height / h) for w, h in sizes))

    @property
    def mpp(self) -> float:
        """Resolution of level 0, mean of both axes, um per px."""
        return self.resolution.mpp

    @property
    def mpp_source(self) -> str:
        """Who states the resolution."""
        return self.resolution.source

    def __enter__(self) -> Self:
        """Return the slide."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.source.close()

    def read_region_l0(self, x_l0: int, y_l0: int, width_px: int, height_px: int, mpp: float) -> RGB:
        """Read a region at a resolution; both axes end up at `mpp`, also where the slide's differ.

        Parameters
        ----------
        x_l0, y_l0 : int
            Upper left corner, level-0 px.
        width_px, height_px : int
            Size of the result, px at `mpp`.
        mpp : float
            um per px of the result.

        Returns
        -------
        ndarray, (height_px, width_px, 3), uint8

        Raises
        ------
        TileError
            When the region leaves the slide.
        SlideError
            When it cannot be decoded.
        """
        width = width_px * mpp / self.resolution.mpp_x
        height = height_px * mpp / self.resolution.mpp_y
        return self.read_box(Box(left=x_l0, top=y_l0, width=width, height=height), width=width_px, height=height_px)

    def read_box(self, box: Box, *, width: int, height: int, out: RGB | None = None) -> RGB:
        """Read a box given in (fractional) level-0 px as `height` x `width` area means.

        Parameters
        ----------
        box : Box
            Level-0 px.
        width, height : int
            Of the result, px.
        out : ndarray, (height, width, 3), uint8, optional
            Contiguous; is filled and returned.

        Returns
        -------
        ndarray, (height, width, 3), uint8

        Raises
        ------
        TileError
            When the box leaves the slide.
        SlideError
            When it cannot be decoded.
        """
        region = self.plan_read(box, width=width, height=height)
        size = (region.width, region.height)
        if is_whole(region.inner, width, height) and size == (width, height):
            return self.source.read_level(region.level, region.x, region.y, width, height, out=out)
        room = self._scratch.lend(region.height, region.width)
        pixels = self.source.read_level(region.level, region.x, region.y, *size, out=room)
        return resample_area(_extend(pixels, region.n_x, region.n_y), region.inner, width=width, height=height, out=out)

    def plan_read(self, box: Box, *, width: int, height: int) -> Region:
        """Say which pixels of which level become a box of `height` x `width` px; nothing is read.

        Parameters
        ----------
        box : Box
            Level-0 px.
        width, height : int
            Of the result, px.

        Returns
        -------
        Region

        Raises
        ------
        TileError
            When the box leaves the slide.
        """
        self._check_inside(box)
        level = self.pick_level(min(box.width / width, box.height / height))
        down_x, down_y = self.level_downsamples[level]
        wanted = box.scale(down_x, down_y)
        x, y = math.floor(wanted.left + WHOLE), math.floor(wanted.top + WHOLE)
        x_l0, y_l0 = self.source.find_origin(level, x, y)
        left, top = max(0.0, (box.left - x_l0) / down_x), max(0.0, (box.top - y_l0) / down_y)
        n_x, n_y = math.ceil(left + wanted.width - WHOLE), math.ceil(top + wanted.height - WHOLE)
        inner = Box(left=left, top=top, width=wanted.width, height=wanted.height)
        own_width, own_height = self._clip(level, x, y, n_x, n_y)
        return Region(level=level, x=x, y=y, width=own_width, height=own_height, n_x=n_x, n_y=n_y, inner=inner)

    def _clip(self, level: int, x: int, y: int, n_x: int, n_y: int) -> tuple[int, int]:
        """Keep a read inside its level: a level rounds its size down, so its last pixel may be a fraction short."""
        width, height = self.source.level_dimensions[level]
        return max(1, min(n_x, width - x)), max(1, min(n_y, height - y))

    def _check_inside(self, box: Box) -> None:
        if min(box.left, box.top) < -WHOLE or box.right > self.width + WHOLE or box.bottom > self.height + WHOLE:
            msg = (
                f"TileError: slide '{self.slide_id}': a region from ({box.left:.1f}, {box.top:.1f}) to "
                f"({box.right:.1f}, {box.bottom:.1f}) leaves the slide of {self.width} x {self.height} px. "
                "Plan tiles inside the slide."
            )
            raise TileError(msg)

    def pick_level(self, downsample: float) -> int:
        """Return the coarsest level that is still at least as fine as wanted.

        Parameters
        ----------
        downsample : float
            Level-0 px per px of the result.

        Returns
        -------
        int
        """
        limit = downsample * (1 + LEVEL_TOLERANCE)
        fine = [level for level, pair in enumerate(self.level_downsamples) if max(pair) <= limit]
        return max(fine, key=lambda level: max(self.level_downsamples[level]), default=0)

    def read_thumbnail(self, max_px: int) -> RGB:
        """Read the whole slide small, block by block, so that a slide without coarse levels needs little memory.

        Parameters
        ----------
        max_px : int
            Longer edge of the result, px (the slide's own where that is smaller).

        Returns
        -------
        ndarray, (h, w, 3), uint8
            Pixels may differ from squares by the rounding of the shorter edge.
        """
        factor = max(1.0, max(self.width, self.height) / max_px)
        width, height = max(1, round(self.width / factor)), max(1, round(self.height / factor))
        return self.read_overview(width=width, height=height)

    def read_overview(self, *, width: int, height: int) -> RGB:
        """Read the whole slide as `height` x `width` area means.

        Parameters
        ----------
        width, height : int
            Px of the result.

        Returns
        -------
        ndarray, (height, width, 3), uint8
        """
        step_x, step_y = self.width / width, self.height / height
        block = max(16, int(BLOCK_PX * 4 / max(4.0, self._read_factor(min(step_x, step_y)))))
        out = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, block):
            for left in range(0, width, block):
                n_x, n_y = min(block, width - left), min(block, height - top)
                box = Box(left=left * step_x, top=top * step_y, width=n_x * step_x, height=n_y * step_y)
                out[top : top + n_y, left : left + n_x] = self.read_box(box, width=n_x, height=n_y)
        return out

    def _read_factor(self, downsample: float) -> float:
        """Px that are decoded per px of the result, along one axis."""
        return downsample / max(self.level_downsamples[self.pick_level(downsample)])


def _extend(pixels: RGB, width: int, height: int) -> RGB:
    """Repeat the last row or column where a level ends a fraction of a pixel before the slide does."""
    short_y, short_x = height - pixels.shape[0], width - pixels.shape[1]
    if short_x <= 0 and short_y <= 0:
        return pixels
    return np.pad(pixels, ((0, max(0, short_y)), (0, max(0, short_x)), (0, 0)), mode="edge")


def open_slide(
    path: str | Path,
    *,
    slide_id: str,
    mpp: float | None = None,
    fallback_mpp: float | None = None,
    reader: Reader = "auto",
) -> Slide:
    """Open a slide and decide its resolution.

    Parameters
    ----------
    path : str or Path
    slide_id : str
        For messages.
    mpp : float, optional
        From the slide table, um per px; outranks the file.
    fallback_mpp : float, optional
        Used where the file states no resolution, or an impossible one, um per px.
    reader : {'auto', 'openslide'}
        As `open_source`.

    Returns
    -------
    Slide
        A context manager.

    Raises
    ------
    SlideError
        When there is no such file, or no reader opens it.
    ResolutionError
        When no resolution is known.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"SlideError: slide '{slide_id}': no file at '{path}'. Mend its path in the slide table, or fetch it."
        raise SlideError(msg)
    source = open_source(path, slide_id, reader=reader)
    try:
        resolution = resolve_mpp(slide_id, source.properties, mpp=mpp, fallback_mpp=fallback_mpp)
    except BaseException:
        source.close()
        raise
    return Slide(slide_id=slide_id, path=path, source=source, resolution=resolution)


def open_source(path: Path, slide_id: str, *, reader: Reader = "auto") -> PixelSource:
    """Open a slide's pixels: directly where it is a tiled JPEG TIFF, through OpenSlide otherwise.

    Parameters
    ----------
    path : Path
    slide_id : str
        For messages.
    reader : {'auto', 'openslide'}

    Returns
    -------
    PixelSource
        Its `note` says why OpenSlide reads a slide that was to be read directly.

    Raises
    ------
    SlideError
        When OpenSlide cannot open the file.
    """
    reference = OpenSlideSource(path, slide_id)
    if reader == "openslide":
        return reference
    vendor = reference.properties.get("openslide.vendor", "an unnamed format")
    try:
        levels = list_native_levels(path, vendor=vendor, level_dimensions=reference.level_dimensions)
    except NotDirectError as error:
        reference.note = f"read through OpenSlide: {error}"
        return reference
    return JpegTiffSource(path, levels=levels, reference=reference)
