"""The gate: what passes is typed, what does not pass is named."""

from pathlib import Path

import pandas as pd
import pytest

from helpers.cohort.tables import (
    check_cases,
    check_expression,
    check_slides,
    group_stages,
    read_cases,
    read_expression,
    read_slides,
    read_spot_expression,
    read_spots,
    read_table,
)
from helpers.core.errors import DuplicateError, HistobookError, OutcomeError, SchemaError

CASES = (
    "case_id,site,age_years,sex,stage,tumour_size_mm,nodes_positive,grade,er,pr,her2,neoadjuvant,"
    "os_time_months,os_event,batch\n"
    "007,A,61.5,female,Stage IIA,22,3,2,+,neg,Positive,No,31.5,1,01\n"
    "7,B,,F,IIIC,,0,3,negative,1,0,,0,0:LIVING,02\n"
    "08,B,48,Male,4,15,,,,,,yes,12,,03\n"
)


def write(folder: Path, text: str, name: str = "cases.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def cases_with(**columns: list[str | None]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"case_id": [f"P{i}" for i in range(1, n + 1)], **columns}, dtype=object)


def complaint(table: pd.DataFrame) -> HistobookError:
    problems = check_cases(table)[1]
    assert len(problems) == 1, problems
    return problems[0]


def test_ids_stay_text_and_unknown_columns_are_kept(tmp_path):
    cases = read_cases(write(tmp_path, CASES))
    assert list(cases["case_id"]) == ["007", "7", "08"]
    assert list(cases["batch"]) == ["01", "02", "03"]


def test_every_column_is_typed_and_its_spellings_are_one(tmp_path):
    cases = read_cases(write(tmp_path, CASES))
    assert list(cases["stage"]) == ["IIA", "IIIC", "IV"]
    assert list(cases["sex"]) == ["female", "female", "male"]
    assert cases["er"].tolist() == ["positive", "negative", None]
    assert cases["pr"].tolist() == ["negative", "positive", None]
    assert cases["her2"].tolist() == ["positive", "negative", None]
    assert cases["neoadjuvant"].tolist() == [False, pd.NA, True]
    assert cases["os_event"].tolist() == [True, False, pd.NA]
    assert cases["os_time_months"].tolist() == [31.5, 0.0, 12.0]
    assert cases["grade"].dtype == "Int64"
    assert cases["nodes_positive"].dtype == "Int64"
    assert cases["age_years"].dtype == float


def test_a_clean_table_passes_a_second_time_unchanged(tmp_path):
    cases = read_cases(write(tmp_path, CASES))
    cases.to_parquet(tmp_path / "again.parquet")
    pd.testing.assert_frame_equal(read_cases(tmp_path / "again.parquet"), cases)


def test_stages_are_grouped_by_their_roman_number():
    assert group_stages(pd.Series(["IIA", "IIIC", "IV", "I", "0", None])).tolist()[:5] == ["II", "III", "IV", "I", "0"]


def test_a_missing_column_is_named_with_what_was_found(tmp_path):
    path = write(tmp_path, "patient,age_years\nA,61\n")
    with pytest.raises(SchemaError) as caught:
        read_cases(path)
    assert str(caught.value) == (
        "SchemaError: table 'cases' has no column 'case_id'; found patient, age_years. "
        "Add it, or rename the column that holds it."
    )


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("age_years", "old", "a number of years from 0 to 120"),
        ("age_years", "161", "a number of years from 0 to 120"),
        ("sex", "x", "female or male"),
        ("stage", "Stage X", "a stage 0, I, II, III or IV, such as 'Stage IIA'"),
        ("grade", "4", "a whole number from 1 to 3"),
        ("grade", "1.5", "a whole number from 1 to 3"),
        ("nodes_positive", "-1", "a whole number from 0 to 100"),
        ("tumour_size_mm", "2cm", "a number of mm from 0 to 500"),
        ("her2", "equivocal", "positive or negative"),
        ("neoadjuvant", "maybe", "true or false"),
    ],
)
def test_a_wrong_type_names_case_column_value_and_what_was_expected(column, cell, expected):
    error = complaint(cases_with(**{column: [None, cell]}))
    assert isinstance(error, SchemaError)
    assert str(error) == (
        f"SchemaError: case 'P2' has {column} '{cell}', expected {expected}. "
        "Correct the cell, or empty it where the value is not known."
    )


