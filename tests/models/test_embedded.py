"""Folders of embedded encoders: written and read back through timm, small, and complete."""

import numpy as np
import pytest
import torch

from helpers.core.errors import ModelError
from helpers.core.paths import read_json, repo_root
from helpers.core.specs import EmbeddedEncoderSpec
from helpers.models.embedded import encode_tiles, make_random_network, make_record, read_encoder, write_encoder
from helpers.models.pretraining import History, make_network
from helpers.phantom.pretraining import plan_training_slides, render_training_tiles

ENCODERS = ("phantom-s", "phantom-s-morphology")
FOLDER = repo_root() / "data" / "encoders"


@pytest.fixture
def tiles():
    return np.random.default_rng(2).integers(0, 256, (5, 64, 96, 3), dtype=np.uint8)


def test_what_is_written_is_read_back_through_timm_to_half_precision(tmp_path, tiles):
    network = make_network(3).eval()
    write_encoder(network, tmp_path / "mine", description="a test", record={"history": {}})
    again = read_encoder(tmp_path / "mine")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    network.pretrained_cfg = again.pretrained_cfg
    one, two = encode_tiles(network, tiles), encode_tiles(again, tiles)
    assert np.abs(one - two).max() < 0.03 * np.abs(one).max()


def test_features_do_not_depend_on_the_batch(tiles, tmp_path):
    write_encoder(make_network(3), tmp_path / "mine", description="a test", record={})
    network = read_encoder(tmp_path / "mine")
    whole, single = encode_tiles(network, tiles), encode_tiles(network, tiles, batch_size=1)
    assert whole.shape == (5, 256)
    assert np.abs(whole - single).max() < 0.02 * np.abs(whole).max()


def test_a_folder_without_weights_says_what_is_missing(tmp_path):
    with pytest.raises(ModelError, match=r"lacks model.safetensors, config.json"):
        read_encoder(tmp_path)


def test_a_random_network_is_decided_by_its_seed(tiles):
    one, two = (encode_tiles(make_random_network("resnet18", seed=seed), tiles) for seed in (1, 1))
    other = encode_tiles(make_random_network("resnet18", seed=2), tiles)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_record_holds_the_spec_the_loss_and_one_fingerprint_per_slide():
    data = render_training_tiles(plan_training_slides(2, seed=11, slide_um=300.0))
    history = History([{"step": step, "loss": 1.0 / step} for step in range(1, 11)], 100.0)
    record = make_record(EmbeddedEncoderSpec(n_slides=4), data, history, objective="to be found")
    assert record["spec"]["n_slides"] == 4
    assert record["history"]["loss"] == pytest.approx([np.mean([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]), 0.12914], abs=1e-4)
    assert [len(slide["pixels_sha256"]) for slide in record["slides"]] == [64, 64]


def test_the_encoders_of_the_book_are_small_complete_and_described():
    weights = [FOLDER / name / "model.safetensors" for name in ENCODERS]
    assert sum(file.stat().st_size for file in weights) < 10e6
    for name in ENCODERS:
        config = read_json(FOLDER / name / "config.json")
        assert config["architecture"] == "resnet18"
        assert config["num_features"] == 256
        card = (FOLDER / name / "README.md").read_text()
        for heading in ("Trained on", "What it is worth", "What it shares with the book", "Reproduce"):
            assert heading in card, f"the card of {name} lacks '{heading}'"


@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoders_of_the_book_describe_structure_more_than_stain(name):
    """The same tissue in two stains lies nearer than two tissues in one stain."""
    from dataclasses import replace

    plans = plan_training_slides(6, seed=77, slide_um=260.0)
    network = read_encoder(FOLDER / name)
    pairs = [
        render_training_tiles([plan, replace(plan, stain_h=(0.6, 0.7, 0.387), stain_e=(0.2, 0.85, 0.487))])
        for plan in plans
    ]
    means = np.array(
        [[encode_tiles(network, pair.tiles[pair.slide == i]).mean(axis=0) for i in (0, 1)] for pair in pairs]
    )
    spread = means.std(axis=(0, 1))
    between_stains = np.abs((means[:, 0] - means[:, 1]) / spread).mean()
    between_slides = np.abs((means[:-1, 0] - means[1:, 0]) / spread).mean()
    assert between_stains < 0.5 * between_slides
