"""Training the encoders: the losses are their formulas, stains vanish, weights learn, and seeds decide."""

import math

import numpy as np
import pytest
import torch

from helpers.core.errors import ModelError
from helpers.models.pretraining import (
    GLASS,
    MODEL_ARGS,
    Augmenter,
    compute_contrastive_loss,
    compute_label_loss,
    cut_quarter,
    denormalise,
    draw_crops,
    list_stains,
    make_network,
    standardise_labels,
    train_on_morphology,
    train_self_supervised,
)
from helpers.phantom.pretraining import LABELS, plan_training_slides, render_training_tiles


@pytest.fixture(scope="module")
def data():
    return render_training_tiles(plan_training_slides(3, seed=11, slide_um=400.0))


def test_the_contrastive_loss_is_its_formula_in_plain_loops():
    rng = np.random.default_rng(3)
    one, two = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    both = np.concatenate([one, two])
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    losses = []
    for i in range(10):
        others = [math.exp(both[i] @ both[j] / 0.2) for j in range(10) if j != i]
        losses.append(-math.log(math.exp(both[i] @ both[(i + 5) % 10] / 0.2) / sum(others)))
    loss, _ = compute_contrastive_loss(torch.tensor(one), torch.tensor(two), temperature=0.2)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-9)


def test_the_contrastive_loss_is_log_of_the_others_where_nothing_is_told_apart():
    same = torch.ones(8, 3)
    assert float(compute_contrastive_loss(same, same)[0]) == pytest.approx(math.log(15), rel=1e-5)
    told_apart, parts = compute_contrastive_loss(torch.eye(8), torch.eye(8))
    assert float(told_apart) < 0.1
    assert parts["found"] == 1.0


def test_the_contrastive_loss_refuses_views_that_do_not_match():
    with pytest.raises(ModelError, match=r"\(3, 2\) and \(4, 2\)"):
        compute_contrastive_loss(torch.ones(3, 2), torch.ones(4, 2))


def test_unknown_labels_cost_nothing_and_each_label_counts_alike():
    truth = torch.tensor([[0.0, 1.0, torch.nan, 0.0, 0.0], [2.0, 1.0, torch.nan, 0.0, torch.nan]])
    loss, parts = compute_label_loss(torch.zeros(2, 5), truth)
    assert float(loss) == pytest.approx((2.0 + 1.0) / 5)
    assert parts["nuclear_density"] == pytest.approx(2.0)
    assert parts["pleomorphism"] == 0.0


def test_labels_are_standardised_with_densities_by_their_root(data):
    z = standardise_labels(data.labels)
    flat = z.reshape(-1, len(LABELS))
    assert np.nanmean(flat, axis=0) == pytest.approx(np.zeros(5), abs=1e-4)
    assert np.nanstd(flat, axis=0) == pytest.approx(np.ones(5), abs=1e-4)
    root = np.sqrt(data.labels[..., 0].astype(float))
    assert np.corrcoef(z[..., 0].ravel(), root.ravel())[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert np.array_equal(np.isnan(z), np.isnan(data.labels))


def test_quarters_and_crops_lie_where_they_should(data):
    numbered = np.arange(256 * 256 * 3).reshape(256, 256, 3)
    assert cut_quarter(numbered, 1, 0)[0, 0, 0] == numbered[128, 0, 0]
    tiles = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (2, 256, 256, 3))
    first, second = draw_crops(tiles, np.array([0, 1] * 50), crop_px=80, shift_px=10, rng=np.random.default_rng(0))
    shift = second[:, 0, 0, 0].astype(int) - first[:, 0, 0, 0].astype(int)
    assert first.shape == (100, 80, 80, 3)
    assert np.abs(shift).max() <= 10
    assert np.abs(shift).max() > 5


