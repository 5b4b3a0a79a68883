"""Figures of chapter 00: who entered, who left and why, how long they were followed, who trains and who tests."""

import textwrap
from typing import TYPE_CHECKING

from helpers.core.vocab import ENDPOINT_LABELS
from helpers.figures.style import BLUE, GREY, SEQUENCE, VERMILION

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

BOX_WIDTH, SIDE_X, SIDE_WIDTH = 0.44, 0.56, 0.44
LINE_HEIGHT = 0.34  # of a flow row
MAX_REASONS = 4


def plot_flow(flow: "pd.DataFrame", *, ax: "Axes") -> "Axes":
    """Draw an inclusion flow: boxes with counts downwards, who left and why beside them.

    Parameters
    ----------
    flow : DataFrame
        Of `CohortFlow.to_table`, one kind of item: step, reason, n_before, n_lost, n_after.
    ax : Axes

    Returns
    -------
    Axes
    """
    steps = list(flow.groupby("step", sort=False))
    kind = flow["kind"].iloc[0]
    for row, (step, part) in enumerate(steps):
        n = int(part["n_after"].iloc[0])
        plural = "" if n == 1 else "s"
        _draw_box(ax, 0.0, row, BOX_WIDTH, f"{_capitalise(str(step))}\n{n:,} {kind}{plural}", colour=BLUE, bold=True)
        if row:
            _draw_arrow(ax, (BOX_WIDTH / 2, row - 1 + LINE_HEIGHT), (BOX_WIDTH / 2, row - LINE_HEIGHT))
        lost = part[part["n_lost"] > 0]
        if len(lost):
            _draw_arrow(ax, (BOX_WIDTH / 2, row - 0.5), (SIDE_X, row - 0.5))
            _draw_box(ax, SIDE_X, row - 0.5, SIDE_WIDTH, _list_reasons(lost), colour=VERMILION)
    ax.set(xlim=(-0.01, 1.01), ylim=(len(steps) - 0.5, -0.5))
    ax.set_axis_off()
    return ax


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def _list_reasons(lost: "pd.DataFrame") -> str:
    shown = lost.head(MAX_REASONS)
    lines = [f"{int(row.n_lost):,} left: {row.reason}" for row in shown.itertuples()]
    if len(lost) > len(shown):
        rest = lost.iloc[len(shown) :]
        lines.append(f"{int(rest['n_lost'].sum()):,} left for {len(rest)} more reasons")
    return "\n".join(textwrap.fill(line, 40, subsequent_indent="   ") for line in lines)


def _draw_box(ax: "Axes", x: float, row: float, width: float, text: str, *, colour: str, bold: bool = False) -> None:
    from matplotlib.patches import FancyBboxPatch

    lines = text.count("\n") + 1
    half = max(LINE_HEIGHT, 0.13 * lines) if bold else 0.055 + 0.105 * lines
    box = FancyBboxPatch(
        (x, row - half), width, 2 * half, boxstyle="round,pad=0,rounding_size=0.012", fc=f"{colour}12", ec=colour,
        lw=0.8, gid="kept" if bold else "lost",
    )  # fmt: skip
    ax.add_patch(box)
    ax.text(
        x + width / 2 if bold else x + 0.015, row, text, ha="center" if bold else "left", va="center",
        fontsize=7 if bold else 6.2, linespacing=1.25,
    )  # fmt: skip


def _draw_arrow(ax: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate(
        "",
        xy=end,
        xytext=start,
        arrowprops={"arrowstyle": "-|>", "lw": 0.7, "color": "0.3", "shrinkA": 0, "shrinkB": 0},
    )


def plot_outcome_counts(counts: "pd.DataFrame", *, ax: "Axes") -> "Axes":
    """Draw events, censored and unknown cases of every endpoint as stacked bars.

    Parameters
    ----------
    counts : DataFrame
        Of `count_outcomes`.
    ax : Axes

    Returns
    -------
    Axes
    """
    parts = (
        ("n_events", "event", VERMILION),
        ("n_censored", "censored", "#BBD3E6"),
        ("n_unknown", "not known", "0.85"),
    )
    left = counts["n_events"] * 0
    positions = range(len(counts))
    for column, label, colour in parts:
        bars = ax.barh(positions, counts[column], left=left, color=colour, label=label, height=0.62)
        if column == "n_events":
            ax.bar_label(bars, fmt="{:,.0f}", label_type="center", color="white", fontsize=6.2, fontweight="bold")
        left = left + counts[column]
    ax.set_yticks(positions, [ENDPOINT_LABELS[name] for name in counts["endpoint"]])
    ax.invert_yaxis()
    ax.set_xlabel("Cases")
    ax.set_xlim(0, float(left.max()))
    ax.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, handlelength=1.0, columnspacing=1.2)
    return ax


def plot_under_observation(counts: "pd.DataFrame", *, ax: "Axes", unit: str = "years") -> "Axes":
    """Draw how many cases are still observed and free of each endpoint's event.

    Parameters
    ----------
    counts : DataFrame
        Of `count_under_observation`.
    ax : Axes
    unit : str
        'years' or 'months'.

    Returns
    -------
    Axes
    """
    scale = 12.0 if unit == "years" else 1.0
    labels: dict[tuple[tuple[float, float], ...], list[str]] = {}  # endpoints whose curves coincide share a line
    for endpoint, part in counts.groupby("endpoint", sort=False):
        curve = tuple(zip(part["time_months"] / scale, part["n_at_risk"], strict=True))
        labels.setdefault(curve, []).append(ENDPOINT_LABELS[str(endpoint)])
    for colour, (curve, names) in zip(SEQUENCE, labels.items(), strict=False):
        ax.plot(*zip(*curve, strict=True), color=colour, lw=1.0, label="\n".join(names))
    ax.set(xlabel=f"Follow-up, {unit}", ylabel="Cases observed, without event")
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper right")
    return ax


def plot_folds(counts: "pd.DataFrame", *, ax: "Axes") -> "Axes":
    """Draw which sites each fold tests and which are set aside.

    Parameters
    ----------
    counts : DataFrame
        Of `count_folds`: part, site, n_cases.
    ax : Axes

    Returns
    -------
    Axes
    """
    table = counts.pivot(index="part", columns="site", values="n_cases").fillna(0)
    table = table.loc[sorted(table.index, key=_order_part)]
    order = table.sum().sort_values(ascending=False).index
    left = table.sum(axis=1) * 0
    for number, site in enumerate(order):
        colour = SEQUENCE[number % len(SEQUENCE)] if number < len(SEQUENCE) else GREY
        bars = ax.barh(range(len(table)), table[site], left=left, color=colour, ec="white", lw=0.6, height=0.7)
        labels = [str(site) if value >= 0.06 * table.sum(axis=1).max() else "" for value in table[site]]
        ax.bar_label(bars, labels=labels, label_type="center", color="white", fontsize=6)
        left = left + table[site]
    ax.set_yticks(range(len(table)), [_capitalise(name) for name in table.index])
    ax.invert_yaxis()
    ax.set_xlabel("Cases tested, by site")
    for position, total in enumerate(left):
        ax.text(total, position, f" {int(total)}", va="center", fontsize=6.2)
    return ax


def _order_part(part: str) -> tuple[int, int]:
    ranks = {"internal test": 1, "external": 2}
    return (ranks[part], 0) if part in ranks else (0, int(part.split()[-1]))
