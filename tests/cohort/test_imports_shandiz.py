"""The published cohort of chapter 06 by content, whatever its files are called."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from helpers.cohort.imports.shandiz import find_barcode, import_shandiz, write_mosaic
from helpers.core.errors import SchemaError
from helpers.slides.reader import open_slide

CASES = [f"TCGA-A2-A0{i:02d}" for i in range(4)]


def write_record(folder: Path, *, n_tiles: int = 3, turned: bool = False) -> Path:
    """Four patients: tiles in folders or with a prefix, genes either way round, classes in a table of their own."""
    rng = np.random.default_rng(1)
    for i, case in enumerate(CASES):
        for t in range(n_tiles):
            path = folder / "tiles" / (f"{case}/{t}.png" if i % 2 else f"{case}-01Z-00-DX1_{t}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.integers(90, 220, (32, 32, 3), dtype=np.uint8))
    genes = pd.DataFrame(
        rng.gamma(2, 20, (4, 25)), index=[f"{case}-01A" for case in CASES], columns=[f"G{i}" for i in range(25)]
    )
    (genes.T if turned else genes).rename_axis("id").to_csv(folder / "expression.csv")
    words = ["BRCA.Luminal", "BRCA.Basal / Her2", "BRCA.Luminal", "BRCA.Luminal"]
    pd.DataFrame({"patient": [case.replace("-", ".") for case in CASES], "group": words}).to_csv(
        folder / "labels.csv", index=False
    )
    return folder


@pytest.mark.parametrize("turned", [False, True])
def test_tiles_genes_and_classes_are_found_by_what_they_hold(tmp_path, turned: bool) -> None:
    cohort = import_shandiz(write_record(tmp_path / "raw", turned=turned), slides_dir=tmp_path / "slides")
    assert cohort.cases["case_id"].tolist() == CASES
    assert cohort.cases["site"].unique().tolist() == ["A2"]
    assert cohort.cases["subtype"].tolist()[1] == "BRCA.Basal / Her2"
    assert cohort.expression["gene"].nunique() == 25
    assert (cohort.expression["unit"] == "tpm").all()
    assert cohort.facts["tiles per patient"] == "3 to 3"


def test_a_patient_becomes_a_slide_on_which_a_tile_is_256_um_wide(tmp_path) -> None:
    tiles = [np.full((32, 32, 3), value, np.uint8) for value in (40, 120, 200)]
    with open_slide(write_mosaic(tiles, tmp_path / "a.tif"), slide_id="a") as slide:
        assert slide.mpp == pytest.approx(8.0)
        assert (slide.width, slide.height) == (4 * 32, 4 * 32)
        read = [slide.read_region_l0(x, y, 32, 32, 8.0).mean() for x, y in ((32, 32), (64, 32), (32, 64), (0, 0))]
    assert read == pytest.approx([40, 120, 200, 255], abs=4)
    with pytest.raises(SchemaError, match=r"'b' has a tile of shape \(16, 32, 3\), expected \(32, 32, 3\)"):
        write_mosaic([tiles[0], tiles[0][:16]], tmp_path / "b.tif")


def test_a_patient_without_genes_or_class_is_lost_by_name(tmp_path) -> None:
    folder = write_record(tmp_path / "raw")
    labels = pd.read_csv(folder / "labels.csv")
    labels[labels.index != 2].to_csv(folder / "labels.csv", index=False)
    cohort = import_shandiz(folder, slides_dir=tmp_path / "slides")
    assert {loss.item: loss.reason for loss in cohort.flows[0].losses} == {CASES[2]: "no class"}


def test_what_is_not_there_is_said(tmp_path) -> None:
    folder = write_record(tmp_path / "raw")
    (folder / "labels.csv").write_text(f"patient,group\n{CASES[0]},BRCA.Luminal\n")
    with pytest.raises(
        SchemaError, match=r"none of the tables 'expression.csv', 'labels.csv' has a column with both classes"
    ):
        import_shandiz(folder, slides_dir=tmp_path / "slides")
    (folder / "expression.csv").write_text(f"id,G1\n{CASES[0]},1.0\n")
    with pytest.raises(SchemaError, match=r"no table of genes was found \(columns of numbers: 'expression.csv' 1"):
        import_shandiz(folder, slides_dir=tmp_path / "slides")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SchemaError, match=r"none of the 0 images .* has a barcode"):
        import_shandiz(tmp_path / "empty", slides_dir=tmp_path / "slides")


def test_a_barcode_is_found_with_dots_and_in_small_letters() -> None:
    assert find_barcode("x/tcga.a2.a0cm.01z/3.png") == "TCGA-A2-A0CM"
    assert find_barcode("slide_12.png") is None
