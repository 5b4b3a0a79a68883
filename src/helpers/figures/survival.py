"""Survival figures: Kaplan–Meier with numbers at risk, forest plots, hazard ratios over time, cumulative incidence.

Nothing is computed here: every function takes tidy tables of `helpers.stats`, draws on the axes given and returns
them. Times are months in the tables and years on the axes, unless said otherwise.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from helpers.figures.style import BLACK, GREY, PALETTES, SEQUENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNITS: Final = {"years": 12.0, "months": 1.0}
"""Months per unit of the time axis."""
GROUP_COLOURS: Final = {**PALETTES["risk"], "all": BLACK}
ROW_PT: Final = 9.0
"""Height of a table row below the axes, points."""
FEWEST_EVENTS: Final = 5
"""Of a period whose hazard ratio is drawn."""


def format_p(p: float) -> str:
    """Return a p-value as a journal prints it.

    Parameters
    ----------
    p : float

    Returns
    -------
    str
        'p = 0.032', 'p < 0.001', 'p not available'.
    """
    if pd.isna(p):
        return "p not available"
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def format_ratio(row: "pd.Series | dict[str, Any]") -> str:
    """Return a hazard ratio with its interval.

    Parameters
    ----------
    row : Series or dict
        hazard_ratio, ci_low, ci_high.

    Returns
    -------
    str
        '1.54 (1.35–1.77)', '1.54 (no interval)', or 'not estimable'.
    """
    if pd.isna(row["hazard_ratio"]):
        return "not estimable"
    if pd.isna(row["ci_low"]) or pd.isna(row["ci_high"]):
        return f"{row['hazard_ratio']:.2f} (no interval)"
    return f"{row['hazard_ratio']:.2f} ({row['ci_low']:.2f}–{row['ci_high']:.2f})"


def plot_km(
    curve: pd.DataFrame,
    at_risk: pd.DataFrame,
    *,
    ax: "Axes",
    test: pd.DataFrame | None = None,
    ratio: "pd.Series | dict[str, Any] | None" = None,
    cutoff_origin: str = "",
    endpoint: str = "",
    unit: str = "years",
    title: str = "",
) -> "Axes":
    """Draw Kaplan–Meier curves with band, censor ticks, and the numbers at risk below the axes.

    Parameters
    ----------
    curve : DataFrame
        From `fit_km`, time in months.
    at_risk : DataFrame
        From `count_at_risk`, time in months; its times are the ticks, and the counts are those just before each; a dash
        where one is missing.
    ax : Axes
    test : DataFrame, optional
        From `compare_logrank`; gives n and events of each group and the p-value.
    ratio : Series or dict, optional
        hazard_ratio, ci_low, ci_high of high against low.
    cutoff_origin : str
        Where the cut-off came from; printed in the figure.
    endpoint : str
        Words for the y axis: 'Recurrence or death'.
    unit : {'years', 'months'}
    title : str

    Returns
    -------
    Axes
    """
    scale = UNITS[unit]
    groups = list(dict.fromkeys(curve["group"]))
    counts = {} if test is None else test.set_index("group").to_dict("index")
    for position, group in enumerate(groups):
        colour = GROUP_COLOURS.get(str(group), SEQUENCE[position % len(SEQUENCE)])
        _draw_curve(ax, curve[curve["group"] == group], scale=scale, colour=colour, label=_label(group, counts))
    ticks = sorted(at_risk["time"].unique() / scale)
    ax.set_xlim(0, ticks[-1])
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_ylim(0, 1.0)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100"])
    ax.set_xlabel(f"Time since diagnosis ({unit})")
    ax.set_ylabel(f"Free of event (%)\n{endpoint}" if endpoint else "Free of event (%)")
    ax.legend(loc="lower left", handlelength=1.4, borderaxespad=0.4)
    _write_title(ax, title, _list_facts(test, ratio, cutoff_origin))
    _write_at_risk(ax, at_risk, groups, scale=scale)
    return ax


def _draw_curve(ax: "Axes", curve: pd.DataFrame, *, scale: float, colour: str, label: str) -> None:
    time = curve["time"] / scale
    ax.fill_between(time, curve["ci_low"], curve["ci_high"], step="post", color=colour, alpha=0.15, lw=0)
    ax.step(time, curve["survival"], where="post", color=colour, label=label)
    censored = curve["n_censored"] > 0
    ax.plot(
        time[censored], curve.loc[censored, "survival"], ls="none", marker="|", ms=3.0, mew=0.5, color=colour,
        alpha=0.8, gid="censored",
    )  # fmt: skip


def _label(group: object, counts: dict[Any, dict[str, Any]]) -> str:
    if group not in counts:
        return str(group)
    return f"{group}: {counts[group]['n']:.0f} cases, {counts[group]['n_events']:.0f} events"


def _list_facts(test: pd.DataFrame | None, ratio: "pd.Series | dict[str, Any] | None", cutoff_origin: str) -> list[str]:
    first = [] if ratio is None else [f"HR high vs low {format_ratio(ratio)}"]
    if test is not None and len(test) > 1:
        first.append(f"log-rank {format_p(test['p'].iloc[0])}")
    return [", ".join(first)] * bool(first) + [f"cut-off: {cutoff_origin}"] * bool(cutoff_origin)


def _write_title(ax: "Axes", title: str, facts: Sequence[str]) -> None:
    """Write the title and, small below it, what the panel rests on."""
    ax.set_title(title, pad=5 + 8.5 * len(facts))
    ax.annotate(
        "\n".join(facts), (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", ha="left",
        va="bottom", fontsize=6, linespacing=1.2, gid="facts",
    )  # fmt: skip


def _write_at_risk(ax: "Axes", at_risk: pd.DataFrame, groups: Sequence[object], *, scale: float) -> None:
    """Write the table below the axis label: a heading, then one row per group."""
    top = -34.0
    heading = "Number at risk just before"
    ax.annotate(
        heading, (0, 0), xycoords="axes fraction", xytext=(0, top), textcoords="offset points", fontsize=6,
        ha="left", va="center", gid="at_risk_heading",
    )  # fmt: skip
    for row, group in enumerate(groups, start=1):
        colour = GROUP_COLOURS.get(str(group), SEQUENCE[(row - 1) % len(SEQUENCE)])
        ax.annotate(
            str(group), (0, 0), xycoords="axes fraction", xytext=(-12, top - row * ROW_PT), textcoords="offset points",
            ha="right", va="center", color=colour, fontsize=6, fontweight="bold",
        )  # fmt: skip
        for entry in at_risk[at_risk["group"] == group].itertuples():
            number = "–" if pd.isna(entry.n_at_risk) else f"{entry.n_at_risk:d}"
            ax.annotate(
                number, (entry.time / scale, 0), xycoords=("data", "axes fraction"), xytext=(0, top - row * ROW_PT),
                textcoords="offset points", ha="center", va="center", fontsize=6, color=colour, gid="at_risk",
                annotation_clip=False,
            )  # fmt: skip


def plot_forest(
    table: pd.DataFrame,
    *,
    ax: "Axes",
    limits: tuple[float, float] | None = None,
    title: str = "",
    xlabel: str = "Hazard ratio (95 % CI)",
    p_column: str = "p",
) -> "Axes":
    """Draw hazard ratios on a log axis with a line at 1 and columns n, events, HR (95 % CI), p.

    Parameters
    ----------
    table : DataFrame
        One row per line of the figure, top to bottom: label, hazard_ratio, ci_low, ci_high, n, n_events; optional
        p, `source` ('image' or 'rna', drawn in their colours), `primary` (True: a diamond), and `heading` (True: bold
        text without a ratio).
    ax : Axes
    limits : tuple of float, optional
        Of the axis; an interval that leaves them ends in an arrow. Without it the axis holds every interval up to
        0.1 and 10.
    title, xlabel : str
    p_column : str
        Which p-value is printed, such as 'p_holm'.

    Returns
    -------
    Axes
    """
    rows = table.reset_index(drop=True)
    low, high = limits or _find_limits(rows)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(len(rows) - 0.4, -1.6)
    ax.axvline(1.0, color=GREY, lw=0.7, zorder=0, gid="no_effect")
    for y, row in enumerate(rows.to_dict("records")):
        if row.get("heading") is not True:
            _draw_interval(ax, row, float(y), low=low, high=high)
    _write_forest_columns(ax, rows, p_column=p_column if p_column in rows else None)
    ticks = _pick_ticks(low, high)
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(xlabel)
    ax.set_title(title)
    return ax


def _pick_ticks(low: float, high: float) -> list[float]:
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if high / low > 8 else (0.25, 0.5, 0.7, 1, 1.5, 2, 3, 4)
    return [step for step in steps if low <= step <= high]


def _find_limits(rows: pd.DataFrame) -> tuple[float, float]:
    lowest, highest = rows["ci_low"].min(), rows["ci_high"].max()
    low = 0.5 if pd.isna(lowest) else min(max(lowest / 1.1, 0.1), 0.5)
    high = 2.0 if pd.isna(highest) else max(min(highest * 1.1, 10.0), 2.0)
    return float(low), float(high)


def _draw_interval(ax: "Axes", row: dict[str, Any], y: float, *, low: float, high: float) -> None:
    if pd.isna(row["hazard_ratio"]):
        return
    colour = PALETTES["source"].get(str(row.get("source")), BLACK)
    shape = "D" if row.get("primary") is True else "s"
    left, right = max(row["ci_low"], low), min(row["ci_high"], high)
    ax.plot([left, right], [y, y], color=colour, lw=1.0, solid_capstyle="butt", gid="interval")
    if low <= row["hazard_ratio"] <= high:
        ax.plot(row["hazard_ratio"], y, marker=shape, ms=4, color=colour, ls="none", gid="ratio")
    for edge, bound, marker in ((low, row["ci_low"], "<"), (high, row["ci_high"], ">")):
        if (bound < low) if marker == "<" else (bound > high):
            ax.plot(edge, y, marker=marker, ms=3.5, color=colour, clip_on=False, ls="none", gid="arrow")


COLUMNS_PT: Final = {
    "n": (26.0, "right"),
    "events": (54.0, "right"),
    "HR (95 % CI)": (66.0, "left"),
    "p": (140.0, "left"),
}
"""Where the columns of a forest plot stand, in points right of the axes, and how they align."""


COUNTS: Final = {"n": "n", "events": "n_events"}
CHARACTER_PT: Final = 3.1
"""Width of a character of a forest plot's labels, points."""


