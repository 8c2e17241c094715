"""How good a table of semantic IDs is: lengths, collisions, use of the vocabulary, reconstruction, geometry.

The quantities of arXiv 2602.16375 (tokenizer metrics of its code) and more, for any tokenizer: "events"
weighs an item by its training events, "items" counts every item once. Here are the measures of the codes
alone; geometry.py compares them with content and sequences, report.py prints what :func:`diagnose` returns.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import spearmanr

from recbole_vsid.semantic_id.collisions import collision_figures
from recbole_vsid.semantic_id.geometry import code_alignment, content_similarity, cooccurrence_recall, prefix_groups
from recbole_vsid.semantic_id.table import PAD

HEAD_SHARE, MID_SHARE = 0.05, 0.15


def diagnose(table, popularity, prefix_errors=None, embedding=None, sequences=None, seed=0):
    """Measure a table.

    Args:
        table: :class:`~recbole_vsid.semantic_id.table.SemanticIDs`.
        popularity: int ``[n_items]``, training events of each row (row 0, the padding item, is ignored).
        prefix_errors: float ``[n_items - 1, T]``, squared error of the reconstruction of the items 1.. from
            each prefix of their *full-length* content code, as ``Tokenizer.prefix_errors`` gives it.
        embedding: float ``[n_items, d]``, the content vectors, possibly a memory-mapped file; row 0 is ignored.
        sequences: the training split as an event log: ``items`` sorted by user and time, and ``offsets``.
        seed: of the samples that the measures of geometry.py draw.

    Returns:
        A dict of plain JSON values. A mean over no items, events or pairs is None, and so is a section whose
        argument was not given. "Content" is a code without its disambiguation token; a pair is
        ``{"events", "items"}``.

        ``n_items``, ``n_events``, ``vocab_sizes`` (of the content), ``shared_vocabulary``, ``n_tokens``.

        ``length``: the pairs ``content``, ``full`` (all tokens) and ``with_suffix`` (the same, None for a table
        without suffix); ``histogram``: items of 1, 2, … content tokens; ``groups``: ``head``, the 5 % most popular
        items (at least one), ``mid``, the next 15 %, and ``tail``, the rest, each with ``items``, ``event_share``
        and ``mean_length``; ``popularity_correlation``: Spearman's, of content length and events, None if all items
        are alike in one of them.

        ``collisions``: of content codes ``distinct_codes``, ``distinct_share``, the pair ``shared``,
        ``largest_group``, ``group_sizes`` (for each size ``size``, ``groups`` and the shares ``items``, ``events``);
        ``policy``, ``moved`` and ``before`` from the table's provenance, ``after`` of its final codes: the figures
        of :func:`~recbole_vsid.semantic_id.collisions.collision_figures`.

        ``positions``: for each content position, among the ``items`` that reach it: codes ``used``, ``usage`` (share
        of the vocabulary), ``dead`` (never used), ``top_share`` (of the most frequent code), ``entropy`` in nats and
        ``perplexity``, its exponential; ``conditional_entropy`` and ``conditional_perplexity``, the same given the
        tokens before. No renumbering of codes below their prefix changes the last two: they cannot judge alignment.

        ``reconstruction``: pairs for ``prefixes`` of the full-length codes, and for the ``chosen_length``.

        ``content_similarity``, ``code_alignment``, ``cooccurrence``: see geometry.py.

    Raises:
        ValueError: an array does not match the table.
    """
    if np.shape(popularity) != (table.n_items,):
        raise ValueError(f"popularity must have {table.n_items} entries, one per row, not {np.shape(popularity)}")
    if embedding is not None and (np.ndim(embedding) != 2 or len(embedding) != table.n_items):
        raise ValueError(f"embedding must be [{table.n_items}, d], one row per item, not {np.shape(embedding)}")
    events = np.asarray(popularity, dtype=np.float64)[1:]
    lengths = table.lengths[1:].astype(np.int64)
    content_lengths = lengths - bool(table.suffix)
    if content_lengths.min() < 1:
        row = int(content_lengths.argmin()) + 1
        raise ValueError(f"item {str(table.item_tokens[row])!r} has one token only, so it cannot end in a suffix")
    codes = table.codes[1:, : content_lengths.max()]
    codes = np.where(np.arange(codes.shape[1]) < content_lengths[:, None], codes, PAD)
    groups = prefix_groups(codes)
    vocab_sizes = list(table.vocab_sizes[: codes.shape[1]])
    if table.suffix:
        vocab_sizes = _content_vocab_sizes(table, lengths, codes.shape[1])

    result = {
        "n_items": table.n_items - 1,
        "n_events": int(events.sum()),
        "vocab_sizes": vocab_sizes,
        "shared_vocabulary": bool(table.shared_vocabulary),
        "n_tokens": table.n_tokens,
        "length": {
            "content": _means(content_lengths, events),
            "full": _means(lengths, events),
            "with_suffix": _means(lengths, events) if table.suffix else None,
            "histogram": np.bincount(content_lengths, minlength=codes.shape[1] + 1)[1:].tolist(),
            "groups": _groups(content_lengths, events),
            "popularity_correlation": _rank_correlation(content_lengths, events),
        },
        "collisions": {**_collisions(groups[:, -1], events), **_resolution(table)},
        "positions": [_position(codes, groups, t, vocab_sizes[t]) for t in range(codes.shape[1])],
        "reconstruction": None,
        "content_similarity": None,
        "code_alignment": None,
        "cooccurrence": None,
    }
    if prefix_errors is not None:
        result["reconstruction"] = _reconstruction(np.asarray(prefix_errors), content_lengths, events)
    if embedding is not None:
        result["content_similarity"] = content_similarity(embedding[1:], codes, groups, seed)
        result["code_alignment"] = code_alignment(embedding[1:], codes, groups, seed)
    if sequences is not None:
        result["cooccurrence"] = cooccurrence_recall(codes, groups, events, sequences)
    return result


def _content_vocab_sizes(table, lengths, n_positions):
    """Content vocabulary per position: some item has suffix 0, whose id is the first behind the content's."""
    suffixes = table.codes[1:][np.arange(len(lengths)), lengths - 1]
    if table.shared_vocabulary:
        return [int(suffixes.min())] * n_positions
    sizes = list(table.vocab_sizes[:n_positions])
    for position in np.unique(lengths - 1):
        if position < n_positions:
            sizes[position] = int(suffixes[lengths - 1 == position].min())
    return sizes


