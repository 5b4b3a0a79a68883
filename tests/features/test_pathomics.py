"""The table of handcrafted tile features: documented, finite, independent of the batch, and true to what was planted."""

from dataclasses import replace

import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from helpers.core.errors import FeatureError
from helpers.features.encoders import TileContext
from helpers.features.nuclei import fit_image_stain, separate_checked
from helpers.features.pathomics import (
    COLUMNS,
    FEATURE_TABLE,
    GREYS,
    TOP,
    Pathomics,
    count_nuclei,
    describe_pathomics,
    measure_cooccurrence,
    measure_patterns,
    measure_pleomorphism,
    write_feature_page,
)
from helpers.features.pathomics_check import COMPARISONS, compare_tiles, correlate_tiles
from helpers.features.stain_texture import smooth
from helpers.phantom.plan import SlidePlan
from helpers.phantom.renderer import render_slide
from tests.features.test_nuclei import STAIN, draw_discs

PLAN = SlidePlan(slide_id="P-1", seed=27_182, slide_um=256.0, mpp=0.5, til_level=0.3)
UNITS = {"", "um", "um2", "per mm2", "typical nuclei", "slide's 99th percentile", "grey levels squared", "nats"}


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    image = render_slide(PLAN).image
    return np.stack([image[y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256)])


@pytest.fixture(scope="module")
def context(tiles: np.ndarray) -> TileContext:
    stain = fit_image_stain(np.concatenate(list(tiles)), um_per_px=0.5)
    return TileContext(slide_id="P-1", um_per_px=0.5, stain=stain, background=stain.background)


def test_every_column_is_documented_once_with_its_unit() -> None:
    assert len(set(COLUMNS)) == len(COLUMNS) == Pathomics().dimension
    for measure in FEATURE_TABLE:
        assert measure.unit in UNITS, f"{measure.name} has the unit '{measure.unit}'"
        assert measure.meaning
    for ending, unit in (("_per_mm2", "per mm2"), ("_um_mean", "um"), ("_um2_mean", "um2")):
        assert {measure.unit for measure in FEATURE_TABLE if measure.name.endswith(ending)} == {unit}


def test_a_description_has_exactly_the_documented_columns_in_order(tiles: np.ndarray, context: TileContext) -> None:
    assert tuple(describe_pathomics(tiles[3], context.stain, um_per_px=0.5)) == COLUMNS


def test_numbers_depend_on_the_tile_alone(tiles: np.ndarray, context: TileContext) -> None:
    encoder = Pathomics()
    together = encoder.encode(tiles, context)
    assert together.dtype == np.float32
    assert together.shape == (4, encoder.dimension)
    assert (encoder.encode(tiles[::-1], context)[::-1] == together).all()
    assert (np.concatenate([encoder.encode(tiles[i : i + 1], context) for i in range(4)]) == together).all()


@pytest.mark.parametrize("grey", [245, 255, 0])
def test_empty_tiles_are_finite_and_hold_nothing(grey: int) -> None:
    found = describe_pathomics(np.full((64, 64, 3), grey, np.uint8), STAIN, um_per_px=0.5)
    assert all(np.isfinite(value) for value in found.values())
    assert found["nuclei_per_mm2"] == 0
    assert found["area_um2_mean"] == 0


def test_rates_are_per_mm2_and_lengths_in_um() -> None:
    places = [(x, y, 4.0) for x in (14, 34, 54) for y in (14, 34, 54)]
    found = {
        um: describe_pathomics(draw_discs(*places, um=um, edge_um=68.0), STAIN, um_per_px=um) for um in (0.25, 0.5)
    }
    for values in found.values():
        assert values["nuclei_per_mm2"] == pytest.approx(9 / 0.068**2, rel=0.01)
        assert values["diameter_um_mean"] == pytest.approx(8, rel=0.1)
        assert values["nearest_um_mean"] == pytest.approx(20, rel=0.02)
    assert found[0.25]["area_um2_mean"] == pytest.approx(found[0.5]["area_um2_mean"], rel=0.08)


def test_kinds_of_nuclei_are_told_by_size_darkness_and_shape() -> None:
    planes = separate_checked(draw_discs((32, 32, 4)), STAIN, um_per_px=0.5)
    nuclei = {
        "area_um2": np.array([30.0, 30.0, 60.0, 30.0]),
        "h_mean": np.array([1.4, 1.0, 1.4, 1.2]),
        "eccentricity": np.array([0.3, 0.3, 0.3, 0.95]),
        "at_border": np.zeros(4),
    }
    found = count_nuclei(nuclei, planes)
    assert found["lymphocyte_like_share"] == 0.25, "the large, the pale and the long one are none"
    assert found["spindle_like_share"] == 0.25
    assert found["hyperchromatic_share"] == 0.5
    assert found["nuclei_per_mm2"] == pytest.approx(4 / planes.area_mm2)


