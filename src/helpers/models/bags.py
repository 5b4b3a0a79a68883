"""Bags: the tiles of every case in one array, so that any arm reads them without copying or padding."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from helpers.core.errors import BagError, ModelError
from helpers.core.progress import track
from helpers.models.pooling import ReadTiles, pool_tiles


@dataclass(frozen=True, eq=False)
class TileStore:
    """The tiles of many cases, one after the other.

    Parameters
    ----------
    tiles : ndarray, (n_tiles, d), float32
    starts : ndarray, (n_cases + 1,), int
        Case i owns rows starts[i] to starts[i + 1].
    pooled : dict of str to ndarray, (n_cases, D)
        Filled on demand: what depends on no fit is computed once for all folds.
    """

    tiles: np.ndarray
    starts: np.ndarray
    pooled: dict[str, np.ndarray] = field(default_factory=dict)

    def pool(self, aggregation: str) -> np.ndarray:
        """Pool every case once, and remember it.

        Parameters
        ----------
        aggregation : str
            One of `helpers.models.pooling.AGGREGATIONS`.

        Returns
        -------
        ndarray, (n_cases, D), float64
        """
        if aggregation not in self.pooled:
            pairs = zip(self.starts[:-1], self.starts[1:], strict=True)
            rows = [pool_tiles(self.tiles[a:b], aggregation=aggregation) for a, b in pairs]
            self.pooled[aggregation] = np.stack(rows)
        return self.pooled[aggregation]


class Bags(Sequence[np.ndarray]):
    """Some cases of a store, in a given order. Taking a part copies no tile.

    Parameters
    ----------
    store : TileStore
    rows : ndarray, (n_cases,), int
        Cases of the store.
    """

    def __init__(self, store: TileStore, rows: np.ndarray) -> None:
        self.store, self.rows = store, np.asarray(rows, int)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        row = self.rows[index]
        return self.store.tiles[self.store.starts[row] : self.store.starts[row + 1]]

    @property
    def width(self) -> int:
        """Features per tile."""
        return int(self.store.tiles.shape[1])

    @property
    def sizes(self) -> np.ndarray:
        """Tiles per case, (n_cases,)."""
        return np.diff(self.store.starts)[self.rows]

    def take(self, rows: np.ndarray) -> "Bags":
        """Return a part.

        Parameters
        ----------
        rows : ndarray, int or bool
            Positions in these bags.

        Returns
        -------
        Bags
        """
        return Bags(self.store, self.rows[rows])

    def pool(self, aggregation: str) -> np.ndarray:
        """Pool every case.

        Parameters
        ----------
        aggregation : str

        Returns
        -------
        ndarray, (n_cases, D)
        """
        return self.store.pool(aggregation)[self.rows]

    def list_tiles(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all tiles of these cases, and the case each belongs to.

        Returns
        -------
        tiles : ndarray, (n_tiles, d), float32
        owner : ndarray, (n_tiles,), int
            Position of the case in these bags; ascending.
        """
        owner = np.repeat(np.arange(len(self)), self.sizes)
        first = np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        within = np.arange(len(owner)) - first
        return self.store.tiles[self.store.starts[self.rows][owner] + within], owner


def average_by_case(values: np.ndarray, owner: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average values of tiles over the tiles of each case.

    Parameters
    ----------
    values : ndarray, (n_tiles, D)
    owner : ndarray, (n_tiles,), int
        Case of each tile, ascending from 0, none left out.
    weights : ndarray, (n_tiles,), optional
        Not negative; default: equal.

    Returns
    -------
    ndarray, (n_cases, D), float64
    """
    from scipy.sparse import csr_array

    weights = np.ones(len(owner)) if weights is None else weights
    n_cases = int(owner[-1]) + 1
    shares = weights / np.bincount(owner, weights)[owner]
    starts = np.searchsorted(owner, np.arange(n_cases + 1))
    matrix = csr_array((shares.astype(values.dtype), np.arange(len(owner)), starts), shape=(n_cases, len(owner)))
    return np.asarray(matrix @ values, float)


def collect_bags(bags: Sequence[np.ndarray]) -> Bags:
    """Put bags into one store; bags that lie in one already are returned as they are.

    Parameters
    ----------
    bags : sequence of ndarray, (n_tiles, d)

    Returns
    -------
    Bags

    Raises
    ------
    BagError
        When there is no bag, one is empty or holds a missing value, or widths differ.
    """
    if isinstance(bags, Bags):
        return bags
    arrays = [np.asarray(bag, np.float32) for bag in bags]
    if not arrays:
        msg = "BagError: no bag was given. Give the tiles of one case at least."
        raise BagError(msg)
    shapes = [array.shape for array in arrays]
    for position, shape in enumerate(shapes):
        if len(shape) != 2 or not shape[0] or shape[1:] != shapes[0][1:]:
            msg = f"BagError: bag {position} has shape {shape}; expected (n_tiles ≥ 1, {shapes[0][-1]}) as bag 0."
            raise BagError(msg)
        if not np.isfinite(arrays[position]).all():
            msg = f"BagError: bag {position} holds missing or infinite features. Drop these tiles, or extract again."
            raise BagError(msg)
    starts = np.concatenate([[0], np.cumsum([shape[0] for shape in shapes])])
    return Bags(TileStore(np.concatenate(arrays), starts), np.arange(len(arrays)))


def check_width(tiles: np.ndarray, *, expected: int) -> None:
    """Raise where tiles have another number of features than a model was fitted on.

    Parameters
    ----------
    tiles : ndarray, (n_tiles, d)
    expected : int

    Raises
    ------
    ModelError
    """
    if tiles.shape[1] != expected:
        msg = f"ModelError: tiles of {tiles.shape[1]} features were given to a net of {expected}. Use its encoder."
        raise ModelError(msg)


def read_bags(slides: pd.DataFrame, read_tiles: ReadTiles) -> tuple[Bags, pd.Index]:
    """Read the bag of every case: all tiles of all its slides.

    Parameters
    ----------
    slides : DataFrame
        slide_id, case_id.
    read_tiles : callable
        Slide id to (n_tiles, d); a slide may give none.

    Returns
    -------
    bags : Bags
    cases : Index
        Case of each bag, in order of first appearance; cases without a single tile are absent.

    Raises
    ------
    BagError
        Names the case when its slides, or two cases, do not fit each other, or hold missing values.
    """
    found: dict[str, np.ndarray] = {}
    groups = slides.groupby("case_id", sort=False)["slide_id"]
    for case_id, slide_ids in track(groups, total=groups.ngroups, describe="read bags"):
        parts = [np.asarray(read_tiles(slide_id), np.float32) for slide_id in slide_ids]
        widths = sorted({part.shape[1] for part in parts} | {bag.shape[1] for bag in list(found.values())[:1]})
        if len(widths) > 1:
            msg = f"BagError: the slides of case '{case_id}' have {widths} features per tile. Use one encoder for all."
            raise BagError(msg)
        bag = np.concatenate(parts)
        if not np.isfinite(bag).all():
            bad = int((~np.isfinite(bag)).any(axis=1).sum())
            msg = f"BagError: case '{case_id}': {bad} of {len(bag)} tiles hold missing or infinite features."
            raise BagError(msg)
        if len(bag):
            found[str(case_id)] = bag
    return collect_bags(list(found.values())), pd.Index(list(found), name="case_id")
