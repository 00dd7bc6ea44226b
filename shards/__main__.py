"""Command line: ``python -m shards {build,scenes,concepts,inspect,verify}``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from capdist.errors import exit_status
from shards.manifest import Manifest
from shards.schema import ShardError

_BUILD = """Make shards from captions and region features. A build that was stopped goes on where
it was when the same command is run again."""
_ANNOTATIONS = """captions: Karpathy or COCO JSON files, or a folder of Flickr30k Entities; paths
or quoted globs"""
_FEATURES = """features: bottom-up TSV, HDF5 or npz block files, LMDB databases, folders of npz
files, a folder whose name ends in _att (cocobu); paths or quoted globs"""
_SIZES = """COCO JSON files that know the images' sizes, needed where boxes are in pixels and
neither captions nor features know them"""
_SCENES = (
    "Make shards of drawn scenes: pictures, regions, boxes, concepts and captions from a seed."
)
_CONCEPTS = """Give shards the concepts that a run's detector (stage mil) predicted for them: files
beside the tars, which stay as they are. Readers take them for the concepts in the tars."""
_INSPECT = "Show one sample of a folder of shards, or of one tar, as a person wants to see it."
_VERIFY = """Check every shard of a folder against its manifest and index, and decode every
sample. Lists all problems, one a line; exit status 1 if there is any."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for problems that verify found, 2."""
    options = _parser().parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    try:
        status: int = options.run_command(options)
    except OSError as error:
        raise ShardError(str(error)) from error
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shards", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_build(_add_command(commands, "build", _BUILD))
    _add_scenes(_add_command(commands, "scenes", _SCENES))
    _add_concepts(_add_command(commands, "concepts", _CONCEPTS))
    _add_inspect(_add_command(commands, "inspect", _INSPECT))
    _add_verify(_add_command(commands, "verify", _VERIFY))
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
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
    add("--features", required=True, nargs="+", metavar="PATH", help=_FEATURES)
    add("--sizes", nargs="+", default=(), metavar="PATH", help=_SIZES)
    add("--storage", choices=("fp16", "int8"), default="fp16", help="how features are stored")
    add("--max-bad", type=int, default=0, metavar="N", help="bad images to leave out at most")
    add("--concepts", type=int, default=500, metavar="N", help="words to predict, 0 for none")
    add("--concepts-kept", type=int, default=49, metavar="N", help="best words an image keeps")
    add("--feature-name", metavar="NAME", help="the extractor; by default the features' format")
    add("--class-names", metavar="FILE", help="text file, line n (from 0) names class n")
    _add_output(parser)
    parser.set_defaults(run_command=_build)


def _add_scenes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seed", type=int, default=0, help="which world to draw")
    add("--train", type=int, default=2000, metavar="N", help="images to train on")
    add("--val", type=int, default=250, metavar="N", help="images to validate on")
    add("--test", type=int, default=250, metavar="N", help="images to test on")
    _add_output(parser)
    parser.set_defaults(run_command=_scenes)


def _add_concepts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", required=True, type=Path, metavar="DIR", help="folder that train.py wrote")
    add("--top", type=int, metavar="N", help="best concepts an image keeps; as in the run")
    add("--shards", metavar="DIR", help="folder of the shards; as in the run")
    parser.set_defaults(run_command=_concepts)


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the shards")
    add("--samples-per-shard", type=int, default=256, metavar="N", help="images in a shard")
    add("--workers", type=int, metavar="N", help="processes; one for each CPU if not given")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", type=Path, metavar="DIR_OR_TAR", help="a folder of shards or one tar")
    add("--split", metavar="S", help="look in this split only; a folder's")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--key", metavar="K", help="the sample with this key")
    which.add_argument("--number", type=int, default=0, metavar="N", help="the Nth sample, from 0")
    add("--picture", type=Path, metavar="OUT.png", help="write the picture, boxes drawn, here")
    parser.set_defaults(run_command=_inspect)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR", help="a folder of shards, or its URL")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; one for each CPU")
    parser.set_defaults(run_command=_verify)


# Each command imports what it needs when it runs: --help and verify start light.


def _build(options: argparse.Namespace) -> int:
    from shards.build import Recipe, build

    recipe = Recipe(
        annotations=options.annotations,
        features=options.features,
        feature_name=options.feature_name,
        concepts=options.concepts,
        concepts_kept=options.concepts_kept,
        class_names=options.class_names,
        sizes=options.sizes,
        storage=options.storage,
        max_bad=options.max_bad,
    )
    manifest = build(
        recipe, options.out, samples_per_shard=options.samples_per_shard, workers=options.workers
    )
    print(_summary(manifest))
    return 0


def _scenes(options: argparse.Namespace) -> int:
    from shards.scenes import SceneSource
    from shards.writer import write

    source = SceneSource(seed=options.seed, train=options.train, val=options.val, test=options.test)
    manifest = write(
        source, options.out, samples_per_shard=options.samples_per_shard, workers=options.workers
    )
    print(_summary(manifest))
    return 0


def _concepts(options: argparse.Namespace) -> int:
    from shards.concept_files import ConceptSet, install

    source = ConceptSet.load(options.run / "concepts")
    manifest = Manifest.load(options.shards or source.made_by["shards"])
    installed = install(source, manifest.folder, manifest.tars, options.top)
    print(f"{manifest.root}: {installed.kept} concepts an image, of detector {installed.detector}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from shards.inspect import describe, draw, find

    sample, class_names = find(options.path, options.split, options.key, options.number)
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
        print(f"all is well: {_summary(manifest)}")
    return 1 if problems else 0


def _summary(manifest: Manifest) -> str:
    """A folder of shards in one line."""
    splits = dict.fromkeys(shard.split for shard in manifest.shards)
    counts = ", ".join(
        f"{split} {sum(shard.samples for shard in manifest.split(split))}" for split in splits
    )
    features = manifest.features
    left_out = f", {len(manifest.left_out)} left out" if manifest.left_out else ""
    return (
        f"{manifest.place}: {manifest.name}, {len(manifest.shards)} shards, images: {counts}"
        f"{left_out}; features {features.name}, width {features.dim}, {features.stored_as}, "
        f"up to {features.max_regions} regions"
    )


if __name__ == "__main__":
    sys.exit(main())
