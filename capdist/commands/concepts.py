"""``capdist concepts``: predict the concepts of other shards than those of the run.

The detector of a run's stage ``mil`` reads any shards with the same features; the concepts are
written next to their tars. Those of the run's own shards are predicted already:
``python -m shards concepts --run DIR`` copies them there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from capdist.arguments import positive
from capdist.commands.lost_rank import one_line_for_lost_rank
from capdist.commands.options import add_accept_features
from capdist.errors import CapdistError

HELP = "predict the concepts of other shards with a run's detector"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="run folder of a training")
    parser.add_argument("--shards", required=True, help="folder of shards")
    parser.add_argument(
        "--top", type=positive, help="concepts kept per image; default: as in the run"
    )
    add_accept_features(parser)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # DeepSpeed's launcher


def run(args: argparse.Namespace) -> int:
    with one_line_for_lost_rank("Run the command again"):
        predict(args)
    return 0


def predict(args: argparse.Namespace) -> None:
    from capdist.distributed.process_group import ProcessGroup
    from capdist.inference.concept_prediction import Detector
    from capdist.inference.feature_check import FeatureCheck
    from shards.manifest import Manifest
    from shards.outputs import check_output_folder

    detector, manifest = Detector.open(args.run), Manifest.load(args.shards)
    check_output_folder(manifest.local_folder)
    words = len(detector.words)
    kept = min(detector.sizes.kept, words) if args.top is None else args.top
    if kept > words:
        raise CapdistError(
            f"--top {kept}: the detector of {args.run} has {words} words; choose 1 to {words}"
        )
    group = ProcessGroup.join(timeout_s=600)
    check = FeatureCheck(args.accept_features, (args.run,) if group.first else ())
    detector.write(manifest, manifest.local_folder, kept, group, check)
    group.leave()
    if group.first:
        print(f"{args.shards}: {kept} concepts per image, of detector {detector.digest}")
