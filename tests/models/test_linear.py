"""Ridge: equal to the formula, blind to test cases, learning what is there and nothing where there is nothing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.splits import plan_folds, plan_splits
from helpers.core.errors import ModelError
from helpers.models.linear import (
    RidgeFolds,
    compute_ridge_path,
    describe_penalties,
    fit_ridge,
    plan_inner_folds,
    predict_by_ensemble,
    predict_study,
    predict_tile_scores,
)
from helpers.models.pooling import pool_tiles
from helpers.stats.correlation import compute_spearman_columns
from helpers.stats.resampling import compute_permutation_null

PAM_PROLIF11 = ["BIRC5", "CCNB1", "CDC20", "NUF2", "CEP55", "NDC80", "MKI67", "PTTG1", "RRM2", "TYMS", "UBE2C"]


def make_cohort(
    n: int = 120, d: int = 8, sites: int = 8, seed: int = 31
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A separable toy cohort: two features carry the target, the rest is noise."""
    rng = np.random.default_rng(seed)
    index = pd.Index([f"{i:03d}" for i in range(n)], name="case_id")
    features = pd.DataFrame(rng.normal(size=(n, d)) * 5 + 100, index=index)
    score = (features[0] - features[1]) / 7 + 0.5 * rng.normal(size=n)
    targets = pd.DataFrame({"prolif11": score, "noise": rng.normal(size=n)}, index=index)
    cases = pd.DataFrame({"case_id": index, "site": [f"S{i % sites}" for i in range(n)], "score": score.to_numpy()})
    return features, targets, cases


def solve_plainly(x: np.ndarray, y: np.ndarray, alpha: float, new: np.ndarray) -> np.ndarray:
    """Ridge by its normal equations, on features standardised with the training mean and SD."""
    mean, sd = x.mean(0), x.std(0)
    z = (x - mean) / sd
    weights = np.linalg.solve(z.T @ z + alpha * np.eye(z.shape[1]), z.T @ (y - y.mean(0)))
    return (new - mean) / sd @ weights + y.mean(0)


@pytest.mark.parametrize("d", [5, 200], ids=["more cases than features", "more features than cases"])
def test_prediction_equals_the_normal_equations(d: int) -> None:
    rng = np.random.default_rng(1)
    x, y, new = rng.normal(size=(60, d)), rng.normal(size=(60, 3)), rng.normal(size=(7, d))
    model = fit_ridge(x, y, alphas=np.array([30.0]))
    assert model.predict(new) == pytest.approx(solve_plainly(x, y, 30.0, new), abs=1e-10)


def test_penalty_is_the_one_with_the_least_error_over_whole_sites_left_out() -> None:
    rng = np.random.default_rng(2)
    x, site, alphas = rng.normal(size=(60, 10)), np.arange(60) % 4, np.array([0.1, 10.0, 1000.0])
    y = x[:, :1] + rng.normal(size=(60, 2))
    errors = np.zeros((3, 2))
    for name in range(4):
        out = site == name
        for i, alpha in enumerate(alphas):
            errors[i] += ((solve_plainly(x[~out], y[~out], alpha, x[out]) - y[out]) ** 2).sum(0)
    assert fit_ridge(x, y, groups=site, alphas=alphas).alphas.tolist() == alphas[errors.argmin(0)].tolist()


def test_inner_folds_keep_sites_whole_and_a_single_site_is_split_by_case() -> None:
    site = np.repeat(list("abcdefg"), [20, 9, 8, 7, 3, 2, 1])
    folds = plan_inner_folds(50, groups=site)
    assert pd.Series(folds).groupby(site).nunique().max() == 1
    assert len(np.unique(folds)) == 5
    assert np.bincount(plan_inner_folds(50, groups=np.zeros(50))).tolist() == [10] * 5


def test_test_cases_change_nothing_in_the_fit() -> None:
    features, targets, cases = make_cohort()
    splits = plan_splits(cases, n_folds=4, repeats=1, seed=1)
    first = RidgeFolds(features, splits)
    spoiled = features.copy()
    spoiled.iloc[first.test[2]] = 1e6  # the test cases of fold 2 turn absurd
    second = RidgeFolds(spoiled, splits)
    labels = targets.loc[first.cases].to_numpy()
    models = [folds.fit(labels)[2] for folds in (first, second)]
    labels_spoiled = labels.copy()
    labels_spoiled[first.test[2]] = -50
    models.append(first.fit(labels_spoiled)[2])
    for model in models[1:]:
        assert np.array_equal(model.coefficients, models[0].coefficients)
        assert np.array_equal(model.mean, models[0].mean)


