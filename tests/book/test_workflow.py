"""Snakemake orders the chapters of a profile; the helpers decide which of them really run."""

import fcntl
import shutil
import subprocess
import sys

import pytest

from helpers.book.workflow import describe_book, order_book
from helpers.core import provenance
from helpers.core.errors import RunError, SpecError
from helpers.core.specs import FeatureSpec, TilingSpec

pytestmark = pytest.mark.notebook

HOLLOW = """\
# %% tags=["parameters"]
from typing import Optional
profile_dir: str = "results/hollow"
run_name: str = "interactive"
shard: str = "1/1"
workers: int = 2
device: str = "auto"
{parameters}

# %%
from helpers.core import provenance
from helpers.core.specs import {spec}
spec = {spec}.from_namespace(globals())
run = provenance.start(spec, profile_dir, run_name=run_name, shard=shard, workers=workers, device=device)
above = [str(run.upstream(number)) for number in {upstream}]

# %% [markdown]
# ## Work

# %%
run.path("seen.txt").write_text(f"{{shard}} {{len(above)}}")
run.score(id="{number}/share/a/b", quantity="share", value=1.0, kind="control", source="hollow")
run.finish()
"""


def write_hollow_chapter(root, spec, upstream=()):
    """Write a chapter that declares all parameters of a real spec and does next to nothing."""
    fields = spec.model_construct().model_dump(mode="json")
    text = HOLLOW.format(
        parameters="\n".join(
            f"{name}: {type(value).__name__ if value is not None else 'Optional[str]'} = {value!r}"
            for name, value in fields.items()
        ),
        spec=spec.__name__,
        upstream=list(upstream),
        number=spec.chapter[:2],
    )
    path = root / "notebooks" / f"{spec.chapter}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def hollow_book(tmp_path, monkeypatch, repository):
    write_hollow_chapter(tmp_path, TilingSpec)
    write_hollow_chapter(tmp_path, FeatureSpec, ["01"])
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "hollow.yaml").write_text('profile: hollow\nchapters: {"01": {}, "02": {}}\n')
    shutil.copy(repository / "Snakefile", tmp_path)
    monkeypatch.setenv("HISTOBOOK_ROOT", str(tmp_path))
    return tmp_path


def test_chapters_run_in_order_once_and_again_only_where_something_changed(hollow_book, capfd):
    results = hollow_book / "results" / "hollow"
    order_book("hollow", until="02")
    assert (results / "02_extract_features" / "seen.txt").read_text() == "1/1 1"
    first = {
        chapter: provenance.read_run(results / chapter)["id"] for chapter in ("01_tile_slides", "02_extract_features")
    }

    subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "profile=hollow", "--", "chapter_02"],
        cwd=hollow_book, check=True,
    )  # fmt: skip
    again = {chapter: provenance.read_run(results / chapter)["id"] for chapter in first}
    assert again == first, "Snakemake, also when called by hand, neither deletes nor re-makes what stands"
    assert capfd.readouterr().err.count("unchanged, not run again") == 2, "and it asks every chapter"

    path = hollow_book / "notebooks" / "02_extract_features.py"
    path.write_text(path.read_text().replace("## Work", "## Work harder"))
    text = describe_book("hollow")
    assert "01_tile_slides: unchanged, would not run" in text
    assert "02_extract_features: would run, its spec, text, code, inputs or libraries changed" in text
    order_book("hollow", until="02")
    assert provenance.read_run(results / "01_tile_slides")["id"] == first["01_tile_slides"]
    assert provenance.read_run(results / "02_extract_features")["id"] != first["02_extract_features"]


def test_shards_run_apart_and_then_once_as_a_whole(hollow_book):
    order_book("hollow", shards=2, until="01")
    store = hollow_book / "results" / "hollow" / "01_tile_slides"
    assert (store / "shards" / "1" / "seen.txt").read_text() == "1/2 0"
    assert (store / "shards" / "2" / "seen.txt").read_text() == "2/2 0"
    assert (store / "seen.txt").read_text() == "1/1 0"


def test_a_failed_chapter_stops_the_book_by_name_and_keeps_what_was_there(hollow_book, capfd):
    path = hollow_book / "notebooks" / "02_extract_features.py"
    path.write_text(path.read_text().replace('run.path("seen.txt")', 'none = {}["missing"]; run.path("seen.txt")'))
    with pytest.raises(RunError, match="the book of 'hollow' is not complete"):
        order_book("hollow", until="02")
    said = capfd.readouterr().err
    assert "02_extract_features failed in cell 4 ('Work'), notebooks/02_extract_features.py:" in said
    assert "KeyError: 'missing'" in said
    results = hollow_book / "results" / "hollow"
    assert provenance.read_run(results / "01_tile_slides")["status"] == "finished"
    assert provenance.read_run(results / "02_extract_features")["status"] == "failed"
    assert (results / "02_extract_features" / "notebook.ipynb").is_file()


def test_a_dry_run_tells_what_a_stale_chapter_drags_along(hollow_book):
    assert describe_book("hollow") == (
        "01_tile_slides: would run, it never ran\n02_extract_features: would run, chapter 01 above it runs"
    )


def test_every_chapter_is_checked_before_the_first_one_runs(hollow_book):
    (hollow_book / "config" / "hollow.yaml").write_text('profile: hollow\nchapters: {"01": {}, "02": {encoder_: x}}\n')
    with pytest.raises(SpecError, match="sets 'encoder_'"):
        order_book("hollow")
    assert not (hollow_book / "results" / "hollow" / "01_tile_slides").exists()


def test_two_books_of_one_profile_do_not_run_at_once(hollow_book):
    folder = hollow_book / "results" / "hollow"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process runs the book of 'hollow'"):
            order_book("hollow")


def test_the_command_line_prints_one_message_and_no_traceback(hollow_book):
    done = subprocess.run(
        [sys.executable, "-m", "helpers.book.cli", "run", "01", "--profile", "hollow", "-p", "mppp", "0.5"],
        capture_output=True, text=True, check=False, cwd=hollow_book,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("SpecError: -p sets 'mppp'")
    assert "Did you mean 'mpp'" in done.stderr
    assert "Traceback" not in done.stderr
