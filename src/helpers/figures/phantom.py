"""What was planted, drawn: slides beside their truth maps, sites, loadings, planted curves, attenuation.

These figures open a phantom's `truth/`; they belong to chapter 00, where the reader is shown what later chapters must
find. Tables and images in, Axes out; nothing is computed here.

A gallery takes four columns of axes per slide::

    fig, axes = new_figure(width_mm=DOUBLE_COLUMN_MM, height_mm=48 * n, rows=n, columns=4)
    maps, um_per_px = read_maps(truth / "maps" / f"{slide_id}.npz")  # helpers.phantom.generate
    plot_slide_and_truth(
        thumbnail, maps, slide_um=1500, maps_um_per_px=um_per_px, title=title, axes=axes[4 * i : 4 * i + 4]
    )
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from helpers.figures.style import BLACK, GREY, PALETTES, SEQUENCE, add_scale_bar, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# name: (title, colour map, lower limit, upper limit)
MAP_LOOKS: dict[str, tuple[str, str, float, float]] = {
    "proliferation": ("Proliferation, z", "RdBu_r", -3.0, 3.0),
    "til": ("Lymphocytes per mm²", "viridis", 0.0, 5000.0),
    "nuclear_density": ("Nuclei per mm²", "magma", 0.0, 8000.0),
    "tumour": ("Invasive epithelium, share", "cividis", 0.0, 1.0),
}
FACTOR_LABELS = {
    "proliferation": "Proliferation",
    "luminal": "Luminal",
    "her2": "HER2",
    "basal": "Basal",
    "til": "TILs",
    "batch": "Site batch",
}
ROLE_LABELS = {
    "prolif11": "11-gene score",
    "pam50": "other PAM50",
    "immune": "immune",
    "housekeeping": "housekeeping",
    "null": "null",
}
NO_TUMOUR = "#E8E8E8"


def plot_slide_and_truth(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    slide_um: float,
    maps_um_per_px: float,
    axes: "Sequence[Axes]",
    title: str = "",
    names: Sequence[str] = ("proliferation", "til", "nuclear_density"),
) -> "list[Axes]":
    """Draw one slide and, beside it, what was planted in it, all in um and on one scale per map.

    Parameters
    ----------
    image : ndarray, (h, w, 3), uint8
        Thumbnail of the whole slide.
    maps : mapping of str to ndarray, (n, n)
        Of `read_maps`; NaN is drawn grey.
    slide_um : float
        Edge of the slide, um.
    maps_um_per_px : float
    axes : sequence of Axes
        One for the slide and one per name.
    title : str
        Over the slide, such as 'PH-0007, site A, z +1.2'.
    names : sequence of str
        Maps drawn, keys of `MAP_LOOKS`.

    Returns
    -------
    list of Axes
    """
    plot_slide(image, slide_um=slide_um, title=title, ax=axes[0])
    for name, ax in zip(names, list(axes)[1:], strict=True):
        plot_truth_map(maps[name], name=name, um_per_px=maps_um_per_px, ax=ax)
    return list(axes)


def plot_slide(image: np.ndarray, *, slide_um: float, title: str = "", ax: "Axes | None" = None) -> "Axes":
    """Draw a slide's thumbnail with a scale bar.

    Parameters
    ----------
    image : ndarray, (h, w, 3), uint8
    slide_um : float
        Width of the slide, um.
    title : str
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(height_mm=85) if ax is None else ax
    ax.imshow(image, interpolation="lanczos")
    ax.set_axis_off()
    ax.set_title(title, fontsize=6.5)
    length = max(nice for nice in (20, 50, 100, 200, 500, 1000, 2000) if nice <= max(20.0, slide_um / 3))
    add_scale_bar(ax, um_per_px=slide_um / image.shape[1], length_um=length)
    return ax


