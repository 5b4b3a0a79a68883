# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Predict proliferation from the slide
#
# **What you'll do.** Predict how fast a tumour divides, as RNA measures it, from nothing but its H&E slide; then try hard to prove the prediction empty.
# Two targets stand side by side: the 11-gene proliferation score and the single gene MKI67.
#
# **What you'll need.** Chapter 00 for the cohort, and features: those of chapter 02, those stored with the cohort, or a folder that somebody else wrote (`features_dir`). Two minutes on 2 cores; no accelerator.
#
# **Inputs → outputs.** `cohort/*.parquet`, `splits.csv`, one feature file per slide → `predictions.parquet` (every later number is computed from it), `thresholds.json`, tables, figures, scores.
#
# **Source.** Ekholm et al. 2024, BMC Cancer 24:1510: 819 training patients, 172 in an internal and 997 in an external test.
# That its score means PAM50's eleven proliferation genes is our reading; its abstract names none.

# %% tags=["parameters"]
from typing import Optional

profile_dir: str = "results/phantom"       # run parameter: results of which profile
run_name: str = "interactive"              # run parameter: the book's own runs are called book
shard: str = "1/1"                         # run parameter: this chapter has no shards
workers: int = 2                           # run parameter: threads
device: str = "auto"                       # run parameter: not used here
seed: int = 20261                          # of bootstraps, permutations and controls
primary_target: str = "prolif11"           # score of the primary analysis
targets: list = ["prolif11", "MKI67"]      # signatures or genes to predict
score_method: str = "mean_log2"            # how a signature is scored: mean_log2, mean_zscore, pam50
other_methods: list = ["mean_zscore", "pam50"]  # reported beside the declared one
encoder: str = "stain_texture"             # features of chapter 02 that all arms read; "a+b" joins two encoders
features_dir: Optional[str] = None         # folder of slide_id.h5 or slide_id.pt that somebody else wrote
min_tissue_fraction: float = 0.5           # tiles with less tissue are not read, share
min_sharpness: float = 0.6                 # tiles less sharp than this share of the median of their slide are not read
max_pen_fraction: float = 0.05             # tiles with more marker ink are not read, share
max_thick_fraction: float = 0.3            # tiles more folded are not read, share
max_grey_fraction: float = 0.3             # tiles darkened without colour (bubbles, dust) are not read, share
tumour_filter: str = "none"                # none, polygon (inside drawn tumour) or model (a tile classifier taught by outlines)
tumour_dir: Optional[str] = None           # folder of slide_id.geojson that outline tumour; all tumour filters are then compared
tumour_classes: list = ["Tumor"]           # classes of outlines that are tumour
min_tumour_probability: float = 0.5        # of the model, for a tile to be read
aggregation: str = "mean"                  # of a case's tile features for the arm ridge: mean, median, p75, mean_sd, moments
arm: str = "ridge"                         # declared model, refitted under the null, the controls stand beside it
arms: list = ["ridge", "ridge_moments", "ridge_fourier", "ridge_kernel", "pls", "average", "ensemble"]  # models compared
control_encoder: Optional[str] = "mean_colour"  # features of the colour control
beside_encoders: list = []                 # other encoders of chapter 02, judged by the plain ridge beside the declared arm
clinical_columns: list = ["age_years", "stage", "tumour_size_mm", "nodes_positive", "grade", "histology", "er", "pr", "her2"]
label_columns: list = ["subtype", "er", "her2", "histology", "grade", "stage", "site"]  # of the confounding panel
min_stratum: int = 12                      # cases that a stratum or a site needs to be judged
n_permutations: int = 200                  # within-site permutations, every fold refitted
n_boot: int = 1000                         # bootstrap resamples of cases
map_slide: Optional[str] = None            # slide of the tile map, otherwise the one with the highest prediction

# %%
from helpers.core import paths, provenance
from helpers.core.specs import ProliferationSpec

spec = ProliferationSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %% [markdown]
# ## Load and count
#
# A case enters when it has RNA, at least one slide with features, and a place in the splits.
# Each one that does not is named in `run.json`.

# %%
import numpy as np
import pandas as pd

from helpers.cohort.genes import list_needed_genes, name_score, widen_expression
from helpers.cohort.splits import check_splits
from helpers.cohort.tables import group_stages, read_cases, read_expression, read_slides
from helpers.models.inputs import (
    TILE_FILTERS,
    find_feature_files,
    list_absent,
    make_measure,
    make_reader,
    read_groups,
    read_slide,
    select_tiles,
)

cohort = run.upstream("00")
cases, slides = read_cases(cohort / "cohort/cases.parquet"), read_slides(cohort / "cohort/slides.parquet")
genes = list_needed_genes(spec.targets, methods=[spec.score_method, *spec.other_methods])
expression = widen_expression(read_expression(cohort / "cohort/expression.parquet"), genes=genes)
splits = pd.read_csv(cohort / "splits.csv", dtype={"case_id": str})
site = read_groups(cases)

