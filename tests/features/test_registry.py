"""The registry: every line is whole, and every architecture runs from a local file of weights."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from helpers.features.encoders import make_encoder
from helpers.features.networks import create_architecture
from helpers.features.registry import REGISTRY, describe_entry
from helpers.features.weights import describe_all

TRAINED = [entry for entry in REGISTRY.values() if entry.needs_weights and entry.kind != "embedded"]
LARGE = {"uni2_h", "virchow", "virchow2", "h_optimus_0", "h_optimus_1", "gigapath"}
MILLIONS = {
    "resnet18": 11.2, "resnet50": 23.5, "inception_v3": 21.8, "dinov2_vits14": 21.6, "dinov2_vitb14": 85.7, "phikon": 85.8,
    "lunit_dino_s16": 21.7, "uni": 303.4, "uni2_h": 681.4, "virchow": 631.2, "virchow2": 631.2, "h_optimus_0": 1134.8,
    "h_optimus_1": 1134.8, "gigapath": 1134.9,
}  # fmt: skip


def test_every_line_says_what_its_weights_cost() -> None:
    for entry in TRAINED:
        assert entry.hub.count("/") == 1, entry.name
        assert min(len(entry.licence), len(entry.source)) > 3, entry.name
        assert (entry.mpp is not None) == (entry.kind == "foundation"), entry.name
    text = describe_all()
    for entry in REGISTRY.values():
        assert entry.name in text
        assert set(describe_entry(entry)) == set(describe_entry(REGISTRY["uni"]))


@pytest.mark.parametrize("entry", TRAINED, ids=lambda entry: entry.name)
def test_the_architecture_has_the_size_its_authors_state(entry) -> None:
    import torch

    with torch.device("meta"):
        network = create_architecture(entry)
    millions = sum(weight.numel() for weight in network.parameters()) / 1e6
    assert millions == pytest.approx(MILLIONS[entry.name], rel=0.01)


def write_random_weights(entry, path: Path) -> None:
    """Write weights of half precision block by block, since a giant's whole state would fill the memory twice."""
    import torch

    with torch.device("meta"):
        state = create_architecture(entry).state_dict()
    block = np.random.default_rng(5).normal(0, 0.02, 1 << 20).astype(np.float16)
    header, at = {}, 0
    for name, tensor in state.items():
        n_bytes = 2 * math.prod(tensor.shape)
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for left in range(at // 2, 0, -len(block)):
            values = np.abs(block[:left])  # variances must not be negative
            file.write(values.tobytes())


@pytest.mark.slow
@pytest.mark.xdist_group("large networks")
@pytest.mark.parametrize("entry", TRAINED, ids=lambda entry: entry.name)
def test_every_architecture_runs_from_a_local_file_of_random_weights(entry, tmp_path: Path) -> None:
    if entry.name in LARGE and not os.environ.get("HISTOBOOK_LARGE"):
        pytest.skip("0.6 to 1.1 thousand million weights: set HISTOBOOK_LARGE=1 (5 GB of memory, a minute each)")
    path = tmp_path / "model.safetensors"
    write_random_weights(entry, path)
    encoder = make_encoder(entry.name, weights=path, device="cpu")
    tiles = np.random.default_rng(2).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    found = encoder.encode(tiles)
    assert found.shape == (2, entry.dimension)
    assert np.isfinite(found).all()
    path.unlink()
