"""A bank of drawn tiles in memory: the more dark spots, the higher the label of the case."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from helpers.core.specs import EndToEndSpec
from helpers.models.tilebank import TileBank, TilePool
from helpers.slides.tilefile import TileTable

TILE_PX, N_TILES = 32, 6
SPEC: dict[str, Any] = {
    "targets": ["prolif11"], "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16]}, "crop_px": 32,
    "input_px": 32, "weights": None, "epochs": 3, "tiles_per_epoch": 64, "batch_size": 16, "precision": "float32", "seed": 3,
}  # fmt: skip


def make_spec(**changes: Any) -> EndToEndSpec:
    return EndToEndSpec.from_values({**SPEC, **changes})


def make_table(slide_id: str, n_tiles: int) -> TileTable:
    return TileTable(
        slide_id=slide_id, coords_l0=np.zeros((n_tiles, 2), np.int64), edge_l0=(TILE_PX, TILE_PX), tile_px=TILE_PX,
        overlap_px=0, size_l0=(900, 900), qc=pd.DataFrame(), points=np.zeros((0, 2), np.float32),
        rings=np.zeros((0, 2), np.int32),
        attributes={"key": slide_id, "mpp_target": 0.5, "mpp_x": 0.5, "background": [245.0, 245.0, 245.0]},
    )  # fmt: skip


class DrawnBank(TileBank):
    """Reads from memory what was drawn, and remembers whose tiles were read."""

    def __init__(self, labels: dict[str, float], *, n_tiles: int = N_TILES) -> None:
        pools = [
            TilePool(case_id=case, path=Path(case), table=make_table(f"{case}-1", n_tiles), rows=np.arange(n_tiles))
            for case in labels
        ]
        super().__init__(pools)
        rng = np.random.default_rng(17)
        self.drawn = np.stack([[draw_tile(label, rng) for _ in range(n_tiles)] for label in labels.values()])

    def read(self, slides: np.ndarray, tiles: np.ndarray) -> np.ndarray:
        self.opened.update(slides.tolist())
        return self.drawn[slides, tiles]


def draw_tile(label: float, rng: np.random.Generator) -> np.ndarray:
    """Pink with as many dark spots as the label says, 0 to 12."""
    tile = np.full((TILE_PX, TILE_PX, 3), (225, 180, 205), np.uint8)
    for x, y in rng.integers(2, TILE_PX - 2, (round(6 + 3 * label), 2)).tolist():
        cv2.circle(tile, (x, y), 2, (90, 50, 130), -1)
    return np.clip(tile + rng.normal(0, 4, tile.shape), 0, 255).astype(np.uint8)


def make_cohort(n_cases: int = 48, *, seed: int = 5) -> tuple[dict[str, float], pd.DataFrame, pd.DataFrame]:
    """Labels, targets and splits of two folds, an external set beside them."""
    rng = np.random.default_rng(seed)
    labels = {f"{i:03d}": float(value) for i, value in enumerate(np.clip(rng.normal(size=n_cases), -2, 2))}
    targets = pd.DataFrame({"prolif11": labels}).rename_axis("case_id")
    rows = []
    for number, case in enumerate(labels):
        if number % 6 == 5:
            rows.append((0, -1, case, "external"))
            continue
        for fold in (0, 1):
            role = "test" if number % 2 == fold else ("val" if number % 5 == 0 else "train")
            rows.append((0, fold, case, role))
    return labels, targets, pd.DataFrame(rows, columns=["repeat", "fold", "case_id", "role"])
