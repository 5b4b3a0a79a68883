"""`histobook convert`: what a user types, and what comes back."""

import h5py
import numpy as np

from tests.book.test_cli import call


def write_stamp(path):
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["feats"] = np.eye(3, dtype=np.float16)
        file["coords"] = np.array([[0, 0], [128, 0], [128, 256]], np.float32)
        file.attrs.update({"unit": "um", "tile_size_um": 128.0, "tile_size_px": 224, "extractor": "uni2"})


def test_um_become_px_by_the_resolution_that_is_given(tmp_path):
    write_stamp(tmp_path / "in/S-1.h5")
    done = call("convert", str(tmp_path / "in"), "--to", "trident", "--out", str(tmp_path / "out"), "--mpp", "0.25")
    assert done.returncode == 0, done.stderr
    assert "1 slide: 1 written, 0 there already, 0 failed" in done.stdout
    with h5py.File(tmp_path / "out/S-1.h5") as file:
        assert file["coords"][:].tolist() == [[0, 0], [512, 0], [512, 1024]]
        assert file["coords"].attrs["patch_size_level0"] == 512


def test_without_a_resolution_it_says_what_to_give(tmp_path):
    write_stamp(tmp_path / "in/S-1.h5")
    done = call("convert", str(tmp_path / "in"), "--to", "trident", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "S-1: FeatureError: slide 'S-1' has its tiles in um" in done.stderr
    assert "--mpp, or a column mpp in the table of --slides" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_slide_table_gives_each_slide_its_resolution(tmp_path):
    write_stamp(tmp_path / "in/S-1.h5")
    (tmp_path / "slides.csv").write_text("slide_id,case_id,path,mpp\nS-1,C-1,S-1.svs,0.5\n")
    done = call(
        "convert", str(tmp_path / "in"), "--to", "trident", "--out", str(tmp_path / "out"),
        "--slides", str(tmp_path / "slides.csv"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "out/S-1.h5") as file:
        assert file["coords"][:].tolist() == [[0, 0], [256, 0], [256, 512]]


def test_an_unknown_dialect_lists_the_known_ones(tmp_path):
    write_stamp(tmp_path / "in/S-1.h5")
    done = call("convert", str(tmp_path / "in"), "--to", "hipt", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "'hipt' is no dialect to write. Choose from clam, stamp, trident, survpath, histobook" in done.stderr
    assert not (tmp_path / "out").exists()
