"""Tables whose codes change while a recommender is trained: the next table, and how healthy its codes are.

When the codebooks have moved, all items are assigned anew and their disambiguation suffixes follow: ``rank`` numbers
the items of a group by ascending id (the official code of DIGER, arXiv 2601.19711), ``sticky`` leaves the suffix of
an item whose content code did not change and gives the others the smallest free numbers. Vocabularies never change,
as the recommender has one row per token: the suffix vocabulary is sized with room to spare, and a group that outgrows
it means that the codes have collapsed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from recbole_vsid.semantic_id.collisions import append_suffix, collision_figures, collision_ranks
from recbole_vsid.semantic_id.diagnostics import entropy_of
from recbole_vsid.semantic_id.table import PAD

# Suffixes for groups this many times as large as the largest at the start.
SUFFIX_ROOM = 4


def first_table(codes, vocab_size, least_suffixes, item_tokens, provenance):
    """The table that training starts from.

    Args:
        codes: int ``[n_items - 1, n_levels]``, content codes of the items 1.. .
        vocab_size: codewords per level.
        least_suffixes: smallest suffix vocabulary; it is at least four times the largest group.
        item_tokens: external ids ``[n_items]``.
        provenance: plain values.
    """
    n_levels, figures = codes.shape[1], collision_figures(codes)
    by_id = -np.arange(len(codes) + 1)  # in the place of the popularity
    return append_suffix(
        np.pad(codes, ((1, 0), (0, 0)), constant_values=PAD),
        np.where(by_id == 0, 0, n_levels),
        [vocab_size] * n_levels,
        False,
        by_id,
        item_tokens,
        {**provenance, "collisions": {"policy": "suffix", **figures}},
        max(least_suffixes, SUFFIX_ROOM * figures["largest_group"]),
    )


def next_table(table, codes, policy="rank"):
    """``table`` after the content codes of its items have become ``codes`` ``[n_items - 1, n_levels]``.

    Args:
        table: made by :func:`first_table` or by this function.
        policy: ``rank`` or ``sticky``, see the head of this module.

    Raises:
        ValueError: more items share a code than there are suffixes.
    """
    before = table.codes[1:]
    if policy == "rank":
        suffixes = collision_ranks(codes, -np.arange(len(codes)))
    else:
        suffixes = sticky_suffixes(codes, before[:, :-1], before[:, -1])
    room, figures = table.vocab_sizes[-1], collision_figures(codes)
    if suffixes.max() >= room:
        use = ", ".join(f"{used} of {size}" for used, size in zip(used_codes(codes), table.vocab_sizes))
        raise ValueError(
            f"{figures['largest_group']} items share a content code, and there are {room} disambiguation tokens; the "
            f"levels use {use} codes. The codes have collapsed; if not, raise sid_suffix_size"
        )
    provenance = {**table.provenance, "collisions": {"policy": "suffix", **figures}}
    return replace(table, codes=np.vstack([table.codes[:1], np.column_stack([codes, suffixes])]), provenance=provenance)


def sticky_suffixes(codes, old_codes, old_suffixes):
    """Suffixes that stay where the code stays; the others, by id, take the smallest free numbers of their group.

    Args:
        codes, old_codes: int ``[n, n_levels]``.
        old_suffixes: int ``[n]``, different within a group of ``old_codes``.

    Returns:
        int64 ``[n]``, different within a group of ``codes``.
    """
    _, group, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    stays = (codes == old_codes).all(1)
    # One slot per item: the numbers 0.. below the size of its group, among which those that move find enough free ones.
    first_slot = np.cumsum(sizes) - sizes
    slot_group = np.repeat(np.arange(len(sizes)), sizes)
    taken = np.zeros(len(codes), dtype=bool)
    inside = stays & (old_suffixes < sizes[group])
    taken[first_slot[group[inside]] + old_suffixes[inside]] = True
    free = np.flatnonzero(~taken)
    moved = np.flatnonzero(~stays)
    moved = moved[np.argsort(group[moved], kind="stable")]
    rank = np.arange(len(moved)) - np.searchsorted(group[moved], group[moved])
    slot = free[np.searchsorted(slot_group[free], group[moved]) + rank]
    suffixes = np.asarray(old_suffixes, dtype=np.int64).copy()
    suffixes[moved] = slot - first_slot[group[moved]]
    return suffixes


def changed_share(codes, other):
    """Share of the rows ``[n, T]`` that differ."""
    return float((codes != other).any(1).mean())


def distinct_codes(codes):
    """How many different rows ``[n, T]`` there are."""
    return len(np.unique(codes, axis=0))


def used_codes(codes):
    """How many different codes each column of ``[n, T]`` has."""
    return [len(np.unique(column)) for column in codes.T]


def effective_codes(codes):
    """exp(entropy) of the use of each column's codes: the number of codes, used alike, that would be as uneven."""
    return [math.exp(entropy_of(column)) for column in codes.T]
