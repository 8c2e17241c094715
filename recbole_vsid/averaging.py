"""Averaged weights: what is evaluated and saved, while training goes on with the raw ones.

An exponential moving average over the steps of training removes the noise of the single step, which a constant or
still large learning rate leaves in the weights; the choice of the best epoch then depends less on chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class WeightAverage:
    """Exponential moving average of a model's parameters (its buffers are left alone).

    Args:
        model: the module whose parameters are followed.
        decay: weight of the past at each update, in [0, 1); the average reaches back about ``1 / (1 - decay)`` steps.
            The first updates use ``(1 + step) / (10 + step)`` where that is smaller, so that the random start is
            forgotten. 0 is no average: the parameters of the last step.
    """

    def __init__(self, model, decay):
        self.model, self.decay = model, decay
        self.reset()

    def reset(self, steps=0):
        """Start from the parameters as they are, as the average after ``steps`` updates."""
        self.steps = steps
        self._average = [parameter.detach().clone() for parameter in self.model.parameters()]

    @torch.no_grad()
    def update(self):
        """Take the parameters in, after an optimizer step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._average, list(self.model.parameters()), 1 - decay)

    @torch.no_grad()
    def _swap(self):
        for parameter, average in zip(self.model.parameters(), self._average):
            parameter.data, average.data = average.data, parameter.data

    def named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The averages, each with the name of its parameter."""
        yield from zip((name for name, _ in self.model.named_parameters()), self._average)

    @contextmanager
    def applied(self):
        """Within the block the model has the averaged parameters, afterwards its own again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()
