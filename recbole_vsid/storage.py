"""Files that are whole or absent: atomic writes, content hashes, safe names, safe loading.

Nothing here unpickles. Arrays travel as safetensors, settings as JSON, and checkpoints as plain
tensors and plain values that ``torch.load(weights_only=True)`` opens, with a checksum over all of them.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from recbole_vsid.memory import is_out_of_memory

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


# The entry of a checkpoint with the digest of all others.
CHECKSUM = "checksum"

# Files that killed processes left are removed once they are older; a younger one may be of a process at work.
STALE_SECONDS = 3600

# What `mkstemp` puts between the name of the target and `.tmp`.
TEMPORARY = "." + "[a-z0-9_]" * 8 + ".tmp"

# How PyTorch says that a file could not be written; it does not tell why.
PYTORCHS_WRITERS = ("inline_container", "PytorchStreamWriter", "iostream error")
PYTORCH_FAILED = "PyTorch could not write it to its end (no space left, or a limit on the size of files)"

KINDS_OF_FILES = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_writable(path: str | Path, setting: str) -> None:
    """Refuse, before any work, a file that :func:`atomic_path` could not or must not write.

    What is there already has to be a plain file; the folders above may be links, and are made if they are missing.

    Raises:
        OSError: naming the path and the setting.
    """
    path = Path(path)
    shown = f"{setting}={str(path)!r}"
    kind = _kind_in_the_way(path, shown)
    if kind:
        raise (IsADirectoryError if kind == "a folder" else OSError)(
            f"{shown} is {kind}, not a file; name a plain file or a new one"
        )
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise NotADirectoryError(f"{shown} cannot be written: {parent} is not a folder")
    try:
        handle, probe = tempfile.mkstemp(dir=parent, prefix=path.name + ".", suffix=".tmp")
    except OSError as error:
        raise OSError(f"{shown} cannot be written: {parent} cannot be written to ({error.strerror})") from error
    os.close(handle)
    os.unlink(probe)


def _kind_in_the_way(path, shown):
    """What stands at ``path`` and is no plain file, in words; None if nothing does."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a name too long, a NUL byte
        raise OSError(f"{shown} is not usable as a path: {getattr(error, 'strerror', None) or error}") from error
    return next((words for test, words in KINDS_OF_FILES if test(mode)), None)


def remove_stale(folder: str | Path, name: str | None = None) -> None:
    """Remove what killed processes left of ``name``, by default of any file, in ``folder``.

    Only temporary files of :func:`atomic_path` that nobody has written to for :data:`STALE_SECONDS`.
    """
    pattern = "*" if name is None else glob.escape(name)
    for leftover in Path(folder).glob(pattern + TEMPORARY):
        try:
            found = leftover.lstat()
            if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > STALE_SECONDS:
                leftover.unlink()
        except OSError:
            pass  # another process was faster, or it is not ours to remove


