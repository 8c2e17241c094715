"""The command that ``prepare`` says to run next, for the data as they are."""

from __future__ import annotations

import shlex
from pathlib import Path

from recbole_vsid.console import join_command, program_name

# As in properties/overall.yaml.
CUTOFFS, SELECTED = (5, 10, 20), 10


def next_command(summary: dict, data_path: str | Path) -> str:
    """A line for a shell that trains on what :func:`~recbole_vsid.data.prepare.prepare` wrote.

    Args:
        summary: what ``prepare`` returns, but for ``next``.
        data_path: the folder of datasets.
    """
    options = ["--model=VLSID", f"--data_path={Path(data_path).as_posix()}", f"--dataset={summary['dataset']}"]
    # config_files is a list separated by blanks, in which a path with blanks stands between quotation marks.
    options.append(f"--config_files={shlex.quote(Path(summary['files'][-1]).as_posix())}")
    if summary["items"] < max(CUTOFFS):
        cutoffs = [k for k in CUTOFFS if k <= summary["items"]] or [summary["items"]]
        selected = max((k for k in cutoffs if k <= SELECTED), default=cutoffs[0])
        # A beam wider than the catalogue finds nothing more.
        options += [f"--topk=[{','.join(map(str, cutoffs))}]", f"--valid_metric=NDCG@{selected}"]
        options.append(f"--beam_width={summary['items']}")
    return f"{program_name()} {join_command(options)}"
