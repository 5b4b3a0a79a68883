"""Outlines out to QuPath and drawn polygons in: GeoJSON, x and y in level-0 px.

The frame is OpenSlide's: the origin is the upper left corner of level 0, pixel (0, 0) covers 0 to 1 on both axes, y
points down. A pixel of a mask belongs to a polygon when its centre lies inside or on the outline; tissue outlines run
through the centres of a mask's border pixels, so a mask survives the way out and back.
"""

import json
import math
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon
from shapely.geometry import mapping
from shapely.geometry.polygon import orient

from helpers.core.errors import AnnotationError
from helpers.core.paths import resolve, shorten, write_text
from helpers.core.specs import TilingSpec
from helpers.slides.reader import Slide
from helpers.slides.tilefile import TileTable
from helpers.slides.tissue import Bools, Method, Tissue, find_tissue, view_whole

Combine = Literal["replace", "intersect"]

SUFFIX = ".geojson"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "histobook/outlines")
"""Of the ids of exported outlines."""
CLASS_NAME = "Tissue"
CLASS_COLOUR = (0, 114, 178)
"""Class of exported outlines and the red, green, blue that QuPath draws it in."""
GRID_PX = 0.01
"""Exported coordinates are multiples of this, level-0 px."""
ON_OUTLINE = 0.01
"""A mask pixel's centre this near to an outline lies on it, px of the mask; stored outlines are float32."""
MACHINE_KINDS = ("detection", "cell", "tile")
"""Kinds of QuPath objects that a program made by the thousand: never read as annotations."""
IGNORED = "ignore*"
"""QuPath's class for what is not to be analysed: read only where it is asked for by name."""
UNCLASSIFIED = "(unclassified)"
OTHER_UNITS = ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres", "mm")
"""Units that a file may state and that are not px; both code points of mu."""
GEOMETRIES = (
    "Polygon", "MultiPolygon", "GeometryCollection", "Point", "MultiPoint", "LineString", "MultiLineString",
)  # fmt: skip


def build_outlines(table: TileTable) -> list[Polygon | MultiPolygon]:
    """Build valid polygons from the outlines stored with a slide's tiles.

    Parameters
    ----------
    table : TileTable
        With points and rings in level-0 px.

    Returns
    -------
    list of Polygon or MultiPolygon
        One per outer ring, with its holes, in stored order; rings without an area (strands one mask pixel wide) are
        left out. A MultiPolygon where a ring touches itself. Coordinates are multiples of 0.01 px.
    """
    corners = table.points.astype(np.float64)
    holes = defaultdict(list)
    for start, stop, parent in table.rings.tolist():
        if parent >= 0 and stop - start >= 3:
            holes[parent].append(corners[start:stop])
    shapes = []
    for number, (start, stop, parent) in enumerate(table.rings.tolist()):
        if parent < 0 and stop - start >= 3:
            shapes.append(_make_areas(Polygon(corners[start:stop], holes[number]), grid=GRID_PX))
    return [shape.geoms[0] if len(shape.geoms) == 1 else shape for shape in shapes if not shape.is_empty]


def _make_areas(geometry: Any, *, grid: float = 0.0) -> MultiPolygon:
    """Return the valid areas of a geometry, outer rings counter-clockwise; lines and points that remain are dropped."""
    valid = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    if grid:
        valid = shapely.set_precision(valid, grid)
    parts = shapely.get_parts(valid)
    return MultiPolygon([orient(part) for part in parts if isinstance(part, Polygon) and part.area > 0])


def write_outlines(table: TileTable, path: Path) -> Path:
    """Write a slide's tissue outlines as a GeoJSON FeatureCollection that QuPath opens by drag and drop.

    Parameters
    ----------
    table : TileTable
    path : Path

    Returns
    -------
    Path
        One annotation of class 'Tissue' per piece of tissue, x and y in level-0 px. Equal input gives equal bytes.
    """
    return write_shapes(build_outlines(table), path, slide_id=table.slide_id, label=CLASS_NAME, colour=CLASS_COLOUR)


