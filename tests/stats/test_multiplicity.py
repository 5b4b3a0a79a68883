"""Holm and Benjamini–Hochberg: by the definitions, slowly, and on a table worked by hand."""

import numpy as np
import pytest

from helpers.core.errors import StatsError
from helpers.stats.multiplicity import adjust_benjamini_hochberg, adjust_holm


def holm_by_definition(p: list[float]) -> list[float]:
    """The k-th smallest p is multiplied by the number of hypotheses not yet rejected; never less than the one before."""
    return [min(1.0, max((len(p) - sum(q < r for q in p)) * r for r in p if r <= mine)) for mine in p]


def bh_by_definition(p: list[float]) -> list[float]:
    """The smallest m·r/rank(r) over all r at least as large."""
    return [min(1.0, *(len(p) * r / sum(q <= r for q in p) for r in p if r >= mine)) for mine in p]


def test_holm_of_five_p_values_worked_by_hand() -> None:
    assert adjust_holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])


def test_benjamini_hochberg_of_five_p_values_worked_by_hand() -> None:
    assert adjust_benjamini_hochberg([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.5])


@pytest.mark.parametrize("seed", range(20))
def test_both_equal_their_definitions(seed: int) -> None:
    p = np.random.default_rng(seed).beta(0.4, 1.0, size=23).tolist()
    assert adjust_holm(p) == pytest.approx(holm_by_definition(p), abs=1e-15)
    assert adjust_benjamini_hochberg(p) == pytest.approx(bh_by_definition(p), abs=1e-15)


def test_order_of_the_tests_changes_nothing() -> None:
    p = np.random.default_rng(5).random(30)
    shuffled = np.random.default_rng(6).permutation(30)
    assert adjust_holm(p[shuffled]) == pytest.approx(adjust_holm(p)[shuffled])
    assert adjust_benjamini_hochberg(p[shuffled]) == pytest.approx(adjust_benjamini_hochberg(p)[shuffled])


def test_one_test_needs_no_adjustment() -> None:
    assert adjust_holm([0.03]) == pytest.approx([0.03])
    assert adjust_benjamini_hochberg([0.03]) == pytest.approx([0.03])


def test_benjamini_hochberg_is_never_stricter_than_holm() -> None:
    p = np.random.default_rng(7).random(200) ** 3
    assert (adjust_benjamini_hochberg(p) <= adjust_holm(p) + 1e-15).all()


def test_under_the_null_holm_rejects_anything_in_about_five_percent_of_families() -> None:
    rng = np.random.default_rng(20)
    rejected = [(adjust_holm(rng.random(12)) <= 0.05).any() for _ in range(4000)]
    assert 0.04 < np.mean(rejected) < 0.06


def test_an_empty_family_stays_empty() -> None:
    assert adjust_holm([]).size == 0
    assert adjust_benjamini_hochberg([]).size == 0


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.2])
def test_a_p_value_that_is_no_probability_is_named(bad: float) -> None:
    with pytest.raises(StatsError, match=r"1 of 3 p-values .* are missing or outside \[0, 1\]: \[1\]"):
        adjust_holm([0.1, bad, 0.2])
