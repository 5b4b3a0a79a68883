"""Nuclei without trained weights: planted discs and phantom cells are found, whatever the resolution; real ones as measured."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.core.errors import FeatureError, StainError
from helpers.features.nuclei import fit_image_stain, iterate_contours, paint_nuclei, segment_nuclei
from helpers.features.nucleus_outlines import RULES, Outlines, measure_polygons
from helpers.phantom.nuclei import KINDS
from helpers.phantom.plan import SlidePlan
from helpers.phantom.renderer import RenderedSlide, render_slide
from helpers.slides.aperio import label_outlines, read_aperio_outlines
from helpers.slides.stain import Stain
from helpers.stats.segmentation import Agreement, compare_segmentations

STAIN = Stain(
    haematoxylin=(0.65, 0.70, 0.29), eosin=(0.07, 0.99, 0.11), scale_h=1.2, scale_e=0.6, split_h=0.45, nuclear_h=0.8,
    background=(245.0, 245.0, 245.0), n_pixels=1000,
)  # fmt: skip
PLAN = SlidePlan(slide_id="N-1", seed=31_415, slide_um=300.0, mpp=0.5, til_level=0.3)


def stain_pixels(h: np.ndarray, e: np.ndarray) -> np.ndarray:
    od = h[..., None] * np.array(STAIN.haematoxylin) + e[..., None] * np.array(STAIN.eosin)
    return np.clip(np.rint(245 * np.exp(-od)), 0, 255).astype(np.uint8)


def draw_discs(
    *discs: tuple[float, float, float], um: float = 0.5, edge_um: float = 64.0, level: float = 0.9
) -> np.ndarray:
    """Draw nuclei (x, y, radius in um) on pink stroma."""
    y, x = (np.mgrid[: round(edge_um / um), : round(edge_um / um)] + 0.5) * um
    h = np.full(x.shape, 0.08)
    for cx, cy, r in discs:
        h = np.maximum(h, level * ((x - cx) ** 2 + (y - cy) ** 2 < r * r))
    return stain_pixels(h, np.full(h.shape, 0.3))


def outline_discs(*discs: tuple[float, float, float]) -> Outlines:
    """Outline discs (x, y, radius in px) at 0.5 um per px."""
    turn = np.arange(32) * 2 * np.pi / 32
    centre, radius = np.array(discs)[:, :2], np.array(discs)[:, 2:]
    x, y = centre[:, :1] + radius * np.cos(turn), centre[:, 1:] + radius * np.sin(turn)
    ellipses, area = measure_polygons(x * 0.5, y * 0.5)
    seen = np.ones(x.shape, bool)
    return Outlines(x.astype(np.float32), y.astype(np.float32), seen.astype(np.float32), seen, ellipses, area)


def draw_truth(slide: RenderedSlide, mpp: float) -> np.ndarray:
    """Draw the planted nuclei as ellipses."""
    labels = np.zeros(slide.image.shape[:2], np.int32)
    for number, cell in enumerate(slide.cells[slide.cells["kind"] != KINDS.index("erythrocyte")], start=1):
        centre = (float(cell["x_um"] / mpp - 0.5), float(cell["y_um"] / mpp - 0.5))
        stretch, size = float(np.sqrt(cell["aspect"])), float(cell["diameter_um"] / mpp)
        cv2.ellipse(labels, (centre, (size * stretch, size / stretch), float(np.degrees(cell["angle"]))), number, -1)
    return labels


@pytest.mark.parametrize("um", [0.25, 0.5, 0.8])
def test_discs_are_found_with_their_area_at_any_resolution(um: float) -> None:
    places = ((12.0, 14.0, 4.0), (40.0, 20.0, 5.0), (22.0, 46.0, 3.0))
    labels = segment_nuclei(draw_discs(*places, um=um), STAIN, um_per_px=um)
    assert labels.dtype == np.int32
    assert labels.max() == 3
    for x, y, r in places:
        number = labels[int(y / um), int(x / um)]
        assert number > 0
        assert (labels == number).sum() * um**2 == pytest.approx(np.pi * r * r, rel=0.2)


def test_touching_nuclei_are_two_and_a_large_one_is_one() -> None:
    assert segment_nuclei(draw_discs((24, 32, 4.5), (32.5, 32, 4.5)), STAIN, um_per_px=0.5).max() == 2
    assert segment_nuclei(draw_discs((32, 32, 6.0)), STAIN, um_per_px=0.5).max() == 1


def test_a_pale_nucleus_with_a_clear_centre_is_filled_and_a_lumen_is_not() -> None:
    y, x = (np.mgrid[:128, :128] + 0.5) * 0.5
    r = np.hypot(x - 32, y - 32)
    h, e = np.where((r < 5) & (r > 2), 0.9, 0.08), np.full(r.shape, 0.3)
    filled = segment_nuclei(stain_pixels(h, e), STAIN, um_per_px=0.5)
    assert filled[64, 64] > 0
    lumen = segment_nuclei(stain_pixels(np.where(r < 2, 0.0, h), np.where(r < 2, 0.0, e)), STAIN, um_per_px=0.5)
    assert lumen[64, 64] == 0


def test_small_specks_glass_and_plain_stroma_hold_no_nucleus() -> None:
    assert segment_nuclei(draw_discs((20, 20, 1.2)), STAIN, um_per_px=0.5).max() == 0
    assert segment_nuclei(draw_discs(), STAIN, um_per_px=0.5).max() == 0
    assert segment_nuclei(np.full((64, 64, 3), 245, np.uint8), STAIN, um_per_px=0.5).max() == 0


def test_numbers_have_no_gaps_and_objects_are_in_one_piece() -> None:
    slide = render_slide(PLAN)
    labels = segment_nuclei(slide.image, fit_image_stain(slide.image, um_per_px=0.5), um_per_px=0.5)
    assert (np.unique(labels) == np.arange(labels.max() + 1)).all()
    for number, window, contour in iterate_contours(labels):
        pieces, _ = cv2.connectedComponents((labels[window] == number).astype(np.uint8), connectivity=8)
        assert pieces == 2, f"nucleus {number} is in {pieces - 1} pieces"
        assert contour.shape[1:] == (1, 2)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_phantom_nuclei_are_found(mpp: float) -> None:
    slide = render_slide(replace(PLAN, mpp=mpp))
    found = segment_nuclei(slide.image, fit_image_stain(slide.image, um_per_px=mpp), um_per_px=mpp)
    score = compare_segmentations(draw_truth(slide, mpp), found, um_per_px=mpp).to_scores()
    assert score["centroid_f1"] > 0.88
    assert score["iou_f1"] > 0.75
    assert score["aji"] > 0.55
    assert 0.85 < score["count_ratio"] < 1.1


def test_a_misstated_stain_level_changes_little() -> None:
    """The tile's own threshold takes part: the slide's typical nucleus may be a third off."""
    slide = render_slide(PLAN)
    stain, truth = fit_image_stain(slide.image, um_per_px=0.5), draw_truth(slide, 0.5)
    for factor in (0.7, 1.4):
        off = replace(stain, nuclear_h=stain.nuclear_h * factor, split_h=stain.split_h * factor)
        found = segment_nuclei(slide.image, off, um_per_px=0.5)
        assert compare_segmentations(truth, found, um_per_px=0.5).to_scores()["iou_f1"] > 0.7


def test_a_dark_nucleus_on_a_pale_one_leaves_the_pale_one_its_rest() -> None:
    y, x = (np.mgrid[:128, :128] + 0.5) * 0.5
    pale, dark = (x - 27) ** 2 + (y - 32) ** 2 < 36, (x - 36) ** 2 + (y - 32) ** 2 < 16
    h = np.maximum(np.where(pale, 0.6, 0.08), np.where(dark, 1.6, 0))
    labels = segment_nuclei(stain_pixels(h, np.full(h.shape, 0.3)), STAIN, um_per_px=0.5)
    assert labels.max() == 2
    assert labels[64, 48] != labels[64, 72]
    assert (labels == labels[64, 72]).sum() * 0.25 == pytest.approx(np.pi * 16, rel=0.2)


def test_a_nucleus_that_the_image_s_edge_cuts_is_found() -> None:
    labels = segment_nuclei(draw_discs((0, 30, 5), (34, 63, 4)), STAIN, um_per_px=0.5)
    assert labels.max() == 2
    assert labels[60, 1] > 0
    assert labels[126, 68] > 0


def test_drawn_first_is_the_better_one_and_the_other_keeps_what_is_left() -> None:
    outlines = outline_discs((20.0, 30.0, 12.0), (38.0, 30.0, 12.0), (20.0, 30.0, 11.0))
    stained = np.ones((60, 80), bool)
    labels = paint_nuclei(outlines, np.array([0.8, 0.9, 0.5]), stained, um=0.5, rules=replace(RULES, shared=0.3))
    assert labels.max() == 2, "the third lies within the first"
    assert [labels[30, 12], labels[30, 29], labels[30, 46]] == [1, 2, 2]
    assert (labels == 2).sum() > (labels == 1).sum()
    strict = paint_nuclei(outlines, np.array([0.8, 0.9, 0.5]), stained, um=0.5, rules=replace(RULES, shared=0.1))
    assert strict.max() == 1
    assert paint_nuclei(outlines, np.zeros(3), stained, um=0.5).max() == 0


def test_what_is_drawn_has_the_outline_s_area_and_leaves_out_glass() -> None:
    outlines = outline_discs((30.0, 30.0, 14.0))
    stained, score = np.ones((60, 80), bool), np.array([1.0])
    drawn = paint_nuclei(outlines, score, stained, um=0.5, rules=replace(RULES, grow_um=0.0))
    assert (drawn > 0).sum() == pytest.approx(np.pi * 14**2, rel=0.03)
    stained[28:33, 28:33] = False
    assert paint_nuclei(outlines, score, stained, um=0.5)[30, 30] == 0
    stained[:, :28] = False
    assert paint_nuclei(outlines, score, stained, um=0.5).max() == 0, "half of it is glass"


@pytest.mark.parametrize(
    ("tile", "um", "stain", "message"),
    [
        (np.zeros((8, 8), np.uint8), 0.5, STAIN, "shape \\(8, 8\\)"),
        (np.zeros((8, 8, 4), np.uint8), 0.5, STAIN, "alpha channel"),
        (np.zeros((8, 8, 3), np.float32), 0.5, STAIN, "float32"),
        (np.zeros((8, 8, 3), np.uint8), 1.5, STAIN, "1.5 um per px"),
        (np.zeros((8, 8, 3), np.uint8), 0.5, None, "without the slide's stains"),
    ],
)
def test_what_cannot_be_segmented_is_refused(tile: np.ndarray, um: float, stain: Stain | None, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        segment_nuclei(tile, stain, um_per_px=um)


def test_an_image_of_glass_has_no_stain_to_fit() -> None:
    with pytest.raises(StainError, match="glass tile"):
        fit_image_stain(np.full((64, 64, 3), 245, np.uint8), um_per_px=0.5, item="glass tile")


def test_real_nuclei_agree_with_their_outlines_as_measured(shared_data: Path) -> None:
    """Four outlined MoNuSeg breast images, all objects together; no rule was set on them, but they were scored eight times.

    Asked were a centroid F1 of 0.85, an IoU F1 of 0.62, an aggregated Jaccard of 0.50 and a count within 20 %. Measured:
    0.860, 0.721, 0.541 and 12 % too many. The bounds are what was asked, or more where there is room.
    """
    folder, total = shared_data / "monuseg_breast", Agreement(**dict.fromkeys(Agreement.__dataclass_fields__, 0))
    for path in sorted((folder / "annotations").glob("*.xml")):
        outlines = read_aperio_outlines(path)
        image = cv2.imread(str(folder / "tissue_image" / f"{path.stem}.tif"))[..., ::-1].copy()
        truth = label_outlines(outlines.points, shape=image.shape[:2])
        assert outlines.mpp is not None
        stain = fit_image_stain(image, um_per_px=outlines.mpp, item=path.stem)
        found = segment_nuclei(image, stain, um_per_px=outlines.mpp)
        total += compare_segmentations(truth, found, um_per_px=outlines.mpp)
    score = total.to_scores()
    assert score["n_truth"] == 1481
    assert score["centroid_f1"] >= 0.85
    assert score["iou_f1"] > 0.70
    assert score["aji"] > 0.52
    assert 1 / 1.2 <= score["count_ratio"] <= 1.2
