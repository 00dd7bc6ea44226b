"""Features from an HDF5 file: ``<image id>_features``, ``<image id>_boxes``, ``_cls_prob``.

Boxes (R, 4) are x1 y1 x2 y2 in pixels; both they and the probabilities (R, C), column 0 the
background, may lack. Source: Meshed-Memory Transformer's coco_detections.hdf5.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from shards.formats import DIGITS, RegionFeatures, feature_format
from shards.formats.arrays import MOST, from_arrays
from shards.schema import Array, ShardError

if TYPE_CHECKING:
    import h5py

_MAGIC = b"\x89HDF\r\n\x1a\n"
_FEATURES = "_features"
_NAMES = ("features", "boxes", "cls_prob")


@feature_format("hdf5")
class Hdf5:
    """Features from one HDF5 file, which every process opens for itself."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self.image_ids: list[int] = []
        self.bad: list[str] = []
        for key in _open(path):
            if key.endswith(_FEATURES):
                name = key.removesuffix(_FEATURES)
                if name.isdecimal() and len(name) <= DIGITS:
                    self.image_ids.append(int(name))
                else:
                    self.bad.append(f"{path}: {key[:40]}: {name[:40]!r} is no image id")

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it begins as HDF5 files do."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC

    def read(self, image_id: int) -> RegionFeatures:
        """One image's features."""
        where, file = f"{self.paths[0]}: image {image_id}", _open(self.paths[0])
        keys = {name: f"{image_id}_{name}" for name in _NAMES}
        try:
            return from_arrays(
                where, {n: _array(where, file, key) for n, key in keys.items() if key in file}
            )
        except ShardError:
            raise
        except Exception as error:  # h5py has one of Python's for each of HDF5's
            raise ShardError(f"{where}: damaged ({error})") from error


def _array(where: str, file: h5py.File, key: str) -> Array:
    """The numbers of a dataset of this file: HDF5 would follow links to any other file."""
    import h5py

    link, found = file.get(key, getlink=True), None
    if isinstance(link, h5py.HardLink):
        found = file[key]
    if found is None or found.external or found.is_virtual:
        raise ShardError(f"{where}: {key} lies in another file; copy it into this one")
    if found.nbytes > MOST:
        raise ShardError(f"{where}: {found.nbytes} bytes, expected one image's, {MOST} at most")
    return found[()]


@lru_cache(maxsize=8)
def _open(path: Path) -> h5py.File:
    try:
        import h5py
    except ImportError as error:
        raise ShardError(f"{path}: HDF5 files need h5py; pip install 'capdist[formats]'") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ShardError(f"{path}: not a whole HDF5 file ({error}); copy it again") from error
