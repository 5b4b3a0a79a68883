"""Fusion that uses both: no test case in a fit, missing modalities, planted signal found, controls that fall back."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from helpers.cohort.gene_groups import match_groups, read_gmt
from helpers.cohort.genes import widen_expression
from helpers.cohort.splits import plan_splits
from helpers.core.errors import ModelError
from helpers.core.specs import PhantomSpec
from helpers.models.bags import collect_bags
from helpers.models.fusion import FusionInputs, FusionRecipe, lay_out_genes, train_network
from helpers.models.fusion_ablations import (
    collect_attention,
    limit_tiles,
    list_panels,
    pick_tiles,
    predict_panels,
    predict_tile_counts,
)
from helpers.models.fusion_study import (
    FUSION_ARMS,
    FusionStudy,
    find_exchange,
    list_fusion_arms,
    make_study,
    predict_fusion,
)
from helpers.models.logistic import fit_crossed, fit_path, fit_stack, plan_inner_classes, weigh_classes
from helpers.phantom.planted_labels import plant_label
from helpers.phantom.truth import plan_cohort
from helpers.stats.classification import compare_classifiers
from tests.phantom.simulated_bags import simulate_bags

QUICK = FusionRecipe(max_epochs=4, dim=8, n_components=6, n_inner=3)
ARMS = ["image_linear", "genes_linear", "late_fusion", "cross_attention"]


def draw_study(
    kind: str = "both", *, n: int = 90, external: int = 30, seed: int = 5, recipe: FusionRecipe = QUICK
) -> FusionStudy:
    """A phantom's tables, with simulated tile features and a planted label."""
    truth = plan_cohort(PhantomSpec(n_cases=n, n_external=external, seed=seed, render=False, n_null_genes=5))
    expression = widen_expression(truth.expression)
    groups = {"HER2": ["ERBB2", "GRB7"], "PROLIFERATION": ["MKI67", "BIRC5", "TYMS"], "LUMINAL": ["ESR1", "PGR"]}
    splits = plan_splits(truth.cases, n_folds=3, repeats=2, seed=1, external_sites=["X"])
    bags = collect_bags(simulate_bags(truth.cases_truth, seed=seed, n_tiles=10, n_features=10))
    owners, site = pd.Index(truth.cases["case_id"]), truth.cases.set_index("case_id")["site"]
    labels = plant_label(truth.cases_truth, kind=kind, seed=seed)
    return make_study(
        bags, owners, expression, labels, groups=groups, splits=splits, site=site, seed=seed, target=kind, recipe=recipe
    )


@pytest.fixture(scope="module")
def study() -> FusionStudy:
    return draw_study()


@pytest.fixture(scope="module")
def predicted(study):
    return predict_fusion(study, [*FUSION_ARMS], repeats=[0])


def test_every_case_is_predicted_once_per_arm_and_repeat_and_by_no_model_that_saw_it(study) -> None:
    predictions, _ = predict_fusion(study, ARMS)
    assert not predictions.duplicated(["arm", "repeat", "case_id"]).any()
    assert (predictions.groupby(["arm", "repeat"]).size() == 120).all()
    held_out = predictions[predictions["split"] == "development"].merge(study.splits, on=["repeat", "fold", "case_id"])
    assert held_out["role"].eq("test").all()
    assert set(predictions["arm"]) == {*ARMS, "cross_attention_without_images", "cross_attention_without_genes"}
    assert predictions["y_pred"].between(0, 1).all()


def test_nothing_about_the_judged_fold_is_an_argument_of_the_fit(study) -> None:
    honest, _ = predict_fusion(study, ["cross_attention"], repeats=[0])
    _, test = study.locate(0, 1)
    labels = study.labels.copy()
    labels.iloc[test] = 1 - labels.iloc[test]
    spoilt, _ = predict_fusion(replace(study, labels=labels), ["cross_attention"], repeats=[0])
    mine = honest["fold"] == 1
    assert (spoilt.loc[mine, ["y_pred", "threshold"]] == honest.loc[mine, ["y_pred", "threshold"]]).all(axis=None)
    others = (honest["fold"] == 0) & (honest["arm"] == "cross_attention")
    assert not np.allclose(spoilt.loc[others, "y_pred"], honest.loc[others, "y_pred"])
    genes = study.inputs.genes.copy()
    genes[test] += 100.0
    shifted, _ = predict_fusion(
        replace(study, inputs=FusionInputs(study.inputs.bags, genes)), ["cross_attention"], repeats=[0]
    )
    assert shifted.loc[mine, "threshold"].tolist() == honest.loc[mine, "threshold"].tolist(), (
        "scaling is the training part's"
    )


