"""Text tables: rows of values between separators, with or without a header."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from recbole_vsid.commands.prepare.files import open_text

CHUNK_ROWS = 500_000
SAMPLE_CHARACTERS = 1 << 16
# Tried in this order; a blank only if nothing else makes columns.
SEPARATORS = ("\t", ";", "|", "::", "\x01", ",", " ")
# pandas knows separators of one character of ASCII; this one stands in for others.
STAND_IN = "\x1f"
LONGEST_VALUE = 2**31 - 1
LONGEST_SHOWN = 100
# Separators that texts hold, too.
IN_TEXTS = (",", ";", "|", " ")


def read_separator(given: str | None) -> str | None:
    r"""The value of ``separator``: any characters, ``tab``, or signs written as ``\t`` or ``\x01``.

    Raises:
        ValueError: it is empty, or holds what ends a row or quotes a value.
    """
    if given is None:
        return None
    separator = "\t" if given == "tab" else given
    if isinstance(separator, str) and re.fullmatch(r"(\\t|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4})+", separator):
        separator = separator.encode().decode("unicode_escape")
    if not isinstance(separator, str) or not separator or re.search(r'["\r\n\0\x1f]', separator):
        raise ValueError(
            f"separator={given!r} is not usable: it must be the characters between two columns, like ; or :: or tab"
        )
    return separator


def guess_separator(lines: Sequence[str]) -> str | None:
    """The separator that cuts all lines into equally many columns, more than one; None if there is none."""
    best, most = None, 1
    for separator in SEPARATORS:
        if separator == " " and best is not None:
            break
        mark = separator if len(separator) == 1 else STAND_IN
        rows = [row for row in csv.reader([line.replace(separator, mark) for line in lines], delimiter=mark) if row]
        widths = {len(row) for row in rows}
        if len(widths) == 1 and max(widths) > most:
            best, most = separator, max(widths)
    return best


def sample_lines(path: Path, encoding: str | None = None) -> list[str]:
    """The first lines of a text file that are not blank."""
    with open_text(path, encoding) as text:
        start = text.read(SAMPLE_CHARACTERS)
    lines = [line for line in re.split(r"\r\n|\r|\n", start) if line.strip()]
    return lines[:-1] if len(start) == SAMPLE_CHARACTERS and len(lines) > 1 else lines


class DelimitedFile:
    """A text table whose columns are known before it is read.

    Args:
        path: the file.
        separator: between its columns, from :func:`read_separator`. Where that gives one column only and another one
            cuts all rows alike, that is taken, with a note.
        encoding: of its text; by default as in :func:`~recbole_vsid.commands.prepare.files.open_text`.
        names: of the columns, if the file has no header.

    Attributes:
        path: the file.
        columns: the names of the columns in order.
        first_rows: the first two rows, the header among them.
        notes: sentences for the summary, on what was read.

    Raises:
        ValueError: the file is empty or no text, or its first rows do not fit the names.
    """

    def __init__(self, path: Path, separator: str, encoding: str | None = None, names: Sequence[str] | None = None):
        self.path, self._encoding, self._has_header, self.notes = path, encoding, names is None, []
        self._separator = separator
        first = self._first_rows()
        if not first:
            raise ValueError(f"{path} is empty")
        if len(first[0]) == 1 and (names is None or len(names) > 1):
            found = guess_separator(sample_lines(path, encoding))
            if found is not None and found != separator:
                self.notes.append(f"{path}: its columns are separated by {found!r}, not by {separator!r}")
                self._separator = found
                first = self._first_rows()
        self.first_rows, self.columns = first, list(names or first[0])
        if len(self.columns) != len(first[0]):
            raise ValueError(
                f"{path}, line 1 has {len(first[0])} values ({shown(first[0])}) for {len(self.columns)} columns"
            )

    def read(self, columns: list[str], inferred: Sequence[str] = ()) -> pd.DataFrame:
        """The columns ``columns``: texts, but for those of ``inferred``, which are numbers if they look like it.

        Raises:
            ValueError: rows with more values than columns, quotation marks without an end, NUL bytes.
        """
        places = [self.columns.index(name) for name in columns]
        types = {place: str for place, name in enumerate(self.columns) if name not in inferred}
        # With usecols pandas would cut rows that are too long without a word: an unquoted comma shifts their columns.
        with self._chunks(types) as (chunks, text):
            table = pd.concat([chunk[places] for chunk in chunks], ignore_index=True)
        table.columns = columns
        n_rows = len(table) + self._has_header
        if text.n_separators < n_rows * (len(self.columns) - 1):
            self.notes.append(f"{self.path}: some rows have fewer values than columns; what they lack is empty")
        if text.n_backslashes:
            self.notes.append(
                f'{self.path}: {text.n_backslashes:,} quotation marks are written as \\" and not as "", so that these '
                "texts may be read with marks too many or too few"
            )
        if text.n_separators > n_rows * (len(self.columns) - 1) and self._mark != self._separator:
            for name in table.select_dtypes(object):
                table[name] = table[name].str.replace(self._mark, self._separator, regex=False)
        if text.n_lines > n_rows and len(self.columns) > 1:  # else no row has several lines, or none is told by them
            self._judge_line_breaks()
        return table

    @property
    def _mark(self) -> str:
        return self._separator if len(self._separator) == 1 and self._separator.isascii() else STAND_IN

    @contextmanager
    def _text(self) -> Iterator[CountedText]:
        with open_text(self.path, self._encoding) as text:
            yield CountedText(text, self.path, self._separator, self._mark)

    def _first_rows(self) -> list[list[str]]:
        with self._text() as text, _long_values():
            rows = (row for row in csv.reader(text, delimiter=self._mark) if _is_row(row))
            return [[value.replace(self._mark, self._separator) for value in row] for row in islice(rows, 2)]

    @contextmanager
    def _chunks(self, types: dict[int, type] | type) -> Iterator[tuple[pd.io.parsers.TextFileReader, CountedText]]:
        """The rows by chunks, columns numbered from 0; and the text, which has counted what was read of it."""
        try:
            with self._text() as text, warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # of rows that are too long
                # Missing values are judged later: pandas would make one of an item named NA.
                with pd.read_csv(
                    text, sep=self._mark, header=0 if self._has_header else None, names=range(len(self.columns)),
                    dtype=types, chunksize=CHUNK_ROWS, na_filter=False, index_col=False, low_memory=False,
                    float_precision="round_trip",
                ) as chunks:  # fmt: skip
                    yield chunks, text
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            words = " ".join(str(error).split())  # pandas' end in a line break
            raise ValueError(self._misfit() or f"{self.path} is not readable as a table: {words}") from error

    def _misfit(self) -> str | None:
        """What is wrong with the first row that has more values than there are columns, or with the last one."""
        width, line, last = len(self.columns), 1, 1
        with self._text() as text, _long_values():
            rows = csv.reader(text, delimiter=self._mark)
            for row in rows:
                # Rows that all end in a separator have an empty value more, which is none.
                if len(row) > width and any(row[width:]) or len(row) > width + 1:
                    return (
                        f"{self.path}, line {line} has {len(row)} values for {width} columns ({shown(row)}); values "
                        f'that hold {self._separator!r} must stand between quotation marks ("), with "" for one in them'
                    )
                last, line = line, rows.line_num + 1
        if line > last + 1:  # a value over several lines, perhaps the rest of the file
            return f'{self.path}, line {last}: the quotation mark of a value has no second one (")'
        return None

    def _judge_line_breaks(self) -> None:
        """A quotation mark that was meant as such swallows lines up to the next one.

        If that stands in the same column, the value holds as many separators as the lines that it swallowed.
        """
        swallowed, first_row = [], 1
        per_line = len(self.columns) - 1
        with self._chunks(str) as (chunks, _):
            for chunk in chunks:
                breaks = chunk.apply(lambda column: column.str.count("\r\n|\r|\n"))
                separators = chunk.apply(lambda column: column.str.count(re.escape(self._mark)))
                found = ((breaks > 0) & (separators == breaks * per_line)).any(axis=1).to_numpy()
                swallowed += (np.flatnonzero(found) + first_row).tolist()
                first_row += len(chunk)
        if not swallowed:
            return
        seen = f"{len(swallowed):,} rows, row {swallowed[0]} first, seem to hold other rows between quotation marks"
        if self._separator not in IN_TEXTS:
            raise ValueError(f'{self.path}: {seen}; remove the quotation marks, or write each as ""')
        self.notes.append(f"{self.path}: {seen}; if those are no quotes, these rows are lost")


class CountedText(io.TextIOBase):
    """The text of a table on its way to a parser, with ``mark`` for the separator.

    Attributes:
        n_lines, n_separators: how many went by.
        n_backslashes: how many quotation marks after a backslash that do not end a value.

    Raises:
        ValueError: from reading, at a NUL byte, where pandas would cut off a value, or at ``mark`` where it is no
            separator.
    """

    def __init__(self, text: TextIO, path: Path, separator: str, mark: str):
        self._text, self._path, self._separator, self._mark = text, path, separator, mark
        self._begun, self._last, self._n_ends = "", "\n", 0
        self.n_separators = self.n_backslashes = 0

    @property
    def n_lines(self) -> int:
        return self._n_ends + (self._last not in "\r\n")

    def read(self, size: int = -1) -> str:
        while True:
            text = self._text.read(size)
            ended, text = size < 0 or not text, self._marked(self._begun + text)
            # A separator may go on in what is read next.
            parts = range(len(self._separator) - 1, 0, -1) if not ended else ()
            end = len(text) - next((part for part in parts if text.endswith(self._separator[:part])), 0)
            text, self._begun = text[:end], text[end:]
            if text or ended:
                return self._counted(text)

    def readline(self, size: int = -1) -> str:
        return self._counted(self._marked(self._text.readline()))

    def _marked(self, text: str) -> str:
        if "\0" in text:
            hint = "it must be text; is it UTF-16 without a byte order mark (then set encoding=utf-16-le)?"
            raise ValueError(f"{self._path} holds a NUL byte in line {self._line_of(text, chr(0))}: {hint}")
        if self._mark == self._separator:
            return text
        if self._mark in text:
            line = self._line_of(text, self._mark)
            raise ValueError(f"{self._path} holds the control character {self._mark!r} in line {line}; remove it")
        return text.replace(self._separator, self._mark)

    def _line_of(self, text: str, sign: str) -> int:
        return self._n_ends + len(re.findall(r"\r\n|\r|\n", text[: text.index(sign)])) + 1

    def _counted(self, text: str) -> str:
        if text:
            self.n_separators += text.count(self._mark)
            if '\\"' in text:
                self.n_backslashes += len(re.findall(rf'\\"(?!["\r\n{re.escape(self._mark)}]|$)', text))
            self._n_ends += text.count("\n")
            if "\r" in text:
                self._n_ends += text.count("\r") - text.count("\r\n")
            self._n_ends -= self._last == "\r" and text[0] == "\n"
            self._last = text[-1]
        return text


def shown(row: Sequence[str]) -> str:
    """The values of a row for a message, cut where they are long."""
    text = ", ".join(map(repr, row))
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _is_row(row: Sequence[str]) -> bool:
    """pandas skips blank lines."""
    return len(row) > 1 or bool(row and row[0].strip())


@contextmanager
def _long_values() -> Iterator[None]:
    """Python's reader takes longer values for a mistake."""
    limit = csv.field_size_limit(LONGEST_VALUE)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