@contextmanager
def atomic_path(path: str | Path, voids: Sequence[Path] = ()) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces ``path`` only if the block succeeds.

    Args:
        voids: files that must not be there together with the new ``path``; removed just before it is.

    Raises:
        OSError: naming ``path``: it is no plain file, or cannot be written to its end.
    """
    path = Path(path)
    kind = _kind_in_the_way(path, str(path))
    if kind:
        raise (IsADirectoryError if kind == "a folder" else OSError)(f"{path} is {kind}, not a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent, path.name)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".tmp")
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb+") as written:  # Windows flushes only what is open for writing
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; artefacts are shared
        for void in voids:
            void.unlink(missing_ok=True)
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _unwritten(error, temporary)
        if reason is None:
            raise
        raise OSError(f"{path} cannot be written: {reason}") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _unwritten(error, temporary):
    """Why ``temporary`` could not be written, in words; None if that is not what went wrong."""
    if isinstance(error, OSError):
        # Another file's error is told by who reads it.
        return (error.strerror or str(error)) if error.filename in (None, temporary, Path(temporary)) else None
    if isinstance(error, SafetensorError):
        return str(error) if "I/O error" in str(error) else None
    return PYTORCH_FAILED if any(words in str(error) for words in PYTORCHS_WRITERS) else None


def write_json(path, value):
    """Write ``value`` as indented UTF-8 JSON, atomically. NaN and infinities are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path):
    """Read a JSON file; a damaged one raises ``ValueError`` naming the file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers or nesting beyond what Python reads
        raise ValueError(f"{path} is not readable JSON: {error}") from error


def save_checkpoint(path: str | Path, state: dict, voids: Sequence[Path] = ()) -> None:
    """``torch.save`` of plain tensors and plain values with a checksum over them, atomically.

    Args:
        voids: as for :func:`atomic_path`.

    Raises:
        TypeError: naming the first entry that ``torch.load(weights_only=True)`` would refuse.
        OSError: naming the file that cannot be written.
    """
    _require_plain(state, "checkpoint")
    with atomic_path(path, voids) as temporary:
        try:
            torch.save({**state, CHECKSUM: checksum(state)}, temporary)
        except RuntimeError as error:  # plain as the state is, nothing but the file is left to fail
            if is_out_of_memory(error):
                raise
            raise OSError(PYTORCH_FAILED) from error


def _require_plain(value, where):
    if isinstance(value, dict):
        for key, entry in value.items():
            _require_plain(entry, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for position, entry in enumerate(value):
            _require_plain(entry, f"{where}[{position}]")
    elif type(value) not in (str, int, float, bool, type(None)) and not isinstance(value, torch.Tensor):
        raise TypeError(f"{where} is a {type(value).__name__}; checkpoints hold plain tensors and plain values only")


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Open what :func:`save_checkpoint` wrote, without running anybody's code, and compare its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds more than plain tensors and values, or has no checksum.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickles of other programs
            state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # torch's RuntimeError, UnpicklingError, EOFError, ... advise to unpickle the file
        if is_out_of_memory(error):
            raise ValueError(f"{path} cannot be opened: there is not enough memory, or it is damaged") from error
        raise ValueError(
            f"{path} is not a checkpoint of this package: damaged, or written by another program"
        ) from error
    if not isinstance(state, dict) or CHECKSUM not in state:
        raise ValueError(
            f"{path} has no checksum: it is of an older version of this package, or no checkpoint of it; train again"
        )
    given = state.pop(CHECKSUM)
    try:
        _require_plain(state, "checkpoint")
        intact = given == checksum(state)
    except TypeError:
        intact = False
    if not intact:
        raise ValueError(f"{path} is damaged: its content does not match its checksum")
    return _moved(state, torch.device(device))


def checksum(value: object) -> str:
    """SHA-256 over nested dicts, lists, tensors and plain values: names, kinds, shapes and every bit; 64 digits."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest, value):
    if isinstance(value, dict):
        digest.update(f"dict {len(value)};".encode())
        for key, entry in value.items():
            _feed(digest, key)
            _feed(digest, entry)
    elif isinstance(value, (list, tuple)):
        digest.update(f"{type(value).__name__} {len(value)};".encode())
        for entry in value:
            _feed(digest, entry)
    elif isinstance(value, torch.Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)} {value.layout};".encode())
        if value.layout is torch.strided:
            plain = value.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().data)
        else:
            sparse = value.detach().cpu().to_sparse_coo().coalesce()
            _feed(digest, sparse.indices())
            _feed(digest, sparse.values())
    else:
        text = repr(value).encode()
        digest.update(f"{type(value).__name__} {len(text)};".encode() + text)


def _moved(value, device):
    if device.type == "cpu":
        return value
    if isinstance(value, dict):
        return {key: _moved(entry, device) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(entry, device) for entry in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value


def content_hash(*parts):
    """Hash arrays, strings and plain values; 16 hexadecimal digits, the same on every machine."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            if isinstance(part, np.ndarray):
                part = part.tolist()
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\x00")
    return digest.hexdigest()[:16]


def check_name(name, setting):
    """Refuse names that could leave a folder (``../x``, ``a/b``, empty); return ``name``.

    Raises:
        ValueError: naming the value, what is allowed, and the setting to change.
    """
    if not isinstance(name, str) or not SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"{setting}={name!r} is not a usable name: letters, digits and . _ + - only, the first a letter or digit"
        )
    return name
