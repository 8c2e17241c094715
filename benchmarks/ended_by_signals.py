"""Whether a process outlives the leaderboard, the comparison or the search that started it, however that is ended.

    python benchmarks/ended_by_signals.py

Every command is ended by every signal at several moments: after some seconds, as soon as it has children, in training.
Prints one row for each, with the seconds until the last process was gone; exit code 1 if one is left after 20 s.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SCRIPT = Path(__file__).resolve().parents[1] / "run_recbole_vsid.py"
SIGNALS = [getattr(signal, f"SIG{name}") for name in ("HUP", "INT", "QUIT", "TERM", "KILL")]
LIMIT_SECONDS, START_SECONDS, LOOK_SECONDS = 20, 60, 0.05
ENDLESS = ["--epochs=100000", "--stopping_step=100000", "--eval_step=1"]
SMALL = ["--dataset=shop", "--data_path=data", "--num_threads=1", "--use_gpu=false", "--show_progress=false"]
MODEL = ["--model=IntRR", "--content_dim=8", "--hidden_size=16", "--n_heads=2", "--head_size=8", "--inner_size=16",
         "--uid_size=8", "--ran_hidden_size=8", "--beam_width=20", "--enable_amp=false"]  # fmt: skip
COMMANDS = {
    "leaderboard": ["leaderboard", *MODEL, *SMALL, *ENDLESS, "--seed=1"],
    "leaderboard --jobs=2": ["leaderboard", *MODEL, *SMALL, *ENDLESS, "--seed=1,2", "--jobs=2"],
    "tokenize --compare": ["tokenize", "--compare=rqvae,vlsid", *SMALL, "--sid_epochs=100000"],
    "tune": ["tune", *MODEL, *SMALL, *ENDLESS, "--params_file=space.test"],
}
MOMENTS: dict[str, Callable[[psutil.Process, float], bool]] = {
    "after 1 s": lambda process, seconds: seconds > 1,
    "with its first child": lambda process, seconds: bool(process.children()) or seconds > 15,
    "in training": lambda process, seconds: any(
        b"training" in log.read_bytes() for log in Path("log").glob("*/*.log")
    ) or seconds > 30,
}  # fmt: skip


def make_data() -> None:
    draw = random.Random(1)
    folder = Path("data/shop")
    folder.mkdir(parents=True)
    events = [f"u{user}\ti{draw.randrange(30)}\t{1000 * user + step}" for user in range(60) for step in range(7)]
    items = [f"i{item}\tred thing {item % 7}" for item in range(30)]
    (folder / "shop.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *events]) + "\n")
    (folder / "shop.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *items]) + "\n")
    Path("space.test").write_text("learning_rate choice [0.001, 0.002]\n")


def seconds_until_gone(command: list[str], ending: signal.Signals, reached: Callable) -> tuple[int, float | None]:
    """Number of children, and the seconds from the signal until all processes were gone; None if one stayed."""
    with open("output", "wb") as output:
        process = psutil.Popen(
            [sys.executable, str(SCRIPT), *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)},
        )  # fmt: skip
    started = time.monotonic()
    while not reached(process, time.monotonic() - started):
        if process.poll() is not None or time.monotonic() - started > START_SECONDS:
            raise RuntimeError(f"{command[0]} ended too early: {Path('output').read_text()[-500:]}")
        time.sleep(LOOK_SECONDS)
    children = process.children(recursive=True)
    process.send_signal(ending)
    sent = time.monotonic()
    _, left = psutil.wait_procs([process, *children], LIMIT_SECONDS)
    for each in left:
        each.kill()
    return len(children), None if left else time.monotonic() - sent


def main() -> int:
    n_left = n_cases = 0
    print("| command | signal | when | children | gone after |\n| --- | --- | --- | --- | --- |")
    for (name, command), ending, (moment, reached) in itertools.product(COMMANDS.items(), SIGNALS, MOMENTS.items()):
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        make_data()
        n_children, seconds = seconds_until_gone(command, ending, reached)
        shutil.rmtree(folder, ignore_errors=True)
        n_cases, n_left = n_cases + 1, n_left + (seconds is None)
        gone = f"**still there after {LIMIT_SECONDS} s**" if seconds is None else f"{seconds:.1f} s"
        print(f"| `{name}` | {ending.name} | {moment} | {n_children} | {gone} |", flush=True)
    print(f"\n{n_cases} cases, {n_left} with a process left")
    return 1 if n_left else 0


if __name__ == "__main__":
    sys.exit(main())
