"""Plain searches over dictionaries for one user, whatever the normalisation."""

from __future__ import annotations

import numpy as np

INF = float("inf")


def code_of_item(table, items=None):
    """Item → its flat code as a tuple; items may share one."""
    flat = table.flat_codes()
    items = range(1, table.n_items) if items is None else items
    return {int(item): tuple(flat[item, : table.lengths[item]].tolist()) for item in items}


def children_of(codes, prefix):
    """The next tokens of all codes that begin with ``prefix``."""
    return {code[len(prefix)] for code in codes.values() if code[: len(prefix)] == prefix != code}


def child_log_probs(codes, prefix, logits, renormalize):
    """Log-probability of each token behind ``prefix`` that leads to an item.

    Args:
        codes: item → code.
        logits: token → logit of all tokens of the position.
        renormalize: as in ``constrained_beam_search``.
    """
    children = children_of(codes, prefix)
    among = children if renormalize == "all" or (renormalize == "first" and not prefix) else logits
    total = np.logaddexp.reduce([float(logits[token]) for token in among])
    return {token: float(logits[token]) - total for token in children}


def recursive_scores(codes, n_items, logits_after, renormalize):
    """Log-probability of every item ``[n_items]``, from the root of the tree to its leaves.

    Args:
        logits_after: prefix → token → logit.
    """
    scores = np.full(n_items, -INF)

    def descend(prefix, score):
        for item, code in codes.items():
            if code == prefix:
                scores[item] = score
        if children_of(codes, prefix):
            log_probs = child_log_probs(codes, prefix, logits_after(prefix), renormalize)
            for token, log_prob in log_probs.items():
                descend((*prefix, token), score + log_prob)

    descend((), 0.0)
    return scores


def recursive_beam(codes, logits_after, renormalize, beam_width):
    """``[(item, score)]``, best first, of a beam search; no two items share a code."""
    item_of = {code: item for item, code in codes.items()}
    beams, finished = [((), 0.0)], []
    while beams:
        candidates = []
        for prefix, score in beams:
            log_probs = child_log_probs(codes, prefix, logits_after(prefix), renormalize)
            candidates += [((*prefix, token), score + log_prob) for token, log_prob in log_probs.items()]
        kept = sorted(candidates, key=lambda candidate: -candidate[1])[:beam_width]
        finished += [(item_of[prefix], score) for prefix, score in kept if prefix in item_of]
        beams = [(prefix, score) for prefix, score in kept if prefix not in item_of]
    return sorted(finished, key=lambda found: (-found[1], found[0]))
