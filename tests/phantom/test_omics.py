"""Molecular tables: loadings can be recovered, linked features follow their driver, nulls follow nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f_oneway, kstest

from helpers.core.specs import PhantomSpec
from helpers.phantom.effects import BATCH_LOADING, OMICS, PAM50_LOADINGS, PROLIF11
from helpers.phantom.omics import (
    FACTORS,
    draw_cohesion,
    draw_expression,
    draw_factors,
    draw_omics,
    list_loadings,
    list_omics,
)
from helpers.phantom.population import draw_cases, open_streams
from helpers.phantom.truth import plan_cohort

N = 8_000
SPEC = PhantomSpec(n_null_genes=60, n_null_omics=40)


@pytest.fixture(scope="module")
def drawn() -> dict:
    streams = open_streams(21, "test")
    cases = draw_cases(SPEC, N, streams)
    cases["cohesion"] = draw_cohesion(cases, streams)
    factors = draw_factors(SPEC, cases, streams)
    loadings, omics = list_loadings(SPEC), list_omics(SPEC)
    return {
        "cases": cases,
        "factors": factors,
        "loadings": loadings,
        "omics_truth": omics,
        "expression": pd.DataFrame(draw_expression(loadings, factors, streams), columns=loadings["gene"]),
        "omics": pd.DataFrame(draw_omics(omics, cases, factors, streams), columns=omics["feature"]),
    }


def test_least_squares_recovers_every_planted_loading(drawn: dict) -> None:
    design = np.column_stack([np.ones(N), *(drawn["factors"][name] for name in FACTORS)])
    found = np.linalg.lstsq(design, drawn["expression"].to_numpy(), rcond=None)[0].T
    planted = drawn["loadings"][["base", *FACTORS]].to_numpy()
    noise = drawn["loadings"]["noise_sd"].to_numpy()[:, None]
    inverse = np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    assert np.abs((found - planted) / (noise * inverse)).max() < 5


def test_pam50_is_complete_and_holds_the_eleven() -> None:
    assert len(PAM50_LOADINGS) == 50
    assert set(PROLIF11) <= set(PAM50_LOADINGS)
    assert (list_loadings(SPEC)["role"] == "prolif11").sum() == 11


def test_the_eleven_genes_rise_with_the_latent_and_housekeeping_does_not(drawn: dict) -> None:
    correlation = drawn["expression"].corrwith(pd.Series(drawn["cases"]["latent"]))
    role = drawn["loadings"].set_index("gene")["role"]
    assert correlation[role == "prolif11"].min() > 0.6
    assert correlation[role == "housekeeping"].abs().max() < 4.5 / np.sqrt(N)


def test_null_genes_and_null_features_know_neither_latent_nor_site(drawn: dict) -> None:
    nulls = pd.concat(
        [
            drawn["expression"].loc[:, (drawn["loadings"]["role"] == "null").to_numpy()],
            drawn["omics"].loc[:, drawn["omics_truth"]["is_null"].to_numpy()],
        ],
        axis=1,
    )
    z = nulls.corrwith(pd.Series(drawn["cases"]["latent"])) * np.sqrt(N)
    assert kstest(z, "norm").pvalue > 0.001, "null features lean towards the latent"
    by_site = [nulls[drawn["cases"]["site"] == site] for site in "ABCDEF"]
    p = [f_oneway(*(rows[name] for rows in by_site)).pvalue for name in nulls]
    assert kstest(p, "uniform").pvalue > 0.001, "null features lean towards sites"


def test_genes_that_are_not_null_carry_the_batch_of_their_site(drawn: dict) -> None:
    genes = drawn["loadings"].query("batch != 0")["gene"]
    assert (drawn["loadings"].query("batch != 0")["batch"] == BATCH_LOADING).all()
    assert not set(genes) & set(drawn["loadings"].query("role in ('null', 'housekeeping')")["gene"])


@pytest.mark.parametrize(
    "effect", [effect for effect in OMICS if effect.driver in ("proliferation", "til")], ids=lambda e: e.feature
)
def test_linked_features_follow_their_driver_in_the_planted_direction(drawn: dict, effect) -> None:
    driver = drawn["cases"]["latent" if effect.driver == "proliferation" else "til_z"]
    assert np.sign(drawn["omics"][effect.feature].corr(pd.Series(driver))) == np.sign(effect.effect)
    assert abs(drawn["omics"][effect.feature].corr(pd.Series(driver))) > 0.2


def test_kinds_keep_to_their_units(drawn: dict) -> None:
    by_kind = {kind: drawn["omics"][rows["feature"]] for kind, rows in drawn["omics_truth"].groupby("kind")}
    assert set(np.unique(by_kind["mutation"])) == {0.0, 1.0}
    assert by_kind["methylation"].min().min() >= 0
    assert by_kind["methylation"].max().max() <= 1
    assert not list_omics(SPEC)["feature"].duplicated().any()
    assert (drawn["omics_truth"].groupby("kind")["is_null"].mean() > 0.5).all(), "most features are null"


def test_drivers_that_need_standardising_are_standardised(drawn: dict) -> None:
    from helpers.phantom.omics import COHESION_MOMENTS, PLEOMORPHISM_MOMENTS

    for name, (mean, sd) in (("cohesion", COHESION_MOMENTS), ("pleomorphism", PLEOMORPHISM_MOMENTS)):
        assert drawn["cases"][name].mean() == pytest.approx(mean, abs=0.02)
        assert drawn["cases"][name].std() == pytest.approx(sd, abs=0.02)


def test_noise_of_a_gene_is_its_own_whoever_else_is_drawn() -> None:
    streams = open_streams(4, "test")
    factors = draw_factors(SPEC, draw_cases(SPEC, 30, streams), streams)
    loadings = list_loadings(SPEC)
    whole, alone = draw_expression(loadings, factors, streams), draw_expression(loadings.iloc[[6]], factors, streams)
    np.testing.assert_array_equal(whole[:, [6]], alone)


def test_long_tables_hold_every_case_and_gene_once() -> None:
    truth = plan_cohort(PhantomSpec(n_cases=10, n_external=5))
    assert not truth.expression.duplicated(["case_id", "gene"]).any()
    assert len(truth.expression) == 15 * len(truth.loadings)
    assert len(truth.omics) == 15 * len(truth.omics_truth)
    wide = truth.expression.pivot(index="case_id", columns="gene", values="value")
    assert np.isfinite(wide.to_numpy()).all()
