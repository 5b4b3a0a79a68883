"""Tables that chapter 04 shows and its figures draw: endpoints, risk groups, rows of forest plots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from helpers.cohort.genes import name_score
from helpers.cohort.outcomes import list_endpoints, select_outcome
from helpers.core.errors import StatsError
from helpers.core.vocab import ENDPOINT_LABELS, event_column, time_column
from helpers.stats.adjusted import fit_adjusted
from helpers.stats.competing import derive_causes, estimate_cumulative_incidence
from helpers.stats.cox import Cutoff, scale_score
from helpers.stats.follow_up import Floats, truncate_follow_up
from helpers.stats.imputation import summarize_missing
from helpers.stats.kaplan_meier import compare_logrank, count_at_risk, estimate_follow_up, fit_km
from helpers.stats.proportionality import (
    check_proportional_hazards,
    compute_schoenfeld,
    estimate_ratio_by_horizon,
    estimate_ratio_by_period,
)
from helpers.stats.survival_depth import COMPOSITE, Question, ask
from helpers.stats.survival_plan import (
    MEASURED_LABELS,
    MEASURED_WORDS,
    POPULATION_LABELS,
    SCALE_LABELS,
    Analysis,
    estimate_analyses,
    fit_constants,
    select_cases,
)

INCIDENCE_LABELS = {
    "rfs": "Recurrence", "pfi_or_death": "Progression", "pfi": "Progression or death with tumour", "dfi": "New tumour",
    "dss": "Death of the disease",
}  # fmt: skip
"""What happens in an endpoint once other deaths are set apart."""
COUNTS = ["n_at_risk", "n_events", "n_censored"]
FEWEST_SHOWN = 10
"""Without a declared horizon, curves are drawn while each group holds at least this many cases."""


def summarize_endpoints(cases: pd.DataFrame, endpoints: Sequence[str]) -> pd.DataFrame:
    """Count cases, events, losses and times of 0 of each endpoint, with the median follow-up.

    Parameters
    ----------
    cases : DataFrame
        Of `read_cases`.
    endpoints : sequence of str

    Returns
    -------
    DataFrame
        endpoint, meaning, n, n_events, n_time_zero, n_unknown, median_follow_up (months), ci_low, ci_high.

    Raises
    ------
    OutcomeError
        When an endpoint is not in the table.
    """
    rows = []
    for endpoint in endpoints:
        outcome = select_outcome(cases, endpoint)
        follow_up = estimate_follow_up(outcome["time_months"], outcome["event"]).iloc[0]
        rows.append(
            {
                "endpoint": endpoint, "meaning": ENDPOINT_LABELS[endpoint], "n": len(outcome),
                "n_events": int(outcome["event"].sum()), "n_time_zero": outcome.attrs["n_time_zero"],
                "n_unknown": len(outcome.attrs["losses"]), "median_follow_up": follow_up["median"],
                "ci_low": follow_up["ci_low"], "ci_high": follow_up["ci_high"],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class RiskGroups:
    """High against low: everything a Kaplan–Meier figure shows.

    Parameters
    ----------
    curve, at_risk, test : DataFrame
        From `fit_km`, `count_at_risk` (missing at a tick beyond the horizon, where nobody is looked at) and
        `compare_logrank`.
    ratio : dict
        Row of `estimate_analyses` for high vs low.
    cutoff : Cutoff
    """

    curve: pd.DataFrame
    at_risk: pd.DataFrame
    test: pd.DataFrame
    ratio: dict[str, Any]
    cutoff: Cutoff


def compare_risk_groups(
    item: Analysis,
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    quantile: float = 0.5,
    cutoffs: dict[str, float] | None = None,
) -> RiskGroups:
    """Cut an analysis' score into high and low, whatever its own scale is, for the Kaplan–Meier picture.

    The curve ends at the horizon; without one it ends at the last tick at which each group holds `FEWEST_SHOWN`
    cases, since the rest of it is drawn by a handful of people. The tests use all of follow-up.

    Parameters
    ----------
    item : Analysis
    cases, scores : DataFrame
        As in `estimate_analyses`.
    quantile : float
        Of the cut-off, over development cases.
    cutoffs : dict of str to float, optional
        Locked cut-offs of the image score by target.

    Returns
    -------
    RiskGroups

    Raises
    ------
    StatsError
        When all cases are on one side, or there is no event.
    """
    grouped = replace(item, scale="high_vs_low", adjustment="none")
    chosen = select_cases(cases, scores, grouped)
    constants = fit_constants(item, cases, scores, quantile=quantile, cutoffs=cutoffs)
    time, event = truncate_follow_up(chosen.time, chosen.event, item.horizon_months)
    high = scale_score(chosen.score, scale="high_vs_low", cutoff=constants.cutoff)
    group = np.where(high == 1, "high", "low")
    ticks = plan_ticks(item.horizon_months or _find_thin_tail(time, group), cover=item.horizon_months is not None)
    ratio = estimate_analyses([grouped], cases, scores, covariates=(), quantile=quantile, cutoffs=cutoffs)
    at_risk = count_at_risk(time, event, at=ticks, group=group).astype(dict.fromkeys(COUNTS, "Int64"))
    if item.horizon_months is not None:
        at_risk.loc[at_risk["time"] > item.horizon_months, COUNTS] = pd.NA  # follow-up was ended, by us
    return RiskGroups(
        curve=fit_km(time, event, group=group), at_risk=at_risk,
        test=compare_logrank(time, event, group), ratio=ratio.iloc[0].to_dict(), cutoff=constants.cutoff,
    )  # fmt: skip


def _find_thin_tail(time: Floats, group: np.ndarray) -> float:
    """Return the last time at which every group still holds `FEWEST_SHOWN` cases, or all are followed that far."""
    return min(float(np.sort(time[group == name])[-min(FEWEST_SHOWN, (group == name).sum())]) for name in set(group))


def plan_ticks(months: float, *, most: int = 6, cover: bool = True) -> Floats:
    """Return ticks of a time axis in months: whole years (or half years), at most `most` steps.

    Parameters
    ----------
    months : float
        Longest time shown.
    most : int
    cover : bool
        The last tick lies at or beyond `months`; otherwise at or before it.

    Returns
    -------
    ndarray of float, from 0
    """
    steps = (6, 12, 24, 36, 60, 120, 240)
    step = next((step for step in steps if months / step <= most), steps[-1])
    n_steps = np.ceil(months / step - 1e-9) if cover else max(np.floor(months / step + 1e-9), 1)
    return np.arange(0, n_steps * step + 1, step, dtype=np.float64)


def estimate_competing_incidence(cases: pd.DataFrame, endpoint: str) -> tuple[pd.DataFrame, str]:
    """Estimate the cumulative incidence of an endpoint with other death as competing.

    Parameters
    ----------
    cases : DataFrame
        With the endpoint and overall survival.
    endpoint : str
        Of a composite endpoint ("recurrence or death") the deaths are set apart first.

    Returns
    -------
    curve : DataFrame
        From `estimate_cumulative_incidence`, in months.
    words : str
        What the curve counts, such as 'Recurrence'.

    Raises
    ------
    OutcomeError
        When either endpoint is not in the table.
    """
    both = select_outcome(cases, endpoint).merge(select_outcome(cases, "os"), on="case_id", suffixes=("", "_os"))
    time, cause = derive_causes(
        both["time_months"], both["event"], death_time=both["time_months_os"], death=both["event_os"],
        composite=endpoint in COMPOSITE,
    )  # fmt: skip
    return estimate_cumulative_incidence(time, cause), INCIDENCE_LABELS.get(endpoint, ENDPOINT_LABELS[endpoint])


def count_losses(losses: dict[str, str]) -> pd.DataFrame:
    """Count lost cases per reason.

    Parameters
    ----------
    losses : dict of str to str
        case_id to reason.

    Returns
    -------
    DataFrame
        reason, n; most frequent first.
    """
    return pd.Series(losses, dtype=object).value_counts().rename_axis("reason").rename("n").reset_index()


def fit_models(
    item: Analysis,
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    measured: Sequence[str],
    covariates: Sequence[str],
    quantile: float = 0.5,
    cutoffs: dict[str, float] | None = None,
    n_imputations: int = 10,
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Fit the score and the clinical covariates alone and together, once per way of measuring the score.

    All models of one way of measuring rest on the same cases: missing covariates are imputed.

    Parameters
    ----------
    item : Analysis
        Target, endpoint, population, scale and horizon.
    cases, scores : DataFrame
        As in `estimate_analyses`.
    measured : sequence of str
    covariates : sequence of str
    quantile, cutoffs
        As in `estimate_analyses`.
    n_imputations : int
        Where a covariate is missing.

    Returns
    -------
    fits : dict of str to DataFrame
        Way of measuring to table of `fit_adjusted`.
    notes : dict of str to str
        Way of measuring to what was imputed, shrunk or left out, or why nothing could be fitted.
    """
    fits, notes = {}, {}
    for source in measured:
        adjusted = replace(item, measured=source, adjustment="clinical")
        try:
            question = ask(adjusted, cases, scores, covariates=covariates, quantile=quantile, cutoffs=cutoffs)
            fits[source] = fit_adjusted(
                question.chosen.time, question.chosen.event, question.terms, horizon=item.horizon_months,
                n_imputations=n_imputations,
            )  # fmt: skip
            notes[source] = _describe_models(question, fits[source])
        except StatsError as error:
            notes[source] = str(error)
    return fits, notes


