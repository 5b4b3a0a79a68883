"""The analysis plan of chapter 04, carried out: one row per declared hazard ratio, every case accounted for.

What is tested is written down before anything is fitted: one primary analysis, the secondary ones (Holm), their
controls (the same analysis with the RNA-measured score in place of the image's) and the exploratory ones. Cut-offs
and SDs come from development cases of the population analysed; the events choose nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.cohort.genes import name_score
from helpers.cohort.outcomes import select_outcome
from helpers.core.errors import OutcomeError, StatsError
from helpers.core.specs import SurvivalSpec
from helpers.core.vocab import ENDPOINT_LABELS
from helpers.stats.concordance import compute_concordance
from helpers.stats.cox import Cutoff, Scale, estimate_hazard_ratio, fit_cutoff, scale_score
from helpers.stats.follow_up import truncate_follow_up
from helpers.stats.kaplan_meier import compare_logrank
from helpers.stats.multiplicity import adjust_holm
from helpers.stats.proportionality import check_proportional_hazards

POPULATION_LABELS: Final = {"all": "all cases", "erpos_her2neg": "ER+/HER2−", "grade2": "grade 2"}
MEASURED_LABELS: Final = {"image": "predicted from the image", "rna": "measured by RNA"}
MEASURED_WORDS: Final = {"image": "image", "rna": "RNA"}
SCALE_LABELS: Final = {"per_sd": "per SD", "per_unit": "per unit", "high_vs_low": "high vs low"}
SCORE_COLUMNS: Final = ("case_id", "split", "target", "measured", "score")
STAGES: Final = {"0": 0.0, "I": 1.0, "II": 2.0, "III": 3.0, "IV": 4.0}
"""Substages such as IIA count as their stage."""
COVARIATES: Final[dict[str, tuple[str, float | dict[str, float]]]] = {
    "age_years": ("Age, per 10 years", 10.0),
    "tumour_size_mm": ("Tumour size, per 10 mm", 10.0),
    "nodes_positive": ("Positive nodes, per node", 1.0),
    "grade": ("Grade, per step", 1.0),
    "stage": ("Stage, per step", STAGES),
    "er": ("ER, positive vs negative", {"negative": 0.0, "positive": 1.0}),
    "pr": ("PR, positive vs negative", {"negative": 0.0, "positive": 1.0}),
    "her2": ("HER2, positive vs negative", {"negative": 0.0, "positive": 1.0}),
}
"""Clinical covariates: label, and the unit a number is divided by or the number of each word. All enter linearly."""


@dataclass(frozen=True)
class Analysis:
    """One declared hazard ratio.

    Parameters
    ----------
    role : str
        primary, secondary, control or exploratory.
    target : str
        prolif11, MKI67 or any other score of the table.
    measured : str
        'image' (predicted) or 'rna' (measured).
    endpoint, population, scale, adjustment : str
    horizon_months : float or None
        Follow-up ends here.
    """

    role: str
    target: str
    measured: str
    endpoint: str
    population: str
    scale: Scale
    adjustment: str
    horizon_months: float | None

    def describe(self) -> str:
        """Return the analysis in words, for titles and tables.

        Returns
        -------
        str
        """
        until = "" if self.horizon_months is None else f" to {self.horizon_months:g} months"
        adjusted = "" if self.adjustment == "none" else ", adjusted"
        population = POPULATION_LABELS[self.population]
        score = f"{name_score(self.target)} ({MEASURED_WORDS[self.measured]})"
        return f"{score}, {ENDPOINT_LABELS[self.endpoint]}{until}, {population}, {SCALE_LABELS[self.scale]}{adjusted}"


def plan_analyses(spec: SurvivalSpec, *, measured: Sequence[str]) -> list[Analysis]:
    """Write out every hazard ratio that the profile declares, primary first, before anything is fitted.

    Parameters
    ----------
    spec : SurvivalSpec
        Without `secondary`, every other combination of its targets, endpoints and populations is secondary.
    measured : sequence of str
        ('image', 'rna') or ('rna',); the first is what the plan is about, the second its control.

    Returns
    -------
    list of Analysis
        Primary, secondary, their controls, exploratory; no analysis twice.
    """
    primary = Analysis(
        role="primary", target=spec.primary_target, measured=measured[0], endpoint=spec.primary_endpoint,
        population=spec.primary_population, scale=spec.primary_scale, adjustment=spec.primary_adjustment,
        horizon_months=spec.primary_horizon_months,
    )  # fmt: skip
    if spec.secondary is None:
        grid = [(t, e, p) for p in spec.populations for t in spec.targets for e in spec.endpoints]
        declared = [replace(primary, target=t, endpoint=e, population=p) for t, e, p in grid]
    else:
        declared = [replace(primary, **entry.model_dump(exclude_unset=True)) for entry in spec.secondary]
    explored = [replace(primary, **entry.model_dump(exclude_unset=True)) for entry in spec.exploratory]
    planned = [primary, *(replace(item, role="secondary") for item in declared)]
    controls = [replace(item, role="control", measured=other) for other in measured[1:] for item in planned]
    planned += controls + [
        replace(item, role="exploratory", measured=source) for item in explored for source in measured
    ]
    return _drop_repeats(planned)


def _drop_repeats(analyses: list[Analysis]) -> list[Analysis]:
    first: dict[Analysis, Analysis] = {}
    for item in analyses:
        first.setdefault(replace(item, role=""), item)
    return list(first.values())


def tabulate_plan(analyses: Sequence[Analysis]) -> pd.DataFrame:
    """Return the plan as a table, one row per analysis.

    Parameters
    ----------
    analyses : sequence of Analysis

    Returns
    -------
    DataFrame
        role, target, measured, endpoint, population, scale, adjustment, horizon_months.
    """
    return pd.DataFrame([asdict(item) for item in analyses])


def select_population(cases: pd.DataFrame, population: str) -> pd.Series:
    """Say which cases belong to a population; unknown receptors or grade belong to none but 'all'.

    Parameters
    ----------
    cases : DataFrame
        Of `read_cases`.
    population : str
        all, erpos_her2neg or grade2.

    Returns
    -------
    Series of bool, index as `cases`

    Raises
    ------
    StatsError
        When the population is unknown or the case table lacks the column that defines it.
    """
    if population == "all":
        return pd.Series(True, index=cases.index)
    conditions: dict[str, dict[str, Any]] = {
        "erpos_her2neg": {"er": "positive", "her2": "negative"},
        "grade2": {"grade": 2},
    }
    wanted = conditions.get(population, {})
    missing = [name for name in wanted if name not in cases]
    if not wanted or missing:
        msg = (
            f"StatsError: population '{population}' cannot be selected (columns missing: {missing or 'none'}), "
            f"expected one of {', '.join(POPULATION_LABELS)}. Correct the profile, or add the column to cases.csv."
        )
        raise StatsError(msg)
    parts = [(cases[name] == value).fillna(False).astype(bool) for name, value in wanted.items()]
    return pd.concat(parts, axis=1).all(axis=1)


def encode_covariates(cases: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Turn clinical columns into numbers with units that a reader can judge.

    Parameters
    ----------
    cases : DataFrame
        Of `read_cases`.
    names : sequence of str
        Of `COVARIATES`.

    Returns
    -------
    DataFrame, (n_cases, n_names), float64
        Columns are labels such as 'Age, per 10 years'; missing stays missing.

    Raises
    ------
    StatsError
        When a covariate is unknown, not in the table, or known for no case.
    """
    absent = [n for n in names if n not in COVARIATES or n not in cases or not cases[n].notna().any()]
    if absent:
        known = [n for n in COVARIATES if n in cases and cases[n].notna().any()]
        msg = (
            f"StatsError: covariates {', '.join(absent)} are unknown or empty in the case table, which has: "
            f"{', '.join(known)}. List only those under `covariates` in the profile."
        )
        raise StatsError(msg)
    columns = {}
    for name in names:
        label, unit = COVARIATES[name]
        numbers = _code_words(cases[name], unit) if isinstance(unit, dict) else cases[name].astype("Float64") / unit
        columns[label] = numbers.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.DataFrame(columns, index=cases.index)


