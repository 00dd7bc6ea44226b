"""``python launcher/caption.py --run runs/glied ...``: the same as ``capdist caption``."""

import sys

from capdist.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["caption", *sys.argv[1:]]))
