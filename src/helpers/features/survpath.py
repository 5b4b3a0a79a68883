"""The tables that SurvPath reads beside its bags of tiles: outcomes, clinical columns, RNA, gene signatures, splits.

SurvPath reads ids with pandas' defaults, so that '007' becomes a number, and counts `censorship` 1 as censored. It
takes every case of its label table for one with an outcome and with bags; cases without are therefore left out here,
and counted.
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.cohort.genes import list_signatures, read_aliases, read_signature, widen_expression
from helpers.cohort.outcomes import list_endpoints, select_outcome
from helpers.cohort.splits import COLUMNS
from helpers.cohort.tables import group_stages, read_cases, read_expression, read_slides, read_table
from helpers.core.errors import SchemaError
from helpers.features.convert import convert_features, publish, summarise_conversion

SUFFIXES = {"os": "", "dss": "_dss", "pfi": "_pfi"}
"""What SurvPath appends to survival_months and censorship, by endpoint; it knows these three."""
MISSING = "N/A"
TYPE_OF_PATH = "combine"
"""SurvPath picks `<type_of_path>_signatures.csv` out of xena, hallmarks and combine."""


def write_survpath_tables(
    out: Path,
    *,
    bags: Iterable[str],
    slides: pd.DataFrame,
    cases: pd.DataFrame,
    expression: pd.DataFrame | None = None,
    signatures: pd.DataFrame | None = None,
    splits: pd.DataFrame | None = None,
    study: str = "study",
) -> list[str]:
    """Write SurvPath's tables for the slides that have a bag.

    Parameters
    ----------
    out : Path
        `datasets_csv/` and `splits/` are made inside.
    bags : iterable of str
        Ids of the slides with a bag.
    slides : DataFrame
        slide_id, case_id.
    cases : DataFrame
        case_id, outcomes and what there is of site, age_years, sex, stage, grade, subtype, oncotree_code, as
        `read_cases` returns them.
    expression : DataFrame, optional
        Long: case_id, gene, value, unit. Written as log2 (`widen_expression`).
    signatures : DataFrame, optional
        One column per signature, genes below; the book's own signatures otherwise.
    splits : DataFrame, optional
        repeat, fold, case_id, role. SurvPath's val is the fold's test, its train the rest of the fold.
    study : str
        Name of the study in file names.

    Returns
    -------
    list of str
        What was written and what was left out, for the reader.

    Raises
    ------
    SchemaError
        When no slide with a bag is in the tables, no endpoint is one of SurvPath's, or ids would not survive.
    GeneError
        When expression is incomplete or given as counts.
    FeatureError
        When another table is there already.
    """
    bags = set(bags)
    listed, remarks = _select_slides(bags, slides, cases)
    chosen = cases[cases["case_id"].isin(listed["case_id"])].reset_index(drop=True)
    _check_ids(listed)
    tables: dict[str, pd.DataFrame] = {}
    for endpoint in _choose_endpoints(chosen):
        table, remark = tabulate_outcomes(chosen, listed, endpoint)
        tables[f"metadata/{study}_{endpoint}.csv"] = table
        remarks.append(remark)
    tables[f"clinical_data/{study}_clinical.csv"] = tabulate_clinical(chosen)
    if expression is not None:
        rna = _select_rna(expression, chosen, remarks)
        tables[f"raw_rna_data/{study}/rna_clean.csv"] = rna
        tables[f"metadata/{TYPE_OF_PATH}_signatures.csv"] = tabulate_signatures(rna.columns, signatures)
    for name, table in tables.items():
        _publish_table(table, out / "datasets_csv" / name)
    if splits is not None:
        remarks.append(_write_splits(splits, set(listed["case_id"]), out, study))
    return remarks


def _select_slides(bags: set[str], slides: pd.DataFrame, cases: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    known = slides["case_id"].isin(cases["case_id"])
    listed = slides.loc[slides["slide_id"].isin(bags) & known, ["slide_id", "case_id"]].reset_index(drop=True)
    if listed.empty:
        msg = (
            f"SchemaError: none of the {len(bags)} slides with a bag (first '{min(bags, default='')}') is in the slide "
            f"table with one of the {len(cases)} cases. Name feature files by slide_id."
        )
        raise SchemaError(msg)
    lost = len(slides) - len(listed)
    strangers = len(bags) - len(listed)
    remarks = [f"{len(listed)} slides of {listed['case_id'].nunique()} cases have a bag, an entry and a case"]
    remarks += [f"{lost} slides of the slide table are left out: no bag, or no case"] if lost else []
    remarks += [f"{strangers} bags are in no table: left out of it"] if strangers else []
    return listed, remarks


def _check_ids(listed: pd.DataFrame) -> None:
    """Ids must come back from pandas' reader with its defaults as they are, since that is what SurvPath uses."""
    back = pd.read_csv(io.StringIO(listed.to_csv(index=False)))
    for column in ("slide_id", "case_id"):
        changed = [(old, new) for old, new in zip(listed[column], back[column], strict=True) if old != new]
        if changed:
            msg = (
                f"SchemaError: SurvPath would read {column} '{changed[0][0]}' as {changed[0][1]!r} ({len(changed)} ids "
                "like it). Put a letter in front of the ids."
            )
            raise SchemaError(msg)


