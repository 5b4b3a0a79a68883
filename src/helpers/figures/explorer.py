"""The slide explorer: a deep-zoom viewer for notebook and site, with tiles over the slide coloured by any column.

In a notebook that a person runs, pixels come from the kernel as they are needed. In a page (a headless run, the site,
an HTML export) a coarse part of the pyramid lies in the page itself, which then needs no kernel and no network. Where
no script may run, a picture stands in. Equal input gives equal bytes. Label and macro images are never shown.
"""

import base64
import html
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core.errors import TileError
from helpers.core.paths import resolve, write_text
from helpers.core.provenance import compute_key, fingerprint
from helpers.figures.overlay import Tiles, code_column, collect_tiles, pack, unpack
from helpers.figures.style import BLACK, DOUBLE_COLUMN_MM, MM_PER_INCH, RC, add_scale_bar
from helpers.slides.pyramid import Pyramid, encode_pyramid
from helpers.slides.reader import RGB, Slide, open_slide, open_source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.figures.explorer_widget import ExplorerWidget
    from helpers.slides.tilefile import TileTable

SESSION_VARIABLES = ("JPY_SESSION_NAME", "VSCODE_PID")
"""Set in the kernels that a Jupyter server or VS Code starts for a person; papermill's and nbconvert's have neither."""
PICTURE_PX = 900
PICTURE_COLOURS = 256
ZOOM_LIVE = 4
ZOOM_STATIC = 6
"""Most screen px per px of the finest level at hand."""


def explore(
    slide: Slide | str | Path,
    *,
    tiles: "TileTable | pd.DataFrame | str | Path | None" = None,
    column: str | None = None,
    outlines: Sequence[NDArray[Any]] | None = None,
    cmap: str = "viridis",
    limits: Mapping[str, tuple[float, float]] | None = None,
    colours: Mapping[str, Mapping[str, str]] | None = None,
    opacity: float = 0.5,
    height_px: int = 520,
    max_mb: float = 1.5,
    fallback_mpp: float | None = None,
    live: bool | None = None,
) -> "Explorer":
    """Show a slide to zoom into, with its tiles coloured by a column.

    Parameters
    ----------
    slide : Slide, str or Path
        An open slide (opened once more, so it may be closed), or the path of one that states its resolution.
    tiles : TileTable, DataFrame, str or Path, optional
        Tiles with their columns: those of chapter 01, the path of a tile or feature file of this book, or a data frame
        with x_l0, y_l0, edge_l0 (level-0 px) and any columns (quality, attention, predictions).
    column : str, optional
        The column shown first; the first of `tiles` where not given. The reader can change it.
    outlines : sequence of ndarray, (n_points, 2), optional
        Closed lines, level-0 px; the outlines of the tissue in `tiles` where not given.
    cmap : str
        Matplotlib's name of the colours of numbers.
    limits : mapping of str to (low, high), optional
        By column; values beyond take the end's colour. Their 1 % and 99 % quantiles where not given.
    colours : mapping of str to mapping, optional
        By column and category: colour.
    opacity : float
        Of the tiles, 0 to 1.
    height_px : int
        Of the viewer, screen px.
    max_mb : float
        Most megabytes of JPEG that a page holds of the slide; a page shows the slide as finely as they allow.
    fallback_mpp : float, optional
        Used where `slide` is a path and the file states no resolution, um per px; the viewer says so.
    live : bool, optional
        Ask the kernel for pixels. By default where a Jupyter server or VS Code started the kernel.

    Returns
    -------
    Explorer
        Shown by Jupyter when it ends a cell; `write_html` saves it as a page.

    Raises
    ------
    SlideError, ResolutionError
        When the slide cannot be opened, or states no resolution.
    TileError
        When the tiles do not fit the slide, or no such column is there.
    """
    own = _open_own(slide, fallback_mpp)
    try:
        size = (own.width, own.height)
        taken = None if tiles is None else collect_tiles(tiles, slide_id=own.slide_id, size_l0=size)
        overlay = None if taken is None else _describe_tiles(taken, cmap, limits or {}, colours or {})
        lines = list(outlines) if outlines is not None else [] if taken is None else taken.outlines
        view = {
            "column": _find_column(overlay, column, own.slide_id),
            "opacity": float(opacity),
            "height_px": int(height_px),
        }
        return Explorer(own, overlay, lines, view=view, max_bytes=int(max_mb * 1e6), live=live)
    except BaseException:
        own.source.close()
        raise


