"""The confounding panel: what a label alone predicts, and what is left for the image inside each stratum.

A slide tells a tumour's subtype, and subtype tells much of its proliferation. So a correlation over all cases may be
a subtype in disguise. The panel shows, for each label: how well the label *alone* predicts the target (fold by fold,
like any model), how well the image does among cases that share the label, and whether that exceeds a null in which
labels of the target are exchanged only inside site and stratum, with every fold refitted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.core.errors import StatsError
from helpers.stats.correlation import compute_agreement, compute_spearman_columns
from helpers.stats.resampling import Refit, compare_with_null, compute_permutation_null

MISSING = "missing"
COLUMNS = (
    "label", "kind", "stratum", "value", "ci_low", "ci_high", "n", "null_mean", "null_q95", "p", "folds",
)  # fmt: skip


@dataclass(frozen=True)
class PanelQuantity:
    """What a panel measures.

    Parameters
    ----------
    measure : callable
        (y_true, y_pred, n_boot=, rng=) to value, low and high; None where it is not defined.
    within : callable
        (y_true, y_pred, codes, min_cases=) to the case-weighted mean over strata of every column, (k,).
    """

    measure: Callable[..., tuple[float, float, float] | None]
    within: Callable[..., np.ndarray]


def compute_confounding_panel(
    predictions: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    site: pd.Series | None = None,
    refit: Refit | None = None,
    n_boot: int = 1000,
    n_permutations: int = 200,
    min_cases: int = 20,
    rng: np.random.Generator,
    quantity: PanelQuantity | None = None,
) -> pd.DataFrame:
    """Compute the whole panel for one target and one repeat.

    Parameters
    ----------
    predictions : DataFrame
        case_id, fold, y_true, y_pred: out-of-fold predictions, each case once, in the order `refit` expects.
    labels : DataFrame
        Index `case_id`; one categorical column per label (subtype, ER, histology, grade, stage, site).
    site : Series, optional
        Index `case_id`; permutations stay inside sites too.
    refit : callable, optional
        Refits every fold on labels (n_cases, k) -> (n_cases, k); without it no p-values are given.
    n_boot, n_permutations : int
    min_cases : int
        Smaller strata are listed with their n and no value.
    rng : numpy Generator
    quantity : PanelQuantity, optional
        What `value` is. Default: Spearman.

    Returns
    -------
    DataFrame
        label, kind (image, label_only, within_stratum, within_label), stratum, value, ci_low, ci_high, n,
        null_mean, null_q95, p, folds. `within_label` is the case-weighted mean of its strata.

    Raises
    ------
    StatsError
        When a case is predicted twice, or the labels lack a case.
    """
    _check_panel(predictions, labels)
    judge = quantity or PanelQuantity(measure_spearman, compute_within_strata)
    by_case = labels.loc[predictions["case_id"]].astype(object)
    by_case = by_case.where(by_case.notna(), MISSING).astype(str)
    rows = [_measure(judge, predictions, rng=rng, n_boot=n_boot, label="all cases", kind="image", stratum="all")]
    for name in labels.columns:
        codes = by_case[name].to_numpy()
        folds = choose_label_folds(codes, predictions["fold"].to_numpy(), rng=rng)
        alone = predict_by_label(predictions["y_true"].to_numpy(float), codes, folds)
        given = "given" if np.array_equal(folds, predictions["fold"]) else "case-level"
        names = {"label": name, "kind": "label_only", "stratum": "all"}
        row = _measure(judge, predictions.assign(y_pred=alone), rng=rng, n_boot=n_boot, **names)
        rows.append(row | {"folds": given})
        for stratum in sorted(set(codes) - {MISSING}):
            inside = predictions[codes == stratum]
            kept = n_boot if len(inside) >= min_cases else -1
            names = {"label": name, "kind": "within_stratum", "stratum": stratum}
            rows.append(_measure(judge, inside, rng=rng, n_boot=kept, **names))
        within = _compare_within(judge, predictions, codes, site, refit, n_permutations, min_cases, rng)
        rows.append({"label": name, "kind": "within_label", "stratum": "mean of strata"} | within)
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def predict_by_label(y: np.ndarray, codes: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Predict each case by the mean of the training cases that share its label.

    Parameters
    ----------
    y : ndarray, (n_cases,)
    codes : ndarray, (n_cases,)
        The label; one that no training case has predicts the mean of all training cases.
    folds : ndarray, (n_cases,), int
        A case is predicted from the cases of all other folds.

    Returns
    -------
    ndarray, (n_cases,)
    """
    predicted = np.empty(len(y))
    for fold in np.unique(folds):
        test = folds == fold
        means = pd.Series(y[~test]).groupby(codes[~test]).mean()
        predicted[test] = pd.Series(codes[test]).map(means).fillna(y[~test].mean())
    return predicted


def choose_label_folds(
    codes: np.ndarray, folds: np.ndarray, *, rng: np.random.Generator, n_folds: int = 5
) -> np.ndarray:
    """Return the folds for a label-only baseline: the given ones, unless the label never crosses them.

    With site-preserved folds no training case shares the test case's site, so "the site alone" could not predict
    anything by construction; such a label is judged on case-level folds instead.

    Parameters
    ----------
    codes, folds : ndarray, (n_cases,)
    rng : numpy Generator
    n_folds : int

    Returns
    -------
    ndarray, (n_cases,), int
    """
    crosses = pd.Series(folds).groupby(codes).nunique().max() > 1
    return folds if crosses else rng.permutation(len(codes)) % n_folds


