"""SCAN-B from the tables of Staaf et al. 2022: 6,660 patients with RNA sequencing and follow-up, no slides.

Two files of the Mendeley data set yzxtxn4nmd: the sheet SCANB.9206 of Supplementary Data Table 1 (saved as CSV: a
workbook is not read), one row per library, and the gene matrix of FPKM with gene symbols, one column per library. The
column names are those of the data set's third version, as scripts that others published read them; nobody on this
project has opened the files themselves. What is assumed is stated at each step and listed in `ASSUMED`.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd

from helpers.cohort.flow import CohortFlow
from helpers.cohort.genes import list_signatures, read_aliases, read_signature
from helpers.cohort.outcomes import combine_with_death, convert_days, read_events, read_times
from helpers.cohort.raw import RawCohort, blank_unreadable, pass_gate, require_files
from helpers.cohort.tables import check_cases, check_expression
from helpers.cohort.textfiles import read_text_table
from helpers.core.errors import DuplicateError, SchemaError

FILES: Final = {"clinical": "SCANB.9206.csv", "expression": "SCANB.9206.genematrix_noNeg.Symbol.txt"}
LAYOUT: Final = (
    "two tables of the Mendeley data set yzxtxn4nmd (doi 10.17632/yzxtxn4nmd.3): the sheet SCANB.9206 of Supplementary "
    "Data Table 1 saved as CSV, and the FPKM gene matrix by symbol."
)
NEEDED: Final = (
    "Follow.up.cohort", "GEX.assay", "Patient", "ER", "PR", "HER2", "NHG", "Size.mm", "LN.spec", "OS_days", "OS_event",
    "RFi_days", "RFi_event",
)  # fmt: skip
SIGNS: Final = {"Positive": "positive", "Negative": "negative"}
AGE_STEP_YEARS: Final = 5.0
"""Ages are published as the upper end of a 5-year range: 35 means 31 to 35, taken as 33."""
ASSUMED: Final = (
    "RFi counts recurrence, and censors other deaths; it is filed under dfi",
    "rfs (recurrence or death) is built from RFi and OS",
    "age is the middle of its published 5-year range",
    "genes are FPKM on the linear scale; rows of one symbol are added",
    "a patient is one row of the follow-up cohort; other libraries are repeats",
)


def import_scanb(source: Path) -> RawCohort:
    """Read the follow-up cohort of SCAN-B: clinical columns, relapse-free interval, overall survival, genes in FPKM.

    Of 9,206 libraries those outside the follow-up cohort leave by name. Only the genes of the book's lists are read
    from the matrix, line by line, since the whole of it is larger than a laptop's memory.

    Parameters
    ----------
    source : Path
        Folder holding `FILES`.

    Returns
    -------
    RawCohort

    Raises
    ------
    SchemaError
        When a file or column is missing, or a library of the cohort has no column in the matrix.
    DuplicateError
        When a patient has two libraries in the follow-up cohort.
    """
    files = require_files(source, FILES, what=LAYOUT)
    table = read_text_table(files["clinical"])
    _require_columns(table, files["clinical"])
    flow = CohortFlow("libraries listed", list(table["GEX.assay"]), kind="library")
    outside = table["Follow.up.cohort"].str.upper().isin(["TRUE", "1"])
    flow.keep("follow-up cohort", dict.fromkeys(table.loc[~outside, "GEX.assay"], "not in the follow-up cohort"))
    followed = table[outside].reset_index(drop=True)
    _check_once(followed)
    facts: dict[str, Any] = {"assumed": list(ASSUMED)}
    cases = pass_gate(check_cases(build_cases(followed, facts)))
    patients = dict(zip(followed["GEX.assay"], followed["Patient"], strict=True))
    expression = pass_gate(check_expression(read_matrix(files["expression"], patients, facts)))
    return RawCohort(cases, [CohortFlow("patients followed", list(cases["case_id"])), flow], expression=expression,
                     facts=facts)  # fmt: skip


def _require_columns(table: pd.DataFrame, path: Path) -> None:
    missing = [name for name in NEEDED if name not in table]
    if missing or not any(name.startswith("Age") for name in table):
        listed = ", ".join([*missing, *([] if any(name.startswith("Age") for name in table) else ["Age …"])])
        msg = (
            f"SchemaError: table '{path.name}' has no column {listed}; expected the sheet SCANB.9206 with its own "
            "names. Save that sheet as CSV, unchanged."
        )
        raise SchemaError(msg)


def _check_once(followed: pd.DataFrame) -> None:
    twice = followed.loc[followed["Patient"].duplicated(), "Patient"]
    if len(twice) or followed["Patient"].isna().any():
        named = f"patient '{twice.iloc[0]}' has more than one" if len(twice) else "a row states no patient for its"
        msg = f"DuplicateError: {named} library in the follow-up cohort, expected one each. Use the table as published."
        raise DuplicateError(msg)


def build_cases(followed: pd.DataFrame, facts: dict[str, Any]) -> pd.DataFrame:
    """Put one row per patient together.

    Parameters
    ----------
    followed : DataFrame
        Text cells of the follow-up cohort.
    facts : dict
        Receives counts.

    Returns
    -------
    DataFrame
    """
    age = next(name for name in followed if name.startswith("Age"))
    cases = pd.DataFrame(
        {
            "case_id": followed["Patient"],
            "library": followed["GEX.assay"],
            "age_years": read_times(followed[age]) - (AGE_STEP_YEARS - 1) / 2,
            "tumour_size_mm": read_times(followed["Size.mm"]),
            "nodes_group": followed["LN.spec"],  # N0, SubMicroMet, 1to3, 4toX: a count is not published
            "grade": blank_unreadable(followed, "NHG", {"1": "1", "2": "2", "3": "3"}, facts),
            **{name.lower(): blank_unreadable(followed, name, SIGNS, facts) for name in ("ER", "PR", "HER2")},
            "subtype": followed.get("SSP.PAM50", pd.Series(index=followed.index, dtype=object)),
            "histology": followed.get("InvCa.type", pd.Series(index=followed.index, dtype=object)),
            "treatment": followed.get("TreatGroup", pd.Series(index=followed.index, dtype=object)),
        }
    )
    for endpoint, theirs in (("os", "OS"), ("dfi", "RFi")):
        cases[f"{endpoint}_time_months"] = convert_days(read_times(followed[f"{theirs}_days"]))
        cases[f"{endpoint}_event"] = read_events(followed[f"{theirs}_event"])
    cases["rfs_time_months"], cases["rfs_event"] = combine_with_death(cases, "dfi")
    facts["no relapse-free interval stated"] = int(cases["dfi_event"].isna().sum())
    return cases


def read_matrix(path: Path, patients: dict[str, str], facts: dict[str, Any]) -> pd.DataFrame:
    """Read the genes of the book's lists from the gene matrix, for the libraries of the cohort.

    Parameters
    ----------
    path : Path
        Tab-separated; the header's first cell is empty or a name, or left out (as R writes it). May end in .gz.
    patients : dict of str to str
        Library to patient.
    facts : dict
        Receives the symbols that stand in several rows.

    Returns
    -------
    DataFrame
        case_id, gene, value, unit ('fpkm').

    Raises
    ------
    SchemaError
        When a library has no column, a row is cut, a cell is no number, or no gene of the lists is there.
    """
    lines = _open_lines(path)
    header = [cell.strip('"') for cell in next(lines, "").rstrip("\r\n").split("\t")]
    rows: dict[str, list[pd.Series]] = {}
    wanted = _list_wanted()
    for line in lines:
        symbol, _, rest = line.rstrip("\r\n").partition("\t")
        symbol = symbol.strip('"')
        if symbol not in wanted:
            continue
        rows.setdefault(symbol, []).append(_read_row(rest.split("\t"), header, symbol, path))
    if not rows:
        msg = f"SchemaError: table '{path.name}' holds none of the {len(wanted)} genes of data/genes.yaml, expected "
        raise SchemaError(f"{msg}gene symbols in its first column. Take the file that ends in .Symbol.txt.")
    facts["symbols in several rows (added)"] = {name: len(found) for name, found in rows.items() if len(found) > 1}
    wide = pd.DataFrame({name: sum(found[1:], start=found[0]) for name, found in rows.items()})
    absent = [library for library in patients if library not in wide.index]
    if absent:
        msg = (
            f"SchemaError: library '{absent[0]}' has no column in '{path.name}' ({len(absent)} of {len(patients)}). "
            "Take the matrix and the clinical table of the same version."
        )
        raise SchemaError(msg)
    chosen = wide.loc[list(patients)].rename(index=patients).rename_axis("case_id").reset_index()
    return chosen.melt("case_id", var_name="gene", value_name="value").assign(unit="fpkm")


def _open_lines(path: Path) -> Iterator[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from file
    else:
        with path.open(encoding="utf-8") as file:
            yield from file


def _list_wanted() -> set[str]:
    current = {gene for name in list_signatures() for gene in read_signature(name)}
    return current | {old for old, new in read_aliases().items() if new in current} | set(read_aliases().values())


def _read_row(cells: list[str], header: list[str], symbol: str, path: Path) -> pd.Series:
    libraries = header[1:] if len(header) == len(cells) + 1 else header
    try:
        if len(libraries) != len(cells):
            raise ValueError(f"{len(cells)} numbers for {len(libraries)} libraries")
        return pd.Series([float(cell) for cell in cells], index=libraries)
    except ValueError as error:
        msg = f"SchemaError: row '{symbol}' of '{path.name}' cannot be read ({error}). Fetch the file again."
        raise SchemaError(msg) from error