def _write_forest_columns(ax: "Axes", rows: pd.DataFrame, *, p_column: str | None) -> None:
    names = [name for name in COLUMNS_PT if name != "p" or p_column]
    for name in names:
        _write_cell(ax, "p (Holm)" if name == "p" and p_column == "p_holm" else name, -1.1, name, bold=True)
    records = rows.to_dict("records")
    widest = CHARACTER_PT * max((len(row["label"]) for row in records if row.get("heading") is not True), default=0)
    for y, row in enumerate(records):
        heading = row.get("heading") is True
        text = ax.annotate(
            row["label"], (0, y), xycoords=ax.get_yaxis_transform(), xytext=(-6 - widest * heading, 0), va="center",
            ha="left" if heading else "right", textcoords="offset points", fontsize=6, annotation_clip=False,
            gid="label", fontweight="bold" if heading else "normal",
        )  # fmt: skip
        if heading:  # starts where the labels do, and runs over the axis rather than pushing it aside
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
            continue
        counts = {name: "" if pd.isna(row[key]) else f"{row[key]:.0f}" for name, key in COUNTS.items()}
        cells = counts | {"HR (95 % CI)": format_ratio(row)}
        cells["p"] = _shorten_p(row.get(p_column)) if p_column else ""
        for name in names:
            _write_cell(ax, cells[name], y, name)


