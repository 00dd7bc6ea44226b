"""Build, inspect and verify shards: ``python -m shards COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from capdist.arguments import ArgumentParser, count, positive
from capdist.errors import CapdistError, exit_status
from shards.manifest import Manifest
from shards.outputs import check_output_file, check_output_folder
from shards.reading import add_reading_options, reading
from shards.schema import ShardError
from shards.tokenisers import PTB_LIKE, registered

_BUILD = """Build shards from captions and region features. To continue a build that was stopped,
run the same command again."""
_ANNOTATIONS = """captions: Karpathy or COCO JSON files, CSV files, or a folder of Flickr30k
Entities; paths or quoted globs"""
_FEATURES = """features: bottom-up, LXMERT or VinVL TSV, HDF5 or npz files, LMDB databases, folders
of npz or npy files, a folder whose name ends in _att (cocobu); paths or quoted globs"""
_IMAGES = """folder of pictures, from which features are extracted; with --features, some are
compared with the files, to check the stated --backbone"""
_BACKBONE = """network that extracts features: efficientnet_lite2_grid, transformers:MODEL or
timm:MODEL"""
_MADE_BY = """with --images, the network that extracts their features: efficientnet_lite2_grid,
transformers:MODEL or timm:MODEL; with --features, the one that made them, which the trained model
then uses for new pictures"""
_PROJECTION = """npz file with arrays mean (D,) and components (D, F), such as PCA, that follows
the backbone"""
_EXTRACT = """Extract the region features of all pictures of a folder. To continue an extraction
that was stopped, run the same command again."""
_EXTRACT_WORKERS = """processes, each with the network and its share of the CPUs"""
_SIZES = """COCO JSON files with the images' sizes, needed if boxes are in pixels and neither
captions nor features have the sizes"""
_SCENES = """Build shards of synthetic scenes, which are made from a seed: pictures, regions, boxes,
concepts and captions."""
_HARD = """the hard corpus: 96 kinds, frequent and rare ones that look alike, small and hidden
objects, features that do not say where a box lies, captions of one or two objects"""
_CONCEPTS = """Write concepts next to the tars of shards, which do not change: those that a run's
detector (stage mil) predicted for them, or else those of the concept predictor of a run or of other
shards. Readers use them instead of those in the tars."""
_INSPECT = "Describe one sample of a folder of shards, or of one tar."
_VERIFY = """Check every shard of a folder against its manifest and index, and decode every
sample. Lists all problems, one per line; the exit status is 1 if there are any."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for problems that verify found, 2."""
    options = _make_parser().parse_args(arguments)
    return exit_status(lambda: options.run_command(options))


def _make_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m shards", description="Build, inspect and verify shards."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_build(_add_command(commands, "build", _BUILD))
    _add_extract(_add_command(commands, "extract", _EXTRACT))
    _add_scenes(_add_command(commands, "scenes", _SCENES))
    _add_concepts(_add_command(commands, "concepts", _CONCEPTS))
    _add_inspect(_add_command(commands, "inspect", _INSPECT))
    _add_verify(_add_command(commands, "verify", _VERIFY))
    return parser


