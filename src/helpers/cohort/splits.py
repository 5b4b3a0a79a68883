"""Splits: which case trains, chooses, tests. Whole sites stay on one side, and the plan is a file.

Folds that keep every site whole are an exact small integer programme: each site goes to one fold, and the programme
makes case counts and outcome strata as equal as whole sites allow (Howard et al. 2021, doi
10.1038/s41467-021-24698-1, solved the same task by quadratic programming). Repeated partitions are different
solutions that are almost as balanced. A splits table is long: repeat, fold, case_id, role.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers.cohort.site_programme import SiteProgramme
from helpers.core.errors import SplitError
from helpers.core.vocab import ROLES

COLUMNS = ("repeat", "fold", "case_id", "role")
FOLD_ROLES = ("train", "val", "test")
FROZEN_ROLES = ("internal_test", "external")
MISSING = "missing"
MAX_LEVELS = 8  # a numeric column with more distinct values than this is cut at its quartiles


def plan_splits(
    cases: pd.DataFrame,
    *,
    n_folds: int = 5,
    repeats: int = 10,
    seed: int,
    site_column: str | None = "site",
    stratify: Sequence[str] = (),
    internal_test_fraction: float = 0.0,
    external_sites: Sequence[str] = (),
    val_fraction: float = 0.15,
    allow_fewer: bool = False,
) -> pd.DataFrame:
    """Plan a whole study: external sites, a frozen internal test, and repeated site-preserved folds of the rest.

    Parameters
    ----------
    cases : DataFrame
        One row per case: `case_id`, the site column and the columns to stratify by.
    n_folds, repeats : int
    seed : int
    site_column : str, optional
        None plans case-level folds.
    stratify : sequence of str
        Columns whose levels (quartiles, where numeric) are balanced over the internal test and the folds.
    internal_test_fraction : float
        Share of the cases outside `external_sites` that is set aside; 0 sets none aside.
    external_sites : sequence of str
        Sites that no fit and no choice ever sees.
    val_fraction : float
        Share of each training part that the inner validation split takes.
    allow_fewer : bool
        Reduce `n_folds` and `repeats` to what the sites allow instead of raising.

    Returns
    -------
    DataFrame
        repeat, fold, case_id, role. Frozen cases have repeat 0 and fold -1. The order of `cases` changes no role.

    Raises
    ------
    SplitError
        When a site is unknown or the folds asked for do not exist.
    """
    external = _find_external(cases, external_sites, site_column)
    inner = cases[~external]
    internal = plan_internal_test(inner, fraction=internal_test_fraction, stratify=stratify, seed=seed)
    development = inner[~inner["case_id"].isin(internal)]
    folds = plan_folds(
        development, n_folds=n_folds, repeats=repeats, seed=seed, site_column=site_column, stratify=stratify,
        val_fraction=val_fraction, allow_fewer=allow_fewer,
    )  # fmt: skip
    frozen = [_tabulate(0, -1, internal, "internal_test"), _tabulate(0, -1, cases.loc[external, "case_id"], "external")]
    splits = pd.concat([folds, *frozen], ignore_index=True)
    check_splits(splits, cases=cases, site_column=site_column)
    return splits


def plan_folds(
    cases: pd.DataFrame,
    *,
    n_folds: int = 5,
    repeats: int = 10,
    seed: int,
    site_column: str | None = "site",
    stratify: Sequence[str] = (),
    val_fraction: float = 0.15,
    allow_fewer: bool = False,
) -> pd.DataFrame:
    """Plan repeated folds that keep every site whole; case-level stratified folds where `site_column` is None.

    Repeat 0 is the most balanced partition that exists; the further ones are different partitions at most half as
    much again out of balance, drawn by random objectives. Inside each training part an inner validation split is
    set aside: whole sites where some union of sites comes near `val_fraction`, stratified cases otherwise.

    Parameters
    ----------
    cases : DataFrame
        One row per case with `case_id`, the site column and the columns to stratify by.
    n_folds, repeats : int
    seed : int
    site_column : str, optional
    stratify : sequence of str
    val_fraction : float
        0 sets no validation cases aside.
    allow_fewer : bool
        Reduce `n_folds` and `repeats` to what `compute_fold_limits` finds instead of raising.

    Returns
    -------
    DataFrame
        repeat, fold, case_id, role (train, val, test); every case is tested once per repeat.

    Raises
    ------
    SplitError
        When a column is missing, a case occurs twice, a case has no site, or the folds do not exist.
    """
    _check_cases(cases, [*stratify, *([site_column] if site_column else [])])
    cases = cases.sort_values("case_id", ignore_index=True)  # the order of a table must move nobody
    limits = compute_fold_limits(cases, n_folds=n_folds, repeats=repeats, site_column=site_column)
    _check_two_units(cases, site_column)
    if limits != (n_folds, repeats):
        if not allow_fewer:
            raise SplitError(_describe_limits(cases, n_folds, repeats, limits, site_column))
        n_folds, repeats = limits
    rng = np.random.default_rng([seed, n_folds])
    levels = _code_levels(cases, stratify)
    sites = _code_sites(cases, site_column)
    if sites is None:
        plans = [_deal_cases(levels, n_folds, rng) for _ in range(repeats)]
    else:
        plans = SiteProgramme(sites, levels, n_folds).solve_repeatedly(repeats, rng)
    tables = []
    for repeat, plan in enumerate(plans):
        for fold in range(n_folds):
            val = _choose_val(plan == fold, sites, levels, val_fraction, rng)
            role = np.select([plan == fold, val], ["test", "val"], "train")
            tables.append(_tabulate(repeat, fold, cases["case_id"], role))
    return pd.concat(tables, ignore_index=True)


def plan_internal_test(
    cases: pd.DataFrame, *, fraction: float = 0.174, stratify: Sequence[str] = (), seed: int
) -> pd.Series:
    """Set cases aside before anything is fitted, in the proportions of the strata.

    The cases are sorted by their strata and every (1 / fraction)-th one is taken, so each stratum, and each
    combination of strata as far as it is large enough, gives its share.

    Parameters
    ----------
    cases : DataFrame
        `case_id` and the columns to stratify by (grade, ER, HER2, score in the published protocol).
    fraction : float
        Share set aside; 0.174 is 172 of 991 cases as published.
    stratify : sequence of str
    seed : int

    Returns
    -------
    Series of str
        The case ids of the internal test.

    Raises
    ------
    SplitError
        When the fraction is not in [0, 1), or a column is missing.
    """
    _check_cases(cases, stratify)
    if not 0 <= fraction < 1:
        msg = f"SplitError: internal test fraction is {fraction}, expected 0 <= fraction < 1, such as 0.174."
        raise SplitError(msg)
    cases = cases.sort_values("case_id", ignore_index=True)
    order = _sort_by_levels(_code_levels(cases, stratify), np.random.default_rng([seed, 174]))
    n_test = round(fraction * len(cases))
    taken = (np.arange(len(cases)) * n_test) // len(cases)  # steps up n_test times, evenly spaced
    picked = order[np.flatnonzero(np.diff(taken, append=n_test))]
    return cases["case_id"].iloc[np.sort(picked)].reset_index(drop=True)


def compute_fold_limits(
    cases: pd.DataFrame, *, n_folds: int, repeats: int, site_column: str | None = "site"
) -> tuple[int, int]:
    """Reduce the folds and repeats asked for to what whole sites allow.

    Parameters
    ----------
    cases : DataFrame
    n_folds, repeats : int
        As asked for.
    site_column : str, optional

    Returns
    -------
    n_folds : int
        At most one fold per site (per case where `site_column` is None).
    repeats : int
        At most the number of ways to put the sites into that many folds.
    """
    n_units = len(cases) if site_column is None else cases[site_column].nunique()
    n_folds = min(n_folds, n_units)
    return n_folds, min(repeats, count_partitions(n_units, n_folds))


def count_partitions(n_items: int, n_groups: int) -> int:
    """Count the ways to put items into unlabelled, non-empty groups: the Stirling number of the second kind.

    Parameters
    ----------
    n_items, n_groups : int

    Returns
    -------
    int
    """
    row = [1] + [0] * n_groups  # row[k]: partitions of the items seen so far into k groups
    for _ in range(n_items):
        row = [0] + [k * row[k] + row[k - 1] for k in range(1, n_groups + 1)]
    return row[n_groups]


def check_splits(splits: pd.DataFrame, *, cases: pd.DataFrame | None = None, site_column: str | None = None) -> None:
    """Raise when a case, or a site, is on two sides of a split.

    Parameters
    ----------
    splits : DataFrame
        repeat, fold, case_id, role.
    cases : DataFrame, optional
        With it, unknown cases are caught.
    site_column : str, optional
        With it and `cases`, a site that both trains and tests in one fold is caught.

    Raises
    ------
    SplitError
        Names the first case or site that leaks, the repeat and the fold.
    """
    _check_form(splits)
    _check_frozen(splits)
    folds = splits[splits["fold"] >= 0]
    _check_one_role(folds)
    _check_tested_once(folds)
    if cases is not None:
        unknown = sorted(set(splits["case_id"]) - set(cases["case_id"]))
        if unknown:
            msg = f"SplitError: {len(unknown)} cases of the splits are not in the case table, first '{unknown[0]}'."
            raise SplitError(msg)
        if site_column is not None:
            _check_sites(folds, cases.set_index("case_id")[site_column].astype(str))


def describe_splits(splits: pd.DataFrame, *, cases: pd.DataFrame, site_column: str | None = "site") -> pd.DataFrame:
    """Count cases and sites per repeat, fold and role.

    Parameters
    ----------
    splits : DataFrame
    cases : DataFrame
    site_column : str, optional

    Returns
    -------
    DataFrame
        repeat, fold, role, n_cases, n_sites (missing where there is no site column).
    """
    known = cases.set_index("case_id")
    site = splits["case_id"].map(known[site_column]) if site_column else pd.Series(np.nan, index=splits.index)
    grouped = splits.assign(site=site).groupby(["repeat", "fold", "role"], as_index=False)
    return grouped.agg(n_cases=("case_id", "size"), n_sites=("site", "nunique"))


def _code_sites(cases: pd.DataFrame, site_column: str | None) -> np.ndarray | None:
    if site_column is None:
        return None
    lost = cases.loc[cases[site_column].isna(), "case_id"].tolist()
    if lost:
        msg = (
            f"SplitError: {len(lost)} cases have no '{site_column}', first '{lost[0]}', so they cannot be kept with "
            "their site. Fill the column, drop the cases, or set site_column to null for case-level folds."
        )
        raise SplitError(msg)
    return pd.factorize(cases[site_column].astype(str), sort=True)[0]


def _code_levels(cases: pd.DataFrame, stratify: Sequence[str]) -> np.ndarray:
    """Code each column as 0, 1, ... (n_cases, n_columns); numbers by quartile, missing values as a level."""
    columns = [_code_column(cases[name]) for name in stratify]
    return np.stack(columns, axis=1) if columns else np.zeros((len(cases), 0), int)


def _code_column(values: pd.Series) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > MAX_LEVELS:
        numbers = values.to_numpy(float, na_value=np.nan)
        codes = np.searchsorted(np.nanquantile(numbers, [0.25, 0.5, 0.75]), numbers, side="left")
        return np.where(np.isnan(numbers), 4, codes)
    return pd.factorize(values.astype(object).where(values.notna(), MISSING).astype(str), sort=True)[0]


def _sort_by_levels(levels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Order cases by stratum, at random within one; the last column varies slowest."""
    return np.lexsort([rng.random(len(levels)), *levels.T])


