"""Features of a single image: a file ``<image id>.npz``.

The arrays are those of `shards.formats.arrays`, as in the files of a folder (`npz_dir`).
"""

from __future__ import annotations

from pathlib import Path

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import parse_image_id, read_archive
from shards.formats.npz_blocks import NpzBlocks
from shards.formats.npz_by_id import NpzById


@feature_format("npz_image")
class NpzImage:
    """Features from one file."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        image_id = parse_image_id(path.stem)
        self.image_ids = [] if image_id is None else [image_id]
        self.bad = [] if self.image_ids else [f"{path}: expected an image id as its name"]

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is an npz file that is neither a block nor holds arrays by image id."""
        is_npz = path.is_file() and path.suffix == ".npz"
        return is_npz and not (NpzBlocks.accepts(path) or NpzById.accepts(path))

    def read(self, image_id: int) -> RegionFeatures:
        return read_archive(str(self.paths[0]), self.paths[0])
