"""A study of arms: no test case in a fit, the same numbers on any number of threads, one fit per recipe."""

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.splits import plan_splits
from helpers.core.errors import ModelError
from helpers.models.arms import EnsembleArm, list_arms
from helpers.models.bags import collect_bags
from helpers.models.linear import predict_study
from helpers.models.study import ArmFolds, Study, list_recipes, predict_arms

ARMS = ["ridge", "pls", "ridge_fourier", "ensemble"]


def make_study(seed: int = 21) -> tuple[Study, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    cases = pd.Index([f"{i:03d}" for i in range(80)], name="case_id")
    level = rng.normal(size=80)
    bags = [rng.normal(size=(rng.integers(2, 9), 4)) + np.array([value, 0, 0, 0]) for value in level]
    targets = pd.DataFrame({"prolif11": level + 0.4 * rng.normal(size=80), "MKI67": rng.normal(size=80)}, index=cases)
    site = pd.Series(np.array(list("ABCDEFGX"))[np.arange(80) % 8], index=cases)
    table = pd.DataFrame({"case_id": cases, "site": site.to_numpy()})
    splits = plan_splits(table, n_folds=3, repeats=2, seed=1, external_sites=["X"])
    return Study(collect_bags(bags), cases, splits, site, 7), targets


def test_every_case_is_predicted_once_per_repeat_and_arm_and_frozen_ones_by_the_mean_of_folds() -> None:
    study, targets = make_study()
    predictions, fits = predict_arms(study, lambda _: targets, ARMS)
    counts = predictions.groupby(["arm", "target", "repeat", "split"]).size().unstack()
    assert (counts["development"] == 70).all()
    assert (counts["external"] == 10).all()
    assert not predictions.duplicated(["arm", "target", "repeat", "case_id"]).any()
    outside = study.bags.take(study.cases.get_indexer(study.frozen["case_id"]))
    expected = np.mean([fit.predict(outside) for fit in fits[1]["pls"]], axis=0)
    rows = predictions.query("arm == 'pls' and repeat == 1 and split == 'external' and target == 'MKI67'")
    assert rows["y_pred"].to_numpy() == pytest.approx(expected[:, 1])
    assert (rows["fold"] == -1).all()


def test_labels_of_test_and_frozen_cases_change_no_prediction() -> None:
    study, targets = make_study()
    honest, _ = predict_arms(study, lambda _: targets, ARMS, repeats=[0])
    _, test = study.locate(0, 1)
    spoilt = targets.copy()
    spoilt.iloc[test] = 1e3
    spoilt.loc[study.frozen["case_id"]] = -1e3
    again, _ = predict_arms(study, lambda _: spoilt, ARMS, repeats=[0])
    mine = honest["fold"] == 1
    assert again.loc[mine, "y_pred"].to_numpy() == pytest.approx(honest.loc[mine, "y_pred"].to_numpy())
    assert not np.allclose(again.loc[honest["fold"] == 0, "y_pred"], honest.loc[honest["fold"] == 0, "y_pred"])


def test_a_fold_whose_test_cases_all_lack_a_bag_is_left_out() -> None:
    study, targets = make_study()
    _, gone = study.locate(0, 1)
    kept = np.setdiff1d(np.arange(len(study.cases)), gone)
    fewer = Study(study.bags.take(kept), study.cases[kept], study.splits, study.groups, study.seed)
    assert fewer.list_folds([0]) == [(0, 0), (0, 2)]
    predictions, fits = predict_arms(fewer, lambda _: targets, ARMS, repeats=[0])
    assert set(predictions.query("split == 'development'")["case_id"]) == set(fewer.cases) - set(
        fewer.frozen["case_id"]
    )
    assert [len(fits[0][name]) for name in ARMS] == [2] * 4
    x = pd.DataFrame(fewer.bags.pool("mean"), index=fewer.cases)
    plain, _ = predict_study(x, lambda _: targets, study.splits, arm="ridge", groups=study.groups, repeats=[0])
    both = predictions.query("arm == 'ridge'").merge(plain, on=["case_id", "target", "split", "fold"])
    assert len(both) == len(plain)
    assert both["y_pred_x"].to_numpy() == pytest.approx(both["y_pred_y"].to_numpy())
    labels = targets.loc[ArmFolds(fewer, "ridge_fourier").cases].to_numpy()
    assert np.isfinite(ArmFolds(fewer, "ridge_fourier").refit(labels)).all()


def test_threads_change_no_number() -> None:
    study, targets = make_study()
    one, two = (
        predict_arms(study, lambda _: targets, ["attention_mil", "ensemble"], repeats=[0], workers=n)[0] for n in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two)


def test_the_plain_ridge_gives_the_numbers_of_the_older_route() -> None:
    study, targets = make_study()
    new, _ = predict_arms(study, lambda _: targets, ["ridge"])
    features = pd.DataFrame(study.bags.pool("mean"), index=study.cases)
    old, _ = predict_study(features, lambda _: targets, study.splits, arm="ridge", groups=study.groups)
    keys = ["repeat", "split", "target", "case_id"]
    pd.testing.assert_frame_equal(
        new.sort_values(keys, ignore_index=True), old.sort_values(keys, ignore_index=True), check_exact=False, rtol=1e-6
    )


@pytest.mark.parametrize("arm", ["ridge", "ensemble", "mean_mil", "ensemble_all"])
def test_refitting_the_true_labels_gives_the_reported_predictions(arm: str) -> None:
    study, targets = make_study()
    predictions, _ = predict_arms(study, lambda _: targets, [arm], repeats=[0])
    folds = ArmFolds(study, arm, workers=2)
    mine = predictions[predictions["target"] == "prolif11"].set_index("case_id")["y_pred"]
    refitted = folds.refit(targets.loc[folds.cases].to_numpy())[:, 0]
    assert refitted == pytest.approx(mine.loc[folds.cases].to_numpy())
    models = folds.fit(targets.loc[folds.cases].to_numpy())
    outside = pd.Index(study.frozen["case_id"])
    assert folds.predict_outside(models, outside)[:, 0] == pytest.approx(mine.loc[outside].to_numpy())


def test_what_is_trained_anew_for_each_label_says_what_a_null_will_take() -> None:
    study, targets = make_study()
    labels = targets.to_numpy()
    assert ArmFolds(study, "ridge").describe_cost(labels, n_refits=99) == "99 refits share their factorisation"
    slow = ArmFolds(study, "svr_linear")
    said = slow.describe_cost(targets.loc[slow.cases].to_numpy(), n_refits=99)
    assert said.startswith("99 refits train svr_linear anew, about ")


def test_members_are_fitted_once() -> None:
    recipes = list_recipes(["pls", "ensemble", "average"])
    assert sorted(recipes) == sorted(set(recipes))
    assert set(recipes) == set(list_arms()["ensemble"].members)
    assert not any(isinstance(list_arms()[name], EnsembleArm) for name in recipes)


def test_what_cannot_be_done_says_so() -> None:
    study, targets = make_study()
    with pytest.raises(ModelError, match="arm 'lasso' does not exist; there are ridge, "):
        predict_arms(study, lambda _: targets, ["lasso"])
    with pytest.raises(ModelError, match="arm 'pls' is named twice"):
        predict_arms(study, lambda _: targets, ["pls", "pls"])
