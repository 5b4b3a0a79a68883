"""What a score rests on: tile scores of any arm, and the tiles without which a high score would be no high score."""

from collections.abc import Sequence

import numpy as np

from helpers.core.errors import BagError, ModelError
from helpers.models.arms import FittedArm
from helpers.models.pooling import pool_tile_scores


def score_tiles(fitted: Sequence[FittedArm], tiles: np.ndarray) -> np.ndarray:
    """Average the tile scores of the models of all folds.

    Parameters
    ----------
    fitted : sequence of FittedArm
    tiles : ndarray, (n_tiles, d)

    Returns
    -------
    ndarray, (n_tiles, k)

    Raises
    ------
    ModelError
        When the arm gives no tile scores.
    """
    return np.mean([model.score_tiles(tiles) for model in fitted], axis=0)


def has_tile_scores(fitted: Sequence[FittedArm], tiles: np.ndarray) -> bool:
    """Say whether the mean of the tiles' scores is the prediction of their case.

    Kernels of case means and quantiles score no tile, and attention weighs tiles unequally.

    Parameters
    ----------
    fitted : sequence of FittedArm
    tiles : ndarray, (n_tiles, d)
        Of one case.

    Returns
    -------
    bool
    """
    try:
        scores = score_tiles(fitted, tiles)
    except ModelError:
        return False
    predicted = np.mean([model.predict([tiles])[0] for model in fitted], axis=0)
    return bool(np.allclose(scores.mean(axis=0), predicted, rtol=1e-4, atol=1e-4))


def find_decisive_tiles(scores: np.ndarray, *, cutoff: float, aggregation: str = "mean") -> np.ndarray:
    """Find the fewest of the highest tiles without which a slide's score falls to the cut-off or below.

    Tiles are taken away from the highest score downwards until the pooled score of the rest no longer exceeds the
    cut-off: these tiles carry the call. An exact answer to "what is the call based on", for the model as it is; whether
    the model looks at the right thing is another question.

    Parameters
    ----------
    scores : ndarray, (n_tiles,)
    cutoff : float
        Above it a slide is called high.
    aggregation : str
        How tile scores become the slide's: mean, median or p75.

    Returns
    -------
    ndarray, (n_tiles,), bool
        True for decisive tiles; none where the slide is not called high, all where every tile lies above the cut-off.

    Raises
    ------
    BagError
        When there is no tile or a score is missing.

    References
    ----------
    The idea is that of WEEP (Sharma, Liu and Rantalainen 2024, arXiv:2403.15238): take tiles away until the label of
    the slide changes.
    """
    scores = np.asarray(scores, float)
    if not len(scores) or not np.isfinite(scores).all():
        msg = f"BagError: {len(scores)} tile scores, {int((~np.isfinite(scores)).sum())} missing. Give one per tile."
        raise BagError(msg)
    order = np.argsort(-scores, kind="stable")
    low, high = 0, len(scores)
    while low < high:  # what is left only falls as tiles are taken from the top, so halving finds the number
        middle = (low + high) // 2
        left = scores[order[middle:]]
        fallen = pool_tile_scores(left, aggregation=aggregation) <= cutoff
        low, high = (low, middle) if fallen else (middle + 1, high)
    decisive = np.zeros(len(scores), bool)
    decisive[order[:low]] = True
    return decisive
