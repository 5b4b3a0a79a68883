"""Table 1, endpoints and folds, counted by hand on eight patients."""

import pandas as pd
import pytest

from helpers.cohort.summary import (
    count_folds,
    count_outcomes,
    count_under_observation,
    describe_cases,
    name_splits,
)
from helpers.cohort.tables import check_cases
from helpers.core.errors import SplitError


@pytest.fixture
def cases() -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "case_id": [f"P{i}" for i in range(1, 9)],
            "site": ["A", "A", "A", "B", "B", "B", "X", "X"],
            "age_years": ["40", "50", "60", "70", None, "50", "80", "90"],
            "stage": ["I", "IIA", "IIB", "IIIC", None, "II", "I", "I"],
            "er": ["+", "+", "-", "+", "+", "+", "-", "-"],
            "os_time_months": ["0", "12", "24", "36", "48", "60", "130", None],
            "os_event": ["0", "1", "0", "1", None, "0", "1", None],
        },
        dtype=object,
    )
    clean, problems = check_cases(table)
    assert not problems
    return clean


@pytest.fixture
def splits() -> pd.DataFrame:
    rows = [(0, fold, f"P{i}", "test" if (i > 3) == bool(fold) else "train") for fold in (0, 1) for i in range(1, 7)]
    rows += [(0, -1, "P7", "external"), (0, -1, "P8", "external")]
    return pd.DataFrame(rows, columns=["repeat", "fold", "case_id", "role"])


def test_every_case_has_one_split(cases, splits):
    assert name_splits(cases, splits).tolist() == ["development"] * 6 + ["external"] * 2
    assert set(name_splits(cases, None)) == {"development"}


def test_a_case_in_no_split_is_named(cases, splits):
    with pytest.raises(SplitError, match=r"case 'P8' is in no split \(1 such cases\)"):
        name_splits(cases, splits[splits["case_id"] != "P8"])


def test_table_one_by_hand(cases, splits):
    table = describe_cases(cases, by=name_splits(cases, splits)).set_index(["characteristic", "level"])
    assert list(table.columns) == ["All", "development", "external"]
    assert table.loc[("Cases", "")].tolist() == ["8", "6", "2"]
    assert table.loc[("Age, years", "median (quartiles)"), "development"] == "50 (50–60)"
    assert table.loc[("Age, years", "not known")].tolist() == ["1", "1", "0"]
    assert table.loc[("Stage", "II"), "development"] == "3 (60 %)", "per cent of the five whose stage is known"
    assert table.loc[("ER", "negative")].tolist() == ["3 (38 %)", "1 (17 %)", "2 (100 %)"]


def test_outcomes_by_hand(cases):
    row = count_outcomes(cases).set_index("endpoint").loc["os"]
    assert (row["n"], row["n_events"], row["n_censored"], row["n_unknown"], row["n_time_zero"]) == (6, 3, 3, 2, 1)
    assert (row["n_events_60"], row["n_events_120"]) == (2, 2)
    assert row["follow_up_months"] == 24.0


def test_under_observation_falls_from_all_to_none(cases):
    counts = count_under_observation(cases, step_months=12)
    assert counts["n_at_risk"].tolist()[:4] == [6, 5, 4, 3]
    assert counts["n_at_risk"].is_monotonic_decreasing
    assert counts["n_at_risk"].iloc[-1] == 0
    assert counts["n_events"].iloc[-1] == 3


def test_folds_are_counted_by_site(cases, splits):
    counts = count_folds(cases, splits, site_column="site")
    assert counts.to_numpy().tolist() == [["external", "X", 2], ["fold 0", "A", 3], ["fold 1", "B", 3]]
    assert count_folds(cases, splits, site_column=None)["site"].unique().tolist() == ["all"]