def test_a_duplicate_case_names_its_rows():
    table = pd.DataFrame({"case_id": ["A", "B", "A"]}, dtype=object)
    error = complaint(table)
    assert isinstance(error, DuplicateError)
    assert str(error) == (
        "DuplicateError: case 'A' occurs 2 times in table 'cases' (rows 1 and 3), expected once. Keep one row."
    )


def test_an_empty_id_is_an_error():
    assert str(complaint(pd.DataFrame({"case_id": ["A", None]}, dtype=object))) == (
        "SchemaError: case of row 2 has case_id an empty cell, expected text. Correct the cell."
    )


def test_a_column_in_other_capitals_or_spelling_is_named_and_not_set_aside():
    table = cases_with(Grade=["2"], tumor_size_mm=["20"], batch=["1"], RFS_event=["1"], rfs_time_months=["3"])
    texts = [str(problem) for problem in check_cases(table)[1]]
    assert texts[0] == (
        "SchemaError: table 'cases' has a column 'Grade', expected 'grade'. Rename it; under another name it would not "
        "be read."
    )
    assert "'tumor_size_mm', expected 'tumour_size_mm'" in texts[1]
    assert "'RFS_event', expected 'rfs_event'" in texts[2]
    assert "'rfs_time_months' but no 'rfs_event'" in texts[3]
    assert len(texts) == 4
    assert not check_cases(cases_with(Grade=["G2"], grade=["2"]))[1], "a second column of another form is the owner's"


@pytest.mark.parametrize(
    ("column", "remedy"),
    [
        ("os_time_days", "Divide it by 30.4375"),
        ("os_days", "Divide it by 30.4375"),
        ("os_years", "Multiply it by 12"),
        ("os_time", "Convert it to months"),
    ],
)
def test_follow_up_in_other_units_is_named(column, remedy):
    text = str(complaint(cases_with(**{column: ["900"]})))
    assert f"has '{column}', expected follow-up in months, 'os_time_months'. {remedy}" in text


def test_days_in_a_column_of_months_are_an_error():
    error = complaint(cases_with(os_time_months=["1897", "1200"], os_event=["1", "0"]))
    assert isinstance(error, OutcomeError)
    assert str(error) == (
        "OutcomeError: case 'P1' has os_time_months 1897, expected at most 1200 months. Are these days? Then divide the "
        "whole column by 30.4375."
    )


def test_a_decimal_comma_says_so():
    assert str(complaint(cases_with(age_years=["57,5"]))).endswith("from 0 to 120. Write decimals with a point.")
    error = complaint(cases_with(os_time_months=["12,25"], os_event=["1"]))
    assert str(error).endswith("expected a number of months. Write decimals with a point.")


def test_many_wrong_cells_of_a_column_are_counted():
    problems = check_cases(cases_with(age_years=["old"] * 50))[1]
    assert len(problems) == 21
    assert str(problems[-1]) == (
        "SchemaError: 30 more cells of age_years in table 'cases' are wrong like these (50 in all)."
    )


def test_two_slides_of_one_file_are_an_error_since_they_may_train_and_test():
    table = pd.DataFrame({"slide_id": ["S1", "S2", "S3"], "case_id": ["A", "B", "B"], "path": ["x.svs", "x.svs", "y"]})
    problems = check_slides(table)[1]
    assert [type(problem) for problem in problems] == [DuplicateError]
    assert "slides 'S1' and 'S2' name the same file 'x.svs' (path), expected one file per slide" in str(problems[0])


def test_a_slide_without_any_file_is_an_error():
    table = pd.DataFrame({"slide_id": ["S1", "S2"], "case_id": ["A", "B"], "path": [None, "y.svs"]}, dtype=object)
    assert [str(problem) for problem in check_slides(table)[1]] == [
        "SchemaError: slide 'S1' names no file (path empty). Add it, or drop the slide."
    ]
    assert not check_slides(table.assign(features_path=["S1.pt", None]))[1]


@pytest.mark.parametrize("slide_id", ["H/2019/12", "..\\up", "../up", ".hidden"])
def test_a_slide_id_that_cannot_name_a_file_is_an_error(slide_id):
    problems = check_slides(pd.DataFrame({"slide_id": [slide_id], "case_id": ["A"], "path": ["a.svs"]}))[1]
    assert len(problems) == 1
    assert f"slide '{slide_id}' cannot name its files, expected an id without '/'" in str(problems[0])


def test_blanks_and_umlauts_in_ids_pass():
    assert not check_slides(pd.DataFrame({"slide_id": ["Größe 1"], "case_id": ["A b"], "path": ["a.svs"]}))[1]


