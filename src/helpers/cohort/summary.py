"""Table 1 and follow-up: what a reader wants to know of a cohort before any result."""

from collections.abc import Iterable

import pandas as pd

from helpers.cohort.outcomes import list_endpoints, select_outcome
from helpers.cohort.tables import group_stages
from helpers.core.errors import SplitError
from helpers.core.vocab import SPLITS, time_column

NUMBERS = {
    "age_years": "Age, years",
    "tumour_size_mm": "Tumour size, mm",
    "nodes_positive": "Positive nodes",
}
WORDS = {
    "sex": "Sex",
    "stage": "Stage",
    "grade": "Grade",
    "er": "ER",
    "pr": "PR",
    "her2": "HER2",
    "subtype": "PAM50 subtype",
    "neoadjuvant": "Treated before surgery",
    "site": "Site",
}
MAX_LEVELS = 12


def name_splits(cases: pd.DataFrame, splits: pd.DataFrame | None) -> pd.Series:
    """Say what each case is to the study.

    Parameters
    ----------
    cases : DataFrame
        With case_id.
    splits : DataFrame or None
        repeat, fold, case_id, role; None where no splits are planned.

    Returns
    -------
    Series of str
        development, internal_test or external, in the order of `cases`.

    Raises
    ------
    SplitError
        When a case is in no split.
    """
    if splits is None:
        return pd.Series("development", index=cases.index)
    frozen = splits[splits["fold"] < 0].set_index("case_id")["role"]
    known = set(splits["case_id"])
    absent = [case_id for case_id in cases["case_id"] if case_id not in known]
    if absent:
        msg = f"SplitError: case '{absent[0]}' is in no split ({len(absent)} such cases). Plan the splits again."
        raise SplitError(msg)
    return cases["case_id"].map(frozen).fillna("development")


def describe_cases(cases: pd.DataFrame, *, by: pd.Series | None = None) -> pd.DataFrame:
    """Make table 1: characteristics of the cohort, in all and per group.

    Parameters
    ----------
    cases : DataFrame
        Clean case table.
    by : Series of str, optional
        Group of each case, such as `name_splits` returns; groups with cases become columns.

    Returns
    -------
    DataFrame
        characteristic, level, All and one column per group: median (quartiles) of numbers, n (%) of words. Per cent
        are of the cases whose value is known; the unknown are counted in a row of their own.
    """
    groups: dict[str, pd.DataFrame] = {"All": cases}
    if by is not None:
        order = [name for name in SPLITS if (by == name).any()] or sorted(by.unique())
        groups |= {name: cases[(by == name).to_numpy()] for name in order}
    rows = [{"characteristic": "Cases", "level": "", **{name: str(len(part)) for name, part in groups.items()}}]
    for column, label in NUMBERS.items():
        if column in cases and cases[column].notna().any():
            rows += _describe_number(groups, column, label)
    for column, label in WORDS.items():
        if column in cases and cases[column].notna().any():
            rows += _describe_words(groups, column, label)
    return pd.DataFrame(rows)


def _describe_number(groups: dict[str, pd.DataFrame], column: str, label: str) -> list[dict[str, str]]:
    middle = {name: _write_quartiles(part[column]) for name, part in groups.items()}
    rows = [{"characteristic": label, "level": "median (quartiles)", **middle}]
    return rows + _count_unknown(groups, column, label)


def _write_quartiles(values: pd.Series) -> str:
    known = values.dropna().astype(float)
    if known.empty:
        return "–"
    low, middle, high = known.quantile([0.25, 0.5, 0.75])
    return f"{middle:.0f} ({low:.0f}–{high:.0f})"


def _describe_words(groups: dict[str, pd.DataFrame], column: str, label: str) -> list[dict[str, str]]:
    read = {name: group_stages(part[column]) if column == "stage" else part[column] for name, part in groups.items()}
    counts = read["All"].dropna().astype(str).value_counts()
    levels = sorted(counts.index) if len(counts) <= MAX_LEVELS else list(counts.index[:MAX_LEVELS])
    rows = []
    for level in levels:
        shares = {name: _write_share(values, level) for name, values in read.items()}
        rows.append({"characteristic": label, "level": level, **shares})
    if len(counts) > MAX_LEVELS:
        others = {n: _write_share(v.where(v.isna() | v.isin(levels), "other"), "other") for n, v in read.items()}
        rows.append({"characteristic": label, "level": f"{len(counts) - MAX_LEVELS} others", **others})
    return rows + _count_unknown(groups, column, label)


