"""What `pathomics` measures on phantom slides beside what was planted there, tile by tile."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from helpers.core.specs import PhantomSpec
from helpers.features.nuclei import fit_image_stain
from helpers.features.pathomics import describe_pathomics
from helpers.phantom.nuclei import KINDS, Cells
from helpers.phantom.plan import SlidePlan
from helpers.phantom.renderer import render_slide
from helpers.phantom.tissue import plan_tissue
from helpers.phantom.truth import plan_cohort

if TYPE_CHECKING:
    import pandas as pd

LEAST_STAINED = 0.5
"""Tiles with less stained area are left out."""
FEWEST_TUMOUR = 10
"""Tumour nuclei below which a tile's spread of sizes is not compared."""


@dataclass(frozen=True)
class Comparison:
    """A planted quantity and the column that should follow it.

    Attributes
    ----------
    planted : str
    column : str
    """

    planted: str
    column: str


JUDGED_SEED, JUDGED_SLIDES, JUDGED_UM = 4242, 10, 1000.0
"""Of the slides that the documentation's numbers come from: the first ten without an artefact of this cohort."""
COMPARISONS = (
    Comparison("nuclei per mm2", "nuclei_per_mm2"),
    Comparison("mean diameter of nuclei", "diameter_um_mean"),
    Comparison("SD of log area of tumour nuclei", "pleomorphism_log_area_sd"),
    Comparison("lymphocytes per mm2", "lymphocyte_like_per_mm2"),
    Comparison("mitoses per mm2", "mitosis_like_per_mm2"),
    Comparison("share of lumen", "lumen_fraction"),
)


def plan_judged_slides() -> list[SlidePlan]:
    """Plan the slides that the documentation's numbers come from.

    Returns
    -------
    list of SlidePlan
        Ten slides of other seeds than the book's, 1 mm wide, without artefacts.
    """
    plans = plan_cohort(PhantomSpec(seed=JUDGED_SEED, n_cases=40, n_external=20)).plans
    return [replace(plan, slide_um=JUDGED_UM) for plan in plans if not plan.artefacts][:JUDGED_SLIDES]


def compare_tiles(plans: Sequence[SlidePlan], *, tile_um: float = 128.0) -> "pd.DataFrame":
    """Draw phantom slides and describe their tiles.

    Parameters
    ----------
    plans : sequence of SlidePlan
    tile_um : float
        Edge of a tile.

    Returns
    -------
    DataFrame
        slide_id, tile, one column per planted quantity (NaN where it is not defined), and the columns of `pathomics`
        that `COMPARISONS` names; tiles that are at least half stained.
    """
    import pandas as pd

    return pd.concat([_compare_slide(plan, tile_um) for plan in plans], ignore_index=True)


def _compare_slide(plan: SlidePlan, tile_um: float) -> "pd.DataFrame":
    import pandas as pd

    slide, tissue = render_slide(plan), plan_tissue(plan)
    lumen = tissue.fill(tissue.lumina + tissue.gland_lumina)
    stain = fit_image_stain(slide.image, um_per_px=plan.mpp, item=plan.slide_id)
    edge = round(tile_um / plan.mpp)
    edge_um = edge * plan.mpp
    rows = []
    for top, left in np.ndindex(*(np.array(slide.image.shape[:2]) // edge)):
        tile = slide.image[top * edge : (top + 1) * edge, left * edge : (left + 1) * edge]
        found = describe_pathomics(tile, stain, um_per_px=plan.mpp)
        if found["stained_fraction"] < LEAST_STAINED:
            continue
        cells = pick_cells(slide.cells, left * edge_um, top * edge_um, edge_um=edge_um)
        window = tuple(_cut(place * edge_um, edge_um, tissue.pixel_um) for place in (top, left))
        planted = measure_planted(cells, found["stained_fraction"] * edge_um**2 / 1e6, float(lumen[window].mean()))
        measured = {comparison.column: found[comparison.column] for comparison in COMPARISONS}
        rows.append({"slide_id": plan.slide_id, "tile": f"{left},{top}", **planted, **measured})
    return pd.DataFrame(rows)


def _cut(low_um: float, edge_um: float, pixel_um: float) -> slice:
    return slice(int(low_um / pixel_um), int((low_um + edge_um) / pixel_um))


def pick_cells(cells: Cells, x_um: float, y_um: float, *, edge_um: float) -> Cells:
    """Return the nuclei whose centre lies in a square, without erythrocytes, which have none.

    Parameters
    ----------
    cells : ndarray, (n_cells,)
    x_um, y_um : float
        Upper left corner.
    edge_um : float

    Returns
    -------
    ndarray, (m,)
    """
    inside = (cells["x_um"] >= x_um) & (cells["x_um"] < x_um + edge_um)
    inside &= (cells["y_um"] >= y_um) & (cells["y_um"] < y_um + edge_um)
    return cells[inside & (cells["kind"] != KINDS.index("erythrocyte"))]


def measure_planted(cells: Cells, area_mm2: float, lumen: float) -> dict[str, float]:
    """Return the planted quantities of a tile.

    Parameters
    ----------
    cells : ndarray, (n,)
        Nuclei of the tile.
    area_mm2 : float
        Stained.
    lumen : float
        Share of the tile inside lumina.

    Returns
    -------
    dict of str to float
    """
    tumour = cells[cells["kind"] == KINDS.index("tumour")]
    many = len(tumour) >= FEWEST_TUMOUR
    values = (
        len(cells) / area_mm2,
        float(cells["diameter_um"].mean()) if len(cells) else np.nan,
        float((2 * np.log(tumour["diameter_um"])).std()) if many else np.nan,
        float((cells["kind"] == KINDS.index("lymphocyte")).sum()) / area_mm2,
        float((cells["kind"] == KINDS.index("mitosis")).sum()) / area_mm2,
        lumen,
    )
    return dict(zip((comparison.planted for comparison in COMPARISONS), values, strict=True))


def correlate_tiles(table: "pd.DataFrame") -> "pd.DataFrame":
    """Rank-correlate planted with measured quantities over tiles.

    Parameters
    ----------
    table : DataFrame
        Of `compare_tiles`.

    Returns
    -------
    DataFrame
        planted, column, spearman (NaN where one is constant), n (tiles in which both are defined), n_positive (of
        those, planted above 0).
    """
    import pandas as pd

    rows = []
    for comparison in COMPARISONS:
        pair = table[[comparison.planted, comparison.column]].dropna()
        counts = {"n": len(pair), "n_positive": int((pair[comparison.planted] > 0).sum())}
        rho = float(pair.rank().corr().iloc[0, 1])
        rows.append({"planted": comparison.planted, "column": comparison.column, "spearman": rho, **counts})
    return pd.DataFrame(rows)
