"""Prognosis: nothing is gained from noise, predictions are right on average, decisions and added value by hand."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats.concordance import compute_concordance
from helpers.stats.cox import fit_cox
from helpers.stats.prognosis import (
    calibrate,
    compare_concordance,
    compare_likelihood,
    compute_baseline_hazard,
    deal_folds,
    decide,
    judge_models,
    predict_out_of_fold,
    summarize_calibration,
)


def draw(n: int = 600, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    x = pd.DataFrame(rng.normal(size=(n, 3)), columns=["grade", "score", "noise"])
    time = rng.exponential(60 * np.exp(-0.5 * x["grade"] - 0.5 * x["score"]))
    censor = rng.uniform(20, 150, n)
    return np.minimum(time, censor), time <= censor, x


def test_folds_share_the_events() -> None:
    event = np.arange(103) < 31
    folds = deal_folds(event)
    assert sorted(np.bincount(folds[event])) == [6, 6, 6, 6, 7]
    assert np.array_equal(folds, deal_folds(event))


def test_the_baseline_hazard_of_four_cases_by_hand() -> None:
    hazard = compute_baseline_hazard(
        [1.0, 2.0, 3.0, 4.0], [True, False, True, False], np.log([2.0, 1.0, 1.0, 3.0]), at=[0.5, 1.0, 3.5]
    )
    assert hazard.tolist() == pytest.approx([0.0, 1 / 7, 1 / 7 + 1 / 4])


def test_no_case_is_predicted_by_a_model_that_saw_it() -> None:
    time, event, x = draw(120)
    folds = deal_folds(event)
    before = predict_out_of_fold(time, event, x, folds=folds, at=[24.0]).linear[0]
    changed = time.copy()
    changed[0] = 149.0
    same = predict_out_of_fold(changed, event, x, folds=folds, at=[24.0]).linear[0]
    assert same == before


def test_predictions_of_the_true_model_are_calibrated_and_those_of_noise_say_nothing() -> None:
    time, event, x = draw(4000)
    folds = deal_folds(event)
    good = predict_out_of_fold(time, event, x[["grade", "score"]], folds=folds, at=[60.0])
    found = summarize_calibration(time, event, good, horizon=60.0)
    assert found["ratio"] == pytest.approx(1.0, abs=0.05)
    assert found["slope"] == pytest.approx(1.0, abs=0.1)
    groups = calibrate(time, event, good.probability[:, 0], horizon=60.0)
    assert groups["n"].sum() == 4000
    assert (groups["observed"] - groups["predicted"]).abs().max() < 0.06
    assert groups["observed"].is_monotonic_increasing
    noise = predict_out_of_fold(time, event, x[["noise"]], folds=folds, at=[60.0])
    assert compute_concordance(time, event, noise.linear)["concordance"].item() == pytest.approx(0.5, abs=0.02)


def test_net_benefit_of_ten_cases_by_hand() -> None:
    time, event = np.arange(1.0, 11.0), np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
    risk = np.array([0.9, 0.8, 0.1, 0.7, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1])
    row = decide(time, event, risk, horizon=3.5, thresholds=[0.5]).iloc[0]
    # three are treated, two of them have the event: 2/10 - 1/10 * 0.5 / 0.5
    assert row["net_benefit"] == pytest.approx(0.1)
    assert row["treat_all"] == pytest.approx(0.3 - 0.7)
    assert row["share_treated"] == 0.3


def test_nobody_treated_has_no_benefit() -> None:
    time, event, _ = draw(50)
    row = decide(time, event, np.full(50, 0.1), horizon=30.0, thresholds=[0.5]).iloc[0]
    assert (row["net_benefit"], row["share_treated"]) == (0.0, 0.0)


def test_the_difference_of_concordances_is_that_of_the_two_and_its_interval_is_paired() -> None:
    time, event, x = draw(300)
    found = compare_concordance(time, event, x["grade"] + x["score"], x["grade"])
    alone = [
        compute_concordance(time, event, risk)["concordance"].item() for risk in (x["grade"] + x["score"], x["grade"])
    ]
    assert found["difference"] == pytest.approx(alone[0] - alone[1])
    rng, drawn = np.random.default_rng(8), []
    both = np.column_stack([x["grade"] + x["score"], x["grade"]])
    for _ in range(200):
        rows = rng.integers(0, 300, 300)
        pair = [compute_concordance(time[rows], event[rows], both[rows, k])["concordance"].item() for k in (0, 1)]
        drawn.append(pair[0] - pair[1])
    assert found["se"] == pytest.approx(np.std(drawn), rel=0.2)
    same = compare_concordance(time, event, x["grade"], 2 * x["grade"])
    assert (same["difference"], same["p"]) == (0.0, 1.0)


def test_the_likelihood_ratio_is_that_of_two_cox_models() -> None:
    time, event, x = draw(300)
    found = compare_likelihood(time, event, x, base=["grade"])
    gain = (
        fit_cox(time, event, x)["log_likelihood"].iloc[0] - fit_cox(time, event, x[["grade"]])["log_likelihood"].iloc[0]
    )
    assert found["statistic"] == pytest.approx(2 * gain, abs=1e-7)
    assert found["df"] == 2
    assert 0 < found["adequacy"] < 1
    with pytest.raises(StatsError, match="is no smaller part of"):
        compare_likelihood(time, event, x, base=list(x))


def test_the_likelihood_ratio_of_noise_alarms_in_five_percent() -> None:
    p = [compare_likelihood(*draw(150, seed=seed), base=["grade", "score"])["p"] for seed in range(400)]
    assert 0.025 <= np.mean(np.array(p) < 0.05) <= 0.08


def test_models_are_judged_on_the_same_cases_and_the_better_one_is_better() -> None:
    time, event, x = draw(700)
    models = {
        "nothing": x[[]],
        "clinical": x[["grade"]],
        "with score": x[["grade", "score"]],
        "with noise": x[["grade", "noise"]],
    }
    table, prognoses = judge_models(time, event, models, base="clinical", horizon=60.0, n_boot=50)
    table = table.set_index("model")
    assert table["n"].unique().tolist() == [700]
    assert table.loc["with score", "delta_low"] > 0
    assert table.loc["with noise", "delta_low"] < 0.005
    for better, worse in (("with score", "clinical"), ("clinical", "nothing")):
        assert table.loc[better, "integrated_brier"] < table.loc[worse, "integrated_brier"]
        assert table.loc[better, "uno"] > table.loc[worse, "uno"]
        assert table.loc[better, "auc"] > table.loc[worse, "auc"]
    assert table.loc["with score", "lr_p"] < 1e-6 < table.loc["with noise", "lr_p"]
    assert prognoses["nothing"].linear.tolist() == [0.0] * 700
    assert table.loc["nothing", "concordance"] == 0.5
