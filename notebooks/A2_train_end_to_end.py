# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A2 · Train a network end to end
#
# **What you'll do.** Chapter 03 predicted proliferation from features that were made before any label was seen.
# Here the network itself learns from the labels: tiles in, scores out, one network per fold, judged by the same figures.
#
# **What you'll need.** Chapters 00 and 01, that is, slides, and the embedded encoder of chapter A1. Ten minutes on one core with 30 tiles per slide; on GPUs take more of everything. It is no part of `make book`: list "A2" in a profile, or run it alone.
#
# **Inputs → outputs.** `cohort/*.parquet`, `splits.csv`, `tiles/<slide>.h5` and the slides → `predictions.parquet` in the form of chapter 03, `thresholds.json`, tile scores, `bundle/` (the networks, for `histobook predict`), checkpoints, figures, scores.
#
# **Source.** Ekholm et al. 2024, BMC Cancer 24:1510, trained such networks on whole-slide images; their abstract does not print the recipe.
# What follows is the published recipe of the same group for expression in prostate cancer (tag [G] of METHODS: weak labels, log(n+1), MSE, dropout and a linear head).
# InceptionV3 with Adam at 1e-5 is our assumption [A]; both are presets here.
# The defaults are a small edition for a CPU. The size of the paper, for an accelerator:
# `architecture: inception_v3`, `model_args: {}`, `weights: null` (or a file of ImageNet weights), `optimiser: adam` or `sgd_nesterov`, `input_px: 299`, `tiles_per_slide: null`, `epochs: 25`, `tiles_per_epoch: 24000`, `batch_size: 100`.

# %% tags=["parameters"]
from typing import Optional

profile_dir: str = "results/phantom"       # run parameter: results of which profile
run_name: str = "interactive"              # run parameter: the book's own runs are called book
shard: str = "1/1"                         # run parameter: this chapter has no shards
workers: int = 2                           # run parameter: threads that decode tiles
device: str = "auto"                       # run parameter: auto, cpu, mps, cuda (all of them), cuda:1
seed: int = 20261                          # of weights, draws, augmentation and bootstraps
primary_target: str = "prolif11"           # score of the primary analysis
targets: list = ["prolif11", "MKI67"]      # outputs of one network
score_method: str = "mean_log2"            # how a signature is scored: mean_log2, mean_zscore, pam50
architecture: str = "resnet18"             # timm's name: inception_v3, resnet18, resnet10t, convnext_nano
model_args: dict = {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}  # the embedded encoder's size
weights: Optional[str] = "data/encoders/phantom-s/model.safetensors"  # to start from; None draws them at random
min_tissue_fraction: float = 0.5           # tiles with less tissue are not read, share
min_sharpness: float = 0.6                 # tiles less sharp than this share of the median of their slide are not read
max_pen_fraction: float = 0.05             # tiles with more marker ink are not read, share
max_thick_fraction: float = 0.3            # tiles more folded are not read, share
max_grey_fraction: float = 0.3             # tiles darkened without colour (bubbles, dust) are not read, share
tiles_per_slide: Optional[int] = 30        # drawn from each slide once; None takes all, which needs an accelerator
cache_gb: float = 2.0                      # decoded tiles kept in memory, GB
crop_px: int = 160                         # edge of the random crop, px of the tile
input_px: int = 160                        # edge to which a crop is resized
stain_augmentation: str = "vectors"        # vectors, hed, none
stain_strength: float = 0.25               # SD of the log of the factor of each stain
optimiser: str = "adamw"                   # preset: sgd_nesterov [G], adam [A], adamw
learning_rate: Optional[float] = None      # otherwise that of the preset
epochs: int = 4                            # at most
tiles_per_epoch: int = 768                 # 24,000 in the published recipe
batch_size: int = 32                       # over all devices together; 100 in the published recipe
patience: int = 4                          # epochs without a better inner validation before a fit stops
dropout: float = 0.5                       # before the linear head
target_scaling: str = "sd"                 # targets are divided by their sd, or by their variance
aggregation: str = "mean"                  # of the tile scores of a case, declared: mean, median, p75
calibration: str = "training"              # scores stretched to the training cases of each network, or none
precision: str = "auto"                    # auto, float32, bfloat16
repeat: int = 0                            # partition of the splits that is fitted
n_boot: int = 1000                         # bootstrap resamples of cases

# %%
from helpers.core import paths, provenance
from helpers.core.specs import EndToEndSpec

spec = EndToEndSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %% [markdown]
# ## Load and count
#
# A case enters when it has RNA, a tiled slide, and a place in the splits.

# %%
import numpy as np
import pandas as pd

