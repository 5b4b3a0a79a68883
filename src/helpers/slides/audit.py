"""A cohort's slides before and after tiling: who can be opened, at what resolution, and where each one was lost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from helpers.core.errors import AnnotationError, ResolutionError, SlideError, StainError
from helpers.core.paths import resolve
from helpers.core.specs import TilingSpec
from helpers.slides.annotation import read_slide_annotations
from helpers.slides.normalise import Normaliser, build_normaliser, fit_normaliser
from helpers.slides.reader import RGB, open_slide
from helpers.slides.stain import Stain, compute_angle
from helpers.slides.tilefile import TileTable, read_tiles
from helpers.slides.tiling import choose_stain_tiles, describe_no_path, read_tile

STEPS = ("listed", "readable", "with a resolution", "tiled")
N_REINHARD = 24
"""Tiles on which Reinhard's statistics of a slide are estimated."""
N_NAMED = 3
"""Lost slides named in the flow; the others are counted there and named in the ledger."""


def audit_slides(slides: pd.DataFrame, spec: TilingSpec) -> pd.DataFrame:
    """Open every slide's header and report its size and resolution; nothing is decoded.

    Parameters
    ----------
    slides : DataFrame
        slide_id, path and, where known, mpp and scanner.
    spec : TilingSpec

    Returns
    -------
    DataFrame, one row per slide
        slide_id, scanner, width, height, mpp (NaN where unknown), mpp_x, mpp_y, mpp_source, header_mpp, n_levels,
        edge_l0 (width of a tile, level-0 px), lost_at (a step of `STEPS`) and reason (why it cannot be used), both
        empty where it can. Annotations are read where the spec asks for them.
    """
    rows = [_audit_slide(row, spec) for row in slides.to_dict("records")]
    return pd.DataFrame(rows)


def _audit_slide(row: dict[str, Any], spec: TilingSpec) -> dict[str, Any]:
    found: dict[str, Any] = {
        "slide_id": row["slide_id"], "scanner": str(row.get("scanner", "unknown")), "width": 0, "height": 0,
        "mpp": np.nan, "mpp_x": np.nan, "mpp_y": np.nan, "mpp_source": "none", "header_mpp": np.nan, "n_levels": 0,
        "edge_l0": 0, "lost_at": "", "reason": "",
    }  # fmt: skip
    mpp = row.get("mpp")
    if not isinstance(row["path"], str):
        return found | {"lost_at": "readable", "reason": describe_no_path(row["slide_id"])}
    try:
        with open_slide(
            resolve(row["path"]),
            slide_id=row["slide_id"],
            mpp=None if mpp is None or pd.isna(mpp) else float(mpp),
            fallback_mpp=spec.fallback_mpp,
        ) as slide:
            resolution = slide.resolution
            header = np.nan if resolution.header_mpp is None else resolution.header_mpp
            found |= {
                "width": slide.width, "height": slide.height, "mpp": slide.mpp, "mpp_x": resolution.mpp_x,
                "mpp_y": resolution.mpp_y, "mpp_source": slide.mpp_source, "header_mpp": header,
                "n_levels": len(slide.level_downsamples), "edge_l0": round(spec.tile_px * spec.mpp / resolution.mpp_x),
            }  # fmt: skip
            read_slide_annotations(slide, spec)
            return found
    except SlideError as error:
        return found | {"lost_at": "readable", "reason": str(error)}
    except ResolutionError as error:
        return found | {"lost_at": "with a resolution", "reason": str(error)}
    except AnnotationError as error:
        return found | {"lost_at": "tiled", "reason": str(error)}


