"""Write a whole phantom cohort to disk: tables, slides, and the truth beside them.

The folder looks like any study's (`cases.csv`, `slides.csv`, `expression.parquet`, `omics.parquet`, `slides/`), plus
`truth/`, which only a judge may open. A slide is written whole or not at all, and is kept only where its key (its
drawing plan, the renderer's code, the libraries) and its bytes are as recorded: a killed run goes on where it stopped
and ends with the same bytes.
"""

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from helpers.core import paths
from helpers.core.errors import PhantomError
from helpers.core.progress import track
from helpers.core.provenance import compute_key, fingerprint, list_versions
from helpers.core.specs import PhantomSpec
from helpers.phantom.effects import VERSION
from helpers.phantom.estimands import write_estimands
from helpers.phantom.plan import SlidePlan
from helpers.phantom.truth import NO_MPP, TRUNCATED, PhantomTruth, compute_truth_hash, plan_cohort

PUBLIC_TABLES: Final = {"cases": "cases.csv", "expression": "expression.parquet", "omics": "omics.parquet"}
TRUTH_TABLES: Final = ("cases_truth", "slides_truth", "loadings", "omics_truth", "sites")
PLANNING: Final = (
    "effects", "estimands", "generate", "omics", "outlines", "planted_labels", "population", "pretraining", "survival",
    "truth",
)  # fmt: skip
"""Modules of `phantom` that change plans and tables, but not how a plan is drawn."""
DRAWING_VERSION: Final = 1
"""Raised when `draw_slide` itself changes."""
DRAWING_LIBRARIES: Final = ("numpy", "scipy", "opencv-python-headless", "tifffile", "imagecodecs")
KEYS_FILE: Final = "truth/slide_keys.json"


def generate_cohort(spec: PhantomSpec, out_dir: str | Path, *, workers: int = 2) -> Path:
    """Write the cohort; what is already there with the right key is kept.

    Parameters
    ----------
    spec : PhantomSpec
        `render=False` writes tables and truth only.
    out_dir : str or Path
        Raw cohort folder, such as data/cohorts/phantom.
    workers : int
        Processes that draw slides.

    Returns
    -------
    Path
        `out_dir`. Beside the public tables: truth/{cases_truth, slides_truth, loadings, omics_truth, sites}.csv,
        truth/estimands.json, truth/spec.json, truth/maps/<slide_id>.npz, truth/outlines/<slide_id>.geojson.

    Raises
    ------
    PhantomError
        When the folder holds a cohort that is not a phantom, or a slide cannot be drawn.
    """
    out_dir = paths.resolve(out_dir)
    check_folder(out_dir)
    truth = plan_cohort(spec)
    paths.write_json(describe_cohort(truth), out_dir / "truth" / "spec.json")
    write_tables(truth, out_dir)
    if spec.render:
        render_slides(truth, out_dir, workers=workers)
        outline_slides(truth, out_dir)
    write_estimands(spec, out_dir / "truth" / "estimands.json")
    return out_dir


def check_folder(out_dir: Path) -> None:
    """Refuse to write over somebody's cohort.

    Parameters
    ----------
    out_dir : Path

    Raises
    ------
    PhantomError
        When cases.csv lies there without the mark of a phantom.
    """
    if (out_dir / "cases.csv").is_file() and not (out_dir / "truth" / "spec.json").is_file():
        msg = (
            f"PhantomError: '{out_dir}' holds a cases.csv but no truth/spec.json, so it is no phantom. Choose another "
            "folder; nothing was written."
        )
        raise PhantomError(msg)


def describe_cohort(truth: PhantomTruth) -> dict[str, Any]:
    """Return what identifies a phantom cohort: its spec, the version of the planted model, the hash of its tables.

    Parameters
    ----------
    truth : PhantomTruth

    Returns
    -------
    dict
    """
    return {"spec": truth.spec.key_fields(), "model_version": VERSION, "truth_hash": compute_truth_hash(truth)}


