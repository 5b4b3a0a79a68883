"""Chapter A1 trains anew where it is asked to, into its own run, and leaves the book's encoders alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.core.provenance import fingerprint

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = {
    "train": "true", "n_slides": "4", "slide_um": "300", "steps": "3", "cycles": "1", "morphology_steps": "3",
    "batch_size": "8", "n_probe_cases": "6", "n_probe_external": "3", "n_boot": "100",
}  # fmt: skip

pytestmark = [pytest.mark.notebook, pytest.mark.slow, pytest.mark.xdist_group("book")]


def test_training_anew_writes_into_the_run_and_not_into_data(tmp_path):
    for name in ("notebooks", "config", "data"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("cohorts", "__pycache__"))
    shipped = sorted((tmp_path / "data" / "encoders").rglob("*.*"))
    before = [fingerprint(path) for path in shipped if path.is_file()]
    options = [word for name, value in TINY.items() for word in ("-p", f"{name}={value}")]
    command = [
        sys.executable,
        "-m",
        "helpers.book.cli",
        "run",
        "A1",
        "--profile",
        "phantom",
        "--name",
        "tiny",
        *options,
    ]
    environment = os.environ | {"HISTOBOOK_ROOT": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    folder = tmp_path / "results" / "phantom" / "A1@tiny"
    record = json.loads((folder / "run.json").read_text())
    if done.returncode:  # an encoder of three steps may fail the chapter's own check, and no other
        assert "no better than a network that was never trained" in done.stderr, done.stderr[-3000:]
    else:
        assert record["status"] == "finished"
    for name in ("phantom-s", "phantom-s-morphology"):
        files = {path.name for path in (folder / "encoders" / name).iterdir()}
        assert files == {"model.safetensors", "config.json", "training.json"}
    assert [fingerprint(path) for path in shipped if path.is_file()] == before
