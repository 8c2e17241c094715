"""Faults on purpose, counted: what a run, a checkpoint, a table or a command line does when something is wrong with it.

    python -m benchmarks.reliability kill                    # killed at every write of a training, then resumed
    python -m benchmarks.reliability settings                # senseless values of every setting of every model here
    python -m benchmarks.reliability checkpoints             # flipped bits, cut-off and foreign files
    python -m benchmarks.reliability tables                  # malformed tables for prepare, malformed atomic files
    python -m benchmarks.reliability commands                # random arguments and property files

Each prints a line of counts, and every case that went wrong: an exception nobody expected (which the command line calls
a fault of this package, exit code 1), an answer that is neither an error of one line nor the right result. The exit
status is the number of such cases, at most 100. Works in a folder of its own, on data made up here; ``--cases`` and
``--seed`` draw more or others. ``kill`` needs fork, so no Windows.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator

import torch

from benchmarks.reliability import files, kill, settings
from benchmarks.reliability.shared import Cases


def parts() -> dict[str, tuple[Callable[[Cases, int, random.Random], None], int]]:
    """Name → (function, cases by default)."""
    return {
        "kill": (kill.kill, 10**6),
        "settings": (settings.settings, 10**6),
        "checkpoints": (files.checkpoints, 600),
        "tables": (files.tables, 1000),
        "commands": (settings.commands, 2500),
    }


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(parts()))
    parser.add_argument("--cases", type=int, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    work, n_cases = parts()[options.part]
    cases, draw = Cases(), random.Random(options.seed)
    with scratch():
        work(cases, options.cases or n_cases, draw)
    for description in cases.wrong:
        print(f"WRONG {description}")
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(cases.outcomes.items()))
    print(f"{options.part}: {sum(cases.outcomes.values()):,} cases: {counts}")
    return min(len(cases.wrong), 100)


if __name__ == "__main__":
    sys.exit(main())
