"""Structured item fields from RecBole's item columns, and the content encoders ``fields`` and ``famae``.

``famae`` trains the encoder of ReSID on them (arXiv 2602.02338, see :mod:`recbole_vsid.tokenizer.famae`),
``fields`` is its untrained counterpart: which values an item has, weighted by rarity, in few dimensions.

How a column becomes fields:

* ``token``: one field. Values with fewer than 5 items become one common value.
* ``token_seq`` named in ``field_paths``, an ordered path from general to specific: one field for each of the first
  three levels at which items differ. A value is the whole path so far, so equal names under different parents stay
  distinct; a shorter path goes on as it is.
* other ``token_seq``: one field with several values, and one, ``<column>_set``, whose value is the whole set.
* ``float``: quantile bins. RecBole puts the mean in place of missing numbers, so the mean counts as missing.
* ``float_seq``: none.

Left out are columns that are text: a ``token`` column if less than half of the items that have a value share it with
four others (titles, serial numbers), a ``token_seq`` column if less than half of its values belong to five items (words
of a title). So are fields with a single value. ``field_columns`` chooses columns instead, and then nothing counts as
text. Columns made from events, like a sales rank or a number of ratings, know the future: leave them out that way.
"""

from __future__ import annotations

from dataclasses import asdict
from logging import getLogger

import numpy as np
from recbole.utils import FeatureSource, FeatureType
from scipy.sparse import coo_matrix
from sklearn.feature_extraction.text import TfidfTransformer

from recbole_vsid.data.content import ItemContent, reduced_by_svd
from recbole_vsid.storage import content_hash
from recbole_vsid.tokenizer.famae import FAMAESettings, ItemField
from recbole_vsid.tokenizer.famae_training import train_famae, variance_shares

FEWEST_ITEMS = 5
SMALLEST_SHARE = 0.5
PATH_LEVELS = 3

COLUMN_TYPES = (FeatureType.TOKEN, FeatureType.TOKEN_SEQ, FeatureType.FLOAT)


# ---------------------------------------------------------------- the encoders


def fields(dataset):
    """The values of an item's side fields, TF-IDF weighted, in ``content_dim`` dimensions.

    Raises:
        ValueError: the items have no usable side field.
    """
    side = item_fields(dataset)[1:]
    if not side:
        raise ValueError(f"content=fields: {_no_side_fields(dataset)}, or use another `content`")
    starts = np.cumsum([0, *[field.n_values for field in side]])
    hot = [np.nonzero(field.values[1:]) for field in side]
    rows = np.concatenate([items for items, _ in hot])
    columns = np.concatenate([start + field.values[1:][place] - 1 for start, field, place in zip(starts, side, hot)])
    ones = coo_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), (dataset.item_num - 1, starts[-1]))
    reduced = reduced_by_svd(TfidfTransformer().fit_transform(ones.tocsr()), dataset, "fields")
    return ItemContent(np.concatenate([np.zeros_like(reduced[:1]), reduced]), {"fields": _described(side)})


def famae(dataset):
    """The field embeddings of FAMAE, trained on the training events; rows keep their lengths.

    Without any side field only the item id is left to predict; that is allowed, with a warning.

    Raises:
        ValueError: unusable settings, or too few training events.
    """
    config, found, settings = dataset.config, item_fields(dataset), FAMAESettings.from_config(dataset.config)
    if len(found) == 1:
        getLogger().warning(f"content=famae learns from item ids alone: {_no_side_fields(dataset)}")
    sizes = ", ".join(f"{field.name} ({field.n_values:,})" for field in found)
    getLogger().info(f"Training FAMAE on the fields {sizes}")
    log = dataset.training
    model, details = train_famae(
        found,
        log.items,
        log.offsets,
        settings,
        seed=config["seed"],
        device=str(config["device"]),
        show_progress=config["show_progress"],
    )
    shares = [round(float(share), 4) for share in variance_shares(model)]
    described = [{**field, "variance_share": share} for field, share in zip(_described(found), shares)]
    details = {"fields": described, "items_alone_in_side_fields": _alone(found[1:]), **details}
    return ItemContent(model.item_vectors(), details, unit_rows=False)


def famae_identity(dataset):
    """Everything FAMAE's vectors depend on, as plain values, for the cache."""
    config, log = dataset.config, dataset.training
    return {
        "fields": [[field.name, field.n_values, content_hash(field.values)] for field in item_fields(dataset)],
        "events": content_hash(log.items, log.offsets),
        "settings": asdict(FAMAESettings.from_config(config)),
        "seed": config["seed"],
    }


def _described(found):
    return [
        {
            "name": field.name,
            "values": field.n_values,
            "most_per_item": field.values.shape[1],
            "items_without": int((~field.values[1:].any(1)).sum()),
        }
        for field in found
    ]


def _alone(side):
    """Items whose side fields no other item has: the bound of the discriminative task without the history."""
    if not side:
        return 0
    rows = np.concatenate([field.values[1:] for field in side], axis=1)
    return int((np.bincount(row_labels(rows)) == 1).sum())


def _no_side_fields(dataset):
    columns = list(_columns(dataset))
    loaded = f"the item columns {columns} are text or constant" if columns else "no item columns are loaded"
    return (
        f"dataset {dataset.dataset_name!r} has no structured side field ({loaded}); load categories, brands or prices "
        "in load_col: {item: [...]}, or choose columns with field_columns"
    )


