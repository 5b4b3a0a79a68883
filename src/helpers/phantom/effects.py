"""Everything the phantom plants, as tables of numbers with their sources; fixed before anything was fitted.

=====================  =====================================================================================
what                   where the number comes from
=====================  =====================================================================================
log HR, proliferation  0.50 per SD of the latent. Three roads lead there. RNA 11-gene score, TCGA-BRCA, PFI, high vs
                       low 2.12: log 0.75 over the 1.6 SD between the halves of a normal score = 0.47. MKI67 in
                       METABRIC, breast-cancer death at 10 years, 2.179: 0.78 / 1.6 = 0.49. Image score of Ekholm 2024
                       (doi 10.1186/s12885-024-13248-9), 1.65 at an external image-RNA correlation of 0.50:
                       0.50 / 1.6 / 0.55 = 0.57.
log HR, nodes          0.45 per ln(1 + nodes); METABRIC, recurrence, with size, age and grade (n 2,119): 0.47, SE 0.04.
log HR, size           0.25 per doubling; the same model: 0.24, SE 0.05.
log HR, age            -0.05 per 10 years; the same model: -0.02, SE 0.03. Its sign is that of the literature.
Weibull shape          METABRIC, time to recurrence: 0.81 over all cases, which mix risks; 0.90 given the covariates.
10-year recurrence     METABRIC: 0.38 over all cases; 0.30 at the reference case.
death after relapse    METABRIC: median 18.5 months from relapse to breast-cancer death.
other-cause death      Gompertz, 0.7 % per year at 60, doubling in 7.7 years: female life tables of about 2010-2020.
subtype frequencies    TCGA-BRCA, PAM50 of the PanCancer Atlas, four classes (n 623): 0.54, 0.19, 0.08, 0.19.
subtype means          TCGA-BRCA (same cases): mean and SD of the 11-gene score and of three gene axes by subtype.
gene loadings          TCGA-BRCA, log2(RSEM + 1) of 720 cases regressed on those four scores, rounded.
age, nodes, size       METABRIC: age by subtype, 47 % node-positive, size 23 mm (median), and their rank correlations.
ER, PR, HER2           METABRIC: shares by PAM50 subtype.
grade components       assumed, so that recorded grades 1 / 2 / 3 come out at 12 / 45 / 43 % (METABRIC: 9 / 41 / 50 %)
                       and correlate with MKI67 at 0.45 (METABRIC: 0.385; Spearman).
reading a grade        error SD 0.75: two readings agree in 63 % of cases, as two gradings of TCGA did (467 of 743).
TIL level              assumed; basal > HER2 > luminal, as Denkert 2018 (doi 10.1016/S1470-2045(17)30904-X).
assay_sd, section_sd   assumed: RNA and slide come from different pieces of one tumour.
immune, omics          assumed; the size of each effect is in loadings.csv and omics_truth.csv.
=====================  =====================================================================================

The TCGA-BRCA and METABRIC numbers are our own measurements on public tables (rounded); nothing of those tables is
copied. TIL level, tumour content and site carry no hazard of their own. Null genes and null features depend on no
driver and no site.
"""

from dataclasses import dataclass
from typing import Final

Vector = tuple[float, float, float]
VERSION: Final = 1
"""Raised when the planted model changes, so that no stored cohort or estimand of another model is reused."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One planted site: who stains and scans, how, and what its cases and its laboratory add.

    Attributes
    ----------
    mpp : float
        Resolution of its scanner, um per px.
    stain_h, stain_e : tuple of 3 floats
        Optical density of haematoxylin and eosin in R, G, B; normalised to unit length where used.
    latent_shift : float
        Case mix: shift of the latent in units of `site_shift_sd`. Averages to 0 over development.
    batch : float
        Laboratory batch of the expression table, in units of the genes' batch loading. Averages to 0.
    """

    site: str
    centre: str
    scanner: str
    mpp: float
    stain_h: Vector
    stain_e: Vector
    strength_h: float
    strength_e: float
    background: Vector
    blur_um: float
    noise: float
    jpeg_quality: int
    latent_shift: float
    batch: float


