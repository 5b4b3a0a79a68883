# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Build the cohort
#
# **What you'll do.** Turn a raw folder into a cohort that every later chapter can trust: checked tables, a named reason for every case that left, and a file that says which case trains and which one tests.
# On the phantom profile the raw folder is made here first, from planted truth that only a judge may read.
#
# **What you'll need.** Nothing before this chapter; about 3 minutes on 2 cores for the phantom (its slides are drawn once and kept), seconds for cohorts of tables. No accelerator.
#
# **Inputs → outputs.** A raw folder (`cases.csv`, `slides.csv`, `expression.parquet`, or a layout that an importer reads) → `cohort/{cases,slides,expression}.parquet`, `splits.csv`, `flow.json`.
#
# **Source.** The order of things follows REMARK (McShane et al. 2005) and TRIPOD+AI (Collins et al. 2024): who was eligible, who was lost, how long they were followed, and what was set aside before anything was fitted.

# %% tags=["parameters"]
from typing import Optional

profile_dir: str = "results/phantom"       # run parameter: results of which profile
run_name: str = "interactive"              # run parameter: the book's own runs are called book
data_dir: Optional[str] = None             # run parameter: raw folder, otherwise data/cohorts/<profile>
shard: str = "1/1"                         # run parameter: this chapter has no shards
workers: int = 2                           # run parameter: processes that draw or write slides
device: str = "auto"                       # run parameter: not used here
cohort: str = "phantom"                    # layout of the raw folder: phantom, tables, metabric, tcga_brca_features, her2st, shandiz
phantom: dict = {}                         # parameters of the phantom cohort, see PhantomSpec
extra_slides: list = []                    # single slide files, paths relative to the raw folder
sex: Optional[str] = None                  # include female or male only
stages: Optional[list] = None              # include these stages only, such as I, II, III
exclude_neoadjuvant: bool = False          # exclude cases treated before surgery
keep_unknown: bool = True                  # a case passes a rule whose value it does not state
require: list = []                         # what a case must have: expression, slides
site_column: Optional[str] = "site"        # sites kept whole in a fold
external_sites: list = []                  # sites that no fit and no choice ever sees
internal_test_fraction: float = 0.0        # share of the other cases set aside, frozen
n_folds: int = 5                           # folds of the development cases, 0 plans none
n_repeats: int = 10                        # different partitions into folds
val_fraction: float = 0.15                 # share of each training part for inner choices
stratify: list = []                        # columns balanced over the internal test and the folds
allow_fewer: bool = False                  # reduce folds and repeats to what whole sites allow
seed: int = 20261                          # of the splits, and of the phantom

# %%
from pathlib import Path

from helpers.cohort.raw import choose_folder
from helpers.core import paths, provenance
from helpers.core.specs import CohortSpec

spec = CohortSpec.from_namespace(globals())
folder = paths.resolve(data_dir or f"data/cohorts/{Path(profile_dir).name}")
run = provenance.start(
    spec, profile_dir, run_name=run_name, data_dir=folder, shard=shard, workers=workers, device=device
)

# %% [markdown]
# ## The raw folder
#
# A phantom is what a physicist puts into a scanner before trusting it on a patient: an object whose answer is known.
# Ours is a cohort of drawn slides with a planted proliferation, planted gene loadings and a planted hazard.
# Whatever a later chapter claims, it must first recover these, and stay silent where we planted nothing.
# A slide that is already there with the right key is not drawn again.

# %%
if spec.cohort == "phantom":
    from helpers.phantom.generate import generate_cohort

    folder = choose_folder(folder, spec.phantom, run_name=run_name)
    generate_cohort(spec.phantom, folder, workers=workers)
print(f"raw folder: {paths.shorten(folder)}")

# %% [markdown]
# ## Why tables pass a gate
#
# Here are three patients, two of whom have the same number with and without leading zeros, and one whose fate nobody knows.
# An ordinary reader does what it was written to do.

# %%
import io

import pandas as pd

TABLE = "case_id,os_time_months,os_event\n007,31.5,1\n7,12.0,0\n08,44.2,Unknown\n"
careless = pd.read_csv(io.StringIO(TABLE))
careless["died"] = careless["os_event"] == "1"
careless

