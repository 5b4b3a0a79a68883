"""Tiles with their columns as the slide explorer draws them: one colour code per tile and column, and a legend.

Code 0 means no value. A numeric column's codes 1 to 255 are steps between its limits; a categorical column's codes are
the places of its categories, from 1.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core.errors import TileError
from helpers.figures.style import GREY, SEQUENCE
from helpers.slides.tilefile import TileTable, unpack_table

PLACE_COLUMNS = ("slide_id", "x_l0", "y_l0", "edge_l0")
MAX_COLUMNS = 64
N_STEPS = 255
MIDDLE = 128
"""Code of a constant column's tiles."""
QUANTILES = (0.01, 0.99)
"""Limits of a numeric column's colours, unless they coincide or are given."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tiles of a slide with columns to colour them by.

    Attributes
    ----------
    coords_l0 : ndarray, (n, 2), int64
        Upper left corners x, y, level-0 px.
    edge_l0 : tuple of 2 ints
        Width and height of a tile, level-0 px.
    columns : DataFrame, n rows
    outlines : list of ndarray, (n_points, 2)
        Closed lines, level-0 px.
    """

    coords_l0: NDArray[np.int64]
    edge_l0: tuple[int, int]
    columns: pd.DataFrame
    outlines: list[NDArray[np.float32]]


def collect_tiles(tiles: "TileTable | pd.DataFrame | str | Path", *, slide_id: str, size_l0: tuple[int, int]) -> Tiles:
    """Take tiles from a table, a tile file, a feature file of this book, or a data frame.

    Parameters
    ----------
    tiles : TileTable, DataFrame, str or Path
        A data frame holds x_l0, y_l0 and edge_l0 (level-0 px; one value for all tiles), and columns to show; where it
        holds slide_id, the rows of this slide are taken.
    slide_id : str
    size_l0 : tuple of 2 ints
        Width and height of the slide, level-0 px.

    Returns
    -------
    Tiles

    Raises
    ------
    TileError
        When a column is missing, no tile is of this slide, a tile leaves the slide, or there are too many columns.
    """
    if isinstance(tiles, pd.DataFrame):
        taken = _take_frame(tiles, slide_id)
    else:
        taken = _take_table(tiles if isinstance(tiles, TileTable) else _read_table(Path(tiles)))
    _check_inside(taken, slide_id, size_l0)
    if taken.columns.shape[1] > MAX_COLUMNS:
        msg = (
            f"TileError: tiles of slide '{slide_id}' have {taken.columns.shape[1]} columns to show, at most "
            f"{MAX_COLUMNS} can be. Pass a data frame with x_l0, y_l0, edge_l0 and those you want."
        )
        raise TileError(msg)
    return taken


def _read_table(path: Path) -> TileTable:
    if not path.is_file():
        msg = f"TileError: no tiles at '{path}'. Run chapter 01 for this profile, or look in its ledger for the reason."
        raise TileError(msg)
    with h5py.File(path, "r") as file:
        if not str(file.attrs.get("format", "")).startswith("histobook-"):
            msg = (
                f"TileError: '{path.name}' holds {sorted(file)} and was not written by this book. Read it with "
                "helpers.features.store.read_features, and pass a data frame with x_l0, y_l0, edge_l0."
            )
            raise TileError(msg)
        return unpack_table(file)


def _take_table(table: TileTable) -> Tiles:
    outlines = [table.points[start:end] for start, end, _ in table.rings]
    return Tiles(coords_l0=table.coords_l0, edge_l0=table.edge_l0, columns=table.qc, outlines=outlines)


def _take_frame(frame: pd.DataFrame, slide_id: str) -> Tiles:
    missing = [name for name in ("x_l0", "y_l0", "edge_l0") if name not in frame]
    if missing:
        msg = (
            f"TileError: the tiles of slide '{slide_id}' lack {', '.join(missing)} (found: "
            f"{', '.join(map(str, frame.columns))}). Add them in level-0 px; edge_l0 is the edge of a tile."
        )
        raise TileError(msg)
    if "slide_id" in frame:
        frame = _take_slide(frame, slide_id)
    edges = sorted(set(frame["edge_l0"].astype(int)))
    if len(edges) != 1:
        msg = f"TileError: tiles of slide '{slide_id}' have edges of {edges} level-0 px. Pass tiles of one size."
        raise TileError(msg)
    shown = frame.drop(columns=[name for name in PLACE_COLUMNS if name in frame]).reset_index(drop=True)
    coords = frame[["x_l0", "y_l0"]].to_numpy(np.int64)
    return Tiles(coords_l0=coords, edge_l0=(edges[0], edges[0]), columns=shown, outlines=[])


def _take_slide(frame: pd.DataFrame, slide_id: str) -> pd.DataFrame:
    own = frame[frame["slide_id"].astype(str) == slide_id]
    if own.empty:
        there = sorted(set(frame["slide_id"].astype(str)))
        msg = (
            f"TileError: none of {len(frame)} tiles is of slide '{slide_id}'; they are of {', '.join(there[:3])}"
            f"{' …' if len(there) > 3 else ''}. Open the slide under the slide_id that its tiles have."
        )
        raise TileError(msg)
    return own


