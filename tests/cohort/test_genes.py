"""Gene names and signature scores."""

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.genes import (
    compute_cp10k,
    compute_ror_p,
    list_genes,
    list_needed_genes,
    list_signatures,
    read_aliases,
    read_ror_weights,
    read_signature,
    resolve_symbols,
    score_signature,
    widen_expression,
)
from helpers.core.errors import GeneError


def lengthen(wide: dict[str, dict[str, float]], unit: str = "log2") -> pd.DataFrame:
    rows = [(case, gene, value, unit) for case, genes in wide.items() for gene, value in genes.items()]
    return pd.DataFrame(rows, columns=["case_id", "gene", "value", "unit"])


def test_the_lists_are_the_published_ones():
    breast, colon = list_signatures()[:3], list_signatures()[3:]
    assert breast == ("prolif11", "prosigna18", "pam50")
    assert [len(read_signature(name)) for name in breast] == [11, 18, 50]
    assert colon == ("colotype_cms1", "colotype_cms2", "colotype_cms3", "colotype_cms4", "colon_extra")
    assert [len(read_signature(name)) for name in colon] == [10, 11, 11, 6, 4]
    assert set(read_signature("prolif11")) < set(read_signature("pam50"))
    assert set(read_signature("prosigna18")) < set(read_signature("pam50"))
    assert read_signature("MKI67") == ("MKI67",)
    assert read_signature("CDCA1") == ("NUF2",)


def test_the_old_symbols_of_pam50_are_aliases_of_current_ones():
    assert {"CDCA1": "NUF2", "KNTC2": "NDC80", "ORC6L": "ORC6"}.items() <= read_aliases().items()
    assert not set(read_aliases()) & set(read_signature("pam50")), "an alias may not be a current symbol"


def test_symbols_are_found_under_either_name():
    assert resolve_symbols(["NUF2", "KNTC2"], ["CDCA1", "NDC80"]) == {"NUF2": "CDCA1", "KNTC2": "NDC80"}


def test_a_list_of_signatures_and_genes_says_what_is_there_and_what_comes_near():
    found = list_genes(["prolif11", "CDCA1", "MKI67", "LYX", "ESR"], ["CDCA1", "MKI67", "ESR2", "TYMS"]).set_index(
        "gene"
    )
    assert list(found.index[:11]) == list(read_signature("prolif11")), "every gene once, in the order asked for"
    assert found.loc["NUF2", "symbol"] == "CDCA1"
    assert found["symbol"].notna().sum() == 3
    assert found.loc["LYZ", "reason"] == "not measured; no symbol comes near"
    assert found.loc["ESR1", "reason"] == "not measured; nearest symbols: ESR2"
    everything = list_genes([], ["CDCA1", "TYMS"])
    assert everything["symbol"].tolist() == ["CDCA1", "TYMS"], "no list: all genes of the table"


def test_a_missing_gene_is_named_with_what_comes_near():
    with pytest.raises(GeneError) as caught:
        resolve_symbols(["NDC80", "XYZ1"], ["NDC8", "MKI67"])
    assert str(caught.value) == (
        "GeneError: gene 'NDC80' is not among the 2 genes of the expression table (looked for NDC80, KNTC2, HEC1). "
        "Nearest symbols: NDC8. 1 more are missing: XYZ1. Choose another target or signature, or add the gene."
    )


def test_a_gene_under_two_names_is_ambiguous():
    with pytest.raises(
        GeneError, match="gene 'NUF2' is in the expression table as 'NUF2' and as 'CDCA1', expected once"
    ):
        resolve_symbols(["NUF2"], ["NUF2", "CDCA1"])


def test_linear_units_are_logged_and_log2_is_left_alone():
    rsem = widen_expression(lengthen({"A": {"MKI67": 7.0}}, "rsem"))
    log2 = widen_expression(lengthen({"A": {"MKI67": 7.0}}, "log2"))
    assert rsem.loc["A", "MKI67"] == 3.0
    assert log2.loc["A", "MKI67"] == 7.0


