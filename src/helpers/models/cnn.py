"""The network of route a: any timm architecture, dropout, one linear output per target."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import ModelError
from helpers.core.paths import read_json
from helpers.features.weights import read_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BACKBONE, HEAD = "0", "2"
"""Where backbone and head stand in the network."""


def build_regressor(
    architecture: str,
    *,
    n_targets: int,
    model_args: Mapping[str, Any] | None = None,
    dropout: float = 0.5,
    seed: int = 0,
    weights: str | Path | None = None,
) -> "nn.Sequential":
    """Make the network with seeded weights: backbone, dropout, linear head.

    Parameters
    ----------
    architecture : str
        timm's name, such as resnet18 or inception_v3.
    n_targets : int
    model_args : mapping, optional
        Arguments of `timm.create_model`.
    dropout : float
    seed : int
        Of what is drawn at random: the head always, the backbone where no weights are given.
    weights : str or Path, optional
        File of the backbone's weights, `.safetensors` or a torch file of plain tensors. A timm config `config.json`
        beside it says how its input is normalised.

    Returns
    -------
    nn.Sequential
        (n, 3, H, W), normalised → (n, n_targets); channels last. The head starts at 0, so that training starts at the
        mean of the targets.

    Raises
    ------
    ModelError
        When timm knows no such architecture, it does not take the arguments, or the weights do not fit it.
    """
    import timm
    import torch

    if not timm.is_model(architecture):
        near = timm.list_models(f"*{architecture[:8]}*")[:4]
        msg = f"ModelError: timm knows no '{architecture}'. Names like it: {', '.join(near) or 'none'}."
        raise ModelError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            backbone: Any = timm.create_model(architecture, pretrained=False, num_classes=0, **dict(model_args or {}))
        except TypeError as error:
            given = ", ".join(model_args or {}) or "none"
            msg = (
                f"ModelError: {architecture} does not take model_args {given} ({error}). "
                "Give its own, or model_args: {}."
            )
            raise ModelError(msg) from None
        head = torch.nn.Linear(backbone.num_features, n_targets)
    if weights is not None:
        _load_backbone(backbone, Path(weights), architecture)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    network = torch.nn.Sequential(backbone, torch.nn.Dropout(dropout), head)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _load_backbone(backbone: Any, path: Path, architecture: str) -> None:
    state, _ = read_weights(path, architecture)
    wanted = backbone.state_dict()
    missing = sorted(name for name in wanted if name not in state or state[name].shape != wanted[name].shape)
    if missing:
        msg = (
            f"ModelError: weights '{path.name}' do not fit {architecture}: {len(missing)} of {len(wanted)} tensors are "
            f"missing or of another shape, first {missing[:2]}. Give model_args and weights that belong together."
        )
        raise ModelError(msg)
    backbone.load_state_dict({name: state[name].to(wanted[name].dtype) for name in wanted})
    config = path.with_name("config.json")
    if config.is_file():
        stated = read_json(config).get("pretrained_cfg", {})
        backbone.pretrained_cfg = {**(backbone.pretrained_cfg or {}), **stated}


def read_normalisation(network: "nn.Sequential") -> dict[str, tuple[float, float, float]]:
    """Return mean and SD of a backbone's input, on a scale of 0 to 1.

    Parameters
    ----------
    network : nn.Sequential
        From `build_regressor`.

    Returns
    -------
    dict
        mean, sd; ImageNet's where the architecture states none.
    """
    stated: Mapping[str, Any] = getattr(network[0], "pretrained_cfg", {}) or {}
    return {"mean": tuple(stated.get("mean", IMAGENET_MEAN)), "sd": tuple(stated.get("std", IMAGENET_SD))}


def fit_scaling(labels: NDArray[np.float64], *, scaling: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what is taken off the targets and what they are divided by, from training cases alone.

    Parameters
    ----------
    labels : ndarray, (n_cases, k)
        Of the training cases.
    scaling : {'sd', 'variance'}
        'variance' is a quirk of the published proxy: targets of a large variance count less, of a small one more.

    Returns
    -------
    centre, scale : ndarray, (k,)

    Raises
    ------
    ModelError
        When a label is missing, or a target does not vary.
    """
    if not np.isfinite(labels).all():
        msg = f"ModelError: {int((~np.isfinite(labels)).sum())} training labels are missing or infinite. Drop them."
        raise ModelError(msg)
    spread = labels.std(axis=0, ddof=1) if len(labels) > 1 else np.zeros(labels.shape[1])
    if not (spread > 0).all():
        which = int(np.argmin(spread))
        msg = f"ModelError: target {which} does not vary over {len(labels)} training cases. Leave it out."
        raise ModelError(msg)
    return labels.mean(axis=0), spread if scaling == "sd" else spread**2


@dataclass(frozen=True, kw_only=True)
class FittedNetwork:
    """A trained network of one fold, and what it was trained on.

    Attributes
    ----------
    network : nn.Sequential
        In evaluation mode.
    centre, scale : ndarray, (k,)
        Of the targets: the network's output times the scale plus the centre.
    targets : tuple of str
    fold : int
    seen : tuple of str
        Cases that trained it or chose its epoch.
    history : list of dict
        epoch, loss (training), validation, rate, seconds.
    best_epoch : int
        Whose weights these are.
    """

    network: "nn.Sequential"
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    targets: tuple[str, ...]
    fold: int
    seen: tuple[str, ...]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0

    def predict(self, batch: "Tensor", *, precision: str = "float32") -> NDArray[np.float64]:
        """Score tiles, in the units of the targets.

        Parameters
        ----------
        batch : Tensor, (n, 3, H, W)
            Normalised, on the network's device.
        precision : str
            float32 or bfloat16, of autocast.

        Returns
        -------
        ndarray, (n, k)
        """
        return run_network(self.network, batch, precision=precision) * self.scale + self.centre


def run_network(network: "nn.Module", batch: "Tensor", *, precision: str) -> NDArray[np.float64]:
    """Run a network without gradients.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    batch : Tensor, (n, 3, H, W)
    precision : str

    Returns
    -------
    ndarray, (n, k), float64
    """
    import torch

    with torch.inference_mode(), open_autocast(batch.device, precision):
        return np.asarray(network(batch).float().cpu().numpy(), np.float64)


def open_autocast(device: "torch.device", precision: str) -> "torch.autocast":
    """Return the context in which a network computes in a precision; none at all for float32.

    Parameters
    ----------
    device : torch.device
    precision : str

    Returns
    -------
    torch.autocast
    """
    import torch

    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
