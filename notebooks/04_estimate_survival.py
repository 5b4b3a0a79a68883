# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Estimate survival
#
# **What you'll do.** Ask what the proliferation score says about recurrence and death: survival curves, hazard ratios alone and beside clinical covariates, and whether one hazard ratio is enough.
# The score predicted from the slide and the score measured by RNA go through the very same code, side by side.
#
# **What you'll need.** Chapter 03, or a cohort with expression and no slides (chapter 00 only); under a minute on 2 cores, no accelerator.
#
# **Inputs → outputs.** `predictions.parquet` of chapter 03 (or expression) and the outcomes of chapter 00 → `tables/{plan, hazard_ratios, models_*, other_choices, added_value, subgroups, …}.csv` (the main ones as `.tex` too), figures, rows of the scoreboard.
#
# **Source.** Ekholm et al. 2024 (doi 10.1186/s12885-024-13248-9): high against low predicted score, external test, hazard ratio 1.65 (1.05–2.61) for the 11-gene score and 1.84 (1.17–2.89) for MKI67.
# That the endpoint is recurrence or death, that the cut is the training median, and which covariates adjust it, are our assumptions, and parameters below.

# %% tags=["parameters"]
from typing import Optional

profile_dir: str = "results/phantom"  # run parameter: results of which profile
run_name: str = "interactive"  # run parameter: the book's own runs are called book
shard: str = "1/1"  # run parameter: this chapter has no shards
workers: int = 2  # run parameter: not used here
device: str = "auto"  # run parameter: not used here
primary_target: str = "prolif11"  # the plan: score
primary_endpoint: str = "rfs"  # the plan: os, pfi, pfi_or_death, dfi, dss or rfs
primary_population: str = "all"  # the plan: all or erpos_her2neg
primary_scale: str = "per_sd"  # the plan: per_sd, per_unit or high_vs_low
primary_adjustment: str = "none"  # the plan: none or clinical
primary_horizon_months: Optional[float] = None  # the plan: follow-up ends here
score_source: str = "predictions"  # predictions, or expression where there are no slides
predictions_path: Optional[str] = None  # predictions from elsewhere instead of those of chapter 03
prediction_arm: Optional[str] = None  # arm of the predictions, otherwise the one chapter 03 declares
score_method: str = "mean_log2"  # how a signature is scored from expression
targets: list = ["prolif11", "MKI67"]  # scores analysed
endpoints: list = ["rfs", "os"]  # endpoints analysed
populations: list = ["all", "erpos_her2neg"]  # populations analysed
secondary: Optional[list] = None  # declared secondary analyses, otherwise all other combinations
exploratory: list = []  # analyses without a claim
covariates: list = ["age_years", "tumour_size_mm", "nodes_positive", "grade", "er", "her2"]
cutoff_quantile: float = 0.5  # between low and high, over development cases
horizons_months: list = [60.0, 120.0, 180.0]  # hazard ratio up to each
period_edges_months: list = [0.0, 24.0, 60.0, 120.0]  # hazard ratio within each period
competing_endpoint: Optional[str] = "rfs"  # endpoint shown with other death as competing
spline_knots: int = 4  # of the spline of the score; 0: no spline
n_imputations: int = 10  # of missing covariates
prognosis_months: Optional[float] = 60.0  # horizon of AUC, Brier score, calibration, decisions; None: not judged
subgroups: list = ["er", "her2", "grade", "nodes_positive", "age_years"]  # with a test of interaction
pool_by: Optional[str] = "site"  # sites pooled by random effects; None: not pooled
n_boot: int = 200  # bootstrap resamples of the hazard ratio
power_ratios: list = [1.3, 1.65, 2.2]  # hazard ratios of the RNA whose power is simulated here
n_power: int = 200  # simulated cohorts per hazard ratio

# %%
from helpers.core import provenance
from helpers.core.specs import SurvivalSpec

spec = SurvivalSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %% [markdown]
# ## Scores and outcomes
#
# A development case is judged by the model that never saw it (out-of-fold, in the first partition into folds; the others are shown below); an external case by the ensemble.
# A table that offers a development case the prediction of its own model is refused: its hazard ratio would be flattered by memory.

