"""The planted truth: the same on every machine, plausible, and silent where it must be silent."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import PhantomError, SpecError
from helpers.core.specs import PhantomSpec
from helpers.phantom import effects
from helpers.phantom.population import compute_stage, deal_sites, draw_cases, open_streams, round_digits
from helpers.phantom.truth import PhantomTruth, compute_truth_hash, normalise_vector, plan_cohort

PINNED = {
    20261: "81200496271c38481d2e61d3c295013d067975f04449aca9d505453233e0718a",
    1: "f70c3292f429d3a1a9f7d43b5d9013f312821ed25578f10aeb6df12115fc6dd8",
}


@pytest.fixture(scope="module")
def truth() -> PhantomTruth:
    return plan_cohort(PhantomSpec())


@pytest.fixture(scope="module")
def many() -> PhantomTruth:
    """Enough table cases that chance is small."""
    return plan_cohort(PhantomSpec(n_cases=20_000, n_external=2_000, render=False, seed=3))


@pytest.mark.parametrize("seed", PINNED)
def test_truth_tables_are_the_same_on_every_machine(seed: int) -> None:
    assert compute_truth_hash(plan_cohort(PhantomSpec(seed=seed))) == PINNED[seed]


def test_truth_tables_do_not_depend_on_the_vector_units_of_the_cpu() -> None:
    """numpy's exp and log differ in the last bit between AVX-512, AVX2 and SSE: 6 digits must not."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not found:
        pytest.skip("numpy uses no vector unit beyond its baseline here")
    code = (
        "from helpers.core.specs import PhantomSpec; from helpers.phantom.truth import *; "
        "print(compute_truth_hash(plan_cohort(PhantomSpec(n_cases=400))))"
    )
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == compute_truth_hash(plan_cohort(PhantomSpec(n_cases=400)))


def test_slide_size_and_rendering_leave_the_tables_alone(truth: PhantomTruth) -> None:
    other = plan_cohort(PhantomSpec(slide_um=700.0, render=False))
    assert compute_truth_hash(other) == compute_truth_hash(truth)
    assert {plan.slide_um for plan in other.plans} == {700.0}


def test_first_cases_of_a_larger_cohort_are_those_of_the_smaller(truth: PhantomTruth) -> None:
    larger = plan_cohort(PhantomSpec(n_cases=140, n_external=60))
    for name in ("cases", "cases_truth"):
        small, large = truth.list_tables()[name], larger.list_tables()[name]
        pd.testing.assert_frame_equal(small.iloc[:100], large.iloc[:100])
        pd.testing.assert_frame_equal(
            small.iloc[100:].reset_index(drop=True), large.iloc[140:190].reset_index(drop=True)
        )


def test_latent_has_mean_zero_and_sd_one(many: PhantomTruth) -> None:
    latent = many.cases_truth["latent"] - many.cases_truth["site_latent_shift"]
    assert abs(latent.mean()) < 4 / np.sqrt(len(latent))
    assert latent.std() == pytest.approx(1.0, abs=0.02)


def test_sites_shift_the_case_mix_as_planted_and_cancel_out(many: PhantomTruth) -> None:
    development = many.cases_truth[many.cases_truth["split"] == "development"]
    assert development["site_latent_shift"].mean() == pytest.approx(0.0, abs=1e-4)
    found = development.groupby("site")["latent"].mean()
    planted = many.sites.set_index("site")["latent_shift"].loc[found.index]
    np.testing.assert_allclose(found, planted, atol=4 / np.sqrt(len(development) / 6))


def test_external_cases_come_from_a_site_that_development_never_saw(truth: PhantomTruth) -> None:
    sites = truth.cases_truth.groupby("split")["site"].unique()
    assert set(sites["external"]) == {"X"}
    assert set(sites["development"]) == set("ABCDEF")
    scanners = truth.sites.set_index("site")["scanner"]
    assert scanners["X"] not in set(scanners.drop("X"))


def test_sites_have_equal_shares() -> None:
    assert np.bincount(deal_sites(60)).tolist() == [10] * 6


def test_every_scanner_belongs_to_one_centre_and_has_one_resolution(truth: PhantomTruth) -> None:
    assert (truth.sites.groupby("scanner")[["centre", "mpp"]].nunique() == 1).all(axis=None)


def test_a_dozen_cases_already_cover_every_site() -> None:
    assert set(deal_sites(12)) == set(range(6))


def test_subtypes_are_as_frequent_as_planted_and_order_proliferation(many: PhantomTruth) -> None:
    table = many.cases_truth
    shares = table["subtype"].value_counts(normalize=True)
    for subtype in effects.SUBTYPES:
        assert shares[subtype.name] == pytest.approx(subtype.frequency, abs=0.015)
    means = table.groupby("subtype")["latent"].mean()
    assert means["LumA"] < means["LumB"] < means["Basal"]


def test_grade_is_the_sum_of_its_components_and_follows_the_latent(many: PhantomTruth) -> None:
    cases = many.cases.merge(many.cases_truth[["case_id", "latent"]], on="case_id")
    total = cases["grade_tubule"] + cases["grade_pleomorphism"] + cases["grade_mitosis"]
    assert (cases["grade"] == np.select([total <= 5, total <= 7], [1, 2], 3)).all()
    assert cases.groupby("grade")["latent"].mean().is_monotonic_increasing


