"""Write a run's measured page: ``python launcher/results.py --run runs/glied --split test``."""

import argparse
import sys
from pathlib import Path

from capdist.reporting.metrics_log import MetricsLogError
from capdist.reporting.results import Results, ResultsError
from shards.schema import ShardError


def main() -> int:
    """Read the command line and write docs/results/<run>.md; 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder that train.py wrote")
    parser.add_argument("--split", default="test", help="a split that evaluate.py has scored")
    parser.add_argument("--out", type=Path, help="default: docs/results/<name of the run>.md")
    parser.add_argument(
        "--timeline", type=Path, help="also write where self-critical steps' time went"
    )
    parser.add_argument("--readme", metavar="NAME", help="also fill README.md's table NAME")
    args = parser.parse_args()
    out = args.out or Path("docs/results") / f"{args.run.name}.md"
    try:
        results = Results(args.run, args.split)
        results.write(out)
        if args.timeline:
            results.write_timeline(args.timeline)
        if args.readme:
            results.fill(Path("README.md"), args.readme)
    except (ResultsError, MetricsLogError, ShardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
