"""The gate for cases, slides, expression and spots: what passes it needs no further check.

Ids are text everywhere ('007' stays '007'), unknown columns are kept, and every complaint names the item, what was
found, what was expected and what to do. `check_*` lists all problems of a table (for `histobook doctor`); `read_*`
raises the first one.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.cohort.near_misses import find_near_columns, find_other_times, find_shared_files, list_case_columns
from helpers.cohort.outcomes import (
    check_outcome,
    flip_censorship,
    list_endpoints,
    parse_event,
    read_events,
    read_times,
    select_outcome,
    to_number,
)
from helpers.cohort.textfiles import clean_cell, read_text_table
from helpers.core.errors import DuplicateError, HistobookError, OutcomeError, SchemaError
from helpers.core.vocab import ENDPOINTS, SLIDE_KINDS, event_column, time_column

__all__ = [
    "CASE_COLUMNS",
    "SLIDE_COLUMNS",
    "UNITS",
    "check_cases",
    "check_expression",
    "check_slides",
    "check_spot_expression",
    "check_spots",
    "find_unlinked",
    "group_stages",
    "list_endpoints",
    "parse_stage",
    "read_cases",
    "read_expression",
    "read_slides",
    "read_spot_expression",
    "read_spots",
    "read_table",
    "select_outcome",
]

UNITS = ("log2", "rsem", "tpm", "fpkm", "cp10k", "count")
"""Units of an expression value. 'log2' is on the log scale already; the others are linear and not negative."""

RECEPTOR_WORDS = {
    **dict.fromkeys(["positive", "pos", "+", "1", "1.0", "true", "yes"], "positive"),
    **dict.fromkeys(["negative", "neg", "-", "0", "0.0", "false", "no"], "negative"),
}
SEX_WORDS = {**dict.fromkeys(["female", "f"], "female"), **dict.fromkeys(["male", "m"], "male")}
STAGE_PATTERN = re.compile(r"(?:stage\s*)?((?:0|IV|I{1,3})(?:[A-D]\d?)?)", re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
NO_FILE_NAME = re.compile(r"[/\\\0]|^\.")
"""What a slide's id must not hold, since its files are called by it."""
NO_SITE = "not stated"
"""The site of cases that state none."""
N_LISTED = 20
"""Cells of one column, or repeated ids of one table, that are described one by one; the others are counted."""
MAX_LOG2 = 40.0
"""Largest believable log2 value: 10^12 molecules."""
ARABIC_STAGES = {"1": "I", "2": "II", "3": "III", "4": "IV"}


@dataclass(frozen=True)
class Column:
    """One column of a table: how a cell is read, and what is expected of it.

    Parameters
    ----------
    dtype : str
        Pandas dtype of the clean column.
    parse : callable
        Cell -> value; None where missing; raises ValueError where the cell cannot be read.
    expected : str
        What a cell must be, for the message.
    required : bool
        An empty cell is an error.
    """

    dtype: str
    parse: Callable[[Any], Any]
    expected: str
    required: bool = False


def _take_text(cell: Any) -> str | None:
    return clean_cell(None if _is_missing(cell) else cell)


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and math.isnan(cell))


def _take_number(low: float, high: float, *, whole: bool = False) -> Callable[[Any], float | None]:
    def parse(cell: Any) -> float | None:
        number = to_number(cell)
        if number is None:
            return None
        if not low <= number <= high or (whole and number != round(number)):
            raise ValueError(cell)
        return number

    return parse


def _take_word(words: dict[str, str]) -> Callable[[Any], str | None]:
    def parse(cell: Any) -> str | None:
        text = _take_text(cell)
        if text is None:
            return None
        if text.lower() not in words:
            raise ValueError(cell)
        return words[text.lower()]

    return parse


def parse_stage(cell: Any) -> str | None:
    """Read an AJCC stage.

    Parameters
    ----------
    cell : Any
        'Stage IIA', 'IIIC', '2', 2.0 or missing.

    Returns
    -------
    str or None
        '0', 'I', 'IA' ... 'IV', in capitals and without the word.

    Raises
    ------
    ValueError
        When the text is no stage ('Stage X', '[Discrepancy]').
    """
    text = _take_text(cell)
    if text is None:
        return None
    text = ARABIC_STAGES.get(text.removesuffix(".0"), text.removesuffix(".0"))
    match = STAGE_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(cell)
    return match.group(1).upper()


