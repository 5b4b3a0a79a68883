"""Tiles for training: which of a slide may be drawn, how often a slide is drawn, and a bounded memory of decoded tiles.

Every draw of a step comes from a random stream of that step alone. A run that was interrupted therefore draws what it
would have drawn, and so do several processes that share a batch.
"""

import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from helpers.core.errors import BagError
from helpers.features.store import FeatureBag
from helpers.models.inputs import select_tiles
from helpers.slides.reader import open_slide
from helpers.slides.tilefile import TileTable, read_tiles
from helpers.slides.tiling import read_tile

RUIFROK = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
"""Haematoxylin, eosin and DAB in R, G, B, as printed by Ruifrok and Johnston 2001."""
Tiles = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class TilePool:
    """The tiles of a slide that may be drawn.

    Attributes
    ----------
    case_id : str
    path : Path
        Of the slide.
    table : TileTable
    rows : ndarray, (n,), int
        Rows of the table, in raster order.
    """

    case_id: str
    path: Path
    table: TileTable
    rows: NDArray[np.int64]

    @property
    def slide_id(self) -> str:
        """Of the slide."""
        return self.table.slide_id

    @property
    def background(self) -> NDArray[np.float64]:
        """Clear glass, grey levels, (3,)."""
        return np.asarray(self.table.attributes["background"], float)

    @property
    def stain_vectors(self) -> NDArray[np.float64]:
        """Haematoxylin and eosin of the slide, (2, 3); Ruifrok's where the slide's could not be estimated."""
        stated = self.table.attributes
        if "stain_haematoxylin" not in stated:
            return RUIFROK[:2]
        return np.array([stated["stain_haematoxylin"], stated["stain_eosin"]], float)


def make_pools(
    slides: pd.DataFrame, tiles_folder: Path, *, filters: Mapping[str, float], tiles_per_slide: int | None, seed: int
) -> tuple[list[TilePool], dict[str, str]]:
    """Choose the tiles of every slide that may be drawn.

    Parameters
    ----------
    slides : DataFrame
        slide_id, case_id, path.
    tiles_folder : Path
        Of chapter 01: holds `<slide_id>.h5`.
    filters : mapping of str to float
        Options of `helpers.models.inputs.select_tiles`.
    tiles_per_slide : int or None
        At most so many of those that pass, by chance; None: all.
    seed : int
        The choice in a slide depends on it and on the slide's name, not on the other slides.

    Returns
    -------
    pools : list of TilePool
    lost : dict of str to str
        Slides without any such tile, and why.

    Raises
    ------
    TileError
        When a tile file is missing.
    """
    pools, lost = [], {}
    for row in slides.itertuples():
        table = read_tiles(tiles_folder / f"{row.slide_id}.h5")
        passed = np.flatnonzero(pass_filters(table, **filters))
        if not len(passed):
            lost[str(row.slide_id)] = f"none of {len(table.coords_l0)} tiles passes the filters"
            continue
        if tiles_per_slide is not None and len(passed) > tiles_per_slide:
            rng = np.random.default_rng([seed, zlib.crc32(str(row.slide_id).encode())])
            passed = np.sort(rng.choice(passed, tiles_per_slide, replace=False))
        pools.append(TilePool(case_id=str(row.case_id), path=Path(str(row.path)), table=table, rows=passed))
    return pools, lost


def pass_filters(table: TileTable, **filters: Any) -> NDArray[np.bool_]:
    """Say which tiles of a tile file pass the filters of chapter 03.

    Parameters
    ----------
    table : TileTable
    **filters : Any
        Options of `helpers.models.inputs.select_tiles`.

    Returns
    -------
    ndarray, (n_tiles,), bool
    """
    nothing = np.zeros((len(table.coords_l0), 1), np.float32)
    bag = FeatureBag(features=nothing, coords_l0=table.coords_l0, qc=table.qc, attributes={}, dialect="histobook")
    return select_tiles(bag, **filters)


