"""Text tables as other people leave them: any line end, ids as text, and a cut file is an error.

pandas pads a short row with missing values, so a download cut in mid-row becomes a patient without data. Here every
row is counted against the header first.
"""

import csv
import gzip
import io
from pathlib import Path

import pandas as pd

from helpers.core.errors import DuplicateError, SchemaError

MISSING_WORDS = frozenset(
    {"", "na", "n/a", "nan", "none", "null", "--", "'--", "[not available]", "[not applicable]", "[not evaluated]"}
)
"""Cells that mean "nothing here", compared in lower case. "Unknown" is not among them: it is a statement."""


def read_text_table(path: str | Path, *, separator: str = ",", comment: str | None = None) -> pd.DataFrame:
    """Read a delimited text table with every cell as text ('007' stays '007') and empty cells as missing.

    Parameters
    ----------
    path : str or Path
        May end in .gz. Line ends may be LF, CRLF or CR alone (old Mac exports).
    separator : str
        One character between fields.
    comment : str, optional
        Lines that start with it are skipped (cBioPortal: '#').

    Returns
    -------
    DataFrame
        Object columns of str, `None` where the cell is one of `MISSING_WORDS`.

    Raises
    ------
    SchemaError
        When the file is missing or empty, its fields are separated otherwise, or a row has another number of fields
        than the header (a cut download). Rows in which every field is empty are no rows.
    DuplicateError
        When a column name occurs twice.
    """
    path = Path(path)
    lines = [line for line in read_lines(path) if line and not (comment and line.startswith(comment))]
    rows = list(csv.reader(lines, delimiter=separator))
    if not rows:
        msg = f"SchemaError: table '{path.name}' holds no rows, expected a header and data. Fetch or export it again."
        raise SchemaError(msg)
    header = [name.strip() for name in rows[0]]
    _check_separator(header, separator, path)
    _check_header(header, path)
    rows = [row for row in rows if len(row) != len(header) or any(map(str.strip, row))]  # Excel's empty last rows
    _check_lengths(rows, header, path)
    table = pd.DataFrame(rows[1:], columns=header, dtype=object)
    return table.apply(lambda column: column.map(clean_cell))


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, whatever their ends; a byte-order mark is dropped.

    Parameters
    ----------
    path : Path
        May end in .gz.

    Returns
    -------
    list of str

    Raises
    ------
    SchemaError
        When the file is missing or is not UTF-8 text.
    """
    if not path.is_file():
        msg = f"SchemaError: table '{path.name}' was not found in '{path.parent}'. Check the folder, or fetch it."
        raise SchemaError(msg)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        msg = f"SchemaError: table '{path.name}' is not UTF-8 text (byte {error.start}, in line {line}). Export it as"
        raise SchemaError(f"{msg} UTF-8 (in Excel: 'CSV UTF-8').") from error
    return list(map(_strip_newline, io.StringIO(text, newline=None)))


def clean_cell(cell: object) -> str | None:
    """Strip a cell; one that says "nothing here" becomes None.

    Parameters
    ----------
    cell : object
        Text, or None.

    Returns
    -------
    str or None
    """
    if cell is None:
        return None
    text = str(cell).strip()
    return None if text.lower() in MISSING_WORDS else text


def _strip_newline(line: str) -> str:
    return line.rstrip("\n")


def _check_separator(header: list[str], separator: str, path: Path) -> None:
    other = next((mark for mark in (";", "\t", ",") if mark in header[0]), None)
    if len(header) > 1 or other is None:
        return
    names = {";": "semicolons", "\t": "tabs", ",": "commas"}
    advice = (
        "Rename it to .tsv."
        if other == "\t"
        else f"Export it with {names[separator]}, and with points as decimal marks (12.5, not 12,5)."
    )
    msg = f"SchemaError: table '{path.name}' is separated by {names[other]}, expected {names[separator]}. {advice}"
    raise SchemaError(msg)


def _check_header(header: list[str], path: Path) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        msg = f"DuplicateError: table '{path.name}' has column '{repeated[0]}' twice, expected once."
        raise DuplicateError(f"{msg} Rename or drop one.")


def _check_lengths(rows: list[list[str]], header: list[str], path: Path) -> None:
    wrong = [number for number, row in enumerate(rows) if len(row) != len(header)]
    if not wrong:
        return
    number = wrong[0]
    found = f"row {number} of {len(rows) - 1} has {len(rows[number])} fields, expected {len(header)}"
    cut = number == len(rows) - 1 and len(rows[number]) < len(header)
    size = path.stat().st_size
    advice = (
        f"The file ends in mid-row after {size:,} bytes: the download was cut. Fetch it again."
        if cut
        else "Check the separator and the quotes in that row."
    )
    msg = f"SchemaError: table '{path.name}': {found}. {advice}"
    raise SchemaError(msg)
