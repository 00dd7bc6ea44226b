"""Features from blocks: npz files that each hold many images with the same number of regions.

Legend: N images, R regions, F feature width, T classes. Arrays of a block:

=============  ==================  ============================================================
``imgid``      (N,) integer, text  image ids, as in the captions
``feat``       (N, R, F) int8      a region feature is ``feat * scale``
``scale``      (F,) float32
``boxes``      (N, R, 4) float32   x1 y1 x2 y2 in [0, 1]; optional if R is a square number: the
                                   regions are then the cells of a grid, row by row
``class_id``   (N, R, T) int16     likeliest classes; optional
``class_prob`` (N, R, T) uint8     their probability × 255; with ``class_id``
=============  ==================  ============================================================
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import archive_names, wrap_read_errors
from shards.formats.layout import grid_boxes
from shards.image_ids import Entries
from shards.json_types import ImageId
from shards.schema import CLASS_DTYPE, Array, ShardError

# Shards and blocks usually have the order of the captions: a shard needs one block, or two if it
# spans the end of one.
_BLOCKS_CACHED = 2


@feature_format("npz_blocks")
class NpzBlocks:
    """Features from one block; reading an image reads the whole block, and caches it."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        with wrap_read_errors(str(path)), np.load(path, allow_pickle=False) as block:
            _check_array_names(path, block)
            rows = Entries[int](lambda row: f"row {row}")
            for row, image_id in enumerate(_ids(block["imgid"])):
                rows.add(f"{path}: row {row}", str(image_id), row)
        self._rows, self.bad = rows.by_id, rows.bad

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is an npz file with image ids, or a damaged one."""
        if not path.is_file() or path.suffix != ".npz":
            return False
        names = archive_names(path)
        return names is None or bool({"imgid", "scale"} & set(names))

    @property
    def image_ids(self) -> list[ImageId]:
        return list(self._rows)

    @property
    def int8_scale(self) -> tuple[float, ...]:
        """The scale (F numbers) of a block in 8 bits; empty for others."""
        block = _load(self.paths[0])
        return tuple(block["scale"].tolist()) if block["feat"].dtype == np.int8 else ()

    def read(self, image_id: ImageId) -> RegionFeatures:
        row, block = self._rows[image_id], _load(self.paths[0])
        with wrap_read_errors(f"{self.paths[0]}: image {image_id}"):
            regions = block["feat"][row] * block["scale"]
            classes = None
            if "class_id" in block:
                classes = _classes(block["class_id"][row], block["class_prob"][row])
            return RegionFeatures(regions, block["boxes"][row], classes)


def _ids(imgid: Array) -> list[int | str]:
    if imgid.ndim != 1 or imgid.dtype.kind not in "iuU":
        raise ValueError(f"imgid is {imgid.dtype} {imgid.shape}, expected integers or texts (N,)")
    ids: list[int | str] = imgid.tolist()
    return ids


def _check_array_names(path: Path, block: np.lib.npyio.NpzFile) -> None:
    missing = [name for name in ("imgid", "feat", "scale") if name not in block]
    if missing:
        raise ShardError(f"{path}: no array {missing[0]!r}, only {', '.join(block.files)}")
    if ("class_id" in block) != ("class_prob" in block):
        raise ShardError(f"{path}: has one of class_id and class_prob, expected both or neither")


@lru_cache(maxsize=_BLOCKS_CACHED)
def _load(path: Path) -> dict[str, Array]:
    with wrap_read_errors(str(path)), np.load(path, allow_pickle=False) as archive:
        block = {name: archive[name] for name in archive.files}
    shape = block["feat"].shape
    if len(shape) != 3 or shape[::2] != (len(block["imgid"]), len(block["scale"])):
        raise ShardError(
            f"{path}: feat is {shape}, expected "
            f"({len(block['imgid'])} images, regions, {len(block['scale'])} scales)"
        )
    if "boxes" not in block:
        block["boxes"] = np.broadcast_to(_square_grid(path, shape[1]), (*shape[:2], 4))
    return block


def _square_grid(path: Path, count: int) -> Array:
    """Boxes (R, 4) of the cells of a square grid over the image, row by row."""
    side = math.isqrt(count)
    if side * side != count:
        raise ShardError(
            f"{path}: no array 'boxes', and {count} regions are not a square grid; add the boxes"
        )
    return grid_boxes(side, side)


def _classes(ids: Array, probs: Array) -> Array:
    """Classes (R, T) of CLASS_DTYPE."""
    classes = np.empty(ids.shape, dtype=CLASS_DTYPE)
    classes["id"] = ids
    classes["prob"] = probs / np.float32(255)
    return classes
