"""Run a chapter of a profile, or find that nothing has changed since it ran.

The helpers alone decide about reuse: a chapter's key holds its spec, its text, the code, the keys above it, its inputs
and the libraries; a result is reused only when the key is the same and every output is there, unchanged.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.book.params import (
    Profile,
    build_spec,
    check_shared,
    collect_values,
    find_notebook,
    parse_override,
    read_parameters,
    read_profile,
)
from helpers.core import paths, provenance
from helpers.core.errors import RunError
from helpers.core.specs import AnalysisPlan, Spec

if TYPE_CHECKING:
    from helpers.book.execution import Failure

NOTEBOOK_NAME = "notebook.ipynb"


@dataclass(frozen=True)
class Job:
    """One chapter of one profile, checked and ready to run.

    Attributes
    ----------
    profile : Profile
    notebook : Path
        The text notebook.
    spec : Spec
    parameters : dict
        What papermill injects: run parameters, and every value that differs from the chapter's default cell.
    folder : Path
        Where the executed notebook and run.json go.
    """

    profile: Profile
    notebook: Path
    spec: Spec
    parameters: dict[str, Any]
    folder: Path

    @property
    def is_book(self) -> bool:
        """Whether the job writes the book's own results."""
        return bool(self.parameters["run_name"] == provenance.BOOK)

    def compute_key(self) -> str:
        """Return the key that the result has, or will have.

        Returns
        -------
        str, 64 hex digits
        """
        data_dir = self.parameters.get("data_dir")
        return provenance.compute_run_key(self.spec, self.profile.folder, data_dir=data_dir)

    def find_reason(self) -> str:
        """Say why the chapter must run; '' when its result stands.

        Returns
        -------
        str
        """
        if not (self.folder / NOTEBOOK_NAME).is_file():
            return "it never ran"
        return provenance.find_staleness(self.folder, self.compute_key())


def plan_job(
    chapter: str | Path,
    profile: str | Path | Profile,
    *,
    overrides: Mapping[str, str] | None = None,
    run_name: str = provenance.BOOK,
    data: str | Path | None = None,
    shard: str = "1/1",
    workers: int = 2,
    device: str = "auto",
) -> Job:
    """Check everything about a run that can be checked before a kernel starts.

    Parameters
    ----------
    chapter : str or Path
        Number, name or path of the text notebook.
    profile : str, Path or Profile
    overrides : mapping of str to str, optional
        Values of the command line, as text.
    run_name : str
        'book', or a name of your own: then results go to `results/<profile>/<NN>@<name>`.
    data : str or Path, optional
        Raw cohort folder, in place of the profile's.
    shard : str
        'k/n'.
    workers : int
    device : str

    Returns
    -------
    Job

    Raises
    ------
    SpecError
        When a name is unknown or a value does not fit.
    RunError
        When the shard or the run's name is malformed.
    """
    profile = profile if isinstance(profile, Profile) else read_profile(profile)
    notebook = find_notebook(chapter)
    declared = read_parameters(notebook)
    check_shared(profile)
    given = {name: parse_override(text, declared.get(name)) for name, text in (overrides or {}).items()}
    values = collect_values(profile, notebook, declared, given)
    spec = build_spec(notebook, declared, values)
    run = {
        "profile_dir": paths.shorten(profile.folder),
        "run_name": check_run_name(run_name, is_changed=bool(given)),
        "data_dir": paths.shorten(paths.resolve(data) if data else profile.data),
        "shard": shard,
        "workers": workers,
        "device": device,
    }
    return Job(
        profile=profile,
        notebook=notebook,
        spec=spec,
        parameters={name: value for name, value in run.items() if name in declared} | _normalise(spec, values),
        folder=_find_folder(profile, spec, run_name, shard),
    )


