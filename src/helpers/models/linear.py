"""Ridge regression on pooled features: one decomposition per fold, any number of labels.

A ridge prediction is a fixed matrix times the labels. So every fold is decomposed once, and a thousand permuted
labels are refitted, each with its own penalty chosen inside the training part, by matrix products. Standardisation,
penalty and intercept come from the training cases of a fold; a test case is no argument of any fit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.core.errors import ModelError

ALPHAS = 10.0 ** np.linspace(0, 5, 21)
"""Penalties tried, on standardised features and summed squared error."""
N_INNER = 5
MIN_CASES = 3
"""Training cases below which nothing is fitted."""

Measure = Callable[[pd.Index], pd.DataFrame]
"""Training case ids to targets (index case_id, one column per target): constants come from those cases alone."""


@dataclass(frozen=True)
class LinearModel:
    """Weights on standardised features, one column per target.

    Parameters
    ----------
    mean, scale : ndarray, (d,)
        Of the training cases.
    coefficients : ndarray, (d, n_targets)
    intercept : ndarray, (n_targets,)
    alphas : ndarray, (n_targets,)
        The penalty chosen for each target.
    """

    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray
    alphas: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predict every target; a missing feature counts as the training mean.

        Parameters
        ----------
        features : ndarray, (n, d)
            Of cases, or of tiles: with mean pooling a case's score is the mean of its tiles' scores.

        Returns
        -------
        ndarray, (n, n_targets)

        Raises
        ------
        ModelError
            When the number of features is not the one trained on.
        """
        features = np.asarray(features, float)
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            msg = (
                f"ModelError: features of shape {features.shape} were given to a model of {len(self.mean)} features. "
                "Use the encoder and the aggregation it was trained with."
            )
            raise ModelError(msg)
        return _standardise(features, self.mean, self.scale) @ self.coefficients + self.intercept


@dataclass(frozen=True)
class RidgePath:
    """Standardised training features, decomposed once: U diag(s) Vt.

    Parameters
    ----------
    mean, scale : ndarray, (d,)
    u : ndarray, (n, k)
    s : ndarray, (k,)
    vt : ndarray, (k, d)
    """

    mean: np.ndarray
    scale: np.ndarray
    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray

    def fit(self, labels: np.ndarray, alphas: np.ndarray) -> LinearModel:
        """Fit every label with its own penalty.

        Parameters
        ----------
        labels : ndarray, (n, k)
        alphas : ndarray, (k,)

        Returns
        -------
        LinearModel
        """
        intercept = labels.mean(0)
        shrunk = self.s[:, None] / (self.s[:, None] ** 2 + alphas) * (self.u.T @ (labels - intercept))
        return LinearModel(self.mean, self.scale, self.vt.T @ shrunk, intercept, alphas)

    def compute_errors(
        self, labels: np.ndarray, features: np.ndarray, truth: np.ndarray, alphas: np.ndarray
    ) -> np.ndarray:
        """Squared error on held-out cases for each penalty.

        Parameters
        ----------
        labels : ndarray, (n, k)
            Of the training cases.
        features : ndarray, (m, d)
            Of the held-out cases.
        truth : ndarray, (m, k)
        alphas : ndarray, (n_alphas,)

        Returns
        -------
        ndarray, (n_alphas, k)
        """
        intercept = labels.mean(0)
        projected = _standardise(features, self.mean, self.scale) @ self.vt.T  # (m, rank)
        rotated = self.u.T @ (labels - intercept)  # (rank, k)
        centred = truth - intercept
        errors = [((projected * (self.s / (self.s**2 + alpha)) @ rotated - centred) ** 2).sum(0) for alpha in alphas]
        return np.stack(errors)


