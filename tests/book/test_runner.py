"""A chapter runs when something changed, is reused when nothing did, and is kept when it fails."""

import json

import nbformat
import pytest

from helpers.book import runner
from helpers.book.execution import describe_error, own_kernel
from helpers.book.runner import plan_job, run_job
from helpers.core import provenance
from helpers.core.errors import RunError, SpecError

pytestmark = pytest.mark.notebook


def run_book(profile="toy"):
    """Run both chapters; return which of them really ran."""
    return [run_job(plan_job(chapter, profile)) for chapter in ("00", "01")]


def edit(path, old, new):
    assert old in path.read_text(), f"'{old}' is not in {path.name}"
    path.write_text(path.read_text().replace(old, new, 1))


def test_an_unchanged_book_is_not_run_again_and_a_change_reruns_itself_and_all_below(toy_book, capsys):
    results = toy_book / "results" / "toy"
    assert run_book() == [True, True]
    assert (results / "00_count_cases" / "share.txt").read_text() == "007 0.2", (
        "the profile's values reached the chapter"
    )
    assert (results / "01_read_share" / "product.txt").read_text() == "0.4"
    for name in ("notebook.ipynb", "notebook.html", "run.json"):
        assert (results / "00_count_cases" / name).is_file()

    assert run_book() == [False, False]
    assert "00_count_cases: unchanged, not run again" in capsys.readouterr().err

    edit(toy_book / "config" / "toy.yaml", "n_cases: 5", "n_cases: 2")
    assert run_book() == [True, True], "a changed spec re-runs its chapter and the one below"
    assert (results / "01_read_share" / "product.txt").read_text() == "1.0"

    edit(toy_book / "notebooks" / "01_read_share.py", "# # Read the share", "# # Read the share again")
    assert run_book() == [False, True], "a changed text re-runs its own chapter only"

    (results / "00_count_cases" / "share.txt").write_text("007 0.3")
    capsys.readouterr()
    assert run_book() == [True, False], "a tampered output is made again; equal content leaves the chapter below alone"
    assert "its output 'results/toy/00_count_cases/share.txt' was changed" in capsys.readouterr().err

    (results / "01_read_share" / "product.txt").unlink()
    assert run_book() == [False, True], "a missing output is made again"


def test_the_content_of_a_path_counts_and_its_name_does_not(toy_book):
    (toy_book / "a.csv").write_text("1")
    (toy_book / "b.csv").write_text("1")
    edit(toy_book / "config" / "toy.yaml", '{case_id: "007"}', "{table: a.csv}")
    assert run_job(plan_job("00", "toy"))
    edit(toy_book / "config" / "toy.yaml", "a.csv", "b.csv")
    assert not run_job(plan_job("00", "toy")), "the same content under another name is the same input"
    (toy_book / "b.csv").write_text("2")
    assert run_job(plan_job("00", "toy"))


