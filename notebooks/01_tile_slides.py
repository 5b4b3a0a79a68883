# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Tile the slides
#
# **What you'll do.** Open every slide, find out how many µm a pixel is, find the tissue, and lay a grid of tiles of one physical size over it; then measure how good each tile is, and throw none away.
#
# **What you'll need.** Chapter 00. One minute on 2 cores for the default phantom; no accelerator.
#
# **Inputs → outputs.** `cohort/slides.parquet` and the slides → `tiles/<slide>.h5` (coordinates in level-0 px, quality columns, tissue outlines), `thumbnails/<slide>.jpg`, `outlines/<slide>.geojson`, `ledger.parquet`, figures.
#
# **Source.** Tiles of 598 px at 20X-equivalent (271 µm) were used by the group of Ekholm et al. 2024; the default here is 256 px at 0.5 µm/px (128 µm), the input size of most encoders.

# %% tags=["parameters"]
from typing import Optional

profile_dir: str = "results/phantom"       # run parameter: results of which profile
run_name: str = "interactive"              # run parameter: the book's own runs are called book
shard: str = "1/1"                         # run parameter: k/n does the k-th of n parts of the slides
workers: int = 2                           # run parameter: threads
device: str = "auto"                       # run parameter: not used here
tile_px: int = 256                         # tile edge, px at the target mpp
mpp: float = 0.5                           # target resolution, um per px
overlap_px: int = 0                        # px that neighbouring tiles share
min_tissue_written: float = 0.10           # tiles with less tissue are not written, share
tissue_method: str = "robust"              # robust, or otsu_saturation as assumed for the published backbone
mask_um_per_px: float = 8.0                # resolution of the tissue mask
min_tissue_um2: float = 20000.0            # smaller islands of tissue are dropped
fallback_mpp: Optional[float] = None       # used, and recorded, where a slide states none
thumbnail_px: int = 768                    # longer edge of the thumbnails
annotations_dir: Optional[str] = None      # folder of slide_id.geojson, polygons in level-0 px
annotation_classes: list = []              # classes of the polygons to use, otherwise all but Ignore*
annotation_use: str = "replace"            # the polygons are the mask; intersect keeps the tissue found inside them
max_failed: int = 0                        # slides that may fail before the chapter stops

# %%
from helpers.core import provenance
from helpers.core.specs import TilingSpec

spec = TilingSpec.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)

# %% [markdown]
# ## Who states how large a pixel is?
#
# A tile is a piece of tissue, so its size is a length.
# We open every header, decode nothing, and ask for µm per pixel: the slide table first, then the vendor's properties, then the TIFF's own tags.
# A slide that states none stops here with its name, unless `fallback_mpp` says what its scanner's record gives; then the run records the substitution.

# %%
import pandas as pd

from helpers.slides.audit import audit_slides
from helpers.slides.tiling import pick_shard

slides = pd.read_parquet(run.upstream("00") / "cohort" / "slides.parquet")
chosen = pick_shard(list(slides["slide_id"]), run.shard)
slides = slides[slides["slide_id"].isin(chosen)].reset_index(drop=True)
audit = audit_slides(slides, spec)
run.save_table(audit, "mpp_audit")
for row in audit[audit["mpp_source"] == "fallback_mpp"].itertuples():
    run.substitute("fallback_mpp used", slide_id=row.slide_id, mpp=float(row.mpp))
for row in audit[(audit["mpp"] / audit["header_mpp"] - 1).abs() > 0.05].itertuples():
    run.substitute("the slide table's mpp used, against the file's own", slide_id=row.slide_id, mpp=float(row.mpp), header=float(row.header_mpp))
audit.groupby(["scanner", "mpp_source"], dropna=False).agg(slides=("slide_id", "size"), lowest=("mpp", "min"), highest=("mpp", "max"))

# %%
from helpers.figures import style
from helpers.figures.slides import plot_mpp