# %%
from helpers.cohort.tables import read_cases
from helpers.stats.survival_scores import load_scores

cases = read_cases(run.read_input(run.upstream("00") / "cohort" / "cases.parquet"))
scores = load_scores(spec, run, cases)
print(f"{len(cases)} cases; scores from {scores.origin}")
scores.table.pivot_table(index=["target", "measured"], columns="split", values="score", aggfunc="count")

# %%
from helpers.stats.survival_report import has_endpoint, summarize_endpoints

endpoint_counts = summarize_endpoints(cases, [name for name in spec.endpoints if has_endpoint(cases, name)])
run.save_table(endpoint_counts, "endpoints")
endpoint_counts.round(1)

# %% [markdown]
# *n_unknown* cases have no usable status or time and are lost by name, never turned into survivors.
# *n_time_zero* cases left on the day they came; they are kept and counted, and since nobody can be at risk before time 0, no curve moves because of them.
# The median follow-up is the reverse Kaplan–Meier's: the median time to *censoring*, so that early deaths do not make follow-up look short.

# %% [markdown]
# ## The plan, before anything is fitted
#
# The endpoint alone can move a headline by half: in TCGA-BRCA the same score has a hazard ratio of 1.5 for death and 2.8 for the disease-free interval.
# Whoever looks first and names the primary endpoint afterwards will find something.
# So here is everything this chapter will estimate, written down now: one primary analysis, the secondary ones (Holm-adjusted as a family), their controls by RNA, and the exploratory ones that claim nothing.

# %%
from helpers.stats.survival_plan import plan_analyses, tabulate_plan

analyses = plan_analyses(spec, measured=scores.measured)
plan = tabulate_plan(analyses)
run.save_table(plan, "plan")
print(f"primary: {analyses[0].describe()}")
plan

# %%
from helpers.stats.survival_plan import select_cases
from helpers.stats.survival_report import count_losses

chosen = select_cases(cases, scores.table, analyses[0])
for case_id, reason in chosen.losses.items():
    run.lose(case_id, reason)
print(
    f"{len(chosen.case_id)} cases, {int(chosen.event.sum())} events, {chosen.n_time_zero} at time 0, {len(chosen.losses)} lost:"
)
count_losses(chosen.losses)

# %% [markdown]
# ## Where low ends and high begins
#
# The cut-off is a number fitted on development cases, like any weight of a model: their outcomes play no part in it, and no test case has a say.
# Here is the code that fits it; note what it is not given.

# %%
import inspect

import pandas as pd

from helpers.stats import survival_plan

print(inspect.getsource(survival_plan.fit_score_constants).split('"""')[0])
print(inspect.getsource(survival_plan.fit_score_constants).split('"""')[2])

# %%
from dataclasses import replace

from helpers.cohort.genes import name_score
from helpers.figures import survival as figures
from helpers.figures.style import letter_panels, new_figure
from helpers.stats.survival_scores import tabulate_distribution

pair = [replace(analyses[0], measured=source) for source in scores.measured]
constants = [
    survival_plan.fit_constants(item, cases, scores.table, quantile=spec.cutoff_quantile, cutoffs=scores.cutoffs)
    for item in pair
]
fig, axes = new_figure(width_mm=4 + 90 * len(pair), height_mm=62, columns=len(pair))
for ax, item, fitted in zip(axes, pair, constants, strict=True):
    mine = scores.table.query("target == @item.target and measured == @item.measured")
    words = {"image": "predicted from the image", "rna": "measured by RNA"}[item.measured]
    figures.plot_score_distribution(
        tabulate_distribution(mine),
        ax=ax,
        cutoff=fitted.cutoff.value,
        cutoff_origin=fitted.cutoff.origin,
        xlabel=f"{name_score(item.target)}, {words}",
    )
run.save_figure(fig, "score_distribution", table=scores.table)

# %% [markdown]
# ## A survival curve, by hand
#
# Kaplan–Meier multiplies, at each event, the share of those at risk who passed it.
# *At risk* means: still there just before that moment, so a case that leaves at the same moment still counts.
# On eight of our cases the whole arithmetic fits into a table; *survival* is the running product of 1 − n_events / n_at_risk.