def plot_truth_map(values: np.ndarray, *, name: str, um_per_px: float, ax: "Axes | None" = None) -> "Axes":
    """Draw one truth map with its colour bar; limits are fixed per map, so that slides can be compared.

    Parameters
    ----------
    values : ndarray, (h, w)
    name : str
        Key of `MAP_LOOKS`.
    um_per_px : float
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    import matplotlib as mpl

    ax = new_axes(height_mm=85) if ax is None else ax
    label, colours, low, high = MAP_LOOKS[name]
    cmap = mpl.colormaps[colours].with_extremes(bad=NO_TUMOUR)
    height, width = values.shape
    extent = (0.0, width * um_per_px, height * um_per_px, 0.0)
    drawn = ax.imshow(values, cmap=cmap, vmin=low, vmax=high, extent=extent, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(label, fontsize=6.5, fontweight="normal")
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.045, pad=0.02, extend="both" if low < 0 else "max")
    bar.ax.tick_params(labelsize=5, width=0.4, length=2)
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]
    return ax


def plot_sites(sites: pd.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw each planted site: the colours of its two stains on its glass, its scanner, its shift of the case mix.

    Parameters
    ----------
    sites : DataFrame
        truth/sites.csv.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(width_mm=120, height_mm=8 + 8 * len(sites)) if ax is None else ax
    for row, site in enumerate(sites.to_dict("records")):
        for column, stain in enumerate(("stain_h", "stain_e")):
            for step, density in enumerate((0.35, 0.7, 1.2)):
                colour = _colour_of(site, stain, density)
                ax.add_patch(_swatch(3 * column + step, row, colour))
        shift = _sign(site["latent_shift"], digits=2)
        words = f"{site['centre']}, {site['scanner']}, {site['mpp']:g} µm/px, case mix {shift} SD"
        ax.text(6.4, row, words, va="center", fontsize=6.5)
    ax.set(xlim=(-0.6, 17.5), ylim=(len(sites) - 0.5, -0.5), yticks=range(len(sites)), xticks=[1, 4])
    ax.set_yticklabels([f"site {name}" for name in sites["site"]])
    ax.set_xticklabels(["haematoxylin", "eosin"])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _sign(value: float, *, digits: int) -> str:
    """Write a number with its sign, a true minus, and no sign on zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _colour_of(site: Mapping[Any, Any], stain: str, density: float) -> tuple[float, ...]:
    """Beer-Lambert: what is left of the glass behind a stain of this density."""
    light = [(site[f"background_{c}"] / 255, site[f"{stain}_{c}"]) for c in "rgb"]
    return tuple(float(glass * 10 ** (-density * part)) for glass, part in light)


def _swatch(x: float, y: float, colour: tuple[float, ...]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.38), 1.0, 0.76, color=colour, lw=0)


def plot_loadings(loadings: pd.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Draw the planted loadings: genes across, factors down, log2 units per SD of the factor.

    Housekeeping and null genes, which load on nothing, are left out and counted in the title.

    Parameters
    ----------
    loadings : DataFrame
        truth/loadings.csv.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    from matplotlib.colors import SymLogNorm

    ax = new_axes(width_mm=183, height_mm=52) if ax is None else ax
    factors = [name for name in FACTOR_LABELS if name in loadings]
    shown = loadings[(loadings[factors] != 0).any(axis=1)]
    norm = SymLogNorm(linthresh=0.5, vmin=-3.75, vmax=3.75)
    drawn = ax.imshow(shown[factors].to_numpy().T, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(shown)), shown["gene"], rotation=90, fontsize=4.8)
    ax.set_yticks(range(len(factors)), [FACTOR_LABELS[name] for name in factors])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    _mark_roles(ax, shown["role"].tolist())
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.02, pad=0.01, ticks=[-3, -1, 0, 1, 3], format="%g")
    bar.set_label("loading, log2 per SD", fontsize=6)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=5.5)
    silent = loadings.drop(shown.index)["role"].value_counts()
    rest = " and ".join(f"{count} {ROLE_LABELS[role]}" for role, count in silent.items())
    ax.set_title(f"Planted loadings ({rest} genes load on nothing)" if rest else "Planted loadings", pad=14)
    return ax


