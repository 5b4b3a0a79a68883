"""The confounding panel tells a label in disguise from what the image itself knows."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.models.linear import RidgeFolds
from helpers.stats.confounding import (
    choose_label_folds,
    compute_confounding_panel,
    compute_within_strata,
    list_labels,
    predict_by_label,
)


def make_study(*, knows_more: bool) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series, RidgeFolds]:
    """300 cases of three subtypes; the features show the subtype, and, if asked, something of the case itself."""
    rng = np.random.default_rng(21)
    n = 300
    index = pd.Index([f"{i:03d}" for i in range(n)], name="case_id")
    subtype, site = rng.integers(0, 3, n), np.arange(n) % 6
    own = rng.normal(size=n)
    y = 1.5 * subtype + own
    features = rng.normal(size=(n, 6))
    features[:, 0] += 3 * subtype
    if knows_more:
        features[:, 1] += 2 * own
    splits = pd.DataFrame(
        [(0, fold, case, "test" if site[i] == fold else "train") for fold in range(6) for i, case in enumerate(index)],
        columns=["repeat", "fold", "case_id", "role"],
    )
    folds = RidgeFolds(pd.DataFrame(features, index=index), splits)
    table = pd.DataFrame({"case_id": index, "fold": site, "y_true": y, "y_pred": folds.refit(y[:, None])[:, 0]})
    labels = pd.DataFrame({"subtype": np.array(["A", "B", "C"])[subtype], "site": site.astype(str)}, index=index)
    return table, labels, labels["site"], folds


def pick(panel: pd.DataFrame, label: str, kind: str) -> pd.Series:
    return panel[(panel["label"] == label) & (panel["kind"] == kind)].iloc[0]


@pytest.fixture(scope="module")
def panels() -> dict[bool, pd.DataFrame]:
    made = {}
    for knows_more in (False, True):
        table, labels, site, folds = make_study(knows_more=knows_more)
        made[knows_more] = compute_confounding_panel(
            table, labels, site=site, refit=folds.refit, n_boot=200, n_permutations=200, rng=np.random.default_rng(1)
        )
    return made


def test_an_image_that_only_shows_the_subtype_has_nothing_left_inside_it(panels: dict[bool, pd.DataFrame]) -> None:
    panel = panels[False]
    assert pick(panel, "all cases", "image")["value"] > 0.5
    assert pick(panel, "subtype", "label_only")["value"] > pick(panel, "all cases", "image")["value"] - 0.1
    assert abs(pick(panel, "subtype", "within_label")["value"]) < 0.15
    assert pick(panel, "subtype", "within_label")["p"] > 0.05


def test_an_image_that_knows_the_case_has_something_left_inside_the_subtype(panels: dict[bool, pd.DataFrame]) -> None:
    row = pick(panels[True], "subtype", "within_label")
    assert row["value"] > 0.7
    assert row["p"] == 1 / 201
    assert row["null_q95"] < 0.3


def test_every_stratum_is_listed_with_its_cases(panels: dict[bool, pd.DataFrame]) -> None:
    strata = panels[True].query("label == 'subtype' and kind == 'within_stratum'")
    assert list(strata["stratum"]) == ["A", "B", "C"]
    assert strata["n"].sum() == 300
    assert (strata["ci_low"] < strata["value"]).all()


def test_a_label_that_never_crosses_folds_is_judged_on_case_level_folds(panels: dict[bool, pd.DataFrame]) -> None:
    assert pick(panels[True], "site", "label_only")["folds"] == "case-level"
    assert pick(panels[True], "subtype", "label_only")["folds"] == "given"
    codes, folds = np.array(["a", "a", "b", "b"]), np.array([0, 1, 0, 1])
    assert choose_label_folds(codes, folds, rng=np.random.default_rng(0)) is folds


def test_label_only_prediction_is_the_mean_of_the_other_folds() -> None:
    y = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 9.0])
    codes = np.array(["a", "a", "b", "b", "a", "c"])
    folds = np.array([0, 1, 1, 1, 1, 0])
    predicted = predict_by_label(y, codes, folds)
    assert predicted[0] == (2 + 5) / 2  # the other a's, none of its own fold
    assert predicted[5] == y[folds == 1].mean()  # no training case is c
    assert predicted[1] == 1


def test_strata_are_weighted_by_their_cases_and_small_ones_left_out() -> None:
    y = np.arange(30.0)[:, None]
    codes = np.repeat(["a", "b", "small"], [16, 8, 6])
    predicted = np.where(codes[:, None] == "b", -y, y)
    assert compute_within_strata(y, predicted, codes, min_cases=8)[0] == pytest.approx((16 - 8) / 24)
    assert np.isnan(compute_within_strata(y, predicted, codes, min_cases=20)[0])


def test_missing_labels_form_no_stratum() -> None:
    table, labels, _, _ = make_study(knows_more=True)
    holes = labels.assign(subtype=labels["subtype"].where(np.arange(300) % 4 > 0))
    panel = compute_confounding_panel(table, holes[["subtype"]], n_boot=0, rng=np.random.default_rng(1))
    assert set(panel.query("kind == 'within_stratum'")["stratum"]) == {"A", "B", "C"}
    assert pick(panel, "subtype", "within_label")["n"] == 225
    assert pick(panel, "subtype", "label_only")["n"] == 300


def test_only_columns_that_vary_are_labels() -> None:
    cases = pd.DataFrame({"er": ["positive", "negative"], "sex": ["female", "female"], "stage": [None, "I"]})
    assert list_labels(cases, ["er", "sex", "stage", "grade"]) == ["er"]


def test_a_case_given_twice_or_unlabelled_is_named() -> None:
    table, labels, _, _ = make_study(knows_more=True)
    with pytest.raises(StatsError, match="case '000' is predicted more than once"):
        compute_confounding_panel(pd.concat([table, table.head(1)]), labels, rng=np.random.default_rng(1))
    with pytest.raises(StatsError, match="the labels lack 1 of the predicted cases, first '000'"):
        compute_confounding_panel(table, labels.drop("000"), rng=np.random.default_rng(1))
