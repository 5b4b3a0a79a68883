"""Maps of a cohort: published filters, what counts as linked, judgement of a planted cohort, the gallery."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers.core.specs import PhantomSpec
from helpers.features.store import FeatureBag
from helpers.models.expression import predict_genes
from helpers.models.hotspot_maps import (
    SlideTiles,
    delete_by_map,
    find_fuller_half,
    find_truth,
    judge_random,
    judge_slides,
    keep_as_published,
    list_linked,
    measure_stability,
    pick_gallery,
)
from helpers.models.planted_maps import PlantedTiles
from helpers.phantom.truth import plan_cohort
from tests.models.toy_genes import make_study


def make_bag(n: int = 6) -> FeatureBag:
    qc = pd.DataFrame({"brightness": np.linspace(100, 250, n), "focus_laplacian_var": np.linspace(5, 60, n)})
    coords = np.stack([np.arange(n) * 100, np.zeros(n, int)], axis=1)
    return FeatureBag(
        features=np.zeros((n, 2), np.float32),
        coords_l0=coords,
        qc=qc,
        attributes={},
        dialect="histobook",
        coords_um=None,
    )


def test_the_published_filters_leave_out_white_and_flat_tiles_and_half_of_a_duplicate() -> None:
    slides = pd.DataFrame({"slide_id": ["one", "two"], "duplicated": [False, True]})
    nothing = {"max_brightness": None, "min_contrast": None, "halve_duplicates": False}
    assert keep_as_published(slides, **nothing) is None
    white = keep_as_published(slides, **nothing | {"max_brightness": 200.0})
    assert white("one", make_bag()).tolist() == [True] * 4 + [False] * 2
    flat = keep_as_published(slides, **nothing | {"min_contrast": 20.0})
    assert flat("one", make_bag()).tolist() == [False] * 2 + [True] * 4
    halved = keep_as_published(slides, **nothing | {"halve_duplicates": True})
    assert halved("one", make_bag()).all()
    assert halved("two", make_bag()).sum() == 3
    assert keep_as_published(slides.drop(columns="duplicated"), **nothing | {"halve_duplicates": True}) is None


def test_the_fuller_half_lies_across_the_longer_side() -> None:
    coords = np.array([[0, 0], [10, 1], [80, 0], [90, 1], [100, 0]])
    assert find_fuller_half(coords).tolist() == [False, False, True, True, True]
    assert find_fuller_half(coords[:, ::-1]).tolist() == [False, False, True, True, True]


def test_linked_genes_owe_a_quarter_of_their_variance_to_what_a_slide_shows() -> None:
    loadings = plan_cohort(PhantomSpec(n_cases=10, n_external=0, render=False, bad_slides=False)).loadings
    linked = list_linked(loadings)
    assert {"MKI67", "UBE2C", "CD8A", "PTPRC"} <= set(linked)
    assert not {"ESR1", "KRT5", "ERBB2", "ACTB", "NULL001"} & set(linked)
    assert find_truth(loadings, ["MKI67", "CD8A", "ESR1"]) == {"MKI67": "proliferation", "CD8A": "til"}


@pytest.fixture(scope="module")
def cohort():
    """Tiles on a grid whose feature 0 is what was planted."""
    study, expression = make_study(60)
    arm = "multi_task"
    _, fits = predict_genes(study, expression, [arm])
    rng, slides = np.random.default_rng(2), []
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(6)), axis=-1).reshape(-1, 2) * 100.0
    for i in range(12):
        planted = rng.normal(size=36)
        features = np.stack([2 * planted, rng.normal(size=36), rng.normal(size=36)], axis=1).astype(np.float32)
        values = pd.DataFrame({"proliferation": planted, "til": rng.normal(size=36), "tumour": rng.uniform(0.5, 1, 36)})
        truth = PlantedTiles(
            values, np.ones(36, bool), {"proliferation": grid[[planted.argmax()]] + 50, "til": np.empty((0, 2))}
        )
        slides.append(
            SlideTiles(f"s{i}", study.cases[10 + i], features, grid, grid.astype(int), 100.0, None, 1.0, truth)
        )
    return study, fits[arm], slides


def test_a_map_of_what_was_planted_is_recognised_and_the_mask_is_not(cohort) -> None:
    study, fits, slides = cohort
    judged = judge_slides(study, fits, slides, genes={"a": "proliferation"}, columns={"a": 0, "b": 1}, hot_share=0.2)
    means = judged.groupby("map")[["auroc", "distance_tiles"]].mean()
    assert means.loc["value", "auroc"] > 0.95
    assert means.loc["product", "auroc"] > 0.9
    assert 0.3 < means.loc["tumour_mask", "auroc"] < 0.7
    assert means.loc["value", "distance_tiles"] < 0.8
    assert len(judged) == 12 * 4
    unknown = [replace(slide, planted=None) for slide in slides]
    assert judge_slides(study, fits, unknown, genes={"a": "til"}, columns={"a": 0}, hot_share=0.2).empty


def test_untrained_attentions_scatter_around_chance(cohort) -> None:
    _, fits, slides = cohort
    drawn = judge_random(fits[0], slides, truths=["proliferation"], hot_share=0.2, n_draws=60, seed=1)
    assert len(drawn) == 60
    assert drawn["auroc"].mean() == pytest.approx(0.5, abs=0.12)
    assert drawn["auroc"].std() > 0.02


def test_taking_high_values_away_makes_predictions_fall(cohort) -> None:
    study, fits, _ = cohort
    curves = delete_by_map(study, fits, column=0, max_cases=40, rng=np.random.default_rng(1))
    fall = curves.pivot_table(index="map", columns="share", values="y_pred")
    assert fall.loc["value", 0.5] < fall.loc["random", 0.5] - 0.2
    assert fall.loc["value", 0.0] == pytest.approx(fall.loc["random", 0.0])


def test_nets_of_one_fit_are_compared(cohort) -> None:
    study, fits, slides = cohort
    table = measure_stability(study, fits, slides[:3], columns={"a": 0, "b": 1})
    assert set(table["map"]) == {"value", "attention"}
    assert table.loc[(table["target"] == "a") & (table["map"] == "value"), "agreement"].min() > 0.8
    assert table["entropy"].between(0.5, 1.0001).all()


def test_the_gallery_holds_one_tile_per_bin_low_to_high(cohort) -> None:
    study, fits, slides = cohort
    picked = pick_gallery(study, fits, slides, columns={"a": 0}, n_bins=7)
    assert picked["bin"].tolist() == list(range(7))
    assert picked["y_pred"].is_monotonic_increasing
    assert set(picked["slide_id"]) <= {slide.slide_id for slide in slides}
