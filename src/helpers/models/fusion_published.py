"""The published fusion of images and genes, bug for bug, and the demonstrations of what it really uses.

Honarmandi Shandiz 2025 (arXiv 2503.02849), as the author's notebook has it: frozen features of 50 tiles per patient go
through a one-dimensional convolution, log1p genes through a dense layer, an eight-head cross-attention lets the tiles
(queries) look at the genes (one key, one value), and a head of 512, 256 and 1 units decides. Softmax over one key is 1
whatever the query, so the tiles cannot change the output, and no gradient reaches them. What the notebook does not
fix (padding, activation, how tiles are pooled, the order of layers in the head, best weights restored or not) is our
assumption and stands in `PublishedRecipe` or beside the layer.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pandas as pd

from helpers.core.errors import ModelError
from helpers.models.study import limit_threads

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

KINDS: Final = ("cross_attention", "concat", "concat_public", "image", "genes")
"""What the paper compares; `concat_public` is the public run, whose head never reads the concatenated tensor."""


@dataclass(frozen=True, kw_only=True)
class PublishedRecipe:
    """The published training. Defaults are the published values; those marked [A] are assumed.

    Attributes
    ----------
    n_tiles : int
        Tiles per patient; a patient with fewer repeats some.
    width, heads, kernel : int
        Of the convolution, the dense layer and the attention.
    dropout, l2 : float
        Of the head; `l2` multiplies the sum of its squared weights.
    learning_rate : float
        Of Adam.
    batch_size, max_epochs, patience : int
    n_folds, seed : int
        KFold(n_folds, shuffle, random_state=seed): not stratified, sites not kept.
    scaler_leak : bool
        Genes are scaled with mean and SD of all patients, test patients too (as published), or of the training part.
    stopping_leak : bool
        Training stops by the fold that is reported (as published), or by a fifth of the training part.
    restore_best : bool
        The weights of the best epoch are used [A].
    """

    n_tiles: int = 50
    width: int = 512
    heads: int = 8
    kernel: int = 3
    dropout: float = 0.5
    l2: float = 1e-4
    learning_rate: float = 1e-5
    batch_size: int = 8
    max_epochs: int = 50
    patience: int = 5
    n_folds: int = 5
    seed: int = 42
    scaler_leak: bool = True
    stopping_leak: bool = True
    restore_best: bool = True


def build_published(kind: str, *, n_features: int, n_genes: int, recipe: PublishedRecipe, seed: int) -> "nn.Module":
    """Build one of the published networks.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    n_features, n_genes : int
        Features of a tile (2048 in the paper), genes of a patient (20,318 in the paper).
    recipe : PublishedRecipe
    seed : int
        Of the weights and of the dropout.

    Returns
    -------
    nn.Module
        (tiles (batch, n_tiles, n_features), genes (batch, n_genes)) -> logits (batch,). Its part `fuse` returns what
        the head reads; the part `image` is everything that only tiles pass through.

    Raises
    ------
    ModelError
        When the kind is unknown.
    """
    import torch
    from torch import nn

    if kind not in KINDS:
        msg = f"ModelError: published network '{kind}' does not exist; there are {', '.join(KINDS)}."
        raise ModelError(msg)
    width = recipe.width
    n_read = 2 * width if kind == "concat" else width
    network = _define_network()(kind, recipe, torch.Generator().manual_seed(seed))
    parts: dict[str, Callable[[], nn.Module]] = {
        "image": lambda: nn.Conv1d(n_features, width, recipe.kernel, padding="same"),  # padding [A]
        "genes": lambda: nn.Linear(n_genes, width),
        "attention": lambda: nn.MultiheadAttention(width, recipe.heads, batch_first=True),
        "head": lambda: nn.ModuleList(  # dense, ReLU, batch norm, dropout, in this order [A]
            [nn.Linear(n_read, width), nn.BatchNorm1d(width), nn.Linear(width, width // 2), nn.BatchNorm1d(width // 2)]
        ),
        "out": lambda: nn.Linear(width // 2, 1),
    }
    with torch.random.fork_rng(devices=[]):
        for number, (name, make) in enumerate(parts.items()):
            torch.manual_seed(1000 * seed + number)  # of its own: the size of one part moves no other
            setattr(network, name, make())
    return cast("nn.Module", network)


def _define_network() -> Any:
    import torch
    from torch import nn

    class PublishedNetwork(nn.Module):
        image: nn.Module
        genes: nn.Module
        attention: nn.MultiheadAttention
        head: nn.ModuleList
        out: nn.Module

        def __init__(self, kind: str, recipe: PublishedRecipe, generator: "Generator") -> None:
            super().__init__()
            self.kind, self.rate, self.generator = kind, recipe.dropout, generator

        def fuse(self, tiles: "Tensor", genes: "Tensor") -> "Tensor":
            seen = torch.relu(self.image(tiles.transpose(1, 2))).transpose(1, 2)  # (batch, n_tiles, width)
            measured = torch.relu(self.genes(genes))  # (batch, width)
            if self.kind == "cross_attention":
                one = measured[:, None]  # (batch, 1, width): the single key and value
                attended, _ = self.attention(seen, one, one)
                return cast("Tensor", attended.mean(dim=1))  # mean over tiles [A]
            fused = torch.cat([seen.mean(dim=1), measured], dim=1)
            if self.kind == "concat":
                return fused
            return seen.mean(dim=1) if self.kind == "image" else measured  # concat_public: `fused` is never read

        def forward(self, tiles: "Tensor", genes: "Tensor") -> "Tensor":
            x = self.fuse(tiles, genes)
            for dense, norm in zip(self.head[::2], self.head[1::2], strict=True):
                x = self.drop(norm(torch.relu(dense(x))))
            return cast("Tensor", self.out(x)[:, 0])

        def drop(self, x: "Tensor") -> "Tensor":
            if not self.training:
                return x
            keep = torch.rand(x.shape, generator=self.generator) >= self.rate
            return x * keep / (1 - self.rate)

    return PublishedNetwork


def stack_tiles(bags: Sequence[np.ndarray], *, n_tiles: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the same number of tiles of every patient.

    Parameters
    ----------
    bags : sequence of ndarray, (n, d)
    n_tiles : int
        Without repetition where the patient has as many.
    rng : numpy Generator

    Returns
    -------
    ndarray, (n_cases, n_tiles, d), float32
    """
    drawn = [bag[np.sort(rng.choice(len(bag), size=n_tiles, replace=len(bag) < n_tiles))] for bag in bags]
    return np.stack(drawn).astype(np.float32)


