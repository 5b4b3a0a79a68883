"""Arms: equal to their formulas, additive where they say so, blind to test cases, saved without loss."""

import numpy as np
import pytest

from helpers.core.errors import ModelError
from helpers.models.arms import (
    EnsembleArm,
    RidgeArm,
    combine_arms,
    compute_pls_weights,
    find_arm,
    list_arms,
    load_arm,
)
from helpers.models.bags import Bags, collect_bags
from helpers.models.descriptors import fit_fourier, fit_gaussian
from helpers.models.linear import BlockRidgeTrainer, compute_ridge_path, fit_ridge, plan_inner_folds

ADDITIVE = ["ridge", "pls", "svr_linear", "ridge_fourier"]
SOLO = [name for name, arm in list_arms().items() if not isinstance(arm, EnsembleArm)]


def make_cohort(n: int = 60, d: int = 6, seed: int = 17) -> tuple[Bags, np.ndarray, np.ndarray]:
    """Cases whose mean of feature 0 carries the first target, and whose spread of feature 1 the second."""
    rng = np.random.default_rng(seed)
    level, spread = rng.normal(size=n), rng.uniform(0.3, 2, size=n)
    bags = []
    for i in range(n):
        tiles = rng.normal(size=(rng.integers(3, 20), d))
        tiles[:, 0] += 2 * level[i]
        tiles[:, 1] *= spread[i]
        bags.append(tiles)
    labels = np.stack([5 + level + 0.3 * rng.normal(size=n), spread + 0.1 * rng.normal(size=n)], axis=1)
    return collect_bags(bags), labels, np.arange(n) % 6


def fit(name: str, bags: Bags, y: np.ndarray, site: np.ndarray) -> object:
    return find_arm(name).fit(bags, y, site, np.random.default_rng(5))


@pytest.mark.parametrize("name", list(list_arms()))
def test_every_arm_learns_what_is_there_and_predicts_new_cases(name: str) -> None:
    bags, y, site = make_cohort()
    new, truth, _ = make_cohort(seed=18)
    predicted = fit(name, bags, y, site).predict(new)
    assert predicted.shape == (60, 2)
    assert np.corrcoef(predicted[:, 0], truth[:, 0])[0, 1] > (0.6 if "plain" in name else 0.8)
    assert abs(predicted[:, 0].mean() - 5) < 0.7


def test_spread_of_tiles_is_seen_by_moments_and_fourier_features_not_by_means() -> None:
    bags, y, site = make_cohort(n=120)
    new, truth, _ = make_cohort(n=120, seed=18)
    found = {
        name: np.corrcoef(fit(name, bags, y, site).predict(new)[:, 1], truth[:, 1])[0, 1]
        for name in ("ridge", "ridge_moments", "ridge_fourier")
    }
    assert found["ridge"] < 0.4
    assert min(found["ridge_moments"], found["ridge_fourier"]) > 0.5


@pytest.mark.parametrize("name", ["ridge", "ridge_fourier", "attention_mil", "ensemble"])
def test_one_target_drops_the_axis_of_targets_and_changes_no_number(name: str) -> None:
    bags, y, site = make_cohort()
    single, double = fit(name, bags, y[:, 0], site), fit(name, bags, y[:, :1], site)
    assert single.predict(bags).shape == (60,)
    assert single.predict(bags) == pytest.approx(double.predict(bags)[:, 0])
    assert single.inner == pytest.approx(double.inner[:, 0])


@pytest.mark.parametrize("name", list(list_arms()))
def test_saved_arms_predict_the_same(name: str, tmp_path: object) -> None:
    bags, y, site = make_cohort(n=40)
    fitted = fit(name, bags, y[:, 0], site)
    path = f"{tmp_path}/arm.npz"
    np.savez(path, **fitted.to_arrays())
    with np.load(path) as arrays:
        again = load_arm(dict(arrays))
    new = [bags[i] for i in (3, 1)]
    assert again.predict(new) == pytest.approx(fitted.predict(new), abs=1e-12)


@pytest.mark.parametrize("name", ADDITIVE)
def test_a_case_is_the_mean_of_its_tile_scores(name: str) -> None:
    bags, y, site = make_cohort()
    fitted = fit(name, bags, y, site)
    assert fitted.score_tiles(bags[7]).mean(axis=0) == pytest.approx(fitted.predict(bags)[7], abs=1e-5)


