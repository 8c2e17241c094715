"""VLSID's discrete VAE: soft residual quantiser, prefix decoder, stopping head, and their loss.

From K. Khrylchenko, *Variable-Length Semantic IDs for Recommender Systems* (arXiv 2602.16375) and its
official code. The encoder picks tokens by cosine similarity with one codebook shared by all positions
and removes a fraction of each picked codeword from its state. The decoder reconstructs the item from
*every* prefix of the code. The stopping head gives q(L | x), the distribution of the code's length.
There is no end token and no reinforcement learning: lengths are learnt through the expected loss.
Without its stopping head the same encoder is the fixed-length dVAE of the paper's comparison.

Shapes: B items, D embedding dimension, H encoder width, T positions, V codewords. All in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_vsid.layers import Transformer

HEAD_DIM = 64


class EncoderOutput(NamedTuple):
    """What a training pass of the encoder gives.

    Attributes:
        token_logits: ``[B, T, V]``, without Gumbel noise and temperature.
        relaxed_tokens: ``[B, T, V]``, rows on the simplex.
        stop_logits: ``[B, T - 1]``, or None if the stopping head is absent or was not asked for.
    """

    token_logits: Tensor
    relaxed_tokens: Tensor
    stop_logits: Tensor | None


@dataclass(frozen=True)
class LossTerms:
    """Scalars; a term that does not belong to a loss is None. ``loss`` is the one to minimise."""

    loss: Tensor
    reconstruction: Tensor
    token_kl: Tensor | None = None
    mean_length: Tensor | None = None
    length_entropy: Tensor | None = None


class Branch(nn.Module):
    """Item embedding ``[B, D]`` → state ``[B, H]``: linear, layer norm, GELU."""

    def __init__(self, d, width):
        super().__init__()
        self.linear = nn.Linear(d, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x):
        return F.gelu(self.layer_norm(self.linear(x)))


class DVAEEncoder(nn.Module):
    """Soft residual quantiser with an optional stopping head (official code; paper, section 3).

    Args:
        d: dimension D of the item embeddings.
        hidden_size: width H, a multiple of 64 (one attention head per 64 channels).
        vocab_size: codewords V.
        max_length: positions T.
        stop_head: False makes it the encoder of the fixed-length dVAE.
        logit_scale: initial factor on the cosine similarities, learnt per position.
        step_size: initial fraction of a codeword that is removed from the state, learnt per position.
        dropout, codebook_dropout: on the input and stopping head / on the query of the codebook.

    Raises:
        ValueError: with a stopping head, ``hidden_size`` is no multiple of 64.
    """

    def __init__(
        self,
        d,
        hidden_size,
        vocab_size,
        max_length,
        stop_head=True,
        logit_scale=5.0,
        step_size=0.2,
        dropout=0.0,
        codebook_dropout=0.0,
    ):
        super().__init__()
        self.max_length, self.has_stop_head = max_length, stop_head
        self.dropout, self.codebook_dropout = nn.Dropout(dropout), nn.Dropout(codebook_dropout)
        self.token_branch = Branch(d, hidden_size)
        self.codebook = nn.Parameter(torch.randn(vocab_size, hidden_size) * 0.02)
        self.log_logit_scale = nn.Parameter(torch.full((max_length,), math.log(logit_scale)))
        self.log_step_size = nn.Parameter(torch.full((max_length - 1,), math.log(step_size)))
        self.rms_norm = nn.RMSNorm(hidden_size)
        if stop_head:
            self.stop_branch = Branch(d, hidden_size)
            self.stop_transformer = Transformer(hidden_size, 1, HEAD_DIM, dropout)
            self.stop_predictor = nn.Linear(hidden_size, 1)
            # Zeros start training near E[L] = 2; a large bias of either sign would starve one end of gradient.
            self.stop_bias = nn.Parameter(torch.zeros(max_length - 1))

    def remove(self, state, codeword, position):
        """The state ``[B, H]`` after the token at ``position`` (its raw, un-normalised codeword) is taken out."""
        return self.rms_norm(state - self.log_step_size[position].exp() * codeword)

    def stop_head(self, states):
        """Stop logits ``[B, T - 1]`` from ``states`` ``[B, T, H]``: the item, then the state after 1..T-1 tokens.

        Logit *l* is read at the slot that holds the state after *l* tokens, so the decision to stop after
        *l* tokens knows these tokens and no later one. Slot 0 only serves as context.
        """
        hidden = self.stop_transformer(states)[:, 1:]
        return self.stop_predictor(self.dropout(hidden)).squeeze(-1) + self.stop_bias

    def forward(self, x, tau, noise=None, generator=None, with_stop=True):
        """One relaxed pass.

        Args:
            x: ``[B, D]``, rows of unit length.
            tau: temperature of the Gumbel-Softmax.
            noise: standard Gumbel noise ``[T, B, V]``; drawn from ``generator`` if None.
            with_stop: False skips the stopping head (its loss is not needed while warming up).

        Returns:
            EncoderOutput.
        """
        if noise is None:
            noise = gumbel_noise((self.max_length, len(x), len(self.codebook)), x.device, generator)
        directions = F.normalize(self.codebook, dim=-1).t()
        scales = self.log_logit_scale.exp()
        with_stop = with_stop and self.has_stop_head
        state = self.token_branch(self.dropout(x))
        states, logits, tokens = [], [], []
        for t in range(self.max_length):
            query = F.normalize(self.codebook_dropout(state), dim=-1)
            logits.append(scales[t] * (query @ directions))
            tokens.append(((logits[t] + noise[t]) / tau).softmax(-1))
            if t + 1 < self.max_length:
                state = self.remove(state, tokens[t] @ self.codebook, t)
                states.append(state)
        stop_logits = None
        if with_stop:
            stop_logits = self.stop_head(torch.stack([self.stop_branch(self.dropout(x)), *states], 1))
        return EncoderOutput(torch.stack(logits, 1), torch.stack(tokens, 1), stop_logits)

    def encode(self, x):
        """Hard tokens without noise: codes int64 ``[B, T]`` and stop logits ``[B, T - 1]`` (or None)."""
        directions = F.normalize(self.codebook, dim=-1).t()
        state = self.token_branch(x)
        states, codes = [], []
        for t in range(self.max_length):
            # Neither the query's norm nor the logit scale changes the argmax.
            codes.append((state @ directions).argmax(-1))
            if t + 1 < self.max_length:
                state = self.remove(state, self.codebook[codes[t]], t)
                states.append(state)
        stop_logits = None
        if self.has_stop_head:
            stop_logits = self.stop_head(torch.stack([self.stop_branch(x), *states], 1))
        return torch.stack(codes, 1), stop_logits


class DVAEDecoder(nn.Module):
    """Causal decoder: reconstruction *l* depends on tokens 1..l only (official code).

    Args:
        d: dimension D of the item embeddings.
        width: decoder width, a multiple of 64.
        vocab_size: codewords V; the embedding table is not tied to the encoder's codebook.
        n_layers: transformer blocks.

    Raises:
        ValueError: ``width`` is no multiple of 64.
    """

    def __init__(self, d, width, vocab_size, n_layers, dropout=0.0):
        super().__init__()
        bound = 1 / math.sqrt(vocab_size)
        self.token_embedding = nn.Parameter(torch.empty(vocab_size, width).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, n_layers, HEAD_DIM, dropout)
        self.output = nn.Linear(width, d)

    def forward(self, tokens):
        """Relaxed or one-hot ``tokens`` ``[B, T, V]`` → unit vectors ``[B, T, D]``, one per prefix."""
        return self.reconstruct(tokens @ self.token_embedding)

    def decode(self, codes):
        """Hard ``codes`` int64 ``[B, T]`` → unit vectors ``[B, T, D]``; the same as one-hot tokens."""
        return self.reconstruct(F.embedding(codes, self.token_embedding))

    def reconstruct(self, embedded):
        return F.normalize(self.output(self.transformer(self.dropout(embedded))), dim=-1)


def gumbel_noise(shape, device=None, generator=None):
    """Standard Gumbel noise; None as ``generator`` is torch's global one."""
    return torch.empty(shape, device=device).exponential_(generator=generator).log_().neg_()


