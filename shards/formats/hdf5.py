"""Features from an HDF5 file, a dataset for each image and array. Legend: R regions, F width.

============================  ==================================================================
``<image id>_features``       (R, F)
``<image id>_boxes``          (R, 4) x1 y1 x2 y2 in pixels; optional
``<image id>_cls_prob``       (R, C) probabilities, column 0 the background; optional. Of one
                              axis they are of classes that the file does not name, and not read
``<image id>_size``           height and width of the image in pixels; optional
``<image id>_grids``          (N, F), or (rows, columns, F), of a grid; read if there are no
                              ``_features``. If N is a square number, the grid is square, row by row
============================  ==================================================================

An image id is digits, which may have zeros in front, or ends with them after a ``_``. Source:
Meshed-Memory Transformer's coco_detections.hdf5; the files of DLCT and RSTNet, which add sizes,
grids and masks.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import MAX_IMAGE_BYTES, from_arrays
from shards.formats.layout import grid_boxes
from shards.image_ids import Entries
from shards.json_types import ImageId
from shards.schema import Array, ShardError

if TYPE_CHECKING:
    import h5py

_MAGIC = b"\x89HDF\r\n\x1a\n"
#: Names of an image's features, the first that exists.
_FEATURE_SUFFIXES = ("_features", "_grids")
_KEYS_SHOWN = 3


@feature_format("hdf5")
class Hdf5:
    """Features from one HDF5 file, which each process opens by itself."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        #: The name in the keys of each image, and the suffix of its features.
        names = Entries[tuple[str, str]]("".join)
        keys, seen = _keys(path), set[str]()
        for suffix in _FEATURE_SUFFIXES:
            for key in keys:
                name = key.removesuffix(suffix)
                if name != key and name not in seen:
                    seen.add(name)
                    names.add(f"{path}: {key[:60]}", name, (name, suffix))
        self._names, self.bad = names.by_id, names.bad
        if not (self._names or self.bad):
            shown = ", ".join(repr(key[:40]) for key in keys[:_KEYS_SHOWN]) or "none"
            raise ShardError(
                f"{path}: no features that can be read, expected keys such as 42_features or "
                f"42_grids, got {shown}"
            )

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it has the signature of HDF5."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC

    @property
    def image_ids(self) -> list[ImageId]:
        return list(self._names)

    def read(self, image_id: ImageId) -> RegionFeatures:
        where, file = f"{self.paths[0]}: image {image_id}", _open(self.paths[0])
        name, suffix = self._names[image_id]
        try:
            features = from_arrays(where, _arrays(where, file, name, suffix))
            return _as_grid(features) if suffix == "_grids" else features
        except ShardError:
            raise
        except Exception as error:  # h5py raises many kinds
            raise ShardError(f"{where}: damaged ({error}); copy the file again") from error


def _arrays(where: str, file: h5py.File, name: str, suffix: str) -> dict[str, Array]:
    """An image's arrays, under the names of `shards.formats.arrays`."""
    keys = {"features": f"{name}{suffix}", "image_h": f"{name}_size"}
    if suffix == "_features":
        keys |= {"boxes": f"{name}_boxes", "cls_prob": f"{name}_cls_prob"}
    found = {n: _array(where, file, key) for n, key in keys.items() if key in file}
    if "image_h" in found:
        size = found["image_h"].reshape(-1)
        if size.shape != (2,):
            raise ShardError(f"{where}: {name}_size is {size.shape}, expected height and width")
        found |= {"image_h": size[:1], "image_w": size[1:]}
    if found.get("cls_prob", np.empty((0, 0))).ndim == 1:
        del found["cls_prob"]
    return found


def _as_grid(features: RegionFeatures) -> RegionFeatures:
    """Cells (N, F) with their boxes, if the grid can be square."""
    regions = features.regions
    side = math.isqrt(len(regions))
    if regions.ndim != 2:
        return features
    boxes = grid_boxes(side, side) if side * side == len(regions) else None
    return replace(features, boxes=boxes, pixels=False, arranged=True)


def _array(where: str, file: h5py.File, key: str) -> Array:
    """The numbers of a dataset in this file; HDF5 itself would follow links to any other file."""
    import h5py

    link, dataset = file.get(key, getlink=True), None
    if isinstance(link, h5py.HardLink):
        dataset = file[key]
    if dataset is None or dataset.external or dataset.is_virtual:
        raise ShardError(f"{where}: {key} is in another file; copy it into this one")
    if dataset.nbytes > MAX_IMAGE_BYTES:
        raise ShardError(
            f"{where}: {dataset.nbytes} bytes, expected one image's arrays of at most "
            f"{MAX_IMAGE_BYTES} bytes"
        )
    return dataset[()]


def _keys(path: Path) -> list[str]:
    """The names of everything in a file, also in groups: image ids may contain slashes."""
    keys: list[str] = []
    try:
        _open(path).visit_links(keys.append)
    except RuntimeError as error:
        raise ShardError(f"{path}: damaged ({error}); copy it again") from error
    for key in keys:
        if not isinstance(key, str):  # h5py returns bytes that are not UTF-8 as they are
            raise ShardError(f"{path}: damaged (name {key[:40]!r} is not UTF-8); copy it again")
    return keys


@lru_cache(maxsize=8)
def _open(path: Path) -> h5py.File:
    try:
        import h5py
    except ImportError as error:
        raise ShardError(
            f"{path}: HDF5 files need h5py; install it with: pip install 'capdist[formats]'"
        ) from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ShardError(
            f"{path}: damaged, or not an HDF5 file ({error}); copy it again"
        ) from error