def _code_words(column: pd.Series, numbers: dict[str, float]) -> pd.Series:
    """Turn words into numbers; a word without one is an error, since it would otherwise become a missing value."""
    words = column.str.replace(r"(?<=[IV])[A-D]\d?$", "", regex=True)
    unknown = sorted(set(words.dropna()) - set(numbers))
    if unknown:
        msg = (
            f"StatsError: covariate '{column.name}' holds {', '.join(map(repr, unknown))}, expected one of "
            f"{', '.join(numbers)}. Correct the cells, or empty them: the cases are then lost by name."
        )
        raise StatsError(msg)
    return words.map(numbers)


@dataclass(frozen=True)
class Selection:
    """The cases of one analysis, with what it needs of each, and the cases it lost.

    Parameters
    ----------
    case_id : Series of str
    time : Series of float, months
    event : Series of bool
    score : Series of float
    covariates : DataFrame or None
        Varying, and complete unless asked otherwise; None where the analysis is not adjusted.
    losses : dict of str to str
        case_id to reason, of cases in the population.
    n_time_zero : int
        Cases kept at time 0, which are in no risk set after it.
    dropped : tuple of str
        Covariates that do not vary in this population.
    """

    case_id: pd.Series
    time: pd.Series
    event: pd.Series
    score: pd.Series
    covariates: pd.DataFrame | None
    losses: dict[str, str]
    n_time_zero: int
    dropped: tuple[str, ...]


