# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A3 · Predict genes of spots, where the truth has an address
#
# **What you'll do.** Chapter 05 maps genes that were measured in bulk. Here every spot of a real section has RNA of its own, so a map can be laid beside its truth. And you meet a trap that makes such maps look better than they are.
#
# **What you'll need.** Chapters 00 and 01 of a profile with spots (`her2st`). Three minutes on 2 cores; no accelerator.
#
# **Inputs → outputs.** `cohort/{spots,spot_expression,slides}.parquet` and the sections → a table of all genes per setting, maps, scores.
#
# **Source.** HER2ST: Andersson et al. 2021, doi 10.1038/s41467-021-26271-2; four sections, two patients. Two patients are two observations: everything here is descriptive.

# %% tags=["parameters"]
profile_dir: str = "results/her2st"        # run parameter: results of which profile
run_name: str = "interactive"              # run parameter: the book's own runs are called book
shard: str = "1/1"                         # run parameter: this chapter has no shards
workers: int = 2                           # run parameter: not used here
device: str = "auto"                       # run parameter: of networks
seed: int = 20261                          # of bootstraps
encoders: list = ["stain_texture", "mean_colour"]  # read at every spot, side by side
window_um: float = 200.0                   # edge of the square around a spot, um
scale_by_slide: bool = True                # features centred and scaled within a section, without labels
surroundings: bool = True                  # the mean features of neighbouring spots stand beside a spot's own
min_share: float = 0.2                     # spots of every section in which a gene must be seen
min_transcripts: int = 100                 # spots with fewer are left out
block_spots: int = 4                       # edge of the patches that are resampled together, in spots
settings: dict = {"B4 to C": [["B4"], ["C2", "C3", "C4"]], "C to B4": [["C2", "C3", "C4"], ["B4"]], "C2, C3 to C4": [["C2", "C3"], ["C4"]]}  # trained on, predicted
shown_genes: list = ["FASN", "GNAS", "ACTG1", "ERBB2", "COL1A1"]  # genes with rows of their own
n_boot: int = 1000                         # bootstrap resamples of patches of tissue

# %%
from helpers.core import paths, provenance
from helpers.core.specs import SpotSpec

spec = SpotSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %% [markdown]
# ## Spots and counts
#
# Counts per 10,000, then `log1p`; genes that a fifth of the spots of *every* section shows. A spot with hardly any transcripts says nothing about genes and is left out, by number.

# %%
import numpy as np
import pandas as pd

from helpers.models.spots import list_blocks, normalise_spots

cohort = run.upstream("00") / "cohort"
spots, counts = (pd.read_parquet(run.read_input(cohort / f"{name}.parquet")) for name in ("spots", "spot_expression"))
slides = pd.read_parquet(run.read_input(cohort / "slides.parquet")).set_index("slide_id")
wanted = sorted({name for pair in spec.settings.values() for part in pair for name in part})
spots = spots[spots["slide_id"].isin(wanted)]
expression, kept = normalise_spots(counts, spots, min_share=spec.min_share, min_transcripts=spec.min_transcripts)
kept = kept.assign(case_id=kept["slide_id"].map(slides["case_id"]), block=list_blocks(kept, block_spots=spec.block_spots))
for name, lost in (spots["slide_id"].value_counts() - kept["slide_id"].value_counts()).items():
    run.lose(f"{int(lost)} spots of {name}", f"fewer than {spec.min_transcripts} transcripts", kind="spot")
print(f"{len(spots)} spots, {len(kept)} kept; {expression.shape[1]} of {counts['gene'].nunique()} genes")
kept.groupby("slide_id").agg(spots=("spot_id", "size"), patches=("block", "nunique"), median_transcripts=("n_umi", "median"))

# %% tags=["checks"]
assert set(wanted) <= set(kept["slide_id"]), "a section has no spot left"
assert expression.notna().all(axis=None), "an expression value is missing"
assert not kept.duplicated(["slide_id", "spot_id"]).any(), "a spot occurs twice"

# %% [markdown]
# One of the two patients is many times shallower than the other. Keep that in mind.
#
# ## What the tissue around a spot looks like

# %%
from helpers.features.encoders import make_encoder
from helpers.features.extract import describe_context
from helpers.models.spots import SpotSet, add_surroundings, encode_spots, standardise_by_slide
from helpers.slides.reader import open_slide
from helpers.slides.tilefile import read_tiles