def _choose_endpoints(cases: pd.DataFrame) -> list[str]:
    listed = list_endpoints(cases)
    found = [endpoint for endpoint in SUFFIXES if endpoint in listed]
    if not found:
        msg = (
            f"SchemaError: the case table has the endpoints {', '.join(listed) or 'none'}; SurvPath knows "
            f"{', '.join(SUFFIXES)}. Add <endpoint>_time_months and <endpoint>_event of one of them."
        )
        raise SchemaError(msg)
    return found


def tabulate_outcomes(cases: pd.DataFrame, slides: pd.DataFrame, endpoint: str) -> tuple[pd.DataFrame, str]:
    """Make SurvPath's label table of one endpoint.

    Parameters
    ----------
    cases : DataFrame
    slides : DataFrame
        slide_id, case_id.
    endpoint : str
        os, dss or pfi.

    Returns
    -------
    DataFrame, one row per slide
        case_id, slide_id, age, site, survival_months (+ suffix), censorship (+ suffix; 1 = censored, 0 = the event
        happened), is_female, oncotree_code. Cases whose outcome is not known are left out.
    str
        How many cases, events and losses.
    """
    outcome = select_outcome(cases, endpoint)
    suffix = SUFFIXES[endpoint]
    empty = pd.Series(np.nan, index=cases.index)
    facts = pd.DataFrame({"case_id": cases["case_id"], "age": cases.get("age_years", empty)})
    facts["site"] = cases.get("site", empty)
    facts["is_female"] = cases.get("sex", empty).map({"female": 1, "male": 0}).astype("Int64")
    facts["oncotree_code"] = cases.get("oncotree_code", empty)
    table = slides.merge(outcome, on="case_id").merge(facts, on="case_id", validate="many_to_one")
    table[f"survival_months{suffix}"] = table["time_months"]
    table[f"censorship{suffix}"] = 1 - table["event"].astype(int)
    order = ["case_id", "slide_id", "age", "site", f"survival_months{suffix}", f"censorship{suffix}", "is_female"]
    losses = len(outcome.attrs["losses"])
    remark = (
        f"{endpoint}: {len(outcome)} cases, {int(outcome['event'].sum())} events; {losses} left out, outcome unknown"
    )
    return table[[*order, "oncotree_code"]], remark


def tabulate_clinical(cases: pd.DataFrame) -> pd.DataFrame:
    """Make SurvPath's clinical table.

    Parameters
    ----------
    cases : DataFrame

    Returns
    -------
    DataFrame, one row per case
        case_id, stage ('I' to 'IV'), grade ('G1' to 'G3'), subtype; 'N/A' where missing.
    """
    empty = pd.Series(None, index=cases.index, dtype=object)
    grade = cases["grade"].map(lambda value: f"G{value:.0f}", na_action="ignore") if "grade" in cases else empty
    stage = group_stages(cases["stage"].astype("string")) if "stage" in cases else empty
    columns = {"stage": stage, "grade": grade, "subtype": cases.get("subtype", empty)}
    plain = {name: column.astype(object).where(column.notna(), MISSING) for name, column in columns.items()}
    return pd.DataFrame({"case_id": cases["case_id"], **plain})


def _select_rna(expression: pd.DataFrame, cases: pd.DataFrame, remarks: list[str]) -> pd.DataFrame:
    measured = set(expression["case_id"])
    order = [case_id for case_id in cases["case_id"] if case_id in measured]
    if not order:
        msg = "SchemaError: no case with a bag has expression, expected one row per case and gene. Compare the ids."
        raise SchemaError(msg)
    lost = len(cases) - len(order)
    remarks += [f"{lost} cases have no expression: SurvPath leaves them out itself"] if lost else []
    linear = sorted(set(expression["unit"]) - {"log2"})
    remarks += [f"RNA in {', '.join(linear)} is written as log2(x + 1)"] if linear else []
    return widen_expression(expression[expression["case_id"].isin(order)], case_ids=order)


def tabulate_signatures(genes: Iterable[str], signatures: pd.DataFrame | None = None) -> pd.DataFrame:
    """Make SurvPath's table of signatures: only genes that the RNA table has, under the names it uses.

    Parameters
    ----------
    genes : iterable of str
        Columns of the RNA table.
    signatures : DataFrame, optional
        One column per signature; the book's own otherwise.

    Returns
    -------
    DataFrame
        One column per signature with at least one gene, padded with empty cells.

    Raises
    ------
    SchemaError
        When no signature has a gene among them.
    """
    present = set(genes)
    named = {**{current: old for old, current in read_aliases().items() if old in present}, **{g: g for g in present}}
    if signatures is None:
        lists = {name: read_signature(name) for name in list_signatures()}
    else:
        lists = {str(name): tuple(signatures[name].dropna().astype(str)) for name in signatures}
    found = {name: [named[gene] for gene in members if gene in named] for name, members in lists.items()}
    columns = {name: pd.Series(members, dtype=object) for name, members in found.items() if members}
    if not columns:
        msg = (
            f"SchemaError: none of the {len(lists)} signatures has a gene among the {len(present)} of the RNA table. "
            "Give --signatures, one column per signature with the table's gene symbols below."
        )
        raise SchemaError(msg)
    return pd.DataFrame(columns)


