"""GAOQ, the quantiser of ReSID: hierarchical balanced k-means whose codes mean the same under every parent.

Two levels of balanced clusters (balanced.py), then every item is a leaf of its own. Below the root the children of
each parent are numbered by a Hungarian match of (child - parent) to one orthonormal set of directions per level,
shared by all parents (alignment.py; arXiv 2602.02338, Algorithm 1). No gradients, no collisions: the last level tells
the items of a cell apart, so there is no disambiguation token.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import ClassVar

import numpy as np
import torch
from tqdm import tqdm

from recbole_vsid.tokenizer.alignment import make_anchors, number_siblings
from recbole_vsid.tokenizer.balanced import balanced_kmeans, cluster_members, row_squares, squared_distances
from recbole_vsid.tokenizer.base import ROWS_AT_ONCE, Tokenizer, TokenizerSettings, unit_rows
from recbole_vsid.tokenizer.defaults import fixed_chunks, require_choice, require_integer

# The paper takes 10 to 20 times fewer cells than items.
ITEMS_PER_CELL = 15


@dataclass(frozen=True)
class GAOQSettings(TokenizerSettings):
    """Settings of GAOQ; ``properties/tokenizer/gaoq.yaml`` explains each.

    Raises:
        ValueError: a value is outside its range.
    """

    policies: ClassVar[tuple] = ("nearest",)  # items of fit never collide; one that is added later moves to a free leaf

    collisions: str = "nearest"
    branches: list | str = "auto"
    leaf_codes: int | str = "auto"
    iterations: int = 15
    restarts: int = 3
    alignment: str = "anchors"
    leaf_order: str = "matched"
    anchors: str = "qr"

    def __post_init__(self):
        super().__post_init__()
        pair = isinstance(self.branches, (list, tuple)) and len(self.branches) == 2
        pair = pair and all(isinstance(b, Integral) and not isinstance(b, bool) and b >= 1 for b in self.branches)
        self.require("branches", pair or self.branches == "auto", "auto or two integers >= 1, like [24, 32]")
        require_integer(self, "leaf_codes", 1, auto=True)
        require_integer(self, "iterations", 1)
        require_integer(self, "restarts", 1)
        require_choice(self, "alignment", ("anchors", "local"))
        require_choice(self, "leaf_order", ("matched", "arrival"))
        require_choice(self, "anchors", ("qr", "pca", "refined"))


@dataclass(frozen=True)
class Hierarchy:
    """What GAOQ has learnt, all arrays; ``b1``, ``g2`` and ``g3`` are the sizes of the three vocabularies.

    Args:
        mean, scale: float32 ``[d]`` and ``[]``; the vectors below are of ``(embedding - mean) / scale``.
        parents: float32 ``[b1, d]``, means of the clusters of level 1.
        cells: float32 ``[b1, g2, d]``, means of the clusters of level 2 by code; the parent's where there is none.
        occupied: bool ``[b1, g2]``, the cells that hold items.
        leaf_anchors: float32 ``[g3, d]``, directions of the codes of level 3.
        leaf_step: float32 ``[]``, mean projection of an item's residual on its direction.
        keys: int64 ``[n]``, ascending, :func:`item_keys` of the items of ``fit``.
        codes: int32 ``[n, 3]``, their codes.
    """

    mean: np.ndarray
    scale: np.ndarray
    parents: np.ndarray
    cells: np.ndarray
    occupied: np.ndarray
    leaf_anchors: np.ndarray
    leaf_step: np.ndarray
    keys: np.ndarray
    codes: np.ndarray


class GAOQTokenizer(Tokenizer):
    """Globally aligned orthogonal quantisation (``gaoq``), on the processor whatever ``device`` is."""

    name = "gaoq"
    Settings = GAOQSettings
    shared_vocabulary = False

    hierarchy = None  # Hierarchy

    def fit(self, data):
        """Cluster and number the items; see :class:`~recbole_vsid.tokenizer.base.Tokenizer`.

        Raises:
            ValueError: more branches than items, fewer leaf codes than the largest cell has items, or more codes
                than there are directions (two per dimension).
        """
        settings, embedding = self.settings, data.embedding[1:]
        n_parents, n_children, n_leaves = self._sizes(*embedding.shape)
        x, mean, scale = standardise(embedding)
        seeds = np.random.SeedSequence(self.seed % 2**32).spawn(3)
        cluster_rng, child_rng, leaf_rng = (np.random.default_rng(seed) for seed in seeds)
        parent, parents, child, centroids, siblings = self._cluster(x, n_parents, n_children, cluster_rng)

        parent_of = np.repeat(np.arange(n_parents), [len(family) for family in siblings])
        residuals = centroids - parents[parent_of]
        anchors = make_anchors(settings.anchors, n_children, residuals, siblings, child_rng)
        child_codes = number_siblings(residuals, siblings, anchors if settings.alignment == "anchors" else None)
        cells = np.repeat(parents[:, None], n_children, axis=1)
        cells[parent_of, child_codes] = centroids
        occupied = np.zeros((n_parents, n_children), dtype=bool)
        occupied[parent_of, child_codes] = True

        leaves = cluster_members(child, len(centroids))
        anchors = make_anchors(settings.anchors, n_leaves, x, leaves, leaf_rng)
        leaf_codes = number_siblings(x, leaves, anchors if settings.leaf_order == "matched" else None)
        anchors = anchors.astype(np.float32)
        projections = (x @ anchors.T)[np.arange(len(x)), leaf_codes]

        codes = np.stack([parent, child_codes[child], leaf_codes], axis=1).astype(np.int32)
        keys = item_keys(data.item_tokens[1:], embedding)
        order = np.argsort(keys)
        self.hierarchy = Hierarchy(
            mean=mean,
            scale=scale,
            parents=parents,
            cells=cells,
            occupied=occupied,
            leaf_anchors=anchors,
            leaf_step=np.array(projections.mean(), dtype=np.float32),
            keys=keys[order],
            codes=codes[order],
        )
        return self

    def _cluster(self, x, n_parents, n_children, rng):
        """Both levels of balanced clusters; ``x`` becomes what they leave over, in place.

        Returns:
            The cluster of every item ``[n]`` and the means ``[b1, d]`` of level 1, the same of level 2, whose
            clusters are numbered through all parents, and the list of the numbers below each parent.
        """
        options = {"iterations": self.settings.iterations, "restarts": self.settings.restarts}
        child, centroids, siblings, n_cells = np.empty(len(x), dtype=np.int64), [], [], 0
        with tqdm(total=1 + n_parents, desc=self.name, unit="parent", disable=not self.show_progress) as progress:
            parent, parents = balanced_kmeans(x, n_parents, rng, **options)
            progress.update()
            for items in cluster_members(parent, n_parents):
                labels, means = balanced_kmeans(x[items], n_children, rng, **options)
                child[items] = n_cells + labels
                siblings.append(np.arange(n_cells, n_cells + len(means)))
                centroids.append(means)
                n_cells += len(means)
                x[items] -= means[labels]
                progress.update()
        return parent, parents, child, np.concatenate(centroids), siblings

    def _sizes(self, n_items, n_dims):
        """Vocabulary sizes of the three levels for a catalogue."""
        settings = self.settings
        branches = auto_branches(n_items) if settings.branches == "auto" else settings.branches
        n_parents, n_children = map(int, branches)
        limit = 2 * n_dims
        settings.require(
            "branches",
            n_parents <= n_items and n_children <= min(n_items, limit),
            f"two integers of at most {n_items} and {min(n_items, limit)}: there are {n_items} items and {limit} "
            f"directions, two for each of the {n_dims} dimensions of the item vectors",
        )
        largest = math.ceil(math.ceil(n_items / n_parents) / n_children)
        settings.require(
            "branches",
            largest <= limit,
            f"two integers whose product is larger: their cells have {largest} items, and {n_dims} dimensions have "
            f"{limit} directions to tell them apart",
        )
        n_leaves = largest if settings.leaf_codes == "auto" else int(settings.leaf_codes)
        allowed = f"auto or an integer from {largest}, the items of the largest cell, to {limit}, two per dimension"
        settings.require("leaf_codes", largest <= n_leaves <= limit, allowed)
        return n_parents, n_children, n_leaves

    def assign(self, embedding):
        """Nearest parent, its nearest child, and the direction with the largest cosine to what is left.

        Items of ``fit`` may have other codes, because clusters are balanced: :meth:`content_codes` has those.
        """
        codes = np.zeros((len(embedding), 3), dtype=np.int32)
        for start in range(0, len(codes), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            for level in range(3):
                codes[rows, level] = self.code_distances(embedding[rows], codes[rows], level).argmin(1)
        return codes, np.full(len(codes), 3, dtype=np.int32)

    def content_codes(self, data):
        """The codes of ``fit`` for its items (same item token, same vector), those of :meth:`assign` for others.

        Raises:
            ValueError: more items share a first code than there are leaves below it.
        """
        learnt = self._require_fitted()
        known, position = self._find(data)
        codes = learnt.codes[position]
        codes[~known], _ = self.assign(data.embedding[1:][~known])
        _, n_children, n_leaves = self.vocab_sizes
        most = int(np.bincount(codes[:, 0]).max())
        self.settings.require(
            "leaf_codes",
            most <= n_children * n_leaves,
            f"at least {math.ceil(most / n_children)} when the tokenizer is fitted: with the items that were added, "
            f"{most} share their first code, and it has {n_children} x {n_leaves} leaves",
        )
        return codes, np.full(len(codes), 3, dtype=np.int32)

    def encode(self, data, provenance=None):
        """The table of all items of ``data``, see :meth:`Tokenizer.encode`; items of ``fit`` keep their codes."""
        self._require_fitted()
        # The policy lets the most popular item of a leaf stay, and a new item may be popular.
        popularity = np.array(data.popularity)
        popularity[1:] += self._find(data)[0] * (popularity.max() + 1)
        return super().encode(replace(data, popularity=popularity), provenance)

    def _find(self, data):
        """Whether each item of ``data`` was in ``fit``, and its position there if so."""
        keys, learnt = item_keys(data.item_tokens[1:], data.embedding[1:]), self.hierarchy.keys
        position = np.minimum(np.searchsorted(learnt, keys), len(learnt) - 1)
        return learnt[position] == keys, position

    def code_distances(self, embedding, codes, level):
        """See :meth:`Tokenizer.code_distances`: squared distances from centroids; at the last level 1 - cosine.

        A code of level 2 without a cell below its parent is farther than all others, so it is taken last.
        """
        learnt = self._require_fitted()
        x = (np.asarray(embedding, dtype=np.float32) - learnt.mean) / learnt.scale
        codes = np.asarray(codes)
        if level == 0:
            return _distances(x, learnt.parents)
        if level == 1:
            distances = np.empty((len(x), learnt.cells.shape[1]), dtype=np.float32)
            for parent, rows in enumerate(cluster_members(codes[:, 0], len(learnt.parents))):
                below = _distances(x[rows], learnt.cells[parent])
                empty = ~learnt.occupied[parent]
                below[:, empty] = below.max(1, keepdims=True) + 1
                distances[rows] = below
            return distances
        cosines = np.empty((len(x), len(learnt.leaf_anchors)), dtype=np.float32)
        for rows, (chunk,) in fixed_chunks(unit_rows(x - learnt.cells[codes[:, 0], codes[:, 1]])):
            cosines[rows] = (chunk @ learnt.leaf_anchors.T)[: rows.stop - rows.start]
        return 1 - cosines

    def prefix_errors(self, embedding, codes):
        """See :meth:`Tokenizer.prefix_errors`; two codes are decoded to the mean of their cell.

        The third goes ``leaf_step`` from there along its direction, which is the best single length on the items of
        ``fit``. The mean length of the residuals would be far too long: a direction explains little of a residual.

        Raises:
            ValueError: ``codes`` has other than three columns or holds something else than codes.
        """
        learnt = self._require_fitted()
        codes = self._full_length_codes(codes, len(embedding))
        errors = np.empty(codes.shape, dtype=np.float32)
        for start in range(0, len(codes), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            first, second, third = codes[rows].T
            cells = learnt.cells[first, second]
            prefixes = (learnt.parents[first], cells, cells + learnt.leaf_step * learnt.leaf_anchors[third])
            x = unit_rows(embedding[rows])
            for level, prefix in enumerate(prefixes):
                errors[rows, level] = np.square(x - unit_rows(prefix * learnt.scale + learnt.mean)).sum(1)
        return errors

    def state_dict(self):
        learnt = self._require_fitted()
        return {field.name: torch.from_numpy(getattr(learnt, field.name)) for field in fields(learnt)}

    def load_state_dict(self, state):
        """Restore a state; the sizes of the vocabularies come from it.

        Raises:
            ValueError: the state belongs to another tokenizer.
        """
        if set(state) != {field.name for field in fields(Hierarchy)}:
            raise ValueError(f"this is no state of tokenizer {self.name!r}: it has {sorted(state)}")
        self.hierarchy = Hierarchy(**{name: tensor.cpu().numpy() for name, tensor in state.items()})

    @property
    def vocab_sizes(self):
        learnt = self._require_fitted()
        return (*learnt.occupied.shape, len(learnt.leaf_anchors))

    def _require_fitted(self):
        if self.hierarchy is None:
            raise RuntimeError(f"tokenizer {self.name!r} has no clusters yet: call fit() or load_state_dict() first")
        return self.hierarchy


# ------------------------------------------------------------------- helpers


def auto_branches(n_items):
    """Branches of the two clustered levels: about 15 items per cell, (24, 32) for 12,000 items.

    At usual sizes the second is 8 more than the first, as for the paper's smallest dataset, (32, 40).
    """
    cells = n_items / ITEMS_PER_CELL
    n_parents = max(2, int(math.sqrt(cells + 16) - 4))  # n (n + 8) = cells
    n_children = max(2, min(n_parents + 8, int(cells / n_parents)))
    return min(n_parents, n_items), min(n_children, n_items)


def standardise(embedding):
    """Vectors with mean 0 and mean squared norm 1, float32 ``[n, d]``, and the mean and the factor taken out."""
    mean = embedding.mean(0, dtype=np.float64).astype(np.float32)
    x = np.asarray(embedding, dtype=np.float32) - mean
    scale = np.float32(math.sqrt(np.einsum("nd,nd->", x, x, dtype=np.float64) / len(x)) or 1)
    x /= scale
    return x, mean, np.array(scale)


def item_keys(item_tokens, embedding):
    """A 64-bit hash of each item's token and vector, int64 ``[n]``, the same on every machine."""
    rows = np.ascontiguousarray(embedding, dtype=np.float32)
    digests = (
        hashlib.blake2b(str(token).encode() + b"\x00" + row.tobytes(), digest_size=8).digest()
        for token, row in zip(item_tokens, rows)
    )
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def _distances(x, centroids):
    """Squared distances ``[n, k]``; a row's do not depend on the other rows."""
    distances = np.empty((len(x), len(centroids)), dtype=np.float32)
    for rows, (chunk,) in fixed_chunks(x):
        distances[rows] = squared_distances(chunk, centroids, row_squares(chunk))[: rows.stop - rows.start]
    return distances
