"""Outlines drawn in Aperio ImageScope: XML in, polygons and label images out, x and y in level-0 px.

A vertex names a pixel, and outlines run through the centres of an object's border pixels, so a filled outline holds its
own border. ImageScope's reader of the slide's level 0 is the frame.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import AnnotationError
from helpers.core.paths import resolve, shorten


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """The regions of one Aperio XML file.

    Attributes
    ----------
    points : tuple of ndarray, (n, 2), float64
        x, y of each region's vertices, level-0 px, in the file's order.
    mpp : float or None
        um per px that the file states.
    """

    points: tuple[NDArray[np.float64], ...]
    mpp: float | None


def read_aperio_outlines(path: str | Path) -> Outlines:
    """Read every drawn region of an Aperio XML file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Outlines
        Regions marked as negative (`NegativeROA`) are left out.

    Raises
    ------
    AnnotationError
        When the file is missing, is no XML of Aperio's, holds no region, or a vertex is no number.
    """
    path = resolve(path)
    root = _parse_xml(path)
    regions = [region for region in root.iter("Region") if region.get("NegativeROA", "0") != "1"]
    points = tuple(_read_vertices(region, path) for region in regions)
    if not points:
        msg = (
            f"AnnotationError: '{path.name}' is XML with the root <{root.tag}> and no <Region>; expected Aperio's "
            "<Annotations> with drawn regions. Export the annotations in ImageScope."
        )
        raise AnnotationError(msg)
    stated = float(root.get("MicronsPerPixel") or "nan")
    return Outlines(points=points, mpp=stated if math.isfinite(stated) and stated > 0 else None)


def _parse_xml(path: Path) -> ElementTree.Element:
    if not path.is_file():
        msg = f"AnnotationError: there is no file '{shorten(path)}'. Check the path, or export the annotations again."
        raise AnnotationError(msg)
    try:
        return ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        msg = (
            f"AnnotationError: '{path.name}' ({path.stat().st_size} bytes) is no XML: {error}. "
            "Export the annotations in ImageScope again."
        )
        raise AnnotationError(msg) from None


def _read_vertices(region: ElementTree.Element, path: Path) -> NDArray[np.float64]:
    pairs = [(vertex.get("X"), vertex.get("Y")) for vertex in region.iter("Vertex")]
    try:
        points = np.array([(float(str(x)), float(str(y))) for x, y in pairs], dtype=np.float64).reshape(-1, 2)
    except ValueError:
        points = np.full((1, 2), np.nan)
    if not len(points) or not np.isfinite(points).all():
        msg = (
            f"AnnotationError: region {region.get('Id')} of '{path.name}' has {len(pairs)} vertices, none or not all "
            "of them a pair of numbers X, Y. Draw it again, or take it out."
        )
        raise AnnotationError(msg)
    return points


def label_outlines(outlines: Sequence[NDArray[np.float64]], *, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Fill outlines with their numbers.

    Parameters
    ----------
    outlines : sequence of ndarray, (n, 2)
        x, y in px of the image.
    shape : tuple of 2 ints
        Height and width of the image, px.

    Returns
    -------
    ndarray, (H, W), int32
        Place in `outlines` from 1; 0 is background. Where two overlap, the smaller one lies on top, so none is hidden.
    """
    labels = np.zeros(shape, np.int32)
    rounded = [np.rint(points).astype(np.int32) for points in outlines]
    areas = [cv2.contourArea(points) for points in rounded]
    for number in sorted(range(len(rounded)), key=lambda number: -areas[number]):
        cv2.fillPoly(labels, [rounded[number]], number + 1)
    return labels
