"""Killed at every write of a training, then resumed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.reliability.shared import COMMON, SMALL, Cases, called, make_data
from recbole_vsid.storage import load_checkpoint


def forked(work: Callable[[], int | None]) -> int:
    """Run ``work`` in a copy of this process; its exit code, negative for a signal."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            code = work() or 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(position: int, arguments: list[str], folder: str) -> int | None:
    """Train, and die by SIGKILL at the ``position``-th write: a file of ``folder`` opened to write, moved or removed.

    ``position`` 0 counts only, and prints the number.
    """
    seen = 0

    def watch(event: str, details: tuple) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(details[1], str) and set(details[1]) & set("wax+")
        if (writes or event in ("os.rename", "os.remove")) and folder in str(details[0]):
            seen += 1
            if seen == position:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    code, _ = called(arguments)
    if position == 0:
        Path("count").write_text(str(seen))
    return code


def weights(folder: str) -> dict[str, torch.Tensor]:
    (path,) = Path(folder).glob("IntRR-*/best.pth")
    return load_checkpoint(path)["state_dict"]


def test_result(folder: str) -> dict:
    (path,) = Path(folder).glob("IntRR-*/result.json")
    return json.loads(path.read_text())["test_result"]


def kill(cases: Cases, n_cases: int, draw: random.Random) -> None:
    make_data(Path("data"))

    def arguments(folder: str) -> list[str]:
        return [*COMMON, *SMALL, "--epochs=12", f"--checkpoint_dir={folder}", "--cache_dir=cache"]

    if forked(lambda: killed_at(0, arguments("whole"), "whole")):
        raise SystemExit("the unbroken training failed")
    total = int(Path("count").read_text())
    right, right_weights = test_result("whole"), weights("whole")
    for position in sorted(draw.sample(range(1, total + 1), min(n_cases, total))):
        folder = f"killed{position}"
        code = forked(lambda position=position, folder=folder: killed_at(position, arguments(folder), folder))
        if code != -signal.SIGKILL:
            cases.fault(f"write {position} of {total}: not killed, exit {code}")
            continue
        resumable = all(list(Path(folder).glob(f"*/{name}.pth")) for name in ("best", "last"))
        again = [*arguments(folder), *(["--resume=true"] if resumable else [])]
        code = forked(lambda again=again: called(again)[0])
        same = code == 0 and test_result(folder) == right
        same = same and all(torch.equal(value, right_weights[name]) for name, value in weights(folder).items())
        if same:
            cases.add("resumed to the same bits" if resumable else "started anew to the same bits")
        else:
            cases.fault(f"write {position} of {total}: exit {code} after the kill, or another result")