fig, (ax,) = style.new_figure(width_mm=130, height_mm=24 + 8 * audit["scanner"].nunique())
plot_mpp(audit, ax=ax, target_mpp=spec.mpp)
run.save_figure(fig, "mpp_audit", table=audit)

# %% [markdown]
# ## The trap: magnification is not a length
#
# "20x" means 0.5 µm/px on one scanner and 0.46 on another; who cuts tiles of a fixed number of pixels gets another piece of tissue from each.
# The table shows what that reader gets: *edge nominal* is the tile in level-0 px that "20x" or "40x" suggests, *edge exact* the one that the header's µm/px gives, *error* how far the nominal tile is off.

# %%
from helpers.slides.audit import compare_nominal

nominal = compare_nominal(audit, spec)
run.save_table(nominal, "nominal_against_exact")
nominal.style.format({"mpp": "{:.4f}", "tile_um_nominal": "{:.0f} µm", "error": "{:+.1%}"}).hide(axis="index")

# %% [markdown]
# An error of eight percent makes every nucleus eight percent larger at one site than at another: a site effect that no stain normalisation removes.
#
# ## One slide first: what is tissue?
#
# The mask decides what exists for every later chapter, so we look at one before we make them all.
# It is found by threshold, or drawn: with `annotations_dir`, polygons in level-0 px are the mask, or bound it.

# %%
from helpers.core.paths import resolve
from helpers.slides.reader import open_slide
from helpers.slides.tiling import find_mask, plan_tiles

usable = audit[audit["reason"] == ""]
example = slides.set_index("slide_id").loc[usable["slide_id"].iloc[0]]
stated = None if "mpp" not in example or pd.isna(example["mpp"]) else float(example["mpp"])
with open_slide(resolve(example["path"]), slide_id=example.name, mpp=stated, fallback_mpp=spec.fallback_mpp) as slide:
    tissue = find_mask(slide, spec)
    plan = plan_tiles(slide, spec, tissue)
    print(f"{example.name}: {slide.width} × {slide.height} px at {slide.mpp:.4f} µm/px ({slide.mpp_source})")
    print(f"{tissue.area_mm2:.2f} mm² of tissue; {len(plan.coords_l0)} of {plan.n_positions} grid positions hold ≥ {spec.min_tissue_written:.0%} of it")
    print(f"a tile is {plan.edge_l0[0]} × {plan.edge_l0[1]} level-0 px, read as {spec.tile_px} × {spec.tile_px} px of {plan.mpp:.4f} µm")

# %% [markdown]
# The edge in level-0 px must be whole, so the *effective* resolution differs from the target by less than one part in a hundred; it is stored, and everything measured in µm uses it.
#
# ## The cohort
#
# Threads tile slide by slide. Each slide ends in the ledger with a status and a reason; a slide that fails takes no other with it.
# A tile file whose key fits is reused, so an interrupted run goes on where it stopped.

# %%
from helpers.slides.tiling import tile_cohort

ledger = tile_cohort(slides, spec, folder=run.store, ledger=run.path("ledger.parquet"), shard=(1, 1), workers=workers)
for row in ledger[ledger["status"] == "failed"].itertuples():
    run.lose(row.slide_id, row.reason, kind="slide")
    print(f"{row.slide_id}: {row.reason}")
ledger["status"].value_counts().to_dict()

# %%
from helpers.figures.slides import plot_slide_flow
from helpers.slides.audit import compute_flow

flow = compute_flow(audit, ledger)
fig, (ax,) = style.new_figure(width_mm=130, height_mm=62)
plot_slide_flow(flow, ax=ax)
run.save_figure(fig, "slide_flow", table=flow)
flow

# %%
from helpers.slides.audit import collect_tiles

