"""Controls know only what they are allowed to know."""

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.splits import plan_splits
from helpers.core.errors import ModelError
from helpers.models.controls import compute_study_nulls, encode_clinical, permute_features, summarise_nulls
from helpers.models.linear import RidgeFolds

CASES = pd.DataFrame(
    {
        "case_id": ["a", "b", "c", "d"],
        "age_years": [50.0, 60.0, np.nan, 70.0],
        "stage": ["IIA", "IIIC", None, "I"],
        "nodes_positive": pd.array([0, 3, None, 1], dtype="Int64"),
        "er": ["positive", "negative", "positive", None],
        "sex": ["female"] * 4,
    }
)


def test_clinical_columns_become_numbers_and_missing_ones_are_flagged() -> None:
    encoded = encode_clinical(CASES, ["age_years", "stage", "nodes_positive", "er", "sex", "grade"])
    assert encoded.loc["a", "age_years"] == 50
    assert encoded["stage"].tolist()[:2] == [2, 3]
    assert np.isnan(encoded.loc["c", "stage"])
    assert encoded["age_years_missing"].tolist() == [0, 0, 1, 0]
    assert encoded.loc["b", "nodes_positive"] == pytest.approx(np.log1p(3))
    assert encoded["er negative"].tolist() == [0, 1, 0, 0]
    assert not [name for name in encoded if name.startswith(("sex", "grade"))]


def test_clinical_columns_that_do_not_vary_are_no_control() -> None:
    with pytest.raises(ModelError, match="none of the clinical columns sex, grade exists and varies"):
        encode_clinical(CASES, ["sex", "grade"])


def test_exchanged_features_stay_in_their_site_and_whole() -> None:
    index = pd.Index([f"{i:02d}" for i in range(30)], name="case_id")
    site = pd.Series(np.arange(30) % 3, index=index)
    features = pd.DataFrame(
        {"own": np.arange(30.0), "site": site.to_numpy(float), "twice": 2 * np.arange(30.0)}, index=index
    )
    exchanged = permute_features(features, site, rng=np.random.default_rng(1))
    assert (exchanged["site"] == features["site"]).all()
    assert (exchanged["twice"] == 2 * exchanged["own"]).all()
    assert sorted(exchanged["own"]) == sorted(features["own"])
    assert (exchanged["own"] != features["own"]).mean() > 0.7


def make_study() -> tuple[pd.DataFrame, pd.Series, pd.Series, pd.Series, RidgeFolds]:
    rng = np.random.default_rng(41)
    index = pd.Index([f"{i:03d}" for i in range(160)], name="case_id")
    features = pd.DataFrame(rng.normal(size=(160, 5)), index=index)
    target = pd.Series(features[0] + 0.3 * rng.normal(size=160), index=index)
    site = pd.Series(np.array(["A", "B", "C", "X"])[np.arange(160) % 4], index=index)
    cases = pd.DataFrame({"case_id": index, "site": site.to_numpy()})
    splits = plan_splits(cases, n_folds=3, repeats=1, seed=1, external_sites=["X"])
    split = site.map(lambda name: "external" if name == "X" else "development")
    return features, target, site, split, RidgeFolds(features, splits, groups=site)


def test_nulls_of_a_study_lie_below_what_is_there_on_every_split() -> None:
    _, target, site, split, folds = make_study()
    nulls = compute_study_nulls(
        folds, target, split=split, groups=site, n_permutations=199, rng=np.random.default_rng(1)
    )
    assert {name: len(values) for name, values in nulls.items()} == {"development": 199, "external": 199}
    assert all(np.quantile(values, 0.99) < 0.6 for values in nulls.values())
    assert abs(nulls["external"].mean()) < 0.05  # one model, one level: centred on 0
    assert nulls["development"].mean() < 0.02


def test_observed_values_are_placed_in_their_own_null() -> None:
    nulls = {
        ("prolif11", "development"): np.linspace(-0.2, 0.2, 99),
        ("prolif11", "external"): np.linspace(-0.4, 0.4, 99),
    }
    observed = pd.DataFrame(
        {"target": "prolif11", "split": ["external", "development"], "value": [0.1, 0.5], "n": [50, 100]}
    )
    table = summarise_nulls(nulls, observed).set_index("split")
    assert table.loc["development", ["observed", "n", "p"]].tolist() == [0.5, 100, 0.01]
    assert table.loc["external", "p"] > 0.3
