"""Beam search over the semantic IDs that exist, for all users at once.

The search of VLSID (arXiv 2602.16375, official code), with two differences that change no result:
candidates are only the children of live tree nodes (a ragged gather, not a top-k over
beams × vocabulary), and a beam that has finished an item costs nothing afterwards. The codes are
prefix-free, so the sum of a code's log-probabilities is the model's joint log-probability of the
item whatever its length, and there is no length normalisation.
"""

from __future__ import annotations

from itertools import count
from typing import Protocol

import torch
from torch import Tensor


class EdgeScores(Protocol):
    """Logits for the edges of a tree, what a step may return instead of logits for tokens."""

    n_users: int

    def of_beams(self, tokens: Tensor, slot: Tensor, width: int) -> Tensor:
        """fp32 ``[n]``: logits of ``tokens`` ``[n]`` behind beam ``slot % width`` of user ``slot // width``."""

    def of_level(self, tokens: Tensor, row: Tensor) -> Tensor:
        """fp32 ``[B, n]``: logits of ``tokens`` ``[n]`` behind prefix ``row`` ``[n]``, the same for all users."""


@torch.no_grad()
def constrained_beam_search(step, trie, beam_width, k=None, vocabularies=None, renormalize="first"):
    """The most probable items of each user.

    By default the first token's log-probabilities are renormalised over the tokens that begin some code, later
    ones are log-softmax over all logits of the step. Of all candidates of a user the best
    ``beam_width`` are kept; those that complete an item go to the user's result and free their
    place. Everything about scores is computed in fp32.

    Args:
        step: the model's incremental decoder. ``step(None, None)`` returns logits ``[B, 1, n_tokens]``
            of the first token; afterwards ``step(tokens, parents)`` with int64 ``[B, W]`` appends
            ``tokens[b, w]`` to the prefix that stood at place ``parents[b, w]`` of the previous call
            and returns logits ``[B, W, n_tokens]``. W is the largest number of live beams over the
            users and changes from call to call; places beyond a user's own beams hold valid but
            meaningless values. More logits than the tree has tokens are allowed, those behind
            ``n_tokens`` take part in the normalisation only. With ``vocabularies`` the step for position *p* returns
            the logits of the tokens ``first .. end - 1`` only, ``[B, W, end - first]``. A model whose logits belong to
            the nodes of the tree returns :class:`EdgeScores` instead, which are normalised among siblings.
        trie: :class:`~recbole_vsid.decoding.trie.PrefixTrie` on the device of the logits.
        beam_width: places per user; wider than the catalogue makes the search exact.
        k: number of items wanted. Scores only fall, so beams worse than a user's ``k``-th best finished
            item are given up, and the search ends when none is left; the result is the same as without.
        vocabularies: ``(first, end)`` per position of a code, see ``SemanticIDs.vocabularies``; without it the logits
            begin with token 0 at every position.
        renormalize: which positions' probabilities sum to one over the tokens that lead to an item, instead of over
            all logits: ``first``, ``all`` (then the probabilities of all items sum to one) or ``none``.

    Returns:
        ``(items, scores)``, int64 and float32 ``[B, K]``: best first, of equal scores (items that share a
        code have the score of that code) the smaller id first, empty places item 0 with −inf. K is ``k``,
        or without it the largest number of items that any user has.

    Raises:
        ValueError: ``beam_width`` or ``k`` below 1, an unknown ``renormalize``, or logits of another shape.
    """
    check_renormalize(renormalize)
    if beam_width < 1:
        raise ValueError(f"beam_width must be at least 1, not {beam_width}")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, not {k}")

    tokens = parents = nodes = scores = None
    found_leaves, found_scores = [], []
    for position in count():
        first, end = vocabularies[position] if vocabularies else (0, trie.n_tokens)
        logits = step(tokens, parents)
        by_edge = not isinstance(logits, torch.Tensor)
        if nodes is None:
            shape = (logits.n_users, 1) if by_edge else logits.shape[:2]
            nodes = torch.zeros(shape, dtype=torch.int64, device=trie.device)
            scores = torch.zeros(shape, dtype=torch.float32, device=trie.device)
        log_total = None
        if not by_edge:
            check_logits(logits, nodes, end - first, exact=vocabularies is not None)
            log_total = position_normaliser(logits, position, trie, first, renormalize)
        tokens, parents, nodes, scores = _best_children(logits, first, log_total, nodes, scores, trie, beam_width)

        live = scores > -torch.inf
        finished = live & (trie.item[nodes] > 0)
        live &= ~finished
        found_leaves.append(nodes.masked_fill(~finished, 0))
        found_scores.append(scores.masked_fill(~finished, -torch.inf))

        if k is not None:
            pool = torch.cat(found_scores, dim=1)
            if pool.size(1) >= k:
                # A beam as good as the k-th item stays, so that ties too come out as without the stop.
                kth = pool.topk(k, dim=1).values[:, -1:]
                live &= scores >= kth
        width = int(live.sum(1).max()) if len(live) else 0
        if width == 0:
            leaves, scores = torch.cat(found_leaves, dim=1), torch.cat(found_scores, dim=1)
            items, scores = _members(leaves, scores, trie) if trie.shares_leaves else (trie.item[leaves], scores)
            return ranked(items, scores, k)
        # Move the live beams to the front; the rest become beams of a leaf, which has no candidates.
        scores, place = scores.masked_fill(~live, -torch.inf).topk(width, dim=1)
        nodes = nodes.gather(1, place).masked_fill(scores == -torch.inf, trie.n_nodes - 1)
        tokens, parents = tokens.gather(1, place), parents.gather(1, place)


