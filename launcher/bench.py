"""Run a benchmark of the checkout: ``python launcher/bench.py decode``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks is not installed

from benchmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
