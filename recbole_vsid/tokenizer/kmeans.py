"""K-means for quantisers: which rows it is fitted on, where it starts, Lloyd's iterations.

Lloyd's algorithm in float32 with float64 means, from random rows or from k-means++ (Arthur and
Vassilvitskii, SODA 2007). Quantisers that alternate it with something else take single steps.
A catalogue with many more items than codewords need not be seen whole: the centroids of a uniform
sample are as good but for sampling noise, and only the sample is copied into memory.
"""

from __future__ import annotations

import numpy as np
import torch

from recbole_vsid.tokenizer.base import ROWS_AT_ONCE, unit_rows

INITIALISATIONS = ("random", "k-means++")

# Distances to all centroids are held for this many row-centroid pairs at a time (64 MB).
PAIRS_AT_ONCE = 2**24

# So few that their copies in float64 stay in the cache, which is several times faster.
ROWS_SUMMED_AT_ONCE = 2**10

# More rows per centroid hardly move it, and up to 100,000 rows are quick whatever the vocabulary.
ROWS_PER_CODEWORD = 64
FEWEST_FIT_ROWS = 100_000


# ------------------------------------------------------------------- sample


def fit_sample(settings, embedding, vocab_size, seed):
    """The rows to fit on: all, or a uniform sample of ``settings.fit_rows`` of them if there are more.

    Args:
        settings: of a tokenizer, with ``fit_rows``; "auto" is 64 per codeword, at least 100,000.
        embedding: float32 ``[n, d]``, possibly a memory-mapped file.
        vocab_size: codewords.
        seed: of the sample.

    Returns:
        Ascending row numbers int64 ``[m]``, and these rows L2-normalised, float32 ``[m, d]``.

    Raises:
        ValueError: fewer rows than codewords.
    """
    n_rows = settings.fit_rows
    if n_rows == "auto":
        n_rows = max(FEWEST_FIT_ROWS, ROWS_PER_CODEWORD * vocab_size)
    settings.require("fit_rows", n_rows >= vocab_size, f"auto or at least {vocab_size}, the number of codewords")
    chosen = np.arange(len(embedding))
    if n_rows < len(embedding):
        # In ascending order, so that a file is read from front to back.
        chosen = np.sort(np.random.default_rng(seed).choice(len(embedding), n_rows, replace=False))
    rows = np.empty((len(chosen), embedding.shape[1]), dtype=np.float32)
    for start in range(0, len(chosen), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        rows[part] = unit_rows(embedding[chosen[part]])
    return chosen, rows


# ---------------------------------------------------------------- distances


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


def squared_distances(rows, centroids):
    """Squared distances ``[n, V]``; the smallest of a row is the one :func:`nearest` finds for as many rows."""
    # |row|^2 last: rounding may then make two distances equal but never swaps them.
    return torch.addmm(centroids.square().sum(1), rows, centroids.t(), alpha=-2) + rows.square().sum(1, keepdim=True)


# ------------------------------------------------------------------ k-means


@torch.no_grad()
def kmeans(rows, n_clusters, weights=None, max_iterations=40, tolerance=1e-4, generator=None, init="random"):
    """Lloyd's algorithm; a cluster without weight restarts at a random row.

    Args:
        rows: float32 ``[n, D]``.
        n_clusters: V, at most n.
        weights: float64 ``[n]`` >= 0, not all zero, for the means; None weighs all rows alike.
        tolerance: stop when no centroid moves further.
        generator: CPU generator of the random rows.
        init: one of :data:`INITIALISATIONS`, random rows or k-means++.

    Returns:
        centroids ``[V, D]``, the nearest one of every row int64 ``[n]``, and the weighted sum of
        squared distances before every iteration and after the last.
    """
    if weights is None:
        weights = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    start = random_rows if init == "random" else kmeans_plus_plus
    centroids = start(rows, n_clusters, weights, generator)
    inertia = []
    for _ in range(max_iterations):
        means, _, before = lloyd_step(rows, centroids, weights, generator)
        inertia.append(before)
        shift = (means - centroids).square().sum(1).max().sqrt()
        centroids = means
        if shift <= tolerance:
            break
    # Labels of the final centroids, the ones that encoding new items gives.
    labels, distances = nearest(rows, centroids, return_distance=True)
    inertia.append(float((distances.double() * weights).sum()))
    return centroids, labels, inertia


def random_rows(rows, n_clusters, weights, generator=None):
    """Different rows ``[V, D]``, ones without weight only if there are too few with.

    Rows without weight belong to no mean, so a cluster that starts at one could stay empty for ever.
    """
    groups = [torch.nonzero(chosen).squeeze(1) for chosen in (weights.cpu() > 0, weights.cpu() <= 0)]
    order = torch.cat([group[torch.randperm(len(group), generator=generator)] for group in groups])
    return rows[order[:n_clusters].to(rows.device)].clone()


def kmeans_plus_plus(rows, n_clusters, weights, generator=None):
    """Rows ``[V, D]`` drawn one by one, each in proportion to weight x squared distance to the ones before."""
    centroids = rows.new_empty(n_clusters, rows.size(1))
    norms = rows.square().sum(1)
    distances = torch.full_like(norms, torch.inf)
    mass = weights
    for cluster in range(n_clusters):
        ends = mass.cumsum(0)
        if ends[-1] <= 0:  # fewer different rows than clusters: the rest starts anywhere
            ends = weights.cumsum(0)
        drawn = torch.rand(1, dtype=torch.float64, generator=generator).to(ends.device) * ends[-1]
        pick = torch.searchsorted(ends, drawn, right=True).clamp_max(len(rows) - 1)
        centroids[cluster] = rows[pick[0]]
        to_new = torch.addmv(norms + norms[pick], rows, centroids[cluster], alpha=-2).clamp_min(0)
        distances = torch.minimum(distances, to_new)
        distances[pick] = 0
        mass = distances * weights
    return centroids


def lloyd_step(rows, centroids, weights, generator=None):
    """One iteration: assign the rows, average them, restart clusters without weight at random weighted rows.

    Returns:
        means ``[V, D]``, the labels int64 ``[n]`` and the weighted sum of squared distances they were made with.
    """
    labels, distances = nearest(rows, centroids, return_distance=True)
    means, mass = cluster_means(rows, labels, weights, len(centroids))
    empty = torch.nonzero(mass.cpu() == 0).squeeze(1)
    if len(empty):
        weighted = torch.nonzero(weights.cpu() > 0).squeeze(1)
        picks = weighted[torch.randint(len(weighted), (len(empty),), generator=generator)]
        means[empty.to(rows.device)] = rows[picks.to(rows.device)]
    return means, labels, float((distances.double() * weights).sum())


def cluster_means(rows, labels, weights, n_clusters):
    """Weighted means ``[V, D]`` (zeros for clusters without weight) and total weights ``[V]``.

    Summed in float64: counts of popular items are large, and float32 would lose the others beside them.
    """
    mass = torch.zeros(n_clusters, dtype=torch.float64, device=rows.device).index_add_(0, labels, weights)
    sums = torch.zeros(n_clusters, rows.size(1), dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), ROWS_SUMMED_AT_ONCE):
        part = slice(start, start + ROWS_SUMMED_AT_ONCE)
        sums.index_add_(0, labels[part], rows[part].double() * weights[part, None])
    return (sums / mass.clamp_min(torch.finfo(torch.float64).tiny)[:, None]).to(rows.dtype), mass