# %% [markdown]
# Two patients became one, and the unknown fate became a survivor: `False` means *censored alive*, and a survival curve drawn from this table is a little too high.
# Nothing warned.
# The gate keeps ids as text and refuses to guess; each complaint names the item, what was found, what was expected and what to do.

# %%
from helpers.cohort.tables import check_cases

strict = pd.read_csv(io.StringIO(TABLE), dtype=str)
clean, problems = check_cases(strict)
print(f"{clean['case_id'].nunique()} different cases")
for problem in problems:
    print(problem)

# %% [markdown]
# `histobook doctor <folder>` lists all such problems of a folder at once.
# Emptying the cell is an answer too: the case is then lost from that endpoint, by name, and stays in the cohort.
#
# ## Import
#
# The same gate stands at the end of every importer, so what follows is one code path for a phantom, a public cohort and your own.

# %%
from helpers.cohort.imports import import_cohort

raw = import_cohort(spec, folder, slides_dir=run.dir / "cohort" / "slides", workers=workers)
tables = {"cases": raw.cases, "slides": raw.slides, "expression": raw.expression, "spots": raw.spots}
pd.DataFrame(
    [{"table": name, "rows": len(table), "columns": table.shape[1]} for name, table in tables.items() if table is not None]
)

# %%
raw.cases.head(4).T

# %% [markdown]
# What the importer met on its way is recorded, not repaired in silence: words that say nothing, times of zero, a relapse after the last visit.
# A time of 0 is kept and counted; no risk set contains it, so a hazard ratio does not move, but *n* does.

# %%
run.note(import_facts=raw.facts)
for name, value in raw.facts.items():
    shown = f"{len(value)}: {', '.join(map(str, value[:6]))}" if isinstance(value, list) else value
    print(f"- {name}: {shown}")

# %% [markdown]
# ## Who is in the study
#
# Inclusion rules are parameters (`sex`, `stages`, `exclude_neoadjuvant`, `require`), applied one by one in this order.
# A case that does not state a value passes the rule unless `keep_unknown` is off, because in a public cohort an empty cell is about the form, not about the patient.

# %%
from helpers.cohort.inclusion import include_cases

included = include_cases(raw, spec)
flow = pd.concat([part.to_table() for part in included.flows], ignore_index=True)
for part in included.flows:
    for loss in part.losses:
        run.lose(loss.item, loss.reason, kind=loss.kind)
flow

# %%
from helpers.figures import cohort as figures
from helpers.figures.style import new_figure

case_flow = flow[flow["kind"] == "case"]
fig, axes = new_figure(width_mm=120, height_mm=8 + 15 * case_flow["step"].nunique())
figures.plot_flow(case_flow, ax=axes[0])
run.save_figure(fig, "inclusion_flow", table=flow)

# %% [markdown]
# Read it from top to bottom: a blue box says who is left, a red one who left between two boxes, and why.
# The names of all who left stand in `flow.json`.

# %% tags=["checks"]
for part in included.flows:
    assert part.n_start == part.n + len(part.losses), f"{part.kind}s vanished without a reason"
    assert all(loss.reason for loss in part.losses), f"a {part.kind} was lost without a reason"
cases, slides, expression = included.cases, included.slides, included.expression
assert cases["case_id"].is_unique, "a case occurs twice"
assert slides is None or slides["case_id"].isin(cases["case_id"]).all(), "a slide belongs to nobody"
assert expression is None or expression["case_id"].isin(cases["case_id"]).all(), "expression belongs to nobody"

# %% [markdown]
# ## How long they were followed
#
# An endpoint is a definition, not a property of nature, and the definition decides the headline.
# The progression-free interval censors a death without tumour; *progression or death* counts it; overall survival waits for the death and dilutes the tumour with old age.
# That is why the primary endpoint is written into the profile before anything is fitted.

# %%
from helpers.cohort.summary import count_outcomes, count_under_observation

outcomes = count_outcomes(cases)
run.save_table(outcomes, "outcomes")
outcomes

# %%
if len(outcomes):
    observed = count_under_observation(cases)
    fig, axes = new_figure(width_mm=183, height_mm=58, columns=2)
    figures.plot_outcome_counts(outcomes, ax=axes[0])
    figures.plot_under_observation(observed, ax=axes[1])
    run.save_figure(fig, "follow_up", table=observed)

