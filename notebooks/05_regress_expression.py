# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Regress gene expression, and say where
#
# **What you'll do.** Predict many genes from H&E slides at once, ask of every gene whether the prediction is more than nothing, and draw *where* on the slide it comes from.
# A map that is only shown convinces everybody; here maps are judged against places that were planted, and against maps that know nothing.
#
# **What you'll need.** Chapter 00 for the cohort, and features: those of chapter 02, those stored with the cohort, or a folder that somebody else wrote (`features_dir`). Two minutes on 2 cores; no accelerator.
#
# **Inputs → outputs.** `cohort/*.parquet`, `splits.csv`, one feature file per slide → `predictions.parquet` (case × gene × arm), tables of genes, hotspot maps, scores.
#
# **Source.** Graziani et al. 2022, *Attention-based interpretable regression of gene expression in histology*: frozen colorectal sections, one network per gene, attention-weighted tile values.
# What we know of it is in the authors' code; what we had to assume is marked.

# %% tags=["parameters"]
from typing import Optional

profile_dir: str = "results/phantom"       # run parameter: results of which profile
run_name: str = "interactive"              # run parameter: the book's own runs are called book
shard: str = "1/1"                         # run parameter: this chapter has no shards
workers: int = 2                           # run parameter: threads
device: str = "auto"                       # run parameter: not used here
seed: int = 20261                          # of nets, bootstraps, permutations and simulations
genes: list = ["pam50"]                    # signatures and symbols, old names too; empty means every measured gene
encoder: str = "stain_texture"             # features of chapter 02 that all arms read; "a+b" joins two encoders
features_dir: Optional[str] = None         # folder of slide_id.h5 or slide_id.pt that somebody else wrote
min_tissue_fraction: float = 0.5           # tiles with less tissue are not read, share
min_sharpness: float = 0.6                 # tiles less sharp than this share of the median of their slide are not read
max_pen_fraction: float = 0.05             # tiles with more marker ink are not read, share
max_thick_fraction: float = 0.3            # tiles more folded are not read, share
max_grey_fraction: float = 0.3             # tiles darkened without colour (bubbles, dust) are not read, share
max_brightness: Optional[float] = None     # published filter, brighter tiles are white, grey levels
min_contrast: Optional[float] = None       # published filter, tiles of lower variance of the Laplacian are left out
halve_duplicates: bool = False             # published filter, of sections marked as duplicated one half is read
arm: str = "multi_task"                    # declared model; maps are its own
arms: list = ["ridge", "ridge_moments", "ridge_kernel", "multi_task", "chosen"]  # compared; chosen picks per gene on inner folds
n_repeats: int = 2                         # partitions on which arms are compared; the first is reported
published_genes: list = ["MKI67"]          # genes that the published model is fitted to, one net per gene and split
published_arm: str = "as_published"        # or one of its poolings (pool_mean, pool_max, ...), or its baseline (top_k)
screen_freedom: float = 20.0               # effective degrees of freedom of the screen's ridge
n_permutations: int = 499                  # within-site permutations, every fold refitted
level: float = 0.05                        # false discovery rate at which a gene counts as found
n_simulated: int = 400                     # phantoms only, cohorts drawn anew; 0 means none
n_simulated_permutations: int = 199        # permutations in each of those cohorts
n_boot: int = 1000                         # bootstrap resamples of cases
shown_genes: list = ["ESR1", "MKI67", "UBE2C"]  # genes with rows of their own and a confounding panel
label_columns: list = ["subtype", "er", "her2", "histology", "grade", "stage", "site"]  # of the confounding panel
min_stratum: int = 12                      # cases that a stratum or a class needs to be judged
hotspot_genes: list = ["MKI67"]            # genes that are mapped and judged
hot_share: float = 0.2                     # tiles of a slide that count as hot, by planted value
n_random: int = 40                         # untrained attentions in the control
n_bins: int = 7                            # bins of tile values in the gallery
map_slide: Optional[str] = None            # slide of the maps, otherwise the one with the highest prediction

# %%
from helpers.core import paths, provenance
from helpers.core.specs import ExpressionSpec

spec = ExpressionSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %% [markdown]
# ## Load and count
#
# Genes first: a list may name signatures, current symbols or old ones. What the table does not hold is listed with what comes near, and is not part of the result.

# %%
import numpy as np
import pandas as pd

from helpers.cohort.genes import list_genes, widen_expression
from helpers.cohort.splits import check_splits
from helpers.cohort.tables import group_stages, read_cases, read_expression, read_slides
from helpers.models.inputs import TILE_FILTERS, find_feature_files, list_absent, make_reader, read_groups

cohort = run.upstream("00")
cases, slides = read_cases(cohort / "cohort/cases.parquet"), read_slides(cohort / "cohort/slides.parquet")
long, splits = read_expression(cohort / "cohort/expression.parquet"), pd.read_csv(cohort / "splits.csv", dtype={"case_id": str})
site = read_groups(cases)
wanted = list_genes(spec.genes, long["gene"].unique())
for row in wanted[wanted["symbol"].isna()].itertuples():
    run.lose(row.gene, row.reason, kind="gene")
    print(f"{row.gene}: {row.reason}")
names = wanted.dropna(subset="symbol")["gene"].tolist()
expression = widen_expression(long, genes=names)
print(f"{len(wanted)} genes wanted, {len(names)} measured in {len(expression)} cases")

# %%
from helpers.models.bags import read_bags
from helpers.models.hotspot_maps import keep_as_published

PUBLISHED_FILTERS = ("max_brightness", "min_contrast", "halve_duplicates")
filters, chapter_02 = spec.model_dump(include=set(TILE_FILTERS)), run.upstream("02") / "features" if run.has_upstream("02") else None
files = find_feature_files(slides, features_dir=spec.features_dir, encoder_dir=chapter_02 and chapter_02 / spec.encoder)
for slide_id in files.loc[files["features_file"].isna(), "slide_id"]:
    run.lose(slide_id, "no feature file", kind="slide")
