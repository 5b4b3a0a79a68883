"""The phantom renderer: what is planted can be seen, what is not planted does not change."""

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.core.errors import PhantomError
from helpers.phantom.morphology import draw_preparation
from helpers.phantom.nuclei import KINDS, Cells, place_cells
from helpers.phantom.plan import ARTEFACTS, SlidePlan
from helpers.phantom.renderer import RenderedSlide, render_slide
from helpers.phantom.stains import blur_plane, build_table
from helpers.phantom.tissue import plan_tissue

PLAN = SlidePlan(slide_id="S-001", seed=20_261, slide_um=300.0, mpp=0.5, scanner_noise=0.0)
REFERENCE = Path(__file__).with_name("reference_slide.png")
REFERENCE_PLAN = replace(PLAN, slide_um=150.0, mpp=1.0, scanner_noise=1.5, proliferation=1.0, til_level=0.3)


@pytest.fixture(scope="module")
def slide() -> RenderedSlide:
    return render_slide(PLAN)


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def place(**changes: object) -> Cells:
    plan = replace(PLAN, slide_um=900.0, **changes)
    return place_cells(plan, plan_tissue(plan), draw_preparation(plan))


def pick(cells: Cells, *kinds: str) -> Cells:
    return cells[np.isin(cells["kind"], [KINDS.index(kind) for kind in kinds])]


def compute_density(image: np.ndarray, background: tuple[float, ...]) -> np.ndarray:
    return -np.log10(np.maximum(image, 1) / np.asarray(background))


# ---------------------------------------------------------------------------------------------- one plan, one slide


def test_equal_plans_give_equal_pixels_and_another_seed_another_slide(slide: RenderedSlide) -> None:
    assert digest(render_slide(PLAN).image) == digest(slide.image)
    assert digest(render_slide(replace(PLAN, slide_id="other name")).image) == digest(slide.image)
    assert digest(render_slide(replace(PLAN, seed=1)).image) != digest(slide.image)


def test_pixels_do_not_depend_on_what_was_drawn_before_or_on_threads(slide: RenderedSlide) -> None:
    render_slide(replace(PLAN, seed=77, mpp=0.46))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1 if threads > 1 else 2)
    try:
        assert digest(render_slide(PLAN).image) == digest(slide.image)
    finally:
        cv2.setNumThreads(threads)


def test_the_reference_slide_is_drawn_to_the_grey_level() -> None:
    """Bit for bit on one family of CPUs; elsewhere at most one level in at most 0.1 % of the values."""
    reference = cv2.cvtColor(cv2.imread(str(REFERENCE)), cv2.COLOR_BGR2RGB)
    difference = np.abs(render_slide(REFERENCE_PLAN).image.astype(int) - reference)
    assert difference.max() <= 1, "a pixel changed by more than a grey level: the renderer draws something else"
    assert (difference > 0).mean() <= 0.001


def test_image_and_maps_have_the_stated_sizes(slide: RenderedSlide) -> None:
    assert slide.image.shape == (600, 600, 3)
    assert slide.image.dtype == np.uint8
    assert set(slide.maps) == {"proliferation", "tumour", "til", "nuclear_density"}
    assert slide.maps_um_per_px == 25.0
    for name, values in slide.maps.items():
        assert values.shape == (12, 12), name
        assert values.dtype == np.float32, name


# ---------------------------------------------------------------------------------------------------- colour, optics


def test_glass_is_the_planned_background() -> None:
    image = render_slide(replace(PLAN, background=(240.0, 238.0, 233.0))).image
    corners = np.stack([image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]])
    assert (corners == (240, 238, 233)).all()
    assert (image <= (240, 238, 233)).all(), "something is brighter than glass"


