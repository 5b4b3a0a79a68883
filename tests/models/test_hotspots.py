"""Attention regression: the published formula by hand, padding and order change nothing, genes are cheap, bags are large."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from helpers.core.errors import ModelError
from helpers.models.arms import load_arm
from helpers.models.bags import Bags, collect_bags
from helpers.models.hotspots import (
    POOLINGS,
    HotspotArm,
    _Training,
    apply_trunk,
    differentiate_attention,
    draw_attention,
    list_hotspot_arms,
    load_hotspots,
    pool_by_value,
    pool_values,
    split_by_size,
)
from helpers.models.linear import fit_ridge, plan_inner_folds

SMALL = HotspotArm(max_epochs=2, trunk=8, attention_width=4, n_components=None)


def make_cohort(n: int = 60, *, d: int = 5, seed: int = 3) -> tuple[Bags, np.ndarray, np.ndarray]:
    """Bags of unequal size; two targets linear in the mean of a feature each."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 2))
    bags = [rng.normal(size=(int(rng.integers(3, 20)), d)) + np.pad(row, (0, d - 2)) for row in latent]
    return collect_bags(bags), latent + 0.1 * rng.normal(size=latent.shape), np.arange(n) % 6


def compute_published(fit, tiles: np.ndarray, column: int = 0) -> float:
    """The published formula for one bag, slowly, in double precision: sum of attention times clamped tile value."""
    predictions = []
    net = {name: value.astype(float) for name, value in fit.nets[column].items()}
    x = (tiles - fit.mean) @ fit.rotation
    for m in range(len(net["w0"])):
        hidden = x @ net["w0"][m] + net["b0"][m]
        value = np.clip(hidden @ net["w1"][m] + net["b1"][m], -10, 10)[:, 0]
        logit = (np.tanh(hidden @ net["v"][m] + net["c"][m]) @ net["u"][m])[:, 0]
        weight = np.exp(logit - logit.max())
        predictions.append((weight / weight.sum() * value).sum())
    return float(np.mean(predictions) * fit.spread[column] + fit.centre[column])


def test_the_published_model_is_the_attention_weighted_mean_of_clamped_tile_values() -> None:
    bags, y, site = make_cohort(30)
    published = list_hotspot_arms()["as_published"]
    assert (published.trunk, published.attention_width, published.dropout, published.clamp) == (128, 64, 0.2, 10.0)
    assert (published.optimiser, published.learning_rate, published.weight_decay) == ("sgd", 1e-4, 0.01)
    assert (published.max_epochs, published.patience) == (100, 12)
    fit = replace(published, max_epochs=3).fit(bags, y, site, np.random.default_rng(1))
    assert len(fit.nets) == 2, "one net per gene"
    assert len(fit.nets[0]["w0"]) == plan_inner_folds(30, groups=site).max() + 1 == 5, "one net per split"
    for i in (0, 7):
        for k in (0, 1):
            assert fit.predict([bags[i]])[0, k] == pytest.approx(compute_published(fit, bags[i], k), abs=1e-4)


