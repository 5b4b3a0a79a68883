"""The profiles of config/: chapter 00 of each validates, and each declares its analysis before anything is fitted."""

from pathlib import Path

import pytest
import yaml

from helpers.core import specs
from helpers.core.errors import SpecError
from helpers.core.specs import AnalysisPlan, CohortSpec

PROFILES = (
    "phantom",
    "phantom-large",
    "ci",
    "metabric",
    "scanb",
    "shandiz",
    "tcga-brca-features",
    "her2st",
    "template",
)


def read(repository: Path, name: str) -> dict:
    return yaml.safe_load((repository / "config" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", PROFILES)
def test_chapter_00_of_every_profile_validates(repository, name):
    profile = read(repository, name)
    shared = {key: value for key, value in profile["shared"].items() if key in CohortSpec.model_fields}
    spec = CohortSpec.from_values({**shared, **profile["chapters"]["00"]})
    assert profile["profile"] == name
    assert spec.seed == profile["shared"]["seed"]


@pytest.mark.parametrize("name", PROFILES)
def test_every_chapter_of_every_profile_validates(repository, name):
    profile = read(repository, name)
    known = {
        cls.chapter[:2]: cls for cls in vars(specs).values() if isinstance(cls, type) and issubclass(cls, specs.Spec)
    }
    for number, values in profile["chapters"].items():
        shared = {key: value for key, value in profile["shared"].items() if key in known[number].model_fields}
        known[number].from_values({**shared, **(values or {})})


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "her2st"])
def test_every_profile_with_outcomes_declares_its_plan(repository, name):
    shared = read(repository, name)["shared"]
    plan = {key: value for key, value in shared.items() if key in AnalysisPlan.model_fields}
    assert set(plan) == set(AnalysisPlan.model_fields)
    AnalysisPlan.from_values(plan)


def test_the_phantom_says_openly_how_many_slides_may_fail(repository):
    assert read(repository, "phantom")["shared"]["max_failed"] == 2
    assert read(repository, "template")["shared"]["max_failed"] == 0


def test_the_phantom_is_grown_from_the_chapters_seed_unless_it_has_its_own():
    assert CohortSpec.from_values({"seed": 7}).phantom.seed == 7
    assert CohortSpec.from_values({"seed": 7, "phantom": {"seed": 8}}).phantom.seed == 8


def test_an_unknown_phantom_parameter_is_named():
    with pytest.raises(SpecError, match=r"phantom\.n_case: Extra inputs are not permitted, found 12"):
        CohortSpec.from_values({"phantom": {"n_case": 12}})


def test_one_fold_is_refused():
    with pytest.raises(SpecError, match="n_folds is 1, which leaves nothing to train on"):
        CohortSpec.from_values({"n_folds": 1})


def test_the_raw_folder_is_an_input_of_every_cohort_but_the_phantom(tmp_path):
    assert CohortSpec.from_values({"cohort": "phantom"}).list_inputs(tmp_path) == {}
    spec = CohortSpec.from_values({"cohort": "tables", "extra_slides": ["a.svs"]})
    assert spec.list_inputs(tmp_path) == {"data": tmp_path, "extra_slides[0]": tmp_path / "a.svs"}
    assert "extra_slides" not in spec.key_fields(), "a path is no part of the key, its content is"


def test_a_named_run_of_another_phantom_does_not_write_over_the_books_slides(tmp_path):
    from helpers.cohort.raw import choose_folder
    from helpers.core.paths import write_json

    small, large = (CohortSpec.from_values({"phantom": {"n_cases": n}}).phantom for n in (12, 24))
    folder = tmp_path / "phantom"
    assert choose_folder(folder, small, run_name="try") == folder, "nothing is there yet"
    write_json({"spec": small.key_fields()}, folder / "truth" / "spec.json")
    assert choose_folder(folder, small, run_name="try") == folder
    assert choose_folder(folder, large, run_name="try") == tmp_path / "phantom@try"
    assert choose_folder(folder, large, run_name="book") == folder
