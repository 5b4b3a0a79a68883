"""Where tiles lie, what is stored about them, and how a batch survives bad slides."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.core.errors import RunError, SlideError, SpecError, TileError
from helpers.core.specs import TilingSpec
from helpers.slides.qc import QC_COLUMNS
from helpers.slides.reader import open_slide
from helpers.slides.stain import compute_angle
from helpers.slides.tilefile import read_attribute, read_tiles
from helpers.slides.tiling import (
    MAX_MPP_ERROR,
    choose_stain_tiles,
    pick_shard,
    plan_edge,
    plan_grid,
    read_tile,
    tile_cohort,
    tile_slide,
)
from tests.slides.conftest import HAEMATOXYLIN, draw_tissue
from tests.slides.test_reader import make_array_slide

MakeSlide = Callable[..., Path]
SPEC = TilingSpec(tile_px=64, mpp=0.5, thumbnail_px=128, min_tissue_um2=5_000)


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(330, 3000),
    height=st.integers(330, 3000),  # the largest tile is 320 level-0 px
    mpp=st.floats(0.2, 1.0),
    tile_px=st.integers(48, 128),
    overlap=st.sampled_from([0.0, 0.25, 0.5]),
)  # fmt: skip
def test_tiles_never_leave_the_slide_nor_overlap_nor_drift(
    width: int, height: int, mpp: float, tile_px: int, overlap: float
) -> None:
    slide = make_array_slide([np.broadcast_to(np.uint8(0), (height, width, 3))], mpp)  # type: ignore[list-item]
    spec = TilingSpec(tile_px=tile_px, mpp=0.5, overlap_px=int(overlap * tile_px))
    exact = tile_px * spec.mpp / mpp
    if abs(round(exact) / exact - 1) > MAX_MPP_ERROR:  # 24.5 px can only be 24 or 25
        with pytest.raises(TileError, match="whole px would miss 0.5 um per px by 2.* Use a larger tile_px"):
            plan_edge(slide, spec)
        return
    edge = plan_edge(slide, spec)
    coords = plan_grid(slide, spec, edge)
    assert (coords >= 0).all()
    assert (coords + edge <= [width, height]).all(), "a tile leaves the slide"
    steps = np.diff(np.unique(coords[:, 0]))
    assert len(set(steps.tolist())) <= 1, "the grid drifts"
    if overlap == 0 and len(steps):
        assert steps[0] == edge[0], "neighbours overlap or leave a gap"
    order = coords[:, 1] * width + coords[:, 0]
    assert (np.diff(order) > 0).all(), "not in raster order"
    assert edge[0] * mpp / tile_px == pytest.approx(0.5, rel=MAX_MPP_ERROR + 1e-9)


def test_a_slide_at_0_265_um_gets_tiles_of_the_right_width() -> None:
    slide = make_array_slide([np.zeros((900, 1200, 3), np.uint8)], 0.265)
    assert plan_edge(slide, TilingSpec(tile_px=256, mpp=0.5)) == (483, 483)  # 128 um / 0.265, not 512


def test_axes_of_different_resolution_get_different_edges() -> None:
    slide = make_array_slide([np.zeros((900, 1200, 3), np.uint8)], 0.25, 0.30)
    assert plan_edge(slide, TilingSpec(tile_px=256, mpp=0.5)) == (512, 427)


def test_a_slide_smaller_than_a_tile_is_named_with_both_sizes() -> None:
    slide = make_array_slide([np.zeros((16, 16, 3), np.uint8)], 0.5)
    with pytest.raises(
        TileError, match=r"slide 'array' is 16 x 16 px, smaller than one tile of 256 x 256 px \(128 um\)"
    ):
        plan_edge(slide, TilingSpec())


def test_a_tile_too_small_to_hit_the_resolution_is_refused() -> None:
    slide = make_array_slide([np.zeros((900, 900, 3), np.uint8)], 0.7)
    with pytest.raises(TileError, match=r"whole px would miss 0\.5 um per px by \d\.\d%\. Use a larger tile_px"):
        plan_edge(slide, TilingSpec(tile_px=16, mpp=0.5))


def test_overlap_as_wide_as_a_tile_is_refused() -> None:
    with pytest.raises(SpecError, match="overlap_px 256 is not below tile_px 256"):
        TilingSpec.from_values({"overlap_px": 256})


@pytest.fixture
def tiled(make_slide: MakeSlide, tissue_image: NDArray[np.uint8], tmp_path: Path) -> tuple[Path, Path]:
    """A tiled slide: its path and the chapter's folder."""
    path, folder = make_slide(tissue_image), tmp_path / "chapter"
    assert tile_slide("S-1", path, SPEC, folder=folder)[0] == "ok"
    return path, folder


