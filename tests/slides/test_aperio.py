"""Outlines of Aperio ImageScope: what the file says is what is drawn, in x, y, on the object's own border."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.core.errors import AnnotationError
from helpers.slides.aperio import label_outlines, read_aperio_outlines

COUNTS = {"A7-A13E": 314, "AR-A1AK": 433, "AR-A1AS": 405, "E2-A1B5": 329}


def write(path: Path, *regions: str, mpp: str = 'MicronsPerPixel="0.25"') -> Path:
    path.write_text(f"<Annotations {mpp}><Annotation><Regions>{''.join(regions)}</Regions></Annotation></Annotations>")
    return path


def draw(number: int, *points: tuple[float, float], negative: int = 0) -> str:
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)
    return f'<Region Id="{number}" NegativeROA="{negative}"><Vertices>{vertices}</Vertices></Region>'


def test_vertices_are_x_y_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xml", draw(7, (10, 2), (14, 2), (14, 3.5)), draw(3, (0, 0), (1, 0), (1, 1)))
    found = read_aperio_outlines(path)
    assert found.mpp == 0.25
    assert found.points[0].tolist() == [[10, 2], [14, 2], [14, 3.5]]
    assert len(found.points) == 2


def test_negative_regions_and_an_unstated_resolution_are_what_they_are(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.xml", draw(1, (0, 0), (4, 0), (4, 4)), draw(2, (1, 1), (2, 1), (2, 2), negative=1), mpp=""
    )
    found = read_aperio_outlines(path)
    assert found.mpp is None
    assert len(found.points) == 1


def test_a_filled_outline_holds_its_own_border_and_the_smaller_lies_on_top() -> None:
    square = np.array([[2, 1], [7, 1], [7, 4], [2, 4]], float)
    small = np.array([[3, 2], [4, 2], [4, 3], [3, 3]], float)
    labels = label_outlines([small, square], shape=(8, 12))
    assert labels.dtype == np.int32
    assert (labels == 1).sum() == 4
    assert (labels > 0).sum() == 6 * 4, "x from 2 to 7 and y from 1 to 4, both ends included"
    assert labels[1, 2] == labels[4, 7] == 2
    assert labels[5].max() == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not xml", "is no XML"),
        ("<Annotations></Annotations>", "no <Region>"),
        (
            '<Annotations><Region Id="4"><Vertex X="1" Y="a"/></Region></Annotations>',
            "region 4 of 'a.xml' has 1 vertices",
        ),
        ('<Annotations><Region Id="5"></Region></Annotations>', "region 5 of 'a.xml' has 0 vertices"),
    ],
)
def test_what_cannot_be_read_says_so(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_aperio_outlines(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="no file"):
        read_aperio_outlines(tmp_path / "absent.xml")


@pytest.mark.parametrize("case", COUNTS)
def test_the_published_outlines_agree_with_their_counts_and_masks(shared_data: Path, case: str) -> None:
    folder = shared_data / "monuseg_breast"
    outlines = read_aperio_outlines(folder / "annotations" / f"TCGA-{case}-01Z-00-DX1.xml")
    mask = cv2.imread(str(folder / "masks" / f"TCGA-{case}-01Z-00-DX1.png"), cv2.IMREAD_GRAYSCALE) > 0
    drawn = label_outlines(outlines.points, shape=(1000, 1000)) > 0
    assert len(outlines.points) == COUNTS[case]
    assert outlines.mpp == pytest.approx(0.246, abs=0.001)
    assert 2 * (mask & drawn).sum() / (mask.sum() + drawn.sum()) > 0.96