# -------------------------------------------------------- columns become fields


def item_fields(dataset):
    """The item id, then the side fields of ``dataset``'s items; list of :class:`ItemField`, row i is item i.

    Raises:
        ValueError: ``field_columns`` or ``field_paths`` names no loaded column of a suitable type, or ``field_bins`` is
            out of range.
    """
    config, available = dataset.config, _columns(dataset)
    n_bins = config["field_bins"]
    if not isinstance(n_bins, int) or n_bins < 2:
        raise ValueError(f"field_bins={n_bins!r} is not usable: it must be a whole number of at least 2")
    chosen = _names("field_columns", config["field_columns"], available)
    sequences = [name for name, kind in available.items() if kind == FeatureType.TOKEN_SEQ]
    paths = _names("field_paths", config["field_paths"], sequences)
    found = [ItemField(dataset.iid_field, np.arange(dataset.item_num)[:, None], dataset.item_num - 1)]
    for name in available if chosen is None else chosen:
        column, kind = dataset.item_feat[name].numpy(), available[name]
        if kind == FeatureType.FLOAT:
            candidates = [(name, quantile_bins(column, n_bins))]
        elif name in (paths or ()):
            candidates = path_levels(name, column)
        elif chosen is None and is_text(column):
            continue
        elif kind == FeatureType.TOKEN:
            candidates = [(name, column[:, None])]
        else:
            candidates = set_and_members(name, column)
        found += [field for field in (_field(*each) for each in candidates) if field.n_values > 1]
    return found


def _columns(dataset):
    """Item columns that can become fields, name → type."""
    if dataset.item_feat is None:
        return {}
    names = dataset.fields(ftype=list(COLUMN_TYPES), source={FeatureSource.ITEM})
    return {name: dataset.field2type[name] for name in names if name in dataset.item_feat}


def _names(key, names, allowed):
    if names is None:
        return None
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise ValueError(f"{key}={names!r} is not usable: {unknown} must be among the loaded columns {list(allowed)}")
    return names


def is_text(column):
    """Whether the values of a token column ``[n]`` or a token_seq column ``[n, width]`` are rarely shared."""
    rows = distinct(column.reshape(len(column), -1))
    counts = np.bincount(rows[rows > 0], minlength=1)
    shared = counts >= FEWEST_ITEMS
    if column.ndim == 1:
        return counts[shared].sum() < SMALLEST_SHARE * counts.sum()
    return shared.sum() < SMALLEST_SHARE * (counts > 0).sum()


def path_levels(name, rows):
    """``(name, labels)`` for each of the first levels at which paths ``rows`` ``[n, depth]`` differ."""
    levels, known = [], 1
    for depth in range(1, rows.shape[1] + 1):
        labels = row_labels(rows[:, :depth])
        if labels.max() > known:  # else a constant root, or no path goes on
            levels.append((f"{name}_{len(levels) + 1}", labels[:, None]))
            known = labels.max()
    return levels[:PATH_LEVELS]


def set_and_members(name, rows):
    """``(name, values)`` of the members of each row and of the row as a whole."""
    members = distinct(merge_rare(distinct(rows)))
    candidates = [(name, members), (f"{name}_set", row_labels(members)[:, None])]
    return candidates if members.shape[1] > 1 else candidates[:1]


def quantile_bins(numbers, n_bins):
    """Bins 1.. of equal population, int64 ``[n, 1]``; 0 for the number of row 0, which stands for missing ones.

    Up to ``n_bins`` different numbers have a bin each. A logarithm would change nothing: quantiles move with any
    increasing function.
    """
    known = numbers != numbers[0]
    edges = np.unique(numbers[known])
    if len(edges) > n_bins:
        edges = np.unique(np.quantile(numbers[known], np.arange(1, n_bins) / n_bins))
    return np.where(known, np.searchsorted(edges, numbers) + 1, 0)[:, None]


def distinct(rows):
    """Each row's values without repeats, largest first, filled up with 0 to the longest row (at least one column)."""
    rows = np.sort(rows, axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = 0
    rows = -np.sort(-rows, axis=1)
    return rows[:, : max(1, int((rows > 0).sum(1).max()))]


def row_labels(rows):
    """A number 1.. for every different row; 0 for rows of zeros."""
    labels = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    empty = ~rows.any(1)
    # A row of zeros, if there is one, sorts first.
    return labels if empty.any() else labels + 1


def merge_rare(rows):
    """Renumber values from 1; those with fewer than ``FEWEST_ITEMS`` items become one, the last.

    Args:
        rows: ``[n, width]`` without repeats inside a row.
    """
    counts = np.bincount(rows[rows > 0], minlength=1)
    kept, rare = counts >= FEWEST_ITEMS, (counts > 0) & (counts < FEWEST_ITEMS)
    new = np.zeros(len(counts), dtype=np.int64)
    new[kept] = np.arange(1, kept.sum() + 1)
    new[rare] = kept.sum() + 1
    return new[rows]


def _field(name, rows):
    values = distinct(merge_rare(rows))
    values[0] = 0
    return ItemField(name, values, int(values.max()))
