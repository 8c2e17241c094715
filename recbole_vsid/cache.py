"""A folder of results that are expensive to make again: fitted tokenizers, text and FAMAE embeddings.

One entry is one safetensors file whose header holds, as JSON, everything the result depends on, a
checksum of everything in the file, and plain values. An entry is written to a temporary file and then
moved, so it is whole or absent, and two processes that make the same entry do not harm each other: the
later one replaces equal bytes. An entry that is damaged, or that some other key produced, is made again
with one warning.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from logging import getLogger
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recbole_vsid.storage import atomic_path, content_hash

# The code that decides what an entry holds. Another version of any of it makes new entries.
SOURCES = (
    "tokenizer/**/*.py",
    "semantic_id/*.py",
    "layers.py",
    "data/content*.py",
    "data/fields.py",
    "data/text.py",
    "data/hook.py",
)


@functools.lru_cache(maxsize=1)
def code_version():
    """Hash of the package's code that makes cached results, 16 hexadecimal digits."""
    root = Path(__file__).parent
    files = [file for source in SOURCES for file in sorted(root.glob(source))]
    return content_hash(*[[file.name, file.read_text(encoding="utf-8")] for file in files])


def cached(folder, kind, key, build):
    """The entry of ``key``, read from ``folder`` or built and kept there.

    Args:
        folder: the cache folder; None switches the cache off.
        kind: first part of the file name, for instance the name of a tokenizer.
        key: dict of plain values: everything that the result depends on; the version of the code is added.
        build: called without arguments if there is no such entry; returns a dict of tensors and a dict of
            plain values.

    Returns:
        (tensors, values, hit): ``hit`` says whether the entry was read, ``values["seconds"]`` how long it took to make.
    """
    if folder is None:
        return (*_build(build), False)
    key = {**key, "kind": kind, "code": code_version()}
    path = Path(folder) / f"{kind}-{content_hash(key)}.safetensors"
    if path.is_file():
        try:
            return (*_read(path, key), True)
        except ValueError as error:
            getLogger().warning(f"cache entry {path} is not usable ({error}); it is made again")
    tensors, values = _build(build)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        _write(path, key, tensors, values)
    except OSError as error:  # the work of minutes is not thrown away for want of a place to keep it
        getLogger().warning(f"cache entry {error}; cache_dir={str(folder)!r} can be changed")
    return tensors, values, False


def _build(build):
    started = time.perf_counter()
    tensors, values = build()
    return tensors, {**values, "seconds": round(time.perf_counter() - started, 2)}


def _write(path, key, tensors, values):
    entry = {"key": key, "values": values}
    text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"entry": text, "checksum": _checksum(text, tensors)})


def _read(path, key):
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        text = metadata["entry"]
        if metadata["checksum"] != _checksum(text, tensors):
            raise ValueError("its checksum does not match")
        entry = json.loads(text)
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"damaged or not a cache entry: {error}") from error
    if entry["key"] != json.loads(json.dumps(key)):
        raise ValueError("it belongs to other data, settings or code")
    return tensors, entry["values"]


def _checksum(text, tensors):
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
