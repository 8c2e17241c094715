"""Residual codebooks of an RQ-VAE and how they are trained: each level quantises what the ones before left over.

Straight-through quantisation and its loss (TIGER, arXiv 2305.05065), start from k-means, the Sinkhorn-balanced
assignment of DIGER (2601.19711), codewords as running means (VQ-VAE, 1711.00937, appendix A.1) instead of
gradient descent, restarts of codewords that no item uses.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_vsid.semantic_id.collisions import SINKHORN_EPSILON, SINKHORN_ITERATIONS
from recbole_vsid.tokenizer.kmeans import kmeans, nearest, squared_distances

# A start that the training moves on from.
KMEANS_ITERATIONS = 25

# So that rows can be drawn in proportion to their error even if all are codewords themselves.
SMALLEST_ERROR = 1e-12

# A running mean of fewer rows than this stays where it is.
LEAST_MASS = 1e-3


class ResidualQuantizer(nn.Module):
    """Codebooks ``[n_levels, V, D]``; zeros until :meth:`initialise`."""

    def __init__(self, n_levels, vocab_size, latent_size):
        super().__init__()
        self.codebooks = nn.Parameter(torch.zeros(n_levels, vocab_size, latent_size))

    def forward(self, latent, choose=nearest):
        """Quantise level by level.

        Args:
            latent: ``[n, D]``.
            choose: ``(rows [n, D], codebook [V, D])`` → codes ``[n]``.

        Returns:
            The sum of the codewords ``[n, D]``, whose gradient goes straight through to ``latent``, and per level
            the residual that enters it ``[n, D]``, its codewords ``[n, D]`` and its codes ``[n]``.
        """
        residual, total, levels = latent, 0, []
        for codebook in self.codebooks:
            with torch.no_grad():
                codes = choose(residual, codebook)
            words = codebook[codes]
            levels.append((residual, words, codes))
            total = total + words.detach()
            # The residual is formed with the straight-through codeword, r + sg(e - r), so its gradient is nil:
            # of the commitment terms only the first level's reaches the encoder.
            residual = (residual - words).detach()
        return latent + (total - latent).detach(), levels

    @torch.no_grad()
    def residual(self, latent, codes):
        """What the codewords ``codes`` ``[n, l]`` of the first levels leave of ``latent`` ``[n, D]``."""
        for codebook, labels in zip(self.codebooks, codes.unbind(1)):
            latent = latent - codebook[labels]
        return latent

    @torch.no_grad()
    def partial_sums(self, codes):
        """Sums of the first 1, 2, ... codewords of ``codes`` ``[n, n_levels]``: ``[n_levels, n, D]``."""
        return torch.stack([book[labels] for book, labels in zip(self.codebooks, codes.unbind(1))]).cumsum(0)

    @torch.no_grad()
    def initialise(self, latent, generator):
        """Put every level at the k-means of the residuals of ``latent`` ``[n >= V, D]``.

        Returns:
            The share of rows of every codeword, float32 ``[n_levels, V]``.
        """
        residual, shares = latent, []
        for codebook in self.codebooks:
            centroids, labels, _ = kmeans(
                residual, len(codebook), max_iterations=KMEANS_ITERATIONS, generator=generator
            )
            codebook.copy_(centroids)
            residual = residual - centroids[labels]
            shares.append(torch.bincount(labels, minlength=len(codebook)) / len(labels))
        return torch.stack(shares)

    @torch.no_grad()
    def restart(self, unused, latent, generator):
        """Move codewords to residuals of ``latent`` ``[n, D]``, drawn in proportion to their squared error.

        Args:
            unused: the codewords to move, bool ``[n_levels, V]``.
            latent: the vectors to draw from; later levels see what is left after the moves.
            generator: of the draws.
        """
        residual = latent
        for codebook, moved in zip(self.codebooks, unused):
            if moved.any():
                _, errors = nearest(residual, codebook, return_distance=True)
                weights = errors.clamp_min(SMALLEST_ERROR).cpu()
                picks = torch.multinomial(weights, int(moved.sum()), replacement=True, generator=generator)
                codebook[moved] = residual[picks.to(residual.device)]
            residual = residual - codebook[nearest(residual, codebook)]


def quantisation_loss(levels, beta):
    """Mean over the levels of ``mse(codeword, sg(residual)) + beta * mse(sg(codeword), residual)``."""
    terms = [F.mse_loss(words, r.detach()) + beta * F.mse_loss(words.detach(), r) for r, words, _ in levels]
    return sum(terms) / len(terms)


@torch.no_grad()
def balanced_codes(rows, codebook):
    """Codes that use all codewords about equally: the row-wise argmax of a Sinkhorn transport plan.

    Distances are scaled to [−1, 1]; ``exp(−distance / epsilon)`` is normalised over rows, then columns, 50 times.
    The plan is only ever multiplied by vectors: a row's factor does not move its argmax, and the columns' factors
    are found by two matrix-vector products per iteration.

    Args:
        rows: ``[n, D]``.
        codebook: ``[V, D]``.

    Returns:
        int64 ``[n]``.
    """
    distances = squared_distances(rows, codebook).double()
    half_range = ((distances.max() - distances.min()) / 2).clamp_min(1e-12)
    # float64 holds exp(-2 / epsilon). The largest entry of each row is 1, as is the largest factor of a column,
    # so no sum is lost to underflow.
    plan = ((distances.min(1, keepdim=True).values - distances) / (SINKHORN_EPSILON * half_range)).exp_()
    columns = torch.ones(len(codebook), dtype=torch.float64, device=plan.device)
    for _ in range(SINKHORN_ITERATIONS):
        columns = 1 / ((1 / (plan @ columns)) @ plan)
        columns /= columns.max()
    return (plan * columns).argmax(1)


class RunningMeans:
    """Codewords as exponential moving averages of the residuals assigned to them.

    Args:
        codebooks: ``[n_levels, V, D]``, updated in place.
        mass: ``[n_levels, V]``, rows per batch of each codeword at the start.
        decay: weight of the past in an update.
    """

    def __init__(self, codebooks, mass, decay):
        self.codebooks, self.mass, self.decay = codebooks, mass, decay
        self.sums = codebooks * mass[:, :, None]

    @torch.no_grad()
    def update(self, levels):
        """One step, from the residuals and codes of a batch as :class:`ResidualQuantizer` gives them."""
        for level, (residual, _, codes) in enumerate(levels):
            mass, sums = self.mass[level], self.sums[level]
            mass.lerp_(torch.bincount(codes, minlength=len(mass)).to(mass), 1 - self.decay)
            sums.lerp_(torch.zeros_like(sums).index_add_(0, codes, residual), 1 - self.decay)
            alive = mass > LEAST_MASS
            self.codebooks[level, alive] = sums[alive] / mass[alive, None]

    def restart(self, moved):
        """Let codewords that were moved, bool ``[n_levels, V]``, start as averages of as many rows as the mean one."""
        self.mass = torch.where(moved, self.mass.mean(1, keepdim=True), self.mass)
        self.sums = torch.where(moved[:, :, None], self.codebooks * self.mass[:, :, None], self.sums)
