"""The truth a hazard ratio is compared with: the same estimand, by Monte Carlo over a million table cases.

A planted log hazard ratio is not what a Cox model finds: a noisy score attenuates it, a cut at the median turns it
into another contrast, death without recurrence dilutes it, a covariate left out shrinks it, and a horizon changes the
mix. So the truth is tabulated per score x scale x adjustment x endpoint x horizon, by fitting each of those models
to so many drawn cases that chance is gone. The cases come from the very functions that draw the cohort.

The fit is a Newton iteration of our own (Breslow; times are continuous), stratified over blocks of 50,000 cases.
Sorted by falling time, the risk-set sums are running sums, and with H_j = sum over events up to t_j of 1 / S0 the
gradient is sum_j x_j (event_j - w_j H_j): two running sums per step. The information is taken from the first block,
since a million cases carry 20 times that of 50,000; the iteration ends where the gradient of all cases is zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.core import paths
from helpers.core.errors import PhantomError
from helpers.core.progress import track
from helpers.core.provenance import compute_key
from helpers.core.specs import PhantomSpec
from helpers.core.vocab import event_column, time_column
from helpers.phantom.effects import PROLIF11, VERSION
from helpers.phantom.omics import draw_expression, draw_factors, list_loadings
from helpers.phantom.population import Array, Columns, Streams, draw_cases, open_streams, round_digits
from helpers.phantom.survival import PHANTOM_ENDPOINTS, compute_endpoints, draw_times

BLOCK: Final = 50_000
SEED: Final = 7
"""Seed of the Monte Carlo. The truth belongs to the model, not to a cohort: every cohort seed shares it."""
HORIZONS: Final = (60.0, 120.0, None)
SCALES: Final = ("per_sd", "high_vs_low")
ADJUSTMENTS: Final = {"none": (), "clinical": ("age_years", "tumour_size_mm", "nodes_positive")}
"""Covariates enter as they stand in cases.csv, linearly."""
HAZARD_COLUMNS: Final = ("latent", "log_nodes", "log2_size", "age_years")
"""What the planted outcomes depend on."""
SCORES: Final = ("latent", "prolif11", "MKI67")
IMAGE_RHOS: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Correlations between image score and latent at which the attenuated estimands are tabulated."""
KEY_FIELDS: Final = (
    "site_shift_sd", "assay_sd", "log_hr_proliferation", "log_hr_nodes", "log_hr_size", "log_hr_age", "recurrence_10y",
    "weibull_shape", "post_recurrence_months", "other_death_60", "other_death_slope", "followup_min_months",
    "followup_max_months", "dropout_per_year", "n_estimand",
)  # fmt: skip
IMAGE_SHARE: Final = 5
"""The image curve is fitted to a fifth of the cases: 200,000 of a million."""
MAX_STEPS: Final = 30
TOLERANCE: Final = 2e-7
"""Last step of a coefficient. Steps shrink a hundredfold each, so what is left is some 1e-9."""


