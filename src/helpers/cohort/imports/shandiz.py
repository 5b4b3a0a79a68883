"""The cohort of Honarmandi Shandiz 2025 (figshare 28050083): tiles, genes and a class of 93 patients of TCGA's site A2.

Known of the record: 93 patients, stain-normalised tiles of about 256 um, fifty per patient, 20,318 genes, and the
classes BRCA.Luminal and BRCA.Basal / Her2. Its file names are not known to us, so nothing here depends on them: an
image belongs to the patient whose barcode stands in its path, the table of genes is the one with the most numbers, and
the table of classes is the one that holds both words. Whatever cannot be told apart is an error that names what was
found.

The tiles of a patient have lost their places on the slide. They are put side by side on white glass, written as one
slide, and from there on the patient is like any other.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from helpers.cohort.flow import CohortFlow
from helpers.cohort.raw import RawCohort, pass_gate
from helpers.cohort.subtypes import code_basal_her2
from helpers.cohort.tables import check_cases, check_expression, check_slides
from helpers.core.errors import SchemaError
from helpers.core.paths import shorten

BARCODE: Final = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")
IMAGES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
TABLES: Final = (".csv", ".tsv", ".txt")
TILE_UM: Final = 256.0
"""Edge of a published tile, um (about, as the record says)."""
MIN_GENES: Final = 20
UNIT: Final = "tpm"
"""The values are linear and not negative, since the paper takes log1p; which unit they have is assumed."""
JPEG_QUALITY: Final = 95


def import_shandiz(source: Path, *, slides_dir: Path, workers: int = 2) -> RawCohort:
    """Read tiles, genes and classes, and write one slide per patient.

    Parameters
    ----------
    source : Path
    slides_dir : Path
        Slides are written here as `<patient>.tif`.
    workers : int
        Patients written at the same time.

    Returns
    -------
    RawCohort
        Cases (`subtype` is the class's word, `site` the barcode's), slides and expression. A patient who lacks tiles,
        genes or a class is lost by name.

    Raises
    ------
    SchemaError
        When no image carries a barcode, or a table cannot be found.
    """
    tiles = list_tiles(source)
    tables = read_tables(source)
    genes, classes = find_genes(tables), find_classes(tables)
    flow = CohortFlow("patients with tiles, genes or a class", sorted({*tiles, *genes.index, *classes.index}))
    for step, there, reason in (
        ("tiles", set(tiles), "no tiles"),
        ("genes", set(genes.index), "no genes"),
        ("a class", set(classes.index), "no class"),
    ):
        flow.keep(step, {case: reason for case in flow.items if case not in there})
    kept = list(flow.items)
    slides = write_mosaics({case: tiles[case] for case in kept}, slides_dir, workers=workers)
    cases = pd.DataFrame({"case_id": kept, "site": [case[5:7] for case in kept], "subtype": classes[kept].to_numpy()})
    long = genes.loc[kept].rename_axis("case_id").reset_index().melt("case_id", var_name="gene", value_name="value")
    slide_flow = CohortFlow("slides made of tiles", slides["slide_id"], kind="slide")
    facts: dict[str, Any] = {
        "tiles per patient": f"{min(len(tiles[c]) for c in kept)} to {max(len(tiles[c]) for c in kept)}",
        "genes": genes.shape[1],
        "unit of the genes": f"{UNIT} (assumed)",
    }
    return RawCohort(
        pass_gate(check_cases(cases)),
        [flow, slide_flow],
        slides=pass_gate(check_slides(slides, case_ids=kept)),
        expression=pass_gate(check_expression(long.assign(unit=UNIT))),
        facts=facts,
    )


def find_barcode(text: str) -> str | None:
    """Return the patient's barcode in a text; dots may stand for dashes.

    Parameters
    ----------
    text : str

    Returns
    -------
    str or None
    """
    match = BARCODE.search(text.replace(".", "-").upper())
    return match.group(0) if match else None


def list_tiles(source: Path) -> dict[str, list[Path]]:
    """List the tiles of every patient, by the barcode in their path.

    Parameters
    ----------
    source : Path

    Returns
    -------
    dict of str to list of Path
        Sorted by name.

    Raises
    ------
    SchemaError
        When no image's path carries a barcode.
    """
    images = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGES)
    found: dict[str, list[Path]] = {}
    for path in images:
        case = find_barcode(path.relative_to(source).as_posix())
        if case is not None:
            found.setdefault(case, []).append(path)
    if not found:
        shown = f"first '{images[0].relative_to(source)}'" if images else "none"
        msg = (
            f"SchemaError: none of the {len(images)} images under '{shorten(source)}' ({shown}) has a barcode such as "
            "TCGA-A2-A0CM in its path, expected one folder or prefix per patient. Unpack the record there."
        )
        raise SchemaError(msg)
    return found


def read_tables(source: Path) -> dict[str, pd.DataFrame]:
    """Read every text table with patients in its rows; one with patients in its columns is turned.

    Parameters
    ----------
    source : Path

    Returns
    -------
    dict of str to DataFrame
        File name to a table indexed by barcode, first row of each patient; tables without barcodes are left out.
    """
    found = {}
    for path in sorted(path for path in source.rglob("*") if path.suffix.lower() in TABLES):
        table = pd.read_csv(path, sep="," if path.suffix.lower() == ".csv" else "\t", low_memory=False)
        if sum(find_barcode(str(name)) is not None for name in table.columns) > 1:
            table = table.set_index(table.columns[0]).T.rename_axis("patient").reset_index()
        column = next((name for name in table if find_barcode(str(table[name].iloc[0])) is not None), None)
        if column is not None:
            keyed = table.assign(_case=table[column].astype(str).map(find_barcode)).drop(columns=column)
            found[path.name] = keyed.dropna(subset="_case").drop_duplicates("_case").set_index("_case")
    return found


def find_genes(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Find the table of genes: the one with the most columns of numbers.

    Parameters
    ----------
    tables : dict of str to DataFrame
        From `read_tables`.

    Returns
    -------
    DataFrame, (n_patients, n_genes)

    Raises
    ------
    SchemaError
        When no table has twenty such columns.
    """
    numbers = {name: table.apply(pd.to_numeric, errors="coerce").dropna(axis=1) for name, table in tables.items()}
    best = max(numbers, key=lambda name: numbers[name].shape[1], default=None)
    if best is None or numbers[best].shape[1] < MIN_GENES:
        widths = ", ".join(f"'{name}' {table.shape[1]}" for name, table in numbers.items()) or "no table with barcodes"
        msg = f"SchemaError: no table of genes was found (columns of numbers: {widths}); expected {MIN_GENES} at least."
        raise SchemaError(msg)
    return numbers[best].loc[:, ~numbers[best].columns.duplicated()].astype(float)


