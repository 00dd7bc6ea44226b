"""``python launcher/evaluate.py --run runs/glied``: the same as ``capdist evaluate``."""

import sys

from capdist.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
