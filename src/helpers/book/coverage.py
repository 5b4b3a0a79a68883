"""Do 95 % intervals cover, and do tests keep their level? Thousands of table-only phantom cohorts say so.

Each cohort is drawn from the planted model, the score's hazard ratio is fitted as chapter 04 does, and the interval
either covers the planted value of the same estimand or not. Then the score is shuffled over the patients, so that
nothing is left to find, and the log-rank test either rejects or not. Wald's interval stands beside the one of the
profile likelihood, which does not pretend that a log likelihood of 30 events is a parabola.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.core import paths
from helpers.core.errors import RunError
from helpers.core.progress import track
from helpers.core.specs import PhantomSpec
from helpers.phantom.estimands import draw_scored_cases, find_estimand, write_estimands
from helpers.phantom.population import open_streams
from helpers.stats.fast_cox import fit_sorted, profile_sorted, sort_cases
from helpers.stats.follow_up import Z95, truncate_follow_up
from helpers.stats.power import compute_wilson_interval

FIRST_SEED: Final = 90_001
"""Root of the streams; no other part of the book draws from it."""
SIZES: Final = (100, 683)
N_COHORTS: Final = 5_000
ENDPOINTS: Final = ("rfs", "os")
SCALES: Final = ("per_sd", "high_vs_low")
COVERED: Final = (0.942, 0.958)
REJECTED: Final = (0.042, 0.058)
CHUNK: Final = 100
FEWEST_JUDGED: Final = 2_000
"""Cohorts below which the simulation's own error is wider than what is asked, and nothing is judged."""
QUANTITIES: Final = {
    "wald": "Wald interval covers",
    "profile": "profile interval covers",
    "rejected": "log-rank rejects a null",
}


