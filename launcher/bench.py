"""Measured speed, each figure beside a peer or a floor of the same run: ``bench.py decode``."""

import argparse
import json
import sys
from pathlib import Path

from capdist.config import ConfigError


def main() -> int:
    """Read the command line, measure, print a table and write JSON; 2 on bad input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["decode"])
    parser.add_argument("--model", default="glied", help="registered model, random weights")
    parser.add_argument("--batch", type=int, default=50, help="images decoded at a time")
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--page", type=Path, help="where to write them as Markdown")
    args = parser.parse_args()
    from capdist.benchmarks.decode import Setting, measure

    try:
        figures = measure(Setting(args.model, args.batch, args.beam))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(figures.table())
    if args.json:
        args.json.write_text(json.dumps(figures.to_json(), indent=1) + "\n")
        print(args.json)
    if args.page:
        args.page.write_text(figures.page(" ".join(["python", *sys.argv])))
        print(args.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
