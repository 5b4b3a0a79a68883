"""Gene symbols and signature scores: one list, aliases resolved, constants from training cases only.

`data/genes.yaml` holds the lists. An expression table calls a gene what it likes; `resolve_symbols` finds it under
its current or an older name, or says which gene is missing and what comes near.
"""

import difflib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd

from helpers.core.errors import GeneError
from helpers.core.paths import data_dir, read_yaml

ScoreMethod = Literal["mean_log2", "mean_zscore", "pam50"]
SCORE_METHODS: tuple[ScoreMethod, ...] = ("mean_log2", "mean_zscore", "pam50")


@cache
def _read_lists() -> dict[str, Any]:
    return read_yaml(data_dir() / "genes.yaml")


def list_signatures() -> tuple[str, ...]:
    """Return the names of the signatures in `data/genes.yaml`.

    Returns
    -------
    tuple of str
    """
    return tuple(_read_lists()["signatures"])


def read_signature(name: str) -> tuple[str, ...]:
    """Return the genes of a signature; any other name is taken as a single gene.

    Parameters
    ----------
    name : str
        'prolif11', 'pam50', 'prosigna18', or a gene symbol such as 'MKI67'.

    Returns
    -------
    tuple of str
        Current HGNC symbols.
    """
    signatures = _read_lists()["signatures"]
    return tuple(signatures[name]["genes"]) if name in signatures else (read_aliases().get(name, name),)


def name_score(target: str) -> str:
    """Name a score as an axis should.

    Parameters
    ----------
    target : str

    Returns
    -------
    str
    """
    for name, label in (("prolif11", "11-gene score"), ("prosigna18", "18-gene score")):
        if target.startswith(name):
            return f"{label}{target.removeprefix(name).replace('_', ' ')}"
    return target.replace("_", " ")


def read_aliases() -> dict[str, str]:
    """Return older or colloquial symbols and the current symbol of each.

    Returns
    -------
    dict of str to str
    """
    return dict(_read_lists()["aliases"])


def read_ror_weights() -> dict[str, float]:
    """Return the weights of ROR-P: four subtype correlations and the 11-gene score.

    Returns
    -------
    dict of str to float
    """
    return dict(_read_lists()["scores"]["ror_p"]["weights"])


def resolve_symbols(genes: Iterable[str], available: Iterable[str]) -> dict[str, str]:
    """Find each gene among the symbols of a table, under its current name or an older one.

    Parameters
    ----------
    genes : iterable of str
        Wanted symbols, current or old.
    available : iterable of str
        Symbols of the table.

    Returns
    -------
    dict of str to str
        Wanted symbol to the table's symbol.

    Raises
    ------
    GeneError
        When a gene is absent (with what comes near), or the table holds it under two names.
    """
    present = list(available)
    aliases = read_aliases()
    by_current: dict[str, list[str]] = {}
    for symbol in present:
        by_current.setdefault(aliases.get(symbol, symbol), []).append(symbol)
    found, missing = {}, []
    for gene in genes:
        symbols = by_current.get(aliases.get(gene, gene), [])
        if len(symbols) > 1:
            msg = (
                f"GeneError: gene '{gene}' is in the expression table as {' and as '.join(map(repr, symbols))}, "
                "expected once. Drop or merge one of the two."
            )
            raise GeneError(msg)
        if symbols:
            found[gene] = symbols[0]
        else:
            missing.append(gene)
    if missing:
        raise GeneError(_describe_missing(missing, present))
    return found


def list_genes(wanted: Sequence[str], available: Iterable[str]) -> pd.DataFrame:
    """List the genes of signatures and single genes, each once, with the table's symbol or why there is none.

    Parameters
    ----------
    wanted : sequence of str
        Names of signatures ('pam50') and gene symbols, current or old; empty: every gene of the table.
    available : iterable of str
        Symbols of the table.

    Returns
    -------
    DataFrame
        gene (current HGNC symbol), symbol (of the table; None where absent), reason (empty, or what comes near).
    """
    present, aliases = list(dict.fromkeys(available)), read_aliases()
    names = [gene for name in wanted for gene in read_signature(name)] if wanted else present
    rows: list[dict[str, str | None]] = []
    for gene in dict.fromkeys(aliases.get(name, name) for name in names):
        old = [alias for alias, current in aliases.items() if current == gene]
        symbol = next((name for name in [gene, *old] if name in present), None)
        near = difflib.get_close_matches(gene, present, n=3, cutoff=0.6)
        hint = f"nearest symbols: {', '.join(near)}" if near else "no symbol comes near"
        rows.append({"gene": gene, "symbol": symbol, "reason": "" if symbol else f"not measured; {hint}"})
    return pd.DataFrame(rows, columns=["gene", "symbol", "reason"])


