"""TCGA-BRCA from public tables and stored slide features: no slide and no accelerator needed.

Features are one tensor per diagnostic slide (HIPT, one row of 192 numbers per region of 4,096 px at 20X, no
coordinates). Its encoders were pre-trained without labels on TCGA, so they have seen every slide here, unseen sites
included. Endpoints are those of the TCGA clinical data resource, in days; the site is characters 6-7 of the barcode.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.cohort.flow import CohortFlow
from helpers.cohort.outcomes import combine_with_death, convert_days
from helpers.cohort.raw import RawCohort, blank_unreadable, pass_gate, require_files
from helpers.cohort.tables import check_cases, check_expression, check_slides, parse_stage
from helpers.cohort.textfiles import clean_cell, read_text_table
from helpers.core.errors import DuplicateError, SchemaError
from helpers.core.paths import shorten

FILES = {
    "clinical": "clinical_cdr.tsv",
    "atlas": "clinical_pancancer_atlas.tsv",
    "labels": "labels_rorp_pam50.csv",
    "expression": "expression_pam50_rsem.csv",
    "sites": "tissue_source_sites.csv",
    "features": "features_hipt/pt_files",
}
OMICS_FILE = "omics_cnv_mut_rna.csv.gz"
"""Mutations and RNA z-scores per case; optional."""
LAYOUT = "the TCGA-BRCA folder of features and tables. `histobook fetch tcga-brca-features` fills such a folder."
CDR_ENDPOINTS = {"os": "OS", "pfi": "PFI", "dfi": "DFI", "dss": "DSS"}
RECEPTORS = {"Positive": "positive", "Negative": "negative"}
SEXES = {"FEMALE": "female", "MALE": "male"}
YES_NO = {"Yes": True, "No": False}
ATLAS_COLUMNS = {
    "Subtype": "subtype",
    "Neoadjuvant Therapy Type Administered Prior To Resection Text": "neoadjuvant",
    "American Joint Committee on Cancer Tumor Stage Code": "t_stage",
    "Neoplasm Disease Lymph Node Stage American Joint Committee on Cancer Code": "n_stage",
    "Tissue Retrospective Collection Indicator": "collected_retrospectively",
}
SUBTYPE_2012 = {
    "Luminal A": "LumA", "Luminal B": "LumB", "HER2-enriched": "Her2", "Basal-like": "Basal", "Normal-like": "Normal",
}  # fmt: skip
"""Words of the study of 2012 (`PAM50 mRNA`) and those of the PanCancer Atlas."""
LABEL_COLUMNS = {"ror_p_score_div100": "ror_p", "PAM50_Subtype_4x": "pam50_4x"}


def import_tcga_brca(source: Path) -> RawCohort:
    """Join clinical tables, expression of the 50 PAM50 genes and stored features by patient barcode.

    A patient stays when RNA and at least one slide's features are there. Every other patient listed in any table is
    lost by name; so is each slide of such a patient.

    Parameters
    ----------
    source : Path
        Folder holding `FILES`: the whole public data set or a part of it.

    Returns
    -------
    RawCohort
        Cases (endpoints os, pfi, pfi_or_death, dfi, dss), slides with `features_path`, expression (RSEM).

    Raises
    ------
    SchemaError, DuplicateError
        When a file is missing or cut, a patient occurs twice, or an expression value is no number.
    """
    files = require_files(source, FILES, what=LAYOUT)
    clinical = _read_patients(files["clinical"], "bcr_patient_barcode", separator="\t")
    wide = _read_patients(files["expression"], "PATIENT_ID")
    slides = list_features(files["features"])
    case_flow, slide_flow = _trace_losses(clinical, wide, slides)
    facts: dict[str, Any] = {}
    cases = _build_cases(clinical.loc[case_flow.items], files, facts)
    kept = slides[slides["slide_id"].isin(list(slide_flow.items))].reset_index(drop=True)
    facts["slides per case, most"] = int(kept["case_id"].value_counts().max())
    return RawCohort(
        pass_gate(check_cases(cases)),
        [case_flow, slide_flow],
        slides=pass_gate(check_slides(kept, case_ids=cases["case_id"])),
        expression=pass_gate(check_expression(_lengthen(wide.loc[case_flow.items]))),
        omics=read_tcga_omics(source / OMICS_FILE, case_flow.items, facts),
        facts=facts,
    )


def read_tcga_omics(path: Path, case_ids: Iterable[str], facts: dict[str, Any]) -> pd.DataFrame | None:
    """Read mutations and RNA z-scores of the cases that are kept, where the file is there.

    The z-scores are the source's, taken over all its cases and with a heavy tail (up to hundreds), so they carry the
    unit `z` and belong to no score of the book's expression table.

    Parameters
    ----------
    path : Path
        Wide: case_id, `<gene>_mut` (0 or 1), `<gene>_rnaseq`, and copy numbers, which are not read here.
    case_ids : iterable of str
    facts : dict
        Receives how many cases have them.

    Returns
    -------
    DataFrame or None
        case_id, kind (mutation, rna_z), feature (the gene), value, unit.

    Raises
    ------
    SchemaError
        When the file has no column case_id.
    """
    if not path.is_file():
        return None
    kinds = {"_mut": ("mutation", "binary"), "_rnaseq": ("rna_z", "z")}
    table = pd.read_csv(path, usecols=lambda name: name == "case_id" or name.endswith(tuple(kinds)))
    if "case_id" not in table:
        msg = f"SchemaError: table '{path.name}' has no column 'case_id' (the patient's barcode). Fetch it again."
        raise SchemaError(msg)
    table = table.drop_duplicates("case_id").set_index("case_id")
    table = table.loc[table.index.intersection(list(case_ids))]
    facts["cases with mutations and RNA z-scores"] = len(table)
    parts = []
    for suffix, (kind, unit) in kinds.items():
        wide = table[[name for name in table if name.endswith(suffix)]]
        wide.columns = [name.removesuffix(suffix) for name in wide]
        long = wide.rename_axis("case_id").reset_index().melt("case_id", var_name="feature", value_name="value")
        parts.append(long.dropna(subset="value").assign(kind=kind, unit=unit))
    return pd.concat(parts, ignore_index=True)[["case_id", "kind", "feature", "value", "unit"]]


def _read_patients(path: Path, key: str, *, separator: str = ",") -> pd.DataFrame:
    table = read_text_table(path, separator=separator)
    if key not in table:
        msg = f"SchemaError: table '{path.name}' has no column '{key}' (the patient's barcode). Fetch it again."
        raise SchemaError(msg)
    repeated = table.loc[table[key].duplicated(), key]
    if len(repeated):
        msg = f"DuplicateError: patient '{repeated.iloc[0]}' occurs twice in '{path.name}', expected once."
        raise DuplicateError(f"{msg} Keep one row.")
    return table.set_index(key)


def list_features(folder: Path) -> pd.DataFrame:
    """List stored feature files by slide and patient.

    Parameters
    ----------
    folder : Path
        Holds `<slide barcode>.<uuid>.pt`.

    Returns
    -------
    DataFrame
        slide_id, case_id, features_path, kind, sorted by slide_id.

    Raises
    ------
    SchemaError
        When the folder holds no .pt file, or a name is no TCGA barcode.
    """
    paths = sorted(folder.glob("*.pt"))
    if not paths:
        msg = f"SchemaError: folder '{folder}' holds no .pt file, expected one per slide. Fetch the features."
        raise SchemaError(msg)
    for path in paths:
        if not path.name.startswith("TCGA-") or len(path.stem) < 12:
            msg = f"SchemaError: feature file '{path.name}' does not start with a TCGA barcode. Rename or remove it."
            raise SchemaError(msg)
    return pd.DataFrame(
        {
            "slide_id": [path.stem for path in paths],
            "case_id": [path.stem[:12] for path in paths],
            "features_path": [shorten(path.absolute()) for path in paths],
            "kind": "DX",
        }
    )


def _trace_losses(clinical: pd.DataFrame, wide: pd.DataFrame, slides: pd.DataFrame) -> tuple[CohortFlow, CohortFlow]:
    with_features = set(slides["case_id"])
    listed = sorted({*clinical.index, *wide.index, *with_features})
    cases = CohortFlow("patients in any table", listed)
    steps = (
        ("clinical data", set(clinical.index), "not in the clinical table"),
        ("RNA measured", set(wide.index), "no RNA expression"),
        ("features stored", with_features, "no stored features of a diagnostic slide"),
    )
    for step, present, reason in steps:
        cases.keep(step, {case_id: reason for case_id in cases.items if case_id not in present})
    why = {loss.item: loss.reason for loss in cases.losses}
    flow = CohortFlow("slides with features", slides["slide_id"], kind="slide")
    pairs = zip(slides["slide_id"], slides["case_id"], strict=True)
    flow.keep("patient included", {slide: f"patient: {why[case]}" for slide, case in pairs if case in why})
    return cases, flow


def _build_cases(clinical: pd.DataFrame, files: dict[str, Path], facts: dict[str, Any]) -> pd.DataFrame:
    centres = read_text_table(files["sites"], separator=";").drop_duplicates("TSS Code").set_index("TSS Code")
    site = clinical.index.str[5:7]
    cases = pd.DataFrame(
        {
            "case_id": clinical.index,
            "site": site,
            "centre": centres["Source Site"].reindex(site).to_numpy(),
            "age_years": clinical["age_at_initial_pathologic_diagnosis"].to_numpy(),
            "sex": clinical["gender"].map(SEXES).to_numpy(),
            "stage": _read_stages(clinical["ajcc_pathologic_tumor_stage"], facts).to_numpy(),
            "histology": clinical["histological_type"].to_numpy(),
            "race": clinical["race"].to_numpy(),
            "year_of_diagnosis": clinical["initial_pathologic_dx_year"].to_numpy(),
            **{name: blank_unreadable(clinical, column, RECEPTORS, facts).to_numpy() for name, column in _receptors()},
            **(
                {"subtype_2012": clinical["PAM50 mRNA"].map(SUBTYPE_2012).to_numpy()}
                if "PAM50 mRNA" in clinical
                else {}
            ),
        }
    )
    cases = cases.join(_read_extra(files["atlas"], "Patient ID", ATLAS_COLUMNS, separator="\t"), on="case_id")
    cases = cases.join(_read_extra(files["labels"], "STUDYID", LABEL_COLUMNS), on="case_id")
    cases["subtype"] = cases["subtype"].str.removeprefix("BRCA_")
    for name in ("neoadjuvant", "collected_retrospectively"):
        cases[name] = cases[name].map(YES_NO).astype("boolean")
    cases["ror_p"] = cases["ror_p"].astype(float)
    return _add_endpoints(cases, clinical, facts)


def _receptors() -> list[tuple[str, str]]:
    return [("er", "ER Status"), ("pr", "PR Status"), ("her2", "HER2 Final Status")]


def _read_stages(stages: pd.Series, facts: dict[str, Any]) -> pd.Series:
    """Set what is no stage ('Stage X', '[Discrepancy]') to missing, and count it."""
    blanked: dict[str, int] = {}

    def read(cell: Any) -> str | None:
        try:
            return parse_stage(cell)
        except ValueError:
            blanked[str(cell)] = blanked.get(str(cell), 0) + 1
            return None

    clean = stages.map(read)
    if blanked:
        facts["stage: words set to missing"] = blanked
    return clean


def _read_extra(path: Path, key: str, columns: dict[str, str], *, separator: str = ",") -> pd.DataFrame:
    """Read columns that a patient may lack; a table with one row per slide gives its first row per patient."""
    table = read_text_table(path, separator=separator)
    missing = [name for name in [key, *columns] if name not in table]
    if missing:
        msg = f"SchemaError: table '{path.name}' has no column '{missing[0]}'. Fetch it again."
        raise SchemaError(msg)
    return table.drop_duplicates(key).set_index(key)[list(columns)].rename(columns=columns)


def _add_endpoints(cases: pd.DataFrame, clinical: pd.DataFrame, facts: dict[str, Any]) -> pd.DataFrame:
    for endpoint, column in CDR_ENDPOINTS.items():
        days = clinical[f"{column}.time"].map(clean_cell).astype(float)
        event = clinical[column].map(clean_cell)
        cases[f"{endpoint}_time_months"] = convert_days(days).to_numpy()
        cases[f"{endpoint}_event"] = event.to_numpy()
    clean = pass_gate(check_cases(cases))
    time, event = combine_with_death(clean, "pfi")
    facts["time 0 (kept)"] = list(clean.loc[clean["os_time_months"] == 0, "case_id"])
    retrospective = int((clean["pfi_event"] & clean["collected_retrospectively"]).sum())
    facts["PFI events in retrospectively collected tissue"] = f"{retrospective} of {int(clean['pfi_event'].sum())}"
    return clean.assign(pfi_or_death_time_months=time, pfi_or_death_event=event)


def _lengthen(wide: pd.DataFrame) -> pd.DataFrame:
    long = wide.rename_axis("case_id").reset_index().melt("case_id", var_name="gene", value_name="value")
    return long.assign(unit="rsem")
