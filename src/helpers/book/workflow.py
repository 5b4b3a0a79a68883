"""The chapters of a profile in order: Snakemake orders, the runner decides what really runs."""

import fcntl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.book.params import find_notebook, read_profile
from helpers.book.runner import plan_job
from helpers.core import paths
from helpers.core.errors import RunError


def describe_book(profile: str | Path, *, data: str | Path | None = None) -> str:
    """Return, chapter by chapter, what a book run would do and why.

    Parameters
    ----------
    profile : str or Path
    data : str or Path, optional

    Returns
    -------
    str
    """
    chosen = read_profile(profile)
    stale: set[str] = set()
    lines = []
    for number in chosen.chapters:
        job = plan_job(number, chosen, data=data)
        above = sorted(stale & set(job.spec.upstream))
        reason = f"chapter {', '.join(above)} above it runs" if above else job.find_reason()
        stale |= {number} if reason else set()
        lines.append(f"{job.spec.chapter}: {f'would run, {reason}' if reason else 'unchanged, would not run'}")
    return "\n".join(lines)


def order_book(
    profile: str | Path,
    *,
    data: str | Path | None = None,
    cores: int = 2,
    device: str = "auto",
    shards: int = 1,
    until: str | None = None,
    options: Sequence[str] = (),
) -> None:
    """Let Snakemake run a profile's chapters in order, then its scoreboard and its site.

    Parameters
    ----------
    profile : str or Path
    data : str or Path, optional
        Raw cohort folder, in place of the profile's.
    cores : int
        Of this machine; of each job, where Snakemake submits jobs.
    device : str
    shards : int
        Parts into which the per-slide chapters are cut.
    until : str, optional
        Number of the last chapter to run; then neither scoreboard nor site is made.
    options : sequence of str
        Passed on to Snakemake.

    Raises
    ------
    RunError
        When a chapter failed (it said so itself, above), or another process runs the same profile.
    """
    chosen = read_profile(profile)
    for number in chosen.chapters:
        plan_job(number, chosen, data=data)
    settings: dict[str, Any] = {"profile": chosen.path, "device": device, "shards": shards, "threads": cores}
    if data:
        settings["data"] = Path(data).resolve()
    root = paths.repo_root()
    local = [] if submits_jobs(options) else ["--cores", cores]
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", root / "Snakefile", "--directory", root, *local,
        "--rerun-incomplete", "--nolock", "--quiet", "all", *options,
        "--config", *(f"{name}={value}" for name, value in settings.items()),
        *(["--", f"chapter_{find_notebook(until).name[:2]}"] if until else []),
    ]  # fmt: skip
    with _lock(chosen.folder):
        code = subprocess.run([str(part) for part in command], check=False).returncode
    if code:
        msg = f"RunError: the book of '{chosen.name}' is not complete. Mend the cause above, then run the same again."
        raise RunError(msg)


def submits_jobs(options: Sequence[str]) -> bool:
    """Say whether Snakemake's options send jobs elsewhere; then `--cores` would bound the whole cluster.

    Parameters
    ----------
    options : sequence of str

    Returns
    -------
    bool
    """
    return any(option.split("=")[0] in {"--executor", "-e", "--profile", "--workflow-profile"} for option in options)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the profile's folder; the system lets go of it when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"RunError: another process runs the book of '{folder.name}'. Wait for it, or stop it."
            raise RunError(msg) from None
        yield
