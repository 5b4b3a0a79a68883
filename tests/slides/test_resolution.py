"""Who states the resolution of a slide, and what is refused."""

import pytest

from helpers.core.errors import ResolutionError
from helpers.slides.resolution import read_stated_mpp, resolve_mpp

APERIO = {"openslide.mpp-x": "0.2525", "openslide.mpp-y": "0.2525"}
DPI_72 = {"tiff.XResolution": "72", "tiff.YResolution": "72", "tiff.ResolutionUnit": "inch"}
PER_CM = {"tiff.XResolution": "20000", "tiff.YResolution": "20000", "tiff.ResolutionUnit": "centimeter"}


def test_the_scanner_states_it() -> None:
    found = resolve_mpp("S-1", APERIO)
    assert (found.mpp, found.source, found.header_mpp) == (0.2525, "openslide.mpp-x", 0.2525)


def test_tiff_tags_state_it_in_px_per_centimetre_or_inch() -> None:
    assert resolve_mpp("S-1", PER_CM).mpp == pytest.approx(0.5)
    assert resolve_mpp("S-1", PER_CM).source == "tiff.XResolution"
    inch = {**PER_CM, "tiff.ResolutionUnit": "inch", "tiff.XResolution": "50800", "tiff.YResolution": "50800"}
    assert resolve_mpp("S-1", inch).mpp == pytest.approx(0.5)


def test_axes_may_differ_and_both_are_kept() -> None:
    found = resolve_mpp("S-1", {"openslide.mpp-x": "0.50", "openslide.mpp-y": "0.46"})
    assert (found.mpp_x, found.mpp_y) == (0.50, 0.46)
    assert found.mpp == pytest.approx(0.48)


def test_one_axis_stands_for_both_where_the_other_is_not_stated() -> None:
    assert resolve_mpp("S-1", {"openslide.mpp-x": "0.5"}).mpp_y == 0.5


def test_the_slide_table_outranks_the_file() -> None:
    found = resolve_mpp("S-1", APERIO, mpp=0.5)
    assert (found.mpp, found.source, found.header_mpp) == (0.5, "slides.csv", 0.2525)


def test_nan_in_the_slide_table_means_not_stated() -> None:
    assert resolve_mpp("S-1", APERIO, mpp=float("nan")).source == "openslide.mpp-x"


def test_an_impossible_number_of_the_table_is_mended_in_the_table() -> None:
    with pytest.raises(ResolutionError, match=r"\(in slides\.csv\).* Correct its cell in the column mpp"):
        resolve_mpp("S-1", APERIO, mpp=40.0, fallback_mpp=0.5)


def test_fallback_is_used_only_where_nothing_plausible_is_stated() -> None:
    assert resolve_mpp("S-1", APERIO, fallback_mpp=0.5).source == "openslide.mpp-x"
    assert resolve_mpp("S-1", {}, fallback_mpp=0.5).source == "fallback_mpp"
    absurd = resolve_mpp("S-1", DPI_72, fallback_mpp=0.5)
    assert (absurd.source, absurd.mpp) == ("fallback_mpp", 0.5)
    assert absurd.header_mpp == pytest.approx(352.8, abs=0.1), "what the file states is kept for the audit"


def test_no_resolution_is_an_error_that_says_where_was_looked_and_what_to_do() -> None:
    expected = (
        "ResolutionError: slide 'S-014' states no resolution (looked at openslide.mpp-x, tiff.XResolution). "
        "Set fallback_mpp if the scanner's record gives it; the run will record it."
    )
    with pytest.raises(ResolutionError) as caught:
        resolve_mpp("S-014", {"openslide.vendor": "aperio", "tiff.ResolutionUnit": "inch"})
    assert str(caught.value) == expected


@pytest.mark.parametrize("properties", [DPI_72, {"openslide.mpp-x": "1000"}, {"openslide.mpp-x": "0.001"}])
def test_a_resolution_no_scanner_has_is_refused(properties: dict[str, str]) -> None:
    with pytest.raises(ResolutionError, match=r"slide 'S-1' states .* um per px .* expected 0\.05 to 10\.0"):
        resolve_mpp("S-1", properties)


def test_axes_that_differ_beyond_belief_are_refused() -> None:
    with pytest.raises(ResolutionError, match=r"states 0\.25 x 0\.5 um per px .* ratio up to 1\.5"):
        resolve_mpp("S-1", {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"})


def test_an_impossible_number_in_the_slide_table_is_refused_too() -> None:
    with pytest.raises(ResolutionError, match=r"states 40 x 40 um per px \(in slides\.csv\)"):
        resolve_mpp("S-1", APERIO, mpp=40.0)


@pytest.mark.parametrize("text", ["", "abc", "nan", "-0.5", "0"])
def test_what_is_no_positive_number_is_not_stated(text: str) -> None:
    assert read_stated_mpp({"openslide.mpp-x": text}) is None


def test_a_resolution_without_a_unit_is_not_stated() -> None:
    assert read_stated_mpp({"tiff.XResolution": "20000", "tiff.YResolution": "20000"}) is None
