"""T5's encoder–decoder at the size of recommenders, and its incremental decoding for many beams.

C. Raffel et al., *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*, arXiv
1910.10683, as Hugging Face implements its first version: blocks with the norm in front, RMS norm with a learned weight,
no biases, attention without the 1/√size scale, relative positions in 32 logarithmic buckets that all layers of a stack
share, a ReLU feed-forward. With copied weights the outputs are the same. Unlike there, the output matrices ``o`` and
``wo`` start at zero, so that every layer starts as the identity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from recbole_vsid.model.dropout import Dropout, dropout

N_BUCKETS = 32
MAX_DISTANCE = 128
NORM_EPSILON = 1e-6


def relative_buckets(distance, two_sided):
    """Bucket of each ``key position − query position``; int64, in ``0..31``.

    Half of the buckets of a direction hold one distance each, the others grow logarithmically up to 128, beyond which
    all is one bucket. ``two_sided`` gives each direction 16 buckets; otherwise keys behind the query are in bucket 0.
    """
    n_buckets, offset = N_BUCKETS, 0
    if two_sided:
        n_buckets //= 2
        offset = n_buckets * (distance > 0)
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = n_buckets // 2
    steps = (distance.clamp(min=1).float() / exact).log() / math.log(MAX_DISTANCE / exact) * (n_buckets - exact)
    logarithmic = (exact + steps.long()).clamp(max=n_buckets - 1)
    return offset + torch.where(distance < exact, distance, logarithmic)


def attend(q, k, v, bias, rate=0.0):
    """Unscaled attention of ``q`` ``[B, heads, n, size]`` over ``k`` and ``v`` ``[B, heads, m, size]``.

    Args:
        bias: what is added to the attention logits, broadcast to ``[B, heads, n, m]``; −inf hides a key.
        rate: of dropout on the attention weights.

    Returns:
        ``[B, n, heads · size]``.
    """
    if q.device.type == "cpu" and torch.is_grad_enabled():
        # A bias with a gradient keeps PyTorch from its fused kernels, and what it then does is slower than this.
        weights = (q @ k.transpose(-1, -2) + bias).softmax(-1).to(v.dtype)
        attended = dropout(weights, rate) @ v
    else:
        attended = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), rate, scale=1.0)
    return attended.transpose(1, 2).flatten(2)


class RelativeBias(nn.Module):
    """One learned number per head and bucket of relative positions."""

    def __init__(self, n_heads, two_sided):
        super().__init__()
        self.two_sided = two_sided
        self.table = nn.Embedding(N_BUCKETS, n_heads)

    def forward(self, queries, keys):
        """``[…, heads, n, m]`` for positions ``[…, n]`` and ``[m]``."""
        return self.table(relative_buckets(keys - queries.unsqueeze(-1), self.two_sided)).movedim(-1, -3)

    def causal(self, length, device):
        """``[heads, length, length]``, −inf where the key comes after the query."""
        positions = torch.arange(length, device=device)
        return self(positions, positions).masked_fill(positions > positions.unsqueeze(1), -torch.inf)


class Attention(nn.Module):
    """Projections of multi-head attention; ``n_heads × head_size`` need not be the width."""

    def __init__(self, width, n_heads, head_size, dropout_rate):
        super().__init__()
        self.heads, self.dropout_rate = (n_heads, head_size), dropout_rate
        inner = n_heads * head_size
        self.q = nn.Linear(width, inner, bias=False)
        self.k = nn.Linear(width, inner, bias=False)
        self.v = nn.Linear(width, inner, bias=False)
        self.o = nn.Linear(inner, width, bias=False)
        nn.init.normal_(self.q.weight, std=(width * head_size) ** -0.5)  # makes up for the missing scale
        for matrix in (self.k, self.v):
            nn.init.normal_(matrix.weight, std=width**-0.5)
        nn.init.zeros_(self.o.weight)

    def split(self, x):
        """``[B, n, heads·size]`` → ``[B, heads, n, size]``."""
        return x.unflatten(-1, self.heads).transpose(1, 2)

    def keys_values(self, x):
        """Keys and values of ``x`` ``[B, m, width]``, each ``[B, heads, m, size]``."""
        return self.split(self.k(x)), self.split(self.v(x))

    def forward(self, x, keys_values, bias):
        """``x`` ``[B, n, width]`` → ``[B, n, width]``."""
        return self.o(attend(self.split(self.q(x)), *keys_values, bias, self.dropout_rate if self.training else 0.0))


class FeedForward(nn.Module):
    """Two matrices with ReLU and dropout between them."""

    def __init__(self, width, inner, dropout_rate):
        super().__init__()
        self.wi = nn.Linear(width, inner, bias=False)
        self.wo = nn.Linear(inner, width, bias=False)
        self.dropout = Dropout(dropout_rate)
        nn.init.normal_(self.wi.weight, std=width**-0.5)
        nn.init.zeros_(self.wo.weight)

    def forward(self, x):
        return self.wo(self.dropout(self.wi(x).relu_()))


class Layer(nn.Module):
    """Self-attention, with a memory cross-attention, and feed-forward, each with its norm in front and residual."""

    def __init__(self, width, n_heads, head_size, inner, dropout_rate, has_memory):
        super().__init__()
        self.self_norm, self.self_attention = _norm(width), Attention(width, n_heads, head_size, dropout_rate)
        if has_memory:
            self.cross_norm, self.cross_attention = _norm(width), Attention(width, n_heads, head_size, dropout_rate)
        self.ff_norm, self.feed_forward = _norm(width), FeedForward(width, inner, dropout_rate)
        self.dropout = Dropout(dropout_rate)

    def forward(self, x, bias, memory=None, memory_bias=None, cache=None):
        """``x`` ``[B, n, width]``, biases as :func:`attend` takes them → ``[B, n, width]``.

        With a list ``cache`` the layer's keys and values, each ``[B, heads, n, size]``, are appended to it.
        """
        normed = self.self_norm(x)
        keys_values = self.self_attention.keys_values(normed)
        if cache is not None:
            cache.append(keys_values)
        x = x + self.dropout(self.self_attention(normed, keys_values, bias))
        if memory is not None:
            x = x + self.dropout(self.attend_memory(x, self.cross_attention.keys_values(memory), memory_bias))
        return self.feed(x)

    def project(self, x):
        """Queries, keys and values of ``x`` ``[B, n, width]``, each ``[B, n, heads, size]``, and no gate."""
        normed, attention = self.self_norm(x), self.self_attention
        q, k, v = (matrix(normed).unflatten(-1, attention.heads) for matrix in (attention.q, attention.k, attention.v))
        return q, k, v, None

    @staticmethod
    def weigh(logits):
        """Attention weights over the last dimension."""
        return logits.softmax(-1)

    def merge(self, x, attended, gate=None):
        """What the layer makes of ``x`` and what it read, ``attended`` ``[B, n, heads · size]``; ``[B, n, width]``."""
        return self.feed(x + self.dropout(self.self_attention.o(attended)))

    def feed(self, x):
        """The feed-forward branch with its residual."""
        return x + self.dropout(self.feed_forward(self.ff_norm(x)))

    def attend_memory(self, x, keys_values, bias):
        """What ``x`` ``[B, n, width]`` reads from the memory, ``[B, n, width]``."""
        return self.cross_attention(self.cross_norm(x), keys_values, bias)


def _norm(width):
    return nn.RMSNorm(width, eps=NORM_EPSILON)


class Stack(nn.Module):
    """Encoder or decoder: layers between dropout of the input and a last norm with dropout.

    Args:
        causal: whether positions see only earlier ones.
        has_memory: whether the layers also attend to a memory.
    """

    def __init__(self, width, n_layers, n_heads, head_size, inner, dropout_rate, causal=False, has_memory=False):
        super().__init__()
        self.causal = causal
        self.bias = RelativeBias(n_heads, two_sided=not causal)
        self.layers = nn.ModuleList(
            Layer(width, n_heads, head_size, inner, dropout_rate, has_memory) for _ in range(n_layers)
        )
        self.norm, self.dropout = _norm(width), Dropout(dropout_rate)
        nn.init.normal_(self.bias.table.weight, std=width**-0.5)

    def forward(self, x, padding=None, memory=None, memory_padding=None, cache=None):
        """``x`` ``[B, n, width]`` → ``[B, n, width]``.

        Args:
            padding: bool ``[B, n]``, True where ``x`` is none; a causal stack needs none if it pads on the right.
            memory, memory_padding: ``[B, m, width]`` and bool ``[B, m]``.
            cache: a list to which the layers append their keys and values.
        """
        if self.causal:
            bias = self.bias.causal(x.size(1), x.device).unsqueeze(0)
        else:
            positions = torch.arange(x.size(1), device=x.device)
            bias = self.bias(positions, positions).unsqueeze(0)
        if padding is not None:
            bias = bias.masked_fill(padding[:, None, None], -torch.inf)
        memory_bias = None if memory is None else _hiding(memory_padding, x)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, bias, memory, memory_bias, cache)
        return self.dropout(self.norm(x))

    def biases(self):
        """The :class:`RelativeBias` of each layer, all the same one."""
        return [self.bias] * len(self.layers)


def _hiding(padding, like):
    """``[B, 1, 1, m]``: −inf where ``padding`` ``[B, m]``, else 0."""
    bias = torch.zeros(padding.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill_(padding, -torch.inf)[:, None, None]


class BeamDecoder:
    """Runs a decoder one position at a time for many beams per row, equal to :meth:`Stack.forward` over whole prefixes.

    The keys and values of a row's memory are computed once and shared by all its beams; each beam keeps only those of
    its own few tokens, which follow it when the beams are reordered. Meant for evaluation: no dropout.

    Args:
        decoder: a causal :class:`Stack` with a memory.
        memory, padding: the encoder's output ``[B, m, width]`` and bool ``[B, m]``.

    Attributes:
        n_steps: positions decoded so far.
    """

    def __init__(self, decoder, memory, padding):
        self.decoder = decoder
        self._memory = [layer.cross_attention.keys_values(memory) for layer in decoder.layers]
        self._memory_bias = _hiding(padding, memory)
        self._past = [[] for _ in decoder.layers]
        self.n_steps = 0

    def step(self, x, parents=None):
        """Append one vector to each beam.

        Args:
            x: ``[B, W, width]``, the vectors of the new tokens.
            parents: int64 ``[B, W]``, the beam of the previous step that each of them continues; None in the first.

        Returns:
            The decoder's output at the new positions, ``[B, W, width]``.
        """
        positions = torch.arange(self.n_steps + 1, device=x.device)
        bias = self.decoder.bias(positions[-1:], positions)[:, 0]  # [heads, n]
        rows = torch.arange(len(x), device=x.device).unsqueeze(1)
        for i, layer in enumerate(self.decoder.layers):
            q, k, v, _ = layer.project(x)
            # One pair [B, W, heads, size] per generated position: reordering copies whole rows, appending nothing.
            past = [(key[rows, parents], value[rows, parents]) for key, value in self._past[i]]
            self._past[i] = past = [*past, (k, v)]
            weights = layer.weigh(torch.stack([(q * key).sum(-1) for key, _ in past], dim=-1) + bias).to(v.dtype)
            attended = sum(weights[..., t].unsqueeze(-1) * value for t, (_, value) in enumerate(past))
            x = x + layer.self_attention.o(attended.flatten(2))
            x = layer.feed(x + layer.attend_memory(x, self._memory[i], self._memory_bias))
        self.n_steps += 1
        return self.decoder.norm(x)
