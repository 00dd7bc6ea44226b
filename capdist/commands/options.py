"""Options that several commands have."""

from __future__ import annotations

import argparse

from capdist.errors import CapdistError


def add_accept_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept-features",
        action="store_true",
        help="accept features with other statistics than those of training; the run records it",
    )


def refuse_unused(args: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    """Refuse options without an effect.

    Args:
        args: the command line.
        names: of the options, as attributes of ``args``.
        reason: why they have none: "with --results, which ...".

    Raises:
        CapdistError: naming those that are given.
    """
    if given := [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]:
        raise CapdistError(f"{', '.join(given)}: not used {reason}; leave out what is not used")
