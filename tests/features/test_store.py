"""Feature files: ours, and everybody else's."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import FeatureError
from helpers.features.store import read_features, write_features
from helpers.slides.qc import QC_COLUMNS
from helpers.slides.tilefile import TileTable

N, D = 5, 3
FEATURES = np.arange(N * D, dtype=np.float32).reshape(N, D)
COORDS = np.array([[0, 0], [512, 0], [1024, 0], [0, 512], [512, 512]], np.int64)


def make_table(n: int = N) -> TileTable:
    qc = pd.DataFrame({name: np.linspace(0, 1, n, dtype=np.float32) for name in QC_COLUMNS})
    return TileTable(
        slide_id="S-1", coords_l0=COORDS[:n], edge_l0=(512, 512), tile_px=256, overlap_px=0, size_l0=(4000, 3000), qc=qc,
        points=np.zeros((4, 2), np.float32), rings=np.array([[0, 4, -1]], np.int32),
        attributes={"key": "tile-key", "mpp_effective": 0.5, "mpp_source": "openslide.mpp-x", "versions": "numpy 2"},
    )  # fmt: skip


def test_our_own_file_comes_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "S-1.h5"
    write_features(path, FEATURES, make_table(), attributes={"encoder": "toy", "key": "k"}, columns=("a", "b", "c"))
    bag = read_features(path)
    assert bag.dialect == "histobook"
    assert (bag.features == FEATURES).all()
    assert (bag.coords_l0 == COORDS).all()
    assert bag.columns == ("a", "b", "c")
    assert list(bag.qc) == list(QC_COLUMNS)  # type: ignore[arg-type]
    assert (bag.attributes["encoder"], bag.attributes["key"], bag.attributes["tiles_key"]) == ("toy", "k", "tile-key")


def test_our_file_is_a_superset_of_tridents(tmp_path: Path) -> None:
    path = write_features(tmp_path / "S-1.h5", FEATURES, make_table(), attributes={"encoder": "toy"})
    with h5py.File(path) as file:
        assert {"features", "coords"} <= set(file)
        assert {"name", "savetodir"} <= set(file["features"].attrs)
        wanted = "patch_size patch_size_level0 level0_magnification target_magnification overlap name savetodir"
        assert set(wanted.split()) <= set(file["coords"].attrs)
        assert file["coords"].attrs["level0_magnification"] == 40.0


def test_equal_features_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_features(tmp_path / name / "S-1.h5", FEATURES, make_table(), attributes={"encoder": "toy"})
    assert (tmp_path / "a" / "S-1.h5").read_bytes() == (tmp_path / "b" / "S-1.h5").read_bytes()


def test_rows_must_fit_the_tiles(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"'S-1\.h5' would get features of shape \(4, 3\) for 5 tiles"):
        write_features(tmp_path / "S-1.h5", FEATURES[:4], make_table(), attributes={})


def test_what_overflows_half_precision_is_refused(tmp_path: Path) -> None:
    with np.errstate(over="ignore"):
        half = (FEATURES + 1e5).astype(np.float16)
    with pytest.raises(FeatureError, match=r"5 tiles with features that are not finite.*stored_as: float32"):
        write_features(tmp_path / "S-1.h5", half, make_table(), attributes={})


def write_trident(path: Path, **attributes: object) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = FEATURES.astype(np.float16)
        file["coords"] = COORDS
        file["features"].attrs["name"] = "S-1"
        for name, value in {"patch_size": 256, "patch_size_level0": 512, "overlap": 0, **attributes}.items():
            file["coords"].attrs[name] = value


def test_tridents_dialect(tmp_path: Path) -> None:
    write_trident(tmp_path / "S-1.h5", patch_size_level0=512.0, level0_magnification="None")
    bag = read_features(tmp_path / "S-1.h5")
    assert bag.dialect == "trident"
    assert bag.features.dtype == np.float32
    assert bag.attributes["patch_size_level0"] == 512.0
    assert bag.attributes["level0_magnification"] is None, "the string 'None' means nothing is known"


def test_clams_dialect_and_a_leading_axis_of_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "S-1.h5", "w") as file:
        file["features"] = FEATURES[None]
        file["coords"] = COORDS[None]
    bag = read_features(tmp_path / "S-1.h5")
    assert (bag.dialect, bag.features.shape) == ("clam", (N, D))
    assert (bag.coords_l0 == COORDS).all()


def test_stamps_dialect_keeps_coordinates_in_um(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "S-1.h5", "w") as file:
        file["feats"] = FEATURES.astype(np.float16)
        file["coords"] = COORDS * 0.25
        file.attrs["unit"] = "um"
        file.attrs["tile_size_um"] = 128.0
    bag = read_features(tmp_path / "S-1.h5")
    assert (bag.dialect, bag.coords_l0) == ("stamp", None)
    assert (bag.coords_um == COORDS * 0.25).all()  # type: ignore[comparison-overlap]


def test_a_bare_tensor(tmp_path: Path) -> None:
    import torch

    torch.save(torch.from_numpy(FEATURES).half(), tmp_path / "S-1.pt")
    bag = read_features(tmp_path / "S-1.pt")
    assert (bag.dialect, bag.coords_l0, bag.qc) == ("tensor", None, None)
    assert (bag.features == FEATURES).all()


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    import torch

    torch.save(Path("x"), tmp_path / "S-1.pt")
    with pytest.raises(FeatureError, match=r"'S-1\.pt' .* cannot be read as a plain tensor.*code is never run"):
        read_features(tmp_path / "S-1.pt")


def test_a_dict_of_tensors_is_named_with_its_keys(tmp_path: Path) -> None:
    import torch

    torch.save({"feats": torch.zeros(2, 2), "coords": torch.zeros(2, 2)}, tmp_path / "S-1.pt")
    with pytest.raises(FeatureError, match=r"holds a dict with keys \['coords', 'feats'\], expected one bare tensor"):
        read_features(tmp_path / "S-1.pt")


def test_an_unknown_file_says_what_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "S-1.h5", "w") as file:
        file["coords"] = COORDS
        file["embedding"] = FEATURES
    with pytest.raises(FeatureError, match=r"holds coords \(5, 2\), embedding \(5, 3\); expected 'features' \(TRIDENT"):
        read_features(tmp_path / "S-1.h5")


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.array([[1.0, np.nan]] * 5), "5 of 5 tiles that are not finite"),
    ],
    ids=["no tiles", "one axis", "NaN"],
)
def test_what_is_no_matrix_of_numbers_is_refused(tmp_path: Path, features: np.ndarray, reason: str) -> None:
    with h5py.File(tmp_path / "S-1.h5", "w") as file:
        file["features"] = features
    with pytest.raises(FeatureError, match=reason):
        read_features(tmp_path / "S-1.h5")


def test_coordinates_of_another_run_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "S-1.h5", "w") as file:
        file["features"] = FEATURES
        file["coords"] = COORDS[:3]
    with pytest.raises(FeatureError, match=r"coordinates of shape \(3, 2\) for 5 rows of features"):
        read_features(tmp_path / "S-1.h5")


def test_a_cut_file_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    write_trident(tmp_path / "S-1.h5")
    whole = (tmp_path / "S-1.h5").read_bytes()
    (tmp_path / "S-1.h5").write_bytes(whole[:300])
    with pytest.raises(FeatureError, match=r"'S-1\.h5' \(300 bytes\) is no readable HDF5 file"):
        read_features(tmp_path / "S-1.h5")
    with pytest.raises(FeatureError, match=r"no feature file at '.*S-2\.h5'.*features_path"):
        read_features(tmp_path / "S-2.h5")


@pytest.mark.shared
def test_real_stored_features_of_tcga_are_read(shared_data: Path) -> None:
    paths = sorted((shared_data / "tcga_brca" / "features_hipt" / "pt_files").glob("*.pt"))
    bag = read_features(paths[0])
    assert len(paths) == 692
    assert (bag.dialect, bag.features.shape[1]) == ("tensor", 192)