def _open_own(slide: Slide | str | Path, fallback_mpp: float | None) -> Slide:
    if not isinstance(slide, Slide):
        return open_slide(resolve(slide), slide_id=Path(slide).stem, fallback_mpp=fallback_mpp)
    source = open_source(slide.path, slide.slide_id)
    return Slide(slide_id=slide.slide_id, path=slide.path, source=source, resolution=slide.resolution)


def _describe_tiles(
    tiles: Tiles,
    cmap: str,
    limits: Mapping[str, tuple[float, float]],
    colours: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    unknown = sorted({*limits, *colours} - set(map(str, tiles.columns)))
    if unknown:
        msg = f"TileError: limits or colours of {unknown}, but the columns are {list(tiles.columns)}. Name one of them."
        raise TileError(msg)
    columns = [
        code_column(tiles.columns[name], cmap=cmap, limits=limits.get(name), colours=colours.get(name))
        for name in tiles.columns
    ]
    x, y = tiles.coords_l0.T
    return {"x": pack(x, "<i4"), "y": pack(y, "<i4"), "edge": list(tiles.edge_l0), "columns": columns}


def _find_column(overlay: dict[str, Any] | None, column: str | None, slide_id: str) -> int:
    names = [part["name"] for part in overlay["columns"]] if overlay else []
    if column is None:
        return 0
    if column not in names:
        there = ", ".join(names) or "none, for no tiles were given"
        msg = f"TileError: no column '{column}' to colour the tiles of slide '{slide_id}' by; there: {there}."
        raise TileError(msg)
    return names.index(column)


def is_live() -> bool:
    """Return whether a person's notebook runs this kernel, rather than papermill, nbconvert or a script.

    Returns
    -------
    bool
    """
    return any(os.environ.get(name) for name in SESSION_VARIABLES)


@cache
def read_asset(name: str) -> str:
    """Return a file of the explorer's browser code.

    Parameters
    ----------
    name : str
        In `helpers/figures/assets`.

    Returns
    -------
    str
    """
    return files("helpers.figures").joinpath("assets", name).read_text(encoding="utf-8")


def read_library() -> str:
    """Return OpenSeadragon's code, without the line that points to its source map.

    Returns
    -------
    str
    """
    return read_asset("openseadragon.min.js").partition("\n//# sourceMappingURL")[0]


class Explorer:
    """A slide with its tiles, shown as a live widget, a page of its own or a picture. Made by `explore`.

    Parameters
    ----------
    slide : Slide
        Open, and this explorer's own.
    overlay : dict or None
        Tiles and their coded columns.
    outlines : sequence of ndarray, (n_points, 2)
        Level-0 px.
    view : dict
        column (place), opacity, height_px.
    max_bytes : int
        Of JPEG in a page.
    live : bool or None
        None asks `is_live`.
    """

    def __init__(
        self,
        slide: Slide,
        overlay: dict[str, Any] | None,
        outlines: Sequence[NDArray[Any]],
        *,
        view: dict[str, Any],
        max_bytes: int,
        live: bool | None = None,
    ) -> None:
        from helpers.figures.tileserver import TileServer

        self.slide = slide
        self.overlay = overlay
        self.outlines = [np.asarray(line, np.float32) for line in outlines]
        self.live = is_live() if live is None else live
        self.server = TileServer(slide, Pyramid(width=slide.width, height=slide.height))
        self._view = view
        self._max_bytes = max_bytes

    @property
    def pyramid(self) -> Pyramid:
        """The geometry of the tiles of pixels."""
        return self.server.pyramid

    def describe(self, *, finest: int = 0) -> dict[str, Any]:
        """Return what the browser is told, without pixels.

        Parameters
        ----------
        finest : int
            Finest level of the pyramid that the browser can get.

        Returns
        -------
        dict
            JSON values; `slide.id` is a key of the slide's content and of all that is shown.
        """
        slide, pyramid = self.slide, self.pyramid
        facts = {
            "slide_id": slide.slide_id, "width": slide.width, "height": slide.height, "mpp_x": slide.resolution.mpp_x,
            "mpp_y": slide.resolution.mpp_y, "tile_px": pyramid.tile_px, "n_levels": pyramid.n_levels, "finest": finest,
            "max_zoom": ZOOM_STATIC / 2**finest if finest else ZOOM_LIVE,
            "about": f"{slide.width} × {slide.height} px at {slide.mpp:.4g} µm/px ({slide.mpp_source})",
        }  # fmt: skip
        lines = [pack(line, "<f4") for line in self.outlines]
        note = f"This page holds the slide down to {slide.mpp * 2**finest:.3g} µm/px." if finest else ""
        payload = {"tiles": self.overlay, "outlines": lines, "note": note, **self._view}
        key = compute_key(fingerprint(slide.path), facts, payload)
        return {"slide": {"id": key[:16], **facts}, **payload}

    @cached_property
    def widget(self) -> "ExplorerWidget":
        """The live widget; made when first asked for."""
        from helpers.figures.explorer_widget import ExplorerWidget

        return ExplorerWidget(self.describe(), self.server)

    @cached_property
    def _fragment(self) -> str:
        pixels = encode_pyramid(self.slide, self.pyramid, max_bytes=self._max_bytes)
        payload = self.describe(finest=min(level for level, _, _ in pixels))
        texts = {f"{level}/{x}_{y}": base64.b64encode(data).decode() for (level, x, y), data in pixels.items()}
        library = base64.b64encode(zlib.compress(read_library().encode(), 9)).decode()
        picture = base64.b64encode(self._pictures[1]).decode()
        name = html.escape(self.slide.slide_id)
        script = f"(() => {{\n{read_asset('explorer.js')}{read_asset('explorer_static.js')}}})();"
        return "\n".join([
            f'<div class="histobook-explorer" data-explorer="{payload["slide"]["id"]}">',
            f"<style>\n{read_asset('explorer.css')}</style>",
            f'<div class="hx-fallback"><img alt="Slide {name} with its tiles" src="data:image/jpeg;base64,{picture}">',
            "<p>To zoom, trust this notebook, or open it as a page in a browser.</p></div>",
            _hold("payload", payload), _hold("pixels", texts),
            f'<script class="hx-library" type="text/plain">{library}</script>',
            f"<script>\n{script}\n</script>", "</div>", "",
        ])  # fmt: skip

    @cached_property
    def _pictures(self) -> tuple[bytes, bytes]:
        """The picture that stands in where no script runs, as PNG and as JPEG."""
        return draw_picture(self.slide.read_thumbnail(PICTURE_PX), self.describe())

    def to_html(self) -> str:
        """Return the explorer as a piece of HTML that needs neither kernel nor network.

        Returns
        -------
        str
        """
        return self._fragment

    def to_png(self) -> bytes:
        """Return the picture that stands in where no script may run.

        Returns
        -------
        bytes
        """
        return self._pictures[0]

    def write_html(self, path: str | Path) -> Path:
        """Write the explorer as a page of its own.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path
        """
        name = html.escape(self.slide.slide_id)
        head = f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{name}</title></head>\n'
        return write_text(f"{head}<body>\n{self.to_html()}</body>\n</html>\n", Path(path))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return what Jupyter shows: the widget where live, a page's piece, a picture, a line of text."""
        shown = {"image/png": base64.b64encode(self.to_png()).decode(), "text/html": self.to_html()}
        bundle = {"text/plain": repr(self), **shown}
        if not self.live:
            return bundle
        data, *_rest = self.widget._repr_mimebundle_() or ({},)
        return {**data, **bundle}

    def __repr__(self) -> str:
        n_tiles = len(unpack(self.overlay["x"], "<i4")) if self.overlay else 0
        return f"Explorer of slide '{self.slide.slide_id}', {self.describe()['slide']['about']}, {n_tiles} tiles"

    def close(self) -> None:
        """Close the slide, and the widget where there is one."""
        if "widget" in self.__dict__:
            self.widget.close()
        self.server.close()


def _hold(name: str, value: Any) -> str:
    """Return JSON inside a script element that no browser runs."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script class="hx-{name}" type="application/json">{text}</script>'


def draw_picture(image: RGB, payload: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Draw the slide with its tiles as the explorer first shows it.

    Parameters
    ----------
    image : ndarray, (h, w, 3), uint8
        The whole slide.
    payload : mapping
        `Explorer.describe`.

    Returns
    -------
    png, jpeg : bytes
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from PIL import Image

    width = DOUBLE_COLUMN_MM / MM_PER_INCH
    height = min(width * 0.8, 0.74 * width * image.shape[0] / image.shape[1])
    file = io.BytesIO()
    with mpl.rc_context(RC):  # type: ignore[arg-type]
        fig = Figure(figsize=(width, height), layout="constrained")
        ax = fig.add_subplot()
        _draw_view(ax, image, payload)
        fig.savefig(file, dpi=110, metadata={"Software": None})
    picture = Image.open(file).convert("RGB")
    png, jpeg = io.BytesIO(), io.BytesIO()
    palette = picture.quantize(PICTURE_COLOURS)
    picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(png, "PNG", optimize=True)
    picture.save(jpeg, "JPEG", quality=75)
    return png.getvalue(), jpeg.getvalue()


def _draw_view(ax: "Axes", image: RGB, payload: Mapping[str, Any]) -> None:
    slide, overlay = payload["slide"], payload["tiles"]
    scale = image.shape[1] / slide["width"]
    ax.imshow(image, extent=(0, slide["width"], slide["height"], 0))
    if overlay and overlay["columns"]:
        _draw_tiles(ax, overlay, overlay["columns"][payload["column"]], payload["opacity"])
    for line in payload["outlines"]:
        points = unpack(line, "<f4").reshape(-1, 2)
        ax.plot(*np.vstack([points, points[:1]]).T, color=BLACK, lw=0.8)
    ax.set(xlim=(0, slide["width"]), ylim=(slide["height"], 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    add_scale_bar(ax, um_per_px=slide["mpp_x"], length_um=_pick_length(image.shape[1] * slide["mpp_x"] / scale))
    ax.set_title(slide["slide_id"])


def _pick_length(width_um: float) -> float:
    power = 10.0 ** np.floor(np.log10(width_um / 5))
    return float(max(step * power for step in (1, 2, 5) if step * power <= width_um / 5))


def _draw_tiles(ax: "Axes", overlay: Mapping[str, Any], column: Mapping[str, Any], opacity: float) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba

    x, y = unpack(overlay["x"], "<i4"), unpack(overlay["y"], "<i4")
    palette = [(0.0, 0.0, 0.0, 0.0), *(to_rgba(colour, opacity) for colour in column["colours"])]
    faces = [palette[code] for code in unpack(column["codes"], "u1")]
    corners = np.stack([x, y], axis=1)[:, None] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * overlay["edge"]
    ax.add_collection(PolyCollection(corners, facecolor=faces, edgecolor="none", gid="tiles"))  # type: ignore[arg-type]
    _draw_legend(ax, column)


def _draw_legend(ax: "Axes", column: Mapping[str, Any]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import Patch

    label = column["name"].replace("_", " ")
    if column["kind"] == "number" and column["high"] > column["low"]:
        scale = ScalarMappable(Normalize(column["low"], column["high"]), ListedColormap(column["colours"]))
        extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        beyond = extend[(column["below"], column["above"])]
        ax.figure.colorbar(scale, ax=ax, label=label, shrink=0.6, extend=beyond)  # type: ignore[union-attr]
        return
    named = zip(column.get("categories", [f"all {column.get('low', 0):.4g}"]), _list_keys(column), strict=True)
    handles = [Patch(color=colour, label=name) for name, colour in named]
    ax.legend(handles=handles, title=label, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)


def _list_keys(column: Mapping[str, Any]) -> list[str]:
    colours: list[str] = column["colours"]
    return colours if column["kind"] == "category" else [colours[len(colours) // 2]]
