"""The pages of a site that depend on the run: chapters, gallery, scoreboard, parameters, validation, speed."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from helpers.book.params import find_spec, list_notebooks, read_parameters
from helpers.book.scoreboard import collect_scores
from helpers.core import paths, provenance
from helpers.core.specs import RUN_PARAMETERS, PhantomSpec, Spec
from helpers.features.registry import REGISTRY, describe_entry

KINDS = {
    "planted": "The truth is known because we planted it. The reference is the value of the same estimand.",
    "published": "Numbers of other authors on other patients. Agreement encourages, difference asks a question.",
    "baseline": "What a plain method reached on the same data.",
    "control": "Arms that were given less, or something false. They should do worse.",
}


@dataclass(frozen=True)
class Chapter:
    """One executed chapter of a profile.

    Attributes
    ----------
    folder : Path
        Its results.
    record : dict
        Its run.json.
    title : str
        First heading of the notebook.
    """

    folder: Path
    record: dict[str, Any]
    title: str

    @property
    def name(self) -> str:
        """File name in the site."""
        return self.folder.name

    @property
    def figures(self) -> list[Path]:
        """The chapter's figures as PNG, in the order in which it saved them."""
        saved = [Path(output["path"]).name for output in self.record["outputs"] if output["path"].endswith(".png")]
        figures = [self.folder / "figures" / name for name in saved]
        return [figure for figure in figures if figure.is_file()]


def find_chapters(folder: Path) -> list[Chapter]:
    """Return the finished chapters of a profile, in order; named runs are left out.

    Parameters
    ----------
    folder : Path
        `results/<profile>`.

    Returns
    -------
    list of Chapter
    """
    found = []
    for run in sorted(folder.glob("[0-9A-Z][0-9]_*")):
        record = provenance.read_run(run)
        notebook = run / "notebook.ipynb"
        if record and record["status"] == "finished" and notebook.is_file():
            found.append(Chapter(run, record, _find_title(notebook)))
    return found


def _find_title(notebook: Path) -> str:
    for cell in nbformat.read(notebook, as_version=4).cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else []:
            if line.startswith("# "):
                return line[2:].strip()
    return notebook.parent.name


def collect_pages(folder: Path, chapters: Sequence[Chapter]) -> dict[str, str]:
    """Return the pages that depend on the run, by their name in the site.

    Parameters
    ----------
    folder : Path
        `results/<profile>`.
    chapters : sequence of Chapter

    Returns
    -------
    dict of str to str
    """
    from helpers.features.pathomics import write_feature_page

    root = paths.repo_root()
    pages = {f"chapters/{c.name}.ipynb": _clean_notebook(c.folder / "notebook.ipynb") for c in chapters}
    pages["index.md"] = (root / "docs" / "index.md").read_text(encoding="utf-8") + write_chapter_cards(chapters)
    pages["chapters/index.md"] = write_chapter_index(folder.name, chapters)
    pages["gallery.md"] = write_gallery(folder.name, chapters)
    pages["scoreboard.md"] = write_scoreboard_page(folder)
    pages["reference/parameters.md"] = write_parameters_page()
    pages["reference/encoders.md"] = write_encoders_page()
    pages["reference/pathomics.md"] = write_feature_page()
    pages["reference/speed.md"] = write_speed_page(paths.results_dir() / "bench" / "bench.json")
    pages["reference/validation.md"] = write_validation_page(paths.results_dir() / "validate" / "validate.md")
    pages["changelog.md"] = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    return pages