from helpers.cohort.genes import list_needed_genes, name_score, widen_expression
from helpers.cohort.splits import check_splits
from helpers.cohort.tables import read_cases, read_expression, read_slides
from helpers.models.inputs import make_measure, read_groups

cohort, tiles_folder = run.upstream("00"), run.upstream("01") / "tiles"
cases, slides = read_cases(cohort / "cohort/cases.parquet"), read_slides(cohort / "cohort/slides.parquet")
genes = list_needed_genes(spec.targets, methods=[spec.score_method])
expression = widen_expression(read_expression(cohort / "cohort/expression.parquet"), genes=genes)
splits = pd.read_csv(cohort / "splits.csv", dtype={"case_id": str})
site = read_groups(cases)
usable = slides["case_id"].isin(expression.index) & slides["case_id"].isin(splits["case_id"])
tiled = slides["slide_id"].map(lambda name: (tiles_folder / f"{name}.h5").is_file())
for slide_id in slides.loc[usable & ~tiled, "slide_id"]:
    run.lose(slide_id, "no tiles (see the ledger of chapter 01)", kind="slide")
present = slides[usable & tiled].assign(path=lambda table: [str(paths.resolve(path)) for path in table["path"]])
print(f"{len(slides)} slides listed, {usable.sum()} of cases with RNA and a place in the splits, {len(present)} tiled")

# %%
from helpers.models.inputs import TILE_FILTERS
from helpers.models.tilebank import TileBank, make_pools

pools, lost = make_pools(
    present, tiles_folder, filters=spec.model_dump(include=set(TILE_FILTERS)), tiles_per_slide=spec.tiles_per_slide, seed=spec.seed
)
for slide_id, reason in lost.items():
    run.lose(slide_id, reason, kind="slide")
bank = TileBank(pools, cache_gb=spec.cache_gb, workers=workers)
print(f"{len(pools)} slides of {len(set(bank.cases))} cases, {bank.n_tiles.sum()} tiles of {bank.tile_px} px at {bank.mpp} um per px may be drawn")

# %% tags=["checks"]
check_splits(splits, cases=cases)
assert set(bank.cases) <= set(expression.index), "a case without RNA slipped in"
if spec.tiles_per_slide is not None:
    assert bank.n_tiles.max() <= spec.tiles_per_slide, "a slide may be drawn from more tiles than asked"

# %% [markdown]
# ## What is drawn
#
# The label belongs to the patient, and every tile of the patient carries it: a weak label, wrong for most tiles and right on average.
# A slide is drawn with the weight log(n + 1) of its tiles, then one tile of it, all alike.
# Were slides drawn by n, the few largest would be most of the training; were they drawn alike, a needle biopsy would weigh as much as a resection.

# %%
import inspect

from helpers.models.tilebank import compute_slide_weights, draw_tiles

print(inspect.getsource(draw_tiles).split('"""')[-1])
print(inspect.getsource(compute_slide_weights).split('"""')[-1])

# %% [markdown]
# ## What the network sees
#
# A random crop, turned or mirrored, in other stains: densities are taken apart along the two stains of *this* slide, each is made stronger or weaker and tilted a little, and they are put together again.
# A network that could read the laboratory from the colour now finds a new colour every time.
#
# The network starts from the embedded encoder, which learnt on other drawn slides without a label; `weights: null` starts from nothing.

# %%
from helpers.models.augment import make_augmenter
from helpers.models.cnn import build_regressor, read_normalisation

network = build_regressor(
    spec.architecture, n_targets=len(spec.targets), model_args=spec.model_args, dropout=spec.dropout, seed=spec.seed,
    weights=spec.weights and paths.resolve(spec.weights),
)
options = {"strength": spec.stain_strength, "crop_px": spec.crop_px, "input_px": spec.input_px, "mean": (0, 0, 0), "sd": (1, 1, 1)}
augmenter = make_augmenter(bank, method=spec.stain_augmentation, **options)
print(f"{spec.architecture} {spec.model_args}: {sum(p.numel() for p in network.parameters()) / 1e6:.1f} million weights")
print("normalised by", read_normalisation(network))

# %%
import torch

from helpers.figures.style import new_figure
from helpers.figures.training import plot_tile_rows

rng = np.random.default_rng(spec.seed)
some = rng.choice(len(pools), 8, replace=False)
tiles = bank.read(some, rng.integers(0, bank.n_tiles[some]))
seen = [augmenter.augment(tiles, augmenter.draw(some, rng=rng), device=torch.device("cpu")) for _ in range(2)]
views = [(view.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8) for view in seen]
fig, axes = new_figure(width_mm=183, height_mm=88, rows=3)
scales = [bank.mpp] + [bank.mpp * spec.crop_px / spec.input_px] * 2
plot_tile_rows({"tiles of eight slides": tiles, "drawn once": views[0], "drawn again": views[1]}, axes, um_per_px=scales)
run.save_figure(fig, "augmentation")

