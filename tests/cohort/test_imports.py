"""Other people's tables, on small folders written by hand."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.imports import import_cohort
from helpers.cohort.imports.her2st import check_sections, import_her2st
from helpers.cohort.imports.metabric import import_metabric
from helpers.cohort.imports.tables import import_tables
from helpers.cohort.imports.tcga_brca import import_tcga_brca
from helpers.cohort.outcomes import select_outcome
from helpers.core.errors import DuplicateError, OutcomeError, SchemaError
from helpers.core.specs import CohortSpec

from .conftest import write_metabric


def test_metabric_rows_find_their_patients_by_age_and_follow_up(metabric_folder):
    cohort = import_metabric(metabric_folder)
    mki67 = cohort.expression[cohort.expression["gene"] == "MKI67"].set_index("case_id")["value"]
    assert mki67.round(3).to_dict() == {"MB-0001": 5.5, "MB-0002": 6.4, "MB-0003": 5.9, "MB-0004": 5.7}
    assert cohort.cases["case_id"].tolist() == ["MB-0003", "MB-0001", "MB-0004", "MB-0002"], "DeepSurv's order"
    assert set(cohort.expression["unit"]) == {"log2"}


def test_metabric_order_of_rows_changes_nothing(metabric_folder, tmp_path):
    one = import_metabric(metabric_folder).cases.sort_values("case_id", ignore_index=True)
    two = import_metabric(write_metabric(tmp_path / "other", order=(3, 2, 1, 0))).cases
    pd.testing.assert_frame_equal(
        one.drop(columns="deepsurv_split"),
        two.sort_values("case_id", ignore_index=True).drop(columns="deepsurv_split"),
    )


def test_metabric_endpoints_by_hand(metabric_folder):
    cases = import_metabric(metabric_folder).cases.set_index("case_id")
    assert cases.loc["MB-0001", ["rfs_time_months", "rfs_event", "dss_event"]].tolist() == [90.5, True, False]
    assert cases.loc["MB-0002", ["rfs_time_months", "rfs_event", "dss_event"]].tolist() == [40.0, True, True]
    assert cases.loc["MB-0003", ["rfs_time_months", "rfs_event", "dss_event"]].tolist() == [80.0, True, False]
    assert cases["os_time_months"].loc["MB-0004"] == 0.0


def test_metabric_unknown_relapse_is_a_named_loss_and_never_an_event(metabric_folder):
    cases = import_metabric(metabric_folder).cases
    assert select_outcome(cases, "rfs").attrs["losses"] == {"MB-0004": "rfs: unknown status"}
    assert select_outcome(cases, "dss").attrs["losses"] == {"MB-0004": "dss: unknown status"}


def test_metabric_oddities_are_counted_and_losses_named(metabric_folder):
    cohort = import_metabric(metabric_folder)
    assert cohort.facts["relapse-free time more than a month beyond the end of follow-up (kept)"] == ["MB-0002"]
    assert cohort.facts["time 0 (kept)"] == ["MB-0004"]
    assert [(loss.item, loss.reason) for loss in cohort.flows[0].losses] == [
        ("MB-0005", "no row in the expression file")
    ]


def test_metabric_row_without_a_patient_is_an_error(metabric_folder):
    path = metabric_folder / "cbioportal_data_clinical_patient.txt"
    path.write_bytes(path.read_bytes().replace(b"48.25", b"48.99"))
    with pytest.raises(
        SchemaError, match=r"DeepSurv row 3 \(age 48\.25, 36\.50 months\) fits 0 patients, expected one"
    ):
        import_metabric(metabric_folder)


def test_metabric_row_of_two_patients_is_an_error(metabric_folder):
    path = metabric_folder / "cbioportal_data_clinical_patient.txt"
    path.write_bytes(path.read_bytes() + b"\rMB-0099\t36.5\t1:DECEASED\t2\t48.25\tLumA")
    with pytest.raises(SchemaError, match=r"fits 2 patients, expected one \(1 such rows\)"):
        import_metabric(metabric_folder)


def test_missing_files_are_named_all_at_once(metabric_folder):
    (metabric_folder / "cbioportal_data_clinical_patient.txt").unlink()
    (metabric_folder / "metabric_IHC4_clinical_train_test.h5").unlink()
    with pytest.raises(SchemaError) as caught:
        import_metabric(metabric_folder)
    assert "lacks 'metabric_IHC4_clinical_train_test.h5', 'cbioportal_data_clinical_patient.txt'" in str(caught.value)
    assert "`histobook fetch metabric` fills such a folder." in str(caught.value)


def test_a_broken_expression_file_is_named(metabric_folder):
    (metabric_folder / "metabric_IHC4_clinical_train_test.h5").write_bytes(b"no hdf5")
    with pytest.raises(
        SchemaError, match=r"'metabric_IHC4_clinical_train_test.h5' cannot be read as the DeepSurv file"
    ):
        import_metabric(metabric_folder)


def test_tcga_cases_need_rna_and_features_and_every_loss_is_named(tcga_folder):
    cohort = import_tcga_brca(tcga_folder)
    assert cohort.cases["case_id"].tolist() == ["TCGA-A1-0001", "TCGA-A1-0002", "TCGA-BH-0003"]
    assert {loss.item: loss.reason for loss in cohort.flows[0].losses} == {
        "TCGA-BH-0004": "no stored features of a diagnostic slide",
        "TCGA-BH-0005": "no RNA expression",
    }
    assert {loss.item: loss.reason for loss in cohort.flows[1].losses} == {
        "TCGA-BH-0005-01Z-00-DX1.u5": "patient: no RNA expression"
    }


def test_tcga_slides_carry_features_and_a_case_may_have_two(tcga_folder):
    slides = import_tcga_brca(tcga_folder).slides
    assert slides["case_id"].value_counts().to_dict() == {"TCGA-A1-0001": 2, "TCGA-A1-0002": 1, "TCGA-BH-0003": 1}
    assert all(Path(path).is_file() for path in slides["features_path"])


def test_tcga_site_is_characters_six_and_seven_of_the_barcode(tcga_folder):
    cases = import_tcga_brca(tcga_folder).cases
    assert cases["site"].tolist() == ["A1", "A1", "BH"]
    assert cases["centre"].tolist() == ["UCSF", "UCSF", "Pittsburgh"]


def test_tcga_endpoints_are_in_months_and_progression_or_death_counts_deaths(tcga_folder):
    cases = import_tcga_brca(tcga_folder).cases.set_index("case_id")
    assert cases.loc["TCGA-A1-0001", "os_time_months"] == 12.0
    died = cases.loc["TCGA-A1-0002"]
    assert not died["pfi_event"]
    assert died["pfi_or_death_event"]
    assert died["pfi_or_death_time_months"] == 24.0
    assert cases.loc["TCGA-BH-0003", "pfi_or_death_time_months"] == pytest.approx(300 / 30.4375)
    assert pd.isna(died["dfi_event"])


def test_tcga_words_that_say_nothing_become_missing_and_are_counted(tcga_folder):
    cohort = import_tcga_brca(tcga_folder)
    cases = cohort.cases.set_index("case_id")
    assert cases["stage"].tolist() == ["IIA", None, "IV"]
    assert cases["er"].tolist() == ["positive", "negative", None]
    assert cases["subtype"].tolist() == ["LumA", "Basal", "LumB"]
    assert cases["neoadjuvant"].tolist() == [False, True, False]
    assert cohort.facts["stage: words set to missing"] == {"Stage X": 1}
    assert cohort.facts["ER Status: words set to missing"] == {"Indeterminate": 1}
    assert cohort.facts["PFI events in retrospectively collected tissue"] == "1 of 1"


def test_tcga_patient_twice_is_an_error(tcga_folder):
    path = tcga_folder / "expression_pam50_rsem.csv"
    path.write_text(path.read_text() + "TCGA-A1-0001,1,1\n")
    with pytest.raises(DuplicateError, match="patient 'TCGA-A1-0001' occurs twice in 'expression_pam50_rsem.csv'"):
        import_tcga_brca(tcga_folder)


def test_tcga_negative_days_are_an_error(tcga_folder):
    path = tcga_folder / "clinical_cdr.tsv"
    path.write_text(path.read_text().replace("0\t365.25\t0\t365.25\t0\t365.25", "0\t-30.4375\t0\t1\t0\t1"))
    with pytest.raises(OutcomeError, match="case 'TCGA-A1-0001' has os_time_months -1, expected 0 or more months"):
        import_tcga_brca(tcga_folder)


def test_own_tables_are_read_with_paths_that_start_at_the_folder(own_folder):
    cohort = import_tables(own_folder)
    assert cohort.cases["case_id"].tolist() == ["001", "002", "003", "004", "005", "006"]
    assert all(Path(path).is_file() for path in cohort.slides["path"])
    assert cohort.facts == {"pfi_or_death": "built from pfi and os"}
    assert int(cohort.cases["pfi_or_death_event"].sum()) == 3


def test_own_tables_in_two_formats_are_ambiguous(own_folder):
    pd.DataFrame({"case_id": ["1"]}).to_parquet(own_folder / "cases.parquet")
    with pytest.raises(SchemaError, match=r"holds cases\.parquet and cases\.csv, expected one of them"):
        import_tables(own_folder)


def test_a_folder_without_cases_says_what_to_add(tmp_path):
    with pytest.raises(SchemaError, match=r"holds no cases\.csv or cases\.parquet, expected one row per case"):
        import_tables(tmp_path)


def test_an_absent_folder_names_the_remedies(tmp_path):
    spec = CohortSpec.from_values({"cohort": "tables"})
    with pytest.raises(
        SchemaError, match=r"does not exist\. Fetch or copy the cohort there, or name its folder with DATA="
    ):
        import_cohort(spec, tmp_path / "no", slides_dir=tmp_path)


def test_extra_slides_are_cases_of_their_own(own_folder):
    (own_folder / "more").mkdir()
    (own_folder / "more" / "CMU-1.svs").write_bytes(b"x")
    spec = CohortSpec.from_values({"cohort": "tables", "extra_slides": ["more/CMU-1.svs"]})
    cohort = import_cohort(spec, own_folder, slides_dir=own_folder)
    assert cohort.cases["case_id"].tolist()[-1] == "CMU-1"
    assert cohort.slides.iloc[-1][["slide_id", "case_id"]].tolist() == ["CMU-1", "CMU-1"]
    assert [flow.n_start for flow in cohort.flows] == [7, 7]


def test_an_absent_or_known_extra_slide_is_an_error(own_folder):
    absent = CohortSpec.from_values({"cohort": "tables", "extra_slides": ["no.svs"]})
    with pytest.raises(SchemaError, match=r"extra slide '.*no\.svs' does not exist"):
        import_cohort(absent, own_folder, slides_dir=own_folder)
    known = CohortSpec.from_values({"cohort": "tables", "extra_slides": ["slides/S1.svs"]})
    with pytest.raises(DuplicateError, match=r"extra slide 'S1' has the name of another slide or case"):
        import_cohort(known, own_folder, slides_dir=own_folder)


@pytest.fixture
def her2st_folder(tmp_path) -> Path:
    """One section, 640 x 512 px, spots 100 px apart in x and 110 px in y, one of them without counts."""
    import imagecodecs

    folder = tmp_path / "her2st"
    for name in ("images", "spots", "counts", "labels"):
        (folder / name).mkdir(parents=True)
    image = np.full((512, 640, 3), 230, np.uint8)
    image[:, :320] = (180, 90, 150)
    (folder / "images" / "D1_test_HE.jpg").write_bytes(imagecodecs.jpeg8_encode(image, level=95))
    spots = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"]
    spots += [f"{x}\t{y}\t{x}\t{y}\t{100 * x + 20}\t{110 * y + 30}\t1" for x in range(1, 5) for y in range(1, 4)]
    spots += ["9\t9\t9\t9\t920\t1020\t0"]
    (folder / "spots" / "D1_selection.tsv").write_text("\n".join(spots) + "\n")
    names = [f"{x}x{y}" for x in range(1, 5) for y in range(1, 4)][:-1]
    counts = ["\tFASN\tGNAS", *(f"{name}\t{i}\t{2 * i}" for i, name in enumerate(names))]
    (folder / "counts" / "D1.tsv.gz").write_bytes(gzip.compress(("\n".join(counts) + "\n").encode()))
    labels = ["\tids\tlabel\tx\ty", "a\tD1\t5\t1\t2"]
    (folder / "labels" / "D1-cluster-annotation.tsv.gz").write_bytes(gzip.compress(("\n".join(labels) + "\n").encode()))
    return folder


def test_a_section_becomes_a_slide_whose_resolution_comes_from_the_spots(her2st_folder, tmp_path):
    import openslide

    cohort = import_her2st(her2st_folder, slides_dir=tmp_path / "slides", workers=1)
    with openslide.OpenSlide(tmp_path / "slides" / "D1.tif") as slide:
        assert slide.dimensions == (640, 512)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(200 / np.sqrt(100 * 110), rel=1e-5)
    facts = cohort.facts["resolution (um per px) from the spot pitch of 200 um"]["D1"]
    assert facts == {"mpp": 1.9069, "pitch_x_px": 100.0, "pitch_y_px": 110.0}
    assert cohort.cases["case_id"].tolist() == ["D"]


def test_a_selected_spot_without_counts_is_lost_by_name_and_zeros_are_left_out(her2st_folder, tmp_path):
    cohort = import_her2st(her2st_folder, slides_dir=tmp_path / "slides", workers=1)
    flow = cohort.flows[-1]
    assert (flow.n_start, flow.n) == (12, 11)
    assert [(loss.item, loss.reason) for loss in flow.losses] == [("D1/4x3", "no counts")]
    spots = cohort.spots.set_index("spot_id")
    assert spots.loc["1x2", ["x_l0", "y_l0", "n_umi", "label"]].tolist() == [120.0, 250.0, 3, "5"]
    assert len(cohort.spot_expression) == 20, "the first spot has no counts of either gene"
    assert cohort.spot_expression["value"].sum() == spots["n_umi"].sum()


def test_a_section_without_its_counts_is_named(her2st_folder):
    (her2st_folder / "counts" / "D1.tsv.gz").unlink()
    with pytest.raises(SchemaError, match=r"lacks 'counts/D1\.tsv\.gz', expected spots and counts of section 'D1'"):
        check_sections(her2st_folder)


def test_positions_of_another_photograph_are_refused(her2st_folder):
    path = her2st_folder / "spots" / "D1_selection.tsv"
    table = pd.read_csv(path, sep="\t")
    table[["pixel_x", "pixel_y"]] /= 10
    table.to_csv(path, sep="\t", index=False)
    with pytest.raises(SchemaError, match=r"section 'D1' has a spot pitch of 10\.0 x 11\.0 px, expected 50 to 2000"):
        check_sections(her2st_folder)


def test_counts_that_are_no_counts_are_refused(her2st_folder):
    (her2st_folder / "counts" / "D1.tsv.gz").write_bytes(gzip.compress(b"\tFASN\n1x1\t0.5\n"))
    with pytest.raises(SchemaError, match=r"counts 'D1\.tsv\.gz' hold something else than whole numbers"):
        check_sections(her2st_folder)


def test_a_photograph_cut_in_the_middle_is_named(her2st_folder, tmp_path):
    path = her2st_folder / "images" / "D1_test_HE.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SchemaError, match=r"photograph 'D1_test_HE\.jpg' cannot be decoded"):
        import_her2st(her2st_folder, slides_dir=tmp_path / "slides", workers=1)
    assert not (tmp_path / "slides" / "D1.tif").exists()


def test_the_layout_of_a_copied_folder_is_found_by_the_spec(metabric_folder, tmp_path):
    shutil.copytree(metabric_folder, tmp_path / "copy")
    spec = CohortSpec.from_values({"cohort": "metabric"})
    assert len(import_cohort(spec, tmp_path / "copy", slides_dir=tmp_path).cases) == 4