def compute_ridge_path(features: np.ndarray, *, equal_scale: bool = True) -> RidgePath:
    """Standardise training features and decompose them, by the smaller of the two Gram matrices.

    Parameters
    ----------
    features : ndarray, (n, d)
        NaN counts as the mean of the column; columns that are constant, or have no value, get weight 0.
    equal_scale : bool
        Give every feature SD 1. Otherwise all are divided by one number, their root mean square SD, which keeps
        inner products (of kernel features) and yet makes penalties comparable.

    Returns
    -------
    RidgePath

    Raises
    ------
    ModelError
        When fewer than 3 cases are given, or no column has a value.
    """
    features = np.asarray(features, float)
    if len(features) < MIN_CASES:
        msg = f"ModelError: {len(features)} training cases are too few to fit; at least {MIN_CASES} are needed."
        raise ModelError(msg)
    empty = np.isnan(features).all(axis=0)  # no training site states it: it can tell nothing
    if empty.all():
        msg = f"ModelError: none of {len(empty)} features has a value in any of the {len(features)} training cases."
        raise ModelError(msg)
    filled = np.where(empty, 0.0, features)
    mean, scale = np.nanmean(filled, axis=0), np.nanstd(filled, axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(1, np.abs(mean)), scale, np.inf)  # constant: standardises to 0
    if not equal_scale and np.isfinite(scale).any():
        scale = np.where(np.isfinite(scale), np.sqrt(np.mean(scale[np.isfinite(scale)] ** 2)), np.inf)
    x = _standardise(features, mean, scale)
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = values > 1e-10 * max(values[-1], 1e-300)
    s = np.sqrt(values[kept])
    if wide:
        return RidgePath(mean, scale, vectors[:, kept], s, (vectors[:, kept].T @ x) / s[:, None])
    return RidgePath(mean, scale, (x @ vectors[:, kept]) / s, s, vectors[:, kept].T)


class RidgeTrainer:
    """One training part, decomposed for its fit and for the inner folds that choose the penalty.

    Parameters
    ----------
    features : ndarray, (n, d)
        Of the training cases (train + val), and of no other.
    groups : ndarray, (n,), optional
        Site of each case. Inner folds keep sites whole where there are at least two; else they split cases.
    alphas : ndarray
        Penalties to choose from; a single one is used as it is.
    equal_scale : bool
        As in `compute_ridge_path`.
    """

    def __init__(
        self, features: np.ndarray, *, groups: np.ndarray | None = None, alphas: np.ndarray = ALPHAS,
        equal_scale: bool = True,
    ) -> None:  # fmt: skip
        features = np.asarray(features, float)
        self.alphas = np.asarray(alphas, float)
        self.path = compute_ridge_path(features, equal_scale=equal_scale)
        self.inner: list[tuple[np.ndarray, np.ndarray, RidgePath]] = []
        if len(self.alphas) > 1:
            folds = plan_inner_folds(len(features), groups=groups)
            for held_out in (folds == fold for fold in range(folds.max() + 1)):
                path = compute_ridge_path(features[~held_out], equal_scale=equal_scale)
                self.inner.append((held_out, features[held_out], path))

    def fit(self, labels: np.ndarray) -> LinearModel:
        """Choose a penalty for each label by the inner folds, then fit it on all training cases.

        Parameters
        ----------
        labels : ndarray, (n, k)

        Returns
        -------
        LinearModel

        Raises
        ------
        ModelError
            When a label is missing.
        """
        labels = check_labels(labels)
        chosen = self.compute_inner_errors(labels).argmin(0) if self.inner else np.zeros(labels.shape[1], int)
        return self.path.fit(labels, self.alphas[chosen])

    def compute_inner_errors(self, labels: np.ndarray) -> np.ndarray:
        """Squared error over the inner folds for each penalty.

        Parameters
        ----------
        labels : ndarray, (n, k)

        Returns
        -------
        ndarray, (n_alphas, k)
        """
        errors = [path.compute_errors(labels[~h], x, labels[h], self.alphas) for h, x, path in self.inner]
        return np.sum(errors, axis=0)

    def predict_inner(self, labels: np.ndarray, alphas: np.ndarray) -> np.ndarray:
        """Predict every training case by the inner model that did not see it.

        Parameters
        ----------
        labels : ndarray, (n, k)
        alphas : ndarray, (k,)
            The penalty of each label.

        Returns
        -------
        ndarray, (n, k)
        """
        predicted = np.full(labels.shape, np.nan)
        for held_out, x, path in self.inner:
            predicted[held_out] = path.fit(labels[~held_out], alphas).predict(x)
        return predicted


