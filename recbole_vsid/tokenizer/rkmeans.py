"""Residual k-means: T levels of k-means, each on what the levels before left over.

The baseline of arXiv 2602.16375 (its official code), in float32 and with a vocabulary per level. All
codes have T tokens. ``popularity_weighted`` is an addition: without it a gain of a popularity-trained
tokenizer over this baseline may only be the weighting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from recbole_vsid.tokenizer.base import Tokenizer, TokenizerSettings, unit_rows
from recbole_vsid.tokenizer.defaults import fixed_chunks, require_integer, require_real, resolve_vocab_size

# Distances to all centroids are held for this many row-centroid pairs at a time (64 MB).
PAIRS_AT_ONCE = 2**24


@dataclass(frozen=True)
class RKMeansSettings(TokenizerSettings):
    """Settings of residual k-means; ``properties/tokenizer/rkmeans.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    vocab_size: int | str = "auto"
    n_levels: int = 3
    max_iterations: int = 40
    tolerance: float = 1e-4
    popularity_weighted: bool = False

    def __post_init__(self):
        super().__post_init__()
        require_integer(self, "vocab_size", 2, auto=True)
        require_integer(self, "n_levels", 1)
        require_integer(self, "max_iterations", 1)
        require_real(self, "tolerance", 0)
        self.require("popularity_weighted", isinstance(self.popularity_weighted, bool), "True or False")


class RKMeansTokenizer(Tokenizer):
    """Residual k-means (``rkmeans``)."""

    name = "rkmeans"
    Settings = RKMeansSettings
    shared_vocabulary = False

    centroids = None  # [n_levels, V, D]

    def fit(self, data):
        """Fit one k-means per level; see :class:`~recbole_vsid.tokenizer.base.Tokenizer`.

        Raises:
            ValueError: more codewords than items, or popularity weights of which all are zero.
        """
        settings = self.settings
        vocab_size = resolve_vocab_size(settings, len(data.embedding) - 1)
        weights = None
        if settings.popularity_weighted:
            weights = torch.as_tensor(np.asarray(data.popularity[1:], dtype=np.float64), device=self.device)
            settings.require("popularity_weighted", bool(weights.sum() > 0), "False if no item has a training event")
        generator = torch.Generator().manual_seed(self.seed)
        residual = torch.from_numpy(unit_rows(data.embedding[1:])).to(self.device)
        levels = []
        for _ in tqdm(range(settings.n_levels), desc=self.name, unit="level", disable=not self.show_progress):
            centroids, labels, _ = kmeans(
                residual, vocab_size, weights, settings.max_iterations, settings.tolerance, generator
            )
            residual -= centroids[labels]
            levels.append(centroids)
        self.centroids = torch.stack(levels)
        return self

    @torch.no_grad()
    def assign(self, embedding):
        self._require_fitted()
        embedding = unit_rows(embedding)
        codes = np.empty((len(embedding), len(self.centroids)), dtype=np.int32)
        for rows, (chunk,) in fixed_chunks(embedding):
            residual = torch.from_numpy(chunk).to(self.device)
            for level, centroids in enumerate(self.centroids):
                labels = nearest(residual, centroids)
                residual = residual - centroids[labels]
                codes[rows, level] = labels[: rows.stop - rows.start].cpu().numpy()
        return codes, np.full(len(codes), codes.shape[1], dtype=np.int32)

    @torch.no_grad()
    def prefix_errors(self, embedding, codes):
        """See :meth:`Tokenizer.prefix_errors`; prefix *l* is decoded to the unit vector of its centroids' sum.

        Raises:
            ValueError: ``codes`` has other than ``n_levels`` columns or holds something else than codewords.
        """
        self._require_fitted()
        codes = np.asarray(codes)
        n_levels, vocab_size, _ = self.centroids.shape
        if codes.shape != (len(embedding), n_levels) or (codes < 0).any() or (codes >= vocab_size).any():
            raise ValueError(f"codes must be {(len(embedding), n_levels)} in 0..{vocab_size - 1}")
        embedding = unit_rows(embedding)
        errors = np.empty(codes.shape, dtype=np.float32)
        for rows, (chunk, ids) in fixed_chunks(embedding, codes.astype(np.int64)):
            x, total = torch.from_numpy(chunk).to(self.device), 0
            for level, centroids in enumerate(self.centroids):
                total = total + centroids[torch.from_numpy(ids[:, level]).to(self.device)]
                error = (x - F.normalize(total, dim=-1)).square().sum(-1)
                errors[rows, level] = error[: rows.stop - rows.start].cpu().numpy()
        return errors

    def state_dict(self):
        self._require_fitted()
        return {"centroids": self.centroids}

    def load_state_dict(self, state):
        """Restore a state; the number of levels and codewords come from it.

        Raises:
            ValueError: the state belongs to another tokenizer.
        """
        if set(state) != {"centroids"} or state["centroids"].ndim != 3:
            raise ValueError(f"this is no state of tokenizer {self.name!r}: it has {sorted(state)}")
        self.centroids = state["centroids"].to(self.device, torch.float32)

    @property
    def vocab_sizes(self):
        self._require_fitted()
        return (self.centroids.size(1),) * len(self.centroids)

    def _require_fitted(self):
        if self.centroids is None:
            raise RuntimeError(f"tokenizer {self.name!r} has no centroids yet: call fit() or load_state_dict() first")


