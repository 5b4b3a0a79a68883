"""Arms: models of one interface, so that any of them can be compared, averaged, refitted under a null, and saved.

An arm is a recipe: `arm.fit(bags, y, groups, rng)` returns a fitted arm with `predict(bags)`, `score_tiles(tiles)`
where a tile has a score, and `to_arrays()`, from which `load_arm` rebuilds it. Every choice an arm makes (penalty,
width of a kernel, number of components, epoch, members) is made on inner folds of its training cases that keep sites
whole. Its predictions over these inner folds, `inner`, are what an ensemble chooses by. A test case is no argument of
any fit.

All grids stand here, in `list_arms`, and were written down before any of them met the real cohort.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from helpers.core.errors import ModelError
from helpers.models.bags import Bags, collect_bags
from helpers.models.descriptors import (
    Arrays,
    Descriptor,
    PooledDescriptor,
    fit_fourier,
    fit_gaussian,
    load_descriptor,
)
from helpers.models.linear import (
    ALPHAS,
    BlockRidgeTrainer,
    LinearModel,
    RidgePath,
    RidgeTrainer,
    check_labels,
    plan_inner_folds,
)

LEAST_SLOPE = 0.01
"""SD of an ensemble's predictions, in SD of the label, where the inner folds find no agreement at all."""


class FittedArm(Protocol):
    """What a fit returns."""

    @property
    def inner(self) -> np.ndarray:
        """Predictions of the training cases by inner models that did not see them, (n, k)."""
        ...

    def predict(self, bags: Sequence[np.ndarray]) -> np.ndarray:
        """Predict cases: (n_cases,) after a fit on one target, (n_cases, k) after a fit on k."""
        ...

    def score_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Score the tiles of a bag: (n_tiles,) or (n_tiles, k). ModelError where a tile has no score."""
        ...

    def to_arrays(self) -> Arrays:
        """Return plain arrays; `load_arm` rebuilds the fitted arm from them."""
        ...


class PreparedArm(Protocol):
    """Training cases, digested once, to be fitted on any labels."""

    def fit(self, labels: np.ndarray) -> FittedArm:
        """Fit labels (n, k)."""
        ...


class Arm(ABC):
    """A recipe. `refits_many`: hundreds of label columns, as a permutation null needs, cost little more than one."""

    refits_many: bool = True

    @abstractmethod
    def prepare(self, bags: Bags, *, groups: np.ndarray | None, rng: np.random.Generator) -> PreparedArm:
        """Digest the training cases: all that needs no label."""

    def fit(
        self, bags: Sequence[np.ndarray], y: np.ndarray, groups: np.ndarray | None, rng: np.random.Generator
    ) -> FittedArm:
        """Fit training cases.

        Parameters
        ----------
        bags : Bags or sequence of ndarray, (n_tiles, d)
            Of the training cases. The test set is no argument.
        y : ndarray, (n,) or (n, k)
        groups : ndarray, (n,), optional
            Site of each case; inner folds keep them whole.
        rng : numpy Generator

        Returns
        -------
        FittedArm

        Raises
        ------
        ModelError
            When a label is missing, or bags and labels differ in number.
        """
        y = np.asarray(y, float)
        if len(bags) != len(y):
            msg = f"ModelError: {len(bags)} bags were given with {len(y)} labels. Give one label per case."
            raise ModelError(msg)
        labels = check_labels(y[:, None] if y.ndim == 1 else y)
        fitted = self.prepare(collect_bags(bags), groups=groups, rng=rng).fit(labels)
        return SingleTarget(fitted) if y.ndim == 1 else fitted


@dataclass(frozen=True)
class SingleTarget:
    """A fitted arm of one target, whose answers drop the axis of targets.

    Parameters
    ----------
    fitted : FittedArm
    """

    fitted: FittedArm

    @property
    def inner(self) -> np.ndarray:
        """Predictions over the inner folds, (n,)."""
        return self.fitted.inner[:, 0]

    def predict(self, bags: Sequence[np.ndarray]) -> np.ndarray:
        """Predict cases.

        Parameters
        ----------
        bags : Bags or sequence of ndarray

        Returns
        -------
        ndarray, (n_cases,)
        """
        return self.fitted.predict(bags)[:, 0]

    def score_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Score tiles.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles,)
        """
        return self.fitted.score_tiles(tiles)[:, 0]

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        return {"arm": np.array("single")} | nest_arrays("fitted", self.fitted.to_arrays())


