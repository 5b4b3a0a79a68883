"""The tumour of a phantom slide as a pathologist would outline it, for what filters by outlines or learns from them.

The truth map of tumour share (25 um per px) is cut at one half, gaps narrower than a hand would spare are closed, and
crumbs are left out. Outlines are GeoJSON in level-0 px, the form in which real ones arrive.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from helpers.slides.annotation import write_shapes

if TYPE_CHECKING:
    from shapely import MultiPolygon

CLASS_NAME: Final = "Tumor"
"""QuPath's own spelling."""
CLASS_COLOUR: Final = (200, 0, 0)
MIN_SHARE: Final = 0.5
"""Tumour share of a map pixel that lies inside."""
HAND_UM: Final = 50.0
"""Gaps narrower than twice this are drawn over, and bridges narrower than this are not followed, um."""
MIN_AREA_UM2: Final = 20_000.0
"""Smaller pieces are not outlined, um2."""


def outline_tumour(share: NDArray[np.float32], um_per_px: float) -> "MultiPolygon":
    """Draw around the tumour of one slide.

    Parameters
    ----------
    share : ndarray, (height, width), float
        Of tumour, 0 to 1.
    um_per_px : float

    Returns
    -------
    MultiPolygon
        In um from the upper left corner; empty where there is no tumour.
    """
    import shapely

    rows, columns = np.nonzero(share >= MIN_SHARE)
    squares = shapely.box(columns, rows, columns + 1, rows + 1)
    area = shapely.transform(shapely.union_all(squares), lambda points: points * um_per_px)
    area = area.buffer(HAND_UM).buffer(-1.5 * HAND_UM).buffer(HAND_UM / 2).simplify(um_per_px / 5)
    pieces = [piece for piece in shapely.get_parts(area) if piece.area >= MIN_AREA_UM2]
    return shapely.MultiPolygon(pieces)


def write_tumour(share: NDArray[np.float32], path: Path, *, um_per_px: float, mpp: float, slide_id: str) -> Path | None:
    """Write the outlines of one slide as GeoJSON that QuPath opens.

    Parameters
    ----------
    share : ndarray, (height, width), float
        Of tumour, 0 to 1.
    path : Path
    um_per_px : float
        Of the map.
    mpp : float
        Of the slide, um per px of level 0.
    slide_id : str

    Returns
    -------
    Path or None
        Annotations of class 'Tumor', x and y in level-0 px. Without tumour nothing is written, as nothing is drawn.
    """
    import shapely

    area = shapely.transform(outline_tumour(share, um_per_px), lambda points: np.round(points / mpp, 2))
    pieces = list(shapely.get_parts(area))
    if not pieces:
        return None
    return write_shapes(pieces, path, slide_id=slide_id, label=CLASS_NAME, colour=CLASS_COLOUR)