def write_tables(truth: PhantomTruth, out_dir: Path) -> None:
    """Write every table of a cohort; slides.csv only where slides are drawn.

    Parameters
    ----------
    truth : PhantomTruth
    out_dir : Path
    """
    tables = truth.list_tables()
    for name, file in PUBLIC_TABLES.items():
        paths.write_table(tables[name], out_dir / file)
    for name in TRUTH_TABLES:
        paths.write_table(tables[name], out_dir / "truth" / f"{name}.csv")
    if truth.spec.render:
        paths.write_table(truth.slides, out_dir / "slides.csv")


def render_slides(truth: PhantomTruth, out_dir: Path, *, workers: int = 2) -> list[str]:
    """Draw and write every slide that is missing, changed or of another plan.

    Parameters
    ----------
    truth : PhantomTruth
    out_dir : Path
    workers : int

    Returns
    -------
    list of str
        The slides that were drawn now; the others were reused.
    """
    defects = truth.slides_truth.set_index("slide_id")["defect"].to_dict()
    scanners = truth.slides.set_index("slide_id")["scanner"].to_dict()
    jobs = {
        plan.slide_id: (plan, str(defects[plan.slide_id]), str(scanners[plan.slide_id]), str(out_dir))
        for plan in truth.plans
    }
    keys = _read_keys(out_dir, planned=set(jobs))
    wanted = {slide_id: compute_slide_key(*job[:3]) for slide_id, job in jobs.items()}
    missing = [slide_id for slide_id in jobs if not _is_whole(out_dir, slide_id, wanted[slide_id], keys)]
    for slide_id, content in _draw_all({slide_id: jobs[slide_id] for slide_id in missing}, workers):
        keys[slide_id] = {"key": wanted[slide_id], **content}
        paths.write_json(keys, out_dir / KEYS_FILE)
    return missing


def outline_slides(truth: PhantomTruth, out_dir: Path) -> list[Path]:
    """Write the outline of the tumour of every slide, which stands for a pathologist's drawing.

    Parameters
    ----------
    truth : PhantomTruth
    out_dir : Path
        Of a cohort whose slides are drawn.

    Returns
    -------
    list of Path
        truth/outlines/<slide_id>.geojson; none of a slide without tumour.
    """
    from helpers.phantom.outlines import write_tumour

    folder, written = out_dir / "truth" / "outlines", []
    for plan in truth.plans:
        maps, um_per_px = read_maps(list_files(out_dir, plan.slide_id)[1])
        path = folder / f"{plan.slide_id}.geojson"
        if write_tumour(maps["tumour"], path, um_per_px=um_per_px, mpp=plan.mpp, slide_id=plan.slide_id):
            written.append(path)
    for left in set(folder.glob("*.geojson")) - set(written):  # of an earlier plan
        left.unlink()
    return written


def compute_slide_key(plan: SlidePlan, defect: str, scanner: str) -> str:
    """Return the key of one slide: its plan, its planted defect, the drawing code and its libraries.

    Parameters
    ----------
    plan : SlidePlan
    defect : str
    scanner : str

    Returns
    -------
    str, 64 hex digits
    """
    versions = {name: list_versions()[name] for name in DRAWING_LIBRARIES}
    return compute_key(DRAWING_VERSION, asdict(plan), defect, scanner, hash_drawing_code(), versions)


@cache
def hash_drawing_code() -> str:
    """Return the fingerprint of the code that turns a plan into a file.

    Returns
    -------
    str, 64 hex digits
    """
    phantom = Path(__file__).resolve().parent
    files = [file for file in sorted(phantom.glob("*.py")) if file.stem not in PLANNING]
    files.append(phantom.parent / "slides" / "writer.py")
    return compute_key([[file.name, fingerprint(file)] for file in files])


