"""One writer at a time, who is named; a killed one blocks nobody."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_vsid import locks
from recbole_vsid.cli import main
from recbole_vsid.config import Config
from recbole_vsid.leaderboard.store import Results
from recbole_vsid.locks import sole_writer
from recbole_vsid.trainer import run_folder
from tests.leaderboard.records import record

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.05)


def holding(path):
    """A process that writes ``path`` until it is killed."""
    code = (
        "import sys, time; from recbole_vsid.locks import sole_writer\n"
        "with sole_writer(sys.argv[1], 'output_dir'): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_the_second_is_told_who_is_at_work_and_a_killed_process_blocks_nobody(ending):
    process = holding("new/board")
    try:
        with pytest.raises(BlockingIOError) as refused, sole_writer("new/board", "output_dir"):
            pass
        assert f"process {process.pid} on " in str(refused.value) and "at work since 20" in str(refused.value)
        assert str(Path("new/board").absolute()) in str(refused.value) and "another output_dir" in str(refused.value)
        with sole_writer("new/other", "output_dir"):
            pass
    finally:
        process.send_signal(ending)
        process.wait()
    with sole_writer("new/board", "output_dir"):
        pass
    assert os.listdir("new") == [], "nothing is left"


def test_an_error_frees_it():
    with pytest.raises(KeyError), sole_writer("x", "output_dir"):
        raise KeyError
    with sole_writer("x", "output_dir"), pytest.raises(BlockingIOError), sole_writer("./x", "output_dir"):
        pass
    assert os.listdir() == []


@pytest.mark.parametrize("label", ["", "[1]", "{}", "\udcff", None])
def test_a_holder_without_a_readable_name(label):
    with sole_writer("x", "output_dir"):
        holder = Path(".x.writer.json")
        holder.unlink() if label is None else holder.write_bytes(os.fsencode(label))
        with pytest.raises(BlockingIOError, match="another process is writing"), sole_writer("x", "output_dir"):
            pass


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_where_there_are_no_locks_a_line_says_so(error, monkeypatch, caplog):
    def acquire(_):
        raise error

    monkeypatch.setattr(locks.FileLock, "acquire", acquire)
    with sole_writer("x", "output_dir"):
        Path("x").touch()
    assert "cannot be locked" in caplog.text and "no other process writes there" in caplog.text


def test_several_processes_at_once():
    """Each adds a line only while it is alone."""
    code = (
        "import os; from recbole_vsid import locks; locks.PATIENCE_SECONDS = 30\n"
        "for _ in range(40):\n"
        "    with locks.sole_writer('x', 'output_dir'):\n"
        "        os.close(os.open('alone', os.O_CREAT | os.O_EXCL)); open('x', 'a').write('.'); os.unlink('alone')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert Path("x").read_text() == "." * 120


# ------------------------------------------------------------------- what uses it


def refused(capsys, *arguments):
    assert main(list(arguments)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert f"process {os.getpid()} on" in line and "Traceback" not in line
    return line


def test_a_run_that_another_process_is_at_work_on(small_settings, capsys):
    settings = small_settings("Pop")
    folder = run_folder(Config("Pop", "toy", config_dict=settings))
    arguments = [f"--{key}={value}" for key, value in settings.items()]
    with sole_writer(folder, "checkpoint_dir"):
        assert folder.name in refused(capsys, "train", "--model=Pop", "--dataset=toy", *arguments)
        Path("space.test").write_text("seed choice [1]\n")
        line = refused(capsys, "tune", "--model=Pop", "--dataset=toy", "--params_file=space.test", *arguments)
        assert "every trial failed" in line and folder.name in line
        assert not folder.exists()
        board = [argument for argument in arguments if not argument.startswith("--seed")]
        code = main(["leaderboard", "--model=Pop", "--dataset=toy", "--seed=1", "--output_dir=board", *board])
        captured = capsys.readouterr()
        assert code == 1 and f"process {os.getpid()} on" in captured.err and not Path("board/results.jsonl").exists()
        assert not folder.exists(), "its log is the other's"


def test_the_folder_of_a_leaderboard_and_the_table_of_a_search(data_path, capsys):
    with sole_writer("board/results.jsonl", "output_dir"):
        arguments = ["--dataset=toy", f"--data_path={data_path}"]
        line = refused(capsys, "leaderboard", "--model=Pop", "--seed=1", "--output_dir=board", *arguments)
        assert "board/results.jsonl" in line and "set another output_dir" in line
        Results("board").add(record())
        assert main(["leaderboard", "--report_only=true", "--output_dir=board"]) == 0, "one may look meanwhile"
    Path("space.test").write_text("seed choice [1]\n")
    with sole_writer("trials.csv", "output_file"):
        arguments += ["--params_file=space.test", "--output_file=trials.csv"]
        assert "trials.csv" in refused(capsys, "tune", "--model=Pop", *arguments)
