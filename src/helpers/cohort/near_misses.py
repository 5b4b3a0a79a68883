"""Columns and files that nearly have the name the book reads: without a word they would simply not be read.

Unknown columns of a table are kept and not read. That is right for 'batch', and wrong for 'Grade', 'tumor_size_mm' or
'os_time_days', whose owner believes that they are used.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from helpers.core.errors import DuplicateError, HistobookError, SchemaError
from helpers.core.vocab import DAYS_PER_MONTH, ENDPOINTS, event_column, time_column

AMERICAN = {"tumor": "tumour", "center": "centre"}
OTHER_TIMES = re.compile(r"(?:time)?_?(days?|months?|years?)?")
"""What may follow '<endpoint>_' in the name of a column that holds a follow-up time."""
DIVISORS = {"day": f"Divide it by {DAYS_PER_MONTH:g}", "year": "Multiply it by 12", "month": "Check it"}


def list_case_columns(columns: Iterable[str]) -> list[str]:
    """Return every column of the case table that the book reads: the given ones, and times and events of endpoints.

    Parameters
    ----------
    columns : iterable of str

    Returns
    -------
    list of str
    """
    return [*columns, *(name for endpoint in ENDPOINTS for name in (time_column(endpoint), event_column(endpoint)))]


def find_near_columns(table: pd.DataFrame, known: Iterable[str], *, table_name: str) -> list[HistobookError]:
    """Find columns that differ from one that is read in capitals, blanks, hyphens or American spelling only.

    Parameters
    ----------
    table : DataFrame
    known : iterable of str
        Columns that are read. One that the table has under its own name is not looked for.
    table_name : str
        For messages.

    Returns
    -------
    list of SchemaError
    """
    absent = {name for name in known if name not in table}
    problems: list[HistobookError] = []
    for column in map(str, table.columns):
        plain = re.sub(r"[\s.-]+", "_", column.strip().lower())
        plain = "_".join(AMERICAN.get(part, part) for part in plain.split("_"))
        if column not in absent and plain in absent:
            msg = f"SchemaError: table '{table_name}' has a column '{column}', expected '{plain}'. Rename it"
            problems.append(SchemaError(f"{msg}; under another name it would not be read."))
    return problems


def find_other_times(cases: pd.DataFrame) -> list[HistobookError]:
    """Find follow-up times that are named, and perhaps counted, otherwise than in months.

    Parameters
    ----------
    cases : DataFrame

    Returns
    -------
    list of SchemaError
        Such as for 'os_time_days' or 'rfs_years', where the table has no 'os_time_months' or 'rfs_time_months'.
    """
    problems: list[HistobookError] = []
    for endpoint in [name for name in ENDPOINTS if time_column(name) not in cases]:
        for column in map(str, cases.columns):
            rest = column.lower().removeprefix(f"{endpoint}_")
            match = OTHER_TIMES.fullmatch(rest) if rest and rest != column.lower() else None
            if match is None or rest == "time_months":  # other capitals only: `find_near_columns` says so
                continue
            remedy = DIVISORS[match[1].rstrip("s")] if match[1] else "Convert it to months"
            msg = f"SchemaError: table 'cases' has '{column}', expected follow-up in months, '{time_column(endpoint)}'."
            problems.append(SchemaError(f"{msg} {remedy}, and name it so."))
    return problems


def find_shared_files(slides: pd.DataFrame) -> list[HistobookError]:
    """Find slides that name the same file: in two cases, it would train and test.

    Parameters
    ----------
    slides : DataFrame
        slide_id, and path or features_path.

    Returns
    -------
    list of DuplicateError
    """
    problems: list[HistobookError] = []
    slides = slides.drop_duplicates("slide_id")
    for column in [name for name in ("path", "features_path") if name in slides]:
        named = slides.dropna(subset=column)
        for name, rows in named[named.duplicated(column, keep=False)].groupby(column, sort=False):
            ids = " and ".join(f"'{slide_id}'" for slide_id in rows["slide_id"].head(3))
            msg = f"DuplicateError: slides {ids} name the same file '{name}' ({column}), expected one file per slide."
            problems.append(DuplicateError(f"{msg} Correct {column}, or keep one of the rows."))
    return problems


def find_near_file(folder: Path, name: str) -> Path | None:
    """Find a file that has a table's name, but capitals or an ending that is not read.

    Parameters
    ----------
    folder : Path
    name : str
        'cases', 'slides', 'expression' and so on.

    Returns
    -------
    Path or None
        Such as 'Slides.csv' or 'expression.xlsx'.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return next((path for path in files if path.name.lower().split(".")[0] == name), None)