# %%
chapter_02 = run.upstream("02") / "features" if run.has_upstream("02") else None
files = find_feature_files(slides, features_dir=spec.features_dir, encoder_dir=chapter_02 and chapter_02 / spec.encoder)
present = files.dropna(subset="features_file").reset_index(drop=True)
origin = files["origin"][0]
for slide_id in files.loc[files["features_file"].isna(), "slide_id"]:
    run.lose(slide_id, f"no feature file ({origin})", kind="slide")
print(f"{len(cases)} cases, {len(slides)} slides listed, {len(present)} with features ({origin})")

# %% [markdown]
# ## One slide first
#
# A feature file holds one row per tile: where it lies, what the encoder saw, and quality columns that let us choose tiles now, long after they were read.
# Features that somebody else stored often carry neither coordinates nor quality, and then every row counts.

# %%
import inspect

filters = spec.model_dump(include=set(TILE_FILTERS))
bag = read_slide(present["features_file"][0], present["slide_id"][0])
kept = select_tiles(bag, **filters)
has = {True: "given", False: "absent"}
print(f"{present['slide_id'][0]}: {bag.features.shape[0]} tiles of {bag.features.shape[1]} features, {bag.dialect} dialect")
print(f"coordinates {has[bag.coords_l0 is not None]}, quality {has[bag.qc is not None]}; {kept.sum()} tiles pass the filters")

# %% [markdown]
# The label belongs to the patient, not to the tile, so the tiles are pooled before anything is fitted.
# All tiles of all slides of a case form one bag; a mean of slide means would give a small second slide too much say.

# %%
from helpers.models.pooling import pool_tiles

print(inspect.getsource(pool_tiles).split('"""')[-1])

# %%
from helpers.models.bags import read_bags
from helpers.models.tumour import make_tumour_filter

in_folds = pd.Index(splits.loc[splits["fold"] >= 0, "case_id"].unique())
keep = make_tumour_filter(
    present, how=spec.tumour_filter, folder=spec.tumour_dir, classes=spec.tumour_classes, cases=in_folds,
    min_probability=spec.min_tumour_probability,
)
bags, owners = read_bags(present, make_reader(present, keep=keep, **filters))
absent = list_absent(cases, pooled=owners, expression=expression.index, splits=splits)
for case, reason in absent.items():
    run.lose(case, reason)
bags, owners = bags.take(~owners.isin(list(absent))), owners[~owners.isin(list(absent))]
features = pd.DataFrame(bags.pool(spec.aggregation), index=owners)
print(f"{len(cases)} cases, {len(features)} in the analysis, {bags.sizes.sum()} tiles (tumour filter: {spec.tumour_filter})")
print(f"lost: {pd.Series(absent, dtype=str).value_counts().to_dict()}")

# %% tags=["checks"]
check_splits(splits, cases=cases)
assert features.index.is_unique, "a case occurs twice among the features"
assert np.isfinite(features.to_numpy()).all(), "a pooled feature is missing"
assert features.index.isin(expression.index).all(), "a case without RNA slipped in"

# %% [markdown]
# ## What is predicted
#
# A score is a choice. `mean_log2` needs no constants; `mean_zscore` and `pam50` need means or medians of genes, and these come from the training cases of each fold alone.
# So `measure` takes the training cases and returns the targets of everyone.

# %%
measure = make_measure(expression, targets=spec.targets, score_method=spec.score_method, others=spec.other_methods)
development = features.index[features.index.isin(in_folds)]
measured = measure(development).loc[features.index]
measured.corr("spearman").round(2)

# %% [markdown]
# The three methods rank patients almost alike, yet not quite: PAM50's standardisation of each sample takes out what all genes share.
# MKI67 alone is one noisy gene of the eleven, and no model can predict a target better than the assay repeats itself.
#
# ## The number that flatters
#
# We fit a ridge regression and ask how well it predicts the very cases it was fitted on.

# %%
from helpers.models.linear import RidgeFolds, fit_ridge
from helpers.stats.correlation import compute_spearman_columns

plain = RidgeFolds(features, splits[splits["repeat"] == 0], groups=site)
labels = measured.loc[plain.cases].to_numpy(float)
seen = fit_ridge(plain.features, labels, groups=site[plain.cases].to_numpy())
flattering = compute_spearman_columns(labels, seen.predict(plain.features))
honest = compute_spearman_columns(labels, plain.refit(labels))
pd.DataFrame({"on its own training cases": flattering, "on held-out sites": honest}, index=measured.columns).round(3)