def write_shapes(
    shapes: Sequence[Polygon | MultiPolygon], path: Path, *, slide_id: str, label: str, colour: tuple[int, int, int]
) -> Path:
    """Write areas of one slide as a GeoJSON FeatureCollection that QuPath opens by drag and drop.

    Parameters
    ----------
    shapes : sequence of Polygon or MultiPolygon
        Valid, in level-0 px.
    path : Path
    slide_id : str
    label : str
        Class of all of them.
    colour : tuple of 3 ints
        Red, green, blue that QuPath draws the class in.

    Returns
    -------
    Path
        Equal input gives equal bytes.
    """
    features = []
    for number, shape in enumerate(shapes, start=1):
        geometry = mapping(shape)
        properties = {
            "objectType": "annotation",
            "classification": {"name": label, "color": colour},
            "name": f"{slide_id} {label.lower()} {number}",
        }
        own_id = str(uuid.uuid5(NAMESPACE, f"{slide_id} {_dump(geometry)}"))
        features.append({"type": "Feature", "id": own_id, "geometry": geometry, "properties": properties})
    return write_text(_dump({"type": "FeatureCollection", "features": features}) + "\n", path)


def _dump(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One feature of a GeoJSON file.

    Attributes
    ----------
    number : int
        Place in the file, from 1.
    label : str
        Class, or '(unclassified)'.
    kind : str
        QuPath's kind of object, lower case: 'annotation', 'cell', ...; 'annotation' where none is stated.
    geometries : tuple of dict
        GeoJSON geometries; collections are taken apart.
    """

    number: int
    label: str
    kind: str
    geometries: tuple[dict[str, Any], ...]

    @property
    def areas(self) -> list[dict[str, Any]]:
        """The geometries that are polygons; none of what a program made."""
        if self.kind in MACHINE_KINDS:
            return []
        return [geometry for geometry in self.geometries if geometry["type"] in {"Polygon", "MultiPolygon"}]


def read_annotations(
    path: str | Path,
    *,
    slide_id: str,
    classes: Sequence[str] | None = None,
    size_l0: tuple[int, int] | None = None,
) -> MultiPolygon:
    """Read the polygons drawn on a slide from GeoJSON, as QuPath and other tools write it.

    A FeatureCollection, a list of Features, a Feature or a geometry; a class stands under `classification` or `label`,
    as a string or with a `name`. Points, lines and QuPath's detections, cells and tiles are passed over.

    Parameters
    ----------
    path : str or Path
    slide_id : str
        For messages.
    classes : sequence of str, optional
        Classes to read, upper or lower case alike; None or empty: all but QuPath's 'Ignore*'.
    size_l0 : tuple of 2 ints, optional
        Width and height of the slide, level-0 px; with it, polygons off the slide are an error.

    Returns
    -------
    MultiPolygon
        Union of the polygons, valid, level-0 px. Self-crossing outlines are mended.

    Raises
    ------
    AnnotationError
        When the file is missing or no GeoJSON, holds no polygon (of these classes), a ring encloses nothing, or the
        coordinates are not level-0 px of this slide. Micrometres can be told from px only where the file states a
        unit, or where they lie off the slide.
    """
    path = Path(path)
    item = f"slide '{slide_id}', annotation '{path.name}'"
    content = _read_geojson(path, item)
    drawings = _choose_drawings(_list_drawings(content, item), classes or (), item)
    polygons = [polygon for drawing in drawings for polygon in _build_polygons(drawing, item)]
    _check_frame(polygons, size_l0, item)
    return _make_areas(shapely.union_all([_make_areas(polygon) for polygon in polygons]))


def _read_geojson(path: Path, item: str) -> Any:
    """Return the content of a file that is JSON and states no unit other than px."""
    if not path.is_file():
        msg = f"AnnotationError: {item}: there is no file '{shorten(path)}'. Check annotations_dir, or export it."
        raise AnnotationError(msg)
    data = path.read_bytes()
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:
        msg = (
            f"AnnotationError: {item} is not JSON ({len(data)} bytes, begins with {data[:12]!r}: {error}), expected "
            "GeoJSON. Export it again, in QuPath by File > Export objects as GeoJSON, uncompressed."
        )
        raise AnnotationError(msg) from None
    for holder in _walk_members(content):
        for name in ("unit", "units"):
            if str(holder.get(name, "")).casefold() in OTHER_UNITS:
                msg = (
                    f"AnnotationError: {item} states {name} '{holder[name]}', expected level-0 px. "
                    "Divide the coordinates by the slide's um per px, and take the statement out."
                )
                raise AnnotationError(msg)
    return content


def _walk_members(content: Any) -> Iterator[dict[str, Any]]:
    """Yield the file's own members, then every feature and its properties."""
    members = content if isinstance(content, list) else [content]
    for member in members:
        if isinstance(member, dict):
            yield member
            if isinstance(member.get("properties"), dict):
                yield member["properties"]
            if isinstance(member.get("features"), list):
                yield from _walk_members(member["features"])


def _list_drawings(content: Any, item: str) -> list[Drawing]:
    """Return the features of any of GeoJSON's forms."""
    features = content["features"] if isinstance(content, dict) and "features" in content else content
    features = features if isinstance(features, list) else [features]
    return [_to_drawing(feature, number, item) for number, feature in enumerate(features, start=1)]


def _to_drawing(feature: Any, number: int, item: str) -> Drawing:
    kind = feature.get("type") if isinstance(feature, dict) else None
    if kind == "Feature":
        properties = feature["properties"] if isinstance(feature.get("properties"), dict) else {}
        geometries = tuple(_flatten(feature.get("geometry"), number, item))
        label, origin = _read_label(properties) or _read_label(feature), _read_kind(feature, properties)
        return Drawing(number=number, label=label or UNCLASSIFIED, kind=origin, geometries=geometries)
    if kind not in GEOMETRIES:
        found = f"the type {kind!r}" if isinstance(feature, dict) else f"{feature!r:.40}"
        msg = (
            f"AnnotationError: {item} is JSON but no GeoJSON: entry {number} is {found}, expected a FeatureCollection, "
            "Features or a geometry. Export it again as GeoJSON."
        )
        raise AnnotationError(msg)
    return Drawing(
        number=number, label=UNCLASSIFIED, kind="annotation", geometries=tuple(_flatten(feature, number, item))
    )


def _flatten(geometry: Any, number: int, item: str) -> Iterator[dict[str, Any]]:
    """Yield a geometry, or the members of a collection; a feature may have none."""
    if geometry is None:
        return
    if not isinstance(geometry, dict) or geometry.get("type") not in GEOMETRIES:
        found = geometry.get("type") if isinstance(geometry, dict) else geometry
        msg = (
            f"AnnotationError: {item}: feature {number} has a geometry {found!r:.40}, expected one of "
            f"{', '.join(GEOMETRIES)}. Export it again as GeoJSON."
        )
        raise AnnotationError(msg)
    if geometry["type"] == "GeometryCollection":
        for member in geometry.get("geometries") or []:
            yield from _flatten(member, number, item)
    else:
        yield geometry


def _read_label(holder: dict[str, Any]) -> str:
    """Return the class named in a feature or its properties; QuPath's derived classes read 'Tumor: Positive'."""
    for name in ("classification", "label"):
        value = holder.get(name)
        if isinstance(value, dict):
            value = value.get("name") or ": ".join(map(str, value.get("names") or []))
        if value:
            return str(value).strip()
    return ""


def _read_kind(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    """Return QuPath's kind of object; versions before 0.4 wrote it as the id ('PathCellObject')."""
    stated = properties.get("objectType") or properties.get("object_type")
    if not stated and str(feature.get("id")).startswith("Path"):
        stated = str(feature["id"]).removeprefix("Path").removesuffix("Object")
    return str(stated or "annotation").casefold()


def _choose_drawings(drawings: Sequence[Drawing], classes: Sequence[str], item: str) -> list[Drawing]:
    """Return the drawings with polygons of the classes asked for."""
    drawn = [drawing for drawing in drawings if drawing.areas]
    if not drawn:
        kinds = Counter(f"{g['type']} ({d.kind})" for d in drawings for g in d.geometries)
        found = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "nothing"
        msg = (
            f"AnnotationError: {item} holds no polygon (found: {found}), expected Polygon or MultiPolygon annotations. "
            "Draw closed outlines, and export annotations, not detections."
        )
        raise AnnotationError(msg)
    wanted = {name.strip().casefold() for name in classes}
    chosen = [d for d in drawn if (d.label.casefold() in wanted if wanted else d.label.casefold() != IGNORED)]
    if not chosen:
        present = ", ".join(f"'{label}' ({n})" for label, n in sorted(Counter(d.label for d in drawn).items()))
        asked = ", ".join(f"'{name}'" for name in classes) or "any but 'Ignore*'"
        msg = (
            f"AnnotationError: {item} holds no polygon of the classes asked for: {asked}. Present: {present}. "
            "Change annotation_classes, or set the class in the file."
        )
        raise AnnotationError(msg)
    return chosen


def _build_polygons(drawing: Drawing, item: str) -> list[Polygon]:
    where = f"{item}: feature {drawing.number} of class '{drawing.label}'"
    polygons = []
    for geometry in drawing.areas:
        members = geometry.get("coordinates")
        members = [members] if geometry["type"] == "Polygon" else members
        if not isinstance(members, list) or not all(isinstance(member, list) and member for member in members):
            msg = f"AnnotationError: {where} has no coordinates, expected lists of rings. Delete or export it again."
            raise AnnotationError(msg)
        for member in members:
            outer, *holes = [_read_ring(ring, where) for ring in member]
            polygons.append(Polygon(outer, holes))
    return polygons


def _read_ring(ring: Any, where: str) -> NDArray[np.float64]:
    """Return a ring's corners, (n, 2), level-0 px; a ring must enclose something, an open one is closed."""
    try:
        corners = np.array([[float(position[0]), float(position[1])] for position in ring]).reshape(-1, 2)
    except (TypeError, ValueError, LookupError):
        corners = np.full((1, 2), math.nan)
    if not np.isfinite(corners).all():
        msg = f"AnnotationError: {where} has coordinates that are no pairs of finite numbers. Export it again."
        raise AnnotationError(msg)
    n_corners = len(np.unique(corners, axis=0))
    if n_corners < 3 or _make_areas(Polygon(corners)).is_empty:
        first = "no point" if not n_corners else f"({corners[0, 0]:g}, {corners[0, 1]:g})"
        msg = (
            f"AnnotationError: {where} has a ring that encloses nothing: {n_corners} different points from {first}, "
            "expected three or more that are not on a line. Delete it (a double click may have made it)."
        )
        raise AnnotationError(msg)
    return corners


def _check_frame(polygons: Sequence[Polygon], size_l0: tuple[int, int] | None, item: str) -> None:
    """Refuse coordinates that are not level-0 px of the slide."""
    left, top, right, bottom = shapely.total_bounds(np.array(polygons))
    found = f"x {left:g} to {right:g}, y {top:g} to {bottom:g}"
    if max(abs(left), abs(top), abs(right), abs(bottom)) <= 1.0:
        msg = (
            f"AnnotationError: {item} has coordinates between 0 and 1 ({found}), expected level-0 px. "
            "Multiply x by the slide's width and y by its height, px of level 0."
        )
        raise AnnotationError(msg)
    if size_l0 is None:
        return
    field = shapely.box(0, 0, *size_l0)
    outside = sum(_make_areas(polygon).intersection(field).area == 0 for polygon in polygons)
    if outside:
        msg = (
            f"AnnotationError: {item}: {outside} of {len(polygons)} polygons lie wholly outside the slide ({found}; "
            f"the slide is {size_l0[0]} x {size_l0[1]} px), expected level-0 px from the upper left corner. Check that "
            "the file belongs to this slide, is not in um, and counts from level 0's origin, not from cropped bounds."
        )
        raise AnnotationError(msg)


def find_annotated_tissue(
    slide: Slide,
    polygons: MultiPolygon,
    *,
    um_per_px: float,
    combine: Combine,
    method: Method = "robust",
    min_area_um2: float = 20_000.0,
) -> Tissue:
    """Make the mask of a slide from drawn polygons.

    Parameters
    ----------
    slide : Slide
    polygons : MultiPolygon
        Level-0 px.
    um_per_px : float
        Resolution of the mask; coarser where the slide would exceed 4,096 px.
    combine : {'replace', 'intersect'}
        The polygons are the mask, or only the tissue found inside them is.
    method : {'robust', 'otsu_saturation'}
        How tissue is found; 'intersect' only.
    min_area_um2 : float
        Smaller islands of found tissue are dropped; 'intersect' only.

    Returns
    -------
    Tissue
        Its method is 'polygon'; its threshold is that of the tissue found, NaN for 'replace'.

    Raises
    ------
    TileError
        When no tissue is found ('intersect' only).
    AnnotationError
        When the mask would be empty.
    """
    if combine == "intersect":
        base = find_tissue(slide, method=method, um_per_px=um_per_px, min_area_um2=min_area_um2)
    else:
        base = view_whole(slide, um_per_px=um_per_px)
    drawn = rasterise(polygons, base)
    if not (base.mask & drawn).any():
        left, top, right, bottom = polygons.bounds
        pixels = f"mask pixels of {base.um_per_px:.3g} um"
        against = f"{base.area_mm2:.3g} mm2 of tissue found" if drawn.any() else pixels
        msg = (
            f"AnnotationError: slide '{slide.slide_id}': the polygons (x {left:g} to {right:g}, y {top:g} to "
            f"{bottom:g} level-0 px) cover none of the {against}. Check that they belong to this slide and are in "
            "level-0 px, not um; annotation_use 'replace' takes them as they are, a smaller mask_um_per_px shows more."
        )
        raise AnnotationError(msg)
    return replace(base, mask=base.mask & drawn, method="polygon")


def rasterise(polygons: MultiPolygon, tissue: Tissue) -> Bools:
    """Return which pixels of a mask have their centre inside polygons, or on their outline.

    Parameters
    ----------
    polygons : MultiPolygon
        Level-0 px.
    tissue : Tissue
        Gives the size and scale of the mask.

    Returns
    -------
    ndarray, (h, w), bool
    """
    height, width = tissue.mask.shape
    on_mask = shapely.transform(polygons, lambda corners: corners / [tissue.scale_x, tissue.scale_y])
    widened = on_mask.buffer(ON_OUTLINE, join_style="mitre")
    shapely.prepare(widened)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.asarray(shapely.intersects_xy(widened, x, y), dtype=bool)


def locate_annotation(slide_id: str, spec: TilingSpec) -> Path | None:
    """Return the annotation file of a slide, or None where the spec names no folder.

    Parameters
    ----------
    slide_id : str
    spec : TilingSpec

    Returns
    -------
    Path or None

    Raises
    ------
    AnnotationError
        When the folder holds none for the slide; names the file that was expected and one that holds the id.
    """
    if spec.annotations_dir is None:
        return None
    folder = resolve(spec.annotations_dir)
    path = folder / f"{slide_id}{SUFFIX}"
    if path.is_file():
        return path
    names = sorted(file.name for file in folder.glob(f"*{SUFFIX}"))
    whole_id = re.compile(rf"(?<![0-9a-z]){re.escape(slide_id)}(?![0-9a-z])", re.IGNORECASE)  # S-1, not S-10
    near = [name for name in names if whole_id.search(name)]
    found = f"{len(names)} other {SUFFIX} files" + (f", of which '{near[0]}' may be it" if near else "")
    msg = (
        f"AnnotationError: slide '{slide_id}' has no annotation: expected '{shorten(path)}', the folder holds {found}. "
        "Export its polygons under that name, or take it off the slide table."
    )
    raise AnnotationError(msg)


def read_slide_annotations(slide: Slide, spec: TilingSpec) -> MultiPolygon | None:
    """Read what is drawn on a slide, where the spec names a folder of annotations.

    Parameters
    ----------
    slide : Slide
    spec : TilingSpec

    Returns
    -------
    MultiPolygon or None
        Level-0 px.

    Raises
    ------
    AnnotationError
        When the slide's file is missing or cannot be used.
    """
    path = locate_annotation(slide.slide_id, spec)
    if path is None:
        return None
    size_l0 = (slide.width, slide.height)
    return read_annotations(path, slide_id=slide.slide_id, classes=spec.annotation_classes, size_l0=size_l0)
