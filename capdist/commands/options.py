"""Options that several commands have."""

from __future__ import annotations

import argparse


def add_accept_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept-features",
        action="store_true",
        help="accept features with other statistics than those of training; the run records it",
    )
