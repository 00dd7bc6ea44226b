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
    wrap_read_errors,
)
from shards.image_ids import Entries, parse_image_id
from shards.json_types import ImageId
from shards.schema import ShardError


@feature_format("npz_by_id")
class NpzById:
    """Features from one file; each process opens it by itself."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        if (found := archive_names(path)) is None:
            raise ShardError(f"{path}: damaged, or not an npz file; copy it again")
        names = Entries[str](repr)
        for name in found:
            names.add(f"{path}: array {name[:40]!r}", name, name)
        self._names, self.bad = names.by_id, names.bad

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is an npz file whose first array is named by a number."""
        first = next(iter(archive_names(path) or ()), "")
        return isinstance(parse_image_id(first), int)

    @property
    def image_ids(self) -> list[ImageId]:
        return list(self._names)

    def read(self, image_id: ImageId) -> RegionFeatures:
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