# %% [markdown]
# Look for what a pathologist needs to grade a nucleus: it must still be there in the second and third row.
#
# ## Train
#
# One network per fold. The cases of role `val` decide when a fit stops; they belong to the training part.
# The test cases of a fold are no argument of its fit, and their slides are not even opened.
# Every step has a random stream of its own, so that a run that was interrupted goes on as if nothing had happened: run the cell again.

# %%
from helpers.models.training import Trainer

print(inspect.getsource(Trainer._take_step))

# %%
from helpers.models.end_to_end import predict_study, tabulate_history, train_ensemble

measure = make_measure(expression, targets=spec.targets, score_method=spec.score_method)


def say(fold, row):
    print(f"fold {fold}, epoch {row['epoch']:.0f}: training {row['loss']:.3f}, validation {row['validation']:.3f}, {row['seconds']:.0f} s", flush=True)


networks = train_ensemble(bank, measure, splits, spec, folder=run.store / "checkpoints", device=device, report=say)
history = tabulate_history(networks)
run.save_table(history, "history")

# %% tags=["checks"]
for fitted in networks:
    tested = splits[(splits["repeat"] == spec.repeat) & (splits["fold"] == fitted.fold) & (splits["role"] == "test")]
    assert not set(fitted.seen) & set(tested["case_id"]), "a network saw a case that it is to predict"
    assert not set(fitted.seen) & set(splits.loc[splits["fold"] < 0, "case_id"]), "a network saw a frozen case"

# %%
from helpers.figures.training import plot_history

fig, axes = new_figure(width_mm=140, height_mm=70)
plot_history(history, ax=axes[0])
run.save_figure(fig, "history", table=history)

# %% [markdown]
# Two different errors share this picture. The dotted one is of single tiles and can hardly fall far below 1, since most tiles do not show what their label says.
# The solid one is of whole cases, over a dozen or two of them: it jumps, and the lowest point of a jumping line flatters.
# That is why it may choose an epoch and nothing else.
#
# ## Predict
#
# A network that minimises the error of tiles, most of which know nothing, says little more than the mean for each of them.
# Its ranks are good and its values far too narrow, so each network is stretched to its own training cases before it predicts anyone else (`calibration`).

# %%
predictions, tile_scores = predict_study(bank, networks, measure, splits, spec, device=device)
arm = f"end_to_end_{spec.aggregation}"
predictions.groupby(["arm", "split"])["case_id"].nunique().unstack()

# %% tags=["checks"]
held_out = predictions[predictions["split"] == "development"].merge(splits, on=["repeat", "fold", "case_id"])
assert held_out["role"].eq("test").all(), "a case was predicted by a network that saw it"
assert len(held_out) == (predictions["split"] == "development").sum(), "a prediction belongs to no fold"
assert predictions.loc[predictions["split"] != "development", "fold"].eq(-1).all(), "a frozen case is in a fold"
assert predictions[["y_true", "y_pred"]].notna().all(axis=None), "a prediction is missing"

# %% [markdown]
# Beside it stand the clinical data alone, and the frozen features of chapter 03 on the same cases and folds, where that chapter has run.

# %%
from helpers.models.controls import encode_clinical
from helpers.models.linear import predict_study as predict_linear

columns = [name for name in ("age_years", "stage", "tumour_size_mm", "nodes_positive", "grade", "histology", "er", "pr", "her2") if name in cases]
clinical = encode_clinical(cases, columns).loc[predictions["case_id"].unique()]
controls = [predict_linear(clinical, measure, splits, arm="clinical_only", groups=site, repeats=[spec.repeat])[0]]
if run.has_upstream("03"):
    other = pd.read_parquet(run.upstream("03") / "predictions.parquet")
    same = other["target"].isin(spec.targets) & (other["repeat"] == spec.repeat) & other["case_id"].isin(set(bank.cases))
    controls.append(other[same & ~other["arm"].isin(["clinical_only", "permuted_features"])].assign(arm=lambda t: "chapter_03_" + t["arm"]))
both = pd.concat([predictions, *controls], ignore_index=True)

# %% [markdown]
# ## How good is it

# %%
from helpers.stats.prediction_scores import compute_performance

