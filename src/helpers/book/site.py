"""The site of a profile: its executed chapters, figures and scoreboard, with the pages of `docs/` around them.

Everything is put together in a folder of its own under the profile's results, so that sites of two profiles can be
built at once and `docs/` stays as it is in the repository.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from helpers.book.pages import collect_pages, find_chapters
from helpers.book.params import find_notebook
from helpers.core import paths
from helpers.core.errors import RunError

GALLERY_WIDTH_PX = 760
GALLERY_COLOURS = 160
LEFT_OUT = ("_build", "chapters", "generated", "__pycache__")


def build_site(profile_dir: str | Path, *, out: str | Path | None = None) -> Path:
    """Build the site of a profile; a warning of Sphinx is an error.

    Parameters
    ----------
    profile_dir : str or Path
        `results/<profile>`.
    out : str or Path, optional
        `results/<profile>/site` by default.

    Returns
    -------
    Path
        Of index.html.

    Raises
    ------
    RunError
        When no chapter has finished, or Sphinx complains.
    """
    folder = paths.resolve(profile_dir)
    work = folder / ".site"
    source = stage_site(folder, work / "source")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "auto", "-b", "html"]
    command += ["-d", str(work / "doctrees"), str(source), str(work / "html")]
    print(f"building the site of '{folder.name}', about a minute", file=sys.stderr)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        complaints = "\n".join((done.stderr or done.stdout).strip().splitlines()[-30:])
        msg = f"RunError: Sphinx does not accept the pages of '{folder.name}' in {paths.shorten(source)}:\n{complaints}"
        raise RunError(msg)
    target = paths.resolve(out) if out else folder / "site"
    return _publish(work / "html", target) / "index.html"


def _publish(built: Path, target: Path) -> Path:
    """Put a complete site in the place of the last one."""
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(built, fresh, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo"))
    if target.exists() and not (target / "index.html").is_file():
        msg = f"RunError: '{target}' is there and is no site, so it is not replaced. Give another folder (--out)."
        raise RunError(msg)
    shutil.rmtree(target, ignore_errors=True)
    fresh.replace(target)
    return target


def stage_site(folder: Path, source: Path) -> Path:
    """Put the pages of a profile's site together.

    Parameters
    ----------
    folder : Path
        `results/<profile>`.
    source : Path
        Folder to fill; what is there and does not belong is removed.

    Returns
    -------
    Path
        `source`, which Sphinx reads.

    Raises
    ------
    RunError
        When no chapter has finished.
    """
    chapters = find_chapters(folder)
    if not chapters:
        msg = f"RunError: no chapter of '{folder.name}' has finished. Run it first: make book PROFILE={folder.name}"
        raise RunError(msg)
    pages = collect_pages(folder, chapters)
    docs = paths.repo_root() / "docs"
    files = {path.relative_to(docs).as_posix(): path for path in docs.rglob("*") if _belongs(path.relative_to(docs))}
    figures = {f"_static/run/{c.name}-{figure.name}": figure for c in chapters for figure in c.figures}
    for name, path in (files | figures).items():
        _write_if_changed(source / name, path.read_bytes())
    for name, text in pages.items():
        _write_if_changed(source / name, text.encode())
    _remove_strays(source, {*files, *figures, *pages})
    return source


def _belongs(path: Path) -> bool:
    return path.suffix != "" and not any(part in LEFT_OUT or part.startswith(".") for part in path.parts)


def _write_if_changed(path: Path, content: bytes) -> None:
    """Leave an equal file alone, so that Sphinx reads only what is new."""
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _remove_strays(source: Path, kept: set[str]) -> None:
    for path in source.rglob("*"):
        name = path.relative_to(source).as_posix()
        if path.is_file() and name not in kept and not name.startswith("api/generated/"):
            path.unlink()
    shutil.rmtree(source / "api" / "generated", ignore_errors=True)


def copy_gallery(folder: Path) -> list[Path]:
    """Copy the figures that README shows of a profile, as small PNGs.

    Parameters
    ----------
    folder : Path
        `results/<profile>`.

    Returns
    -------
    list of Path
        In `docs/_static/gallery/`.

    Raises
    ------
    RunError
        When docs/gallery.yaml lists no figure of this profile, or one that is not among the results.
    """
    target = paths.repo_root() / "docs" / "_static" / "gallery"
    listed = paths.read_yaml(paths.repo_root() / "docs" / "gallery.yaml")
    mine = [item for item in listed if item["profile"] == folder.name]
    if not mine:
        known = ", ".join(sorted({item["profile"] for item in listed}))
        msg = f"RunError: docs/gallery.yaml lists no figure of the profile '{folder.name}', only of {known}."
        raise RunError(msg)
    return [
        _shrink(find_figure(folder, item["chapter"], item["figure"]), target / f"{item['name']}.png") for item in mine
    ]


def find_figure(folder: Path, number: str, name: str) -> Path:
    """Return a figure of an executed chapter.

    Parameters
    ----------
    folder : Path
        `results/<profile>`.
    number : str
        Of the chapter.
    name : str
        Without suffix.

    Returns
    -------
    Path

    Raises
    ------
    RunError
        When it is not there; lists those that are.
    """
    figures = folder / find_notebook(number).stem / "figures"
    if not (figures / f"{name}.png").is_file():
        there = ", ".join(sorted(path.stem for path in figures.glob("*.png"))) or "none"
        where = paths.shorten(figures)
        msg = f"RunError: no figure '{name}' in {where}; there: {there}. Run the chapter, or mend docs/gallery.yaml."
        raise RunError(msg)
    return figures / f"{name}.png"


def _shrink(source: Path, target: Path) -> Path:
    from PIL import Image

    with Image.open(source) as image:
        picture = image.convert("RGB")
        if picture.width > GALLERY_WIDTH_PX:
            height = round(picture.height * GALLERY_WIDTH_PX / picture.width)
            picture = picture.resize((GALLERY_WIDTH_PX, height), Image.Resampling.LANCZOS)
        with paths.atomic_write(target) as temporary:
            picture.quantize(GALLERY_COLOURS).save(temporary, optimize=True)
    return target
