"""How far DIGER lets items stray from their nearest codewords: noise on the assignment logits and its two decays.

Fu et al., *Differentiable Semantic ID for Generative Recommendation*, arXiv 2601.19711. Noise of scale ``s`` times a
standard Gumbel variable makes rare codes seen; ``s`` must fade:

``sdud``   one learnt scale σ that follows the recommendation loss L: ``L / (2 (σ + λ)²) + log(σ + λ)`` is least at
           ``σ = max(0, √L − λ)``, so the noise is off once ``L ≤ λ²``; or σ by this formula from a running mean of L.
``frqud``  noise only for items on *hot* codes, those whose running share of use at their level exceeds
           ``hot_ratio / V``; items on other codes are assigned as without noise.
``both``   σ on hot codes, none elsewhere.

Unlike the official code, L and σ are constants for each other's sake: σ learns from its own loss alone, which is
added to that of the recommender instead of taking its place, and cannot be negative. Hot is decided per item and level.
"""

from __future__ import annotations

import torch
from torch import nn

# A scale below this is switched off.
SMALLEST_SCALE = 1e-4

# log(−log(u)) is infinite at 0 and 1.
UNIFORM_MARGIN = 1e-7

# How far the running mean of the recommendation loss reaches back, in updates, is 1 / (1 − this).
LOSS_MOMENTUM = 0.99


class Exploration(nn.Module):
    """Noise for ``n_levels`` codebooks of ``vocab_size`` codewords.

    Args:
        settings: :class:`~recbole_vsid.tokenizer.joint.JointSettings`; reads ``noise``, ``noise_scale``, ``decay``,
            ``sdud``, ``sdud_lambda``, ``hot_ratio`` and ``usage_momentum``.

    Attributes:
        sigma: the scale; a parameter where it is learnt, else a buffer.
        usage: float32 ``[n_levels, V]``, running shares of the noise-free codes; each level sums to 1.
    """

    def __init__(self, settings, n_levels, vocab_size):
        super().__init__()
        self.settings = settings
        self.follows_loss = settings.noise != "none" and settings.decay in ("sdud", "both")
        self.by_usage = settings.noise != "none" and settings.decay in ("frqud", "both")
        self.is_learnt = self.follows_loss and settings.sdud == "learned"
        sigma = torch.tensor(float(settings.noise_scale if settings.noise != "none" else 0.0))
        if self.is_learnt:
            self.sigma = nn.Parameter(sigma)
        else:
            self.register_buffer("sigma", sigma)
        self.register_buffer("usage", torch.full((n_levels, vocab_size), 1 / vocab_size))
        self.register_buffer("mean_loss", torch.tensor(-1.0))  # of no loss yet

    def is_hot(self, level, codes):
        """Whether each of the ``codes`` ``[n]`` is over-used; bool ``[n]``."""
        return self.usage[level, codes] > self.settings.hot_ratio / self.usage.size(1)

    def scale(self, level, codes):
        """Noise scale of the items whose noise-free codes are ``codes`` ``[n]``; float32 ``[n, 1]``, a constant."""
        sigma = self.sigma.detach() * (self.sigma.detach() >= SMALLEST_SCALE)
        chosen = self.is_hot(level, codes) if self.by_usage else torch.ones_like(codes, dtype=torch.bool)
        return (sigma * chosen).unsqueeze(1)

    def noise(self, level, codes, logits):
        """What to add to ``logits`` ``[n, V]`` of items with the noise-free codes ``codes`` ``[n]``."""
        if self.settings.noise == "none":
            return torch.zeros_like(logits)
        if self.settings.noise == "gaussian":
            draw = torch.randn_like(logits)
        else:
            draw = -(-torch.rand_like(logits).clamp(UNIFORM_MARGIN, 1 - UNIFORM_MARGIN).log()).log()
        return self.scale(level, codes) * draw

    @torch.no_grad()
    def count(self, level, codes):
        """Take the noise-free ``codes`` ``[n]`` of an update into the running shares."""
        shares = torch.bincount(codes, minlength=self.usage.size(1)) / len(codes)
        self.usage[level].lerp_(shares, 1 - self.settings.usage_momentum)

    def follow(self, generation_loss):
        """Let σ follow the recommendation loss (a mean per token, in nats): the loss to train it with, or None.

        Its closed form sets σ here instead and has no loss.
        """
        if not self.follows_loss:
            return None
        loss, offset = generation_loss.detach().float(), self.settings.sdud_lambda
        if self.is_learnt:
            return loss / (2 * (self.sigma + offset).square()) + (self.sigma + offset).log()
        self.mean_loss = torch.where(self.mean_loss < 0, loss, torch.lerp(loss, self.mean_loss, LOSS_MOMENTUM))
        self.sigma = (self.mean_loss.sqrt() - offset).clamp(min=0)
        return None

    @torch.no_grad()
    def project(self):
        """Bring σ back to at least 0; call it after every update of it."""
        self.sigma.clamp_(min=0)
