"""Ids files: which item a running number means, for files that number items instead of naming them.

Two forms are read: text with one item id per line, the first line being number 0, and the ``item2id`` of LC-Rec
(arXiv 2311.09049) and LETTER (2405.07314), lines ``item id<TAB>number``. A line of RecBole's padding item is allowed.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from recbole_vsid.semantic_id.array_files import shortened
from recbole_vsid.storage import atomic_path

NUMBER = re.compile("0|[1-9][0-9]*")


def read_ids(path: str | Path, setting: str = "sid_file_ids") -> dict[str, str]:
    """The items of running numbers, dict number (as text) → item id.

    Args:
        path: the file; a byte order mark is no part of its first id.
        setting: the setting that names the file, for messages.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: a line is empty or not of the form of the first, or an id or a number occurs twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise type(error)(f"{setting}={str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{setting}: {path} is not a text file in UTF-8 ({error}); save it as one, with one item id per line"
        ) from error
    if lines[-1] == "":
        lines.pop()
    numbered = bool(lines) and "\t" in lines[0]
    token_of = {}
    for i, line in enumerate(lines):
        token, *number = line.split("\t") if numbered else (line, str(i))
        if not token or "\t" in token or len(number) != 1 or not NUMBER.fullmatch(number[0]):
            form = "item id<TAB>number" if numbered else "one item id"
            raise ValueError(f"{setting}: {path}, line {i + 1}: expected {form}, not {shortened(repr(line))}")
        if number[0] in token_of:
            raise ValueError(f"{setting}: {path}, line {i + 1}: number {number[0]} occurs more than once")
        token_of[number[0]] = token
    if len(set(token_of.values())) < len(token_of):
        token, _ = Counter(token_of.values()).most_common(1)[0]
        raise ValueError(f"{setting}: {path}: item id {token!r} occurs more than once")
    return token_of


def in_order(value_of, ids):
    """The values of a dict number (as text) → value, from number 0 on.

    Raises:
        ValueError: the numbers, which come from the file ``ids``, have gaps.
    """
    missing = next((number for number in range(len(value_of)) if str(number) not in value_of), None)
    if missing is not None:
        raise ValueError(f"{ids}: rows have the numbers 0 to {len(value_of) - 1}, and {missing} is missing")
    return [value_of[str(number)] for number in range(len(value_of))]


def rows_of_numbers(table, ids):
    """Dict number (as text) → row of ``table``, from the file ``ids``, which is written if there is none.

    Raises:
        ValueError: the file does not name exactly the items of the table, or an item id cannot stand in a line.
    """
    tokens = table.item_tokens.tolist()
    if not Path(ids).exists():
        _write_ids(ids, tokens[1:])
    token_of = read_ids(ids)
    differing = set(token_of.values()) ^ set(tokens[1:])
    differing.discard(tokens[0])
    if differing:
        raise ValueError(
            f"{ids} must name exactly the items of the table, and {len(differing)} items stand in one of them only, "
            f"first {sorted(differing)[:5]}; name a file that does not exist to have it written"
        )
    row_of = {token: row for row, token in enumerate(tokens)}
    return {number: row_of[token] for number, token in token_of.items()}


def _write_ids(path, tokens):
    unusable = next((token for token in tokens if not token or set(token) & set("\t\r\n")), None)
    if unusable is not None:
        raise ValueError(f"item id {unusable!r} cannot stand in a line of an ids file")
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
