"""A finished run is taken over by a leaderboard of the same settings, files and version, and by no other."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import recbole_vsid.leaderboard.execute as execution
from recbole_vsid import run
from recbole_vsid.leaderboard.adopt import finished_record
from recbole_vsid.leaderboard.board import leaderboard
from recbole_vsid.leaderboard.plan import plan
from recbole_vsid.leaderboard.store import Results


@pytest.fixture
def settings(data_path, tmp_path):
    shutil.copytree(data_path, tmp_path / "data")
    return {"data_path": str(tmp_path / "data"), "num_threads": 1, "use_gpu": False}


def planned(settings, model="Pop", **changes):
    (found,) = plan([model], ["toy"], [1], config_dict={**settings, **changes})
    return found


def board(settings, models=("Pop",), output_dir="board"):
    """Failures, and what is printed."""
    console = Console(file=StringIO(), width=200)
    failures, _ = leaderboard(models, ["toy"], [1], output_dir, config_dict=settings, console=console)
    return failures, console.file.getvalue()


@pytest.fixture
def no_process(monkeypatch):
    def refuse(run, *_, **__):
        raise AssertionError(f"{run.name} is run again")

    monkeypatch.setattr(execution, "Job", refuse)


@pytest.mark.parametrize("changes", [{}, {"result_file": "elsewhere.json"}])
def test_a_finished_run_is_taken_over_and_not_touched(settings, changes, no_process):
    record = run("Pop", "toy", config_dict={**settings, "seed": 1, **changes})
    (folder,) = Path("saved").glob("Pop-*")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    failures, printed = board(settings)
    assert failures == {} and f"Pop on toy, seed 1: taken over from {folder}" in printed
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (found,) = Results("board").records.values()
    assert found["taken_over"] == str(folder / "result.json") and found["entry"] == "Pop"
    assert found["test_result"] == json.loads(json.dumps(record["test_result"]))
    assert "taken over" not in board(settings)[1], "but once"
    Path("board/results.jsonl").unlink()  # a leaderboard that was killed before it noted what its process had finished
    assert "taken over" in board(settings)[1]


def test_what_differs_is_not_taken_over(settings):
    run("Pop", "toy", config_dict={**settings, "seed": 1})
    same = planned(settings)
    assert finished_record(same) and finished_record(planned(settings, num_threads=2))
    for changes in ({"topk": [10, 20]}, {"seed": 2}, {"checkpoint_dir": "other"}):
        (other,) = plan(["Pop"], ["toy"], [changes.pop("seed", 1)], config_dict={**settings, **changes})
        assert finished_record(other) is None
    file = same.folder / "result.json"
    text = file.read_text()
    record = json.loads(text)
    for change in ({"package_version": "0.0.1"}, {"config_hash": "x"}, {"data_hash": None}, {"seed": 2},
                   {"cost": {}}, {"test_result": {}}, {"learning_curve": [float("nan")]}):  # fmt: skip
        file.write_text(json.dumps({**record, **change}))
        assert finished_record(same) is None, change
    for odd in ("[]", "null", "{", "NaN", ""):
        file.write_text(odd)
        assert finished_record(same) is None
    file.write_text(text)
    assert finished_record(planned(settings))
    with open(Path(settings["data_path"]) / "toy" / "toy.item", "a", encoding="utf-8") as items:
        items.write("i99\tshade\tgroup1\n")
    assert finished_record(planned(settings)) is None


def test_data_that_change_during_a_run_leave_it_without_their_hash(settings, monkeypatch):
    from recbole_vsid import quick_start

    def meanwhile(*arguments):
        with open(Path(settings["data_path"]) / "toy" / "toy.item", "a", encoding="utf-8") as items:
            items.write("i99\tshade\tgroup1\n")
        return 1.0

    monkeypatch.setattr(quick_start, "request_milliseconds", meanwhile)
    assert run("Pop", "toy", config_dict={**settings, "seed": 1})["data_hash"] is None