# %% [markdown]
# The left column is what a careless script prints, and it grows with the number of features whether they know anything or not.
# The right column comes from five models, each asked only about sites that it never saw, each with scaling and penalty chosen inside its own training part.
#
# ## The study
#
# Every repeat is another partition of the sites into folds. Cases in no fold (internal test, external site) are predicted by the average of all fold models.
# The test set is no argument of the fit:

# %%
print(inspect.getsource(fit_ridge).split('"""')[0])

# %%
from helpers.models.arms import RidgeArm
from helpers.models.linear import describe_penalties
from helpers.models.study import ArmFolds, Study, predict_arms

study = Study(bags, owners, splits, site, spec.seed, spec.aggregation)
predictions, fits = predict_arms(study, measure, [spec.arm], workers=workers)
print(f"declared arm: {spec.arm}, {study.recipes[spec.arm]}")
if isinstance(study.recipes[spec.arm], RidgeArm):
    chosen = np.concatenate([part.model.alphas for folds in fits.values() for fit in folds[spec.arm] for part in fit.parts])
    print(describe_penalties(chosen, alphas=np.array(study.recipes[spec.arm].alphas)))
predictions.groupby(["target", "split"])[["case_id", "repeat"]].nunique()

# %% tags=["checks"]
held_out = predictions[predictions["split"] == "development"].merge(splits, on=["repeat", "fold", "case_id"])
assert held_out["role"].eq("test").all(), "a case was predicted by a model that saw it"
assert len(held_out) == (predictions["split"] == "development").sum(), "a prediction belongs to no fold"
assert predictions.loc[predictions["split"] != "development", "fold"].eq(-1).all(), "a frozen case is in a fold"
assert predictions[["y_true", "y_pred"]].notna().all(axis=None), "a prediction is missing"

# %% [markdown]
# ## Controls
#
# A correlation means nothing alone. Beside the declared arm we fit the same ridge to
# **mean colour** (can three numbers per tile do it?), to **clinical data alone** (do we need a slide?), and to the **same features exchanged between patients of one site** (what does the site alone give away?).
# Other encoders that the profile names (`beside_encoders`) stand beside them: on the phantom an encoder that learnt its answers would prove nothing, so the one that taught itself and the hand-made descriptor are always both shown.

# %%
from helpers.models.controls import encode_clinical, permute_features
from helpers.models.linear import predict_study
from helpers.models.pooling import pool_cases

rng = np.random.default_rng(spec.seed)
controls = {"permuted_features": permute_features(features, site, rng=rng)}
controls["clinical_only"] = encode_clinical(cases, spec.clinical_columns).loc[features.index]
if spec.control_encoder and origin == "chapter 02":
    colour = find_feature_files(present[["slide_id", "case_id"]], encoder_dir=chapter_02 / spec.control_encoder)
    controls[spec.control_encoder] = pool_cases(colour, make_reader(colour, keep=keep, **filters)).loc[features.index]
elif spec.control_encoder:
    run.lose(spec.control_encoder, "features were stored without their pixels, so there is no colour", kind="arm")
for name in spec.beside_encoders:
    beside = find_feature_files(present[["slide_id", "case_id"]], encoder_dir=chapter_02 and chapter_02 / name)
    controls[name] = pool_cases(beside, make_reader(beside, keep=keep, **filters)).loc[features.index]
fitted = [predict_study(x, measure, splits, arm=name, groups=site, repeats=[0])[0] for name, x in controls.items()]
predictions = pd.concat([predictions, *fitted], ignore_index=True)
print(f"controls fitted: {', '.join(controls)}" + ("" if spec.control_encoder in controls else "; no colour without pixels"))

# %% [markdown]
# ## How good is it
#
# Four quantities, four names. `r_squared` is the square of Pearson's *r* and forgives any bias; `r2_score` is 1 − SSE/SST and does not.
# Papers print either as "R²"; the published external R² of 0.319 even exceeds its own ρ² of 0.252.
# Intervals come from resampling patients, and, where there are five sites or more, from resampling whole sites.

# %%
from helpers.stats.prediction_scores import compute_performance, compute_repeats

performance = compute_performance(predictions, site=site, n_boot=spec.n_boot, rng=rng)
run.save_table(performance, "performance")
shown = performance[(performance["arm"] == spec.arm) & performance["target"].isin(spec.targets)]
shown.drop(columns="arm").round(3).style.hide(axis="index")

# %%
from helpers.figures import prediction as figures
from helpers.figures.style import new_figure

declared = predictions[(predictions["arm"] == spec.arm) & (predictions["repeat"] == 0)]
splits_here = [name for name in ("development", "internal_test", "external") if (declared["split"] == name).any()]
fig, axes = new_figure(width_mm=183, height_mm=88 * len(splits_here), rows=len(splits_here), columns=len(spec.targets))
unit = " (log2)" if spec.score_method == "mean_log2" else ""
for ax, (split, target) in zip(axes, [(s, t) for s in splits_here for t in spec.targets], strict=True):
    agreement = shown[(shown["target"] == target) & (shown["split"] == split)]
    rows = declared[(declared["target"] == target) & (declared["split"] == split)]
    figures.plot_agreement(rows, agreement, ax=ax, split=split, label=f"{name_score(target)}{unit}")