def test_noise_has_the_planned_sd_on_glass() -> None:
    image = render_slide(replace(PLAN, scanner_noise=2.0, background=(200.0, 200.0, 200.0), slide_um=600.0)).image
    clear = render_slide(replace(PLAN, background=(200.0, 200.0, 200.0), slide_um=600.0)).image.min(axis=2) == 200
    assert image[clear].std() == pytest.approx(2.0, abs=0.15)
    assert image[clear].mean() == pytest.approx(200.0, abs=0.1)


@pytest.mark.parametrize(
    ("stain_h", "stain_e"),
    [((0.651, 0.701, 0.290), (0.216, 0.801, 0.558)), ((0.5626, 0.7201, 0.4062), (0.0704, 0.9918, 0.1066))],
)
def test_optical_densities_lie_in_the_plane_of_the_planted_stains(
    stain_h: tuple[float, float, float], stain_e: tuple[float, float, float]
) -> None:
    plan = replace(PLAN, stain_h=stain_h, stain_e=stain_e)
    density = compute_density(render_slide(plan).image, plan.background).reshape(-1, 3)
    density = density[(density.sum(axis=1) > 0.25) & (density.max(axis=1) < 1.0)]
    basis = -np.linalg.qr(np.array([stain_h, stain_e]).T)[0]  # haematoxylin along the first axis
    residual = density - density @ basis @ basis.T
    assert np.abs(residual).mean() < 0.004, "colours left the plane of haematoxylin and eosin"
    bearing = np.arctan2(density @ basis[:, 1], density @ basis[:, 0])
    low, high = np.percentile(bearing, [1, 99])  # as Macenko does
    angles = [np.arctan2(*(np.array(vector) @ basis)[::-1]) for vector in (stain_h, stain_e)]
    for found, wanted in zip(sorted((low, high)), sorted(angles), strict=True):
        assert np.degrees(abs(found - wanted)) < 6


def test_a_stronger_stain_multiplies_optical_density(slide: RenderedSlide) -> None:
    strong = render_slide(replace(PLAN, strength_h=1.5, strength_e=1.5)).image
    before, after = (compute_density(image, PLAN.background) for image in (slide.image, strong))
    middle = (before > 0.1) & (before < 0.7)
    assert np.median(after[middle] / before[middle]) == pytest.approx(1.5, abs=0.02)


def test_the_table_is_beer_and_lambert() -> None:
    table = build_table(PLAN)
    amounts = np.array([[0, 0], [200, 0], [0, 200], [120, 330]])
    for h, e in amounts:
        density = h / 400 * np.array(PLAN.stain_h) + e / 400 * np.array(PLAN.stain_e)
        assert table[h, e] == pytest.approx(np.array(PLAN.background) * 10**-density, abs=0.51)


def test_blur_spreads_and_keeps_the_amount() -> None:
    plane = np.zeros((41, 41), np.int16)
    plane[20, 20] = 1000
    blurred = blur_plane(plane, 1.5)
    assert blurred.sum() == pytest.approx(1000, rel=0.03)
    assert blurred.max() < 100
    assert blur_plane(plane, 0.1) is plane


# ------------------------------------------------------------------------------------------------ geometry is in um


def test_tissue_is_the_same_at_every_resolution() -> None:
    slides = {mpp: render_slide(replace(PLAN, mpp=mpp, scanner_blur_um=1.0)) for mpp in (0.25, 0.5, 1.0)}
    grey = {
        mpp: cv2.resize(slide.image, (300, 300), interpolation=cv2.INTER_AREA).mean(axis=2)
        for mpp, slide in slides.items()
    }
    for mpp in (0.25, 0.5):
        assert (slides[mpp].cells == slides[1.0].cells).all()
        assert np.corrcoef(grey[mpp].ravel(), grey[1.0].ravel())[0, 1] > 0.97
        assert grey[mpp].mean() == pytest.approx(grey[1.0].mean(), abs=1.0)
        for name in slides[mpp].maps:
            np.testing.assert_array_equal(slides[mpp].maps[name], slides[1.0].maps[name])


