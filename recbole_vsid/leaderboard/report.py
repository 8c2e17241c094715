"""A leaderboard as Markdown and CSV.

The two protocols are columns of their own, and so are figures from papers, which were not measured here.
"""

from __future__ import annotations

import shlex

import pandas as pd

from recbole_vsid.evaluation.collector import PROTOCOL_NAMES
from recbole_vsid.leaderboard.execute import duration
from recbole_vsid.leaderboard.summary import BETTER, WORSE, published
from recbole_vsid.storage import atomic_path

MARKS = {BETTER: " ▲", WORSE: " ▼"}
LEGEND = (
    "± is the 95 % interval: over seeds (Student), or, marked °, over test users where there is one seed only or seeds "
    "change nothing. "
    "▲ and ▼: better or worse than the model without semantic IDs that has the best NDCG (bold) by more than chance at "
    "5 %, by Welch's test over seeds, or a z-test over users for one seed, with Holm's correction over the column; no "
    "mark: not told apart, or not testable, as one seed against several."
)


def figure(value):
    """A metric as papers print it: ``.0423``."""
    return f"{value:.4f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.4f}"


def cell(board, row, protocol, metric):
    """Mean, interval and mark of one metric: ``.0632 ± .0091 ▲``."""
    estimate = row.metrics[protocol, metric]
    over_users = "°" if estimate.over == "users" else ""
    interval = "" if estimate.half_width is None else f" ± {figure(estimate.half_width)}{over_users}"
    text = figure(estimate.mean) + interval
    best = row.entry == board.best_baseline[protocol]
    return f"**{text}**" if best else text + MARKS.get(row.verdicts.get((protocol, metric)), "")


def costs(row):
    """What an entry costs, name → text."""
    first = row.records[0]
    n_tokenizers = len({record["tokenizer"] for record in row.records})
    return {
        "semantic IDs": first["tokenizer"] if first["tokenizer"] and n_tokenizers == 1 else "–",
        "tokens per item": f"{row.mean('tokens_per_item'):.2f}",
        "parameters": f"{row.mean('parameters') / 1e6:.2f} M",
        "tokenizer": duration(row.mean("tokenizer_seconds")) if first["tokenizer"] else "–",
        "training": duration(row.mean("training_seconds")),
        "one request": f"{row.mean('request_ms'):.1f} ms",
        "per test user": f"{row.mean('evaluation_ms_per_user'):.1f} ms",
        "seeds": ", ".join(map(str, row.seeds)),
    }


def published_figures(board, row):
    """The paper's NDCG and Recall of this entry in brackets, or a dash."""
    found = published(board.dataset, row.entry) or {}
    values = [figure(found[metric]) for metric in board.table_metrics if metric in found]
    return f"[{' / '.join(values)}]" if values else "–"


def table(board):
    """The board as a data frame of texts, one row per entry, best first."""
    rows, has_published = [], bool(sources(board))
    for row in board.rows:
        cells = {"model": row.entry}
        for protocol, label in PROTOCOL_NAMES.items():
            for metric in board.table_metrics:
                cells[f"{metric_name(metric)}, {label}"] = cell(board, row, protocol, metric)
        cells |= costs(row)
        if has_published:
            cells["published, not measured here"] = published_figures(board, row)
        rows.append(cells)
    return pd.DataFrame(rows)


def metric_name(metric):
    """``ndcg@10`` as papers write it."""
    name, cutoff = metric.split("@")
    return f"{name.upper() if name == 'ndcg' else name.capitalize()}@{cutoff}"


def facts(board):
    """The protocol of a board, name → text."""
    records = [record for row in board.rows for record in row.records]
    shared = {name.replace("_", " "): str(value) for name, value in board.protocol.items()}
    shared["consumed kept"] = "items a user has consumed stay candidates (RecBole's way for sequential models)"
    shared["consumed masked"] = "they are removed after scoring, but for the target itself (most papers' way)"
    shared["measured on"] = "; ".join(sorted({_machine(record) for record in records}))
    versions = sorted({record["package_version"] for record in records})
    return {**shared, "package": f"recbole_vsid {', '.join(versions)}"}


def left_out(board):
    """The sentence on runs that are not shown."""
    return f"{board.left_out} finished runs with other settings, files or cut-offs are in results.jsonl and not shown."


def sources(board):
    """Where the published figures of a board are from, in one text; empty if there are none."""
    cited = {row.entry: published(board.dataset, row.entry) or {} for row in board.rows}
    shown = {entry: found for entry, found in cited.items() if set(board.table_metrics) & set(found)}
    return "; ".join(f"{entry}: {found['source']}" for entry, found in shown.items())


def _machine(record):
    machine = record["machine"]
    return f"{machine['device']}, {machine['processors']}, {machine['threads']} threads, PyTorch {machine['torch']}"


def per_entry(board):
    """How each entry was selected, decoded and started, name → list of texts."""
    return {
        row.entry: [
            f"selected by {row.records[0]['protocol']['selected_by']}; {row.records[0]['protocol']['decoding']}",
            f"python run_recbole_vsid.py {shlex.join(row.records[0]['arguments'])}",
        ]
        for row in board.rows
    }


def markdown(all_boards, failures):
    """The whole leaderboard as Markdown."""
    parts = ["# Leaderboard", LEGEND]
    for board in all_boards:
        frame = table(board)
        parts += [f"## {board.dataset}", _markdown_table(frame)]
        cited = sources(board)
        if cited:
            names = " / ".join(map(metric_name, board.table_metrics))
            parts.append(f"In brackets {names} as published, under the papers' own settings: {cited}.")
        if board.left_out:
            parts.append(left_out(board))
        parts.append("\n".join(f"- {name}: {text}" for name, text in facts(board).items()))
        lines = []
        for entry, (how, command) in per_entry(board).items():
            lines += [f"# {entry}: {how}", command]
        parts.append("First seed of each; the others differ by `--seed`.\n\n```bash\n" + "\n".join(lines) + "\n```")
    if failures:
        parts.append("## Failed\n\n" + "\n".join(f"- {run.name}: {reason}" for run, reason in failures.items()))
    return "\n\n".join(parts) + "\n"


def _markdown_table(frame):
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plain(all_boards):
    """The numbers of the tables as a data frame, one row per board, entry, protocol and metric."""
    rows = []
    for board in all_boards:
        for row in board.rows:
            for (protocol, metric), estimate in row.metrics.items():
                rows.append({
                    "dataset": board.dataset, "data_fingerprint": board.protocol["data_fingerprint"],
                    "entry": row.entry,
                    "model": row.records[0]["model"], "tokenizer": row.records[0]["tokenizer"], "protocol": protocol,
                    "metric": metric, "mean": estimate.mean, "half_width_95": estimate.half_width,
                    "interval_over": estimate.over, "against_best_baseline": row.verdicts.get((protocol, metric)),
                    "seeds": " ".join(map(str, row.seeds)), "values": " ".join(map(str, estimate.values)),
                    "published": (published(board.dataset, row.entry) or {}).get(metric),
                    **{name: row.mean(name) for name in row.records[0]["cost"]},
                })  # fmt: skip
    return pd.DataFrame(rows)


def write(path, text):
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
