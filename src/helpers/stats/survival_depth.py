"""The primary hazard ratio, looked at from all sides: its shape, other models, added value, whom it holds in, power.

Everything here starts from one `Question`: the cases of one analysis, with the score on its declared scale. What is
asked of them is one function each, and gives tidy tables for chapter 04.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.cohort.genes import name_score
from helpers.cohort.outcomes import select_outcome
from helpers.cohort.tables import NO_SITE, label_sites
from helpers.core.errors import OutcomeError, StatsError
from helpers.stats.adjusted import fit_adjusted
from helpers.stats.competing import derive_causes
from helpers.stats.competing_models import MODEL_LABELS, fit_cause_specific, fit_fine_gray
from helpers.stats.cox import fit_cox, scale_score
from helpers.stats.fast_cox import bootstrap_cox, estimate_profile_interval
from helpers.stats.flexible import fit_spline
from helpers.stats.follow_up import truncate_follow_up
from helpers.stats.ipcw import compute_time_auc, find_free
from helpers.stats.kaplan_meier import compare_rmst
from helpers.stats.meta_analysis import pool_ratios
from helpers.stats.multiplicity import adjust_holm
from helpers.stats.power import PowerScale, count_events_needed, describe_follow_up, tabulate_needs, tabulate_power
from helpers.stats.prognosis import Prognosis, calibrate, decide, judge_models
from helpers.stats.resampling import compute_percentile_interval
from helpers.stats.subgroups import SUBGROUPS, estimate_by_group, estimate_subgroups
from helpers.stats.survival_plan import (
    MEASURED_WORDS,
    SCALE_LABELS,
    Analysis,
    ScoreConstants,
    Selection,
    fit_constants,
    select_cases,
)

FEWEST_CLUSTERS: Final = 10
"""Sites below which a standard error clustered by site is not trustworthy, and is not given."""
FEWEST_JUDGED: Final = 20
"""Events by the horizon below which a prognosis is not judged: five folds of four events say nothing."""
COMPOSITE: Final = ("rfs", "pfi_or_death")
"""Endpoints that count death itself."""
RATIO_COLUMNS: Final = ["hazard_ratio", "ci_low", "ci_high", "p", "n", "n_events"]


@dataclass(frozen=True)
class Question:
    """One analysis with its cases, and the score on the scale of its hazard ratio.

    Parameters
    ----------
    item : Analysis
    cases : DataFrame
        The case table it was selected from.
    chosen : Selection
        With covariates where asked, incomplete ones too.
    constants : ScoreConstants
    x : ndarray, (n_cases,)
        The score on the scale of the analysis.
    """

    item: Analysis
    cases: pd.DataFrame
    chosen: Selection
    constants: ScoreConstants
    x: np.ndarray

    @property
    def label(self) -> str:
        """Name of the score as a term of a model."""
        return f"{name_score(self.item.target)} ({MEASURED_WORDS[self.item.measured]}), {SCALE_LABELS[self.item.scale]}"

    @property
    def terms(self) -> pd.DataFrame:
        """The score and the covariates, (n_cases, n_terms)."""
        return pd.concat([pd.DataFrame({self.label: self.x}), self.chosen.covariates], axis=1)

    @property
    def site(self) -> pd.Series:
        """Site of each case; those without one share a label: a stratum, or cluster, but no site that is pooled."""
        sites = self.cases.set_index("case_id").loc[self.chosen.case_id, "site"].reset_index(drop=True)
        return label_sites(sites)


def ask(
    item: Analysis,
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    covariates: Sequence[str] = (),
    quantile: float = 0.5,
    cutoffs: dict[str, float] | None = None,
) -> Question:
    """Select the cases of an analysis and scale its score, keeping cases whose covariates are incomplete.

    Parameters
    ----------
    item : Analysis
    cases, scores : DataFrame
        As in `estimate_analyses`.
    covariates : sequence of str
    quantile, cutoffs
        As in `estimate_analyses`.

    Returns
    -------
    Question
    """
    chosen = select_cases(cases, scores, item, covariates=covariates, complete=False)
    constants = fit_constants(item, cases, scores, quantile=quantile, cutoffs=cutoffs)
    x = scale_score(chosen.score, scale=item.scale, cutoff=constants.cutoff, sd=constants.sd)
    return Question(item, cases, chosen, constants, x)


def bend_score(question: Question, *, n_knots: int = 4) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fit a spline of the score as it is (not cut, not in SDs), to the horizon of the analysis.

    Parameters
    ----------
    question : Question
    n_knots : int

    Returns
    -------
    curve, test : DataFrame
        Of `fit_spline`.
    """
    chosen = question.chosen
    return fit_spline(chosen.time, chosen.event, chosen.score, n_knots=n_knots, horizon=question.item.horizon_months)


