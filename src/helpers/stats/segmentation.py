"""How well found objects agree with outlined ones: centres, areas, aggregated Jaccard, panoptic quality.

Objects are numbers in two label images of one size (0 = background). Every score is counted over objects of one image,
or over several images by adding up their agreements: counts are added, ratios never averaged.

References
----------
Kumar et al. 2017, doi 10.1109/TMI.2017.2677499 (aggregated Jaccard index); Kirillov et al. 2019, arXiv:1801.00868
(panoptic quality).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.core.errors import StatsError

Labels = NDArray[np.integer[Any]]
Points = NDArray[np.float64]
IOU = 0.5
"""Two areas are one object when their intersection is more than this share of their union: no area then has two."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Counts from which every score of a segmentation follows; two of them can be added.

    Attributes
    ----------
    n_truth, n_found : int
        Objects.
    n_near : int
        Pairs of centres, one to one.
    n_same : int
        Pairs of areas with an intersection over union above 0.5.
    iou_sum : float
        Of those pairs.
    shared_px, joined_px : int
        Numerator and denominator of the aggregated Jaccard index.
    """

    n_truth: int
    n_found: int
    n_near: int
    n_same: int
    iou_sum: float
    shared_px: int
    joined_px: int

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})

    def to_scores(self) -> dict[str, float]:
        """Return the scores; NaN where neither image holds an object.

        Returns
        -------
        dict of str to float
            n_truth, n_found, count_ratio, centroid_f1, iou_f1, aji, sq (mean IoU of the matched), pq.
        """
        either = self.n_truth + self.n_found
        iou_f1 = _divide(2 * self.n_same, either)
        sq = _divide(self.iou_sum, self.n_same)
        return {
            "n_truth": float(self.n_truth),
            "n_found": float(self.n_found),
            "count_ratio": _divide(self.n_found, self.n_truth),
            "centroid_f1": _divide(2 * self.n_near, either),
            "iou_f1": iou_f1,
            "aji": _divide(self.shared_px, self.joined_px),
            "sq": sq,
            "pq": iou_f1 * sq if self.n_same else iou_f1,
        }


def _divide(above: float, below: float) -> float:
    return float(above / below) if below else float("nan")


def compare_segmentations(truth: Labels, found: Labels, *, um_per_px: float, reach_um: float = 6.0) -> Agreement:
    """Compare the objects of two label images.

    Parameters
    ----------
    truth, found : ndarray, (H, W), int
        0 is background; numbers need not be consecutive.
    um_per_px : float
    reach_um : float
        Farthest that two centres of one object may lie apart.

    Returns
    -------
    Agreement

    Raises
    ------
    StatsError
        When the images differ in shape, hold no integers, or hold negative numbers.
    """
    _check_labels(truth, found)
    pairs = match_centres(find_centres(truth) * um_per_px, find_centres(found) * um_per_px, reach=reach_um)
    overlap = compute_overlap(truth, found)  # (n_truth, n_found)
    truth_px, found_px = (np.unique(labels[labels > 0], return_counts=True)[1] for labels in (truth, found))
    union = truth_px[:, None] + found_px[None, :] - overlap
    iou = overlap / np.maximum(union, 1)
    same = iou[iou > IOU]
    shared, joined = _aggregate(overlap, union, truth_px, found_px)
    return Agreement(
        n_truth=len(truth_px),
        n_found=len(found_px),
        n_near=len(pairs),
        n_same=len(same),
        iou_sum=float(same.sum()),
        shared_px=shared,
        joined_px=joined,
    )


def _check_labels(truth: Labels, found: Labels) -> None:
    for name, labels in (("truth", truth), ("found", found)):
        wrong = labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer)
        if wrong or labels.shape != truth.shape or (labels.size and labels.min() < 0):
            msg = (
                f"StatsError: the label image '{name}' has shape {labels.shape} and type {labels.dtype}, and 'truth' "
                f"has shape {truth.shape}; expected two images (H, W) of one shape with numbers from 0. "
                "Label both at one resolution."
            )
            raise StatsError(msg)


def find_centres(labels: Labels) -> Points:
    """Return the centroid of every object.

    Parameters
    ----------
    labels : ndarray, (H, W), int

    Returns
    -------
    ndarray, (n, 2), float64
        x, y in px, by rising number; the centre of the upper left pixel is (0, 0).
    """
    rows, columns = np.nonzero(labels)
    _, place, counts = np.unique(labels[rows, columns], return_inverse=True, return_counts=True)
    sums = [np.bincount(place, weights=axis, minlength=len(counts)) for axis in (columns, rows)]
    return np.column_stack(sums) / np.maximum(counts, 1)[:, None]


def match_centres(truth: Points, found: Points, *, reach: float) -> NDArray[np.int64]:
    """Pair points one to one: as many pairs within reach as possible, and of those the nearest (Hungarian method).

    Parameters
    ----------
    truth, found : ndarray, (n, 2) and (m, 2)
    reach : float
        Largest distance of a pair, in the points' unit.

    Returns
    -------
    ndarray, (k, 2), int64
        Rows of `truth` and of `found`.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    if not len(truth) or not len(found):
        return np.zeros((0, 2), np.int64)
    distance = cdist(truth, found)
    never = reach * (min(len(truth), len(found)) + 1)  # dearer than any full set of pairs
    rows, columns = linear_sum_assignment(np.where(distance <= reach, distance, never))
    kept = distance[rows, columns] <= reach
    return np.column_stack([rows[kept], columns[kept]]).astype(np.int64)


