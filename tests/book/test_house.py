"""What a fresh clone relies on: versions in step, light imports, short functions, a console script that answers at once."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAVY = ("torch", "timm", "matplotlib", "seaborn", "sklearn", "cv2", "papermill")


@pytest.fixture
def pyproject(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture
def requirements(pyproject):
    """Every direct requirement of pyproject.toml, by name."""
    project = pyproject["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def read_lock(repository):
    text = (repository / "requirements.lock").read_text()
    pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+)", text, flags=re.MULTILINE)
    direct = set()
    for block in re.split(r"\n(?=\S)", text):
        if "histobook (pyproject.toml)" in block:
            direct.add(block.split("==")[0].strip())
    return text, dict(pins), direct


def test_the_lock_pins_exactly_what_pyproject_asks_for(repository, requirements):
    _, pins, direct = read_lock(repository)
    assert direct == set(requirements), "requirements.lock is out of step with pyproject.toml; run: make lock"
    for name, requirement in requirements.items():
        assert requirement.specifier.contains(pins[name], prereleases=True), (
            f"{name}: {pins[name]} is not {requirement}"
        )


def test_the_lock_names_no_index_and_no_path(repository):
    text, pins, _ = read_lock(repository)
    assert len(pins) > 100
    assert not re.search(r"://|--(extra-)?index|--find-links|file:|@ ", text)


def test_conda_users_get_the_same_versions(repository, pyproject):
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert packages == {"pip": ["-r requirements.lock"]}
    assert pip == "pip"
    version = python.removeprefix("python=")
    assert Requirement(f"python{pyproject['project']['requires-python']}").specifier.contains(version)


@pytest.mark.parametrize("package", ["core", "cohort", "stats"])
def test_core_cohort_and_stats_import_nothing_heavy(package):
    code = f"""
import importlib, pkgutil, sys, helpers.{package} as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", f"helpers.{package} loads {done.stdout.strip()} when imported"


def test_the_console_script_answers_without_loading_anything_heavy():
    code = f"""
import sys
from typer.testing import CliRunner
from helpers.book.cli import app
assert "scoreboard" in CliRunner().invoke(app, ["--help"]).output
print([name for name in {(*HEAVY, "pandas", "scipy")!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", f"`histobook --help` loads {done.stdout.strip()}"


def count_lines(function):
    """Lines of a function's code, without its signature, docstring and comments."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_nine_functions_in_ten_are_shorter_than_thirty_lines(repository):
    lengths = {}
    for path in sorted((repository / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[f"{path.name}:{node.name}"] = count_lines(node)
    long = sorted((name for name, n in lengths.items() if n >= 30), key=lengths.get, reverse=True)
    assert len(long) <= 0.1 * len(lengths), f"{len(long)} of {len(lengths)} functions are long: {long[:20]}"


def test_every_public_function_takes_its_options_by_keyword(repository):
    offenders = []
    for path in sorted((repository / "src").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            is_public = isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            if is_public and not node.decorator_list and len(node.args.defaults) > 2:
                offenders.append(f"{path.name}:{node.name}")
    assert offenders == [], "more than two positional options; put a * before them"


def test_the_documented_commands_exist(repository):
    readme = (repository / "README.md").read_text()
    makefile = (repository / "Makefile").read_text()
    for target in ("book", "test", "lab", "site", "bench", "validate", "lint", "help"):
        assert re.search(rf"^{target}:.*##", makefile, flags=re.MULTILINE), f"make {target} is not in the Makefile"
    assert "make book" in readme
    assert "make test" in readme
    run = (repository / ".ci" / "run").read_text()
    assert "make lint" in run
    assert "make test" in run


def test_make_help_lists_the_targets(repository):
    done = subprocess.run(["make", "help"], cwd=repository, capture_output=True, text=True, check=True)
    assert "book" in done.stdout
    assert "run the chapters of PROFILE" in done.stdout
