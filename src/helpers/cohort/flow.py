"""Cohort flow: how many enter, how many leave at each step, and why. Nothing is lost silently."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from helpers.core.errors import SchemaError


@dataclass(frozen=True)
class Loss:
    """One item that is not part of the cohort.

    Parameters
    ----------
    kind : str
        case, slide, spot, row.
    item : str
    step : str
        Where it left.
    reason : str
    """

    kind: str
    item: str
    step: str
    reason: str


@dataclass
class CohortFlow:
    """Items of one kind on their way through inclusion.

    Parameters
    ----------
    start : str
        What the first count is of, such as 'patients listed'.
    items : iterable of str
    kind : str
        case, slide, spot.
    """

    start: str
    items: Iterable[str]
    kind: str = "case"
    steps: list[dict[str, Any]] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.items = list(self.items)
        self.n_start = len(self.items)

    @property
    def n(self) -> int:
        """How many are left."""
        return len(list(self.items))

    def keep(self, step: str, reasons: Mapping[str, str]) -> list[str]:
        """Take a step: items with a reason leave, the others stay.

        Parameters
        ----------
        step : str
            What those who stay have in common, such as 'RNA measured'.
        reasons : mapping of str to str
            Item to the reason why it leaves; items already gone are ignored.

        Returns
        -------
        list of str
            Those who stay, in order.
        """
        before = list(self.items)
        leaving = [item for item in before if item in reasons]
        gone = set(leaving)
        self.items = [item for item in before if item not in gone]
        counts = Counter(reasons[item] for item in leaving)
        self.steps.append(
            {"step": step, "n_before": len(before), "n_after": self.n, "reasons": dict(counts.most_common())}
        )
        self.losses += [Loss(self.kind, item, step, reasons[item]) for item in leaving]
        return list(self.items)

    def to_table(self) -> pd.DataFrame:
        """Return the flow as a tidy table.

        Returns
        -------
        DataFrame
            kind, step, reason, n_before, n_lost, n_after; one row per step and reason (reason '' where none left).
        """
        rows = [{"kind": self.kind, "step": self.start, "reason": "", "n_before": self.n_start, "n_lost": 0}]
        rows[0]["n_after"] = self.n_start
        for step in self.steps:
            for reason, lost in (step["reasons"] or {"": 0}).items():
                part = {key: step[key] for key in ("step", "n_before", "n_after")}
                rows.append({"kind": self.kind, **part, "reason": reason, "n_lost": lost})
        return pd.DataFrame(rows)[["kind", "step", "reason", "n_before", "n_lost", "n_after"]]

    def to_json(self) -> dict[str, Any]:
        """Return the flow as JSON values, with every loss by name.

        Returns
        -------
        dict
        """
        losses = [{"item": loss.item, "step": loss.step, "reason": loss.reason} for loss in self.losses]
        return {
            "kind": self.kind, "start": self.start, "n_start": self.n_start, "n_end": self.n, "steps": self.steps,
            "losses": losses,
        }  # fmt: skip


def find_exclusions(
    cases: pd.DataFrame, column: str, *, allowed: Iterable[Any], label: str, keep_unknown: bool
) -> dict[str, str]:
    """Name the cases that an inclusion rule sends away.

    Parameters
    ----------
    cases : DataFrame
        Clean case table.
    column : str
        What the rule looks at.
    allowed : iterable
        Values that stay.
    label : str
        The column in words, for the reason.
    keep_unknown : bool
        Whether a case with an empty cell stays.

    Returns
    -------
    dict of str to str
        case_id to the reason.

    Raises
    ------
    SchemaError
        When the table has no such column.
    """
    if column not in cases:
        msg = f"SchemaError: inclusion asks for '{column}', which the case table has not. Add it, or drop the rule."
        raise SchemaError(msg)
    values, permitted = cases[column], set(allowed)
    reasons = {}
    for case_id, value, unknown in zip(cases["case_id"], values, values.isna(), strict=True):
        if unknown and not keep_unknown:
            reasons[case_id] = f"{label} unknown"
        elif not unknown and value not in permitted:
            reasons[case_id] = label if pd.api.types.is_bool(value) and value else f"{label} {value}"
    return reasons
