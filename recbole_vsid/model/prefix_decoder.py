"""Incremental decoding of causal stacks: one history per row, many continuations that share it."""

from __future__ import annotations

import torch


class PrefixDecoder:
    """Runs a causal stack one position at a time for many beams per row, equal to its forward over whole sequences.

    The keys and values of a row's history are computed once and shared by all its beams; each beam keeps only those of
    its own few tokens, which follow it when the beams are reordered. Meant for evaluation: no dropout.

    Args:
        stack: :class:`~recbole_vsid.model.t5.Stack` (causal, without a memory) or
            :class:`~recbole_vsid.model.hstu.HSTU`.
        x: histories ``[B, n, width]``, padded on the right.
        lengths: int64 ``[B]``, each in 1..n.

    Attributes:
        last: the stack's output at each row's last valid position, ``[B, width]``.
        n_steps: positions decoded so far.
    """

    def __init__(self, stack, x, lengths):
        self.stack, self.n_steps = stack, 0
        self._history, self._past, self._lengths = [], [[] for _ in stack.layers], lengths
        self.last = stack(x, cache=self._history)[torch.arange(len(x), device=x.device), lengths - 1]
        self._positions = torch.arange(x.size(1), device=x.device)
        self._padding = (self._positions >= lengths.unsqueeze(1))[:, None, None]

    def step(self, x, parents):
        """Append one vector to each beam.

        Args:
            x: ``[B, W, width]``, the vectors of the new tokens.
            parents: int64 ``[B, W]``, the beam of the previous step that each of them continues; all 0 in the first.

        Returns:
            The stack's output at the new positions, ``[B, W, width]``.
        """
        own = torch.arange(self.n_steps + 1, device=x.device)
        rows = torch.arange(len(x), device=x.device).unsqueeze(1)
        here = (self._lengths + self.n_steps).unsqueeze(1)
        for i, (layer, bias) in enumerate(zip(self.stack.layers, self.stack.biases())):
            q, k, v, gate = layer.project(x)
            # One pair [B, W, heads, size] per generated position: reordering copies whole rows, appending nothing.
            past = [(key[rows, parents], value[rows, parents]) for key, value in self._past[i]]
            self._past[i] = past = [*past, (k, v)]
            history_k, history_v = self._history[i]
            to_history = q.transpose(1, 2) @ history_k.transpose(-1, -2) + bias(here, self._positions)
            to_past = torch.stack([(q * key).sum(-1) for key, _ in past], dim=-1) + bias(own[-1:], own)[:, 0]
            logits = torch.cat([to_history.masked_fill(self._padding, -torch.inf), to_past.transpose(1, 2)], dim=-1)
            weights = layer.weigh(logits).to(v.dtype)
            size = to_history.size(-1)
            attended = (weights[..., :size] @ history_v).transpose(1, 2)
            for t, (_, value) in enumerate(past):
                attended = attended + weights[..., size + t].transpose(1, 2).unsqueeze(-1) * value
            x = layer.merge(x, attended.flatten(2), gate)
        self.n_steps += 1
        return self.stack.norm(x)