def _deal_cases(levels: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Deal cases, sorted by stratum, to the folds like cards; each round in a fresh order."""
    n_cases = len(levels)
    deal = np.concatenate([rng.permutation(n_folds) for _ in range(-(-n_cases // n_folds))])[:n_cases]
    plan = np.empty(n_cases, int)
    plan[_sort_by_levels(levels, rng)] = deal
    return plan


def _choose_val(
    test: np.ndarray, sites: np.ndarray | None, levels: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Choose validation cases from the training part of one fold; boolean (n_cases,)."""
    training = np.flatnonzero(~test)
    target = fraction * len(training)
    chosen = np.zeros(len(test), bool)
    picked = None if sites is None or not target else _choose_val_sites(sites[training], target, rng)
    if picked is None and target:  # no union of sites comes near: stratified cases
        plan = _deal_cases(levels[training], max(2, round(1 / fraction)), rng)
        picked = plan == 0
    if picked is not None:
        chosen[training[picked]] = True
    return chosen


def _choose_val_sites(sites: np.ndarray, target: float, rng: np.random.Generator) -> np.ndarray | None:
    """Choose whole sites that together hold about `target` cases; None where none come within a factor of 2."""
    counts = np.bincount(sites)
    best: tuple[float, np.ndarray] = (np.inf, np.zeros(len(counts), bool))
    for _ in range(8):  # a few random orders; in each, take every site that brings the sum nearer
        taken = np.zeros(len(counts), bool)
        for site in rng.permutation(np.flatnonzero(counts)):
            total = counts[taken].sum()
            taken[site] = abs(total + counts[site] - target) < abs(total - target)
        distance = abs(counts[taken].sum() - target)
        best = (distance, taken) if distance < best[0] else best
    total, left = counts[best[1]].sum(), counts[~best[1]].sum()
    return best[1][sites] if target / 2 <= total <= target * 2 and left else None


def _tabulate(repeat: int, fold: int, case_ids: pd.Series, role: str | np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"repeat": repeat, "fold": fold, "case_id": case_ids.to_numpy(object), "role": role})


