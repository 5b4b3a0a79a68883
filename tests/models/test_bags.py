"""Bags: one store, any part of it, nothing lost, nothing mixed between cases."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import BagError
from helpers.models.bags import average_by_case, collect_bags, read_bags
from helpers.models.pooling import pool_tiles


def make_bags(sizes: tuple[int, ...] = (3, 1, 5), d: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(size=(n, d)).astype(np.float32) for n in sizes]


def test_a_part_holds_the_very_tiles_of_its_cases_in_its_order() -> None:
    arrays = make_bags()
    part = collect_bags(arrays).take(np.array([2, 0]))
    assert len(part) == 2
    assert part.sizes.tolist() == [5, 3]
    assert np.array_equal(part[0], arrays[2])
    tiles, owner = part.list_tiles()
    assert np.array_equal(tiles, np.concatenate([arrays[2], arrays[0]]))
    assert owner.tolist() == [0] * 5 + [1] * 3
    assert part.take(np.array([False, True]))[0] == pytest.approx(arrays[0])


@pytest.mark.parametrize("aggregation", ["mean", "moments"])
def test_pooling_a_store_equals_pooling_each_bag(aggregation: str) -> None:
    arrays = make_bags()
    expected = np.stack([pool_tiles(arrays[i], aggregation=aggregation) for i in (1, 2)])
    assert collect_bags(arrays).take(np.array([1, 2])).pool(aggregation) == pytest.approx(expected)


def test_weighted_averages_by_case_equal_the_loop() -> None:
    rng = np.random.default_rng(4)
    values, owner, weights = rng.normal(size=(7, 3)), np.array([0, 0, 1, 1, 1, 2, 2]), rng.random(7)
    expected = [np.average(values[owner == i], axis=0, weights=weights[owner == i]) for i in range(3)]
    assert average_by_case(values, owner, weights) == pytest.approx(np.stack(expected))


def test_all_slides_of_a_case_make_one_bag_and_a_case_without_tiles_is_absent() -> None:
    slides = pd.DataFrame({"slide_id": ["s1", "s2", "s3"], "case_id": ["b", "a", "b"]})
    tiles = {"s1": np.ones((2, 3)), "s2": np.ones((0, 3)), "s3": np.full((1, 3), 4.0)}
    bags, cases = read_bags(slides, tiles.__getitem__)
    assert cases.tolist() == ["b"]
    assert bags[0][:, 0].tolist() == [1, 1, 4]


def test_bags_that_cannot_be_used_are_named() -> None:
    with pytest.raises(BagError, match=r"bag 1 has shape \(0, 2\)"):
        collect_bags([np.ones((3, 2)), np.ones((0, 2))])
    with pytest.raises(BagError, match=r"bag 1 has shape \(3, 4\); expected \(n_tiles ≥ 1, 2\)"):
        collect_bags([np.ones((3, 2)), np.ones((3, 4))])
    with pytest.raises(BagError, match="bag 0 holds missing or infinite features"):
        collect_bags([np.full((3, 2), np.nan)])
    with pytest.raises(BagError, match="no bag was given"):
        collect_bags([])
    slides = pd.DataFrame({"slide_id": ["s1", "s2"], "case_id": ["a", "b"]})
    with pytest.raises(BagError, match="the slides of case 'b' have"):
        read_bags(slides, {"s1": np.ones((2, 3)), "s2": np.ones((2, 4))}.__getitem__)
    with pytest.raises(BagError, match="case 'b': 1 of 2 tiles hold missing"):
        read_bags(slides, {"s1": np.ones((2, 1)), "s2": np.array([[1.0], [np.inf]])}.__getitem__)
