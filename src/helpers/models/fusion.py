"""Fusion that uses both: gene groups and tiles look at each other, over residual paths that either can carry alone.

What the published model lacks. Genes enter as one token per group (proliferation, luminal, …), so there is something
to choose from; gene groups attend to tiles and tiles to gene groups, each token keeping what it was; and one modality
is hidden now and then during training, so a case with only one still gets a prediction. Beside the network run
residual paths: a logistic regression per modality. How much each path counts is learnt from held-out predictions
inside the training part, for every pattern of presence; a path that only harms gets weight 0. Without the network that
is *late fusion*.

Inside a training part, inner folds (classes alike, sites whole) choose penalties, stop the training, weigh the paths
and choose the threshold; one network per inner fold trains on the others, all of them at once as batched matrix
products, and they are averaged. The judged fold is no argument of anything here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

import numpy as np

from helpers.core.errors import ModelError
from helpers.models.bags import Bags
from helpers.models.logistic import CrossFitted, Stack, fit_crossed, fit_stack, weigh_classes
from helpers.models.mil import fit_rotation
from helpers.stats.classification import choose_threshold

if TYPE_CHECKING:
    from torch import Tensor

Modality = Literal["image", "genes"]
BOTH: Final[tuple[Modality, ...]] = ("image", "genes")
PATTERNS: Final[tuple[tuple[Modality, ...], ...]] = (BOTH, ("image",), ("genes",))
"""Which modalities a case may have; each pattern has residual weights of its own."""


@dataclass(frozen=True, kw_only=True)
class FusionRecipe:
    """What a network looks like and how it trains; set before a real cohort was looked at.

    Attributes
    ----------
    genes_look, tiles_look : bool
        Gene groups attend to tiles; tiles attend to gene groups.
    concat : bool
        No attention: a hidden layer reads mean tile and gene tokens side by side.
    modalities : tuple of str
        What the arm may see.
    n_components : int
        Principal components of the tiles that the network reads.
    dim : int
        Of tokens.
    dropout, modality_dropout : float
        Of token features; chance that a training case hides its images, and the same for its genes.
    weight_decay, learning_rate : float
        Of AdamW.
    max_epochs, patience, cases_per_step, tiles_per_case, max_tiles : int
        `max_tiles` bounds the tiles of a case that a prediction reads; a larger bag is drawn from, once.
    n_inner : int
    """

    genes_look: bool = True
    tiles_look: bool = True
    concat: bool = False
    modalities: tuple[Modality, ...] = BOTH
    n_components: int = 32
    dim: int = 24
    dropout: float = 0.3
    modality_dropout: float = 0.15
    weight_decay: float = 0.05
    learning_rate: float = 3e-3
    max_epochs: int = 30
    patience: int = 6
    cases_per_step: int = 64
    tiles_per_case: int = 12
    max_tiles: int = 200
    n_inner: int = 4


@dataclass(frozen=True)
class GeneSlots:
    """Where the genes of groups stand: one slot per gene and group, so that groups may overlap.

    Attributes
    ----------
    names : tuple of str
        Of the groups.
    columns : ndarray, (n_slots,), int
        Column of the gene table that each slot reads.
    weights : ndarray, (n_slots, n_groups)
        1 / sqrt(genes of the group) where a slot belongs to it, else 0.
    """

    names: tuple[str, ...]
    columns: np.ndarray
    weights: np.ndarray


def lay_out_genes(groups: Mapping[str, Sequence[str]], genes: Sequence[str]) -> GeneSlots:
    """Lay the genes of groups out in slots.

    Parameters
    ----------
    groups : mapping of str to sequence of str
    genes : sequence of str
        Columns of the gene table.

    Returns
    -------
    GeneSlots

    Raises
    ------
    ModelError
        When a group names a gene that the table lacks.
    """
    place = {gene: i for i, gene in enumerate(genes)}
    lacking = [(name, gene) for name, members in groups.items() for gene in members if gene not in place]
    if lacking or not groups:
        found = (
            f"group '{lacking[0][0]}' names gene '{lacking[0][1]}', which the table lacks" if lacking else "no group"
        )
        msg = f"ModelError: {found}. Match groups and table first (match_groups)."
        raise ModelError(msg)
    columns = [place[gene] for members in groups.values() for gene in members]
    owner = np.repeat(np.arange(len(groups)), [len(members) for members in groups.values()])
    weights = (owner[:, None] == np.arange(len(groups))) / np.sqrt(np.bincount(owner))
    return GeneSlots(tuple(groups), np.array(columns), weights)


@dataclass(frozen=True)
class FusionInputs:
    """The cases of a study, or some of them.

    Attributes
    ----------
    bags : Bags
    genes : ndarray, (n, n_genes)
    """

    bags: Bags
    genes: np.ndarray

    def take(
        self, rows: np.ndarray, *, images_of: np.ndarray | None = None, genes_of: np.ndarray | None = None
    ) -> "FusionInputs":
        """Return some cases, each with the images and genes of itself or of another one.

        Parameters
        ----------
        rows : ndarray, int
        images_of, genes_of : ndarray, (n,), int, optional
            Whose images, or genes, each case of the study has (the permutation controls).

        Returns
        -------
        FusionInputs
        """
        images = rows if images_of is None else images_of[rows]
        genes = rows if genes_of is None else genes_of[rows]
        return FusionInputs(self.bags.take(images), self.genes[genes])

    def pool(self, modalities: Sequence[Modality] = BOTH) -> dict[Modality, np.ndarray]:
        """Return one row per case and modality: mean of the tiles, genes.

        Parameters
        ----------
        modalities : sequence of str

        Returns
        -------
        dict of str to ndarray
        """
        return {name: self.bags.pool("mean") if name == "image" else self.genes for name in modalities}


@dataclass(frozen=True)
class FusionFit:
    """A fitted fusion.

    Attributes
    ----------
    modalities : tuple of str
        What the arm may see.
    linear : dict of str to CrossFitted
        The residual paths, by modality.
    network : Network or None
    stacks : dict of tuple of str to Stack
        For each pattern of presence, how the paths add up: those of its modalities, then the network.
    threshold : float
        Chosen on `inner`.
    inner : ndarray, (n,)
        Logit of each training case by models that did not train on it, everything present.
    """

    modalities: tuple[Modality, ...]
    linear: dict[Modality, CrossFitted]
    network: "Network | None"
    stacks: dict[tuple[Modality, ...], Stack]
    threshold: float
    inner: np.ndarray

    def decide(self, inputs: FusionInputs, *, present: tuple[Modality, ...] | None = None) -> np.ndarray:
        """Return logits.

        Parameters
        ----------
        inputs : FusionInputs
        present : tuple of str, optional
            The modalities that the cases have; all that the arm may see otherwise.

        Returns
        -------
        ndarray, (n,)

        Raises
        ------
        ModelError
            When the arm was not made for these modalities.
        """
        present = self.modalities if present is None else tuple(m for m in BOTH if m in present)
        if present not in self.stacks:
            given = ", ".join(present) or "nothing"
            msg = f"ModelError: an arm of {', '.join(self.modalities)} cannot predict from {given}."
            raise ModelError(msg)
        pooled = inputs.pool([name for name in present if name in self.linear])
        logits = [self.linear[name].model.decide(values) for name, values in pooled.items()]
        if self.network is not None:
            logits.append(self.network.predict(inputs, present).mean(axis=0))
        return self.stacks[present].decide(np.column_stack(logits))

    def predict(self, inputs: FusionInputs, *, present: tuple[Modality, ...] | None = None) -> np.ndarray:
        """Return probabilities of the positive class; see `decide`.

        Parameters
        ----------
        inputs : FusionInputs
        present : tuple of str, optional

        Returns
        -------
        ndarray, (n,)
        """
        return squash(self.decide(inputs, present=present))

    def attend(self, inputs: FusionInputs) -> tuple[np.ndarray, np.ndarray]:
        """Return where the gene groups of one case look, and what each tile adds through each group.

        Parameters
        ----------
        inputs : FusionInputs
            Of one case.

        Returns
        -------
        attention : ndarray, (n_groups, n_tiles)
            Each row sums to 1; averaged over networks.
        contribution : ndarray, (n_groups, n_tiles)
            Attention times what the tile says to the group, in units of the network's logit; averaged over networks.

        Raises
        ------
        ModelError
            When no gene group looks at tiles in this arm, or several cases are given.
        """
        if self.network is None or not self.network.recipe.genes_look or len(inputs.bags) != 1:
            msg = f"ModelError: {len(inputs.bags)} cases, expected one, of an arm whose gene groups look at tiles."
            raise ModelError(msg)
        return self.network.attend(inputs)


def squash(logit: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities.

    Parameters
    ----------
    logit : ndarray

    Returns
    -------
    ndarray
    """
    return cast("np.ndarray", 1 / (1 + np.exp(-np.clip(logit, -30, 30))))