def compute_within_strata(
    y_true: np.ndarray, y_pred: np.ndarray, codes: np.ndarray, *, min_cases: int = 20
) -> np.ndarray:
    """Case-weighted mean of the Spearman correlations inside strata, for every column.

    Parameters
    ----------
    y_true, y_pred : ndarray, (n_cases, k)
    codes : ndarray, (n_cases,)
        Stratum; 'missing' and strata below `min_cases` are left out.
    min_cases : int

    Returns
    -------
    ndarray, (k,)
        NaN when no stratum is large enough.
    """
    names = list_strata(codes, min_cases=min_cases)
    if not names:
        return np.full(y_true.shape[1], np.nan)
    inside = [codes == name for name in names]
    values = np.stack([compute_spearman_columns(y_true[rows], y_pred[rows]) for rows in inside])
    return np.average(np.nan_to_num(values), axis=0, weights=[rows.sum() for rows in inside])


def list_strata(codes: np.ndarray, *, min_cases: int) -> list[str]:
    """List the strata that are large enough to be judged.

    Parameters
    ----------
    codes : ndarray, (n_cases,)
    min_cases : int

    Returns
    -------
    list of str
    """
    counts = pd.Series(codes).value_counts()
    return sorted(name for name, n in counts.items() if n >= min_cases and name != MISSING)


def _compare_within(
    judge: PanelQuantity, predictions: pd.DataFrame, codes: np.ndarray, site: pd.Series | None, refit: Refit | None,
    n_permutations: int, min_cases: int, rng: np.random.Generator,
) -> dict[str, object]:  # fmt: skip
    y_true, y_pred = (predictions[name].to_numpy(float) for name in ("y_true", "y_pred"))
    names = list_strata(codes, min_cases=min_cases)
    value = float(judge.within(y_true[:, None], y_pred[:, None], codes, min_cases=min_cases)[0])
    row: dict[str, object] = {"value": value, "n": int(np.isin(codes, names).sum())}
    if refit is None or not names or not n_permutations:
        return row
    sites = codes if site is None else site.loc[predictions["case_id"]].astype(str).to_numpy()
    null = compute_permutation_null(
        y_true, groups=np.char.add(np.char.add(codes.astype(str), "\t"), sites.astype(str)), refit=refit,
        statistic=lambda a, b: judge.within(a, b, codes, min_cases=min_cases),
        n_permutations=n_permutations, rng=rng,
    )  # fmt: skip
    compared = compare_with_null(value, null)
    return row | {name: compared[name] for name in ("null_mean", "null_q95", "p")}


def _measure(
    judge: PanelQuantity, inside: pd.DataFrame, *, rng: np.random.Generator, n_boot: int, **names: str
) -> dict[str, object]:
    """One group as a row; n_boot < 0 lists the group without a value."""
    row: dict[str, object] = {**names, "n": len(inside), "folds": "given"}
    if n_boot < 0:
        return row
    found = judge.measure(inside["y_true"].to_numpy(float), inside["y_pred"].to_numpy(float), n_boot=n_boot, rng=rng)
    return row if found is None else row | dict(zip(("value", "ci_low", "ci_high"), found, strict=True))


def measure_spearman(
    y_true: np.ndarray, y_pred: np.ndarray, *, n_boot: int, rng: np.random.Generator
) -> tuple[float, float, float] | None:
    """Spearman's correlation with a case-bootstrap interval.

    Parameters
    ----------
    y_true, y_pred : ndarray, (n,)
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    value, low, high : float
        None where one side is constant.
    """
    if min(len(np.unique(y_true)), len(np.unique(y_pred))) < 2:
        return None
    table = compute_agreement(y_true, y_pred, n_boot=n_boot, rng=rng).set_index("quantity")
    value, low, high = table.loc["spearman", ["value", "ci_low", "ci_high"]]
    return value, low, high


def _check_panel(predictions: pd.DataFrame, labels: pd.DataFrame) -> None:
    twice = predictions.loc[predictions["case_id"].duplicated(), "case_id"]
    if len(twice):
        msg = f"StatsError: case '{twice.iloc[0]}' is predicted more than once; give one repeat, target and arm."
        raise StatsError(msg)
    lacking = predictions.loc[~predictions["case_id"].isin(labels.index), "case_id"]
    if len(lacking):
        msg = f"StatsError: the labels lack {len(lacking)} of the predicted cases, first '{lacking.iloc[0]}'."
        raise StatsError(msg)


def list_labels(cases: pd.DataFrame, names: Sequence[str], *, max_levels: int = 40) -> list[str]:
    """List the label columns that exist and vary, so that a panel can be computed of them.

    Parameters
    ----------
    cases : DataFrame
    names : sequence of str
        Wanted columns.
    max_levels : int
        A column with more levels is no label.

    Returns
    -------
    list of str
    """
    return [name for name in names if name in cases.columns and 1 < cases[name].nunique() <= max_levels]