run.save_figure(fig, "predicted_vs_measured", table=declared[declared["target"].isin(spec.targets)])

# %% [markdown]
# Read the slope before the correlation: predictions span less than measurements, because a penalised model that is unsure says "average".
# That costs nothing in ρ and everything to anyone who would use the value itself.
# So we also ask whether a prediction may be taken at its word: among cases predicted alike, is that the mean of what was measured?

# %%
from helpers.stats.correlation import compute_calibration

fig, axes = new_figure(width_mm=66 * len(splits_here), height_mm=66, columns=len(splits_here))
calibration = []
for ax, split in zip(axes, splits_here, strict=True):
    rows = declared[(declared["target"] == spec.primary_target) & (declared["split"] == split)]
    summary, bins = compute_calibration(rows["y_true"].to_numpy(), rows["y_pred"].to_numpy(), n_boot=spec.n_boot, rng=rng)
    figures.plot_calibration(bins, summary, ax=ax, split=split, label=f"{name_score(spec.primary_target)}{unit}")
    calibration.append(summary.assign(split=split))
run.save_table(pd.concat(calibration, ignore_index=True), "calibration")
run.save_figure(fig, "calibration", table=pd.concat(calibration, ignore_index=True))

# %% [markdown]
# ## Folds, pooled folds, and other partitions
#
# Pooling puts predictions of five different models on one axis; averaging over folds compares each model with itself only.
# The two disagree when folds differ in level, so both are shown, for every partition.
# The headline above is that of the first partition, the most balanced one, fixed before anything was fitted; the others say how much of it was luck.

# %%
repeats = compute_repeats(predictions[predictions["arm"] == spec.arm], rng=rng)
run.save_table(repeats, "repeats")
spearman = repeats[repeats["quantity"] == "spearman"]
spearman.groupby(["split", "target"])[["pooled", "fold_mean"]].agg(["min", "mean", "max"]).round(3)

# %%
from helpers.stats.prediction_scores import compute_foldwise_performance

foldwise_ci = compute_foldwise_performance(predictions, site=site, n_boot=spec.n_boot, rng=rng)
run.save_table(foldwise_ci, "performance_foldwise")
mine = (foldwise_ci["arm"] == spec.arm) & foldwise_ci["target"].isin(spec.targets)
foldwise_ci[mine].drop(columns="arm").round(3).style.hide(axis="index")

# %%
from helpers.stats.correlation import compute_agreement_by

primary = predictions[(predictions["arm"] == spec.arm) & (predictions["target"] == spec.primary_target)]
foldwise = compute_agreement_by(primary[primary["fold"] >= 0], ["repeat", "fold"], rng=rng).query("quantity == 'spearman'")
fig, axes = new_figure(width_mm=120, height_mm=65)
partitions = spearman[(spearman["target"] == spec.primary_target) & (spearman["split"] == "development")]
figures.plot_folds(foldwise, partitions, ax=axes[0])
run.save_figure(fig, "folds_and_partitions", table=foldwise)

# %% [markdown]
# ## Would another model do better
#
# All arms read the same tiles; they differ in what they make of a bag. The plain ridge sees the mean of every feature, *moments* also spread and quantiles, *Fourier* the mean of random cosines of the tiles (a kernel between distributions of tiles, still additive), *kernel* the likeness of case means.
# PLS keeps few directions; MIL arms (`attention_mil`, opt-in) start from the ridge and learn what it misses, each target by nets of its own.
# The ensembles average z-scored arms: all of them, or those that the *inner* folds choose.
#
# Every grid stood in `helpers.models.arms` before a real cohort was looked at, and the test fold chooses nothing: not an arm, not a penalty, not an epoch.
# A difference between arms is tiny beside the spread between folds, so it is measured fold by fold on the same cases, and its interval allows for training sets that overlap (Nadeau and Bengio).

# %%
from helpers.stats.arm_comparison import compare_arms, compute_drop

plain_measure = make_measure(expression, targets=spec.targets, score_method=spec.score_method)
others = [name for name in spec.arms if name != spec.arm]
further, more_fits = predict_arms(study, plain_measure, others, workers=workers) if others else (predictions[:0], {0: {}})
mine = predictions[(predictions["arm"] == spec.arm) & predictions["target"].isin(spec.targets)]
compared = pd.concat([mine, further], ignore_index=True)
comparison = compare_arms(compared, reference="ridge")
run.save_table(comparison, "arms_compared")
comparison.round(3).style.hide(axis="index")

