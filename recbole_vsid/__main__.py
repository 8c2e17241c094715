"""``python -m recbole_vsid`` is ``run_recbole_vsid.py``."""

import sys

from recbole_vsid.cli import main

if __name__ == "__main__":
    sys.exit(main())
