"""Event logs and the batches cut from them, all vectorised.

One user is one row of a ragged array. A training batch holds either whole windows of users' sequences, every event of
which is a target (:class:`WindowLoader`), or prefixes with the one event that follows (:class:`PrefixLoader`, for
models whose encoder sees the whole history at once).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from recbole.data.interaction import Interaction


@dataclass(frozen=True)
class EventLog:
    """Events sorted by user, then time.

    Args:
        items: int64 ``[n_events]`` item ids.
        offsets: int64 ``[n_users + 1]``; user *u* owns ``items[offsets[u]:offsets[u + 1]]``.
        moments: int64 ``[n_events]``, never falling, equal for events of a user at the same time; None if unknown.
    """

    items: np.ndarray
    offsets: np.ndarray
    moments: np.ndarray | None = None

    @classmethod
    def from_columns(cls, users, items, n_users, times=None):
        """From columns already sorted by user and time."""
        counts = np.bincount(users, minlength=n_users)
        moments = None
        if times is not None and len(times):
            later = (users[1:] != users[:-1]) | (times[1:] != times[:-1])
            moments = np.r_[0, np.cumsum(later)]
        return cls(np.asarray(items, dtype=np.int64), np.r_[0, np.cumsum(counts)].astype(np.int64), moments)

    def counts(self):
        """Events per user, int64 ``[n_users]``."""
        return np.diff(self.offsets)

    def users(self):
        """User of each event, int64 ``[n_events]``."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts())

    def users_at(self, positions):
        """User of the event at each position, int64."""
        return np.searchsorted(self.offsets, positions, side="right") - 1

    def heads(self, counts):
        """The log of each user's first ``counts[u]`` events."""
        position = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.counts())
        keep = position < np.repeat(counts, self.counts())
        moments = None if self.moments is None else self.moments[keep]
        return EventLog(self.items[keep], np.r_[0, np.cumsum(counts)].astype(np.int64), moments)

    def shuffled(self, rng):
        """The log with each user's events at the same time in a new order."""
        if self.moments is None:
            return self
        return replace(self, items=self.items[np.lexsort((rng.random(len(self.items)), self.moments))])

    def target_positions(self):
        """Positions of all events that have an earlier event of the same user, int64."""
        first = np.zeros(len(self.items), dtype=bool)
        first[self.offsets[:-1][self.counts() > 0]] = True
        return np.flatnonzero(~first)

    def histories(self, positions, max_length):
        """The events before each position, at most the last ``max_length``, oldest first.

        Returns:
            items int64 ``[n, max_length]``, right-padded with 0, and lengths int64 ``[n]``.
        """
        lengths = np.minimum(positions - self.offsets[self.users_at(positions)], max_length)
        return self.gather(positions - lengths, lengths, max_length), lengths

    def gather(self, starts, lengths, width):
        """Rows ``items[start:start + length]``, right-padded with 0 to ``width``; int64 ``[n, width]``."""
        column = np.arange(width)
        index = starts[:, None] + column
        inside = column < lengths[:, None]
        return np.where(inside, self.items[np.where(inside, index, 0)], 0)


