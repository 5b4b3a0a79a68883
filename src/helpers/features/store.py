"""Feature files: written as a superset of TRIDENT's HDF5, read in every dialect one meets.

A dialect is recognised by its keys, never by its folder: `feats` is STAMP (coordinates in um), `features` with
`patch_size_level0` on `coords` is TRIDENT, `features` alone is CLAM, a bare tensor in a .pt file is CLAM's other form.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core.errors import FeatureError
from helpers.slides.tilefile import TileTable, describe_coords, pack_table, read_qc, to_plain, write_h5

FORMAT = "histobook-features-1"
Dialect = Literal["histobook", "trident", "clam", "stamp", "tensor"]
KNOWN = "'features' (TRIDENT, CLAM, histobook) or 'feats' (STAMP)"


@dataclass(frozen=True, kw_only=True)
class FeatureBag:
    """Features of a slide's tiles, whoever wrote them.

    Attributes
    ----------
    features : ndarray, (n_tiles, d), float32
    coords_l0 : ndarray, (n_tiles, 2), int64, or None
        Upper left corners in level-0 px; None where the file holds none, or holds them in um only.
    qc : DataFrame or None
        Quality columns, n_tiles rows.
    attributes : dict
        Of the file and of its coordinates, plain values; the string 'None' is None.
    dialect : str
        histobook, trident, clam, stamp or tensor.
    coords_um : ndarray, (n_tiles, 2), float64, or None
        Upper left corners in um (STAMP).
    columns : tuple of str
        Names of the features, where they have any.
    """

    features: NDArray[np.float32]
    coords_l0: NDArray[np.int64] | None
    qc: pd.DataFrame | None
    attributes: dict[str, Any]
    dialect: Dialect
    coords_um: NDArray[np.float64] | None = None
    columns: tuple[str, ...] = field(default=())


def write_features(
    path: Path,
    features: NDArray[np.float32],
    table: TileTable,
    *,
    attributes: dict[str, Any],
    columns: tuple[str, ...] = (),
) -> Path:
    """Write the features of a slide's tiles beside everything its tile file says.

    Parameters
    ----------
    path : Path
    features : ndarray, (n_tiles, d), float32 or float16
        In the order of `table`.
    table : TileTable
    attributes : dict
        Encoder, weights, precision, key: plain values, on `features`.
    columns : tuple of str
        Names of the features, where they have any.

    Returns
    -------
    Path

    Raises
    ------
    FeatureError
        When rows do not fit the tiles, or a feature is not finite.
    """
    _check_features(features, table, path)
    named = {"feature_names": np.array(columns, dtype=h5py.string_dtype())} if columns else {}
    tiles = {f"tiles_{name}" if name in {"key", "versions", "spec_hash"} else name: value
             for name, value in table.attributes.items()}  # fmt: skip
    return write_h5(
        path,
        {"features": features, **pack_table(table), **named},
        {
            "/": {"format": FORMAT, **tiles, **attributes},
            "features": {"name": table.slide_id, "savetodir": "."},
            "coords": describe_coords(table),
        },
    )


def _check_features(features: NDArray[np.float32], table: TileTable, path: Path) -> None:
    if features.ndim != 2 or len(features) != len(table.coords_l0):
        msg = (
            f"FeatureError: '{path.name}' would get features of shape {features.shape} for {len(table.coords_l0)} "
            "tiles, expected one row per tile. Encode the tiles of this very tile file."
        )
        raise FeatureError(msg)
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        msg = (
            f"FeatureError: '{path.name}' has {int(bad.sum())} tiles with features that are not finite, first in row "
            f"{int(np.argmax(bad))}. Use stored_as: float32, or another precision of the encoder."
        )
        raise FeatureError(msg)


def read_features(path: str | Path) -> FeatureBag:
    """Read a feature file of any known dialect.

    Parameters
    ----------
    path : str or Path
        `.h5` or `.pt`.

    Returns
    -------
    FeatureBag

    Raises
    ------
    FeatureError
        When there is no such file, it cannot be read, or its content is of no known dialect; the message says what
        was found.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"FeatureError: no feature file at '{path}'. Run chapter 02, or mend features_path in the slide table."
        raise FeatureError(msg)
    if path.suffix == ".pt":
        return _read_tensor(path)
    try:
        with h5py.File(path, "r") as file:
            return _read_h5(file, path)
    except OSError as error:
        size = path.stat().st_size
        msg = f"FeatureError: '{path.name}' ({size} bytes) is no readable HDF5 file: {error}. Write it again."
        raise FeatureError(msg) from None