def _describe_missing(missing: list[str], present: list[str]) -> str:
    gene = missing[0]
    old = [alias for alias, current in read_aliases().items() if current == gene]
    looked = f" (looked for {', '.join([gene, *old])})" if old else ""
    near = [symbol for symbol in present if symbol.casefold() == gene.casefold()]
    near = near or difflib.get_close_matches(gene, present, n=3, cutoff=0.6)
    hint = f"Nearest symbols: {', '.join(near)}." if near else "No symbol comes near."
    if not near and present:
        hint += f" The table's first is '{present[0]}'; expected HGNC symbols, not Ensembl or Entrez ids."
    others = f" {len(missing) - 1} more are missing: {', '.join(missing[1:6])}." if len(missing) > 1 else ""
    return (
        f"GeneError: gene '{gene}' is not among the {len(present)} genes of the expression table{looked}. {hint}"
        f"{others} Choose another target or signature, or add the gene."
    )


def widen_expression(
    expression: pd.DataFrame, *, genes: Sequence[str] | None = None, case_ids: Sequence[str] | None = None
) -> pd.DataFrame:
    """Turn the long expression table into cases x genes on the log2 scale.

    Parameters
    ----------
    expression : DataFrame
        case_id, gene, value, unit, as `read_expression` returns it.
    genes : sequence of str, optional
        Columns in this order under these names (aliases are resolved); all genes otherwise.
    case_ids : sequence of str, optional
        Rows in this order; all cases in order of appearance otherwise.

    Returns
    -------
    DataFrame, (n_cases, n_genes)
        log2 values: as given where the unit is log2, log2(x + 1) for rsem, tpm, fpkm and cp10k.

    Raises
    ------
    GeneError
        When a gene or a case is missing, or the unit is count (normalise for depth first, `compute_cp10k`).
    """
    if genes is not None:
        names = resolve_symbols(genes, expression["gene"].unique())
        expression = expression[expression["gene"].isin(names.values())]
    logged = expression["value"].to_numpy(float).copy()
    linear = (expression["unit"] != "log2").to_numpy()
    _refuse_counts(expression)
    logged[linear] = np.log2(logged[linear] + 1)
    order = list(dict.fromkeys(expression["case_id"])) if case_ids is None else list(case_ids)
    wide = expression.assign(value=logged).pivot(index="case_id", columns="gene", values="value").reindex(order)
    if genes is not None:
        wide = wide[[names[gene] for gene in genes]].set_axis(list(genes), axis=1)
    _check_complete(wide)
    return wide.rename_axis(columns=None)


def list_needed_genes(targets: Sequence[str], *, methods: Iterable[ScoreMethod]) -> list[str]:
    """List the genes that scores are made of, so that a hole elsewhere in a table of 20,000 stops nobody.

    Parameters
    ----------
    targets : sequence of str
        Names of signatures, or genes.
    methods : iterable of str
        Of scoring; 'pam50' standardises a case over the 50 genes, for targets of more than one.

    Returns
    -------
    list of str
        Each once, in the order of the targets.
    """
    sets = [read_signature(target) for target in targets]
    over = [read_signature("pam50")] if "pam50" in methods and any(len(genes) > 1 for genes in sets) else []
    return list(dict.fromkeys(gene for genes in [*sets, *over] for gene in genes))


def _refuse_counts(expression: pd.DataFrame) -> None:
    counted = expression.loc[expression["unit"] == "count", "gene"]
    if len(counted):
        msg = (
            f"GeneError: gene '{counted.iloc[0]}' is given as raw counts, which carry the depth of sequencing. "
            "Convert the table with compute_cp10k, or give TPM or log2 values."
        )
        raise GeneError(msg)


def _check_complete(wide: pd.DataFrame) -> None:
    empty = wide.isna()
    if empty.to_numpy().any():
        gene = empty.columns[empty.any()][0]
        cases = wide.index[empty[gene]]
        msg = (
            f"GeneError: gene '{gene}' has no value for case '{cases[0]}' ({len(cases)} of {len(wide)} cases), "
            "expected one per case. Drop the gene or the cases; nothing is imputed."
        )
        raise GeneError(msg)


def compute_cp10k(counts: pd.DataFrame, *, totals: pd.Series | None = None) -> pd.DataFrame:
    """Scale counts to 10,000 per row, so that rows of different depth can be compared.

    Parameters
    ----------
    counts : DataFrame, (n_rows, n_genes)
        Raw counts.
    totals : Series, (n_rows,), optional
        All counts of a row; needed where `counts` holds a part of the genes. The row sums otherwise.

    Returns
    -------
    DataFrame, (n_rows, n_genes)
        Counts per 10,000.

    Raises
    ------
    GeneError
        When a row has no counts at all.
    """
    depth = counts.sum(axis=1) if totals is None else totals.reindex(counts.index)
    empty = depth.index[~(depth > 0)]
    if len(empty):
        msg = f"GeneError: row '{empty[0]}' has no counts ({len(empty)} such rows). Drop them by name first."
        raise GeneError(msg)
    return counts.div(depth, axis=0) * 1e4