def test_linear_values_called_log2_are_an_error():
    table = pd.DataFrame({"case_id": ["A", "B"], "gene": "MKI67", "value": [12.0, 3020.5], "unit": "log2"})
    problems = check_expression(table)[1]
    assert len(problems) == 1
    assert "case 'B' has MKI67 = 3020.5 log2, expected 40 or less (1 such values)" in str(problems[0])


def test_genes_as_rows_are_recognised_as_wide():
    wide = pd.DataFrame([["MKI67", 1.0, 2.0, 3.0, 4.0]], columns=["gene", "A", "B", "C", "D"])
    problems = check_expression(wide)[1]
    assert len(problems) == 1
    assert "no column 'value' but 5 columns: it looks wide" in str(problems[0])


def test_an_unknown_vital_status_is_an_error_never_an_event():
    error = complaint(cases_with(os_time_months=["1", "2"], os_event=["1", "Unknown"]))
    assert isinstance(error, OutcomeError)
    assert str(error) == (
        "OutcomeError: case 'P2' has unknown vital status 'Unknown' in os_event, expected 1 or true (it happened), "
        "0 or false (it did not). Correct it, or empty the cell: the case is then lost by name."
    )


def test_a_negative_time_is_an_error():
    error = complaint(cases_with(rfs_time_months=["1", "-2.5"], rfs_event=["1", "0"]))
    assert isinstance(error, OutcomeError)
    assert str(error) == (
        "OutcomeError: case 'P2' has rfs_time_months -2.5, expected 0 or more months. Correct the date it was "
        "computed from, or empty the cell: the case is then lost by name."
    )


def test_a_time_that_is_no_number_is_an_error():
    error = complaint(cases_with(os_time_months=["1", "two"], os_event=["1", "0"]))
    assert "case 'P2' has os_time_months 'two', expected a number of months" in str(error)


def test_half_an_endpoint_is_an_error():
    error = complaint(cases_with(pfi_event=["1"]))
    assert str(error) == (
        "SchemaError: table 'cases' has 'pfi_event' but no 'pfi_time_months'. Give both columns, or neither."
    )


def test_censorship_is_flipped_at_the_gate():
    table = cases_with(dss_time_months=["1", "2", "3"], dss_censorship=["1", "0", None])
    clean, problems = check_cases(table)
    assert not problems
    assert clean["dss_event"].tolist() == [False, True, pd.NA]
    assert "dss_censorship" not in clean


def test_bare_censorship_of_survival_tables_is_overall_survival():
    clean, problems = check_cases(cases_with(survival_months=["10", "20"], censorship=["1.0", "0.0"]))
    assert not problems
    assert clean["os_event"].tolist() == [False, True]
    assert clean["os_time_months"].tolist() == [10.0, 20.0]


def test_censorship_beside_an_event_column_is_an_error():
    error = complaint(cases_with(os_time_months=["1"], os_event=["1"], os_censorship=["0"]))
    assert "table 'cases' has both 'os_event' and 'os_censorship', which say opposite things" in str(error)


def test_a_censorship_that_is_neither_is_an_error():
    error = complaint(cases_with(os_time_months=["1"], os_censorship=["2"]))
    assert "column 'os_censorship' holds '2', expected 1 (censored) or 0 (the event happened)" in str(error)


def test_ids_that_were_stored_as_numbers_are_refused(tmp_path):
    pd.DataFrame({"case_id": [7, 8]}).to_parquet(tmp_path / "cases.parquet")
    with pytest.raises(SchemaError) as caught:
        read_cases(tmp_path / "cases.parquet")
    assert str(caught.value) == (
        "SchemaError: column 'case_id' of table 'cases' holds int64 numbers, expected text ('007' and '7' are two "
        "ids). Write it as text."
    )


def test_several_problems_raise_the_first_and_count_the_others(tmp_path):
    path = write(tmp_path, "case_id,age_years,sex\nA,old,x\n")
    with pytest.raises(
        SchemaError, match=r"case 'A' has age_years 'old'.*\(1 more: `histobook doctor .*` lists them all\.\)"
    ):
        read_cases(path)


def test_tables_of_another_kind_are_refused(tmp_path):
    with pytest.raises(SchemaError, match=r"table 'cases.xlsx' ends in '.xlsx', expected .csv, .tsv or .parquet"):
        read_table(write(tmp_path, "x", "cases.xlsx"))
    with pytest.raises(SchemaError, match=r"table 'cases.parquet' cannot be read as parquet"):
        read_table(write(tmp_path, "x", "cases.parquet"))


