"""Features from a folder of npz files, one per image: ``<image id>.npz``.

The arrays are those of `shards.formats.arrays`; a file with a single array holds the features.
Source: X-modaler's folders, and what detectron2 versions of bottom-up attention write.
"""

from __future__ import annotations

from pathlib import Path

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import parse_image_id, read_archive


@feature_format("npz_dir")
class NpzDir:
    """Features from one folder."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self._files, self.bad = files_by_image_id(path, ".npz")

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a folder with npz files, and not a cocobu folder."""
        return path.is_dir() and not path.name.endswith("_att") and any(path.glob("*.npz"))

    @property
    def image_ids(self) -> list[int]:
        return list(self._files)

    def read(self, image_id: int) -> RegionFeatures:
        path = self.paths[0] / self._files[image_id]
        return read_archive(str(path), path)


def files_by_image_id(folder: Path, ending: str) -> tuple[dict[int, str], list[str]]:
    """File names in a folder by image id, and one line for each file without a usable id."""
    files: dict[int, str] = {}
    bad = []
    for path in sorted(folder.glob(f"*{ending}")):
        image_id = parse_image_id(path.stem)
        if image_id is None:
            bad.append(f"{path}: expected an image id as its name")
        elif image_id in files:
            bad.append(f"{path}: image {image_id} is also in {files[image_id]}")
        else:
            files[image_id] = path.name
    return files, bad