@dataclass(frozen=True)
class StackedFit:
    """Arms fitted to one target each, side by side.

    Parameters
    ----------
    fits : sequence of FittedArm
        In the order of the targets.
    """

    fits: tuple[FittedArm, ...]

    @property
    def inner(self) -> np.ndarray:
        """Predictions over the inner folds, (n, k)."""
        return np.hstack([fit.inner for fit in self.fits])

    def predict(self, bags: Sequence[np.ndarray]) -> np.ndarray:
        """Predict cases.

        Parameters
        ----------
        bags : Bags or sequence of ndarray

        Returns
        -------
        ndarray, (n_cases, k)
        """
        known = collect_bags(bags)
        return np.hstack([fit.predict(known) for fit in self.fits])

    def score_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Score tiles.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, k)
        """
        return np.hstack([fit.score_tiles(tiles) for fit in self.fits])

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        arrays: Arrays = {"arm": np.array("stacked"), "n": np.array(len(self.fits))}
        for i, fit in enumerate(self.fits):
            arrays |= nest_arrays(f"target{i}", fit.to_arrays())
        return arrays


@dataclass(frozen=True)
class LinearPart:
    """Linear weights on one descriptor, for some of the targets.

    Parameters
    ----------
    descriptor : Descriptor
    model : LinearModel
    columns : ndarray, int
        Targets that chose this descriptor.
    """

    descriptor: Descriptor
    model: LinearModel
    columns: np.ndarray


@dataclass(frozen=True)
class LinearFit:
    """A linear head; each target may read another descriptor.

    Parameters
    ----------
    parts : sequence of LinearPart
    inner : ndarray, (n, k)
    """

    parts: tuple[LinearPart, ...]
    inner: np.ndarray

    def predict(self, bags: Sequence[np.ndarray]) -> np.ndarray:
        """Predict cases.

        Parameters
        ----------
        bags : Bags or sequence of ndarray

        Returns
        -------
        ndarray, (n_cases, k)
        """
        known = collect_bags(bags)
        return self._assemble(len(known), [part.descriptor.describe(known) for part in self.parts])

    def score_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Score tiles so that a case's prediction is the mean of the scores of its tiles.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, k)

        Raises
        ------
        ModelError
            When the descriptor is no mean over tiles.
        """
        return self._assemble(len(tiles), [part.descriptor.describe_tiles(tiles) for part in self.parts])

    def _assemble(self, n: int, described: Sequence[np.ndarray]) -> np.ndarray:
        out = np.full((n, self.inner.shape[1]), np.nan)
        for part, x in zip(self.parts, described, strict=True):
            out[:, part.columns] = part.model.predict(x)
        return out

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        arrays = {"arm": np.array("linear"), "inner": self.inner}
        for i, part in enumerate(self.parts):
            named = {"columns": part.columns} | {f"model/{name}": value for name, value in vars(part.model).items()}
            arrays |= nest_arrays(f"part{i}", named | nest_arrays("descriptor", part.descriptor.to_arrays()))
        return arrays


@dataclass(frozen=True)
class RidgeArm(Arm):
    """Ridge on a descriptor: pooled features, random Fourier features of tiles, or a Gaussian kernel of means.

    Parameters
    ----------
    aggregation : str
        Of pooled features; '' where a kernel is used.
    fourier_factors, gaussian_factors : tuple of float
        Widths tried, in units of the median distance.
    n_waves : int
    alphas : tuple of float
        Penalties tried.
    """

    aggregation: str = "mean"
    fourier_factors: tuple[float, ...] = ()
    gaussian_factors: tuple[float, ...] = ()
    n_waves: int = 512
    alphas: tuple[float, ...] = tuple(ALPHAS)

    def prepare(self, bags: Bags, *, groups: np.ndarray | None, rng: np.random.Generator) -> "PreparedRidge":
        """Describe the training cases and decompose them, for the fit and for the inner folds.

        Parameters
        ----------
        bags : Bags
        groups : ndarray, (n,), optional
        rng : numpy Generator

        Returns
        -------
        PreparedRidge
        """
        descriptors: list[Descriptor] = [PooledDescriptor(self.aggregation)] if self.aggregation else []
        descriptors += [fit_fourier(bags, factor=f, n_waves=self.n_waves, rng=rng) for f in self.fourier_factors]
        descriptors += [fit_gaussian(bags, factor=f) for f in self.gaussian_factors]
        options: dict[str, Any] = {"groups": groups, "alphas": np.array(self.alphas)}
        trainers: list[RidgeTrainer | BlockRidgeTrainer] = []
        for descriptor in descriptors:
            pooled, x = isinstance(descriptor, PooledDescriptor), descriptor.describe(bags)
            refit = pooled and self.aggregation != "moments"  # few features: refitting the inner folds is cheap
            trainer = RidgeTrainer if refit else BlockRidgeTrainer
            trainers.append(trainer(x, equal_scale=pooled, **options))
        return PreparedRidge(descriptors, trainers)


