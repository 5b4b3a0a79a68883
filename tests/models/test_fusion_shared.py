"""Chapter 06 on real TCGA-BRCA: who is in, what genes alone reach on the published cohort, what the images leave as it is."""

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.gene_groups import GROUPS_FILE, match_groups, read_gmt
from helpers.cohort.genes import widen_expression
from helpers.cohort.imports.tcga_brca import import_tcga_brca
from helpers.cohort.omics import widen_omics
from helpers.cohort.raw import RawCohort
from helpers.cohort.splits import plan_folds
from helpers.cohort.subtypes import code_basal_her2, compare_subtype_sources
from helpers.models.bags import collect_bags
from helpers.models.fusion_published import PublishedRecipe, predict_published
from helpers.models.fusion_study import make_study, predict_fusion
from helpers.stats.classification import compute_arm_performance


@pytest.fixture(scope="module")
def tcga(shared_data) -> RawCohort:
    return import_tcga_brca(shared_data / "tcga_brca")


@pytest.fixture(scope="module")
def labels(tcga) -> pd.Series:
    return code_basal_her2(tcga.cases.set_index("case_id")["subtype"]).dropna()


def test_the_published_site_has_84_labelled_cases_and_the_cohort_594(labels) -> None:
    alone = labels[labels.index.str[5:7] == "A2"]
    assert (len(alone), int((alone == 0).sum()), int(alone.sum())) == (84, 58, 26)
    assert (len(labels), int(labels.sum())) == (594, 164)


def test_three_sources_of_the_subtype_disagree(tcga) -> None:
    table = compare_subtype_sources(tcga.cases, ["subtype", "pam50_4x", "subtype_2012"]).set_index(["first", "second"])
    assert table.loc[("subtype", "pam50_4x"), "n"] > 500
    assert table.loc[("subtype", "subtype_2012"), "agree"] == pytest.approx(0.980, abs=0.002)
    assert table.loc[("pam50_4x", "subtype_2012"), "agree"] == pytest.approx(0.973, abs=0.002)
    both = table.loc[("subtype", "pam50_4x")]
    assert both["agree"] == 1, "the four-class calls differ by putting normal-like and unlabelled cases into a class"
    assert both["n"] == 592 < table.loc[("pam50_4x", "pam50_4x"), "n"]


def test_mutations_and_further_genes_come_with_620_of_the_cases(tcga) -> None:
    mutated = widen_omics(tcga.omics, kind="mutation")["TP53"]
    assert len(mutated) == 620
    assert 0.3 < mutated.mean() < 0.4
    assert widen_omics(tcga.omics, kind="rna_z").shape == (620, 1558)


def test_genes_alone_reach_the_published_fusion_on_its_own_site(tcga, labels, repository) -> None:
    expression = widen_expression(tcga.expression)
    groups, absent = match_groups(read_gmt(repository / GROUPS_FILE), expression.columns)
    assert set(absent) == {"IMMUNE"}
    alone = labels[labels.index.str[5:7] == "A2"]
    table = pd.DataFrame({"case_id": alone.index, "label": alone.to_numpy()})
    folds = plan_folds(table, n_folds=5, repeats=3, seed=20261, site_column=None, stratify=["label"])
    blank = collect_bags([np.zeros((1, 1), np.float32)] * len(alone))
    site = pd.Series("A2", index=alone.index)
    study = make_study(blank, alone.index, expression, alone, groups=groups, splits=folds, site=site, seed=1)
    predictions, _ = predict_fusion(study, ["genes_linear"])
    found = compute_arm_performance(predictions, n_boot=100, rng=np.random.default_rng(0)).set_index("quantity")[
        "value"
    ]
    assert found["f1"] > 0.90
    assert found["pr_auc"] > 0.98


def test_on_real_genes_too_the_published_network_is_the_same_without_images(tcga, labels) -> None:
    expression = widen_expression(tcga.expression)
    alone = labels[labels.index.str[5:7] == "A2"]
    rng = np.random.default_rng(0)
    bags = [rng.normal(size=(5, 6)).astype("f4") for _ in range(len(alone))]
    recipe = PublishedRecipe(width=16, heads=4, n_tiles=5, max_epochs=3)
    whole = predict_published("cross_attention", bags, expression, alone, recipe=recipe)
    blind = predict_published("cross_attention", bags, expression, alone, recipe=recipe, without_images=True)
    assert blind["y_pred"].to_numpy() == pytest.approx(whole["y_pred"].to_numpy(), abs=1e-5)