present = files.dropna(subset="features_file").reset_index(drop=True)
keep = keep_as_published(slides, **spec.model_dump(include=set(PUBLISHED_FILTERS)))
bags, owners = read_bags(present, make_reader(present, keep=keep, **filters))
absent = list_absent(cases, pooled=owners, expression=expression.index, splits=splits)
for case, reason in absent.items():
    run.lose(case, reason)
bags, owners = bags.take(~owners.isin(list(absent))), owners[~owners.isin(list(absent))]
print(f"{len(slides)} slides listed, {len(present)} with features; {len(cases)} cases, {len(owners)} in the analysis")
print(f"{bags.sizes.sum()} tiles of {bags.width} features; {np.median(bags.sizes):.0f} per case (median), {bags.sizes.max()} at most")

# %%
measured = expression.loc[owners]
flat = measured.columns[measured.std() < 1e-9]
for gene in flat:
    run.lose(gene, "the same in all cases", kind="gene")
measured = measured.drop(columns=flat)
in_folds = pd.Index(splits.loc[splits["fold"] >= 0, "case_id"].unique())
development = owners[owners.isin(in_folds)]
print(f"{measured.shape[1]} genes vary; {len(development)} development cases, {len(owners) - len(development)} outside all folds")

# %% tags=["checks"]
check_splits(splits, cases=cases)
assert owners.is_unique, "a case has two bags"
assert measured.notna().all(axis=None), "an expression value is missing"
assert measured.shape[1] > 0, "no gene is left"

# %% [markdown]
# ## A prediction with an address
#
# A common attention network averages *embeddings*, then predicts; its weights say what was looked at, not what it meant.
# Graziani's averages *predictions*: each tile gets a value and a weight, and a case is the weighted mean. The published net, to the letter:

# %%
import inspect

from helpers.models.hotspots import apply_values, list_hotspot_arms, pool_values

recipes = list_hotspot_arms()
print(recipes["as_published"], "\n")
print(inspect.getsource(apply_values).split('"""')[-1])

# %% [markdown]
# Known from the code: the layers, the clamp, the optimiser, the patience. Assumed: one case per step, standardised features, targets in SDs. Two slips of that code are not repeated: dropout stayed on when it predicted, and its "top k" took the first k tiles, not the highest.
#
# One net per gene does not reach a transcriptome. Where a value is linear in the trunk's units, the mean can be taken *before* the genes' heads are applied:

# %%
print(inspect.getsource(pool_values).split('"""')[1])
print(recipes["multi_task"])

# %% [markdown]
# So a further gene costs one row per case instead of one per tile. Each gene mixes four attentions in its own proportions, and values start as those of a ridge on the same training cases (`anchored`), which chapter 03 found to matter: a few hundred labels do not teach a net from nothing.
#
# ## The number that flatters
#
# All arms are fitted here, once for all folds; the next section says how. First we ask a net for genes of the very cases it was trained on.

# %%
from helpers.models.expression import predict_genes
from helpers.models.study import Study
from helpers.stats.correlation import compute_spearman_columns

study = Study(bags, owners, splits, site, spec.seed)
predictions, fits = predict_genes(study, measured, spec.arms, repeats=range(min(spec.n_repeats, splits["repeat"].nunique())), workers=workers)
train, test = study.locate(0, study.list_folds([0])[0][1])
seen, held_out = (compute_spearman_columns(measured.to_numpy()[rows], fits[spec.arm][0].predict(bags.take(rows))) for rows in (train, test))
print(f"median over {measured.shape[1]} genes, {spec.arm}: {np.nanmedian(seen):.3f} on its training cases, {np.nanmedian(held_out):.3f} on held-out sites")

# %% [markdown]
# The first number says how flexible the net is. Only the second one is about slides.
#
# ## All genes, all folds
#
# Every arm predicts every gene on the same folds, which keep sites whole. Inner folds choose penalties, epochs and, for `chosen`, the arm of each gene; a test fold chooses nothing.

# %%
predictions.groupby(["arm", "split"])[["case_id", "target", "repeat"]].nunique()

# %% tags=["checks"]
oof = predictions[predictions["split"] == "development"].merge(splits, on=["repeat", "fold", "case_id"])
assert oof["role"].eq("test").all(), "a case was predicted by a model that saw it"
assert len(oof) == (predictions["split"] == "development").sum(), "a prediction belongs to no fold"
assert predictions["y_pred"].notna().all(), "a prediction is missing"

# %%
from helpers.stats.gene_tables import compute_gene_performance

rng = np.random.default_rng(spec.seed)
performance = compute_gene_performance(predictions, arms=list(dict.fromkeys([spec.arm, "ridge"])), n_boot=spec.n_boot, rng=rng)
run.save_table(performance, "performance")
spearman = performance[performance["quantity"] == "spearman"]
spearman.groupby(["split", "arm"])["value"].describe()[["count", "min", "25%", "50%", "75%", "max"]].round(3)

# %% [markdown]
# ## Which genes does a slide tell
#
# With many genes some correlate by luck, and with folds that keep sites whole a correlation of nothing lies *below* 0, with a wide null. So each gene meets its own null: cases exchanged within their site, every fold refitted.
# With a penalty that depends on features alone, all held-out predictions are one matrix times the labels, so a refit is a product:

# %%
from helpers.models.screen import build_smoother, screen_genes

