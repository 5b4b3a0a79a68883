"""Validation over seeds: the arithmetic of the summary, the truth of table-only cohorts, and one small cohort through."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.book import validate as module
from helpers.book.validate import format_summary, judge, measure_tables, summarise, summarise_one
from helpers.book.validate_seed import BookSpecs, measure_agreement, measure_seed, plan_specs
from helpers.core.errors import RunError
from helpers.phantom.estimands import compute_estimands

TABLES = pd.DataFrame(
    {
        "endpoint": "rfs",
        "scale": ["per_sd"] * 4,
        "log_hr": [0.1, 0.2, 0.3, 0.4],
        "log_hr_truth": 0.25,
        "covered": [1, 1, 1, 0.0],
    }
)


def plan_small() -> BookSpecs:
    """The smallest profile with another seed than the tests' own cohort, and slides of half its area."""
    return plan_specs("ci", seed=70_001, slide_um=420.0)


def test_mean_and_t_interval_of_four_numbers_worked_by_hand() -> None:
    row = summarise_one("x", np.array([1.0, 2.0, 3.0, 4.0]))
    half = 3.182446 * 1.290994 / 2
    assert (row["mean"], row["smallest"], row["largest"], row["n"]) == (2.5, 1.0, 4.0, 4)
    assert row["ci_low"] == pytest.approx(2.5 - half, abs=1e-5)
    assert row["ci_high"] == pytest.approx(2.5 + half, abs=1e-5)


def test_intervals_of_a_family_are_wider_by_bonferroni() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    row = summarise_one("x", values, family=8)
    assert row["ci_high"] - row["mean"] == pytest.approx(6.8952 * 1.290994 / 2, abs=1e-3)  # t of 3 degrees, 0.996875
    measured = pd.DataFrame(
        {
            "key": "k",
            "seed": [1, 2],
            "seconds": 1.0,
            "n_slides": 3,
            "log_hr_error/a/rfs": [0.1, 0.3],
            "log_hr_error/b/rfs": [0.1, 0.3],
        }
    )
    table = summarise(measured, TABLES).set_index("id")
    assert table.loc["log_hr_error/a/rfs", "ci_low"] == summarise_one("x", np.array([0.1, 0.3]), family=2)["ci_low"]


def test_a_margin_holds_where_its_interval_lies_above_zero() -> None:
    row = {"id": "external/margin_over_null_q99/prolif11", "mean": 0.2, "ci_high": 0.3, "n": 10}
    assert judge(row | {"ci_low": 0.1}) == ("interval above 0", True)
    assert judge(row | {"ci_low": -0.1}) == ("interval above 0", False)


def test_a_single_seed_has_a_mean_and_no_interval() -> None:
    row = summarise_one("x", np.array([0.4]))
    assert row["mean"] == 0.4
    assert np.isnan(row["ci_low"])


@pytest.mark.parametrize(
    ("name", "mean", "verdict"),
    [
        ("external/ratio_to_ceiling/prolif11", 0.86, True),
        ("external/ratio_to_ceiling/prolif11", 0.84, False),
        ("external/spearman_mean_colour/prolif11", 0.34, True),
        ("external/spearman_mean_colour/prolif11", 0.36, False),
        ("external/spearman/MKI67", 0.1, None),
    ],
)
def test_bounds_are_judged_on_the_mean(name: str, mean: float, verdict: bool | None) -> None:
    assert judge({"id": name, "mean": mean, "ci_low": mean, "ci_high": mean, "n": 10})[1] is verdict


def test_a_hazard_ratio_holds_where_the_interval_of_its_error_covers_zero() -> None:
    row = {"id": "log_hr_error/prolif11_rna/rfs", "mean": 0.05, "n": 10}
    assert judge(row | {"ci_low": -0.01, "ci_high": 0.11}) == ("interval covers 0", True)
    assert judge(row | {"ci_low": 0.01, "ci_high": 0.09}) == ("interval covers 0", False)


