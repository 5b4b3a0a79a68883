"""Pooling: a bag is all tiles of all slides of a case, in any order."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import BagError
from helpers.models.pooling import pool_cases, pool_tile_scores, pool_tiles


def test_poolings_of_a_hand_worked_bag() -> None:
    bag = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 4.0], [6.0, 4.0]])
    assert pool_tiles(bag, aggregation="mean") == pytest.approx([3, 2])
    assert pool_tiles(bag, aggregation="median") == pytest.approx([2.5, 2])
    assert pool_tiles(bag, aggregation="p75") == pytest.approx([3.75, 4])
    assert pool_tiles(bag, aggregation="mean_sd") == pytest.approx([3, 2, np.sqrt(3.5), 2])


@pytest.mark.parametrize("aggregation", ["mean", "median", "p75", "mean_sd"])
def test_tile_order_changes_nothing(aggregation: str) -> None:
    bag = np.random.default_rng(1).normal(size=(50, 3))
    assert pool_tiles(bag[::-1], aggregation=aggregation) == pytest.approx(pool_tiles(bag, aggregation=aggregation))


def test_slides_of_a_case_are_pooled_by_tile_not_by_slide() -> None:
    slides = pd.DataFrame({"slide_id": ["s1", "s2", "s3"], "case_id": ["007", "007", "008"]})
    bags = {"s1": np.full((3, 1), 1.0), "s2": np.full((1, 1), 5.0), "s3": np.full((2, 1), 9.0)}
    pooled = pool_cases(slides, bags.__getitem__)
    assert pooled.index.tolist() == ["007", "008"]
    assert pooled.loc["007", 0] == 2.0
    assert pooled.attrs["n_tiles"] == {"007": 4, "008": 2}


def test_a_case_without_tiles_is_absent_and_counted() -> None:
    slides = pd.DataFrame({"slide_id": ["s1", "s2"], "case_id": ["a", "b"]})
    pooled = pool_cases(slides, {"s1": np.ones((2, 3)), "s2": np.ones((0, 3))}.__getitem__)
    assert pooled.index.tolist() == ["a"]
    assert pooled.attrs["n_tiles"]["b"] == 0


def test_slides_of_two_encoders_in_one_case_are_refused_by_name() -> None:
    slides = pd.DataFrame({"slide_id": ["s1", "s2"], "case_id": ["a", "a"]})
    with pytest.raises(BagError, match=r"the slides of case 'a' have \[3, 4\] features per tile\. Use one encoder"):
        pool_cases(slides, {"s1": np.ones((2, 3)), "s2": np.ones((2, 4))}.__getitem__)


def test_a_missing_feature_is_refused_with_the_name_of_its_case() -> None:
    slides = pd.DataFrame({"slide_id": ["s1"], "case_id": ["a"]})
    with pytest.raises(BagError, match="case 'a': 1 of 2 tiles hold missing or infinite features"):
        pool_cases(slides, {"s1": np.array([[1.0, np.nan], [1.0, 2.0]])}.__getitem__)


def test_an_empty_bag_and_an_unknown_pooling_say_so() -> None:
    with pytest.raises(BagError, match=r"a bag of shape \(0, 4\) cannot be pooled"):
        pool_tiles(np.ones((0, 4)))
    with pytest.raises(BagError, match="aggregation 'max' is unknown; expected one of mean, median, p75, mean_sd"):
        pool_tiles(np.ones((2, 4)), aggregation="max")
    with pytest.raises(BagError, match="a slide without tiles has no score"):
        pool_tile_scores(np.ones(0))


def test_published_75th_percentiles_of_real_tile_scores(shared_data: Path) -> None:
    tables = sorted((shared_data / "weep_tile_scores").rglob("*.csv"))
    tiles = pd.concat(pd.read_csv(path) for path in tables)
    score = next(name for name in tiles if pd.api.types.is_float_dtype(tiles[name]))
    slide = next(name for name in tiles if tiles[name].nunique() == 3)
    found = tiles.groupby(slide)[score].apply(lambda scores: pool_tile_scores(scores.to_numpy(), aggregation="p75"))
    assert found.round(4).tolist() == [0.9957, 0.9207, 0.8339]
