"""Figures of a training: rows of tiles with their bars, one curve per fold, a dot at the epoch that was kept."""

import numpy as np
import pandas as pd

from helpers.figures.style import new_figure
from helpers.figures.training import plot_history, plot_tile_rows


def test_each_fold_has_its_curves_and_one_kept_epoch() -> None:
    epochs = pd.DataFrame(
        {"epoch": [1, 2, 3], "loss": [1.0, 0.8, 0.5], "validation": [1.1, 0.7, 0.9], "chosen": [False, True, False]}
    )
    history = pd.concat([epochs.assign(fold=fold) for fold in (0, 1)])
    _, (ax,) = new_figure()
    plot_history(history, ax=ax)
    found = {gid: [line for line in ax.lines if line.get_gid() == gid] for gid in ("loss", "validation", "chosen")}
    assert {gid: len(lines) for gid, lines in found.items()} == {"loss": 2, "validation": 2, "chosen": 2}
    assert found["chosen"][0].get_xydata().tolist() == [[2.0, 0.7]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fold 0", "fold 1"]


def test_rows_of_tiles_keep_their_own_scale() -> None:
    _, axes = new_figure(rows=2)
    plot_tile_rows(
        {"a": np.zeros((3, 64, 64, 3), np.uint8), "b": np.zeros((3, 32, 32, 3), np.uint8)}, axes, um_per_px=[0.5, 1.0]
    )
    lengths = [np.ptp(line.get_xdata()) for ax in axes for line in ax.lines if line.get_gid() == "scale_bar"]
    assert lengths == [100.0, 50.0]
    assert [ax.get_title(loc="left") for ax in axes] == ["a", "b"]