def _write_splits(splits: pd.DataFrame, case_ids: set[str], out: Path, study: str) -> str:
    first = splits[(splits["repeat"] == splits["repeat"].min()) & splits["case_id"].isin(case_ids)]
    folds = [rows for _, rows in first[first["role"].isin(["train", "val", "test"])].groupby("fold")]
    for number, rows in enumerate(folds):
        tested = rows["role"] == "test"
        sides = {"train": rows.loc[~tested, "case_id"], "val": rows.loc[tested, "case_id"]}
        table = pd.DataFrame({name: side.reset_index(drop=True) for name, side in sides.items()})
        _publish_table(table, out / "splits" / f"{len(folds)}foldcv" / study / f"splits_{number}.csv")
    return (
        f"{len(folds)} folds of the first repeat: SurvPath's val is the fold's test, its train includes the fold's val"
    )


def _publish_table(table: pd.DataFrame, path: Path) -> None:
    numbered = not path.name.endswith("_signatures.csv")
    publish(path, lambda temporary: table.to_csv(temporary, lineterminator="\n", index=numbered))


def convert_cohort(
    source: Path,
    *,
    to: str,
    out: Path,
    mpp: float | None = None,
    slides: Path | None = None,
    study: str = "study",
    tables: Mapping[str, Path | None] | None = None,
    **options: Any,
) -> str:
    """Convert feature files and, for SurvPath, write the tables that belong to them.

    Parameters
    ----------
    source, out : Path
    to : str
        One of `helpers.features.convert.TARGETS`.
    mpp : float, optional
        Resolution of level 0, um per px, where neither files nor the slide table state it.
    slides : Path, optional
        Slide table; its column mpp gives each slide's resolution.
    study : str
        Name of the study in SurvPath's file names.
    tables : mapping of str to Path, optional
        cases, expression, signatures, splits: SurvPath only.
    **options : Any
        encoder, patches, workers of `convert_features`.

    Returns
    -------
    str
        What became of the slides.

    Raises
    ------
    SchemaError
        When a table is missing, or given where it is of no use.
    RunError
        When slides failed, after all the others and their tables were written.
    """
    given = {name: path for name, path in (tables or {}).items() if path is not None}
    _check_tables(given, slides, to)
    listed = None if slides is None else read_slides(slides)
    read = _read_tables(given)
    resolution: float | dict[str, float] | None = mpp
    if listed is not None and "mpp" in listed:
        stated = listed.set_index("slide_id")["mpp"].astype(float)
        resolution = (stated if mpp is None else stated.fillna(mpp)).dropna().to_dict()
    ledger = convert_features(source, to=to, out=out, mpp=resolution, **options)
    lines = []
    if to == "survpath" and listed is not None:
        bags = ledger.loc[ledger["status"] != "failed", "slide_id"]
        lines = write_survpath_tables(out, bags=bags, slides=listed, study=study, **read)
    return "\n".join([*lines, summarise_conversion(ledger)])


def _read_tables(given: Mapping[str, Path]) -> dict[str, pd.DataFrame]:
    readers = {"cases": read_cases, "expression": read_expression, "signatures": read_table, "splits": read_splits}
    return {name: readers[name](path) for name, path in given.items()}


def read_splits(path: Path) -> pd.DataFrame:
    """Read a splits table.

    Parameters
    ----------
    path : Path

    Returns
    -------
    DataFrame
        repeat, fold (int), case_id, role.

    Raises
    ------
    SchemaError
        When a column is missing.
    """
    table = read_table(path)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        msg = (
            f"SchemaError: table '{path.name}' has no {', '.join(missing)}, found {', '.join(table)}. Give splits.csv."
        )
        raise SchemaError(msg)
    return table.astype({"repeat": int, "fold": int})


def _check_tables(given: Mapping[str, Path], slides: Path | None, to: str) -> None:
    if to != "survpath" and given:
        msg = f"SchemaError: --{', --'.join(given)} is for survpath only; {to} has no such tables. Leave it out."
        raise SchemaError(msg)
    if to == "survpath" and (slides is None or "cases" not in given):
        msg = (
            "SchemaError: survpath wants --slides (slide_id, case_id) and --cases (outcomes), and for its RNA arm "
            "--expression. Give the cohort's tables."
        )
        raise SchemaError(msg)
