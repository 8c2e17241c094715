"""Result records as runs write them, with chosen numbers."""

from __future__ import annotations

from recbole_vsid.evaluation.breakdown import GROUPS
from recbole_vsid.evaluation.collector import KEPT, MASKED


def record(entry="SASRec", seed=1, ndcg=0.05, masked=None, tokenizer=None, error=0.003, dataset="toy", **changes):
    """A record with NDCG@10 ``ndcg`` kept and ``masked`` (by default the double) masked; recall is twice as large."""
    scores = {KEPT: ndcg, MASKED: 2 * ndcg if masked is None else masked}
    errors = {"ndcg@10": error, "recall@10": 2 * error}
    groups = {name: {group: {"ndcg@10": value, "recall@10": 2 * value} for group in GROUPS}
              for name, value in scores.items()}  # fmt: skip
    return {
        "entry": entry,
        "identity": f"{entry} as it is",
        "arguments": [f"--model={entry}", f"--dataset={dataset}", f"--seed={seed}", "--topk=[5, 10]"],
        "seconds": 60.0,
        "resumed": False,
        "model": entry,
        "dataset": dataset,
        "tokenizer": tokenizer,
        "seed": seed,
        "protocol": {
            "split": {"LS": "valid_and_test"}, "order": "by time", "ranking": "full catalogue", "candidates": 40,
            "test_users": 60, "data_fingerprint": "f", "selected_by": "NDCG@10 on validation", "decoding": "beam 50",
        },
        "valid_result": {},
        "test_result": {name: {"ndcg@10": value, "recall@10": 2 * value} for name, value in scores.items()},
        "test_breakdown": {
            "cutoff": 10,
            "groups": {name: {"items": 10, "targets": 20} for name in GROUPS},
            **{name: {"standard_error": errors, **groups[name]} for name in scores},
        },
        "cost": {
            "parameters": 1_000_000, "tokens_per_item": 3.5 if tokenizer else 1.0, "training_seconds": 50.0 + seed,
            "tokenizer_seconds": 9.0 if tokenizer else 0.0, "epochs": 2, "examples_per_second": 100.0,
            "evaluation_ms_per_user": 1.5, "request_ms": 4.0,
        },
        "machine": {"device": "cpu", "processors": "2 logical", "threads": 1, "python": "3.11", "torch": "2.13"},
        "learning_curve": [
            {"epoch": epoch, "seconds": 10.0 * epoch, "train_loss": 9.0 - epoch, "valid_score": ndcg / (3 - epoch)}
            for epoch in (1, 2)
        ],
        "settings": {"model": entry, "seed": seed, "num_threads": 1},
        "config_hash": f"{entry}-{seed}",
        "package_version": "0.1.0",
        **changes,
    }  # fmt: skip


def seeds(entry, values, **changes):
    """One record per value of NDCG@10, with seeds from 1."""
    return [record(entry, seed, value, **changes) for seed, value in enumerate(values, 1)]