def test_columns_and_rows_come_in_the_order_asked_for_under_the_names_asked_for():
    wide = widen_expression(
        lengthen({"B": {"CDCA1": 1, "MKI67": 2, "X": 0}, "A": {"CDCA1": 3, "MKI67": 4, "X": 0}}),
        genes=["MKI67", "NUF2"], case_ids=["A", "B"],
    )  # fmt: skip
    assert wide.to_numpy().tolist() == [[4, 3], [2, 1]]
    assert list(wide.columns) == ["MKI67", "NUF2"]


def test_raw_counts_are_refused_because_they_carry_depth():
    with pytest.raises(GeneError, match="gene 'MKI67' is given as raw counts, which carry the depth of sequencing"):
        widen_expression(lengthen({"A": {"MKI67": 7.0}}, "count"))


def test_a_gap_is_named_and_nothing_is_imputed():
    with pytest.raises(GeneError, match=r"gene 'X' has no value for case 'B' \(1 of 2 cases\), expected one per case"):
        widen_expression(lengthen({"A": {"MKI67": 7.0, "X": 1.0}, "B": {"MKI67": 1.0}}))


def test_cp10k_does_not_depend_on_depth():
    counts = pd.DataFrame({"a": [1, 10], "b": [3, 30]}, index=["shallow", "deep"])
    scaled = compute_cp10k(counts)
    assert scaled.loc["shallow"].tolist() == scaled.loc["deep"].tolist() == [2500.0, 7500.0]
    part = compute_cp10k(counts[["a"]], totals=counts.sum(axis=1))
    assert part["a"].tolist() == [2500.0, 2500.0]


def test_a_row_without_counts_cannot_be_scaled():
    with pytest.raises(GeneError, match="row 'empty' has no counts"):
        compute_cp10k(pd.DataFrame({"a": [0]}, index=["empty"]))


@pytest.fixture
def expression() -> pd.DataFrame:
    rng = np.random.default_rng(1918)
    genes = list(read_signature("pam50"))
    return pd.DataFrame(rng.normal(8, 2, (12, 50)), index=[f"P{i}" for i in range(12)], columns=genes)


def test_mean_log2_is_the_mean_of_the_eleven(expression):
    score = score_signature(expression, genes="prolif11")
    expected = [float(np.mean([expression.loc[c, g] for g in read_signature("prolif11")])) for c in expression.index]
    np.testing.assert_allclose(score, expected, rtol=1e-12)


def test_mean_zscore_equals_the_formula_written_out(expression):
    training = [f"P{i}" for i in range(8)]
    score = score_signature(expression, genes="prolif11", method="mean_zscore", training_cases=training)
    for case in expression.index:
        z = []
        for gene in read_signature("prolif11"):
            known = [expression.loc[c, gene] for c in training]
            mean = sum(known) / 8
            sd = (sum((x - mean) ** 2 for x in known) / 7) ** 0.5
            z.append((expression.loc[case, gene] - mean) / sd)
        assert score[case] == pytest.approx(sum(z) / 11, rel=1e-12)


def test_pam50_scoring_equals_the_formula_written_out(expression):
    training = [f"P{i}" for i in range(7)]
    score = score_signature(expression, genes="prolif11", method="pam50", training_cases=training)
    for case in expression.index:
        centred = {g: expression.loc[case, g] - sorted(expression.loc[training, g])[3] for g in expression.columns}
        mean = sum(centred.values()) / 50
        sd = (sum((x - mean) ** 2 for x in centred.values()) / 49) ** 0.5
        expected = sum((centred[g] - mean) / sd for g in read_signature("prolif11")) / 11
        assert score[case] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", ["mean_zscore", "pam50"])
def test_test_cases_do_not_shape_the_constants(expression, method):
    training = [f"P{i}" for i in range(8)]
    before = score_signature(expression, genes="prolif11", method=method, training_cases=training)
    changed = expression.copy()
    changed.loc["P11"] += 100.0 * np.arange(50)
    after = score_signature(changed, genes="prolif11", method=method, training_cases=training)
    pd.testing.assert_series_equal(before.drop("P11"), after.drop("P11"))


def test_fitted_constants_need_training_cases(expression):
    with pytest.raises(GeneError, match="score method 'mean_zscore' needs training_cases"):
        score_signature(expression, genes="prolif11", method="mean_zscore")
    with pytest.raises(GeneError, match="training case 'P99' has no expression"):
        score_signature(expression, genes="prolif11", method="pam50", training_cases=["P1", "P99"])


