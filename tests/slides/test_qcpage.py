"""The page of all slides: the oddest first, every tile framed where it lies, in the colour of its flag."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from helpers.core.errors import TileError
from helpers.core.specs import TilingSpec
from helpers.slides.qcpage import draw_tiles, write_qc_page
from helpers.slides.tilefile import read_tiles
from helpers.slides.tiling import tile_slide
from tests.slides.conftest import draw_tissue

COLOURS = {"pen": "#009E73", "fine": "#0072B2"}
SPEC = TilingSpec(tile_px=128, mpp=0.5, thumbnail_px=450, min_tissue_um2=5_000)


@pytest.fixture
def folder(make_slide: Callable[..., Path], tmp_path: Path) -> Path:
    for number, name in enumerate(("S-1", "S-2")):
        tile_slide(name, make_slide(draw_tissue(900, 700, seed=number), name=name), SPEC, folder=tmp_path / "c")
    return tmp_path / "c"


def list_flags(folder: Path) -> pd.DataFrame:
    rows = [pd.DataFrame({"slide_id": path.stem, "flag": "fine"}, index=range(len(read_tiles(path).coords_l0)))
            for path in sorted((folder / "tiles").iterdir())]  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def test_the_slide_with_most_odd_tiles_comes_first(folder: Path) -> None:
    tiles = list_flags(folder)
    tiles.loc[tiles.index[tiles["slide_id"] == "S-2"][:3], "flag"] = "pen"
    page = write_qc_page(folder, tiles, COLOURS, title="Quality <of> slides")
    text = page.read_text()
    assert text.index("<b>S-2</b> 3 pen") < text.index("<b>S-1</b>")
    assert "Quality &lt;of&gt; slides" in text
    assert {path.name for path in page.parent.iterdir()} == {"S-1.jpg", "S-2.jpg", "index.html"}


def test_a_tile_is_framed_where_it_lies(folder: Path) -> None:
    table = read_tiles(folder / "tiles" / "S-1.h5")
    white = np.full((350, 450, 3), 255, np.uint8)  # half of 900 x 700
    drawn = draw_tiles(white, table, ["#0072B2"] * len(table.coords_l0))
    x, y = table.coords_l0[0] // 2
    assert tuple(drawn[y, x + 20]) == (0x00, 0x72, 0xB2), "upper edge"
    assert tuple(drawn[y + 30, x + 62]) == (0x00, 0x72, 0xB2), "right edge of a tile of 64 px"
    assert (drawn == 0).all(axis=-1).sum() > 500, "outline of the tissue"


def test_a_missing_thumbnail_is_named(folder: Path) -> None:
    (folder / "thumbnails" / "S-1.jpg").unlink()
    with pytest.raises(TileError, match="slide 'S-1': no readable thumbnail at .* Run chapter 01 again"):
        write_qc_page(folder, list_flags(folder), COLOURS, title="Quality")


def test_the_drawing_leaves_the_thumbnail_alone(folder: Path) -> None:
    before = cv2.imread(str(folder / "thumbnails" / "S-1.jpg"))
    write_qc_page(folder, list_flags(folder), COLOURS, title="Quality")
    assert np.array_equal(cv2.imread(str(folder / "thumbnails" / "S-1.jpg")), before)
