# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Extract features
#
# **What you'll do.** Turn every tile into a row of numbers, with one or several encoders in a single pass over the pixels; measure where the time goes; and ask whether the numbers give the hospital away.
#
# **What you'll need.** Chapter 01. Three minutes on 2 cores for the default phantom; networks of your own want an accelerator.
#
# **Inputs → outputs.** Slides, `tiles/<slide>.h5` → `features/<encoder>/<slide>.h5` (features beside their coordinates and quality columns, in TRIDENT's layout), `ledger.parquet`, figures.
#
# **Source.** The layout is that of TRIDENT (Zhang et al. 2025, arXiv 2502.06750); that features identify the site was shown by Howard et al. 2021, Nat Commun 12:4423.

# %% tags=["parameters"]
profile_dir: str = "results/phantom"       # run parameter: results of which profile
run_name: str = "interactive"              # run parameter: the book's own runs are called book
shard: str = "1/1"                         # run parameter: k/n does the k-th of n parts of the slides
workers: int = 2                           # run parameter: threads
device: str = "auto"                       # run parameter: where networks run
encoders: list = ["stain_texture", "mean_colour"]  # read in one decode pass
weights: dict = {}                         # local weights file of each network, by encoder name
stain_normalisation: str = "none"          # done to the tiles that networks see: none, macenko or reinhard
precision: str = "auto"                    # arithmetic of networks; auto is bfloat16 where the device is made for it
compile_networks: bool = False             # run networks through torch.compile first: minutes at the start
decode: str = "host"                       # where JPEG tiles are decoded: host, or cuda (slightly other pixels)
stored_as: str = "float32"                 # precision of the stored features
batch_size: int = 64                       # tiles per batch
seed: int = 20261                          # of samples shown, probe folds and random controls
n_shown: int = 400                         # tiles drawn in the PCA
n_permutations: int = 99                   # relabellings behind the null of the site probe
n_normalised: int = 8                      # tiles per slide in the probe before and after normalisation; 0: none
max_failed: int = 0                        # slides that may fail before the chapter stops

# %%
from helpers.core import provenance
from helpers.core.specs import FeatureSpec

spec = FeatureSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %% [markdown]
# ## Load and count
#
# Only slides that chapter 01 tiled come here.
# Those it lost keep the reason it gave; nothing is tried a second time in the hope of better luck.

# %%
import pandas as pd

cohort, tiling = run.upstream("00") / "cohort", run.upstream("01")
slides = pd.read_parquet(cohort / "slides.parquet")
cases = pd.read_parquet(cohort / "cases.parquet")
tiled = pd.read_parquet(tiling / "ledger.parquet").set_index("slide_id")
for slide_id, row in tiled[tiled["status"] == "failed"].iterrows():
    run.lose(slide_id, row["reason"], kind="slide")
listed = len(slides)
slides = slides[slides["slide_id"].map(tiled["status"]).isin(["ok", "reused"])].reset_index(drop=True)
print(f"{listed} slides listed → {len(slides)} tiled, of {slides['case_id'].nunique()} cases")

# %% tags=["checks"]
assert slides["slide_id"].is_unique, "a slide stands twice in the cohort"
assert len(slides) > 0, "chapter 01 tiled no slide, so there is nothing to encode"

# %% [markdown]
# ## What an encoder is here
#
# An encoder turns a tile into a fixed number of values and never sees a label of this cohort.
# It is known by its name, the version of its code or the SHA-256 of its weights, and its precision; all of that is part of every file's key.
# A network without a weights file is an error, not an invitation to random numbers: random weights exist only under the name of a control.

# %%
from helpers.features.registry import REGISTRY, describe_entry

table = pd.DataFrame([{**describe_entry(entry), "used here": entry.name in spec.encoders} for entry in REGISTRY.values()])
run.save_table(table, "encoders")
table[["encoder", "kind", "dimension", "input", "mpp", "licence", "used here", "about"]].style.hide(axis="index")