def test_a_resolution_that_does_not_divide_the_slide_is_drawn_too() -> None:
    assert render_slide(replace(PLAN, mpp=0.46)).image.shape == (652, 652, 3)
    assert render_slide(replace(PLAN, mpp=0.2525)).image.shape == (1188, 1188, 3)


def test_tissues_take_their_planned_shares() -> None:
    plan = replace(PLAN, slide_um=900.0, tumour_fraction=0.5, fat_fraction=0.2, benign_fraction=0.1, tumour_stroma=0.3)
    tissue = plan_tissue(plan)
    area = tissue.tissue.sum()
    assert tissue.tumour.sum() / area == pytest.approx(0.5, abs=0.001)
    assert tissue.fat.sum() / area == pytest.approx(0.2, abs=0.001)
    assert tissue.benign.sum() / area == pytest.approx(0.1, abs=0.001)
    assert tissue.nest.sum() / tissue.tumour.sum() == pytest.approx(0.7, abs=0.001)
    assert not (tissue.tumour & (tissue.fat | tissue.benign)).any()


def test_a_slide_without_tumour_has_no_proliferation() -> None:
    slide = render_slide(replace(PLAN, tumour_fraction=0.0, fat_fraction=0.0, benign_fraction=0.0))
    assert np.isnan(slide.maps["proliferation"]).all()
    assert slide.maps["tumour"].max() == 0
    assert slide.counts["tumour"] == slide.counts["mitosis"] == slide.counts["fat_cells"] == 0


# ------------------------------------------------------------------------------------------------------------- truth


def test_the_tumour_mean_of_the_proliferation_map_is_the_plan() -> None:
    for proliferation, hotspots in ((-1.3, 0), (1.7, 3)):
        slide = render_slide(
            replace(PLAN, slide_um=600.0, mpp=2.0, proliferation=proliferation, hotspot_count=hotspots)
        )
        values, weights = slide.maps["proliferation"], slide.maps["tumour"]
        mean = np.nansum(values * weights) / weights[~np.isnan(values)].sum()
        assert mean == pytest.approx(proliferation, abs=0.1)


def test_hotspots_stand_out() -> None:
    plans = [replace(PLAN, slide_um=900.0, hotspot_count=count, hotspot_gain=2.0) for count in (0, 1)]
    spreads = []
    for plan in plans:
        tissue = plan_tissue(plan)
        spreads.append(np.ptp(tissue.proliferation[tissue.nest]))
    assert spreads[1] > spreads[0] + 1.0


def test_density_maps_count_the_cells_drawn(slide: RenderedSlide) -> None:
    pixel_mm2 = (slide.maps_um_per_px / 1000) ** 2
    nuclei = sum(slide.counts[kind] for kind in KINDS if kind != "erythrocyte")
    assert slide.maps["nuclear_density"].sum() * pixel_mm2 == pytest.approx(nuclei, rel=1e-4)
    assert slide.maps["til"].sum() * pixel_mm2 == pytest.approx(slide.counts["lymphocyte"], rel=1e-4)
    assert len(slide.cells) == nuclei + slide.counts["erythrocyte"]


