"""The order of a ranking, one rule wherever scores become a list: best first, of equal scores the smaller id first.

Ids are RecBole's, in the order in which items first appear in the data. ``torch.topk`` alone takes any of the items
that are as good as the k-th, so that a metric would depend on the device and the number of columns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def best_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best columns of each row.

    Args:
        scores: ``[B, n]``; −inf marks what is no candidate.
        k: how many, at most ``n`` are given.

    Returns:
        items int64 and their scores ``[B, min(k, n)]``. Which items stand behind the last finite score means nothing.
    """
    k = min(k, scores.size(1))
    values, items = scores.topk(k, dim=1)
    kth = values[:, -1:]
    crowded = ((scores >= kth).sum(1) > k) & (kth[:, 0] > -torch.inf)
    if crowded.any():
        # The k-th score stands several times, and topk took any of these items: take the first ones.
        rows, kth = scores[crowded], kth[crowded]
        better, equal = rows > kth, rows == kth
        taken = better | (equal & (equal.cumsum(1) <= k - better.sum(1, keepdim=True)))
        items[crowded] = taken.nonzero()[:, 1].view(-1, k)
    items = items.sort(dim=1).values
    values, order = scores.gather(1, items).sort(dim=1, descending=True, stable=True)
    return items.gather(1, order), values
