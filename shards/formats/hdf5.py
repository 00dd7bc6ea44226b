"""Features from an HDF5 file: ``<image id>_features``, ``<image id>_boxes``, ``_cls_prob``.

Boxes (R, 4) are x1 y1 x2 y2 in pixels; they and the probabilities (R, C), column 0 the background,
are optional. Source: Meshed-Memory Transformer's coco_detections.hdf5.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import MAX_IMAGE_BYTES, from_arrays
from shards.image_ids import Entries
from shards.json_types import ImageId
from shards.schema import Array, ShardError

if TYPE_CHECKING:
    import h5py

_MAGIC = b"\x89HDF\r\n\x1a\n"
_FEATURES_SUFFIX = "_features"
_ARRAY_NAMES = ("features", "boxes", "cls_prob")


@feature_format("hdf5")
class Hdf5:
    """Features from one HDF5 file, which each process opens by itself."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        names = Entries[str](lambda name: f"{name}{_FEATURES_SUFFIX}")
        for key in _keys(path):
            if key.endswith(_FEATURES_SUFFIX):
                name = key.removesuffix(_FEATURES_SUFFIX)
                names.add(f"{path}: {key[:60]}", name, name)
        self._names, self.bad = names.by_id, names.bad

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
        keys = {name: f"{self._names[image_id]}_{name}" for name in _ARRAY_NAMES}
        try:
            return from_arrays(
                where, {n: _array(where, file, key) for n, key in keys.items() if key in file}
            )
        except ShardError:
            raise
        except Exception as error:  # h5py raises many kinds
            raise ShardError(f"{where}: damaged ({error}); copy the file again") from error


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
