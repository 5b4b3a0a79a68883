"""Predicted and measured scores as pictures. Every function draws a tidy table on the axes it is given."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.figures.style import BLACK, BLUE, GREY, ORANGE, PALETTES, PURPLE, VERMILION, add_scale_bar

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SPLIT_LABELS = {"development": "Out of fold", "internal_test": "Internal test", "external": "External"}
LABELS = {
    "subtype": "Subtype", "er": "ER", "pr": "PR", "her2": "HER2", "histology": "Histology", "grade": "Grade",
    "stage": "Stage", "site": "Site", "all cases": "All cases",
}  # fmt: skip


def plot_agreement(
    predictions: "pd.DataFrame", agreement: "pd.DataFrame", *, ax: "Axes", split: str, label: str = "score"
) -> "Axes":
    """Scatter predicted against measured values of one split, with the identity line and the agreement in words.

    Parameters
    ----------
    predictions : DataFrame
        y_true, y_pred; one row per case.
    agreement : DataFrame
        From `compute_agreement`, of the same rows.
    ax : Axes
    split : str
        development, internal_test or external; sets colour and title.
    label : str
        What is predicted, with its unit.

    Returns
    -------
    Axes
    """
    many = len(predictions) > 300
    ax.scatter(
        predictions["y_true"], predictions["y_pred"], s=6 if many else 12, color=PALETTES["split"][split],
        alpha=0.45 if many else 0.75, lw=0, gid="cases",
    )  # fmt: skip
    low = min(predictions["y_true"].min(), predictions["y_pred"].min())
    high = max(predictions["y_true"].max(), predictions["y_pred"].max())
    pad = 0.04 * (high - low)
    ax.plot([low - pad, high + pad], [low - pad, high + pad], color=GREY, lw=0.7, ls="--", zorder=0, gid="identity")
    ax.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), aspect="equal")
    ax.set_xlabel(f"measured {label}")
    ax.set_ylabel(f"predicted {label}")
    ax.set_title(f"{SPLIT_LABELS[split]}, n = {len(predictions)}")
    box = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
    words = describe_agreement(agreement)
    ax.text(0.02, 0.99, words, transform=ax.transAxes, va="top", fontsize=6, linespacing=1.35, bbox=box)
    return ax


def describe_agreement(agreement: "pd.DataFrame") -> str:
    """Write the four quantities of agreement as lines of text.

    Parameters
    ----------
    agreement : DataFrame
        quantity, value, ci_low, ci_high.

    Returns
    -------
    str
        Each quantity under its own name, since r squared and R2 differ.
    """
    names = {
        "spearman": "Spearman ρ",
        "pearson": "Pearson r",
        "r_squared": "r² (squared r)",
        "r2_score": "R² (1 − SSE/SST)",
    }
    rows = agreement.set_index("quantity")
    return "\n".join(f"{names[name]} {_write_interval(rows.loc[name])}" for name in names if name in rows.index)


def _write_interval(row: "pd.Series") -> str:
    value = f"{row['value']:.2f}".replace("-", "−")
    if row["ci_low"] != row["ci_low"]:
        return value
    return f"{value} ({row['ci_low']:.2f} to {row['ci_high']:.2f})".replace("-", "−")


def plot_forest(
    table: "pd.DataFrame", *, ax: "Axes", colour: str = BLUE, xlabel: str = "Spearman ρ (95 % CI)"
) -> "Axes":
    """Draw one line per site (or fold, arm, grade) with its interval, and n and the value written beside it.

    Parameters
    ----------
    table : DataFrame
        label, value, ci_low, ci_high, n; optionally `bold` (True for a summary row, drawn as a diamond).
    ax : Axes
    colour : str
    xlabel : str

    Returns
    -------
    Axes
    """
    bold = table["bold"].to_numpy(bool) if "bold" in table else np.zeros(len(table), bool)
    for y, (row, strong) in enumerate(zip(table.itertuples(), bold, strict=True)):
        if row.ci_low == row.ci_low:
            ax.plot([row.ci_low, row.ci_high], [y, y], color=BLACK if strong else colour, lw=1.8 if strong else 1.1)
        marker, size = ("D", 5.5) if strong else ("o", 4.5)
        ax.plot(row.value, y, marker=marker, ms=size, color=BLACK if strong else colour, ls="", gid="estimate")
        _write_beside(ax, y, f"{row.n:d}", _write_interval(table.iloc[y]))
    _write_beside(ax, -1.0, "n", "ρ (95 % CI)", weight="bold")
    ax.axvline(0, color=GREY, lw=0.7, ls=":")
    ax.set_yticks(range(len(table)), table["label"])
    for tick, strong in zip(ax.get_yticklabels(), bold, strict=True):
        tick.set_fontweight("bold" if strong else "normal")
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlabel(xlabel)
    return ax


def _write_beside(ax: "Axes", y: float, n: str, text: str, *, weight: str = "normal") -> None:
    """Write n and the estimate at fixed distances right of the axes, however wide these are."""
    frame = ax.get_yaxis_transform()
    for x, align, written in ((22, "right", n), (28, "left", text)):
        ax.annotate(
            written, (1.0, y), xytext=(x, 0), xycoords=frame, textcoords="offset points", ha=align, va="center",
            fontsize=6, weight=weight, annotation_clip=False,
        )  # fmt: skip


ARM_LABELS = {
    "ridge": "Ridge, mean", "ridge_moments": "Ridge, moments", "ridge_fourier": "Ridge, Fourier features",
    "ridge_kernel": "Kernel ridge", "pls": "PLS", "svr_linear": "SVR, linear", "svr_gaussian": "SVR, Gaussian",
    "mean_mil": "Mean MIL", "attention_mil": "Attention MIL", "attention_mil_plain": "Attention MIL, not anchored",
    "average": "Average of linear arms", "ensemble": "Ensemble of linear arms", "ensemble_all": "Ensemble of all arms",
}  # fmt: skip


def plot_arm_differences(
    comparison: "pd.DataFrame", *, ax: "Axes", reference: str, declared: str, title: str = ""
) -> "Axes":
    """Draw the paired difference of every arm from the reference, with its interval and the correlations beside it.

    Parameters
    ----------
    comparison : DataFrame
        From `compare_arms`, one target; drawn in its order.
    ax : Axes
    reference, declared : str
        Arms; the declared one is drawn as a diamond.
    title : str

    Returns
    -------
    Axes
    """
    for y, row in enumerate(comparison.itertuples()):
        strong = row.arm == declared
        colour = BLACK if strong else BLUE
        if row.ci_low == row.ci_low:
            ax.plot([row.ci_low, row.ci_high], [y, y], color=colour, lw=1.8 if strong else 1.1, gid="interval")
        face = "white" if row.arm == reference else colour
        ax.plot(row.difference, y, marker="D" if strong else "o", ms=4.5, color=colour, ls="", mfc=face, gid="estimate")
        spread = f"{row.pooled:.3f} ({row.pooled_low:.3f} to {row.pooled_high:.3f})"
        _write_column(ax, y, spread.replace("-", "−"))
    _write_column(ax, -1.0, "pooled ρ (partitions)", weight="bold")
    ax.axvline(0, color=GREY, lw=0.7, ls=":")
    ax.set_yticks(range(len(comparison)), [ARM_LABELS.get(arm, arm.replace("_", " ")) for arm in comparison["arm"]])
    for tick, arm in zip(ax.get_yticklabels(), comparison["arm"], strict=True):
        tick.set_fontweight("bold" if arm == declared else "normal")
    ax.set_ylim(len(comparison) - 0.4, -0.6)
    beside = ARM_LABELS.get(reference, reference.replace("_", " ")).lower()
    ax.set_xlabel(f"Δρ against {beside}, same folds (95 % CI)")
    ax.set_title(title)
    return ax


def _write_column(ax: "Axes", y: float, text: str, *, weight: str = "normal") -> None:
    ax.annotate(
        text, (1.0, y), xytext=(5, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points", va="center",
        fontsize=6, weight=weight, annotation_clip=False,
    )  # fmt: skip


def plot_calibration(
    bins: "pd.DataFrame", summary: "pd.DataFrame", *, ax: "Axes", split: str, label: str = "score"
) -> "Axes":
    """Draw the mean measured value of groups of cases with like predictions, with the line of perfect calibration.

    Parameters
    ----------
    bins, summary : DataFrame
        From `compute_calibration`.
    ax : Axes
    split : str
        Sets colour and title.
    label : str
        What is predicted, with its unit.

    Returns
    -------
    Axes
    """
    colour = PALETTES["split"][split]
    ax.vlines(bins["predicted"], bins["low"], bins["high"], color=colour, lw=1.1)
    ax.plot(bins["predicted"], bins["measured"], marker="o", ms=4, color=colour, ls="", gid="bins")
    low = min(bins["predicted"].min(), bins["low"].min())
    high = max(bins["predicted"].max(), bins["high"].max())
    pad = 0.05 * (high - low)
    ends = (low - pad, high + 5 * pad)  # room for the words
    ax.plot(ends, ends, color=GREY, lw=0.7, ls="--", zorder=0, gid="identity")
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set_xlabel(f"predicted {label}")
    ax.set_ylabel(f"mean measured {label}")
    ax.set_title(f"{SPLIT_LABELS[split]}, n = {bins['n'].sum()}")
    rows = summary.set_index("quantity")
    words = f"slope {_write_interval(rows.loc['slope'])}\nmean error {_write_interval(rows.loc['mean_error'])}"
    ax.text(0.02, 0.99, words, transform=ax.transAxes, va="top", fontsize=6, linespacing=1.35)
    return ax


def plot_permutation_null(
    null: np.ndarray, *, ax: "Axes", observed: float, q99: float, title: str = "", xlabel: str = "Spearman ρ"
) -> "Axes":
    """Draw the permutation null as a histogram with its 99th percentile and the observed value.

    Parameters
    ----------
    null : ndarray, (n_permutations,)
    ax : Axes
    observed, q99 : float
    title, xlabel : str

    Returns
    -------
    Axes
    """
    counts, _, _ = ax.hist(null, bins=24, color="0.75", edgecolor="white", lw=0.3)
    top = float(np.max(counts))
    ax.axvline(0, color=GREY, lw=0.7, ls=":")
    ax.plot([q99, q99], [0, 0.75 * top], color=BLACK, lw=0.9, ls="--", gid="q99")
    ax.text(q99, 0.78 * top, f"99 %\n{q99:.2f}", ha="center", va="bottom", fontsize=6)
    ax.plot([observed, observed], [0, 0.95 * top], color=VERMILION, lw=1.6, gid="observed")
    ax.text(observed, 0.98 * top, f"observed\n{observed:.2f}", ha="center", va="bottom", fontsize=6, color=VERMILION)
    low, high = min(null.min(), 0), max(observed, q99)
    ax.set_xlim(low - 0.1 * (high - low), high + 0.14 * (high - low))
    ax.set_ylim(0, 1.25 * top)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(f"permutations (of {len(null)})")
    ax.set_title(title or f"Null: mean {np.mean(null):.2f}, SD {np.std(null, ddof=1):.2f}".replace("-", "−"))
    return ax


def plot_label_only(panel: "pd.DataFrame", *, ax: "Axes", quantity: str = "Spearman ρ", chance: float = 0.0) -> "Axes":
    """First half of the confounding panel: each label alone, against the image.

    Parameters
    ----------
    panel : DataFrame
        From `compute_confounding_panel`, or `compute_binary_panel`.
    ax : Axes
    quantity : str
        What `value` is.
    chance : float
        Its value where nothing is known.

    Returns
    -------
    Axes
    """
    rows = panel[panel["kind"].isin(["image", "label_only"])].reset_index(drop=True)
    image = rows[rows["kind"] == "image"].iloc[0]
    ax.axvspan(image["ci_low"], image["ci_high"], color=PURPLE, alpha=0.15, lw=0)
    ax.axvline(image["value"], color=PURPLE, lw=1.0)
    for y, row in rows.iterrows():
        colour = PALETTES["source"]["image" if row["kind"] == "image" else "clinical"]
        _draw_estimate(ax, float(y), row, colour)
    names = ["Image" if row["kind"] == "image" else f"{_label(row['label'])} alone" for _, row in rows.iterrows()]
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.axvline(chance, color=GREY, lw=0.7, ls=":")
    ax.set_xlabel(f"{quantity}, all cases (95 % CI)")
    ax.set_title("What a label alone predicts")
    return ax


def plot_strata(
    panel: "pd.DataFrame",
    *,
    ax: "Axes",
    labels: Sequence[str] | None = None,
    quantity: str = "Spearman ρ",
    chance: float = 0.0,
) -> "Axes":
    """Second half of the confounding panel: the image among cases that share a label.

    Parameters
    ----------
    panel : DataFrame
        From `compute_confounding_panel`; `within_label` rows carry the null and p.
    ax : Axes
    labels : sequence of str, optional
        Labels to draw, in this order; default: all of the panel.
    quantity : str
        What `value` is.
    chance : float
        Its value where nothing is known.

    Returns
    -------
    Axes
    """
    wanted = list(labels) if labels is not None else [name for name in panel["label"].unique() if name != "all cases"]
    ticks, y = [], 0.0
    for name in wanted:
        rows = panel[(panel["label"] == name) & panel["kind"].isin(["within_stratum", "within_label"])]
        for _, row in rows.dropna(subset="value").iterrows():
            summary = row["kind"] == "within_label"
            _draw_estimate(ax, y, row, BLACK if summary else PURPLE, marker="D" if summary else "o")
            if summary and row["null_q95"] == row["null_q95"]:
                ax.plot([row["null_q95"]] * 2, [y - 0.38, y + 0.38], color=VERMILION, lw=1.4, gid="null_q95")
            ticks.append((y, _name_stratum(row, summary), summary))
            ax.text(1.02, y, _write_row(row, summary), transform=ax.get_yaxis_transform(), va="center", fontsize=5.5)
            y += 1
        y += 0.5
    ax.set_yticks([tick[0] for tick in ticks], [tick[1] for tick in ticks])
    for text, (_, _, summary) in zip(ax.get_yticklabels(), ticks, strict=True):
        text.set_fontweight("bold" if summary else "normal")
    ax.set_ylim(y - 0.9, -0.7)
    ax.axvline(chance, color=GREY, lw=0.7, ls=":")
    note = "; red: 95 % of the null" if any(line.get_gid() == "null_q95" for line in ax.lines) else ""
    ax.set_xlabel(f"{quantity} inside the stratum (95 % CI){note}")
    ax.set_title("What is left for the image")
    return ax


def _draw_estimate(ax: "Axes", y: float, row: "pd.Series", colour: str, *, marker: str = "o") -> None:
    if row["ci_low"] == row["ci_low"]:
        ax.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=1.1)
    ax.plot(row["value"], y, marker=marker, ms=4.5, color=colour, ls="", gid="estimate")


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def _name_stratum(row: "pd.Series", summary: bool) -> str:
    if summary:
        return f"{_label(row['label'])}: mean of strata"
    stratum = str(row["stratum"])
    stratum = stratum if len(stratum) <= 24 else f"{stratum[:23]}…"
    return (
        f"{_label(row['label'])} {stratum}"
        if row["label"] in {"grade", "stage", "er", "pr", "her2", "site"}
        else stratum
    )


def _write_row(row: "pd.Series", summary: bool) -> str:
    text = f"n {row['n']:.0f}"
    return f"{text}, p {row['p']:.3f}" if summary and row["p"] == row["p"] else text


def plot_folds(foldwise: "pd.DataFrame", pooled: "pd.DataFrame", *, ax: "Axes") -> "Axes":
    """Draw the folds of every repeat as dots, their weighted mean as a bar, and the pooled estimate as a diamond.

    Parameters
    ----------
    foldwise : DataFrame
        repeat, fold, value, n.
    pooled : DataFrame
        repeat, pooled, fold_mean.
    ax : Axes

    Returns
    -------
    Axes
    """
    largest = foldwise["n"].max()
    size = 22 * foldwise["n"] / largest
    ax.scatter(
        foldwise["repeat"], foldwise["value"], s=size, color=BLUE, alpha=0.45, lw=0, label="one fold", gid="folds"
    )
    for i, row in enumerate(pooled.itertuples()):
        ax.plot(
            [row.repeat - 0.3, row.repeat + 0.3], [row.fold_mean] * 2, color=BLUE, lw=1.6,
            label="mean of folds" if i == 0 else None,
        )  # fmt: skip
    ax.plot(pooled["repeat"], pooled["pooled"], marker="D", ms=4, color=ORANGE, ls="", label="pooled", gid="pooled")
    ax.set_xticks(pooled["repeat"], [str(r + 1) for r in pooled["repeat"]])
    ax.set_xlim(pooled["repeat"].min() - 0.6, pooled["repeat"].max() + 0.6)
    ax.set_xlabel("partition of the sites")
    ax.set_ylabel("Spearman ρ")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, handletextpad=0.3, columnspacing=1.0)
    return ax


def plot_thumbnail(path: str | Path, *, ax: "Axes", size_um: Sequence[float]) -> "Axes":
    """Draw a slide's thumbnail in um, to stand beside a map.

    Parameters
    ----------
    path : str or Path
        JPEG or PNG of the whole slide.
    ax : Axes
    size_um : sequence of two floats
        Width and height of the slide.

    Returns
    -------
    Axes
    """
    import matplotlib.pyplot as plt

    width, height = size_um
    ax.imshow(plt.imread(str(path)), extent=(0, width, height, 0), interpolation="bilinear")
    _finish_map(ax, width, height)
    return ax


def plot_tile_map(
    coords_um: np.ndarray,
    scores: np.ndarray,
    *,
    ax: "Axes",
    tile_um: float,
    label: str = "predicted score",
    size_um: Sequence[float] | None = None,
    limits: tuple[float, float] | None = None,
    marked: np.ndarray | None = None,
) -> "Axes":
    """Draw tile scores where they lie on the slide, with a scale bar.

    Parameters
    ----------
    coords_um : ndarray, (n_tiles, 2), float
        Upper left corners (x, y), um from the slide's upper left.
    scores : ndarray, (n_tiles,)
    ax : Axes
    tile_um : float
        Edge of a tile, um.
    label : str
        Of the colour bar.
    size_um : sequence of two floats, optional
        Width and height of the slide; default: to the last tile.
    limits : tuple of float, optional
        Scores at the ends of the colour scale; default: 2nd and 98th percentile.
    marked : ndarray, (n_tiles,), bool, optional
        Tiles to outline.

    Returns
    -------
    Axes
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    squares = PatchCollection([Rectangle((x, y), tile_um, tile_um) for x, y in coords_um], cmap="viridis", lw=0)
    squares.set_array(np.asarray(scores, float))
    squares.set_clim(*(limits or np.quantile(scores, [0.02, 0.98])))
    squares.set_gid("tiles")
    ax.add_collection(squares)
    if marked is not None:
        outlined = [Rectangle((x, y), tile_um, tile_um) for x, y in coords_um[marked]]
        ax.add_collection(PatchCollection(outlined, facecolor="none", edgecolor=VERMILION, lw=0.9, gid="marked"))
    width, height = size_um or coords_um.max(0) + tile_um
    _finish_map(ax, width, height)
    ax.figure.colorbar(squares, ax=ax, fraction=0.04, pad=0.02).set_label(label)
    return ax


def _finish_map(ax: "Axes", width: float, height: float) -> None:
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color="0.8", lw=0.5)
    add_scale_bar(ax, um_per_px=1.0, length_um=_round_length(width / 4))


def _round_length(um: float) -> float:
    power = 10.0 ** np.floor(np.log10(um))
    return float(max(step * power for step in (1, 2, 5) if step * power <= um))