class TileBank:
    """Decoded tiles of many slides, kept in memory up to a bound; the one used longest ago goes first.

    May be sent to another process: its memory stays behind.

    Parameters
    ----------
    pools : sequence of TilePool
        All of one tile size.
    cache_gb : float
        Memory for decoded tiles, GB of 10^9 bytes.
    workers : int
        Threads that decode.

    Raises
    ------
    BagError
        When there is no pool, or tiles differ in size or resolution.
    """

    def __init__(self, pools: Sequence[TilePool], *, cache_gb: float = 2.0, workers: int = 2) -> None:
        sizes = sorted({(pool.table.tile_px, float(pool.table.attributes["mpp_target"])) for pool in pools})
        if len(sizes) != 1:
            msg = f"BagError: {len(pools)} slides have tiles of (px, um per px) {sizes}, expected one size. Tile again."
            raise BagError(msg)
        self.pools, self.tile_px, self.mpp = list(pools), *sizes[0]
        self.workers, self.cache_gb = workers, cache_gb
        self.n_tiles = np.array([len(pool.rows) for pool in pools])
        self.cases = np.array([pool.case_id for pool in pools], dtype=object)
        self._max_tiles = max(1, int(cache_gb * 1e9 / (self.tile_px**2 * 3)))
        self._kept: OrderedDict[tuple[int, int], Tiles] = OrderedDict()
        self.opened: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "opened": set()}

    @property
    def n_kept(self) -> int:
        """Decoded tiles in memory."""
        return len(self._kept)

    def read(self, slides: NDArray[np.int64], tiles: NDArray[np.int64]) -> Tiles:
        """Return tiles, decoding those that are not in memory.

        Parameters
        ----------
        slides : ndarray, (n,), int
            Positions in `pools`.
        tiles : ndarray, (n,), int
            Positions in the `rows` of that pool.

        Returns
        -------
        ndarray, (n, tile_px, tile_px, 3), uint8

        Raises
        ------
        SlideError
            When a tile cannot be decoded.
        """
        batch = np.empty((len(slides), self.tile_px, self.tile_px, 3), np.uint8)
        absent: dict[int, list[int]] = {}
        for place, name in enumerate(zip(slides.tolist(), tiles.tolist(), strict=True)):
            if name in self._kept:
                self._kept.move_to_end(name)
                batch[place] = self._kept[name]
            else:
                absent.setdefault(name[0], []).append(place)
        if absent:
            self.opened.update(absent)
            with ThreadPoolExecutor(self.workers) as threads:
                list(threads.map(lambda slide: self._decode(slide, absent[slide], tiles, batch), absent))
        for slide, places in absent.items():
            for place in places:
                self._kept[slide, int(tiles[place])] = batch[place].copy()
        while len(self._kept) > self._max_tiles:
            self._kept.popitem(last=False)
        return batch

    def _decode(self, number: int, places: list[int], tiles: NDArray[np.int64], batch: Tiles) -> None:
        pool = self.pools[number]
        with open_slide(pool.path, slide_id=pool.slide_id, mpp=float(pool.table.attributes["mpp_x"])) as slide:
            for place in places:
                read_tile(slide, pool.table, int(pool.rows[tiles[place]]), out=batch[place])

    def find_slides(self, cases: Sequence[str] | pd.Index) -> NDArray[np.int64]:
        """Return the positions of the slides of cases.

        Parameters
        ----------
        cases : sequence of str

        Returns
        -------
        ndarray, (n,), int
        """
        return np.flatnonzero(np.isin(self.cases, list(cases)))


def compute_slide_weights(n_tiles: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the probability that a slide is drawn: proportional to log(n_tiles + 1).

    Parameters
    ----------
    n_tiles : ndarray, (n_slides,), int
        Tiles that may be drawn.

    Returns
    -------
    ndarray, (n_slides,); sums to 1
    """
    weights = np.log(np.asarray(n_tiles) + 1.0)
    return weights / weights.sum()


def draw_tiles(
    n_tiles: NDArray[np.int64], n: int, *, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw slides by their weight, then one tile of each, all alike.

    Parameters
    ----------
    n_tiles : ndarray, (n_slides,), int
    n : int
        How many tiles.
    rng : Generator

    Returns
    -------
    slides, tiles : ndarray, (n,), int
        Positions; a slide, and a tile, may come twice.
    """
    slides = rng.choice(len(n_tiles), n, p=compute_slide_weights(n_tiles))
    return slides, rng.integers(0, n_tiles[slides])
