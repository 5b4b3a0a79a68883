"""The training domain of the encoders: nothing of the book's slides is in it, and its labels count what was drawn."""

import math

import numpy as np
import pytest

from helpers.core.paths import read_json, repo_root
from helpers.core.specs import PhantomSpec
from helpers.phantom.effects import SITES
from helpers.phantom.nuclei import KINDS
from helpers.phantom.pretraining import (
    LABELS,
    MIN_STAIN_DEGREES,
    compute_plan_key,
    draw_training_slide,
    fingerprint_slide,
    label_squares,
    measure_stain_distance,
    plan_training_slides,
    render_training_tiles,
)
from helpers.phantom.renderer import render_slide
from helpers.phantom.truth import plan_cohort

ENCODERS = ("phantom-s", "phantom-s-morphology")
VALIDATE_SEEDS = range(70001, 70011)


@pytest.fixture(scope="module")
def plans():
    return plan_training_slides(8, seed=90001, slide_um=300.0)


@pytest.fixture(scope="module")
def rendered(plans):
    return render_slide(plans[0])


@pytest.fixture(scope="module", params=ENCODERS)
def record(request):
    return read_json(repo_root() / "data" / "encoders" / request.param / "training.json")


def list_book_plans(seed):
    return plan_cohort(PhantomSpec(seed=seed)).plans


def test_equal_seeds_plan_equal_slides_and_others_do_not(plans):
    assert plan_training_slides(8, seed=90001, slide_um=300.0) == plans
    assert all(a != b for a, b in zip(plans, plan_training_slides(8, seed=90002, slide_um=300.0), strict=True))


def test_training_slides_share_no_nucleus_and_no_stain_with_a_planted_site():
    for plan in plan_training_slides(200, seed=90001):
        assert plan.sprite_family != 0
        for site in SITES:
            apart = measure_stain_distance((plan.stain_h, plan.stain_e), (site.stain_h, site.stain_e))
            assert apart >= MIN_STAIN_DEGREES - 0.01


def test_stain_distance_is_the_larger_angle():
    right = (1.0, 0.0, 0.0)
    turned = (math.cos(math.radians(10)), math.sin(math.radians(10)), 0.0)
    assert measure_stain_distance((right, right), (turned, right)) == pytest.approx(10.0)
    assert measure_stain_distance((right, right), (right, right)) == pytest.approx(0.0, abs=1e-4)


def test_labels_count_what_was_drawn_and_neither_mitoses_nor_apoptosis(rendered):
    whole = dict(zip(LABELS, label_squares(rendered, n_squares=1, square_um=300.0)[0, 0], strict=True))
    kind = np.array(KINDS)[rendered.cells["kind"]]
    left_out = np.isin(kind, ("erythrocyte", "mitosis", "apoptosis"))
    assert whole["nuclear_density"] == pytest.approx((~left_out).sum() / 0.09, rel=1e-5)
    assert whole["til_density"] == pytest.approx((kind == "lymphocyte").sum() / 0.09, rel=1e-5)
    diameter = rendered.cells["diameter_um"][kind == "tumour"]
    assert whole["nuclear_size"] == pytest.approx(diameter.mean(), rel=1e-5)
    assert whole["pleomorphism"] == pytest.approx(diameter.std(), rel=1e-3)
    assert whole["tumour_fraction"] == pytest.approx(rendered.maps["tumour"].mean(), rel=1e-5)


def test_labels_of_squares_add_up_and_are_unknown_without_tumour_nuclei(rendered):
    fine = label_squares(rendered, n_squares=4, square_um=75.0)
    whole = label_squares(rendered, n_squares=1, square_um=300.0)[0, 0]
    for name in ("nuclear_density", "til_density", "tumour_fraction"):
        column = LABELS.index(name)
        assert fine[..., column].mean() == pytest.approx(whole[column], rel=1e-4)
    empty = label_squares(rendered, n_squares=300, square_um=1.0)
    assert np.isnan(empty[..., LABELS.index("nuclear_size")]).all()


def test_tiles_come_in_raster_order_without_glass_whatever_the_number_of_processes(plans):
    one, two = render_training_tiles(plans[:3]), render_training_tiles(plans[:3], workers=2)
    assert np.array_equal(one.tiles, two.tiles)
    assert one.fingerprints == two.fingerprints
    tiles, labels, fingerprint = draw_training_slide(plans[0])
    assert np.array_equal(one.tiles[one.slide == 0], tiles)
    assert labels.shape == (len(tiles), 2, 2, 5)
    assert fingerprint == fingerprint_slide(render_slide(plans[0]))


def test_a_fingerprint_changes_with_one_pixel(rendered):
    before = fingerprint_slide(rendered)
    rendered.image[5, 7, 1] ^= 1
    changed = fingerprint_slide(rendered)
    rendered.image[5, 7, 1] ^= 1
    assert before != changed
    assert fingerprint_slide(rendered) == before


def test_the_recorded_training_slides_are_drawn_again_with_the_same_pixels(record):
    spec = record["spec"]
    plans = plan_training_slides(spec["n_slides"], seed=spec["training_seed"], slide_um=spec["slide_um"])
    assert [compute_plan_key(plan) for plan in plans] == [slide["plan_key"] for slide in record["slides"]]
    assert draw_training_slide(plans[0])[2] == record["slides"][0]["pixels_sha256"]


def test_no_plan_of_the_book_was_trained_on(record):
    trained = {slide["plan_key"] for slide in record["slides"]}
    assert len(trained) == record["spec"]["n_slides"]
    seeds = {
        plan.seed for plan in plan_training_slides(record["spec"]["n_slides"], seed=record["spec"]["training_seed"])
    }
    for seed in (20261, *VALIDATE_SEEDS):
        for plan in list_book_plans(seed):
            assert compute_plan_key(plan) not in trained
            assert plan.seed not in seeds
            assert plan.sprite_family == 0


def test_no_slide_of_the_ci_book_was_trained_on_by_its_pixels(record):
    trained = {slide["pixels_sha256"] for slide in record["slides"]}
    book = plan_cohort(PhantomSpec(n_cases=6, n_external=2, slide_um=600.0)).plans
    assert trained.isdisjoint(fingerprint_slide(render_slide(plan)) for plan in book[:4])


@pytest.mark.slow
def test_no_slide_of_the_default_book_was_trained_on_by_its_pixels():
    folder = repo_root() / "data" / "encoders"
    records = [read_json(folder / name / "training.json") for name in ENCODERS]
    trained = {slide["pixels_sha256"] for record in records for slide in record["slides"]}
    for plan in list_book_plans(20261):
        assert fingerprint_slide(render_slide(plan)) not in trained
