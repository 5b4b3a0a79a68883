"""What a fusion needs: fewer genes, other genes, fewer tiles; and where its gene groups look."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from helpers.cohort.gene_groups import draw_groups
from helpers.cohort.genes import read_aliases, read_signature
from helpers.core.errors import ModelError
from helpers.models.bags import Bags, collect_bags
from helpers.models.fusion import FusionInputs
from helpers.models.fusion_study import Fits, FusionStudy, predict_fusion

N_GROUPS = 6
"""Tokens into which genes without a group of their own are dealt."""
Panels = list[tuple[str, int, dict[str, list[str]]]]
"""Panel, draw, and its gene groups."""


def list_panels(
    groups: Mapping[str, list[str]],
    genes: Sequence[str],
    *,
    sizes: Sequence[int],
    n_draws: int,
    rng: np.random.Generator,
) -> Panels:
    """List gene panels from the full set of groups to a handful of random genes; none of the random ones is PAM50's.

    Parameters
    ----------
    groups : mapping of str to list of str
        The declared groups.
    genes : sequence of str
        Every gene that was measured.
    sizes : sequence of int
        Of the random panels; a size beyond what there is is left out.
    n_draws : int
        Random panels of each size.
    rng : numpy Generator

    Returns
    -------
    list of (panel, draw, groups)
    """
    aliases, pam50 = read_aliases(), set(read_signature("pam50"))
    others = [gene for gene in genes if aliases.get(gene, gene) not in pam50]
    panels: Panels = [("all groups", 0, dict(groups))]
    if not others:
        return panels
    panels.append(("no PAM50 gene", 0, draw_groups(others, n_genes=len(others), n_groups=N_GROUPS, rng=rng)))
    for size in sorted(sizes, reverse=True):
        for draw in range(n_draws if size < len(others) else 0):
            panels.append((f"{size} random", draw, draw_groups(others, n_genes=size, n_groups=N_GROUPS, rng=rng)))
    return panels


def predict_panels(
    study: FusionStudy, expression: pd.DataFrame, panels: Panels, *, arms: Sequence[str], workers: int = 1
) -> pd.DataFrame:
    """Fit arms with one gene panel after the other, on the cases, images and folds of a study.

    Parameters
    ----------
    study : FusionStudy
    expression : DataFrame, (n_cases, n_genes)
        Every gene of the panels.
    panels : list
        From `list_panels`.
    arms : sequence of str
    workers : int

    Returns
    -------
    DataFrame
        Predictions of repeat 0, with panel and draw.
    """
    tables = []
    for panel, draw, groups in panels:
        genes = tuple(dict.fromkeys(gene for members in groups.values() for gene in members))
        values = expression.loc[study.cases, list(genes)].to_numpy(float)
        other = replace(study, groups=groups, genes=genes, inputs=FusionInputs(study.inputs.bags, values))
        found, _ = predict_fusion(other, arms, repeats=[0], workers=workers)
        tables.append(found.assign(panel=panel, draw=draw))
    return pd.concat(tables, ignore_index=True)


def limit_tiles(bags: Bags, *, n_tiles: int, rng: np.random.Generator) -> Bags:
    """Draw at most so many tiles of every case.

    Parameters
    ----------
    bags : Bags
    n_tiles : int
    rng : numpy Generator

    Returns
    -------
    Bags
        Of a store of their own.
    """
    return collect_bags([bag[np.sort(rng.permutation(len(bag))[:n_tiles])] for bag in bags])


def predict_tile_counts(
    study: FusionStudy, counts: Sequence[int], *, arms: Sequence[str], workers: int = 1
) -> pd.DataFrame:
    """Fit arms with fewer tiles per case.

    Parameters
    ----------
    study : FusionStudy
    counts : sequence of int
        Counts that no case exceeds are left out, since they change nothing.
    arms : sequence of str
    workers : int

    Returns
    -------
    DataFrame
        Predictions of repeat 0, with n_tiles ('50', …).
    """
    tables = []
    for n in counts:
        if n >= study.inputs.bags.sizes.max():
            continue
        bags = limit_tiles(study.inputs.bags, n_tiles=n, rng=np.random.default_rng([study.seed, n]))
        other = replace(study, inputs=FusionInputs(bags, study.inputs.genes))
        found, _ = predict_fusion(other, arms, repeats=[0], workers=workers)
        tables.append(found.assign(n_tiles=str(n)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def collect_attention(study: FusionStudy, fits: Fits, *, arm: str, repeat: int = 0) -> pd.DataFrame:
    """Collect where the gene groups of every held-out case look, by the network that did not see the case.

    Parameters
    ----------
    study : FusionStudy
    fits : dict
        From `predict_fusion`.
    arm : str
        One whose gene groups look at tiles.
    repeat : int

    Returns
    -------
    DataFrame
        case_id, tile (position in the case's bag), group, attention (times the number of tiles: 1 is uniform),
        contribution (logit).

    Raises
    ------
    ModelError
        When the arm was not fitted.
    """
    tables = []
    for (r, fold), fitted in fits.items():
        if arm not in fitted:
            msg = f"ModelError: arm '{arm}' was not fitted; there are {', '.join(fitted)}."
            raise ModelError(msg)
        if r != repeat:
            continue
        for row in study.locate(r, fold)[1]:
            attention, contribution = fitted[arm].attend(study.inputs.take(np.array([row])))
            n_groups, n_tiles = attention.shape
            tables.append(pd.DataFrame({
                "case_id": study.cases[row], "tile": np.tile(np.arange(n_tiles), n_groups),
                "group": np.repeat(list(study.groups), n_tiles), "attention": (attention * n_tiles).ravel(),
                "contribution": contribution.ravel(),
            }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def pick_tiles(attention: pd.DataFrame, *, n_tiles: int) -> pd.DataFrame:
    """Pick the tiles that each group looks at most, one per case, so that no case fills a row.

    Parameters
    ----------
    attention : DataFrame
        From `collect_attention`.
    n_tiles : int
        Per group.

    Returns
    -------
    DataFrame
        Rows of `attention`, group by group, most looked at first.
    """
    ordered = attention.sort_values("attention", ascending=False, kind="stable")
    best = ordered.drop_duplicates(["group", "case_id"])
    picked = [best[best["group"] == group].head(n_tiles) for group in dict.fromkeys(attention["group"])]
    return pd.concat(picked, ignore_index=True)
