"""Train the embedded encoders on tiles of the training domain: one without labels, one on planted morphology.

`phantom-s` sees two views of the same place, stained, focused, turned and shifted differently, and must find the
partner of each view among all views of a batch. `phantom-s-morphology` must count nuclei, lymphocytes and tumour, and
measure nuclei. Neither is told proliferation or mitoses.

Stain augmentation takes the training slide's own stain vectors out of a tile and puts another pair in, so that colour
says nothing any more; drawn pairs keep their distance from the book's sites (`helpers.phantom.pretraining`).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import ModelError
from helpers.phantom.pretraining import LABEL_PX, LABELS, TrainingTiles, draw_stains

if TYPE_CHECKING:
    from torch import Tensor, nn

ARCHITECTURE: Final = "resnet18"
MODEL_ARGS: Final[dict[str, Any]] = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256)}
"""A ResNet of one basic block per stage: 1.2 million weights, 256 features after the global average."""
MEAN: Final = (0.76, 0.58, 0.74)
SD: Final = (0.16, 0.20, 0.14)
"""Of the input, on a scale of 0 to 1, R, G, B."""

LEAST_PX: Final = 32
"""Smallest input; any larger one works too, since the last map is averaged."""

GLASS: Final = 245.0
N_STAINS: Final = 2048
"""Pairs of stain vectors that a training run draws from."""
STRENGTH_SD: Final = 0.25
"""SD of the log of each stain's factor."""
GLASS_RANGE: Final = (226.0, 250.0)
NOISE_GREY: Final = 5.0
"""Largest SD of the added noise, grey levels."""
TEMPERATURE: Final = 0.15
PROJECTED: Final = 512
"""Width of the projector, which is thrown away after training."""
OBJECTIVES: Final = {
    "phantom-s": "self-supervised: two stained, turned, shifted views of a place find each other in a batch (NT-Xent)",
    "phantom-s-morphology": f"supervised on planted morphology of quarter tiles: {', '.join(LABELS)}",
}
"""What was asked of each encoder."""
CYCLE_SEED: Final = 1000
"""Cycle k of a run draws with seed + 1000 k."""
WEIGHT_DECAY: Final = 1e-4


@dataclass(frozen=True)
class History:
    """What a training run did.

    Attributes
    ----------
    rows : list of dict
        step, loss and its parts, learning rate, seconds.
    images_per_s : float
        Crops per second, forwards and backwards, augmentation included.
    """

    rows: list[dict[str, float]]
    images_per_s: float


def make_network(seed: int) -> "nn.Module":
    """Make the encoder's network with seeded weights.

    Parameters
    ----------
    seed : int

    Returns
    -------
    Module
        (n, 3, H, W), normalised → (n, 256); any H and W of 32 or more.
    """
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, **MODEL_ARGS)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Augmenter:
    """Give a crop another stain, focus, noise and orientation.

    Parameters
    ----------
    stains : ndarray, (n_slides, 2, 3)
        Stain vectors of the training slides (haematoxylin, eosin), which are taken out.
    seed : int
    """

    def __init__(self, stains: NDArray[np.float64], *, seed: int) -> None:
        import torch

        rng = np.random.default_rng(seed)
        pool = np.asarray([draw_stains(rng) for _ in range(N_STAINS)])  # (n, 2, 3)
        self._unmix = torch.from_numpy(np.linalg.pinv(stains)).float()  # (n_slides, 3, 2)
        self._pool = torch.from_numpy(pool).float()
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, crops: "Tensor", slide: "Tensor", *, view: int = 0) -> "Tensor":
        """Augment crops.

        Parameters
        ----------
        crops : Tensor, (n, H, H, 3), uint8
            In random order: the orientation follows the position in the batch.
        slide : Tensor, (n,), int64
            Row of each crop's slide in `stains`.
        view : int
            Views of one batch differ in orientation.

        Returns
        -------
        Tensor, (n, 3, H, H), float32
            Normalised, channels last.
        """
        import torch

        image = self._restain(crops, slide).permute(0, 3, 1, 2)
        image = torch.cat(_turn(list(image.tensor_split(8)), by=3 * view))
        image = self._add_noise(self._defocus(image)).clamp_(0.0, 255.0)
        mean, sd = (torch.tensor(values).view(3, 1, 1) * 255 for values in (MEAN, SD))
        return ((image - mean) / sd).contiguous(memory_format=torch.channels_last)

    def _restain(self, crops: "Tensor", slide: "Tensor") -> "Tensor":
        """Take the slide's stains out and put others in; what no stain explains (noise) is dropped."""
        import torch

        n, height, width, _ = crops.shape
        od = (crops.reshape(n, -1, 3).float().clamp_(4.0, GLASS) / GLASS).log_()  # (n, pixels, 3), negative, natural
        chosen = torch.randint(len(self._pool), (n,), generator=self.generator)
        strength = torch.exp(STRENGTH_SD * torch.randn((n, 1, 2), generator=self.generator))
        mix = (self._unmix[slide] * strength) @ self._pool[chosen]  # (n, 3, 3)
        low, high = GLASS_RANGE
        glass = low + (high - low) * torch.rand((n, 1, 1), generator=self.generator)
        tint = 1.0 + 0.02 * torch.randn((n, 1, 3), generator=self.generator)
        return torch.bmm(od, mix).exp_().mul_(glass * tint).view(n, height, width, 3)

    def _defocus(self, image: "Tensor") -> "Tensor":
        """Mix each crop with its mean over 3 x 3 pixels, by a random share."""
        import torch
        from torch.nn.functional import avg_pool2d

        share = torch.rand((len(image), 1, 1, 1), generator=self.generator)
        return torch.lerp(image, avg_pool2d(image, 3, 1, 1, count_include_pad=False), share)

    def _add_noise(self, image: "Tensor") -> "Tensor":
        import torch

        sd = NOISE_GREY * torch.rand((len(image), 1, 1, 1), generator=self.generator)
        return image.add_(sd * torch.randn((len(image), 1, *image.shape[2:]), generator=self.generator))


