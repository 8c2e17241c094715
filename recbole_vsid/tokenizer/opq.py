"""Optimized product quantisation: a rotation, then one independent k-means per subspace.

Product quantisation (Jégou et al., TPAMI 2011) cuts a vector into T parts and quantises each on its
own: position t of a code is the codeword of part t and knows nothing of the others, so a code is a
set of attributes rather than a path from coarse to fine. The cut matters. Optimized product
quantisation (Ge et al., CVPR 2013, non-parametric, algorithm 1) learns an orthonormal rotation
together with the codebooks: in turn one iteration of k-means in every subspace, and the rotation that
brings the vectors nearest to their codewords (an orthogonal Procrustes problem, solved by an SVD).
It starts from the parametric solution: principal axes, dealt out so that all subspaces get the same
product of variances.

Subspaces have the same width w = ceil(d / T). If T does not divide d some of their axes stay unused at
the start; the rotation then has orthonormal rows, which is the same as filling vectors up with zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import torch
from tqdm import tqdm

from recbole_vsid.tokenizer.base import TokenizerSettings
from recbole_vsid.tokenizer.codebooks import CodebookTokenizer
from recbole_vsid.tokenizer.defaults import LONGEST, require_choice, require_integer, require_real, resolve_vocab_size
from recbole_vsid.tokenizer.kmeans import fit_sample, lloyd_step, random_rows

# Variances below this share of the largest are rounding errors; their logarithms would upset the allocation.
SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True)
class OPQSettings(TokenizerSettings):
    """Settings of product quantisation; ``properties/tokenizer/opq.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    vocab_size: int | str = "auto"
    n_levels: int = 4
    rotation: str = "learned"
    max_iterations: int = 40
    tolerance: float = 1e-4
    fit_rows: int | str = "auto"

    def __post_init__(self):
        super().__post_init__()
        require_integer(self, "vocab_size", 2, auto=True)
        require_integer(self, "n_levels", 1, high=LONGEST)
        require_choice(self, "rotation", ("learned", "none"))
        require_integer(self, "max_iterations", 1)
        require_real(self, "tolerance", 0, 1)
        require_integer(self, "fit_rows", 1, auto=True)


class OPQTokenizer(CodebookTokenizer):
    """Product quantisation, by default with a learnt rotation (``opq``)."""

    name = "opq"
    Settings = OPQSettings

    rotation = None  # [d, n_levels * w], orthonormal rows
    centroids = None  # [n_levels, V, w]

    def fit(self, data):
        """Fit rotation and codebooks; see :class:`~recbole_vsid.tokenizer.base.Tokenizer`.

        Raises:
            ValueError: more codewords than items (or than ``fit_rows``), or more levels than dimensions.
        """
        settings, embedding = self.settings, data.embedding[1:]
        d = embedding.shape[1]
        settings.require("n_levels", settings.n_levels <= d, f"at most {d}, the dimensions of the item vectors")
        vocab_size = resolve_vocab_size(settings, len(embedding))
        rows = torch.from_numpy(fit_sample(settings, embedding, vocab_size, self.seed)[1]).to(self.device)
        learned = settings.rotation == "learned"
        rotation = balanced_axes(rows, settings.n_levels) if learned else plain_cut(rows, settings.n_levels)
        steps = alternate(rows, rotation, settings.n_levels, vocab_size, learned, self.seed)
        steps = islice(steps, settings.max_iterations)
        steps = tqdm(steps, self.name, settings.max_iterations, unit="iteration", disable=not self.show_progress)
        before = math.inf
        for self.rotation, self.centroids, error in steps:
            if error >= (1 - settings.tolerance) * before:
                break
            before = error
        return self

    @property
    def codebooks(self):
        return self.centroids

    def begin(self, x):
        """The rotated vectors, one part per subspace."""
        return (x @ self.rotation).split(self.centroids.size(2), dim=1)

    def query(self, begun, level, codes):
        """The part of the subspace; what stands in the others does not matter."""
        return begun[level]

    def decode(self, codes):
        """Codewords rotated back; the subspaces behind a prefix count as zero."""
        total, parts_back = 0, self.rotation.t().split(self.centroids.size(2))
        for centroids, back, labels in zip(self.centroids, parts_back, codes.unbind(1)):
            total = total + centroids[labels] @ back
            yield total

    def state_dict(self):
        self._require_fitted()
        return {"rotation": self.rotation, "centroids": self.centroids}

    def load_state_dict(self, state):
        """Restore a state; the number of levels and codewords come from it.

        Raises:
            ValueError: the state belongs to another tokenizer.
        """
        fits = set(state) == {"rotation", "centroids"} and state["centroids"].ndim == 3
        if not fits or state["rotation"].shape[1:] != (len(state["centroids"]) * state["centroids"].size(2),):
            raise ValueError(f"this is no state of tokenizer {self.name!r}: it has {sorted(state)}")
        self.rotation, self.centroids = (state[key].to(self.device, torch.float32) for key in ("rotation", "centroids"))


