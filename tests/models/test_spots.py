"""Spots: shares of counts by hand, patches, neighbours, and a gene that only depth explains unmasked."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import ModelError
from helpers.models.spots import (
    SpotSet,
    add_surroundings,
    correlate_weighted,
    judge_spots,
    list_blocks,
    normalise_spots,
    remove_depth,
    standardise_by_slide,
)


def make_spots(n: int = 200, seed: int = 1) -> SpotSet:
    """Two sections: gene `real` follows feature 1 alone, gene `depth` nothing but feature 0, which sets the depth."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(n // 10), np.arange(10)), axis=-1).reshape(-1, 2).astype(float)
    features = rng.normal(size=(2 * n, 3))
    depth = features[:, 0] + 0.3 * rng.normal(size=2 * n)
    expression = pd.DataFrame({
        "depth": depth + 0.3 * rng.normal(size=2 * n), "real": features[:, 1] + 0.5 * rng.normal(size=2 * n),
        "falling": -depth + 0.3 * rng.normal(size=2 * n), "nothing": rng.normal(size=2 * n),
    })  # fmt: skip
    spots = pd.DataFrame(np.vstack([places, places]), columns=["array_x", "array_y"])
    spots["slide_id"] = np.repeat(["C2", "C4"], n)
    return SpotSet(spots.assign(block=list_blocks(spots, block_spots=4)), features, expression, depth)


def test_a_gene_that_is_depth_in_disguise_is_unmasked_and_a_real_one_stays() -> None:
    data = make_spots()
    test = (data.spots["slide_id"] == "C4").to_numpy()
    found = judge_spots(data, train=~test, test=test, n_boot=200, rng=np.random.default_rng(2)).set_index("gene")
    assert found.loc["depth", "r"] > 0.8
    assert found.loc["depth", "depth_r"] > 0.8
    assert abs(found.loc["depth", "partial_r"]) < 0.2
    assert found.loc["depth", "gain_low"] < 0.01, "no better than depth alone"
    assert found.loc["falling", "depth_r"] > 0.8, "the depth model may turn its sign around"
    assert found.loc["real", "partial_r_low"] > 0.5
    assert found.loc["real", "gain_low"] > 0.5
    assert found.loc["nothing", "partial_r_low"] < 0 < found.loc["nothing", "partial_r_high"]
    assert found["n_blocks"].eq(15).all()


def test_depth_is_taken_out_as_a_straight_line() -> None:
    rng = np.random.default_rng(1)
    depth, values = rng.normal(size=50), rng.normal(size=(50, 2))
    left = remove_depth(values, depth)
    design = np.stack([np.ones(50), depth], axis=1)
    expected = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    assert left == pytest.approx(expected)


def test_correlations_of_resamples_are_those_of_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(8, 2)), rng.normal(size=(8, 2))
    counts = np.array([[1.0] * 8, [2, 0, 1, 1, 3, 0, 1, 0]])
    rows = np.repeat(np.arange(8), counts[1].astype(int))
    found = correlate_weighted(a, b, counts)
    assert found[0, 1] == pytest.approx(np.corrcoef(a[:, 1], b[:, 1])[0, 1])
    assert found[1, 0] == pytest.approx(np.corrcoef(a[rows, 0], b[rows, 0])[0, 1])
    assert np.isnan(correlate_weighted(a, np.ones((8, 2)), counts)).all()


def test_counts_become_shares_of_spots_with_enough_of_them_and_genes_seen_in_every_section() -> None:
    spots = pd.DataFrame({"slide_id": ["A", "A", "B"], "spot_id": ["1", "2", "1"], "n_umi": [200, 5, 400]})
    rows = [("A", "1", "seen", 2.0), ("A", "1", "once", 1.0), ("B", "1", "seen", 4.0), ("A", "2", "seen", 5.0)]
    counts = pd.DataFrame(rows, columns=["slide_id", "spot_id", "gene", "value"])
    expression, kept = normalise_spots(counts, spots, min_share=0.5, min_transcripts=100)
    assert kept[["slide_id", "spot_id"]].to_numpy().tolist() == [["A", "1"], ["B", "1"]]
    assert expression.columns.tolist() == ["seen"]
    assert expression["seen"].to_numpy() == pytest.approx(np.log1p([100.0, 100.0]))
    with pytest.raises(ModelError, match="no gene is seen in 50% of the spots of every section"):
        normalise_spots(counts[counts["gene"] == "once"], spots, min_share=0.5, min_transcripts=100)


def test_neighbours_of_the_same_section_stand_beside_a_spot() -> None:
    spots = pd.DataFrame({"slide_id": ["A", "A", "A", "B"], "array_x": [0.0, 1.0, 5.0, 0.0], "array_y": 0.0})
    found = add_surroundings(np.array([[1.0], [2.0], [3.0], [4.0]]), spots)
    assert found.tolist() == [[1, 2], [2, 1], [3, 3], [4, 4]]


def test_features_are_scaled_within_a_section() -> None:
    features = np.array([[1.0, 5.0], [3.0, 5.0], [10.0, 0.0], [30.0, 1.0]])
    found = standardise_by_slide(features, np.array(["A", "A", "B", "B"]))
    assert found.tolist() == [[-1, 0], [1, 0], [-1, -1], [1, 1]]
