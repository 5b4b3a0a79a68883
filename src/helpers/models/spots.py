"""Spots of real sections with RNA of their own: what an image predicts of a gene, and what depth alone would.

A spot with more cells yields more transcripts, and `log1p` of counts per 10,000 still carries that depth, since genes
that were missed for lack of reads are zeros. So each gene is judged three times: its correlation, the same given the
log of the spot's transcripts, and beside a model that predicts nothing but that depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.core.errors import ModelError
from helpers.features.encoders import Encoder, TileContext
from helpers.models.linear import RidgeTrainer, fit_ridge
from helpers.slides.reader import Slide
from helpers.stats.correlation import compute_pearson_columns
from helpers.stats.resampling import compute_percentile_interval, draw_bootstrap_counts

SPOT_MPP = 0.5
"""um per px of the tile around a spot."""
NEIGHBOURS = 1.5
"""Spots within this many pitches are a spot's surroundings."""


@dataclass(frozen=True, eq=False)
class SpotSet:
    """Spots with features and expression.

    Parameters
    ----------
    spots : DataFrame, n rows
        slide_id, case_id, spot_id, x_l0, y_l0, array_x, array_y, block.
    features : ndarray, (n, d)
    expression : DataFrame, (n, n_genes)
        log1p of counts per 10,000.
    depth : ndarray, (n,)
        Log of the transcripts of the spot.
    """

    spots: pd.DataFrame
    features: np.ndarray
    expression: pd.DataFrame
    depth: np.ndarray


