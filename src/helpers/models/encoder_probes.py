"""What an encoder's features hold: linear probes on tiles with a known answer, on slides they were not fitted on.

A probe is a ridge regression on frozen features. It says what lies in them in linear form, which is what the book's own
models read. Intervals come from resampling whole slides (or patches of tissue), since neighbouring tiles are alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.cohort.imports.her2st import (
    SPOT_PITCH_UM,
    Section,
    list_sections,
    measure_pitch,
    read_counts,
    read_spot_positions,
)
from helpers.core.errors import ModelError
from helpers.core.specs import PhantomSpec
from helpers.models.linear import fit_ridge
from helpers.phantom.effects import EXTERNAL_SITE
from helpers.phantom.plan import SlidePlan
from helpers.phantom.pretraining import LABELS, MPP, TILE_PX, label_squares
from helpers.phantom.renderer import render_slide
from helpers.phantom.truth import plan_cohort
from helpers.stats.correlation import compute_agreement

Tiles = NDArray[np.uint8]
GENE_SETS: Final[dict[str, tuple[str, ...]]] = {
    "epithelial genes": ("KRT8", "KRT18", "KRT19", "EPCAM", "ERBB2"),
    "stromal genes": ("COL1A1", "COL1A2", "COL3A1", "SPARC", "LUM"),
    "immune genes": ("PTPRC", "CD74", "HLA-DRA", "CD3E", "TRBC2"),
}
MIN_TRANSCRIPTS: Final = 500
"""Transcripts that a spot needs before shares of genes are read off it."""
BLOCK_SPOTS: Final = 4
"""Edge of the patches of spots that are resampled together, in spots."""
MONUSEG_TILE_PX: Final = 125
"""Edge of a tile of a MoNuSeg image at 0.5 um per px: 16 tiles per image of 250 um."""
MONUSEG_MPP: Final = 0.25
MONUSEG_LABEL: Final = "nuclei per tile"


@dataclass(frozen=True)
class ProbeSet:
    """Tiles with known answers.

    Attributes
    ----------
    name : str
    tiles : ndarray, (n, H, W, 3), uint8
        About 0.5 um per px.
    labels : DataFrame, n rows
        NaN where unknown.
    fold : ndarray, (n,), int
        Rows of one fold are predicted by a probe fitted on all others; -1 is never predicted.
    cluster : ndarray, (n,)
        What is resampled together.
    within : ndarray, (n,), optional
        Where given, truth and prediction are centred and scaled inside each of these groups before they are compared.
    """

    name: str
    tiles: Tiles
    labels: pd.DataFrame
    fold: NDArray[np.int64]
    cluster: NDArray
    within: NDArray | None = None


def probe_labels(features: NDArray, probe: ProbeSet, *, rng: np.random.Generator, n_boot: int = 1000) -> pd.DataFrame:
    """Fit and judge one linear probe per label.

    Parameters
    ----------
    features : ndarray, (n, d)
    probe : ProbeSet
    rng : Generator
        Of the bootstrap.
    n_boot : int

    Returns
    -------
    DataFrame
        probe_set, label, quantity (spearman, r2_score, ...), value, ci_low, ci_high, n, n_clusters.

    Raises
    ------
    ModelError
        When features and tiles differ in number, or no row is to be predicted.
    """
    if len(features) != len(probe.labels) or not (probe.fold >= 0).any():
        msg = (
            f"ModelError: probe '{probe.name}' got {len(features)} rows of features for {len(probe.labels)} tiles and "
            f"{int((probe.fold >= 0).sum())} tiles to predict. Encode the tiles of this very set."
        )
        raise ModelError(msg)
    tables = []
    for label in probe.labels:
        truth = probe.labels[label].to_numpy(float)
        known = np.isfinite(truth)
        predicted = predict_folds(features[known], truth[known], probe.fold[known], probe.cluster[known])
        judged = np.isfinite(predicted)
        y_true, y_pred, cluster = truth[known][judged], predicted[judged], probe.cluster[known][judged]
        if probe.within is not None:
            group = probe.within[known][judged]
            y_true, y_pred = scale_within(y_true, group), scale_within(y_pred, group)
        table = compute_agreement(y_true, y_pred, n_boot=n_boot, rng=rng, clusters=cluster)
        tables.append(table.assign(probe_set=probe.name, label=label, n_clusters=len(np.unique(cluster))))
    columns = ["probe_set", "label", "quantity", "value", "ci_low", "ci_high", "n", "n_clusters"]
    return pd.concat(tables, ignore_index=True)[columns]


def predict_folds(features: NDArray, truth: NDArray, fold: NDArray, groups: NDArray) -> NDArray[np.float64]:
    """Predict every fold by a ridge fitted on all other rows.

    Parameters
    ----------
    features : ndarray, (n, d)
    truth : ndarray, (n,)
    fold : ndarray, (n,), int
        -1: only ever fitted on.
    groups : ndarray, (n,)
        Kept whole in the inner folds that choose the penalty.

    Returns
    -------
    ndarray, (n,)
        NaN where the fold is -1.
    """
    predicted = np.full(len(truth), np.nan)
    for number in np.unique(fold[fold >= 0]):
        held_out = fold == number
        model = fit_ridge(features[~held_out], truth[~held_out, None], groups=groups[~held_out])
        predicted[held_out] = model.predict(features[held_out])[:, 0]
    return predicted


def scale_within(values: NDArray, groups: NDArray) -> NDArray[np.float64]:
    """Centre and scale values inside each group; a constant group becomes 0.

    Parameters
    ----------
    values : ndarray, (n,)
    groups : ndarray, (n,)

    Returns
    -------
    ndarray, (n,)
    """
    scaled = np.zeros(len(values))
    for group in np.unique(groups):
        mine = groups == group
        sd = values[mine].std()
        scaled[mine] = (values[mine] - values[mine].mean()) / (sd if sd > 0 else np.inf)
    return scaled


def draw_phantom_probe(
    *, n_cases: int, n_external: int, seed: int, slide_um: float = 640.0, tile_px: int = TILE_PX
) -> ProbeSet:
    """Draw slides of the book's own domain (its sites, its nuclei, another seed); the external site is predicted.

    Parameters
    ----------
    n_cases, n_external : int
        Development and external slides, one per case.
    seed : int
        Another one than any cohort's.
    slide_um : float
    tile_px : int
        Edge of a tile at 0.5 um per px.

    Returns
    -------
    ProbeSet
        Tiles are not JPEG-compressed; labels are those of the training domain, of whole tiles.
    """
    spec = PhantomSpec(
        n_cases=n_cases, n_external=n_external, seed=seed, slide_um=slide_um, two_slide_fraction=0.0,
        artefact_fraction=0.0, bad_slides=False,
    )  # fmt: skip
    truth = plan_cohort(spec)
    site = truth.slides_truth["site"].to_numpy()
    drawn = [_draw_tiles(plan, tile_px) for plan in truth.plans]
    counts = [len(tiles) for tiles, _ in drawn]
    external = np.repeat(site == EXTERNAL_SITE, counts)
    return ProbeSet(
        "phantom, external site",
        np.concatenate([tiles for tiles, _ in drawn]),
        pd.DataFrame(np.concatenate([labels for _, labels in drawn]), columns=list(LABELS)),
        np.where(external, 0, -1),
        np.repeat(truth.slides_truth["slide_id"].to_numpy(str), counts),
    )


def _draw_tiles(plan: SlidePlan, tile_px: int) -> tuple[Tiles, NDArray[np.float32]]:
    """Draw a slide, bring it to `MPP`, keep the tiles that are half tissue."""
    rendered = render_slide(plan)
    edge = round(plan.slide_um / MPP)
    image = np.asarray(cv2.resize(rendered.image, (edge, edge), interpolation=cv2.INTER_AREA))
    tiles = cut_tiles(image, tile_px)
    labels = label_squares(rendered, n_squares=edge // tile_px, square_um=tile_px * MPP).reshape(-1, len(LABELS))
    keep = (tiles.min(axis=3) < 0.9 * min(plan.background)).mean(axis=(1, 2)) >= 0.5
    return tiles[keep], labels[keep]


def cut_tiles(image: Tiles, tile_px: int) -> Tiles:
    """Cut a square image into tiles in raster order; what is left over at the right and below is dropped.

    Parameters
    ----------
    image : ndarray, (H, H, 3), uint8
    tile_px : int

    Returns
    -------
    ndarray, (n, tile_px, tile_px, 3), uint8
    """
    n = image.shape[0] // tile_px
    cut = image[: n * tile_px, : n * tile_px].reshape(n, tile_px, n, tile_px, 3).swapaxes(1, 2)
    return np.ascontiguousarray(cut.reshape(n * n, tile_px, tile_px, 3))


def transfer_probe(source: ProbeSet, target: ProbeSet, labels: NDArray, *, label: str) -> ProbeSet:
    """Fit on one set and judge on another: whether what holds on drawn tissue holds on real tissue.

    Parameters
    ----------
    source : ProbeSet
        Only ever fitted on.
    target : ProbeSet
        Only ever predicted; tiles of the same size.
    labels : ndarray, (n,)
        Of the source, in the unit of the target's `label`.
    label : str

    Returns
    -------
    ProbeSet
    """
    truth = np.concatenate([labels, target.labels[label].to_numpy(float)])
    cluster = np.concatenate([source.cluster.astype(str), np.char.add("target ", target.cluster.astype(str))])
    fold = np.concatenate([np.full(len(source.tiles), -1), np.zeros(len(target.tiles), int)])
    tiles = np.concatenate([source.tiles, target.tiles])
    return ProbeSet(f"{target.name}, fitted on the phantom", tiles, pd.DataFrame({label: truth}), fold, cluster)


def read_her2st_probe(source: Path, *, window_um: float = 128.0) -> ProbeSet:
    """Read the spots of HER2ST with a tile around each; patients are held out whole.

    Parameters
    ----------
    source : Path
        Folder with images/, spots/ and counts/.
    window_um : float
        Edge of the tile around a spot of 100 um.

    Returns
    -------
    ProbeSet
        Labels: log10 of the transcripts, and mean log2(1 + counts per 10,000) of `GENE_SETS`. They are compared within
        a section, since depth differs between sections.
    """
    parts = [_read_section(section, window_um) for section in list_sections(source)]
    labels = pd.concat([labels for _, labels, _ in parts], ignore_index=True)
    section = np.concatenate([np.repeat(name, len(tiles)) for tiles, _, (name, _) in parts])
    patient = np.array([name[0] for name in section])
    return ProbeSet(
        "HER2ST spots",
        np.concatenate([tiles for tiles, _, _ in parts]),
        labels,
        pd.factorize(patient, sort=True)[0],
        np.concatenate([block for _, _, (_, block) in parts]),
        section,
    )


def _read_section(section: Section, window_um: float) -> tuple[Tiles, pd.DataFrame, tuple[str, NDArray]]:
    import imagecodecs

    spots = read_spot_positions(section)
    counts = read_counts(section.counts)
    spots = spots[spots["spot_id"].isin(counts.index)]
    mpp = SPOT_PITCH_UM / float(np.sqrt(np.prod(measure_pitch(spots, section.name))))
    image = imagecodecs.jpeg8_decode(section.image.read_bytes(), outcolorspace="RGB")
    half = round(window_um / mpp / 2)
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="edge")
    corners = np.rint(spots[["x_l0", "y_l0"]].to_numpy()).astype(int)
    windows = [padded[y : y + 2 * half, x : x + 2 * half] for x, y in corners]
    edge = round(window_um / MPP)
    tiles = np.stack([cv2.resize(window, (edge, edge), interpolation=cv2.INTER_CUBIC) for window in windows])
    block = (spots[["array_x", "array_y"]] // BLOCK_SPOTS).astype(int).astype(str)
    names = (section.name + " " + block["array_x"] + "/" + block["array_y"]).to_numpy(str)
    return tiles, _score_spots(counts.loc[spots["spot_id"]]), (section.name, names)


def _score_spots(counts: pd.DataFrame) -> pd.DataFrame:
    total = counts.sum(axis=1)
    share = np.log2(1.0 + counts.div(total, axis=0) * 1e4)
    scores = {name: share[[g for g in genes if g in share]].mean(axis=1) for name, genes in GENE_SETS.items()}
    scores = {name: score.where(total >= MIN_TRANSCRIPTS) for name, score in scores.items()}
    return pd.DataFrame({"transcripts (log10)": np.log10(1.0 + total), **scores}).reset_index(drop=True)


def read_monuseg_probe(source: Path) -> ProbeSet:
    """Read the breast images of MoNuSeg whose nuclei are outlined, in tiles; images are held out whole.

    Parameters
    ----------
    source : Path
        Folder with tissue_image/ and annotations/.

    Returns
    -------
    ProbeSet
        Label: nuclei whose outline's centre lies in the tile. Tiles are resampled, as four images are too few.

    Raises
    ------
    ModelError
        When the folder holds no outlined image.
    """
    import tifffile

    outlines = sorted((source / "annotations").glob("*.xml"))
    if not outlines:
        msg = f"ModelError: '{source.name}' holds no annotations/*.xml, expected outlined MoNuSeg images. Fetch them."
        raise ModelError(msg)
    tiles, labels = [], []
    for file in outlines:
        image = tifffile.imread(source / "tissue_image" / f"{file.stem}.tif")[..., :3]
        edge = round(image.shape[0] * MONUSEG_MPP / MPP)
        small = np.asarray(cv2.resize(image, (edge, edge), interpolation=cv2.INTER_AREA))
        tiles.append(cut_tiles(small, MONUSEG_TILE_PX))
        labels.append(_count_centres(file, n=edge // MONUSEG_TILE_PX, tile_px=MONUSEG_TILE_PX * MPP / MONUSEG_MPP))
    image_of = np.repeat(np.arange(len(tiles)), [len(part) for part in tiles])
    table = pd.DataFrame({MONUSEG_LABEL: np.concatenate(labels)})
    return ProbeSet("MoNuSeg breast", np.concatenate(tiles), table, image_of, np.arange(len(table)))


def _count_centres(file: Path, *, n: int, tile_px: float) -> NDArray[np.float64]:
    counts = np.zeros((n, n))
    for region in ElementTree.parse(file).iter("Region"):
        corners = np.array([[float(v.get("X", "nan")), float(v.get("Y", "nan"))] for v in region.iter("Vertex")])
        column, row = (corners.mean(axis=0) / tile_px).astype(int)
        if 0 <= row < n and 0 <= column < n:
            counts[row, column] += 1
    return counts.ravel()


def summarise_probes(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Keep what is shown of the probes: rank correlation and R2.

    Parameters
    ----------
    tables : sequence of DataFrame
        From `probe_labels`, each with a column `encoder`.

    Returns
    -------
    DataFrame
        encoder, probe_set, label, quantity, value, ci_low, ci_high, n, n_clusters.
    """
    table = pd.concat(tables, ignore_index=True)
    kept = table[table["quantity"].isin(["spearman", "r2_score"])].reset_index(drop=True)
    return kept[["encoder", *[name for name in kept if name != "encoder"]]]
