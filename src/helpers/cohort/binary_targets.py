"""Targets of two classes beside the RNA subtype: receptors by IHC, a mutation, the grade, an event within a time."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers.cohort.omics import widen_omics
from helpers.core.errors import SchemaError

RECEPTORS = ("er", "pr", "her2")
EVENT = re.compile(r"(?P<endpoint>[a-z_]+)_(?P<months>\d+)")


def make_binary_target(cases: pd.DataFrame, name: str, *, omics: pd.DataFrame | None = None) -> pd.Series | None:
    """Make one target of 0, 1 and missing.

    Parameters
    ----------
    cases : DataFrame
        With `case_id`.
    name : str
        'er', 'pr', 'her2' (positive by immunohistochemistry), 'grade3' (grade 3 against 1 and 2), '<gene>_mutated' in
        small letters ('tp53_mutated'), or '<endpoint>_<months>' ('pfi_60': an event within 60 months against
        follow-up of 60 months without one; who was lost before is missing).
    omics : DataFrame, optional
        From `read_omics`; mutations come from it.

    Returns
    -------
    Series of float or None
        By `case_id`; None where the cohort has no such column, or one class is empty.

    Raises
    ------
    SchemaError
        When the name has none of these forms.
    """
    table = cases.set_index("case_id")
    if name in RECEPTORS:
        found = _code(table, name, {"positive": 1.0, "negative": 0.0})
    elif name == "grade3":
        found = _code(table, "grade", {3: 1.0, 2: 0.0, 1: 0.0})
    elif name.endswith("_mutated"):
        found = _read_mutation(table.index, name.removesuffix("_mutated").upper(), omics)
    else:
        match = EVENT.fullmatch(name)
        if match is None:
            msg = f"SchemaError: target '{name}' is unknown; expected er, pr, her2, grade3, tp53_mutated or pfi_60."
            raise SchemaError(msg)
        found = _read_event(table, match["endpoint"], float(match["months"]))
    return found if found is not None and found.nunique() == 2 else None


def _code(table: pd.DataFrame, column: str, codes: dict[object, float]) -> pd.Series | None:
    return table[column].map(codes).astype(float) if column in table else None


def _read_mutation(cases: pd.Index, gene: str, omics: pd.DataFrame | None) -> pd.Series | None:
    if omics is None or not omics["kind"].eq("mutation").any():
        return None
    wide = widen_omics(omics, kind="mutation")
    column = next((name for name in (gene, f"MUT_{gene}") if name in wide.columns), None)
    return None if column is None else wide[column].reindex(cases)


def _read_event(table: pd.DataFrame, endpoint: str, months: float) -> pd.Series | None:
    time, event = f"{endpoint}_time_months", f"{endpoint}_event"
    if time not in table or event not in table:
        return None
    happened = table[event].astype("boolean").fillna(value=False).to_numpy(bool)
    at = table[time].to_numpy(float)
    known = np.where(happened & (at <= months), 1.0, np.where(at >= months, 0.0, np.nan))
    return pd.Series(np.where(table[event].isna(), np.nan, known), index=table.index)


def make_binary_targets(
    cases: pd.DataFrame, names: Sequence[str], *, omics: pd.DataFrame | None = None, min_cases: int = 10
) -> tuple[dict[str, pd.Series], dict[str, str]]:
    """Make every target that the cohort has.

    Parameters
    ----------
    cases : DataFrame
    names : sequence of str
    omics : DataFrame, optional
    min_cases : int
        Of each class.

    Returns
    -------
    targets : dict of str to Series
    absent : dict of str to str
        Target to why it is left out.
    """
    targets: dict[str, pd.Series] = {}
    absent: dict[str, str] = {}
    for name in names:
        found = make_binary_target(cases, name, omics=omics)
        if found is None:
            absent[name] = "the cohort does not state it, or all cases are of one class"
        elif min(int(found.sum()), int((found == 0).sum())) < min_cases:
            absent[name] = f"{int(found.sum())} positives of {int(found.notna().sum())}; {min_cases} of each are needed"
        else:
            targets[name] = found
    return targets, absent
