"""Speed on this machine, measured in one run: what we do beside what it is compared with.

A benchmark is a function that returns rows; ratios are taken between measurements of the same run, since the machine
may be busy in another. Rows go to `results/bench/bench.json`, the machine to `machine.json` beside it.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from helpers.book import bench_arms, bench_expression, bench_features, bench_fusion, bench_peers, bench_slides
from helpers.core import paths
from helpers.core.errors import RunError
from helpers.core.progress import track

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

N_REPEATS = 3
Row = dict[str, Any]


def time_best(work: Callable[[], object], *, repeats: int = N_REPEATS) -> float:
    """Return the shortest of several timings, in seconds: the one least disturbed by others.

    Parameters
    ----------
    work : callable
    repeats : int

    Returns
    -------
    float
    """
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def make_row(
    name: str,
    value: float,
    unit: str,
    *,
    compared_with: str = "",
    ratio: float | None = None,
    bound: float | None = None,
) -> Row:
    """Return one row of bench.json.

    Parameters
    ----------
    name : str
        Path-like id.
    value : float
    unit : str
    compared_with : str
        What the ratio's denominator is.
    ratio : float, optional
        Ours over theirs.
    bound : float, optional
        What was aimed at: of the ratio where there is one, else of the value.

    Returns
    -------
    dict
    """
    return {"id": name, "value": value, "unit": unit, "compared_with": compared_with, "ratio": ratio, "bound": bound}


def measure_startup() -> list[Row]:
    """Time `histobook --help` and the import of the light layers.

    Returns
    -------
    list of dict
    """

    def start(*arguments: str) -> float:
        command = [sys.executable, *arguments]
        return time_best(lambda: subprocess.run(command, check=True, capture_output=True))

    light = "import helpers.core.provenance, helpers.cohort.tables, helpers.stats.survival"
    return [
        make_row("startup/help", start("-m", "helpers.book.cli", "--help"), "s", bound=0.5),
        make_row("startup/light_layers", start("-c", light), "s"),
    ]


def draw_texture(size: int) -> "NDArray[np.uint8]":
    """Return an image with the contrast of stained tissue, so that JPEG has something to do.

    Parameters
    ----------
    size : int
        Edge, px.

    Returns
    -------
    ndarray, (size, size, 3), uint8
    """
    import cv2
    import numpy as np

    rng = np.random.default_rng(20261)
    coarse = rng.normal(size=(size // 8, size // 8, 3)).astype("float32")
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    shade = np.array([200.0, 150.0, 190.0]) + 25.0 * smooth + rng.normal(0.0, 6.0, (size, size, 1))
    return np.clip(shade, 0, 255).astype("uint8")


def measure_cox() -> list[Row]:
    """Time a Cox model of five covariates on 2,000 cases, ours and by lifelines.

    Returns
    -------
    list of dict
    """
    import numpy as np
    import pandas as pd
    from lifelines import CoxPHFitter

    from helpers.stats.survival import fit_cox

    rng = np.random.default_rng(20261)
    covariates = pd.DataFrame(rng.normal(size=(2000, 5)), columns=[f"x{i}" for i in range(5)])
    hazard = np.exp(covariates.to_numpy() @ np.array([0.5, 0.3, 0.0, -0.2, 0.1]))
    time_months = np.round(rng.exponential(120.0 / hazard), 2) + 0.01
    event = time_months < 90.0
    observed = np.minimum(time_months, 90.0)
    table = covariates.assign(time=observed, event=event)

    ours = time_best(lambda: fit_cox(observed, event, covariates))
    theirs = time_best(lambda: CoxPHFitter().fit(table, "time", "event"))
    return [
        make_row("survival/cox_2000x5", ours, "s", compared_with="lifelines (theirs / ours)", ratio=theirs / ours),
        *measure_chapter_statistics(),
    ]


def measure_chapter_statistics(
    *, n_cases: int = 10_000, n_boot: int = 2_000, n_boot_concordance: int = 200
) -> list[Row]:
    """Time what chapter 04 computes for one score on a large cohort: curves, models, and their bootstraps.

    Parameters
    ----------
    n_cases : int
    n_boot : int
        Resamples of the Cox models: the score alone, high against low, and with six covariates.
    n_boot_concordance : int
        Resamples of Harrell's concordance.

    Returns
    -------
    list of dict
        One row per part, and their sum beside what was aimed at.
    """
    import numpy as np

    from helpers.stats.fast_cox import bootstrap_cox, fit_efron
    from helpers.stats.ipcw import bootstrap_concordance

    time_months, event, terms = draw_cohort(n_cases)
    high = (terms[["score"]] > 0) * 1.0

    def resample(design: "pd.DataFrame") -> Callable[[], object]:
        return lambda: bootstrap_cox(time_months, event, design, n_boot=n_boot, rng=np.random.default_rng(1))

    work: dict[str, Callable[[], object]] = {
        "curves_and_models": lambda: describe_cohort(time_months, event, terms),
        "boot_per_sd": resample(terms[["score"]]),
        "boot_high_vs_low": resample(high),
        "boot_adjusted": resample(terms),
        "boot_concordance": lambda: bootstrap_concordance(
            time_months, event, terms["score"], n_boot=n_boot_concordance, rng=np.random.default_rng(1)
        ),
    }
    seconds = {name: time_best(task, repeats=1) for name, task in work.items()}
    rows = [make_row(f"survival/{n_cases}/{name}", value, "s") for name, value in seconds.items()]
    one = time_best(lambda: fit_efron(time_months, event, terms))
    rows.append(make_row(f"survival/{n_cases}/newton_7_terms", one, "s"))
    return [*rows, make_row(f"survival/{n_cases}/chapter", sum(seconds.values()), "s", bound=60.0)]


def draw_cohort(n_cases: int) -> tuple["NDArray[np.float64]", "NDArray[np.bool_]", "pd.DataFrame"]:
    """Draw outcomes of cases with a score and six covariates; about a third have the event.

    Parameters
    ----------
    n_cases : int

    Returns
    -------
    time_months : ndarray, (n_cases,)
    event : ndarray, (n_cases,), bool
    terms : DataFrame, (n_cases, 7)
    """
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(20261)
    terms = pd.DataFrame(rng.normal(size=(n_cases, 7)), columns=["score", *(f"x{i}" for i in range(6))])
    happens = rng.exponential(150.0 * np.exp(-0.4 * terms["score"] - 0.2 * terms["x0"]))
    leaves = rng.uniform(12.0, 120.0, n_cases)
    return np.round(np.minimum(happens, leaves), 2), (happens <= leaves), terms


def describe_cohort(time_months: "NDArray[np.float64]", event: "NDArray[np.bool_]", terms: "pd.DataFrame") -> None:
    """Compute what chapter 04 reports once per score: curves, log-rank, models, proportional hazards, concordance.

    Parameters
    ----------
    time_months : ndarray, (n_cases,)
    event : ndarray, (n_cases,), bool
    terms : DataFrame, (n_cases, n_terms)
        `score` is one of them.
    """
    from helpers.stats import survival

    high = (terms[["score"]] > 0) * 1.0
    survival.fit_km(time_months, event, group=high["score"])
    survival.compare_logrank(time_months, event, high["score"])
    survival.check_proportional_hazards(time_months, event, terms)
    survival.compute_concordance(time_months, event, terms["score"])
    for design in (terms[["score"]], high, terms):
        survival.fit_cox(time_months, event, design)


BENCHMARKS: Mapping[str, Callable[[], list[Row]]] = MappingProxyType(
    {
        "startup": measure_startup,
        "slides": bench_slides.measure_reading,
        "gigapixel": bench_slides.measure_gigapixel,
        "features": bench_features.measure_extraction,
        "peers": bench_peers.measure_peers,
        "survival": measure_cox,
        "arms": bench_arms.measure_arms,
        "expression": bench_expression.measure_expression,
        "fusion": bench_fusion.measure_fusion,
    }
)


def run_benchmarks(*, only: Sequence[str] = (), folder: Path | None = None) -> list[Row]:
    """Run the benchmarks and write bench.json and machine.json.

    Parameters
    ----------
    only : sequence of str
        Names of benchmarks; all of them where empty. Rows of the others are kept as they were.
    folder : Path, optional
        `results/bench` by default.

    Returns
    -------
    list of dict
        All rows of bench.json.

    Raises
    ------
    RunError
        When a name is unknown.
    """
    unknown = sorted(set(only) - set(BENCHMARKS))
    if unknown:
        msg = f"RunError: no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}."
        raise RunError(msg)
    folder = folder or paths.results_dir() / "bench"
    chosen = [name for name in BENCHMARKS if not only or name in only]
    rows = [row for name in track(chosen, describe="benchmarks") for row in BENCHMARKS[name]()]
    earlier = paths.read_json(folder / "bench.json") if only and (folder / "bench.json").is_file() else []
    measured = {row["id"].split("/")[0] for row in rows}
    rows = [row for row in earlier if row["id"].split("/")[0] not in measured] + rows
    paths.write_json(rows, folder / "bench.json")
    paths.write_json(describe_machine(), folder / "machine.json")
    return rows


def describe_machine() -> dict[str, Any]:
    """Return what the numbers were measured on.

    Returns
    -------
    dict
        cpu, cores, system, python, date.
    """
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].split(":", 1)[1].strip() if named else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def print_rows(rows: Sequence[Row]) -> None:
    """Print the rows as a table.

    Parameters
    ----------
    rows : sequence of dict
    """
    for row in rows:
        ratio = f"{row['ratio']:.2f} x {row['compared_with']}" if row["ratio"] is not None else ""
        bound = f"bound {row['bound']:g}" if row["bound"] is not None else ""
        print(f"{row['id']:28} {row['value']:10.3g} {row['unit']:8} {ratio:40} {bound}".rstrip())
