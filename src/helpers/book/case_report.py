"""One page per case: where the score comes from, how it compares, what was lost, and which model said it."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.cohort.genes import name_score
from helpers.core import paths
from helpers.core.errors import TileError
from helpers.models.bundle import Bundle, TumourSummary
from helpers.slides.reader import RGB, open_slide
from helpers.slides.tilefile import TileTable
from helpers.slides.tiling import read_tile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_SHOWN: Final = 6
"""Tiles shown of the highest and of the lowest scores."""
UNITS: Final = {"mean_log2": "log2", "mean_zscore": "z", "pam50": "SD of a sample"}
TILE_NOTES: Final = {
    False: "A tile's score is what the model would say of a case made of this tile alone. It was trained on whole "
    "cases, so that single tiles lie outside what it knows.",
    True: "A tile's score is the mean of what the networks say of it, stretched as whole cases need it. They were "
    "trained on single tiles, each with the score of its whole case: true on average, wrong for most tiles.",
}
"""What a tile's score means, by whether the model is made of networks that read tiles."""
STYLE: Final = """
@page{size:A4;margin:10mm}
body{font:13px/1.42 system-ui,-apple-system,sans-serif;color:#1d1d1f;margin:18px auto;max-width:880px;padding:0 16px}
h1{font-size:20px;margin:0}h2{font-size:14px;margin:16px 0 4px;border-bottom:1px solid #ddd}
header{display:flex;justify-content:space-between;align-items:baseline}
header{border-bottom:2px solid #1d1d1f;padding-bottom:6px}
.use{background:#b3261e;color:#fff;font-weight:600;padding:2px 10px;border-radius:3px;white-space:nowrap}
.row{display:flex;gap:20px;align-items:center;flex-wrap:wrap}.row>*{flex:1 1 300px;min-width:0}
.score{font-size:34px;font-weight:600;line-height:1.1}.unit{font-size:14px;font-weight:400;color:#555}
.low{color:#0072B2}.high{color:#D55E00}
img{max-width:100%}table{border-collapse:collapse;font-size:12px}
td,th{text-align:left;padding:1px 12px 1px 0;vertical-align:top}th{font-weight:600;white-space:nowrap}
.tiles{display:grid;gap:6px;grid-template-columns:repeat(6,1fr)}
.tiles figure{margin:0}.tiles img{width:100%;display:block}
.maps{display:flex;gap:12px;flex-wrap:wrap}.maps img{flex:1 1 400px;min-width:0;max-width:620px}
p{margin:6px 0}
.tiles figcaption,small{font-size:11px;color:#555}code{font-size:11px;overflow-wrap:anywhere}
.loss{background:#fff4e5;border-left:3px solid #e69f00;padding:4px 8px;margin:6px 0}
"""


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """A slide that was scored.

    Attributes
    ----------
    slide_id : str
    path : Path
    table : TileTable
    kept : ndarray, (n_tiles,), bool
        Tiles that pass the model's filters.
    features : ndarray, (n_kept, d)
    scores : ndarray, (n_kept,)
        Empty where the model gives tiles no score.
    no_scores : str
        Why not.
    far : tuple of 2 ints or None
        Features unlike training, and of how many.
    """

    slide_id: str
    path: Path
    table: TileTable
    kept: NDArray[np.bool_]
    features: NDArray[np.float32]
    scores: NDArray[np.float64]
    no_scores: str
    far: tuple[int, int] | None

    @property
    def mpp(self) -> NDArray[np.float64]:
        """Resolution of level 0 along x and y, um per px."""
        return np.array([self.table.attributes["mpp_x"], self.table.attributes["mpp_y"]], float)


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """A case that was scored.

    Attributes
    ----------
    case_id : str
    score : float
    slides : list of SlideResult
    lost : dict of str to str
        Slides of the case that failed, and why.
    """

    case_id: str
    score: float
    slides: list[SlideResult]
    lost: dict[str, str] = field(default_factory=dict)