print(inspect.getsource(screen_genes).split('"""')[1])
rows = owners.get_indexer(development)
fold_of = splits[(splits["repeat"] == 0) & (splits["role"] == "test")].set_index("case_id")["fold"].loc[development].to_numpy()
smoother = build_smoother(bags.take(rows).pool("mean"), fold_of, freedom=spec.screen_freedom)
groups = site[development].to_numpy()
screen = screen_genes(smoother, measured.iloc[rows].to_numpy(), groups=groups, n_permutations=spec.n_permutations, rng=rng)
screen.insert(0, "target", measured.columns)
screen["found"] = screen["q"] <= spec.level
print(f"{screen['found'].sum()} of {len(screen)} genes found at FDR {spec.level:.0%} ({spec.n_permutations} permutations; p ≥ {1 / (1 + spec.n_permutations):.4f})")

# %%
pixels = slides["path"].dropna().tolist() if "path" in slides else []
truth = paths.resolve(pixels[0]).parents[1] / "truth" if pixels else None
planted = truth is not None and (truth / "loadings.csv").is_file()
if planted:
    loadings = pd.read_csv(run.read_input(truth / "loadings.csv"), keep_default_na=False)
    screen["role"] = screen["target"].map(loadings.set_index("gene")["role"]).fillna("null")
table = spearman[(spearman["split"] == "development") & (spearman["arm"] == spec.arm)].drop(columns=["quantity", "arm", "split"])
table = table.merge(screen.rename(columns={"value": "screen_value"}), on="target").sort_values("value", ascending=False)
ridge_value = spearman[(spearman["split"] == "development") & (spearman["arm"] == "ridge")].set_index("target")["value"]
table["ridge"] = table["target"].map(ridge_value)
table.head(12).round(3).style.hide(axis="index")

# %%
from helpers.cohort.published import read_published
from helpers.figures import expression as figures
from helpers.figures.style import new_figure

published = read_published(profile=run.profile_dir.name, chapter="05")
baseline = published[(published["kind"] == "baseline") & published["scoreboard"].str.contains("median")]["value"]
fig, axes = new_figure(width_mm=183, height_mm=70)
options = {"reference": float(baseline.iloc[0]), "reference_label": f"median, plain ridge {baseline.iloc[0]:.3f}"} if len(baseline) else {}
figures.plot_ranked_genes(table, ax=axes[0], level=spec.level, named=spec.shown_genes, **options)
axes[0].set_title(f"{len(table)} genes, {spec.arm.replace('_', ' ')}: median ρ {table['value'].median():.3f}, n = {table['n'].max()}")
run.save_figure(fig, "ranked_genes", table=table)

# %%
fig, axes = new_figure(width_mm=110, height_mm=80)
drawn = screen.sort_values("value", ascending=False).reset_index(drop=True)
figures.plot_volcano(drawn, ax=axes[0], level=spec.level, named=spec.shown_genes)
run.save_figure(fig, "volcano", table=drawn)

# %% [markdown]
# Read the left half of the volcano: genes that a slide does not tell lie left of 0, not around it. A test against 0 would be blind there, and one with formulas would be too sure on the right.
#
# ## Which arm for which gene
#
# `chosen` takes, per gene and fold, the arm with the least error on the inner folds. The table compares all arms with the plain ridge on the same folds; its interval allows for training sets that overlap (Nadeau and Bengio).

# %%
from helpers.stats.arm_comparison import compare_arms

compared = compare_arms(predictions, reference="ridge")
run.save_table(compared, "arms_compared")
medians = compared.groupby("arm")[["pooled", "fold_mean", "difference"]].median().sort_values("pooled", ascending=False)
medians["genes above the ridge"] = compared[compared["ci_low"] > 0].groupby("arm").size().reindex(medians.index).fillna(0).astype(int)
medians["genes below it"] = compared[compared["ci_high"] < 0].groupby("arm").size().reindex(medians.index).fillna(0).astype(int)
medians.round(3)

# %%
best = compared.sort_values("pooled", ascending=False).groupby("target").head(1).set_index("target")
picks = pd.Series(0, index=[name for name in spec.arms if name not in ("blend", "chosen")], name="picked by inner folds")
for fit in fits.get("chosen", []):
    picks = picks.add(pd.Series(fit.which).map(dict(enumerate(fit.members))).value_counts(), fill_value=0)
print("best on the test folds (a description, chosen by nobody):", best["arm"].value_counts().to_dict())
shown = compared[compared["target"].isin(spec.shown_genes)].round(3)
run.save_table(picks.rename_axis("arm").reset_index(), "arms_picked")
shown[["target", "arm", "pooled", "pooled_low", "pooled_high", "difference", "ci_low", "ci_high", "p_holm"]].style.hide(axis="index")

# %%
fig, axes = new_figure(width_mm=183, height_mm=88, columns=2)
wide = compared.pivot(index="target", columns="arm", values="pooled").reset_index()
pair = pd.DataFrame({"target": wide["target"], "x": wide["ridge"], "y": wide[spec.arm]})
pair["found"] = pair["target"].map(screen.set_index("target")["found"])
arm_label = spec.arm.replace("_", " ")
figures.plot_paired_genes(pair, ax=axes[0], xlabel="plain ridge, Spearman ρ", ylabel=f"{arm_label}, Spearman ρ", named=spec.shown_genes, title=f"Same folds, {compared['n_repeats'].max()} partitions")
outside = spearman[(spearman["arm"] == spec.arm) & (spearman["split"] != "development")]
beside = outside if len(outside) else spearman[(spearman["arm"] == "ridge")]
pair_2 = table[["target", "value", "found"]].rename(columns={"value": "x"}).merge(beside[["target", "value"]].rename(columns={"value": "y"}), on="target")
where = f"{outside['split'].iloc[0].replace('_', ' ')} cases" if len(outside) else "plain ridge, first partition"
figures.plot_paired_genes(pair_2, ax=axes[1], xlabel=f"{arm_label}, out of fold", ylabel=where, named=spec.shown_genes, title=f"Filled: found at FDR {100 * spec.level:g} %")
run.save_figure(fig, "arms_and_splits", table=pair.merge(pair_2, on="target", suffixes=("_arms", "_splits")))

