"""Features from cocobu folders: ``<name>_att/<image id>.npz`` and ``<name>_box/<image id>.npy``.

The path is ``<name>_att``, whose files hold (R, F) or (rows, columns, F) under ``feat`` or ``z``.
Boxes are (R, 4) x1 y1 x2 y2 in pixels; without a ``_box`` folder there are none. ``_fc`` holds
means over regions, which models compute themselves: it is not read.

Source: the folders that ImageCaptioning.pytorch and self-critical.pytorch train from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from shards.formats import RegionFeatures, feature_format
from shards.formats.arrays import read_archive
from shards.formats.npz_dir import files_by_image_id
from shards.json_types import ImageId
from shards.schema import ShardError


@feature_format("cocobu")
class Cocobu:
    """Features from an ``_att`` folder and the ``_box`` folder next to it."""

    def __init__(self, path: Path) -> None:
        self._files, self.bad = files_by_image_id(path, ".npz")
        boxes = path.with_name(path.name.removesuffix("_att") + "_box")
        self.paths = [path, boxes] if boxes.is_dir() else [path]

    @classmethod
    def accepts(cls, path: Path) -> bool:
        """Whether it is a folder whose name ends in _att."""
        return path.is_dir() and path.name.endswith("_att")

    @property
    def image_ids(self) -> list[ImageId]:
        return list(self._files)

    def read(self, image_id: ImageId) -> RegionFeatures:
        folder, *boxes = self.paths
        path = folder / self._files[image_id]
        features = read_archive(str(path), path)
        if not boxes:
            return features
        box_path = (boxes[0] / self._files[image_id]).with_suffix(".npy")
        if not box_path.is_file():
            raise ShardError(f"{box_path}: no such file, though {path} exists; copy it too")
        return replace(features, boxes=read_archive(str(box_path), box_path).regions, pixels=True)
