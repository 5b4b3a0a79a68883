"""Random fields, point patterns and sprites: the parts every phantom slide is made of."""

import numpy as np
import pytest

from helpers.phantom.fields import (
    draw_noise,
    keep_apart,
    make_rng,
    measure_depth,
    sample_at,
    scatter_points,
    select_share,
)
from helpers.phantom.sprites import (
    ANGLES,
    PLANE_SCALE,
    SIZE_STEP,
    UNIT,
    VARIANTS,
    get_sprite,
    stamp_sprite,
)


def keep_apart_slowly(points: np.ndarray, radius: np.ndarray) -> list[int]:
    kept: list[int] = []
    for row in range(len(points)):
        gaps = [(np.hypot(*(points[row] - points[other])), (radius[row] + radius[other]) / 2) for other in kept]
        if all(gap >= limit for gap, limit in gaps):
            kept.append(row)
    return kept


@pytest.mark.parametrize("count", [0, 1, 2, 400])
def test_thinning_in_rounds_keeps_what_the_one_by_one_rule_keeps(count: int) -> None:
    rng = np.random.default_rng(5)
    points, radius = rng.uniform(0, 100, (count, 2)), rng.uniform(4, 12, count)
    assert keep_apart(points, radius).tolist() == keep_apart_slowly(points, radius)


def test_noise_has_mean_0_and_sd_1() -> None:
    axis = np.arange(400.0)
    noise = draw_noise(make_rng(1, "test"), axis, axis, wavelength_um=4.0)
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1.0) < 0.05


def test_noise_is_the_same_surface_at_every_resolution() -> None:
    fine, coarse = (np.arange(0.0, 100.0, step) for step in (0.5, 2.0))
    surfaces = [draw_noise(make_rng(1, "test"), axis, axis, wavelength_um=20.0) for axis in (fine, coarse)]
    assert np.abs(surfaces[0][::4, ::4] - surfaces[1]).max() < 1e-5


def test_named_streams_differ_and_repeat() -> None:
    assert make_rng(1, "nests").random() == make_rng(1, "nests").random()
    assert make_rng(1, "nests").random() != make_rng(1, "fibres").random()


def test_a_share_is_met_to_the_pixel() -> None:
    field = np.random.default_rng(2).standard_normal((50, 60)).astype(np.float32)
    within = np.zeros((50, 60), bool)
    within[10:40] = True
    chosen = select_share(field, within, 450)
    assert chosen.sum() == 450
    assert not (chosen & ~within).any()
    assert field[chosen].min() >= field[within & ~chosen].max(), "a lower pixel was chosen before a higher one"
    assert select_share(field, within, 0).sum() == 0
    assert (select_share(field, within, 10_000) == within).all()


def test_points_follow_the_intensity() -> None:
    per_mm2 = np.zeros((50, 100), np.float32)
    per_mm2[:, 50:] = 4000.0  # the right half: 250 um x 250 um at 5 um per pixel
    points = scatter_points(np.random.default_rng(3), per_mm2, 5.0)
    assert points[:, 0].min() >= 250.0
    assert abs(len(points) - 4000 * 0.25 * 0.25) < 4 * 250**0.5


def test_depth_is_the_distance_to_the_edge_in_um() -> None:
    mask = np.zeros((41, 41), bool)
    mask[10:31, 5:36] = True
    depth = measure_depth(mask, 2.0)
    assert depth[20, 20] == pytest.approx(22.0, abs=1.0)
    assert depth[~mask].max() == 0


def test_sampling_reads_x_as_column_and_y_as_row() -> None:
    field = np.arange(12).reshape(3, 4)
    points = np.array([[35.0, 5.0], [5.0, 25.0], [999.0, 999.0]])
    assert sample_at(field, points, 10.0).tolist() == [3, 8, 11]


@pytest.mark.parametrize("kind", ["tumour", "benign", "lymphocyte", "fibroblast"])
@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_a_nucleus_has_the_area_its_diameter_promises(kind: str, mpp: float) -> None:
    size = 42  # 7.8 um
    sprites = [get_sprite(mpp, 0, kind, size, 2, 1, 1, variant) for variant in range(VARIANTS)]
    area_um2 = np.mean([sprite.core.sum() for sprite in sprites]) * mpp**2
    assert area_um2 == pytest.approx(np.pi / 4 * SIZE_STEP ** (2 * size), rel=0.08)


def test_chromatin_texture_leaves_the_mean_density_alone() -> None:
    for variant in range(VARIANTS):
        sprite = get_sprite(0.25, 0, "tumour", 42, 2, 1, 0, variant)
        assert abs(sprite.clumps[sprite.core].mean()) < 0.03 * PLANE_SCALE
        assert sprite.clumps[sprite.core].std() > 0.06 * PLANE_SCALE


def test_angles_turn_the_major_axis_from_x_towards_y() -> None:
    for angle in range(4 * ANGLES):
        core = get_sprite(0.25, 0, "fibroblast", 40, 16, 0, angle, 0).core
        y, x = np.nonzero(core) - np.array([[core.shape[0] // 2], [core.shape[1] // 2]])
        found = 0.5 * np.arctan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean())
        wanted = angle * np.pi / 2 / ANGLES
        assert abs((found - wanted + np.pi / 2) % np.pi - np.pi / 2) < 0.65 * np.pi / 2 / ANGLES


def test_families_share_no_drawing() -> None:
    bodies = [get_sprite(0.5, family, "tumour", 42, 2, 1, 0, 0).clumps for family in (0, 1)]
    assert bodies[0].shape != bodies[1].shape or (bodies[0] != bodies[1]).any()


def test_a_stamp_darkens_the_nucleus_and_nothing_else() -> None:
    haematoxylin, eosin = np.full((80, 80), 30, np.int16), np.full((80, 80), 90, np.int16)
    sprite = get_sprite(0.5, 0, "lymphocyte", 37, 0, 0, 0, 0)
    stamp_sprite(haematoxylin, eosin, sprite, row=40, column=20, darkness=UNIT, contrast=UNIT)
    changed = (haematoxylin != 30) | (eosin != 90)
    rows, columns = np.nonzero(changed)
    assert abs(rows.mean() - 40) < 1
    assert abs(columns.mean() - 20) < 1
    assert haematoxylin[40, 20] > 0.4 * PLANE_SCALE
    assert eosin[40, 20] < 90


@pytest.mark.parametrize("kind", ["mitosis", "apoptosis"])
def test_mitoses_and_apoptoses_are_darker_than_any_nucleus(kind: str) -> None:
    dark = np.median([get_sprite(0.25, 0, kind, 50, 0, 0, 0, variant).body.max() for variant in range(VARIANTS)])
    assert dark > 1.2 * get_sprite(0.25, 0, "lymphocyte", 37, 0, 0, 0, 0).body.max()
