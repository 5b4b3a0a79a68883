"""`histobook doctor`: all problems of a folder at once."""

from helpers.cohort.doctor import check_folder, describe_folder, detect_layout


def test_a_sound_folder_is_counted(own_folder):
    assert check_folder(own_folder) == []
    text = describe_folder(own_folder)
    assert "cases: 6" in text
    assert "pfi: 6 cases, 2 events, 0 without it, 0 at time 0" in text
    assert "slides: 6" in text
    assert text.endswith("0 problems found")


def test_every_problem_is_listed_at_once(own_folder):
    cases = own_folder / "cases.csv"
    cases.write_text(cases.read_text().replace("40,0\n002", "-40,Unknown\n002") + "001,A,female,I,no,1,0,1,0\n")
    slides = own_folder / "slides.csv"
    slides.write_text(slides.read_text() + "S9,009,slides/S9.svs,0\n")
    expression = own_folder / "expression.csv"
    expression.write_text(expression.read_text() + "001,MKI67,high,log2\n")
    text = describe_folder(own_folder)
    for expected in (
        "case '001' occurs 2 times in table 'cases'",
        "case '001' has os_time_months -40",
        "case '001' has unknown vital status 'Unknown'",
        "slide 'S9' has mpp '0'",
        "slide 'S9' of table 'slides' belongs to case '009'",
        "slide 'S9' names the file 'slides/S9.svs', which does not exist",
        "case '001' has value 'high', expected a finite number",
    ):
        assert expected in text
    assert text.endswith("7 problems found")


def test_a_cut_table_does_not_hide_the_others(own_folder):
    cases = own_folder / "cases.csv"
    cases.write_text(cases.read_text()[:-20])
    (own_folder / "slides" / "S2.svs").unlink()
    texts = [str(problem) for problem in check_folder(own_folder)]
    assert any("The file ends in mid-row" in text for text in texts)
    assert any("slide 'S2' names the file" in text for text in texts)


def test_layouts_are_told_apart(own_folder, metabric_folder, tcga_folder, tmp_path):
    assert detect_layout(own_folder) == "tables"
    assert detect_layout(metabric_folder) == "metabric"
    assert detect_layout(tcga_folder) == "tcga_brca_features"
    assert check_folder(metabric_folder) == check_folder(tcga_folder) == []


def test_an_incomplete_raw_folder_names_what_is_missing(metabric_folder):
    (metabric_folder / "kaggle_Breast_Cancer_METABRIC.csv").unlink()
    assert "lacks 'kaggle_Breast_Cancer_METABRIC.csv'" in describe_folder(metabric_folder)


def test_nothing_there_says_so(tmp_path):
    assert "does not exist. Check the path." in describe_folder(tmp_path / "no")
    assert "holds no cases.csv or cases.parquet" in describe_folder(tmp_path)


def test_the_real_folders_are_sound(shared_data):
    for name in ("metabric", "tcga_brca", "her2st"):
        assert check_folder(shared_data / name) == []


def test_a_table_under_a_name_that_is_not_read_is_a_problem(own_folder):
    for old, new in (("slides.csv", "Slides.csv"), ("expression.csv", "expression.xlsx")):
        (own_folder / old).rename(own_folder / new)
    text = describe_folder(own_folder)
    assert "holds 'Slides.csv', which is not read, expected 'slides.parquet', 'slides.csv'" in text
    assert "holds 'expression.xlsx', which is not read" in text
    assert text.endswith("2 problems found")


def test_the_text_formats_that_are_read_are_all_found(own_folder):
    cases = own_folder / "cases.csv"
    (own_folder / "cases.txt").write_text(cases.read_text().replace(",", "\t"))
    cases.unlink()
    assert check_folder(own_folder) == []


def test_expression_of_other_ids_is_a_problem(own_folder):
    path = own_folder / "expression.csv"
    path.write_text("case_id,gene,value,unit\n001-01A,MKI67,1,log2\n")
    text = describe_folder(own_folder)
    assert (
        "none of the 1 case ids of table 'expression' is in table 'cases'; found '001-01A', expected ids such" in text
    )


def test_expression_is_counted_with_its_unit_and_range(own_folder):
    path = own_folder / "expression.csv"
    path.write_text("case_id,gene,value,unit\n001,MKI67,1,tpm\n999,MKI67,12.5,tpm\n")
    text = describe_folder(own_folder)
    assert "expression: 1 of 6 cases, 1 genes, tpm from 1 to 12.5" in text
    assert "expression of 1 cases that are not listed, first '999': left out" in text
    assert "prolif11 cannot be scored. GeneError: gene 'BIRC5' is not among the 1 genes" in text
    assert "MKI67 cannot" not in text
