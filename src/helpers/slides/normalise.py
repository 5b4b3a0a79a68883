"""Stain normalisation: the colours of a slide become those of a target, fitted once per slide, applied to its tiles.

What is fitted on a tile depends on what the tile shows: a tile of stroma would be made as purple as one of tumour. So a
fit belongs to a slide, and `Normaliser.apply` takes tiles only. Both methods begin with the light that passes through
the tissue, as a share of that through clear glass, and end with the target's glass: glass becomes the target's glass,
whatever the fit, and nothing becomes brighter than it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from helpers.core.device import pick_device
from helpers.core.errors import StainError
from helpers.slides.stain import (
    MIN_ANGLE_DEG,
    MIN_OD,
    Stain,
    compute_angle,
    compute_od,
    fit_macenko,
    round_triple,
    select_stained,
)

if TYPE_CHECKING:
    import torch

Doubles = NDArray[np.float64]
Triple = tuple[float, float, float]
Method = Literal["macenko", "reinhard"]

GLASS_OD = 0.05
"""Mean density up to which Reinhard's method takes a pixel for glass; from there to `MIN_OD` it is faded in."""
MIN_SPREAD = 0.001
"""Smallest SD of an axis of Ruderman's space; below it there is no spread to scale."""
MAX_LOG_LMS = 1.0
"""Ten times as bright as glass, far out of any range of colours: keeps powers of ten finite, and changes no result."""
CHUNK_PX = 1 << 21
"""Pixels on the device at a time: bounds the memory, changes no result."""

LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""Cone responses (L, M, S) to R, G, B, as printed by Reinhard et al. 2001."""
RUDERMAN = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]])
"""Ruderman's l, alpha, beta of log10 (L, M, S); a rotation, so that its transpose is its inverse."""


@dataclass(frozen=True, kw_only=True)
class ReinhardStatistics:
    """Mean and spread of the stained pixels of a slide in Ruderman's space.

    The space is the one of Reinhard et al. 2001, of the light relative to clear glass, which therefore lies at the
    origin (to 0.001), so that the cast of a scanner's lamp is no part of the statistics.

    Attributes
    ----------
    mean, sd : tuple of 3 floats
        Of l (light to dark), alpha (yellow to blue) and beta (red to green); log10 units.
    background : tuple of 3 floats
        Clear glass, grey levels.
    n_pixels : int
        Stained pixels used.
    """

    mean: Triple
    sd: Triple
    background: Triple
    n_pixels: int

    def to_attributes(self) -> dict[str, Any]:
        """Return plain values to store beside the tiles.

        Returns
        -------
        dict
        """
        return {
            "reinhard_mean": list(self.mean),
            "reinhard_sd": list(self.sd),
            "reinhard_background": list(self.background),
            "reinhard_n_pixels": self.n_pixels,
        }

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any]) -> "ReinhardStatistics":
        """Read what `to_attributes` wrote.

        Parameters
        ----------
        attributes : dict

        Returns
        -------
        ReinhardStatistics
        """
        return cls(
            mean=round_triple(attributes["reinhard_mean"]),
            sd=round_triple(attributes["reinhard_sd"]),
            background=round_triple(attributes["reinhard_background"]),
            n_pixels=int(attributes["reinhard_n_pixels"]),
        )


REFERENCE_STAIN = Stain(
    haematoxylin=(0.5626, 0.7201, 0.4062),
    eosin=(0.2159, 0.8012, 0.5581),
    scale_h=1.9705,
    scale_e=1.0308,
    split_h=math.nan,
    nuclear_h=math.nan,
    background=(240.0, 240.0, 240.0),
    n_pixels=0,
    method="reference",
)
"""Default target of Macenko's method: the reference that comes with its public implementations since Veta's.

Unit vectors in R, G, B; scales are 99th percentiles of concentrations in natural-log density, as everywhere here; glass
at 240. No slide stands behind it, so it knows no nuclei, and only vectors, scales and glass are read.
"""

