"""What chapter 04 shows: endpoints, risk groups, models and drift, each from a table that adds up."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core import paths, provenance
from helpers.core.errors import StatsError
from helpers.core.specs import PhantomSpec, SurvivalSpec
from helpers.stats import survival_report as report
from helpers.stats.survival_plan import SCORE_COLUMNS, Analysis, estimate_analyses
from helpers.stats.survival_scores import load_scores
from helpers.stats.survival_truth import read_truth

ITEM = Analysis("primary", "prolif11", "image", "rfs", "all", "per_sd", "none", None)


def draw_study(n: int = 200, *, seed: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=n)
    relapse, death = rng.exponential(110 * np.exp(-0.6 * latent)), rng.exponential(220, n)
    censoring = rng.uniform(20, 160, n)
    first = np.minimum(relapse, death)
    cases = pd.DataFrame(
        {
            "case_id": [f"{i:04d}" for i in range(n)],
            "age_years": rng.normal(60, 10, n),
            "grade": pd.array(rng.integers(1, 4, n), dtype="Int64"),
            "rfs_time_months": np.minimum(first, censoring),
            "rfs_event": pd.array(first <= censoring, dtype="boolean"),
            "os_time_months": np.minimum(death, censoring),
            "os_event": pd.array(death <= censoring, dtype="boolean"),
        }
    )
    parts = [
        pd.DataFrame(
            {"case_id": cases["case_id"], "split": "development", "target": "prolif11", "measured": m, "score": s}
        )
        for m, s in (("image", latent + rng.normal(size=n)), ("rna", latent))
    ]
    return cases, pd.concat(parts, ignore_index=True)


def test_every_case_of_an_endpoint_is_counted_once() -> None:
    cases, _ = draw_study()
    cases.loc[0, "rfs_event"] = pd.NA
    cases.loc[1, "rfs_time_months"] = 0.0
    table = report.summarize_endpoints(cases, ["rfs", "os"]).set_index("endpoint")
    assert (table["n"] + table["n_unknown"] == 200).all()
    assert table.loc["rfs", ["n_unknown", "n_time_zero"]].tolist() == [1, 1]
    assert table.loc["os", "n_events"] == cases["os_event"].sum()


@pytest.mark.parametrize(
    ("months", "cover", "ticks"),
    [
        (120, True, [0, 24, 48, 72, 96, 120]),
        (130, True, [0, 24, 48, 72, 96, 120, 144]),
        (130, False, [0, 24, 48, 72, 96, 120]),
        (299, True, [0, 60, 120, 180, 240, 300]),
        (30, True, [0, 6, 12, 18, 24, 30]),
        (3, False, [0, 6]),
    ],
)
def test_ticks_are_whole_steps_and_few(months: float, cover: bool, ticks: list[float]) -> None:
    assert report.plan_ticks(months, cover=cover).tolist() == ticks


def test_risk_groups_hold_everybody_and_agree_with_their_own_test() -> None:
    cases, scores = draw_study()
    groups = report.compare_risk_groups(replace(ITEM, horizon_months=60.0), cases, scores)
    assert groups.test["n"].sum() == 200
    assert groups.ratio["n_events"] == groups.test["n_events"].sum()
    assert groups.ratio["scale"] == "high_vs_low"
    assert groups.at_risk["time"].max() == 60
    assert groups.curve["time"].max() <= 60


def test_without_a_horizon_the_drawing_ends_where_a_group_thins_out() -> None:
    cases, scores = draw_study()
    groups = report.compare_risk_groups(ITEM, cases, scores)
    last = groups.at_risk[groups.at_risk["time"] == groups.at_risk["time"].max()]
    assert (last["n_at_risk"] >= report.FEWEST_SHOWN).all()
    assert groups.test["n_events"].sum() == cases["rfs_event"].sum(), "the test uses all of follow-up"


def test_losses_are_counted_by_reason() -> None:
    counted = report.count_losses({"a": "no image", "b": "no image", "c": "unknown status"})
    assert counted.to_dict("records") == [{"reason": "no image", "n": 2}, {"reason": "unknown status", "n": 1}]
    assert report.count_losses({}).empty


def test_models_of_image_and_rna_share_their_covariates_in_one_block() -> None:
    cases, scores = draw_study()
    fits, notes = report.fit_models(ITEM, cases, scores, measured=["image", "rna"], covariates=["age_years", "grade"])
    words = f"200 cases, 200 of them complete; {cases['rfs_event'].sum() / 3:.0f} events per term"
    assert notes == {"image": words, "rna": words}
    table = report.arrange_models(fits)
    assert table["label"].tolist() == [
        "Univariable", "11-gene score (image), per SD", "11-gene score (RNA), per SD", "Age, per 10 years", "Grade, per step",
        f"Multivariable, predicted from the image ({cases['rfs_event'].sum() / 3:.0f} events per term)",
        "11-gene score (image), per SD", "Age, per 10 years", "Grade, per step",
        f"Multivariable, measured by RNA ({cases['rfs_event'].sum() / 3:.0f} events per term)",
        "11-gene score (RNA), per SD", "Age, per 10 years", "Grade, per step",
    ]  # fmt: skip


def test_models_on_different_cases_keep_their_blocks_apart() -> None:
    cases, scores = draw_study()
    fewer = scores.drop(scores.index[(scores["measured"] == "rna") & (scores["case_id"] < "0010")])
    fits, notes = report.fit_models(ITEM, cases, fewer, measured=["image", "rna"], covariates=["age_years"])
    assert notes["rna"].startswith("190 cases, 190 of them complete")
    headings = report.arrange_models(fits).query("heading == True")["label"].tolist()
    assert headings[:2] == ["Univariable, predicted from the image", "Univariable, measured by RNA"]


def test_missing_covariates_are_imputed_counted_and_nobody_is_lost() -> None:
    cases, scores = draw_study()
    cases.loc[cases.index < 30, "grade"] = pd.NA
    fits, notes = report.fit_models(
        ITEM, cases, scores, measured=["rna"], covariates=["age_years", "grade"], n_imputations=3
    )
    assert "200 cases, 170 of them complete; imputed 3 times: Grade, per step 30" in notes["rna"]
    assert fits["rna"]["n"].unique().tolist() == [200]


def test_few_events_per_term_are_shrunk_and_the_note_says_so() -> None:
    cases, scores = draw_study(60)
    fits, notes = report.fit_models(
        replace(ITEM, horizon_months=24.0), cases, scores, measured=["rna"], covariates=["age_years", "grade"]
    )
    together = fits["rna"].query("model == 'multivariable'")
    assert together["events_per_term"].iloc[0] < 10
    assert together["penalty"].iloc[0] > 0
    assert "so covariates are shrunk (ridge" in notes["rna"]


def test_a_model_that_cannot_be_fitted_leaves_a_note() -> None:
    cases, scores = draw_study(30)
    fits, notes = report.fit_models(
        replace(ITEM, horizon_months=0.001), cases, scores, measured=["image"], covariates=["age_years"]
    )
    assert fits == {}
    assert "0 events" in notes["image"]


def test_the_ratio_is_followed_over_all_of_follow_up_whatever_the_plan_says() -> None:
    cases, scores = draw_study()
    drift = report.follow_ratio(replace(ITEM, horizon_months=24.0), cases, scores, horizons=[60.0], edges=[0.0, 40.0])
    assert drift.periods["n_events"].sum() == cases["rfs_event"].sum()
    assert drift.horizons["end"].tolist() == [60.0, cases["rfs_time_months"].max()]
    assert len(drift.residuals) == cases["rfs_event"].sum()
    whole = estimate_analyses([ITEM], cases, scores, covariates=())["hazard_ratio"].item()
    assert drift.horizons["hazard_ratio"].iloc[-1] == pytest.approx(whole, abs=1e-8)


def test_each_partition_gives_its_own_ratio() -> None:
    cases, scores = draw_study()
    other = scores.assign(score=scores["score"] + np.random.default_rng(3).normal(size=len(scores)))
    table = report.estimate_over_partitions(ITEM, cases, {0: scores, 4: other})
    assert table["partition"].tolist() == [0, 4]
    assert table["hazard_ratio"].nunique() == 2


def test_deaths_are_set_apart_from_recurrence() -> None:
    cases, _ = draw_study(400)
    curve, words = report.estimate_competing_incidence(cases, "rfs")
    assert words == "Recurrence"
    died_first = (cases["rfs_event"] & cases["os_event"] & (cases["rfs_time_months"] == cases["os_time_months"])).sum()
    assert curve["n_competing"].sum() == died_first
    assert curve["n_events"].sum() == cases["rfs_event"].sum() - died_first


def test_the_forest_has_a_heading_per_block_and_pairs_image_with_rna() -> None:
    cases, scores = draw_study()
    items = [ITEM, replace(ITEM, role="secondary", endpoint="os"), replace(ITEM, role="control", measured="rna")]
    table = report.arrange_forest(estimate_analyses(items, cases, scores, covariates=()))
    assert table["label"].tolist() == [
        "All cases, per SD, all of follow-up", "Recurrence or death: 11-gene score, image (primary)",
        "Recurrence or death: 11-gene score, RNA", "Overall survival: 11-gene score, image",
    ]  # fmt: skip


# --- reading what the chapters before wrote --------------------------------------------------------------------------


@pytest.fixture
def book(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book whose chapters 00 and 03 have finished, in a folder of its own."""
    for name in ("notebooks", "config", "data"):
        (tmp_path / name).mkdir()
    shutil.copy(repository / "data" / "genes.yaml", tmp_path / "data")
    monkeypatch.setenv(paths.ROOT_VARIABLE, str(tmp_path))
    cases, scores = draw_study(40)
    for chapter, spec in (("00_build_cohort", {"cohort": "tables"}), ("03_predict_proliferation", {"arm": "ridge"})):
        paths.write_json(
            {"status": "finished", "key": chapter, "spec": spec}, tmp_path / "results" / "p" / chapter / "run.json"
        )
    wide = scores.pivot_table(index="case_id", columns="measured", values="score").reset_index()
    one = wide.rename(columns={"image": "y_pred", "rna": "y_true"}).assign(
        target="prolif11", split="development", fold=0, arm="ridge"
    )
    table = pd.concat([one.assign(repeat=0), one.assign(repeat=1, y_pred=one["y_pred"] + 0.1)])
    table = pd.concat([table, one.assign(repeat=0, arm="clinical_only", y_pred=0.0)])
    folder = tmp_path / "results" / "p"
    paths.write_table(table, folder / "03_predict_proliferation" / "predictions.parquet")
    paths.write_json({"prolif11": 0.25}, folder / "03_predict_proliferation" / "thresholds.json")
    paths.write_table(cases, folder / "00_build_cohort" / "cohort" / "cases.parquet")
    return folder