def _write_cell(ax: "Axes", text: str, y: float, column: str, *, bold: bool = False) -> None:
    offset, align = COLUMNS_PT[column]
    ax.annotate(text, (1, y), xycoords=ax.get_yaxis_transform(), xytext=(offset, 0), textcoords="offset points",
                ha=align, va="center", fontsize=6, fontweight="bold" if bold else "normal", annotation_clip=False,
                gid="cell")  # fmt: skip


def _shorten_p(p: float | None) -> str:
    return "" if p is None or pd.isna(p) else format_p(p).removeprefix("p = ").removeprefix("p ")


def plot_ratio_over_time(
    smooth: pd.DataFrame,
    periods: pd.DataFrame,
    *,
    ax: "Axes",
    test: pd.DataFrame | None = None,
    unit: str = "years",
    title: str = "",
    ylabel: str = "Hazard ratio",
) -> "Axes":
    """Draw how a hazard ratio changes with follow-up: the smooth of the Schoenfeld residuals and one point per period.

    Parameters
    ----------
    smooth : DataFrame
        From `compute_schoenfeld`, one term: time (months), log_hr, ci_low, ci_high (log scale), average.
    periods : DataFrame
        From `estimate_ratio_by_period`: start, end (months), hazard_ratio, ci_low, ci_high, n_events. A period of fewer
        than five events stays in the table and is not drawn.
    ax : Axes
    test : DataFrame, optional
        From `check_proportional_hazards`; its first row is printed.
    unit : {'years', 'months'}
    title, ylabel : str

    Returns
    -------
    Axes
    """
    import numpy as np

    scale, colour = UNITS[unit], SEQUENCE[0]
    end = float(smooth["time"].max()) / scale
    ax.axhline(1.0, color=GREY, lw=0.7, zorder=0, gid="no_effect")
    ax.fill_between(
        smooth["time"] / scale, np.exp(smooth["ci_low"]), np.exp(smooth["ci_high"]), color=colour, alpha=0.15, lw=0
    )
    ax.plot(smooth["time"] / scale, np.exp(smooth["log_hr"]), color=colour, label="smoothed Schoenfeld residuals")
    average = float(np.exp(smooth["average"].iloc[0]))
    ax.axhline(average, color=BLACK, lw=0.8, ls=(0, (4, 2)), label=f"one ratio for all of follow-up: {average:.2f}")
    known = periods[periods["hazard_ratio"].notna() & (periods["n_events"] >= FEWEST_EVENTS)]
    for row in known.itertuples():
        start, stop = row.start / scale, min(row.end / scale, end)
        middle = (start + stop) / 2
        ax.plot([start, stop], [row.hazard_ratio] * 2, color=SEQUENCE[1], lw=1.6, solid_capstyle="butt", gid="period")
        ax.plot([middle, middle], [row.ci_low, row.ci_high], color=SEQUENCE[1], lw=0.8, gid="period_interval")
        ax.annotate(f"{row.n_events:.0f}", (middle, 0), xycoords=("data", "axes fraction"), xytext=(0, 3),
                    textcoords="offset points", ha="center", fontsize=6, color=SEQUENCE[1], gid="events")  # fmt: skip
    label = "among those at risk, per period (95 % CI; events below)"
    ax.plot([], [], color=SEQUENCE[1], lw=1.6, label=label)
    _finish_ratio_axis(ax, known, unit=unit, end=end)
    ax.set_ylabel(ylabel)
    facts = []
    if test is not None:
        row = test.iloc[0]
        facts = [f"proportional hazards: χ² = {row['statistic']:.3g}, {format_p(row['p'])}"]
    _write_title(ax, title, facts)
    return ax