@dataclass(frozen=True)
class PreparedRidge:
    """Decomposed training cases, one trainer per descriptor.

    Parameters
    ----------
    descriptors : sequence of Descriptor
    trainers : sequence of RidgeTrainer or BlockRidgeTrainer
    """

    descriptors: Sequence[Descriptor]
    trainers: Sequence[RidgeTrainer | BlockRidgeTrainer]

    def fit(self, labels: np.ndarray) -> LinearFit:
        """Choose descriptor and penalty of every label by the inner folds, then fit all training cases.

        Parameters
        ----------
        labels : ndarray, (n, k)

        Returns
        -------
        LinearFit
        """
        errors = np.stack([trainer.compute_inner_errors(labels) for trainer in self.trainers])  # (D, alphas, k)
        chosen = errors.min(axis=1).argmin(axis=0)
        inner, parts = np.full(labels.shape, np.nan), []
        for which in np.unique(chosen):
            columns, trainer = np.flatnonzero(chosen == which), self.trainers[which]
            alphas = trainer.alphas[errors[which].argmin(axis=0)[columns]]
            model = trainer.path.fit(labels[:, columns], alphas)
            inner[:, columns] = trainer.predict_inner(labels[:, columns], alphas)
            parts.append(LinearPart(self.descriptors[which], model, columns))
        return LinearFit(tuple(parts), inner)


@dataclass(frozen=True)
class PlsArm(Arm):
    """Partial least squares on mean features: few directions, chosen by their covariance with the label.

    Parameters
    ----------
    max_components : int
        1 to this many are tried.
    """

    max_components: int = 12

    def prepare(self, bags: Bags, *, groups: np.ndarray | None, rng: np.random.Generator) -> "PreparedPls":
        """Decompose the mean features.

        Parameters
        ----------
        bags : Bags
        groups : ndarray, (n,), optional
        rng : numpy Generator
            Not used.

        Returns
        -------
        PreparedPls
        """
        return PreparedPls(RidgeTrainer(bags.pool("mean"), groups=groups), self.max_components)


@dataclass(frozen=True)
class PreparedPls:
    """Decomposed training cases.

    Parameters
    ----------
    trainer : RidgeTrainer
    max_components : int
    """

    trainer: RidgeTrainer
    max_components: int

    def fit(self, labels: np.ndarray) -> LinearFit:
        """Choose the number of components of every label by the inner folds, then fit all training cases.

        Parameters
        ----------
        labels : ndarray, (n, k)

        Returns
        -------
        LinearFit
        """
        steps, columns = self.max_components, np.arange(labels.shape[1])
        trials = np.full((steps, *labels.shape), np.nan)
        for held_out, x, path in self.trainer.inner:
            trials[:, held_out] = _predict_components(path, labels[~held_out], x, steps)
        chosen = ((trials - labels) ** 2).sum(axis=1).argmin(axis=0)
        path = self.trainer.path
        weights = compute_pls_weights(path, labels - labels.mean(0), n_components=steps)[chosen, :, columns].T
        model = LinearModel(path.mean, path.scale, path.vt.T @ weights, labels.mean(0), chosen + 1.0)
        part = LinearPart(PooledDescriptor("mean"), model, columns)
        return LinearFit((part,), trials[chosen, :, columns].T)


