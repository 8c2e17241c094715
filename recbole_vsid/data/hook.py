"""The preprocessing hook: item content → tokenizer fitted on the training split → ``SemanticIDs``.

A fitted tokenizer is kept in the cache with its table and diagnostics, so a second run of the same
configuration goes straight to training. ``sid_file`` takes a table made elsewhere instead.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from logging import getLogger
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from recbole_vsid.cache import cached
from recbole_vsid.data.content import item_content
from recbole_vsid.registry import get_tokenizer
from recbole_vsid.semantic_id.diagnostics import diagnose
from recbole_vsid.semantic_id.exchange import read_table
from recbole_vsid.semantic_id.table import SemanticIDs
from recbole_vsid.storage import content_hash
from recbole_vsid.tokenizer.base import Tokenizer, TokenizerInput


def fit_semantic_ids(dataset):
    """The table of the whole catalogue of ``dataset`` (after its split), as its configuration asks for it.

    Args:
        dataset: :class:`~recbole_vsid.data.dataset.SemanticIDDataset` with its ``training`` log.

    Returns:
        (SemanticIDs, dict): the table, and plain values that describe it (diagnostics, seconds).

    Raises:
        ValueError: unusable content or settings, a collapsed code, or a table that does not fit the dataset.
    """
    if dataset.config["sid_file"]:
        return imported_table(dataset)
    fitted = fit_tokenizer(dataset)
    return fitted.table, fitted.report


class Fitted(NamedTuple):
    """A fitted tokenizer with the vectors ``[n_items, d]`` it was fitted on, its table and the description of that."""

    tokenizer: Tokenizer
    embedding: np.ndarray
    table: SemanticIDs
    report: dict


def fit_tokenizer(dataset):
    """The :class:`Fitted` tokenizer of ``dataset``, new or from the cache; arguments as :func:`fit_semantic_ids`."""
    config = dataset.config
    embedding, provenance = item_content(dataset)
    content_seconds = round(sum(block.pop("seconds") for block in provenance), 2)
    data = TokenizerInput(embedding, dataset.popularity(), item_tokens(dataset))
    tokenizer = new_tokenizer(config)
    origin = {
        "dataset": dataset.dataset_name,
        "data_fingerprint": dataset.fingerprint(),
        "content": provenance,
        "content_hash": content_hash(embedding),
    }

    def build():
        n_events, n_items = int(data.popularity.sum()), len(embedding) - 1
        getLogger().info(f"Fitting tokenizer {tokenizer.name} on {n_events:,} training events of {n_items:,} items")
        started = time.perf_counter()
        tokenizer.fit(data)
        cost = {"fit_seconds": round(time.perf_counter() - started, 2), "content_seconds": content_seconds}
        cost["peak_memory_mb"] = peak_memory()
        table = tokenizer.encode(data, origin)
        errors = tokenizer.prefix_errors(embedding[1:], full_codes(tokenizer, table, embedding))
        report = diagnose(table, data.popularity, errors, embedding, dataset.training, config["seed"])
        tensors = {f"tokenizer.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
        tensors |= {"codes": torch.from_numpy(table.codes.copy()), "lengths": torch.from_numpy(table.lengths.copy())}
        names = {"tokenizer": tokenizer.name, "content": [block["encoder"] for block in provenance]}
        found = {f"{tokenizer.settings.prefix}{name}": value for name, value in tokenizer.found.items()}
        return tensors, {"table": table.plain(), "report": {**names, "found": found, **cost, **report}}

    key = {
        "tokenizer": tokenizer.name,
        "settings": asdict(tokenizer.settings),
        "seed": config["seed"],
        "device": torch.device(config["device"]).type,
        "origin": origin,
        "items": content_hash(data.item_tokens),
        "training": content_hash(dataset.training.items, dataset.training.offsets),
    }
    tensors, values, hit = cached(config["cache_dir"], tokenizer.name, key, build)
    if hit:
        getLogger().info(f"Tokenizer {tokenizer.name} from the cache ({values['seconds']:.0f} s saved)")
        learnt = [name for name in tensors if name.startswith("tokenizer.")]
        tokenizer.load_state_dict({name.removeprefix("tokenizer."): tensors[name] for name in learnt})
    table = SemanticIDs(tensors["codes"].numpy(), tensors["lengths"].numpy(), **values["table"])
    return Fitted(tokenizer, embedding, table, values["report"])


def full_codes(tokenizer, table, embedding):
    """Content codes of all positions, int32 ``[n_items - 1, T]``: the table's own unless items stop early."""
    longest = len(tokenizer.vocab_sizes)
    if (table.lengths[1:] == longest + table.suffix).all():
        return table.codes[1:, :longest]
    return tokenizer.assign_full(embedding[1:])


def imported_table(dataset):
    """The table of ``sid_file`` and its description; as :func:`fit_semantic_ids`."""
    config = dataset.config
    try:
        table = read_table(config["sid_file"], item_tokens(dataset), config["sid_file_ids"])
    except ValueError as error:
        setting = "" if str(error).startswith("sid_file") else "sid_file: "
        raise ValueError(f"{setting}{error}") from error
    origin = {"dataset": dataset.dataset_name, "data_fingerprint": dataset.fingerprint()}
    table = replace(table, provenance={**table.provenance, **origin})
    report = diagnose(table, dataset.popularity(), sequences=dataset.training, seed=config["seed"])
    getLogger().info(f"Semantic IDs of {table.n_items - 1:,} items from {config['sid_file']}")
    names = {"tokenizer": "file", "content": [], "found": {}}
    return table, {**names, "fit_seconds": 0.0, "content_seconds": 0.0, "peak_memory_mb": None, **report}


def new_tokenizer(config):
    """The configured tokenizer, not fitted."""
    tokenizer_class = get_tokenizer(config["tokenizer"])
    return tokenizer_class(
        tokenizer_class.Settings.from_config(config),
        seed=config["seed"],
        device=str(config["device"]),
        show_progress=config["show_progress"],
    )


def peak_memory():
    """Largest resident memory of this process so far in MB, on Linux exact to a few MB; None where it is not told."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM"):  # getrusage on Linux counts the process that started this one
            return round(int(line.split()[1]) * 1024 / 1e6)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def item_tokens(dataset):
    """External item ids in RecBole's order, row 0 the padding item."""
    return np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)
