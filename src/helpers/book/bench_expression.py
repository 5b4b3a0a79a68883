"""How long many genes take: five folds of a cohort of the size of TCGA-BRCA, and the curve over the number of genes."""

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from helpers.book.bench_arms import N_CASES, N_FOLDS, SEED, draw_study, draw_tiles

if TYPE_CHECKING:
    import pandas as pd

GENE_COUNTS: Final = (50, 500, 5_000, 20_000)
BOUND_S: Final = 180.0
"""Fifty genes on five folds, on 2 cores."""
BOUND_GIB: Final = 8.0
"""Peak memory with twenty thousand genes."""


def draw_expression(n_genes: int) -> "pd.DataFrame":
    """Draw expression for the cases of `draw_study`: its eight factors, which the features show, and noise.

    Parameters
    ----------
    n_genes : int

    Returns
    -------
    DataFrame, (n_cases, n_genes)
    """
    import numpy as np
    import pandas as pd

    latent, _, site = draw_tiles(np.random.default_rng(SEED))
    rng = np.random.default_rng(20262)
    mixing = rng.normal(size=(8, n_genes))
    values = latent @ mixing + 2 * rng.normal(size=(N_CASES, n_genes))
    return pd.DataFrame(values, index=site.index, columns=[f"g{i:05d}" for i in range(n_genes)])


def measure_expression(*, workers: int = 2) -> list[dict[str, Any]]:
    """Time fifty genes on five folds, and one fold over a growing number of genes, each in a process of its own.

    Parameters
    ----------
    workers : int
        Threads.

    Returns
    -------
    list of dict
        Rows of bench.json: seconds of the wall and of the processor, peak memory in GiB.
    """
    import torch  # noqa: F401 - its import is no work of a fit

    from helpers.book.bench import make_row
    from helpers.models.expression import predict_genes

    study, _ = draw_study()
    wall, busy = time.perf_counter(), time.process_time()
    predict_genes(study, draw_expression(50), ["multi_task"], workers=workers)
    name = f"expression/50_genes_{N_FOLDS}_folds"
    rows = [make_row(f"{name}/wall", time.perf_counter() - wall, "s", bound=BOUND_S)]
    rows.append(make_row(f"{name}/processor", time.process_time() - busy, "s", bound=2 * BOUND_S))
    curve = {count: measure_one(count) for count in GENE_COUNTS}
    for count, (seconds, gib) in curve.items():
        rows.append(make_row(f"expression/{count}_genes_1_fold/processor", seconds, "s"))
        rows.append(make_row(f"expression/{count}_genes_1_fold/memory", gib, "GiB", bound=BOUND_GIB))
    first, last = GENE_COUNTS[0], GENE_COUNTS[-1]
    growth = curve[last][0] / curve[first][0]
    rows.append(
        make_row(
            "expression/growth", growth, "x", ratio=growth / (last / first), compared_with="growth in genes", bound=1.0
        )
    )
    return rows


def measure_one(n_genes: int) -> tuple[float, float]:
    """Fit one fold in a fresh process, and ask it for its time and its peak memory.

    Parameters
    ----------
    n_genes : int

    Returns
    -------
    seconds : float
        Of the processor, without imports and the drawing of data.
    gib : float
        Largest resident memory.
    """
    code = f"from helpers.book.bench_expression import fit_one; fit_one({n_genes})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, gib = done.stdout.split()[-2:]
    return float(seconds), float(gib)


def fit_one(n_genes: int) -> None:
    """Fit one fold and predict its cases; print seconds of the processor and peak memory in GiB.

    Parameters
    ----------
    n_genes : int
    """
    import resource

    import torch  # noqa: F401 - its import is no work of a fit

    from helpers.models.hotspots import list_hotspot_arms
    from helpers.models.study import limit_threads

    study, _ = draw_study()
    labels = draw_expression(n_genes).to_numpy()
    train, test = study.locate(0, 0)
    busy = time.process_time()
    with limit_threads():  # as folds run in the chapter; waiting threads would count as work
        fitted = study.prepare(list_hotspot_arms()["multi_task"], 0, 0).fit(labels[train])
        fitted.predict(study.bags.take(test))
    seconds = time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)
    print(f"{seconds:.2f} {peak:.2f}")