# %% [markdown]
# ## Do genes that go together get predicted together
#
# All genes of a case are read off one image, so predictions share its noise and cling together more than genes do. A gene-set analysis of predictions would find sets that are one picture.

# %%
from helpers.stats.gene_tables import compare_structure, correlate_genes, order_genes

first = predictions[(predictions["arm"] == spec.arm) & (predictions["repeat"] == 0) & (predictions["split"] == "development")]
predicted = first.pivot(index="case_id", columns="target", values="y_pred").loc[development]
shown_matrix = screen.loc[screen["found"], "target"].tolist() if screen["found"].sum() >= 3 else list(measured.columns)
pair_true, pair_pred = correlate_genes(measured.loc[development, shown_matrix]), correlate_genes(predicted[shown_matrix])
order = order_genes(pair_true)
structure = compare_structure(pair_true, pair_pred)
fig, axes = new_figure(width_mm=183, height_mm=92, columns=2)
figures.plot_gene_structure(pair_true.loc[order, order], ax=axes[0], title=f"Measured, {len(order)} genes")
figures.plot_gene_structure(pair_pred.loc[order, order], ax=axes[1], title=f"Predicted: pairs agree at ρ {structure:.2f}")
run.save_figure(fig, "gene_structure", table=pair_true.loc[order, order].reset_index())
upper = np.triu_indices(len(order), 1)
print(f"mean |ρ| between genes: measured {np.abs(pair_true.to_numpy()[upper]).mean():.2f}, predicted {np.abs(pair_pred.to_numpy()[upper]).mean():.2f}")

# %% [markdown]
# ## A subtype in disguise?
#
# A slide tells the subtype, and the subtype tells most genes. So the screen is repeated among ER-positive, HER2-negative tumours alone: the null exchanges cases of the same site and group, and the correlation is measured in this group only.

# %%
known = cases.set_index("case_id").loc[development]
inside = (known["er"].eq("positive") & known["her2"].eq("negative")).to_numpy(bool) if {"er", "her2"} <= set(known) else np.zeros(len(known), bool)
table[["within_p", "within_q"]] = np.nan
if inside.sum() >= spec.min_stratum and not inside.all():
    strata = np.char.add(groups.astype(str), np.where(inside, " in", " out"))
    within = screen_genes(smoother, measured.iloc[rows].to_numpy(), groups=strata, n_permutations=spec.n_permutations, judged=inside, rng=rng)
    within.insert(0, "target", measured.columns)
    run.save_table(within, "genes_within_erpos_her2neg")
    table[["within_p", "within_q"]] = within.set_index("target").loc[table["target"], ["p", "q"]].to_numpy()
    both = screen[["target", "value", "found"]].rename(columns={"value": "x"}).merge(within[["target", "value", "q"]].rename(columns={"value": "y"}), on="target")
    fig, axes = new_figure(width_mm=95, height_mm=92)
    figures.plot_paired_genes(both.assign(found=both["q"] <= spec.level), ax=axes[0], xlabel=f"all cases (n = {len(inside)})", ylabel=f"ER+/HER2− only (n = {inside.sum()})", named=spec.shown_genes, title="Screen, filled: found within")
    run.save_figure(fig, "within_erpos_her2neg", table=both)
run.save_table(table, "genes")
strong = table[(table["ci_low"] >= 0.3) & table["found"]]
lasting = strong[strong["within_q"] <= spec.level]
print(f"{len(strong)} genes with a lower limit of 0.3 or more; {len(lasting)} of them found among {inside.sum()} ER+/HER2− cases, FDR {spec.level:.0%}")

# %%
from helpers.figures import prediction as prediction_figures
from helpers.models.linear import RidgeFolds
from helpers.stats.confounding import compute_confounding_panel, list_labels

labels = cases.set_index("case_id").assign(site=site)
labels = labels.assign(stage=group_stages(labels["stage"])) if "stage" in labels else labels
label_names = list_labels(labels, spec.label_columns)
folds = RidgeFolds(pd.DataFrame(bags.pool("mean"), index=owners), splits[splits["repeat"] == 0], groups=site)
panels = []
for gene in [name for name in spec.shown_genes if name in measured.columns]:
    own = predictions[(predictions["arm"] == "ridge") & (predictions["repeat"] == 0) & (predictions["split"] == "development") & (predictions["target"] == gene)]
    own = own.set_index("case_id").loc[folds.cases].reset_index()
    panel = compute_confounding_panel(own, labels[label_names], site=site, refit=folds.refit, n_boot=spec.n_boot, n_permutations=min(spec.n_permutations, 199), min_cases=spec.min_stratum, rng=rng)
    panels.append(panel.assign(target=gene))
panel = pd.concat(panels, ignore_index=True) if panels else pd.DataFrame(columns=["target", "label", "kind", "value"])
run.save_table(panel, "confounding_panel")
panel[panel["kind"].isin(["image", "label_only", "within_label"])].pivot_table(index=["kind", "label"], columns="target", values="value").round(2)

# %%
if panels:
    fig, axes = new_figure(width_mm=62 * len(panels), height_mm=62, columns=len(panels))
    for ax, own in zip(axes, panels, strict=True):
        prediction_figures.plot_label_only(own, ax=ax)
        ax.set_title(own["target"].iloc[0])
    run.save_figure(fig, "confounding_by_gene", table=panel)

# %% [markdown]
# Where a grey dot reaches the violet band, a label that the laboratory knows anyway predicts the gene as well as the slide does.
#
# ## A subtype from predicted genes
#
# Each case is given the class whose centroid (of measured genes of training cases, fold by fold) its genes resemble most. It is PAM50-like, not PAM50: the same rule on *measured* genes says how far the rule goes.

