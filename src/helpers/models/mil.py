"""Multiple-instance learning on stored features: small nets, many at once, held close to a linear model.

The score of a case is a weighted mean of scores of its tiles (Graziani et al. 2022; additive, so a tile's score means
something), with weights that are equal (mean MIL) or learnt (attention). A tile's score is that of a ridge, fitted on
the same training cases, plus a small net whose last layer starts at 0 (`anchored`): before the first epoch the arm *is*
the ridge, and early stopping may leave it there. One net per inner fold (and seed) trains on the other inner folds; the
epoch with the least error over all inner folds together is kept, and the nets are averaged. So the stopping is an inner
choice, and the nets' held-out inner predictions are what ensembles choose by. Each target has nets of its own.

All nets train at once as batched matrix products. A step draws a fixed number of tiles per case, with replacement, so
there is no padding and nothing to mask; prediction sums over the true tiles of each case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.models.arms import Arm, StackedFit
from helpers.models.bags import Bags, average_by_case, check_width, collect_bags
from helpers.models.descriptors import Arrays, measure_tiles
from helpers.models.linear import fit_ridge, plan_inner_folds

if TYPE_CHECKING:
    from torch import Tensor

NET = ("w1", "b1", "w2", "b2", "v", "u")
"""Hidden layer, output layer, and the two layers of the attention."""


@dataclass(frozen=True)
class MilArm(Arm):
    """A recipe of mean or attention MIL.

    Parameters
    ----------
    attention : bool
        Learn the weights of tiles; otherwise all are equal.
    anchored : bool
        Start from a ridge of the same training cases; otherwise from nothing.
    n_components : int
        Principal components of the tiles that the net reads.
    hidden : int
        Units of the only hidden layer; attention has as many.
    dropout : float
        Of hidden units.
    weight_decay, learning_rate : float
        Of AdamW.
    max_epochs, patience : int
    cases_per_step, tiles_per_case : int
    n_seeds : int
        Nets per inner fold, which differ in their start and in what they draw.
    """

    attention: bool = True
    anchored: bool = True
    n_components: int = 32
    hidden: int = 32
    dropout: float = 0.5
    weight_decay: float = 0.05
    learning_rate: float = 2e-3
    max_epochs: int = 40
    patience: int = 8
    cases_per_step: int = 64
    tiles_per_case: int = 8
    n_seeds: int = 1
    refits_many = False

    def prepare(self, bags: Bags, *, groups: np.ndarray | None, rng: np.random.Generator) -> "PreparedMil":
        """Rotate the training tiles to their principal components and plan the inner folds.

        Parameters
        ----------
        bags : Bags
        groups : ndarray, (n,), optional
        rng : numpy Generator

        Returns
        -------
        PreparedMil
        """
        mean, rotation = fit_rotation(bags, n_components=self.n_components)
        folds, seed = plan_inner_folds(len(bags), groups=groups), int(rng.integers(2**31))
        return PreparedMil(self, bags, groups, mean, rotation, folds, seed)


def fit_rotation(bags: Bags, *, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the principal components of standardised tiles, each case with the same weight.

    Parameters
    ----------
    bags : Bags
        Of training cases.
    n_components : int
        Fewer where the tiles have fewer features.

    Returns
    -------
    mean : ndarray, (d,)
    rotation : ndarray, (d, p)
        (tiles - mean) @ rotation has about unit variance in the leading components; minor ones are shrunk.
    """
    tiles, owner = bags.list_tiles()
    mean, scale = measure_tiles(bags)
    x = ((tiles - mean) / scale).astype(np.float32) * (1.0 / np.sqrt(bags.sizes * len(bags)))[owner, None].astype("f4")
    values, vectors = np.linalg.eigh((x.T @ x).astype(float))
    kept = np.argsort(values)[::-1][:n_components]
    shrunk = np.sqrt(np.maximum(values[kept], 0) + values.mean())
    return mean, vectors[:, kept] / shrunk / scale[:, None]


