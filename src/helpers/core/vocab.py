"""One word for one thing: units as types, column names, and the closed sets of words that tables may hold."""

from typing import Final, NewType

Um = NewType("Um", float)
"""Length in micrometres."""
Px = NewType("Px", int)
"""Length in pixels at a stated resolution (um per px)."""
PxL0 = NewType("PxL0", int)
"""Length in pixels of level 0, the finest level of a slide."""
Mpp = NewType("Mpp", float)
"""Resolution in um per px."""
Months = NewType("Months", float)
"""Follow-up time in months of 365.25 / 12 days."""

DAYS_PER_MONTH: Final = 365.25 / 12

ENDPOINTS: Final = ("os", "pfi", "pfi_or_death", "dfi", "dss", "rfs")
ENDPOINT_LABELS: Final = {
    "os": "Overall survival",
    "pfi": "Progression-free interval",
    "pfi_or_death": "Progression or death",
    "dfi": "Disease-free interval",
    "dss": "Disease-specific survival",
    "rfs": "Recurrence or death",
}

ROLES: Final = ("train", "val", "test", "internal_test", "external")
"""What a case is to one fold of one repeat (splits.csv)."""
SPLITS: Final = ("development", "internal_test", "external")
"""What a case is to the study (predictions.parquet)."""
ROW_KINDS: Final = ("planted", "published", "baseline", "control")
"""What a scoreboard row is compared with."""
SLIDE_KINDS: Final = ("DX", "TS", "BS")
"""Diagnostic (formalin-fixed), frozen top section, frozen bottom section."""
STATUSES: Final = ("ok", "reused", "failed")
"""How a slide left a stage (ledger.parquet)."""


def time_column(endpoint: str) -> str:
    """Return the column that holds an endpoint's follow-up time, in months.

    Parameters
    ----------
    endpoint : str
        One of `ENDPOINTS`.

    Returns
    -------
    str
    """
    return f"{endpoint}_time_months"


def event_column(endpoint: str) -> str:
    """Return the column that says whether an endpoint's event happened (True = happened).

    Parameters
    ----------
    endpoint : str
        One of `ENDPOINTS`.

    Returns
    -------
    str
    """
    return f"{endpoint}_event"