def test_a_case_is_predicted_by_the_fold_that_did_not_see_it_and_frozen_cases_by_all_folds() -> None:
    features, targets, cases = make_cohort()
    splits = plan_splits(cases, n_folds=4, repeats=2, seed=1, external_sites=["S0"], internal_test_fraction=0.2)
    predictions, models = predict_study(features, lambda _: targets, splits, arm="ridge")
    rows = predictions[(predictions["target"] == "prolif11") & (predictions["repeat"] == 1)]
    tested = splits[(splits["repeat"] == 1) & (splits["role"] == "test")].set_index("case_id")["fold"]
    held_out = rows[rows["split"] == "development"].set_index("case_id")
    assert held_out["fold"].sort_index().tolist() == tested.sort_index().tolist()
    case = held_out.index[5]
    alone = models[1][held_out.loc[case, "fold"]].predict(features.loc[[case]].to_numpy())[0, 0]
    assert held_out.loc[case, "y_pred"] == pytest.approx(alone)
    external = rows[rows["split"] == "external"].set_index("case_id")
    assert (external["fold"] == -1).all()
    averaged = np.mean([m.predict(features.loc[external.index].to_numpy()) for m in models[1]], axis=0)[:, 0]
    assert external["y_pred"].to_numpy() == pytest.approx(averaged)
    assert set(rows["split"]) == {"development", "internal_test", "external"}


def test_score_constants_come_from_the_training_cases_of_each_fold() -> None:
    features, targets, cases = make_cohort()
    splits = plan_splits(cases, n_folds=4, repeats=1, seed=1, external_sites=["S0"])
    asked = []

    def measure(training: pd.Index) -> pd.DataFrame:
        asked.append(set(training))
        return targets - targets.loc[training].mean()

    predictions, _ = predict_study(features, measure, splits, arm="ridge")
    for fold, training in enumerate(asked[:4]):
        tested = set(predictions.loc[predictions["fold"] == fold, "case_id"])
        assert not tested & training
    assert not asked[4] & set(splits.loc[splits["role"] == "external", "case_id"])


def test_the_toy_cohort_is_learnt_and_shuffled_labels_are_not() -> None:
    features, targets, cases = make_cohort()
    splits = plan_splits(cases, n_folds=4, repeats=1, seed=1)
    folds = RidgeFolds(features, splits, groups=cases.set_index("case_id")["site"])
    labels = targets.loc[folds.cases].to_numpy()
    observed = compute_spearman_columns(labels, folds.refit(labels))
    null = compute_permutation_null(
        labels[:, 0], groups=np.zeros(len(labels)), refit=folds.refit, statistic=compute_spearman_columns,
        n_permutations=200, rng=np.random.default_rng(1),
    )  # fmt: skip
    assert observed[0] > 0.75 > np.quantile(null, 0.99)
    assert observed[1] < np.quantile(null, 0.99)


def test_the_pooled_null_is_negative_because_a_held_out_fold_pulls_its_own_training_mean_away() -> None:
    rng = np.random.default_rng(9)
    index = pd.Index([f"{i:03d}" for i in range(60)], name="case_id")
    cases = pd.DataFrame({"case_id": index, "site": "S"})
    folds = RidgeFolds(
        pd.DataFrame(rng.normal(size=(60, 3)), index=index),
        plan_splits(cases, n_folds=5, repeats=1, seed=1, site_column=None),
    )
    labels = rng.normal(size=(60, 400))
    assert compute_spearman_columns(labels, folds.refit(labels)).mean() < -0.05


def test_permuted_labels_refitted_together_equal_each_refitted_alone() -> None:
    features, targets, cases = make_cohort()
    folds = RidgeFolds(features, plan_splits(cases, n_folds=4, repeats=1, seed=1))
    labels = np.random.default_rng(1).permuted(np.tile(targets.loc[folds.cases, ["prolif11"]].to_numpy(), 6), axis=0)
    together = folds.refit(labels)
    alone = np.column_stack([folds.refit(labels[:, [i]])[:, 0] for i in range(6)])
    assert together == pytest.approx(alone)


def test_a_case_score_is_the_mean_of_its_tile_scores() -> None:
    rng = np.random.default_rng(1)
    models = [fit_ridge(rng.normal(size=(30, 4)), rng.normal(size=(30, 2))) for _ in range(3)]
    bag = rng.normal(size=(25, 4))
    case = predict_by_ensemble(models, pool_tiles(bag)[None])[0, 1]
    assert predict_tile_scores(models, bag, target=1).mean() == pytest.approx(case)


def test_a_missing_feature_counts_as_the_training_mean_and_a_constant_one_weighs_nothing() -> None:
    rng = np.random.default_rng(1)
    x = np.column_stack([rng.normal(size=40), np.full(40, 7.0)])
    y = x[:, :1] + 0.1 * rng.normal(size=(40, 1))
    holed = x.copy()
    holed[3, 0] = np.nan
    model = fit_ridge(holed, y, alphas=np.array([1.0]))
    assert model.coefficients[1, 0] == 0
    assert model.predict(np.array([[np.nan, 900.0]]))[0, 0] == pytest.approx(y.mean())


