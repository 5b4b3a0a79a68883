"""Specs: every parameter of a chapter in one frozen, checked object that travels whole.

A chapter's parameters cell holds plain literals; `Spec.from_namespace(globals())` picks its own fields out of them,
so a parameter cannot be declared and then forgotten on the way. What identifies a result is `key_fields()`: the
whole spec without its paths, because the same content in another folder is the same input.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Optional, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from helpers.core.errors import SpecError
from helpers.core.paths import resolve

RUN_PARAMETERS = ("profile_dir", "run_name", "data_dir", "shard", "workers", "device")
"""Parameters of a run, not of a result: where, by what name, on how many threads. Never part of a spec or a key."""


class PathMarker:
    """Marks a spec field as a path: its content is an input, its name is not part of the key."""


PathStr = Annotated[str, PathMarker()]
"""A path-valued parameter."""


class Spec(BaseModel):
    """Base of every spec: frozen, nothing unknown, NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
    chapter: ClassVar[str] = ""
    upstream: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_namespace(cls, namespace: dict[str, Any]) -> Self:
        """Build the spec from a chapter's variables.

        Parameters
        ----------
        namespace : dict
            `globals()` of the chapter, after the parameters cell.

        Returns
        -------
        Spec

        Raises
        ------
        SpecError
            When a parameter is missing or does not validate; every problem is listed.
        """
        return cls.from_values({name: namespace[name] for name in cls.model_fields if name in namespace})

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Build the spec from a dict, turning pydantic's complaint into ours.

        Parameters
        ----------
        values : dict

        Returns
        -------
        Spec

        Raises
        ------
        SpecError
            Lists every field that is unknown, of the wrong type or out of bounds.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SpecError(_describe(cls.__name__, error)) from None

    @classmethod
    def path_fields(cls) -> tuple[str, ...]:
        """Return the names of the fields that hold paths.

        Returns
        -------
        tuple of str
        """
        return tuple(name for name, field in cls.model_fields.items() if _is_path(field.annotation, field.metadata))

    def key_fields(self) -> dict[str, Any]:
        """Return what identifies the result: all fields but the paths, as JSON values.

        Returns
        -------
        dict
        """
        return self.model_dump(mode="json", exclude=set(self.path_fields()))

    def list_inputs(self, data_dir: str | Path | None = None) -> dict[str, Path]:
        """Return the files and folders that the spec names, whose content is part of the key.

        Parameters
        ----------
        data_dir : str or Path, optional
            Raw cohort folder; only the spec of chapter 00 reads it, and overrides this method to say so.

        Returns
        -------
        dict of str to Path
            By field name (and position, where a field holds several).
        """
        named: dict[str, Path] = {}
        for field in self.path_fields():
            value = getattr(self, field)
            values = value if isinstance(value, list | tuple) else [value]
            named |= {f"{field}[{i}]": resolve(path) for i, path in enumerate(values) if path is not None}
        return named


def _is_path(annotation: Any, metadata: list[Any]) -> bool:
    if any(isinstance(item, PathMarker) for item in metadata):
        return True
    nested = getattr(annotation, "__args__", ())
    return any(_is_path(item, list(getattr(item, "__metadata__", ()))) for item in nested)