# %%
from helpers.stats.survival import fit_km

fit_km(chosen.time[:8], chosen.event[:8])[["time", "n_at_risk", "n_events", "n_censored", "survival"]].round(3)

# %% [markdown]
# ## Is the risk straight in the score?
#
# The score first, as it is: a hazard ratio per SD draws a straight line through the log hazard, and a line is an assumption.
# A restricted cubic spline may bend between its knots (at fixed quantiles of the score; no outcome chose them) and is straight beyond the outer two.
# The test of *curvature* asks whether the bend is more than noise.

# %%
from helpers.core.errors import StatsError
from helpers.stats.survival_depth import ask, bend_score

options = {"quantile": spec.cutoff_quantile, "cutoffs": scores.cutoffs}
asked, bends = [ask(item, cases, scores.table, **options) for item in pair], []
if spec.spline_knots:
    try:
        bends = [bend_score(question, n_knots=spec.spline_knots) for question in asked]
    except StatsError as error:
        print(f"no spline: {error}")
if bends:
    fig, axes = new_figure(width_mm=4 + 90 * len(pair), height_mm=68, columns=len(pair))
    for ax, letter, question, (curve, test) in zip(axes, letter_panels(len(asked)), asked, bends, strict=False):
        words = survival_plan.MEASURED_LABELS[question.item.measured]
        label = f"{name_score(question.item.target)}, {words}"
        figures.plot_spline(
            curve, test, ax=ax, scores=question.chosen.score, cutoff=question.constants.cutoff.value,
            source=question.item.measured, xlabel=label, title=f"{letter}{label}",
        )  # fmt: skip
    curves, tests = (pd.concat([bend[i].assign(measured=item.measured) for item, bend in zip(pair, bends, strict=True)]) for i in (0, 1))
    run.save_figure(fig, "spline", table=curves)
    run.save_table(tests, "spline_tests")

# %% [markdown]
# Where the dashed line stays inside the band, one ratio per SD says it all; where it leaves it, read the curve and not the number.
# The ticks at the foot are the cases: at both ends a handful of them carry the curve, and the band says so.

# %% [markdown]
# ## High against low
#
# The same arithmetic on everybody, cut at the line drawn above.
# The shaded band is the pointwise 95 % interval, small ticks are censored cases, and the rows below the axis say how many people each part of the curve rests on.
# Without a declared horizon the drawing stops where a group falls below ten cases; the tests use all of follow-up.
# Groups are for the eye: the primary estimate keeps the score on its declared scale, because cutting it throws away about a third of its information.

# %%
from helpers.core.vocab import ENDPOINT_LABELS
from helpers.stats.survival_report import compare_risk_groups

groups = [compare_risk_groups(item, cases, scores.table, **options) for item in pair]
fig, axes = new_figure(width_mm=4 + 90 * len(pair), height_mm=82, columns=len(pair))
for ax, letter, item, shown in zip(axes, letter_panels(len(pair)), pair, groups, strict=False):
    title = f"{letter}{name_score(item.target)}, {survival_plan.MEASURED_LABELS[item.measured]}"
    figures.plot_km(
        shown.curve,
        shown.at_risk,
        ax=ax,
        test=shown.test,
        ratio=shown.ratio,
        cutoff_origin=shown.cutoff.origin,
        endpoint=ENDPOINT_LABELS[item.endpoint],
        title=title,
    )
run.save_figure(
    fig,
    "km_primary",
    table=pd.concat([shown.curve.assign(measured=item.measured) for item, shown in zip(pair, groups, strict=True)]),
)
for item, shown in zip(pair, groups, strict=True):
    run.save_table(shown.at_risk, f"at_risk_{item.measured}")

# %% [markdown]
# Compare the panels before their p-values.
# The image's curves lie closer together than the RNA's wherever the image is a noisy reading of the RNA: error in a score pulls its hazard ratio towards 1, which is *attenuation*, not a weaker biology.
# The published 1.65 and 1.84 are the image's and carry that error already.

# %% [markdown]
# ## The trap: the best cut-off
#
# Nothing forces anyone to cut at the median.
# So try seventeen cut-offs between the 10th and the 90th percentile and report the one that separates best, as a good part of the literature does.