def _add_command(
    commands: argparse._SubParsersAction[ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=text,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def _add_build(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--annotations", required=True, nargs="+", metavar="PATH", help=_ANNOTATIONS)
    add("--features", nargs="+", default=(), metavar="PATH", help=_FEATURES)
    add("--images", metavar="DIR", help=_IMAGES)
    add("--backbone", metavar="NAME", help=_MADE_BY)
    add("--projection", metavar="FILE", help=_PROJECTION)
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
    _add_output(parser)
    parser.set_defaults(run_command=_build)


def _add_extract(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", required=True, type=Path, metavar="DIR", help="folder of pictures")
    add("--backbone", required=True, metavar="NAME", help=_BACKBONE)
    add("--projection", type=Path, metavar="FILE", help=_PROJECTION)
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the features")
    add("--batch", type=positive, default=32, metavar="N", help="pictures at a time")
    add("--workers", type=positive, default=1, metavar="N", help=_EXTRACT_WORKERS)
    add("--max-bad", type=count, default=0, metavar="N", help="leave out at most N bad pictures")
    parser.set_defaults(run_command=_extract)


def _add_scenes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the random scenes")
    add("--hard", action="store_true", help=_HARD)
    add("--train", type=positive, default=2000, metavar="N", help="training images")
    add("--val", type=count, default=250, metavar="N", help="validation images")
    add("--test", type=count, default=250, metavar="N", help="test images")
    _add_output(parser)
    parser.set_defaults(run_command=_scenes)


def _add_concepts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", required=True, metavar="DIR", help="folder of the run, or shards with a predictor")
    add(
        "--top",
        type=positive,
        metavar="N",
        help="concepts per image; default: as in the run",
    )
    add("--shards", metavar="DIR", help="folder of the shards; by default, that of the run")
    add(
        "--accept-features",
        action="store_true",
        help="also features with other statistics; recorded with the concepts",
    )
    parser.set_defaults(run_command=_concepts)


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the shards")
    add("--samples-per-shard", type=positive, default=256, metavar="N", help="images per shard")
    add("--workers", type=positive, metavar="N", help="processes; by default, one per CPU")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", type=Path, metavar="DIR_OR_TAR", help="a folder of shards or one tar")
    add("--split", metavar="S", help="search only this split of a folder")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--key", metavar="K", help="the sample with this key or image id")
    which.add_argument(
        "--number", type=count, default=0, metavar="N", help="the sample at this position, from 0"
    )
    add("--picture", type=Path, metavar="OUT.png", help="write the picture with boxes to this file")
    parser.set_defaults(run_command=_inspect)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR", help="a folder of shards, or its URL")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="threads; by default, one per CPU"
    )
    parser.set_defaults(run_command=_verify)


def _positive_or_all(text: str) -> int | None:
    """A whole number from 1 on, or None for "all", as a type of argparse."""
    return None if text == "all" else positive(text)


# Each command imports what it needs, so that --help and verify start quickly.


def _build(options: argparse.Namespace) -> int:
    from shards.build import BuildConfig, build

    check_output_folder(options.out)
    _check_backbone(options)
    config = BuildConfig(
        annotations=options.annotations,
        features=options.features,
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
        config, options.out, samples_per_shard=options.samples_per_shard, workers=options.workers
    )
    print(_summary(manifest))
    return 0


def _check_backbone(options: argparse.Namespace) -> None:
    if not (options.features or options.images):
        raise CapdistError("no features; give --features PATH, or --images DIR and --backbone NAME")
    if options.images and not options.backbone:
        raise CapdistError("--images: no network to extract features with; give --backbone NAME")
    if options.projection and not options.backbone:
        raise CapdistError("--projection: of no network; give --backbone NAME")


def _extract(options: argparse.Namespace) -> int:
    from shards.extract import check_bad_pictures, extract, unique_names
    from shards.extractors import PictureFeatures
    from shards.pictures import find_pictures

    check_output_folder(options.out)
    pictures, repeated = unique_names(find_pictures(options.images))
    features = PictureFeatures.open(options.backbone, options.projection)
    done = extract(features, pictures, options.out, options.batch, options.workers)
    check_bad_pictures((*repeated, *done.bad), options.max_bad, len(pictures) + len(repeated))
    spec = features.spec
    print(f"{options.out}: {done.done} pictures, {spec.feature_name}, width {spec.dim}")
    return 0


def _scenes(options: argparse.Namespace) -> int:
    from shards.scenes import SceneSource
    from shards.writer import write

    check_output_folder(options.out)
    source = SceneSource(options.seed, options.train, options.val, options.test, options.hard)
    manifest = write(
        source, options.out, samples_per_shard=options.samples_per_shard, workers=options.workers
    )
    print(_summary(manifest))
    return 0


def _concepts(options: argparse.Namespace) -> int:
    from shards.concept_files import CONCEPTS, ConceptSet, install_concepts
    from shards.predict_concepts import predict_concepts

    detected = Path(options.run) / "concepts" / CONCEPTS
    if detected.is_file():
        predicted = ConceptSet.load(detected.parent)
        manifest = Manifest.load(options.shards or predicted.made_by["shards"])
        check_output_folder(manifest.local_folder)
        installed = install_concepts(
            predicted, manifest.local_folder, manifest.sha256_by_shard, options.top
        )
    elif options.shards:
        manifest = Manifest.load(options.shards)
        check_output_folder(manifest.local_folder)
        installed = predict_concepts(
            manifest, options.run, options.top, accept_features=options.accept_features
        )
    else:
        raise ShardError(
            f"{detected}: no such file; expected the folder of a run with a stage 'mil', or the "
            "shards that its concept predictor shall be applied to: --shards DIR"
        )
    print(f"{manifest.root}: {installed.kept} concepts per image, of detector {installed.detector}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from shards.inspect import describe, draw, find_sample

    if options.picture:
        check_output_file(options.picture)
    sample, class_names = find_sample(options.path, options.split, options.key, options.number)
    print(describe(sample, class_names))
    if options.picture:
        draw(sample, class_names, options.picture)
        print(f"picture: {options.picture}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from shards.verify import verify

    manifest = Manifest.load(options.path)
    problems = verify(manifest, workers=options.workers)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"no problems: {_summary(manifest)}")
    return 1 if problems else 0


def _summary(manifest: Manifest) -> str:
    """One line that describes a folder of shards."""
    splits = dict.fromkeys(shard.split for shard in manifest.shards)
    counts = ", ".join(
        f"{split} {sum(shard.samples for shard in manifest.split(split))}" for split in splits
    )
    features = manifest.features
    left_out = f", {len(manifest.left_out)} left out" if manifest.left_out else ""
    return (
        f"{manifest.location}: {manifest.name}, {len(manifest.shards)} shards, images: {counts}"
        f"{left_out}; features {features.name}, width {features.dim}, {features.stored_dtype}, "
        f"up to {features.max_regions} regions; captions {manifest.text.tokeniser}, "
        f"{manifest.text.language}"
    )


if __name__ == "__main__":
    sys.exit(main())
