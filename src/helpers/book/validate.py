"""Is the book right on average? Planted truth against estimates over many phantom cohorts; none is picked.

One cohort says little: its 50 external cases alone move a correlation by 0.1. So whole cohorts are drawn from
consecutive seeds, each goes through the helpers of chapters 00 to 04 with the parameters of the phantom profile, and
means with their intervals over seeds are reported, beside what the planted model allows. Table-only cohorts, which
cost milliseconds, say how often a confidence interval covers the truth.

`histobook validate` runs it; a seed that was measured with the same key (specs, code, libraries) is not run again.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.book.validate_seed import BookSpecs, measure_seed, plan_specs
from helpers.core import paths
from helpers.core.progress import track
from helpers.core.provenance import list_versions
from helpers.phantom.estimands import draw_scored_cases, find_estimand, write_estimands
from helpers.phantom.population import open_streams
from helpers.stats.cox import Scale, estimate_hazard_ratio, fit_cutoff

FIRST_SEED: Final = 70_001
"""Seeds are this and the following ones: fixed here, and none of them the book's."""
BOUNDS: Final[dict[str, tuple[str, float]]] = {
    "external/ratio_to_ceiling/prolif11": (">=", 0.85),
    "external/spearman_mean_colour/prolif11": ("<=", 0.35),
    "external/margin_over_null_q99/prolif11": ("interval above", 0.0),
    "oof/margin_over_null_q99/prolif11": ("interval above", 0.0),
}
"""What the means must satisfy.

That every single cohort exceeds the 99th percentile of its null cannot be asked of 50 external cases: a permuted fit
still lies along the main directions of the features, so its null is wide (percentiles of 0.37 to 0.69 were seen). Asked
is that the correlation exceeds it on average, by an interval that leaves 0 out.

The log hazard ratios come from the same few cohorts, so their errors move together and their intervals are a family:
each holds where its simultaneous 95 % interval (Bonferroni) covers 0.
"""


def validate_phantom(
    *,
    n_seeds: int = 10,
    out_dir: str | Path | None = None,
    slide_um: float | None = None,
    workers: int = 2,
    n_tables: int = 1_000,
    keep_slides: bool = False,
    profile: str = "phantom",
) -> pd.DataFrame:
    """Measure `n_seeds` rendered cohorts and `n_tables` table-only ones, and compare them with what was planted.

    Parameters
    ----------
    n_seeds : int
        Cohorts that are drawn, tiled and described; seeds `FIRST_SEED` onwards. 0 measures tables only.
    out_dir : str or Path, optional
        Default results/validate.
    slide_um : float, optional
        Edge of the slides, um; default that of the profile.
    workers : int
    n_tables : int
        Table-only cohorts behind the coverage of the confidence intervals.
    keep_slides : bool
        Keep each cohort's slides and features (0.5 GB per seed); otherwise they go once the seed is measured.
    profile : str
        Whose parameters are used.

    Returns
    -------
    DataFrame
        One row per quantity: id, mean, sd, ci_low, ci_high (95 %, over seeds), smallest, largest, n, reference (mean
        truth), bound, holds. The same is written to validate.json, validate.csv and validate.md.
    """
    out_dir = paths.resolve(out_dir or "results/validate")
    specs = plan_specs(profile, seed=FIRST_SEED, slide_um=slide_um)
    estimands = write_estimands(specs.phantom, out_dir / "estimands.json")
    seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
    measured = []
    for seed in seeds:
        measured.append(
            measure_seed(
                plan_specs(profile, seed=seed, slide_um=slide_um), estimands, folder=out_dir / "seeds" / str(seed),
                workers=workers, keep_slides=keep_slides,
            )
        )  # fmt: skip
        print(describe_seed(measured[-1]), flush=True)
    tables = measure_tables(specs, estimands, n_tables=n_tables)
    summary = summarise(pd.DataFrame(measured), tables)
    write_summary(summary, measured, tables, specs, out_dir)
    return summary


