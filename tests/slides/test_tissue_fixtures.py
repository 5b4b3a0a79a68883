"""Tissue and ink on public thumbnails and tiles with marker lines, and against masks that other people expect."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.slides.reader import open_slide
from helpers.slides.stain import DEFAULT_BACKGROUND, MIN_OD, compute_od, estimate_background
from helpers.slides.tissue import compute_mask, find_ink, find_tissue

THUMBNAIL = "pil-images-rgb/diagnostic-slide-thumb-rgb.png"
UM_PER_PX = 16.0


@pytest.fixture(scope="module")
def fixtures(shared_data: Path) -> Path:
    return shared_data / "tissue_fixtures"


def read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)


def find_mask(image: NDArray[np.uint8], method: str) -> NDArray[np.bool_]:
    background, _ = estimate_background(image)
    return compute_mask(image, background, method=method, um_per_px=UM_PER_PX, min_area_um2=20_000.0)[0]


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(
    ("slide", "mask", "method", "least"),
    [
        ("CMU-1-Small-Region", "cmu-1-small-region", "robust", 0.85),
        ("CMU-1-Small-Region", "cmu-1-small-region", "otsu_saturation", 0.60),
        ("TCGA-CR-7395-01A-01-TS1", "tcga-cr-7395", "robust", 0.99),
        ("TCGA-CR-7395-01A-01-TS1", "tcga-cr-7395", "otsu_saturation", 0.99),
    ],
)
def test_the_box_of_the_largest_tissue_is_the_one_others_expect(
    fixtures: Path, shared_data: Path, slide: str, mask: str, method: str, least: float
) -> None:
    expected = np.load(fixtures / "expected_masks" / f"biggest-tissue-box-{mask}.npy")
    with open_slide(shared_data / "slides" / f"{slide}.svs", slide_id=slide, fallback_mpp=0.5) as opened:
        found = find_tissue(opened, method=method, um_per_px=8.0, min_area_um2=20_000.0).mask
    small = cv2.resize(found.astype(np.uint8), expected.shape[::-1], interpolation=cv2.INTER_NEAREST)
    _, _, stats, _ = cv2.connectedComponentsWithStats(small)
    left, top, width, height = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])), :4]
    box = np.zeros_like(expected)
    box[top : top + height, left : left + width] = True
    print(f"{slide}, {method}: overlap of the boxes {overlap(box, expected):.3f}")
    assert overlap(box, expected) >= least
    assert (small.astype(bool) & ~expected).sum() == 0, "tissue outside the expected box"


def test_where_pens_outline_a_tumour_otsu_takes_the_pens_and_the_robust_method_the_tissue(fixtures: Path) -> None:
    image = read(fixtures / THUMBNAIL)
    pens = ~np.load(fixtures / "expected_masks" / "diagnostic-slide-thumb-otsu-threshold-mask.npy")
    otsu, robust = find_mask(image, "otsu_saturation"), find_mask(image, "robust")
    print(
        f"overlap with the grey threshold: otsu_saturation {overlap(otsu, pens):.3f}, robust {overlap(robust, pens):.3f}"
    )
    assert overlap(otsu, pens) > 0.6
    middle = (slice(180, 380), slice(100, 420))  # inside the tumour, between and under its circles
    assert otsu[middle].mean() < 0.4
    assert robust[middle].mean() > 0.95


@pytest.mark.parametrize(
    ("name", "largest"), [("tcga-red-pen", 0.05), ("wsi-blue-pen", 0.05), ("tcga-green-pen", 0.25)]
)
def test_marker_lines_are_no_tissue(fixtures: Path, name: str, largest: float) -> None:
    image = read(fixtures / "pil-images-rgb" / f"{name}.png")
    ink = find_ink(compute_od(image, estimate_background(image)[0])).any(axis=-1)
    assert ink.mean() > 0.02
    assert find_mask(image, "robust")[ink].mean() < largest, "share of the ink that counts as tissue"


def measure_tile(path: Path) -> tuple[float, float]:
    """Shares of stained pixels and of ink."""
    od = compute_od(read(path), DEFAULT_BACKGROUND)
    return float((od.mean(axis=-1) > MIN_OD).mean()), float(find_ink(od).any(axis=-1).mean())


@pytest.mark.parametrize(
    "name", ["almost-white-1", "almost-white-2", "almost-white-ihc", "no-tissue", "no-tissue2", "no-tissue-line"]
)
def test_white_tiles_are_unstained(fixtures: Path, name: str) -> None:
    stained, ink = measure_tile(fixtures / "tiles" / f"{name}.png")
    assert stained < 0.02
    assert ink < 0.01


@pytest.mark.parametrize(
    "name",
    [
        "no-tissue-green-pen",
        "no-tissue-red-pen",
        "medium-nuclei-score-green-pen-level1",
        "high-nuclei-score-red-pen-level1",
    ],
)
def test_tiles_with_marker_lines_show_ink(fixtures: Path, name: str) -> None:
    assert measure_tile(fixtures / "tiles" / f"{name}.png")[1] > 0.05


def test_tissue_without_marker_lines_shows_none(fixtures: Path) -> None:
    tiles = sorted((fixtures / "tiles").glob("tissue-level*.png"))
    assert len(tiles) >= 5
    for path in tiles:
        stained, ink = measure_tile(path)
        assert stained > 0.5, path.name
        assert ink < 0.01, path.name
