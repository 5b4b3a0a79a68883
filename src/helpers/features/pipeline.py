"""Keep the device busy: threads decode, networks run elsewhere, and what waits for whom is measured.

On a CPU decoding and networks want the same cores, so every worker thread decodes a batch and runs the network on it
with its share of the cores: no queue, no copy, nobody waits. On accelerators the workers put batches (in pinned memory,
where it is CUDA) into one bounded queue, which lives as long as the cohort; two threads per device take them out, so
that one batch is copied while another is computed. Where a card decodes too, its batches are tensors that already lie
there, and go the same way.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.features.encoders import Encoder, Features, TileContext, Tiles
from helpers.features.networks import TimmNetwork

if TYPE_CHECKING:
    import torch

PER_DEVICE: Final = 2
"""Threads that feed one accelerator."""
WAITING: Final = 4
"""Batches that may wait for each accelerator: the memory that prefetching takes."""


@dataclass
class Throughput:
    """Seconds that decoding, encoding and waiting took, summed over threads; safe to add to from any of them.

    Attributes
    ----------
    n_tiles : int
    decode_s : float
    encode_s : dict of str to float
        By encoder.
    compute_wait_s : float
        That decoding threads waited for accelerators.
    decode_wait_s : float
        That accelerators waited for tiles.
    """

    n_tiles: int = 0
    decode_s: float = 0.0
    encode_s: dict[str, float] = field(default_factory=dict)
    compute_wait_s: float = 0.0
    decode_wait_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(
        self,
        *,
        n_tiles: int = 0,
        decode_s: float = 0.0,
        encode_s: dict[str, float] | None = None,
        compute_wait_s: float = 0.0,
        decode_wait_s: float = 0.0,
    ) -> None:
        """Add what one slide, or one batch on an accelerator, took.

        Parameters
        ----------
        n_tiles : int
        decode_s : float
        encode_s : dict of str to float, optional
        compute_wait_s, decode_wait_s : float
        """
        with self._lock:
            self.n_tiles += n_tiles
            self.decode_s += decode_s
            self.compute_wait_s += compute_wait_s
            self.decode_wait_s += decode_wait_s
            for name, seconds in (encode_s or {}).items():
                self.encode_s[name] = self.encode_s.get(name, 0.0) + seconds

    def to_table(self) -> pd.DataFrame:
        """Return ms per tile and the share of the time of each part.

        Returns
        -------
        DataFrame
            part, seconds, ms_per_tile, share.
        """
        waits = {
            "decoder waits for accelerator": self.compute_wait_s,
            "accelerator waits for tiles": self.decode_wait_s,
        }
        parts = {
            "decode": self.decode_s,
            **{f"encode {name}": value for name, value in self.encode_s.items()},
            **{name: value for name, value in waits.items() if value},
        }
        table = pd.DataFrame({"part": list(parts), "seconds": list(parts.values())})
        table["ms_per_tile"] = 1000 * table["seconds"] / max(1, self.n_tiles)
        total = table["seconds"].sum()
        return table.assign(share=table["seconds"] / total if total else 0.0)


@dataclass
class Order:
    """A batch on its way to an accelerator."""

    encoder: str
    tiles: "Tiles | torch.Tensor"
    done: Future[Features]


class DeviceQueue:
    """Runs networks on accelerators, batch by batch, for threads that decode; a context manager.

    Parameters
    ----------
    replicas : sequence of dict of str to TimmNetwork
        One dict per device, each with every network by name.
    throughput : Throughput
        Is added to.
    """

    def __init__(self, replicas: Sequence[dict[str, TimmNetwork]], throughput: Throughput) -> None:
        self._replicas = replicas
        self._throughput = throughput
        self._orders: queue.Queue[Order | None] = queue.Queue(maxsize=WAITING * max(1, len(replicas)))
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        """Start the threads of every device."""
        for number, networks in enumerate(self._replicas):
            for copy in range(PER_DEVICE):
                name = f"device-{number}-{copy}"
                self._threads.append(threading.Thread(target=self._serve, args=(networks,), name=name, daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the threads end after what is in the queue."""
        for _ in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, encoder: str, tiles: "Tiles | torch.Tensor") -> Future[Features]:
        """Hand a batch over; waits while the queue is full.

        Parameters
        ----------
        encoder : str
            Name of a network.
        tiles : ndarray, (n, H, W, 3), or Tensor, (n, 3, H, W), uint8
            Must stay as it is until the result is there.

        Returns
        -------
        Future of ndarray, (n, d), float32
        """
        order = Order(encoder, tiles, Future())
        self._orders.put(order)
        return order.done

    def _serve(self, networks: dict[str, TimmNetwork]) -> None:
        with use_stream(next(iter(networks.values()))):
            while True:
                began = time.perf_counter()
                order = self._orders.get()
                waited = time.perf_counter() - began
                if order is None:
                    return
                self._answer(networks[order.encoder], order)
                busy = time.perf_counter() - began - waited
                self._throughput.add(decode_wait_s=waited, encode_s={order.encoder: busy})

    def _answer(self, network: TimmNetwork, order: Order) -> None:
        try:
            order.done.set_result(network.encode(order.tiles))
        except Exception as error:  # noqa: BLE001  # the thread that waits for this batch raises it
            order.done.set_exception(error)