# %%
import numpy as np

from helpers.stats.cutoffs import correct_best_cutoff, scan_cutoffs
from helpers.stats.survival import truncate_follow_up

rng, tried = np.random.default_rng(20261), np.linspace(0.1, 0.9, 17)
followed = truncate_follow_up(chosen.time, chosen.event, spec.primary_horizon_months)
scan = scan_cutoffs(*followed, chosen.score, quantiles=tried)
print(
    f"median: p = {scan['p'].iloc[8]:.2g}; best of {len(tried)} (at the {100 * scan.loc[scan['p'].idxmin(), 'quantile']:.0f}th percentile): p = {scan['p'].min():.2g}"
)

# %% [markdown]
# That p-value is flattering, because it pretends that the cut-off had been known.
# The honest version shuffles the score over the patients, so that nothing is left to find, and lets the same search loose on it 2,000 times.

# %%
corrected = correct_best_cutoff(*followed, chosen.score, quantiles=tried, n_permutations=2000, rng=rng)
run.save_table(scan, "cutoff_scan")
run.save_table(corrected, "best_cutoff")
print(
    f"the search calls pure noise significant in {100 * corrected['false_alarms'].item():.0f} % of tries, instead of 5 %"
)
print(f"honest p-value of the best cut-off: {corrected['corrected_p'].item():.4f} (it cannot be below 1 / 2,001)")

# %% [markdown]
# A cut-off fixed beforehand on training cases needs no such correction, which is why this chapter has one and keeps it.

# %% [markdown]
# ## The plan, carried out
#
# One row per declared analysis, in the order of the plan.
# `p_holm` adjusts the secondary analyses as one family; `p_proportional` tests whether one hazard ratio may stand for all of follow-up; `concordance` is Harrell's.
# An analysis that cannot be estimated keeps its row, and `note` says why.

# %%
from helpers.stats.survival_plan import estimate_analyses

results = estimate_analyses(analyses, cases, scores.table, covariates=spec.covariates, **options)
run.save_table(results, "hazard_ratios", latex=True)
for row in results[results["note"] != ""].itertuples():
    print(f"not estimated: {row.role} {row.target} ({row.measured}), {row.endpoint}, {row.population}: {row.note}")
columns = [
    "role",
    "target",
    "measured",
    "endpoint",
    "population",
    "scale",
    "hazard_ratio",
    "ci_low",
    "ci_high",
    "p",
    "p_holm",
    "n",
    "n_events",
    "p_proportional",
    "concordance",
]
results[columns].style.format(precision=3, na_rep="").hide(axis="index")

# %%
from helpers.stats.survival_report import arrange_forest

forest = arrange_forest(results[results["role"] != "exploratory"])
fig, axes = new_figure(width_mm=183, height_mm=20 + 4.4 * len(forest))
figures.plot_forest(forest, ax=axes[0], p_column="p")
run.save_figure(fig, "hazard_ratios", table=forest)

# %% [markdown]
# Read one block at a time and within it the pairs: image (purple) above, RNA (green) below; the diamond is the primary analysis.
# An interval is the statement; whether it excludes 1 is only its shortest summary, and with few events it will not, whatever the truth is.
# As a yardstick: 80 % power for a hazard ratio of 1.65 between two halves takes about 125 events.

# %%
from helpers.stats.survival_report import estimate_over_partitions

spread = estimate_over_partitions(
    analyses[0], cases, scores.partitions, covariates=spec.covariates, quantile=spec.cutoff_quantile
)
run.save_table(spread, "over_partitions")
print(
    f"primary hazard ratio over {len(spread)} partition(s) into folds: {spread['hazard_ratio'].min():.3f} to {spread['hazard_ratio'].max():.3f}"
)

# %% [markdown]
# The patients are the same in every partition; only who trained with whom differs.
# A claim that lives in one partition and dies in the next was about the partition.

