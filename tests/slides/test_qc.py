"""What the quality columns answer to."""

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from helpers.slides.qc import MEASURED, QC_COLUMNS, Typical, measure_stains, measure_tile, measure_typical
from helpers.slides.stain import Stain
from tests.slides.conftest import EOSIN, GLASS, HAEMATOXYLIN, draw_tissue

BACKGROUND = tuple(float(level) for level in GLASS)
TISSUE = draw_tissue(1200, 1200)[400:656, 400:656]
TYPICAL = Typical(density=0.25, blue_per_green=0.4)


def measure(tile: NDArray[np.uint8]) -> dict[str, float]:
    return measure_tile(tile, BACKGROUND, um_per_px=0.5, typical=TYPICAL)  # type: ignore[arg-type]


def test_every_column_is_measured_and_explained() -> None:
    assert tuple(measure(TISSUE)) == MEASURED
    assert all(QC_COLUMNS.values())


def test_laplacian_variance_is_the_textbook_formula() -> None:
    grey = cv2.cvtColor(TISSUE, cv2.COLOR_RGB2GRAY).astype(float)
    padded = np.pad(grey, 1, mode="reflect")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    assert measure(TISSUE)["focus_laplacian_var"] == pytest.approx(laplacian.var(), rel=1e-4)


def test_blur_lowers_both_focus_measures() -> None:
    blurred = measure(cv2.GaussianBlur(TISSUE, (0, 0), 5))
    assert blurred["focus_laplacian_var"] < 0.1 * measure(TISSUE)["focus_laplacian_var"]
    assert blurred["sharpness"] < 0.6 * measure(TISSUE)["sharpness"]


def test_sharpness_depends_less_on_the_amount_of_tissue_than_the_laplacian_does() -> None:
    half = TISSUE.copy()
    half[:, 128:] = GLASS
    full, part = measure(TISSUE), measure(half)
    assert abs(part["sharpness"] / full["sharpness"] - 1) < abs(
        part["focus_laplacian_var"] / full["focus_laplacian_var"] - 1
    )


@pytest.mark.parametrize(("name", "ink"), [("red", (205, 45, 55)), ("green", (60, 150, 100)), ("blue", (50, 70, 185))])
def test_a_marker_line_raises_its_own_column_only(name: str, ink: tuple[int, int, int]) -> None:
    tile = np.full((256, 256, 3), GLASS, np.uint8)
    tile[:, 64:128] = ink
    found = measure(tile)
    assert found[f"pen_{name}_fraction"] == pytest.approx(0.25, abs=0.01)
    assert sum(found[f"pen_{other}_fraction"] for other in ("red", "green", "blue", "black") if other != name) == 0


def test_doubled_tissue_is_thick_and_crowded_nuclei_are_not() -> None:
    share = TISSUE.astype(float) / GLASS
    folded = (share**2.2 * GLASS).astype(np.uint8)
    assert measure(folded)["thick_fraction"] > 0.5
    assert measure(TISSUE)["thick_fraction"] < 0.02


def test_a_grey_shadow_is_told_from_a_strong_stain() -> None:
    rim = TISSUE.copy()
    rim[100:140] = (rim[100:140] * 0.4).astype(np.uint8)
    assert measure(rim)["grey_fraction"] > 0.08
    assert measure(TISSUE)["grey_fraction"] < 0.01


def test_an_empty_tile_has_no_density_to_speak_of() -> None:
    found = measure(np.full((256, 256, 3), GLASS, np.uint8))
    assert found["stained_fraction"] == 0
    assert np.isnan(found["od_red"])
    assert (found["sharpness"], found["thick_fraction"]) == (0.0, 0.0)


def test_mean_concentrations_are_those_of_the_mean_density() -> None:
    stain = Stain(
        haematoxylin=tuple(HAEMATOXYLIN), eosin=tuple(EOSIN), scale_h=1, scale_e=1, split_h=0.5, nuclear_h=1,
        background=BACKGROUND, n_pixels=1,
    )  # type: ignore[arg-type]  # fmt: skip
    qc = pd.DataFrame([dict(zip(("od_red", "od_green", "od_blue"), 0.7 * HAEMATOXYLIN + 0.3 * EOSIN, strict=True))])
    found = measure_stains(qc, stain)
    assert found.loc[0].tolist() == pytest.approx([0.7, 0.3], abs=1e-5)
    assert measure_stains(qc, None).isna().all(axis=None)


def test_the_yardstick_is_the_median_of_the_tissue() -> None:
    image = draw_tissue(400, 400, um_per_px=2.0)
    mask = np.zeros((400, 400), bool)
    mask[150:250, 150:250] = True
    found = measure_typical(image, mask, BACKGROUND)  # type: ignore[arg-type]
    assert 0.15 < found.density < 0.5
    assert 0.3 < found.blue_per_green < 0.5
