"""Columns of other programs' tables as RecBole reads them: ids, times, and what describes an item.

RecBole reads atomic files with pandas, where texts like ``NA`` are missing values. An id or a time that would be
lost or changed there is an error here; in a column that describes items such a text counts as empty.
"""

from __future__ import annotations

import ast
import json
import re

import numpy as np
import pandas as pd

# What pandas.read_csv takes for missing, and RecBole's own token for it.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null", "[PAD]"]
)  # fmt: skip

TYPES = ("token", "token_seq", "float")
# Whole numbers shared by so many items on average are categories, as in `fields`.
FEWEST_ITEMS = 5
# Texts are lists if so many of them hold a separator of lists.
LIST_SHARE = 0.05
# Times since 1970 of the years 1973 to 2128; other numbers have no unit.
EARLIEST, LATEST = 1e8, 5e9
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


# ------------------------------------------------------------------------ ids


def encode_ids(values, where):
    """Number the ids of a column in the order of their first appearance.

    Blanks around ids are removed, and the ``.0`` if all ids have it: they were numbers once.

    Args:
        values: a Series of texts, whole numbers, or floats without a fraction.
        where: the table and the column, for messages.

    Returns:
        int64 codes ``[n]``, the texts they stand for (object ``[n_ids]``), and sentences on what was changed.

    Raises:
        ValueError: ids that are missing or that RecBole would not read back.
    """
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
    bad = (bad.isin(MISSING) | bad.str.contains(r"[\x00-\x1f\x7f]")).to_numpy(dtype=bool)
    rows = np.flatnonzero(np.append(bad, True)[codes])
    if len(rows):
        value = repr(texts[codes[rows[0]]]) if codes[rows[0]] >= 0 else "missing"
        raise ValueError(
            f"{where}: {len(rows):,} of {len(codes):,} ids are not usable, that of row {rows[0] + 1} first ({value}); "
            "an id must not be empty, hold a tab or line break, or be a word for a missing value (NA, null, None, "
            "nan): remove these rows, or rename the id in all tables"
        )
    return codes, texts, notes


# ---------------------------------------------------------------------- times


def read_times(values, where):
    """Times as seconds.

    Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970, guessed by the size of their median;
    numbers of other sizes, like positions in a sequence, stay as they are. Dates without a time zone are in UTC.

    Args:
        values: a Series of numbers, ISO dates or datetimes.
        where: the table and the column, for messages.

    Returns:
        ``(seconds, exact, unit)``: int64 or float64 ``[n]``, down to microseconds; the same times as precisely as they
        were given, to sort by; and their unit, ``"ISO dates"``, or None for numbers that stay as they are.

    Raises:
        ValueError: missing or unreadable times, or some in another unit.
    """
    if pd.api.types.is_bool_dtype(values):
        raise ValueError(f"{where} holds true and false, and times are numbers or ISO dates")
    numeric = pd.api.types.is_numeric_dtype(values)
    known = values if numeric else values[values.notna() & (values != "")]
    if numeric or (len(known) and _is_number(known.iloc[0])):
        exact, unit = pd.to_numeric(values, errors="coerce"), None
        bad = ~np.isfinite(exact.to_numpy(dtype=np.float64, na_value=np.nan))
    else:
        stamps = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
        exact, unit = stamps.dt.as_unit("ns").astype(np.int64), "ISO dates"
        bad = stamps.isna().to_numpy()
        if values.dtype == object:  # words that pandas takes for a time
            bad |= values.isin(["now", "today"]).to_numpy()
    _refuse(bad, values, where, "cannot be read", "times are numbers, or ISO dates like 2024-05-31T12:00:00Z")
    whole = pd.api.types.is_integer_dtype(exact) and exact.max() < 2**63
    exact = exact.to_numpy(dtype=np.int64 if whole else np.float64)
    if unit is not None:
        return _seconds(exact, "nanoseconds"), exact, unit
    middle = np.median(exact) if len(exact) else 0
    unit = next((name for name, factor in UNITS.items() if EARLIEST <= middle / factor < LATEST), None)
    if unit is None:
        return exact, exact, None
    outside = (exact < EARLIEST * UNITS[unit]) | (exact >= LATEST * UNITS[unit])
    allowed = f"most times are {unit} since 1970, and those of 1973 to 2128 are expected"
    _refuse(outside, values, where, f"are no {unit} since 1970", allowed)
    return _seconds(exact, unit), exact, unit


def _is_number(value):
    try:
        return np.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _seconds(exact, unit):
    """Whole seconds stay whole numbers. float64 tells microseconds of our time apart, nanoseconds not."""
    factor = UNITS[unit]
    if exact.dtype.kind not in "iu":
        return exact / factor
    if not (exact % factor).any():
        return exact // factor
    return exact // 10**3 / 10**6 if unit == "nanoseconds" else exact / factor


