"""What the planted drivers do to the picture: every effect size of the renderer, with where it comes from.

All effects of proliferation were set before the first feasibility run and have not been touched since. The *direction*
of each effect is established; its *size* is our choice on the scale on which pathologists describe it, since no paper
gives it per unit of an RNA latent. Proliferation acts locally, through its map, and moderately; every effect is
overlaid by variation that has nothing to do with it (size of the nuclei, pleomorphism, cellularity, preparation,
staining, scanner, the mix of tissues), so that no single number read off a slide gives it away.

===========================  =====================================================================================
driver                       effect and source
===========================  =====================================================================================
proliferation → mitoses      Rate × exp(0.8 z). Mitotic counts span about two decades between tumours of the same
                             grade system: score 1 ends near 3, score 3 begins near 8 per mm2 (Elston and Ellis 1991,
                             Histopathology 19:403). exp(0.8 z) spans a factor of 25 from z = -2 to +2. A slide
                             holds 0 to 60 figures; whoever could count them all would follow z at a Spearman near
                             0.9, but they are rare, small, and have look-alikes (apoptosis, lymphocytes). The best
                             image-based prediction of the RNA score in TUPAC16 reached 0.617 (Veta et al. 2019, Med
                             Image Anal 54:111).
proliferation → crowding     Nuclei per area × exp(0.08 z). Cellularity rises with proliferation (van Diest et al.
                             2004, J Clin Pathol 57:675).
proliferation → size         Diameter × exp(0.03 z). Nuclear area grows with S/G2 content and with mitotic activity
                             (Pienta and Coffey 1991, Cancer 68:2012).
proliferation → chromatin    Contrast of clumps and nucleoli × exp(0.18 z), at unchanged mean
                             optical density: coarse, cleared ("vesicular") chromatin (Zink et al. 2004, Nat Rev
                             Cancer 4:677). It is texture; the mean colour does not carry it.
proliferation → darkness     Optical density of tumour nuclei × exp(0.02 z) (more DNA per nucleus).
proliferation → apoptosis    Rate × exp(0.3 z): turnover; looks like mitosis to a naive counter.
mitosis component            Mitotic rate × exp(0.35 (mitosis - 2)), on top of proliferation.
pleomorphism component       Diameter × (1 + 0.10 (p - 2)), CV of the diameter 0.08 + 0.06 (p - 1), irregular outline
                             0.02 + 0.03 (p - 1), contrast × exp(0.10 (p - 2)) (Elston and Ellis 1991: size, variation,
                             vesicular chromatin and nucleoli define the score).
tubule component             Share of the epithelium that forms lumina 0.94 (1) to 0.02 (3); Elston and Ellis: > 75 %
                             for score 1, < 10 % for score 3.
TIL level                    About 6,000 lymphocytes per mm2 of stroma at level 1, in patches; 4 % as many inside
                             nests (stromal and intraepithelial TILs, Salgado et al. 2015, Ann Oncol 26:259).
preparation (per slide)      Independent of everything: cellularity SD 0.07, chromatin contrast SD 0.12, nuclear
                             density SD 0.08, cytoplasmic haematoxylin SD 0.20, section thickness SD 0.08 (log scale).
===========================  =====================================================================================
"""

from dataclasses import dataclass

import numpy as np

from helpers.phantom.fields import make_rng
from helpers.phantom.plan import SlidePlan

MITOTIC_FRACTION = 0.0018
MITOSIS_PER_Z = 0.80
MITOSIS_PER_COMPONENT = 0.35
CROWDING_PER_Z = 0.08
SIZE_PER_Z = 0.03
CHROMATIN_PER_Z = 0.18
CHROMATIN_PER_PLEOMORPHISM = 0.10
CHROMATIN_CELL_SD = 0.18
DARKNESS_PER_Z = 0.02
DARKNESS_CELL_SD = 0.10
APOPTOTIC_FRACTION = 0.0012
APOPTOSIS_PER_Z = 0.30
Z_LIMIT = 3.5
"""Local z is clipped here before it acts: biology saturates."""

LYMPHOCYTES_PER_MM2 = 6000.0
INTRAEPITHELIAL_SHARE = 0.04
TIL_REACH_UM = 120.0
"""How far outside nests stroma still belongs to the tumour's front, um."""


@dataclass(frozen=True)
class Preparation:
    """How block, section and staining happened to turn out on one slide; factors around 1.

    Parameters
    ----------
    cellularity, contrast, darkness, cytoplasm, thickness : float
        Factors of tumour cells per area, chromatin contrast, optical density of nuclei, haematoxylin in cytoplasm,
        and of both stains alike.
    """

    cellularity: float
    contrast: float
    darkness: float
    cytoplasm: float
    thickness: float


def draw_preparation(plan: SlidePlan) -> Preparation:
    """Draw the preparation of a slide from its seed.

    Parameters
    ----------
    plan : SlidePlan

    Returns
    -------
    Preparation
    """
    spread = np.array([0.07, 0.12, 0.08, 0.20, 0.08])
    factors = np.exp(spread * make_rng(plan.seed, "preparation").standard_normal(5))
    return Preparation(*(float(factor) for factor in factors))
