"""What a pixel of level 0 measures, and who says so: the tables, the scanner's properties, the TIFF tags, or nobody.

Resolution is um per px on each axis. A magnification is never read: 20x means 0.5 um on one scanner and 0.46 on the
next. A number that cannot be a slide scanner's (72 dpi is 353 um per px) is refused like a missing one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from helpers.core.errors import ResolutionError

MPP_RANGE = (0.05, 10.0)
"""Plausible um per px of a slide's finest level; 0.1 to 1 in practice, coarser for overviews."""
MAX_ANISOTROPY = 1.5
"""Largest believable ratio of the two axes' um per px."""
UM_PER_UNIT = {"inch": 25_400.0, "centimeter": 10_000.0}
LOOKED_AT = "openslide.mpp-x, tiff.XResolution"
REMEDY = "Set fallback_mpp if the scanner's record gives it; the run will record it."
REMEDIES = {
    "slides.csv": "Correct its cell in the column mpp (um per px), or empty it to read the file's own.",
    "fallback_mpp": "Correct fallback_mpp (um per px, no magnification).",
}
"""What to do about an impossible number, by who states it; `REMEDY` where it is the file."""

Pair = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Resolution of level 0 with its origin.

    Attributes
    ----------
    mpp_x, mpp_y : float
        um per px along x and y.
    source : str
        'slides.csv', 'openslide.mpp-x', 'tiff.XResolution' or 'fallback_mpp'.
    header_mpp : float or None
        What the file itself states (mean of both axes), plausible or not; None where it states nothing.
    """

    mpp_x: float
    mpp_y: float
    source: str
    header_mpp: float | None

    @property
    def mpp(self) -> float:
        """Mean of both axes, um per px."""
        return (self.mpp_x + self.mpp_y) / 2


def resolve_mpp(
    slide_id: str,
    properties: Mapping[str, str],
    *,
    mpp: float | None = None,
    fallback_mpp: float | None = None,
) -> Resolution:
    """Decide the resolution of a slide, or refuse.

    Parameters
    ----------
    slide_id : str
    properties : mapping of str to str
        The reader's properties of the file, in OpenSlide's names.
    mpp : float, optional
        From the cohort's slide table, um per px; it outranks the file, because somebody wrote it down on purpose.
    fallback_mpp : float, optional
        Used only where the file states no resolution or an impossible one, um per px.

    Returns
    -------
    Resolution

    Raises
    ------
    ResolutionError
        When nothing states a resolution, or what is stated cannot be true.
    """
    stated = read_stated_mpp(properties)
    header = None if stated is None else sum(stated[0]) / 2
    if mpp is not None and not math.isnan(mpp):
        return _accept(slide_id, (mpp, mpp), "slides.csv", header)
    if stated is not None and _is_plausible(stated[0]):
        return _accept(slide_id, *stated, header)
    if fallback_mpp is not None:
        return _accept(slide_id, (fallback_mpp, fallback_mpp), "fallback_mpp", header)
    if stated is None:
        msg = f"ResolutionError: slide '{slide_id}' states no resolution (looked at {LOOKED_AT}). {REMEDY}"
        raise ResolutionError(msg)
    return _accept(slide_id, *stated, header)


def read_stated_mpp(properties: Mapping[str, str]) -> tuple[Pair, str] | None:
    """Return what the file states, plausible or not, and the name of the property that states it.

    Parameters
    ----------
    properties : mapping of str to str

    Returns
    -------
    tuple of ((mpp_x, mpp_y), str), or None
        None when no property states a positive number.
    """
    vendor = _read_pair(properties, "openslide.mpp-x", "openslide.mpp-y")
    if vendor is not None:
        return vendor, "openslide.mpp-x"
    per_unit = _read_pair(properties, "tiff.XResolution", "tiff.YResolution")
    unit_um = UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    if per_unit is None or unit_um is None:
        return None
    return (unit_um / per_unit[0], unit_um / per_unit[1]), "tiff.XResolution"


def _read_pair(properties: Mapping[str, str], key_x: str, key_y: str) -> Pair | None:
    x = _read_positive(properties.get(key_x))
    y = _read_positive(properties.get(key_y))
    if x is None and y is None:
        return None
    return (x or y or 0.0, y or x or 0.0)


def _read_positive(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _is_plausible(pair: Pair) -> bool:
    low, high = MPP_RANGE
    return all(low <= value <= high for value in pair) and max(pair) / min(pair) <= MAX_ANISOTROPY


def _accept(slide_id: str, pair: Pair, source: str, header: float | None) -> Resolution:
    if _is_plausible(pair):
        return Resolution(mpp_x=float(pair[0]), mpp_y=float(pair[1]), source=source, header_mpp=header)
    msg = (
        f"ResolutionError: slide '{slide_id}' states {pair[0]:.6g} x {pair[1]:.6g} um per px (in {source}), expected "
        f"{MPP_RANGE[0]} to {MPP_RANGE[1]} on both axes and a ratio up to {MAX_ANISOTROPY}. "
        f"{REMEDIES.get(source, REMEDY)}"
    )
    raise ResolutionError(msg)