def test_hazard_ratios_stand_beside_their_mean_truth() -> None:
    measured = pd.DataFrame(
        {
            "key": "k",
            "seed": [1, 2],
            "seconds": 1.0,
            "n_slides": 3,
            "log_hr/a/rfs": [0.1, 0.3],
            "log_hr_truth/a/rfs": [0.2, 0.25],
        }
    )
    table = summarise(measured, TABLES).set_index("id")
    assert table.loc["log_hr/a/rfs", "reference"] == pytest.approx(0.225)
    assert "log_hr_truth/a/rfs" not in table.index
    assert table.loc["tables/covered/prolif11_rna_per_sd/rfs", "mean"] == 0.75


def test_the_text_table_says_no_in_capitals() -> None:
    summary = pd.DataFrame(
        [
            summarise_one("external/ratio_to_ceiling/prolif11", np.array([0.5, 0.55]))
            | {"reference": None, "bound": ">= 0.85", "holds": False}
        ]
    )
    text = format_summary(summary, n_seeds=2, slide_um=1500)
    assert "2 cohorts of 1500 um slides" in text
    assert "| >= 0.85 | NO |" in text


def test_agreement_of_a_perfect_prediction_is_the_measurements_own() -> None:
    rng = np.random.default_rng(0)
    latent = pd.Series(rng.normal(size=40), index=[f"c{i}" for i in range(40)])
    rows = [
        {"split": split, "target": target, "case_id": case, "y_true": value + 0.3, "y_pred": value}
        for split in ("development", "external")
        for target in ("prolif11", "MKI67")
        for case, value in latent.items()
    ]
    ceiling = {"prolif11": {"spearman": 0.9}, "MKI67": {"spearman": 0.8}}
    found = measure_agreement({"a": pd.DataFrame(rows)}, latent, {"ceiling": ceiling}, declared="a")
    assert found["external/spearman/prolif11"] == found["oof/spearman_latent/MKI67"] == pytest.approx(1.0)
    assert found["external/ratio_to_ceiling/MKI67"] == pytest.approx(1 / 0.8)


def test_a_profile_without_a_phantom_cannot_be_validated() -> None:
    with pytest.raises(RunError, match="the cohort of 'metabric' is 'metabric', where nothing was planted"):
        plan_specs("metabric", seed=1)


def test_specs_are_those_of_the_profile_with_the_seed_replaced() -> None:
    specs = plan_specs("phantom", seed=70_005, slide_um=700.0)
    assert {specs.cohort.seed, specs.phantom.seed, specs.proliferation.seed} == {70_005}
    assert (specs.phantom.slide_um, specs.phantom.n_cases, specs.tiling.max_failed) == (700.0, 100, 2)
    assert specs.survival.primary_horizon_months == 120


@pytest.mark.slow
def test_table_only_cohorts_cover_their_truth() -> None:
    specs = plan_specs("phantom", seed=70_001)
    tables = measure_tables(specs, compute_estimands(specs.phantom, n=100_000), n_tables=100)
    error = tables["log_hr"] - tables["log_hr_truth"]
    for (endpoint, scale), group in tables.groupby(["endpoint", "scale"]):
        assert group["covered"].mean() > 0.88, f"intervals of {scale}, {endpoint}, miss the truth"
        assert abs(error[group.index].mean()) < 4 * error[group.index].std() / np.sqrt(100)


@pytest.mark.slow
def test_one_small_cohort_goes_through_every_stage_and_is_then_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = plan_small()
    estimands = compute_estimands(specs.phantom, n=20_000)
    found = measure_seed(specs, estimands, folder=tmp_path / "seed", workers=2)
    assert found["n_slides"] == 46
    assert -1 <= found["external/spearman/prolif11"] <= 1
    assert found["external/spearman_mean_colour/prolif11"] != found["external/spearman/prolif11"]
    error = found["log_hr/prolif11_image/rfs"] - found["log_hr_truth/prolif11_image/rfs"]
    assert found["log_hr_error/prolif11_image/rfs"] == pytest.approx(error, abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "seed").iterdir()) == ["measured.json"], "slides were left behind"
    monkeypatch.setattr("helpers.book.validate_seed.build_cohort", lambda *_, **__: pytest.fail("measured again"))
    assert measure_seed(specs, estimands, folder=tmp_path / "seed") == found


def test_seeds_of_the_validation_are_not_the_books() -> None:
    assert module.FIRST_SEED > 20_300
