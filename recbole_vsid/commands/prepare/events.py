"""The event side of ``prepare``: which rows count, who and what they name, and in which order they stand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recbole_vsid.commands.prepare.order import combined_times, order_notes, rating_note
from recbole_vsid.commands.prepare.times import is_clock, read_times
from recbole_vsid.commands.prepare.where import Condition
from recbole_vsid.data.raw_columns import encode_ids
from recbole_vsid.data.raw_tables import RawTable, find_column

ROW_ORDER = "row"


def time_columns(table: RawTable, given: str | None) -> list[str]:
    """The columns of times: one, several separated by commas, or none where ``row`` takes the order of the rows.

    Raises:
        ValueError: there is no such column, or none or several have usual names.
    """
    if given == ROW_ORDER and ROW_ORDER not in table.columns:
        return []
    if isinstance(given, str) and given not in table.columns and "," in given:
        names = [find_column(table, "time", name.strip()) for name in given.split(",") if name.strip()]
        if len(set(names)) < len(names):
            raise ValueError(f"time={given!r} names a column twice")
        return names
    try:
        return [find_column(table, "time", given)]
    except ValueError as error:
        raise ValueError(f"{error}, or time={ROW_ORDER} if the rows stand in the order of time") from error


def read_events(
    table: RawTable,
    columns: dict[str, str],
    times: list[str],
    given_time: bool = False,
    time_format: str | None = None,
    condition: Condition | None = None,
    min_user_events: int = 0,
    min_item_events: int = 0,
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict]:
    """The events that stay, by user, then by time, ties in the order of the table.

    Args:
        columns: of ``user`` and ``item``.
        times: the columns of times, see :func:`time_columns`.
        given_time: whether the user chose them.
        time_format: see :func:`~recbole_vsid.commands.prepare.times.read_times`.
        condition: which rows count; all by default.

    Returns:
        a frame of codes ``user`` and ``item`` and of ``seconds``; the ids of each; facts for the summary.

    Raises:
        ValueError: unusable ids or times, or no event is left.
    """
    filtered = [] if condition is None else condition.columns
    wanted = list(dict.fromkeys([*columns.values(), *times, *filtered]))
    # As texts where a format or a condition reads them.
    inferred = [name for name in times if time_format is None and name not in filtered]
    raw = table.read(wanted, inferred=inferred)
    n_rows, notes, tokens, codes, dropped = len(raw), list(table.notes), {}, {}, {}
    if condition is not None:
        raw = raw[condition.holds(raw)]  # its index still numbers the rows of the table
        dropped["where does not hold"] = n_rows - len(raw)
        if not len(raw):
            raise ValueError(f"{table.name}: where holds for none of {n_rows:,} rows")
    for role in ("user", "item"):
        where = f"{table.name}, column {columns[role]!r}"
        codes[role], tokens[role], changed = encode_ids(raw[columns[role]], where)
        notes += changed
    seconds, exact, unit, changed = _times(raw, table, times, time_format)
    notes += changed
    events = pd.DataFrame({**codes, "exact": exact})
    kept = ~events.duplicated().to_numpy()
    dropped["exact repetitions"] = int(len(raw) - kept.sum())
    kept[kept] = k_core(
        events["user"][kept].to_numpy(), events["item"][kept].to_numpy(), min_user_events, min_item_events
    )
    dropped["too few events of the user or item"] = int(n_rows - kept.sum() - sum(dropped.values()))
    if not kept.any():
        raise ValueError(
            f"{table.name}: none of {n_rows:,} events is left with min_user_events={min_user_events} and "
            f"min_item_events={min_item_events}; lower them"
        )
    rows = np.flatnonzero(kept)
    if times:
        users, keys = codes["user"][rows], exact[rows]
        notes += order_notes(users, keys, unit, table.name, ",".join(times))
        if given_time and unit is None and len(times) == 1:
            notes += rating_note(users, keys, table.name, times[0])
    # RecBole numbers users by their first appearance and sorts float32 times: within a user the file has the order.
    rows = rows[np.lexsort((exact[rows], codes["user"][rows]))]
    events = events.drop(columns="exact").iloc[rows].assign(seconds=seconds[rows])
    unread = [name for name in table.columns if name not in wanted]
    if unread:
        notes.append(f"{table.name}: columns not used: {', '.join(unread)}")
    facts = {
        "columns": {**columns, "time": ",".join(times) or ROW_ORDER},
        "time": {
            "unit": unit,
            "first": _moment(seconds[rows].min(), unit),
            "last": _moment(seconds[rows].max(), unit),
            "fractions": seconds.dtype.kind == "f",
            "row_order": not times,
        },
        "rows_read": n_rows,
        "rows_dropped": dropped,
        "notes": notes,
    }
    return events, tokens, facts


def _where(table, times):
    return f"{table.name}, column {','.join(times)!r}"


def _times(raw, table, times, time_format):
    """What :func:`read_times` returns, from no column, one or several."""
    if not times:
        rows = np.arange(len(raw))
        return rows, rows, None, []
    if len(times) == 1:
        return read_times(raw[times[0]], _where(table, times), time_format)
    if time_format is not None or (len(times) == 2 and is_clock(raw[times[1]])):
        parts = [_day(raw[name]) if name == times[0] else raw[name].map(str).str.strip() for name in times]
        joined = parts[0].str.cat(parts[1:], sep=" ")
        return read_times(joined.where(raw[times].notna().all(axis=1), None), _where(table, times), time_format)
    read = [read_times(raw[name], _where(table, [name])) for name in times]
    seconds, exact = combined_times([each[1] for each in read], read[0][0])
    notes = [note for each in read for note in each[3]]
    notes.append(
        f"{table.name}: events of the same {times[0]!r} stand in the order of {', '.join(map(repr, times[1:]))}, and "
        "their times were set apart to say so"
    )
    return seconds, exact, read[0][2], notes


def _day(values):
    if pd.api.types.is_datetime64_any_dtype(values):
        return values.dt.strftime("%Y-%m-%d")
    return values.map(str).str.strip()


def k_core(users: np.ndarray, items: np.ndarray, min_user_events: int, min_item_events: int) -> np.ndarray:
    """Which events stay when users and items with too few events go, again and again, as RecBole's own filter does it.

    Args:
        users, items: codes ``[n]`` from 0.

    Returns:
        bool ``[n]``.
    """
    rows = np.arange(len(users))
    while len(rows):
        enough = (np.bincount(users[rows]) >= min_user_events)[users[rows]]
        enough &= (np.bincount(items[rows]) >= min_item_events)[items[rows]]
        if enough.all():
            break
        rows = rows[enough]
    kept = np.zeros(len(users), dtype=bool)
    kept[rows] = True
    return kept


def _moment(seconds, unit):
    if unit is None:
        return seconds.item()
    return pd.Timestamp(round(float(seconds) * 10**6), unit="us", tz="UTC").isoformat()