def measure_coverage(
    phantom: PhantomSpec,
    estimands: dict[str, Any],
    *,
    n_cohorts: int = N_COHORTS,
    sizes: Sequence[int] = SIZES,
    horizon_months: float | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    """Fit every table-only cohort once per endpoint and scale.

    Parameters
    ----------
    phantom : PhantomSpec
    estimands : dict
        Its planted truth, of `compute_estimands`.
    n_cohorts : int
        Of each size.
    sizes : sequence of int
        Cases per cohort.
    horizon_months : float, optional
        Follow-up ends here; the estimands must hold this horizon.
    workers : int
        Processes; the numbers do not depend on it.

    Returns
    -------
    DataFrame
        One row per cohort, endpoint and scale: n_cases, cohort, endpoint, scale, n_events, log_hr, truth, wald and
        profile (covered, 1 or 0), rejected (log-rank of the shuffled halves; missing for per_sd).

    Raises
    ------
    RunError
        When there is nothing to measure.
    """
    if n_cohorts < 1 or not sizes:
        msg = f"RunError: {n_cohorts} cohorts of sizes {list(sizes)}; expected at least one of each."
        raise RunError(msg)
    truths = {
        (endpoint, scale): find_estimand(
            estimands, score="prolif11", endpoint=endpoint, scale=scale, horizon_months=horizon_months
        )["log_hr"]
        for endpoint, scale in itertools.product(ENDPOINTS, SCALES)
    }
    starts = range(0, n_cohorts, CHUNK)
    jobs = [
        (phantom, truths, n, start, min(start + CHUNK, n_cohorts), horizon_months) for n in sizes for start in starts
    ]
    if workers == 1:
        parts = [_measure_chunk(job) for job in track(jobs, describe="table-only cohorts")]
    else:
        with ProcessPoolExecutor(workers) as pool:
            parts = list(track(pool.map(_measure_chunk, jobs), describe="table-only cohorts", total=len(jobs)))
    return pd.concat(parts, ignore_index=True)


def _measure_chunk(job: tuple[Any, ...]) -> pd.DataFrame:
    phantom, truths, n, start, stop, horizon = job
    rows = [
        row
        for number in range(start, stop)
        for row in _measure_cohort(phantom, truths, n=n, number=number, horizon=horizon)
    ]
    return pd.DataFrame(rows)


def _measure_cohort(
    phantom: PhantomSpec, truths: dict[tuple[str, str], float], *, n: int, number: int, horizon: float | None
) -> list[dict[str, Any]]:
    drawn = draw_scored_cases(phantom, n, open_streams(FIRST_SEED, f"coverage-{n}", number))
    score = np.asarray(drawn["prolif11"], dtype=np.float64)
    high = (score > np.median(score)).astype(float)
    shuffled = np.random.default_rng([FIRST_SEED, n, number]).permutation(high)
    rows = []
    for endpoint in ENDPOINTS:
        time, event = truncate_follow_up(drawn[f"{endpoint}_time_months"], drawn[f"{endpoint}_event"], horizon)
        test = fit_sorted(sort_cases(time, event, shuffled[:, None])).score_test
        for scale, x in (("per_sd", score / score.std(ddof=1)), ("high_vs_low", high)):
            cases = sort_cases(time, event, x[:, None])
            fit, truth = fit_sorted(cases), truths[endpoint, scale]
            low, high_end = profile_sorted(cases, fit=fit)
            row: dict[str, Any] = {
                "n_cases": n,
                "cohort": number,
                "endpoint": endpoint,
                "scale": scale,
                "n_events": int(event.sum()),
            }
            row |= {"log_hr": float(fit.log_hr[0]), "truth": truth, "profile": float(low <= truth <= high_end)}
            row["wald"] = float(abs(fit.log_hr[0] - truth) <= Z95 * fit.se[0])
            row["rejected"] = float(test > Z95**2) if scale == "high_vs_low" else np.nan
            rows.append(row)
    return rows


def summarize_coverage(measured: pd.DataFrame) -> pd.DataFrame:
    """Turn cohorts into shares with their intervals, beside what is asked of them.

    Parameters
    ----------
    measured : DataFrame
        From `measure_coverage`.

    Returns
    -------
    DataFrame
        n_cases, endpoint, scale, quantity ('Wald interval covers', 'profile interval covers', 'log-rank rejects a
        null'), share, ci_low, ci_high (Wilson), n_cohorts, mean_events, bias (mean log HR minus truth), asked_low,
        asked_high, holds (None below `FEWEST_JUDGED` cohorts).
    """
    rows = []
    for (n, endpoint, scale), group in measured.groupby(["n_cases", "endpoint", "scale"], sort=True):
        for column, quantity in QUANTITIES.items():
            values = group[column].dropna()
            if values.empty:
                continue
            asked = REJECTED if column == "rejected" else COVERED
            low, high = compute_wilson_interval(int(values.sum()), len(values))
            share = float(values.mean())
            rows.append(
                {
                    "n_cases": n, "endpoint": endpoint, "scale": scale, "quantity": quantity, "share": share,
                    "ci_low": low, "ci_high": high, "n_cohorts": len(values), "mean_events": group["n_events"].mean(),
                    "bias": (group["log_hr"] - group["truth"]).mean(), "asked_low": asked[0], "asked_high": asked[1],
                    "holds": asked[0] <= share <= asked[1] if len(values) >= FEWEST_JUDGED else None,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def validate_coverage(
    *,
    n_cohorts: int = N_COHORTS,
    sizes: Sequence[int] = SIZES,
    out_dir: str | Path | None = None,
    workers: int = 2,
    profile: str = "phantom",
) -> pd.DataFrame:
    """Measure coverage and level for a phantom profile, and write coverage.csv and coverage.md.

    Parameters
    ----------
    n_cohorts : int
        Of each size.
    sizes : sequence of int
    out_dir : str or Path, optional
        Default results/validate.
    workers : int
    profile : str
        Whose planted model and horizon are used.

    Returns
    -------
    DataFrame
        Of `summarize_coverage`.
    """
    from helpers.book.validate_seed import plan_specs

    out = paths.resolve(out_dir or "results/validate")
    specs = plan_specs(profile, seed=FIRST_SEED)
    estimands = write_estimands(specs.phantom, out / "estimands.json")
    horizon = specs.survival.primary_horizon_months
    measured = measure_coverage(specs.phantom, estimands, n_cohorts=n_cohorts, sizes=sizes, horizon_months=horizon,
                                workers=workers)  # fmt: skip
    summary = summarize_coverage(measured)
    paths.write_table(summary, out / "coverage.csv")
    text = format_coverage(summary)
    paths.write_text(text, out / "coverage.md")
    print(text)
    return summary


def format_coverage(summary: pd.DataFrame) -> str:
    """Return the summary as a text table.

    Parameters
    ----------
    summary : DataFrame

    Returns
    -------
    str
    """
    lines = [
        f"# Coverage and level over {summary['n_cohorts'].max():,} table-only cohorts per size",
        "",
        "| cases | events | endpoint | scale | quantity | share (95 % CI) | asked | holds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in summary.to_dict("records"):
        share = f"{100 * row['share']:.2f} % ({100 * row['ci_low']:.2f}–{100 * row['ci_high']:.2f})"
        asked = f"{100 * row['asked_low']:.1f}–{100 * row['asked_high']:.1f} %"
        verdict = "too few cohorts" if pd.isna(row["holds"]) else ("yes" if row["holds"] else "NO")
        cells = [row["n_cases"], f"{row['mean_events']:.0f}", row["endpoint"], row["scale"], row["quantity"]]
        lines.append("| " + " | ".join(map(str, [*cells, share, asked, verdict])) + " |")
    return "\n".join(lines) + "\n"
