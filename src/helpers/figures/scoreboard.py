"""The scoreboard as pictures: what this run found beside what was planted, published or measured before."""

from typing import TYPE_CHECKING, Any

from helpers.figures.style import GREY, PALETTES, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_MM = 4.6
"""Height of one row of a comparison."""
FRAME_MM = 17.0
"""Height of its axis, label and header."""
VERDICTS = {True: "holds", False: "fails"}
WIDTH_MM = 190.0
COLUMNS = {"this run (95 % CI)": 0.0, "reference": 0.36, "n (events)": 0.66, "verdict": 0.88}
"""Headers of the columns beside a comparison, and where they begin (share of the width)."""


def new_comparison(n_rows: int) -> "tuple[Figure, Axes, Axes]":
    """Return a figure for `n_rows` quantities: axes to draw in, and axes beside it for the numbers.

    Parameters
    ----------
    n_rows : int

    Returns
    -------
    fig : Figure
    ax : Axes
    beside : Axes
    """
    fig, (ax, beside) = new_figure(
        width_mm=WIDTH_MM,
        height_mm=FRAME_MM + ROW_MM * n_rows,
        columns=2,
        width_ratios=[1.0, 1.5],
    )
    return fig, ax, beside


def plot_comparison(
    table: "pd.DataFrame", *, ax: "Axes", beside: "Axes | None" = None, log: bool = False, label: str = ""
) -> "Axes":
    """Draw one line per quantity: this run's value with its interval, and its reference with its own.

    Parameters
    ----------
    table : DataFrame, rows of the scoreboard
        Columns id, value, ci_low, ci_high, n, n_events, reference, reference_low, reference_high, kind, holds.
    ax : Axes
    beside : Axes, optional
        Where the numbers are written, row by row.
    log : bool
        A log axis with a line at 1, for ratios; otherwise a line at 0.
    label : str
        What the horizontal axis measures.

    Returns
    -------
    Axes
        `ax`.
    """
    for y, row in enumerate(table.itertuples()):
        _draw_row(ax, y, row)
    ax.axvline(1.0 if log else 0.0, color=GREY, lw=0.6, ls=":", zorder=0)
    if log:
        ax.set_xscale("log")
        _label_ratio_ticks(ax)
    ax.set_yticks(range(len(table)), [_shorten_id(name) for name in table["id"]])
    ax.tick_params(axis="y", length=0, labelsize=6)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlabel(label)
    if beside is not None:
        _write_columns(table, beside)
        beside.set_ylim(ax.get_ylim())
    return ax


def _draw_row(ax: "Axes", y: int, row: Any) -> None:
    colour = PALETTES["kind"][row.kind]
    if row.reference_low == row.reference_low and row.reference_high == row.reference_high:
        ax.plot([row.reference_low, row.reference_high], [y, y], color="0.85", lw=6, solid_capstyle="butt", zorder=1)
    if row.ci_low == row.ci_low and row.ci_high == row.ci_high:
        ax.plot([row.ci_low, row.ci_high], [y, y], color=colour, lw=1.4, zorder=2)
    if row.reference == row.reference:
        ax.plot(row.reference, y, marker="D", ms=4, mfc="white", mec="0.25", mew=0.9, ls="", zorder=4)
    ax.plot(row.value, y, marker="o", ms=4.5, color=colour, mec="white", mew=0.4, ls="", zorder=3)


def _shorten_id(name: str) -> str:
    chapter, quantity, *rest = name.split("/")
    return f"{chapter}  {quantity.replace('_', ' ')}  ·  {' · '.join(part.replace('_', ' ') for part in rest)}"


def _label_ratio_ticks(ax: "Axes") -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    low, high = ax.get_xlim()
    steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20] if high / low > 4 else [0.5, 0.7, 1, 1.5, 2, 3]
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in steps if low <= tick <= high]))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _write_columns(table: "pd.DataFrame", beside: "Axes") -> None:
    """Write value, reference, n (events) and verdict, one row per quantity."""
    rows = list(table.itertuples())
    texts = (
        [_format(row.value, row.ci_low, row.ci_high) for row in rows],
        [_format(row.reference, row.reference_low, row.reference_high) for row in rows],
        [_format_n(row.n, row.n_events) for row in rows],
        [VERDICTS.get(row.holds, "") for row in rows],
    )
    beside.axis("off")
    beside.set_xlim(0.0, 1.0)
    for (header, x), column in zip(COLUMNS.items(), texts, strict=True):
        beside.text(x, 1.01, header, transform=beside.transAxes, fontsize=6, weight="bold", va="bottom")
        for y, text in enumerate(column):
            colour = PALETTES["status"]["failed"] if text == VERDICTS[False] else "black"
            beside.text(x, y, text, fontsize=6, va="center", color=colour)


def _format(value: float, low: float, high: float) -> str:
    """Return 'value (low, high)'; a bound without its partner is written as one."""
    has_low, has_high = low == low, high == high
    if has_low and has_high:
        bounds = f"({low:.2f}, {high:.2f})"
    else:
        bounds = f"≥ {low:.2f}" if has_low else f"≤ {high:.2f}" if has_high else ""
    shown = f"{value:.2f} {bounds}".strip() if value == value else bounds or "–"
    return shown.replace("-", "−")


def _format_n(n: float, n_events: float) -> str:
    if n != n:
        return ""
    return f"{n:,.0f}" + (f" ({n_events:,.0f})" if n_events == n_events else "")