# %% [markdown]
# ## Beside what the clinic knows already
#
# A score that only repeats grade and nodes adds nothing.
# Each term is fitted alone and then all together, *on the same cases*: otherwise the change from the upper to the lower block would mix adjustment with a change of patients.
# Missing covariates are imputed several times, by regressions that know the outcome, and pooled by Rubin's rules, so that nobody is thrown out for a missing grade and nobody pretends to have known it.
# Events per term stand in the heading; below ten the covariates (never the score) are shrunk by a ridge penalty until there are ten per effective term, and it says so.
# Intervals of shrunk covariates are narrow because they were shrunk, not because anything is known; read the score's.

# %%
from helpers.stats.survival_report import arrange_models, fit_models

fits, notes = fit_models(
    analyses[0],
    cases,
    scores.table,
    measured=scores.measured,
    covariates=spec.covariates,
    n_imputations=spec.n_imputations,
    **options,
)
for source, note in notes.items():
    print(f"{source}: {note}")
for source, fit in fits.items():
    run.save_table(fit, f"models_{source}", latex=True)

# %%
if fits:
    models = arrange_models(fits)
    fig, axes = new_figure(width_mm=183, height_mm=20 + 4.2 * len(models))
    figures.plot_forest(
        models, ax=axes[0], xlabel=f"Hazard ratio (95 % CI), {ENDPOINT_LABELS[spec.primary_endpoint].lower()}"
    )
    run.save_figure(fig, "uni_and_multivariable", table=models)

# %% [markdown]
# ## The same number by other choices
#
# A declared model is one of several that a careful colleague could have declared.
# So here is the primary ratio again: with robust errors, with the likelihood's own interval, by bootstrap, with each site's own baseline, and adjusted.
# Rows that agree are no further evidence; a row that disagrees is a question.

# %%
from helpers.stats.survival_depth import vary_model

full = [ask(item, cases, scores.table, covariates=spec.covariates, **options) for item in pair]
choices = vary_model(full[0], n_imputations=spec.n_imputations, n_boot=spec.n_boot)
run.save_table(choices, "other_choices", latex=True)
fig, axes = new_figure(width_mm=183, height_mm=18 + 4.6 * len(choices))
figures.plot_forest(choices.rename(columns={"choice": "label"}).assign(source=pair[0].measured), ax=axes[0])
run.save_figure(fig, "other_choices", table=choices)

# %% [markdown]
# Adjusted rows answer another question than the others (the score among patients alike in everything else), so they may differ without anything being wrong.

# %% [markdown]
# ## What the score adds
#
# A small p-value beside grade and nodes is not yet a better prognosis.
# The clinical model and the clinical model plus score are therefore fitted on four fifths of the complete cases and judged on the rest, in turn: by concordance (Harrell's, and Uno's, which censoring does not bend), AUC and Brier score at the horizon, and the likelihood ratio of one term more.

# %%
from IPython.display import display

from helpers.stats.survival_depth import judge_added_value

added = None
if spec.prognosis_months and full[0].chosen.covariates is not None:
    try:
        added = judge_added_value(full, horizon=spec.prognosis_months)
        run.save_table(added.table, "added_value", latex=True)
        shown = added.table.reindex(
            columns=[
                "model",
                "concordance",
                "uno",
                "auc",
                "auc_low",
                "auc_high",
                "integrated_brier",
                "slope",
                "delta_concordance",
                "delta_low",
                "delta_high",
                "lr_p",
                "n",
                "n_events",
            ]
        )
        display(shown.style.format(precision=3, na_rep="").hide(axis="index"))
    except StatsError as error:
        print(f"not judged: {error}")

# %%
if added is not None:
    fig, axes = new_figure(width_mm=183, height_mm=68, columns=3)
    figures.plot_auc(added.auc, ax=axes[0], title="a  Discrimination")
    figures.plot_calibration(added.calibration, ax=axes[1], horizon=added.horizon, title="b  Calibration")
    figures.plot_decisions(added.decisions, ax=axes[2], horizon=added.horizon, title="c  Decisions")
    run.save_figure(fig, "added_value", table=added.calibration)
    run.save_table(added.decisions, "decision_curve")

# %% [markdown]
# Read the interval of `delta_concordance` before its value, and the decision curve before either: two models whose curves lie on each other would treat the same patients.
# A *slope* below 1 says that the predictions are too extreme, as those of an overfitted model are.

