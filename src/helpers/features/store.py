"""Feature files: written as a superset of TRIDENT's HDF5, read in every dialect one meets.

A dialect is recognised by its keys, never by its folder: `feats` is STAMP (coordinates in um), `features` with
`patch_size_level0` on `coords` is TRIDENT, `features` alone is CLAM, a bare tensor in a .pt file is CLAM's other form.
CLAM says how large a tile is in another file, `patches/<id>.h5`, which is read along where it lies beside the features.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core.errors import FeatureError
from helpers.slides.tilefile import TileTable, describe_coords, pack_table, read_qc, to_plain, write_h5

FORMAT = "histobook-features-1"
Dialect = Literal["histobook", "trident", "clam", "stamp", "tensor"]
KNOWN = "'features' (TRIDENT, CLAM, histobook) or 'feats' (STAMP)"
STAMP_1_TILE = (224, 256.0)
"""Tiles of STAMP 1, which states no unit: coordinates in px of tiles of 224 px that are 256 um wide."""
IDENTITY: Final = ("encoder", "encoder_version", "weights_sha256", "precision")
"""What decides an encoder's numbers, by the names that a feature file uses."""


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
        Of the file and of its coordinates, plain values; the string 'None' is None. Of CLAM's `patches/<id>.h5` too,
        where there is one; `patches_file` then names it.
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


