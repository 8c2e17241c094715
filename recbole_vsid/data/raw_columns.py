"""Columns of other programs' tables as RecBole reads them: ids, and what describes an item.

RecBole reads atomic files with pandas, where texts like ``NA`` are missing values. An id that would be lost or changed
there is an error here; in a column that describes items such a text counts as empty.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from recbole_vsid.commands.prepare.lists import (
    BRACKETED,
    few,
    find_lists,
    is_list,
    joined_names,
    note_on,
    without_mappings,
    written_list,
)
from recbole_vsid.commands.prepare.numbers import to_numbers
from recbole_vsid.commands.prepare.read_back import LONGEST_VALUE
from recbole_vsid.commands.prepare.texts import MISSING, cleaned, cut, read_html

# Whole numbers shared by so many items on average are categories, as in `fields`.
FEWEST_ITEMS = 5


# ------------------------------------------------------------------------ ids


def encode_ids(values, where, row_is="event"):
    """Number the ids of a column in the order of their first appearance.

    Blanks around ids are removed, and the ``.0`` if all ids have it: they were numbers once.

    Args:
        values: a Series of texts, whole numbers, or floats without a fraction; its index numbers the rows from 0.
        where: the table and the column, for messages.
        row_is: what a row of the table must be, for messages.

    Returns:
        int64 codes ``[n]``, the texts they stand for (object ``[n_ids]``), and sentences on what was changed.

    Raises:
        ValueError: ids that are missing or that RecBole would not read back, or lists and mappings of ids.
    """
    _refuse_several(values, where, row_is)
    codes, found = pd.factorize(values)
    found, notes = pd.Series(np.asarray(found)), []
    is_float = found.map(lambda value: isinstance(value, (float, np.floating))).to_numpy(dtype=bool)
    if is_float.any():
        numbers, exact = found[is_float].astype(np.float64), 24 if found.dtype == np.float32 else 53
        if not (numbers % 1 == 0).all() or (numbers.abs() >= 2**exact).any():
            raise ValueError(
                f"{where} holds numbers with a fraction or from 2^{exact}, which are no ids; read them as text"
            )
        found = found.astype(object)
        found[is_float] = numbers.astype(np.int64).astype(object)
    texts = found.astype(object).map(str).astype(object)
    if len(texts) and texts.map(lambda text: BRACKETED.fullmatch(text) is not None).all():
        read = [written_list(text) for text in texts]
        if all(is_list(value) or isinstance(value, dict) for value in read):
            raise _several(read[0], values.index[0], where, row_is)
    stripped = texts.str.strip()
    if (stripped != texts).any():
        notes.append(f"{where}: blanks around {(stripped != texts).sum():,} ids removed")
    if len(texts) and stripped.str.fullmatch(r"\d+\.0").all():
        stripped = stripped.str[:-2]
        notes.append(f"{where}: all ids end in .0, which is removed")
    merged, texts = pd.factorize(stripped)
    codes = np.append(merged, -1)[codes]
    texts = np.asarray(texts, dtype=object)
    bad = pd.Series(texts, dtype=object)
    bad = bad.isin(MISSING) | bad.str.contains("[\\x00-\\x1f\\x7f\\ud800-\\udfff]") | (bad.str.len() > LONGEST_VALUE)
    rows = np.flatnonzero(np.append(bad.to_numpy(dtype=bool), True)[codes])
    if len(rows):
        value = repr(texts[codes[rows[0]]][:80]) if codes[rows[0]] >= 0 else "missing"
        raise ValueError(
            f"{where}: {len(rows):,} of {len(codes):,} ids are not usable, that of row {values.index[rows[0]] + 1} "
            f"first ({value}); an id must not be empty, hold a tab or line break, have more than {LONGEST_VALUE:,} "
            "characters, or be a word for a missing value (NA, null, None, nan): remove these rows, or rename the id "
            "in all tables"
        )
    return codes, texts, notes


def _refuse_several(values, where, row_is):
    """Lists, mappings and bytes cannot be numbered, or not as what was meant."""
    if values.dtype != object or pd.api.types.infer_dtype(values, skipna=True) == "string":
        return
    several = values.map(lambda value: is_list(value) or isinstance(value, (dict, bytes))).to_numpy(dtype=bool)
    if several.any():
        row = int(np.flatnonzero(several)[0])
        raise _several(values.iloc[row], values.index[row], where, row_is)


def _several(value, row, where, row_is):
    kind = "a mapping" if isinstance(value, dict) else "bytes" if isinstance(value, bytes) else "a list"
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return ValueError(
        f"{where}: row {row + 1} holds {kind} ({str(value)[:80]}) where an id is expected; each row must be one "
        f"{row_is} with one id: write a row for each element of a list, and the value alone of a mapping"
    )


# --------------------------------------------------------------- item columns


def describe_items(values, kind, where, separator=None):
    """One column of the item table as the texts of an atomic file.

    * Lists, also nested ones, lists written as text (``['A', 'B']``) and texts cut by ``|``, `` > `` or another mark
      whose parts come back in other texts become ``token_seq``: names separated by blanks, the words of a name joined
      by ``_``, no name twice.
    * Numbers become ``float``; whole numbers that at least 5 items share on average become ``token``.
    * All other texts become ``token``, one value each.

    A few values of another kind (one of five or more, or 5 %) change nothing; a note names them.

    Args:
        values: a Series; its index numbers the rows from 0.
        kind: ``token``, ``token_seq``, ``float``, or None to decide by content as above. A text that is no list becomes
            the ``token_seq`` of its words.
        where: the table and the column, for messages.
        separator: what stands between the names of a text, for ``token_seq``.

    Returns:
        ``(kind, texts, notes)``; the texts are a Series of object, empty where a value is missing.

    Raises:
        ValueError: the values cannot be of that kind, or are mappings, bytes or vectors.
    """
    values = values.astype(object)
    values = values.where(values.notna(), None)
    if values.map(lambda value: isinstance(value, bytes)).any():
        raise ValueError(f"{where} holds bytes that are no text, like images; leave it out of item_columns")
    known, notes = without_mappings(values.dropna(), int(values.notna().sum()), where)
    values = known.reindex(values.index).astype(object)
    values = values.where(values.notna(), None)
    if kind in (None, "token_seq"):
        lists, told = find_lists(values, where, separator)
        if lists is not None:
            texts, more = joined_names(lists, where)
            texts, cuts = cut(texts.reindex(values.index, fill_value="").astype(object), True, where)
            return "token_seq", texts, notes + told + more + cuts
    values, told = _single(values, where)
    notes += told
    texts = cleaned(values.map(str, na_action="ignore").fillna("").astype(object))
    if kind != "token_seq":
        found = _numbers(values, texts, kind, where)
        if found is not None:
            return (*found[:2], notes + found[2])
    texts, told = read_html(texts, where)
    texts, cuts = cut(cleaned(texts), kind == "token_seq", where)
    return kind or "token", texts, notes + told + cuts


def _single(values, where):
    """Lists among other values as one text each."""
    listed = values.map(is_list).astype(bool)
    if not listed.any():
        return values, []
    joined = values[listed].map(lambda value: ", ".join(map(str, value)))
    return values.where(~listed, joined), [note_on(values[listed], where, "lists; each is taken as one text")]


def _numbers(values, texts, kind, where):
    """What :func:`describe_items` returns for numbers; None for texts."""
    filled = texts[texts != ""]
    numbers = to_numbers(filled)
    bad = ~np.isfinite(numbers)
    if kind == "float" and bad.any():
        row = bad.idxmax()
        raise ValueError(
            f"{where} cannot be float: row {row + 1} holds {filled[row][:80]!r}; choose token for this column"
        )
    leading_zero = filled.str.fullmatch(r"0\d+").any()
    allowed = few(len(filled)) if kind is None else 0
    if bad.sum() > allowed or bad.all() or (kind != "float" and leading_zero):
        return None
    numbers = numbers[~bad]
    whole = (numbers % 1 == 0).all()
    if kind is None:
        kind = "token" if whole and numbers.nunique() * FEWEST_ITEMS <= len(numbers) else "float"
    if kind == "token" and bad.any():  # a category, like the others
        return None
    if kind == "token" and whole and values.map(lambda value: isinstance(value, float) and abs(value) >= 2**53).any():
        raise ValueError(f"{where} holds whole numbers from 2^53 that were read as floats; give them as text")
    if kind == "token" and whole and filled.str.fullmatch(r"\d+\.0").all():
        texts = texts.str.replace(".0", "", regex=False)  # whole numbers that became floats beside missing ones
    if not bad.any():
        return kind, texts, []
    notes = [note_on(filled[bad], where, "no numbers; they are left empty, or choose the type token")]
    return kind, texts.where(~texts.index.isin(filled.index[bad]), ""), notes
