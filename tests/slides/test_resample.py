"""Area resampling is the mean of what an output pixel covers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.core.errors import TileError
from helpers.slides.resample import Box, resample_area, weigh_pixels


def average_slowly(image: NDArray[np.uint8], box: Box, width: int, height: int) -> NDArray[np.float64]:
    """Oracle: every output pixel, every input pixel, the area they share; float64."""
    out = np.zeros((height, width, image.shape[2]))
    for row in range(height):
        top, bottom = box.top + box.height * row / height, box.top + box.height * (row + 1) / height
        share_y = [max(0.0, min(bottom, y + 1) - max(top, y)) for y in range(image.shape[0])]
        for column in range(width):
            left, right = box.left + box.width * column / width, box.left + box.width * (column + 1) / width
            share_x = [max(0.0, min(right, x + 1) - max(left, x)) for x in range(image.shape[1])]
            weights = np.outer(share_y, share_x)
            out[row, column] = (image * weights[..., None]).sum(axis=(0, 1)) / weights.sum()
    return out


IMAGE = np.random.default_rng(3).integers(0, 256, (23, 31, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("box", "width", "height"),
    [
        (Box(left=0, top=0, width=30, height=20), 10, 5),
        (Box(left=1, top=2, width=20, height=20), 7, 9),
        (Box(left=0.25, top=1.5, width=17.3, height=11.7), 8, 5),
        (Box(left=0, top=0, width=20.5, height=20.5), 10, 10),
    ],
    ids=["whole factors", "fractional factors", "fractional edges", "fractional size"],
)
def test_a_smaller_picture_holds_the_means_of_the_areas(box: Box, width: int, height: int) -> None:
    found = resample_area(IMAGE, box, width=width, height=height)
    assert found.shape == (height, width, 3)
    assert np.abs(found - average_slowly(IMAGE, box, width, height)).max() <= 0.51, "not the area mean"


def test_enlarging_is_an_area_mean_too_within_a_grey_level() -> None:
    box = Box(left=2, top=3, width=10, height=8)
    found = resample_area(IMAGE, box, width=17, height=13)
    assert np.abs(found - average_slowly(IMAGE, box, 17, 13)).max() <= 1.0


def test_at_the_same_resolution_pixels_are_untouched() -> None:
    found = resample_area(IMAGE, Box(left=4, top=6, width=9, height=5), width=9, height=5)
    assert (found == IMAGE[6:11, 4:13]).all()


@settings(max_examples=60, deadline=None)
@given(
    start=st.floats(0, 10), length=st.floats(0.5, 20), n_out=st.integers(1, 30),
)  # fmt: skip
def test_weights_of_each_output_pixel_sum_to_one_and_stay_inside(start: float, length: float, n_out: int) -> None:
    weights = weigh_pixels(start, length, size=31, n_out=n_out).toarray()
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert (weights >= 0).all()
    used = np.flatnonzero(weights.sum(axis=0) > 1e-6)
    assert used.min() >= int(start) - 1e-6
    assert used.max() <= start + length + 1e-6


def test_a_box_that_leaves_the_image_is_refused_with_its_corners() -> None:
    with pytest.raises(TileError, match=r"from \(25\.00, 0\.00\) to \(35\.00, 5\.00\) leaves an image of 31 x 23 px"):
        resample_area(IMAGE, Box(left=25, top=0, width=10, height=5), width=5, height=5)
