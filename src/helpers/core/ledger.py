"""Every slide x stage ends in a ledger with a reason: nothing is lost silently.

A batch runs one function per slide in threads (slide reads and array work release the GIL). What a slide raises is
that slide's failure and no other's; the journal is written row by row, so a killed batch still says how far it came.
"""

import errno
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import pandas as pd

from helpers.core import paths
from helpers.core.errors import HistobookError, RunError
from helpers.core.progress import track

COLUMNS = ("slide_id", "stage", "status", "reason", "seconds", "key")
MACHINE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that are the machine's, not the slide's: the batch stops at once, what is finished stays."""

Work = Callable[[str], tuple[str, ...]]
Row = dict[str, object]


def run_batch(
    ids: Sequence[str],
    work: Work,
    *,
    stage: str,
    path: str | Path,
    workers: int = 2,
    max_failed: int = 0,
    describe: str = "",
) -> pd.DataFrame:
    """Run `work` for every slide and write the ledger.

    Parameters
    ----------
    ids : sequence of str
        Slide ids; rows come out in this order.
    work : callable, slide_id -> (status, key) or (status, key, remark)
        Status 'ok' (made now) or 'reused' (found with the same key); a remark becomes the row's reason. Whatever it
        raises becomes a 'failed' row.
    stage : str
        Name of the stage, such as 'tile_slides'.
    path : str or Path
        Of the ledger, `….parquet`; the journal `….jsonl` lies beside it while the batch runs.
    workers : int
        Threads.
    max_failed : int
        How many slides may fail before the batch as a whole is an error.
    describe : str
        What the progress bar says.

    Returns
    -------
    DataFrame, one row per slide
        slide_id, stage, status, reason, seconds, key.

    Raises
    ------
    RunError
        After every slide was tried, when more than `max_failed` failed: a summary of who and why. At once, when the
        disk is full or read-only, or `work` itself raises a RunError: the machine fails then, not the slide.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Row] = {}
    with path.with_suffix(".jsonl").open("w", encoding="utf-8") as journal, ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(_attempt, slide_id, work, stage): slide_id for slide_id in ids}
        for job in track(as_completed(jobs), total=len(jobs), describe=describe or stage):
            rows[jobs[job]] = _collect(job, jobs, stage)
            journal.write(json.dumps(rows[jobs[job]]) + "\n")
            journal.flush()
    table = pd.DataFrame([rows[slide_id] for slide_id in ids], columns=list(COLUMNS))
    paths.write_table(table, path)
    path.with_suffix(".jsonl").unlink()
    check_failures(table, max_failed=max_failed, path=path)
    return table


def _attempt(slide_id: str, work: Work, stage: str) -> Row:
    began = time.perf_counter()
    row: Row = {"slide_id": slide_id, "stage": stage, "reason": "", "key": ""}
    try:
        row["status"], row["key"], *remarks = work(slide_id)
        row["reason"] = "; ".join(remarks)
    except Exception as error:
        if isinstance(error, RunError) or (isinstance(error, OSError) and error.errno in MACHINE_ERRNOS):
            raise
        row |= {"status": "failed", "reason": describe_failure(error)}
    return row | {"seconds": round(time.perf_counter() - began, 3)}


def describe_failure(error: BaseException) -> str:
    """Return an exception as one line: our own messages as they are, others with their type in front.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    str
    """
    text = " ".join(str(error).split())
    return text if isinstance(error, HistobookError) else f"{type(error).__name__}: {text}"


def _collect(job: Future[Row], jobs: dict[Future[Row], str], stage: str) -> Row:
    error = job.exception()
    if error is None:
        return job.result()
    for other in jobs:
        other.cancel()
    remedy = "mend that" if isinstance(error, RunError) else "free some space (or make the folder writable)"
    msg = (
        f"RunError: stage '{stage}' stopped at slide '{jobs[job]}': {describe_failure(error)}. What is finished is "
        f"kept; {remedy} and run again, the rest continues from there."
    )
    raise RunError(msg) from error


def check_failures(table: pd.DataFrame, *, max_failed: int, path: str | Path) -> None:
    """Stop when more slides failed than the profile allows.

    Parameters
    ----------
    table : DataFrame
        A ledger.
    max_failed : int
    path : str or Path
        Where the ledger lies, for the message.

    Raises
    ------
    RunError
        Lists up to ten failed slides with their reasons.
    """
    failed = table[table["status"] == "failed"]
    if len(failed) <= max_failed:
        return
    lines = [f"  {row.slide_id}: {row.reason}" for row in failed.head(10).itertuples()]
    more = f"\n  … and {len(failed) - 10} more" if len(failed) > 10 else ""
    msg = (
        f"RunError: {len(failed)} of {len(table)} slides failed, max_failed is {max_failed}; the others are finished "
        f"and kept (ledger: {paths.shorten(path)}).\n" + "\n".join(lines) + more + "\nMend or remove these slides, or "
        "raise max_failed in the profile to go on without them."
    )
    raise RunError(msg)


def merge_ledgers(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put the ledgers of shards together; each slide must be in exactly one.

    Parameters
    ----------
    tables : sequence of DataFrame

    Returns
    -------
    DataFrame

    Raises
    ------
    RunError
        When a slide is in several shards.
    """
    merged = pd.concat(tables, ignore_index=True)
    twice = merged.loc[merged.duplicated(["slide_id", "stage"]), "slide_id"].tolist()
    if twice:
        msg = f"RunError: slides {twice[:5]} stand in several shards, expected one each. Run all shards with one n."
        raise RunError(msg)
    return merged.sort_values("slide_id", ignore_index=True)