class BlockRidgeTrainer:
    """Like `RidgeTrainer`, with inner folds by update instead of refit: one decomposition in place of six.

    A ridge is a linear smoother H, so the residuals of a fold left out are (I - H_FF)^-1 r_F, exactly, with the scale
    of the features fixed from all training cases. For wide descriptors this is six times faster.

    Parameters
    ----------
    features : ndarray, (n, D)
        Of the training cases.
    groups : ndarray, (n,), optional
    alphas : ndarray
    equal_scale : bool
        As in `compute_ridge_path`.
    """

    def __init__(
        self, features: np.ndarray, *, groups: np.ndarray | None = None, alphas: np.ndarray = ALPHAS,
        equal_scale: bool = True,
    ) -> None:  # fmt: skip
        self.alphas = np.asarray(alphas, float)
        self.path = compute_ridge_path(np.asarray(features, float), equal_scale=equal_scale)
        self.folds = plan_inner_folds(len(features), groups=groups)
        self.solvers = [self._factorise(alpha) for alpha in self.alphas]

    def _factorise(self, alpha: float) -> list[np.ndarray]:
        """Return (I - H_FF)^-1 of every inner fold F."""
        kept, n = self.path.s**2 / (self.path.s**2 + alpha), len(self.folds)
        inverses = []
        for fold in range(self.folds.max() + 1):
            u = self.path.u[self.folds == fold]
            inverses.append(np.linalg.inv(np.eye(len(u)) - 1 / n - (u * kept) @ u.T))
        return inverses

    def _leave_out(self, labels: np.ndarray, which: int) -> np.ndarray:
        """Residuals of every case under the fit without its fold, (n, k), for one penalty."""
        kept = self.path.s**2 / (self.path.s**2 + self.alphas[which])
        centred = labels - labels.mean(0)
        residuals = centred - (self.path.u * kept) @ (self.path.u.T @ centred)
        for fold, inverse in enumerate(self.solvers[which]):
            rows = self.folds == fold
            residuals[rows] = inverse @ residuals[rows]
        return residuals

    def compute_inner_errors(self, labels: np.ndarray) -> np.ndarray:
        """Squared error over the inner folds for each penalty.

        Parameters
        ----------
        labels : ndarray, (n, k)

        Returns
        -------
        ndarray, (n_alphas, k)
        """
        return np.stack([(self._leave_out(labels, which) ** 2).sum(0) for which in range(len(self.alphas))])

    def predict_inner(self, labels: np.ndarray, alphas: np.ndarray) -> np.ndarray:
        """Predict every training case by the fit without its inner fold.

        Parameters
        ----------
        labels : ndarray, (n, k)
        alphas : ndarray, (k,)
            The penalty of each label, one of `self.alphas`.

        Returns
        -------
        ndarray, (n, k)
        """
        predicted = np.empty(labels.shape)
        for alpha in np.unique(alphas):
            columns = np.flatnonzero(alphas == alpha)
            which = int(np.flatnonzero(self.alphas == alpha)[0])
            predicted[:, columns] = labels[:, columns] - self._leave_out(labels[:, columns], which)
        return predicted


def check_labels(labels: np.ndarray) -> np.ndarray:
    """Return training labels as floats, or raise.

    Parameters
    ----------
    labels : ndarray, (n, k)

    Returns
    -------
    ndarray, (n, k), float64

    Raises
    ------
    ModelError
        When a label is missing.
    """
    labels = np.asarray(labels, float)
    if not np.isfinite(labels).all():
        msg = f"ModelError: {int((~np.isfinite(labels)).sum())} training labels are missing or infinite. Drop them."
        raise ModelError(msg)
    return labels


def describe_penalties(chosen: np.ndarray, *, alphas: np.ndarray = ALPHAS) -> str:
    """Say how many penalties were chosen at an end of their grid, beyond which none was tried.

    Parameters
    ----------
    chosen : ndarray, (n_fits,)
    alphas : ndarray
        The grid.

    Returns
    -------
    str
        The strong end says that a label is hardly predicted at all; the weak end that a weaker penalty might do better.
    """
    chosen = np.ravel(chosen)
    weak, strong = (int(np.isclose(chosen, end).sum()) for end in (np.min(alphas), np.max(alphas)))
    median = f"median {np.median(chosen):.3g}" if len(chosen) else "no fit"
    return f"penalties of {len(chosen)} fits: {median}; {weak} at the weak and {strong} at the strong end of the grid"


def fit_ridge(
    features: np.ndarray, labels: np.ndarray, *, groups: np.ndarray | None = None, alphas: np.ndarray = ALPHAS
) -> LinearModel:
    """Fit ridge regressions with penalties chosen by inner folds that keep sites whole.

    Parameters
    ----------
    features : ndarray, (n, d)
        Of the training cases (train + val). The test set is no argument.
    labels : ndarray, (n, k)
    groups : ndarray, (n,), optional
        Site of each case.
    alphas : ndarray

    Returns
    -------
    LinearModel

    Raises
    ------
    ModelError
        When there are too few cases, or a label is missing.
    """
    return RidgeTrainer(features, groups=groups, alphas=alphas).fit(labels)


