"""Maps judged: hand-worked slides, maps that know everything and maps that know nothing, tiles taken away."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats.hotspots import (
    compare_maps,
    compute_auroc,
    compute_entropy,
    correlate_maps,
    judge_map,
    measure_deletion,
    summarise_deletion,
    summarise_maps,
)


def test_auroc_counts_pairs_and_halves_ties() -> None:
    positive = np.array([True, True, False, False])
    assert compute_auroc(positive, np.array([4.0, 2.0, 3.0, 1.0])) == 0.75
    assert compute_auroc(positive, np.zeros(4)) == 0.5
    assert np.isnan(compute_auroc(np.ones(4, bool), np.arange(4.0)))


def test_a_map_that_is_the_truth_is_perfect_and_its_opposite_is_not() -> None:
    rng = np.random.default_rng(1)
    centres = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2).astype(float)
    truth = -((centres - [7, 2]) ** 2).sum(axis=1)
    place = {"centres": centres, "peaks": np.array([[7.0, 2.0]]), "tile": 1.0}
    perfect = judge_map(truth, truth, hot_share=0.2, **place)
    assert perfect["auroc"] == 1
    hot = (truth > np.quantile(truth, 0.8)).mean()
    assert perfect["enrichment"] == pytest.approx(1 / hot)
    assert perfect["distance_tiles"] == 0
    assert judge_map(-truth, truth, **place)["auroc"] == 0
    nothing = [judge_map(rng.permutation(100), truth, **place) for _ in range(200)]
    assert np.mean([row["auroc"] for row in nothing]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([row["enrichment"] for row in nothing]) == pytest.approx(1, abs=0.1)
    expected = np.sqrt(((centres - [7, 2]) ** 2).sum(axis=1)).mean()
    assert nothing[0]["distance_any"] == pytest.approx(expected)
    assert np.mean([row["distance_tiles"] for row in nothing]) == pytest.approx(expected, rel=0.15)


def test_a_slide_of_few_tiles_is_not_judged_and_tile_width_is_the_unit() -> None:
    assert np.isnan(judge_map(np.arange(9.0), np.arange(9.0))["auroc"])
    centres = np.arange(20)[:, None] * [128.0, 0.0]
    found = judge_map(np.arange(20.0), np.arange(20.0), centres=centres, peaks=np.array([[18 * 128.0, 0]]), tile=128.0)
    assert found["distance_tiles"] == pytest.approx(1)


def test_ties_are_taken_in_no_order_so_a_map_that_says_one_thing_everywhere_knows_nothing() -> None:
    rng = np.random.default_rng(3)
    centres = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2).astype(float)
    truth = -((centres - [0, 0]) ** 2).sum(axis=1)  # hot where raster order begins
    peaks = np.array([[0.0, 0.0]])
    flat = judge_map(np.ones(100), truth, centres=centres, peaks=peaks)
    assert flat["enrichment"] == pytest.approx(1)
    assert flat["distance_tiles"] == pytest.approx(flat["distance_any"])
    scores = rng.integers(0, 4, 100).astype(float)  # a mask with few levels
    found = judge_map(scores, truth, centres=centres, peaks=peaks)
    drawn = []
    for _ in range(3000):
        order = rng.permutation(100)
        top = order[np.argsort(-scores[order], kind="stable")]
        hot = truth > np.quantile(truth, 0.8)
        drawn.append((hot[top[:10]].mean() / hot.mean(), np.sqrt(-truth[top[0]])))
    assert (found["enrichment"], found["distance_tiles"]) == pytest.approx(np.mean(drawn, axis=0), rel=0.05)
    order = rng.permutation(100)
    again = judge_map(scores[order], truth[order], centres=centres[order], peaks=peaks)
    assert again == pytest.approx(found)


def test_slides_of_a_case_are_resampled_together() -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({
        "map": "value", "case_id": np.repeat(["a", "b", "c", "d"], 2), "auroc": [0.9, 0.9, 0.7, 0.7, 0.8, 0.8, 0.6, 0.6],
        "enrichment": 2.0, "distance_tiles": np.nan, "distance_any": np.nan,
    })  # fmt: skip
    found = summarise_maps(table, rng=rng).set_index("quantity")
    assert found.loc["auroc", "value"] == pytest.approx(0.75)
    assert found.loc["auroc", ["n", "n_cases"]].tolist() == [8, 4]
    assert found.loc["auroc", "ci_low"] == pytest.approx(0.65, abs=0.03), "four cases, not eight slides"
    assert np.isnan(found.loc["distance_tiles", "value"])


def test_entropy_runs_from_one_tile_to_all_alike() -> None:
    attention = np.array([[0.25, 1.0, 0.5], [0.25, 0, 0.5], [0.25, 0, 0], [0.25, 0, 0]])
    assert compute_entropy(attention) == pytest.approx([1, 0, 0.5])


def test_agreement_of_maps_is_the_mean_over_pairs() -> None:
    a = np.arange(6.0)
    assert compare_maps(np.stack([a, a**3, -a], axis=1)) == pytest.approx(-1 / 3)
    assert correlate_maps(np.stack([a, -a], axis=1)).tolist() == [[1, -1], [-1, 1]]
    assert np.isnan(compare_maps(np.stack([a, np.ones(6)], axis=1)))


def test_taking_away_what_a_model_leans_on_makes_it_fall_faster_than_chance() -> None:
    rng = np.random.default_rng(3)
    bags = [rng.normal(size=(40, 1)) for _ in range(30)]

    def predict(kept):
        return np.array([bag.mean() for bag in kept])

    orders = {"value": [np.argsort(-bag[:, 0]) for bag in bags], "nothing": [rng.permutation(40) for _ in bags]}
    curves = measure_deletion(predict, bags, orders, shares=(0.0, 0.5, 0.99), rng=rng)
    by_hand = np.mean([np.sort(bag[:, 0])[:20].mean() - bag.mean() for bag in bags])
    found = summarise_deletion(curves, rng=rng).set_index(["map", "share"])
    assert found.loc[("value", 0.5), "fall"] == pytest.approx(by_hand)
    assert found.loc[("value", 0.0), "fall"] == 0
    assert found.loc[("value", 0.99), "beyond_high"] < 0
    low, high = found.loc[("nothing", 0.5), ["beyond_low", "beyond_high"]]
    assert low < 0 < high
    with pytest.raises(StatsError, match="order of map 'value' for bag 0 does not name each of 40 tiles once"):
        measure_deletion(predict, bags, {"value": [np.zeros(40, int)] * 30}, rng=rng)
