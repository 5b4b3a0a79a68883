"""Splits: no case and no site on two sides, as balanced as whole sites allow, and the same from the same seed."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.site_programme import SiteProgramme, canonicalise
from helpers.cohort.splits import (
    check_splits,
    compute_fold_limits,
    count_partitions,
    describe_splits,
    plan_folds,
    plan_internal_test,
    plan_splits,
)
from helpers.core.errors import SplitError

TCGA_LIKE = (142, 99, 87, 68, 62, 50, 47, 43, 19, 19, 12, 9, 7, 5, 4, 2, 2, 2, 1, 1, 1, 1)


def make_cases(sizes: tuple[int, ...] = TCGA_LIKE, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    site = np.repeat([f"S{i:02d}" for i in range(len(sizes))], sizes)
    n = len(site)
    return pd.DataFrame(
        {
            "case_id": [f"{i:04d}" for i in range(n)],
            "site": site,
            "score": rng.normal(size=n),
            "grade": rng.choice(["1", "2", "3"], size=n, p=[0.2, 0.4, 0.4]),
        }
    )


@pytest.fixture(scope="module")
def many_sites() -> pd.DataFrame:
    return make_cases()


@pytest.fixture(scope="module")
def splits(many_sites: pd.DataFrame) -> pd.DataFrame:
    return plan_folds(many_sites, n_folds=5, repeats=10, seed=20261, stratify=["score", "grade"])


def test_every_case_is_tested_once_per_repeat(splits: pd.DataFrame, many_sites: pd.DataFrame) -> None:
    tested = splits[splits["role"] == "test"].groupby("repeat")["case_id"].agg(["size", "nunique"])
    assert (tested == len(many_sites)).all(axis=None)


def test_no_site_is_on_two_sides_of_a_fold(splits: pd.DataFrame, many_sites: pd.DataFrame) -> None:
    check_splits(splits, cases=many_sites, site_column="site")
    sides = splits.merge(many_sites).assign(test=lambda t: t["role"] == "test")
    assert (sides.groupby(["repeat", "fold", "site"])["test"].nunique() == 1).all()


def test_validation_cases_come_from_the_training_side_as_whole_sites(
    splits: pd.DataFrame, many_sites: pd.DataFrame
) -> None:
    inner = splits[splits["role"] != "test"].merge(many_sites)
    assert (inner.groupby(["repeat", "fold", "site"])["role"].nunique() == 1).all()
    share = inner["role"].eq("val").groupby([inner["repeat"], inner["fold"]]).mean()
    assert share.between(0.075, 0.30).all()


def test_ten_partitions_are_ten_different_partitions(splits: pd.DataFrame, many_sites: pd.DataFrame) -> None:
    tested = splits[splits["role"] == "test"].merge(many_sites).drop_duplicates(["repeat", "site"])
    plans = {canonicalise(plan.sort_values("site")["fold"].to_numpy()) for _, plan in tested.groupby("repeat")}
    assert len(plans) == 10


def test_folds_are_as_even_as_the_largest_site_allows(splits: pd.DataFrame) -> None:
    sizes = splits[splits["role"] == "test"].groupby(["repeat", "fold"]).size().unstack()
    assert (sizes.loc[0].drop(sizes.loc[0].idxmax()) - 541 / 4).abs().max() < 8  # 683 - 142 cases over the other four
    assert sizes.to_numpy().max() < 160
    assert sizes.to_numpy().min() > 115


def test_score_strata_are_balanced_over_folds(splits: pd.DataFrame, many_sites: pd.DataFrame) -> None:
    means = splits[splits["role"] == "test"].merge(many_sites).groupby(["repeat", "fold"])["score"].mean()
    assert means.abs().max() < 0.3


def test_the_same_seed_gives_the_same_plan_and_another_seed_another(many_sites: pd.DataFrame) -> None:
    plan = {seed: plan_folds(many_sites, n_folds=5, repeats=3, seed=seed) for seed in (1, 2)}
    pd.testing.assert_frame_equal(plan[1], plan_folds(many_sites, n_folds=5, repeats=3, seed=1))
    assert not plan[1].equals(plan[2])


def test_row_order_of_the_case_table_does_not_move_a_site_between_folds(many_sites: pd.DataFrame) -> None:
    shuffled = many_sites.sample(frac=1, random_state=3)
    plans = [plan_folds(table, n_folds=5, repeats=1, seed=4, val_fraction=0.0) for table in (many_sites, shuffled)]
    first, second = (plan.set_index(["fold", "case_id"])["role"].sort_index() for plan in plans)
    pd.testing.assert_series_equal(first, second)


@pytest.mark.parametrize("site_column", ["site", None])
def test_row_order_of_the_case_table_changes_no_role_at_all(site_column: str | None) -> None:
    cases = make_cases((30, 25, 20, 12, 8, 5))
    options = {"n_folds": 3, "repeats": 2, "seed": 5, "site_column": site_column, "stratify": ["score", "grade"]}
    one, two = (
        plan_splits(table, internal_test_fraction=0.2, **options)
        for table in (cases, cases.sample(frac=1, random_state=2))
    )
    keys = ["repeat", "fold", "case_id"]
    pd.testing.assert_frame_equal(
        one.sort_values(keys, ignore_index=True), two.sort_values(keys, ignore_index=True), check_dtype=False
    )


def test_programme_finds_the_optimum_that_enumeration_finds() -> None:
    rng = np.random.default_rng(8)
    sites = np.repeat(np.arange(7), [14, 9, 8, 5, 4, 3, 2])
    levels = rng.integers(0, 3, size=(len(sites), 1))
    programme = SiteProgramme(sites, levels, 3)
    best = min(
        programme.compute_imbalance(np.array(plan)) for plan in product(range(3), repeat=7) if len(set(plan)) == 3
    )
    solved = programme.solve()
    assert solved is not None
    assert programme.compute_imbalance(solved) == pytest.approx(best)


def test_four_sites_cannot_fill_five_folds_unless_fewer_are_allowed() -> None:
    cases = make_cases((30, 25, 25, 20))
    with pytest.raises(
        SplitError, match=r"4 sites cannot fill 5 folds with whole sites\. Set n_folds to 4 and n_repeats to 1"
    ):
        plan_folds(cases, n_folds=5, repeats=10, seed=1)
    splits = plan_folds(cases, n_folds=5, repeats=10, seed=1, allow_fewer=True)
    assert (splits["fold"].nunique(), splits["repeat"].nunique()) == (4, 1)
    assert compute_fold_limits(cases, n_folds=5, repeats=10) == (4, 1)


@pytest.mark.parametrize("allow_fewer", [False, True])
def test_one_site_cannot_be_cut_and_no_reduction_mends_it(allow_fewer: bool) -> None:
    with pytest.raises(SplitError, match=r"all 30 development cases are of one 'site'.* Set site_column to null"):
        plan_folds(make_cases((30,)), n_folds=5, repeats=10, seed=1, allow_fewer=allow_fewer)


def test_a_cohort_that_is_external_as_a_whole_has_no_folds() -> None:
    cases = make_cases((5, 5))
    with pytest.raises(SplitError, match="no case is left for the folds.* Name fewer external_sites"):
        plan_splits(cases, n_folds=2, repeats=1, seed=1, external_sites=sorted(cases["site"].unique()))


def test_all_partitions_of_four_sites_into_three_folds_are_found_and_a_seventh_is_an_error() -> None:
    cases = make_cases((30, 25, 25, 20))
    assert count_partitions(4, 3) == 6
    assert plan_folds(cases, n_folds=3, repeats=6, seed=1)["repeat"].nunique() == 6
    with pytest.raises(SplitError, match="4 sites can be put into 3 folds in 6 different ways, 7 were asked"):
        plan_folds(cases, n_folds=3, repeats=7, seed=1)


def test_partitions_are_counted_as_in_the_tables_of_stirling_numbers() -> None:
    assert [count_partitions(5, k) for k in range(1, 6)] == [1, 15, 25, 10, 1]


def test_without_a_site_column_cases_are_dealt_evenly_by_stratum(many_sites: pd.DataFrame) -> None:
    splits = plan_folds(many_sites, n_folds=5, repeats=2, seed=1, site_column=None, stratify=["score", "grade"])
    tested = splits[splits["role"] == "test"].merge(many_sites)
    assert tested.groupby(["repeat", "fold"]).size().between(136, 137).all()
    counts = tested.groupby(["repeat", "fold", "grade"]).size().unstack()
    assert (counts.max() - counts.min()).max() <= 4


def test_internal_test_has_the_published_share_and_the_strata_of_the_cohort(many_sites: pd.DataFrame) -> None:
    chosen = plan_internal_test(many_sites, fraction=0.174, stratify=["grade", "score"], seed=1)
    assert len(chosen) == round(0.174 * 683)
    inside = many_sites[many_sites["case_id"].isin(chosen)]
    shares = many_sites["grade"].value_counts(normalize=True) - inside["grade"].value_counts(normalize=True)
    assert shares.abs().max() < 0.02
    assert abs(inside["score"].mean() - many_sites["score"].mean()) < 0.1


def test_external_sites_are_seen_by_no_fold(many_sites: pd.DataFrame) -> None:
    splits = plan_splits(
        many_sites,
        n_folds=5,
        repeats=2,
        seed=1,
        external_sites=["S01"],
        internal_test_fraction=0.174,
        stratify=["score"],
    )
    site = many_sites.set_index("case_id")["site"]
    assert set(splits.loc[splits["case_id"].map(site) == "S01", "role"]) == {"external"}
    assert (splits["role"] == "internal_test").sum() == round(0.174 * (683 - 99))
    table = describe_splits(splits, cases=many_sites)
    assert table.loc[table["role"] == "external", "n_cases"].item() == 99


def test_a_site_asked_for_as_external_must_hold_cases(many_sites: pd.DataFrame) -> None:
    with pytest.raises(SplitError, match=r"external sites \['Z9'\] hold no case; the sites are S00, S01"):
        plan_splits(many_sites, seed=1, external_sites=["Z9"])


def test_a_planted_leak_is_caught_by_name(splits: pd.DataFrame, many_sites: pd.DataFrame) -> None:
    tested = splits[(splits["repeat"] == 0) & (splits["fold"] == 2) & (splits["role"] == "test")].iloc[0]
    leak = pd.concat([splits, pd.DataFrame([{**tested, "role": "train"}])])
    with pytest.raises(
        SplitError, match=rf"case '{tested.case_id}' is test and train in repeat 0, fold 2\. It would leak"
    ):
        check_splits(leak)


def test_a_frozen_case_in_a_fold_is_caught_by_name(splits: pd.DataFrame) -> None:
    leak = pd.concat([splits, pd.DataFrame([{"repeat": 0, "fold": -1, "case_id": "0007", "role": "external"}])])
    with pytest.raises(SplitError, match="case '0007' is 'external' and also in a fold"):
        check_splits(leak)


def test_a_site_on_both_sides_is_caught_by_name(many_sites: pd.DataFrame) -> None:
    by_case = plan_folds(many_sites, n_folds=5, repeats=1, seed=1, site_column=None)
    with pytest.raises(SplitError, match="site 'S00' both trains and tests in repeat 0, fold 0"):
        check_splits(by_case, cases=many_sites, site_column="site")


def test_a_case_never_tested_is_caught(splits: pd.DataFrame) -> None:
    changed = splits.copy()
    changed.loc[(changed["case_id"] == "0011") & (changed["repeat"] == 3), "role"] = "train"
    with pytest.raises(SplitError, match="case '0011' is tested 0 times in repeat 3, expected once"):
        check_splits(changed)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda c: c.drop(columns="site"), r"the case table lacks \['site'\]"),
        (lambda c: pd.concat([c, c.head(1)]), "case '0000' occurs more than once"),
        (lambda c: c.assign(site=c["site"].where(c["case_id"] != "0005")), "1 cases have no 'site', first '0005'"),
        (lambda c: c.drop(columns="grade"), r"the case table lacks \['grade'\]"),
    ],
)
def test_a_case_table_that_cannot_be_split_says_why(
    many_sites: pd.DataFrame, spoil: Callable[[pd.DataFrame], pd.DataFrame], text: str
) -> None:
    with pytest.raises(SplitError, match=text):
        plan_folds(spoil(many_sites), n_folds=5, repeats=1, seed=1, stratify=["grade"])
