"""From slides that no fit saw to a page per case: one bad slide fails alone, what does not fit is refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from helpers.book import cli
from helpers.book.predict import make_bundle_encoder, predict_slides, read_new_slides
from helpers.core import paths
from helpers.core.errors import ModelError, RunError
from helpers.core.specs import FeatureSpec, PhantomSpec, TilingSpec
from helpers.features.encoders import make_encoder
from helpers.features.extract import extract_cohort
from helpers.features.store import read_features
from helpers.models.bundle import (
    IDENTITY,
    FoldAverage,
    RidgeFit,
    TumourSummary,
    collect_manifest,
    read_bundle,
    write_bundle,
)
from helpers.models.inputs import find_feature_files, make_reader, select_tiles
from helpers.models.linear import fit_ridge
from helpers.models.pooling import pool_cases
from helpers.models.tumour import TumourFilter, TumourModel
from helpers.phantom.generate import generate_cohort
from helpers.slides.tiling import tile_cohort
from helpers.slides.writer import write_pyramid
from tests.slides.conftest import draw_tissue

FILTERS = {"min_tissue_fraction": 0.5, "min_sharpness": 0.6, "max_pen_fraction": 0.05}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small phantom, tiled and described as chapters 01 and 02 do it, and a model fitted on its first cases."""
    root = tmp_path_factory.mktemp("predict")
    generate_cohort(
        PhantomSpec(n_cases=9, n_external=0, slide_um=500, bad_slides=False, n_estimand=10_000, seed=4),
        root / "raw",
        workers=2,
    )
    slides = read_new_slides(root / "raw" / "slides.csv")
    folder = root / "results" / "toy"
    options = {"ledger": root / "ledger.parquet", "workers": 2}
    tile_cohort(slides, TilingSpec(), folder=folder / "01_tile_slides", **options)
    extract_cohort(
        slides, FeatureSpec(encoders=("mean_colour", "stain_texture")), tiles_folder=folder / "01_tile_slides/tiles",
        folder=folder / "02_extract_features", device="cpu", **options,
    )  # fmt: skip
    for name, spec in (("01_tile_slides", TilingSpec()), ("02_extract_features", FeatureSpec())):
        paths.write_json(
            {"key": name, "status": "finished", "spec": spec.model_dump(mode="json")}, folder / name / "run.json"
        )
    features = folder / "02_extract_features" / "features"
    training = slides["case_id"].unique()[:6]
    known = slides[slides["case_id"].isin(training)].reset_index(drop=True)
    files = find_feature_files(known, encoder_dir=features / "stain_texture")
    pooled = pool_cases(files, make_reader(files, **FILTERS))
    rng = np.random.default_rng(1)
    labels = pooled.iloc[:, [3]].to_numpy() + rng.normal(size=(6, 1))
    model = fit_ridge(pooled.to_numpy(), labels, alphas=np.array([10.0]))
    table = pd.DataFrame(
        {"case_id": pooled.index, "y_true": labels[:, 0], "y_pred": model.predict(pooled.to_numpy())[:, 0]}
    )
    run = SimpleNamespace(profile_dir=folder, id="03-toy", commit="abc", key="k")
    manifest = collect_manifest(
        run, bag=read_features(files["features_file"][0]), arm="ridge", target="prolif11", score_method="mean_log2",
        filters=FILTERS, predictions=table, n_slides=len(known), cutoff=float(table["y_pred"].median()),
    )  # fmt: skip
    write_bundle(root / "bundle", FoldAverage([RidgeFit(model)]), manifest, reference=pooled)
    new = slides[~slides["case_id"].isin(training)].reset_index(drop=True)
    return SimpleNamespace(root=root, new=new, model=model, bundle=root / "bundle", features=features)


def write_slides(folder: Path, slides: pd.DataFrame) -> Path:
    slides.to_csv(folder / "slides.csv", index=False)
    return folder / "slides.csv"


