"""Files appear whole or not at all, and are found from wherever a kernel starts."""

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
