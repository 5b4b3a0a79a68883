"""The way from decoding threads to devices: same numbers, bounded memory, failures that reach whoever waits."""

import threading
from pathlib import Path

import numpy as np
import pytest

from helpers.core.errors import RunError
from helpers.features import pipeline
from helpers.features.encoders import MeanColour, TileContext, make_encoder
from helpers.features.networks import TimmNetwork
from helpers.features.pipeline import DeviceQueue, Feeder, Throughput, open_feeder, share_cores

CONTEXT = TileContext(slide_id="S-1", um_per_px=0.5, stain=None)
BATCHES = [np.random.default_rng(seed).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8) for seed in range(12)]


@pytest.fixture(scope="module")
def network() -> TimmNetwork:
    """A network on the CPU, which stands for any device."""
    made = make_encoder("random_resnet18", device="cpu")
    assert isinstance(made, TimmNetwork)
    return made


def test_batches_come_back_to_whoever_sent_them(network: TimmNetwork) -> None:
    expected = [network.encode(tiles) for tiles in BATCHES]
    throughput = Throughput()
    with DeviceQueue([{network.name: network}] * 2, throughput) as devices:
        feeder = Feeder(throughput, devices=devices)
        waiting = [feeder.start(network, tiles, CONTEXT) for tiles in BATCHES]
        found = [finish() for finish in waiting]
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))
    assert throughput.encode_s[network.name] > 0
    assert set(throughput.to_table()["part"]) >= {"decode", "encode random_resnet18"}


def test_no_more_batches_wait_than_memory_is_granted(network: TimmNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()
    taken: list[int] = []

    def encode(self: TimmNetwork, tiles: np.ndarray, context: object = None) -> np.ndarray:
        going.wait(10)
        return np.zeros((len(tiles), 1), np.float32)

    monkeypatch.setattr(TimmNetwork, "encode", encode)
    with DeviceQueue([{network.name: network}], Throughput()) as devices:

        def send() -> None:
            for number, tiles in enumerate(BATCHES):
                devices.submit(network.name, tiles)
                taken.append(number)

        sender = threading.Thread(target=send)
        sender.start()
        sender.join(timeout=1.0)
        most = pipeline.WAITING + pipeline.PER_DEVICE
        assert sender.is_alive(), "a decoder did not wait for a device that was busy"
        assert len(taken) <= most < len(BATCHES)
        going.set()
        sender.join(timeout=20)
    assert len(taken) == len(BATCHES)


def test_a_device_that_fails_is_the_error_of_every_slide_that_waits(
    network: TimmNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: TimmNetwork, tiles: np.ndarray, context: object = None) -> np.ndarray:
        msg = "RunError: device cuda:0 failed"
        raise RunError(msg)

    monkeypatch.setattr(TimmNetwork, "encode", fail)
    with DeviceQueue([{network.name: network}], Throughput()) as devices:
        waiting = [devices.submit(network.name, tiles) for tiles in BATCHES]
        for one in waiting:
            with pytest.raises(RunError, match="cuda:0 failed"):
                one.result(timeout=10)


def test_without_accelerators_a_thread_uses_its_memory_again() -> None:
    feeder = Feeder(Throughput())
    first, second = feeder.lend((4, 8, 8, 3)), feeder.lend((2, 8, 8, 3))
    assert np.shares_memory(first, second)
    found = []
    thread = threading.Thread(target=lambda: found.append(feeder.lend((4, 8, 8, 3))))
    thread.start()
    thread.join()
    assert not np.shares_memory(first, found[0]), "two threads write into one batch"


def test_descriptors_stay_in_the_thread_that_decodes(network: TimmNetwork) -> None:
    throughput = Throughput()
    with open_feeder([MeanColour(), network], throughput, devices=[network.device]) as feeder:
        finish = feeder.start(MeanColour(), BATCHES[0], CONTEXT)
        assert np.array_equal(finish(), MeanColour().encode(BATCHES[0], CONTEXT))
        assert np.allclose(feeder.start(network, BATCHES[0], CONTEXT)(), network.encode(BATCHES[0]), atol=1e-5)


def test_cores_are_shared_among_threads_and_given_back() -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        found = []

        def look(share: object) -> None:
            share()
            found.append(torch.get_num_threads())

        with share_cores(2) as share:
            threads = [threading.Thread(target=look, args=(share,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert found == [2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_the_identity_says_what_runs(tmp_path: Path, network: TimmNetwork) -> None:
    copy = network.copy_to(network.device)
    assert copy is network
    assert network.identity["precision"] == "float32"
