"""The price of a token that gives codes of a wanted mean length, found while VLSID's tokenizer is fitted.

The paper (arXiv 2602.16375) sets the price λ by hand, and which value makes lengths vary depends on how much error a
token removes, that is on the content. Here λ is the multiplier of the constraint "mean length over training events =
(T + 1) / 2". It starts where the closed form of the best lengths given the errors meets the constraint, and follows the
gap between the measured mean length and the wanted one, while everything else goes on learning: dual ascent on the
augmented Lagrangian, an integral part in ever smaller steps and a proportional part at once. Without the latter the
stopping head saturates at T before the price has risen, and drops to short codes for good when it has.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Share of the gap in mean length that one update closes at first: the stopping head needs some fifty updates to follow.
RATE = 0.02
# Price of one token of gap, in slopes; damps the stopping head, which is quick to saturate.
DAMPING = 2.0
# Half of the distance in mean length over which the slope of the price is taken.
HALF_STEP = 0.25
LEAST_SLOPE = 1.0
LARGEST_COST = 1e6


class LengthCost:
    """λ of the variable-length loss, adapted to a mean length.

    Args:
        max_length: positions T.
        beta: weight of the KL terms, above 0.
        smoothing: share of uniform weights over the prefixes in the reconstruction term.
        free_bits: nats per item and position that cost nothing.

    Attributes:
        target: wanted mean length over training events.
        value: λ in nats, at least 0; None before :meth:`start`.
        price: what a token costs in the next update: λ and the proportional part.
    """

    def __init__(self, max_length: int, beta: float, smoothing: float, free_bits: float) -> None:
        self.target = (max_length + 1) / 2
        self.beta, self.smoothing, self.free_bits = beta, smoothing, free_bits
        self.value: float | None = None
        self.price: float | None = None

    def start(self, errors: Tensor, token_kl: Tensor) -> None:
        """Set λ to where the best lengths of a batch have the wanted mean.

        Args:
            errors: squared error of every prefix, ``[B, T]``.
            token_kl: KL of every token to uniform in nats, ``[B, T]``.
        """
        # -log of the unnormalised posterior but for λ times the length (section 3 of the paper: the ELBO's optimum).
        energy = (1 - self.smoothing) * errors / self.beta + (token_kl - self.free_bits).relu().cumsum(1)
        self.value = self.price = cost_of_length(energy, self.target)
        ends = [cost_of_length(energy, self.target + shift) for shift in (-HALF_STEP, HALF_STEP)]
        self._slope = max((ends[0] - ends[1]) / (2 * HALF_STEP), LEAST_SLOPE)

    def follow(self, mean_length: float, left: float) -> None:
        """One step of dual ascent.

        Args:
            mean_length: E[L] of a batch of events.
            left: share of the updates that are still to come, 1 to 0; the steps shrink with it.
        """
        if self.value is None:
            raise RuntimeError("start() comes first")
        gap = self._slope * (mean_length - self.target)
        self.value = max(self.value + RATE * left * gap, 0.0)
        self.price = max(self.value + DAMPING * gap, 0.0)


def best_mean_length(energy: Tensor, cost: float) -> float:
    """E[L] of the best length posterior ``softmax(-(energy + cost * L))`` for ``energy`` ``[B, T]``."""
    lengths = torch.arange(1, energy.size(1) + 1, device=energy.device, dtype=torch.float64)
    return float(((-energy.double() - cost * lengths).softmax(1) * lengths).sum(1).mean())


def cost_of_length(energy: Tensor, length: float) -> float:
    """The λ of at least 0 at which :func:`best_mean_length` is ``length``, which it falls below for any larger one."""
    low, high = 0.0, 1.0
    while best_mean_length(energy, high) > length and high < LARGEST_COST:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if best_mean_length(energy, middle) > length else (low, middle)
    return high if high > 1e-6 else 0.0
