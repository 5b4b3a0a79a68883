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
from helpers.book.predict import make_bundle_encoders, predict_slides, read_new_slides
from helpers.core import paths
from helpers.core.errors import ModelError, RunError, SchemaError
from helpers.core.specs import EndToEndSpec, FeatureSpec, PhantomSpec, TilingSpec
from helpers.features.encoders import make_encoder
from helpers.features.extract import extract_cohort
from helpers.features.store import IDENTITY, read_features
from helpers.models.arms import find_arm
from helpers.models.bags import read_bags
from helpers.models.bundle import (
    FoldAverage,
    RidgeFit,
    TumourSummary,
    collect_manifest,
    read_bundle,
    write_bundle,
)
from helpers.models.cnn import FittedNetwork, build_regressor
from helpers.models.end_to_end import aggregate_scores, predict_study, score_tiles, write_network_bundle
from helpers.models.inputs import TILE_FILTERS, find_feature_files, make_reader, read_slide, select_tiles
from helpers.models.linear import fit_ridge
from helpers.models.pooling import pool_cases
from helpers.models.tilebank import TileBank, make_pools
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
    return SimpleNamespace(
        root=root, new=new, known=known, slides=slides, model=model, bundle=root / "bundle", features=features, run=run, manifest=manifest,
        files=files, labels=labels[:, 0],
    )  # fmt: skip


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


def test_a_case_that_cannot_name_its_page_is_refused(cohort: SimpleNamespace, tmp_path: Path) -> None:
    table = write_slides(tmp_path, cohort.new.head(1).assign(case_id="../x"))
    with pytest.raises(SchemaError, match=r"case '\.\./x' cannot name its files"):
        predict_slides(cohort.bundle, table, tmp_path / "out", device="cpu")


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


def test_features_of_two_encoders_side_by_side_are_made_again_for_new_slides(
    cohort: SimpleNamespace, tmp_path: Path
) -> None:
    joined = "stain_texture+mean_colour"
    known = pd.DataFrame({"slide_id": [file.stem for file in sorted((cohort.features / "mean_colour").glob("*.h5"))]})
    files = find_feature_files(known.assign(case_id=known["slide_id"].str[:7]), encoder_dir=cohort.features / joined)
    pooled = pool_cases(files, make_reader(files, **FILTERS))
    rng = np.random.default_rng(2)
    model = fit_ridge(pooled.to_numpy(), rng.normal(size=(len(pooled), 1)), alphas=np.array([10.0]))
    table = pd.DataFrame({"case_id": pooled.index, "y_true": rng.normal(size=len(pooled))})
    table["y_pred"] = model.predict(pooled.to_numpy())[:, 0]
    run = SimpleNamespace(profile_dir=cohort.root / "results" / "toy", id="03-toy", commit="abc", key="k")
    manifest = collect_manifest(
        run, bag=read_slide(files["features_file"][0], "first"), arm="ridge", target="prolif11",
        score_method="mean_log2", filters=FILTERS, predictions=table, n_slides=len(known), cutoff=0.0,
    )  # fmt: skip
    assert manifest.encoder["encoder"] == joined
    write_bundle(tmp_path / "bundle", FoldAverage([RidgeFit(model)]), manifest, reference=pooled)
    slides = write_slides(tmp_path, cohort.new.head(2))
    done = predict_slides(tmp_path / "bundle", slides, tmp_path / "made", device="cpu").predictions.set_index("case_id")
    expected = pd.Series(model.predict(pooled.to_numpy())[:, 0], index=pooled.index)
    assert done["y_pred"].to_dict() == pytest.approx(expected.loc[done.index].to_dict())
    stored = predict_slides(tmp_path / "bundle", slides, tmp_path / "stored", features_dir=cohort.features)
    assert stored.predictions["y_pred"].tolist() == pytest.approx(done["y_pred"].tolist())
    page = (tmp_path / "made" / "reports" / f"{done.index[0]}.html").read_text()
    assert joined in page
    other = manifest.model_copy(update={"encoder": manifest.encoder | {"encoder_version": "9+1"}})
    write_bundle(tmp_path / "other", FoldAverage([RidgeFit(model)]), other)
    with pytest.raises(ModelError, match=f"encoder '{re.escape(joined)}' of this machine has encoder_version"):
        predict_slides(tmp_path / "other", slides, tmp_path / "c", device="cpu")
    with pytest.raises(ModelError, match="are those of 'stain_texture\\+mean_colour', formulae. Leave them out"):
        predict_slides(tmp_path / "bundle", slides, tmp_path / "d", device="cpu", weights=tmp_path / "w.safetensors")


