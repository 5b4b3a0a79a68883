"""Encoders by name: what turns a tile into a vector, what it needs, and what identifies it.

Two kinds. A descriptor is a formula with named numbers (`stain_texture`, `mean_colour`); a network is a timm
architecture whose weights come from a local file that the spec names. Weights are never random unless the name says so
(`random_resnet18`, a control).
"""

import difflib
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import FeatureError
from helpers.core.paths import resolve
from helpers.features.stain_texture import COLUMNS as STAIN_TEXTURE_COLUMNS
from helpers.features.stain_texture import VERSION as STAIN_TEXTURE_VERSION
from helpers.features.stain_texture import describe_tile
from helpers.slides.stain import DEFAULT_BACKGROUND, MIN_OD, Stain, compute_od

if TYPE_CHECKING:
    import torch

LIGHTS = ("red", "green", "blue")
Tiles = NDArray[np.uint8]
Features = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TileContext:
    """What an encoder may know about the slide whose tiles it sees; nothing about the case, the site or the label.

    Attributes
    ----------
    slide_id : str
    um_per_px : float
        Of the tiles.
    stain : Stain or None
        None where the slide's vectors could not be estimated.
    background : tuple of 3 floats
        Clear glass, grey levels.
    """

    slide_id: str
    um_per_px: float
    stain: Stain | None
    background: tuple[float, float, float] = DEFAULT_BACKGROUND


class Encoder(Protocol):
    """What chapter 02 needs of an encoder."""

    name: str
    columns: tuple[str, ...]

    @property
    def dimension(self) -> int:
        """Numbers per tile."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers: version, weights, preprocessing, precision. Part of the key and of the file."""
        ...

    def encode(self, tiles: Tiles, context: TileContext) -> Features:
        """Turn (n, H, W, 3) tiles into (n, dimension) features."""
        ...


class StainTexture:
    """Nuclei, chromatin, mitosis-like figures, stroma and lumina in numbers; all lengths in um.

    See `helpers.features.stain_texture` for the formulas and the names of the columns.
    """

    name = "stain_texture"
    columns = STAIN_TEXTURE_COLUMNS

    @property
    def dimension(self) -> int:
        """Numbers per tile."""
        return len(self.columns)

    @property
    def identity(self) -> dict[str, Any]:
        """Version of the formulas."""
        return {
            "encoder": self.name,
            "encoder_version": STAIN_TEXTURE_VERSION,
            "weights_sha256": "",
            "precision": "float32",
        }

    def encode(self, tiles: Tiles, context: TileContext) -> Features:
        """Describe each tile.

        Parameters
        ----------
        tiles : ndarray, (n, H, W, 3), uint8
        context : TileContext

        Returns
        -------
        ndarray, (n, d), float32

        Raises
        ------
        FeatureError
            When the slide's stains are unknown.
        """
        stain = context.stain
        if stain is None:
            msg = (
                f"FeatureError: slide '{context.slide_id}' has no stain vectors (see stain_reason in its tile file), "
                "which 'stain_texture' needs. Leave the slide out, or use another encoder."
            )
            raise FeatureError(msg)
        return np.stack([describe_tile(tile, stain, um_per_px=context.um_per_px) for tile in tiles])


class MeanColour:
    """Mean and SD of the colour and of the optical density: a control that sees stain and scanner, and no structure."""

    name = "mean_colour"
    columns = (
        *(f"{moment}_{what}_{light}" for what in ("rgb", "od") for moment in ("mean", "sd") for light in LIGHTS),
        "stained_fraction",
    )

    @property
    def dimension(self) -> int:
        """Numbers per tile."""
        return len(self.columns)

    @property
    def identity(self) -> dict[str, Any]:
        """Version of the formula."""
        return {"encoder": self.name, "encoder_version": "1", "weights_sha256": "", "precision": "float32"}

    def encode(self, tiles: Tiles, context: TileContext) -> Features:
        """Average each tile.

        Parameters
        ----------
        tiles : ndarray, (n, H, W, 3), uint8
        context : TileContext

        Returns
        -------
        ndarray, (n, 13), float32
            RGB as 0 to 1, optical density against the slide's glass.
        """
        return np.stack([_describe_colour(tile, context.background) for tile in tiles])


