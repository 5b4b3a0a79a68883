"""From tiles to a case: pool the features, or the scores, of every tile of every slide of a case."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from helpers.core.errors import BagError
from helpers.core.progress import track

AGGREGATIONS = ("mean", "median", "p75", "mean_sd", "moments")
"""How a bag becomes one vector. `mean` alone keeps a linear score additive over tiles."""
MOMENT_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Quantiles that `moments` adds to mean and SD."""

ReadTiles = Callable[[str], np.ndarray]
"""A slide id to the features of its kept tiles, (n_tiles, d)."""


def pool_tiles(features: np.ndarray, *, aggregation: str = "mean") -> np.ndarray:
    """Pool the tiles of a bag into one vector.

    Parameters
    ----------
    features : ndarray, (n_tiles, d)
    aggregation : str
        mean, median, p75 (75th percentile of every feature), mean_sd (both, concatenated) or moments (mean, SD and
        the 10th, 25th, 50th, 75th and 90th percentile).

    Returns
    -------
    ndarray, (d,), (2 d,) for mean_sd or (7 d,) for moments, float64

    Raises
    ------
    BagError
        When the bag is empty, holds a missing value, or the aggregation is unknown.
    """
    features = np.asarray(features, float)
    if features.ndim != 2 or not len(features):
        msg = f"BagError: a bag of shape {features.shape} cannot be pooled; expected (n_tiles, d) with a tile at least."
        raise BagError(msg)
    if not np.isfinite(features).all():
        rows = int((~np.isfinite(features)).any(axis=1).sum())
        msg = (
            f"BagError: {rows} of {len(features)} tiles hold missing or infinite features. Drop them, or extract again."
        )
        raise BagError(msg)
    if aggregation == "mean_sd":
        return np.concatenate([features.mean(0), features.std(0)])
    if aggregation == "moments":
        quantiles = np.quantile(features, MOMENT_QUANTILES, axis=0)
        return np.concatenate([features.mean(0), features.std(0), quantiles.ravel()])
    return _aggregate(features, aggregation)


def pool_tile_scores(scores: np.ndarray, *, aggregation: str = "mean") -> float:
    """Pool tile scores into a slide's or a case's score.

    Parameters
    ----------
    scores : ndarray, (n_tiles,)
    aggregation : str
        mean, median or p75; the 75th percentile is what the published grade models use.

    Returns
    -------
    float

    Raises
    ------
    BagError
        When there is no tile, or the aggregation is unknown.
    """
    scores = np.asarray(scores, float)
    if not len(scores):
        msg = "BagError: a slide without tiles has no score. Loosen the tile filters, or leave the slide out."
        raise BagError(msg)
    return float(_aggregate(scores, aggregation))


def _aggregate(values: np.ndarray, aggregation: str) -> np.ndarray:
    if aggregation == "mean":
        return values.mean(axis=0)
    if aggregation in {"median", "p75"}:
        return np.quantile(values, {"median": 0.5, "p75": 0.75}[aggregation], axis=0)
    msg = f"BagError: aggregation '{aggregation}' is unknown; expected one of {', '.join(AGGREGATIONS)}."
    raise BagError(msg)


def pool_cases(slides: pd.DataFrame, read_tiles: ReadTiles, *, aggregation: str = "mean") -> pd.DataFrame:
    """Pool every case over all tiles of all its slides: one bag per case, not a mean of slide means.

    Parameters
    ----------
    slides : DataFrame
        slide_id, case_id.
    read_tiles : callable
        Slide id to (n_tiles, d); a slide may give none.
    aggregation : str

    Returns
    -------
    DataFrame, (n_cases, d)
        Index `case_id` in order of first appearance; cases without a single tile are absent.
        `attrs["n_tiles"]` holds the tiles per case.

    Raises
    ------
    BagError
        Names the case when its slides do not fit each other, or hold missing values.
    """
    return pool_cases_by(slides, lambda slide_id: {"all": read_tiles(slide_id)}, ["all"], aggregation=aggregation)[
        "all"
    ]


def pool_cases_by(
    slides: pd.DataFrame, read: Callable[[str], Mapping[str, np.ndarray]], names: Sequence[str], *,
    aggregation: str = "mean",
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Pool every case from each of several choices of its tiles; a slide is read once for all of them.

    Parameters
    ----------
    slides : DataFrame
        slide_id, case_id.
    read : callable
        Slide id to name to (n_tiles, d), such as `helpers.models.inputs.make_readers` returns.
    names : sequence of str
        Of the choices.
    aggregation : str

    Returns
    -------
    dict of str to DataFrame, (n_cases, d)
        As of `pool_cases`; a case is absent where a choice leaves it no tile.

    Raises
    ------
    BagError
        As of `pool_cases`.
    """
    pooled: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
    n_tiles: dict[str, dict[str, int]] = {name: {} for name in names}
    groups = slides.groupby("case_id", sort=False)["slide_id"]
    for case_id, slide_ids in track(groups, total=groups.ngroups, describe="pool tiles"):
        chosen = [read(slide_id) for slide_id in slide_ids]
        for name in names:
            bags = [tiles[name] for tiles in chosen]
            n_tiles[name][case_id] = sum(len(bag) for bag in bags)
            row = pool_case(bags, case_id=case_id, aggregation=aggregation)
            if row is not None:
                pooled[name][case_id] = row
    tables = {
        name: pd.DataFrame.from_dict(rows, orient="index").rename_axis("case_id") for name, rows in pooled.items()
    }
    for name, table in tables.items():
        table.attrs["n_tiles"] = n_tiles[name]
    return tables


def pool_case(bags: Sequence[np.ndarray], *, case_id: str, aggregation: str = "mean") -> np.ndarray | None:
    """Pool a case over all tiles of all its slides.

    Parameters
    ----------
    bags : sequence of ndarray, (n_tiles, d)
        Of its slides; any may be empty.
    case_id : str
        For messages.
    aggregation : str

    Returns
    -------
    ndarray, (D,), or None
        None where no slide has a tile.

    Raises
    ------
    BagError
        Names the case when its slides do not fit each other, or hold missing values.
    """
    widths = sorted({bag.shape[1] for bag in bags})
    if len(widths) > 1:
        msg = f"BagError: the slides of case '{case_id}' have {widths} features per tile. Use one encoder for all."
        raise BagError(msg)
    bag = np.concatenate(bags)
    if not len(bag):
        return None
    try:
        return pool_tiles(bag, aggregation=aggregation)
    except BagError as error:
        msg = f"BagError: case '{case_id}': {str(error).removeprefix('BagError: ')}"
        raise BagError(msg) from None
