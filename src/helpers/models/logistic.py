"""Logistic regression with classes weighted alike, its penalty chosen by inner folds, and the stacking of two of them.

The linear arms of chapter 06, and the residual paths under its networks. Standardised training features are rotated
once to their principal directions; Newton's method walks down a path of penalties from the strongest, each fit
starting at the one before. Weighting moves the intercept, so it is moved back: probabilities stay those of the
training part's own mix of classes.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from helpers.core.errors import ModelError

PENALTIES: Final = 10.0 ** np.linspace(4, -1, 16)
"""Penalties tried, on standardised features and the summed loss; strongest first."""
MAX_COMPONENTS: Final = 200
N_INNER: Final = 4


@dataclass(frozen=True)
class LogisticModel:
    """Weights on standardised features.

    Attributes
    ----------
    mean, scale, coefficients : ndarray, (d,)
    intercept : float
    """

    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercept: float

    def decide(self, features: np.ndarray) -> np.ndarray:
        """Return the logit of every row.

        Parameters
        ----------
        features : ndarray, (n, d)
            Of cases, or of tiles: with mean pooling a case's logit is the mean of its tiles' logits.

        Returns
        -------
        ndarray, (n,)
        """
        return ((features - self.mean) / self.scale) @ self.coefficients + self.intercept


@dataclass(frozen=True)
class CrossFitted:
    """A logistic regression and what its inner folds said.

    Attributes
    ----------
    model : LogisticModel
        Fitted to the whole training part with the chosen penalty.
    inner : list of LogisticModel
        One per inner fold, fitted to the others with the chosen penalty.
    folds : ndarray, (n,), int
    held_out : ndarray, (n,)
        Logit of each training case by the inner model that did not see it.
    penalty : float
    """

    model: LogisticModel
    inner: list[LogisticModel]
    folds: np.ndarray
    held_out: np.ndarray
    penalty: float


def plan_inner_classes(
    y: np.ndarray, *, groups: np.ndarray | None, n_folds: int = N_INNER, seed: int = 0
) -> np.ndarray:
    """Deal training cases into inner folds with like shares of positives, sites whole where that can be.

    Parameters
    ----------
    y : ndarray, (n,), 0 or 1
    groups : ndarray, (n,), optional
        Site of each case.
    n_folds : int
        Fewer where a class has fewer cases.
    seed : int

    Returns
    -------
    ndarray, (n,), int
        Every fold, and every rest, holds both classes.

    Raises
    ------
    ModelError
        When a class has fewer than two cases.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    fewest = int(min(y.sum(), len(y) - y.sum()))
    if fewest < 2:
        msg = (
            f"ModelError: {int(y.sum())} of {len(y)} training cases are positive; each class needs two for inner folds."
        )
        raise ModelError(msg)
    n_folds = min(n_folds, fewest)
    if groups is not None and len(np.unique(groups)) >= n_folds:
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        folds = _collect_folds(splitter.split(y, y, groups), len(y))
        if all(0 < y[folds == k].sum() < (folds == k).sum() for k in range(n_folds)):
            return folds
    return _collect_folds(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(y, y), len(y))


def _collect_folds(parts: object, n: int) -> np.ndarray:
    folds = np.zeros(n, int)
    for k, (_, test) in enumerate(parts):  # type: ignore[arg-type, var-annotated]
        folds[test] = k
    return folds


def weigh_classes(y: np.ndarray) -> tuple[np.ndarray, float]:
    """Weigh cases so that both classes weigh alike.

    Parameters
    ----------
    y : ndarray, (n,), 0 or 1

    Returns
    -------
    weights : ndarray, (n,)
        Mean 1.
    shift : float
        By how much the weights raise the intercept: log of the positive class's weight over the other's.
    """
    share = y.mean()
    weights = np.where(y == 1, 0.5 / share, 0.5 / (1 - share))
    return weights, float(np.log((1 - share) / share))


