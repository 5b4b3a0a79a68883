"""A cohort as an importer hands it over: clean tables, the flow that led to them, and facts worth recording."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.cohort.flow import CohortFlow
from helpers.core.errors import HistobookError, SchemaError
from helpers.core.paths import read_json
from helpers.core.provenance import BOOK
from helpers.core.specs import PhantomSpec


@dataclass(frozen=True)
class RawCohort:
    """Tables of one cohort, before inclusion rules and splits.

    Parameters
    ----------
    cases : DataFrame
        As `tables.check_cases` returns it.
    flows : list of CohortFlow
        One per kind of item (cases first), from what was listed to what is here.
    slides, expression, spots, spot_expression, omics : DataFrame or None
        None where the cohort has none.
    facts : dict
        Counts and choices to record and print: rows at time 0, values set to missing, how a resolution was found.
    """

    cases: pd.DataFrame
    flows: list[CohortFlow]
    slides: pd.DataFrame | None = None
    expression: pd.DataFrame | None = None
    spots: pd.DataFrame | None = None
    spot_expression: pd.DataFrame | None = None
    omics: pd.DataFrame | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def choose_folder(folder: Path, phantom: PhantomSpec, *, run_name: str) -> Path:
    """Choose where a phantom is made: the book's folder, or one beside it for a named run of another phantom.

    An exploratory run with other effects must not write over the slides that the book's results rest on.

    Parameters
    ----------
    folder : Path
        The profile's raw folder.
    phantom : PhantomSpec
    run_name : str
        'book' always gets `folder`.

    Returns
    -------
    Path
    """
    recorded = folder / "truth" / "spec.json"
    if run_name == BOOK or not recorded.is_file() or read_json(recorded)["spec"] == phantom.key_fields():
        return folder
    return folder.with_name(f"{folder.name}@{run_name}")


def pass_gate(checked: tuple[pd.DataFrame, list[HistobookError]]) -> pd.DataFrame:
    """Return a checked table, or raise its first problem.

    Parameters
    ----------
    checked : tuple
        What `tables.check_cases` and its siblings return.

    Returns
    -------
    DataFrame

    Raises
    ------
    HistobookError
        The first problem.
    """
    table, problems = checked
    if problems:
        raise problems[0]
    return table


def require_files(folder: Path, names: dict[str, str], *, what: str) -> dict[str, Path]:
    """Find the files of a raw layout; name every missing one at once.

    Parameters
    ----------
    folder : Path
    names : dict of str to str
        Key to the file's (or folder's) name under `folder`.
    what : str
        The layout in words, and how to get it.

    Returns
    -------
    dict of str to Path

    Raises
    ------
    SchemaError
        Lists the missing files.
    """
    missing = [name for name in names.values() if not (folder / name).exists()]
    if missing:
        listed = ", ".join(f"'{name}'" for name in missing)
        msg = f"SchemaError: folder '{folder}' lacks {listed}, expected {what}"
        raise SchemaError(msg)
    return {key: folder / name for key, name in names.items()}


def blank_unreadable(table: pd.DataFrame, column: str, accepted: dict[str, str], facts: dict[str, Any]) -> pd.Series:
    """Map a column's words to ours; words that mean "not known" become missing and are counted.

    Parameters
    ----------
    table : DataFrame
        Text cells.
    column : str
    accepted : dict of str to str
        Their word to ours. Every other word becomes missing.
    facts : dict
        Receives `<column>: words set to missing` with a count per word.

    Returns
    -------
    Series of str
    """
    values = table[column].map(accepted)
    blanked = table.loc[values.isna() & table[column].notna(), column].value_counts()
    if len(blanked):
        facts[f"{column}: words set to missing"] = {str(word): int(count) for word, count in blanked.items()}
    return values