def _mark_roles(ax: "Axes", roles: list[str]) -> None:
    """Name each run of genes of one role above the heat map."""
    starts = [i for i, role in enumerate(roles) if i == 0 or roles[i - 1] != role]
    for start, end in zip(starts, [*starts[1:], len(roles)], strict=True):
        ax.plot([start - 0.4, end - 0.6], [-0.75, -0.75], color=BLACK, lw=1, clip_on=False, gid="role")
        ax.text((start + end - 1) / 2, -0.9, ROLE_LABELS[roles[start]], ha="center", va="bottom", fontsize=6)


def plot_planted_survival(
    curves: pd.DataFrame, *, observed: pd.DataFrame | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw the planted probability of staying free of recurrence for three latents, other deaths set aside.

    Parameters
    ----------
    curves : DataFrame
        Of `tabulate_planted_curves`: latent, months, survival.
    observed : DataFrame, optional
        latent, months, survival of the drawn cohort (a Kaplan-Meier curve of time to recurrence by group of latent);
        drawn as steps in the colour of the planted curve.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    colours = _pick_colours(len(curves["latent"].unique()))
    for colour, (latent, curve) in zip(colours, curves.groupby("latent"), strict=True):
        label = f"latent {_sign(float(str(latent)), digits=0)} SD"
        ax.plot(curve["months"], curve["survival"], color=colour, label=label, gid="planted")
        if observed is not None:
            steps = observed[observed["latent"] == latent]
            ax.step(steps["months"], steps["survival"], where="post", color=colour, lw=0.7, ls=":", gid="observed")
    top = float(curves["months"].max())
    ax.set(xlim=(0, top), ylim=(0, 1.02), xlabel="Months since surgery", ylabel="Free of recurrence (planted)")
    ax.set_xticks(np.arange(0, top + 1, 24))
    ax.legend(loc="lower left")
    return ax


def _pick_colours(count: int) -> list[str]:
    low, high = PALETTES["risk"]["low"], PALETTES["risk"]["high"]
    return {1: [BLACK], 2: [low, high], 3: [low, GREY, high]}.get(count, list(SEQUENCE)[:count])


def plot_attenuation(table: pd.DataFrame, *, measured_label: str = "11-gene score", ax: "Axes | None" = None) -> "Axes":
    """Draw what a score's error costs: true hazard ratio against the correlation with the measured score.

    Parameters
    ----------
    table : DataFrame
        Of `tabulate_attenuation`: kind, spearman, hr, hr_low, hr_high.
    measured_label : str
    ax : Axes, optional

    Returns
    -------
    Axes
        Ratio on a log axis; the band is the Monte-Carlo error.
    """
    ax = new_axes() if ax is None else ax
    image = table[table["kind"] == "image"]
    colour = PALETTES["source"]["image"]
    ax.fill_between(image["spearman"], image["hr_low"], image["hr_high"], color=colour, alpha=0.25, lw=0)
    ax.plot(image["spearman"], image["hr"], color=colour, marker="o", ms=3, label="image score")
    looks = {
        "measured": (PALETTES["source"]["rna"], "s", f"measured {measured_label}"),
        "latent": (BLACK, "D", "latent itself"),
    }
    for kind, (colour, marker, label) in looks.items():
        row = table[table["kind"] == kind].iloc[0]
        ax.plot(row["spearman"], row["hr"], color=colour, marker=marker, ms=4, ls="none", label=label, gid=kind)
    ax.axhline(1.0, color=GREY, lw=0.6)
    ax.set(yscale="log", xlim=(0, 1.04), ylim=(0.97, float(table["hr_high"].max()) * 1.08))
    ticks = [tick for tick in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0) if tick <= ax.get_ylim()[1]]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel(f"Spearman with the measured {measured_label}")
    ax.set_ylabel("True hazard ratio")
    ax.legend(loc="upper left")
    return ax
