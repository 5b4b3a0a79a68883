"""timm networks: the right input, the right tokens, the same numbers whoever runs them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.core.errors import FeatureError, RunError
from helpers.features.encoders import make_encoder
from helpers.features.networks import (
    TimmNetwork,
    build_network,
    choose_precision,
    create_architecture,
    describe_device_failure,
    draw_weights,
    fold_norms,
    normalise_tiles,
    pool_tokens,
    resize_tiles,
)
from helpers.features.registry import REGISTRY

TILES = np.random.default_rng(6).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)


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


def resize_with_pillow(tiles: np.ndarray, edge: int) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.fromarray(tile).resize((edge, edge), Image.Resampling.BICUBIC)) for tile in tiles]
    )


def test_features_are_timms_own(weights: Path) -> None:
    import timm
    import torch
    from safetensors.torch import load_file

    found = make_encoder("resnet18", weights=weights, device="cpu").encode(TILES)
    network = timm.create_model("resnet18", pretrained=False)
    network.load_state_dict(load_file(weights))
    network.reset_classifier(0)
    large = resize_with_pillow(TILES, 224) / 255
    batch = torch.tensor((large - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = network.eval()(batch).numpy()
    assert found.shape == (5, 512)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max(), "Pillow rounds a few pixels otherwise"


@pytest.mark.parametrize(("edge", "size", "resize"), [(300, 224, None), (256, 224, 256), (150, 224, None)])
def test_tiles_are_resized_as_the_networks_were_trained(edge: int, size: int, resize: int | None) -> None:
    import torch

    tiles = np.random.default_rng(1).integers(0, 256, (2, edge, edge, 3), dtype=np.uint8)
    entry = replace(REGISTRY["resnet18"], size_px=size, resize_px=resize)
    found = resize_tiles(torch.from_numpy(tiles).permute(0, 3, 1, 2), entry).permute(0, 2, 3, 1).numpy()
    margin = ((resize or size) - size) // 2
    expected = resize_with_pillow(tiles, resize or size)[:, margin : margin + size, margin : margin + size]
    assert found.shape == (2, size, size, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1
    on_device = resize_tiles(torch.from_numpy(tiles).permute(0, 3, 1, 2).float(), entry)
    assert np.abs(on_device.permute(0, 2, 3, 1).numpy() - found).max() <= 1, "accelerators see the same to a grey level"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_grey_levels_are_centred_and_scaled_colour_by_colour(dtype: str) -> None:
    import torch

    tiles = torch.from_numpy(TILES).permute(0, 3, 1, 2)
    mean, sd = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.4])
    found = normalise_tiles(tiles, -mean / sd, 1 / (255 * sd), dtype=dtype)
    expected = (tiles.double() / 255 - mean.view(3, 1, 1)) / sd.view(3, 1, 1)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.double() - expected).abs().max() < {"float32": 1e-5, "bfloat16": 0.02}[dtype]


def test_the_weights_hash_is_part_of_the_identity(weights: Path) -> None:
    encoder = make_encoder("resnet18", weights=weights, device="cpu")
    assert len(encoder.identity["weights_sha256"]) == 64
    assert encoder.dimension == 512
    other = make_encoder("resnet18", weights=weights, device="cpu", precision="bfloat16")
    assert other.identity != encoder.identity, "another precision is another encoder"


def test_the_random_control_is_seeded_and_says_so() -> None:
    one, same, other = (make_encoder("random_resnet18", device="cpu", seed=seed) for seed in (1, 1, 2))
    assert one.identity["weights_sha256"] == "random weights, seed 1"
    assert (one.encode(TILES) == same.encode(TILES)).all()
    assert (one.encode(TILES) != other.encode(TILES)).any()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_features_do_not_depend_on_the_batch(weights: Path, precision: str, tolerance: float) -> None:
    """The stated tolerance: relative to the largest feature, whatever the batch and the order."""
    encoder = make_encoder("resnet18", weights=weights, device="cpu", precision=precision)
    whole = encoder.encode(TILES)
    single = np.concatenate([encoder.encode(tile[None]) for tile in TILES[::-1]])[::-1]
    assert np.abs(whole - single).max() <= tolerance * np.abs(whole).max()


def test_bfloat16_is_near_float32(weights: Path) -> None:
    exact, fast = (
        make_encoder("resnet18", weights=weights, device="cpu", precision=name) for name in ("float32", "bfloat16")
    )
    a, b = exact.encode(TILES), fast.encode(TILES)
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()
    assert (a != b).any(), "the precision that was asked for is not the one that ran"


def test_the_class_token_stands_beside_the_mean_of_the_image_tokens() -> None:
    import torch

    class Tokens:
        num_prefix_tokens = 3  # a class token and two registers

    tokens = torch.arange(2 * 7 * 4, dtype=torch.float32).reshape(2, 7, 4)
    found = pool_tokens(tokens, Tokens())
    assert found.shape == (2, 8)
    assert torch.equal(found[:, :4], tokens[:, 0])
    assert torch.equal(found[:, 4:], tokens[:, 3:].mean(dim=1))


def test_a_network_with_registers_pools_its_image_tokens_alone() -> None:
    arguments = {
        "img_size": 32,
        "patch_size": 16,
        "embed_dim": 48,
        "depth": 1,
        "num_heads": 3,
        "reg_tokens": 4,
        "global_pool": "",
    }
    entry = replace(
        REGISTRY["virchow2"], architecture="vit_tiny_patch16_224", model_args=arguments, size_px=32, dimension=96
    )
    import torch

    encoder = TimmNetwork(entry, state=draw_weights(entry, 0), weights_sha256="", device=torch.device("cpu"))
    found = encoder.encode(TILES[:, :32, :32])
    pixels = TILES[:, :32, :32].transpose(0, 3, 1, 2) / 255
    batch = (torch.tensor(pixels) - torch.tensor(entry.mean).view(3, 1, 1)) / torch.tensor(entry.sd).view(3, 1, 1)
    with torch.inference_mode():
        tokens = encoder.network(batch.float())
    assert tokens.shape == (5, 1 + 4 + 4, 48)
    assert np.allclose(found, np.hstack([tokens[:, 0], tokens[:, 5:].mean(1)]), atol=1e-4)


def test_folding_batch_normalisation_changes_nothing_but_the_work() -> None:
    import torch

    entry = REGISTRY["random_resnet18"]
    state = draw_weights(entry, 4)
    for name, value in state.items():
        if "running" in name or name.endswith(".bias"):
            state[name] = value + torch.rand_like(value)
    network = build_network(entry, state)
    folded = fold_norms(network)
    batch = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(network(batch), folded(batch), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()), (
        "the network itself was changed"
    )


def test_auto_precision_is_whole_on_cpus_without_instructions_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from helpers.features import networks

    cpu = torch.device("cpu")
    for able, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(networks, "has_fast_bfloat16", lambda device, able=able: able)
        assert choose_precision("auto", cpu) == expected
    assert choose_precision("float32", cpu) == "float32"
    with pytest.raises(FeatureError, match="float16 is not for CPUs"):
        choose_precision("float16", cpu)


def test_weights_of_another_architecture_are_refused(weights: Path) -> None:
    with pytest.raises(
        FeatureError, match=r"given for 'resnet50' do not fit its architecture \(resnet50\): \d+ tensors missing"
    ):
        make_encoder("resnet50", weights=weights, device="cpu")


def test_a_device_that_fails_is_named_with_what_to_do() -> None:
    import torch

    cuda = torch.device("cuda", 1)
    lost = describe_device_failure(RuntimeError("CUDA error: unspecified launch failure"), "uni", cuda, 64)
    assert lost.startswith("RunError: device cuda:1 failed while running 'uni' (CUDA error")
    full = describe_device_failure(torch.OutOfMemoryError("CUDA out of memory."), "uni", cuda, 64)
    assert "does not fit cuda:1 with 64 tiles at once" in full
    assert "Lower batch_size" in full


def test_a_failure_on_an_accelerator_stops_the_run(weights: Path) -> None:
    import torch

    encoder = make_encoder("resnet18", weights=weights, device="cpu")
    encoder.device = torch.device("meta")  # tensors without numbers: every result fails to come back
    with pytest.raises(RunError, match="device meta failed while running 'resnet18'"):
        encoder.encode(TILES)


@pytest.mark.gpu
def test_an_accelerator_agrees_with_the_cpu(weights: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs CUDA, found none")
    here = make_encoder("resnet18", weights=weights, device="cpu").encode(TILES)
    there = make_encoder("resnet18", weights=weights, device="cuda").encode(TILES)
    assert np.abs(here - there).max() < 0.02 * np.abs(here).max()


def test_a_control_has_the_dimension_of_the_registry() -> None:
    assert create_architecture(REGISTRY["random_resnet50"]).num_features == REGISTRY["random_resnet50"].dimension
