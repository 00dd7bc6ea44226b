"""Build, inspect and verify shards: ``python -m shards COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from capdist.arguments import ArgumentParser
from capdist.errors import exit_status
from shards.command_line import Command, add_commands, run_command
from shards.commands import build, concepts, extract, features, inspect, scenes, verify

COMMANDS: dict[str, Command] = {
    "build": build,
    "extract": extract,
    "scenes": scenes,
    "concepts": concepts,
    "features": features,
    "inspect": inspect,
    "verify": verify,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for problems that verify found, 2."""
    options = new_parser().parse_args(arguments)
    return exit_status(lambda: run_command(options))


def new_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m shards", description="Build, inspect and verify shards."
    )
    formatter = argparse.ArgumentDefaultsHelpFormatter
    add_commands(parser, COMMANDS, formatter_class=formatter)
    return parser


if __name__ == "__main__":
    sys.exit(main())
