"""``leaderboard``: run what is missing, then write the tables and the page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from recbole_vsid.leaderboard.execute import execute, remaining_seconds, time_left
from recbole_vsid.leaderboard.page import write_reports
from recbole_vsid.leaderboard.plan import plan
from recbole_vsid.leaderboard.store import Results
from recbole_vsid.locks import sole_writer
from recbole_vsid.storage import check_writable

DEFAULT_OUTPUT_DIR = "saved/leaderboard"


def leaderboard(
    models,
    datasets,
    seeds,
    output_dir=DEFAULT_OUTPUT_DIR,
    config_file_list=None,
    config_dict=None,
    settings_dir=None,
    jobs=1,
    report_only=False,
    console=None,
):
    """Train and test every model with every seed on every dataset, and show them side by side.

    Args:
        models: names of models, or of files in ``settings_dir``.
        datasets, seeds: names of datasets, whole numbers.
        output_dir: where ``results.jsonl``, ``leaderboard.md``, ``.csv`` and ``.html`` go. What is in ``results.jsonl``
            already with the same configuration and data is not run again, and what another command has finished is
            taken over.
        config_file_list, config_dict: settings for all runs; the latter win.
        settings_dir: folder with ``<model>.yaml`` for models that need settings of their own.
        jobs: runs at the same time; they share the processors.
        report_only: run nothing, and show all that ``results.jsonl`` has, whether or not it is among ``models``.

    Returns:
        (dict, list): failed runs → reason; the files written.

    Raises:
        ValueError, FileNotFoundError: bad input, before anything is run.
        BlockingIOError: another leaderboard is at work in ``output_dir``.
        KeyboardInterrupt: interrupted; the tables then show what was finished.
    """
    console = console or Console()
    if not isinstance(report_only, bool):
        raise ValueError(f"report_only={report_only!r} is not usable: it must be true or false")
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise ValueError(f"jobs={jobs!r} is not usable: it must be a whole number of at least 1")
    check_writable(Path(output_dir) / "results.jsonl", "output_dir")
    if report_only:
        results = Results(output_dir)
        if not results.records:
            raise FileNotFoundError(f"report_only=True: there are no results in {results.path}; set output_dir")
        return {}, write_reports(results.records.values(), {}, output_dir)
    runs = plan(models, datasets, seeds, settings_dir, config_file_list, config_dict)
    with sole_writer(Path(output_dir) / "results.jsonl", "output_dir"):
        return _run_missing(runs, Results(output_dir), jobs, console)


def _run_missing(runs, results, jobs, console):
    """What :func:`leaderboard` returns, when all of ``runs`` are finished or failed."""
    missing = [run for run in runs if run.key not in results.records]
    left = f", {time_left(*remaining_seconds(missing, [], results.records.values(), jobs))}" if missing else ""
    console.print(f"{len(runs) - len(missing)} of {len(runs)} runs are in {results.path}, {len(missing)} to do{left}")
    failures, files = {}, []
    try:
        if missing:
            execute(missing, results, jobs, console, failures)
    finally:
        if results.records:
            wanted = [run.key for run in runs]
            files = write_reports(results.records.values(), failures, results.path.parent, wanted)
    return failures, files
