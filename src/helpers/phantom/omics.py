"""Draw molecular tables: gene expression from stated loadings, and four omics tables of linked and null features."""

import numpy as np
import pandas as pd

from helpers.core.specs import PhantomSpec
from helpers.phantom import effects
from helpers.phantom.population import Array, Columns, Streams, round_digits

FACTORS = ("proliferation", "luminal", "her2", "basal", "til", "batch")
LOBULAR_COHESION, DUCTAL_COHESION = (0.15, 0.08), (0.90, 0.06)
COHESION_MOMENTS = (0.826, 0.235)
"""Mean and SD of cohesion over all cases (9.8 % lobular), by which the driver is standardised."""
PLEOMORPHISM_MOMENTS = (2.36, 0.50)
"""The same of the pleomorphism component."""


def list_loadings(spec: PhantomSpec) -> pd.DataFrame:
    """Return the planted loadings: one row per gene.

    Parameters
    ----------
    spec : PhantomSpec

    Returns
    -------
    DataFrame
        gene, role (prolif11, pam50, immune, housekeeping, null), base, one column per factor of `FACTORS`, noise_sd,
        all in log2 units (factors have SD near 1).
    """
    batch = effects.BATCH_LOADING
    rows: list[tuple[str, str, float, float, float, float, float, float, float, float]] = []
    for gene, (base, prolif, luminal, her2, basal, noise) in effects.PAM50_LOADINGS.items():
        role = "prolif11" if gene in effects.PROLIF11 else "pam50"
        rows.append((gene, role, base, prolif, luminal, her2, basal, 0.0, batch, noise))
    for gene, (base, til, noise) in effects.IMMUNE_LOADINGS.items():
        rows.append((gene, "immune", base, 0.0, 0.0, 0.0, 0.0, til, batch, noise))
    for gene, (base, noise) in effects.HOUSEKEEPING.items():
        rows.append((gene, "housekeeping", base, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, noise))
    for number in range(1, spec.n_null_genes + 1):
        base, noise = effects.NULL_GENE
        rows.append((f"NULL{number:03d}", "null", base, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, noise))
    return pd.DataFrame(rows, columns=["gene", "role", "base", *FACTORS, "noise_sd"])


def draw_factors(spec: PhantomSpec, cases: Columns, streams: Streams) -> Columns:
    """Draw what the genes load on.

    Parameters
    ----------
    spec : PhantomSpec
    cases : dict of ndarray
        From `draw_cases`.
    streams : callable

    Returns
    -------
    dict of ndarray, (n,)
        `FACTORS`. `proliferation` is the latent plus the assay noise that all genes share, rescaled to the latent's
        variance: the piece of tumour that went into the tube is not the piece on the slide.
    """
    n, subtype = len(cases["latent"]), cases["subtype_index"]
    assay = spec.assay_sd * streams("assay").standard_normal(n)
    factors = {"proliferation": round_digits((cases["latent"] + assay) / np.sqrt(1.0 + spec.assay_sd**2))}
    for name, field in (("luminal", "luminal"), ("her2", "her2_axis"), ("basal", "basal")):
        mean, sd = (np.array([getattr(s, field)[part] for s in effects.SUBTYPES])[subtype] for part in (0, 1))
        factors[name] = round_digits(mean + sd * streams(f"axis_{name}").standard_normal(n))
    factors["til"] = cases["til_z"]
    factors["batch"] = np.array([site.batch for site in effects.SITES])[cases["site_index"]]
    return factors


def draw_expression(loadings: pd.DataFrame, factors: Columns, streams: Streams) -> Array:
    """Draw log2 expression; the noise of a gene comes from the gene's own stream.

    Parameters
    ----------
    loadings : DataFrame
        `list_loadings`, or some of its rows.
    factors : dict of ndarray, (n,)
    streams : callable

    Returns
    -------
    ndarray, (n, n_genes), log2, 6 digits
    """
    n = len(factors["proliferation"])
    noise = np.stack([streams(f"gene/{gene}").standard_normal(n) for gene in loadings["gene"]], axis=1)
    values = loadings["base"].to_numpy(float) + loadings["noise_sd"].to_numpy(float) * noise
    for name in FACTORS:
        slopes = loadings[name].to_numpy(float)
        linked = slopes != 0.0
        values[:, linked] += slopes[linked] * np.asarray(factors[name])[:, None]
    return np.asfortranarray(round_digits(values))