def find_classes(tables: dict[str, pd.DataFrame]) -> pd.Series:
    """Find the column of classes: the one that holds words of both.

    Parameters
    ----------
    tables : dict of str to DataFrame

    Returns
    -------
    Series of str
        The words, by barcode.

    Raises
    ------
    SchemaError
        When no column holds both classes.
    """
    for table in tables.values():
        for name in table.select_dtypes("object"):
            words = table[name].dropna().astype(str)
            try:
                coded = code_basal_her2(words)
            except SchemaError:
                continue
            if coded.nunique() == 2:
                return words
    msg = (
        f"SchemaError: none of the tables {', '.join(map(repr, tables)) or '(none)'} has a column with both classes, "
        "expected words such as 'BRCA.Luminal' and 'BRCA.Basal / Her2'. Add a table of barcode and class."
    )
    raise SchemaError(msg)


def write_mosaics(tiles: dict[str, Sequence[Path]], folder: Path, *, workers: int = 2) -> pd.DataFrame:
    """Write the tiles of every patient as one slide, on white glass.

    Parameters
    ----------
    tiles : dict of str to sequence of Path
    folder : Path
    workers : int

    Returns
    -------
    DataFrame
        slide_id, case_id, path, kind.
    """

    def write(case: str) -> dict[str, str]:
        path = folder / f"{case}.tif"
        write_mosaic([_read_rgb(tile) for tile in tiles[case]], path)
        return {"slide_id": case, "case_id": case, "path": shorten(path.absolute()), "kind": "DX"}

    with ThreadPoolExecutor(max(1, workers)) as pool:
        return pd.DataFrame(list(pool.map(write, tiles)))


def _read_rgb(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        msg = f"SchemaError: tile '{path.name}' cannot be read as an image. Unpack the record again."
        raise SchemaError(msg)
    return np.ascontiguousarray(image[:, :, ::-1])


def write_mosaic(tiles: Sequence[np.ndarray], path: Path) -> Path:
    """Put square tiles side by side, with a rim of white, and write them as a slide whose mpp makes each 256 um wide.

    Parameters
    ----------
    tiles : sequence of ndarray, (edge, edge, 3), uint8
    path : Path

    Returns
    -------
    Path

    Raises
    ------
    SchemaError
        When the tiles differ in size, or are not square.
    """
    from helpers.slides.writer import write_pyramid

    edge = tiles[0].shape[0]
    odd = [tile.shape for tile in tiles if tile.shape != (edge, edge, 3)]
    if odd:
        msg = f"SchemaError: '{path.stem}' has a tile of shape {odd[0]}, expected ({edge}, {edge}, 3) as its first."
        raise SchemaError(msg)
    columns = int(np.ceil(np.sqrt(len(tiles))))
    rows = int(np.ceil(len(tiles) / columns))
    canvas = np.full(((rows + 2) * edge, (columns + 2) * edge, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (1 + i // columns) * edge, (1 + i % columns) * edge
        canvas[y : y + edge, x : x + edge] = tile
    write_pyramid(path, canvas, mpp=TILE_UM / edge, vendor="generic", quality=JPEG_QUALITY)
    return path