performance = compute_performance(both, site=site, repeat=spec.repeat, n_boot=spec.n_boot, rng=rng)
run.save_table(performance, "performance")
shown = performance[(performance["arm"] == arm) & performance["target"].isin(spec.targets)]
shown.drop(columns="arm").round(3).style.hide(axis="index")

# %%
from helpers.figures import prediction as figures

declared = predictions[predictions["arm"] == arm]
splits_here = [name for name in ("development", "internal_test", "external") if (declared["split"] == name).any()]
fig, axes = new_figure(width_mm=183, height_mm=88 * len(splits_here), rows=len(splits_here), columns=len(spec.targets))
unit = " (log2)" if spec.score_method == "mean_log2" else ""
for ax, (split, target) in zip(axes, [(s, t) for s in splits_here for t in spec.targets], strict=True):
    agreement = shown[(shown["target"] == target) & (shown["split"] == split)]
    rows = declared[(declared["target"] == target) & (declared["split"] == split)]
    figures.plot_agreement(rows, agreement, ax=ax, split=split, label=f"{name_score(target)}{unit}")
run.save_figure(fig, "predicted_vs_measured", table=declared)

# %%
table = performance[(performance["target"] == spec.primary_target) & (performance["quantity"] == "spearman")]
where = table["split"].map(figures.SPLIT_LABELS).str.lower()
table = table.assign(label=table["arm"].str.replace("_", " ") + ", " + where, bold=table["arm"] == arm)
table = table.sort_values(["split", "bold", "arm"], ascending=[True, False, True])
fig, axes = new_figure(width_mm=140, height_mm=18 + 6 * len(table))
figures.plot_forest(table, ax=axes[0], colour="0.5", xlabel=f"Spearman ρ, {name_score(spec.primary_target)} (95 % CI)")
run.save_figure(fig, "arms", table=table)

# %% [markdown]
# Three ways to pool the same tile scores stand side by side; the declared one is bold, and it was declared before.
# Pooled out of fold, five networks share one axis; where they differ in level, the pooled correlation pays for it, the mean of folds does not.

# %%
from helpers.stats.prediction_scores import compute_repeats

repeats = compute_repeats(declared, rng=rng)
run.save_table(repeats, "repeats")
repeats[repeats["quantity"] == "spearman"].drop(columns="quantity").round(3).style.hide(axis="index")

# %% [markdown]
# ## Is it more than nothing
#
# Hundreds of refits of a network are out of reach, so the test stands on cases that no fit saw: their labels are exchanged within each site, against the same predictions.
# Where no case is outside all folds there is no such test, and none is invented.

# %%
from helpers.models.controls import summarise_nulls
from helpers.stats.correlation import compute_spearman_columns
from helpers.stats.resampling import compute_permutation_null

null_values = {}
for (target, split), rows in declared[declared["fold"] < 0].groupby(["target", "split"]):
    fixed = rows["y_pred"].to_numpy()[:, None]
    null_values[target, split] = compute_permutation_null(
        rows["y_true"].to_numpy(), groups=site.loc[rows["case_id"]].to_numpy(), refit=lambda labels, p=fixed: np.repeat(p, labels.shape[1], axis=1),
        statistic=compute_spearman_columns, n_permutations=1000, rng=rng,
    )
nulls = summarise_nulls(null_values, shown[shown["quantity"] == "spearman"]) if null_values else pd.DataFrame()
run.save_table(nulls, "permutation_null")
nulls.round(4) if null_values else print("no case outside all folds: no test")

# %% [markdown]
# ## Where the score comes from

# %%
from helpers.features.store import FeatureBag
from helpers.models.inputs import locate_tiles
from helpers.slides.tilefile import describe_coords

ranked = declared[declared["target"] == spec.primary_target].sort_values("y_pred", ascending=False)["case_id"].iloc[0]
pool = next(pool for pool in pools if pool.case_id == ranked)
rows = tile_scores[tile_scores["slide_id"] == pool.slide_id]
attributes = {**pool.table.attributes, **describe_coords(pool.table)}
located = locate_tiles(FeatureBag(features=np.zeros((len(pool.table.coords_l0), 1), np.float32), coords_l0=pool.table.coords_l0, qc=None, attributes=attributes, dialect="histobook"))
scores, coords_um = rows[spec.primary_target].to_numpy(), located.coords_um[rows["row"]]
fig, axes = new_figure(width_mm=183, height_mm=88, columns=2)
figures.plot_thumbnail(run.upstream("01") / f"thumbnails/{pool.slide_id}.jpg", ax=axes[0], size_um=located.size_um)
label = f"tile score, {name_score(spec.primary_target)}{unit}"
figures.plot_tile_map(coords_um, scores, ax=axes[1], tile_um=located.tile_um, label=label, size_um=located.size_um)
axes[0].set_title(pool.slide_id)
axes[1].set_title(f"{len(scores)} tiles drawn, mean {scores.mean():.2f}")
run.save_figure(fig, "tile_map", table=pd.DataFrame(coords_um, columns=["x_um", "y_um"]).assign(score=scores))

