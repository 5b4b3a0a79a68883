"""Subtype words into the two classes of chapter 06, and how far the sources of a subtype agree."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers.core.errors import SchemaError

LUMINAL = frozenset({"luma", "lumb", "luminal a", "luminal b", "luminal"})
BASAL_HER2 = frozenset({"basal", "basal-like", "her2", "her2-enriched", "basal / her2"})
NEITHER = frozenset({"normal", "normal-like", "claudin-low", "nc"})
"""Subtypes that belong to neither class: such cases are lost, by name."""
CLASS_NAMES = ("Luminal", "Basal/HER2")


def code_basal_her2(subtypes: pd.Series) -> pd.Series:
    """Code subtypes as 1 (Basal-like or HER2-enriched) and 0 (Luminal A or B).

    Parameters
    ----------
    subtypes : Series of str
        PAM50 words of any of the usual spellings, with or without ``BRCA_`` or ``BRCA.`` before them; missing where
        unknown.

    Returns
    -------
    Series of float
        NaN where the subtype is unknown or belongs to neither class (normal-like).

    Raises
    ------
    SchemaError
        When a word is no PAM50 subtype.
    """
    words = subtypes.astype("string").str.strip().str.lower().str.replace(r"^brca[_.]", "", regex=True)
    known = words.dropna()
    unknown = known[~known.isin(LUMINAL | BASAL_HER2 | NEITHER)]
    if len(unknown):
        msg = (
            f"SchemaError: case '{unknown.index[0]}' has the subtype '{subtypes[unknown.index[0]]}' ({len(unknown)} "
            f"such cases), expected one of {', '.join(sorted(LUMINAL | BASAL_HER2 | NEITHER))}. Correct the table, or "
            "name another subtype_source."
        )
        raise SchemaError(msg)
    coded = np.where(words.isin(BASAL_HER2), 1.0, np.where(words.isin(LUMINAL), 0.0, np.nan))
    return pd.Series(coded, index=subtypes.index)


def compare_subtype_sources(cases: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame:
    """Count how often sources of the subtype put a case into the same class.

    Parameters
    ----------
    cases : DataFrame
        Columns `sources`.
    sources : sequence of str
        Columns that are absent or hold no class are left out.

    Returns
    -------
    DataFrame, one row per pair of sources (and per source with itself)
        first, second, n (cases that both put into a class), n_positive (Basal/HER2 by the first), agree (share).
    """
    coded = {name: code_basal_her2(cases[name]) for name in sources if name in cases.columns}
    coded = {name: values for name, values in coded.items() if values.notna().any()}
    rows = []
    for i, first in enumerate(coded):
        for second in list(coded)[i:]:
            both = coded[first].notna() & coded[second].notna()
            a, b = coded[first][both], coded[second][both]
            rows.append((first, second, int(both.sum()), int(a.sum()), float((a == b).mean()) if len(a) else np.nan))
    return pd.DataFrame(rows, columns=["first", "second", "n", "n_positive", "agree"])
