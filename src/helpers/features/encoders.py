"""Encoders by name: what turns a tile into a vector, what it needs, and what identifies it.

Two kinds. A descriptor is a formula with named numbers (`stain_texture`, `mean_colour`); a network is a timm
architecture (:mod:`~helpers.features.networks`) whose weights lie in a local file (:mod:`~helpers.features.weights`).
Weights are never random unless the name says so (`random_resnet18`, a control).
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import FeatureError
from helpers.features.networks import Precision, TimmNetwork, choose_precision, draw_weights
from helpers.features.pathomics import Pathomics
from helpers.features.registry import REGISTRY, EncoderEntry
from helpers.features.stain_texture import COLUMNS as STAIN_TEXTURE_COLUMNS
from helpers.features.stain_texture import VERSION as STAIN_TEXTURE_VERSION
from helpers.features.stain_texture import describe_tile
from helpers.features.weights import find_weights, read_weights
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
    needs_stains: bool

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
    needs_stains = True
    """It unmixes the slide's own stains, so that it is given tiles as scanned, normalised or not."""

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
    needs_stains = False
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


def make_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    precision: Precision = "float32",
    compiled: bool = False,
) -> Encoder:
    """Make an encoder ready to use.

    Parameters
    ----------
    name : str
        A key of `REGISTRY`.
    weights : str or Path, optional
        Local file (or its folder) of a network's weights: `.safetensors`, or a torch file of plain tensors. Without it
        the folders of `helpers.features.weights.list_roots` are searched.
    device : str
        auto, cpu, cuda, mps; descriptors run on the CPU always.
    seed : int
        Of a `random_` control's weights.
    precision : {'float32', 'bfloat16', 'float16', 'auto'}
        Of a network's arithmetic.
    compiled : bool
        Whether networks go through torch.compile.

    Returns
    -------
    Encoder

    Raises
    ------
    FeatureError
        When the name is unknown, or the weights are missing, unreadable or of another architecture.
    """
    entry = find_entry(name)
    if not entry.architecture:
        return _DESCRIPTORS[name]()
    from helpers.core.device import pick_device

    where = pick_device(device)
    state, sha = _get_weights(entry, weights, seed)
    numbers = choose_precision(precision, where)
    return TimmNetwork(entry, state=state, weights_sha256=sha, device=where, precision=numbers, compiled=compiled)


def find_entry(name: str) -> EncoderEntry:
    """Return the line of the registry that bears a name.

    Parameters
    ----------
    name : str

    Returns
    -------
    EncoderEntry

    Raises
    ------
    FeatureError
        When there is none; suggests the nearest.
    """
    entry = REGISTRY.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        msg = f"FeatureError: encoder '{name}' is unknown; the registry holds {', '.join(REGISTRY)}.{hint}"
        raise FeatureError(msg)
    return entry


_DESCRIPTORS: Mapping[str, Callable[[], Encoder]] = MappingProxyType(
    {"stain_texture": StainTexture, "mean_colour": MeanColour, "pathomics": Pathomics}
)


def _get_weights(entry: EncoderEntry, weights: str | Path | None, seed: int) -> "tuple[dict[str, torch.Tensor], str]":
    if entry.needs_weights or weights is not None:
        return read_weights(find_weights(entry, weights), entry.name)
    return draw_weights(entry, seed), f"random weights, seed {seed}"
