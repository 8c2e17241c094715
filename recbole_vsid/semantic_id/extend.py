"""New items in an existing table: rows are appended, and no existing row changes.

Old items keep their codes and the new ones only add branches to the tree, so a trained recommender can return them
as it is (TIGER, arXiv 2305.05065, on cold items). A new item whose content code is taken is treated by the policy of
:mod:`~recbole_vsid.semantic_id.collisions` with which the table was made, as far as the table itself shows it:

``suffix``              the smallest disambiguation token that is free in the item's group.
``nearest, sinkhorn``   the nearest free codeword of the last level (``unique`` without a suffix).
``none``                the code is shared (not ``unique``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recbole_vsid.semantic_id.collisions import move_to_free_codes
from recbole_vsid.semantic_id.table import PAD


def extend_table(table, codes, lengths, item_tokens, vocab_sizes=None, distances=None, grow=False):
    """Append items to a table.

    Args:
        table: :class:`~recbole_vsid.semantic_id.table.SemanticIDs`.
        codes: int ``[m, T]``, *content* codes of the new items as ``Tokenizer.assign`` gives them, −1 behind each
            item's length.
        lengths: int ``[m]``, 1..T.
        item_tokens: external ids of the new items, ``[m]``.
        vocab_sizes: content vocabulary of the tokenizer, T entries; needed for a table with suffixes, whose own
            sizes include them.
        distances: ``distances(rows, codes, level)`` → ``[len(rows), V_level]``, see ``Tokenizer.code_distances``;
            row 0 is the first new item. Needed for a table of unique codes without suffix.
        grow: whether vocabularies and the longest code may grow to hold new disambiguation tokens. A recommender
            then needs more embeddings. With a shared vocabulary, or codes of one length, the new tokens of
            ``flat_codes`` stand behind all others; otherwise those of later positions move.

    Returns:
        SemanticIDs: the rows of ``table``, then the new items in their order. With suffixes the result is the same
        whether items come in one call or one after another; codes that move go where they are nearest together.

    Raises:
        ValueError: an item is there already, codes are no content codes of the table's tokenizer, or there is no
            room for an item.
    """
    codes, lengths = np.asarray(codes, dtype=np.int32), np.asarray(lengths)
    item_tokens = np.asarray(item_tokens, dtype=str)
    if codes.ndim != 2 or lengths.shape != (len(codes),) or item_tokens.shape != (len(codes),):
        raise ValueError(
            f"new items need codes [m, T], m lengths and m ids, not {codes.shape}, {lengths.shape}, {item_tokens.shape}"
        )
    if len(codes) == 0:
        return table
    _refuse_known(item_tokens, table)
    if vocab_sizes is None:
        if table.suffix:
            raise ValueError("extending a table with suffixes needs vocab_sizes, the tokenizer's content vocabulary")
        vocab_sizes = table.vocab_sizes
    vocab_sizes = np.asarray(vocab_sizes)
    positions = max(codes.shape[1], table.max_length - bool(table.suffix))
    if len(vocab_sizes) < positions:
        raise ValueError(f"{positions} positions of content need as many vocab_sizes, not {vocab_sizes.tolist()}")
    _require_content_codes(codes, lengths, vocab_sizes, item_tokens)
    if table.suffix:
        return _with_suffixes(table, codes, lengths, item_tokens, vocab_sizes, grow)
    return _of_one_length(table, codes, lengths, item_tokens, vocab_sizes, distances)


def _refuse_known(item_tokens, table):
    known = np.isin(item_tokens, table.item_tokens)
    repeated = np.ones(len(item_tokens), dtype=bool)
    repeated[np.unique(item_tokens, return_index=True)[1]] = False
    for bad, where in ((known, "is in the table already"), (repeated, "occurs more than once among the new items")):
        if bad.any():
            raise ValueError(f"item {str(item_tokens[bad.argmax()])!r} {where}")


def _require_content_codes(codes, lengths, vocab_sizes, item_tokens):
    inside = np.arange(codes.shape[1]) < lengths[:, None]
    valid = np.where(inside, (codes >= 0) & (codes < vocab_sizes[: codes.shape[1]]), codes == PAD).all(1)
    valid &= (lengths >= 1) & (lengths <= codes.shape[1])
    if not valid.all():
        row = int(valid.argmin())
        raise ValueError(
            f"new item {str(item_tokens[row])!r}: {codes[row].tolist()} of length {lengths[row]} is no content code "
            f"below vocab_sizes {vocab_sizes.tolist()}, −1 behind its length"
        )


def _appended(table, codes, lengths, item_tokens, **changes):
    """``table`` with more rows; both parts are padded to the longer codes."""
    width = max(table.max_length, codes.shape[1])
    added = table.provenance.get("added_items", 0) + len(codes)
    return replace(
        table,
        codes=np.concatenate([_padded(table.codes, width), _padded(codes, width)]),
        lengths=np.concatenate([table.lengths, lengths]),
        item_tokens=np.concatenate([table.item_tokens, item_tokens]),
        provenance={**table.provenance, "added_items": added},
        **changes,
    )


def _padded(codes, width):
    return np.pad(codes, ((0, 0), (0, width - codes.shape[1])), constant_values=PAD)


# -------------------------------------------------------------------- suffix


def _with_suffixes(table, codes, lengths, item_tokens, vocab_sizes, grow):
    # Where codes differ in length a position may hold content and suffixes: those lie behind the content, see
    # append_suffix. The last position of the table has suffixes only.
    longest = table.max_length - 1
    _require_positions(table, lengths, item_tokens, grow)
    width = max(longest, int(lengths.max()))
    base = np.full(width + 1, vocab_sizes.max()) if table.shared_vocabulary else np.r_[vocab_sizes[:longest], 0]
    content, used = _content_and_suffixes(table, base)
    new = _padded(codes[:, :width], width + 1)
    group = np.unique(np.concatenate([content, new]), axis=0, return_inverse=True)[1].reshape(-1)
    suffixes = smallest_free(group[len(content) :], group[: len(content)], used)

    room = np.zeros_like(base)
    room[: longest + 1] = table.vocab_sizes - base[: longest + 1]
    needed = np.zeros_like(base)
    np.maximum.at(needed, lengths, suffixes + 1)
    if table.shared_vocabulary:
        room[:], needed[:] = room[0], needed.max()
    outside = suffixes >= room[lengths]
    if outside.any() and not grow:
        row = int(outside.argmax())
        size = int((group == group[len(content) + row]).sum())
        raise ValueError(
            f"new item {str(item_tokens[row])!r} does not fit: {size} items, old and new, have its content code "
            f"{codes[row, : lengths[row]].tolist()}, and codes of that length have {room[lengths[row]]} disambiguation "
            "tokens; use grow=True, or fit with a sid_suffix_size that leaves room"
        )
    new[np.arange(len(new)), lengths] = base[lengths] + suffixes
    sizes = base + np.maximum(room, needed)
    return _appended(table, new, lengths + 1, item_tokens, vocab_sizes=sizes)


def _require_positions(table, lengths, item_tokens, grow):
    longest, row = table.max_length - 1, int(lengths.argmax())
    if lengths[row] <= longest or (grow and table.shared_vocabulary):
        return
    # With a vocabulary per position, that one's first ids are suffixes, and content of the same ids would clash.
    advice = "use grow=True" if table.shared_vocabulary else "fit the tokenizer anew with the new items"
    raise ValueError(
        f"new item {str(item_tokens[row])!r} has a content code of {lengths[row]} tokens, and the table has room for "
        f"{longest}; {advice}"
    )


def _content_and_suffixes(table, base):
    """Content codes ``[n, len(base)]`` of the items 1.., −1 padded, and their disambiguation tokens from 0 on."""
    codes, lengths = table.codes[1:], table.lengths[1:] - 1
    content = np.where(np.arange(len(base)) < lengths[:, None], _padded(codes, len(base)), PAD)
    suffixes = codes[np.arange(len(codes)), lengths] - base[lengths]
    if (content >= base).any() or (suffixes < 0).any() or (base[: table.max_length] > table.vocab_sizes).any():
        raise ValueError(
            f"vocab_sizes {base[: table.max_length - 1].tolist()} are not those of the tokenizer that made the table; "
            f"with disambiguation tokens its sizes are {list(table.vocab_sizes)}"
        )
    return content, suffixes


def smallest_free(group, used_group, used):
    """The smallest numbers from 0 on that are free in each newcomer's group, in the newcomers' order.

    Args:
        group: int ``[m]``, the group of each newcomer.
        used_group, used: int ``[n]``, the numbers taken, no number twice in a group.

    Returns:
        int64 ``[m]``.
    """
    order = np.lexsort((used, used_group))
    used_group, used = used_group[order], used[order]
    free_below = used - (np.arange(len(used)) - np.searchsorted(used_group, used_group))
    order = np.argsort(group, kind="stable")
    place = np.empty(len(group), dtype=np.int64)
    place[order] = np.arange(len(group)) - np.searchsorted(group[order], group[order])
    # Before the free number at place j stand j free ones and all used ones with at most j free ones below them.
    stride = max(free_below.max(initial=0), place.max(initial=0)) + 1
    used_before = np.searchsorted(used_group * stride + free_below, group * stride + place, side="right")
    return place + used_before - np.searchsorted(used_group, group)


# ------------------------------------------------------------- codes without suffix


def _of_one_length(table, codes, lengths, item_tokens, vocab_sizes, distances):
    length = table.max_length
    other = np.r_[table.lengths[1:], lengths] != length
    if other.any():
        token = np.r_[table.item_tokens[1:], item_tokens][other.argmax()]
        raise ValueError(
            f"a table without disambiguation tokens is extended by codes of one length, here {length}, and item "
            f"{str(token)!r} has another; use sid_collisions=suffix"
        )
    if tuple(vocab_sizes[:length]) != table.vocab_sizes:
        raise ValueError(f"vocab_sizes {vocab_sizes.tolist()} are not those of the table, {table.vocab_sizes}")
    codes = codes[:, :length]
    if table.unique:
        if distances is None:
            raise ValueError("extending a table of unique codes without disambiguation tokens needs distances")
        # Old items are the most popular of their groups, so they never move; of new ones the earlier stays.
        n, m = table.n_items - 1, len(codes)
        codes = move_to_free_codes(
            np.concatenate([table.codes[1:], codes]),
            vocab_sizes,
            lambda rows, prefixes, level: distances(rows - 1 - n, prefixes, level),
            np.r_[np.full(n, m + 1), np.arange(m, 0, -1)],
        )[n:]
    return _appended(table, codes, lengths, item_tokens)
