"""A run says what it was; a key changes with whatever decides a result, and with nothing else."""

import matplotlib as mpl
import pandas as pd
import pytest

from helpers.core import paths, provenance
from helpers.core.errors import RunError
from helpers.core.specs import AnalysisPlan, PathStr, Spec


class Above(Spec):
    chapter = "00_example_above"
    seed: int = 1


class Below(AnalysisPlan):
    chapter = "04_example_below"
    upstream = ("00",)
    n_boot: int = 100
    table: PathStr = "table.csv"


@pytest.fixture
def table(tmp_path):
    return paths.write_table(pd.DataFrame({"x": [1, 2]}), tmp_path / "table.csv")


def finish_above(profile, seed=1):
    run = provenance.start(Above(seed=seed), profile, run_name="book")
    paths.write_text("cases", run.path("cohort/cases.txt"))
    run.finish()
    return run


def test_the_key_changes_with_spec_input_content_and_upstream_but_not_with_paths(tmp_path, table):
    profile = tmp_path / "results"
    finish_above(profile)
    key = provenance.compute_run_key(Below(table=str(table)), profile)
    moved = paths.write_table(pd.DataFrame({"x": [1, 2]}), tmp_path / "elsewhere" / "other.csv")
    assert provenance.compute_run_key(Below(table=str(moved)), profile) == key
    assert provenance.compute_run_key(Below(table=str(table), n_boot=200), profile) != key
    finish_above(profile, seed=2)
    assert provenance.compute_run_key(Below(table=str(table)), profile) != key
    finish_above(profile)
    paths.write_table(pd.DataFrame({"x": [1, 3]}), table)
    assert provenance.compute_run_key(Below(table=str(table)), profile) != key


def test_a_result_is_stale_when_its_run_its_key_or_its_files_say_so(tmp_path):
    run = finish_above(tmp_path)
    assert provenance.find_staleness(run.dir, run.key) == ""
    assert "changed" in provenance.find_staleness(run.dir, "another key")
    assert "never ran" in provenance.find_staleness(tmp_path / "nowhere", run.key)
    (run.dir / "cohort/cases.txt").write_text("Cases")
    assert "cases.txt' was changed" in provenance.find_staleness(run.dir, run.key)
    (run.dir / "cohort/cases.txt").unlink()
    assert "cases.txt' is missing" in provenance.find_staleness(run.dir, run.key)
    provenance.start(Above(), tmp_path, run_name="book")
    assert "last run is 'running'" in provenance.find_staleness(run.dir, run.key)


def test_a_missing_or_unfinished_chapter_above_is_named_with_the_command_that_makes_it(tmp_path, table):
    run = provenance.start(Below(table=str(table)), tmp_path)
    with pytest.raises(RunError, match=r"chapter 00 of .* never ran.*--until 00"):
        run.upstream("00")
    provenance.start(Above(), tmp_path, run_name="book")
    with pytest.raises(RunError, match="is 'running'"):
        run.upstream("00")
    assert not run.has_upstream("00")
    above = finish_above(tmp_path)
    assert run.upstream("00") == above.dir


def test_named_runs_and_shards_write_beside_the_book(tmp_path):
    assert provenance.start(Above(), tmp_path, run_name="lr3").dir.name == "00@lr3"
    shard = provenance.start(Above(), tmp_path, run_name="book", shard="2/3")
    assert shard.store.name == "00_example_above"
    assert shard.dir == shard.store / "shards" / "2"
    for wrong in ("0/3", "4/3", "a/b", "3"):
        with pytest.raises(RunError, match="expected 'k/n'"):
            provenance.parse_shard(wrong)


def test_a_departure_from_the_registered_plan_is_printed_and_recorded(tmp_path, table, capsys):
    provenance.register_plan(tmp_path, {"primary_endpoint": "rfs"})
    provenance.register_plan(tmp_path, {"primary_endpoint": "rfs"})
    assert len(paths.read_json(tmp_path / "plan.json")) == 1, "the same plan is registered once"
    run = provenance.start(Below(table=str(table), primary_endpoint="os"), tmp_path)
    assert "DEVIATES from the registered plan: primary_endpoint is 'os', planned 'rfs'" in capsys.readouterr().out
    assert provenance.read_run(run.dir)["deviations"] == ["primary_endpoint is 'os', planned 'rfs'"]
    provenance.register_plan(tmp_path, {"primary_endpoint": "os"})
    assert [row["plan"]["primary_endpoint"] for row in paths.read_json(tmp_path / "plan.json")] == ["rfs", "os"]