def _site(name: str, centre: str, scanner: str, mpp: float, **numbers: float | int | Vector) -> Site:
    return Site(site=name, centre=centre, scanner=scanner, mpp=mpp, **numbers)  # type: ignore[arg-type]


# Stain vectors: A is Ruifrok and Johnston 2001, B the reference of Macenko 2009, the others lie between and beside.
# Two centres scan for two sites each, so a site that is left out of training may still share its scanner with another.
SITES: Final[tuple[Site, ...]] = (
    _site(
        "A", "north", "scanner-1", 0.25, stain_h=(0.650, 0.704, 0.286), stain_e=(0.072, 0.990, 0.105),
        strength_h=1.00, strength_e=1.00, background=(243.0, 243.0, 243.0), blur_um=0.25, noise=1.5, jpeg_quality=88,
        latent_shift=-1.4, batch=0.5,
    ),
    _site(
        "B", "south", "scanner-2", 0.50, stain_h=(0.5626, 0.7201, 0.4062), stain_e=(0.2159, 0.8012, 0.5581),
        strength_h=1.10, strength_e=0.90, background=(240.0, 239.0, 236.0), blur_um=0.40, noise=1.5, jpeg_quality=85,
        latent_shift=1.2, batch=-0.5,
    ),
    _site(
        "C", "east", "scanner-3", 0.46, stain_h=(0.62, 0.71, 0.33), stain_e=(0.15, 0.92, 0.36),
        strength_h=0.90, strength_e=1.10, background=(246.0, 246.0, 247.0), blur_um=0.35, noise=2.0, jpeg_quality=85,
        latent_shift=-0.7, batch=1.0,
    ),
    _site(
        "D", "west", "scanner-4", 0.50, stain_h=(0.70, 0.64, 0.31), stain_e=(0.11, 0.95, 0.29),
        strength_h=1.05, strength_e=1.05, background=(241.0, 242.0, 240.0), blur_um=0.40, noise=1.5, jpeg_quality=80,
        latent_shift=0.7, batch=-0.8,
    ),
    _site(
        "E", "north", "scanner-1", 0.25, stain_h=(0.63, 0.71, 0.31), stain_e=(0.10, 0.97, 0.22),
        strength_h=1.10, strength_e=1.10, background=(243.0, 243.0, 243.0), blur_um=0.25, noise=1.5, jpeg_quality=88,
        latent_shift=-0.4, batch=-0.6,
    ),
    _site(
        "F", "south", "scanner-2", 0.50, stain_h=(0.58, 0.72, 0.38), stain_e=(0.25, 0.78, 0.57),
        strength_h=0.95, strength_e=1.05, background=(240.0, 239.0, 236.0), blur_um=0.40, noise=1.5, jpeg_quality=85,
        latent_shift=0.6, batch=0.4,
    ),
    _site(
        "X", "abroad", "scanner-5", 0.4536, stain_h=(0.59, 0.73, 0.35), stain_e=(0.19, 0.86, 0.47),
        strength_h=0.95, strength_e=0.95, background=(238.0, 241.0, 243.0), blur_um=0.45, noise=2.5, jpeg_quality=82,
        latent_shift=0.0, batch=0.0,
    ),
)  # fmt: skip
EXTERNAL_SITE: Final = "X"
DEAL: Final = "BCDAFE"
"""Development cases are dealt to sites in this order, over and over: equal shares, also in a small cohort."""


@dataclass(frozen=True, kw_only=True)
class Subtype:
    """What a PAM50 subtype plants. Means and SDs are in SDs of the named score over all cases.

    Attributes
    ----------
    proliferation, luminal, her2_axis, basal : tuple (mean, sd)
        Four gene axes.
    til : float
        Mean of the logit of the TIL level.
    """

    name: str
    frequency: float
    proliferation: tuple[float, float]
    luminal: tuple[float, float]
    her2_axis: tuple[float, float]
    basal: tuple[float, float]
    age: tuple[float, float]
    er: float
    pr: float
    her2: float
    lobular: float
    til: float


