"""``python launcher/report.py runs/glied``: the same as ``capdist report``."""

import sys

from capdist.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
