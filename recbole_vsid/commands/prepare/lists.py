"""Columns with several values per item: lists, lists written as text, names between marks.

One value never decides what a column is: most values do, and the others are told in a note.
"""

from __future__ import annotations

import ast
import csv
import json
import re

import numpy as np
import pandas as pd

from recbole_vsid.commands.prepare.texts import BLANKS, MISSING, read_html

# Texts are lists if so many of them hold a mark that separates names.
LIST_SHARE = 0.05
# Marks that also stand in titles separate names only where the names come back: this share of them.
REPEATED_SHARE = 0.5
LONGEST_NAME = 4  # words, on average
QUOTED = r"""(?:'[^']*'|"[^"]*")"""
NUMPY_LIST = re.compile(rf"\[\s*{QUOTED}(?:\s+{QUOTED})+\s*\]")
BRACKETED = re.compile(r"\[.*\]|\(.*\)|\{.*\}", re.DOTALL)


def is_list(value: object) -> bool:
    return isinstance(value, (list, tuple, set, frozenset, np.ndarray))


def find_lists(values: pd.Series, where: str, separator: str | None = None) -> tuple[pd.Series | None, list[str]]:
    """The values as lists if that is what they are.

    Args:
        values: a Series of object, None where a value is missing; its index numbers the rows from 0.
        where: the table and the column, for messages.
        separator: the mark between the names of a text; by default the usual ones are looked for.

    Returns:
        a Series of lists for the rows that have one, or None if the column holds single values; and notes.

    Raises:
        ValueError: a separator for values that are lists already.
    """
    known = values.dropna()
    listed = known.map(is_list).astype(bool)
    if separator is not None:
        if listed.any():
            raise ValueError(f"{where} holds lists already; leave out the separator {separator!r}")
        return _cut_at(known.map(str).astype(object), separator, where)
    if listed.any():
        return _real_lists(known, listed, where)
    texts = known.map(str).astype(object).str.strip()
    texts = texts[~texts.isin(MISSING)]
    if not len(texts):
        return None, []
    lists, notes = _written_lists(texts, where)
    return (lists, notes) if lists is not None else _between_marks(texts, where)


def joined_names(lists: pd.Series, where: str) -> tuple[pd.Series, list[str]]:
    """Lists of names as the texts of a ``token_seq`` column: words of a name joined by ``_``, no name twice.

    Raises:
        ValueError: mappings or vectors.
    """
    names = lists.explode()
    while names.map(is_list).any():
        names = names.explode()
    names = names.dropna()
    names, told = without_mappings(names, len(lists), where)
    if len(names) and names.map(lambda name: isinstance(name, float)).all():
        raise ValueError(f"{where} holds vectors; leave it out of item_columns and give them as content_file")
    names, notes = read_html(names.map(str).astype(object), where)
    names = names.str.replace(BLANKS, " ", regex=True).str.strip()
    names = names[~names.isin(MISSING)].str.replace(" ", "_", regex=False)
    names = names.rename_axis("row").reset_index(name="name").drop_duplicates()
    return names.groupby("row")["name"].agg(" ".join), told + notes


def without_mappings(values: pd.Series, n_rows: int, where: str) -> tuple[pd.Series, list[str]]:
    """The values without a few mappings, and a note that names them.

    Raises:
        ValueError: mappings are more than a few of the ``n_rows`` rows.
    """
    mapping = values.map(lambda value: isinstance(value, dict)).astype(bool)
    if not mapping.any():
        return values, []
    if mapping.index[mapping].nunique() > few(n_rows):
        raise ValueError(f"{where} holds mappings; leave it out of item_columns, or give it columns of its own")
    return values[~mapping], [note_on(values[mapping], where, "mappings; they are left empty")]


def few(n_values: int) -> int:
    """So many values that are not like the others do not decide what a column is: 5 %, or one of five or more."""
    return max(int(n_values >= 5), int(LIST_SHARE * n_values))


def _real_lists(known, listed, where):
    if listed.sum() <= few(len(known)):
        return None, []
    lists, single = known.map(_in_order), known[~listed]
    return lists, [note_on(single, where, "no lists; each is taken as one name")] if len(single) else []


def _in_order(value):
    """The order of a set is another in every process."""
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return list(value) if is_list(value) else [value]


