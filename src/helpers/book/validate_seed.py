"""One phantom cohort through the helpers of chapters 00 to 04, everything measured once, beside what was planted."""

import itertools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.book.params import build_spec, collect_values, find_notebook, read_parameters, read_profile
from helpers.cohort.genes import widen_expression
from helpers.cohort.imports import import_cohort
from helpers.cohort.inclusion import include_cases
from helpers.cohort.raw import RawCohort
from helpers.cohort.splits import plan_splits
from helpers.core import paths
from helpers.core.errors import PhantomError, RunError
from helpers.core.provenance import compute_key, hash_helpers, list_versions
from helpers.core.specs import CohortSpec, FeatureSpec, PhantomSpec, ProliferationSpec, SurvivalSpec, TilingSpec
from helpers.features.extract import extract_cohort
from helpers.models.bags import Bags, read_bags
from helpers.models.controls import encode_clinical
from helpers.models.inputs import TILE_FILTERS, find_feature_files, make_measure, make_reader
from helpers.models.linear import predict_study
from helpers.models.study import ArmFolds, Study, predict_arms
from helpers.phantom.estimands import compute_cohort_estimand, find_estimand, interpolate_image_estimand
from helpers.phantom.generate import generate_cohort
from helpers.slides.tiling import tile_cohort
from helpers.stats.correlation import compute_spearman_columns
from helpers.stats.resampling import permute_within
from helpers.stats.survival_plan import estimate_analyses, plan_analyses
from helpers.stats.survival_scores import collect_prediction_scores


@dataclass(frozen=True)
class BookSpecs:
    """The specs of chapters 00 to 04 for one cohort.

    Attributes
    ----------
    cohort, tiling, features, proliferation, survival : Spec
    """

    cohort: CohortSpec
    tiling: TilingSpec
    features: FeatureSpec
    proliferation: ProliferationSpec
    survival: SurvivalSpec

    @property
    def phantom(self) -> PhantomSpec:
        """The planted cohort."""
        return self.cohort.phantom

    def compute_key(self) -> str:
        """Return what identifies a measured seed: specs, code and libraries.

        Returns
        -------
        str, 64 hex digits
        """
        chapters = (self.cohort, self.tiling, self.features, self.proliferation, self.survival)
        return compute_key([spec.key_fields() for spec in chapters], hash_helpers(), list_versions())


def plan_specs(profile: str, *, seed: int, slide_um: float | None = None) -> BookSpecs:
    """Return the specs of chapters 00 to 04 as a profile gives them, with another seed and slide size.

    Parameters
    ----------
    profile : str
    seed : int
    slide_um : float, optional

    Returns
    -------
    BookSpecs

    Raises
    ------
    RunError
        When the profile's cohort is no phantom.
    """
    chosen, specs = read_profile(profile), []
    for number in ("00", "01", "02", "03", "04"):
        notebook = find_notebook(number)
        declared = read_parameters(notebook)
        overrides: dict[str, Any] = {"seed": seed} if "seed" in declared else {}
        if number == "00" and slide_um is not None:
            overrides["phantom"] = {**chosen.chapters["00"].get("phantom", {}), "slide_um": slide_um}
        specs.append(build_spec(notebook, declared, collect_values(chosen, notebook, declared, overrides)))
    planned = BookSpecs(*specs)  # type: ignore[arg-type]
    if planned.cohort.cohort != "phantom":
        found = planned.cohort.cohort
        msg = f"RunError: the cohort of '{profile}' is '{found}', where nothing was planted. Use a phantom profile."
        raise RunError(msg)
    return planned


def measure_seed(
    specs: BookSpecs, estimands: dict[str, Any], *, folder: Path, workers: int = 2, keep_slides: bool = False
) -> dict[str, Any]:
    """Draw one cohort, run it through the helpers of chapters 00 to 04, and measure everything once.

    Parameters
    ----------
    specs : BookSpecs
    estimands : dict
        The planted truth; shared by all seeds.
    folder : Path
        Of this seed; holds measured.json, which is reused where its key is right.
    workers : int
    keep_slides : bool

    Returns
    -------
    dict
        Quantity to number.
    """
    key = specs.compute_key()
    stored = folder / "measured.json"
    if stored.is_file() and paths.read_json(stored)["key"] == key:
        return dict(paths.read_json(stored))
    began = time.perf_counter()
    raw = build_cohort(specs, estimands, folder=folder, workers=workers)
    features = describe_cases(specs, raw, folder=folder, workers=workers)
    found: dict[str, Any] = {"key": key, "seed": specs.phantom.seed, "n_slides": len(list_slides(raw))}
    found |= measure_predictions(specs, raw, features, estimands, folder=folder)
    found["seconds"] = round(time.perf_counter() - began, 1)
    paths.write_json(found, stored)
    if not keep_slides:
        for name in ("cohort", "01", "02"):
            shutil.rmtree(folder / name)
    return found