# %% [markdown]
# Two numbers matter before any hazard ratio.
# *Events*, not cases, carry the information: detecting a hazard ratio of 1.65 at 80 % power takes about 125 of them at an even split.
# And the right-hand curve shows how far a claim can reach: where it is near zero, a survival curve is drawn by a handful of people.

# %% tags=["checks"]
for row in outcomes.itertuples():
    assert row.n + row.n_unknown == len(cases), f"{row.endpoint}: cases are missing from the count"
    assert row.n_events + row.n_censored == row.n, f"{row.endpoint}: a case is neither event nor censored"

# %% [markdown]
# ## Who trains, who tests
#
# Slides of one hospital look alike: its scanner, its stain, its patients.
# A random split puts every hospital on both sides, and a model that has learnt to recognise the hospital is paid for it.
# So whole sites go to one side. With few sites this is a small integer programme, solved exactly: case counts and strata as equal as whole sites allow.

# %%
from helpers.cohort.splits import check_splits, describe_splits, plan_splits

splits = None
if spec.n_folds:
    splits = plan_splits(
        cases, n_folds=spec.n_folds, repeats=spec.n_repeats, seed=spec.seed, site_column=spec.site_column,
        stratify=spec.stratify, internal_test_fraction=spec.internal_test_fraction,
        external_sites=spec.external_sites, val_fraction=spec.val_fraction, allow_fewer=spec.allow_fewer,
    )
    folds = splits[splits["fold"] >= 0]
    planned = (folds.groupby("repeat")["fold"].nunique().max(), folds["repeat"].nunique())
    if planned != (spec.n_folds, spec.n_repeats):
        asked = f"{spec.n_folds} folds, {spec.n_repeats} repeats"
        run.substitute("fewer folds or repeats than asked, since sites stay whole", asked=asked, folds=int(planned[0]), repeats=int(planned[1]))
    splits.to_csv(run.path("splits.csv"), index=False, lineterminator="\n")
describe_splits(splits, cases=cases, site_column=spec.site_column).head(18) if splits is not None else "no splits planned"

# %%
from helpers.cohort.summary import count_folds

if splits is not None:
    fold_counts = count_folds(cases, splits, site_column=spec.site_column)
    fig, axes = new_figure(width_mm=120, height_mm=14 + 6 * fold_counts["part"].nunique())
    figures.plot_folds(fold_counts, ax=axes[0])
    run.save_figure(fig, "folds", table=fold_counts)

# %% [markdown]
# Each bar is what one fold tests; every other development case trains it or, as its inner validation part, makes its choices.
# Cases marked *internal test* or *external* are in no fold: no fit, no scaler, no cut-off and no choice of this book ever sees them.

# %% tags=["checks"]
if splits is not None:
    check_splits(splits, cases=cases, site_column=spec.site_column)
    external = set(splits.loc[splits["role"] == "external", "case_id"])
    assert set(splits["case_id"]) == set(cases["case_id"]), "a case is in no split"
    assert not external & set(splits.loc[splits["fold"] >= 0, "case_id"]), "an external case is in a fold"

# %% [markdown]
# ## Table 1

# %%
from helpers.cohort.summary import describe_cases, name_splits

split = name_splits(cases, splits)
table_one = describe_cases(cases, by=split)
run.save_table(table_one, "table_1")
table_one.style.hide(axis="index")

# %% [markdown]
# Per cent are of the cases whose value is known; how many are not stands in its own row.
# Differences between the columns are no error: an external cohort is external because it differs.
#
# ## What the models will be asked for
#
# The proliferation score is the mean of eleven genes on the log2 scale.
# Genes go by several names, and an old table says `CDCA1` where a new one says `NUF2`; both are found, and a gene that is in neither spelling is an error with the nearest symbols, never a shorter mean.

# %%
from helpers.cohort.genes import read_signature, resolve_symbols, score_signature, widen_expression
from helpers.core.errors import GeneError

present = [] if expression is None else list(expression["gene"].unique())
targets = {}
for name in ("prolif11", "MKI67"):
    try:
        resolve_symbols(read_signature(name), present)
        targets[name] = score_signature(widen_expression(expression, genes=read_signature(name)), genes=name)
    except GeneError as error:
        print(f"{name} cannot be scored here. {error}")

# %%
scores = pd.DataFrame(targets).reindex(cases["case_id"]).assign(split=split.to_numpy())
scores.groupby("split").agg(["count", "mean", "std"]).round(2) if targets else "no target in this cohort"

