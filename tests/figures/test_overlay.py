"""Codes and colours of a column, worked by hand, and the tiles that fit a slide."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import TileError
from helpers.features.store import write_features
from helpers.figures.overlay import code_column, collect_tiles, find_limits, unpack
from helpers.figures.style import GREY, SEQUENCE
from helpers.slides.tilefile import TileTable, write_tiles

SIZE = (900, 700)


def codes_of(column):
    return unpack(column["codes"], "u1").tolist()


def make_frame(**columns):
    base = {"x_l0": [0, 256, 512], "y_l0": [0, 0, 128], "edge_l0": 256, "score": [0.1, 0.2, 0.4]}
    return pd.DataFrame({**base, **columns})


def make_table(slide_id="S-1"):
    return TileTable(
        slide_id=slide_id, coords_l0=np.array([[0, 0], [300, 0], [0, 200]]), edge_l0=(300, 200), tile_px=128,
        overlap_px=0, size_l0=SIZE, qc=pd.DataFrame({"tissue_fraction": [0.25, 0.5, 1.0]}, dtype="float32"),
        points=np.array([[0, 0], [400, 0], [400, 300]], np.float32), rings=np.array([[0, 3, -1]], np.int32),
        attributes={"mpp_effective": 0.5, "mpp_source": "slides.csv"},
    )  # fmt: skip


def test_numbers_run_from_the_first_colour_to_the_last():
    column = code_column(pd.Series([0.0, 0.25, 0.5, 1.0], name="attention"), limits=(0.0, 1.0), cmap="gray")
    assert codes_of(column) == [1, 1 + round(254 / 4), 1 + 127, 255]
    assert (column["kind"], column["low"], column["high"]) == ("number", 0.0, 1.0)
    assert (len(column["colours"]), column["colours"][0], column["colours"][254]) == (255, "#000000", "#ffffff")
    assert unpack(column["values"], "<f4").tolist() == [0.0, 0.25, 0.5, 1.0]


def test_values_beyond_the_limits_take_the_end_s_colour_and_the_legend_says_so():
    column = code_column(pd.Series([-5.0, 0.0, 1.0], name="a"), limits=(0.0, 1.0))
    assert codes_of(column) == [1, 1, 255]
    assert (column["below"], column["above"]) == (True, False)


def test_an_outlier_does_not_set_the_colours():
    values = np.append(np.linspace(0, 1, 999), 1000.0)
    low, high = find_limits(values)
    assert 0 < low < 0.02
    assert 0.98 < high < 1.001
    assert find_limits(np.array([0.0] * 999 + [7.0])) == (0.0, 7.0)  # rare, but all there is to see


@pytest.mark.parametrize("missing", [np.nan, np.inf, None])
def test_a_tile_without_a_number_has_no_colour(missing):
    column = code_column(pd.Series([1.0, missing, 3.0], name="a"))
    assert codes_of(column)[1] == 0
    assert np.isnan(unpack(column["values"], "<f4")[1])
    assert column["n_missing"] == 1


def test_a_constant_column_has_one_colour_and_an_empty_one_none():
    constant = code_column(pd.Series([2.0, 2.0, np.nan], name="a"))
    assert codes_of(constant) == [128, 128, 0]
    assert (constant["low"], constant["high"]) == (2.0, 2.0)
    empty = code_column(pd.Series([np.nan, np.nan], name="a"))
    assert codes_of(empty) == [0, 0]
    assert (empty["low"], empty["high"], empty["n_missing"]) == (0.0, 0.0, 2)


def test_categories_stand_by_how_often_they_occur():
    column = code_column(pd.Series(["ink", "fine", "fine", None, "fold"], name="flag"))
    assert column["categories"] == ["fine", "fold", "ink"]
    assert column["counts"] == [2, 1, 1]
    assert column["colours"] == list(SEQUENCE[:3])
    assert codes_of(column) == [3, 1, 1, 0, 2]
    assert column["n_missing"] == 1


def test_given_colours_set_the_order_and_the_rest_get_others():
    values = pd.Series(["b", "a", "c", "c"], name="flag")
    column = code_column(values, colours={"a": SEQUENCE[0], "never": "#123456", "b": "#abcdef"})
    assert column["categories"] == ["a", "b", "c"]
    assert column["colours"] == [SEQUENCE[0], "#abcdef", SEQUENCE[1]]


def test_an_ordered_category_keeps_its_order_and_booleans_are_categories():
    grades = pd.Series(pd.Categorical(["III", "I", "III"], ["I", "II", "III"], ordered=True), name="grade")
    assert code_column(grades)["categories"] == ["I", "III"]
    kept = code_column(pd.Series([True, False, True], name="kept"))
    assert (kept["kind"], kept["categories"], codes_of(kept)) == ("category", ["True", "False"], [1, 2, 1])


def test_beyond_eight_categories_the_rarer_ones_share_grey_and_keep_their_names():
    names = [f"site {k:02d}" for k in range(12) for _ in range(12 - k)]
    column = code_column(pd.Series(names, name="site"))
    assert column["categories"] == [*(f"site {k:02d}" for k in range(7)), "5 rarer"]
    assert column["colours"] == [*SEQUENCE[:7], GREY]
    assert column["counts"] == [12, 11, 10, 9, 8, 7, 6, 5 + 4 + 3 + 2 + 1]
    assert column["texts"][-1] == "site 11"
    assert codes_of(column)[-1] == 8


def test_tiles_come_from_a_table_its_file_or_a_feature_file(tmp_path):
    table = make_table()
    tile_file = write_tiles(table, tmp_path / "S-1.h5")
    feature_file = write_features(tmp_path / "f" / "S-1.h5", np.ones((3, 4), np.float32), table, attributes={})
    for source in (table, tile_file, str(tile_file), feature_file):
        tiles = collect_tiles(source, slide_id="S-1", size_l0=SIZE)
        assert tiles.coords_l0.tolist() == table.coords_l0.tolist()
        assert tiles.edge_l0 == (300, 200)  # width, height
        assert tiles.columns["tissue_fraction"].tolist() == [0.25, 0.5, 1.0]
        assert [line.tolist() for line in tiles.outlines] == [table.points.tolist()]


def test_a_frame_gives_this_slide_s_rows_and_its_other_columns():
    tiles = collect_tiles(make_frame(slide_id=["S-1", "S-2", "S-1"], label="x"), slide_id="S-1", size_l0=SIZE)
    assert tiles.coords_l0.tolist() == [[0, 0], [512, 128]]
    assert tiles.edge_l0 == (256, 256)
    assert list(tiles.columns) == ["score", "label"]
    assert tiles.columns["score"].tolist() == [0.1, 0.4]


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (make_frame().drop(columns="edge_l0"), r"lack edge_l0 \(found: x_l0, y_l0, score\)"),
        (make_frame(edge_l0=[256, 128, 256]), r"edges of \[128, 256\] level-0 px"),
        (make_frame(slide_id="S-9"), "none of 3 tiles is of slide 'S-1'; they are of S-9"),
        (make_frame(x_l0=[0, 700, 800]), r"2 of 3 tiles leave slide 'S-1' of 900 x 700 px, first row 1 at \(700, 0\)"),
        (make_frame(**{f"f{k}": 0.0 for k in range(64)}), "65 columns to show, at most 64"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(frame, text):
    with pytest.raises(TileError, match=text):
        collect_tiles(frame, slide_id="S-1", size_l0=SIZE)


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    import h5py

    with pytest.raises(TileError, match="no tiles at"):
        collect_tiles(tmp_path / "no.h5", slide_id="S-1", size_l0=SIZE)
    path: Path = tmp_path / "clam.h5"
    with h5py.File(path, "w") as file:
        file["coords"] = [[0, 0]]
    with pytest.raises(TileError, match=r"holds \['coords'\] and was not written by this book"):
        collect_tiles(path, slide_id="S-1", size_l0=SIZE)
