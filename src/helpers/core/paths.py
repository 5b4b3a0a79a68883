"""Where things lie, and how they are written: whole or not at all."""

import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from helpers.core.errors import RunError, SchemaError

ROOT_VARIABLE = "HISTOBOOK_ROOT"


def repo_root() -> Path:
    """Return the folder that holds `notebooks/`, `config/` and `data/`.

    JupyterLab starts a kernel in `notebooks/`, papermill starts it anywhere; both must find the same files. The
    environment variable HISTOBOOK_ROOT comes first, then the working folder and its parents, then this file's.

    Returns
    -------
    Path

    Raises
    ------
    RunError
        When none of them holds a book.
    """
    named = os.environ.get(ROOT_VARIABLE)
    candidates = [Path(named)] if named else [Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents]
    for folder in candidates:
        if (folder / "notebooks").is_dir() and (folder / "config").is_dir():
            return folder.resolve()
    msg = (
        f"RunError: no book found from '{Path.cwd()}' upwards (looked for a folder holding notebooks/ and config/). "
        f"Start inside the repository, or set {ROOT_VARIABLE} to it."
    )
    raise RunError(msg)


def resolve(path: str | Path) -> Path:
    """Make a path absolute; a relative one starts at the repository root.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Path
    """
    path = Path(path).expanduser()
    return path if path.is_absolute() else repo_root() / path


def shorten(path: str | Path) -> str:
    """Return a path as it should be printed and recorded: relative to the repository where it lies inside.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    str
    """
    path = Path(path)
    root = repo_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def data_dir() -> Path:
    """Return `data/`: gene lists, published numbers, encoders.

    Returns
    -------
    Path
    """
    return repo_root() / "data"


def cohorts_dir() -> Path:
    """Return `data/cohorts/`, where raw cohorts land (not in git).

    Returns
    -------
    Path
    """
    return data_dir() / "cohorts"


def results_dir() -> Path:
    """Return `results/`, where every profile writes (not in git).

    Returns
    -------
    Path
    """
    return repo_root() / "results"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it becomes `path`, on failure it is gone.

    A process killed in between leaves `path` as it was, and a hidden part that the next process to write into the
    folder removes. The temporary name ends in the same suffix, because writers choose their format by it.

    Parameters
    ----------
    path : str or Path

    Yields
    ------
    Path
        Write here.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    prefix = f".{path.stem}.{_HOST}-{os.getpid()}."
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=f".part{path.suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder; once per process and folder."""
    key = (os.getpid(), folder.absolute())
    if key in _SWEPT:
        return
    _SWEPT.add(key)
    for part in folder.glob(".*.part*"):
        owner = re.search(rf"\.{re.escape(_HOST)}-(\d+)\.[^.]+\.part", part.name)
        if owner and not _is_alive(int(owner[1])):
            part.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_HOST = re.sub(r"\W", "", socket.gethostname()) or "host"
_SWEPT: set[tuple[int, Path]] = set()
_UMASK = _read_umask()  # once, at import: the call changes it for a moment, which threads would see


def write_text(text: str, path: str | Path) -> Path:
    """Write text, atomically.

    Parameters
    ----------
    text : str
    path : str or Path

    Returns
    -------
    Path
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(content: Any, path: str | Path) -> Path:
    """Write JSON with sorted keys, atomically; a value that is not JSON (NaN included) is an error.

    Parameters
    ----------
    content : Any
        Dicts, lists, strings, finite numbers, booleans, None.
    path : str or Path

    Returns
    -------
    Path
    """
    return write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n", path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Any
    """
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file; quoted ids such as '007' stay strings.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Any
    """
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as .parquet or .csv, atomically and without its index.

    Parameters
    ----------
    table : DataFrame
    path : str or Path
        Ends in .parquet or .csv.

    Returns
    -------
    Path

    Raises
    ------
    SchemaError
        When the suffix is neither.
    """
    path = Path(path)
    if path.suffix not in {".parquet", ".csv"}:
        msg = f"SchemaError: table '{path.name}' ends in '{path.suffix}', expected .parquet or .csv. Rename it."
        raise SchemaError(msg)
    with atomic_write(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, lineterminator="\n")
    return path
