"""``capdist evaluate``: score a trained model; docs/evaluation.md describes it."""

from __future__ import annotations

import argparse
from pathlib import Path

from capdist.arguments import count, positive
from capdist.commands.options import add_accept_features

HELP = "score a trained model on a split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", required=True, type=Path, help="run folder of a training")
    add("--split", default="test", help="which split; default: test")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--checkpoint", choices=["best", "last"], default="best", help="default: best"
    )
    which.add_argument(
        "--follow",
        action="store_true",
        help="score each new checkpoint of a running training until it is finished",
    )
    add("--beam", type=positive, help="beam width; default: the config's")
    add(
        "--grounding",
        action="store_true",
        help="also score which regions the model attends to (F1_all, F1_loc); "
        "published figures use --beam 1",
    )
    add("--shards", help="folder or URL of the shards; default: the config's data.shards")
    add(
        "--workers", type=count, default=0, help="decode on so many Ray workers; 0: in this process"
    )
    add("--cpus", type=float, default=1.0, help="CPUs of a worker, and its number of threads")
    add("--out", type=Path, help="folder of captions, scores and report; default: the run")
    add("--address", help="address of the Ray cluster; default: the config's ray.address")
    add_accept_features(parser)


def run(args: argparse.Namespace) -> int:
    from capdist.inference.evaluation import Evaluation, EvaluationRequest
    from capdist.inference.exported_model import read_run
    from capdist.inference.follow import Follower

    wanted = EvaluationRequest(
        run=args.run,
        split=args.split,
        beam=args.beam,
        grounding=args.grounding,
        shards=args.shards,
        workers=args.workers,
        cpus=args.cpus,
        address=args.address,
        out=args.out,
        accept_features=args.accept_features,
    )
    if args.follow:
        Follower(wanted).follow()
    else:
        Evaluation.open(wanted, read_run(args.run, args.checkpoint)).evaluate()
    return 0
