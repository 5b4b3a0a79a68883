"""How long chapter 06 takes: the whole ablation table on a cohort of the size of TCGA-BRCA, on drawn numbers."""

import importlib
import time
from typing import TYPE_CHECKING, Any

from helpers.book.bench_arms import SEED, draw_tiles

if TYPE_CHECKING:
    from helpers.models.fusion_study import FusionStudy

N_GENES, N_FOLDS, SHARE = 50, 5, 0.28
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

    rng = np.random.default_rng(SEED)
    latent, tiles, site = draw_tiles(rng)
    signal, cases = latent[:, 0] + rng.normal(size=len(site)), site.index
    genes = pd.DataFrame(
        rng.normal(size=(len(site), N_GENES)), index=cases, columns=[f"G{i:02d}" for i in range(N_GENES)]
    )
    genes.iloc[:, :10] += signal[:, None]
    labels = pd.Series(
        (signal + latent[:, 1] > np.quantile(signal + latent[:, 1], 1 - SHARE)).astype(float), index=cases
    )
    splits = plan_splits(site.rename("site").reset_index(), n_folds=N_FOLDS, repeats=1, seed=1)
    groups = {f"GROUP_{k}": list(genes.columns[k::7]) for k in range(7)}
    return make_study(
        collect_bags(tiles), cases, genes, labels, groups=groups, splits=splits, site=site, seed=SEED, target="drawn"
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

    from helpers.book.bench import make_row
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
        make_row("fusion/ablation_table/wall", time.perf_counter() - wall, "s", bound=BOUND_S),
        make_row("fusion/ablation_table/processor", time.process_time() - busy, "s", bound=2 * BOUND_S),
    ]
    for arm in ("genes_linear", "late_fusion", "cross_attention"):
        busy = time.process_time()
        predict_fusion(study, [arm], workers=1)
        rows.append(make_row(f"fusion/{arm}/processor", time.process_time() - busy, "s"))
    return rows