def test_scores_are_those_of_the_declared_arm_with_its_cutoff(book: Path) -> None:
    spec = SurvivalSpec(targets=["prolif11"])
    cases, _ = draw_study(40)
    loaded = load_scores(spec, provenance.start(spec, book), cases)
    assert loaded.measured == ("image", "rna")
    assert loaded.cutoffs == {"prolif11": 0.25}
    assert sorted(loaded.partitions) == [0, 1]
    assert "arm ridge, partition 0 of 2" in loaded.origin
    assert loaded.table[loaded.table["measured"] == "image"]["score"].nunique() == 40


def test_a_prediction_of_an_unknown_case_is_lost_by_name(book: Path) -> None:
    spec = SurvivalSpec(targets=["prolif11"])
    cases, _ = draw_study(40)
    run = provenance.start(spec, book)
    loaded = load_scores(spec, run, cases.iloc[1:])
    assert "0000" not in set(loaded.table["case_id"])
    run.finish()
    losses = json.loads((run.dir / "run.json").read_text())["losses"]
    assert losses == [{"kind": "case", "item": "0000", "reason": "predicted, but not in the case table"}]


def test_a_table_from_elsewhere_stands_in_for_chapter_03(book: Path, tmp_path: Path) -> None:
    cases, _ = draw_study(40)
    theirs = tmp_path / "theirs.csv"
    paths.write_table(pd.DataFrame({"case_id": cases["case_id"], "target": "prolif11", "y_pred": 1.0}), theirs)
    spec = SurvivalSpec(targets=["prolif11"], predictions_path=str(theirs))
    loaded = load_scores(spec, provenance.start(spec, book), cases)
    assert (loaded.measured, loaded.cutoffs) == (("image",), {})
    assert loaded.table["score"].eq(1.0).all()


