"""Outlines that are proposed, snapped and judged: drawn shapes of known size, slow searches, and what must score less."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.features.nucleus_outlines import (
    RULES,
    accept_outlines,
    find_circles,
    judge_outlines,
    measure_polygons,
    measure_surroundings,
    propose_ellipses,
    read_plane,
    settle_outlines,
    snap_outlines,
    thin_out,
    trace_pieces,
    walk_rays,
)
from helpers.features.stain_texture import Planes, smooth

UM = 0.5


def draw(*shapes: tuple[float, float, float, float, float, float], size: int = 96, ground: float = 0.1) -> np.ndarray:
    """Draw ellipses (x, y in px, half axes in um, angle, haematoxylin) on even ground, slightly blurred."""
    rows, columns = np.mgrid[:size, :size]
    h = np.full((size, size), ground, np.float32)
    for x, y, a, b, angle, level in shapes:
        dx, dy = (columns - x) * UM, (rows - y) * UM
        along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        h[(along / a) ** 2 + (across / b) ** 2 < 1] = level
    return smooth(h, 0.5, UM)


def score(ellipse: list[float], h: np.ndarray) -> float:
    """Score the outline that an ellipse snaps to."""
    outlines, fit = settle_outlines(np.array([ellipse]), h, um=UM)
    return float(judge_outlines(outlines, fit, h, um=UM)[0])


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.2])
@pytest.mark.parametrize("shrink", [0.0, 1.2])
def test_a_piece_gives_back_the_ellipse_that_was_drawn(angle: float, shrink: float) -> None:
    h = draw((45.0, 50.0, 6.0, 3.5, angle, 1.0))
    rules = replace(RULES, levels=(1.0,), shrink_um=(shrink,))
    (found,) = trace_pieces(h / 0.55, np.ones(h.shape, bool), um=UM, rules=rules)
    assert found[:2] == pytest.approx([45, 50], abs=0.3)
    assert found[2:4] == pytest.approx([6, 3.5], rel=0.12)
    assert np.sin(found[4] - angle) == pytest.approx(0, abs=0.08)
    assert found[5] > 0.95


def test_pieces_that_are_bent_or_of_no_nucleus_s_size_are_no_proposals() -> None:
    rows, columns = np.mgrid[:96, :96]
    r = np.hypot(columns - 48, rows - 48)
    bent = ((abs(r - 30) < 4) & (columns > 48)).astype(np.float32)
    everything = np.ones(bent.shape, bool)
    rules = replace(RULES, levels=(0.5,), shrink_um=(0.0,))
    assert len(trace_pieces(bent, everything, um=UM, rules=rules)) == 0
    assert len(trace_pieces((r < 2).astype(np.float32), everything, um=UM, rules=rules)) == 0
    assert len(trace_pieces((r < 40).astype(np.float32), everything, um=UM, rules=rules)) == 0
    assert len(trace_pieces((r < 10).astype(np.float32), everything, um=UM, rules=rules)) == 1
    assert len(trace_pieces((r < 10).astype(np.float32), ~everything, um=UM, rules=rules)) == 0


def test_a_pale_nucleus_with_a_dark_rim_is_found_as_a_circle() -> None:
    rows, columns = np.mgrid[:96, :96]
    r = np.hypot(columns - 40, rows - 52) * UM
    h = smooth(np.where(abs(r - 4) < 0.6, 0.9, 0.3).astype(np.float32), 0.4, UM)
    found = find_circles(h, np.ones(h.shape, bool), um=UM)
    assert (np.hypot(found[:, 0] - 40, found[:, 1] - 52) * UM).min() < 1
    assert (found[:, 2] == found[:, 3]).all()
    assert len(find_circles(h, np.zeros(h.shape, bool), um=UM)) == 0
    assert len(find_circles(np.full((64, 64), 0.5, np.float32), np.ones((64, 64), bool), um=UM)) == 0


def test_of_ellipses_alike_the_best_fit_stays() -> None:
    ellipses = np.array(
        [[20, 20, 4, 4, 0, 0.9], [20.5, 20, 4.1, 4, 0, 0.97], [20, 20, 8, 8, 0, 0.8], [50, 20, 4, 4, 0, 0.7]]
    )
    kept = thin_out(ellipses, um=UM, cell_um=1.6, growth=1.3)
    assert sorted(kept[:, 5].tolist()) == [0.7, 0.8, 0.97]
    assert thin_out(ellipses[::-1], um=UM, cell_um=1.6, growth=1.3).tolist() == kept.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_the_walk_equals_the_best_closed_path(seed: int) -> None:
    """The oracle fixes the first place in turn and keeps the best sum; the walk is one open round and a half."""
    rays, places, stiff = 24, 5, 0.1
    fall = np.random.default_rng(seed).uniform(0, 1, (rays, places))

    def search(first: int) -> tuple[float, list[int]]:
        best = {first: (fall[0, first], [first])}
        for ray in range(1, rays):
            options = [
                (total - stiff * abs(step) + fall[ray, place + step], [*path, place + step])
                for place, (total, path) in best.items()
                for step in (-1, 0, 1)
                if 0 <= place + step < places
            ]
            best = {path[-1]: (total, path) for total, path in sorted(options)}
        return max(
            (total - stiff * abs(place - first), path)
            for place, (total, path) in best.items()
            if abs(place - first) <= 1
        )

    closed = max(search(first) for first in range(places))[1]
    assert walk_rays(fall[:, :, None].astype(np.float32), stiff=stiff)[:, 0].tolist() == closed


def test_a_stiff_walk_stays_where_a_loose_one_follows() -> None:
    fall = np.zeros((8, 5, 1), np.float32)
    fall[:, 2], fall[4, 3] = 0.5, 0.6
    assert walk_rays(fall, stiff=0.01)[4, 0] == 3
    assert walk_rays(fall, stiff=0.2)[:, 0].tolist() == [2] * 8


@pytest.mark.parametrize("start", [(4.0, 4.0), (5.5, 3.2), (3.2, 2.8)])
def test_an_outline_snaps_to_the_edge_wherever_it_starts(start: tuple[float, float]) -> None:
    h = draw((48.0, 46.0, 5.0, 3.6, 0.4, 1.0))
    outlines, fit = settle_outlines(np.array([[47.0, 47.0, *start, 0.4, 0.9]]), h, um=UM)
    assert fit.tolist() == [0.9]
    assert outlines.ellipses[0, :2] == pytest.approx([48, 46], abs=0.5)
    assert outlines.ellipses[0, 2:4] == pytest.approx([5, 3.6], rel=0.12)
    assert outlines.area_um2[0] == pytest.approx(np.pi * 5 * 3.6, rel=0.12)
    assert outlines.seen.all()
    assert outlines.fall.min() > 0.2


def test_rays_that_leave_the_image_are_not_seen() -> None:
    h = draw((1.0, 48.0, 5.0, 5.0, 0.0, 1.0))
    outlines = snap_outlines(np.array([[1.0, 48.0, 5.0, 5.0, 0.0, 1.0]]), h, um=UM, reach_um=1.0)
    assert 0.3 < outlines.seen.mean() < 0.6
    assert (outlines.x[outlines.seen] > 1).all()


def test_places_between_pixels_are_read_linearly_and_outside_the_nearest_counts() -> None:
    plane = np.arange(12, dtype=np.float32).reshape(3, 4)
    x, y = np.array([[1.5, -3.0, 9.0]], np.float32), np.array([[1.0, 0.0, 1.5]], np.float32)
    assert read_plane(plane, x, y)[0].tolist() == pytest.approx([5.5, 0.0, 9.0])


def test_moments_of_a_polygon_are_those_of_its_pixels() -> None:
    x, y = np.array([[2.0, 12.0, 12.0, 2.0]]), np.array([[1.0, 1.0, 5.0, 5.0]])
    (ellipse,), (area,) = measure_polygons(x, y)
    assert area == pytest.approx(40)
    assert ellipse[:2] == pytest.approx([7, 3])
    assert ellipse[2:4] == pytest.approx([2 * 10 / np.sqrt(12), 2 * 4 / np.sqrt(12)])
    assert ellipse[4] == pytest.approx(0)
    assert ellipse[5] == pytest.approx(3 / np.pi)
    turned = measure_polygons(y, x)[0][0]
    assert abs(turned[4]) == pytest.approx(np.pi / 2)


def test_a_nucleus_scores_more_than_its_part_a_clump_or_a_hole() -> None:
    whole = score([48, 48, 5, 5, 0, 1], draw((48, 48, 5, 5, 0, 1.0)))
    assert whole > 0.9
    grain = draw((48, 48, 6, 6, 0, 0.7), (44, 48, 2.2, 2.2, 0, 0.95))
    assert score([48, 48, 6, 6, 0, 1], grain) > score([44, 48, 2.2, 2.2, 0, 1], grain)
    pair = draw((39, 48, 4, 4, 0, 1.0), (57, 48, 4, 4, 0, 1.0))
    assert score([39, 48, 4, 4, 0, 1], pair) > score([48, 48, 8.5, 4, 0, 0.9], pair)
    hole = draw((48, 48, 5, 5, 0, 0.0), ground=1.0)
    assert score([48, 48, 5, 5, 0, 1], hole) == 0
    ring = draw((48, 48, 7, 7, 0, 1.0), (48, 48, 6, 6, 0, 0.0))
    assert score([48, 48, 7, 7, 0, 1], ring) == 0, "a lumen with a dark lining"
    assert score([48, 48, 5, 5, 0, 1], np.full((96, 96), 0.7, np.float32)) == 0


def test_surroundings_are_compared_in_typical_nuclei() -> None:
    h = draw((48, 48, 5, 5, 0, 1.0), (66, 48, 4, 4, 0, 1.0), ground=0.2)
    outlines, _ = settle_outlines(np.array([[48.0, 48, 5, 5, 0, 1]]), h, um=UM)
    contrast, shaded, depth = (values[0] for values in measure_surroundings(outlines, h, um=UM))
    assert 0.5 < contrast < 0.8
    assert 0.05 < shaded < 0.3, "the neighbour takes part of the ring"
    assert depth == pytest.approx(0.8, abs=0.1)


def test_a_low_score_is_enough_where_all_is_dark() -> None:
    h = draw((30, 48, 5, 5, 0, 1.0), (66, 48, 5, 5, 0, 0.5))
    outlines, _ = settle_outlines(np.array([[30.0, 48, 5, 5, 0, 1], [66.0, 48, 5, 5, 0, 1]]), h, um=UM)
    dark_first = outlines.ellipses[:, 0] < 48
    for score_, pale, dark in ((0.5, True, True), (0.43, False, True), (0.3, False, False)):
        accepted = accept_outlines(outlines, np.full(2, score_), h / np.float32(0.7))
        assert (accepted[dark_first].item(), accepted[~dark_first].item()) == (dark, pale)


def test_proposals_hold_every_drawn_nucleus_at_any_level() -> None:
    places = [(20, 20, 0.5), (70, 24, 0.9), (30, 70, 1.4), (72, 72, 0.7)]
    h = draw(*((x, y, 4.0, 3.5, 0.3, level) for x, y, level in places), ground=0.15)
    planes = Planes(h, np.zeros_like(h), np.ones(h.shape, bool), 0.4, UM)
    found = propose_ellipses(h, h / np.float32(0.35), planes)
    for x, y, _ in places:
        near = (np.hypot(found[:, 0] - x, found[:, 1] - y) < 2) & (abs(found[:, 2] - 4) < 0.8)
        assert near.any()
