"""What train.sbatch must know of a config before it starts ranks: the run's folder, and Ray's part.

Two lines: the folder; ``cluster`` where actors compute rewards, and nobody has given them one.
"""

import argparse
import sys

from capdist.config.base import ConfigError
from capdist.config.run_config import load_config


def main() -> int:
    """Read what train.py will read; 2 and one line if it would refuse the config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--resume")
    args = parser.parse_args()
    try:
        config = load_config(args.config, args.set)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    actors = config.uses_ray
    print(config.run)
    print("cluster" if actors and config.ray.address == "local" else "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
