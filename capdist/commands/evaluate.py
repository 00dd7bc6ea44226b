"""``capdist evaluate``: score a trained model; docs/evaluation.md describes it.

With ``--results FILE --shards DIR`` it scores captions that exist already, of any system.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from capdist.arguments import count, positive
from capdist.commands.options import add_accept_features, refuse_unused
from capdist.errors import CapdistError

HELP = "score a trained model, or an ensemble, on a split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--run",
        type=Path,
        nargs="+",
        help="run folder of a training; several: an ensemble, with --out",
    )
    add("--results", type=Path, help="COCO results to score instead of a run; with --shards")
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
        "--set",
        action="append",
        default=[],
        metavar="decoding.a=b",
        help="override a decoding setting of the config, e.g. decoding.max_words=16; repeatable",
    )
    add(
        "--grounding",
        action="store_true",
        help="also score which regions the model attends to (F1_all, F1_loc); "
        "published figures use --beam 1",
    )
    add(
        "--classes",
        type=Path,
        metavar="FILE",
        help="with --grounding: names of the classes to score, one per line; default: all nouns "
        "that the split annotates",
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
    if args.results:
        score_captions(args)
    elif args.run:
        score_run(args)
    else:
        raise CapdistError("nothing to score; give --run, or --results with --shards")
    return 0


def score_captions(args: argparse.Namespace) -> None:
    not_used = (
        "run",
        "beam",
        "set",
        "follow",
        "grounding",
        "workers",
        "address",
        "accept_features",
    )
    refuse_unused(args, not_used, "with --results, which scores captions that exist")
    if not args.shards:
        raise CapdistError("--results: no references to score against; give --shards DIR")
    from capdist.inference.given_captions import score_results

    score_results(args.results, args.shards, args.split, args.out)


def score_run(args: argparse.Namespace) -> None:
    if len(args.run) > 1:
        check_ensemble(args)
    from capdist.inference.ensembles import read_members
    from capdist.inference.evaluation import Evaluation, EvaluationRequest
    from capdist.inference.feature_check import FeatureCheck
    from capdist.inference.follow import Follower

    wanted = EvaluationRequest(
        run=args.run[0],
        split=args.split,
        checkpoint=args.checkpoint,
        decoding=decoding_overrides(args),
        grounding=args.grounding,
        classes=args.classes,
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
        check = FeatureCheck(args.accept_features, (wanted.folder,))
        members = read_members(args.run, check, wanted.checkpoint)
        Evaluation.open(wanted, *members).evaluate()


def check_ensemble(args: argparse.Namespace) -> None:
    """Refuse to follow several runs, or to write their scores into one of them."""
    refuse_unused(args, ("follow",), "with several runs, which decode as an ensemble")
    if args.out is None or args.out.resolve() in [run.resolve() for run in args.run]:
        raise CapdistError(
            f"--run with {len(args.run)} runs: an ensemble's captions and scores get a folder of "
            "their own; give it by --out DIR"
        )


def decoding_overrides(args: argparse.Namespace) -> tuple[str, ...]:
    """Those of ``--set``, and of ``--beam``, which is short for one."""
    return (*args.set, *([] if args.beam is None else [f"decoding.beam={args.beam}"]))
