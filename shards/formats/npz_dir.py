"""Features from a folder of npz files, one for each image: ``<image id>.npz``.

The arrays are those of `shards.formats.arrays`; a file with a single array holds the features.
Source: X-modaler's folders, and what detectron2 versions of bottom-up attention write.
"""

from __future__ import annotations

from pathlib import Path

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import image_id, read_archive


@feature_format("npz_dir")
class NpzDir:
    """Features from one folder."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self._files, self.bad = numbered(path, ".npz")

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a folder with npz files, and not a cocobu one."""
        return path.is_dir() and not path.name.endswith("_att") and any(path.glob("*.npz"))

    @property
    def image_ids(self) -> list[int]:
        """All images, in the order of the names."""
        return list(self._files)

    def read(self, image_id: int) -> RegionFeatures:
        """One image's features."""
        path = self.paths[0] / self._files[image_id]
        return read_archive(str(path), path)


def numbered(folder: Path, ending: str) -> tuple[dict[int, str], list[str]]:
    """The file of every image in a folder, and what is wrong with the others of this ending."""
    files: dict[int, str] = {}
    bad = []
    for path in sorted(folder.glob(f"*{ending}")):
        number = image_id(path.stem)
        if number is None:
            bad.append(f"{path}: its name is no image id")
        elif number in files:
            bad.append(f"{path}: image {number} is in {files[number]} too")
        else:
            files[number] = path.name
    return files, bad
