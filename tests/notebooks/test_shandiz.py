"""The profile shandiz, chapters 00, 01, 02 and 06 as a user runs them, on a dozen patients in the published layout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from helpers.cohort.genes import read_signature

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.notebook, pytest.mark.slow]
QUICK = {
    "00": {"n_repeats": 1},
    "01": {"tile_px": 256, "mpp": 1.0},
    "02": {"n_shown": 20, "n_permutations": 19},
    "06": {
        "published_width": 16, "published_tiles": 4, "published_epochs": 2, "n_boot": 100, "n_repeats": 1,
        "panel_sizes": [5], "n_panels": 1, "tile_counts": [3], "n_permutations": 19, "min_stratum": 5,
        "arms": ["image_linear", "genes_linear", "late_fusion", "cross_attention", "cross_attention_plain"],
    },
}  # fmt: skip
"""What makes the profile quick on tiles of 256 px; everything else is the profile's own."""


def write_record(folder: Path, *, n: int = 12, n_tiles: int = 6) -> Path:
    """Twelve patients, six of each class, with genes that tell the classes apart and tiles that hardly do."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(465)
    cases = [f"TCGA-A2-A0{i:02d}" for i in range(n)]
    basal = np.arange(n) % 2 == 1
    for case, is_basal in zip(cases, basal, strict=True):
        (folder / "Tiles" / case).mkdir(parents=True)
        for t in range(n_tiles):
            tile = np.full((256, 256, 3), (190, 150, 215), np.uint8)
            for x, y in rng.integers(8, 248, (60 + 30 * is_basal, 2)):
                cv2.circle(tile, (int(x), int(y)), 5, (130, 60, 90), -1)
            tile = np.clip(tile + rng.normal(0, 6, tile.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / "Tiles" / case / f"{t}.png"), tile)
    genes = [*read_signature("pam50"), *(f"OTHER{i}" for i in range(20))]
    values = rng.gamma(2, 30, (n, len(genes)))
    values[:, genes.index("ESR1")] *= np.where(basal, 0.05, 4)
    pd.DataFrame(values, index=cases, columns=genes).rename_axis("Patient").to_csv(folder / "genes.csv")
    words = np.where(basal, "BRCA.Basal / Her2", "BRCA.Luminal")
    pd.DataFrame({"Patient": cases, "Subtype": words}).to_csv(folder / "classes.csv", index=False)
    return folder


def test_the_published_layout_runs_end_to_end(tmp_path) -> None:
    for name in ("notebooks", "config", "data", "docs"):
        shutil.copytree(
            REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("cohorts", "_build", "__pycache__")
        )
    raw = write_record(tmp_path / "raw")
    profile = yaml.safe_load((tmp_path / "config" / "shandiz.yaml").read_text())
    for number, values in QUICK.items():
        profile["chapters"][number] |= values
    (tmp_path / "config" / "shandiz.yaml").write_text(yaml.safe_dump(profile))
    environment = os.environ | {"HISTOBOOK_ROOT": str(tmp_path)}
    for number in ("00", "01", "02", "06"):
        command = [sys.executable, "-m", "helpers.book.cli", "run", number, "--profile", "shandiz", "--data", str(raw)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"chapter {number}: {done.stderr[-3000:]}"
    folder = tmp_path / "results" / "shandiz" / "06_classify_subtype"
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert predictions["case_id"].nunique() == 12
    scores = {row["id"] for row in json.loads((folder / "scores.json").read_text())}
    assert {"06/f1_beside_shandiz2025/as_published_cross_attention/kfold_oof", "06/roc_auc/genes_linear/oof"} <= scores
