"""Items that got the same content code are told apart by a final *disambiguation* token.

As VLSID does it (arXiv 2602.16375, section 5.2 of its code's behaviour): **every** item gets the
token, also one without collisions. Its ids are disjoint from the content tokens, so the final codes
are unique and prefix-free, and the token is also what marks the end of an item.
"""

from __future__ import annotations

import numpy as np

from recbole_vsid.semantic_id.table import PAD, SemanticIDs


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


def append_suffix(codes, lengths, vocab_sizes, shared_vocabulary, popularity, item_tokens, provenance):
    """Build the final, prefix-free table from content codes.

    Args:
        codes: int ``[n_items, T]`` content codes with row 0 all −1.
        lengths: int ``[n_items]``, 0 for row 0.
        vocab_sizes: content vocabulary per position.
        shared_vocabulary: whether the positions share one vocabulary. If so, suffix *u* has the id
            ``V + u``; otherwise it has its own ids behind each position's vocabulary.
        popularity: int ``[n_items]``, training events per item.

    Returns:
        SemanticIDs of at most ``T + 1`` positions.
    """
    codes = np.asarray(codes, dtype=np.int32)
    n_items, max_length = codes.shape
    ranks = np.zeros(n_items, dtype=np.int64)
    ranks[1:] = collision_ranks(codes[1:], popularity[1:])
    n_suffixes = int(ranks.max()) + 1

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
    )
