"""The pictures of a case's report: tile scores over the slide, and where its score lies among the training cases."""

from typing import TYPE_CHECKING

import numpy as np

from helpers.figures.style import BLACK, GREY, PALETTES, add_scale_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def plot_score_overlay(
    image: "NDArray[np.uint8]",
    coords_um: "NDArray[np.float64]",
    scores: "NDArray[np.float64]",
    *,
    ax: "Axes",
    tile_um: float,
    size_um: "Sequence[float]",
    limits: tuple[float, float],
    label: str,
    alpha: float = 0.55,
    beside: "Sequence[Axes]" = (),
) -> "Axes":
    """Draw tile scores over a slide's thumbnail, in um, with a scale bar.

    Parameters
    ----------
    image : ndarray, (h, w, 3), uint8
        Thumbnail of the whole slide.
    coords_um : ndarray, (n_tiles, 2)
        Upper left corners (x, y).
    scores : ndarray, (n_tiles,)
        Empty where tiles have no score of their own.
    ax : Axes
    tile_um : float
    size_um : sequence of 2 floats
        Width and height of the slide.
    limits : tuple of float
        Scores at the ends of the colour scale.
    label : str
        Of the colour bar.
    alpha : float
        How opaque the tiles are.
    beside : sequence of Axes
        Axes that share the colour bar, so that all keep one size.

    Returns
    -------
    Axes
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    width, height = size_um
    ax.imshow(image, extent=(0, width, height, 0), interpolation="bilinear")
    if len(scores):
        squares = PatchCollection(
            [Rectangle((x, y), tile_um, tile_um) for x, y in coords_um], cmap="viridis", lw=0, alpha=alpha, gid="tiles"
        )
        squares.set_array(np.asarray(scores, float))
        squares.set_clim(*limits)
        ax.add_collection(squares)
        ax.figure.colorbar(squares, ax=[*beside, ax], fraction=0.04, pad=0.02).set_label(label)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color="0.8", lw=0.5)
    add_scale_bar(ax, um_per_px=1.0, length_um=_pick_length(width / 4))
    return ax


def _pick_length(um: float) -> float:
    power = 10.0 ** np.floor(np.log10(um))
    return float(max(step * power for step in (1, 2, 5) if step * power <= um))


def plot_score_position(
    training: "NDArray[np.float64]", *, ax: "Axes", score: float, cutoff: float, label: str
) -> "Axes":
    """Draw a case's score among the out-of-fold scores of the training cases, with the locked cut-off.

    Parameters
    ----------
    training : ndarray, (n,)
    ax : Axes
    score, cutoff : float
    label : str
        Of the horizontal axis.

    Returns
    -------
    Axes
    """
    low, high = min(training.min(), score), max(training.max(), score)
    counts, _, _ = ax.hist(training, bins="auto", color="0.8", edgecolor="white", lw=0.4, gid="training")
    top = float(np.max(counts))
    colour = PALETTES["risk"]["high" if score > cutoff else "low"]
    ax.plot([cutoff, cutoff], [0, 1.06 * top], color=BLACK, lw=0.9, ls="--", gid="cutoff")
    ax.plot([score, score], [0, 1.06 * top], color=colour, lw=2.0, gid="score")
    right = score > cutoff
    ax.text(cutoff, 1.1 * top, f"cut-off {cutoff:.2f}", ha="right" if right else "left", va="bottom", fontsize=6)
    ax.text(
        score, 1.1 * top, f"this case {score:.2f}", ha="left" if right else "right", va="bottom", fontsize=6,
        color=colour, weight="bold",
    )  # fmt: skip
    pad = 0.12 * (high - low)
    ax.set(xlim=(low - pad, high + pad), ylim=(0, 1.35 * top), xlabel=label)
    ax.set_ylabel(f"training cases (of {len(training)})")
    ax.axhline(0, color=GREY, lw=0.5)
    return ax
