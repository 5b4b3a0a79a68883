"""Genes predicted from slides as pictures. Every function draws a tidy table on the axes it is given."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from helpers.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MAP_COLOURS = {
    "value": BLUE, "attention": ORANGE, "product": PURPLE, "random": GREY, "random_attention": GREY,
    "tumour_mask": BLACK, "any": GREY,
}  # fmt: skip
MAP_LABELS = {
    "value": "Value", "attention": "Attention", "product": "Attention × value", "random": "Random order",
    "random_attention": "Untrained attention", "tumour_mask": "Tumour share of the tile", "any": "Any tile",
}  # fmt: skip


def plot_ranked_genes(
    table: "pd.DataFrame", *, ax: "Axes", level: float = 0.05, named: Sequence[str] = (),
    reference: float | None = None, reference_label: str = "",
) -> "Axes":  # fmt: skip
    """Draw every gene's correlation with its interval, best first.

    Parameters
    ----------
    table : DataFrame
        target, value, ci_low, ci_high, found (bool: discovered at `level`).
    ax : Axes
    level : float
        False discovery rate at which a gene counts as found.
    named : sequence of str
        Genes to write out where there is no room for all.
    reference : float, optional
        Drawn across, such as a published median.
    reference_label : str

    Returns
    -------
    Axes
    """
    rows = table.sort_values("value", ascending=False).reset_index(drop=True)
    for found, colour, label in ((True, BLUE, f"found at FDR {100 * level:g} %"), (False, GREY, "not found")):
        some = rows[rows["found"] == found]
        if some.empty:
            continue
        ax.vlines(some.index, some["ci_low"], some["ci_high"], color=colour, lw=0.7, alpha=0.7)
        ax.plot(some.index, some["value"], "o", ms=2.6, color=colour, label=f"{label} ({len(some)})", gid="genes")
    ax.axhline(0, color=GREY, lw=0.7, ls=":")
    if reference is not None:
        ax.axhline(reference, color=VERMILION, lw=0.9, ls="--", label=reference_label, gid="reference")
    few = len(rows) <= 60
    shown = rows if few else rows[rows["target"].isin(named)]
    ax.set_xticks(shown.index, shown["target"], rotation=90, fontsize=5 if few else 5.5)
    ax.set_xlim(-0.8, len(rows) - 0.2)
    ax.set_ylabel("Spearman ρ, out of fold (95 % CI)")
    ax.legend(loc="upper right", handletextpad=0.3)
    return ax


def plot_volcano(table: "pd.DataFrame", *, ax: "Axes", level: float = 0.05, named: Sequence[str] = ()) -> "Axes":
    """Draw correlation against the permutation p-value of every gene.

    Parameters
    ----------
    table : DataFrame
        target, value, p, q; and role, optional, for colours.
    ax : Axes
    level : float
        Of q; the line is the largest p that it lets pass.
    named : sequence of str
        Genes written beside their dots.

    Returns
    -------
    Axes
    """
    roles = table["role"] if "role" in table else table["q"].le(level).map({True: "found", False: "not found"})
    colours = dict(zip(dict.fromkeys(roles), (BLUE, GREEN, ORANGE, PURPLE, SKY, GREY, BLACK), strict=False))
    colours |= {"null": GREY, "not found": GREY, "found": BLUE}
    height = -np.log10(table["p"])
    jitter = np.random.default_rng(1).uniform(-0.02, 0.02, len(table)) * height.max()
    for role, colour in colours.items():
        some = (roles == role).to_numpy()
        if some.any():
            ax.scatter(
                table["value"][some], (height + jitter)[some], s=11, color=colour, lw=0, alpha=0.8,
                label=f"{role.replace('_', ' ')} ({some.sum()})", gid="genes",
            )  # fmt: skip
    passed = table.loc[table["q"] <= level, "p"]
    if len(passed):
        ax.axhline(-np.log10(passed.max()) - 0.03 * height.max(), color=VERMILION, lw=0.9, ls="--", gid="level")
        note = f"FDR {level:.0%}: {len(passed)} of {len(table)}"
        ax.text(0.01, -np.log10(passed.max()) - 0.05 * height.max(), note, transform=ax.get_yaxis_transform(),
                color=VERMILION, fontsize=6, va="top")  # fmt: skip
    for _, row in table[table["target"].isin(list(named))].iterrows():
        place = (row["value"], float(height[row.name] + jitter[table.index.get_loc(row.name)]))
        ax.annotate(row["target"], place, xytext=(1, 5), textcoords="offset points", fontsize=5.5)
    ax.axvline(0, color=GREY, lw=0.7, ls=":")
    ax.set_ylim(-0.06 * height.max(), 1.12 * height.max())
    ax.set_xlabel("held-out correlation of ranks")
    ax.set_ylabel("−log₁₀ p, within-site permutations")
    ax.legend(loc="upper left", fontsize=5.5, handletextpad=0.1, borderpad=0)
    return ax


def plot_gene_structure(
    matrix: "pd.DataFrame", *, ax: "Axes", title: str = "", label: str = "Spearman ρ between genes"
) -> "Axes":
    """Draw the correlations between genes as a heat map.

    Parameters
    ----------
    matrix : DataFrame, (k, k)
        In the order to draw.
    ax : Axes
    title, label : str

    Returns
    -------
    Axes
    """
    drawn = ax.imshow(matrix.to_numpy(), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", gid="structure")
    few = len(matrix) <= 60
    step = 1 if few else int(np.ceil(len(matrix) / 50))
    ticks = range(0, len(matrix), step)
    size = 4.2 if len(matrix) > 30 else 5.5
    ax.set_xticks(ticks, matrix.columns[::step], rotation=90, fontsize=size)
    ax.set_yticks(ticks, matrix.index[::step], fontsize=size)
    ax.tick_params(length=0, pad=1)
    ax.set_title(title)
    ax.figure.colorbar(drawn, ax=ax, fraction=0.04, pad=0.02).set_label(label)
    return ax


def plot_paired_genes(
    table: "pd.DataFrame", *, ax: "Axes", xlabel: str, ylabel: str, named: Sequence[str] = (), title: str = ""
) -> "Axes":
    """Draw one value of every gene against another, with the line of equality.

    Parameters
    ----------
    table : DataFrame
        target, x, y; and found (bool, filled dots), optional.
    ax : Axes
    xlabel, ylabel, title : str
    named : sequence of str
        Genes written beside their dots.

    Returns
    -------
    Axes
    """
    filled = table["found"].to_numpy(bool) if "found" in table else np.ones(len(table), bool)
    low = float(np.nanmin([table["x"].min(), table["y"].min(), 0]))
    high = float(np.nanmax([table["x"].max(), table["y"].max()])) + 0.03
    ax.plot([low, high], [low, high], color=GREY, lw=0.7, ls="--", zorder=0, gid="identity")
    size = 12 if len(table) <= 300 else 4
    ax.scatter(table["x"], table["y"], s=size, facecolors=np.where(filled, BLUE, "white"), edgecolors=BLUE, lw=0.5)
    for row in table[table["target"].isin(list(named))].itertuples():
        ax.annotate(row.target, (row.x, row.y), xytext=(3, -1), textcoords="offset points", fontsize=5.5)
    ax.set(xlim=(low - 0.02, high), ylim=(low - 0.02, high), aspect="equal")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.set_title(title)
    return ax


def draw_contours(
    coords_um: np.ndarray,
    values: np.ndarray,
    *,
    ax: "Axes",
    tile_um: float,
    share: float = 0.1,
    colour: str = VERMILION,
) -> "Axes":
    """Draw outlines around the highest tiles of a map.

    Parameters
    ----------
    coords_um : ndarray, (n_tiles, 2)
        Upper left corners.
    values : ndarray, (n_tiles,)
    ax : Axes
        With an axis in um, y downwards.
    tile_um : float
    share : float
        Of the tiles inside the outlines.
    colour : str

    Returns
    -------
    Axes
        With a LineCollection of gid 'contour': edges between a tile inside and a place outside.
    """
    from matplotlib.collections import LineCollection

    inside = values >= np.quantile(values, 1 - share)
    cells = {(round(x / tile_um, 3), round(y / tile_um, 3)) for x, y in coords_um[inside]}
    edges = []
    for x, y in sorted(cells):
        for dx, dy, line in (
            (-1, 0, ((x, y), (x, y + 1))), (1, 0, ((x + 1, y), (x + 1, y + 1))),
            (0, -1, ((x, y), (x + 1, y))), (0, 1, ((x, y + 1), (x + 1, y + 1))),
        ):  # fmt: skip
            if (round(x + dx, 3), round(y + dy, 3)) not in cells:
                edges.append([(a * tile_um, b * tile_um) for a, b in line])
    ax.add_collection(LineCollection(edges, colors=colour, linewidths=1.0, gid="contour"))
    return ax


def plot_map_quality(
    table: "pd.DataFrame", *, ax: "Axes", quantity: str = "auroc", chance: float | None = 0.5, title: str = ""
) -> "Axes":
    """Draw how well maps point at what was planted, one line per gene and map.

    Parameters
    ----------
    table : DataFrame
        target, map, quantity, value, ci_low, ci_high.
    ax : Axes
    quantity : str
    chance : float, optional
        Drawn as a line.
    title : str

    Returns
    -------
    Axes
    """
    rows = table[table["quantity"] == quantity].dropna(subset="value").reset_index(drop=True)
    for y, row in rows.iterrows():
        colour = MAP_COLOURS.get(row["map"], BLACK)
        ax.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=1.2)
        ax.plot(row["value"], y, "o", ms=4, color=colour, gid="estimate")
    labels = [f"{row.target} · {MAP_LABELS.get(row.map, row.map)}" for row in rows.itertuples()]
    ax.set_yticks(range(len(rows)), labels)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    if chance is not None:
        ax.axvline(chance, color=GREY, lw=0.7, ls=":")
    names = {
        "auroc": "AUROC inside the tumour, mean over slides (95 % CI)",
        "enrichment": "share of hot tiles in the top tenth, over that in all",
        "distance_tiles": "distance of the highest tile from a planted peak, tile widths",
    }
    ax.set_xlabel(names.get(quantity, quantity))
    ax.set_title(title)
    return ax


def plot_deletion(table: "pd.DataFrame", *, ax: "Axes", title: str = "", unit: str = "log2") -> "Axes":
    """Draw how far predictions fall as tiles are taken away.

    Parameters
    ----------
    table : DataFrame
        From `summarise_deletion`.
    ax : Axes
    title, unit : str

    Returns
    -------
    Axes
    """
    for name, rows in table.groupby("map", sort=False):
        colour = MAP_COLOURS.get(str(name), BLACK)
        ax.fill_between(100 * rows["share"], rows["ci_low"], rows["ci_high"], color=colour, alpha=0.15, lw=0)
        label = MAP_LABELS.get(str(name), str(name))
        style = "o--" if name == "product" else "o-"
        ax.plot(100 * rows["share"], rows["fall"], style, ms=2.5, color=colour, label=label, gid=str(name))
    ax.axhline(0, color=GREY, lw=0.7, ls=":")
    ax.set_xlabel("tiles taken away, highest first, %")
    ax.set_ylabel(f"change of the prediction, {unit} (95 % CI)")
    ax.set_title(title)
    ax.legend(loc="lower left")
    return ax


def plot_tile_gallery(
    tiles: "pd.DataFrame", images: Sequence[np.ndarray], *, axes: "Sequence[Axes]", tile_um: float, n_columns: int
) -> "list[Axes]":
    """Draw the top tile of every bin of predicted values, low to high, one row per gene.

    Parameters
    ----------
    tiles : DataFrame
        target, bin, y_pred, slide_id: one row per image, row by row.
    images : sequence of ndarray, (h, w, 3), uint8
    axes : sequence of Axes
        One per image.
    tile_um : float
        Edge of a tile; the scale bar is a half of it, rounded.
    n_columns : int
        Bins.

    Returns
    -------
    list of Axes
    """
    bar = max(step for step in (10, 20, 25, 50, 100, 200) if step <= max(10.0, tile_um / 2))
    for place, (row, image, ax) in enumerate(zip(tiles.itertuples(), images, axes, strict=True)):
        ax.imshow(image, interpolation="lanczos")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{row.y_pred:.1f}", fontsize=6, fontweight="normal", loc="center")
        if place % n_columns == 0:
            ax.set_ylabel(row.target, fontsize=7)
        if place == len(tiles) - 1:
            _add_bar(ax, image.shape, bar / tile_um, f"{bar} µm")
    return list(axes)


def _add_bar(ax: "Axes", shape: tuple[int, ...], share: float, text: str) -> None:
    height, width = shape[:2]
    end = 0.94 * width
    y = 0.93 * height
    ax.plot([end - share * width, end], [y, y], color=BLACK, lw=2, solid_capstyle="butt", gid="scale_bar")
    ax.text(end - share * width / 2, 0.9 * height, text, ha="center", va="bottom", fontsize=5)


def plot_screens(table: "pd.DataFrame", *, axes: "Sequence[Axes]", level: float = 0.05) -> "list[Axes]":
    """Draw the false discoveries of simulated cohorts, and their power.

    Parameters
    ----------
    table : DataFrame
        label, proportion, lower, upper, power, null_share, n_cohorts.
    axes : sequence of two Axes
    level : float

    Returns
    -------
    list of Axes
    """
    left, right = axes
    labels = [f"{row.label}\nπ₀ {row.null_share:.2f}, {row.n_cohorts:.0f} cohorts" for row in table.itertuples()]
    for y, row in enumerate(table.itertuples()):
        left.plot([row.lower, row.upper], [y, y], color=BLUE, lw=1.4)
        left.plot(row.proportion, y, "o", ms=4, color=BLUE, gid="proportion")
        if row.power == row.power:
            right.plot(row.power, y, "o", ms=4, color=GREEN, gid="power")
    left.axvline(level, color=VERMILION, lw=0.9, ls="--")
    left.set_xlim(0, max(1.6 * level, 1.1 * float(table["upper"].max())))
    left.set_yticks(range(len(table)), labels)
    right.set_yticks([])
    right.axvline(0.9, color=VERMILION, lw=0.9, ls="--")
    right.set_xlim(0, 1.03)
    for ax in axes:
        ax.set_ylim(len(table) - 0.5, -0.5)
    left.set_xlabel("mean false discovery proportion (one-sided 99 % bounds)")
    right.set_xlabel("share of linked genes found")
    return list(axes)


def plot_spot_map(
    spots: "pd.DataFrame", *, ax: "Axes", column: str, title: str = "", label: str = "", um_per_px: float = 1.0
) -> "Axes":
    """Draw a value of every spot of a section where it lies, with a scale bar.

    Parameters
    ----------
    spots : DataFrame
        x_l0, y_l0 (px of the slide's level 0) and `column`.
    ax : Axes
    column : str
    title, label : str
        Label of the colour bar.
    um_per_px : float

    Returns
    -------
    Axes
    """
    from helpers.figures.style import add_scale_bar

    x, y = (spots[name].to_numpy(float) * um_per_px for name in ("x_l0", "y_l0"))
    limits = np.quantile(spots[column], [0.02, 0.98])
    drawn = ax.scatter(x, y, c=spots[column], s=7, cmap="viridis", vmin=limits[0], vmax=limits[1], lw=0, gid="spots")
    pad = 200.0
    ax.set(
        xlim=(x.min() - pad, x.max() + pad), ylim=(y.max() + pad, y.min() - pad), aspect="equal", xticks=[], yticks=[]
    )
    add_scale_bar(ax, um_per_px=1.0, length_um=1000.0)
    ax.set_title(title)
    ax.figure.colorbar(drawn, ax=ax, fraction=0.04, pad=0.02).set_label(label)
    return ax
