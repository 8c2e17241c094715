"""Do items that share tokens look alike, and are they consumed together? Codes against content and behaviour.

Three measures, each to be read beside what chance gives: the cosine of items with the same first tokens,
the cosine of items with the same token under *different* prefixes (ReSID, arXiv 2602.02338, Table 10, without
the pairs of one parent, so that a numbering of its own under each parent gives 0), and how often neighbours
in training sequences share their first tokens. The content matrix may be a memory-mapped file: of a large
one only sampled rows are read.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from recbole_vsid.semantic_id.table import PAD

# The standard error of a mean cosine over so many pairs is at most 0.0045, usually below 0.002.
PAIRS = 50_000
PAIRS_AT_ONCE = 2**11
# Events whose neighbours are compared at once.
EVENTS_AT_ONCE = 2**20
# Largest number of items whose vectors are held at once; beyond it a sample stands for the catalogue.
SAMPLED_ITEMS = 50_000
# A centred unit vector this short is rounding: the item is like all others below its prefix.
NO_LENGTH = 1e-6


def prefix_groups(codes):
    """Number the different prefixes of every length.

    Args:
        codes: int ``[n, T]``, −1 padded, without padding item.

    Returns:
        int64 ``[n, T]``: two rows have the same number in column *t* exactly if their first t + 1 entries are
        equal, −1 included. So the last column numbers the different codes.
    """
    groups = np.empty(codes.shape, dtype=np.int64)
    parent = np.zeros(len(codes), dtype=np.int64)
    for t in range(codes.shape[1]):
        column = codes[:, t].astype(np.int64) - PAD
        parent = np.unique(parent * (column.max() + 1) + column, return_inverse=True)[1].reshape(-1)
        groups[:, t] = parent
    return groups


# ------------------------------------------------------- content within a prefix


def content_similarity(embedding, codes, groups, seed=0):
    """Mean cosine of an item and another one with the same first tokens, beside any other item; from sampled pairs.

    Args:
        embedding: float ``[n, d]``; pairs with a vector of zeros do not count.
        codes: int ``[n, T]``, −1 padded.
        groups: :func:`prefix_groups` of ``codes``.

    Returns:
        dict: ``random``: mean cosine of any two items; ``prefixes``: for 1..T tokens ``items``, the share of all
        items that are not alone with their prefix, and ``cosine``. A mean over no pairs is None.
    """
    rng = np.random.default_rng(seed)
    left, right, _ = sample_pairs(np.zeros(len(codes), dtype=np.int64), rng)
    random = mean_cosine(embedding, left, right)
    prefixes = []
    for t in range(codes.shape[1]):
        reached = np.flatnonzero(codes[:, t] != PAD)
        left, right, n_paired = sample_pairs(groups[reached, t], rng)
        cosine = mean_cosine(embedding, reached[left], reached[right])
        prefixes.append({"items": n_paired / len(codes), "cosine": cosine})
    return {"random": random, "prefixes": prefixes}


def sample_pairs(groups, rng, n_pairs=PAIRS):
    """Draw rows that are not alone in their group, all alike, and for each another row of its group, all alike.

    Args:
        groups: int ``[n]``.
        rng: ``numpy.random.Generator``.

    Returns:
        rows and mates, int64 ``[n_pairs]`` (empty if every row is alone), and the number of rows not alone.
    """
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    sizes = np.diff(np.r_[starts, len(order)])
    starts, sizes = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    paired = np.flatnonzero(sizes > 1)
    if len(paired) == 0:
        return paired, paired, 0
    drawn = paired[rng.integers(len(paired), size=n_pairs)]
    step = rng.integers(1, sizes[drawn])
    mates = starts[drawn] + (drawn - starts[drawn] + step) % sizes[drawn]
    return order[drawn], order[mates], len(paired)


def mean_cosine(embedding, left, right):
    """Mean cosine of the rows ``left`` and ``right`` of ``embedding``; None if every pair has a vector of zeros."""
    total, count = 0.0, 0
    for start in range(0, len(left), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        one, other = (np.asarray(embedding[rows[part]], dtype=np.float32) for rows in (left, right))
        dots, *squares = (np.einsum("nd,nd->n", a, b) for a, b in ((one, other), (one, one), (other, other)))
        lengths = np.sqrt(squares[0]) * np.sqrt(squares[1])
        defined = lengths > 0
        total += float((dots[defined] / lengths[defined]).sum(dtype=np.float64))
        count += int(defined.sum())
    return total / count if count else None


# ------------------------------------------------------ one code under many parents


def code_alignment(embedding, codes, groups, seed=0):
    """Does a token mean the same under every prefix? Cosines of unit vectors minus the mean of their prefix.

    Means over *all* pairs of items with the same token at a position, not over sampled pairs; from a sample of
    ``SAMPLED_ITEMS`` items if there are more.

    Args:
        embedding, codes, groups: as :func:`content_similarity`.

    Returns:
        A list with one dict for each of the positions 2..T: ``position``; ``cross_parent``, the mean over pairs with
        different prefixes, and ``pairs``, their number; ``all``, the mean over all pairs. A mean over no pairs is
        None. Items of zeros, alone below their prefix, or like all others there have no direction and do not count.
    """
    n = len(codes)
    rows = np.arange(n)
    if n > SAMPLED_ITEMS:
        rows = np.sort(np.random.default_rng(seed).choice(n, SAMPLED_ITEMS, replace=False))
    vectors = np.asarray(embedding[rows], dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    vectors, rows = vectors[norms > 0] / norms[norms > 0, None], rows[norms > 0]
    result = []
    for t in range(1, codes.shape[1]):
        reached = codes[rows, t] != PAD
        here = rows[reached]
        figures = same_code_cosine(vectors[reached], codes[here, t], groups[here, t - 1], groups[here, t])
        result.append({"position": t + 1, **figures})
    return result


def same_code_cosine(vectors, code, parent, cell):
    """Mean cosine of parent-centred vectors over pairs with the same code: of different parents, and of any.

    Exact and without pairs: the cosines of all pairs within a group sum to the squared length of the sum of its
    unit vectors; pairs of one parent are the pairs within a cell and are subtracted.

    Args:
        vectors: float64 ``[n, d]``.
        code, parent: int ``[n]``.
        cell: int ``[n]``, numbers the pairs (parent, code).

    Returns:
        dict: ``cross_parent``, ``all``, ``pairs``, see :func:`code_alignment`.
    """
    _, index, sizes = np.unique(parent, return_inverse=True, return_counts=True)
    with_siblings = sizes[index.reshape(-1)] > 1
    vectors, code, parent, cell = (values[with_siblings] for values in (vectors, code, parent, cell))
    sums, sizes, index = _group_sums(vectors, parent)
    centred = vectors - (sums / sizes[:, None])[index]
    norms = np.linalg.norm(centred, axis=1)
    directed = norms > NO_LENGTH
    directions = centred[directed] / norms[directed, None]
    n = len(directions)
    of_code, code_pairs = _sum_over_pairs(directions, code[directed])
    of_cell, cell_pairs = _sum_over_pairs(directions, cell[directed])
    # Ordered pairs: every pair twice and, where it is not subtracted, every item with itself.
    return {
        "cross_parent": (of_code - of_cell) / (code_pairs - cell_pairs) if code_pairs > cell_pairs else None,
        "all": (of_code - n) / (code_pairs - n) if code_pairs > n else None,
        "pairs": (code_pairs - cell_pairs) // 2,
    }


def _sum_over_pairs(directions, labels):
    """Sum of cosines and number of the ordered pairs within the groups, each row with itself included."""
    sums, sizes, _ = _group_sums(directions, labels)
    return float(np.square(sums).sum()), int(np.square(sizes).sum())


def _group_sums(vectors, labels):
    """Sums ``[G, d]`` and sizes ``[G]`` of the groups, and the group of each row."""
    index = np.unique(labels, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(index)
    member = csr_matrix((np.ones(len(index)), (index, np.arange(len(index)))), shape=(len(sizes), len(index)))
    return member @ vectors, sizes, index


# ------------------------------------------------------------ neighbours in sequences


def cooccurrence_recall(codes, groups, events, sequences):
    """How often two different items that follow each other in a training sequence share their first tokens.

    Args:
        codes, groups: as :func:`content_similarity`.
        events: float ``[n]``, training events of each item.
        sequences: has ``items`` (ids 1..n, sorted by user and time) and ``offsets`` (user *u* owns
            ``items[offsets[u]:offsets[u + 1]]``), of the training split only.

    Returns:
        dict: ``pairs``, the number of such neighbours, each as often as it occurs; ``prefixes``: for 1..T tokens
        ``recall``, the share of them that agree in these tokens, ``random``, the same for two different items drawn
        by their events (computed, not sampled), and ``lift``, the ratio. None where nothing can be counted.

    Raises:
        ValueError: an id is not an item of the table.
    """
    items, offsets = np.asarray(sequences.items), np.asarray(sequences.offsets)
    if len(items) and not 1 <= items.min() <= items.max() <= len(codes):
        raise ValueError(f"the items of sequences must lie in 1..{len(codes)}, not {items.min()}..{items.max()}")
    starts_user = np.zeros(len(items) + 1, dtype=bool)
    starts_user[offsets] = True
    n_pairs, together = 0, np.zeros(codes.shape[1], dtype=np.int64)
    for start in range(1, len(items), EVENTS_AT_ONCE):
        events_here = slice(start, min(start + EVENTS_AT_ONCE, len(items)))
        left, right = items[events_here.start - 1 : events_here.stop - 1] - 1, items[events_here] - 1
        counted = ~starts_user[events_here] & (left != right)
        left, right = left[counted], right[counted]
        n_pairs += len(left)
        together += ((groups[left] == groups[right]) & (codes[left] != PAD)).sum(0)

    share = events / max(events.sum(), 1)
    possible = share.sum() - np.square(share).sum()
    prefixes = []
    for t in range(codes.shape[1]):
        reached = codes[:, t] != PAD
        group, drawn = groups[reached, t], share[reached]
        # Group by group: a group with one item gives exactly 0, which a difference of two sums would not.
        meet = np.square(np.bincount(group, weights=drawn)) - np.bincount(group, weights=np.square(drawn))
        recall = float(together[t] / n_pairs) if n_pairs else None
        random = float(meet.sum() / possible) if np.count_nonzero(share) > 1 else None
        lift = recall / random if recall is not None and random else None
        prefixes.append({"recall": recall, "random": random, "lift": lift})
    return {"pairs": n_pairs, "prefixes": prefixes}
