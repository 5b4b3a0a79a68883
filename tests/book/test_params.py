"""Every name and every value of a profile is checked before a kernel starts."""

import pytest

from helpers.book.params import (
    Parameter,
    build_spec,
    check_shared,
    collect_values,
    find_notebook,
    find_spec,
    parse_override,
    read_parameters,
    read_profile,
    suggest,
)
from helpers.core.errors import SpecError


def write_profile(root, text):
    path = root / "config" / "changed.yaml"
    path.write_text(text)
    return path


def change_parameters(root, old, new):
    path = root / "notebooks" / "00_count_cases.py"
    path.write_text(path.read_text().replace(old, new, 1))
    return path


def values_of(root, text):
    notebook = find_notebook("00")
    return collect_values(read_profile(write_profile(root, text)), notebook, read_parameters(notebook))


def test_the_parameters_cell_is_read_with_its_annotations_and_defaults(toy_book):
    declared = read_parameters(find_notebook("00"))
    assert list(declared)[:5] == ["profile_dir", "run_name", "shard", "workers", "device"]
    assert declared["n_cases"] == Parameter("n_cases", "int", 4)
    assert declared["table"] == Parameter("table", "Optional[str]", None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n_cases: int | None = 4", "papermill does not see n_cases .*Write Optional"),
        ("n_cases: int = 4  # tile = 256 px", "papermill does not see n_cases"),
        ("n_cases = 4", "line 'n_cases = 4' .* is not of the form 'name: type = literal'"),
        ("n_cases: int = 2 + f(2)", "the default in line 'n_cases: int = 2 \\+ f\\(2\\)' .* is not a plain literal"),
    ],
)
def test_a_line_that_papermill_would_drop_or_misread_is_refused(toy_book, line, message):
    path = change_parameters(toy_book, "n_cases: int = 4                      # how many", line)
    with pytest.raises(SpecError, match=message):
        read_parameters(path)


def test_a_chapter_without_a_parameters_cell_is_refused(toy_book):
    path = change_parameters(toy_book, 'tags=["parameters"]', 'tags=["other"]')
    with pytest.raises(SpecError, match="has 0 cells tagged 'parameters', expected exactly one"):
        read_parameters(path)


def test_a_chapter_is_found_by_number_name_or_path(toy_book):
    path = toy_book / "notebooks" / "01_read_share.py"
    assert find_notebook("01") == find_notebook("01_read_share") == find_notebook("notebooks/01_read_share.py") == path
    with pytest.raises(SpecError, match="no chapter '01_red_share'. Did you mean '01_read_share'?"):
        find_notebook("01_red_share")


def test_shared_values_reach_a_chapter_that_declares_them_and_its_own_win(toy_book):
    assert values_of(toy_book, 'shared: {n_cases: 5}\nchapters: {"00": {}}') == {"n_cases": 5}
    assert values_of(toy_book, 'shared: {n_cases: 5}\nchapters: {"00": {n_cases: 6}}') == {"n_cases": 6}
    assert values_of(toy_book, 'shared: {factor: 3.0}\nchapters: {"00": {}}') == {}


def test_an_unknown_name_stops_and_the_nearest_is_suggested(toy_book):
    with pytest.raises(
        SpecError, match=r"sets 'n_case', which '00_count_cases.py' does not declare. Did you mean 'n_cases'\?"
    ):
        values_of(toy_book, 'chapters: {"00": {n_case: 5}}')
    with pytest.raises(
        SpecError,
        match=r"shared parameter 'factr' of 'changed.yaml' is declared by no chapter. Did you mean 'factor'\?",
    ):
        check_shared(read_profile(write_profile(toy_book, 'shared: {factr: 1}\nchapters: {"00": {}}')))
    with pytest.raises(SpecError, match=r"unknown field 'chapter'. Did you mean 'chapters'\?"):
        read_profile(write_profile(toy_book, 'chapter: {"00": {}}'))
    with pytest.raises(SpecError, match=r"no profile 'toi'. Did you mean 'toy'\?"):
        read_profile("toi")


def test_a_run_parameter_is_not_a_profile_s_to_set(toy_book):
    with pytest.raises(SpecError, match="'workers' is a run parameter"):
        values_of(toy_book, 'chapters: {"00": {workers: 8}}')


def test_yaml_keeps_an_id_a_string_and_a_second_key_is_refused(toy_book):
    assert values_of(toy_book, 'chapters: {"00": {case_id: "007"}}') == {"case_id": "007"}
    with pytest.raises(SpecError, match="'n_cases' stands twice in the same block"):
        values_of(toy_book, 'chapters: {"00": {n_cases: 1, n_cases: 2}}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chapters: {01: {}}", "names chapter 1 as a number. Quote it: '01'"),
        ('chapters: {"07": {}}', "lists chapter '07'; the book has 00, 01"),
        ('chapters: {"00": 3}', "chapter '00' of profile 'changed.yaml' is 3"),
        ("profile: toy", "lists no chapters"),
        ("- 1", "is not a block of 'name: value' pairs"),
        ("a: [", "is not YAML"),
        ('profile: a/b\nchapters: {"00": {}}', "profile name 'a/b' cannot name a folder"),
    ],
)
def test_a_malformed_profile_says_what_is_wrong(toy_book, text, message):
    with pytest.raises(SpecError, match=message):
        read_profile(write_profile(toy_book, text))


def test_a_value_of_the_wrong_type_is_refused_before_anything_runs(toy_book):
    notebook = find_notebook("00")
    declared = read_parameters(notebook)
    with pytest.raises(
        SpecError,
        match=r"n_cases: Input should be a valid integer.*found 'many'\n  \(chapter '00_count_cases.py'; nothing was run\)",
    ):
        build_spec(notebook, declared, {"n_cases": "many"})
    with pytest.raises(SpecError, match="n_cases: Input should be greater than or equal to 0, found -1"):
        build_spec(notebook, declared, {"n_cases": -1})


def test_the_command_line_keeps_text_as_text_and_reads_numbers_as_numbers():
    assert parse_override("007", Parameter("case_id", "str", "")) == "007"
    assert parse_override("null", Parameter("table", "Optional[str]", None)) is None
    assert parse_override("1e-3", Parameter("rate", "float", 0.1)) == "1e-3", (
        "YAML 1.1 wants 1.0e-3; pydantic reads both"
    )
    assert parse_override("[1, 2]", Parameter("folds", "list[int]", [])) == [1, 2]


def test_a_chapter_without_a_spec_is_named(toy_book):
    with pytest.raises(SpecError, match="no spec in helpers.core.specs has chapter = '05_other'"):
        find_spec("notebooks/05_other.py")


def test_nothing_is_suggested_where_nothing_is_near():
    assert suggest("xyz", ["n_cases"]) == ""
