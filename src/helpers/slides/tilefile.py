"""The file of a slide's tiles: HDF5 in TRIDENT's layout, with resolution, quality and outlines added.

`coords` holds level-0 px of the upper left corners with TRIDENT's attributes; `qc/<column>` one number per tile;
`tissue/points` and `tissue/rings` the outlines. No time, path or run id goes in, attributes have a fixed order, and
objects are not time-stamped: equal input gives equal bytes. Feature files hold the same and `features` beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core.errors import TileError
from helpers.core.paths import atomic_write

FORMAT = "histobook-tiles-1"
CHUNK_ROWS = 1024
MAGNIFICATIONS = (1.25, 2.5, 5, 10, 20, 40, 60, 80)
UM_AT_1X = 10.0
"""The usual reading of "20x" is 0.5 um per px; only for TRIDENT's attributes, never for geometry."""


@dataclass(frozen=True, kw_only=True)
class TileTable:
    """The tiles of a slide with everything stored about them.

    Attributes
    ----------
    slide_id : str
    coords_l0 : ndarray, (n, 2), int64
        Upper left corners x, y, level-0 px, in raster order.
    edge_l0 : tuple of 2 ints
        Width and height of a tile, level-0 px.
    tile_px : int
        Edge of a tile as read, px at the effective mpp.
    overlap_px : int
    size_l0 : tuple of 2 ints
        Width and height of the slide, level-0 px.
    qc : DataFrame, n rows
        One column per measure of `helpers.slides.qc`.
    points, rings : ndarray
        Tissue outlines (`helpers.slides.tissue.outline_tissue`).
    attributes : dict
        Plain values: key, mpp_effective, mpp_source, stain vectors, versions, ...
    """

    slide_id: str
    coords_l0: NDArray[np.int64]
    edge_l0: tuple[int, int]
    tile_px: int
    overlap_px: int
    size_l0: tuple[int, int]
    qc: pd.DataFrame
    points: NDArray[np.float32]
    rings: NDArray[np.int32]
    attributes: dict[str, Any]

    @property
    def mpp(self) -> float:
        """Effective resolution of the tiles, um per px."""
        return float(self.attributes["mpp_effective"])


