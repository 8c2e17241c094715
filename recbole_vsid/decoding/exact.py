"""Exact scores of every item: the tree walked level by level, nothing pruned.

The oracle of the beam search, and an alternative to it for small catalogues.
"""

from __future__ import annotations

import torch

from recbole_vsid.decoding.beam import check_logits, log_normaliser


@torch.no_grad()
def score_catalogue(step, trie, vocabularies=None):
    """Log-probability of every item, normalised as in the beam search (arXiv 2602.16375, official code).

    ``step`` is called with all inner nodes of a level at once, so it returns logits of size
    users × nodes × vocabulary: the caller has to choose the number of users accordingly.

    Args:
        step: incremental decoder, see :func:`~recbole_vsid.decoding.beam.constrained_beam_search`.
        trie: :class:`~recbole_vsid.decoding.trie.PrefixTrie` on the device of the logits.
        vocabularies: which tokens the logits of each position are of, as in the beam search.

    Returns:
        float32 ``[B, n_items]``; −inf for the padding item and for items outside the tree.

    Raises:
        ValueError: ``step`` returns logits of another shape.
    """
    logits = step(None, None)
    n_users = logits.size(0)
    result = torch.full((n_users, trie.n_items), -torch.inf, device=logits.device)
    nodes = torch.zeros(1, dtype=torch.int64, device=logits.device)
    scores = torch.zeros(n_users, 1, device=logits.device)
    for depth in range(trie.max_depth):
        first, end = vocabularies[depth] if vocabularies else (0, trie.n_tokens)
        check_logits(logits, nodes.expand(n_users, -1), end - first, exact=vocabularies is not None)
        tokens, nodes, row = trie.children(nodes)
        log_total = log_normaliser(logits, trie if depth == 0 else None, first)
        scores = (scores - log_total)[:, row] + logits[:, row, tokens - first].float()
        leaf = trie.item[nodes] > 0
        items, of_leaf = trie.items_of(nodes[leaf])
        result[:, items] = scores[:, leaf][:, of_leaf]
        nodes, scores = nodes[~leaf], scores[:, ~leaf]
        if nodes.numel():
            logits = step(tokens[~leaf].expand(n_users, -1), row[~leaf].expand(n_users, -1))
    return result