@dataclass(frozen=True)
class PublishedFit:
    """One trained fold.

    Attributes
    ----------
    network : nn.Module
    centre, scale : ndarray, (n_genes,)
    history : list of dict
        epoch, loss, stopping_loss.
    """

    network: "nn.Module"
    centre: np.ndarray
    scale: np.ndarray
    history: list[dict[str, float]]

    def predict(self, tiles: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Return probabilities of the positive class.

        Parameters
        ----------
        tiles : ndarray, (n, n_tiles, d)
        genes : ndarray, (n, n_genes)
            On the log scale, not scaled.

        Returns
        -------
        ndarray, (n,)
        """
        import torch

        self.network.eval()
        scaled = torch.as_tensor((genes - self.centre) / self.scale, dtype=torch.float32)
        with torch.no_grad():
            logits = self.network(torch.as_tensor(tiles, dtype=torch.float32), scaled)
        return logits.sigmoid().numpy().astype(float)


def fit_published(
    kind: str, tiles: np.ndarray, genes: np.ndarray, y: np.ndarray, *, train: np.ndarray, test: np.ndarray,
    recipe: PublishedRecipe, seed: int,
) -> PublishedFit:  # fmt: skip
    """Train a published network on one fold, with or without its two leaks.

    Parameters
    ----------
    kind : str
    tiles : ndarray, (n, n_tiles, d)
    genes : ndarray, (n, n_genes)
        On the log scale.
    y : ndarray, (n,), 0 or 1
    train, test : ndarray of int
        The test fold is used as far as the recipe's leaks say, and no further.
    recipe : PublishedRecipe
    seed : int

    Returns
    -------
    PublishedFit
    """
    rng = np.random.default_rng(seed)
    fit_on, stop_on = (train, test) if recipe.stopping_leak else _set_aside(train, y, rng)
    seen = genes if recipe.scaler_leak else genes[fit_on]
    centre, scale = seen.mean(axis=0), seen.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    network = build_published(kind, n_features=tiles.shape[2], n_genes=genes.shape[1], recipe=recipe, seed=seed)
    history = _train(network, tiles, (genes - centre) / scale, y, (fit_on, stop_on), recipe, rng)
    return PublishedFit(network, centre, scale, history)


def _set_aside(train: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Part the training cases into four fifths that fit and one that stops, by class."""
    stop = np.concatenate([rng.permutation(train[y[train] == c])[: max(1, (y[train] == c).sum() // 5)] for c in (0, 1)])
    return np.setdiff1d(train, stop), np.sort(stop)


def _train(
    network: "nn.Module", tiles: np.ndarray, genes: np.ndarray, y: np.ndarray, parts: tuple[np.ndarray, np.ndarray],
    recipe: PublishedRecipe, rng: np.random.Generator,
) -> list[dict[str, float]]:  # fmt: skip
    import torch

    x, g, target = (torch.as_tensor(values, dtype=torch.float32) for values in (tiles, genes, y))
    lose = torch.nn.functional.binary_cross_entropy_with_logits
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    best: tuple[float, dict[str, Tensor]] = (np.inf, {})
    history: list[dict[str, float]] = []
    since = 0
    for epoch in range(recipe.max_epochs):
        network.train()
        losses = []
        for batch in _deal(parts[0], recipe.batch_size, rng):
            rows = torch.as_tensor(batch)
            loss = lose(network(x[rows], g[rows]), target[rows]) + recipe.l2 * _penalise(network)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        network.eval()
        with torch.no_grad():
            stopping = float(lose(network(x[parts[1]], g[parts[1]]), target[parts[1]]))
        history.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), "stopping_loss": stopping})
        better = stopping < best[0]
        if better:
            best = (stopping, {name: value.clone() for name, value in network.state_dict().items()})
        since = 0 if better else since + 1
        if since >= recipe.patience:
            break
    if recipe.restore_best:
        network.load_state_dict(best[1])
    return history


def _penalise(network: "nn.Module") -> "Tensor":
    """Sum of squared weights of the head's dense layers."""
    head, out = cast("nn.ModuleList", network.head), cast("nn.Linear", network.out)
    dense = [cast("nn.Linear", head[0]), cast("nn.Linear", head[2]), out]
    return cast("Tensor", sum((layer.weight**2).sum() for layer in dense))


def _deal(rows: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal rows into batches; a last batch of one joins the one before, since batch norm needs two."""
    order = rng.permutation(rows)
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


def predict_published(
    kind: str,
    bags: Sequence[np.ndarray],
    genes: pd.DataFrame,
    labels: pd.Series,
    *,
    recipe: PublishedRecipe,
    target: str = "basal_her2",
    arm: str | None = None,
    without_images: bool = False,
) -> pd.DataFrame:
    """Run the published cross-validation: KFold, shuffled, not stratified, sites not kept.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    bags : sequence of ndarray, (n_tiles, d)
        In the order of `labels`.
    genes : DataFrame, (n_cases, n_genes)
        log2(x + 1), which the scaling makes equal to the published log1p.
    labels : Series of float
        0 or 1 by `case_id`.
    recipe : PublishedRecipe
    target : str
    arm : str, optional
        Name in the table; `as_published_<kind>` otherwise.
    without_images : bool
        Give every patient the same single blank tile. For `cross_attention`, `concat_public` and `genes` that changes
        nothing but the time and the rounding of a mean of equal numbers; for the others it would, and is refused.

    Returns
    -------
    DataFrame
        case_id, split, repeat, fold, target, arm, y_true, y_pred, threshold (0.5).

    Raises
    ------
    ModelError
        When images are left out of a network that reads them.
    """
    from sklearn.model_selection import KFold

    if without_images and kind in {"concat", "image"}:
        msg = f"ModelError: '{kind}' reads the images, so they cannot be left out."
        raise ModelError(msg)
    y, x = labels.to_numpy(float), genes.loc[labels.index].to_numpy(float)
    rng = np.random.default_rng(recipe.seed)
    blank = np.zeros((len(y), 1, 1), np.float32)
    tiles = blank if without_images else stack_tiles(bags, n_tiles=recipe.n_tiles, rng=rng)
    tables = []
    folds = KFold(recipe.n_folds, shuffle=True, random_state=recipe.seed).split(x)
    for fold, (train, test) in enumerate(folds):
        with limit_threads() if without_images else nullcontext():
            fit = fit_published(kind, tiles, x, y, train=train, test=test, recipe=recipe, seed=recipe.seed + fold)
        tables.append(pd.DataFrame({
            "case_id": labels.index[test], "split": "development", "repeat": 0, "fold": fold, "target": target,
            "arm": arm or f"as_published_{kind}", "y_true": y[test], "y_pred": fit.predict(tiles[test], x[test]),
            "threshold": 0.5,
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


LEAKS: Final = {
    "as published": (True, True), "scaler leak only": (True, False), "stopping leak only": (False, True),
    "neither leak": (False, False),
}  # fmt: skip
"""Which leaks are on: (scaler, stopping)."""


def compare_leaks(
    genes: pd.DataFrame, labels: pd.Series, *, recipe: PublishedRecipe, target: str = "basal_her2"
) -> pd.DataFrame:
    """Run the published cross-attention with each leak on and off, on the same folds and from the same weights.

    The network does not see the images, so they are left out, which changes no prediction (a test holds it to that).

    Parameters
    ----------
    genes : DataFrame, (n_cases, n_genes)
    labels : Series of float
    recipe : PublishedRecipe
    target : str

    Returns
    -------
    DataFrame
        Predictions as `predict_published` returns them; `arm` is a key of `LEAKS`.
    """
    tables = [
        predict_published(
            "cross_attention", [], genes, labels, target=target, arm=name, without_images=True,
            recipe=replace(recipe, scaler_leak=scaler, stopping_leak=stopping),
        )
        for name, (scaler, stopping) in LEAKS.items()
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def measure_image_use(
    network: "nn.Module", tiles: np.ndarray, genes: np.ndarray, *, order: np.ndarray
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Ask a network what it does with the images: exchange them between patients, and look at the gradient.

    Parameters
    ----------
    network : nn.Module
        From `build_published`; put into evaluation mode, weights untouched.
    tiles : ndarray, (n, n_tiles, d)
    genes : ndarray, (n, n_genes)
        Scaled.
    order : ndarray, (n,), int
        Whose images each patient gets.

    Returns
    -------
    outputs : DataFrame
        logit, logit_exchanged, logit_noise (images replaced by noise), one row per patient.
    summary : dict of str to float
        largest_change (exchanged), largest_change_noise, image_gradient and gene_gradient: largest absolute gradient
        of the summed outputs with respect to the weights of the branch and to its input.
    """
    import torch

    network.eval()
    x, g = torch.as_tensor(tiles, dtype=torch.float32), torch.as_tensor(genes, dtype=torch.float32)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, exchanged, noisy = (network(images, g).numpy() for images in (x, x[torch.as_tensor(order)], noise))
    x.requires_grad_(True)
    g.requires_grad_(True)
    network.zero_grad(set_to_none=True)
    torch.tanh(network(x, g)).sum().backward()
    inputs = {"image": x.grad, "genes": g.grad}
    gradient = {name: _find_largest(getattr(network, name), inputs[name]) for name in inputs}
    network.zero_grad(set_to_none=True)
    outputs = pd.DataFrame({"logit": plain, "logit_exchanged": exchanged, "logit_noise": noisy})
    return outputs, {
        "largest_change": float(np.abs(exchanged - plain).max()),
        "largest_change_noise": float(np.abs(noisy - plain).max()),
        "image_gradient": gradient["image"], "gene_gradient": gradient["genes"],
    }  # fmt: skip


def _find_largest(branch: "nn.Module", at_input: "Tensor | None") -> float:
    found = [p.grad for p in branch.parameters()] + [at_input]
    return max((float(g.abs().max()) for g in found if g is not None), default=0.0)


def demonstrate_image_use(
    tiles: np.ndarray, genes: np.ndarray, y: np.ndarray, *, recipe: PublishedRecipe, n_steps: int = 20,
    kinds: Sequence[str] = KINDS, rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Train each published network for a few steps and ask what it does with the images.

    Parameters
    ----------
    tiles : ndarray, (n, n_tiles, d)
    genes : ndarray, (n, n_genes)
        Scaled.
    y : ndarray, (n,), 0 or 1
    recipe : PublishedRecipe
    n_steps : int
        Batches; a network that never trained would be no witness.
    kinds : sequence of str
    rng : numpy Generator

    Returns
    -------
    outputs : DataFrame
        kind and the columns of `measure_image_use`.
    summary : DataFrame
        One row per kind: the measures of `measure_image_use`, image_weights_moved and gene_weights_moved (largest
        change of a weight of the branch over the training).
    """
    order = np.roll(rng.permutation(len(y)), 0)
    fixed = order == np.arange(len(y))
    order[fixed] = np.roll(order, 1)[fixed]  # nobody keeps his images, or as few as a draw may leave
    epochs = max(1, int(np.ceil(n_steps * recipe.batch_size / len(y))))
    short = replace(recipe, max_epochs=epochs, patience=epochs, restore_best=False)
    outputs, rows = [], []
    everybody = np.arange(len(y))
    for kind in kinds:
        build = {"n_features": tiles.shape[2], "n_genes": genes.shape[1], "recipe": recipe, "seed": recipe.seed}
        network, start = build_published(kind, **build), build_published(kind, **build)
        _train(network, tiles, genes, y, (everybody, everybody[:2]), short, np.random.default_rng(recipe.seed))
        table, summary = measure_image_use(network, tiles, genes, order=order)
        moved = {f"{name}_weights_moved": _compare_weights(network, start, part) for name, part in _BRANCHES.items()}
        outputs.append(table.assign(kind=kind))
        rows.append({"kind": kind, **summary, **moved})
    return pd.concat(outputs, ignore_index=True), pd.DataFrame(rows)


_BRANCHES = {"image": "image", "gene": "genes"}


def _compare_weights(after: "nn.Module", before: "nn.Module", branch: str) -> float:
    pairs = zip(getattr(after, branch).parameters(), getattr(before, branch).parameters(), strict=True)
    return max(float((a - b).abs().max().detach()) for a, b in pairs)
