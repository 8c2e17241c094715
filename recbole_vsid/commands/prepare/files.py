"""The files of a table: one, a list, a pattern or a folder of parts; compressed or not, in any encoding."""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

COMPRESSED_SUFFIXES = (".gz", ".gzip", ".bz2", ".xz", ".lzma", ".zst", ".zstd", ".zip")
SPREADSHEET_SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
SPREADSHEET_MEMBERS = ("xl/workbook.xml", "xl/workbook.bin", "content.xml")
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # an .xls
# The longer mark first: that of UTF-16 begins that of UTF-32.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UNREADABLE = (OSError, EOFError, RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
BLOCK = 1 << 20


# ----------------------------------------------------------------- which files


def source_files(source: Any, setting: str) -> list[Path]:
    """The files that ``source`` stands for.

    Args:
        source: a path, a pattern (``a*.csv``), a folder of part files, several of them separated by commas, or a list.
            Of a folder, files count whose names do not begin with ``_`` or ``.`` (``_SUCCESS``), also in its folders.
        setting: what the user sets to ``source``, for messages.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ValueError: ``source`` is no path, or a folder that cannot be read file by file.
    """
    given = list(source) if isinstance(source, (list, tuple)) else [source]
    if not given or any(not isinstance(each, (str, os.PathLike)) or not str(each).strip() for each in given):
        raise ValueError(f"{setting}={source!r} is not usable: it must be a path, a list of paths, or a DataFrame")
    if isinstance(source, str) and "," in source and not os.path.exists(source):
        given = [each.strip() for each in source.split(",") if each.strip()]
    return [file for each in given for file in _files_of(each, setting)]


def _files_of(path: str | os.PathLike, setting: str) -> list[Path]:
    if os.path.exists(path):
        return _parts(Path(path), setting)
    matches = sorted(glob.glob(str(path), recursive=True), key=_natural)
    if not matches:
        raise FileNotFoundError(f"{setting}={str(path)!r}: there is no such file")
    return [file for match in matches for file in _parts(Path(match), setting)]


def _parts(path: Path, setting: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{setting}={str(path)!r} is not usable: it is neither a plain file nor a folder")
    if (path / "_delta_log").is_dir():  # it also holds files with rows that are deleted
        raise ValueError(f"{setting}={str(path)!r} is a Delta Lake table; write it as plain Parquet or CSV")
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(("_", "."))]
        found += [os.path.join(folder, name) for name in names if not name.startswith(("_", "."))]
    if not found:
        raise FileNotFoundError(f"{setting}={str(path)!r} is a folder without files")
    files = [Path(name) for name in sorted(found, key=_natural)]
    return [file for file in files if file.stat().st_size] or files[:1]  # Spark writes a file for an empty part


def _natural(name: str) -> list[tuple[int, str]]:
    """part-2 comes before part-10."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name) if piece]


def table_suffix(path: Path) -> str:
    """The extension that tells the kind of table, in lower case: ``.csv`` of ``a.csv.gz``, and that within a .zip."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    if suffixes or not zipfile.is_zipfile(path):
        return suffixes[-1] if suffixes else ""
    with zipfile.ZipFile(path) as archive:
        return Path(_only_member(archive, path)).suffix.lower()


# --------------------------------------------------------------------- content