def test_pleomorphism_is_zero_for_equal_nuclei_and_free_of_scale() -> None:
    area, dark = np.array([20.0, 30, 45, 60, 90]), np.full(5, 1.1)
    assert measure_pleomorphism(np.full(5, 40.0), dark)["pleomorphism_log_area_sd"] == pytest.approx(0, abs=1e-12)
    assert measure_pleomorphism(area, dark) == pytest.approx(measure_pleomorphism(4 * area, dark))
    assert measure_pleomorphism(area[:2], dark)["pleomorphism_q90_over_q50"] == 0


def test_cooccurrence_equals_scikit_image(tiles: np.ndarray, context: TileContext) -> None:
    planes = separate_checked(tiles[3], context.stain, um_per_px=0.5)
    planes = replace(planes, stained=np.ones_like(planes.stained))
    grey = np.minimum(planes.h * (GREYS / TOP), GREYS - 1).astype(np.uint8)
    found = measure_cooccurrence(planes)
    for distance, step in ((1.0, 2), (4.0, 8)):
        matrix = graycomatrix(grey, [step], [0, np.pi / 2], levels=GREYS, symmetric=True)
        both = matrix.sum(axis=3, keepdims=True) / matrix.sum()
        for name in ("contrast", "homogeneity", "energy", "correlation"):
            assert found[f"glcm_{name}_{distance:g}um"] == pytest.approx(graycoprops(both, name)[0, 0], rel=1e-6), name


def test_patterns_equal_a_slow_loop(tiles: np.ndarray, context: TileContext) -> None:
    planes = separate_checked(tiles[3][:40, :50], context.stain, um_per_px=0.5)
    h, counts = smooth(planes.h, 0.5, 0.5), np.zeros(10)
    ring = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
    for y in range(2, 38):
        for x in range(2, 48):
            if planes.stained[y, x]:
                bits = [h[y + 2 * dy, x + 2 * dx] >= h[y, x] for dy, dx in ring]
                changes = sum(bits[place] != bits[place - 1] for place in range(8))
                counts[sum(bits) if changes <= 2 else 9] += 1
    found = measure_patterns(planes)
    assert list(found.values()) == pytest.approx(counts / counts.sum())


def test_turning_a_tile_changes_no_pattern_and_no_count(tiles: np.ndarray, context: TileContext) -> None:
    straight, turned = (separate_checked(tile, context.stain, um_per_px=0.5) for tile in (tiles[3], np.rot90(tiles[3])))
    assert measure_patterns(turned) == pytest.approx(measure_patterns(straight), abs=1e-3)
    assert measure_cooccurrence(turned) == pytest.approx(measure_cooccurrence(straight), rel=1e-3)


def test_a_slide_without_stains_or_of_coarse_tiles_is_refused_by_name(tiles: np.ndarray, context: TileContext) -> None:
    with pytest.raises(FeatureError, match="slide 'P-1'.*without the slide's stains"):
        Pathomics().encode(tiles, replace(context, stain=None))
    with pytest.raises(FeatureError, match="slide 'P-1'.*2 um per px"):
        Pathomics().encode(tiles, replace(context, um_per_px=2.0))


def test_the_page_lists_every_feature() -> None:
    page = write_feature_page()
    for measure in FEATURE_TABLE:
        assert f"| `{measure.name}` | {measure.unit} | {measure.meaning} |" in page


def test_measures_follow_what_was_planted() -> None:
    plans = [
        replace(PLAN, seed=seed, slide_um=512.0, til_level=til, tubule=tubule, pleomorphism=pleomorphism)
        for seed, til, tubule, pleomorphism in ((1, 0.05, 1.2, 1.2), (2, 0.4, 2.8, 2.8), (3, 0.2, 1.5, 2.0))
    ]
    table = correlate_tiles(compare_tiles(plans)).set_index("planted")
    assert list(table.index) == [comparison.planted for comparison in COMPARISONS]
    assert table["n"].max() >= 25
    assert table.loc["nuclei per mm2", "spearman"] > 0.85
    assert table.loc["mean diameter of nuclei", "spearman"] > 0.6
    assert table.loc["lymphocytes per mm2", "spearman"] > 0.6
    assert table.loc["share of lumen", "spearman"] > 0.4
