"""A spline of the score: straight where the truth is straight, bent where it is bent, and 1 at the median."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats.cox import fit_cox
from helpers.stats.flexible import KNOT_QUANTILES, fit_spline
from helpers.stats.proportionality import compute_natural_spline


def draw(n: int = 500, *, seed: int = 1, bent: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.normal(9, 1.2, n)
    linear = 0.8 * np.abs(score - 9) if bent else 0.4 * score
    time = rng.exponential(np.exp(-(linear - linear.mean())) * 50)
    censor = rng.uniform(5, 150, n)
    return np.minimum(time, censor), time <= censor, score


def test_the_fit_is_the_cox_model_of_the_spline_s_columns() -> None:
    time, event, score = draw()
    knots = np.quantile(score, KNOT_QUANTILES[4])
    columns = pd.DataFrame(compute_natural_spline(score, knots=knots)[:, 1:])
    slow = fit_cox(time, event, columns)
    curve, test = fit_spline(time, event, score)
    median = np.median(score)
    at = curve["score"].to_numpy()
    basis = (compute_natural_spline(at, knots=knots) - compute_natural_spline([median], knots=knots))[:, 1:]
    assert np.log(curve["hazard_ratio"]).to_numpy() == pytest.approx(basis @ slow["log_hr"].to_numpy(), abs=1e-6)
    straight = fit_cox(time, event, pd.DataFrame({"score": score}))
    gain = 2 * (slow["log_likelihood"].iloc[0] - straight["log_likelihood"].iloc[0])
    assert test.set_index("test").loc["curvature", "statistic"] == pytest.approx(gain, abs=1e-7)
    assert test.set_index("test").loc["curvature", "df"] == 2


def test_the_curve_is_one_at_the_median_and_its_band_closes_there() -> None:
    curve, test = fit_spline(*draw())
    nearest = curve.iloc[(curve["score"] - test["reference"].iloc[0]).abs().argmin()]
    assert nearest["hazard_ratio"] == pytest.approx(1.0, abs=0.02)
    width = np.log(curve["ci_high"] / curve["ci_low"])
    assert width.idxmin() == nearest.name
    assert ((curve["ci_low"] <= curve["hazard_ratio"]) & (curve["hazard_ratio"] <= curve["ci_high"])).all()


def test_a_bend_is_found_and_a_line_alarms_in_five_percent() -> None:
    assert fit_spline(*draw(bent=True))[1].set_index("test").loc["curvature", "p"] < 1e-4
    p = [fit_spline(*draw(200, seed=seed))[1].set_index("test").loc["curvature", "p"] for seed in range(300)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.085


def test_units_of_the_score_change_nothing_but_the_axis() -> None:
    time, event, score = draw()
    one, two = fit_spline(time, event, score)[0], fit_spline(time, event, 100 * score - 3)[0]
    assert two["hazard_ratio"].to_numpy() == pytest.approx(one["hazard_ratio"].to_numpy(), rel=1e-6)


def test_covariates_adjust_the_curve_and_its_tests() -> None:
    time, event, score = draw()
    confounder = pd.DataFrame({"c": score + np.random.default_rng(3).normal(0, 0.05, score.size)})
    alone, adjusted = fit_spline(time, event, score)[1], fit_spline(time, event, score, covariates=confounder)[1]
    assert adjusted["statistic"].iloc[0] < alone["statistic"].iloc[0] / 5


def test_a_score_of_few_values_and_a_missing_one_are_refused() -> None:
    time, event, score = draw(60)
    with pytest.raises(StatsError, match="the score has only 3 different values, so 4 knots fall together"):
        fit_spline(time, event, np.round(score / 3))
    with pytest.raises(StatsError, match=r"6 knots asked for \(3, 4 or 5\) and 0 scores missing"):
        fit_spline(time, event, score, n_knots=6)


@pytest.mark.shared
def test_mki67_of_metabric_bends(shared_data: Path) -> None:
    from helpers.cohort.imports.metabric import import_metabric

    raw = import_metabric(shared_data / "metabric")
    gene = raw.expression[raw.expression["gene"] == "MKI67"].set_index("case_id")["value"]
    cases = raw.cases
    test = fit_spline(cases["os_time_months"], cases["os_event"].astype(bool), gene.loc[cases["case_id"]])[1]
    assert test["n"].iloc[0] == 1904
    assert (test.set_index("test")["p"] < 1e-3).all(), "the risk rises from low to medium and then no more"
