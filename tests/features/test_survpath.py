"""SurvPath's folder, read the way SurvPath reads it: pandas' defaults, its names of files, its sense of censorship."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.outcomes import flip_censorship
from helpers.core.errors import FeatureError, RunError, SchemaError
from helpers.features.survpath import convert_cohort, tabulate_signatures
from tests.features.test_convert import COORDS, FEATURES, write_h5

CASES = pd.DataFrame(
    {
        "case_id": ["C1", "C2", "C3", "C4"],
        "site": ["S1", "S1", "S2", "S2"],
        "age_years": [61.5, 44, 70, 58],
        "sex": ["female", "female", "male", ""],
        "stage": ["Stage IIA", "IIIC", "", "I"],
        "grade": ["2", "", "3", "1"],
        "subtype": ["LumA", "Basal", "LumB", ""],
        "os_time_months": [10.5, 20.25, 30, 0],
        "os_event": ["1", "0", "1", "0"],
        "pfi_time_months": [5, "", 12, 0],
        "pfi_event": ["1", "", "0", "0"],
        "rfs_time_months": [5, 6, 12, 1],
        "rfs_event": [1, 1, 0, 0],
    }
)
SLIDES = pd.DataFrame(
    {
        "slide_id": ["T1.slides", "T2", "T3", "T4", "T5"],
        "case_id": ["C1", "C1", "C2", "C3", "C4"],
        "path": [f"{number}.svs" for number in range(5)],
    }
)
GENES = {"MKI67": [4.0, 5.5, 6.25, 1.0], "UBCH10": [1.0, 2.0, 3.0, 1.0], "ERBB2": [9.0, 8.0, 7.0, 1.0]}


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Five slides, four of them with features; T4's case lacks nothing, C4 has expression nowhere."""
    for name in ("T1.slides", "T2", "T3", "T5"):
        rows = {"features": FEATURES.astype(np.float16), "coords": COORDS}
        write_h5(tmp_path / f"in/{name}.h5", rows, on_coords={"patch_size_level0": 512})
    CASES.to_csv(tmp_path / "cases.csv", index=False)
    SLIDES.to_csv(tmp_path / "slides.csv", index=False)
    long = pd.DataFrame({"case_id": ["C1", "C2", "C3", "C4"], **GENES}).head(3)
    long.melt("case_id", var_name="gene").assign(unit="log2").to_parquet(tmp_path / "expression.parquet")
    folds = [(0, fold, case_id, "test" if fold == number % 2 else "train")
             for fold in (0, 1) for number, case_id in enumerate(CASES["case_id"])]  # fmt: skip
    pd.DataFrame(folds, columns=["repeat", "fold", "case_id", "role"]).to_csv(tmp_path / "splits.csv", index=False)
    return tmp_path


def convert(cohort: Path, **changed: object) -> str:
    tables = {
        "cases": cohort / "cases.csv",
        "expression": cohort / "expression.parquet",
        "splits": cohort / "splits.csv",
    }
    given = {"slides": cohort / "slides.csv", "tables": tables, "study": "toy", **changed}
    return convert_cohort(cohort / "in", to="survpath", out=cohort / "out", **given)


def load_bags(folder: Path, slide_ids: list[str]) -> np.ndarray:
    """Put a case's bags together under the names that SurvPath makes of slide ids."""
    import torch

    return torch.cat([torch.load(folder / f"{name.rstrip('.svs')}.pt") for name in slide_ids], dim=0).numpy()  # noqa: B005


def test_survpath_finds_outcomes_bags_and_rna_of_every_case(cohort: Path) -> None:
    convert(cohort)
    tables = cohort / "out/datasets_csv"
    labels = pd.read_csv(tables / "metadata/toy_os.csv", low_memory=False)
    assert {"oncotree_code", "survival_months", "censorship", "age", "site", "is_female"} <= set(labels)
    patients = labels.drop_duplicates("case_id").set_index("case_id")
    assert patients["censorship"].to_dict() == {"C1": 0, "C2": 1, "C4": 1}, "1 = censored; C3 has no bag"
    assert patients["survival_months"].to_dict() == {"C1": 10.5, "C2": 20.25, "C4": 0}
    assert patients["is_female"].loc[["C1", "C2"]].tolist() == [1, 1]
    assert np.isnan(patients["is_female"]["C4"])
    bag = load_bags(cohort / "out/pt_files", labels.loc[labels["case_id"] == "C1", "slide_id"].tolist())
    assert (bag.dtype, bag.shape) == (np.float32, (2 * len(FEATURES), FEATURES.shape[1]))
    assert (bag == np.concatenate([FEATURES, FEATURES])).all()
    rna = pd.read_csv(tables / "raw_rna_data/toy/rna_clean.csv", engine="python", index_col=0)
    assert rna.index.tolist() == ["C1", "C2"]
    assert rna.loc["C2", "MKI67"] == 5.5
    clinical = pd.read_csv(tables / "clinical_data/toy_clinical.csv", index_col=0, keep_default_na=False)
    assert clinical.set_index("case_id").loc["C1"].tolist() == ["II", "G2", "LumA"]
    assert clinical.set_index("case_id").loc["C2"].tolist() == ["III", "N/A", "Basal"]