def _finish_ratio_axis(ax: "Axes", known: pd.DataFrame, *, unit: str, end: float) -> None:
    low = min(0.5, float(known["ci_low"].min())) if len(known) else 0.5
    high = max(2.0, float(known["ci_high"].max())) if len(known) else 2.0
    ax.set_yscale("log")
    low, high = max(low / 1.6, 0.05), min(high * 1.2, 20.0)
    ax.set_ylim(low, high)
    ticks = _pick_ticks(low, high)
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_xlim(0, end)
    ax.set_xlabel(f"Time since diagnosis ({unit})")
    ax.legend(loc="upper left", bbox_to_anchor=(0.0, -0.16), handlelength=1.6, borderaxespad=0)


def plot_ph_residuals(residuals: pd.DataFrame, *, ax: "Axes", unit: str = "years") -> "Axes":
    """Add scaled Schoenfeld residuals, one dot per event, as hazard ratios.

    Parameters
    ----------
    residuals : DataFrame
        From `compute_schoenfeld`, one term: time (months), log_hr.
    ax : Axes
        Of `plot_ratio_over_time`; residuals beyond its limits are not shown, as in the usual plot.
    unit : {'years', 'months'}

    Returns
    -------
    Axes
    """
    import numpy as np

    times = residuals["time"] / UNITS[unit]
    ax.plot(times, np.exp(residuals["log_hr"].clip(-20, 20)), ls="none", marker=".", ms=1.5, color=GREY, alpha=0.5,
            zorder=0, gid="residuals")  # fmt: skip
    return ax


