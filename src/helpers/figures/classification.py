"""Two classes and two modalities as pictures: folds, what a network uses, arms beside chance, attention, panels."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from helpers.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PALETTES, PURPLE, SEQUENCE, VERMILION

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CLASS_COLOURS = {0: BLUE, 1: VERMILION}
NAMES = {
    "roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "f1": "F1", "accuracy": "Accuracy", "mcc": "MCC",
    "balanced_accuracy": "Balanced accuracy", "brier": "Brier score", "ece": "Calibration error",
}  # fmt: skip
ARM_NAMES = {
    "image_linear": "Image only, logistic", "genes_linear": "Genes only, logistic", "image_net": "Image only, network",
    "genes_net": "Genes only, network", "late_fusion": "Late fusion", "concat": "Concatenation",
    "cross_genes_look": "Cross-attention, genes ask", "cross_tiles_look": "Cross-attention, tiles ask",
    "cross_attention": "Cross-attention, both", "cross_attention_plain": "Cross-attention, no residual",
    "image_permuted": "Images permuted", "genes_permuted": "Genes permuted",
    "cross_attention_without_images": "Both, images missing", "cross_attention_without_genes": "Both, genes missing",
    "as_published_cross_attention": "Published: cross-attention", "as_published_concat": "Published: concatenation",
    "as_published_concat_public": "Published: concat as run", "as_published_image": "Published: image only",
    "as_published_genes": "Published: genes only",
}  # fmt: skip
KIND_NAMES = {
    "cross_attention": "Cross-attention", "concat": "Concat, as described", "concat_public": "Concat, as run",
    "image": "Image only", "genes": "Genes only",
}  # fmt: skip
TARGET_NAMES = {
    "basal_her2": "Basal/HER2 (RNA)", "er": "ER (IHC)", "pr": "PR (IHC)", "her2": "HER2 (IHC)", "grade3": "Grade 3",
}  # fmt: skip


def name_target(target: str) -> str:
    """Name a target of two classes as an axis should.

    Parameters
    ----------
    target : str

    Returns
    -------
    str
    """
    if target.endswith("_mutated"):
        return f"{target.removesuffix('_mutated').upper()} mutation"
    name, _, months = target.rpartition("_")
    if months.isdigit():
        return f"{name.replace('_', ' ').upper()} event, {months} months"
    return TARGET_NAMES.get(target, target.replace("_", " "))


def name_arm(arm: str) -> str:
    """Name an arm as an axis should.

    Parameters
    ----------
    arm : str

    Returns
    -------
    str
    """
    return ARM_NAMES.get(arm, arm.replace("_", " ").capitalize())


def colour_arm(arm: str) -> str:
    """Colour an arm by what it may see: image, genes, both, or a control.

    Parameters
    ----------
    arm : str

    Returns
    -------
    str
    """
    if "permuted" in arm:
        return GREY
    if arm.startswith("image") or arm.endswith(("without_genes", "published_image")):
        return PALETTES["source"]["image"]
    if arm.startswith("genes") or arm.endswith(("without_images", "published_genes")):
        return PALETTES["source"]["rna"]
    return BLUE


def plot_class_counts(counts: "pd.DataFrame", *, ax: "Axes", names: tuple[str, str], title: str = "") -> "Axes":
    """Draw cases and positives of every fold, with how far one positive moves the recall.

    Parameters
    ----------
    counts : DataFrame
        From `count_classes`, one repeat.
    ax : Axes
    names : tuple of str
        Of class 0 and class 1.
    title : str

    Returns
    -------
    Axes
    """
    for y, row in enumerate(counts.itertuples()):
        ax.barh(y, row.n_positive, color=CLASS_COLOURS[1], height=0.7, label=names[1] if y == 0 else None)
        ax.barh(
            y, row.n - row.n_positive, left=row.n_positive, color=CLASS_COLOURS[0], alpha=0.55, height=0.7,
            label=names[0] if y == 0 else None,
        )  # fmt: skip
        step = f"{row.n_positive} of {row.n}; one = {row.step:.2f}" if row.n_positive else f"0 of {row.n}"
        ax.text(row.n, y, f" {step}", va="center", fontsize=6)
    labels = [f"fold {row.fold + 1}" if row.fold >= 0 else row.split.replace("_", " ") for row in counts.itertuples()]
    ax.set_yticks(range(len(counts)), labels)
    ax.set_xlim(0, 1.35 * counts["n"].max())
    ax.set_ylim(len(counts) - 0.4, -0.6)
    ax.set_xlabel("cases")
    ax.set_title(title, pad=14)
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 0.99), ncols=2, handlelength=1.0, columnspacing=1.0, borderpad=0.1)
    return ax


def plot_exchange(outputs: "pd.DataFrame", summary: "pd.DataFrame", *, ax: "Axes", kind: str) -> "Axes":
    """Scatter a network's outputs before and after images were exchanged between patients.

    Parameters
    ----------
    outputs, summary : DataFrame
        From `demonstrate_image_use`.
    ax : Axes
    kind : str

    Returns
    -------
    Axes
    """
    rows, row = outputs[outputs["kind"] == kind], summary[summary["kind"] == kind].iloc[0]
    low, high = rows[["logit", "logit_exchanged"]].min().min(), rows[["logit", "logit_exchanged"]].max().max()
    pad = 0.08 * max(high - low, 1e-9)
    ends = (low - pad, high + pad)
    ax.plot(ends, ends, color=GREY, lw=0.7, ls="--", zorder=0)
    blind = row["largest_change"] == 0
    ax.scatter(
        rows["logit"], rows["logit_exchanged"], s=10, color=VERMILION if blind else BLUE, lw=0, alpha=0.75, gid="cases"
    )
    ax.set(xlim=ends, ylim=ends, aspect="equal")
    ax.set_xlabel("output with own images")
    ax.set_ylabel("with another patient's")
    ax.locator_params(nbins=4)
    change = "exactly 0" if blind else f"{row['largest_change']:.2g}"
    ax.set_title(f"{KIND_NAMES[kind]}\nchange {change}", fontsize=7)
    return ax


def plot_gradients(summary: "pd.DataFrame", *, ax: "Axes") -> "Axes":
    """Draw the largest gradient that reaches the image branch and the gene branch of each network; 0 is written.

    Parameters
    ----------
    summary : DataFrame
        From `demonstrate_image_use`.
    ax : Axes

    Returns
    -------
    Axes
    """
    found = summary[["image_gradient", "gene_gradient"]].to_numpy(float)
    floor = found[found > 0].min() / 30
    for y, row in enumerate(summary.itertuples()):
        for shift, name, colour in ((-0.18, "image", PURPLE), (0.18, "gene", GREEN)):
            value = getattr(row, f"{name}_gradient")
            label = f"{'image' if name == 'image' else 'gene'} branch" if y == 0 else None
            if value > 0:
                ax.barh(y + shift, value - floor, left=floor, height=0.32, color=colour, label=label)
            else:
                ax.plot(floor, y + shift, marker="|", ms=7, color=colour, mew=2, ls="", label=label, gid="zero")
                ax.text(floor * 1.25, y + shift, "exactly 0", va="center", fontsize=6, color=colour)
    ax.set_xscale("log")
    ax.set_xlim(floor, found.max() * 2)
    ax.set_yticks(range(len(summary)), [KIND_NAMES[kind] for kind in summary["kind"]])
    ax.set_ylim(len(summary) - 0.4, -0.6)
    ax.set_xlabel("largest gradient of the output")
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    ax.legend(unique.values(), unique.keys(), loc="lower left", bbox_to_anchor=(0.0, 0.99), ncols=2, handlelength=1.0)
    return ax


def plot_arms(
    performance: "pd.DataFrame", *, ax: "Axes", quantity: str, declared: str = "", published: float | None = None,
    title: str = "", names: bool = True,
) -> "Axes":  # fmt: skip
    """Draw one line per arm with its interval, the line of chance, and the published number where there is one.

    Parameters
    ----------
    performance : DataFrame
        From `compute_arm_performance`: arm, quantity, value, ci_low, ci_high, chance; one split and target.
    ax : Axes
    quantity : str
    declared : str
        Drawn as a diamond.
    published : float, optional
    title : str
    names : bool
        Write the arms' names.

    Returns
    -------
    Axes
    """
    rows = performance[performance["quantity"] == quantity].reset_index(drop=True)
    for y, row in rows.iterrows():
        strong, colour = row["arm"] == declared, colour_arm(row["arm"])
        ax.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=1.9 if strong else 1.1, gid="interval")
        ax.plot(row["value"], y, marker="D" if strong else "o", ms=4.5, color=colour, ls="", gid="estimate")
        _write_right(ax, float(y), f"{row['value']:.3f} ({row['ci_low']:.3f}–{row['ci_high']:.3f})")
    ax.axvline(rows["chance"].iloc[0], color=BLACK, lw=0.8, ls=":", gid="chance")
    ax.text(rows["chance"].iloc[0], -0.75, "chance", fontsize=6, ha="center", va="bottom")
    if published is not None:
        ax.axvline(published, color=ORANGE, lw=1.0, ls="--", gid="published")
        ax.text(published, -0.75, "published", fontsize=6, ha="center", va="bottom", color=ORANGE)
    ax.set_yticks(range(len(rows)), [name_arm(arm) for arm in rows["arm"]] if names else [""] * len(rows))
    for tick, arm in zip(ax.get_yticklabels(), rows["arm"], strict=True):
        tick.set_fontweight("bold" if arm == declared else "normal")
    ax.set_ylim(len(rows) - 0.3, -0.7)
    ax.set_xlabel(f"{NAMES.get(quantity, quantity)} (95 % CI)")
    ax.set_title(title, pad=12)
    return ax


def _write_right(ax: "Axes", y: float, text: str, *, weight: str = "normal") -> None:
    ax.annotate(
        text.replace("-", "−"), (1.0, y), xytext=(4, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points",
        va="center", fontsize=6, weight=weight, annotation_clip=False,
    )  # fmt: skip


def plot_differences(comparison: "pd.DataFrame", *, ax: "Axes", quantity: str, title: str = "") -> "Axes":
    """Draw the paired difference of one arm from others, with bootstrap intervals.

    Parameters
    ----------
    comparison : DataFrame
        From `compare_classifiers`: one arm, one split.
    ax : Axes
    quantity : str
    title : str

    Returns
    -------
    Axes
    """
    rows = comparison[comparison["quantity"] == quantity].reset_index(drop=True)
    for y, row in rows.iterrows():
        clear = row["ci_low"] > 0 or row["ci_high"] < 0
        colour = BLUE if clear else GREY
        ax.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=1.3, gid="interval")
        ax.plot(
            row["difference"],
            y,
            marker="o",
            ms=4.5,
            color=colour,
            ls="",
            mfc=colour if clear else "white",
            gid="estimate",
        )
        _write_right(ax, float(y), f"{row['difference']:+.3f} ({row['ci_low']:+.3f} to {row['ci_high']:+.3f})")
    ax.axvline(0, color=BLACK, lw=0.8, ls=":")
    ax.set_yticks(range(len(rows)), [f"− {name_arm(arm).lower()}" for arm in rows["other"]])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel(f"Δ {NAMES.get(quantity, quantity)}, paired (95 % CI)")
    ax.set_title(title)
    return ax


def plot_leaks(
    performance: "pd.DataFrame", *, ax: "Axes", quantity: str, published: float, names: bool = True
) -> "Axes":
    """Draw the published network with each leak on and off.

    Parameters
    ----------
    performance : DataFrame
        From `compute_arm_performance`; `arm` names the leaks.
    ax : Axes
    quantity : str
    published : float
    names : bool

    Returns
    -------
    Axes
    """
    plot_arms(performance, ax=ax, quantity=quantity, published=published, names=names)
    rows = performance[performance["quantity"] == quantity]
    ax.set_yticks(range(len(rows)), list(rows["arm"].str.capitalize()) if names else [""] * len(rows))
    return ax


def plot_curves(curves: Mapping[str, "pd.DataFrame"], *, axes: Sequence["Axes"], chance: float) -> Sequence["Axes"]:
    """Draw ROC and precision-recall curves of some arms, with the lines of chance.

    Parameters
    ----------
    curves : mapping of str to DataFrame
        Arm to the table of `compute_curves`.
    axes : sequence of two Axes
    chance : float
        Share of positives.

    Returns
    -------
    sequence of Axes
    """
    for i, (arm, table) in enumerate(curves.items()):
        for ax, curve in zip(axes, ("roc", "pr"), strict=True):
            rows = table[table["curve"] == curve]
            style = "default" if curve == "roc" else "steps-pre"
            ax.plot(
                rows["x"], rows["y"], color=SEQUENCE[i % len(SEQUENCE)], lw=1.3, label=name_arm(arm), gid=arm,
                drawstyle=style,
            )  # fmt: skip
    axes[0].plot([0, 1], [0, 1], color=BLACK, lw=0.8, ls=":")
    axes[1].axhline(chance, color=BLACK, lw=0.8, ls=":")
    axes[1].text(0.02, chance + 0.015, f"chance {chance:.2f}", fontsize=6)
    axes[0].set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    axes[1].set(xlabel="recall", ylabel="precision", title="Precision and recall")
    for ax in axes:
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
    axes[0].legend(loc="lower right", fontsize=6)
    return axes


def plot_reliability(bins: "pd.DataFrame", words: str, *, ax: "Axes", title: str = "", colour: str = BLUE) -> "Axes":
    """Draw observed against predicted shares of positives.

    Parameters
    ----------
    bins : DataFrame
        From `compute_reliability`.
    words : str
        Written into the panel.
    ax : Axes
    title, colour : str

    Returns
    -------
    Axes
    """
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.7, ls="--", zorder=0)
    ax.vlines(bins["predicted"], bins["low"], bins["high"], color=colour, lw=1.0)
    ax.plot(bins["predicted"], bins["observed"], marker="o", ms=4, color=colour, ls="", gid="bins")
    ax.text(0.03, 0.98, words, transform=ax.transAxes, va="top", fontsize=6, linespacing=1.35)
    ax.set(
        xlim=(-0.03, 1.03), ylim=(-0.03, 1.18), aspect="equal", xlabel="predicted probability", ylabel="observed share"
    )
    ax.set_title(title)
    return ax


def plot_attention(attention: np.ndarray, groups: Sequence[str], *, ax: "Axes", title: str = "") -> "Axes":
    """Draw where gene groups look: one row per group, one column per tile, relative to looking everywhere alike.

    Parameters
    ----------
    attention : ndarray, (n_groups, n_tiles)
        Rows sum to 1. Tiles are drawn in the order given.
    groups : sequence of str
    ax : Axes
    title : str

    Returns
    -------
    Axes
    """
    from matplotlib.colors import TwoSlopeNorm

    relative = np.log2(attention * attention.shape[1])
    limit = max(0.1, float(np.quantile(np.abs(relative), 0.98)))
    norm = TwoSlopeNorm(0.0, -limit, limit)
    image = ax.imshow(relative, aspect="auto", cmap="RdBu_r", norm=norm, interpolation="nearest")
    ax.set_yticks(range(len(groups)), [name.replace("_", " ").lower() for name in groups])
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel(f"tiles ({attention.shape[1]}), sorted by the first group's attention")
    ax.set_title(title)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.figure.colorbar(image, ax=ax, fraction=0.03, pad=0.02).set_label("log2 attention / uniform")
    return ax


def plot_tiles_by_group(pictures: Mapping[str, Sequence[np.ndarray]], *, axes: Sequence["Axes"]) -> Sequence["Axes"]:
    """Draw the tiles that each gene group looks at most, one row of axes per group.

    Parameters
    ----------
    pictures : mapping of str to sequence of ndarray, (h, w, 3)
        Every group with the same number of tiles.
    axes : sequence of Axes
        Row by row.

    Returns
    -------
    sequence of Axes
    """
    columns = len(next(iter(pictures.values())))
    for row, (name, tiles) in enumerate(pictures.items()):
        for column, tile in enumerate(tiles):
            ax = axes[row * columns + column]
            ax.imshow(tile, interpolation="bilinear")
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set_visible(False)
        label = name.replace("_", "\n").lower()
        axes[row * columns].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=6)
    return axes


def plot_gain(gain: "pd.DataFrame", *, ax: "Axes", names: tuple[str, str]) -> "Axes":
    """Draw what the image adds to each case: probability with both against probability with genes alone.

    Parameters
    ----------
    gain : DataFrame
        y_true, without, with_images: probabilities; one row per case.
    ax : Axes
    names : tuple of str
        Of class 0 and class 1.

    Returns
    -------
    Axes
    """
    from matplotlib.ticker import FixedLocator

    def scale(values: "pd.Series") -> np.ndarray:
        clipped = np.clip(values.to_numpy(float), 1e-3, 1 - 1e-3)
        return np.log(clipped / (1 - clipped))

    x, y = scale(gain["without"]), scale(gain["with_images"])
    ends = np.array([-7.1, 7.1])
    ax.plot(ends, ends, color=GREY, lw=0.7, ls="--", zorder=0)
    for value in (0, 1):
        mine = gain["y_true"].to_numpy() == value
        toward = (y - x)[mine] * (1 if value else -1)
        label = f"{names[value]}: {np.mean(toward > 0.01):.0%} moved right, {np.mean(toward < -0.01):.0%} wrong"
        ax.scatter(x[mine], y[mine], s=8, color=CLASS_COLOURS[value], alpha=0.6, lw=0, label=label, gid=f"class{value}")
    marks = [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator([float(np.log(p / (1 - p))) for p in marks]))
        axis.set_ticklabels([f"{p:g}" for p in marks])
    ax.set(
        xlim=ends, ylim=ends, aspect="equal", xlabel="probability, genes alone", ylabel="probability, genes and images"
    )
    ax.tick_params(axis="x", labelrotation=45)
    ax.legend(loc="lower right", fontsize=6, handletextpad=0.1)
    return ax


def plot_panels(
    table: "pd.DataFrame", *, ax: "Axes", quantity: str = "roc_auc", image: float, chance: float = 0.5
) -> "Axes":
    """Draw performance against the gene panel, for genes alone and for fusions, beside the image alone.

    Parameters
    ----------
    table : DataFrame
        panel (in order), arm, draw, value.
    ax : Axes
    quantity : str
    image, chance : float

    Returns
    -------
    Axes
    """
    panels = list(dict.fromkeys(table["panel"]))
    arms = list(dict.fromkeys(table["arm"]))
    for i, arm in enumerate(arms):
        rows = table[table["arm"] == arm]
        x = rows["panel"].map(panels.index) + 0.14 * (i - (len(arms) - 1) / 2)
        colour = GREEN if arm == "genes_linear" else SEQUENCE[(0, 3, 5, 6)[i % 4]]
        ax.plot(x, rows["value"], marker="o", ms=3.5, ls="", color=colour, alpha=0.55, gid=f"{arm}/draws")
        means = rows.groupby("panel", sort=False)["value"].mean().reindex(panels)
        at = np.arange(len(panels)) + 0.14 * (i - (len(arms) - 1) / 2)
        ax.plot(at, means, color=colour, lw=1.2, marker="D", ms=4.5, label=name_arm(arm), gid=arm)
    ax.axhline(image, color=PURPLE, lw=1.0, ls="--", label="Image only")
    ax.axhline(chance, color=BLACK, lw=0.8, ls=":")
    ax.text(len(panels) - 0.5, chance, "chance", fontsize=6, ha="right", va="bottom")
    ax.set_xticks(range(len(panels)), panels)
    ax.set_xlim(-0.5, len(panels) - 0.5)
    ax.set_xlabel("genes that the model may read")
    ax.set_ylabel(NAMES.get(quantity, quantity))
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, handlelength=1.4, columnspacing=1.0)
    return ax


def plot_tile_counts(table: "pd.DataFrame", *, ax: "Axes", quantity: str = "roc_auc") -> "Axes":
    """Draw performance against the tiles per case that a model may read.

    Parameters
    ----------
    table : DataFrame
        n_tiles (as text, 'all' last), arm, value, ci_low, ci_high.
    ax : Axes
    quantity : str

    Returns
    -------
    Axes
    """
    counts = list(dict.fromkeys(table["n_tiles"]))
    for i, arm in enumerate(dict.fromkeys(table["arm"])):
        rows = table[table["arm"] == arm]
        x = np.array([counts.index(n) for n in rows["n_tiles"]]) + 0.12 * i
        ax.vlines(x, rows["ci_low"], rows["ci_high"], color=colour_arm(arm), lw=1.0)
        ax.plot(x, rows["value"], marker="o", ms=4, color=colour_arm(arm), label=name_arm(arm), gid=arm)
    ax.set_xticks(range(len(counts)), counts)
    ax.set_xlabel("tiles per case, at most")
    ax.set_ylabel(f"{NAMES.get(quantity, quantity)} (95 % CI)")
    ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, handlelength=1.4)
    return ax


def plot_targets(table: "pd.DataFrame", *, ax: "Axes", quantity: str = "roc_auc") -> "Axes":
    """Draw every target with a few arms and the best label alone, so that circular and other targets stand together.

    Parameters
    ----------
    table : DataFrame
        target, arm, value, ci_low, ci_high, chance, n, n_positive; `arm` 'label_alone' is a label's.
    ax : Axes
    quantity : str

    Returns
    -------
    Axes
    """
    arms, targets = list(dict.fromkeys(table["arm"])), list(dict.fromkeys(table["target"]))
    gap = 0.8 / len(arms)
    for t, target in enumerate(targets):
        rows = table[table["target"] == target].set_index("arm")
        for i, arm in enumerate(arm for arm in arms if arm in rows.index):
            row, y = rows.loc[arm], t + gap * (i - (len(arms) - 1) / 2)
            alone = arm == "label_alone"
            colour = GREY if alone else colour_arm(arm)
            name = row["label"] if alone else name_arm(arm)
            ax.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, lw=1.1)
            ax.plot(
                row["value"],
                y,
                marker="s" if alone else ("D" if "cross" in arm else "o"),
                ms=3.8,
                color=colour,
                ls="",
                gid=arm,
            )
            ax.annotate(
                f"{name} {row['value']:.2f}", (1.0, y), xytext=(4, 0), xycoords=ax.get_yaxis_transform(),
                textcoords="offset points", va="center", fontsize=5.5, color=colour, annotation_clip=False,
            )  # fmt: skip
        ax.axhline(t + 0.5, color="0.9", lw=0.6)
    first = table.drop_duplicates("target")
    ax.set_yticks(
        range(len(targets)),
        [f"{name_target(r.target)}\n{r.n_positive} of {r.n}" for r in first.itertuples()],
    )
    ax.set_ylim(len(targets) - 0.45, -0.55)
    ax.axvline(0.5, color=BLACK, lw=0.8, ls=":")
    ax.set_xlabel(f"{NAMES.get(quantity, quantity)} (95 % CI)")
    return ax
