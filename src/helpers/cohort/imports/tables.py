"""A user's own cohort: a folder with cases.csv and what else there is."""

from pathlib import Path
from typing import Any

import pandas as pd

from helpers.cohort.flow import CohortFlow
from helpers.cohort.near_misses import find_near_file
from helpers.cohort.omics import read_omics
from helpers.cohort.outcomes import combine_with_death, list_endpoints
from helpers.cohort.raw import RawCohort
from helpers.cohort.tables import (
    find_unlinked,
    read_cases,
    read_expression,
    read_slides,
    read_spot_expression,
    read_spots,
)
from helpers.core.errors import SchemaError
from helpers.core.paths import shorten

SUFFIXES = (".parquet", ".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")
OPTIONAL = ("slides", "expression", "spots", "spot_expression")


def find_table(folder: Path, name: str) -> Path | None:
    """Find a table by its name, whatever its suffix.

    Parameters
    ----------
    folder : Path
    name : str
        'cases', 'slides', 'expression', 'spots', 'spot_expression'.

    Returns
    -------
    Path or None

    Raises
    ------
    SchemaError
        When the folder holds the table in two formats, which may differ, or in none that is read ('slides.xlsx').
    """
    found = [folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        msg = f"SchemaError: folder '{folder}' holds {names}, expected one of them. Remove the one that is out of date."
        raise SchemaError(msg)
    near = None if found else find_near_file(folder, name)
    if near is not None:
        names = ", ".join(f"'{name}{suffix}'" for suffix in SUFFIXES[:4])
        msg = f"SchemaError: folder '{folder}' holds '{near.name}', which is not read, expected {names}"
        raise SchemaError(f"{msg} (or .gz). Export or rename it, or take it away.")
    return found[0] if found else None


def import_tables(source: Path) -> RawCohort:
    """Read a cohort that is in the book's own layout.

    Parameters
    ----------
    source : Path
        Holds cases.csv (or .parquet) and, as far as they exist, slides, expression, spots and spot_expression, and
        omics.parquet.
        Relative paths of slides and features start at this folder.

    Returns
    -------
    RawCohort
        `pfi_or_death` is added where pfi and os are given and it is not.

    Raises
    ------
    SchemaError, DuplicateError, OutcomeError
        When cases are missing or a table does not pass its gate.
    """
    path = find_table(source, "cases")
    if path is None:
        msg = (
            f"SchemaError: folder '{source}' holds no cases.csv or cases.parquet, expected one row per case. "
            "Add it (column case_id), or set `data` of the profile to the cohort's folder."
        )
        raise SchemaError(msg)
    facts: dict[str, Any] = {}
    cases = _add_progression_or_death(read_cases(path), facts)
    slides = _read_slides(source, cases)
    flows = [CohortFlow("cases listed", cases["case_id"])]
    if slides is not None:
        flows.append(CohortFlow("slides listed", slides["slide_id"], kind="slide"))
    optional = {"expression": read_expression, "spots": read_spots, "spot_expression": read_spot_expression}
    found = {name: find_table(source, name) for name in optional}
    tables = {name: optional[name](path) if path else None for name, path in found.items()}
    _link_expression(tables["expression"], cases, facts)
    if (source / "omics.parquet").is_file():
        tables["omics"] = read_omics(source / "omics.parquet")
    return RawCohort(cases, flows, slides=slides, facts=facts, **tables)


def _link_expression(expression: pd.DataFrame | None, cases: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Refuse an expression table of other ids, and count who is in one of the two tables only."""
    if expression is None:
        return
    problems = find_unlinked(expression, cases["case_id"])
    if problems:
        raise problems[0]
    measured, listed = list(expression["case_id"].unique()), list(cases["case_id"])
    strangers = sorted(set(measured) - set(listed))
    if strangers:
        facts["expression of cases that are not listed, left out"] = strangers


def _read_slides(source: Path, cases: pd.DataFrame) -> pd.DataFrame | None:
    path = find_table(source, "slides")
    if path is None:
        return None
    slides = read_slides(path, case_ids=cases["case_id"])
    for column in ("path", "features_path"):
        if column in slides:
            slides[column] = slides[column].map(lambda name: shorten((source / name).absolute()), na_action="ignore")
    return slides


def _add_progression_or_death(cases: pd.DataFrame, facts: dict[str, Any]) -> pd.DataFrame:
    known = list_endpoints(cases)
    if "pfi_or_death" in known or not {"pfi", "os"} <= set(known):
        return cases
    time, event = combine_with_death(cases, "pfi")
    facts["pfi_or_death"] = "built from pfi and os"
    return cases.assign(pfi_or_death_time_months=time, pfi_or_death_event=event)
