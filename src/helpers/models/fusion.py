"""Fusion that uses both: gene groups and tiles look at each other, over residual paths that either can carry alone.

What the published model lacks. Genes enter as one token per group (proliferation, luminal, …), so there is something
to choose from; gene groups attend to tiles and tiles to gene groups. Beside the attention run residual paths: a
logistic regression per modality, weighed by held-out inner predictions, which together are *late fusion*. Both are
sums, of tiles and of gene groups, and that is where attention acts first: it says which tiles count, given the genes,
and which gene groups count, given the tiles. It starts with all counting alike, and the other outputs of the network
start at 0, so the first epoch begins at late fusion. During training one modality is hidden now and then, so a case
with only one still gets a prediction, by weights made for that.

Inside a training part, inner folds (classes alike, sites whole) choose penalties, stop the training and choose the
threshold; one network per inner fold trains on the others, all of them at once as batched matrix products, and they
are averaged. The judged fold is no argument of anything here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

import numpy as np

from helpers.core.errors import ModelError
from helpers.models.bags import Bags
from helpers.models.logistic import CrossFitted, LogisticModel, Stack, fit_crossed, fit_stack, weigh_classes
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
    anchored : bool
        Late fusion runs beside the network; otherwise only the share of positives does.
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
    anchored: bool = True
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
class Residual:
    """The residual paths: a logistic regression per modality, and how they add up for each pattern of presence.

    Attributes
    ----------
    linear : dict of str to CrossFitted
    stacks : dict of tuple of str to Stack
    """

    linear: dict[Modality, CrossFitted]
    stacks: dict[tuple[Modality, ...], Stack]

    def decide(self, inputs: Mapping[Modality, np.ndarray]) -> np.ndarray:
        """Return the residual logit of cases under every pattern.

        Parameters
        ----------
        inputs : mapping of str to ndarray, (n, d)
            Pooled features, genes.

        Returns
        -------
        ndarray, (n, n_patterns)
            In the order of `PATTERNS`; NaN where a pattern needs a modality that the arm does not see.
        """
        return self.stack({name: fit.model.decide(inputs[name]) for name, fit in self.linear.items()})

    def stack(self, logits: Mapping[Modality, np.ndarray]) -> np.ndarray:
        """Add the logits of the modalities up under every pattern.

        Parameters
        ----------
        logits : mapping of str to ndarray, (n,)

        Returns
        -------
        ndarray, (n, n_patterns)
        """
        n = len(next(iter(logits.values())))
        found = np.full((n, len(PATTERNS)), np.nan)
        for i, pattern in enumerate(PATTERNS):
            if pattern in self.stacks:
                columns = np.column_stack([logits[name] for name in pattern])
                found[:, i] = self.stacks[pattern].decide(np.clip(columns, -12, 12))
        return found

    @property
    def held_out(self) -> np.ndarray:
        """Residual logits of the training cases by models that did not see them, (n, n_patterns)."""
        return self.stack({name: fit.held_out for name, fit in self.linear.items()})

    def weigh(self, modality: Modality) -> np.ndarray:
        """Weight of a modality's logit under every pattern, (n_patterns,); 0 where it has no part."""
        found = np.zeros(len(PATTERNS))
        for i, pattern in enumerate(PATTERNS):
            if modality in pattern and pattern in self.stacks:
                found[i] = self.stacks[pattern].coefficients[pattern.index(modality)]
        return found

    def split_genes(self, genes: np.ndarray, slots: "GeneSlots", *, held_out: bool = False) -> np.ndarray:
        """Part the logit of the genes into what each group adds; a gene of several groups is shared among them.

        Parameters
        ----------
        genes : ndarray, (n, n_genes)
        slots : GeneSlots
        held_out : bool
            These are the training cases: each by the inner model that did not see it.

        Returns
        -------
        ndarray, (n, n_groups)
            Without the intercept.
        """
        if "genes" not in self.linear:
            return np.zeros((len(genes), len(slots.names)))
        share = slots.weights > 0
        share = share / np.bincount(slots.columns, minlength=genes.shape[1])[slots.columns][:, None]

        def part(model: LogisticModel, rows: np.ndarray) -> np.ndarray:
            terms = (rows - model.mean) / model.scale * model.coefficients
            return cast("np.ndarray", terms[:, slots.columns] @ share)

        return _by_model(self.linear["genes"], genes, part, held_out=held_out)

    def score_tiles(self, tiles: np.ndarray, case: np.ndarray, *, held_out: bool = False) -> np.ndarray:
        """Logit of every tile, whose mean over a case is the case's.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, d)
        case : ndarray, (n_tiles,), int
            Position of the tile's case.
        held_out : bool
            As in `split_genes`.

        Returns
        -------
        ndarray, (n_tiles,)
        """
        if "image" not in self.linear:
            return np.zeros(len(tiles))
        fit = self.linear["image"]
        by_tile = CrossFitted(
            fit.model, fit.inner, fit.folds[case] if held_out else fit.folds, fit.held_out, fit.penalty
        )
        return _by_model(by_tile, tiles, lambda model, rows: model.decide(rows), held_out=held_out)


