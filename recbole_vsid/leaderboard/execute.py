"""The runs of a leaderboard, each in a process of its own, with progress and the time that is left.

A run is exactly the command that its record names, so it can be repeated alone. A run that fails is reported with its
error and its log, and the others go on. After an interruption the same leaderboard goes on where it was: finished runs
are in ``results.jsonl``, and an unfinished run of this package's models goes on from its last validation.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recbole_vsid.leaderboard.plan import data_hash
from recbole_vsid.storage import read_json

POLL_SECONDS = 0.5
EPOCH = re.compile(rb"epoch (\d+) (?:training|evaluating)")


class Job:
    """A run in its process.

    Args:
        run: the :class:`~recbole_vsid.leaderboard.plan.PlannedRun`.
        n_threads: CPU threads it may use; 0 leaves PyTorch's choice.
        resume: whether to go on from what an interrupted run left.
        keep_log: whether its log goes on behind what is there.
    """

    def __init__(self, run, n_threads, resume, keep_log=False):
        self.run, self.n_threads, self.resumed = run, n_threads, resume
        self.started = time.monotonic()
        self.log = run.folder / "run.log"
        run.folder.mkdir(parents=True, exist_ok=True)
        if not resume:  # what other files gave would pass for this run's as soon as their hash is noted
            (run.folder / "last.pth").unlink(missing_ok=True)
        _data_file(run).write_text(run.data_hash, encoding="utf-8")
        arguments = [*run.arguments, "--show_progress=false"]
        environment = dict(os.environ)
        if n_threads and not run.n_threads:
            arguments.append(f"--num_threads={n_threads}")
            environment["OMP_NUM_THREADS"] = str(n_threads)
        if resume:
            arguments.append("--resume=true")
        # The package may be on sys.path only because the script beside it was started.
        package = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
        with open(self.log, "ab" if resume or keep_log else "wb") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "recbole_vsid", *arguments],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            )  # fmt: skip

    @property
    def seconds(self):
        return time.monotonic() - self.started

    def progress(self):
        """The epoch its log names last, in words."""
        with open(self.log, "rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 20_000))
            epochs = EPOCH.findall(log.read())
        return f"epoch {int(epochs[-1]) + 1}" if epochs else "starting"

    def record(self):
        """The run's record with what the leaderboard adds.

        Raises:
            ValueError, OSError: it wrote no readable record, or one of another configuration, or the data have changed.
        """
        if data_hash(self.run.files) != self.run.data_hash:
            raise ValueError("its data files changed since the leaderboard was started; start it again")
        record = read_json(self.run.folder / "result.json")
        if record["config_hash"] != self.run.config_hash:
            raise ValueError(f"its record is of configuration {record['config_hash']}, not {self.run.config_hash}")
        own = {"entry": self.run.entry, "identity": self.run.identity, "arguments": list(self.run.arguments)}
        return {**own, "seconds": round(self.seconds, 1), "resumed": self.resumed, **record}

    def failure(self):
        """Why it failed, in one line."""
        code = self.process.returncode
        if code < 0:
            return f"killed by signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        with open(self.log, "rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode("utf-8", errors="replace").splitlines()
        lines = [line.strip() for line in lines if line.strip() and not line.startswith("(--state=debug")]
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or [f"exit code {code}"])[-1]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def execute(runs, results, n_jobs, console, failures):
    """Run ``runs``, add their records to ``results``, and those that fail to ``failures``.

    Args:
        runs: list of :class:`~recbole_vsid.leaderboard.plan.PlannedRun`, none of them in ``results``.
        results: :class:`~recbole_vsid.leaderboard.store.Results`.
        n_jobs: processes at once; they share the processors evenly.
        console: rich's, for the lines and the bar.
        failures: dict, run → why it failed and its log.

    Raises:
        KeyboardInterrupt: after an interruption or SIGTERM, when all processes have been stopped.
    """
    n_threads = max(1, (os.cpu_count() or 1) // n_jobs) if n_jobs > 1 else 0
    waiting, active = list(runs), []
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with _terminated_like_interrupted(), Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(runs))
        try:
            while waiting or active:
                while waiting and len(active) < n_jobs:
                    active.append(_start(waiting.pop(0), n_threads, console))
                time.sleep(POLL_SECONDS)
                ended = [job for job in active if job.process.poll() is not None]
                for job in ended:
                    active.remove(job)
                    if job.process.returncode > 0 and job.resumed:
                        _say(console, f"{job.run.name}: could not go on ({job.failure()}), it starts anew")
                        active.append(Job(job.run, n_threads, resume=False, keep_log=True))
                        continue
                    _finish(job, results, failures, console)
                    progress.advance(bar)
                left = time_left(*remaining_seconds(waiting, active, results.records.values(), n_jobs))
                if ended and not console.is_terminal:  # there the bar is drawn but once, at the end
                    _say(console, left)
                doing = ", ".join(f"{job.run.entry} seed {job.run.seed} ({job.progress()})" for job in active)
                progress.update(bar, description=f"{doing}  {left}")
        finally:
            for job in active:
                if job.process.poll() == 0:  # done since the last look
                    _finish(job, results, failures, console)
                else:
                    job.stop()


def _start(run, n_threads, console):
    job = Job(run, n_threads, resume=run.resumable and _is_interrupted(run))
    _say(console, f"{run.name}: {'goes on' if job.resumed else 'starts'}")
    return job


def _is_interrupted(run):
    """Whether its folder holds checkpoints of these data and no result of theirs."""
    last, result, data = run.folder / "last.pth", run.folder / "result.json", _data_file(run)
    if not (last.is_file() and (run.folder / "best.pth").is_file() and data.is_file()):
        return False
    if result.is_file() and result.stat().st_mtime >= last.stat().st_mtime:
        return False
    # The folder is that of the settings; a checkpoint holds semantic IDs made from the files as they were then.
    return data.read_text(encoding="utf-8") == run.data_hash


def _data_file(run):
    """Which data files the run in this folder read."""
    return run.folder / "data_hash"


def _finish(job, results, failures, console):
    try:
        if job.process.returncode:
            raise ValueError(job.failure())
        record = job.record()
    except (ValueError, OSError, KeyError) as error:
        failures[job.run] = f"{error} (log: {job.log})"
        _say(console, f"{job.run.name}: FAILED after {duration(job.seconds)}: {error}; see {job.log}", style="red")
        return
    results.add(record)
    _say(console, f"{job.run.name}: done in {duration(job.seconds)}")


def _say(console, text, style=None):
    console.print(text, style=style, markup=False)  # an error may hold brackets


def remaining_seconds(waiting, active, records, n_jobs):
    """Estimate of the time until all runs are done, and whether it leaves out entries of which no run has finished yet.

    A run takes as long as the finished runs of the same entry and dataset did on average, those that went on after an
    interruption left out.
    """
    known = {}
    for record in records:
        if not record["resumed"]:
            known.setdefault((record["entry"], record["dataset"]), []).append(record["seconds"])
    mean = {kind: sum(seconds) / len(seconds) for kind, seconds in known.items()}
    spent = [(job.run, job.seconds) for job in active] + [(run, 0.0) for run in waiting]
    expected = [(mean.get((run.entry, run.dataset)), seconds) for run, seconds in spent]
    left = [max(total - seconds, 0.0) for total, seconds in expected if total is not None]
    return max([sum(left) / n_jobs, *left]), len(left) < len(expected)


def time_left(seconds, incomplete):
    """What :func:`remaining_seconds` found, in words."""
    if incomplete:
        return f"more than {duration(seconds)} left" if seconds else "time left not known yet"
    return f"about {duration(seconds)} left"


def duration(seconds):
    """Seconds in words: ``42 s``, ``7 min``, ``3 h 05 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def _terminated_like_interrupted():
    """Within, SIGTERM is Ctrl-C, so that no process is left behind."""

    def interrupt(*_):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, where signals go to somebody else
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
