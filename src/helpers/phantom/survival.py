"""Draw outcomes: recurrence by a Weibull proportional-hazards model, death after it or of other causes, censoring.

Time zero is surgery. Recurrence follows h(t) = h0(t) exp(lp) with the planted log hazard ratios; after recurrence
death of the disease follows at a constant rate; death of other causes follows Gompertz's law in age, whatever the
disease does. Follow-up ends at a date set by accrual, or earlier by random dropout. Proliferation acts on recurrence
only: what it does to death is what comes through recurrence.
"""

from typing import Final

import numpy as np
import pandas as pd

from helpers.core.specs import PhantomSpec
from helpers.core.vocab import event_column, time_column
from helpers.phantom.effects import REFERENCE_CASE
from helpers.phantom.population import Array, Columns, Streams, round_digits

PHANTOM_ENDPOINTS: Final = ("rfs", "os", "dss", "pfi")
"""rfs: recurrence or death. os: death. dss: death of the disease. pfi: recurrence; death without it is censored."""
SHORTEST_MONTHS: Final = 0.033
"""One day: no planted time is shorter, so none is 0 or negative."""


def compute_linear_predictor(spec: PhantomSpec, cases: Columns) -> Array:
    """Return the log hazard of recurrence relative to the reference case.

    Parameters
    ----------
    spec : PhantomSpec
    cases : dict of ndarray
        From `draw_cases`.

    Returns
    -------
    ndarray, (n,)
    """
    return np.asarray(
        spec.log_hr_proliferation * cases["latent"]
        + spec.log_hr_nodes * (cases["log_nodes"] - REFERENCE_CASE["log_nodes"])
        + spec.log_hr_size * (cases["log2_size"] - REFERENCE_CASE["log2_size"])
        + spec.log_hr_age * (cases["age_years"] - REFERENCE_CASE["age_years"]) / 10.0,
        dtype=np.float64,
    )


def compute_recurrence_free(spec: PhantomSpec, months: np.ndarray, linear_predictor: float = 0.0) -> Array:
    """Return the planted probability of no recurrence up to each time, other deaths set aside.

    Parameters
    ----------
    spec : PhantomSpec
    months : ndarray
    linear_predictor : float

    Returns
    -------
    ndarray
        S(t) = S0(120) ** ((t / 120) ** shape * exp(lp)).
    """
    hazard = -np.log1p(-spec.recurrence_10y) * (np.asarray(months) / 120.0) ** spec.weibull_shape
    return np.asarray(np.exp(-hazard * np.exp(linear_predictor)), dtype=np.float64)


def draw_times(spec: PhantomSpec, cases: Columns, streams: Streams) -> Columns:
    """Draw the times that would be seen without end of follow-up, and the end of follow-up.

    Parameters
    ----------
    spec : PhantomSpec
    cases : dict of ndarray
    streams : callable

    Returns
    -------
    dict of ndarray, (n,)
        `recurrence`, `disease_death`, `other_death`, `censoring`, in months.
    """
    n = len(cases["latent"])
    risk = np.exp(compute_linear_predictor(spec, cases))
    hazard_120 = -np.log1p(-spec.recurrence_10y)
    exponential = {name: -np.log1p(-streams(name).random(n)) for name in ("recurrence", "relapsed", "other", "dropout")}
    recurrence = 120.0 * (exponential["recurrence"] / (hazard_120 * risk)) ** (1.0 / spec.weibull_shape)
    disease_death = recurrence + exponential["relapsed"] * spec.post_recurrence_months / np.log(2.0)
    span = spec.followup_max_months - spec.followup_min_months
    administrative = spec.followup_min_months + span * streams("accrual").random(n)
    dropout = _divide(12.0 * exponential["dropout"], spec.dropout_per_year)
    return {
        "recurrence": recurrence,
        "disease_death": disease_death,
        "other_death": _draw_other_death(spec, cases["age_years"], exponential["other"]),
        "censoring": np.minimum(administrative, dropout),
    }


def _divide(months: Array, rate: float) -> Array:
    return months / rate if rate > 0 else np.full_like(months, np.inf)


def _draw_other_death(spec: PhantomSpec, age: np.ndarray, exponential: Array) -> Array:
    """Gompertz: hazard r exp(g (age - 60)) per year, integrated and inverted."""
    rate = spec.other_death_60 * np.exp(spec.other_death_slope * (age - 60.0))
    if spec.other_death_60 == 0:
        return np.full_like(exponential, np.inf)
    if spec.other_death_slope == 0:
        return 12.0 * exponential / rate
    return 12.0 * np.log1p(spec.other_death_slope * exponential / rate) / spec.other_death_slope


def compute_endpoints(times: Columns) -> Columns:
    """Turn what would happen into what follow-up sees: time and event of each endpoint.

    Parameters
    ----------
    times : dict of ndarray
        From `draw_times`.

    Returns
    -------
    dict of ndarray, (n,)
        `<endpoint>_time_months` (> 0, 6 digits) and `<endpoint>_event` (bool) for `PHANTOM_ENDPOINTS`.
    """
    death = np.minimum(times["disease_death"], times["other_death"])
    first = np.minimum(times["recurrence"], death)
    relapsed, of_disease = times["recurrence"] < death, times["disease_death"] < times["other_death"]
    end = times["censoring"]
    endpoints: Columns = {}
    for name, time, counts in (
        ("rfs", first, np.ones_like(relapsed)),
        ("os", death, np.ones_like(relapsed)),
        ("dss", death, of_disease),
        ("pfi", first, relapsed),
    ):
        endpoints[time_column(name)] = round_digits(np.maximum(np.minimum(time, end), SHORTEST_MONTHS))
        endpoints[event_column(name)] = counts & (time <= end)
    return endpoints


def tabulate_planted_curves(
    spec: PhantomSpec, *, latents: tuple[float, ...] = (-1.0, 0.0, 1.0), n_points: int = 121
) -> pd.DataFrame:
    """Tabulate the planted probability of staying free of recurrence for the reference case, by latent.

    Parameters
    ----------
    spec : PhantomSpec
    latents : tuple of float
        SDs of latent proliferation.
    n_points : int

    Returns
    -------
    DataFrame
        latent, months (0 to `followup_max_months`), survival.
    """
    months = np.linspace(0.0, spec.followup_max_months, n_points)
    parts = []
    for latent in latents:
        survival = compute_recurrence_free(spec, months, spec.log_hr_proliferation * latent)
        parts.append(pd.DataFrame({"latent": latent, "months": months, "survival": survival}))
    return pd.concat(parts, ignore_index=True)