def check_logits(logits, nodes, n_tokens, exact):
    """Refuse logits that are not ``[B, W, n_tokens]``, or unless ``exact`` more, for ``nodes`` ``[B, W]``."""
    fits = logits.ndim == 3 and logits.shape[:2] == nodes.shape
    if not fits or logits.size(2) < n_tokens or (exact and logits.size(2) > n_tokens):
        expected = (*nodes.shape, n_tokens)
        raise ValueError(f"step returned logits of shape {tuple(logits.shape)}, expected {expected}")


def check_renormalize(value):
    """Refuse what is no way to normalise."""
    if value not in ("first", "all", "none"):
        raise ValueError(f"renormalize={value!r} is not usable: it must be first, all or none")


def log_normaliser(logits, beginnings=None, first=0):
    """What to subtract from logits ``[B, W, V]`` to get log-probabilities, fp32 ``[B, W]``.

    Args:
        beginnings: a trie, to count only the tokens that begin one of its codes (the first position of a code).
        first: token of the first logit.
    """
    if beginnings is not None:
        logits = logits[..., beginnings.token[1 : int(beginnings.child_offsets[1]) + 1] - first]
    return logits.float().logsumexp(-1)


def position_normaliser(logits, position, trie, first, renormalize):
    """:func:`log_normaliser` as ``renormalize`` wants it at ``position``.

    None where it depends on the tree's nodes: then it is the :func:`segment_logsumexp` over the children of each.
    """
    if renormalize == "all" and position > 0:
        return None
    return log_normaliser(logits, trie if renormalize != "none" and position == 0 else None, first)


def finite(log_total):
    """``log_total`` with the lowest number for −inf: tokens that a model excludes must stay at −inf, not become NaN."""
    return log_total.clamp(min=torch.finfo(log_total.dtype).min)


def segment_logsumexp(values, segment, n_segments):
    """Log of the sum of exponentials of each segment.

    Args:
        values: float ``[n, …]``.
        segment: int64 ``[n]``, each in ``0..n_segments - 1``.

    Returns:
        ``[n_segments, …]``; −inf for a segment that is empty or holds only −inf.
    """
    index = segment.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
    # The lowest finite number instead of −inf, for −inf − −inf is no number.
    largest = values.new_full((n_segments, *values.shape[1:]), torch.finfo(values.dtype).min)
    largest = largest.scatter_reduce(0, index, values, "amax")
    total = torch.zeros_like(largest).index_add_(0, segment, (values - largest[segment]).exp())
    return largest + total.log()


def _best_children(logits, first, log_total, nodes, scores, trie, beam_width):
    """The best candidates of each user, ``(tokens, parents, nodes, scores)``, each ``[B, <= beam_width]``."""
    n_users, width = nodes.shape
    tokens, children, slot = trie.children(nodes.flatten())
    if isinstance(logits, torch.Tensor):
        log_prob = logits.flatten(0, 1)[slot, tokens - first].float()
    else:
        log_prob = logits.of_beams(tokens, slot, width)
    log_total = segment_logsumexp(log_prob, slot, nodes.numel()) if log_total is None else log_total.flatten()
    log_prob = log_prob - finite(log_total)[slot]
    user = slot // width
    counts = torch.bincount(user, minlength=n_users)
    column = torch.arange(slot.numel(), device=slot.device) - (counts.cumsum(0) - counts)[user]
    widest = int(counts.max()) if n_users else 0
    candidates = scores.new_full((n_users, widest), -torch.inf)
    candidates[user, column] = scores.flatten()[slot] + log_prob
    scores, column = candidates.topk(min(beam_width, widest), dim=1)
    # A user's candidates lie one after another; behind its last one any edge will do, the score is −inf.
    edge = ((counts.cumsum(0) - counts).unsqueeze(1) + column).clamp(max=max(slot.numel() - 1, 0))
    return tokens[edge], slot[edge] % width, children[edge], scores


def _members(leaves, scores, trie):
    """All items of the leaves ``[B, n]`` (0 for none) with their leaf's score, ``[B, most items of a user]``."""
    items, slot = trie.items_of(leaves.flatten())
    user = slot // leaves.size(1)
    counts = torch.bincount(user, minlength=len(leaves))
    column = torch.arange(slot.numel(), device=slot.device) - (counts.cumsum(0) - counts)[user]
    all_items = leaves.new_zeros(len(leaves), int(counts.max()) if len(leaves) else 0)
    all_scores = scores.new_full(all_items.shape, -torch.inf)
    all_items[user, column], all_scores[user, column] = items, scores.flatten()[slot]
    return all_items, all_scores


def ranked(items: Tensor, scores: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Order ``[B, n]`` by score, then by item id; cut or fill up to ``k`` columns, by default to the fullest row."""
    if k is None:
        k = int((items > 0).sum(1).max()) if len(items) else 0
    missing = max(k - items.size(1), 0)
    items, by_item = items.sort(dim=1)
    scores, by_score = scores.gather(1, by_item).sort(dim=1, descending=True, stable=True)
    items = items.gather(1, by_score)
    items = torch.nn.functional.pad(items, (0, missing))
    scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return items[:, :k], scores[:, :k]
