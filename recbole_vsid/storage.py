"""Files that are whole or absent: atomic writes, content hashes, safe names, safe loading.

Nothing here unpickles. Arrays travel as safetensors, settings as JSON, and checkpoints as plain
tensors and plain values that ``torch.load(weights_only=True)`` opens.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def check_writable(path, setting):
    """Refuse, before any work, a file that :func:`atomic_path` could not write.

    Raises:
        OSError: naming the path and the setting.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{setting}={str(path)!r} is a folder, not a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        reason = "cannot be written to" if parent.is_dir() else "is not a folder"
        raise PermissionError(f"{setting}={str(path)!r} cannot be written: {parent} {reason}")


@contextmanager
def atomic_path(path):
    """Yield a temporary path in the same folder; it replaces ``path`` only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".tmp")
    os.close(handle)
    try:
        yield Path(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; artefacts are shared
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_json(path, value):
    """Write ``value`` as indented UTF-8 JSON, atomically. NaN and infinities are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path):
    """Read a JSON file; a damaged one raises ``ValueError`` naming the file."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error


def save_checkpoint(path, state):
    """``torch.save`` of plain tensors and plain values, atomically.

    Raises:
        TypeError: naming the first entry that ``torch.load(weights_only=True)`` would refuse.
    """
    _require_plain(state, "checkpoint")
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _require_plain(value, where):
    if isinstance(value, dict):
        for key, entry in value.items():
            _require_plain(entry, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for position, entry in enumerate(value):
            _require_plain(entry, f"{where}[{position}]")
    elif type(value) not in (str, int, float, bool, type(None)) and not isinstance(value, torch.Tensor):
        raise TypeError(f"{where} is a {type(value).__name__}; checkpoints hold plain tensors and plain values only")


def load_checkpoint(path, device="cpu"):
    """Open a checkpoint without running anybody's code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds more than plain tensors and values.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... here
        raise ValueError(
            f"{path} is not a checkpoint of this package (damaged, or written by another program): {error}"
        ) from error


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