def denormalise(batch: "Tensor") -> NDArray[np.uint8]:
    """Turn a network's input back into pictures.

    Parameters
    ----------
    batch : Tensor, (n, 3, H, W), float32

    Returns
    -------
    ndarray, (n, H, W, 3), uint8
    """
    import torch

    mean, sd = (torch.tensor(values).view(3, 1, 1) * 255 for values in (MEAN, SD))
    return (batch * sd + mean).clamp(0, 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _turn(parts: "list[Tensor]", *, by: int) -> "list[Tensor]":
    """Give each eighth of the batch its own of the eight orientations of a square."""
    turned = []
    for number, part in enumerate(parts):
        code = (number + by) % 8
        part = part.rot90(code % 4, (2, 3))
        turned.append(part.flip(3) if code >= 4 else part)
    return turned


def draw_crops(
    tiles: NDArray[np.uint8], rows: NDArray[np.int64], *, crop_px: int, shift_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut two overlapping squares out of each tile.

    Parameters
    ----------
    tiles : ndarray, (n, H, H, 3), uint8
    rows : ndarray, (m,)
        Which tiles.
    crop_px : int
    shift_px : int
        Most that the second lies from the first, along each axis.
    rng : Generator

    Returns
    -------
    first, second : ndarray, (m, crop_px, crop_px, 3), uint8
    """
    room = tiles.shape[1] - crop_px
    one = rng.integers(0, room + 1, (len(rows), 2))
    two = np.clip(one + rng.integers(-shift_px, shift_px + 1, one.shape), 0, room)
    cut = [
        np.stack([tiles[row, y : y + crop_px, x : x + crop_px] for row, (y, x) in zip(rows, corners, strict=True)])
        for corners in (one, two)
    ]
    return cut[0], cut[1]


def compute_contrastive_loss(
    one: "Tensor", two: "Tensor", *, temperature: float = TEMPERATURE
) -> "tuple[Tensor, dict[str, float]]":
    """Ask each view to find its partner among all views of a batch.

    Parameters
    ----------
    one, two : Tensor, (n, d), float32
    temperature : float
        Of the cosine similarities.

    Returns
    -------
    loss : Tensor, scalar
        Cross-entropy, nats; log(2n - 1) where nothing is told apart.
    parts : dict of str to float
        `found`: share of views whose nearest other view is their partner.

    Raises
    ------
    ModelError
        When there are fewer than two rows, or the shapes differ.

    References
    ----------
    Chen, Kornblith, Norouzi and Hinton 2020, arXiv:2002.05709 (NT-Xent).
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    if one.shape != two.shape or len(one) < 2:
        msg = f"ModelError: views of shape {tuple(one.shape)} and {tuple(two.shape)}; expected two equal ones, n >= 2."
        raise ModelError(msg)
    both, n = normalize(torch.cat([one, two]), dim=1), len(one)
    similarity = (both @ both.T / temperature).fill_diagonal_(-torch.inf)  # (2n, 2n)
    partner = torch.arange(2 * n).roll(n)
    found = (similarity.detach().argmax(dim=1) == partner).float().mean()
    return cross_entropy(similarity, partner), {"found": float(found)}


def make_projector(width: int, *, seed: int) -> "nn.Module":
    """Make the head that the contrastive loss sees: two hidden layers, thrown away afterwards.

    Parameters
    ----------
    width : int
        Features of the encoder.
    seed : int

    Returns
    -------
    Module
        (n, width) → (n, `PROJECTED`)
    """
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(width, PROJECTED), nn.BatchNorm1d(PROJECTED), nn.ReLU(),
            nn.Linear(PROJECTED, PROJECTED), nn.BatchNorm1d(PROJECTED), nn.ReLU(),
            nn.Linear(PROJECTED, PROJECTED),
        )  # fmt: skip


def train_self_supervised(
    data: TrainingTiles, *, seed: int, steps: int, cycles: int = 1, batch_size: int = 128, crop_px: int = 80,
    shift_px: int = 10, learning_rate: float = 1e-3, report: Callable[[dict[str, float]], None] | None = None,
) -> "tuple[nn.Module, History]":  # fmt: skip
    """Train `phantom-s` without any label.

    Parameters
    ----------
    data : TrainingTiles
        Labels are not read.
    seed : int
    steps : int
        Of a cycle.
    cycles : int
        Each goes on from the network before it, with a new projector, other crops and a warm restart of the rate.
    batch_size : int
        Places per step; each is seen twice.
    crop_px, shift_px : int
        Size of a view and the largest shift between two.
    learning_rate : float
        Of AdamW; rises over a twentieth of a cycle's steps, then falls along a cosine.
    report : callable, optional
        Gets each row of the history.

    Returns
    -------
    network : Module
        In evaluation mode.
    history : History
    """
    network, done = make_network(seed), []
    for cycle in range(cycles):
        projector = make_projector(MODEL_ARGS["channels"][-1], seed=seed + CYCLE_SEED * cycle + 1)
        compute_loss = _make_contrast(
            network.train(), projector, data, seed=seed + CYCLE_SEED * cycle, batch_size=batch_size, crop_px=crop_px,
            shift_px=shift_px,
        )  # fmt: skip
        parameters = [*network.parameters(), *projector.parameters()]
        done.append(
            _optimise(
                parameters,
                compute_loss,
                steps=steps,
                learning_rate=learning_rate,
                n_images=2 * batch_size,
                report=report,
            )
        )
    return network.eval(), join_histories(done)


def _make_contrast(
    network: "nn.Module", projector: "nn.Module", data: TrainingTiles, *, seed: int, batch_size: int, crop_px: int,
    shift_px: int,
) -> "Callable[[], tuple[Tensor, dict[str, float]]]":  # fmt: skip
    """Return the function that draws a batch and computes its contrastive loss."""
    import torch

    augment, rng = Augmenter(list_stains(data), seed=seed + 2), np.random.default_rng(seed + 3)

    def compute_loss() -> "tuple[Tensor, dict[str, float]]":
        rows = rng.choice(len(data.tiles), batch_size, replace=False)
        crops = draw_crops(data.tiles, rows, crop_px=crop_px, shift_px=shift_px, rng=rng)
        slide = torch.from_numpy(data.slide[rows])
        views = torch.cat([augment(torch.from_numpy(crop), slide, view=view) for view, crop in enumerate(crops)])
        with torch.autocast("cpu", torch.bfloat16):
            described = network(views)
        one, two = projector(described.float()).chunk(2)
        return compute_contrastive_loss(one, two)

    return compute_loss


def join_histories(histories: Sequence[History]) -> History:
    """Join the histories of cycles into one; steps and seconds go on counting.

    Parameters
    ----------
    histories : sequence of History

    Returns
    -------
    History
    """
    rows: list[dict[str, float]] = []
    for history in histories:
        before = rows[-1] if rows else {"step": 0, "seconds": 0.0}
        counted = ("step", "seconds")
        rows += [{**row, **{name: row[name] + before[name] for name in counted}} for row in history.rows]
    images = sum(history.images_per_s * history.rows[-1]["seconds"] for history in histories)
    return History(rows, images / max(1e-9, rows[-1]["seconds"]))


def train_on_morphology(
    data: TrainingTiles, *, seed: int, steps: int, batch_size: int = 128, learning_rate: float = 1e-3,
    report: Callable[[dict[str, float]], None] | None = None,
) -> "tuple[nn.Module, History]":  # fmt: skip
    """Train `phantom-s-morphology` on what was planted in quarters of tiles.

    Parameters
    ----------
    data : TrainingTiles
    seed : int
    steps : int
    batch_size : int
        Quarters per step.
    learning_rate : float
    report : callable, optional

    Returns
    -------
    network : Module
        In evaluation mode; the linear head is thrown away.
    history : History
    """
    import torch

    network, width = make_network(seed), MODEL_ARGS["channels"][-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        head = torch.nn.Sequential(torch.nn.BatchNorm1d(width), torch.nn.Linear(width, len(LABELS)))
    augment, rng = Augmenter(list_stains(data), seed=seed + 2), np.random.default_rng(seed + 3)
    labels = torch.from_numpy(standardise_labels(data.labels))  # (n, 2, 2, 5)

    def compute_loss() -> "tuple[Tensor, dict[str, float]]":
        rows, y, x = rng.integers(len(data.tiles), size=batch_size), *rng.integers(2, size=(2, batch_size))
        crops = np.stack([cut_quarter(data.tiles[r], i, j) for r, i, j in zip(rows, y, x, strict=True)])
        batch = augment(torch.from_numpy(crops), torch.from_numpy(data.slide[rows]), view=int(rng.integers(8)))
        with torch.autocast("cpu", torch.bfloat16):
            described = network(batch)
        return compute_label_loss(head(described.float()), labels[rows, y, x])

    parameters = [*network.parameters(), *head.parameters()]
    history = _optimise(
        parameters, compute_loss, steps=steps, learning_rate=learning_rate, n_images=batch_size, report=report
    )
    return network.eval(), history


def cut_quarter(tile: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    """Return one quarter of a tile.

    Parameters
    ----------
    tile : ndarray, (TILE_PX, TILE_PX, 3), uint8
    row, column : int
        0 or 1.

    Returns
    -------
    ndarray, (LABEL_PX, LABEL_PX, 3), uint8
    """
    return tile[row * LABEL_PX : (row + 1) * LABEL_PX, column * LABEL_PX : (column + 1) * LABEL_PX]


def standardise_labels(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring labels to mean 0 and SD 1; densities by their root first, since counts spread with their mean.

    Parameters
    ----------
    labels : ndarray, (..., 5)
        In the order of `LABELS`; NaN stays NaN.

    Returns
    -------
    ndarray, (..., 5), float32
    """
    values = labels.astype(np.float64)
    for name in ("nuclear_density", "til_density"):
        values[..., LABELS.index(name)] = np.sqrt(values[..., LABELS.index(name)])
    flat = values.reshape(-1, len(LABELS))
    return np.asarray((values - np.nanmean(flat, axis=0)) / np.nanstd(flat, axis=0), np.float32)


def compute_label_loss(predicted: "Tensor", truth: "Tensor") -> "tuple[Tensor, dict[str, float]]":
    """Mean squared error over the labels that are known.

    Parameters
    ----------
    predicted, truth : Tensor, (n, 5)
        NaN in `truth` is unknown.

    Returns
    -------
    loss : Tensor, scalar
        Each label counts alike.
    parts : dict of str to float
        By label.
    """
    import torch

    known = ~torch.isnan(truth)
    error = torch.where(known, predicted - torch.nan_to_num(truth), torch.zeros_like(predicted)).square()
    each = error.sum(dim=0) / known.sum(dim=0).clamp(min=1)
    return each.mean(), {name: float(value) for name, value in zip(LABELS, each.detach(), strict=True)}


def list_stains(data: TrainingTiles) -> NDArray[np.float64]:
    """Return the stain vectors of the training slides.

    Parameters
    ----------
    data : TrainingTiles

    Returns
    -------
    ndarray, (n_slides, 2, 3)
    """
    return np.asarray([[plan.stain_h, plan.stain_e] for plan in data.plans])


def _optimise(
    parameters: "list[Any]", compute_loss: "Callable[[], tuple[Tensor, dict[str, float]]]", *, steps: int,
    learning_rate: float, n_images: int, report: Callable[[dict[str, float]], None] | None,
) -> History:  # fmt: skip
    """Take AdamW steps along a cosine; a loss that is not finite stops the run."""
    import torch

    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=WEIGHT_DECAY)
    warm, rows, began = max(1, steps // 20), [], time.perf_counter()
    for step in range(1, steps + 1):
        share = min(step / warm, 0.5 * (1.0 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm))))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * share
        loss, parts = compute_loss()
        if not torch.isfinite(loss):
            msg = f"ModelError: the loss is {float(loss.detach())} at step {step} of {steps}. Lower the learning rate."
            raise ModelError(msg)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        seconds = time.perf_counter() - began
        rows.append(
            {"step": step, "loss": float(loss.detach()), **parts, "lr": learning_rate * share, "seconds": seconds}
        )
        if report is not None:
            report(rows[-1])
    return History(rows, steps * n_images / max(1e-9, time.perf_counter() - began))