def compute_overlap(truth: Labels, found: Labels) -> NDArray[np.int64]:
    """Count the pixels that each object of one image shares with each of the other.

    Parameters
    ----------
    truth, found : ndarray, (H, W), int

    Returns
    -------
    ndarray, (n_truth, n_found), int64
        Rows and columns by rising number.
    """
    truth_ids, found_ids = (np.unique(labels[labels > 0]) for labels in (truth, found))
    both = (truth > 0) & (found > 0)
    row, column = np.searchsorted(truth_ids, truth[both]), np.searchsorted(found_ids, found[both])
    counts = np.bincount(row * len(found_ids) + column, minlength=len(truth_ids) * len(found_ids))
    return counts.reshape(len(truth_ids), len(found_ids))


def _aggregate(
    overlap: NDArray[np.int64], union: NDArray[np.int64], truth_px: NDArray[np.int64], found_px: NDArray[np.int64]
) -> tuple[int, int]:
    """Return the aggregated intersection and union: each outlined object with its best partner, plus what is left."""
    if not overlap.size:
        return 0, int(truth_px.sum() + found_px.sum())
    rows = np.arange(len(truth_px))
    best = np.argmax(overlap / union, axis=1)
    met = overlap[rows, best] > 0
    left = np.setdiff1d(np.arange(len(found_px)), best[met])
    joined = union[rows, best][met].sum() + truth_px[~met].sum() + found_px[left].sum()
    return int(overlap[rows, best][met].sum()), int(joined)


def classify_objects(truth: Labels, found: Labels, *, um_per_px: float, reach_um: float = 6.0) -> dict[str, list[int]]:
    """Sort objects into matched, missed and false by their centres, for figures.

    Parameters
    ----------
    truth, found : ndarray, (H, W), int
    um_per_px : float
    reach_um : float

    Returns
    -------
    dict of str to list of int
        'matched' and 'false': numbers of `found`; 'missed': numbers of `truth`.
    """
    _check_labels(truth, found)
    pairs = match_centres(find_centres(truth) * um_per_px, find_centres(found) * um_per_px, reach=reach_um)
    truth_ids, found_ids = (np.unique(labels[labels > 0]) for labels in (truth, found))
    return {
        "matched": found_ids[np.sort(pairs[:, 1])].tolist(),
        "false": np.delete(found_ids, pairs[:, 1]).tolist(),
        "missed": np.delete(truth_ids, pairs[:, 0]).tolist(),
    }
