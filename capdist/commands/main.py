"""The command ``capdist``; ``python -m capdist`` and the scripts in ``launcher`` run it as well."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from capdist.arguments import ArgumentParser
from capdist.commands import (
    caption,
    compare,
    concepts,
    evaluate,
    export,
    extract,
    report,
    results,
    serve,
    sweep,
    train,
)
from capdist.distributed.end_process import end_process
from capdist.errors import exit_status
from capdist.threads import choose_threads
from shards.command_line import Command, add_commands, run_command

COMMANDS: dict[str, Command] = {
    "train": train,
    "evaluate": evaluate,
    "extract": extract,
    "caption": caption,
    "compare": compare,
    "concepts": concepts,
    "export": export,
    "report": report,
    "results": results,
    "serve": serve,
    "sweep": sweep,
}
#: Commands whose processes join a process group.
DISTRIBUTED = (train, concepts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` are those of the process if not given.

    Returns:
        The exit status: 0 when the command is done; 1 if a run of a sweep failed; 2 after an error,
        which is printed in one line; 75 if a signal stopped it and everything is saved; 130 after
        Ctrl-C. A command that joins a process group ends the process with that status instead.
    """
    args = new_parser().parse_args(arguments)
    choose_threads()
    status = exit_status(lambda: run_command(args))
    if args.command in DISTRIBUTED:
        end_process(status)
    return status


def new_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="capdist", description="Train image captioning models, score them and use them."
    )
    add_commands(parser, COMMANDS)
    return parser