def _find_external(cases: pd.DataFrame, external_sites: Sequence[str], site_column: str | None) -> np.ndarray:
    if not external_sites:
        return np.zeros(len(cases), bool)
    if site_column is None:
        msg = "SplitError: external_sites are given, but site_column is null. Name the column that holds the sites."
        raise SplitError(msg)
    _check_cases(cases, [site_column])
    known = cases[site_column].astype(str)
    unknown = sorted(set(external_sites) - set(known))
    if unknown:
        msg = f"SplitError: external sites {unknown} hold no case; the sites are {', '.join(sorted(set(known)))}."
        raise SplitError(msg)
    return known.isin(external_sites).to_numpy()


def _check_cases(cases: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in ["case_id", *columns] if name not in cases.columns]
    if missing:
        msg = (
            f"SplitError: the case table lacks {missing}; it holds {', '.join(map(str, cases.columns))}. "
            "Set site_column to null for case-level folds, and stratify only by columns that exist."
        )
        raise SplitError(msg)
    twice = cases.loc[cases["case_id"].duplicated(), "case_id"]
    if len(twice):
        msg = f"SplitError: case '{twice.iloc[0]}' occurs more than once; splits are planned on one row per case."
        raise SplitError(msg)


def _check_two_units(cases: pd.DataFrame, site_column: str | None) -> None:
    """Refuse what no reduction can mend: the only fold would test every case and train on none."""
    if not len(cases):
        msg = "SplitError: no case is left for the folds, expected development cases. Name fewer external_sites."
        raise SplitError(msg)
    if site_column is not None and cases[site_column].nunique() < 2:
        msg = (
            f"SplitError: all {len(cases)} development cases are of one '{site_column}', expected two or more, so that "
            "one trains while another tests. Set site_column to null for case-level folds, or n_folds to 0 for none."
        )
        raise SplitError(msg)