done = list(ledger.loc[ledger["status"] != "failed", "slide_id"])
tiled, tiles = collect_tiles(run.store / "tiles", done)
run.add_outputs([run.store / "tiles" / f"{slide_id}.h5" for slide_id in done])
run.add_outputs([run.store / "outlines" / f"{slide_id}.geojson" for slide_id in done])
run.save_table(tiled, "slides")
run.note(n_slides=len(done), n_tiles=len(tiles), tissue_mm2=round(float(tiled["tissue_area_mm2"].sum()), 1))
print(f"{len(done)} slides, {len(tiles):,} tiles, {tiled['tissue_area_mm2'].sum():.0f} mm² of tissue")

# %% tags=["checks"]
assert flow["n"].iloc[-1] == len(done), "the flow and the ledger count different slides"
assert (tiles["tissue_fraction"] >= spec.min_tissue_written).all(), "tiles below the tissue threshold were written"
assert not tiles.duplicated(["slide_id", "x_l0", "y_l0"]).any(), "a tile stands twice"
assert ((tiled["mpp_effective"] / spec.mpp - 1).abs() < 0.02).all(), "a slide's tiles are off the target resolution by 2 % or more"

# %% [markdown]
# ## Look at the masks
#
# The black line is the outline of the tissue, the boxes are the tiles.
# We show slides from the least to the most tissue, because masks fail at the ends.
# QuPath opens the same outlines over the slide itself: drag `outlines/<slide>.geojson` into its viewer.
# Where a mask is wrong, draw the tissue there, export it as `<slide>.geojson`, and name its folder in `annotations_dir`.

# %%
import cv2

from helpers.figures.slides import plot_slide
from helpers.slides.audit import FLAGS, flag_tiles
from helpers.slides.tilefile import read_tiles

tiles["flag"] = flag_tiles(tiles)
ranked = tiled.sort_values("tissue_area_mm2")["slide_id"].tolist()
picked = list(dict.fromkeys(ranked[round(part * (len(ranked) - 1) / 3)] for part in range(4)))


def draw_slides(names, title_of):
    """Draw slides with their tiles, coloured by what is odd about each."""
    fig, axes = style.new_figure(width_mm=180, height_mm=52, columns=max(4, len(names)))
    for ax, name in zip(axes, names, strict=False):
        image = cv2.imread(str(run.store / "thumbnails" / f"{name}.jpg"))[..., ::-1]
        colours = tiles.loc[tiles["slide_id"] == name, "flag"].map(FLAGS).tolist()
        plot_slide(image, read_tiles(run.store / "tiles" / f"{name}.h5"), ax=ax, colours=colours, title=title_of[name])
        ax.title.set_fontsize(6.5)
    for ax in axes[len(names):]:
        ax.set_visible(False)
    return fig


areas = tiled.set_index("slide_id")["tissue_area_mm2"]
run.save_figure(draw_slides(picked, {name: f"{name}\n{areas[name]:.2f} mm²" for name in picked}), "masks", table=tiled)

# %% [markdown]
# ## Quality is stored, not decided
#
# Every tile carries its measures: tissue share, sharpness, marker ink, folds, grey shadow, stain amounts.
# No chapter reads a tile that this one left out, so leaving out is for later chapters, as thresholds they state.
# The flags below are for looking only.

# %%
cases = pd.read_parquet(run.upstream("00") / "cohort" / "cases.parquet")
group = slides.merge(cases, on="case_id").set_index("slide_id")["site"] if "site" in cases else slides.set_index("slide_id")["case_id"]
tiles["site"] = tiles["slide_id"].map(group).astype(str)
flags = pd.crosstab(tiles["site"], tiles["flag"]).reindex(columns=list(FLAGS), fill_value=0)
run.save_table(flags.reset_index(), "flags_by_site")
flags

# %%
from helpers.figures.slides import plot_quality

columns = [("tissue_fraction", "share of tissue in the tile", False), ("sharpness", "sharpness (fine over middle detail)", False),
           ("brightness", "mean grey level", False), ("focus_laplacian_var", "variance of the Laplacian", True)]
fig, axes = style.new_figure(width_mm=180, height_mm=105, rows=2, columns=2)
for ax, (column, label, log) in zip(axes, columns, strict=True):
    plot_quality(tiles, column, ax=ax, label=label, log=log)