REFERENCE_STATISTICS = ReinhardStatistics(
    mean=(-0.529693, -0.061381, 0.025449),
    sd=(0.234985, 0.045455, 0.008027),
    background=(240.0, 232.0, 237.0),
    n_pixels=908917,
)
"""Default target of Reinhard's method: the target image that TIAToolbox distributes, fitted by `fit_reinhard`."""


@dataclass(frozen=True, kw_only=True)
class Normaliser(ABC):
    """What turns the colours of one slide into those of a target; made by `fit_normaliser` or `build_normaliser`.

    Attributes
    ----------
    source, target : Stain or ReinhardStatistics
        Fits of the slide and of what it is to look like.
    """

    source: Stain | ReinhardStatistics
    target: Stain | ReinhardStatistics
    method: ClassVar[Method]

    def apply(self, tiles: NDArray[np.uint8], *, device: str = "cpu") -> NDArray[np.uint8]:
        """Normalise tiles of the slide.

        Every pixel is treated alone, so neither the batch size nor the order of the tiles changes a grey level.
        Devices agree within one.

        Parameters
        ----------
        tiles : ndarray, (n, H, W, 3), uint8
            Left as they are.
        device : str
            auto, cpu, mps, cuda, cuda:1.

        Returns
        -------
        ndarray, (n, H, W, 3), uint8

        Raises
        ------
        StainError
            When the tiles are of another shape or type.
        RunError
            When the device is not there.
        """
        import torch

        _check_tiles(tiles)
        place = pick_device(device)
        pixels = np.require(tiles, requirements=["C", "W"]).reshape(-1, 3)  # copied only where torch could not read it
        result = np.empty_like(pixels)
        table = torch.from_numpy(_tabulate_od(self.source.background)).to(place)  # (3, 256)
        with torch.inference_mode():
            for start in range(0, len(pixels), CHUNK_PX):
                part = torch.from_numpy(pixels[start : start + CHUNK_PX]).to(place).int()
                light = self._transmit([table[channel][part[:, channel]] for channel in range(3)])
                levels = [share.clamp(0, 1) * glass for share, glass in zip(light, self.target.background, strict=True)]
                done = torch.stack(levels, dim=-1).round().to(torch.uint8)
                torch.from_numpy(result[start : start + CHUNK_PX]).copy_(done)
        return result.reshape(tiles.shape)

    @abstractmethod
    def _transmit(self, od: "list[torch.Tensor]") -> "list[torch.Tensor]":
        """Return the share of light through the normalised tissue from the densities, R, G and B, (n_pixels,) each."""


@dataclass(frozen=True, kw_only=True)
class MacenkoNormaliser(Normaliser):
    """Unmix with the slide's vectors, scale the concentrations, mix again with the target's.

    What no mixture of the two stains explains (pigment, ink, noise) is lost. The 99th percentiles become the target's,
    so that mean colours agree only as far as the slides hold the same mix of tissues.

    Attributes
    ----------
    source, target : Stain

    References
    ----------
    Macenko et al. 2009, doi 10.1109/ISBI.2009.5193250.
    """

    source: Stain
    target: Stain
    method = "macenko"

    @property
    def remix(self) -> Doubles:
        """Matrix (3, 3) from the densities of the slide to those of the target."""
        gain = np.array([self.target.scale_h / self.source.scale_h, self.target.scale_e / self.source.scale_e])
        return np.asarray(np.linalg.pinv(self.source.vectors) * gain @ self.target.vectors)

    def _transmit(self, od: "list[torch.Tensor]") -> "list[torch.Tensor]":
        return [plane.neg_().exp_() for plane in _mix(od, self.remix)]