SUBTYPES: Final[tuple[Subtype, ...]] = (
    Subtype(
        name="LumA", frequency=0.54, proliferation=(-0.58, 0.78), luminal=(0.60, 0.35), her2_axis=(-0.10, 0.60),
        basal=(0.00, 0.80), age=(63.0, 12.5), er=0.99, pr=0.77, her2=0.03, lobular=0.15, til=-2.0,
    ),
    Subtype(
        name="LumB", frequency=0.19, proliferation=(0.62, 0.44), luminal=(0.45, 0.35), her2_axis=(0.00, 0.95),
        basal=(-0.95, 0.70), age=(65.0, 11.5), er=0.99, pr=0.63, her2=0.09, lobular=0.05, til=-1.7,
    ),
    Subtype(
        name="Her2", frequency=0.08, proliferation=(0.63, 0.47), luminal=(-0.60, 0.40), her2_axis=(1.80, 1.40),
        basal=(-0.60, 0.70), age=(59.0, 13.0), er=0.42, pr=0.22, her2=0.57, lobular=0.05, til=-1.2,
    ),
    Subtype(
        name="Basal", frequency=0.19, proliferation=(1.13, 0.46), luminal=(-1.85, 0.40), her2_axis=(-0.60, 0.90),
        basal=(1.00, 0.65), age=(55.0, 14.0), er=0.14, pr=0.09, her2=0.11, lobular=0.02, til=-0.9,
    ),
)  # fmt: skip

TIL_LOGIT_SD: Final = 0.9

# component: (correlation with the latent, share of score 1, share of score 2); the rest scores 3
GRADE_COMPONENTS: Final[dict[str, tuple[float, float, float]]] = {
    "tubule": (0.35, 0.06, 0.24),
    "pleomorphism": (0.50, 0.05, 0.42),
    "mitosis": (0.75, 0.36, 0.26),
}
READER_SD: Final = 0.75
"""Error of a pathologist's reading of a component, in SDs of the component."""

SIZE_LOG2_MEAN: Final = 0.20
"""Mean of log2(size / 20 mm)."""
SIZE_LOG2_SD: Final = 0.75
SIZE_CORRELATION: Final = 0.20
"""Of log2 size with the latent."""
NODES_CORRELATION: Final = (0.30, 0.12)
"""Of the nodal propensity with log2 size and with the latent."""
NODES_NEGATIVE: Final = 0.53
NODES_LOG: Final = (0.30, 1.30)
"""Mean and SD of the log of (nodes - 1), rounded down, among node-positive cases."""
REFERENCE_CASE: Final = {"log_nodes": 0.63, "log2_size": 0.20, "age_years": 61.0}
"""Where the linear predictor of recurrence is 0, with a latent of 0."""

BATCH_LOADING: Final = 0.15
"""log2 units per unit of a site's batch; all genes but housekeeping and null ones."""

PROLIF11: Final = ("BIRC5", "CCNB1", "CDC20", "NUF2", "CEP55", "NDC80", "MKI67", "PTTG1", "RRM2", "TYMS", "UBE2C")