def _mean(values, weights=None):
    if len(values) == 0 or (weights is not None and weights.sum() == 0):
        return None
    return float(np.average(values, weights=weights))


def _means(values, events):
    return {"events": _mean(values, events), "items": _mean(values)}


def _groups(content_lengths, events):
    order = np.argsort(-events, kind="stable")
    head = max(1, round(HEAD_SHARE * len(order)))
    mid = head + round(MID_SHARE * len(order))
    groups = {}
    for name, rows in (("head", order[:head]), ("mid", order[head:mid]), ("tail", order[mid:])):
        share = float(events[rows].sum() / events.sum()) if events.sum() else None
        groups[name] = {"items": len(rows), "event_share": share, "mean_length": _mean(content_lengths[rows])}
    return groups


def _rank_correlation(content_lengths, events):
    if np.ptp(content_lengths) == 0 or np.ptp(events) == 0:
        return None
    return float(spearmanr(content_lengths, events).statistic)


def _collisions(group, events):
    sizes = np.bincount(group)
    size = sizes[group]
    events_of_size = np.bincount(size, weights=events)
    group_sizes = [
        {
            "size": int(value),
            "groups": int(count),
            "events": float(events_of_size[value] / events.sum()) if events.sum() else None,
            "items": float(value * count / len(group)),
        }
        for value, count in zip(*np.unique(sizes, return_counts=True))
    ]
    return {
        "distinct_codes": len(sizes),
        "distinct_share": len(sizes) / len(group),
        "shared": _means(size > 1, events),
        "largest_group": int(sizes.max()),
        "group_sizes": group_sizes,
    }


def _resolution(table):
    """What the policy of :mod:`~recbole_vsid.semantic_id.collisions` found and left."""
    found = table.provenance.get("collisions", {})
    after = collision_figures(prefix_groups(table.codes[1:])[:, -1:])
    before = {name: found.get(name) for name in after} if found else None
    return {"policy": found.get("policy"), "moved": found.get("moved"), "before": before, "after": after}


def entropy_of(labels):
    """Entropy of the frequencies of non-negative labels, in nats."""
    counts = np.bincount(labels)
    share = counts[counts > 0] / len(labels)
    return -float((share * np.log(share)).sum())


def _position(codes, groups, t, vocab_size):
    reached = codes[:, t] != PAD
    counts = np.bincount(codes[reached, t], minlength=vocab_size)
    used, entropy = int((counts > 0).sum()), entropy_of(codes[reached, t])
    # A prefix determines the one before it, so H(c_t | c_<t) = H(c_<=t) - H(c_<t).
    before = entropy_of(groups[reached, t - 1]) if t else 0.0
    conditional = max(0.0, entropy_of(groups[reached, t]) - before)
    return {
        "items": int(reached.sum()),
        "used": used,
        "usage": used / vocab_size,
        "dead": vocab_size - used,
        "top_share": float(counts.max() / reached.sum()),
        "entropy": entropy,
        "perplexity": math.exp(entropy),
        "conditional_entropy": conditional,
        "conditional_perplexity": math.exp(conditional),
    }


def _reconstruction(errors, content_lengths, events):
    if errors.ndim != 2 or len(errors) != len(events) or errors.shape[1] < content_lengths.max():
        raise ValueError(
            f"prefix_errors must be [{len(events)}, >= {content_lengths.max()}] (no padding row), not {errors.shape}"
        )
    errors = errors.astype(np.float64)
    return {
        "prefixes": [_means(errors[:, t], events) for t in range(errors.shape[1])],
        "chosen_length": _means(errors[np.arange(len(errors)), content_lengths - 1], events),
    }