@dataclass(frozen=True, kw_only=True)
class ReinhardNormaliser(Normaliser):
    """Give the stained pixels the target's mean and spread on each axis of Ruderman's space.

    Pixels of a mean density up to 0.05 are glass and keep their colour relative to it; up to 0.15, where the pixels
    begin that were fitted, the change is faded in, so that no contour appears around pale tissue. Means and spreads
    know no stains: one that is stronger than the other on this slide stays so, and a slide of other tissue than the
    target takes on the target's mix of colours.

    Attributes
    ----------
    source, target : ReinhardStatistics

    References
    ----------
    Reinhard et al. 2001, doi 10.1109/38.946629.
    """

    source: ReinhardStatistics
    target: ReinhardStatistics
    method = "reinhard"

    def _transmit(self, od: "list[torch.Tensor]") -> "list[torch.Tensor]":
        plain = [(-plane).exp_() for plane in od]
        gain = np.asarray(self.target.sd) / np.asarray(self.source.sd)
        scaling = RUDERMAN.T * gain @ RUDERMAN  # of log10 (L, M, S): there, along the axes, and back
        shift = np.asarray(self.target.mean) @ RUDERMAN - np.asarray(self.source.mean) @ RUDERMAN @ scaling
        log_lms = _mix([plane.log10_() for plane in _mix(plain, LMS.T)], scaling)
        moved = [10 ** (plane + float(by)).clamp_(max=MAX_LOG_LMS) for plane, by in zip(log_lms, shift, strict=True)]
        recoloured = _mix(moved, np.linalg.inv(LMS).T)
        stained = (((od[0] + od[1] + od[2]) / 3 - GLASS_OD) / (MIN_OD - GLASS_OD)).clamp_(0, 1)
        return [before.lerp(after, stained) for before, after in zip(plain, recoloured, strict=True)]


def fit_reinhard(rgb: NDArray[np.uint8], background: Triple, *, item: str = "image") -> ReinhardStatistics:
    """Measure mean and spread of the stained pixels of one slide in Ruderman's space.

    Parameters
    ----------
    rgb : ndarray, (..., 3), uint8
        Pixels, tissue or not; unstained ones are left out here, by the rule of `fit_macenko`.
    background : tuple of 3 floats
        Clear glass, grey levels.
    item : str
        What the pixels are of, for messages.

    Returns
    -------
    ReinhardStatistics

    Raises
    ------
    StainError
        When fewer than 500 pixels are stained, or they are all of one colour.

    References
    ----------
    Reinhard et al. 2001, doi 10.1109/38.946629.
    """
    axes = compute_ruderman(select_stained(rgb, background, item=item))
    mean, sd = axes.mean(axis=0), axes.std(axis=0)
    if sd.min() < MIN_SPREAD:
        found = ", ".join(f"{value:.4f}" for value in sd)
        msg = (
            f"StainError: {item} has {len(axes)} stained pixels of one colour (SD of l, alpha, beta: {found}, expected "
            f"at least {MIN_SPREAD}). Leave it out, or normalise it by 'macenko' with stain vectors given by hand."
        )
        raise StainError(msg)
    return ReinhardStatistics(
        mean=round_triple(mean), sd=round_triple(sd), background=round_triple(background), n_pixels=len(axes)
    )


def compute_ruderman(od: Doubles) -> Doubles:
    """Return l, alpha and beta of Ruderman's space, glass lying at the origin.

    Parameters
    ----------
    od : ndarray, (..., 3)
        Optical densities (natural logarithm) of R, G, B.

    Returns
    -------
    ndarray, (..., 3), float64
        log10 units.
    """
    return np.asarray(np.log10(np.exp(-od) @ LMS.T) @ RUDERMAN.T)


FITS: dict[str, Callable[..., Stain | ReinhardStatistics]] = {"macenko": fit_macenko, "reinhard": fit_reinhard}