# %%
n_arms = comparison["arm"].nunique()
fig, axes = new_figure(width_mm=130, height_mm=(20 + 5.5 * n_arms) * len(spec.targets), rows=len(spec.targets))
for ax, target in zip(axes, spec.targets, strict=True):
    rows = comparison[comparison["target"] == target]
    figures.plot_arm_differences(rows, ax=ax, reference="ridge", declared=spec.arm, title=name_score(target))
run.save_figure(fig, "arms_compared", table=comparison)

# %% [markdown]
# Read the dotted line: an interval that covers it says that the arms cannot be told apart on this cohort.
# The winner of such a table must not be declared from it; who wants another arm names it in the profile and says so before the next cohort.
# What a model loses on cases outside the folds counts more than what it gains inside them:

# %%
drop = compute_drop(compared, n_boot=spec.n_boot, rng=rng)
run.save_table(drop, "drop")
drop.round(3).style.hide(axis="index") if len(drop) else print("every case is in the folds: no drop to measure")

# %% [markdown]
# ## Inside the tumour only
#
# The published system read tiles inside a cancer mask alone. Is that worth its outlines?
# Where outlines exist (`tumour_dir`), the plain ridge reads all tiles, those whose centre lies inside an outline, and those that a classifier calls tumour, which learnt from the outlines of development cases (and so knows their own slides; only outside the folds are its calls those on new slides).
# Everything else stays as it is, and the cases are the same.

# %%
from helpers.models.tumour import FILTER_ARMS, predict_by_filter

by_filter = pd.DataFrame()
if spec.tumour_dir:
    by_filter = predict_by_filter(
        present[present["case_id"].isin(owners)], plain_measure, splits, site=site, folder=spec.tumour_dir, classes=spec.tumour_classes, cases=in_folds,
        min_probability=spec.min_tumour_probability, aggregation=spec.aggregation, **filters,
    )
    filtered = compare_arms(by_filter, reference=FILTER_ARMS["none"])
    run.save_table(filtered, "tumour_filters")
    rows = filtered[filtered["target"] == spec.primary_target]
    fig, axes = new_figure(width_mm=130, height_mm=40)
    figures.plot_arm_differences(rows, ax=axes[0], reference=FILTER_ARMS["none"], declared="")
    run.save_figure(fig, "tumour_filters", table=filtered)
else:
    print("no outlines of tumour (tumour_dir), so all tiles are read and nothing is compared")

# %% [markdown]
# ## Is it more than nothing
#
# A confidence interval that excludes 0 is no test here, because 0 is not what nothing looks like.
# With labels exchanged between patients of one site, and *every fold refitted*, pooled out-of-fold correlations fall below 0 on average: the model's mean moves away from the fold that it must predict.

# %%
from helpers.models.controls import compute_study_nulls, summarise_nulls

first = ArmFolds(study, spec.arm, workers=workers)
print(first.describe_cost(labels, n_refits=spec.n_permutations * (len(spec.targets) + len(spec.label_columns))))
split_of = declared.drop_duplicates("case_id").set_index("case_id")["split"]
null_values = {}
for target in spec.targets:
    found = compute_study_nulls(
        first, measured[target], split=split_of, groups=site, n_permutations=spec.n_permutations, rng=rng
    )
    null_values |= {(target, split): values for split, values in found.items()}
nulls = summarise_nulls(null_values, shown[shown["quantity"] == "spearman"])
run.save_table(nulls, "permutation_null")
nulls.round(3).style.hide(axis="index")

# %%
fig, axes = new_figure(width_mm=183, height_mm=58 * len(splits_here), rows=len(splits_here), columns=len(spec.targets))
for ax, (split, target) in zip(axes, [(s, t) for s in splits_here for t in spec.targets], strict=True):
    row = nulls[(nulls["target"] == target) & (nulls["split"] == split)].iloc[0]
    title = f"{name_score(target)}, {figures.SPLIT_LABELS[split].lower()}"
    figures.plot_permutation_null(
        null_values[target, split], ax=ax, observed=row["observed"], q99=row["null_q99"], title=title
    )
null_table = pd.DataFrame({f"{target}/{split}": values for (target, split), values in null_values.items()})
run.save_figure(fig, "permutation_null", table=null_table)

# %% [markdown]
# The grey histogram is what this very pipeline finds where there is nothing to find.
# The p-value counts permutations at or above the observed value and can never be zero.
# Where cases were set aside inside the training sites (an internal test), their null sits *above* 0: the level of a site is learnt in training and recognised in the test, without any biology.
#
# ## Beside the controls, and site by site

