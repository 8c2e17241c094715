"""``explore``: a table of semantic IDs as a tree with titles, popularity and search, on one page that needs no network.

Items are sorted by their codes, so that everything below a prefix is a range of rows. The page holds columns of plain
values and makes the tree from them as it is opened; it has been tried with 12,101 items and with 100,000.
"""

from __future__ import annotations

import json
from html import escape
from logging import getLogger
from pathlib import Path
from string import Template

import numpy as np

from recbole_vsid.checkpoint import read_weights, unpack_table
from recbole_vsid.config import Config
from recbole_vsid.data.content import text_columns
from recbole_vsid.data.dataset import SemanticIDDataset
from recbole_vsid.data.text import column_texts
from recbole_vsid.storage import atomic_path, check_writable
from recbole_vsid.tokenization import SemanticIDsOnly, default_file

# Columns that are taken for an item's title, the first that there is.
TITLES = ("title", "item_title", "movie_title", "name", "item_name", "product_title", "product_name", "label")


def explore(
    dataset=None, config_file_list=None, config_dict=None, checkpoint=None, explorer_file=None, title_column=None
):
    """Write the explorer of a table of semantic IDs.

    Args:
        dataset: name of a dataset; ``ml-100k`` needs no files.
        config_file_list, config_dict: settings, which make or read the table as for
            :func:`~recbole_vsid.tokenization.tokenize`; the latter win.
        checkpoint: of a trained model, whose table is shown instead.
        explorer_file: where the page goes; by default ``explorer.html`` beside the checkpoint, or
            ``saved/semantic_ids/<tokenizer>-<dataset>-seed<seed>-<hash>.explorer.html``.
        title_column: the item column shown; by default one that is called like a title, else the first with text.

    Returns:
        Path: of the page.

    Raises:
        ValueError, FileNotFoundError: bad input.
    """
    stored = None
    if checkpoint is not None:
        stored = read_weights(checkpoint)
        if not stored.get("semantic_ids"):
            raise ValueError(f"{checkpoint} holds no semantic IDs: {stored.get('model')} is a model without them")
        settings = {**stored["settings"], **(config_dict or {})}
        config = Config(stored["model"], stored["dataset"], config_dict=settings)
        file = Path(explorer_file or Path(checkpoint).with_name("explorer.html"))
    else:
        config = Config(SemanticIDsOnly, dataset, config_file_list, config_dict)
        file = Path(explorer_file or default_file(config, "explorer.html"))
    check_writable(file, "explorer_file")
    config.set_up_process()
    data = SemanticIDDataset(config)
    if stored is not None:
        data.restored_table = unpack_table(stored["semantic_ids"]), stored["tokenizer_report"]
    data.build()
    titles = item_titles(data, title_column)
    getLogger().info(f"Explorer of {data.item_num - 1:,} items")
    with atomic_path(file) as temporary:
        temporary.write_text(page(data.semantic_ids, data.popularity(), titles, config["dataset"]), encoding="utf-8")
    return file


def item_titles(dataset, column=None):
    """A text per item 1.., list of ``n_items - 1``; the external ids if the data have no text.

    Raises:
        ValueError: there is no such text column.
    """
    columns = list(text_columns(dataset))
    if column is not None and column not in columns:
        raise ValueError(f"title_column={column!r} is not usable: the text columns of the items are {columns}")
    if not columns:
        return np.asarray(dataset.field2id_token[dataset.iid_field], dtype=str)[1:].tolist()
    return column_texts(dataset, column or next((name for name in TITLES if name in columns), columns[0]))


def page(table, popularity, titles, name):
    """The page as text.

    Args:
        table: :class:`~recbole_vsid.semantic_id.SemanticIDs`.
        popularity: training events per item, int64 ``[n_items]``.
        titles: texts of the items 1.., ``n_items - 1`` of them; an empty one is shown as the id.
        name: of the dataset.
    """
    folder = Path(__file__).parent
    data = json.dumps(columns(table, popularity, titles, name), ensure_ascii=False, separators=(",", ":"))
    return Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
        name=escape(name),
        # In a script element only `</` and `<!--` could end or change what follows.
        data=data.replace("<", "\\u003c"),
        script=(folder / "explorer.js").read_text(encoding="utf-8"),
    )


def columns(table, popularity, titles, name):
    """What the page is made from: items in the order of their codes, as plain values.

    Returns:
        dict: ``codes`` flat, ``max_length`` per item and −1 padded; ``lengths``, ``ids``, ``titles``, ``events``;
        ``suffix``, whether the last token of an item only tells apart items with the same content code;
        ``content_sizes``, codes per position, without such tokens where all share one vocabulary; ``suffix_codes``, the
        first of those tokens and their number; ``facts``, name → text.
    """
    codes = table.codes[1:]
    order = np.lexsort(codes.T[::-1])
    shown = [titles[item] or str(table.item_tokens[item + 1]) for item in order]
    sizes, suffix_codes = vocabularies(table)
    return {
        "codes": codes[order].ravel().tolist(),
        "lengths": table.lengths[1:][order].tolist(),
        "ids": table.item_tokens[1:][order].tolist(),
        "titles": shown,
        "events": np.asarray(popularity)[1:][order].tolist(),
        "content_sizes": sizes,
        "suffix_codes": suffix_codes,
        "suffix": bool(table.suffix),
        "facts": facts(table, name),
    }


def vocabularies(table):
    """Content codes per position, and the first and the number of the tokens that only tell items apart."""
    sizes = list(table.vocab_sizes)
    if not (table.suffix and table.shared_vocabulary):
        return sizes, [0, sizes[-1]]
    first = int(table.codes[np.arange(1, len(table.codes)), table.lengths[1:] - 1].min())
    return [first] * len(sizes), [first, sizes[-1] - first]


def facts(table, name):
    """What the table is and where it comes from, name → text."""
    n_content = table.lengths[1:] - table.suffix
    content = np.where(np.arange(table.max_length) < n_content[:, None], table.codes[1:], -1)
    sizes = np.unique(content, axis=0, return_counts=True)[1]
    lengths = sorted(set(n_content.tolist()))
    origin, (vocabulary, (_, n_suffixes)) = table.provenance, vocabularies(table)
    found = {
        "dataset": name,
        "tokenizer": origin.get("tokenizer", origin.get("source", "imported")),
        "items": f"{len(n_content):,}",
        "content tokens per item": f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}",
        "codes per position": " · ".join(f"{size:,}" for size in vocabulary)
        + (" (the same at every position)" if table.shared_vocabulary else "")
        + (f", and {n_suffixes:,} that tell items apart" if table.suffix and table.shared_vocabulary else ""),
        "distinct content codes": f"{len(sizes):,}; the largest is shared by {sizes.max():,} items",
        "last token": "tells apart items with the same content code" if table.suffix else "content, as the others",
    }
    for key in ("settings", "seed", "data_fingerprint", "content"):
        if origin.get(key) is not None:
            value = origin[key]
            text = value if isinstance(value, (str, int)) else json.dumps(value, ensure_ascii=False)
            found[key.replace("_", " ")] = str(text)
    return found