def test_expression_alone_needs_no_chapter_03(book: Path) -> None:
    cases, _ = draw_study(40)
    long = pd.DataFrame({"case_id": cases["case_id"], "gene": "MKI67", "value": np.arange(40.0), "unit": "log2"})
    paths.write_table(long, book / "00_build_cohort" / "cohort" / "expression.parquet")
    spec = SurvivalSpec(primary_target="MKI67", targets=["MKI67"], score_source="expression")
    loaded = load_scores(spec, provenance.start(spec, book), cases)
    assert loaded.measured == ("rna",)
    assert list(loaded.table) == list(SCORE_COLUMNS)
    assert loaded.table["score"].tolist() == list(np.arange(40.0))


def test_a_cohort_that_is_no_phantom_has_no_truth(book: Path) -> None:
    assert read_truth(provenance.start(SurvivalSpec(), book), correlations={}) is None


def test_the_truth_of_another_phantom_is_refused(book: Path) -> None:
    spec = PhantomSpec(n_estimand=10_000)
    record = {"status": "finished", "key": "k", "spec": {"cohort": "phantom", "phantom": spec.model_dump(mode="json")}}
    paths.write_json(record, book / "00_build_cohort" / "run.json")
    truth = paths.cohorts_dir() / "p" / "truth"
    paths.write_json({"key": "f" * 64}, truth / "estimands.json")
    with pytest.raises(StatsError, match=r"truth in 'data/cohorts/p' \(key ffffffffffff\) belongs to another phantom"):
        read_truth(provenance.start(SurvivalSpec(), book), correlations={})


