"""Records of other runs, however odd, never end a run that has finished."""

from __future__ import annotations

import copy
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from recbole_vsid.evaluation.results import comparable, print_comparison
from recbole_vsid.quick_start import run

METRICS = {"recall@10": 0.5, "ndcg@10": 0.25, "filled_share": 1.0}
RECORD = {
    "model": "Pop",
    "tokenizer": None,
    "seed": 1,
    "protocol": {
        "split": {"LS": "valid_and_test"},
        "order": "by time, ties in file order",
        "ranking": "full catalogue",
        "candidates": 41,
        "test_users": 60,
        "data_fingerprint": "abc",
    },
    "test_result": {"consumed_kept": METRICS, "consumed_masked": METRICS},
    "cost": {"training_seconds": 1.5, "tokenizer_seconds": 0.0},
}
ODD = ["[/red]", "[bold]x", "\x1b[31m", "a\nb", "", None, True, [], [3], {}, {"a": 1}, 10**400, -1, 1e308, "DROP"]
MISSING = object()


def paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from paths(entry, (*path, key))


def changed(path, value):
    if not path:
        return None if value is MISSING else value
    record = copy.deepcopy(RECORD)
    place = record
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return record


def shown(folder):
    output = io.StringIO()
    others = comparable(RECORD, folder)
    print_comparison(others, Console(file=output, width=120))
    return others, output.getvalue()


@pytest.mark.parametrize("path", list(paths(RECORD)), ids=lambda path: ".".join(path) or "all")
def test_every_part_may_be_odd(tmp_path, path):
    for position, value in enumerate([*ODD, float("nan"), float("inf"), MISSING]):
        folder = tmp_path / f"{position}"
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(changed(path, value)), encoding="utf-8")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/result.json").write_text(json.dumps(RECORD), encoding="utf-8")
    others, output = shown(tmp_path)
    assert RECORD in others and "0.2500" in output
    assert not any(word in output for word in ("nan", "inf", "\x1b[31m", "9" * 99))
    if path and path[0] == "protocol":
        assert others == [RECORD], "another protocol is not comparable"
    if path in (("model",), ("tokenizer",)):
        assert "[/red]" in output, "markup is shown, not obeyed"


@pytest.mark.skipif(os.name != "posix", reason="kinds of files are POSIX's")
def test_files_that_are_none(tmp_path):
    for name in ("folder", "fifo", "gone", "loop", "deep", "bytes", "long", "none"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder/result.json").mkdir()
    os.mkfifo(tmp_path / "fifo/result.json")  # whoever opened it would wait for ever
    (tmp_path / "gone/result.json").symlink_to("nowhere")
    (tmp_path / "loop/result.json").symlink_to("result.json")
    (tmp_path / "deep/result.json").write_text("[" * 100_000)
    (tmp_path / "bytes/result.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "long/result.json").write_text('{"seed": ' + "9" * 5000 + "}")
    assert shown(tmp_path)[0] == []


def test_the_best_comes_first(tmp_path):
    for score in (0.1, 0.3, 0.2, None):
        record = changed(("test_result", "consumed_kept", "ndcg@10"), score)
        (tmp_path / f"{score}").mkdir()
        (tmp_path / f"{score}/result.json").write_text(json.dumps(record), encoding="utf-8")
    scores = [each["test_result"]["consumed_kept"]["ndcg@10"] for each in comparable(RECORD, tmp_path)]
    assert scores == [0.3, 0.2, 0.1, None]


def test_a_run_ends_well_beside_odd_records(small_settings, capsys):
    settings = small_settings("Pop", epochs=1)
    first = run("Pop", "toy", config_dict=settings)
    for name, change in {"markup": {"model": "Pop [/red]"}, "no-cost": {"cost": None}, "no-seed": {"seed": []}}.items():
        Path("saved", name).mkdir()
        Path("saved", name, "result.json").write_text(json.dumps({**first, **change}))
    run("Pop", "toy", config_dict={**settings, "seed": 2})
    output = capsys.readouterr().out
    assert "Pop [/red]" in output and "Results here on the same data" in output
