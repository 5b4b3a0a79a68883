"""The profile scanb, chapters 00 and 04 as a user runs them, on a dozen patients in the published layout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.genes import read_signature

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.notebook, pytest.mark.slow]
AGE = "Age (5-year range, e.g., 35(31-35), 40(36-40), 45(41-45) etc.)"


def write_tables(folder: Path, *, n: int = 12) -> Path:
    """Twelve patients whose high scores relapse early."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(465)
    level = np.linspace(-1, 1, n)
    libraries = [f"S{i:06d}.l.r.m.c.lib.g.k2.a.t" for i in range(n)]
    recurred = np.arange(n) % 2 == 1
    follow = 2400 + rng.integers(0, 400, n)
    clinical = pd.DataFrame(
        {
            "Follow.up.cohort": "TRUE", "GEX.assay": libraries, "Patient": [f"P{i:04d}" for i in range(n)], AGE: 55,
            "ER": "Positive", "PR": "Positive", "HER2": "Negative", "NHG": [1, 2, 3] * (n // 3), "Size.mm": 20,
            "LN.spec": "N0", "OS_days": follow, "OS_event": (np.arange(n) % 4 == 3) * 1,
            "RFi_days": np.where(recurred, 1500 - (900 * level).astype(int), follow), "RFi_event": recurred * 1,
        }
    )  # fmt: skip
    clinical.to_csv(folder / "SCANB.9206.csv", index=False)
    genes = read_signature("prolif11")
    values = np.exp(2 + level + rng.normal(0, 0.2, (len(genes), n)))
    pd.DataFrame(values, index=genes, columns=libraries).to_csv(
        folder / "SCANB.9206.genematrix_noNeg.Symbol.txt", sep="\t"
    )
    return folder


def test_chapters_00_and_04_run_on_the_tables_and_answer_for_the_relapse_free_interval(tmp_path: Path) -> None:
    root = tmp_path / "book"
    for folder in ("notebooks", "config", "data", "docs"):
        shutil.copytree(
            REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("cohorts", "_build", "__pycache__")
        )
    tables = write_tables(tmp_path / "scanb")
    environment = os.environ | {"HISTOBOOK_ROOT": str(root)}
    for number in ("00", "04"):
        command = [sys.executable, "-m", "helpers.book.cli", "run", number, "--profile", "scanb", "--data", str(tables)]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    chapter = root / "results" / "scanb" / "04_estimate_survival"
    results = pd.read_csv(chapter / "tables" / "hazard_ratios.csv")
    assert results.loc[0, ["role", "endpoint", "measured", "n", "n_events"]].tolist() == [
        "primary",
        "dfi",
        "rna",
        12,
        6,
    ]
    assert (chapter / "tables" / "hazard_ratios.tex").read_text().startswith("\\begin{tabular}")
    assumed = json.dumps(json.loads((root / "results" / "scanb" / "00_build_cohort" / "run.json").read_text()))
    assert "RFi counts recurrence" in assumed, "what is assumed of the tables is on record"
