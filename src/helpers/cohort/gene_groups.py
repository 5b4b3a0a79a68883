"""Gene groups: sets of genes by name, from a GMT file, as the tokens that chapter 06 attends with.

A GMT line is `name <tab> description <tab> gene <tab> gene …`. Groups may overlap; genes that the expression table
lacks are left out and counted, never replaced.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.cohort.genes import read_aliases
from helpers.core.errors import GeneError

GROUPS_FILE = "data/gene_groups.gmt"


def read_gmt(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read gene groups from a GMT file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict of str to tuple of str
        Group to its genes, in the file's order.

    Raises
    ------
    GeneError
        When the file is missing or empty, a line has no gene, or a name comes twice.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"GeneError: gene groups '{path.name}' were not found in '{path.parent}'. Name a GMT file."
        raise GeneError(msg)
    groups: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = (cell.strip() for cell in line.split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not genes or name in groups:
            problem = f"repeats the group '{name}'" if name in groups else f"names no gene for '{name}'"
            msg = f"GeneError: line {number} of '{path.name}' {problem}; expected name, description, genes, by tabs."
            raise GeneError(msg)
        groups[name] = genes
    if not groups:
        msg = f"GeneError: '{path.name}' holds no gene group; expected lines of name, description, genes."
        raise GeneError(msg)
    return groups


def match_groups(
    groups: Mapping[str, Iterable[str]], available: Iterable[str], *, min_genes: int = 1
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Find the genes of groups among the symbols of a table, under their current name or an older one.

    Parameters
    ----------
    groups : mapping of str to iterable of str
    available : iterable of str
        Symbols of the table.
    min_genes : int
        Groups with fewer genes at hand are left out.

    Returns
    -------
    found : dict of str to list of str
        Group to the table's symbols; only groups that are kept.
    absent : dict of str to list of str
        Group to the genes that the table lacks; only groups that lack any.

    Raises
    ------
    GeneError
        When no group is left, or the table holds a gene of a group under two names.
    """
    aliases = read_aliases()
    table: dict[str, list[str]] = {}
    for symbol in available:
        table.setdefault(aliases.get(symbol, symbol), []).append(symbol)
    found: dict[str, list[str]] = {}
    absent: dict[str, list[str]] = {}
    for name, genes in groups.items():
        wanted = {aliases.get(gene, gene): gene for gene in genes}
        here = [_find_once(table[current], gene, name) for current, gene in wanted.items() if current in table]
        missing = [gene for current, gene in wanted.items() if current not in table]
        if len(here) >= min_genes:
            found[name] = here
        if missing:
            absent[name] = missing
    if not found:
        msg = (
            f"GeneError: none of the {len(absent)} gene groups has {min_genes} genes among the {len(table)} of the "
            "expression table. Name another GMT file, with the table's symbols."
        )
        raise GeneError(msg)
    return found, absent


def _find_once(symbols: list[str], gene: str, group: str) -> str:
    if len(symbols) > 1:
        msg = (
            f"GeneError: gene '{gene}' of group '{group}' is in the expression table as "
            f"{' and as '.join(map(repr, symbols))}, expected once. Drop or merge one of the two."
        )
        raise GeneError(msg)
    return symbols[0]


def draw_groups(genes: Iterable[str], *, n_genes: int, n_groups: int, rng: np.random.Generator) -> dict[str, list[str]]:
    """Draw genes at random and deal them into groups: a panel that nobody chose.

    Parameters
    ----------
    genes : iterable of str
        To draw from.
    n_genes : int
        At most as many as there are.
    n_groups : int
    rng : numpy Generator

    Returns
    -------
    dict of str to list of str
    """
    pool = sorted(genes)
    drawn = [pool[i] for i in rng.permutation(len(pool))[:n_genes]]
    n_groups = max(1, min(n_groups, len(drawn)))
    return {f"RANDOM_{k + 1}": drawn[k::n_groups] for k in range(n_groups)}


def tabulate_groups(found: Mapping[str, list[str]], absent: Mapping[str, list[str]]) -> pd.DataFrame:
    """Return one row per group: how many of its genes are at hand, and which.

    Parameters
    ----------
    found, absent : mapping
        From `match_groups`.

    Returns
    -------
    DataFrame
        group, n_genes, genes, n_absent, absent.
    """
    names = [*found, *(name for name in absent if name not in found)]
    return pd.DataFrame(
        {
            "group": names,
            "n_genes": [len(found.get(name, [])) for name in names],
            "genes": [" ".join(found.get(name, [])) for name in names],
            "n_absent": [len(absent.get(name, [])) for name in names],
            "absent": [" ".join(absent.get(name, [])) for name in names],
        }
    )