# %%
table = performance[(performance["target"] == spec.primary_target) & (performance["quantity"] == "spearman")]
where = table["split"].map(figures.SPLIT_LABELS).str.lower()
table = table.assign(label=table["arm"].str.replace("_", " ") + ", " + where, bold=table["arm"] == spec.arm)
table = table.sort_values(["split", "bold"], ascending=[True, False])
fig, axes = new_figure(width_mm=120, height_mm=18 + 6 * len(table))
xlabel = f"Spearman ρ, {name_score(spec.primary_target)} (95 % CI)"
figures.plot_forest(table, ax=axes[0], colour="0.5", xlabel=xlabel)
run.save_figure(fig, "arms", table=table)

# %%
rows = declared[declared["target"] == spec.primary_target]
rows = rows.assign(site=rows["case_id"].map(site))
by_site = compute_agreement_by(rows, ["split", "site"], n_boot=spec.n_boot, rng=rng, min_cases=spec.min_stratum)
by_site = by_site[by_site["quantity"] == "spearman"].sort_values(["split", "n"], ascending=[True, False])
run.save_table(by_site, "by_site")
print(f"{by_site['value'].isna().sum()} of {len(by_site)} sites hold fewer than {spec.min_stratum} cases: see tables/by_site.csv")

# %%
judged = by_site.dropna(subset="value")
judged = judged.assign(label=judged["site"] + ", " + judged["split"].map(figures.SPLIT_LABELS).str.lower(), bold=False)
overall = table[table["bold"]].assign(label="all, " + table["split"].map(figures.SPLIT_LABELS).str.lower())
drawn = pd.concat([judged, overall])[["label", "value", "ci_low", "ci_high", "n", "bold"]]
fig, axes = new_figure(width_mm=120, height_mm=18 + 5 * len(drawn))
figures.plot_forest(drawn, ax=axes[0], xlabel=xlabel)
run.save_figure(fig, "by_site", table=drawn)

# %% [markdown]
# Can the features tell where a slide comes from? If they can, anything that differs between sites can pass for biology, and only whole sites left out protect us.

# %%
from helpers.features.probe import probe_site
from helpers.stats.prediction_scores import build_probe_row

homes = site[development][site[development].map(site[development].value_counts()) >= spec.min_stratum]
if homes.nunique() > 1:
    probe = probe_site(features.loc[homes.index].to_numpy(float), homes.tolist(), homes.index.tolist(), rng=rng)
    run.score(**build_probe_row(probe, encoder=spec.encoder if origin == "chapter 02" else "stored_features"))
    print("site read from the features:", {name: round(value, 3) for name, value in probe.items()})
else:
    run.lose("site probe", f"{homes.nunique()} sites hold {spec.min_stratum} development cases", kind="control")
    print(f"no probe: {homes.nunique()} sites hold {spec.min_stratum} development cases or more, two are needed")

# %% [markdown]
# ## What is left for the image
#
# A slide shows the subtype, and the subtype is half of proliferation. So we ask two questions of every label a pathologist or a laboratory could give us instead.
# How far does the *label alone* get? And does the image still rank patients who *share* the label?
# The red mark is the 95th percentile of a null in which targets are exchanged only between patients of the same site and the same label.

# %%
from helpers.stats.confounding import compute_confounding_panel, list_labels

known = cases.set_index("case_id").assign(site=site)
if "stage" in known:
    known["stage"] = group_stages(known["stage"])
label_names = list_labels(known, spec.label_columns)
oof = rows[rows["split"] == "development"].set_index("case_id").loc[first.cases].reset_index()
panel = compute_confounding_panel(
    oof, known[label_names], site=site, refit=first.refit, n_boot=spec.n_boot,
    n_permutations=spec.n_permutations, min_cases=spec.min_stratum, rng=rng,
)
run.save_table(panel, "confounding_panel")

# %%
shown_labels = [name for name in label_names if name != "site"]
rows_drawn = panel[panel["label"].isin(shown_labels)].dropna(subset="value")
fig, axes = new_figure(width_mm=183, height_mm=28 + 4.4 * len(rows_drawn), columns=2, width_ratios=[1, 1.25])
figures.plot_label_only(panel, ax=axes[0])
figures.plot_strata(panel, ax=axes[1], labels=shown_labels)
run.save_figure(fig, "confounding_panel", table=panel)

# %% [markdown]
# Where a grey dot reaches the violet band, the label alone does as well as the whole slide, and the headline correlation says little about the image.
# The black diamonds are what counts then: agreement among patients whom the label cannot tell apart.
# A label that knows nothing lands below 0, for the same reason as the null; the site alone is judged on case-level folds, because a site that was left out cannot predict itself.
#
# ## Does the way of scoring matter

# %%
methods = performance[(performance["arm"] == spec.arm) & performance["quantity"].isin(["spearman", "r2_score"])]
methods.pivot_table(index=["split", "target"], columns="quantity", values="value").round(3)