def build_cohort(specs: BookSpecs, estimands: dict[str, Any], *, folder: Path, workers: int) -> RawCohort:
    """Draw the cohort, and read it as chapter 00 does.

    Parameters
    ----------
    specs : BookSpecs
    estimands : dict
    folder : Path
    workers : int

    Returns
    -------
    RawCohort
    """
    paths.write_json(estimands, folder / "cohort" / "truth" / "estimands.json")
    source = generate_cohort(specs.phantom, folder / "cohort", workers=workers)
    imported = import_cohort(specs.cohort, source, slides_dir=folder / "made", workers=workers)
    return include_cases(imported, specs.cohort)


CaseBags = tuple[Bags, pd.Index]
"""The tiles of every case, and the cases."""


def describe_cases(specs: BookSpecs, raw: RawCohort, *, folder: Path, workers: int) -> dict[str, CaseBags]:
    """Tile the slides, extract the features and read them per case, as chapters 01 to 03 do.

    Parameters
    ----------
    specs : BookSpecs
    raw : RawCohort
    folder : Path
    workers : int

    Returns
    -------
    dict of str to (Bags, Index)
        By encoder, and for what chapter 03 reads, which may join several.
    """
    slides, first, second = list_slides(raw), folder / "01", folder / "02"
    tiles = tile_cohort(slides, specs.tiling, folder=first, ledger=first / "ledger.parquet", workers=workers)
    tiled = slides[slides["slide_id"].isin(tiles.loc[tiles["status"] != "failed", "slide_id"])]
    extract_cohort(
        tiled, specs.features, tiles_folder=first / "tiles", folder=second, ledger=second / "ledger.parquet",
        workers=workers,
    )  # fmt: skip
    names = dict.fromkeys([*specs.features.encoders, specs.proliferation.encoder])
    return {name: read_encoder(specs.proliferation, tiled, second / "features" / name) for name in names}


def list_slides(raw: RawCohort) -> pd.DataFrame:
    """Return the slide table of a cohort that must have one.

    Parameters
    ----------
    raw : RawCohort

    Returns
    -------
    DataFrame

    Raises
    ------
    RunError
        When the phantom was planned without slides.
    """
    if raw.slides is None or raw.expression is None:
        msg = "RunError: the phantom has no slides (render is off), so there is nothing to validate. Turn it on."
        raise RunError(msg)
    return raw.slides


def read_encoder(spec: ProliferationSpec, slides: pd.DataFrame, encoder_dir: Path) -> CaseBags:
    """Read the tiles that pass chapter 03's filters, per case.

    Parameters
    ----------
    spec : ProliferationSpec
    slides : DataFrame
        slide_id, case_id.
    encoder_dir : Path

    Returns
    -------
    bags : Bags
    cases : Index
    """
    filters = spec.model_dump(include=set(TILE_FILTERS))
    files = find_feature_files(slides[["slide_id", "case_id"]], encoder_dir=encoder_dir)
    return read_bags(files, make_reader(files, **filters))


def measure_predictions(
    specs: BookSpecs, raw: RawCohort, features: dict[str, CaseBags], estimands: dict[str, Any], *, folder: Path
) -> dict[str, float]:
    """Fit chapter 03's arms, judge them against the measured score and the latent, and carry out chapter 04's plan.

    Parameters
    ----------
    specs : BookSpecs
    raw : RawCohort
    features : dict of str to (Bags, Index)
    estimands : dict
    folder : Path

    Returns
    -------
    dict of str to float
    """
    spec, site = specs.proliferation, raw.cases.set_index("case_id")["site"]
    splits = plan_study(specs.cohort, raw.cases)
    measure = make_measure(widen_expression(raw.expression), targets=spec.targets, score_method=spec.score_method)
    study = Study(*features[spec.encoder], splits, site, spec.seed, spec.aggregation)
    controls = {"clinical_only": encode_clinical(raw.cases, spec.clinical_columns).loc[study.cases]}
    for name in set(features) - {spec.encoder}:
        bags, cases = features[name]
        controls[name] = pd.DataFrame(bags.pool(spec.aggregation), index=cases)
    predictions = {spec.encoder: predict_arms(study, measure, [spec.arm])[0]}
    predictions |= {name: predict_study(x, measure, splits, arm=name, groups=site)[0] for name, x in controls.items()}
    truth = pd.read_csv(folder / "cohort" / "truth" / "cases_truth.csv").set_index("case_id")
    found = measure_agreement(predictions, truth["latent"], estimands, declared=spec.encoder)
    first = ArmFolds(study, spec.arm)
    found |= measure_nulls(first, study.cases, measure(first.cases), site, spec)
    found |= measure_hazards(specs, raw.cases, predictions[spec.encoder], truth, estimands)
    return {name: round(float(value), 6) for name, value in found.items()}


