"""What each tool's feature files say, and how a slide's tiles are said in them: CLAM, STAMP, TRIDENT, SurvPath, ours.

Features stay the numbers they are. What changes is the frame of the coordinates, and frames are never guessed: px of
level 0 become um, and um become px, by a resolution that the file states or the caller gives. What a dialect cannot
say is left out and named in a remark.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import FeatureError
from helpers.features.store import FORMAT, FeatureBag
from helpers.slides.tilefile import MAGNIFICATIONS, UM_AT_1X, write_h5

TARGETS = ("clam", "stamp", "trident", "survpath", "histobook")
STAMP_LAYOUT = "2.1.0"
"""The first STAMP whose files look like this; an older one says by itself that it must be updated."""
SURVPATH_STRIPS = ".sv"
"""SurvPath looks for a slide's bag under its id without the letters of '.svs' at the end, whichever they are."""
MPP_TOLERANCE = 1e-3

Files = dict[str, Callable[[Path], Any]]
"""What writes a file, by the file's name inside the folder of the conversion."""
Plan = tuple[Files, list[str]]
"""Files to write, and what the dialect cannot say of this slide."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One slide to write.

    Attributes
    ----------
    slide_id : str
    encoder : str or None
        Name to write in place of the one that the file states.
    key : str
        Of the file that is converted and all that decides what becomes of it.
    """

    slide_id: str
    encoder: str | None
    key: str


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the tiles of a slide lie and how large they are, as far as file and caller say.

    Attributes
    ----------
    coords_l0 : ndarray, (n_tiles, 2), int64, or None
        Upper left corners, level-0 px.
    coords_um : ndarray, (n_tiles, 2), float64, or None
        Upper left corners, um.
    mpp : tuple of 2 floats, or None
        Resolution of level 0 along x and y, um per px.
    edge_l0 : tuple of 2 floats, or None
        Width and height of a tile, level-0 px.
    tile_um : float or None
        Width of a tile.
    tile_px : int or None
        Edge of a tile as the encoder got it.
    overlap_px : int
    size_l0 : tuple of 2 ints, or None
        Width and height of the slide, level-0 px.
    """

    coords_l0: NDArray[np.int64] | None
    coords_um: NDArray[np.float64] | None
    mpp: tuple[float, float] | None
    edge_l0: tuple[float, float] | None
    tile_um: float | None
    tile_px: int | None
    overlap_px: int
    size_l0: tuple[int, int] | None


def place_tiles(bag: FeatureBag, *, slide_id: str, mpp: float | None = None) -> Placement:
    """Say where tiles lie in px of level 0 and in um, from what a file states and a resolution that is given.

    um are counted as STAMP counts them: level-0 px times the resolution along x, on both axes.

    Parameters
    ----------
    bag : FeatureBag
    slide_id : str
        For messages.
    mpp : float, optional
        Resolution of the slide's level 0, um per px.

    Returns
    -------
    Placement

    Raises
    ------
    FeatureError
        When the given resolution contradicts the one that the file states.
    """
    resolution = _settle_mpp(bag.attributes, mpp, slide_id)
    edge, tile_um = _read_edge(bag.attributes), _read_number(bag.attributes, "tile_size_um")
    coords, um = bag.coords_l0, bag.coords_um
    if resolution is not None:
        if um is not None:
            coords = np.rint(um / resolution[0]).astype(np.int64)
        elif coords is not None:
            um = coords.astype(np.float64) * resolution[0]
        if edge is None and tile_um is not None:
            edge = (float(round(tile_um / resolution[0])),) * 2
        elif edge is not None:
            tile_um = edge[0] * resolution[0]
    size = [_read_number(bag.attributes, name) for name in ("level0_width", "level0_height")]
    tile_px = _read_number(bag.attributes, "patch_size", "tile_size_px")
    return Placement(
        coords_l0=coords,
        coords_um=um,
        mpp=resolution,
        edge_l0=edge,
        tile_um=tile_um,
        tile_px=None if tile_px is None else round(tile_px),
        overlap_px=round(_read_number(bag.attributes, "overlap") or 0),
        size_l0=None if None in size else (round(size[0] or 0), round(size[1] or 0)),
    )


def _read_number(attributes: Mapping[str, Any], *names: str) -> float | None:
    """Return the first of some attributes that is a number; lists of one value per axis count by their first."""
    for name in names:
        value = attributes.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int | float) and np.isfinite(value):
            return float(value)
    return None


def _settle_mpp(attributes: Mapping[str, Any], given: float | None, slide_id: str) -> tuple[float, float] | None:
    names = ("mpp_x", "level0_mpp", *(("mpp",) if attributes.get("patch_level") == 0 else ()))
    along_x = _read_number(attributes, *names)  # a bare mpp may be the tiles': it counts where they are of level 0
    if along_x is None:
        return None if given is None else (given, given)
    along_y = _read_number(attributes, "mpp_y")
    if given is not None and abs(given / along_x - 1) > MPP_TOLERANCE:
        msg = (
            f"FeatureError: slide '{slide_id}' states {along_x:g} um per px, and {given:g} is given. The number is the "
            "resolution of level 0, not of the tiles; leave it out where files state theirs."
        )
        raise FeatureError(msg)
    return along_x, along_x if along_y is None else along_y


def _read_edge(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    width = _read_number(attributes, "patch_size_level0")
    if width is not None:
        return width, _read_number(attributes, "patch_height_level0") or width
    size, downsample = _read_number(attributes, "patch_size"), _read_number(attributes, "downsample")
    if downsample is None and attributes.get("patch_level") == 0:
        downsample = 1.0
    if size is None or downsample is None:
        return None
    edge = size * downsample * (_read_number(attributes, "custom_downsample") or 1.0)
    return edge, edge


def _need_pixels(place: Placement, *, slide_id: str, target: str) -> NDArray[np.int64]:
    if place.coords_l0 is not None:
        return place.coords_l0
    if place.coords_um is not None:
        msg = (
            f"FeatureError: slide '{slide_id}' has its tiles in um; {target} wants px of level 0. Give the resolution "
            "of level 0: --mpp, or a column mpp in the table of --slides."
        )
        raise FeatureError(msg)
    msg = (
        f"FeatureError: slide '{slide_id}' states no coordinates, which {target} wants. Give --patches, the folder of "
        "CLAM's or TRIDENT's coordinates, or convert to survpath, which wants none."
    )
    raise FeatureError(msg)


def _need_um(place: Placement, *, slide_id: str) -> tuple[NDArray[np.float64], float]:
    if place.coords_um is None and place.coords_l0 is not None:
        msg = (
            f"FeatureError: slide '{slide_id}' has its tiles in px of level 0 and states no resolution; stamp wants "
            "um. Give the resolution of level 0: --mpp, or a column mpp in the table of --slides."
        )
        raise FeatureError(msg)
    if place.coords_um is None:
        _need_pixels(place, slide_id=slide_id, target="stamp")
    if place.coords_um is None or place.tile_um is None:
        msg = (
            f"FeatureError: slide '{slide_id}' states no size of its tiles, without which STAMP reads no file. Give "
            "--patches, the folder of CLAM's coordinates, which state it."
        )
        raise FeatureError(msg)
    return place.coords_um, place.tile_um


def save_tensor(features: NDArray[np.float32], path: Path) -> Path:
    """Save features as a bare tensor, the same bytes each time.

    Parameters
    ----------
    features : ndarray, (n_tiles, d), float32
    path : Path

    Returns
    -------
    Path
    """
    import torch

    buffer = io.BytesIO()  # torch writes the file's name into the file
    torch.save(torch.from_numpy(np.ascontiguousarray(features)), buffer)
    path.write_bytes(buffer.getvalue())
    return path


def shrink(features: NDArray[np.float32]) -> NDArray[Any]:
    """Return features as float16 where that changes none of them.

    Parameters
    ----------
    features : ndarray, (n_tiles, d), float32

    Returns
    -------
    ndarray, (n_tiles, d), float16 or float32
    """
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), features) else features


def _plan_clam(bag: FeatureBag, place: Placement, job: Job) -> Plan:
    files: Files = {f"pt_files/{job.slide_id}.pt": lambda path: save_tensor(bag.features, path)}
    if place.coords_l0 is None and place.coords_um is None:
        return files, ["no coordinates are stated: pt_files only"]
    coords = _need_pixels(place, slide_id=job.slide_id, target="clam")
    rows = {"features": bag.features, "coords": coords.astype(np.int32)}
    files[f"h5_files/{job.slide_id}.h5"] = lambda path: write_h5(path, rows, {})
    edge = place.edge_l0
    if edge is None:
        return files, ["no size of the tiles is stated: no file in patches"]
    if edge[0] != edge[1] or edge[0] != round(edge[0]):
        return files, [f"tiles of {edge[0]:g} x {edge[1]:g} px are not CLAM's whole squares: no file in patches"]
    stated: dict[str, Any] = {"patch_size": round(edge[0]), "patch_level": 0, "downsample": (1.0, 1.0)}
    if place.size_l0 is not None:
        stated |= {"level_dim": place.size_l0, "downsampled_level_dim": place.size_l0}
    stated |= {"name": job.slide_id, "save_path": "."}
    files[f"patches/{job.slide_id}.h5"] = lambda path: write_h5(path, {"coords": coords}, {"coords": stated})
    return files, []


def _plan_stamp(bag: FeatureBag, place: Placement, job: Job) -> Plan:
    um, tile_um = _need_um(place, slide_id=job.slide_id)
    name = _describe_encoder(bag, job).get("encoder")
    stated: dict[str, Any] = {
        "stamp_version": STAMP_LAYOUT,
        "extractor": name or "unknown",
        "unit": "um",
        "tile_size_um": tile_um,
        "feat_type": "tile",
        "written_by": "histobook",
    }
    code = bag.attributes.get("code_hash") or str(bag.attributes.get("key", ""))[:8]
    stated |= {"code_hash": code} if code else {}
    stated |= {} if place.tile_px is None else {"tile_size_px": place.tile_px}
    rows = {"feats": shrink(bag.features), "coords": um.astype(np.float32)}
    remarks = [] if name else ["no encoder is stated: extractor is 'unknown' (--encoder names it)"]
    remarks += [] if place.tile_px else ["no px of the tiles are stated: no tile_size_px"]
    if place.mpp is not None and place.mpp[0] != place.mpp[1]:
        remarks.append(f"{place.mpp[0]:g} um per px along x is used for y too ({place.mpp[1]:g}), as STAMP does")
    return {f"{job.slide_id}.h5": lambda path: write_h5(path, rows, {"/": stated})}, remarks


def _describe_for_trident(bag: FeatureBag, place: Placement, slide_id: str) -> tuple[dict[str, Any], list[str]]:
    edge, remarks = place.edge_l0, []
    if edge is not None and edge[0] != edge[1]:
        remarks.append(f"tiles are {edge[0]:g} x {edge[1]:g} px: patch_size_level0 is their width")
    if edge is not None and edge[0] != round(edge[0]):
        remarks.append(f"patch_size_level0 is {edge[0]:g} px, rounded")
    if edge is None or place.tile_px is None:
        remarks.append("no size of the tiles is stated: patch_size or patch_size_level0 is 'None'")
    width, height = place.size_l0 or (None, None)
    stated = {
        "patch_size": place.tile_px,
        "patch_size_level0": None if edge is None else round(edge[0]),
        "level0_magnification": bag.attributes.get("level0_magnification") or _name_magnification(place, level_0=True),
        "target_magnification": bag.attributes.get("target_magnification") or _name_magnification(place, level_0=False),
        "overlap": place.overlap_px,
        "name": slide_id,
        "savetodir": ".",
        "level0_width": width,
        "level0_height": height,
    }
    return {key: "None" if value is None else value for key, value in stated.items()}, remarks


def _name_magnification(place: Placement, *, level_0: bool) -> float | None:
    mpp = None if place.mpp is None else place.mpp[0]
    if not level_0:
        mpp = None if place.tile_um is None or not place.tile_px else place.tile_um / place.tile_px
    if mpp is None:
        return None
    return float(min(MAGNIFICATIONS, key=lambda name: abs(np.log(UM_AT_1X / mpp / name))))


def _plan_trident(bag: FeatureBag, place: Placement, job: Job) -> Plan:
    rows = {"features": bag.features, "coords": _need_pixels(place, slide_id=job.slide_id, target="trident")}
    on_coords, remarks = _describe_for_trident(bag, place, job.slide_id)
    stated = {"features": {"name": job.slide_id, "savetodir": "."}, "coords": on_coords}
    return {f"{job.slide_id}.h5": lambda path: write_h5(path, rows, stated)}, remarks


def _plan_histobook(bag: FeatureBag, place: Placement, job: Job) -> Plan:
    if bag.dialect == "histobook":
        msg = f"FeatureError: slide '{job.slide_id}' is in histobook's own form already. Copy the file as it is."
        raise FeatureError(msg)
    features = shrink(bag.features)
    rows = {"features": features, "coords": _need_pixels(place, slide_id=job.slide_id, target="histobook")}
    on_coords, remarks = _describe_for_trident(bag, place, job.slide_id)
    stated = {
        "/": {
            "format": FORMAT,
            "converted_from": bag.dialect,
            "dimension": features.shape[1],
            "stored_as": str(features.dtype),
            "key": job.key,
            **_describe_resolution(bag, place),
            **_describe_encoder(bag, job),
        },
        "features": {"name": job.slide_id, "savetodir": "."},
        "coords": {key: value for key, value in on_coords.items() if value != "None"},
    }
    if place.edge_l0 is not None:
        stated["coords"]["patch_height_level0"] = round(place.edge_l0[1])
    remarks.append("no quality columns: every tile counts as tissue")
    return {f"{job.slide_id}.h5": lambda path: write_h5(path, rows, stated)}, remarks


def _describe_resolution(bag: FeatureBag, place: Placement) -> dict[str, Any]:
    if place.mpp is None:
        return {}
    source = "given" if _settle_mpp(bag.attributes, None, "") is None else f"{bag.dialect} file"
    stated = {"mpp_x": place.mpp[0], "mpp_y": place.mpp[1], "mpp_source": source}
    return stated | ({"mpp_effective": place.tile_um / place.tile_px} if place.tile_um and place.tile_px else {})


def _describe_encoder(bag: FeatureBag, job: Job) -> dict[str, str]:
    name = job.encoder or bag.attributes.get("encoder") or bag.attributes.get("extractor")
    return {} if name is None else {"encoder": str(name)}


def _plan_survpath(bag: FeatureBag, place: Placement, job: Job) -> Plan:
    name = name_bag(job.slide_id)
    remarks = [] if name == job.slide_id else [f"SurvPath looks for it as '{name}.pt'"]
    return {f"pt_files/{name}.pt": lambda path: save_tensor(bag.features, path)}, remarks


PLANS: dict[str, Callable[[FeatureBag, Placement, Job], Plan]] = {
    "clam": _plan_clam,
    "stamp": _plan_stamp,
    "trident": _plan_trident,
    "survpath": _plan_survpath,
    "histobook": _plan_histobook,
}


def name_bag(slide_id: str) -> str:
    """Return the name under which SurvPath looks for a slide's bag.

    Parameters
    ----------
    slide_id : str

    Returns
    -------
    str
    """
    return slide_id.rstrip(SURVPATH_STRIPS)


def plan_slide(bag: FeatureBag, job: Job, *, to: str, mpp: float | None = None) -> Plan:
    """Say which files a slide becomes, and what they cannot say.

    Parameters
    ----------
    bag : FeatureBag
    job : Job
    to : str
        One of `TARGETS`.
    mpp : float, optional
        Resolution of the slide's level 0, um per px.

    Returns
    -------
    files : dict of str to callable
        Name inside the folder, and what writes it to a path.
    remarks : list of str

    Raises
    ------
    FeatureError
        When the dialect wants coordinates, a resolution or a size that neither file nor caller states.
    """
    return PLANS[to](bag, place_tiles(bag, slide_id=job.slide_id, mpp=mpp), job)
