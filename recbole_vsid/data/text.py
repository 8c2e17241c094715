"""``content: text``: the item columns as one text → a sentence encoder → one vector per item.

Any model that sentence-transformers loads, by its name on the hub or as a local folder. Needs the extra
``pip install "recbole_vsid[text]"``.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import torch
from recbole.utils import FeatureType

from recbole_vsid.data.content import ItemContent, text_columns
from recbole_vsid.storage import content_hash


def text(dataset):
    """Embeddings of the items' texts; items without any text get a zero vector.

    Raises:
        ImportError: sentence-transformers is not installed.
        ValueError: no text columns, a template with unknown columns, unusable settings, or no such model.
    """
    config = dataset.config
    texts, template = item_texts(dataset)
    present = np.flatnonzero([bool(each) for each in texts])
    if len(present) == 0:
        raise ValueError(
            f"content=text: no item of {dataset.dataset_name!r} has any text for the template {template!r}"
        )
    for key in ("text_max_length", "text_batch_size"):
        if not isinstance(config[key], int) or config[key] < 1:
            raise ValueError(f"{key}={config[key]!r} is not usable: it must be a whole number of at least 1")
    model = _load_model(config)
    model.max_seq_length = config["text_max_length"]
    with torch.autocast(torch.device(config["device"]).type, dtype=torch.bfloat16, enabled=config["text_bf16"]):
        vectors = model.encode(
            [texts[row] for row in present],
            batch_size=config["text_batch_size"],
            show_progress_bar=config["show_progress"],
            convert_to_numpy=True,
        )
    matrix = np.zeros((dataset.item_num, vectors.shape[1]), dtype=np.float32)
    matrix[present + 1] = vectors
    return ItemContent(
        matrix,
        {
            "model": config["text_model"],
            "template": template,
            "max_length": config["text_max_length"],
            "bf16": config["text_bf16"],
            "items_without_text": len(texts) - len(present),
        },
    )


def text_identity(dataset):
    """Everything an embedding of the texts depends on, as plain values, for the cache."""
    config = dataset.config
    texts, template = item_texts(dataset)
    folder = Path(str(config["text_model"]))
    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []
    return {
        "texts": content_hash(texts),
        "template": template,
        "model": [[file.name, content_hash(np.fromfile(file, dtype=np.uint8))] for file in files]
        or config["text_model"],
        "max_length": config["text_max_length"],
        "bf16": config["text_bf16"],
    }


def item_texts(dataset):
    """The texts of the items 1.., and the template they follow.

    ``text_template`` is a format string over columns, like ``"{title} by {brand}"``. Without it a text is
    ``column: value; column: value`` over ``text_columns`` (all text and categorical columns by default), empty
    values left out.

    Raises:
        ValueError: there are no such columns.
    """
    config = dataset.config
    columns = text_columns(dataset)
    template = config["text_template"]
    if template is not None:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    else:
        names = config["text_columns"] or columns
        names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in columns]
    if unknown or not names:
        key, value = ("text_template", template) if template is not None else ("text_columns", config["text_columns"])
        raise ValueError(
            f"{key}={value!r} is not usable for {dataset.dataset_name!r}: its text and categorical item columns are "
            f"{list(columns)}; load_col says which are loaded"
        )
    values = [column_texts(dataset, name) for name in names]
    if template is None:
        template = "; ".join(f"{name}: {{{name}}}" for name in names)
        texts = ["; ".join(f"{name}: {value}" for name, value in zip(names, row) if value) for row in zip(*values)]
    else:
        texts = [template.format(**dict(zip(names, row))) if any(row) else "" for row in zip(*values)]
    return texts, template


def column_texts(dataset, field):
    """The values of a column for the items 1.., as texts.

    A sequence whose values hold underscores is a list of names of several words (``Nail_Polish``), any other a
    sentence cut into words.
    """
    tokens = np.asarray(dataset.field2id_token[field], dtype=str)
    ids = dataset.item_feat[field].numpy().reshape(dataset.item_num, -1)[1:]
    if dataset.field2type[field] == FeatureType.TOKEN:
        return ["" if row[0] == 0 else tokens[row[0]] for row in ids]
    between = ", " if any("_" in token for token in tokens) else " "
    return [between.join(tokens[row[row > 0]]).replace("_", " ") for row in ids]


def _load_model(config):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            'content=text needs sentence-transformers: pip install "recbole_vsid[text]" (or use content=tfidf, or '
            "content=file with vectors made elsewhere)"
        ) from error
    name = config["text_model"]
    try:
        return SentenceTransformer(name, device=str(config["device"]))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"text_model={name!r} cannot be loaded: it must be a folder or the name of a hub's model that "
            f"sentence-transformers knows ({' '.join(str(error).split())[:200]})"
        ) from error