def test_augmentation_repaints_what_the_stains_explain_and_keeps_what_is_dark(data):
    crops = torch.from_numpy(data.tiles[:8, :96, :96])
    slide = torch.from_numpy(data.slide[:8])
    augment = Augmenter(list_stains(data), seed=1)
    one, two = augment(crops, slide), augment(crops, slide)
    assert one.shape == (8, 3, 96, 96)
    assert one.is_contiguous(memory_format=torch.channels_last)
    colours = [denormalise(view).reshape(8, -1, 3).mean(axis=1) for view in (one, two)]
    assert np.abs(colours[0] - colours[1]).max() > 10, "two views have the same colours"
    grey_before = crops[0].float().mean(dim=-1)  # the first eighth of a first view keeps its orientation
    grey_after = torch.from_numpy(denormalise(one)[0].astype(np.float32)).mean(dim=-1)
    assert np.corrcoef(grey_before.ravel(), grey_after.ravel())[0, 1] > 0.8


def test_restaining_with_the_slide_s_own_stains_returns_the_slide(data):
    augment = Augmenter(list_stains(data), seed=1)
    augment._pool = torch.from_numpy(list_stains(data)[:1]).float()
    crops = torch.from_numpy(data.tiles[:4, :64, :64])
    restained = augment._restain(crops, torch.zeros(4, dtype=torch.int64))
    od_before = -torch.log10(crops.float().clamp(4, GLASS) / GLASS)
    od_after = -torch.log10(restained / restained.amax(dim=(1, 2), keepdim=True))
    slope = [np.polyfit(od_before[i].ravel(), od_after[i].ravel(), 1)[0] for i in range(4)]
    agreement = [np.corrcoef(od_before[i].ravel(), od_after[i].ravel())[0, 1] for i in range(4)]
    assert min(agreement) > 0.9
    assert all(0.4 < value < 2.5 for value in slope)


def test_the_network_takes_any_size_and_is_decided_by_its_seed():
    network = make_network(5).eval()
    for edge in (32, 80, 256):
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, edge, edge)).shape == (1, MODEL_ARGS["channels"][-1])
    again, other = make_network(5).state_dict(), make_network(6).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())
    assert not torch.equal(other["conv1.weight"], again["conv1.weight"])


def test_self_supervised_training_lowers_its_loss(data):
    _, history = train_self_supervised(data, seed=4, steps=40, batch_size=16, crop_px=40, shift_px=4)
    losses = [row["loss"] for row in history.rows]
    assert np.mean(losses[-8:]) < np.mean(losses[:8]) - 0.1
    assert history.rows[-1]["step"] == 40


def test_equal_seeds_train_equal_networks(data):
    options = {"seed": 4, "steps": 3, "batch_size": 8, "crop_px": 40}
    (one, _), (two, _) = (train_self_supervised(data, **options) for _ in range(2))
    state = one.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in two.state_dict().items())
    assert not torch.equal(state["conv1.weight"], make_network(4).state_dict()["conv1.weight"])


def test_a_second_cycle_goes_on_from_the_first_and_counts_on(data):
    options = {"seed": 4, "steps": 2, "batch_size": 8, "crop_px": 40}
    reported = []
    _, once = train_self_supervised(data, **options)
    _, twice = train_self_supervised(data, cycles=2, report=reported.append, **options)
    assert [row["step"] for row in twice.rows] == [1, 2, 3, 4]
    assert [row["loss"] for row in twice.rows[:2]] == [row["loss"] for row in once.rows]
    assert twice.rows[3]["seconds"] > twice.rows[1]["seconds"]
    assert len(reported) == 4


def test_training_on_morphology_learns_the_number_of_nuclei(data):
    _, history = train_on_morphology(data, seed=4, steps=25, batch_size=24)
    density = [row["nuclear_density"] for row in history.rows]
    assert np.mean(density[-5:]) < 0.7 * np.mean(density[:5])


def test_a_loss_that_explodes_stops_the_run(data):
    with pytest.raises(ModelError, match="Lower the learning rate"):
        train_on_morphology(data, seed=4, steps=30, batch_size=8, learning_rate=1e30)
