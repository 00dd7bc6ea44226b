"""Features from cocobu folders: ``<name>_att/<image id>.npz`` beside ``<name>_box/<image id>.npy``.

The folder given is ``<name>_att``, whose files hold (R, F) or (rows, columns, F) under ``feat`` or
``z``. Boxes are (R, 4) x1 y1 x2 y2 in pixels; without a ``_box`` folder there are none. ``_fc``
holds means over regions, which models make themselves: it is not read.

Source: the folders that ImageCaptioning.pytorch and self-critical.pytorch train from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import read_archive
from shards.formats.npz_dir import numbered
from shards.schema import ShardError


@feature_format("cocobu")
class Cocobu:
    """Features from one ``_att`` folder and the ``_box`` folder beside it."""

    def __init__(self, path: Path) -> None:
        self._files, self.bad = numbered(path, ".npz")
        boxes = path.with_name(path.name.removesuffix("_att") + "_box")
        self.paths = [path, boxes] if boxes.is_dir() else [path]

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a folder whose name ends in _att."""
        return path.is_dir() and path.name.endswith("_att")

    @property
    def image_ids(self) -> list[int]:
        """All images, in the order of the names."""
        return list(self._files)

    def read(self, image_id: int) -> RegionFeatures:
        """One image's features."""
        folder, *boxes = self.paths
        path = folder / self._files[image_id]
        found = read_archive(str(path), path)
        if not boxes:
            return found
        box = boxes[0] / f"{path.stem}.npy"
        if not box.is_file():
            raise ShardError(f"{box}: no such file, though {path} is there")
        return replace(found, boxes=read_archive(str(box), box).regions, pixels=True)