def _clean_notebook(path: Path) -> str:
    """Drop timings of the run, which would make every build differ, and the cells that papermill adds on errors."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for noise in ("papermill", "execution"):
            cell.metadata.pop(noise, None)
    return nbformat.writes(notebook)


def write_chapter_cards(chapters: Sequence[Chapter]) -> str:
    """Return the executed chapters as a grid of cards, each with its cover.

    Parameters
    ----------
    chapters : sequence of Chapter

    Returns
    -------
    str, MyST Markdown
    """
    cards, gallery = [], paths.read_yaml(paths.repo_root() / "docs" / "gallery.yaml")
    for chapter in chapters:
        record = chapter.record
        footer = f"{record.get('seconds', 0):.0f} s · {len(record['outputs'])} files · key {record['key'][:12]}"
        cover = find_cover(chapter, gallery)
        image = f"/_static/run/{chapter.name}-{cover.name}" if cover else ""
        cards.append(_card(chapter.title, link=f"/chapters/{chapter.name}", image=image, footer=footer, kind="chapter"))
    return f"\n{_grid(cards)}\n"


def find_cover(chapter: Chapter, gallery: Sequence[Mapping[str, str]]) -> Path | None:
    """Return the figure that stands for a chapter: the first one that the gallery names, otherwise its own first.

    Parameters
    ----------
    chapter : Chapter
    gallery : sequence of mapping
        docs/gallery.yaml: chapter, figure.

    Returns
    -------
    Path or None
        None for a chapter without figures.
    """
    named = [item["figure"] for item in gallery if item["chapter"] == chapter.name[:2]]
    saved = {figure.stem: figure for figure in chapter.figures}
    chosen = [saved[name] for name in named if name in saved]
    return next(iter([*chosen, *chapter.figures]), None)


def write_chapter_index(profile: str, chapters: Sequence[Chapter]) -> str:
    """Return the page that lists the executed chapters.

    Parameters
    ----------
    profile : str
    chapters : sequence of Chapter

    Returns
    -------
    str, MyST Markdown
    """
    ran = {chapter.name[:2] for chapter in chapters}
    absent = [f"`{path.stem}`" for number, path in list_notebooks().items() if number not in ran]
    note = f"Not run for this profile: {', '.join(absent)}.\n" if absent else ""
    commits = ", ".join(sorted({f"`{_shorten_commit(chapter.record['commit'])}`" for chapter in chapters}))
    tree = "\n".join(chapter.name for chapter in chapters)
    return (
        f"# Chapters\n\nExecuted for the profile `{profile}` at commit {commits}.\n"
        f"Each page is the notebook as it ran; only progress bars were taken out.\n{note}"
        f"{write_chapter_cards(chapters)}\n```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    )


def _shorten_commit(commit: str) -> str:
    digest, plus, changes = commit.partition("+")
    return commit if commit.startswith("unknown") else digest[:10] + plus + changes


def write_gallery(profile: str, chapters: Sequence[Chapter]) -> str:
    """Return the page that shows every figure of the run.

    Parameters
    ----------
    profile : str
    chapters : sequence of Chapter

    Returns
    -------
    str, MyST Markdown
    """
    blocks = []
    for chapter in chapters:
        cards = [
            _card(
                figure.stem.replace("_", " "),
                link=f"/chapters/{chapter.name}",
                image=f"/_static/run/{chapter.name}-{figure.name}",
                kind="figure-card",
            )
            for figure in chapter.figures
        ]
        if cards:
            blocks.append(f"## {chapter.title}\n\n{_grid(cards, columns='1 1 2 2')}")
    body = "\n\n".join(blocks) or "The chapters of this profile saved no figure."
    head = f"# Gallery\n\nEvery figure that the profile `{profile}` saved; `results/` holds it as SVG, with its table."
    return f"{head}\n\n{body}\n"


def _grid(cards: Sequence[str], *, columns: str = "1 2 2 3") -> str:
    return f":::::{{grid}} {columns}\n:gutter: 3\n\n" + "\n".join(cards) + "\n:::::"


def _card(title: str, *, link: str, image: str = "", footer: str = "", kind: str = "") -> str:
    options = [f":link: {link}", ":link-type: doc", f":class-item: {kind}"]
    options += [f":img-top: {image}", f":img-alt: {title}"] if image else []
    tail = f"\n:::{{card-footer}}\n{footer}\n:::" if footer else ""
    return f"::::{{grid-item-card}} {title}\n" + "\n".join(options) + f"\n{tail}\n::::\n"


def write_scoreboard_page(folder: Path) -> str:
    """Return the page of a profile's scoreboard.

    Parameters
    ----------
    folder : Path
        `results/<profile>`.

    Returns
    -------
    str, MyST Markdown
    """
    table = collect_scores(folder)
    head = "A verdict stands only where a chapter stated one in advance."
    blocks = [f"# Scoreboard\n\nProfile `{folder.name}`. {head}\n"]
    for kind, sentence in KINDS.items():
        rows = table[table["kind"] == kind].to_dict("records")
        if rows:
            blocks.append(f"## {kind.capitalize()}\n\n{sentence}\n\n{_score_table(rows)}\n")
    if len(blocks) == 1:
        blocks.append("No chapter of this profile announced a score.\n")
    return "\n".join(blocks)


def _score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = ("quantity", "this run (95 % CI)", "reference", "n (events)", "", "source")
    styled = "".join(f'<th class="{"number" if 0 < i < 4 else ""}">{head}</th>' for i, head in enumerate(heads))
    lines = ['<div class="scroll"><table class="scores">', f"<tr>{styled}</tr>"]
    verdicts = {True: '<span class="holds">holds</span>', False: '<span class="fails">does not hold</span>'}
    for row in rows:
        cells = (
            ("", f"<code>{html.escape(row['id'])}</code>"),
            ("number", _interval(row["value"], row["ci_low"], row["ci_high"])),
            ("number", _interval(row["reference"], row["reference_low"], row["reference_high"])),
            ("number", _count(row["n"]) + (f" ({_count(row['n_events'])})" if _count(row["n_events"]) else "")),
            ("", verdicts.get(row["holds"], '<span class="open">–</span>')),
            ("source", html.escape(str(row["source"]))),
        )
        lines.append("<tr>" + "".join(f'<td class="{name}">{text}</td>' for name, text in cells) + "</tr>")
    return "```{raw} html\n" + "\n".join([*lines, "</table></div>"]) + "\n```"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and value == value


def _interval(value: Any, low: Any, high: Any) -> str:
    if _is_number(low) and _is_number(high):
        bounds = f"({low:.3f}, {high:.3f})"
    else:
        bounds = f"≥ {low:.3g}" if _is_number(low) else f"≤ {high:.3g}" if _is_number(high) else ""
    return f"{value:.3f} {bounds}".strip() if _is_number(value) else bounds or "–"


def _count(value: Any) -> str:
    return f"{value:,.0f}" if _is_number(value) else ""


def write_parameters_page() -> str:
    """Return the page of every chapter's parameters, from the specs and the notebooks themselves.

    Returns
    -------
    str, MyST Markdown
    """
    blocks = [
        "# Parameters\n\nA profile sets them under `chapters:`, or under `shared:` for every chapter that declares the "
        "name.\nThe command line sets them for a named run: `histobook run 03 --name lr3 -p n_folds=3`.\n"
        f"Run parameters ({', '.join(f'`{name}`' for name in RUN_PARAMETERS)}) belong to the run, not to the result.\n"
    ]
    for notebook in list_notebooks().values():
        declared = read_parameters(notebook)
        spec = find_spec(notebook)
        defaults = {name: parameter.default for name, parameter in declared.items()}
        blocks.append(f"## {notebook.stem}\n\n{_parameter_table(spec, defaults)}\n")
    blocks.append(f"## The phantom\n\nUnder `phantom:` of chapter 00.\n\n{_parameter_table(PhantomSpec, {})}\n")
    return "\n".join(blocks)


def _parameter_table(spec: type[Spec], defaults: Mapping[str, Any]) -> str:
    lines = ["| name | default | bounds | meaning |", "|---|---|---|---|"]
    for name, field in spec.model_fields.items():
        bounds = ", ".join(_describe_bound(item) for item in field.metadata if _describe_bound(item))
        default = defaults.get(name, field.get_default(call_default_factory=True))
        shown = repr(default) if len(repr(default)) <= 48 else repr(default)[:45] + "…"
        meaning = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | `{shown.replace('|', ' ')}` | {bounds} | {meaning} |")
    return "\n".join(lines)


def _describe_bound(item: object) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return next((f"{sign} {getattr(item, name):,g}" for name, sign in signs.items() if hasattr(item, name)), "")


def write_encoders_page() -> str:
    """Return the page of the encoders, from the registry.

    Returns
    -------
    str, MyST Markdown
    """
    head = (
        "# Encoders\n\nWhat turns a tile into numbers, by the name a profile gives (`encoders:` of chapter 02).\n"
        "Weights lie in `data/encoders/<encoder>/`, in a folder that `HISTOBOOK_ENCODERS` names, or where the profile "
        "says (`weights:`); `histobook encoders` shows which are here.\n"
        "No encoder ever runs on random weights unless its name says `random`.\n\n"
    )
    columns = ("encoder", "kind", "dimension", "input", "mpp", "pooling", "weights", "licence", "about")
    lines = ["| " + " | ".join(columns) + " |", "|---|---|---:|---|---:|---|---|---|---|"]
    for entry in REGISTRY.values():
        facts = describe_entry(entry)
        gate = f" {facts['gate']}." if facts["gate"] else ""
        lines.append("| " + " | ".join([f"`{entry.name}`", *(facts[name] for name in columns[1:-1])]) +
                     f" | {facts['about']}.{gate} |")  # fmt: skip
    return head + "\n".join(lines) + "\n"


def write_speed_page(bench: Path) -> str:
    """Return the page of the last benchmark on this machine.

    Parameters
    ----------
    bench : Path
        `results/bench/bench.json`.

    Returns
    -------
    str, MyST Markdown
    """
    head = "# Speed\n\nMeasured by `make bench`; ratios are taken within one run.\n\n"
    if not bench.is_file():
        return head + "Not measured on the machine that built this site.\n"
    machine = paths.read_json(bench.with_name("machine.json"))
    lines = ["| what | value | unit | compared with | ratio | bound |", "|---|---:|---|---|---:|---:|"]
    for row in paths.read_json(bench):
        value, ratio, bound = (f"{row[n]:,.3g}" if _is_number(row[n]) else "" for n in ("value", "ratio", "bound"))
        lines.append(f"| `{row['id']}` | {value} | {row['unit']} | {row['compared_with']} | {ratio} | {bound} |")
    where = f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['date']}."
    return f"{head}{where}\n\n" + "\n".join(lines) + "\n"


def write_validation_page(validated: Path) -> str:
    """Return the page of the last validation over many phantom cohorts on this machine.

    Parameters
    ----------
    validated : Path
        `results/validate/validate.md`.

    Returns
    -------
    str, MyST Markdown
    """
    if validated.is_file():
        return validated.read_text(encoding="utf-8")
    return "# Validation\n\n`make validate` was not run on the machine that built this site.\n"
