"""Small raw folders in other people's layouts, written by hand."""

from pathlib import Path

import numpy as np
import pytest

METABRIC_PATIENTS = [
    # id, age, os months, status, cohort, subtype
    ("MB-0001", 61.5, 120.0, "0:LIVING", "1", "LumA"),
    ("MB-0002", 48.25, 36.5, "1:DECEASED", "2", "Basal"),
    ("MB-0003", 70.0, 80.0, "1:DECEASED", "2", "NC"),
    ("MB-0004", 55.0, 0.0, "0:LIVING", "3", "LumB"),
    ("MB-0005", 66.0, 200.0, "0:LIVING", "3", "LumB"),
]
METABRIC_RELAPSE = {
    # id: relapse months, relapse status, vital status
    "MB-0001": ("90.5", "Recurred", "Living"),
    "MB-0002": ("40", "Recurred", "Died of Disease"),
    "MB-0003": ("79", "Not Recurred", "Died of Other Causes"),
    "MB-0004": ("0", "", ""),
    "MB-0005": ("197", "Not Recurred", "Living"),
}


def write_metabric(folder: Path, *, order: tuple[int, ...] = (2, 0, 3, 1)) -> Path:
    """Write four DeepSurv rows of five patients; the patient file has CR-only line ends, as the real one."""
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    genes = np.array([[5.0, 6.0, 10.0, 5.5], [5.1, 5.2, 12.5, 6.4], [5.2, 6.1, 10.1, 5.9], [5.3, 6.3, 10.3, 5.7]])
    rows = [np.r_[genes[i], 1, 0, 1, 1, METABRIC_PATIENTS[i][1]] for i in order]
    with h5py.File(folder / "metabric_IHC4_clinical_train_test.h5", "w") as file:
        for split, part in (("train", slice(0, 3)), ("test", slice(3, 4))):
            chosen = [METABRIC_PATIENTS[i] for i in order[part]]
            file[f"{split}/x"] = np.array(rows[part], dtype=np.float32)
            file[f"{split}/t"] = np.array([p[2] for p in chosen], dtype=np.float32)
            file[f"{split}/e"] = np.array([p[3].startswith("1") for p in chosen], dtype=np.int32)
    header = "PATIENT_ID\tOS_MONTHS\tOS_STATUS\tCOHORT\tAGE_AT_DIAGNOSIS\tCLAUDIN_SUBTYPE"
    lines = ["#Patient\tMonths\tStatus\tCohort\tAge\tSubtype", header]
    lines += [f"{p[0]}\t{p[2]}\t{p[3]}\t{p[4]}\t{p[1]}\t{p[5]}" for p in METABRIC_PATIENTS]
    (folder / "cbioportal_data_clinical_patient.txt").write_bytes("\r".join(lines).encode())
    sample = "SAMPLE_ID\tPATIENT_ID\tGRADE\tTUMOR_SIZE\tTUMOR_STAGE\tER_STATUS\tHER2_STATUS\tPR_STATUS\tONCOTREE_CODE"
    lines = [sample, *(f"{p[0]}\t{p[0]}\t2\t21.5\t2\t+\t-\t\tIDC" for p in METABRIC_PATIENTS)]
    (folder / "cbioportal_data_clinical_sample.txt").write_text("\n".join(lines) + "\n")
    names = "Patient ID,Sex,Lymph nodes examined positive,Relapse Free Status (Months),Relapse Free Status,Patient's Vital Status"
    lines = [names, *(f"{i},Female,1,{','.join(v)}" for i, v in METABRIC_RELAPSE.items())]
    (folder / "kaggle_Breast_Cancer_METABRIC.csv").write_bytes("\r\n".join([*lines, ""]).encode())
    return folder


def write_tcga(folder: Path) -> Path:
    """Write five patients: one without RNA, one without features, one whose PFI is a death without tumour."""
    (folder / "features_hipt" / "pt_files").mkdir(parents=True)
    header = (
        "bcr_patient_barcode\tage_at_initial_pathologic_diagnosis\tgender\trace\tajcc_pathologic_tumor_stage\t"
        "histological_type\tinitial_pathologic_dx_year\tER Status\tPR Status\tHER2 Final Status\t"
        "OS\tOS.time\tDSS\tDSS.time\tDFI\tDFI.time\tPFI\tPFI.time"
    )
    tail = "\tFEMALE\tWHITE\t{stage}\tIDC\t2010\t{er}\tPositive\tNegative\t{ends}"
    people = {
        "TCGA-A1-0001": ("61", "Stage IIA", "Positive", "0\t365.25\t0\t365.25\t0\t365.25\t0\t365.25"),
        "TCGA-A1-0002": ("48", "Stage X", "Negative", "1\t730.5\t0\t730.5\t\t\t0\t700"),
        "TCGA-BH-0003": ("70", "Stage IV", "Indeterminate", "1\t900\t1\t900\t1\t300\t1\t300"),
        "TCGA-BH-0004": ("52", "Stage I", "Positive", "0\t0\t0\t0\t0\t0\t0\t0"),
        "TCGA-BH-0005": ("55", "Stage I", "Positive", "0\t10\t0\t10\t0\t10\t0\t10"),
    }
    lines = [f"{i}\t{age}{tail.format(stage=s, er=er, ends=ends)}" for i, (age, s, er, ends) in people.items()]
    (folder / "clinical_cdr.tsv").write_text("\n".join([header, *lines]) + "\n")
    atlas = [
        "Patient ID", "Subtype", "Neoadjuvant Therapy Type Administered Prior To Resection Text",
        "American Joint Committee on Cancer Tumor Stage Code",
        "Neoplasm Disease Lymph Node Stage American Joint Committee on Cancer Code",
        "Tissue Retrospective Collection Indicator",
    ]  # fmt: skip
    rows = ["TCGA-A1-0001\tBRCA_LumA\tNo\tT2\tN0\tYes", "TCGA-A1-0002\tBRCA_Basal\tYes\tT2\tN1\tNo",
            "TCGA-BH-0003\tBRCA_LumB\tNo\tT4\tN1\tYes"]  # fmt: skip
    (folder / "clinical_pancancer_atlas.tsv").write_text("\n".join(["\t".join(atlas), *rows]) + "\n")
    (folder / "labels_rorp_pam50.csv").write_text(
        "STUDYID,SLIDEID,ror_p_score_div100,PAM50_Subtype_4x\nTCGA-A1-0001,s1,0.2,LumA\nTCGA-A1-0001,s2,0.2,LumA\n"
    )
    (folder / "expression_pam50_rsem.csv").write_text(
        "PATIENT_ID,MKI67,BIRC5\n" + "".join(f"{i},{100 + n},7\n" for n, i in enumerate(list(people)[:4]))
    )
    (folder / "tissue_source_sites.csv").write_text("TSS Code;Source Site\nA1;UCSF\nBH;Pittsburgh\n")
    for name in ("TCGA-A1-0001-01Z-00-DX1.u1", "TCGA-A1-0001-01Z-00-DX2.u2", "TCGA-A1-0002-01Z-00-DX1.u3",
                 "TCGA-BH-0003-01Z-00-DX1.u4", "TCGA-BH-0005-01Z-00-DX1.u5"):  # fmt: skip
        (folder / "features_hipt" / "pt_files" / f"{name}.pt").write_bytes(b"tensor")
    return folder