# %% [markdown]
# Constants of a score, such as the gene's mean in a z-score, will come from training cases only; the plain mean of log2 values needs none, which is why it can be looked at here.
#
# ## The phantom, opened once
#
# This is the only place outside the judge where planted truth is shown, so that you know what the later chapters are looking for.
# No result is computed from it.

# %%
if spec.cohort == "phantom":
    from helpers.figures import phantom as phantom_figures

    sites = pd.read_csv(folder / "truth" / "sites.csv")
    ax = phantom_figures.plot_sites(sites)
    run.save_figure(ax.figure, "phantom_sites", table=sites)

# %% [markdown]
# Seven sites, each with its own dye, glass, scanner and mix of cases; the last one is abroad and stays outside.
# A model that has learnt the colour of a site has learnt something, and the external site will show what it is worth.
#
# Below, four slides from the least to the most proliferative case, each beside what was planted in it.
# The middle columns are what a tile map of chapter 03 should resemble; no model sees them.

# %%
if spec.cohort == "phantom" and slides is not None:
    from helpers.figures.style import DOUBLE_COLUMN_MM
    from helpers.phantom.generate import read_maps
    from helpers.slides.reader import open_slide

    planted = pd.read_csv(folder / "truth" / "slides_truth.csv", dtype={"slide_id": str, "defect": str})
    whole = planted[planted["defect"].isna()].sort_values("proliferation")
    picked = whole.iloc[[0, len(whole) // 3, 2 * len(whole) // 3, len(whole) - 1]]
    fig, axes = new_figure(width_mm=DOUBLE_COLUMN_MM, height_mm=44 * len(picked), rows=len(picked), columns=4)
    for row, slide in enumerate(picked.itertuples()):
        maps, um_per_px = read_maps(folder / "truth" / "maps" / f"{slide.slide_id}.npz")
        with open_slide(folder / "slides" / f"{slide.slide_id}.svs", slide_id=slide.slide_id) as opened:
            thumbnail, slide_um = opened.read_thumbnail(900), opened.width * opened.mpp
        phantom_figures.plot_slide_and_truth(
            thumbnail, maps, slide_um=slide_um, maps_um_per_px=um_per_px, axes=axes[4 * row : 4 * row + 4],
            title=f"{slide.slide_id} (site {slide.site}), {slide.proliferation:+.1f} SD",
        )
    run.save_figure(fig, "phantom_gallery", table=picked)

# %% [markdown]
# Two slides of this cohort are planted to fail: one file ends in the middle, one header states no resolution.
# They are in `slides.parquet` like all others, because a real cohort does not mark its broken files either; chapter 01 will name them.
#
# ## Write

# %%
written = {
    "cases": cases, "slides": slides, "expression": expression,
    "spots": included.spots, "spot_expression": included.spot_expression, "omics": included.omics,
}
for name, table in written.items():
    if table is not None:
        paths.write_table(table, run.path(f"cohort/{name}.parquet"))
made = sorted((run.dir / "cohort" / "slides").glob("*.tif")) if spec.cohort in {"her2st", "shandiz"} else []
run.add_outputs(made)
paths.write_json({"flows": [part.to_json() for part in included.flows], "facts": raw.facts}, run.path("flow.json"))
run.finish()

# %% [markdown]
# **What we found.** A cohort with a reason for every absence, endpoints with their counts, and splits that keep hospitals whole.
#
# **What would change it.** Another endpoint changes who counts as an event; another inclusion rule changes who counts at all.
# Both are parameters, both are part of this chapter's key, and everything below is computed again when they change.
#
# **Next.** Chapter 01 cuts the slides into tiles; a cohort without slides goes on to chapter 04.
#
# **References.** McShane et al. 2005, doi 10.1093/jnci/dji237 (REMARK) · Collins et al. 2024, doi 10.1136/bmj-2023-078378 (TRIPOD+AI) · Howard et al. 2021, doi 10.1038/s41467-021-24698-1 (site-preserved folds) · Liu et al. 2018, doi 10.1016/j.cell.2018.02.052 (endpoints of TCGA) · Curtis et al. 2012, doi 10.1038/nature10983 (METABRIC) · Andersson et al. 2021, doi 10.1038/s41467-021-26271-2 (HER2ST).
