"""Tables of genes: performance per gene, structure, classes, scoreboard rows."""

import numpy as np
import pandas as pd
import pytest

from helpers.stats.gene_tables import (
    build_gene_rows,
    compare_structure,
    compute_balanced_accuracy,
    compute_gene_performance,
    correlate_genes,
    order_genes,
)


def make_predictions(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    parts = []
    for gene, noise in (("good", 0.2), ("poor", 3.0), ("flat", None)):
        truth = rng.normal(size=n)
        guess = np.zeros(n) if noise is None else truth + noise * rng.normal(size=n)
        parts.append(pd.DataFrame({"case_id": range(n), "target": gene, "y_true": truth, "y_pred": guess}))
    return pd.concat(parts).assign(split="development", repeat=0, fold=0, arm="ridge")


def test_every_gene_is_measured_and_a_constant_prediction_has_no_value() -> None:
    rng = np.random.default_rng(2)
    table = compute_gene_performance(make_predictions(), arms=["ridge"], n_boot=200, rng=rng)
    spearman = table[table["quantity"] == "spearman"].set_index("target")
    own = make_predictions().query("target == 'good'")
    assert spearman.loc["good", "value"] == pytest.approx(own["y_true"].corr(own["y_pred"], method="spearman"))
    assert spearman.loc["good", "ci_low"] > 0.8
    assert np.isnan(spearman.loc["flat", "value"])
    assert spearman["n"].eq(40).all()


def test_scores_stand_beside_published_numbers_and_a_baseline_is_held_or_not() -> None:
    table = compute_gene_performance(make_predictions(), arms=["ridge"], n_boot=200, rng=np.random.default_rng(2))
    published = pd.DataFrame({
        "scoreboard": ["05/median_spearman/genes/oof"], "value": [0.99], "kind": ["baseline"], "cite": ["we"],
        "cohort": ["x"],
    })  # fmt: skip
    rows = {
        row["id"]: row
        for row in build_gene_rows(table, arm="ridge", shown=["good", "absent"], label="genes", published=published)
    }
    assert set(rows) == {"05/spearman/good/oof", "05/median_spearman/genes/oof", "05/share_r_above_06/genes/oof"}
    assert rows["05/median_spearman/genes/oof"]["holds"] is False
    assert rows["05/median_spearman/genes/oof"]["reference"] == 0.99
    values = table[table["quantity"] == "spearman"].set_index("target")["value"]
    assert rows["05/median_spearman/genes/oof"]["value"] == pytest.approx(values["poor"]), "the flat gene counts as 0"
    assert rows["05/share_r_above_06/genes/oof"]["value"] == pytest.approx(1 / 3), "one of three genes"
    assert rows["05/share_r_above_06/genes/oof"]["quantity"] == "share of 3 genes"
    assert rows["05/spearman/good/oof"]["kind"] == "control"


def test_structure_is_compared_over_pairs_and_like_genes_stand_together() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 100))
    noise = 0.3 * rng.normal(size=(4, 100))
    values = pd.DataFrame({"a1": a + noise[0], "b1": b + noise[1], "a2": a + noise[2], "b2": b + noise[3]})
    matrix = correlate_genes(values)
    assert matrix.loc["a1", "a2"] == pytest.approx(values["a1"].corr(values["a2"], method="spearman"))
    order = order_genes(matrix)
    assert abs(order.index("a1") - order.index("a2")) == 1
    assert compare_structure(matrix, matrix) == pytest.approx(1)
    assert compare_structure(matrix, -matrix) == pytest.approx(-1)


def test_balanced_accuracy_and_kappa_by_hand() -> None:
    truth = pd.Series(["a", "a", "a", "b"])
    called = pd.Series(["a", "a", "b", "b"])
    found = compute_balanced_accuracy(truth, called)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["accuracy"] == 0.75
    assert found["kappa"] == pytest.approx((0.75 - 0.5) / 0.5)
    assert found["chance"] == 0.5