def _written_lists(texts, where):
    """Texts like ``['A', 'B']``, ``("A", "B")``, ``{A,B}`` or ``[A, B]``."""
    bracketed = texts.map(lambda text: BRACKETED.fullmatch(text) is not None).astype(bool)
    if not bracketed.any():
        return None, []
    parsed = texts.where(bracketed, None).map(written_list, na_action="ignore")
    good = parsed.map(is_list).astype(bool)
    if not good.mean() > 0.5:
        parsed = texts.where(bracketed, None).map(_unquoted, na_action="ignore")
        good = parsed.map(is_list).astype(bool)
        # A title may stand between brackets, but few lists have one name only.
        several = parsed[good].map(len) > 1
        if not good.mean() > 0.5 or several.mean() < LIST_SHARE:
            return None, []
    else:
        parsed = parsed.where(good | ~bracketed, texts.map(_unquoted))
        good = parsed.map(is_list).astype(bool)
    bad = texts[~good]
    # Half a list is no name; a word among lists is one.
    broken = bad.str.contains(r"""^[\[({'"]|[\])}'"]$""", regex=True).astype(bool)
    lists, notes = parsed.copy(), []
    lists[~good] = [[text] for text in bad]
    for kind, fate in ((bad[broken], "left empty"), (bad[~broken], "taken as one name each")):
        if len(kind):
            notes.append(note_on(kind, where, f"no lists that can be read; they are {fate}"))
    return lists.drop(bad.index[broken]), notes


def written_list(text):
    if NUMPY_LIST.fullmatch(text):  # without commas, which Python would read as one long text
        return [quoted[1:-1] for quoted in re.findall(QUOTED, text)]
    if re.search(r"""['"]\s+['"]""", text):
        return None
    for read in (ast.literal_eval, json.loads):  # Python's None and JSON's null
        try:
            found = read(text)
            return read("[" + text[1:-1] + "]") if isinstance(found, set) else found  # in the order of the text
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            pass
    return None


def _unquoted(text):
    """``[Action, Drama]``, and PostgreSQL's ``{Action,"Sci Fi"}``."""
    inner = text[1:-1].strip()
    if text[0] == "(" or re.search(r"[\[\](){}]|^'|:\s", inner):
        return None
    try:
        return [name.strip() for name in next(csv.reader([inner], skipinitialspace=True), [])]
    except csv.Error:
        return None


def _between_marks(texts, where):
    shown, notes = read_html(texts, where)  # a path may be written Home &gt; Kitchen
    for mark in ("|", " > "):
        holding = shown.str.contains(mark, regex=False)
        if holding.mean() >= LIST_SHARE and not shown.str.contains(" | ", regex=False).any():
            return shown.str.split(mark, regex=False), notes
    for mark in (" | ", ";", ",", "/"):
        lists = _split(shown, mark)
        if shown.str.contains(mark, regex=False).mean() >= LIST_SHARE and _names_repeat(lists, mark):
            told = f"{where}: taken as lists of {lists.explode().nunique():,} names separated by {mark.strip()!r}"
            return lists, [*notes, f"{told}; choose the type token to keep the texts whole"]
    return None, []


def _cut_at(texts, separator, where):
    shown, notes = read_html(texts, where)
    if not shown.str.contains(separator, regex=False).any():
        notes.append(f"{where}: no value holds the separator {separator!r}, so each is one name")
    return _split(shown, separator), notes


def _split(texts, mark):
    lists = texts.str.split(mark if mark.isspace() else mark.strip(), regex=False)
    return lists.map(lambda names: [name.strip() for name in names if name.strip()])


def _names_repeat(lists, mark):
    """Whether the parts of texts are names that also stand in other texts, not the clauses of titles."""
    names = lists.explode().dropna()
    if (
        not len(names)
        or names.str.count(" ").mean() + 1 > LONGEST_NAME
        or names.str.fullmatch(r"[\d.,:\s]*").mean() > 0.5
    ):
        return False
    if mark in (" | ", ";"):  # hardly met in titles: the same text again is enough
        counts = names.map(names.value_counts())
        return (counts > 1).mean() >= REPEATED_SHARE
    if names.str.contains("http|www", regex=True).any() or lists.map(len).eq(0).any():
        return False
    different = lists[~lists.map(tuple).duplicated()]
    names = different.explode()
    counts = names.map(names.value_counts())
    if (counts > 1).mean() < REPEATED_SHARE:
        return False
    if mark == "/":
        return True
    # "Chicago, IL" and "Pan, red" have their parts in fixed places; names of a list change theirs.
    first = different.map(lambda parts: parts[0])
    later = different.map(lambda parts: parts[1:]).explode().dropna()
    shared = set(names[counts > 1])
    return len(shared & set(first) & set(later)) >= REPEATED_SHARE / 2 * len(shared)


def note_on(values: pd.Series, where: str, problem: str) -> str:
    """How many values are odd, the first of them, and what became of them."""
    first = f"that of row {values.index[0] + 1} first ({str(values.iloc[0])[:80]!r})"
    return f"{where}: {len(values):,} values, {first}, are {problem}"