def plot_score_distribution(
    histogram: pd.DataFrame, *, ax: "Axes", cutoff: float, cutoff_origin: str, xlabel: str, title: str = ""
) -> "Axes":
    """Draw the distribution of a score by split, and where it is cut into low and high.

    Parameters
    ----------
    histogram : DataFrame
        From `tabulate_distribution`: split, left, right, count.
    ax : Axes
    cutoff : float
    cutoff_origin : str
        Words printed beside the line.
    xlabel, title : str

    Returns
    -------
    Axes
    """
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    for split, rows in histogram.groupby("split", sort=True, observed=True):
        edges = np.append(rows["left"].to_numpy(), rows["right"].iloc[-1])
        colour = PALETTES["split"].get(str(split), GREY)
        label = f"{str(split).replace('_', ' ')} (n {rows['count'].sum():.0f})"
        ax.stairs(rows["count"], edges, fill=True, color=colour, alpha=0.25, lw=0)
        ax.stairs(rows["count"], edges, color=colour, lw=1.0, label=label)
    ax.set_ylim(0, ax.get_ylim()[1] * 1.45)
    ax.axvline(cutoff, color=BLACK, lw=0.9, ls=(0, (4, 2)), gid="cutoff", ymax=0.82)
    top = ax.get_ylim()[1]
    for words, side, colour in (
        ("low ", "right", PALETTES["risk"]["low"]),
        (" high", "left", PALETTES["risk"]["high"]),
    ):
        ax.text(cutoff, 0.77 * top, words, ha=side, va="center", color=colour, fontsize=6.5, fontweight="bold")
    ax.set_xlabel(xlabel)
    ax.set_ylabel("Cases")
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.legend(loc="upper right")
    _write_title(ax, title, [f"cut-off {cutoff:.2f}: {cutoff_origin}"])
    return ax


