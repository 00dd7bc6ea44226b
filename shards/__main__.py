"""Build, inspect and verify shards: ``python -m shards COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol

from capdist.arguments import ArgumentParser
from capdist.errors import exit_status
from shards.commands import build, concepts, extract, inspect, scenes, verify
from shards.progress import wants_json


class Command(Protocol):
    """A module of `shards.commands`."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


COMMANDS: dict[str, Command] = {
    "build": build,
    "extract": extract,
    "scenes": scenes,
    "concepts": concepts,
    "inspect": inspect,
    "verify": verify,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for problems that verify found, 2."""
    options = new_parser().parse_args(arguments)
    return exit_status(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    wants_json()  # refuses another value of its variable before the work
    status: int = options.command.run(options)
    return status


def new_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m shards", description="Build, inspect and verify shards."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_arguments(one)
        one.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
