"""Boxes in pixels to shares of the image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shards.schema import Array, ShardError

#: Pixels by which a box may pass an edge, for extractors round; it ends at the edge then.
ROUNDING = 1.0


def to_shares(where: str, boxes: npt.ArrayLike, width: int, height: int) -> Array:
    """Boxes (R, 4) x1 y1 x2 y2 in pixels, as float32 shares of width and height.

    Raises:
        ShardError: naming the place, ``where``, if the size is unknown or a box lies outside.
    """
    if not (width and height):
        raise ShardError(
            f"{where}: boxes in pixels, but neither captions nor features know the image's size; "
            "name COCO files that know it (images[] with id, width, height) as --sizes"
        )
    pixels, size = np.asarray(boxes, np.float64), np.array([width, height] * 2)
    outside = ~((pixels >= -ROUNDING) & (pixels <= size + ROUNDING)).all(axis=1)
    if outside.any():
        box = ", ".join(f"{value:g}" for value in pixels[outside][0])
        raise ShardError(
            f"{where}: box ({box}) lies outside the image of {width} × {height} pixels"
        )
    return (pixels / size).clip(0, 1).astype(np.float32)
