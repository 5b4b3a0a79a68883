"""Hotspot maps of a cohort: tiles in um, every map of every held-out case, judged where the truth is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.core.progress import track
from helpers.features.store import FeatureBag
from helpers.models.arms import FittedArm
from helpers.models.expression import draw_random_attention, explain_slide
from helpers.models.hotspots import HotspotFit
from helpers.models.inputs import KeepTiles, locate_tiles, read_slide, select_tiles
from helpers.models.planted_maps import PlantedTiles, measure_planted
from helpers.models.study import Study, find_held_out
from helpers.phantom.generate import read_maps
from helpers.stats.hotspots import (
    MIN_TILES,
    compare_maps,
    compute_auroc_columns,
    compute_entropy,
    judge_map,
    measure_deletion,
)

MIN_SHARE = 0.25
"""Planted share of a gene's variance from which it counts as linked to what a slide shows."""


@dataclass(frozen=True)
class SlideTiles:
    """The tiles of a slide that a model reads, and where they lie.

    Parameters
    ----------
    slide_id, case_id : str
    features : ndarray, (n_tiles, d)
    coords_um, coords_l0 : ndarray, (n_tiles, 2)
        Upper left corners x, y.
    tile_um : float
    size_um : tuple of two floats, optional
    mpp : float
        Of level 0, um per px, as the tiles were read.
    planted : PlantedTiles, optional
        Where the truth is known.
    """

    slide_id: str
    case_id: str
    features: np.ndarray
    coords_um: np.ndarray
    coords_l0: np.ndarray
    tile_um: float
    size_um: tuple[float, float] | None
    mpp: float
    planted: PlantedTiles | None = None


def read_slide_tiles(
    files: pd.DataFrame, *, keep: KeepTiles | None = None, truth_dir: Path | None = None, **filters: Any
) -> list[SlideTiles]:
    """Read the tiles of every slide that states where they lie.

    Parameters
    ----------
    files : DataFrame
        slide_id, case_id, features_file.
    keep : callable, optional
        A further filter.
    truth_dir : Path, optional
        A phantom's folder of truth maps.
    **filters : Any
        Options of `select_tiles`.

    Returns
    -------
    list of SlideTiles
        Empty where the files state no coordinates.
    """
    slides = []
    rows = files.dropna(subset="features_file").itertuples()
    for row in track(list(rows), total=len(files), describe="locate tiles"):
        bag = read_slide(row.features_file, row.slide_id)
        located = locate_tiles(bag)
        if located is None or bag.coords_l0 is None:
            continue
        chosen = select_tiles(bag, **filters)
        chosen = chosen if keep is None else chosen & keep(row.slide_id, bag)
        if not chosen.any():
            continue
        coords = located.coords_um[chosen]
        maps = truth_dir / f"{row.slide_id}.npz" if truth_dir is not None else None
        planted = None
        if maps is not None and maps.is_file():
            planted = measure_planted(*read_maps(maps), coords_um=coords, tile_um=located.tile_um)
        place = (coords, bag.coords_l0[chosen], located.tile_um, located.size_um, float(bag.attributes["mpp_x"]))
        slides.append(SlideTiles(row.slide_id, row.case_id, bag.features[chosen], *place, planted))
    return slides


def keep_as_published(
    slides: pd.DataFrame, *, max_brightness: float | None, min_contrast: float | None, halve_duplicates: bool
) -> KeepTiles | None:
    """Return the published study's tile filters: no white tiles, none of low contrast, half of duplicated sections.

    Parameters
    ----------
    slides : DataFrame
        slide_id and, where sections may be duplicated, `duplicated` (bool: the glass holds the same section twice).
    max_brightness : float, optional
        Brighter tiles are white, grey levels 0 to 255.
    min_contrast : float, optional
        Variance of the tile's Laplacian below which it is left out.
    halve_duplicates : bool
        Of slides that are marked as duplicated, read the half with more tiles, along the longer side.

    Returns
    -------
    callable or None
        None where nothing is asked for.
    """
    twice = set(slides.loc[slides["duplicated"].eq(True), "slide_id"]) if "duplicated" in slides else set()
    if max_brightness is None and min_contrast is None and not (halve_duplicates and twice):
        return None

    def keep(slide_id: str, bag: FeatureBag) -> np.ndarray:
        kept = np.ones(len(bag.features), bool)
        if bag.qc is not None and max_brightness is not None:
            kept &= bag.qc["brightness"].to_numpy() <= max_brightness
        if bag.qc is not None and min_contrast is not None:
            kept &= bag.qc["focus_laplacian_var"].to_numpy() >= min_contrast
        if halve_duplicates and slide_id in twice and bag.coords_l0 is not None:
            kept &= find_fuller_half(bag.coords_l0)
        return kept

    return keep


def find_fuller_half(coords: np.ndarray) -> np.ndarray:
    """Say which tiles lie in the half of a slide that holds more of them, cut across its longer side.

    Parameters
    ----------
    coords : ndarray, (n_tiles, 2)

    Returns
    -------
    ndarray, (n_tiles,), bool
    """
    along = coords[:, int(np.argmax(np.ptp(coords, axis=0)))]
    first = along < (along.min() + along.max()) / 2
    return first if first.sum() >= len(first) / 2 else ~first


