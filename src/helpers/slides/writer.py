"""Write an image as a pyramidal slide that OpenSlide opens.

Used for the phantom's slides and to turn flat microscopy images into real slides. Only the pyramid is written: never a
label or macro image, never a date, never a program's version, so equal input gives equal bytes.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from helpers.core.errors import SlideError
from helpers.core.paths import atomic_write

Vendor = Literal["aperio", "generic"]

CLASSIC_LIMIT = 2 * 1024**3
"""Above this many raw bytes the file is a BigTIFF (offsets of classic TIFF end at 4 GiB)."""


def write_pyramid(
    path: str | Path,
    image: NDArray[np.uint8],
    *,
    mpp: float | None,
    vendor: Vendor = "aperio",
    tile_px: int = 256,
    quality: int = 90,
    downsamples: Sequence[float] = (4, 16),
    scanner: str = "",
) -> None:
    """Write a tiled, pyramidal JPEG TIFF; whole or not at all.

    Pixels are stored as YCbCr 4:2:0 JPEG tiles. A level is the area average of level 0, cropped on the right and at
    the bottom to whole output pixels, as scanners do. Levels below one pixel are an error.

    Parameters
    ----------
    path : str or Path
        Target; parents are made. `.svs` for vendor "aperio", `.tif` or `.tiff` for "generic" by custom.
    image : ndarray, (height, width, 3), uint8, RGB
        Level 0.
    mpp : float or None
        Resolution of level 0, um per px. None states no resolution: neither MPP nor AppMag, and TIFF's XResolution
        keeps its default of 1 without a unit.
    vendor : {"aperio", "generic"}
        "aperio" states mpp and magnification in the ImageDescription; "generic" in XResolution (px per cm).
    tile_px : int
        Tile edge, px, a multiple of 16.
    quality : int
        JPEG quality, 1-100.
    downsamples : sequence of float
        Downsample of each level below level 0, increasing, > 1.
    scanner : str
        Stated as ScanScope ID (aperio) or in the description (generic). Without "|", "=" or line breaks.

    Raises
    ------
    SlideError
        When the image, the resolution or the pyramid cannot be written as asked.

    References
    ----------
    Aperio's format as OpenSlide reads it, https://openslide.org/formats/aperio/; TIFF 6.0 and its Technical Note 2.
    """
    path = Path(path)
    _check_image(path, image)
    _check_options(path, mpp, vendor, tile_px, quality, scanner)
    _check_levels(path, image, downsamples)
    big = image.nbytes * 4 // 3 > CLASSIC_LIMIT
    with atomic_write(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=big, byteorder="<") as tiff:
        for number, downsample in enumerate((1.0, *downsamples)):
            level = reduce_image(image, downsample) if number else image
            description = _describe(
                image, level, vendor=vendor, mpp=mpp, tile_px=tile_px, quality=quality, scanner=scanner
            )
            resolution = _state_resolution(vendor, mpp, downsample)
            subfile = 1 if number and vendor == "generic" else 0
            _write_level(tiff, level, tile_px, quality, description=description, subfiletype=subfile, **resolution)


def reduce_image(image: NDArray[np.uint8], downsample: float) -> NDArray[np.uint8]:
    """Shrink an image by averaging areas.

    Parameters
    ----------
    image : ndarray, (height, width, 3), uint8
    downsample : float, >= 1

    Returns
    -------
    ndarray, (floor(height / downsample), floor(width / downsample), 3), uint8
    """
    height, width = (int(edge / downsample) for edge in image.shape[:2])
    cropped = image[: round(height * downsample), : round(width * downsample)]
    return np.asarray(cv2.resize(cropped, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def estimate_magnification(mpp: float) -> int:
    """Return the objective a scanner of this resolution would name: 5, 10, 20 or 40.

    The nearest to 10 / mpp on a log scale. Only printed into the header, as Aperio
    does; histobook itself never computes with a magnification.

    Parameters
    ----------
    mpp : float
        um per px.

    Returns
    -------
    int
    """
    return min((5, 10, 20, 40), key=lambda objective: abs(np.log(objective * mpp / 10.0)))


def _write_level(
    tiff: tifffile.TiffWriter, level: NDArray[np.uint8], tile_px: int, quality: int, **options: Any
) -> None:
    tiff.write(
        encode_tiles(level, tile_px=tile_px, quality=quality),
        shape=level.shape,
        dtype=level.dtype,
        tile=(tile_px, tile_px),
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        software=False,
        metadata=None,
        **options,
    )


def encode_tiles(level: NDArray[np.uint8], *, tile_px: int, quality: int) -> Iterator[bytes]:
    """Compress an image tile by tile, row by row; tiles over the edge repeat the last row and column.

    Parameters
    ----------
    level : ndarray, (height, width, 3), uint8, RGB
    tile_px : int
    quality : int

    Yields
    ------
    bytes
        One JPEG stream (YCbCr 4:2:0, own tables) per tile.
    """
    height, width = level.shape[:2]
    for y in range(0, height, tile_px):
        for x in range(0, width, tile_px):
            tile = level[y : y + tile_px, x : x + tile_px]
            short = ((0, tile_px - tile.shape[0]), (0, tile_px - tile.shape[1]), (0, 0))
            tile = np.pad(tile, short, mode="edge") if any(after for _, after in short) else np.ascontiguousarray(tile)
            yield bytes(
                imagecodecs.jpeg8_encode(
                    tile, level=quality, colorspace="rgb", outcolorspace="ycbcr", subsampling="420"
                )
            )


def _describe(
    image: NDArray[np.uint8],
    level: NDArray[np.uint8],
    *,
    vendor: Vendor,
    mpp: float | None,
    tile_px: int,
    quality: int,
    scanner: str,
) -> str:
    (height, width), (level_height, level_width) = image.shape[:2], level.shape[:2]
    if vendor == "generic":
        return scanner if level is image else ""
    size = f"{width}x{height} [0,0 {width}x{height}] ({tile_px}x{tile_px})"
    scaled = "" if level is image else f" -> {level_width}x{level_height}"
    head = f"Aperio format, written by histobook \r\n{size}{scaled} JPEG/RGB Q={quality}"
    fields = [] if mpp is None else [f"AppMag = {estimate_magnification(mpp)}", f"MPP = {_format_mpp(mpp)}"]
    fields += [f"ScanScope ID = {scanner}"] if scanner else []
    return "|".join([head, *fields]) if level is image else head


def _format_mpp(mpp: float) -> str:
    return f"{mpp:.4f}" if round(mpp, 4) == mpp else f"{mpp:.8g}"


def _state_resolution(vendor: Vendor, mpp: float | None, downsample: float) -> dict[str, Any]:
    if vendor == "aperio" or mpp is None:
        return {}
    px_per_cm = 10_000.0 / (mpp * downsample)
    return {"resolution": (px_per_cm, px_per_cm), "resolutionunit": "CENTIMETER"}


def _check_image(path: Path, image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        msg = (
            f"slide '{path.name}': image is {image.dtype} of shape {image.shape}, expected uint8 (height, width, 3). "
            "Convert it to 8-bit RGB."
        )
        raise SlideError(msg)


def _check_options(path: Path, mpp: float | None, vendor: str, tile_px: int, quality: int, scanner: str) -> None:
    if mpp is not None and not 0.01 <= mpp <= 100:
        msg = f"slide '{path.name}': mpp is {mpp}, expected 0.01 to 100 um per px. Give None when it is unknown."
        raise SlideError(msg)
    if vendor not in ("aperio", "generic"):
        msg = f"slide '{path.name}': vendor is {vendor!r}, expected 'aperio' or 'generic'."
        raise SlideError(msg)
    nearest = max(1, round(tile_px / 16)) * 16
    if tile_px != nearest:
        msg = f"slide '{path.name}': tile_px is {tile_px}, expected a multiple of 16. Take {nearest}."
        raise SlideError(msg)
    if not 1 <= quality <= 100:
        msg = f"slide '{path.name}': quality is {quality}, expected 1 to 100."
        raise SlideError(msg)
    if any(mark in scanner for mark in "|=\r\n") or not scanner.isascii():
        msg = f"slide '{path.name}': scanner is {scanner!r}, expected ASCII without '|', '=' or line breaks. Rename it."
        raise SlideError(msg)


def _check_levels(path: Path, image: NDArray[np.uint8], downsamples: Sequence[float]) -> None:
    steps = (1.0, *downsamples)
    if any(after <= before for before, after in itertools.pairwise(steps)):
        msg = f"slide '{path.name}': downsamples are {tuple(downsamples)}, expected increasing numbers above 1."
        raise SlideError(msg)
    if min(image.shape[:2]) / steps[-1] < 1:
        height, width = image.shape[:2]
        msg = (
            f"slide '{path.name}': a level at downsample {steps[-1]:g} of {width} × {height} px has no pixel. "
            "Drop that level."
        )
        raise SlideError(msg)
