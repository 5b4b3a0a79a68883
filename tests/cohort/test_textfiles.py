"""Text tables as other people leave them."""

import gzip
from pathlib import Path

import pytest

from helpers.cohort.textfiles import read_text_table
from helpers.core.errors import DuplicateError, SchemaError


def write(folder: Path, content: bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_any_line_end_gives_the_same_table(tmp_path, end):
    table = read_text_table(write(tmp_path, end.join([b"case_id,age", b"007,61.5", b"7,", b""])))
    assert table.to_dict("list") == {"case_id": ["007", "7"], "age": ["61.5", None]}


def test_a_byte_order_mark_and_gzip_do_not_matter(tmp_path):
    path = write(tmp_path, gzip.compress("\ufeffcase_id\tnote\nA\tœdème\n".encode()), "table.tsv.gz")
    assert read_text_table(path, separator="\t").to_dict("list") == {"case_id": ["A"], "note": ["œdème"]}


def test_comment_lines_are_skipped_and_quoted_separators_kept(tmp_path):
    path = write(tmp_path, b'#made by us\ncase_id,note\nA,"one, two"\n')
    assert read_text_table(path, comment="#").loc[0, "note"] == "one, two"


def test_a_file_cut_in_mid_row_is_an_error_not_a_patient_without_data(tmp_path):
    path = write(tmp_path, b"case_id,age,grade\nA,61,2\nB,5")
    with pytest.raises(SchemaError) as caught:
        read_text_table(path)
    assert str(caught.value) == (
        "SchemaError: table 'table.csv': row 2 of 2 has 2 fields, expected 3. "
        "The file ends in mid-row after 28 bytes: the download was cut. Fetch it again."
    )


def test_a_long_row_in_the_middle_points_at_the_separator(tmp_path):
    path = write(tmp_path, b"case_id,age\nA,61,2\nB,5\n")
    with pytest.raises(SchemaError, match=r"row 1 of 2 has 3 fields, expected 2\. Check the separator and the quotes"):
        read_text_table(path)


def test_a_repeated_column_is_an_error(tmp_path):
    path = write(tmp_path, b"case_id,age,age\nA,61,2\n")
    with pytest.raises(DuplicateError, match=r"table 'table.csv' has column 'age' twice, expected once"):
        read_text_table(path)


def test_a_missing_an_empty_and_a_binary_file_say_so(tmp_path):
    with pytest.raises(SchemaError, match=r"table 'no.csv' was not found in"):
        read_text_table(tmp_path / "no.csv")
    with pytest.raises(SchemaError, match=r"table 'table.csv' holds no rows"):
        read_text_table(write(tmp_path, b""))
    with pytest.raises(SchemaError, match=r"table 'table.csv' is not UTF-8 text \(byte 0, in line 1\)"):
        read_text_table(write(tmp_path, b"\xff\xfe\x00"))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("table.csv", "case_id;age\nA;61,5\n", r"is separated by semicolons, expected commas\. .* not 12,5"),
        ("table.csv", "case_id\tage\nA\t61\n", r"is separated by tabs, expected commas\. Rename it to \.tsv"),
        ("table.tsv", "case_id,age\nA,61\n", r"is separated by commas, expected tabs\."),
    ],
)
def test_another_separator_is_named(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SchemaError, match=rf"table '{name}' {expected}"):
        read_text_table(path, separator="," if name.endswith("csv") else "\t")


def test_a_table_of_one_column_has_no_separator(tmp_path):
    assert list(read_text_table(write(tmp_path, b"case_id\nA\n"))["case_id"]) == ["A"]


def test_rows_without_any_content_are_no_rows(tmp_path):
    table = read_text_table(write(tmp_path, b"case_id,age\nA,61\n,\n , \n"))
    assert list(table["case_id"]) == ["A"]


def test_the_real_truncated_download_is_named(shared_data):
    path = shared_data / "metabric" / "kaggle_METABRIC_RNA_Mutation_TRUNCATED_1MiB.csv"
    with pytest.raises(
        SchemaError, match=r"row 238 of 238 has \d+ fields, expected 693\. The file ends in mid-row after 1,048,576"
    ):
        read_text_table(path)


def test_the_real_cr_only_files_are_read_whole(shared_data):
    folder = shared_data / "metabric"
    assert len(read_text_table(folder / "cbioportal_data_clinical_patient.txt", separator="\t", comment="#")) == 2509
    assert len(read_text_table(folder / "curtis2012_table_S2_revised.txt", separator="\t")) == 997
    assert len(read_text_table(folder / "curtis2012_table_S3_revised.txt", separator="\t")) == 995
