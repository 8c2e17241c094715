"""``python -m recbole_vsid`` is ``run_recbole_vsid.py``."""

import sys

from recbole_vsid.cli import main
from recbole_vsid.processes import watch_input

if __name__ == "__main__":
    watch_input()
    sys.exit(main())
