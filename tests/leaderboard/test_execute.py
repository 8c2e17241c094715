"""Runs in processes of their own: finished, failed, interrupted, continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import recbole_vsid.leaderboard.execute as execution
from recbole_vsid.cli import main
from recbole_vsid.leaderboard.board import leaderboard
from recbole_vsid.leaderboard.execute import Job, duration, remaining_seconds, time_left
from recbole_vsid.leaderboard.plan import plan
from recbole_vsid.leaderboard.store import Results
from tests.leaderboard.records import record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(data_path):
    return {"data_path": str(data_path), "num_threads": 1}


def run(settings, models=("Pop",), seeds=(1,), **arguments):
    """Returns what :func:`leaderboard` returns, and what it printed."""
    console = Console(file=StringIO(), width=200)
    found = leaderboard(list(models), ["toy"], list(seeds), "board", config_dict=settings, console=console, **arguments)
    return (*found, console.file.getvalue())


def test_what_is_there_is_not_run_again_and_what_fails_does_not_stop_the_rest(settings, tmp_path):
    own = tmp_path / "settings"
    own.mkdir()
    # Refused only when the data are read, in its own process.
    (own / "Bad.yaml").write_text("model: BPR\nitem_inter_num_interval: '[9999,inf)'\n")
    failures, files, printed = run(settings, ["Bad", "Pop"], settings_dir=own, jobs=2)
    assert [failed.name for failed in failures] == ["Bad on toy, seed 1"]
    assert all("no interaction is left after filtering" in reason for reason in failures.values())
    assert "FAILED" in printed and "Pop on toy, seed 1: done in" in printed
    assert [file.name for file in files] == ["leaderboard.md", "leaderboard.csv", "leaderboard.html"]
    assert "## Failed" in files[0].read_text() and "no interaction is left" in files[0].read_text()

    lines = Path("board/results.jsonl").read_text().splitlines()
    assert [(each["entry"], each["seed"]) for each in map(json.loads, lines)] == [("Pop", 1)]
    failures, files, printed = run(settings)
    assert failures == {} and "1 of 1 runs are in" in printed and "starts" not in printed
    assert Path("board/results.jsonl").read_text().splitlines() == lines
    assert "## Failed" not in files[0].read_text()


def test_report_only_shows_what_is_there(settings, capsys):
    assert main(["leaderboard", "--report_only=true", "--output_dir=board"]) == 2
    assert "there are no results in board/results.jsonl" in capsys.readouterr().err
    Results("board").add(record("Mine", dataset="elsewhere"))
    assert main(["leaderboard", "--report_only=true", "--output_dir=board"]) == 0
    assert "Written: board/leaderboard.html" in capsys.readouterr().out
    assert "| Mine |" in Path("board/leaderboard.md").read_text()


def test_a_process_that_is_killed_is_a_failed_run(settings, monkeypatch):
    started = Job.__init__

    def killed(job, *arguments, **settings):
        started(job, *arguments, **settings)
        job.process.kill()

    monkeypatch.setattr(Job, "__init__", killed)
    failures, files, _ = run(settings)
    assert list(failures.values())[0].startswith("killed by signal 9 (out of memory?)")
    assert files == [] and not Path("board/results.jsonl").exists()


def test_a_record_of_another_configuration_is_refused(settings, monkeypatch):
    (planned,) = plan(["Pop"], ["toy"], [1], config_dict=settings)
    planned.folder.mkdir(parents=True)
    (planned.folder / "result.json").write_text('{"config_hash": "other"}')
    job = SimpleNamespace(run=planned, seconds=1.0, resumed=False)
    with pytest.raises(ValueError, match=f"configuration other, not {planned.config_hash}"):
        Job.record(job)


def test_an_interrupted_leaderboard_goes_on(small_settings):
    settings = {key: value for key, value in small_settings(epochs=15, stopping_step=15).items() if key != "seed"}
    command = [sys.executable, str(ROOT / "run_recbole_vsid.py"), "leaderboard", "--model=Pop,VLSID", "--dataset=toy",
               "--seed=1", "--output_dir=board", "--config_files=all.yaml"]  # fmt: skip
    Path("settings").mkdir()
    Path("settings/VLSID.yaml").write_text(json.dumps({k: v for k, v in settings.items() if k != "data_path"}))
    Path("all.yaml").write_text(json.dumps({"data_path": settings["data_path"], "num_threads": 1, "use_gpu": False}))
    command.append("--settings_dir=settings")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not list(Path("saved").glob("VLSID-*/last.pth")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in output
    assert [key[0] for key in Results("board").records] == ["Pop"]
    assert "| Pop |" in Path("board/leaderboard.md").read_text(), "the tables show what was finished"
    (folder,) = Path("saved").glob("VLSID-*")
    assert not (folder / "result.json").exists(), "the run ended before it could be stopped"

    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "VLSID on toy, seed 1: goes on" in second.stdout and "Pop on toy" not in second.stdout
    found = {key[0]: record for key, record in Results("board").records.items()}
    assert found["VLSID"]["resumed"] and found["VLSID"]["cost"]["epochs"] == 15
    assert "Resuming after epoch" in (folder / "run.log").read_text()


def test_what_cannot_go_on_starts_anew_once(settings, monkeypatch):
    started = []

    def job(run, n_threads, resume, keep_log):
        started.append((resume, keep_log))
        process = SimpleNamespace(poll=lambda: 1, returncode=1)
        facts = {"run": run, "process": process, "resumed": resume, "seconds": 1.0, "log": "run.log"}
        return SimpleNamespace(**facts, failure=lambda: "damaged", progress=lambda: "")

    monkeypatch.setattr(execution, "Job", job)
    monkeypatch.setattr(execution, "is_interrupted", lambda *_: True)
    monkeypatch.setattr(execution, "POLL_SECONDS", 0)
    failures, _, printed = run(settings, ["VLSID"])
    assert started == [(True, False), (False, True)]
    assert "goes on" in printed and "could not go on (damaged), it starts anew" in printed
    assert list(failures.values()) == ["damaged (log: run.log)"]


def test_what_failed_before_an_interruption_is_reported(settings, tmp_path, monkeypatch):
    (tmp_path / "Bad.yaml").write_text("model: BPR\nitem_inter_num_interval: '[9999,inf)'\n")
    Results("board").add(record("Mine", dataset="elsewhere"))
    finished = execution._finish

    def interrupt(*arguments):
        finished(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "_finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(settings, ["Bad", "Pop"], settings_dir=tmp_path)
    assert "no interaction is left" in Path("board/leaderboard.md").read_text().partition("- Bad on toy, seed 1")[2]


def test_data_that_change_meanwhile_fail_the_run(settings, tmp_path):
    copy = shutil.copytree(Path(settings["data_path"]) / "toy", tmp_path / "data" / "toy")
    (planned,) = plan(["Pop"], ["toy"], [1], config_dict={**settings, "data_path": str(tmp_path / "data")})
    with open(copy / "toy.inter", "a", encoding="utf-8") as file:
        file.write("u0\ti0\t9999999\n")
    with pytest.raises(ValueError, match="its data files changed"):
        Job.record(SimpleNamespace(run=planned))


def test_an_error_is_that_of_the_last_attempt_and_no_markup(tmp_path):
    log = tmp_path / "run.log"
    log.write_text("error: resume=True: the old one\n")
    start = log.stat().st_size
    with open(log, "a") as file:
        file.write("RuntimeError: [enforce fail at alloc.cpp:121] data[/x] out of memory\n")
    text = Job.failure(SimpleNamespace(process=SimpleNamespace(returncode=1), log=log, _log_start=start))
    console = Console(file=StringIO(), width=200)
    execution._say(console, text)
    assert console.file.getvalue() == "RuntimeError: [enforce fail at alloc.cpp:121] data[/x] out of memory\n"


def test_time_left_counts_only_what_is_known(monkeypatch):
    def planned(entry):
        return SimpleNamespace(entry=entry, dataset="toy")

    finished = [("toy", 100.0, False), ("toy", 200.0, False), ("other", 9999.0, False), ("toy", 1.0, True)]
    records = [
        {"entry": "A", "dataset": dataset, "seconds": seconds, "resumed": resumed}
        for dataset, seconds, resumed in finished
    ]
    running = SimpleNamespace(run=planned("A"), seconds=50.0)
    assert remaining_seconds([planned("A")] * 2, [running], records, 1) == (400.0, False)
    assert remaining_seconds([planned("A")] * 2, [running], records, 2) == (200.0, False)
    assert remaining_seconds([planned("A"), planned("B")], [], records, 1) == (150.0, True)
    assert remaining_seconds([planned("B")], [], records, 1) == (0.0, True)
    assert time_left(400.0, False) == "about 7 min left"
    assert time_left(150.0, True) == "more than 2 min left"
    assert time_left(0.0, True) == "time left not known yet"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_processors_are_shared(settings, monkeypatch):
    started = []

    def not_started(run, n_threads, resume, keep_log):
        started.append(n_threads)
        raise OSError("no processes here")

    monkeypatch.setattr(execution.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(execution, "Job", not_started)
    runs = plan(["Pop"], ["toy"], [1], config_dict={"data_path": settings["data_path"]})
    for n_jobs in (1, 3):
        with pytest.raises(OSError, match="no processes here"):
            execution.execute(runs, Results("board"), n_jobs, Console(file=StringIO()), {})
    assert started == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed=1,x"], "seed='x' is not usable"),
        (["--jobs=0"], "jobs=0 is not usable"),
        (["--model=Popp"], "unknown model 'Popp'"),
        (["--epochs=0"], "epochs=0 is not usable"),
        (["--settings_dir=nowhere"], "settings_dir='nowhere' is not a folder"),
    ],
)
def test_the_command_line_refuses(arguments, message, capsys):
    model = [] if any(argument.startswith("--model") for argument in arguments) else ["--model=Pop"]
    assert main(["leaderboard", *model, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("saved/leaderboard").exists()
