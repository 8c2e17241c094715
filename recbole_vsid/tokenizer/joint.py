"""A residual quantiser that goes on learning while a recommender is trained on its codes (DIGER, arXiv 2601.19711).

An item's codes are chosen by ``argmax(logits + noise)`` over the negative squared distances to the codewords of each
level, and behave in the backward pass like ``softmax((logits + noise) / temperature)``: hard forward, soft backward. A
loss on the codes then reaches every codeword of every level, not only the chosen ones. Two losses hold the codebooks
to the items: that of vector quantisation and the reconstruction of the latent vector by the sum of its codewords.

The encoder that made the latent vectors is constant by default; there is no decoder. Where paper and official code
differ this follows the code that its authors later marked as corrected, in which the recommendation loss does reach
the codebooks.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from recbole_vsid.tokenizer.base import ROWS_AT_ONCE, Settings, unit_rows
from recbole_vsid.tokenizer.defaults import local_seed, require_choice, require_integer, require_real
from recbole_vsid.tokenizer.exploration import Exploration
from recbole_vsid.tokenizer.kmeans import nearest, squared_distances
from recbole_vsid.tokenizer.residual import balanced_codes
from recbole_vsid.tokenizer.rqvae import encoder_sizes, mlp

PATHS = ("history", "teacher", "label")
ASSIGNMENTS = {"sinkhorn": balanced_codes, "nearest": nearest}

# κ is searched for in this range by halving it so often.
SHARPNESS_RANGE, SHARPNESS_STEPS = (1e-3, 1e4), 40

# Averages over items are taken of so many of a large catalogue.
SAMPLED_ITEMS = 4096


@dataclass(frozen=True)
class JointSettings(Settings):
    """Settings of joint training; ``properties/model/DIGER.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    prefix: ClassVar[str] = "joint_"

    gradient_paths: list = field(default_factory=lambda: list(PATHS))
    noise: str = "gumbel"
    noise_scale: float = 1.0
    decay: str = "frqud"
    sdud: str = "learned"
    sdud_lambda: float = 1.7
    hot_ratio: float = 1.5
    usage_momentum: float = 0.99
    logits: str = "calibrated"
    logit_agreement: float = 0.7
    temperature: float = 2.0
    soft_update: str = "indicator"
    forward: str = "cached"
    residual_chain: str = "sampled"
    assignment: str = "sinkhorn"
    suffix_policy: str = "rank"
    refresh_epochs: int = 1
    quantisation_weight: float = 1.0
    commitment: float = 0.25
    reconstruction_weight: float = 1.0
    codebook_learning_rate: float | str = "auto"
    encoder_learning_rate: float = 0.0
    sigma_learning_rate: float = 0.01
    collapse_below: float = 0.5

    def __post_init__(self):
        paths = self.gradient_paths
        known = isinstance(paths, (list, tuple)) and all(path in PATHS and paths.count(path) == 1 for path in paths)
        self.require("gradient_paths", known, f"a list of some of {', '.join(PATHS)}; [] is no gradient")
        require_choice(self, "noise", ("gumbel", "gaussian", "none"))
        require_real(self, "noise_scale", 0)
        require_choice(self, "decay", ("none", "sdud", "frqud", "both"))
        require_choice(self, "sdud", ("learned", "closed_form"))
        require_real(self, "sdud_lambda", 0, open_low=True)
        require_real(self, "hot_ratio", 0, open_low=True)
        require_real(self, "usage_momentum", 0, 1)
        require_choice(self, "logits", ("calibrated", "raw", "minmax"))
        require_real(self, "logit_agreement", 0, 1, open_low=True)
        require_real(self, "temperature", 0, open_low=True)
        require_choice(self, "soft_update", ("indicator", "vector", "hard"))
        require_choice(self, "forward", ("cached", "sampled"))
        require_choice(self, "residual_chain", ("sampled", "cached"))
        require_choice(self, "assignment", tuple(ASSIGNMENTS))
        require_choice(self, "suffix_policy", ("rank", "sticky"))
        require_integer(self, "refresh_epochs", 1)
        for name in ("quantisation_weight", "commitment", "reconstruction_weight", "encoder_learning_rate"):
            require_real(self, name, 0)
        require_real(self, "codebook_learning_rate", 0, auto=True)
        require_real(self, "sigma_learning_rate", 0)
        require_real(self, "collapse_below", 0, 1)

    @property
    def is_two_stage(self):
        """Whether nothing of the tokenizer is trained."""
        return self.codebook_learning_rate == 0 and self.encoder_learning_rate == 0


class Quantised(NamedTuple):
    """What :meth:`JointTokenizer.forward` returns for n items.

    Attributes:
        codes: int64 ``[n, n_levels]``, the sampled codes.
        soft: float32 ``[n, n_levels, V]``, their distributions, with gradient.
        quantisation, reconstruction: float32 ``[n]``, losses.
    """

    codes: torch.Tensor
    soft: torch.Tensor
    quantisation: torch.Tensor
    reconstruction: torch.Tensor


