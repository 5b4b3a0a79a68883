"""Two classes of subtype, gene groups from a GMT file, and the table of further molecular features."""

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.gene_groups import GROUPS_FILE, draw_groups, match_groups, read_gmt, tabulate_groups
from helpers.cohort.genes import read_signature
from helpers.cohort.imports.tables import import_tables
from helpers.cohort.imports.tcga_brca import import_tcga_brca
from helpers.cohort.omics import read_omics, widen_omics
from helpers.cohort.subtypes import code_basal_her2, compare_subtype_sources
from helpers.core.errors import GeneError, SchemaError


def test_words_of_all_sources_fall_into_two_classes_or_into_none() -> None:
    words = [
        "LumA",
        "BRCA_LumB",
        "Luminal A",
        "Basal-like",
        "BRCA.Her2",
        "HER2-enriched",
        "Normal",
        "normal-like",
        None,
    ]
    coded = code_basal_her2(pd.Series(words))
    assert coded[:6].tolist() == [0, 0, 0, 1, 1, 1]
    assert coded[6:].isna().all()


def test_a_word_that_is_no_subtype_is_named_with_its_case() -> None:
    with pytest.raises(SchemaError, match=r"case 'c2' has the subtype 'TNBC' \(1 such cases\), expected one of basal"):
        code_basal_her2(pd.Series(["LumA", "TNBC"], index=["c1", "c2"]))


def test_sources_are_compared_on_the_cases_that_both_know() -> None:
    cases = pd.DataFrame(
        {"a": ["LumA", "Basal", "Her2", None], "b": ["LumB", "LumA", "Her2", "Basal"], "c": [None] * 4}
    )
    table = compare_subtype_sources(cases, ["a", "b", "c", "d"]).set_index(["first", "second"])
    assert table.loc[("a", "b"), ["n", "n_positive"]].tolist() == [3, 2]
    assert table.loc[("a", "b"), "agree"] == pytest.approx(2 / 3)
    assert table.loc[("a", "a"), "agree"] == 1
    assert len(table) == 3, "a source without a class, or that is absent, is left out"


def test_the_default_groups_deal_out_the_pam50_genes_once_each(repository) -> None:
    groups = read_gmt(repository / GROUPS_FILE)
    genes = [gene for name, members in groups.items() if name != "IMMUNE" for gene in members]
    assert sorted(genes) == sorted(read_signature("pam50"))
    assert set(read_signature("prolif11")) <= set(groups["PROLIFERATION"])


def test_groups_are_found_under_older_names_and_what_is_absent_is_listed() -> None:
    groups = {"P": ["NUF2", "MKI67"], "L": ["ESR1"], "N": ["NONE"]}
    found, absent = match_groups(groups, ["CDCA1", "MKI67", "ESR1"])
    assert found == {"P": ["CDCA1", "MKI67"], "L": ["ESR1"]}
    assert absent == {"N": ["NONE"]}
    assert match_groups(groups, ["CDCA1", "MKI67", "ESR1"], min_genes=2)[0] == {"P": ["CDCA1", "MKI67"]}
    table = tabulate_groups(found, absent).set_index("group")
    assert table.loc["N", ["n_genes", "n_absent"]].tolist() == [0, 1]
    with pytest.raises(GeneError, match="none of the 3 gene groups has 1 genes among the 1"):
        match_groups(groups, ["TP53"])


def test_a_gene_under_two_names_is_one_gene_in_a_group_and_an_error_in_the_table() -> None:
    assert match_groups({"P": ["NUF2", "CDCA1", "MKI67"]}, ["NUF2", "MKI67"])[0] == {"P": ["NUF2", "MKI67"]}
    with pytest.raises(GeneError, match="gene 'NUF2' of group 'P' is in the expression table as 'CDCA1' and as 'NUF2'"):
        match_groups({"P": ["NUF2"]}, ["CDCA1", "NUF2"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("A\tx\n", "line 1 of 'g.gmt' names no gene for 'A'"), ("A\tx\tG1\nA\tx\tG2\n", "line 2 .* repeats the group 'A'"),
     ("# nothing\n", "'g.gmt' holds no gene group")],
)  # fmt: skip
def test_a_gmt_file_that_cannot_be_meant_is_refused(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "g.gmt"
    path.write_text(text)
    with pytest.raises(GeneError, match=message):
        read_gmt(path)
    with pytest.raises(GeneError, match="were not found"):
        read_gmt(tmp_path / "other.gmt")


def test_random_panels_draw_without_repetition_and_are_repeatable() -> None:
    genes = [f"G{i}" for i in range(40)]
    drawn = draw_groups(genes, n_genes=20, n_groups=6, rng=np.random.default_rng(1))
    members = [gene for group in drawn.values() for gene in group]
    assert len(drawn) == 6
    assert len(set(members)) == 20
    assert drawn == draw_groups(genes[::-1], n_genes=20, n_groups=6, rng=np.random.default_rng(1))
    assert len(draw_groups(genes, n_genes=3, n_groups=6, rng=np.random.default_rng(1))) == 3


def test_tcga_carries_mutations_rna_z_scores_and_the_subtype_of_2012_where_the_files_do(tcga_folder) -> None:
    assert import_tcga_brca(tcga_folder).omics is None
    pd.DataFrame({
        "case_id": ["TCGA-A1-0001", "TCGA-A1-0002", "TCGA-XX-0009"], "TP53_mut": [0, 1, 1], "AKT1_rnaseq": [0.5, -2.0, 1.0],
        "AKT1_cnv": [0, 0, 1],
    }).to_csv(tcga_folder / "omics_cnv_mut_rna.csv.gz", index=False)  # fmt: skip
    path = tcga_folder / "clinical_cdr.tsv"
    lines = path.read_text().splitlines()
    words = ["PAM50 mRNA", "Luminal A", "Basal-like", "", "", ""]
    path.write_text("\n".join(f"{line}\t{word}" for line, word in zip(lines, words, strict=True)) + "\n")
    cohort = import_tcga_brca(tcga_folder)
    assert cohort.cases["subtype_2012"].tolist()[:2] == ["LumA", "Basal"]
    assert widen_omics(cohort.omics, kind="mutation")["TP53"].to_dict() == {"TCGA-A1-0001": 0.0, "TCGA-A1-0002": 1.0}
    assert widen_omics(cohort.omics, kind="rna_z").columns.tolist() == ["AKT1"]
    assert cohort.facts["cases with mutations and RNA z-scores"] == 2


def test_omics_of_a_cohort_of_tables_pass_a_gate(own_folder) -> None:
    assert import_tables(own_folder).omics is None
    table = pd.DataFrame(
        {"case_id": ["001", "002"], "kind": "mutation", "feature": "TP53", "value": [0.0, 1.0], "unit": "binary"}
    )
    table.to_parquet(own_folder / "omics.parquet")
    assert len(import_tables(own_folder).omics) == 2
    pd.concat([table, table[:1]]).to_parquet(own_folder / "omics.parquet")
    with pytest.raises(SchemaError, match=r"feature 'TP53' \(mutation\) of case '001' occurs twice"):
        read_omics(own_folder / "omics.parquet")
    table.drop(columns="kind").to_parquet(own_folder / "omics.parquet")
    with pytest.raises(SchemaError, match="has no column 'kind'"):
        read_omics(own_folder / "omics.parquet")
    with pytest.raises(SchemaError, match="holds no protein ; its kinds are mutation"):
        widen_omics(table, kind="protein")
