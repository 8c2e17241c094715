"""Tables of JSON objects, or of Python dicts as ``print`` writes them: one per line or several, or in an array."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from recbole_vsid.commands.prepare.files import open_text

CHUNK_ROWS = 200_000
BLOCK_LINES = 1000
# Half of a character beyond U+FFFF. JSON joins two halves, Python does not, and one alone cannot be written.
HALF = re.compile(r"\\u[dD][89a-fA-F]")
BETWEEN = re.compile(r"[\s,]*")


class JsonFile:
    """A file of objects, read when it is opened, as any line may bring a new column.

    Whole numbers keep all their digits, lists and mappings stay what they are, and what an object lacks is None. Python
    dicts are read with ``ast.literal_eval``, which runs nothing.

    Attributes:
        path: the file.
        columns: their names in the order of their first appearance.
        notes: nothing; as other tables have.

    Raises:
        ValueError: something in it is no object; the line is named.
    """

    def __init__(self, path: Path, encoding: str | None = None):
        self.path, self.notes = path, []
        with open_text(path, encoding) as text:
            objects = self._objects(text)
            chunks = [pd.DataFrame([first, *islice(objects, CHUNK_ROWS - 1)], dtype=object) for first in objects]
        if not chunks:
            raise ValueError(f"{path} has no rows")
        frame = pd.concat(chunks, ignore_index=True)
        if len(frame) == 1 and frame.iloc[0].map(lambda value: isinstance(value, (dict, list))).all():
            raise ValueError(
                f'{path} holds one object of lists or mappings; write one per row, like {{"user": …, "item": …}}'
            )
        self._frame = frame.where(frame.notna(), None)
        self.columns = [name for name in frame.columns if isinstance(name, str)]

    def read(self, columns: list[str], inferred: Sequence[str] = ()) -> pd.DataFrame:
        """The columns ``columns``; those of numbers or of truth values alone get such a dtype."""
        lacking = pd.Series([None] * len(self._frame), dtype=object)
        return pd.DataFrame({name: _typed(self._frame.get(name, lacking)) for name in columns})

    def _objects(self, text: TextIO) -> Iterator[dict]:
        begin = []
        for line in text:
            begin.append(line)
            if line.strip():
                break
        first = begin[-1].strip() if begin else ""
        if first.startswith("{") and _is_whole(first):
            values = self._of_lines(chain(begin, text))
        else:
            values = self._over_lines("".join(begin) + text.read())
        for line, value in values:
            if not isinstance(value, dict):
                raise ValueError(f"{self.path}, line {line}: {str(value)[:40]!r} is no object with names, like {{…}}")
            yield value

    def _of_lines(self, lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
        numbered = ((number, line.strip()) for number, line in enumerate(lines, 1))
        numbered = ((number, line) for number, line in numbered if line)
        for first in numbered:
            block = [first, *islice(numbered, BLOCK_LINES - 1)]
            values = _parsed_at_once([line for _, line in block])
            if values is not None:
                yield from zip((number for number, _ in block), values)
                continue
            for place, (number, line) in enumerate(block, 1):
                try:
                    yield number, _parsed(line)
                except (ValueError, RecursionError) as error:
                    last = not isinstance(error, _Repeated) and place == len(block) and next(numbered, None) is None
                    raise self._unreadable(number, error, "; it is the last: is the file cut off?" * last) from error

    def _over_lines(self, text: str) -> Iterator[tuple[int, Any]]:
        """Objects with or without commas between them, also within ``[`` and ``]``."""
        place, line, in_array = BETWEEN.match(text).end(), 1, False
        counted = 0
        while place < len(text):
            line, counted = line + text.count("\n", counted, place), place
            if text[place] == ("]" if in_array else "["):
                in_array, end = not in_array, place + 1
            else:
                try:
                    value, end = DECODER.raw_decode(text, place)
                except (ValueError, RecursionError) as error:
                    if isinstance(error, _Repeated) or text[:place].strip(" \t\r\n["):
                        raise self._unreadable(getattr(error, "lineno", line), error) from error
                    try:  # the first object is not JSON: perhaps all of it is one literal of Python
                        literal = _literal(text)
                    except ValueError:
                        raise self._unreadable(getattr(error, "lineno", line), error) from error
                    yield from ((line, value) for value in (literal if isinstance(literal, list) else [literal]))
                    return
                yield line, _joined(value) if HALF.search(text, place, end) else value
            place = BETWEEN.match(text, end).end()
        if in_array:
            raise ValueError(f"{self.path} ends before its array does: is the file cut off?")

    def _unreadable(self, line: int, error: Exception, hint: str = "") -> ValueError:
        reason = f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)
        return ValueError(f"{self.path}, line {line} is not readable as a JSON object or a Python dict: {reason}{hint}")


class _Repeated(ValueError):
    """A key that stands twice would lose a value in silence."""


def _once(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if repr(found[key]) != repr(value):
                raise _Repeated(f"the key {key!r} stands twice, with different values")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _is_whole(line: str) -> bool:
    try:
        return isinstance(_parsed(line), dict)
    except _Repeated:
        return True
    except (ValueError, RecursionError):
        return False


def _parsed_at_once(lines: list[str]) -> list[Any] | None:
    """The values of lines of JSON, several times as fast as one by one; None if they must be read one by one."""
    text = f"[{','.join(lines)}]"
    try:
        values = DECODER.decode(text) if not HALF.search(text) else []
    except (ValueError, RecursionError):
        return None
    return values if len(values) == len(lines) else None


def _parsed(line: str) -> Any:
    """The value of a line of JSON or, if it is none, of Python."""
    try:
        value = DECODER.decode(line)
    except (json.JSONDecodeError, RecursionError) as error:
        try:
            return _literal(line)
        except _Repeated:
            raise
        except ValueError:
            if getattr(error, "pos", 0) > 1:  # else it begins like a dict of Python
                raise error from None
            raise
    return _joined(value) if HALF.search(line) else value


def _literal(text: str) -> Any:
    """The value of a literal of Python.

    Raises:
        ValueError: it is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on backslashes within texts
            tree = ast.parse(text.strip(), mode="eval")
            _check_keys(tree)
            return _joined(ast.literal_eval(tree))
    except _Repeated:
        raise
    except SyntaxError as error:
        raise ValueError(f"{error.msg} (column {error.offset})") from error
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("it holds something else than texts, numbers, lists and dicts") from error


def _check_keys(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            repeated = [key for key in keys if keys.count(key) > 1]
            if repeated:
                raise _Repeated(f"the key {repeated[0]!r} stands twice")


def _joined(value: Any) -> Any:
    """Halves of characters in texts joined; one alone becomes U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_joined(key): _joined(each) for key, each in value.items()}
    return [_joined(each) for each in value] if isinstance(value, list) else value


def _typed(values: pd.Series) -> pd.Series:
    known = values.dropna()
    kind = pd.api.types.infer_dtype(known, skipna=False)
    if kind in ("integer", "boolean") and len(known) == len(values):
        return values.infer_objects()
    return values.astype(float) if kind == "floating" else values
