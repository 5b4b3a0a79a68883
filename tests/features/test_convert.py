"""Feature files from one tool to another: the frames stay true, the numbers the same, and nothing is guessed.

The files of other tools are written here by plain h5py from the facts of their formats, never by our exporters.
"""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import FeatureError, RunError
from helpers.features.convert import convert_features, list_sources, publish, summarise_conversion
from helpers.features.store import read_features, write_features
from helpers.slides.qc import QC_COLUMNS
from helpers.slides.tilefile import TileTable

N, D = 6, 5
MPP = 0.2527  # an odd scanner: um per px of level 0
COORDS = np.array([[3, 7], [509, 7], [3, 513], [509, 513], [1015, 513], [99991, 70013]], np.int64)
FEATURES = np.round(np.linspace(-4, 4, N * D, dtype=np.float32).reshape(N, D) * 64) / 64  # exact in float16
EDGE = 506


def write_h5(path: Path, datasets: dict, on_file: dict | None = None, on_coords: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
        file.attrs.update(on_file or {})
        if on_coords:
            file["coords"].attrs.update(on_coords)
    return path


def write_trident(path: Path, **attributes: object) -> Path:
    stated = {
        "patch_size": 256, "patch_size_level0": EDGE, "level0_magnification": 40, "target_magnification": 20,
        "overlap": 0, "name": path.stem, "savetodir": "/data", "level0_width": 120001, "level0_height": 80003,
    }  # fmt: skip
    return write_h5(path, {"features": FEATURES, "coords": COORDS}, on_coords=stated | attributes)


def write_clam(folder: Path, *, patches: Path | None = None, **attributes: object) -> Path:
    path = write_h5(folder / "h5_files/S-1.h5", {"features": FEATURES, "coords": COORDS.astype(np.int32)})
    if patches is not None:
        stated = {
            "patch_size": 253, "patch_level": 1, "downsample": (2.0, 2.0), "level_dim": (60000, 40001),
            "downsampled_level_dim": (60000, 40001), "name": "S-1", "save_path": "/data/patches",
        }  # fmt: skip
        write_h5(patches / "S-1.h5", {"coords": COORDS}, on_coords=stated | attributes)
    return path


def write_stamp(path: Path, **attributes: object) -> Path:
    stated = {
        "stamp_version": "2.3.0", "extractor": "uni2", "unit": "um", "tile_size_um": EDGE * MPP, "tile_size_px": 256,
        "code_hash": "0a1b2c3d", "feat_type": "tile",
    }  # fmt: skip
    rows = {"feats": FEATURES.astype(np.float16), "coords": (COORDS * MPP).astype(np.float32)}
    return write_h5(path, rows, on_file=stated | attributes)


def write_ours(path: Path, *, edge: tuple[int, int] = (EDGE, EDGE), mpp_y: float = MPP) -> Path:
    qc = pd.DataFrame({name: np.linspace(0, 1, N, dtype=np.float32) for name in QC_COLUMNS})
    table = TileTable(
        slide_id=path.stem, coords_l0=COORDS, edge_l0=edge, tile_px=256, overlap_px=0, size_l0=(120001, 80003), qc=qc,
        points=np.zeros((4, 2), np.float32), rings=np.array([[0, 4, -1]], np.int32),
        attributes={"key": "t", "mpp_effective": MPP * EDGE / 256, "mpp_x": MPP, "mpp_y": mpp_y, "mpp_source": "test",
                    "versions": "numpy 2"},
    )  # fmt: skip
    return write_features(
        path, FEATURES.astype(np.float16), table, attributes={"encoder": "toy", "key": "abcdef012345"}
    )


def convert(source: Path, to: str, out: Path, **options: object) -> str:
    return summarise_conversion(convert_features(source, to=to, out=out, **options))


# What our own files become, read with plain h5py


def test_a_stamp_file_says_what_stamps_loader_checks(tmp_path: Path) -> None:
    convert(write_ours(tmp_path / "in/S-1.h5"), "stamp", tmp_path / "out")
    with h5py.File(tmp_path / "out/S-1.h5") as file:
        assert set(file) == {"feats", "coords"}
        assert (file["feats"].dtype, file["coords"].dtype) == (np.float16, np.float32)
        assert (file["feats"][:] == FEATURES).all()
        assert file["coords"][:] == pytest.approx(COORDS * MPP, rel=1e-6)
        stated = dict(file.attrs)
    assert (stated["unit"], stated["feat_type"], stated["extractor"]) == ("um", "tile", "toy")
    assert stated["tile_size_um"] == pytest.approx(EDGE * MPP)
    assert stated["tile_size_px"] == 256
    assert stated["code_hash"] == "abcdef01"
    assert tuple(map(int, stated["stamp_version"].split("."))) == (2, 1, 0), "the oldest version with this layout"
    px = np.round(np.float32(COORDS * MPP).astype(float) / MPP)
    assert (px == COORDS).all(), "float32 um at 100,000 px still round to the same px"


def test_a_clam_folder_has_bags_coordinates_and_patches(tmp_path: Path) -> None:
    import torch

    convert(write_ours(tmp_path / "in/S-1.h5"), "clam", tmp_path / "out")
    with h5py.File(tmp_path / "out/h5_files/S-1.h5") as file:
        assert (file["features"].dtype, file["coords"].dtype) == (np.float32, np.int32)
        assert (file["features"][:] == FEATURES).all()
        assert (file["coords"][:] == COORDS).all()
    bag = torch.load(tmp_path / "out/pt_files/S-1.pt", weights_only=True)
    assert bag.dtype == torch.float32, "CLAM's linear layers take no half precision"
    assert (bag.numpy() == FEATURES).all()
    with h5py.File(tmp_path / "out/patches/S-1.h5") as file:
        assert (file["coords"][:] == COORDS).all()
        stated = dict(file["coords"].attrs)
    assert (stated["patch_size"], stated["patch_level"], stated["name"]) == (EDGE, 0, "S-1")
    assert tuple(stated["downsample"]) == (1.0, 1.0)
    assert tuple(stated["level_dim"]) == (120001, 80003), "width first"


def test_a_trident_file_carries_tridents_attributes_on_coords(tmp_path: Path) -> None:
    convert(write_ours(tmp_path / "in/S-1.h5"), "trident", tmp_path / "out")
    with h5py.File(tmp_path / "out/S-1.h5") as file:
        assert set(file) == {"features", "coords"}
        assert (file["features"].dtype, file["coords"].dtype) == (np.float32, np.int64)
        assert (file["features"].attrs["name"], file["features"].attrs["savetodir"]) == ("S-1", ".")
        stated = dict(file["coords"].attrs)
    assert stated == {
        "patch_size": 256, "patch_size_level0": EDGE, "level0_magnification": 40.0, "target_magnification": 20.0,
        "overlap": 0, "name": "S-1", "savetodir": ".", "level0_width": 120001, "level0_height": 80003,
    }  # fmt: skip


# Round trips


@pytest.mark.parametrize("to", ["clam", "stamp", "trident"])
def test_there_and_back_again(tmp_path: Path, to: str) -> None:
    convert(write_ours(tmp_path / "in/S-1.h5"), to, tmp_path / "there")
    convert(tmp_path / "there", "histobook", tmp_path / "back", mpp=MPP)
    ours, back = read_features(tmp_path / "in/S-1.h5"), read_features(tmp_path / "back/S-1.h5")
    assert back.dialect == "histobook"
    assert back.attributes["converted_from"] == to
    assert back.attributes["stored_as"] == "float16"
    assert (back.features == ours.features).all()
    assert (back.coords_l0 == COORDS).all()
    for name in ("patch_size_level0", "patch_height_level0"):
        assert back.attributes[name] == ours.attributes[name] == EDGE
    assert (back.attributes["mpp_x"], back.attributes["mpp_source"]) == (MPP, "given")
    assert back.qc is None, "quality columns are ours alone; they are not made up"


WRITERS = {
    "trident": lambda folder: write_trident(folder / "S-1.h5"),
    "clam": lambda folder: write_clam(folder, patches=folder / "patches"),
    "stamp": lambda folder: write_stamp(folder / "S-1.h5"),
    "histobook": lambda folder: write_ours(folder / "S-1.h5"),
}


OTHERS = ("trident", "clam", "stamp")
PAIRS = [(dialect, to) for dialect in (*OTHERS, "histobook") for to in (*OTHERS, "histobook")]


@pytest.mark.parametrize(("dialect", "to"), PAIRS[:-1])  # the last is histobook to histobook: refused, see below
def test_every_dialect_becomes_every_other(tmp_path: Path, dialect: str, to: str) -> None:
    WRITERS[dialect](tmp_path / "in")
    convert(tmp_path / "in", to, tmp_path / "out", mpp=None if dialect == "histobook" else MPP)
    bag = read_features(next(path for path in list_sources(tmp_path / "out").values()))
    assert bag.dialect == to
    assert (bag.features == FEATURES).all()
    if to == "stamp":
        assert bag.coords_um == pytest.approx(COORDS * MPP, rel=1e-6)
        assert bag.attributes["tile_size_um"] == pytest.approx(EDGE * MPP)
    else:
        assert (bag.coords_l0 == COORDS).all()
        edge = bag.attributes["patch_size" if to == "clam" else "patch_size_level0"]
        assert edge == EDGE


def test_features_that_float16_cannot_hold_stay_float32(tmp_path: Path) -> None:
    features = FEATURES + np.float32(1e-5)
    write_h5(tmp_path / "in/S-1.h5", {"features": features, "coords": COORDS}, on_coords={"patch_size_level0": EDGE})
    convert(tmp_path / "in", "stamp", tmp_path / "out", mpp=MPP)
    with h5py.File(tmp_path / "out/S-1.h5") as file:
        assert file["feats"].dtype == np.float32
        assert (file["feats"][:] == features).all()


def test_one_slide_of_many_resolutions_is_placed_by_its_own(tmp_path: Path) -> None:
    for name, mpp in {"A": 0.25, "B": 0.5}.items():
        rows = {"feats": FEATURES, "coords": np.float32(COORDS * mpp)}
        write_h5(tmp_path / f"in/{name}.h5", rows, on_file={"unit": "um", "tile_size_um": 256.0})
    convert(tmp_path / "in", "trident", tmp_path / "out", mpp={"A": 0.25, "B": 0.5})
    assert (read_features(tmp_path / "out/A.h5").coords_l0 == COORDS).all()
    assert (read_features(tmp_path / "out/B.h5").coords_l0 == COORDS).all()
    assert read_features(tmp_path / "out/A.h5").attributes["patch_size_level0"] == 1024
    assert read_features(tmp_path / "out/B.h5").attributes["patch_size_level0"] == 512


# What other tools' files hold besides the obvious


def test_tridents_none_is_nothing_and_its_float_size_is_a_size(tmp_path: Path) -> None:
    write_trident(tmp_path / "in/S-1.h5", patch_size_level0=506.0, level0_magnification="None", level0_width="None")
    convert(tmp_path / "in", "histobook", tmp_path / "out")
    bag = read_features(tmp_path / "out/S-1.h5")
    assert bag.attributes["patch_size_level0"] == 506
    assert bag.attributes["target_magnification"] == 20
    assert "level0_magnification" not in bag.attributes
    assert "level0_width" not in bag.attributes
    assert "mpp_x" not in bag.attributes, "no resolution comes out of a magnification"
    convert(tmp_path / "in", "trident", tmp_path / "again")
    with h5py.File(tmp_path / "again/S-1.h5") as file:
        assert file["coords"].attrs["level0_magnification"] == "None"
        assert file["coords"].attrs["patch_size_level0"] == 506


def test_a_broken_size_of_a_tile_is_rounded_aloud(tmp_path: Path) -> None:
    write_trident(tmp_path / "in/S-1.h5", patch_size_level0=505.7)
    assert "1 slide: patch_size_level0 is 505.7 px, rounded" in convert(tmp_path / "in", "trident", tmp_path / "out")
    assert "505.7 x 505.7 px are not CLAM's whole squares" in convert(tmp_path / "in", "clam", tmp_path / "clam")
    assert not (tmp_path / "clam/patches").exists()


def test_a_leading_axis_and_half_precision(tmp_path: Path) -> None:
    rows = {"features": FEATURES.astype(np.float16)[None], "coords": COORDS[None]}
    write_h5(tmp_path / "in/S-1.h5", rows, on_coords={"patch_size_level0": EDGE, "patch_size": 256})
    convert(tmp_path / "in", "clam", tmp_path / "out")
    bag = read_features(tmp_path / "out/h5_files/S-1.h5")
    assert (bag.features == FEATURES).all()
    assert (bag.coords_l0 == COORDS).all()


def test_clams_patches_beside_the_features_give_size_and_level(tmp_path: Path) -> None:
    path = write_clam(tmp_path / "features", patches=tmp_path / "patches")
    bag = read_features(path)
    assert (bag.attributes["patch_size"], bag.attributes["patch_level"], bag.attributes["downsample"]) == (
        253,
        1,
        [2, 2],
    )
    assert bag.attributes["patches_file"] == "S-1.h5"
    convert(tmp_path / "features", "stamp", tmp_path / "out", mpp=MPP)
    stated = read_features(tmp_path / "out/S-1.h5").attributes
    assert stated["tile_size_um"] == pytest.approx(253 * 2 * MPP), "px of level 1, two px of level 0 wide"
    assert stated["tile_size_px"] == 253


def test_clams_patches_may_state_the_resolution(tmp_path: Path) -> None:
    write_clam(tmp_path / "features", patches=tmp_path / "patches", level0_mpp=MPP)
    convert(tmp_path / "features", "stamp", tmp_path / "out")
    assert read_features(tmp_path / "out/S-1.h5").coords_um == pytest.approx(COORDS * MPP, rel=1e-6)


def test_a_bare_mpp_counts_only_for_tiles_of_level_0(tmp_path: Path) -> None:
    write_clam(tmp_path / "level1", patches=tmp_path / "level1/patches", mpp=2 * MPP)
    with pytest.raises(RunError, match="states no resolution; stamp wants um"):
        convert(tmp_path / "level1", "stamp", tmp_path / "out")
    write_clam(tmp_path / "level0", patches=tmp_path / "level0/patches", mpp=MPP, patch_level=0, downsample=(1.0, 1.0))
    convert(tmp_path / "level0", "stamp", tmp_path / "out")
    assert read_features(tmp_path / "out/S-1.h5").attributes["tile_size_um"] == pytest.approx(253 * MPP)


def test_clams_patches_elsewhere_are_named(tmp_path: Path) -> None:
    path = write_clam(tmp_path / "features", patches=tmp_path / "far/away/patches")
    assert "patch_size" not in read_features(path).attributes
    assert read_features(path, patches=tmp_path / "far/away/patches").attributes["patch_size"] == 253
    with pytest.raises(FeatureError, match=r"no 'S-1\.h5' or 'S-1_patches\.h5' in '.*far'"):
        read_features(path, patches=tmp_path / "far")


def test_patches_of_another_run_are_refused(tmp_path: Path) -> None:
    path = write_clam(tmp_path)
    write_h5(tmp_path / "patches/S-1.h5", {"coords": COORDS + 1}, on_coords={"patch_size": 256, "patch_level": 0})
    with pytest.raises(FeatureError, match=r"'S-1\.h5' and 'patches/S-1\.h5' hold different coordinates.*two runs"):
        read_features(path)
    write_h5(tmp_path / "patches/S-1.h5", {"coords": COORDS[:2]}, on_coords={"patch_size": 256, "patch_level": 0})
    with pytest.raises(FeatureError, match=r"coordinates of shape \(2, 2\) for 6 rows"):
        read_features(path)


def test_clams_older_patches_count_in_px_of_their_images(tmp_path: Path) -> None:
    small = np.array([[0, 0], [256, 0], [0, 512]])
    path = write_h5(tmp_path / "h5_files/S-1.h5", {"features": FEATURES[:3], "coords": small})
    with h5py.File(tmp_path / "S-1.h5", "w") as file:
        file["coords"] = small
        file["imgs"] = np.zeros((3, 256, 256, 3), np.uint8)
        file["imgs"].attrs.update(
            {
                "patch_level": 1,
                "downsample": (4.0, 4.0),
                "level_dim": (2000, 1000),
                "downsampled_level_dim": (1000, 500),
            }
        )
    (tmp_path / "patches").mkdir()
    (tmp_path / "S-1.h5").rename(tmp_path / "patches/S-1.h5")
    bag = read_features(path)
    assert (bag.coords_l0 == small * 8).all(), "level 1 is 4 times smaller, and its images were halved once more"
    assert (bag.attributes["patch_size"], bag.attributes["patch_size_level0"]) == (256, 2048)


def test_a_bare_tensor_takes_coordinates_only_from_a_folder_that_is_named(tmp_path: Path) -> None:
    import torch

    torch.save(torch.from_numpy(FEATURES)[None], tmp_path / "S-1.pt")
    stated = {"patch_size": 256, "patch_size_level0": EDGE}
    write_h5(tmp_path / "patches/S-1_patches.h5", {"coords": COORDS}, on_coords=stated)
    assert read_features(tmp_path / "S-1.pt").coords_l0 is None
    said = convert(tmp_path / "S-1.pt", "clam", tmp_path / "clam")
    assert "1 slide: no coordinates are stated: pt_files only" in said
    assert not (tmp_path / "clam/h5_files").exists()
    with pytest.raises(RunError, match="slide 'S-1' states no coordinates, which trident wants. Give --patches"):
        convert(tmp_path / "S-1.pt", "trident", tmp_path / "bare")
    convert(tmp_path / "S-1.pt", "trident", tmp_path / "out", patches=tmp_path / "patches")
    assert (read_features(tmp_path / "out/S-1.h5").coords_l0 == COORDS).all()


def test_stamps_three_ways_of_stating_a_tile(tmp_path: Path) -> None:
    grid = np.array([[0, 0], [224, 0], [0, 224], [224, 448]])
    rows = {"feats": FEATURES[:4], "coords": grid}
    first = read_features(write_h5(tmp_path / "v1.h5", rows))
    assert (first.coords_um == grid * 256 / 224).all(), "STAMP 1 counts px of tiles of 224 px that are 256 um wide"
    assert (first.attributes["tile_size_um"], first.attributes["tile_size_px"]) == (256.0, 224)
    second = read_features(write_h5(tmp_path / "v2.h5", rows, on_file={"unit": "um", "tile_size": 224.0}))
    assert (second.coords_um == grid).all()
    assert second.attributes["tile_size_um"] == 224.0
    third = read_features(write_h5(tmp_path / "v21.h5", rows, on_file={"unit": "um", "tile_size_um": 256.0}))
    assert (third.coords_um == grid).all()


def test_stamp_without_a_unit_is_not_guessed(tmp_path: Path) -> None:
    write_h5(tmp_path / "S-1.h5", {"feats": FEATURES, "coords": COORDS * 1.0})
    with pytest.raises(
        FeatureError, match=r"'S-1\.h5' \(STAMP\) states no unit.*tiles are 506 apart.*stamp preprocess"
    ):
        read_features(tmp_path / "S-1.h5")


def test_one_vector_for_a_patient_is_no_bag_of_tiles(tmp_path: Path) -> None:
    write_h5(tmp_path / "S-1.h5", {"feats": FEATURES[:1]}, on_file={"feat_type": "patient"})
    with pytest.raises(FeatureError, match="features of a whole patient, expected one row per tile"):
        read_features(tmp_path / "S-1.h5")


def test_coordinates_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    coords = COORDS.astype(float)
    coords[2, 1] = np.nan
    write_h5(tmp_path / "S-1.h5", {"features": FEATURES, "coords": coords})
    with pytest.raises(FeatureError, match="1 of 6 tiles without finite coordinates"):
        read_features(tmp_path / "S-1.h5")


# Frames are asked for


def test_um_to_px_asks_for_the_resolution_of_level_0(tmp_path: Path) -> None:
    write_stamp(tmp_path / "in/S-1.h5")
    with pytest.raises(RunError, match=r"S-1: FeatureError: slide 'S-1' has its tiles in um; trident wants px.*--mpp"):
        convert(tmp_path / "in", "trident", tmp_path / "out")
    with pytest.raises(RunError, match="has its tiles in um; clam wants px"):
        convert(tmp_path / "in", "clam", tmp_path / "out")
    assert not (tmp_path / "out/pt_files").exists()
    write_trident(tmp_path / "px/S-1.h5")
    with pytest.raises(RunError, match="tiles in px of level 0 and states no resolution; stamp wants um.*--mpp"):
        convert(tmp_path / "px", "stamp", tmp_path / "out")


def test_a_resolution_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    write_ours(tmp_path / "in/S-1.h5")
    with pytest.raises(RunError, match=r"states 0\.2527 um per px, and 0\.5 is given.*level 0, not of the tiles"):
        convert(tmp_path / "in", "stamp", tmp_path / "out", mpp=0.5)


def test_tiles_of_unequal_edges_say_what_is_lost(tmp_path: Path) -> None:
    write_ours(tmp_path / "in/S-1.h5", edge=(506, 512), mpp_y=0.2497)
    said = convert(tmp_path / "in", "clam", tmp_path / "clam")
    assert "tiles of 506 x 512 px are not CLAM's whole squares: no file in patches" in said
    assert "patch_size_level0 is their width" in convert(tmp_path / "in", "trident", tmp_path / "trident")
    said = convert(tmp_path / "in", "stamp", tmp_path / "stamp")
    assert "0.2527 um per px along x is used for y too (0.2497), as STAMP does" in said
    assert read_features(tmp_path / "stamp/S-1.h5").coords_um == pytest.approx(COORDS * MPP, rel=1e-6)


def test_stamp_without_an_encoder_or_size(tmp_path: Path) -> None:
    write_clam(tmp_path / "in")
    with pytest.raises(RunError, match="states no size of its tiles, without which STAMP reads no file"):
        convert(tmp_path / "in", "stamp", tmp_path / "out", mpp=MPP)
    write_trident(tmp_path / "trident/S-1.h5")
    said = convert(tmp_path / "trident", "stamp", tmp_path / "unnamed", mpp=MPP)
    assert "no encoder is stated: extractor is 'unknown' (--encoder names it)" in said
    convert(tmp_path / "trident", "stamp", tmp_path / "named", mpp=MPP, encoder="uni2")
    assert read_features(tmp_path / "named/S-1.h5").attributes["extractor"] == "uni2"


# A batch


def test_each_slide_fails_alone_and_the_others_are_written(tmp_path: Path) -> None:
    write_trident(tmp_path / "in/A.h5")
    (tmp_path / "in/B.h5").write_bytes(b"no HDF5")
    write_trident(tmp_path / "in/C.h5")
    with pytest.raises(
        RunError, match=r"3 slides: 2 written, 0 there already, 1 failed(.|\n)*B: FeatureError: 'B\.h5'"
    ):
        convert(tmp_path / "in", "clam", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/pt_files").iterdir()) == ["A.pt", "C.pt"]
    ledger = pd.read_parquet(tmp_path / "out/ledger.parquet")
    assert ledger["status"].tolist() == ["ok", "failed", "ok"]


@pytest.mark.parametrize("to", ["clam", "stamp", "trident", "histobook", "survpath"])
def test_equal_input_gives_equal_bytes_and_a_second_run_changes_nothing(tmp_path: Path, to: str) -> None:
    write_trident(tmp_path / "in/S-1.h5")
    for name in ("a", "b"):
        assert "1 written" in convert(tmp_path / "in", to, tmp_path / name, mpp=MPP)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.[hp][5t]")]
    assert files
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    assert "1 slide: 0 written, 1 there already, 0 failed" in convert(tmp_path / "in", to, tmp_path / "a", mpp=MPP)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_trident(tmp_path / "in/S-1.h5")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/S-1.h5").write_bytes(b"precious")
    with pytest.raises(RunError, match=r"'out/S-1\.h5' is there already and differs.*Move it away"):
        convert(tmp_path / "in", "trident", tmp_path / "out")
    assert (tmp_path / "out/S-1.h5").read_bytes() == b"precious"
    assert [path.name for path in (tmp_path / "out").glob(".*")] == []


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        publish(tmp_path / "S-1.h5", write)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    write_ours(tmp_path / "in/S-1.h5")
    with pytest.raises(FeatureError, match="'hipt' is no dialect to write. Choose from clam, stamp"):
        convert(tmp_path / "in", "hipt", tmp_path / "out")
    with pytest.raises(FeatureError, match="holds the files to convert"):
        convert(tmp_path / "in", "clam", tmp_path / "in")
    with pytest.raises(FeatureError, match=r"there is no file or folder '.*typo'\. Correct the path"):
        convert(tmp_path / "typo", "clam", tmp_path / "out")
    with pytest.raises(
        FeatureError, match=r"no feature file .* it holds the folders in\. Give the folder of one encoder"
    ):
        convert(tmp_path, "clam", tmp_path / "out")
    with pytest.raises(RunError, match="is in histobook's own form already. Copy the file"):
        convert(tmp_path / "in", "histobook", tmp_path / "out")


def test_a_folder_of_trident_lists_features_and_not_patches(tmp_path: Path) -> None:
    write_trident(tmp_path / "S-1.h5")
    write_h5(tmp_path / "S-1_patches.h5", {"coords": COORDS})
    (tmp_path / ".S-2.h5").write_bytes(b"")
    assert list(list_sources(tmp_path)) == ["S-1"]
