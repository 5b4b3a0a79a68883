"""Attention regression of many genes: every tile has a value and a weight, so a prediction says where it comes from.

The prediction of a case is the weighted mean of *values* of its tiles (not of their embeddings), as in Graziani et al.
2022. `list_hotspot_arms` holds the published model to the letter (one net per gene), its poolings, and `multi_task`:
one trunk for all genes, whose cost hardly depends on their number, because tiles are pooled before the genes' heads are
applied. Each gene mixes a few attentions, so genes may look at different tiles. Like the MIL of chapter 03 it is
anchored: before the first epoch it *is* the ridge, and early stopping may leave it there.

One net per inner fold trains on the other inner folds and stops by that one; predictions are averages over these nets.
Dropout is off when a model predicts, and the top k tiles are the k highest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from helpers.models.arms import Arm
from helpers.models.bags import Bags, check_width, collect_bags
from helpers.models.descriptors import Arrays, measure_tiles
from helpers.models.flat_weights import FlatWeights
from helpers.models.linear import fit_ridge, plan_inner_folds
from helpers.models.mil import fit_rotation

if TYPE_CHECKING:
    from torch import Tensor

Pooling = Literal["attention", "mean", "max", "linear", "exponential", "top_k"]
POOLINGS: Final[tuple[Pooling, ...]] = ("attention", "mean", "max", "linear", "exponential", "top_k")
TOP_K: Final = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
"""Numbers of tiles whose means `top_k` averages; in training one of them is drawn per step."""
TILES_AT_ONCE: Final = 65_536
"""Padded tiles of a batch of predictions."""
VALUES_AT_ONCE: Final = 4_000_000
"""Values of tiles, for all nets and targets, that a map holds in memory."""


@dataclass(frozen=True)
class HotspotArm(Arm):
    """A recipe of an attention regression.

    Parameters
    ----------
    pooling : str
        attention; mean; max; linear and exponential (tiles weighted by the size of their value, or by its
        exponential); top_k (mean of the k highest values, averaged over k).
    multi_task : bool
        All targets on one trunk; otherwise each target has nets of its own.
    n_attention : int
        Attentions that the targets mix, each in its own proportions; 1: all targets share one.
    trunk, attention_width : int
        Units of the trunk and of the attention's hidden layer.
    value_layers : tuple of int
        Hidden layers between trunk and value, with ReLU.
    activation : str
        Of the trunk: none, as published, or relu.
    dropout : float
        Of the trunk's units, in training only.
    clamp : float, optional
        Bound of a tile's value, SD of the target.
    anchored : bool
        Values are those of a ridge of the same training cases, plus the net's, which starts at 0.
    n_components : int, optional
        Principal components of the tiles that the net reads; None: standardised features.
    optimiser : str
        sgd (Nesterov, momentum 0.9) or adamw.
    learning_rate, weight_decay : float
    max_epochs, patience : int
    cases_per_step : int
    max_tiles : int, optional
        Tiles drawn per case and step, without replacement; None: all of them.
    stop_together : bool
        All nets keep the epoch with the least error over all inner folds; otherwise each its own best.
    """

    pooling: Pooling = "attention"
    multi_task: bool = True
    n_attention: int = 4
    trunk: int = 32
    attention_width: int = 32
    value_layers: tuple[int, ...] = ()
    activation: Literal["none", "relu"] = "relu"
    dropout: float = 0.5
    clamp: float | None = None
    anchored: bool = True
    n_components: int | None = 32
    optimiser: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    max_epochs: int = 40
    patience: int = 8
    cases_per_step: int = 64
    max_tiles: int | None = 16
    stop_together: bool = True
    refits_many = False

    def prepare(self, bags: Bags, *, groups: np.ndarray | None, rng: np.random.Generator) -> "PreparedHotspots":
        """Standardise (or rotate) the training tiles and plan the inner folds.

        Parameters
        ----------
        bags : Bags
        groups : ndarray, (n,), optional
        rng : numpy Generator

        Returns
        -------
        PreparedHotspots
        """
        if self.n_components is None:
            mean, scale = measure_tiles(bags)
            rotation = np.diag(1.0 / scale)
        else:
            mean, rotation = fit_rotation(bags, n_components=bags.width)
        folds = plan_inner_folds(len(bags), groups=groups)
        return PreparedHotspots(self, bags, groups, mean, rotation, folds, rng)


def list_hotspot_arms() -> dict[str, HotspotArm]:
    """Return the recipes of chapter 05 by name; all numbers were written down before any met a real cohort.

    Returns
    -------
    dict of str to HotspotArm
        multi_task; as_published and the published poolings, pool_mean, pool_max, pool_linear, pool_exponential; top_k,
        the published baseline. Published: layers, clamp, optimiser, epochs, patience. Assumed: one case per step,
        standardised tile features, targets in SD of the training cases.
    """
    published = HotspotArm(
        multi_task=False, n_attention=1, trunk=128, attention_width=64, activation="none", dropout=0.2, clamp=10.0,
        anchored=False, n_components=None, optimiser="sgd", learning_rate=1e-4, weight_decay=0.01, max_epochs=100,
        patience=12, cases_per_step=1, max_tiles=None, stop_together=False,
    )  # fmt: skip
    others: tuple[Pooling, ...] = ("mean", "max", "linear", "exponential")
    pooled = {f"pool_{name}": replace(published, pooling=name) for name in others}
    baseline = replace(published, pooling="top_k", activation="relu", value_layers=(64, 64), clamp=None)
    return {"multi_task": HotspotArm(), "as_published": published, **pooled, "top_k": baseline}


@dataclass(frozen=True)
class PreparedHotspots:
    """Training tiles, how they are turned into inputs, and the inner folds.

    Parameters
    ----------
    arm : HotspotArm
    bags : Bags
    groups : ndarray, (n,), optional
    mean : ndarray, (d,)
    rotation : ndarray, (d, d)
        Inputs are (tiles - mean) @ rotation; the trunk reads the leading ones.
    folds : ndarray, (n,), int
        Net m trains on all inner folds but m, and stops by fold m.
    rng : numpy Generator
    """

    arm: HotspotArm
    bags: Bags
    groups: np.ndarray | None
    mean: np.ndarray
    rotation: np.ndarray
    folds: np.ndarray
    rng: np.random.Generator

    def fit(self, labels: np.ndarray) -> "HotspotFit":
        """Train the nets of all inner folds; of each target apart, unless they share a trunk.

        Parameters
        ----------
        labels : ndarray, (n, k)

        Returns
        -------
        HotspotFit
        """
        centre, spread = labels.mean(axis=0), np.where(labels.std(axis=0) > 0, labels.std(axis=0), 1.0)
        y = (labels - centre) / spread
        columns = [np.arange(y.shape[1])] if self.arm.multi_task else [np.array([k]) for k in range(y.shape[1])]
        nets, inner = [], np.empty(y.shape)
        for own in columns:
            best, held_out = _Training(self, y[:, own]).run()
            nets.append(best)
            inner[:, own] = held_out
        return HotspotFit(
            self.arm, self.mean, self.rotation, tuple(nets), centre, spread, inner * spread + centre
        )  # fmt: skip

    def fit_anchors(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit a ridge under each net, on the cases that the net trains on.

        Parameters
        ----------
        y : ndarray, (n, k)

        Returns
        -------
        weights : ndarray, (n_nets, d, k)
            On inputs.
        offsets : ndarray, (n_nets, 1, k)
        """
        n_nets, k = int(self.folds.max()) + 1, y.shape[1]
        weights, offsets = np.zeros((n_nets, self.bags.width, k)), np.zeros((n_nets, 1, k))
        back = np.linalg.pinv(self.rotation)
        for m in range(n_nets):
            rows = self.folds != m
            groups = None if self.groups is None else np.asarray(self.groups)[rows]
            model = fit_ridge(self.bags.take(rows).pool("mean"), y[rows], groups=groups)
            raw = model.coefficients / model.scale[:, None]
            weights[m], offsets[m] = back @ raw, model.intercept + (self.mean - model.mean) @ raw
        return weights, offsets

    def draw_weights(self, y: np.ndarray) -> Arrays:
        """Draw the nets' weights, uniform within 1 / sqrt(inputs) as torch does; what must start at 0 is 0.

        Parameters
        ----------
        y : ndarray, (n, k)

        Returns
        -------
        dict of str to ndarray
            One leading axis for the nets.
        """
        arm, n_nets, k = self.arm, int(self.folds.max()) + 1, y.shape[1]
        n_inputs = min(self.bags.width, arm.n_components or self.bags.width)
        widths = [n_inputs, arm.trunk, *arm.value_layers, k]
        drawn: Arrays = {}
        for i, (n_in, n_out) in enumerate(pairwise(widths)):
            last = i == len(widths) - 2
            bound = 0.0 if last and arm.anchored else 1 / np.sqrt(n_in)
            drawn[f"w{i}"] = self.rng.uniform(-bound, bound, (n_nets, n_in, n_out))
            drawn[f"b{i}"] = self.rng.uniform(-bound, bound, (n_nets, 1, n_out))
        if arm.pooling == "attention":
            drawn |= draw_attention(arm, n_nets, rng=self.rng)
            drawn["mix"] = np.zeros((n_nets, arm.n_attention, k))
        if arm.anchored:
            drawn["anchor_w"], drawn["anchor_b"] = self.fit_anchors(y)
        return {name: value.astype(np.float32) for name, value in drawn.items()}


