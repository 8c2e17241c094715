"""Item content encoders: what is known of an item → one float vector.

``tfidf`` reads the text and categorical columns of the ``.item`` file, ``cooccurrence`` the training
sequences, ``file`` a matrix made elsewhere. ``content: [tfidf, cooccurrence]`` concatenates several,
each L2-normalised and multiplied with its weight.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd
from recbole.utils import FeatureSource, FeatureType
from safetensors import SafetensorError, safe_open
from scipy.sparse import coo_matrix, diags
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_vsid.registry import get_content_encoder
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


def item_content(dataset):
    """The content matrix that ``content`` and ``content_weights`` describe.

    Args:
        dataset: a :class:`~recbole_vsid.data.dataset.SemanticIDDataset` after its split.

    Returns:
        float32 ``[n_items, d]`` with row 0 all zero, and a list of plain values saying how it was made.

    Raises:
        ValueError: unknown encoder, weights that do not match, items without content.
    """
    config = dataset.config
    names = config["content"] if isinstance(config["content"], (list, tuple)) else [config["content"]]
    weights = config["content_weights"] or [1.0] * len(names)
    one_each = isinstance(weights, (list, tuple)) and len(weights) == len(names) > 0
    if not one_each or not all(type(weight) in (int, float) and 0 < weight < np.inf for weight in weights):
        raise ValueError(f"content_weights={weights!r} must be one positive number for each of content={names!r}")
    encoders = [get_content_encoder(name) for name in names]
    blocks = []
    for encode, weight in zip(encoders, weights):
        block = encode(dataset).astype(np.float32)
        block[0] = 0
        if np.isfinite(block).all():  # else TokenizerInput names the item; a norm would spread its NaN
            block = unit_rows(block) * np.float32(weight)
        blocks.append(block)
    provenance = [
        {"encoder": name, "weight": weight, "dimensions": block.shape[1]}
        for name, weight, block in zip(names, weights, blocks)
    ]
    matrix = np.concatenate(blocks, axis=1)
    _require_content(dataset, (matrix[1:] != 0).any(1))
    return matrix, provenance


def _require_content(dataset, present):
    policy = dataset.config["missing_content"]
    if policy not in ("error", "zero"):
        raise ValueError(f"missing_content={policy!r} is not usable: it must be error or zero")
    if present.all():
        return
    missing = np.flatnonzero(~present) + 1
    name = dataset.field2id_token[dataset.iid_field][missing[0]]
    message = f"{len(missing)} of {len(present)} items have no content, item {str(name)!r} first"
    if policy == "error":
        raise ValueError(
            f"{message}; give them content, add an encoder to content={dataset.config['content']!r}, "
            "or set missing_content=zero to give them all the same empty vector"
        )
    getLogger().warning(message)


def _svd(matrix, dataset, what):
    """Truncated SVD of a sparse matrix to at most ``content_dim`` dimensions, float32."""
    wanted = dataset.config["content_dim"]
    if not isinstance(wanted, int) or wanted < 1:
        raise ValueError(f"content_dim={wanted!r} is not usable: it must be a whole number of at least 1")
    n_components = min(wanted, min(matrix.shape) - 1)
    if n_components < 1 or matrix.nnz == 0:
        raise ValueError(f"content: {what} finds nothing to tell items apart; choose another `content`")
    svd = TruncatedSVD(n_components, random_state=dataset.config["seed"] % 2**32)
    return svd.fit_transform(matrix).astype(np.float32)


def tfidf(dataset):
    """All token and token_seq columns of the item file → TF-IDF → truncated SVD.

    Every word counts, and so does every whole value of a column (``brand=OPI``), as far as at least
    two items share it.
    """
    source = {FeatureSource.ITEM, FeatureSource.ITEM_ID}
    fields = [
        field
        for field in dataset.fields(ftype=[FeatureType.TOKEN, FeatureType.TOKEN_SEQ], source=source)
        if field != dataset.iid_field
    ]
    if dataset.item_feat is None or not fields:
        raise ValueError(
            f"content=tfidf needs text or categorical item columns, and dataset {dataset.dataset_name!r} has none "
            "loaded; name them in load_col: {item: [...]}, or use content=cooccurrence or content=file"
        )
    features = [[] for _ in range(dataset.item_num)]
    for field in fields:
        tokens = dataset.field2id_token[field]
        columns = dataset.item_feat[field].numpy().reshape(dataset.item_num, -1)
        for item, ids in enumerate(columns):
            for value in tokens[ids[ids > 0]]:
                value = str(value).lower()
                features[item].append(f"{field}={value}")
                features[item].extend(WORD.findall(value.replace("_", " ")))
    documents = features[1:]
    if not any(documents):
        raise ValueError(
            f"content=tfidf: the item columns {fields} of {dataset.dataset_name!r} are empty for all items"
        )
    vectorizer = TfidfVectorizer(analyzer=lambda words: words, min_df=2, sublinear_tf=True, dtype=np.float32)
    try:
        weights = vectorizer.fit_transform(documents)
    except ValueError as error:  # sklearn: no term occurs twice
        raise ValueError(f"content=tfidf: no two items share a word in the columns {fields}: {error}") from error
    reduced = _svd(weights, dataset, f"tfidf over {fields}")
    return np.concatenate([np.zeros_like(reduced[:1]), reduced])


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
    reduced = _svd(ppmi, dataset, f"cooccurrence within {reach} events")
    # U·S weighs the first directions by S², too much for nearest neighbours; U·sqrt(S) is the usual choice.
    scale = np.sqrt(np.maximum(np.linalg.norm(reduced, axis=0), 1e-12))
    return np.asarray(reduced @ diags(1 / scale))


def from_file(dataset):
    """A matrix made elsewhere: ``content_file``, a ``.npy`` or ``.safetensors`` keyed by item token.

    ``.npy`` ``[n, d]``: row *i* belongs to line *i* of ``content_ids`` (a text file, one item id per line) or, without
    it, to data row *i* of the dataset's ``.item`` file. ``.safetensors``: a tensor ``embedding`` with
    the JSON list ``item_tokens`` in its metadata, or one tensor per item token.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: rows and ids are not as many, ids repeat, items have no row (named).
    """
    path = _find(dataset, "content_file")
    if path.suffix == ".npy":
        try:
            matrix = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"content_file {path} is not a .npy file of numbers: {error}") from error
        ids = _ids_of_rows(dataset)
    elif path.suffix == ".safetensors":
        matrix, ids = _read_safetensors(path)
    else:
        raise ValueError(f"content_file={str(path)!r} must end in .npy or .safetensors")
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "fiub":
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
    return values


def _find(dataset, key):
    given = dataset.config[key]
    if not given:
        raise ValueError(f"content=file needs {key}=<path>")
    for path in (Path(given), Path(dataset.dataset_path) / given):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{key}={given!r}: no such file here or in {dataset.dataset_path}")


def _ids_of_rows(dataset):
    if dataset.config["content_ids"]:
        return _find(dataset, "content_ids").read_text(encoding="utf-8").splitlines()
    path = Path(dataset.dataset_path) / f"{dataset.dataset_name}.item"
    if not path.is_file():
        raise FileNotFoundError(f"content_file: {path} is not there to say which row is which item; set content_ids")
    separator = dataset.config["field_separator"]
    with open(path, encoding=dataset.config["encoding"] or "utf-8") as file:
        header = file.readline().rstrip("\n").split(separator)
    column = [name.split(":")[0] for name in header].index(dataset.iid_field)
    frame = pd.read_csv(path, delimiter=separator, usecols=[column], dtype=str, engine="python", keep_default_na=False)
    return frame.iloc[:, 0].tolist()


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
    except SafetensorError as error:
        raise ValueError(f"content_file {path} is not a safetensors file: {error}") from error
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError(f"content_file {path}: its tensors are not all of the same length")
    return np.stack(rows), names


def _parse_ids(text):
    try:
        ids = json.loads(text)
    except json.JSONDecodeError:
        return None
    return [str(token) for token in ids] if isinstance(ids, list) else None