# %% [markdown]
# Read the column *mpp* before you choose: a network sees µm through the pixels it was trained with, and tiles of another resolution show it nuclei of another size.
# *Licence* is that of the weights, and the strictest ones forbid more than selling.
# Pathology models are fetched once, on a machine with internet, by `histobook encoders fetch`; the folder may then be carried anywhere.
#
# `stain_texture` is a descriptor made by hand: every length in it is in µm and every stain is measured with the slide's own vectors, so that a tile scanned at 0.25 µm/px in one hospital and at 0.50 in another means the same.
# `mean_colour` is its control: what colour alone gives away, which is mostly who stained and scanned the slide.
#
# ## One tile first
#
# Before a cohort, one tile: what do the numbers say?

# %%
import numpy as np

from helpers.core.paths import resolve
from helpers.features.extract import describe_context, make_encoders
from helpers.slides.reader import open_slide
from helpers.slides.tilefile import read_tiles
from helpers.slides.tiling import read_tile

makers = make_encoders(spec, device=device)
first = slides.iloc[0]
plan = read_tiles(tiling / "tiles" / f"{first['slide_id']}.h5")
marked = plan.qc.filter(like="pen_").sum(axis=1) + plan.qc["thick_fraction"] + plan.qc["grey_fraction"]
fullest = int((plan.qc["haematoxylin"] * plan.qc["stained_fraction"] * (marked < 0.01)).idxmax())  # rich in nuclei
with open_slide(resolve(first["path"]), slide_id=first["slide_id"], mpp=plan.mpp) as slide:
    tile = read_tile(slide, plan, fullest)

# %%
from helpers.figures import style
from helpers.figures.slides import plot_tiles

values = makers[0].encode(tile[None], describe_context(plan))[0]
fig, axes = style.new_figure(width_mm=50, height_mm=54)
um_per_px = plan.edge_l0[0] * plan.mpp / tile.shape[1]
plot_tiles([tile], [f"{first['slide_id']}, tile {fullest}"], axes, um_per_px=um_per_px)
run.save_figure(fig, "one_tile")

# %%
names = makers[0].columns or [f"f{number}" for number in range(len(values))]
pd.Series(values, index=names, name=makers[0].name).head(20).round(3).to_frame()

# %% [markdown]
# These are the first of the values in one row of the feature matrix.
# Read them against the picture: a tile full of tumour has a large nuclear share, a tile of stroma has long smooth fibres and few dark objects.
#
# ## Nuclei on the same tile
#
# Pathologists count and measure nuclei, and so does the encoder `pathomics`.
# Haematoxylin is separated with the slide's own vectors and each nucleus gets its own edge; no trained weights are needed.
# Areas are in µm², and haematoxylin 1 is the slide's typical nucleus.

# %%
from helpers.features.nucleus_table import tabulate_nuclei

context = describe_context(plan)
labels, nuclei = tabulate_nuclei(tile, context.stain, um_per_px=context.um_per_px)
nuclei[["area_um2", "diameter_um", "eccentricity", "h_mean", "nearest_um"]].describe().round(2)

# %%
from helpers.figures.nuclei import plot_nuclei

fig, axes = style.new_figure(width_mm=150, height_mm=78, columns=2)
plot_tiles([tile], ["as scanned"], axes[:1], um_per_px=um_per_px)
plot_nuclei(tile, labels, ax=axes[1], um_per_px=um_per_px)
axes[1].set_title(f"{len(nuclei)} nuclei", fontsize=6, fontweight="normal", pad=2)
run.save_figure(fig, "nuclei_on_a_tile", table=nuclei)

# %% [markdown]
# Look where it fails: faint and small objects pass for nuclei, and blurred crowds lose some.
# On outlined images of real breast cancer the overlap is F1 0.72 at an IoU of 0.5, so read counts as counts of look-alikes.
#
# ## The cohort
#
# Threads decode and encode slide by slide; slides fail alone, and a region that cannot be decoded is a failure of its slide, never a white tile.
# A file whose key fits is reused, so an interrupted run goes on where it stopped.

# %%
import time

from helpers.features.extract import extract_cohort

began = time.perf_counter()
ledger, throughput = extract_cohort(
    slides, spec, tiles_folder=tiling / "tiles", folder=run.store, ledger=run.path("ledger.parquet"),
    shard=run.shard, workers=workers, device=device,
)
wall = time.perf_counter() - began
ledger["status"].value_counts().to_dict()

# %%
for row in ledger[ledger["status"] == "failed"].itertuples():
    run.lose(row.slide_id, row.reason, kind="slide")
