"""Networks saved as plain arrays say, read back, the same bits; scores made of what they say are chapter A2's own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.core import paths
from helpers.core.errors import ModelError, SpecError
from helpers.core.specs import TilingSpec
from helpers.models.bundle import ARRAYS, build_networks, check_encoder, read_bundle, write_bundle
from helpers.models.cnn import FittedNetwork, build_regressor
from helpers.models.end_to_end import AGGREGATIONS, aggregate_scores, predict_study, score_tiles, write_network_bundle
from helpers.models.fold_networks import (
    FoldNetworks,
    NetworksSpec,
    describe_networks,
    hash_arrays,
    list_weights,
    make_network_scorer,
    tabulate_outputs,
)
from tests.models.toy_tiles import TILE_PX, DrawnBank, make_cohort, make_spec

TARGETS = ("prolif11", "MKI67")
CPU = torch.device("cpu")


def draw_networks(n: int = 2, **changes: object) -> tuple[list[FittedNetwork], object]:
    """Networks that were never trained: what they say of a tile is arbitrary, and differs between targets and folds."""
    spec = make_spec(targets=TARGETS, crop_px=24, input_px=16, **changes)
    rng, networks = np.random.default_rng(8), []
    for fold in range(n):
        network = build_regressor(spec.architecture, n_targets=2, model_args=spec.model_args, seed=fold).eval()
        torch.nn.init.normal_(network[2].weight, generator=torch.Generator().manual_seed(fold))
        centre, scale = rng.normal(5, 1, 2), rng.uniform(0.5, 3, 2)
        networks.append(FittedNetwork(network=network, centre=centre, scale=scale, targets=TARGETS, fold=fold, seen=()))
    return networks, spec


def make_encoder(networks: list[FittedNetwork], spec: object, *, precision: str = "float32") -> FoldNetworks:
    return FoldNetworks(
        describe_networks(networks, spec, tile_px=TILE_PX), list_weights(networks), device=CPU, precision=precision
    )


@pytest.fixture
def saved(tmp_path) -> SimpleNamespace:
    """What chapter A2 ends with, in a profile in which chapter 01 ran."""
    labels, targets, splits = make_cohort(12)
    measured = targets.assign(MKI67=1 - targets["prolif11"])
    bank, (networks, spec) = DrawnBank(labels), draw_networks()
    predictions, tiles = predict_study(bank, networks, lambda _: measured, splits, spec, device="cpu")
    run = SimpleNamespace(
        profile_dir=tmp_path / "toy", id="A2-toy", commit="abc", key="k", dir=tmp_path / "toy" / "A2_train_end_to_end"
    )
    paths.write_json(
        {"key": "01", "spec": TilingSpec(tile_px=TILE_PX).model_dump(mode="json")},
        run.profile_dir / "01_tile_slides" / "run.json",
    )
    files = write_network_bundle(run, bank, networks, predictions, tiles, spec, device="cpu")
    return SimpleNamespace(
        folder=run.dir / "bundle",
        files=files,
        bank=bank,
        networks=networks,
        spec=spec,
        predictions=predictions,
        tiles=tiles,
        run=run,
    )


def test_weights_come_back_to_the_byte_and_networks_say_the_same(saved: SimpleNamespace) -> None:
    bundle, before = read_bundle(saved.folder), list_weights(saved.networks)
    assert list(bundle.weights) == list(before)
    for name, array in before.items():
        found = bundle.weights[name]
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes()), name
    assert "fold1/0.bn1.num_batches_tracked" in bundle.weights, "what is no float is saved too"
    built, tiles = build_networks(bundle, device="cpu"), saved.bank.drawn[3]
    made = make_encoder(saved.networks, saved.spec)
    assert np.array_equal(built.encode(tiles), made.encode(tiles))
    assert built.identity == made.identity == bundle.manifest.encoder
    assert (
        built.columns
        == ("prolif11_fold0", "MKI67_fold0", "prolif11_fold1", "MKI67_fold1")
        == bundle.manifest.feature_names
    )
    assert not any(parameter.requires_grad for network in built._networks for parameter in network.parameters())


def test_the_same_networks_give_the_same_bytes(saved: SimpleNamespace) -> None:
    first = [path.read_bytes() for path in saved.files]
    again = write_network_bundle(
        saved.run, saved.bank, saved.networks, saved.predictions, saved.tiles, saved.spec, device="cpu"
    )
    assert [path.read_bytes() for path in again] == first


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_scores_are_those_of_the_chapter_tiles_and_cases(aggregation: str, target: str) -> None:
    labels, _, _ = make_cohort(8)
    bank, (networks, spec) = DrawnBank(labels), draw_networks(3)
    tiles = score_tiles(bank, networks, list(labels), spec, device="cpu")
    cases = aggregate_scores(tiles, targets=TARGETS, aggregation=aggregation)[target]
    bags = {case: make_encoder(networks, spec).encode(bank.drawn[i]) for i, case in enumerate(labels)}
    scorer = make_network_scorer(networks, target=target, aggregation=aggregation)
    assert scorer.predict([bags[case] for case in cases.index]) == pytest.approx(cases.to_numpy(), abs=1e-5)
    for case in ("000", "005"):
        assert scorer.score_tiles(bags[case]) == pytest.approx(
            tiles.loc[tiles["case_id"] == case, target].to_numpy(), abs=1e-5
        )


def test_a_quantile_is_of_the_ensemble_s_tiles_not_a_mean_of_quantiles() -> None:
    networks, _ = draw_networks()
    said = np.random.default_rng(2).normal(size=(9, 4))
    scorer = make_network_scorer(networks, target="MKI67", aggregation="median")
    by_hand = [np.median([np.mean([row[1] * f.scale[1] + f.centre[1] if f.fold == 0 else row[3] * f.scale[1] + f.centre[1]
                                   for f in networks]) for row in said])]  # fmt: skip
    assert scorer.predict([said]) == pytest.approx(by_hand)
    mean_of_medians = np.mean(
        [np.median(said[:, [1, 3]] * [f.scale[1] for f in networks] + [f.centre[1] for f in networks], axis=0)]
    )
    assert abs(scorer.predict([said])[0] - mean_of_medians) > 1e-3


def test_the_manifest_says_what_chapter_a2_declared(saved: SimpleNamespace) -> None:
    manifest = read_bundle(saved.folder).manifest
    rows = saved.predictions
    held_out = rows[
        (rows["split"] == "development") & (rows["target"] == "prolif11") & (rows["arm"] == "end_to_end_mean")
    ]
    assert (manifest.arm, manifest.target, manifest.dimension) == ("end_to_end_mean", "prolif11", 4)
    assert manifest.training.cutoff == pytest.approx(held_out["y_pred"].median())
    assert manifest.training.scores == pytest.approx(np.sort(held_out["y_pred"]), abs=1e-6)
    assert (manifest.training.n_cases, manifest.training.n_slides) == (10, 10)
    assert manifest.encoder["encoder_version"].startswith(
        "2 x resnet18(channels=[8, 16, 16, 16], layers=[1, 1, 1, 1]), middle 24 px resized to 16"
    )
    assert manifest.filters.keys() == {
        "min_tissue_fraction",
        "min_sharpness",
        "max_pen_fraction",
        "max_thick_fraction",
        "max_grey_fraction",
    }
    assert manifest.provenance["chapter_keys"] == {"01": "01"}
    assert manifest.networks.tiles_per_slide == 30


def test_what_is_usual_is_what_networks_said_of_cases_that_they_did_not_see(saved: SimpleNamespace) -> None:
    usual = tabulate_outputs(saved.tiles, saved.networks)
    rows = saved.tiles[(saved.tiles["fold"] == 1)]
    case = rows["case_id"].iloc[0]
    said = make_encoder(saved.networks, saved.spec).encode(saved.bank.drawn[int(case)])
    assert usual.loc[case, "MKI67_fold1"] == pytest.approx(said[:, 3].mean(), abs=1e-5)
    assert np.isnan(usual.loc[case, "MKI67_fold0"])
    assert not usual.index.isin(saved.tiles.loc[saved.tiles["fold"] < 0, "case_id"]).any(), (
        "a frozen case tells what is usual"
    )
    reference = read_bundle(saved.folder).reference
    assert reference["sd"].to_numpy() == pytest.approx(usual.std().to_numpy())


def test_a_changed_or_cut_file_of_weights_is_refused(saved: SimpleNamespace) -> None:
    content = (saved.folder / ARRAYS).read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    for wrong in (bytes(changed), content[: len(content) // 2], b""):
        (saved.folder / ARRAYS).write_bytes(wrong)
        with pytest.raises(ModelError, match=r"'arrays.npz' of bundle 'bundle' is not the file that was written"):
            read_bundle(saved.folder)


def test_one_changed_byte_in_a_large_file_is_seen(saved: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fingerprint` looks at samples of a file above 64 MiB; a seal looks at every byte."""
    monkeypatch.setattr("helpers.core.provenance.WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr("helpers.core.provenance.BLOCK_BYTES", 16)
    write_network_bundle(
        saved.run, saved.bank, saved.networks, saved.predictions, saved.tiles, saved.spec, device="cpu"
    )
    assert len(read_bundle(saved.folder).weights) > 20
    test_a_changed_or_cut_file_of_weights_is_refused(saved)


def test_other_weights_under_the_same_name_are_refused_even_when_they_are_sealed(saved: SimpleNamespace) -> None:
    bundle = read_bundle(saved.folder)
    other, _ = draw_networks(2)
    torch.nn.init.ones_(other[1].network[2].weight)
    manifest = bundle.manifest.model_copy(update={"arrays_sha256": ""})
    write_bundle(saved.folder, bundle.scorer, manifest, weights=list_weights(other))
    with pytest.raises(ModelError, match=r"the ensemble of the bundle, built on this machine, has weights_sha256"):
        build_networks(read_bundle(saved.folder), device="cpu")


def test_weights_that_do_not_fit_the_architecture_are_named(saved: SimpleNamespace) -> None:
    spec, weights = read_bundle(saved.folder).manifest.networks, list_weights(saved.networks)
    del weights["fold1/2.bias"]
    with pytest.raises(ModelError, match=r"the weights of fold 1 do not fit resnet18: 1 tensors .* first \['2.bias'\]"):
        FoldNetworks(spec, weights, device=CPU)
    with pytest.raises(
        ModelError, match=r"the weights of fold 0 do not fit resnet18: 1 tensors .*first \['2.weight'\]"
    ):
        FoldNetworks(spec, list_weights(saved.networks) | {"fold0/2.weight": np.zeros((1, 16), np.float32)}, device=CPU)


def test_a_bundle_without_networks_builds_none(saved: SimpleNamespace) -> None:
    manifest = read_bundle(saved.folder).manifest.model_copy(update={"networks": None, "arrays_sha256": ""})
    write_bundle(saved.folder, read_bundle(saved.folder).scorer, manifest)
    with pytest.raises(ModelError, match="the bundle holds no networks; its features are those of 'end_to_end'"):
        build_networks(read_bundle(saved.folder), device="cpu")


def test_arguments_that_would_read_other_files_are_refused() -> None:
    networks, spec = draw_networks()
    values = describe_networks(networks, spec, tile_px=TILE_PX).model_dump()
    for bad in ("checkpoint_path", "pretrained_cfg", "cache_dir"):
        with pytest.raises(SpecError, match=f"model_args hold {bad}: a bundle reads no other file"):
            NetworksSpec.from_values({**values, "model_args": {bad: "/tmp/x"}})


def test_the_identity_knows_weights_input_and_precision(saved: SimpleNamespace) -> None:
    manifest, made = read_bundle(saved.folder).manifest, make_encoder(saved.networks, saved.spec)
    check_encoder(manifest, made.identity, item="it")
    half = make_encoder(saved.networks, saved.spec, precision="bfloat16")
    with pytest.raises(ModelError, match="has precision 'bfloat16', the model was trained with 'float32'"):
        check_encoder(manifest, half.identity, item="it")
    assert not np.array_equal(half.encode(saved.bank.drawn[0]), made.encode(saved.bank.drawn[0])), (
        "precision changed nothing"
    )
    larger = make_encoder(saved.networks, make_spec(targets=TARGETS, crop_px=32, input_px=16))
    with pytest.raises(ModelError, match="has encoder_version '2 x resnet18"):
        check_encoder(manifest, larger.identity, item="it")


def test_a_hash_of_arrays_sees_names_types_and_shapes_and_no_order() -> None:
    a, b = np.arange(4, dtype=np.float32), np.ones(2)
    assert hash_arrays({"a": a, "b": b}) == hash_arrays({"b": b, "a": a})
    others = [{"c": a}, {"a": a.astype("f8")}, {"a": a.reshape(2, 2)}, {"a": a.view(np.int32)}, {"a": a + 1}]
    assert len({hash_arrays(arrays) for arrays in ({"a": a}, *others)}) == 6


def test_features_of_another_width_are_refused() -> None:
    scorer = make_network_scorer(draw_networks()[0], target="prolif11", aggregation="mean")
    with pytest.raises(ModelError, match="tiles of 3 features were given to a net of 4"):
        scorer.score_tiles(np.zeros((5, 3)))


@pytest.mark.gpu
def test_an_accelerator_says_about_the_same(saved: SimpleNamespace) -> None:
    bundle = read_bundle(saved.folder)
    fast, plain = (build_networks(bundle, device=device).encode(saved.bank.drawn[0]) for device in ("auto", "cpu"))
    assert fast == pytest.approx(plain, abs=0.05)
