"""Outlines go out to QuPath and drawn polygons come back in, in level-0 px and in no other frame."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from numpy.typing import NDArray

from helpers.core.errors import AnnotationError, TileError
from helpers.core.specs import TilingSpec
from helpers.slides.annotation import (
    build_outlines,
    find_annotated_tissue,
    locate_annotation,
    rasterise,
    read_annotations,
    write_outlines,
)
from helpers.slides.audit import audit_slides, compute_flow
from helpers.slides.reader import Slide, open_slide
from helpers.slides.tilefile import TileTable, read_tiles
from helpers.slides.tiling import compute_tiling_key, find_mask, tile_cohort, tile_slide
from helpers.slides.tissue import find_tissue, outline_tissue
from tests.slides.conftest import draw_tissue
from tests.slides.test_reader import make_array_slide
from tests.slides.test_tissue import make_tissue

MakeSlide = Callable[..., Path]
SPEC = TilingSpec(tile_px=64, mpp=0.5, thumbnail_px=128, min_tissue_um2=5_000)
SQUARE = [[100, 50], [300, 50], [300, 150], [100, 150], [100, 50]]
"""200 wide, 100 high."""


def make_table(mask: NDArray[np.bool_], scale_x: float = 10.0, scale_y: float = 20.0) -> TileTable:
    points, rings = outline_tissue(make_tissue(mask, scale_x=scale_x, scale_y=scale_y))
    return TileTable(
        slide_id="S-1", coords_l0=np.zeros((1, 2), np.int64), edge_l0=(64, 64), tile_px=64, overlap_px=0,
        size_l0=(round(mask.shape[1] * scale_x), round(mask.shape[0] * scale_y)), qc=pd.DataFrame(), points=points,
        rings=rings, attributes={},
    )  # fmt: skip


def make_feature(ring: Any = SQUARE, label: Any = None, **properties: Any) -> dict[str, Any]:
    named = {} if label is None else {"classification": label}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", **named, **properties}}


def collect(*features: dict[str, Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write content as the GeoJSON of a slide and return its path."""

    def write_content(content: Any, name: str = "S-1") -> Path:
        path = tmp_path / "drawn" / f"{name}.geojson"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write_content


@pytest.fixture
def holed() -> NDArray[np.bool_]:
    """Two pieces of tissue, 20 rows by 30 columns; the first has a hole with an island in it."""
    mask = np.zeros((20, 30), bool)
    mask[1:16, 2:20] = True
    mask[4:13, 5:15] = False
    mask[7:10, 8:12] = True
    mask[10:18, 23:28] = True
    return mask


# Out


def test_holes_stay_with_their_piece_and_an_island_in_a_hole_is_a_piece(holed: NDArray[np.bool_]) -> None:
    shapes = build_outlines(make_table(holed))
    assert sorted(len(shape.interiors) for shape in shapes) == [0, 0, 1]
    assert all(shape.is_valid and shape.exterior.is_ccw for shape in shapes)
    outer = max(shapes, key=lambda shape: shape.area)
    assert outer.bounds == (25.0, 30.0, 195.0, 310.0), "centres of the border pixels, x by 10 and y by 20"
    corners = 4 * 10 * 20 / 2
    assert outer.area == 170 * 280 - (110 * 200 - corners), "the hole's outline runs through the pixels around it"


