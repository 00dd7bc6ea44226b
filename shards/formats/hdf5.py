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
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import MAX_IMAGE_BYTES, from_arrays, parse_image_id
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
        self.bad: list[str] = []
        #: The name in the keys of each image, and the suffix of its features.
        self._names: dict[int, tuple[str, str]] = {}
        keys = _keys(path)
        for suffix in _FEATURE_SUFFIXES:
            for key in keys:
                if key.endswith(suffix):
                    self._add(key.removesuffix(suffix), suffix)
        if not (self._names or self.bad):
            seen = ", ".join(repr(key[:40]) for key in keys[:_KEYS_SHOWN]) or "none"
            raise ShardError(
                f"{path}: no features that can be read, expected keys such as 42_features or "
                f"42_grids, got {seen}"
            )

    def _add(self, name: str, suffix: str) -> None:
        image_id = parse_image_id(name)
        if image_id is None:
            self.bad.append(
                f"{self.paths[0]}: {name[:40]}{suffix}: image id {name[:40]!r}, expected a number"
            )
            return
        known, known_suffix = self._names.setdefault(image_id, (name, suffix))
        if known != name:
            self.bad.append(
                f"{self.paths[0]}: {name[:40]}{suffix}: image {image_id} is also "
                f"{known[:40]}{known_suffix}"
            )

    @property
    def image_ids(self) -> list[int]:
        return list(self._names)

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it has the signature of HDF5."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC

    def read(self, image_id: int) -> RegionFeatures:
        where, file = f"{self.paths[0]}: image {image_id}", _open(self.paths[0])
        name, suffix = self._names[image_id]
        try:
            found = _arrays(where, file, name, suffix)
            return from_arrays(where, found)
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
    features = found["features"]
    side = math.isqrt(features.shape[0])
    if suffix == "_grids" and features.ndim == 2 and side * side == features.shape[0]:
        found["features"] = features.reshape(side, side, -1)
    return found


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
    try:
        keys = list(_open(path))
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