def draw_slide(plan: SlidePlan, defect: str, scanner: str, out_dir: str) -> dict[str, str]:
    """Draw one slide and write it with its truth maps.

    Parameters
    ----------
    plan : SlidePlan
    defect : str
        '' , 'truncated' (the second half of the file is missing) or 'no_mpp' (the header states no resolution).
    scanner : str
        Stated in the header.
    out_dir : str
        The cohort's folder.

    Returns
    -------
    dict
        `slide` and `maps`: SHA-256 of both files.
    """
    from helpers.phantom.renderer import render_slide
    from helpers.slides.writer import write_pyramid

    rendered = render_slide(plan)
    slide, maps = list_files(Path(out_dir), plan.slide_id)
    mpp = None if defect == NO_MPP else plan.mpp
    with paths.atomic_write(slide) as temporary:
        write_pyramid(temporary, rendered.image, mpp=mpp, quality=plan.jpeg_quality, scanner=scanner)
        if defect == TRUNCATED:
            cut_file(temporary)
    with paths.atomic_write(maps) as temporary:
        arrays: dict[str, Any] = {"um_per_px": np.float32(rendered.maps_um_per_px), **rendered.maps}
        np.savez_compressed(temporary, **arrays)
    return {"slide": fingerprint(slide), "maps": fingerprint(maps)}


def cut_file(path: Path) -> None:
    """Cut a file in the middle, as an interrupted copy leaves it.

    Parameters
    ----------
    path : Path
    """
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def list_files(out_dir: Path, slide_id: str) -> tuple[Path, Path]:
    """Return where a slide and its truth maps lie.

    Parameters
    ----------
    out_dir : Path
    slide_id : str

    Returns
    -------
    slide, maps : Path
    """
    return out_dir / "slides" / f"{slide_id}.svs", out_dir / "truth" / "maps" / f"{slide_id}.npz"


def read_maps(path: str | Path) -> tuple[dict[str, np.ndarray], float]:
    """Read the truth maps of one slide.

    Parameters
    ----------
    path : str or Path
        truth/maps/<slide_id>.npz.

    Returns
    -------
    maps : dict of str to ndarray, (height, width), float32
        proliferation (z, NaN where there is no tumour), tumour (share), til and nuclear_density (per mm2).
    um_per_px : float
    """
    with np.load(path) as stored:
        maps = {name: stored[name] for name in stored.files if name != "um_per_px"}
        return maps, float(stored["um_per_px"])


Job = tuple[SlidePlan, str, str, str]


def _draw_all(jobs: dict[str, Job], workers: int) -> Iterable[tuple[str, dict[str, str]]]:
    """Yield (slide_id, hashes) as slides finish; large slides first, so that no worker ends alone."""
    order = sorted(jobs, key=lambda slide_id: jobs[slide_id][0].mpp)
    with _open_pool(workers) as pool:
        futures = {pool.submit(draw_slide, *jobs[slide_id]): slide_id for slide_id in order}
        for future in track(as_completed(futures), total=len(futures), describe="draw phantom slides"):
            yield futures[future], _collect(future, futures[future], pool)


def _open_pool(workers: int) -> Executor:
    if workers <= 1:
        return ThreadPoolExecutor(1)
    context = multiprocessing.get_context("spawn")  # a forked kernel thread may hold a lock for ever
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_use_one_thread)


def _collect(future: "Future[dict[str, str]]", slide_id: str, pool: Executor) -> dict[str, str]:
    error = future.exception()
    if error is None:
        return future.result()
    pool.shutdown(wait=False, cancel_futures=True)
    found = f"{type(error).__name__}: {error}"
    msg = f"PhantomError: slide '{slide_id}' could not be drawn ({found}). Slides drawn so far are kept."
    raise PhantomError(msg) from error


def _use_one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _read_keys(out_dir: Path, *, planned: set[str]) -> dict[str, dict[str, str]]:
    """Read what was recorded, and remove the slides of an earlier plan that this one does not have."""
    path = out_dir / KEYS_FILE
    keys: dict[str, dict[str, str]] = paths.read_json(path) if path.is_file() else {}
    for slide_id in sorted(set(keys) - planned):
        for file in list_files(out_dir, slide_id):
            file.unlink(missing_ok=True)
        del keys[slide_id]
    if keys:
        paths.write_json(keys, path)
    return keys


def _is_whole(out_dir: Path, slide_id: str, key: str, keys: dict[str, dict[str, str]]) -> bool:
    stored = keys.get(slide_id, {})
    slide, maps = list_files(out_dir, slide_id)
    if stored.get("key") != key or not slide.is_file() or not maps.is_file():
        return False
    return fingerprint(slide) == stored["slide"] and fingerprint(maps) == stored["maps"]