# %% [markdown]
# ## In whom?
#
# The question is not in which subgroup the score is significant, but whether its ratio *differs* between subgroups; the test of interaction asks that, and is adjusted for the number of subgroups looked at.

# %%
from helpers.stats.survival_depth import arrange_subgroups, compare_subgroups

if spec.subgroups:
    inside = compare_subgroups(full[0], names=spec.subgroups)
    run.save_table(inside, "subgroups", latex=True)
    rows = arrange_subgroups(inside)
    if rows.empty:
        print(f"no subgroup of {', '.join(spec.subgroups)} is in the case table")
    else:
        fig, axes = new_figure(width_mm=183, height_mm=18 + 4.2 * len(rows))
        figures.plot_forest(rows.assign(source=pair[0].measured), ax=axes[0])
        run.save_figure(fig, "subgroups", table=rows)

# %%
from helpers.stats.survival_depth import arrange_sites, pool_sites

if spec.pool_by and "site" in cases and full[0].site.nunique() > 1:
    sites, pooled = pool_sites(full[0])
    run.save_table(sites, "sites")
    run.save_table(pooled, "sites_pooled")
    rows = arrange_sites(sites, pooled)
    print(
        f"{int(sites['log_hr'].notna().sum())} of {len(sites)} sites have the five events that a ratio of their own needs"
    )
    fig, axes = new_figure(width_mm=183, height_mm=18 + 4.2 * len(rows))
    figures.plot_forest(rows.assign(source=pair[0].measured), ax=axes[0])
    run.save_figure(fig, "sites", table=rows)

# %% [markdown]
# The diamond is the mean over sites; the line below it is where the *next* site is expected, which is what somebody elsewhere wants to know.
# With a handful of sites that line is long, and honestly so.

# %% [markdown]
# ## Is one hazard ratio enough?
#
# A Cox model states one ratio for all of follow-up.
# If the score predicts early events and not late ones, that number is an average over time, weighted by how long people happened to be followed, and two studies of the same biology will disagree.
# So the horizon is taken away here and the ratio is followed over time: a smooth of the scaled Schoenfeld residuals (one dot per event, where the score is continuous), and the ratio among those still at risk, period by period.
# The test is R's `cox.zph`.
#
# We look at the primary analysis, and at the one of another endpoint whose test objects most.

# %%
from helpers.stats.survival_report import follow_ratio

others = results[(results["endpoint"] != spec.primary_endpoint) & results["p_proportional"].notna()]
suspects = [analyses[0], *(analyses[i] for i in others.nsmallest(1, "p_proportional").index)]
suspects = [replace(item, horizon_months=None, adjustment="none") for item in suspects]
drifts = [
    follow_ratio(item, cases, scores.table, horizons=spec.horizons_months, edges=spec.period_edges_months, **options)
    for item in suspects
]

# %%
fig, axes = new_figure(width_mm=4 + 90 * len(suspects), height_mm=84, columns=len(suspects))
for ax, letter, item, drift in zip(axes, letter_panels(len(suspects)), suspects, drifts, strict=False):
    title = f"{letter}{ENDPOINT_LABELS[item.endpoint]}: {name_score(item.target)} ({survival_plan.MEASURED_WORDS[item.measured]})"
    ylabel = f"Hazard ratio {survival_plan.SCALE_LABELS[item.scale]}"
    figures.plot_ratio_over_time(drift.smooth, drift.periods, ax=ax, test=drift.test, title=title, ylabel=ylabel)
    if item.scale != "high_vs_low":
        figures.plot_ph_residuals(drift.residuals, ax=ax)
run.save_figure(fig, "hazard_ratio_over_time", table=drifts[-1].smooth)

# %%
horizons = pd.concat(
    [drift.horizons.assign(analysis=item.describe()) for item, drift in zip(suspects, drifts, strict=True)]
)
run.save_table(horizons, "hazard_ratio_by_horizon")
horizons[["analysis", "end", "hazard_ratio", "ci_low", "ci_high", "n", "n_events", "note"]].round(3)

# %% [markdown]
# Each row is what a study would have reported had it stopped there (`end`, in months).
# If they run downhill, the ratio over all of follow-up is the smallest of many true answers; name the horizon with the number, as the plan does.
# What needs no proportional hazards at all is the event-free time lost: the area between the two Kaplan–Meier curves up to a horizon (the difference in restricted mean survival time).

