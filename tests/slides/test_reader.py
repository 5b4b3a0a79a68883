"""Frames, levels and failures of the reader; non-square slides and regions pin (w, h) and (x, y)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.core.errors import ResolutionError, SlideError, TileError
from helpers.slides.reader import PixelSource, Slide, composite, find_missing_directory, open_slide
from helpers.slides.resample import Box, resample_area
from helpers.slides.resolution import Resolution

MakeSlide = Callable[..., Path]


class ArraySource:
    """A second reader: pixels from arrays. It stands for any future one, and shows what the interface asks."""

    name = "array"
    note = ""
    background = (255, 255, 255)

    def __init__(self, levels: list[NDArray[np.uint8]]) -> None:
        self._levels = levels
        self.level_dimensions = tuple((level.shape[1], level.shape[0]) for level in levels)
        self.properties: dict[str, str] = {}
        self.reads: list[tuple[int, int, int, int, int]] = []

    def find_origin(self, level: int, x: int, y: int) -> tuple[float, float]:
        (width, height), (own_width, own_height) = self.level_dimensions[0], self.level_dimensions[level]
        return x * width / own_width, y * height / own_height

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int, *, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        self.reads.append((level, x, y, width, height))
        pixels = self._levels[level][y : y + height, x : x + width]
        if out is None:
            return pixels
        out[:] = pixels
        return out

    def close(self) -> None:
        self._levels = []


def make_array_slide(levels: list[NDArray[np.uint8]], mpp_x: float, mpp_y: float | None = None) -> Slide:
    source: PixelSource = ArraySource(levels)
    resolution = Resolution(mpp_x=mpp_x, mpp_y=mpp_y or mpp_x, source="slides.csv", header_mpp=None)
    return Slide(slide_id="array", path=Path("array"), source=source, resolution=resolution)


def make_ramp(width: int, height: int) -> NDArray[np.uint8]:
    """Red counts columns, green counts rows: where a pixel comes from can be read off it."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x % 256, y % 256, np.full_like(x, 77)], axis=-1).astype(np.uint8)


def test_a_region_is_height_by_width_and_starts_at_x_then_y() -> None:
    slide = make_array_slide([make_ramp(240, 180)], 0.5)
    region = slide.read_region_l0(30, 100, 50, 20, 0.5)
    assert region.shape == (20, 50, 3)
    assert tuple(region[0, 0]) == (30, 100, 77)
    assert tuple(region[-1, -1]) == (79, 119, 77)


def test_pixels_are_those_openslide_reads(make_slide: MakeSlide, tissue_image: NDArray[np.uint8]) -> None:
    import openslide

    path = make_slide(tissue_image)
    plain = np.asarray(openslide.OpenSlide(path).read_region((333, 222), 0, (150, 90)).convert("RGB"))
    with open_slide(path, slide_id="S-1") as slide:
        assert (slide.width, slide.height) == (900, 700)
        assert (slide.read_region_l0(333, 222, 150, 90, 0.5) == plain).all()


def test_coarser_resolution_is_the_area_mean_of_level_0() -> None:
    image = np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    slide = make_array_slide([image], 0.25)
    found = slide.read_region_l0(16, 8, 40, 30, 0.5)
    expected = image[8:68, 16:96].reshape(30, 2, 40, 2, 3).mean(axis=(1, 3))
    assert np.abs(found - expected).max() <= 0.51


def test_axes_of_different_resolution_come_out_square() -> None:
    slide = make_array_slide([make_ramp(200, 200)], 0.5, 0.4)
    region = slide.read_region_l0(0, 0, 100, 100, 0.5)
    assert region[-1, 0, 1] == pytest.approx(124, abs=1), "100 px at 0.5 um are 125 rows of 0.4 um"
    assert region[0, -1, 0] == 99


@pytest.mark.parametrize(("wanted", "level"), [(0.9, 0), (1.0, 0), (1.99, 0), (2.0, 1), (2.5, 1), (4.0, 2), (50.0, 2)])
def test_the_coarsest_level_that_is_fine_enough_is_read(wanted: float, level: int) -> None:
    sizes = [(4443, 3567), (2221, 1783), (1110, 891)]
    slide = make_array_slide([np.zeros((h, w, 3), np.uint8) for w, h in sizes], 0.25)
    assert slide.level_downsamples[1] == (4443 / 2221, 3567 / 1783), "float downsamples are honoured"
    assert slide.pick_level(wanted) == level