def find_truth(loadings: pd.DataFrame, genes: Sequence[str]) -> dict[str, str]:
    """Say which truth map shows what a gene loads on.

    Parameters
    ----------
    loadings : DataFrame
        truth/loadings.csv of a phantom.
    genes : sequence of str

    Returns
    -------
    dict of str to str
        Gene to proliferation or til; genes that load on neither are left out.
    """
    known = loadings.set_index("gene")[["proliferation", "til"]].abs()
    linked = list_linked(loadings)
    return {gene: str(known.loc[gene].idxmax()) for gene in genes if gene in linked}


def list_linked(loadings: pd.DataFrame) -> list[str]:
    """List the genes that owe a quarter of their planted variance or more to what a slide shows.

    Parameters
    ----------
    loadings : DataFrame
        gene, one column per factor (SD near 1), noise_sd; log2 units.

    Returns
    -------
    list of str
        Those that load on proliferation or lymphocytes; receptors and keratins load on axes that no slide draws.
    """
    squared = loadings[["proliferation", "luminal", "her2", "basal", "til", "batch", "noise_sd"]] ** 2
    share = squared[["proliferation", "til"]].sum(axis=1) / squared.sum(axis=1)
    return loadings.loc[share >= MIN_SHARE, "gene"].tolist()


def judge_slides(
    study: Study,
    fits: Sequence[FittedArm],
    slides: Sequence[SlideTiles],
    *,
    genes: Mapping[str, str],
    columns: Mapping[str, int],
    hot_share: float,
) -> pd.DataFrame:
    """Judge every map of every slide by models that did not see its case, and the tumour mask beside them.

    Parameters
    ----------
    study : Study
    fits : sequence of FittedArm
        Of the folds of the first partition.
    slides : sequence of SlideTiles
        Those without truth are skipped.
    genes : mapping of str to str
        Gene to its truth map.
    columns : mapping of str to int
        Gene to its place among the fit's targets.
    hot_share : float

    Returns
    -------
    DataFrame
        slide_id, case_id, target, map, and the fields of `judge_map`.
    """
    rows = []
    for slide in slides:
        if slide.planted is None or slide.planted.inside.sum() < MIN_TILES:
            continue
        own = find_held_out(study, slide.case_id, fits)
        maps = explain_slide(own, slide.features, columns=[columns[gene] for gene in genes])
        for place, (gene, truth) in enumerate(genes.items()):
            drawn = {name: values[:, place] for name, values in maps.items()}
            drawn["tumour_mask"] = slide.planted.values["tumour"].to_numpy()
            named = {"slide_id": slide.slide_id, "case_id": slide.case_id, "target": gene}
            rows += [named | {"map": name} | _judge(slide, v, truth, hot_share) for name, v in drawn.items()]
    return pd.DataFrame(rows)


def _judge(slide: SlideTiles, values: np.ndarray, truth: str, hot_share: float) -> dict[str, float]:
    planted = slide.planted
    assert planted is not None
    inside = planted.inside
    return judge_map(
        values[inside], planted.values[truth].to_numpy()[inside], hot_share=hot_share, peaks=planted.peaks_um[truth],
        centres=slide.coords_um[inside] + slide.tile_um / 2, tile=slide.tile_um,
    )  # fmt: skip


def judge_random(
    fit: HotspotFit,
    slides: Sequence[SlideTiles],
    *,
    truths: Sequence[str],
    hot_share: float,
    n_draws: int,
    seed: int,
) -> pd.DataFrame:
    """Judge the attention of nets that were drawn and never trained.

    Parameters
    ----------
    fit : HotspotFit
        Whose inputs are used.
    slides : sequence of SlideTiles
    truths : sequence of str
        proliferation, til.
    hot_share : float
    n_draws : int
    seed : int

    Returns
    -------
    DataFrame
        truth, draw, auroc: mean over slides, one row per untrained net.
    """
    found: dict[str, list[np.ndarray]] = {truth: [] for truth in truths}
    for slide in slides:
        planted = slide.planted
        if planted is None or planted.inside.sum() < MIN_TILES:
            continue
        drawn = draw_random_attention(fit, slide.features, n_draws=n_draws, rng=np.random.default_rng(seed))
        for truth, own in found.items():
            values = planted.values[truth].to_numpy()[planted.inside]
            own.append(compute_auroc_columns(values > np.quantile(values, 1 - hot_share), drawn[planted.inside]))
    means = {truth: np.nanmean(own, axis=0) if own else np.full(n_draws, np.nan) for truth, own in found.items()}
    rows = [{"truth": truth, "draw": i, "auroc": float(v)} for truth, own in means.items() for i, v in enumerate(own)]
    return pd.DataFrame(rows)


