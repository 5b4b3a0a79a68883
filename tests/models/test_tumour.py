"""Tumour filter: tiles inside outlines by their centre, a classifier taught by development cases alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import FeatureError
from helpers.features.store import FeatureBag
from helpers.models import inputs, tumour
from helpers.models.inputs import make_reader, make_readers
from helpers.models.pooling import pool_cases, pool_cases_by
from helpers.models.tumour import (
    FILTER_ARMS,
    find_inside,
    find_outlines,
    fit_tumour_model,
    make_tumour_filter,
    predict_by_filter,
)

EDGE = 100


def make_bag(seed: int, columns: int = 8, rows: int = 4) -> FeatureBag:
    """A grid of tiles; those of the left half are tumour and look different."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    coords = np.stack([x.ravel(), y.ravel()], axis=1) * EDGE
    features = rng.normal(size=(len(coords), 3)) + 4 * (coords[:, :1] < columns * EDGE / 2)
    return FeatureBag(
        features=features.astype(np.float32), coords_l0=coords, coords_um=None, qc=None,
        attributes={"patch_size_level0": EDGE}, dialect="histobook",
    )  # fmt: skip


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[pd.DataFrame, Path, dict[str, FeatureBag]]:
    bags = {f"s{i}": make_bag(i) for i in range(4)}
    ring = [[0, 0], [4 * EDGE, 0], [4 * EDGE, 4 * EDGE], [0, 4 * EDGE], [0, 0]]
    for slide in ("s0", "s1", "s3"):
        shape = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
        shape["properties"] = {"classification": {"name": "Tumor"}}
        (tmp_path / f"{slide}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [shape]}))
    files = pd.DataFrame({"slide_id": list(bags), "case_id": ["a", "b", "c", "x"], "features_file": list(bags)})
    monkeypatch.setattr(tumour, "read_slide", lambda _, slide_id: bags[slide_id])
    return files, tmp_path, bags


def make_filter(cohort: tuple, how: str) -> object:
    files, folder, _ = cohort
    return make_tumour_filter(files, how=how, folder=folder, classes=["tumor"], cases=pd.Index(["a", "b", "c"]))


def test_tiles_are_inside_by_their_centre(cohort: tuple) -> None:
    _, folder, bags = cohort
    inside = find_inside(bags["s0"], folder / "s0.geojson", slide_id="s0", classes=["Tumor"])
    assert np.array_equal(inside, bags["s0"].coords_l0[:, 0] < 4 * EDGE)


def test_polygons_keep_nothing_of_a_slide_without_any(cohort: tuple) -> None:
    keep = make_filter(cohort, "polygon")
    assert keep("s1", cohort[2]["s1"]).sum() == 16
    assert not keep("s2", cohort[2]["s2"]).any()


def test_model_finds_tumour_on_a_slide_nobody_outlined(cohort: tuple) -> None:
    keep, bag = make_filter(cohort, "model"), cohort[2]["s2"]
    assert (keep("s2", bag) == (bag.coords_l0[:, 0] < 4 * EDGE)).mean() > 0.9


def test_another_encoder_of_the_same_slide_gets_the_same_choice(cohort: tuple) -> None:
    keep, bag = make_filter(cohort, "model"), cohort[2]["s2"]
    first = keep("s2", bag)
    colour = FeatureBag(
        features=np.zeros((32, 1)), coords_l0=bag.coords_l0, coords_um=None, qc=None, attributes={}, dialect="histobook"
    )
    assert np.array_equal(keep("s2", colour), first)


def test_model_never_reads_outlines_of_cases_outside_development(cohort: tuple) -> None:
    files, folder, bags = cohort
    outlines = find_outlines(folder, files["slide_id"].tolist())
    assert set(outlines) == {"s0", "s1", "s3"}
    cases = pd.Index(["a", "b", "c"])
    model = fit_tumour_model(files, outlines, classes=["Tumor"], cases=cases)
    assert model.n_slides == 2
    bags["s3"] = make_bag(99, rows=9)
    again = fit_tumour_model(files, outlines, classes=["Tumor"], cases=cases)
    assert again.weights == pytest.approx(model.weights)


def test_what_is_missing_is_named(cohort: tuple, tmp_path: Path) -> None:
    files, folder, bags = cohort
    assert make_filter(cohort, "none") is None
    with pytest.raises(FeatureError, match="no outline of 4 slides"):
        find_outlines(tmp_path / "nowhere", files["slide_id"].tolist())
    bags["s0"], bags["s1"] = make_bag(0, rows=1), make_bag(1, rows=1)
    with pytest.raises(FeatureError, match="8 tiles inside and 8 outside the outlines of 2 development slides"):
        make_filter(cohort, "model")
    bare = FeatureBag(features=np.zeros((2, 3)), coords_l0=None, coords_um=None, qc=None, attributes={}, dialect="clam")
    with pytest.raises(FeatureError, match="features of slide 's0' state no place"):
        find_inside(bare, folder / "s0.geojson", slide_id="s0", classes=["Tumor"])


def test_filters_are_compared_on_the_same_cases(cohort: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score is planted in tumour tiles alone, and other tiles carry noise that a mean over all of them keeps."""
    files, folder, _ = cohort
    rng = np.random.default_rng(5)
    cases = [f"c{i:02d}" for i in range(40)]
    score = pd.Series(rng.normal(size=40), index=cases)
    bags = {}
    for number, case in enumerate(cases):
        bag = make_bag(100 + number)
        tumour_tiles = bag.coords_l0[:, 0] < 4 * EDGE
        noise = np.where(tumour_tiles, score[case], 3 * rng.normal())
        bags[case] = dataclasses.replace(bag, features=np.c_[bag.features, noise].astype(np.float32))
        (folder / f"{case}.geojson").write_text((folder / "s0.geojson").read_text())
    bags["c39"] = dataclasses.replace(bags["c39"], coords_l0=bags["c39"].coords_l0 + 100 * EDGE)  # nothing inside
    read: list[str] = []
    monkeypatch.setattr(tumour, "read_slide", lambda _, slide_id: bags[slide_id])
    monkeypatch.setattr(inputs, "read_slide", lambda _, slide_id: read.append(slide_id) or bags[slide_id])
    monkeypatch.setattr(inputs, "select_tiles", lambda bag: np.ones(len(bag.features), bool))
    files = pd.DataFrame({"slide_id": cases, "case_id": cases, "features_file": cases})
    splits = pd.DataFrame({"repeat": 0, "fold": np.arange(40) % 4, "case_id": cases, "role": "test"})
    found = predict_by_filter(
        files, lambda _: score.to_frame("y"), splits, site=pd.Series("A", index=cases), folder=folder, classes=["Tumor"],
        cases=pd.Index(cases),
    )  # fmt: skip
    assert read == cases, "a feature file is read once for all filters"
    assert set(found["arm"]) == set(FILTER_ARMS.values())
    assert found.groupby("arm")["case_id"].nunique().eq(39).all()
    agreement = {arm: rows["y_true"].corr(rows["y_pred"], "spearman") for arm, rows in found.groupby("arm")}
    assert agreement["inside_outlines"] > agreement["all_tiles"] + 0.1
    assert agreement["called_tumour"] > agreement["all_tiles"] + 0.1


def test_cases_pooled_by_several_filters_are_those_pooled_by_each(
    cohort: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _, bags = cohort
    files = files.assign(case_id=["a", "a", "b", "c"])
    monkeypatch.setattr(inputs, "read_slide", lambda _, slide_id: bags[slide_id])
    monkeypatch.setattr(inputs, "select_tiles", lambda bag: bag.coords_l0[:, 1] > 0)
    keeps = {"all": None, "polygon": make_filter(cohort, "polygon"), "model": make_filter(cohort, "model")}
    found = pool_cases_by(files, make_readers(files, keeps), list(keeps), aggregation="moments")
    for name, keep in keeps.items():
        expected = pool_cases(files, make_reader(files, keep=keep), aggregation="moments")
        pd.testing.assert_frame_equal(found[name], expected)
    assert list(found["polygon"].index) == ["a", "c"], "the case without outline has no tile"