def fit_normaliser(
    method: Method,
    pixels: NDArray[np.uint8],
    background: Triple,
    *,
    target: Stain | ReinhardStatistics | None = None,
    item: str = "image",
) -> Normaliser:
    """Fit the normalisation of one slide to a sample of its pixels.

    Where the slide's fit is stored with its tiles, `build_normaliser(Stain.from_attributes(attributes))` spares this.

    Parameters
    ----------
    method : {'macenko', 'reinhard'}
    pixels : ndarray, (..., 3), uint8
        From all over the slide, tissue or not, without ink.
    background : tuple of 3 floats
        Clear glass of the slide, grey levels.
    target : Stain or ReinhardStatistics, optional
        Of any slide, fitted by the same method; `REFERENCE_STAIN` or `REFERENCE_STATISTICS` where not given.
    item : str
        What the pixels are of, for messages.

    Returns
    -------
    Normaliser

    Raises
    ------
    StainError
        When there is no such method, too few pixels are stained, or the target was fitted by the other method.
    """
    if method not in FITS:
        msg = f"StainError: {item} cannot be normalised by '{method}'. Use one of: {', '.join(FITS)}."
        raise StainError(msg)
    return build_normaliser(FITS[method](pixels, background, item=item), target=target, item=item)


def build_normaliser(
    source: Stain | ReinhardStatistics, *, target: Stain | ReinhardStatistics | None = None, item: str = "image"
) -> Normaliser:
    """Make the normalisation of a slide from its fit, such as the one stored with its tiles.

    Parameters
    ----------
    source : Stain or ReinhardStatistics
        Of the slide.
    target : Stain or ReinhardStatistics, optional
        Of the same kind; `REFERENCE_STAIN` or `REFERENCE_STATISTICS` where not given.
    item : str
        What the source was fitted on, for messages.

    Returns
    -------
    Normaliser

    Raises
    ------
    StainError
        When the target is of the other kind, or a fit cannot be unmixed or scaled.
    """
    if target is None:
        target = REFERENCE_STAIN if isinstance(source, Stain) else REFERENCE_STATISTICS
    for name, fit in ((item, source), ("the target", target)):
        _check_fit(fit, name)
    if isinstance(source, Stain) and isinstance(target, Stain):
        return MacenkoNormaliser(source=source, target=target)
    if isinstance(source, ReinhardStatistics) and isinstance(target, ReinhardStatistics):
        return ReinhardNormaliser(source=source, target=target)
    msg = (
        f"StainError: {item} was fitted as {type(source).__name__} and the target as {type(target).__name__}, expected "
        "both by one method. Fit the target by the method of the slide."
    )
    raise StainError(msg)


def _check_fit(fit: Stain | ReinhardStatistics, name: str) -> None:
    """Refuse what would divide by nothing."""
    if isinstance(fit, ReinhardStatistics):
        fault = "" if min(fit.sd) >= MIN_SPREAD else f"SD {fit.sd}, expected at least {MIN_SPREAD} on every axis"
    elif not min(fit.scale_h, fit.scale_e) > 0:
        fault = f"scales {fit.scale_h:g} (haematoxylin) and {fit.scale_e:g} (eosin), expected both above 0"
    else:
        angle = compute_angle(fit.haematoxylin, fit.eosin)
        fault = "" if angle >= MIN_ANGLE_DEG else f"vectors {angle:.1f} degrees apart, expected {MIN_ANGLE_DEG} or more"
    if fault:
        msg = f"StainError: {name} has {fault}. Leave the slide out, or fit it on more of its tissue."
        raise StainError(msg)


def _check_tiles(tiles: NDArray[np.uint8]) -> None:
    if tiles.ndim != 4 or tiles.shape[-1] != 3 or tiles.dtype != np.uint8:
        msg = (
            f"StainError: tiles of shape {tiles.shape} and type {tiles.dtype} cannot be normalised, expected "
            "(n, H, W, 3) and uint8. Stack RGB tiles along a first axis, before they are scaled or turned to tensors."
        )
        raise StainError(msg)


def _tabulate_od(background: Triple) -> NDArray[np.float32]:
    """Return the density of every grey level, (3, 256), by the rule of `compute_od`."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return np.ascontiguousarray(compute_od(levels, background).T)


def _mix(planes: "list[torch.Tensor]", matrix: Doubles) -> "list[torch.Tensor]":
    """Multiply (n, 3), given as three planes, by a (3, 3) matrix.

    Written out, because a matrix product sums in an order that may depend on the size of the batch, and some
    accelerators round its factors.
    """
    first, second, third = planes
    return [first * a + second * b + third * c for a, b, c in matrix.T.tolist()]