def delete_by_map(
    study: Study, fits: Sequence[FittedArm], *, column: int, max_cases: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Take away the tiles that maps put highest, case by case, by models that did not see the case.

    Parameters
    ----------
    study : Study
    fits : sequence of FittedArm
        Of the folds of the first partition.
    column : int
        The gene.
    max_cases : int
        Held-out cases taken, evenly over the folds.
    rng : numpy Generator

    Returns
    -------
    DataFrame
        As `measure_deletion` gives it; bags are numbered through.
    """
    folds, tables = study.list_folds([0]), []
    for number, ((repeat, fold), fit) in enumerate(zip(folds, fits, strict=True)):
        held = study.locate(repeat, fold)[1][: max(1, max_cases // len(folds))]
        bags = [study.bags[int(row)] for row in held]
        maps = [explain_slide([fit], bag, columns=[column]) for bag in bags]
        orders = {name: [np.argsort(-one[name][:, 0], kind="stable") for one in maps] for name in maps[0]}
        curves = measure_deletion(partial(_predict_one, fit, column), bags, orders, rng=rng)
        tables.append(curves.assign(bag=curves["bag"] + number * max_cases))
    return pd.concat(tables, ignore_index=True)


def _predict_one(fit: FittedArm, column: int, bags: Sequence[np.ndarray]) -> np.ndarray:
    return fit.predict(bags)[:, column]


def measure_stability(
    study: Study, fits: Sequence[HotspotFit], slides: Sequence[SlideTiles], *, columns: Mapping[str, int]
) -> pd.DataFrame:
    """Measure how far the maps of one slide agree between nets of other inner splits, and how wide attention spreads.

    Parameters
    ----------
    study : Study
    fits : sequence of HotspotFit
    slides : sequence of SlideTiles
    columns : mapping of str to int
        Gene to its place.

    Returns
    -------
    DataFrame
        slide_id, target, map (value, attention), agreement (mean rank correlation over pairs of nets), entropy (of the
        averaged attention; 1: all tiles alike).
    """
    rows = []
    for slide in slides:
        own = find_held_out(study, slide.case_id, fits)[0]
        assert isinstance(own, HotspotFit)
        places = list(columns.values())
        pairs = [net.explain_tiles(slide.features, columns=places) for net in split_nets(own, places)]
        entropy = compute_entropy(np.mean([pair[1] for pair in pairs], axis=0))
        for k, gene in enumerate(columns):
            for i, name in enumerate(("value", "attention")):
                agreement = compare_maps(np.stack([pair[i][:, k] for pair in pairs], axis=1))
                row = {"slide_id": slide.slide_id, "target": gene, "map": name, "agreement": agreement}
                rows.append(row | {"entropy": float(entropy[k])})
    return pd.DataFrame(rows)


def split_nets(fit: HotspotFit, columns: Sequence[int]) -> list[HotspotFit]:
    """Return the nets of a fit one by one.

    Parameters
    ----------
    fit : HotspotFit
    columns : sequence of int
        Genes that are asked for later; their nets must be as many.

    Returns
    -------
    list of HotspotFit
    """
    count = min(len(fit.nets[0 if fit.arm.multi_task else column]["w0"]) for column in columns)
    return [
        replace(fit, nets=tuple({name: value[m : m + 1] for name, value in net.items()} for net in fit.nets))
        for m in range(count)
    ]


def pick_gallery(
    study: Study,
    fits: Sequence[FittedArm],
    slides: Sequence[SlideTiles],
    *,
    columns: Mapping[str, int],
    n_bins: int,
    by: str = "attention",
) -> pd.DataFrame:
    """Pick, for every bin of predicted tile values, the tile that a map puts highest.

    Parameters
    ----------
    study : Study
    fits : sequence of FittedArm
    slides : sequence of SlideTiles
    columns : mapping of str to int
        Gene to its place.
    n_bins : int
        Of equal width between the 2nd and 98th percentile of the values.
    by : str
        The map; value where the arm has no attention.

    Returns
    -------
    DataFrame
        target, bin, y_pred (value of the tile), weight (attention times the number of tiles), slide_id, x_l0, y_l0,
        tile_um, mpp.
    """
    parts = []
    for slide in slides:
        maps = explain_slide(
            find_held_out(study, slide.case_id, fits), slide.features, columns=list(columns.values())
        )  # fmt: skip
        weight = maps.get(by, maps["value"])
        for k, gene in enumerate(columns):
            parts.append(pd.DataFrame({
                "target": gene, "y_pred": maps["value"][:, k], "weight": weight[:, k] * len(weight),
                "slide_id": slide.slide_id, "x_l0": slide.coords_l0[:, 0], "y_l0": slide.coords_l0[:, 1],
                "tile_um": slide.tile_um, "mpp": slide.mpp,
            }))  # fmt: skip
    tiles, picked = pd.concat(parts, ignore_index=True), []
    for _, own in tiles.groupby("target", sort=False):
        low, high = np.quantile(own["y_pred"], [0.02, 0.98])
        edges = np.linspace(float(low), float(high), n_bins + 1)
        bins = np.clip(np.digitize(own["y_pred"], edges) - 1, 0, n_bins - 1)
        ranked = own.assign(bin=bins).sort_values("weight", ascending=False, kind="stable")
        picked.append(ranked.groupby("bin").head(1).sort_values("bin"))
    return pd.concat(picked, ignore_index=True)
