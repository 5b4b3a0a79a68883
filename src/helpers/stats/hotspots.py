"""Maps of tiles, judged: whether they point at planted places, and whether the model leans on what they show.

A map gives every tile of a slide a number. It is judged inside tumour only, since telling tumour from fat is no
hotspot; slide by slide, since levels differ between slides; and beside maps that know nothing.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from helpers.core.errors import StatsError
from helpers.stats.correlation import compute_spearman_columns
from helpers.stats.resampling import compute_percentile_interval, draw_bootstrap_counts

TOP_SHARE = 0.1
"""Share of tiles whose enrichment is measured."""
MIN_TILES = 10
"""Tiles inside tumour that a slide needs to be judged."""
QUANTITIES = ("auroc", "enrichment", "distance_tiles")

Predict = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Bags to predictions, (n_bags,)."""


def compute_auroc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Chance that a positive scores above a negative; ties count half.

    Parameters
    ----------
    positive : ndarray, (n,), bool
    scores : ndarray, (n,)

    Returns
    -------
    float
        NaN where one of the two is absent.
    """
    return float(compute_auroc_columns(positive, scores[:, None])[0])


def compute_auroc_columns(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Chance that a positive scores above a negative, for many scores of the same tiles; ties count half.

    Parameters
    ----------
    positive : ndarray, (n,), bool
    scores : ndarray, (n, k)

    Returns
    -------
    ndarray, (k,)
        NaN where positives or negatives are absent.
    """
    from scipy.stats import rankdata

    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return np.full(scores.shape[1], np.nan)
    ranks = rankdata(scores, axis=0)[positive].sum(axis=0)
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def judge_map(
    scores: np.ndarray,
    truth: np.ndarray,
    *,
    hot_share: float = 0.2,
    centres: np.ndarray | None = None,
    peaks: np.ndarray | None = None,
    tile: float = 1.0,
) -> dict[str, float]:
    """Judge one map on the tiles inside the tumour of one slide.

    Parameters
    ----------
    scores, truth : ndarray, (n_tiles,)
        Of the map, and what was planted.
    hot_share : float
        The tiles with the highest planted values that count as hot.
    centres : ndarray, (n_tiles, 2), optional
        Of the tiles.
    peaks : ndarray, (n_peaks, 2), optional
        Of what was planted.
    tile : float
        Edge of a tile, in the unit of `centres`.

    Returns
    -------
    dict
        auroc (hot against other tiles), enrichment (share of hot tiles in the top tenth of the map over their share in
        all), distance_tiles (from the highest tile to the nearest peak, in tile widths; a perfect map has 0.38 on
        average, since a peak lies anywhere in its tile), distance_any (the same of all tiles, averaged), n_tiles. NaN
        where there are fewer than 10 tiles, or no peak. Tiles of one score are taken in no order: what a random order
        among them would give on average.
    """
    found = dict.fromkeys((*QUANTITIES, "distance_any"), float("nan")) | {"n_tiles": float(len(scores))}
    if len(scores) < MIN_TILES:
        return found
    hot = truth > np.quantile(truth, 1 - hot_share)
    found["auroc"] = compute_auroc(hot, scores)
    if hot.any():
        found["enrichment"] = float(_weigh_top(scores, max(1, round(TOP_SHARE * len(scores)))) @ hot / hot.mean())
    if centres is not None and peaks is not None and len(peaks):
        distance = np.sqrt(((centres[:, None] - peaks) ** 2).sum(axis=2)).min(axis=1) / tile
        found["distance_tiles"], found["distance_any"] = float(_weigh_top(scores, 1) @ distance), float(distance.mean())
    return found


def _weigh_top(scores: np.ndarray, n_top: int) -> np.ndarray:
    """Weights of the highest tiles, summing to 1; tiles that tie at the edge share what is left, in no order."""
    edge = np.partition(scores, len(scores) - n_top)[len(scores) - n_top]
    above, tied = scores > edge, scores == edge
    return (above + tied * (n_top - above.sum()) / tied.sum()) / n_top


def summarise_maps(
    judged: pd.DataFrame, *, by: Sequence[str] = ("map",), n_boot: int = 1000, rng: np.random.Generator
) -> pd.DataFrame:
    """Average over slides, with intervals that resample cases.

    Parameters
    ----------
    judged : DataFrame
        One row per slide and map: the columns of `by`, case_id and those of `judge_map`.
    by : sequence of str
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    DataFrame
        by, quantity, value, ci_low, ci_high, n (slides), n_cases.
    """
    rows = []
    for key, group in judged.groupby(list(by), sort=False):
        named = dict(zip(by, key, strict=True))
        for quantity in [*QUANTITIES, "distance_any"]:
            known = group.dropna(subset=quantity)
            row = named | {"quantity": quantity, "n": len(known), "n_cases": known["case_id"].nunique()}
            if row["n_cases"] > 1:
                clusters = known["case_id"].to_numpy()
                counts = draw_bootstrap_counts(len(known), n_boot=n_boot, rng=rng, clusters=clusters)
                low, high = compute_percentile_interval(counts @ known[quantity].to_numpy() / counts.sum(axis=1))
                row |= {"value": float(known[quantity].mean()), "ci_low": low, "ci_high": high}
            rows.append(row)
    columns = [*by, "quantity", "value", "ci_low", "ci_high", "n", "n_cases"]
    return pd.DataFrame(rows).reindex(columns=columns)