done = slides.set_index("slide_id").loc[ledger.loc[ledger["status"] != "failed", "slide_id"]].reset_index()
files = {encoder: [run.store / "features" / encoder / f"{slide_id}.h5" for slide_id in done["slide_id"]] for encoder in spec.encoders}
run.add_outputs([file for paths in files.values() for file in paths])
run.note(n_slides=len(done), n_tiles=throughput.n_tiles, wall_seconds=round(wall, 1))
print(f"{len(ledger)} slides → {len(done)} with features; {throughput.n_tiles:,} tiles encoded now in {wall:.0f} s")

# %% tags=["checks"]
assert set(ledger["status"]) <= {"ok", "reused", "failed"}, "a slide left the batch without a status"
assert all(file.is_file() for paths in files.values() for file in paths), "a slide counts as done but has no features"

# %% [markdown]
# ## Where the time goes
#
# The question is always the same: does the encoder wait for pixels, or do the pixels wait for the encoder?
# If decoding is most of it, a faster accelerator buys nothing.
# Times are summed over threads, so they add up to more than the wall time; a reused slide costs none.

# %%
timing = throughput.to_table()
timing["tiles_per_s_alone"] = 1000 * workers / timing["ms_per_tile"].where(timing["ms_per_tile"] > 0)
run.save_table(timing, "throughput")
if throughput.n_tiles:
    busiest = timing.sort_values("seconds").iloc[-1]
    print(f"{throughput.n_tiles / wall:.0f} tiles per second on {workers} threads; most of the time goes to: {busiest['part']} ({busiest['share']:.0%})")
timing.style.format({"seconds": "{:.1f}", "ms_per_tile": "{:.2f}", "share": "{:.0%}", "tiles_per_s_alone": "{:,.0f}"}).hide(axis="index")

# %% [markdown]
# The last column is the bound: the speed of the book if that part were all there is to do.
# Where a network runs on an accelerator two more rows appear, who waited for whom; on a CPU everything shares the cores and nobody waits.
#
# ## Look at the tiles as the encoder sees them
#
# We draw the same number of tiles from each slide, without marker ink, folds and blur, and project their features on the two main directions.
# Pictures stand at some of them: neighbours should look alike to a pathologist, not only to a scanner.

# %%
from helpers.features.probe import compute_pca, sample_tiles
from helpers.models.inputs import select_tiles

declared = spec.encoders[0]
sample = sample_tiles(files[declared], list(done["slide_id"]), n_tiles=spec.n_shown, keep=select_tiles, rng=np.random.default_rng(spec.seed))
scores, share = compute_pca(sample.features)
site_of = done.merge(cases, on="case_id").set_index("slide_id")["site"] if "site" in cases else done.set_index("slide_id")["case_id"]
points = sample.table.assign(pc1=scores[:, 0], pc2=scores[:, 1], site=sample.table["slide_id"].map(site_of))
points.head()

# %%
from helpers.features.probe import pick_spread

shown = pick_spread(scores, n=14)
pictures = {}
for number in shown:
    row = sample.table.iloc[number]
    plan = read_tiles(tiling / "tiles" / f"{row['slide_id']}.h5")
    with open_slide(resolve(done.set_index("slide_id").at[row["slide_id"], "path"]), slide_id=row["slide_id"], mpp=plan.mpp) as slide:
        pictures[number] = read_tile(slide, plan, int(row["row"]))

# %%
from helpers.figures.slides import plot_pca

fig, (ax,) = style.new_figure(width_mm=150, height_mm=95)
plot_pca(points, ax=ax, share=share, thumbnails=pictures)
ax.set_title(f"{len(points)} tiles of {len(done)} slides, encoder {declared}")
run.save_figure(fig, "tiles_pca", table=points)

# %% [markdown]
# If the colours separate, the main directions are the hospital's and not the tumour's.
# If they mix, that is comforting and proves nothing, because a classifier looks at all directions, not at two.
#
# ## The trap: features know the hospital
#
# So we ask a classifier. It sees the mean features of a slide and must name the site of patients it was not trained on.
# A model that predicts a label which differs between hospitals can be right for this reason alone, and a random split will never tell.

# %%
from helpers.features.probe import average_tiles, probe_site

