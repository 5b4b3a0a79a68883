"""Every chapter's parameters cell, its spec and the profiles fit each other, before anything runs."""

import difflib
import re
from pathlib import Path

import jupytext
import pytest
from jupytext.config import load_jupytext_config

from helpers.book.params import build_spec, find_spec, list_notebooks, read_notebook, read_parameters, read_profile
from helpers.book.runner import plan_job
from helpers.core.specs import RUN_PARAMETERS

CHAPTERS = sorted(list_notebooks().values())
PROFILES = sorted((Path(__file__).resolve().parents[2] / "config").glob("*.yaml"))
PERCENT = {"extension": ".py", "format_name": "percent"}

every_chapter = pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
every_profile = pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)


@every_chapter
def test_parameters_are_the_run_parameters_and_then_the_spec_s_fields(notebook):
    declared = list(read_parameters(notebook))
    first = [name for name in declared if name in RUN_PARAMETERS]
    assert declared[: len(first)] == first, "run parameters come first"
    assert set(RUN_PARAMETERS) - {"data_dir"} <= set(first), (
        "each chapter takes where, by what name and on what it runs"
    )
    assert declared[len(first) :] == list(find_spec(notebook).model_fields), "same names, same order"


@every_chapter
def test_defaults_validate_and_are_the_spec_s_own(notebook):
    spec = build_spec(notebook, read_parameters(notebook), {})
    plain = find_spec(notebook).from_values({})
    assert spec.key_fields() == plain.key_fields(), (
        "a default stands twice, in the spec and in the chapter, and differs"
    )


@every_chapter
def test_annotations_are_such_as_papermill_reads(notebook):
    for parameter in read_parameters(notebook).values():
        assert "|" not in parameter.annotation


@every_chapter
def test_the_header_names_the_kernel_and_no_versions(notebook):
    header = notebook.read_text().split("# ---")[1]
    assert "name: python3" in header
    assert "language: python" in header
    assert "version" not in header


@every_chapter
def test_saving_from_jupyterlab_changes_nothing(notebook):
    text = notebook.read_text()
    config = load_jupytext_config(str(notebook))
    saved = jupytext.writes(jupytext.reads(text, fmt=PERCENT, config=config), fmt=PERCENT, config=config)
    difference = "".join(difflib.unified_diff(text.splitlines(keepends=True), saved.splitlines(keepends=True)))
    assert not difference, f"jupytext would write:\n{difference}"


@every_chapter
def test_a_chapter_has_a_title_that_says_what_is_done_and_cells_of_one_screen(notebook):
    cells = read_notebook(notebook).cells
    assert re.match(r"# (\w\d · )?\S", cells[0].source), "the first cell is a title"
    long = [cell.source[:60] for cell in cells if cell.cell_type == "code" and len(cell.source.splitlines()) > 30]
    parameters = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert set(long) <= {cell.source[:60] for cell in parameters}, f"code cells longer than a screen: {long}"
    assert any("checks" in cell.metadata.get("tags", []) for cell in cells), (
        "no cell says what a scientist would assert"
    )


@every_profile
def test_every_profile_fits_the_chapters_that_it_lists(path):
    profile = read_profile(path)
    assert profile.name == path.stem
    assert profile.description
    for number in profile.chapters:
        assert plan_job(number, profile).spec.chapter.startswith(number)


def test_the_profiles_of_the_design_are_there():
    assert {"ci", "phantom", "her2st", "metabric", "tcga-brca-features", "template"} <= {path.stem for path in PROFILES}
