"""``python launcher/sweep.py LIST``: the same as ``capdist sweep``."""

import sys

from capdist.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
