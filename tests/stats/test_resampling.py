"""Resampling: cases are the unit, permutations stay in their site, folds are not independent."""

import numpy as np
import pytest

from helpers.core.errors import StatsError
from helpers.stats.correlation import compute_spearman_columns
from helpers.stats.resampling import (
    compare_repeated_folds,
    compare_with_null,
    compute_percentile_interval,
    compute_permutation_null,
    draw_bootstrap_counts,
    permute_within,
)


def test_a_bootstrap_resample_has_as_many_cases_as_the_cohort() -> None:
    counts = draw_bootstrap_counts(30, n_boot=200, rng=np.random.default_rng(1))
    assert counts.shape == (200, 30)
    assert (counts.sum(1) == 30).all()
    assert counts.mean() == pytest.approx(1)
    assert counts.var() == pytest.approx(1 - 1 / 30, rel=0.1)  # multinomial


def test_cases_of_one_site_are_drawn_together() -> None:
    site = np.array(["a", "b", "a", "c", "b"])
    counts = draw_bootstrap_counts(5, n_boot=100, rng=np.random.default_rng(1), clusters=site)
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 1] == counts[:, 4]).all()


def test_cases_without_a_site_are_a_cluster_of_their_own_and_do_not_follow_another() -> None:
    site = np.array(["a", None, "b", None], object)
    counts = draw_bootstrap_counts(4, n_boot=200, rng=np.random.default_rng(1), clusters=site)
    assert (counts[:, 1] == counts[:, 3]).all()
    assert (counts[:, 1] != counts[:, 2]).any()
    assert (counts[:, [0, 1, 2]].sum(axis=1) == 3).all()


def test_one_site_cannot_be_resampled() -> None:
    with pytest.raises(StatsError, match=r"a bootstrap over 1 cluster\(s\) has nothing to draw from"):
        draw_bootstrap_counts(5, n_boot=10, rng=np.random.default_rng(1), clusters=np.zeros(5))


def test_an_interval_with_many_undefined_resamples_is_undefined() -> None:
    samples = np.linspace(0, 1, 101)
    assert compute_percentile_interval(samples) == pytest.approx((0.025, 0.975))
    samples[:20] = np.nan
    assert np.isnan(compute_percentile_interval(samples)).all()


def test_a_permutation_never_leaves_its_site_and_mixes_inside_it() -> None:
    site = np.array(list("abcabcabca"))
    permutations = permute_within(site, n_permutations=500, rng=np.random.default_rng(1))
    assert (np.sort(permutations, axis=1) == np.arange(10)).all()
    assert (site[permutations] == site).all()
    of_first = np.bincount(permutations[:, 0], minlength=10)
    assert (of_first[site == "a"] > 80).all()  # 4 places, 125 expected each


def test_null_is_built_by_refitting_on_the_permuted_labels() -> None:
    rng = np.random.default_rng(1)
    y, seen = rng.normal(size=50), []

    def refit(labels: np.ndarray) -> np.ndarray:
        seen.append(labels)
        return labels[::-1]

    null = compute_permutation_null(
        y, groups=np.zeros(50), refit=refit, statistic=compute_spearman_columns, n_permutations=40, rng=rng
    )
    assert seen[0].shape == (50, 40)
    assert (np.sort(seen[0], axis=0) == np.sort(y)[:, None]).all()
    assert null == pytest.approx(compute_spearman_columns(seen[0], seen[0][::-1]))


def test_p_counts_the_observed_among_the_permutations_and_is_never_zero() -> None:
    null = np.arange(199) / 1000
    assert compare_with_null(0.9, null)["p"] == 1 / 200
    assert compare_with_null(0.198, null)["p"] == 2 / 200  # one permutation equals it
    with pytest.raises(StatsError, match="the permutation null holds 2 values, 1 undefined"):
        compare_with_null(0.1, np.array([0.1, np.nan]))


def test_corrected_test_of_a_hand_worked_example() -> None:
    differences = np.array([0.02, 0.04, 0.03, 0.05, 0.01])  # mean 0.03, variance 0.00025
    result = compare_repeated_folds(differences, test_to_train=0.25)
    assert result["t"] == pytest.approx(0.03 / np.sqrt((1 / 5 + 0.25) * 0.00025))
    assert result["p"] == pytest.approx(0.04742, abs=1e-4)  # two-sided, 4 degrees of freedom
    assert (result["ci_low"] < 0.03 < result["ci_high"], result["n"]) == (True, 5)


def test_correction_holds_its_level_where_a_plain_t_test_does_not() -> None:
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(7)
    plain, corrected = [], []
    for _ in range(300):
        shared = rng.normal() * np.sqrt(0.25 / 1.25)  # overlap makes folds correlate by test / (test + train)
        differences = shared + rng.normal(size=50) * np.sqrt(1 / 1.25)
        plain.append(ttest_1samp(differences, 0).pvalue < 0.05)
        corrected.append(compare_repeated_folds(differences, test_to_train=0.25)["p"] < 0.05)
    assert np.mean(plain) > 0.3
    assert np.mean(corrected) < 0.09


def test_equal_models_do_not_differ() -> None:
    assert compare_repeated_folds(np.zeros(10), test_to_train=0.25)["p"] == 1
    with pytest.raises(StatsError, match="1 fold differences, 0 undefined; at least 2"):
        compare_repeated_folds(np.zeros(1), test_to_train=0.25)
