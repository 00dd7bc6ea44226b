"""``deepspeed launcher/train.py --config configs/glied.json``: the same as ``capdist train``."""

import sys

from capdist.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
