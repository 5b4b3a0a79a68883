"""METABRIC from its raw files: the DeepSurv expression file joined to patients, and three endpoints.

The DeepSurv file holds four genes and overall survival of 1,904 patients without their names; age and follow-up
identify each of them. Its columns are EGFR, PGR, ERBB2, MKI67 (documented otherwise elsewhere): the third is high
where HER2 is amplified, the second where the PR stain is positive, the fourth rises with grade.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.cohort.flow import CohortFlow
from helpers.cohort.outcomes import read_times
from helpers.cohort.raw import RawCohort, blank_unreadable, pass_gate, require_files
from helpers.cohort.tables import check_cases, check_expression
from helpers.cohort.textfiles import read_text_table
from helpers.core.errors import SchemaError

FILES = {
    "expression": "metabric_IHC4_clinical_train_test.h5",
    "patients": "cbioportal_data_clinical_patient.txt",
    "samples": "cbioportal_data_clinical_sample.txt",
    "relapse": "kaggle_Breast_Cancer_METABRIC.csv",
}
LAYOUT = "the raw METABRIC files. `histobook fetch metabric` fills such a folder."
GENES = ("EGFR", "PGR", "ERBB2", "MKI67")
DEEPSURV_COLUMNS = (*GENES, "hormone", "radio", "chemo", "er_ihc", "age")
MONTH_TOLERANCE = 1.0  # follow-up counts months of 30 days, relapse months of 30.4: they differ by 1.3 %
SIGNS = {"+": "positive", "-": "negative"}
DIED_OF_DISEASE = {"Living": False, "Died of Other Causes": False, "Died of Disease": True}


def import_metabric(source: Path) -> RawCohort:
    """Join the raw METABRIC files to 1,904 patients with MKI67 and follow-up.

    Endpoints: os (DeepSurv's time and event), rfs (recurrence or death: the relapse time where a relapse is recorded,
    the end of follow-up otherwise), dss (death of disease). A relapse recorded after the end of follow-up, and a time
    of 0, are kept and counted; a patient without relapse status or cause of death is lost from that endpoint only.

    Parameters
    ----------
    source : Path
        Folder holding `FILES`.

    Returns
    -------
    RawCohort
        Cases and expression (log2 of the array's intensity).

    Raises
    ------
    SchemaError
        When a file is missing or cut, or a DeepSurv row fits no patient or more than one.
    """
    files = require_files(source, FILES, what=LAYOUT)
    rows = read_deepsurv(files["expression"])
    patients = read_text_table(files["patients"], separator="\t", comment="#")
    samples = read_text_table(files["samples"], separator="\t", comment="#")
    relapse = read_text_table(files["relapse"])
    _require_columns(relapse, files["relapse"])
    joined = join_deepsurv(rows, patients)
    facts: dict[str, Any] = {}
    cases = pass_gate(check_cases(build_cases(joined, samples, relapse, facts)))
    flow = CohortFlow("patients listed", list(patients["PATIENT_ID"]))
    measured = set(cases["case_id"])
    flow.keep("expression measured", {p: "no row in the expression file" for p in flow.items if p not in measured})
    long = joined.melt("PATIENT_ID", list(GENES), var_name="gene", value_name="value")
    expression = long.rename(columns={"PATIENT_ID": "case_id"}).assign(unit="log2")
    return RawCohort(cases, [flow], expression=pass_gate(check_expression(expression)), facts=facts)


def read_deepsurv(path: Path) -> pd.DataFrame:
    """Read the DeepSurv file: two groups (train, test) of x (n, 9), t (n,) and e (n,).

    Parameters
    ----------
    path : Path

    Returns
    -------
    DataFrame
        `DEEPSURV_COLUMNS`, time_months, event, deepsurv_split.

    Raises
    ------
    SchemaError
        When the file is no HDF5, or a group or column is missing.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            parts = [_read_group(file[split], split) for split in ("train", "test")]
    except (OSError, KeyError, ValueError) as error:
        msg = (
            f"SchemaError: '{path.name}' cannot be read as the DeepSurv file ({error}); expected HDF5 with train and "
            "test, each x (n, 9), t, e. Fetch it again."
        )
        raise SchemaError(msg) from error
    return pd.concat(parts, ignore_index=True)


def _read_group(group: Any, split: str) -> pd.DataFrame:
    table = pd.DataFrame(group["x"][:].astype(float), columns=list(DEEPSURV_COLUMNS))
    return table.assign(time_months=group["t"][:].astype(float), event=group["e"][:].astype(bool), deepsurv_split=split)


def join_deepsurv(rows: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    """Give each DeepSurv row its patient: the one of the same age and the same overall follow-up.

    Parameters
    ----------
    rows : DataFrame
        Of `read_deepsurv`.
    patients : DataFrame
        cBioPortal's patient table: PATIENT_ID, AGE_AT_DIAGNOSIS, OS_MONTHS (text).

    Returns
    -------
    DataFrame
        `rows` with the patient table's columns, in the order of `rows`.

    Raises
    ------
    SchemaError
        When a row fits no patient, or two.
    """
    stated = patients.dropna(subset=["AGE_AT_DIAGNOSIS", "OS_MONTHS"])
    keys = [_make_key(stated["AGE_AT_DIAGNOSIS"], stated["OS_MONTHS"]), _make_key(rows["age"], rows["time_months"])]
    counts = keys[1].map(keys[0].value_counts()).fillna(0)
    wrong = counts.index[counts != 1]
    if len(wrong):
        row = rows.loc[wrong[0]]
        msg = (
            f"SchemaError: DeepSurv row {wrong[0]} (age {row['age']:.2f}, {row['time_months']:.2f} months) fits "
            f"{int(counts[wrong[0]])} patients, expected one ({len(wrong)} such rows). The two files are not of the "
            "same release; fetch both again."
        )
        raise SchemaError(msg)
    joined = rows.assign(key=keys[1]).merge(stated.assign(key=keys[0]), on="key", how="left", validate="1:1")
    return joined.drop(columns="key")


def _make_key(age: pd.Series, months: pd.Series) -> pd.Series:
    return age.astype(float).round(2).map("{:.2f}".format) + "|" + months.astype(float).round(2).map("{:.2f}".format)


def build_cases(
    joined: pd.DataFrame, samples: pd.DataFrame, relapse: pd.DataFrame, facts: dict[str, Any]
) -> pd.DataFrame:
    """Put one row per patient together: clinical columns and three endpoints.

    Parameters
    ----------
    joined : DataFrame
        Of `join_deepsurv`.
    samples : DataFrame
        cBioPortal's sample table: receptors (ER_STATUS, by expression), grade, size, stage.
    relapse : DataFrame
        The clinical table with relapse and cause of death.
    facts : dict
        Receives counts.

    Returns
    -------
    DataFrame
    """
    table = joined.merge(samples.drop_duplicates("PATIENT_ID"), on="PATIENT_ID", how="left", validate="1:1")
    table = table.merge(relapse, left_on="PATIENT_ID", right_on="Patient ID", how="left", validate="1:1")
    cases = pd.DataFrame(
        {
            "case_id": table["PATIENT_ID"],
            "site": table["COHORT"],
            "centre": "METABRIC cohort " + table["COHORT"],
            "age_years": table["age"].round(2),
            "sex": table["Sex"],
            "stage": table["TUMOR_STAGE"],
            "tumour_size_mm": table["TUMOR_SIZE"],
            "nodes_positive": table["Lymph nodes examined positive"],
            "grade": table["GRADE"],
            **{name: blank_unreadable(table, f"{name.upper()}_STATUS", SIGNS, facts) for name in ("er", "pr", "her2")},
            "er_ihc": table["er_ihc"].map({1.0: "positive", 0.0: "negative"}),
            "subtype": table["CLAUDIN_SUBTYPE"].replace({"NC": None}),
            "histology": table["ONCOTREE_CODE"],
            "hormone_therapy": table["hormone"].astype(bool),
            "radiotherapy": table["radio"].astype(bool),
            "chemotherapy": table["chemo"].astype(bool),
            "deepsurv_split": table["deepsurv_split"],
            "os_time_months": table["time_months"],
            "os_event": table["event"],
        }
    )
    _add_endpoints(cases, table)
    _count_oddities(cases, table, facts)
    return cases


def _add_endpoints(cases: pd.DataFrame, table: pd.DataFrame) -> None:
    """Add rfs and dss; a patient without a relapse status or a cause of death has no event status there."""
    recurred = table["Relapse Free Status"].map({"Recurred": True, "Not Recurred": False}).astype("boolean")
    relapse_time = read_times(table["Relapse Free Status (Months)"])
    follow_up = cases["os_time_months"]
    cases["rfs_time_months"] = relapse_time.where(recurred.fillna(False).astype(bool), follow_up)
    cases["rfs_event"] = (recurred | cases["os_event"]).where(recurred.notna()).astype("boolean")
    cases["dss_time_months"] = follow_up
    cases["dss_event"] = table["Patient's Vital Status"].map(DIED_OF_DISEASE).astype("boolean")


def _count_oddities(cases: pd.DataFrame, table: pd.DataFrame, facts: dict[str, Any]) -> None:
    relapse_time = read_times(table["Relapse Free Status (Months)"])
    late = relapse_time > cases["os_time_months"] + MONTH_TOLERANCE
    disagree = table["OS_STATUS"].str.upper().str.contains("DECEASED").astype(bool) != cases["os_event"]
    zero = np.minimum(cases["rfs_time_months"], cases["os_time_months"]) == 0
    facts |= {
        "relapse-free time more than a month beyond the end of follow-up (kept)": list(cases.loc[late, "case_id"]),
        "time 0 (kept)": list(cases.loc[zero, "case_id"]),
        "vital status of cBioPortal differs from DeepSurv's event (DeepSurv's used)": int(disagree.sum()),
        "stage not stated (missing)": int(cases["stage"].isna().sum()),
    }


def _require_columns(relapse: pd.DataFrame, path: Path) -> None:
    needed = ["Patient ID", "Relapse Free Status", "Relapse Free Status (Months)", "Patient's Vital Status", "Sex"]
    missing = [name for name in needed if name not in relapse]
    if missing:
        msg = f"SchemaError: table '{path.name}' has no column '{missing[0]}', expected {', '.join(needed)}."
        raise SchemaError(f"{msg} Fetch it again.")
