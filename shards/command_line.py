"""What the two command lines, ``python -m shards`` and ``capdist``, have in common."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Protocol

from shards.progress import wants_json


class Command(Protocol):
    """A module with one command."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace, /) -> int: ...


def add_commands(
    parser: argparse.ArgumentParser, commands: Mapping[str, Command], **settings: Any
) -> None:
    """Give a parser its commands; ``settings`` are those of each command's parser."""
    found = parser.add_subparsers(required=True, metavar="command")
    for name, command in commands.items():
        one = found.add_parser(name, help=command.HELP, description=command.HELP, **settings)
        command.add_arguments(one)
        one.set_defaults(command=command)


def run_command(options: argparse.Namespace) -> int:
    """Run the command that was chosen; returns its exit status."""
    wants_json()  # refuses another value of its variable before the work
    status: int = options.command.run(options)
    return status
