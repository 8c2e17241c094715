"""``prepare``: a table of events, and perhaps one of items, becomes a dataset in RecBole's atomic format."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from recbole_vsid.data.prepare_items import EVENT_FIELDS, choose_columns, find_items_id, item_file
from recbole_vsid.data.raw_columns import encode_ids, read_times
from recbole_vsid.data.raw_tables import RawTable, find_column
from recbole_vsid.storage import atomic_path, check_name, check_writable

QUANTILES = {"least": 0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "most": 1}


def prepare(
    interactions,
    dataset,
    items=None,
    data_path="dataset",
    user=None,
    item=None,
    time=None,
    items_id=None,
    item_columns=None,
    separator=None,
    columns=None,
    items_columns=None,
    encoding=None,
    min_user_events=0,
    min_item_events=0,
    overwrite=False,
):
    """Write ``data_path/dataset/dataset.inter``, ``.item`` and a property file ``.yaml`` from tables of other programs.

    Events stand in the file by user, in the order of the users' first appearance, then by time, ties in the order of
    the table. Exact repetitions (same user, item, time) are dropped. Items with events that ``items`` lacks get a row
    without content, items without events are left out. Everything that was changed or left out is in the summary.

    Args:
        interactions: one row per event: path of a .csv, .tsv, .jsonl or .parquet file, compressed or not, a folder of
            part files, a pattern or a list of files, or a DataFrame.
        dataset: name of the dataset to be.
        items: the same kinds of table, one row per item.
        data_path: folder of datasets.
        user, item, time: columns of ``interactions``; by default those with a usual name.
        items_id: column of ``items`` with the item's id; by default the one named as in ``interactions``, or with a
            usual name.
        item_columns: columns of ``items`` to take, a list or a text ``"title,brand:token"``, perhaps with a type (see
            :func:`~recbole_vsid.data.raw_columns.describe_items`); all by default.
        separator: between the columns of text files, like ``;`` or ``::`` or ``tab``; the file's extension decides by
            default, or what cuts all lines alike.
        columns, items_columns: names for the columns of text files without a header, a list or a text with commas.
        encoding: of text files, like ``latin-1``; UTF-8 by default, unless a byte order mark says otherwise.
        min_user_events, min_item_events: users and items with fewer events are dropped until all that are left have
            as many (k-core).
        overwrite: whether to replace these files of an existing dataset.

    Returns:
        dict: the summary as plain values, see :func:`~recbole_vsid.data.prepare_report.print_summary`.

    Raises:
        ValueError: columns that cannot be told, ids or times that RecBole would not read back (the first row is named,
            rows count from 1 without the header), or no event is left.
        OSError: missing files, an existing dataset, a folder that cannot be written.
        ImportError: a Parquet file, and pyarrow is not installed.
    """
    folder = _target(dataset, data_path, overwrite)
    for key, least in (("min_user_events", min_user_events), ("min_item_events", min_item_events)):
        if type(least) is not int or least < 0:
            raise ValueError(f"{key}={least!r} is not usable: it must be a whole number of at least 0")
    if type(overwrite) is not bool:
        raise ValueError(f"overwrite={overwrite!r} is not usable: it must be true or false")
    table = RawTable(interactions, "interactions", separator, columns, encoding)
    given = {"user": user, "item": item, "time": time}
    columns = {role: find_column(table, role, choice) for role, choice in given.items()}
    if len(set(columns.values())) < len(columns):
        raise ValueError(f"user, item and time must be three columns of {table.name}, not {list(columns.values())}")
    item_table, chosen = None, None
    if items is not None:  # checked before the events are read, which may take minutes
        item_table = RawTable(items, "items", separator, items_columns, encoding)
        items_id = find_items_id(item_table, columns["item"], items_id)
        chosen = choose_columns(item_table, items_id, item_columns)
    elif item_columns is not None or items_id is not None:
        raise ValueError("item_columns and items_id choose columns of items=<table>, and there is none")

    events, tokens, facts = _events(table, columns, min_user_events, min_item_events)
    described = None
    if item_table is not None:
        wanted = tokens["item"][np.unique(events["item"])]
        described, item_facts = item_file(item_table, items_id, chosen, item_columns is not None, wanted)
        facts["notes"] += item_facts.pop("notes")
        facts.update(item_facts)
    summary = {"dataset": dataset, "folder": str(folder), **_statistics(events), **facts}
    if not summary["users_validated"]:
        summary["notes"].append("no user has 4 events, so a leave-one-out split has nothing to validate")
    summary["files"] = _write(folder, events, tokens, described, _origin(summary, table, item_table))
    summary["next"] = _next_command(summary, data_path)
    return summary


def _target(dataset, data_path, overwrite):
    check_name(dataset, "dataset")
    if dataset == "ml-100k":
        raise ValueError(
            "dataset='ml-100k' is the name of the data in RecBole's wheel, which it reads instead; choose another"
        )
    folder = Path(data_path) / dataset
    check_writable(folder / f"{dataset}.inter", "data_path")
    existing = [path.name for path in _files(folder) if path.exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{folder} already has {', '.join(existing)}; choose another dataset, or overwrite=true")
    return folder


def _files(folder):
    return [folder / f"{folder.name}{suffix}" for suffix in (".inter", ".item", ".yaml")]


# --------------------------------------------------------------------- events


def _events(table, columns, min_user_events, min_item_events):
    """The events that stay, in the order of the file, as a DataFrame of codes ``user``, ``item`` and ``seconds``."""
    raw = table.read(list(columns.values()), inferred=[columns["time"]])
    n_rows, notes, tokens, events = len(raw), list(table.notes), {}, {}
    for role in ("user", "item"):
        where = f"{table.name}, column {columns[role]!r}"
        events[role], tokens[role], changed = encode_ids(raw.pop(columns[role]), where)
        notes += changed
    seconds, exact, unit = read_times(raw.pop(columns["time"]), f"{table.name}, column {columns['time']!r}")
    events = pd.DataFrame({**events, "exact": exact})
    kept = ~events.duplicated().to_numpy()
    dropped = {"exact repetitions": int(n_rows - kept.sum())}
    kept[kept] = k_core(
        events["user"][kept].to_numpy(), events["item"][kept].to_numpy(), min_user_events, min_item_events
    )
    dropped["too few events of the user or item"] = int(n_rows - kept.sum() - dropped["exact repetitions"])
    if not kept.any():
        raise ValueError(
            f"{table.name}: none of {n_rows:,} events is left with min_user_events={min_user_events} and "
            f"min_item_events={min_item_events}; lower them"
        )
    # RecBole numbers users by their first appearance and sorts float32 times: within a user the file has the order.
    rows = np.flatnonzero(kept)
    rows = rows[np.lexsort((exact[rows], events["user"].to_numpy()[rows]))]
    events = events.drop(columns="exact").iloc[rows].assign(seconds=seconds[rows])
    unread = [name for name in table.columns if name not in columns.values()]
    if unread:
        notes.append(f"{table.name}: columns not used: {', '.join(unread)}")
    facts = {
        "columns": columns,
        "time": {
            "unit": unit,
            "first": _moment(seconds[rows].min(), unit),
            "last": _moment(seconds[rows].max(), unit),
            "fractions": seconds.dtype.kind == "f",
        },
        "rows_read": n_rows,
        "rows_dropped": dropped,
        "notes": notes,
    }
    return events, tokens, facts


def k_core(users, items, min_user_events, min_item_events):
    """Which events stay when users and items with too few events go, again and again.

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


