"""A killed process loses nothing: what was written stays readable, and the run can be continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(small_settings):
    def command(**changes):
        settings = small_settings(epochs=30, stopping_step=30, eval_step=1, **changes)
        arguments = [
            f"--{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in settings.items()
        ]
        return [sys.executable, str(ROOT / "run_recbole_vsid.py"), "--model=VLSID", "--dataset=toy", *arguments]

    return command


def read_metrics(folder):
    (file,) = Path(folder).glob("*/result.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    return record["valid_result"], record["test_result"], record["cost"]["epochs"]


def test_a_killed_run_continues_to_the_metrics_of_an_unbroken_one(command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    subprocess.run(command(checkpoint_dir="unbroken"), check=True, **quiet)

    process = subprocess.Popen(command(checkpoint_dir="killed"), **quiet)
    deadline = time.monotonic() + 120
    while not list(Path("killed").glob("*/last.pth")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (last,) = Path("killed").glob("*/last.pth")
    assert torch.load(last, weights_only=True)["epoch"] < 29, "the run ended before it could be killed"

    subprocess.run(command(checkpoint_dir="killed", resume=True), check=True, **quiet)
    assert read_metrics("killed") == read_metrics("unbroken")
