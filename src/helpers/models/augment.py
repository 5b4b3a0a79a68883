"""Crops, flips and stains: what is drawn for a batch, and how it is applied on the device.

Draws are made on the host for a whole batch and applied to any part of it, so that two processes that share a batch
see what one would have seen.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import ModelError
from helpers.models.tilebank import RUIFROK, TileBank

if TYPE_CHECKING:
    import torch

TILT = 0.2
"""SD of the change of a stain's vector, as a share of the strength; 0.25 tilts by about three degrees."""
SHIFT = 0.1
"""SD of the added concentration of each stain, as a share of the strength."""
GLASS = 0.1
"""SD of the log of the glass's brightness, as a share of the strength."""
MIN_GREY = 0.5
"""Black counts as this grey level, as in `helpers.slides.stain.compute_od`."""


@dataclass(frozen=True)
class Draws:
    """What was drawn for each tile of a batch.

    Attributes
    ----------
    corners : ndarray, (n, 2), int
        Upper left corner (x, y) of the crop, px of the tile.
    turns : ndarray, (n,), int
        One of the eight orientations of a square.
    mix : ndarray, (n, 3, 3), float32
        Densities times this are the new densities.
    shift : ndarray, (n, 3), float32
        Is added to the densities.
    glass : ndarray, (n, 3), float32
        Grey levels of clear glass, before and after times the factor.
    factor : ndarray, (n, 1), float32
    """

    corners: NDArray[np.int64]
    turns: NDArray[np.int64]
    mix: NDArray[np.float32]
    shift: NDArray[np.float32]
    glass: NDArray[np.float32]
    factor: NDArray[np.float32]

    def take(self, part: slice) -> Self:
        """Return the draws of a part of the batch.

        Parameters
        ----------
        part : slice

        Returns
        -------
        Draws
        """
        return type(self)(*(getattr(self, name)[part] for name in self.__dataclass_fields__))


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """Turns tiles into a network's input, changed at random for training, plainly for everything else.

    Attributes
    ----------
    method : {'vectors', 'hed', 'none'}
        Which stains are varied: the slide's own two, Ruifrok's, or none.
    strength : float
        SD of the log of each stain's factor.
    tile_px, crop_px, input_px : int
        A tile's edge, the crop's, and the network's input to which the crop is resized.
    vectors : ndarray, (n_slides, 2, 3)
    background : ndarray, (n_slides, 3)
    mean, sd : tuple of 3 floats
        Of the network's input, on a scale of 0 to 1.
    """

    method: Literal["vectors", "hed", "none"]
    strength: float
    tile_px: int
    crop_px: int
    input_px: int
    vectors: NDArray[np.float64]
    background: NDArray[np.float64]
    mean: tuple[float, float, float]
    sd: tuple[float, float, float]

    def draw(self, slides: NDArray[np.int64], *, rng: np.random.Generator) -> Draws:
        """Draw crop, orientation and stains for each tile of a batch.

        Parameters
        ----------
        slides : ndarray, (n,), int
            Position of each tile's slide in the bank.
        rng : Generator

        Returns
        -------
        Draws
        """
        n = len(slides)
        corners, turns = rng.integers(0, self.tile_px - self.crop_px + 1, (n, 2)), rng.integers(0, 8, n)
        source = self._list_vectors(slides)
        gain, tilt, shift = rng.normal(size=(n, 3)), rng.normal(size=(n, 3, 3)), rng.normal(size=(n, 3))
        target = source + TILT * self.strength * tilt * np.array([1.0, 1.0, 0.0])[:, None]
        target /= np.linalg.norm(target, axis=2, keepdims=True)
        scaled = np.exp(self.strength * gain)[:, :, None] * target
        factor = np.exp(GLASS * self.strength * rng.normal(size=(n, 1)))
        added = np.einsum("ns,nsc->nc", SHIFT * self.strength * shift, target)
        return Draws(
            corners, turns, (np.linalg.inv(source) @ scaled).astype(np.float32), added.astype(np.float32),
            self.background[slides].astype(np.float32), factor.astype(np.float32),
        )  # fmt: skip

    def _list_vectors(self, slides: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return three stains per tile, (n, 3, 3): the third is what the two do not explain."""
        if self.method != "vectors":
            unit = RUIFROK / np.linalg.norm(RUIFROK, axis=1, keepdims=True)
            return np.repeat(unit[None], len(slides), axis=0)
        two = self.vectors[slides] / np.linalg.norm(self.vectors[slides], axis=2, keepdims=True)
        rest = np.cross(two[:, 0], two[:, 1])
        return np.concatenate([two, (rest / np.linalg.norm(rest, axis=1, keepdims=True))[:, None]], axis=1)

    def augment(self, tiles: NDArray[np.uint8], draws: Draws, *, device: "torch.device") -> "torch.Tensor":
        """Crop, resize, turn and restain tiles.

        Parameters
        ----------
        tiles : ndarray, (n, tile_px, tile_px, 3), uint8
        draws : Draws
        device : torch.device

        Returns
        -------
        Tensor, (n, 3, input_px, input_px), float32
            Normalised, channels last.
        """
        image = turn_tiles(self._resize(self._crop(tiles, draws.corners), device), draws.turns)
        if self.method != "none":
            image = restain(image, draws)
        return self._normalise(image)

    def prepare(self, tiles: NDArray[np.uint8], *, device: "torch.device") -> "torch.Tensor":
        """Cut the centre of tiles and resize it, as a network sees them once it is trained.

        Parameters
        ----------
        tiles : ndarray, (n, tile_px, tile_px, 3), uint8
        device : torch.device

        Returns
        -------
        Tensor, (n, 3, input_px, input_px), float32
        """
        corner = (self.tile_px - self.crop_px) // 2
        return self._normalise(self._resize(self._crop(tiles, np.full((len(tiles), 2), corner)), device).float())

    def _crop(self, tiles: NDArray[np.uint8], corners: NDArray[np.int64]) -> NDArray[np.uint8]:
        edge = self.crop_px
        return np.stack([tile[y : y + edge, x : x + edge] for tile, (x, y) in zip(tiles, corners, strict=True)])

    def _resize(self, crops: NDArray[np.uint8], device: "torch.device") -> "torch.Tensor":
        import torch
        from torch.nn.functional import interpolate

        image = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2)
        if self.crop_px == self.input_px:
            return image
        size = (self.input_px, self.input_px)
        image = image if device.type == "cpu" else image.float()
        return interpolate(image, size, mode="bilinear", antialias=True)

    def _normalise(self, image: "torch.Tensor") -> "torch.Tensor":
        import torch

        mean, sd = (torch.tensor(values, device=image.device).view(3, 1, 1) * 255 for values in (self.mean, self.sd))
        return ((image.float() - mean) / sd).contiguous(memory_format=torch.channels_last)


def make_augmenter(
    bank: TileBank, *, method: Literal["vectors", "hed", "none"], strength: float, crop_px: int, input_px: int,
    mean: tuple[float, float, float], sd: tuple[float, float, float],
) -> Augmenter:  # fmt: skip
    """Make the augmentation of a bank's tiles.

    Parameters
    ----------
    bank : TileBank
    method, strength, crop_px, input_px, mean, sd
        As in `Augmenter`.

    Returns
    -------
    Augmenter

    Raises
    ------
    ModelError
        When the crop is larger than a tile.
    """
    _check_crop(crop_px, bank.tile_px)
    return Augmenter(
        method=method, strength=strength, tile_px=bank.tile_px, crop_px=crop_px, input_px=input_px,
        vectors=np.stack([pool.stain_vectors for pool in bank.pools]),
        background=np.stack([pool.background for pool in bank.pools]), mean=mean, sd=sd,
    )  # fmt: skip


def make_plain_augmenter(
    tile_px: int, *, crop_px: int, input_px: int, mean: tuple[float, float, float], sd: tuple[float, float, float]
) -> Augmenter:
    """Make what prepares tiles for a trained network, of any slide; there is nothing to be drawn.

    Parameters
    ----------
    tile_px, crop_px, input_px, mean, sd
        As in `Augmenter`.

    Returns
    -------
    Augmenter

    Raises
    ------
    ModelError
        When the crop is larger than a tile.
    """
    _check_crop(crop_px, tile_px)
    return Augmenter(
        method="none", strength=0.0, tile_px=tile_px, crop_px=crop_px, input_px=input_px,
        vectors=np.zeros((0, 2, 3)), background=np.zeros((0, 3)), mean=mean, sd=sd,
    )  # fmt: skip


def _check_crop(crop_px: int, tile_px: int) -> None:
    if crop_px > tile_px:
        msg = f"ModelError: crop_px {crop_px} is above the {tile_px} px of a tile. Lower it, or tile larger."
        raise ModelError(msg)


def turn_tiles(image: "torch.Tensor", turns: NDArray[np.int64]) -> "torch.Tensor":
    """Give each square its orientation.

    Parameters
    ----------
    image : Tensor, (n, 3, H, H)
    turns : ndarray, (n,), int
        0 to 7: quarter turns, and from 4 on mirrored too.

    Returns
    -------
    Tensor, (n, 3, H, H)
    """
    import torch

    turned = torch.empty_like(image)
    for code in np.unique(turns).tolist():
        chosen = torch.from_numpy(np.flatnonzero(turns == code)).to(image.device)
        part = image[chosen].rot90(code % 4, (2, 3))
        turned[chosen] = part.flip(3) if code >= 4 else part
    return turned


def restain(image: "torch.Tensor", draws: Draws) -> "torch.Tensor":
    """Change the stains of each tile along its vectors.

    Parameters
    ----------
    image : Tensor, (n, 3, H, W), uint8 or float
        Grey levels.
    draws : Draws

    Returns
    -------
    Tensor, (n, 3, H, W), float32
        Grey levels, 0 to 255.

    References
    ----------
    Tellez et al. 2018, doi 10.1109/TMI.2018.2820199 (concentrations scaled and shifted).
    """
    import torch

    n, _, height, width = image.shape
    mix, shift, glass, factor = (
        torch.from_numpy(values).to(image.device) for values in (draws.mix, draws.shift, draws.glass, draws.factor)
    )
    light = image.float().clamp_(min=MIN_GREY).reshape(n, 3, -1) / glass[:, :, None]
    od = light.log_().neg_().clamp_(min=0.0)  # (n, 3, pixels)
    changed = torch.baddbmm(shift[:, :, None], mix.transpose(1, 2), od)
    restained = changed.clamp_(min=0.0).neg_().exp_() * (glass * factor)[:, :, None]
    return restained.clamp_(0.0, 255.0).view(n, 3, height, width)