def plot_incidence(
    curve: pd.DataFrame, *, ax: "Axes", endpoint: str, unit: str = "years", max_months: float, title: str = ""
) -> "Axes":
    """Draw cumulative incidence with competing deaths (Aalen–Johansen) and what 1 − Kaplan–Meier makes of it.

    Parameters
    ----------
    curve : DataFrame
        From `estimate_cumulative_incidence`, time in months.
    ax : Axes
    endpoint : str
        Words for the y axis.
    unit : {'years', 'months'}
    max_months : float
        End of the axis; the values there are written at the curves.
    title : str

    Returns
    -------
    Axes
    """
    from matplotlib.ticker import MaxNLocator

    scale = UNITS[unit]
    shown = curve[curve["time"] <= max_months]
    time, last = shown["time"] / scale, shown.iloc[-1]
    ax.fill_between(time, shown["ci_low"], shown["ci_high"], step="post", color=SEQUENCE[0], alpha=0.15, lw=0)
    ax.step(time, shown["incidence"], where="post", color=SEQUENCE[0], label="Aalen–Johansen (95 % CI)")
    ax.step(time, shown["one_minus_km"], where="post", color=SEQUENCE[1], ls=(0, (4, 1.5)), label="1 − Kaplan–Meier")
    ax.set_xlim(0, max_months / scale)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_ylim(0, max(0.1, 1.15 * float(shown["one_minus_km"].max())))
    for name, colour, side in (("one_minus_km", SEQUENCE[1], "bottom"), ("incidence", SEQUENCE[0], "top")):
        ax.annotate(f"{last[name]:.3f}", (max_months / scale, last[name]), xytext=(3, 0), textcoords="offset points",
                    ha="left", va=side, color=colour, fontsize=6.5, annotation_clip=False)  # fmt: skip
    ax.set_xlabel(f"Time since diagnosis ({unit})")
    ax.set_ylabel(f"Cumulative incidence\n{endpoint}")
    ax.legend(loc="lower right")
    ax.set_title(title)
    return ax


def plot_spline(
    curve: pd.DataFrame,
    test: pd.DataFrame,
    *,
    ax: "Axes",
    scores: Sequence[float] = (),
    cutoff: float | None = None,
    source: str = "rna",
    xlabel: str = "Score",
    title: str = "",
) -> "Axes":
    """Draw the hazard ratio along a score: the spline with its band, the straight line, and where the cases are.

    Parameters
    ----------
    curve, test : DataFrame
        From `fit_spline`.
    ax : Axes
    scores : sequence of float
        Of the cases, for the ticks at the foot.
    cutoff : float, optional
        Where the score is cut for the Kaplan–Meier picture.
    source : {'image', 'rna'}
        Its colour.
    xlabel, title : str

    Returns
    -------
    Axes
    """
    colour = PALETTES["source"][source]
    ax.axhline(1.0, color=GREY, lw=0.7, zorder=0, gid="no_effect")
    ax.fill_between(curve["score"], curve["ci_low"], curve["ci_high"], color=colour, alpha=0.15, lw=0)
    ax.plot(curve["score"], curve["hazard_ratio"], color=colour, label="spline (95 % CI)", gid="spline")
    ax.plot(curve["score"], curve["straight"], color=BLACK, lw=0.8, ls=(0, (4, 2)), label="straight", gid="straight")
    inside = [value for value in scores if curve["score"].min() <= value <= curve["score"].max()]
    ax.plot(inside, [0.02] * len(inside), "|", transform=ax.get_xaxis_transform(), color=GREY, ms=4, mew=0.3,
            alpha=0.5, gid="rug")  # fmt: skip
    if cutoff is not None:
        ax.axvline(cutoff, color=GREY, lw=0.7, ls=(0, (1, 2)), label="cut-off", gid="cutoff")
    low, high = max(float(curve["ci_low"].min()), 0.05), min(float(curve["ci_high"].max()), 20.0)
    _set_log_ratio(ax, min(low / 1.25, 0.5), max(high * 1.1, 2.0))
    ax.set_xlim(curve["score"].min(), curve["score"].max())
    ax.set_xlabel(xlabel)
    ax.set_ylabel("Hazard ratio\nagainst the median score")
    ax.legend(loc="upper left")
    rows = test.set_index("test")
    facts = f"any effect {format_p(rows.loc['any effect', 'p'])}; curvature {format_p(rows.loc['curvature', 'p'])}"
    counted = f"{rows['n'].iloc[0]:.0f} cases, {rows['n_events'].iloc[0]:.0f} events"
    _write_title(ax, title, [facts, counted])
    return ax