def vary_model(question: Question, *, n_imputations: int = 10, n_boot: int = 200, seed: int = 20261) -> pd.DataFrame:
    """Estimate the same hazard ratio under other, equally defensible choices.

    Parameters
    ----------
    question : Question
        With covariates.
    n_imputations, n_boot, seed : int

    Returns
    -------
    DataFrame
        choice, hazard_ratio, ci_low, ci_high, p, n, n_events, note; the first row is the plain model.
    """
    chosen, horizon = question.chosen, question.item.horizon_months
    time, event = truncate_follow_up(chosen.time, chosen.event, horizon)
    x = pd.DataFrame({"score": question.x})
    plain = fit_cox(time, event, x).iloc[0]
    rows = [_name("model-based standard error", plain)]
    rows.append(_name("robust standard error", fit_cox(time, event, x, robust=True).iloc[0]))
    low, high = np.exp(estimate_profile_interval(time, event, question.x))
    rows.append(_name("profile likelihood", {**plain, "ci_low": low, "ci_high": high, "p": np.nan}))
    drawn = bootstrap_cox(time, event, x, n_boot=n_boot, rng=np.random.default_rng(seed))[:, 0]
    low, high = np.exp(compute_percentile_interval(drawn))
    note = f"{int(np.isnan(drawn).sum())} resamples have no estimate" if np.isnan(low) else ""
    rows.append(_name(f"{n_boot} bootstraps of cases", {**plain, "ci_low": low, "ci_high": high, "p": np.nan}, note))
    rows += _vary_sites(question, time, event, x)
    if chosen.covariates is not None:
        rows += _vary_adjustment(question, n_imputations=n_imputations, seed=seed)
    return pd.DataFrame(rows)


def _name(choice: str, row: Any, note: str = "") -> dict[str, Any]:
    return {"choice": choice} | {name: row[name] for name in RATIO_COLUMNS} | {"note": note}