def select_cases(
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    analysis: Analysis,
    *,
    covariates: Sequence[str] = (),
    complete: bool = True,
) -> Selection:
    """Select the cases of an analysis: in the population, with outcome and score, and with covariates if adjusted.

    Parameters
    ----------
    cases : DataFrame
        Of `read_cases`.
    scores : DataFrame
        Columns `SCORE_COLUMNS`, one row per case, target and way of measuring.
    analysis : Analysis
    covariates : sequence of str
        Taken whatever `analysis.adjustment` says; give none for an unadjusted analysis.
    complete : bool
        Cases with a missing covariate are lost by name; False keeps them, for imputation.

    Returns
    -------
    Selection

    Raises
    ------
    OutcomeError
        When the endpoint is not in the table.
    StatsError
        When no case is left; the losses are counted.
    """
    population = cases[select_population(cases, analysis.population)]
    if population.empty:
        msg = (
            f"StatsError: no case is in the population '{analysis.population}'. Check er, her2 and grade in cases.csv."
        )
        raise StatsError(msg)
    outcome = select_outcome(population, analysis.endpoint)
    losses: dict[str, str] = dict(outcome.attrs["losses"])
    mine = scores[(scores["target"] == analysis.target) & (scores["measured"] == analysis.measured)]
    table = outcome.merge(mine[["case_id", "score"]].dropna(), on="case_id", how="left", validate="one_to_one")
    unscored = table["score"].isna()
    reason = f"no {analysis.target} {MEASURED_LABELS[analysis.measured]}"
    losses |= dict.fromkeys(table.loc[unscored, "case_id"], reason)
    table = table[~unscored]
    design = encode_covariates(population, covariates).assign(case_id=population["case_id"])
    table = table.merge(design, on="case_id", how="left", validate="one_to_one")
    labels = [label for label in design.columns if label != "case_id"]
    if complete:
        table = _drop_incomplete(table, labels, losses)
    table = table.reset_index(drop=True)
    _check_some_left(table, analysis, losses)
    constant = tuple(label for label in labels if table[label].nunique() < 2)
    varying = [label for label in labels if label not in constant]
    return Selection(
        table["case_id"], table["time_months"], table["event"], table["score"], table[varying] if varying else None,
        losses, int((table["time_months"] == 0).sum()), constant,
    )  # fmt: skip


