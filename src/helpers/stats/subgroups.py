"""Does the score work alike in everybody? Hazard ratios within subgroups and sites, and the tests that compare them."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.core.errors import StatsError
from helpers.stats.fast_cox import fit_efron
from helpers.stats.follow_up import Bools, Floats, truncate_follow_up
from helpers.stats.proportionality import estimate_or_explain

FEWEST_EVENTS: Final = 5
"""Of a subgroup whose own ratio is estimated."""


def estimate_by_group(
    time: ArrayLike, event: ArrayLike, score: ArrayLike, groups: pd.Series, *, horizon: float | None = None
) -> pd.DataFrame:
    """Estimate the hazard ratio per unit of a score within each group, and test whether the groups differ.

    The test compares a model with one slope per group with a model of one slope, both with the groups' own levels: a
    small p is evidence that the score works differently. That one group's ratio is significant and another's is not,
    is none.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    score : array_like, (n_cases,)
        Already on the scale wanted; one unit for all groups.
    groups : Series, (n_cases,)
        Cases without a label are left out of this table.
    horizon : float, optional

    Returns
    -------
    DataFrame
        level, hazard_ratio, ci_low, ci_high, log_hr, se, p, n, n_events, note, and the same in each row
        p_interaction, df_interaction (levels with `FEWEST_EVENTS` events and more).
    """
    times, events = truncate_follow_up(time, event, horizon)
    x, labels = np.asarray(score, dtype=np.float64), groups.reset_index(drop=True)
    rows = []
    for level in sorted(labels.dropna().unique(), key=str):
        mine = (labels == level).to_numpy(dtype=bool, na_value=False)
        rows.append(_estimate_level(times[mine], events[mine], x[mine]).assign(level=str(level)))
    if not rows:
        msg = f"StatsError: no case has a label in '{groups.name}'. Leave it out of `subgroups`."
        raise StatsError(msg)
    table = pd.concat(rows, ignore_index=True)
    kept = table.loc[table["log_hr"].notna(), "level"].tolist()
    inside = labels.astype(str).isin(kept).to_numpy() & labels.notna().to_numpy()
    p, df = _test_interaction(times[inside], events[inside], x[inside], labels[inside].astype(str), kept)
    return table.assign(p_interaction=p, df_interaction=df)


def _estimate_level(times: Floats, events: Bools, x: Floats) -> pd.DataFrame:
    n_events = int(events.sum())
    if n_events < FEWEST_EVENTS:
        note = f"fewer than {FEWEST_EVENTS} events"
        empty = dict.fromkeys(["log_hr", "se", "hazard_ratio", "ci_low", "ci_high", "p"], np.nan)
        return pd.DataFrame([empty | {"n": times.size, "n_events": n_events, "note": note}])
    columns = ["log_hr", "se", "hazard_ratio", "ci_low", "ci_high", "p", "n", "n_events", "note"]
    return estimate_or_explain(times, events, x, scale="per_unit", horizon=None).reindex(columns=columns)


def _test_interaction(
    times: Floats, events: Bools, x: Floats, labels: pd.Series, levels: Sequence[str]
) -> tuple[float, int]:
    from scipy.stats import chi2

    if len(levels) < 2:
        return float("nan"), 0
    dummies = np.column_stack([(labels == level).to_numpy(float) for level in levels[1:]])
    shared = pd.DataFrame(np.column_stack([x, dummies]))
    own = pd.DataFrame(np.column_stack([x, dummies, dummies * x[:, None]]))
    try:
        gain = fit_efron(times, events, own).log_likelihood - fit_efron(times, events, shared).log_likelihood
    except StatsError:
        return float("nan"), len(levels) - 1
    return float(chi2.sf(max(2 * gain, 0.0), len(levels) - 1)), len(levels) - 1


SUBGROUPS: Final[dict[str, str]] = {
    "er": "ER",
    "her2": "HER2",
    "grade": "Grade",
    "stage": "Stage",
    "nodes_positive": "Nodes",
    "age_years": "Age",
    "subtype": "Subtype",
    "site": "Site",
}
"""Columns of cases.csv that subgroups are made of; numbers are cut as `label_subgroup` says."""


def label_subgroup(cases: pd.DataFrame, name: str) -> pd.Series:
    """Turn a column of the case table into the labels of subgroups.

    Parameters
    ----------
    cases : DataFrame
    name : str
        Of `SUBGROUPS`. Age is cut at 50 years, nodes at none against any, stage without its letter.

    Returns
    -------
    Series of str or missing, index as `cases`

    Raises
    ------
    StatsError
        When the column is unknown or not in the table.
    """
    if name not in SUBGROUPS or name not in cases:
        there = ", ".join(column for column in SUBGROUPS if column in cases)
        msg = f"StatsError: no subgroup '{name}'; the case table has {there}. Correct `subgroups`."
        raise StatsError(msg)
    column = cases[name]
    if name in {"age_years", "nodes_positive"}:
        numbers = column.astype("Float64")
        words = ("50 or more", "under 50") if name == "age_years" else ("positive", "negative")
        limit = 50.0 if name == "age_years" else 1.0
        labels = pd.Series(np.where((numbers >= limit).fillna(False), *words), index=cases.index, dtype=object)
        return labels.where(numbers.notna())
    if name == "stage":
        return column.astype("string").str.replace(r"(?<=[IV])[A-D]\d?$", "", regex=True)
    if name == "grade":
        return column.astype("Float64").map(lambda value: f"{value:.0f}", na_action="ignore")
    return column.astype("string")


def estimate_subgroups(
    cases: pd.DataFrame,
    chosen: Any,
    score: ArrayLike,
    *,
    names: Sequence[str],
    horizon: float | None = None,
) -> pd.DataFrame:
    """Estimate a score's hazard ratio in subgroups of the cases of one analysis.

    Parameters
    ----------
    cases : DataFrame
    chosen : Selection
        From `select_cases`.
    score : array_like, (n_chosen,)
        On the scale of the analysis.
    names : sequence of str
        Of `SUBGROUPS`; absent or constant ones are left out, with a row that says so.
    horizon : float, optional

    Returns
    -------
    DataFrame
        subgroup, and the columns of `estimate_by_group`.
    """
    table = cases.set_index("case_id").loc[chosen.case_id].reset_index()
    parts = []
    for name in names:
        if name not in table or table[name].isna().all():
            parts.append(pd.DataFrame([{"subgroup": name, "level": "", "note": "not in the case table"}]))
            continue
        rows = estimate_by_group(chosen.time, chosen.event, score, label_subgroup(table, name), horizon=horizon)
        parts.append(rows.assign(subgroup=name))
    return pd.concat(parts, ignore_index=True)