def test_nuclei_are_drawn_where_the_map_says(slide: RenderedSlide) -> None:
    basis = np.linalg.pinv(np.array([PLAN.stain_h, PLAN.stain_e]))
    blue = (compute_density(slide.image, PLAN.background) @ basis)[..., 0]
    dark = cv2.resize((blue > 0.3).astype(np.float32), (12, 12), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(dark.ravel(), slide.maps["nuclear_density"].ravel())[0, 1] > 0.75
    lymphocytes = pick(slide.cells, "lymphocyte")
    inside = (lymphocytes["y_um"] < 299) & (lymphocytes["x_um"] < 299)
    rows, columns = ((lymphocytes[axis][inside] / PLAN.mpp).astype(int) for axis in ("y_um", "x_um"))
    assert np.median(blue[rows, columns]) > 0.5, "lymphocytes do not lie where the table says"


@pytest.mark.parametrize("seed", range(12))
def test_glands_over_the_edge_of_the_field_leave_no_cell_outside(seed: int) -> None:
    plan = replace(PLAN, seed=seed, mpp=1.0, benign_fraction=0.9, tumour_fraction=0.0, fat_fraction=0.05)
    cells = render_slide(plan).cells
    for axis in ("x_um", "y_um"):
        assert cells[axis].min() >= 0
        assert cells[axis].max() < plan.slide_um


def test_the_largest_and_wildest_nuclei_still_fit() -> None:
    solid = {"tumour_fraction": 1.0, "tumour_stroma": 0.0, "fat_fraction": 0.0, "benign_fraction": 0.0}
    wild = {"nuclear_um": 20.0, "nuclear_aspect": 3.0, "pleomorphism": 3.0, "proliferation": 6.0}
    assert render_slide(replace(PLAN, **solid, **wild)).counts["tumour"] > 50


def test_cells_lie_inside_the_tissue_and_outside_lumina(slide: RenderedSlide) -> None:
    tissue = plan_tissue(PLAN)
    hollow = tissue.fill([*tissue.lumina, *tissue.vacuoles, *tissue.gland_lumina])
    nuclei = pick(slide.cells, "tumour", "benign", "lymphocyte", "fibroblast", "mitosis")
    row, column = (np.minimum((nuclei[axis] / tissue.pixel_um).astype(int), 149) for axis in ("y_um", "x_um"))
    assert tissue.tissue[row, column].all()
    assert not hollow[row, column].any()
    tumour = pick(slide.cells, "tumour", "mitosis", "apoptosis")
    row, column = ((tumour[axis] / tissue.pixel_um).astype(int) for axis in ("y_um", "x_um"))
    assert tissue.nest[row, column].all()


# ------------------------------------------------------------------------------------------------ drivers are visible


def test_proliferation_raises_mitoses_crowding_size_and_chromatin_contrast() -> None:
    low, high = (place(proliferation=z, tumour_fraction=0.8) for z in (-2.0, 2.0))
    mitoses = [len(pick(cells, "mitosis")) for cells in (low, high)]
    assert mitoses[1] > 4 * max(1, mitoses[0])
    low, high = (pick(cells, "tumour") for cells in (low, high))
    assert 1.15 < len(high) / len(low) < 1.55, "expected about exp(0.08 x 4) = 1.38"
    assert high["diameter_um"].mean() / low["diameter_um"].mean() == pytest.approx(np.exp(0.12), abs=0.03)
    assert high["contrast"].mean() / low["contrast"].mean() == pytest.approx(np.exp(0.72), rel=0.08)


def test_proliferation_hardly_moves_the_mean_colour() -> None:
    means = [render_slide(replace(PLAN, proliferation=z, slide_um=500.0)).image.mean(axis=(0, 1)) for z in (-1.0, 1.0)]
    weak = render_slide(replace(PLAN, strength_h=0.85, slide_um=500.0)).image.mean(axis=(0, 1))
    base = render_slide(replace(PLAN, slide_um=500.0)).image.mean(axis=(0, 1))
    assert np.abs(means[1] - means[0]).max() < np.abs(weak - base).max(), "one stain batch outweighs 2 SD of the latent"


def test_grade_components_do_what_nottingham_says() -> None:
    tidy, wild = (pick(place(pleomorphism=score), "tumour") for score in (1.0, 3.0))
    assert wild["diameter_um"].mean() > 1.1 * tidy["diameter_um"].mean()
    assert wild["diameter_um"].std() > 1.8 * tidy["diameter_um"].std()
    assert wild["rough"].mean() > 2 * tidy["rough"].mean()
    lumina = [len(plan_tissue(replace(PLAN, slide_um=900.0, tubule=score)).lumina) for score in (1.0, 2.0, 3.0)]
    assert lumina[0] > lumina[1] > 3 * lumina[2]
    counts = [len(pick(place(mitosis=score, proliferation=1.5), "mitosis")) for score in (1.0, 3.0)]
    assert counts[1] > counts[0]


def test_til_level_fills_the_stroma_with_lymphocytes() -> None:
    counts = [len(pick(place(til_level=level), "lymphocyte")) for level in (0.0, 0.1, 0.5)]
    assert counts[0] < 40
    assert counts[1] > 3 * counts[0]
    assert counts[2] > 2.5 * counts[1]


def test_loss_of_cohesion_breaks_nests_into_files() -> None:
    depths = []
    for cohesion in (0.0, 1.0):
        tissue = plan_tissue(replace(PLAN, slide_um=900.0, cohesion=cohesion))
        depths.append(float(np.median(tissue.depth[tissue.nest])))
    assert depths[0] < 0.7 * depths[1], "single files are no thinner than nests"


def test_case_drivers_leave_the_layout_alone() -> None:
    plain, other = (
        plan_tissue(plan) for plan in (PLAN, replace(PLAN, proliferation=2.0, til_level=0.6, strength_h=1.2))
    )
    assert (plain.tissue == other.tissue).all()
    assert (plain.nest == other.nest).all()


# --------------------------------------------------------------------------------------------------------- artefacts


@pytest.mark.parametrize("name", ARTEFACTS)
def test_an_artefact_changes_its_region_and_nothing_else(slide: RenderedSlide, name: str) -> None:
    spoilt = render_slide(replace(PLAN, artefacts=(name,)))
    (region,) = spoilt.artefacts
    changed = (spoilt.image != slide.image).any(axis=2)
    assert region.name == name
    assert changed[region.window].any(), "the artefact cannot be seen"
    changed[region.window] = False
    assert not changed.any(), "pixels changed outside the stated region"
    assert slide.artefacts == ()
    for key in slide.maps:
        np.testing.assert_array_equal(spoilt.maps[key], slide.maps[key])


def test_all_artefacts_may_meet_on_one_slide() -> None:
    spoilt = render_slide(replace(PLAN, artefacts=ARTEFACTS))
    assert sorted(region.name for region in spoilt.artefacts) == sorted(ARTEFACTS)


# ----------------------------------------------------------------------------------------------- refusals, by message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mpp": 0.0}, "mpp is 0.0, expected 0.1 to 2.0"),
        ({"proliferation": float("nan")}, "proliferation is nan, expected -6.0 to 6.0"),
        ({"tubule": 3.5}, "tubule is 3.5, expected 1.0 to 3.0"),
        ({"stain_h": (0.5, 0.5, 0.5)}, "stain_h is (0.5, 0.5, 0.5) with length 0.8660"),
        ({"background": (300.0, 240.0, 240.0)}, "background is (300.0, 240.0, 240.0)"),
        ({"tumour_fraction": 0.7, "fat_fraction": 0.4}, "tumour_fraction + benign_fraction + fat_fraction is 1.180"),
        ({"artefacts": ("smear",)}, "artefacts are ('smear',), expected a subset of ('pen', 'blur', 'fold', 'bubble')"),
        ({"artefacts": ("pen", "pen")}, "without repetition"),
    ],
)
def test_a_plan_that_cannot_be_drawn_names_the_field(changes: dict, message: str) -> None:
    with pytest.raises(PhantomError) as error:
        replace(PLAN, **changes)
    assert "'S-001'" in str(error.value)
    assert message in str(error.value)


def test_a_slide_too_large_for_one_piece_is_refused() -> None:
    with pytest.raises(PhantomError, match=r"20000 um at 0.25 um per px is 80000 px wide, expected at most 32000"):
        render_slide(replace(PLAN, slide_um=20_000.0, mpp=0.25))