def _describe_colour(tile: NDArray[np.uint8], background: tuple[float, float, float]) -> Features:
    od = compute_od(tile, background)
    rgb_mean, rgb_sd = cv2.meanStdDev(tile)
    od_mean, od_sd = cv2.meanStdDev(od)
    stained = float((cv2.transform(od, np.full((1, 3), 1 / 3, np.float32)) > MIN_OD).mean())
    moments = [rgb_mean / 255, rgb_sd / 255, od_mean, od_sd]
    return np.append(np.concatenate(moments).ravel(), stained).astype(np.float32)


class TimmNetwork:
    """A timm network without its classifier; tiles are resized (area or cubic) to the size it was trained with.

    Parameters
    ----------
    name : str
        In the registry.
    architecture : str
        timm's name.
    state : dict of str to Tensor
        Weights.
    weights_sha256 : str
    device : torch.device
    size_px : int
        Edge of the network's input.

    Raises
    ------
    FeatureError
        When weights and architecture do not fit.
    """

    columns: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        architecture: str,
        *,
        state: "dict[str, torch.Tensor]",
        weights_sha256: str,
        device: "torch.device",
        size_px: int = 224,
    ) -> None:
        import timm

        self.name, self._sha, self._size, self._device = name, weights_sha256, size_px, device
        network = timm.create_model(architecture, pretrained=False, num_classes=0)
        _load_strictly(network, state, name)
        self._network = network.eval().to(device)
        self._architecture = architecture
        self._dimension = int(cast("int", network.num_features))
        trained_with = cast("dict[str, Any]", network.pretrained_cfg)
        self._mean = np.asarray(trained_with["mean"], np.float32) * 255
        self._sd = np.asarray(trained_with["std"], np.float32) * 255
        self._lock = threading.Lock()

    @property
    def dimension(self) -> int:
        """Numbers per tile."""
        return self._dimension

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights, input size and precision."""
        return {
            "encoder": self.name,
            "encoder_version": f"{self._architecture} {self._size} px",
            "weights_sha256": self._sha,
            "precision": "float32",
        }

    def encode(self, tiles: Tiles, context: TileContext) -> Features:
        """Run the network; one batch at a time, whichever thread asks.

        Parameters
        ----------
        tiles : ndarray, (n, H, W, 3), uint8
        context : TileContext

        Returns
        -------
        ndarray, (n, d), float32
        """
        import torch

        batch = torch.from_numpy(np.stack([self._prepare(tile) for tile in tiles])).permute(0, 3, 1, 2)
        with self._lock, torch.inference_mode():
            return np.asarray(self._network(batch.to(self._device)).float().cpu().numpy(), dtype=np.float32)

    def _prepare(self, tile: NDArray[np.uint8]) -> Features:
        smaller = self._size <= min(tile.shape[:2])
        rule = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
        resized = cv2.resize(tile, (self._size, self._size), interpolation=rule)
        return (resized.astype(np.float32) - self._mean) / self._sd


def _load_strictly(network: "torch.nn.Module", state: "dict[str, torch.Tensor]", name: str) -> None:
    """Load weights; only a classifier may be left over, nothing may be missing."""
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(state))
    unknown = sorted(key for key in set(state) - set(wanted) if key.split(".")[0] not in {"fc", "head", "classifier"})
    wrong = sorted(key for key in set(wanted) & set(state) if wanted[key].shape != state[key].shape)
    if missing or unknown or wrong:
        msg = (
            f"FeatureError: the weights given for '{name}' do not fit its architecture: {len(missing)} tensors missing "
            f"(first {missing[:2]}), {len(unknown)} unknown (first {unknown[:2]}), {len(wrong)} of another shape "
            f"(first {wrong[:2]}). Give the file that belongs to this architecture."
        )
        raise FeatureError(msg)
    network.load_state_dict({key: state[key] for key in wanted})


@dataclass(frozen=True, kw_only=True)
class EncoderEntry:
    """One line of the registry.

    Attributes
    ----------
    name : str
    kind : str
        'descriptor', 'network' or 'control'.
    about : str
        What it sees, in one sentence.
    architecture : str
        timm's name; empty for descriptors.
    needs_weights : bool
    licence : str
        Of the usual weights.
    """

    name: str
    kind: str
    about: str
    architecture: str = ""
    needs_weights: bool = False
    licence: str = "MIT (this book)"


def _list_entries() -> tuple[EncoderEntry, ...]:
    imagenet = "of the weights file; ImageNet weights of timm or torchvision are for research"
    return (
        EncoderEntry(
            name="stain_texture",
            kind="descriptor",
            about="nuclei, chromatin texture, mitosis-like figures, stroma, lumina; lengths in um, stains per slide",
        ),
        EncoderEntry(
            name="mean_colour",
            kind="control",
            about="mean and SD of colour and optical density: what stain and scanner alone give away",
        ),
        EncoderEntry(
            name="resnet18", kind="network", about="512 numbers; weights from a local file", architecture="resnet18",
            needs_weights=True, licence=imagenet,
        ),
        EncoderEntry(
            name="resnet50", kind="network", about="2,048 numbers; weights from a local file", architecture="resnet50",
            needs_weights=True, licence=imagenet,
        ),
        EncoderEntry(
            name="random_resnet18",
            kind="control",
            about="ResNet-18 that was never trained (seeded): what architecture alone gives away",
            architecture="resnet18",
        ),
    )  # fmt: skip


REGISTRY: Mapping[str, EncoderEntry] = MappingProxyType({entry.name: entry for entry in _list_entries()})


def make_encoder(name: str, *, weights: str | Path | None = None, device: str = "auto", seed: int = 0) -> Encoder:
    """Make an encoder ready to use.

    Parameters
    ----------
    name : str
        A key of `REGISTRY`.
    weights : str or Path, optional
        Local file of a network's weights: `.safetensors`, or a torch file of plain tensors.
    device : str
        auto, cpu, cuda, mps; descriptors run on the CPU always.
    seed : int
        Of a `random_` control's weights.

    Returns
    -------
    Encoder

    Raises
    ------
    FeatureError
        When the name is unknown, or the weights are missing, unreadable or of another architecture.
    """
    entry = REGISTRY.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        msg = f"FeatureError: encoder '{name}' is unknown; the registry holds {', '.join(REGISTRY)}.{hint}"
        raise FeatureError(msg)
    if not entry.architecture:
        return _DESCRIPTORS[name]()
    if weights is None and entry.needs_weights:
        msg = (
            f"FeatureError: encoder '{name}' needs a weights file and none was given; it never runs on random weights. "
            f"Set weights: {{{name}: path/to/{entry.architecture}.safetensors}} (timm's weights of that architecture)."
        )
        raise FeatureError(msg)
    return _make_network(entry, weights, device=device, seed=seed)


_DESCRIPTORS: Mapping[str, Callable[[], Encoder]] = MappingProxyType(
    {"stain_texture": StainTexture, "mean_colour": MeanColour}
)


def _make_network(entry: EncoderEntry, weights: str | Path | None, *, device: str, seed: int) -> Encoder:
    from helpers.core.device import pick_device

    if weights is None:
        state, sha = _draw_weights(entry.architecture, seed), f"random weights, seed {seed}"
    else:
        state, sha = _read_weights(resolve(weights), entry.name)
    return TimmNetwork(entry.name, entry.architecture, state=state, weights_sha256=sha, device=pick_device(device))


def _draw_weights(architecture: str, seed: int) -> "dict[str, torch.Tensor]":
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(architecture, pretrained=False, num_classes=0).state_dict()


def _read_weights(path: Path, name: str) -> "tuple[dict[str, torch.Tensor], str]":
    """Read tensors and nothing else: no pickled code is run."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        msg = f"FeatureError: the weights of '{name}' are not at '{path}'. Put the file there, or mend its path."
        raise FeatureError(msg)
    try:
        plain = path.suffix != ".safetensors"
        state = torch.load(path, map_location="cpu", weights_only=True) if plain else load_file(path)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:160]
        msg = f"FeatureError: weights '{path.name}' of '{name}' cannot be read as tensors: {reason}. Fetch them again."
        raise FeatureError(msg) from None
    tensors = cast("dict[str, torch.Tensor]", state.get("state_dict", state))
    return tensors, hashlib.sha256(path.read_bytes()).hexdigest()
