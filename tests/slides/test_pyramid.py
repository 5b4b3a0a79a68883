"""The pyramid of a viewer: whole levels, whole slides, and the pixels that the reader gives."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from helpers.core.errors import TileError
from helpers.slides import pyramid as module
from helpers.slides.pyramid import Pyramid, encode_jpeg, encode_pyramid, read_pyramid_tile
from helpers.slides.reader import open_slide
from helpers.slides.resample import Box


@pytest.fixture
def slide(make_slide, tissue_image):
    with open_slide(make_slide(tissue_image), slide_id="S-1") as opened:
        yield opened


@pytest.fixture
def small(slide):
    return Pyramid(width=slide.width, height=slide.height, tile_px=128)


@pytest.mark.parametrize(
    ("width", "height", "n_levels"),
    [(512, 512, 1), (513, 512, 2), (1, 1, 1), (1024, 3, 2), (1025, 3, 3), (98_304, 65_536, 9)],
)
def test_the_coarsest_level_is_the_first_that_fits_one_tile(width, height, n_levels):
    pyramid = Pyramid(width=width, height=height)
    assert pyramid.n_levels == n_levels
    assert pyramid.count_tiles(n_levels - 1) == (1, 1)
    assert n_levels == 1 or pyramid.count_tiles(n_levels - 2) != (1, 1)


def test_a_level_is_half_of_the_one_before_rounded_up():
    pyramid = Pyramid(width=901, height=700, tile_px=128)
    assert [pyramid.measure_level(level) for level in range(4)] == [(901, 700), (451, 350), (226, 175), (113, 88)]
    assert [pyramid.count_tiles(level) for level in range(4)] == [(8, 6), (4, 3), (2, 2), (1, 1)]


def test_the_tiles_of_each_level_cover_the_slide_once():
    pyramid = Pyramid(width=901, height=700, tile_px=128)
    for level in range(pyramid.n_levels):
        covered = np.zeros((700, 901), np.uint8)
        sizes = np.zeros(2, int)
        for column, row in pyramid.list_tiles(level):
            box, (width, height) = pyramid.locate_tile(level, column, row)
            covered[int(box.top) : int(box.bottom), int(box.left) : int(box.right)] += 1
            assert max(width, height) <= 128
            sizes += [width if row == 0 else 0, height if column == 0 else 0]
        assert (covered == 1).all(), f"level {level}"
        assert tuple(sizes) == pyramid.measure_level(level)


def test_an_edge_tile_ends_with_the_slide_and_counts_a_part_as_a_pixel():
    box, size = Pyramid(width=901, height=700, tile_px=128).locate_tile(2, 1, 1)
    assert box == Box(left=512, top=512, width=389, height=188)
    assert size == (98, 47)  # 389 / 4 = 97.25, 188 / 4 = 47


def test_level_0_holds_the_slide_s_own_pixels(slide, small):
    whole = slide.read_overview(width=slide.width, height=slide.height)
    for column, row in [(0, 0), (3, 2), (7, 5)]:  # the last is cut at both edges
        tile = read_pyramid_tile(slide, small, level=0, column=column, row=row)
        expected = whole[row * 128 : (row + 1) * 128, column * 128 : (column + 1) * 128]
        assert np.array_equal(tile, expected)
    assert tile.shape == (700 - 5 * 128, 900 - 7 * 128, 3)


def test_a_coarser_tile_is_the_reader_s_region(slide, small):
    tile = read_pyramid_tile(slide, small, level=1, column=1, row=0)
    assert np.array_equal(tile, slide.read_region_l0(256, 0, 128, 128, 2 * slide.mpp))
    image = slide.read_overview(width=900, height=700).astype(float)[:256, 256:512]
    means = image.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(tile - means).max() <= 0.51


def test_a_tile_built_from_parts_equals_one_read_at_once(slide, small, monkeypatch):
    whole = read_pyramid_tile(slide, small, level=1, column=0, row=0)
    monkeypatch.setattr(module, "MAX_FACTOR", 0.5)
    parts = read_pyramid_tile(slide, small, level=1, column=0, row=0)
    assert np.array_equal(parts, whole)


@pytest.mark.parametrize(
    ("address", "text"),
    [((4, 0, 0), "level 4 of a pyramid of 4 levels"), ((-1, 0, 0), "level -1"),
     ((0, 8, 0), r"column 8, row 0\) of level 0, which has 8 x 6 tiles"), ((0, 0, 6), "row 6"), ((3, 0, -1), "row -1")],
)  # fmt: skip
def test_an_address_outside_the_pyramid_is_named(small, address, text):
    with pytest.raises(TileError, match=text):
        small.locate_tile(*address)


def test_a_jpeg_is_close_to_its_pixels_and_the_same_each_time(slide, small):
    pixels = read_pyramid_tile(slide, small, level=0, column=3, row=2)
    data = encode_jpeg(pixels)
    decoded = np.asarray(Image.open(BytesIO(data)), float)
    assert np.abs(decoded.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 2
    assert np.abs(decoded - pixels).mean() < 8
    assert encode_jpeg(pixels) == data


def test_whole_levels_are_kept_from_the_coarsest_within_the_bytes_allowed(slide, small):
    everything = encode_pyramid(slide, small, max_bytes=10**9)
    assert set(everything) == {(level, *place) for level in range(4) for place in small.list_tiles(level)}
    bytes_of = {level: sum(len(data) for key, data in everything.items() if key[0] >= level) for level in range(4)}
    for finest in range(3):
        part = encode_pyramid(slide, small, max_bytes=bytes_of[finest])
        assert part == {key: data for key, data in everything.items() if key[0] >= finest}
        fewer = encode_pyramid(slide, small, max_bytes=bytes_of[finest] - 1)
        assert {key[0] for key in fewer} == set(range(finest + 1, 4))


def test_the_coarsest_level_is_there_whatever_is_allowed(slide, small):
    assert list(encode_pyramid(slide, small, max_bytes=1)) == [(3, 0, 0)]