def group_stages(stages: pd.Series) -> pd.Series:
    """Reduce stages to their Roman number ('IIIC' to 'III').

    Parameters
    ----------
    stages : Series of str
        Clean, as `check_cases` returns them.

    Returns
    -------
    Series of str
    """
    return stages.str.extract(r"^(0|IV|I{1,3})", expand=False)


def _take_truth(cell: Any) -> bool | None:
    text = _take_text(cell)
    word = {"yes": "true", "no": "false"}.get(text.lower(), text) if text else None
    return parse_event(word)


TEXT = Column("object", _take_text, "text")
CASE_COLUMNS = {
    "case_id": Column("object", _take_text, "text", required=True),
    "site": TEXT,
    "centre": TEXT,
    "subtype": TEXT,
    "age_years": Column("float64", _take_number(0, 120), "a number of years from 0 to 120"),
    "sex": Column("object", _take_word(SEX_WORDS), "female or male"),
    "stage": Column("object", parse_stage, "a stage 0, I, II, III or IV, such as 'Stage IIA'"),
    "tumour_size_mm": Column("float64", _take_number(0, 500), "a number of mm from 0 to 500"),
    "nodes_positive": Column("Int64", _take_number(0, 100, whole=True), "a whole number from 0 to 100"),
    "grade": Column("Int64", _take_number(1, 3, whole=True), "a whole number from 1 to 3"),
    "er": Column("object", _take_word(RECEPTOR_WORDS), "positive or negative"),
    "pr": Column("object", _take_word(RECEPTOR_WORDS), "positive or negative"),
    "her2": Column("object", _take_word(RECEPTOR_WORDS), "positive or negative"),
    "neoadjuvant": Column("boolean", _take_truth, "true or false"),
}
"""Columns of cases.csv that have a meaning to the book; outcomes come on top (`outcomes.check_outcome`)."""

SLIDE_COLUMNS = {
    "slide_id": Column("object", _take_text, "text", required=True),
    "case_id": Column("object", _take_text, "text", required=True),
    "path": TEXT,
    "features_path": TEXT,
    "mpp": Column("float64", _take_number(0.01, 100), "a number of um per px from 0.01 to 100"),
    "scanner": TEXT,
    "kind": Column("object", _take_word({kind.lower(): kind for kind in SLIDE_KINDS}), "DX, TS or BS"),
}
NAME = Column("object", _take_text, "text", required=True)
UNIT = Column("object", _take_word({unit: unit for unit in UNITS}), f"one of {', '.join(UNITS)}", required=True)
VALUE = Column("float64", _take_number(-1e12, 1e12), "a finite number", required=True)
EXPRESSION_COLUMNS = {"case_id": NAME, "gene": NAME, "value": VALUE, "unit": UNIT}
SPOT_COLUMNS = {
    "slide_id": NAME,
    "spot_id": NAME,
    "x_l0": Column("float64", _take_number(-1e9, 1e9), "a number of level-0 px", required=True),
    "y_l0": Column("float64", _take_number(-1e9, 1e9), "a number of level-0 px", required=True),
    "diameter_um": Column("float64", _take_number(1e-3, 1e6), "a positive number of um", required=True),
}
SPOT_EXPRESSION_COLUMNS = {"slide_id": NAME, "spot_id": NAME, "gene": NAME, "value": VALUE, "unit": UNIT}