def draw_attention(arm: HotspotArm, n_nets: int, *, rng: np.random.Generator) -> Arrays:
    """Draw the weights of untrained attentions.

    Parameters
    ----------
    arm : HotspotArm
    n_nets : int
    rng : numpy Generator

    Returns
    -------
    dict of str to ndarray
        v, c (hidden layer), u (output), float32.
    """
    into, out = 1 / np.sqrt(arm.trunk), 1 / np.sqrt(arm.attention_width)
    drawn = {
        "v": rng.uniform(-into, into, (n_nets, arm.trunk, arm.attention_width)),
        "c": rng.uniform(-into, into, (n_nets, 1, arm.attention_width)),
        "u": rng.uniform(-out, out, (n_nets, arm.attention_width, arm.n_attention)),
    }
    return {name: value.astype(np.float32) for name, value in drawn.items()}


@dataclass(frozen=True)
class HotspotFit:
    """Trained nets.

    Parameters
    ----------
    arm : HotspotArm
    mean, rotation : ndarray, (d,) and (d, d)
    nets : tuple of dict of str to ndarray
        One dict of stacked nets where targets share a trunk; otherwise one per target.
    centre, spread : ndarray, (k,)
        Mean and SD of the training labels.
    inner : ndarray, (n, k)
        Predictions of the training cases by the nets that did not train on them.
    """

    arm: HotspotArm
    mean: np.ndarray
    rotation: np.ndarray
    nets: tuple[Arrays, ...]
    centre: np.ndarray
    spread: np.ndarray
    inner: np.ndarray = field(repr=False)

    def predict(self, bags: Sequence[np.ndarray]) -> np.ndarray:
        """Predict cases by the mean of the nets.

        Parameters
        ----------
        bags : Bags or sequence of ndarray

        Returns
        -------
        ndarray, (n_cases, k)
        """
        import torch

        known = collect_bags(bags)
        parts = []
        for nets in self.nets:
            net = _load(nets)
            out = np.empty((len(known), net[_last(net)].shape[-1]))
            with torch.no_grad():
                for rows, tiles, mask in self._pad(known):
                    out[rows] = pool_values(net, tiles[None], mask[None], self.arm).mean(dim=0).numpy()
            parts.append(out)
        return np.concatenate(parts, axis=1) * self.spread + self.centre

    def _pad(self, bags: Bags) -> "Iterator[tuple[np.ndarray, Tensor, Tensor]]":
        """Yield cases of like size with their inputs, padded, and the mask of real tiles."""
        import torch

        order = np.argsort(bags.sizes, kind="stable")
        for rows in split_by_size(order, bags.sizes[order], most=TILES_AT_ONCE):
            longest = int(bags.sizes[rows].max())
            tiles = np.zeros((len(rows), longest, self.rotation.shape[1]), np.float32)
            mask = np.arange(longest) < bags.sizes[rows][:, None]
            for place, row in enumerate(rows):
                tiles[place, : bags.sizes[row]] = self.rotate(bags[int(row)])
            yield rows, torch.from_numpy(tiles), torch.from_numpy(mask)

    def rotate(self, tiles: np.ndarray) -> np.ndarray:
        """Turn tiles into inputs.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, d), float32

        Raises
        ------
        ModelError
            When the tiles have another number of features.
        """
        check_width(tiles, expected=len(self.mean))
        return (np.asarray(tiles, np.float32) - self.mean.astype(np.float32)) @ self.rotation.astype(np.float32)

    def explain_tiles(self, tiles: np.ndarray, *, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return value and weight of every tile of one bag, averaged over nets, for some targets.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)
        columns : sequence of int
            Targets.

        Returns
        -------
        values : ndarray, (n_tiles, len(columns))
            In the unit of the target: what a case of nothing but this tile would be predicted.
        attention : ndarray, (n_tiles, len(columns))
            Sums to 1 over tiles. Values times attention sum to the prediction, for a single net; 1 / n_tiles for
            poolings without weights of their own.
        """
        import torch

        columns = list(columns)
        values, attention = np.empty((2, len(tiles), len(columns)))
        inputs = torch.from_numpy(self.rotate(np.asarray(tiles, np.float32)))[None, None]
        mask = torch.ones(1, 1, len(tiles), dtype=torch.bool)
        per_step = max(1, VALUES_AT_ONCE // (len(tiles) * len(self.nets[0]["w0"]))) if self.arm.multi_task else 1
        with torch.no_grad():
            for start in range(0, len(columns), per_step):
                places = slice(start, start + per_step)
                own = columns[places]
                nets, heads = (self.nets[0], own) if self.arm.multi_task else (self.nets[own[0]], [0])
                net = keep_targets(_load(nets), heads)
                hidden = apply_trunk(net, inputs, self.arm)
                found = apply_values(net, inputs, hidden, self.arm)  # (m, 1, n, targets)
                weights = weigh_targets(net, hidden, mask, self.arm)
                values[:, places] = found.mean(dim=0)[0].numpy()
                attention[:, places] = weights.mean(dim=0)[0].numpy()
        return values * self.spread[columns] + self.centre[columns], attention

    def score_tiles(self, tiles: np.ndarray) -> np.ndarray:
        """Return the values of the tiles of a bag for all targets.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)

        Returns
        -------
        ndarray, (n_tiles, k)
        """
        return self.explain_tiles(tiles, columns=range(len(self.centre)))[0]

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        recipe = {f"recipe/{f.name}": np.array(repr(getattr(self.arm, f.name))) for f in fields(self.arm)}
        named = {name: getattr(self, name) for name in ("mean", "rotation", "centre", "spread", "inner")}
        nets = {f"net{i}/{name}": value for i, net in enumerate(self.nets) for name, value in net.items()}
        return {"arm": np.array("hotspots"), **recipe, **named, **nets}


def weigh_untrained(fit: HotspotFit, tiles: np.ndarray, net: Arrays) -> np.ndarray:
    """Return the attention of a bag under weights that were given and not trained.

    Parameters
    ----------
    fit : HotspotFit
        Whose inputs are used.
    tiles : ndarray, (n_tiles, d)
    net : dict of str to ndarray
        w0, b0, v, c, u of m nets.

    Returns
    -------
    ndarray, (n_tiles, m)
        Of the first attention.
    """
    import torch

    loaded, inputs = _load(net), torch.from_numpy(fit.rotate(tiles))[None, None]
    with torch.no_grad():
        hidden = apply_trunk(loaded, inputs, fit.arm)
        weights = weigh_tiles(loaded, hidden, torch.ones(1, 1, len(tiles), dtype=torch.bool))
    return weights[:, 0, :, 0].numpy().T.astype(float)


def load_hotspots(arrays: Mapping[str, np.ndarray]) -> HotspotFit:
    """Rebuild a fit from its arrays.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        From `to_arrays`.

    Returns
    -------
    HotspotFit
    """
    import ast

    recipe = {f.name: ast.literal_eval(str(arrays[f"recipe/{f.name}"])) for f in fields(HotspotArm)}
    count = len({name.split("/")[0] for name in arrays if name.startswith("net")})
    nets = [
        {name.split("/")[1]: np.asarray(value) for name, value in arrays.items() if name.startswith(f"net{i}/")}
        for i in range(count)
    ]
    named = {name: np.asarray(arrays[name]) for name in ("mean", "rotation", "centre", "spread", "inner")}
    return HotspotFit(HotspotArm(**recipe), nets=tuple(nets), **named)


def split_by_size(order: np.ndarray, sizes: np.ndarray, *, most: int) -> list[np.ndarray]:
    """Cut cases, ordered by size, into batches of which each holds few tiles after padding.

    Parameters
    ----------
    order : ndarray, (n,), int
    sizes : ndarray, (n,), int
        Ascending.
    most : int
        Padded tiles per batch; a single larger case is a batch of its own.

    Returns
    -------
    list of ndarray
    """
    batches, start = [], 0
    for i in range(1, len(order) + 1):
        if i == len(order) or (i - start + 1) * sizes[i] > most:
            batches.append(order[start:i])
            start = i
    return batches


def _load(arrays: Arrays) -> "dict[str, Tensor]":
    import torch

    return {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in arrays.items()}


def _last(net: "Mapping[str, Tensor]") -> str:
    """Name of the weights of the last value layer."""
    return max((name for name in net if name[0] == "w"), key=lambda name: int(name[1:]))


def keep_targets(net: "Mapping[str, Tensor]", columns: Sequence[int]) -> "dict[str, Tensor]":
    """Return nets with the heads of some targets.

    Parameters
    ----------
    net : mapping of str to Tensor
    columns : sequence of int

    Returns
    -------
    dict of str to Tensor
    """
    last = _last(net)
    heads = {last, f"b{last[1:]}", "mix", "anchor_w", "anchor_b"}
    return {name: value[..., list(columns)] if name in heads else value for name, value in net.items()}


def multiply(x: "Tensor", weights: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
    """Multiply the tiles of each net by its weights.

    Parameters
    ----------
    x : Tensor, (m or 1, batch, n, p)
    weights : Tensor, (m, p, q)
    bias : Tensor, (m, 1, q), optional

    Returns
    -------
    Tensor, (m, batch, n, q)
    """
    import torch

    m, (_, b, n, p) = len(weights), x.shape
    flat = x.reshape(len(x), b * n, p).expand(m, b * n, p)
    out = torch.bmm(flat, weights) if bias is None else torch.baddbmm(bias, flat, weights)
    return out.reshape(m, b, n, -1)


def apply_trunk(net: "Mapping[str, Tensor]", x: "Tensor", arm: HotspotArm) -> "Tensor":
    """Return the trunk's units of every tile.

    Parameters
    ----------
    net : mapping of str to Tensor
    x : Tensor, (m or 1, batch, n, p)
    arm : HotspotArm

    Returns
    -------
    Tensor, (m, batch, n, trunk)
    """
    hidden = multiply(x[..., : net["w0"].shape[1]], net["w0"], net["b0"])
    return hidden.relu() if arm.activation == "relu" else hidden


def apply_values(net: "Mapping[str, Tensor]", x: "Tensor", hidden: "Tensor", arm: HotspotArm) -> "Tensor":
    """Return the value of every tile for every target of the net.

    Parameters
    ----------
    net : mapping of str to Tensor
    x : Tensor, (m or 1, batch, n, p)
    hidden : Tensor, (m, batch, n, trunk)
    arm : HotspotArm

    Returns
    -------
    Tensor, (m, batch, n, k)
    """
    for i in range(1, len(arm.value_layers) + 1):
        hidden = multiply(hidden, net[f"w{i}"], net[f"b{i}"]).relu()
    last = len(arm.value_layers) + 1
    values = multiply(hidden, net[f"w{last}"], net[f"b{last}"])
    if arm.anchored:
        values = values + multiply(x, net["anchor_w"], net["anchor_b"])
    return values if arm.clamp is None else values.clamp(-arm.clamp, arm.clamp)


def weigh_tiles(net: "Mapping[str, Tensor]", hidden: "Tensor", mask: "Tensor") -> "Tensor":
    """Return the attentions of every tile: softmax over the real tiles of a bag, exactly 0 on padding.

    Parameters
    ----------
    net : mapping of str to Tensor
    hidden : Tensor, (m, batch, n, trunk)
    mask : Tensor, (m or 1, batch, n), bool

    Returns
    -------
    Tensor, (m, batch, n, n_attention)
    """
    logits = multiply(multiply(hidden, net["v"], net["c"]).tanh(), net["u"])
    return logits.masked_fill(~mask[..., None], float("-inf")).softmax(dim=2)


def weigh_targets(net: "Mapping[str, Tensor]", hidden: "Tensor", mask: "Tensor", arm: HotspotArm) -> "Tensor":
    """Return the weight of every tile for every target: its own mixture of the attentions.

    Parameters
    ----------
    net : mapping of str to Tensor
    hidden : Tensor, (m, batch, n, trunk)
    mask : Tensor, (m or 1, batch, n), bool
    arm : HotspotArm

    Returns
    -------
    Tensor, (m, batch, n, k)
        Equal weights for poolings without attention.
    """
    if arm.pooling != "attention":
        equal = mask / mask.sum(dim=-1, keepdim=True)
        return equal[..., None].expand(*hidden.shape[:3], net[_last(net)].shape[-1])
    return multiply(weigh_tiles(net, hidden, mask), net["mix"].softmax(dim=1))


def pool_values(net: "Mapping[str, Tensor]", x: "Tensor", mask: "Tensor", arm: HotspotArm) -> "Tensor":
    """Predict bags by every net.

    Where a value is linear in the trunk's units, tiles are pooled before the targets' heads are applied, so that a
    further target costs one row per bag and not one per tile.

    Parameters
    ----------
    net : mapping of str to Tensor
    x : Tensor, (m or 1, batch, n, p)
        Padded inputs.
    mask : Tensor, (m or 1, batch, n), bool
        True where a tile is real.
    arm : HotspotArm

    Returns
    -------
    Tensor, (m, batch, k)
        SD of the training labels.
    """
    return _pool_hidden(net, x, apply_trunk(net, x, arm), mask, arm)


def _pool_hidden(
    net: "Mapping[str, Tensor]", x: "Tensor", hidden: "Tensor", mask: "Tensor", arm: HotspotArm, k: int | None = None
) -> "Tensor":
    if arm.pooling in {"attention", "mean"} and arm.clamp is None and not arm.value_layers:
        return _pool_early(net, x, hidden, mask, arm)
    values = apply_values(net, x, hidden, arm)
    if arm.pooling in {"attention", "mean"}:
        return (weigh_targets(net, hidden, mask, arm) * values).sum(dim=2)
    return pool_by_value(values, mask, pooling=arm.pooling, top_k=TOP_K if k is None else (k,))


def _pool_early(
    net: "Mapping[str, Tensor]", x: "Tensor", hidden: "Tensor", mask: "Tensor", arm: HotspotArm
) -> "Tensor":
    """Pool units, then apply the heads: (m, batch, k)."""
    import torch

    if arm.pooling == "attention":
        weights = weigh_tiles(net, hidden, mask)
    else:
        weights = (mask / mask.sum(dim=-1, keepdim=True))[..., None].expand(*hidden.shape[:3], 1)
    flat = weights.transpose(2, 3)  # (m, batch, n_attention, n)
    scores = multiply(torch.matmul(flat, hidden), net["w1"], net["b1"])
    if arm.anchored:
        scores = scores + multiply(torch.matmul(flat, x), net["anchor_w"], net["anchor_b"])
    if scores.shape[2] == 1:
        return scores[:, :, 0]
    return torch.einsum("mbak,mak->mbk", scores, net["mix"].softmax(dim=1))


def pool_by_value(values: "Tensor", mask: "Tensor", *, pooling: Pooling, top_k: Sequence[int] = TOP_K) -> "Tensor":
    """Pool tiles by their own values.

    Parameters
    ----------
    values : Tensor, (m, batch, n, k)
    mask : Tensor, (m or 1, batch, n), bool
    pooling : str
        max; linear, weights abs(v); exponential, weights exp(v); top_k, the mean over `top_k` of the
        means of the k highest tiles (of all, where there are fewer).
    top_k : sequence of int

    Returns
    -------
    Tensor, (m, batch, k)
    """
    import torch

    real = mask[..., None]
    if pooling in {"max", "top_k"}:
        ordered = values.masked_fill(~real, float("-inf")).sort(dim=2, descending=True).values
        if pooling == "max":
            return ordered[:, :, 0]
        summed = ordered.masked_fill(ordered == float("-inf"), 0).cumsum(dim=2)
        sizes = mask.sum(dim=-1)  # (m or 1, batch)
        means = []
        for k in top_k:
            count = sizes.clamp(max=k).expand(values.shape[:2])
            at = (count - 1)[..., None, None].expand(*values.shape[:2], 1, values.shape[3])
            means.append(summed.gather(2, at)[:, :, 0] / count[..., None])
        return torch.stack(means).mean(dim=0)
    if pooling == "linear":
        weights = values.abs().masked_fill(~real, 0)
        return (weights * values).sum(dim=2) / weights.sum(dim=2).clamp(min=1e-8)
    weights = values.masked_fill(~real, float("-inf")).softmax(dim=2)
    return (weights * values).sum(dim=2)


def differentiate_attention(
    net: "Mapping[str, Tensor]", hidden: "Tensor", mask: "Tensor", labels: "Tensor", *, clamp: float | None
) -> "tuple[dict[str, Tensor], Tensor]":
    """Differentiate the squared error of one bag per net: one attention, values linear in the trunk's units.

    Parameters
    ----------
    net : mapping of str to Tensor
        v, c, u, mix, w1, b1 of m nets.
    hidden : Tensor, (m, n, trunk)
    mask : Tensor, (m, n), bool
        True where a tile is real.
    labels : Tensor, (m, k)
    clamp : float, optional
        Bound of a tile's value.

    Returns
    -------
    by_weight : dict of str to Tensor
        Gradients of the sum over nets of the mean squared error over targets. That of `mix` is 0: one attention has
        all the weight.
    by_hidden : Tensor, (m, n, trunk)
    """
    import torch

    net = {name: value.detach() for name, value in net.items()}
    inner = torch.baddbmm(net["c"], hidden, net["v"]).tanh_()  # (m, n, attention_width)
    weights = torch.bmm(inner, net["u"]).masked_fill_(~mask[..., None], float("-inf")).softmax(dim=1)  # (m, n, 1)
    free = torch.baddbmm(net["b1"], hidden, net["w1"])  # (m, n, k)
    values = free if clamp is None else free.clamp(-clamp, clamp)
    slope = 2 / labels.shape[1] * (torch.bmm(weights.mT, values) - labels[:, None])  # (m, 1, k), of the prediction
    by_value = weights * slope * (values == free)
    gain = torch.bmm(values, slope.mT)  # (m, n, 1), of the weights
    by_logit = weights * (gain - torch.bmm(weights.mT, gain))
    by_inner = torch.bmm(by_logit, net["u"].mT).mul_(1 - inner**2)
    by_weight = {
        "u": torch.bmm(inner.mT, by_logit), "v": torch.bmm(hidden.mT, by_inner),
        "c": by_inner.sum(dim=1, keepdim=True), "w1": torch.bmm(hidden.mT, by_value),
        "b1": by_value.sum(dim=1, keepdim=True),
    }  # fmt: skip
    return by_weight, torch.baddbmm(torch.bmm(by_inner, net["v"].mT), by_value, net["w1"].mT)


class _Training:
    """One run: the nets of all inner folds, trained as batched products."""

    def __init__(self, prepared: PreparedHotspots, y: np.ndarray) -> None:
        import torch

        self.prepared, self.arm, self.y = prepared, prepared.arm, y
        self.folds, self.n_nets = prepared.folds, int(prepared.folds.max()) + 1
        weights = prepared.draw_weights(y)
        self.generator = torch.Generator().manual_seed(int(prepared.rng.integers(2**31)))
        self.fixed = {name: torch.from_numpy(value) for name, value in weights.items() if name.startswith("anchor")}
        self.weights = FlatWeights({name: value for name, value in weights.items() if name not in self.fixed})
        self.net = self.weights.named
        tiles, _ = prepared.bags.list_tiles()
        centred = tiles - prepared.mean.astype(np.float32)
        self.inputs = torch.from_numpy(centred @ prepared.rotation.astype(np.float32))
        self.sizes = torch.from_numpy(np.asarray(prepared.bags.sizes))
        self.starts = torch.cumsum(self.sizes, 0) - self.sizes
        self.labels = torch.as_tensor(y, dtype=torch.float32)
        self.train = [torch.from_numpy(np.flatnonzero(self.folds != m)) for m in range(self.n_nets)]
        self.reads_slices = self.arm.max_tiles is None and not self.arm.anchored
        plain = self.arm.pooling == "attention" and self.arm.n_attention == 1 and not self.arm.value_layers
        self.by_hand = self.reads_slices and plain and self.arm.cases_per_step == 1

    def run(self) -> tuple[Arrays, np.ndarray]:
        """Train with early stopping; return the best nets and their held-out predictions, (n, k)."""
        step = self.choose_step()
        inner = self.predict_held_out()
        errors = self.measure(inner)
        kept, best, since = self.copy(), inner.copy(), np.zeros(self.n_nets, int)
        for _ in range(self.arm.max_epochs):
            for batch in self.draw_epoch():
                self.weights.forget_gradients()
                self.follow_loss(batch)
                step()
            inner = self.predict_held_out()
            found = self.measure(inner)
            better = found < errors
            if better.any():
                self.keep(kept, better)
                rows = better[self.folds]
                best[rows], errors = inner[rows], np.where(better, found, errors)
            since = np.where(better, 0, since + 1)
            if since.min() >= self.arm.patience:
                break
        return kept, best

    def choose_step(self) -> "Callable[[], None]":
        """Return the step of the arm's optimiser, for all nets."""
        rate, decay = self.arm.learning_rate, self.arm.weight_decay
        if self.arm.optimiser == "sgd":
            return partial(self.weights.step_nesterov, rate=rate, decay=decay, momentum=0.9)
        return partial(self.weights.step_adamw, rate=rate, decay=decay)

    def measure(self, inner: np.ndarray) -> np.ndarray:
        """Squared error of every net on its inner fold; the sum over all of them where they stop together."""
        errors = np.bincount(self.folds, ((inner - self.y) ** 2).sum(axis=1), minlength=self.n_nets)
        return np.full(self.n_nets, errors.sum()) if self.arm.stop_together else errors

    def copy(self) -> Arrays:
        """Return all weights as arrays of their own."""
        return {name: value.detach().numpy().copy() for name, value in (self.net | self.fixed).items()}

    def keep(self, kept: Arrays, better: np.ndarray) -> None:
        """Overwrite the kept weights of the nets that became better."""
        for name, value in self.net.items():
            kept[name][better] = value.detach().numpy()[better]

    def draw_epoch(self) -> "list[Tensor]":
        """Deal the training cases of each net into steps, (n_nets, cases_per_step) each."""
        import torch

        shortest = min(len(rows) for rows in self.train)
        size = min(self.arm.cases_per_step, shortest)
        orders = [rows[torch.randperm(len(rows), generator=self.generator)] for rows in self.train]
        return list(torch.stack([order[: shortest // size * size] for order in orders]).split(size, dim=1))

    def draw_tiles(self, batch: "Tensor") -> "tuple[Tensor, Tensor]":
        """Gather the tiles of cases (m, b), padded: inputs (m, b, n, d) and mask (m, b, n)."""
        import torch

        sizes = self.sizes[batch]
        longest = int(sizes.max())
        most = longest if self.arm.max_tiles is None else min(longest, self.arm.max_tiles)
        places = torch.arange(longest).expand(*batch.shape, longest)
        if most < longest:  # random keys, padding last: the first ones are a draw without replacement
            keys = torch.rand(places.shape, generator=self.generator).masked_fill(places >= sizes[..., None], 2.0)
            places = keys.topk(most, dim=-1, largest=False).indices
        mask = torch.arange(most) < sizes[..., None]
        rows = (self.starts[batch][..., None] + places[..., :most]).masked_fill(~mask, 0)
        return self.inputs[rows], mask

    def follow_loss(self, batch: "Tensor") -> None:
        """Add the gradient of a step's loss to that of the weights."""
        if not self.reads_slices:
            x, mask = self.draw_tiles(batch)
            self.compute_loss(batch, x, apply_trunk(self.net, x, self.arm), mask).backward()
            return
        units, mask = self.read_units(batch)
        if self.by_hand:
            gradient = self.differentiate(batch, units, mask)
        else:
            units.requires_grad_()
            self.compute_loss(batch, self.inputs, self.activate(units), mask).backward()
            assert units.grad is not None
            gradient = units.grad
        self.add_trunk_gradient(batch, gradient)

    def activate(self, units: "Tensor") -> "Tensor":
        """Apply the trunk's activation."""
        return units.relu() if self.arm.activation == "relu" else units

    def differentiate(self, batch: "Tensor", units: "Tensor", mask: "Tensor") -> "Tensor":
        """Add the gradient of all weights but the trunk's, by hand; return that of the units, (m, 1, n, trunk).

        A step on one case is so small that autograd's bookkeeping takes longer than its arithmetic.
        """
        kept = self.draw_dropout(units)
        self.draw_k()
        hidden = self.activate(units).mul_(kept)
        by_weight, by_hidden = differentiate_attention(
            self.net, hidden[:, 0], mask[:, 0], self.labels[batch[:, 0]], clamp=self.arm.clamp
        )
        for name, value in by_weight.items():
            self.weights.slopes[name].add_(value)
        by_units = by_hidden[:, None].mul_(kept)
        return by_units if self.arm.activation == "none" else by_units * (hidden > 0)

    def draw_dropout(self, hidden: "Tensor") -> "Tensor":
        """Draw what every unit is multiplied by, one mask for the tiles of a case: (m, b, 1, trunk)."""
        import torch

        shape = (*hidden.shape[:2], 1, hidden.shape[3])
        if not self.arm.dropout:
            return torch.ones(shape)
        return (torch.rand(shape, generator=self.generator) >= self.arm.dropout) / (1 - self.arm.dropout)

    def draw_k(self) -> int:
        """Draw the number of tiles that `top_k` averages in a step."""
        import torch

        return TOP_K[int(torch.randint(len(TOP_K), (1,), generator=self.generator))]

    def compute_loss(self, batch: "Tensor", x: "Tensor", hidden: "Tensor", mask: "Tensor") -> "Tensor":
        """Squared error of a step, with dropout, summed over nets so that each trains as if alone."""
        hidden = hidden * self.draw_dropout(hidden)
        predicted = _pool_hidden(self.net | self.fixed, x, hidden, mask, self.arm, self.draw_k())
        return ((predicted - self.labels[batch]) ** 2).mean(dim=(1, 2)).sum()

    def list_slices(self, batch: "Tensor") -> list[tuple[int, int, int, int, int]]:
        """List net, place in the step, first row, end and number of the tiles of cases (m, b)."""
        starts, sizes = self.starts[batch].tolist(), self.sizes[batch].tolist()
        places = [(m, i) for m in range(len(starts)) for i in range(len(starts[m]))]
        return [(m, i, starts[m][i], starts[m][i] + sizes[m][i], sizes[m][i]) for m, i in places]

    def read_units(self, batch: "Tensor", nets: slice = slice(None)) -> "tuple[Tensor, Tensor]":
        """Units of all tiles of cases (m, b), before activation: (m, b, n, trunk), 0 on padding; and the mask.

        The tiles of a case are consecutive rows of `inputs`, so that none is copied or padded before the product.
        """
        import torch

        sizes = self.sizes[batch]
        mask = torch.arange(int(sizes.max())) < sizes[..., None]
        units = torch.zeros(*mask.shape, self.arm.trunk)
        w, b = self.net["w0"].detach()[nets], self.net["b0"].detach()[nets]
        for m, i, start, end, size in self.list_slices(batch):
            torch.addmm(b[m], self.inputs[start:end, : w.shape[1]], w[m], out=units[m, i, :size])
        return units, mask

    def add_trunk_gradient(self, batch: "Tensor", gradient: "Tensor") -> None:
        """Add what the gradient of the units, (m, b, n, trunk), says of the trunk's weights."""
        w, b = self.weights.slopes["w0"], self.weights.slopes["b0"]
        for m, i, start, end, size in self.list_slices(batch):
            own = gradient[m, i, :size]
            w[m].addmm_(self.inputs[start:end, : w.shape[1]].T, own)
            b[m, 0].add_(own.sum(dim=0))

    def predict_held_out(self) -> np.ndarray:
        """Predict every training case by the net that did not train on it, (n, k)."""
        import torch

        predicted = np.empty(self.y.shape)
        with torch.no_grad():
            for m in range(self.n_nets):
                net = {name: value[m : m + 1] for name, value in (self.net | self.fixed).items()}
                rows = np.flatnonzero(self.folds == m)
                rows = rows[np.argsort(self.prepared.bags.sizes[rows], kind="stable")]
                for part in split_by_size(rows, self.prepared.bags.sizes[rows], most=TILES_AT_ONCE):
                    predicted[part] = self.predict_cases(net, torch.from_numpy(part), slice(m, m + 1))[0].numpy()
        return predicted

    def predict_cases(self, net: "Mapping[str, Tensor]", cases: "Tensor", own: slice) -> "Tensor":
        """Predict cases (b,) from all of their tiles by one net: (1, b, k)."""
        if not self.reads_slices:
            return pool_values(net, *self.gather(cases), self.arm)
        units, mask = self.read_units(cases[None], own)
        return _pool_hidden(net, self.inputs, self.activate(units), mask, self.arm)

    def gather(self, cases: "Tensor") -> "tuple[Tensor, Tensor]":
        """All tiles of cases, padded: inputs (1, b, n, d) and mask (1, b, n)."""
        import torch

        sizes = self.sizes[cases]
        mask = torch.arange(int(sizes.max())) < sizes[:, None]
        rows = (self.starts[cases][:, None] + torch.arange(mask.shape[1])).masked_fill(~mask, 0)
        return self.inputs[rows][None], mask[None]
