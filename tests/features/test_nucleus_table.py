"""Measures of single nuclei: drawn shapes of known size, slow formulas, and the nuclei of a slide counted once."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import FeatureError
from helpers.core.specs import TilingSpec
from helpers.features.nuclei import separate_checked
from helpers.features.nucleus_table import (
    NUCLEUS_MEASURES,
    count_crossings,
    measure_nuclei_rows,
    tabulate_nuclei,
    tabulate_slide,
    write_nuclei,
)
from helpers.slides.tilefile import read_tiles
from helpers.slides.tiling import tile_cohort
from helpers.slides.writer import write_pyramid
from tests.features.test_nuclei import STAIN, draw_discs

UM = 0.25


def draw_ellipse(a: float, b: float, angle: float, shape: tuple[int, int] = (160, 200)) -> np.ndarray:
    """Draw an ellipse of half axes a, b (px) as object 1, and a far disc as object 2."""
    y, x = np.mgrid[: shape[0], : shape[1]] - np.array([70, 80])[:, None, None]
    turned = (np.cos(angle) * x + np.sin(angle) * y) / a, (np.cos(angle) * y - np.sin(angle) * x) / b
    labels = (turned[0] ** 2 + turned[1] ** 2 <= 1).astype(np.int32)
    cv2.circle(labels, (170, 130), 10, 2, -1)
    return labels


def measure(labels: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    tile = rng.integers(80, 240, (*labels.shape, 3)).astype(np.uint8)
    return measure_nuclei_rows(labels, separate_checked(tile, STAIN, um_per_px=UM))


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 4, 1.2])
def test_an_ellipse_has_the_axes_it_was_drawn_with(angle: float) -> None:
    found = {name: values[0] for name, values in measure(draw_ellipse(40, 20, angle)).items()}
    assert (found["x_px"], found["y_px"]) == pytest.approx((80, 70), abs=0.1)
    assert found["major_um"] == pytest.approx(80 * UM, rel=0.01)
    assert found["minor_um"] == pytest.approx(40 * UM, rel=0.02)
    assert found["eccentricity"] == pytest.approx(np.sqrt(1 - 0.25), abs=0.01)
    assert found["area_um2"] == pytest.approx(np.pi * 800 * UM**2, rel=0.01)
    assert found["diameter_um"] == pytest.approx(2 * np.sqrt(800) * UM, rel=0.01)
    assert found["perimeter_um"] == pytest.approx(193.77 * UM, rel=0.03)  # Ramanujan's formula for half axes 40, 20
    assert found["solidity"] > 0.97


def test_a_disc_is_round_and_a_cross_is_neither_round_nor_solid() -> None:
    disc = np.zeros((80, 80), np.int32)
    cv2.circle(disc, (40, 40), 20, 1, -1)
    cross = np.zeros((80, 80), np.int32)
    cross[36:44, 10:70] = cross[10:70, 36:44] = 1
    round_, crossed = measure(disc), measure(cross)
    assert round_["circularity"][0] > 0.95
    assert round_["eccentricity"][0] < 0.1
    assert crossed["circularity"][0] < 0.4
    hull = 60 * 60 - 4 * 26 * 26 / 2
    assert crossed["solidity"][0] == pytest.approx(cross.sum() / hull, rel=0.03)


def test_crossings_equal_a_slow_count() -> None:
    labels = draw_ellipse(12, 7, 0.3)
    padded = np.pad(labels, 1)
    slow = np.zeros(2)
    for (dy, dx), distance in {(0, 1): 1.0, (1, 0): 1.0, (1, 1): np.sqrt(0.5), (1, -1): np.sqrt(0.5)}.items():
        for y in range(padded.shape[0] - dy):
            for x in range(max(0, -dx), padded.shape[1] - max(0, dx)):
                a, b = padded[y, x], padded[y + dy, x + dx]
                for number in {a, b} - {0}:
                    slow[number - 1] += distance * (a != b)
    assert count_crossings(labels) == pytest.approx(slow * np.pi / 8)


def test_means_and_spreads_are_those_of_the_pixels_inside() -> None:
    labels = draw_ellipse(20, 12, 0.5)
    tile = np.random.default_rng(2).integers(60, 240, (*labels.shape, 3)).astype(np.uint8)
    planes = separate_checked(tile, STAIN, um_per_px=UM)
    found = measure_nuclei_rows(labels, planes)
    for number in (1, 2):
        values = planes.h[labels == number].astype(np.float64)
        assert found["h_mean"][number - 1] == pytest.approx(values.mean(), rel=1e-6)
        assert found["h_sd"][number - 1] == pytest.approx(values.std(), rel=1e-4)
        assert found["e_mean"][number - 1] == pytest.approx(planes.e[labels == number].mean(), rel=1e-5)


def test_neighbours_are_counted_per_area_inside_the_image() -> None:
    labels = np.zeros((400, 400), np.int32)
    for number, (x, y) in enumerate([(200, 200), (240, 200), (200, 280), (5, 5)], start=1):
        cv2.circle(labels, (x, y), 4, number, -1)
    found = measure(labels)
    assert found["nearest_um"][:2] == pytest.approx([10, 10])  # 40 px of 0.25 um
    assert found["density_per_mm2"][0] == pytest.approx(2 / (np.pi * 0.025**2), rel=1e-6)
    assert found["density_per_mm2"][3] == 0
    assert found["at_border"].tolist() == [0, 0, 0, 0]


def test_a_corner_sees_a_quarter_of_its_neighbourhood() -> None:
    labels = np.zeros((400, 400), np.int32)
    labels[0:5, 0:5], labels[0:5, 40:45] = 1, 2
    found = measure(labels)
    assert found["at_border"].tolist() == [1, 1]
    assert found["density_per_mm2"][0] == pytest.approx(4 / (np.pi * 0.025**2), rel=0.15)


def test_no_nuclei_is_an_empty_table_with_all_columns() -> None:
    labels, table = tabulate_nuclei(np.full((64, 64, 3), 245, np.uint8), STAIN, um_per_px=0.5)
    assert labels.max() == 0
    assert len(table) == 0
    assert {measure.name for measure in NUCLEUS_MEASURES} < set(table)


def test_every_measure_is_finite_and_has_its_row() -> None:
    labels, table = tabulate_nuclei(draw_discs((12, 14, 4), (40, 20, 5), (22, 46, 3)), STAIN, um_per_px=0.5)
    assert len(table) == labels.max() == 3
    assert list(table)[3:] == [measure.name for measure in NUCLEUS_MEASURES]
    assert np.isfinite(table.to_numpy(float)).all()


def tile_slide(folder: Path, overlap_px: int) -> tuple[Path, Path]:
    """Write a slide of drawn nuclei on a grid and tile it."""
    rng = np.random.default_rng(5)
    places = [
        (x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), 4.0) for x in range(20, 240, 20) for y in range(20, 240, 20)
    ]
    image = draw_discs(*places, um=0.5, edge_um=256.0)
    image[:, :16] = 245
    path = folder / "S-1.svs"
    write_pyramid(path, image, mpp=0.5, downsamples=(4,))
    spec = TilingSpec(tile_px=128, mpp=0.5, overlap_px=overlap_px, thumbnail_px=128, min_tissue_um2=5_000)
    slides = pd.DataFrame({"slide_id": ["S-1"], "path": [str(path)]})
    tile_cohort(slides, spec, folder=folder / "01", ledger=folder / "01" / "ledger.parquet", workers=1)
    return path, folder / "01" / "tiles" / "S-1.h5"


def test_nuclei_of_a_slide_stand_in_level_0_px(tmp_path: Path) -> None:
    path, tiles = tile_slide(tmp_path, 0)
    written = write_nuclei(path, tiles, tmp_path / "nuclei" / "S-1.parquet")
    table, plan = pd.read_parquet(written), read_tiles(tiles)
    assert set(table["slide_id"]) == {"S-1"}
    corners = plan.coords_l0[table["tile"]]
    assert (table[["x_l0", "y_l0"]].to_numpy() >= corners).all()
    assert (table[["x_l0", "y_l0"]].to_numpy() <= corners + plan.edge_l0).all()
    assert 0 < table["at_border"].mean() < 0.6
    assert table.equals(tabulate_slide(path, tiles)), "the same slide gives the same table"


def test_overlapping_tiles_count_each_nucleus_once(tmp_path: Path) -> None:
    path, tiles = tile_slide(tmp_path, 32)
    table = tabulate_slide(path, tiles)
    points = table[["x_l0", "y_l0"]].to_numpy()
    distance = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 12, "two rows lie within one nucleus of 4 um radius"
    assert len(table) > 100


def test_another_file_under_the_slide_s_name_is_refused(tmp_path: Path) -> None:
    path, tiles = tile_slide(tmp_path, 0)
    write_pyramid(path, draw_discs((30, 30, 5), edge_um=256.0), mpp=0.5, downsamples=(4,))
    with pytest.raises(FeatureError, match="not the file that was tiled"):
        tabulate_slide(path, tiles)