def test_an_adjusted_primary_is_adjusted_in_every_partition() -> None:
    cases, scores = draw_study()
    item = replace(ITEM, adjustment="clinical")
    table = report.estimate_over_partitions(item, cases, {0: scores}, covariates=["age_years", "grade"])
    declared = estimate_analyses([item], cases, scores, covariates=["age_years", "grade"])
    assert table["hazard_ratio"].item() == declared["hazard_ratio"].item()
    assert report.estimate_over_partitions(item, cases, {0: scores})["hazard_ratio"].isna().all(), "never unadjusted"


def test_another_arm_is_not_cut_where_chapter_03_cut_its_own(book: Path) -> None:
    cases, _ = draw_study(40)
    spec = SurvivalSpec(targets=["prolif11"], prediction_arm="clinical_only")
    loaded = load_scores(spec, provenance.start(spec, book), cases)
    assert loaded.cutoffs == {}, "0.25 is the ridge's"
    assert "arm clinical_only, partition 0 of 1" in loaded.origin, "the other partition holds no such arm"


def test_beyond_the_horizon_nobody_is_said_to_have_left() -> None:
    cases, scores = draw_study()
    at_risk = report.compare_risk_groups(replace(ITEM, horizon_months=66.0), cases, scores).at_risk
    assert at_risk["time"].max() == 72
    assert at_risk.loc[at_risk["time"] == 72, "n_at_risk"].isna().all(), "follow-up was ended at 66 months, by us"
    assert at_risk.loc[at_risk["time"] <= 60, "n_at_risk"].notna().all()


def test_the_partitions_of_a_text_table_are_numbers(book: Path, tmp_path: Path) -> None:
    cases, _ = draw_study(40)
    theirs = tmp_path / "theirs.csv"
    one = pd.DataFrame({"case_id": cases["case_id"], "target": "prolif11", "y_pred": 1.0})
    paths.write_table(pd.concat([one.assign(repeat=0), one.assign(repeat=1, y_pred=2.0)]), theirs)
    spec = SurvivalSpec(targets=["prolif11"], predictions_path=str(theirs))
    loaded = load_scores(spec, provenance.start(spec, book), cases)
    assert sorted(loaded.partitions) == [0, 1]
    assert loaded.table["score"].eq(1.0).all()