def _drop_incomplete(table: pd.DataFrame, labels: list[str], losses: dict[str, str]) -> pd.DataFrame:
    incomplete = table[labels].isna()
    for case_id, absent in zip(table["case_id"], incomplete.to_numpy(), strict=True):
        if absent.any():
            losses[case_id] = "covariates missing: " + "; ".join(np.array(labels)[absent])
    return table[~incomplete.any(axis=1)]


def _check_some_left(table: pd.DataFrame, analysis: Analysis, losses: dict[str, str]) -> None:
    if table.empty:
        counted = pd.Series(losses).value_counts().to_dict()
        msg = f"StatsError: no case is left for {analysis.describe()}; lost: {counted}. Check the join of the tables."
        raise StatsError(msg)


@dataclass(frozen=True)
class ScoreConstants:
    """What is fitted on development cases and then applied to all: the cut-off and the SD of a score.

    Parameters
    ----------
    cutoff : Cutoff
    sd : float
        Of the score (n − 1).
    n : int
        Development cases behind both.
    """

    cutoff: Cutoff
    sd: float
    n: int


def fit_score_constants(
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    target: str,
    measured: str,
    population: str,
    quantile: float = 0.5,
    cutoff: float | None = None,
) -> ScoreConstants:
    """Fit the cut-off and the SD of a score on the development cases of a population; outcomes play no part.

    Parameters
    ----------
    cases : DataFrame
    scores : DataFrame
        Columns `SCORE_COLUMNS`.
    target, measured, population : str
    quantile : float
        0.5 is the median.
    cutoff : float, optional
        A cut-off that chapter 03 locked; used for the whole population only.

    Returns
    -------
    ScoreConstants

    Raises
    ------
    StatsError
        When there is no development case with a score.
    """
    inside = set(cases.loc[select_population(cases, population), "case_id"])
    mine = scores[(scores["target"] == target) & (scores["measured"] == measured) & (scores["split"] == "development")]
    values = mine.loc[mine["case_id"].isin(inside), "score"].dropna().to_numpy(dtype=float)
    words = "development cases" + ("" if population == "all" else f", {POPULATION_LABELS[population]}")
    fitted = fit_cutoff(values, quantile=quantile, cases=words)
    if cutoff is not None and population == "all":
        same = abs(cutoff - fitted.value) < 1e-9
        fitted = Cutoff(cutoff, f"{fitted.origin}, as locked by chapter 03" if same else "locked by chapter 03")
    return ScoreConstants(fitted, float(np.std(values, ddof=1)), int(values.size))


def fit_constants(
    item: Analysis,
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    quantile: float = 0.5,
    cutoffs: dict[str, float] | None = None,
) -> ScoreConstants:
    """Fit the constants of one analysis' score.

    Parameters
    ----------
    item : Analysis
    cases, scores : DataFrame
    quantile : float
        Of the cut-off.
    cutoffs : dict of str to float, optional
        Locked cut-offs of the image score by target.

    Returns
    -------
    ScoreConstants
    """
    locked = (cutoffs or {}).get(item.target) if item.measured == "image" else None
    return fit_score_constants(
        cases, scores, target=item.target, measured=item.measured, population=item.population, quantile=quantile,
        cutoff=locked,
    )  # fmt: skip


def estimate_analyses(
    analyses: Sequence[Analysis],
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    covariates: Sequence[str],
    quantile: float = 0.5,
    cutoffs: dict[str, float] | None = None,
) -> pd.DataFrame:
    """Carry the plan out.

    Parameters
    ----------
    analyses : sequence of Analysis
    cases : DataFrame
    scores : DataFrame
        Columns `SCORE_COLUMNS`.
    covariates : sequence of str
        Of the adjusted analyses.
    quantile : float
        Of the cut-off.
    cutoffs : dict of str to float, optional
        Locked cut-offs of the image score by target.

    Returns
    -------
    DataFrame
        One row per analysis: its fields, then hazard_ratio, ci_low, ci_high, log_hr, se, p, p_holm (secondary only),
        n, n_events, n_high, n_events_high, events_per_term, cutoff, cutoff_origin, sd, adjusted_for, p_logrank,
        p_proportional (missing where the events are too few to test it), concordance, concordance_low,
        concordance_high, n_lost, n_time_zero, and `note`, which says why a ratio is missing.
    """
    rows = []
    for item in analyses:
        try:
            row = _estimate_one(item, cases, scores, covariates=covariates, quantile=quantile, cutoffs=cutoffs)
        except (StatsError, OutcomeError) as error:
            row = {"note": str(error)}
        rows.append(asdict(item) | row)
    table = pd.DataFrame(rows).reindex(columns=RESULT_COLUMNS).fillna({"note": "", "adjusted_for": ""})
    family = (table["role"] == "secondary") & table["p"].notna()
    table.loc[family, "p_holm"] = adjust_holm(table.loc[family, "p"])
    return table


