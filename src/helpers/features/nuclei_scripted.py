"""Nuclei by a trained network from a local TorchScript file, for those who have one; the default needs none.

What the file must do: take (1, 3, H, W) float32 and return a label image, as (H, W), (1, H, W) or (1, C, H, W) whose
first channel numbers the nuclei. InstanSeg publishes models of this form (brightfield, 0.5 um per px, intensities
scaled by percentiles). TorchScript is a program: load a file only from where you would run code.
"""

import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import FeatureError
from helpers.core.paths import resolve
from helpers.features.nuclei import Labels

if TYPE_CHECKING:
    import torch

Scaling = Literal["unit", "percentile"]
PERCENTILES = (0.1, 99.9)


class ScriptedNuclei:
    """A TorchScript network that numbers nuclei.

    Parameters
    ----------
    path : str or Path
        Local file.
    um_per_px : float
        Resolution that the network was trained at; tiles are resized to it and labels back.
    scaling : str
        Of the input: 'unit' (0 to 1), or 'percentile' (each channel from its 0.1st to its 99.9th percentile).
    device : str
        auto, cpu, cuda, mps.

    Raises
    ------
    FeatureError
        When the file is missing or no TorchScript.
    """

    def __init__(
        self, path: str | Path, *, um_per_px: float, scaling: Scaling = "percentile", device: str = "auto"
    ) -> None:
        from helpers.core.device import pick_device

        path = resolve(path)
        self.name, self.um_per_px, self.scaling, self._device = path.name, um_per_px, scaling, pick_device(device)
        self._network = _load_script(path, self._device)
        self.weights_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self._lock = threading.Lock()

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the labels."""
        return {"nuclei": self.name, "weights_sha256": self.weights_sha256, "um_per_px": self.um_per_px,
                "scaling": self.scaling}  # fmt: skip

    def segment(self, tile: NDArray[np.uint8], *, um_per_px: float) -> Labels:
        """Find and number the nuclei of an image.

        Parameters
        ----------
        tile : ndarray, (H, W, 3), uint8
        um_per_px : float

        Returns
        -------
        ndarray, (H, W), int32
            Numbers from 1 without gaps.

        Raises
        ------
        FeatureError
            When the network returns something else than a label image of its input's size.
        """
        import torch

        height, width = tile.shape[:2]
        size = tuple(max(1, round(edge * um_per_px / self.um_per_px)) for edge in (width, height))
        rule = cv2.INTER_AREA if um_per_px < self.um_per_px else cv2.INTER_CUBIC
        scaled = scale_input(cv2.resize(tile, size, interpolation=rule), self.scaling)
        with self._lock, torch.inference_mode():
            found = self._network(torch.from_numpy(scaled).to(self._device))
        labels = self._read_labels(found, size)
        back = cv2.resize(labels.astype(np.float64), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        values, numbers = np.unique(back, return_inverse=True)
        offset = 0 if values[0] == 0 else 1  # no background at all
        return (numbers.reshape(height, width) + offset).astype(np.int32)

    def _read_labels(self, found: Any, size: tuple[int, ...]) -> NDArray[Any]:
        import torch

        array = found.cpu().numpy() if isinstance(found, torch.Tensor) else np.zeros(0)
        while array.ndim > 2:
            array = array[0]
        whole = array.ndim == 2 and array.shape == size[::-1] and np.isfinite(array).all()
        if not whole or (array < 0).any() or (array != np.rint(array)).any():
            kind = f"shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            msg = (
                f"FeatureError: network '{self.name}' returned {kind} for an input of {size[1]} by {size[0]} px, "
                "expected one label image of that size with whole numbers from 0. Script the network with its "
                "post-processing, so that it returns labels."
            )
            raise FeatureError(msg)
        return np.asarray(array)


def _load_script(path: Path, device: "torch.device") -> Any:
    import torch

    if not path.is_file():
        msg = f"FeatureError: the TorchScript file '{path}' is not there. Put it there, or use the default nuclei."
        raise FeatureError(msg)
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        msg = (
            f"FeatureError: '{path.name}' ({path.stat().st_size} bytes) is no TorchScript: {reason}. Save the network "
            "with torch.jit.script or torch.jit.trace; a file of weights alone holds no program."
        )
        raise FeatureError(msg) from None


def scale_input(tile: NDArray[np.uint8], scaling: Scaling) -> NDArray[np.float32]:
    """Scale the intensities of an image for a network.

    Parameters
    ----------
    tile : ndarray, (H, W, 3), uint8
    scaling : str
        'unit' or 'percentile'.

    Returns
    -------
    ndarray, (1, 3, H, W), float32
    """
    image = tile.astype(np.float32).transpose(2, 0, 1)
    if scaling == "unit":
        return np.ascontiguousarray(image[None] / np.float32(255))
    low, high = np.percentile(image, PERCENTILES, axis=(1, 2), keepdims=True).astype(np.float32)
    return np.ascontiguousarray(((image - low) / np.maximum(high - low, 1))[None])
