"""Controls that stand beside every result: clinical data alone, exchanged features, permuted targets."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from helpers.core.errors import ModelError
from helpers.stats.correlation import compute_spearman_columns
from helpers.stats.resampling import compare_with_null, permute_within

ORDERED = {"stage": {"0": 0, "I": 1, "II": 2, "III": 3, "IV": 4}}
SKEWED = ("tumour_size_mm", "nodes_positive")


def encode_clinical(cases: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Turn clinical columns into numbers for a model; a missing number stays missing and is flagged.

    Parameters
    ----------
    cases : DataFrame
        One row per case, with `case_id`.
    columns : sequence of str
        Those that exist are used. Sizes and nodes are taken as log(1 + x), stages as 0 to 4, other text as one
        indicator per level but the commonest.

    Returns
    -------
    DataFrame, (n_cases, d)
        Index `case_id`; NaN where a number is missing (a model counts it as its training mean), with a column
        `<name>_missing`. Columns without any variation are dropped.

    Raises
    ------
    ModelError
        When none of the columns exists or varies.
    """
    table = cases.set_index("case_id")
    blocks = [_encode_column(table[name], name) for name in columns if name in table.columns]
    encoded = pd.concat(blocks, axis=1) if blocks else pd.DataFrame(index=table.index)
    encoded = encoded.loc[:, encoded.nunique(dropna=True) > 1]
    if encoded.empty:
        msg = f"ModelError: none of the clinical columns {', '.join(columns)} exists and varies. Name others."
        raise ModelError(msg)
    return encoded.astype(float)


def _encode_column(values: pd.Series, name: str) -> pd.DataFrame:
    if name in ORDERED:
        values = values.astype(object).map(lambda cell: ORDERED[name].get(_trim_stage(cell), np.nan)).astype(float)
    if not pd.api.types.is_numeric_dtype(values):
        levels = pd.get_dummies(values.astype(object), prefix=name, prefix_sep=" ", dummy_na=bool(values.isna().any()))
        return levels.drop(columns=levels.columns[levels.sum().argmax()])  # the commonest level is the reference
    numbers = values.astype("Float64").to_numpy(float, na_value=np.nan)
    numbers = np.log1p(numbers) if name in SKEWED else numbers
    missing = np.isnan(numbers).astype(float)
    return pd.DataFrame({name: numbers, f"{name}_missing": missing}, index=values.index)


def _trim_stage(cell: object) -> str:
    return str(cell).rstrip("ABCD123456789") if isinstance(cell, str) else ""


def permute_features(features: pd.DataFrame, groups: pd.Series, *, rng: np.random.Generator) -> pd.DataFrame:
    """Exchange features between cases of the same group: what only the site can explain is left.

    Parameters
    ----------
    features : DataFrame, (n_cases, d)
        Index `case_id`.
    groups : Series
        Site by `case_id`.
    rng : numpy Generator

    Returns
    -------
    DataFrame, (n_cases, d)
    """
    order = permute_within(groups.loc[features.index].to_numpy(), n_permutations=1, rng=rng)[0]
    return pd.DataFrame(features.to_numpy()[order], index=features.index, columns=features.columns)


class Refittable(Protocol):
    """All folds of one repeat, ready to be refitted: `RidgeFolds` or `ArmFolds`."""

    cases: pd.Index

    def fit(self, labels: np.ndarray) -> Any:
        """Refit every fold on labels (n_cases, k)."""
        ...

    def predict_held_out(self, models: Any) -> np.ndarray:
        """Predict each case by the model that did not see it, (n_cases, k)."""
        ...

    def predict_outside(self, models: Any, cases: pd.Index) -> np.ndarray:
        """Predict cases outside all folds by the mean of all models."""
        ...


def compute_study_nulls(
    folds: Refittable,
    measured: pd.Series,
    *,
    split: pd.Series,
    groups: pd.Series,
    n_permutations: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Permute a target within sites over the whole study, refit every fold, and judge each split.

    Parameters
    ----------
    folds : RidgeFolds or ArmFolds
        One repeat.
    measured : Series
        The target by `case_id`.
    split : Series
        development, internal_test or external, by `case_id`; development cases are those of `folds`.
    groups : Series
        Site by `case_id`; permutations stay inside.
    n_permutations : int
    rng : numpy Generator

    Returns
    -------
    dict of str to ndarray, (n_permutations,)
        Spearman correlations by split.
    """
    frozen = split.index[split != "development"]
    cases = folds.cases.append(frozen)
    order = permute_within(groups.loc[cases].to_numpy(), n_permutations=n_permutations, rng=rng)
    labels = measured.loc[cases].to_numpy(float)[order].T  # (n_cases, n_permutations)
    n_development = len(folds.cases)
    models = folds.fit(labels[:n_development])
    predicted = folds.predict_held_out(models)
    if len(frozen):
        predicted = np.vstack([predicted, folds.predict_outside(models, frozen)])
    where = split.loc[cases].to_numpy()
    return {
        name: compute_spearman_columns(labels[where == name], predicted[where == name]) for name in pd.unique(where)
    }


def summarise_nulls(nulls: dict[tuple[str, str], np.ndarray], observed: pd.DataFrame) -> pd.DataFrame:
    """Place observed correlations in their nulls.

    Parameters
    ----------
    nulls : dict of (target, split) to ndarray, (n_permutations,)
    observed : DataFrame
        target, split, value, n: one row per key of `nulls`.

    Returns
    -------
    DataFrame
        target, split, n, then the fields of `compare_with_null`.
    """
    rows = []
    for (target, split), null in nulls.items():
        found = observed[(observed["target"] == target) & (observed["split"] == split)].iloc[0]
        rows.append({"target": target, "split": split, "n": int(found["n"])} | compare_with_null(found["value"], null))
    return pd.DataFrame(rows)