def draw_cohesion(cases: Columns, streams: Streams) -> Array:
    """Draw how far tumour cells hold together: near 0.15 in lobular cases, near 0.90 in all others.

    Parameters
    ----------
    cases : dict of ndarray
    streams : callable

    Returns
    -------
    ndarray, (n,), 0-1
    """
    lobular = cases["lobular"]
    mean = np.where(lobular, LOBULAR_COHESION[0], DUCTAL_COHESION[0])
    sd = np.where(lobular, LOBULAR_COHESION[1], DUCTAL_COHESION[1])
    return round_digits(np.clip(mean + sd * streams("cohesion").standard_normal(len(lobular)), 0.0, 1.0))


def list_omics(spec: PhantomSpec) -> pd.DataFrame:
    """Return the planted truth of the omics tables: one row per feature, most of them null.

    Parameters
    ----------
    spec : PhantomSpec

    Returns
    -------
    DataFrame
        kind, feature, driver ('none' for nulls), effect (per SD of the driver), base, noise_sd, is_null, unit.
    """
    linked = [vars(effect) for effect in effects.OMICS]
    prefix = {"copy_number": "CN", "mutation": "MUT", "methylation": "METH", "protein": "PROT"}
    nulls = [
        {"kind": kind, "feature": f"{prefix[kind]}_NULL{number:03d}", "driver": "none", "effect": 0.0, "base": base,
         "noise_sd": noise}
        for kind, (base, noise) in effects.OMICS_NULLS.items()
        for number in range(1, spec.n_null_omics + 1)
    ]  # fmt: skip
    table = pd.DataFrame(linked + nulls)
    table["is_null"] = table["driver"] == "none"
    table["unit"] = table["kind"].map(effects.OMICS_UNITS)
    return table.sort_values(["kind", "feature"], kind="stable", ignore_index=True)


def draw_omics(truth: pd.DataFrame, cases: Columns, factors: Columns, streams: Streams) -> Array:
    """Draw every omics feature of every case.

    Parameters
    ----------
    truth : DataFrame
        From `list_omics`.
    cases : dict of ndarray
        With `cohesion`.
    factors : dict of ndarray
    streams : callable

    Returns
    -------
    ndarray, (n, n_features)
        log2 ratio, 0/1, beta value or z, by kind.
    """
    n = len(cases["latent"])
    drivers = {
        "proliferation": cases["latent"],
        "til": cases["til_z"],
        "pleomorphism": (cases["pleomorphism"] - PLEOMORPHISM_MOMENTS[0]) / PLEOMORPHISM_MOMENTS[1],
        "cohesion": (cases["cohesion"] - COHESION_MOMENTS[0]) / COHESION_MOMENTS[1],
        "her2_axis": factors["her2"],
        "luminal": factors["luminal"],
        "none": np.zeros(n),
    }
    values = np.empty((n, len(truth)), order="F")
    for column, row in enumerate(truth.to_dict("records")):
        stream = streams(f"omics/{row['feature']}")
        signal = row["base"] + row["effect"] * drivers[row["driver"]]
        values[:, column] = round_digits(_measure(row["kind"], signal, row["noise_sd"], stream))
    return values


def _measure(kind: str, signal: Array, noise_sd: float, stream: np.random.Generator) -> Array:
    if kind == "mutation":
        return (stream.random(len(signal)) < 1.0 / (1.0 + np.exp(-signal))).astype(np.float64)
    noisy = signal + noise_sd * stream.standard_normal(len(signal))
    return 1.0 / (1.0 + np.exp(-noisy)) if kind == "methylation" else noisy
