"""Features of a single image: a file ``<image id>.npz``.

The arrays are those of `shards.formats.arrays`, as in the files of a folder (`npz_dir`).
"""

from __future__ import annotations

from pathlib import Path

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import read_archive
from shards.formats.npz_blocks import NpzBlocks
from shards.formats.npz_by_id import NpzById
from shards.image_ids import parse_image_id
from shards.json_types import ImageId


@feature_format("npz_image")
class NpzImage:
    """Features from one file."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self.image_ids = [parse_image_id(path.stem)]
        self.bad: list[str] = []

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is an npz file that is neither a block nor holds arrays by image id."""
        is_npz = path.is_file() and path.suffix == ".npz"
        return is_npz and not (NpzBlocks.accepts(path) or NpzById.accepts(path))

    def read(self, image_id: ImageId) -> RegionFeatures:
        return read_archive(str(self.paths[0]), self.paths[0])