def _set_log_ratio(ax: "Axes", low: float, high: float) -> None:
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    ticks = _pick_ticks(low, high)
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()


MODEL_COLOURS: Final = {
    "clinical": BLACK,
    "clinical + image": PALETTES["source"]["image"],
    "clinical + RNA": PALETTES["source"]["rna"],
}


def plot_calibration(calibration: pd.DataFrame, *, ax: "Axes", horizon: float, title: str = "") -> "Axes":
    """Draw observed against predicted event probability at a horizon, in groups of equal size.

    Parameters
    ----------
    calibration : DataFrame
        From `calibrate`, with `model`.
    ax : Axes
    horizon : float
        Months.
    title : str

    Returns
    -------
    Axes
    """
    top = min(1.0, 1.1 * float(calibration[["predicted", "ci_high"]].max().max()))
    ax.plot([0, top], [0, top], color=GREY, lw=0.7, zorder=0, gid="ideal")
    for name, rows in calibration.groupby("model", sort=False):
        colour = MODEL_COLOURS.get(str(name), SEQUENCE[0])
        below = (rows["observed"] - rows["ci_low"]).clip(lower=0)
        above = (rows["ci_high"] - rows["observed"]).clip(lower=0)
        ax.errorbar(rows["predicted"], rows["observed"], yerr=[below, above], color=colour, marker="o", ms=3, lw=0.8,
                    elinewidth=0.7, label=str(name))  # fmt: skip
    ax.set_xlim(0, top)
    ax.set_ylim(0, 1.25 * top)
    ax.set_xlabel(f"Predicted probability at {horizon / 12:g} years")
    ax.set_ylabel("Observed (1 − Kaplan–Meier, 95 % CI)")
    ax.legend(loc="upper left")
    n_cases = calibration.groupby("model")["n"].sum().max()
    _write_title(ax, title, [f"groups by predicted risk, out of fold, n {n_cases}"])
    return ax


def plot_decisions(decisions: pd.DataFrame, *, ax: "Axes", horizon: float, title: str = "") -> "Axes":
    """Draw net benefit over thresholds of predicted risk, beside treating everybody and nobody.

    Parameters
    ----------
    decisions : DataFrame
        From `decide`, with `model`.
    ax : Axes
    horizon : float
        Months.
    title : str

    Returns
    -------
    Axes
    """
    first = decisions[decisions["model"] == decisions["model"].iloc[0]]
    ax.axhline(0.0, color=GREY, lw=0.8, label="treat nobody", gid="treat_none")
    ax.plot(100 * first["threshold"], first["treat_all"], color=GREY, lw=0.8, ls=(0, (4, 2)), label="treat everybody")
    for name, rows in decisions.groupby("model", sort=False):
        ax.plot(100 * rows["threshold"], rows["net_benefit"], color=MODEL_COLOURS.get(str(name), SEQUENCE[0]), lw=1.1,
                label=str(name))  # fmt: skip
    top = float(decisions[["net_benefit", "treat_all"]].max().max())
    ax.set_ylim(-0.12 * top, 1.08 * top)
    ax.set_xlim(100 * decisions["threshold"].min(), 100 * decisions["threshold"].max())
    ax.set_xlabel(f"Treated if risk at {horizon / 12:g} years is at least (%)")
    ax.set_ylabel("Net benefit, per case")
    ax.legend(loc="upper right")
    _write_title(ax, title, ["out of fold; higher is better"])
    return ax


