"""How good a table of semantic IDs is: lengths, collisions, use of the vocabulary, reconstruction.

The quantities of arXiv 2602.16375 (tokenizer metrics of its code), for any tokenizer: "events" weighs
an item by its training events, "items" counts every item once.
"""

from __future__ import annotations

import math

import numpy as np

from recbole_vsid.semantic_id.table import PAD

HEAD_SHARE, MID_SHARE = 0.05, 0.15


def diagnose(table, popularity, prefix_errors=None):
    """Measure a table.

    Args:
        table: :class:`~recbole_vsid.semantic_id.table.SemanticIDs`.
        popularity: int ``[n_items]``, training events of each row (row 0, the padding item, is ignored).
        prefix_errors: float ``[n_items - 1, T]``, squared error of the reconstruction of the items 1.. from
            each prefix of their *full-length* content code, as ``Tokenizer.prefix_errors`` gives it.

    Returns:
        A dict of plain JSON values. A mean over no items or no events is None. Popularity groups: ``head``
        is the 5 % most popular items (at least one), ``mid`` the next 15 %, ``tail`` the rest.

    Raises:
        ValueError: an array does not match the table.
    """
    n_items, suffix = table.n_items - 1, table.suffix
    if np.shape(popularity) != (table.n_items,):
        raise ValueError(f"popularity must have {table.n_items} entries, one per row, not {np.shape(popularity)}")
    events = np.asarray(popularity, dtype=np.float64)[1:]
    lengths = table.lengths[1:].astype(np.int64)
    content_lengths = lengths - bool(suffix)
    if content_lengths.min() < 1:
        row = int(content_lengths.argmin()) + 1
        raise ValueError(f"item {str(table.item_tokens[row])!r} has one token only, so it cannot end in a suffix")
    codes = table.codes[1:, : content_lengths.max()]
    codes = np.where(np.arange(codes.shape[1]) < content_lengths[:, None], codes, PAD)
    vocab_sizes = _content_vocab_sizes(table, lengths, codes.shape[1]) if suffix else list(table.vocab_sizes)

    result = {
        "n_items": n_items,
        "n_events": int(events.sum()),
        "vocab_sizes": vocab_sizes,
        "shared_vocabulary": bool(table.shared_vocabulary),
        "n_tokens": table.n_tokens,
        "length": {
            "content": _means(content_lengths, events),
            "with_suffix": _means(lengths, events) if suffix else None,
            "histogram": np.bincount(content_lengths, minlength=codes.shape[1] + 1)[1:].tolist(),
            "groups": _groups(content_lengths, events),
        },
        "collisions": _collisions(codes, events),
        "positions": [_position(codes[:, t], vocab_sizes[t]) for t in range(codes.shape[1])],
        "reconstruction": None,
    }
    if prefix_errors is not None:
        result["reconstruction"] = _reconstruction(np.asarray(prefix_errors), content_lengths, events)
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


def _collisions(codes, events):
    _, group, sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    shared = sizes[group.reshape(-1)] > 1
    return {
        "distinct_codes": len(sizes),
        "distinct_share": len(sizes) / len(codes),
        "shared": _means(shared, events),
        "largest_group": int(sizes.max()),
    }


def _position(column, vocab_size):
    tokens = column[column != PAD]
    counts = np.bincount(tokens, minlength=vocab_size)
    share = counts[counts > 0] / len(tokens)
    return {
        "items": len(tokens),
        "used": int((counts > 0).sum()),
        "usage": float((counts > 0).sum() / vocab_size),
        "perplexity": math.exp(-float((share * np.log(share)).sum())),
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


def print_diagnostics(diagnostics, console=None):
    """Print what :func:`diagnose` returned as a table, on ``console`` (a ``rich.console.Console``) or stdout."""
    from rich.console import Console
    from rich.table import Table

    view = Table(title="Semantic IDs", title_justify="left")
    view.add_column("")
    for column in ("by training events", "by items"):
        view.add_column(column, justify="right")

    def pair(label, values, form="{:.3f}"):
        view.add_row(label, *("–" if values[key] is None else form.format(values[key]) for key in ("events", "items")))

    length, collisions = diagnostics["length"], diagnostics["collisions"]
    pair("training events, items", {"events": diagnostics["n_events"], "items": diagnostics["n_items"]}, "{:,}")
    sizes = " ".join(str(size) for size in diagnostics["vocab_sizes"])
    view.add_row("content vocabulary", "", sizes + (" shared" if diagnostics["shared_vocabulary"] else ""))
    pair("mean content length", length["content"])
    if length["with_suffix"] is not None:
        pair("with disambiguation token", length["with_suffix"])
    for name, group in length["groups"].items():
        share = "–" if group["event_share"] is None else f"{group['event_share']:.1%} of events"
        mean = "–" if group["mean_length"] is None else f"{group['mean_length']:.3f}"
        view.add_row(f"length, {name} ({group['items']:,} items)", share, mean)
    head, tail = (length["groups"][name]["mean_length"] for name in ("head", "tail"))
    if tail is not None:
        view.add_row("head shorter than tail by", "", f"{tail - head:.3f}")
    view.add_row("items of length 1, 2, …", "", " ".join(str(count) for count in length["histogram"]))
    view.add_section()
    pair("content code not unique", collisions["shared"], "{:.1%}")
    distinct = f"{collisions['distinct_codes']:,} ({collisions['distinct_share']:.1%})"
    view.add_row("distinct content codes", "", distinct)
    view.add_row("largest collision group", "", f"{collisions['largest_group']:,}")
    view.add_section()
    for t, position in enumerate(diagnostics["positions"]):
        used = f"{position['usage']:.1%}, perplexity {position['perplexity']:.1f}"
        view.add_row(f"used at position {t + 1} ({position['items']:,} items)", "", used)
    if diagnostics["reconstruction"] is not None:
        view.add_section()
        for t, means in enumerate(diagnostics["reconstruction"]["prefixes"]):
            pair(f"squared error, {t + 1} tokens" if t else "squared error, 1 token", means, "{:.4f}")
        pair("squared error, chosen length", diagnostics["reconstruction"]["chosen_length"], "{:.4f}")
    (console or Console()).print(view)