def _check_inside(tiles: Tiles, slide_id: str, size_l0: tuple[int, int]) -> None:
    ends = tiles.coords_l0 + tiles.edge_l0
    outside = (tiles.coords_l0 < 0).any(axis=1) | (ends > size_l0).any(axis=1)
    if outside.any():
        first = int(np.argmax(outside))
        msg = (
            f"TileError: {int(outside.sum())} of {len(ends)} tiles leave slide '{slide_id}' of {size_l0[0]} x "
            f"{size_l0[1]} px, first row {first} at {tuple(tiles.coords_l0[first].tolist())} with edges of "
            f"{tiles.edge_l0} px. Pass the tiles of this slide, in level-0 px."
        )
        raise TileError(msg)


def code_column(
    values: pd.Series,
    *,
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
    colours: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a column as the explorer draws it.

    Parameters
    ----------
    values : Series
        Numbers are drawn with a colour bar; text, booleans and categories with a legend.
    cmap : str
        Matplotlib's name, for numbers.
    limits : tuple of 2 floats, optional
        Of the colours, for numbers; the 1 % and 99 % quantiles where not given.
    colours : mapping of str to str, optional
        By category, in the order of the legend.

    Returns
    -------
    dict
        name, kind ('number' or 'category'), codes (base64 of uint8), colours (hex; the n-th is that of code n + 1),
        n_missing, and low, high, below, above, values (base64 of float32) or categories, counts.
    """
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    coded = _code_numbers(values, cmap, limits) if is_number else _code_categories(values, dict(colours or {}))
    return {"name": str(values.name), "n_missing": int((unpack(coded["codes"], "u1") == 0).sum()), **coded}


def _code_numbers(values: pd.Series, cmap: str, limits: tuple[float, float] | None) -> dict[str, Any]:
    numbers = values.to_numpy(np.float64, na_value=np.nan)
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    low, high = limits or find_limits(numbers)
    known = ~np.isnan(numbers)
    share = (np.where(known, numbers, low) - low) / (high - low) if high > low else np.full(len(numbers), np.nan)
    steps = 1 + np.rint(np.clip(share, 0, 1) * (N_STEPS - 1)) if high > low else np.full(len(numbers), MIDDLE)
    return {
        "kind": "number",
        "codes": pack(np.where(known, steps, 0), "u1"),
        "colours": list_colours(cmap),
        "values": pack(numbers, "<f4"),
        "low": float(low),
        "high": float(high),
        "below": bool((numbers[known] < low).any()),
        "above": bool((numbers[known] > high).any()),
    }


def find_limits(numbers: NDArray[np.float64]) -> tuple[float, float]:
    """Return the limits of a numeric column's colours.

    Parameters
    ----------
    numbers : ndarray, (n,), float
        NaN where unknown.

    Returns
    -------
    tuple of 2 floats
        Quantiles; the extremes where the quantiles coincide; (0, 0) where nothing is known.
    """
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return 0.0, 0.0
    low, high = np.quantile(known, QUANTILES)
    return (float(low), float(high)) if high > low else (float(known.min()), float(known.max()))


def list_colours(cmap: str) -> list[str]:
    """Return the 255 colours of a colour map.

    Parameters
    ----------
    cmap : str
        Matplotlib's name.

    Returns
    -------
    list of str
        '#rrggbb'.
    """
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in mpl.colormaps[cmap](np.linspace(0, 1, N_STEPS))]


def _code_categories(values: pd.Series, colours: dict[str, str]) -> dict[str, Any]:
    texts = values.astype(object).where(values.notna(), None).map(lambda value: None if value is None else str(value))
    counts = texts.value_counts()
    order = _order_categories(values, counts, list(colours))
    spare = [colour for colour in SEQUENCE if colour not in colours.values()]
    n_own = sum(name in colours for name in order) + len(spare)
    named, rest = (order, []) if len(order) <= n_own else (order[: n_own - 1], order[n_own - 1 :])
    code_of = {name: place for place, name in enumerate(named, start=1)} | dict.fromkeys(rest, len(named) + 1)
    following = iter(spare)
    chosen = [colours[name] if name in colours else next(following) for name in named]
    others = [f"{len(rest)} rarer"] if rest else []
    return {
        "kind": "category",
        "codes": pack(texts.map(lambda text: code_of.get(text, 0)).to_numpy(), "u1"),
        "colours": [*chosen, *([GREY] if rest else [])],
        "categories": [*named, *others],
        "counts": [*(int(counts.get(name, 0)) for name in named), *([int(counts[rest].sum())] if rest else [])],
        "texts": list(texts) if rest else None,
    }


def _order_categories(values: pd.Series, counts: pd.Series, first: Sequence[str]) -> list[str]:
    """Return the categories that occur: those with a colour, then by the column's own order or by how often."""
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.ordered:
        own = [str(name) for name in values.cat.categories if str(name) in counts]
    else:
        own = sorted(counts.index, key=lambda name: (-counts[name], name))
    return [name for name in first if name in counts] + [name for name in own if name not in first]


def pack(values: Any, dtype: str) -> str:
    """Return an array's bytes as base64.

    Parameters
    ----------
    values : array_like
    dtype : str
        NumPy's name, with byte order.

    Returns
    -------
    str
    """
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def unpack(text: str, dtype: str) -> NDArray[Any]:
    """Return the array that `pack` wrote.

    Parameters
    ----------
    text : str
    dtype : str

    Returns
    -------
    ndarray, (n,)
    """
    return np.frombuffer(base64.b64decode(text), dtype=dtype)