def test_the_file_is_what_qupath_opens(holed: NDArray[np.bool_], tmp_path: Path) -> None:
    content = json.loads(write_outlines(make_table(holed), tmp_path / "S-1.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    assert len(content["features"]) == 3
    for feature in content["features"]:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"] == {"name": "Tissue", "color": [0, 114, 178]}
        assert feature["geometry"]["type"] == "Polygon"
        assert all(ring[0] == ring[-1] for ring in feature["geometry"]["coordinates"]), "an open ring"
        assert uuid.UUID(feature["id"]).version == 5
    assert len({feature["id"] for feature in content["features"]}) == 3
    assert len({feature["properties"]["name"] for feature in content["features"]}) == 3


def test_equal_input_gives_equal_bytes(holed: NDArray[np.bool_], tmp_path: Path) -> None:
    first = write_outlines(make_table(holed), tmp_path / "a" / "S-1.geojson").read_bytes()
    assert write_outlines(make_table(holed), tmp_path / "b" / "S-1.geojson").read_bytes() == first
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["S-1.geojson"]


def test_a_strand_one_pixel_wide_has_no_area_and_leaves_valid_outlines() -> None:
    mask = np.zeros((12, 30), bool)
    mask[2:8, 3:9] = mask[2:8, 20:26] = True
    mask[5, 9:20] = True  # joins both
    mask[10, 3:9] = True  # lies alone
    (shape,) = build_outlines(make_table(mask))
    assert shape.geom_type == "MultiPolygon"
    roots = 40 * 10 / 2  # where the strand begins, its first pixel is a corner of the piece
    assert shape.is_valid
    assert [part.area for part in shape.geoms] == [50 * 100 + roots, 50 * 100 + roots]


def test_outlines_come_back_with_the_same_area(holed: NDArray[np.bool_], tmp_path: Path) -> None:
    table = make_table(holed, scale_x=31.97, scale_y=16.03)
    found = read_annotations(write_outlines(table, tmp_path / "S-1.geojson"), slide_id="S-1", size_l0=table.size_l0)
    expected = shapely.union_all(build_outlines(table))
    assert found.area == pytest.approx(expected.area, rel=1e-3)
    assert sum(len(part.interiors) for part in found.geoms) == 1


# In


@pytest.mark.parametrize(
    "content",
    [
        collect(make_feature()),
        [make_feature()],
        make_feature(),
        {"type": "Polygon", "coordinates": [SQUARE]},
        {"type": "MultiPolygon", "coordinates": [[SQUARE]]},
        {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": [SQUARE]}]},
        make_feature(SQUARE[:-1]),
        make_feature(SQUARE[::-1]),
        make_feature([[*corner, 0.0] for corner in SQUARE]),
        collect(make_feature(), make_feature()),
        [make_feature(), {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}],
        [make_feature(), {"type": "Feature", "geometry": None, "properties": None}],
    ],
    ids=["collection", "list", "feature", "polygon", "multipolygon", "geometries", "open ring", "clockwise", "with z",
         "drawn twice", "beside a point", "beside nothing"],
)  # fmt: skip
def test_every_form_of_geojson_reads_the_same(content: Any, write: Callable[..., Path]) -> None:
    found = read_annotations(write(content), slide_id="S-1", size_l0=(400, 200))
    assert found.geom_type == "MultiPolygon"
    assert (found.bounds, found.area) == ((100.0, 50.0, 300.0, 150.0), 20_000.0)


@pytest.mark.parametrize(
    "feature",
    [
        make_feature(label={"name": "Tumor", "color": [200, 0, 0]}),
        make_feature(label={"name": "Tumor", "colorRGB": -3670016}),
        make_feature(label={"names": ["Tumor"]}),
        make_feature(label="tumor"),
        {**make_feature(), "properties": {"label": "TUMOR"}},
        {**make_feature(), "properties": {"label": {"name": "Tumor"}}},
        {**make_feature(), "properties": {}, "classification": "Tumor"},
    ],
)
def test_a_class_is_read_wherever_it_is_written(feature: dict[str, Any], write: Callable[..., Path]) -> None:
    other = make_feature([[0, 0], [50, 0], [50, 40]], "Stroma")
    found = read_annotations(write(collect(other, feature)), slide_id="S-1", classes=["Tumor"])
    assert found.area == 20_000


def test_derived_classes_are_named_as_qupath_shows_them(write: Callable[..., Path]) -> None:
    path = write(make_feature(label={"names": ["Tumor", "Invasive"]}))
    assert read_annotations(path, slide_id="S-1", classes=["tumor: invasive"]).area == 20_000


def test_without_classes_all_are_read_but_what_qupath_ignores(write: Callable[..., Path]) -> None:
    left = [[0, 0], [50, 0], [50, 40], [0, 40]]
    path = write(collect(make_feature(label="Tumor"), make_feature(left, "Ignore*")))
    assert read_annotations(path, slide_id="S-1").area == 20_000
    assert read_annotations(path, slide_id="S-1", classes=["ignore*"]).area == 2_000


@pytest.mark.parametrize("kind", [{"objectType": "cell"}, {"object_type": "detection"}], ids=["0.4", "0.3"])
def test_cells_are_no_annotations(kind: dict[str, str], write: Callable[..., Path]) -> None:
    cell = {**make_feature([[0, 0], [50, 0], [50, 40]]), "properties": kind}
    assert read_annotations(write(collect(cell, make_feature())), slide_id="S-1").area == 20_000
    old = {**make_feature([[0, 0], [50, 0], [50, 40]]), "id": "PathCellObject", "properties": {}}
    assert read_annotations(write(collect(old, make_feature())), slide_id="S-1").area == 20_000


def test_overlaps_count_once_and_crossing_outlines_keep_both_lobes(write: Callable[..., Path]) -> None:
    shifted = [[x + 100, y] for x, y in SQUARE]
    assert read_annotations(write(collect(make_feature(), make_feature(shifted))), slide_id="S-1").area == 30_000
    bow_tie = [[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]
    assert read_annotations(write(make_feature(bow_tie)), slide_id="S-1").area == pytest.approx(5_000)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("PK\x03\x04", r"is not JSON \(4 bytes, begins with b'PK.*expected GeoJSON\. Export it again, in QuPath"),
        ({"shapes": []}, r"is JSON but no GeoJSON: entry 1 is the type None, expected a FeatureCollection"),
        ([[1, 2]], r"entry 1 is \[1, 2\], expected a FeatureCollection"),
        ({**make_feature(), "geometry": {"type": "Circle"}}, r"feature 1 has a geometry 'Circle', expected one of Poly"),
        (collect(), r"holds no polygon \(found: nothing\), expected Polygon or MultiPolygon annotations"),
        (
            collect(make_feature(objectType="cell"), {"type": "Feature", "geometry": {"type": "Point"}}),
            r"holds no polygon \(found: 1 Point \(annotation\), 1 Polygon \(cell\)\).*export annotations, not detections",
        ),
        (make_feature([[0, 0], ["x", 1], [2, 2]]), r"feature 1 of class '\(unclassified\)' has coordinates that are no pai"),
        (make_feature([[0, 0], [float("nan"), 1], [2, 2]]), r"no pairs of finite numbers\. Export it again"),
        (make_feature([[5, 6], [9, 6], [5, 6]]), r"encloses nothing: 2 different points from \(5, 6\), expected three or"),
        (make_feature([[5, 6], [7, 6], [9, 6], [5, 6]]), r"encloses nothing: 3 different points.*not on a line\. Delete it"),
        (make_feature([]), r"encloses nothing: 0 different points from no point"),
        ({"type": "Polygon", "coordinates": []}, r"has no coordinates, expected lists of rings"),
        (
            make_feature([[0.1, 0.2], [0.9, 0.2], [0.9, 1.0]]),
            r"has coordinates between 0 and 1 \(x 0\.1 to 0\.9, y 0\.2 to 1\), expected level-0 px\. Multiply x by the",
        ),
        ({**collect(make_feature()), "unit": "µm"}, r"states unit 'µm', expected level-0 px\. Divide the coordinates by"),
        (collect(make_feature(units="microns")), r"states units 'microns', expected level-0 px"),
    ],
    ids=["zip", "other JSON", "numbers", "circle", "empty", "only cells", "words", "nan", "line", "collinear", "no ring",
         "no coordinates", "normalised", "um", "um of a feature"],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_what_to_do(content: Any, expected: str, write: Callable[..., Path]) -> None:
    with pytest.raises(AnnotationError, match=rf"^AnnotationError: slide 'S-7', annotation 'S-7\.geojson'.*{expected}"):
        read_annotations(write(content, "S-7"), slide_id="S-7")


def test_a_missing_class_lists_those_there_are(write: Callable[..., Path]) -> None:
    path = write(collect(make_feature(label="Stroma"), make_feature(label="Stroma"), make_feature()))
    expected = r"holds no polygon of the classes asked for: 'Tumor', 'DCIS'\. Present: '\(unclassified\)' \(1\), 'Stroma' \(2\)"
    with pytest.raises(AnnotationError, match=expected):
        read_annotations(path, slide_id="S-1", classes=["Tumor", "DCIS"])


def test_a_polygon_off_the_slide_is_named_with_both_ranges(write: Callable[..., Path]) -> None:
    far = [[x + 5_000, y] for x, y in SQUARE]
    path = write(collect(make_feature(), make_feature(far)))
    assert read_annotations(path, slide_id="S-1", size_l0=(6_000, 200)).area == 40_000
    expected = (
        r"1 of 2 polygons lie wholly outside the slide \(x 100 to 5300, y 50 to 150; the slide is 400 x 200 px\), "
        r"expected level-0 px"
    )
    with pytest.raises(AnnotationError, match=expected):
        read_annotations(path, slide_id="S-1", size_l0=(400, 200))


def test_x_and_y_are_not_exchanged(write: Callable[..., Path]) -> None:
    wide = make_feature([[700, 10], [900, 10], [900, 60], [700, 60], [700, 10]])
    assert read_annotations(write(wide), slide_id="S-1", size_l0=(1000, 100)).bounds == (700, 10, 900, 60)
    with pytest.raises(AnnotationError, match="wholly outside"):
        read_annotations(write(wide), slide_id="S-1", size_l0=(100, 1000))


def test_no_file_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"slide 'S-9'.*there is no file '.*S-9\.geojson'"):
        read_annotations(tmp_path / "S-9.geojson", slide_id="S-9")


# Masks


def test_a_pixel_belongs_to_a_polygon_when_its_centre_does() -> None:
    tissue = make_tissue(np.ones((10, 16), bool), scale_x=10.0, scale_y=20.0)
    found = rasterise(shapely.MultiPolygon([shapely.box(24, 31, 56, 149)]), tissue)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert columns.tolist() == [2, 3, 4, 5], "centres 25, 35, 45 and 55 lie between 24 and 56"
    assert rows.tolist() == [2, 3, 4, 5, 6], "centres 50 to 130 lie between 31 and 149, 30 and 150 do not"
    assert found.sum() == 4 * 5


def test_a_mask_survives_the_way_out_and_back_exactly(holed: NDArray[np.bool_], tmp_path: Path) -> None:
    table = make_table(holed, scale_x=31.97, scale_y=16.03)
    polygons = read_annotations(write_outlines(table, tmp_path / "S-1.geojson"), slide_id="S-1")
    back = rasterise(polygons, make_tissue(holed, scale_x=31.97, scale_y=16.03))
    assert (back == holed).all()


def test_a_drawn_polygon_is_neither_shifted_nor_grown_by_the_mask() -> None:
    rng = np.random.default_rng(12)
    slide = make_array_slide([np.full((1200, 2000, 3), 243, np.uint8)], 0.5)
    shares = []
    for angle in rng.uniform(0, np.pi, 12):
        disc = shapely.Point(rng.uniform(700, 1300), rng.uniform(450, 750)).buffer(300)
        drawn = shapely.MultiPolygon(
            [shapely.affinity.rotate(shapely.affinity.scale(disc, 1.3, 0.8), angle, use_radians=True)]
        )
        found = find_annotated_tissue(slide, drawn, um_per_px=8.0, combine="replace")
        shares.append(found.mask.sum() * found.scale_x * found.scale_y / drawn.area)
        y, x = np.nonzero(found.mask)
        centre = ((x.mean() + 0.5) * found.scale_x, (y.mean() + 0.5) * found.scale_y)
        assert centre == pytest.approx(drawn.centroid.coords[0], abs=1.0), "a half-pixel shift would be 8 px"
        back = shapely.union_all(build_outlines(make_table(found.mask, found.scale_x, found.scale_y)))
        pixel = np.hypot(found.scale_x, found.scale_y)
        assert back.exterior.hausdorff_distance(drawn.geoms[0].exterior) < pixel, "off by more than a mask pixel"
    assert np.mean(shares) == pytest.approx(1.0, abs=0.003)


@pytest.fixture
def slide(make_slide: MakeSlide) -> Slide:
    """A slide of 1,600 x 1,000 px with an ellipse of tissue in the middle."""
    with open_slide(make_slide(draw_tissue(1600, 1000)), slide_id="S-1") as opened:
        yield opened  # type: ignore[misc]


def test_replace_takes_the_polygon_as_it_is_and_intersect_only_its_tissue(slide: Slide) -> None:
    upper_left = shapely.MultiPolygon([shapely.box(0, 0, 800, 500)])
    detected = find_tissue(slide, method="robust", um_per_px=8.0, min_area_um2=20_000)
    whole = find_annotated_tissue(slide, upper_left, um_per_px=8.0, combine="replace")
    both = find_annotated_tissue(slide, upper_left, um_per_px=8.0, combine="intersect")
    drawn = np.zeros_like(detected.mask)
    drawn[: round(500 / detected.scale_y), : round(800 / detected.scale_x)] = True
    assert (whole.mask == drawn).all()
    assert (both.mask == (drawn & detected.mask)).all()
    assert both.mask.sum() < 0.8 * whole.mask.sum()
    assert (whole.method, both.method) == ("polygon", "polygon")
    assert np.isnan(whole.threshold)
    assert both.threshold == detected.threshold
    assert (whole.scale_x, whole.um_per_px, whole.background) == (
        detected.scale_x,
        detected.um_per_px,
        detected.background,
    )


def test_polygons_that_leave_no_mask_are_an_error(slide: Slide) -> None:
    corner = shapely.MultiPolygon([shapely.box(0, 0, 100, 60)])
    expected = (
        r"slide 'S-1': the polygons \(x 0 to 100, y 0 to 60 level-0 px\) cover none of the 0\.\d+ mm2 of tissue found"
    )
    with pytest.raises(AnnotationError, match=expected):
        find_annotated_tissue(slide, corner, um_per_px=8.0, combine="intersect")
    speck = shapely.MultiPolygon([shapely.box(401, 401, 403, 403)])
    with pytest.raises(AnnotationError, match=r"cover none of the mask pixels of 8\.03 um.*a smaller mask_um_per_px"):
        find_annotated_tissue(slide, speck, um_per_px=8.0, combine="replace")


def test_no_tissue_at_all_stays_the_detection_s_error() -> None:
    blank = make_array_slide([np.full((600, 800, 3), 243, np.uint8)], 0.5)
    everything = shapely.MultiPolygon([shapely.box(0, 0, 800, 600)])
    with pytest.raises(TileError, match="shows no tissue"):
        find_annotated_tissue(blank, everything, um_per_px=8.0, combine="intersect")


# Chapter 01


@pytest.fixture
def tumour(write: Callable[..., Path]) -> tuple[Path, TilingSpec]:
    """The annotation of S-1, a tumour beside stroma, and the spec that uses it."""
    tumour = make_feature([[320, 192], [640, 192], [640, 512], [320, 512], [320, 192]], {"name": "Tumor"})
    path = write(collect(tumour, make_feature(label={"name": "Stroma"})))
    return path, SPEC.model_copy(update={"annotations_dir": str(path.parent), "annotation_classes": ("tumor",)})


def test_tiles_lie_where_the_tumour_was_drawn(
    tumour: tuple[Path, TilingSpec], make_slide: MakeSlide, tissue_image: NDArray[np.uint8], tmp_path: Path
) -> None:
    assert tile_slide("S-1", make_slide(tissue_image), tumour[1], folder=tmp_path / "c")[0] == "ok"
    table = read_tiles(tmp_path / "c" / "tiles" / "S-1.h5")
    expected = [(x, y) for y in range(192, 512, 64) for x in range(320, 640, 64)]
    assert list(map(tuple, table.coords_l0[table.qc["tissue_fraction"] > 0.5])) == expected
    assert table.attributes["tissue_method"] == "polygon"
    out = read_annotations(tmp_path / "c" / "outlines" / "S-1.geojson", slide_id="S-1", classes=["Tissue"])
    assert out.bounds == pytest.approx((320, 192, 640, 512), abs=16)


def test_a_changed_annotation_tiles_again_and_an_unchanged_one_is_reused(
    tumour: tuple[Path, TilingSpec], make_slide: MakeSlide, tissue_image: NDArray[np.uint8], tmp_path: Path
) -> None:
    (drawn, spec), path, folder = tumour, make_slide(tissue_image), tmp_path / "c"
    assert tile_slide("S-1", path, spec, folder=folder)[0] == "ok"
    assert tile_slide("S-1", path, spec, folder=folder)[0] == "reused"
    drawn.write_text(drawn.read_text().replace("640", "600"))
    assert tile_slide("S-1", path, spec, folder=folder)[0] == "ok"
    assert tile_slide("S-1", path, spec, folder=folder)[0] == "reused"
    both = spec.model_copy(update={"annotation_use": "intersect"})
    assert tile_slide("S-1", path, both, folder=folder)[0] == "ok"
    assert tile_slide("S-1", path, SPEC, folder=folder)[0] == "ok"


def test_the_key_of_a_slide_without_annotation_knows_nothing_of_annotations(tumour: tuple[Path, TilingSpec]) -> None:
    some = tumour[0]
    asked = SPEC.model_copy(update={"annotation_classes": ("tumor",), "annotation_use": "intersect"})
    assert compute_tiling_key(some, asked, None) == compute_tiling_key(some, SPEC, None)
    assert compute_tiling_key(some, asked, None, some) != compute_tiling_key(some, SPEC, None, some)
    assert compute_tiling_key(some, SPEC, None, some) != compute_tiling_key(some, SPEC, None)


def test_a_missing_outline_file_is_made_again(
    make_slide: MakeSlide, tissue_image: NDArray[np.uint8], tmp_path: Path
) -> None:
    path, outlines = make_slide(tissue_image), tmp_path / "c" / "outlines" / "S-1.geojson"
    tile_slide("S-1", path, SPEC, folder=tmp_path / "c")
    first = outlines.read_bytes()
    outlines.unlink()
    assert tile_slide("S-1", path, SPEC, folder=tmp_path / "c")[0] == "ok"
    assert outlines.read_bytes() == first


def test_a_stored_outline_gives_the_mask_it_was_made_from(
    make_slide: MakeSlide, write: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_slide(draw_tissue(1600, 1000))
    tile_slide("S-1", path, SPEC, folder=tmp_path / "c")
    spec = SPEC.model_copy(update={"annotations_dir": str(tmp_path / "c" / "outlines")})
    with open_slide(path, slide_id="S-1") as opened:
        assert (find_mask(opened, spec).mask == find_mask(opened, SPEC).mask).all()


def test_a_file_that_holds_the_slide_s_id_is_suggested(write: Callable[..., Path]) -> None:
    write(make_feature(), "S-10")
    folder = write(make_feature(), "s-1.svs").parent
    spec = SPEC.model_copy(update={"annotations_dir": str(folder)})
    with pytest.raises(AnnotationError, match=r"holds 2 other \.geojson files, of which 's-1\.svs\.geojson' may be it"):
        locate_annotation("S-1", spec)
    assert locate_annotation("S-10", spec) == folder / "S-10.geojson"
    assert locate_annotation("S-1", SPEC) is None


def test_a_slide_without_annotation_fails_alone_and_is_named_before(
    tumour: tuple[Path, TilingSpec], make_slide: MakeSlide, tissue_image: NDArray[np.uint8], tmp_path: Path
) -> None:
    spec = tumour[1].model_copy(update={"max_failed": 1})
    paths = {name: str(make_slide(tissue_image, name=name)) for name in ("S-1", "S-2")}
    slides = pd.DataFrame({"slide_id": list(paths), "path": list(paths.values())})
    ledger = tile_cohort(slides, spec, folder=tmp_path / "c", ledger=tmp_path / "c" / "ledger.parquet", workers=2)
    assert ledger["status"].tolist() == ["ok", "failed"]
    expected = "slide 'S-2' has no annotation: expected '"
    assert expected in ledger["reason"][1]
    assert (
        "drawn/S-2.geojson', the folder holds 1 other .geojson files. Export its polygons under" in ledger["reason"][1]
    )
    audit = audit_slides(slides, spec)
    assert audit["reason"].tolist() == ["", ledger["reason"][1]]
    assert audit["width"].tolist() == [900, 900], "the slide itself was read"
    assert compute_flow(audit, ledger)["n"].tolist() == [2, 2, 2, 1]
