"""Folders of embedded encoders: weights, timm's config, the record of the training; written, read back, and run.

A folder is what timm calls a local directory: `timm.create_model("local-dir:data/encoders/phantom-s", pretrained=True,
num_classes=0)` makes the network with its weights. Convolutions are stored as float16 and computed in what you like.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core import paths
from helpers.core.errors import ModelError
from helpers.core.provenance import list_versions
from helpers.core.specs import EmbeddedEncoderSpec
from helpers.models.pretraining import ARCHITECTURE, LEAST_PX, MEAN, MODEL_ARGS, SD, History
from helpers.phantom.pretraining import TrainingTiles, compute_plan_key

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
RECORD: Final = "training.json"
INPUT_PX: Final = 256
HISTORY_STEPS: Final = 5


def describe_config(*, description: str) -> dict[str, Any]:
    """Return timm's config of an embedded encoder.

    Parameters
    ----------
    description : str
        One sentence.

    Returns
    -------
    dict
        architecture, num_features, model_args, pretrained_cfg (mean, std, input size, interpolation), as on a hub.
    """
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": MODEL_ARGS["channels"][-1],
        "global_pool": "avg",
        "model_args": {name: list(value) for name, value in MODEL_ARGS.items()},
        "pretrained_cfg": {
            "tag": "histobook",
            "description": description,
            "custom_load": False,
            "input_size": [3, INPUT_PX, INPUT_PX],
            "min_input_size": [3, LEAST_PX, LEAST_PX],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(MEAN),
            "std": list(SD),
            "num_classes": 0,
            "pool_size": [INPUT_PX // 32, INPUT_PX // 32],
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "mit",
        },
    }


def make_record(spec: EmbeddedEncoderSpec, data: TrainingTiles, history: History, *, objective: str) -> dict[str, Any]:
    """Return the record of a training run.

    Parameters
    ----------
    spec : EmbeddedEncoderSpec
    data : TrainingTiles
    history : History
    objective : str
        What was asked of the network, in words.

    Returns
    -------
    dict
        objective, spec, versions, n_tiles, images_per_s, history (means over `HISTORY_STEPS` steps), and per training
        slide its plan's key and the SHA-256 of its pixels.
    """
    rows = pd.DataFrame(history.rows)
    means = rows.groupby(np.arange(len(rows)) // HISTORY_STEPS).mean().round(5)
    return {
        "objective": objective,
        "spec": spec.key_fields(),
        "versions": {name: list_versions()[name] for name in ("numpy", "torch", "timm", "opencv-python-headless")},
        "n_tiles": len(data.tiles),
        "images_per_s": round(history.images_per_s, 1),
        "history": means.to_dict("list"),
        "slides": [
            {"slide_id": plan.slide_id, "plan_key": compute_plan_key(plan), "pixels_sha256": fingerprint}
            for plan, fingerprint in zip(data.plans, data.fingerprints, strict=True)
        ],
    }


def write_encoder(network: "nn.Module", folder: str | Path, *, description: str, record: Mapping[str, Any]) -> Path:
    """Write an encoder's folder.

    Parameters
    ----------
    network : Module
        From `helpers.models.pretraining`.
    folder : str or Path
    description : str
        Goes into the config.
    record : mapping
        How it was trained: `training.json`.

    Returns
    -------
    Path
        The folder.
    """
    import torch
    from safetensors.torch import save_file

    folder = paths.resolve(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {}
    for name, tensor in network.state_dict().items():
        stored = tensor.detach().cpu().contiguous()  # channels last is a matter of strides, and is not stored
        state[name] = stored.to(torch.float16) if stored.ndim == 4 else stored.clone()
    with paths.atomic_write(folder / WEIGHTS) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    paths.write_json(describe_config(description=description), folder / CONFIG)
    paths.write_json(dict(record), folder / RECORD)
    return folder


def read_encoder(folder: str | Path) -> "nn.Module":
    """Read an encoder's folder through timm; weights become float32.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Module
        In evaluation mode, channels last: (n, 3, H, W), normalised → (n, num_features).

    Raises
    ------
    ModelError
        When the folder lacks its weights or its config.
    """
    import timm
    import torch

    folder = paths.resolve(folder)
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        msg = (
            f"ModelError: encoder folder '{paths.shorten(folder)}' lacks {', '.join(missing)}, expected timm's layout. "
            "Restore it from the repository, or train it: histobook run A1 -p train=true --name mine."
        )
        raise ModelError(msg)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    return network.float().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def make_random_network(architecture: str = "resnet50", *, seed: int = 0) -> "nn.Module":
    """Make a network that never saw an image: what an architecture alone is worth.

    Parameters
    ----------
    architecture : str
        timm's name.
    seed : int

    Returns
    -------
    Module
        In evaluation mode, channels last.
    """
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(architecture, pretrained=False, num_classes=0)
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def encode_tiles(network: "nn.Module", tiles: NDArray[np.uint8], *, batch_size: int = 64) -> NDArray[np.float32]:
    """Run a network on tiles at their own size, in bfloat16 where it has its own precision.

    Parameters
    ----------
    network : Module
        With timm's `pretrained_cfg`, whose mean and SD are used.
    tiles : ndarray, (n, H, W, 3), uint8
    batch_size : int

    Returns
    -------
    ndarray, (n, d), float32
    """
    import torch

    cfg: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    mean, sd = (torch.tensor(cfg[name]).view(3, 1, 1) * 255 for name in ("mean", "std"))
    parts = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for batch in _iterate(tiles, batch_size):
            parts.append(network(((batch - mean) / sd).contiguous(memory_format=torch.channels_last)).float().numpy())
    return np.concatenate(parts)


def _iterate(tiles: NDArray[np.uint8], batch_size: int) -> "Iterator[Tensor]":
    import torch

    for start in range(0, len(tiles), batch_size):
        yield torch.from_numpy(tiles[start : start + batch_size]).permute(0, 3, 1, 2).float()