class JointTokenizer(nn.Module):
    """Latent vectors of all items, and codebooks that are trained.

    Args:
        vectors: float32 ``[n_items, d]``: latent vectors, or what ``encoder`` makes them of; row 0 is ignored.
        encoder: from ``vectors`` to latent vectors ``[n, D]``; the identity if it stays as it is.
        codebooks: ``[n_levels, V, D]``.
        settings: :class:`JointSettings`.

    Attributes:
        logit_scale: float32 ``[n_levels]``, what distances are multiplied with, see :meth:`calibrate`.
        spread: root mean square deviation of a coordinate of the last codebook at the start.
    """

    def __init__(self, vectors, encoder, codebooks, settings):
        super().__init__()
        self.settings, self.encoder = settings, encoder
        self.register_buffer("vectors", vectors)
        self.codebooks = nn.Parameter(codebooks.detach().clone(), requires_grad=settings.codebook_learning_rate != 0)
        self.exploration = Exploration(settings, *codebooks.shape[:2])
        self.register_buffer("logit_scale", torch.ones(len(codebooks)))
        self.register_buffer("spread", codebooks[-1].detach().var(0, correction=0).mean().sqrt())

    @classmethod
    def start(cls, tokenizer, embedding, settings):
        """Go on from a fitted ``rqvae``, ``rkmeans`` or ``rvq`` and the content ``embedding`` ``[n_items, d]``."""
        trained = settings.encoder_learning_rate > 0
        chunks = []
        for first in range(0, len(embedding), ROWS_AT_ONCE):
            rows = torch.from_numpy(unit_rows(embedding[first : first + ROWS_AT_ONCE])).to(tokenizer.device)
            with torch.no_grad():
                chunks.append(rows if trained else tokenizer.begin(rows))
        encoder = copy.deepcopy(tokenizer.model.encoder) if trained else nn.Identity()
        joint = cls(torch.cat(chunks), encoder.requires_grad_(trained), tokenizer.codebooks, settings)
        if settings.logits == "calibrated":
            joint.standardise()
            joint.calibrate()
        return joint

    @classmethod
    def like(cls, state, settings):
        """One that can load ``state``, the ``state_dict`` of another; its values are arbitrary."""
        has_encoder = any(key.startswith("encoder.") for key in state)
        with local_seed(0, "cpu"):
            encoder = mlp(encoder_sizes(state)) if has_encoder else nn.Identity()
        return cls(torch.zeros_like(state["vectors"]), encoder, torch.zeros_like(state["codebooks"]), settings)

    # ----------------------------------------------------------------- logits

    def latent(self, items):
        """Latent vectors ``[n, D]`` of ``items`` ``[n]``."""
        return self.encoder(self.vectors[items])

    def logits(self, residual, level):
        """Assignment logits ``[n, V]`` of what enters ``level`` ``[n, D]``: negative scaled squared distances."""
        distances = squared_distances(residual, self.codebooks[level])
        if self.settings.logits == "minmax":
            low, high = distances.min().detach(), distances.max().detach()
            return -(distances - (low + high) / 2) / ((high - low) / 2).clamp(min=1e-12)
        return -self.logit_scale[level] * distances

    @torch.no_grad()
    def standardise(self):
        """Measure latent space in units of the latent vectors' deviation; no code changes.

        The losses of the quantiser grow with the square of the unit, and the recommendation loss does not, once the
        logits are calibrated: without this their balance would depend on the tokenizer.
        """
        latent = self.latent(torch.arange(1, len(self.vectors), device=self.vectors.device))
        unit = latent.var(0, correction=0).mean().sqrt().clamp(min=1e-12)
        for values in (self.codebooks, self.spread, *self._last_of_encoder()):
            values /= unit

    def _last_of_encoder(self):
        return [self.vectors] if isinstance(self.encoder, nn.Identity) else list(self.encoder[-1].parameters())

    @torch.no_grad()
    def calibrate(self):
        """Scale the logits so that noise of scale 1 leaves ``logit_agreement`` of the items on their nearest codes.

        ``logit_scale`` of a level is κ over the mean of (mean − smallest distance) of its items, with one κ for all
        levels. Gumbel noise of scale 1 keeps an item on a code with probability softmax(logits), so no draw is needed.
        """
        chance = 1 / self.codebooks.size(1)
        least = f"greater than {chance:.3g}, the share that noise alone leaves, to below 1"
        self.settings.require("logit_agreement", self.settings.logit_agreement > chance, least)
        self.logit_scale.fill_(1)
        distances = [-logits for logits, _ in self._walk()]
        contrast = torch.stack([(each.mean(1) - each.min(1).values).mean() for each in distances]).clamp(min=1e-12)
        low, high = SHARPNESS_RANGE
        for _ in range(SHARPNESS_STEPS):
            middle = (low * high) ** 0.5
            kept = [(-middle / by * each).softmax(1).max(1).values.mean() for each, by in zip(distances, contrast)]
            low, high = (middle, high) if sum(kept) / len(kept) < self.settings.logit_agreement else (low, middle)
        self.logit_scale = high / contrast

    def sample(self):
        """A fixed sample of the items, evenly spaced; all of a small catalogue. int64 ``[n]``."""
        n_items = len(self.vectors) - 1
        return torch.linspace(1, n_items, min(n_items, SAMPLED_ITEMS), device=self.vectors.device).round().long()

    def _walk(self):
        """Logits and nearest codes of the sample, level by level, without noise."""
        residual = self.latent(self.sample())
        for level, codebook in enumerate(self.codebooks):
            logits = self.logits(residual, level)
            codes = logits.argmax(1)
            yield logits, codes
            residual = residual - codebook[codes]

    # --------------------------------------------------------------- training

    def forward(self, items, table_codes):
        """Quantise ``items`` int64 ``[n]`` level by level, in training mode with noise; see :class:`Quantised`.

        The reconstruction sums the words of the sampled codes, whatever ``residual_chain`` leaves to the next level.

        Args:
            table_codes: int64 ``[n, n_levels]``, the codes that the recommender uses for them, each level from 0.
        """
        settings = self.settings
        latent = residual = self.latent(items)
        total, quantisation, codes, soft = 0.0, 0.0, [], []
        for level, codebook in enumerate(self.codebooks):
            logits = self.logits(residual, level)
            if self.training:
                undisturbed = logits.argmax(1)
                self.exploration.count(level, undisturbed)
                logits = logits + self.exploration.noise(level, undisturbed, logits.detach())
            chosen, weights = logits.argmax(1), (logits / settings.temperature).softmax(1)
            words = self._words(codebook, chosen, weights)
            quantisation = quantisation + (words - residual.detach()).square().mean(1)
            quantisation = quantisation + settings.commitment * (words.detach() - residual).square().mean(1)
            total = total + self._followed(residual, words)
            if settings.residual_chain == "cached":
                words = self._words(codebook, table_codes[:, level], weights)
            residual = residual - self._followed(residual, words)
            codes.append(chosen)
            soft.append(weights)
        reconstruction = (total - latent).square().mean(1)
        return Quantised(
            torch.stack(codes, 1), torch.stack(soft, 1), quantisation / len(self.codebooks), reconstruction
        )

    def _words(self, codebook, codes, weights):
        """Codewords ``[n, D]`` of ``codes`` ``[n]``; in the backward pass their distribution ``weights`` counts too."""
        if self.settings.soft_update == "vector":
            mixture = weights @ codebook
            return codebook[codes].detach() + (mixture - mixture.detach())
        words = codebook[codes]
        return words if self.settings.soft_update == "hard" else words + carry(weights, codebook)

    def _followed(self, residual, words):
        """``words`` ``[n, D]``; with hard updates their gradient goes straight through to ``residual`` ``[n, D]``."""
        return residual + (words - residual).detach() if self.settings.soft_update == "hard" else words

    # ------------------------------------------------------------------ codes

    @torch.no_grad()
    def assign(self, assignment=None, items=None):
        """Codes of items as they are now, without noise; int64 ``[n, n_levels]``.

        Args:
            assignment: ``sinkhorn`` (spread over all codewords) or ``nearest``; that of the settings by default.
            items: int64 ``[n]``; all but the padding item by default.
        """
        choose = ASSIGNMENTS[assignment or self.settings.assignment]
        if items is None:
            items = torch.arange(1, len(self.vectors), device=self.vectors.device)
        residual = self.latent(items)
        codes = []
        for codebook in self.codebooks:
            codes.append(choose(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, 1)

    @torch.no_grad()
    def agreement(self):
        """Probability that noise leaves an item on its nearest code, and share of items on hot codes, per level.

        Returns:
            two lists of ``n_levels`` numbers; the first is exact for Gumbel noise.
        """
        kept, hot = [], []
        for level, (logits, codes) in enumerate(self._walk()):
            scale = self.exploration.scale(level, codes)
            sharp = (logits - logits.max(1, keepdim=True).values) / scale.clamp(min=1e-12)
            kept.append(float(sharp.softmax(1).gather(1, codes.unsqueeze(1)).mean()))
            hot.append(float(self.exploration.is_hot(level, codes).float().mean()))
        return kept, hot


def carry(weights, table):
    """Zeros whose gradient is that of ``weights @ table`` with regard to ``weights``; the table gets none."""
    return (weights - weights.detach()) @ table.detach()
