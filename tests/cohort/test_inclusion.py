"""Flow and inclusion: nobody leaves without a reason."""

import pytest

from helpers.cohort.flow import CohortFlow
from helpers.cohort.imports.tables import import_tables
from helpers.cohort.inclusion import include_cases
from helpers.core.errors import SchemaError
from helpers.core.specs import CohortSpec


def build(folder, **rules):
    return include_cases(import_tables(folder), CohortSpec.from_values({"cohort": "tables", **rules}))


def test_a_flow_counts_who_stays_and_names_who_leaves():
    flow = CohortFlow("listed", ["a", "b", "c", "d"])
    assert flow.keep("measured", {"b": "no RNA", "z": "not here"}) == ["a", "c", "d"]
    assert flow.keep("read", {"c": "cut file", "d": "cut file"}) == ["a"]
    assert [(loss.item, loss.step, loss.reason) for loss in flow.losses] == [
        ("b", "measured", "no RNA"), ("c", "read", "cut file"), ("d", "read", "cut file"),
    ]  # fmt: skip
    table = flow.to_table()
    assert table[["n_before", "n_lost", "n_after"]].to_numpy().tolist() == [[4, 0, 4], [4, 1, 3], [3, 2, 1]]


def test_a_flow_as_json_holds_every_loss_by_name():
    flow = CohortFlow("listed", ["a", "b"])
    flow.keep("measured", {"b": "no RNA"})
    content = flow.to_json()
    assert (content["n_start"], content["n_end"]) == (2, 1)
    assert content["losses"] == [{"item": "b", "step": "measured", "reason": "no RNA"}]


def test_without_rules_everybody_stays(own_folder):
    cohort = build(own_folder)
    assert len(cohort.cases) == len(cohort.slides) == 6
    assert cohort.flows[0].losses == []


def test_each_rule_is_a_step_with_its_reasons(own_folder):
    cohort = build(own_folder, sex="female", stages=["I", "II", "III"], exclude_neoadjuvant=True)
    assert [(loss.item, loss.reason) for loss in cohort.flows[0].losses] == [
        ("003", "sex male"), ("002", "stage IV"), ("005", "treated before surgery"),
    ]  # fmt: skip
    assert cohort.cases["case_id"].tolist() == ["001", "004", "006"]


def test_unknown_values_pass_unless_asked_otherwise(own_folder):
    strict = build(own_folder, stages=["I", "II", "III"], exclude_neoadjuvant=True, keep_unknown=False)
    reasons = {loss.item: loss.reason for loss in strict.flows[0].losses}
    assert reasons == {
        "002": "stage IV", "004": "stage unknown", "005": "treated before surgery", "006": "treated before surgery unknown",
    }  # fmt: skip


def test_slides_and_expression_follow_their_cases(own_folder):
    cohort = build(own_folder, sex="female")
    assert set(cohort.slides["case_id"]) == set(cohort.cases["case_id"])
    assert set(cohort.expression["case_id"]) <= set(cohort.cases["case_id"])
    assert [(loss.item, loss.reason) for loss in cohort.flows[1].losses] == [("S3", "case excluded")]


def test_what_a_case_must_have_is_a_rule(own_folder):
    cohort = build(own_folder, require=["expression", "slides"])
    assert [(loss.item, loss.reason) for loss in cohort.flows[0].losses] == [("006", "no expression")]


def test_a_rule_on_an_absent_column_is_an_error(own_folder):
    path = own_folder / "cases.csv"
    path.write_text(path.read_text().replace("neoadjuvant", "nact"))
    with pytest.raises(SchemaError, match="inclusion asks for 'neoadjuvant', which the case table has not"):
        build(own_folder, exclude_neoadjuvant=True)


def test_rules_that_leave_nobody_are_an_error(own_folder):
    with pytest.raises(
        SchemaError, match=r"no case of 6 passes the inclusion rules \(stage 0: 0 left, lost 2 stage II, .+\)\. Loosen"
    ):
        build(own_folder, stages=["0"], keep_unknown=False)
