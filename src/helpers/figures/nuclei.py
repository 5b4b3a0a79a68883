"""Outlined nuclei on their tile, plain or sorted into matched, missed and false. Nothing is measured here."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from helpers.figures.slides import frame_image, pick_length
from helpers.figures.style import GREEN, VERMILION, YELLOW, add_scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from helpers.features.nuclei import Labels

FATE_COLOURS = {"matched": GREEN, "missed": YELLOW, "false": VERMILION}


def plot_nuclei(
    image: "NDArray[np.uint8]",
    labels: "Labels",
    *,
    ax: "Axes",
    um_per_px: float,
    colour: str = YELLOW,
    length_um: float | None = None,
    title: str = "",
) -> "Axes":
    """Draw an image with the outline of every nucleus and a scale bar.

    Parameters
    ----------
    image : ndarray, (H, W, 3), uint8
    labels : ndarray, (H, W), int32
        Nuclei from 1, without gaps.
    ax : Axes
    um_per_px : float
    colour : str
    length_um : float, optional
        Of the scale bar; about a fifth of the width where not given.
    title : str

    Returns
    -------
    Axes
    """
    _draw_image(image, ax, um_per_px=um_per_px, length_um=length_um)
    count = _draw_outlines(labels, ax, colour=colour, gid="nuclei")
    ax.set_title(title or f"{count:,} nuclei")
    return ax


def plot_nuclei_evaluation(
    image: "NDArray[np.uint8]",
    truth: "Labels",
    found: "Labels",
    fates: Mapping[str, Sequence[int]],
    *,
    ax: "Axes",
    um_per_px: float,
    length_um: float | None = None,
    title: str = "",
) -> "Axes":
    """Draw found nuclei as matched or false, and outlined nuclei that were missed, with their numbers.

    Parameters
    ----------
    image : ndarray, (H, W, 3), uint8
    truth, found : ndarray, (H, W), int32
    fates : mapping of str to sequence of int
        'matched' and 'false': numbers of `found`; 'missed': numbers of `truth`
        (`helpers.stats.segmentation.classify_objects`).
    ax : Axes
    um_per_px : float
    length_um : float, optional
        Of the scale bar.
    title : str

    Returns
    -------
    Axes
    """
    _draw_image(image, ax, um_per_px=um_per_px, length_um=length_um)
    for fate, colour in FATE_COLOURS.items():
        source = truth if fate == "missed" else found
        chosen = np.where(np.isin(source, list(fates[fate])), source, 0).astype(np.int32)
        count = _draw_outlines(chosen, ax, colour=colour, gid=fate)
        ax.plot([], [], color=colour, lw=1.5, label=f"{fate} ({count:,})")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.01), ncols=3, borderaxespad=0, handlelength=1.2)
    ax.set_title(title)
    return ax


def _draw_image(image: "NDArray[np.uint8]", ax: "Axes", *, um_per_px: float, length_um: float | None) -> None:
    ax.imshow(image, interpolation="antialiased")
    frame_image(ax)
    add_scale_bar(ax, um_per_px=um_per_px, length_um=length_um or pick_length(um_per_px * image.shape[1]))


def _draw_outlines(labels: "Labels", ax: "Axes", *, colour: str, gid: str) -> int:
    """Draw closed outlines half a pixel outside the border pixels' centres, and return their number."""
    from matplotlib.collections import LineCollection

    rings = list(_trace_outlines(labels))
    lines = LineCollection(rings, colors=colour, linewidths=0.8, gid=gid)
    ax.add_collection(lines, autolim=False)
    return len(rings)


def _trace_outlines(labels: "Labels") -> "list[NDArray[np.float64]]":
    from scipy.ndimage import find_objects
    from skimage.measure import find_contours

    rings = []
    for number, window in enumerate(find_objects(labels), start=1):
        if window is not None:
            mask = np.pad(labels[window] == number, 1).astype(np.float32)
            ring = max(find_contours(mask, 0.5), key=len)
            rings.append(ring[:, ::-1] - 1 + [window[1].start, window[0].start])
    return rings
