"""Plan a phantom cohort: every table, and one drawing plan per slide, before a single pixel exists.

`plan_cohort` takes milliseconds, is the same on every machine, and is the whole truth: what a chapter may read
(cases, slides, expression, omics) and what only a judge may read (latents, loadings, drivers, uncensored times).
"""

import hashlib
import zlib
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import pandas as pd

from helpers.core.errors import PhantomError
from helpers.core.specs import PhantomSpec
from helpers.core.vocab import event_column, time_column
from helpers.phantom import effects
from helpers.phantom.omics import draw_cohesion, draw_expression, draw_factors, draw_omics, list_loadings, list_omics
from helpers.phantom.plan import ARTEFACTS, SlidePlan
from helpers.phantom.population import Columns, draw_cases, open_streams, round_digits
from helpers.phantom.survival import PHANTOM_ENDPOINTS, compute_endpoints, compute_linear_predictor, draw_times

TRUNCATED: Final = "truncated"
NO_MPP: Final = "no_mpp"

# slide field: (low, high) of a uniform draw per case. None of these knows the latent: they are what makes it hard.
CASE_NUISANCE: Final[dict[str, tuple[float, float]]] = {
    "tumour_fraction": (0.35, 0.70),
    "tumour_stroma": (0.25, 0.55),
    "benign_fraction": (0.00, 0.12),
    "fat_fraction": (0.00, 0.15),
    "collagen": (0.80, 1.20),
    "stroma_cellularity": (350.0, 650.0),
    "nuclear_um": (7.9, 9.1),
    "nuclear_aspect": (1.15, 1.35),
}
NEVER_MONTHS: Final = 1e6
"""An uncensored time beyond this is written as this."""
STRENGTH_LOG_SD: Final = 0.10
"""SD of the log of a slide's staining strength around its site's."""
HOTSPOTS: Final = (1, 3)
"""Fewest and most hotspots of a slide."""


@dataclass(frozen=True, eq=False)
class PhantomTruth:
    """A planned cohort.

    Attributes
    ----------
    cases, slides, expression, omics : DataFrame
        What a study would have: columns as in the raw cohort's files.
    cases_truth : DataFrame
        case_id, split, latent and every other planted value of a case, uncensored times included.
    slides_truth : DataFrame
        slide_id, case_id, what the slide was drawn from, and `defect` ('', 'truncated' or 'no_mpp').
    loadings, omics_truth, sites : DataFrame
        Planted loadings per gene, drivers per omics feature, stains and shifts per site.
    plans : tuple of SlidePlan
        One per slide, in the order of `slides`.
    """

    spec: PhantomSpec
    cases: pd.DataFrame
    slides: pd.DataFrame
    expression: pd.DataFrame
    omics: pd.DataFrame
    cases_truth: pd.DataFrame
    slides_truth: pd.DataFrame
    loadings: pd.DataFrame
    omics_truth: pd.DataFrame
    sites: pd.DataFrame
    plans: tuple[SlidePlan, ...]

    def list_tables(self) -> dict[str, pd.DataFrame]:
        """Return every table by name.

        Returns
        -------
        dict of str to DataFrame
        """
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: table for name, table in found.items() if isinstance(table, pd.DataFrame)}


def plan_cohort(spec: PhantomSpec) -> PhantomTruth:
    """Plan the whole cohort from one seed.

    Parameters
    ----------
    spec : PhantomSpec

    Returns
    -------
    PhantomTruth
        Equal on every machine (`compute_truth_hash`).
    """
    parts = [_plan_split(spec, split) for split in ("development", "external")]
    tables = {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}
    slides_truth = _plan_slides(spec, tables["cases_truth"])
    return PhantomTruth(
        spec=spec,
        cases=tables["cases"],
        slides=_list_slides(slides_truth),
        expression=tables["expression"],
        omics=tables["omics"],
        cases_truth=tables["cases_truth"],
        slides_truth=slides_truth,
        loadings=list_loadings(spec),
        omics_truth=list_omics(spec),
        sites=list_sites(spec),
        plans=tuple(_plan_slide(spec, row) for row in slides_truth.to_dict("records")),
    )


