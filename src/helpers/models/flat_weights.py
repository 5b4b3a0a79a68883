"""Weights of small nets in one flat array, so that a step of the optimiser is a handful of passes over it.

Where a step trains on a single case, torch's optimisers spend more time on handing over a dozen small arrays than on
arithmetic, and the first one that is made imports a compiler (`torch._dynamo`), which takes seconds.
The rules are those of `torch.optim.SGD` and `torch.optim.AdamW`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class FlatWeights:
    """Trained weights, their gradient and the optimiser's memory, one flat array each.

    Parameters
    ----------
    weights : mapping of str to ndarray, float32
        Copied.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        import torch

        sizes = [value.size for value in weights.values()]
        self.flat, self.gradient, self.first, self.second = (torch.zeros(sum(sizes)) for _ in range(4))
        self.named: dict[str, Tensor] = {}
        self.slopes: dict[str, Tensor] = {}
        self.n_steps = 0
        for (name, value), own, slope in zip(
            weights.items(), self.flat.split(sizes), self.gradient.split(sizes), strict=True
        ):
            own.copy_(torch.from_numpy(np.ascontiguousarray(value)).flatten())
            self.named[name] = own.view(value.shape).requires_grad_()
            self.slopes[name] = slope.view(value.shape)
            self.named[name].grad = self.slopes[name]

    def forget_gradients(self) -> None:
        """Set the gradient to 0; `backward` adds to it in place."""
        self.gradient.zero_()

    def step_nesterov(self, *, rate: float, decay: float, momentum: float) -> None:
        """Take a step of stochastic gradient descent with Nesterov's momentum.

        Parameters
        ----------
        rate : float
            Learning rate.
        decay : float
            Weight decay, part of the gradient.
        momentum : float
        """
        self.gradient.add_(self.flat, alpha=decay)
        self.first.mul_(momentum).add_(self.gradient)
        self.flat.add_(self.gradient.add_(self.first, alpha=momentum), alpha=-rate)

    def step_adamw(
        self, *, rate: float, decay: float, betas: tuple[float, float] = (0.9, 0.999), floor: float = 1e-8
    ) -> None:
        """Take a step of Adam with decoupled weight decay.

        Parameters
        ----------
        rate : float
            Learning rate.
        decay : float
            Weight decay, apart from the gradient.
        betas : tuple of two floats
            Memory of the gradient and of its square.
        floor : float
            Added to the root of the square.

        References
        ----------
        Loshchilov and Hutter 2019, arXiv:1711.05101.
        """
        self.n_steps += 1
        self.flat.mul_(1 - rate * decay)
        self.first.lerp_(self.gradient, 1 - betas[0])
        self.second.mul_(betas[1]).addcmul_(self.gradient, self.gradient, value=1 - betas[1])
        unbiased = [1 - beta**self.n_steps for beta in betas]
        size = self.second.sqrt().div_(unbiased[1] ** 0.5).add_(floor)
        self.flat.addcdiv_(self.first, size, value=-rate / unbiased[0])
