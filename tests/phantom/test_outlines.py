"""Outlines of a phantom's tumour: where the map says so, in level-0 px, without crumbs."""

from pathlib import Path

import numpy as np
import pytest
import shapely

from helpers.phantom.outlines import MIN_AREA_UM2, outline_tumour, write_tumour
from helpers.slides.annotation import read_annotations

UM = 25.0


def make_share() -> np.ndarray:
    """A tumour of 20 x 30 map px with a slit two px wide, and a crumb far away."""
    share = np.zeros((60, 60), np.float32)
    share[10:30, 10:40] = 1.0
    share[10:30, 24:26] = 0.2
    share[50:52, 50:52] = 1.0
    return share


def test_outline_bridges_a_slit_and_leaves_crumbs_out() -> None:
    area = outline_tumour(make_share(), UM)
    assert len(area.geoms) == 1
    assert area.bounds == pytest.approx((10 * UM, 10 * UM, 40 * UM, 30 * UM), abs=UM / 2)
    assert area.area == pytest.approx(20 * 30 * UM**2, rel=0.03)
    assert shapely.contains_xy(area, 25 * UM, 20 * UM), "the slit was not drawn over"
    assert all(piece.area >= MIN_AREA_UM2 for piece in area.geoms)


def test_file_is_read_back_in_px_of_level_0(tmp_path: Path) -> None:
    path, again = tmp_path / "a.geojson", tmp_path / "b.geojson"
    for file in (path, again):
        assert write_tumour(make_share(), file, um_per_px=UM, mpp=0.5, slide_id="a") == file
    area = read_annotations(path, slide_id="a", classes=["tumor"])
    assert area.bounds == pytest.approx((20 * UM, 20 * UM, 80 * UM, 60 * UM), abs=UM)
    assert path.read_bytes() == again.read_bytes()


def test_nothing_is_written_of_a_slide_without_tumour(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    assert write_tumour(np.zeros((9, 9), np.float32), path, um_per_px=UM, mpp=0.5, slide_id="a") is None
    assert not path.exists()