@dataclass(frozen=True)
class PreparedMil:
    """Rotated training tiles and their inner folds.

    Parameters
    ----------
    arm : MilArm
    bags : Bags
    groups : ndarray, (n,), optional
    mean, rotation : ndarray
        From `fit_rotation`.
    folds : ndarray, (n,), int
        Inner folds: net m trains on all folds but m modulo their number, and stops by that one.
    seed : int
        Of starts and of what is drawn: the same labels give the same nets, however often they are fitted.
    """

    arm: MilArm
    bags: Bags
    groups: np.ndarray | None
    mean: np.ndarray
    rotation: np.ndarray
    folds: np.ndarray
    seed: int

    @cached_property
    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """What the nets read: rotated tiles (n_tiles, p), and the case of each (n_tiles,)."""
        tiles, owner = self.bags.list_tiles()
        return ((tiles - self.mean) @ self.rotation).astype(np.float32), owner

    def fit(self, labels: np.ndarray) -> StackedFit:
        """Train nets for each target alone, so that no target depends on which others stand beside it.

        Parameters
        ----------
        labels : ndarray, (n, k)

        Returns
        -------
        StackedFit
            One MilFit per target.
        """
        centre, spread = labels.mean(axis=0), np.where(labels.std(axis=0) > 0, labels.std(axis=0), 1.0)
        y = (labels - centre) / spread
        weights, offsets = self._fit_anchors(y)
        targets = (slice(j, j + 1) for j in range(y.shape[1]))
        return StackedFit(
            tuple(self._train(y[:, j], weights[..., j], offsets[:, j], centre[j], spread[j]) for j in targets)
        )

    def _train(
        self, y: np.ndarray, weights: np.ndarray, offsets: np.ndarray, centre: np.ndarray, spread: np.ndarray
    ) -> "MilFit":
        start = MilFit(
            self.mean, self.rotation, weights, offsets, self._draw_weights(y), centre, spread, self.arm.attention
        )
        nets, inner = _Training(self, start, y).run()
        return replace(start, nets=nets, inner=inner * spread + centre)

    def _fit_anchors(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ridge weights (n_nets, d, k) and offsets (n_nets, k) on raw features."""
        n_folds, k = int(self.folds.max()) + 1, y.shape[1]
        weights, offsets = np.zeros((n_folds, self.bags.width, k)), np.zeros((n_folds, k))
        for m in range(n_folds):
            rows = self.folds != m
            if not self.arm.anchored:
                offsets[m] = y[rows].mean(axis=0)
                continue
            groups = None if self.groups is None else np.asarray(self.groups)[rows]
            model = fit_ridge(self.bags.take(rows).pool("mean"), y[rows], groups=groups)
            weights[m] = model.coefficients / model.scale[:, None]
            offsets[m] = model.intercept - model.mean @ weights[m]
        return np.tile(weights, (self.arm.n_seeds, 1, 1)), np.tile(offsets, (self.arm.n_seeds, 1))

    def _draw_weights(self, y: np.ndarray) -> Arrays:
        n_nets, rng = (int(self.folds.max()) + 1) * self.arm.n_seeds, np.random.default_rng(self.seed)
        p, h, k = self.rotation.shape[1], self.arm.hidden, y.shape[1]
        scale_out = 0.0 if self.arm.anchored else np.sqrt(1 / h)
        drawn = {
            "w1": rng.normal(size=(n_nets, p, h)) * np.sqrt(2 / p), "b1": np.zeros((n_nets, 1, h)),
            "w2": rng.normal(size=(n_nets, h, k)) * scale_out, "b2": np.zeros((n_nets, 1, k)),
            "v": rng.normal(size=(n_nets, h, h)) * np.sqrt(1 / h), "u": np.zeros((n_nets, h, 1)),
        }  # fmt: skip
        return {name: value.astype(np.float32) for name, value in drawn.items()}


@dataclass(frozen=True)
class MilFit:
    """Trained nets; plain arrays, no torch needed to predict.

    Parameters
    ----------
    mean, rotation : ndarray, (d,) and (d, p)
    anchor_weights, anchor_offsets : ndarray, (n_nets, d, k) and (n_nets, k)
        The ridge under each net, on raw features.
    nets : dict of str to ndarray
        w1 (n_nets, p, h), b1, w2 (n_nets, h, k), b2, v (n_nets, h, h), u (n_nets, h, 1).
    centre, spread : ndarray, (k,)
        Mean and SD of the training labels.
    attention : bool
    inner : ndarray, (n, k)
    """

    mean: np.ndarray
    rotation: np.ndarray
    anchor_weights: np.ndarray
    anchor_offsets: np.ndarray
    nets: Arrays
    centre: np.ndarray
    spread: np.ndarray
    attention: bool
    inner: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)), repr=False)

    def predict(self, bags: Sequence[np.ndarray]) -> np.ndarray:
        """Predict cases by the mean of all nets.

        Parameters
        ----------
        bags : Bags or sequence of ndarray

        Returns
        -------
        ndarray, (n_cases, k)
        """
        tiles, owner = collect_bags(bags).list_tiles()
        values = [self.predict_net(m, tiles, owner) for m in range(len(self.anchor_offsets))]
        return np.mean(values, axis=0) * self.spread + self.centre

    def predict_net(self, m: int, tiles: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Predict cases by one net, in SD of the training labels.

        Parameters
        ----------
        m : int
        tiles : ndarray, (n_tiles, d)
        owner : ndarray, (n_tiles,), int
            Case of each tile, ascending from 0.

        Returns
        -------
        ndarray, (n_cases, k)
        """
        scores, logits = self._look(m, tiles)
        starts = np.searchsorted(owner, np.arange(owner[-1] + 1))
        weights = np.exp(logits - np.maximum.reduceat(logits, starts)[owner])
        return average_by_case(scores, owner, weights)

    def weigh_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Return the attention of the tiles of one bag, averaged over nets.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles,)
            Sums to 1; all equal without attention.
        """
        logits = np.stack([self._look(m, tiles)[1] for m in range(len(self.anchor_offsets))])
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)

    def score_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Score tiles: what a case of nothing but this tile would be predicted.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, k)
        """
        scores = [self._look(m, tiles)[0] for m in range(len(self.anchor_offsets))]
        return np.mean(scores, axis=0) * self.spread + self.centre

    def _look(self, m: int, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n_tiles, k) and attention logits (n_tiles,) of one net."""
        check_width(tiles, expected=len(self.mean))
        net = {name: value[m] for name, value in self.nets.items()}
        hidden = np.maximum((tiles - self.mean) @ self.rotation @ net["w1"] + net["b1"], 0)
        scores = tiles @ self.anchor_weights[m] + self.anchor_offsets[m] + hidden @ net["w2"] + net["b2"]
        if not self.attention:
            return scores, np.zeros(len(tiles))
        return scores, (np.tanh(hidden @ net["v"]) @ net["u"])[:, 0]

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        names = ("mean", "rotation", "anchor_weights", "anchor_offsets", "centre", "spread", "inner")
        arrays = {"arm": np.array("mil"), "attention": np.array(self.attention)}
        return arrays | {name: getattr(self, name) for name in names} | {f"nets/{k}": v for k, v in self.nets.items()}


def load_mil(arrays: Mapping[str, np.ndarray]) -> MilFit:
    """Rebuild a fitted MIL arm from its arrays.

    Parameters
    ----------
    arrays : mapping of str to ndarray

    Returns
    -------
    MilFit
    """
    names = ("mean", "rotation", "anchor_weights", "anchor_offsets", "centre", "spread", "inner")
    nets = {name: np.asarray(arrays[f"nets/{name}"]) for name in NET}
    return MilFit(nets=nets, attention=bool(arrays["attention"]), **{name: arrays[name] for name in names})


class _Training:
    """One run: all nets of a fit, trained as batched products."""

    def __init__(self, prepared: PreparedMil, start: MilFit, y: np.ndarray) -> None:
        import torch

        inputs, owner = prepared.inputs
        tiles, _ = prepared.bags.list_tiles()
        self.arm, self.folds, self.start, self.y = prepared.arm, prepared.folds, start, y
        self.n_nets, self.n_folds = len(start.anchor_offsets), int(self.folds.max()) + 1
        self.generator = torch.Generator().manual_seed(prepared.seed)
        self.inputs = torch.as_tensor(inputs)
        anchored = tiles @ start.anchor_weights.astype(np.float32) + start.anchor_offsets[:, None]
        self.anchored = torch.as_tensor(anchored, dtype=torch.float32)  # (n_nets, n_tiles, k)
        self.owner = torch.as_tensor(owner)
        self.sizes = torch.as_tensor(prepared.bags.sizes)
        self.starts = torch.cumsum(self.sizes, 0) - self.sizes
        self.labels = torch.as_tensor(y, dtype=torch.float32)
        self.train = [torch.as_tensor(np.flatnonzero(self.folds != m % self.n_folds)) for m in range(self.n_nets)]
        self.net = {name: torch.tensor(value, requires_grad=True) for name, value in start.nets.items()}

    def run(self) -> tuple[Arrays, np.ndarray]:
        """Train until the error over the inner folds has not fallen for `patience` epochs; return the best nets."""
        import torch

        optimiser = torch.optim.AdamW(
            list(self.net.values()), lr=self.arm.learning_rate, weight_decay=self.arm.weight_decay
        )
        inner = self.predict_held_out()
        best, since = (float(((inner - self.y) ** 2).sum()), self.copy(), inner), 0
        for _ in range(self.arm.max_epochs):
            for batch in self.draw_epoch():
                optimiser.zero_grad(set_to_none=True)
                self.compute_loss(batch).backward()
                optimiser.step()
            inner = self.predict_held_out()
            error = float(((inner - self.y) ** 2).sum())
            best, since = ((error, self.copy(), inner), 0) if error < best[0] else (best, since + 1)
            if since >= self.arm.patience:
                break
        return best[1], best[2]

    def copy(self) -> Arrays:
        """Return the weights as arrays of their own."""
        return {name: value.detach().numpy().copy() for name, value in self.net.items()}

    def draw_epoch(self) -> "list[Tensor]":
        """Deal the training cases of each net into steps, (n_nets, cases_per_step) each."""
        import torch

        shortest = min(len(rows) for rows in self.train)
        size = min(self.arm.cases_per_step, shortest)
        orders = [rows[torch.randperm(len(rows), generator=self.generator)] for rows in self.train]
        return list(torch.stack([order[: shortest // size * size] for order in orders]).split(size, dim=1))

    def compute_loss(self, batch: "Tensor") -> "Tensor":
        """Squared error of a step, with dropout, summed over nets so that each trains as if alone."""
        import torch

        m, b = batch.shape
        drawn = torch.rand((m, b, self.arm.tiles_per_case), generator=self.generator)
        at = self.starts[batch][..., None] + (drawn * self.sizes[batch][..., None]).long()  # (m, b, t)
        x = self.inputs[at.reshape(-1)].reshape(m, b * self.arm.tiles_per_case, -1)
        anchored = torch.gather(
            self.anchored, 1, at.reshape(m, -1, 1).expand(-1, -1, self.labels.shape[1])
        )  # (m, b * t, k)
        scores, logits = self.forward(x, anchored, drop=True)
        weights = logits.reshape(m, b, -1).softmax(dim=2)
        predicted = (weights[..., None] * scores.reshape(m, b, self.arm.tiles_per_case, -1)).sum(2)
        return ((predicted - self.labels[batch]) ** 2).mean(dim=(1, 2)).sum()

    def forward(self, x: "Tensor", anchored: "Tensor", *, drop: bool) -> "tuple[Tensor, Tensor]":
        """Scores (m, n, k) and attention logits (m, n, 1) of tiles (m, n, p)."""
        import torch

        hidden = torch.relu(torch.baddbmm(self.net["b1"], x, self.net["w1"]))
        if drop:
            by_case = hidden.reshape(len(hidden), -1, self.arm.tiles_per_case, self.arm.hidden)
            keep = torch.rand((*by_case.shape[:2], 1, self.arm.hidden), generator=self.generator) >= self.arm.dropout
            hidden = (by_case * keep / (1 - self.arm.dropout)).reshape(hidden.shape)  # one mask for a case's tiles
        scores = anchored + torch.baddbmm(self.net["b2"], hidden, self.net["w2"])
        if not self.arm.attention:
            return scores, torch.zeros((*x.shape[:2], 1))
        return scores, torch.bmm(torch.tanh(torch.bmm(hidden, self.net["v"])), self.net["u"])

    def predict_held_out(self) -> np.ndarray:
        """Predict every training case by the nets that did not train on it, (n, k)."""
        import torch

        predicted = np.zeros(self.y.shape)
        with torch.no_grad():
            for m in range(self.n_nets):
                held_out = self.folds == m % self.n_folds
                predicted[held_out] += self._predict(m, torch.as_tensor(held_out))
        return predicted / self.arm.n_seeds

    def _predict(self, m: int, held_out: "Tensor") -> Any:
        import torch

        rows = held_out[self.owner]
        net, x = self.net, self.inputs[rows]
        hidden = torch.relu(x @ net["w1"][m] + net["b1"][m])
        scores = self.anchored[m, rows] + hidden @ net["w2"][m] + net["b2"][m]
        logits = (torch.tanh(hidden @ net["v"][m]) @ net["u"][m])[:, 0] if self.arm.attention else torch.zeros(len(x))
        weights = torch.exp(logits - logits.max())  # per net one shift is enough: logits are bounded by |u|
        owner = self.owner[rows]
        shape = (len(held_out), scores.shape[1])
        summed = torch.zeros(shape).index_add_(0, owner, weights[:, None] * scores)
        total = torch.zeros(len(held_out)).index_add_(0, owner, weights)
        return (summed[held_out] / total[held_out][:, None]).numpy()