@pytest.fixture
def metabric_folder(tmp_path: Path) -> Path:
    """Five patients, four of them in the expression file."""
    return write_metabric(tmp_path / "metabric")


@pytest.fixture
def tcga_folder(tmp_path: Path) -> Path:
    """Five patients, three with RNA and features."""
    return write_tcga(tmp_path / "tcga")


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A cohort in the book's own layout: six cases at two sites."""
    folder = tmp_path / "own"
    (folder / "slides").mkdir(parents=True)
    (folder / "cases.csv").write_text(
        "case_id,site,sex,stage,neoadjuvant,pfi_time_months,pfi_event,os_time_months,os_event\n"
        "001,A,female,IIA,no,10,1,40,0\n"
        "002,A,female,IV,no,20,0,20,1\n"
        "003,A,male,I,no,30,0,30,0\n"
        "004,B,female,,no,40,0,40,0\n"
        "005,B,female,II,yes,50,0,50,0\n"
        "006,B,female,III,,60,1,70,1\n"
    )
    (folder / "slides.csv").write_text(
        "slide_id,case_id,path,mpp\n" + "".join(f"S{i},00{i},slides/S{i}.svs,0.5\n" for i in range(1, 7))
    )
    for i in range(1, 7):
        (folder / "slides" / f"S{i}.svs").write_bytes(b"slide")
    rows = [f"00{i},{gene},{4 + i + n},log2\n" for i in range(1, 6) for n, gene in enumerate(("MKI67", "BIRC5"))]
    (folder / "expression.csv").write_text("case_id,gene,value,unit\n" + "".join(rows))
    return folder


SCANB_AGE = "Age (5-year range, e.g., 35(31-35), 40(36-40), 45(41-45) etc.)"


def write_scanb(folder: Path, *, n: int = 14) -> Path:
    """Write a dozen patients and two libraries outside the follow-up cohort, in the layout of SCANB.9206."""
    from helpers.cohort.genes import read_signature

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(94)
    header = ["Follow.up.cohort", "GEX.assay", "Patient", SCANB_AGE, "ER", "PR", "HER2", "NHG", "Size.mm", "LN.spec"]
    header += ["InvCa.type", "TreatGroup", "SSP.PAM50", "OS_days", "OS_event", "RFi_days", "RFi_event"]
    lines = [",".join(f'"{name}"' if "," in name else name for name in header)]
    for i in range(n):
        died, recurred = i % 3 == 0, i % 2 == 0
        row = [
            "TRUE" if i < n - 2 else "FALSE",
            f"S{i:06d}.l.r.m.c.lib.g.k2.a.t",
            f"P{min(i, n - 2):04d}",
            40 + 5 * (i % 7),
        ]
        row += ["Positive" if i % 4 else "Negative", "Positive" if i % 5 else "NA", "Negative" if i % 3 else "Positive"]
        row += [
            ["1", "2", "3", "NA"][i % 4],
            12 + i,
            ["N0", "SubMicroMet", "1to3", "4toX"][i % 4],
            "Ductal",
            "Endo",
            "LumA",
        ]
        row += [1500 + 10 * i, int(died), 900 + 10 * i if recurred else 1500 + 10 * i, int(recurred)]
        lines.append(",".join(map(str, row)))
    (folder / "SCANB.9206.csv").write_text("\n".join(lines) + "\n")
    libraries = [f"S{i:06d}.l.r.m.c.lib.g.k2.a.t" for i in range(n)]
    symbols = ["TSPAN6", *read_signature("prolif11"), "ESR1", "MKI67"]  # one symbol in two rows
    rows = ["\t".join(["", *libraries])]
    rows += ["\t".join([symbol, *(f"{value:.4f}" for value in rng.lognormal(1.5, 0.6, n))]) for symbol in symbols]
    (folder / "SCANB.9206.genematrix_noNeg.Symbol.txt").write_text("\n".join(rows) + "\n")
    return folder
