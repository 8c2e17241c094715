"""Exact scores of every item: the tree walked level by level, nothing pruned.

The oracle of the beam search, and an alternative to it for small catalogues.
"""

from __future__ import annotations

import torch

from recbole_vsid.decoding.beam import check_logits, check_renormalize, finite, position_normaliser, segment_logsumexp


@torch.no_grad()
def score_catalogue(step, trie, vocabularies=None, renormalize="first"):
    """Log-probability of every item, normalised as in the beam search (arXiv 2602.16375, official code).

    ``step`` is called with all inner nodes of a level at once, so it returns logits of size
    users × nodes × vocabulary: the caller has to choose the number of users accordingly.

    Args:
        step: incremental decoder, see :func:`~recbole_vsid.decoding.beam.constrained_beam_search`.
        trie: :class:`~recbole_vsid.decoding.trie.PrefixTrie` on the device of the logits.
        vocabularies: which tokens the logits of each position are of, as in the beam search.
        renormalize: as in the beam search.

    Returns:
        float32 ``[B, n_items]``; −inf for the padding item and for items outside the tree.

    Raises:
        ValueError: ``step`` returns logits of another shape, or another ``renormalize``.
    """
    check_renormalize(renormalize)
    logits = step(None, None)
    by_edge = not isinstance(logits, torch.Tensor)
    n_users = logits.n_users if by_edge else logits.size(0)
    result = torch.full((n_users, trie.n_items), -torch.inf, device=trie.device)
    nodes = torch.zeros(1, dtype=torch.int64, device=trie.device)
    scores = torch.zeros(n_users, 1, device=trie.device)
    for depth in range(trie.max_depth):
        first, end = vocabularies[depth] if vocabularies else (0, trie.n_tokens)
        if not by_edge:
            check_logits(logits, nodes.expand(n_users, -1), end - first, exact=vocabularies is not None)
        tokens, nodes, row = trie.children(nodes)
        if by_edge:
            log_total, log_prob = None, logits.of_level(tokens, row)
        else:
            log_total = position_normaliser(logits, depth, trie, first, renormalize)
            log_prob = logits[:, row, tokens - first].float()
        if log_total is None:
            log_total = segment_logsumexp(log_prob.T, row, scores.size(1)).T
        scores = scores[:, row] + (log_prob - finite(log_total)[:, row])
        leaf = trie.item[nodes] > 0
        items, of_leaf = trie.items_of(nodes[leaf])
        result[:, items] = scores[:, leaf][:, of_leaf]
        nodes, scores = nodes[~leaf], scores[:, ~leaf]
        if nodes.numel():
            logits = step(tokens[~leaf].expand(n_users, -1), row[~leaf].expand(n_users, -1))
    return result


@torch.no_grad()
def score_first_order(logits, trie, vocabularies, renormalize="first"):
    """:func:`score_catalogue` for models whose logits depend on no earlier token than the previous one.

    All nodes whose codes end alike then share their logits, so a level costs users × V_before × V instead of users ×
    nodes × V (section 5.3 of the specification of IntRR, arXiv 2602.20704).

    Args:
        logits: ``logits(position)`` → ``[B, V_before, V]``, a row for every token of the position before; ``[B, 1, V]``
            for position 0.
        trie, vocabularies, renormalize: as in :func:`score_catalogue`.

    Returns:
        float32 ``[B, n_items]``; −inf for the padding item and for items outside the tree.
    """
    check_renormalize(renormalize)
    nodes = before = torch.zeros(1, dtype=torch.int64, device=trie.device)
    for depth in range(trie.max_depth):
        first, end = vocabularies[depth]
        table = logits(depth)
        tokens, children, row = trie.children(nodes)
        tokens = tokens - first
        log_prob = table.flatten(1).T[before[row] * (end - first) + tokens].float()
        if depth == 0:  # users are columns here, for all indexing is by nodes
            scores = log_prob.new_zeros(1, len(table))
            result = log_prob.new_full((trie.n_items, len(table)), -torch.inf)
        log_total = position_normaliser(table, depth, trie, first, renormalize)
        log_total = segment_logsumexp(log_prob, row, len(nodes)) if log_total is None else log_total.T[before]
        scores = scores[row] + (log_prob - finite(log_total)[row])
        leaf = trie.item[children] > 0
        items, of_leaf = trie.items_of(children[leaf])
        result[items] = scores[leaf][of_leaf]
        nodes, before, scores = children[~leaf], tokens[~leaf], scores[~leaf]
    return result.T
