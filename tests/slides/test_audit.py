"""What chapter 01 says about slides before and after tiling."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.specs import TilingSpec
from helpers.slides.audit import audit_slides, compare_stains, compute_flow, read_examples
from helpers.slides.tilefile import read_tiles
from helpers.slides.tiling import tile_cohort
from tests.slides.conftest import draw_tissue

SPEC = TilingSpec(tile_px=64, mpp=0.5, thumbnail_px=128, min_tissue_um2=5_000, max_failed=2)


@pytest.fixture
def slides(make_slide: Callable[..., Path]) -> pd.DataFrame:
    """A good slide, one without resolution, and a file that is none."""
    paths = [make_slide(draw_tissue(900, 700), name="S-1"), make_slide(draw_tissue(900, 700), name="S-2", mpp=None)]
    paths.append(paths[0].with_name("S-3.svs"))
    paths[-1].write_text("no slide")
    return pd.DataFrame({"slide_id": ["S-1", "S-2", "S-3"], "path": [str(path) for path in paths], "scanner": "one"})


def test_every_slide_is_lost_at_its_step_and_by_name(slides: pd.DataFrame, tmp_path: Path) -> None:
    audit = audit_slides(slides, SPEC)
    assert audit["lost_at"].tolist() == ["", "with a resolution", "readable"]
    ledger = tile_cohort(slides, SPEC, folder=tmp_path, ledger=tmp_path / "ledger.parquet", workers=1)
    flow = compute_flow(audit, ledger)
    assert flow["n"].tolist() == [3, 2, 1, 1]
    assert flow["names"].tolist() == ["", "S-3", "S-2", ""]


def test_a_slide_with_stored_features_only_is_lost_by_name(slides: pd.DataFrame, tmp_path: Path) -> None:
    slides = slides.assign(path=[slides["path"][0], None, None])
    audit = audit_slides(slides, SPEC)
    assert audit["lost_at"].tolist() == ["", "readable", "readable"]
    ledger = tile_cohort(slides, SPEC, folder=tmp_path, ledger=tmp_path / "ledger.parquet", workers=1)
    assert ledger["status"].tolist() == ["ok", "failed", "failed"]
    expected = "SlideError: slide 'S-2' has an empty path in the slide table. Add its file, or drop the slide."
    assert ledger["reason"][1] == audit["reason"][1] == expected


def test_examples_come_fullest_of_nuclei_first(slides: pd.DataFrame, tmp_path: Path) -> None:
    tile_cohort(slides.head(1), SPEC, folder=tmp_path, ledger=tmp_path / "ledger.parquet", workers=1)
    table = read_tiles(tmp_path / "tiles" / "S-1.h5")
    examples = read_examples(slides["path"][0], table, n_tiles=9)
    assert examples.shape == (9, 64, 64, 3)
    red = examples[..., 0].mean(axis=(1, 2))  # haematoxylin and stained area darken red
    assert np.argmin(red) < 3
    assert np.argmax(red) > 5


def test_angles_are_those_between_the_slide_s_and_its_site_s_vectors() -> None:
    planted = pd.DataFrame(
        [
            {
                "site": "A",
                "stain_h_r": 1.0,
                "stain_h_g": 0.0,
                "stain_h_b": 0.0,
                "stain_e_r": 0.0,
                "stain_e_g": 1.0,
                "stain_e_b": 0.0,
            }
        ]
    )
    tilted = np.sin(np.radians(10)), np.cos(np.radians(10))
    stains = pd.DataFrame(
        [
            {
                "slide_id": "S-1",
                "site": "A",
                "h_red": 1.0,
                "h_green": 0.0,
                "h_blue": 0.0,
                "e_red": 0.0,
                "e_green": tilted[1],
                "e_blue": tilted[0],
            }
        ]
    )
    angles = compare_stains(stains, planted).set_index("stain")["angle_deg"]
    assert angles["haematoxylin"] == pytest.approx(0.0, abs=1e-5)
    assert angles["eosin"] == pytest.approx(10.0)
