"""Execute one text notebook with papermill: this interpreter's kernel, live progress, and the failing cell by name."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from helpers.book.params import read_notebook
from helpers.core import paths

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from tqdm import tqdm

ENGINE = "histobook"
KERNEL = "python3"
INLINE = "module://matplotlib_inline.backend_inline"
"""Figures stand in the page, also where a user's shell asks for another backend (MPLBACKEND, as on many clusters)."""
NOBODY = {"JPY_SESSION_NAME": "", "VSCODE_PID": ""}
"""No person is at this kernel, also where one started the run from a notebook: a page must hold what it shows."""
PROGRESS_LINE = re.compile(r"\d+%\|.*\||\d+it \[")
NARROW_TERMINAL = 60


@dataclass(frozen=True)
class Failure:
    """Where and why a chapter stopped.

    Attributes
    ----------
    cell : int
        Number of the cell in the text notebook, from 1; 0 where it is not of the text.
    heading : str
        Title above the cell.
    line : int
        Line of the cell's first statement in the text notebook; 0 where unknown.
    source : str
        The cell.
    error : str
        Kind and message.
    """

    cell: int
    heading: str
    line: int
    source: str
    error: str


class _Ticker:
    """A file for the kernel's stderr: its last line stands behind the bar of cells, so a long cell is seen to move."""

    def __init__(self, bar: "tqdm | None") -> None:
        self.bar = bar

    def write(self, text: str) -> None:
        lines = [line.strip() for line in re.split(r"[\r\n]", text) if PROGRESS_LINE.search(line)]
        if self.bar is not None and lines:
            self.bar.set_postfix_str(lines[-1][:NARROW_TERMINAL])

    def clear(self) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str("", refresh=False)

    def flush(self) -> None:
        """Do nothing: the bar draws itself."""


class BookEngine(NBClientEngine):
    """Papermill's own engine, with the kernel's progress lines shown behind the bar of cells."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        """Execute the notebook that papermill hands over.

        Parameters
        ----------
        nb_man : NotebookExecutionManager
        kernel_name : str
        **options : Any
            Passed on.

        Returns
        -------
        Any
        """
        ticker, complete = _Ticker(nb_man.pbar), nb_man.cell_complete

        def complete_cell(*arguments: Any, **named: Any) -> Any:
            ticker.clear()
            return complete(*arguments, **named)

        nb_man.cell_complete = complete_cell
        return super().execute_managed_notebook(nb_man, kernel_name, **{**options, "stderr_file": ticker})


papermill_engines.register(ENGINE, BookEngine)


@contextmanager
def own_kernel() -> Iterator[None]:
    """Make 'python3' mean this interpreter, whatever kernels a user or a system has registered under that name.

    Yields
    ------
    None
    """
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "env": {"MPLBACKEND": INLINE, **NOBODY},
    }
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory(prefix="histobook-kernel-") as folder:
        home = Path(folder) / "kernels" / KERNEL
        home.mkdir(parents=True)
        (home / "kernel.json").write_text(json.dumps(spec))
        os.environ["JUPYTER_PATH"] = folder + (os.pathsep + before if before else "")
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def execute(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> Failure | None:
    """Execute a text notebook; the executed copy is kept as .ipynb and .html, also when a cell fails.

    Parameters
    ----------
    notebook : Path
        The text notebook.
    output : Path
        Of the executed copy, `….ipynb`; the page `….html` lies beside it.
    parameters : mapping
        Injected below the parameters cell.

    Returns
    -------
    Failure or None
        None when every cell ran.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    failure = None
    try:
        with own_kernel():
            papermill.execute_notebook(
                read_notebook(notebook),
                output,
                parameters=dict(parameters),
                engine_name=ENGINE,
                kernel_name=KERNEL,
                language="python",
                cwd=paths.repo_root() / "notebooks",
                progress_bar=_describe_bar(notebook.stem),
            )
    except PapermillExecutionError as error:
        failure = locate_failure(notebook, error.source, describe_error(error.ename, error.evalue))
    except DeadKernelError:
        failure = locate_failure(notebook, _find_last_started(output), DEAD_KERNEL)
    finally:
        if output.is_file():
            _finish_copy(output, notebook)
    return failure


def _describe_bar(name: str) -> dict[str, Any]:
    seconds = 0.2 if sys.stderr.isatty() else 20.0
    return {"desc": name, "unit": "cell", "file": sys.stderr, "dynamic_ncols": True, "mininterval": seconds}


DEAD_KERNEL = (
    "the kernel died without a Python error: most often the machine ran out of memory, or the process was killed. "
    "Fewer workers need less memory."
)


def describe_error(name: str, message: str) -> str:
    """Return 'Kind: message', once, where the message already starts with its kind.

    Parameters
    ----------
    name : str
    message : str

    Returns
    -------
    str
    """
    return message if message.startswith(f"{name}:") else f"{name}: {message}"


def locate_failure(notebook: Path, source: str, error: str) -> Failure:
    """Find a failing cell in the text notebook.

    Parameters
    ----------
    notebook : Path
        The text notebook.
    source : str
        Of the cell, as executed.
    error : str

    Returns
    -------
    Failure
    """
    heading = ""
    for number, cell in enumerate(read_notebook(notebook).cells, start=1):
        if cell.cell_type == "markdown":
            titles = [line for line in cell.source.splitlines() if line.startswith("#")]
            heading = titles[-1].lstrip("# ") if titles else heading
        elif cell.source.strip() == source.strip():
            text = notebook.read_text(encoding="utf-8")
            return Failure(number, heading, _find_line(text, cell.source), source, error)
    return Failure(0, "injected parameters", 0, source, error)


def _find_line(text: str, source: str) -> int:
    position = text.find(source.strip())
    return text.count("\n", 0, position) + 1 if position >= 0 else 0


def _find_last_started(output: Path) -> str:
    if not output.is_file():
        return ""
    cells = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
    started = [cell.source for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    return started[-1] if started else ""


def _finish_copy(output: Path, notebook: Path) -> None:
    """Take progress bars out of the executed copy, name the text it came from, and write the page beside it."""
    executed = nbformat.read(output, as_version=4)
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.outputs = [item for item in cell.outputs if not _is_progress(item)]
    executed.metadata.papermill |= {"input_path": paths.shorten(notebook), "output_path": paths.shorten(output)}
    with paths.atomic_write(output) as temporary:
        nbformat.write(executed, temporary)
    write_page(executed, output.with_suffix(".html"), title=notebook.stem)


def _is_progress(item: "NotebookNode") -> bool:
    lines = re.split(r"[\r\n]", item.text) if item.output_type == "stream" and item.name == "stderr" else ["text"]
    return all(PROGRESS_LINE.search(line) or not line.strip(" \x1b[A") for line in lines)


def write_page(executed: "NotebookNode", path: Path, *, title: str) -> Path:
    """Write an executed notebook as one HTML file, pictures inside.

    Parameters
    ----------
    executed : NotebookNode
    path : Path
    title : str

    Returns
    -------
    Path
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True)
    body, _ = exporter.from_notebook_node(executed, resources={"metadata": {"name": title}})
    return paths.write_text(body, path)
