"""Slides, tiles and their quality as pictures. Nothing is computed here but places on the page."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from helpers.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PALETTES, SEQUENCE, VERMILION, add_scale_bar

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from helpers.slides.tilefile import TileTable

SOURCE_COLOURS = {
    "openslide.mpp-x": BLUE,
    "tiff.XResolution": GREEN,
    "slides.csv": ORANGE,
    "fallback_mpp": VERMILION,
    "none": BLACK,
}


def plot_mpp(audit: "pd.DataFrame", *, ax: "Axes", target_mpp: float) -> "Axes":
    """Draw one dot per slide: its resolution by scanner, coloured by who states it.

    Parameters
    ----------
    audit : DataFrame
        slide_id, scanner, mpp (NaN where none is known), mpp_source, lost_at (step at which a slide is lost, or empty).
    ax : Axes
    target_mpp : float

    Returns
    -------
    Axes
    """
    scanners = sorted(set(audit["scanner"]))
    row_of = {scanner: row for row, scanner in enumerate(scanners)}
    known = audit[audit["mpp"].notna()]
    for source, part in known.groupby("mpp_source"):
        rows = np.array([row_of[scanner] for scanner in part["scanner"]], float)
        spread = (np.arange(len(rows)) % 9 - 4) / 16
        ax.plot(part["mpp"], rows + spread, "o", ms=2.6, mew=0, color=SOURCE_COLOURS[str(source)], label=str(source))
    for row in audit[audit["mpp"].isna()].itertuples():
        at = (1.01, row_of[row.scanner])
        label = f"{row.slide_id}: {'not readable' if row.lost_at == 'readable' else 'no resolution'}"
        ax.annotate(label, at, xycoords=("axes fraction", "data"), ha="left", va="center", color=VERMILION, fontsize=6)
    ax.axvline(target_mpp, color=GREY, lw=0.8, ls="--")
    ax.annotate(
        "tiles", (target_mpp, 1.0), xycoords=("data", "axes fraction"), xytext=(2, -1), textcoords="offset points",
        color=GREY, fontsize=6, va="top",
    )  # fmt: skip
    ax.set_yticks(range(len(scanners)), scanners)
    ax.set_ylim(len(scanners) - 0.4, -0.6)
    ax.set_xlabel("resolution of level 0 (µm per px)")
    ax.legend(title="stated by", loc="best")
    return ax


def plot_slide(
    image: "NDArray[np.uint8]",
    table: "TileTable",
    *,
    ax: "Axes",
    kept: "NDArray[np.bool_] | None" = None,
    colours: Sequence[str] | None = None,
    title: str = "",
) -> "Axes":
    """Draw a thumbnail with the outline of the tissue and the grid of tiles.

    Parameters
    ----------
    image : ndarray, (h, w, 3), uint8
        Thumbnail of the whole slide.
    table : TileTable
    ax : Axes
    kept : ndarray, (n_tiles,), bool, optional
        Tiles drawn as kept (all where not given); the others are drawn dashed.
    colours : sequence of str, optional
        Edge colour of each tile; overrules `kept`.
    title : str

    Returns
    -------
    Axes
    """
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Rectangle

    ax.imshow(image, interpolation="antialiased")
    scale_x, scale_y = image.shape[1] / table.size_l0[0], image.shape[0] / table.size_l0[1]
    edge = (table.edge_l0[0] * scale_x, table.edge_l0[1] * scale_y)
    corners = table.coords_l0 * [scale_x, scale_y]
    chosen = np.ones(len(corners), bool) if kept is None else kept
    edges = list(colours) if colours is not None else [BLUE if keep else VERMILION for keep in chosen]
    boxes = [Rectangle((x, y), *edge) for x, y in corners]
    ax.add_collection(PatchCollection(boxes, facecolor="none", edgecolor=edges, lw=0.5, gid="tiles"))
    rings = [table.points[start:end] * [scale_x, scale_y] for start, end, _ in table.rings]
    closed = [np.vstack([ring, ring[:1]]) for ring in rings]
    ax.add_collection(LineCollection(closed, colors=BLACK, lw=0.8, gid="tissue"))
    frame_image(ax)
    um_per_px = float(table.attributes["mpp_x"]) / scale_x
    add_scale_bar(ax, um_per_px=um_per_px, length_um=pick_length(um_per_px * image.shape[1]))
    ax.set_title(title)
    return ax


def frame_image(ax: "Axes") -> None:
    """Take ticks and spines off an image.

    Parameters
    ----------
    ax : Axes
    """
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def pick_length(width_um: float) -> float:
    """Return a round length for a scale bar: at most a fifth of the width.

    Parameters
    ----------
    width_um : float
        Of the image.

    Returns
    -------
    float
        1, 2 or 5 times a power of ten, um.
    """
    rough = width_um / 5
    power = 10.0 ** np.floor(np.log10(rough))
    return float(max(step * power for step in (1, 2, 5) if step * power <= rough))


def plot_slide_flow(flow: "pd.DataFrame", *, ax: "Axes") -> "Axes":
    """Draw the cohort flow: how many slides are left after each step, and who was lost, by name.

    Parameters
    ----------
    flow : DataFrame
        step, n, lost, names (of the lost, with reasons in short).
    ax : Axes

    Returns
    -------
    Axes
    """
    from matplotlib.patches import FancyBboxPatch

    total = len(flow)
    for row in flow.itertuples():
        y = total - 1 - int(row.Index)
        box = FancyBboxPatch((0.0, y - 0.28), 3.0, 0.56, boxstyle="round,pad=0.02", fc="#E8EEF4", ec=BLUE, lw=0.8)
        ax.add_patch(box)
        ax.text(1.5, y, f"{row.n:,} slides {row.step}", ha="center", va="center", fontsize=7)
        if row.Index:
            ax.annotate(
                "", (1.5, y + 0.32), (1.5, y + 0.70), arrowprops={"arrowstyle": "-|>", "lw": 0.8, "color": BLACK}
            )
        if row.lost:
            ax.plot([1.5, 3.35], [y + 0.51, y + 0.51], color=VERMILION, lw=0.8)
            ax.text(3.42, y + 0.51, f"−{row.lost}  {row.names}", ha="left", va="center", fontsize=6, color=VERMILION)
    ax.set_xlim(-0.1, 8.5)
    ax.set_ylim(-0.5, total - 0.5)
    ax.set_axis_off()
    return ax


def plot_quality(
    qc: "pd.DataFrame",
    column: str,
    *,
    ax: "Axes",
    by: str = "site",
    threshold: float | None = None,
    label: str = "",
    log: bool = False,
) -> "Axes":
    """Draw the distribution of a quality column over tiles, one line per group.

    Parameters
    ----------
    qc : DataFrame
        One row per tile: `column` and `by`.
    column : str
    ax : Axes
    by : str
    threshold : float, optional
        Drawn as a line.
    label : str
        Of the horizontal axis.
    log : bool
        Logarithmic axis.

    Returns
    -------
    Axes
    """
    values = qc[column].to_numpy(float)
    finite = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = np.quantile(finite, [0.001, 0.999]) if len(finite) else (0.0, 1.0)
    edges = np.geomspace(low, high, 41) if log else np.linspace(low, high, 41)
    for number, (name, part) in enumerate(qc.groupby(by)):
        counts, _ = np.histogram(np.clip(part[column], low, high), edges)
        share = 100 * counts / max(1, counts.sum())
        ax.stairs(share, edges, color=SEQUENCE[number % len(SEQUENCE)], lw=1.0, label=f"{name} ({len(part):,})")
    if threshold is not None:
        ax.axvline(threshold, color=BLACK, lw=0.8, ls=":")
    if log:
        ax.set_xscale("log")
    ax.set_xlabel(label or column.replace("_", " "))
    ax.set_ylabel("tiles (%)")
    return ax


def plot_tiles(
    images: Sequence["NDArray[np.uint8]"], titles: Sequence[str], axes: Sequence["Axes"], *, um_per_px: float
) -> Sequence["Axes"]:
    """Draw one tile per axes with a title and a scale bar; axes left over are hidden.

    Parameters
    ----------
    images : sequence of ndarray, (h, w, 3), uint8
    titles : sequence of str
    axes : sequence of Axes
    um_per_px : float

    Returns
    -------
    sequence of Axes
    """
    for ax in axes[len(images) :]:
        ax.set_visible(False)
    for image, title, ax in zip(images, titles, axes, strict=False):
        ax.imshow(image, interpolation="antialiased")
        frame_image(ax)
        add_scale_bar(ax, um_per_px=um_per_px, length_um=pick_length(um_per_px * image.shape[1]))
        ax.set_title(title, fontsize=6, fontweight="normal", pad=2)
    return axes


def plot_stains(stains: "pd.DataFrame", *, ax: "Axes", by: str = "site") -> "Axes":
    """Draw the stain vectors of every slide: the share of red and blue light that each stain absorbs.

    Parameters
    ----------
    stains : DataFrame
        `by`, and h_red, h_blue, e_red, e_blue (components of the unit vectors).
    ax : Axes
    by : str

    Returns
    -------
    Axes
    """
    for number, (name, part) in enumerate(stains.groupby(by)):
        colour = SEQUENCE[number % len(SEQUENCE)]
        ax.plot(part["h_red"], part["h_blue"], "o", ms=3, mew=0, color=colour, label=str(name))
        ax.plot(part["e_red"], part["e_blue"], "s", ms=3, mew=0.6, mfc="white", mec=colour)
    for name, colour in PALETTES["stain"].items():
        x = float(stains[f"{name[0]}_red"].median())
        ax.annotate(name, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                    ha="center", color=colour, fontsize=7)  # fmt: skip
    ax.set_xlabel("density per unit of stain, red light")
    ax.set_ylabel("density per unit of stain, blue light")
    ax.legend(title=by, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    return ax


def plot_pca(
    table: "pd.DataFrame",
    *,
    ax: "Axes",
    by: str = "site",
    share: Sequence[float] = (),
    thumbnails: Mapping[int, "NDArray[np.uint8]"] | None = None,
) -> "Axes":
    """Draw tiles on two main directions, coloured by group, with some tiles as pictures.

    Parameters
    ----------
    table : DataFrame
        pc1, pc2 and `by`; one row per tile.
    ax : Axes
    by : str
    share : sequence of float
        Of the variance, for the axes' labels.
    thumbnails : mapping of int to ndarray
        Row of `table` to the picture drawn there.

    Returns
    -------
    Axes
    """
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    for number, (name, part) in enumerate(table.groupby(by)):
        colour = SEQUENCE[number % len(SEQUENCE)]
        ax.plot(part["pc1"], part["pc2"], "o", ms=2.2, mew=0, alpha=0.75, color=colour, label=str(name))
    for row, picture in (thumbnails or {}).items():
        at = (table.loc[row, "pc1"], table.loc[row, "pc2"])
        box = AnnotationBbox(OffsetImage(picture, zoom=24 / picture.shape[0]), at, frameon=True, pad=0.08)
        box.patch.set_linewidth(0.5)
        ax.add_artist(box)
    percent = [f" ({value:.0%} of the variance)" for value in share] or ["", ""]
    ax.set_xlabel(f"main direction 1{percent[0]}")
    ax.set_ylabel(f"main direction 2{percent[1]}")
    ax.legend(title=by, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    return ax


def plot_probe(table: "pd.DataFrame", *, ax: "Axes") -> "Axes":
    """Draw how well features tell the site, beside chance and the null of relabelled cases.

    Parameters
    ----------
    table : DataFrame
        encoder, balanced_accuracy, chance, null_mean, null_q95, n_cases.
    ax : Axes

    Returns
    -------
    Axes
    """
    for row in table.itertuples():
        y = int(row.Index)
        ax.barh(y, row.balanced_accuracy, height=0.55, color=BLUE, zorder=2)
        ax.plot([row.null_mean, row.null_q95], [y, y], color=BLACK, lw=1.6, zorder=3)
        ax.text(row.balanced_accuracy, y, f" {row.balanced_accuracy:.2f}", va="center", fontsize=7)
    ax.axvline(table["chance"].iloc[0], color=GREY, lw=0.8, ls="--", zorder=1)
    ax.set_yticks(range(len(table)), list(table["encoder"]))
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlim(0, 1.12)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_xlabel("balanced accuracy of telling the site (held-out cases)")
    return ax
