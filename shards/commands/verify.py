"""``python -m shards verify``."""

from __future__ import annotations

import argparse

from capdist.arguments import positive
from shards.commands.common import summary
from shards.manifest import Manifest

HELP = """Check every shard of a folder against its manifest and index, and decode every
sample. Lists all problems, one per line; the exit status is 1 if there are any."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR", help="a folder of shards, or its URL")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="threads; by default, one per CPU"
    )


def run(options: argparse.Namespace) -> int:
    from shards.verify import verify

    manifest = Manifest.load(options.path)
    problems = verify(manifest, workers=options.workers)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"no problems: {summary(manifest)}")
    return 1 if problems else 0
