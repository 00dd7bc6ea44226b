"""``python -m shards build``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from capdist.arguments import count, positive
from capdist.errors import CapdistError
from shards.commands.common import PROJECTION, add_max_lacking, add_output, summary
from shards.feature_sets import OWN, check_name
from shards.outputs import check_output_folder
from shards.reading import add_reading_options, reading
from shards.tokenisers import PTB_LIKE, registered

HELP = """Build shards from captions and region features. To continue a build that was stopped,
run the same command again."""
_ANNOTATIONS = """captions: Karpathy or COCO JSON files, CSV files, or a folder of Flickr30k
Entities; paths or quoted globs"""
_FEATURES = """features: bottom-up, LXMERT or VinVL TSV, HDF5 or npz files, LMDB databases, folders
of npz or npy files, a folder whose name ends in _att (cocobu); paths or quoted globs. Repeated as
--features NAME=PATH, each is a feature set of that name; the first one is the shards' own"""
_IMAGES = """folder of pictures, from which features are extracted; with --features, some are
compared with the files, to check the stated --backbone"""
_MADE_BY = """with --images, the network that extracts their features: efficientnet_lite2_grid,
transformers:MODEL or timm:MODEL; with --features, the one that made them, which the trained model
then uses for new pictures"""
_SIZES = """COCO JSON files with the images' sizes, needed if boxes are in pixels and neither
captions nor features have the sizes"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--annotations", required=True, nargs="+", metavar="PATH", help=_ANNOTATIONS)
    add(
        "--features",
        nargs="+",
        default=[],
        action="append",
        metavar="PATH",
        help=_FEATURES,
    )
    add("--images", metavar="DIR", help=_IMAGES)
    add("--backbone", metavar="NAME", help=_MADE_BY)
    add("--projection", metavar="FILE", help=PROJECTION)
    add("--sizes", nargs="+", default=(), metavar="PATH", help=_SIZES)
    add("--storage", choices=("fp16", "int8"), default="fp16", help="how features are stored")
    add(
        "--pair-by",
        choices=("id", "filename"),
        help="how images find their features; by default, by id, unless file names disagree",
    )
    add("--id-prefix", default="", metavar="TEXT", help="text in front of all image ids")
    add_reading_options(parser)
    add("--max-bad", type=count, default=0, metavar="N", help="leave out at most N bad images")
    add_max_lacking(parser)
    add(
        "--concepts",
        type=count,
        default=500,
        metavar="N",
        help="words to learn as concepts, 0 for none",
    )
    add("--concepts-kept", type=positive, default=49, metavar="N", help="concepts per image")
    add(
        "--concepts-from",
        metavar="DIR",
        help="a run, or shards, whose concept predictor to apply, instead of learning concepts",
    )
    add(
        "--feature-name",
        metavar="NAME",
        help="name of the extractor; by default, of the features' format",
    )
    add(
        "--tokeniser",
        choices=tuple(registered()),
        default=PTB_LIKE,
        help="how captions are split into words, in training and for all scores",
    )
    add(
        "--language",
        metavar="CODE",
        help="of the captions, such as en or zh; by default, en if most are in Latin letters",
    )
    add(
        "--class-names",
        metavar="FILE",
        help="text file with the names of the detector's classes, one per line, without background",
    )
    add(
        "--classes-kept",
        type=_positive_or_all,
        default=5,
        metavar="N",
        help="likeliest classes of a region, with the background if the detector gives it; or all",
    )
    add_output(parser)


def _positive_or_all(text: str) -> int | None:
    """A whole number from 1 on, or None for "all", as a type of argparse."""
    return None if text == "all" else positive(text)


def run(options: argparse.Namespace) -> int:
    from shards.build import BuildConfig, build
    from shards.build_set import SetConfig

    check_output_folder(options.out)
    _check_backbone(options)
    (own, features), *others = _feature_sets(options.features).items()
    further = [
        SetConfig(
            name,
            paths,
            storage=options.storage,
            max_lacking=options.max_lacking,
            pair_by=options.pair_by,
            reading=reading(options),
        )
        for name, paths in others
    ]
    config = BuildConfig(
        annotations=options.annotations,
        features=features,
        feature_name=options.feature_name,
        concepts=options.concepts,
        concepts_kept=options.concepts_kept,
        concepts_from=options.concepts_from,
        class_names=options.class_names,
        classes_kept=options.classes_kept,
        sizes=options.sizes,
        storage=options.storage,
        max_bad=options.max_bad,
        tokeniser=options.tokeniser,
        language=options.language,
        pair_by=options.pair_by,
        id_prefix=options.id_prefix,
        reading=reading(options),
        images=options.images,
        backbone=options.backbone,
        projection=options.projection,
    )
    manifest = build(
        config,
        options.out,
        samples_per_shard=options.samples_per_shard,
        workers=options.workers,
        own=own,
        further=further,
    )
    print(summary(manifest))
    return 0


def _feature_sets(groups: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """The paths of every feature set by its name, of the values of each --features."""
    sets: dict[str, list[str]] = {}
    for first, *others in groups:
        name, equals, path = first.partition("=")
        if equals and "/" not in name and not Path(first).exists():
            sets.setdefault(check_name(name), []).extend([path, *others])
        else:
            sets.setdefault(OWN, []).extend([first, *others])
    return sets or {OWN: []}


def _check_backbone(options: argparse.Namespace) -> None:
    if not (options.features or options.images):
        raise CapdistError("no features; give --features PATH, or --images DIR and --backbone NAME")
    if options.images and not options.backbone:
        raise CapdistError("--images: no network to extract features with; give --backbone NAME")
    if options.projection and not options.backbone:
        raise CapdistError("--projection: of no network; give --backbone NAME")
