"""How the user called the program."""

from __future__ import annotations

import sys
from pathlib import Path


def program_name() -> str:
    """What the user typed to run this program, for the commands it prints."""
    return "recbole-vsid" if Path(sys.argv[0]).stem == "recbole-vsid" else "python run_recbole_vsid.py"
