"""``results.jsonl``: one finished run per line, only ever appended to.

A line is the run's result record with what the leaderboard knows about it: its entry, the identity of its settings and
data files, its command and how long it took. A last line that an interruption cut off is left out with a warning.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_vsid.leaderboard.shape import check_record


class Results:
    """The finished runs of one folder.

    Args:
        folder: where ``results.jsonl`` is or will be.

    Raises:
        ValueError: a line is not a record of this package.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "results.jsonl"
        self.records: dict[tuple, dict[str, Any]] = {}  # the last line of a key wins
        self._read()

    def _read(self) -> None:
        self.records.clear()
        self._cut_off = False
        lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                if number < len(lines):
                    raise self._foreign(number, error) from error
                self._cut_off = True
                getLogger().warning(f"{self.path}: its last line was cut off and is left out")
                return
            try:
                check_record(record)
            except ValueError as error:
                raise self._foreign(number, error) from error
            self.records[key(record)] = record

    def _foreign(self, number: int, error: Exception) -> ValueError:
        return ValueError(
            f"{self.path}, line {number} is not a result record: {error}; mend or remove the line, or set another "
            "output_dir"
        )

    def add(self, record: dict[str, Any]) -> None:
        """Append ``record`` to the file and to :attr:`records`, unless somebody else has added its run meanwhile.

        Raises:
            ValueError: the tables could not show it; nothing was written.
            OSError: it cannot be written, and the file is as it was.
        """
        check_record(record)
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        known = set(self.records)
        self._read()
        if key(record) in set(self.records) - known:
            return
        if self._cut_off:
            self._drop_last_line()
        with open(self.path, "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                line = line if file.read() == b"\n" else "\n" + line  # somebody's editor left the last line open
            try:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.close()
                os.truncate(self.path, size)  # the next line must not begin in the middle of this one
                raise
        self.records[key(record)] = record

    def _drop_last_line(self) -> None:
        with open(self.path, "rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        self._cut_off = False


def key(record: dict[str, Any]) -> tuple:
    """What makes two runs the same; see :attr:`~recbole_vsid.leaderboard.plan.PlannedRun.key`."""
    return tuple(record[name] for name in ("entry", "dataset", "seed", "identity"))
