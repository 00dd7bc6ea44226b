"""Several feature files as one, every image checked, boxes as shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards.formats import FEATURE_FORMATS, FeatureSource, RegionFeatures, recognise
from shards.formats.boxes import to_shares
from shards.schema import ShardError

_EVERYWHERE = np.array([0, 0, 1, 1], np.float32)


class JoinedFeatures:
    """Features from several files or folders, each in a format of its own; picklable.

    Args:
        paths: of the files or folders, one at least.
        sizes: width and height, by image id, of images whose features do not know them.

    Raises:
        ShardError: if one is in no known format, an image is in two, or their widths differ.
    """

    def __init__(
        self, paths: Sequence[Path], sizes: dict[int, tuple[int, int]] | None = None
    ) -> None:
        found = [(path, *recognise(FEATURE_FORMATS, path)) for path in paths]
        self.format = found[0][1]
        self.parts: list[FeatureSource] = [format_(path) for path, _, format_ in found]
        self.sizes = sizes or {}
        self._part: dict[int, int] = {}
        for number, part in enumerate(self.parts):
            for image_id in part.image_ids:
                self._add(image_id, number)
        firsts = [_first(part) for part in self.parts]
        self.dim = self._width([first.regions.shape[-1] for first in firsts])
        #: Those whose first image has no boxes.
        self.boxless = [
            path for path, first in zip(paths, firsts, strict=True) if first.boxes is None
        ]

    def _add(self, image_id: int, part: int) -> None:
        if image_id in self._part:
            first = self.parts[self._part[image_id]]
            raise ShardError(
                f"{self.parts[part].paths[0]}: image {image_id} is in {first.paths[0]} too; "
                "remove one"
            )
        self._part[image_id] = part

    def _width(self, widths: list[int]) -> int:
        for part, width in zip(self.parts, widths, strict=True):
            if width != widths[0]:
                raise ShardError(
                    f"{part.paths[0]}: features of width {width}, but {self.parts[0].paths[0]} has "
                    f"{widths[0]}; all must come from one extractor"
                )
        return widths[0]

    @property
    def paths(self) -> list[Path]:
        """All files and folders that are read."""
        return [path for part in self.parts for path in part.paths]

    @property
    def image_ids(self) -> list[int]:
        """All images, in the files' order."""
        return list(self._part)

    @property
    def bad(self) -> list[str]:
        """What holds no image that could be read, a line each."""
        return [line for part in self.parts for line in part.bad]

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._part

    def part(self, image_id: int) -> int:
        """The number of the part that an image is in."""
        return self._part[image_id]

    def read(self, image_id: int) -> RegionFeatures:
        """One image's features, its boxes float32 shares; the whole image where none are known.

        Raises:
            ShardError: naming the place in the file and what is wrong with it.
        """
        part = self.parts[self._part[image_id]]
        found = part.read(image_id)
        where = ": ".join(filter(None, [str(part.paths[0]), found.place, f"image {image_id}"]))
        count = len(found.regions)
        if found.regions.ndim != 2 or not count:
            raise ShardError(f"{where}: features are {found.regions.shape}, expected (regions, F)")
        boxes = np.tile(_EVERYWHERE, (count, 1)) if found.boxes is None else found.boxes
        if boxes.shape != (count, 4):
            raise ShardError(f"{where}: boxes are {boxes.shape}, expected ({count}, 4)")
        if found.classes is not None and len(found.classes) != count:
            raise ShardError(f"{where}: classes of {len(found.classes)} regions, expected {count}")
        size = found.width, found.height
        if 0 in size:
            size = self.sizes.get(image_id, (0, 0))
        if found.pixels:
            boxes = to_shares(where, boxes, *size)
        return RegionFeatures(
            found.regions, boxes.astype(np.float32), found.classes, *size, place=where
        )


def _first(part: FeatureSource) -> RegionFeatures:
    """The first image that can be read."""
    problem = "no images"
    for image_id in part.image_ids:
        try:
            return part.read(image_id)
        except ShardError as error:
            problem = str(error)
    raise ShardError(f"{part.paths[0]}: holds no features that can be read ({problem})")
