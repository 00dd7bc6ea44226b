"""Features from a folder of npy files, one per image: ``<image id>.npy``, regions (R, F).

An array of three axes is a grid (rows, columns, F). There are no boxes otherwise.
"""

from __future__ import annotations

from pathlib import Path

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import read_archive
from shards.formats.npz_dir import files_by_image_id
from shards.json_types import ImageId


@feature_format("npy_dir")
class NpyDir:
    """Features from one folder."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self._files, self.bad = files_by_image_id(path, ".npy")

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a folder with npy files and no npz files, and not a cocobu folder."""
        if not path.is_dir() or path.name.endswith("_att"):
            return False
        return any(path.rglob("*.npy")) and not any(path.rglob("*.npz"))

    @property
    def image_ids(self) -> list[ImageId]:
        return list(self._files)

    def read(self, image_id: ImageId) -> RegionFeatures:
        path = self.paths[0] / self._files[image_id]
        return read_archive(str(path), path)
