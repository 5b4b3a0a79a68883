"""The Monte-Carlo truth: right by slow oracles, the planted number where theory gives it, and reused only by key."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from helpers.core.errors import PhantomError
from helpers.core.specs import PhantomSpec
from helpers.phantom import estimands as module
from helpers.phantom.estimands import (
    compute_cohort_estimand,
    compute_estimand_key,
    compute_estimands,
    compute_gradient,
    compute_score,
    find_estimand,
    interpolate_image_estimand,
    solve,
    tabulate_attenuation,
    write_estimands,
)
from helpers.phantom.truth import plan_cohort

SMALL = 50_000
PINNED = "ca3d5d7d09257c24b5b4915f5957ac707dd8c8db61008a26af050a6cf1cdd808"


@pytest.fixture(scope="module")
def table() -> dict:
    return compute_estimands(PhantomSpec(), n=SMALL)


def test_truth_of_the_hazard_ratios_is_the_same_on_every_machine(table: dict) -> None:
    text = json.dumps({name: value for name, value in table.items() if name != "key"}, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED


def test_gradient_and_information_equal_the_double_loop() -> None:
    rng = np.random.default_rng(0)
    x, event, beta = rng.normal(size=(8, 2)), np.array([1, 0, 1, 1, 0, 1, 0, 1.0]), np.array([0.3, -0.2])
    gradient, information = np.zeros(2), np.zeros((2, 2))
    for i in range(8):  # rows stand by falling time: row i's risk set is rows 0 to i
        if event[i]:
            weight = np.exp(x[: i + 1] @ beta)
            mean = weight @ x[: i + 1] / weight.sum()
            square = (x[: i + 1] * weight[:, None]).T @ x[: i + 1] / weight.sum()
            gradient += x[i] - mean
            information += square - np.outer(mean, mean)
    block = [x[:, 0].copy(), x[:, 1].copy()]
    np.testing.assert_allclose(compute_gradient(beta, event, block)[0], gradient, atol=1e-12)
    np.testing.assert_allclose(compute_score(beta, event, block)[1], information, atol=1e-12)


def test_elimination_solves_a_system() -> None:
    root = np.random.default_rng(1).normal(size=(4, 4))
    matrix, right = root @ root.T + np.eye(4), np.arange(4.0)
    np.testing.assert_allclose(solve(matrix, right), np.linalg.solve(matrix, right), atol=1e-12)


@pytest.mark.parametrize("adjustment", ["none", "clinical"])
@pytest.mark.parametrize("scale", ["per_sd", "high_vs_low"])
@pytest.mark.parametrize("horizon", [60.0, None])
def test_fit_equals_lifelines(adjustment: str, scale: str, horizon: float | None) -> None:
    population = module._draw_population(PhantomSpec(), 2_000)
    rows = list(module._fit_score(module._Sorted(population, "rfs"), population["prolif11"]))
    asked = {"scale": scale, "adjustment": adjustment, "horizon_months": horizon}
    ours = next(row for row in rows if all(row[name] == value for name, value in asked.items()))
    score = population["prolif11"]
    x = (score - score.mean()) / score.std(ddof=1) if scale == "per_sd" else (score > np.median(score)).astype(float)
    frame = pd.DataFrame({"x": x, **{name: population[name] for name in module.ADJUSTMENTS[adjustment]}})
    time, event = population["rfs_time_months"], population["rfs_event"]
    limit = horizon or np.inf
    frame["time"], frame["event"] = np.minimum(time, limit), event & (time <= limit)
    theirs = CoxPHFitter().fit(frame, "time", "event", fit_options={"precision": 1e-10}).summary.loc["x"]
    assert ours["log_hr"] == pytest.approx(theirs["coef"], abs=5e-6)
    assert ours["mc_se"] == pytest.approx(theirs["se(coef)"], rel=0.02)
    assert ours["n_events"] == frame["event"].sum()


def test_many_blocks_agree_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    population = module._draw_population(PhantomSpec(), 20_000)
    one = next(iter(module._fit_score(module._Sorted(population, "rfs"), population["latent"])))
    monkeypatch.setattr(module, "BLOCK", 4_000)
    five = next(iter(module._fit_score(module._Sorted(population, "rfs"), population["latent"])))
    assert five["log_hr"] == pytest.approx(one["log_hr"], abs=0.1 * one["mc_se"] + 0.002)


def test_where_nothing_attenuates_the_planted_log_hazard_ratio_comes_back() -> None:
    spec = PhantomSpec(log_hr_nodes=0, log_hr_size=0, log_hr_age=0, other_death_60=0, site_shift_sd=0)
    truth = find_estimand(compute_estimands(spec, n=100_000), score="latent", endpoint="pfi")
    assert truth["log_hr"] == pytest.approx(0.50, abs=4 * truth["mc_se"] + 0.005)


def test_without_an_effect_every_hazard_ratio_is_one() -> None:
    truth = compute_estimands(
        PhantomSpec(log_hr_proliferation=0, log_hr_size=0, log_hr_nodes=0, log_hr_age=0, other_death_60=0), n=SMALL
    )
    z = [row["log_hr"] / row["mc_se"] for row in truth["rows"]]
    assert np.abs(z).max() < 4.5


def test_noise_attenuates_and_the_cut_at_the_median_widens(table: dict) -> None:
    latent, rna, single = (find_estimand(table, score=name)["log_hr"] for name in ("latent", "prolif11", "MKI67"))
    assert latent > rna > single > 0
    assert find_estimand(table, score="prolif11", scale="high_vs_low")["log_hr"] > rna


def test_image_curve_rises_with_the_correlation(table: dict) -> None:
    curve = [interpolate_image_estimand(table, spearman=rho)["log_hr"] for rho in np.linspace(0.2, 0.8, 7)]
    assert np.all(np.diff(curve) > 0)


def test_interpolation_at_a_tabulated_correlation_gives_the_tabulated_truth(table: dict) -> None:
    known = table["image_correlations"][3]
    found = interpolate_image_estimand(table, spearman=known["spearman_MKI67"], measured="MKI67", endpoint="os")
    row = next(r for r in table["image_rows"] if r["rho_latent"] == known["rho_latent"] and r["endpoint"] == "os")
    assert found["log_hr"] == pytest.approx(row["log_hr"])
    assert found["rho_latent"] == pytest.approx(known["rho_latent"])


def test_ceiling_is_what_the_stated_noise_allows(table: dict) -> None:
    shared = PhantomSpec().assay_sd
    assert table["ceiling"]["prolif11"]["pearson"] == pytest.approx(1 / np.sqrt(1 + shared**2), abs=0.03)
    assert 0.85 < table["ceiling"]["prolif11"]["spearman"] < 0.95
    assert table["ceiling"]["MKI67"]["spearman"] < table["ceiling"]["prolif11"]["spearman"]


def test_an_estimand_that_was_not_tabulated_names_what_was(table: dict) -> None:
    with pytest.raises(
        PhantomError, match=r"no truth was tabulated for .*'horizon_months': 36.*Tabulated: .*120\.0, 60\.0, None"
    ):
        find_estimand(table, score="latent", horizon_months=36)


def test_a_correlation_beyond_the_curve_is_refused(table: dict) -> None:
    with pytest.raises(PhantomError, match=r"Spearman 0\.050 with prolif11, tabulated are 0\.1\d\d to 0\.8\d\d"):
        interpolate_image_estimand(table, spearman=0.05)


def test_cohort_estimand_of_a_large_cohort_is_the_populations(table: dict) -> None:
    spec = PhantomSpec(n_cases=20_000, n_external=0, render=False)
    truth = plan_cohort(spec)
    found = compute_cohort_estimand(spec, truth.cases_truth, truth.cases, truth.cases_truth["latent"], n=100_000)
    known = find_estimand(table, score="latent")
    assert found["log_hr"] == pytest.approx(known["log_hr"], abs=4 * (found["mc_se"] + known["mc_se"]))


def test_cohort_estimand_of_a_useless_score_is_one() -> None:
    truth = plan_cohort(PhantomSpec(n_cases=400, n_external=0, render=False))
    noise = np.random.default_rng(3).normal(size=(400, 6))
    found = [
        compute_cohort_estimand(truth.spec, truth.cases_truth, truth.cases, noise[:, i], n=40_000)["log_hr"]
        for i in range(6)
    ]
    assert abs(np.mean(found)) < 0.1


def test_stored_truth_is_reused_by_key_and_only_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def count(spec: PhantomSpec) -> dict:
        calls.append(spec)
        return {"key": compute_estimand_key(spec, n=spec.n_estimand)}

    monkeypatch.setattr(module, "compute_estimands", count)
    path = tmp_path / "estimands.json"
    write_estimands(PhantomSpec(), path)
    write_estimands(PhantomSpec(seed=5, n_cases=12, slide_um=300.0), path)
    assert len(calls) == 1, "the truth does not depend on seed, size or slides"
    write_estimands(PhantomSpec(log_hr_nodes=0.4), path)
    assert len(calls) == 2, "another planted effect is another truth"


def test_attenuation_table_ends_in_the_measured_score_and_the_latent(table: dict) -> None:
    curve = tabulate_attenuation(table, measured="MKI67", horizon_months=120.0)
    assert curve["kind"].tolist() == ["image"] * 8 + ["measured", "latent"]
    latent = curve.iloc[-1]
    truth = find_estimand(table, score="latent", horizon_months=120.0)
    assert latent["hr"] == pytest.approx(truth["hr"], abs=2e-6)
    assert latent["spearman"] == table["ceiling"]["MKI67"]["spearman"]
    assert ((curve["hr_low"] < curve["hr"]) & (curve["hr"] < curve["hr_high"])).all()


def test_other_covariates_are_another_estimand(table: dict) -> None:
    names = ["age_years", "tumour_size_mm", "nodes_positive"]
    find_estimand(table, score="latent", adjustment="clinical", covariates=names[::-1])
    with pytest.raises(
        PhantomError,
        match="adjusted for age_years, grade; the truth of 'clinical' was tabulated for age_years, tumour_size_mm",
    ):
        find_estimand(table, score="latent", adjustment="clinical", covariates=["age_years", "grade"])


def test_cohort_estimand_adjusts_for_any_column_of_the_cases() -> None:
    truth = plan_cohort(PhantomSpec(n_cases=2_000, n_external=0, render=False))
    options = {
        "spec": truth.spec,
        "cases_truth": truth.cases_truth,
        "cases": truth.cases,
        "score": truth.cases_truth["latent"],
        "n": 40_000,
    }
    named = compute_cohort_estimand(**options, adjustment="clinical")
    listed = compute_cohort_estimand(**options, covariates=["age_years", "tumour_size_mm", "nodes_positive"])
    assert listed == named
    by_grade = compute_cohort_estimand(**options, covariates=["grade"])
    assert by_grade["log_hr"] != compute_cohort_estimand(**options)["log_hr"]
