"""Which files a table has, and what is in them: unpacked and decoded by content, or refused by name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
from pathlib import Path

import pytest

from recbole_vsid.commands.prepare.files import check_encoding, open_bytes, open_text, source_files, table_suffix

TEXT = "user,item\nä,名😀\r\n"


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


def zstd(content):
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.compress(content, "zstd", asbytes=True)


PACKERS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "two gzip members": lambda content: gzip.compress(content[:5]) + gzip.compress(content[5:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zip": lambda content: zipped(**{"folder__a.csv": content, "folder__": b"", "__MACOSX__._a.csv": b"x"}),
    "zstd": zstd,
}


@pytest.mark.parametrize("name", ["events.csv", "events.csv.gz", "events.zip", "events"])
@pytest.mark.parametrize("packer", PACKERS)
def test_files_are_unpacked_by_content(packer, name):
    Path(name).write_bytes(PACKERS[packer](TEXT.encode()))
    with open_text(Path(name)) as text:
        assert text.read() == TEXT


@pytest.mark.parametrize("packer", [name for name in PACKERS if name != "plain"])
def test_damaged_archives_are_refused(packer):
    content = PACKERS[packer](os.urandom(5000))
    Path("events.csv").write_bytes(content[: len(content) // 2])
    with (
        pytest.raises(ValueError, match="events.csv is not readable"),
        open_text(Path("events.csv"), "latin-1") as text,
    ):
        text.read()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (zipped(a="x", b="y"), r"is an archive of 2 files, \['a', 'b'\]; unpack it"),
        (zipped(), "is an archive of 0 files"),
        (zipped(**{"xl__workbook.xml": "x", "a": "y"}), "is a spreadsheet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a spreadsheet, .*save its sheet as CSV"),
    ],
)
def test_archives_that_are_no_table(content, told):
    Path("events.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"events.csv {told}"), open_text(Path("events.csv")) as text:
        text.read()


def test_an_empty_file_is_an_empty_text():
    Path("empty.csv").touch()
    with open_text(Path("empty.csv")) as text:
        assert text.read() == ""


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("given", [None, "latin-1", "utf-8"])
def test_a_byte_order_mark_decides(codec, given):
    Path("a.csv").write_bytes(TEXT.encode(codec))
    if codec == "utf-8" and given == "latin-1":
        pytest.skip("there is no mark")
    with open_text(Path("a.csv"), given) as text:
        assert text.read() == TEXT


@pytest.mark.parametrize("codec", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "gb18030"])
def test_given_encodings(codec):
    Path("a.csv").write_bytes("é,ü\n".encode(codec))
    with open_text(Path("a.csv"), codec) as text:
        assert text.read() == "é,ü\n"


@pytest.mark.parametrize(
    ("content", "given", "told"),
    [
        ("a\né,b".encode("latin-1"), None, r"as UTF-8 text: line 2 holds 0xe9 \(byte 3 of the file\); set encoding to"),
        (b"a\nb\xc3", None, r"as UTF-8 text: line 2 holds 0xc3 \(byte 4 of"),
        (b"a\n" * 10**6 + b"\xff\n" + b"b\n" * 10**6, None, r"as UTF-8 text: line 1000001 holds 0xff \(byte 2,000,001"),
        ("é".encode(), "ascii", "as ascii text: line 1 holds 0xc3"),
        (b"\xff\xfea\0\n\0b", None, "as UTF-16 text: line 2"),
        (b"abcd", "utf-16", "as utf-16 text: UTF-16 stream does not start with BOM; set encoding"),
        (gzip.compress(b"\xff" * 9, mtime=0)[:-8], None, "as UTF-8 text|: Compressed file ended"),
    ],
)
def test_bytes_that_are_no_text_are_named(content, given, told):
    Path("a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.csv is not readable {told}"), open_text(Path("a.csv"), given) as text:
        text.read()


@pytest.mark.parametrize("encoding", ["klingon", "base64", "", 7, "a\0b", ["utf-8"]])
def test_encodings_that_are_none(encoding):
    with pytest.raises(ValueError, match="encoding=.* is not usable: it must be the name of an encoding"):
        check_encoding(encoding)


def test_folders_patterns_and_lists():
    for name in ("t/part-10.csv", "t/part-2.csv", "t/_SUCCESS", "t/.part-2.csv.crc", "t/_delta/x", "t/k=1/part-0.csv"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_text("x")
    Path("t/part-3.csv").touch()
    Path("a,b.csv").write_text("x")

    def names(source):
        return [path.as_posix() for path in source_files(source, "interactions")]

    assert names("t") == ["t/k=1/part-0.csv", "t/part-2.csv", "t/part-10.csv"], "empty parts are none"
    assert names("t/part*.csv") == ["t/part-2.csv", "t/part-3.csv", "t/part-10.csv"]
    assert names("t/part-10.csv, t/part-2.csv") == names(["t/part-10.csv", Path("t/part-2.csv")])
    assert names("t/part-10.csv, t/part-2.csv") == ["t/part-10.csv", "t/part-2.csv"]
    assert names("a,b.csv") == ["a,b.csv"]
    assert names("t/part-3.csv") == ["t/part-3.csv"]


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        ("none.csv", FileNotFoundError, "interactions='none.csv': there is no such file"),
        ("a.csv,none.csv", FileNotFoundError, "interactions='none.csv': there is no such file"),
        ("n*.csv", FileNotFoundError, r"interactions='n\*.csv': there is no such file"),
        ("folder", FileNotFoundError, "interactions='folder' is a folder without files"),
        ("delta", ValueError, "interactions='delta' is a Delta Lake table"),
        ("fifo", ValueError, "interactions='fifo' is not usable: it is neither a plain file nor a folder"),
        ("", ValueError, "interactions='' is not usable"),
        ([], ValueError, r"interactions=\[\] is not usable"),
        (7, ValueError, "interactions=7 is not usable: it must be a path"),
    ],
)
def test_sources_that_are_no_files(source, error, told):
    Path("a.csv").touch()
    Path("folder").mkdir()
    Path("delta/_delta_log").mkdir(parents=True)
    if source == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no FIFOs here")
        os.mkfifo("fifo")
    with pytest.raises(error, match=told):
        source_files(source, "interactions")


def test_the_extension_below_that_of_the_archive():
    Path("a.zip").write_bytes(zipped(**{"x__Events.CSV": b"x"}))
    assert [table_suffix(Path(name)) for name in ("a.csv.gz", "a.b.CSV", "a.zip", "part-00000", "a.gz")] == [
        ".csv", ".csv", ".csv", "", "",
    ]  # fmt: skip


def test_zstd_without_pyarrow(monkeypatch):
    Path("a.zst").write_bytes(zstd(b"x"))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match="a.zst needs pyarrow.*or unpack it"):
        open_bytes(Path("a.zst"))
