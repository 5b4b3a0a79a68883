"""Planted values under tiles: areas shared, peaks found, non-square tiles and maps told apart."""

import numpy as np
import pytest

from helpers.core.errors import PhantomError
from helpers.models.planted_maps import average_over_tiles, find_peaks, measure_planted


def test_a_tile_averages_the_pixels_it_covers_by_area_with_x_along_columns() -> None:
    values = np.arange(12.0).reshape(3, 4)  # three rows, four columns, 10 um each
    corners = np.array([[0.0, 0.0], [15.0, 0.0], [0.0, 10.0]])
    found = average_over_tiles(values, um_per_px=10.0, coords_um=corners, tile_um=10.0)
    assert found == pytest.approx([0, 1.5, 4])
    values[0, 0] = np.nan
    found = average_over_tiles(values, um_per_px=10.0, coords_um=np.array([[0.0, 0.0], [0.0, 5.0]]), tile_um=10.0)
    assert np.isnan(found[0])
    assert found[1] == 4, "a pixel without a value carries no weight"


def test_peaks_are_places_above_the_rest() -> None:
    y, x = np.mgrid[:60, :80]
    values = np.exp(-((x - 20) ** 2 + (y - 40) ** 2) / 50) + 0.8 * np.exp(-((x - 60) ** 2 + (y - 10) ** 2) / 50)
    peaks = find_peaks(values, um_per_px=25.0)
    assert peaks[:2] == pytest.approx(np.array([[20.5, 40.5], [60.5, 10.5]]) * 25, abs=26)
    assert find_peaks(np.full((4, 4), np.nan), um_per_px=25.0).shape == (0, 2)


def test_tiles_inside_are_those_of_half_tumour() -> None:
    tumour = np.zeros((4, 4), np.float32)
    tumour[:, :2] = 1
    maps = {"proliferation": np.where(tumour > 0, 0.5, np.nan), "tumour": tumour, "til": np.ones((4, 4))}
    corners = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 2.0]])
    found = measure_planted(maps, 1.0, coords_um=corners, tile_um=2.0)
    assert found.inside.tolist() == [True, False, True]
    assert found.values["tumour"].tolist() == [1, 0, 0.5]
    with pytest.raises(PhantomError, match="truth maps lack til"):
        measure_planted({"tumour": tumour, "proliferation": tumour}, 1.0, coords_um=corners, tile_um=2.0)
