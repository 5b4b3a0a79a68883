"""Arms compared: paired by fold, with the interval of repeated cross-validation, and told when folds do not match."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from helpers.core.errors import StatsError
from helpers.stats.arm_comparison import compare_arms, compute_drop
from helpers.stats.multiplicity import adjust_holm
from helpers.stats.resampling import compare_repeated_folds


def make_predictions(n: int = 100, repeats: int = 3, folds: int = 4, external: int = 0) -> pd.DataFrame:
    """A good arm, a poor arm and one that says the same of everyone."""
    rng = np.random.default_rng(12)
    y = rng.normal(size=n + external)
    tables = []
    for repeat in range(repeats):
        fold = np.concatenate([rng.permutation(n) % folds, np.full(external, -1)])
        for arm, noise in (("ridge", 2.0), ("better", 1.0), ("flat", None)):
            predicted = np.zeros(len(y)) if noise is None else y + noise * rng.normal(size=len(y))
            table = {"case_id": [f"{i:03d}" for i in range(len(y))], "repeat": repeat, "fold": fold, "arm": arm}
            tables.append(pd.DataFrame(table | {"y_true": y, "y_pred": predicted, "target": "prolif11"}))
    found = pd.concat(tables, ignore_index=True)
    found["split"] = np.where(found["fold"] >= 0, "development", "external")
    return found


def test_difference_is_paired_by_fold_and_corrected_for_overlap() -> None:
    predictions = make_predictions()
    table = compare_arms(predictions, reference="ridge").set_index("arm")
    paired = []
    for _, rows in predictions.groupby(["repeat", "fold"]):
        values = {
            arm: spearmanr(group["y_true"], group["y_pred"]).statistic
            for arm, group in rows.groupby("arm")
            if arm != "flat"
        }
        paired.append(values["better"] - values["ridge"])
    expected = compare_repeated_folds(np.array(paired), test_to_train=1 / 3)
    assert table.loc["better", "difference"] == pytest.approx(np.mean(paired))
    assert table.loc["better", ["ci_low", "ci_high", "p"]].tolist() == pytest.approx(
        [expected[k] for k in ("ci_low", "ci_high", "p")]
    )
    others = table.loc[["better", "flat"]]
    assert others["p_holm"].to_numpy() == pytest.approx(adjust_holm(others["p"].to_numpy(float)))
    assert table.loc["ridge", "difference"] == 0
    assert np.isnan(table.loc["ridge", "p"])
    assert (table.loc["better", "n"], table.loc["better", "n_repeats"]) == (100, 3)
    assert table.index[0] == "better"


def test_pooled_values_are_those_of_each_partition() -> None:
    predictions = make_predictions()
    mine = predictions[predictions["arm"] == "better"]
    by_repeat = [spearmanr(rows["y_true"], rows["y_pred"]).statistic for _, rows in mine.groupby("repeat")]
    row = compare_arms(predictions, reference="ridge").set_index("arm").loc["better"]
    assert row[["pooled", "pooled_low", "pooled_high"]].tolist() == pytest.approx(
        [np.mean(by_repeat), min(by_repeat), max(by_repeat)]
    )


def test_an_arm_that_says_the_same_of_everyone_ranks_nobody_and_is_counted() -> None:
    row = compare_arms(make_predictions(), reference="ridge").set_index("arm").loc["flat"]
    assert (row["pooled"], row["n_constant"]) == (0, 12)


def test_missing_folds_and_an_absent_reference_are_named() -> None:
    predictions = make_predictions()
    short = predictions[~((predictions["arm"] == "better") & (predictions["repeat"] == 2))]
    with pytest.raises(StatsError, match="arm 'better' lacks 4 of 12 folds of target 'prolif11'"):
        compare_arms(short, reference="ridge")
    with pytest.raises(StatsError, match="the reference 'lasso' has no out-of-fold predictions"):
        compare_arms(predictions, reference="lasso")


def test_a_correlation_of_exactly_0_is_no_constant_prediction() -> None:
    predictions = make_predictions(n=20, repeats=1, folds=4)
    mine = (predictions["arm"] == "better") & (predictions["fold"] == 0)
    order = np.argsort(np.argsort(predictions.loc[mine, "y_true"]))
    predictions.loc[mine, "y_pred"] = np.array([2.0, 5.0, 3.0, 1.0, 4.0])[order]
    assert spearmanr(predictions[mine]["y_true"], predictions[mine]["y_pred"]).statistic == pytest.approx(0)
    table = compare_arms(predictions, reference="ridge").set_index("arm")
    assert table["n_constant"].to_dict() == {"better": 0, "ridge": 0, "flat": 4}


def test_arms_judged_on_other_cases_are_not_paired_and_a_missing_prediction_is_named() -> None:
    predictions = make_predictions()
    fewer = predictions[~((predictions["arm"] == "better") & (predictions["case_id"] == "007"))]
    with pytest.raises(
        StatsError, match=r"arm 'better' and the reference 'ridge' .* case '007' of repeat 0.* \(3 in one"
    ):
        compare_arms(fewer, reference="ridge")
    with pytest.raises(StatsError, match="judged on other cases of target 'prolif11': a case twice"):
        compare_arms(pd.concat([predictions, predictions[predictions["arm"] == "better"].head(1)]), reference="ridge")
    holed = predictions.assign(y_pred=predictions["y_pred"].mask(predictions["case_id"] == "011"))
    with pytest.raises(
        StatsError, match=r"arm 'ridge' has no value for case '011' of target 'prolif11' \(9 such rows\)"
    ):
        compare_arms(holed, reference="ridge")


def test_drop_is_out_of_fold_minus_frozen_after_averaging_repeats() -> None:
    predictions = make_predictions(external=60)
    predictions = predictions[predictions["arm"] != "flat"]
    table = compute_drop(predictions, n_boot=200, rng=np.random.default_rng(1)).set_index("arm")
    means = predictions[predictions["arm"] == "better"].groupby(["split", "case_id"])[["y_true", "y_pred"]].mean()
    expected = {split: spearmanr(*rows.to_numpy().T).statistic for split, rows in means.groupby(level="split")}
    row = table.loc["better"]
    assert row[["oof", "value"]].tolist() == pytest.approx([expected["development"], expected["external"]])
    assert row["drop"] == pytest.approx(row["oof"] - row["value"])
    assert row["ci_low"] < row["drop"] < row["ci_high"]
    assert row["n"] == 60
    assert compute_drop(make_predictions(), n_boot=100, rng=np.random.default_rng(1)).empty