def test_slides_need_a_file_or_features():
    problems = check_slides(pd.DataFrame({"slide_id": ["S1"], "case_id": ["A"]}, dtype=object))[1]
    assert str(problems[0]) == (
        "SchemaError: table 'slides' has neither 'path' (a slide file) nor 'features_path' (stored features); "
        "found slide_id, case_id. Add one of them."
    )


def test_a_slide_of_an_unknown_case_is_named(tmp_path):
    path = write(tmp_path, "slide_id,case_id,path,kind\nS1,A,a.svs,dx\nS2,Z,b.svs,TS\n", "slides.csv")
    with pytest.raises(
        SchemaError, match=r"slide 'S2' of table 'slides' belongs to case 'Z', which is not among the 1 cases"
    ):
        read_slides(path, case_ids=["A"])
    assert read_slides(path)["kind"].tolist() == ["DX", "TS"]


def test_an_impossible_resolution_and_a_duplicate_slide_are_named():
    table = pd.DataFrame(
        {"slide_id": ["S", "S"], "case_id": ["A", "A"], "path": ["a", "b"], "mpp": ["0.25", "0"]}, dtype=object
    )
    texts = [str(problem) for problem in check_slides(table)[1]]
    assert any("slide 'S' has mpp '0', expected a number of um per px from 0.01 to 100" in text for text in texts)
    assert any("slide 'S' occurs 2 times in table 'slides' (rows 1 and 2)" in text for text in texts)


def long_table(**columns: list[object]) -> pd.DataFrame:
    base = {"case_id": ["A", "B"], "gene": ["MKI67", "MKI67"], "value": ["1.5", "2"], "unit": ["log2", "log2"]}
    return pd.DataFrame({**base, **columns}, dtype=object)


def test_expression_passes_as_numbers(tmp_path):
    long_table().to_csv(tmp_path / "expression.csv", index=False)
    assert read_expression(tmp_path / "expression.csv")["value"].tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"value": ["1.5", None]}, "case 'B' has value an empty cell, expected a finite number. Correct the cell."),
        ({"value": ["1.5", "high"]}, "case 'B' has value 'high', expected a finite number"),
        ({"value": ["1.5", "inf"]}, "case 'B' has value 'inf', expected a finite number"),
        (
            {"unit": ["log2", "counts"]},
            "case 'B' has unit 'counts', expected one of log2, rsem, tpm, fpkm, cp10k, count",
        ),
        ({"unit": ["log2", "rsem"]}, "gene 'MKI67' of table 'expression' comes in log2 and rsem, expected one unit"),
        ({"unit": ["tpm", "tpm"], "value": ["1", "-2"]}, "case 'B' has MKI67 = -2 tpm, expected 0 or more"),
        ({"case_id": ["A", "A"]}, "case 'A / MKI67' occurs 2 times in table 'expression' (rows 1 and 2)"),
    ],
)
def test_each_wrong_expression_value_is_its_own_error(columns, text):
    assert text in str(check_expression(long_table(**columns))[1][0])


def test_wide_expression_is_recognised():
    wide = pd.DataFrame({"case_id": ["A"], **{f"G{i}": ["1"] for i in range(5)}}, dtype=object)
    text = str(check_expression(wide)[1][0])
    assert "table 'expression' has no column 'gene' but 6 columns: it looks wide" in text


def test_spots_and_their_expression_pass_their_gates(tmp_path):
    write(tmp_path, "slide_id,spot_id,x_l0,y_l0,diameter_um\nS1,10x14,5.5,-1,100\n", "spots.csv")
    write(tmp_path, "slide_id,spot_id,gene,value,unit\nS1,10x14,FASN,3,count\n", "spot_expression.csv")
    assert read_spots(tmp_path / "spots.csv").loc[0, "y_l0"] == -1.0
    assert read_spot_expression(tmp_path / "spot_expression.csv").loc[0, "value"] == 3.0


def test_a_spot_without_a_size_is_named(tmp_path):
    path = write(tmp_path, "slide_id,spot_id,x_l0,y_l0,diameter_um\nS1,10x14,5,1,0\n", "spots.csv")
    with pytest.raises(SchemaError, match=r"spot '10x14' has diameter_um '0', expected a positive number of um"):
        read_spots(path)
