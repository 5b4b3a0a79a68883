"""Tissue masks, their outlines, and the share of tissue in a tile."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.core.errors import TileError
from helpers.slides.reader import open_slide
from helpers.slides.stain import compute_od, estimate_background
from helpers.slides.tissue import Tissue, compute_cover, compute_mask, find_ink, find_tissue, outline_tissue
from tests.slides.conftest import draw_tissue

MakeSlide = Callable[..., Path]


def make_tissue(mask: NDArray[np.bool_], scale_x: float = 10.0, scale_y: float = 10.0) -> Tissue:
    return Tissue(
        mask=mask, overview=np.zeros((*mask.shape, 3), np.uint8), scale_x=scale_x, scale_y=scale_y, um_per_px=5.0,
        background=(245.0, 245.0, 245.0), background_source="default", method="robust", threshold=0.1,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["robust", "otsu_saturation"])
def test_both_methods_find_the_drawn_tissue(method: str, make_slide: MakeSlide) -> None:
    width, height = 2400, 1800
    image = draw_tissue(width, height)
    with open_slide(make_slide(image), slide_id="S-1") as slide:
        found = find_tissue(slide, method=method, um_per_px=8.0, min_area_um2=20_000)  # type: ignore[arg-type]
    y, x = np.mgrid[0 : found.mask.shape[0], 0 : found.mask.shape[1]]
    truth = ((x + 0.5) * found.scale_x / width - 0.5) ** 2 + ((y + 0.5) * found.scale_y / height - 0.5) ** 2 < 0.16
    overlap = (found.mask & truth).sum() / (found.mask | truth).sum()
    assert overlap > 0.93, f"{method}: intersection over union {overlap:.2f}"
    assert found.area_mm2 == pytest.approx(np.pi * 0.16 * (width / 2000) * (height / 2000), rel=0.06)


def test_a_grey_background_is_no_tissue_for_the_robust_method() -> None:
    image = np.clip(draw_tissue(900, 700).astype(int) - [30, 34, 26], 0, 255).astype(np.uint8)
    background, _ = estimate_background(image)
    mask, _ = compute_mask(image, background, method="robust", um_per_px=2.0, min_area_um2=20_000)
    assert not mask[:60, :60].any()
    assert mask[330:370, 430:470].mean() > 0.9


def test_ink_is_left_out_of_the_robust_mask() -> None:
    image = draw_tissue(900, 700)
    image[20:80, 20:880] = (60, 170, 90)  # a green line on glass
    background, _ = estimate_background(image)
    mask, _ = compute_mask(image, background, method="robust", um_per_px=8.0, min_area_um2=20_000)
    assert not mask[35:65, 100:800].any()


@pytest.mark.parametrize(
    ("colour", "column"), [((200, 40, 50), 0), ((60, 160, 100), 1), ((50, 70, 180), 2), ((30, 30, 32), 3)],
    ids=["red", "green", "blue", "black"],
)  # fmt: skip
def test_marker_colours_are_told_apart(colour: tuple[int, int, int], column: int) -> None:
    found = find_ink(compute_od(np.full((4, 4, 3), colour, np.uint8), (245.0, 245.0, 245.0)))
    assert found[0, 0].tolist() == [number == column for number in range(4)]


def test_stained_tissue_is_no_ink() -> None:
    od = compute_od(draw_tissue(600, 600), (243.0, 243.0, 243.0))
    assert find_ink(od).mean() < 1e-3


def test_a_blank_slide_is_an_error_that_names_method_and_threshold(make_slide: MakeSlide) -> None:
    blank = np.full((600, 800, 3), 243, np.uint8)
    expected = r"TileError: slide 'S-7' shows no tissue \(robust, threshold 0\.\d+"
    with open_slide(make_slide(blank), slide_id="S-7") as slide, pytest.raises(TileError, match=expected):
        find_tissue(slide, method="robust", um_per_px=8.0, min_area_um2=20_000)


def test_cover_is_the_exact_share_also_between_mask_pixels() -> None:
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:6] = True
    rng = np.random.default_rng(8)
    coords = rng.integers(0, 30, (40, 2))
    found = compute_cover(make_tissue(mask, scale_x=10.0, scale_y=7.0), coords, (23, 11))
    fine = np.repeat(np.repeat(mask, 7, axis=0), 10, axis=1)
    expected = [fine[y : y + 11, x : x + 23].sum() / (23 * 11) for x, y in coords]
    assert found == pytest.approx(expected, abs=1e-6)


def test_outlines_lie_in_level_0_px_and_holes_know_their_parent() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:16, 5:25] = True
    mask[8:12, 10:15] = False
    points, rings = outline_tissue(make_tissue(mask, scale_x=10.0, scale_y=20.0))
    outer = rings[rings[:, 2] == -1]
    holes = rings[rings[:, 2] >= 0]
    assert (len(outer), len(holes)) == (1, 1)
    ring = points[outer[0, 0] : outer[0, 1]]
    assert (ring.min(axis=0).tolist(), ring.max(axis=0).tolist()) == ([55.0, 90.0], [245.0, 310.0])
    assert holes[0, 2] == np.flatnonzero(rings[:, 2] == -1)[0]


def test_glass_in_a_corner_is_no_hole_however_small(make_slide: MakeSlide) -> None:
    """Tissue that fills the scan leaves small pockets of glass at its corners; a pocket inside it is filled."""
    image = np.full((900, 900, 3), 245, np.uint8)
    y, x = np.mgrid[:900, :900]
    tissue = np.hypot(x - 450, y - 450) < 560
    tissue &= np.hypot(x - 450, y - 450) > 40
    image[tissue] = (190, 110, 170)
    with open_slide(make_slide(image), slide_id="S-1") as slide:
        found = find_tissue(slide, method="robust", um_per_px=8.0, min_area_um2=20_000)
    middle = found.mask.shape[0] // 2
    assert found.mask[middle, middle], "a pocket inside tissue is tissue"
    assert not found.mask[[0, 0, -1, -1], [0, -1, 0, -1]].any(), "glass at a corner was filled"
    assert found.mask.mean() == pytest.approx((np.hypot(x - 450, y - 450) < 560).mean(), abs=0.02)
