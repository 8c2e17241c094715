"""Histories of items → streams of semantic-ID tokens, all rows at once."""

from __future__ import annotations

import torch


def token_stream(codes, items, costs, lead, fill):
    """The ``lead`` tokens of each row and behind them the codes of its items, one after another.

    Args:
        codes: int64 ``[n_items, max_length]`` flat codes.
        items: int64 ``[B, n]``.
        costs: int64 ``[B, n]``: the length of each item's code, 0 for an item to leave out.
        lead: int64 ``[B, p]``.
        fill: what stands behind the end of a row.

    Returns:
        tokens int64 ``[B, S]``, S the longest row and at least 1, and the rows' lengths int64 ``[B]``.
    """
    start = costs.cumsum(1) - costs + lead.size(1)
    lengths = costs.sum(1) + lead.size(1)
    tokens = items.new_full((len(items), max(1, int(lengths.max()))), fill)
    tokens[:, : lead.size(1)] = lead
    within = torch.arange(codes.size(1), device=items.device)
    row, item, token = (within < costs.unsqueeze(2)).nonzero(as_tuple=True)
    tokens[row, start[row, item] + token] = codes[items[row, item], token]
    return tokens, lengths
