"""What the order of events rests on, said where it is not the times."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

FEWEST_TIES = 0.01
MOST = 0.9
SPREADSHEET_DIGITS = 6
RATINGS, LARGEST_RATING = 21, 100
RATING_NAMES = r"(?i)rat(e|ing)|score|stars?$|grade"


def combined_times(keys: list[np.ndarray], seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times that several columns tell together, the first before the second and so on.

    Args:
        keys: the columns as numbers to sort by, each ``[n]``.
        seconds: the first of them as seconds.

    Returns:
        ``(seconds, exact)``: events with the same first time are a second apart, or less if the first times are
        closer; and int64 numbers in that order, the same for the same time.
    """
    order = np.lexsort(keys[::-1])
    changes = np.zeros(len(order), dtype=bool)
    for key in keys:
        changes[1:] |= key[order][1:] != key[order][:-1]
    exact = np.empty(len(order), dtype=np.int64)
    exact[order] = np.cumsum(changes)
    firsts, group = np.unique(keys[0], return_inverse=True)
    lowest = np.full(len(firsts), len(order), dtype=np.int64)
    np.minimum.at(lowest, group, exact)
    rank = exact - lowest[group]
    starts = np.unique(seconds)
    gap = np.diff(starts).min() if len(starts) > 1 else np.inf
    most = rank.max() if len(rank) else 0
    return seconds + (rank if most < gap else rank * (gap / (most + 1))), exact


def order_notes(users: np.ndarray, exact: np.ndarray, unit: str | None, table: str, column: str) -> list[str]:
    """Sentences on events that their times do not order.

    Args:
        users: a number per user, ``[n]``, in the order of the table.
        exact: the times as they are sorted, ``[n]``.
        unit: as :func:`~recbole_vsid.commands.prepare.times.read_times` found it.
        table, column: where the times are from, for messages.
    """
    if len(exact) < 2:
        return []
    where, notes = f"{table}, column {column!r}", []
    events = pd.DataFrame({"user": users, "time": exact})
    share = float(events.duplicated(keep=False).mean())
    if (exact == exact[0]).all():
        notes.append(f"{where}: all times are equal, so the order of events is that of the table")
    elif share >= FEWEST_TIES:
        notes.append(
            f"{where}: {share:.0%} of the events share their time with another event of the same user; their order is "
            f"that of the table, or that of a second column with time={column},<column>"
        )
    if share >= FEWEST_TIES and _newest_first(users, exact):
        notes.append(
            f"{where}: the table is sorted newest first, so events that share a time are likely in the wrong order; "
            "sort it oldest first"
        )
    if unit in ("seconds", "milliseconds", "microseconds") and _few_digits(exact):
        notes.append(
            f"{where}: the times have {SPREADSHEET_DIGITS} digits at most before their zeros, as if a spreadsheet had "
            "written 1.57E+12; export them as text"
        )
    return notes


def _newest_first(users, exact):
    order = np.argsort(users, kind="stable")
    users, exact = users[order], exact[order]
    steps = np.sign(exact[1:].astype(np.float64) - exact[:-1])[users[1:] == users[:-1]]
    steps = steps[steps != 0]
    return len(steps) > 0 and (steps < 0).mean() >= MOST


def _few_digits(exact):
    digits = np.floor(np.log10(np.abs(exact[exact != 0]).astype(np.float64)))
    return len(digits) > 0 and bool((exact[exact != 0] % 10 ** (digits + 1 - SPREADSHEET_DIGITS) == 0).mean() >= MOST)


def rating_note(users: np.ndarray, exact: np.ndarray, table: str, column: str) -> list[str]:
    """A warning where a column that the user chose for time looks like ratings; positions do not."""
    distinct = np.unique(exact)
    few = len(distinct) <= RATINGS and distinct[0] >= 0 and distinct[-1] <= LARGEST_RATING
    if not re.search(RATING_NAMES, column) and (not few or _positions(users, exact)):
        return []
    return [
        f"{table}, column {column!r} holds {len(distinct):,} different numbers from {distinct[0]} to {distinct[-1]}, "
        "like ratings, and events are ordered by them; if the rows stand in the order of time, set time=row"
    ]


def _positions(users, exact):
    """Whether each user's numbers go on by one from the first."""
    order = np.lexsort((exact, users))
    users, exact = users[order], exact[order]
    return bool((np.diff(exact)[users[1:] == users[:-1]] == 1).all())