def test_misuse_says_what_was_found() -> None:
    x, y = np.random.default_rng(1).normal(size=(20, 4)), np.arange(20.0)[:, None]
    with pytest.raises(ModelError, match=r"features of shape \(2, 8\) were given to a model of 4 features"):
        fit_ridge(x, y).predict(np.ones((2, 8)))
    with pytest.raises(ModelError, match="1 training labels are missing or infinite"):
        fit_ridge(x, np.where(y == 3, np.nan, y))
    with pytest.raises(ModelError, match="2 training cases are too few to fit"):
        fit_ridge(x[:2], y[:2])
    with pytest.raises(ModelError, match="none of 4 features has a value in any of the 20 training cases"):
        compute_ridge_path(np.full((20, 4), np.nan))


def test_penalties_at_an_end_of_the_grid_are_told() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 3))
    labels = np.column_stack([x[:, 0] + 1e-3 * rng.normal(size=200), rng.normal(size=200)])
    chosen = fit_ridge(x, labels, alphas=10.0 ** np.arange(0, 6)).alphas
    said = describe_penalties(chosen, alphas=10.0 ** np.arange(0, 6))
    assert said == "penalties of 2 fits: median 5e+04; 1 at the weak and 1 at the strong end of the grid"


def test_a_site_that_holds_almost_everybody_is_split_by_case_instead_of_stopping_the_fit() -> None:
    rng = np.random.default_rng(5)
    x, site = rng.normal(size=(32, 4)), np.array(["A"] * 30 + ["C"] * 2)
    model = fit_ridge(x, x[:, :1] + 0.1 * rng.normal(size=(32, 1)), groups=site)
    assert np.corrcoef(model.predict(x)[:, 0], x[:, 0])[0, 1] > 0.95
    assert (plan_inner_folds(32, groups=site) == plan_inner_folds(32)).all()
    kept = plan_inner_folds(33, groups=np.array(["A"] * 30 + ["C"] * 3))
    assert len(set(kept[:30])) == 1, "three cases are enough to fit on"


def test_a_column_that_no_training_site_states_has_no_say_and_stops_nobody() -> None:
    rng = np.random.default_rng(3)
    site = np.repeat(list("ABC"), 20)
    x = pd.DataFrame(rng.normal(size=(60, 3)), index=pd.Index([f"{i:02d}" for i in range(60)], name="case_id"))
    y = pd.DataFrame({"t": x[0] + 0.2 * rng.normal(size=60)})
    cases = pd.DataFrame({"case_id": x.index, "site": site})
    x.loc[site != "A", 2] = np.nan  # one hospital alone states it
    splits = plan_folds(cases, n_folds=3, repeats=1, seed=1)
    groups = cases.set_index("case_id")["site"]
    found, models = predict_study(x, lambda _: y, splits, arm="clinical_only", groups=groups)
    assert found["y_pred"].notna().all()
    without = [model.coefficients[2, 0] == 0 for model in models[0]]
    assert sum(without) == 1, "the fold that is trained on B and C alone"
    plain, _ = predict_study(x[[0, 1]], lambda _: y, splits, arm="clinical_only", groups=groups)
    mine = found["case_id"].isin(x.index[site == "A"])
    assert found.loc[mine, "y_pred"].to_numpy() == pytest.approx(plain.loc[mine, "y_pred"].to_numpy())


@pytest.mark.parametrize(("target", "floor"), [("prolif11", 0.63), ("MKI67", 0.48)])
def test_real_breast_cancers_are_predicted_across_sites(shared_data: Path, target: str, floor: float) -> None:
    features, targets, cases = read_tcga(shared_data)
    splits = plan_splits(cases, n_folds=5, repeats=3, seed=20261, stratify=["score"])
    predictions, _ = predict_study(
        features, lambda _: targets, splits, arm="ridge", groups=cases.set_index("case_id")["site"]
    )
    rows = predictions[predictions["target"] == target]
    found = rows.groupby("repeat")[["y_true", "y_pred"]].apply(lambda g: g["y_true"].corr(g["y_pred"], "spearman"))
    assert len(cases) == 683
    assert found.min() > floor


def read_tcga(shared_data: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    import torch

    folder = shared_data / "tcga_brca"
    expression = pd.read_csv(folder / "expression_pam50_rsem.csv", index_col=0)
    bags: dict[str, list[np.ndarray]] = {}
    for path in sorted((folder / "features_hipt" / "pt_files").glob("*.pt")):
        bags.setdefault(path.name[:12], []).append(torch.load(path, weights_only=True).numpy())
    ids = sorted(set(bags) & set(expression.index))
    features = pd.DataFrame([pool_tiles(np.concatenate(bags[i])) for i in ids], index=pd.Index(ids, name="case_id"))
    logged = np.log2(expression.loc[ids] + 1)
    targets = pd.DataFrame({"prolif11": logged[PAM_PROLIF11].mean(axis=1), "MKI67": logged["MKI67"]})
    cases = pd.DataFrame({"case_id": ids, "site": [i[5:7] for i in ids], "score": targets["prolif11"].to_numpy()})
    return features, targets, cases
