"""Files appear whole or not at all, and are found from wherever a kernel starts."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from helpers.core import paths
from helpers.core.errors import RunError, SchemaError


def write_half_and_fail(target):
    with paths.atomic_write(target) as temporary:
        temporary.write_text("half of the new")
        raise OSError("disk")


def test_a_writer_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(OSError, match="disk"):
        write_half_and_fail(target)
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_the_temporary_file_keeps_the_suffix_since_writers_choose_their_format_by_it(tmp_path):
    with paths.atomic_write(tmp_path / "figure.svg") as temporary:
        assert temporary.suffix == ".svg"
        assert temporary.parent == tmp_path
        temporary.write_text("<svg/>")
    assert (tmp_path / "figure.svg").read_text() == "<svg/>"


def test_the_root_is_found_from_the_notebooks_folder(monkeypatch):
    root = paths.repo_root()
    monkeypatch.chdir(root / "notebooks")
    assert paths.repo_root() == root
    assert paths.resolve("data") == root / "data"
    assert paths.shorten(root / "data" / "genes.yaml") == "data/genes.yaml"


def test_a_root_that_holds_no_book_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(paths.ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(RunError, match="no book found"):
        paths.repo_root()


def test_tables_come_back_as_written_with_ids_as_strings(tmp_path):
    table = pd.DataFrame({"case_id": ["007", "010"], "value": [0.5, 1.0]})
    back = pd.read_parquet(paths.write_table(table, tmp_path / "t.parquet"))
    pd.testing.assert_frame_equal(back, table)
    with pytest.raises(SchemaError, match=r"ends in '\.xlsx', expected \.parquet or \.csv"):
        paths.write_table(table, tmp_path / "t.xlsx")


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        paths.write_json({"value": float("nan")}, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_the_parts_of_killed_processes_are_swept_and_those_of_living_ones_stay(tmp_path):
    script = f"""
import os
from helpers.core.paths import atomic_write
with atomic_write({str(tmp_path / "a.txt")!r}) as part:
    part.write_text("half")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    living = tmp_path / left.name.replace(left.name.split("-")[-1].split(".")[0], str(os.getppid()))
    living.write_text("another process at work")
    elsewhere = tmp_path / ".b.othermachine-1.x.part.txt"
    elsewhere.write_text("a process of another machine")
    paths.write_text("whole", tmp_path / "a.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", living.name, elsewhere.name}
    assert (tmp_path / "a.txt").read_text() == "whole"
