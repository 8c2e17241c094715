"""Semantic-ID files that other projects write and read.

============  =============================================  ==========================================
format        file                                           used by
============  =============================================  ==========================================
safetensors   :meth:`SemanticIDs.save`                       this package
codes         ``.json``: ``{"B001": [12, 5, 250], ...}``     RecBole 3.0
tokens        ``.json``: ``{"B001": ["<a_12>", ...], ...}``  language models; the letter is the position
index         ``index.json``: ``{"0": ["<a_12>", ...]}``     LC-Rec (arXiv 2311.09049), LETTER
                                                             (2405.07314), MiniOneRec (2510.24431)
npy, pt       one tensor ``[n, L]``, −1 behind short codes   scripts of all kinds
============  =============================================  ==========================================

The keys of an *index* and the rows of a tensor are running numbers, and an ids file says which items they are, see
:mod:`~recbole_vsid.semantic_id.numbering`.

Codes are never changed: what is written comes back with the same codes, lengths and item ids. Vocabulary sizes,
a shared vocabulary and the suffix flag only stand in ``safetensors``; no other reader would understand them. From
any other file each position gets a vocabulary of its own, as large as its largest code needs. So a file that counts
its levels on (256.. at the second, 512.. at the third) works, but costs embeddings for ids that no item has.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import torch

from recbole_vsid.semantic_id.array_files import load_npy, load_pt, shortened
from recbole_vsid.semantic_id.collisions import collision_figures
from recbole_vsid.semantic_id.numbering import in_order, read_ids, rows_of_numbers
from recbole_vsid.semantic_id.table import PAD, SemanticIDs
from recbole_vsid.storage import atomic_path

logger = logging.getLogger(__name__)

EXTENSIONS = {
    "safetensors": ".safetensors",
    "codes": ".json",
    "tokens": ".json",
    "index": ".json",
    "npy": ".npy",
    "pt": ".pt",
}
NUMBERED = ("index", "npy", "pt")

TOKEN = re.compile(r"<([a-z])_([0-9]+)>")
LARGEST_CODE = np.iinfo(np.int32).max
MOST_TOKENS = 10_000_000  # each costs an embedding: far more than any catalogue needs, and still small enough to hold


# ------------------------------------------------------------------- reading


def read_table(path, item_tokens, ids=None):
    """The table of a dataset from a file; the extension and what is inside say which format it is.

    A ``.json`` whose keys are item ids needs no ``ids``. With ``ids`` its keys are running numbers, also where they
    could be item ids as well. Without, keys 0, 1, ... are item ids only if the dataset has an item of every such id.

    Args:
        path: the file.
        item_tokens: external item ids in RecBole's order, ``[n_items]``, row 0 the padding item. A key, a row or a
            line of ``ids`` of the padding item is skipped.
        ids: the ids file of running numbers; needed for ``index``, ``.npy`` and ``.pt``, and refused elsewhere.

    Returns:
        SemanticIDs with the rows in the order of ``item_tokens``. Items that the dataset does not have are left out
        and counted in the provenance; the vocabularies hold their codes all the same. If items share a code, the
        table is neither ``unique`` nor ``prefix_free``, and a decoder returns all of them, the smaller row first.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: the file is damaged, its codes are not usable (the item is named), it lacks items of the dataset,
            one code begins another, there are more than 10 million codes, or ``ids`` is missing or does not match.
    """
    path, item_tokens = Path(path), np.asarray(item_tokens, dtype=str)
    extension = path.suffix.lower()
    if extension not in EXTENSIONS.values():
        raise ValueError(f"{path} is no semantic-ID file: its name must end in .safetensors, .json, .npy or .pt")
    try:
        file_hash = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise type(error)(f"sid_file={str(path)!r} cannot be read: {error.strerror}") from error
    source = None
    if extension == ".safetensors":
        if ids is not None:
            raise ValueError(f"{path} names its items itself; leave out the ids file (sid_file_ids)")
        source, format = SemanticIDs.load(path), "safetensors"
        tokens, codes, lengths = source.item_tokens[1:].tolist(), source.codes[1:], source.lengths[1:]
    elif extension == ".json":
        tokens, codes, lengths, format = _read_json(path, item_tokens, ids)
    else:
        tokens, codes, lengths = _read_matrix(path, item_tokens, ids)
        format = extension[1:]

    vocab_sizes = source.vocab_sizes if source is not None else (codes.max(0).astype(np.int64) + 1).tolist()
    if sum(vocab_sizes) > MOST_TOKENS:
        item = tokens[int(codes.max(1).argmax())]
        raise ValueError(
            f"{path}: its vocabularies have {shortened(sum(vocab_sizes), 40)} codes, and {MOST_TOKENS:,} at most are "
            f"usable; the largest code is {codes.max()}, of item {item!r}: number the codes of each position from 0 on"
        )
    rows = _rows_of(item_tokens, tokens, path)
    ignored = len(tokens) - len(rows)
    if ignored:
        logger.warning(f"{path} has {ignored} items that the dataset does not have; they are left out")
    provenance = {
        "tokenizer": "file",
        "file": path.name,
        "file_hash": file_hash,
        "format": format,
        "ignored_items": ignored,
    }
    matched = np.full((len(item_tokens), codes.shape[1]), PAD, dtype=np.int32)
    matched[1:] = codes[rows]
    lengths = np.r_[0, lengths[rows]]
    if source is not None:
        provenance["origin"] = source.provenance
        return replace(source, codes=matched, lengths=lengths, item_tokens=item_tokens, provenance=provenance)
    try:
        return _table_that_may_share(matched, lengths, vocab_sizes, item_tokens, provenance, path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _table_that_may_share(codes, lengths, vocab_sizes, item_tokens, provenance, path):
    # One item of each code: of these no code may begin another, however many items share them.
    first = np.sort(np.unique(codes, axis=0, return_index=True)[1])
    distinct = SemanticIDs(codes[first], lengths[first], vocab_sizes, False, item_tokens[first], provenance)
    if len(first) == len(codes):
        return distinct
    figures = collision_figures(codes[1:])
    logger.warning(
        f"{path}: {figures['items']} of {len(codes) - 1} items share their semantic ID, up to "
        f"{figures['largest_group']} one; they are always recommended together"
    )
    return SemanticIDs(
        codes=codes,
        lengths=lengths,
        vocab_sizes=vocab_sizes,
        shared_vocabulary=False,
        item_tokens=item_tokens,
        provenance={**provenance, "collisions": {"policy": "none", **figures}},
        unique=False,
        prefix_free=False,
    )


def _rows_of(item_tokens, tokens, path):
    """Row of the file of each of the items 1.., int64 ``[n_items - 1]``."""
    row_of = {token: row for row, token in enumerate(tokens)}
    wanted = item_tokens[1:].tolist()
    missing = [token for token in wanted if token not in row_of]
    if missing:
        raise ValueError(
            f"{path} has no semantic ID for {len(missing)} of {len(wanted)} items of the dataset, first {missing[:5]}"
        )
    return np.array([row_of[token] for token in wanted], dtype=np.int64)


# ----------------------------------------------------------------------- JSON


def _read_json(path, item_tokens, ids):
    """``(tokens, codes [n, L], lengths [n], format)`` of a JSON file, without the padding item."""
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=_dict_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {shortened(error)}") from error
    if not isinstance(document, dict) or not document:
        raise ValueError(f"{path} must be one JSON object, item id → list of codes")
    tokens = _tokens_of_keys(list(document), item_tokens, ids, path)
    listed = {token: codes for token, codes in zip(tokens, document.values()) if token != item_tokens[0]}
    codes, lengths, format = _read_lists(listed, path)
    return list(listed), codes, lengths, format if ids is None else "index"


def _dict_without_repeats(pairs):
    document = dict(pairs)
    if len(document) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {key!r} occurs more than once")
    return document


def _tokens_of_keys(keys, item_tokens, ids, path):
    if ids is not None:
        token_of = read_ids(ids)
        unknown = [key for key in keys if key not in token_of]
        if unknown:
            raise ValueError(
                f"{path}: {len(unknown)} of {len(keys)} keys, {unknown[0]!r} first, are no numbers of {ids}; if the "
                "keys are item ids, leave out the ids file (sid_file_ids)"
            )
        return [token_of[key] for key in keys]
    running = set(keys) == {str(number) for number in range(len(keys))}
    if running and not set(keys) <= set(item_tokens.tolist()):
        raise ValueError(
            f"{path}: its keys are running numbers, 0 to {len(keys) - 1}, and not all of them are items of the "
            "dataset; name the file that says which item each number is (sid_file_ids: one item id per line, or "
            "lines item id<TAB>number)"
        )
    return keys


def _read_lists(listed, path):
    """``(codes [n, L], lengths [n], format)`` of a dict item token → list of codes."""
    tokens = list(listed)
    for token, codes in listed.items():
        if not isinstance(codes, list) or not codes:
            raise ValueError(
                f"{path}: item {token!r} must have a list of codes that is not empty, not {shortened(repr(codes))}"
            )
    lengths = np.array([len(codes) for codes in listed.values()])
    flat = list(chain.from_iterable(listed.values()))
    row = np.repeat(np.arange(len(tokens)), lengths)
    position = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

    def refuse(bad, allowed):
        if np.any(bad):
            first = int(np.argmax(bad))
            raise ValueError(
                f"{path}: item {tokens[row[first]]!r} has the code {shortened(repr(flat[first]), 500)} at position "
                f"{position[first] + 1}; {allowed}"
            )

    format = "tokens" if isinstance(flat[0], str) else "codes"
    types = (str,) if format == "tokens" else (int, float)
    refuse(
        [type(code) not in types for code in flat],
        f"codes must be whole numbers or tokens like '<a_12>', the same kind in the whole file (here {format})",
    )
    if format == "tokens":
        parsed = {token: _parse_token(token) for token in set(flat)}
        letter, flat_codes = np.array([parsed[token] for token in flat], dtype=np.float64).T
        refuse(letter < 0, "tokens must look like '<a_12>': a letter from a to z and a whole number")
        refuse(letter != position, "the letter must be a at the first position, b at the second, and so on")
    else:
        flat_codes = flat
    refuse(
        [not (0 <= code <= LARGEST_CODE and code % 1 == 0) for code in flat_codes],
        f"codes must be whole numbers from 0 to {LARGEST_CODE}",
    )
    codes = np.full((len(tokens), lengths.max()), PAD, dtype=np.int32)
    codes[row, position] = flat_codes
    return codes, lengths, format


def _parse_token(token):
    """``<c_7>`` → (2, 7): position and code; (−1, 0) for anything else."""
    match = TOKEN.fullmatch(token)
    return (ascii_lowercase.index(match[1]), float(match[2])) if match else (-1, 0)


# -------------------------------------------------------------------- tensors


def _read_matrix(path, item_tokens, ids):
    """``(tokens, codes [n, L], lengths [n])`` of a ``.npy`` or ``.pt`` file, without the padding item."""
    matrix = load_npy(path) if path.suffix.lower() == ".npy" else load_pt(path)
    if matrix.ndim != 2 or matrix.dtype.kind not in "iuf":
        raise ValueError(f"{path} must hold numbers [n, L], not {matrix.dtype} {list(matrix.shape)}")
    if ids is None:
        advice = ""
        if len(matrix) == len(item_tokens):
            advice = (
                f"; it has as many rows as the dataset has items and the padding item: if it was made in RecBole's "
                f"order, the ids file is RecBole's item ids from {str(item_tokens[0])!r} on"
            )
        raise ValueError(
            f"{path} does not say which of its {len(matrix)} rows is which item; name the file that does "
            f"(sid_file_ids: one item id per line, in the order of the rows){advice}"
        )
    tokens = in_order(read_ids(ids), ids)
    if len(tokens) != len(matrix):
        raise ValueError(f"{path} has {len(matrix)} rows (its shape is {list(matrix.shape)}), {ids} {len(tokens)} ids")
    items = np.array([token != item_tokens[0] for token in tokens], dtype=bool)
    tokens, matrix = [token for token in tokens if token != item_tokens[0]], matrix[items]

    def refuse(bad, message):
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(f"{path}: item {tokens[row]!r} has the codes {matrix[row].tolist()}; {message}")

    with np.errstate(invalid="ignore"):  # infinities have no remainder; they are refused
        code = (matrix >= 0) & (matrix <= LARGEST_CODE) & (matrix % 1 == 0)
    refuse(~(code | (matrix == PAD)).all(1), f"codes must be whole numbers from 0 to {LARGEST_CODE}, or −1 behind them")
    lengths = code.sum(1)
    refuse(lengths == 0, "an item must have at least one code")
    refuse((code != (np.arange(matrix.shape[1]) < lengths[:, None])).any(1), "−1 may only stand behind the codes")
    return tokens, matrix[:, : lengths.max(initial=0)].astype(np.int32), lengths


# ------------------------------------------------------------------- writing


def write_table(table, path, format=None, ids=None):
    """Write a table for another program, atomically.

    Args:
        table: :class:`~recbole_vsid.semantic_id.table.SemanticIDs`.
        path: the file; its folder is made.
        format: one of ``safetensors``, ``codes``, ``tokens``, ``index``, ``npy`` and ``pt``. By default the extension
            decides: ``…index.json`` is an ``index``, any other ``.json`` holds ``codes``.
        ids: for ``index``, ``npy`` and ``pt``, and only there: the ids file of the numbering. One that exists is
            followed and must name exactly the items of the table; otherwise it is written, in the table's order.

    Raises:
        ValueError: an unknown format, an extension that does not suit it, ``ids`` missing, not matching or of no use,
            or more positions than letters.
    """
    path, format = Path(path), format_of(path, format)
    if (ids is not None) != (format in NUMBERED):
        advice = "needs an ids file that says which number is which item" if ids is None else "needs no ids file"
        raise ValueError(f"{path}: format={format} {advice}, not ids={ids!r}")
    if format == "safetensors":
        table.save(path)
    elif format in ("npy", "pt"):
        _write_matrix(path, table.codes[in_order(rows_of_numbers(table, ids), ids)].astype(np.int64))
    else:
        lists = _lists(table, as_tokens=format != "codes")
        if format == "index":
            document = {number: lists[row] for number, row in rows_of_numbers(table, ids).items() if row}
        else:
            document = dict(zip(table.item_tokens[1:].tolist(), lists[1:]))
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def format_of(path, format=None):
    """The format in which :func:`write_table` would write ``path``.

    Raises:
        ValueError: an unknown format, or an extension that does not suit it.
    """
    extension, name = Path(path).suffix.lower(), Path(path).name
    if format is None and extension == ".json":
        format = "index" if name.endswith("index.json") else "codes"
    elif format is None:
        format = extension[1:]
    if EXTENSIONS.get(format) != extension:
        formats = ", ".join(f"{name} ({ending})" for name, ending in EXTENSIONS.items())
        raise ValueError(f"{path} cannot be written as format={format!r}; formats and extensions are {formats}")
    return format


def _lists(table, as_tokens):
    """The semantic ID of every row as a list, without padding."""
    lists = [codes[:length] for codes, length in zip(table.codes.tolist(), table.lengths.tolist())]
    if not as_tokens:
        return lists
    if table.max_length > len(ascii_lowercase):
        raise ValueError(f"tokens like '<a_12>' have 26 letters for positions, and the table has {table.max_length}")
    return [[f"<{letter}_{code}>" for letter, code in zip(ascii_lowercase, codes)] for codes in lists]


def _write_matrix(path, codes):
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        if path.suffix.lower() == ".npy":
            np.save(file, codes, allow_pickle=False)
        else:
            torch.save(torch.from_numpy(codes), file)
