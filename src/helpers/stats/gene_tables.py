"""From predictions of many genes to the tables of chapter 05 and the scoreboard's rows."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.stats.correlation import compute_agreement, compute_spearman_columns

PUBLISHED_R: Final = 0.6
"""The published study counts genes whose correlation exceeds it."""
SPLIT_ENDS: Final = {"development": "oof", "internal_test": "internal_test", "external": "external"}


def compute_gene_performance(
    predictions: pd.DataFrame, *, arms: Sequence[str], repeat: int = 0, n_boot: int = 1000, rng: np.random.Generator
) -> pd.DataFrame:
    """Measure every gene, arm and split of one partition.

    Parameters
    ----------
    predictions : DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred.
    arms : sequence of str
    repeat : int
    n_boot : int
        Resamples of cases.
    rng : numpy Generator

    Returns
    -------
    DataFrame
        target, arm, split, quantity (spearman, pearson, r_squared, r2_score), value, ci_low, ci_high, n; without
        values where a gene or its prediction is constant.
    """
    rows = predictions[(predictions["repeat"] == repeat) & predictions["arm"].isin(list(arms))]
    tables = []
    for (target, arm, split), group in rows.groupby(["target", "arm", "split"], sort=False):
        named = {"target": target, "arm": arm, "split": split}
        y_true, y_pred = group["y_true"].to_numpy(), group["y_pred"].to_numpy()
        if min(np.ptp(y_true), np.ptp(y_pred)) > 0:
            tables.append(compute_agreement(y_true, y_pred, n_boot=n_boot, rng=rng).assign(**named))
        else:
            tables.append(pd.DataFrame({"quantity": ["spearman"], "value": np.nan, "n": len(group)}).assign(**named))
    columns = ["target", "arm", "split", "quantity", "value", "ci_low", "ci_high", "n"]
    return pd.concat(tables, ignore_index=True)[columns]


def correlate_genes(values: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of every pair of genes.

    Parameters
    ----------
    values : DataFrame, (n_cases, n_genes)

    Returns
    -------
    DataFrame, (n_genes, n_genes)
    """
    ranked = values.rank().to_numpy()
    return pd.DataFrame(np.corrcoef(ranked.T), index=values.columns, columns=values.columns)


def order_genes(matrix: pd.DataFrame) -> list[str]:
    """Order genes so that like ones stand together: average linkage on 1 - correlation.

    Parameters
    ----------
    matrix : DataFrame, (n_genes, n_genes)

    Returns
    -------
    list of str
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = 1 - matrix.to_numpy()
    np.fill_diagonal(distance, 0.0)
    condensed = squareform((distance + distance.T) / 2, checks=False)
    leaves = leaves_list(linkage(condensed, "average", optimal_ordering=True))
    return [str(matrix.index[i]) for i in leaves]


def compare_structure(measured: pd.DataFrame, predicted: pd.DataFrame) -> float:
    """Correlate the gene-gene correlations of predictions with those of measurements, over all pairs of genes.

    Parameters
    ----------
    measured, predicted : DataFrame, (n_genes, n_genes)
        In the same order.

    Returns
    -------
    float
        Spearman; high where genes that go together also are predicted together. Predictions of one image share its
        noise, so they hang together more than the genes do.
    """
    upper = np.triu_indices(len(measured), 1)
    pair = (measured.to_numpy()[upper][:, None], predicted.to_numpy()[upper][:, None])
    return float(compute_spearman_columns(*pair)[0])


def compute_balanced_accuracy(truth: pd.Series, called: pd.Series) -> dict[str, float]:
    """Judge calls of a class: mean of the recalls, Cohen's kappa, and the chance level of the first.

    Parameters
    ----------
    truth, called : Series of str, same index

    Returns
    -------
    dict
        balanced_accuracy, chance, accuracy, kappa, n.
    """
    classes = sorted(truth.unique())
    recalls = [float((called[truth == name] == name).mean()) for name in classes]
    agreed = float((truth == called).mean())
    shares = truth.value_counts(normalize=True).mul(called.value_counts(normalize=True), fill_value=0).sum()
    kappa = (agreed - shares) / (1 - shares)
    return {
        "balanced_accuracy": float(np.mean(recalls)), "chance": 1 / len(classes), "accuracy": agreed,
        "kappa": float(kappa), "n": len(truth),
    }  # fmt: skip


def build_gene_rows(
    performance: pd.DataFrame, *, arm: str, shown: Sequence[str], label: str, published: pd.DataFrame
) -> list[dict[str, Any]]:
    """Turn the performance of genes into scoreboard rows beside published numbers.

    Parameters
    ----------
    performance : DataFrame
        From `compute_gene_performance`.
    arm : str
        Declared.
    shown : sequence of str
        Genes with rows of their own.
    label : str
        Names the list of genes in ids.
    published : DataFrame
        From `read_published`.

    Returns
    -------
    list of dict
        Arguments of `run.score`: per shown gene and split, the median over genes, and the share with r > 0.6. A gene
        that is predicted alike for all cases counts as 0 in both.
    """
    rows = []
    for split, end in SPLIT_ENDS.items():
        own = performance[(performance["split"] == split) & (performance["arm"] == arm)]
        if own.empty:
            continue
        spearman, pearson = (own[own["quantity"] == name].set_index("target") for name in ("spearman", "pearson"))
        for gene in [name for name in shown if name in spearman.index]:
            found = spearman.loc[gene, ["value", "ci_low", "ci_high", "n"]].to_dict()
            rows.append({"id": f"05/spearman/{gene}/{end}", "quantity": "spearman", **found})
        whole = {
            "median_spearman": (
                f"median spearman of {len(spearman)} genes",
                float(spearman["value"].fillna(0).median()),
            ),
            "share_r_above_06": (
                f"share of {len(spearman)} genes",
                (pearson["value"] > PUBLISHED_R).sum() / len(spearman),
            ),
        }
        for name, (quantity, value) in whole.items():
            row = {"id": f"05/{name}/{label}/{end}", "quantity": quantity, "value": value, "n": int(own["n"].max())}
            rows.append(row)
    return [row | _stand_beside(row, published) for row in rows]


def _stand_beside(row: dict[str, Any], published: pd.DataFrame) -> dict[str, Any]:
    beside = published[published["scoreboard"] == row["id"]]
    if beside.empty:
        return {"kind": "control", "source": "no number to stand beside; its null is in the permutation screen"}
    first = beside.iloc[0]
    found = {"reference": first["value"], "kind": first["kind"], "source": f"{first['cite']}, {first['cohort']}"}
    found["holds"] = bool(row["value"] >= first["value"]) if first["kind"] == "baseline" else None
    return found
