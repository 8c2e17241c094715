"""Item content from a matrix made elsewhere: ``content: file`` with ``content_file`` (and ``content_ids``)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from recbole_vsid.data.atomic_files import AtomicFile
from recbole_vsid.data.content import ItemContent
from recbole_vsid.semantic_id.array_files import load_npy, shortened
from recbole_vsid.semantic_id.numbering import in_order, read_ids


def from_file(dataset):
    """A matrix made elsewhere: ``content_file``, a ``.npy`` or ``.safetensors`` keyed by item token.

    ``.npy`` ``[n, d]``: row *i* belongs to line *i* of ``content_ids`` (a text file as ``sid_file_ids``, one item id
    per line) or, without it, to data row *i* of the dataset's ``.item`` file. ``.safetensors``: a tensor ``embedding``
    with the JSON list ``item_tokens`` in its metadata, or one tensor per item token.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged, rows and ids are not as many, ids repeat, items have no row (named).
    """
    path = _find(dataset, "content_file")
    if path.suffix == ".npy":
        try:
            matrix = load_npy(path)
        except ValueError as error:
            raise ValueError(f"content_file {error}") from error
        ids = _ids_of_rows(dataset)
    elif path.suffix == ".safetensors":
        matrix, ids = _read_safetensors(path)
    else:
        raise ValueError(f"content_file={str(path)!r} must end in .npy or .safetensors")
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"content_file {path} is not a .npy file of numbers")
    if matrix.ndim != 2 or len(matrix) != len(ids):
        raise ValueError(f"content_file {path} has shape {matrix.shape}, which does not match {len(ids)} item ids")
    index = pd.Index(ids)
    if index.has_duplicates:
        raise ValueError(f"content_file {path}: item id {index[index.duplicated()][0]!r} occurs more than once")
    wanted = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
    rows = index.get_indexer(wanted)
    if (rows < 0).any():
        missing = [wanted[i] for i in np.flatnonzero(rows < 0)]
        raise ValueError(
            f"content_file {path} has no row for {len(missing)} of {len(wanted)} items, among them {missing[:5]}"
        )
    values = np.zeros((dataset.item_num, matrix.shape[1]), dtype=np.float32)
    values[1:] = matrix[rows]
    return ItemContent(values, {"file": path.name})


def _find(dataset, key):
    given = dataset.config[key]
    if not given:
        raise ValueError(f"content=file needs {key}=<path>")
    for path in (Path(given), Path(dataset.dataset_path) / given):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{key}={given!r}: no such file here or in {dataset.dataset_path}")


def _ids_of_rows(dataset) -> list[str]:
    if dataset.config["content_ids"]:
        path = _find(dataset, "content_ids")
        return in_order(read_ids(path, "content_ids"), f"content_ids {path}")
    path = Path(dataset.dataset_path) / f"{dataset.dataset_name}.item"
    if not path.is_file():
        raise FileNotFoundError(f"content_file: {path} is not there to say which row is which item; set content_ids")
    file = AtomicFile(path, dataset.config["field_separator"], dataset.config["encoding"])
    if dataset.iid_field not in file.types:
        raise ValueError(
            f"content_file: {path} has no column {dataset.iid_field!r} to say which row is which item; set content_ids"
        )
    file.check()
    column = list(file.types).index(dataset.iid_field)
    return [row[column] for _, _, row in file.rows()]


def _read_safetensors(path):
    try:
        with safe_open(path, framework="pt") as file:  # NumPy has no bfloat16
            names = list(file.keys())
            if "embedding" in names:
                ids = _parse_ids((file.metadata() or {}).get("item_tokens", "null"))
                if ids is None:
                    raise ValueError(f"content_file {path}: its metadata has no JSON list item_tokens")
                return file.get_tensor("embedding").float().numpy(), ids
            rows = [file.get_tensor(name).float().numpy().reshape(-1) for name in names]
    except (SafetensorError, RuntimeError, TypeError, OverflowError) as error:  # also torch's, for rarer types
        raise ValueError(f"content_file {path} is not a safetensors file of numbers: {shortened(error)}") from error
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError(f"content_file {path}: its tensors are not all of the same length")
    return np.stack(rows), names


def _parse_ids(text):
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return [str(token) for token in ids] if isinstance(ids, list) else None
