"""Labels planted on top of a phantom, for chapter 06: what a fusion of images and genes must find, and must not.

A phantom's subtype is nearly in its genes, so no fusion can gain there, as none can on real PAM50 labels. Here a judge
who may read the truth draws labels of which he knows where the signal lies: in the tubule formation that the slide
shows and no gene follows, in the HER2 axis that the genes show and no slide does, in both, in their interaction, or
nowhere. Such a label is no part of the cohort's tables.
"""

from typing import Final, Literal

import numpy as np
import pandas as pd

from helpers.core.errors import PhantomError
from helpers.phantom.population import open_streams

Kind = Literal["both", "genes", "image", "interaction", "nothing"]
KINDS: Final[tuple[Kind, ...]] = ("both", "genes", "image", "interaction", "nothing")
IMAGE_DRIVER: Final = "tubule"
"""Solid growth against tubules, drawn on the slide (correlation 0.35 with the latent); no gene loads on it."""
GENE_DRIVER: Final = "factor_her2"
"""HER2 axis, on which ERBB2 and GRB7 load; nothing on the slide depends on it but through the subtype."""
STEEPNESS: Final = 2.0
"""Log odds per SD of each driver."""


def plant_label(cases_truth: pd.DataFrame, *, kind: Kind, seed: int) -> pd.Series:
    """Draw a label of two classes, about half positive, whose signal lies where `kind` says.

    Parameters
    ----------
    cases_truth : DataFrame
        truth/cases_truth.csv of a phantom: case_id, and the two drivers.
    kind : {"both", "genes", "image", "interaction", "nothing"}
        both: log odds 2 z_image + 2 z_genes; interaction: 2 z_image z_genes, of which neither alone says anything.
    seed : int

    Returns
    -------
    Series of float
        0 or 1 by `case_id`.

    Raises
    ------
    PhantomError
        When the kind is unknown or a driver is missing.
    """
    missing = [name for name in ("case_id", IMAGE_DRIVER, GENE_DRIVER) if name not in cases_truth]
    if missing or kind not in KINDS:
        found = f"the truth has no column '{missing[0]}'" if missing else f"label '{kind}' is unknown"
        msg = f"PhantomError: {found}; expected the truth of a phantom, and one of {', '.join(KINDS)}."
        raise PhantomError(msg)
    image, genes = (standardise(cases_truth[name].to_numpy(float)) for name in (IMAGE_DRIVER, GENE_DRIVER))
    signal = {
        "both": image + genes, "genes": genes, "image": image, "interaction": image * genes,
        "nothing": np.zeros(len(image)),
    }[kind]  # fmt: skip
    chance = 1 / (1 + np.exp(-STEEPNESS * (signal - np.median(signal))))
    drawn = open_streams(seed, "planted_label")(kind).random(len(chance))
    return pd.Series((drawn < chance).astype(float), index=pd.Index(cases_truth["case_id"], name="case_id"), name=kind)


def standardise(values: np.ndarray) -> np.ndarray:
    """Return ranks as normal scores: mean 0, SD 1, no tail.

    Parameters
    ----------
    values : ndarray, (n,)

    Returns
    -------
    ndarray, (n,)
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return np.asarray(ndtri((rankdata(values) - 0.5) / len(values)), float)