def plan_study(spec: CohortSpec, cases: pd.DataFrame) -> pd.DataFrame:
    """Plan folds and the external site as chapter 00 does.

    Parameters
    ----------
    spec : CohortSpec
    cases : DataFrame

    Returns
    -------
    DataFrame
        splits.csv.
    """
    return plan_splits(
        cases, n_folds=spec.n_folds, repeats=spec.n_repeats, seed=spec.seed, site_column=spec.site_column,
        stratify=spec.stratify, internal_test_fraction=spec.internal_test_fraction,
        external_sites=spec.external_sites, val_fraction=spec.val_fraction, allow_fewer=spec.allow_fewer,
    )  # fmt: skip


def measure_agreement(
    predictions: dict[str, pd.DataFrame], latent: pd.Series, estimands: dict[str, Any], *, declared: str
) -> dict[str, float]:
    """Correlate predicted with measured scores and with the latent; external predictions are averaged over repeats.

    Parameters
    ----------
    predictions : dict of str to DataFrame
        By arm.
    latent : Series
        By case_id.
    estimands : dict
    declared : str
        The arm whose names carry no suffix.

    Returns
    -------
    dict of str to float
    """
    found: dict[str, float] = {}
    for arm, table in predictions.items():
        suffix = "" if arm == declared else f"_{arm}"
        means = table.groupby(["split", "target", "case_id"])[["y_true", "y_pred"]].mean().reset_index()
        for (split, target), rows in means.groupby(["split", "target"]):
            name = "oof" if split == "development" else split
            found[f"{name}/spearman{suffix}/{target}"] = rows["y_true"].corr(rows["y_pred"], "spearman")
            if arm == declared:
                known = rows["case_id"].map(latent)
                found[f"{name}/spearman_latent/{target}"] = known.corr(rows["y_pred"], "spearman")
                found[f"{name}/ceiling_here/{target}"] = known.corr(rows["y_true"], "spearman")
    suffixes = ["" if arm == declared else f"_{arm}" for arm in predictions]
    for target, ceiling in estimands["ceiling"].items():
        for name, suffix in itertools.product(("oof", "external"), suffixes):
            value = found[f"{name}/spearman{suffix}/{target}"]
            found[f"{name}/ratio_to_ceiling{suffix}/{target}"] = value / ceiling["spearman"]
    return found


def measure_nulls(
    folds: ArmFolds, cases: pd.Index, measured: pd.DataFrame, site: pd.Series, spec: ProliferationSpec
) -> dict[str, float]:
    """Permute development labels within site, refit every fold, and place what was observed in that null.

    Parameters
    ----------
    folds : ArmFolds
        Of repeat 0.
    cases : Index
        All cases with features.
    measured : DataFrame
        Targets of all cases.
    site : Series
    spec : ProliferationSpec

    Returns
    -------
    dict of str to float
        Observed minus the null's 99th percentile, and 1 or 0 for above or not, out of fold and external.
    """
    target, rng = spec.primary_target, np.random.default_rng(spec.seed)
    y = measured.loc[folds.cases, target].to_numpy(float)
    outside = cases.difference(folds.cases).intersection(measured.index)
    y_outside = measured.loc[outside, target].to_numpy(float)
    rows = permute_within(site.loc[folds.cases].to_numpy(), n_permutations=spec.n_permutations, rng=rng)
    labels = np.vstack([y, y[rows]]).T  # (n_cases, 1 + n_permutations); the first column is the truth
    models = folds.fit(labels)
    held_out = compute_spearman_columns(labels, folds.predict_held_out(models))
    predicted = folds.predict_outside(models, outside)
    external = compute_spearman_columns(np.repeat(y_outside[:, None], labels.shape[1], axis=1), predicted)
    found: dict[str, float] = {}
    for name, values in (("oof", held_out), ("external", external)):
        margin = values[0] - np.quantile(values[1:], 0.99)
        found |= {f"{name}/margin_over_null_q99/{target}": margin, f"{name}/above_null_q99/{target}": float(margin > 0)}
    return found


