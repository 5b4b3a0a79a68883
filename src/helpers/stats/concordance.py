"""Concordance: how often the case with the higher risk has its event first."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from helpers.core.errors import StatsError
from helpers.stats.follow_up import Z95, Bools, Floats, truncate_follow_up


def compute_concordance(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike, *, horizon: float | None = None
) -> pd.DataFrame:
    """Compute Harrell's concordance: how often, of two cases, the one with the higher risk has its event first.

    A pair counts when the earlier time is an event (at equal times: when one of them is censored). Equal risks
    count one half. The standard error is the infinitesimal jackknife over cases.

    Parameters
    ----------
    time : array_like, (n_cases,)
    event : array_like, (n_cases,)
    risk : array_like, (n_cases,); higher is worse
    horizon : float, optional
        Follow-up ends here, in the unit of `time`.

    Returns
    -------
    DataFrame
        One row: concordance (0.5 = chance), se, ci_low, ci_high (95 %), n, n_events, n_pairs.

    Raises
    ------
    StatsError
        When a risk is missing, or no pair can be compared.

    References
    ----------
    Harrell, Lee and Mark 1996, Stat Med 15:361. Equal to `concordance` of R's survival.
    """
    times, events = truncate_follow_up(time, event, horizon)
    values = np.asarray(risk, dtype=np.float64)
    if values.shape != times.shape or not np.isfinite(values).all():
        missing = int((~np.isfinite(values)).sum())
        msg = f"StatsError: {missing} of {values.size} risks are missing for {times.size} cases. Drop them by name."
        raise StatsError(msg)
    agreed, pairs = _count_pairs(times, events, values)
    total = pairs.sum() / 2
    if total == 0:
        found = f"{times.size} cases with {int(events.sum())} events"
        msg = f"StatsError: no two of {found} can be compared, expected an event before another case leaves."
        msg += " Widen the horizon."
        raise StatsError(msg)
    value = agreed.sum() / 2 / total
    se = float(np.sqrt(np.sum(((agreed - value * pairs) / total) ** 2)))
    bounds = {"ci_low": max(value - Z95 * se, 0.0), "ci_high": min(value + Z95 * se, 1.0)}
    counts = {"n": times.size, "n_events": int(events.sum()), "n_pairs": int(total)}
    return pd.DataFrame([{"concordance": value, "se": se} | bounds | counts])


def _count_pairs(time: Floats, event: Bools, risk: Floats) -> tuple[Floats, Floats]:
    """Return, per case, in how many comparable pairs it is, and in how many of them risk and order agree."""
    agreed, pairs = np.zeros(time.size), np.zeros(time.size)
    for i in np.flatnonzero(event):  # i is the earlier of the two
        later = (time > time[i]) | ((time == time[i]) & ~event)
        right = later * ((risk[i] > risk) + 0.5 * (risk[i] == risk))
        pairs += later
        agreed += right
        pairs[i] += later.sum()
        agreed[i] += right.sum()
    return agreed, pairs
