"""How a network was trained: the tiles it saw, and how its error fell."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from helpers.figures.style import BLACK, SEQUENCE, add_scale_bar

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def plot_tile_rows(
    rows: "Mapping[str, NDArray[np.uint8]]", axes: "Sequence[Axes]", *, um_per_px: "Sequence[float]"
) -> "Sequence[Axes]":
    """Draw rows of tiles below each other, each row with its name and a scale bar.

    Parameters
    ----------
    rows : mapping of str to ndarray, (n, h, w, 3), uint8
    axes : sequence of Axes
        One per row.
    um_per_px : sequence of float
        One per row.

    Returns
    -------
    sequence of Axes
    """
    for ax, (name, images), resolution in zip(axes, rows.items(), um_per_px, strict=True):
        gap = np.full((images.shape[1], max(1, images.shape[2] // 32), 3), 255, np.uint8)
        strip = np.concatenate([part for image in images for part in (image, gap)][:-1], axis=1)
        ax.imshow(strip, interpolation="antialiased")
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_title(name)
        add_scale_bar(ax, um_per_px=resolution, length_um=50.0)
    return axes


def plot_history(history: "pd.DataFrame", *, ax: "Axes") -> "Axes":
    """Draw training and validation error of every fold, with a dot where its weights were kept.

    Parameters
    ----------
    history : DataFrame
        fold, epoch, loss, validation, chosen.
    ax : Axes

    Returns
    -------
    Axes
    """
    for number, (fold, rows) in enumerate(history.groupby("fold")):
        colour = SEQUENCE[number % len(SEQUENCE)]
        ax.plot(rows["epoch"], rows["loss"], color=colour, lw=0.7, ls=":", gid="loss")
        ax.plot(rows["epoch"], rows["validation"], color=colour, lw=1.3, label=f"fold {fold}", gid="validation")
        kept = rows[rows["chosen"]]
        ax.plot(kept["epoch"], kept["validation"], marker="o", ms=4.5, color=colour, ls="", gid="chosen")
    ax.axhline(1.0, color=BLACK, lw=0.6, ls="--")
    ax.text(1.0, 1.0, " the mean", transform=ax.get_yaxis_transform(), va="center", fontsize=6)
    ax.set(xlabel="epoch", ylabel="squared error (scaled target)")
    ax.set_xticks(sorted(history["epoch"].unique().tolist()))
    ax.set_title("Dotted: tiles that train. Solid: cases that decide when to stop")
    ax.legend(bbox_to_anchor=(1.1, 0.5), loc="center left")
    return ax