# %% [markdown]
# ## Where the score comes from
#
# A linear score of a mean is the mean of linear scores, so each tile has a score, and the mean of the map *is* the prediction of a case with one slide.
# The map is drawn by the model that did not see the case (by all five where no fold did).
# Arms on quantiles or kernels of means score no tile, and attention weighs tiles unequally; the map is then the plain ridge's.
# That is arithmetic, not localisation: the model was only ever asked about whole tumours, single tiles lie far outside what it was fitted on, and their scores spread accordingly.
# Chapter 08 asks which maps deserve trust.

# %%
from helpers.models.inputs import locate_tiles
from helpers.models.study import find_held_out
from helpers.models.tile_scores import find_decisive_tiles, has_tile_scores, score_tiles

ranked = rows.sort_values("y_pred", ascending=False)["case_id"]
chosen = spec.map_slide or present.set_index("case_id").loc[ranked, "slide_id"].iloc[0]
bag = read_slide(present.set_index("slide_id")["features_file"][chosen], chosen)
owner = present.set_index("slide_id")["case_id"][chosen]
known = {name: find_held_out(study, owner, found) for name, found in (fits[0] | more_fits[0]).items()}
map_arm = next((name for name in (spec.arm, "ridge") if name in known and has_tile_scores(known[name], bag.features)), None)
located = locate_tiles(bag) if map_arm else None
print(f"slide {chosen}, coordinates {has[bag.coords_l0 is not None]}: {f'a map by the {map_arm} arm' if located else 'no map'}")

# %% [markdown]
# And *which* tiles is a high call based on? Take the highest tiles away, one after the other, until the rest of the slide is no longer above the cut-off:
# those taken are what the call needed (after WEEP). The cut-off is the median of the development cases' out-of-fold predictions by the same arm.

# %%
if located:
    kept = select_tiles(bag, **filters) & (keep(chosen, bag) if keep else True)
    columns = list(measured.columns) if map_arm == spec.arm else list(spec.targets)
    scores = score_tiles(known[map_arm], bag.features[kept])[:, columns.index(spec.primary_target)]
    same = (compared["arm"] == map_arm) & (compared["target"] == spec.primary_target) & (compared["repeat"] == 0)
    cutoff = compared.loc[same & (compared["split"] == "development"), "y_pred"].median()
    decisive = find_decisive_tiles(scores, cutoff=cutoff)
    mine = compared.loc[same & (compared["case_id"] == owner), "y_pred"]
    if (present["case_id"] == owner).sum() == 1 and len(mine):
        assert abs(scores.mean() - mine.iloc[0]) < 1e-3, "the mean of the map is not the prediction of the case"
    coords_um, label = located.coords_um[kept], f"tile score, {name_score(spec.primary_target)}{unit}"
    fig, axes = new_figure(width_mm=183, height_mm=88, columns=2)
    if located.size_um and run.has_upstream("01"):
        figures.plot_thumbnail(run.upstream("01") / f"thumbnails/{chosen}.jpg", ax=axes[0], size_um=located.size_um)
    figures.plot_tile_map(
        coords_um, scores, ax=axes[1], tile_um=located.tile_um, label=label, size_um=located.size_um, marked=decisive
    )
    axes[0].set_title(chosen)
    axes[1].set_title(f"{kept.sum()} tiles, mean {scores.mean():.2f}; outlined: {decisive.sum()} decide")
    scored = pd.DataFrame(coords_um, columns=["x_um", "y_um"]).assign(score=scores, decisive=decisive)
    run.save_figure(fig, "tile_map", table=scored)
    print(f"{decisive.sum()} of {len(scores)} tiles ({decisive.mean():.0%}) carry the call above {cutoff:.2f}")

# %% [markdown]
# ## Write, and answer for it
#
# Cut-offs for chapter 04 are medians of development cases: of their out-of-fold predictions for the image, of their measured scores for RNA.
# No test case had a say.

# %%
from helpers.cohort.published import read_published
from helpers.stats.prediction_scores import (
    build_arm_rows,
    build_confounding_rows,
    build_control_rows,
    build_null_rows,
    build_performance_rows,
)

everything = pd.concat([predictions, further], ignore_index=True)
paths.write_table(everything, run.path("predictions.parquet"))
medians = declared[declared["split"] == "development"].groupby("target")[["y_pred", "y_true"]].median()
thresholds = medians["y_pred"].to_dict() | {f"{name}_rna": value for name, value in medians["y_true"].items()}
paths.write_json(thresholds, run.path("thresholds.json"))
pd.Series(thresholds, name="cut-off").round(3).to_frame()

# %% [markdown]
# ## Save the model
#
# The declared model goes into a bundle: the models of all folds of the first partition, the encoder and tiles they need (with the classifier of tumour, where one chooses them), and the cut-off, locked.
# `histobook predict` applies it to slides that no fit ever saw, and refuses those it was not made for.
# Only features that chapter 02 made say how they were made, so only they can be repeated on new slides.

