"""Tables of other programs (CSV, TSV, JSON lines, Parquet, DataFrames) and their columns, found by usual names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_vsid.commands.prepare.delimited import (
    DelimitedFile,
    guess_separator,
    read_separator,
    sample_lines,
    shown,
)
from recbole_vsid.commands.prepare.files import check_encoding, first_bytes, is_utf8, source_files, table_suffix
from recbole_vsid.commands.prepare.json_lines import JsonFile
from recbole_vsid.commands.prepare.parquet import MAGIC, ParquetFile

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|\d{4}-\d\d?-\d\d?([T ][\d:.]+)?([zZ]|[+-]\d\d:?\d\d)?")
MOST_SHOWN = 30  # names of columns in a message
MOST_NOTES = 10

# In lower case and without signs, so that userId, user_id and "User ID" are one name.
USUAL_NAMES = {
    "user": "user userid uid customer customerid reviewer reviewerid visitor visitorid member memberid client clientid "
    "account accountid",
    "item": "item itemid iid asin parentasin product productid sku article articleid movie movieid book bookid isbn "
    "track trackid song songid video videoid game gameid news newsid",
    "time": "time timestamp ts date datetime unixtime unixreviewtime eventtime eventtimestamp eventdate createdat "
    "orderdate purchasedate purchasedat",
}


class RawTable:
    """A table whose columns are known before it is read.

    Args:
        source: a DataFrame, or files as :func:`~recbole_vsid.commands.prepare.files.source_files` takes them: text
            tables, JSON objects or Parquet, compressed or not. All files of a table have the same columns, but for
            JSON, whose objects may lack some.
        setting: ``interactions`` or ``items``, for messages.
        separator: between the columns of a text file; by default ``,`` in a .csv, a tab in a .tsv, and a guess in
            others.
        columns: names for the columns of text files without a header, as a list or a text with commas.
        encoding: of text files; by default UTF-8, unless a byte order mark says otherwise.

    Attributes:
        name: how messages call the table.
        columns: its column names in order.
        advice: the end of a message on columns that cannot be told.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is of an unknown kind, not readable, or has two columns of one name; or an argument is not
            usable.
        ImportError: a Parquet file, and pyarrow is not installed.
    """

    def __init__(
        self,
        source: Any,
        setting: str,
        separator: str | None = None,
        columns: Sequence[str] | str | None = None,
        encoding: str | None = None,
    ):
        self._frame, self._files, self.advice = None, [], ""
        names_setting = "columns" if setting == "interactions" else f"{setting}_columns"
        names, separator = _read_names(columns, names_setting), read_separator(separator)
        check_encoding(encoding)
        if isinstance(source, pd.DataFrame):
            self.name, self._frame = f"the DataFrame {setting}", source
            found = list(source.columns)
        else:
            self.name = ", ".join(map(str, source)) if isinstance(source, (list, tuple)) else str(source)
            for path in source_files(source, setting):
                file = _opened(path, setting, separator, names, encoding)
                self._files.append(file)
                if encoding and not isinstance(file, ParquetFile) and "utf" not in encoding.lower() and is_utf8(path):
                    file.notes.append(f"{path}: read as {encoding}, but it is UTF-8; if so, leave out encoding")
            for file in self._files:
                if isinstance(file, DelimitedFile):
                    advice = _advice(setting, names_setting, len(file.columns))
                    _check_first_row(file, names, advice)
                    if names is None and len(file.columns) > 1:
                        self.advice = f" (or, if its first line is no header, {advice})"
            found = self._common_columns()
        if names is not None and not any(isinstance(file, DelimitedFile) for file in self._files):
            raise ValueError(f"{names_setting} names the columns of text tables, and {self.name} is none")
        found = [name for name in found if isinstance(name, str) and name.strip()]
        # The index that pandas writes into Parquet is no column.
        self.columns = [name for name in found if not re.fullmatch(r"__index_level_\d+__", name)]
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise ValueError(f"{self.name} has several columns named {repeated}; rename all but one of each")

    @property
    def notes(self) -> list[str]:
        """Sentences for the summary, on what was read so far."""
        notes = [note for file in self._files for note in file.notes]
        more = len(notes) - MOST_NOTES
        return notes if more < 1 else [*notes[:MOST_NOTES], f"{self.name}: {more} more notes on other files"]

    def read(self, columns: list[str], inferred: Sequence[str] = ()) -> pd.DataFrame:
        """The columns ``columns`` as a DataFrame, rows numbered from 0.

        Those of a text file are texts, but for the columns ``inferred``, which are numbers if they look like it.
        Values of JSON and Parquet are what they were there; bytes that are no UTF-8 text stay bytes.

        Raises:
            ValueError: no rows, or rows that cannot be read as they were meant.
        """
        if self._frame is not None:
            table = self._frame[columns].reset_index(drop=True)
        else:
            table = _stacked([file.read(columns, inferred) for file in self._files])
        if not len(table):
            raise ValueError(f"{self.name} has no rows")
        return table

    def _common_columns(self) -> list[str]:
        first, *others = self._files
        found = list(first.columns)
        for file in others:
            if isinstance(file, JsonFile):  # its objects may lack some
                found += [name for name in file.columns if name not in found]
            elif sorted(file.columns) != sorted(found):
                raise ValueError(
                    f"{file.path} has the columns {file.columns[:MOST_SHOWN]}, and {first.path} has "
                    f"{first.columns[:MOST_SHOWN]}; all files of a table must have the same"
                )
        return found


def _read_names(given: Sequence[str] | str | None, setting: str) -> list[str] | None:
    if given is None:
        return None
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        names = []
    names = [name.strip() for name in names]
    filled = [name for name in names if name]
    if not filled or len(set(filled)) < len(filled):
        raise ValueError(
            f"{setting}={given!r} is not usable: it must name the columns of a file without a header, each once, like "
            "user,item,rating,time"
        )
    return names


def _opened(
    path: Path, setting: str, separator: str | None, names: list[str] | None, encoding: str | None
) -> DelimitedFile | JsonFile | ParquetFile:
    """A file by its content where that tells, or else by its extension."""
    start, suffix = first_bytes(path, len(MAGIC)), table_suffix(path)
    if start == MAGIC or suffix in PARQUET:
        return ParquetFile(path)
    separator = separator or DELIMITERS.get(suffix)
    if suffix not in JSON_LINES and separator is not None:
        return DelimitedFile(path, separator, encoding, names)
    if suffix in JSON_LINES:
        return JsonFile(path, encoding)
    lines = sample_lines(path, encoding)
    if lines and lines[0].lstrip().startswith(("{", "[")):
        return JsonFile(path, encoding)
    separator = guess_separator(lines)
    if separator is None:
        known = ", ".join((*DELIMITERS, *JSON_LINES, *PARQUET))
        raise ValueError(f"{setting}={str(path)!r} must end in one of {known}; for another text table set separator")
    file = DelimitedFile(path, separator, encoding, names)
    file.notes.append(f"{path}: its columns look separated by {separator!r}; if they are not, set separator")
    return file


def _advice(setting: str, names_setting: str, n_columns: int) -> str:
    names = ["item", "title", "category"]
    if setting == "interactions":
        names = ["user", "item", "time"] if n_columns == 3 else ["user", "item", "rating", "time"]
    return f"{names_setting}={','.join(names[:n_columns])}" + ",…" * (n_columns > len(names))


def _check_first_row(file: DelimitedFile, names: list[str] | None, advice: str) -> None:
    """Refuse data that were taken for a header, which would lose a row, and a header taken for data."""
    header = file.first_rows[0]
    if names is None and _is_data(*file.first_rows):
        raise ValueError(
            f"{file.path}: its first line ({shown(header)}) looks like data; name the columns of a file without a "
            f"header, like {advice}"
        )
    alike = [value.strip().lower() for value in header] == [name.lower() for name in names or ()]
    if names is not None and (alike or sum(map(_is_usual, header)) > 1):
        raise ValueError(f"{file.path} has a header ({shown(header)}); leave out {advice.partition('=')[0]}")


def _is_data(header: list[str], row: Sequence[str] = ()) -> bool:
    """Whether a header has numbers above numbers like them, and no name that is known."""
    pairs = [(name, value) for name, value in zip(header, row) if NUMBER.fullmatch(name) and NUMBER.fullmatch(value)]
    numbers = [name for name, _ in pairs]
    # Columns that are numbered one after the other, or called by years.
    numbered = all(map(str.isdecimal, numbers)) and len({int(name) - place for place, name in enumerate(numbers)}) == 1
    if numbered and len(numbers) > 1 and (len(numbers) > 2 or len(header) > len(numbers)):
        return False
    return any(len(name) == len(value) for name, value in pairs) and not any(map(_is_usual, header))


def _is_usual(name: str) -> bool:
    return any(_plain(name) in usual.split() for usual in USUAL_NAMES.values())


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    if len(tables) == 1:
        return tables[0]
    # pandas would make floats of whole numbers beside floats, and lose digits.
    mixed = [name for name in tables[0] if len({table[name].dtype for table in tables}) > 1]
    return pd.concat([table.astype(dict.fromkeys(mixed, object)) for table in tables], ignore_index=True)


def find_column(table, role, given, setting=None, usual=None):
    """The column of ``table`` that holds the user, the item or the time.

    Args:
        role: a key of ``USUAL_NAMES``.
        given: the user's choice, or None to look for a usual name.
        setting: the setting that chooses the column; ``role`` by default.
        usual: names to look for instead, as in ``USUAL_NAMES``.

    Raises:
        ValueError: there is no such column, or none or several have usual names.
    """
    more = len(table.columns) - MOST_SHOWN
    listed = f"{table.columns[:MOST_SHOWN]} and {more} more" if more > 0 else str(table.columns)
    setting, known = setting or role, f"the columns of {table.name} are {listed}"
    if given is not None:
        if given not in table.columns:
            raise ValueError(f"{setting}={given!r} is no column; {known}")
        return given
    usual = (usual or USUAL_NAMES[role]).split()
    found = [name for name in table.columns if _plain(name) in usual]
    if len(found) == 1:
        return found[0]
    problem = f"{found} all look like the {role}" if found else f"none looks like the {role}"
    hint = " (or set separator, as there is only one)" if len(table.columns) == 1 else ""
    raise ValueError(f"{known}: {problem}; set {setting}=<column>{hint}{table.advice}")
