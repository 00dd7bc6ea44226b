"""``capdist train``: train a model.

Runs under the DeepSpeed launcher, under any launcher that sets RANK, LOCAL_RANK and WORLD_SIZE
(torchrun, for instance), or as one process without any.
"""

from __future__ import annotations

import argparse

from capdist.commands.lost_rank import one_line_for_lost_rank
from capdist.commands.options import add_accept_features
from capdist.memory import keep_freed_memory
from capdist.signals import STOPPED

HELP = "train a captioning model as a config describes it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="JSON file; configs/ has examples")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        help="override a value of the config, e.g. stages.0.epochs=2; may be repeated",
    )
    parser.add_argument(
        "--resume",
        choices=["never", "auto"],
        default="never",
        help="auto: continue from the last checkpoint in the run folder, if it has one",
    )
    add_accept_features(parser)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # DeepSpeed's launcher


def run(args: argparse.Namespace) -> int:
    """0 when all stages are done, 75 when a signal stopped training and everything is saved."""
    from capdist.config.run_config import load_config
    from capdist.training.run import train

    keep_freed_memory()
    accepted = ["data.accept_features=true"] if args.accept_features else []
    config = load_config(args.config, args.set + accepted)
    with one_line_for_lost_rank("Continue with --resume auto"):
        done = train(config, args.config, resume=args.resume == "auto")
    return 0 if done else STOPPED