@pytest.mark.parametrize("name", ["ridge_moments", "ridge_kernel", "svr_gaussian"])
def test_arms_that_score_no_tile_say_which_do(name: str) -> None:
    bags, y, site = make_cohort(n=30)
    with pytest.raises(ModelError, match="Use an arm on means"):
        fit(name, bags, y, site).score_tiles(bags[0])


@pytest.mark.parametrize("name", SOLO)
def test_inner_predictions_do_not_know_their_own_label(name: str) -> None:
    bags, _, site = make_cohort()
    noise = np.random.default_rng(1).normal(size=(60, 2))
    fitted = fit(name, bags, noise, site)
    seen = [np.corrcoef(fitted.predict(bags)[:, k], noise[:, k])[0, 1] for k in range(2)]
    held_out = [np.corrcoef(fitted.inner[:, k], noise[:, k])[0, 1] for k in range(2)]
    assert max(held_out) < 0.35
    assert np.mean(held_out) < np.nanmean(seen) + 0.05


def test_order_and_number_of_equal_tiles_change_nothing() -> None:
    bags, y, site = make_cohort(n=40)
    fitted = fit("ensemble", bags, y, site)
    turned = [np.concatenate([bag[::-1], bag]) for bag in bags]
    means = [
        find_arm(name).fit(bags, y, site, np.random.default_rng(5))
        for name in ("ridge", "ridge_fourier", "attention_mil")
    ]
    assert fitted.predict([bag[::-1] for bag in bags]) == pytest.approx(fitted.predict(bags), abs=1e-5)
    for arm in means:
        assert arm.predict(turned) == pytest.approx(arm.predict(bags), abs=1e-4)


def test_plain_ridge_arm_is_the_ridge_of_the_chapter() -> None:
    bags, y, site = make_cohort()
    fitted = fit("ridge", bags, y, site)
    model = fit_ridge(bags.pool("mean"), y, groups=site)
    assert fitted.predict(bags) == pytest.approx(model.predict(bags.pool("mean")), abs=1e-12)
    folds = plan_inner_folds(60, groups=site)
    for column in range(2):
        alpha = model.alphas[column : column + 1]
        for fold in range(folds.max() + 1):
            test = folds == fold
            again = fit_ridge(bags.pool("mean")[~test], y[~test, column : column + 1], alphas=alpha)
            assert fitted.inner[test, column] == pytest.approx(again.predict(bags.pool("mean")[test])[:, 0])


def test_inner_folds_by_update_equal_refits_at_the_same_scale() -> None:
    rng = np.random.default_rng(2)
    x, y, site = rng.normal(size=(50, 80)), rng.normal(size=(50, 2)), np.arange(50) % 7
    trainer = BlockRidgeTrainer(x, groups=site, alphas=np.array([3.0, 300.0]))
    z = (x - x.mean(0)) / x.std(0)
    for which, alpha in enumerate((3.0, 300.0)):
        expected = np.empty_like(y)
        for fold in range(trainer.folds.max() + 1):
            test = trainer.folds == fold
            train = z[~test] - z[~test].mean(0)
            weights = np.linalg.solve(train.T @ train + alpha * np.eye(80), train.T @ (y[~test] - y[~test].mean(0)))
            expected[test] = (z[test] - z[~test].mean(0)) @ weights + y[~test].mean(0)
        assert trainer.predict_inner(y, np.full(2, alpha)) == pytest.approx(expected, abs=1e-9)
        assert trainer.compute_inner_errors(y)[which] == pytest.approx(((expected - y) ** 2).sum(0))


def test_pls_by_conjugate_gradients_equals_nipals() -> None:
    from sklearn.cross_decomposition import PLSRegression

    rng = np.random.default_rng(6)
    x = rng.normal(size=(50, 12)) @ rng.normal(size=(12, 12))
    y = x[:, :2] + rng.normal(size=(50, 2))
    path = compute_ridge_path(x)
    weights = compute_pls_weights(path, y - y.mean(0), n_components=6)
    for column in range(2):
        for m in (1, 3, 6):
            theirs = PLSRegression(n_components=m).fit(x, y[:, column]).predict(x).ravel()
            ours = (x - path.mean) / path.scale @ (path.vt.T @ weights[m - 1, :, column]) + y[:, column].mean()
            assert ours == pytest.approx(theirs, abs=1e-6)