def test_a_network_is_made_as_it_was_in_training_seed_and_precision_included(cohort: SimpleNamespace) -> None:
    bundle = read_bundle(cohort.bundle)
    trained = make_encoder("random_resnet18", seed=7, device="cpu", precision="bfloat16").identity
    changes = {"encoder": {name: str(trained[name]) for name in IDENTITY}, "encoder_seed": 7}
    same = replace(bundle, manifest=bundle.manifest.model_copy(update=changes))
    assert [made.identity for made in make_bundle_encoders(same, device="cpu", weights=None)] == [trained]
    other = replace(bundle, manifest=bundle.manifest.model_copy(update=changes | {"encoder_seed": 8}))
    with pytest.raises(
        ModelError,
        match="has weights_sha256 'random weights, seed 8', the model was trained with 'random weights, seed 7'",
    ):
        make_bundle_encoders(other, device="cpu", weights=None)


@pytest.mark.parametrize("name", ["mean_mil", "attention_mil"])
def test_a_mil_arm_scores_new_slides_as_it_does_in_memory(cohort: SimpleNamespace, tmp_path: Path, name: str) -> None:
    bags, cases = read_bags(cohort.files, make_reader(cohort.files, **FILTERS))
    halves = [bags[i][half::2] for i in range(len(cases)) for half in (0, 1)]  # twice as many: inner folds need cases
    fits = [
        find_arm(name).fit(halves, np.repeat(cohort.labels, 2), np.arange(12) % 3, np.random.default_rng(fold))
        for fold in range(2)
    ]
    scorer = FoldAverage(fits)
    write_bundle(tmp_path / "bundle", scorer, cohort.manifest.model_copy(update={"arm": name}))
    done = predict_slides(
        tmp_path / "bundle",
        write_slides(tmp_path, cohort.new),
        tmp_path / "out",
        features_dir=cohort.features / "stain_texture",
    )
    files = find_feature_files(cohort.new, encoder_dir=cohort.features / "stain_texture")
    new, names = read_bags(files, make_reader(files, **FILTERS))
    found = done.predictions.set_index("case_id")
    assert found.loc[names, "y_pred"].to_numpy() == pytest.approx(scorer.predict(new), abs=1e-9)
    assert set(found["arm"]) == {name}
    drawn = pd.read_csv(tmp_path / "out" / "maps" / f"{cohort.new['slide_id'][0]}.csv")
    assert drawn["score"].notna().all()


TARGETS = ("MKI67", "prolif11")


