"""Benchmarks are rows of one form, written beside the machine that they were measured on."""

import pytest

from helpers.book import bench
from helpers.core import paths
from helpers.core.errors import RunError

FIELDS = {"id", "value", "unit", "compared_with", "ratio", "bound"}


def test_rows_and_machine_are_written_and_a_partial_run_keeps_the_others(tmp_path, monkeypatch):
    numbers = iter([1.0, 2.0, 3.0])
    measured = {
        "first": lambda: [bench.make_row("first/a", next(numbers), "s", bound=0.5)],
        "second": lambda: [bench.make_row("second/a", next(numbers), "s", compared_with="theirs", ratio=2.0)],
    }
    monkeypatch.setattr(bench, "BENCHMARKS", measured)
    rows = bench.run_benchmarks(folder=tmp_path)
    assert [row["id"] for row in rows] == ["first/a", "second/a"]
    assert all(set(row) == FIELDS for row in rows)
    again = bench.run_benchmarks(only=["second"], folder=tmp_path)
    assert [(row["id"], row["value"]) for row in again] == [("first/a", 1.0), ("second/a", 3.0)]
    assert paths.read_json(tmp_path / "bench.json") == again
    assert set(paths.read_json(tmp_path / "machine.json")) == {"cpu", "cores", "system", "python", "date"}


def test_an_unknown_benchmark_is_named():
    with pytest.raises(RunError, match="no benchmark fast; there are startup, slides, survival"):
        bench.run_benchmarks(only=["fast"])


def test_the_best_of_several_timings_is_taken():
    calls = []
    assert bench.time_best(lambda: calls.append(1), repeats=4) >= 0.0
    assert len(calls) == 4


def test_both_readers_read_the_same_slide(monkeypatch):
    monkeypatch.setattr(bench, "SLIDE_PX", 512)
    (row,) = bench.measure_reading()
    assert row["unit"] == "tiles/s"
    assert row["ratio"] > 0