def test_fourier_features_approximate_the_kernel_between_distributions() -> None:
    bags, _, _ = make_cohort(n=6)
    descriptor = fit_fourier(bags, factor=1.0, n_waves=20_000, rng=np.random.default_rng(1))
    described = np.sqrt(2 / 20_000) * descriptor.describe(bags)
    z = [(bag - descriptor.mean) / descriptor.scale for bag in bags]
    bandwidth = 1 / descriptor.waves.std()
    gaps = ((z[0][:, None] - z[3][None]) ** 2).sum(2)
    assert described[0] @ described[3] == pytest.approx(np.exp(-gaps / (2 * bandwidth**2)).mean(), abs=0.02)


def test_whitened_gaussian_features_have_the_kernel_as_inner_product() -> None:
    bags, _, _ = make_cohort(n=25)
    descriptor = fit_gaussian(bags, factor=1.0)
    x = (bags.pool("mean") - descriptor.mean) / descriptor.scale
    kernel = np.exp(-descriptor.gamma * ((x[:, None] - x[None]) ** 2).sum(2))
    described = descriptor.describe(bags)
    assert described @ described.T == pytest.approx(kernel, abs=1e-4)


class Told:
    """An arm whose inner predictions are given."""

    def __init__(self, inner: np.ndarray) -> None:
        self.inner = inner

    def predict(self, bags: object) -> np.ndarray:
        return self.inner


def test_ensemble_takes_what_helps_and_leaves_what_does_not() -> None:
    rng = np.random.default_rng(9)
    y = rng.normal(size=(400, 1))
    members = {name: Told(y + rng.normal(size=(400, 1))) for name in ("a", "b")} | {
        "noise": Told(rng.normal(size=(400, 1)))
    }
    chosen = combine_arms(members, y)
    assert chosen.weights[:, 0].sum() == pytest.approx(1)
    assert chosen.weights[2, 0] < 0.15
    assert min(chosen.weights[:2, 0]) > 0.3
    equal = combine_arms(members, y, max_rounds=0)
    assert equal.weights[:, 0] == pytest.approx(1 / 3)
    joint = np.corrcoef(chosen.inner[:, 0], y[:, 0])[0, 1]
    assert joint > max(np.corrcoef(m.inner[:, 0], y[:, 0])[0, 1] for m in members.values())
    slope = np.polyfit(chosen.inner[:, 0], y[:, 0], 1)[0]
    assert slope == pytest.approx(1)  # calibrated on the inner folds


def test_an_ensemble_that_helps_nothing_says_almost_the_mean_and_keeps_its_order() -> None:
    y = np.random.default_rng(2).normal(size=(30, 1))
    fitted = combine_arms({"wrong": Told(-y)}, y)
    assert fitted.inner.std() == pytest.approx(0.01 * y.std())
    assert np.corrcoef(fitted.inner[:, 0], -y[:, 0])[0, 1] == pytest.approx(1)


def test_an_ensemble_of_constants_says_the_mean() -> None:
    y = np.random.default_rng(2).normal(size=(30, 1))
    fitted = combine_arms({"flat": Told(np.full((30, 1), 7.0))}, y)
    assert fitted.inner == pytest.approx(y.mean())


def test_what_does_not_fit_says_so() -> None:
    bags, y, site = make_cohort(n=30)
    with pytest.raises(ModelError, match="30 bags were given with 29 labels"):
        RidgeArm().fit(bags, y[:29], site[:29], np.random.default_rng(1))
    with pytest.raises(ModelError, match="1 training labels are missing"):
        RidgeArm().fit(bags, np.where(np.arange(30) == 3, np.nan, y[:, 0]), site, np.random.default_rng(1))
    with pytest.raises(ModelError, match="there is no arm 'lasso'; there are ridge, "):
        find_arm("lasso")
    with pytest.raises(ModelError, match="these arrays say arm 'none'"):
        load_arm({})
    with pytest.raises(ModelError, match="tiles of 3 features were given to a net of 6"):
        fit("mean_mil", bags, y, site).score_tiles(np.ones((2, 3)))


def test_registry_and_spec_name_the_same_arms() -> None:
    from typing import get_args

    from helpers.core.specs import ArmName, ProliferationSpec

    assert get_args(ArmName) == tuple(list_arms())
    assert get_args(ProliferationSpec.model_fields["arm"].annotation) == tuple(list_arms())
