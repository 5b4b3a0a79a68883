"""The pyramid writer: what OpenSlide reads back is what was written."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from helpers.core.errors import SlideError
from helpers.slides.writer import Vendor, encode_tiles, estimate_magnification, reduce_image, write_pyramid

WIDTH, HEIGHT = 700, 450  # not square, not whole tiles


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Smooth coloured blobs: what JPEG 4:2:0 keeps well, with red on the left and blue at the top."""
    rng = np.random.default_rng(11)
    coarse = rng.integers(110, 220, (4, 6, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    smooth[:, :100] = (200, 40, 40)
    smooth[:60, :] = (40, 40, 200)
    return smooth


def read_level(slide: openslide.OpenSlide, level: int) -> np.ndarray:
    size = slide.level_dimensions[level]
    return np.asarray(slide.read_region((0, 0), level, size).convert("RGB"))


@pytest.mark.parametrize(
    ("vendor", "suffix", "dialect"), [("aperio", "svs", "aperio"), ("generic", "tif", "generic-tiff")]
)
def test_openslide_reads_back_size_levels_resolution_and_pixels(
    tmp_path: Path, image: np.ndarray, vendor: Vendor, suffix: str, dialect: str
) -> None:
    path = tmp_path / "new" / f"slide.{suffix}"
    write_pyramid(path, image, mpp=0.25, vendor=vendor, downsamples=(4, 16), scanner="Phantom A")
    assert openslide.OpenSlide.detect_format(str(path)) == dialect
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.level_dimensions == ((700, 450), (175, 112), (43, 28))
        assert float(slide.properties["openslide.mpp-x"]) == 0.25
        assert float(slide.properties["openslide.mpp-y"]) == 0.25
        assert not slide.associated_images, "a label, macro or thumbnail was written"
        for level, downsample in ((0, 1), (1, 4), (2, 16)):
            brightness = read_level(slide, level).mean(axis=2) - reduce_image(image, downsample).mean(axis=2)
            assert np.abs(brightness).mean() < 3, f"level {level} is not the area average of the image"


def test_aperio_header_names_magnification_and_scanner(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "slide.svs"
    write_pyramid(path, image, mpp=0.46, scanner="Phantom B")
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.properties["aperio.MPP"] == "0.4600"
        assert slide.properties["openslide.objective-power"] == "20"
        assert slide.properties["aperio.ScanScope ID"] == "Phantom B"


@pytest.mark.parametrize("vendor", ["aperio", "generic"])
def test_without_mpp_no_resolution_is_stated(tmp_path: Path, image: np.ndarray, vendor: Vendor) -> None:
    path = tmp_path / "slide.tif"
    write_pyramid(path, image, mpp=None, vendor=vendor)
    with openslide.OpenSlide(str(path)) as slide:
        assert not {"openslide.mpp-x", "openslide.objective-power", "aperio.MPP", "aperio.AppMag"} & set(
            slide.properties
        )
        assert slide.properties["tiff.ResolutionUnit"] == "none"


def test_equal_input_gives_equal_bytes_and_no_date(tmp_path: Path, image: np.ndarray) -> None:
    digests = set()
    for name in ("a.svs", "b.svs"):
        write_pyramid(tmp_path / name, image, mpp=0.5)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    with tifffile.TiffFile(tmp_path / "a.svs") as tiff:
        assert not {"DateTime", "Software", "HostComputer"} & {tag.name for page in tiff.pages for tag in page.tags}


def test_levels_below_full_resolution_follow_the_request(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "slide.svs"
    write_pyramid(path, image, mpp=0.5, downsamples=(2.5,), tile_px=128)
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.level_dimensions == ((700, 450), (280, 180))
        assert slide.properties["openslide.level[0].tile-width"] == "128"


def test_area_average_matches_the_mean_of_each_block(image: np.ndarray) -> None:
    blocks = image[:448, :700].reshape(112, 4, 175, 4, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(reduce_image(image, 4) - blocks).max() <= 0.5


def test_tiles_over_the_edge_repeat_the_last_pixels(image: np.ndarray) -> None:
    tiles = list(encode_tiles(image, tile_px=256, quality=90))
    assert len(tiles) == 6
    corner = cv2.imdecode(np.frombuffer(tiles[-1], np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert corner.shape == (256, 256, 3)
    assert np.abs(corner[-1].astype(int) - image[-1, 512:][np.minimum(np.arange(256), 187)]).mean() < 4


@pytest.mark.parametrize(("mpp", "objective"), [(0.25, 40), (0.2325, 40), (0.46, 20), (0.5, 20), (1.0, 10), (2.1, 5)])
def test_magnification_is_the_nearest_objective(mpp: float, objective: int) -> None:
    assert estimate_magnification(mpp) == objective


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((8, 8), np.uint8)}, "image is uint8 of shape (8, 8), expected uint8 (height, width, 3)"),
        ({"image": np.zeros((8, 8, 3))}, "image is float64"),
        ({"mpp": -0.5}, "mpp is -0.5, expected 0.01 to 100 um per px. Give None when it is unknown."),
        ({"vendor": "zeiss"}, "vendor is 'zeiss', expected 'aperio' or 'generic'"),
        ({"tile_px": 250}, "tile_px is 250, expected a multiple of 16. Take 256."),
        ({"quality": 0}, "quality is 0, expected 1 to 100"),
        ({"scanner": "A|B"}, "scanner is 'A|B'"),
        ({"downsamples": (4, 4)}, "downsamples are (4, 4), expected increasing numbers above 1"),
        ({"downsamples": (4, 512)}, "a level at downsample 512 of 700 × 450 px has no pixel"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(
    tmp_path: Path, image: np.ndarray, changes: dict, message: str
) -> None:
    options = {"image": image, "mpp": 0.5} | changes
    pixels = options.pop("image")
    with pytest.raises(SlideError) as error:
        write_pyramid(tmp_path / "bad.svs", pixels, **options)
    assert str(error.value).startswith("slide 'bad.svs': ")
    assert message in str(error.value)


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "slide.svs"
    path.write_bytes(b"old")

    def stop(*_args: object, **_options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("helpers.slides.writer.imagecodecs.jpeg8_encode", stop)
    with pytest.raises(OSError, match="disk full"):
        write_pyramid(path, image, mpp=0.5)
    assert path.read_bytes() == b"old"
    assert list(Path(tmp_path).iterdir()) == [path], "a half file was left behind"
