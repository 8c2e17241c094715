"""Records → boards: what may be compared, means over seeds with intervals, which differences are more than chance.

Only runs of the same data, split, order, ranking, candidates and test users stand on one board, and within an entry
only runs of the same settings and files are averaged. Intervals and tests are at 95 %:

- with several seeds, Student's interval over seeds, and Welch's test against the best baseline;
- with one seed, 1.96 standard errors over test users, and a z-test on them, as if the two runs had tested other users
  (which makes it harder to find a difference); the same where the seed changes neither model.

Holm's correction is over the entries that are compared in one column. A baseline is a model without semantic IDs.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from scipy import stats

from recbole_vsid.evaluation.collector import KEPT, PROTOCOL_NAMES
from recbole_vsid.storage import content_hash

SAME = ("split", "order", "ranking", "candidates", "test_users", "data_fingerprint")
LEVEL = 0.05
BETTER, WORSE, UNCLEAR = "better", "worse", "unclear"


@dataclass(frozen=True)
class Estimate:
    """A mean, its half-width at 95 % (None if nothing tells it), and over what that is: seeds or users.

    Attributes:
        values: of the seeds.
        user_error: standard error over test users of the first seed, or None.
    """

    mean: float
    half_width: float | None
    over: str | None
    values: tuple[float, ...]
    user_error: float | None


@dataclass
class Row:
    """One entry of a board.

    Attributes:
        records: one per seed, by seed.
        metrics: (protocol, metric) → :class:`Estimate` on the test items.
        verdicts: (protocol, metric) → better, worse or unclear against the best baseline; the best one itself has none.
    """

    entry: str
    records: list
    metrics: dict
    verdicts: dict = field(default_factory=dict)

    @property
    def is_baseline(self):
        return self.records[0]["tokenizer"] is None

    @property
    def seeds(self):
        return [record["seed"] for record in self.records]

    def mean(self, name):
        """Mean over seeds of a cost, of those whose record has it; NaN if none has."""
        found = [record["cost"][name] for record in self.records if name in record["cost"]]
        return float(np.mean(found)) if found else float("nan")

    @property
    def seconds(self):
        """Mean seconds of tokenizer and training."""
        return self.mean("training_seconds") + self.mean("tokenizer_seconds")


@dataclass
class Board:
    """Rows that may be compared, best first.

    Attributes:
        protocol: what they share.
        cutoff: of the two metrics in the table.
        best_baseline: protocol → entry of the best baseline by NDCG, or None.
        left_out: number of finished runs of these data that are not shown: other settings or files than their entry's
            row, or other cut-offs than the board.
    """

    dataset: str
    protocol: dict
    cutoff: int
    rows: list
    best_baseline: dict
    left_out: int

    @property
    def table_metrics(self):
        return f"ndcg@{self.cutoff}", f"recall@{self.cutoff}"


def boards(records, wanted=()):
    """All boards of ``records``.

    Args:
        records: in the order in which they were made; of several settings of an entry the last one is shown.
        wanted: keys (see :func:`~recbole_vsid.leaderboard.store.key`) of runs; of their entries only those are shown.

    Returns:
        list of :class:`Board`, in the order of their first records.
    """
    groups = {}
    for record in records:
        shared = content_hash(record["dataset"], [record["protocol"].get(name) for name in SAME])
        groups.setdefault(shared, []).append(record)
    found = [_board(group, wanted) for group in groups.values()]
    return [board for board in found if board.rows]


def _board(records, wanted):
    asked = {(entry, dataset): identity for entry, dataset, _, identity in wanted}
    shown = {record["entry"]: record["identity"] for record in records}
    shown |= {entry: identity for (entry, dataset), identity in asked.items() if dataset == records[0]["dataset"]}
    chosen = {}
    for record in records:
        if record["identity"] == shown[record["entry"]]:
            chosen.setdefault(record["entry"], {})[record["seed"]] = record
    cutoffs = {entry: _cutoffs(by_seed.values()) for entry, by_seed in chosen.items()}
    first = [found for entry, found in cutoffs.items() if (entry, records[0]["dataset"]) in asked]
    cutoff = _most_common(first or cutoffs.values())
    metrics = (f"ndcg@{cutoff}", f"recall@{cutoff}")
    rows = []
    for entry, by_seed in chosen.items():
        if cutoff not in cutoffs[entry]:
            continue
        ordered = [by_seed[seed] for seed in sorted(by_seed)]
        values = {
            (protocol, metric): estimate(ordered, protocol, metric) for protocol in PROTOCOL_NAMES for metric in metrics
        }
        rows.append(Row(entry, ordered, values))
    rows.sort(key=lambda row: -row.metrics[KEPT, metrics[0]].mean)
    best = {}
    for protocol in PROTOCOL_NAMES:
        baselines = [row for row in rows if row.is_baseline]
        best_row = max(baselines, key=lambda row: row.metrics[protocol, metrics[0]].mean, default=None)
        best[protocol] = best_row.entry if best_row else None
        for metric in metrics:
            _judge(rows, best_row, protocol, metric)
    protocol = {name: records[0]["protocol"].get(name) for name in SAME}
    left_out = len(records) - sum(len(row.records) for row in rows)
    return Board(records[0]["dataset"], protocol, cutoff, rows, best, left_out)


def _cutoffs(records):
    """The cut-offs at which all have both NDCG and Recall under both protocols."""
    names = set.intersection(*(set(record["test_result"][name]) for record in records for name in PROTOCOL_NAMES))
    cutoffs = {int(name[5:]) for name in names if name.startswith("ndcg@") and name[5:].isdecimal()}
    return {cutoff for cutoff in cutoffs if f"recall@{cutoff}" in names}


def _most_common(cutoffs):
    """The cut-off that most entries have; of several 10, else the largest."""
    counts = Counter(cutoff for each in cutoffs for cutoff in each) or {10: 0}
    return max(counts, key=lambda cutoff: (counts[cutoff], cutoff == 10, cutoff))


def estimate(records, protocol, metric):
    """The :class:`Estimate` of a test metric from runs that differ by their seeds."""
    values = tuple(record["test_result"][protocol][metric] for record in records)
    error = records[0]["test_breakdown"].get(protocol, {}).get("standard_error", {}).get(metric)
    if len(set(values)) > 1:
        half_width = stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
        return Estimate(float(np.mean(values)), float(half_width), "seeds", values, error)
    if error is None:  # one seed, or seeds that change nothing
        return Estimate(values[0], None, None, values, None)
    return Estimate(values[0], 1.96 * error, "users", values, error)


def p_value(first, second):
    """Of no difference between two estimates; None where nothing tells it."""
    if len({*first.values}) == len({*second.values}) == 1:  # one seed, or seeds that change nothing
        if first.user_error is None or second.user_error is None:
            return None
        error = np.hypot(first.user_error, second.user_error)
        return float(2 * stats.norm.sf(abs(first.mean - second.mean) / error)) if error else None
    if len(first.values) == 1 or len(second.values) == 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # SciPy warns where one of the two never varies
        return float(stats.ttest_ind(first.values, second.values, equal_var=False).pvalue)


def _judge(rows, best, protocol, metric):
    """Set the verdicts of a column."""
    column = protocol, metric
    others = [row for row in rows if best is not None and row is not best]
    tested = [(p_value(row.metrics[column], best.metrics[column]), row) for row in others]
    tested = sorted(((p, row) for p, row in tested if p is not None), key=lambda pair: pair[0])
    rejected = True
    for rank, (p, row) in enumerate(tested):
        rejected = rejected and p * (len(tested) - rank) < LEVEL
        sign = BETTER if row.metrics[column].mean > best.metrics[column].mean else WORSE
        row.verdicts[column] = sign if rejected else UNCLEAR


@functools.lru_cache(maxsize=1)
def _published():
    return yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))


def published(dataset, entry):
    """A paper's figures for this model on this dataset, with their ``source``; None if there are none here."""
    return _published().get(dataset, {}).get(entry)