def fit_paths(inputs: FusionInputs, y: np.ndarray, *, folds: np.ndarray) -> dict[Modality, CrossFitted]:
    """Fit the residual paths: a logistic regression of either modality.

    Parameters
    ----------
    inputs : FusionInputs
        Of the training part.
    y : ndarray, (n,), 0 or 1
    folds : ndarray, (n,), int
        Inner folds.

    Returns
    -------
    dict of str to CrossFitted
    """
    return {name: fit_crossed(values, y, folds=folds) for name, values in inputs.pool().items()}


def combine_paths(
    y: np.ndarray,
    *,
    modalities: tuple[Modality, ...],
    linear: Mapping[Modality, CrossFitted],
    network: "Network | None" = None,
) -> FusionFit:
    """Weigh paths by their held-out predictions, for every pattern of presence, and choose the threshold.

    Parameters
    ----------
    y : ndarray, (n,), 0 or 1
    modalities : tuple of str
        What the arm may see.
    linear : mapping of str to CrossFitted
        Those of other modalities are left out; an arm of the network alone has none.
    network : Network, optional
        Trained, on the same cases.

    Returns
    -------
    FusionFit
    """
    linear = {name: linear[name] for name in modalities if name in linear}
    stacks: dict[tuple[Modality, ...], Stack] = {}
    inner = np.zeros(len(y))
    for i, pattern in enumerate(PATTERNS):
        if not set(pattern) <= set(modalities):
            continue
        logits = [linear[name].held_out for name in pattern if name in linear]
        if network is not None:
            logits.append(network.held_out[:, i])
        stacks[pattern] = fit_stack(np.column_stack(logits), y)
        if pattern == modalities:
            inner = stacks[pattern].decide(np.column_stack(logits))
    return FusionFit(modalities, linear, network, stacks, choose_threshold(y, squash(inner)), inner)