def measure_tables(specs: BookSpecs, estimands: dict[str, Any], *, n_tables: int) -> pd.DataFrame:
    """Draw table-only cohorts and fit the measured score's hazard ratio in each, as chapter 04's primary analysis.

    Parameters
    ----------
    specs : BookSpecs
    estimands : dict
    n_tables : int

    Returns
    -------
    DataFrame
        One row per cohort, endpoint and scale: endpoint, scale, log_hr, log_hr_truth, covered.
    """
    phantom, spec = specs.phantom, specs.survival
    n = phantom.n_cases + phantom.n_external
    horizon = spec.primary_horizon_months
    scales: tuple[Scale, ...] = ("per_sd", "high_vs_low")
    rows = []
    for number in track(range(n_tables), describe="fit table-only cohorts"):
        drawn = draw_scored_cases(phantom, n, open_streams(FIRST_SEED, "tables", number))
        for endpoint, scale in itertools.product(("rfs", "os"), scales):
            truth = find_estimand(estimands, score="prolif11", endpoint=endpoint, scale=scale, horizon_months=horizon)
            fit = estimate_hazard_ratio(
                drawn[f"{endpoint}_time_months"], drawn[f"{endpoint}_event"], drawn["prolif11"], horizon=horizon,
                scale=scale, cutoff=fit_cutoff(drawn["prolif11"]) if scale == "high_vs_low" else None,
            ).iloc[0]  # fmt: skip
            inside = np.log(fit["ci_low"]) <= truth["log_hr"] <= np.log(fit["ci_high"])
            rows.append((endpoint, scale, fit["log_hr"], truth["log_hr"], float(inside)))
    return pd.DataFrame(rows, columns=["endpoint", "scale", "log_hr", "log_hr_truth", "covered"])


def summarise(measured: pd.DataFrame, tables: pd.DataFrame) -> pd.DataFrame:
    """Average every quantity over seeds, with its interval, and compare it with its bound.

    Parameters
    ----------
    measured : DataFrame
        One row per seed.
    tables : DataFrame
        From `measure_tables`.

    Returns
    -------
    DataFrame
        As `validate_phantom`.
    """
    skipped = ("key", "seed", "seconds", "n_slides")
    quantities = {name: measured[name].to_numpy(float) for name in measured if name not in skipped}
    family = sum(name.startswith("log_hr_error/") for name in quantities)
    rows = [
        summarise_one(name, values, family=family if name.startswith("log_hr_error/") else 1)
        for name, values in quantities.items()
        if not name.startswith("log_hr_truth/")
    ]
    for row in rows:
        truth = f"log_hr_truth/{row['id'].removeprefix('log_hr/')}"
        row["reference"] = float(np.mean(quantities[truth])) if truth in quantities else None
    for (endpoint, scale), group in tables.groupby(["endpoint", "scale"]):
        error, name = (group["log_hr"] - group["log_hr_truth"]).to_numpy(), f"prolif11_rna_{scale}/{endpoint}"
        rows.append(summarise_one(f"tables/log_hr_error/{name}", error) | {"reference": None})
        rows.append(summarise_one(f"tables/covered/{name}", group["covered"].to_numpy()))
    table = pd.DataFrame(rows)
    table[["bound", "holds"]] = [judge(row) for row in table.to_dict("records")]
    return table


def summarise_one(name: str, values: np.ndarray, *, family: int = 1) -> dict[str, Any]:
    """Return mean, SD and the t interval of the mean.

    Parameters
    ----------
    name : str
    values : ndarray, (n,)
    family : int
        Intervals that are to hold at once; their level is 1 - 0.05 / family.

    Returns
    -------
    dict
    """
    from scipy.stats import t

    values = values[~np.isnan(values)]  # a seed may not have a quantity; n says how many have
    n, mean = len(values), float(np.mean(values))
    sd = float(np.std(values, ddof=1)) if n > 1 else float("nan")
    half = float(t.ppf(1 - 0.025 / family, n - 1)) * sd / n**0.5 if n > 1 else float("nan")
    return {
        "id": name, "mean": mean, "sd": sd, "ci_low": mean - half, "ci_high": mean + half,
        "smallest": float(np.min(values)), "largest": float(np.max(values)), "n": n,
    }  # fmt: skip


