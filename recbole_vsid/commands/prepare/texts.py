"""Texts that describe items: HTML read, blanks made one, the rest cut at what RecBole can read; and what is no text."""

from __future__ import annotations

import html
import re

import numpy as np
import pandas as pd

from recbole_vsid.commands.prepare.read_back import LONGEST_VALUE

# What pandas.read_csv takes for missing, and RecBole's own token for it.
MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null", "[PAD]"]
)  # fmt: skip

# Every blank is one space, so that tabs and line breaks do not end up in the file; half a character has no UTF-8.
BLANKS = r"[\s\x00-\x1f\x7f\ud800-\udfff]+"
ENTITY = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});"
INLINE = "a|abbr|b|big|code|em|font|i|label|mark|s|small|span|strike|strong|sub|sup|tt|u"
BLOCK = (
    "article|blockquote|body|br|center|dd|div|dl|dt|figure|footer|form|h[1-6]|head|header|hr|html|iframe|img|input|li|"
    "link|main|meta|nav|ol|option|p|pre|script|section|select|style|svg|table|tbody|td|tfoot|th|thead|title|tr|ul|video"
)
INVISIBLE = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
# Also a tag that was cut off with the text.
TAG = re.compile(
    rf"</?(?:(?P<inline>{INLINE})|{BLOCK})(?:\s[^<>]*|/)?>"
    r"|<(?:span|div|img|a|p|font|table|td)\s+(?:id|class|href|src|style|width)\b[^<>]*$",
    re.IGNORECASE,
)
DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[ T]\d{1,2}:\d{2}.*)?|\d{1,2}[/.]\d{1,2}[/.]\d{4}(?: \d{1,2}:\d{2}.*)?"
LINK = r"(?:https?|ftp|data|s3)://?\S+|data:\S+|www\.\S+|\S+\.(?:jpe?g|png|gif|webp|bmp|svg|tiff?|mp4)(?:\?\S*)?"
FLAGS = frozenset(["true", "false", "yes", "no", "y", "n", "t", "f"])
SERIAL_LENGTH, FEWEST_SERIALS, MOST = 8, 5, 0.95
FEWEST_EQUAL = 10  # fewer items may have one category by chance


def read_html(texts: pd.Series, where: str) -> tuple[pd.Series, list[str]]:
    """The texts a browser would show: entities become characters, tags go.

    Args:
        texts: a Series of texts.
        where: the table and the column, for messages.

    Returns:
        the same Series if nothing is HTML, else a new one; and a note with how many were.
    """
    held = texts.str.contains(ENTITY, regex=True) | texts.str.contains("<", regex=False)
    if not held.any():
        return texts, []
    shown = texts.copy()
    shown[held.to_numpy(dtype=bool)] = [_shown(text) for text in texts[held]]
    n_changed = int((shown != texts).sum())
    if not n_changed:
        return texts, []
    return shown, [f"{where}: HTML entities and tags of {n_changed:,} values are read as the text they stand for"]


def _shown(text):
    for _ in range(3):  # &amp;amp; is met as often as &amp;
        before = text
        text = TAG.sub(lambda match: "" if match.group("inline") else " ", INVISIBLE.sub(" ", text))
        # Without its semicolon an entity may be part of an address: ?a=1&copy=2
        text = re.sub(ENTITY, lambda match: html.unescape(match.group()), text)
        if text == before:
            break
    return text


def is_missing(values: pd.Series) -> np.ndarray:
    """Which values are missing or an empty text, bool ``[n]``, whatever the others are."""
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
        return values.isna().to_numpy(dtype=bool)
    # A comparison with an array would be one with each of its elements.
    return (values.isna() | values.map(lambda value: isinstance(value, str) and not value).astype(bool)).to_numpy(bool)


def cleaned(texts: pd.Series) -> pd.Series:
    """Every blank one space, none around the text, and words for a missing value empty."""
    texts = texts.str.replace(BLANKS, " ", regex=True).str.strip()
    return texts.where(~texts.isin(MISSING), "")


def cut(texts: pd.Series, names: bool, where: str) -> tuple[pd.Series, list[str]]:
    """Cut texts to what RecBole can read back, with a note; a list of names loses whole names."""
    too_long = texts.str.len() > LONGEST_VALUE
    if not too_long.any():
        return texts, []
    pieces = texts[too_long].str.slice(0, LONGEST_VALUE + 1 if names else LONGEST_VALUE)
    pieces = pieces.str.replace(r"\s*\S*$", "", regex=True).str.slice(0, LONGEST_VALUE) if names else pieces.str.strip()
    return texts.where(~too_long, pieces), [
        f"{where}: {too_long.sum():,} values are longer than {LONGEST_VALUE:,} characters, which RecBole cannot read, "
        f"that of row {too_long.idxmax() + 1} first; they are cut there"
    ]


def why_no_content(values: pd.Series, kind: str, texts: pd.Series) -> str | None:
    """What a column is that says nothing about what an item is like, or None.

    Args:
        values: the column as it was read.
        kind: ``token``, ``token_seq`` or ``float``.
        texts: its texts for the atomic file, empty where a value is missing.
    """
    filled = texts[texts != ""]
    if pd.api.types.is_datetime64_any_dtype(values):
        return "dates"
    if len(filled) < 2:
        return None
    if filled.str.lower().isin(FLAGS).all():
        return "flags"
    if len(texts) >= FEWEST_EQUAL and len(filled) == len(texts) and filled.nunique() == 1:
        return "the same for all items"
    words = filled.str.split().explode() if kind == "token_seq" else filled
    if words.str.fullmatch(LINK).mean() >= MOST:
        return "links or names of files"
    if kind == "token_seq":
        return None
    if filled.str.fullmatch(DATE).mean() >= MOST:
        return "dates"
    serial = filled.str.fullmatch(rf"(?=.*\d)[\w\-]{{{SERIAL_LENGTH},}}(?:\.0)?")
    one_length = not filled.str.fullmatch(r"\d+(?:\.0)?").all() or filled.str.len().nunique() == 1
    if len(filled) >= FEWEST_SERIALS and filled.is_unique and serial.all() and one_length:
        return "another number of each item"
    return None
