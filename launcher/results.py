"""``python launcher/results.py --run runs/glied``: the same as ``capdist results``."""

import sys

from capdist.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["results", *sys.argv[1:]]))
