"""Converts boxes from pixels to [0, 1]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shards.schema import Array, ShardError

#: Pixels by which a box may exceed the image, because extractors round; it is clipped then.
TOLERANCE = 1.0


def normalise_boxes(where: str, boxes: npt.ArrayLike, width: int, height: int) -> Array:
    """Boxes (R, 4) x1 y1 x2 y2 in pixels, divided by width and height, as float32.

    Args:
        where: prefix of messages.
        boxes: in pixels.
        width: of the image in pixels, 0 if unknown.
        height: of the image in pixels, 0 if unknown.

    Raises:
        ShardError: if the size is unknown or a box exceeds the image.
    """
    if not (width and height):
        raise ShardError(
            f"{where}: boxes in pixels, but neither captions nor features have the image's size; "
            "give COCO files that have it (images[] with id, width, height) as --sizes"
        )
    pixels, size = np.asarray(boxes, np.float64), np.array([width, height] * 2)
    outside = ~((pixels >= -TOLERANCE) & (pixels <= size + TOLERANCE)).all(axis=1)
    if outside.any():
        box = ", ".join(f"{value:g}" for value in pixels[outside][0])
        raise ShardError(
            f"{where}: box ({box}) exceeds the image of {width} × {height} pixels; check that "
            "boxes are x1, y1, x2, y2, and that width and height are not swapped"
        )
    return (pixels / size).clip(0, 1).astype(np.float32)