def nearest(rows, centroids, return_distance=False):
    """Index of the nearest centroid of every row, int64 ``[n]``, without an ``[n, V]`` matrix at once.

    Args:
        rows: ``[n, D]``.
        centroids: ``[V, D]``.
        return_distance: also return the squared distances, ``[n]``.
    """
    offset = centroids.square().sum(1)
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    distances = torch.empty(len(rows), device=rows.device) if return_distance else None
    step = max(1, PAIRS_AT_ONCE // len(centroids))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        # |row|^2 is the same for all centroids and only matters for the distance itself.
        best = torch.addmm(offset, chunk, centroids.t(), alpha=-2).min(1)
        labels[start : start + step] = best.indices
        if return_distance:
            distances[start : start + step] = best.values + chunk.square().sum(1)
    return (labels, distances) if return_distance else labels


@torch.no_grad()
def kmeans(rows, n_clusters, weights=None, max_iterations=40, tolerance=1e-4, generator=None):
    """Lloyd's algorithm from random rows; a cluster without weight restarts at a random row.

    Args:
        rows: float32 ``[n, D]``.
        n_clusters: V, at most n.
        weights: float64 ``[n]`` >= 0, not all zero, for the means; None weighs all rows alike.
        tolerance: stop when no centroid moves further.
        generator: CPU generator of the random rows.

    Returns:
        centroids ``[V, D]``, the nearest one of every row int64 ``[n]``, and the weighted sum of
        squared distances before every iteration and after the last.
    """
    if weights is None:
        weights = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    # Rows without weight belong to no mean, so a cluster that starts at one could stay empty for ever.
    weighted = torch.nonzero(weights.cpu() > 0).squeeze(1)
    weightless = torch.nonzero(weights.cpu() <= 0).squeeze(1)
    order = torch.cat([group[torch.randperm(len(group), generator=generator)] for group in (weighted, weightless)])
    centroids = rows[order[:n_clusters].to(rows.device)].clone()
    inertia = []
    for _ in range(max_iterations):
        labels, distances = nearest(rows, centroids, return_distance=True)
        inertia.append(float((distances.double() * weights).sum()))
        means, mass = cluster_means(rows, labels, weights, n_clusters)
        empty = torch.nonzero(mass.cpu() == 0).squeeze(1)
        if len(empty):
            picks = weighted[torch.randint(len(weighted), (len(empty),), generator=generator)]
            means[empty.to(rows.device)] = rows[picks.to(rows.device)]
        shift = (means - centroids).square().sum(1).max().sqrt()
        centroids = means
        if shift <= tolerance:
            break
    # Labels of the final centroids, the ones that encoding new items gives.
    labels, distances = nearest(rows, centroids, return_distance=True)
    inertia.append(float((distances.double() * weights).sum()))
    return centroids, labels, inertia


def cluster_means(rows, labels, weights, n_clusters):
    """Weighted means ``[V, D]`` (zeros for clusters without weight) and total weights ``[V]``.

    Summed in float64: counts of popular items are large, and float32 would lose the others beside them.
    """
    mass = torch.zeros(n_clusters, dtype=torch.float64, device=rows.device).index_add_(0, labels, weights)
    sums = torch.zeros(n_clusters, rows.size(1), dtype=torch.float64, device=rows.device)
    step = 2**16
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        sums.index_add_(0, labels[part], rows[part].double() * weights[part, None])
    return (sums / mass.clamp_min(torch.finfo(torch.float64).tiny)[:, None]).to(rows.dtype), mass