def _describe_limits(
    cases: pd.DataFrame, n_folds: int, repeats: int, limits: tuple[int, int], site_column: str | None
) -> str:
    unit = "cases" if site_column is None else "sites"
    n_units = len(cases) if site_column is None else cases[site_column].nunique()
    remedy = f"Set n_folds to {limits[0]} and n_repeats to {limits[1]}, or allow_fewer to have them reduced."
    if limits[0] < n_folds:
        return f"SplitError: {n_units} {unit} cannot fill {n_folds} folds with whole {unit}. {remedy}"
    return (
        f"SplitError: {n_units} {unit} can be put into {n_folds} folds in {limits[1]} different ways, "
        f"{repeats} were asked. {remedy}"
    )


def _check_form(splits: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in splits.columns]
    if missing:
        msg = f"SplitError: the splits table lacks {missing}; expected columns {', '.join(COLUMNS)}."
        raise SplitError(msg)
    unknown = sorted(set(splits["role"]) - set(ROLES))
    if unknown:
        msg = f"SplitError: unknown roles {unknown}; expected {', '.join(ROLES)}."
        raise SplitError(msg)
    frozen = splits["role"].isin(FROZEN_ROLES)
    misplaced = splits[frozen != (splits["fold"] < 0)]
    if len(misplaced):
        row = misplaced.iloc[0]
        msg = f"SplitError: case '{row.case_id}' is '{row.role}' in fold {row.fold}; fold -1 is for frozen cases only."
        raise SplitError(msg)


