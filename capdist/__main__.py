"""``python -m capdist <command>``."""

import sys

from capdist.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
