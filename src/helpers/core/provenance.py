"""What made a result: `run.json` beside every executed chapter, and the keys by which results are reused.

A key is the SHA-256 of everything that decides a result: the spec without its paths, the chapter's text, the code of
`helpers`, the content of the inputs, the keys of the chapters above, and the versions of the libraries. No time, path
or run id is part of it. The helpers alone decide about reuse; a workflow engine only orders.
"""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from helpers import __version__
from helpers.core import paths
from helpers.core.errors import RunError
from helpers.core.specs import AnalysisPlan, Spec
from helpers.core.vocab import ROW_KINDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOOK = "book"
"""The run name under which a chapter writes the book's own results."""
WHOLE_FILE_BYTES = 64 * 2**20
BLOCK_BYTES = 2**16
N_BLOCKS = 16
LIBRARIES = (
    "numpy", "scipy", "pandas", "scikit-learn", "scikit-image", "opencv-python-headless", "openslide-python",
    "openslide-bin", "tifffile", "imagecodecs", "h5py", "lifelines", "torch", "torchvision", "timm", "matplotlib",
    "seaborn", "shapely",
)  # fmt: skip
SCORE_FIELDS = (
    "id", "quantity", "value", "ci_low", "ci_high", "n", "n_events", "reference", "reference_low", "reference_high",
    "source", "kind", "holds",
)  # fmt: skip


def compute_key(*parts: Any) -> str:
    """Return the SHA-256 of the parts as canonical JSON.

    Parameters
    ----------
    *parts : Any
        JSON values (dict order does not matter).

    Returns
    -------
    str, 64 hex digits
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(path: str | Path) -> str:
    """Return what identifies a file's or a folder's content, whatever it is called and wherever it lies.

    Up to 64 MiB the whole file is hashed; above, its size and 16 blocks of 64 KiB spread evenly from first to last
    byte, since slides of several GB are read over networks. A folder is the list of its files' relative names and
    fingerprints; hidden files are left out.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    str, 64 hex digits

    Raises
    ------
    RunError
        When nothing lies at `path`.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        return compute_key([[file.relative_to(path).as_posix(), fingerprint(file)] for file in files])
    if not path.is_file():
        msg = f"RunError: input '{path}' does not exist. Check the path, or fetch or build it first."
        raise RunError(msg)
    return _hash_file(path)


