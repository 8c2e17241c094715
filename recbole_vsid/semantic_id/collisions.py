"""What happens to items that got the same content code: the four policies of ``sid_collisions``.

``suffix``    every item gets a final *disambiguation* token, also one without collisions, as in VLSID
              (arXiv 2602.16375, section 5.2 of its code's behaviour), TIGER (2305.05065) and IntRR.
``nearest``   all but one item of a group move to the nearest free codeword of the last level.
``sinkhorn``  the groups are assigned anew at the last level by balanced transport (LC-Rec, 2311.09049);
              what still collides afterwards goes to the nearest free codeword.
``none``      items share a code; a decoder then returns all of them, the smaller id first.

Nothing is ever wrapped around a vocabulary: it grows (``suffix_size="auto"``) or the table is refused.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from recbole_vsid.semantic_id.table import PAD, SemanticIDs

POLICIES = ("suffix", "nearest", "sinkhorn", "none")

SINKHORN_ROUNDS = 20
SINKHORN_ITERATIONS = 50
SINKHORN_EPSILON = 0.003


def resolve_collisions(
    policy, codes, lengths, vocab_sizes, shared_vocabulary, popularity, item_tokens, provenance, distances=None,
    suffix_size="auto",
):  # fmt: skip
    """The final table of a catalogue from its content codes.

    Args:
        policy: one of :data:`POLICIES`.
        codes: int ``[n_items, T]`` content codes, −1 behind each item's length, row 0 all −1.
        lengths: int ``[n_items]``, 0 for row 0.
        vocab_sizes: content vocabulary per position, T entries.
        shared_vocabulary: whether the positions share one vocabulary.
        popularity: int ``[n_items]``, training events per item; the most popular item of a group keeps the code.
        item_tokens: external ids ``[n_items]``.
        provenance: plain values; the policy and the collisions before it are added under ``collisions``.
        distances: ``distances(rows, codes, level)`` → ``[len(rows), V_level]``, see ``Tokenizer.code_distances``;
            for ``nearest`` and ``sinkhorn``.
        suffix_size: for ``suffix``: tokens of the disambiguation vocabulary, or "auto" for as many as needed.

    Raises:
        ValueError: the policy does not suit codes of different lengths, or has no room for all items.
    """
    codes, lengths = np.asarray(codes, dtype=np.int32), np.asarray(lengths)
    before = collision_figures(codes[1:])
    provenance = {**provenance, "collisions": {"policy": policy, **before}}
    if policy == "suffix":
        return append_suffix(
            codes, lengths, vocab_sizes, shared_vocabulary, popularity, item_tokens, provenance, suffix_size
        )
    if lengths[1:].min() != lengths[1:].max():
        raise ValueError(
            f"sid_collisions={policy!r} needs codes of one length, and these have {lengths[1:].min()} to "
            f"{lengths[1:].max()} tokens, of which one may begin another; use sid_collisions=suffix"
        )
    codes = codes[:, : lengths[1]].copy()
    if policy in ("nearest", "sinkhorn"):
        moved = codes[1:].copy()
        if policy == "sinkhorn":
            moved = sinkhorn_reassign(moved, vocab_sizes, distances)
            provenance["collisions"]["left_by_sinkhorn"] = collision_figures(moved)["items"]
        moved = move_to_free_codes(moved, vocab_sizes, distances, popularity[1:])
        provenance["collisions"]["moved"] = int((moved != codes[1:]).any(1).sum())
        codes[1:] = moved
    return SemanticIDs(
        codes=codes,
        lengths=lengths,
        vocab_sizes=vocab_sizes[: codes.shape[1]],
        shared_vocabulary=shared_vocabulary,
        item_tokens=item_tokens,
        provenance=provenance,
        unique=policy != "none",
        prefix_free=policy != "none",
    )


def collision_figures(codes):
    """How many of the rows ``[n, T]`` share their code, as plain values."""
    _, group, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    shared = int((sizes[group.reshape(-1)] > 1).sum())
    return {
        "distinct_codes": len(sizes),
        "items": shared,
        "item_share": shared / len(codes),
        "largest_group": int(sizes.max()),
    }


# ------------------------------------------------------------------- suffix


def collision_ranks(codes, popularity):
    """Rank each row among the rows with the same code.

    Args:
        codes: int ``[n, length]``, −1 padded.
        popularity: int ``[n]``, training events per item.

    Returns:
        int64 ``[n]``: 0 for the most popular row of its group; of equally popular rows the later
        one comes first.
    """
    group = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((-np.arange(len(codes)), -np.asarray(popularity), group))
    grouped = group[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    sizes = np.diff(np.r_[starts, len(codes)])
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[order] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return ranks


def append_suffix(
    codes, lengths, vocab_sizes, shared_vocabulary, popularity, item_tokens, provenance, suffix_size="auto"
):
    """Build the final, prefix-free table from content codes; arguments as :func:`resolve_collisions`.

    With a shared vocabulary of V codewords suffix *u* has the id ``V + u``; otherwise it has its own
    ids behind each position's vocabulary.

    Returns:
        SemanticIDs of at most ``T + 1`` positions.

    Raises:
        ValueError: a group is larger than ``suffix_size``.
    """
    codes = np.asarray(codes, dtype=np.int32)
    n_items, max_length = codes.shape
    ranks = np.zeros(n_items, dtype=np.int64)
    ranks[1:] = collision_ranks(codes[1:], popularity[1:])
    n_suffixes = int(ranks.max()) + 1
    if suffix_size != "auto":
        if n_suffixes > suffix_size:
            token = str(item_tokens[int(ranks.argmax())])
            raise ValueError(
                f"{n_suffixes} items share the content code of item {token!r}, more than sid_suffix_size={suffix_size} "
                "disambiguation tokens; raise it (auto: as many as needed) or sid_vocab_size, or give items content "
                "that tells them apart"
            )
        n_suffixes = suffix_size

    longest = int(max(lengths))
    final = np.full((n_items, longest + 1), PAD, dtype=np.int32)
    final[:, :longest] = codes[:, :longest]
    sizes = list(vocab_sizes[:longest]) + [0]
    rows = np.arange(1, n_items)
    # Every position may hold a suffix if codes differ in length, so its ids lie behind the content's.
    base = np.asarray([max(sizes)] * (longest + 1) if shared_vocabulary else sizes)
    final[rows, lengths[rows]] = base[lengths[rows]] + ranks[rows]
    ends_here = np.isin(np.arange(longest + 1), lengths[1:])
    if shared_vocabulary:
        final_sizes = [int(base[0]) + n_suffixes] * (longest + 1)
    else:
        final_sizes = [int(size) + n_suffixes * bool(end) for size, end in zip(sizes, ends_here)]
    return SemanticIDs(
        codes=final,
        lengths=np.where(np.arange(n_items) == 0, 0, np.asarray(lengths) + 1),
        vocab_sizes=final_sizes,
        shared_vocabulary=shared_vocabulary,
        item_tokens=item_tokens,
        provenance=provenance,
        suffix=True,
    )


# ------------------------------------------------------- moves at the last level


def move_to_free_codes(codes, vocab_sizes, distances, popularity):
    """Make codes of one length unique by changing the last token, and the one before it where a parent is full.

    Within a parent the items that share a code, but for the most popular one, go to free codewords with the
    smallest sum of distances (linear assignment). What a parent with more items than codewords cannot hold, its
    least popular items, goes to the nearest sibling with a free codeword.

    Args:
        codes: int32 ``[n, T]`` without padding item.
        distances: see :func:`resolve_collisions`; rows count from 1, the first item.
        popularity: int ``[n]``.

    Returns:
        int32 ``[n, T]``, all rows different.

    Raises:
        ValueError: not even the siblings have room.
    """
    codes = codes.copy()
    last, size = codes.shape[1] - 1, int(vocab_sizes[codes.shape[1] - 1])
    overflow = []
    ranks = collision_ranks(codes, popularity)
    for members in _groups(codes[:, :last]):
        extra = members[ranks[members] > 0]
        if len(extra) == 0:
            continue
        free = np.setdiff1d(np.arange(size), codes[members, last])
        if len(extra) > len(free):
            by_popularity = extra[np.argsort(-popularity[extra], kind="stable")]
            overflow.extend(by_popularity[len(free) :].tolist())
            extra = by_popularity[: len(free)]
        if len(extra):
            cost = distances(extra + 1, codes[extra], last)[:, free]
            rows, columns = linear_sum_assignment(cost)
            codes[extra[rows], last] = free[columns]
    if overflow:
        _move_to_siblings(codes, np.array(overflow), vocab_sizes, distances)
    return codes


def _move_to_siblings(codes, overflow, vocab_sizes, distances):
    last = codes.shape[1] - 1
    n_siblings, size = int(vocab_sizes[last - 1]) if last else 0, int(vocab_sizes[last])
    settled = np.ones(len(codes), dtype=bool)
    settled[overflow] = False
    for item in overflow:
        family = np.flatnonzero((codes[:, : max(last - 1, 0)] == codes[item, : max(last - 1, 0)]).all(1) & settled)
        room = size - np.bincount(codes[family, last - 1], minlength=n_siblings) if last else np.zeros(0, dtype=int)
        if not (room > 0).any():
            raise ValueError(
                f"{len(overflow)} items do not fit below their prefix: {len(family)} items and {n_siblings} x {size} "
                "codes; fit with more codes (sid_vocab_size; sid_leaf_codes of gaoq) or levels, or with "
                "sid_collisions=suffix"
            )
        row = np.array([item])
        to_siblings = np.where(room > 0, distances(row + 1, codes[row], last - 1)[0], np.inf)
        codes[item, last - 1] = int(to_siblings.argmin())
        taken = codes[family[codes[family, last - 1] == codes[item, last - 1]], last]
        to_codes = distances(row + 1, codes[row], last)[0].copy()
        to_codes[taken] = np.inf
        codes[item, last] = int(to_codes.argmin())
        settled[item] = True


def sinkhorn_reassign(codes, vocab_sizes, distances):
    """Assign items that collide anew at the last level by balanced transport, a few rounds (LC-Rec, 2311.09049).

    Arguments and result as :func:`move_to_free_codes`; collisions may remain.
    """
    codes = codes.copy()
    last = codes.shape[1] - 1
    for _ in range(SINKHORN_ROUNDS):
        _, group, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        colliding = np.flatnonzero(sizes[group.reshape(-1)] > 1)
        if len(colliding) == 0:
            break
        families = [colliding[members] for members in _groups(codes[colliding, :last])]
        new = [sinkhorn(distances(rows + 1, codes[rows], last)).argmax(1) for rows in families]
        rows, new = np.concatenate(families), np.concatenate(new)
        if np.array_equal(codes[rows, last], new):
            break
        codes[rows, last] = new
    return codes


def sinkhorn(distances, epsilon=SINKHORN_EPSILON, iterations=SINKHORN_ITERATIONS):
    """Transport plan between rows and columns of equal masses, float64 of the shape of ``distances`` ``[n, V]``.

    Distances are scaled to [−1, 1] first; ends with a normalisation of the columns, as the code of DIGER
    (arXiv 2601.19711) and LC-Rec do. Computed with logarithms: exp(1 / epsilon) would overflow.
    """
    distances = np.asarray(distances, dtype=np.float64)
    low, high = distances.min(), distances.max()
    log_plan = -(distances - (high + low) / 2) / max((high - low) / 2, 1e-12) / epsilon
    n, size = distances.shape
    for _ in range(iterations):
        log_plan -= logsumexp(log_plan, axis=1, keepdims=True) + np.log(n)
        log_plan -= logsumexp(log_plan, axis=0, keepdims=True) + np.log(size)
    return np.exp(log_plan)


def _groups(prefixes):
    """Rows with equal prefixes, as arrays of row numbers; a prefix of length 0 is one group."""
    if prefixes.shape[1] == 0:
        return [np.arange(len(prefixes))]
    group = np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
