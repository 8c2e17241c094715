"""The runs of a leaderboard, each in a process of its own, with progress and the time that is left.

A run is exactly the command that its record names, so it can be repeated alone. A run that fails is reported with its
error and its log, and the others go on. After an interruption the same leaderboard goes on where it was: finished runs
are in ``results.jsonl``, and an unfinished run of this package's models goes on from its last validation. What was
finished by another command is taken over.
"""

from __future__ import annotations

import os
import re
import signal
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recbole_vsid.leaderboard.adopt import finished_record, own_keys
from recbole_vsid.locks import sole_writer
from recbole_vsid.processes import interrupted_by_signals, start, stop
from recbole_vsid.run_files import data_hash, is_interrupted
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
        arguments = [*run.arguments, "--show_progress=false"]
        environment = dict(os.environ)
        if n_threads and not run.n_threads:
            arguments.append(f"--num_threads={n_threads}")
            environment["OMP_NUM_THREADS"] = str(n_threads)
        if resume:
            arguments.append("--resume=true")
        with open(self.log, "ab") as log:
            if not (resume or keep_log):
                log.truncate(0)
            self._log_start = log.seek(0, os.SEEK_END)
            self.process = start(arguments, log, environment)

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
        return {**own_keys(self.run), "seconds": round(self.seconds, 1), "resumed": self.resumed, **record}

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
        return (errors or lines or [f"exit code {code}"])[-1].removeprefix("error: ")


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
    with interrupted_by_signals(), Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(runs))

        def begin(run, anew=False):
            job = _begin(run, n_threads, anew, results, failures, console)
            if job is None:
                progress.advance(bar)
            else:
                active.append(job)

        try:
            while waiting or active:
                while waiting and len(active) < n_jobs:
                    begin(waiting.pop(0))
                time.sleep(POLL_SECONDS)
                ended = [job for job in active if job.process.poll() is not None]
                for job in ended:
                    active.remove(job)
                    if job.process.returncode > 0 and job.resumed:
                        _say(console, f"{job.run.name}: could not go on ({job.failure()}), it starts anew")
                        begin(job.run, anew=True)
                        continue
                    _finish(job, results, failures, console)
                    progress.advance(bar)
                left = time_left(*remaining_seconds(waiting, active, results.records.values(), n_jobs))
                if ended and not console.is_terminal:  # there the bar is drawn but once, at the end
                    _say(console, left)
                doing = ", ".join(f"{job.run.entry} seed {job.run.seed} ({job.progress()})" for job in active)
                progress.update(bar, description=f"{doing}  {left}")
        finally:
            done = [job for job in active if job.process.poll() == 0]  # since the last look
            stop([job.process for job in active if job not in done])
            for job in done:
                _finish(job, results, failures, console)


def _begin(run, n_threads, anew, results, failures, console):
    """Its :class:`Job`; None if there is nothing to do, or another process is doing it.

    Args:
        anew: whether it has been tried here to go on from what an interrupted run left.
    """
    record = finished_record(run)
    try:
        if record is not None:
            results.add(record)
            _say(console, f"{run.name}: taken over from {record['taken_over']}")
            return None
        with sole_writer(run.folder, "checkpoint_dir"):
            pass  # or else its log is another process's
    except OSError as error:
        failures[run] = str(error)
        _say(console, f"{run.name}: FAILED: {error}", style="red")
        return None
    resume = not anew and run.resumable and is_interrupted(run.folder, run.data_hash)
    job = Job(run, n_threads, resume, keep_log=anew)
    _say(console, f"{run.name}: {'goes on' if resume else 'starts'}")
    return job


def _finish(job, results, failures, console):
    try:
        if job.process.returncode:
            raise ValueError(job.failure())
        results.add(job.record())
    except (ValueError, OSError, KeyError, TypeError) as error:
        failures[job.run] = f"{error} (log: {job.log})"
        _say(console, f"{job.run.name}: FAILED after {duration(job.seconds)}: {error}; see {job.log}", style="red")
        return
    _say(console, f"{job.run.name}: done in {duration(job.seconds)}")


def _say(console, text, style=None):
    console.print(text, style=style, markup=False)  # an error may hold brackets


def remaining_seconds(waiting, active, records, n_jobs):
    """Estimate of the time until all runs are done, and whether it leaves out entries of which no run has finished yet.

    A run takes as long as the finished runs of the same entry and dataset did on average, those that went on after an
    interruption left out, and those that were taken over, whose time is known but for the data.
    """
    known = {}
    for record in records:
        if not record["resumed"] and "taken_over" not in record:
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