def measure_hazards(
    specs: BookSpecs, cases: pd.DataFrame, predictions: pd.DataFrame, truth: pd.DataFrame, estimands: dict[str, Any]
) -> dict[str, float]:
    """Carry out chapter 04's plan, and put each log hazard ratio beside the truth of the same estimand.

    Parameters
    ----------
    specs : BookSpecs
    cases : DataFrame
    predictions : DataFrame
        Of the declared arm.
    truth : DataFrame
        cases_truth, by case_id.
    estimands : dict

    Returns
    -------
    dict of str to float
        Per analysis: log_hr, log_hr_truth, log_hr_error, covered (the 95 % interval holds the truth).
    """
    spec = specs.survival
    scores = collect_prediction_scores(predictions, targets=spec.targets)
    plan = [item for item in plan_analyses(spec, measured=("image", "rna")) if item.population == "all"]
    results = estimate_analyses(plan, cases, scores, covariates=spec.covariates, quantile=spec.cutoff_quantile)
    found: dict[str, float] = {}
    for result in results[results["adjustment"] == "none"].to_dict("records"):
        log_truth = find_truth(specs.phantom, result, cases, scores, truth, estimands)
        name = f"{result['target']}_{result['measured']}/{result['endpoint']}"
        low, high = np.log(result["ci_low"]), np.log(result["ci_high"])
        found |= {
            f"log_hr/{name}": result["log_hr"],
            f"log_hr_truth/{name}": log_truth,
            f"log_hr_error/{name}": result["log_hr"] - log_truth,
            f"covered/{name}": float(low <= log_truth <= high),
        }
        if result["measured"] == "image":
            found |= measure_lookup(result, scores, log_truth, estimands, name=name)
    return found


def measure_lookup(
    result: dict[str, Any], scores: pd.DataFrame, log_truth: float, estimands: dict[str, Any], *, name: str
) -> dict[str, float]:
    """Compare the attenuation curve, which chapter 04 reads its truth from, with the truth of these very cases.

    Parameters
    ----------
    result : dict
        One row of `estimate_analyses`, of an image score.
    scores : DataFrame
    log_truth : float
        From `find_truth`.
    estimands : dict
    name : str

    Returns
    -------
    dict of str to float
        Curve minus truth; empty where the correlation lies off the curve.
    """
    wide = scores[scores["target"] == result["target"]].pivot(index="case_id", columns="measured", values="score")
    horizon = None if pd.isna(result["horizon_months"]) else float(result["horizon_months"])
    asked: dict[str, Any] = {"endpoint": result["endpoint"], "scale": result["scale"], "horizon_months": horizon}
    try:
        rho = float(wide["image"].corr(wide["rna"], "spearman"))
        curve = interpolate_image_estimand(estimands, spearman=rho, measured=result["target"], **asked)
    except PhantomError:
        return {}
    return {f"curve_minus_truth/{name}": curve["log_hr"] - log_truth}


def find_truth(
    phantom: PhantomSpec, result: dict[str, Any], cases: pd.DataFrame, scores: pd.DataFrame, truth: pd.DataFrame,
    estimands: dict[str, Any],
) -> float:  # fmt: skip
    """Return the true log hazard ratio of an analysis.

    A measured score has its Monte-Carlo truth. A predicted one carries errors of its own, so its truth is what this
    very score would show in these very cases, were their outcomes drawn over and over.

    Parameters
    ----------
    phantom : PhantomSpec
    result : dict
        One row of `estimate_analyses`.
    cases, scores, truth : DataFrame
    estimands : dict

    Returns
    -------
    float
    """
    horizon = None if pd.isna(result["horizon_months"]) else float(result["horizon_months"])
    asked: dict[str, Any] = {"endpoint": result["endpoint"], "scale": result["scale"], "horizon_months": horizon}
    if result["measured"] == "rna":
        return float(find_estimand(estimands, score=result["target"], **asked)["log_hr"])
    mine = scores.query("measured == 'image' and target == @result['target']").set_index("case_id")["score"]
    chosen = cases[cases["case_id"].isin(mine.index)]
    score = mine.loc[chosen["case_id"]].to_numpy(float)
    known = truth.loc[chosen["case_id"]]
    asked |= {"sd": float(result["sd"]), "cutoff": None if pd.isna(result["cutoff"]) else float(result["cutoff"])}
    return compute_cohort_estimand(phantom, known, chosen, score, **asked)["log_hr"]