def _describe_models(question: Question, fit: pd.DataFrame) -> str:
    found = summarize_missing(question.terms)
    words = f"{found['n']} cases, {found['n_complete']} of them complete"
    if found["missing"]:
        counted = "; ".join(f"{name} {count}" for name, count in found["missing"].items())
        words += f"; imputed {int(fit['n_imputations'].max())} times: {counted}"
    together = fit[fit["model"] == "multivariable"].iloc[0]
    words += f"; {together['events_per_term']:.0f} events per term"
    if together["penalty"] > 0:
        words += f", so covariates are shrunk (ridge {together['penalty']:.3g}, {together['df']:.1f} effective terms)"
    dropped = question.chosen.dropped
    return words + (f"; does not vary here: {', '.join(dropped)}" if dropped else "")


@dataclass(frozen=True)
class RatioOverTime:
    """Whether one hazard ratio is enough.

    Parameters
    ----------
    test : DataFrame
        From `check_proportional_hazards`.
    residuals, smooth : DataFrame
        From `compute_schoenfeld`.
    periods, horizons : DataFrame
        From `estimate_ratio_by_period` and `estimate_ratio_by_horizon`.
    """

    test: pd.DataFrame
    residuals: pd.DataFrame
    smooth: pd.DataFrame
    periods: pd.DataFrame
    horizons: pd.DataFrame


