"""Item content encoders: what is known of an item → one float vector.

Here: which encoders ``content: auto`` chooses, how several are joined (``content: [tfidf, cooccurrence]``
concatenates them, each brought to unit length and multiplied with its weight), ``tfidf`` over the text and
categorical columns of the ``.item`` file, and ``cooccurrence`` over the training sequences. ``text`` is in
text.py, ``fields`` and ``famae`` in fields.py, ``file`` in content_file.py; what cooccurrence cannot know of
items without training events is predicted in cold_content.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.utils import FeatureSource, FeatureType
from scipy.sparse import coo_matrix, diags
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_vsid.cache import cached
from recbole_vsid.data.cold_content import fill_cooccurrence
from recbole_vsid.registry import get_content_encoder, get_content_identity
from recbole_vsid.settings import AUTO, content_names
from recbole_vsid.storage import content_hash
from recbole_vsid.tokenizer.base import unit_rows

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ItemContent:
    """What a content encoder returns.

    Args:
        matrix: float32 ``[n_items, d]`` in RecBole's order; row 0, the padding item, is ignored.
        details: plain values that say how it was made, for the provenance of the table.
        unit_rows: whether rows are brought to unit length before they are joined with other encoders'. If not,
            one common factor brings their mean squared length to one and leaves their proportions alone.
    """

    matrix: np.ndarray
    details: dict = field(default_factory=dict)
    unit_rows: bool = True


class NothingToTell(ValueError):
    """An encoder finds nothing in the data that tells items apart.

    Args:
        reason: what is the matter; the message goes on with ``advice``.
    """

    def __init__(self, reason: str, advice: str = ""):
        super().__init__(reason + advice)
        self.reason = reason


def item_content(dataset):
    """The content matrix that ``content`` and ``content_weights`` describe.

    Args:
        dataset: a :class:`~recbole_vsid.data.dataset.SemanticIDDataset` after its split.

    Returns:
        float32 ``[n_items, d]`` with row 0 all zero, and per encoder plain values that say how its part was made,
        among them the ``seconds`` it took.

    Raises:
        ValueError: unknown encoder, weights that do not match, items without content.
    """
    names, encoded = _encoders(dataset)
    weights = _weights(dataset.config, names)
    for name in names:
        get_content_encoder(name)  # a mistyped name is told before the others' work
    contents = [encoded.get(name) or _encode(name, dataset) for name in names]
    blocks = [_scaled(content) for content, _ in contents]
    without = [int((~block[1:].any(1)).sum()) for block in blocks]
    regressed = fill_cooccurrence(names, blocks)
    provenance = [
        {
            "encoder": name,
            "weight": weight,
            "dimensions": block.shape[1],
            "items_without": n_without,
            **({"regressed": n_regressed} if n_regressed else {}),
            "matrix_hash": content_hash(content.matrix),
            "seconds": seconds,
            **content.details,
        }
        for name, weight, block, n_without, n_regressed, (content, seconds) in zip(
            names, weights, blocks, without, regressed, contents
        )
    ]
    blocks = [block * np.float32(weight) for block, weight in zip(blocks, weights)]
    matrix = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
    _require_content(dataset, names, matrix[1:].any(1))
    return matrix, provenance


def _encoders(dataset: Any) -> tuple[list[str], dict[str, tuple[ItemContent, float]]]:
    """The names in ``content``, those that ``auto`` stands for here, and name → what :func:`_encode` gave already."""
    names = content_names(dataset.config)
    if names != [AUTO]:
        return names, {}
    try:
        encoded = _encode("tfidf", dataset)
        if np.ptp(_scaled(encoded[0])[1:], axis=0).max() < 1e-5:
            raise NothingToTell("all items have the same words and values")
    except NothingToTell as error:
        getLogger().info(f"Content auto: cooccurrence alone; {error.reason}")
        return ["cooccurrence"], {}
    getLogger().info(f"Content auto: tfidf over {', '.join(encoded[0].details['columns'])}, and cooccurrence")
    return ["tfidf", "cooccurrence"], {"tfidf": encoded}


def _weights(config: Any, names: list[str]) -> Sequence[float]:
    weights = config["content_weights"] or [1.0] * len(names)
    one_each = isinstance(weights, (list, tuple)) and len(weights) == len(names) > 0
    if not one_each or not all(type(weight) in (int, float) and 0 < weight < np.inf for weight in weights):
        raise ValueError(f"content_weights={weights!r} must be one positive number for each of {_told(config, names)}")
    return weights


def _told(config: Any, names: list[str]) -> str:
    """``content`` as the user knows it, with what ``auto`` chose."""
    automatic = content_names(config) == [AUTO]
    return f"content={AUTO}, which chose {names!r} here" if automatic else f"content={names!r}"


def _encode(name, dataset):
    """The :class:`ItemContent` of one encoder, from the cache where that pays, and the seconds it took to make."""
    encode, identity = get_content_encoder(name), get_content_identity(name)

    def build():
        content = encode(dataset)
        values = {"details": content.details, "unit_rows": content.unit_rows}
        return {"matrix": torch.from_numpy(content.matrix)}, values

    key = identity(dataset) if identity else None
    tensors, values, hit = cached(dataset.config["cache_dir"] if identity else None, name, key, build)
    if hit:
        getLogger().info(f"Content {name} from the cache ({values['seconds']:.0f} s saved)")
    return ItemContent(tensors["matrix"].numpy(), values["details"], values["unit_rows"]), values["seconds"]


def _scaled(content):
    block = np.array(content.matrix, dtype=np.float32)
    block[0] = 0
    if not np.isfinite(block).all():  # TokenizerInput will name the item; a norm would spread its NaN
        return block
    if content.unit_rows:
        return unit_rows(block)
    mean_square = np.square(block[1:], dtype=np.float64).sum(1).mean()
    return block / np.float32(max(mean_square, 1e-24) ** 0.5)


def _require_content(dataset: Any, names: list[str], present: np.ndarray) -> None:
    policy = dataset.config["missing_content"]
    if policy not in (None, "error", "zero"):
        raise ValueError(f"missing_content={policy!r} is not usable: it must be error or zero, or empty")
    if present.all():
        return
    missing = np.flatnonzero(~present) + 1
    name = dataset.field2id_token[dataset.iid_field][missing[0]]
    message = f"{len(missing)} of {len(present)} items have no content, item {str(name)!r} first"
    if policy == "error" or (policy is None and content_names(dataset.config) != [AUTO]):
        raise ValueError(
            f"{message}; give them content, add an encoder to {_told(dataset.config, names)}, "
            "or set missing_content=zero to give them all the same empty vector"
        )
    getLogger().warning(f"{message}; they all get the same empty vector")


def reduced_by_svd(matrix, dataset, what):
    """Truncated SVD of a sparse matrix to at most ``content_dim`` dimensions, float32.

    Raises:
        ValueError: ``content_dim`` is not usable.
        NothingToTell: ``matrix`` is empty, or has only one row or column; ``what`` says of what.
    """
    wanted = dataset.config["content_dim"]
    if not isinstance(wanted, int) or wanted < 1:
        raise ValueError(f"content_dim={wanted!r} is not usable: it must be a whole number of at least 1")
    n_components = min(wanted, min(matrix.shape) - 1)
    if n_components < 1 or matrix.nnz == 0:
        raise NothingToTell(f"content: {what} finds nothing to tell items apart", "; choose another `content`")
    svd = TruncatedSVD(n_components, random_state=dataset.config["seed"] % 2**32)
    with np.errstate(divide="ignore", invalid="ignore"):  # the explained variance of equal rows, which nobody reads
        return svd.fit_transform(matrix).astype(np.float32)


def text_columns(dataset):
    """Names of the token and token_seq columns of the item file, without the item id; empty if there is no file."""
    if dataset.item_feat is None:
        return []
    kinds, sources = [FeatureType.TOKEN, FeatureType.TOKEN_SEQ], {FeatureSource.ITEM, FeatureSource.ITEM_ID}
    return [column for column in dataset.fields(ftype=kinds, source=sources) if column != dataset.iid_field]


def tfidf(dataset):
    """All token and token_seq columns of the item file → TF-IDF → truncated SVD.

    Every word counts, and so does every whole value of a column (``brand=OPI``), as far as at least
    two items share it.
    """
    columns = text_columns(dataset)
    if not columns:
        raise NothingToTell(
            "content=tfidf needs text or categorical item columns, and dataset "
            f"{dataset.dataset_name!r} has none loaded",
            "; name them in load_col: {item: [...]}, or use content=cooccurrence or content=file",
        )
    features = [[] for _ in range(dataset.item_num)]
    for column in columns:
        tokens = dataset.field2id_token[column]
        values = dataset.item_feat[column].numpy().reshape(dataset.item_num, -1)
        for item, ids in enumerate(values):
            for value in tokens[ids[ids > 0]]:
                value = str(value).lower()
                features[item].append(f"{column}={value}")
                features[item].extend(WORD.findall(value.replace("_", " ")))
    documents = features[1:]
    if not any(documents):
        raise NothingToTell(
            f"content=tfidf: the item columns {columns} of {dataset.dataset_name!r} are empty for all items"
        )
    vectorizer = TfidfVectorizer(analyzer=lambda words: words, min_df=2, sublinear_tf=True, dtype=np.float32)
    try:
        weights = vectorizer.fit_transform(documents)
    except ValueError as error:  # sklearn: no term occurs twice
        raise NothingToTell(
            f"content=tfidf: no two items share a word in the columns {columns}", f": {error}"
        ) from error
    reduced = reduced_by_svd(weights, dataset, f"tfidf over {columns}")
    return ItemContent(np.concatenate([np.zeros_like(reduced[:1]), reduced]), {"columns": columns})


def cooccurrence(dataset):
    """Positive pointwise mutual information of items near each other in training sequences → SVD.

    Pairs at most ``cooccurrence_window`` events apart count with weight 1 / distance. Items without
    training events get a zero vector.
    """
    log, n_items, reach = dataset.training, dataset.item_num, dataset.config["cooccurrence_window"]
    if not isinstance(reach, int) or reach < 1:
        raise ValueError(f"cooccurrence_window={reach!r} is not usable: it must be a whole number of at least 1")
    users, counts = log.users(), 0
    for distance in range(1, reach + 1):
        same = users[distance:] == users[:-distance]
        pair = log.items[:-distance][same], log.items[distance:][same]
        counts = counts + coo_matrix((np.full(len(pair[0]), 1.0 / distance), pair), (n_items, n_items)).tocsr()
    counts = (counts + counts.T).tocoo()
    margin = np.asarray(counts.sum(1)).ravel()
    pmi = np.log(counts.data * counts.data.sum() / (margin[counts.row] * margin[counts.col]))
    ppmi = coo_matrix((np.maximum(pmi, 0), (counts.row, counts.col)), counts.shape).tocsr()
    ppmi.eliminate_zeros()
    reduced = reduced_by_svd(ppmi, dataset, f"cooccurrence within {reach} events")
    # U·S weighs the first directions by S², too much for nearest neighbours; U·sqrt(S) is the usual choice.
    scale = np.sqrt(np.maximum(np.linalg.norm(reduced, axis=0), 1e-12))
    return ItemContent(np.asarray(reduced @ diags(1 / scale)), {"window": reach})
