"""``capdist compare``: whether one captioner is ahead of another beyond chance."""

from __future__ import annotations

import argparse
from pathlib import Path

from capdist.arguments import positive

HELP = "compare two captioners on the same images, with intervals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("a", type=Path, metavar="A", help="run folder, or file of COCO results")
    add("b", type=Path, metavar="B", help="the same, of the other captioner")
    add("--split", default="test", help="split of the images; default: test")
    add("--beam", type=positive, help="of the runs' evaluations; default: the config's")
    add("--shards", help="folder or URL of the references; default: those of the run")
    add("--resamples", type=positive, default=1000, help="of the bootstrap; default: 1000")


def run(args: argparse.Namespace) -> int:
    from capdist.inference.comparison import print_comparison

    print_comparison(args.a, args.b, args.split, args.beam, args.shards, args.resamples)
    return 0