# %%
from helpers.models.bundle import FoldAverage, collect_manifest, write_bundle

oof_rows = declared[(declared["target"] == spec.primary_target) & (declared["split"] == "development")]
column = measured.columns.get_loc(spec.primary_target)
repeatable = origin == "chapter 02"
if repeatable:
    manifest = collect_manifest(
        run, bag=read_slide(present["features_file"][0], present["slide_id"][0]), arm=spec.arm, target=spec.primary_target,
        score_method=spec.score_method, filters=filters, predictions=oof_rows,
        n_slides=int(present["case_id"].isin(oof_rows["case_id"]).sum()), cutoff=thresholds[spec.primary_target], tumour=keep,
    )
    scorer = FoldAverage(fits[0][spec.arm], column)
    reference = features.loc[oof_rows["case_id"]]
    run.add_outputs(write_bundle(run.dir / "bundle", scorer, manifest, reference=reference, tumour=keep and keep.model))
    print(f"bundle of {len(scorer.members)} folds, cut-off {manifest.training.cutoff:.3f}, in {paths.shorten(run.dir / 'bundle')}")
else:
    run.lose("bundle", f"features come from {origin}: not to be repeated", kind="arm")

# %% tags=["checks"]
if repeatable:
    from helpers.models.bundle import read_bundle

    some = [make_reader(present, **filters)(slide_id) for slide_id in present["slide_id"][:3]]
    again = read_bundle(run.dir / "bundle").scorer.predict(some)
    assert np.allclose(again, scorer.predict(some)), "the saved model predicts something else"

# %%
pixels = slides["path"].dropna().tolist() if "path" in slides else []
truth = paths.resolve(pixels[0]).parents[1] / "truth" / "estimands.json" if pixels else None
planted = truth is not None and truth.is_file()
ceiling = {name: pair["spearman"] for name, pair in paths.read_json(truth)["ceiling"].items()} if planted else None
published = read_published(profile=run.profile_dir.name, chapter="03")
board = build_performance_rows(performance, arm=spec.arm, targets=spec.targets, published=published, ceiling=ceiling)
board += build_control_rows(performance, arm=spec.arm, targets=spec.targets, planted=planted)
board += build_arm_rows(comparison, arm=spec.arm, reference="ridge")
board += build_arm_rows(filtered, arm="", reference=FILTER_ARMS["none"]) if len(by_filter) else []
board += build_null_rows(nulls) + build_confounding_rows(panel, target=spec.primary_target)
for row in board:
    run.score(**row)

# %%
board = pd.DataFrame(board)[["id", "value", "ci_low", "ci_high", "n", "reference", "kind", "holds"]]
board[board["id"].str.contains("/spearman|ratio|permutation")].round(3).style.hide(axis="index")

# %% tags=["checks"]
read_back = pd.read_parquet(run.dir / "predictions.parquet")
assert len(read_back) == len(everything), "predictions were lost on the way to disk"
reported = shown[(shown["target"] == spec.primary_target) & (shown["split"] == "development")].set_index("quantity")["value"]
again = compute_spearman_columns(oof[["y_true"]].to_numpy(), oof[["y_pred"]].to_numpy())[0]
assert abs(again - reported["spearman"]) < 1e-9, "the table and the predictions disagree"
refitted = first.refit(labels)[:, measured.columns.get_loc(spec.primary_target)]
if spec.score_method == "mean_log2":
    assert np.allclose(refitted, oof["y_pred"]), "the permutation test refits another model than the one reported"

# %%
run.finish()

# %% [markdown]
# **What we found.** How well a model reads proliferation from the slide, on sites that it never saw, and how much of that a label would have told us.
# On the phantom the answer stands beside the ceiling that the assay's noise allows; on a real cohort beside a baseline on the same files and the published numbers of another cohort.
#
# **What would change it.** Another encoder, another aggregation, another arm, another tile or tumour filter: all are parameters.
# A random instead of a site-preserved split would raise the number and lower its worth.
# RNA and slide come from different pieces of a tumour, which no model can undo.
#
# **Next.** Chapter 04 asks what the predicted score says about recurrence, with the RNA-measured one beside it.
#
# **References.** Ekholm et al. 2024, doi 10.1186/s12885-024-13248-9 · Nielsen et al. 2010, doi 10.1158/1078-0432.CCR-10-1282 (the eleven genes) · Howard et al. 2021, doi 10.1038/s41467-021-24698-1 (sites in TCGA) · Ojala and Garriga 2010, J Mach Learn Res 11:1833 (permutation with refitting) · Nadeau and Bengio 2003, doi 10.1023/A:1024068626366 · Sharma et al. 2024, arXiv 2403.15238 (WEEP) · Veta et al. 2019, doi 10.1016/j.media.2019.02.012 (TUPAC16).