# %%
from helpers.models.expression import call_subtypes
from helpers.stats.gene_tables import compute_balanced_accuracy

calls = []
if "subtype" in known and known["subtype"].notna().sum() >= 5 * spec.min_stratum and measured.shape[1] >= 20:
    classes = known["subtype"].dropna()
    classes = classes[classes.map(classes.value_counts()) >= spec.min_stratum]
    for fold in np.unique(fold_of):
        held = development[fold_of == fold]
        learnt = classes[classes.index.isin(development[fold_of != fold])]
        for source, values in (("image", predicted), ("rna", measured.loc[development])):
            called = call_subtypes(values, measured.loc[learnt.index], learnt).loc[held]
            calls.append(pd.DataFrame({"case_id": held, "source": source, "called": called.to_numpy(), "subtype": classes.reindex(held).to_numpy()}))
calls = pd.concat(calls, ignore_index=True).dropna(subset="subtype") if calls else pd.DataFrame(columns=["case_id", "source", "called", "subtype"])
run.save_table(calls, "subtype_calls")
accuracy = {source: compute_balanced_accuracy(own["subtype"], own["called"]) for source, own in calls.groupby("source")}
pd.DataFrame(accuracy).round(3) if accuracy else print("no subtype is known for enough cases, or fewer than 20 genes: no calls")

# %% [markdown]
# ## Hotspots
#
# Now the address. `value` is what a case of nothing but this tile would be predicted, `attention` how much the tile counts, `product` the contribution to the difference from the mean.
# Every map is drawn by models that did not see the case.

# %%
from helpers.models.hotspot_maps import (
    find_truth,
    judge_random,
    judge_slides,
    measure_stability,
    pick_gallery,
    read_slide_tiles,
)

mapped = [gene for gene in spec.hotspot_genes if gene in measured.columns]
columns = {gene: list(measured.columns).index(gene) for gene in mapped}
in_study = present[present["case_id"].isin(owners)]
located = read_slide_tiles(in_study, keep=keep, truth_dir=truth / "maps" if planted else None, **filters) if mapped else []
map_fits = fits[spec.arm]
if located:
    print(f"{len(located)} slides state where their tiles lie; maps by {spec.arm}")
else:
    run.lose("hotspot maps", "the feature files state no coordinates, or no gene is mapped", kind="arm")
    print("no maps: the feature files state no coordinates, so a tile has a value and no place")

# %%
from helpers.models.expression import explain_slide
from helpers.models.study import find_held_out

ranked = first[first["target"] == mapped[0]].sort_values("y_pred", ascending=False)["case_id"] if mapped else []
slide = next((s for s in located if s.slide_id == spec.map_slide), None) or next((s for case in ranked for s in located if s.case_id == case), None)
if slide:
    maps = explain_slide(find_held_out(study, slide.case_id, map_fits), slide.features, columns=list(columns.values()))
    names = {"value": "log2", "attention": "1 = average tile", "product": "log2 from the mean"}
    n_columns = 1 + len(maps) + (slide.planted is not None)
    fig, axes = new_figure(width_mm=183, height_mm=39 * len(mapped), rows=len(mapped), columns=n_columns)
    truth_maps = find_truth(loadings, mapped) if slide.planted else {}
    place = {"tile_um": slide.tile_um, "size_um": slide.size_um}
    for row, gene in enumerate(mapped):
        own = axes[row * n_columns : (row + 1) * n_columns]
        if slide.size_um and run.has_upstream("01"):
            prediction_figures.plot_thumbnail(run.upstream("01") / f"thumbnails/{slide.slide_id}.jpg", ax=own[0], size_um=slide.size_um)
        figures.draw_contours(slide.coords_um, maps["value"][:, row], ax=own[0], tile_um=slide.tile_um)
        own[0].set_title(f"{gene}")
        for ax, (name, values) in zip(own[1:], maps.items(), strict=False):
            scaled = values[:, row] * (len(values) if name != "value" else 1)
            prediction_figures.plot_tile_map(slide.coords_um, scaled, ax=ax, label=names[name], **place)
            figures.draw_contours(slide.coords_um, values[:, row], ax=ax, tile_um=slide.tile_um)
            ax.set_title(figures.MAP_LABELS[name])
        if gene in truth_maps:
            inside_tumour, values = slide.planted.inside, slide.planted.values[truth_maps[gene]].to_numpy()
            prediction_figures.plot_tile_map(slide.coords_um[inside_tumour], values[inside_tumour], ax=own[-1], label={"proliferation": "z", "til": "per mm²"}[truth_maps[gene]], **place)
            own[-1].set_title(f"Planted {truth_maps[gene]}".replace("til", "lymphocytes"))
    run.save_figure(fig, "hotspot_maps", table=pd.DataFrame(slide.coords_um, columns=["x_um", "y_um"]).assign(**{f"{name} {gene}": values[:, i] for name, values in maps.items() for i, gene in enumerate(mapped)}))

# %% [markdown]
# Red outlines hold the top tenth of each map; on the thumbnail, that of the values. Planted maps are shown inside the tumour.
# Read the colour bars: values of single tiles spread far beyond what any case has, since the model only ever met averages of many tiles. Their order means something, their unit does not.
#
# ### Judged, not only shown
#
# On a phantom we know what was planted under every tile. Inside the tumour, do the hottest fifth of tiles score higher than the others? Three controls stand beside: the tumour share of the tile (telling tumour from fat is no hotspot), attentions that were drawn and never trained, and the expected distance of any tile.

