"""How long the arms of chapter 03 take: ten partitions of a cohort of the size of TCGA-BRCA, on drawn features."""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from helpers.models.study import Study

N_CASES, N_SITES, N_FEATURES = 683, 22, 192
MEAN_TILES = 33
SEED = 20261
N_PARTITIONS, N_FOLDS = 10, 5
BOUND_S = 300.0
"""All arms on ten partitions, on 2 cores."""


def draw_tiles(rng: "np.random.Generator") -> "tuple[np.ndarray, list[np.ndarray], pd.Series]":
    """Draw cases like those of TCGA-BRCA: eight factors of each, tiles that show them, and its site.

    Parameters
    ----------
    rng : numpy Generator

    Returns
    -------
    latent : ndarray, (n_cases, 8)
    tiles : list of ndarray, (n_tiles, d), float32
    site : Series
        By case_id.
    """
    import pandas as pd

    cases = pd.Index([f"{i:04d}" for i in range(N_CASES)], name="case_id")
    latent, mixing = rng.normal(size=(N_CASES, 8)), rng.normal(size=(8, N_FEATURES))
    sizes = 1 + rng.poisson(MEAN_TILES - 1, N_CASES)
    tiles = [
        (row @ mixing + rng.normal(size=(n, N_FEATURES)) * 3).astype("f4") for row, n in zip(latent, sizes, strict=True)
    ]
    return latent, tiles, pd.Series([f"S{i % N_SITES:02d}" for i in range(N_CASES)], index=cases)


def draw_study() -> "tuple[Study, Any]":
    """Draw a study like that of TCGA-BRCA: cases, sites, tiles per case and features per tile.

    Returns
    -------
    study : Study
    measure : callable
        To two targets.
    """
    import numpy as np
    import pandas as pd

    from helpers.cohort.splits import plan_splits
    from helpers.models.bags import collect_bags
    from helpers.models.study import Study

    rng = np.random.default_rng(SEED)
    latent, tiles, site = draw_tiles(rng)
    splits = plan_splits(site.rename("site").reset_index(), n_folds=N_FOLDS, repeats=N_PARTITIONS, seed=1)
    noise = rng.normal(size=(N_CASES, 2))
    targets = pd.DataFrame(latent[:, :2] + noise, index=site.index, columns=["prolif11", "MKI67"])
    return Study(collect_bags(tiles), site.index, splits, site, SEED), lambda _: targets


def measure_arms(*, workers: int = 2, partitions: int = N_PARTITIONS) -> list[dict[str, Any]]:
    """Time every arm on the folds of ten partitions, and all of them together.

    Parameters
    ----------
    workers : int
        Threads.
    partitions : int
        Fewer for a quick look; times are scaled to ten.

    Returns
    -------
    list of dict
        Rows of bench.json: seconds of the wall and of the processor, the latter independent of what else runs.
    """
    from helpers.book.bench import make_row
    from helpers.models.arms import EnsembleArm, list_arms
    from helpers.models.study import predict_arms

    for library in ("torch", "sklearn.svm"):  # their import is no work of an arm
        importlib.import_module(library)
    study, measure = draw_study()
    scale = N_PARTITIONS / partitions
    rows = []
    wall, busy = time.perf_counter(), time.process_time()
    predict_arms(study, measure, list(list_arms()), repeats=range(partitions), workers=workers)
    name, wall, busy = "arms/all_on_10_partitions", time.perf_counter() - wall, time.process_time() - busy
    rows.append(make_row(f"{name}/wall", wall * scale, "s", bound=BOUND_S))
    rows.append(make_row(f"{name}/processor", busy * scale, "s", bound=2 * BOUND_S))
    for name, arm in list_arms().items():
        if isinstance(arm, EnsembleArm):
            continue
        busy = time.process_time()
        predict_arms(study, measure, [name], repeats=[0], workers=1)
        rows.append(make_row(f"arms/{name}/processor", (time.process_time() - busy) * N_PARTITIONS, "s"))
    return rows
