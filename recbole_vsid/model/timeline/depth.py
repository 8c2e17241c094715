"""Depth networks: what the state of a timeline becomes on the way down the tree.

``none`` keeps it; ``linear`` has a matrix for every step, the identity at the start; ``transformer`` runs a small
causal transformer over the state and the vectors of the nodes chosen so far (MARIUS, arXiv 2508.14910).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_vsid.layers import CachedDecoder, Transformer
from recbole_vsid.model.timeline.vectors import NodeTable

Step = Callable[["Tensor | None", "Tensor | None"], Tensor]


class NoDepth(nn.Module):
    """The same state at every step."""

    def forward(self, hidden: Tensor, paths: Tensor, table: NodeTable) -> Tensor:
        """States ``[n, 1, width]`` of targets with ``hidden`` ``[n, width]`` and ``paths`` ``[n, depth]``."""
        return hidden.unsqueeze(1)

    def walk(self, hidden: Tensor, table: NodeTable) -> Step:
        """``step(nodes, parents)`` of a beam search, for ``hidden`` ``[B, width]``; it returns ``[B, 1, width]``."""
        return lambda nodes, parents: hidden.unsqueeze(1)


class LinearDepth(nn.Module):
    """A matrix per step, of as many as a code may have."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        for matrix in self.steps:
            nn.init.eye_(matrix.weight)

    def forward(self, hidden: Tensor, paths: Tensor, table: NodeTable) -> Tensor:
        """As :meth:`NoDepth.forward`, but ``[n, depth, width]``."""
        return torch.stack([matrix(hidden) for matrix in self.steps[: paths.size(1)]], dim=1)

    def walk(self, hidden: Tensor, table: NodeTable) -> Step:
        """As :meth:`NoDepth.walk`."""
        steps = iter(self.steps)
        return lambda nodes, parents: next(steps)(hidden).unsqueeze(1)


class TransformerDepth(nn.Module):
    """A causal transformer over the state and the nodes chosen so far."""

    def __init__(self, width: int, n_layers: int, head_size: int, dropout: float) -> None:
        super().__init__()
        self.transformer = Transformer(width, n_layers, head_size, dropout)

    def forward(self, hidden: Tensor, paths: Tensor, table: NodeTable) -> Tensor:
        """As :meth:`NoDepth.forward`, but ``[n, depth, width]``."""
        nodes = F.embedding(table.rows(paths[:, :-1]), table.vectors)
        return self.transformer(torch.cat([hidden.unsqueeze(1), nodes], dim=1))

    def walk(self, hidden: Tensor, table: NodeTable) -> Step:
        """As :meth:`NoDepth.walk`, but a step returns ``[B, W, width]``, a state for every beam."""
        decoder = CachedDecoder(self.transformer)
        first = decoder.prefill(hidden.unsqueeze(1), hidden.new_ones(len(hidden), dtype=torch.int64))

        def step(nodes: Tensor | None, parents: Tensor | None) -> Tensor:
            return first.unsqueeze(1) if nodes is None else decoder.step(table.vectors[nodes], parents)

        return step