def _check_frozen(splits: pd.DataFrame) -> None:
    frozen = splits[splits["fold"] < 0]
    both = sorted(set(frozen["case_id"]) & set(splits.loc[splits["fold"] >= 0, "case_id"]))
    if both:
        role = frozen.loc[frozen["case_id"] == both[0], "role"].iloc[0]
        msg = f"SplitError: case '{both[0]}' is '{role}' and also in a fold; {len(both)} such cases. It would leak."
        raise SplitError(msg)
    twice = frozen.loc[frozen["case_id"].duplicated(), "case_id"]
    if len(twice):
        msg = f"SplitError: case '{twice.iloc[0]}' is frozen twice; a case is internal_test or external, once."
        raise SplitError(msg)


def _check_one_role(folds: pd.DataFrame) -> None:
    twice = folds[folds.duplicated(["repeat", "fold", "case_id"])]
    if len(twice):
        repeat, fold, case_id = twice.iloc[0][["repeat", "fold", "case_id"]]
        same = (folds["case_id"] == case_id) & (folds["repeat"] == repeat) & (folds["fold"] == fold)
        roles = " and ".join(folds.loc[same, "role"])
        msg = f"SplitError: case '{case_id}' is {roles} in repeat {repeat}, fold {fold}. It would leak."
        raise SplitError(msg)


def _check_tested_once(folds: pd.DataFrame) -> None:
    tested = folds.assign(test=folds["role"] == "test").groupby(["repeat", "case_id"])["test"].sum()
    wrong = tested[tested != 1]
    if len(wrong):
        repeat, case_id = wrong.index[0]
        msg = f"SplitError: case '{case_id}' is tested {wrong.iloc[0]} times in repeat {repeat}, expected once."
        raise SplitError(msg)


def _check_sites(folds: pd.DataFrame, site: pd.Series) -> None:
    sides = folds.assign(site=folds["case_id"].map(site), test=folds["role"] == "test")
    mixed = sides.groupby(["repeat", "fold", "site"])["test"].nunique()
    leaking = mixed[mixed > 1]
    if len(leaking):
        repeat, fold, name = leaking.index[0]
        msg = f"SplitError: site '{name}' both trains and tests in repeat {repeat}, fold {fold}. Keep it whole."
        raise SplitError(msg)
