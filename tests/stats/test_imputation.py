"""Multiple imputation: Rubin's rules by hand, hazard ratios without bias and with honest intervals, nothing invented."""

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats.adjusted import choose_penalty, fit_adjusted
from helpers.stats.cox import fit_cox, fit_uni_and_multivariable
from helpers.stats.fast_cox import fit_efron
from helpers.stats.imputation import compute_cumulative_hazard, impute_covariates, pool_rubin, summarize_missing


def draw(n: int = 400, *, seed: int = 5) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    grade = np.clip(np.round(2 + 0.8 * score + rng.normal(0, 0.7, n)), 1, 3)
    size = rng.gamma(4, 6, n)
    time = rng.exponential(60 * np.exp(-0.4 * score - 0.4 * (grade - 2) - 0.02 * (size - 24)))
    censor = rng.uniform(10, 120, n)
    x = pd.DataFrame({"score": score, "grade": grade, "size": size})
    return np.minimum(time, censor), time <= censor, x


def hide(x: pd.DataFrame, share: float, *, seed: int = 1) -> pd.DataFrame:
    """Lose grades, more often where the score is high: missing at random, not completely."""
    rng = np.random.default_rng(seed)
    chance = share * 2 / (1 + np.exp(-1.5 * x["score"]))
    return x.assign(grade=x["grade"].where(rng.random(len(x)) > chance))


def test_rubin_s_rules_of_three_imputations_worked_by_hand() -> None:
    row = pool_rubin([[1.0], [1.2], [1.4]], [[0.04], [0.05], [0.06]]).iloc[0]
    between, total = 0.04, 0.05 + 4 / 3 * 0.04
    assert row["estimate"] == pytest.approx(1.2)
    assert row["se"] == pytest.approx(total**0.5)
    share = 4 / 3 * between / total
    assert row["missing_information"] == pytest.approx(share)
    assert row["df"] == pytest.approx(2 / share**2)
    assert row["ci_high"] - 1.2 == pytest.approx(2.3326 * total**0.5, abs=1e-3)  # t of 7.51 degrees


def test_equal_imputations_leave_nothing_uncertain_but_the_sample() -> None:
    row = pool_rubin([[0.5], [0.5]], [[0.01], [0.01]]).iloc[0]
    assert (row["se"], row["missing_information"]) == (0.1, 0.0)
    assert row["ci_high"] == pytest.approx(0.5 + 1.959964 * 0.1, abs=1e-6)


def test_small_complete_samples_have_fewer_degrees_of_freedom() -> None:
    many = pool_rubin([[1.0], [1.2]], [[0.04], [0.05]])["df"].item()
    few = pool_rubin([[1.0], [1.2]], [[0.04], [0.05]], complete_df=20)["df"].item()
    assert few < min(many, 20)


def test_known_values_stay_and_drawn_ones_differ_between_imputations() -> None:
    time, event, x = draw()
    holes = hide(x, 0.25)
    tables = impute_covariates(holes, time=time, event=event, n_imputations=3)
    lost = holes["grade"].isna()
    for table in tables:
        pd.testing.assert_frame_equal(table[~lost], x[~lost])
        assert table["grade"].std() == pytest.approx(x["grade"].std(), rel=0.1), "draws spread as grades do"
        assert table["grade"].corr(x["score"]) == pytest.approx(x["grade"].corr(x["score"]), abs=0.05)
    assert (tables[0].loc[lost, "grade"] != tables[1].loc[lost, "grade"]).all()
    again = impute_covariates(holes, time=time, event=event, n_imputations=3)
    pd.testing.assert_frame_equal(tables[2], again[2])


def test_complete_covariates_are_not_imputed() -> None:
    time, event, x = draw(100)
    assert impute_covariates(x, time=time, event=event) == [x]
    table = fit_adjusted(time, event, x)
    plain = fit_uni_and_multivariable(time, event, x)
    assert table["log_hr"].to_numpy() == pytest.approx(plain["log_hr"].to_numpy(), abs=1e-8)
    assert table["ci_low"].to_numpy() == pytest.approx(plain["ci_low"].to_numpy(), abs=1e-8)
    assert set(table["n_imputations"]) == {1}


