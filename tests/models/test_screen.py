"""The gene screen: a smoother is its refit, a null is flat, linked genes are found, and what is false stays rare."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import ModelError
from helpers.core.specs import PhantomSpec
from helpers.models.linear import compute_ridge_path
from helpers.models.screen import (
    PlantedGenes,
    build_smoother,
    choose_penalty,
    compute_p_values,
    correlate_permuted,
    rank_columns,
    screen_genes,
    simulate_screens,
    summarise_screens,
)
from helpers.phantom.truth import plan_cohort
from helpers.stats.multiplicity import adjust_benjamini_hochberg
from helpers.stats.resampling import permute_within


def make_study(n: int = 80, d: int = 12, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    site = np.arange(n) % 5
    return rng.normal(size=(n, d)) + 0.3 * site[:, None], site, site


def test_a_penalty_leaves_the_freedom_asked_for() -> None:
    s = np.linspace(1, 20, 30)
    penalty = choose_penalty(s, freedom=7)
    assert (s**2 / (s**2 + penalty)).sum() == pytest.approx(7, abs=1e-6)
    assert (s**2 / (s**2 + choose_penalty(s, freedom=500))).sum() == pytest.approx(27)


def test_the_smoother_is_the_refit_of_every_fold() -> None:
    x, folds, _ = make_study()
    y = np.random.default_rng(2).normal(size=(80, 3))
    smoother, expected = build_smoother(x, folds, freedom=5), np.empty((80, 3))
    for fold in range(5):
        test = folds == fold
        path = compute_ridge_path(x[~test])
        expected[test] = path.fit(y[~test], np.full(3, choose_penalty(path.s, freedom=5))).predict(x[test])
    assert smoother @ y == pytest.approx(expected)
    assert smoother.sum(axis=1) == pytest.approx(1)
    assert all(not smoother[np.ix_(folds == fold, folds == fold)].any() for fold in range(5))
    with pytest.raises(ModelError, match="1 fold leaves no training case"):
        build_smoother(x, np.zeros(80, int), freedom=5)


def test_the_null_is_that_of_refitting_on_permuted_ranks() -> None:
    x, folds, site = make_study()
    smoother = build_smoother(x, folds, freedom=5)
    y = x[:, :2] + np.random.default_rng(2).normal(size=(80, 2))
    table = screen_genes(smoother, y, groups=site, n_permutations=60, rng=np.random.default_rng(3))
    ranks = rank_columns(y)
    permutations = permute_within(site, n_permutations=60, rng=np.random.default_rng(3))
    null = np.array([[np.corrcoef(ranks[p, k], smoother @ ranks[p, k])[0, 1] for k in (0, 1)] for p in permutations])
    observed = np.array([np.corrcoef(ranks[:, k], smoother @ ranks[:, k])[0, 1] for k in (0, 1)])
    assert table["value"].to_numpy() == pytest.approx(observed)
    assert table["null_mean"].to_numpy() == pytest.approx(null.mean(axis=0), abs=1e-5)
    assert table["p"].to_numpy() == pytest.approx((1 + (null >= observed).sum(axis=0)) / 61)
    assert table["q"].to_numpy() == pytest.approx(adjust_benjamini_hochberg(table["p"]))


def test_p_values_of_nothing_are_uniform_even_where_sites_differ_in_both() -> None:
    x, folds, site = make_study(100, seed=4)
    smoother = build_smoother(x, folds, freedom=5)
    y = np.random.default_rng(5).normal(size=(100, 400)) + site[:, None]
    p = screen_genes(smoother, y, groups=site, n_permutations=199, rng=np.random.default_rng(6))["p"]
    assert p.min() >= 1 / 200
    assert (p <= 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert 0.4 < p.mean() < 0.6


def test_a_part_of_the_cases_can_be_judged() -> None:
    x, folds, site = make_study(120)
    kept = np.arange(120) % 2 == 0
    y = np.where(kept, 0, 3)[:, None] * x[:, :1] + np.random.default_rng(2).normal(size=(120, 1))
    smoother = build_smoother(x, folds, freedom=5)
    strata = site * 2 + kept
    options = {"groups": strata, "n_permutations": 99}
    whole = screen_genes(smoother, y, rng=np.random.default_rng(1), **options)
    part = screen_genes(smoother, y, rng=np.random.default_rng(1), judged=kept, **options)
    assert whole["p"][0] <= 0.02
    assert part["p"][0] > 0.05, "among these cases there is nothing to find"


def test_planted_genes_are_drawn_anew_and_can_be_cut_loose() -> None:
    truth = plan_cohort(PhantomSpec(n_cases=60, n_external=0, render=False, bad_slides=False, n_null_genes=10))
    drawn = PlantedGenes(truth.cases_truth, truth.loadings, truth.spec.assay_sd)
    a, is_null = drawn(np.random.default_rng(1))
    b, _ = drawn(np.random.default_rng(2))
    genes = truth.loadings["gene"].tolist()
    assert a.shape == (60, len(genes))
    assert is_null.sum() == 18, "ten null genes and eight housekeeping genes"
    assert not np.allclose(a, b)
    latent = truth.cases_truth["latent"].to_numpy()
    assert np.corrcoef(a[:, genes.index("UBE2C")], latent)[0, 1] > 0.6
    loose = PlantedGenes(truth.cases_truth, truth.loadings, truth.spec.assay_sd, break_links=True)
    within = []
    for seed in range(20):
        c, all_null = loose(np.random.default_rng(seed))
        assert all_null.all()
        frame = pd.DataFrame({"y": c[:, genes.index("UBE2C")], "z": latent, "site": truth.cases_truth["site"]})
        centred = frame[["y", "z"]] - frame.groupby("site")[["y", "z"]].transform("mean")
        within.append(np.corrcoef(centred["y"], centred["z"])[0, 1])
    assert abs(np.mean(within)) < 0.1


def test_simulated_screens_count_what_was_wrong() -> None:
    x, folds, site = make_study(90)
    smoother = build_smoother(x, folds, freedom=6)

    def draw(rng):
        y = rng.normal(size=(90, 10))
        y[:, :4] += 2 * x[:, [0]]
        return y, np.arange(10) >= 4

    screens = simulate_screens(
        smoother, draw, groups=site, n_cohorts=40, n_permutations=99, rng=np.random.default_rng(1)
    )
    found = summarise_screens(screens)
    assert found["null_share"] == pytest.approx(0.6)
    assert found["power"] > 0.9
    assert found["lower"] <= 0.05
    assert found["lower"] < found["proportion"] < found["upper"]
    assert screens["proportion"].equals(screens["n_false"] / screens["n_found"].clip(lower=1))


@pytest.mark.parametrize("part", [False, True])
def test_a_permuted_correlation_is_that_of_permuted_labels_and_their_refit(part: bool) -> None:
    x, folds, site = make_study(40)
    rng = np.random.default_rng(6)
    ranks, kept = rank_columns(rng.normal(size=(40, 700))), np.arange(40) % 3 > 0 if part else np.ones(40, bool)
    ranks[:, 5] = 0.0
    smoother = build_smoother(x, folds, freedom=5)
    permutations = permute_within(site, n_permutations=7, rng=rng)
    null = correlate_permuted(smoother, ranks, permutations=permutations, kept=kept)
    assert null.shape == (7, 700)
    assert not null[:, 5].any(), "a constant label correlates with nothing"
    for p in (0, 6):
        for gene in (0, 1, 699):
            labels = ranks[permutations[p], gene]
            expected = np.corrcoef(labels[kept], (smoother @ labels)[kept])[0, 1]
            assert null[p, gene] == pytest.approx(expected, abs=2e-6)


def test_p_values_count_what_is_as_high_and_are_never_zero() -> None:
    null = np.array([[0.1, 0.5], [0.2, 0.5], [0.3, 0.6], [0.4, 0.1]], np.float32)
    assert compute_p_values(np.array([0.9, 0.5]), null) == pytest.approx([0.2, 0.8])