def open_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked if its first bytes say that it is compressed, whatever its name says.

    Raises:
        ValueError: a spreadsheet, or an archive of several files.
        ImportError: a .zst, and pyarrow is not installed.
    """
    with open(path, "rb") as file:
        start = file.read(10)
    if path.suffix.lower() in SPREADSHEET_SUFFIXES or start.startswith(OLE_MAGIC):
        raise ValueError(_spreadsheet(path))
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path, "rb")
    if re.match(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)", start):
        return bz2.open(path, "rb")
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.open(path, "rb")
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            from pyarrow import input_stream
        except ImportError as error:
            raise ImportError(f'{path} needs pyarrow: pip install "recbole_vsid[parquet]" (or unpack it)') from error
        return input_stream(str(path), compression="zstd")
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        archive = zipfile.ZipFile(path)
        return archive.open(_only_member(archive, path))
    return open(path, "rb")


def first_bytes(path: Path, size: int) -> bytes:
    """How the unpacked content of a file begins.

    Raises:
        ValueError: it cannot be unpacked.
    """
    with _unpacking(path), open_bytes(path) as file:
        return file.read(size)


def is_utf8(path: Path) -> bool:
    """Whether a file is UTF-8 and holds more than ASCII; a text in another encoding is hardly ever."""
    decoder, only_ascii = codecs.getincrementaldecoder("utf-8")(), True
    with _unpacking(path), open_bytes(path) as file:
        block = b" "
        while block:
            block = file.read(BLOCK)
            only_ascii &= block.isascii()
            try:
                decoder.decode(block, not block)
            except UnicodeDecodeError:
                return False
    return not only_ascii


def _only_member(archive: zipfile.ZipFile, path: Path) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if set(names) & set(SPREADSHEET_MEMBERS):
        raise ValueError(_spreadsheet(path))
    names = [name for name in names if not name.startswith("__MACOSX/") and not Path(name).name.startswith(".")]
    if len(names) != 1:
        raise ValueError(f"{path} is an archive of {len(names)} files, {names[:5]}; unpack it and name one of them")
    return names[0]


def _spreadsheet(path: Path) -> str:
    return f"{path} is a spreadsheet, which prepare does not read; save its sheet as CSV (UTF-8)"


def check_encoding(encoding: str | None) -> None:
    """Refuse a value of ``encoding`` that is no name of an encoding of texts.

    Raises:
        ValueError: naming it.
    """
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    except (LookupError, TypeError, ValueError) as error:
        allowed = "it must be the name of an encoding, like utf-8, latin-1, cp1252, utf-16 or gb18030"
        raise ValueError(f"encoding={encoding!r} is not usable: {allowed}") from error


@contextmanager
def open_text(path: Path, encoding: str | None = None) -> Iterator[TextIO]:
    """The text of a file, line ends as they are. A byte order mark decides, then ``encoding``, then UTF-8.

    Raises:
        ValueError: the file cannot be unpacked or is not in that encoding; the line is named.
    """
    start = first_bytes(path, 4)
    codec = next((codec for mark, codec in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    codec = codec or encoding or "utf-8"
    try:
        with _unpacking(path), io.TextIOWrapper(open_bytes(path), encoding=codec, newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(path, codec)) from error
    except UnicodeError as error:  # no byte order mark where one must be
        raise ValueError(f"{path} is not readable as {codec} text: {error}; set encoding") from error


def _undecodable(path: Path, codec: str) -> str:
    label = "UTF-8" if codec == "utf-8-sig" else codec.upper() if codec.startswith("utf") else codec
    decoder, n_bytes, line = codecs.getincrementaldecoder(codec)(), 0, 1
    with _unpacking(path), open_bytes(path) as file:
        block = b" "
        while block:
            block = file.read(BLOCK)
            n_bytes += len(block)
            try:
                line += decoder.decode(block, not block).count("\n")
            except UnicodeDecodeError as error:
                line += error.object[: error.start].decode(codec, "ignore").count("\n")
                byte, place = error.object[error.start], n_bytes - len(error.object) + error.start + 1
                return (
                    f"{path} is not readable as {label} text: line {line} holds 0x{byte:02x} (byte {place:,} of the "
                    "file); set encoding to that of the program that wrote it, like latin-1, cp1252 or utf-16"
                )
    return f"{path} is not readable as {label} text; set encoding"


@contextmanager
def _unpacking(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise ValueError(f"{path} is not readable: {error}") from error


@contextmanager
def readable(name: str, form: str) -> Iterator[None]:
    """Turns what a parser raises into an error with the table's name and the form that it should have had."""
    try:
        yield
    except (ValueError, *UNREADABLE) as error:
        message = " ".join(str(error).split())  # pandas' words end in a line break
        raise ValueError(f"{name} is not readable as {form}: {message}") from error