RESULT_COLUMNS: Final = [
    "role", "target", "measured", "endpoint", "population", "scale", "adjustment", "horizon_months", "hazard_ratio",
    "ci_low", "ci_high", "log_hr", "se", "p", "p_holm", "n", "n_events", "n_high", "n_events_high", "events_per_term",
    "cutoff", "cutoff_origin", "sd", "adjusted_for", "p_logrank", "p_proportional", "concordance", "concordance_low",
    "concordance_high", "n_lost", "n_time_zero", "note",
]  # fmt: skip


def _estimate_one(
    item: Analysis,
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    covariates: Sequence[str],
    quantile: float,
    cutoffs: dict[str, float] | None,
) -> dict[str, Any]:
    adjusted = item.adjustment == "clinical"
    if adjusted and not covariates:
        msg = (
            "StatsError: an adjusted analysis without covariates would be an unadjusted one. Name some in `covariates`."
        )
        raise StatsError(msg)
    chosen = select_cases(cases, scores, item, covariates=covariates if adjusted else ())
    constants = fit_constants(item, cases, scores, quantile=quantile, cutoffs=cutoffs)
    options: dict[str, Any] = {"scale": item.scale, "cutoff": constants.cutoff, "sd": constants.sd}
    fit = estimate_hazard_ratio(
        chosen.time, chosen.event, chosen.score, covariates=chosen.covariates, horizon=item.horizon_months, **options
    ).iloc[0]
    kept = ["hazard_ratio", "ci_low", "ci_high", "log_hr", "se", "p", "n", "n_events", "events_per_term", "sd"]
    kept += ["adjusted_for", "n_high", "n_events_high", "cutoff", "cutoff_origin"]
    counts = {"n_lost": len(chosen.losses), "n_time_zero": chosen.n_time_zero, "note": ""}
    return fit[kept].to_dict() | _describe_fit(item, chosen, **options) | counts


def _describe_fit(item: Analysis, chosen: Selection, *, scale: Scale, cutoff: Cutoff, sd: float) -> dict[str, Any]:
    """Return what stands beside the ratio: the PH test, concordance, and for groups the log-rank p."""
    x = scale_score(chosen.score, scale=scale, cutoff=cutoff, sd=sd)
    design = pd.concat([pd.DataFrame({"score": x}), chosen.covariates], axis=1)
    horizon = item.horizon_months
    drift = _test_drift(chosen, design, horizon)
    harrell = compute_concordance(chosen.time, chosen.event, chosen.score, horizon=horizon).iloc[0]
    row = {"p_proportional": drift, "concordance": harrell["concordance"]}
    row |= {"concordance_low": harrell["ci_low"], "concordance_high": harrell["ci_high"]}
    if scale == "high_vs_low":
        time, event = truncate_follow_up(chosen.time, chosen.event, horizon)
        row["p_logrank"] = compare_logrank(time, event, x)["p"].iloc[0]
    return row


def _test_drift(chosen: Selection, design: pd.DataFrame, horizon: float | None) -> float:
    """Return the p of proportional hazards for the score; missing where too few events say anything about it."""
    try:
        return float(check_proportional_hazards(chosen.time, chosen.event, design, horizon=horizon)["p"].iloc[0])
    except StatsError:
        return float("nan")
