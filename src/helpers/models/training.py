"""Train a network on tiles with the label of their case; interrupt it anywhere, and it continues to the same bits.

The recipe of METHODS.md, system 4, tag [G] (`group_proxy`): weak labels, slides drawn by log(n_tiles + 1), MSE,
Nesterov or Adam, early stopping on cases of the training part. Every step draws from a stream of its own (seed, fold,
step), so the position in training is one number; a checkpoint holds it with weights, optimiser and the best epoch.
On several devices of one machine each process takes its part of every batch (torch's DistributedDataParallel).
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from helpers.core import paths
from helpers.core.errors import ModelError
from helpers.core.specs import EndToEndSpec
from helpers.features.networks import choose_precision
from helpers.models.augment import Augmenter, Draws, make_augmenter
from helpers.models.cnn import FittedNetwork, build_regressor, open_autocast, read_normalisation, run_network
from helpers.models.pooling import pool_tile_scores
from helpers.models.tilebank import TileBank, draw_tiles

if TYPE_CHECKING:
    import torch
    from torch import nn

SCORING_BATCH: Final = 64
State = dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """An optimiser and how its rate changes.

    Attributes
    ----------
    rate : float
        Learning rate.
    decay : float
        Factor per epoch; 1 leaves it.
    cosine : bool
        Rises over a tenth of the steps, then falls along a cosine.
    weight_decay : float
    """

    rate: float
    decay: float = 1.0
    cosine: bool = False
    weight_decay: float = 0.0


PRESETS: Final = {
    "sgd_nesterov": Preset(1e-3, decay=0.9),  # [G]
    "adam": Preset(1e-5),  # [A]
    "adamw": Preset(5e-4, cosine=True, weight_decay=0.05),  # ours: for few tiles
}
"""By name; tags as in METHODS.md."""


def compute_rate(spec: EndToEndSpec, step: int, *, steps_per_epoch: int) -> float:
    """Return the learning rate of a step.

    Parameters
    ----------
    spec : EndToEndSpec
    step : int
        From 0.
    steps_per_epoch : int

    Returns
    -------
    float
    """
    preset = PRESETS[spec.optimiser]
    rate, total = spec.learning_rate or preset.rate, spec.epochs * steps_per_epoch
    if preset.cosine:
        rise = max(1, total // 10)
        share = (step - rise) / max(1, total - rise)
        return rate * ((step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * share)))
    return float(rate * preset.decay ** (step // steps_per_epoch))


def make_optimiser(network: "nn.Module", spec: EndToEndSpec) -> "torch.optim.Optimizer":
    """Make the optimiser of a preset.

    Parameters
    ----------
    network : nn.Module
    spec : EndToEndSpec

    Returns
    -------
    torch.optim.Optimizer
    """
    import torch

    preset = PRESETS[spec.optimiser]
    rate, parameters = spec.learning_rate or preset.rate, list(network.parameters())
    if spec.optimiser == "sgd_nesterov":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=preset.weight_decay)
    kind = torch.optim.Adam if spec.optimiser == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, weight_decay=preset.weight_decay)


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """One fit: everything that a process needs for it.

    Attributes
    ----------
    spec : EndToEndSpec
    bank : TileBank
    train, validation : ndarray, (n,), int
        Slides that train, and slides whose error decides when to stop; positions in the bank.
    labels : ndarray, (n_slides, k)
        Scaled targets of every slide that trains or validates; NaN for all others.
    fold : int
    key : str
        What a checkpoint must bear to be continued.
    checkpoint : Path
    """

    spec: EndToEndSpec
    bank: TileBank
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    labels: NDArray[np.float64]
    fold: int
    key: str
    checkpoint: Path

    @property
    def n_targets(self) -> int:
        """Outputs of the network."""
        return int(self.labels.shape[1])

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return max(1, self.spec.tiles_per_epoch // self.spec.batch_size)

    def seed_step(self, step: int) -> list[int]:
        """Return the seed of a step's draws; step -1 is the weights'."""
        return [self.spec.seed, self.fold, step + 1]


@dataclass(frozen=True)
class ReadyBatch:
    """What one process needs for one step: slides, decoded tiles, what was drawn for them, the seed of the dropout."""

    slides: NDArray[np.int64]
    tiles: NDArray[np.uint8]
    draws: Draws
    dropout_seed: int


class Report(Protocol):
    """Gets each epoch's row, and may raise to stop."""

    def __call__(self, row: dict[str, float]) -> None:
        """Take a row: epoch, loss, validation, rate, seconds."""