def fit_path(features: np.ndarray, y: np.ndarray, *, penalties: np.ndarray = PENALTIES) -> list[LogisticModel]:
    """Fit one model per penalty.

    Parameters
    ----------
    features : ndarray, (n, d)
        Of the training cases; constant columns get weight 0. At most 200 principal directions are used.
    y : ndarray, (n,), 0 or 1
    penalties : ndarray
        From the strongest to the weakest.

    Returns
    -------
    list of LogisticModel
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(1, np.abs(mean)), scale, np.inf)
    x = (features - mean) / scale
    wide = x.shape[1] > x.shape[0]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = np.argsort(values)[::-1][:MAX_COMPONENTS]
    kept = kept[values[kept] > 1e-10 * max(values[-1], 1e-300)]
    rotation = vectors[:, kept] if not wide else x.T @ vectors[:, kept] / np.sqrt(values[kept])
    z = x @ rotation
    weights, shift = weigh_classes(y)
    gamma, intercept, models = np.zeros(z.shape[1]), 0.0, []
    for penalty in penalties:
        gamma, intercept = _newton(z, y, weights, penalty, gamma, intercept)
        models.append(LogisticModel(mean, scale, rotation @ gamma, intercept - shift))
    return models


def _newton(
    z: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: float, gamma: np.ndarray, intercept: float
) -> tuple[np.ndarray, float]:
    """Minimise weighted log loss + penalty / 2 |gamma|^2; steps are halved until the loss falls."""
    design = np.column_stack([z, np.ones(len(z))])
    ridge = np.r_[np.full(z.shape[1], penalty), 1e-9]
    theta = np.r_[gamma, intercept]

    def lose(at: np.ndarray) -> float:
        eta = design @ at
        return float(weights @ (np.logaddexp(0, eta) - y * eta) + ridge @ at**2 / 2)

    loss = lose(theta)
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (weights * (p - y)) + ridge * theta
        curvature = (design * (weights * np.maximum(p * (1 - p), 1e-9))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        length = 1.0
        while (new := lose(theta - length * step)) > loss and length > 1e-4:
            length /= 2
        theta, gain, loss = theta - length * step, loss - new, new
        if gain < 1e-7 * max(1.0, abs(loss)):
            break
    return theta[:-1], float(theta[-1])


def fit_crossed(features: np.ndarray, y: np.ndarray, *, folds: np.ndarray) -> CrossFitted:
    """Choose the penalty by the log loss over inner folds, and fit with it.

    Parameters
    ----------
    features : ndarray, (n, d)
    y : ndarray, (n,), 0 or 1
    folds : ndarray, (n,), int
        Inner folds.

    Returns
    -------
    CrossFitted
    """
    held_out = np.empty((len(PENALTIES), len(y)))
    inner = []
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        inner.append(fit_path(features[~test], y[~test]))
        held_out[:, test] = [model.decide(features[test]) for model in inner[-1]]
    losses = (np.logaddexp(0, held_out) - y * held_out).sum(axis=1)
    best = int(losses.argmin())
    model = fit_path(features, y, penalties=PENALTIES[: best + 1])[-1]
    return CrossFitted(model, [path[best] for path in inner], folds, held_out[best], float(PENALTIES[best]))


@dataclass(frozen=True)
class Stack:
    """A logit from the logits of several models.

    Attributes
    ----------
    coefficients : ndarray, (k,), none negative
    intercept : float
    """

    coefficients: np.ndarray
    intercept: float

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Return the stacked logit.

        Parameters
        ----------
        logits : ndarray, (n, k)

        Returns
        -------
        ndarray, (n,)
        """
        return logits @ self.coefficients + self.intercept


def fit_stack(logits: np.ndarray, y: np.ndarray) -> Stack:
    """Weigh models by how they did on cases that they had not seen; a model that only harms gets weight 0.

    Parameters
    ----------
    logits : ndarray, (n, k)
        Held-out logits, clipped to ±12.
    y : ndarray, (n,), 0 or 1

    Returns
    -------
    Stack
    """
    x = np.clip(logits, -12, 12)
    kept = np.ones(x.shape[1], bool)
    while True:
        weights = np.zeros(x.shape[1])
        weights[kept], intercept = _newton(x[:, kept], y, np.ones(len(y)), 0.1, np.zeros(kept.sum()), 0.0)
        if (weights >= 0).all():
            return Stack(weights, intercept)
        kept &= weights > 0