def write_h5(path: Path, datasets: Mapping[str, Any], attributes: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write datasets and attributes, atomically and the same bytes each time.

    Parameters
    ----------
    path : Path
    datasets : mapping of str to array
        Names may hold '/' for groups. Arrays longer than a chunk are stored in chunks of 1,024 rows.
    attributes : mapping of str to mapping
        By the object's name; '/' is the file itself. Written in sorted order.

    Returns
    -------
    Path
    """
    with atomic_write(path) as temporary, h5py.File(temporary, "w", libver="v110") as file:
        for name, values in datasets.items():
            array = np.asarray(values)
            chunks = (CHUNK_ROWS, *array.shape[1:]) if len(array) > CHUNK_ROWS else None
            file.create_dataset(name, data=array, chunks=chunks, track_times=False)
        for name, values in attributes.items():
            for key in sorted(values):
                file[name].attrs[key] = values[key]
    return path


def describe_coords(table: TileTable) -> dict[str, Any]:
    """Return TRIDENT's attributes of `coords`, and ours.

    Parameters
    ----------
    table : TileTable

    Returns
    -------
    dict
        Magnifications are the nominal names nearest to the um per px, for other people's readers.
    """
    return {
        "patch_size": table.tile_px,
        "patch_size_level0": table.edge_l0[0],
        "patch_height_level0": table.edge_l0[1],
        "level0_magnification": name_magnification(table.edge_l0[0], table),
        "target_magnification": name_magnification(table.tile_px, table),
        "overlap": table.overlap_px,
        "name": table.slide_id,
        "savetodir": ".",
        "level0_width": table.size_l0[0],
        "level0_height": table.size_l0[1],
        "mpp_effective": table.attributes["mpp_effective"],
        "mpp_source": table.attributes["mpp_source"],
    }


def name_magnification(edge_px: int, table: TileTable) -> float:
    """Return the usual name of a resolution.

    Parameters
    ----------
    edge_px : int
        Px that a tile's edge has at that resolution.
    table : TileTable

    Returns
    -------
    float
        1.25, 2.5, 5, 10, 20, 40, 60 or 80, the nearest on a ratio scale.
    """
    mpp = table.mpp * table.tile_px / edge_px
    ratios = [abs(np.log(UM_AT_1X / mpp / name)) for name in MAGNIFICATIONS]
    return float(MAGNIFICATIONS[int(np.argmin(ratios))])


def pack_table(table: TileTable) -> dict[str, Any]:
    """Return the datasets of a tile table by name.

    Parameters
    ----------
    table : TileTable

    Returns
    -------
    dict of str to ndarray
    """
    qc = {f"qc/{name}": table.qc[name].to_numpy(np.float32) for name in table.qc}
    return {"coords": table.coords_l0, **qc, "tissue/points": table.points, "tissue/rings": table.rings}


def write_tiles(table: TileTable, path: Path) -> Path:
    """Write a slide's tiles.

    Parameters
    ----------
    table : TileTable
    path : Path

    Returns
    -------
    Path
    """
    attributes = {"/": {"format": FORMAT, **table.attributes}, "coords": describe_coords(table)}
    return write_h5(path, pack_table(table), attributes)


def read_tiles(path: Path) -> TileTable:
    """Read a slide's tiles.

    Parameters
    ----------
    path : Path

    Returns
    -------
    TileTable

    Raises
    ------
    TileError
        When there is no such file, or it was not written by chapter 01.
    """
    if not path.is_file():
        msg = f"TileError: no tiles at '{path}'. Run chapter 01 for this profile, or look in its ledger for the reason."
        raise TileError(msg)
    with h5py.File(path, "r") as file:
        if str(file.attrs.get("format", "")) != FORMAT:
            msg = (
                f"TileError: '{path.name}' holds {sorted(file)} and format {file.attrs.get('format', 'none')!r}, "
                f"expected {FORMAT!r}. Run chapter 01 again."
            )
            raise TileError(msg)
        return unpack_table(file)


def unpack_table(file: h5py.File) -> TileTable:
    """Read a tile table out of an open file (of tiles or of features).

    Parameters
    ----------
    file : h5py.File

    Returns
    -------
    TileTable
    """
    on_coords = file["coords"].attrs
    attributes = {name: to_plain(value) for name, value in file.attrs.items() if name != "format"}
    return TileTable(
        slide_id=str(on_coords["name"]),
        coords_l0=file["coords"][:],
        edge_l0=(int(on_coords["patch_size_level0"]), int(on_coords["patch_height_level0"])),
        tile_px=int(on_coords["patch_size"]),
        overlap_px=int(on_coords["overlap"]),
        size_l0=(int(on_coords["level0_width"]), int(on_coords["level0_height"])),
        qc=read_qc(file),
        points=file["tissue/points"][:],
        rings=file["tissue/rings"][:],
        attributes=attributes,
    )


def read_qc(file: h5py.File) -> pd.DataFrame:
    """Read the quality columns of an open file, in the order of `helpers.slides.qc`.

    Parameters
    ----------
    file : h5py.File

    Returns
    -------
    DataFrame
    """
    from helpers.slides.qc import QC_COLUMNS

    names = [name for name in QC_COLUMNS if name in file["qc"]] + [n for n in file["qc"] if n not in QC_COLUMNS]
    return pd.DataFrame({name: file["qc"][name][:] for name in names})


def read_attribute(path: Path, name: str) -> Any:
    """Return an attribute of a file, or None where the file or the attribute is missing or unreadable.

    Parameters
    ----------
    path : Path
    name : str

    Returns
    -------
    Any
    """
    try:
        with h5py.File(path, "r") as file:
            return to_plain(file.attrs[name]) if name in file.attrs else None
    except OSError:
        return None


def to_plain(value: Any) -> Any:
    """Turn an attribute into a plain value: bytes to str, NumPy scalars to numbers, arrays to lists.

    Parameters
    ----------
    value : Any

    Returns
    -------
    Any
    """
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if hasattr(value, "tolist") else value