def _hash_file(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            digest.update(file.read())
        else:
            digest.update(str(size).encode())
            for block in range(N_BLOCKS):
                file.seek(block * (size - BLOCK_BYTES) // (N_BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


@cache
def hash_helpers() -> str:
    """Return the fingerprint of the code of `helpers`, so that a changed function re-runs what may depend on it.

    Returns
    -------
    str, 64 hex digits
    """
    root = Path(__file__).resolve().parents[1]
    return compute_key([[p.relative_to(root).as_posix(), fingerprint(p)] for p in sorted(root.rglob("*.py"))])


@cache
def list_versions() -> dict[str, str]:
    """Return the versions of Python, of histobook and of the libraries that touch numbers, without importing them.

    Returns
    -------
    dict of str to str
    """
    versions = {"python": platform.python_version(), "histobook": __version__}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def read_commit() -> str:
    """Return the commit of the checkout, with '+changes' where files differ from it.

    Returns
    -------
    str
        'unknown (not a git checkout)' outside of one.
    """
    root = paths.repo_root()
    commit = _git("rev-parse", "HEAD", cwd=root)
    if commit is None:
        return "unknown (not a git checkout)"
    return commit + ("+changes" if _git("status", "--porcelain", cwd=root) else "")


def _git(*arguments: str, cwd: Path) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def chapter_folder(profile_dir: str | Path, number: str) -> Path | None:
    """Return the book's folder of a chapter, by the chapter's number, or None where it never ran.

    Parameters
    ----------
    profile_dir : str or Path
    number : str
        '00' to '09'.

    Returns
    -------
    Path or None
    """
    found = sorted(folder for folder in paths.resolve(profile_dir).glob(f"{number}_*") if "@" not in folder.name)
    return found[0] if found else None


def read_run(folder: str | Path) -> dict[str, Any] | None:
    """Return a folder's run.json, or None where there is none.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    dict or None
    """
    path = Path(folder) / "run.json"
    return paths.read_json(path) if path.is_file() else None


def compute_run_key(spec: Spec, profile_dir: str | Path, *, data_dir: str | Path | None = None) -> str:
    """Return the key of a chapter's result before the chapter runs.

    Parameters
    ----------
    spec : Spec
    profile_dir : str or Path
    data_dir : str or Path, optional
        Raw cohort folder, which chapter 00 reads.

    Returns
    -------
    str, 64 hex digits
    """
    notebook = paths.repo_root() / "notebooks" / f"{spec.chapter}.py"
    above = {}
    for number in spec.upstream:
        folder = chapter_folder(profile_dir, number)
        record = read_run(folder) if folder else None
        above[number] = record["key"] if record and record["status"] == "finished" else None
    inputs = {name: fingerprint(path) for name, path in spec.list_inputs(data_dir).items()}
    text = fingerprint(notebook) if notebook.is_file() else "no notebook"
    return compute_key(spec.chapter, spec.key_fields(), text, hash_helpers(), above, inputs, list_versions())


def find_staleness(folder: str | Path, key: str) -> str:
    """Say why a chapter's result cannot be reused; an empty string means that it can.

    Parameters
    ----------
    folder : str or Path
        The chapter's folder.
    key : str
        What `compute_run_key` returns now.

    Returns
    -------
    str
        A reason in words, or ''.
    """
    record = read_run(folder)
    if record is None:
        return "it never ran"
    if record["status"] != "finished":
        return f"its last run is '{record['status']}'"
    if record["key"] != key:
        return "its spec, text, code, inputs or libraries changed"
    for output in record["outputs"]:
        path = paths.resolve(output["path"])
        if not path.is_file():
            return f"its output '{output['path']}' is missing"
        if path.stat().st_size != output["bytes"] or fingerprint(path) != output["sha256"]:
            return f"its output '{output['path']}' was changed"
    return ""


def register_plan(profile_dir: str | Path, plan: dict[str, Any]) -> Path:
    """Write the analysis plan of a profile down before anything is fitted; an amendment is added, not overwritten.

    Parameters
    ----------
    profile_dir : str or Path
    plan : dict
        The plan's fields, from `shared:` of the profile.

    Returns
    -------
    Path
        `plan.json`, a list of plans with date and commit, the one in force last.
    """
    path = paths.resolve(profile_dir) / "plan.json"
    history = paths.read_json(path) if path.is_file() else []
    if not history or history[-1]["plan"] != plan:
        history.append({"plan": plan, "registered": _now(), "commit": read_commit()})
        paths.write_json(history, path)
    return path


def start(
    spec: Spec,
    profile_dir: str | Path,
    *,
    run_name: str = "interactive",
    data_dir: str | Path | None = None,
    shard: str = "1/1",
    workers: int = 2,
    device: str = "auto",
) -> "Run":
    """Start a chapter's run: print what it is and write `run.json` with status 'running'.

    Parameters
    ----------
    spec : Spec
    profile_dir : str or Path
        `results/<profile>`.
    run_name : str
        'book' writes the book's own results; any other name writes beside them and never reaches the scoreboard.
    data_dir : str or Path, optional
        Raw cohort folder (chapter 00).
    shard : str
        'k/n': this run does the k-th of n parts of the slides.
    workers : int
        Threads.
    device : str
        auto, cpu, cuda, cuda:1, mps.

    Returns
    -------
    Run

    Raises
    ------
    RunError
        When the shard is not of the form 'k/n'.
    """
    run = Run(spec, paths.resolve(profile_dir), run_name, data_dir, parse_shard(shard), workers, device)
    run.write("running")
    print(run.describe())
    return run


def parse_shard(shard: str) -> tuple[int, int]:
    """Read 'k/n' as (k, n).

    Parameters
    ----------
    shard : str

    Returns
    -------
    tuple of int

    Raises
    ------
    RunError
        When it is not two whole numbers with 1 <= k <= n.
    """
    part, _, total = shard.partition("/")
    if part.isdecimal() and total.isdecimal() and 1 <= int(part) <= int(total):
        return int(part), int(total)
    msg = f"RunError: shard is '{shard}', expected 'k/n' with 1 <= k <= n, such as '1/1' or '3/8'."
    raise RunError(msg)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Run:
    """One execution of a chapter. Made by `start`.

    Attributes
    ----------
    dir : Path
        Where tables, figures, the ledger and run.json of this run go. For shard k of n > 1 that is `shards/<k>`.
    store : Path
        The chapter's folder, where per-slide files go; equal to `dir` unless the run is a shard.
    """

    def __init__(
        self,
        spec: Spec,
        profile_dir: Path,
        run_name: str,
        data_dir: str | Path | None,
        shard: tuple[int, int],
        workers: int,
        device: str,
    ) -> None:
        self.spec, self.profile_dir, self.name = spec, profile_dir, run_name
        self.shard, self.workers, self.device = shard, workers, device
        self.id = f"{spec.chapter}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.key = compute_run_key(spec, profile_dir, data_dir=data_dir)
        self.store = profile_dir / (spec.chapter if run_name == BOOK else f"{spec.chapter[:2]}@{run_name}")
        self.dir = self.store if shard[1] == 1 else self.store / "shards" / str(shard[0])
        self.commit, self.started = read_commit(), _now()
        self._inputs: dict[str, dict[str, Any]] = {}
        self._outputs: dict[str, Path] = {}
        self._losses: list[dict[str, str]] = []
        self._substitutions: list[dict[str, Any]] = []
        self._notes: dict[str, Any] = {}
        self._scores: list[dict[str, Any]] = []
        self.deviations = self._find_deviations()
        self.dir.mkdir(parents=True, exist_ok=True)

    def describe(self) -> str:
        """Return what this run is, in four lines.

        Returns
        -------
        str
        """
        versions = list_versions()
        shown = ", ".join(f"{name} {versions[name]}" for name in ("python", "histobook", "numpy", "pandas", "torch"))
        lines = [
            f"run      {self.id}   key {self.key[:12]}",
            f"writes   {paths.shorten(self.dir)}",
            f"commit   {self.commit}",
            f"machine  device {self.device}, {self.workers} workers; {shown}",
        ]
        lines += [f"DEVIATES from the registered plan: {text}" for text in self.deviations]
        return "\n".join(lines)

    def _find_deviations(self) -> list[str]:
        path = self.profile_dir / "plan.json"
        if not path.is_file():
            return []
        plan = paths.read_json(path)[-1]["plan"]
        names = [name for name in AnalysisPlan.model_fields if name in plan and hasattr(self.spec, name)]
        pairs = [(name, plan[name], getattr(self.spec, name)) for name in names]
        return [f"{name} is {here!r}, planned {planned!r}" for name, planned, here in pairs if here != planned]

    def upstream(self, number: str) -> Path:
        """Return the folder of a chapter above, which must have finished.

        Parameters
        ----------
        number : str
            '00' to '09'.

        Returns
        -------
        Path

        Raises
        ------
        RunError
            When the chapter never ran for this profile, or did not finish.
        """
        folder = chapter_folder(self.profile_dir, number)
        record = read_run(folder) if folder else None
        if folder is None or record is None or record["status"] != "finished":
            found = "never ran" if record is None else f"is '{record['status']}'"
            msg = (
                f"RunError: chapter {number} of '{paths.shorten(self.profile_dir)}' {found}, and chapter "
                f"{self.spec.chapter[:2]} reads what it writes. Run it first: histobook book --profile "
                f"config/{self.profile_dir.name}.yaml --until {number}"
            )
            raise RunError(msg)
        self._inputs[f"chapter {number}"] = {"path": paths.shorten(folder), "key": record["key"]}
        return folder

    def has_upstream(self, number: str) -> bool:
        """Say whether a chapter above ran and finished for this profile.

        Parameters
        ----------
        number : str

        Returns
        -------
        bool
        """
        folder = chapter_folder(self.profile_dir, number)
        record = read_run(folder) if folder else None
        return bool(record and record["status"] == "finished")

    def read_input(self, path: str | Path) -> Path:
        """Record a file as an input, with its SHA-256, and return its absolute path.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path

        Raises
        ------
        RunError
            When it does not exist.
        """
        path = paths.resolve(path)
        self._inputs[paths.shorten(path)] = {"path": paths.shorten(path), "sha256": fingerprint(path)}
        return path

    def path(self, name: str) -> Path:
        """Return a path under this run's folder to write to; the file is recorded as an output.

        Parameters
        ----------
        name : str
            Relative, such as 'tables/performance.csv'.

        Returns
        -------
        Path
        """
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._outputs[name] = path
        return path

    def add_outputs(self, files: Iterable[str | Path]) -> None:
        """Record files written elsewhere, such as one per slide, as outputs that a reuse must find unchanged.

        Parameters
        ----------
        files : iterable of str or Path
        """
        for file in files:
            self._outputs[paths.shorten(file)] = Path(file)

    def save_table(self, table: pd.DataFrame, name: str, *, latex: bool = False) -> None:
        """Write a tidy table to `tables/<name>.csv`, and for a manuscript to `tables/<name>.tex`.

        Parameters
        ----------
        table : DataFrame
        name : str
            Without suffix.
        latex : bool
            Also as a LaTeX tabular (package booktabs), three decimals, missing cells empty.
        """
        paths.write_table(table, self.path(f"tables/{name}.csv"))
        if latex:
            words = table.rename(columns=lambda column: str(column).replace("_", " "))
            text = words.to_latex(index=False, float_format="%.3f", na_rep="", escape=True)
            paths.write_text(text, self.path(f"tables/{name}.tex"))

    def save_figure(self, fig: "Figure", name: str, table: pd.DataFrame | None = None) -> None:
        """Write a figure as SVG and PNG, named with its run, and the table behind it as CSV.

        Parameters
        ----------
        fig : matplotlib Figure
        name : str
            Without suffix.
        table : DataFrame, optional
            What the figure shows.
        """
        origin = f"histobook · {self.profile_dir.name} · {self.spec.chapter} · key {self.key[:12]}"
        fig.text(0.0, -0.012, origin, fontsize=5, color="0.55", ha="left", va="top", gid="origin")
        for suffix, metadata in ((".svg", {"Date": None, "Description": origin}), (".png", {"Description": origin})):
            with paths.atomic_write(self.path(f"figures/{name}{suffix}")) as temporary:
                fig.savefig(temporary, bbox_inches="tight", dpi=200, metadata=metadata)
        if table is not None:
            paths.write_table(table, self.path(f"figures/{name}.csv"))

    def lose(self, item: str, reason: str, *, kind: str = "case") -> None:
        """Record that an item is not part of the result, and why.

        Parameters
        ----------
        item : str
        reason : str
        kind : str
            case, slide, tile, gene.
        """
        self._losses.append({"kind": kind, "item": str(item), "reason": reason})

    def substitute(self, what: str, **details: Any) -> None:
        """Record and print that something stands in for something else, as a parameter asked.

        Parameters
        ----------
        what : str
        **details : Any
            JSON values.
        """
        self._substitutions.append({"what": what, **details})
        print(f"SUBSTITUTION: {what} " + ", ".join(f"{name}={value}" for name, value in details.items()))

    def note(self, **facts: Any) -> None:
        """Record facts of the run in run.json.

        Parameters
        ----------
        **facts : Any
            JSON values.
        """
        self._notes.update(facts)

    def score(self, **row: Any) -> None:
        """Add one row to the scoreboard.

        Parameters
        ----------
        **row : Any
            `id`, `quantity`, `value` and `kind` (planted, published, baseline, control) must be given; `ci_low`,
            `ci_high`, `n`, `n_events`, `reference`, `reference_low`, `reference_high`, `source` and `holds` may be.

        Raises
        ------
        RunError
            When a field is unknown, a needed one is missing, or the kind is none of the four.
        """
        unknown = sorted(set(row) - set(SCORE_FIELDS))
        missing = [name for name in ("id", "quantity", "value", "kind") if name not in row]
        if unknown or missing or row["kind"] not in ROW_KINDS:
            msg = (
                f"RunError: scoreboard row '{row.get('id')}' has unknown fields {unknown}, lacks {missing}, kind "
                f"'{row.get('kind')}'. Expected fields {', '.join(SCORE_FIELDS)}; kind one of {', '.join(ROW_KINDS)}."
            )
            raise RunError(msg)
        filled = {name: to_plain(row.get(name)) for name in SCORE_FIELDS}
        self._scores.append({**filled, "source": row.get("source") or "", "chapter": self.spec.chapter[:2]})

    def finish(self) -> None:
        """Write scores and run.json with status 'finished', and list what was written."""
        if self._scores:
            paths.write_json(self._scores, self.path("scores.json"))
        self.write("finished")
        print(f"{self.id} finished; {len(self._outputs)} files, {len(self._losses)} losses")
        for name in list(self._outputs)[:40]:
            print(f"  {name}")

    def write(self, status: str) -> None:
        """Write run.json as it stands.

        Parameters
        ----------
        status : str
            running, finished, failed.
        """
        record = {
            "id": self.id, "status": status, "key": self.key, "chapter": self.spec.chapter, "name": self.name,
            "profile": self.profile_dir.name, "spec": self.spec.model_dump(mode="json"),
            "spec_hash": compute_key(self.spec.key_fields()), "seed": getattr(self.spec, "seed", None),
            "shard": "/".join(map(str, self.shard)), "workers": self.workers, "device": self.device,
            "commit": self.commit, "versions": list_versions(), "argv0": Path(sys.argv[0]).name,
            "started": self.started, "finished": _now() if status == "finished" else None,
            "inputs": self._inputs, "outputs": self._list_outputs() if status == "finished" else [],
            "losses": self._losses, "substitutions": self._substitutions, "deviations": self.deviations,
            "notes": {name: to_plain(value) for name, value in self._notes.items()},
        }  # fmt: skip
        paths.write_json(record, self.dir / "run.json")

    def _list_outputs(self) -> list[dict[str, Any]]:
        missing = [name for name, path in self._outputs.items() if not path.is_file()]
        if missing:
            msg = f"RunError: {self.id} announced outputs that were never written: {', '.join(missing)}."
            raise RunError(msg)
        files = ((paths.shorten(path), path) for path in self._outputs.values())
        return [{"path": name, "bytes": path.stat().st_size, "sha256": fingerprint(path)} for name, path in files]


def to_plain(value: Any) -> Any:
    """Turn a NumPy scalar or array into a JSON value, and NaN into None.

    Parameters
    ----------
    value : Any

    Returns
    -------
    Any
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and value != value:
        return None
    return value