def _by_model(fit: CrossFitted, rows: np.ndarray, apply: Any, *, held_out: bool) -> np.ndarray:
    """Apply the model to rows, or to each row the inner model whose fold it is in."""
    if not held_out:
        return cast("np.ndarray", apply(fit.model, rows))
    parts = [apply(model, rows) for model in fit.inner]
    return cast("np.ndarray", np.stack(parts)[fit.folds, np.arange(len(rows))])


def fit_residual(inputs: Mapping[Modality, np.ndarray], y: np.ndarray, *, folds: np.ndarray) -> Residual:
    """Fit the logistic regressions of a training part and stack them.

    Parameters
    ----------
    inputs : mapping of str to ndarray, (n, d)
        Of one or both modalities.
    y : ndarray, (n,), 0 or 1
    folds : ndarray, (n,), int
        Inner folds.

    Returns
    -------
    Residual
    """
    linear = {name: fit_crossed(values, y, folds=folds) for name, values in inputs.items()}
    stacks = {
        pattern: fit_stack(np.column_stack([linear[name].held_out for name in pattern]), y)
        for pattern in PATTERNS
        if set(pattern) <= set(linear)
    }
    return Residual(linear, stacks)


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
    recipe : FusionRecipe or None
        None for arms without a network (one modality's regression, late fusion).
    residual : Residual
    modalities : tuple of str
    threshold : float
        Chosen on the inner held-out predictions.
    inner : ndarray, (n,)
        Logit of each training case by networks that did not train on it.
    network : Network or None
    base : float
        Logit of the share of positives, the base where the recipe is not anchored.
    history : list of float
        Inner log loss before the first epoch and after each.
    """

    recipe: FusionRecipe | None
    residual: Residual
    modalities: tuple[Modality, ...]
    threshold: float
    inner: np.ndarray
    network: "Network | None" = None
    base: float = 0.0
    history: tuple[float, ...] = ()

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
        if not present or not set(present) <= set(self.modalities):
            given = ", ".join(present) or "nothing"
            msg = f"ModelError: an arm of {', '.join(self.modalities)} cannot predict from {given}."
            raise ModelError(msg)
        if self.network is None or self.recipe is None:
            return self.residual.decide(inputs.pool(self.modalities))[:, PATTERNS.index(present)]
        anchored = self.recipe.anchored
        base = self.residual.decide(inputs.pool(self.modalities))[:, PATTERNS.index(present)] if anchored else self.base
        return base + self.network.predict(inputs, present, residual=self.residual).mean(axis=0)

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
        return cast("np.ndarray", 1 / (1 + np.exp(-np.clip(self.decide(inputs, present=present), -30, 30))))

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
            Attention times what the tile says to the group, in units of the logit; averaged over networks.

        Raises
        ------
        ModelError
            When no gene group looks at tiles in this arm, or several cases are given.
        """
        if self.network is None or self.recipe is None or not self.recipe.genes_look or len(inputs.bags) != 1:
            msg = f"ModelError: {len(inputs.bags)} cases, expected one, of an arm whose gene groups look at tiles."
            raise ModelError(msg)
        return self.network.attend(inputs)


def fit_linear(
    inputs: FusionInputs, y: np.ndarray, *, modalities: tuple[Modality, ...], folds: np.ndarray
) -> FusionFit:
    """Fit one modality's logistic regression, or late fusion of both.

    Parameters
    ----------
    inputs : FusionInputs
        Of the training part.
    y : ndarray, (n,), 0 or 1
    modalities : tuple of str
    folds : ndarray, (n,), int

    Returns
    -------
    FusionFit
    """
    residual = fit_residual(inputs.pool(modalities), y, folds=folds)
    return wrap_residual(residual, y, modalities=modalities)


def wrap_residual(residual: Residual, y: np.ndarray, *, modalities: tuple[Modality, ...]) -> FusionFit:
    """Make an arm of residual paths that were fitted already.

    Parameters
    ----------
    residual : Residual
        Of these modalities, or of both.
    y : ndarray, (n,), 0 or 1
    modalities : tuple of str

    Returns
    -------
    FusionFit
    """
    part = Residual(
        {name: residual.linear[name] for name in modalities},
        {pattern: stack for pattern, stack in residual.stacks.items() if set(pattern) <= set(modalities)},
    )
    inner = part.held_out[:, PATTERNS.index(modalities)]
    return FusionFit(None, part, modalities, choose_threshold(y, _squash(inner)), inner)


def _squash(logit: np.ndarray) -> np.ndarray:
    return cast("np.ndarray", 1 / (1 + np.exp(-np.clip(logit, -30, 30))))


def fit_fusion(
    inputs: FusionInputs, y: np.ndarray, *, slots: GeneSlots, recipe: FusionRecipe, folds: np.ndarray, seed: int,
    residual: Residual | None = None,
) -> FusionFit:  # fmt: skip
    """Fit a fusion network over its residual paths.

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
    residual : Residual, optional
        Of both modalities, where it was fitted already to the same cases and folds.

    Returns
    -------
    FusionFit
    """
    residual = fit_residual(inputs.pool(recipe.modalities), y, folds=folds) if residual is None else residual
    residual = wrap_residual(residual, y, modalities=recipe.modalities).residual
    _, shift = weigh_classes(y)
    network = Network.draw(inputs, slots, recipe, n_nets=int(folds.max()) + 1, seed=seed)
    training = _Training(network, inputs, y, residual, folds, seed)
    history = training.run()
    threshold = choose_threshold(y, _squash(training.inner))
    return FusionFit(recipe, residual, recipe.modalities, threshold, training.inner, network, -shift, tuple(history))


class Cases(NamedTuple):
    """What a network reads of some cases; a leading axis of networks, or of 1.

    Attributes
    ----------
    tiles : Tensor, (nets, cases, tiles, p)
    mask : Tensor, (nets, cases, tiles), bool; True for real tiles
    slots : Tensor, (nets, cases, n_slots)
    tile_logits : Tensor, (nets, cases, tiles)
        Of the residual path.
    group_logits : Tensor, (nets, cases, n_groups)
    """

    tiles: "Tensor"
    mask: "Tensor"
    slots: "Tensor"
    tile_logits: "Tensor"
    group_logits: "Tensor"


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
        last, even = (0.0, 0.0) if recipe.anchored else (1.0, 1 / np.sqrt(h))
        inside = 1 / np.sqrt(h)
        shapes: dict[str, tuple[tuple[int, ...], float]] = {
            "tile": ((p, h), 1 / np.sqrt(p)), "tile_bias": ((1, h), 0.3), "gene": ((s, h), 1.0),
            "gene_bias": ((g, h), 1.0),
            "q": ((h, h), even), "k": ((h, h), inside), "v": ((h, h), inside),
            "q2": ((h, h), even), "k2": ((h, h), inside), "v2": ((h, h), inside),
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

    def forward(self, cases: Cases, present: "Tensor", weights: "Tensor", keep: "Tensor | float" = 1.0) -> "Tensor":
        """Return what the network adds to the residual logit, (nets, cases).

        Parameters
        ----------
        cases : Cases
        present : Tensor, (nets or 1, cases, 2)
            1 where the image, and the genes, are there; what is missing is read as that of an average case.
        weights : Tensor, (nets or 1, cases, 2)
            Of the image's and the genes' residual logit.
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
        real = cases.mask / cases.mask.sum(dim=-1, keepdim=True)  # (nets, cases, tiles)
        if recipe.concat:
            read = torch.cat([(tiles * real[..., None]).sum(dim=2), genes.flatten(2)], dim=2)
            hidden = torch.relu(read @ w["hidden"] + w["hidden_bias"])
            return cast("Tensor", (hidden * w["out_hidden"]).sum(dim=-1) / size + w["out_bias"][..., 0])
        seen, told, moved = genes, tiles, 0.0
        if recipe.genes_look:
            attention, values = self.look(genes, tiles, "tiles", cases.mask)
            seen = genes + attention @ values
            moved = moved + weights[..., 0] * ((attention.mean(dim=2) - real) * cases.tile_logits).sum(dim=-1)
        if recipe.tiles_look:
            attention, values = self.look(tiles, genes, "genes")
            told = tiles + attention @ values
            counts = (attention * real[..., None]).sum(dim=2) * attention.shape[-1] - 1
            moved = moved + weights[..., 1] * (counts * cases.group_logits).sum(dim=-1)
        by_group = (seen * w["out_gene"][:, None]).sum(dim=(2, 3)) / (size * np.sqrt(genes.shape[2]))
        by_tile = ((told * real[..., None]).sum(dim=2) * w["out_tile"]).sum(dim=-1) / size
        return cast("Tensor", moved + by_group + has_image * by_tile + w["out_bias"][..., 0])

    def lay_out(self, inputs: FusionInputs, residual: Residual, *, held_out: bool = False) -> Cases:
        """Lay cases out with a mask over tiles; of bags larger than `max_tiles` that many are drawn, once.

        Parameters
        ----------
        inputs : FusionInputs
        residual : Residual
        held_out : bool
            These are the training cases: residual logits by models that did not see them.

        Returns
        -------
        Cases
            Leading axis 1.
        """
        import torch

        sizes = np.minimum(inputs.bags.sizes, self.recipe.max_tiles)
        chosen = [bag[self._draw_rows(len(bag))] for bag in inputs.bags]
        owner = np.repeat(np.arange(len(sizes)), sizes)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        together = np.concatenate(chosen)
        tiles = torch.zeros((len(sizes), int(sizes.max()), self.weights["tile"].shape[1]))
        tile_logits = torch.zeros(tiles.shape[:2])
        tiles[owner, within] = self.scale_tiles(together)
        groups = np.zeros((len(sizes), len(self.slots.names)))
        if self.recipe.anchored:
            scores = residual.score_tiles(together, owner, held_out=held_out)
            tile_logits[owner, within] = torch.as_tensor(np.clip(scores, -12, 12), dtype=torch.float32)
            groups = np.clip(residual.split_genes(inputs.genes, self.slots, held_out=held_out), -12, 12)
        mask = torch.arange(tiles.shape[1])[None] < torch.as_tensor(sizes)[:, None]
        group_logits = torch.as_tensor(groups, dtype=torch.float32)
        return Cases(
            tiles[None], mask[None], self.scale_genes(inputs.genes)[None], tile_logits[None], group_logits[None]
        )

    def _draw_rows(self, n: int) -> Any:
        if n <= self.recipe.max_tiles:
            return slice(None)
        return np.random.default_rng([self.seed, 2]).permutation(n)[: self.recipe.max_tiles]

    def weigh(self, residual: Residual) -> np.ndarray:
        """Weights of the image's and the genes' residual logit under every pattern, (n_patterns, 2)."""
        if not self.recipe.anchored:
            return np.zeros((len(PATTERNS), len(BOTH)))
        return np.column_stack([residual.weigh(name) for name in BOTH])

    def predict(
        self, inputs: FusionInputs, present: tuple[Modality, ...], *, residual: Residual, chunk: int = 128
    ) -> np.ndarray:
        """Return what every network adds to the residual logit, (nets, cases).

        Parameters
        ----------
        inputs : FusionInputs
        present : tuple of str
        residual : Residual
        chunk : int
            Cases at a time.

        Returns
        -------
        ndarray, (nets, cases)
        """
        import torch

        parts = []
        there = torch.tensor([float("image" in present), float("genes" in present)])
        weights = torch.as_tensor(self.weigh(residual)[PATTERNS.index(present)], dtype=torch.float32)
        with torch.no_grad():
            for start in range(0, len(inputs.bags), chunk):
                rows = np.arange(start, min(start + chunk, len(inputs.bags)))
                cases, shape = self.lay_out(inputs.take(rows), residual), (1, len(rows), 2)
                parts.append(self.forward(cases, there.expand(shape), weights.expand(shape)))
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


class _Training:
    """One run: all networks of a fit at once; the best epoch over the inner folds together is kept."""

    def __init__(
        self, network: Network, inputs: FusionInputs, y: np.ndarray, residual: Residual, folds: np.ndarray, seed: int
    ) -> None:
        import torch

        self.network, self.recipe, self.folds = network, network.recipe, folds
        self.n_nets = int(folds.max()) + 1
        self.generator = torch.Generator().manual_seed(seed)
        self.cases = Cases(*(part[0] for part in network.lay_out(inputs, residual, held_out=True)))
        self.sizes = self.cases.mask.sum(dim=1)
        self.y = torch.as_tensor(y, dtype=torch.float32)
        weights, shift = weigh_classes(y)
        self.weights, self.shift = torch.as_tensor(weights, dtype=torch.float32), shift
        base = residual.held_out if self.recipe.anchored else np.full((len(y), len(PATTERNS)), -shift)
        self.base = torch.as_tensor(np.nan_to_num(base), dtype=torch.float32)
        self.residual_weights = torch.as_tensor(network.weigh(residual), dtype=torch.float32)
        self.train = [torch.as_tensor(np.flatnonzero(folds != m)) for m in range(self.n_nets)]
        self.inner = np.zeros(len(y))

    def run(self) -> list[float]:
        """Train until the inner log loss has not fallen for `patience` epochs; the network keeps the best weights."""
        import torch

        weights = self.network.weights
        optimiser = torch.optim.AdamW(
            list(weights.values()), lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay
        )
        loss, self.inner = self.judge()
        best, since, history = (loss, self.copy(), self.inner), 0, [loss]
        for _ in range(self.recipe.max_epochs):
            for batch in self.deal():
                optimiser.zero_grad(set_to_none=True)
                self.lose(batch).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            loss, inner = self.judge()
            history.append(loss)
            best, since = ((loss, self.copy(), inner), 0) if loss < best[0] else (best, since + 1)
            if since >= self.recipe.patience:
                break
        self.network.weights, self.inner = best[1], best[2]
        return history

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
        at = (batch[..., None], drawn)
        everything = torch.ones((m, b, t), dtype=torch.bool)
        cases = Cases(
            self.cases.tiles[at],
            everything,
            self.cases.slots[batch],
            self.cases.tile_logits[at],
            self.cases.group_logits[batch],
        )
        pattern = self.hide(m, b)
        present = torch.stack([pattern != 2, pattern != 1], dim=-1).float()
        keep = torch.rand((m, b, 1, self.recipe.dim), generator=self.generator) >= self.recipe.dropout
        keep = keep / (1 - self.recipe.dropout)
        added = self.network.forward(cases, present, self.residual_weights[pattern], keep)
        base = self.base[batch].gather(2, pattern[..., None])[..., 0]
        lose = torch.nn.functional.binary_cross_entropy_with_logits
        return lose(base + added + self.shift, self.y[batch], self.weights[batch], reduction="none").mean(dim=1).sum()

    def hide(self, m: int, b: int) -> "Tensor":
        """Draw which pattern of presence each training case shows, (m, b): 0 both, 1 image only, 2 genes only."""
        import torch

        if self.recipe.modalities != BOTH:
            return torch.full((m, b), PATTERNS.index(self.recipe.modalities))
        chance = torch.rand((m, b), generator=self.generator)
        rate = self.recipe.modality_dropout
        return (chance < 2 * rate).long() + (chance < rate).long()

    def judge(self) -> tuple[float, np.ndarray]:
        """Log loss, and logits, of all training cases by the networks that did not train on them."""
        import torch

        pattern = PATTERNS.index(self.recipe.modalities)
        there = torch.tensor([float("image" in self.recipe.modalities), float("genes" in self.recipe.modalities)])
        logits = torch.zeros(len(self.y))
        with torch.no_grad():
            for m in range(self.n_nets):
                rows = torch.as_tensor(np.flatnonzero(self.folds == m))
                one = Network(self.recipe, self.network.slots, self.network.scaling, self._pick(m), self.network.seed)
                cases = Cases(*(part[None, rows] for part in self.cases))
                shape = (1, len(rows), 2)
                weights = self.residual_weights[pattern].expand(shape)
                logits[rows] = self.base[rows, pattern] + one.forward(cases, there.expand(shape), weights)[0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, self.y)
        return float(loss), logits.numpy().astype(float)

    def _pick(self, m: int) -> "dict[str, Tensor]":
        return {name: value[m : m + 1].detach() for name, value in self.network.weights.items()}
