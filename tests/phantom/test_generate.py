"""A cohort on disk: complete, resumable to the same bytes, and honest about its bad slides."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest

from helpers.cohort.tables import read_cases, read_expression, read_slides
from helpers.core import paths
from helpers.core.errors import PhantomError
from helpers.core.specs import PhantomSpec
from helpers.phantom import generate as module
from helpers.phantom.generate import compute_slide_key, generate_cohort, list_files, read_maps, render_slides
from helpers.phantom.truth import compute_truth_hash, plan_cohort

SPEC = PhantomSpec(n_cases=5, n_external=1, two_slide_fraction=0.4, slide_um=250.0, n_estimand=10_000)
FILES = {
    "cases.csv", "slides.csv", "expression.parquet", "omics.parquet", "truth/cases_truth.csv", "truth/slides_truth.csv",
    "truth/loadings.csv", "truth/omics_truth.csv", "truth/sites.csv", "truth/estimands.json", "truth/spec.json",
    "truth/slide_keys.json",
}  # fmt: skip


def hash_files(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_cohort(SPEC, tmp_path_factory.mktemp("phantom") / "cohort", workers=1)


@pytest.fixture
def cohort(first: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(first, tmp_path / "cohort")


def test_folder_holds_every_table_slide_and_map(first: Path) -> None:
    slides = pd.read_csv(first / "slides.csv")
    expected = FILES | set(slides["path"]) | {f"truth/maps/{slide_id}.npz" for slide_id in slides["slide_id"]}
    found = set(hash_files(first))
    assert {name for name in found if not name.startswith("truth/outlines/")} == expected


def test_tumour_is_outlined_where_the_map_holds_some(first: Path) -> None:
    outlined = {path.stem for path in (first / "truth" / "outlines").iterdir()}
    shares = {path.stem: read_maps(path)[0]["tumour"].mean() for path in (first / "truth" / "maps").iterdir()}
    assert outlined, "no slide holds tumour"
    assert min(shares[name] for name in outlined) > 0.2  # of a slide 250 um wide, less would be a crumb
    assert max(shares, key=shares.__getitem__) in outlined


def test_every_slide_is_there(first: Path) -> None:
    slides = pd.read_csv(first / "slides.csv")
    assert len(slides) == 8


def test_tables_pass_the_books_own_gate(first: Path) -> None:
    cases = read_cases(first / "cases.csv")
    slides = read_slides(first / "slides.csv", case_ids=set(cases["case_id"]))
    expression = read_expression(first / "expression.parquet")
    assert set(slides["case_id"]) == set(expression["case_id"]) == set(cases["case_id"])


def test_slides_state_the_resolution_of_their_site_and_have_the_planned_edge(first: Path) -> None:
    truth = plan_cohort(SPEC)
    good = truth.slides_truth.query("defect == ''")["slide_id"]
    for plan in truth.plans:
        if plan.slide_id in set(good):
            with openslide.OpenSlide(list_files(first, plan.slide_id)[0]) as slide:
                assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(plan.mpp)
                assert slide.dimensions == (round(250 / plan.mpp), round(250 / plan.mpp))


def test_cut_slide_cannot_be_read_and_the_other_states_no_resolution(first: Path) -> None:
    bad = plan_cohort(SPEC).slides_truth.query("defect != ''").set_index("defect")["slide_id"]
    with pytest.raises(openslide.OpenSlideError), openslide.OpenSlide(list_files(first, bad["truncated"])[0]) as slide:
        slide.read_region((0, 0), 0, slide.dimensions)
    with openslide.OpenSlide(list_files(first, bad["no_mpp"])[0]) as slide:
        assert openslide.PROPERTY_NAME_MPP_X not in slide.properties


def test_truth_maps_average_to_the_planned_proliferation(first: Path) -> None:
    for plan in plan_cohort(SPEC).plans:
        maps, um_per_px = read_maps(list_files(first, plan.slide_id)[1])
        assert set(maps) == {"proliferation", "tumour", "til", "nuclear_density"}
        assert maps["tumour"].shape[0] * um_per_px == pytest.approx(250.0)
        weight = np.where(np.isfinite(maps["proliferation"]), maps["tumour"], 0)
        mean = np.sum(weight * np.nan_to_num(maps["proliferation"])) / weight.sum()
        assert mean == pytest.approx(plan.proliferation, abs=0.01)


def test_a_finished_cohort_is_left_alone(cohort: Path) -> None:
    assert render_slides(plan_cohort(SPEC), cohort, workers=1) == []


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(first: Path, cohort: Path) -> None:
    plans = plan_cohort(SPEC).plans
    list_files(cohort, plans[0].slide_id)[0].unlink()
    list_files(cohort, plans[1].slide_id)[1].unlink()
    with list_files(cohort, plans[2].slide_id)[0].open("r+b") as file:
        file.seek(500)
        file.write(b"rot")
    (cohort / "truth" / "slides_truth.csv").unlink()
    assert render_slides(plan_cohort(SPEC), cohort, workers=2) == [plan.slide_id for plan in plans[:3]]
    generate_cohort(SPEC, cohort, workers=1)
    assert hash_files(cohort) == hash_files(first)


def test_another_size_redraws_and_a_smaller_cohort_removes_what_is_not_its_own(cohort: Path) -> None:
    spec = SPEC.model_copy(update={"n_cases": 3, "slide_um": 200.0})
    generate_cohort(spec, cohort, workers=1)
    slides = plan_cohort(spec).slides
    assert {file.stem for file in (cohort / "slides").iterdir()} == set(slides["slide_id"])
    assert {file.stem for file in (cohort / "truth" / "maps").iterdir()} == set(slides["slide_id"])


def test_key_follows_plan_defect_and_drawing_code(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_cohort(SPEC).plans[0]
    key = compute_slide_key(plan, "", "scanner-1")
    assert compute_slide_key(plan, "no_mpp", "scanner-1") != key
    assert compute_slide_key(plan_cohort(SPEC).plans[1], "", "scanner-1") != key
    monkeypatch.setattr(module, "hash_drawing_code", lambda: "another renderer")
    assert compute_slide_key(plan, "", "scanner-1") != key


def test_a_table_only_cohort_has_no_slides(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"render": False})
    generate_cohort(spec, tmp_path / "cohort")
    assert set(hash_files(tmp_path / "cohort")) == FILES - {"slides.csv", "truth/slide_keys.json"}


def test_the_mark_of_a_cohort_is_its_spec_and_the_hash_of_its_tables(first: Path) -> None:
    mark = paths.read_json(first / "truth" / "spec.json")
    assert mark["truth_hash"] == compute_truth_hash(plan_cohort(PhantomSpec(**mark["spec"])))


def test_somebody_elses_cohort_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case_id\n1\n")
    with pytest.raises(
        PhantomError, match=r"holds a cases.csv but no truth/spec.json, so it is no phantom.*nothing was written"
    ):
        generate_cohort(SPEC, tmp_path)
    assert hash_files(tmp_path).keys() == {"cases.csv"}


def test_a_slide_that_cannot_be_drawn_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = plan_cohort(SPEC)

    def fail(*job: object) -> dict[str, str]:
        raise MemoryError("no room")

    monkeypatch.setattr(module, "draw_slide", fail)
    with pytest.raises(PhantomError, match=r"slide 'PH-000\d-DX1' could not be drawn \(MemoryError: no room\)"):
        render_slides(truth, tmp_path, workers=1)
