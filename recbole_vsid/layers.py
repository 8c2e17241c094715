"""The transformer of VLSID, used by its tokenizer (stop head, prefix decoder) and its recommender.

A modern bias-free GPT block (arXiv 2602.16375, official code): weight-free RMS norm, queries and
keys normalised, a constant attention scale of 0.1, rotary positions on half of the channels,
squared-ReLU MLP, output matrices initialised to zero so that every block starts as the identity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

ATTENTION_SCALE = 0.1


def rms_norm(x):
    """RMS norm over the last dimension without learned weights."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_angles(positions, head_dim):
    """Angles of the rotary embedding, ``[..., head_dim // 2]``; the second half of them is zero."""
    quarter = head_dim // 4
    exponent = torch.arange(quarter, dtype=torch.float32, device=positions.device) / max(quarter - 1, 1)
    frequencies = torch.cat([(1 / 1024) ** exponent, exponent.new_zeros(head_dim // 2 - quarter)])
    return positions.to(torch.float32).unsqueeze(-1) * frequencies


def rotate(x, angles):
    """Rotate channel pairs (i, i + head_dim/2) of ``x`` ``[..., head_dim]`` by ``angles``."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)


def causal_attention(q, k, v):
    """Causal attention of ``q``, ``k``, ``v``, each ``[B, n_heads, length, head_dim]``; the same shape."""
    if q.device.type == "cpu" and torch.is_grad_enabled():
        # In bf16 PyTorch's fused kernel for CPUs takes two to three times as long, forward and backward.
        future = torch.ones(q.size(2), k.size(2), dtype=torch.bool).triu(1)
        return (ATTENTION_SCALE * q @ k.transpose(-1, -2)).masked_fill(future, -torch.inf).softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=ATTENTION_SCALE)


class Block(nn.Module):
    """Causal self-attention and squared-ReLU MLP, both residual.

    Args:
        width: model width, a multiple of ``head_dim``.
        head_dim: size of one attention head (64 in the tokenizer, 128 in the paper's recommender).
        dropout: dropout on both residual branches.
    """

    def __init__(self, width, head_dim, dropout=0.0):
        super().__init__()
        self.n_heads, self.head_dim = width // head_dim, head_dim
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        bound = math.sqrt(3) * 0.5 / math.sqrt(width)
        for matrix in (self.q, self.k, self.v, self.mlp_in):
            nn.init.uniform_(matrix.weight, -bound, bound)
        for matrix in (self.o, self.mlp_out):
            nn.init.zeros_(matrix.weight)

    def project(self, x, angles):
        """Queries, keys and values, each ``[B, n_heads, length, head_dim]``."""
        heads = (self.n_heads, self.head_dim)
        q, k, v = (matrix(x).unflatten(-1, heads).transpose(1, 2) for matrix in (self.q, self.k, self.v))
        return rotate(rms_norm(q), angles), rotate(rms_norm(k), angles), v

    def mlp(self, x):
        return x + self.dropout(self.mlp_out(F.relu(self.mlp_in(rms_norm(x))).square()))

    def forward(self, x, angles, cache=None):
        """``x`` ``[B, length, width]``; a ``cache`` list receives this block's (keys, values)."""
        q, k, v = self.project(rms_norm(x), angles)
        if cache is not None:
            cache.append((k, v))
        y = causal_attention(q, k, v)
        x = x + self.dropout(self.o(y.transpose(1, 2).flatten(2)))
        return self.mlp(x)


class Transformer(nn.Module):
    """A stack of :class:`Block` between two weight-free norms.

    Raises:
        ValueError: ``width`` is not a positive multiple of ``head_dim``, or ``head_dim`` is not a multiple of 4.
    """

    def __init__(self, width, n_layers, head_dim, dropout=0.0):
        super().__init__()
        if head_dim % 4 or width < head_dim or width % head_dim:
            raise ValueError(f"width {width} must be a multiple of the head size {head_dim}, and that a multiple of 4")
        self.head_dim = head_dim
        self.blocks = nn.ModuleList(Block(width, head_dim, dropout) for _ in range(n_layers))

    def forward(self, x, cache=None):
        """Causal pass over ``x`` ``[B, length, width]``; positions count from 0."""
        angles = rotary_angles(torch.arange(x.size(1), device=x.device), self.head_dim)
        x = rms_norm(x)
        for block in self.blocks:
            x = block(x, angles, cache)
        return rms_norm(x)


class CachedDecoder:
    """Decodes many continuations of one context per row without repeating the context.

    The keys and values of the context are computed once and shared by all beams of a row; only the
    few generated tokens are stored per beam and follow it when the beams are reordered. Equal to
    :meth:`Transformer.forward` over the whole sequence. Meant for evaluation: no dropout on steps.

    Args:
        transformer: :class:`Transformer`; its weights are used as they are at each call.
    """

    def __init__(self, transformer):
        self.transformer = transformer
        self._context = self._suffix = self._padding = self._next_position = None

    def prefill(self, x, lengths):
        """Read the contexts, forgetting what was there before.

        Args:
            x: ``[B, C, width]``, padded on the right.
            lengths: int64 ``[B]``, each in 1..C.

        Returns:
            The output at the last valid position of each row, ``[B, width]``.

        Raises:
            ValueError: a length lies outside 1..C.
        """
        size = x.size(1)
        if ((lengths < 1) | (lengths > size)).any():
            raise ValueError(f"context lengths must lie in 1..{size}, not {lengths.tolist()}")
        self._context = []
        # Padding lies behind the context and the attention is causal: valid positions never see it.
        hidden = self.transformer(x, self._context)
        self._padding = (torch.arange(size, device=x.device) >= lengths.unsqueeze(1))[:, None, None]
        self._next_position = lengths
        self._suffix = [[] for _ in self._context]
        return hidden[torch.arange(len(lengths), device=x.device), lengths - 1]

    def step(self, x, parents):
        """Append one vector to each beam.

        Args:
            x: ``[B, W, width]``, the vectors of the new tokens.
            parents: int64 ``[B, W]``, the beam of the previous step that each of them continues;
                all 0 in the first step, in which there is only the context.

        Returns:
            The output at the new positions, ``[B, W, width]``.
        """
        angles = rotary_angles(self._next_position, self.transformer.head_dim)[:, None, None]
        rows = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        x = rms_norm(x)
        for i, block in enumerate(self.transformer.blocks):
            q, k, v = block.project(rms_norm(x), angles)
            # [B, W, heads, head_dim], one pair per generated position: reordering the beams then copies
            # whole rows, and appending copies nothing.
            past = [(key[rows, parents], value[rows, parents]) for key, value in self._suffix[i]]
            self._suffix[i] = [*past, (k.transpose(1, 2), v.transpose(1, 2))]
            y = self._attend(q, *self._context[i], self._suffix[i])
            x = block.mlp(x + block.o(y.flatten(2)))
        self._next_position = self._next_position + 1
        return rms_norm(x)

    def _attend(self, q, context_k, context_v, suffix):
        """``q`` ``[B, heads, W, head_dim]`` against the shared context and each beam's own suffix."""
        to_context = (q @ context_k.transpose(-1, -2)).float().masked_fill(self._padding, -torch.inf)
        beams = q.transpose(1, 2)
        to_suffix = [(beams * k).sum(-1).transpose(1, 2).unsqueeze(-1).float() for k, _ in suffix]
        weights = (ATTENTION_SCALE * torch.cat([to_context, *to_suffix], dim=-1)).softmax(-1).to(q.dtype)
        size = to_context.size(-1)
        y = (weights[..., :size] @ context_v).transpose(1, 2)
        for t, (_, v) in enumerate(suffix):
            y = y + weights[..., size + t].transpose(1, 2).unsqueeze(-1) * v
        return y  # [B, W, heads, head_dim]
