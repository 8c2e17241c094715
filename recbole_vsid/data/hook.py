"""The preprocessing hook: item content → tokenizer fitted on the training split → ``SemanticIDs``."""

from __future__ import annotations

import time
from logging import getLogger

import numpy as np

from recbole_vsid.data.content import item_content
from recbole_vsid.registry import get_tokenizer
from recbole_vsid.semantic_id.diagnostics import diagnose
from recbole_vsid.storage import content_hash
from recbole_vsid.tokenizer.base import TokenizerInput


def fit_semantic_ids(dataset):
    """Fit the configured tokenizer on ``dataset`` (after its split) and encode the whole catalogue.

    Args:
        dataset: :class:`~recbole_vsid.data.dataset.SemanticIDDataset` with its ``training`` log.

    Returns:
        (SemanticIDs, dict): the table, and plain values that describe it (diagnostics, seconds).

    Raises:
        ValueError: unusable content or settings, or a collapsed code.
    """
    config = dataset.config
    embedding, provenance = item_content(dataset)
    data = TokenizerInput(
        embedding=embedding,
        popularity=dataset.popularity(),
        item_tokens=np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str),
    )
    tokenizer_class = get_tokenizer(config["tokenizer"])
    tokenizer = tokenizer_class(
        tokenizer_class.Settings.from_config(config),
        seed=config["seed"],
        device=str(config["device"]),
        show_progress=config["show_progress"],
    )
    n_events, n_items = int(data.popularity.sum()), len(embedding) - 1
    getLogger().info(f"Fitting tokenizer {tokenizer.name} on {n_events:,} training events of {n_items:,} items")
    started = time.perf_counter()
    tokenizer.fit(data)
    seconds = time.perf_counter() - started
    table = tokenizer.encode(
        data,
        {
            "dataset": dataset.dataset_name,
            "data_fingerprint": dataset.fingerprint(),
            "content": provenance,
            "content_hash": content_hash(embedding),
        },
    )
    full_codes = tokenizer.assign_full(embedding[1:])
    report = diagnose(table, data.popularity, tokenizer.prefix_errors(embedding[1:], full_codes))
    return table, {"tokenizer": tokenizer.name, "fit_seconds": round(seconds, 2), **report}
