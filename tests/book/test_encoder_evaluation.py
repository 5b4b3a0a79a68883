"""Judging encoders: the book's own ridge on case features, beside the ceiling; every encoder on the same tiles."""

import numpy as np
import pandas as pd
import pytest

from helpers.book.encoder_evaluation import MARK, judge_cases, probe_encoders, read_ceiling, update_card
from helpers.cohort.splits import plan_splits
from helpers.core.errors import RunError
from helpers.core.paths import write_json
from helpers.core.specs import PhantomSpec
from helpers.models.encoder_probes import ProbeSet
from helpers.phantom.truth import plan_cohort


@pytest.fixture
def cohort_run(tmp_path):
    """Chapter 00 of a phantom without pixels, with a ceiling beside it."""
    truth = plan_cohort(PhantomSpec(n_cases=60, n_external=20, render=False))
    folder = tmp_path / "00_build_cohort"
    (folder / "cohort").mkdir(parents=True)
    truth.cases.to_parquet(folder / "cohort" / "cases.parquet")
    truth.expression.to_parquet(folder / "cohort" / "expression.parquet")
    slides = truth.slides.assign(path=str(tmp_path / "raw" / "slides" / "x.svs"))
    slides.to_parquet(folder / "cohort" / "slides.parquet")
    splits = plan_splits(
        truth.cases, n_folds=3, repeats=2, seed=1, site_column="site", external_sites=("X",), val_fraction=0.15
    )
    splits.to_csv(folder / "splits.csv", index=False)
    write_json(
        {"ceiling": {name: {"spearman": 0.9} for name in ("prolif11", "MKI67")}},
        tmp_path / "raw" / "truth" / "estimands.json",
    )
    return folder, truth.cases_truth.set_index("case_id")["latent"]


def test_features_that_hold_the_latent_reach_the_ceiling_and_noise_does_not(cohort_run):
    folder, latent = cohort_run
    noise = pd.DataFrame(np.random.default_rng(1).normal(size=(len(latent), 3)), index=latent.index)
    table = judge_cases({"latent": noise.assign(z=latent), "noise": noise}, folder, n_boot=100)
    rows = table[(table["target"] == "prolif11") & (table["split"] == "external")].set_index("encoder")
    assert rows.loc["latent", "spearman"] > 0.75
    assert rows.loc["noise", "spearman"] < 0.5
    assert rows["n"].tolist() == [20, 20]
    assert (rows["ratio"] * 0.9).to_numpy() == pytest.approx(rows["spearman"].to_numpy())
    assert rows.loc["latent", "ci_low"] < rows.loc["latent", "spearman"] < rows.loc["latent", "ci_high"]


def test_without_a_planted_truth_there_is_no_ceiling(cohort_run):
    folder, _ = cohort_run
    (folder.parent / "raw" / "truth" / "estimands.json").unlink()
    with pytest.raises(RunError, match="noise ceiling"):
        read_ceiling(folder)


def test_every_encoder_is_judged_on_the_same_tiles():
    rng = np.random.default_rng(2)
    tiles = rng.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    labels = pd.DataFrame({"brightness": tiles.mean(axis=(1, 2, 3))})
    probe = ProbeSet("toy", tiles, labels, np.arange(60) % 3, np.arange(60))
    encoders = {
        "colour": lambda t: t.mean(axis=(1, 2)).astype(np.float32),
        "corner": lambda t: t[:, 0, 0].astype(np.float32),
    }
    table = probe_encoders(probe, encoders, seed=5, n_boot=100)
    values = table[table["quantity"] == "spearman"].set_index("encoder")["value"]
    assert values["colour"] > 0.95 > values["corner"]


def test_a_card_gets_its_numbers_between_the_marks_and_keeps_the_rest(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"# Card\n{MARK}\nold\n{MARK}\nrest\n")
    shown = {"spearman": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n": 50}
    probe = {"probe_set": "HER2ST spots", "label": "genes", "quantity": "spearman", "value": 0.3, **shown}
    report = {
        "cohort": [{"encoder": "phantom-s", "split": "external", "target": "prolif11", **shown}],
        "probes": [{"encoder": "phantom-s", **probe}, {"encoder": "mean_colour", **probe}],
    }
    update_card(card, report)
    text = card.read_text()
    assert "| prolif11, phantom, external site | 50 | 0.70 (0.60 to 0.80) |  |" in text
    assert "| HER2ST spots: genes | 50 | 0.30 (0.60 to 0.80) | 0.30 (0.60 to 0.80) |" in text
    assert "old" not in text
    assert text.endswith("rest\n")
    card.write_text("# Card without marks\n")
    with pytest.raises(RunError, match="expected 2"):
        update_card(card, report)
