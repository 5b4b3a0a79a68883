"""What a user types, and what comes back: one clear message, a useful exit code."""

import subprocess
import sys

import pytest

from helpers.book.cli import join_pairs, parse_pairs
from helpers.core.errors import SpecError


def call(*arguments, cwd=None):
    command = [sys.executable, "-m", "helpers.book.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL)


def test_help_lists_every_command():
    said = call("--help").stdout
    for name in (
        "run",
        "book",
        "phantom",
        "fetch",
        "doctor",
        "convert",
        "scoreboard",
        "validate",
        "site",
        "bench",
        "encoders",
    ):
        assert f" {name} " in said


def test_both_ways_of_giving_a_parameter_are_understood():
    assert join_pairs(["run", "03", "-p", "n_folds", "3", "--parameter", "seed=4", "-p", "name", "-1"]) == [
        "run", "03", "-p", "n_folds=3", "--parameter", "seed=4", "-p", "name=-1",
    ]  # fmt: skip
    assert parse_pairs(["n_folds=3", "text=a=b"]) == {"n_folds": "3", "text": "a=b"}
    with pytest.raises(SpecError, match="'n_folds=4' is not a new 'name=value'"):
        parse_pairs(["n_folds=3", "n_folds=4"])
    with pytest.raises(SpecError, match="'3' is not a new 'name=value'"):
        parse_pairs(["3"])


def test_a_dry_run_says_what_would_be_done_and_does_nothing(toy_book):
    done = call("run", "00", "--profile", "toy", "--dry-run", cwd=toy_book)
    assert done.returncode == 1, "the command line knows no toy chapters"
    assert "no spec in helpers.core.specs has chapter = '00_count_cases'" in done.stderr
    assert not (toy_book / "results").exists()


def test_doctor_lists_problems_and_fails(tmp_path):
    (tmp_path / "cases.csv").write_text("case_id,site\nC1,A\nC1,A\n")
    done = call("doctor", str(tmp_path))
    assert done.returncode == 1
    assert "C1" in done.stdout
    assert "problem" in done.stdout


def test_nothing_is_fetched_before_the_licences_are_accepted(tmp_path):
    done = call("fetch", "metabric", "--to", str(tmp_path / "metabric"))
    assert done.returncode == 1
    assert "ODbL" in done.stderr
    assert "--accept-licences" in done.stderr
    assert not (tmp_path / "metabric").exists()


def test_encoders_say_what_they_need():
    said = call("encoders").stdout
    assert "stain_texture" in said
    assert "needs weights" not in said, "the list is no error message"
    assert "weights MahmoodLab/UNI2-h: not here; CC-BY-NC-ND-4.0" in said


def test_an_unknown_phantom_parameter_is_an_error(tmp_path):
    done = call("phantom", str(tmp_path / "p"), "-p", "n_case=3")
    assert done.returncode == 1
    assert "n_case" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_not_silently_accepted():
    assert call("bok").returncode != 0


def test_fetching_an_unknown_encoder_suggests_one(tmp_path):
    done = call("encoders", "fetch", "resnet5", "--to", str(tmp_path))
    assert done.returncode == 1
    assert "Did you mean 'resnet50'?" in done.stderr
    assert not list(tmp_path.iterdir())
