"""Flat weights take the steps of torch's own optimisers."""

import numpy as np
import pytest
import torch

from helpers.models.flat_weights import FlatWeights

DRAWN = {
    "w": np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32),
    "b": np.random.default_rng(2).normal(size=(2, 1, 4)).astype(np.float32),
}


def compute_loss(net: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return ((torch.bmm(x, net["w"]) + net["b"]).tanh() ** 2).sum()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_twenty_steps_are_those_of_torch(name: str) -> None:
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 5, 3)).astype(np.float32))
    theirs = {key: torch.from_numpy(value.copy()).requires_grad_() for key, value in DRAWN.items()}
    options = {"lr": 0.05, "weight_decay": 0.1}
    if name == "sgd":
        optimiser = torch.optim.SGD(list(theirs.values()), momentum=0.9, nesterov=True, **options)
    else:
        optimiser = torch.optim.AdamW(list(theirs.values()), **options)
    ours = FlatWeights(DRAWN)
    for _ in range(20):
        optimiser.zero_grad()
        compute_loss(theirs, x).backward()
        optimiser.step()
        ours.forget_gradients()
        compute_loss(ours.named, x).backward()
        if name == "sgd":
            ours.step_nesterov(rate=0.05, decay=0.1, momentum=0.9)
        else:
            ours.step_adamw(rate=0.05, decay=0.1)
    for key, value in theirs.items():
        assert not torch.allclose(value, torch.from_numpy(DRAWN[key]), atol=0.1), "nothing was learnt"
        assert torch.allclose(ours.named[key], value, atol=1e-5), key


def test_what_was_given_is_left_alone_and_gradients_lie_in_one_array() -> None:
    before = DRAWN["w"].copy()
    ours = FlatWeights(DRAWN)
    compute_loss(ours.named, torch.ones(2, 5, 3)).backward()
    assert ours.gradient.abs().sum() == sum(value.grad.abs().sum() for value in ours.named.values()) > 0
    ours.step_adamw(rate=0.1, decay=0.0)
    ours.forget_gradients()
    assert not ours.named["w"].grad.any()
    assert np.array_equal(DRAWN["w"], before)