# %%
from helpers.stats.survival_depth import compare_mean_times

lost = pd.concat(
    [
        compare_mean_times(ask(item, cases, scores.table, **options), horizons=spec.horizons_months).assign(
            analysis=item.describe()
        )
        for item in suspects
    ]
)
run.save_table(lost, "mean_time_lost")
lost.reindex(
    columns=["analysis", "horizon", "group", "reference", "difference", "ci_low", "ci_high", "p", "note"]
).round(3)

# %% [markdown]
# ## Death of something else
#
# A patient who died of something else can no longer recur.
# 1 − Kaplan–Meier treats her as censored, as if she could still recur later, and so overstates how many recurrences there will be.
# The Aalen–Johansen estimate lets the competing deaths happen.

# %%
from helpers.stats.competing import read_incidence
from helpers.stats.survival_report import FEWEST_SHOWN, estimate_competing_incidence, plan_ticks

shown_endpoint = spec.competing_endpoint if has_endpoint(cases, str(spec.competing_endpoint)) else None
curve = None
if shown_endpoint and has_endpoint(cases, "os"):
    try:
        curve, words = estimate_competing_incidence(cases, shown_endpoint)
    except StatsError as error:
        print(f"no cumulative incidence: {error}")
if curve is not None:
    thick = curve["n_at_risk"] >= min(FEWEST_SHOWN, curve["n_at_risk"].max())
    end = min(plan_ticks(curve.loc[thick, "time"].max(), cover=False)[-1], 240.0, curve["time"].max())
    fig, axes = new_figure(width_mm=94, height_mm=66)
    figures.plot_incidence(curve, ax=axes[0], endpoint=words, max_months=end)
    run.save_figure(fig, "cumulative_incidence", table=curve)
    run.save_table(read_incidence(curve, at=[end]), "incidence_at_end")

# %%
from helpers.stats.survival_depth import estimate_competing_ratios

if shown_endpoint and has_endpoint(cases, "os"):
    causes = [replace(item, endpoint=shown_endpoint, horizon_months=None, adjustment="none") for item in pair]
    both = pd.concat(
        [
            estimate_competing_ratios(ask(item, cases, scores.table, **options)).assign(measured=item.measured)
            for item in causes
        ]
    )
    run.save_table(both, "competing_ratios", latex=True)
    display(
        both[["measured", "cause", "label", "hazard_ratio", "ci_low", "ci_high", "n_events", "note"]]
        .style.format(precision=3, na_rep="")
        .hide(axis="index")
    )

# %% [markdown]
# For a patient's prognosis the solid curve is the honest one, and so is the ratio of Fine and Gray, which says how the score moves it.
# For the question whether the score *drives* recurrence, the rate among those still free of either is the right one: it conditions on being alive.
# A score that does nothing to other death can still have a subdistribution ratio below 1 for it: who recurs and dies of that cannot die of something else.

# %% [markdown]
# ## Could this cohort have found it?
#
# A ratio that is not significant means little where it could hardly have been.
# Cohorts like this one (as many cases, the same follow-up and censoring) are drawn again and again with a known ratio of the *RNA*; the image reads it with the correlation seen here, and the share of tries that reach p < 0.05 is the power.

# %%
from helpers.stats.survival_depth import describe_power, estimate_own_power
from helpers.stats.survival_scores import correlate_measurements

correlations = {
    name: correlate_measurements(scores.table, target=name, case_ids=chosen.case_id) for name in spec.targets
}
reading = correlations[spec.primary_target] if "image" in scores.measured else 1.0
if spec.power_ratios and np.isnan(reading):
    print(
        "no power: hardly any case has an image score beside its RNA, so nobody knows how well the one reads the other"
    )
elif spec.power_ratios:
    power, needs = estimate_own_power(
        full[0], ratios=spec.power_ratios, correlation=max(reading, 0.0), n_simulations=spec.n_power
    )
    run.save_table(power, "power")
    run.save_table(needs, "power_needs")
    print(describe_power(power, needs))
    fig, axes = new_figure(width_mm=150, height_mm=68, columns=2)
    figures.plot_power(power, needs, axes=axes)
    run.save_figure(fig, "power", table=power)