def test_threads_and_the_global_seed_change_no_number(study) -> None:
    import torch

    tables = []
    for workers, seed in ((1, 0), (2, 99)):
        torch.manual_seed(seed)
        tables.append(predict_fusion(study, ["cross_attention", "concat"], repeats=[0], workers=workers)[0])
    pd.testing.assert_frame_equal(*tables)


def test_order_and_padding_of_tiles_change_nothing(predicted, study) -> None:
    fit = predicted[1][0, 0]["cross_attention"]
    rng = np.random.default_rng(2)
    some = study.inputs.take(np.arange(5))
    shuffled = FusionInputs(collect_bags([bag[rng.permutation(len(bag))] for bag in some.bags]), some.genes)
    assert fit.decide(shuffled) == pytest.approx(fit.decide(some), abs=1e-5)
    one_by_one = np.concatenate([fit.decide(study.inputs.take(np.array([i]))) for i in range(5)])
    assert one_by_one == pytest.approx(fit.decide(some), abs=1e-5)


def test_a_missing_modality_is_not_read_and_still_predicted(predicted, study) -> None:
    fit = predicted[1][0, 0]["cross_attention"]
    some = study.inputs.take(np.arange(6))
    rng = np.random.default_rng(1)
    other_genes = FusionInputs(some.bags, rng.normal(size=some.genes.shape))
    other_images = FusionInputs(collect_bags([rng.normal(size=bag.shape) for bag in some.bags]), some.genes)
    assert (fit.decide(some, present=("image",)) == fit.decide(other_genes, present=("image",))).all()
    assert fit.decide(some, present=("genes",)) == pytest.approx(fit.decide(other_images, present=("genes",)), abs=1e-5)
    assert not np.allclose(fit.decide(some), fit.decide(other_images)), "with both there, the images count"
    with pytest.raises(ModelError, match="an arm of image cannot predict from genes"):
        predicted[1][0, 0]["image_linear"].decide(some, present=("genes",))
    with pytest.raises(ModelError, match="cannot predict from nothing"):
        fit.decide(some, present=())


def test_exchanging_images_stays_inside_sites_and_gives_each_image_to_one_case(study) -> None:
    order = find_exchange(study, "image", 0)["images_of"]
    site = study.site.to_numpy()
    assert (site[order] == site).all()
    assert sorted(order) == list(range(len(order)))
    assert find_exchange(study, "", 0) == {}
    unstated = replace(study, site=pd.Series(study.cases, index=study.cases))
    assert (find_exchange(unstated, "genes", 0)["genes_of"] != np.arange(len(order))).mean() > 0.9, (
        "no site: all exchange"
    )


def test_attention_sums_to_one_and_contributions_add_up_to_the_gene_readout(predicted, study) -> None:
    import torch

    fit = predicted[1][0, 0]["cross_attention_plain"]
    one = study.inputs.take(np.array([3]))
    attention, contribution = fit.attend(one)
    assert attention.shape == (3, len(one.bags[0]))
    assert attention.sum(axis=1) == pytest.approx(1)
    network = fit.network
    cases, present = network.lay_out(one), torch.ones(1, 1, 2)
    silenced = dict(network.weights, v=torch.zeros_like(network.weights["v"]))
    whole = network.forward(cases, present)
    network.weights = silenced
    assert float((whole - network.forward(cases, present)).mean()) == pytest.approx(contribution.sum(), abs=1e-5)
    with pytest.raises(ModelError, match="2 cases, expected one"):
        fit.attend(study.inputs.take(np.arange(2)))


