"""``python -m shards scenes``."""

from __future__ import annotations

import argparse

from capdist.arguments import count, positive
from shards.commands.common import add_output, summary
from shards.outputs import check_output_folder

HELP = """Build shards of synthetic scenes, which are made from a seed: pictures, regions, boxes,
concepts and captions."""
_HARD = """the hard corpus: 96 kinds, frequent and rare ones that look alike, small and hidden
objects, features that do not say where a box lies, captions of one or two objects"""
_GRID = """add the feature set grid: 6 × 6 cells of the picture, from a small random network"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the random scenes")
    add("--hard", action="store_true", help=_HARD)
    add("--grid", action="store_true", help=_GRID)
    add("--train", type=positive, default=2000, metavar="N", help="training images")
    add("--val", type=count, default=250, metavar="N", help="validation images")
    add("--test", type=count, default=250, metavar="N", help="test images")
    add_output(parser)


def run(options: argparse.Namespace) -> int:
    from shards.scenes import SceneSource
    from shards.scenes.grid import GridSource
    from shards.write_set import write_set
    from shards.writer import write

    check_output_folder(options.out)
    source = SceneSource(options.seed, options.train, options.val, options.test, options.hard)
    manifest = write(
        source, options.out, samples_per_shard=options.samples_per_shard, workers=options.workers
    )
    if options.grid:
        manifest = write_set(options.out, GridSource(source), workers=options.workers)
    print(summary(manifest))
    return 0