def _read_h5(file: h5py.File, path: Path) -> FeatureBag:
    if "feats" in file:
        return _read_stamp(file, path)
    if "features" not in file:
        found = ", ".join(f"{name} {getattr(file[name], 'shape', '(group)')}" for name in sorted(file)) or "nothing"
        msg = f"FeatureError: '{path.name}' holds {found}; expected {KNOWN}. Give the file of features, not of tiles."
        raise FeatureError(msg)
    features = _to_matrix(file["features"][()], path)
    coords = _read_coords(file, len(features), path)
    on_coords = _plain_attributes(file["coords"].attrs) if "coords" in file else {}
    dialect: Dialect = "clam"
    if str(file.attrs.get("format", "")) == FORMAT:
        dialect = "histobook"
    elif "patch_size_level0" in on_coords:
        dialect = "trident"
    return FeatureBag(
        features=features,
        coords_l0=None if coords is None else np.rint(coords).astype(np.int64),
        qc=read_qc(file) if "qc" in file else None,
        attributes={**on_coords, **_plain_attributes(file.attrs)},
        dialect=dialect,
        columns=tuple(to_plain(name) for name in file["feature_names"][()]) if "feature_names" in file else (),
    )


def _read_stamp(file: h5py.File, path: Path) -> FeatureBag:
    features = _to_matrix(file["feats"][()], path)
    attributes = _plain_attributes(file.attrs)
    coords = _read_coords(file, len(features), path)
    unit = str(attributes.get("unit", "um"))
    if coords is not None and unit != "um":
        msg = f"FeatureError: '{path.name}' (STAMP) states coordinates in '{unit}', expected 'um'. Convert it first."
        raise FeatureError(msg)
    um = None if coords is None else coords.astype(np.float64)
    return FeatureBag(features=features, coords_l0=None, qc=None, attributes=attributes, dialect="stamp", coords_um=um)


def _read_coords(file: h5py.File, n_rows: int, path: Path) -> NDArray[Any] | None:
    if "coords" not in file:
        return None
    coords = np.asarray(file["coords"][()])
    if coords.ndim == 3 and coords.shape[0] == 1:
        coords = coords[0]
    if coords.shape != (n_rows, 2):
        msg = (
            f"FeatureError: '{path.name}' has coordinates of shape {coords.shape} for {n_rows} rows of features, "
            f"expected ({n_rows}, 2). The file mixes two runs; write it again."
        )
        raise FeatureError(msg)
    return coords


def _read_tensor(path: Path) -> FeatureBag:
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        msg = (
            f"FeatureError: '{path.name}' ({path.stat().st_size} bytes) cannot be read as a plain tensor: {reason}. "
            "Pickled code is never run; save the bare tensor again."
        )
        raise FeatureError(msg) from None
    if not isinstance(found, torch.Tensor):
        held = f"a {type(found).__name__}" + (
            f" with keys {sorted(map(str, found))}" if isinstance(found, dict) else ""
        )
        msg = (
            f"FeatureError: '{path.name}' holds {held}, expected one bare tensor (n_tiles, d). Save the features alone."
        )
        raise FeatureError(msg)
    features = _to_matrix(found.float().numpy(), path)
    return FeatureBag(features=features, coords_l0=None, qc=None, attributes={}, dialect="tensor")


def _to_matrix(values: Any, path: Path) -> NDArray[np.float32]:
    """Drop a leading axis of one, and refuse what is not one finite row of numbers per tile."""
    array = np.asarray(values)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or 0 in array.shape or not np.issubdtype(array.dtype, np.number):
        msg = (
            f"FeatureError: '{path.name}' holds features of shape {array.shape} and type {array.dtype}, expected "
            "numbers of shape (n_tiles, d) with at least one tile. Leave the slide out, or extract it again."
        )
        raise FeatureError(msg)
    matrix = array.astype(np.float32)
    if not np.isfinite(matrix).all():
        rows = int((~np.isfinite(matrix).all(axis=1)).sum())
        msg = f"FeatureError: '{path.name}' has {rows} of {len(matrix)} tiles that are not finite. Extract it again."
        raise FeatureError(msg)
    return matrix


def _plain_attributes(attributes: Any) -> dict[str, Any]:
    plain = {name: to_plain(value) for name, value in attributes.items()}
    return {name: None if value == "None" else value for name, value in plain.items()}