def test_a_network_forward_pass_is_what_the_formula_says(study) -> None:
    """The batched products against the formula in plain loops, one network and one case."""
    y = study.labels.to_numpy()
    train = np.arange(60)
    part = study.inputs.take(train)
    folds = plan_inner_classes(y[train], groups=None, n_folds=2)
    network = train_network(
        part, y[train], slots=lay_out_genes(study.groups, study.genes), recipe=QUICK, folds=folds, seed=1
    )
    w = {name: value[1].detach().numpy().astype(float) for name, value in network.weights.items()}
    tiles = np.tanh(network.scale_tiles(part.bags[7]).numpy() @ w["tile"] + w["tile_bias"])
    slots = network.scale_genes(part.genes[7:8]).numpy()[0]
    genes = np.tanh(np.stack([(slots * network.slots.weights[:, g]) @ w["gene"] for g in range(3)]) + w["gene_bias"])

    def soften(x):
        e = np.exp(x - x.max())
        return e / e.sum()

    h = QUICK.dim
    seen = [token + soften(token @ w["q"] @ (tiles @ w["k"]).T / np.sqrt(h)) @ (tiles @ w["v"]) for token in genes]
    told = [tile + soften(tile @ w["q2"] @ (genes @ w["k2"]).T / np.sqrt(h)) @ (genes @ w["v2"]) for tile in tiles]
    logit = (np.array(seen) * w["out_gene"]).sum() / np.sqrt(h * 3) + np.mean(told, axis=0) @ w["out_tile"][
        0
    ] / np.sqrt(h)
    found = network.predict(study.inputs.take(train[7:8]), ("image", "genes"))[1, 0]
    assert found == pytest.approx(logit + w["out_bias"][0, 0], abs=1e-4)


@pytest.mark.slow
def test_with_signal_in_both_fusion_beats_each_modality_and_permuted_images() -> None:
    study = draw_study("both", n=300, external=200, seed=11, recipe=FusionRecipe(dim=16, n_components=10))
    arms = ["image_linear", "genes_linear", "cross_attention", "image_permuted"]
    predictions, _ = predict_fusion(study, arms, repeats=[0], workers=2)
    pairs = [("cross_attention", other) for other in ("image_linear", "genes_linear", "image_permuted")]
    table = compare_classifiers(predictions, pairs, quantities=["roc_auc"], n_boot=300, rng=np.random.default_rng(0))
    assert (table["difference"] > 0.02).all()
    assert (table[table["split"] == "development"]["ci_low"] > 0).all()


@pytest.mark.slow
def test_with_signal_in_the_genes_alone_fusion_loses_nothing() -> None:
    study = draw_study("genes", n=300, external=200, seed=12, recipe=FusionRecipe(dim=16, n_components=10))
    predictions, _ = predict_fusion(study, ["genes_linear", "late_fusion", "cross_attention"], repeats=[0], workers=2)
    pairs = [("cross_attention", "genes_linear"), ("late_fusion", "genes_linear")]
    table = compare_classifiers(predictions, pairs, quantities=["roc_auc"], n_boot=50, rng=np.random.default_rng(0))
    assert (table["difference"] >= -0.01).all()


def test_where_nothing_is_planted_nothing_is_found() -> None:
    study = draw_study("nothing", n=200, external=100, seed=13)
    predictions, _ = predict_fusion(study, ["cross_attention"], repeats=[0])
    outside = predictions[(predictions["split"] == "external") & (predictions["arm"] == "cross_attention")]
    assert 0.3 < roc_auc_score(outside["y_true"], outside["y_pred"]) < 0.7


def test_inner_folds_hold_both_classes_and_keep_sites_whole_where_they_can() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(120) < 0.3).astype(float)
    sites = np.array(list("ABCDEFGH"))[np.arange(120) % 8]
    folds = plan_inner_classes(y, groups=sites, n_folds=4)
    assert all(len(np.unique(folds[sites == s])) == 1 for s in np.unique(sites))
    assert all(0 < y[folds == k].sum() < (folds == k).sum() for k in range(4))
    by_class = np.where(y == 1, "A", "B")
    mixed = plan_inner_classes(y, groups=by_class, n_folds=2)
    assert all(y[mixed == k].sum() > 0 for k in range(2)), "sites of one class cannot be kept whole"
    with pytest.raises(ModelError, match="1 of 5 training cases are positive; each class needs two"):
        plan_inner_classes(np.array([1, 0, 0, 0, 0.0]), groups=None)


def test_the_logistic_regression_is_scikit_learn_s_with_balanced_classes() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(80, 6)) * [1, 5, 0.1, 2, 1, 3] + 4
    y = (x[:, 0] + 0.3 * rng.normal(size=80) > 4.4).astype(float)
    scaled = (x - x.mean(0)) / x.std(0)
    weights, shift = weigh_classes(y)
    for penalty in (30.0, 1.0):
        model = fit_path(x, y, penalties=np.array([penalty]))[0]
        oracle = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=2000).fit(scaled, y, sample_weight=weights)
        assert model.coefficients == pytest.approx(oracle.coef_[0], abs=1e-4)
        assert model.intercept == pytest.approx(oracle.intercept_[0] - shift, abs=1e-4)
        assert model.decide(x) == pytest.approx(oracle.decision_function(scaled) - shift, abs=1e-3)


