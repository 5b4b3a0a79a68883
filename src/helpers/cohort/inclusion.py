"""Who is in the study: the rules of the spec, applied one by one, each loss with its reason."""

from dataclasses import replace
from typing import Any

import pandas as pd

from helpers.cohort.flow import CohortFlow, find_exclusions
from helpers.cohort.raw import RawCohort
from helpers.cohort.tables import group_stages
from helpers.core.errors import SchemaError
from helpers.core.specs import CohortSpec


def include_cases(cohort: RawCohort, spec: CohortSpec) -> RawCohort:
    """Apply the inclusion rules of the spec; slides, expression, spots and omics follow their cases.

    Parameters
    ----------
    cohort : RawCohort
    spec : CohortSpec
        `sex`, `stages`, `exclude_neoadjuvant`, `keep_unknown`, `require`.

    Returns
    -------
    RawCohort
        The flows carry one step per rule that is in force.

    Raises
    ------
    SchemaError
        When a rule needs a column that the cohort has not, or no case is left.
    """
    flow = cohort.flows[0]
    for step, reasons in list_rules(cohort, spec):
        flow.keep(step, reasons)
    if not flow.n:
        steps = "; ".join(_describe_step(step) for step in flow.steps)
        msg = f"SchemaError: no case of {flow.n_start} passes the inclusion rules ({steps}). Loosen them"
        msg += " (sex, stages, exclude_neoadjuvant, keep_unknown, require), or check the tables."
        raise SchemaError(msg)
    return follow_cases(cohort, flow)


def _describe_step(step: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in step["reasons"].items())
    return f"{step['step']}: {step['n_after']} left" + (f", lost {reasons}" if reasons else "")


def list_rules(cohort: RawCohort, spec: CohortSpec) -> list[tuple[str, dict[str, str]]]:
    """List the rules in force and whom each would send away.

    Parameters
    ----------
    cohort : RawCohort
    spec : CohortSpec

    Returns
    -------
    list of (str, dict)
        The step in words, and case_id to reason.
    """
    cases, keep = cohort.cases, spec.keep_unknown
    rules: list[tuple[str, dict[str, str]]] = []
    if spec.sex is not None:
        rules.append((spec.sex, find_exclusions(cases, "sex", allowed=[spec.sex], label="sex", keep_unknown=keep)))
    if spec.stages is not None:
        staged = cases.assign(stage=group_stages(cases["stage"])) if "stage" in cases else cases
        reasons = find_exclusions(staged, "stage", allowed=spec.stages, label="stage", keep_unknown=keep)
        rules.append((f"stage {', '.join(spec.stages)}", reasons))
    if spec.exclude_neoadjuvant:
        reasons = find_exclusions(
            cases, "neoadjuvant", allowed=[False], label="treated before surgery", keep_unknown=keep
        )
        rules.append(("no treatment before surgery", reasons))
    tables = {"expression": cohort.expression, "slides": cohort.slides}
    for name in spec.require:
        table = tables[name]
        present: set[str] = set() if table is None else set(table["case_id"])
        rules.append((f"with {name}", {c: f"no {name}" for c in cases["case_id"] if c not in present}))
    return rules


def follow_cases(cohort: RawCohort, flow: CohortFlow) -> RawCohort:
    """Reduce every table to the cases that are left.

    Parameters
    ----------
    cohort : RawCohort
    flow : CohortFlow
        Of the cases.

    Returns
    -------
    RawCohort
    """
    kept = set(flow.items)
    cases = _pick(cohort.cases, "case_id", kept)
    slides, flows = cohort.slides, cohort.flows
    if slides is not None:
        gone = slides.loc[~slides["case_id"].isin(kept), "slide_id"]
        for other in flows:
            if other.kind == "slide" and len(gone):
                other.keep("case included", dict.fromkeys(gone, "case excluded"))
        slides = _pick(slides, "case_id", kept)
    spots, spot_expression = cohort.spots, cohort.spot_expression
    if slides is not None and spots is not None:
        spots = _pick(spots, "slide_id", set(slides["slide_id"]))
    if slides is not None and spot_expression is not None:
        spot_expression = _pick(spot_expression, "slide_id", set(slides["slide_id"]))
    expression = None if cohort.expression is None else _pick(cohort.expression, "case_id", kept)
    omics = None if cohort.omics is None else _pick(cohort.omics, "case_id", kept)
    return replace(
        cohort,
        cases=cases,
        slides=slides,
        expression=expression,
        spots=spots,
        spot_expression=spot_expression,
        omics=omics,
    )


def _pick(table: pd.DataFrame, column: str, kept: set[str]) -> pd.DataFrame:
    return table[table[column].isin(kept)].reset_index(drop=True)
