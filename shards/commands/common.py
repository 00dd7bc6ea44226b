"""What several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from capdist.arguments import count, positive

if TYPE_CHECKING:
    from shards.feature_sets import FeatureSet
    from shards.manifest import Manifest

PROJECTION = """npz file with arrays mean (D,) and components (D, F), such as PCA, that follows
the backbone"""


def add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the shards")
    add("--samples-per-shard", type=positive, default=256, metavar="N", help="images per shard")
    add("--workers", type=positive, metavar="N", help="processes; by default, one per CPU")


def add_max_lacking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-lacking",
        type=count,
        default=0,
        metavar="N",
        help="let at most N images lack a further feature set; few models can do without one",
    )


def summary(manifest: Manifest) -> str:
    """One line that describes a folder of shards."""
    splits = dict.fromkeys(shard.split for shard in manifest.shards)
    counts = ", ".join(
        f"{split} {sum(shard.samples for shard in manifest.split(split))}" for split in splits
    )
    left_out = f", {len(manifest.left_out)} left out" if manifest.left_out else ""
    return (
        f"{manifest.location}: {manifest.name}, {len(manifest.shards)} shards, images: {counts}"
        f"{left_out}; features {'; '.join(map(_set_summary, manifest.feature_sets))}; captions "
        f"{manifest.text.tokeniser}, {manifest.text.language}"
    )


def _set_summary(found: FeatureSet) -> str:
    spec, name = found.spec, "" if found.tars is None else f"{found.name}: "
    images = f", {sum(found.images.values())} images" if found.images else ""
    return (
        f"{name}{spec.name}, width {spec.dim}, {spec.stored_dtype}, up to {spec.max_regions} "
        f"regions{images}"
    )
