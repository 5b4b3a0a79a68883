"""The importers on the real files, against what is known of them."""

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest

from helpers.cohort.genes import widen_expression
from helpers.cohort.imports.her2st import import_her2st
from helpers.cohort.imports.metabric import import_metabric
from helpers.cohort.imports.tcga_brca import import_tcga_brca
from helpers.cohort.outcomes import select_outcome
from helpers.cohort.raw import RawCohort


@pytest.fixture(scope="module")
def tcga(shared_data) -> RawCohort:
    return import_tcga_brca(shared_data / "tcga_brca")


@pytest.fixture(scope="module")
def metabric(shared_data) -> RawCohort:
    return import_metabric(shared_data / "metabric")


def fit_hazard_ratio(cases: pd.DataFrame, endpoint: str, x: pd.Series, horizon_months: float | None = None) -> float:
    """Hazard ratio of one covariate by lifelines, the plain way."""
    from lifelines import CoxPHFitter

    outcome = select_outcome(cases, endpoint)
    time, event = outcome["time_months"], outcome["event"]
    if horizon_months is not None:
        event, time = event & (time <= horizon_months), time.clip(upper=horizon_months)
    table = pd.DataFrame({"time": time, "event": event, "x": outcome["case_id"].map(x).astype(float)})
    return float(CoxPHFitter().fit(table, "time", "event").hazard_ratios_["x"])


def test_tcga_has_683_cases_with_features_and_expression(tcga):
    assert len(tcga.cases) == 683
    assert len(tcga.slides) == 689
    assert tcga.cases["case_id"].is_unique
    assert len(tcga.expression) == 683 * 50
    lost = [loss.reason for loss in tcga.flows[0].losses]
    assert {reason: lost.count(reason) for reason in lost} == {
        "no RNA expression": 3,
        "no stored features of a diagnostic slide": 37,
    }


@pytest.mark.parametrize(
    ("endpoint", "n", "n_events"),
    [("pfi_or_death", 679, 158), ("pfi", 679, 108), ("dfi", 590, 63), ("os", 679, 126)],
)
def test_tcga_endpoints_have_the_known_counts(tcga, endpoint, n, n_events):
    outcome = select_outcome(tcga.cases, endpoint)
    assert (outcome["time_months"] > 0).sum() == n, "cases with follow-up; those at time 0 are kept beside them"
    assert outcome["event"].sum() == n_events
    assert outcome.attrs["n_time_zero"] == len(outcome) - n


def test_fifty_tcga_deaths_are_censored_by_the_progression_free_interval(tcga):
    cases = tcga.cases
    assert int((cases["os_event"] & ~cases["pfi_event"]).sum()) == 50
    assert tcga.facts["PFI events in retrospectively collected tissue"] == "92 of 108"


def test_metabric_join_equals_the_oracle(metabric, shared_data):
    oracle = pd.read_csv(shared_data / "metabric" / "DERIVED_metabric_ihc4_joined.csv").set_index("PATIENT_ID")
    cases = metabric.cases.set_index("case_id")
    assert len(cases) == 1904
    assert set(cases.index) == set(oracle.index)
    oracle = oracle.loc[cases.index]
    wide = widen_expression(metabric.expression, case_ids=cases.index)
    for gene in ("EGFR", "PGR", "ERBB2", "MKI67"):
        np.testing.assert_allclose(wide[gene], oracle[gene], rtol=1e-6)
    np.testing.assert_allclose(cases["os_time_months"], oracle["time_months"], rtol=1e-6)
    assert (cases["os_event"].astype(int) == oracle["event"]).all()
    assert (cases["er"] == oracle["ER_STATUS"].map({"+": "positive", "-": "negative"})).all()
    assert (cases["her2"] == oracle["HER2_STATUS"].map({"+": "positive", "-": "negative"})).all()
    assert (cases["grade"].astype(float).fillna(-1) == oracle["GRADE"].fillna(-1)).all()


def test_metabric_gene_order_agrees_with_biology(metabric):
    wide = widen_expression(metabric.expression, case_ids=metabric.cases["case_id"]).reset_index(drop=True)
    cases = metabric.cases
    assert (
        wide.loc[cases["her2"] == "positive", "ERBB2"].mean()
        > wide.loc[cases["her2"] == "negative", "ERBB2"].mean() + 1.5
    )
    assert wide.loc[cases["pr"] == "positive", "PGR"].mean() > wide.loc[cases["pr"] == "negative", "PGR"].mean() + 1
    spearman = pd.concat([cases["grade"].astype(float), wide["MKI67"]], axis=1).dropna().corr("spearman").iloc[0, 1]
    assert spearman == pytest.approx(0.385, abs=0.0005)


