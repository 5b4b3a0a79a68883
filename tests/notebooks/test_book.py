"""The whole book on the small phantom: every chapter executed by papermill, once, as a new user would."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from helpers.book.params import read_profile
from helpers.core.provenance import fingerprint

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILE = read_profile(REPOSITORY / "config" / "ci.yaml")
SCORE_FIELDS = {
    "id", "chapter", "quantity", "value", "ci_low", "ci_high", "n", "n_events", "reference", "reference_low",
    "reference_high", "source", "kind", "holds",
}  # fmt: skip

pytestmark = [pytest.mark.notebook, pytest.mark.slow, pytest.mark.xdist_group("book")]
every_chapter = pytest.mark.parametrize("number", list(PROFILE.chapters))


@dataclass(frozen=True)
class Book:
    """A finished run of `histobook book --profile ci` in a copy of the repository."""

    root: Path
    code: int
    said: str

    @property
    def results(self) -> Path:
        return self.root / "results" / "ci"

    def folder(self, number: str) -> Path:
        found = sorted(self.results.glob(f"{number}_*"))
        assert found, f"chapter {number} never ran; the book said:\n{self.said[-3000:]}"
        return found[0]

    def record(self, number: str) -> dict:
        return json.loads((self.folder(number) / "run.json").read_text())

    def call(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"HISTOBOOK_ROOT": str(self.root)}
        command = [sys.executable, "-m", "helpers.book.cli", *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)


def copy_book(root: Path) -> Path:
    """Copy what a chapter may read, so that a test never writes into the repository."""
    ignore = shutil.ignore_patterns("cohorts", "_build", "chapters", "__pycache__", ".ipynb_checkpoints")
    for folder in ("notebooks", "config", "data", "docs"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=ignore)
    for name in ("Snakefile", "CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, root)
    return root


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    root = copy_book(tmp_path_factory.mktemp("book"))
    done = Book(root, 0, "").call("book", "--profile", "ci", "--cores", "2")
    return Book(root, done.returncode, done.stdout + done.stderr)


@every_chapter
def test_every_cell_of_the_chapter_ran(book, number):
    record = book.record(number)
    assert record["status"] == "finished", f"{record.get('error')}\n{book.said[-3000:]}"
    cells = nbformat.read(book.folder(number) / "notebook.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source.strip())
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert (book.folder(number) / "notebook.html").stat().st_size > 10_000


@every_chapter
def test_the_record_names_what_was_written_as_it_lies_there(book, number):
    record = book.record(number)
    assert record["outputs"], "a chapter that writes nothing"
    for output in record["outputs"]:
        path = book.root / output["path"]
        assert path.stat().st_size == output["bytes"]
        assert fingerprint(path) == output["sha256"]
    assert {"spec", "spec_hash", "key", "commit", "versions", "seed", "device", "losses", "deviations"} <= set(record)


@every_chapter
def test_every_figure_has_its_vector_form_and_shows_something(book, number):
    for picture in (book.folder(number) / "figures").glob("*.png"):
        assert picture.with_suffix(".svg").is_file(), f"{picture.name} has no SVG"
        assert picture.stat().st_size > 3_000, f"{picture.name} is empty"


@every_chapter
def test_the_figures_are_seen_in_the_page(book, number):
    cells = nbformat.read(book.folder(number) / "notebook.ipynb", as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    seen = sum("image/png" in output.get("data", {}) for output in outputs)
    saved = len(list((book.folder(number) / "figures").glob("*.png")))
    assert seen >= saved, f"{saved} figures saved, {seen} shown"


@every_chapter
def test_nothing_in_a_chapter_names_the_machine(book, number):
    text = (book.folder(number) / "notebook.ipynb").read_text()
    assert str(book.root) not in text, "the executed chapter names a folder of this machine"


def test_the_whole_book_ends_well(book):
    assert book.code == 0, book.said[-3000:]


def test_the_analysis_plan_was_registered_and_no_chapter_departs_from_it(book):
    plan = json.loads((book.results / "plan.json").read_text())
    assert len(plan) == 1
    assert plan[0]["plan"]["primary_target"] == PROFILE.shared["primary_target"]
    assert all(book.record(number)["deviations"] == [] for number in PROFILE.chapters)


def test_the_two_planted_bad_slides_are_lost_with_a_reason_and_no_other(book):
    ledger = pd.read_parquet(book.folder("01") / "ledger.parquet")
    failed = ledger[ledger["status"] == "failed"]
    assert len(failed) == 2
    assert failed["reason"].str.len().min() > 20


def test_the_scoreboard_has_one_row_per_quantity_in_the_form_of_the_design(book):
    rows = json.loads((book.results / "scoreboard.json").read_text())
    assert len({row["id"] for row in rows}) == len(rows) > 10
    for row in rows:
        assert set(row) == SCORE_FIELDS
        assert row["kind"] in {"planted", "published", "baseline", "control"}
        assert row["id"].split("/")[0] == row["chapter"]
    assert {"planted", "control"} <= {row["kind"] for row in rows}


def test_the_site_holds_every_chapter_its_figures_and_the_scoreboard(book):
    site = book.results / "site"
    for number in PROFILE.chapters:
        page = site / "chapters" / f"{book.folder(number).name}.html"
        assert page.is_file()
        assert "Traceback" not in page.read_text()
    assert "03/spearman/prolif11/external" in (site / "scoreboard.html").read_text()
    for name in ("index", "gallery", "glossary", "api/index", "howto/run", "reference/parameters"):
        assert (site / f"{name}.html").is_file()


def test_an_unchanged_book_runs_no_chapter_again(book):
    before = {number: book.record(number)["id"] for number in PROFILE.chapters}
    done = book.call("book", "--profile", "ci", "--until", list(PROFILE.chapters)[-1])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("unchanged, not run again") == len(PROFILE.chapters)
    assert {number: book.record(number)["id"] for number in PROFILE.chapters} == before


def test_plain_papermill_runs_a_chapter_as_the_how_to_says(book, tmp_path):
    (tmp_path / "parameters.yaml").write_text("profile_dir: results/ci\nrun_name: plain\n")
    command = (
        f"'{sys.executable}' -m jupytext --to ipynb --output - notebooks/09_compare_published.py"
        f" | '{sys.executable}' -m papermill - '{tmp_path}/out.ipynb' -f '{tmp_path}/parameters.yaml' --cwd notebooks"
    )
    environment = os.environ | {"HISTOBOOK_ROOT": str(book.root)}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=book.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((book.results / "09@plain" / "run.json").read_text())["status"] == "finished"


def test_named_runs_do_not_reach_the_scoreboard(book):
    done = book.call("scoreboard", "--profile", "ci")
    assert done.returncode == 0, done.stderr
    assert "09@" not in (book.results / "scoreboard.json").read_text()


def test_networks_of_chapter_a2_score_slides_from_their_files_as_the_chapter_did(book, tmp_path):
    options = ["epochs=1", "tiles_per_epoch=32", "tiles_per_slide=null", "n_boot=100", "aggregation=median"]
    done = book.call(
        "run", "A2", "--profile", "ci", "--name", "tiny", *(word for option in options for word in ("-p", option))
    )
    assert done.returncode == 0, done.stderr[-3000:]
    chapter, raw = book.results / "A2@tiny", book.root / "data" / "cohorts" / "ci"
    rows = pd.read_parquet(chapter / "predictions.parquet")
    rows = rows[
        (rows["arm"] == "end_to_end_median") & (rows["split"] == "external") & (rows["target"] == "prolif11")
    ].set_index("case_id")
    slides = pd.read_csv(raw / "slides.csv", dtype=str)
    slides = slides[slides["case_id"].isin(rows.index[:3])].assign(
        path=lambda table: [str(raw / name) for name in table["path"]]
    )
    slides.to_csv(tmp_path / "slides.csv", index=False)
    done = book.call(
        "predict",
        "--bundle",
        str(chapter / "bundle"),
        "--slides",
        str(tmp_path / "slides.csv"),
        "--out",
        str(tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = pd.read_parquet(tmp_path / "out" / "predictions.parquet").set_index("case_id")
    assert len(found) == 3
    assert found["y_pred"].to_numpy() == pytest.approx(rows.loc[found.index, "y_pred"].to_numpy(), abs=1e-3)
    assert json.loads((chapter / "run.json").read_text())["outputs"]
    assert "End-to-end ensemble" in (tmp_path / "out" / "reports" / f"{found.index[0]}.html").read_text()
