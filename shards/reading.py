"""What the formats of feature files leave open, and the command-line options that state it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

#: Axes of feature arrays: (R, F); (F, R) or (F, rows, columns); (rows, columns, F).
LAYOUTS = ("regions-first", "features-first", "grid")


@dataclass(frozen=True)
class Reading:
    """What the user states about feature files.

    Args:
        layout: one of `LAYOUTS`, of arrays whose format does not define it.
        relative_boxes: whether boxes are in [0, 1], though their format has pixels.
        clip_boxes: whether to clip boxes that exceed the image by up to a tenth of it.
    """

    layout: str | None = None
    relative_boxes: bool = False
    clip_boxes: bool = False


#: Files are read as their format says.
BY_FORMAT = Reading()


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `reading` reads."""
    add = parser.add_argument
    add(
        "--layout",
        choices=LAYOUTS,
        help="axes of feature arrays: (R, F); (F, R) or (F, rows, columns); (rows, columns, F)",
    )
    add(
        "--boxes",
        choices=("relative",),
        help="relative: boxes are shares of the image, though the format has pixels",
    )
    add(
        "--clip-boxes",
        action="store_true",
        help="clip boxes that exceed the image by up to a tenth of it",
    )


def reading(options: argparse.Namespace) -> Reading:
    """What the options state."""
    return Reading(options.layout, options.boxes == "relative", options.clip_boxes)