def test_metabric_counts_events_losses_and_oddities(metabric):
    rfs, dss, os = (select_outcome(metabric.cases, name) for name in ("rfs", "dss", "os"))
    assert (rfs["event"] & (rfs["time_months"] <= 120)).sum() == 859
    assert (dss["event"] & (dss["time_months"] <= 120)).sum() == 500
    assert (len(os), os["event"].sum()) == (1904, 1103)
    assert rfs.attrs["losses"] == {"MB-5130": "rfs: unknown status"}
    assert rfs.attrs["n_time_zero"] == 3
    assert len(metabric.facts["relapse-free time more than a month beyond the end of follow-up (kept)"]) == 5


def test_metabric_hazard_ratios_are_the_known_ones(metabric):
    mki67 = widen_expression(metabric.expression, genes=["MKI67"])["MKI67"]
    high = mki67 > mki67.median()
    assert fit_hazard_ratio(metabric.cases, "os", mki67) == pytest.approx(1.385, abs=0.005)
    assert fit_hazard_ratio(metabric.cases, "rfs", high, 120) == pytest.approx(1.544, abs=0.005)
    assert fit_hazard_ratio(metabric.cases, "dss", high, 120) == pytest.approx(2.179, abs=0.005)


def test_one_altered_event_gives_another_hazard_ratio(metabric, shared_data, tmp_path):
    folder = tmp_path / "metabric"
    shutil.copytree(shared_data / "metabric", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    with h5py.File(folder / "metabric_IHC4_clinical_train_test.h5", "r+") as file:
        first = int(np.flatnonzero(file["train/e"][:] == 1)[0])
        file["train/e"][first] = 0
    altered = import_metabric(folder)
    mki67 = widen_expression(metabric.expression, genes=["MKI67"])["MKI67"]
    before, after = (fit_hazard_ratio(cohort.cases, "os", mki67) for cohort in (metabric, altered))
    assert abs(before - after) > 1e-5
    assert altered.facts["vital status of cBioPortal differs from DeepSurv's event (DeepSurv's used)"] == 1


def test_tcga_hazard_ratios_of_the_measured_score_are_the_known_ones(tcga):
    from helpers.cohort.genes import score_signature

    score = score_signature(widen_expression(tcga.expression), genes="prolif11")
    high = score > score.median()
    known = {"pfi_or_death": 1.56, "pfi": 2.12, "dfi": 2.76, "os": 1.49}
    found = {name: round(fit_hazard_ratio(tcga.cases, name, high), 2) for name in known}
    assert found == pytest.approx(known, abs=0.035), (
        "the known ones cut some endpoints at the median of their own cases"
    )


@pytest.mark.slow
def test_her2st_sections_become_slides_and_six_spots_have_no_counts(shared_data, tmp_path):
    import openslide

    cohort = import_her2st(shared_data / "her2st", slides_dir=tmp_path, workers=2)
    assert cohort.slides["slide_id"].tolist() == ["B4", "C2", "C3", "C4"]
    assert cohort.cases["case_id"].tolist() == ["B", "C"]
    assert {loss.item for loss in cohort.flows[-1].losses} == {
        "B4/18x20", "C3/13x9", "C3/17x14", "C4/11x17", "C4/17x14", "C4/18x20",
    }  # fmt: skip
    assert len(cohort.spots) == 834
    for name in ("B4", "C2", "C3", "C4"):
        with openslide.OpenSlide(tmp_path / f"{name}.tif") as slide:
            assert 0.68 < float(slide.properties["openslide.mpp-x"]) < 0.69
            assert slide.level_count == 3
            right, bottom = cohort.spots.loc[cohort.spots["slide_id"] == name, ["x_l0", "y_l0"]].max()
            assert right < slide.dimensions[0]
            assert bottom < slide.dimensions[1]
    depth = cohort.spots.groupby("slide_id")["n_umi"].median()
    assert depth["C2"] / depth["B4"] > 10, "B4 is an order of magnitude shallower"
