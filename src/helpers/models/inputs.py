"""What a model of chapter 03 reads: feature files, the tiles that pass, and the targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.cohort.genes import ScoreMethod, read_signature, score_signature
from helpers.cohort.tables import NO_SITE, label_sites
from helpers.core import paths
from helpers.core.errors import FeatureError
from helpers.features.store import FeatureBag, join_identities, read_features
from helpers.models.linear import Measure
from helpers.models.pooling import ReadTiles

SUFFIXES = (".h5", ".pt")


def find_feature_files(
    slides: pd.DataFrame, *, features_dir: str | Path | None = None, encoder_dir: Path | None = None
) -> pd.DataFrame:
    """Find the feature file of every slide.

    Parameters
    ----------
    slides : DataFrame
        slide_id, case_id and, where features came with the cohort, features_path.
    features_dir : str or Path, optional
        Folder of `<slide_id>.h5` or `.pt` files that somebody else wrote; it wins over everything.
    encoder_dir : Path, optional
        Folder of chapter 02 for one encoder, or for several that are to be joined, 'a+b'; read where neither of the
        others is given.

    Returns
    -------
    DataFrame
        slide_id, case_id, features_file (None where there is none; a tuple where encoders are joined), origin
        (features_dir, cohort, chapter 02).

    Raises
    ------
    FeatureError
        When a folder is missing, or no slide at all has features.
    """
    stored = slides["features_path"] if "features_path" in slides else pd.Series(None, index=slides.index, dtype=object)
    folder = paths.resolve(features_dir) if features_dir is not None else encoder_dir
    if features_dir is None and stored.notna().any():
        files: list[Any] = [None if pd.isna(name) else paths.resolve(name) for name in stored]
        origin = "cohort"
    elif folder is not None:
        folders = [folder] if features_dir is not None else [folder.with_name(name) for name in folder.name.split("+")]
        files = [_find_files(folders, slide_id) for slide_id in slides["slide_id"]]
        origin = "chapter 02" if features_dir is None else "features_dir"
    else:
        msg = "FeatureError: the slides name no stored features, and neither features_dir nor chapter 02 is given."
        raise FeatureError(msg)
    if not any(file is not None for file in files):
        held = sorted(path.name for path in folder.iterdir()) if folder is not None and folder.is_dir() else []
        msg = (
            f"FeatureError: none of the {len(slides)} slides has a feature file in '{folder}', first looked for "
            f"'{slides['slide_id'].iloc[0]}.h5'; it holds {', '.join(held[:4]) or 'nothing'}"
            f"{f' and {len(held) - 4} more' if len(held) > 4 else ''}. Name the files by slide_id."
        )
        raise FeatureError(msg)
    found = slides[["slide_id", "case_id"]].reset_index(drop=True)
    return found.assign(features_file=pd.Series(files, dtype=object), origin=origin)


def _find_files(folders: Sequence[Path], slide_id: str) -> Path | tuple[Path, ...] | None:
    found = [_find_file(folder, slide_id) for folder in folders]
    if len(found) == 1:
        return found[0]
    return None if None in found else tuple(path for path in found if path is not None)


def _find_file(folder: Path, slide_id: str) -> Path | None:
    if not folder.is_dir():
        near = sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
        msg = (
            f"FeatureError: there is no feature folder '{folder.name}' in '{folder.parent}'; it holds "
            f"{', '.join(near) or 'no folder'}. Name one of them, or extract these features in chapter 02."
        )
        raise FeatureError(msg)
    return next(
        (folder / f"{slide_id}{suffix}" for suffix in SUFFIXES if (folder / f"{slide_id}{suffix}").is_file()), None
    )


TILE_FILTERS: Final = (
    "min_tissue_fraction", "min_sharpness", "max_pen_fraction", "max_thick_fraction", "max_grey_fraction",
)  # fmt: skip
"""Options of `select_tiles`, as the specs of chapters that read tiles call them."""


def select_tiles(
    bag: FeatureBag,
    *,
    min_tissue_fraction: float = 0.5,
    min_sharpness: float = 0.6,
    max_pen_fraction: float = 0.05,
    max_thick_fraction: float = 0.3,
    max_grey_fraction: float = 0.3,
) -> np.ndarray:
    """Say which tiles pass the filters.

    Parameters
    ----------
    bag : FeatureBag
        Without quality columns (features of others) every tile passes.
    min_tissue_fraction : float
        Share of the tile inside the tissue mask.
    min_sharpness : float
        Sharpness relative to the slide's median over tiles with enough tissue, since scanners differ; 0 passes all.
    max_pen_fraction : float
        Share of pixels in the colour of any marker ink.
    max_thick_fraction, max_grey_fraction : float
        Share of the tile that is folded, or darkened without colour (rim of an air bubble, dust).

    Returns
    -------
    ndarray, (n_tiles,), bool

    Raises
    ------
    FeatureError
        When the quality columns lack one that is filtered by.
    """
    if bag.qc is None:
        return np.ones(len(bag.features), bool)
    pen = [name for name in bag.qc.columns if name.startswith("pen_")]
    needed = ("tissue_fraction", "sharpness", "thick_fraction", "grey_fraction")
    missing = [name for name in needed if name not in bag.qc.columns]
    if missing:
        msg = f"FeatureError: the tiles carry no {', '.join(missing)}; found {', '.join(bag.qc)}. Tile again."
        raise FeatureError(msg)
    tissue = bag.qc["tissue_fraction"] >= min_tissue_fraction
    typical = bag.qc.loc[tissue, "sharpness"].median() if tissue.any() else 0.0
    passed = (
        tissue
        & (bag.qc["sharpness"] >= min_sharpness * typical)
        & (bag.qc[pen].sum(axis=1) <= max_pen_fraction)
        & (bag.qc["thick_fraction"] <= max_thick_fraction)
        & (bag.qc["grey_fraction"] <= max_grey_fraction)
    )
    return passed.to_numpy(bool)


KeepTiles = Callable[[str, FeatureBag], np.ndarray]
"""A slide id and its tiles to which of them to keep, (n_tiles,), bool."""


def make_reader(files: pd.DataFrame, *, keep: KeepTiles | None = None, **filters: Any) -> ReadTiles:
    """Return the function that reads the tiles of a slide that pass the filters.

    Parameters
    ----------
    files : DataFrame
        slide_id, features_file, from `find_feature_files`.
    keep : callable, optional
        A further filter, such as `helpers.models.tumour.make_tumour_filter` returns.
    **filters : Any
        Options of `select_tiles`.

    Returns
    -------
    callable
        Slide id to features, (n_tiles, d); none where the slide has no file.

    Raises
    ------
    FeatureError
        When a file cannot be read.
    """
    read = make_readers(files, {"kept": keep}, **filters)
    return lambda slide_id: read(slide_id)["kept"]


def make_readers(
    files: pd.DataFrame, keeps: Mapping[str, KeepTiles | None], **filters: Any
) -> Callable[[str], dict[str, np.ndarray]]:
    """Return the function that reads a slide once and gives the tiles that pass each of several filters.

    Parameters
    ----------
    files : DataFrame
        slide_id, features_file.
    keeps : mapping of str to callable or None
        Further filters by name; None adds nothing.
    **filters : Any
        Options of `select_tiles`, which come first.

    Returns
    -------
    callable
        Slide id to name to features, (n_tiles, d).

    Raises
    ------
    FeatureError
        When a file cannot be read.
    """
    located = files.dropna(subset="features_file").set_index("slide_id")["features_file"]

    def read_tiles(slide_id: str) -> dict[str, np.ndarray]:
        bag = read_slide(located[slide_id], slide_id)
        chosen = select_tiles(bag, **filters)
        masks = {name: chosen if keep is None else chosen & keep(slide_id, bag) for name, keep in keeps.items()}
        return {name: bag.features[mask] for name, mask in masks.items()}

    return read_tiles


def read_slide(files: Path | Sequence[Path], slide_id: str) -> FeatureBag:
    """Read the features of a slide; those of several encoders are joined tile by tile.

    Parameters
    ----------
    files : Path or sequence of Path
        One file per encoder, of the same tiles.
    slide_id : str
        For messages.

    Returns
    -------
    FeatureBag
        Of the first file, with all features (and identities of encoders) side by side.

    Raises
    ------
    FeatureError
        When the encoders saw different tiles, or files of different content.
    """
    if isinstance(files, Path):
        return read_features(files)
    bags = [read_features(path) for path in files]
    for path, bag in zip(files, bags, strict=True):
        same = len(bag.features) == len(bags[0].features)
        if same and bag.coords_l0 is not None and bags[0].coords_l0 is not None:
            same = np.array_equal(bag.coords_l0, bags[0].coords_l0)
        same = same and bag.attributes.get("slide_fingerprint") == bags[0].attributes.get("slide_fingerprint")
        if not same:
            msg = (
                f"FeatureError: slide '{slide_id}' has {len(bags[0].features)} tiles in '{files[0].parent.name}' and "
                f"{len(bag.features)} in '{path.parent.name}', in other places or of another file. "
                "Extract both from the same tiles."
            )
            raise FeatureError(msg)
    columns = tuple(name for bag in bags for name in bag.columns) if all(bag.columns for bag in bags) else ()
    stated = bags[0].attributes | join_identities([bag.attributes for bag in bags])
    features = np.concatenate([bag.features for bag in bags], axis=1)
    return replace(bags[0], features=features, attributes=stated, columns=columns)


@dataclass(frozen=True)
class TileLocations:
    """Where the tiles of a slide lie, in um.

    Parameters
    ----------
    coords_um : ndarray, (n_tiles, 2), float
        Upper left corners x, y.
    tile_um : float
        Edge of a tile.
    size_um : tuple of two floats, optional
        Width and height of the slide, where the file states them.
    """

    coords_um: np.ndarray
    tile_um: float
    size_um: tuple[float, float] | None


def locate_tiles(bag: FeatureBag) -> TileLocations | None:
    """Say where tiles lie and how large they are.

    Parameters
    ----------
    bag : FeatureBag

    Returns
    -------
    TileLocations or None
        None where the file states no coordinates, or no resolution to turn them into um.
    """
    stated = bag.attributes
    if bag.coords_um is not None and "tile_size_um" in stated:
        return TileLocations(bag.coords_um, float(stated["tile_size_um"]), None)
    if bag.coords_l0 is None or not {"mpp_x", "mpp_y", "patch_size_level0"} <= set(stated):
        return None
    mpp = np.array([stated["mpp_x"], stated["mpp_y"]], float)
    size_um = None
    if {"level0_width", "level0_height"} <= set(stated):
        size_um = (float(stated["level0_width"] * mpp[0]), float(stated["level0_height"] * mpp[1]))
    return TileLocations(bag.coords_l0 * mpp, float(stated["patch_size_level0"] * mpp[0]), size_um)


def name_target(target: str, method: ScoreMethod, declared: ScoreMethod) -> str:
    """Name a target: plain for the declared score method, with the method's name for the others.

    Parameters
    ----------
    target : str
    method, declared : str

    Returns
    -------
    str
        'prolif11' or 'prolif11_pam50'.
    """
    return target if method == declared else f"{target}_{method}"


def make_measure(
    expression: pd.DataFrame, *, targets: Sequence[str], score_method: ScoreMethod, others: Sequence[ScoreMethod] = ()
) -> Measure:
    """Return the function that measures all targets with constants of given training cases.

    Parameters
    ----------
    expression : DataFrame, (n_cases, n_genes)
        log2 values, index case_id.
    targets : sequence of str
        Signatures ('prolif11') or genes ('MKI67').
    score_method : str
        Declared method of the signatures; a single gene is its log2 value under mean_log2.
    others : sequence of str
        Further methods, for signatures only, as targets of their own.

    Returns
    -------
    callable
        Training case ids to a DataFrame, (n_cases, n_targets).
    """
    methods: list[ScoreMethod] = [score_method, *(method for method in others if method != score_method)]

    def measure(training_cases: pd.Index) -> pd.DataFrame:
        columns = {}
        for target in targets:
            if len(read_signature(target)) == 1:
                columns[target] = score_signature(expression, genes=target, method="mean_log2")
                continue
            for method in methods:
                score = score_signature(expression, genes=target, method=method, training_cases=training_cases)
                columns[name_target(target, method, score_method)] = score
        return pd.DataFrame(columns, index=expression.index)

    return measure


def read_groups(cases: pd.DataFrame, site_column: str = "site") -> pd.Series:
    """Return the site of every case; cases without one share the group 'not stated'.

    Groups of one case each would let nothing be exchanged: a permutation within them is the data itself, so that every
    null equals what was observed. Inner folds split a single group by case.

    Parameters
    ----------
    cases : DataFrame
    site_column : str

    Returns
    -------
    Series of str
        Index `case_id`.
    """
    known = cases.set_index("case_id")
    if site_column not in known:
        return pd.Series(NO_SITE, index=known.index, dtype=object)
    return label_sites(known[site_column])


def list_absent(cases: pd.DataFrame, *, pooled: pd.Index, expression: pd.Index, splits: pd.DataFrame) -> dict[str, str]:
    """Say of each case that cannot enter the analysis why.

    Parameters
    ----------
    cases : DataFrame
    pooled : Index
        Cases with pooled features.
    expression : Index
        Cases with RNA.
    splits : DataFrame

    Returns
    -------
    dict of str to str
        Case to the first reason that applies, sorted by case.
    """
    places = set(splits["case_id"])
    present = (("no expression", set(expression)), ("no tile with features", set(pooled)), ("in no split", places))
    reasons = {}
    for case_id in sorted(cases["case_id"]):
        lacking = [reason for reason, members in present if case_id not in members]
        if lacking:
            reasons[case_id] = lacking[0]
    return reasons


def locate_bag(files: pd.DataFrame, case_id: str, **filters: Any) -> pd.DataFrame:
    """Say of every tile of a case's bag where it lies, in the order in which `read_bags` reads them.

    Parameters
    ----------
    files : DataFrame
        slide_id, case_id, features_file.
    case_id : str
    **filters : Any
        Options of `select_tiles`, as given to `make_reader`.

    Returns
    -------
    DataFrame
        slide_id, x_l0, y_l0, edge_l0 (level-0 px; missing where a file states no coordinates).
    """
    tables = []
    for row in files[files["case_id"] == case_id].dropna(subset="features_file").itertuples():
        bag = read_slide(row.features_file, row.slide_id)
        kept = select_tiles(bag, **filters)
        coords = np.full((len(kept), 2), np.nan) if bag.coords_l0 is None else bag.coords_l0
        edge = bag.attributes.get("patch_size_level0") or np.nan
        table = pd.DataFrame(coords[kept], columns=["x_l0", "y_l0"])
        tables.append(table.assign(slide_id=row.slide_id, edge_l0=float(edge)))
    return pd.concat(tables, ignore_index=True)[["slide_id", "x_l0", "y_l0", "edge_l0"]]
