"""The planted answer to a hazard ratio of a phantom cohort; only scoreboard rows are made of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from helpers.cohort.tables import read_table
from helpers.core import paths, provenance
from helpers.core.errors import PhantomError, StatsError
from helpers.core.provenance import Run
from helpers.core.specs import PhantomSpec
from helpers.stats.follow_up import Z95
from helpers.stats.survival_plan import select_population


@dataclass(frozen=True)
class PlantedTruth:
    """What a phantom's hazard ratios answer to.

    Parameters
    ----------
    phantom : PhantomSpec
    estimands : dict
        Content of `truth/estimands.json`.
    cases_truth : DataFrame
        Planted latent and log covariates by case_id.
    correlations : dict of str to float
        Spearman's correlation of image and RNA score by target, at which the image's truth is read off.
    """

    phantom: PhantomSpec
    estimands: dict[str, Any]
    cases_truth: pd.DataFrame
    correlations: dict[str, float]


def read_truth(run: Run, *, correlations: dict[str, float]) -> PlantedTruth | None:
    """Read the planted truth beside the slides of a phantom.

    Parameters
    ----------
    run : Run
        Records what is read.
    correlations : dict of str to float
        Spearman's correlation of image and RNA score by target.

    Returns
    -------
    PlantedTruth or None
        None where the cohort is no phantom.

    Raises
    ------
    StatsError
        When the truth that lies there belongs to another phantom.
    """
    from helpers.phantom.estimands import compute_estimand_key

    folder = run.upstream("00")
    made = (provenance.read_run(folder) or {})["spec"]
    if made["cohort"] != "phantom":
        return None
    slides = folder / "cohort" / "slides.parquet"
    raw = paths.cohorts_dir() / run.profile_dir.name
    if slides.is_file():
        raw = paths.resolve(read_table(slides)["path"].iloc[0]).parents[1]
    estimands: dict[str, Any] = paths.read_json(run.read_input(raw / "truth" / "estimands.json"))
    phantom = PhantomSpec.from_values(made["phantom"])
    if estimands["key"] != compute_estimand_key(phantom, n=phantom.n_estimand):
        msg = (
            f"StatsError: the truth in '{paths.shorten(raw)}' (key {estimands['key'][:12]}) belongs to another phantom "
            "than the one chapter 00 read. Run chapter 00 again."
        )
        raise StatsError(msg)
    cases_truth = pd.read_csv(run.read_input(raw / "truth" / "cases_truth.csv"), dtype={"case_id": str})
    return PlantedTruth(phantom, estimands, cases_truth, correlations)


def compare_with_truth(
    result: dict[str, Any], truth: PlantedTruth, *, cases: pd.DataFrame, scores: pd.DataFrame
) -> dict[str, Any]:
    """Stand one hazard ratio beside the truth of the same estimand.

    All cases, RNA: the tabulated Monte-Carlo truth. All cases, image: the attenuation curve at the correlation that
    the image reached. A subgroup: the ratio that this very score would have in these very cases, were they followed
    over and over.

    Parameters
    ----------
    result : dict
        Row of `estimate_analyses`.
    truth : PlantedTruth
    cases : DataFrame
    scores : DataFrame
        The scores the result was estimated from.

    Returns
    -------
    dict
        Fields of a scoreboard row: kind, source, and reference, reference_low, reference_high (Monte-Carlo interval)
        and holds (the 95 % interval contains the truth) where the estimand exists.
    """
    try:
        found, source = _find_truth(result, truth, cases, scores)
    except PhantomError as error:
        return {"kind": "planted", "source": str(error).removeprefix("PhantomError: ")}
    holds = bool(result["ci_low"] <= found["hr"] <= result["ci_high"])
    row = {"kind": "planted", "source": source, "reference": found["hr"], "holds": holds}
    if "mc_se" in found:  # a value read off the attenuation curve has no Monte-Carlo error of its own
        half = Z95 * found["mc_se"]
        row["reference_low"], row["reference_high"] = (float(np.exp(found["log_hr"] + sign * half)) for sign in (-1, 1))
    return row


def _find_truth(
    result: dict[str, Any], truth: PlantedTruth, cases: pd.DataFrame, scores: pd.DataFrame
) -> tuple[dict[str, Any], str]:
    from helpers.phantom.estimands import find_estimand, interpolate_image_estimand

    asked = {name: result[name] for name in ("endpoint", "scale", "adjustment")}
    asked["horizon_months"] = None if pd.isna(result["horizon_months"]) else result["horizon_months"]
    if result["population"] != "all":
        return _follow_again(result, truth, cases, scores, asked), "these cases followed over and over"
    if result["measured"] == "rna":
        return find_estimand(truth.estimands, score=result["target"], **asked), "truth/estimands.json"
    rho = truth.correlations.get(result["target"], float("nan"))
    found = interpolate_image_estimand(truth.estimands, spearman=rho, measured=result["target"], **asked)
    return found, f"truth/estimands.json, attenuated to the observed Spearman {rho:.3f} of image and RNA"


def _follow_again(
    result: dict[str, Any], truth: PlantedTruth, cases: pd.DataFrame, scores: pd.DataFrame, asked: dict[str, Any]
) -> dict[str, Any]:
    from helpers.phantom.estimands import compute_cohort_estimand

    mine = scores[(scores["target"] == result["target"]) & (scores["measured"] == result["measured"])]
    inside = cases[select_population(cases, result["population"])]
    table = inside.merge(mine[["case_id", "score"]].dropna(), on="case_id", validate="one_to_one")
    planted = truth.cases_truth.set_index("case_id").loc[table["case_id"]].reset_index()
    cutoff, sd = (None if pd.isna(result[name]) else float(result[name]) for name in ("cutoff", "sd"))
    score = table["score"].to_numpy()
    return compute_cohort_estimand(truth.phantom, planted, table, score, cutoff=cutoff, sd=sd, **asked)
