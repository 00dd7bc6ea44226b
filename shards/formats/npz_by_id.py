"""Features of many images from one npz file: an array (R, F) for each, named by its image id.

An array of three axes is a grid (rows, columns, F). There are no boxes otherwise. It is what
``np.savez(path, **{"391895": features, ...})`` writes.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import (
    MAX_IMAGE_BYTES,
    archive_names,
    from_arrays,
    parse_image_id,
    wrap_read_errors,
)
from shards.schema import ShardError

#: Begins the names that numpy gives to arrays without one.
_UNNAMED = "arr_"


@feature_format("npz_by_id")
class NpzById:
    """Features from one file; each process opens it by itself."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self.bad: list[str] = []
        self._names: dict[int, str] = {}
        if (names := archive_names(path)) is None:
            raise ShardError(f"{path}: damaged, or not an npz file; copy it again")
        for name in names:
            image_id = parse_image_id(name)
            if image_id is None:
                self.bad.append(f"{path}: array {name[:40]!r}, expected an image id as its name")
            elif image_id in self._names:
                self.bad.append(
                    f"{path}: array {name[:40]!r}: image {image_id} is also {self._names[image_id]}"
                )
            else:
                self._names[image_id] = name

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is an npz file whose first array is named by an image id."""
        first = next(iter(archive_names(path) or ()), _UNNAMED)
        return not first.startswith(_UNNAMED) and parse_image_id(first) is not None

    @property
    def image_ids(self) -> list[int]:
        return list(self._names)

    def read(self, image_id: int) -> RegionFeatures:
        path, name = self.paths[0], self._names[image_id]
        with wrap_read_errors(f"{path}: image {image_id}"):
            archive = _open(path)
            assert archive.zip is not None
            if (size := archive.zip.getinfo(f"{name}.npy").file_size) > MAX_IMAGE_BYTES:
                raise ShardError(
                    f"{path}: image {image_id}: {size} bytes, expected at most {MAX_IMAGE_BYTES}"
                )
            return from_arrays(f"{path}: image {image_id}", {"features": archive[name]})


@lru_cache(maxsize=8)
def _open(path: Path) -> np.lib.npyio.NpzFile:
    return np.load(path, allow_pickle=False)