def _vary_sites(question: Question, time: Any, event: Any, x: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the model stratified by site, and clustered by site where there are enough of them."""
    if "site" not in question.cases or question.site.nunique() < 2:
        return []
    n_sites = question.site.nunique()
    models: dict[str, dict[str, Any]] = {"stratified by site": {"strata": question.site}}
    if n_sites >= FEWEST_CLUSTERS:
        models[f"robust, clustered by {n_sites} sites"] = {"clusters": question.site}
    rows = []
    for words, options in models.items():
        try:
            rows.append(_name(words, fit_cox(time, event, x, **options).iloc[0]))
        except StatsError as error:
            empty = dict.fromkeys(RATIO_COLUMNS, np.nan) | {"n": len(x)}
            rows.append(_name(words, empty, note=str(error)))
    return rows


def _vary_adjustment(question: Question, *, n_imputations: int, seed: int) -> list[dict[str, Any]]:
    terms, horizon = question.terms, question.item.horizon_months
    whole = terms.notna().all(axis=1).to_numpy()
    rows = []
    everybody = "adjusted" if whole.all() else "adjusted, missing values imputed"
    for words, kept in ((everybody, np.ones(whole.size, dtype=bool)), ("adjusted, complete cases", whole)):
        if kept is whole and whole.all():
            continue
        try:
            fit = fit_adjusted(question.chosen.time[kept], question.chosen.event[kept], terms[kept], horizon=horizon,
                               n_imputations=n_imputations, seed=seed)  # fmt: skip
            row = fit[fit["model"] == "multivariable"].iloc[0]
            shrunk = f", covariates shrunk to {row['df'] - 1:.1f}" if row["penalty"] > 0 else ""
            rows.append(_name(f"{words} ({row['events_per_term']:.0f} events per term{shrunk})", row))
        except StatsError as error:
            empty = dict.fromkeys(RATIO_COLUMNS, np.nan) | {"n": int(kept.sum())}
            rows.append(_name(words, empty, note=str(error)))
    return rows


@dataclass(frozen=True)
class AddedValue:
    """What scores add to the clinical model, on cases that have everything.

    Parameters
    ----------
    table : DataFrame
        Of `judge_models`, one row per model.
    calibration, decisions, auc : DataFrame
        Of `calibrate`, `decide` and `compute_time_auc`, with `model`.
    horizon : float
    """

    table: pd.DataFrame
    calibration: pd.DataFrame
    decisions: pd.DataFrame
    auc: pd.DataFrame
    horizon: float


def judge_added_value(
    questions: Sequence[Question], *, horizon: float, n_boot: int = 200, seed: int = 20261
) -> AddedValue:
    """Judge clinical model and clinical model + score, out of fold, on the same complete cases.

    Parameters
    ----------
    questions : sequence of Question
        The same analysis by each way of measuring, with covariates.
    horizon : float
        Of AUC, Brier score, calibration and decisions; in months.
    n_boot, seed : int

    Returns
    -------
    AddedValue

    Raises
    ------
    StatsError
        When no covariate is at hand, too few events happened, or a model cannot be fitted.
    """
    shared = _share_cases(questions)
    first = shared.pop("clinical")
    time, event = first["time"], first["event"]
    n_events = int((event & (time <= horizon)).sum())
    if n_events < FEWEST_JUDGED:
        found = f"{n_events} events by {horizon:g} months among {len(time)} complete cases"
        msg = f"StatsError: {found}, expected at least {FEWEST_JUDGED} to judge a prognosis. Take a later horizon."
        raise StatsError(msg)
    models = {"nothing": pd.DataFrame(index=range(len(time))), "clinical": first["terms"]} | shared
    table, prognoses = judge_models(time, event, models, base="clinical", horizon=horizon, n_boot=n_boot, seed=seed)
    parts: dict[str, list[pd.DataFrame]] = {"calibration": [], "decisions": [], "auc": []}
    thresholds = np.linspace(0.02, max(0.1, min(0.6, 2.5 * float(prognoses["nothing"].probability[:, -1].mean()))), 40)
    for name, prognosis in prognoses.items():
        if name == "nothing":
            continue
        risk = _read_risk(prognosis, horizon)
        parts["calibration"].append(calibrate(time, event, risk, horizon=horizon).assign(model=name))
        parts["decisions"].append(decide(time, event, risk, horizon=horizon, thresholds=thresholds).assign(model=name))
        grid = [float(t) for t in np.linspace(0.2, 1.0, 9) * horizon]
        parts["auc"].append(_follow_auc(time, event, prognosis, grid).assign(model=name))
    joined = {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}
    return AddedValue(table=table, horizon=horizon, **joined)


def _share_cases(questions: Sequence[Question]) -> dict[str, Any]:
    """Return the outcome and the terms of cases that have every score and every covariate."""
    first = questions[0]
    if first.chosen.covariates is None:
        msg = "StatsError: no clinical covariate varies in these cases, so nothing can be added to. Name some."
        raise StatsError(msg)
    outcome = pd.DataFrame({"time": first.chosen.time, "event": first.chosen.event})
    base = pd.concat([outcome, first.chosen.covariates], axis=1).set_axis(first.chosen.case_id)
    columns = {question.label: pd.Series(question.x, index=question.chosen.case_id) for question in questions}
    table = base.join(pd.DataFrame(columns), how="inner").dropna()
    covariates = [name for name in first.chosen.covariates if table[name].nunique() > 1]
    clinical = table[covariates].reset_index(drop=True)
    found: dict[str, Any] = {
        "clinical": {"time": table["time"].to_numpy(), "event": table["event"].to_numpy(bool), "terms": clinical}
    }
    for question in questions:
        words = f"clinical + {MEASURED_WORDS[question.item.measured]}"
        found[words] = pd.concat([clinical, table[[question.label]].reset_index(drop=True)], axis=1)
    return found


def _read_risk(prognosis: Prognosis, horizon: float) -> np.ndarray:
    return prognosis.probability[:, int(np.flatnonzero(np.isclose(prognosis.at, horizon))[0])]


def _follow_auc(time: np.ndarray, event: np.ndarray, prognosis: Prognosis, grid: list[float]) -> pd.DataFrame:
    """Return the AUC at those times that have events before and cases beyond."""
    usable = [t for t in grid if (event & (time <= t)).any() and find_free(time, event, at=t).any()]
    return compute_time_auc(time, event, prognosis.linear, at=usable)


def compare_mean_times(question: Question, *, horizons: Sequence[float]) -> pd.DataFrame:
    """Compare the event-free time of high and low up to each horizon: an effect that needs no proportional hazards.

    Parameters
    ----------
    question : Question
    horizons : sequence of float, months

    Returns
    -------
    DataFrame
        Rows of `compare_rmst` (high against low, months), with `note` where a horizon is beyond follow-up.
    """
    chosen = question.chosen
    group = np.where(chosen.score > question.constants.cutoff.value, "high", "low")
    rows = []
    for horizon in horizons:
        try:
            rows.append(compare_rmst(chosen.time, chosen.event, group, horizon=horizon).assign(note=""))
        except StatsError as error:
            rows.append(pd.DataFrame([{"horizon": horizon, "note": str(error)}]))
    return pd.concat(rows, ignore_index=True)


def estimate_competing_ratios(question: Question) -> pd.DataFrame:
    """Estimate what the score does to the event and to other death, by rate and by incidence.

    Parameters
    ----------
    question : Question
        Of an endpoint other than overall survival; a composite's deaths are set apart first.

    Returns
    -------
    DataFrame
        cause ('event', 'other death'), model ('cause_specific', 'subdistribution'), label, hazard_ratio, ci_low,
        ci_high, p, n, n_events, note.

    Raises
    ------
    OutcomeError
        When overall survival is not in the table.
    """
    chosen = question.chosen
    death = select_outcome(question.cases, "os").set_index("case_id").reindex(chosen.case_id)
    known = death["event"].notna().to_numpy()
    time, cause = derive_causes(
        chosen.time[known], chosen.event[known], death_time=death["time_months"][known],
        death=death["event"][known].astype(bool), composite=question.item.endpoint in COMPOSITE,
    )  # fmt: skip
    x = pd.DataFrame({question.label: question.x[known]})
    rows = []
    for of, words in ((1, "event"), (2, "other death")):
        for model, fit in (("cause_specific", fit_cause_specific), ("subdistribution", fit_fine_gray)):
            row = {"cause": words, "model": model, "label": MODEL_LABELS[model], "note": ""}
            try:
                rows.append(row | fit(time, cause, x, of=of).iloc[0][RATIO_COLUMNS].to_dict())
            except (StatsError, OutcomeError) as error:
                rows.append(row | {"note": str(error)})
    return pd.DataFrame(rows)


def compare_subgroups(question: Question, *, names: Sequence[str]) -> pd.DataFrame:
    """Estimate the score's ratio in subgroups, with tests of interaction, adjusted by Holm over the subgroups.

    Parameters
    ----------
    question : Question
    names : sequence of str

    Returns
    -------
    DataFrame
        Of `estimate_subgroups`, with p_interaction_holm.
    """
    table = estimate_subgroups(
        question.cases, question.chosen, question.x, names=names, horizon=question.item.horizon_months
    )
    table = table.reindex(columns=[*table.columns, *({"p_interaction"} - set(table))])
    tested = table.dropna(subset=["p_interaction"]).drop_duplicates("subgroup").set_index("subgroup")["p_interaction"]
    adjusted = pd.Series(adjust_holm(tested) if len(tested) else [], index=tested.index, dtype=float)
    return table.assign(p_interaction_holm=table["subgroup"].map(adjusted))


def arrange_subgroups(table: pd.DataFrame) -> pd.DataFrame:
    """Arrange subgroups for a forest plot: a heading with the test of interaction, then a row per level.

    Parameters
    ----------
    table : DataFrame
        From `compare_subgroups`.

    Returns
    -------
    DataFrame
        label, heading, and the columns of `table`; no row where no subgroup is in the case table.
    """
    rows: list[dict[str, Any]] = []
    for name, group in table[table["level"] != ""].groupby("subgroup", sort=False):
        p = group["p_interaction"].iloc[0]
        test = "" if pd.isna(p) else f" (interaction p {'< 0.001' if p < 0.001 else f'= {p:.2g}'})"
        rows.append({"label": f"{SUBGROUPS[str(name)]}{test}", "heading": True})
        rows += [row | {"label": row["level"], "heading": False} for row in group.to_dict("records")]
    return pd.DataFrame(rows)


def pool_sites(question: Question) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimate the ratio in every site and pool them by random effects.

    Parameters
    ----------
    question : Question

    Returns
    -------
    sites : DataFrame
        Of `estimate_by_group`, one row per site; cases without a site are in none.
    pooled : DataFrame
        Of `pool_ratios`; without rows where fewer than two sites have an estimate.
    """
    chosen = question.chosen
    horizon = question.item.horizon_months
    known = question.site.where(question.site != NO_SITE).rename("site")
    sites = estimate_by_group(chosen.time, chosen.event, question.x, known, horizon=horizon)
    if sites["log_hr"].notna().sum() < 2:
        return sites, pd.DataFrame()
    return sites, pool_ratios(sites)


def arrange_sites(sites: pd.DataFrame, pooled: pd.DataFrame) -> pd.DataFrame:
    """Arrange sites for a forest plot: one row each, those without a ratio together, the pooled one, the next site's.

    Parameters
    ----------
    sites, pooled : DataFrame
        From `pool_sites`.

    Returns
    -------
    DataFrame
        label, heading, primary, and the columns of `sites`.
    """
    known, others = sites[sites["log_hr"].notna()], sites[sites["log_hr"].isna()]
    rows = [row | {"label": f"site {row['level']}", "heading": False} for row in known.to_dict("records")]
    if len(others):
        empty = dict.fromkeys(["hazard_ratio", "ci_low", "ci_high", "p"], np.nan)
        counts = {"n": others["n"].sum(), "n_events": others["n_events"].sum()}
        rows.append(empty | counts | {"label": f"{len(others)} site(s), too few events", "heading": False})
    if len(pooled):
        row = pooled.iloc[0].to_dict() | {"n": known["n"].sum(), "n_events": known["n_events"].sum()}
        rows.append({"label": f"Random effects (I² {100 * row['i2']:.0f} %)", "heading": True})
        rows.append(row | {"label": "mean of sites (Hartung–Knapp)", "heading": False, "primary": True})
        if np.isfinite(row["prediction_low"]):
            bounds = {"ci_low": row["prediction_low"], "ci_high": row["prediction_high"]}
            bounds |= dict.fromkeys(["p", "n", "n_events"], np.nan)
            rows.append(row | bounds | {"label": "a new site (prediction)", "heading": False})
    return pd.DataFrame(rows)


def estimate_own_power(
    question: Question, *, ratios: Sequence[float], correlation: float, n_simulations: int, seed: int = 20261
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimate the power of the cohort at hand, and what the image's ratio would need.

    Parameters
    ----------
    question : Question
        Its cases, endpoint and horizon; ratios are on its scale (per_unit counts as per SD).
    ratios : sequence of float
        Hazard ratios of the RNA.
    correlation : float
        Of image and RNA; 1 where the score is the RNA's own.
    n_simulations, seed : int

    Returns
    -------
    power : DataFrame
        Of `tabulate_power`.
    needs : DataFrame
        Of `tabulate_needs`, for every ratio (`rna_ratio`) and several correlations.
    """
    chosen = question.chosen
    time, event = truncate_follow_up(chosen.time, chosen.event, question.item.horizon_months)
    scale: PowerScale = "high_vs_low" if question.item.scale == "high_vs_low" else "per_sd"
    power = tabulate_power(
        describe_follow_up(time, event), n_cases=len(time), hazard_ratios=list(ratios), correlation=correlation,
        scale=scale, n_simulations=n_simulations, seed=seed,
    )  # fmt: skip
    correlations = sorted({1.0, 0.8, 0.6, 0.4, round(correlation, 3)}, reverse=True)
    share = float(event.mean())
    needs = [
        tabulate_needs(ratio, correlations=correlations, event_share=share, scale=scale).assign(rna_ratio=ratio)
        for ratio in ratios
    ]
    return power, pd.concat(needs, ignore_index=True)


def describe_power(power: pd.DataFrame, needs: pd.DataFrame, *, published: float = 1.65) -> str:
    """Say in words what a cohort could have found.

    Parameters
    ----------
    power, needs : DataFrame
        From `estimate_own_power`.
    published : float
        A ratio between halves, as printed by a paper.

    Returns
    -------
    str
    """
    lines = [
        f"a ratio of {published:g} between halves needs {count_events_needed(published):.0f} events for 80 % power"
    ]
    for row in power.itertuples():
        share = f"{100 * row.power:.0f} % ({100 * row.ci_low:.0f}–{100 * row.ci_high:.0f})"
        lines.append(
            f"RNA {row.hazard_ratio:g} → image {row.image_ratio:.2f} at correlation {row.correlation:.2f}: this cohort "
            f"({row.mean_events:.0f} events) finds it in {share} of tries"
        )
    return "\n".join(lines)
