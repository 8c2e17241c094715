"""Processes that end with the one that started them, however that ends.

A process that is told to end (SIGTERM, SIGHUP, SIGQUIT) can stop its children, one that is killed cannot. So a child
watches something that only its parent keeps open, and ends by itself when that is closed: its standard input
(:func:`start`), or what multiprocessing has for it (:func:`in_own_process`).
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

WATCHES_INPUT = "RECBOLE_VSID_WATCHES_INPUT"
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK") if hasattr(signal, name)]
GRACE_SECONDS = 10


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Within, every signal that asks a process to end is Ctrl-C; those that are ignored (``nohup``) stay so."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere signals go to somebody else
        before = {each: signal.getsignal(each) for each in ENDING}
        before = {each: handler for each, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        for each in before:
            signal.signal(each, interrupt)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def start(arguments: Sequence[str], log: BinaryIO, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start this package's command line in a process that ends with this one.

    Args:
        arguments: of ``run_recbole_vsid.py``.
        log: takes what it prints.
        environment: its variables.
    """
    # The package may be on sys.path only because the script beside it was started.
    package = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "recbole_vsid", *arguments],
        stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
        env={**environment, "PYTHONPATH": path, WATCHES_INPUT: "1"},
    )  # fmt: skip


def watch_input() -> None:
    """End this process as soon as its standard input is closed, if :func:`start` started it."""
    if not os.environ.pop(WATCHES_INPUT, None):
        return
    watched, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # who asks for input gets none
    os.close(nothing)

    def wait() -> None:
        os.read(watched, 1)  # nothing is ever written
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """End ``processes``, all at once, by force those that take their time."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
            process.wait()


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function(*arguments)`` returns or raises in a new process, whose peak memory is its own.

    Raises:
        ChildProcessError: it ended without an answer, for instance for want of memory.
        RuntimeError: its answer cannot be pickled.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    try:
        with _signals_waiting():  # else one could fall between the child's start and the end that is made of it here
            process.start()
        sender.close()
        succeeded, answer = receiver.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(f"its process ended with exit code {process.exitcode} (out of memory?)") from None
    finally:
        receiver.close()
        if process.pid is not None:
            process.kill()
            process.join()
    if succeeded:
        return answer
    raise answer


@contextmanager
def _signals_waiting() -> Iterator[None]:
    """Signals that arrive within are handled behind it; a process started within never gets those of Ctrl-C."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, *ENDING])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(sender: Any, function: Callable[..., Any], arguments: tuple) -> None:
    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    try:
        answer = True, function(*arguments)
    except Exception as error:
        answer = False, error
    try:
        pickle.loads(pickle.dumps(answer))
    except Exception as error:  # of any kind, of objects as of errors that are made in their own ways
        answer = False, RuntimeError(f"{answer[1]!r} is no answer that can be sent: {error}")
    sender.send(answer)