made = [make_encoder(name, device=device) for name in spec.encoders]
parts, um_per_px = [], {}
for slide_id, rows in kept.groupby("slide_id", sort=False):
    context = describe_context(read_tiles(run.upstream("01") / f"tiles/{slide_id}.h5"))
    with open_slide(paths.resolve(slides.loc[slide_id, "path"]), slide_id=slide_id) as opened:
        um_per_px[slide_id] = opened.mpp
        parts.append(encode_spots(opened, rows, made, context=context, window_um=spec.window_um))
kept = kept.loc[kept.groupby("slide_id", sort=False).ngroup().sort_values(kind="stable").index]
expression, features = expression.loc[kept.index].reset_index(drop=True), np.concatenate(parts).astype(float)
kept = kept.reset_index(drop=True)
section = kept["slide_id"].to_numpy()
features = standardise_by_slide(features, section) if spec.scale_by_slide else features
features = add_surroundings(features, kept) if spec.surroundings else features
data = SpotSet(kept, features, expression, np.log(kept["n_umi"].to_numpy(float)))
print(f"{features.shape[0]} spots x {features.shape[1]} features ({'+'.join(spec.encoders)}, {spec.window_um:g} µm)")

# %% [markdown]
# ## The number that flatters
#
# Train on some sections, predict others, correlate. It looks like spatial transcriptomics from H&E:

# %%
from helpers.models.spots import judge_spots

rng = np.random.default_rng(spec.seed)
judged = []
for name, (train, test) in spec.settings.items():
    table = judge_spots(data, train=np.isin(section, train), test=np.isin(section, test), n_boot=spec.n_boot, rng=rng)
    judged.append(table.assign(setting=name))
judged = pd.concat(judged, ignore_index=True)
run.save_table(judged, "genes")
shown = judged[judged["gene"].isin(spec.shown_genes)]
shown.pivot(index="gene", columns="setting", values="r").round(2)

# %% [markdown]
# ## The trap
#
# A spot with more cells gives more transcripts, an image shows cells, and a gene that is missed for lack of reads is a zero that `log1p` of counts per 10,000 keeps. So a model that predicts *nothing but depth* also correlates with genes.
# `depth_r` is that model, from the same features; `partial_r` takes the measured depth out of truth and prediction.

# %%
columns = ["setting", "gene", "r", "depth_r", "partial_r", "partial_r_low", "partial_r_high", "gain", "gain_low", "gain_high"]
shown[columns].sort_values(["setting", "gene"]).round(2).style.hide(axis="index")

# %%
judged["holds"] = (judged["partial_r_low"] > 0) & (judged["gain_low"] > 0)
summary = judged.groupby("setting", sort=False).agg(
    genes=("gene", "size"), median_r=("r", "median"), median_depth_r=("depth_r", "median"),
    median_partial_r=("partial_r", "median"), partial_above_0=("partial_r_low", lambda low: int((low > 0).sum())),
    above_depth_too=("holds", "sum"), spots=("n", "first"), patches=("n_blocks", "first"),
)
run.save_table(summary.reset_index(), "summary")
summary.round(3)

# %% [markdown]
# Intervals come from resampling patches of neighbouring spots, and are pointwise: with hundreds of genes some exclude 0 by luck (2.5 % of them on the upper side, were there nothing).
# Compare the counts with that before believing a single gene.

# %%
from helpers.figures import expression as figures
from helpers.figures.style import new_figure

fig, axes = new_figure(width_mm=62 * len(spec.settings), height_mm=66, columns=len(spec.settings))
for ax, (name, rows) in zip(axes, judged.groupby("setting", sort=False), strict=True):
    drawn = rows.rename(columns={"gene": "target"}).assign(x=rows["depth_r"], y=rows["r"], found=rows["holds"])
    figures.plot_paired_genes(drawn, ax=ax, xlabel="r of predicted depth alone", ylabel="r of the gene's own model", named=spec.shown_genes, title=f"{name}: {rows['holds'].sum()} of {len(rows)}")
run.save_figure(fig, "depth_trap", table=judged)

# %% [markdown]
# Each dot is a gene. On the dashed line the model of the gene does no better than a model of depth. Filled dots keep a partial correlation above 0 *and* beat the depth model whatever its sign, by their intervals.
# A gene of immune cells may fall with depth, since lymphocytes hold little RNA: then depth hides what the image sees, and the partial correlation exceeds the plain one.
#
# ## Predicted and measured, side by side

