"""``capdist results``: write a page of a run's measured scores, speed and captions."""

from __future__ import annotations

import argparse
from pathlib import Path

from shards.outputs import check_output_file

HELP = "write a page of a run's measured scores, speed and captions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", required=True, type=Path, help="run folder of a training")
    add("--split", default="test", help="a split that was evaluated; default: test")
    add("--out", type=Path, help="default: docs/results/<name of the run>.md")
    add("--timeline", type=Path, help="also write how long each part of a self-critical step took")
    add("--readme", metavar="NAME", help="also fill the table NAME of README.md")


def run(args: argparse.Namespace) -> int:
    from capdist.inference.exported_model import outdated
    from capdist.reporting.results import Results, ResultsError

    out = args.out or Path("docs/results") / f"{args.run.resolve().name}.md"
    for path in filter(None, (out, args.timeline)):
        check_output_file(path)
    for scores in sorted((args.run / "scores").glob(f"{args.split}-beam*.json")):
        if line := outdated(args.run, scores):
            raise ResultsError(line)
    results = Results(args.run, args.split)
    results.write(out)
    if args.timeline:
        results.write_timeline(args.timeline)
    if args.readme:
        results.fill(Path("README.md"), args.readme)
    print(out)
    return 0
