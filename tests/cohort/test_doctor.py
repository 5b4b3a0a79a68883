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
