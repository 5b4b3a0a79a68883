"""The scoreboard as pictures: what this run found beside what was planted, published or measured before."""

from typing import TYPE_CHECKING

from helpers.figures.style import GREY, PALETTES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ROW_MM = 5.2
"""Height of one row; a figure of n rows wants n * ROW_MM plus 22 mm for its axis and header."""
VERDICTS = {True: "holds", False: "does not hold"}


def plot_comparison(table: "pd.DataFrame", *, ax: "Axes", log: bool = False, label: str = "") -> "Axes":
    """Draw one line per quantity: this run's value with its interval, and its reference with its own.

    Parameters
    ----------
    table : DataFrame, rows of the scoreboard
        Columns id, value, ci_low, ci_high, n, n_events, reference, reference_low, reference_high, kind, holds.
    ax : Axes
    log : bool
        A log axis with a line at 1, for ratios; otherwise a line at 0.
    label : str
        What the horizontal axis measures.

    Returns
    -------
    Axes
    """
    colours = PALETTES["kind"]
    for y, row in enumerate(table.itertuples()):
        if row.reference_low == row.reference_low and row.reference_high == row.reference_high:
            band = [row.reference_low, row.reference_high]
            ax.plot(band, [y, y], color="0.82", lw=7, solid_capstyle="butt", zorder=1)
        if row.reference == row.reference:
            ax.plot(row.reference, y, marker="D", ms=4, mfc="white", mec="0.25", mew=0.9, ls="", zorder=3)
        if row.ci_low == row.ci_low and row.ci_high == row.ci_high:
            ax.plot([row.ci_low, row.ci_high], [y, y], color=colours[row.kind], lw=1.4, zorder=2)
        ax.plot(row.value, y, marker="o", ms=4.5, color=colours[row.kind], ls="", zorder=4)
    ax.axvline(1.0 if log else 0.0, color=GREY, lw=0.6, ls=":")
    if log:
        ax.set_xscale("log")
        _label_ratio_ticks(ax)
    ax.set_yticks(range(len(table)), [_shorten_id(name) for name in table["id"]])
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlabel(label)
    _write_columns(table, ax)
    return ax


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


def _write_columns(table: "pd.DataFrame", ax: "Axes") -> None:
    """Write value, reference, n (events) and verdict at the right of the axes."""
    columns = {
        1.03: ("this run (95 % CI)", [_format(r.value, r.ci_low, r.ci_high) for r in table.itertuples()]),
        1.34: ("reference", [_format(r.reference, r.reference_low, r.reference_high) for r in table.itertuples()]),
        1.62: ("n (events)", [_format_n(r.n, r.n_events) for r in table.itertuples()]),
        1.80: ("", [VERDICTS.get(r.holds, "") for r in table.itertuples()]),
    }
    for x, (header, texts) in columns.items():
        ax.text(x, 1.01, header, transform=ax.transAxes, fontsize=6, weight="bold", va="bottom")
        for y, text in enumerate(texts):
            colour = PALETTES["status"]["failed"] if text == VERDICTS[False] else "black"
            ax.text(x, y, text, transform=ax.get_yaxis_transform(), fontsize=6, va="center", color=colour)


def _format(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or value != value:
        return f"{low:.2f} to {high:.2f}" if low == low and low is not None and high is not None else "–"
    interval = f" ({low:.2f}, {high:.2f})" if low is not None and low == low and high == high else ""
    return f"{value:.2f}{interval}"


def _format_n(n: float | None, n_events: float | None) -> str:
    if n is None or n != n:
        return ""
    return f"{n:,.0f}" + ("" if n_events is None or n_events != n_events else f" ({n_events:,.0f})")