def follow_ratio(
    item: Analysis,
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    horizons: Sequence[float],
    edges: Sequence[float],
    quantile: float = 0.5,
    cutoffs: dict[str, float] | None = None,
) -> RatioOverTime:
    """Follow a score's hazard ratio over the whole of follow-up, whatever horizon its analysis declares.

    Parameters
    ----------
    item : Analysis
    cases, scores : DataFrame
        As in `estimate_analyses`.
    horizons, edges : sequence of float, months
        A last period, from the last edge to the end of follow-up, is added.
    quantile, cutoffs
        As in `estimate_analyses`.

    Returns
    -------
    RatioOverTime
    """
    chosen = select_cases(cases, scores, item)
    constants = fit_constants(item, cases, scores, quantile=quantile, cutoffs=cutoffs)
    x = scale_score(chosen.score, scale=item.scale, cutoff=constants.cutoff, sd=constants.sd)
    design = pd.DataFrame({item.target: x})
    end = float(chosen.time.max())
    residuals, smooth = compute_schoenfeld(chosen.time, chosen.event, design)
    return RatioOverTime(
        test=check_proportional_hazards(chosen.time, chosen.event, design),
        residuals=residuals,
        smooth=smooth,
        periods=estimate_ratio_by_period(
            chosen.time, chosen.event, x, scale="per_unit", edges=[*(e for e in edges if e < end), end]
        ),
        horizons=estimate_ratio_by_horizon(
            chosen.time, chosen.event, x, scale="per_unit", horizons=[*(h for h in horizons if h < end), end]
        ),
    )