# %%
from helpers.models.spots import predict_spots

best = judged.sort_values("partial_r_low", ascending=False).groupby("setting", sort=False).head(1)
fig, axes = new_figure(width_mm=183, height_mm=52 * len(best), rows=len(best), columns=3)
for row, own in enumerate(best.itertuples()):
    train, test = (np.isin(section, part) for part in spec.settings[own.setting])
    predicted, _ = predict_spots(data, train=train, test=test)
    place, first = list(expression.columns).index(own.gene), section[test] == spec.settings[own.setting][1][0]
    drawn = kept[test].assign(measured=expression.loc[test, own.gene], predicted=predicted[:, place], depth=data.depth[test])[first]
    scale = um_per_px[drawn["slide_id"].iloc[0]]
    for ax, (column, label) in zip(axes[3 * row : 3 * row + 3], (("measured", "log1p CP10k"), ("predicted", "log1p CP10k"), ("depth", "log transcripts")), strict=True):
        figures.plot_spot_map(drawn, ax=ax, column=column, label=label, um_per_px=scale, title={"measured": f"{own.gene}, {drawn['slide_id'].iloc[0]}: measured", "predicted": f"predicted ({own.setting})", "depth": "depth of the spot"}[column])
run.save_figure(fig, "spot_maps", table=best)

# %% [markdown]
# Look from the first map to the third before looking at the second.
#
# ## Write, and answer for it

# %%
board = []
for name, rows in judged.groupby("setting", sort=False):
    label = name.lower().replace(", ", "_").replace(" ", "_")
    holds = int(rows["holds"].sum())
    above = int((rows["partial_r_low"] > 0).sum())
    board.append({"id": f"A3/genes_partial_above_0/{label}/external", "quantity": "genes with partial r above 0", "value": above, "n": len(rows), "reference": round(0.025 * len(rows), 1), "kind": "control", "holds": above > 0.025 * len(rows), "source": "how many intervals of nothing would lie above 0"})
    board.append({"id": f"A3/genes_beyond_depth/{label}/external", "quantity": "and above the depth model too", "value": holds, "n": len(rows), "reference": 1.0, "kind": "control", "holds": holds >= 1, "source": "at least one gene was asked for; intervals are pointwise"})
    top = rows.sort_values("partial_r_low", ascending=False).iloc[0]
    board.append({"id": f"A3/partial_r/best_{label}/external", "quantity": f"partial r given depth, {top['gene']}", "value": top["partial_r"], "ci_low": top["partial_r_low"], "ci_high": top["partial_r_high"], "n": int(top["n"]), "reference": 0.0, "kind": "control", "source": "the best of all genes: chosen by looking"})
    for row in rows[rows["gene"].isin(spec.shown_genes)].itertuples():
        board.append({"id": f"A3/partial_r/{row.gene}_{label}/external", "quantity": "partial r given depth", "value": row.partial_r, "ci_low": row.partial_r_low, "ci_high": row.partial_r_high, "n": row.n, "reference": 0.0, "kind": "control", "source": f"no agreement; r {row.r:.2f}, of depth alone {row.depth_r:.2f}"})
for row in board:
    run.score(**row)
pd.DataFrame(board)[["id", "quantity", "value", "ci_low", "ci_high", "reference"]].round(3).style.hide(axis="index")

# %% tags=["checks"]
assert len({row["id"] for row in board}) == len(board), "two scores have one name"
assert judged.groupby("setting")["gene"].nunique().eq(expression.shape[1]).all(), "a gene is missing from a setting"
for train, test in spec.settings.values():
    assert not set(train) & set(test), "a section is trained on and predicted"

# %%
run.finish()

# %% [markdown]
# **What we found.** How much of a spot's gene an image tells once the depth of sequencing is taken out: less than the plain correlation says, for some genes something, for many nothing.
#
# **What would change it.** Deeper sequencing, an encoder trained on real tissue, more patients. Two patients allow no statement about a third.
#
# **Next.** Chapter 05 for bulk genes; its value maps are inferences of the very kind that was put to the test here.
#
# **References.** Andersson et al. 2021, doi 10.1038/s41467-021-26271-2 (HER2ST) · He et al. 2020, doi 10.1038/s41551-020-0578-x (ST-Net, the same kind of prediction).