# %%
quality, random_maps = pd.DataFrame(), pd.DataFrame()
genes_judged = find_truth(loadings, mapped) if planted else {}
if located and genes_judged:
    from helpers.models.hotspots import HotspotFit
    from helpers.stats.hotspots import summarise_maps

    judged = judge_slides(study, map_fits, located, genes=genes_judged, columns=columns, hot_share=spec.hot_share)
    print(f"{judged['slide_id'].nunique() if len(judged) else 0} slides have enough tiles inside the tumour to be judged")
    quality = summarise_maps(judged, by=["target", "map"], n_boot=spec.n_boot, rng=rng) if len(judged) else quality
    run.save_table(judged, "hotspots_by_slide")
    run.save_table(quality, "hotspots")
    if len(judged) and isinstance(map_fits[0], HotspotFit):
        random_maps = judge_random(map_fits[0], located, truths=sorted(set(genes_judged.values())), hot_share=spec.hot_share, n_draws=spec.n_random, seed=spec.seed)
        run.save_table(random_maps, "random_attention")
else:
    print("no planted truth: maps are shown, and judged by deletion and stability only")
quality.round(3) if len(quality) else None

# %%
bounds = random_maps.groupby("truth")["auroc"].quantile([0.025, 0.5, 0.975]).unstack() if len(random_maps) else pd.DataFrame()
if len(quality):
    drawn = quality.copy()
    for gene, name in genes_judged.items() if len(bounds) else []:
        low, middle, high = bounds.loc[name]
        drawn = pd.concat([drawn, pd.DataFrame([{"target": gene, "map": "random_attention", "quantity": "auroc", "value": middle, "ci_low": low, "ci_high": high}])], ignore_index=True)
    nearest = drawn[(drawn["quantity"] == "distance_any") & (drawn["map"] == "value")].assign(map="any", quantity="distance_tiles")
    drawn = pd.concat([drawn, nearest], ignore_index=True).sort_values("target", kind="stable")
    fig, axes = new_figure(width_mm=183, height_mm=24 + 22 * len(genes_judged), columns=2)
    figures.plot_map_quality(drawn, ax=axes[0], title=f"Hottest {spec.hot_share:.0%} of tiles, {judged['slide_id'].nunique()} slides")
    figures.plot_map_quality(drawn, ax=axes[1], quantity="distance_tiles", chance=0.38, title="Localisation; dotted: a perfect map")
    run.save_figure(fig, "hotspot_quality", table=drawn)

# %% [markdown]
# A peak lies anywhere in its tile, so even a perfect map is 0.38 tile widths off on average (104 µm for the 271 µm tiles of other studies, 49 µm for ours of 128 µm).
# Attention alone is the weakest of the three, hardly better than attentions that nobody trained: it says where the net looks, and a net may look at a cold place to see that it is cold. The value is the hotspot map.
# Lymphocyte genes carry a warning of another kind: their mask control lies far *below* 0.5, because lymphocytes sit where tumour cells are few. A map of "little tumour" would score as well as theirs, so their AUROC proves nothing.
#
# ### Does the model lean on what the map shows
#
# Take the highest tiles away and predict again. If the map tells the truth about the model, the prediction falls faster than under random removal.

# %%
from helpers.models.hotspot_maps import delete_by_map
from helpers.stats.hotspots import summarise_deletion

deletion = pd.DataFrame()
if mapped:
    curves = delete_by_map(study, map_fits, column=columns[mapped[0]], max_cases=100, rng=rng)
    deletion = summarise_deletion(curves, n_boot=spec.n_boot, rng=rng)
    fig, axes = new_figure(width_mm=100, height_mm=70)
    figures.plot_deletion(deletion, ax=axes[0], title=f"{mapped[0]}, {deletion['n'].iloc[0]} held-out cases")
    run.save_figure(fig, "deletion", table=deletion)
    print(deletion.groupby("map", sort=False)[["beyond_random", "beyond_low", "beyond_high"]].first().round(3))

# %% [markdown]
# ### Do maps repeat themselves
#
# The nets of one fit saw other inner splits, another seed draws other weights. Rank agreement of their maps says how much of a map is the net's mood; entropy of 1 means that all tiles count alike; and the hotspots of different genes may be one and the same picture.
# Where attention maps of two seeds do not agree, showing one of them is showing dice. Values of two seeds agree because both stand on the same ridge.

# %%
from dataclasses import replace as change

from helpers.models.expression import fit_fold
from helpers.stats.hotspots import compare_maps, correlate_maps

