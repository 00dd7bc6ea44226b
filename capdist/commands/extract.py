"""``capdist extract``: as ``python -m shards extract``, on Ray as well."""

from __future__ import annotations

import argparse

from capdist.commands.options import refuse_unused
from capdist.errors import CapdistError
from shards.commands import extract

HELP = "extract the region features of all pictures of a folder, here or on Ray"
_RAY = """extract on the Ray cluster at this address, as many chunks at a time as it has room for;
auto, which may be left out, is the one of RAY_ADDRESS or of this node; local starts one here"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    extract.add_arguments(parser)
    add = parser.add_argument
    add("--ray", nargs="?", const="auto", metavar="ADDRESS", help=_RAY)
    add("--cpus", type=float, help="with --ray, CPUs of a chunk, and its threads; default: 1")
    add("--gpus", type=float, help="with --ray, GPUs of a chunk; default: 0")


def run(args: argparse.Namespace) -> int:
    if args.ray is None:
        refuse_unused(args, ("cpus", "gpus"), "without --ray")
        return extract.run(args)
    if args.workers > 1:
        raise CapdistError("--workers: processes on this machine; leave it out with --ray")
    cpus = 1.0 if args.cpus is None else args.cpus
    gpus = args.gpus or 0.0
    if cpus <= 0 or gpus < 0:
        raise CapdistError(f"--cpus {cpus:g} --gpus {gpus:g}: expected more than 0 CPUs")
    from capdist.config.run_config import RayConfig
    from capdist.workers.extraction import RayChunks

    return extract.run(args, RayChunks(RayConfig(address=args.ray), cpus, gpus))
