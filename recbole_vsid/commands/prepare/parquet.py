"""Parquet files, their values as plain ones of Python and NumPy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recbole_vsid.commands.prepare.files import open_bytes, readable

MAGIC = b"PAR1"


class ParquetFile:
    """A Parquet file whose columns are known before it is read.

    Attributes:
        path: the file.
        columns: their names in order.
        notes: nothing; as other tables have.

    Raises:
        ValueError: it is not readable.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, path: Path):
        try:
            from pyarrow.parquet import read_schema
        except ImportError as error:
            raise ImportError(
                f'{path} needs pyarrow: pip install "recbole_vsid[parquet]" (or save the table as .csv)'
            ) from error
        self.path, self.notes = path, []
        with readable(str(path), "Parquet"):
            self.columns = list(read_schema(self._source()).names)

    def _source(self) -> Path | io.BytesIO:
        """The file itself, or its content if it is compressed as a whole."""
        with open(self.path, "rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return self.path
        with open_bytes(self.path) as file:
            return io.BytesIO(file.read())

    def read(self, columns: list[str], inferred: Sequence[str] = ()) -> pd.DataFrame:
        """The columns ``columns``; whole numbers stay whole beside missing ones, and bytes that are texts are texts.

        Raises:
            ValueError: the file is damaged.
        """
        from pyarrow import types
        from pyarrow.parquet import read_table

        with readable(str(self.path), "Parquet"):
            table = read_table(self._source(), columns=columns).select(columns)
            for place, field in enumerate(table.schema):
                if types.is_dictionary(field.type):
                    table = table.set_column(place, field.name, table.column(place).cast(field.type.value_type))
            # Without pandas' metadata, which would make an index of some columns.
            frame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
        for field in table.schema:
            if types.is_decimal(field.type) and field.type.scale == 0:
                frame[field.name] = frame[field.name].map(int, na_action="ignore").astype(object)
            elif types.is_binary(field.type) or types.is_large_binary(field.type):
                frame[field.name] = _decoded(frame[field.name])
        return frame


def _decoded(values: pd.Series) -> pd.Series:
    """Texts of programs that do not tell Parquet that they are texts; images and the like stay bytes."""
    try:
        return values.map(bytes.decode, na_action="ignore")
    except UnicodeDecodeError:
        return values
