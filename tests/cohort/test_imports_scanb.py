"""SCAN-B's tables, on a dozen patients written by hand in the published layout, up to the hazard ratios of chapter 04."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from helpers.cohort.doctor import check_folder, detect_layout
from helpers.cohort.imports import import_cohort
from helpers.cohort.imports.scanb import ASSUMED, import_scanb
from helpers.core.errors import DuplicateError, SchemaError
from helpers.core.specs import CohortSpec, SurvivalSpec
from helpers.stats.survival_plan import estimate_analyses, plan_analyses
from helpers.stats.survival_scores import score_expression

from .conftest import SCANB_AGE, write_scanb


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_scanb(tmp_path / "scanb")


def test_libraries_outside_the_follow_up_cohort_leave_by_name(folder: Path) -> None:
    cohort = import_scanb(folder)
    assert len(cohort.cases) == 12
    assert {loss.reason for loss in cohort.flows[1].losses} == {"not in the follow-up cohort"}
    assert len(cohort.flows[1].losses) == 2
    assert cohort.facts["assumed"] == list(ASSUMED), "what is assumed is recorded"


def test_the_relapse_free_interval_and_death_become_endpoints(folder: Path) -> None:
    cases = import_scanb(folder).cases.set_index("case_id")
    day = 12 / 365.25
    first = cases.loc["P0000"]  # recurred on day 900, died on day 1,500
    assert first["dfi_time_months"] == pytest.approx(900 * day)
    assert first["os_time_months"] == pytest.approx(1500 * day)
    assert (bool(first["dfi_event"]), bool(first["rfs_event"])) == (True, True)
    third = cases.loc["P0003"]  # died on day 1,530 without recurrence: censored for relapse, an event of rfs
    assert (bool(third["dfi_event"]), bool(third["rfs_event"]), bool(third["os_event"])) == (False, True, True)
    assert third["rfs_time_months"] == pytest.approx(1530 * day)


def test_clinical_columns_carry_their_units_and_unknown_words_go_missing(folder: Path) -> None:
    cases = import_scanb(folder).cases.set_index("case_id")
    assert cases.loc["P0000", "age_years"] == 38.0, "40 means 36 to 40"
    assert cases.loc["P0001", ["er", "her2", "tumour_size_mm"]].tolist() == ["positive", "negative", 13.0]
    assert pd.isna(cases.loc["P0003", "grade"])
    assert pd.isna(cases.loc["P0000", "pr"])
    assert "nodes_positive" not in cases, "a range of nodes is no number of nodes"


def test_only_listed_genes_are_read_and_rows_of_one_symbol_are_added(folder: Path) -> None:
    cohort = import_scanb(folder)
    wide = cohort.expression.pivot(index="case_id", columns="gene", values="value")
    assert "TSPAN6" not in wide
    assert set(cohort.expression["unit"]) == {"fpkm"}
    assert cohort.facts["symbols in several rows (added)"] == {"MKI67": 2}
    lines = (folder / "SCANB.9206.genematrix_noNeg.Symbol.txt").read_text().splitlines()
    both = [float(line.split("\t")[1]) for line in lines if line.startswith("MKI67")]
    assert wide.loc["P0000", "MKI67"] == pytest.approx(sum(both))


def test_a_header_without_its_first_cell_is_read_alike(folder: Path) -> None:
    whole = import_scanb(folder).expression
    path = folder / "SCANB.9206.genematrix_noNeg.Symbol.txt"
    path.write_text(path.read_text()[1:])  # R writes no cell above the row names
    pd.testing.assert_frame_equal(import_scanb(folder).expression, whole)


def test_the_profile_runs_from_the_tables_to_its_hazard_ratios(tmp_path: Path, repository: Path) -> None:
    profile = yaml.safe_load((repository / "config" / "scanb.yaml").read_text())
    spec = CohortSpec.from_values({"seed": 1, **profile["chapters"]["00"]})
    cohort = import_cohort(spec, write_scanb(tmp_path / "scanb"), slides_dir=tmp_path)
    shared = {name: value for name, value in profile["shared"].items() if name in SurvivalSpec.model_fields}
    plan = SurvivalSpec.from_values({**shared, **profile["chapters"]["04"]})
    roles = pd.Series("development", index=cohort.cases["case_id"])
    scores = score_expression(cohort.expression, splits=roles, targets=plan.targets, method=plan.score_method)
    analyses = plan_analyses(plan, measured=["rna"])
    results = estimate_analyses(analyses, cohort.cases, scores, covariates=plan.covariates)
    assert results.iloc[0]["endpoint"] == "dfi"
    assert (results.iloc[0]["n"], results.iloc[0]["n_events"], results.iloc[0]["note"]) == (12, 6, "")
    assert np.isfinite(results.iloc[0]["hazard_ratio"])
    again = estimate_analyses([replace(analyses[0], scale="per_sd")], cohort.cases, scores, covariates=())
    assert np.isfinite(again["log_hr"].iloc[0])


def test_the_doctor_knows_the_layout_and_finds_nothing_wrong(folder: Path) -> None:
    assert detect_layout(folder) == "scanb"
    assert check_folder(folder) == []


def test_a_missing_file_is_named_with_where_it_comes_from(folder: Path) -> None:
    (folder / "SCANB.9206.csv").unlink()
    with pytest.raises(
        SchemaError, match=r"lacks 'SCANB.9206.csv', expected two tables of the Mendeley data set yzxtxn4nmd"
    ):
        import_scanb(folder)


def test_a_sheet_whose_names_were_changed_is_refused(folder: Path) -> None:
    path = folder / "SCANB.9206.csv"
    path.write_text(path.read_text().replace("RFi_days", "RFi days").replace(SCANB_AGE, "years"))
    with pytest.raises(SchemaError, match=r"has no column RFi_days, Age …; expected the sheet SCANB.9206"):
        import_scanb(folder)


def test_a_patient_with_two_libraries_in_the_cohort_is_refused(folder: Path) -> None:
    path = folder / "SCANB.9206.csv"
    path.write_text(path.read_text().replace("P0004", "P0003"))
    with pytest.raises(DuplicateError, match="patient 'P0003' has more than one library in the follow-up cohort"):
        import_scanb(folder)


def test_a_library_without_a_column_is_named(folder: Path) -> None:
    path = folder / "SCANB.9206.genematrix_noNeg.Symbol.txt"
    path.write_text(path.read_text().replace("S000005.l", "S999999.l"))
    with pytest.raises(SchemaError, match=r"library 'S000005\.l\..*' has no column in .*\(1 of 12\)"):
        import_scanb(folder)


def test_a_cut_row_and_ensembl_names_are_named(folder: Path) -> None:
    path = folder / "SCANB.9206.genematrix_noNeg.Symbol.txt"
    text = path.read_text()
    path.write_text(text[: text.rindex("\t")] + "\n")
    with pytest.raises(SchemaError, match=r"row 'MKI67' of .* cannot be read \(13 numbers for"):
        import_scanb(folder)
    path.write_text(text.splitlines()[0] + "\nENSG00000148773\t" + "\t".join(["1"] * 14) + "\n")
    with pytest.raises(SchemaError, match="holds none of the .* genes of data/genes.yaml"):
        import_scanb(folder)
