"""What train.sbatch has to know of a config before it starts the ranks.

Prints two lines: the run folder; ``cluster`` if actors compute rewards and the config names no Ray
cluster, else ``none``.
"""

import argparse
import sys

from capdist.config.run_config import load_config
from capdist.errors import exit_status


def plan() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--resume")
    args = parser.parse_args()
    config = load_config(args.config, args.set)
    print(config.run)
    print("cluster" if config.uses_ray and config.ray.address == "local" else "none")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(plan))