def test_written_tiles_hold_tissue_and_every_position_with_tissue_is_written(tiled: tuple[Path, Path]) -> None:
    table = read_tiles(tiled[1] / "tiles" / "S-1.h5")
    assert (table.qc["tissue_fraction"] >= SPEC.min_tissue_written).all()
    assert table.attributes["n_positions"] == (900 // 64) * (700 // 64)
    assert 40 < len(table.coords_l0) < table.attributes["n_positions"]


def test_the_file_is_what_trident_expects_and_says_what_we_add(tiled: tuple[Path, Path]) -> None:
    with h5py.File(tiled[1] / "tiles" / "S-1.h5") as file:
        on_coords = dict(file["coords"].attrs)
        assert file["coords"].dtype == np.int64
        assert sorted(file["qc"]) == sorted(QC_COLUMNS)
        assert file["qc/brightness"].dtype == np.float32
        assert file.attrs["mpp_source"] == "openslide.mpp-x"
    trident = {
        "patch_size": 64, "patch_size_level0": 64, "level0_magnification": 20.0, "target_magnification": 20.0,
        "overlap": 0, "name": "S-1", "savetodir": ".", "level0_width": 900, "level0_height": 700,
    }  # fmt: skip
    assert {name: on_coords[name] for name in trident} == trident
    assert on_coords["mpp_effective"] == pytest.approx(0.5)


def test_equal_input_gives_equal_bytes(tiled: tuple[Path, Path], tmp_path: Path) -> None:
    path, folder = tiled
    tile_slide("S-1", path, SPEC, folder=tmp_path / "again")
    for name in ("tiles/S-1.h5", "thumbnails/S-1.jpg"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_table_survives_the_file(tiled: tuple[Path, Path]) -> None:
    table = read_tiles(tiled[1] / "tiles" / "S-1.h5")
    assert table.slide_id == "S-1"
    assert (table.edge_l0, table.size_l0, table.tile_px) == ((64, 64), (900, 700), 64)
    assert list(table.qc) == list(QC_COLUMNS)
    assert table.points.shape[1] == 2
    assert table.rings[-1, 1] == len(table.points)


def test_quality_is_measured_on_the_tile_that_the_coordinates_name(tiled: tuple[Path, Path]) -> None:
    path, folder = tiled
    table = read_tiles(folder / "tiles" / "S-1.h5")
    with open_slide(path, slide_id="S-1") as slide:
        index = len(table.coords_l0) // 2
        tile = read_tile(slide, table, index)
    grey = tile @ np.array([0.299, 0.587, 0.114])
    assert table.qc["brightness"][index] == pytest.approx(grey.mean() / 255, abs=0.005)


def test_mean_concentrations_come_from_the_slides_own_vectors(tiled: tuple[Path, Path]) -> None:
    table = read_tiles(tiled[1] / "tiles" / "S-1.h5")
    full = table.qc[table.qc["tissue_fraction"] > 0.99]
    assert table.attributes["stain_reason"] == ""
    assert full["haematoxylin"].between(0.03, 1.2).all()
    assert full["eosin"].mean() == pytest.approx(0.4, abs=0.15)


def test_the_same_key_is_reused_and_another_spec_or_slide_is_not(
    tiled: tuple[Path, Path], make_slide: MakeSlide
) -> None:
    path, folder = tiled
    assert tile_slide("S-1", path, SPEC, folder=folder)[0] == "reused"
    batch_only = SPEC.model_copy(update={"max_failed": 9})
    assert tile_slide("S-1", path, batch_only, folder=folder)[0] == "reused"
    other = SPEC.model_copy(update={"min_tissue_written": 0.5})
    assert tile_slide("S-1", path, other, folder=folder)[0] == "ok"
    make_slide(draw_tissue(900, 700, seed=6))
    assert tile_slide("S-1", path, other, folder=folder)[0] == "ok"


def test_a_half_written_or_missing_file_is_made_again(tiled: tuple[Path, Path]) -> None:
    path, folder = tiled
    whole = (folder / "tiles" / "S-1.h5").read_bytes()
    (folder / "tiles" / "S-1.h5").write_bytes(whole[: len(whole) // 2])
    assert tile_slide("S-1", path, SPEC, folder=folder)[0] == "ok"
    assert (folder / "tiles" / "S-1.h5").read_bytes() == whole
    (folder / "thumbnails" / "S-1.jpg").unlink()
    assert tile_slide("S-1", path, SPEC, folder=folder)[0] == "ok"


def test_no_tile_file_says_which_chapter_to_run(tmp_path: Path) -> None:
    with pytest.raises(TileError, match=r"no tiles at '.*S-2\.h5'\. Run chapter 01"):
        read_tiles(tmp_path / "S-2.h5")


def test_a_foreign_file_says_what_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = np.zeros((2, 3))
    with pytest.raises(
        TileError, match=r"'x\.h5' holds \['features'\] and format 'none', expected 'histobook-tiles-1'"
    ):
        read_tiles(tmp_path / "x.h5")


@pytest.fixture
def cohort(make_slide: MakeSlide, tissue_image: NDArray[np.uint8], tmp_path: Path) -> pd.DataFrame:
    """Four slides: two good ones, one without mpp, one cut in the middle."""
    names = ("S-1", "S-2", "S-3", "S-4")
    paths = {name: make_slide(tissue_image, name=name, mpp=None if name == "S-3" else 0.5) for name in names}
    with paths["S-4"].open("r+b") as file:
        file.truncate(paths["S-4"].stat().st_size // 2)
    return pd.DataFrame({"slide_id": list(paths), "path": [str(path) for path in paths.values()], "mpp": np.nan})


def test_bad_slides_fail_alone_with_their_reasons(cohort: pd.DataFrame, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"max_failed": 2})
    ledger = tile_cohort(cohort, spec, folder=tmp_path / "c", ledger=tmp_path / "c" / "ledger.parquet", workers=2)
    by_id = ledger.set_index("slide_id")
    assert by_id["status"].to_dict() == {"S-1": "ok", "S-2": "ok", "S-3": "failed", "S-4": "failed"}
    assert by_id.at["S-3", "reason"].startswith("ResolutionError: slide 'S-3' states no resolution")
    assert by_id.at["S-4", "reason"].startswith("SlideError: slide 'S-4' ('S-4.svs') is a TIFF cut short")
    assert sorted(path.name for path in (tmp_path / "c" / "tiles").iterdir()) == ["S-1.h5", "S-2.h5"]


def test_more_failures_than_allowed_stop_the_chapter_after_all_were_tried(cohort: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"2 of 4 slides failed, max_failed is 0(.|\n)*S-3: ResolutionError"):
        tile_cohort(cohort, SPEC, folder=tmp_path, ledger=tmp_path / "ledger.parquet", workers=2)
    assert (tmp_path / "tiles" / "S-2.h5").is_file()


def test_the_slide_table_may_state_the_resolution(cohort: pd.DataFrame, tmp_path: Path) -> None:
    stated = cohort.assign(mpp=[np.nan, np.nan, 0.5, np.nan]).head(3)
    ledger = tile_cohort(stated, SPEC, folder=tmp_path, ledger=tmp_path / "ledger.parquet", workers=1)
    assert (ledger["status"] == "ok").all()
    assert read_tiles(tmp_path / "tiles" / "S-3.h5").attributes["mpp_source"] == "slides.csv"


def test_shards_share_the_slides_out_without_loss_or_overlap() -> None:
    ids = [f"S-{number:02d}" for number in range(11)]
    shards = [pick_shard(ids[::-1], (part, 3)) for part in (1, 2, 3)]
    assert sorted(name for shard in shards for name in shard) == ids
    assert shards[0] == ["S-00", "S-03", "S-06", "S-09"]


def test_a_damaged_region_fails_the_slide_and_writes_nothing(
    make_slide: MakeSlide, tissue_image: NDArray[np.uint8], tmp_path: Path
) -> None:
    import tifffile

    path = make_slide(tissue_image)
    with tifffile.TiffFile(path) as tiff:
        offset, length = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]  # type: ignore[union-attr]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * length)
    with pytest.raises(SlideError, match="slide 'S-1'.*cannot be decoded"):
        tile_slide("S-1", path, SPEC, folder=tmp_path / "c")
    assert not (tmp_path / "c" / "tiles").exists()


@pytest.mark.parametrize("ink", [(20, 20, 22), (60, 48, 150), (30, 120, 60)], ids=["black", "violet", "green"])
def test_a_marker_line_does_not_bend_the_stains(
    make_slide: MakeSlide, tmp_path: Path, ink: tuple[int, int, int]
) -> None:
    image = draw_tissue(1200, 1200, seed=8)
    image[420:500, 250:900] = ink
    spec = SPEC.model_copy(update={"tile_px": 128})
    tile_slide("S-1", make_slide(image), spec, folder=tmp_path)
    found = read_attribute(tmp_path / "tiles" / "S-1.h5", "stain_haematoxylin")
    assert compute_angle(found, HAEMATOXYLIN) < 6, "degrees from the planted haematoxylin"


def test_ink_and_folds_fill_tiles_and_a_blue_stain_does_not() -> None:
    qc = pd.DataFrame(0.0, index=range(8), columns=list(QC_COLUMNS))
    qc.loc[[1, 5], "pen_blue_fraction"] = (0.4, 0.02)
    qc.loc[[3, 6], "thick_fraction"] = (0.5, 0.04)
    assert choose_stain_tiles(qc).tolist() == [0, 2, 4, 7], "tiles that a line or a fold only touches are left out too"
    qc["pen_blue_fraction"] = 0.03
    assert choose_stain_tiles(qc).tolist() == [0, 1, 2, 4, 5, 7], "every tile a little blue: that is the stain"
    qc["thick_fraction"] = 0.5
    assert choose_stain_tiles(qc).tolist() == list(range(8)), "no tile is clean, so all of them count"
