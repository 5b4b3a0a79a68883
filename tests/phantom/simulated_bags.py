"""Tile features of slides that are not drawn, for tests of chapter 06."""

import numpy as np
import pandas as pd

from helpers.phantom.planted_labels import IMAGE_DRIVER, standardise
from helpers.phantom.population import open_streams


def simulate_bags(cases_truth: pd.DataFrame, *, n_tiles: int = 30, n_features: int = 24, seed: int) -> list[np.ndarray]:
    """Draw tile features that a plain encoder might give of slides that are not drawn.

    Each case's tubule formation, latent proliferation and TIL level, with noise of the case (an encoder reads them
    with a correlation of about 0.75) and more noise of the tile, mixed into all features. A stand-in where drawing
    hundreds of slides would take too long; `config/phantom-large.yaml` draws them.

    Parameters
    ----------
    cases_truth : DataFrame
        With tubule, latent, til_z.
    n_tiles : int
        On average.
    n_features : int
    seed : int

    Returns
    -------
    list of ndarray, (n_tiles, n_features), float32
        In the order of `cases_truth`.
    """
    streams = open_streams(seed, "simulated_tiles")
    shown = np.column_stack(
        [standardise(cases_truth[name].to_numpy(float)) for name in (IMAGE_DRIVER, "latent", "til_z")]
    )
    noise, mixing, sizes = streams("case"), streams("mixing"), streams("sizes")
    read = shown + 0.9 * noise.standard_normal(shown.shape)
    nuisance = noise.standard_normal((len(shown), 5))
    mix = mixing.standard_normal((8, n_features)) / np.sqrt(8)
    counts = np.maximum(3, np.rint(n_tiles * (0.5 + sizes.random(len(shown))))).astype(int)
    tiles = streams("tiles")
    bags = []
    for case, n in zip(np.hstack([read, nuisance]), counts, strict=True):
        bags.append(((case + 1.5 * tiles.standard_normal((n, 8))) @ mix).astype(np.float32))
    return bags