def read_table(path: str | Path) -> pd.DataFrame:
    """Read .csv, .tsv, .txt (also .gz) or .parquet; text cells stay text.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    DataFrame

    Raises
    ------
    SchemaError
        When the file is missing, cut, or of another kind.
    """
    path = Path(path)
    name = path.name.removesuffix(".gz")
    if not path.is_file():
        msg = f"SchemaError: table '{path.name}' was not found in '{path.parent}'. Check the folder, or fetch it."
        raise SchemaError(msg)
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith((".csv", ".tsv", ".txt")):
        return read_text_table(path, separator="," if name.endswith(".csv") else "\t")
    msg = f"SchemaError: table '{path.name}' ends in '{path.suffix}', expected .csv, .tsv or .parquet. Convert it."
    raise SchemaError(msg)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        msg = f"SchemaError: table '{path.name}' cannot be read as parquet ({error}). Write or fetch it again."
        raise SchemaError(msg) from error


def check_cases(table: pd.DataFrame) -> tuple[pd.DataFrame, list[HistobookError]]:
    """Clean the case table and list every problem.

    `<endpoint>_censorship` (1 = censored) is flipped into `<endpoint>_event`; so are the bare `censorship` and
    `survival_months` of survival tables, as overall survival.

    Parameters
    ----------
    table : DataFrame
        One row per case.

    Returns
    -------
    clean : DataFrame
        Typed as `CASE_COLUMNS` says; er, pr, her2 hold 'positive' or 'negative'; events are nullable booleans.
    problems : list of HistobookError
        In the order of columns and rows; empty when all is well.
    """
    table, problems = _flip_censorships(table)
    clean, found = _clean_columns(table, CASE_COLUMNS, table_name="cases", required=("case_id",), item="case")
    near = find_near_columns(table, list_case_columns(CASE_COLUMNS), table_name="cases")
    problems += [*found, *near, *find_other_times(table)]
    if "case_id" in clean:
        problems += _find_duplicates(clean, ["case_id"], table_name="cases", item="case")
        for endpoint in ENDPOINTS:
            wrong = check_outcome(clean, endpoint)
            problems += wrong
            if not wrong and time_column(endpoint) in clean:
                clean[time_column(endpoint)] = read_times(clean[time_column(endpoint)])
                clean[event_column(endpoint)] = read_events(clean[event_column(endpoint)])
    return clean, problems


def check_slides(
    table: pd.DataFrame, *, case_ids: Iterable[str] | None = None
) -> tuple[pd.DataFrame, list[HistobookError]]:
    """Clean the slide table and list every problem.

    Parameters
    ----------
    table : DataFrame
        One row per slide.
    case_ids : iterable of str, optional
        The cases a slide may belong to.

    Returns
    -------
    clean : DataFrame
    problems : list of HistobookError
    """
    clean, problems = _clean_columns(
        table, SLIDE_COLUMNS, table_name="slides", required=("slide_id", "case_id"), item="slide"
    )
    if "path" not in table and "features_path" not in table:
        msg = (
            f"SchemaError: table 'slides' has neither 'path' (a slide file) nor 'features_path' (stored features); "
            f"found {_list_names(table)}. Add one of them."
        )
        problems.append(SchemaError(msg))
    problems += find_near_columns(table, SLIDE_COLUMNS, table_name="slides")
    if "slide_id" in clean:
        problems += _find_duplicates(clean, ["slide_id"], table_name="slides", item="slide")
        problems += [
            *find_no_file_names(clean["slide_id"].dropna(), kind="slide"),
            *_find_without_file(clean),
            *find_shared_files(clean),
        ]
    if case_ids is not None and {"slide_id", "case_id"} <= set(clean):
        problems += _find_strangers(clean, set(case_ids), item="slide", table_name="slides", key="slide_id")
    return clean, problems


def check_expression(table: pd.DataFrame) -> tuple[pd.DataFrame, list[HistobookError]]:
    """Clean the long expression table and list every problem.

    Parameters
    ----------
    table : DataFrame
        One row per case and gene: case_id, gene, value, unit.

    Returns
    -------
    clean : DataFrame
    problems : list of HistobookError
    """
    lacking = [name for name in ("gene", "value") if name not in table]
    if lacking and table.shape[1] > 4:
        msg = (
            f"SchemaError: table 'expression' has no column '{lacking[0]}' but {table.shape[1]} columns: it looks wide."
            " Expected one row per case and gene (case_id, gene, value, unit); pandas.melt turns one into the other."
        )
        return table, [SchemaError(msg)]
    return _check_values(table, EXPRESSION_COLUMNS, keys=["case_id", "gene"], table_name="expression", item="case")


