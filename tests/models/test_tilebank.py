"""Draws by log(n + 1), a bounded memory, augmentation that changes colour and orientation and nothing else."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from helpers.core.errors import BagError, ModelError
from helpers.core.specs import TilingSpec
from helpers.models.augment import Augmenter, make_augmenter, restain, turn_tiles
from helpers.models.tilebank import TileBank, compute_slide_weights, draw_tiles, make_pools, pass_filters
from helpers.slides.reader import open_slide
from helpers.slides.tilefile import read_tiles
from helpers.slides.tiling import read_tile, tile_cohort
from helpers.slides.writer import write_pyramid
from tests.models.toy_tiles import DrawnBank
from tests.slides.conftest import draw_tissue

TILING = TilingSpec(tile_px=64, mpp=0.5, thumbnail_px=128, min_tissue_um2=5_000)
FILTERS = {"min_tissue_fraction": 0.5, "min_sharpness": 0.0, "max_grey_fraction": 1.0}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    folder = tmp_path_factory.mktemp("tiled")
    for number in (1, 2):
        write_pyramid(folder / f"S-{number}.svs", draw_tissue(600, 500, seed=number), mpp=0.5, downsamples=(4,))
    table = pd.DataFrame({
        "slide_id": ["S-1", "S-2"], "case_id": ["a", "b"], "path": [str(folder / f"S-{n}.svs") for n in (1, 2)]
    })  # fmt: skip
    tile_cohort(table, TILING, folder=folder, ledger=folder / "ledger.parquet", workers=1)
    return table, folder / "tiles"


def test_slides_are_drawn_by_log_of_their_tiles_and_tiles_alike() -> None:
    n_tiles = np.array([1, 10, 100, 1000])
    rng = np.random.default_rng(8)
    slides, tiles = draw_tiles(n_tiles, 20_000, rng=rng)
    expected = np.array([np.log(2), np.log(11), np.log(101), np.log(1001)])
    counts = np.bincount(slides, minlength=4)
    assert stats.chisquare(counts, 20_000 * expected / expected.sum()).pvalue > 0.001
    assert stats.chisquare(counts, 20_000 * n_tiles / n_tiles.sum()).pvalue < 1e-12, "they are drawn by their number"
    within = np.bincount(tiles[slides == 1], minlength=10)
    assert stats.chisquare(within).pvalue > 0.001
    assert compute_slide_weights(n_tiles) == pytest.approx(expected / expected.sum())


def test_a_tile_of_the_bank_is_the_tile_of_the_slide(tiled: tuple[pd.DataFrame, Path]) -> None:
    table, folder = tiled
    pools, lost = make_pools(table, folder, filters=FILTERS, tiles_per_slide=5, seed=1)
    assert lost == {}
    bank = TileBank(pools)
    found = bank.read(np.array([1, 0, 1]), np.array([4, 2, 4]))
    with open_slide(table["path"][1], slide_id="S-2") as slide:
        expected = read_tile(slide, read_tiles(folder / "S-2.h5"), int(pools[1].rows[4]))
    assert (found[0] == expected).all()
    assert (found[2] == expected).all()
    assert (bank.read(np.array([0]), np.array([2]))[0] == found[1]).all(), "memory gives another tile"


def test_the_choice_of_tiles_depends_on_the_slide_alone_and_on_the_filters(tiled: tuple[pd.DataFrame, Path]) -> None:
    table, folder = tiled
    options = {"filters": FILTERS, "tiles_per_slide": 5, "seed": 1}
    both, alone = (make_pools(t, folder, **options)[0] for t in (table, table.iloc[1:]))
    assert both[1].rows.tolist() == alone[0].rows.tolist()
    passed = np.flatnonzero(pass_filters(read_tiles(folder / "S-2.h5"), **FILTERS))
    assert set(both[1].rows) <= set(passed)
    whole, _ = make_pools(table, folder, filters=FILTERS, tiles_per_slide=None, seed=1)
    assert whole[1].rows.tolist() == passed.tolist()
    _, lost = make_pools(
        table, folder, filters={**FILTERS, "min_tissue_fraction": 1.0, "min_sharpness": 2.0}, tiles_per_slide=5, seed=1
    )
    assert lost.keys() == {"S-1", "S-2"}
    assert "tiles passes the filters" in lost["S-1"]


def test_memory_is_bounded_and_stays_behind_when_the_bank_travels(tiled: tuple[pd.DataFrame, Path]) -> None:
    table, folder = tiled
    pools, _ = make_pools(table, folder, filters=FILTERS, tiles_per_slide=6, seed=1)
    bank = TileBank(pools, cache_gb=4 * 64 * 64 * 3 / 1e9)
    every = bank.read(np.repeat([0, 1], 6), np.tile(np.arange(6), 2))
    assert bank.n_kept == 4
    assert (bank.read(np.array([0]), np.array([0]))[0] == every[0]).all()
    travelled = pickle.loads(pickle.dumps(bank))
    assert travelled.n_kept == 0
    assert (travelled.read(np.array([1]), np.array([5]))[0] == every[11]).all()


def test_slides_of_different_tiles_are_refused(tiled: tuple[pd.DataFrame, Path]) -> None:
    table, folder = tiled
    pools, _ = make_pools(table, folder, filters=FILTERS, tiles_per_slide=2, seed=1)
    with pytest.raises(BagError, match="expected one size"):
        TileBank([*pools, *DrawnBank({"a": 0.0}).pools])


def make_drawn(method: str, strength: float = 0.25) -> tuple[DrawnBank, Augmenter]:
    bank = DrawnBank({"a": -1.0, "b": 1.0})
    options = {"crop_px": 32, "input_px": 32, "mean": (0.5, 0.5, 0.5), "sd": (0.2, 0.2, 0.2)}
    return bank, make_augmenter(bank, method=method, strength=strength, **options)


@pytest.mark.parametrize("method", ["vectors", "hed"])
def test_stains_of_no_strength_change_no_grey_level(method: str) -> None:
    bank, augmenter = make_drawn(method, strength=0.0)
    slides = np.array([0, 1, 1])
    tiles = bank.read(slides, np.array([0, 1, 2]))
    draws = augmenter.draw(slides, rng=np.random.default_rng(1))
    image = torch.from_numpy(tiles).permute(0, 3, 1, 2)
    expected = image.float().minimum(torch.tensor(245.0))  # nothing is brighter than glass
    assert (restain(image, draws) - expected).abs().max() < 0.01


@pytest.mark.parametrize("method", ["vectors", "hed"])
def test_stains_equal_the_slow_formula_pixel_by_pixel(method: str) -> None:
    bank, augmenter = make_drawn(method)
    slides = np.array([0, 1])
    draws = augmenter.draw(slides, rng=np.random.default_rng(2))
    tiles = bank.read(slides, np.array([3, 4]))
    found = restain(torch.from_numpy(tiles).permute(0, 3, 1, 2), draws).numpy()
    for number, (x, y) in enumerate([(3, 7), (20, 11)]):
        od = np.maximum(0, -np.log(tiles[number, y, x].astype(float) / draws.glass[number]))
        changed = np.maximum(0, od @ draws.mix[number].astype(float) + draws.shift[number])
        expected = np.minimum(255, draws.glass[number] * draws.factor[number] * np.exp(-changed))
        assert found[number, :, y, x] == pytest.approx(expected, abs=0.01)


def test_colour_varies_between_tiles_and_glass_stays_nearly_clear() -> None:
    _, augmenter = make_drawn("vectors")
    slides = np.zeros(200, int)
    draws = augmenter.draw(slides, rng=np.random.default_rng(3))
    pink = restain(torch.full((200, 3, 1, 1), 180.0), draws).squeeze().numpy()
    assert (pink.std(axis=0) > 5).all()
    glass = restain(torch.full((200, 3, 1, 1), 245.0), draws).squeeze().numpy()
    assert np.quantile(glass, 0.05) > 225


def test_eight_orientations_are_all_there_and_lossless() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3).expand(8, 3, 3, 3).clone()
    turned = turn_tiles(image, np.arange(8))
    seen = {tuple(tile[0].flatten().tolist()) for tile in turned}
    assert len(seen) == 8
    assert all(sorted(tile) == list(range(9)) for tile in seen)


def test_half_a_batch_gets_the_draws_of_that_half() -> None:
    bank, augmenter = make_drawn("vectors")
    slides, tiles = np.array([0, 1, 0, 1]), np.array([0, 1, 2, 3])
    draws = augmenter.draw(slides, rng=np.random.default_rng(4))
    pixels = bank.read(slides, tiles)
    whole = augmenter.augment(pixels, draws, device=CPU)
    half = augmenter.augment(pixels[2:], draws.take(slice(2, 4)), device=CPU)
    assert torch.allclose(whole[2:], half, atol=1e-6)


def test_a_trained_network_sees_the_centre_normalised() -> None:
    bank = DrawnBank({"a": 0.0})
    augmenter = make_augmenter(
        bank, method="none", strength=0.0, crop_px=16, input_px=16, mean=(0.5, 0.6, 0.7), sd=(0.1, 0.2, 0.3)
    )
    tiles = bank.read(np.array([0]), np.array([0]))
    found = augmenter.prepare(tiles, device=CPU)[0].permute(1, 2, 0).numpy()
    assert found == pytest.approx((tiles[0, 8:24, 8:24] / 255 - [0.5, 0.6, 0.7]) / [0.1, 0.2, 0.3], abs=1e-5)
    with pytest.raises(ModelError, match="crop_px 40 is above the 32 px of a tile"):
        make_augmenter(bank, method="none", strength=0.0, crop_px=40, input_px=16, mean=(0, 0, 0), sd=(1, 1, 1))
