"""A saved model is the model, sealed; what does not fit it is refused by name."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import ModelError
from helpers.core.provenance import fingerprint
from helpers.core.specs import TilingSpec
from helpers.features.store import FeatureBag
from helpers.models.bundle import (
    ARRAYS,
    MANIFEST,
    BundleManifest,
    FoldAverage,
    RidgeFit,
    TrainingSummary,
    check_features,
    count_far_features,
    load_fitted,
    read_bundle,
    write_bundle,
)
from helpers.models.linear import fit_ridge
from helpers.models.pooling import pool_tiles

COLUMNS = ("a", "b", "c")
IDENTITY = {"encoder": "toy", "encoder_version": "1", "weights_sha256": "ab", "precision": "float32"}


def make_scorer(aggregation: str = "mean") -> FoldAverage:
    rng = np.random.default_rng(3)
    models = [fit_ridge(rng.normal(size=(30, 3)), rng.normal(size=(30, 2))) for _ in range(3)]
    return FoldAverage([RidgeFit(model, aggregation) for model in models], column=1)


def make_manifest(**changes: object) -> BundleManifest:
    training = TrainingSummary(
        n_cases=30,
        n_slides=31,
        scores=(1.0, 2.0, 3.0),
        cutoff=2.0,
        cutoff_origin="median",
        spearman=0.7,
        typical_error=0.5,
    )
    tiling = {k: v for k, v in TilingSpec().model_dump(mode="json").items() if k != "annotations_dir"}
    values = {
        "arm": "ridge", "target": "prolif11", "score_method": "mean_log2", "encoder": IDENTITY, "dimension": 3,
        "feature_names": COLUMNS, "tiling": tiling, "filters": {"min_sharpness": 0.6}, "training": training,
        "provenance": {"run": "03-x"},
    }  # fmt: skip
    return BundleManifest(**(values | changes))


def make_bag(**attributes: object) -> FeatureBag:
    stated = {**IDENTITY, "mpp_effective": 0.4997, "patch_size": 256}
    return FeatureBag(
        features=np.ones((4, 3), np.float32), coords_l0=None, qc=None, attributes=stated | attributes,
        dialect="histobook", columns=COLUMNS,
    )  # fmt: skip


def test_a_bundle_read_back_predicts_the_same_bits_and_is_written_with_the_same_bytes(tmp_path: Path) -> None:
    scorer, manifest = make_scorer(), make_manifest()
    reference = pd.DataFrame(np.random.default_rng(1).normal(size=(20, 3)))
    for name in ("one", "two"):
        write_bundle(tmp_path / name, scorer, manifest, reference=reference)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    bundle = read_bundle(tmp_path / "one")
    bags = [np.random.default_rng(n).normal(size=(5 + n, 3)) for n in range(3)]
    assert np.array_equal(bundle.scorer.predict(bags), scorer.predict(bags))
    assert np.array_equal(bundle.scorer.score_tiles(bags[0]), scorer.score_tiles(bags[0]))
    assert bundle.manifest.model_copy(update={"arrays_sha256": ""}) == manifest
    assert bundle.reference["sd"].to_numpy() == pytest.approx(reference.std().to_numpy())


def test_folds_are_averaged_for_the_target_and_a_mean_of_tiles_is_the_case() -> None:
    scorer, bag = make_scorer(), np.random.default_rng(5).normal(size=(9, 3))
    expected = np.mean([member.model.predict(bag.mean(axis=0)[None])[0, 1] for member in scorer.members])
    assert scorer.predict([bag])[0] == pytest.approx(expected)
    assert scorer.score_tiles(bag).mean() == pytest.approx(expected)


@pytest.mark.parametrize("aggregation", ["median", "p75", "mean_sd"])
def test_other_aggregations_give_tiles_no_score(tmp_path: Path, aggregation: str) -> None:
    rng = np.random.default_rng(3)
    bag = rng.normal(size=(9, 3))
    width = len(pool_tiles(bag, aggregation=aggregation))
    model = fit_ridge(rng.normal(size=(30, width)), rng.normal(size=(30, 1)))
    fitted = load_fitted(FoldAverage([RidgeFit(model, aggregation)]).to_arrays())
    assert fitted.predict([bag])[0] == pytest.approx(
        model.predict(pool_tiles(bag, aggregation=aggregation)[None])[0, 0]
    )
    with pytest.raises(ModelError, match=f"aggregation '{aggregation}' gives tiles no score"):
        fitted.score_tiles(bag)


def test_a_changed_byte_is_refused_in_either_file(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", make_scorer(), make_manifest())
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    manifest["training"]["cutoff"] = 1.5  # a cut-off that flatters
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"'bundle.json' of bundle 'b' is not the file that was written"):
        read_bundle(tmp_path / "b")
    write_bundle(tmp_path / "c", make_scorer(), make_manifest())
    content = bytearray((tmp_path / "c" / ARRAYS).read_bytes())
    content[200] ^= 1
    (tmp_path / "c" / ARRAYS).write_bytes(content)
    with pytest.raises(ModelError, match=r"'arrays.npz' of bundle 'c' is not the file that was written"):
        read_bundle(tmp_path / "c")


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks bundle.json, arrays.npz"):
        read_bundle(tmp_path)
    write_bundle(tmp_path / "b", make_scorer(), make_manifest(format="histobook-bundle-0"))
    with pytest.raises(ModelError, match="is of format 'histobook-bundle-0', expected 'histobook-bundle-1'"):
        read_bundle(tmp_path / "b")
    (tmp_path / "b" / MANIFEST).write_text("not json")
    with pytest.raises(ModelError, match="is not JSON"):
        read_bundle(tmp_path / "b")
    with pytest.raises(ModelError, match="these arrays say arm 'forest'"):
        load_fitted({"arm": np.array("forest")})


def test_pickled_arrays_are_never_run(tmp_path: Path) -> None:
    class Evil(FoldAverage):
        def to_arrays(self) -> dict:
            return {"arm": np.array("folds"), "column": np.array([print], dtype=object)}

    write_bundle(tmp_path / "b", Evil([]), make_manifest())
    with pytest.raises(ModelError, match="pickled code is never run"):
        read_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"encoder": "other"}, "has encoder 'other', the model was trained with 'toy'"),
        ({"weights_sha256": "cd"}, "has weights_sha256 'cd', the model was trained with 'ab'"),
        ({"encoder_version": "2"}, "has encoder_version '2'"),
        ({"precision": "bfloat16"}, "has precision 'bfloat16'"),
        ({"mpp_effective": 0.25}, "tiles of 256 px at 0.25 um per px, the model was trained on 256 px at 0.5 um"),
        ({"patch_size": 224}, "tiles of 224 px"),
    ],
)
def test_other_features_are_refused(attributes: dict, said: str) -> None:
    check_features(make_manifest(), make_bag(), item="slide 's'")
    with pytest.raises(ModelError, match=f"slide 's' .*{said}"):
        check_features(make_manifest(), make_bag(**attributes), item="slide 's'")


def test_missing_features_are_named() -> None:
    with pytest.raises(ModelError, match=r"has 3 features, the model reads 4; 1 are missing \(d\)"):
        check_features(make_manifest(dimension=4, feature_names=("a", "b", "c", "d")), make_bag(), item="slide 's'")
    with pytest.raises(ModelError, match="0 are missing"):  # the same names in another order
        check_features(make_manifest(feature_names=("b", "a", "c")), make_bag(), item="slide 's'")


def test_features_far_from_training_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    write_bundle(tmp_path, make_scorer(), make_manifest(), reference=pd.DataFrame(rng.normal(size=(50, 3))))
    bundle = read_bundle(tmp_path)
    assert count_far_features(bundle, np.zeros((4, 3))) == (0, 3)
    assert count_far_features(bundle, np.tile([0.0, 9.0, -9.0], (4, 1))) == (2, 3)


def test_new_slides_without_a_resolution_fail_whatever_training_allowed() -> None:
    tiling = {**make_manifest().tiling, "fallback_mpp": 0.25, "max_failed": 3}
    spec = make_manifest(tiling=tiling).tiling_spec
    assert (spec.fallback_mpp, spec.max_failed) == (None, 0)