def test_each_endpoint_has_its_table_with_the_cases_that_know_it(cohort: Path) -> None:
    said = convert(cohort)
    folder = cohort / "out/datasets_csv/metadata"
    assert sorted(path.name for path in folder.glob("toy_*")) == ["toy_os.csv", "toy_pfi.csv"], "rfs is not SurvPath's"
    labels = pd.read_csv(folder / "toy_pfi.csv")
    assert labels["case_id"].unique().tolist() == ["C1", "C4"]
    assert labels["survival_months_pfi"].notna().all()
    assert labels["censorship_pfi"].tolist() == [0, 0, 1]
    assert "os: 3 cases, 1 events; 0 left out" in said
    assert "pfi: 2 cases, 1 events; 1 left out, outcome unknown" in said
    assert "1 cases have no expression" in said
    assert "1 slides of the slide table are left out" in said


def test_censorship_comes_back_as_the_event(cohort: Path) -> None:
    convert(cohort)
    labels = pd.read_csv(cohort / "out/datasets_csv/metadata/toy_os.csv").drop_duplicates("case_id")
    event = flip_censorship(labels["censorship"])
    assert dict(zip(labels["case_id"], event, strict=True)) == {"C1": True, "C2": False, "C4": False}


def test_signatures_name_only_genes_of_the_table(cohort: Path) -> None:
    convert(cohort)
    signatures = pd.read_csv(cohort / "out/datasets_csv/metadata/combine_signatures.csv")
    rna = pd.read_csv(cohort / "out/datasets_csv/raw_rna_data/toy/rna_clean.csv", index_col=0)
    assert "prolif11" in signatures
    for name in signatures:
        genes = set(signatures[name].dropna())
        assert genes, f"{name} is empty: SurvPath would make a network without inputs"
        assert genes <= set(rna)
    assert "UBCH10" in set(signatures["prolif11"].dropna()), "UBE2C, under the name that the table uses"
    with pytest.raises(SchemaError, match="none of the 1 signatures has a gene among the 2 of the RNA table"):
        tabulate_signatures(["A", "B"], pd.DataFrame({"pathway": ["X", "Y"]}))


def test_linear_rna_is_logged_and_the_summary_says_so(cohort: Path) -> None:
    long = pd.read_parquet(cohort / "expression.parquet").assign(unit="tpm")
    long.to_parquet(cohort / "expression.parquet")
    assert "RNA in tpm is written as log2(x + 1)" in convert(cohort)
    rna = pd.read_csv(cohort / "out/datasets_csv/raw_rna_data/toy/rna_clean.csv", index_col=0)
    assert rna.loc["C2", "MKI67"] == pytest.approx(np.log2(6.5))


def test_folds_are_survpaths_train_and_val(cohort: Path) -> None:
    convert(cohort)
    folder = cohort / "out/splits/2foldcv/toy"
    assert sorted(path.name for path in folder.iterdir()) == ["splits_0.csv", "splits_1.csv"]
    first = pd.read_csv(folder / "splits_0.csv")
    assert first["val"].dropna().tolist() == ["C1"], "C3 has no bag"
    assert first["train"].dropna().tolist() == ["C2", "C4"]


def test_a_second_run_writes_nothing_and_other_tables_are_not_overwritten(cohort: Path) -> None:
    convert(cohort)
    assert "4 slides: 0 written, 4 there already, 0 failed" in convert(cohort)
    changed = CASES.assign(os_time_months=[1, 2, 3, 4])
    changed.to_csv(cohort / "cases.csv", index=False)
    with pytest.raises(FeatureError, match=r"'metadata/toy_os\.csv' is there already and differs"):
        convert(cohort)


def test_a_slide_that_fails_is_in_no_table(cohort: Path) -> None:
    (cohort / "in/T3.h5").write_bytes(b"cut")
    with pytest.raises(RunError, match=r"3 written, 0 there already, 1 failed(.|\n)*T3: FeatureError"):
        convert(cohort)
    labels = pd.read_csv(cohort / "out/datasets_csv/metadata/toy_os.csv")
    assert labels["slide_id"].tolist() == ["T1.slides", "T2", "T5"]


def test_ids_that_pandas_would_change_are_refused(cohort: Path) -> None:
    table = SLIDES.assign(case_id=["001", "001", "002", "003", "004"])
    table.to_csv(cohort / "slides.csv", index=False)
    CASES.assign(case_id=["001", "002", "003", "004"]).to_csv(cohort / "cases.csv", index=False)
    with pytest.raises(SchemaError, match=r"SurvPath would read case_id '001' as 1 \(4 ids like it\)"):
        convert(cohort)


def test_slides_that_survpath_would_confuse_are_refused(cohort: Path) -> None:
    (cohort / "in/T2s.h5").write_bytes((cohort / "in/T2.h5").read_bytes())
    with pytest.raises(FeatureError, match="several slides become 'T2'. Rename them"):
        convert(cohort)


def test_tables_are_asked_for(cohort: Path) -> None:
    with pytest.raises(SchemaError, match="survpath wants --slides .* and --cases"):
        convert(cohort, tables={})
    with pytest.raises(SchemaError, match="--cases is for survpath only; clam has no such tables"):
        convert_cohort(cohort / "in", to="clam", out=cohort / "out", tables={"cases": cohort / "cases.csv"})
    (cohort / "splits.csv").write_text("fold,case_id\n0,C1\n")
    with pytest.raises(SchemaError, match="'splits.csv' has no repeat, role, found fold, case_id"):
        convert(cohort)


def test_other_ids_are_named(cohort: Path) -> None:
    SLIDES.assign(slide_id=[f"X{number}" for number in range(5)]).to_csv(cohort / "slides.csv", index=False)
    with pytest.raises(SchemaError, match=r"none of the 4 slides with a bag \(first 'T1\.slides'\)"):
        convert(cohort)