def compute_pls_weights(path: RidgePath, centred: np.ndarray, *, n_components: int) -> np.ndarray:
    """Return the PLS1 weights of 1 to `n_components` components, in the basis of the decomposition.

    PLS with m components is m steps of conjugate gradients on the normal equations from 0; in the eigenbasis these are
    a few products per label, so a thousand permuted labels cost little.

    Parameters
    ----------
    path : RidgePath
    centred : ndarray, (n, k)
        Labels without their mean.
    n_components : int

    Returns
    -------
    ndarray, (n_components, rank, k)
        Multiply by `path.vt.T` for weights of standardised features.

    References
    ----------
    Phatak and de Hoog 2002, J Chemometrics 16:361, doi 10.1002/cem.728 (PLS, Krylov spaces, conjugate gradients).
    """
    squared = path.s[:, None] ** 2
    residual = path.s[:, None] * (path.u.T @ centred)
    weights, direction = np.zeros_like(residual), residual.copy()
    norm = (residual**2).sum(0)
    floor = 1e-20 * np.maximum(norm, 1e-300)
    steps = []
    for _ in range(n_components):
        curved = squared * direction
        alive = norm > floor
        length = np.divide(norm, (direction * curved).sum(0), out=np.zeros_like(norm), where=alive)
        weights = weights + length * direction
        residual = residual - length * curved
        renewed = (residual**2).sum(0)
        direction = residual + np.divide(renewed, norm, out=np.zeros_like(norm), where=alive) * direction
        norm = renewed
        steps.append(weights)
    return np.stack(steps)


def _predict_components(path: RidgePath, labels: np.ndarray, x: np.ndarray, steps: int) -> np.ndarray:
    projected = np.nan_to_num((x - path.mean) / path.scale) @ path.vt.T
    weights = compute_pls_weights(path, labels - labels.mean(0), n_components=steps)
    return np.einsum("mr,ark->amk", projected, weights) + labels.mean(0)


@dataclass(frozen=True)
class SvrArm(Arm):
    """Support vector regression on mean features, linear or with a Gaussian kernel.

    Parameters
    ----------
    gaussian_factors : tuple of float
        Widths tried, in units of the median distance; empty: linear.
    costs : tuple of float
        C, for labels of SD 1 and a kernel of order 1.
    epsilon : float
        Half width of the tube, SD of the label.
    """

    gaussian_factors: tuple[float, ...] = ()
    costs: tuple[float, ...] = (0.1, 0.5, 2.0)
    epsilon: float = 0.1
    refits_many = False

    def prepare(self, bags: Bags, *, groups: np.ndarray | None, rng: np.random.Generator) -> "PreparedSvr":
        """Compute the kernels of the training cases.

        Parameters
        ----------
        bags : Bags
        groups : ndarray, (n,), optional
        rng : numpy Generator
            Not used.

        Returns
        -------
        PreparedSvr
        """
        shapes = [fit_gaussian(bags, factor=f, whiten=False) for f in self.gaussian_factors or (1.0,)]
        if self.gaussian_factors:
            kernels = [shape.compare(shape.landmarks) for shape in shapes]
            descriptors: list[Descriptor] = list(shapes)
            return PreparedSvr(self, descriptors, kernels, plan_inner_folds(len(bags), groups=groups), None)
        x = shapes[0].landmarks
        basis = LinearModel(shapes[0].mean, shapes[0].scale, x.T / x.shape[1], np.zeros(len(x)), np.zeros(len(x)))
        folds = plan_inner_folds(len(bags), groups=groups)
        return PreparedSvr(self, [PooledDescriptor("mean")], [x @ x.T / x.shape[1]], folds, basis)


