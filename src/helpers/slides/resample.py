"""Area-faithful resampling: an output pixel is the mean of the input it covers, fractions of pixels included.

Any other rule (nearest, bilinear at a scale above 2) drops or weights pixels by accident of position, and the texture
of a tile then depends on the scanner's resolution. Boxes are in pixels of the input, x to the right, y downwards.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import TileError

WHOLE = 1e-6
"""A position this close to a whole pixel is that pixel."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle with fractional edges, in px of some level."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Right edge, px."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Lower edge, px."""
        return self.top + self.height

    def scale(self, factor_x: float, factor_y: float) -> "Box":
        """Return the same rectangle in px that are `factor` times larger.

        Parameters
        ----------
        factor_x, factor_y : float
            Such as a level's downsample.

        Returns
        -------
        Box
        """
        return Box(
            left=self.left / factor_x,
            top=self.top / factor_y,
            width=self.width / factor_x,
            height=self.height / factor_y,
        )


def is_whole(box: Box, width: int, height: int) -> bool:
    """Say whether a box is the first `height` x `width` pixels as they are.

    Parameters
    ----------
    box : Box
        In px of the input.
    width, height : int
        Of the result, px.

    Returns
    -------
    bool
    """
    return max(abs(box.left), abs(box.top), abs(box.width - width), abs(box.height - height)) <= WHOLE


def resample_area(
    image: NDArray[np.uint8], box: Box, *, width: int, height: int, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Average the part of an image that lies in a box into `height` x `width` pixels.

    Parameters
    ----------
    image : ndarray, (H, W, C), uint8
    box : Box
        In px of `image`; must lie inside it.
    width, height : int
        Of the result, px.
    out : ndarray, (height, width, C), uint8, optional
        Contiguous; is filled and returned.

    Returns
    -------
    ndarray, (height, width, C), uint8
        Means, rounded to the nearest grey level; shares no memory with `image`.

    Raises
    ------
    TileError
        When the box leaves the image.
    """
    _check_inside(image, box)
    filled = np.empty((height, width, image.shape[2]), np.uint8) if out is None else out
    left, top = round(box.left), round(box.top)
    if abs(box.left - left) > WHOLE or abs(box.top - top) > WHOLE:
        filled[:] = _resample_fractional(image, box, width, height)
    elif abs(box.width - width) <= WHOLE and abs(box.height - height) <= WHOLE:
        filled[:] = image[top : top + height, left : left + width]
    else:
        _resample_whole(image, box, filled)
    return filled


def _check_inside(image: NDArray[np.uint8], box: Box) -> None:
    height, width = image.shape[:2]
    if min(box.left, box.top) < -WHOLE or box.right > width + WHOLE or box.bottom > height + WHOLE:
        msg = (
            f"TileError: a box from ({box.left:.2f}, {box.top:.2f}) to ({box.right:.2f}, {box.bottom:.2f}) leaves an "
            f"image of {width} x {height} px. Ask for a box inside it."
        )
        raise TileError(msg)


def _resample_whole(image: NDArray[np.uint8], box: Box, out: NDArray[np.uint8]) -> None:
    """Resample a box that starts on a whole pixel; its far edges may be fractional."""
    height, width = out.shape[:2]
    left, top = round(box.left), round(box.top)
    right, bottom = math.ceil(box.right - WHOLE), math.ceil(box.bottom - WHOLE)
    if max(right - left - box.width, bottom - top - box.height) > WHOLE:
        out[:] = _resample_fractional(image, box, width, height)
        return
    crop = image[top:bottom, left:right]
    resized = cv2.resize(crop, (width, height), dst=out, interpolation=cv2.INTER_AREA)
    if resized is not out and not np.shares_memory(resized, out):
        out[:] = resized.reshape(out.shape)


def _resample_fractional(image: NDArray[np.uint8], box: Box, width: int, height: int) -> NDArray[np.uint8]:
    """Resample a box with fractional edges: a sparse weight matrix per axis."""
    rows = weigh_pixels(box.top, box.height, size=image.shape[0], n_out=height)
    columns = weigh_pixels(box.left, box.width, size=image.shape[1], n_out=width)
    n_channels = image.shape[2]
    flat = image.reshape(image.shape[0], -1).astype(np.float32)
    tall = (rows @ flat).reshape(height, image.shape[1], n_channels)  # (height, W, C)
    flat = np.ascontiguousarray(tall.transpose(1, 0, 2)).reshape(image.shape[1], -1)
    out = (columns @ flat).reshape(width, height, n_channels).transpose(1, 0, 2)
    return np.ascontiguousarray(np.clip(np.rint(out), 0, 255).astype(np.uint8))


def weigh_pixels(start: float, length: float, *, size: int, n_out: int) -> Any:
    """Return the share of each input pixel in each output pixel, along one axis.

    Parameters
    ----------
    start, length : float
        The box along this axis, input px.
    size : int
        Number of input pixels.
    n_out : int
        Number of output pixels.

    Returns
    -------
    scipy.sparse.csr_array, (n_out, size), float32
        Rows sum to 1.
    """
    from scipy.sparse import csr_array

    edges = start + length * np.arange(n_out + 1) / n_out
    first = np.clip(np.floor(edges[:-1] + WHOLE).astype(int), 0, size - 1)
    n_taps = math.ceil(length / n_out) + 1
    taps = np.minimum(first[:, None] + np.arange(n_taps), size - 1)  # (n_out, n_taps)
    low = np.maximum(first[:, None] + np.arange(n_taps), edges[:-1, None])
    high = np.minimum(first[:, None] + np.arange(1, n_taps + 1), edges[1:, None])
    share = np.clip(high - low, 0.0, None)
    share /= share.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(n_out), n_taps)
    return csr_array((share.ravel().astype(np.float32), (rows, taps.ravel())), shape=(n_out, size))
