"""Tables of other programs (CSV, TSV, JSON lines, Parquet, DataFrames) and their columns, found by usual names."""

from __future__ import annotations

import re
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
COMPRESSED = (".gz", ".bz2")
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

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of an unknown kind, not readable, or has two columns of one name.
        ImportError: a Parquet file, and pyarrow is not installed.
    """

    def __init__(self, source, setting, separator=None):
        self._frame, self._separator = None, None
        if isinstance(source, pd.DataFrame):
            self.name, self._frame = f"the DataFrame {setting}", source
        else:
            self._path = Path(source)
            self.name = str(source)
            if not self._path.is_file():
                raise FileNotFoundError(f"{setting}={str(source)!r}: there is no such file")
            self._open(setting, separator)
        names = self._header() if self._frame is None else list(self._frame.columns)
        self.columns = [name for name in names if isinstance(name, str) and name.strip()]
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise ValueError(f"{self.name} has several columns named {repeated}; rename all but one of each")

    def read(self, columns, inferred=()):
        """The columns ``columns`` as a DataFrame, rows numbered from 0.

        Those of a text file are texts, but for the columns ``inferred``, which are numbers if they look like it.
        """
        if self._frame is not None:
            return self._frame[columns].reset_index(drop=True)
        if self._separator is None:
            with _readable(self.name, "Parquet"):
                return pd.read_parquet(self._path, columns=columns)
        # With usecols pandas would cut rows that are too long without a word: an unquoted comma shifts their columns.
        dtype = {name: str for name in self.columns if name not in inferred}
        with self._readable_csv(), self._csv(dtype=dtype, chunksize=CHUNK_ROWS) as chunks:
            return pd.concat([chunk[columns] for chunk in chunks], ignore_index=True)

    def _open(self, setting, separator):
        suffixes = [suffix.lower() for suffix in self._path.suffixes if suffix.lower() not in COMPRESSED]
        suffix = suffixes[-1] if suffixes else ""
        if separator is not None or suffix in DELIMITERS:
            separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator) or DELIMITERS[suffix]
            if len(separator) != 1:
                raise ValueError(f"separator={separator!r} is not usable: it must be one character, or tab")
            self._separator = separator
        elif suffix in JSON_LINES:
            with _readable(self.name, "JSON lines, one object per line"):
                self._frame = pd.read_json(self._path, lines=True, dtype=False, convert_dates=False)
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
        return _readable(self.name, "UTF-8 text with a header and no row longer than that")


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
    hint = "" if len(table.columns) > 1 else " (or set separator, as there is only one)"
    raise ValueError(f"{known}: {problem}; set {setting}=<column>{hint}")
