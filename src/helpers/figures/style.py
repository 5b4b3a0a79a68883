"""The look of every figure: sizes in mm, one colour-blind-safe palette per meaning, editable SVG text.

The colours are those of Okabe and Ito (2008), which stay apart under all common colour-vision deficiencies.
"""

from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MM_PER_INCH = 25.4
SINGLE_COLUMN_MM = 89.0
DOUBLE_COLUMN_MM = 183.0

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A",
)  # fmt: skip

PALETTES: dict[str, dict[str, str]] = {
    "risk": {"low": BLUE, "high": VERMILION},
    "split": {"development": BLUE, "internal_test": GREEN, "external": ORANGE},
    "stain": {"haematoxylin": "#5B3A8C", "eosin": "#D9578F"},
    "kind": {"planted": BLUE, "published": VERMILION, "baseline": GREEN, "control": GREY},
    "source": {"image": PURPLE, "rna": GREEN, "clinical": GREY},
    "status": {"ok": GREEN, "reused": SKY, "failed": VERMILION},
    "subtype": {"LumA": BLUE, "LumB": SKY, "Her2": PURPLE, "Basal": VERMILION, "Normal": GREEN},
}
SEQUENCE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
"""For categories without a meaning of their own, such as sites."""

RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.0,
    "axes.titlesize": 8.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "histobook",
    "pdf.fonttype": 42,
    "figure.dpi": 120,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "image.cmap": "viridis",
}


def use_style() -> None:
    """Set matplotlib's defaults to the book's look."""
    import matplotlib as mpl

    mpl.rcParams.update(RC)  # type: ignore[arg-type]


def new_figure(
    *,
    width_mm: float = SINGLE_COLUMN_MM,
    height_mm: float = 65.0,
    rows: int = 1,
    columns: int = 1,
    **options: Any,
) -> "tuple[Figure, list[Axes]]":
    """Return a figure of a stated size and its axes, row by row.

    Parameters
    ----------
    width_mm, height_mm : float
        Size on paper; 89 mm is one column of most journals, 183 mm two.
    rows, columns : int
    **options : Any
        Passed to `matplotlib.pyplot.subplots`.

    Returns
    -------
    fig : Figure
    axes : list of Axes, rows * columns long
    """
    import matplotlib.pyplot as plt

    use_style()
    size = (width_mm / MM_PER_INCH, height_mm / MM_PER_INCH)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    return fig, list(axes.ravel())


def letter_panels(n: int) -> list[str]:
    """Return what the titles of panels begin with: letters where there is more than one.

    Parameters
    ----------
    n : int

    Returns
    -------
    list of str
    """
    return [f"{letter}  " for letter in ascii_lowercase[:n]] if n > 1 else [""] * n


def new_axes(*, width_mm: float = SINGLE_COLUMN_MM, height_mm: float = 65.0) -> "Axes":
    """Return the axes of a new figure with one panel.

    Parameters
    ----------
    width_mm, height_mm : float

    Returns
    -------
    Axes
    """
    return new_figure(width_mm=width_mm, height_mm=height_mm)[1][0]


def add_scale_bar(ax: "Axes", *, um_per_px: float, length_um: float, colour: str = BLACK) -> None:
    """Draw a scale bar with its length in um at the lower right of an image.

    Parameters
    ----------
    ax : Axes
        Shows an image, y downwards.
    um_per_px : float
        Of the image as drawn.
    length_um : float
    colour : str
    """
    left, right = sorted(ax.get_xlim())
    top, bottom = sorted(ax.get_ylim())
    end, y = right - 0.04 * (right - left), bottom - 0.05 * (bottom - top)
    length = length_um / um_per_px
    ax.plot([end - length, end], [y, y], color=colour, lw=2, solid_capstyle="butt", clip_on=False, gid="scale_bar")
    label = f"{length_um:g} µm" if length_um < 1000 else f"{length_um / 1000:g} mm"
    gap = 0.02 * (bottom - top)
    ax.text(end - length / 2, y - gap, label, ha="center", va="bottom", color=colour, fontsize=6)
