"""What features give away: their main directions, and whether they tell the site.

A site that can be read off the features is a road by which a model may learn the site instead of the biology. The probe
is honest where a plain accuracy is not: cases never straddle folds, sites weigh alike, and the null comes from
relabelling cases and refitting.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core.errors import FeatureError
from helpers.features.encoders import Encoder
from helpers.features.extract import describe_context
from helpers.features.networks import TimmNetwork
from helpers.features.pipeline import share_cores
from helpers.features.store import FeatureBag, read_features
from helpers.slides.audit import fit_slide_normaliser, read_examples
from helpers.slides.tilefile import TileTable, read_tiles
from helpers.slides.tiling import use_one_thread_each

Floats = NDArray[np.float64]


NORMALISATIONS: Final[Mapping[str, Literal["macenko", "reinhard"]]] = MappingProxyType(
    {"Macenko": "macenko", "Reinhard": "reinhard"}
)


def average_tiles(paths: Sequence[Path], *, min_tissue: float = 0.0) -> Floats:
    """Return the mean of each slide's tiles.

    Parameters
    ----------
    paths : sequence of Path
        Feature files.
    min_tissue : float
        Tiles with less tissue are left out (unless that leaves none).

    Returns
    -------
    ndarray, (n_slides, d), float64
    """
    return np.stack([_average(read_features(path), min_tissue) for path in paths])


def _average(bag: FeatureBag, min_tissue: float) -> Floats:
    if bag.qc is None:
        return bag.features.mean(axis=0, dtype=np.float64)
    keep = bag.qc["tissue_fraction"].to_numpy() >= min_tissue
    return bag.features[keep if keep.any() else slice(None)].mean(axis=0, dtype=np.float64)


@dataclass(frozen=True)
class TileSample:
    """Tiles drawn from a cohort.

    Attributes
    ----------
    table : DataFrame
        slide_id, row (in the slide's file), x_l0, y_l0.
    features : ndarray, (n, d), float64
    """

    table: pd.DataFrame
    features: Floats


def sample_tiles(
    paths: Sequence[Path],
    slide_ids: Sequence[str],
    *,
    n_tiles: int,
    keep: Callable[[FeatureBag], NDArray[np.bool_]],
    rng: np.random.Generator,
) -> TileSample:
    """Draw the same number of tiles from every slide.

    Parameters
    ----------
    paths : sequence of Path
        Feature files.
    slide_ids : sequence of str
    n_tiles : int
        About how many in all.
    keep : callable, FeatureBag -> ndarray, (n_tiles,), bool
        Which tiles of a slide may be drawn.
    rng : Generator

    Returns
    -------
    TileSample
    """
    per_slide = max(1, n_tiles // len(paths))
    rows, blocks = [], []
    for slide_id, path in zip(slide_ids, paths, strict=True):
        bag = read_features(path)
        allowed = np.flatnonzero(keep(bag))
        drawn = np.sort(rng.choice(allowed, size=min(per_slide, len(allowed)), replace=False))
        corners = bag.coords_l0[drawn] if bag.coords_l0 is not None else np.full((len(drawn), 2), -1)
        rows += [(slide_id, int(row), int(x), int(y)) for row, (x, y) in zip(drawn, corners, strict=True)]
        blocks.append(bag.features[drawn])
    table = pd.DataFrame(rows, columns=["slide_id", "row", "x_l0", "y_l0"])
    return TileSample(table, np.concatenate(blocks).astype(np.float64))


def compute_pca(features: Floats, *, n_components: int = 2) -> tuple[Floats, Floats]:
    """Project standardised features on their main directions.

    Parameters
    ----------
    features : ndarray, (n, d)
    n_components : int

    Returns
    -------
    scores : ndarray, (n, n_components)
        Unit-free; the sign is chosen so that the largest loading is positive.
    share : ndarray, (n_components,)
        Of the variance.
    """
    centred = standardise(features, features)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(right[:n_components]).argmax(axis=1)
    sign = np.sign(right[np.arange(n_components), largest])
    scores = left[:, :n_components] * values[:n_components] * sign
    return scores, values[:n_components] ** 2 / np.square(values).sum()


def standardise(features: Floats, reference: Floats) -> Floats:
    """Centre and scale features by the mean and SD of reference rows; constant columns become 0.

    Parameters
    ----------
    features : ndarray, (n, d)
    reference : ndarray, (m, d)
        Training rows.

    Returns
    -------
    ndarray, (n, d)
    """
    sd = reference.std(axis=0)
    return (features - reference.mean(axis=0)) / np.where(sd > 1e-12 * (1 + np.abs(reference).max(axis=0)), sd, np.inf)


def probe_site(
    features: Floats,
    sites: Sequence[str],
    case_ids: Sequence[str],
    *,
    rng: np.random.Generator,
    n_folds: int = 5,
    n_permutations: int = 99,
    penalty: float = 10.0,
) -> dict[str, float]:
    """Ask a ridge classifier to tell the site of held-out cases.

    Parameters
    ----------
    features : ndarray, (n_slides, d)
    sites : sequence of str, n_slides
    case_ids : sequence of str, n_slides
        Slides of a case stay together, in folds and in relabelling.
    rng : Generator
    n_folds : int
    n_permutations : int
        Relabellings of cases; each refits every fold.
    penalty : float
        Of the ridge, on standardised features.

    Returns
    -------
    dict
        balanced_accuracy, chance (1 / sites), null_mean, null_q95, p_value, n_slides, n_cases, n_sites.

    Raises
    ------
    FeatureError
        When there are fewer than two sites, a case lies at two, or a site has fewer than two cases.
    """
    cases = _list_cases(sites, case_ids)
    codes, names = pd.factorize(cases["site"], sort=True)
    of_case = cases.index.get_indexer(pd.Index(case_ids))
    fold = _deal_folds(codes, n_folds, rng)[of_case]
    smoothers = [_fit_smoother(features, fold == number, penalty) for number in range(n_folds)]

    def score(labels: NDArray[np.int64]) -> float:
        truth = labels[of_case]
        called = np.empty_like(truth)
        for number, smoother in enumerate(smoothers):
            called[fold == number] = _call_sites(smoother, truth[fold != number], len(names))
        return float(np.mean([(called[truth == site] == site).mean() for site in range(len(names))]))

    observed = score(codes)
    null = np.array([score(rng.permutation(codes)) for _ in range(n_permutations)])
    return {
        "balanced_accuracy": observed,
        "chance": 1 / len(names),
        "null_mean": float(null.mean()),
        "null_q95": float(np.quantile(null, 0.95)),
        "p_value": float((1 + (null >= observed).sum()) / (1 + n_permutations)),
        "n_slides": float(len(sites)),
        "n_cases": float(len(cases)),
        "n_sites": float(len(names)),
    }


def _list_cases(sites: Sequence[str], case_ids: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame({"case_id": list(case_ids), "site": list(sites)}).drop_duplicates()
    counts = table["site"].value_counts()
    twice = table.loc[table["case_id"].duplicated(), "case_id"].tolist()
    if twice or len(counts) < 2 or counts.min() < 2:
        msg = (
            f"FeatureError: the site probe got {len(counts)} sites with {counts.to_dict()} cases and {len(twice)} "
            "cases at several sites, expected two sites or more with two cases each. Leave small sites out."
        )
        raise FeatureError(msg)
    return table.set_index("case_id")


def _deal_folds(codes: NDArray[np.int64], n_folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Deal the cases of each site to folds in turn, in random order."""
    fold = np.empty(len(codes), dtype=np.int64)
    start = 0
    for site in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == site))
        fold[members] = (start + np.arange(len(members))) % n_folds
        start += len(members)
    return fold


