"""Stains: Beer and Lambert backwards."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.core.errors import StainError
from helpers.slides.stain import (
    Stain,
    compute_angle,
    compute_od,
    estimate_background,
    fit_macenko,
    refine_nuclear_level,
    separate_stains,
)

GLASS = (240.0, 238.0, 242.0)
H = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
E = np.array([0.12, 0.94, 0.32]) / np.linalg.norm([0.12, 0.94, 0.32])


def paint(h: NDArray[np.float64], e: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Pixels of given concentrations, (n, 3)."""
    od = h[:, None] * H + e[:, None] * E
    return np.rint(np.asarray(GLASS) * np.exp(-od)).astype(np.uint8)


def draw_pixels(n: int = 20_000) -> NDArray[np.uint8]:
    """Nuclei (h about 1.4), stroma (e about 0.8) and glass."""
    rng = np.random.default_rng(20)
    h = np.concatenate([rng.normal(1.4, 0.2, n), rng.normal(0.08, 0.03, n), np.zeros(n)])
    e = np.concatenate([rng.normal(0.15, 0.05, n), rng.normal(0.8, 0.2, n), np.zeros(n)])
    return paint(np.maximum(h, 0), np.maximum(e, 0))


def test_density_is_minus_the_log_of_the_transmitted_share() -> None:
    pixels = np.array([[[240, 119, 24]], [[255, 238, 0]]], np.uint8)
    expected = [[0.0, np.log(238 / 119), np.log(242 / 24)], [0.0, 0.0, np.log(242 / 0.5)]]
    assert compute_od(pixels, GLASS)[:, 0] == pytest.approx(np.array(expected), abs=1e-5)


def test_macenko_recovers_planted_vectors_within_three_degrees() -> None:
    stain = fit_macenko(draw_pixels(), GLASS)
    assert compute_angle(stain.haematoxylin, H) < 3
    assert compute_angle(stain.eosin, E) < 3


def test_haematoxylin_comes_first_whatever_there_is_more_of() -> None:
    rng = np.random.default_rng(4)
    mostly_pink = paint(np.where(rng.random(20_000) < 0.05, 1.3, 0.05), np.where(rng.random(20_000) < 0.5, 1.1, 0.5))
    stain = fit_macenko(mostly_pink, GLASS)
    assert stain.haematoxylin[0] > stain.eosin[0], "haematoxylin absorbs more red light"


def test_concentrations_come_back_and_the_split_lies_between_the_classes() -> None:
    stain = Stain(
        haematoxylin=tuple(H), eosin=tuple(E), scale_h=1, scale_e=1, split_h=0.5, nuclear_h=1, background=GLASS, n_pixels=1
    )  # fmt: skip
    planted = np.array([1.0, 0.3, 0.0]), np.array([0.2, 0.9, 0.0])
    found = separate_stains(paint(*planted), stain)
    assert found[:, 0] == pytest.approx(planted[0], abs=0.02)
    assert found[:, 1] == pytest.approx(planted[1], abs=0.02)
    fitted = fit_macenko(draw_pixels(), GLASS)
    assert 0.2 < fitted.split_h < 1.2
    assert fitted.nuclear_h == pytest.approx(1.4, abs=0.15)


def test_white_pixels_change_nothing() -> None:
    pixels = draw_pixels()
    white = np.full((50_000, 3), 240, np.uint8)
    with_white, without = fit_macenko(np.concatenate([pixels, white]), GLASS), fit_macenko(pixels, GLASS)
    assert with_white == without


def test_a_white_image_is_refused_with_its_count() -> None:
    expected = r"StainError: slide 'S-1' has 0 stained pixels of 1000 .* at least 500\. It is nearly white"
    with pytest.raises(StainError, match=expected):
        fit_macenko(np.full((1000, 3), 238, np.uint8), GLASS, item="slide 'S-1'")


def test_one_stain_alone_is_refused() -> None:
    one = paint(np.zeros(5000), np.linspace(0.4, 1.5, 5000))
    with pytest.raises(StainError, match=r"shows one stain only \(\d+\.\d degrees"):
        fit_macenko(one, GLASS)


def test_a_stain_survives_the_file() -> None:
    stain = fit_macenko(draw_pixels(), GLASS)
    assert Stain.from_attributes(stain.to_attributes()) == stain


def test_glass_is_estimated_from_clear_pixels_only() -> None:
    image = np.concatenate([np.tile([[240, 238, 242]], (5000, 1)), draw_pixels(2000)]).astype(np.uint8)[None]
    found, source = estimate_background(image)
    assert found == pytest.approx(GLASS, abs=1)
    assert source == "clear glass"


def test_without_glass_the_default_is_named() -> None:
    assert estimate_background(np.full((10, 10, 3), 150, np.uint8)) == ((245.0, 245.0, 245.0), "default")


def draw_nuclei(*, n_pale: int, n_dark: int, pale: float = 0.9, um_per_px: float = 0.5) -> NDArray[np.uint8]:
    """Pink ground with pale nuclei of 3.5 um radius and lymphocyte-like ones, 1.5 times as dark, of 2.5 um."""
    rng = np.random.default_rng(33)
    h = np.full((600, 600), 0.08, np.float32)
    kinds = rng.permutation([0] * n_pale + [1] * n_dark)
    cells = rng.permutation(24 * 24)[: len(kinds)]
    for kind, cell in zip(kinds, cells, strict=True):
        centre = 12 + 25 * (cell % 24), 12 + 25 * (cell // 24)
        level = pale * (1.0, 1.5)[kind] * float(np.exp(rng.normal(0, 0.1)))
        cv2.circle(h, centre, round((3.5, 2.5)[kind] / um_per_px), level, -1)
    return paint(h.ravel(), np.full(h.size, 0.4)).reshape(600, 600, 3)


ROUGH = Stain(
    haematoxylin=tuple(H), eosin=tuple(E), scale_h=1.4, scale_e=1.0, split_h=0.9, nuclear_h=1.3, background=GLASS, n_pixels=1
)  # fmt: skip


@pytest.mark.parametrize(("n_pale", "n_dark"), [(300, 20), (200, 200), (120, 240)])
def test_the_typical_nucleus_is_the_pale_kind_however_many_lymphocytes_there_are(n_pale: int, n_dark: int) -> None:
    tile = draw_nuclei(n_pale=n_pale, n_dark=n_dark)
    refined = refine_nuclear_level(ROUGH, [tile], um_per_px=0.5)
    assert refined.nuclear_h == pytest.approx(0.9, rel=0.08)
    assert 0.3 < refined.split_h < 0.75, "the nuclear edge lies between ground and pale nuclei"


def test_the_typical_nucleus_scales_with_the_strength_of_the_stain() -> None:
    levels = []
    for strength in (0.7, 1.3):
        tile = draw_nuclei(n_pale=200, n_dark=100, pale=0.9 * strength)
        rough = replace(ROUGH, scale_h=1.4 * strength)
        levels.append(refine_nuclear_level(rough, [tile], um_per_px=0.5).nuclear_h)
    assert levels[1] / levels[0] == pytest.approx(1.3 / 0.7, rel=0.05)


def test_with_too_few_nuclei_the_level_of_the_pixels_stays() -> None:
    assert refine_nuclear_level(ROUGH, [draw_nuclei(n_pale=20, n_dark=5)], um_per_px=0.5) == ROUGH
    assert refine_nuclear_level(ROUGH, [], um_per_px=0.5) == ROUGH
