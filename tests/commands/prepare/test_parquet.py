"""Parquet's types as plain values."""

from __future__ import annotations

import datetime
import gzip
from decimal import Decimal
from pathlib import Path

import pytest

from recbole_vsid.commands.prepare.parquet import ParquetFile

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

DAY = datetime.date(2020, 1, 2)
NOON = datetime.datetime(2020, 1, 2, 12)


def read(columns, schema=None):
    pq.write_table(pa.table(columns, schema=schema), "a.parquet")
    file = ParquetFile(Path("a.parquet"))
    return file.read(file.columns)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.string(), ["a", None], ["a", None]),
        (pa.large_string(), ["a", None], ["a", None]),
        (pa.dictionary(pa.int32(), pa.string()), ["a", None], ["a", None]),
        (pa.dictionary(pa.int32(), pa.int64()), [2**60 + 1, None], [2**60 + 1, None]),
        (pa.binary(), ["ä".encode(), None], ["ä", None]),
        (pa.large_binary(), [b"a", b"b"], ["a", "b"]),
        (pa.binary(), [b"a", b"\x89PNG\xff", None], [b"a", b"\x89PNG\xff", None]),
        (pa.int64(), [2**60 + 1, None], [2**60 + 1, None]),
        (pa.uint64(), [2**64 - 1, 1], [2**64 - 1, 1]),
        (pa.decimal128(38, 0), [Decimal(10**30 + 1), None], [10**30 + 1, None]),
        (pa.decimal128(9, 2), [Decimal("1.50"), None], [Decimal("1.50"), None]),
        (pa.bool_(), [True, None], [True, None]),
        (pa.date32(), [DAY, None], [DAY, None]),
        (pa.timestamp("ms"), [NOON, NOON], [NOON, NOON]),
        (pa.timestamp("us"), [datetime.datetime(9999, 12, 31), NOON], [datetime.datetime(9999, 12, 31), NOON]),
        (pa.struct([("a", pa.int64())]), [{"a": 1}, None], [{"a": 1}, None]),
    ],
)
def test_values(kind, values, expected):
    found = read({"c": pa.array(values, kind)})["c"].tolist()
    assert found == expected and list(map(type, found)) == [
        type(each) if not isinstance(each, datetime.datetime) else type(found[0]) for each in expected
    ]


def test_lists_and_names():
    table = read({"a.b": pa.array([["x"], None]), "a": [1, 2], "user ": ["u", "v"]})
    assert table.columns.tolist() == ["a.b", "a", "user "]
    assert list(table["a.b"][0]) == ["x"] and table["a.b"][1] is None


def test_a_file_that_is_compressed_as_a_whole():
    read({"a": [1]})
    Path("b.parquet").write_bytes(gzip.compress(Path("a.parquet").read_bytes()))
    assert ParquetFile(Path("b.parquet")).read(["a"])["a"].tolist() == [1]


@pytest.mark.parametrize("cut", [0, 3, 4, 60, -1])
def test_damaged_files(cut):
    read({"a": ["x"] * 100, "b": list(range(100))})
    Path("a.parquet").write_bytes(Path("a.parquet").read_bytes()[:cut])
    with pytest.raises(ValueError, match="a.parquet is not readable as Parquet"):
        file = ParquetFile(Path("a.parquet"))
        file.read(file.columns)