@pytest.fixture(scope="module")
def ensemble(cohort: SimpleNamespace) -> SimpleNamespace:
    """Networks of two folds that nobody trained, saved as chapter A2 saves its own; the primary target is the second."""
    import torch

    spec = EndToEndSpec.from_values({
        "targets": TARGETS, "primary_target": "prolif11", "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
        "crop_px": 96, "input_px": 64, "weights": None, "tiles_per_slide": None, "aggregation": "p75", "precision": "float32",
    })  # fmt: skip
    pools, _ = make_pools(
        cohort.slides,
        cohort.features.parents[1] / "01_tile_slides/tiles",
        filters=spec.model_dump(include=set(TILE_FILTERS)),
        tiles_per_slide=None,
        seed=1,
    )
    bank, networks, training = TileBank(pools), [], cohort.known["case_id"].unique()
    for fold in range(2):
        network = build_regressor(spec.architecture, n_targets=2, model_args=spec.model_args, seed=fold).eval()
        torch.nn.init.normal_(network[2].weight, generator=torch.Generator().manual_seed(fold))
        centre, scale = np.array([3.0, 5.0 + fold]), np.array([0.5, 2.0 - fold])
        networks.append(FittedNetwork(network=network, centre=centre, scale=scale, targets=TARGETS, fold=fold, seen=()))
    rows = [
        (0, fold, case, "test" if number % 2 == fold else "train")
        for number, case in enumerate(training)
        for fold in (0, 1)
    ]
    rows += [(0, -1, case, "external") for case in cohort.new["case_id"].unique()]
    splits = pd.DataFrame(rows, columns=["repeat", "fold", "case_id", "role"])
    rng = np.random.default_rng(5)
    measured = pd.DataFrame(
        {name: rng.normal(size=9) for name in TARGETS},
        index=pd.Index(cohort.slides["case_id"].unique(), name="case_id"),
    )
    predictions, tiles = predict_study(bank, networks, lambda _: measured, splits, spec, device="cpu")
    run = SimpleNamespace(**vars(cohort.run) | {"id": "A2-toy", "dir": cohort.root / "A2"})
    write_network_bundle(run, bank, networks, predictions, tiles, spec, device="cpu")
    return SimpleNamespace(
        bundle=run.dir / "bundle",
        predictions=predictions,
        tiles=tiles,
        networks=networks,
        spec=spec,
        bank=bank,
        run=run,
    )


def test_an_ensemble_scores_new_slides_as_chapter_a2_did(
    cohort: SimpleNamespace, ensemble: SimpleNamespace, tmp_path: Path
) -> None:
    done = predict_slides(ensemble.bundle, write_slides(tmp_path, cohort.new), tmp_path / "out", device="cpu")
    rows = ensemble.predictions
    expected = rows[
        (rows["split"] == "external") & (rows["target"] == "prolif11") & (rows["arm"] == "end_to_end_p75")
    ].set_index("case_id")
    found = done.predictions.set_index("case_id")
    assert set(found.index) == set(expected.index)
    assert found["y_pred"].to_numpy() == pytest.approx(expected.loc[found.index, "y_pred"].to_numpy(), abs=1e-5)
    assert set(found["arm"]) == {"end_to_end_p75"}
    assert found["y_pred"].std() > 1e-3, "all cases alike: nothing was compared"
    for slide in cohort.new["slide_id"]:
        drawn = pd.read_csv(tmp_path / "out" / "maps" / f"{slide}.csv")
        chapter = ensemble.tiles[ensemble.tiles["slide_id"] == slide]
        assert drawn["row"].tolist() == chapter["row"].tolist()
        assert drawn["score"].to_numpy() == pytest.approx(chapter["prolif11"].to_numpy(), abs=1e-5)
    page = (tmp_path / "out" / "reports" / f"{found.index[0]}.html").read_text()
    for said in (
        "End-to-end ensemble",
        "2 networks trained from tiles to scores, one per fold",
        "Outputs unlike training",
        "on all tiles",
    ):
        assert said in page
    assert "tile scores" in page
    assert not re.findall(r"""(?:src|href)=(?!["']?data:)""", page), "the page needs another file"


def test_slides_that_an_ensemble_was_trained_on_get_the_scores_of_its_tiles(
    cohort: SimpleNamespace, ensemble: SimpleNamespace, tmp_path: Path
) -> None:
    case = cohort.known["case_id"].iloc[0]
    known = cohort.known[cohort.known["case_id"] == case]
    done = predict_slides(ensemble.bundle, write_slides(tmp_path, known), tmp_path / "out", device="cpu")
    tiles = score_tiles(ensemble.bank, ensemble.networks, [case], ensemble.spec, device="cpu")
    expected = aggregate_scores(tiles, targets=["prolif11"], aggregation="p75").loc[case, "prolif11"]
    assert done.predictions["y_pred"].tolist() == [pytest.approx(expected, abs=1e-5)]


