"""RecBole's datasets with true time order and known histories, and the semantic-ID hook.

``EventHistoryMixin`` goes over *any* RecBole dataset class and mends what RecBole 1.2.1 does there:
timestamps became float32 before they were sorted (seconds since 1970 then have steps of 64–128 s), and
sequential models could not mask consumed items. What is wrong with files is told by ``CheckedFilesMixin``.

``SemanticIDDataset`` is the dataset of this package's models. It keeps one flat event log and looks
histories up per batch instead of storing one padded row per prefix; its ``build()`` computes item
content, fits the tokenizer on training events and attaches the ``SemanticIDs`` table.
"""

from __future__ import annotations

import importlib

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType, ModelType
from scipy.sparse import csr_matrix

from recbole_vsid.data.hook import fit_semantic_ids
from recbole_vsid.data.loading import CheckedFilesMixin
from recbole_vsid.data.sequences import EventLog
from recbole_vsid.storage import content_hash


class EventHistoryMixin(CheckedFilesMixin):
    """Orders events exactly and remembers who consumed what before each split.

    Attributes:
        events: :class:`EventLog` of all events after filtering, by user, then time, ties in file order.
        consumed: on each of the built datasets: boolean CSR ``[n_users, n_items]`` of the items a user
            had consumed before that split.
        train_counts: int64 ``[n_users]``: how many of a user's first events are training events.
    """

    def _change_feat_format(self):
        if self.config["eval_args"]["order"] == "TO":
            # float64 here; RecBole's own stable sorts on float32 then keep this order.
            self.inter_feat = self.inter_feat.sort_values(self.time_field, kind="stable", ignore_index=True)
        ordered = self.inter_feat.sort_values(self.uid_field, kind="stable")
        self.events = EventLog.from_columns(
            ordered[self.uid_field].to_numpy(),
            ordered[self.iid_field].to_numpy(),
            self.user_num,
            ordered[self.time_field].to_numpy() if self.time_field in ordered else None,
        )
        super()._change_feat_format()

    def build(self):
        datasets = super().build()
        shape = (self.user_num, self.item_num)
        held_out = [self._pairs(dataset, shape) for dataset in datasets[1:]]
        total = _count_matrix(self.events.users(), self.events.items, shape)
        self.train_counts = self.events.counts() - np.asarray(sum(part.sum(1) for part in held_out)).ravel()
        datasets[1].consumed = (total - held_out[0] - held_out[1]) > 0
        datasets[2].consumed = (total - held_out[1]) > 0
        for dataset in datasets:
            dataset.train_counts = self.train_counts
        for name, dataset in zip(("validation", "test"), datasets[1:]):
            if len(dataset) == 0:
                raise ValueError(
                    f"dataset {self.dataset_name!r}: the {name} split is empty; leave-one-out needs users with at "
                    "least 4 events for a sequential model (3 for a general one)"
                )
        return datasets

    def _pairs(self, dataset, shape):
        feat = dataset.inter_feat
        return _count_matrix(feat[self.uid_field].numpy(), feat[self.iid_field].numpy(), shape)

    def fingerprint(self):
        """Hash of the filtered, ordered event log with external ids; equal data, equal fingerprint."""
        users = self.field2id_token[self.uid_field][self.events.users()]
        items = self.field2id_token[self.iid_field][self.events.items]
        return content_hash(np.asarray(users, dtype=str), np.asarray(items, dtype=str))


def _count_matrix(users, items, shape):
    return csr_matrix((np.ones(len(users), dtype=np.int64), (users, items)), shape=shape)


def dataset_class(config):
    """The dataset class of ``config``'s model: its own, else RecBole's choice, with the mixin."""
    own = getattr(config.model_class, "dataset_class", None)
    if own is not None:
        return own
    module = importlib.import_module("recbole.data.dataset")
    by_type = module.SequentialDataset if config["MODEL_TYPE"] == ModelType.SEQUENTIAL else module.Dataset
    base = getattr(module, config["model"] + "Dataset", by_type)
    return type(base.__name__, (EventHistoryMixin, base), {})


class SemanticIDDataset(EventHistoryMixin, SequentialDataset):
    """Sequential dataset without padded prefix rows, with a semantic-ID table.

    Rows of ``inter_feat`` are RecBole's: every event but a user's first, as a target. The columns
    ``item_id_list`` ``[B, MAX_ITEM_LIST_LENGTH]`` (right-padded with 0, oldest first) and
    ``item_length`` appear when rows are read.

    Attributes:
        semantic_ids: after :meth:`build`, the :class:`~recbole_vsid.semantic_id.SemanticIDs` of all items.
        tokenizer_report: diagnostics of the table and the fitting time in seconds.
        restored_table: (table, report) of an earlier run, taken instead of fitting a tokenizer.
        restored_state: the weights of that run.
    """

    restored_table = restored_state = None

    def data_augmentation(self):
        self.sort(by=[self.uid_field, self.time_field])
        self.item_id_list_field = self.iid_field + self.config["LIST_SUFFIX"]
        self.set_field_property(
            self.item_id_list_field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, self.max_item_list_len
        )
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
        targets = self.events.target_positions()
        rows = {field: self.inter_feat[field][targets] for field in (self.uid_field, self.iid_field, self.time_field)}
        rows["event_index"] = torch.from_numpy(targets)
        self.inter_feat = Interaction(rows)

    def __getitem__(self, index, join=True):
        rows = super().__getitem__(index, join)
        items, lengths = self.events.histories(rows["event_index"].numpy().reshape(-1), self.max_item_list_len)
        rows.update(
            Interaction(
                {
                    self.item_id_list_field: torch.from_numpy(items),
                    self.item_list_length_field: torch.from_numpy(lengths),
                }
            )
        )
        return rows

    def build(self):
        datasets = super().build()
        self.training = self.events.heads(self.train_counts)
        self.semantic_ids, self.tokenizer_report = self.restored_table or self.tokenize()
        tokens = self.field2id_token[self.iid_field]
        if not np.array_equal(self.semantic_ids.item_tokens, np.asarray(tokens, dtype=str)):
            raise ValueError(
                f"the semantic-ID table has {self.semantic_ids.n_items} items, {self.dataset_name} has {len(tokens)}, "
                "and they are not the same in the same order: the data changed since the table was made"
            )
        for dataset in datasets:
            for name in ("training", "semantic_ids", "tokenizer_report"):
                setattr(dataset, name, getattr(self, name))
        return datasets

    def tokenize(self):
        """The table of the catalogue and its description."""
        return fit_semantic_ids(self)

    def popularity(self):
        """Training events per item, int64 ``[n_items]``."""
        return np.bincount(self.training.items, minlength=self.item_num)