def check_spots(table: pd.DataFrame) -> tuple[pd.DataFrame, list[HistobookError]]:
    """Clean the spot table and list every problem.

    Parameters
    ----------
    table : DataFrame
        One row per spot: slide_id, spot_id, x_l0, y_l0 (level-0 px of the spot's centre), diameter_um.

    Returns
    -------
    clean : DataFrame
    problems : list of HistobookError
    """
    clean, problems = _clean_columns(
        table, SPOT_COLUMNS, table_name="spots", required=tuple(SPOT_COLUMNS), item="spot", key="spot_id"
    )
    if {"slide_id", "spot_id"} <= set(clean):
        problems += _find_duplicates(clean, ["slide_id", "spot_id"], table_name="spots", item="spot")
    return clean, problems


def check_spot_expression(table: pd.DataFrame) -> tuple[pd.DataFrame, list[HistobookError]]:
    """Clean the long spot-expression table and list every problem.

    Parameters
    ----------
    table : DataFrame
        One row per spot and gene: slide_id, spot_id, gene, value, unit. Zero counts may be left out.

    Returns
    -------
    clean : DataFrame
    problems : list of HistobookError
    """
    keys = ["slide_id", "spot_id", "gene"]
    return _check_values(table, SPOT_EXPRESSION_COLUMNS, keys=keys, table_name="spot_expression", item="spot")


def _check_values(
    table: pd.DataFrame, columns: dict[str, Column], *, keys: list[str], table_name: str, item: str
) -> tuple[pd.DataFrame, list[HistobookError]]:
    clean, problems = _clean_columns(
        table, columns, table_name=table_name, required=tuple(columns), item=item, key=keys[-2]
    )
    if problems:
        return clean, problems
    problems += _find_duplicates(clean, keys, table_name=table_name, item=item)
    problems += _find_mixed_units(clean, table_name)
    negative = clean[(clean["value"] < 0) & (clean["unit"] != "log2")]
    for row in negative.head(3).itertuples():
        msg = (
            f"SchemaError: {item} '{getattr(row, keys[-2])}' has {row.gene} = {row.value:g} {row.unit}, expected 0 or "
            "more. Values on the log scale carry the unit log2."
        )
        problems.append(SchemaError(msg))
    return clean, [*problems, *_find_unlogged(clean, keys[-2], item)]


def _find_unlogged(table: pd.DataFrame, key: str, item: str) -> list[HistobookError]:
    """Find values that carry the unit log2 and cannot be logarithms."""
    huge = table[(table["value"] > MAX_LOG2) & (table["unit"] == "log2")]
    problems: list[HistobookError] = []
    for _, row in huge.nlargest(1, "value").iterrows():
        msg = (
            f"SchemaError: {item} '{row[key]}' has {row['gene']} = {row['value']:g} log2, expected {MAX_LOG2:g} or "
            f"less ({len(huge)} such values). Values that are not logarithms carry the unit tpm, fpkm, rsem or cp10k."
        )
        problems.append(SchemaError(msg))
    return problems


def find_unlinked(expression: pd.DataFrame, case_ids: Iterable[str]) -> list[HistobookError]:
    """Say so when no id of the expression table is one of the case table's.

    Parameters
    ----------
    expression : DataFrame
        Clean, see `check_expression`.
    case_ids : iterable of str

    Returns
    -------
    list of SchemaError
        Empty where at least one case has expression.
    """
    wanted, found = list(case_ids), list(expression["case_id"].unique())
    if not wanted or not found or set(wanted) & set(found):
        return []
    msg = (
        f"SchemaError: none of the {len(found)} case ids of table 'expression' is in table 'cases'; found "
        f"'{found[0]}', expected ids such as '{wanted[0]}'. Write both tables with the same ids (a TCGA sample "
        "barcode is longer than its patient's)."
    )
    return [SchemaError(msg)]