def write_report(case: CaseResult, bundle: Bundle, folder: Path, *, provenance: Mapping[str, Any]) -> Path:
    """Write a case's page and the maps of its slides.

    Parameters
    ----------
    case : CaseResult
    bundle : Bundle
    folder : Path
        Gets `reports/<case_id>.html`, `maps/<slide_id>.png` and `.csv`.
    provenance : mapping
        Of this run.

    Returns
    -------
    Path
        Of the page, which needs no other file.
    """
    limits = find_limits(case)
    maps = {slide.slide_id: write_map(slide, bundle, folder, limits=limits) for slide in case.slides}
    title = f"{case.case_id}: predicted {name_score(bundle.manifest.target)}"
    body = [
        f"<header><h1>{html.escape(title)}</h1><span class=use>Research use only</span></header>",
        _write_score(case, bundle), *(_write_loss(name, why) for name, why in case.lost.items()),
        "<h2>Where the score comes from</h2>", '<div class="maps">',
        *(_embed(path, alt=f"tile scores of {name}") for name, path in maps.items()), "</div>",
        _write_tiles(case, bundle), "<h2>Quality of what was read</h2>", _write_quality(case, bundle),
        "<h2>Which model said this</h2>", _write_provenance(bundle, provenance),
    ]  # fmt: skip
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    return paths.write_text(page, folder / "reports" / f"{case.case_id}.html")


def find_limits(case: CaseResult) -> tuple[float, float]:
    """Return the ends of the colour scale that all slides of a case share.

    Parameters
    ----------
    case : CaseResult

    Returns
    -------
    tuple of 2 floats
        2nd and 98th percentile of the tile scores; 0 and 1 where there are none.
    """
    scores = np.concatenate([slide.scores for slide in case.slides])
    return (float(np.quantile(scores, 0.02)), float(np.quantile(scores, 0.98))) if len(scores) else (0.0, 1.0)


def write_map(slide: SlideResult, bundle: Bundle, folder: Path, *, limits: tuple[float, float]) -> Path:
    """Write a slide's map of tile scores as a picture and as a table.

    Parameters
    ----------
    slide : SlideResult
    bundle : Bundle
    folder : Path
    limits : tuple of 2 floats
        Scores at the ends of the colour scale.

    Returns
    -------
    Path
        Of the picture.
    """
    from helpers.figures.report import plot_score_overlay
    from helpers.figures.style import new_figure

    coords_um = slide.table.coords_l0[slide.kept] * slide.mpp
    has_scores = len(slide.scores) > 0
    named = {"x_um": coords_um[:, 0], "y_um": coords_um[:, 1], "row": np.flatnonzero(slide.kept)}
    scores = slide.scores if has_scores else np.full(len(coords_um), np.nan)
    paths.write_table(pd.DataFrame({**named, "score": scores}), folder / "maps" / f"{slide.slide_id}.csv")
    fig, axes = new_figure(width_mm=112, height_mm=54, columns=2)
    drawn: dict[str, Any] = {
        "tile_um": slide.table.edge_l0[0] * slide.mpp[0], "size_um": np.array(slide.table.size_l0) * slide.mpp,
        "limits": limits, "label": f"tile score, {name_score(bundle.manifest.target)} ({_name_unit(bundle)})",
    }  # fmt: skip
    image = _read_image(folder / "thumbnails" / f"{slide.slide_id}.jpg")
    plot_score_overlay(image, coords_um, np.array([]), ax=axes[0], **drawn)
    plot_score_overlay(image, coords_um, slide.scores, ax=axes[1], beside=axes[:1], **drawn)
    axes[0].set_title(slide.slide_id)
    mean = f", mean {slide.scores.mean():.2f}" if has_scores else ": no tile scores"
    axes[1].set_title(f"{int(slide.kept.sum())} tiles{mean}".replace("-", "−"))
    path = folder / "maps" / f"{slide.slide_id}.png"
    with paths.atomic_write(path) as temporary:
        temporary.write_bytes(_draw_png(fig))
    return path


def _read_image(path: Path) -> RGB:
    import cv2

    image = cv2.imread(str(path))
    if image is None:
        msg = f"TileError: no readable thumbnail at '{paths.shorten(path)}'. Remove the folder and predict again."
        raise TileError(msg)
    return np.asarray(image[..., ::-1], dtype=np.uint8)