def estimate_over_partitions(
    item: Analysis,
    cases: pd.DataFrame,
    partitions: dict[int, pd.DataFrame],
    *,
    covariates: Sequence[str] = (),
    quantile: float = 0.5,
) -> pd.DataFrame:
    """Estimate one analysis from every repeated partition into folds: how much the hazard ratio owes to the partition.

    Parameters
    ----------
    item : Analysis
    cases : DataFrame
    partitions : dict of int to DataFrame
        Scores by partition.
    covariates : sequence of str
        Of an adjusted analysis.
    quantile : float
        Of the cut-off, fitted anew on the development cases of each partition.

    Returns
    -------
    DataFrame
        partition, hazard_ratio, ci_low, ci_high, concordance, n, n_events, note.
    """
    kept = ["hazard_ratio", "ci_low", "ci_high", "concordance", "n", "n_events", "note"]
    rows = [
        estimate_analyses([item], cases, scores, covariates=covariates, quantile=quantile)[kept].assign(
            partition=number
        )
        for number, scores in partitions.items()
    ]
    return pd.concat(rows, ignore_index=True)[["partition", *kept]]


def has_endpoint(cases: pd.DataFrame, endpoint: str) -> bool:
    """Say whether a case table carries an endpoint.

    Parameters
    ----------
    cases : DataFrame
    endpoint : str

    Returns
    -------
    bool
    """
    return endpoint in list_endpoints(cases) and {time_column(endpoint), event_column(endpoint)} <= set(cases)


def arrange_forest(results: pd.DataFrame) -> pd.DataFrame:
    """Arrange declared hazard ratios for a forest plot: a heading per population and scale, then one row each.

    Parameters
    ----------
    results : DataFrame
        From `estimate_analyses`.

    Returns
    -------
    DataFrame
        label, heading, source ('image' or 'rna'), primary, and the columns of `results`.
    """
    rows: list[dict[str, Any]] = []
    keys = ["population", "scale", "adjustment", "horizon_months"]
    order = ["target", "measured"]
    for values, group in results.groupby(keys, sort=False, dropna=False):
        rows.append({"label": _describe_block(*values), "heading": True})
        ranked = group.assign(rank=group.groupby(["endpoint", "target"], sort=False).ngroup())
        for row in ranked.sort_values(["rank", *order], kind="stable").to_dict("records"):
            label = (
                f"{ENDPOINT_LABELS[row['endpoint']]}: {name_score(row['target'])}, {MEASURED_WORDS[row['measured']]}"
            )
            primary = row["role"] == "primary"
            label += " (primary)" if primary else ""
            rows.append(row | {"label": label, "heading": False, "source": row["measured"], "primary": primary})
    return pd.DataFrame(rows)


def _describe_block(population: str, scale: str, adjustment: str, horizon: float) -> str:
    words = SCALE_LABELS[scale]
    until = "all of follow-up" if pd.isna(horizon) else f"to {horizon / 12:g} years"
    name = POPULATION_LABELS[population]
    return f"{name[0].upper()}{name[1:]}, {words}, {until}" + ("" if adjustment == "none" else ", adjusted")


def _describe_events(row: pd.Series) -> str:
    shrunk = f"; covariates shrunk to {row['df'] - 1:.1f} terms" if row["penalty"] > 0 else ""
    return f"{row['events_per_term']:.0f} events per term{shrunk}"


def arrange_models(fits: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Arrange uni- and multivariable fits for a forest plot.

    Where all ways of measuring rest on equally many cases, the covariates alone are shown once.

    Parameters
    ----------
    fits : dict of str to DataFrame
        Way of measuring to table of `fit_adjusted`.

    Returns
    -------
    DataFrame
        label, heading, and the columns of the fits.
    """
    alone = {name: fit[fit["model"] == "univariable"] for name, fit in fits.items()}
    together = {name: fit[fit["model"] == "multivariable"] for name, fit in fits.items()}
    if len({int(rows["n"].iloc[0]) for rows in alone.values()}) == 1:
        scores, others = (
            pd.concat([rows.iloc[part] for rows in alone.values()]) for part in (slice(1), slice(1, None))
        )
        blocks = [("Univariable", pd.concat([scores, others.drop_duplicates("term")]))]
    else:
        blocks = [(f"Univariable, {MEASURED_LABELS[name]}", rows) for name, rows in alone.items()]
    for name, rows in together.items():
        which = f", {MEASURED_LABELS[name]}" if len(fits) > 1 else ""
        blocks.append((f"Multivariable{which} ({_describe_events(rows.iloc[0])})", rows))
    table: list[dict[str, Any]] = []
    for words, rows in blocks:
        table.append({"label": words, "heading": True})
        table += [row | {"label": row["term"], "heading": False} for row in rows.to_dict("records")]
    return pd.DataFrame(table)