def test_a_level_of_fractional_downsample_gives_the_right_place() -> None:
    """A level with 2.0005 px per px must not drift: far from the corner the same structure is found."""
    full = np.zeros((900, 1203, 3), np.uint8)
    full[700:740, 1000:1040] = 255
    half = resample_area(full, Box(left=0, top=0, width=1203, height=900), width=601, height=449)
    slide = make_array_slide([full, half], 0.5)
    region = slide.read_region_l0(980, 680, 40, 40, 1.0).astype(float)[..., 0]
    centre = (region * np.arange(40)).sum() / region.sum(), (region.T * np.arange(40)).sum() / region.sum()
    assert centre[0] == pytest.approx(19.5, abs=0.3)
    assert centre[1] == pytest.approx(19.5, abs=0.3)
    assert slide.source.reads[-1][0] == 1  # type: ignore[attr-defined]


def test_thumbnails_keep_the_shape_and_the_mean(make_slide: MakeSlide, tissue_image: NDArray[np.uint8]) -> None:
    with open_slide(make_slide(tissue_image), slide_id="S-1") as slide:
        small = slide.read_thumbnail(300)
    assert small.shape == (233, 300, 3)
    assert np.abs(small.mean(axis=(0, 1)) - tissue_image.mean(axis=(0, 1))).max() < 1.5


def test_an_overview_built_in_blocks_has_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(2).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    slide = make_array_slide([image], 0.5)
    whole = resample_area(image, Box(left=0, top=0, width=500, height=300), width=150, height=90)
    monkeypatch.setattr("helpers.slides.reader.BLOCK_PX", 32)
    assert np.abs(slide.read_overview(width=150, height=90).astype(int) - whole).max() <= 1


def test_transparent_areas_take_the_background_colour() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (100, 100, 100, 128)
    found = composite(rgba, (240, 230, 220))
    assert tuple(found[0, 0]) == (10, 20, 30)
    assert tuple(found[1, 1]) == (240, 230, 220)
    assert np.abs(found[0, 1].astype(int) - [170, 165, 160]).max() <= 1


def test_a_region_outside_the_slide_is_refused() -> None:
    slide = make_array_slide([make_ramp(100, 80)], 0.5)
    with pytest.raises(TileError, match=r"slide 'array': a region from \(60\.0, 0\.0\) to \(110\.0, 50\.0\) leaves"):
        slide.read_region_l0(60, 0, 50, 50, 0.5)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"slide 'S-9': no file at '.*nowhere\.svs'.*slide table"):
        open_slide(tmp_path / "nowhere.svs", slide_id="S-9")


def test_what_is_no_slide_is_named_with_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "letter.svs"
    path.write_bytes(b"Dear sir or madam")
    with pytest.raises(SlideError, match=r"slide 'S-9' \('letter\.svs'\) \(17 bytes, begins with b'Dear'\)"):
        open_slide(path, slide_id="S-9")


def test_a_slide_without_resolution_is_refused_and_closed(
    make_slide: MakeSlide, tissue_image: NDArray[np.uint8]
) -> None:
    path = make_slide(tissue_image, mpp=None)
    with pytest.raises(ResolutionError, match="slide 'S-1' states no resolution"):
        open_slide(path, slide_id="S-1")
    with open_slide(path, slide_id="S-1", fallback_mpp=0.5) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "fallback_mpp")


def test_a_file_cut_in_the_middle_says_so(make_slide: MakeSlide, tissue_image: NDArray[np.uint8]) -> None:
    path = make_slide(tissue_image)
    assert find_missing_directory(path) is None
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(
        SlideError, match=r"is a TIFF cut short: it has \d+ bytes and one of its directories should lie"
    ):
        open_slide(path, slide_id="S-1")


def test_a_damaged_tile_is_an_error_and_never_a_white_tile(
    make_slide: MakeSlide, tissue_image: NDArray[np.uint8]
) -> None:
    import tifffile

    path = make_slide(tissue_image)
    with tifffile.TiffFile(path) as tiff:
        offset, length = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]  # type: ignore[union-attr]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * length)
    expected = r"slide 'S-1': the region of 900 x 700 px at \(0, 0\), level 0, cannot be decoded"
    with open_slide(path, slide_id="S-1") as slide, pytest.raises(SlideError, match=expected):
        slide.read_region_l0(0, 0, 900, 700, 0.5)