def _statistics(events):
    n_events = len(events)
    per_user, per_item = events["user"].value_counts(), events["item"].value_counts()
    return {
        "users": len(per_user),
        "items": len(per_item),
        "events": n_events,
        "density": n_events / (len(per_user) * len(per_item)),
        "events_per_user": _spread(per_user),
        "events_per_item": _spread(per_item),
        "repeated_items": float(events.duplicated(["user", "item"]).mean()),
        "users_tested": float((per_user >= 3).mean()),
        "users_validated": float((per_user >= 4).mean()),
    }


def _spread(counts):
    return {**{name: float(counts.quantile(share)) for name, share in QUANTILES.items()}, "mean": float(counts.mean())}


# --------------------------------------------------------------------- output


def _origin(summary, table, item_table):
    names = table.name + (f" and {item_table.name}" if item_table else "")
    counts = ", ".join(f"{summary[what]:,} {what}" for what in ("users", "items", "events"))
    return " ".join(f"{summary['dataset']}: {counts}, from {names}".split())


def _write(folder, events, tokens, described, origin):
    """Write all files or none, with ``origin`` as a comment; a ``.item`` of an earlier dataset goes.

    Returns:
        the paths.
    """
    inter, item, properties = _files(folder)
    load_col = {"inter": list(EVENT_FIELDS)}
    frames = {
        inter: pd.DataFrame(
            {
                "user_id:token": tokens["user"][events["user"].to_numpy()],
                "item_id:token": tokens["item"][events["item"].to_numpy()],
                "timestamp:float": events["seconds"].to_numpy(),
            }
        )
    }
    if described is not None:
        load_col["item"] = [header.rpartition(":")[0] for header in described]
        frames[item] = pd.DataFrame(described)
    with ExitStack() as files:  # replaced when all are written, the .inter last
        for path, frame in frames.items():
            # Quoted where needed, which is how RecBole reads: ids and titles may hold quotation marks.
            frame.to_csv(files.enter_context(atomic_path(path)), sep="\t", index=False, lineterminator="\n")
        text = yaml.safe_dump({"load_col": load_col}, sort_keys=False, allow_unicode=True, default_flow_style=None)
        files.enter_context(atomic_path(properties)).write_text(f"# {origin}\n{text}", encoding="utf-8")
    if described is None:
        item.unlink(missing_ok=True)
    return [str(path) for path in (*frames, properties)]


def _next_command(summary, data_path):
    command = ["python", "run_recbole_vsid.py", "--model=VLSID"]
    command += [f"--data_path={data_path}", f"--dataset={summary['dataset']}"]
    properties = summary["files"][-1]
    if len(properties.split()) == 1:  # config_files is a list separated by blanks, and all columns are the default
        command.append(f"--config_files={properties}")
    without_text = summary.get("items_without_text", summary["items"])
    if without_text == summary["items"]:
        command.append("--content=cooccurrence")
    if without_text:  # nor has an item any co-occurrence without training events
        command.append("--missing_content=zero")
    return shlex.join(command)
