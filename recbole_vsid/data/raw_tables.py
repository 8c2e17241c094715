"""Tables of other programs (CSV, TSV, JSON lines, Parquet, DataFrames) and their columns, found by usual names."""

from __future__ import annotations

import bz2
import gzip
import re
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open}
CHUNK_ROWS = 500_000

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
        source: path of a file, or a DataFrame.
        setting: ``interactions`` or ``items``, for messages.
        separator: between the columns of a text file; by default ``,`` in a .csv and a tab in a .tsv.

    Attributes:
        name: how messages call the table.
        columns: its column names in order.
        notes: sentences for the summary, on what was read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of an unknown kind, not readable, or has two columns of one name.
        ImportError: a Parquet file, and pyarrow is not installed.
    """

    def __init__(self, source, setting, separator=None):
        self._frame, self._separator, self.notes = None, None, []
        if isinstance(source, pd.DataFrame):
            self.name, self._frame = f"the DataFrame {setting}", source
        else:
            self._path = Path(source)
            self.name = str(source)
            if not self._path.is_file():
                raise FileNotFoundError(f"{setting}={str(source)!r}: there is no such file")
            self._open(setting, separator)
        names = self._header() if self._frame is None else list(self._frame.columns)
        names = [name for name in names if isinstance(name, str) and name.strip()]
        # The index that pandas writes into Parquet is no column.
        self.columns = [name for name in names if not re.fullmatch(r"__index_level_\d+__", name)]
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise ValueError(f"{self.name} has several columns named {repeated}; rename all but one of each")

    def read(self, columns, inferred=()):
        """The columns ``columns`` as a DataFrame, rows numbered from 0.

        Those of a text file are texts, but for the columns ``inferred``, which are numbers if they look like it.

        Raises:
            ValueError: no rows, or rows that cannot be read as they were meant.
        """
        table = self._read(columns, inferred)
        if not len(table):
            raise ValueError(f"{self.name} has no rows")
        return table

    def _read(self, columns, inferred):
        if self._frame is not None:
            return self._frame[columns].reset_index(drop=True)
        if self._separator is None:
            with _readable(self.name, "Parquet"):
                from pyarrow.parquet import read_table

                # Without pandas' metadata, which would make an index of some columns.
                table = read_table(self._path, columns=columns).to_pandas(ignore_metadata=True)
            for name in table.select_dtypes(object):
                with _readable(f"{self.name}, column {name!r},", "UTF-8 text"):
                    table[name] = table[name].map(_decoded)
            return table
        # With usecols pandas would cut rows that are too long without a word: an unquoted comma shifts their columns.
        dtype = {name: str for name in self.columns if name not in inferred}
        n_lines, n_separators = self._count()
        with self._readable_csv(), self._csv(dtype=dtype, chunksize=CHUNK_ROWS) as chunks:
            table = pd.concat([chunk[columns] for chunk in chunks], ignore_index=True)
        if n_separators < (len(table) + 1) * (len(self.columns) - 1):
            self.notes.append(f"{self.name}: some rows have fewer columns than the header; what they lack is empty")
        if n_lines > len(table) + 1 and len(self.columns) > 1:  # else no row has several lines, or none is told by them
            self._judge_line_breaks()
        return table

    def _count(self):
        """Lines and separators of the text file.

        Raises:
            ValueError: a NUL byte, at which pandas would cut off a value.
        """
        n_lines, n_separators, last = 0, 0, b"\n"
        with COMPRESSED.get(self._path.suffix.lower(), open)(self._path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                if b"\0" in block:
                    raise ValueError(f"{self.name} holds NUL bytes after line {n_lines}; it must be UTF-8 text")
                n_lines, last = n_lines + block.count(b"\n"), block
                n_separators += block.count(self._separator.encode())
        return n_lines + (not last.endswith(b"\n")), n_separators

    def _judge_line_breaks(self):
        """A quotation mark that was meant as such swallows lines up to the next one.

        If that stands in the same column, the value holds as many separators as the lines that it swallowed.
        """
        swallowed, first_row = [], 1
        per_line = len(self.columns) - 1
        with self._readable_csv(), self._csv(dtype=str, chunksize=CHUNK_ROWS) as chunks:
            for chunk in chunks:
                breaks = chunk.apply(lambda column: column.str.count("\r\n|\r|\n"))
                separators = chunk.apply(lambda column: column.str.count(re.escape(self._separator)))
                found = ((breaks > 0) & (separators == breaks * per_line)).any(axis=1).to_numpy()
                swallowed += (np.flatnonzero(found) + first_row).tolist()
                first_row += len(chunk)
        if not swallowed:
            return
        seen = f"{len(swallowed):,} rows, row {swallowed[0]} first, seem to hold other rows between quotation marks"
        if self._separator == "\t":  # texts hold commas, but hardly tabs
            raise ValueError(f'{self.name}: {seen}; remove the quotation marks, or write each as ""')
        self.notes.append(f"{self.name}: {seen}; if those are no quotes, these rows are lost")

    def _open(self, setting, separator):
        suffixes = [suffix.lower() for suffix in self._path.suffixes if suffix.lower() not in COMPRESSED]
        suffix = suffixes[-1] if suffixes else ""
        if suffix in DELIMITERS or (separator is not None and suffix not in (*JSON_LINES, *PARQUET)):
            separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator) or DELIMITERS[suffix]
            if len(separator) != 1:
                raise ValueError(f"separator={separator!r} is not usable: it must be one character, or tab")
            self._separator = separator
        elif suffix in JSON_LINES:
            with _readable(self.name, "JSON lines, one object per line"):
                self._frame = pd.read_json(
                    self._path, lines=True, dtype=False, convert_dates=False, encoding="utf-8-sig"
                )
                if not any(isinstance(name, str) for name in self._frame.columns):
                    raise ValueError("its lines are no objects with names")
        elif suffix not in PARQUET:
            known = ", ".join((*DELIMITERS, *JSON_LINES, *PARQUET))
            raise ValueError(
                f"{setting}={self.name!r} must end in one of {known}; for another text table set separator"
            )

    def _header(self):
        if self._separator is not None:
            with self._readable_csv():
                return self._csv(header=None, nrows=1, dtype=str).iloc[0].tolist()
        try:
            from pyarrow.parquet import read_schema
        except ImportError as error:
            raise ImportError(
                f'{self.name} needs pyarrow: pip install "recbole_vsid[parquet]" (or save the table as .csv)'
            ) from error
        with _readable(self.name, "Parquet"):
            return read_schema(self._path).names

    def _csv(self, **options):
        # Missing values are judged later: pandas would make one of an item named NA.
        return pd.read_csv(
            self._path, sep=self._separator, na_filter=False, index_col=False, low_memory=False,
            float_precision="round_trip", **options,
        )  # fmt: skip

    def _readable_csv(self):
        return _readable(self.name, "UTF-8 text with a header, and no row longer than the header")


def _decoded(value):
    """Texts of programs that do not tell Parquet that they are texts."""
    return value.decode() if isinstance(value, bytes) else value


@contextmanager
def _readable(name, form):
    """Turns what the parsers raise, and pandas' warning about rows that are too long, into an error with the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except (ValueError, OSError, EOFError, zlib.error, pd.errors.ParserWarning) as error:
        raise ValueError(f"{name} is not readable as {form}: {error}") from error


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
    setting, known = setting or role, f"the columns of {table.name} are {table.columns}"
    if given is not None:
        if given not in table.columns:
            raise ValueError(f"{setting}={given!r} is no column; {known}")
        return given
    usual = (usual or USUAL_NAMES[role]).split()
    found = [name for name in table.columns if re.sub(r"[\W_]", "", name).lower() in usual]
    if len(found) == 1:
        return found[0]
    problem = f"{found} all look like the {role}" if found else f"none looks like the {role}"
    hint = " (or set separator, as there is only one)" if len(table.columns) == 1 else ""
    raise ValueError(f"{known}: {problem}; set {setting}=<column>{hint}")
