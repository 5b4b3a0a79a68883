"""Targets that are no RNA label: receptors, a mutation, grade, an event within a time."""

import numpy as np
import pandas as pd
import pytest

from helpers.cohort.binary_targets import make_binary_target, make_binary_targets
from helpers.core.errors import SchemaError


def make_cases() -> pd.DataFrame:
    return pd.DataFrame({
        "case_id": list("abcdef"), "er": ["positive", "negative", None, "positive", "negative", "positive"],
        "grade": pd.array([1, 3, 2, None, 3, 3], dtype="Int64"), "her2": ["negative"] * 6,
        "pfi_time_months": [10.0, 80.0, 30.0, 60.0, 59.0, np.nan],
        "pfi_event": pd.array([True, True, False, False, True, pd.NA], dtype="boolean"),
    })  # fmt: skip


def test_receptors_and_grade_are_coded_and_unknown_stays_unknown() -> None:
    assert make_binary_target(make_cases(), "er").tolist()[:2] == [1, 0]
    assert np.isnan(make_binary_target(make_cases(), "er")["c"])
    assert make_binary_target(make_cases(), "grade3").dropna().to_dict() == {"a": 0, "b": 1, "c": 0, "e": 1, "f": 1}


def test_an_event_counts_within_the_time_and_who_was_lost_before_is_unknown() -> None:
    found = make_binary_target(make_cases(), "pfi_60")
    assert found.to_dict() == pytest.approx({"a": 1, "b": 0, "c": np.nan, "d": 0, "e": 1, "f": np.nan}, nan_ok=True)


def test_mutations_come_from_the_omics_table_under_either_name() -> None:
    omics = pd.DataFrame(
        {"case_id": list("abc"), "kind": "mutation", "feature": "MUT_TP53", "value": [1.0, 0.0, 1.0], "unit": "binary"}
    )
    assert make_binary_target(make_cases(), "tp53_mutated", omics=omics)["a"] == 1
    assert make_binary_target(make_cases(), "tp53_mutated", omics=omics.replace("MUT_TP53", "TP53"))["b"] == 0
    assert make_binary_target(make_cases(), "tp53_mutated") is None


def test_what_a_cohort_has_not_is_left_out_with_a_reason() -> None:
    targets, absent = make_binary_targets(make_cases(), ["er", "her2", "pr", "grade3", "pfi_60"], min_cases=2)
    assert list(targets) == ["er", "grade3", "pfi_60"]
    assert set(absent) == {"her2", "pr"}
    assert make_binary_targets(make_cases(), ["er"], min_cases=3)[1]["er"] == "3 positives of 5; 3 of each are needed"
    with pytest.raises(SchemaError, match="target 'colour' is unknown; expected er, pr"):
        make_binary_target(make_cases(), "colour")