def length_posterior(stop_logits):
    """Stick-breaking length distribution, in log space.

    Args:
        stop_logits: ``[B, T - 1]``; entry *l* is the logit of stopping after *l* tokens, if not before.
            Stopping after T tokens is forced.

    Returns:
        log q(L = l | x) and log q(L >= l | x), both ``[B, T]``.
    """
    going = F.pad(F.logsigmoid(-stop_logits).cumsum(-1), (1, 0))
    return going + F.pad(F.logsigmoid(stop_logits), (0, 1)), going


def token_kl(token_logits):
    """KL of the token distribution to uniform in nats, ``[B, T]``, from clean logits ``[B, T, V]``."""
    log_p = token_logits.log_softmax(-1)
    return math.log(token_logits.size(-1)) + (log_p.exp() * log_p).sum(-1)


def squared_errors(target, reconstructions):
    """``[B, T]``, in [0, 4]: squared distances of unit vectors, *summed* over D.

    Averaging over D instead would make every token look worthless beside its price.
    """
    return (target.unsqueeze(1) - reconstructions).square().sum(-1)


def uniform_prefix_loss(target, reconstructions):
    """Mean error over all prefixes: the variable-length loss at smoothing 1 and beta 0, which needs no q(L)."""
    loss = squared_errors(target, reconstructions).mean()
    return LossTerms(loss, loss)