def _fit_smoother(features: Floats, held_out: NDArray[np.bool_], penalty: float) -> Floats:
    """Return the matrix that turns centred training labels into predictions of held-out rows."""
    train = standardise(features[~held_out], features[~held_out])
    test = standardise(features[held_out], features[~held_out])
    return np.asarray(test @ train.T @ np.linalg.inv(train @ train.T + penalty * np.eye(len(train))))


def _call_sites(smoother: Floats, labels: NDArray[np.int64], n_sites: int) -> NDArray[np.int64]:
    """Predict one indicator per site, each weighed so that sites count alike, and take the largest."""
    one_hot = np.eye(n_sites)[labels]
    share = np.maximum(one_hot.mean(axis=0), 1e-9)
    return np.asarray(((smoother @ (one_hot - share)) / np.sqrt(share)).argmax(axis=1))


def pick_spread(points: Floats, *, n: int) -> list[int]:
    """Pick points that lie far from each other: the one nearest the middle, then ever the farthest from those picked.

    Parameters
    ----------
    points : ndarray, (m, 2)
    n : int
        At most; fewer where there are fewer points.

    Returns
    -------
    list of int
        Rows of `points`.

    References
    ----------
    Gonzalez 1985, doi 10.1016/0304-3975(85)90224-5.
    """
    distance = np.linalg.norm(points - points.mean(axis=0), axis=1)
    picked = [int(distance.argmin())]
    nearest = np.linalg.norm(points - points[picked[0]], axis=1)
    while len(picked) < min(n, len(points)):
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[picked[-1]], axis=1))
    return picked


def encode_normalised(
    slides: pd.DataFrame, encoders: Sequence[Encoder], *, tiles_folder: Path, n_tiles: int, workers: int
) -> dict[tuple[str, str], Floats]:
    """Average features of a few tiles per slide, as scanned and after stain normalisation: the same tiles each time.

    Parameters
    ----------
    slides : DataFrame
        slide_id, path of slides with stain vectors.
    encoders : sequence of Encoder
    tiles_folder : Path
        Holds `<slide_id>.h5`.
    n_tiles : int
        Per slide.
    workers : int
        Threads.

    Returns
    -------
    dict of (encoder, version) to ndarray, (n_slides, d)
        Versions: 'as scanned', 'Macenko', 'Reinhard'.
    """

    def work(row: dict[str, Any]) -> dict[tuple[str, str], Floats]:
        share()
        table = read_tiles(tiles_folder / f"{row['slide_id']}.h5")
        return _average_versions(row["path"], table, encoders, n_tiles)

    networks = any(isinstance(encoder, TimmNetwork) for encoder in encoders)
    with (
        use_one_thread_each(workers),
        share_cores(workers if networks else None) as share,
        ThreadPoolExecutor(workers) as pool,
    ):
        found = list(pool.map(work, slides.to_dict("records")))
    return {key: np.stack([means[key] for means in found]) for key in found[0]}


def _average_versions(
    path: str | Path, table: TileTable, encoders: Sequence[Encoder], n_tiles: int
) -> dict[tuple[str, str], Floats]:
    tiles = read_examples(path, table, n_tiles=n_tiles)
    versions = {"as scanned": tiles}
    for name, method in NORMALISATIONS.items():
        versions[name] = fit_slide_normaliser(path, table, method, examples=tiles).apply(tiles)
    context = describe_context(table)
    return {
        (encoder.name, version): encoder.encode(pixels, context).mean(axis=0, dtype=np.float64)
        for encoder in encoders
        for version, pixels in versions.items()
    }