def _draw_png(fig: "Figure") -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=200, bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)
    return buffer.getvalue()


def _embed(source: Path | bytes, *, alt: str, kind: str = "png") -> str:
    data = base64.b64encode(source.read_bytes() if isinstance(source, Path) else source).decode()
    return f'<img src="data:image/{kind};base64,{data}" alt="{html.escape(alt)}">'


def _name_unit(bundle: Bundle) -> str:
    return UNITS.get(bundle.manifest.score_method, bundle.manifest.score_method)


def _write_score(case: CaseResult, bundle: Bundle) -> str:
    """Write the number, its side of the cut-off, how sure it is, and where it lies among the training cases."""
    training = bundle.manifest.training
    values = np.asarray(training.scores)
    side = "high" if case.score > training.cutoff else "low"
    below = f"{100 * (values < case.score).mean():.0f} %"
    words = (
        f"<b>{side.capitalize()}</b>: {'above' if side == 'high' else 'not above'} the cut-off {training.cutoff:.2f} "
        f"({html.escape(training.cutoff_origin)}), higher than {below} of {training.n_cases} training cases."
    )
    if abs(case.score - training.cutoff) < training.typical_error:
        words += " It is closer to the cut-off than the typical error: another slide may well fall on the other side."
    if not values.min() <= case.score <= values.max():
        words += " It lies outside the range of the training cases."
    return (
        f'<div class="row"><div><p class="score {side}">{case.score:.2f} <span class=unit>{_name_unit(bundle)}, '
        f"typical error ±{training.typical_error:.2f}</span></p><p>{words}</p>"
        "<p><small>Predicted from the slide, not measured. Out of fold, predicted and measured scores of the training "
        f"cases correlated with Spearman ρ {training.spearman:.2f}.</small></p></div>"
        f"<div>{_embed(_draw_position(case, bundle), alt='score among the training cases')}</div></div>"
    )


def _draw_position(case: CaseResult, bundle: Bundle) -> bytes:
    from helpers.figures.report import plot_score_position
    from helpers.figures.style import new_figure

    fig, (ax,) = new_figure(width_mm=89, height_mm=48)
    training, label = (
        bundle.manifest.training,
        f"predicted {name_score(bundle.manifest.target)} ({_name_unit(bundle)})",
    )
    plot_score_position(np.asarray(training.scores), ax=ax, score=case.score, cutoff=training.cutoff, label=label)
    return _draw_png(fig)


def _write_loss(name: str, why: str) -> str:
    return f'<p class="loss"><b>Not part of the score:</b> slide {html.escape(name)}. {html.escape(why)}</p>'