def _refuse(bad, values, where, problem, allowed):
    rows = np.flatnonzero(bad)
    if len(rows):
        value = values.iloc[rows[0]]
        value = "missing" if pd.isna(value) or value == "" else repr(str(value))
        raise ValueError(
            f"{where}: {len(rows):,} of {len(values):,} times {problem}, that of row {rows[0] + 1} first ({value}); "
            f"{allowed}"
        )


# --------------------------------------------------------------- item columns


def describe_items(values, kind, where):
    """One column of the item table as the texts of an atomic file.

    * Lists, also nested ones, lists written as text (``['A', 'B']``) and texts cut by ``|`` or `` > `` become
      ``token_seq``: names separated by blanks, the words of a name joined by ``_``, no name twice.
    * Numbers become ``float``; whole numbers that at least 5 items share on average become ``token``.
    * All other texts become ``token``, one value each.

    Args:
        values: a Series.
        kind: ``token``, ``token_seq``, ``float``, or None to decide by content as above. A text that is no list becomes
            the ``token_seq`` of its words.
        where: the table and the column, for messages.

    Returns:
        ``(kind, texts)``; the texts are a Series of object, empty where a value is missing.

    Raises:
        ValueError: the values cannot be of that kind, or are mappings or vectors.
    """
    values = values.astype(object)
    values = values.where(values.notna(), None)
    if values.map(lambda value: isinstance(value, dict)).any():
        raise ValueError(f"{where} holds mappings; leave it out of item_columns, or give it columns of its own")
    lists = _lists(values) if kind in (None, "token_seq") else None
    if lists is not None:
        return "token_seq", _joined_names(lists, where).reindex(values.index, fill_value="")
    texts = values.map(str, na_action="ignore").fillna("").astype(object)
    # Every blank is one space, so that tabs and line breaks do not end up in the file.
    texts = texts.str.replace(r"[\s\x00-\x1f\x7f]+", " ", regex=True).str.strip()
    texts[texts.isin(MISSING)] = ""
    if kind == "token_seq":
        return kind, texts
    filled = texts[texts != ""]
    numbers = pd.to_numeric(filled, errors="coerce")
    bad = ~np.isfinite(numbers)
    if kind == "float" and bad.any():
        row = bad.idxmax()
        raise ValueError(f"{where} cannot be float: row {row + 1} holds {filled[row]!r}; choose token for this column")
    leading_zero = filled.str.fullmatch(r"0\d+").any()
    if bad.any() or not len(filled) or (kind != "float" and leading_zero):
        return kind or "token", texts
    whole = (numbers % 1 == 0).all()
    if kind is None:
        kind = "token" if whole and numbers.nunique() * FEWEST_ITEMS <= len(numbers) else "float"
    if kind == "token" and whole and values.map(lambda value: isinstance(value, float) and abs(value) >= 2**53).any():
        raise ValueError(f"{where} holds whole numbers from 2^53 that were read as floats; give them as text")
    if kind == "token" and whole and filled.str.fullmatch(r"\d+\.0").all():
        texts = texts.str.replace(".0", "", regex=False)  # whole numbers that became floats beside missing ones
    return kind, texts


def _is_list(value):
    return isinstance(value, (list, tuple, set, np.ndarray))


def _lists(values):
    """The values as lists if they are lists or texts that stand for them; else None."""
    known = values.dropna()
    if known.map(_is_list).any():
        return known.map(lambda value: list(value) if _is_list(value) else [value])
    texts = known.map(str).astype(object).str.strip()
    texts = texts[~texts.isin(MISSING)]
    if not len(texts):
        return None
    if texts.str.fullmatch(r"\[.*\]", flags=re.DOTALL).all():
        # NumPy prints arrays without commas, which Python would read as one long text.
        unreadable = texts.str.contains(r"""['"]\s+['"]""").any()
        parsed = texts.map(_parsed_list) if not unreadable else texts
        return parsed if parsed.map(_is_list).all() else None
    for mark in ("|", " > "):
        holding = texts.str.contains(mark, regex=False)
        if holding.mean() >= LIST_SHARE and not texts.str.contains(" | ", regex=False).any():
            return texts.str.split(mark, regex=False)
    return None


def _parsed_list(text):
    for read in (ast.literal_eval, json.loads):  # Python's None and JSON's null
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    return None


def _joined_names(lists, where):
    names = lists.explode()
    while names.map(_is_list).any():
        names = names.explode()
    names = names.dropna()
    if names.map(lambda name: isinstance(name, dict)).any():
        raise ValueError(f"{where} holds mappings; leave it out of item_columns, or give it columns of its own")
    if len(names) and names.map(lambda name: isinstance(name, float)).all():
        raise ValueError(f"{where} holds vectors; leave it out of item_columns and give them as content_file")
    names = names.map(str).astype(object).str.replace(r"[\s\x00-\x1f\x7f]+", " ", regex=True).str.strip()
    names = names[~names.isin(MISSING)].str.replace(" ", "_", regex=False)
    names = names.rename_axis("row").reset_index(name="name").drop_duplicates()
    return names.groupby("row")["name"].agg(" ".join)