def test_a_constant_gene_has_no_zscore(expression):
    expression["MKI67"] = 5.0
    with pytest.raises(GeneError, match="gene 'MKI67' does not vary over the training cases"):
        score_signature(expression, genes="MKI67", method="mean_zscore", training_cases=expression.index)


def test_an_unknown_method_lists_the_known_ones(expression):
    with pytest.raises(
        GeneError, match="score method 'median' is unknown, expected one of mean_log2, mean_zscore, pam50"
    ):
        score_signature(expression, genes="prolif11", method="median")  # type: ignore[arg-type]


def test_ror_p_is_the_published_weighted_sum():
    assert read_ror_weights()["prolif"] == 0.3385116381
    correlations = pd.DataFrame({"Basal": [0.1], "Her2": [0.2], "LumA": [-0.3], "LumB": [0.4], "Normal": [9.0]})
    expected = -0.0009299747 * 0.1 + 0.0692289192 * 0.2 + 0.0951505484 * 0.3 + 0.0493487685 * 0.4 + 0.3385116381 * 0.5
    assert compute_ror_p(correlations, pd.Series([0.5]))[0] == pytest.approx(expected, rel=1e-12)


def test_our_pam50_score_gives_the_ror_p_that_others_computed_for_tcga(shared_data):
    folder = shared_data / "tcga_brca"
    rsem = pd.read_csv(folder / "expression_pam50_rsem.csv", index_col=0)
    labels = pd.read_csv(folder / "labels_rorp_pam50.csv").drop_duplicates("STUDYID").set_index("STUDYID")
    wide = np.log2(rsem + 1)
    score = score_signature(wide, genes="prolif11", method="pam50", training_cases=wide.index)
    both = labels.join(score.rename("score"), how="inner")
    ours = compute_ror_p(both, both["score"])
    assert len(both) == 693
    assert np.corrcoef(ours, both["ror_p_score_div100"])[0, 1] > 0.98


def test_the_genefu_centroids_are_found_under_their_old_symbols(shared_data):
    rows = (shared_data / "genefu" / "pam50_model.csv").read_text().splitlines()
    symbols = [line.split(",")[0].strip('"') for line in rows if not line.startswith("#")][1:]
    found = resolve_symbols(read_signature("pam50"), symbols)
    assert {found["NUF2"], found["NDC80"], found["ORC6"]} == {"CDCA1", "KNTC2", "ORC6L"}


def test_other_capitals_and_other_kinds_of_ids_are_told() -> None:
    with pytest.raises(GeneError, match="Nearest symbols: mki67"):
        resolve_symbols(["MKI67"], ["mki67", "actb"])
    with pytest.raises(
        GeneError, match="The table's first is 'ENSG00000148773.14'; expected HGNC symbols, not Ensembl"
    ):
        resolve_symbols(["MKI67"], ["ENSG00000148773.14"])


def test_only_genes_of_the_scores_are_needed() -> None:
    eleven, fifty = read_signature("prolif11"), read_signature("pam50")
    assert list_needed_genes(["prolif11", "MKI67"], methods=["mean_log2"]) == [*eleven, *({"MKI67"} - set(eleven))]
    assert set(list_needed_genes(["prolif11"], methods=["mean_log2", "pam50"])) == set(eleven) | set(fifty)
    assert list_needed_genes(["MKI67"], methods=["pam50"]) == ["MKI67"]  # a single gene is its log2 value
    rows = [(case, gene, 1.0, "log2") for case in "ab" for gene in (*eleven, "GAPDH")]
    table = pd.DataFrame(rows, columns=["case_id", "gene", "value", "unit"])
    holed = table[~((table["case_id"] == "b") & (table["gene"] == "GAPDH"))]
    with pytest.raises(GeneError, match="gene 'GAPDH' has no value for case 'b'"):
        widen_expression(holed)
    wide = widen_expression(holed, genes=list_needed_genes(["prolif11"], methods=["mean_log2"]))
    assert list(wide.columns) == list(eleven)