def train_network(
    inputs: FusionInputs, y: np.ndarray, *, slots: GeneSlots, recipe: FusionRecipe, folds: np.ndarray, seed: int
) -> "Network":
    """Train the networks of all inner folds at once.

    Parameters
    ----------
    inputs : FusionInputs
        Of the training part.
    y : ndarray, (n,), 0 or 1
    slots : GeneSlots
    recipe : FusionRecipe
    folds : ndarray, (n,), int
        Inner folds: network m trains on all but fold m, and stops by that one.
    seed : int

    Returns
    -------
    Network
        With `held_out` and `history`.
    """
    network = Network.draw(inputs, slots, recipe, n_nets=int(folds.max()) + 1, seed=seed)
    _Training(network, inputs, y, folds, seed).run()
    return network


class Cases(NamedTuple):
    """What a network reads of some cases; a leading axis of networks, or of 1.

    Attributes
    ----------
    tiles : Tensor, (nets, cases, tiles, p)
    mask : Tensor, (nets, cases, tiles), bool; True for real tiles
    slots : Tensor, (nets, cases, n_slots)
    """

    tiles: "Tensor"
    mask: "Tensor"
    slots: "Tensor"


class Network:
    """All networks of a fit: weights with a leading axis of networks, and the scaling of their inputs.

    Parameters
    ----------
    recipe : FusionRecipe
    slots : GeneSlots
    scaling : dict of str to ndarray
        tile_mean (d,), tile_rotation (d, p), gene_mean and gene_scale (n_genes,).
    weights : dict of str to Tensor
    seed : int
        Of the tiles that are drawn from bags larger than `max_tiles`.

    Attributes
    ----------
    held_out : ndarray, (n, n_patterns)
        Logit of each training case by the network that did not train on it, under every pattern of presence.
    history : list of float
        Inner log loss before the first epoch and after each.
    """

    def __init__(
        self,
        recipe: FusionRecipe,
        slots: GeneSlots,
        scaling: dict[str, np.ndarray],
        weights: "dict[str, Tensor]",
        seed: int,
    ) -> None:
        import torch

        self.recipe, self.slots, self.scaling, self.weights, self.seed = recipe, slots, scaling, weights, seed
        self.groups = torch.as_tensor(slots.weights, dtype=torch.float32)
        self.held_out, self.history = np.zeros((0, len(PATTERNS))), []  # type: tuple[np.ndarray, list[float]]

    @classmethod
    def draw(cls, inputs: FusionInputs, slots: GeneSlots, recipe: FusionRecipe, *, n_nets: int, seed: int) -> "Network":
        """Draw the weights of new networks; scaling comes from the cases given.

        Parameters
        ----------
        inputs : FusionInputs
            Of the training part.
        slots : GeneSlots
        recipe : FusionRecipe
        n_nets : int
        seed : int

        Returns
        -------
        Network
        """
        import torch

        mean, rotation = fit_rotation(inputs.bags, n_components=recipe.n_components)
        spread = inputs.genes.std(axis=0)
        scaling = {
            "tile_mean": mean, "tile_rotation": rotation, "gene_mean": inputs.genes.mean(axis=0),
            "gene_scale": np.where(spread > 1e-12, spread, np.inf),
        }  # fmt: skip
        rng = np.random.default_rng([seed, 1])
        p, h, (s, g) = rotation.shape[1], recipe.dim, slots.weights.shape
        inside, last = 1 / np.sqrt(h), 1.0
        shapes: dict[str, tuple[tuple[int, ...], float]] = {
            "tile": ((p, h), 1 / np.sqrt(p)), "tile_bias": ((1, h), 0.3), "gene": ((s, h), 1.0),
            "gene_bias": ((g, h), 0.3), "q": ((h, h), inside), "k": ((h, h), inside), "v": ((h, h), inside),
            "q2": ((h, h), inside), "k2": ((h, h), inside), "v2": ((h, h), inside),
            "hidden": (((g + 1) * h, h), 1 / np.sqrt((g + 1) * h)), "hidden_bias": ((1, h), 0.0),
            "out_gene": ((g, h), last), "out_tile": ((1, h), last), "out_hidden": ((1, h), last),
            "out_bias": ((1, 1), 0.0),
        }  # fmt: skip
        weights = {
            name: torch.tensor(rng.normal(size=(n_nets, *shape)) * sd, dtype=torch.float32, requires_grad=True)
            for name, (shape, sd) in shapes.items()
        }
        return cls(recipe, slots, scaling, weights, seed)

    def scale_tiles(self, tiles: np.ndarray) -> "Tensor":
        """Rotate tiles, (n_tiles, d) to (n_tiles, p)."""
        import torch

        return torch.as_tensor((tiles - self.scaling["tile_mean"]) @ self.scaling["tile_rotation"], dtype=torch.float32)

    def scale_genes(self, genes: np.ndarray) -> "Tensor":
        """Scale genes and lay them out in slots, (n, n_genes) to (n, n_slots)."""
        import torch

        scaled = (genes - self.scaling["gene_mean"]) / self.scaling["gene_scale"]
        return torch.as_tensor(np.clip(scaled, -6, 6)[:, self.slots.columns], dtype=torch.float32)

    def embed_tiles(self, x: "Tensor") -> "Tensor":
        """Tokens (nets, cases, tiles, h) of tiles (nets or 1, cases, tiles, p)."""
        import torch

        w = self.weights
        return torch.tanh(x @ w["tile"][:, None] + w["tile_bias"][:, None])

    def embed_genes(self, slots: "Tensor") -> "Tensor":
        """Tokens (nets, cases, groups, h) of slots (nets or 1, cases, n_slots)."""
        import torch

        spread = self.weights["gene"][:, :, None, :] * self.groups[None, :, :, None]  # (nets, slots, groups, h)
        nets, n_slots, n_groups, h = spread.shape
        tokens = slots @ spread.reshape(nets, n_slots, n_groups * h)
        return torch.tanh(tokens.reshape(nets, -1, n_groups, h) + self.weights["gene_bias"][:, None])

    def look(
        self, asking: "Tensor", asked: "Tensor", names: str, mask: "Tensor | None" = None
    ) -> "tuple[Tensor, Tensor]":
        """Attention (nets, cases, n_asking, n_asked) of tokens to tokens, and the values (nets, cases, n_asked, h)."""
        w, end = self.weights, "" if names == "tiles" else "2"
        q, k, v = asking @ w[f"q{end}"][:, None], asked @ w[f"k{end}"][:, None], asked @ w[f"v{end}"][:, None]
        scores = q @ k.transpose(2, 3) / np.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None, :], -1e9)
        return scores.softmax(dim=-1), v

    def forward(self, cases: Cases, present: "Tensor", keep: "Tensor | float" = 1.0) -> "Tensor":
        """Return logits, (nets, cases).

        Parameters
        ----------
        cases : Cases
        present : Tensor, (nets or 1, cases, 2)
            1 where the image, and the genes, are there; what is missing is read as that of an average case.
        keep : Tensor, (nets, cases, 1, h), or 1
            Dropout of token features.

        Returns
        -------
        Tensor, (nets, cases)
        """
        import torch

        w, recipe, size = self.weights, self.recipe, float(np.sqrt(self.recipe.dim))
        has_image, has_genes = present[..., 0], present[..., 1]
        tiles = self.embed_tiles(cases.tiles * has_image[..., None, None]) * keep  # (nets, cases, tiles, h)
        genes = self.embed_genes(cases.slots * has_genes[..., None]) * keep  # (nets, cases, groups, h)
        real = (cases.mask / cases.mask.sum(dim=-1, keepdim=True))[..., None]  # (nets, cases, tiles, 1)
        if recipe.concat:
            read = torch.cat([(tiles * real).sum(dim=2), genes.flatten(2)], dim=2)
            hidden = torch.relu(read @ w["hidden"] + w["hidden_bias"])
            return (hidden * w["out_hidden"]).sum(dim=-1) / size + w["out_bias"][..., 0]
        seen, told = genes, tiles
        if recipe.genes_look:
            attention, values = self.look(genes, tiles, "tiles", cases.mask)
            seen = genes + attention @ values  # each group keeps what it was, and adds what it saw
        if recipe.tiles_look:
            attention, values = self.look(tiles, genes, "genes")
            told = tiles + attention @ values
        by_group = (seen * w["out_gene"][:, None]).sum(dim=(2, 3)) / (size * np.sqrt(genes.shape[2]))
        by_tile = ((told * real).sum(dim=2) * w["out_tile"]).sum(dim=-1) / size
        return by_group + has_image * by_tile + w["out_bias"][..., 0]

    def lay_out(self, inputs: FusionInputs) -> Cases:
        """Lay cases out with a mask over tiles; of bags larger than `max_tiles` that many are drawn, once.

        Parameters
        ----------
        inputs : FusionInputs

        Returns
        -------
        Cases
            Leading axis 1.
        """
        import torch

        sizes = np.minimum(inputs.bags.sizes, self.recipe.max_tiles)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        tiles = torch.zeros((len(sizes), int(sizes.max()), self.weights["tile"].shape[1]))
        tiles[owner, within] = self.scale_tiles(np.concatenate([bag[self._draw_rows(len(bag))] for bag in inputs.bags]))
        mask = torch.arange(tiles.shape[1])[None] < torch.as_tensor(sizes)[:, None]
        return Cases(tiles[None], mask[None], self.scale_genes(inputs.genes)[None])

    def _draw_rows(self, n: int) -> Any:
        if n <= self.recipe.max_tiles:
            return slice(None)
        return np.random.default_rng([self.seed, 2]).permutation(n)[: self.recipe.max_tiles]

    def predict(self, inputs: FusionInputs, present: tuple[Modality, ...], *, chunk: int = 128) -> np.ndarray:
        """Return the logits of every network, (nets, cases).

        Parameters
        ----------
        inputs : FusionInputs
        present : tuple of str
        chunk : int
            Cases at a time.

        Returns
        -------
        ndarray, (nets, cases)
        """
        import torch

        parts = []
        with torch.no_grad():
            for start in range(0, len(inputs.bags), chunk):
                rows = np.arange(start, min(start + chunk, len(inputs.bags)))
                parts.append(self.forward(self.lay_out(inputs.take(rows)), mark_present(present, len(rows))))
        return torch.cat(parts, dim=1).numpy().astype(float)

    def attend(self, inputs: FusionInputs) -> tuple[np.ndarray, np.ndarray]:
        """Attention of gene groups to the tiles of one case, and each tile's contribution; see `FusionFit.attend`."""
        import torch

        with torch.no_grad():
            x = self.scale_tiles(inputs.bags[0])[None, None]
            tiles, genes = self.embed_tiles(x), self.embed_genes(self.scale_genes(inputs.genes)[None])
            attention, values = self.look(genes, tiles, "tiles")
            size = float(np.sqrt(self.recipe.dim * genes.shape[2]))
            told = torch.einsum("mgh,mcnh->mcgn", self.weights["out_gene"], values) / size
        return attention[:, 0].mean(0).numpy().astype(float), (attention * told)[:, 0].mean(0).numpy().astype(float)