def label_sites(sites: pd.Series) -> pd.Series:
    """Return sites as text; cases without one share a label, so that they are one group and not many.

    Parameters
    ----------
    sites : Series

    Returns
    -------
    Series of str
    """
    return sites.astype(object).where(sites.notna(), NO_SITE).astype(str)


def find_no_file_names(ids: Iterable[str], *, kind: str) -> list[HistobookError]:
    """Find ids that cannot name files: with a slash, or a dot in front.

    Parameters
    ----------
    ids : iterable of str
    kind : str
        What they name, for messages: slide, case.

    Returns
    -------
    list of HistobookError
    """
    wrong = [name for name in ids if NO_FILE_NAME.search(name)]
    problems: list[HistobookError] = []
    for name in wrong[:N_LISTED]:
        msg = f"SchemaError: {kind} '{name}' cannot name its files, expected an id without '/' and '\\' that does"
        problems.append(SchemaError(f"{msg} not start with '.' ({len(wrong)} such {kind}s). Write '-' or '_' instead."))
    return problems


def _find_without_file(slides: pd.DataFrame) -> list[HistobookError]:
    columns = [name for name in ("path", "features_path") if name in slides]
    lost = slides[slides[columns].isna().all(axis=1)] if columns else slides.iloc[:0]
    return [
        SchemaError(
            f"SchemaError: slide '{slide_id}' names no file ({' and '.join(columns)} empty). Add it, or drop the slide."
        )
        for slide_id in lost["slide_id"]
    ]


def _find_mixed_units(table: pd.DataFrame, table_name: str) -> list[HistobookError]:
    mixed = table.groupby("gene", observed=True)["unit"].nunique().loc[lambda count: count > 1]
    if mixed.empty:
        return []
    gene = mixed.index[0]
    units = sorted(table.loc[table["gene"] == gene, "unit"].unique())
    msg = f"SchemaError: gene '{gene}' of table '{table_name}' comes in {' and '.join(units)}, expected one unit."
    return [SchemaError(f"{msg} Convert it ({len(mixed)} genes are mixed).")]


def read_cases(path: str | Path) -> pd.DataFrame:
    """Read and check the case table.

    Parameters
    ----------
    path : str or Path
        cases.csv or cases.parquet.

    Returns
    -------
    DataFrame
        Clean, see `check_cases`.

    Raises
    ------
    SchemaError, DuplicateError, OutcomeError
        The first problem, with the number of the others.
    """
    return _pass_or_raise(*check_cases(read_table(path)), path=path)