class Trainer:
    """Runs a job in one process of `world`.

    Parameters
    ----------
    job : FitJob
    device : torch.device
    rank, world : int
        This process, and how many there are; each takes its part of every batch.
    report : callable, optional
    """

    def __init__(
        self, job: FitJob, *, device: "torch.device", rank: int = 0, world: int = 1, report: Report | None = None
    ) -> None:
        import torch

        spec = job.spec
        if spec.batch_size % world:
            msg = f"ModelError: batch_size {spec.batch_size} cannot be dealt to {world} devices evenly. Use a multiple."
            raise ModelError(msg)
        self.job, self.device, self.rank, self.world, self.report = job, device, rank, world, report
        seed = int(np.random.SeedSequence(job.seed_step(-1)).generate_state(1)[0])
        network = build_regressor(
            spec.architecture, n_targets=job.n_targets, model_args=spec.model_args, dropout=spec.dropout, seed=seed,
            weights=spec.weights and paths.resolve(spec.weights),
        )  # fmt: skip
        self.network = network.to(device)
        self.optimiser = make_optimiser(self.network, spec)
        self.augmenter = make_job_augmenter(job, network)
        self.precision = choose_precision(spec.precision, device)
        self.model: nn.Module = self.network
        if world > 1:
            if device.type == "cuda":
                self.network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
                self.optimiser = make_optimiser(self.network, spec)
            self.model = torch.nn.parallel.DistributedDataParallel(self.network)
        self.step, self.losses, self.history = 0, [], []  # type: tuple[int, list[float], list[dict[str, float]]]
        self.best: State = {}
        self.best_loss, self.best_epoch, self.done = math.inf, 0, False
        self._decoder = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[ReadyBatch]] | None = None

    def run(self) -> None:
        """Train to the end, from the checkpoint where there is one that fits."""
        import torch

        self._load()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            while not self.done:
                began = time.perf_counter()
                self.model.train()
                while True:
                    self.losses.append(self._take_step())
                    if self.step % self.job.steps_per_epoch == 0:
                        break
                self._end_epoch(time.perf_counter() - began)
        self._decoder.shutdown()
        self.network.load_state_dict(self.best)
        self.network.eval()

    def _take_step(self) -> float:
        """Run one batch and step; returns the loss of this process's part."""
        import torch

        job, spec = self.job, self.job.spec
        ready = self._fetch()
        torch.manual_seed(ready.dropout_seed + self.rank)
        batch = self.augmenter.augment(ready.tiles, ready.draws, device=self.device)
        labels = torch.from_numpy(job.labels[ready.slides]).float().to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = compute_rate(spec, self.step, steps_per_epoch=job.steps_per_epoch)
        with open_autocast(self.device, self.precision):
            predicted = self.model(batch)
        loss = torch.nn.functional.mse_loss(predicted.float(), labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def _fetch(self) -> "ReadyBatch":
        """Return this step's batch; begin to decode the next one of the epoch while the device works."""
        number, future = self._ahead or (-1, None)
        ready = future.result() if future is not None and number == self.step else self._prepare(self.step)
        last = (self.step + 1) % self.job.steps_per_epoch == 0
        self._ahead = None if last else (self.step + 1, self._decoder.submit(self._prepare, self.step + 1))
        return ready

    def _prepare(self, step: int) -> "ReadyBatch":
        """Draw a batch for all processes, and decode the part of this one."""
        job, n_own = self.job, self.job.spec.batch_size // self.world
        rng = np.random.default_rng(job.seed_step(step))
        within, tiles = draw_tiles(job.bank.n_tiles[job.train], job.spec.batch_size, rng=rng)
        draws, seed = self.augmenter.draw(job.train[within], rng=rng), int(rng.integers(2**31))
        own = slice(self.rank * n_own, (self.rank + 1) * n_own)
        slides = job.train[within][own]
        return ReadyBatch(slides, job.bank.read(slides, tiles[own]), draws.take(own), seed)

    def _end_epoch(self, seconds: float) -> None:
        job, spec = self.job, self.job.spec
        epoch = self.step // job.steps_per_epoch
        loss = self._validate()
        if not math.isfinite(loss):
            msg = f"ModelError: fold {job.fold}: the loss is {loss} in epoch {epoch}. Lower learning_rate."
            raise ModelError(msg)
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            self.best = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        self.done = epoch >= spec.epochs or epoch - self.best_epoch >= spec.patience
        rate = compute_rate(spec, self.step - 1, steps_per_epoch=job.steps_per_epoch)
        row = {"epoch": epoch, "loss": float(np.mean(self.losses)), "validation": loss, "rate": rate}
        self.losses = []
        self.history.append({**row, "seconds": round(seconds, 2)})
        self._save()
        if self.report is not None and self.rank == 0:
            self.report(self.history[-1])

    def _validate(self) -> float:
        """Mean squared error of the validation cases' scores; the first process computes it for all."""
        import torch

        loss = 0.0
        if self.rank == 0:
            self.network.eval()
            loss = compute_validation_loss(self.job, self._score, self.job.spec.aggregation)
        if self.world > 1:
            shared = torch.tensor([loss], dtype=torch.float64, device=self.device)
            torch.distributed.broadcast(shared, src=0)
            loss = float(shared)
        return loss

    def _score(self, slide: int) -> NDArray[np.float64]:
        return score_slide(
            self.network, self.job.bank, slide, self.augmenter, device=self.device, precision=self.precision
        )

    def _save(self) -> None:
        if self.rank:
            return
        state = {
            "key": self.job.key, "step": self.step, "history": self.history, "best": self.best,
            "best_loss": self.best_loss, "best_epoch": self.best_epoch, "done": self.done,
            "network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        import torch

        self.job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with paths.atomic_write(self.job.checkpoint) as temporary:
            torch.save(state, temporary)

    def _load(self) -> None:
        state = read_checkpoint(self.job.checkpoint, self.job.key)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.history, self.done = state["step"], state["history"], state["done"]
        self.best, self.best_loss, self.best_epoch = state["best"], state["best_loss"], state["best_epoch"]


def read_checkpoint(path: Path, key: str) -> State | None:
    """Read a checkpoint that belongs to this job; tensors and plain values only, no pickled code is run.

    Parameters
    ----------
    path : Path
    key : str

    Returns
    -------
    dict or None
        None where there is none, or one of another job, which is said.
    """
    import torch

    if not path.is_file():
        return None
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    if state["key"] != key:
        print(f"{path.name}: a checkpoint of other data or parameters lies there; training starts anew")
        return None
    return state


def make_job_augmenter(job: FitJob, network: "nn.Sequential") -> Augmenter:
    """Make the augmentation that a spec asks for, with the normalisation of a network.

    Parameters
    ----------
    job : FitJob
    network : nn.Sequential

    Returns
    -------
    Augmenter
    """
    spec = job.spec
    return make_augmenter(
        job.bank, method=spec.stain_augmentation, strength=spec.stain_strength, crop_px=spec.crop_px,
        input_px=spec.input_px, **read_normalisation(network),
    )  # fmt: skip


def score_slide(
    network: "nn.Module", bank: TileBank, slide: int, augmenter: Augmenter, *, device: "torch.device", precision: str
) -> NDArray[np.float64]:
    """Run a network on all tiles of a slide that may be drawn.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    bank : TileBank
    slide : int
    augmenter : Augmenter
    device : torch.device
    precision : str

    Returns
    -------
    ndarray, (n_tiles, k)
        As the network gives it, scaled.
    """
    parts = []
    for start in range(0, int(bank.n_tiles[slide]), SCORING_BATCH):
        rows = np.arange(start, min(start + SCORING_BATCH, int(bank.n_tiles[slide])))
        batch = augmenter.prepare(bank.read(np.full(len(rows), slide), rows), device=device)
        parts.append(run_network(network, batch, precision=precision))
    return np.concatenate(parts)


def compute_validation_loss(job: FitJob, score: Callable[[int], NDArray[np.float64]], aggregation: str) -> float:
    """Return the mean squared error of validation cases, whose tiles are pooled as they will be for a test case.

    Parameters
    ----------
    job : FitJob
    score : callable
        Slide to tile scores, (n_tiles, k).
    aggregation : str

    Returns
    -------
    float
    """
    errors = []
    for case in np.unique(job.bank.cases[job.validation]):
        slides = job.validation[job.bank.cases[job.validation] == case]
        bag = np.concatenate([score(int(slide)) for slide in slides])
        pooled = [pool_tile_scores(bag[:, target], aggregation=aggregation) for target in range(job.n_targets)]
        errors.append((np.asarray(pooled) - job.labels[slides[0]]) ** 2)
    return float(np.mean(errors))


def fit_job(job: FitJob, *, devices: "Sequence[torch.device]", report: Report | None = None) -> Trainer:
    """Train on one device, or on several of this machine with one process each.

    Parameters
    ----------
    job : FitJob
    devices : sequence of torch.device
    report : callable, optional
        Gets each epoch's row; with several devices after the training.

    Returns
    -------
    Trainer
        Whose `network` is trained and in evaluation mode.
    """
    if len(devices) > 1:
        import torch.multiprocessing as processes

        processes.spawn(  # type: ignore[no-untyped-call]
            _serve, args=(job, [str(device) for device in devices], _find_port()), nprocs=len(devices)
        )
    trainer = Trainer(job, device=devices[0], report=report)
    trainer.run()  # after several processes: finds their last checkpoint, and is done
    return trainer


def _find_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(rank: int, job: FitJob, devices: list[str], port: int) -> None:
    """One process of several."""
    import torch

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = torch.device(devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(devices)))
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, rank=rank, world_size=len(devices))
    try:
        Trainer(job, device=device, rank=rank, world=len(devices)).run()
    finally:
        torch.distributed.destroy_process_group()


def to_fitted(trainer: Trainer, *, centre: NDArray[np.float64], scale: NDArray[np.float64]) -> FittedNetwork:
    """Return what a trainer made, with the scaling of its targets.

    Parameters
    ----------
    trainer : Trainer
    centre, scale : ndarray, (k,)

    Returns
    -------
    FittedNetwork
    """
    job = trainer.job
    seen = np.unique(job.bank.cases[np.concatenate([job.train, job.validation])])
    return FittedNetwork(
        network=trainer.network, centre=centre, scale=scale, targets=tuple(job.spec.targets), fold=job.fold,
        seen=tuple(seen.tolist()), history=trainer.history, best_epoch=trainer.best_epoch,
    )  # fmt: skip
