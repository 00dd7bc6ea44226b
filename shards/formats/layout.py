"""Arranges an image's features as regions (R, F), where the format does not define the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shards.formats import RegionFeatures
from shards.schema import Array, ShardError


def arrange(where: str, features: RegionFeatures, layout: str | None) -> RegionFeatures:
    """The features as regions (R, F), without padding; the cells of a grid get boxes.

    Args:
        where: prefix of messages.
        features: as a format reads them.
        layout: one of `shards.reading.LAYOUTS`; None: (R, F), or (rows, columns, F).

    Raises:
        ShardError: if they have another number of axes, or the number of regions is wrong.
    """
    if features.arranged:
        return features
    regions, boxes, classes = features.regions, features.boxes, features.classes
    _check_axes(where, features, layout)
    if layout == "features-first":
        regions = np.moveaxis(regions, 0, -1)
    if regions.ndim == 3:
        boxes = grid_boxes(*regions.shape[:2]) if boxes is None else boxes
        regions = regions.reshape(-1, regions.shape[-1])
    count = features.count
    if count is not None and not 0 < count <= len(regions):
        raise ShardError(
            f"{where}: num_boxes is {count}, but the features have {len(regions)} rows"
        )
    return replace(
        features,
        regions=regions[:count],
        boxes=None if boxes is None else boxes[:count],
        classes=None if classes is None else classes[:count],
        arranged=True,
    )


def _check_axes(where: str, features: RegionFeatures, layout: str | None) -> None:
    regions, boxes = features.regions, features.boxes
    expected = {"regions-first": (2,), "grid": (3,)}.get(layout or "", (2, 3))
    if regions.ndim not in expected:
        stated = f" for --layout {layout}" if layout else ""
        axes = " or ".join("(R, F)" if n == 2 else "(rows, columns, F)" for n in expected)
        raise ShardError(f"{where}: features are {regions.shape}, expected {axes}{stated}")
    first, last = math.prod(regions.shape[:-1]), math.prod(regions.shape[1:])
    count = None if boxes is None or features.count is not None else len(boxes)
    if layout is None and count == last != first:
        raise ShardError(
            f"{where}: features are {regions.shape}, but there are {last} boxes; if the width "
            "comes first, give --layout features-first"
        )


def check_layout(where: str, images: Sequence[RegionFeatures]) -> None:
    """Refuse arrays that may have the width first, if nothing in the files says which axis it is.

    Args:
        where: their file or folder.
        images: some of its images, as its format reads them.

    Raises:
        ShardError: if the first axis is equal in all, and the last one has fewer numbers than
            there would be regions, or differs.
    """
    shapes = [image.regions.shape for image in images if _undefined(image)]
    if len({(len(shape), shape[0]) for shape in shapes}) != 1:
        return
    widths = {shape[-1] for shape in shapes}
    if len(widths) > max(1, len(shapes) // 2) or any(
        shape[-1] < math.prod(shape[:-1]) for shape in shapes
    ):
        usual = "regions-first" if len(shapes[0]) == 2 else "grid"
        example = " or ".join(str(shape) for shape in dict.fromkeys(shapes[:2]))
        raise ShardError(
            f"{where}: features are {example}, and either axis may be their width; state the "
            f"layout with --layout {usual} (width last) or --layout features-first"
        )


def _undefined(features: RegionFeatures) -> bool:
    """Whether boxes, classes or a number of regions do not tell which axis is that of regions."""
    known = (features.boxes, features.classes, features.count)
    return (
        not features.arranged and features.regions.ndim in (2, 3) and all(k is None for k in known)
    )


def grid_boxes(rows: int, columns: int) -> Array:
    """Boxes (rows × columns, 4) in [0, 1] of the cells of a grid over the image, row by row."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    cells = np.stack([column, row, column + 1, row + 1], axis=1)
    return (cells / [columns, rows, columns, rows]).astype(np.float32)