@dataclass(frozen=True)
class PreparedSvr:
    """Kernels of the training cases.

    Parameters
    ----------
    arm : SvrArm
    descriptors : sequence of Descriptor
    kernels : sequence of ndarray, (n, n)
    folds : ndarray, (n,), int
        Inner folds.
    basis : LinearModel, optional
        Turns dual weights of a linear kernel into weights of features.
    """

    arm: SvrArm
    descriptors: Sequence[Descriptor]
    kernels: Sequence[np.ndarray]
    folds: np.ndarray
    basis: LinearModel | None

    def fit(self, labels: np.ndarray) -> LinearFit:
        """Choose kernel and cost of every label by the inner folds, then fit all training cases.

        Parameters
        ----------
        labels : ndarray, (n, k)

        Returns
        -------
        LinearFit
        """
        inner, parts = np.full(labels.shape, np.nan), []
        for column in range(labels.shape[1]):
            y = labels[:, column]
            trials = {
                (i, cost): self._predict_inner(i, cost, y) for i in range(len(self.kernels)) for cost in self.arm.costs
            }
            which, cost = min(trials, key=lambda key: float(((trials[key] - y) ** 2).sum()))
            inner[:, column] = trials[which, cost]
            dual, intercept = self._solve(self.kernels[which], y, cost)
            model = self._build(dual[:, None], np.array([intercept]), np.array([cost]))
            parts.append(LinearPart(self.descriptors[which], model, np.array([column])))
        return LinearFit(tuple(parts), inner)

    def _predict_inner(self, which: int, cost: float, y: np.ndarray) -> np.ndarray:
        predicted, kernel = np.full(len(y), np.nan), self.kernels[which]
        for fold in range(self.folds.max() + 1):
            test = self.folds == fold
            dual, intercept = self._solve(kernel[np.ix_(~test, ~test)], y[~test], cost)
            predicted[test] = kernel[np.ix_(test, ~test)] @ dual + intercept
        return predicted

    def _solve(self, kernel: np.ndarray, y: np.ndarray, cost: float) -> tuple[np.ndarray, float]:
        from sklearn.svm import SVR

        mean, sd = y.mean(), y.std() or 1.0
        machine = SVR(kernel="precomputed", C=cost, epsilon=self.arm.epsilon, tol=0.01).fit(kernel, (y - mean) / sd)
        dual = np.zeros(len(y))
        dual[machine.support_] = machine.dual_coef_[0]
        return dual * sd, float(machine.intercept_[0] * sd + mean)

    def _build(self, dual: np.ndarray, intercept: np.ndarray, cost: np.ndarray) -> LinearModel:
        if self.basis is None:
            return LinearModel(np.zeros(len(dual)), np.ones(len(dual)), dual, intercept, cost)
        return LinearModel(self.basis.mean, self.basis.scale, self.basis.coefficients @ dual, intercept, cost)


@dataclass(frozen=True)
class EnsembleArm(Arm):
    """The average of z-scored predictions of arms, which the inner folds choose.

    Arms are added one by one, the same one again if that is best, as long as the correlation of their average with
    the label over the inner folds grows (Caruana et al. 2004, doi 10.1145/1015330.1015432).

    Parameters
    ----------
    members : tuple of str
        Names in `ARMS`.
    max_rounds : int
        Members at most, repetitions counted; 0: all members with equal weights.
    aggregation : str
        Of the plain ridge among the members.
    """

    members: tuple[str, ...]
    max_rounds: int = 8
    aggregation: str = "mean"

    def prepare(self, bags: Bags, *, groups: np.ndarray | None, rng: np.random.Generator) -> "PreparedEnsemble":
        """Prepare the members.

        Parameters
        ----------
        bags : Bags
        groups : ndarray, (n,), optional
        rng : numpy Generator

        Returns
        -------
        PreparedEnsemble
        """
        known = list_arms(aggregation=self.aggregation)
        prepared = {name: known[name].prepare(bags, groups=groups, rng=deepcopy(rng)) for name in self.members}
        return PreparedEnsemble(self, prepared)


@dataclass(frozen=True)
class PreparedEnsemble:
    """Prepared members.

    Parameters
    ----------
    arm : EnsembleArm
    prepared : mapping of str to PreparedArm
    """

    arm: EnsembleArm
    prepared: Mapping[str, PreparedArm]

    def fit(self, labels: np.ndarray) -> "EnsembleFit":
        """Fit every member, then choose among them.

        Parameters
        ----------
        labels : ndarray, (n, k)

        Returns
        -------
        EnsembleFit
        """
        return combine_arms(
            {name: member.fit(labels) for name, member in self.prepared.items()}, labels, max_rounds=self.arm.max_rounds
        )


