"""Whose targets a model finds: metrics by popularity of the target, and their error over users.

Items are put in order of popularity (users who had consumed them before the split) and cut where they make up a third
and two thirds of all consumption: few *head* items, more *mid* items, many *tail* items.
"""

from __future__ import annotations

import numpy as np

from recbole_vsid.evaluation.collector import PROTOCOL_NAMES

GROUPS = ("head", "mid", "tail")


def popularity_groups(consumed):
    """0 (head), 1 (mid) or 2 (tail) per item, int64 ``[n_items]``.

    Args:
        consumed: boolean CSR ``[n_users, n_items]``, who had consumed what.
    """
    counts = np.asarray(consumed.sum(axis=0)).ravel()
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    groups = np.empty(len(counts), dtype=np.int64)
    groups[order] = np.minimum(before * len(GROUPS) // max(counts.sum(), 1), len(GROUPS) - 1)
    return groups


def user_metrics(struct, cutoff):
    """Recall and NDCG at ``cutoff`` of every user, float64 ``[n_users]`` each; None unless all have exactly one target.

    Args:
        struct: what RecBole's evaluator reads, with ``rec.topk`` ``[n_users, max(topk) + 1]``: hits, then their number.
    """
    if "rec.topk" not in struct:
        return None
    hits = struct.get("rec.topk").numpy()
    if (hits[:, -1] != 1).any():
        return None
    hits = hits[:, :cutoff].astype(np.float64)
    discounts = 1 / np.log2(np.arange(2, cutoff + 2))
    return {f"recall@{cutoff}": hits.sum(axis=1), f"ndcg@{cutoff}": hits @ discounts}


def breakdown(collector, topk):
    """The last evaluation by popularity of the target, under both protocols, as plain values.

    Args:
        collector: :class:`~recbole_vsid.evaluation.collector.ProtocolCollector` after an evaluation.
        topk: the cut-offs; 10 is taken if it is among them, else the largest.

    Returns:
        dict: ``cutoff``; ``groups``: name → number of items and targets; and per protocol ``standard_error`` (metric →
        standard error over users) and the groups (metric → mean, None without targets). Empty if users have several
        targets or no metric reads a ranking.
    """
    cutoff = 10 if 10 in topk else max(topk)
    groups = popularity_groups(collector.consumed)
    targets = groups[collector.targets]
    counts = np.bincount(groups[1:], minlength=len(GROUPS))
    result = {
        "cutoff": cutoff,
        "groups": {
            name: {"items": int(counts[group]), "targets": int((targets == group).sum())}
            for group, name in enumerate(GROUPS)
        },
    }
    for protocol in PROTOCOL_NAMES:
        metrics = user_metrics(collector.structs[protocol], cutoff)
        if metrics is None:
            return {}
        result[protocol] = {
            "standard_error": {
                name: round(float(values.std(ddof=1) / np.sqrt(len(values))), 6) if len(values) > 1 else None
                for name, values in metrics.items()
            },
            **{
                group: {
                    name: round(float(values[targets == index].mean()), 6) if (targets == index).any() else None
                    for name, values in metrics.items()
                }
                for index, group in enumerate(GROUPS)
            },
        }
    return result