def _write_tiles(case: CaseResult, bundle: Bundle) -> str:
    """Show the tiles that pull the score up most, and down most."""
    scored = [(float(s), slide, int(row)) for slide in case.slides
              for s, row in zip(slide.scores, np.flatnonzero(slide.kept), strict=False)]  # fmt: skip
    if not scored:
        return f"<p>{html.escape(case.slides[0].no_scores)}</p>"
    scored.sort(key=lambda entry: -entry[0])
    n = min(N_SHOWN, len(scored) // 2) or 1
    tile_um = round(case.slides[0].table.tile_px * case.slides[0].table.mpp)
    text = f"<h2>Tiles most responsible ({tile_um} µm wide)</h2><p><b>Highest</b></p>{_write_gallery(scored[:n])}"
    if len(scored) > 1:
        text += f"<p><b>Lowest</b></p>{_write_gallery(scored[-n:][::-1])}"
    return f"{text}<p><small>{TILE_NOTES[bundle.manifest.networks is not None]}</small></p>"


def _write_gallery(entries: Sequence[tuple[float, SlideResult, int]]) -> str:
    figures = []
    for score, slide, row in entries:
        with open_slide(slide.path, slide_id=slide.slide_id, mpp=float(slide.table.attributes["mpp_x"])) as opened:
            tile = read_tile(opened, slide.table, row)
        x, y = (slide.table.coords_l0[row] * slide.mpp).round().astype(int).tolist()
        where = f"x {x}, y {y} µm"
        figures.append(
            f"<figure>{_embed(_encode_jpeg(tile), alt=where, kind='jpeg')}"
            f"<figcaption><b>{score:.2f}</b> {html.escape(slide.slide_id)}<br>{where}</figcaption></figure>"
        )
    return f'<div class="tiles">{"".join(figures)}</div>'


def _encode_jpeg(tile: RGB) -> bytes:
    import cv2

    return bytes(cv2.imencode(".jpg", tile[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


def _write_quality(case: CaseResult, bundle: Bundle) -> str:
    rows = []
    for slide in case.slides:
        qc, attributes = slide.table.qc, slide.table.attributes
        ink = qc[[name for name in qc if name.startswith("pen_")]].sum(axis=1)
        cells = [
            slide.slide_id, f"{attributes['mpp_x']:.4g} ({attributes['mpp_source']})",
            f"{attributes['tissue_area_mm2']:.2f}", f"{int(slide.kept.sum())} of {len(slide.kept)}",
            f"{(ink > 0.05).sum()} / {(qc['thick_fraction'] > 0.3).sum()} / {(qc['grey_fraction'] > 0.3).sum()}",
            attributes["stain_reason"] or "estimated", _describe_far(slide.far),
        ]  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    names = (
        "Slide",
        "µm per px",
        "Tissue, mm²",
        "Tiles read",
        "Ink / folded / grey",
        "Stains",
        "Features unlike training" if bundle.manifest.networks is None else "Outputs unlike training",
    )
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{''.join(rows)}</table>"


def _describe_far(far: tuple[int, int] | None) -> str:
    return "not known" if far is None else f"{far[0]} of {far[1]} beyond 4 SD"


def _name_tiles(tumour: TumourSummary) -> str:
    if tumour.how == "model":
        return (
            f"called tumour (probability of at least {tumour.min_probability:g}) by a classifier that outlines of "
            f"{tumour.n_slides} training slides taught"
        )
    return "inside outlined tumour" if tumour.how == "polygon" else "all tissue that passes the quality filters"


def _write_provenance(bundle: Bundle, provenance: Mapping[str, Any]) -> str:
    manifest = bundle.manifest
    source = manifest.provenance
    rows = {
        "Model": f"{manifest.arm}, trained in {source['run']} (commit {str(source['commit'])[:12]}) on "
        f"{manifest.training.n_cases} cases, {manifest.training.n_slides} slides of {source['profile']}",
        "Bundle": f"{bundle.seal}",
        "Features" if manifest.networks is None else "End-to-end ensemble": _describe_encoder(bundle),
        "Tiles read": _name_tiles(manifest.tumour),
        "This page": f"histobook {provenance['versions']['histobook']} (commit {str(provenance['commit'])[:12]}), "
        f"{provenance['made']}. Research use only: not for diagnosis or the choice of treatment.",
    }  # fmt: skip
    lines = "".join(f"<tr><th>{name}</th><td><code>{html.escape(text)}</code></td></tr>" for name, text in rows.items())
    return f"<table>{lines}</table>"


def _describe_encoder(bundle: Bundle) -> str:
    """Say what makes numbers of tiles: an encoder trained elsewhere, or the model's own networks."""
    encoder, tiling, networks = bundle.manifest.encoder, bundle.manifest.tiling, bundle.manifest.networks
    weights = f", weights {encoder['weights_sha256'][:12]}" if encoder["weights_sha256"] else ""
    tiles = f"tiles of {tiling['tile_px']} px at {tiling['mpp']:g} µm per px"
    if networks is None:
        return f"{encoder['encoder']} {encoder['encoder_version']}{weights}, {encoder['precision']}; {tiles}"
    drawn = "all tiles" if networks.tiles_per_slide is None else f"up to {networks.tiles_per_slide} tiles per slide"
    return (
        f"{len(networks.folds)} networks trained from tiles to scores, one per fold: {encoder['encoder_version']}"
        f"{weights}, {encoder['precision']}; {tiles}. Trained, and its cut-off fixed, on {drawn}; this page reads all."
    )