def test_what_an_ensemble_said_is_reused_and_that_of_another_ensemble_is_not(
    cohort: SimpleNamespace, ensemble: SimpleNamespace, tmp_path: Path
) -> None:
    table = write_slides(tmp_path, cohort.new.head(1))
    first = predict_slides(ensemble.bundle, table, tmp_path / "out", device="cpu")
    folder = tmp_path / "out" / "features" / "end_to_end"
    file = folder / f"{cohort.new['slide_id'][0]}.h5"
    made = file.stat().st_mtime_ns
    again = predict_slides(ensemble.bundle, table, tmp_path / "out", device="cpu")
    stored = predict_slides(ensemble.bundle, table, tmp_path / "stored", features_dir=folder)
    assert file.stat().st_mtime_ns == made
    for other in (again, stored):
        pd.testing.assert_frame_equal(first.predictions, other.predictions)
    retrained = [
        replace(
            f,
            network=build_regressor(
                "resnet18", n_targets=2, model_args=ensemble.spec.model_args, seed=f.fold + 7
            ).eval(),
        )
        for f in ensemble.networks
    ]
    run = SimpleNamespace(**vars(ensemble.run) | {"dir": tmp_path / "B"})
    write_network_bundle(
        run, ensemble.bank, retrained, ensemble.predictions, ensemble.tiles, ensemble.spec, device="cpu"
    )
    with pytest.raises(RunError, match=r"has weights_sha256 '.*', the model was trained with '.*'\. Give the encoder"):
        predict_slides(tmp_path / "B" / "bundle", table, tmp_path / "c", features_dir=folder)
    predict_slides(tmp_path / "B" / "bundle", table, tmp_path / "out", device="cpu")
    assert file.stat().st_mtime_ns != made, "what another ensemble said was taken for its own"


def test_an_ensemble_needs_no_weights_and_refuses_features_and_tiles_that_are_not_its_own(
    cohort: SimpleNamespace, ensemble: SimpleNamespace, tmp_path: Path
) -> None:
    table = write_slides(tmp_path, cohort.new.head(1))
    with pytest.raises(
        ModelError, match="weights are given, but the model's features are those of networks of its own. Leave them out"
    ):
        predict_slides(ensemble.bundle, table, tmp_path / "a", device="cpu", weights=tmp_path / "none.safetensors")
    with pytest.raises(RunError, match="has encoder 'stain_texture', the model was trained with 'end_to_end'"):
        predict_slides(ensemble.bundle, table, tmp_path / "b", features_dir=cohort.features / "stain_texture")
    predict_slides(ensemble.bundle, table, tmp_path / "out", device="cpu")
    bundle = read_bundle(ensemble.bundle)
    coarse = bundle.manifest.model_copy(update={"tiling": {**bundle.manifest.tiling, "mpp": 1.0}, "arrays_sha256": ""})
    write_bundle(tmp_path / "coarse", bundle.scorer, coarse, weights=bundle.weights)
    with pytest.raises(
        RunError, match="has tiles of 256 px at 0.5.* um per px, the model was trained on 256 px at 1 um per px"
    ):
        predict_slides(
            tmp_path / "coarse", table, tmp_path / "d", features_dir=tmp_path / "out" / "features" / "end_to_end"
        )


def test_a_slide_that_cannot_be_read_fails_alone_beside_an_ensemble_s(
    cohort: SimpleNamespace, ensemble: SimpleNamespace, tmp_path: Path
) -> None:
    good = cohort.new.head(1)[["slide_id", "case_id", "path"]]
    cut = tmp_path / "cut.svs"
    cut.write_bytes(Path(good["path"][0]).read_bytes()[:20_000])
    table = pd.concat([good, pd.DataFrame([("cut", "C", str(cut))], columns=good.columns)])
    done = predict_slides(ensemble.bundle, write_slides(tmp_path, table), tmp_path / "out", device="cpu")
    assert done.ledger.set_index("slide_id")["status"].to_dict() == {good["slide_id"][0]: "ok", "cut": "failed"}
    assert done.unscored == ("C",)
