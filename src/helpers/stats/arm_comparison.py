"""Which arm is better: paired over the folds of repeated partitions, with an interval that knows the overlap."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from helpers.core.errors import StatsError
from helpers.stats.correlation import compute_bootstrap_spearman, compute_spearman_columns
from helpers.stats.multiplicity import adjust_holm
from helpers.stats.resampling import compare_repeated_folds, compute_percentile_interval, list_unpaired

COLUMNS = (
    "target", "arm", "n", "n_repeats", "pooled", "pooled_low", "pooled_high", "fold_mean", "n_constant",
    "pooled_difference", "difference", "ci_low", "ci_high", "p", "p_holm",
)  # fmt: skip


def compare_arms(predictions: pd.DataFrame, *, reference: str) -> pd.DataFrame:
    """Compare the Spearman correlation of every arm with that of a reference, fold by fold.

    Parameters
    ----------
    predictions : DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred; only development rows are read.
    reference : str
        The arm that others are compared with.

    Returns
    -------
    DataFrame
        target, arm, n (cases), n_repeats, pooled (mean over repeats), pooled_low and pooled_high (range over repeats),
        fold_mean, n_constant (folds in which an arm predicts one value for all, which counts as a correlation of 0),
        pooled_difference (mean over repeats), difference (mean over folds) with its Nadeau-Bengio interval
        ci_low, ci_high and p, and p_holm over the arms of a target. The reference has no p. Best pooled first.

    Raises
    ------
    StatsError
        When the reference is absent, a prediction is missing, or an arm was not judged on the very cases and folds of
        the reference.
    """
    rows = predictions[predictions["split"] == "development"]
    if reference not in set(rows["arm"]):
        there = ", ".join(sorted(set(rows["arm"])))
        msg = f"StatsError: the reference '{reference}' has no out-of-fold predictions; there are those of {there}."
        raise StatsError(msg)
    tables = [_compare_target(group, str(target), reference) for target, group in rows.groupby("target", sort=False)]
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def _compare_target(rows: pd.DataFrame, target: str, reference: str) -> pd.DataFrame:
    by_fold, by_repeat = _correlate(rows, ["repeat", "fold"]), _correlate(rows, ["repeat"])
    gaps = by_fold.columns[by_fold.isna().any()].tolist()
    if gaps:
        msg = (
            f"StatsError: arm '{gaps[0]}' lacks {int(by_fold[gaps[0]].isna().sum())} of {len(by_fold)} folds of target "
            f"'{target}'. Fit every arm on the same folds."
        )
        raise StatsError(msg)
    _check_cases(rows, target, reference)
    constant = rows.groupby(["arm", "repeat", "fold"])["y_pred"].nunique().eq(1).groupby(level="arm").sum()
    share = 1 / rows.groupby("repeat")["fold"].nunique().mean()
    found: list[dict[str, Any]] = []
    for arm in by_fold:
        pooled = by_repeat[arm]
        row = {"arm": arm, "n_repeats": len(pooled), "pooled": pooled.mean(), "pooled_low": pooled.min()}
        row |= {"pooled_high": pooled.max(), "fold_mean": by_fold[arm].mean()}
        row["n_constant"] = int(constant[arm])
        row |= {"pooled_difference": float((pooled - by_repeat[reference]).mean()), "difference": 0.0}
        if arm != reference:
            paired = (by_fold[arm] - by_fold[reference]).to_numpy()
            compared = compare_repeated_folds(paired, test_to_train=share / (1 - share))
            row |= {name: compared[name] for name in ("difference", "ci_low", "ci_high", "p")}
        found.append(row)
    table = pd.DataFrame(found).reindex(columns=list(COLUMNS)).assign(target=target, n=rows["case_id"].nunique())
    others = table["p"].notna()
    if others.any():
        table.loc[others, "p_holm"] = adjust_holm(table.loc[others, "p"].to_numpy(float))
    return table.sort_values("pooled", ascending=False, kind="stable")


def _check_cases(rows: pd.DataFrame, target: str, reference: str) -> None:
    """Raise where a value is missing, or arms were judged on other cases: a difference would not be paired."""
    missing = rows[rows[["y_true", "y_pred"]].isna().any(axis=1)]
    if len(missing):
        first = missing.iloc[0]
        msg = (
            f"StatsError: arm '{first['arm']}' has no value for case '{first['case_id']}' of target '{target}' "
            f"({len(missing)} such rows), expected one per case. Predict every case, or leave it out of all arms."
        )
        raise StatsError(msg)
    expected = rows[rows["arm"] == reference]
    for arm, group in rows.groupby("arm", sort=False):
        other = list_unpaired(group, expected)
        if other or len(group) != len(expected):
            found = f"case '{other[0][2]}' of repeat {other[0][0]}, fold {other[0][1]}" if other else "a case twice"
            msg = (
                f"StatsError: arm '{arm}' and the reference '{reference}' were judged on other cases of target "
                f"'{target}': {found} ({len(other)} in one of them only). Judge all arms on the same cases."
            )
            raise StatsError(msg)


def _correlate(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Spearman by keys (rows) and arm (columns); 0 where all predictions are equal, since they rank nobody."""
    found = {}
    for key, group in rows.groupby([*keys, "arm"], sort=True):
        columns = (group["y_true"].to_numpy()[:, None], group["y_pred"].to_numpy()[:, None])
        found[key] = float(np.nan_to_num(compute_spearman_columns(*columns)[0]))
    return pd.Series(found).rename_axis([*keys, "arm"]).unstack("arm")


def compute_drop(predictions: pd.DataFrame, *, n_boot: int = 1000, rng: np.random.Generator) -> pd.DataFrame:
    """Measure how much of the out-of-fold correlation is lost on splits that no fold ever saw.

    Predictions of a case are averaged over repeats first. The two sides hold different cases, so each is resampled by
    itself and the difference has an interval of its own.

    Parameters
    ----------
    predictions : DataFrame
    n_boot : int
    rng : numpy Generator

    Returns
    -------
    DataFrame
        target, arm, split, oof, value, drop (oof minus value), ci_low, ci_high (of the drop), n; empty where no case
        is outside the folds, and without numbers where an arm says the same of all cases.
    """
    means = predictions.groupby(["target", "arm", "split", "case_id"], sort=False)[["y_true", "y_pred"]].mean()
    rows = []
    for (target, arm), group in means.groupby(level=["target", "arm"], sort=False):
        sides = dict(list(group.groupby(level="split")))
        inside = sides.pop("development", None)
        if inside is None or not sides:
            continue
        drawn = {"oof": _bootstrap(inside, n_boot, rng)} | {
            name: _bootstrap(sides[name], n_boot, rng) for name in sides
        }
        for split, side in sides.items():
            (oof, inner), (value, other) = drawn["oof"], drawn[str(split)]
            low, high = compute_percentile_interval(inner - other)
            row = {"target": target, "arm": arm, "split": split, "oof": oof, "value": value, "drop": oof - value}
            rows.append(row | {"ci_low": low, "ci_high": high, "n": len(side)})
    return pd.DataFrame(rows, columns=["target", "arm", "split", "oof", "value", "drop", "ci_low", "ci_high", "n"])


def _bootstrap(side: pd.DataFrame, n_boot: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Spearman and its resamples; missing where an arm says the same of all cases."""
    if min(side["y_true"].nunique(), side["y_pred"].nunique()) < 2:
        return float("nan"), np.full(n_boot, np.nan)
    return compute_bootstrap_spearman(side["y_true"].to_numpy(), side["y_pred"].to_numpy(), n_boot=n_boot, rng=rng)
