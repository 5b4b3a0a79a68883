"""From one tool's feature files to another's, slide by slide: nothing is overwritten, and each slide fails alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.core.errors import FeatureError, RunError
from helpers.core.ledger import run_batch
from helpers.core.paths import atomic_write, shorten
from helpers.core.provenance import compute_key, fingerprint
from helpers.features.dialects import TARGETS, Job, name_bag, plan_slide
from helpers.features.store import read_features

STAGE = "convert_features"
VERSION = "1"
"""Raised whenever the same file would be written otherwise: part of every key."""


def publish(target: Path, write: Callable[[Path], Any]) -> bool:
    """Write a file that is not there yet; one that is there must be the same, byte for byte.

    Parameters
    ----------
    target : Path
    write : callable
        Path to whatever; writes the file.

    Returns
    -------
    bool
        True where the file is new, False where it was there.

    Raises
    ------
    FeatureError
        When something else is there.
    """
    new = not target.exists()
    with atomic_write(target) as temporary:
        write(temporary)
        if not new and temporary.read_bytes() != target.read_bytes():
            msg = (
                f"FeatureError: '{target.parent.name}/{target.name}' is there already and differs from what would be "
                "written. Move it away, or give another folder to --out."
            )
            raise FeatureError(msg)
    return new


def list_sources(source: Path) -> dict[str, Path]:
    """Find the feature files of a folder: its own .h5 and .pt files, or those of CLAM's h5_files or pt_files.

    Parameters
    ----------
    source : Path
        A folder, or one file.

    Returns
    -------
    dict of str to Path
        By slide id, sorted. Where a slide has both .h5 and .pt in one folder, the .h5, which says more.

    Raises
    ------
    FeatureError
        When there is none; the message names the folders inside.
    """
    if source.is_file():
        return {source.stem: source}
    if not source.is_dir():
        msg = f"FeatureError: there is no file or folder '{shorten(source)}'. Correct the path; relative ones start at"
        raise FeatureError(f"{msg} '{Path.cwd()}'.")
    inner = [source / name for name in ("h5_files", "pt_files") if (source / name).is_dir()]
    folder = inner[0] if inner else source
    files = [path for suffix in (".pt", ".h5") for path in sorted(folder.glob(f"[!.]*{suffix}"))]
    found = {path.stem: path for path in files if not path.stem.endswith("_patches")}
    if not found:
        folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
        inside = f"it holds the folders {', '.join(folders[:8])}" if folders else "it holds no folders either"
        msg = (
            f"FeatureError: no feature file (.h5 or .pt) in '{shorten(folder)}'; {inside}. Give the folder of one "
            "encoder, or one file."
        )
        raise FeatureError(msg)
    return dict(sorted(found.items()))


def convert_features(
    source: str | Path,
    *,
    to: str,
    out: str | Path,
    mpp: float | Mapping[str, float] | None = None,
    encoder: str | None = None,
    patches: str | Path | None = None,
    workers: int = 2,
) -> pd.DataFrame:
    """Write feature files of any dialect in another; each slide fails alone.

    Parameters
    ----------
    source : str or Path
        A folder of feature files, or one file.
    to : str
        One of `TARGETS`; survpath writes the bags only (`helpers.features.survpath` writes the tables).
    out : str or Path
        Folder. A file that is there is kept if it is what would be written, and an error of its slide otherwise.
    mpp : float or mapping of slide id to float, optional
        Resolution of level 0, um per px; wanted between px and um where files state none.
    encoder : str, optional
        Name of the encoder to write, in place of the one that files state.
    patches : str or Path, optional
        Folder of CLAM's or TRIDENT's coordinates (`read_features`).
    workers : int
        Threads.

    Returns
    -------
    DataFrame, one row per slide
        The ledger (`helpers.core.ledger`), also in `out/ledger.parquet`.

    Raises
    ------
    FeatureError
        When there is nothing to convert, the target is unknown, or `out` is the folder of the source.
    """
    source, out = Path(source).absolute(), Path(out).absolute()
    paths = list_sources(source)
    _check_request(paths, to, out)

    def work(slide_id: str) -> tuple[str, ...]:
        path, resolution = paths[slide_id], mpp.get(slide_id) if isinstance(mpp, Mapping) else mpp
        key = compute_key(STAGE, VERSION, fingerprint(path), to, resolution, encoder)
        bag = read_features(path, patches=patches)
        job = Job(slide_id=slide_id, encoder=encoder, key=key)
        files, remarks = plan_slide(bag, job, to=to, mpp=resolution)
        made = [publish(out / name, files[name]) for name in sorted(files, key=lambda name: not (out / name).exists())]
        return ("ok" if any(made) else "reused"), key, *remarks

    ledger = out / "ledger.parquet"
    return run_batch(
        list(paths),
        work,
        stage=STAGE,
        path=ledger,
        workers=workers,
        max_failed=len(paths),
        describe="convert features",
    )


def _check_request(paths: dict[str, Path], to: str, out: Path) -> None:
    if to not in TARGETS:
        msg = f"FeatureError: '{to}' is no dialect to write. Choose from {', '.join(TARGETS)}."
        raise FeatureError(msg)
    if any(path.is_relative_to(out) for path in paths.values()):
        msg = f"FeatureError: '{shorten(out)}' holds the files to convert. Give another folder to --out."
        raise FeatureError(msg)
    names = [name_bag(slide_id) for slide_id in paths] if to == "survpath" else []
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = (
            f"FeatureError: SurvPath strips the letters of '.svs' off the end of ids, so that several slides become "
            f"'{twice[0]}'. Rename them."
        )
        raise FeatureError(msg)


def summarise_conversion(ledger: pd.DataFrame) -> str:
    """Say in a few lines what became of a batch.

    Parameters
    ----------
    ledger : DataFrame
        Of `convert_features`.

    Returns
    -------
    str

    Raises
    ------
    RunError
        When slides failed: names up to ten with their reasons.
    """
    counts = {status: int((ledger["status"] == status).sum()) for status in ("ok", "reused", "failed")}
    remarks = ledger.loc[(ledger["status"] != "failed") & (ledger["reason"] != ""), "reason"].value_counts()
    lines = [
        f"{_count(len(ledger))}: {counts['ok']} written, {counts['reused']} there already, {counts['failed']} failed"
    ]
    lines += [f"  {_count(count)}: {reason}" for reason, count in remarks.head(10).items()]
    failed = ledger[ledger["status"] == "failed"]
    if failed.empty:
        return "\n".join(lines)
    lines += [f"  {row.slide_id}: {row.reason}" for row in failed.head(10).itertuples()]
    more = f"\n  … and {len(failed) - 10} more in ledger.parquet" if len(failed) > 10 else ""
    raise RunError("RunError: " + "\n".join(lines) + more + "\nThe others are written; mend these and run it again.")


def _count(n_slides: int) -> str:
    return f"{n_slides} slide" if n_slides == 1 else f"{n_slides} slides"
