"""Features from a VinVL TSV file: one image per line, tab-separated, without a header.

The first column is the image id (``COCO_val2014_000000000042`` or digits). What follows it is

- the number of boxes R, and the features (R, F) as base64 of float32 (``features.tsv``);
- JSON ``{"num_boxes": R, "features": "<base64>"}``, or ``[{"feature": "<base64>"}, ...]`` (Oscar's
  ``<split>.feature.tsv``);
- or JSON ``{"image_h": ..., "image_w": ..., "objects": [{"rect": [x1, y1, x2, y2], "feature":
  "<base64>", ...}, ...]}``, boxes in pixels (``predictions.tsv`` of the scene graph benchmark).

In all but the last, VinVL appends six columns to the features of each region: x1, y1, x2, y2, width
and height of its box, as shares of the image. They become the boxes; without them there are none.

Source: Zhang et al. 2021; the files that the scene_graph_benchmark and Oscar code read and write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json

from shards.formats import RegionFeatures, feature_format
from shards.formats.records import get_field
from shards.formats.tsv_lines import TsvLines, decode_numbers, first_columns
from shards.json_types import ImageId
from shards.schema import Array, ShardError

_GEOMETRY = 6
_TOLERANCE = 1e-3


@feature_format("vinvl_tsv")
class VinvlTsv(TsvLines):
    """Features from one TSV file."""

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a TSV file with two or three columns."""
        return len(first_columns(path)) in (2, 3)

    def read(self, image_id: ImageId) -> RegionFeatures:
        where, columns = self.where(image_id), self.columns(image_id)
        position = self.position(image_id)
        if len(columns) == 3:
            if not columns[1].isdigit():
                raise ShardError(f"{where}: number of boxes {columns[1][:40]!r}, expected a number")
            numbers = decode_numbers(f"{where}: features", columns[2], int(columns[1]))
            return _with_geometry(numbers, position)
        if len(columns) != 2:
            raise ShardError(f"{where}: {len(columns)} columns, expected 2 or 3")
        try:
            record = from_json(columns[1])
        except ValueError as error:
            raise ShardError(f"{where}: not JSON ({error}); copy the file again") from error
        if isinstance(record, dict) and "objects" in record:
            return _from_objects(where, record, position)
        if isinstance(record, list):
            return _with_geometry(_rows(where, record), position)
        features = get_field(where, record, "features", str)
        count = get_field(where, record, "num_boxes", int)
        return _with_geometry(decode_numbers(f"{where}: features", features, count), position)


def _with_geometry(numbers: Array, position: str) -> RegionFeatures:
    """Features whose last columns may be the boxes."""
    if not _ends_with_boxes(numbers):
        return RegionFeatures(numbers, position=position)
    boxes = numbers[:, -_GEOMETRY:-2].clip(0, 1)
    return RegionFeatures(numbers[:, :-_GEOMETRY], boxes, position=position)


def _ends_with_boxes(numbers: Array) -> bool:
    """Whether the last six columns are x1, y1, x2, y2, x2 - x1, y2 - y1 of boxes in [0, 1]."""
    if numbers.shape[1] <= _GEOMETRY:
        return False
    geometry = numbers[:, -_GEOMETRY:].astype(np.float64)
    corners, size = geometry[:, :4], geometry[:, 4:]
    inside = (corners >= -_TOLERANCE) & (corners <= 1 + _TOLERANCE)
    consistent = np.abs(corners[:, 2:] - corners[:, :2] - size) <= _TOLERANCE
    return bool(inside.all() and consistent.all() and (size > 0).all())


def _from_objects(where: str, record: dict[str, Any], position: str) -> RegionFeatures:
    """One region for each object."""
    objects = get_field(where, record, "objects", list)
    return RegionFeatures(
        _rows(where, objects),
        _corners(where, [get_field(where, item, "rect", list) for item in objects]),
        width=get_field(where, record, "image_w", int),
        height=get_field(where, record, "image_h", int),
        pixels=True,
        position=position,
    )


def _rows(where: str, objects: list[Any]) -> Array:
    """The features (R, F) of objects."""
    if not objects:
        raise ShardError(f"{where}: no objects, expected at least one")
    rows = [
        decode_numbers(f"{where}: features", get_field(where, item, "feature", str), 1)[0]
        for item in objects
    ]
    if len({len(row) for row in rows}) > 1:
        raise ShardError(f"{where}: objects have features of different widths; extract it again")
    return np.stack(rows)


def _corners(where: str, boxes: list[Any]) -> Array:
    corners: Array
    try:
        corners = np.array(boxes, np.float32)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.shape != (len(boxes), 4):
        raise ShardError(f"{where}: a rect that is not x1, y1, x2, y2; extract it again")
    return corners
