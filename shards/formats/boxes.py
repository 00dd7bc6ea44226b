"""Converts boxes to [0, 1]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shards.schema import Array, ShardError

#: Pixels by which a box may exceed the image, because extractors round; it is clipped then.
TOLERANCE = 1.0
#: Share of the image by which a box may exceed it if clipping is requested.
MAX_CLIPPED = 0.1


def normalise_boxes(
    where: str, boxes: npt.ArrayLike, width: int, height: int, hint: str = ""
) -> Array:
    """Boxes (R, 4) x1 y1 x2 y2 in pixels, divided by width and height, as float32.

    Args:
        where: prefix of messages.
        boxes: in pixels.
        width: of the image in pixels, 0 if unknown.
        height: of the image in pixels, 0 if unknown.
        hint: end of the message about a box that exceeds the image.

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
            f"boxes are x1, y1, x2, y2, and that width and height are not swapped{hint}"
        )
    return (pixels / size).clip(0, 1).astype(np.float32)


def check_pixels(where: str, boxes: Array) -> None:
    """Refuse boxes in pixels that are all within one: they are shares of the image already.

    Shares may exceed the image by as much as `clip_boxes` clips.

    Raises:
        ShardError: if they are.
    """
    if boxes.size and (np.abs(boxes) <= 1 + MAX_CLIPPED).all():
        raise ShardError(
            f"{where}: all boxes are within one pixel, so they are shares of the image rather than "
            "pixels; give --boxes relative"
        )


def clip_boxes(boxes: Array, width: float, height: float, tolerance: float) -> tuple[Array, int]:
    """Boxes within the image, and how many exceeded it by more than the tolerance.

    A box that exceeds it by more than `MAX_CLIPPED` stays as it is, and is refused later.

    Args:
        boxes: (R, 4) x1 y1 x2 y2.
        width: of the image, in the boxes' unit.
        height: of the image, in the boxes' unit.
        tolerance: in the boxes' unit.
    """
    size = np.array([width, height] * 2, np.float64)
    over: Array = np.maximum(-boxes, boxes - size)
    much, little = over > tolerance, over <= MAX_CLIPPED * size
    clipped = np.asarray(much.any(axis=1) & little.all(axis=1))
    return np.where(clipped[:, None], boxes.clip(0, size), boxes), int(clipped.sum())
