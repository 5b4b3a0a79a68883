"""Route a: learns what is drawn, nothing from shuffled labels, never sees a test case, continues to the same bits."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.core.errors import ModelError, SplitError
from helpers.models.cnn import IMAGENET_MEAN, IMAGENET_SD, build_regressor, fit_scaling, read_normalisation
from helpers.models.end_to_end import (
    aggregate_scores,
    calibrate,
    list_devices,
    plan_job,
    predict_slides,
    predict_study,
    score_tiles,
    tabulate_history,
    train_ensemble,
)
from helpers.models.training import PRESETS, FitJob, Trainer, compute_rate, fit_job
from tests.models.toy_tiles import DrawnBank, make_cohort, make_spec

LEARN = {"epochs": 8, "tiles_per_epoch": 192, "patience": 8, "dropout": 0.1, "learning_rate": 5e-3}


def make_job(tmp_path: Path, *, shuffled: bool = False, fold: int = 0, **changes: object) -> FitJob:
    labels, targets, splits = make_cohort()
    bank = DrawnBank(labels)
    if shuffled:
        targets = pd.DataFrame(np.random.default_rng(1).permutation(targets), targets.index, targets.columns)
    return plan_job(bank, targets, splits, make_spec(**changes), fold=fold, folder=tmp_path)[0]


def correlate(predictions: pd.DataFrame, split: str) -> float:
    rows = predictions[(predictions["split"] == split) & (predictions["arm"] == "end_to_end_mean")]
    return float(rows["y_true"].corr(rows["y_pred"], "spearman"))


def study(tmp_path: Path, targets: pd.DataFrame) -> tuple[pd.DataFrame, DrawnBank]:
    labels, _, splits = make_cohort()
    bank, spec = DrawnBank(labels), make_spec(**LEARN)
    networks = train_ensemble(bank, lambda _: targets, splits, spec, folder=tmp_path, device="cpu")
    return predict_study(bank, networks, lambda _: targets, splits, spec, device="cpu")[0], bank


@pytest.mark.slow
def test_the_drawn_cohort_is_learnt_and_shuffled_labels_are_not(tmp_path: Path) -> None:
    _, targets, _ = make_cohort()
    predictions, _ = study(tmp_path / "true", targets)
    assert correlate(predictions, "development") > 0.8
    assert correlate(predictions, "external") > 0.8
    shuffled = pd.DataFrame(np.random.default_rng(1).permutation(targets), targets.index, targets.columns)
    nothing, _ = study(tmp_path / "shuffled", shuffled)
    assert correlate(nothing, "development") < 0.4


def test_loss_falls_and_weights_move(tmp_path: Path) -> None:
    job = make_job(tmp_path, **LEARN)
    before = Trainer(job, device=torch.device("cpu")).network[0].state_dict()
    trainer = fit_job(job, devices=[torch.device("cpu")])
    losses = [row["loss"] for row in trainer.history]
    assert losses[-1] < 0.5 * losses[0]
    after = trainer.network[0].state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))


@pytest.mark.parametrize("optimiser", PRESETS)
def test_a_run_interrupted_anywhere_continues_to_the_same_bits(tmp_path: Path, optimiser: str) -> None:
    options = {"optimiser": optimiser, "learning_rate": 1e-2, "patience": 9}
    whole = fit_job(make_job(tmp_path / "whole", **options), devices=[torch.device("cpu")])
    job = make_job(tmp_path / "cut", **options)
    cut = Trainer(job, device=torch.device("cpu"))
    taken = cut._take_step

    def fail_in_second_epoch() -> float:
        if cut.step == job.steps_per_epoch + 2:
            raise KeyboardInterrupt
        return taken()

    cut._take_step = fail_in_second_epoch
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    torch.manual_seed(99)  # whatever happened in between
    resumed = fit_job(make_job(tmp_path / "cut", **options), devices=[torch.device("cpu")])
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    assert [row["validation"] for row in resumed.history] == [row["validation"] for row in whole.history]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_a_finished_fit_is_read_and_one_of_other_labels_is_not(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = fit_job(make_job(tmp_path), devices=[torch.device("cpu")])
    again = Trainer(make_job(tmp_path), device=torch.device("cpu"))
    again._take_step = None  # would fail if it trained
    again.run()
    assert torch.equal(first.network[2].weight, again.network[2].weight)
    other = fit_job(make_job(tmp_path, shuffled=True), devices=[torch.device("cpu")])
    assert "a checkpoint of other data or parameters lies there" in capsys.readouterr().out
    assert not torch.equal(first.network[2].weight, other.network[2].weight)


def test_training_leaves_the_caller_s_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    fit_job(make_job(tmp_path), devices=[torch.device("cpu")])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_two_processes_that_share_a_batch_do_what_one_does(tmp_path: Path) -> None:
    options = {"architecture": "test_convnext", "model_args": {}, "dropout": 0.0, "epochs": 2, "learning_rate": 1e-3}
    one = fit_job(make_job(tmp_path / "one", **options), devices=[torch.device("cpu")])
    two = fit_job(make_job(tmp_path / "two", **options), devices=[torch.device("cpu")] * 2)
    assert two.step == one.step
    assert [r["validation"] for r in two.history] == pytest.approx([r["validation"] for r in one.history], rel=1e-3)
    for name, value in one.network.state_dict().items():
        assert torch.allclose(value, two.network.state_dict()[name], atol=2e-4), name


def test_bfloat16_trains_to_about_the_same_error(tmp_path: Path) -> None:
    plain, half = (
        fit_job(make_job(tmp_path / name, precision=name), devices=[torch.device("cpu")])
        for name in ("float32", "bfloat16")
    )
    assert half.precision == "bfloat16"
    assert [row["loss"] for row in half.history] == pytest.approx([row["loss"] for row in plain.history], rel=0.1)
    assert half.history[0]["loss"] != plain.history[0]["loss"], "it was not computed in another precision"


@pytest.mark.gpu
def test_an_accelerator_trains_to_about_the_same_error(tmp_path: Path) -> None:
    plain = fit_job(make_job(tmp_path / "cpu"), devices=[torch.device("cpu")])
    fast = fit_job(make_job(tmp_path / "fast"), devices=list_devices("auto")[:1])
    assert [row["loss"] for row in fast.history] == pytest.approx([row["loss"] for row in plain.history], rel=0.1)


def test_a_batch_that_cannot_be_dealt_evenly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="batch_size 15 cannot be dealt to 2 devices"):
        Trainer(make_job(tmp_path, batch_size=15), device=torch.device("cpu"), world=2)


def test_no_fit_sees_a_test_case(tmp_path: Path) -> None:
    labels, targets, splits = make_cohort()
    bank, spec, asked = DrawnBank(labels), make_spec(), []

    def measure(learnt: pd.Index) -> pd.DataFrame:
        asked.append(set(learnt))
        return targets

    networks = train_ensemble(bank, measure, splits, spec, folder=tmp_path, device="cpu")
    external = set(splits.loc[splits["role"] == "external", "case_id"])
    for fitted, constants in zip(networks, asked, strict=True):
        tested = set(splits.loc[(splits["fold"] == fitted.fold) & (splits["role"] == "test"), "case_id"])
        assert not (set(fitted.seen) | constants) & (tested | external)
    assert not external & {bank.pools[slide].case_id for slide in bank.opened}, "a slide of a test case was opened"


def test_absurd_labels_and_tiles_of_test_cases_change_nothing(tmp_path: Path) -> None:
    labels, targets, splits = make_cohort()
    tested = splits.loc[(splits["fold"] == 0) & (splits["role"] == "test"), "case_id"]
    plain = make_job(tmp_path / "a")
    spoiled, bank = targets.copy(), DrawnBank(labels)
    spoiled.loc[tested] = 1e6
    bank.drawn[bank.find_slides(tested)] = 0
    job = plan_job(bank, spoiled, splits, make_spec(), fold=0, folder=tmp_path / "b")[0]
    fits = [fit_job(j, devices=[torch.device("cpu")]) for j in (plain, job)]
    assert torch.equal(fits[0].network[2].weight, fits[1].network[2].weight)


def test_a_network_that_saw_a_case_does_not_predict_it(tmp_path: Path) -> None:
    labels, targets, splits = make_cohort()
    bank, spec = DrawnBank(labels), make_spec(epochs=1)
    networks = train_ensemble(bank, lambda _: targets, splits, spec, folder=tmp_path, device="cpu")
    with pytest.raises(SplitError, match=r"network of fold 0 saw 1 of the cases it is to predict, first '001'"):
        predict_slides(bank, networks, ["001"], spec, device="cpu")


def test_predictions_are_out_of_fold_or_of_the_ensemble_and_in_the_target_s_units(tmp_path: Path) -> None:
    labels, targets, splits = make_cohort()
    bank, spec = DrawnBank(labels), make_spec(epochs=1)
    shifted = targets + 50
    networks = train_ensemble(bank, lambda _: shifted, splits, spec, folder=tmp_path, device="cpu")
    predictions, tiles = predict_study(bank, networks, lambda _: shifted, splits, spec, device="cpu")
    held_out = predictions[predictions["split"] == "development"].merge(splits, on=["repeat", "fold", "case_id"])
    assert held_out["role"].eq("test").all()
    assert set(predictions["arm"]) == {"end_to_end_mean", "end_to_end_median", "end_to_end_p75"}
    assert predictions["y_pred"].between(44, 56).all()
    case = splits.loc[splits["role"] == "external", "case_id"].iloc[0]
    alone = [predict_slides(bank, [f], [case], spec, device="cpu")["prolif11"].to_numpy() for f in networks]
    assert tiles.loc[tiles["case_id"] == case, "prolif11"].to_numpy() == pytest.approx(np.mean(alone, axis=0))
    assert len(tabulate_history(networks)) == 2
    assert tabulate_history(networks)["chosen"].all()


def test_calibration_puts_the_training_cases_on_the_line_and_changes_no_rank(tmp_path: Path) -> None:
    labels, targets, splits = make_cohort()
    bank = DrawnBank(labels)
    shifted, found = targets * 3 + 50, {}
    for name in ("none", "training"):
        spec = make_spec(calibration=name, **LEARN)
        networks = train_ensemble(bank, lambda _: shifted, splits, spec, folder=tmp_path, device="cpu")
        found[name] = predict_study(
            bank, networks, lambda _: shifted, splits, spec, device="cpu", aggregations=["mean"]
        )[0]
    tiles = score_tiles(bank, networks[:1], networks[0].seen, spec, device="cpu")
    pooled = aggregate_scores(tiles, targets=["prolif11"], aggregation="mean")["prolif11"]
    slope, intercept = np.polyfit(pooled, shifted.loc[pooled.index, "prolif11"], 1)
    assert (slope, intercept) == (pytest.approx(1.0, abs=1e-6), pytest.approx(0.0, abs=1e-4))
    plain, stretched = (table[table["fold"] == 0]["y_pred"] for table in found.values())
    assert plain.corr(stretched, "spearman") == pytest.approx(1.0)
    errors = [((t["y_true"] - t["y_pred"]) ** 2).mean() for t in (f[f["fold"] < 0] for f in found.values())]
    assert errors[1] < errors[0]


def test_a_network_that_learnt_nothing_is_not_calibrated(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels, targets, splits = make_cohort()
    bank, spec = DrawnBank(labels), make_spec(epochs=1, learning_rate=1e-12, calibration="none")
    fitted = train_ensemble(bank, lambda _: targets, splits, spec, folder=tmp_path, device="cpu")[0]
    torch.nn.init.zeros_(fitted.network[2].weight)
    same = calibrate(bank, fitted, targets, spec, device="cpu")
    assert (same.scale == fitted.scale).all()
    assert "fold 0: prolif11 is not calibrated, its slope on the training cases is 0.00" in capsys.readouterr().out


def test_aggregation_is_over_all_tiles_of_a_case() -> None:
    tiles = pd.DataFrame({"case_id": ["a", "a", "a", "b"], "slide_id": ["1", "1", "2", "3"], "t": [0.0, 1.0, 8.0, 5.0]})
    found = {
        name: aggregate_scores(tiles, targets=["t"], aggregation=name)["t"].tolist()
        for name in ("mean", "median", "p75")
    }
    assert found == {"mean": [3.0, 5.0], "median": [1.0, 5.0], "p75": [4.5, 5.0]}


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    trainer = Trainer(make_job(tmp_path, epochs=30, patience=2), device=torch.device("cpu"))
    losses = iter([0.9, 0.5, 0.7, 0.6, 0.1])
    weights = []

    def validate() -> float:
        weights.append(trainer.network[2].weight.detach().clone())
        return next(losses)

    trainer._validate = validate
    trainer.run()
    assert len(trainer.history) == 4
    assert trainer.best_epoch == 2
    assert torch.equal(trainer.network[2].weight, weights[1])


def test_rates_are_those_of_the_presets() -> None:
    sgd = make_spec(optimiser="sgd_nesterov")
    assert [compute_rate(sgd, step, steps_per_epoch=4) for step in (0, 3, 4, 8)] == pytest.approx(
        [1e-3, 1e-3, 9e-4, 8.1e-4]
    )
    assert compute_rate(make_spec(optimiser="adam"), 77, steps_per_epoch=4) == 1e-5
    cosine = [compute_rate(make_spec(epochs=10), step, steps_per_epoch=10) for step in range(100)]
    assert cosine[0] == pytest.approx(5e-5)
    assert np.argmax(cosine) in (9, 10)
    assert max(cosine) == pytest.approx(5e-4)
    assert cosine[-1] < 1e-6


def test_targets_are_scaled_by_sd_or_by_variance() -> None:
    labels = np.array([[0.0, 1.0], [4.0, 3.0], [8.0, 5.0]])
    centre, sd = fit_scaling(labels, scaling="sd")
    assert (centre.tolist(), sd.tolist()) == ([4.0, 3.0], [4.0, 2.0])
    assert fit_scaling(labels, scaling="variance")[1].tolist() == [16.0, 4.0]
    with pytest.raises(ModelError, match="target 1 does not vary over 3 training cases"):
        fit_scaling(np.array([[0.0, 1.0], [4.0, 1.0], [8.0, 1.0]]), scaling="sd")


def test_the_network_starts_at_the_mean_and_drops_half_in_training_only() -> None:
    network = build_regressor(
        "resnet18", n_targets=2, model_args={"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}, seed=1
    )
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(network.eval()(images), torch.zeros(4, 2))
    torch.nn.init.ones_(network[2].weight)
    assert torch.equal(network(images), network(images))
    network.train()
    assert not torch.equal(network(images), network(images))


def test_weights_that_do_not_fit_and_unknown_architectures_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    small = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    source = build_regressor("resnet18", n_targets=1, model_args=small, seed=5)[0].state_dict()
    save_file({name: value.contiguous() for name, value in source.items()}, tmp_path / "w.safetensors")
    loaded = build_regressor("resnet18", n_targets=1, model_args=small, seed=6, weights=tmp_path / "w.safetensors")[0]
    assert all(torch.equal(value, source[name]) for name, value in loaded.state_dict().items())
    assert read_normalisation(torch.nn.Sequential(loaded)) == {"mean": IMAGENET_MEAN, "sd": IMAGENET_SD}
    stated = {"mean": [0.7, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": stated}))
    network = build_regressor("resnet18", n_targets=1, model_args=small, weights=tmp_path / "w.safetensors")
    assert read_normalisation(network) == {"mean": (0.7, 0.5, 0.6), "sd": (0.1, 0.2, 0.3)}
    with pytest.raises(ModelError, match="weights 'w.safetensors' do not fit resnet18: 103 of 120 tensors"):
        build_regressor("resnet18", n_targets=1, weights=tmp_path / "w.safetensors")
    with pytest.raises(
        ModelError, match=r"inception_v3 does not take model_args layers, channels .* Give its own, or model_args: \{\}"
    ):
        build_regressor("inception_v3", n_targets=1, model_args=small)
    with pytest.raises(ModelError, match=r"timm knows no 'resnet19'. Names like it: "):
        build_regressor("resnet19", n_targets=1)


def test_a_fold_without_cases_to_stop_by_is_refused(tmp_path: Path) -> None:
    labels, targets, splits = make_cohort()
    bank = DrawnBank(labels)
    with pytest.raises(SplitError, match="0 of role 'val'"):
        train_ensemble(
            bank, lambda _: targets, splits[splits["role"] != "val"], make_spec(), folder=tmp_path, device="cpu"
        )
    with pytest.raises(SplitError, match=r"no folds of repeat 3, only of \[0\]"):
        train_ensemble(bank, lambda _: targets, splits, make_spec(repeat=3), folder=tmp_path, device="cpu")
