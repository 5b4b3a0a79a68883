"""Molecular features beside the expression of the book's genes: mutations, copy number, further RNA, one long table.

Optional everywhere: a cohort that has none has no `omics.parquet`, and a chapter says what it therefore leaves out.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.core.errors import SchemaError

COLUMNS = ("case_id", "kind", "feature", "value", "unit")


def read_omics(path: str | Path) -> pd.DataFrame:
    """Read a long table of molecular features.

    Parameters
    ----------
    path : str or Path
        A parquet file with `COLUMNS`.

    Returns
    -------
    DataFrame
        One row per case and feature.

    Raises
    ------
    SchemaError
        When a column is missing, a case has a feature twice, or a value is no number.
    """
    table = pd.read_parquet(path)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        msg = (
            f"SchemaError: omics table '{Path(path).name}' has no column '{missing[0]}', expected {', '.join(COLUMNS)}."
        )
        raise SchemaError(msg)
    twice = table[table.duplicated(["case_id", "kind", "feature"])]
    bad = table[~np.isfinite(table["value"].astype(float))]
    if len(twice) or len(bad):
        row, problem = (twice.iloc[0], "occurs twice") if len(twice) else (bad.iloc[0], "has no number")
        named = f"feature '{row['feature']}' ({row['kind']}) of case '{row['case_id']}'"
        msg = f"SchemaError: {named} {problem}. Drop the row."
        raise SchemaError(msg)
    return table.astype({"case_id": str})


def widen_omics(omics: pd.DataFrame, *, kind: str, features: Sequence[str] | None = None) -> pd.DataFrame:
    """Turn one kind of features into cases x features.

    Parameters
    ----------
    omics : DataFrame
        From `read_omics`.
    kind : str
        mutation, copy_number, rna_z, methylation or protein, as the table calls them.
    features : sequence of str, optional
        In this order; all otherwise.

    Returns
    -------
    DataFrame, (n_cases, n_features)
        Cases without any feature of this kind are absent.

    Raises
    ------
    SchemaError
        When the table has no such kind or feature.
    """
    rows = omics[omics["kind"] == kind]
    wide = rows.pivot(index="case_id", columns="feature", values="value").rename_axis(columns=None)
    wanted = list(wide.columns) if features is None else list(features)
    lacking = [name for name in wanted if name not in wide.columns]
    if rows.empty or lacking:
        kinds = ", ".join(sorted(omics["kind"].unique())) or "none"
        msg = f"SchemaError: the omics table holds no {kind} {lacking[0] if lacking else ''}; its kinds are {kinds}."
        raise SchemaError(msg)
    return wide[wanted].astype(float)