# gene: base (log2), proliferation, luminal, her2, basal, noise SD. Loadings below 0.1 are 0.
PAM50_LOADINGS: Final[dict[str, tuple[float, float, float, float, float, float]]] = {
    "BIRC5": (8.3, 1.40, 0.0, 0.0, 0.0, 0.60),
    "CCNB1": (9.8, 0.95, 0.0, 0.0, 0.0, 0.40),
    "CDC20": (9.1, 1.20, 0.0, 0.0, 0.0, 0.50),
    "NUF2": (8.0, 1.25, 0.0, 0.0, 0.0, 0.65),
    "CEP55": (8.4, 1.25, 0.0, 0.0, 0.0, 0.45),
    "NDC80": (7.9, 1.20, 0.0, 0.0, 0.0, 0.45),
    "MKI67": (10.6, 1.20, 0.0, 0.0, 0.0, 0.65),
    "PTTG1": (8.5, 1.15, 0.0, 0.0, 0.0, 0.55),
    "RRM2": (9.7, 1.20, 0.0, 0.0, 0.0, 0.60),
    "TYMS": (9.1, 0.90, 0.0, 0.0, 0.0, 0.60),
    "UBE2C": (9.0, 1.40, 0.0, 0.0, 0.0, 0.50),
    "ANLN": (9.3, 1.10, -0.15, 0.0, 0.0, 0.75),
    "CCNE1": (6.4, 0.80, -0.70, 0.0, 0.0, 0.85),
    "CDC6": (8.5, 1.10, 0.0, 0.40, 0.0, 0.80),
    "CENPF": (10.8, 1.10, 0.10, 0.0, 0.0, 0.70),
    "EXO1": (7.6, 1.30, 0.0, 0.0, 0.0, 0.65),
    "KIF2C": (8.7, 1.25, -0.10, 0.0, 0.0, 0.40),
    "MELK": (8.1, 1.30, 0.0, 0.0, 0.0, 0.55),
    "MYBL2": (9.4, 1.50, -0.10, 0.10, 0.0, 0.75),
    "ORC6": (6.8, 1.00, -0.30, 0.0, -0.15, 0.70),
    "UBE2T": (8.5, 1.05, 0.0, 0.0, 0.0, 0.55),
    "ESR1": (11.6, 0.20, 3.00, -0.40, 0.0, 1.20),
    "PGR": (9.0, -0.25, 2.65, -0.40, 0.50, 2.15),
    "FOXA1": (11.6, 0.0, 2.20, 0.50, -0.40, 1.05),
    "NAT1": (9.6, 0.0, 2.40, -0.25, 0.25, 1.50),
    "MLPH": (11.7, -0.25, 1.80, 0.45, -0.15, 1.10),
    "SLC39A6": (13.6, 0.25, 1.60, 0.0, 0.0, 1.15),
    "BCL2": (10.2, 0.0, 1.15, -0.30, 0.15, 1.00),
    "MAPT": (10.1, -0.15, 2.10, -0.10, 0.25, 1.45),
    "GPR160": (9.6, 0.0, 0.95, 0.25, -0.15, 0.85),
    "CXXC5": (9.4, 0.0, 0.85, 0.10, 0.0, 0.85),
    "BAG1": (10.7, 0.0, 0.25, 0.0, 0.0, 0.80),
    "BLVRA": (10.2, 0.15, 0.40, 0.0, 0.0, 0.80),
    "MDM2": (11.0, 0.10, 0.30, -0.10, 0.0, 0.65),
    "MMP11": (12.2, 0.15, 0.40, 0.20, 0.0, 1.75),
    "TMEM45B": (6.7, -0.50, 0.55, 0.75, -0.35, 1.95),
    "ERBB2": (13.0, 0.0, 0.10, 1.45, 0.0, 0.40),
    "GRB7": (9.3, 0.0, -0.10, 1.45, 0.0, 0.40),
    "FGFR4": (6.9, 0.15, -0.35, 0.70, 0.0, 2.00),
    "KRT5": (9.5, 0.25, 0.65, 0.0, 3.55, 1.35),
    "KRT14": (8.9, 0.10, 1.05, 0.20, 3.75, 1.20),
    "KRT17": (9.4, 0.10, 0.35, 0.25, 3.10, 1.25),
    "SFRP1": (9.6, -0.30, -0.50, -0.15, 2.25, 1.50),
    "MIA": (5.0, 0.0, -0.45, -0.10, 2.30, 1.40),
    "FOXC1": (7.6, -0.10, -1.10, -0.25, 0.85, 0.90),
    "CDH3": (9.6, 0.15, -0.60, 0.20, 1.00, 1.35),
    "EGFR": (7.4, -0.25, -0.80, 0.0, 0.75, 1.55),
    "PHGDH": (9.8, 0.35, -0.75, 0.10, 0.35, 1.30),
    "MYC": (10.7, 0.10, -0.20, -0.15, 0.35, 1.10),
    "ACTR3B": (7.8, 0.0, -0.35, -0.10, 0.10, 0.75),
}