def variable_length_loss(
    target, reconstructions, token_logits, stop_logits, beta, length_cost, free_bits, smoothing=0.1
):
    """The negative ELBO as the official code weighs it (paper, section 3; weights from the code).

    ``reconstruction + beta * (token KL + length_cost * E[L] - H[L])``. Nothing is detached: the error
    of short prefixes raises q at short lengths, and the tokens' KL itself shortens codes through q(L >= t).

    Args:
        target: ``[B, D]``, unit rows, without dropout.
        reconstructions: ``[B, T, D]`` from :class:`DVAEDecoder`.
        token_logits, stop_logits: from :class:`DVAEEncoder`.
        beta: weight of all KL terms.
        length_cost: price of a token in nats, lambda in the paper (minus log of 1 - alpha of the geometric prior).
        free_bits: nats per item and position that a token may carry for nothing.
        smoothing: share of uniform weights over the prefixes, in the reconstruction term only.

    Returns:
        LossTerms; ``token_kl`` is the survival-weighted KL above the free bits.
    """
    log_q, log_survival = length_posterior(stop_logits)
    q = log_q.exp()
    max_length = q.size(1)
    weights = (1 - smoothing) * q + smoothing / max_length
    reconstruction = (weights * squared_errors(target, reconstructions)).sum(1).mean()
    kl = (log_survival.exp() * F.relu(token_kl(token_logits) - free_bits)).sum(1).mean()
    mean_length = (q * torch.arange(1, max_length + 1, device=q.device)).sum(1).mean()
    entropy = -(q * log_q).sum(1).mean()
    loss = reconstruction + beta * (kl + length_cost * mean_length - entropy)
    return LossTerms(loss, reconstruction, kl, mean_length, entropy)


def fixed_length_loss(target, reconstructions, token_logits, beta, free_bits):
    """Loss of the fixed-length dVAE: error of the full code plus ``beta`` times the tokens' KL.

    Arguments and shapes as in :func:`variable_length_loss`.
    """
    reconstruction = squared_errors(target, reconstructions[:, -1:]).mean()
    kl = F.relu(token_kl(token_logits) - free_bits).sum(1).mean()
    return LossTerms(reconstruction + beta * kl, reconstruction, kl)


def cosine_ramp(step, start, end, n_steps):
    """From ``start`` to ``end`` along half a cosine in ``n_steps``, then constant."""
    if step >= n_steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / n_steps)) / 2


def schedule(settings, step, updates):
    """Temperature, beta, and whether the lengths are still left alone, for one update.

    "two_phase": while warming every prefix weighs the same and beta is 0, so that all positions learn
    and the stopping head stays near its start; then beta acts in full at once (a ramp would let the
    lengths run to T first). "paper": temperature and beta follow cosines over ``warm_fraction``.
    """
    warm_updates = settings.warm_fraction * updates
    if settings.schedule == "paper":
        tau = cosine_ramp(step, settings.tau_start, settings.tau_end, warm_updates)
        return tau, cosine_ramp(step, 0.0, settings.beta, warm_updates), False
    tau = cosine_ramp(step, settings.tau_start, settings.tau_end, settings.tau_fraction * updates)
    warming = step < warm_updates
    return tau, 0.0 if warming else settings.beta, warming