def compute_estimands(spec: PhantomSpec, *, n: int | None = None) -> dict[str, Any]:
    """Compute the truth of every tabulated estimand.

    Parameters
    ----------
    spec : PhantomSpec
    n : int, optional
        Drawn development cases; default `spec.n_estimand`.

    Returns
    -------
    dict
        `rows`: score, scale, adjustment, endpoint, horizon_months (None: all follow-up), log_hr, hr, mc_se (standard
        error of log_hr), n, n_events. `image_rows`: the same for image scores of a given correlation with the
        latent (`rho_latent`), with their expected correlation with the measured scores. `ceiling`: correlation of the
        latent with the measured scores, the best any image can reach. `medians`, `sds`: of the scores. `event_share`.
        All rounded to 6 digits.
    """
    n = spec.n_estimand if n is None else n
    population = _draw_population(spec, n)
    few = {name: values[: max(min(n, BLOCK), n // IMAGE_SHARE)] for name, values in population.items()}
    images = {rho: rho * few["latent_z"] + np.sqrt(1 - rho * rho) * few["noise"] for rho in IMAGE_RHOS}
    rows: list[dict[str, Any]] = []
    image_rows: list[dict[str, Any]] = []
    for endpoint in track(PHANTOM_ENDPOINTS, describe="compute the truth of the hazard ratios"):
        table = _Sorted(population, endpoint)
        rows += [{"score": name, **row} for name in SCORES for row in _fit_score(table, population[name])]
        table = _Sorted(few, endpoint)
        image_rows += [{"rho_latent": rho, **row} for rho in IMAGE_RHOS for row in _fit_score(table, images[rho])]
    return {
        "key": compute_estimand_key(spec, n=n),
        "n": n,
        "adjustments": {name: list(columns) for name, columns in ADJUSTMENTS.items()},
        "rows": rows,
        "image_rows": image_rows,
        "image_correlations": [_describe_image(rho, images[rho], few) for rho in IMAGE_RHOS],
        **_describe_scores(population),
    }


def _describe_scores(population: Columns) -> dict[str, Any]:
    measured = [name for name in SCORES if name != "latent"]
    return {
        "ceiling": {name: _correlate(population["latent"], population[name]) for name in measured},
        "medians": {name: _round(float(np.median(population[name]))) for name in SCORES},
        "sds": {name: _round(float(population[name].std(ddof=1))) for name in SCORES},
        "event_share": {name: _round(float(population[event_column(name)].mean())) for name in PHANTOM_ENDPOINTS},
    }


def compute_estimand_key(spec: PhantomSpec, *, n: int) -> str:
    """Return the key of the Monte-Carlo truth: the planted effects, not the cohort's size, seed or slides.

    Parameters
    ----------
    spec : PhantomSpec
    n : int

    Returns
    -------
    str, 64 hex digits
    """
    fields = spec.key_fields()
    planted = {name: fields[name] for name in KEY_FIELDS if name != "n_estimand"}
    grid = [list(IMAGE_RHOS), list(HORIZONS), {name: list(columns) for name, columns in ADJUSTMENTS.items()}]
    return compute_key("estimands", VERSION, planted, n, SEED, BLOCK, grid)


def write_estimands(spec: PhantomSpec, path: str | Path) -> dict[str, Any]:
    """Write `estimands.json`, or reuse it where its key is that of the spec.

    Parameters
    ----------
    spec : PhantomSpec
    path : str or Path

    Returns
    -------
    dict
        As `compute_estimands`.
    """
    path = Path(path)
    if path.is_file():
        stored: dict[str, Any] = paths.read_json(path)
        if stored.get("key") == compute_estimand_key(spec, n=spec.n_estimand):
            return stored
    estimands = compute_estimands(spec)
    paths.write_json(estimands, path)
    return estimands


def find_estimand(
    estimands: dict[str, Any],
    *,
    score: str,
    endpoint: str = "rfs",
    scale: str = "per_sd",
    adjustment: str = "none",
    horizon_months: float | None = None,
    covariates: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Look up the truth of one hazard ratio.

    Parameters
    ----------
    estimands : dict
        Content of `truth/estimands.json`.
    score : str
        latent, prolif11 or MKI67 (as measured).
    endpoint, scale, adjustment : str
    horizon_months : float, optional
    covariates : sequence of str, optional
        What the estimate was adjusted for, columns of cases.csv: other covariates are another estimand.

    Returns
    -------
    dict
        The row, with log_hr, hr and mc_se.

    Raises
    ------
    PhantomError
        When this estimand was not tabulated; lists what was.
    """
    _check_adjustment(estimands, adjustment, covariates)
    asked = {"endpoint": endpoint, "scale": scale, "adjustment": adjustment, "horizon_months": horizon_months}
    return _find_row(estimands["rows"], {"score": score, **asked})


def _check_adjustment(estimands: dict[str, Any], adjustment: str, covariates: Sequence[str] | None) -> None:
    known = estimands["adjustments"].get(adjustment)
    if covariates is not None and known is not None and set(covariates) != set(known):
        msg = (
            f"PhantomError: the estimate was adjusted for {', '.join(covariates) or 'nothing'}; the truth of "
            f"'{adjustment}' was tabulated for {', '.join(known) or 'nothing'}. Adjust for the same, or use "
            "compute_cohort_estimand."
        )
        raise PhantomError(msg)


def interpolate_image_estimand(
    estimands: dict[str, Any],
    *,
    spearman: float,
    measured: str = "prolif11",
    endpoint: str = "rfs",
    scale: str = "per_sd",
    adjustment: str = "none",
    horizon_months: float | None = None,
    covariates: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return the true hazard ratio of an image score that reaches a given correlation with the measured score.

    The image's error is taken as normal and independent of everything that kills. For the exact estimand of a given
    set of predictions use `compute_cohort_estimand`.

    Parameters
    ----------
    estimands : dict
    spearman : float
        Observed Spearman correlation of the image score with the measured score.
    measured : str
        prolif11 or MKI67.
    endpoint, scale, adjustment : str
    horizon_months : float, optional
    covariates : sequence of str, optional
        As in `find_estimand`.

    Returns
    -------
    dict
        log_hr, hr, rho_latent (implied correlation with the latent).

    Raises
    ------
    PhantomError
        When the correlation lies outside what was tabulated (0.2 to 0.9 with the latent), or the estimand does.
    """
    _check_adjustment(estimands, adjustment, covariates)
    curve = pd.DataFrame(estimands["image_correlations"]).sort_values("rho_latent")
    at = curve[f"spearman_{measured}"].to_numpy()
    if not at[0] <= spearman <= at[-1]:
        msg = (
            f"PhantomError: image score has Spearman {spearman:.3f} with {measured}, tabulated are {at[0]:.3f} to "
            f"{at[-1]:.3f}. Use compute_cohort_estimand for this score."
        )
        raise PhantomError(msg)
    asked = {"endpoint": endpoint, "scale": scale, "adjustment": adjustment, "horizon_months": horizon_months}
    truths = [_find_row(estimands["image_rows"], {"rho_latent": rho, **asked})["log_hr"] for rho in curve["rho_latent"]]
    log_hr = float(np.interp(spearman, at, truths))
    return {
        "log_hr": log_hr,
        "hr": float(np.exp(log_hr)),
        "rho_latent": float(np.interp(spearman, at, curve["rho_latent"])),
    }


def tabulate_attenuation(
    estimands: dict[str, Any],
    *,
    measured: str = "prolif11",
    endpoint: str = "rfs",
    scale: str = "per_sd",
    adjustment: str = "none",
    horizon_months: float | None = None,
) -> pd.DataFrame:
    """Tabulate how the hazard ratio of an image score grows with its correlation with the measured score.

    Parameters
    ----------
    estimands : dict
    measured : str
        prolif11 or MKI67.
    endpoint, scale, adjustment : str
    horizon_months : float, optional

    Returns
    -------
    DataFrame
        kind ('image', 'measured' or 'latent'), spearman (with the measured score), rho_latent, hr, hr_low, hr_high
        (1.96 Monte-Carlo standard errors).
    """
    asked = {"endpoint": endpoint, "scale": scale, "adjustment": adjustment, "horizon_months": horizon_months}
    ceiling, rows = estimands["ceiling"][measured], []
    for image in estimands["image_correlations"]:
        row = _find_row(estimands["image_rows"], {"rho_latent": image["rho_latent"], **asked})
        rows.append(("image", image[f"spearman_{measured}"], image["rho_latent"], row["log_hr"], row["mc_se"]))
    for kind, name, spearman, rho in (
        ("measured", measured, 1.0, ceiling["pearson"]),
        ("latent", "latent", ceiling["spearman"], 1.0),
    ):
        row = _find_row(estimands["rows"], {"score": name, **asked})
        rows.append((kind, spearman, rho, row["log_hr"], row["mc_se"]))
    table = pd.DataFrame(rows, columns=["kind", "spearman", "rho_latent", "log_hr", "mc_se"])
    table["hr"] = np.exp(table["log_hr"])
    table["hr_low"] = np.exp(table["log_hr"] - 1.96 * table["mc_se"])
    table["hr_high"] = np.exp(table["log_hr"] + 1.96 * table["mc_se"])
    return table.drop(columns=["log_hr", "mc_se"])


def compute_cohort_estimand(
    spec: PhantomSpec,
    cases_truth: pd.DataFrame,
    cases: pd.DataFrame,
    score: Sequence[float] | np.ndarray,
    *,
    endpoint: str = "rfs",
    scale: str = "per_sd",
    adjustment: str = "none",
    horizon_months: float | None = None,
    covariates: Sequence[str] | None = None,
    cutoff: float | None = None,
    sd: float | None = None,
    n: int = 400_000,
    seed: int = SEED,
) -> dict[str, float]:
    """Return the hazard ratio that this very score would have in these very cases, were they followed over and over.

    The cases keep their latent, covariates and score; their outcomes are drawn anew until `n` case-outcomes are
    there, and one Cox model is fitted to all. This is the truth of the observed hazard ratio, whatever the score's
    errors are.

    Parameters
    ----------
    spec : PhantomSpec
    cases_truth, cases : DataFrame
        Rows of one cohort in the same order.
    score : array_like, (n_cases,)
        Predicted or measured score, higher = worse.
    endpoint, scale, adjustment : str
    horizon_months : float, optional
    covariates : sequence of str, optional
        Numeric columns of `cases` that the ratio is adjusted for, in place of those of `adjustment`.
    cutoff : float, optional
        high_vs_low: high is above it. Default: the median of `score`.
    sd : float, optional
        per_sd: the SD that counts as one. Default: of `score`.
    n : int
        Case-outcomes to draw.
    seed : int

    Returns
    -------
    dict
        log_hr, hr, mc_se.
    """
    repeats = max(1, round(n / len(cases)))
    names = ADJUSTMENTS[adjustment] if covariates is None else tuple(covariates)
    drawn = {name: np.tile(cases_truth[name].to_numpy(), repeats) for name in HAZARD_COLUMNS}
    drawn = compute_endpoints(draw_times(spec, drawn, open_streams(seed, "cohort_estimand")))
    drawn |= {name: np.tile(cases[name].to_numpy(dtype=float), repeats) for name in names}
    values = np.asarray(score, dtype=float)
    limits = {"cutoff": float(np.median(values)) if cutoff is None else cutoff}
    limits["sd"] = float(values.std(ddof=1)) if sd is None else sd
    table = _Sorted(drawn, endpoint)
    columns = [table.sort(_scale(np.tile(values, repeats), scale, **limits)), *table.covariates(names)]
    log_hr, mc_se, _ = _fit(table, columns, horizon_months)
    return {"log_hr": log_hr, "hr": float(np.exp(log_hr)), "mc_se": mc_se}


def _find_row(rows: list[dict[str, Any]], asked: dict[str, Any]) -> dict[str, Any]:
    for row in rows:
        if all(row[name] == value for name, value in asked.items()):
            return row
    known = "; ".join(f"{name} {', '.join(sorted({str(row[name]) for row in rows}))}" for name in asked)
    msg = (
        f"PhantomError: no truth was tabulated for {asked}. Tabulated: {known}. "
        "Use compute_cohort_estimand for any other."
    )
    raise PhantomError(msg)


def _draw_population(spec: PhantomSpec, n: int) -> Columns:
    """Draw n development cases in blocks: scores, covariates, endpoints."""
    sizes = [min(BLOCK, n - start) for start in range(0, n, BLOCK)]
    blocks = [draw_scored_cases(spec, size, open_streams(SEED, "estimand", i)) for i, size in enumerate(sizes)]
    population = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    latent = population["latent"]
    population["latent_z"] = (latent - latent.mean()) / latent.std()
    return population


def draw_scored_cases(spec: PhantomSpec, n: int, streams: Streams) -> Columns:
    """Draw development cases with their scores, clinical covariates and outcomes: a cohort without slides, fast.

    Parameters
    ----------
    spec : PhantomSpec
    n : int
    streams : callable
        From `open_streams`.

    Returns
    -------
    dict of str to ndarray, (n,)
        latent, prolif11, MKI67 (log2), noise (an image's error), covariates, and time and event of every endpoint.
    """
    cases = draw_cases(spec, n, streams)
    loadings = list_loadings(spec)
    genes = loadings[loadings["role"] == "prolif11"].reset_index(drop=True)
    values = draw_expression(genes, draw_factors(spec, cases, streams), streams)
    block = {name: np.asarray(cases[name], dtype=np.float64) for name in ("latent", *ADJUSTMENTS["clinical"])}
    block["prolif11"] = round_digits(np.add.reduce(values, axis=1) / len(PROLIF11))
    block["MKI67"] = values[:, genes.index[genes["gene"] == "MKI67"][0]]
    block["noise"] = streams("image").standard_normal(n)
    return block | compute_endpoints(draw_times(spec, cases, streams))


def _sort_blocks(time: Array) -> list[np.ndarray]:
    """Return, per block of cases, the order of falling time."""
    starts = range(0, len(time), BLOCK)
    return [start + np.argsort(-time[start : start + BLOCK], kind="stable") for start in starts]


class _Sorted:
    """One endpoint of a population, cut into blocks and sorted by falling time in each."""

    def __init__(self, columns: Columns, endpoint: str) -> None:
        self.columns, self.endpoint = columns, endpoint
        self.order = _sort_blocks(columns[time_column(endpoint)])
        self.time, self.event = self.sort(columns[time_column(endpoint)]), self.sort(columns[event_column(endpoint)])
        self._covariates: dict[str, list[Array]] = {}

    def sort(self, values: np.ndarray) -> list[Array]:
        return [values[order].astype(np.float64) for order in self.order]

    def covariates(self, names: Sequence[str]) -> list[list[Array]]:
        """Return covariates, standardised (which changes no hazard ratio of the score)."""
        for name in names:
            if name not in self._covariates:
                self._covariates[name] = self.sort(_standardise(self.columns[name]))
        return [self._covariates[name] for name in names]

    def events(self, horizon_months: float | None) -> list[Array]:
        if horizon_months is None:
            return self.event
        return [event * (time <= horizon_months) for event, time in zip(self.event, self.time, strict=True)]


def _standardise(values: np.ndarray) -> Array:
    centred: Array = values - values.mean()
    return centred / centred.std()


def _scale(values: np.ndarray, scale: str, *, cutoff: float, sd: float) -> Array:
    if scale == "per_sd":
        return np.asarray((values - values.mean()) / sd, dtype=np.float64)
    if scale == "high_vs_low":
        return (values > cutoff).astype(np.float64)
    msg = f"PhantomError: scale is '{scale}', expected one of {', '.join(SCALES)}. Correct it."
    raise PhantomError(msg)


def _fit_score(table: _Sorted, values: Array) -> Iterator[dict[str, Any]]:
    """Fit one score on every scale, adjustment and horizon."""
    for scale in SCALES:
        x = table.sort(_scale(values, scale, cutoff=float(np.median(values)), sd=float(values.std(ddof=1))))
        for adjustment in ADJUSTMENTS:
            start: Array | None = None
            for horizon in reversed(HORIZONS):
                columns = [x, *table.covariates(ADJUSTMENTS[adjustment])]
                log_hr, mc_se, start = _fit(table, columns, horizon, start=start)
                yield {
                    "scale": scale,
                    "adjustment": adjustment,
                    "endpoint": table.endpoint,
                    "horizon_months": horizon,
                    "log_hr": _round(log_hr),
                    "hr": _round(float(np.exp(log_hr))),
                    "mc_se": _round(mc_se),
                    "n": len(values),
                    "n_events": int(sum(event.sum() for event in table.events(horizon))),
                }


def _fit(
    table: _Sorted, columns: list[list[Array]], horizon_months: float | None, *, start: Array | None = None
) -> tuple[float, float, Array]:
    """Fit the Cox model stratified by block; return log HR and SE of the first column, and all coefficients."""
    events = table.events(horizon_months)
    blocks = [(event, [column[number] for column in columns]) for number, event in enumerate(events)]
    beta = np.zeros(len(columns)) if start is None else start
    event, block = blocks[0]
    for _ in range(3):
        gradient, information = compute_score(beta, event, block)
        beta = beta + solve(information, gradient)
    total = compute_score(beta, event, block)[1] * (len(table.columns[time_column(table.endpoint)]) / len(event))
    for _ in range(MAX_STEPS):
        step = solve(total, np.add.reduce([compute_gradient(beta, event, block)[0] for event, block in blocks]))
        beta = beta + step
        if np.abs(step).max() < TOLERANCE:
            unit = np.eye(len(beta))[0]
            return float(beta[0]), float(solve(total, unit)[0] ** 0.5), beta
    msg = f"PhantomError: the Monte-Carlo Cox fit of {table.endpoint} did not settle in {MAX_STEPS} steps."
    raise PhantomError(msg)


@dataclass(frozen=True)
class _RiskSets:
    """Running sums of one block: weights, S0 at every row, and H at every row."""

    weight: Array
    s0: Array
    h: Array


def compute_gradient(beta: Array, event: Array, block: list[Array]) -> tuple[Array, "_RiskSets"]:
    """Return the gradient of the log partial likelihood of one block.

    Parameters
    ----------
    beta : ndarray, (p,)
    event : ndarray, (n,)
        1 or 0, cases sorted by falling time.
    block : list of p ndarrays, (n,)

    Returns
    -------
    gradient : ndarray, (p,)
    sums : _RiskSets
    """
    eta = beta[0] * block[0]
    for coefficient, column in zip(beta[1:], block[1:], strict=True):
        eta += coefficient * column
    weight = np.exp(eta)
    s0 = np.cumsum(weight)
    share = event / s0
    h = np.add.reduce(share) - np.cumsum(share) + share  # sum over this row and all below: the earlier events
    residual = event - weight * h
    return np.array([np.add.reduce(column * residual) for column in block]), _RiskSets(weight, s0, h)


def compute_score(beta: Array, event: Array, block: list[Array]) -> tuple[Array, Array]:
    """Return gradient and information of the log partial likelihood of one block.

    Parameters
    ----------
    beta : ndarray, (p,)
    event : ndarray, (n,)
    block : list of p ndarrays, (n,)

    Returns
    -------
    gradient : ndarray, (p,)
    information : ndarray, (p, p)
    """
    gradient, sums = compute_gradient(beta, event, block)
    means = [np.cumsum(sums.weight * column) / sums.s0 for column in block]
    weighted = sums.weight * sums.h
    information = np.empty((len(block), len(block)))
    for i, (a, mean_a) in enumerate(zip(block, means, strict=True)):
        for j, (b, mean_b) in enumerate(zip(block, means, strict=True)):
            information[i, j] = np.add.reduce(weighted * a * b) - np.add.reduce(event * mean_a * mean_b)
    return gradient, information


def solve(matrix: Array, right: Array) -> Array:
    """Solve a small positive-definite system by Gaussian elimination, without BLAS.

    Parameters
    ----------
    matrix : ndarray, (p, p)
    right : ndarray, (p,)

    Returns
    -------
    ndarray, (p,)
    """
    a, b = np.array(matrix, dtype=np.float64), np.array(right, dtype=np.float64)
    for i in range(len(b)):
        for j in range(i + 1, len(b)):
            factor = a[j, i] / a[i, i]
            a[j] -= factor * a[i]
            b[j] -= factor * b[i]
    for i in range(len(b) - 1, -1, -1):
        b[i] = (b[i] - np.add.reduce(a[i, i + 1 :] * b[i + 1 :])) / a[i, i]
    return b


def _rank(values: np.ndarray) -> Array:
    """Rank without regard to ties (scores are continuous)."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values), dtype=np.float64)
    return ranks


def _correlate(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return {"spearman": _pearson(_rank(x), _rank(y)), "pearson": _pearson(x, y)}


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return _round(float(np.add.reduce(_standardise(x) * _standardise(y)) / len(x)))


def _describe_image(rho: float, values: Array, population: Columns) -> dict[str, float]:
    against = {name: _correlate(values, population[name]) for name in ("prolif11", "MKI67")}
    spread = {f"{kind}_{name}": value for name, pair in against.items() for kind, value in pair.items()}
    return {"rho_latent": rho, "spearman_latent": _correlate(values, population["latent"])["spearman"], **spread}


def _round(value: float) -> float:
    return round(value, 6) + 0.0