axes[1].legend(title="site (tiles)", loc="upper left", bbox_to_anchor=(1.0, 1.0))
run.save_figure(fig, "quality", table=tiles[["slide_id", "site", *[column for column, *_ in columns]]])

# %% [markdown]
# Look at the variance of the Laplacian, the usual measure of focus: its value depends on the scanner as much as on the focus.
# One threshold for all sites (500 is often quoted) would drop one site's sharp tiles and keep another's blurred ones.
# That is why *sharpness* is a ratio, to be judged against its own slide.
#
# ## The oddest slides

# %%
odd = tiles.assign(odd=tiles["flag"] != "fine").groupby("slide_id")["odd"].mean().sort_values(ascending=False)
worst = odd[odd > 0].head(4)
if len(worst):
    common = tiles[tiles["flag"] != "fine"].groupby("slide_id")["flag"].agg(lambda flag: flag.mode().iloc[0])
    titles = {name: f"{name}\n{share:.0%} odd, mostly {common[name]}" for name, share in worst.items()}
    run.save_figure(draw_slides(list(worst.index), titles), "oddest_slides", table=worst.reset_index())
print("\n".join(f"{flag}: {colour}" for flag, colour in FLAGS.items()))

# %% [markdown]
# Four slides are a sample. The page written below shows all of them, the oddest first; open it in a browser before you trust a cohort.

# %%
from helpers.slides.qcpage import write_qc_page

if run.shard == (1, 1):  # a page of all slides; where the work is cut into shards, the run after them writes it
    page = write_qc_page(run.store, tiles, FLAGS, title=f"Quality of slides, {run.profile_dir.name}")
    run.add_outputs([page, *sorted(page.parent.glob("*.jpg"))])
    print(f"every slide on one page: qc/{page.name}")

# %% [markdown]
# ## Zoom into the oddest slide
#
# A thumbnail shows that tiles are flagged; only the pixels show whether rightly so.
# Drag and use the wheel (after a click) or the keys `+`, `-` and the arrows; choose another column above; point at a tile for its numbers.
# In JupyterLab the kernel sends the pixels that you look at, down to the finest; this page, as it was built, holds what fits into 1.5 MB and needs neither kernel nor network.

# %%
from dataclasses import replace

from helpers.figures import explore

name, row = odd.index[0], slides.set_index("slide_id").loc[odd.index[0]]
stated = None if "mpp" not in row or pd.isna(row["mpp"]) else float(row["mpp"])
table = read_tiles(run.store / "tiles" / f"{name}.h5")
table = replace(table, qc=table.qc.assign(flag=tiles.loc[tiles["slide_id"] == name, "flag"].to_numpy()))
with open_slide(resolve(row["path"]), slide_id=name, mpp=stated, fallback_mpp=spec.fallback_mpp) as slide:
    explorer = explore(slide, tiles=table, column="flag", colours={"flag": FLAGS}, opacity=0.35)
explorer

# %% [markdown]
# ## What colour are the stains?
#
# Macenko's method finds, per slide, the two directions in optical density along which haematoxylin and eosin absorb.
# Slides of one site should lie together; where sites lie apart, colour alone tells them apart, and chapter 02 shows how well.

# %%
from helpers.figures.slides import plot_stains

stains = tiled.assign(site=tiled["slide_id"].map(group).astype(str)).dropna(subset=["h_red"])
for row in tiled[tiled["h_red"].isna()].itertuples():
    print(f"{row.slide_id}: no stain vectors, {row.stain_reason}")
if len(stains):
    fig, (ax,) = style.new_figure(width_mm=110, height_mm=75)
    plot_stains(stains, ax=ax)
    run.save_figure(fig, "stain_vectors", table=stains)

# %% [markdown]
# On the phantom the vectors were planted, so we can say how far off the method is.
# An angle of a few degrees is what Macenko's percentiles cost: the extremes of a mixture are not its pure parts.

