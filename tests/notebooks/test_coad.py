"""The profile tcga-coad, chapters 00 to 02 and 05 as a user runs them, on a dozen drawn cases in that layout."""

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
from helpers.phantom.plan import SlidePlan
from helpers.phantom.renderer import render_slide
from helpers.slides.writer import write_pyramid

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.notebook, pytest.mark.slow]
SIGNATURES = ("colotype_cms1", "colotype_cms2", "colotype_cms3", "colotype_cms4", "colon_extra")
OLD = {"WARS1": "WARS"}
NOT_MEASURED = "IKZF4"


def write_cohort(folder: Path) -> Path:
    """Twelve cases of four sites: a top and a bottom section each, frozen, without a stated resolution."""
    (folder / "slides").mkdir(parents=True)
    rng = np.random.default_rng(3489)
    level = np.linspace(-1.5, 1.5, 12)
    cases = [f"TCGA-{site}-{i:04d}" for i, site in enumerate(["AA", "A6", "CM", "D5"] * 3)]
    slides = []
    for i, (case, z) in enumerate(zip(cases, level, strict=True)):
        for j, kind in enumerate(("TS", "BS")):
            slide_id = f"{case}-01A-01-{kind}1"
            plan = SlidePlan(
                slide_id=slide_id,
                seed=10 * i + j,
                slide_um=700.0,
                mpp=0.5,
                proliferation=float(z),
                fat_fraction=0.0,
                benign_fraction=0.0,
                tumour_fraction=0.7,
            )
            write_pyramid(
                folder / "slides" / f"{slide_id}.svs", render_slide(plan).image, mpp=None, quality=85, scanner="frozen"
            )
            slides.append((slide_id, case, f"slides/{slide_id}.svs", kind, i == 0))
    pd.DataFrame({"case_id": cases, "site": [case[5:7] for case in cases], "stage": ["II", "III"] * 6}).to_csv(
        folder / "cases.csv", index=False
    )
    pd.DataFrame(slides, columns=["slide_id", "case_id", "path", "kind", "duplicated"]).to_csv(
        folder / "slides.csv", index=False
    )
    genes = [OLD.get(g, g) for name in SIGNATURES for g in read_signature(name) if g != NOT_MEASURED]
    rows = [
        (case, gene, float(np.exp(3 + z * (gene == "AXIN2") + 0.3 * rng.normal())), "tpm")
        for case, z in zip(cases, level, strict=True)
        for gene in genes
    ]
    pd.DataFrame(rows, columns=["case_id", "gene", "value", "unit"]).to_parquet(folder / "expression.parquet")
    return folder


def test_chapters_00_to_02_and_05_run_on_a_dozen_frozen_cases(tmp_path: Path) -> None:
    root = tmp_path / "book"
    for folder in ("notebooks", "config", "data", "docs"):
        shutil.copytree(
            REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("cohorts", "_build", "__pycache__")
        )
    cohort = write_cohort(tmp_path / "coad")
    environment = os.environ | {"HISTOBOOK_ROOT": str(root)}
    for number in ("00", "01", "02", "05"):
        command = [
            sys.executable,
            "-m",
            "helpers.book.cli",
            "run",
            number,
            "--profile",
            "tcga-coad",
            "--data",
            str(cohort),
        ]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    chapter = root / "results" / "tcga-coad" / "05_regress_expression"
    record = json.loads((chapter / "run.json").read_text())
    lost = {loss["item"]: loss["reason"] for loss in record["losses"]}
    assert lost[NOT_MEASURED].startswith("not measured"), "a gene that the table lacks is named"
    genes = pd.read_csv(chapter / "tables" / "genes.csv")
    assert len(genes) == 41
    assert "WARS1" in set(genes["target"]), "found under its older symbol"
    predictions = pd.read_parquet(chapter / "predictions.parquet")
    assert predictions["case_id"].nunique() == 12
    assert "05/share_r_above_06/genes/oof" in (chapter / "scores.json").read_text()
    assert json.loads((root / "results" / "tcga-coad" / "01_tile_slides" / "run.json").read_text())["substitutions"], (
        "the assumed resolution is on record"
    )
