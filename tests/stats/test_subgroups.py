"""Subgroups: the ratio of each is its own, the test compares slopes, and labels say what they hold."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats.cox import fit_cox
from helpers.stats.subgroups import estimate_by_group, label_subgroup


def draw(n: int = 500, *, seed: int = 2, differ: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.Series]:
    rng = np.random.default_rng(seed)
    x, group = rng.normal(size=n), pd.Series(rng.choice(["negative", "positive"], n), name="er")
    slope = 0.4 + differ * (group == "positive")
    time = rng.exponential(50 * np.exp(-slope * x - 0.7 * (group == "negative")))
    censor = rng.uniform(10, 150, n)
    return np.minimum(time, censor), time <= censor, x, group


def test_each_group_has_its_own_cox_model() -> None:
    time, event, x, group = draw()
    table = estimate_by_group(time, event, x, group).set_index("level")
    for level in ("negative", "positive"):
        mine = (group == level).to_numpy()
        alone = fit_cox(time[mine], event[mine], pd.DataFrame({"x": x[mine]})).iloc[0]
        assert table.loc[level, "log_hr"] == pytest.approx(alone["log_hr"], abs=1e-9)
        assert table.loc[level, "n_events"] == event[mine].sum()


def test_the_interaction_is_a_likelihood_ratio_of_two_cox_models() -> None:
    time, event, x, group = draw()
    positive = (group == "positive") * 1.0
    shared = pd.DataFrame({"x": x, "g": positive})
    own = shared.assign(product=x * positive)
    gain = 2 * (
        fit_cox(time, event, own)["log_likelihood"].iloc[0] - fit_cox(time, event, shared)["log_likelihood"].iloc[0]
    )
    from scipy.stats import chi2

    assert estimate_by_group(time, event, x, group)["p_interaction"].iloc[0] == pytest.approx(
        chi2.sf(gain, 1), rel=1e-6
    )


def test_a_planted_interaction_is_found_and_none_alarms_in_five_percent() -> None:
    assert estimate_by_group(*draw(differ=0.9))["p_interaction"].iloc[0] < 1e-4
    p = [estimate_by_group(*draw(150, seed=seed))["p_interaction"].iloc[0] for seed in range(100)]
    assert np.mean(np.array(p) < 0.05) <= 0.12


def test_a_small_group_keeps_its_row_and_takes_no_part_in_the_test() -> None:
    time, event, x, group = draw(200)
    rare = group.where(group.index >= 6, "rare").rename("er")
    table = estimate_by_group(time, event & ~((rare == "rare").to_numpy()), x, rare).set_index("level")
    assert table.loc["rare", "note"] == "fewer than 5 events"
    assert np.isnan(table.loc["rare", "log_hr"])
    assert table["df_interaction"].unique().tolist() == [1]


def test_cases_without_a_label_are_in_no_group() -> None:
    time, event, x, group = draw(200)
    table = estimate_by_group(time, event, x, group.where(group.index % 2 == 0))
    assert table["n"].sum() == 100
    with pytest.raises(StatsError, match="no case has a label in 'er'"):
        estimate_by_group(time, event, x, pd.Series([None] * 200, name="er", dtype=object))


def test_numbers_are_cut_where_the_label_says_and_unknown_stays_unknown() -> None:
    cases = pd.DataFrame(
        {
            "age_years": [49.9, 50.0, np.nan],
            "nodes_positive": [0, 1, 7],
            "stage": ["IIA", "IIIC", None],
            "grade": [1, 2, None],
        }
    )
    assert label_subgroup(cases, "age_years").tolist()[:2] == ["under 50", "50 or more"]
    assert label_subgroup(cases, "age_years").isna().tolist() == [False, False, True]
    assert label_subgroup(cases, "nodes_positive").tolist() == ["negative", "positive", "positive"]
    assert label_subgroup(cases, "stage").tolist()[:2] == ["II", "III"]
    assert label_subgroup(cases, "grade").tolist()[:2] == ["1", "2"]
    with pytest.raises(StatsError, match="no subgroup 'mood'"):
        label_subgroup(cases, "mood")