def compute_flow(audit: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """Count the slides left after each step and name the lost.

    Parameters
    ----------
    audit : DataFrame
        From `audit_slides`.
    ledger : DataFrame
        From tiling: slide_id, status, reason.

    Returns
    -------
    DataFrame
        step, n, lost, names: one row per step of `STEPS`.
    """
    lost_at = audit.set_index("slide_id")["lost_at"].to_dict()
    failed = ledger.loc[ledger["status"] == "failed", ["slide_id", "reason"]]
    where = {row.slide_id: lost_at.get(row.slide_id) or "tiled" for row in failed.itertuples()}
    rows, left = [], len(ledger)
    for step in STEPS:
        lost = [slide_id for slide_id, at in where.items() if at == step]
        left -= len(lost)
        rows.append({"step": step, "n": left, "lost": len(lost), "names": _name_lost(lost)})
    return pd.DataFrame(rows)


def _name_lost(lost: Sequence[str]) -> str:
    more = f" and {len(lost) - N_NAMED} more" if len(lost) > N_NAMED else ""
    return ", ".join(lost[:N_NAMED]) + more


def collect_tiles(folder: Path, slide_ids: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the tile files of a cohort into one table of slides and one of tiles.

    Parameters
    ----------
    folder : Path
        Holds `<slide_id>.h5`.
    slide_ids : sequence of str

    Returns
    -------
    slides : DataFrame, one row per slide
        slide_id, n_tiles, n_positions, tissue_area_mm2, mpp, mpp_source, mpp_effective, edge_l0, background_red,
        background_green, background_blue, stain_reason and the stain vectors (h_red to e_blue; NaN where none).
    tiles : DataFrame, one row per tile
        slide_id, x_l0, y_l0 and the quality columns.
    """
    rows, blocks = [], []
    for slide_id in slide_ids:
        table = read_tiles(folder / f"{slide_id}.h5")
        rows.append(_describe_slide(slide_id, table.attributes, len(table.coords_l0), table.edge_l0[0]))
        corners = pd.DataFrame(table.coords_l0, columns=["x_l0", "y_l0"])
        blocks.append(pd.concat([corners.assign(slide_id=slide_id), table.qc], axis=1))
    return pd.DataFrame(rows), pd.concat(blocks, ignore_index=True)


def _describe_slide(slide_id: str, attributes: dict[str, Any], n_tiles: int, edge: int) -> dict[str, Any]:
    nothing = [np.nan] * 3
    lights = ("red", "green", "blue")
    vectors = {"h": attributes.get("stain_haematoxylin", nothing), "e": attributes.get("stain_eosin", nothing)}
    copied = ("n_positions", "tissue_area_mm2", "mpp_source", "mpp_effective", "stain_reason")
    return {
        "slide_id": slide_id,
        "n_tiles": n_tiles,
        "mpp": (attributes["mpp_x"] + attributes["mpp_y"]) / 2,
        "edge_l0": edge,
        **{name: attributes[name] for name in copied},
        **{f"background_{light}": value for light, value in zip(lights, attributes["background"], strict=True)},
        **{
            f"{stain}_{light}": value
            for stain, vector in vectors.items()
            for light, value in zip(lights, vector, strict=True)
        },
    }


FLAGS = {"pen": "#009E73", "blurred": "#E69F00", "folded": "#D55E00", "grey shadow": "#CC79A7", "fine": "#0072B2"}
"""What a tile is flagged as, in order of precedence, with the colour it is drawn in."""


def flag_tiles(tiles: pd.DataFrame) -> pd.Series:
    """Name what is odd about each tile, for looking; no chapter filters by this.

    Parameters
    ----------
    tiles : DataFrame
        slide_id and the quality columns.

    Returns
    -------
    Series of str
        A key of `FLAGS`: more than 5 % marker ink; less than 0.6 x its slide's median sharpness; more than 2 % of the
        tile folded; more than 10 % grey shadow (below that, some eosins pass for one); or fine.
    """
    pen = tiles[[name for name in tiles if str(name).startswith("pen_")]].sum(axis=1) > 0.05
    typical = tiles.groupby("slide_id")["sharpness"].transform("median")
    rules = {
        "pen": pen,
        "blurred": tiles["sharpness"] < 0.6 * typical,
        "folded": tiles["thick_fraction"] > 0.02,
        "grey shadow": tiles["grey_fraction"] > 0.10,
    }
    names = np.select(list(rules.values()), list(rules), default="fine")
    return pd.Series(names, index=tiles.index, name="flag")


def compare_nominal(audit: pd.DataFrame, spec: TilingSpec) -> pd.DataFrame:
    """Show what tile a reader gets who trusts "20x" and "40x" instead of um per px.

    Parameters
    ----------
    audit : DataFrame
    spec : TilingSpec

    Returns
    -------
    DataFrame, one row per scanner and resolution
        scanner, mpp, nominal ("20x" or "40x"), edge_nominal and edge_exact (level-0 px), tile_um_nominal, error
        (relative size of the nominal tile).
    """
    known = audit[audit["mpp"].notna()]
    groups = known.groupby(["scanner", known["mpp"].round(4)])["edge_l0"].first().reset_index()
    nominal = np.where(groups["mpp"] < 0.35, 40, 20)
    edge = np.rint(spec.tile_px * spec.mpp / 0.5 * nominal / 20).astype(int)
    return pd.DataFrame(
        {
            "scanner": groups["scanner"],
            "mpp": groups["mpp"],
            "nominal": [f"{value}x" for value in nominal],
            "edge_nominal": edge,
            "edge_exact": groups["edge_l0"],
            "tile_um_nominal": edge * groups["mpp"],
            "error": edge * groups["mpp"] / (spec.tile_px * spec.mpp) - 1,
        }
    )


def compare_stains(stains: pd.DataFrame, planted: pd.DataFrame) -> pd.DataFrame:
    """Return the angle of every slide's stain vectors to those planted at its site.

    Parameters
    ----------
    stains : DataFrame
        slide_id, site, h_red to e_blue.
    planted : DataFrame
        truth/sites.csv: site, stain_h_r to stain_e_b.

    Returns
    -------
    DataFrame
        slide_id, site, stain (haematoxylin or eosin), angle_deg.
    """
    truth = planted.set_index("site")
    rows = []
    for row in stains.to_dict("records"):
        for stain in ("haematoxylin", "eosin"):
            found = [row[f"{stain[0]}_{light}"] for light in ("red", "green", "blue")]
            true = truth.loc[row["site"], [f"stain_{stain[0]}_{light}" for light in "rgb"]].astype(float)
            angle = compute_angle(found, true.to_numpy())
            rows.append({"slide_id": row["slide_id"], "site": row["site"], "stain": stain, "angle_deg": angle})
    return pd.DataFrame(rows)


def read_examples(path: str | Path, table: TileTable, *, n_tiles: int) -> RGB:
    """Read tiles without ink and folds, evenly spread over a slide, those fullest of nuclei first.

    Parameters
    ----------
    path : str or Path
        Of the slide.
    table : TileTable
    n_tiles : int

    Returns
    -------
    ndarray, (up to n_tiles, tile_px, tile_px, 3), uint8
    """
    clean = choose_stain_tiles(table.qc)
    chosen = clean[np.linspace(0, len(clean) - 1, min(n_tiles, len(clean))).round().astype(int)]
    amount = table.qc["haematoxylin"].to_numpy()[chosen] * table.qc["stained_fraction"].to_numpy()[chosen]
    order = chosen[np.argsort(-amount, kind="stable")]
    with open_slide(resolve(path), slide_id=table.slide_id, mpp=table.mpp) as slide:
        return np.stack([read_tile(slide, table, int(index)) for index in order])


def fit_slide_normaliser(
    path: str | Path, table: TileTable, method: Literal["macenko", "reinhard"], *, examples: RGB | None = None
) -> Normaliser:
    """Make the stain normalisation of a slide: its own fit, towards the reference.

    Parameters
    ----------
    path : str or Path
        Of the slide.
    table : TileTable
        Holds the Macenko fit of chapter 01.
    method : {'macenko', 'reinhard'}
    examples : ndarray, (n, tile_px, tile_px, 3), uint8, optional
        Tiles from all over the slide, without ink, to which Reinhard's method is fitted; read where not given.

    Returns
    -------
    Normaliser

    Raises
    ------
    StainError
        When the slide has no stain vectors, or too few stained pixels.
    """
    item = f"slide '{table.slide_id}'"
    if method == "macenko":
        if "stain_method" not in table.attributes:
            reason = table.attributes.get("stain_reason") or "unknown"
            msg = f"StainError: {item} has no stain vectors ({reason}). Leave it out, or use stain_normalisation: none."
            raise StainError(msg)
        return build_normaliser(Stain.from_attributes(table.attributes), item=item)
    tiles = read_examples(path, table, n_tiles=N_REINHARD) if examples is None else examples
    red, green, blue = table.attributes["background"]
    return fit_normaliser("reinhard", tiles[:, ::4, ::4].reshape(-1, 3), (red, green, blue), item=item)