def _describe(name: str, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or "(the spec as a whole)"
        found = "" if problem["type"] in {"missing", "value_error"} else f", found {problem['input']!r}"
        lines.append(f"  {field}: {problem['msg']}{found}")
    plural = "parameter does" if len(lines) == 1 else "parameters do"
    return f"SpecError: {len(lines)} {plural} not fit {name}:\n" + "\n".join(lines)


class AnalysisPlan(Spec):
    """What is declared before anything is fitted; it stands in the profile under `shared:`.

    One primary score, endpoint, population, scale, adjustment and horizon. Everything else a chapter tests is
    secondary (Holm) or exploratory.
    """

    primary_target: str = Field("prolif11", description="score that the primary analysis uses")
    primary_endpoint: Literal["os", "pfi", "pfi_or_death", "dfi", "dss", "rfs"] = Field(
        "rfs", description="endpoint of the primary analysis"
    )
    primary_population: Literal["all", "erpos_her2neg"] = Field("all", description="cases of the primary analysis")
    primary_scale: Literal["per_sd", "per_unit", "high_vs_low"] = Field(
        "per_sd", description="contrast of the primary hazard ratio"
    )
    primary_adjustment: Literal["none", "clinical"] = Field("none", description="covariates of the primary model")
    primary_horizon_months: Optional[float] = Field(None, gt=0, description="follow-up is cut here, months")


class PhantomSpec(Spec):
    """The phantom cohort: how many cases, what the slides look like, and which effects are planted.

    Every default was fixed before anything was fitted. Where the numbers come from is written beside the tables of
    `helpers.phantom.effects`; `histobook phantom` copies the spec to `truth/spec.json`.
    """

    n_cases: int = Field(100, ge=2, le=5_000_000, description="development cases, dealt to four sites")
    n_external: int = Field(50, ge=0, le=5_000_000, description="cases of the external site")
    seed: int = Field(20261, ge=0, le=2**31 - 1, description="root of every random stream of the cohort")
    render: bool = Field(True, description="False: tables and truth only, no slides")
    slide_um: float = Field(1500.0, ge=200.0, le=20_000.0, description="edge of a slide's square field, um")
    two_slide_fraction: float = Field(0.10, ge=0.0, le=1.0, description="share of cases with two slides")
    artefact_fraction: float = Field(0.20, ge=0.0, le=1.0, description="share of slides with pen, blur, fold or bubble")
    bad_slides: bool = Field(True, description="cut one slide in the middle and strip the mpp of another")
    site_shift_sd: float = Field(0.20, ge=0.0, le=2.0, description="case-mix shift of the latent between sites, SD")
    section_sd: float = Field(0.20, ge=0.0, le=2.0, description="slide's proliferation around the case's latent, SD")
    assay_sd: float = Field(0.45, ge=0.0, le=5.0, description="RNA noise shared by all genes, SD of the latent")
    log_hr_proliferation: float = Field(0.50, ge=-3.0, le=3.0, description="recurrence, per SD of the latent")
    log_hr_nodes: float = Field(0.45, ge=-3.0, le=3.0, description="recurrence, per ln(1 + positive nodes)")
    log_hr_size: float = Field(0.25, ge=-3.0, le=3.0, description="recurrence, per doubling of tumour size")
    log_hr_age: float = Field(-0.05, ge=-3.0, le=3.0, description="recurrence, per 10 years of age")
    recurrence_10y: float = Field(0.30, gt=0.0, lt=1.0, description="10-year recurrence of the reference case")
    weibull_shape: float = Field(0.90, ge=0.3, le=5.0, description="shape of the recurrence hazard; below 1 it falls")
    post_recurrence_months: float = Field(18.5, gt=0.0, description="median survival after recurrence, months")
    other_death_60: float = Field(0.007, ge=0.0, le=1.0, description="other-cause death at age 60, per year")
    other_death_slope: float = Field(0.09, ge=0.0, le=0.5, description="growth of other-cause death, per year of age")
    followup_min_months: float = Field(60.0, gt=0.0, description="shortest administrative follow-up, months")
    followup_max_months: float = Field(144.0, gt=0.0, description="longest administrative follow-up, months")
    dropout_per_year: float = Field(0.02, ge=0.0, le=1.0, description="rate of loss to follow-up, per year")
    n_null_genes: int = Field(40, ge=0, le=5_000, description="genes linked to nothing")
    n_null_omics: int = Field(25, ge=0, le=5_000, description="features linked to nothing, per kind of omics table")
    n_estimand: int = Field(1_000_000, ge=10_000, le=20_000_000, description="table cases of the Monte-Carlo truth")

    @model_validator(mode="after")
    def _check_followup(self) -> Self:
        if self.followup_max_months < self.followup_min_months:
            low, high = self.followup_min_months, self.followup_max_months
            msg = f"followup_max_months {high} is below followup_min_months {low}"
            raise ValueError(msg)
        return self


class CohortSpec(Spec):
    """Chapter 00: where the cases come from, who is included, and which case trains, chooses and tests."""

    chapter: ClassVar[str] = "00_build_cohort"

    cohort: Literal["phantom", "tables", "metabric", "scanb", "tcga_brca_features", "her2st", "shandiz"] = Field(
        "phantom", description="layout of the raw folder; 'phantom' is generated, 'tables' is the book's own layout"
    )
    phantom: PhantomSpec = Field(
        PhantomSpec(), description="the phantom cohort, where `cohort` is 'phantom'; its seed is `seed` unless given"
    )
    extra_slides: tuple[PathStr, ...] = Field(
        (), description="single slide files, each a case of its own; relative paths start at the raw folder"
    )
    sex: Optional[Literal["female", "male"]] = Field(None, description="include this sex only; null: all")
    stages: Optional[tuple[Literal["0", "I", "II", "III", "IV"], ...]] = Field(
        None, description="include these stages only; null: all"
    )
    exclude_neoadjuvant: bool = Field(False, description="exclude cases treated before surgery")
    keep_unknown: bool = Field(True, description="a case passes a rule whose value it does not state")
    require: tuple[Literal["expression", "slides"], ...] = Field((), description="what a case must have to stay")
    site_column: Optional[str] = Field("site", description="sites kept whole in a fold; null: folds by case")
    external_sites: tuple[str, ...] = Field((), description="sites that no fit and no choice ever sees")
    internal_test_fraction: float = Field(0.0, ge=0.0, lt=1.0, description="share of the other cases set aside, frozen")
    n_folds: int = Field(5, ge=0, le=50, description="folds of the development cases; 0: no splits are planned")
    n_repeats: int = Field(10, ge=1, le=1000, description="different partitions into folds")
    val_fraction: float = Field(0.15, ge=0.0, lt=1.0, description="share of each training part for inner choices")
    stratify: tuple[str, ...] = Field((), description="columns balanced over the internal test and the folds")
    allow_fewer: bool = Field(False, description="reduce folds and repeats to what whole sites allow")
    seed: int = Field(20261, ge=0, le=2**31 - 1, description="of the splits, and of the phantom")

    @model_validator(mode="before")
    @classmethod
    def _seed_phantom(cls, values: Any) -> Any:
        """Give the phantom the chapter's seed, unless it has its own."""
        if isinstance(values, dict) and "seed" in values and isinstance(values.get("phantom", {}), dict):
            return {**values, "phantom": {"seed": values["seed"], **values.get("phantom", {})}}
        return values

    @model_validator(mode="after")
    def _check_folds(self) -> Self:
        if self.n_folds == 1:
            msg = "n_folds is 1, which leaves nothing to train on; give 2 or more, or 0 for no splits"
            raise ValueError(msg)
        return self

    def list_inputs(self, data_dir: str | Path | None = None) -> dict[str, Path]:
        """Return the raw folder and the extra slides: their content is part of the chapter's key.

        Parameters
        ----------
        data_dir : str or Path, optional
            Raw cohort folder. A phantom is made from the spec alone, so its folder is an output.

        Returns
        -------
        dict of str to Path
        """
        if data_dir is None:
            return {}
        folder = resolve(data_dir)
        named = {f"extra_slides[{i}]": folder / name for i, name in enumerate(self.extra_slides)}
        return named if self.cohort == "phantom" else {"data": folder, **named}


class TilingSpec(Spec):
    """Chapter 01: how slides are cut into tiles."""

    chapter: ClassVar[str] = "01_tile_slides"
    upstream: ClassVar[tuple[str, ...]] = ("00",)

    tile_px: int = Field(256, ge=16, le=4096, description="tile edge, px at the target mpp")
    mpp: float = Field(0.5, ge=0.1, le=10.0, description="target resolution, um per px")
    overlap_px: int = Field(0, ge=0, description="px (at the target mpp) that neighbouring tiles share")
    min_tissue_written: float = Field(0.10, gt=0.0, le=1.0, description="tiles with less tissue are not written, share")
    tissue_method: Literal["robust", "otsu_saturation"] = Field("robust", description="how tissue is found")
    mask_um_per_px: float = Field(8.0, ge=1.0, le=64.0, description="resolution of the tissue mask, um per px")
    min_tissue_um2: float = Field(20_000.0, ge=0.0, description="smaller islands of tissue are dropped, um2")
    fallback_mpp: Optional[float] = Field(None, ge=0.05, le=10.0, description="where a slide states none, um per px")
    thumbnail_px: int = Field(768, ge=64, le=4096, description="longer edge of the thumbnails, px")
    annotations_dir: Optional[PathStr] = Field(
        None, description="folder of <slide_id>.geojson, polygons in level-0 px, one file per slide; null: none"
    )
    annotation_classes: tuple[str, ...] = Field(
        (), description="classes of the polygons to use, upper or lower case; empty: all but QuPath's Ignore*"
    )
    annotation_use: Literal["replace", "intersect"] = Field(
        "replace", description="the polygons are the mask, or only the tissue found inside them is"
    )
    max_failed: int = Field(0, ge=0, description="slides that may fail before the chapter stops")

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.overlap_px >= self.tile_px:
            msg = f"overlap_px {self.overlap_px} is not below tile_px {self.tile_px}"
            raise ValueError(msg)
        return self


class FeatureSpec(Spec):
    """Chapter 02: which encoders turn tiles into numbers."""

    chapter: ClassVar[str] = "02_extract_features"
    upstream: ClassVar[tuple[str, ...]] = ("00", "01")

    encoders: tuple[str, ...] = Field(
        ("stain_texture", "mean_colour"), min_length=1, description="names from the registry, read in one decode pass"
    )
    weights: dict[str, PathStr] = Field({}, description="local weights file of each network, by encoder name")
    stain_normalisation: Literal["none", "macenko", "reinhard"] = Field(
        "none", description="done to the tiles that networks and colour controls see; fitted once per slide"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="arithmetic of the networks; auto: bfloat16 where the device has instructions for it"
    )
    compile_networks: bool = Field(False, description="run networks through torch.compile (minutes at the start)")
    decode: Literal["host", "cuda"] = Field(
        "host", description="where JPEG tiles are decoded; cuda: by nvJPEG on the card, with slightly other pixels"
    )
    stored_as: Literal["float32", "float16"] = Field("float32", description="precision of the stored features")
    batch_size: int = Field(64, ge=1, le=4096, description="tiles per batch")
    seed: int = Field(20261, ge=0, le=2**31 - 1, description="of samples shown, probe folds and random controls")
    n_shown: int = Field(400, ge=20, le=20_000, description="tiles drawn in the PCA")
    n_permutations: int = Field(99, ge=19, le=9_999, description="relabellings behind the site probe's null")
    n_normalised: int = Field(
        8, ge=0, le=1_000, description="tiles per slide in the site probe before and after normalisation; 0: no probe"
    )
    max_failed: int = Field(0, ge=0, description="slides that may fail before the chapter stops")

    def list_inputs(self, data_dir: str | Path | None = None) -> dict[str, Path]:
        """Return the weight files: their content is part of the chapter's key.

        Parameters
        ----------
        data_dir : str or Path, optional
            Not read here.

        Returns
        -------
        dict of str to Path
        """
        return {f"weights {name}": resolve(path) for name, path in self.weights.items()}


class DeclaredAnalysis(Spec):
    """One secondary or exploratory hazard ratio of chapter 04: what differs from the primary analysis."""

    target: str = Field("", description="score")
    endpoint: Literal["os", "pfi", "pfi_or_death", "dfi", "dss", "rfs"] = Field("rfs", description="endpoint")
    population: Literal["all", "erpos_her2neg", "grade2"] = Field("all", description="cases")
    scale: Literal["per_sd", "per_unit", "high_vs_low"] = Field("per_sd", description="contrast")
    adjustment: Literal["none", "clinical"] = Field("none", description="covariates")
    horizon_months: Optional[float] = Field(None, gt=0, description="follow-up is cut here, months; null: never")


class SurvivalSpec(AnalysisPlan):
    """Chapter 04: what the score says about recurrence and death. The primary analysis stands in `AnalysisPlan`."""

    chapter: ClassVar[str] = "04_estimate_survival"
    upstream: ClassVar[tuple[str, ...]] = ("00", "03")

    score_source: Literal["predictions", "expression"] = Field(
        "predictions", description="predictions of chapter 03, or the RNA-measured score alone (no slides)"
    )
    predictions_path: Optional[PathStr] = Field(
        None, description="table of predictions from elsewhere: case_id, target, y_pred, and split, y_true, fold, arm"
    )
    prediction_arm: Optional[str] = Field(None, description="arm of the predictions; null: the one chapter 03 names")
    score_method: Literal["mean_log2", "mean_zscore", "pam50"] = Field(
        "mean_log2", description="how a signature is scored from expression, where score_source is 'expression'"
    )
    targets: tuple[str, ...] = Field(("prolif11", "MKI67"), min_length=1, description="scores analysed")
    endpoints: tuple[Literal["os", "pfi", "pfi_or_death", "dfi", "dss", "rfs"], ...] = Field(
        ("rfs", "os"), min_length=1, description="endpoints analysed"
    )
    populations: tuple[Literal["all", "erpos_her2neg", "grade2"], ...] = Field(
        ("all", "erpos_her2neg"), min_length=1, description="populations analysed"
    )
    secondary: Optional[tuple[DeclaredAnalysis, ...]] = Field(
        None, description="secondary analyses (Holm); null: all other targets x endpoints x populations"
    )
    exploratory: tuple[DeclaredAnalysis, ...] = Field((), description="analyses without a claim")
    covariates: tuple[str, ...] = Field(
        ("age_years", "tumour_size_mm", "nodes_positive", "grade", "er", "her2"),
        description="clinical covariates of adjusted models, columns of cases.csv",
    )
    cutoff_quantile: float = Field(0.5, gt=0.0, lt=1.0, description="cut-off between low and high, development cases")
    horizons_months: tuple[float, ...] = Field((60.0, 120.0, 180.0), description="hazard ratio up to each, months")
    period_edges_months: tuple[float, ...] = Field(
        (0.0, 24.0, 60.0, 120.0), min_length=2, description="hazard ratio within each period, months"
    )
    competing_endpoint: Optional[Literal["pfi", "pfi_or_death", "dfi", "dss", "rfs"]] = Field(
        "rfs", description="endpoint whose cumulative incidence is shown with other death as competing; null: none"
    )
    spline_knots: Literal[0, 3, 4, 5] = Field(4, description="knots of the spline of the score; 0: no spline")
    n_imputations: int = Field(10, ge=2, le=200, description="imputations of missing covariates")
    prognosis_months: Optional[float] = Field(
        60.0, gt=0, description="horizon of AUC, Brier score, calibration and decision curve, months; null: not judged"
    )
    subgroups: tuple[Literal["er", "her2", "grade", "stage", "nodes_positive", "age_years", "subtype"], ...] = Field(
        ("er", "her2", "grade", "nodes_positive", "age_years"), description="subgroups with a test of interaction"
    )
    pool_by: Optional[Literal["site"]] = Field("site", description="sites pooled by random effects; null: not pooled")
    n_boot: int = Field(200, ge=50, le=100_000, description="bootstrap resamples of the hazard ratio; of the AUC 200")
    power_ratios: tuple[float, ...] = Field(
        (1.3, 1.65, 2.2), description="hazard ratios of the RNA whose power is simulated in this cohort; []: none"
    )
    n_power: int = Field(200, ge=50, le=100_000, description="simulated cohorts per hazard ratio")

    @model_validator(mode="after")
    def _check_plan(self) -> Self:
        if self.primary_target not in self.targets:
            msg = f"primary_target '{self.primary_target}' is not among targets {list(self.targets)}"
            raise ValueError(msg)
        edges = self.period_edges_months
        if any(edge < 0 for edge in edges) or list(edges) != sorted(set(edges)):
            msg = f"period_edges_months {list(edges)} do not increase from 0 or more"
            raise ValueError(msg)
        if any(months <= 0 for months in self.horizons_months):
            msg = f"horizons_months {list(self.horizons_months)} are not all above 0"
            raise ValueError(msg)
        if any(ratio <= 0 or ratio == 1 for ratio in self.power_ratios):
            msg = f"power_ratios {list(self.power_ratios)} are not all above 0 and other than 1"
            raise ValueError(msg)
        return self


ArmName = Literal[
    "ridge", "ridge_moments", "ridge_fourier", "ridge_kernel", "pls", "svr_linear", "svr_gaussian", "mean_mil",
    "attention_mil", "attention_mil_plain", "average", "ensemble", "ensemble_all",
]  # fmt: skip
"""Models of chapter 03; `helpers.models.arms.list_arms` holds their recipes."""


EncoderNames = Annotated[
    str, Field(min_length=1, description="features of chapter 02 that all arms read; 'a+b' joins two encoders")
]
FeaturesDir = Annotated[Optional[PathStr], Field(description="folder of <slide_id>.h5 or .pt that somebody else wrote")]
LeastTissue = Annotated[float, Field(ge=0.0, le=1.0, description="tiles with less tissue are not read, share")]
LeastSharpness = Annotated[float, Field(ge=0.0, le=2.0, description="tiles less sharp are out, slide's median is 1")]
MostPen = Annotated[float, Field(ge=0.0, le=1.0, description="tiles with more marker ink are not read, share")]
MostThick = Annotated[float, Field(ge=0.0, le=1.0, description="tiles more folded are not read, share")]
MostGrey = Annotated[float, Field(ge=0.0, le=1.0, description="tiles darkened without colour, share")]
"""What every chapter that reads features asks of them; `helpers.models.inputs.TILE_FILTERS` names the filters."""


class ProliferationSpec(Spec):
    """Chapter 03: which scores are predicted from which features, and how the prediction is judged."""

    chapter: ClassVar[str] = "03_predict_proliferation"
    upstream: ClassVar[tuple[str, ...]] = ("00", "02")

    seed: int = Field(20261, ge=0, le=2**31 - 1, description="of bootstraps, permutations and controls")
    primary_target: str = Field("prolif11", description="score of the primary analysis, one of `targets`")
    targets: tuple[str, ...] = Field(("prolif11", "MKI67"), min_length=1, description="signatures or genes to predict")
    score_method: Literal["mean_log2", "mean_zscore", "pam50"] = Field(
        "mean_log2", description="how a signature is scored"
    )
    other_methods: tuple[Literal["mean_log2", "mean_zscore", "pam50"], ...] = Field(
        ("mean_zscore", "pam50"), description="further score methods, reported beside the declared one"
    )
    encoder: EncoderNames = "stain_texture"
    features_dir: FeaturesDir = None
    min_tissue_fraction: LeastTissue = 0.5
    min_sharpness: LeastSharpness = 0.6
    max_pen_fraction: MostPen = 0.05
    max_thick_fraction: MostThick = 0.3
    max_grey_fraction: MostGrey = 0.3
    tumour_filter: Literal["none", "polygon", "model"] = Field(
        "none", description="read all tiles, those inside drawn tumour, or those a tile classifier calls tumour"
    )
    tumour_dir: Optional[PathStr] = Field(
        None, description="folder of <slide_id>.geojson that outline tumour, level-0 px; the filters are compared"
    )
    tumour_classes: tuple[str, ...] = Field(("Tumor",), min_length=1, description="classes of outlines that are tumour")
    min_tumour_probability: float = Field(0.5, gt=0.0, lt=1.0, description="of the model, for a tile to be read")
    aggregation: Literal["mean", "median", "p75", "mean_sd", "moments"] = Field(
        "mean", description="of a case's tile features, for the arm 'ridge'; other arms bring their own"
    )
    arm: ArmName = Field("ridge", description="declared model, refitted under the null; the controls stand beside it")
    arms: tuple[ArmName, ...] = Field(
        ("ridge", "ridge_moments", "ridge_fourier", "ridge_kernel", "pls", "average", "ensemble"),
        description="models compared, ridge first; svr_*, *_mil and ensemble_all take minutes on hundreds of cases",
    )
    control_encoder: Optional[str] = Field("mean_colour", description="features of the colour control; null: none")
    beside_encoders: tuple[str, ...] = Field(
        (), description="other encoders of chapter 02, judged by the plain ridge beside the declared arm"
    )
    clinical_columns: tuple[str, ...] = Field(
        ("age_years", "stage", "tumour_size_mm", "nodes_positive", "grade", "histology", "er", "pr", "her2"),
        description="columns of the clinical control; those that exist and vary are used",
    )
    label_columns: tuple[str, ...] = Field(
        ("subtype", "er", "her2", "histology", "grade", "stage", "site"), description="labels of the confounding panel"
    )
    min_stratum: int = Field(12, ge=5, description="cases a stratum or a site needs to be judged")
    n_permutations: int = Field(200, ge=19, le=100_000, description="within-site permutations, every fold refitted")
    n_boot: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of cases")
    map_slide: Optional[str] = Field(None, description="slide of the tile map; null: the highest prediction")

    @model_validator(mode="after")
    def _check_primary(self) -> Self:
        if self.primary_target not in self.targets:
            msg = f"primary_target '{self.primary_target}' is not among targets {list(self.targets)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        if len(set(self.arms)) < len(self.arms):
            msg = f"arms {list(self.arms)} name one twice"
            raise ValueError(msg)
        if self.arms and "ridge" not in self.arms:
            msg = f"arms {list(self.arms)} lack 'ridge', the one that all are compared with; add it, or give none"
            raise ValueError(msg)
        if self.tumour_filter != "none" and self.tumour_dir is None:
            msg = f"tumour_filter '{self.tumour_filter}' needs outlines: give their folder as tumour_dir"
            raise ValueError(msg)
        return self


GeneArmName = Literal[
    "ridge", "ridge_moments", "ridge_fourier", "ridge_kernel", "pls", "svr_linear", "svr_gaussian", "mean_mil",
    "attention_mil", "attention_mil_plain", "multi_task", "as_published", "pool_mean", "pool_max", "pool_linear",
    "pool_exponential", "top_k", "blend", "chosen",
]  # fmt: skip
"""Models of chapter 05; `helpers.models.expression.list_gene_arms` holds their recipes."""


class ExpressionSpec(Spec):
    """Chapter 05: which genes are predicted from which features, where, and how predictions and maps are judged."""

    chapter: ClassVar[str] = "05_regress_expression"
    upstream: ClassVar[tuple[str, ...]] = ("00", "02")

    seed: int = Field(20261, ge=0, le=2**31 - 1, description="of nets, bootstraps, permutations and simulations")
    genes: tuple[str, ...] = Field(
        ("pam50",), description="signatures of data/genes.yaml and symbols, old names too; empty: every measured gene"
    )
    encoder: EncoderNames = "stain_texture"
    features_dir: FeaturesDir = None
    min_tissue_fraction: LeastTissue = 0.5
    min_sharpness: LeastSharpness = 0.6
    max_pen_fraction: MostPen = 0.05
    max_thick_fraction: MostThick = 0.3
    max_grey_fraction: MostGrey = 0.3
    max_brightness: Optional[float] = Field(
        None, gt=0.0, le=255.0, description="brighter tiles are white and left out, grey levels; null: no such filter"
    )
    min_contrast: Optional[float] = Field(
        None, ge=0.0, description="variance of a tile's Laplacian below which it is left out; null: no such filter"
    )
    halve_duplicates: bool = Field(
        False, description="of slides whose column `duplicated` says so, read the half with more tiles"
    )
    arm: GeneArmName = Field("multi_task", description="declared model, one of `arms`; maps are its own")
    arms: tuple[GeneArmName, ...] = Field(
        ("ridge", "ridge_moments", "ridge_kernel", "multi_task", "chosen"),
        min_length=1, description="models compared on all genes; `chosen` picks one per gene on inner folds",
    )  # fmt: skip
    n_repeats: int = Field(2, ge=1, le=1000, description="partitions on which arms are compared; the first is reported")
    published_genes: tuple[str, ...] = Field(
        ("MKI67",), description="genes that the published model is fitted to, one net per gene and split; empty: none"
    )
    published_arm: Literal["as_published", "pool_mean", "pool_max", "pool_linear", "pool_exponential", "top_k"] = Field(
        "as_published", description="the published model, one of its poolings, or its baseline"
    )
    screen_freedom: float = Field(20.0, gt=0.0, description="effective degrees of freedom of the screen's ridge")
    n_permutations: int = Field(499, ge=19, le=100_000, description="within-site permutations, every fold refitted")
    level: float = Field(0.05, gt=0.0, lt=1.0, description="false discovery rate at which a gene counts as found")
    n_simulated: int = Field(400, ge=0, le=100_000, description="phantoms only: cohorts drawn anew; 0: none")
    n_simulated_permutations: int = Field(199, ge=19, le=100_000, description="permutations in each of those cohorts")
    n_boot: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of cases")
    shown_genes: tuple[str, ...] = Field(
        ("ESR1", "MKI67", "UBE2C"), description="genes with rows of their own and a confounding panel"
    )
    label_columns: tuple[str, ...] = Field(
        ("subtype", "er", "her2", "histology", "grade", "stage", "site"), description="labels of the confounding panel"
    )
    min_stratum: int = Field(12, ge=5, description="cases that a stratum or a class needs to be judged")
    hotspot_genes: tuple[str, ...] = Field(("MKI67",), description="genes that are mapped and judged; empty: none")
    hot_share: float = Field(0.2, gt=0.0, lt=1.0, description="tiles of a slide that count as hot, by planted value")
    n_random: int = Field(40, ge=2, le=10_000, description="untrained attentions in the control")
    n_bins: int = Field(7, ge=2, le=20, description="bins of tile values in the gallery")
    map_slide: Optional[str] = Field(None, description="slide of the maps; null: of the highest prediction")

    @model_validator(mode="after")
    def _check_declared(self) -> Self:
        if self.arm not in self.arms or "ridge" not in self.arms:
            msg = f"arms {list(self.arms)} must name 'ridge', the reference, and the declared '{self.arm}'"
            raise ValueError(msg)
        return self


class EndToEndSpec(Spec):
    """Chapter A2: a network that regresses slide labels from tiles (route a of chapter 03, recipe `group_proxy`)."""

    chapter: ClassVar[str] = "A2_train_end_to_end"
    upstream: ClassVar[tuple[str, ...]] = ("00", "01", "03")

    seed: int = Field(20261, ge=0, le=2**31 - 1, description="of weights, draws, augmentation and bootstraps")
    primary_target: str = Field("prolif11", description="score of the primary analysis, one of `targets`")
    targets: tuple[str, ...] = Field(("prolif11", "MKI67"), min_length=1, description="outputs of one network")
    score_method: Literal["mean_log2", "mean_zscore", "pam50"] = Field(
        "mean_log2", description="how a signature is scored"
    )
    architecture: str = Field("resnet18", description="timm's name; with the default model_args the embedded encoder's")
    model_args: dict[str, Any] = Field(
        {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}, description="arguments of timm.create_model"
    )
    weights: Optional[PathStr] = Field(
        "data/encoders/phantom-s/model.safetensors", description="file of weights to start from; null: drawn at random"
    )
    min_tissue_fraction: LeastTissue = 0.5
    min_sharpness: LeastSharpness = 0.6
    max_pen_fraction: MostPen = 0.05
    max_thick_fraction: MostThick = 0.3
    max_grey_fraction: MostGrey = 0.3
    tiles_per_slide: Optional[int] = Field(30, ge=1, description="tiles drawn from each slide, once; null: all of them")
    cache_gb: float = Field(2.0, gt=0.0, description="decoded tiles kept in memory, GB")
    crop_px: int = Field(160, ge=16, le=4096, description="edge of the random crop, px of the tile")
    input_px: int = Field(160, ge=16, le=2048, description="edge to which a crop is resized, px of the network's input")
    stain_augmentation: Literal["vectors", "hed", "none"] = Field(
        "vectors", description="stains varied along the slide's own vectors, along fixed ones, or not"
    )
    stain_strength: float = Field(0.25, ge=0.0, le=1.0, description="SD of the log of each stain's factor")
    optimiser: Literal["sgd_nesterov", "adam", "adamw"] = Field("adamw", description="preset of optimiser and schedule")
    learning_rate: Optional[float] = Field(None, gt=0.0, le=10.0, description="null: the preset's")
    epochs: int = Field(4, ge=1, le=10_000, description="at most")
    tiles_per_epoch: int = Field(768, ge=1, description="tiles drawn per epoch")
    batch_size: int = Field(32, ge=2, le=65_536, description="tiles per step, over all devices together")
    patience: int = Field(4, ge=1, description="epochs without a better inner validation before a fit stops")
    dropout: float = Field(0.5, ge=0.0, lt=1.0, description="before the linear head")
    target_scaling: Literal["sd", "variance"] = Field("sd", description="what targets are divided by")
    aggregation: Literal["mean", "median", "p75"] = Field("mean", description="of the tile scores of a case, declared")
    calibration: Literal["training", "none"] = Field(
        "training", description="scores of each network stretched to its training cases, or left as they are"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the network; auto: by device")
    repeat: int = Field(0, ge=0, description="partition of the splits that is fitted, one network per fold")
    n_boot: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of cases")

    @model_validator(mode="after")
    def _check_primary(self) -> Self:
        if self.primary_target not in self.targets:
            msg = f"primary_target '{self.primary_target}' is not among targets {list(self.targets)}"
            raise ValueError(msg)
        if self.batch_size > self.tiles_per_epoch:
            msg = f"batch_size {self.batch_size} is above tiles_per_epoch {self.tiles_per_epoch}"
            raise ValueError(msg)
        return self

    def list_inputs(self, data_dir: str | Path | None = None) -> dict[str, Path]:
        """Return the file of weights: its content is part of the chapter's key.

        Parameters
        ----------
        data_dir : str or Path, optional
            Not read here.

        Returns
        -------
        dict of str to Path
        """
        return {} if self.weights is None else {"weights": resolve(self.weights)}


FusionArmName = Literal[
    "image_linear", "genes_linear", "image_net", "genes_net", "late_fusion", "concat", "cross_genes_look",
    "cross_tiles_look", "cross_attention", "cross_attention_plain", "image_permuted", "genes_permuted",
]  # fmt: skip
"""Models of chapter 06; `helpers.models.fusion_study.list_fusion_arms` holds their recipes."""


class SubtypeSpec(Spec):
    """Chapter 06: which classes are told apart from images and genes, by which models, and how they are judged."""

    chapter: ClassVar[str] = "06_classify_subtype"
    upstream: ClassVar[tuple[str, ...]] = ("00", "02")

    seed: int = Field(20261, ge=0, le=2**31 - 1, description="of networks, bootstraps, permutations and random panels")
    subtype_source: str = Field("subtype", description="column of the case table that holds the subtype")
    other_sources: tuple[str, ...] = Field(("pam50_4x", "subtype_2012"), description="columns compared with it")
    site_alone: Optional[str] = Field(
        None,
        description="a site judged by itself too, by folds of cases; there the published model runs",
    )
    encoder: EncoderNames = "stain_texture"
    features_dir: FeaturesDir = None
    min_tissue_fraction: LeastTissue = 0.5
    min_sharpness: LeastSharpness = 0.6
    max_pen_fraction: MostPen = 0.05
    max_thick_fraction: MostThick = 0.3
    max_grey_fraction: MostGrey = 0.3
    gene_groups: PathStr = Field("data/gene_groups.gmt", description="GMT file: one line per gene group, a token each")
    arms: tuple[FusionArmName, ...] = Field(
        (
            "image_linear", "genes_linear", "image_net", "genes_net", "late_fusion", "concat", "cross_genes_look",
            "cross_tiles_look", "cross_attention", "cross_attention_plain", "image_permuted", "genes_permuted",
        ),
        description="models compared; cross_attention is the declared one",
    )  # fmt: skip
    n_repeats: int = Field(1, ge=1, le=1000, description="partitions of the splits that are fitted")
    max_tiles: int = Field(200, ge=1, le=100_000, description="tiles of a case that a network reads, at most")
    published_width: int = Field(512, ge=8, le=4096, description="of the published layers; 512 in the paper")
    published_tiles: int = Field(50, ge=1, le=10_000, description="tiles per patient of the published model")
    published_epochs: int = Field(50, ge=1, le=1000, description="epochs of the published model, at most")
    published_fusions: bool = Field(
        True, description="run its image and concat networks too (minutes), or show them only"
    )
    targets: tuple[str, ...] = Field(
        ("er", "pr", "her2", "tp53_mutated", "grade3", "pfi_60", "rfs_60"),
        description="targets that are no RNA label: IHC, '<gene>_mutated', grade3, '<endpoint>_<months>'",
    )
    panel_targets: tuple[str, ...] = Field(
        ("her2", "tp53_mutated"), description="targets whose confounding panel is drawn; the first one there is"
    )
    panel_sizes: tuple[int, ...] = Field((5, 20, 50), description="genes of the random panels")
    n_panels: int = Field(2, ge=1, le=100, description="random panels of each size")
    tile_counts: tuple[int, ...] = Field((50, 100, 200), description="tiles per case of the ablation, beside all")
    planted: tuple[Literal["both", "genes", "image", "interaction", "nothing"], ...] = Field(
        (), description="labels drawn on top of a phantom's truth, on which the arms are judged too"
    )
    label_columns: tuple[str, ...] = Field(
        ("subtype", "er", "pr", "her2", "histology", "grade", "stage", "site"), description="labels of the panel"
    )
    min_stratum: int = Field(12, ge=5, description="cases a stratum needs to be judged")
    n_permutations: int = Field(200, ge=19, le=100_000, description="within-site permutations, every fold refitted")
    n_boot: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of cases")
    map_case: Optional[str] = Field(None, description="case of the attention map; null: the surest Basal/HER2 case")

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        needed = ("image_linear", "genes_linear", "late_fusion", "cross_attention", "cross_attention_plain")
        lacking = [name for name in needed if name not in self.arms]
        if lacking or len(set(self.arms)) < len(self.arms):
            problem = f"lack '{lacking[0]}', which the chapter compares" if lacking else "name one twice"
            msg = f"arms {list(self.arms)} {problem}"
            raise ValueError(msg)
        if any(size < 1 for size in (*self.panel_sizes, *self.tile_counts)):
            msg = f"panel_sizes {list(self.panel_sizes)} and tile_counts {list(self.tile_counts)} must be 1 or more"
            raise ValueError(msg)
        return self


class ScoreboardSpec(Spec):
    """Parameters of chapter 09: which rows of the scoreboard are drawn. All are kept and written."""

    chapter: ClassVar[str] = "09_compare_published"
    upstream: ClassVar[tuple[str, ...]] = ("00", "01", "02", "03", "04", "05", "06", "07", "08")

    kinds: tuple[Literal["planted", "published", "baseline", "control"], ...] = Field(
        ("planted", "published", "baseline", "control"), description="comparisons drawn, in this order"
    )
    max_rows: int = Field(40, ge=1, le=200, description="rows per figure; the rest stands in the tables")


class EmbeddedEncoderSpec(Spec):
    """Chapter A1: how the embedded encoders were trained, and by which probes they are judged."""

    chapter: ClassVar[str] = "A1_train_embedded_encoder"
    upstream: ClassVar[tuple[str, ...]] = ()

    train: bool = Field(False, description="train anew into the run's folder; False: load what lies in encoders_dir")
    encoders_dir: PathStr = Field("data/encoders", description="folder of phantom-s and phantom-s-morphology")
    training_seed: int = Field(90001, ge=0, le=2**31 - 1, description="of the training slides, weights and crops")
    n_slides: int = Field(320, ge=4, le=100_000, description="training slides")
    slide_um: float = Field(640.0, ge=200.0, le=5_000.0, description="edge of a training slide, um")
    steps: int = Field(700, ge=1, le=10_000_000, description="steps of a cycle of the self-supervised variant")
    cycles: int = Field(2, ge=1, le=1000, description="cycles, each with a warm restart of the learning rate")
    crop_px: int = Field(80, ge=32, le=256, description="edge of a view, px at 0.5 um per px")
    shift_px: int = Field(10, ge=0, le=224, description="most that two views of a place lie apart, px")
    morphology_steps: int = Field(450, ge=1, le=10_000_000, description="steps of the variant that learns morphology")
    batch_size: int = Field(128, ge=2, le=65_536, description="places per step")
    learning_rate: float = Field(1e-3, gt=0.0, le=1.0, description="largest step of AdamW")
    n_probe_cases: int = Field(18, ge=6, le=10_000, description="development slides drawn for the probes")
    n_probe_external: int = Field(9, ge=3, le=10_000, description="slides of the external site drawn for the probes")
    seed: int = Field(90002, ge=0, le=2**31 - 1, description="of the probes' slides, bootstrap and random control")
    n_boot: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of slides")


class SpotSpec(Spec):
    """Appendix A3: which genes of spots are predicted from the tissue around them, and what depth alone would do."""

    chapter: ClassVar[str] = "A3_predict_spots"
    upstream: ClassVar[tuple[str, ...]] = ("00", "01")

    seed: int = Field(20261, ge=0, le=2**31 - 1, description="of bootstraps")
    encoders: tuple[str, ...] = Field(
        ("stain_texture", "mean_colour"), min_length=1, description="read at every spot, side by side"
    )
    window_um: float = Field(200.0, ge=50.0, le=1000.0, description="edge of the square around a spot, um")
    scale_by_slide: bool = Field(True, description="features centred and scaled within a section, without labels")
    surroundings: bool = Field(True, description="the mean features of neighbouring spots stand beside a spot's own")
    min_share: float = Field(0.2, gt=0.0, le=1.0, description="spots of every section in which a gene must be seen")
    min_transcripts: int = Field(100, ge=1, description="spots with fewer are left out")
    block_spots: int = Field(4, ge=1, le=50, description="edge of the patches that are resampled together, in spots")
    settings: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = Field(
        {
            "B4 to C": (("B4",), ("C2", "C3", "C4")), "C to B4": (("C2", "C3", "C4"), ("B4",)),
            "C2, C3 to C4": (("C2", "C3"), ("C4",)),
        },
        min_length=1, description="name: sections trained on, sections predicted",
    )  # fmt: skip
    shown_genes: tuple[str, ...] = Field(
        ("FASN", "GNAS", "ACTG1", "ERBB2", "COL1A1"), description="genes with rows of their own"
    )
    n_boot: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of patches of tissue")

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        for name, (train, test) in self.settings.items():
            if not train or not test or set(train) & set(test):
                msg = f"setting '{name}' trains on {list(train)} and predicts {list(test)}: give both, and apart"
                raise ValueError(msg)
        return self
