"""Extraction: one decode pass, reuse by key, slides that fail alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import FeatureError, RunError, StainError
from helpers.core.specs import FeatureSpec, TilingSpec
from helpers.features.encoders import REGISTRY, TileContext, make_encoder
from helpers.features.extract import extract_cohort, extract_slide, make_encoders
from helpers.features.networks import TimmNetwork
from helpers.features.store import read_features
from helpers.slides.audit import fit_slide_normaliser
from helpers.slides.reader import open_slide
from helpers.slides.tilefile import read_tiles
from helpers.slides.tiling import read_tile, tile_cohort
from helpers.slides.writer import write_pyramid
from tests.slides.conftest import draw_tissue

TILING = TilingSpec(tile_px=64, mpp=0.5, thumbnail_px=128, min_tissue_um2=5_000)
SPEC = FeatureSpec(batch_size=16)


@pytest.fixture
def cohort(tmp_path: Path) -> pd.DataFrame:
    """Two tiled slides."""
    for number in (1, 2):
        write_pyramid(tmp_path / f"S-{number}.svs", draw_tissue(600, 500, seed=number), mpp=0.5, downsamples=(4,))
    table = pd.DataFrame({"slide_id": ["S-1", "S-2"], "path": [str(tmp_path / f"S-{n}.svs") for n in (1, 2)]})
    tile_cohort(table, TILING, folder=tmp_path / "01", ledger=tmp_path / "01" / "ledger.parquet", workers=1)
    return table


def run(cohort: pd.DataFrame, spec: FeatureSpec, folder: Path, workers: int = 2) -> pd.DataFrame:
    ledger, _ = extract_cohort(
        cohort, spec, tiles_folder=folder / "01" / "tiles", folder=folder / "02", ledger=folder / "02" / "l.parquet",
        workers=workers, device="cpu",
    )  # fmt: skip
    return ledger


def test_every_encoder_gets_one_row_per_tile_in_raster_order(cohort: pd.DataFrame, tmp_path: Path) -> None:
    assert (run(cohort, SPEC, tmp_path)["status"] == "ok").all()
    table = read_tiles(tmp_path / "01" / "tiles" / "S-2.h5")
    for name in SPEC.encoders:
        bag = read_features(tmp_path / "02" / "features" / name / "S-2.h5")
        assert (bag.coords_l0 == table.coords_l0).all()
        assert bag.features.shape == (len(table.coords_l0), len(bag.columns))
        assert bag.attributes["encoder"] == name


def test_features_are_those_of_the_tile_that_the_coordinates_name(cohort: pd.DataFrame, tmp_path: Path) -> None:
    run(cohort, SPEC, tmp_path)
    bag = read_features(tmp_path / "02" / "features" / "mean_colour" / "S-1.h5")
    table = read_tiles(tmp_path / "01" / "tiles" / "S-1.h5")
    with open_slide(cohort["path"][0], slide_id="S-1") as slide:
        tile = read_tile(slide, table, 7)
    assert bag.features[7, :3] == pytest.approx(tile.reshape(-1, 3).mean(axis=0) / 255, abs=1e-5)


def test_nothing_is_computed_twice_and_a_new_encoder_is_added_alone(
    cohort: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cohort, SPEC.model_copy(update={"encoders": ("mean_colour",)}), tmp_path)
    before = (tmp_path / "02" / "features" / "mean_colour" / "S-1.h5").stat().st_mtime_ns
    assert (run(cohort, SPEC, tmp_path)["status"] == "ok").all()
    assert (tmp_path / "02" / "features" / "mean_colour" / "S-1.h5").stat().st_mtime_ns == before
    monkeypatch.setattr("helpers.features.extract.encode_tiles", pytest.fail)
    assert (run(cohort, SPEC, tmp_path)["status"] == "reused").all()


def test_a_changed_spec_or_tiling_makes_new_features(cohort: pd.DataFrame, tmp_path: Path) -> None:
    first = run(cohort, SPEC, tmp_path)
    assert (run(cohort, SPEC.model_copy(update={"stored_as": "float16"}), tmp_path)["status"] == "ok").all()
    tiling = TILING.model_copy(update={"min_tissue_written": 0.4})
    tile_cohort(cohort, tiling, folder=tmp_path / "01", ledger=tmp_path / "01" / "ledger.parquet", workers=1)
    again = run(cohort, SPEC, tmp_path)
    assert (again["status"] == "ok").all()
    assert (again["key"] != first["key"]).all()


def test_threads_batches_and_order_change_nothing(cohort: pd.DataFrame, tmp_path: Path) -> None:
    run(cohort, SPEC, tmp_path, workers=2)
    first = {name: (tmp_path / "02" / "features" / name / "S-1.h5").read_bytes() for name in SPEC.encoders}
    rows = {name: read_features(tmp_path / "02" / "features" / name / "S-1.h5").features for name in SPEC.encoders}
    for path in (tmp_path / "02" / "features").glob("*/*.h5"):
        path.unlink()
    run(cohort[::-1], SPEC, tmp_path, workers=1)
    for name in SPEC.encoders:
        assert (tmp_path / "02" / "features" / name / "S-1.h5").read_bytes() == first[name]
    run(cohort, SPEC.model_copy(update={"batch_size": 3}), tmp_path)
    for name in SPEC.encoders:
        again = read_features(tmp_path / "02" / "features" / name / "S-1.h5").features
        assert (again == rows[name]).all(), f"{name} depends on the batch size"


def test_a_slide_that_was_exchanged_after_tiling_is_refused(cohort: pd.DataFrame, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "S-2.svs", draw_tissue(600, 500, seed=9), mpp=0.5, downsamples=(4,))
    ledger = run(cohort, SPEC.model_copy(update={"max_failed": 1}), tmp_path).set_index("slide_id")
    assert ledger.at["S-1", "status"] == "ok"
    assert "slide 'S-2' ('S-2.svs') is not the file that was tiled" in ledger.at["S-2", "reason"]
    with pytest.raises(RunError, match=r"1 of 2 slides failed, max_failed is 0"):
        run(cohort, SPEC, tmp_path)


def test_half_precision_is_stored_where_asked(cohort: pd.DataFrame, tmp_path: Path) -> None:
    import h5py

    run(cohort, FeatureSpec(encoders=("mean_colour",), stored_as="float16"), tmp_path)
    with h5py.File(tmp_path / "02" / "features" / "mean_colour" / "S-1.h5") as file:
        assert file["features"].dtype == np.float16


def test_a_slide_without_stains_fails_by_name(cohort: pd.DataFrame, tmp_path: Path) -> None:
    context = TileContext(slide_id="S-1", um_per_px=0.5, stain=None)
    with pytest.raises(FeatureError, match=r"slide 'S-1' has no stain vectors .* 'stain_texture' needs"):
        make_encoder("stain_texture").encode(np.zeros((1, 64, 64, 3), np.uint8), context)


def test_an_unknown_encoder_gets_a_suggestion() -> None:
    with pytest.raises(FeatureError, match=r"encoder 'stain_textures' is unknown.*Did you mean 'stain_texture'\?"):
        make_encoder("stain_textures")


def test_a_network_never_runs_on_random_weights_unless_its_name_says_so() -> None:
    with pytest.raises(FeatureError, match=r"'resnet18' needs weights and none lie at .*fetch resnet18 --to FOLDER"):
        make_encoder("resnet18")
    free = [name for name, entry in REGISTRY.items() if entry.architecture and not entry.needs_weights]
    assert all(name.startswith("random_") for name in free)


def test_weights_for_nobody_are_refused() -> None:
    spec = FeatureSpec(encoders=("mean_colour",), weights={"resnet18": "w.safetensors"})
    with pytest.raises(FeatureError, match=r"weights are given for \['resnet18'\]; expected each encoder once"):
        make_encoders(spec)


def test_missing_tiles_name_the_chapter(cohort: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="Run chapter 01"):
        extract_slide(cohort["path"][0], tmp_path / "no.h5", [], SPEC, folder=tmp_path)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_networks_see_normalised_tiles_and_what_unmixes_stains_sees_them_as_scanned(
    cohort: pd.DataFrame, tmp_path: Path, method: str
) -> None:
    run(cohort, SPEC, tmp_path)
    names = ("stain_texture", "mean_colour")
    plain = {name: read_features(tmp_path / "02" / "features" / name / "S-1.h5") for name in names}
    spec = SPEC.model_copy(update={"stain_normalisation": method})
    assert (run(cohort, spec, tmp_path)["status"] == "ok").all(), "another normalisation is another key"
    table = read_tiles(tmp_path / "01" / "tiles" / "S-1.h5")
    found = {name: read_features(tmp_path / "02" / "features" / name / "S-1.h5") for name in names}
    assert np.array_equal(found["stain_texture"].features, plain["stain_texture"].features)
    with open_slide(cohort["path"][0], slide_id="S-1") as slide:
        tiles = np.stack([read_tile(slide, table, 7)])
    expected = fit_slide_normaliser(cohort["path"][0], table, method).apply(tiles)
    assert not np.array_equal(expected, tiles)
    assert found["mean_colour"].features[7, :3] == pytest.approx(expected.reshape(-1, 3).mean(axis=0) / 255, abs=1e-5)


def test_a_slide_without_stains_cannot_be_normalised(cohort: pd.DataFrame, tmp_path: Path) -> None:
    table = read_tiles(tmp_path / "01" / "tiles" / "S-1.h5")
    bare = {name: value for name, value in table.attributes.items() if not name.startswith("stain")}
    with pytest.raises(StainError, match=r"slide 'S-1' has no stain vectors \(too few\)"):
        fit_slide_normaliser(
            cohort["path"][0], replace(table, attributes=bare | {"stain_reason": "too few"}), "macenko"
        )


def test_networks_beside_descriptors_do_not_depend_on_threads_or_batches(cohort: pd.DataFrame, tmp_path: Path) -> None:
    found = []
    for workers, batch_size in ((1, 64), (2, 5)):
        spec = FeatureSpec(encoders=("random_resnet18", "mean_colour"), precision="float32", batch_size=batch_size)
        folder = tmp_path / f"{workers}"
        (folder / "01").mkdir(parents=True)
        (folder / "01" / "tiles").symlink_to(tmp_path / "01" / "tiles")
        run(cohort, spec, folder, workers=workers)
        found.append(read_features(folder / "02" / "features" / "random_resnet18" / "S-2.h5").features)
    assert np.abs(found[0] - found[1]).max() <= 1e-5 * np.abs(found[0]).max()


def test_a_device_that_fails_stops_the_batch_and_loses_nothing(
    cohort: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = FeatureSpec(encoders=("random_resnet18",), max_failed=2)
    original = TimmNetwork.encode

    def lose(self: TimmNetwork, tiles: np.ndarray, context: TileContext) -> np.ndarray:
        if context.slide_id == "S-2":
            msg = "RunError: device cuda:0 failed while running 'random_resnet18' (lost)"
            raise RunError(msg)
        return original(self, tiles, context)

    monkeypatch.setattr(TimmNetwork, "encode", lose)
    with pytest.raises(
        RunError, match=r"stopped at slide 'S-2': RunError: device cuda:0 failed.*What is finished is kept"
    ):
        run(cohort, spec, tmp_path, workers=1)
    monkeypatch.undo()
    assert list(run(cohort, spec, tmp_path)["status"]) == ["reused", "ok"]
