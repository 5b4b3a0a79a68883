"""Scores of a segmentation: hand-worked images, a slow oracle, and what must not change them."""

import itertools

import numpy as np
import pytest

from helpers.core.errors import StatsError
from helpers.stats.segmentation import (
    Agreement,
    classify_objects,
    compare_segmentations,
    compute_overlap,
    find_centres,
    match_centres,
)


def place(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (20, 40)) -> np.ndarray:
    """Draw boxes (left, top, width, height) with numbers from 1."""
    labels = np.zeros(shape, np.int32)
    for number, (left, top, width, height) in enumerate(boxes, start=1):
        labels[top : top + height, left : left + width] = number
    return labels


def draw_blobs(seed: int, n: int = 14) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros((60, 80), np.int32)
    rows, columns = np.mgrid[:60, :80]
    for number in range(1, n + 1):
        x, y, r = rng.uniform(5, 75), rng.uniform(5, 55), rng.uniform(2, 7)
        labels[(columns - x) ** 2 + (rows - y) ** 2 < r**2] = number * 3  # numbers need not be consecutive
    return labels


def test_a_hand_worked_pair_of_images() -> None:
    truth = place((0, 0, 4, 4), (10, 0, 4, 4), (20, 0, 2, 4))
    found = place((0, 0, 4, 3), (12, 0, 4, 4), (30, 0, 2, 5))  # 12 of 16; 8 of 24; one false
    score = compare_segmentations(truth, found, um_per_px=1.0, reach_um=3.0).to_scores()
    assert score["n_truth"] == score["n_found"] == 3
    assert score["centroid_f1"] == pytest.approx(2 * 2 / 6)  # centres 0.5 and 2.0 px apart
    assert score["iou_f1"] == pytest.approx(2 * 1 / 6)  # 12/16 passes, 8/24 does not
    assert score["sq"] == pytest.approx(0.75)
    assert score["pq"] == pytest.approx(0.75 / (1 + 0.5 * 2 + 0.5 * 2))  # sum IoU / (TP + FP/2 + FN/2)
    assert score["aji"] == pytest.approx((12 + 8) / (16 + 24 + 8 + 10))  # a truth unmet: 8; a false object: 10


def test_an_area_of_exactly_half_is_not_the_same_object() -> None:
    agreement = compare_segmentations(place((0, 0, 4, 4)), place((0, 0, 4, 2)), um_per_px=1.0)
    assert agreement.n_same == 0
    assert agreement.n_near == 1


def test_reach_is_in_um_and_its_end_counts() -> None:
    truth, found = place((0, 0, 2, 2)), place((12, 0, 2, 2))
    assert compare_segmentations(truth, found, um_per_px=0.5).n_near == 1  # 12 px are 6 um
    assert compare_segmentations(truth, found, um_per_px=0.51).n_near == 0


def test_matching_gives_as_many_pairs_as_possible_and_then_the_nearest() -> None:
    truth, found = np.array([[0.0, 0.0], [5.0, 0.0]]), np.array([[4.0, 0.0], [9.5, 0.0]])
    assert match_centres(truth, found, reach=6.0).tolist() == [[0, 0], [1, 1]]  # not the nearest pair alone
    assert match_centres(truth, found[:1], reach=6.0).tolist() == [[1, 0]]
    assert match_centres(truth, np.zeros((0, 2)), reach=6.0).shape == (0, 2)


@pytest.mark.parametrize("seed", range(5))
def test_matching_equals_trying_every_assignment(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = rng.uniform(0, 12, (4, 2)), rng.uniform(0, 12, (5, 2))
    distance = np.hypot(*(truth[:, None] - found[None]).transpose(2, 0, 1))
    options = []
    for chosen in itertools.permutations(range(5), 4):
        pairs = [(row, column) for row, column in enumerate(chosen) if distance[row, column] <= 6]
        options.append((-len(pairs), sum(distance[pair] for pair in pairs)))
    found_pairs = match_centres(truth, found, reach=6.0)
    assert (-len(found_pairs), distance[tuple(found_pairs.T)].sum()) == pytest.approx(min(options))


@pytest.mark.parametrize("seed", range(4))
def test_overlaps_and_aggregated_jaccard_equal_a_slow_loop(seed: int) -> None:
    truth, found = draw_blobs(seed), draw_blobs(seed + 100)
    found = np.where(truth % 2, np.roll(truth, 1, axis=1), found)  # some objects agree
    truth_masks = [truth == number for number in np.unique(truth)[1:]]
    found_masks = [found == number for number in np.unique(found)[1:]]
    overlap = np.array([[(a & b).sum() for b in found_masks] for a in truth_masks])
    assert (compute_overlap(truth, found) == overlap).all()
    above, below, used = 0, 0, set()
    for row, mask in enumerate(truth_masks):
        ratios = [(mask & other).sum() / (mask | other).sum() for other in found_masks]
        best = int(np.argmax(ratios))
        if ratios[best] == 0:
            below += mask.sum()
            continue
        above += overlap[row, best]
        below += (mask | found_masks[best]).sum()
        used.add(best)
    below += sum(mask.sum() for number, mask in enumerate(found_masks) if number not in used)
    score = compare_segmentations(truth, found, um_per_px=0.5).to_scores()
    assert score["aji"] == pytest.approx(above / below)


def test_equal_images_score_one_whatever_the_numbers() -> None:
    labels = draw_blobs(3)
    score = compare_segmentations(labels, labels * 7, um_per_px=0.5).to_scores()
    assert {score[name] for name in ("centroid_f1", "iou_f1", "aji", "sq", "pq", "count_ratio")} == {1.0}


def test_adding_images_counts_objects_and_does_not_average_ratios() -> None:
    full, empty = place((0, 0, 4, 4)), place()
    both = compare_segmentations(full, full, um_per_px=1.0) + compare_segmentations(empty, full, um_per_px=1.0)
    assert isinstance(both, Agreement)
    assert both.to_scores()["iou_f1"] == pytest.approx(2 / 3)
    assert both.to_scores()["aji"] == pytest.approx(0.5)


def test_nothing_to_find_and_nothing_found_is_no_score() -> None:
    score = compare_segmentations(place(), place(), um_per_px=1.0).to_scores()
    assert score["n_truth"] == score["n_found"] == 0
    assert all(np.isnan(score[name]) for name in ("iou_f1", "aji", "pq", "centroid_f1", "count_ratio"))


def test_missed_objects_score_zero() -> None:
    score = compare_segmentations(place((0, 0, 4, 4)), place(), um_per_px=1.0).to_scores()
    assert score["iou_f1"] == score["pq"] == score["aji"] == score["centroid_f1"] == 0


def test_centres_are_x_y_by_rising_number() -> None:
    labels = place((30, 2, 3, 5), (1, 10, 2, 2))
    assert find_centres(labels).tolist() == [[31, 4], [1.5, 10.5]]


def test_objects_are_sorted_by_their_numbers() -> None:
    truth = place((0, 0, 4, 4), (20, 0, 4, 4)) * 10
    found = place((30, 10, 4, 4), (1, 0, 4, 4)) * 5
    assert classify_objects(truth, found, um_per_px=1.0) == {"matched": [10], "false": [5], "missed": [20]}


@pytest.mark.parametrize("found", [np.zeros((4, 5), np.int32), np.zeros((4, 4)), np.full((4, 4), -1)])
def test_images_that_do_not_fit_are_refused(found: np.ndarray) -> None:
    with pytest.raises(StatsError, match="label image 'found'"):
        compare_segmentations(np.zeros((4, 4), np.int32), found, um_per_px=1.0)
