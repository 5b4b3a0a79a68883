"""The primary ratio from all sides: other models, added value, subgroups, sites, competing ratios, power."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import StatsError
from helpers.stats import survival_depth as depth
from helpers.stats.competing import derive_causes
from helpers.stats.competing_models import fit_fine_gray
from helpers.stats.cox import fit_cox
from helpers.stats.kaplan_meier import estimate_rmst
from helpers.stats.survival_plan import Analysis

ITEM = Analysis(
    role="primary", target="prolif11", measured="image", endpoint="rfs", population="all", scale="per_sd",
    adjustment="none", horizon_months=120.0,
)  # fmt: skip
COVARIATES = ("age_years", "grade", "er")


def draw(n: int = 400, *, seed: int = 11, missing: float = 0.15) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    rna = rng.normal(9, 1, n)
    grade = np.clip(np.round(2 + 0.6 * (rna - 9) + rng.normal(0, 0.6, n)), 1, 3)
    recur = rng.exponential(130 * np.exp(-0.6 * (rna - 9)))
    death, censor = rng.exponential(300, n), rng.uniform(20, 180, n)
    rfs = np.minimum.reduce([recur, death, censor])
    cases = pd.DataFrame(
        {
            "case_id": [f"C{i:03d}" for i in range(n)], "site": [f"S{i % 6}" for i in range(n)],
            "age_years": rng.uniform(35, 80, n), "grade": pd.array(grade, dtype="Int64"),
            "er": rng.choice(["positive", "negative"], n, p=[0.7, 0.3]),
            "rfs_time_months": rfs, "rfs_event": rfs < censor,
            "os_time_months": np.minimum(death, censor), "os_event": death < censor,
        }
    )  # fmt: skip
    cases.loc[rng.random(n) < missing, "grade"] = pd.NA
    image = 0.7 * (rna - 9) + np.sqrt(1 - 0.49) * rng.normal(size=n)
    parts = [
        pd.DataFrame(
            {
                "case_id": cases["case_id"],
                "split": "development",
                "target": "prolif11",
                "measured": name,
                "score": score,
            }
        )
        for name, score in (("image", image), ("rna", rna))
    ]
    return cases, pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def question() -> depth.Question:
    return depth.ask(ITEM, *draw(), covariates=COVARIATES)


def test_a_question_keeps_cases_whose_covariates_are_missing(question: depth.Question) -> None:
    assert len(question.chosen.case_id) == 400
    assert question.chosen.losses == {}
    assert question.terms.isna().any().tolist() == [False, False, True, False]
    assert question.x.std(ddof=1) == pytest.approx(1.0)


def test_other_choices_keep_the_estimate_where_only_its_error_differs(question: depth.Question) -> None:
    table = depth.vary_model(question, n_imputations=3, n_boot=100).set_index("choice")
    same = ["model-based standard error", "robust standard error", "profile likelihood", "100 bootstraps of cases"]
    assert table.loc[same, "hazard_ratio"].nunique() == 1
    assert (table["ci_low"] < table["hazard_ratio"]).all()
    assert (table["hazard_ratio"] < table["ci_high"]).all()
    stratified = fit_cox(
        question.chosen.time,
        question.chosen.event,
        pd.DataFrame({"x": question.x}),
        strata=question.site,
        horizon=120.0,
    )
    assert table.loc["stratified by site", "hazard_ratio"] == pytest.approx(stratified["hazard_ratio"].item())
    assert not any("clustered" in name for name in table.index), "six sites are too few for a clustered error"
    adjusted = [name for name in table.index if name.startswith("adjusted")]
    assert [name.split(" (")[0] for name in adjusted] == [
        "adjusted, missing values imputed",
        "adjusted, complete cases",
    ]
    assert table.loc[adjusted, "n"].tolist() == [400, question.terms.notna().all(axis=1).sum()]


def test_complete_covariates_are_not_called_imputed() -> None:
    whole = depth.ask(ITEM, *draw(missing=0.0), covariates=COVARIATES)
    choices = depth.vary_model(whole, n_boot=50)["choice"]
    assert [name.split(" (")[0] for name in choices if name.startswith("adjusted")] == ["adjusted"]


def test_added_value_compares_models_on_the_cases_that_have_everything(question: depth.Question) -> None:
    cases, scores = draw()
    both = [
        depth.ask(
            ITEM, cases, scores[~((scores["measured"] == "rna") & (scores["case_id"] < "C020"))], covariates=COVARIATES
        )
    ]
    both.append(
        depth.ask(
            Analysis(**{**vars(ITEM), "measured": "rna"}),
            cases,
            scores[~((scores["measured"] == "rna") & (scores["case_id"] < "C020"))],
            covariates=COVARIATES,
        )
    )
    added = depth.judge_added_value(both, horizon=60.0, n_boot=50)
    table = added.table.set_index("model")
    expected = (cases["grade"].notna() & (cases["case_id"] >= "C020")).sum()
    assert table["n"].unique().tolist() == [expected]
    assert list(table.index) == ["nothing", "clinical", "clinical + image", "clinical + RNA"]
    assert table.loc["clinical + RNA", "lr_statistic"] > table.loc["clinical + image", "lr_statistic"] > 0, (
        "RNA has less noise"
    )
    assert set(added.calibration["model"]) == {"clinical", "clinical + image", "clinical + RNA"}
    assert added.decisions["threshold"].between(0, 1).all()


def test_too_few_events_are_not_judged(question: depth.Question) -> None:
    with pytest.raises(StatsError, match=r"events by 2 months among \d+ complete cases, expected at least 20"):
        depth.judge_added_value([question], horizon=2.0)
    with pytest.raises(StatsError, match="no clinical covariate varies"):
        depth.judge_added_value([depth.ask(ITEM, *draw())], horizon=60.0)


def test_time_lost_is_the_area_between_the_curves_and_a_late_horizon_says_why(question: depth.Question) -> None:
    table = depth.compare_mean_times(question, horizons=[60.0, 600.0])
    group = np.where(question.chosen.score > question.constants.cutoff.value, "high", "low")
    means = estimate_rmst(question.chosen.time, question.chosen.event, group=group, horizon=60.0).set_index("group")[
        "rmst"
    ]
    assert table.loc[0, "difference"] == pytest.approx(means["high"] - means["low"])
    assert table.loc[0, "difference"] < 0, "the high group loses time"
    assert "is followed to 600" in table.loc[1, "note"]


def test_competing_ratios_are_those_of_the_two_models(question: depth.Question) -> None:
    table = depth.estimate_competing_ratios(question).set_index(["cause", "model"])
    cases = question.cases
    time, cause = derive_causes(
        cases["rfs_time_months"],
        cases["rfs_event"],
        death_time=cases["os_time_months"],
        death=cases["os_event"],
        composite=True,
    )
    alone = fit_fine_gray(time, cause, pd.DataFrame({"x": question.x}))
    assert table.loc[("event", "subdistribution"), "hazard_ratio"] == pytest.approx(alone["hazard_ratio"].item())
    assert table.loc[("event", "cause_specific"), "ci_low"] > 1
    assert table.loc[("other death", "cause_specific"), "n_events"] == (cause == 2).sum()


def test_subgroups_have_headings_with_their_test_and_holm_counts_them(question: depth.Question) -> None:
    table = depth.compare_subgroups(question, names=["er", "grade", "age_years", "her2"])
    assert table.loc[table["subgroup"] == "her2", "note"].tolist() == ["not in the case table"]
    p = table.dropna(subset=["p_interaction"]).drop_duplicates("subgroup")
    assert (p["p_interaction_holm"] >= p["p_interaction"]).all()
    assert p["p_interaction_holm"].min() == pytest.approx(min(1, 3 * p["p_interaction"].min()))
    rows = depth.arrange_subgroups(table)
    assert rows.loc[rows["heading"], "label"].str.startswith(("ER (int", "Grade (int", "Age (int")).all()


def test_sites_are_pooled_with_a_prediction_for_the_next_one(question: depth.Question) -> None:
    sites, pooled = depth.pool_sites(question)
    assert sites["n"].sum() == 400
    assert pooled["n_sites"].item() == 6
    rows = depth.arrange_sites(sites, pooled)
    assert rows["label"].tolist()[-2:] == ["mean of sites (Hartung–Knapp)", "a new site (prediction)"]
    assert rows["label"].iloc[0] == "site S0"
    assert rows["ci_low"].iloc[-1] < rows["ci_low"].iloc[-2]
    fewer = sites.assign(log_hr=sites["log_hr"].where(sites["level"] != "S3"))
    rows = depth.arrange_sites(fewer, pooled)
    together = rows[rows["label"] == "1 site(s), too few events"].iloc[0]
    assert together["n"] == sites.loc[sites["level"] == "S3", "n"].item()
    assert rows["n"].iloc[-2] == 400 - together["n"], "the mean rests on the sites that have a ratio"


def test_power_of_this_cohort_grows_with_the_ratio_and_is_told_in_words(question: depth.Question) -> None:
    power, needs = depth.estimate_own_power(question, ratios=[1.2, 2.0], correlation=0.7, n_simulations=60)
    assert power["power"].is_monotonic_increasing
    assert power["mean_events"].iloc[0] == pytest.approx(
        (question.chosen.event & (question.chosen.time <= 120)).sum(), rel=0.1
    )
    assert set(needs["rna_ratio"]) == {1.2, 2.0}
    words = depth.describe_power(power, needs)
    assert "1.65 between halves needs 125 events for 80 % power" in words
    assert words.count("of tries") == 2


def test_the_spline_of_a_question_ends_at_its_horizon(question: depth.Question) -> None:
    test = depth.bend_score(question)[1]
    assert test["n_events"].iloc[0] == (question.chosen.event & (question.chosen.time <= 120)).sum()


@pytest.mark.shared
def test_in_metabric_hazards_are_not_proportional_and_time_lost_says_it_without_them(shared_data: Path) -> None:
    from helpers.cohort.imports.metabric import import_metabric
    from helpers.stats.proportionality import check_proportional_hazards, estimate_ratio_by_period

    raw = import_metabric(shared_data / "metabric")
    gene = raw.expression.query("gene == 'MKI67'")
    scores = gene.rename(columns={"value": "score", "gene": "target"}).assign(split="development", measured="rna")
    item = replace(ITEM, target="MKI67", measured="rna", scale="high_vs_low", horizon_months=None)
    question = depth.ask(item, raw.cases, scores)
    chosen = question.chosen
    assert check_proportional_hazards(chosen.time, chosen.event, pd.DataFrame({"x": question.x}))["p"].iloc[0] < 1e-8
    periods = estimate_ratio_by_period(chosen.time, chosen.event, question.x, scale="per_unit", edges=[0, 24, 60, 120])
    assert periods["hazard_ratio"].is_monotonic_decreasing
    lost = depth.compare_mean_times(question, horizons=[120.0]).iloc[0]
    assert lost["difference"] == pytest.approx(-14.9, abs=0.1), "months free of recurrence and death within ten years"
    assert lost["ci_high"] < -11
    curve_test = depth.bend_score(question)[1].set_index("test")
    assert curve_test.loc["curvature", "p"] < 0.01


def test_a_site_per_case_leaves_the_other_choices_standing() -> None:
    cases, scores = draw(120, missing=0.0)
    asked = depth.ask(ITEM, cases.assign(site=cases["case_id"]), scores, covariates=COVARIATES)
    table = depth.vary_model(asked, n_imputations=2, n_boot=50).set_index("choice")
    assert np.isnan(table.loc["stratified by site", "hazard_ratio"])
    assert "no single maximum" in table.loc["stratified by site", "note"]
    assert table.drop("stratified by site")["hazard_ratio"].notna().all()


def test_resamples_without_an_estimate_are_counted_and_not_dropped() -> None:
    cases, scores = draw(60, missing=0.0)
    late = np.sort(np.flatnonzero(cases["rfs_event"]))[4:]
    cases.loc[late, "rfs_event"] = False
    image = scores["measured"] == "image"
    low = scores.loc[image, "score"].to_numpy() < scores.loc[image, "score"].median()
    cases.loc[low & (cases.index != np.flatnonzero(low & cases["rfs_event"])[0]), "rfs_event"] = False
    item = replace(ITEM, scale="high_vs_low", horizon_months=None)
    table = depth.vary_model(depth.ask(item, cases, scores), n_imputations=2, n_boot=100).set_index("choice")
    row = table.loc["100 bootstraps of cases"]
    assert np.isnan(row["ci_high"])
    assert "resamples have no estimate" in row["note"]


def test_cases_without_a_site_are_no_site() -> None:
    cases, scores = draw(200, missing=0.0)
    cases.loc[:49, "site"] = None
    sites, _ = depth.pool_sites(depth.ask(ITEM, cases, scores))
    assert sorted(sites["level"]) == [f"S{k}" for k in range(6)]
    assert sites["n"].sum() == 150


def test_subgroups_that_are_nowhere_leave_nothing_to_draw(question: depth.Question) -> None:
    table = depth.compare_subgroups(question, names=["her2", "stage"])
    assert table["note"].tolist() == ["not in the case table"] * 2
    assert depth.arrange_subgroups(table).empty


def test_an_early_time_without_events_does_not_stop_the_judging() -> None:
    cases, scores = draw(300, missing=0.0)
    cases["rfs_time_months"] += 12.0
    cases["os_time_months"] += 12.0
    asked = [depth.ask(replace(ITEM, measured=name), cases, scores, covariates=COVARIATES) for name in ("image", "rna")]
    table = depth.judge_added_value(asked, horizon=60.0, n_boot=20).table
    assert table["integrated_brier"].between(0, 0.25).all()
    short = [
        depth.ask(item.item, cases.assign(rfs_time_months=cases["rfs_time_months"].clip(upper=50.0)), scores,
                  covariates=COVARIATES) for item in asked
    ]  # fmt: skip
    with pytest.raises(StatsError, match=r"known to be free of the event at 54 \(longest follow-up 50"):
        depth.judge_added_value(short, horizon=60.0, n_boot=20)