def mark_present(present: Sequence[Modality], n: int) -> "Tensor":
    """Return which modalities n cases have, (1, n, 2)."""
    import torch

    return torch.tensor([float(name in present) for name in BOTH]).expand(1, n, 2)


class _Training:
    """One run: all networks of a fit at once; the best epoch over the inner folds together is kept."""

    def __init__(self, network: Network, inputs: FusionInputs, y: np.ndarray, folds: np.ndarray, seed: int) -> None:
        import torch

        self.network, self.recipe, self.folds = network, network.recipe, folds
        self.n_nets = int(folds.max()) + 1
        self.generator = torch.Generator().manual_seed(seed)
        self.cases = Cases(*(part[0] for part in network.lay_out(inputs)))
        self.sizes = self.cases.mask.sum(dim=1)
        self.y = torch.as_tensor(y, dtype=torch.float32)
        weights, self.shift = weigh_classes(y)
        self.weights = torch.as_tensor(weights, dtype=torch.float32)
        self.train = [torch.as_tensor(np.flatnonzero(folds != m)) for m in range(self.n_nets)]

    def run(self) -> None:
        """Train until the inner log loss has not fallen for `patience` epochs; the network keeps the best weights."""
        import torch

        network, pattern = self.network, self.recipe.modalities
        optimiser = torch.optim.AdamW(
            list(network.weights.values()), lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay
        )
        history = [self.judge(pattern)[0]]
        best, since = (history[0], self.copy()), 0
        for _ in range(self.recipe.max_epochs):
            for batch in self.deal():
                optimiser.zero_grad(set_to_none=True)
                self.lose(batch).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            history.append(self.judge(pattern)[0])
            best, since = ((history[-1], self.copy()), 0) if history[-1] < best[0] else (best, since + 1)
            if since >= self.recipe.patience:
                break
        network.weights, network.history = best[1], history
        network.weights["out_bias"] = network.weights["out_bias"] - self.shift  # the classes' own shares again
        self.shift = 0.0
        network.held_out = np.column_stack([self.judge(pattern)[1] for pattern in PATTERNS])

    def copy(self) -> "dict[str, Tensor]":
        """Return the weights as tensors of their own."""
        return {name: value.detach().clone() for name, value in self.network.weights.items()}

    def deal(self) -> "list[Tensor]":
        """Deal the training cases of each network into steps, (n_nets, cases_per_step) each."""
        import torch

        shortest = min(len(rows) for rows in self.train)
        size = min(self.recipe.cases_per_step, shortest)
        orders = [rows[torch.randperm(len(rows), generator=self.generator)] for rows in self.train]
        return list(torch.stack([order[: shortest // size * size] for order in orders]).split(size, dim=1))

    def lose(self, batch: "Tensor") -> "Tensor":
        """Weighted log loss of a step, with hidden modalities and dropout, summed over networks."""
        import torch

        m, b = batch.shape
        t = self.recipe.tiles_per_case
        drawn = (torch.rand((m, b, t), generator=self.generator) * self.sizes[batch][..., None]).long()
        everything = torch.ones((m, b, t), dtype=torch.bool)
        cases = Cases(self.cases.tiles[batch[..., None], drawn], everything, self.cases.slots[batch])
        keep = torch.rand((m, b, 1, self.recipe.dim), generator=self.generator) >= self.recipe.dropout
        logits = self.network.forward(cases, self.hide(m, b), keep / (1 - self.recipe.dropout))
        lose = torch.nn.functional.binary_cross_entropy_with_logits
        return lose(logits, self.y[batch], self.weights[batch], reduction="none").mean(dim=1).sum()

    def hide(self, m: int, b: int) -> "Tensor":
        """Draw which modalities each training case shows, (m, b, 2): all that the arm may see, or only one."""
        import torch

        if self.recipe.modalities != BOTH:
            return mark_present(self.recipe.modalities, b).expand(m, b, 2)
        chance, rate = torch.rand((m, b), generator=self.generator), self.recipe.modality_dropout
        return torch.stack([chance >= rate, (chance < rate) | (chance >= 2 * rate)], dim=-1).float()

    def judge(self, present: tuple[Modality, ...]) -> tuple[float, np.ndarray]:
        """Log loss, and logits, of all training cases by the networks that did not train on them."""
        import torch

        logits = torch.zeros(len(self.y))
        with torch.no_grad():
            for m in range(self.n_nets):
                rows = torch.as_tensor(np.flatnonzero(self.folds == m))
                one = Network(self.recipe, self.network.slots, self.network.scaling, self._pick(m), self.network.seed)
                cases = Cases(*(part[None, rows] for part in self.cases))
                logits[rows] = one.forward(cases, mark_present(present, len(rows)))[0] - self.shift
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, self.y)
        return float(loss), logits.numpy().astype(float)

    def _pick(self, m: int) -> "dict[str, Tensor]":
        return {name: value[m : m + 1].detach() for name, value in self.network.weights.items()}