def score_signature(
    expression: pd.DataFrame,
    *,
    genes: Sequence[str] | str,
    method: ScoreMethod = "mean_log2",
    training_cases: Iterable[str] | None = None,
    universe: Sequence[str] | None = None,
) -> pd.Series:
    """Score a signature per case.

    mean_log2
        Mean of the log2 values. No constant is fitted.
    mean_zscore
        Mean of z-scores; mean and SD (n - 1) of each gene from the training cases.
    pam50
        As in the PAM50 script: subtract each gene's median over the training cases, standardise each case over the
        genes of `universe` (SD with n - 1), then average the signature's genes.

    Parameters
    ----------
    expression : DataFrame, (n_cases, n_genes)
        log2 values, index case_id, as `widen_expression` returns it.
    genes : sequence of str, or str
        Genes or the name of a signature ('prolif11', 'MKI67').
    method : {"mean_log2", "mean_zscore", "pam50"}
    training_cases : iterable of str, optional
        Cases whose constants are used; required by mean_zscore and pam50, so that no test case shapes its own score.
    universe : sequence of str, optional
        Genes over which a case is standardised (pam50); the 50 PAM50 genes otherwise.

    Returns
    -------
    Series of float, (n_cases,)
        Higher means more proliferation for the lists of this book.

    Raises
    ------
    GeneError
        When a gene or a training case is missing, the method is unknown, or a constant cannot be computed.

    References
    ----------
    Nielsen et al. 2010, doi 10.1158/1078-0432.CCR-10-1282; Parker et al. 2009, doi 10.1200/JCO.2008.18.1370.
    """
    wanted = read_signature(genes) if isinstance(genes, str) else tuple(genes)
    symbols = list(resolve_symbols(wanted, expression.columns).values())
    if method == "mean_log2":
        return expression[symbols].mean(axis=1)
    if method not in SCORE_METHODS:
        msg = f"GeneError: score method '{method}' is unknown, expected one of {', '.join(SCORE_METHODS)}."
        raise GeneError(msg)
    training = _pick_training(expression, training_cases, method)
    if method == "mean_zscore":
        return _standardise_genes(expression[symbols], training[symbols]).mean(axis=1)
    frame = list(resolve_symbols(universe or read_signature("pam50"), expression.columns).values())
    frame = list(dict.fromkeys([*frame, *symbols]))
    centred = expression[frame] - training[frame].median()
    scaled = centred.sub(centred.mean(axis=1), axis=0).div(centred.std(axis=1, ddof=1), axis=0)
    return scaled[symbols].mean(axis=1)


def _pick_training(expression: pd.DataFrame, training_cases: Iterable[str] | None, method: str) -> pd.DataFrame:
    if training_cases is None:
        msg = (
            f"GeneError: score method '{method}' needs training_cases, because its constants must not come from test "
            "cases. Give the training cases, or use mean_log2."
        )
        raise GeneError(msg)
    cases = list(training_cases)
    absent = [case_id for case_id in cases if case_id not in expression.index]
    if absent or len(cases) < 2:
        found = f"training case '{absent[0]}' has no expression" if absent else f"{len(cases)} training cases"
        msg = f"GeneError: {found}, expected two or more cases of the table. Check the splits against the table."
        raise GeneError(msg)
    return expression.loc[cases]


def _standardise_genes(values: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    spread = training.std(ddof=1)
    constant = spread.index[~(spread > 0)]
    if len(constant):
        msg = f"GeneError: gene '{constant[0]}' does not vary over the training cases, so it has no z-score. Drop it."
        raise GeneError(msg)
    return (values - training.mean()) / spread


def compute_ror_p(correlations: pd.DataFrame, proliferation: pd.Series) -> pd.Series:
    """Compute ROR-P from subtype correlations and the 11-gene score (pam50 method).

    Parameters
    ----------
    correlations : DataFrame, (n_cases, >= 4)
        Spearman correlation with the Basal, Her2, LumA and LumB centroids, in columns of these names.
    proliferation : Series, (n_cases,)
        11-gene score by `method="pam50"`.

    Returns
    -------
    Series of float, (n_cases,)
        Unscaled risk; higher is worse.

    References
    ----------
    Parker et al. 2009, doi 10.1200/JCO.2008.18.1370.
    """
    weights = read_ror_weights()
    weighted = (weights[name] * correlations[name] for name in ("Basal", "Her2", "LumA", "LumB"))
    return sum(weighted, weights["prolif"] * proliferation)
