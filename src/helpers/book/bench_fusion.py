"""How long chapter 06 takes: the whole ablation table on a cohort of the size of TCGA-BRCA, on drawn numbers."""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.models.fusion_study import FusionStudy

N_CASES, N_SITES, N_FEATURES, N_GENES = 683, 22, 192, 50
MEAN_TILES, N_FOLDS, SHARE = 33, 5, 0.28
BOUND_S = 300.0
"""All arms on one partition, with intervals and paired differences, on 2 cores."""


def draw_study() -> "FusionStudy":
    """Draw a study like that of TCGA-BRCA: cases, sites, tiles per case, genes in seven groups, and a label in both.

    Returns
    -------
    FusionStudy
    """
    import numpy as np
    import pandas as pd

    from helpers.cohort.splits import plan_splits
    from helpers.models.bags import collect_bags
    from helpers.models.fusion_study import make_study

    rng = np.random.default_rng(20261)
    cases = pd.Index([f"{i:04d}" for i in range(N_CASES)], name="case_id")
    latent, mixing = rng.normal(size=(N_CASES, 8)), rng.normal(size=(8, N_FEATURES))
    sizes = 1 + rng.poisson(MEAN_TILES - 1, N_CASES)
    tiles = [
        (row @ mixing + rng.normal(size=(n, N_FEATURES)) * 3).astype("f4") for row, n in zip(latent, sizes, strict=True)
    ]
    signal = latent[:, 0] + rng.normal(size=N_CASES)
    genes = pd.DataFrame(
        rng.normal(size=(N_CASES, N_GENES)), index=cases, columns=[f"G{i:02d}" for i in range(N_GENES)]
    )
    genes.iloc[:, :10] += signal[:, None]
    labels = pd.Series(
        (signal + latent[:, 1] > np.quantile(signal + latent[:, 1], 1 - SHARE)).astype(float), index=cases
    )
    site = pd.Series([f"S{i % N_SITES:02d}" for i in range(N_CASES)], index=cases)
    splits = plan_splits(pd.DataFrame({"case_id": cases, "site": site.to_numpy()}), n_folds=N_FOLDS, repeats=1, seed=1)
    groups = {f"GROUP_{k}": list(genes.columns[k::7]) for k in range(7)}
    return make_study(
        collect_bags(tiles), cases, genes, labels, groups=groups, splits=splits, site=site, seed=20261, target="drawn"
    )  # fmt: skip


def measure_fusion(*, workers: int = 2) -> list[dict[str, Any]]:
    """Time the ablation table, and every arm by itself.

    Parameters
    ----------
    workers : int
        Threads.

    Returns
    -------
    list of dict
        Rows of bench.json: seconds of the wall and of the processor, the latter independent of what else runs.
    """
    import numpy as np

    from helpers.models.fusion_study import FUSION_ARMS, predict_fusion
    from helpers.stats.classification import compare_classifiers, compute_arm_performance

    for library in ("torch", "sklearn.model_selection", "sklearn.metrics"):  # their import is no work of an arm
        importlib.import_module(library)
    study, rng = draw_study(), np.random.default_rng(1)
    wall, busy = time.perf_counter(), time.process_time()
    predictions, _ = predict_fusion(study, FUSION_ARMS, workers=workers)
    compute_arm_performance(predictions, rng=rng, site=study.site)
    compare_classifiers(
        predictions, [("cross_attention", arm) for arm in FUSION_ARMS if arm != "cross_attention"], rng=rng
    )
    rows = [
        _row("fusion/ablation_table/wall", time.perf_counter() - wall, bound=BOUND_S),
        _row("fusion/ablation_table/processor", time.process_time() - busy, bound=2 * BOUND_S),
    ]
    for arm in ("genes_linear", "late_fusion", "cross_attention"):
        busy = time.process_time()
        predict_fusion(study, [arm], workers=1)
        rows.append(_row(f"fusion/{arm}/processor", time.process_time() - busy))
    return rows


def _row(name: str, value: float, *, bound: float | None = None) -> dict[str, Any]:
    return {"id": name, "value": value, "unit": "s", "compared_with": "", "ratio": None, "bound": bound}