def compute_truth_hash(truth: PhantomTruth) -> str:
    """Return the SHA-256 of all tables as text with 6 digits.

    Parameters
    ----------
    truth : PhantomTruth

    Returns
    -------
    str, 64 hex digits
    """
    digest = hashlib.sha256()
    for name, table in sorted(truth.list_tables().items()):
        digest.update(f"{name}\n{table.to_csv(index=False, float_format='%.6f', lineterminator=chr(10))}".encode())
    return digest.hexdigest()


def list_sites(spec: PhantomSpec) -> pd.DataFrame:
    """Return the planted sites: scanner, stain vectors, case-mix shift, batch.

    Parameters
    ----------
    spec : PhantomSpec

    Returns
    -------
    DataFrame, one row per site
        Stain vectors have unit length; `latent_shift` is in SDs of the latent, `expression_batch` in log2 units.
    """
    rows = []
    for site in effects.SITES:
        row: dict[str, object] = {"site": site.site, "centre": site.centre, "scanner": site.scanner, "mpp": site.mpp}
        for name in ("stain_h", "stain_e", "background"):
            vector = getattr(site, name) if name == "background" else normalise_vector(getattr(site, name))
            row |= {f"{name}_{letter}": value for letter, value in zip("rgb", vector, strict=True)}
        row |= {name: getattr(site, name) for name in ("strength_h", "strength_e", "blur_um", "noise", "jpeg_quality")}
        row["latent_shift"] = round(spec.site_shift_sd * site.latent_shift, 6)
        row["expression_batch"] = round(effects.BATCH_LOADING * site.batch, 6)
        rows.append(row)
    return pd.DataFrame(rows)


def normalise_vector(vector: effects.Vector) -> effects.Vector:
    """Scale a stain vector to unit length, to 6 digits.

    Parameters
    ----------
    vector : tuple of 3 floats

    Returns
    -------
    tuple of 3 floats
    """
    length = sum(part * part for part in vector) ** 0.5
    first, second, third = (round(part / length, 6) for part in vector)
    return first, second, third


def _plan_split(spec: PhantomSpec, split: str) -> dict[str, pd.DataFrame]:
    external = split == "external"
    n, streams = spec.n_external if external else spec.n_cases, open_streams(spec.seed, split)
    case_ids = np.array([f"{'EX' if external else 'PH'}-{number:04d}" for number in range(1, n + 1)], dtype=object)
    cases = draw_cases(spec, n, streams, external=external)
    cases["cohesion"] = draw_cohesion(cases, streams)
    cases["linear_predictor"] = round_digits(compute_linear_predictor(spec, cases))
    factors, times = draw_factors(spec, cases, streams), draw_times(spec, cases, streams)
    genes, features = list_loadings(spec).assign(unit="log2"), list_omics(spec)
    values, measured = draw_expression(genes, factors, streams), draw_omics(features, cases, factors, streams)
    truth = _list_truth(spec, cases, factors, times)
    nuisance = {name: _draw_between(streams(f"slide/{name}"), n, *CASE_NUISANCE[name]) for name in CASE_NUISANCE}
    return {
        "cases": _list_cases(case_ids, cases, compute_endpoints(times)),
        "cases_truth": pd.DataFrame({"case_id": case_ids, "split": split, **truth, **nuisance}),
        "expression": _melt(case_ids, genes[["gene", "unit"]], values),
        "omics": _melt(case_ids, features[["kind", "feature", "unit"]], measured),
    }