@dataclass(frozen=True)
class EnsembleFit:
    """A weighted average of z-scored members, brought back to the scale of the label.

    Parameters
    ----------
    members : mapping of str to FittedArm
    weights : ndarray, (n_members, k)
        Sum to 1 over members.
    centre, scale : ndarray, (n_members, k)
        Mean and SD of each member's predictions over the inner folds.
    slope, intercept : ndarray, (k,)
        Of the label on the average, over the inner folds.
    inner : ndarray, (n, k)
    """

    members: Mapping[str, FittedArm]
    weights: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    inner: np.ndarray = field(repr=False)

    def predict(self, bags: Sequence[np.ndarray]) -> np.ndarray:
        """Predict cases.

        Parameters
        ----------
        bags : Bags or sequence of ndarray

        Returns
        -------
        ndarray, (n_cases, k)
        """
        known = collect_bags(bags)
        return self._average(len(known), lambda member: member.predict(known))

    def score_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Average the tile scores of the members that carry weight.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, k)

        Raises
        ------
        ModelError
            When a member with weight gives no tile scores.
        """
        return self._average(len(tiles), lambda member: member.score_tiles(tiles))

    def _average(self, n: int, ask: Any) -> np.ndarray:
        mean = np.zeros((n, len(self.slope)))
        for i, member in enumerate(self.members.values()):
            if self.weights[i].any():
                mean += self.weights[i] * (ask(member) - self.centre[i]) / self.scale[i]
        return self.intercept + self.slope * mean

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        names = ("weights", "centre", "scale", "slope", "intercept", "inner")
        arrays: Arrays = {"arm": np.array("ensemble"), "members": np.array(list(self.members))}
        arrays |= {name: getattr(self, name) for name in names}
        for name, member in self.members.items():
            arrays |= nest_arrays(f"member_{name}", member.to_arrays())
        return arrays


def combine_arms(members: Mapping[str, FittedArm], labels: np.ndarray, *, max_rounds: int = 8) -> EnsembleFit:
    """Choose and average fitted arms by their predictions over the inner folds.

    Parameters
    ----------
    members : mapping of str to FittedArm
        Fitted on the same training cases.
    labels : ndarray, (n, k)
        Of these cases.
    max_rounds : int
        0: all members with equal weights.

    Returns
    -------
    EnsembleFit
    """
    inner = np.stack([member.inner for member in members.values()])  # (n_members, n, k)
    centre, sd = inner.mean(axis=1), inner.std(axis=1)
    scale = np.where(sd > 1e-9 * labels.std(axis=0), sd, np.inf)  # a member that says the same of all cases: 0
    z = (inner - centre[:, None]) / scale[:, None]
    weights = np.stack([_weigh(z[:, :, k], labels[:, k], max_rounds) for k in range(labels.shape[1])], axis=1)
    mean = np.einsum("mk,mnk->nk", weights, z)
    variance = (mean**2).mean(axis=0)
    centred = labels - labels.mean(axis=0)
    slope = np.divide((mean * centred).mean(axis=0), variance, out=np.zeros_like(variance), where=variance > 1e-12)
    least = LEAST_SLOPE * np.divide(
        labels.std(axis=0), np.sqrt(variance), out=np.zeros_like(variance), where=variance > 1e-12
    )
    slope = np.maximum(slope, least)  # an average that helps nothing says almost the mean, as a heavy penalty would
    return EnsembleFit(
        members, weights, centre, scale, slope, labels.mean(axis=0), inner=labels.mean(axis=0) + slope * mean
    )


def _weigh(z: np.ndarray, y: np.ndarray, max_rounds: int) -> np.ndarray:
    """Weights of members, (n_members,), by forward selection with replacement."""
    n_members = len(z)
    if max_rounds == 0:
        return np.full(n_members, 1 / n_members)
    agreement, mutual = z @ (y - y.mean()), z @ z.T
    counts, best = np.zeros(n_members), -np.inf
    for _ in range(max_rounds):
        trials = counts + np.eye(n_members)
        norm = np.sqrt(np.maximum(np.einsum("am,mn,an->a", trials, mutual, trials), 1e-300))
        gains = trials @ agreement / norm
        if gains.max() <= best * (1 + 1e-6 * np.sign(best)):
            break
        best, counts = float(gains.max()), trials[gains.argmax()]
    return counts / counts.sum()


def nest_arrays(prefix: str, arrays: Arrays) -> Arrays:
    """Put arrays under a prefix.

    Parameters
    ----------
    prefix : str
    arrays : dict of str to ndarray

    Returns
    -------
    dict of str to ndarray
        'prefix/name' to array.
    """
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def unnest_arrays(prefix: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Return the arrays under a prefix.

    Parameters
    ----------
    prefix : str
    arrays : mapping of str to ndarray

    Returns
    -------
    dict of str to ndarray
    """
    return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}