# %%
from helpers.slides.audit import compare_stains

truth = resolve(slides["path"].iloc[0]).parents[1] / "truth" / "sites.csv"
if truth.is_file() and len(stains):
    angles = compare_stains(stains, pd.read_csv(truth))
    run.save_table(angles, "stain_angles")
    for stain, values in angles.groupby("stain")["angle_deg"]:
        run.score(
            id=f"01/stain_angle_deg/{stain}/all", quantity="stain_angle_deg", value=float(values.median()), n=len(values), reference=0.0,
            kind="planted", source=f"median angle to the planted vector; largest {values.max():.1f} degrees",
        )
    print(angles.groupby("stain")["angle_deg"].describe().round(1))

# %% [markdown]
# ## Normalising the stain, and what it cannot do
#
# A normaliser makes the slides of all sites look as if one laboratory had stained them.
# It is fitted once per slide, never per tile: a tile of stroma, fitted alone, would be made as purple as one of tumour.
# *Macenko* unmixes the stains, scales each, and mixes them with the target's vectors; *Reinhard* shifts and stretches three colour axes.

# %%
from helpers.slides.audit import read_examples
from helpers.slides.normalise import build_normaliser, fit_normaliser
from helpers.slides.stain import Stain

shown = stains.groupby("site").head(1).head(6)["slide_id"].tolist()
rows = {"as scanned": [], "Macenko": [], "Reinhard": []}
for slide_id in shown:
    path = slides.set_index("slide_id").at[slide_id, "path"]
    table = read_tiles(run.store / "tiles" / f"{slide_id}.h5")
    examples = read_examples(path, table, n_tiles=24)
    pixels, glass = examples[:, ::4, ::4].reshape(-1, 3), tuple(table.attributes["background"])
    rows["as scanned"].append(examples[0])
    rows["Macenko"].append(build_normaliser(Stain.from_attributes(table.attributes), item=slide_id).apply(examples[:1])[0])
    rows["Reinhard"].append(fit_normaliser("reinhard", pixels, glass, item=slide_id).apply(examples[:1])[0])

# %%
from helpers.figures.slides import plot_tiles

if shown:
    fig, axes = style.new_figure(width_mm=180, height_mm=90, rows=3, columns=max(2, len(shown)))
    for number, (name, images) in enumerate(rows.items()):
        row = axes[number * max(2, len(shown)):(number + 1) * max(2, len(shown))]
        titles = [f"{slide_id} (site {group[slide_id]})" if number == 0 else "" for slide_id in shown]
        plot_tiles(images, titles, row, um_per_px=spec.mpp)
        row[0].set_ylabel(name)
    run.save_figure(fig, "stain_normalisation", table=pd.DataFrame({"slide_id": shown}))

# %% [markdown]
# Read each column from top to bottom: the tissue is the same, only the dyes change.
# Colours come together; sharpness, noise and the scanner's own texture do not, so the site can still be told after normalisation, and chapter 02 asks how well.
# This book's own descriptor measures every slide with its own vectors, which does the same without repainting a pixel.

# %%
run.finish()

# %% [markdown]
# ## What we found
#
# The flow says how many slides became tiles and names those that did not; the audit says who stated the size of a pixel.
# Every tile with at least a tenth of tissue is on record, with its place in level-0 px and its quality.
#
# **What would change it.** `mpp` and `tile_px` decide what a tile sees: at 128 µm a tile holds tens to hundreds of nuclei, at 512 µm whole glands. `tissue_method: otsu_saturation` is the assumed method of the published backbone; compare its masks before you trust either.
#
# **Next.** Chapter 02 turns each of these tiles into numbers.
#
# **References.** Macenko et al. 2009, doi 10.1109/ISBI.2009.5193250. Reinhard et al. 2001, doi 10.1109/38.946629. Otsu 1979, doi 10.1109/TSMC.1979.4310076.