def _draw_between(stream: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    return round_digits(low + (high - low) * stream.random(n))


def _melt(case_ids: np.ndarray, columns: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    """Turn (n_cases, n_columns) values into a long table, case by case."""
    n_cases, n_columns = values.shape
    long = {name: np.tile(columns[name].to_numpy(), n_cases) for name in columns if name != "unit"}
    long = {"case_id": np.repeat(case_ids, n_columns), **long, "value": values.ravel(order="C")}
    return pd.DataFrame({**long, "unit": np.tile(columns["unit"].to_numpy(), n_cases)})


def _list_cases(case_ids: np.ndarray, cases: Columns, endpoints: Columns) -> pd.DataFrame:
    """Return the case table as a study would have it."""
    table = pd.DataFrame({"case_id": case_ids, "site": cases["site"]})
    table["centre"] = table["site"].map({site.site: site.centre for site in effects.SITES})
    table["age_years"], table["sex"] = cases["age_years"], "female"
    for name in ("stage", "tumour_size_mm", "nodes_positive", "grade"):
        table[name] = cases[name]
    for name in effects.GRADE_COMPONENTS:
        table[f"grade_{name}"] = cases[f"{name}_score"]
    for name in ("er", "pr", "her2"):
        table[name] = np.where(cases[name], "positive", "negative")
    table["subtype"], table["neoadjuvant"] = cases["subtype"], False
    table["histology"] = np.where(cases["lobular"], "lobular", "ductal")
    for endpoint in PHANTOM_ENDPOINTS:
        table[time_column(endpoint)] = endpoints[time_column(endpoint)]
        table[event_column(endpoint)] = endpoints[event_column(endpoint)]
    return table


def _list_truth(spec: PhantomSpec, cases: Columns, factors: Columns, times: Columns) -> Columns:
    """Return what only a judge may read of each case."""
    site = cases["site_index"]
    shift, batch = (np.array([getattr(s, name) for s in effects.SITES])[site] for name in ("latent_shift", "batch"))
    shown = ("site", "subtype", "latent", "til_level", "til_z", "cohesion", *effects.GRADE_COMPONENTS)
    hazard = ("log_nodes", "log2_size", "age_years", "linear_predictor")
    return {
        **{name: cases[name] for name in (*shown, *hazard)},
        **{f"factor_{name}": factors[name] for name in ("proliferation", "luminal", "her2", "basal")},
        "site_latent_shift": round_digits(spec.site_shift_sd * shift),
        "site_expression_batch": round_digits(effects.BATCH_LOADING * batch),
        **{f"{name}_months": round_digits(np.minimum(times[name], NEVER_MONTHS)) for name in times},
    }


def _plan_slides(spec: PhantomSpec, cases: pd.DataFrame) -> pd.DataFrame:
    """Return one row per slide with everything that differs between slides of one case."""
    second = pd.concat([_pick_two(spec, group) for _, group in cases.groupby("split", sort=False)])
    rows = pd.concat([cases.assign(number=1), cases[cases["case_id"].isin(second)].assign(number=2)])
    rows = rows.sort_values(["split", "case_id", "number"], kind="stable", ignore_index=True)
    rows["slide_id"] = rows["case_id"] + "-DX" + rows["number"].astype(str)
    drawn = pd.DataFrame([_draw_slide(spec, slide_id) for slide_id in rows["slide_id"]])
    rows = pd.concat([rows, drawn], axis=1)
    rows["proliferation"] = round_digits(np.clip(rows["latent"] + spec.section_sd * rows.pop("section_z"), -4.0, 4.0))
    rows["defect"] = ""
    for defect, slide_id in pick_bad_slides(spec, rows).items():
        rows.loc[rows["slide_id"] == slide_id, "defect"] = defect
    own = ["slide_id", "case_id", "split", "site", "defect", "seed", "proliferation", "strength_h", "strength_e"]
    shared = ["til_level", "cohesion", *effects.GRADE_COMPONENTS, *CASE_NUISANCE]
    return rows[[*own, "hotspot_count", "artefacts", *shared]]


def _pick_two(spec: PhantomSpec, group: pd.DataFrame) -> pd.Series:
    """Pick the cases with two slides: an exact number, by the smallest of one uniform draw per case."""
    chance = open_streams(spec.seed, str(group["split"].iloc[0]))("two_slides").random(len(group))
    n_two = int(np.rint(spec.two_slide_fraction * len(group)))
    return group["case_id"].iloc[np.sort(np.argsort(chance, kind="stable")[:n_two])]


def _draw_slide(spec: PhantomSpec, slide_id: str) -> dict[str, object]:
    stream = open_streams(spec.seed, "slide")(slide_id)
    seed = np.random.SeedSequence([spec.seed, zlib.crc32(slide_id.encode())]).generate_state(1, np.uint64)[0]
    section, strength_h, strength_e = stream.standard_normal(3)
    hotspot, chance, first, another, second = stream.random(5)
    kinds = [ARTEFACTS[int(first * len(ARTEFACTS))], ARTEFACTS[int(second * len(ARTEFACTS))]]
    count = 0 if chance >= spec.artefact_fraction else 1 + (another < 0.25)
    return {
        "seed": int(seed >> np.uint64(1)),
        "section_z": float(section),
        "strength_h": float(round_digits(np.exp(STRENGTH_LOG_SD * strength_h))),
        "strength_e": float(round_digits(np.exp(STRENGTH_LOG_SD * strength_e))),
        "hotspot_count": HOTSPOTS[0] + int(hotspot * (HOTSPOTS[1] - HOTSPOTS[0] + 1)),
        "artefacts": "+".join(dict.fromkeys(kinds[:count])),
    }


def pick_bad_slides(spec: PhantomSpec, slides: pd.DataFrame) -> dict[str, str]:
    """Choose the slide that is cut and the slide that loses its mpp, both of development.

    Parameters
    ----------
    spec : PhantomSpec
    slides : DataFrame
        slide_id, case_id, split.

    Returns
    -------
    dict of defect to slide_id
        The cut slide is the second one of a case where there is such a case (the case survives); the slide without
        mpp is its case's only one (the case is lost, by name). Empty when `bad_slides` is off.
    """
    if not spec.bad_slides:
        return {}
    development = slides[slides["split"] == "development"]
    count = development.groupby("case_id")["slide_id"].transform("size")
    seconds, singles = development.loc[count == 2, "slide_id"].iloc[1::2], development.loc[count == 1, "slide_id"]
    if singles.empty or len(singles) + len(seconds) < 2:
        msg = (
            f"PhantomError: {len(development)} development slides leave none to spoil. Raise n_cases, lower "
            "two_slide_fraction, or set bad_slides to False."
        )
        raise PhantomError(msg)
    return {TRUNCATED: (seconds if len(seconds) else singles.iloc[1:]).iloc[0], NO_MPP: singles.iloc[0]}


def _list_slides(slides_truth: pd.DataFrame) -> pd.DataFrame:
    """Return the slide table as a study would have it: resolution is in the slides' headers, not here."""
    table = slides_truth[["slide_id", "case_id"]].copy()
    table["path"] = "slides/" + table["slide_id"] + ".svs"
    table["scanner"] = slides_truth["site"].map({site.site: site.scanner for site in effects.SITES})
    return table.assign(kind="DX")


def _plan_slide(spec: PhantomSpec, row: dict[str, object]) -> SlidePlan:
    site = next(site for site in effects.SITES if site.site == row["site"])
    names = ["proliferation", "hotspot_count", "til_level", "cohesion", *effects.GRADE_COMPONENTS, *CASE_NUISANCE]
    values: dict[str, object] = {name: row[name] for name in names}
    values |= {name: float(row[name]) * getattr(site, name) for name in ("strength_h", "strength_e")}  # type: ignore[arg-type]
    artefacts = tuple(name for name in str(row["artefacts"]).split("+") if name)
    return SlidePlan(
        slide_id=str(row["slide_id"]),
        seed=int(row["seed"]),  # type: ignore[call-overload]
        slide_um=spec.slide_um,
        mpp=site.mpp,
        stain_h=normalise_vector(site.stain_h),
        stain_e=normalise_vector(site.stain_e),
        background=site.background,
        scanner_blur_um=site.blur_um,
        scanner_noise=site.noise,
        jpeg_quality=site.jpeg_quality,
        artefacts=artefacts,
        **values,  # type: ignore[arg-type]
    )
