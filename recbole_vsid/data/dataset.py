"""RecBole's datasets with true time order and known histories, and the semantic-ID hook.

``EventHistoryMixin`` goes over *any* RecBole dataset class and mends what RecBole 1.2.1 does there:
timestamps became float32 before they were sorted (seconds since 1970 then have steps of 64–128 s),
sequential models could not mask consumed items, a successful download ended in a crash, and filters
that leave nothing ended in an unrelated error.

``SemanticIDDataset`` is the dataset of this package's models. It keeps one flat event log and looks
histories up per batch instead of storing one padded row per prefix; its ``build()`` computes item
content, fits the tokenizer on training events and attaches the ``SemanticIDs`` table.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType, ModelType
from scipy.sparse import csr_matrix

from recbole_vsid.data.hook import fit_semantic_ids
from recbole_vsid.data.sequences import EventLog
from recbole_vsid.storage import content_hash


class EventHistoryMixin:
    """Orders events exactly and remembers who consumed what before each split.

    Attributes:
        events: :class:`EventLog` of all events after filtering, by user, then time, ties in file order.
        consumed: on each of the built datasets: boolean CSR ``[n_users, n_items]`` of the items a user
            had consumed before that split.
        train_counts: int64 ``[n_users]``: how many of a user's first events are training events.
    """

    def _load_data(self, token, dataset_path):
        if self.config["benchmark_filename"] is not None:
            raise ValueError("benchmark_filename is not supported: every result here comes from the split in eval_args")
        folder = Path(dataset_path)
        if folder.exists() and not (folder / f"{token}.inter").is_file():
            raise FileNotFoundError(
                f"dataset {token!r}: the folder {folder} has no {token}.inter; set data_path to the folder that "
                f"holds {token}/{token}.inter"
            )
        super()._load_data(token, dataset_path)
        wanted = {column for columns in (self.config["load_col"] or {}).values() for column in columns}
        absent = sorted(wanted - set(self.field2source) - {"*"})
        if absent:
            raise ValueError(f"load_col names {absent}, which the files of {token!r} do not have")
        needed = {"USER_ID_FIELD": "every model", "ITEM_ID_FIELD": "every model"}
        if self.config["eval_args"]["order"] == "TO":
            needed["TIME_FIELD"] = "order: TO"
        for key, reason in needed.items():
            if self.inter_feat is None or self.config[key] not in self.inter_feat:
                raise ValueError(
                    f"dataset {token!r} has no column {self.config[key]!r}, which {reason} needs; set {key} or load_col"
                )
        if "TIME_FIELD" in needed:
            self._check_times()

    def _load_feat(self, filepath, source):
        try:
            feat = super()._load_feat(filepath, source)
        except ValueError as error:  # also pandas' and the encoding's; none of them names the file
            raise ValueError(f"{filepath} is not readable as an atomic file of RecBole: {error}") from error
        if source == FeatureSource.INTERACTION and feat is not None:
            with open(filepath, "rb") as file:
                n_lines = sum(not line.isspace() for line in file) - 1
            if len(feat) < n_lines:  # text between quotation marks may go over several lines
                raise ValueError(
                    f"{filepath}: {n_lines} lines give {len(feat)} interactions only; remove the quotation marks"
                )
        return feat

    def _check_times(self):
        """RecBole sorts tokens by their first occurrence, and sets missing times to the mean of the others."""
        if self.field2type[self.time_field] != FeatureType.FLOAT:
            raise ValueError(
                f"dataset {self.dataset_name!r}: the column {self.time_field!r} is of type "
                f"{self.field2type[self.time_field].value}, and order: TO needs {self.time_field}:float"
            )
        bad = np.flatnonzero(~np.isfinite(self.inter_feat[self.time_field].to_numpy()))
        if len(bad):
            raise ValueError(
                f"dataset {self.dataset_name!r}: {len(bad)} of {len(self.inter_feat)} interactions have no finite "
                f"{self.time_field!r}, interaction {bad[0] + 1} first; give them one, remove them, or set TIME_FIELD"
            )

    def _filter_nan_user_or_item(self):
        for field in (self.uid_field, self.iid_field):
            missing = np.flatnonzero(self.inter_feat[field].isnull())
            if len(missing):
                raise ValueError(
                    f"dataset {self.dataset_name!r}: {len(missing)} of {len(self.inter_feat)} interactions have no "
                    f"{field!r}, interaction {missing[0] + 1} first; ids like NA, null, None and nan count as missing: "
                    "rename them in all files"
                )
        super()._filter_nan_user_or_item()

    def _filter_inter_by_user_or_item(self):
        before = len(self.inter_feat)
        super()._filter_inter_by_user_or_item()
        left_out = before - len(self.inter_feat)
        if left_out:
            self.logger.warning(
                f"{left_out} of {before} interactions are left out, as their item or user is not in the .item or .user "
                "file; filter_inter_by_user_or_item=false keeps them"
            )

    def _download(self):
        try:
            self._get_download_url("url")
        except ValueError:
            raise FileNotFoundError(
                f"unknown dataset {self.dataset_name!r}: looked for the folder {self.dataset_path} and in RecBole's "
                f"list of downloads. {_datasets_beside(self.dataset_path)}"
            ) from None
        try:
            super()._download()
        except URLError as error:
            raise FileNotFoundError(
                f"dataset {self.dataset_name!r} is not in {self.dataset_path} and could not be downloaded: "
                f"{error.reason}"
            ) from error
        except (RuntimeError, ValueError) as error:
            # RecBole waits at a distributed barrier after the download, also in a single process.
            if "process group" not in str(error):
                raise

    def _reset_index(self):
        # The last step of filtering, where RecBole says no more than that "some feat is empty".
        if len(self.inter_feat) == 0:
            raise ValueError(
                f"dataset {self.dataset_name!r}: no interaction is left after filtering; loosen "
                f"user_inter_num_interval={self.config['user_inter_num_interval']!r}, "
                f"item_inter_num_interval={self.config['item_inter_num_interval']!r} or "
                f"val_interval={self.config['val_interval']!r}"
            )
        super()._reset_index()

    def _change_feat_format(self):
        if self.config["eval_args"]["order"] == "TO":
            # float64 here; RecBole's own stable sorts on float32 then keep this order.
            self.inter_feat = self.inter_feat.sort_values(self.time_field, kind="stable", ignore_index=True)
        ordered = self.inter_feat.sort_values(self.uid_field, kind="stable")
        self.events = EventLog.from_columns(
            ordered[self.uid_field].to_numpy(), ordered[self.iid_field].to_numpy(), self.user_num
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


def _datasets_beside(path):
    parent = Path(path).parent
    found = sorted(folder.name for folder in parent.glob("*") if any(folder.glob("*.inter"))) if parent.is_dir() else []
    here = f"data_path {parent} holds: {', '.join(found)}." if found else f"data_path {parent} holds no dataset."
    return here + " Without data_path, ml-100k always works: RecBole's wheel carries it."


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
