"""``python -m shards extract``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from capdist.arguments import count, positive
from shards.commands.common import PROJECTION
from shards.outputs import check_output_folder

if TYPE_CHECKING:
    from shards.extract import RunChunks

HELP = """Extract the region features of all pictures of a folder. To continue an extraction
that was stopped, run the same command again."""
_BACKBONE = """network that extracts features: efficientnet_lite2_grid, transformers:MODEL or
timm:MODEL"""
_WORKERS = "processes, each with the network and its share of the CPUs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", required=True, type=Path, metavar="DIR", help="folder of pictures")
    add("--backbone", required=True, metavar="NAME", help=_BACKBONE)
    add("--projection", type=Path, metavar="FILE", help=PROJECTION)
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the features")
    add("--batch", type=positive, default=32, metavar="N", help="pictures at a time")
    add("--workers", type=positive, default=1, metavar="N", help=_WORKERS)
    add("--max-bad", type=count, default=0, metavar="N", help="leave out at most N bad pictures")


def run(options: argparse.Namespace, run_chunks: RunChunks | None = None) -> int:
    """Extract here, or as ``run_chunks`` does."""
    from shards.extract import check_bad_pictures, extract, unique_names
    from shards.extractors import PictureFeatures
    from shards.pictures import find_pictures

    check_output_folder(options.out)
    pictures, repeated = unique_names(find_pictures(options.images))
    features = PictureFeatures.open(options.backbone, options.projection)
    done = extract(features, pictures, options.out, options.batch, options.workers, run_chunks)
    check_bad_pictures((*repeated, *done.bad), options.max_bad, len(pictures) + len(repeated))
    spec = features.spec
    print(f"{options.out}: {done.done} pictures, {spec.feature_name}, width {spec.dim}")
    return 0