# gene: base, loading on the standardised TIL level, noise SD
IMMUNE_LOADINGS: Final[dict[str, tuple[float, float, float]]] = {
    "PTPRC": (9.5, 0.90, 0.50),
    "CD3D": (7.5, 1.10, 0.60),
    "CD3E": (7.8, 1.10, 0.60),
    "CD8A": (7.6, 1.10, 0.70),
    "CD4": (9.8, 0.60, 0.50),
    "MS4A1": (5.5, 1.20, 1.10),
    "FOXP3": (6.2, 0.80, 0.60),
    "GZMB": (6.5, 1.10, 0.80),
    "CXCL9": (8.5, 1.40, 1.10),
    "CD274": (5.6, 0.80, 0.80),
    "IRF4": (6.0, 0.90, 0.80),
    "SELL": (7.4, 0.90, 0.80),
}
HOUSEKEEPING: Final[dict[str, tuple[float, float]]] = {
    "ACTB": (16.0, 0.30),
    "GAPDH": (15.5, 0.35),
    "RPLP0": (14.5, 0.30),
    "TFRC": (11.5, 0.45),
    "PUM1": (11.0, 0.20),
    "TBP": (7.8, 0.25),
    "GUSB": (10.4, 0.35),
    "MRPL19": (9.6, 0.25),
}
NULL_GENE: Final = (8.0, 1.0)
"""Base and noise SD of every null gene."""


@dataclass(frozen=True, kw_only=True)
class OmicsEffect:
    """One omics feature: what drives it, and how strongly.

    Attributes
    ----------
    driver : str
        proliferation, til, pleomorphism, cohesion (low in lobular cases), her2_axis, luminal, or none.
    effect : float
        Per SD of the driver: log2 ratio, log odds, logit of the beta value, or z of the protein.
    base, noise_sd : float
        Value at the driver's mean; SD around it (0 for mutations, whose noise is the coin itself).
    """

    kind: str
    feature: str
    driver: str
    effect: float
    base: float
    noise_sd: float


def _omics(kind: str, noise_sd: float, rows: tuple[tuple[str, str, float, float], ...]) -> tuple[OmicsEffect, ...]:
    return tuple(
        OmicsEffect(kind=kind, feature=feature, driver=driver, effect=effect, base=base, noise_sd=noise_sd)
        for feature, driver, effect, base in rows
    )


# feature, driver, effect per SD, base
OMICS: Final[tuple[OmicsEffect, ...]] = (
    *_omics("copy_number", 0.25, (
        ("CN_MYC_8q24", "proliferation", 0.30, 0.30),
        ("CN_AURKA_20q13", "proliferation", 0.25, 0.20),
        ("CN_RB1_13q14", "proliferation", -0.20, -0.15),
        ("CN_PTEN_10q23", "pleomorphism", -0.20, -0.10),
        ("CN_ERBB2_17q12", "her2_axis", 0.60, 0.20),
        ("CN_CDH1_16q22", "cohesion", 0.25, -0.20),
    )),
    *_omics("mutation", 0.0, (
        ("MUT_TP53", "proliferation", 1.40, -0.80),
        ("MUT_PIK3CA", "proliferation", -0.80, -0.70),
        ("MUT_GATA3", "luminal", 1.00, -2.20),
        ("MUT_CDH1", "cohesion", -1.60, -2.40),
    )),
    *_omics("methylation", 0.50, (
        ("METH_RASSF1_cg", "proliferation", 0.45, 0.00),
        ("METH_ESR1_cg", "luminal", -0.60, -1.00),
        ("METH_CCND2_cg", "proliferation", 0.35, -0.50),
        ("METH_CD3D_cg", "til", -0.60, 0.80),
        ("METH_CDH1_cg", "cohesion", -0.50, -1.20),
    )),
    *_omics("protein", 0.60, (
        ("PROT_CYCLIN_B1", "proliferation", 0.75, 0.00),
        ("PROT_PCNA", "proliferation", 0.60, 0.00),
        ("PROT_CDK1", "proliferation", 0.60, 0.00),
        ("PROT_LCK", "til", 0.75, 0.00),
        ("PROT_ECADHERIN", "cohesion", 0.75, 0.00),
        ("PROT_HER2", "her2_axis", 0.80, 0.00),
    )),
)  # fmt: skip
OMICS_UNITS: Final = {"copy_number": "log2_ratio", "mutation": "binary", "methylation": "beta", "protein": "z"}
OMICS_NULLS: Final = {
    "copy_number": (0.0, 0.35),
    "mutation": (-2.2, 0.0),
    "methylation": (0.0, 0.8),
    "protein": (0.0, 1.0),
}
"""Base and noise SD of a null feature, by kind."""
