"""``capdist export``: a run as a folder for others, with a model card."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write a run's best model and a model card into a folder that can be passed on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", required=True, type=Path, help="run folder of a training")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; new or empty")


def run(args: argparse.Namespace) -> int:
    from capdist.inference.export_run import export_run

    export_run(args.run, args.out)
    print(args.out)
    return 0