def test_the_command_scores_slides_it_never_saw(cohort: SimpleNamespace, tmp_path: Path, monkeypatch, capsys) -> None:
    table = write_slides(tmp_path, cohort.new)
    out = tmp_path / "out"
    monkeypatch.setattr(
        "sys.argv", ["histobook", "predict", "--bundle", str(cohort.bundle), "--slides", str(table), "--out", str(out)]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code in (0, None)
    assert f"{len(cohort.new)} slides: {len(cohort.new)} scored, 0 failed" in capsys.readouterr().out
    found = pd.read_parquet(out / "predictions.parquet").set_index("case_id")
    files = find_feature_files(cohort.new, encoder_dir=cohort.features / "stain_texture")
    pooled = pool_cases(files, make_reader(files, **FILTERS))
    assert found.loc[pooled.index, "y_pred"].to_numpy() == pytest.approx(cohort.model.predict(pooled.to_numpy())[:, 0])
    assert (found["group"] == np.where(found["y_pred"] > found["cutoff"], "high", "low")).all()
    assert {"split", "repeat", "fold", "target", "y_true"} <= set(found.columns)
    for case in found.index:
        page = (out / "reports" / f"{case}.html").read_text()
        assert "Research use only" in page
        assert f"{found.loc[case, 'y_pred']:.2f}" in page
        assert found.loc[case, "bundle"] in page
        assert not re.findall(r"""(?:src|href)=(?!["']?data:)""", page), "the page needs another file"
    for slide in cohort.new["slide_id"]:
        tiles = pd.read_csv(out / "maps" / f"{slide}.csv")
        assert (out / "maps" / f"{slide}.png").stat().st_size > 5_000
        if (cohort.new["case_id"] == slide[:7]).sum() == 1:
            assert tiles["score"].mean() == pytest.approx(found.loc[slide[:7], "y_pred"])


def test_a_second_call_reuses_tiles_and_features(cohort: SimpleNamespace, tmp_path: Path) -> None:
    table = write_slides(tmp_path, cohort.new.head(1))
    first = predict_slides(cohort.bundle, table, tmp_path / "out", device="cpu")
    file = tmp_path / "out" / "features" / "stain_texture" / f"{cohort.new['slide_id'][0]}.h5"
    made = file.stat().st_mtime_ns
    again = predict_slides(cohort.bundle, table, tmp_path / "out", device="cpu")
    assert file.stat().st_mtime_ns == made
    pd.testing.assert_frame_equal(first.predictions, again.predictions)


def test_bad_slides_fail_alone_with_their_reason(cohort: SimpleNamespace, tmp_path: Path) -> None:
    good = cohort.new.head(1)[["slide_id", "case_id", "path"]]
    cut, bare, coarse = tmp_path / "cut.svs", tmp_path / "bare.svs", tmp_path / "coarse.svs"
    content = Path(good["path"][0]).read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    write_pyramid(bare, draw_tissue(900, 700), mpp=None, downsamples=(4,))
    write_pyramid(coarse, draw_tissue(900, 700), mpp=1.0, downsamples=(4,))
    rows = [("cut", good["case_id"][0], str(cut)), ("bare", "B", str(bare)), ("coarse", "C", str(coarse))]
    table = pd.concat([good, pd.DataFrame(rows, columns=good.columns)])
    done = predict_slides(cohort.bundle, write_slides(tmp_path, table), tmp_path / "out", device="cpu")
    reasons = done.ledger.set_index("slide_id")["reason"]
    assert done.ledger.set_index("slide_id")["status"].to_dict() == {
        good["slide_id"][0]: "ok", "cut": "failed", "bare": "failed", "coarse": "failed"
    }  # fmt: skip
    assert "cut short" in reasons["cut"]
    assert "states no resolution" in reasons["bare"]
    assert "State it in column mpp of the slide table" in reasons["bare"]
    assert "scanned at 1 um per px, the model reads tiles at 0.5" in reasons["coarse"]
    assert done.predictions["case_id"].tolist() == good["case_id"].tolist()
    assert done.predictions["slides_lost"].tolist() == [1]
    page = (tmp_path / "out" / "reports" / f"{good['case_id'][0]}.html").read_text()
    assert "Not part of the score:" in page
    assert "cut short" in page
    assert done.unscored == ("B", "C")
    assert "no score at all: B, C" in done.describe()


def test_a_run_without_a_single_score_is_an_error(cohort: SimpleNamespace, tmp_path: Path) -> None:
    table = pd.DataFrame({"slide_id": ["x"], "case_id": ["X"], "path": [str(tmp_path / "no.svs")]})
    with pytest.raises(RunError, match=r"none of 1 slides could be scored:\n  x: SlideError"):
        predict_slides(cohort.bundle, write_slides(tmp_path, table), tmp_path / "out", device="cpu")


def test_features_of_another_encoder_or_of_another_slide_are_refused(cohort: SimpleNamespace, tmp_path: Path) -> None:
    table = write_slides(tmp_path, cohort.new.head(1))
    right = predict_slides(cohort.bundle, table, tmp_path / "a", features_dir=cohort.features / "stain_texture")
    assert len(right.predictions) == 1
    with pytest.raises(RunError, match="has encoder 'mean_colour', the model was trained with 'stain_texture'"):
        predict_slides(cohort.bundle, table, tmp_path / "b", features_dir=cohort.features / "mean_colour")
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    shutil.copy(cohort.features / "stain_texture" / "PH-0001-DX1.h5", swapped / f"{cohort.new['slide_id'][0]}.h5")
    with pytest.raises(RunError, match="were made from another file"):
        predict_slides(cohort.bundle, table, tmp_path / "c", features_dir=swapped)


def test_an_encoder_that_is_not_the_bundle_s_stops_before_any_slide(
    cohort: SimpleNamespace, tmp_path: Path, monkeypatch
) -> None:
    table = write_slides(tmp_path, cohort.new.head(1))
    monkeypatch.setattr("helpers.features.encoders.STAIN_TEXTURE_VERSION", "next")
    with pytest.raises(ModelError, match="encoder 'stain_texture' of this machine has encoder_version 'next'"):
        predict_slides(cohort.bundle, table, tmp_path / "out", device="cpu")
    with pytest.raises(ModelError, match="the model's features are those of 'stain_texture', a formula"):
        predict_slides(cohort.bundle, table, tmp_path / "out", device="cpu", weights=tmp_path / "none.safetensors")
    assert not (tmp_path / "out" / "ledger.parquet").exists()


def write_filtered(cohort: SimpleNamespace, folder: Path, keep: TumourFilter) -> Path:
    """The toy model as if it had been trained on tiles that a tumour filter chose."""
    bundle = read_bundle(cohort.bundle)
    how = "polygon" if keep.model is None else "model"
    summary = TumourSummary(how=how, classes=tuple(keep.classes), min_probability=keep.min_probability, n_slides=3)
    manifest = bundle.manifest.model_copy(update={"tumour": summary})
    write_bundle(folder, bundle.scorer, manifest, tumour=keep.model)
    return folder


def test_a_model_of_tiles_called_tumour_brings_its_classifier(cohort: SimpleNamespace, tmp_path: Path) -> None:
    slide = cohort.new["slide_id"][0]
    bag = read_features(cohort.features / "stain_texture" / f"{slide}.h5")
    weights = np.zeros(bag.features.shape[1])
    weights[5] = 1.0  # above the median of one feature counts as tumour
    middle = np.median(bag.features, axis=0)
    keep = TumourFilter(model=TumourModel(middle, np.ones(len(weights)), weights, 0.0, 3), classes=["Tumor"])
    bundle = write_filtered(cohort, tmp_path / "bundle", keep)
    done = predict_slides(
        bundle,
        write_slides(tmp_path, cohort.new.head(1)),
        tmp_path / "out",
        features_dir=cohort.features / "stain_texture",
    )
    chosen = select_tiles(bag, **FILTERS) & (bag.features[:, 5] >= middle[5])
    assert 0 < done.predictions["n_tiles"][0] == chosen.sum() < len(chosen)
    expected = cohort.model.predict(bag.features[chosen].mean(axis=0, keepdims=True))[0, 0]
    assert done.predictions["y_pred"][0] == pytest.approx(expected)
    page = (tmp_path / "out" / "reports" / f"{cohort.new['case_id'][0]}.html").read_text()
    assert (
        "called tumour (probability of at least 0.5) by a classifier that outlines of 3 training slides taught" in page
    )
    with pytest.raises(ModelError, match="outlines are given, but the model reads tiles that its own classifier"):
        predict_slides(bundle, tmp_path / "slides.csv", tmp_path / "b", outlines_dir=tmp_path)
    never = replace(keep.model, intercept=-1e6)
    bundle = write_filtered(cohort, tmp_path / "none", TumourFilter(model=never, classes=["Tumor"]))
    with pytest.raises(RunError, match=r"passes the model's filters and is called tumour\. Look at it"):
        predict_slides(bundle, tmp_path / "slides.csv", tmp_path / "c", features_dir=cohort.features / "stain_texture")


def test_a_model_of_outlined_tumour_asks_for_outlines(cohort: SimpleNamespace, tmp_path: Path) -> None:
    bundle = write_filtered(cohort, tmp_path / "bundle", TumourFilter(classes=["Tumor"]))
    table = write_slides(tmp_path, cohort.new.head(2))
    features = cohort.features / "stain_texture"
    with pytest.raises(
        ModelError, match=r"no outlines are given\. Give a folder of <slide_id>\.geojson with class Tumor"
    ):
        predict_slides(bundle, table, tmp_path / "a", features_dir=features)
    first, second = cohort.new["slide_id"][:2]
    bag = read_features(features / f"{first}.h5")
    right = float(np.median(bag.coords_l0[:, 0]) + bag.attributes["patch_size_level0"] / 2)
    ring = [[0, 0], [right, 0], [right, 1e6], [0, 1e6], [0, 0]]
    shape = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    shape["properties"] = {"classification": {"name": "Tumor"}}
    (tmp_path / f"{first}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [shape]}))
    done = predict_slides(bundle, table, tmp_path / "b", features_dir=features, outlines_dir=tmp_path)
    inside = bag.coords_l0[:, 0] < np.median(bag.coords_l0[:, 0])
    assert 0 < done.predictions["n_tiles"][0] == (inside & select_tiles(bag, **FILTERS)).sum()
    reasons = done.ledger.set_index("slide_id")["reason"]
    assert "passes the model's filters and lies inside outlined tumour. Outline its tumour" in reasons[second]


def test_a_network_is_made_as_it_was_in_training_seed_and_precision_included(cohort: SimpleNamespace) -> None:
    bundle = read_bundle(cohort.bundle)
    trained = make_encoder("random_resnet18", seed=7, device="cpu", precision="bfloat16").identity
    changes = {"encoder": {name: str(trained[name]) for name in IDENTITY}, "encoder_seed": 7}
    same = replace(bundle, manifest=bundle.manifest.model_copy(update=changes))
    assert make_bundle_encoder(same, device="cpu", weights=None).identity == trained
    other = replace(bundle, manifest=bundle.manifest.model_copy(update=changes | {"encoder_seed": 8}))
    with pytest.raises(
        ModelError,
        match="has weights_sha256 'random weights, seed 8', the model was trained with 'random weights, seed 7'",
    ):
        make_bundle_encoder(other, device="cpu", weights=None)
