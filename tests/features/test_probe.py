"""The site probe finds a planted site, and nothing where there is none; the PCA is the textbook's."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from helpers.core.errors import FeatureError
from helpers.core.specs import TilingSpec
from helpers.features.encoders import MeanColour
from helpers.features.probe import compute_pca, encode_normalised, probe_site, sample_tiles, standardise
from helpers.slides.tiling import tile_cohort
from helpers.slides.writer import write_pyramid

N_CASES = 60
CASES = [f"C-{number:02d}" for number in range(N_CASES) for _ in range(2)]
SITES = ["ABC"[int(case[2:]) % 3] for case in CASES]


def draw_features(strength: float, seed: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    case_effect = {case: rng.standard_normal(20) for case in CASES}
    direction = {site: rng.standard_normal(20) for site in "ABC"}
    rows = [case_effect[case] + strength * direction[site] for case, site in zip(CASES, SITES, strict=True)]
    return np.array(rows) + 0.1 * rng.standard_normal((len(CASES), 20))


def test_a_planted_site_is_told_and_beats_every_relabelling() -> None:
    found = probe_site(draw_features(2.0), SITES, CASES, rng=np.random.default_rng(1), n_permutations=49)
    assert found["balanced_accuracy"] > 0.9
    assert found["p_value"] == pytest.approx(1 / 50)
    assert (found["n_cases"], found["n_slides"], found["n_sites"]) == (60, 120, 3)


def test_without_a_site_the_probe_stays_at_chance_although_slides_of_a_case_are_alike() -> None:
    found = [
        probe_site(draw_features(0.0, seed), SITES, CASES, rng=np.random.default_rng(seed), n_permutations=19)
        for seed in range(12)
    ]
    assert np.mean([one["balanced_accuracy"] for one in found]) == pytest.approx(1 / 3, abs=0.06)
    assert np.mean([one["null_mean"] for one in found]) == pytest.approx(1 / 3, abs=0.02)
    assert np.mean([one["p_value"] <= 0.05 for one in found]) <= 0.25


def test_a_case_at_two_sites_is_refused() -> None:
    with pytest.raises(FeatureError, match=r"1 cases at several sites"):
        probe_site(np.zeros((5, 2)), list("AABBB"), ["c1", "c2", "c1", "c3", "c4"], rng=np.random.default_rng(0))


def test_one_site_is_refused() -> None:
    with pytest.raises(FeatureError, match=r"got 1 sites .* expected two sites or more"):
        probe_site(np.zeros((3, 2)), list("AAA"), ["c1", "c2", "c3"], rng=np.random.default_rng(0))


def test_directions_are_those_of_the_correlation_matrix() -> None:
    rng = np.random.default_rng(5)
    features = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6)) * np.array([1, 10, 100, 1, 1, 1])
    scores, share = compute_pca(features)
    values = np.sort(np.linalg.eigvalsh(np.corrcoef(features.T)))[::-1]
    assert share == pytest.approx(values[:2] / values.sum(), rel=1e-9)
    assert abs(np.corrcoef(scores.T)[0, 1]) < 1e-9


def test_a_constant_feature_becomes_zero_and_not_infinite() -> None:
    features = np.column_stack([np.arange(5.0), np.full(5, 3.0)])
    assert (standardise(features, features)[:, 1] == 0).all()


def test_only_kept_tiles_are_drawn_the_same_number_from_every_slide(tmp_path) -> None:
    paths = [tmp_path / f"S-{number}.pt" for number in range(2)]
    for number, path in enumerate(paths):
        torch.save(torch.arange(20.0)[:, None] + 100 * number, path)
    sample = sample_tiles(
        paths, ["S-0", "S-1"], n_tiles=8, keep=lambda bag: bag.features[:, 0] % 2 == 0, rng=np.random.default_rng(3)
    )
    assert sample.table["slide_id"].tolist() == ["S-0"] * 4 + ["S-1"] * 4
    assert (sample.features[:, 0] % 2 == 0).all()
    assert (sample.table["row"] == sample.features[:, 0] % 100).all()


def draw_dyes(strength: float) -> np.ndarray:
    """Tissue of two dyes between strips of glass; both dyes as strong as asked."""
    rng = np.random.default_rng(4)
    coarse = rng.gamma(1.0, 1.0, (2, 60, 50)).astype(np.float32)
    dyes = np.stack([cv2.resize(plane, (600, 500), interpolation=cv2.INTER_LINEAR) for plane in coarse], axis=-1)
    dyes[:, :90] = dyes[:, -90:] = 0
    od = strength * dyes @ np.array([[0.35, 0.40, 0.18], [0.04, 0.45, 0.16]])
    return np.rint(245 * 10**-od).astype(np.uint8)


def test_normalisation_takes_the_colour_of_the_site_away(tmp_path) -> None:
    """Two sites that differ in their dyes alone: after Macenko the mean colours are nearer than before."""
    slides = []
    for number, strength in enumerate((0.7, 1.3)):
        write_pyramid(tmp_path / f"S-{number}.svs", draw_dyes(strength), mpp=0.5, downsamples=(4,))
        slides.append({"slide_id": f"S-{number}", "path": str(tmp_path / f"S-{number}.svs")})
    table = pd.DataFrame(slides)
    spec = TilingSpec(tile_px=64, mpp=0.5, thumbnail_px=128, min_tissue_um2=5_000)
    tile_cohort(table, spec, folder=tmp_path, ledger=tmp_path / "ledger.parquet", workers=1)
    found = encode_normalised(table, [MeanColour()], tiles_folder=tmp_path / "tiles", n_tiles=10, workers=2)
    assert list(found) == [("mean_colour", name) for name in ("as scanned", "Macenko", "Reinhard")]
    apart = {name: np.abs(means[0, :3] - means[1, :3]).max() for (_, name), means in found.items()}
    assert apart["Macenko"] < 0.5 * apart["as scanned"]
    assert apart["Reinhard"] < 0.5 * apart["as scanned"]