def compute_entropy(attention: np.ndarray) -> np.ndarray:
    """Say how widely attention is spread: 1 over all tiles alike, 0 on a single one.

    Parameters
    ----------
    attention : ndarray, (n_tiles, k)
        Columns sum to 1.

    Returns
    -------
    ndarray, (k,)
        Entropy over its largest possible value, log n.
    """
    if len(attention) < 2:
        return np.ones(attention.shape[1])
    logged = np.log(attention, out=np.zeros_like(attention), where=attention > 0)
    return -(attention * logged).sum(axis=0) / np.log(len(attention))


def compare_maps(maps: np.ndarray) -> float:
    """Mean rank correlation of several maps of one slide, over all pairs of them.

    Parameters
    ----------
    maps : ndarray, (n_tiles, n_maps)
        By models of other splits, or other seeds.

    Returns
    -------
    float
        NaN where fewer than two of them vary.
    """
    pairs = correlate_maps(maps)[np.triu_indices(maps.shape[1], 1)]
    return float(np.nanmean(pairs)) if np.isfinite(pairs).any() else float("nan")


def correlate_maps(maps: np.ndarray) -> np.ndarray:
    """Rank correlation of every pair of maps, or of the maps of every pair of genes.

    Parameters
    ----------
    maps : ndarray, (n_tiles, k)

    Returns
    -------
    ndarray, (k, k)
    """
    k = maps.shape[1]
    left, right = np.meshgrid(np.arange(k), np.arange(k), indexing="ij")
    return compute_spearman_columns(maps[:, left.ravel()], maps[:, right.ravel()]).reshape(k, k)


def measure_deletion(
    predict: Predict,
    bags: Sequence[np.ndarray],
    orders: Mapping[str, Sequence[np.ndarray]],
    *,
    shares: Sequence[float] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
    n_random: int = 5,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Take tiles away and predict again: a map that shows what the model leans on makes the prediction fall faster.

    Parameters
    ----------
    predict : callable
        Bags to predictions.
    bags : sequence of ndarray, (n_tiles, d)
    orders : mapping of str to sequence of ndarray, (n_tiles,)
        By map: which tile of each bag is taken first, second, ...
    shares : sequence of float
        Of the tiles taken; one tile at least stays.
    n_random : int
        Random orders, averaged, as map 'random'.
    rng : numpy Generator

    Returns
    -------
    DataFrame
        map, bag, share, y_pred.

    Raises
    ------
    StatsError
        When an order does not name every tile once.
    """
    every = {name: list(found) for name, found in orders.items()}
    every |= {f"random {i}": [rng.permutation(len(bag)) for bag in bags] for i in range(n_random)}
    rows, kept = [], []
    for name, found in every.items():
        for b, (bag, order) in enumerate(zip(bags, found, strict=True)):
            if not np.array_equal(np.sort(order), np.arange(len(bag))):
                msg = f"StatsError: the order of map '{name}' for bag {b} does not name each of {len(bag)} tiles once."
                raise StatsError(msg)
            for share in shares:
                rows.append({"map": name.split(" ")[0], "bag": b, "share": share})
                kept.append(bag[np.sort(order[min(len(bag) - 1, round(share * len(bag))) :])])
    table = pd.DataFrame(rows).assign(y_pred=np.asarray(predict(kept), float))
    return table.groupby(["map", "bag", "share"], sort=False, as_index=False)["y_pred"].mean()


def summarise_deletion(curves: pd.DataFrame, *, n_boot: int = 1000, rng: np.random.Generator) -> pd.DataFrame:
    """Average the fall over bags, and its area beyond that of random removal.

    Parameters
    ----------
    curves : DataFrame
        From `measure_deletion`, with map 'random'.
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    DataFrame
        map, share, fall (mean of the prediction less that of the whole bag), ci_low, ci_high, beyond_random (mean over
        shares of how much further it falls), beyond_low, beyond_high, n.
    """
    wide = curves.pivot(index="bag", columns=["map", "share"], values="y_pred")
    falls = {name: wide[name].sub(wide[name].iloc[:, 0], axis=0) for name in curves["map"].unique()}
    counts = draw_bootstrap_counts(len(wide), n_boot=n_boot, rng=rng)
    shares, rows = np.array(falls["random"].columns, float), []
    for name, fall in falls.items():
        excess = np.trapezoid((fall - falls["random"]).to_numpy(), shares, axis=1) / np.ptp(shares)
        low, high = compute_percentile_interval(counts @ excess / counts.sum(axis=1))
        area = {"beyond_random": float(excess.mean()), "beyond_low": low, "beyond_high": high, "n": len(wide)}
        for share in fall:
            samples = counts @ fall[share].to_numpy() / counts.sum(axis=1)
            low, high = compute_percentile_interval(samples)
            mean = float(fall[share].mean())
            rows.append({"map": name, "share": share, "fall": mean, "ci_low": low, "ci_high": high} | area)
    return pd.DataFrame(rows)
