"""``python -m shards features``."""

from __future__ import annotations

import argparse
from pathlib import Path

from capdist.arguments import positive
from capdist.errors import CapdistError
from shards.commands.common import PROJECTION, add_max_lacking, summary
from shards.manifest import Manifest
from shards.outputs import check_output_folder
from shards.reading import add_reading_options, reading

HELP = """Add a feature set to shards, next to the tars, which do not change. To continue an
addition that was stopped, run the same command again."""
_FEATURES = "feature files, as for build, of the images' ids in the shards; paths or quoted globs"
_BACKBONE = "the network that made the features, which the trained model then uses for new pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--shards", required=True, type=Path, metavar="DIR", help="folder of the shards")
    add("--name", required=True, metavar="NAME", help="of the set, such as grid")
    add("--features", required=True, nargs="+", metavar="PATH", help=_FEATURES)
    add("--feature-name", metavar="NAME", help="name of the extractor; by default, of the format")
    add("--backbone", metavar="NAME", help=_BACKBONE)
    add("--projection", metavar="FILE", help=PROJECTION)
    add("--storage", choices=("fp16", "int8"), default="fp16", help="how features are stored")
    add_max_lacking(parser)
    add_reading_options(parser)
    add("--workers", type=positive, metavar="N", help="processes; by default, one per CPU")


def run(options: argparse.Namespace) -> int:
    from shards.build_set import SetConfig, add_set

    check_output_folder(Manifest.load(options.shards).local_folder)
    if options.projection and not options.backbone:
        raise CapdistError("--projection: of no network; give --backbone NAME")
    config = SetConfig(
        options.name,
        options.features,
        feature_name=options.feature_name,
        storage=options.storage,
        max_lacking=options.max_lacking,
        backbone=options.backbone,
        projection=options.projection,
        reading=reading(options),
    )
    print(summary(add_set(config, options.shards, options.workers)))
    return 0
