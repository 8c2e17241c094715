"""HSTU: pointwise aggregated attention, as IntRR's code has it.

J. Zhai et al., *Actions Speak Louder than Words*, arXiv 2402.17152, in the variant of the official code of IntRR
(arXiv 2602.20704; section 4.3 of its specification). A block has no feed-forward: attention gates a projection of its
own input. Differences of that variant from the paper, kept here: attention weights are softplus of the logits divided
by their row sum (the paper: SiLU, no division), only the gate passes through SiLU, nothing is normed before gating, and
there is no bias of time. Unlike there, the output layer starts at zero, so that every block starts as the identity.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from recbole_vsid.model.dropout import Dropout
from recbole_vsid.model.t5 import RelativeBias

EPSILON = 1e-8


class Block(nn.Module):
    """One HSTU block; its interface is that of :class:`recbole_vsid.model.t5.Layer` without a memory."""

    def __init__(self, width, n_heads, dropout_rate):
        super().__init__()
        self.heads = (n_heads, width // n_heads)
        self.norm = nn.LayerNorm(width)
        self.inward = nn.Linear(width, 4 * width)
        self.outward = nn.Linear(width, width)
        self.bias = RelativeBias(n_heads, two_sided=False)
        self.dropout = Dropout(dropout_rate)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)
        nn.init.normal_(self.bias.table.weight, std=width**-0.5)

    def forward(self, x, bias, cache=None):
        """``x`` ``[B, n, width]`` → ``[B, n, width]``; ``bias`` ``[heads, n, n]`` is −inf where a key is hidden."""
        *projections, gate = self.project(x)
        q, k, v = (each.transpose(1, 2) for each in projections)
        if cache is not None:
            cache.append((k, v))
        weights = self.weigh(q @ k.transpose(-1, -2) + bias).to(v.dtype)
        return self.merge(x, (weights @ v).transpose(1, 2).flatten(2), gate)

    def project(self, x):
        """Queries (scaled), keys and values, each ``[B, n, heads, size]``, and the gate ``[B, n, width]``."""
        u, v, q, k = self.inward(self.norm(x)).chunk(4, dim=-1)
        q = q * self.heads[1] ** -0.5
        return *(each.unflatten(-1, self.heads) for each in (q, k, v)), F.silu(u)

    @staticmethod
    def weigh(logits):
        """Attention weights over the last dimension; a hidden key has softplus(−inf) = 0."""
        weights = F.softplus(logits.float())
        return weights / (weights.sum(-1, keepdim=True) + EPSILON)

    def merge(self, x, attended, gate):
        """What the block makes of ``x`` and what it read, ``attended`` ``[B, n, width]``; ``[B, n, width]``."""
        return x + self.dropout(self.outward(attended * gate))


class HSTU(nn.Module):
    """A causal stack of :class:`Block`, without a last norm."""

    def __init__(self, width, n_layers, n_heads, dropout_rate):
        super().__init__()
        self.layers = nn.ModuleList(Block(width, n_heads, dropout_rate) for _ in range(n_layers))
        self.norm = nn.Identity()  # where a t5.Stack has its last norm

    def forward(self, x, cache=None):
        """``x`` ``[B, n, width]``, padded on the right → ``[B, n, width]``."""
        for block in self.layers:
            x = block(x, block.bias.causal(x.size(1), x.device), cache)
        return self.norm(x)

    def biases(self):
        """The :class:`~recbole_vsid.model.t5.RelativeBias` of each block."""
        return [block.bias for block in self.layers]