def test_value_times_attention_sums_to_the_prediction_of_a_single_net() -> None:
    bags, y, site = make_cohort(40)
    fit = replace(SMALL, anchored=False).fit(bags, y, site, np.random.default_rng(1))
    one = replace(fit, nets=({name: value[:1] for name, value in fit.nets[0].items()},))
    for i in range(5):
        values, attention = one.explain_tiles(bags[i], columns=[0, 1])
        assert attention.sum(axis=0) == pytest.approx(1)
        assert (values * attention).sum(axis=0) == pytest.approx(one.predict([bags[i]])[0], abs=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_tile_order_padding_and_company_change_nothing(pooling) -> None:
    bags, y, site = make_cohort(40)
    fit = replace(SMALL, pooling=pooling, anchored=False).fit(bags, y, site, np.random.default_rng(1))
    together = fit.predict(bags)
    alone = np.concatenate([fit.predict([bags[i]]) for i in range(len(bags))])
    assert together == pytest.approx(alone, abs=1e-5)
    assert fit.predict([bags[3][::-1]]) == pytest.approx(together[3:4], abs=1e-5)


def test_pooling_by_value_is_what_its_name_says() -> None:
    import torch

    values = np.array([3.0, -1.0, 2.0, 0.5])
    padded = torch.tensor([*values, 99.0, -99.0], dtype=torch.float64).reshape(1, 1, 6, 1)
    mask = (torch.arange(6) < 4).reshape(1, 1, 6)

    def pool(name, **options):
        return float(pool_by_value(padded, mask, pooling=name, **options))

    assert pool("max") == 3.0
    assert pool("linear") == pytest.approx((9 - 1 + 4 + 0.25) / 6.5)
    assert pool("exponential") == pytest.approx((values * np.exp(values)).sum() / np.exp(values).sum())
    assert pool("top_k", top_k=(2,)) == pytest.approx(2.5), "the two highest, not the two first"
    assert pool("top_k", top_k=(1, 1000)) == pytest.approx((3.0 + values.mean()) / 2)


def test_with_no_epoch_an_anchored_arm_is_the_mean_of_its_ridges() -> None:
    bags, y, site = make_cohort()
    for n_components in (None, 3):
        fit = replace(SMALL, max_epochs=0, n_components=n_components)
        fitted = fit.fit(bags, y, site, np.random.default_rng(1))
        folds = plan_inner_folds(len(bags), groups=site)
        # attention is not equal at the start: only a bag of one tile shows the ridge itself
        expected = []
        for m in range(folds.max() + 1):
            model = fit_ridge(bags.take(folds != m).pool("mean"), y[folds != m], groups=site[folds != m])
            expected.append(model.predict(bags[0][:1]))
        assert fitted.predict([bags[0][:1]]) == pytest.approx(np.mean(expected, axis=0), abs=1e-3)


def test_dropout_is_off_when_a_model_predicts_and_a_seed_decides() -> None:
    bags, y, site = make_cohort()
    first, again, other = (replace(SMALL, dropout=0.5).fit(bags, y, site, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first.predict(bags), first.predict(bags))
    assert np.array_equal(first.predict(bags), again.predict(bags))
    assert not np.allclose(first.predict(bags), other.predict(bags))


def test_every_arm_learns_a_target_and_none_learns_noise() -> None:
    bags, y, site = make_cohort(80)
    new, truth, _ = make_cohort(80, seed=4)
    noise = np.random.default_rng(9).normal(size=(80, 1))
    for name in ("multi_task", "as_published"):
        arm = list_hotspot_arms()[name]
        arm = replace(arm, learning_rate=1e-3) if name == "as_published" else arm
        predicted = arm.fit(bags, y, site, np.random.default_rng(1)).predict(new)
        assert np.corrcoef(predicted[:, 0], truth[:, 0])[0, 1] > 0.8, name
        of_noise = arm.fit(bags, noise, site, np.random.default_rng(1)).predict(bags)
        assert of_noise.std() < 0.5, name


def test_inner_predictions_come_from_nets_that_did_not_see_the_case() -> None:
    bags, y, site = make_cohort(50)
    fit = replace(SMALL, anchored=False, max_epochs=5).fit(bags, y, site, np.random.default_rng(1))
    folds = plan_inner_folds(50, groups=site)
    for m in (0, 3):
        one = replace(fit, nets=({name: value[m : m + 1] for name, value in fit.nets[0].items()},))
        rows = np.flatnonzero(folds == m)
        assert one.predict(bags.take(rows)) == pytest.approx(fit.inner[rows], abs=1e-4)


def test_arrays_bring_a_fit_back() -> None:
    bags, y, site = make_cohort(40)
    for arm in (SMALL, replace(SMALL, multi_task=False, anchored=False, pooling="top_k", value_layers=(4, 4))):
        fit = arm.fit(bags, y, site, np.random.default_rng(1))
        again = load_hotspots(fit.to_arrays())
        assert again.arm == arm
        assert np.array_equal(again.predict(bags), fit.predict(bags))
    assert np.array_equal(load_arm(fit.to_arrays()).predict(bags), fit.predict(bags))


def test_a_bag_of_fifty_thousand_tiles_is_trained_on_and_explained() -> None:
    rng = np.random.default_rng(7)
    bags = collect_bags([rng.normal(size=(n, 16)).astype(np.float32) for n in [50_000, *[20] * 11]])
    y = rng.normal(size=(12, 3))
    tracemalloc.start()
    for arm in (replace(SMALL, cases_per_step=4), replace(SMALL, max_tiles=None, cases_per_step=1, max_epochs=1)):
        fit = arm.fit(bags, y, None, np.random.default_rng(1))
        values, attention = fit.explain_tiles(bags[0], columns=[1])
        assert values.shape == attention.shape == (50_000, 1)
        assert attention.sum() == pytest.approx(1, abs=1e-3)
    assert tracemalloc.get_traced_memory()[1] < 2e9
    tracemalloc.stop()


def test_twenty_thousand_genes_share_a_trunk() -> None:
    bags, _, site = make_cohort(40)
    labels = np.random.default_rng(2).normal(size=(40, 20_000))
    fit = replace(SMALL, max_epochs=1).fit(bags, labels, site, np.random.default_rng(1))
    assert fit.predict(bags).shape == (40, 20_000)
    assert len(fit.nets) == 1


def test_batches_hold_few_padded_tiles_and_every_case_once() -> None:
    sizes = np.sort(np.random.default_rng(1).integers(1, 500, 90))
    batches = split_by_size(np.arange(90), sizes, most=1000)
    assert np.array_equal(np.concatenate(batches), np.arange(90))
    assert all(len(rows) * sizes[rows].max() <= 1000 for rows in batches)
    assert [len(rows) for rows in split_by_size(np.arange(2), np.array([5000, 9000]), most=1000)] == [1, 1]


def test_a_random_attention_knows_nothing_and_differs_between_draws() -> None:
    drawn = draw_attention(SMALL, 3, rng=np.random.default_rng(1))
    assert drawn["v"].shape == (3, 8, 4)
    assert drawn["u"].shape == (3, 4, SMALL.n_attention)
    assert not np.allclose(drawn["v"][0], drawn["v"][1])


def test_tiles_of_another_encoder_are_refused() -> None:
    bags, y, site = make_cohort(30)
    fit = replace(SMALL, max_epochs=0).fit(bags, y, site, np.random.default_rng(1))
    with pytest.raises(ModelError, match="tiles of 7 features were given to a net of 5"):
        fit.predict([np.zeros((3, 7))])


@pytest.mark.parametrize("clamp", [None, 0.05])
def test_the_gradient_by_hand_is_that_of_autograd(clamp: float | None) -> None:
    import torch

    rng = np.random.default_rng(8)
    shapes = {
        "w0": (3, 6, 7),
        "b0": (3, 1, 7),
        "w1": (3, 7, 2),
        "b1": (3, 1, 2),
        "v": (3, 7, 4),
        "c": (3, 1, 4),
        "u": (3, 4, 1),
        "mix": (3, 1, 2),
    }
    net = {name: torch.from_numpy(0.4 * rng.normal(size=shape)).requires_grad_() for name, shape in shapes.items()}
    x, labels = torch.from_numpy(rng.normal(size=(3, 1, 9, 6))), torch.from_numpy(rng.normal(size=(3, 1, 2)))
    mask = torch.arange(9) < torch.tensor([[4], [9], [1]])[..., None]  # (3, 1, 9)
    arm = replace(SMALL, n_attention=1, anchored=False, activation="none", clamp=clamp)
    ((pool_values(net, x, mask, arm) - labels) ** 2).mean(dim=(1, 2)).sum().backward()
    hidden = apply_trunk(net, x, arm)[:, 0].detach()
    by_weight, by_hidden = differentiate_attention(net, hidden, mask[:, 0], labels[:, 0], clamp=clamp)
    assert net["mix"].grad is None or not net["mix"].grad.any(), "one attention has all the weight"
    assert set(by_weight) | {"w0", "b0", "mix"} == set(net)
    for name, value in by_weight.items():
        assert torch.allclose(value, net[name].grad, atol=1e-12), name
    assert torch.allclose(x[:, 0].mT @ by_hidden, net["w0"].grad, atol=1e-12)
    assert not by_hidden[~mask[:, 0]].any(), "padding has a gradient"


@pytest.mark.parametrize("name", ["as_published", "pool_max", "top_k"])
def test_a_step_on_slices_of_tiles_is_a_step_on_padded_ones(name: str) -> None:
    import torch

    bags, y, site = make_cohort(30)
    arm = replace(list_hotspot_arms()[name], trunk=8, attention_width=4)
    gradients = []
    for by_slices in (True, False):
        prepared = arm.prepare(bags, groups=site, rng=np.random.default_rng(2))
        training = _Training(prepared, y[:, :1])
        assert training.reads_slices
        assert training.by_hand == (name == "as_published")
        training.reads_slices = by_slices
        held_out = training.predict_held_out()
        training.follow_loss(training.draw_epoch()[3])
        gradients.append((training.weights.gradient, held_out))
    (ours, held_out), (theirs, expected) = gradients
    assert theirs.abs().max() > 0.01
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert held_out == pytest.approx(expected, abs=1e-5)
