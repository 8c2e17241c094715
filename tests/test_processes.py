"""No child outlives its parent, and every signal that ends a process is like Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recbole_vsid.processes import ENDING, WATCHES_INPUT, in_own_process, interrupted_by_signals, stop

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("each", ENDING)
def test_a_signal_is_like_an_interruption_unless_it_is_ignored(each):
    before = signal.signal(each, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
            signal.raise_signal(each)
        assert signal.getsignal(each) is signal.SIG_DFL
        signal.signal(each, signal.SIG_IGN)
        with interrupted_by_signals():
            signal.raise_signal(each)  # as under nohup
    finally:
        signal.signal(each, before)


def test_other_threads_leave_signals_alone():
    entered = []

    def enter():
        with interrupted_by_signals():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]


def ends(pid, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


WAITS = "import time; from recbole_vsid.processes import watch_input; watch_input(); time.sleep(60)"


def test_a_child_ends_when_its_input_is_closed():
    command, environment = [sys.executable, "-c", WAITS], {**ENVIRONMENT, WATCHES_INPUT: "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    process.stdin.close()
    assert process.wait(20) == 1


def test_a_process_that_nobody_watches_over_reads_its_input():
    code = "import sys; from recbole_vsid.processes import watch_input; watch_input(); print(sys.stdin.read())"
    found = subprocess.run([sys.executable, "-c", code], input="text", env=ENVIRONMENT, capture_output=True, text=True)
    assert found.stdout == "text\n"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize(
    "starts",
    [
        # A run of a leaderboard, at its very beginning.
        "child = start(['train', '--dataset=toy', '--epochs=9999'], open(os.devnull, 'wb'), os.environ)\n"
        "print(child.pid, flush=True)",
        # A tokenizer of a comparison.
        "import threading, time\nif __name__ == '__main__':\n"
        "    threading.Thread(target=in_own_process, args=(time.sleep, 60), daemon=True).start()\n"
        "    while not multiprocessing.active_children(): time.sleep(0.01)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True); time.sleep(1)",
    ],
)
def test_no_child_outlives_a_killed_parent(starts, tmp_path):
    imports = "import multiprocessing, os, signal; from recbole_vsid.processes import in_own_process, start\n"
    script = tmp_path / "parent.py"  # what is spawned reads it again
    kill = "os.kill(os.getpid(), signal.SIGKILL)\n"
    script.write_text(imports + starts + ("\n    " if "__main__" in starts else "\n") + kill)
    parent = subprocess.run([sys.executable, str(script)], env=ENVIRONMENT, capture_output=True, text=True)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    assert ends(int(parent.stdout))


def test_a_process_of_its_own_answers():
    assert in_own_process(int, "7") == 7
    assert in_own_process(os.getpid) != os.getpid()
    blocked = in_own_process(signal.pthread_sigmask, signal.SIG_BLOCK, [])
    assert signal.SIGINT in blocked and signal.SIGTERM not in blocked, "no traceback at Ctrl-C"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(ValueError, match="invalid literal"):
        in_own_process(int, "x")
    with pytest.raises(ChildProcessError, match="exit code 3"):
        in_own_process(os._exit, 3)
    with pytest.raises(RuntimeError, match="no answer that can be sent"):
        in_own_process(threading.Lock)


def test_an_interruption_while_it_starts_is_not_lost(monkeypatch):
    process = multiprocessing.get_context("spawn").Process
    started = process.start

    def interrupted(self):
        started(self)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(process, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_own_process(time.sleep, 60)
    assert multiprocessing.active_children() == []


def test_an_interruption_ends_its_process():
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_own_process(time.sleep, 60)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert multiprocessing.active_children() == []


def test_stopping_is_for_all_at_once_and_by_force_if_needed(monkeypatch):
    monkeypatch.setattr("recbole_vsid.processes.GRACE_SECONDS", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        for code in (deaf, "print('x', flush=True); import time; time.sleep(60)")
    ]
    for process in processes:
        process.stdout.readline()
    stop(processes)
    assert [process.returncode for process in processes] == [-signal.SIGKILL, -signal.SIGTERM]