def test_a_failed_chapter_names_its_cell_line_and_error_and_keeps_its_notebook(toy_book):
    edit(toy_book / "config" / "toy.yaml", "n_cases: 5", "n_cases: 0")
    job = plan_job("00", "toy")
    with pytest.raises(RunError) as error:
        run_job(job)
    text = str(error.value)
    line = job.notebook.read_text().splitlines().index("share = 1 / n_cases") + 1
    assert "00_count_cases failed in cell 5 ('Divide the cases')" in text
    assert f"notebooks/00_count_cases.py:{line}" in text
    assert "| share = 1 / n_cases" in text
    assert "ZeroDivisionError: division by zero" in text
    record = json.loads((job.folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"] == {"cell": 5, "line": line, "text": "ZeroDivisionError: division by zero"}
    kept = nbformat.read(job.folder / "notebook.ipynb", as_version=4)
    assert any(out.output_type == "error" for cell in kept.cells if cell.cell_type == "code" for out in cell.outputs)
    assert "ZeroDivisionError" in (job.folder / "notebook.html").read_text()
    assert job.find_reason() == "its last run is 'failed'"


def test_a_killed_kernel_is_a_failure_with_a_remedy(toy_book):
    edit(toy_book / "notebooks" / "00_count_cases.py", "share = 1 / n_cases", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(RunError, match=r"failed in cell 5 \('Divide the cases'\)[\s\S]*the kernel died.*Fewer workers"):
        run_job(plan_job("00", "toy"))
    assert provenance.read_run(toy_book / "results" / "toy" / "00_count_cases")["status"] == "failed"


def test_a_chapter_that_never_finishes_its_run_is_an_error(toy_book):
    edit(toy_book / "notebooks" / "00_count_cases.py", "run.finish()", "print('no end')")
    with pytest.raises(RunError, match=r"its run is 'running'. Call run.finish\(\) in its last cell"):
        run_job(plan_job("00", "toy"))


def test_a_named_run_lies_beside_the_book_s_own_and_leaves_it_alone(toy_book):
    run_job(plan_job("00", "toy"))
    book = (toy_book / "results" / "toy" / "00_count_cases" / "run.json").read_text()
    run_job(plan_job("00", "toy", overrides={"n_cases": "10"}, run_name="ten"))
    assert (toy_book / "results" / "toy" / "00@ten" / "share.txt").read_text() == "007 0.1"
    assert (toy_book / "results" / "toy" / "00_count_cases" / "run.json").read_text() == book
    with pytest.raises(RunError, match=r"Give it a name \(--name lr3\)"):
        plan_job("00", "toy", overrides={"n_cases": "10"})
    with pytest.raises(RunError, match="run name '../x' cannot name a folder"):
        plan_job("00", "toy", run_name="../x")


def test_a_mistyped_parameter_stops_before_a_kernel_starts(toy_book, monkeypatch):
    monkeypatch.setattr(runner, "_execute", lambda job: pytest.fail("a kernel was started"))
    with pytest.raises(
        SpecError, match=r"-p sets 'n_cases_', which '00_count_cases.py' does not declare. Did you mean 'n_cases'"
    ):
        plan_job("00", "toy", overrides={"n_cases_": "10"}, run_name="ten")
    with pytest.raises(SpecError, match="n_cases: Input should be a valid integer"):
        plan_job("00", "toy", overrides={"n_cases": "ten"}, run_name="ten")


def test_a_number_that_yaml_takes_for_text_reaches_the_chapter_as_a_number(toy_book):
    job = plan_job("01", "toy", overrides={"factor": "1e-3"}, run_name="small")
    assert job.parameters["factor"] == 0.001


def test_a_shard_writes_its_own_record(toy_book):
    job = plan_job("00", "toy", shard="2/3")
    assert job.folder == toy_book / "results" / "toy" / "00_count_cases" / "shards" / "2"
    run_job(job)
    assert provenance.read_run(job.folder)["shard"] == "2/3"
    with pytest.raises(RunError, match="shard is '4/3'"):
        plan_job("00", "toy", shard="4/3")


def test_python3_means_this_interpreter_whatever_else_is_registered(toy_book, tmp_path, monkeypatch):
    stranger = tmp_path / "stranger" / "kernels" / "python3"
    stranger.mkdir(parents=True)
    (stranger / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "stranger", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "stranger"))
    from jupyter_client.kernelspec import KernelSpecManager

    assert KernelSpecManager().get_kernel_spec("python3").display_name == "stranger"
    with own_kernel():
        assert KernelSpecManager().get_kernel_spec("python3").display_name == "Python 3 (ipykernel)"
    assert KernelSpecManager().get_kernel_spec("python3").display_name == "stranger", "the user's setting is back"


def test_figures_stand_in_the_page_whatever_backend_the_shell_asks_for(toy_book, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    edit(
        toy_book / "notebooks" / "00_count_cases.py",
        "share = 1 /",
        "import matplotlib.pyplot as plt; plt.plot([1, 2]); share = 1 /",
    )
    job = plan_job("00", "toy")
    run_job(job)
    assert "image/png" in (job.folder / "notebook.ipynb").read_text()


def test_a_run_started_from_a_notebook_is_no_live_notebook(toy_book, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/00_count_cases.py")
    monkeypatch.setenv("VSCODE_PID", "7")
    line = "from helpers.figures.explorer import is_live; print('live:', is_live()); share = 1 /"
    edit(toy_book / "notebooks" / "00_count_cases.py", "share = 1 /", line)
    job = plan_job("00", "toy")
    run_job(job)
    assert "live: False" in (job.folder / "notebook.ipynb").read_text()


def test_an_error_that_names_its_kind_is_not_named_twice():
    assert describe_error("SpecError", "SpecError: no") == "SpecError: no"
    assert describe_error("KeyError", "'a'") == "KeyError: 'a'"
