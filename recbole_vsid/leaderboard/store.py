"""``results.jsonl``: one finished run per line, only ever appended to.

A line is the run's result record with what the leaderboard knows about it: its entry, the identity of its settings and
data files, its command and how long it took. A last line that an interruption cut off is left out with a warning.
"""

from __future__ import annotations

import json
import os
from logging import getLogger
from pathlib import Path


class Results:
    """The finished runs of one folder.

    Args:
        folder: where ``results.jsonl`` is or will be.

    Raises:
        ValueError: a line is not a record of this package.
    """

    def __init__(self, folder):
        self.path = Path(folder) / "results.jsonl"
        self.records = {}  # the last line of a key wins
        self._cut_off = False
        lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                self.records[key(record)] = record
            except (ValueError, KeyError, TypeError) as error:
                if number < len(lines):
                    raise ValueError(f"{self.path}, line {number} is not a result record: {error}") from error
                self._cut_off = True
                getLogger().warning(f"{self.path}: its last line was cut off and is left out")

    def add(self, record):
        """Append ``record`` to the file and to :attr:`records`."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._cut_off:
            self._drop_last_line()
        with open(self.path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read() == b"\n" else "\n" + line  # somebody's editor left the last line open
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.records[key(record)] = record

    def _drop_last_line(self):
        with open(self.path, "rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        self._cut_off = False


def key(record):
    """What makes two runs the same; see :attr:`~recbole_vsid.leaderboard.plan.PlannedRun.key`."""
    return tuple(record[name] for name in ("entry", "dataset", "seed", "identity"))