def test_run_json_holds_losses_substitutions_scores_and_the_hash_of_each_output(tmp_path, capsys):
    run = provenance.start(Above(), tmp_path, run_name="book")
    run.lose("C-1", "no follow-up")
    run.substitute("fallback mpp used", slide_id="S-1", mpp=0.5)
    run.score(id="00/n/cases/all", quantity="n", value=3.0, kind="control", ci_low=float("nan"))
    run.save_table(pd.DataFrame({"x": [1]}), "numbers")
    run.finish()
    record = provenance.read_run(run.dir)
    assert record["status"] == "finished"
    assert record["losses"] == [{"kind": "case", "item": "C-1", "reason": "no follow-up"}]
    assert record["substitutions"][0]["slide_id"] == "S-1"
    assert {output["path"].split("00_example_above/")[1] for output in record["outputs"]} == {
        "tables/numbers.csv",
        "scores.json",
    }
    score = paths.read_json(run.dir / "scores.json")[0]
    assert (score["chapter"], score["ci_low"], score["holds"]) == ("00", None, None)
    assert "SUBSTITUTION: fallback mpp used slide_id=S-1, mpp=0.5" in capsys.readouterr().out


def test_a_scoreboard_row_of_unknown_kind_is_refused(tmp_path):
    run = provenance.start(Above(), tmp_path)
    with pytest.raises(RunError, match="kind 'guess'"):
        run.score(id="x", quantity="n", value=1, kind="guess")
    with pytest.raises(RunError, match=r"unknown fields \['colour'\], lacks \['value'\]"):
        run.score(id="x", quantity="n", kind="control", colour="red")


def test_an_output_announced_but_never_written_stops_the_finish(tmp_path):
    run = provenance.start(Above(), tmp_path)
    run.path("tables/never.csv")
    with pytest.raises(RunError, match="never written: tables/never.csv"):
        run.finish()


def test_figures_carry_their_origin_and_equal_figures_have_equal_bytes(tmp_path):
    mpl.use("Agg")
    from helpers.figures.style import new_axes

    run = provenance.start(Above(), tmp_path, run_name="book")
    contents = []
    for _ in range(2):
        ax = new_axes()
        ax.plot([0, 1], [1, 0])
        run.save_figure(ax.figure, "line", table=pd.DataFrame({"x": [0, 1], "y": [1, 0]}))
        contents.append((run.dir / "figures/line.svg").read_bytes())
    assert contents[0] == contents[1]
    assert f"key {run.key[:12]}".encode() in contents[0]
    assert (run.dir / "figures/line.csv").read_text() == "x,y\n0,1\n1,0\n"


def test_the_fingerprint_of_a_folder_sees_names_and_content_and_a_big_file_both_ends(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("1")
    first = provenance.fingerprint(tmp_path)
    (tmp_path / ".hidden").write_text("1")
    assert provenance.fingerprint(tmp_path) == first
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert provenance.fingerprint(tmp_path) != first
    monkeypatch.setattr(provenance, "WHOLE_FILE_BYTES", 10)
    big = tmp_path / "big.bin"
    big.write_bytes(bytes(10**6))
    zeros = provenance.fingerprint(big)
    for position in (0, 10**6 - 1):
        changed = bytearray(10**6)
        changed[position] = 1
        big.write_bytes(bytes(changed))
        assert provenance.fingerprint(big) != zeros
    with pytest.raises(RunError, match="does not exist"):
        provenance.fingerprint(tmp_path / "nothing")


def test_a_table_for_a_manuscript_is_written_as_latex_too(tmp_path):
    from helpers.core import provenance
    from helpers.core.specs import ScoreboardSpec

    run = provenance.start(ScoreboardSpec.from_values({}), tmp_path / "results" / "x", run_name="latex")
    run.save_table(
        pd.DataFrame({"hazard_ratio": [1.5, None], "label": ["ER+ & HER2_neg", "all"]}), "ratios", latex=True
    )
    text = next((tmp_path / "results" / "x").rglob("ratios.tex")).read_text()
    assert "hazard ratio & label" in text
    assert r"1.500 & ER+ \& HER2\_neg" in text, "three decimals, LaTeX's own characters escaped"
    assert "NaN" not in text
