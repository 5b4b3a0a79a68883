"""One page to look at every slide of a cohort: thumbnail, tissue outline, tiles coloured by what is odd about them.

Plain HTML beside small JPEGs, made from the tile files and the thumbnails alone; it opens from a disk without a server.
"""

import html
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from helpers.core import paths
from helpers.core.errors import TileError
from helpers.slides.reader import RGB
from helpers.slides.tilefile import TileTable, read_tiles
from helpers.slides.tiling import write_thumbnail

STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:24px;color:#222}"
    "main{display:grid;gap:20px;grid-template-columns:repeat(auto-fill,minmax(300px,1fr))}"
    "figure{margin:0}img{width:100%;border:1px solid #ddd}figcaption{font-size:13px}"
    "i{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .8em}"
)


def write_qc_page(folder: Path, tiles: pd.DataFrame, colours: Mapping[str, str], *, title: str) -> Path:
    """Write `qc/<slide_id>.jpg` for every slide and `qc/index.html`, the slides with most odd tiles first.

    Parameters
    ----------
    folder : Path
        Of the chapter: holds `tiles/` and `thumbnails/`.
    tiles : DataFrame, one row per tile
        slide_id and flag, in the order of the tile files.
    colours : mapping of str to str
        Colour (#rrggbb) of every flag; the last flag is 'nothing odd'.
    title : str

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    TileError
        When a thumbnail cannot be read.
    """
    fine = list(colours)[-1]
    counts = pd.crosstab(tiles["slide_id"], tiles["flag"]).reindex(columns=list(colours), fill_value=0)
    share = 1 - counts[fine] / counts.sum(axis=1)
    figures = []
    for slide_id in share.sort_values(ascending=False, kind="stable").index:
        flags = tiles.loc[tiles["slide_id"] == slide_id, "flag"]
        image = draw_tiles(_read_thumbnail(folder, slide_id), read_tiles(folder / "tiles" / f"{slide_id}.h5"),
                           [colours[flag] for flag in flags])  # fmt: skip
        write_thumbnail(image, folder / "qc" / f"{slide_id}.jpg")
        figures.append(_write_figure(str(slide_id), counts.loc[slide_id], colours))
    legend = "".join(f'<i style="background:{colour}"></i>{html.escape(flag)}' for flag, colour in colours.items())
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{len(share)} slides, {len(tiles):,} tiles.{legend}</p>"
        f"<main>{''.join(figures)}</main></html>\n"
    )
    return paths.write_text(page, folder / "qc" / "index.html")


def _read_thumbnail(folder: Path, slide_id: str) -> RGB:
    path = folder / "thumbnails" / f"{slide_id}.jpg"
    image = cv2.imread(str(path))
    if image is None:
        msg = f"TileError: slide '{slide_id}': no readable thumbnail at '{paths.shorten(path)}'. Run chapter 01 again."
        raise TileError(msg)
    return np.asarray(image[..., ::-1], dtype=np.uint8)


def draw_tiles(thumbnail: RGB, table: TileTable, colours: list[str]) -> RGB:
    """Draw the outline of the tissue and the frame of every tile on a thumbnail.

    Parameters
    ----------
    thumbnail : ndarray, (h, w, 3), uint8
        Of the whole slide.
    table : TileTable
    colours : list of str
        #rrggbb of each tile.

    Returns
    -------
    ndarray, (h, w, 3), uint8
    """
    canvas = np.ascontiguousarray(thumbnail)
    scale = np.array([canvas.shape[1] / table.size_l0[0], canvas.shape[0] / table.size_l0[1]])
    for start, end, _ in table.rings:
        ring = np.rint(table.points[start:end] * scale).astype(np.int32)
        cv2.polylines(canvas, [ring.reshape(-1, 1, 2)], isClosed=True, color=(0, 0, 0), thickness=2)
    first = np.rint(table.coords_l0 * scale).astype(int)
    last = np.rint((table.coords_l0 + table.edge_l0) * scale).astype(int) - 2
    for (left, top), (right, bottom), colour in zip(first.tolist(), last.tolist(), colours, strict=True):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        cv2.rectangle(canvas, (left, top), (right, bottom), (red, green, blue), 1)
    return np.asarray(canvas, dtype=np.uint8)


def _write_figure(slide_id: str, counts: pd.Series, colours: Mapping[str, str]) -> str:
    name = html.escape(slide_id)
    words = ", ".join(f"{count} {flag}" for flag, count in counts.items() if count)
    link = f'<a href="{name}.jpg"><img loading="lazy" src="{name}.jpg" alt="{name}"></a>'
    return f"<figure>{link}<figcaption><b>{name}</b> {html.escape(words)}</figcaption></figure>"
