"""Train and test one model: see ``python run_recbole_vsid.py --help``."""

import sys

from recbole_vsid.cli import main

if __name__ == "__main__":
    sys.exit(main())
