"""Features from a folder of npz files, one per image: ``<image id>.npz``, also in folders below.

The arrays are those of `shards.formats.arrays`; a file with a single array holds the features.
Source: X-modaler's folders, and what detectron2 versions of bottom-up attention write.
"""

from __future__ import annotations

from pathlib import Path

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import read_archive
from shards.image_ids import Entries
from shards.json_types import ImageId


@feature_format("npz_dir")
class NpzDir:
    """Features from one folder."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self._files, self.bad = files_by_image_id(path, ".npz")

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a folder with npz files in it or below, and not a cocobu folder."""
        return path.is_dir() and not path.name.endswith("_att") and any(path.rglob("*.npz"))

    @property
    def image_ids(self) -> list[ImageId]:
        return list(self._files)

    def read(self, image_id: ImageId) -> RegionFeatures:
        path = self.paths[0] / self._files[image_id]
        return read_archive(str(path), path)


def files_by_image_id(folder: Path, ending: str) -> tuple[dict[ImageId, str], list[str]]:
    """Paths of files below a folder by image id, and one line for each unusable or repeated id.

    The id is in the path without the ending; in a folder of folders, ``<folder>/<name>``.
    """
    files = Entries[str](str)
    for path in sorted(folder.rglob(f"*{ending}")):
        name = path.relative_to(folder).as_posix()
        files.add(str(path), name.removesuffix(ending), name)
    return files.by_id, files.bad