def _normalise(spec: Spec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scalars as the spec read them: YAML takes 1e-3 for text, and the chapter must not."""
    checked = spec.model_dump(mode="json")
    return {name: value if isinstance(value, dict | list) else checked[name] for name, value in values.items()}


def check_run_name(name: str, *, is_changed: bool) -> str:
    """Refuse a name that cannot name a folder, and changed parameters under the book's own name.

    Parameters
    ----------
    name : str
    is_changed : bool
        Whether the command line changes a parameter.

    Returns
    -------
    str

    Raises
    ------
    RunError
        In either case.
    """
    if not name or not all(letter.isalnum() or letter in "-_." for letter in name):
        msg = f"RunError: run name '{name}' cannot name a folder. Use letters, digits, '-', '_' and '.'."
        raise RunError(msg)
    if name == provenance.BOOK and is_changed:
        msg = (
            "RunError: -p changes a parameter, so this is not the profile's own run. Give it a name (--name lr3), or "
            "write the change into the profile."
        )
        raise RunError(msg)
    return name


def _find_folder(profile: Profile, spec: Spec, run_name: str, shard: str) -> Path:
    part, total = provenance.parse_shard(shard)
    store = profile.folder / (spec.chapter if run_name == provenance.BOOK else f"{spec.chapter[:2]}@{run_name}")
    return store if total == 1 else store / "shards" / str(part)


def run_job(job: Job, *, force: bool = False) -> bool:
    """Run a chapter unless its result stands; the executed notebook is kept, also on failure.

    Parameters
    ----------
    job : Job
    force : bool
        Run it in any case.

    Returns
    -------
    bool
        True when it ran, False when its result was reused.

    Raises
    ------
    RunError
        When a cell failed, or the chapter did not finish its run: names the cell, its line and its error.
    """
    reason = "asked for by --force" if force else job.find_reason()
    if not reason:
        print(f"{job.spec.chapter}: unchanged, not run again ({paths.shorten(job.folder)})", file=sys.stderr)
        return False
    print(f"{job.spec.chapter}: running, {reason}", file=sys.stderr)
    register_plan(job)
    started = time.monotonic()
    failure = _execute(job)
    _complete_record(job, failure, time.monotonic() - started)
    if failure:
        raise RunError(describe_failure(job, failure))
    _check_finished(job)
    print(f"{job.spec.chapter}: finished in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return True


def _execute(job: Job) -> "Failure | None":
    from helpers.book.execution import execute

    return execute(job.notebook, job.folder / NOTEBOOK_NAME, job.parameters)


def register_plan(job: Job) -> None:
    """Write the profile's analysis plan down before anything is fitted.

    Parameters
    ----------
    job : Job
    """
    declared = {name: value for name, value in job.profile.shared.items() if name in AnalysisPlan.model_fields}
    if declared and job.is_book:
        provenance.register_plan(job.profile.folder, AnalysisPlan.from_values(declared).model_dump(mode="json"))


def _complete_record(job: Job, failure: "Failure | None", seconds: float) -> None:
    """Add to run.json what only the runner knows; a chapter that stopped is never left as 'running'."""
    record = provenance.read_run(job.folder) or {"chapter": job.spec.chapter, "key": job.compute_key(), "outputs": []}
    record |= {"notebook": NOTEBOOK_NAME, "seconds": round(seconds, 1)}
    if failure:
        record |= {"status": "failed", "error": {"cell": failure.cell, "line": failure.line, "text": failure.error}}
    paths.write_json(record, job.folder / "run.json")


def _check_finished(job: Job) -> None:
    status = (provenance.read_run(job.folder) or {}).get("status")
    if status != "finished":
        name = job.notebook.name
        msg = f"RunError: every cell of '{name}' ran, but its run is '{status}'. Call run.finish() in its last cell."
        raise RunError(msg)


def describe_failure(job: Job, failure: "Failure") -> str:
    """Return what the terminal says about a failed chapter: the cell, its line, its error, and what was kept.

    Parameters
    ----------
    job : Job
    failure : Failure

    Returns
    -------
    str
    """
    where = f"{paths.shorten(job.notebook)}:{failure.line}" if failure.line else paths.shorten(job.notebook)
    shown = "\n".join(f"    | {line}" for line in failure.source.strip().splitlines()[:12])
    page = paths.shorten((job.folder / NOTEBOOK_NAME).with_suffix(".html"))
    return (
        f"{job.spec.chapter} failed in cell {failure.cell} ('{failure.heading}'), {where}\n{shown}\n"
        f"  {failure.error}\n  The executed notebook was kept: {page}"
    )


def describe_job(job: Job) -> str:
    """Return what `--dry-run` says about a chapter.

    Parameters
    ----------
    job : Job

    Returns
    -------
    str
    """
    reason = job.find_reason()
    lines = [f"{job.spec.chapter}: {f'would run, {reason}' if reason else 'unchanged, would not run'}"]
    lines += [f"  writes   {paths.shorten(job.folder)}", f"  key      {job.compute_key()[:12]}"]
    lines += [f"  {name} = {value!r}" for name, value in job.parameters.items()]
    return "\n".join(lines)