stability = pd.DataFrame()
if located and hasattr(map_fits[0], "explain_tiles"):
    some = located[:: max(1, len(located) // 30)]
    stability = measure_stability(study, map_fits, some, columns=columns)
    other = fit_fold(change(study, seed=spec.seed + 1), measured.to_numpy()[train], [spec.arm], repeat=0, fold=study.list_folds([0])[0][1])[spec.arm]
    unseen = [s for s in located if s.case_id in set(owners[test])][:20]
    pairs = [(one.explain_tiles(s.features, columns=list(columns.values())), s.slide_id) for s in unseen for one in (map_fits[0], other)]
    for a, b in zip(pairs[::2], pairs[1::2], strict=True):
        for k, gene in enumerate(mapped):
            for i, name in enumerate(("value", "attention")):
                agreement = compare_maps(np.stack([a[0][i][:, k], b[0][i][:, k]], axis=1))
                stability = pd.concat([stability, pd.DataFrame([{"slide_id": a[1], "target": gene, "map": f"{name}, other seed", "agreement": agreement}])], ignore_index=True)
    run.save_table(stability, "stability")
stability.groupby(["target", "map"])[["agreement", "entropy"]].mean().round(2) if len(stability) else print("no maps with attention to compare")

# %%
if located and screen["found"].sum() >= 2:
    compared_genes = table.loc[table["found"], "target"].head(30).tolist()
    places = [list(measured.columns).index(name) for name in compared_genes]
    agreement = np.mean([correlate_maps(explain_slide(find_held_out(study, s.case_id, map_fits), s.features, columns=places)["value"]) for s in located[:: max(1, len(located) // 20)]], axis=0)
    agreement = pd.DataFrame(agreement, index=compared_genes, columns=compared_genes)
    order = order_genes(agreement)
    fig, axes = new_figure(width_mm=100, height_mm=88)
    figures.plot_gene_structure(agreement.loc[order, order], ax=axes[0], title="Do genes share hotspots", label="Spearman ρ of value maps, mean over slides")
    run.save_figure(fig, "hotspots_of_genes", table=agreement.loc[order, order].reset_index())

# %% [markdown]
# ### What such tiles look like
#
# For every bin of tile values, the tile with the highest attention: from what the model calls low to what it calls high.

# %%
readable = slides.dropna(subset="path").set_index("slide_id")["path"] if "path" in slides else pd.Series(dtype=object)
if located and len(readable):
    from helpers.slides.reader import open_slide

    gallery = pick_gallery(study, map_fits, [s for s in located if s.slide_id in readable.index], columns=columns, n_bins=spec.n_bins)
    images = []
    for row in gallery.itertuples():
        with open_slide(paths.resolve(readable[row.slide_id]), slide_id=row.slide_id, fallback_mpp=row.mpp) as opened:
            images.append(opened.read_region_l0(row.x_l0, row.y_l0, round(row.tile_um / 0.5), round(row.tile_um / 0.5), 0.5))
    per_gene = gallery.groupby("target", sort=False)["bin"].nunique().max()
    if len(gallery) == per_gene * len(mapped):
        fig, axes = new_figure(width_mm=183, height_mm=30 * len(mapped), rows=len(mapped), columns=per_gene)
        figures.plot_tile_gallery(gallery, images, axes=axes, tile_um=gallery["tile_um"].iloc[0], n_columns=per_gene)
        run.save_figure(fig, "tile_gallery", table=gallery)
    else:
        run.save_table(gallery, "tile_gallery")
        print("a bin is empty for one of the genes: see tables/tile_gallery.csv")

# %% [markdown]
# ## The published model itself
#
# One net per gene and split, on the same folds of the first partition as everything above.

# %%
own = [gene for gene in spec.published_genes if gene in measured.columns]
as_published = pd.DataFrame()
if own:
    by_publication, publication_fits = predict_genes(study, measured[own], [spec.published_arm], workers=workers)
    as_published = compute_gene_performance(by_publication, arms=[spec.published_arm], n_boot=spec.n_boot, rng=rng)
    run.save_table(as_published, "as_published")
    beside = spearman[spearman["target"].isin(own)]
    print(pd.concat([as_published[as_published["quantity"] == "spearman"], beside]).sort_values(["target", "split"]).round(3).to_string(index=False))
    if located and planted and spec.published_arm == "as_published":
        truths = find_truth(loadings, own)
        judged_2 = judge_slides(study, publication_fits[spec.published_arm], located, genes=truths, columns={g: own.index(g) for g in truths}, hot_share=spec.hot_share)
        if len(judged_2):
            print(summarise_maps(judged_2, by=["target", "map"], n_boot=spec.n_boot, rng=rng).query("quantity == 'auroc'").round(3).to_string(index=False))

# %% [markdown]
# ## Is the false discovery rate what it says
#
# One cohort cannot tell. On the phantom the assays are repeated: same tumours, same slides, expression drawn anew, and the screen run again, hundreds of times. Then once more with every gene cut loose from its tumour, where *any* discovery is false.

# %%
screens = pd.DataFrame()
if planted and spec.n_simulated:
    from helpers.models.hotspot_maps import list_linked
    from helpers.models.screen import PlantedGenes, simulate_screens, summarise_screens

    case_truth = pd.read_csv(run.read_input(truth / "cases_truth.csv"), dtype={"case_id": str}).set_index("case_id").loc[development].reset_index()
    assay_sd = paths.read_json(run.read_input(truth / "spec.json"))["spec"]["assay_sd"]
    linked = loadings["gene"].isin(list_linked(loadings)).to_numpy()
    clear = loadings[linked | loadings["role"].isin(["housekeeping", "null"])].reset_index(drop=True)
    settings = {"linked and null genes": (clear, False), "all genes": (loadings, False), "every link cut": (loadings, True)}
    options = {"groups": groups, "n_cohorts": spec.n_simulated, "n_permutations": spec.n_simulated_permutations, "level": spec.level, "rng": rng}
    found = {name: simulate_screens(smoother, PlantedGenes(case_truth, some, assay_sd, cut), **options) for name, (some, cut) in settings.items()}
    screens = pd.DataFrame([{"label": name} | summarise_screens(one) for name, one in found.items()])
    run.save_table(screens, "simulated_screens")
    fig, axes = new_figure(width_mm=150, height_mm=52, columns=2)
    figures.plot_screens(screens, axes=axes, level=spec.level)
    run.save_figure(fig, "false_discoveries", table=screens)
screens.round(4) if len(screens) else print("nothing was planted here: the false discovery rate rests on the phantom's")

# %% [markdown]
# *Linked* means that a quarter or more of a gene's planted variance comes from what a slide shows: proliferation or lymphocytes. Receptor genes ride on an axis that no phantom slide draws, except through the subtype; they count neither as null nor as linked, and lower the power of "all genes" with good reason.
# Permutation p-values have a floor, 1 / (1 + permutations). Where every link is cut, a discovery among 110 genes needs several genes at that floor at once, so few permutations make the screen more cautious than its level.
#
# ## Write, and answer for it

# %%
from helpers.stats.gene_tables import build_gene_rows

paths.write_table(predictions, run.path("predictions.parquet"))
board = build_gene_rows(performance, arm=spec.arm, shown=spec.shown_genes, label="genes", published=published)
board.append({"id": "05/structure/genes/oof", "quantity": "agreement of gene-gene correlations", "value": structure, "n": len(development), "kind": "control", "source": "measured against predicted pairs of genes"})
board.append({"id": "05/found_within_erpos_her2neg/genes/oof", "quantity": "genes with a lower limit of 0.3", "value": len(lasting), "n": int(inside.sum()), "reference": len(strong), "kind": "control", "source": f"those without the restriction; within-site permutations among ER+/HER2−, FDR {spec.level:.0%}"})
for row in compared[(compared["arm"] == spec.arm) & compared["target"].isin(spec.shown_genes) & compared["difference"].ne(0)].itertuples():
    board.append({"id": f"05/difference/{spec.arm}_vs_ridge_{row.target}/oof", "quantity": "paired difference of spearman", "value": row.difference, "ci_low": row.ci_low, "ci_high": row.ci_high, "n": row.n, "reference": 0.0, "kind": "control", "holds": bool(row.difference >= 0), "source": f"the plain ridge on the same folds of {row.n_repeats} partitions, Nadeau-Bengio interval"})
for source, value in accuracy.items():
    board.append({"id": f"05/subtype_balanced_accuracy/{source}/oof", "quantity": "balanced accuracy", "value": value["balanced_accuracy"], "n": value["n"], "reference": value["chance"], "kind": "control", "source": "chance"})

# %%
for row in quality[quality["quantity"] == "auroc"].itertuples() if len(quality) else []:
    mask = row.map == "tumour_mask"
    limit = bounds.loc[genes_judged[row.target], 0.975] if len(bounds) else 0.5
    more = {"reference": 0.5, "source": "chance; the tumour share of the tile"} if mask else {"reference": max(0.75, limit), "source": f"0.75, and the upper 2.5 % of untrained attentions, {limit:.2f}", "holds": bool(row.value >= max(0.75, limit)) if row.map == "value" else None}
    board.append({"id": f"05/hotspot_auroc/{row.target}_{row.map}/oof", "quantity": "AUROC inside the tumour", "value": row.value, "ci_low": row.ci_low, "ci_high": row.ci_high, "n": row.n, "kind": "control" if mask else "planted", **more})
for row in deletion.groupby("map", sort=False).first().reset_index().itertuples() if len(deletion) else []:
    if row.map != "random":
        board.append({"id": f"05/deletion/{mapped[0]}_{row.map}/oof", "quantity": "mean fall beyond random removal, log2", "value": row.beyond_random, "ci_low": row.beyond_low, "ci_high": row.beyond_high, "n": row.n, "reference": 0.0, "kind": "control", "holds": bool(row.beyond_high < 0), "source": "random removal of as many tiles"})
for row in screens.itertuples() if len(screens) else []:
    name = {"linked and null genes": "clear", "all genes": "all", "every link cut": "complete_null"}[row.label]
    board.append({"id": f"05/false_discovery_proportion/{name}/oof", "quantity": "mean over simulated cohorts", "value": row.proportion, "ci_low": row.lower, "ci_high": row.upper, "n": int(row.n_cohorts), "reference": spec.level, "kind": "planted", "holds": bool(row.lower <= spec.level), "source": f"the level; one-sided 99 % bounds, π0 {row.null_share:.2f}"})
    if name == "clear":
        board.append({"id": "05/power/linked_genes/oof", "quantity": "share of linked genes found", "value": row.power, "n": int(row.n_cohorts), "reference": 0.9, "kind": "planted", "holds": bool(row.power >= 0.9), "source": f"asked for at FDR {spec.level:.0%}"})
for row in board:
    run.score(**row)
pd.DataFrame(board)[["id", "value", "ci_low", "ci_high", "reference", "kind", "holds"]].round(3).style.hide(axis="index")

# %% tags=["checks"]
again = pd.read_parquet(run.dir / "predictions.parquet")
assert len(again) == len(predictions), "predictions were lost on the way to disk"
assert len({row["id"] for row in board}) == len(board), "two scores have one name"
one = again[(again["arm"] == spec.arm) & (again["repeat"] == 0) & (again["split"] == "development") & (again["target"] == table["target"].iloc[0])]
assert abs(compute_spearman_columns(one[["y_true"]].to_numpy(), one[["y_pred"]].to_numpy())[0] - table["value"].iloc[0]) < 1e-9, "table and predictions disagree"
assert screen["p"].min() >= 1 / (1 + spec.n_permutations), "a permutation p-value cannot be smaller"

# %%
run.finish()

# %% [markdown]
# **What we found.** How many genes a slide tells at a stated false discovery rate, which arm tells them best, how much of it is the subtype, and whether hotspot maps point at what was planted.
# Values of tiles are hotspot maps; attention alone is not.
#
# **What would change it.** Another encoder, other tiles, the whole transcriptome (`genes: []`): all are parameters. RNA and slide come from different pieces of a tumour, so a map of a bulk gene is an inference about places that nobody measured.
#
# **Next.** Appendix A3 has the measurement that this chapter lacks: spots of real sections with their own RNA, and a trap in it. Chapter 08 asks which explanations deserve trust.
#
# **References.** Graziani et al. 2022, doi 10.1007/978-3-031-17976-1_5 · Schmauch et al. 2020, doi 10.1038/s41467-020-17678-4 (HE2RNA) · Wang et al. 2021, doi 10.1158/0008-5472.CAN-21-0482 (EMO) · Gustafsson and Rantalainen 2024, arXiv 2410.00945 (one model for all genes) · Benjamini and Hochberg 1995, J R Stat Soc B 57:289 · Ojala and Garriga 2010, J Mach Learn Res 11:1833 · Nadeau and Bengio 2003, doi 10.1023/A:1024068626366 · Parker et al. 2009, doi 10.1200/JCO.2008.18.1370 (PAM50).