def list_blocks(spots: pd.DataFrame, *, block_spots: int) -> np.ndarray:
    """Name the square patch of tissue that each spot lies in; neighbouring spots are alike and are resampled together.

    Parameters
    ----------
    spots : DataFrame
        slide_id, array_x, array_y (1 = one pitch).
    block_spots : int
        Edge of a patch, in spots.

    Returns
    -------
    ndarray, (n,), str
    """
    places = (spots[["array_x", "array_y"]] // block_spots).astype(int).astype(str)
    return (spots["slide_id"] + " " + places["array_x"] + "/" + places["array_y"]).to_numpy(str)


def normalise_spots(
    counts: pd.DataFrame, spots: pd.DataFrame, *, min_share: float, min_transcripts: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn raw counts into log1p of counts per 10,000, for genes that enough spots of every section show.

    Parameters
    ----------
    counts : DataFrame
        slide_id, spot_id, gene, value; zeros left out.
    spots : DataFrame
        slide_id, spot_id, n_umi.
    min_share : float
        Spots of a section in which a gene must be seen, in each section.
    min_transcripts : int
        Spots with fewer are left out.

    Returns
    -------
    expression : DataFrame, (n_spots, n_genes)
    kept : DataFrame
        The rows of `spots` that stay, in the order of `expression`.

    Raises
    ------
    ModelError
        When no gene passes.
    """
    kept = spots[spots["n_umi"] >= min_transcripts].reset_index(drop=True)
    keyed = kept.assign(row=np.arange(len(kept)))[["slide_id", "spot_id", "row"]]
    joined = counts.merge(keyed, on=["slide_id", "spot_id"])
    seen = joined[joined["value"] > 0].groupby(["gene", "slide_id"], observed=True).size().unstack(fill_value=0)
    sections = kept["slide_id"].value_counts()
    share = seen.reindex(columns=sections.index, fill_value=0) / sections
    genes = share.index[(share >= min_share).all(axis=1)]
    if not len(genes):
        msg = f"ModelError: no gene is seen in {min_share:.0%} of the spots of every section. Lower min_share."
        raise ModelError(msg)
    joined = joined[joined["gene"].isin(genes)]
    columns = pd.Index(sorted(genes))
    table = np.zeros((len(kept), len(columns)))
    table[joined["row"].to_numpy(), columns.get_indexer(joined["gene"])] = joined["value"].to_numpy(float)
    scaled = np.log1p(1e4 * table / kept["n_umi"].to_numpy(float)[:, None])
    return pd.DataFrame(scaled, columns=columns), kept


def encode_spots(
    slide: Slide, spots: pd.DataFrame, encoders: Sequence[Encoder], *, context: TileContext, window_um: float
) -> np.ndarray:
    """Describe a square around every spot of a slide.

    Parameters
    ----------
    slide : Slide
    spots : DataFrame
        x_l0, y_l0: centres, px of level 0.
    encoders : sequence of Encoder
    context : TileContext
    window_um : float
        Edge of the square; at the rim of the slide it is moved inside.

    Returns
    -------
    ndarray, (n_spots, d), float32
        Features of all encoders side by side.
    """
    edge = round(window_um / SPOT_MPP)
    width, height = (edge * SPOT_MPP / mpp for mpp in (slide.resolution.mpp_x, slide.resolution.mpp_y))
    tiles = []
    for x, y in spots[["x_l0", "y_l0"]].to_numpy(float):
        left = int(np.clip(round(x - width / 2), 0, slide.width - np.ceil(width)))
        top = int(np.clip(round(y - height / 2), 0, slide.height - np.ceil(height)))
        tiles.append(slide.read_region_l0(left, top, edge, edge, SPOT_MPP))
    stacked = np.stack(tiles)
    return np.concatenate([encoder.encode(stacked, context) for encoder in encoders], axis=1)


def add_surroundings(features: np.ndarray, spots: pd.DataFrame) -> np.ndarray:
    """Put the mean features of a spot's neighbours beside its own.

    Parameters
    ----------
    features : ndarray, (n, d)
    spots : DataFrame
        slide_id, array_x, array_y.

    Returns
    -------
    ndarray, (n, 2 d)
        A spot without neighbours stands beside itself.
    """
    from scipy.spatial import cKDTree

    around = features.copy()
    for rows in spots.groupby("slide_id").indices.values():
        tree = cKDTree(spots[["array_x", "array_y"]].to_numpy(float)[rows])
        for row, near in zip(rows, tree.query_ball_point(tree.data, NEIGHBOURS), strict=True):
            others = rows[near][rows[near] != row]
            if len(others):
                around[row] = features[others].mean(axis=0)
    return np.concatenate([features, around], axis=1)


def standardise_by_slide(features: np.ndarray, slides: np.ndarray) -> np.ndarray:
    """Centre and scale every feature within its slide: stain and scanner differ, and no label is needed for it.

    Parameters
    ----------
    features : ndarray, (n, d)
    slides : ndarray, (n,)

    Returns
    -------
    ndarray, (n, d)
    """
    scaled = np.empty(features.shape)
    for name in np.unique(slides):
        rows = slides == name
        spread = features[rows].std(axis=0)
        centred = features[rows] - features[rows].mean(axis=0)
        scaled[rows] = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return scaled


def predict_spots(data: SpotSet, *, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predict all genes of test spots by a ridge, and their depth by another.

    Parameters
    ----------
    data : SpotSet
    train, test : ndarray, (n,), bool
        Disjoint, and of other sections.

    Returns
    -------
    predicted : ndarray, (n_test, n_genes)
    depth : ndarray, (n_test, n_genes)
        The predicted depth, turned around for genes that fall with depth in the training spots.
    """
    blocks = data.spots["block"].to_numpy()[train]
    trainer = RidgeTrainer(data.features[train], groups=blocks)
    predicted = trainer.fit(data.expression.to_numpy()[train]).predict(data.features[test])
    of_depth = fit_ridge(data.features[train], data.depth[train, None], groups=blocks).predict(data.features[test])
    sign = np.sign(compute_pearson_columns(data.expression.to_numpy()[train], data.depth[train, None]))
    return predicted, of_depth * np.where(sign == 0, 1, sign)


def remove_depth(values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Take a straight line in depth out of every column.

    Parameters
    ----------
    values : ndarray, (n, k)
    depth : ndarray, (n,) or (n, k)

    Returns
    -------
    ndarray, (n, k)
    """
    centred = depth - depth.mean(axis=0)
    centred = centred[:, None] if centred.ndim == 1 else centred
    slope = (centred * values).sum(axis=0) / (centred**2).sum(axis=0)
    return values - values.mean(axis=0) - slope * centred


def judge_spots(
    data: SpotSet, *, train: np.ndarray, test: np.ndarray, n_boot: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Judge every gene on test spots, within sections, with intervals that resample patches of tissue.

    Parameters
    ----------
    data : SpotSet
    train, test : ndarray, (n,), bool
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    DataFrame
        gene; r; partial_r, given the measured depth; depth_r, of the model that predicts depth alone; gain, r less the
        size of depth_r, so that depth is beaten whatever its sign; each with _low and _high; n, n_blocks. Measured and
        predicted values are centred within a section first, so that no level between sections passes for agreement.
    """
    predicted, of_depth = predict_spots(data, train=train, test=test)
    slides = data.spots["slide_id"].to_numpy()[test]
    truth = _centre(data.expression.to_numpy()[test], slides)
    values = {"predicted": _centre(predicted, slides), "depth": _centre(of_depth, slides)}
    measured = _centre(data.depth[test][:, None], slides)[:, 0]
    blocks = data.spots["block"].to_numpy()[test]
    counts = draw_bootstrap_counts(len(truth), n_boot=n_boot, rng=rng, clusters=blocks)
    counts = np.vstack([np.ones(len(truth)), counts])
    left, right = (remove_depth(v, measured) for v in (truth, values["predicted"]))
    found = {
        "r": correlate_weighted(truth, values["predicted"], counts),
        "partial_r": correlate_weighted(left, right, counts),
        "depth_r": correlate_weighted(truth, values["depth"], counts),
    }
    found["gain"] = found["r"] - np.abs(found["depth_r"])
    table = pd.DataFrame({"gene": data.expression.columns})
    for name, samples in found.items():
        bounds = np.array([compute_percentile_interval(column) for column in samples[1:].T])
        table[name], table[f"{name}_low"], table[f"{name}_high"] = samples[0], bounds[:, 0], bounds[:, 1]
    return table.assign(n=len(truth), n_blocks=len(np.unique(blocks)))


def _centre(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    centred = np.empty(values.shape)
    for name in np.unique(groups):
        centred[groups == name] = values[groups == name] - values[groups == name].mean(axis=0)
    return centred


def correlate_weighted(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson correlation of matching columns in every resample.

    Parameters
    ----------
    a, b : ndarray, (n, k)
    counts : ndarray, (n_boot, n)

    Returns
    -------
    ndarray, (n_boot, k)
        NaN where a side is constant.
    """
    total = counts.sum(axis=1, keepdims=True)
    mean_a, mean_b = counts @ a / total, counts @ b / total
    cross = counts @ (a * b) / total - mean_a * mean_b
    variance = (counts @ a**2 / total - mean_a**2) * (counts @ b**2 / total - mean_b**2)
    return np.divide(cross, np.sqrt(np.maximum(variance, 0)), out=np.full(cross.shape, np.nan), where=variance > 1e-24)
