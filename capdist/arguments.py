"""Command lines whose mistakes are reported in one line, as all others are."""

from __future__ import annotations

import argparse
from typing import NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """Prints one line about a wrong command line, without the usage, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see: {self.prog} --help\n")


def count(text: str) -> int:
    """A whole number from 0 on, as a type of argparse."""
    return _at_least(0, text)


def positive(text: str) -> int:
    """A whole number from 1 on, as a type of argparse."""
    return _at_least(1, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")
    return int(text)