@torch.no_grad()
def alternate(rows, rotation, n_levels, vocab_size, learned, seed):
    """Algorithm 1 of Ge et al. (CVPR 2013), one iteration at a time, without end.

    Args:
        rows: float32 ``[n, d]``.
        rotation: where to start, ``[d, n_levels * w]`` with orthonormal rows.
        learned: False keeps the rotation, which is plain product quantisation.
        seed: of the first codewords, random rows, and of those that replace unused ones.

    Yields:
        rotation, codebooks ``[n_levels, V, w]`` and the mean squared error of the rows when they were
        assigned, which is before the codewords of this iteration were averaged. It never rises.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    rotated = rows @ rotation
    codebooks = list(random_rows(rotated, vocab_size, weights, generator).tensor_split(n_levels, dim=1))
    while True:
        error, decoded = 0.0, []
        for level, part in enumerate(rotated.tensor_split(n_levels, dim=1)):
            codebooks[level], labels, inertia = lloyd_step(part, codebooks[level], weights, generator)
            error += inertia / len(rows)
            decoded.append(codebooks[level][labels])
        yield rotation, torch.stack(codebooks), error
        if learned:
            rotation = procrustes(rows.t() @ torch.cat(decoded, dim=1))
            rotated = rows @ rotation


def procrustes(product):
    """The matrix with orthonormal rows that brings X nearest to Y, from ``product`` = X^T Y, ``[d, D]``, d <= D."""
    left, _, right = torch.linalg.svd(product.double(), full_matrices=False)
    return (left @ right).float()


def plain_cut(rows, n_levels):
    """The axes as they stand, in T runs that differ by at most one in length: ``[d, T * w]`` of ones and zeros."""
    d = rows.size(1)
    return place(torch.eye(d, device=rows.device), torch.arange(d).tensor_split(n_levels))


def balanced_axes(rows, n_levels):
    """Principal axes, each dealt to the subspace with the smallest product of variances so far."""
    d = rows.size(1)
    variances, axes = torch.linalg.eigh(torch.cov(rows.t(), correction=0).reshape(d, d).double())
    largest = max(float(variances[-1]), SMALLEST_VARIANCE)
    logs = variances.clamp_min(SMALLEST_VARIANCE * largest).log()
    # The unit of the variances is free, and with this one every axis makes a product larger.
    logs = (logs - logs[0] + 1).tolist()
    width = -(-d // n_levels)
    groups, products = [[] for _ in range(n_levels)], [0.0] * n_levels
    for axis in reversed(range(d)):
        smallest = min((level for level in range(n_levels) if len(groups[level]) < width), key=products.__getitem__)
        groups[smallest].append(axis)
        products[smallest] += logs[axis]
    return place(axes.float(), groups)


def place(axes, groups):
    """Put the columns of ``axes`` ``[d, d]`` that ``groups`` names into subspaces of one width: ``[d, T * w]``."""
    width = -(-len(axes) // len(groups))
    placed = axes.new_zeros(len(axes), len(groups), width)
    for level, group in enumerate(groups):
        placed[:, level, : len(group)] = axes[:, group]
    return placed.flatten(1)