def plan_inner_folds(n_cases: int, *, groups: np.ndarray | None = None, n_folds: int = N_INNER) -> np.ndarray:
    """Deal training cases into inner folds: largest site first, each into the emptiest fold.

    Parameters
    ----------
    n_cases : int
    groups : ndarray, (n_cases,), optional
        With at least two of them, groups stay whole; otherwise every case is its own, as where one group is so large
        that fewer than 3 cases would be left to fit on.
    n_folds : int

    Returns
    -------
    ndarray, (n_cases,), int
    """
    codes = np.arange(n_cases) if groups is None else pd.factorize(np.asarray(groups), sort=True)[0]
    if codes.max() == 0:
        codes = np.arange(n_cases)
    counts = np.bincount(codes)
    order = np.random.default_rng(5).permutation(len(counts))  # equal groups: in an order that means nothing
    order = order[np.argsort(-counts[order], kind="stable")]
    load, fold_of = np.zeros(min(n_folds, len(counts))), np.zeros(len(counts), int)
    for group in order:
        fold_of[group] = load.argmin()
        load[fold_of[group]] += counts[group]
    if groups is not None and n_cases - load.max() < MIN_CASES <= n_cases - -(-n_cases // n_folds):
        return plan_inner_folds(n_cases, n_folds=n_folds)
    return fold_of[codes]


class RidgeFolds:
    """All folds of one repeat, decomposed once, ready to be refitted on any labels.

    Parameters
    ----------
    features : DataFrame, (n_cases, d)
        Index `case_id`.
    splits : DataFrame
        One repeat of a splits table; cases without features are left out.
    groups : Series, optional
        Site by `case_id`, for inner folds.
    alphas : ndarray
    """

    def __init__(
        self, features: pd.DataFrame, splits: pd.DataFrame, *, groups: pd.Series | None = None,
        alphas: np.ndarray = ALPHAS,
    ) -> None:  # fmt: skip
        folds = splits[(splits["fold"] >= 0) & splits["case_id"].isin(features.index)]
        self.cases = pd.Index(features.index[features.index.isin(folds["case_id"])])
        self.table = features
        self.features = features.loc[self.cases].to_numpy(float)
        self.names = sorted(folds.loc[folds["role"] == "test", "fold"].unique())  # a fold that tests nobody is none
        roles = folds.pivot(index="case_id", columns="fold", values="role").loc[self.cases]
        self.test = [roles[name].eq("test").to_numpy() for name in self.names]
        site = None if groups is None else groups.loc[self.cases].to_numpy()
        self.trainers = [
            RidgeTrainer(self.features[~test], groups=None if site is None else site[~test], alphas=alphas)
            for test in self.test
        ]

    def fit(self, labels: np.ndarray | Sequence[np.ndarray]) -> list[LinearModel]:
        """Refit every fold.

        Parameters
        ----------
        labels : ndarray, (n_cases, k), or one such array per fold
            In the order of `cases`; only the training rows of a fold are read.

        Returns
        -------
        list of LinearModel
        """
        per_fold = [labels] * len(self.test) if isinstance(labels, np.ndarray) else labels
        triples = zip(self.trainers, self.test, per_fold, strict=True)
        return [trainer.fit(values[~test]) for trainer, test, values in triples]

    def predict_held_out(self, models: Sequence[LinearModel]) -> np.ndarray:
        """Predict each case by the model that did not see it.

        Parameters
        ----------
        models : sequence of LinearModel
            From `fit`.

        Returns
        -------
        ndarray, (n_cases, k)
        """
        predicted = np.full((len(self.cases), models[0].coefficients.shape[1]), np.nan)
        for model, test in zip(models, self.test, strict=True):
            predicted[test] = model.predict(self.features[test])
        return predicted

    def predict_outside(self, models: Sequence[LinearModel], cases: pd.Index) -> np.ndarray:
        """Predict cases outside all folds by the mean of all models.

        Parameters
        ----------
        models : sequence of LinearModel
        cases : Index
            Of the table given.

        Returns
        -------
        ndarray, (n_cases, k)
        """
        return predict_by_ensemble(models, self.table.loc[cases].to_numpy(float))

    def refit(self, labels: np.ndarray) -> np.ndarray:
        """Refit every fold on labels and predict the held-out cases: what a permutation null asks for.

        Parameters
        ----------
        labels : ndarray, (n_cases, k)

        Returns
        -------
        ndarray, (n_cases, k)
        """
        return self.predict_held_out(self.fit(labels))


def predict_by_ensemble(models: Sequence[LinearModel], features: np.ndarray) -> np.ndarray:
    """Average the predictions of the models of all folds.

    Parameters
    ----------
    models : sequence of LinearModel
    features : ndarray, (n, d)
        Of cases outside all folds, or of tiles.

    Returns
    -------
    ndarray, (n, n_targets)
    """
    return np.mean([model.predict(features) for model in models], axis=0)


def predict_study(
    features: pd.DataFrame,
    measure: Measure,
    splits: pd.DataFrame,
    *,
    arm: str,
    groups: pd.Series | None = None,
    alphas: np.ndarray = ALPHAS,
    repeats: Sequence[int] | None = None,
) -> tuple[pd.DataFrame, dict[int, list[LinearModel]]]:
    """Fit every fold of every repeat, predict held-out cases out of fold and frozen cases by the ensemble.

    Parameters
    ----------
    features : DataFrame, (n_cases, d)
        Index `case_id`; cases of the splits without features are left out.
    measure : callable
        Training case ids to targets of all cases, so that score constants come from training cases alone.
    splits : DataFrame
    arm : str
        Name written into the table.
    groups : Series, optional
        Site by `case_id`, for the inner folds.
    alphas : ndarray
    repeats : sequence of int, optional
        Default: all.

    Returns
    -------
    predictions : DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred; fold -1 is the ensemble on frozen cases.
    models : dict of int to list of LinearModel
        By repeat.
    """
    frozen = splits[(splits["fold"] < 0) & splits["case_id"].isin(features.index)]
    tables, models = [], {}
    for repeat in sorted(splits.loc[splits["fold"] >= 0, "repeat"].unique()) if repeats is None else repeats:
        folds = RidgeFolds(features, splits[splits["repeat"] == repeat], groups=groups, alphas=alphas)
        measured = [measure(folds.cases[~test]) for test in folds.test]
        models[int(repeat)] = folds.fit([table.loc[folds.cases].to_numpy(float) for table in measured])
        predicted = folds.predict_held_out(models[int(repeat)])
        for name, test, table in zip(folds.names, folds.test, measured, strict=True):
            truth = table.loc[folds.cases[test]]
            tables.append(tabulate_predictions(truth, predicted[test], "development", repeat, name, arm))
        if len(frozen):
            truth = measure(folds.cases).loc[frozen["case_id"]]
            ensemble = predict_by_ensemble(models[int(repeat)], features.loc[frozen["case_id"]].to_numpy(float))
            for split in frozen["role"].unique():
                rows = frozen["role"].eq(split).to_numpy()
                tables.append(tabulate_predictions(truth[rows], ensemble[rows], split, repeat, -1, arm))
    return pd.concat(tables, ignore_index=True), models


def predict_tile_scores(models: Sequence[LinearModel], features: np.ndarray, *, target: int = 0) -> np.ndarray:
    """Score single tiles with models that were fitted on mean-pooled features.

    A linear score of a mean is the mean of linear scores, so the map is exact: its mean is the case's prediction.

    Parameters
    ----------
    models : sequence of LinearModel
    features : ndarray, (n_tiles, d)
    target : int
        Column of the target.

    Returns
    -------
    ndarray, (n_tiles,)

    Raises
    ------
    ModelError
        When the models were fitted on another number of features, as with aggregation mean_sd.
    """
    return predict_by_ensemble(models, features)[:, target]


def _standardise(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.nan_to_num((features - mean) / scale)  # missing: the training mean


def tabulate_predictions(
    truth: pd.DataFrame, predicted: np.ndarray, split: str, repeat: int, fold: int, arm: str
) -> pd.DataFrame:
    """Return one row per case and target, as predictions.parquet holds them.

    Parameters
    ----------
    truth : DataFrame, (n_cases, k)
        Index `case_id`, one column per target.
    predicted : ndarray, (n_cases, k)
    split : str
    repeat, fold : int
    arm : str

    Returns
    -------
    DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred.
    """
    blocks = [
        pd.DataFrame({
            "case_id": truth.index.to_numpy(object), "split": split, "repeat": int(repeat), "fold": int(fold),
            "target": target, "arm": arm, "y_true": truth[target].to_numpy(float), "y_pred": predicted[:, i],
        })
        for i, target in enumerate(truth.columns)
    ]  # fmt: skip
    return pd.concat(blocks, ignore_index=True)
