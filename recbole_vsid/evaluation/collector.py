"""One scoring pass, two protocols: consumed items kept, and consumed items masked.

Whether items a user has already consumed stay candidates is worth more than most methods claim, so
every evaluation gives both, for RecBole's models too; ``mask_history`` says which one selects the model.

Also mended here: in RecBole 1.2.1 ``topk`` fills free slots of a ranking with arbitrary ids and
counts them as hits if they are, equal scores are ranked in any order, and the four coverage metrics
crash (its issue #2194).
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from recbole.evaluator import Collector

from recbole_vsid.decoding.ranking import best_items

KEPT, MASKED = "consumed_kept", "consumed_masked"
PROTOCOL_NAMES = {KEPT: "consumed kept", MASKED: "consumed masked"}


class FiniteCollector(Collector):
    """RecBole's collector, in which only slots with a finite score are recommendations and ties have one order.

    Attributes:
        filled: number of finite slots among the first ``max(topk)`` of all rows; ``slots``: their total.
    """

    def __init__(self, config):
        super().__init__(config)
        self.filled = self.slots = 0
        self.own = {key for key in ("rec.topk", "rec.items") if self.register.need(key)}
        for key in self.own:  # RecBole's code collects the rest
            setattr(self.register, key, False)

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        items, scores = best_items(scores_tensor, max(self.topk))
        finite = torch.isfinite(scores)
        self.filled += int(finite.sum())
        self.slots += finite.numel()
        if "rec.topk" in self.own:
            found = (items[positive_u] == positive_i.unsqueeze(1)).int()
            hits = found.new_zeros(items.shape).index_add_(0, positive_u, found) * finite
            n_relevant = positive_u.bincount(minlength=len(items)).int().unsqueeze(1)
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, n_relevant], dim=1))
        if "rec.items" in self.own:
            # An empty slot covers nothing new.
            self.data_struct.update_tensor("rec.items", torch.where(finite, items, items[:, :1]))

    def get_data_struct(self):
        self.filled = self.slots = 0
        struct = copy.copy(self.data_struct)
        struct._data_dict = {
            name: value.cpu() if isinstance(value, torch.Tensor) else value
            for name, value in self.data_struct._data_dict.items()
        }
        for name in ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label"):
            self.data_struct._data_dict.pop(name, None)
        return struct


class ProtocolCollector:
    """Stands where RecBole's trainer expects its collector and feeds one per protocol.

    ``get_data_struct`` gives the one of ``mask_history``; :attr:`structs` keeps both.

    Args:
        config: the run's configuration.

    Attributes:
        targets: int64 array, the items to be found, in the order of the evaluation.
    """

    def __init__(self, config):
        self.user_field = config["USER_ID_FIELD"]
        self.collectors = {KEPT: FiniteCollector(config), MASKED: FiniteCollector(config)}
        self.selected = MASKED if config["mask_history"] else KEPT
        self.consumed = None
        self.structs, self.filled_share = {}, {}
        self._targets = []

    def start(self, consumed):
        """Begin an evaluation; ``consumed`` is the boolean CSR ``[n_users, n_items]`` of that split."""
        self.consumed = consumed
        self._targets = []

    @property
    def targets(self):
        return np.concatenate(self._targets)

    def data_collect(self, train_data):
        for collector in self.collectors.values():
            collector.data_collect(train_data)

    def model_collect(self, model):
        for collector in self.collectors.values():
            collector.model_collect(model)

    def eval_collect(self, eval_pred, data_label):
        for collector in self.collectors.values():
            collector.eval_collect(eval_pred, data_label)

    def eval_batch_collect(self, scores, interaction, positive_u, positive_i):
        """``scores`` ``[B, n_items]`` without any masking of consumed items."""
        self._targets.append(positive_i.cpu().numpy())
        positive_u, positive_i = positive_u.to(scores.device), positive_i.to(scores.device)
        self.collectors[KEPT].eval_batch_collect(scores, interaction, positive_u, positive_i)
        rows = self.consumed[interaction[self.user_field].cpu().numpy()].tocoo()
        masked = scores.clone()
        masked[torch.from_numpy(rows.row).long(), torch.from_numpy(rows.col).long()] = -torch.inf
        # As RecBole's general evaluation does: an item consumed before *and* now to be found stays in.
        masked[positive_u, positive_i] = scores[positive_u, positive_i]
        self.collectors[MASKED].eval_batch_collect(masked, interaction, positive_u, positive_i)

    def get_data_struct(self):
        for name, collector in self.collectors.items():
            self.filled_share[name] = round(collector.filled / max(collector.slots, 1), 6)
            self.structs[name] = collector.get_data_struct()
        return self.structs[self.selected]
