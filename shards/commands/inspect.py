"""``python -m shards inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path

from capdist.arguments import count
from shards.outputs import check_output_file

HELP = "Describe one sample of a folder of shards, or of one tar."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", type=Path, metavar="DIR_OR_TAR", help="a folder of shards or one tar")
    add("--split", metavar="S", help="search only this split of a folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--key", metavar="K", help="the sample with this key or image id")
    which.add_argument(
        "--number", type=count, default=0, metavar="N", help="the sample at this position, from 0"
    )
    add("--picture", type=Path, metavar="OUT.png", help="write the picture with boxes to this file")


def run(options: argparse.Namespace) -> int:
    from shards.inspect import describe, describe_further, draw, find_sample

    if options.picture:
        check_output_file(options.picture)
    sample, manifest = find_sample(options.path, options.split, options.key, options.number)
    class_names = manifest.class_names if manifest else ()
    print(describe(sample, class_names))
    for line in describe_further(manifest, sample) if manifest else ():
        print(line)
    if options.picture:
        draw(sample, class_names, options.picture)
        print(f"picture: {options.picture}")
    return 0