def load_arm(arrays: Mapping[str, np.ndarray]) -> FittedArm:
    """Rebuild a fitted arm from its arrays.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        From `to_arrays`, perhaps through a file.

    Returns
    -------
    FittedArm

    Raises
    ------
    ModelError
        When the arrays are of no known arm.
    """
    from helpers.models.hotspots import load_hotspots
    from helpers.models.mil import load_mil

    kind = str(arrays["arm"]) if "arm" in arrays else "none"
    if kind == "single":
        return SingleTarget(load_arm(unnest_arrays("fitted", arrays)))
    if kind == "stacked":
        return StackedFit(tuple(load_arm(unnest_arrays(f"target{i}", arrays)) for i in range(int(arrays["n"]))))
    if kind == "linear":
        count = len({name.split("/")[0] for name in arrays if name.startswith("part")})
        parts = tuple(_load_part(unnest_arrays(f"part{i}", arrays)) for i in range(count))
        return LinearFit(parts, arrays["inner"])
    if kind == "ensemble":
        members = {str(name): load_arm(unnest_arrays(f"member_{name}", arrays)) for name in arrays["members"]}
        names = ("weights", "centre", "scale", "slope", "intercept", "inner")
        return EnsembleFit(members=members, **{name: arrays[name] for name in names})
    if kind == "mil":
        return load_mil(arrays)
    if kind == "hotspots":
        return load_hotspots(arrays)
    known = "single, stacked, linear, ensemble, mil or hotspots"
    msg = f"ModelError: these arrays say arm '{kind}'; expected {known}. Save with to_arrays."
    raise ModelError(msg)


def _load_part(arrays: Arrays) -> LinearPart:
    model = LinearModel(**unnest_arrays("model", arrays))
    return LinearPart(load_descriptor(unnest_arrays("descriptor", arrays)), model, arrays["columns"])


def list_arms(*, aggregation: str = "mean") -> dict[str, Arm]:
    """Return every arm with its grid, by name.

    Parameters
    ----------
    aggregation : str
        Of the plain ridge.

    Returns
    -------
    dict of str to Arm
        In the order in which tables show them.
    """
    from helpers.models.mil import MilArm

    linear = ("ridge", "ridge_moments", "ridge_fourier", "ridge_kernel", "pls")
    machines = ("svr_linear", "svr_gaussian", "mean_mil", "attention_mil")
    return {
        "ridge": RidgeArm(aggregation),
        "ridge_moments": RidgeArm("moments"),
        "ridge_fourier": RidgeArm("", fourier_factors=(0.5, 1.0, 2.0)),
        "ridge_kernel": RidgeArm("", gaussian_factors=(0.5, 1.0, 2.0)),
        "pls": PlsArm(),
        "svr_linear": SvrArm(),
        "svr_gaussian": SvrArm(gaussian_factors=(0.7, 1.4)),
        "mean_mil": MilArm(attention=False),
        "attention_mil": MilArm(attention=True, n_seeds=3),
        "attention_mil_plain": MilArm(attention=True, anchored=False),
        "average": EnsembleArm(linear, max_rounds=0, aggregation=aggregation),
        "ensemble": EnsembleArm(linear, aggregation=aggregation),
        "ensemble_all": EnsembleArm((*linear, *machines), aggregation=aggregation),
    }


def find_arm(name: str, *, aggregation: str = "mean") -> Arm:
    """Return an arm by name.

    Parameters
    ----------
    name : str
    aggregation : str
        Of the plain ridge.

    Returns
    -------
    Arm

    Raises
    ------
    ModelError
        When there is none of that name.
    """
    arms = list_arms(aggregation=aggregation)
    if name not in arms:
        msg = f"ModelError: there is no arm '{name}'; there are {', '.join(arms)}. Name one of them."
        raise ModelError(msg)
    return arms[name]