# %% [markdown]
# ## Save the networks
#
# The networks of all folds go into a bundle: their weights as plain arrays, how they are built, the tiles they read, the pooling, and the cut-off, locked.
# To `histobook predict` they are one more encoder, whose features are what each network says of a tile; a new slide is therefore tiled, checked and refused like any other.
# Calibration comes after, then the mean over networks, then the pooling over tiles, in the order in which the frozen cases were predicted above.
# A new slide is read whole, where this chapter drew from it (`tiles_per_slide`).

# %%
from helpers.models.bundle import build_networks, read_bundle
from helpers.models.end_to_end import score_tiles, write_network_bundle

run.add_outputs(write_network_bundle(run, bank, networks, predictions, tile_scores, spec, device=device))
saved = read_bundle(run.dir / "bundle")
megabytes = sum(path.stat().st_size for path in (run.dir / "bundle").iterdir()) / 1e6
print(f"{saved.manifest.encoder['encoder_version']}\n{megabytes:.1f} MB, cut-off {saved.manifest.training.cutoff:.3f}, in {paths.shorten(run.dir / 'bundle')}")

# %% tags=["checks"]
some = bank.find_slides([predictions["case_id"].iloc[-1]])[0]
n_some = min(64, bank.n_tiles[some])
said = build_networks(saved, device=device).encode(bank.read(np.full(n_some, some), np.arange(n_some)))
before = score_tiles(bank, networks, [bank.cases[some]], spec, device=device)[spec.primary_target][:n_some]
assert np.allclose(saved.scorer.score_tiles(said), before, atol=1e-3), "the saved networks predict something else"

# %% [markdown]
# ## Write, and answer for it

# %%
from helpers.cohort.published import read_published
from helpers.stats.prediction_scores import build_performance_rows

paths.write_table(both, run.path("predictions.parquet"))
paths.write_table(tile_scores, run.path("tile_scores.parquet"))
medians = declared[declared["split"] == "development"].groupby("target")[["y_pred", "y_true"]].median()
paths.write_json(medians["y_pred"].to_dict() | {f"{name}_rna": value for name, value in medians["y_true"].items()}, run.path("thresholds.json"))
truth = paths.resolve(present["path"].iloc[0]).parents[1] / "truth" / "estimands.json"
ceiling = {name: pair["spearman"] for name, pair in paths.read_json(truth)["ceiling"].items()} if truth.is_file() else None
published = read_published(profile=run.profile_dir.name, chapter="03")
board = build_performance_rows(performance, arm=arm, targets=spec.targets, published=published, ceiling=ceiling)
board = [row | {"id": row["id"].replace("03/", "A2/", 1)} for row in board]
for row in board:
    run.score(**row)
board = pd.DataFrame(board)[["id", "value", "ci_low", "ci_high", "n", "reference", "kind", "holds"]]
board[board["id"].str.contains("/spearman|ratio")].round(3).style.hide(axis="index")

# %%
run.note(seconds_of_training=float(history["seconds"].sum()), best_epochs={str(f.fold): f.best_epoch for f in networks})
run.finish()

# %% [markdown]
# **What we found.** What a network reads from the tiles when nobody tells it what to look at, beside a linear model on features that were designed or learnt elsewhere.
# On the phantom it ranks the external site above the clinical data alone, though the intervals overlap, and on a hundred cases the linear model still wins: a network must find with a hundred weak labels what the other was given.
# Starting from nothing (`weights: null`) it needs several times the steps and its folds agree less.
# Out of fold it does worse than on the external site: there one network speaks, here five together.
#
# **What would change it.** Other weights to start from, all tiles instead of thirty, a larger network and more epochs on a GPU; a tumour mask, since stroma carries the label as well.
#
# **Next.** Chapter 04 takes this table too: `predictions_path`, `prediction_arm: end_to_end_mean`.
# New slides: `histobook predict --bundle results/phantom/A2_train_end_to_end/bundle --slides slides.csv --out predicted`.
#
# **References.** Ekholm et al. 2024, doi 10.1186/s12885-024-13248-9 · Weitz et al. 2022, doi 10.1093/bioinformatics/btac343 (the group's expression recipe, prostate cancer) · Tellez et al. 2018, doi 10.1109/TMI.2018.2820199 (stain augmentation).
