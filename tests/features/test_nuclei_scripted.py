"""Nuclei by a network from a file: a tiny scripted one stands in for a trained one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.core.errors import FeatureError
from helpers.features.nuclei_scripted import ScriptedNuclei, scale_input
from helpers.features.pathomics import Pathomics, describe_pathomics
from tests.features.test_nuclei import STAIN, draw_discs


class LeftAndRight(torch.nn.Module):
    """Numbers dark pixels 7 in the left half and 4 in the right half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = x[:, 0:1] < 0.8
        right = (torch.arange(x.shape[3]) >= x.shape[3] // 2).to(torch.int64)
        return dark.to(torch.int64) * (7 - 3 * right)


class Probabilities(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0] * 0.5


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    torch.jit.script(LeftAndRight()).save(str(path))
    return path


@pytest.mark.parametrize("um", [0.25, 0.5, 0.6])
def test_labels_come_back_at_the_tile_s_resolution_without_gaps(script: Path, um: float) -> None:
    tile = draw_discs((16, 20, 5), (48, 44, 6), um=um)[: round(56 / um)]  # not square
    labels = ScriptedNuclei(script, um_per_px=0.5, scaling="unit", device="cpu").segment(tile, um_per_px=um)
    assert labels.shape == tile.shape[:2]
    assert labels.dtype == np.int32
    assert labels[round(20 / um), round(16 / um)] == 2
    assert labels[round(44 / um), round(48 / um)] == 1
    assert (labels == 2).sum() * um**2 == pytest.approx(np.pi * 25, rel=0.12)


def test_pathomics_measures_what_the_network_outlined(script: Path) -> None:
    network = ScriptedNuclei(script, um_per_px=0.5, scaling="unit", device="cpu")
    tile = draw_discs((16, 20, 5), (48, 44, 6), (20, 50, 4))
    found = describe_pathomics(tile, STAIN, um_per_px=0.5, network=network)
    own = describe_pathomics(tile, STAIN, um_per_px=0.5)
    assert found["nuclei_per_mm2"] == pytest.approx(own["nuclei_per_mm2"] * 2 / 3), "two on the left are one for it"
    assert Pathomics(network).identity["weights_sha256"] == network.weights_sha256
    assert Pathomics(network).identity != Pathomics().identity


def test_percentiles_make_the_input_blind_to_brightness() -> None:
    tile = np.random.default_rng(0).integers(40, 120, (30, 20, 3)).astype(np.uint8)
    assert scale_input(tile, "percentile").shape == (1, 3, 30, 20)
    assert scale_input(tile + 100, "percentile") == pytest.approx(scale_input(tile, "percentile"), abs=1e-5)
    assert scale_input(tile, "unit")[0, 1, 5, 7] == pytest.approx(tile[5, 7, 1] / 255)


def test_files_that_are_no_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="is not there"):
        ScriptedNuclei(tmp_path / "absent.pt", um_per_px=0.5)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(FeatureError, match="is no TorchScript"):
        ScriptedNuclei(tmp_path / "weights.pt", um_per_px=0.5)


def test_a_network_without_labels_is_refused(tmp_path: Path) -> None:
    torch.jit.script(Probabilities()).save(str(tmp_path / "p.pt"))
    network = ScriptedNuclei(tmp_path / "p.pt", um_per_px=0.5, device="cpu")
    with pytest.raises(FeatureError, match="returned shape \\(1, 128, 128\\).*expected one label image"):
        network.segment(draw_discs((16, 20, 5)), um_per_px=0.5)
