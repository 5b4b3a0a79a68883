"""MIL: starts as the ridge, learns what the ridge cannot, weighs tiles that matter, and repeats itself."""

import numpy as np
import pytest

from helpers.models.bags import Bags, collect_bags
from helpers.models.linear import fit_ridge, plan_inner_folds
from helpers.models.mil import MilArm, fit_rotation


def make_needles(n: int = 160, seed: int = 3) -> tuple[Bags, np.ndarray, np.ndarray]:
    """A tenth of the tiles is marked by feature 0 and carries the target in feature 1; the mean hardly shows it."""
    rng = np.random.default_rng(seed)
    y, bags = rng.normal(size=n), []
    for i in range(n):
        tiles = rng.normal(size=(40, 4)) * np.array([0.3, 3.0, 1.0, 1.0])
        tiles[:4, 0] += 4
        tiles[:4, 1] = 2 * y[i] + 0.2 * rng.normal(size=4)
        bags.append(rng.permutation(tiles))
    return collect_bags(bags), y, np.arange(n) % 8


def test_with_no_epoch_an_anchored_net_is_the_mean_of_its_ridges() -> None:
    bags, y, site = make_needles(60)
    fitted = MilArm(max_epochs=0).fit(bags, y, site, np.random.default_rng(1))
    folds = plan_inner_folds(60, groups=site)
    pooled, expected = bags.pool("mean"), []
    for m in range(folds.max() + 1):
        model = fit_ridge(pooled[folds != m], y[folds != m, None], groups=site[folds != m])
        expected.append(model.predict(pooled)[:, 0])
    assert fitted.predict(bags) == pytest.approx(np.mean(expected, axis=0), abs=1e-3)
    twice = MilArm(max_epochs=0, n_seeds=2).fit(bags, y, site, np.random.default_rng(1))
    assert twice.predict(bags) == pytest.approx(fitted.predict(bags), abs=1e-6)
    assert twice.inner == pytest.approx(fitted.inner, abs=1e-6)


def test_attention_finds_the_tiles_that_carry_the_target() -> None:
    bags, y, site = make_needles()
    new, truth, _ = make_needles(seed=4)
    arm = MilArm(dropout=0.1, weight_decay=0.0, learning_rate=1e-2, max_epochs=150, patience=40, tiles_per_case=40)
    fitted = arm.fit(bags, y, site, np.random.default_rng(1))
    ridge = fit_ridge(bags.pool("mean"), y[:, None], groups=site)
    by_ridge = np.corrcoef(ridge.predict(new.pool("mean"))[:, 0], truth)[0, 1]
    assert np.corrcoef(fitted.predict(new), truth)[0, 1] > by_ridge + 0.1
    weights = np.stack([fitted.fitted.fits[0].weigh_tiles(new[i]) for i in range(len(new))])
    assert weights.sum(axis=1) == pytest.approx(1)
    needles = np.stack([new[i][:, 0] > 2 for i in range(len(new))])
    assert weights[needles].mean() > 2 * weights[~needles].mean()


def test_nothing_to_learn_leaves_the_nets_near_their_start() -> None:
    bags, _, site = make_needles(80)
    noise = np.random.default_rng(8).normal(size=80)
    fitted = MilArm(max_epochs=20).fit(bags, noise, site, np.random.default_rng(1))
    assert fitted.predict(bags).std() < 0.5 * noise.std()


def test_a_seed_decides_and_targets_may_be_several() -> None:
    bags, y, site = make_needles(50)
    both = np.stack([y, -y], axis=1)
    arm = MilArm(max_epochs=3, anchored=False)
    a, b, c = (arm.fit(bags, both, site, np.random.default_rng(seed)).predict(bags) for seed in (1, 1, 2))
    assert a.shape == (50, 2)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    prepared = arm.prepare(bags, groups=site, rng=np.random.default_rng(1))
    assert np.array_equal(prepared.fit(both).predict(bags), a)
    alone = prepared.fit(both[:, 1:]).predict(bags)  # again, and without the other target
    assert alone == pytest.approx(a[:, 1:], abs=1e-6)


def test_mean_mil_weighs_all_tiles_alike_so_a_case_is_the_mean_of_its_tiles() -> None:
    bags, y, site = make_needles(50)
    fitted = MilArm(attention=False, max_epochs=3).fit(bags, y, site, np.random.default_rng(1))
    assert fitted.fitted.fits[0].weigh_tiles(bags[0]) == pytest.approx(1 / 40)
    assert fitted.score_tiles(bags[4]).mean() == pytest.approx(fitted.predict(bags)[4], abs=1e-4)


def test_rotation_is_that_of_the_case_weighted_covariance() -> None:
    rng = np.random.default_rng(5)
    bags = collect_bags([rng.normal(size=(n, 3)) * [1, 5, 1] + [0, 0, n] for n in (2, 9, 30)])
    mean, rotation = fit_rotation(bags, n_components=3)
    assert mean == pytest.approx(np.mean([bag.mean(0) for bag in bags], axis=0), abs=1e-5)
    weight = np.concatenate([np.full(len(bag), 1 / len(bag) / 3) for bag in bags])
    turned = (bags.list_tiles()[0] - mean) @ rotation
    covariance = (turned * weight[:, None]).T @ turned
    assert covariance - np.diag(np.diag(covariance)) == pytest.approx(np.zeros((3, 3)), abs=1e-4)
    assert np.diag(covariance).max() < 1