def join_identities(stated: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name encoders whose features stand side by side: each fact of one after the other, with a plus between.

    Parameters
    ----------
    stated : sequence of mapping
        Identities of encoders, or attributes of feature files.

    Returns
    -------
    dict of str to str
        `IDENTITY`, without a fact that one of them does not state.
    """
    return {
        name: "+".join(str(facts[name]) for facts in stated)
        for name in IDENTITY
        if all(facts.get(name) is not None for facts in stated)
    }


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


def read_features(path: str | Path, *, patches: str | Path | None = None) -> FeatureBag:
    """Read a feature file of any known dialect.

    Parameters
    ----------
    path : str or Path
        `.h5` or `.pt`.
    patches : str or Path, optional
        Folder of CLAM's `<id>.h5` or TRIDENT's `<id>_patches.h5`, which state tile sizes and, for a bare tensor, the
        coordinates of its rows. CLAM's are also found in a folder `patches` beside the file or one or two above; a
        bare tensor gets coordinates only where the folder is named here.

    Returns
    -------
    FeatureBag

    Raises
    ------
    FeatureError
        When there is no such file, it cannot be read, its content is of no known dialect, or the file of its patches
        is about other tiles; the message says what was found.

    References
    ----------
    What CLAM, TRIDENT and STAMP (1, 2.0, and 2.1 on) write: their sources on GitHub, as of 2025.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"FeatureError: no feature file at '{path}'. Run chapter 02, or mend features_path in the slide table."
        raise FeatureError(msg)
    if path.suffix == ".pt":
        bag = _read_tensor(path)
    else:
        with _open_h5(path) as file:
            bag = _read_h5(file, path)
    if bag.dialect == "clam" or (bag.dialect == "tensor" and patches is not None):
        return _add_patches(bag, path, patches)
    return bag


@contextmanager
def _open_h5(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        size = path.stat().st_size
        msg = f"FeatureError: '{path.name}' ({size} bytes) is no readable HDF5 file: {error}. Write it again."
        raise FeatureError(msg) from None


def find_patches(path: Path, folder: str | Path | None = None) -> Path | None:
    """Find the file that states where and how large the tiles of a CLAM file are.

    Parameters
    ----------
    path : Path
        Of the features.
    folder : str or Path, optional
        Where to look; `patches` beside the file, or one or two folders above, otherwise.

    Returns
    -------
    Path or None
        `<id>.h5` (CLAM) or `<id>_patches.h5` (TRIDENT).

    Raises
    ------
    FeatureError
        When the folder is named and holds neither.
    """
    folders = [Path(folder)] if folder is not None else [above / "patches" for above in list(path.parents)[:3]]
    for place in folders:
        for name in (f"{path.stem}.h5", f"{path.stem}_patches.h5"):
            if (place / name).is_file() and (place / name) != path:
                return place / name
    if folder is not None:
        msg = (
            f"FeatureError: no '{path.stem}.h5' or '{path.stem}_patches.h5' in '{folder}'. Name the folder of patches."
        )
        raise FeatureError(msg)
    return None


def _add_patches(bag: FeatureBag, path: Path, folder: str | Path | None) -> FeatureBag:
    found = find_patches(path, folder)
    if found is None:
        return bag
    with _open_h5(found) as file:
        coords, factor, stated = _read_patches(file, len(bag.features), found)
    if bag.coords_l0 is not None and not np.array_equal(bag.coords_l0, np.rint(coords)):
        msg = (
            f"FeatureError: '{path.name}' and 'patches/{found.name}' hold different coordinates. They stem from two "
            "runs; name the folder of the patches that belong to these features, or move the stray one away."
        )
        raise FeatureError(msg)
    attributes = {**stated, **bag.attributes, "patches_file": found.name}
    return replace(bag, coords_l0=_to_pixels(coords * factor), attributes=attributes)


def _read_patches(file: h5py.File, n_rows: int, path: Path) -> tuple[NDArray[Any], NDArray[np.float64], dict[str, Any]]:
    """Return coordinates, level-0 px per unit of them, and what the file states about its tiles."""
    coords = _read_coords(file, n_rows, path)
    if coords is None:
        msg = f"FeatureError: 'patches/{path.name}' holds {sorted(file)}, expected 'coords'. Make the patches again."
        raise FeatureError(msg)
    if "imgs" not in file:
        return coords, np.ones(2), _plain_attributes(file["coords"].attrs)
    stated = _plain_attributes(file["imgs"].attrs)  # CLAM's create_patches.py: coordinates in px of the images inside
    level = np.asarray(stated["level_dim"], float)
    shrunk = np.asarray(stated.get("downsampled_level_dim", stated["level_dim"]), float)
    factor = np.broadcast_to(np.asarray(stated["downsample"], float), 2) * np.rint(level / shrunk)
    size = int(file["imgs"].shape[1])
    return coords, factor, {**stated, "patch_size": size, "patch_size_level0": float(size * factor[0])}


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
        coords_l0=_to_pixels(coords),
        qc=read_qc(file) if "qc" in file else None,
        attributes={**on_coords, **_plain_attributes(file.attrs)},
        dialect=dialect,
        columns=tuple(to_plain(name) for name in file["feature_names"][()]) if "feature_names" in file else (),
    )


def _read_stamp(file: h5py.File, path: Path) -> FeatureBag:
    attributes = _plain_attributes(file.attrs)
    kind = attributes.get("feat_type") or "tile"
    if kind != "tile":
        msg = (
            f"FeatureError: '{path.name}' (STAMP) holds features of a whole {kind}, expected one row per tile. Give "
            "the folder that `stamp preprocess` wrote."
        )
        raise FeatureError(msg)
    features = _to_matrix(file["feats"][()], path)
    coords = _read_coords(file, len(features), path)
    um = None
    if coords is not None:
        scale, stated = _read_stamp_unit(attributes, coords, path)
        um, attributes = coords.astype(np.float64) * scale, {**attributes, **stated}
    return FeatureBag(features=features, coords_l0=None, qc=None, attributes=attributes, dialect="stamp", coords_um=um)


def _read_stamp_unit(
    attributes: dict[str, Any], coords: NDArray[Any], path: Path
) -> tuple[float, dict[str, float | int]]:
    """Return um per unit of STAMP's coordinates, and what its version leaves unsaid about the size of a tile."""
    unit, tile_um, tile = (attributes.get(name) for name in ("unit", "tile_size_um", "tile_size"))
    if unit not in (None, "um"):
        msg = f"FeatureError: '{path.name}' (STAMP) states coordinates in '{unit}', expected 'um'. Convert it first."
        raise FeatureError(msg)
    if tile_um is not None or unit == "um":  # 2.1 on: tile_size_um; 2.0: tile_size with its unit
        size = tile if tile_um is None else tile_um
        return 1.0, {} if size is None else {"tile_size_um": float(size)}
    stride = float(tile) if tile is not None else _find_stride(coords)
    if round(stride) == STAMP_1_TILE[0]:
        pixels, microns = STAMP_1_TILE
        return microns / pixels, {"tile_size_um": microns, "tile_size_px": pixels}
    msg = (
        f"FeatureError: '{path.name}' (STAMP) states no unit of its coordinates, and its tiles are {stride:g} apart; "
        f"only tiles of {STAMP_1_TILE[0]} px (STAMP 1) say what that means. Run `stamp preprocess` again."
    )
    raise FeatureError(msg)


def _find_stride(coords: NDArray[Any]) -> float:
    """Return the smallest step between columns or rows of tiles; 0 where there is only one tile."""
    steps = [np.diff(np.unique(coords[:, axis])) for axis in (0, 1)]
    return min((float(step.min()) for step in steps if len(step)), default=0.0)


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
    if not np.isfinite(coords).all():
        rows = int((~np.isfinite(coords).all(axis=1)).sum())
        msg = f"FeatureError: '{path.name}' has {rows} of {n_rows} tiles without finite coordinates. Extract it again."
        raise FeatureError(msg)
    return coords


def _to_pixels(coords: NDArray[Any] | None) -> NDArray[np.int64] | None:
    return None if coords is None else np.rint(coords).astype(np.int64)


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
    features = _to_matrix(found.detach().float().numpy(), path)
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
