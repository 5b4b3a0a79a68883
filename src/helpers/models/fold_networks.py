"""The networks of chapter A2 on slides that none of them saw: an encoder whose features are what they say of a tile.

What the networks of all folds say of a tile is a handful of numbers, and so are features. Tiling, extraction, resume,
refusal and maps of `histobook predict` are therefore those of any encoder (`FoldNetworks`); what turns the numbers
into a score (calibration, mean over folds, pooling over tiles) is the bundle's scorer (`NetworkScorer`). Weights are
plain arrays, ``fold<n>/<tensor>``; architecture and input stand in a spec. Nothing of it runs when it is read.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, field_validator

from helpers.core.errors import ModelError, RunError
from helpers.core.specs import EndToEndSpec, Spec
from helpers.features.networks import describe_device_failure
from helpers.models.augment import make_plain_augmenter
from helpers.models.bags import check_width
from helpers.models.cnn import FittedNetwork, build_regressor, read_normalisation, run_network
from helpers.models.pooling import pool_tile_scores

if TYPE_CHECKING:
    import torch
    from torch import nn

NAME: Final = "end_to_end"
"""What the networks are called as an encoder: a folder of features, and part of their identity."""
REACH_OUT: Final = ("pretrained", "checkpoint", "cache_dir")
"""How arguments of timm begin that would read other files or the network."""
Arrays = dict[str, NDArray[Any]]


class NetworksSpec(Spec):
    """What is needed to build the networks of all folds again, beside their weights."""

    architecture: str = Field(description="timm's name")
    model_args: dict[str, Any] = Field(description="arguments of timm.create_model")
    targets: tuple[str, ...] = Field(min_length=1, description="outputs of each network, in order")
    folds: tuple[int, ...] = Field(min_length=1, description="one network each, in order")
    tile_px: int = Field(ge=1, description="edge of a tile, px")
    crop_px: int = Field(ge=1, description="edge of what is cut from its middle, px of the tile")
    input_px: int = Field(ge=1, description="edge to which that is resized, px of the input")
    mean: tuple[float, float, float] = Field(description="of the input, on a scale of 0 to 1")
    sd: tuple[float, float, float] = Field(description="of the input, on a scale of 0 to 1")
    tiles_per_slide: int | None = Field(
        None, description="tiles drawn per slide in training and out of fold; null: all. A new slide is read whole"
    )

    @field_validator("model_args")
    @classmethod
    def _refuse_other_files(cls, value: dict[str, Any]) -> dict[str, Any]:
        bad = sorted(name for name in value if name.startswith(REACH_OUT))
        if bad:
            msg = f"model_args hold {', '.join(bad)}: a bundle reads no other file, its weights are its own"
            raise ValueError(msg)
        return value

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the outputs: all targets of the first fold, then of the next."""
        return tuple(f"{target}_fold{fold}" for fold in self.folds for target in self.targets)

    def describe(self) -> str:
        """Return architecture and input in one line, which is part of the identity.

        Returns
        -------
        str
        """
        arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(self.model_args.items()))
        normalised = " ".join(f"{value:g}" for value in (*self.mean, *self.sd))
        return (
            f"{len(self.folds)} x {self.architecture}({arguments}), middle {self.crop_px} px resized to "
            f"{self.input_px}, mean and sd {normalised}"
        )


def describe_networks(networks: Sequence[FittedNetwork], spec: EndToEndSpec, *, tile_px: int) -> NetworksSpec:
    """Say how trained networks are built again.

    Parameters
    ----------
    networks : sequence of FittedNetwork
    spec : EndToEndSpec
        They were trained by.
    tile_px : int

    Returns
    -------
    NetworksSpec
    """
    values = {
        "architecture": spec.architecture, "model_args": spec.model_args, "targets": spec.targets,
        "folds": [fitted.fold for fitted in networks], "tile_px": tile_px, "crop_px": spec.crop_px,
        "input_px": spec.input_px, "tiles_per_slide": spec.tiles_per_slide, **read_normalisation(networks[0].network),
    }  # fmt: skip
    return NetworksSpec.from_values(json.loads(json.dumps(values)))  # as it will be read from a file