def plot_auc(auc: pd.DataFrame, *, ax: "Axes", title: str = "") -> "Axes":
    """Draw the cumulative/dynamic AUC over time.

    Parameters
    ----------
    auc : DataFrame
        From `compute_time_auc`, with `model`; time in months.
    ax : Axes
    title : str

    Returns
    -------
    Axes
    """
    ax.axhline(0.5, color=GREY, lw=0.7, zorder=0, gid="chance")
    for name, rows in auc.groupby("model", sort=False):
        ax.plot(rows["time"] / 12, rows["auc"], color=MODEL_COLOURS.get(str(name), SEQUENCE[0]), marker="o", ms=2.5,
                lw=1.1, label=str(name))  # fmt: skip
    ax.set_ylim(min(0.45, float(auc["auc"].min()) - 0.03), max(0.8, float(auc["auc"].max()) + 0.12))
    ax.set_xlim(0, float(auc["time"].max()) / 12)
    ax.set_xlabel("Time since diagnosis (years)")
    ax.set_ylabel("AUC, event by then against free then")
    ax.legend(loc="upper left")
    _write_title(ax, title, ["weighted for censoring, out of fold"])
    return ax


def plot_power(power: pd.DataFrame, needs: pd.DataFrame, *, axes: Sequence["Axes"]) -> None:
    """Draw what a cohort could have found, and how many events an image needs as its correlation with RNA falls.

    Parameters
    ----------
    power, needs : DataFrame
        From `estimate_own_power`.
    axes : sequence of two Axes
    """
    from matplotlib.ticker import FixedLocator, ScalarFormatter

    left, right = axes
    below, above = (power["power"] - power["ci_low"]).clip(lower=0), (power["ci_high"] - power["power"]).clip(lower=0)
    left.axhline(80, color=GREY, lw=0.7, ls=(0, (4, 2)), gid="eighty")
    left.errorbar(power["image_ratio"], 100 * power["power"], yerr=[100 * below, 100 * above], color=BLACK, marker="o",
                  ms=3.5, lw=0, elinewidth=0.9, label="simulated (95 % CI)")  # fmt: skip
    left.plot(power["image_ratio"], 100 * power["formula"], color=SEQUENCE[1], lw=1.0, label="formula", zorder=0)
    for row in power.itertuples():
        left.annotate(f"RNA {row.hazard_ratio:g}", (row.image_ratio, 100 * row.ci_high), xytext=(0, 3), fontsize=6,
                      ha="center", textcoords="offset points", annotation_clip=False)  # fmt: skip
    spread = float(power["image_ratio"].max() - power["image_ratio"].min()) or 0.1
    left.set_xlim(power["image_ratio"].min() - 0.12 * spread, power["image_ratio"].max() + 0.12 * spread)
    left.set_ylim(0, 110)
    left.set_yticks([0, 20, 40, 60, 80, 100])
    left.set_xlabel("Hazard ratio of the score tested")
    left.set_ylabel("Power in this cohort (%)")
    left.legend(loc="upper left", bbox_to_anchor=(0.0, -0.18), ncols=2, borderaxespad=0)
    _write_title(left, "a  Could this cohort have found it?", [f"{power['mean_events'].mean():.0f} events on average"])
    finite = needs[needs["n_events"] < float("inf")]  # at a correlation of 0 no number of events is enough
    for (ratio, rows), colour in zip(finite.groupby("rna_ratio"), SEQUENCE, strict=False):
        right.plot(
            rows["correlation"], rows["n_events"], color=colour, marker="o", ms=3, lw=1.0, label=f"RNA {ratio:g}"
        )
    right.set_yscale("log")
    right.yaxis.set_major_locator(FixedLocator([20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000]))
    right.yaxis.set_major_formatter(ScalarFormatter())
    right.minorticks_off()
    right.invert_xaxis()
    right.set_xlabel("Correlation of image and RNA")
    right.set_ylabel("Events for 80 % power")
    right.legend(loc="upper left", title="Hazard ratio", title_fontsize=6)
    _write_title(right, "b  What an image needs", ["a noisier reading has a ratio nearer to 1"])
