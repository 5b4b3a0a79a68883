"""Kaplan–Meier curves: every count and every step is lifelines' own, ties, rounded times and time 0 among them."""

import numpy as np
import pytest

from helpers.stats.kaplan_meier import fit_km


@pytest.mark.parametrize("seed", range(12))
def test_counts_and_survival_equal_those_of_lifelines(seed: int) -> None:
    from lifelines import KaplanMeierFitter

    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 120))
    time, event = np.round(rng.exponential(20, n), seed % 3), rng.random(n) < 0.5
    time[: seed % 4] = 0.0
    ours, theirs = fit_km(time, event), KaplanMeierFitter().fit(time, event)
    table = theirs.event_table
    assert ours["time"].tolist() == table.index.tolist()
    for name, column in {"n_at_risk": "at_risk", "n_events": "observed", "n_censored": "censored"}.items():
        assert ours[name].tolist() == table[column].astype(int).tolist(), name
    assert ours["survival"].to_numpy() == pytest.approx(theirs.survival_function_.iloc[:, 0].to_numpy(), abs=1e-12)
