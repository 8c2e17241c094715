"""One writer at a time: of a run's folder, of a leaderboard's results, of the table of a search.

The lock is the operating system's, so that of a process that was killed is gone with it. Who holds it stands in a file
beside it, for the one who is refused. Readers need no lock: every file here is replaced or appended to as a whole.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from logging import getLogger
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE_SECONDS = 1  # who only looks whether it is free holds it for a moment
ATTEMPTS = 1000


@contextmanager
def sole_writer(path: str | Path, setting: str) -> Iterator[None]:
    """Within, no other process is in such a block for ``path``.

    Where the file system has no locks, a warning says so and the block is entered all the same.

    Args:
        path: a file or folder, which need not be there yet.
        setting: decides where it is.

    Raises:
        BlockingIOError: another process is in such a block; which and since when, in one line.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    file, holder = (path.with_name(f".{path.name}.{ending}") for ending in ("lock", "writer.json"))
    lock = FileLock(file, timeout=PATIENCE_SECONDS)
    try:
        _acquire(lock, file)
    except Timeout:
        raise BlockingIOError(
            f"{_name(holder)} is writing {path}; wait until it has ended, or set another {setting}"
        ) from None
    except (OSError, NotImplementedError) as error:
        getLogger().warning(f"{path} cannot be locked ({error}): see to it that no other process writes there")
        yield
        return
    try:
        with suppress(OSError):  # the lock counts, not its label
            now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
        yield
    finally:
        for left in (holder, file):
            with suppress(OSError):
                left.unlink()
        lock.release()


def _acquire(lock: FileLock, file: Path) -> None:
    """Acquire ``lock`` on the ``file`` that has this name: its last holder may have removed the one that was opened."""
    for _ in range(ATTEMPTS):
        try:
            with suppress(FileExistsError):
                file.touch(exist_ok=False)
            before = file.stat().st_ino
            lock.acquire()
            if file.stat().st_ino == before:
                return
        except FileNotFoundError:  # just removed
            pass
        lock.release()  # or nothing, if it is not held
    raise OSError("its lock file does not stay")


def _name(holder: Path) -> str:
    """Who wrote ``holder``, in words."""
    try:
        found = json.loads(holder.read_text())
        return f"process {found['pid']} on {found['host']}, at work since {found['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return "another process"