def read_slides(path: str | Path, *, case_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """Read and check the slide table.

    Parameters
    ----------
    path : str or Path
        slides.csv or slides.parquet.
    case_ids : iterable of str, optional
        The cases a slide may belong to.

    Returns
    -------
    DataFrame

    Raises
    ------
    SchemaError, DuplicateError
        The first problem, with the number of the others.
    """
    return _pass_or_raise(*check_slides(read_table(path), case_ids=case_ids), path=path)


def read_expression(path: str | Path) -> pd.DataFrame:
    """Read and check the long expression table.

    Parameters
    ----------
    path : str or Path
        expression.parquet or expression.csv.

    Returns
    -------
    DataFrame
        case_id, gene, value, unit.

    Raises
    ------
    SchemaError, DuplicateError
        The first problem, with the number of the others.
    """
    return _pass_or_raise(*check_expression(read_table(path)), path=path)


def read_spots(path: str | Path) -> pd.DataFrame:
    """Read and check the spot table.

    Parameters
    ----------
    path : str or Path
        spots.parquet or spots.csv.

    Returns
    -------
    DataFrame
        slide_id, spot_id, x_l0, y_l0, diameter_um and what else was there.

    Raises
    ------
    SchemaError, DuplicateError
        The first problem, with the number of the others.
    """
    return _pass_or_raise(*check_spots(read_table(path)), path=path)


def read_spot_expression(path: str | Path) -> pd.DataFrame:
    """Read and check the long spot-expression table.

    Parameters
    ----------
    path : str or Path
        spot_expression.parquet.

    Returns
    -------
    DataFrame
        slide_id, spot_id, gene, value, unit; zero counts may be absent.

    Raises
    ------
    SchemaError, DuplicateError
        The first problem, with the number of the others.
    """
    return _pass_or_raise(*check_spot_expression(read_table(path)), path=path)


def _pass_or_raise(table: pd.DataFrame, problems: list[HistobookError], *, path: str | Path) -> pd.DataFrame:
    if not problems:
        return table
    more = len(problems) - 1
    if more:
        folder = Path(path).parent
        text = f"{problems[0]} ({more} more: `histobook doctor {folder}` lists them all.)"
        raise type(problems[0])(text) from problems[0]
    raise problems[0]


def _clean_columns(
    table: pd.DataFrame,
    columns: dict[str, Column],
    *,
    table_name: str,
    required: tuple[str, ...],
    item: str,
    key: str | None = None,
) -> tuple[pd.DataFrame, list[HistobookError]]:
    key = key or required[0]
    near = " ".join(map(str, find_near_columns(table, required, table_name=table_name)))
    absent = [name for name in required if name not in table and f"expected '{name}'" not in near]
    problems: list[HistobookError] = [_describe_absent(name, table, table_name) for name in absent]
    clean = table.reset_index(drop=True).copy()
    labels = _label_rows(clean, key)
    for name in [name for name in columns if name in clean]:
        clean[name], found = _clean_column(clean[name], columns[name], labels, table_name=table_name, item=item)
        problems += found
    return clean, problems


def _label_rows(table: pd.DataFrame, key: str) -> pd.Series:
    """Name each row by its id, or by its number where it has none."""
    numbers = pd.Series([f"of row {number + 1}" for number in range(len(table))], index=table.index, dtype=object)
    if key not in table:
        return numbers
    ids = table[key].map(_take_text, na_action="ignore")
    return numbers.where(ids.isna(), "'" + ids.astype(str) + "'")


def _clean_column(
    series: pd.Series, column: Column, labels: pd.Series, *, table_name: str, item: str
) -> tuple[pd.Series, list[HistobookError]]:
    wrong_type = _describe_lost_text(series, column, table_name)
    if wrong_type is not None:
        return series.astype(str), [wrong_type]
    if _is_clean_number(series, column):
        return series.astype(float), []
    parsed, bad = _parse_unique(series.drop_duplicates(), column)
    wrong = series.index[series.isin(bad) | (series.isna() if column.required else False)]
    problems = [_describe_cell(series.name, series[place], labels[place], column, item) for place in wrong[:N_LISTED]]
    if len(wrong) > N_LISTED:
        problems.append(_count_others(f"cells of {series.name} in table '{table_name}'", len(wrong)))
    values = series.astype(object).map(parsed)
    if column.dtype == "object":
        return values.astype(object).where(values.notna(), None), problems
    if column.dtype == "boolean":
        return values.where(values.notna(), None).astype("boolean"), problems
    return pd.to_numeric(values).astype(column.dtype), problems


def _is_clean_number(series: pd.Series, column: Column) -> bool:
    """Say whether a float column passes as a whole (20 million expression values must not be read one by one)."""
    if column.dtype != "float64" or not pd.api.types.is_float_dtype(series) or (column.required and series.hasnans):
        return False
    try:
        column.parse(series.min()), column.parse(series.max())
    except ValueError:
        return False
    return True


def _parse_unique(unique: pd.Series, column: Column) -> tuple[dict[Any, Any], list[Any]]:
    parsed, bad = {}, []
    for cell in unique:
        if _is_missing(cell):
            continue
        try:
            parsed[cell] = column.parse(cell)
        except ValueError:
            bad.append(cell)
    return parsed, bad


def _describe_lost_text(series: pd.Series, column: Column, table_name: str) -> HistobookError | None:
    """Describe an id column of numbers: its leading zeros are lost already, and no reader can bring them back."""
    if column.expected != "text" or not column.required or not pd.api.types.is_numeric_dtype(series):
        return None
    msg = (
        f"SchemaError: column '{series.name}' of table '{table_name}' holds {series.dtype} numbers, expected text "
        f"('007' and '7' are two ids). Write it as text."
    )
    return SchemaError(msg)


def _describe_absent(name: str, table: pd.DataFrame, table_name: str) -> HistobookError:
    msg = (
        f"SchemaError: table '{table_name}' has no column '{name}'; found {_list_names(table)}. "
        f"Add it, or rename the column that holds it."
    )
    return SchemaError(msg)


def _describe_cell(name: Any, cell: Any, label: str, column: Column, item: str) -> HistobookError:
    found = "an empty cell" if _is_missing(cell) else f"'{cell}'"
    comma = column.dtype != "object" and DECIMAL_COMMA.fullmatch(str(cell).strip()) is not None
    remedy = "Write decimals with a point" if comma else "Correct the cell"
    msg = f"SchemaError: {item} {label} has {name} {found}, expected {column.expected}. {remedy}"
    return SchemaError(f"{msg}." if column.required or comma else f"{msg}, or empty it where the value is not known.")


def _count_others(what: str, total: int) -> HistobookError:
    return SchemaError(f"SchemaError: {total - N_LISTED} more {what} are wrong like these ({total} in all).")


def _list_names(table: pd.DataFrame) -> str:
    names = [str(name) for name in table.columns]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _find_duplicates(table: pd.DataFrame, keys: list[str], *, table_name: str, item: str) -> list[HistobookError]:
    repeated = table[table.duplicated(keys, keep=False)]
    problems: list[HistobookError] = []
    for name, rows in repeated.groupby(keys, sort=False, observed=True):
        label = " / ".join(map(str, name))
        numbers = " and ".join(str(number + 1) for number in rows.index[:3])
        msg = (
            f"DuplicateError: {item} '{label}' occurs {len(rows)} times in table '{table_name}' (rows {numbers}), "
            "expected once. Keep one row."
        )
        problems.append(DuplicateError(msg))
        if len(problems) == N_LISTED:
            break
    total = int((~table[table.duplicated(keys)].duplicated(keys)).sum())
    if total > N_LISTED:
        problems.append(_count_others(f"ids of table '{table_name}'", total))
    return problems


def _find_strangers(
    table: pd.DataFrame, case_ids: set[str], *, item: str, table_name: str, key: str
) -> list[HistobookError]:
    strangers = table[~table["case_id"].isin(case_ids)].drop_duplicates("case_id")
    problems: list[HistobookError] = []
    for row in strangers.itertuples():
        msg = (
            f"SchemaError: {item} '{getattr(row, key)}' of table '{table_name}' belongs to case '{row.case_id}', which "
            f"is not among the {len(case_ids)} cases. Add the case, or drop the {item}."
        )
        problems.append(SchemaError(msg))
    return problems


def _flip_censorships(table: pd.DataFrame) -> tuple[pd.DataFrame, list[HistobookError]]:
    renamed = {"censorship": "os_censorship", "survival_months": "os_time_months"}
    bare = {old: new for old, new in renamed.items() if old in table and new not in table}
    table = table.rename(columns=bare)
    problems: list[HistobookError] = []
    for endpoint in ENDPOINTS:
        name = f"{endpoint}_censorship"
        if name not in table:
            continue
        try:
            event = flip_censorship(table[name])
        except ValueError as error:
            msg = (
                f"OutcomeError: column '{name}' holds '{error}', expected 1 (censored) or 0 (the event happened). "
                "Correct the cell, or empty it where the status is not known."
            )
            problems.append(OutcomeError(msg))
            event = pd.Series(pd.NA, index=table.index, dtype="boolean")
        problems += _compare_events(table, event, endpoint)
        table = table.drop(columns=name).assign(**{event_column(endpoint): event})
    return table, problems


def _compare_events(table: pd.DataFrame, event: pd.Series, endpoint: str) -> list[HistobookError]:
    name = event_column(endpoint)
    if name not in table:
        return []
    msg = (
        f"SchemaError: table 'cases' has both '{name}' and '{endpoint}_censorship', which say opposite things by "
        "definition. Keep one of the two columns."
    )
    return [SchemaError(msg)]
