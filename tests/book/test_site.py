"""The pages of a site hold what the chapters wrote: figures, scores, parameters; a stray file never stays."""

import nbformat
import pytest
from PIL import Image

from helpers.book import pages, site
from helpers.core import paths, provenance
from helpers.core.errors import RunError
from helpers.core.specs import ScoreboardSpec


class Fitted(ScoreboardSpec):
    chapter = "03_predict_proliferation"
    upstream = ()


@pytest.fixture
def finished(tmp_path):
    """A profile's folder with one finished chapter of one figure and two scores."""
    from helpers.figures.style import new_axes

    run = provenance.start(Fitted(), tmp_path, run_name="book")
    ax = new_axes()
    ax.plot([0, 1], [0, 1])
    run.save_figure(ax.figure, "scatter")
    run.score(id="03/spearman/prolif11/external", quantity="spearman", value=0.61, ci_low=0.4, ci_high=0.75, n=50,
              reference=0.7, kind="planted", source="planted <loadings>", holds=True)  # fmt: skip
    run.score(id="03/spearman_mean_colour/prolif11/external", quantity="spearman", value=0.5, n=50, kind="control",
              reference_high=0.35, source="phantom", holds=False)  # fmt: skip
    run.finish()
    cells = [nbformat.v4.new_markdown_cell("# 03 · Predict"), nbformat.v4.new_code_cell("1")]
    cells[1].metadata["papermill"] = {"duration": 0.1}
    nbformat.write(nbformat.v4.new_notebook(cells=cells), run.dir / "notebook.ipynb")
    return tmp_path


def test_cards_show_title_first_figure_and_key(finished):
    (chapter,) = pages.find_chapters(finished)
    assert chapter.title == "03 · Predict"
    text = pages.write_chapter_index("phantom", [chapter])
    assert ":img-top: /_static/run/03_predict_proliferation-scatter.png" in text
    assert f"key {chapter.record['key'][:12]}" in text
    assert "`00_build_cohort`" in text, "chapters that this profile does not run are named"


def test_a_cover_is_the_first_figure_that_the_gallery_names(finished):
    (chapter,) = pages.find_chapters(finished)
    listed = [{"chapter": "03", "figure": "absent"}, {"chapter": "04", "figure": "km"}]
    assert pages.find_cover(chapter, listed).stem == "scatter", "none is named, so its own first"
    (finished / chapter.name / "figures" / "map.png").write_bytes(b"png")
    chapter.record["outputs"].append({"path": f"{chapter.name}/figures/map.png"})
    assert pages.find_cover(chapter, [*listed, {"chapter": "03", "figure": "map"}]).stem == "map"


def test_the_scoreboard_page_shows_verdicts_and_escapes_what_it_quotes(finished):
    text = pages.write_scoreboard_page(finished)
    assert text.index("## Planted") < text.index("## Control")
    assert '<td class="number">0.610 (0.400, 0.750)</td>' in text
    assert '<span class="holds">holds</span>' in text
    assert '<span class="fails">does not hold</span>' in text
    assert "planted &lt;loadings&gt;" in text


def test_a_range_open_on_one_side_is_shown_as_such(finished):
    assert "≤ 0.35" in pages.write_scoreboard_page(finished)


def test_the_parameters_page_lists_every_field_of_every_chapter():
    text = pages.write_parameters_page()
    assert "| `max_rows` | `40` | ≥ 1, ≤ 200 |" in text
    assert "## The phantom" in text
    assert "| `slide_um` |" in text


def test_the_staged_pages_are_those_of_docs_and_of_the_run_and_no_others(finished):
    source = finished / ".site" / "source"
    stray = source / "chapters" / "07_old.ipynb"
    stray.parent.mkdir(parents=True)
    stray.write_text("{}")
    site.stage_site(finished, source)
    assert not stray.exists()
    for name in ("conf.py", "index.md", "gallery.md", "scoreboard.md", "changelog.md", "glossary.md", "howto/run.md"):
        assert (source / name).is_file(), name
    notebook = nbformat.read(source / "chapters" / "03_predict_proliferation.ipynb", as_version=4)
    assert "papermill" not in notebook.cells[1].metadata, "timings would make every build differ"


def test_a_profile_without_a_finished_chapter_has_no_site(tmp_path):
    with pytest.raises(RunError, match="no chapter of .* has finished. Run it first: make book PROFILE="):
        site.build_site(tmp_path)


def test_a_folder_that_is_no_site_is_not_replaced(tmp_path):
    built = tmp_path / "built"
    built.mkdir()
    (built / "index.html").write_text("new")
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.tex").write_text("years of work")
    with pytest.raises(RunError, match="is no site, so it is not replaced"):
        site._publish(built, precious)
    assert (precious / "chapter.tex").is_file()
    assert (site._publish(built, tmp_path / "site") / "index.html").read_text() == "new"


def test_gallery_pictures_are_small(finished, tmp_path):
    picture = site.find_figure(finished, "03", "scatter")
    small = site._shrink(picture, tmp_path / "small.png")
    with Image.open(small) as image:
        assert image.width <= site.GALLERY_WIDTH_PX
    with pytest.raises(RunError, match="no figure 'km' in .*; there: scatter"):
        site.find_figure(finished, "03", "km")


def test_a_profile_without_gallery_figures_is_an_error_that_names_those_with(finished):
    with pytest.raises(RunError, match="lists no figure of the profile '.*', only of metabric, phantom"):
        site.copy_gallery(finished)


def test_every_figure_of_the_gallery_list_is_shown_by_readme_and_lies_in_docs(repository):
    readme = (repository / "README.md").read_text()
    for item in paths.read_yaml(repository / "docs" / "gallery.yaml"):
        picture = repository / "docs" / "_static" / "gallery" / f"{item['name']}.png"
        assert f"docs/_static/gallery/{item['name']}.png" in readme
        assert picture.is_file(), f"{picture.name} is missing; run: make gallery"
        assert picture.stat().st_size < 300_000


def test_speed_is_said_to_be_unmeasured_where_it_is(tmp_path):
    assert "Not measured" in pages.write_speed_page(tmp_path / "bench.json")
    paths.write_json(
        [{"id": "a/b", "value": 2.0, "unit": "s", "compared_with": "x", "ratio": None, "bound": 3}],
        tmp_path / "bench.json",
    )
    paths.write_json({"cpu": "A CPU", "cores": 2, "system": "Linux", "date": "2026-01-01"}, tmp_path / "machine.json")
    assert "| `a/b` | 2 | s | x |  | 3 |" in pages.write_speed_page(tmp_path / "bench.json")


def test_the_validation_page_is_the_last_summary_or_says_that_there_is_none(tmp_path):
    assert "was not run" in pages.write_validation_page(tmp_path / "validate.md")
    (tmp_path / "validate.md").write_text("# Planted truth against estimates\n")
    assert pages.write_validation_page(tmp_path / "validate.md") == "# Planted truth against estimates\n"