def test_two_readings_of_a_grade_agree_as_often_as_two_gradings_of_tcga() -> None:
    """467 of 743 = 0.629. The second reader sees the same tumours: only the reader's streams differ."""
    first = open_streams(8, "readers")

    def second(name: str) -> np.random.Generator:
        return open_streams(9, "readers")(name) if name.endswith("_reader") else first(name)

    spec = PhantomSpec()
    one, two = (draw_cases(spec, 20_000, streams)["grade"] for streams in (first, second))
    assert (one == two).mean() == pytest.approx(467 / 743, abs=0.02)


@pytest.mark.parametrize(
    ("size_mm", "nodes", "stage"),
    [
        (20, 0, "I"),
        (21, 0, "IIA"),
        (15, 1, "IIA"),
        (50, 3, "IIB"),
        (51, 0, "IIB"),
        (51, 1, "IIIA"),
        (10, 4, "IIIA"),
        (10, 10, "IIIC"),
    ],
)
def test_stage_from_size_and_nodes(size_mm: float, nodes: int, stage: str) -> None:
    assert compute_stage(np.array([size_mm]), np.array([nodes]))[0] == stage


def test_public_tables_do_not_give_the_truth_away(truth: PhantomTruth) -> None:
    hidden = {"latent", "til_level", "cohesion", "linear_predictor", "defect", "mpp"}
    assert not hidden & (set(truth.cases) | set(truth.slides))


def test_default_cohort_has_165_slides_of_150_cases(truth: PhantomTruth) -> None:
    assert truth.slides["slide_id"].is_unique
    assert len(truth.slides) == 165
    assert truth.slides.groupby("case_id").size().value_counts().to_dict() == {1: 135, 2: 15}


def test_two_slides_of_a_case_share_the_patient_but_not_the_drawing(truth: PhantomTruth) -> None:
    for _, pair in truth.slides_truth.groupby("case_id").filter(lambda rows: len(rows) == 2).groupby("case_id"):
        assert pair["til_level"].nunique() == pair["tumour_fraction"].nunique() == 1
        assert pair["seed"].nunique() == pair["proliferation"].nunique() == 2


def test_slides_scatter_around_their_cases_latent_by_section_sd() -> None:
    truth = plan_cohort(PhantomSpec(n_cases=3_000, n_external=0))
    latent = truth.slides_truth["case_id"].map(truth.cases_truth.set_index("case_id")["latent"])
    assert (truth.slides_truth["proliferation"] - latent).std() == pytest.approx(0.20, abs=0.01)


def test_one_slide_is_to_be_cut_and_another_loses_its_resolution(truth: PhantomTruth) -> None:
    bad = truth.slides_truth[truth.slides_truth["defect"] != ""].set_index("defect")
    assert sorted(bad.index) == ["no_mpp", "truncated"]
    assert (bad["split"] == "development").all()
    size = truth.slides.groupby("case_id").size()
    assert size[bad.loc["truncated", "case_id"]] == 2, "the case of the cut slide is lost"
    assert size[bad.loc["no_mpp", "case_id"]] == 1


def test_a_cohort_too_small_to_spoil_says_so() -> None:
    with pytest.raises(
        PhantomError, match=r"4 development slides leave none to spoil. Raise n_cases.*bad_slides to False"
    ):
        plan_cohort(PhantomSpec(n_cases=2, n_external=0, two_slide_fraction=1.0))


def test_follow_up_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(SpecError, match="followup_max_months 12.0 is below followup_min_months 60.0"):
        PhantomSpec.from_values({"followup_max_months": 12.0})


def test_nuisances_of_the_slide_know_nothing_of_the_latent(many: PhantomTruth) -> None:
    table = many.cases_truth
    for name in ("tumour_fraction", "tumour_stroma", "fat_fraction", "collagen", "nuclear_um"):
        assert abs(table[name].corr(table["latent"])) < 4 / np.sqrt(len(table)), f"{name} gives the latent away"


def test_stain_vectors_have_unit_length() -> None:
    for site in effects.SITES:
        for vector in (normalise_vector(site.stain_h), normalise_vector(site.stain_e)):
            assert sum(part**2 for part in vector) == pytest.approx(1.0, abs=1e-5)


def test_a_stream_is_named_by_words_and_by_nothing_else() -> None:
    first, again = (
        open_streams(5, "development")("latent").random(3),
        open_streams(5, "development")("latent").random(3),
    )
    np.testing.assert_array_equal(first, again)
    assert open_streams(5, "external")("latent").random() != first[0]
    assert open_streams(6, "development")("latent").random() != first[0]


def test_rounding_knows_no_minus_zero() -> None:
    assert not np.signbit(round_digits(np.array([-1e-9, -0.0]))).any()


def test_a_variable_drawn_twice_is_the_same_variable() -> None:
    spec = PhantomSpec()
    one, two = (draw_cases(spec, 50, open_streams(9, "x")) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