@contextmanager
def use_stream(network: TimmNetwork) -> Iterator[None]:
    """Give a thread its own stream of a CUDA device, so that its copies and another's kernels overlap.

    Parameters
    ----------
    network : TimmNetwork

    Yields
    ------
    None
    """
    if network.device.type != "cuda":
        yield
        return
    import torch

    with torch.cuda.device(network.device), torch.cuda.stream(torch.cuda.Stream(network.device)):
        yield


class Feeder:
    """What a decoding thread needs: memory for its batches, and somewhere to send them.

    Parameters
    ----------
    throughput : Throughput
    devices : DeviceQueue, optional
        Where networks run; without one every encoder runs in the thread that decodes.
    pinned : bool
        Whether batches lie in pinned memory, which CUDA copies without the CPU.
    decoder : torch.device, optional
        Where the slides' own tiles are decoded; by default here, on the CPU.
    """

    def __init__(
        self,
        throughput: Throughput,
        *,
        devices: DeviceQueue | None = None,
        pinned: bool = False,
        decoder: "torch.device | None" = None,
    ) -> None:
        self.throughput = throughput
        self.decoder = decoder
        self._devices = devices
        self._pinned = pinned
        self._own = threading.local()

    def lend(self, shape: tuple[int, int, int, int]) -> Tiles:
        """Return memory for a batch.

        Parameters
        ----------
        shape : tuple of 4 ints
            (n, H, W, 3).

        Returns
        -------
        ndarray, uint8
            Without accelerators the same memory again and again: it must be done with before the next is asked for.
        """
        if self._devices is not None:
            return self._lend_pinned(shape) if self._pinned else np.empty(shape, np.uint8)
        room: NDArray[np.uint8] | None = getattr(self._own, "room", None)
        n_bytes = int(np.prod(shape))
        if room is None or room.size < n_bytes:
            room = self._own.room = np.empty(n_bytes, np.uint8)
        return room[:n_bytes].reshape(shape)

    @staticmethod
    def _lend_pinned(shape: tuple[int, ...]) -> Tiles:
        import torch

        return np.asarray(torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy(), dtype=np.uint8)

    def start(self, encoder: Encoder, tiles: "Tiles | torch.Tensor", context: TileContext) -> Callable[[], Features]:
        """Begin to encode a batch.

        Parameters
        ----------
        encoder : Encoder
        tiles : ndarray, (n, H, W, 3), or Tensor, (n, 3, H, W), uint8
            A tensor is for networks only.
        context : TileContext

        Returns
        -------
        callable
            Gives the features, (n, d), when asked; waits for them if need be.
        """
        if self._devices is not None and isinstance(encoder, TimmNetwork):
            began = time.perf_counter()
            promise = self._devices.submit(encoder.name, tiles)
            self.throughput.add(compute_wait_s=time.perf_counter() - began)
            return lambda: self._wait(promise)
        began = time.perf_counter()
        found = encoder.encode(tiles, context)  # type: ignore[arg-type]  # a descriptor is never given a tensor
        self.throughput.add(encode_s={encoder.name: time.perf_counter() - began})
        return lambda: found

    def _wait(self, promise: Future[Features]) -> Features:
        began = time.perf_counter()
        found = promise.result()
        self.throughput.add(compute_wait_s=time.perf_counter() - began)
        return found


@contextmanager
def open_feeder(
    encoders: Sequence[Encoder],
    throughput: Throughput,
    *,
    devices: Sequence[Any],
    decoder: "torch.device | None" = None,
) -> Iterator[Feeder]:
    """Open the way from decoding threads to where networks run, for the length of a cohort.

    Parameters
    ----------
    encoders : sequence of Encoder
    throughput : Throughput
    devices : sequence of torch.device
        Accelerators for the networks; empty where everything runs on the CPU.
    decoder : torch.device, optional
        Where the slides' own tiles are decoded; by default on the CPU.

    Yields
    ------
    Feeder
    """
    networks = [encoder for encoder in encoders if isinstance(encoder, TimmNetwork)]
    if not networks or not devices:
        yield Feeder(throughput, decoder=decoder)
        return
    replicas = [{network.name: network.copy_to(device) for network in networks} for device in devices]
    with DeviceQueue(replicas, throughput) as served:
        yield Feeder(throughput, devices=served, pinned=devices[0].type == "cuda", decoder=decoder)


@contextmanager
def share_cores(workers: int | None) -> Iterator[Callable[[], None]]:
    """Let each of several threads run networks on its share of the cores, for the length of a `with` block.

    Two networks of one thread each do more than one network of two threads that also wait for each other.

    Parameters
    ----------
    workers : int or None
        Threads; None where no network runs, so that torch is not even imported.

    Yields
    ------
    callable
        To be called in each thread before it works.
    """
    if workers is None:
        yield lambda: None
        return
    import torch

    before = torch.get_num_threads()
    own = max(1, before // workers)
    try:
        yield lambda: torch.set_num_threads(own)
    finally:
        torch.set_num_threads(before)
