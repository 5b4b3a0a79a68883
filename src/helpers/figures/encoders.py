"""Encoders as pictures: what an augmentation does, how the loss fell, what probes find. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from helpers.figures.style import BLACK, BLUE, GREY, ORANGE, VERMILION, add_scale_bar

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

ENCODER_COLOURS = {
    "phantom-s": BLUE,
    "phantom-s-morphology": ORANGE,
    "stain_texture": BLACK,
    "random ResNet-50": GREY,
    "mean_colour": VERMILION,
}
ENCODER_MARKERS = {
    "phantom-s": "o",
    "phantom-s-morphology": "s",
    "stain_texture": "D",
    "random ResNet-50": "^",
    "mean_colour": "v",
}


def name_label(label: str) -> str:
    """Name what is probed or learnt as an axis should.

    Parameters
    ----------
    label : str

    Returns
    -------
    str
    """
    return label.replace("_", " ").replace("til ", "TIL ")


def plot_views(
    rows: "Mapping[str, NDArray[np.uint8]]", axes: "Sequence[Axes]", *, um_per_px: float
) -> "Sequence[Axes]":
    """Draw augmented views below the crops they were made from.

    Parameters
    ----------
    rows : mapping of str to ndarray, (n, h, w, 3), uint8
        One row of pictures per name, the crops first.
    axes : sequence of Axes
        One per row.
    um_per_px : float

    Returns
    -------
    sequence of Axes
    """
    for ax, (name, images) in zip(axes, rows.items(), strict=True):
        gap = np.full((images.shape[1], 3, 3), 255, np.uint8)
        strip = np.concatenate([part for image in images for part in (image, gap)][:-1], axis=1)
        ax.imshow(strip, interpolation="antialiased")
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    add_scale_bar(axes[0], um_per_px=um_per_px, length_um=20.0)
    return axes


def plot_loss(history: "pd.DataFrame", *, ax: "Axes", parts: Sequence[str]) -> "Axes":
    """Draw how the parts of a loss fell, a running mean over 15 steps above the single steps.

    Parameters
    ----------
    history : DataFrame
        step and one column per part; a column `<part>_smooth` is drawn as the line.
    ax : Axes
    parts : sequence of str

    Returns
    -------
    Axes
    """
    from matplotlib.ticker import LogLocator, NullLocator

    colours = (BLUE, ORANGE, VERMILION, BLACK, GREY)
    for colour, part in zip(colours, parts, strict=False):
        ax.plot(history["step"], history[part], color=colour, lw=0.4, alpha=0.3)
        ax.plot(history["step"], history[f"{part}_smooth"], color=colour, lw=1.2, label=name_label(part))
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    if len(parts) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def plot_probe_forest(table: "pd.DataFrame", *, ax: "Axes", label: str) -> "Axes":
    """Draw one mark and its interval per encoder and probe; probes are rows, encoders colours.

    Parameters
    ----------
    table : DataFrame
        encoder, row (what is probed), value, ci_low, ci_high; rows in the order of first appearance.
    ax : Axes
    label : str
        Of the axis.

    Returns
    -------
    Axes
    """
    rows, encoders = list(dict.fromkeys(table["row"])), list(dict.fromkeys(table["encoder"]))
    for number, encoder in enumerate(encoders):
        part = table[table["encoder"] == encoder]
        y = np.array([rows.index(row) for row in part["row"]]) + 0.15 * (number - (len(encoders) - 1) / 2)
        colour, marker = ENCODER_COLOURS.get(encoder, BLACK), ENCODER_MARKERS.get(encoder, "o")
        ax.hlines(y, part["ci_low"], part["ci_high"], color=colour, lw=1.0)
        ax.plot(part["value"], y, marker, ms=3.8, mew=0, color=colour, label=encoder, clip_on=False)
    for boundary in np.arange(len(rows) - 1) + 0.5:
        ax.axhline(boundary, color=GREY, lw=0.3)
    ax.axvline(0, color=GREY, lw=0.8, ls="--", zorder=0)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(label)
    return ax