def test_all_models_rest_on_all_cases_and_say_what_was_missing() -> None:
    time, event, x = draw()
    holes = hide(x, 0.25)
    table = fit_adjusted(time, event, holes, n_imputations=5)
    assert table["n"].nunique() == 1
    assert table["n"].iloc[0] == len(x)
    assert table.loc[table["term"] == "grade", "n_missing"].unique().tolist() == [holes["grade"].isna().sum()]
    assert table.loc[table["model"] == "univariable", "events_per_term"].iloc[0] == event.sum()
    assert summarize_missing(holes)["missing"] == {"grade": int(holes["grade"].isna().sum())}


def test_imputed_ratios_have_no_bias_and_are_wider_than_complete_data() -> None:
    errors, wider = [], []
    for seed in range(12):
        time, event, x = draw(500, seed=100 + seed)
        whole = fit_efron(time, event, x)
        table = fit_adjusted(time, event, hide(x, 0.3, seed=seed), n_imputations=5).query("model == 'multivariable'")
        errors.append(table["log_hr"].to_numpy() - whole.log_hr)
        wider.append(table["se"].to_numpy()[1] > whole.se[1])
    mean = np.mean(errors, axis=0)
    assert np.abs(mean[:2]) == pytest.approx([0, 0], abs=0.05), "score and grade, against the same data without holes"
    assert np.mean(wider) > 0.8, "a grade that was not seen is not known as well as one that was"


def test_the_outcome_takes_part_or_ratios_shrink() -> None:
    """The oracle of what must not be done: a mean instead of a draw pulls the ratio of grade, not the honest one."""
    time, event, x = draw(3000, seed=9)
    holes = hide(x, 0.4)
    honest = fit_adjusted(time, event, holes, n_imputations=4).query("model == 'multivariable' and term == 'grade'")
    whole = fit_efron(time, event, x).log_hr[1]
    assert honest["log_hr"].item() == pytest.approx(whole, abs=0.09)


def test_few_events_shrink_the_covariates_and_never_the_score() -> None:
    rng = np.random.default_rng(3)
    n = 60
    x = pd.DataFrame(rng.normal(size=(n, 6)), columns=["score", *"abcde"])
    time = rng.exponential(20 * np.exp(-0.8 * x["score"]))
    event = rng.random(n) < 0.4
    table = fit_adjusted(time, event, x).query("model == 'multivariable'").set_index("term")
    plain = fit_cox(time, event, x).set_index("term")
    assert table["penalty"].iloc[0] > 0
    assert table["df"].iloc[0] == pytest.approx(event.sum() / 10, abs=0.01)
    others = list("abcde")
    assert (table.loc[others, "log_hr"] ** 2).sum() < (plain.loc[others, "log_hr"] ** 2).sum()
    strongest = fit_efron(time, event, x, penalty=[0, *[1e8] * 5]).log_hr[0]
    assert strongest == pytest.approx(fit_cox(time, event, x[["score"]])["log_hr"].item(), abs=1e-4)


def test_the_penalty_leaves_ten_events_per_effective_term_whatever_the_covariates_say() -> None:
    time, event, x = draw(60)
    event = event & (np.arange(60) % 2 == 0)
    shrunk = np.array([False, True, True])
    penalty = choose_penalty(time, event, x, shrunk=shrunk)
    df = fit_efron(time, event, x, penalty=penalty * shrunk).df
    assert df == pytest.approx(max(event.sum() / 10, 1.5), abs=0.01)
    many_time, many_event, many = draw(400)
    assert choose_penalty(many_time, many_event, many, shrunk=shrunk) == 0.0


def test_the_cumulative_hazard_of_four_cases_by_hand() -> None:
    hazard = compute_cumulative_hazard([2.0, 1.0, 2.0, 3.0], [True, True, False, True])
    assert hazard.tolist() == pytest.approx([1 / 4 + 1 / 3, 1 / 4, 1 / 4 + 1 / 3, 1 / 4 + 1 / 3 + 1])


def test_a_missing_score_and_an_empty_covariate_are_refused() -> None:
    time, event, x = draw(50)
    with pytest.raises(StatsError, match="the score is missing for 1 cases"):
        fit_adjusted(time, event, x.assign(score=x["score"].where(x.index > 0)))
    with pytest.raises(StatsError, match="covariates grade are known for fewer than 3 cases"):
        impute_covariates(x.assign(grade=np.nan), time=time, event=event)
    with pytest.raises(StatsError, match=r"expected the same, 2\+ rows"):
        pool_rubin([[1.0]], [[1.0]])
