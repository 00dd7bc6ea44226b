"""Features from blocks: npz files that each hold many images of the same region count.

Legend: N images, R regions, F feature width, T classes. Arrays of a block:

=============  ==================  ==========================================================
``imgid``      (N,) integer        image ids, as in the captions
``feat``       (N, R, F) int8      a region feature is ``feat * scale``
``scale``      (F,) float32
``boxes``      (N, R, 4) float32   x1 y1 x2 y2 in 0..1; may lack where R is a square: the
                                   regions are then the cells of a grid, row by row
``class_id``   (N, R, T) int16     likeliest classes; optional
``class_prob`` (N, R, T) uint8     their probability × 255; with ``class_id``
=============  ==================  ==========================================================
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from shards.formats import RegionFeatures, feature_format
from shards.schema import CLASS_DTYPE, Array, ShardError

# Shards follow the order of the captions, which blocks usually follow too: a shard needs one
# block, or the two at a seam.
_BLOCKS_KEPT = 2


@feature_format("npz_blocks")
class NpzBlocks:
    """Features from npz blocks; a block is read when one of its images is, and kept a while."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._rows: dict[int, tuple[Path, int]] = {}
        widths = {}
        for path in files:
            with np.load(path) as block:
                widths[path] = _width(path, block)
                for row, image_id in enumerate(block["imgid"].tolist()):
                    self._add(image_id, path, row)
        self._dim = widths[files[0]]
        if odd := [path for path, width in widths.items() if width != self._dim]:
            raise ShardError(
                f"{odd[0]}: features of width {widths[odd[0]]}, but {files[0]} has {self._dim}; "
                "blocks must come from one extractor"
            )

    def _add(self, image_id: int, path: Path, row: int) -> None:
        if image_id in self._rows:
            raise ShardError(
                f"{path}: image {image_id} is in {self._rows[image_id][0]} too; remove one"
            )
        self._rows[image_id] = (path, row)

    @classmethod
    def accepts(cls, files: Sequence[Path]) -> bool:
        """Whether these are npz files and the first holds a block's arrays."""
        if not all(zipfile.is_zipfile(path) for path in files):
            return False
        with zipfile.ZipFile(files[0]) as archive:
            return {"imgid.npy", "feat.npy", "scale.npy"} <= set(archive.namelist())

    @property
    def dim(self) -> int:
        """The feature width F."""
        return self._dim

    @property
    def image_ids(self) -> list[int]:
        """All images, in the files' order."""
        return list(self._rows)

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._rows

    def read(self, image_id: int) -> RegionFeatures:
        """One image's features."""
        path, row = self._rows[image_id]
        block = _load(path)
        regions = block["feat"][row] * block["scale"]
        classes = None
        if "class_id" in block:
            classes = _classes(block["class_id"][row], block["class_prob"][row])
        return RegionFeatures(regions.astype(np.float16), block["boxes"][row], classes)


def _width(path: Path, block: np.lib.npyio.NpzFile) -> int:
    missing = [name for name in ("imgid", "feat", "scale") if name not in block]
    if missing:
        raise ShardError(f"{path}: no array {missing[0]!r}; it has {', '.join(block.files)}")
    if ("class_id" in block) != ("class_prob" in block):
        raise ShardError(f"{path}: has one of class_id and class_prob, expected both or neither")
    return int(block["scale"].shape[0])


@lru_cache(maxsize=_BLOCKS_KEPT)
def _load(path: Path) -> dict[str, Array]:
    with np.load(path) as archive:
        block = {name: archive[name] for name in archive.files}
    shape = block["feat"].shape
    if len(shape) != 3 or shape[::2] != (len(block["imgid"]), len(block["scale"])):
        raise ShardError(
            f"{path}: feat is {shape}, expected "
            f"({len(block['imgid'])} images, regions, {len(block['scale'])} scales)"
        )
    if "boxes" not in block:
        grid = _grid(path, shape[1])
        block["boxes"] = np.broadcast_to(grid, (shape[0], *grid.shape))
    block["boxes"] = block["boxes"].astype(np.float32, copy=False)
    return block


def _grid(path: Path, count: int) -> Array:
    """Boxes (R, 4) of the cells of a square grid over the image, row by row."""
    side = math.isqrt(count)
    if side * side != count:
        raise ShardError(
            f"{path}: no array 'boxes', and {count} regions are not a square grid; add the boxes"
        )
    row, column = np.divmod(np.arange(count), side)
    return np.stack([column, row, column + 1, row + 1], axis=1).astype(np.float32) / side


def _classes(ids: Array, probs: Array) -> Array:
    """Classes (R, T) of CLASS_DTYPE."""
    classes = np.empty(ids.shape, dtype=CLASS_DTYPE)
    classes["id"] = ids
    classes["prob"] = probs / np.float32(255)
    return classes