def judge(row: dict[str, Any]) -> tuple[str, bool | None]:
    """Say what a mean must satisfy, and whether it does.

    Parameters
    ----------
    row : dict
        Of `summarise_one`.

    Returns
    -------
    bound : str
        Empty where nothing is asked.
    holds : bool or None
    """
    if row["id"] in BOUNDS:
        sign, limit = BOUNDS[row["id"]]
        if sign == "interval above":
            return f"{sign} {limit:g}", bool(row["ci_low"] > limit)
        return f"{sign} {limit:g}", bool(row["mean"] >= limit if sign == ">=" else row["mean"] <= limit)
    if "log_hr_error/" in row["id"] and row["n"] > 1:
        return "interval covers 0", bool(row["ci_low"] <= 0 <= row["ci_high"])
    if row["id"].startswith("tables/covered/"):
        slack = 3 * (0.95 * 0.05 / row["n"]) ** 0.5
        return f"0.95 within {slack:.3f}", bool(abs(row["mean"] - 0.95) <= slack)
    return "", None


def describe_seed(found: dict[str, Any]) -> str:
    """Return one seed's headline in a line.

    Parameters
    ----------
    found : dict

    Returns
    -------
    str
    """
    names = ("spearman", "ratio_to_ceiling", "spearman_mean_colour", "spearman_clinical_only")
    words = ", ".join(f"{name} {found[f'external/{name}/prolif11']:.3f}" for name in names)
    return f"seed {found['seed']}: {words} ({found['seconds']:.0f} s, {found['n_slides']} slides)"


def write_summary(
    summary: pd.DataFrame, measured: Sequence[dict[str, Any]], tables: pd.DataFrame, specs: BookSpecs, out_dir: Path
) -> None:
    """Write validate.json, validate.csv, seeds.csv and validate.md, and print the last.

    Parameters
    ----------
    summary : DataFrame
    measured : sequence of dict
    tables : DataFrame
    specs : BookSpecs
    out_dir : Path
    """
    phantom = specs.phantom
    rows = [
        {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
        for row in summary.astype(object).where(summary.notna(), None).to_dict("records")
    ]
    record = {
        "rows": rows, "seeds": [found["seed"] for found in measured], "n_tables": len(tables) // 4,
        "phantom": phantom.key_fields(), "versions": list_versions(),
        "seconds": round(sum(found["seconds"] for found in measured), 1),
    }  # fmt: skip
    paths.write_json(record, out_dir / "validate.json")
    paths.write_table(summary, out_dir / "validate.csv")
    paths.write_table(pd.DataFrame(measured), out_dir / "seeds.csv")
    text = format_summary(summary, n_seeds=len(measured), slide_um=phantom.slide_um)
    paths.write_text(text, out_dir / "validate.md")
    print(text)


def format_summary(summary: pd.DataFrame, *, n_seeds: int, slide_um: float) -> str:
    """Return the summary as a text table.

    Parameters
    ----------
    summary : DataFrame
    n_seeds : int
    slide_um : float

    Returns
    -------
    str
    """
    lines = [
        f"# Planted truth against estimates: {n_seeds} cohorts of {slide_um:g} um slides, seeds {FIRST_SEED} onwards",
        "",
        "Mean (95 % interval of the mean) over cohorts; smallest to largest; what is asked, and whether it holds.",
        "Intervals of `log_hr_error` are simultaneous over all of them.",
        "",
        "| quantity | mean (95 % interval) | range | truth | asked | holds |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary.sort_values("id", kind="stable").to_dict("records"):
        interval = f"{row['mean']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})"
        truth = "" if row["reference"] is None or pd.isna(row["reference"]) else f"{row['reference']:.3f}"
        holds = "" if row["holds"] is None else ("yes" if row["holds"] else "NO")
        spread = f"{row['smallest']:.3f} to {row['largest']:.3f}"
        lines.append(f"| {row['id']} | {interval} | {spread} | {truth} | {row['bound']} | {holds} |")
    return "\n".join(lines) + "\n"