def _write_share(values: pd.Series, level: str) -> str:
    known = values.dropna().astype(str)
    n = int((known == level).sum())
    return f"{n} ({100 * n / len(known):.0f} %)" if len(known) else "–"


def _count_unknown(groups: dict[str, pd.DataFrame], column: str, label: str) -> list[dict[str, str]]:
    unknown = {name: int(part[column].isna().sum()) for name, part in groups.items()}
    if not unknown["All"]:
        return []
    return [{"characteristic": label, "level": "not known", **{name: str(n) for name, n in unknown.items()}}]


def count_outcomes(cases: pd.DataFrame, *, horizons_months: Iterable[float] = (60, 120)) -> pd.DataFrame:
    """Count cases, events and losses of every endpoint.

    Parameters
    ----------
    cases : DataFrame
        Clean case table.
    horizons_months : iterable of float
        Events up to each of these times are counted too.

    Returns
    -------
    DataFrame
        endpoint, n, n_events, n_censored, n_unknown, n_time_zero, n_events_<months> and follow_up_months, the median
        time of the cases without an event (of those alone; the reverse Kaplan-Meier estimate is in chapter 04).
    """
    rows = []
    for endpoint in list_endpoints(cases):
        outcome = select_outcome(cases, endpoint)
        event, time = outcome["event"], outcome["time_months"]
        early = {f"n_events_{months:g}": int((event & (time <= months)).sum()) for months in horizons_months}
        rows.append(
            {
                "endpoint": endpoint,
                "n": len(outcome),
                "n_events": int(event.sum()),
                "n_censored": int((~event).sum()),
                "n_unknown": len(outcome.attrs["losses"]),
                "n_time_zero": outcome.attrs["n_time_zero"],
                **early,
                "follow_up_months": float(time[~event].median()),
            }
        )
    return pd.DataFrame(rows)


def count_under_observation(cases: pd.DataFrame, *, step_months: float = 6.0) -> pd.DataFrame:
    """Count the cases still under observation and free of the event, over time.

    Parameters
    ----------
    cases : DataFrame
        Clean case table.
    step_months : float

    Returns
    -------
    DataFrame
        endpoint, time_months, n_at_risk (follow-up of at least that long) and n_events (up to that time).
    """
    rows = []
    for endpoint in list_endpoints(cases):
        outcome = select_outcome(cases, endpoint)
        time, event = outcome["time_months"], outcome["event"]
        last = cases[time_column(endpoint)].max()
        for month in [step * step_months for step in range(int(last // step_months) + 2)]:
            at_risk, happened = int((time >= month).sum()), int((event & (time <= month)).sum())
            rows.append({"endpoint": endpoint, "time_months": month, "n_at_risk": at_risk, "n_events": happened})
    return pd.DataFrame(rows, columns=["endpoint", "time_months", "n_at_risk", "n_events"])


def count_folds(cases: pd.DataFrame, splits: pd.DataFrame, *, site_column: str | None, repeat: int = 0) -> pd.DataFrame:
    """Count the cases that each fold tests, and the frozen ones, by site.

    Parameters
    ----------
    cases : DataFrame
    splits : DataFrame
        repeat, fold, case_id, role.
    site_column : str or None
        None counts all cases under one name.
    repeat : int
        Which partition.

    Returns
    -------
    DataFrame
        part ('fold 0' …, 'internal test', 'external'), site, n_cases.
    """
    site = cases.set_index("case_id")[site_column].astype(str) if site_column else None
    tested = splits[((splits["repeat"] == repeat) & (splits["role"] == "test")) | (splits["fold"] < 0)]
    frozen = tested["fold"] < 0
    part = tested["role"].str.replace("_", " ").where(frozen, "fold " + tested["fold"].astype(str))
    sites = tested["case_id"].map(site) if site is not None else "all"
    counted = tested.assign(part=part, site=sites).groupby(["part", "site"], sort=True).size()
    return counted.rename("n_cases").reset_index()
