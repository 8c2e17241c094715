"""The result of a run: one record of plain values, one table for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import recbole_vsid
from recbole_vsid.evaluation.breakdown import breakdown
from recbole_vsid.evaluation.collector import KEPT, PROTOCOL_NAMES
from recbole_vsid.evaluation.machine import machine
from recbole_vsid.storage import read_json

# Metrics and seconds, and letters of a name, that are believed of other records.
LARGEST, LONGEST = 1e15, 60


def protocol(config, dataset, n_users, selected_by):
    """Everything two runs must share for their metrics to be comparable, as plain values."""
    split = config["eval_args"]["split"]
    return {
        "split": split,
        "order": "by time, ties in file order"
        if config["eval_args"]["order"] == "TO"
        else config["eval_args"]["order"],
        "ranking": "full catalogue",
        "equal_scores": "in the order of the items' ids",
        "candidates": dataset.item_num - 1,
        "test_users": n_users,
        "data_fingerprint": dataset.fingerprint(),
        "selected_by": selected_by,
    }


def record(config, dataset, trainer, model, n_users, selected_by, valid_result, test_result, request_milliseconds):
    """The JSON record of a finished run; the test was the trainer's last evaluation."""
    report = getattr(dataset, "tokenizer_report", None)
    seconds = max(trainer.train_seconds, 1e-9)
    cost = {
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "tokens_per_item": round(getattr(model, "tokens_per_item", 1.0), 3),
        "tokenizer_seconds": round(report["content_seconds"] + report["fit_seconds"], 2) if report else 0.0,
        "training_seconds": round(trainer.train_seconds, 2),
        "epochs": len(trainer.train_loss_dict),
        "examples_per_second": round(trainer.trained_examples / seconds, 1),
        "evaluation_ms_per_user": round(1000 * trainer.evaluation_seconds / max(trainer.evaluated_users, 1), 3),
        "request_ms": request_milliseconds,
    }
    generative = report is not None
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "tokenizer": report["tokenizer"] if generative else None,
        "seed": config["seed"],
        "protocol": {
            **protocol(config, dataset, n_users, selected_by),
            "decoding": model.ranking if generative else "dense scores",
        },
        "valid_result": valid_result,
        "test_result": test_result,
        "test_breakdown": breakdown(trainer.eval_collector, config["topk"]),
        "cost": cost,
        "machine": machine(config),
        "learning_curve": trainer.learning_curve,
        "diagnostics": model.diagnostics() if generative else {},
        "code_watch": getattr(trainer, "code_watch", []),
        "semantic_ids": {**report, "provenance": model.semantic_ids.provenance} if generative else None,
        "settings": config.external_plain(),
        "config_hash": config.hash(),
        "package_version": recbole_vsid.__version__,
    }


def print_record(result, console=None):
    """Print metrics, protocol and cost of a record."""
    console = console or Console()
    name = result["model"] + (f" with {result['tokenizer']} semantic IDs" if result["tokenizer"] else "")
    table = Table(title=f"{name} on {result['dataset']}, seed {result['seed']}")
    table.add_column("metric")
    for split in ("validation", "test"):
        for label in PROTOCOL_NAMES.values():
            table.add_column(f"{split}\n{label}", justify="right")
    # Without validation (eval_step=0) its columns stay empty.
    columns = [(result[split] or {}).get(name) for split in ("valid_result", "test_result") for name in PROTOCOL_NAMES]
    for metric in columns[-1]:
        table.add_row(metric, *(_number(column[metric]) if column else "-" for column in columns))
    console.print(table)
    facts = Table(title="protocol and cost", show_header=False)
    diagnostics = {name: _number(value) for name, value in result["diagnostics"].items()}
    for key, value in {**result["protocol"], **result["cost"], **diagnostics}.items():
        facts.add_row(key.replace("_", " "), escape(str(value)))
    console.print(facts)


def _number(value):
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def comparable(result, folder):
    """Records below ``folder`` of the same data, split and ranking as ``result``, best first.

    Which protocol selected a model may differ between them; it stands in each record. Files that are no records of
    this package are left out; of odd ones is kept what can be read.
    """
    same = ("split", "order", "ranking", "candidates", "test_users", "data_fingerprint")
    found = []
    for path in sorted(Path(folder).glob("*/result.json")):
        try:
            other = read_json(path) if path.is_file() else None
        except (ValueError, OSError):
            continue
        if all(_at(other, "protocol", key) == result["protocol"][key] for key in same) and _at(
            other, "test_result", KEPT
        ):
            found.append(other)
    return sorted(found, key=lambda each: -(_finite(_at(each, "test_result", KEPT, "ndcg@10")) or 0.0))


def print_comparison(results, console=None):
    """One line per record: the leaderboard of what has been run here under one protocol.

    What a record does not hold, or not as a finite number, prints as -.
    """
    console = console or Console()
    table = Table(title="Results here on the same data, split and candidates (test)")
    for column in ("model", "semantic IDs", "seed"):
        table.add_column(column)
    for label in PROTOCOL_NAMES.values():
        table.add_column(f"NDCG@10\n{label}", justify="right")
    table.add_column("training\nseconds", justify="right")
    for each in results:
        names = [_name(_at(each, key)) for key in ("model", "tokenizer", "seed")]
        scores = [_finite(_at(each, "test_result", name, "ndcg@10")) for name in PROTOCOL_NAMES]
        seconds = [_finite(_at(each, "cost", key)) for key in ("training_seconds", "tokenizer_seconds")]
        cells = ["-" if score is None else _number(score) for score in scores]
        table.add_row(*names, *cells, "-" if None in seconds else f"{sum(seconds):.0f}")
    console.print(table)


def _at(record, *path):
    """The value at a path of keys; None where there is none."""
    for key in path:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _finite(value):
    """``value`` if it is a finite number as metrics and seconds are, else None."""
    usual = isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST
    return value if usual else None


def _name(value):
    """A name or number of a record that anybody may have written: no markup, nothing that is not printable."""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        return "-"
    return escape("".join(letter for letter in str(value) if letter.isprintable())[:LONGEST]) or "-"
