"""``prepare``: a table of events, and perhaps one of items, becomes a dataset in RecBole's atomic format."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from recbole_vsid.commands.prepare.events import read_events, time_columns
from recbole_vsid.commands.prepare.next_command import next_command
from recbole_vsid.commands.prepare.read_back import check_file
from recbole_vsid.commands.prepare.where import Condition
from recbole_vsid.data.prepare_items import EVENT_FIELDS, choose_columns, find_items_id, item_file
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
    time_format=None,
    where=None,
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
        user, item, time: columns of ``interactions``; by default those with a usual name. ``time`` may be several,
            separated by commas, of which the later ones order what the first leaves open, or ``row`` if the rows stand
            in the order of time.
        time_format: how times are written, as ``datetime.strptime`` reads it; numbers, ISO dates and other usual forms
            are read without.
        where: a condition on the rows of ``interactions``, like ``"event == 'purchase'"``, see
            :class:`~recbole_vsid.commands.prepare.where.Condition`.
        items_id: column of ``items`` with the item's id; by default the one named as in ``interactions``, or with a
            usual name.
        item_columns: columns of ``items`` to take, a list or a text ``"title,brand:token,tags:token_seq(;)"``, perhaps
            with a type, and that with what separates the names of a text (see
            :func:`~recbole_vsid.data.raw_columns.describe_items`); by default all that say what an item is like, which
            flags, dates, links and serial numbers do not.
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
    roles = {"user": find_column(table, "user", user), "item": find_column(table, "item", item)}
    times = time_columns(table, time)
    every = [*roles.values(), *times]
    if len(set(every)) < len(every):
        raise ValueError(f"user, item and time must be three columns of {table.name}, not {every}")
    condition = None if where is None else Condition(where, table.columns, table.name)
    item_table, chosen = None, None
    if items is not None:  # checked before the events are read, which may take minutes
        item_table = RawTable(items, "items", separator, items_columns, encoding)
        items_id = find_items_id(item_table, roles["item"], items_id)
        chosen = choose_columns(item_table, items_id, item_columns)
    elif item_columns is not None or items_id is not None:
        raise ValueError("item_columns and items_id choose columns of items=<table>, and there is none")

    events, tokens, facts = read_events(
        table, roles, times, time is not None, time_format, condition, min_user_events, min_item_events
    )
    described = None
    if item_table is not None:
        wanted = tokens["item"][np.unique(events["item"])]
        described, item_facts = item_file(item_table, items_id, chosen, item_columns is not None, wanted)
        facts["notes"] += item_facts.pop("notes")
        facts.update(item_facts)
    summary = {"dataset": dataset, "folder": str(folder), **_statistics(events), **facts}
    if not summary["users_validated"]:
        summary["notes"].append(
            "no user has 4 events, so a leave-one-out split has nothing to validate, and a run cannot select its "
            "model: it needs users with more events"
        )
    summary["files"] = _write(folder, events, tokens, described, _origin(summary, table, item_table))
    summary["next"] = next_command(summary, data_path)
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


# ------------------------------------------------------------------ summary


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

    Raises:
        ValueError: RecBole would not read a file back as it was meant.
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
    with ExitStack() as files:  # replaced when all are written and read back, the .inter last
        for path, frame in frames.items():
            # Quoted where needed, which is how RecBole reads: ids and titles may hold quotation marks.
            temporary = files.enter_context(atomic_path(path))
            frame.to_csv(temporary, sep="\t", index=False, lineterminator="\n")
            check_file(temporary, str(path), frame)
        text = yaml.safe_dump({"load_col": load_col}, sort_keys=False, allow_unicode=True, default_flow_style=None)
        files.enter_context(atomic_path(properties)).write_text(f"# {origin}\n{text}", encoding="utf-8")
    if described is None:
        item.unlink(missing_ok=True)
    return [str(path) for path in (*frames, properties)]
