"""`histobook doctor <folder>`: every problem of a raw cohort at once, instead of one per attempt."""

from pathlib import Path

import pandas as pd

from helpers.cohort.genes import read_signature, widen_expression
from helpers.cohort.imports import her2st, metabric, scanb, tcga_brca
from helpers.cohort.imports.tables import SUFFIXES, find_table
from helpers.cohort.outcomes import list_endpoints, select_outcome
from helpers.cohort.raw import require_files
from helpers.cohort.tables import (
    check_cases,
    check_expression,
    check_slides,
    check_spot_expression,
    check_spots,
    find_unlinked,
    read_table,
)
from helpers.core.errors import GeneError, HistobookError, SchemaError

LAYOUTS = {
    "metabric": (metabric.FILES, metabric.LAYOUT),
    "scanb": (scanb.FILES, scanb.LAYOUT),
    "tcga_brca_features": (tcga_brca.FILES, tcga_brca.LAYOUT),
    "her2st": (her2st.FOLDERS, her2st.LAYOUT),
}


def detect_layout(folder: Path) -> str:
    """Say which layout a folder has, by the files it holds.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    str
        'tables', 'metabric', 'scanb', 'tcga_brca_features' or 'her2st'. 'tables' where nothing else fits.
    """
    if any((folder / f"cases{suffix}").is_file() for suffix in SUFFIXES):
        return "tables"
    shares = {
        name: sum((folder / file).exists() for file in files.values()) / len(files)
        for name, (files, _) in LAYOUTS.items()
    }
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] > 0 else "tables"


def check_folder(folder: str | Path) -> list[HistobookError]:
    """Check a raw cohort folder and list every problem found.

    Parameters
    ----------
    folder : str or Path
        In the book's own layout (cases.csv, slides.csv, expression.parquet …), or one that an importer reads; of the
        latter the presence of every file is checked and the import is tried.

    Returns
    -------
    list of HistobookError
        Empty when chapter 00 would accept the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [SchemaError(f"SchemaError: folder '{folder}' does not exist. Check the path.")]
    layout = detect_layout(folder)
    if layout != "tables":
        return _try_import(folder, layout)
    cases, problems = _check_table(folder, "cases", None)
    if cases is None and not problems:
        msg = f"SchemaError: folder '{folder}' holds no cases.csv or cases.parquet, expected one row per case. Add it."
        problems.append(SchemaError(msg))
    case_ids = list(cases["case_id"]) if cases is not None and "case_id" in cases else None
    slides, found = _check_table(folder, "slides", case_ids)
    problems += found
    if slides is not None:
        problems += _find_missing_files(folder, slides)
    for name in ("expression", "spots", "spot_expression"):
        problems += _check_table(folder, name, case_ids)[1]
    return problems


def describe_folder(folder: str | Path) -> str:
    """Say in words what a raw cohort folder holds and what is wrong with it.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    str
        Several lines; the last one counts the problems.
    """
    folder = Path(folder)
    problems = check_folder(folder)
    lines = [f"{folder} ({detect_layout(folder)} layout)"] if folder.is_dir() else []
    lines += _count_tables(folder) if folder.is_dir() and not problems else []
    lines += [f"  {number}. {problem}" for number, problem in enumerate(problems, start=1)]
    lines.append(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} found")
    return "\n".join(lines)


def _try_import(folder: Path, layout: str) -> list[HistobookError]:
    files, what = LAYOUTS[layout]
    try:
        require_files(folder, files, what=what)
        if layout == "metabric":
            metabric.import_metabric(folder)
        elif layout == "scanb":
            scanb.import_scanb(folder)
        elif layout == "tcga_brca_features":
            tcga_brca.import_tcga_brca(folder)
        else:
            her2st.check_sections(folder)
    except HistobookError as error:
        return [error]
    return []


def _check_table(
    folder: Path, name: str, case_ids: list[str] | None
) -> tuple[pd.DataFrame | None, list[HistobookError]]:
    try:
        path = find_table(folder, name)
        if path is None:
            return None, []
        table = read_table(path)
    except HistobookError as error:
        return None, [error]
    if name == "slides":
        return check_slides(table, case_ids=case_ids)
    if name == "expression":
        clean, problems = check_expression(table)
        return clean, problems or find_unlinked(clean, case_ids or [])
    gates = {"cases": check_cases, "spots": check_spots, "spot_expression": check_spot_expression}
    return gates[name](table)


def _find_missing_files(folder: Path, slides: pd.DataFrame) -> list[HistobookError]:
    problems: list[HistobookError] = []
    for column in [name for name in ("path", "features_path") if name in slides]:
        for slide_id, name in slides[["slide_id", column]].dropna().itertuples(index=False):
            if not (folder / name).is_file():
                msg = (
                    f"SchemaError: slide '{slide_id}' names the file '{name}', which does not exist under '{folder}'. "
                    f"Correct {column}, or copy the file there."
                )
                problems.append(SchemaError(msg))
    return problems


def _count_tables(folder: Path) -> list[str]:
    if detect_layout(folder) != "tables":
        return []
    cases, _ = _check_table(folder, "cases", None)
    lines = []
    if cases is not None:
        lines.append(f"  cases: {len(cases)}")
        for endpoint in list_endpoints(cases):
            outcome = select_outcome(cases, endpoint)
            zero, lost = outcome.attrs["n_time_zero"], len(outcome.attrs["losses"])
            n, events = len(outcome), int(outcome["event"].sum())
            lines.append(f"  {endpoint}: {n} cases, {events} events, {lost} without it, {zero} at time 0")
    slides, _ = _check_table(folder, "slides", None)
    if slides is not None:
        lines.append(f"  slides: {len(slides)}, of {slides['case_id'].nunique()} cases")
    expression, _ = _check_table(folder, "expression", None)
    if cases is not None and expression is not None:
        lines += _describe_expression(expression, set(cases["case_id"]))
    return lines


def _describe_expression(expression: pd.DataFrame, case_ids: set[str]) -> list[str]:
    """Count who is measured, and say in which unit and range, so that a wrong unit is seen."""
    measured, values = set(expression["case_id"]), expression["value"]
    units = " and ".join(sorted(expression["unit"].unique()))
    lines = [
        f"  expression: {len(measured & case_ids)} of {len(case_ids)} cases, {expression['gene'].nunique()} genes, "
        f"{units} from {values.min():g} to {values.max():g}"
    ]
    if measured - case_ids:
        strangers = sorted(measured - case_ids)
        lines.append(f"  expression of {len(strangers)} cases that are not listed, first '{strangers[0]}': left out")
    for name in ("prolif11", "MKI67"):
        try:
            widen_expression(expression, genes=read_signature(name))
        except GeneError as error:
            lines.append(f"  {name} cannot be scored. {error}")
    return lines
