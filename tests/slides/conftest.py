"""Tiny slides with known pixels, and a phantom-like picture of tissue drawn in a few lines."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.slides.writer import write_pyramid

GLASS = (243, 243, 243)
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.15, 0.92, 0.36])


def draw_tissue(width: int, height: int, *, um_per_px: float = 0.5, seed: int = 5) -> NDArray[np.uint8]:
    """Draw one round piece of pink tissue with purple nuclei on glass, by Beer and Lambert."""
    rng = np.random.default_rng(seed)
    concentration = np.zeros((height, width, 2), np.float32)
    y, x = np.mgrid[0:height, 0:width]
    inside = (x / width - 0.5) ** 2 + (y / height - 0.5) ** 2 < 0.16
    waves = 0.45 + 0.15 * np.sin(x * um_per_px / 7) * np.sin(y * um_per_px / 11)
    concentration[..., 1] = np.where(inside, waves, 0)
    concentration[..., 0] = np.where(inside, 0.1, 0)
    nuclei = np.zeros((height, width), np.uint8)
    for cx, cy in rng.uniform(0, 1, (int(width * height * um_per_px**2 / 150), 2)):
        radius = max(1, round(rng.uniform(3.0, 4.5) / um_per_px))
        cv2.circle(nuclei, (int(cx * width), int(cy * height)), radius, 1, -1)
    concentration[(nuclei > 0) & inside] = (1.2, 0.15)
    od = concentration @ np.stack([HAEMATOXYLIN, EOSIN / np.linalg.norm(EOSIN)])
    noise = rng.normal(0, 1.5, od.shape)
    return np.clip(np.asarray(GLASS) * np.exp(-od) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def make_slide(tmp_path: Path) -> Callable[..., Path]:
    """Write an image as a slide and return its path."""

    def make(image: NDArray[np.uint8], *, mpp: float | None = 0.5, name: str = "S-1", **options: object) -> Path:
        path = tmp_path / f"{name}.svs"
        write_pyramid(path, image, mpp=mpp, **{"quality": 95, "downsamples": (4,), **options})  # type: ignore[arg-type]
        return path

    return make


@pytest.fixture(scope="session")
def tissue_image() -> NDArray[np.uint8]:
    """A non-square picture of tissue at 0.5 um per px, 900 wide and 700 high."""
    return draw_tissue(900, 700)
