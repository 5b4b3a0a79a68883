"""HER2ST: breast sections with spatial transcriptomics, written as real slides whose resolution the spots give away.

Spots are printed 200 um apart, so the distance between neighbouring spots in the photograph is 200 um in pixels. The
photographs state no other resolution. Spot positions are given in pixels of the photographs, which become level 0.
"""

import gzip
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.cohort.flow import CohortFlow
from helpers.cohort.raw import RawCohort, pass_gate, require_files
from helpers.cohort.tables import check_cases, check_slides, check_spot_expression, check_spots
from helpers.cohort.textfiles import read_text_table
from helpers.core.errors import SchemaError
from helpers.core.paths import shorten

FOLDERS = {"images": "images", "spots": "spots", "counts": "counts"}
LAYOUT = "the HER2ST folders images/ (*.jpg), spots/ (*_selection.tsv) and counts/ (*.tsv.gz) of almaan/her2st."
SPOT_PITCH_UM = 200.0  # distance between the centres of neighbouring spots
SPOT_DIAMETER_UM = 100.0
JPEG_QUALITY = 95
PITCH_RANGE_PX = (50.0, 2000.0)


@dataclass(frozen=True)
class Section:
    """One section: its name ('C2'), its patient ('C') and its files.

    Parameters
    ----------
    name : str
    image, spots, counts : Path
    labels : Path or None
        Cluster labels of the spots, where given.
    """

    name: str
    image: Path
    spots: Path
    counts: Path
    labels: Path | None

    @property
    def case_id(self) -> str:
        """The patient: the section's letter."""
        return self.name[0]


def import_her2st(source: Path, *, slides_dir: Path, workers: int = 2) -> RawCohort:
    """Write each section as a pyramidal TIFF with its resolution, and collect spots and counts.

    Parameters
    ----------
    source : Path
        Folder holding images/, spots/, counts/ and, optionally, labels/.
    slides_dir : Path
        Slides are written here as `<section>.tif`.
    workers : int
        Sections written at the same time; each takes about 0.6 GB.

    Returns
    -------
    RawCohort
        Cases, slides, spots (level-0 px; `n_umi` and `n_genes` are totals over all genes) and spot expression (raw
        counts, zeros left out).

    Raises
    ------
    SchemaError
        When a file is missing, or the spots give no plausible resolution.
    """
    sections = list_sections(source)
    facts: dict[str, Any] = {}
    spots = {section.name: read_spot_positions(section) for section in sections}
    pitches = {section.name: measure_pitch(spots[section.name], section.name) for section in sections}
    counts = {section.name: read_counts(section.counts) for section in sections}
    slides = _write_slides(sections, pitches, slides_dir, workers, facts)
    spot_table, flow = _join_spots(sections, spots, counts)
    expression = pd.concat([_lengthen(section.name, counts[section.name], spot_table) for section in sections])
    cases = pd.DataFrame({"case_id": sorted({section.case_id for section in sections}), "her2": "positive"})
    case_flow = CohortFlow("patients with a section", cases["case_id"])
    slide_flow = CohortFlow("sections with a photograph", slides["slide_id"], kind="slide")
    return RawCohort(
        pass_gate(check_cases(cases.assign(centre="HER2ST"))),
        [case_flow, slide_flow, flow],
        slides=pass_gate(check_slides(slides, case_ids=cases["case_id"])),
        spots=pass_gate(check_spots(spot_table)),
        spot_expression=pass_gate(check_spot_expression(expression.reset_index(drop=True))),
        facts=facts,
    )


def check_sections(source: Path) -> None:
    """Check everything that `import_her2st` reads, without writing a slide.

    Parameters
    ----------
    source : Path

    Raises
    ------
    SchemaError
        At the first problem.
    """
    for section in list_sections(source):
        measure_pitch(read_spot_positions(section), section.name)
        read_counts(section.counts)


