"""Parameters of a chapter: what its parameters cell declares, what a profile gives it, and whether the two fit.

A parameter that is silently ignored is a wrong result with the right name, so every name and every value is checked
before a kernel starts.
"""

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from helpers.core import paths, specs
from helpers.core.errors import SpecError
from helpers.core.specs import RUN_PARAMETERS, AnalysisPlan, Spec

if TYPE_CHECKING:
    from nbformat import NotebookNode

PARAMETERS_TAG = "parameters"
PROFILE_FIELDS = ("profile", "data", "shared", "chapters", "description")


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell.

    Attributes
    ----------
    name : str
    annotation : str
        As written, such as 'Optional[float]'.
    default : Any
        The literal.
    """

    name: str
    annotation: str
    default: Any


@dataclass(frozen=True)
class Profile:
    """One file of `config/`: a cohort, and what each chapter is told about it.

    Attributes
    ----------
    name : str
    path : Path
        The YAML file.
    data : Path
        Raw cohort folder.
    shared : dict
        Given to every chapter that declares the name.
    chapters : dict of str to dict
        By chapter number, in order; the chapters listed here are the ones that the profile runs.
    description : str
    """

    name: str
    path: Path
    data: Path
    shared: dict[str, Any] = field(default_factory=dict)
    chapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    description: str = ""

    @property
    def folder(self) -> Path:
        """`results/<profile>`."""
        return paths.results_dir() / self.name


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key may not stand twice, since the second would silently win."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            line = node.value[position][0].start_mark.line + 1
            msg = f"SpecError: '{key}' stands twice in the same block (again in line {line}). Keep one of them."
            raise SpecError(msg)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ' Did you mean …?' for the known name nearest to a mistyped one, or ''.

    Parameters
    ----------
    name : str
    known : iterable of str

    Returns
    -------
    str
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.55)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


def list_notebooks() -> dict[str, Path]:
    """Return the chapters of the book by number.

    Returns
    -------
    dict of str to Path
        '00' to '09', then 'A1' and so on.
    """
    folder = paths.repo_root() / "notebooks"
    return {path.name[:2]: path for path in sorted(folder.glob("[0-9A-Z][0-9]_*.py"))}


def find_notebook(chapter: str | Path) -> Path:
    """Return a chapter's text notebook by its number, its name or its path.

    Parameters
    ----------
    chapter : str or Path
        '03', '03_predict_proliferation' or 'notebooks/03_predict_proliferation.py'.

    Returns
    -------
    Path

    Raises
    ------
    SpecError
        When there is no such chapter.
    """
    notebooks = list_notebooks()
    path = paths.resolve(chapter)
    if path.is_file():
        return path
    for number, notebook in notebooks.items():
        if str(chapter) in {number, notebook.stem, notebook.name}:
            return notebook
    names = [notebook.stem for notebook in notebooks.values()]
    msg = f"SpecError: no chapter '{chapter}'.{suggest(Path(chapter).stem, names)} Chapters: {', '.join(names)}."
    raise SpecError(msg)


def read_notebook(path: str | Path) -> "NotebookNode":
    """Read a text notebook (jupytext, py:percent).

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    NotebookNode
    """
    import jupytext

    return jupytext.read(path)


def read_parameters(path: str | Path) -> dict[str, Parameter]:
    """Return what a chapter's parameters cell declares, in order.

    Parameters
    ----------
    path : str or Path
        The text notebook.

    Returns
    -------
    dict of str to Parameter

    Raises
    ------
    SpecError
        When there is not exactly one such cell, or a line is one that papermill would drop.
    """
    cells = [cell for cell in read_notebook(path).cells if PARAMETERS_TAG in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        msg = f"SpecError: '{Path(path).name}' has {len(cells)} cells tagged '{PARAMETERS_TAG}', expected exactly one."
        raise SpecError(msg)
    declared = _parse_parameters(cells[0].source, Path(path).name)
    _check_papermill_sees(declared, cells[0], Path(path).name)
    return declared


def _parse_parameters(source: str, name: str) -> dict[str, Parameter]:
    declared = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        line = f"line '{ast.unparse(statement)}' of the parameters cell of '{name}'"
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value):
            msg = f"SpecError: {line} is not of the form 'name: type = literal'."
            raise SpecError(msg)
        try:
            default = ast.literal_eval(statement.value)
        except ValueError:
            msg = f"SpecError: the default in {line} is not a plain literal."
            raise SpecError(msg) from None
        parameter = Parameter(statement.target.id, ast.unparse(statement.annotation), default)
        declared[parameter.name] = parameter
    return declared


def _check_papermill_sees(declared: Mapping[str, Parameter], cell: "NotebookNode", name: str) -> None:
    from papermill.translators import PythonTranslator

    seen = {parameter.name for parameter in PythonTranslator.inspect(cell)}
    dropped = [parameter for parameter in declared if parameter not in seen]
    if dropped:
        msg = (
            f"SpecError: papermill does not see {', '.join(dropped)} in the parameters cell of '{name}': it drops a "
            "line with '|' in its annotation or a second '=' (even in a comment). Write Optional[…], no second '='."
        )
        raise SpecError(msg)


def find_spec(path: str | Path) -> type[Spec]:
    """Return the spec class of a chapter.

    Parameters
    ----------
    path : str or Path
        The text notebook; its name is the spec's `chapter`.

    Returns
    -------
    type of Spec

    Raises
    ------
    SpecError
        When no spec names that chapter.
    """
    stem = Path(path).stem
    known = {cls.chapter: cls for cls in vars(specs).values() if isinstance(cls, type) and issubclass(cls, Spec)}
    if stem not in known:
        msg = f"SpecError: no spec in helpers.core.specs has chapter = '{stem}'.{suggest(stem, known)}"
        raise SpecError(msg)
    return known[stem]


def read_profile(profile: str | Path) -> Profile:
    """Read a profile by name or path, and check everything in it that needs no chapter.

    Parameters
    ----------
    profile : str or Path
        'phantom' or 'config/phantom.yaml'.

    Returns
    -------
    Profile

    Raises
    ------
    SpecError
        When the file is absent, holds an unknown field, or lists a chapter that is not there.
    """
    path = _find_profile(profile)
    content = _read_fields(path)
    name = str(content.get("profile") or path.stem)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        msg = f"SpecError: profile name '{name}' cannot name a folder. Use letters, digits, '-', '_' and '.'."
        raise SpecError(msg)
    chapters = _check_chapters(content.get("chapters"), path.name)
    data = paths.resolve(content.get("data") or f"data/cohorts/{name}")
    return Profile(name, path, data, dict(content.get("shared") or {}), chapters, str(content.get("description") or ""))


def _read_fields(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.YAMLError as error:
        msg = f"SpecError: profile '{path.name}' is not YAML: {error}"
        raise SpecError(msg) from None
    expected = f"Expected {', '.join(PROFILE_FIELDS)}; see config/template.yaml."
    if not isinstance(content, dict):
        msg = f"SpecError: profile '{path.name}' is not a block of 'name: value' pairs. {expected}"
        raise SpecError(msg)
    for name in content:
        if name not in PROFILE_FIELDS:
            msg = f"SpecError: profile '{path.name}' has an unknown field '{name}'.{suggest(str(name), PROFILE_FIELDS)}"
            raise SpecError(f"{msg} {expected}")
    return content


def _find_profile(profile: str | Path) -> Path:
    folder = paths.repo_root() / "config"
    for path in (Path(profile), paths.resolve(profile), folder / f"{profile}.yaml"):
        if path.is_file():
            return path.resolve()
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    msg = f"SpecError: no profile '{profile}'.{suggest(Path(profile).stem, names)} config/ holds {', '.join(names)}."
    raise SpecError(msg)


def _check_chapters(chapters: Any, name: str) -> dict[str, dict[str, Any]]:
    if not isinstance(chapters, dict) or not chapters:
        msg = f"SpecError: profile '{name}' lists no chapters. Add chapters: {{\"00\": {{}}, …}}."
        raise SpecError(msg)
    notebooks = list_notebooks()
    for number, values in chapters.items():
        if not isinstance(number, str):
            msg = f"SpecError: profile '{name}' names chapter {number!r} as a number. Quote it: '{int(number):02d}'."
            raise SpecError(msg)
        if number not in notebooks:
            msg = f"SpecError: profile '{name}' lists chapter '{number}'; the book has {', '.join(notebooks)}."
            raise SpecError(msg)
        if not isinstance(values or {}, dict):
            msg = f"SpecError: chapter '{number}' of profile '{name}' is {values!r}, expected 'name: value' pairs."
            raise SpecError(msg)
    return {number: dict(chapters[number] or {}) for number in sorted(chapters)}


def check_shared(profile: Profile) -> None:
    """Refuse a name under `shared:` that no chapter of the book declares.

    Parameters
    ----------
    profile : Profile

    Raises
    ------
    SpecError
        With the nearest known name.
    """
    known = set(AnalysisPlan.model_fields)
    for notebook in list_notebooks().values():
        known |= set(read_parameters(notebook)) - set(RUN_PARAMETERS)
    for name in profile.shared:
        if name not in known:
            msg = f"SpecError: shared parameter '{name}' of '{profile.path.name}' is declared by no chapter."
            raise SpecError(msg + suggest(name, known))


def collect_values(
    profile: Profile, notebook: Path, declared: Mapping[str, Parameter], overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the values that a profile (and the command line) give a chapter; what they do not give keeps its default.

    Parameters
    ----------
    profile : Profile
    notebook : Path
    declared : mapping of str to Parameter
        From `read_parameters`.
    overrides : mapping, optional
        From the command line; they win.

    Returns
    -------
    dict

    Raises
    ------
    SpecError
        When a name is not declared by the chapter, or is a run parameter.
    """
    own = profile.chapters.get(notebook.name[:2], {})
    given = {**own, **(overrides or {})}
    known = [name for name in declared if name not in RUN_PARAMETERS]
    for name in given:
        if name in RUN_PARAMETERS:
            msg = f"SpecError: '{name}' is a run parameter, set by an option of `histobook run`, not by a profile."
            raise SpecError(msg)
        if name not in known:
            origin = f"'{profile.path.name}' (chapter {notebook.name[:2]})" if name in own else "-p"
            msg = f"SpecError: {origin} sets '{name}', which '{notebook.name}' does not declare.{suggest(name, known)}"
            raise SpecError(f"{msg} It declares {', '.join(known) or 'none'}.")
    return {**{name: value for name, value in profile.shared.items() if name in known}, **given}


def parse_override(text: str, parameter: Parameter | None) -> Any:
    """Read a value of the command line as YAML, unless the parameter is text: then '007' stays '007'.

    Parameters
    ----------
    text : str
    parameter : Parameter or None
        None where the chapter does not declare it; the check of names will say so.

    Returns
    -------
    Any
    """
    if parameter is not None and parameter.annotation in {"str", "Optional[str]"}:
        return None if parameter.annotation.startswith("Optional") and text in {"null", "None"} else text
    return yaml.safe_load(text)


def build_spec(notebook: Path, declared: Mapping[str, Parameter], values: Mapping[str, Any]) -> Spec:
    """Return a chapter's validated spec: its defaults, with the given values in their place.

    Parameters
    ----------
    notebook : Path
    declared : mapping of str to Parameter
    values : mapping

    Returns
    -------
    Spec

    Raises
    ------
    SpecError
        When a value has the wrong type or is out of bounds; every problem is listed, with the chapter's name.
    """
    defaults = {name: parameter.default for name, parameter in declared.items() if name not in RUN_PARAMETERS}
    try:
        return find_spec(notebook).from_values({**defaults, **values})
    except SpecError as error:
        raise SpecError(f"{error}\n  (chapter '{notebook.name}'; nothing was run)") from None
