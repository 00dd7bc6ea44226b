"""``python launcher/concepts.py --run runs/glied ...``: the same as ``capdist concepts``."""

import sys

from capdist.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["concepts", *sys.argv[1:]]))
