"""RecBole's atomic files, checked before RecBole reads them.

RecBole reads ``.inter``, ``.item``, ``.user`` and other atomic files with pandas' Python parser. That takes the rows
between two quotation marks for one value, fills rows that are too short, cuts those that are too long, and makes an
index of the first column if the first row is too long, all in silence. :class:`AtomicFile` parses a file the same way,
row by row, and refuses what would be lost or shifted, naming file, line, column and value.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NoReturn, TextIO

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_vsid.commands.prepare.numbers import LONG_EXPONENT
from recbole_vsid.data.raw_columns import MISSING

LINE_BREAK = re.compile("\r\n|\r|\n")
QUOTED = re.compile('"(?:[^"]|"")*"')
USUAL_SEPARATORS = ("\t", ",", ";", "|", "::", " ")
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LONGEST_SHOWN = 60
LARGEST_FLOAT = np.finfo(np.float32).max  # RecBole's tensors are float32


@contextmanager
def values_of_any_length() -> Iterator[None]:
    """Within the block Python's ``csv``, and so pandas' Python parser, reads values of more than 131,072 characters."""
    limit = csv.field_size_limit(2**31 - 1)  # a C long, which has 32 bits on Windows
    try:
        yield
    finally:
        csv.field_size_limit(limit)


class AtomicFile:
    """A text table whose header names columns with their types, like ``user_id:token``.

    Args:
        path: the file.
        separator: RecBole's ``field_separator``: one character, or several that also are a pattern of ``re``.
        encoding: RecBole's ``encoding``; UTF-8 if None.

    Attributes:
        encoding: what to open the file with: the given one, or ``utf-8-sig`` if there is a byte order mark.
        types: column name → :class:`~recbole.utils.FeatureType`, in the order of the file.

    Raises:
        ValueError: separator, encoding or header are not usable.
    """

    def __init__(self, path: str | Path, separator: str, encoding: str | None = None) -> None:
        if not isinstance(separator, str) or separator in ("", ":", '"', "\r", "\n"):
            raise ValueError(
                f"field_separator={separator!r} is not usable: it must be a character, no colon or quotation mark"
            )
        self.path, self.separator = Path(path), separator
        self.encoding = self._text_encoding(encoding)
        self.types = self._header()

    def check(self) -> None:
        """Refuse a file of which RecBole would read something else than its rows.

        Raises:
            ValueError: no rows, a row with more or fewer columns than the header, a value that holds other rows, an
                unclosed quotation mark, NUL bytes, bytes that are not of the encoding, or a float with an exponent of
                five digits or more (pandas reads beyond its memory there).
        """
        n_columns, row = len(self.types), None
        numbers = [i for i, type in enumerate(self.types.values()) if type == FeatureType.FLOAT]
        for first, last, row in self.rows():
            if last > first:
                self._refuse_swallowed_rows(first, last, row)
            if len(row) != n_columns:
                over = f", of which the one that begins in line {first} goes to line {last}" if last > first else ""
                raise ValueError(
                    f"{self._place(first, row)}: a row of {len(row)} columns, and the header has {n_columns}{over}; "
                    f"a text that holds field_separator={self.separator!r} or a line break must stand between "
                    "quotation marks, and a missing value is an empty one"
                )
            for i in numbers:
                if LONG_EXPONENT.search(row[i]):
                    self._refuse_value(first, row, i, row[i], "is no number of 64 bits")
        if row is None:
            raise ValueError(f"{self.path} has a header and no rows")

    def rows(self) -> Iterator[tuple[int, int, list[str]]]:
        """``(first line, last line, values)`` of each row; the header is line 1, and blank lines are no rows.

        Raises:
            ValueError: an unclosed quotation mark, NUL bytes, or bytes that are not of the encoding.
        """
        before = 1
        with values_of_any_length(), open(self.path, encoding=self.encoding, newline="") as file:
            try:
                for last, row in self._parsed(file):
                    if len(row) > 1 or (row and row[0].strip()):
                        yield before + 1, last, row
                    before = last
            except csv.Error as error:
                self._refuse_quotation(before + 1, error)
            except UnicodeError as error:
                self._refuse_encoding(error)

    def line_of(self, row: int) -> int:
        """The first line of data row ``row``, counted from 0 as pandas does."""
        return next(islice(self.rows(), row, None))[0]

    def refuse_number(self, columns: Collection[str], seq_separator: str) -> None:
        """Name the first value that is no number in the float columns among ``columns``.

        Args:
            columns: names of the columns that are read.
            seq_separator: RecBole's setting; it separates the numbers of a ``float_seq``.

        Raises:
            ValueError: there is such a value.
        """
        separators = {FeatureType.FLOAT: None, FeatureType.FLOAT_SEQ: seq_separator}
        numbers = [
            (i, separators[type])
            for i, (name, type) in enumerate(self.types.items())
            if name in columns and type in separators
        ]
        for first, _, row in self.rows():
            for i, separator in numbers:
                parts = row[i].split(separator) if separator and row[i] not in MISSING else [row[i]]
                wrong = next((part for part in parts if not _number(part)), None)
                if wrong is not None:
                    between = f" with seq_separator={separator!r} between" if separator else ""
                    self._refuse_value(first, row, i, wrong, f"is no number{between}")

    def refuse_infinite(self, feat: pd.DataFrame, columns: Collection[str]) -> None:
        """Refuse numbers that are infinite, or will be in float32.

        Args:
            feat: all rows of the file as RecBole read them.
            columns: names of its float columns to look at.

        Raises:
            ValueError: there is such a number.
        """
        for name in columns:
            lists = self.types[name] == FeatureType.FLOAT_SEQ
            values = np.concatenate(feat[name].to_list()) if lists else feat[name].to_numpy()
            bad = np.abs(values) > LARGEST_FLOAT
            if lists:
                bad |= np.isnan(values)
            if bad.any():
                row = first = int(bad.argmax())
                if lists:
                    row = int(np.searchsorted(np.cumsum(feat[name].map(len)), first, side="right"))
                line, _, texts = next(islice(self.rows(), row, None))
                position = list(self.types).index(name)
                self._refuse_value(line, texts, position, str(values[first]), "is no finite number of 32 bits")

    # ------------------------------------------------------------------ header

    def _text_encoding(self, encoding: str | None) -> str:
        encoding = encoding or "utf-8"
        try:
            "".encode(encoding)
        except LookupError as error:
            raise ValueError(f"encoding={encoding!r} is not usable: {error}") from error
        name = codecs.lookup(encoding).name
        with open(self.path, "rb") as file:
            start = file.read(4)
        meant = next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), name)
        if not name.startswith(meant):
            raise ValueError(f"{self.path} begins with the byte order mark of {meant}; set encoding={meant}")
        return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else encoding

    def _header(self) -> dict[str, FeatureType]:
        try:
            with open(self.path, encoding=self.encoding) as file:
                header = file.readline().rstrip("\n")
        except UnicodeError as error:
            self._refuse_encoding(error)
        if not header.strip():
            raise ValueError(f"{self.path} has no header: its first line must name columns, like user_id:token")
        if "\0" in header:
            self._refuse_nul(1)
        known = {type.value: type for type in FeatureType}
        types: dict[str, FeatureType] = {}
        for column in header.split(self.separator):
            name, colon, kind = column.partition(":")
            if not colon:
                self._refuse_header(header, column, "it has no type")
            if kind not in known:
                self._refuse_header(header, column, f"{_shown(kind)} is no type")
            if not name.strip() or name[0] in '"\ufeff':
                self._refuse_header(header, column, f"its name begins with {name[0]!r}" if name else "it has no name")
            if name in types:
                self._refuse_header(header, column, "another one has its name")
            types[name] = known[kind]
        return types

    def _refuse_header(self, header: str, column: str, reason: str) -> NoReturn:
        form = f"name:type with a type of {', '.join(type.value for type in FeatureType)}"
        if header != column:
            raise ValueError(
                f"{self.path}: the header has the column {_shown(column)}, and {reason}; the first line must name each "
                f"column once, as {form}"
            )
        one = f"{self.path}: with field_separator={self.separator!r} the header is one column, {_shown(header)}"
        for separator in USUAL_SEPARATORS:
            if 2 <= len(header.split(separator)) <= header.count(":"):
                raise ValueError(f"{one}; set field_separator={separator!r}")
        raise ValueError(f"{one}, and {reason}; set field_separator, and name each column as {form}")

    # -------------------------------------------------------------------- rows

    def _parsed(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        file.readline()
        if len(self.separator) == 1:
            reader = csv.reader(self._lines(file), delimiter=self.separator, strict=True)
            for row in reader:
                yield reader.line_num + 1, row
        else:
            pattern = self._pattern()
            for number, line in enumerate(self._lines(file), 2):
                yield number, pattern.split(line.strip())

    def _lines(self, file: TextIO) -> Iterator[str]:
        for number, line in enumerate(file, 2):
            if "\0" in line:
                self._refuse_nul(number)
            yield line

    def _pattern(self) -> re.Pattern[str]:
        """What pandas splits lines by, where RecBole splits the header by the text itself."""
        header = self.separator.join(self.types)
        try:
            pattern = re.compile(self.separator)
            if pattern.split(header) == list(self.types):
                return pattern
        except re.error:
            pass
        raise ValueError(f"field_separator={self.separator!r} is not usable: pandas reads it as a pattern; use another")

    def _refuse_swallowed_rows(self, first: int, last: int, row: list[str]) -> None:
        """A quotation mark that was meant as such swallows lines up to the next one.

        If that stands in the same column, the value holds as many separators as the lines that it swallowed.
        """
        for i, value in enumerate(row):
            lines = LINE_BREAK.split(value)
            swallowed = len(lines) - 1 - sum(not line.strip() for line in lines[1:-1])
            if swallowed and value.count(self.separator) == swallowed * (len(self.types) - 1):
                name = list(self.types)[min(i, len(self.types) - 1)]
                raise ValueError(
                    f"{self.path}, line {first}, column {name!r}: the text between quotation marks that begins with "
                    f"{_shown(lines[0])} goes on to line {last} and seems to hold the rows in between; remove the "
                    'quotation marks, or write each as "" within a text between quotation marks'
                )

    # ------------------------------------------------------------------ errors

    def _place(self, line: int, row: list[str]) -> str:
        return f"{self.path}, line {line} ({next(iter(self.types))} {_shown(row[0])})"

    def _refuse_value(self, line: int, row: list[str], column: int, value: str, reason: str) -> NoReturn:
        name, type = list(self.types.items())[column]
        raise ValueError(
            f"{self._place(line, row)}, column '{name}:{type.value}': {_shown(value)} {reason}; write a number there "
            "(seconds since 1970 for a time) or nothing, make it a column of type token in the header, or leave it out "
            "with unload_col"
        )

    def _refuse_quotation(self, line: int, error: csv.Error) -> NoReturn:
        with open(self.path, encoding=self.encoding, newline="") as file:
            text = next(islice(file, line - 1, None), "").rstrip("\r\n")
        values = text.split(self.separator)
        i = next((i for i, value in enumerate(values) if value.startswith('"') and not QUOTED.fullmatch(value)), 0)
        name = list(self.types)[min(i, len(self.types) - 1)]
        raise ValueError(
            f"{self.path}, line {line}, column {name!r}: {_shown(values[i])} begins with a quotation mark and does not "
            f'end with one ({error}); remove it, or put the value between quotation marks and write each in it as ""'
        ) from error

    def _refuse_nul(self, line: int) -> NoReturn:
        raise ValueError(
            f"{self.path}, line {line}: the text holds NUL bytes; remove them, or set encoding if the file is UTF-16"
        )

    def _refuse_encoding(self, error: UnicodeError) -> NoReturn:
        place = str(self.path)
        if isinstance(error, UnicodeDecodeError):
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        line.decode(self.encoding)
                    except UnicodeError as found:  # of this line alone, while `error` is one of a block of lines
                        place, error = f"{place}, line {number}", found
                        break
        raise ValueError(
            f"{place}: the text is not in the encoding={self.encoding!r} ({error}); set encoding, which is cp1252 for "
            "many files of Windows programs, or save the file as UTF-8"
        ) from error


def _number(text: str) -> bool:
    """Whether pandas reads ``text`` as a number or as a missing one."""
    try:
        float(text)
    except ValueError:
        return text in MISSING - {"[PAD]"}
    return True


def _shown(text: str) -> str:
    return repr(text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…")
