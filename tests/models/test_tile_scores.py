"""Tile scores: what a high call rests on, exactly, and on the published scores of three real slides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import BagError
from helpers.models.arms import find_arm
from helpers.models.bags import collect_bags
from helpers.models.pooling import pool_tile_scores
from helpers.models.tile_scores import find_decisive_tiles, has_tile_scores, score_tiles


def test_decisive_tiles_of_a_hand_worked_slide() -> None:
    scores = np.array([1.0, 9.0, 2.0, 8.0, 0.0])  # mean 4; without 9: 2.75; without 9 and 8: 1
    assert find_decisive_tiles(scores, cutoff=2.75).tolist() == [False, True, False, False, False]
    assert find_decisive_tiles(scores, cutoff=2.0).tolist() == [False, True, False, True, False]
    assert not find_decisive_tiles(scores, cutoff=4.0).any()  # not called high
    assert find_decisive_tiles(scores + 5, cutoff=0.0).all()  # every tile alone is high


@pytest.mark.parametrize("aggregation", ["mean", "median", "p75"])
def test_halving_finds_what_taking_tiles_away_one_by_one_finds(aggregation: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        scores = rng.normal(size=rng.integers(3, 40))
        cutoff = pool_tile_scores(scores, aggregation=aggregation) - abs(rng.normal())
        left = np.sort(scores)[::-1]
        taken = 0
        while taken < len(left) and pool_tile_scores(left[taken:], aggregation=aggregation) > cutoff:
            taken += 1
        assert find_decisive_tiles(scores, cutoff=cutoff, aggregation=aggregation).sum() == taken


def test_published_tile_scores_and_their_threshold(shared_data: Path) -> None:
    tiles = pd.read_csv(next((shared_data / "weep_tile_scores").rglob("df_tile_example.csv")))
    for slide, p75 in (("wsi_1", 0.9957), ("wsi_2", 0.9207), ("wsi_3", 0.8339)):
        scores = tiles.loc[tiles["slide_name"] == slide, "pred_scores"].to_numpy(float)
        assert round(pool_tile_scores(scores, aggregation="p75"), 4) == p75
        decisive = find_decisive_tiles(scores, cutoff=0.717, aggregation="p75")
        rest = scores[~decisive]
        assert 0 < decisive.sum() < len(scores)
        assert pool_tile_scores(rest, aggregation="p75") <= 0.717
        back = np.append(rest, scores[decisive].min())
        assert pool_tile_scores(back, aggregation="p75") > 0.717  # one tile fewer would not have done
        assert scores[decisive].min() >= rest.max()


def test_arms_are_asked_whether_they_score_tiles() -> None:
    rng = np.random.default_rng(3)
    bags, y = collect_bags([rng.normal(size=(6, 3)) for _ in range(20)]), rng.normal(size=20)
    fits = {name: [find_arm(name).fit(bags, y, None, rng) for _ in range(2)] for name in ("ridge", "ridge_kernel")}
    needle = find_arm("attention_mil_plain").fit(bags, y, None, rng).fitted.fits[0]
    nets = needle.nets | {"u": np.ones_like(needle.nets["u"]), "w2": np.ones_like(needle.nets["w2"])}
    assert not has_tile_scores([replace(needle, nets=nets)], bags[0])  # attention: tiles count unequally
    assert has_tile_scores([replace(needle, nets=nets, attention=False)], bags[0])
    assert has_tile_scores(fits["ridge"], bags[0])
    assert not has_tile_scores(fits["ridge_kernel"], bags[0])
    expected = (fits["ridge"][0].score_tiles(bags[0]) + fits["ridge"][1].score_tiles(bags[0])) / 2
    assert score_tiles(fits["ridge"], bags[0]) == pytest.approx(expected)


def test_missing_scores_are_counted() -> None:
    with pytest.raises(BagError, match="2 tile scores, 1 missing"):
        find_decisive_tiles(np.array([1.0, np.nan]), cutoff=0)
