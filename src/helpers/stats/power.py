"""How many cases? Events needed for a hazard ratio, what a noisy reading of a score costs, and power by simulation.

A score read from a slide is a noisy reading of the score measured by RNA, and its hazard ratio is nearer to 1 for that
reason alone. So the question is never "how many events for the RNA's ratio", but how many for the *image's*.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from helpers.core.errors import StatsError
from helpers.stats.fast_cox import fit_sorted, sort_cases
from helpers.stats.follow_up import Floats, check_outcomes
from helpers.stats.kaplan_meier import fit_km

NODES: Final = 60
"""Gauss–Hermite nodes of an average over a normal score."""
PowerScale = Literal["per_sd", "high_vs_low"]


def count_events_needed(
    hazard_ratio: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    scale: PowerScale = "high_vs_low",
    share_high: float = 0.5,
) -> float:
    """Count the events at which a hazard ratio is found with a given power.

    Parameters
    ----------
    hazard_ratio : float
    power : float
    alpha : float
        Two-sided.
    scale : {'high_vs_low', 'per_sd'}
        Of the ratio.
    share_high : float
        Cases above the cut-off.

    Returns
    -------
    float
        Events; round up. 125.2 for 1.65 between two halves at 80 % power.

    Raises
    ------
    StatsError
        When the ratio is 1 or not above 0, or a probability is outside (0, 1).

    References
    ----------
    Schoenfeld 1983, Biometrics 39:499. Hsieh and Lavori 2000, Control Clin Trials 21:552 (continuous).
    """
    from scipy.stats import norm

    _check_design(hazard_ratio, power, alpha, share_high)
    variance = share_high * (1 - share_high) if scale == "high_vs_low" else 1.0
    return float((norm.ppf(1 - alpha / 2) + norm.ppf(power)) ** 2 / (variance * np.log(hazard_ratio) ** 2))


def compute_power(
    hazard_ratio: float,
    *,
    n_events: float,
    alpha: float = 0.05,
    scale: PowerScale = "high_vs_low",
    share_high: float = 0.5,
) -> float:
    """Return the power that a number of events gives: `count_events_needed`, turned round.

    Parameters
    ----------
    hazard_ratio : float
    n_events : float
    alpha : float
    scale : {'high_vs_low', 'per_sd'}
    share_high : float

    Returns
    -------
    float
    """
    from scipy.stats import norm

    if hazard_ratio != 1:  # a ratio of 1 is "found" as often as alpha says
        _check_design(hazard_ratio, 0.5, alpha, share_high)
    variance = share_high * (1 - share_high) if scale == "high_vs_low" else 1.0
    signal = abs(np.log(hazard_ratio)) * np.sqrt(variance * n_events)
    limit = norm.ppf(1 - alpha / 2)
    return float(norm.cdf(signal - limit) + norm.cdf(-signal - limit))


def _check_design(hazard_ratio: float, power: float, alpha: float, share_high: float) -> None:
    inside = all(0 < value < 1 for value in (power, alpha, share_high))
    if not (np.isfinite(hazard_ratio) and hazard_ratio > 0 and hazard_ratio != 1 and inside):
        msg = (
            f"StatsError: hazard ratio {hazard_ratio}, power {power}, alpha {alpha}, share {share_high}; expected a "
            "ratio above 0 that is not 1, and probabilities between 0 and 1. A ratio of 1 can never be found."
        )
        raise StatsError(msg)


def attenuate_ratio(hazard_ratio: float, *, correlation: float, scale: PowerScale = "high_vs_low") -> float:
    """Return the hazard ratio of a noisy reading of a score, from that of the score itself.

    Both are normal and correlate by `correlation`, and the hazard depends on the score itself. Per SD the log ratio
    shrinks by the correlation; between halves, at the beginning of follow-up, the halves' mean hazards are compared.
    With time both fall a little further, since those at highest risk leave first: `simulate_power` has that in it.

    Parameters
    ----------
    hazard_ratio : float
        Of the score itself (the RNA's), on `scale`.
    correlation : float
        Pearson's, of image and RNA.
    scale : {'high_vs_low', 'per_sd'}
        high_vs_low: halves by the median.

    Returns
    -------
    float
        Of the reading (the image's).

    Raises
    ------
    StatsError
        When the correlation is outside [-1, 1] or the ratio not above 0.

    References
    ----------
    Prentice 1982, Biometrika 69:331 (hazard given a noisy covariate).
    """
    from scipy.stats import norm

    if not (-1 <= correlation <= 1 and hazard_ratio > 0):
        msg = f"StatsError: correlation {correlation} and hazard ratio {hazard_ratio}; expected −1 … 1, and above 0."
        raise StatsError(msg)
    if scale == "per_sd":
        return float(np.exp(correlation * np.log(hazard_ratio)))
    slope = norm.ppf(hazard_ratio / (1 + hazard_ratio))  # E[e^bX | X > 0] / E[e^bX | X < 0] = Phi(b) / Phi(-b)
    return float(norm.cdf(correlation * slope) / norm.cdf(-correlation * slope))


def tabulate_needs(
    hazard_ratio: float,
    *,
    correlations: ArrayLike,
    event_share: float,
    scale: PowerScale = "high_vs_low",
    power: float = 0.8,
) -> pd.DataFrame:
    """Tabulate, by the correlation of image and RNA, the image's hazard ratio and the events and cases it needs.

    Parameters
    ----------
    hazard_ratio : float
        Of the RNA.
    correlations : array_like, (n,)
    event_share : float
        Events per case of a cohort like the one at hand.
    scale : {'high_vs_low', 'per_sd'}
    power : float

    Returns
    -------
    DataFrame
        correlation, hazard_ratio (the image's), n_events, n_cases (both rounded up), relative (events against those of
        the RNA itself); all three infinite at a correlation of 0.
    """
    rows = []
    itself = count_events_needed(hazard_ratio, power=power, scale=scale)
    for correlation in np.asarray(correlations, dtype=np.float64):
        ratio = attenuate_ratio(hazard_ratio, correlation=float(correlation), scale=scale)
        events = np.inf if ratio == 1 else count_events_needed(ratio, power=power, scale=scale)
        needed = [np.inf] * 2 if ratio == 1 else [int(np.ceil(events)), int(np.ceil(events / event_share))]
        rows.append((float(correlation), ratio, *needed, events / itself))
    return pd.DataFrame(rows, columns=["correlation", "hazard_ratio", "n_events", "n_cases", "relative"])


@dataclass(frozen=True)
class FollowUp:
    """How a cohort is followed: its event curve and its censoring curve, from which others like it can be drawn.

    Parameters
    ----------
    event_time, event_survival : ndarray
        Kaplan–Meier of the events.
    censor_time, censor_survival : ndarray
        Kaplan–Meier of the censoring.
    end : float
        Longest follow-up.
    """

    event_time: Floats
    event_survival: Floats
    censor_time: Floats
    censor_survival: Floats
    end: float


def describe_follow_up(time: ArrayLike, event: ArrayLike) -> FollowUp:
    """Describe the follow-up of a cohort.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)

    Returns
    -------
    FollowUp
    """
    times, events = check_outcomes(time, event)
    seen, left = fit_km(times, events), fit_km(times, ~events)
    columns = [curve[name].to_numpy(float) for curve in (seen, left) for name in ("time", "survival")]
    return FollowUp(columns[0], columns[1], columns[2], columns[3], end=float(times.max()))


def simulate_outcomes(
    follow_up: FollowUp, log_hazard: Floats, *, baseline: Floats, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Draw outcomes of new cases that are followed like a cohort, with given log hazards.

    Parameters
    ----------
    follow_up : FollowUp
    log_hazard : ndarray, (n_cases,)
    baseline : ndarray
        From `find_baseline`.
    rng : numpy Generator

    Returns
    -------
    time : ndarray, (n_cases,)
    event : ndarray, (n_cases,), bool
    """
    drawn = rng.exponential(size=log_hazard.size) * np.exp(-log_hazard)
    step = np.searchsorted(baseline, drawn, side="left")
    reached = step < baseline.size
    when = np.where(reached, follow_up.event_time[np.minimum(step, baseline.size - 1)], np.inf)
    chance = rng.random(log_hazard.size)
    falling = follow_up.censor_survival
    gone = np.searchsorted(-falling, -chance, side="left")  # first time at which the curve is at or below the chance
    leaves = np.where(gone < falling.size, follow_up.censor_time[np.minimum(gone, falling.size - 1)], follow_up.end)
    return np.minimum(when, leaves), when <= leaves


def find_baseline(follow_up: FollowUp, *, sd: float) -> Floats:
    """Find the baseline at which cases with normal log hazards have, on average, the cohort's own event curve.

    Parameters
    ----------
    follow_up : FollowUp
    sd : float
        Of the log hazards.

    Returns
    -------
    ndarray, as `follow_up.event_time`
        Cumulative hazard of a case whose log hazard is 0.
    """
    survival = follow_up.event_survival
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    factor = np.exp(sd * nodes)
    grid = np.concatenate([[0.0], np.logspace(-6, 3, 4000)])
    mean = np.exp(-np.outer(grid, factor)) @ (weights / weights.sum())
    return np.interp(-np.maximum(survival, mean[-1]), -mean, grid)


def simulate_power(
    follow_up: FollowUp,
    *,
    n_cases: int,
    hazard_ratio: float,
    correlation: float = 1.0,
    scale: PowerScale = "high_vs_low",
    n_simulations: int = 500,
    alpha: float = 0.05,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Estimate the power of a cohort by drawing it again and again, followed as it was.

    Parameters
    ----------
    follow_up : FollowUp
        Of the cohort at hand.
    n_cases : int
    hazard_ratio : float
        Of the score itself (RNA), on `scale`.
    correlation : float
        Of the reading that is tested (image) with it; 1 tests the score itself.
    scale : {'high_vs_low', 'per_sd'}
        Of the ratio and of the test: log-rank between halves, or the Wald test per SD.
    n_simulations : int
    alpha : float
    rng : numpy Generator

    Returns
    -------
    dict
        power, ci_low, ci_high (Wilson, of the simulation), mean_ratio (geometric, of the reading), mean_events, formula
        (power at the mean number of events by `compute_power` with the attenuated ratio), n_simulations.
    """
    from scipy.stats import chi2, norm

    slope = np.log(hazard_ratio) if scale == "per_sd" else norm.ppf(hazard_ratio / (1 + hazard_ratio))
    baseline = find_baseline(follow_up, sd=abs(float(slope)))
    rejected, ratios, events = 0, [], []
    for _ in range(n_simulations):
        score = rng.normal(size=n_cases)
        reading = correlation * score + np.sqrt(1 - correlation**2) * rng.normal(size=n_cases)
        time, event = simulate_outcomes(follow_up, slope * score, baseline=baseline, rng=rng)
        x = (reading > np.median(reading)).astype(float) if scale == "high_vs_low" else reading / reading.std()
        fit = fit_sorted(sort_cases(time, event, x[:, None]))
        statistic = fit.score_test if scale == "high_vs_low" else (fit.log_hr[0] / fit.se[0]) ** 2
        rejected += bool(statistic > chi2.ppf(1 - alpha, 1))
        ratios.append(fit.log_hr[0])
        events.append(event.sum())
    low, high = compute_wilson_interval(rejected, n_simulations)
    ratio, mean_events = attenuate_ratio(hazard_ratio, correlation=correlation, scale=scale), float(np.mean(events))
    formula = compute_power(ratio, n_events=mean_events, alpha=alpha, scale=scale)
    return {
        "power": rejected / n_simulations, "ci_low": low, "ci_high": high,
        "mean_ratio": float(np.exp(np.nanmean(ratios))), "mean_events": mean_events, "formula": formula,
        "n_simulations": n_simulations,
    }  # fmt: skip


def compute_wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Parameters
    ----------
    successes : int
    n : int

    Returns
    -------
    low, high : float
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def tabulate_power(
    follow_up: FollowUp,
    *,
    n_cases: int,
    hazard_ratios: ArrayLike,
    correlation: float = 1.0,
    scale: PowerScale = "high_vs_low",
    n_simulations: int = 500,
    seed: int = 20261,
) -> pd.DataFrame:
    """Simulate the power of a cohort for several hazard ratios of the RNA.

    Parameters
    ----------
    follow_up : FollowUp
    n_cases : int
    hazard_ratios : array_like, (n,)
    correlation : float
    scale : {'high_vs_low', 'per_sd'}
    n_simulations : int
    seed : int

    Returns
    -------
    DataFrame
        hazard_ratio (the RNA's), correlation, image_ratio (attenuated), and the fields of `simulate_power`.
    """
    rows = []
    for number, ratio in enumerate(np.asarray(hazard_ratios, dtype=np.float64)):
        rng = np.random.default_rng([seed, number])
        found = simulate_power(follow_up, n_cases=n_cases, hazard_ratio=float(ratio), correlation=correlation,
                               scale=scale, n_simulations=n_simulations, rng=rng)  # fmt: skip
        image = attenuate_ratio(float(ratio), correlation=correlation, scale=scale)
        rows.append({"hazard_ratio": float(ratio), "correlation": correlation, "image_ratio": image} | found)
    return pd.DataFrame(rows)