def list_weights(networks: Sequence[FittedNetwork]) -> Arrays:
    """Return the weights of trained networks as plain arrays.

    Parameters
    ----------
    networks : sequence of FittedNetwork

    Returns
    -------
    dict of str to ndarray
        ``fold<n>/<tensor>``, statistics of batch normalisation included.
    """
    return {
        f"fold{fitted.fold}/{name}": np.array(tensor.detach().cpu().numpy(), order="C")
        for fitted in networks
        for name, tensor in fitted.network.state_dict().items()
    }


def hash_arrays(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of arrays: names, types, shapes and every byte; their order does not matter.

    Parameters
    ----------
    arrays : mapping of str to ndarray

    Returns
    -------
    str, 64 hex digits
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class FoldNetworks:
    """The networks of all folds as one encoder: a tile becomes what each of them says of it, before calibration.

    May be called from several threads.

    Parameters
    ----------
    spec : NetworksSpec
    weights : mapping of str to ndarray
        From `list_weights`.
    device : torch.device
    precision : str
        float32 or bfloat16, of autocast; features are float32.

    Raises
    ------
    ModelError
        When weights and architecture do not fit, or the crop is larger than a tile.
    """

    needs_stains = False

    def __init__(
        self,
        spec: NetworksSpec,
        weights: Mapping[str, NDArray[Any]],
        *,
        device: "torch.device",
        precision: str = "float32",
    ) -> None:
        self.name, self.columns, self.spec, self.device = NAME, spec.columns, spec, device
        self._sha, self._precision = hash_arrays(weights), precision
        self._networks = [build_fold(spec, weights, fold=fold).to(device) for fold in spec.folds]
        self._augmenter = make_plain_augmenter(
            spec.tile_px, crop_px=spec.crop_px, input_px=spec.input_px, mean=spec.mean, sd=spec.sd
        )

    @property
    def dimension(self) -> int:
        """Numbers per tile: folds times targets."""
        return len(self.columns)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, input, weights of all folds, precision."""
        return {
            "encoder": self.name, "encoder_version": self.spec.describe(), "weights_sha256": self._sha,
            "precision": self._precision,
        }  # fmt: skip

    def encode(self, tiles: NDArray[np.uint8], context: object = None) -> NDArray[np.float32]:
        """Run every network on a batch, which is decoded and prepared once.

        Parameters
        ----------
        tiles : ndarray, (n, H, W, 3), uint8
        context : object
            Not read: a network sees pixels alone.

        Returns
        -------
        ndarray, (n, n_folds * n_targets), float32

        Raises
        ------
        RunError
            When an accelerator gives up: out of memory, or lost. Nothing finished is lost.
        """
        try:
            batch = self._augmenter.prepare(tiles, device=self.device)
            found = [run_network(network, batch, precision=self._precision) for network in self._networks]
        except RuntimeError as error:
            if self.device.type == "cpu":
                raise
            raise RunError(describe_device_failure(error, self.name, self.device, len(tiles))) from error
        return np.concatenate(found, axis=1).astype(np.float32)  # autocast or not, they were float32


def build_fold(spec: NetworksSpec, weights: Mapping[str, NDArray[Any]], *, fold: int) -> "nn.Module":
    """Build the network of a fold with its weights, ready to evaluate.

    Parameters
    ----------
    spec : NetworksSpec
    weights : mapping of str to ndarray
    fold : int

    Returns
    -------
    nn.Module

    Raises
    ------
    ModelError
        When tensors are missing, unknown or of another shape.
    """
    import torch

    network = build_regressor(spec.architecture, n_targets=len(spec.targets), model_args=spec.model_args)
    wanted, start = network.state_dict(), f"fold{fold}/"
    given = {name.removeprefix(start): array for name, array in weights.items() if name.startswith(start)}
    wrong = sorted(
        name for name in set(wanted) | set(given)
        if name not in wanted or name not in given or tuple(wanted[name].shape) != given[name].shape
    )  # fmt: skip
    if wrong:
        msg = (
            f"ModelError: the weights of fold {fold} do not fit {spec.architecture}: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, first {wrong[:2]}. Write the bundle anew in chapter A2."
        )
        raise ModelError(msg)
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in given.items()})
    return network.eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True)
class NetworkScorer:
    """From what the networks say of tiles to a score: calibrated, averaged over folds, then pooled over tiles.

    Parameters
    ----------
    centre, scale : ndarray, (n_folds, k)
        Of each network: its output times the scale plus the centre.
    aggregation : str
        Of a case's tiles: mean, median or p75.
    column : int
        The target.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    aggregation: str = "mean"
    column: int = 0

    def predict(self, bags: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Predict cases.

        Parameters
        ----------
        bags : sequence of ndarray, (n_tiles, n_folds * k)

        Returns
        -------
        ndarray, (n_cases,)
        """
        return np.array([pool_tile_scores(self.score_tiles(bag), aggregation=self.aggregation) for bag in bags])

    def score_tiles(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """Score tiles: a case's prediction is their mean, median or 75th percentile.

        Parameters
        ----------
        tiles : ndarray, (n_tiles, n_folds * k)
            From `FoldNetworks`.

        Returns
        -------
        ndarray, (n_tiles,)
        """
        check_width(tiles, expected=self.centre.size)
        said = np.asarray(tiles, float).reshape(len(tiles), *self.centre.shape)
        return np.asarray((said * self.scale + self.centre)[:, :, self.column].mean(axis=1))

    def to_arrays(self) -> Arrays:
        """Return plain arrays.

        Returns
        -------
        dict of str to ndarray
        """
        stored = {name: np.asarray(value) for name, value in vars(self).items()}
        return {"arm": np.array("networks"), **stored}


def load_network_scorer(arrays: Mapping[str, NDArray[Any]]) -> NetworkScorer:
    """Rebuild a scorer from its arrays.

    Parameters
    ----------
    arrays : mapping of str to ndarray

    Returns
    -------
    NetworkScorer
    """
    return NetworkScorer(arrays["centre"], arrays["scale"], str(arrays["aggregation"]), int(arrays["column"]))


def make_network_scorer(networks: Sequence[FittedNetwork], *, target: str, aggregation: str) -> NetworkScorer:
    """Make the scorer of trained networks.

    Parameters
    ----------
    networks : sequence of FittedNetwork
    target : str
        One of their targets.
    aggregation : str

    Returns
    -------
    NetworkScorer
    """
    centre, scale = (np.stack([getattr(fitted, name) for fitted in networks]) for name in ("centre", "scale"))
    return NetworkScorer(centre, scale, aggregation, networks[0].targets.index(target))


def tabulate_outputs(tiles: pd.DataFrame, networks: Sequence[FittedNetwork]) -> pd.DataFrame:
    """Return what each network said of the cases it was tested on: what is usual, to know what is not.

    Parameters
    ----------
    tiles : DataFrame
        From `helpers.models.end_to_end.predict_study`: case_id, fold, a column per target.
    networks : sequence of FittedNetwork

    Returns
    -------
    DataFrame, (n_cases, n_folds * n_targets)
        Mean over tiles of the output before calibration; NaN where a network did not predict a case out of fold.
    """
    columns: dict[str, pd.Series] = {}
    for fitted in networks:
        tested = tiles[tiles["fold"] == fitted.fold].groupby("case_id")[list(fitted.targets)].mean()
        said = (tested - fitted.centre) / fitted.scale
        columns |= {f"{target}_fold{fitted.fold}": said[target] for target in fitted.targets}
    return pd.DataFrame(columns)
