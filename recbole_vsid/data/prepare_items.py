"""The item side of ``prepare``: which columns are taken, which rows, and what the ``.item`` file holds."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from recbole_vsid.commands.prepare.texts import why_no_content
from recbole_vsid.data.raw_columns import describe_items, encode_ids
from recbole_vsid.data.raw_tables import USUAL_NAMES, find_column

EVENT_FIELDS = ("user_id", "item_id", "timestamp")
# RecBole's sequences have fields of these names.
RESERVED = (*EVENT_FIELDS, "item_id_list", "timestamp_list", "item_length")
# RecBole keeps the texts of a token column in one array as wide as the longest, four bytes per character, and the words
# of a token_seq column in a matrix as wide as the longest list, eight bytes per word.
LARGE_COLUMN = 2**28
# A column with its type and the mark between its names, which may be a comma.
SEPARATED = r"[^,]+:token_seq\(.*?\)(?=\s*,|\s*$)|[^,]+"


def find_items_id(table, item_column, given):
    """The id column of the item table: the user's choice, that with the name of ``item_column``, or a usual name."""
    if given is None and item_column in table.columns:
        return item_column
    return find_column(table, "item", given, "items_id", f"id {USUAL_NAMES['item']}")


def choose_columns(table, items_id, given):
    """Read ``item_columns``.

    Args:
        given: a list or a text like ``"title,brand:token,categories:token_seq(;)"``; None takes all columns.

    Returns:
        dict: column → its type, or None to decide by content; and the separator of its names, or None.

    Raises:
        ValueError: there is no such column or type.
    """
    if given is None:
        return {name: (None, None) for name in table.columns if name != items_id}
    if not isinstance(given, str) and not (isinstance(given, list) and all(isinstance(name, str) for name in given)):
        raise ValueError(f"item_columns={given!r} is not usable: it must be names of columns, like 'title,brand:token'")
    names = re.findall(SEPARATED, given) if isinstance(given, str) else given
    chosen = {}
    for name in map(str.strip, names):
        column, kind, separator = name, None, None
        if name not in table.columns:
            parts = re.fullmatch(r"(.*):(token|token_seq|float)(?:(?<=token_seq)\((.+)\))?", name, re.DOTALL)
            column, kind, separator = parts.groups() if parts else (None, None, None)
        if column not in table.columns or column == items_id:
            raise ValueError(
                f"item_columns: {name!r} is not usable; it must be one of the columns "
                f"{[each for each in table.columns if each != items_id]} of {table.name}, perhaps with :token, "
                ":token_seq or :float, or :token_seq(;) for names separated by ;"
            )
        chosen[column] = (kind, separator)
    return chosen


def item_file(table, items_id, chosen, named, wanted):
    """The content of the ``.item`` file.

    Args:
        chosen: what :func:`choose_columns` returned.
        named: whether the user named the columns; then one that cannot be used is an error, else it is left out.
        wanted: ids of the items with events, object ``[n_items]``.

    Returns:
        header → texts ``[n_items]``, the rows in the order of the table, then the items it lacks; and the facts for
        the summary.

    Raises:
        ValueError: unusable ids or columns, no column, or no item of ``wanted`` in the table.
    """
    raw = table.read([items_id, *chosen])
    codes, tokens, notes = encode_ids(raw.pop(items_id), f"{table.name}, column {items_id!r}", row_is="item")
    notes += table.notes
    first = ~pd.Series(codes).duplicated().to_numpy()
    if not first.all():
        notes.append(f"{table.name}: {(~first).sum():,} rows repeat an item; the first of each counts")
    with_events = pd.Index(tokens).isin(wanted)  # np.isin compares every object with every other
    without_row = wanted[~pd.Index(wanted).isin(tokens)]
    if not with_events.any():
        raise ValueError(
            f"none of the {len(wanted):,} items with events, like {wanted[0]!r}, is in column {items_id!r} of "
            f"{table.name}, which has items like {tokens[:1].tolist()}; set item or items_id"
        )
    rows = np.flatnonzero(first & with_events[codes])
    n_items = len(rows) + len(without_row)
    columns = {"item_id:token": np.concatenate([tokens[codes[rows]], without_row])}
    described, left_out, has_text = {}, {}, np.zeros(n_items, dtype=bool)
    for name, (kind, separator) in chosen.items():
        values = raw[name].iloc[rows]
        try:
            kind, texts, told = describe_items(values, kind, f"{table.name}, column {name!r}", separator)
        except ValueError as error:
            if named:
                raise
            notes.append(f"left out: {error}")
            continue
        reason = None if named else why_no_content(values, kind, texts)
        if reason is not None:
            left_out[name] = reason
            notes.append(
                f"{table.name}, column {name!r}: left out, as it holds {reason}; name it in item_columns to take it"
            )
            continue
        notes += told
        texts = np.concatenate([texts.to_numpy(dtype=object), np.full(len(without_row), "", dtype=object)])
        if not (texts != "").any():
            notes.append(f"{table.name}, column {name!r}: left out, as it is empty for all items with events")
            continue
        field = _field_name(name)
        if field in described:
            raise ValueError(f"{table.name}: two columns would be named {field!r}; choose one with item_columns")
        columns[f"{field}:{kind}"] = texts
        described[field] = _description(kind, texts)
        has_text |= (texts != "") & (kind != "float")
        notes += _size(name, kind, texts, described[field]["distinct"])
    if not described:
        reasons = "".join(f", {name!r} holds {reason}" for name, reason in left_out.items())
        raise ValueError(f"{table.name} describes no item: its columns are {table.columns}{reasons}; set item_columns")
    if len(without_row):
        notes.append(
            f"{len(without_row):,} items with events have no row in {table.name}, {without_row[0]!r} first; they get "
            "one without content"
        )
    facts = {
        "item_columns": described,
        "items_without_row": len(without_row),
        "items_without_text": int((~has_text).sum()),
        "items_left_out": int((~with_events).sum()),
        "notes": notes,
    }
    return columns, facts


def _size(name, kind, texts, n_distinct):
    """A note on columns that RecBole can hardly keep in memory."""
    if kind == "token":
        size, advice = 4 * n_distinct * max(map(len, texts)), f"take {name}:token_seq"
    elif kind == "token_seq":
        longest = max(text.count(" ") + 1 for text in texts)
        size, advice = 8 * len(texts) * longest, f"shorten its longest list, of {longest:,} words"
    else:
        return []
    if size <= LARGE_COLUMN:
        return []
    return [f"column {name!r} will need {size / 2**30:.1f} GB in RecBole; leave it out or {advice}"]


def _field_name(name):
    """RecBole splits headers at ``:`` and has one name space for files; ``text_template`` reads dots and numbers."""
    field = "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in name.strip())
    return f"item_{field}" if field in RESERVED or field.isdigit() else field


def _description(kind, texts):
    filled = pd.Series(texts[texts != ""])
    values = filled.str.split().explode() if kind == "token_seq" else filled
    return {"type": kind, "filled": len(filled) / len(texts), "distinct": int(values.nunique()), "example": filled[0]}