def windows(log, costs, budget, phase):
    """Cut each user's sequence into consecutive windows of whole events.

    Args:
        log: :class:`EventLog`.
        costs: int64 ``[n_items]``: what an event of this item costs (its tokens, or 1).
        budget: largest cost of a window; at least ``max(costs)``.
        phase: int64 ``[n_users]`` in ``[0, budget - max(costs) + 1)``: where each user's first cut falls, so that
            cuts differ from epoch to epoch.

    Returns:
        starts, lengths: int64 ``[n_windows]``: each window is ``log.items[start:start + length]``. Windows cover every
        event exactly once, and a sequence that fits into the budget stays whole.
    """
    cost = costs[log.items]
    stride = budget - int(costs.max()) + 1
    if stride < 1:
        raise ValueError(f"a window budget of {budget} cannot hold one item of {int(costs.max())} tokens")
    users = log.users()
    before = np.r_[0, np.cumsum(cost)]
    spent = before[:-1] - before[log.offsets[:-1]][users]
    totals = before[log.offsets[1:]] - before[log.offsets[:-1]]
    # An event belongs to the window its first token falls into; the last one may reach max(costs) - 1 further.
    number = np.where((totals > budget)[users], (spent + phase[users]) // stride, 0)
    begins = np.flatnonzero(np.r_[True, (users[1:] != users[:-1]) | (number[1:] != number[:-1])])
    return begins, np.diff(np.r_[begins, len(log.items)])


class SequenceLoader(ABC):
    """Training batches of rows of similar length, in random order.

    Rows are sorted by cost with a random tie-break and cut into batches, whose order is random: so little is padded. An
    epoch depends on ``seed`` and its number only, which makes the order of the data reproducible after a resume.

    Args:
        config: the run's configuration (field names, ``seed``).
        dataset: a built :class:`~recbole_vsid.data.dataset.SemanticIDDataset`, the training split.

    Attributes:
        n_targets: events predicted in an epoch.
    """

    def __init__(self, config, dataset):
        self.config, self._dataset, self.dataset = config, dataset, dataset
        self.training = self.log = dataset.training
        self.items_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self.length_field = config["ITEM_LIST_LENGTH_FIELD"]
        self.epoch = 0
        self._plan = None

    def set_epoch(self, epoch):
        """Choose the epoch that the next iteration gives."""
        self.epoch, self._plan = epoch, None

    def _batches(self):
        if self._plan is None:
            rng = np.random.default_rng([self.config["seed"], self.epoch])
            rows, cost = self._rows(rng)
            order = np.lexsort((rng.random(len(cost)), cost))
            bounds = self._bounds(cost[order])
            parts = [order[begin:end] for begin, end in zip(bounds[:-1], bounds[1:])]
            self._plan = [tuple(column[parts[i]] for column in rows) for i in rng.permutation(len(parts))]
        return self._plan

    @abstractmethod
    def _rows(self, rng):
        """Columns of all rows of an epoch, and the cost of each row."""

    @abstractmethod
    def _bounds(self, sorted_cost):
        """Where to cut rows of ascending cost into batches: ``[0, …, n_rows]``."""

    def __len__(self):
        return len(self._batches())


class WindowLoader(SequenceLoader):
    """Batches of windows: ``item_id_list`` ``[R, n]`` and ``item_length`` ``[R]``. No row mixes two users.

    Args:
        costs: int64 ``[n_items]``, see :func:`windows`.
        budget: largest cost of one window.
        batch_cost: cost of one batch, padding included.
        lead: whether a window begins with the event before it, for models that predict from events only. A user's first
            event is then no target, and a lone one no window.
        shuffle: whether events of a user at the same time change places from epoch to epoch.

    Raises:
        ValueError: with ``lead``, no user has two training events.
    """

    def __init__(self, config, dataset, costs, budget, batch_cost, lead=False, shuffle=False):
        super().__init__(config, dataset)
        self.costs, self.budget, self.batch_cost, self.lead, self.shuffled = costs, budget, batch_cost, lead, shuffle
        self.n_targets = len(self.log.target_positions()) if lead else len(self.log.items)
        if lead and self.n_targets == 0:
            raise ValueError("no user has two training events, so there is nothing to learn from")

    def _rows(self, rng):
        stride = self.budget - int(self.costs.max()) + 1
        phase = rng.integers(0, max(stride, 1), size=len(self.log.offsets) - 1)
        if self.shuffled:
            self.log = self.training.shuffled(rng)
        starts, lengths = windows(self.log, self.costs, self.budget, phase)
        if self.lead:
            inner = ~np.isin(starts, self.log.offsets)
            starts, lengths = starts - inner, lengths + inner
            starts, lengths = starts[lengths > 1], lengths[lengths > 1]
        before = np.r_[0, np.cumsum(self.costs[self.log.items])]
        return (starts, lengths), before[starts + lengths] - before[starts]

    def _bounds(self, sorted_cost):
        return _equal_cost_bounds(sorted_cost, self.batch_cost)

    def __iter__(self):
        for starts, lengths in self._batches():
            rows = self.log.gather(starts, lengths, int(lengths.max()))
            yield Interaction({self.items_field: torch.from_numpy(rows), self.length_field: torch.from_numpy(lengths)})


class PrefixLoader(SequenceLoader):
    """Batches of prefixes and the event after each.

    Fields: ``user_id`` ``[R]``, ``item_id_list`` ``[R, n]`` (the last ``max_length`` events before the target),
    ``item_length`` ``[R]`` and ``item_id`` ``[R]``, the target.

    Args:
        max_length: most events of a history.
        batch_size: rows per batch.
        sampled: one target per user, drawn anew each epoch, instead of all events but a user's first.

    Raises:
        ValueError: no user has two training events.
    """

    def __init__(self, config, dataset, max_length, batch_size, sampled):
        super().__init__(config, dataset)
        self.max_length, self.batch_size, self.sampled = max_length, batch_size, sampled
        counts = self.log.counts()
        self.n_targets = int((counts > 1).sum() if sampled else np.maximum(counts - 1, 0).sum())
        if self.n_targets == 0:
            raise ValueError("no user has two training events, so there is nothing to learn from")

    def _rows(self, rng):
        if self.sampled:
            users = np.flatnonzero(self.log.counts() > 1)
            targets = self.log.offsets[users] + rng.integers(1, self.log.counts()[users])
        else:
            targets = self.log.target_positions()
        return (targets,), np.minimum(targets - self.log.offsets[self.log.users_at(targets)], self.max_length)

    def _bounds(self, sorted_cost):
        return [*range(0, len(sorted_cost), self.batch_size), len(sorted_cost)]

    def __iter__(self):
        for (targets,) in self._batches():
            items, lengths = self.log.histories(targets, self.max_length)
            columns = {
                self.config["USER_ID_FIELD"]: self.log.users_at(targets),
                self.items_field: items[:, : lengths.max()],
                self.length_field: lengths,
                self.config["ITEM_ID_FIELD"]: self.log.items[targets],
            }
            yield Interaction({name: torch.from_numpy(column) for name, column in columns.items()})


def _equal_cost_bounds(sorted_cost, batch_cost):
    """Cut ascending costs so that rows × longest row stays within ``batch_cost`` (at least one row a batch)."""
    bounds = [0]
    while bounds[-1] < len(sorted_cost):
        begin = bounds[-1]
        # rows * longest grows with the end of the batch, so the last end that fits is found by bisection.
        # No row is shorter than the first, which bounds how far to look.
        candidates = sorted_cost[begin : begin + batch_cost // max(1, int(sorted_cost[begin])) + 1]
        area = np.arange(1, len(candidates) + 1) * candidates
        bounds.append(begin + max(1, int(np.searchsorted(area, batch_cost, side="right"))))
    return bounds
