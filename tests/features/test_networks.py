"""timm networks from a local file of weights."""

from pathlib import Path

import numpy as np
import pytest

from helpers.core.errors import FeatureError
from helpers.features.encoders import TileContext, make_encoder

CONTEXT = TileContext(slide_id="S-1", um_per_px=0.5, stain=None)
TILES = np.random.default_rng(6).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a ResNet-18 with its classifier, as timm's users store them."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    return path


def test_features_are_timms_own(weights: Path) -> None:
    import cv2
    import timm
    import torch
    from safetensors.torch import load_file

    found = make_encoder("resnet18", weights=weights, device="cpu").encode(TILES, CONTEXT)
    network = timm.create_model("resnet18", pretrained=False)
    network.load_state_dict(load_file(weights))
    network.reset_classifier(0)
    large = np.stack([cv2.resize(tile, (224, 224), interpolation=cv2.INTER_CUBIC) for tile in TILES]) / 255
    batch = torch.tensor((large - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = network.eval()(batch).numpy()
    assert found.shape == (3, 512)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_weights_hash_is_part_of_the_identity(weights: Path) -> None:
    encoder = make_encoder("resnet18", weights=weights, device="cpu")
    assert len(encoder.identity["weights_sha256"]) == 64
    assert encoder.dimension == 512


def test_the_random_control_is_seeded_and_says_so() -> None:
    one, same, other = (make_encoder("random_resnet18", device="cpu", seed=seed) for seed in (1, 1, 2))
    assert one.identity["weights_sha256"] == "random weights, seed 1"
    assert (one.encode(TILES, CONTEXT) == same.encode(TILES, CONTEXT)).all()
    assert (one.encode(TILES, CONTEXT) != other.encode(TILES, CONTEXT)).any()


def test_weights_of_another_architecture_are_refused(weights: Path) -> None:
    with pytest.raises(FeatureError, match=r"given for 'resnet50' do not fit its architecture: \d+ tensors missing"):
        make_encoder("resnet50", weights=weights, device="cpu")


def test_a_broken_weights_file_is_named(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pt"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(FeatureError, match=rf"weights '{name}' of 'resnet18' cannot be read as tensors"):
            make_encoder("resnet18", weights=tmp_path / name, device="cpu")
    with pytest.raises(FeatureError, match=r"weights of 'resnet18' are not at '.*gone\.safetensors'"):
        make_encoder("resnet18", weights=tmp_path / "gone.safetensors", device="cpu")
