"""Runs that another command has finished: a ``train`` before, another leaderboard, one that was killed."""

from __future__ import annotations

from typing import Any

import recbole_vsid
from recbole_vsid.leaderboard.plan import PlannedRun
from recbole_vsid.leaderboard.shape import check_record
from recbole_vsid.storage import read_json


def own_keys(run: PlannedRun) -> dict[str, Any]:
    """What a leaderboard adds to the record of ``run``, however that came about."""
    return {"entry": run.entry, "identity": run.identity, "arguments": list(run.arguments)}


def finished_record(run: PlannedRun) -> dict[str, Any] | None:
    """The record in the folder of ``run``, if it is of the same settings, files and version, and whole; else None.

    Its ``seconds`` are those of the tokenizer and the training, and ``taken_over`` names its file.
    """
    file = run.folder / "result.json"
    asked = {
        "dataset": run.dataset, "seed": run.seed, "config_hash": run.config_hash, "data_hash": run.data_hash,
        "package_version": recbole_vsid.__version__,
    }  # fmt: skip
    try:
        record = read_json(file)
        if any(record.get(name) != value for name, value in asked.items()):
            return None
        seconds = record["cost"]["tokenizer_seconds"] + record["cost"]["training_seconds"]
        record = {**record, **own_keys(run), "seconds": seconds, "resumed": False, "taken_over": str(file)}
        check_record(record)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # none, or no record of ours
        return None
    return record
