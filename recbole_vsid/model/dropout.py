"""Dropout that is not the slowest part of a small transformer on a CPU.

PyTorch draws one random number per element there, one after another: more than a third of a training step at width 128.
Here one 64-bit number serves eight elements, a byte each. On other devices it is PyTorch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LEVELS = 256


def byte_dropout(x, rate):
    """``x`` with a share ``rate`` of it set to 0, and the rest scaled up to keep the mean.

    The rate is rounded to 256ths: .1 is .1016, and below 1/512 nothing is dropped.
    """
    dropped = min(round(rate * LEVELS), LEVELS - 1)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)
    # A range of whole 64 bits: without bounds the highest bit would always be 0.
    random = words.random_(-(2**63), None).view(torch.uint8)[: x.numel()].view(x.shape)
    return x * (random >= dropped).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


def dropout(x, rate):
    """Dropout of ``x`` at ``rate`` in [0, 1), for training."""
    if rate == 0:
        return x
    return byte_dropout(x, rate) if x.device.type == "cpu" else F.dropout(x, rate)


class Dropout(nn.Dropout):
    """:func:`dropout` in training, nothing in evaluation."""

    def forward(self, x):
        return dropout(x, self.p) if self.training else x
