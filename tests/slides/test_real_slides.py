"""Chapter 01 on real and on deliberately broken files: what states no resolution stops, what cannot be read says so."""

from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest

from helpers.core.errors import ResolutionError
from helpers.core.specs import TilingSpec
from helpers.slides.reader import open_slide
from helpers.slides.tilefile import read_tiles
from helpers.slides.tiling import tile_cohort, tile_slide

FROZEN = "TCGA-CR-7395-01A-01-TS1"
SPEC = TilingSpec()


@pytest.fixture(scope="module")
def slides(shared_data: Path) -> Path:
    return shared_data / "slides"


def test_a_frozen_section_without_resolution_stops_with_its_name(slides: Path, tmp_path: Path) -> None:
    with pytest.raises(ResolutionError, match=f"slide '{FROZEN}' states no resolution .* Set fallback_mpp"):
        tile_slide(FROZEN, slides / f"{FROZEN}.svs", SPEC, folder=tmp_path)
    assert not list(tmp_path.rglob("*.h5"))


def test_the_frozen_section_runs_at_the_fallback_and_the_file_says_so(slides: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"fallback_mpp": 0.5})
    assert tile_slide(FROZEN, slides / f"{FROZEN}.svs", spec, folder=tmp_path)[0] == "ok"
    table = read_tiles(tmp_path / "tiles" / f"{FROZEN}.h5")
    assert table.attributes["mpp_source"] == "fallback_mpp"
    assert table.edge_l0 == (256, 256)
    assert len(table.coords_l0) > 50
    assert np.isfinite(table.qc["haematoxylin"]).all()


def test_an_aperio_slide_is_tiled_at_the_resolution_of_its_header(slides: Path, tmp_path: Path) -> None:
    path = slides / "CMU-1-Small-Region.svs"
    tile_slide("CMU-1", path, SPEC, folder=tmp_path)
    table = read_tiles(tmp_path / "tiles" / "CMU-1.h5")
    assert table.attributes["mpp_source"] == "openslide.mpp-x"
    assert table.attributes["mpp_x"] == pytest.approx(0.499)
    assert table.mpp == pytest.approx(0.5, rel=0.01)
    assert 0.3e6 < sum(table.qc["tissue_fraction"]) * 128**2 < 1.2e6, "um2 of tissue, of a slide of 1.64 mm2"


@pytest.mark.parametrize("corner", [(0, 0), (701, 1203), (2000, 2800)])
def test_pixels_of_a_real_slide_are_those_of_openslide(slides: Path, corner: tuple[int, int]) -> None:
    path = slides / "CMU-1-Small-Region.svs"
    with openslide.OpenSlide(str(path)) as reference, open_slide(path, slide_id="CMU-1") as slide:
        expected = np.asarray(reference.read_region(corner, 0, (150, 90)).convert("RGB"))
        found = slide.read_region_l0(*corner, 150, 90, slide.mpp)
    assert np.array_equal(found, expected)


def test_every_broken_file_ends_in_the_ledger_and_takes_no_other_with_it(slides: Path, tmp_path: Path) -> None:
    files = [*sorted((slides / "edge_cases").iterdir()), slides / "CMU-1-Small-Region.svs"]
    table = pd.DataFrame(
        {"slide_id": [file.name for file in files], "path": [str(file) for file in files], "mpp": np.nan}
    )
    spec = SPEC.model_copy(update={"max_failed": len(files)})
    ledger = tile_cohort(table, spec, folder=tmp_path, ledger=tmp_path / "ledger.parquet", workers=2).set_index(
        "slide_id"
    )
    assert set(ledger.index) == set(table["slide_id"])
    assert ledger.at["CMU-1-Small-Region.svs", "status"] == "ok"
    for slide_id, row in ledger[ledger["status"] == "failed"].iterrows():
        assert f"slide '{slide_id}'" in row["reason"], "the reason names the slide"
        assert len(row["reason"]) > 60, "and says more than that it failed"
    for slide_id in ("broken.svs", "unopenable.tiff", "unreadable.svs", "fuzz_7765c4a2.tif"):
        assert ledger.at[slide_id, "status"] == "failed"
    assert ledger.at["broken.svs", "reason"].startswith("SlideError: ")
    written = {path.stem for path in (tmp_path / "tiles").iterdir()}
    assert written == set(ledger.index[ledger["status"] != "failed"])