def list_sections(source: Path) -> list[Section]:
    """Find the sections of a HER2ST folder.

    Parameters
    ----------
    source : Path

    Returns
    -------
    list of Section
        Sorted by name.

    Raises
    ------
    SchemaError
        When a folder is missing, there is no photograph, or a section lacks its spots or counts.
    """
    folders = require_files(source, FOLDERS, what=LAYOUT)
    images = sorted(folders["images"].glob("*.jpg"))
    if not images:
        msg = f"SchemaError: folder '{folders['images']}' holds no .jpg, expected one per section. {LAYOUT}"
        raise SchemaError(msg)
    sections = []
    for image in images:
        name = image.name.split("_")[0]
        files = {"spots": f"spots/{name}_selection.tsv", "counts": f"counts/{name}.tsv.gz"}
        found = require_files(source, files, what=f"spots and counts of section '{name}'.")
        labels = source / "labels" / f"{name}-cluster-annotation.tsv.gz"
        sections.append(Section(name, image, found["spots"], found["counts"], labels if labels.is_file() else None))
    return sections


def read_spot_positions(section: Section) -> pd.DataFrame:
    """Read the selected spots of a section.

    Parameters
    ----------
    section : Section

    Returns
    -------
    DataFrame
        spot_id ('10x14', array column x row), x_l0, y_l0 (px of the photograph), array_x, array_y (adjusted array
        coordinates, 1 = one pitch), label.
    """
    table = read_text_table(section.spots, separator="\t")
    table = table[table["selected"] == "1"]
    spots = pd.DataFrame(
        {
            "slide_id": section.name,
            "spot_id": table["x"] + "x" + table["y"],
            "x_l0": table["pixel_x"].astype(float),
            "y_l0": table["pixel_y"].astype(float),
            "array_x": table["new_x"].astype(float),
            "array_y": table["new_y"].astype(float),
        }
    )
    return spots.assign(label=spots["spot_id"].map(_read_labels(section.labels)))


def _read_labels(path: Path | None) -> Mapping[str, str]:
    """Read the cluster of each spot; the file is an R export, whose header lacks the name of the row names."""
    if path is None:
        return {}
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    names = lines[0].split("\t")[-len(rows[0]) + 1 :]
    x, y, label = (names.index(name) + 1 for name in ("x", "y", "label"))
    return {f"{row[x]}x{row[y]}": row[label] for row in rows}


def measure_pitch(spots: pd.DataFrame, name: str) -> tuple[float, float]:
    """Measure the spot pitch along both axes by a straight line through all spots.

    Parameters
    ----------
    spots : DataFrame
        Of `read_spot_positions`.
    name : str
        The section, for the message.

    Returns
    -------
    pitch_x, pitch_y : float, px

    Raises
    ------
    SchemaError
        When the spots are too few or the pitch lies outside `PITCH_RANGE_PX`.
    """
    pitches = []
    for array, pixel in (("array_x", "x_l0"), ("array_y", "y_l0")):
        if spots[array].nunique() < 3:
            msg = f"SchemaError: section '{name}' has spots in {spots[array].nunique()} rows, expected 3 or more."
            raise SchemaError(f"{msg} Its resolution cannot be measured; leave the section out.")
        pitches.append(float(np.polyfit(spots[array], spots[pixel], 1)[0]))
    low, high = PITCH_RANGE_PX
    if not all(low <= pitch <= high for pitch in pitches):
        msg = (
            f"SchemaError: section '{name}' has a spot pitch of {pitches[0]:.1f} x {pitches[1]:.1f} px, expected "
            f"{low:g} to {high:g}. Check that the positions belong to this photograph."
        )
        raise SchemaError(msg)
    return pitches[0], pitches[1]


def read_counts(path: Path) -> pd.DataFrame:
    """Read a counts table: spots x genes, whole numbers.

    Parameters
    ----------
    path : Path
        Tab-separated, gzipped; the header's first name is empty.

    Returns
    -------
    DataFrame, (n_spots, n_genes)
        Index spot_id.

    Raises
    ------
    SchemaError
        When a cell is no whole number of 0 or more, or a spot or gene occurs twice.
    """
    table = pd.read_csv(path, sep="\t", index_col=0, dtype={0: str})
    table.index = table.index.astype(str)
    values = table.to_numpy()
    if values.dtype.kind not in "iu" or (values < 0).any():
        msg = f"SchemaError: counts '{path.name}' hold something else than whole numbers of 0 or more. Fetch it again."
        raise SchemaError(msg)
    if table.index.has_duplicates or table.columns.has_duplicates:
        msg = f"SchemaError: counts '{path.name}' hold a spot or a gene twice, expected once. Fetch it again."
        raise SchemaError(msg)
    return table


