"""What is said on the console: the name the user typed, and commands that can be typed again."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

SCRIPT, COMMAND, PACKAGE = "run_recbole_vsid.py", "recbole-vsid", "recbole_vsid"


def program_name() -> str:
    """How this process was started, for commands to be typed next.

    Returns:
        ``recbole-vsid``, ``python run_recbole_vsid.py`` or ``python -m recbole_vsid``, with the interpreter and the
        path as they were typed; ``python run_recbole_vsid.py`` in a process that is not the command line.
    """
    script = Path(sys.argv[0] if sys.argv else "")
    typed = getattr(sys, "orig_argv", [])  # Python 3.9 has none
    python = typed[0] if typed else "python"
    if script.stem == COMMAND:
        return COMMAND
    if script.name == SCRIPT:
        return join_command([python, str(script)])
    if script.name == "__main__.py" and script.parent.name == PACKAGE:
        return join_command([python, "-m", PACKAGE])
    return f"python {SCRIPT}"


def join_command(parts: list[str]) -> str:
    """``parts`` as one line for the user's shell, quoted where it is needed."""
    return subprocess.list2cmdline(parts) if os.name == "nt" else shlex.join(parts)
