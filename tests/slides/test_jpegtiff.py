"""The direct reader: the same RGB as OpenSlide's, bit for bit, or a refusal that says why."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
import simplejpeg
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.core.errors import HistobookError, SlideError
from helpers.core.specs import TilingSpec
from helpers.slides.jpegtiff import JpegTiffSource, NotDirectError, TileCache
from helpers.slides.reader import OpenSlideSource, open_slide, open_source
from helpers.slides.resample import Box
from helpers.slides.tilefile import read_tiles
from helpers.slides.tiling import iterate_tiles, plan_tiles, tile_cohort
from helpers.slides.tissue import find_tissue
from helpers.slides.writer import write_pyramid
from tests.slides.conftest import draw_tissue

MakeSlide = Callable[..., Path]


def draw_detail(width: int, height: int, *, seed: int = 3) -> NDArray[np.uint8]:
    """Structure at every scale, in colours that chroma subsampling must interpolate."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)


def read_reference(path: Path, level: int, corner: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """OpenSlide's RGB, from a corner in level-0 px."""
    with openslide.OpenSlide(str(path)) as slide:
        rgba = slide.read_region(corner, level, size)
        glass = rgba.copy()
        glass.paste((255, 255, 255, 255), (0, 0, *size))
        glass.alpha_composite(rgba)
        return np.asarray(glass.convert("RGB"))


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Non-square, of no whole number of native tiles, at exact downsamples of 4 and 16."""
    path = tmp_path_factory.mktemp("slides") / "pyramid.svs"
    write_pyramid(path, draw_detail(1200, 848), mpp=0.5, tile_px=128, downsamples=(4, 16))
    return path


@pytest.fixture(scope="module")
def source(pyramid: Path) -> Iterator[JpegTiffSource]:
    found = open_source(pyramid, "S-1")
    assert isinstance(found, JpegTiffSource)
    yield found
    found.close()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_is_openslides_bit_for_bit(pyramid: Path, source: JpegTiffSource, level: int) -> None:
    size = source.level_dimensions[level]
    assert np.array_equal(source.read_level(level, 0, 0, *size), read_reference(pyramid, level, (0, 0), size))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_region_is_openslides_bit_for_bit(data: st.DataObject, pyramid: Path, source: JpegTiffSource) -> None:
    level = data.draw(st.sampled_from([0, 1, 2]))
    width, height = source.level_dimensions[level]
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    n_x, n_y = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    down = 4**level
    assert np.array_equal(
        source.read_level(level, x, y, n_x, n_y), read_reference(pyramid, level, (x * down, y * down), (n_x, n_y))
    )


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_chroma_is_interpolated_as_openslide_does(tmp_path: Path, subsampling: tuple[int, int]) -> None:
    path = tmp_path / "S.tif"
    image = draw_detail(400, 300)
    tifffile.imwrite(
        path, image, tile=(112, 96), photometric="ycbcr", subsampling=subsampling, compression="jpeg", metadata=None
    )
    found = open_source(path, "S-1")
    assert found.name == "jpeg-tiff", found.note
    assert np.array_equal(found.read_level(0, 0, 0, 400, 300), read_reference(path, 0, (0, 0), (400, 300)))


def test_components_that_the_directory_calls_rgb_are_not_converted(tmp_path: Path) -> None:
    path = tmp_path / "S.tif"
    options = {"outcolorspace": "rgb"}
    image = draw_detail(300, 200)
    tifffile.imwrite(
        path, image, tile=(96, 112), photometric="rgb", compression="jpeg", compressionargs=options, metadata=None
    )
    found = open_source(path, "S-1")
    assert found.name == "jpeg-tiff", found.note
    pixels = found.read_level(0, 0, 0, 300, 200)
    assert np.array_equal(pixels, read_reference(path, 0, (0, 0), (300, 200)))
    assert np.abs(pixels.astype(int) - image).mean() < 10, "colours are those that were written"


def test_where_stream_and_directory_disagree_on_colours_openslide_decides(tmp_path: Path) -> None:
    path = tmp_path / "S.tif"
    streams = [simplejpeg.encode_jpeg(draw_detail(128, 128, seed=seed), 90, "RGB", "444") for seed in range(2)]
    tifffile.imwrite(
        path, iter(streams), shape=(128, 256, 3), dtype=np.uint8, tile=(128, 128), photometric="rgb", compression="jpeg",
        compressionargs={"outcolorspace": "rgb"}, metadata=None,
    )  # fmt: skip
    found = open_source(path, "S-1")
    assert np.array_equal(found.read_level(0, 0, 0, 256, 128), read_reference(path, 0, (0, 0), (256, 128)))
    with pytest.raises(NotDirectError, match="does not call its components rgb"):
        found._stitch(0, 0, 0, np.empty((128, 256, 3), np.uint8))


def test_a_real_slide_with_shared_tables_is_openslides_bit_for_bit(shared_data: Path) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    found = open_source(path, "CMU-1")
    assert found.name == "jpeg-tiff", found.note
    assert np.array_equal(found.read_level(0, 0, 0, 2220, 2967), read_reference(path, 0, (0, 0), (2220, 2967)))


def test_tiles_that_were_never_written_are_glass(tmp_path: Path) -> None:
    path = tmp_path / "S.tif"
    image = draw_detail(256, 256)

    def parts() -> Iterator[NDArray[np.uint8] | None]:
        for y, x in ((0, 0), (0, 128), (128, 0), (128, 128)):
            yield None if (y, x) == (128, 0) else image[y : y + 128, x : x + 128]

    tifffile.imwrite(
        path, parts(), shape=image.shape, dtype=np.uint8, tile=(128, 128), photometric="ycbcr", subsampling=(1, 1),
        compression="jpeg", metadata=None,
    )  # fmt: skip
    found = open_source(path, "S-1")
    assert found.name == "jpeg-tiff", found.note
    pixels = found.read_level(0, 0, 0, 256, 256)
    assert (pixels[128:, :128] == 255).all()
    assert np.array_equal(pixels, read_reference(path, 0, (0, 0), (256, 256)))


def test_another_compression_is_read_through_openslide_and_the_reason_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "S.tif"
    tifffile.imwrite(path, draw_detail(256, 256), tile=(128, 128), photometric="rgb", compression="zlib", metadata=None)
    found = open_source(path, "S-1")
    assert isinstance(found, OpenSlideSource)
    assert found.note == "read through OpenSlide: compression is ADOBE_DEFLATE, expected JPEG"


def test_a_frozen_section_in_jpeg_2000_says_so_in_the_ledger(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    table = pd.DataFrame({"slide_id": ["TS1"], "path": [str(path)], "mpp": [0.5]})
    ledger = tile_cohort(table, TilingSpec(), folder=tmp_path, ledger=tmp_path / "ledger.parquet", workers=1)
    assert ledger.at[0, "status"] == "ok"
    assert ledger.at[0, "reason"].startswith("read through OpenSlide: compression is APERIO_JP2")
    assert read_tiles(tmp_path / "tiles" / "TS1.h5").attributes["reader"] == "openslide"


def test_whoever_asks_for_openslide_gets_it(pyramid: Path) -> None:
    with open_slide(pyramid, slide_id="S-1", reader="openslide") as slide:
        assert (slide.source.name, slide.source.note) == ("openslide", "")


def test_both_readers_give_the_same_tiles(make_slide: MakeSlide) -> None:
    path = make_slide(draw_tissue(900, 700), mpp=0.25)
    spec = TilingSpec(tile_px=64, mpp=0.5, min_tissue_um2=5_000)
    batches = []
    for reader in ("auto", "openslide"):
        with open_slide(path, slide_id="S-1", reader=reader) as slide:
            tissue = find_tissue(slide, method="robust", um_per_px=8.0, min_area_um2=5_000)
            batches.append(np.concatenate(list(iterate_tiles(slide, plan_tiles(slide, spec, tissue)))))
    assert len(batches[0]) > 10
    assert np.array_equal(*batches)


def test_each_native_tile_of_a_row_is_decoded_once(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = JpegTiffSource._decode

    def count(self: JpegTiffSource, level: int, number: int, out: NDArray[np.uint8]) -> None:
        decoded.append(number)
        original(self, level, number, out)

    monkeypatch.setattr(JpegTiffSource, "_decode", count)
    with open_slide(pyramid, slide_id="S-1") as slide:
        for y in range(0, 800, 100):
            for x in range(0, 1200, 100):
                slide.read_region_l0(x, y, 50, 50, 1.0)
    assert len(decoded) == len(set(decoded)) == 10 * 7, "1,200 x 800 px hold 10 x 7 native tiles"


def test_two_threads_read_one_slide(pyramid: Path, source: JpegTiffSource) -> None:
    regions = [(0, x, y, 100, 100) for x in range(0, 1100, 90) for y in range(0, 740, 90)]
    with open_slide(pyramid, slide_id="S-1") as slide, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda region: slide.source.read_level(*region), regions))
    assert all(np.array_equal(a, source.read_level(*b)) for a, b in zip(found, regions, strict=True))


def test_the_cache_forgets_the_oldest_beyond_its_size() -> None:
    cache, decoded = TileCache(max_bytes=3 * 48), []

    def look(number: int) -> int:
        with cache.borrow((0, number), (4, 4, 3), lambda room: (decoded.append(number), room.fill(number))[1]) as tile:
            return int(tile[0, 0, 0])

    assert [look(number) for number in (0, 1, 2, 0, 3)] == [0, 1, 2, 0, 3]
    assert [look(number) for number in (0, 2, 3)] == [0, 2, 3]
    assert decoded == [0, 1, 2, 3], "the tile that was looked at last was forgotten before an older one"
    assert look(1) == 1
    assert decoded == [0, 1, 2, 3, 1]


def test_memory_of_a_tile_is_used_again_only_when_nobody_reads_it() -> None:
    cache = TileCache(max_bytes=48)
    with cache.borrow((0, 0), (4, 4, 3), lambda room: room.fill(7)) as first:
        with cache.borrow((0, 1), (4, 4, 3), lambda room: room.fill(8)) as second:
            assert not np.shares_memory(first, second)
        assert (first == 7).all(), "a tile changed while it was read"
    with cache.borrow((0, 2), (4, 4, 3), lambda room: room.fill(9)) as third:
        assert np.shares_memory(first, third)


def test_a_tile_that_cannot_be_decoded_is_not_kept() -> None:
    cache = TileCache(max_bytes=1000)

    def fail(room: np.ndarray) -> None:
        msg = "damaged"
        raise NotDirectError(msg)

    with pytest.raises(NotDirectError, match="damaged"), cache.borrow((0, 0), (4, 4, 3), fail):
        pass
    with cache.borrow((0, 0), (4, 4, 3), lambda room: room.fill(5)) as tile:
        assert (tile == 5).all()


def test_a_region_fills_the_array_it_is_given(pyramid: Path) -> None:
    with open_slide(pyramid, slide_id="S-1") as slide:
        for x, y, edge in ((0, 0, 128), (13, 7, 100)):
            out = np.zeros((edge, edge, 3), np.uint8)
            assert slide.source.read_level(0, x, y, edge, edge, out=out) is out
            assert np.array_equal(out, slide.source.read_level(0, x, y, edge, edge))
        out = np.zeros((50, 50, 3), np.uint8)
        first = slide.read_region_l0(10, 10, 50, 50, 2 * slide.mpp)
        kept = first.copy()
        slide.read_box(Box(left=300, top=200, width=100, height=100), width=50, height=50, out=out)
        assert np.array_equal(first, kept), "a result shares its memory with a later one"
        box = Box(left=10, top=10, width=100, height=100)
        assert np.array_equal(slide.read_box(box, width=50, height=50, out=out), first)


def compare_readers(path: Path) -> str:
    """Read a file both ways: 'same', 'refused' by both, or what differs."""
    results = []
    for reader in ("auto", "openslide"):
        try:
            with open_slide(path, slide_id="S-1", mpp=0.5, reader=reader) as slide:
                pixels = [
                    slide.source.read_level(level, 0, 0, *size)
                    for level, size in enumerate(slide.source.level_dimensions)
                ]
        except HistobookError:
            pixels = None
        results.append(pixels)
    ours, theirs = results
    if ours is None or theirs is None:
        return "refused" if ours is theirs else f"ours {ours is None}, OpenSlide {theirs is None}"
    same = len(ours) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    return "same" if same else "other pixels"


def test_after_any_damage_both_readers_agree(tmp_path: Path) -> None:
    """500 files of one to three random bytes: the same pixels as OpenSlide, or both refuse; never a crash or a guess."""
    path = tmp_path / "S.svs"
    write_pyramid(path, draw_detail(320, 240), mpp=0.5, tile_px=96 + 16, downsamples=(4,))
    whole, rng = path.read_bytes(), np.random.default_rng(500)
    outcomes: dict[str, int] = {}
    for number in range(500):
        damaged = bytearray(whole)
        # every second file is damaged where it says how it is built, the others anywhere
        limit = 700 if number % 2 else len(whole)
        for position in rng.integers(0, limit, rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        outcome = compare_readers(path)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert set(outcomes) == {"same", "refused"}, outcomes
    assert min(outcomes.values()) > 50, f"{outcomes}: the damage is either never or always seen"


def test_a_file_that_shrinks_while_open_is_an_error(make_slide: MakeSlide) -> None:
    path = make_slide(draw_detail(512, 512))
    with open_slide(path, slide_id="S-1") as slide:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 3)
        with pytest.raises(SlideError, match="slide 'S-1': the region .* cannot be decoded"):
            slide.read_region_l0(0, 0, 512, 512, 0.5)