def test_held_out_logits_come_from_models_that_did_not_see_the_case() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(60, 40)), (np.arange(60) % 2).astype(float)
    fit = fit_crossed(x, y, folds=np.arange(60) % 3)
    assert roc_auc_score(y, fit.held_out) < 0.7, "labels without signal are not found on held-out cases"
    assert fit.penalty >= 100


def test_a_path_that_only_harms_gets_weight_zero_and_better_ones_more() -> None:
    rng = np.random.default_rng(5)
    y = (np.arange(400) % 2).astype(float)
    good, weak, wrong = (
        2 * (2 * y - 1) + rng.normal(size=400),
        (2 * y - 1) + 2 * rng.normal(size=400),
        -(2 * y - 1) + 4 * rng.normal(size=400),
    )
    stack = fit_stack(np.column_stack([good, weak, wrong]), y)
    assert stack.coefficients[2] == 0
    assert stack.coefficients[0] > stack.coefficients[1] > 0


def test_groups_may_overlap_and_an_absent_gene_is_named() -> None:
    slots = lay_out_genes({"A": ["X", "Y"], "B": ["Y"]}, ["Y", "X", "Z"])
    assert slots.columns.tolist() == [1, 0, 0]
    assert (slots.weights**2).sum(axis=0) == pytest.approx([1, 1])
    with pytest.raises(ModelError, match="group 'A' names gene 'Q', which the table lacks"):
        lay_out_genes({"A": ["Q"]}, ["X"])


def test_the_arms_of_the_spec_are_those_of_the_module() -> None:
    from typing import get_args

    from helpers.core.specs import FusionArmName

    assert get_args(FusionArmName) == FUSION_ARMS
    assert list_fusion_arms()["image_permuted"].network == list_fusion_arms()["cross_attention"].network
    with pytest.raises(ModelError, match="fusion arm 'magic' does not exist; there are image_linear"):
        predict_fusion(draw_study(), ["magic"])


def test_panels_draw_no_gene_of_the_label_and_tiles_are_limited(study, repository) -> None:
    truth = plan_cohort(PhantomSpec(n_cases=90, n_external=30, seed=5, render=False, n_null_genes=5))
    expression = widen_expression(truth.expression)
    groups, _ = match_groups(read_gmt(repository / "data" / "gene_groups.gmt"), expression.columns)
    panels = list_panels(groups, list(expression.columns), sizes=[5, 99], n_draws=2, rng=np.random.default_rng(0))
    assert [(panel, draw) for panel, draw, _ in panels] == [
        ("all groups", 0),
        ("no PAM50 gene", 0),
        ("5 random", 0),
        ("5 random", 1),
    ]
    drawn = {gene for _, _, members in panels[1:] for group in members.values() for gene in group}
    assert not drawn & set(groups["PROLIFERATION"])
    found = predict_panels(study, expression, panels[2:3], arms=["genes_linear"])
    assert set(found["panel"]) == {"5 random"}
    assert limit_tiles(study.inputs.bags, n_tiles=4, rng=np.random.default_rng(0)).sizes.max() == 4
    fewer = predict_tile_counts(study, [3, 10_000], arms=["image_linear"])
    assert set(fewer["n_tiles"]) == {"3"}, "a count that no case exceeds changes nothing and is left out"


def test_attention_is_that_of_the_network_that_did_not_see_the_case(predicted, study) -> None:
    table = collect_attention(study, predicted[1], arm="cross_attention_plain")
    development = study.splits.loc[study.splits["fold"] >= 0, "case_id"].nunique()
    assert table["case_id"].nunique() == development
    means = table.groupby(["case_id", "group"])["attention"].mean()
    assert means.to_numpy() == pytest.approx(1)
    picked = pick_tiles(table, n_tiles=4)
    assert picked.groupby("group").size().eq(4).all()
    assert not picked.duplicated(["group", "case_id"]).any()
    with pytest.raises(ModelError, match="arm 'nothing' was not fitted; there are image_linear"):
        collect_attention(study, predicted[1], arm="nothing")