def _write_slides(
    sections: list[Section],
    pitches: dict[str, tuple[float, float]],
    slides_dir: Path,
    workers: int,
    facts: dict[str, Any],
) -> pd.DataFrame:
    def write(section: Section) -> dict[str, Any]:
        pitch_x, pitch_y = pitches[section.name]
        mpp = SPOT_PITCH_UM / float(np.sqrt(pitch_x * pitch_y))
        path = write_section(section.image, slides_dir / f"{section.name}.tif", mpp=mpp)
        return {"slide_id": section.name, "case_id": section.case_id, "path": shorten(path.absolute()), "mpp": mpp}

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        rows = list(pool.map(write, sections))
    facts["resolution (um per px) from the spot pitch of 200 um"] = {
        row["slide_id"]: {
            "mpp": round(row["mpp"], 4),
            "pitch_x_px": round(pitches[row["slide_id"]][0], 2),
            "pitch_y_px": round(pitches[row["slide_id"]][1], 2),
        }
        for row in rows
    }
    facts["sections re-encoded from JPEG"] = f"pyramidal TIFF, JPEG quality {JPEG_QUALITY}"
    return pd.DataFrame(rows).drop(columns="mpp")  # the files state it; a second statement could differ


def write_section(image: Path, path: Path, *, mpp: float) -> Path:
    """Write a photograph as a pyramidal TIFF.

    Parameters
    ----------
    image : Path
        JPEG, RGB; its orientation tag is not applied, since spot positions are in stored pixels.
    path : Path
    mpp : float
        um per px.

    Returns
    -------
    Path

    Raises
    ------
    SchemaError
        When the photograph cannot be decoded.
    """
    import imagecodecs

    from helpers.slides.writer import write_pyramid

    try:
        pixels = imagecodecs.jpeg8_decode(image.read_bytes(), outcolorspace="RGB")
    except imagecodecs.Jpeg8Error as error:
        msg = f"SchemaError: photograph '{image.name}' cannot be decoded ({error}). Fetch it again."
        raise SchemaError(msg) from error
    write_pyramid(path, np.ascontiguousarray(pixels), mpp=mpp, vendor="generic", quality=JPEG_QUALITY)
    return path


def _join_spots(
    sections: list[Section], spots: dict[str, pd.DataFrame], counts: dict[str, pd.DataFrame]
) -> tuple[pd.DataFrame, CohortFlow]:
    table = pd.concat(spots.values(), ignore_index=True).assign(diameter_um=SPOT_DIAMETER_UM)
    totals = pd.concat({section.name: _sum_counts(counts[section.name]) for section in sections})
    keys = pd.MultiIndex.from_frame(table[["slide_id", "spot_id"]])
    names = [f"{slide}/{spot}" for slide, spot in keys]
    flow = CohortFlow("spots selected", names, kind="spot")
    measured = keys.isin(totals.index)
    flow.keep("RNA measured", {name: "no counts" for name, there in zip(names, measured, strict=True) if not there})
    table = table[measured].reset_index(drop=True)
    return table.join(totals.reindex(keys[measured]).reset_index(drop=True)), flow


def _sum_counts(counts: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"n_umi": counts.sum(axis=1), "n_genes": (counts > 0).sum(axis=1)})


def _lengthen(name: str, counts: pd.DataFrame, spots: pd.DataFrame) -> pd.DataFrame:
    """Return the non-zero counts of the spots that are kept, long."""
    kept = counts.loc[counts.index.isin(spots.loc[spots["slide_id"] == name, "spot_id"])]
    row, column = np.nonzero(kept.to_numpy())
    return pd.DataFrame(
        {
            "slide_id": name,
            "spot_id": kept.index.to_numpy(object)[row],
            "gene": kept.columns.to_numpy(object)[column],
            "value": kept.to_numpy()[row, column].astype(float),
            "unit": "count",
        }
    )