# %% tags=["checks"]
primary = results.iloc[0]
assert primary["role"] == "primary", "the first row is not the primary analysis"
assert primary["note"] == "", f"the primary analysis could not be estimated: {primary['note']}"
assert primary["n"] + primary["n_lost"] == survival_plan.select_population(cases, spec.primary_population).sum(), (
    "a case of the population is neither analysed nor lost by name"
)
assert (results["ci_low"].dropna() <= results["hazard_ratio"].dropna()).all(), "an interval misses its own estimate"
for shown in groups:
    assert (shown.at_risk.groupby("group")["n_at_risk"].diff().dropna() <= 0).all(), "the number at risk rises"
    assert shown.at_risk.loc[shown.at_risk["time"] == 0, "n_at_risk"].sum() == shown.test["n"].sum(), (
        "a case is not drawn"
    )
for source, fit in fits.items():
    assert fit["n"].nunique() == 1, f"{source}: uni- and multivariable models rest on different cases"
assert choices["n"].iloc[0] == len(chosen.case_id), "the other choices rest on other cases"
if added is not None:
    assert added.table["n"].nunique() == 1, "models were compared on different cases"

# %% [markdown]
# ## Answer for it
#
# On a phantom each hazard ratio answers to the planted truth *of the same estimand*: the same score, scale, adjustment, endpoint and horizon, by Monte Carlo over a million table cases.
# The image's is read off the attenuation curve at the correlation that it reached with the RNA; a subgroup's is the ratio in these very cases, were they followed over and over.
# On a real cohort the row stands beside a baseline on the same files, or beside the paper, which is another cohort.

# %%
from helpers.cohort.published import read_published
from helpers.stats.survival_scores import build_published_rows, build_score_rows
from helpers.stats.survival_truth import read_truth

published = read_published(profile=run.profile_dir.name, chapter="04")
declared = results[results["role"] != "exploratory"]
truth = read_truth(run, correlations=correlations)
rows = build_score_rows(declared, published=published, truth=truth, cases=cases, scores=scores.table)

# %%
if "image" in scores.measured:
    beside = [
        replace(analyses[0], target=name, population="all", scale="high_vs_low", adjustment="none", role="exploratory")
        for name in spec.targets
    ]
    halves = estimate_analyses(beside, cases, scores.table, covariates=(), **options)
    rows += build_published_rows(halves, published)
for row in rows:
    run.score(**row)
board = pd.DataFrame(rows).reindex(
    columns=["id", "quantity", "value", "ci_low", "ci_high", "n", "n_events", "reference", "kind", "holds"]
)
board.style.format(precision=3, na_rep="").hide(axis="index")

# %%
run.finish()

# %% [markdown]
# **What we found.** One primary hazard ratio, declared before it was estimated, with everything that could have been chosen instead beside it; the image's next to the RNA's; a number for what the clinic knew already; and a look at whether one ratio is enough.
#
# **What would change it.** Another endpoint changes who counts as an event, another horizon changes which events count, and more events narrow the interval; another cut-off changes the picture but not the declared scale.
# Imputed covariates rest on the assumption that what is missing depends on what is known; the row of complete cases rests on a stronger one.
#
# **Next.** Chapter 09 puts these rows beside the planted and the published ones.
#
# **References.** Ekholm et al. 2024, doi 10.1186/s12885-024-13248-9 · Kaplan and Meier 1958 · Cox 1972 · Efron 1977 · Grambsch and Therneau 1994 (proportional hazards) · Aalen and Johansen 1978 · Harrell et al. 1996 · Lausen and Schumacher 1992 (maximally selected cut-offs) · Holm 1979 · van Buuren 2018 (imputation) · Fine and Gray 1999 · Uno et al. 2011 · Graf et al. 1999 (Brier score) · Vickers et al. 2008 (decision curves) · Hartung and Knapp 2001 (pooling) · Schoenfeld 1983 (power) · Liu et al. 2018, doi 10.1016/j.cell.2018.02.052 (endpoints of TCGA).