counts = done.merge(cases, on="case_id")["site"].groupby(done["case_id"]).first().value_counts() if "site" in cases else pd.Series(dtype=int)
usable = counts.index[counts >= 5]
known = done.merge(cases[["case_id", "site"]], on="case_id") if "site" in cases else done.assign(site=None)
known = known[known["site"].isin(usable)]
print(f"{len(usable)} sites with at least 5 cases: {', '.join(map(str, usable)) or 'none, so no probe'}")

# %%
rows = []
if len(usable) >= 2:
    for encoder in spec.encoders:
        means = average_tiles([run.store / "features" / encoder / f"{slide_id}.h5" for slide_id in known["slide_id"]], min_tissue=0.5)
        probe = probe_site(means, list(known["site"]), list(known["case_id"]), rng=np.random.default_rng(spec.seed), n_permutations=spec.n_permutations)
        rows.append({"encoder": encoder, **probe})
probes = pd.DataFrame(rows)
probes.round(3)

# %%
from helpers.figures.slides import plot_probe

if len(probes):
    fig, (ax,) = style.new_figure(width_mm=100, height_mm=22 + 9 * len(probes))
    plot_probe(probes, ax=ax)
    run.save_figure(fig, "site_probe", table=probes)
    for row in probes.itertuples():
        run.score(
            id=f"02/site_probe_accuracy/{row.encoder}/oof", quantity="site_probe_accuracy", value=row.balanced_accuracy, n=int(row.n_cases),
            reference=row.chance, source="balanced accuracy of naming the site from a slide's mean features; reference: chance", kind="control",
        )

# %% [markdown]
# The bar is the balanced accuracy, the dashed line is chance, the black line runs from the mean to the 95th percentile of relabelled patients.
# A high bar is no error in the features: stains and scanners do differ, and a good encoder of colour must see it.
# It is the reason why every later split keeps a site whole, why permutations stay within sites, and why an external site is the only test that counts.

# %% [markdown]
# ## Does stain normalisation help?
#
# A normaliser brings the colours of all sites together, so the obvious hope is that the site can no longer be told.
# We take the same few tiles of every slide as scanned, after Macenko and after Reinhard, and ask the same classifier again.

# %%
from helpers.features.probe import encode_normalised

stained = known[[("stain_method" in read_tiles(tiling / "tiles" / f"{slide_id}.h5").attributes) for slide_id in known["slide_id"]]]
rows = []
if spec.n_normalised and len(usable) >= 2:
    seeing = [maker for maker in makers if not maker.needs_stains]
    averages = encode_normalised(stained, seeing, tiles_folder=tiling / "tiles", n_tiles=spec.n_normalised, workers=workers) if seeing else {}
    for (encoder, version), means in averages.items():
        probe = probe_site(means, list(stained["site"]), list(stained["case_id"]), rng=np.random.default_rng(spec.seed), n_permutations=spec.n_permutations)
        rows.append({"encoder": f"{encoder}, {version}", **probe})
normalised = pd.DataFrame(rows)
normalised.round(3)

# %%
if len(normalised):
    fig, (ax,) = style.new_figure(width_mm=110, height_mm=22 + 8 * len(normalised))
    plot_probe(normalised, ax=ax)
    run.save_figure(fig, "site_probe_normalised", table=normalised)

# %% [markdown]
# Compare the bars of one encoder: what falls was colour, what stays is sharpness, noise, resolution and the patients themselves.
# An encoder that unmixes the slide's own stains (`stain_texture`) does not stand here, because it sees the same before and after.
# Normalisation is therefore a choice (`stain_normalisation`), not a cure, and it is no substitute for splits that keep a site whole.

# %%
run.finish()

# %% [markdown]
# ## What we found
#
# Every tiled slide has one row per tile and encoder, in raster order, with the coordinates and the quality columns beside it, so that thresholds can change without a second extraction.
# How fast it went and what it waited for stands in the throughput table; how loudly the site speaks stands in the probe.
#
# **What would change it.** Another encoder (one name in the profile, one folder of weights); stain normalisation, whose effect on the probe stands above.
#
# **Next.** Chapter 03 predicts a proliferation score from these features, and tries to prove itself wrong.
#
# **References.** Zhang et al. 2025, arXiv 2502.06750. Howard et al. 2021, doi 10.1038/s41467-021-24698-1.
