"""Joins several feature files, checks each image, and converts boxes to [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards.formats import FEATURE_FORMATS, FeatureSource, RegionFeatures, detect_format
from shards.formats.boxes import normalise_boxes
from shards.schema import ShardError

_WHOLE_IMAGE = np.array([0, 0, 1, 1], np.float32)


class JoinedFeatures:
    """Features from several files or folders, each of which may have another format; picklable.

    Args:
        paths: of the files or folders, at least one.
        sizes: width and height by image id, used where the features do not have them.

    Attributes:
        format: name of the first path's format.
        parts: the reader of each path.
        dim: feature width F.
        paths_without_boxes: those whose first image has no boxes.

    Raises:
        ShardError: if a path has no known format, an image is in two, or the widths differ.
    """

    def __init__(
        self, paths: Sequence[Path], sizes: dict[int, tuple[int, int]] | None = None
    ) -> None:
        formats = [detect_format(FEATURE_FORMATS, path) for path in paths]
        self.format = formats[0][0]
        self.parts: list[FeatureSource] = [
            format_(path) for path, (_, format_) in zip(paths, formats, strict=True)
        ]
        self.sizes = sizes or {}
        self._part_of_image: dict[int, int] = {}
        for number, part in enumerate(self.parts):
            for image_id in part.image_ids:
                self._add(image_id, number)
        first_images = [_first_readable(part) for part in self.parts]
        self.dim = self._common_width([first.regions.shape[-1] for first in first_images])
        self.paths_without_boxes = [
            path for path, first in zip(paths, first_images, strict=True) if first.boxes is None
        ]

    def _add(self, image_id: int, part: int) -> None:
        if image_id in self._part_of_image:
            first = self.parts[self._part_of_image[image_id]]
            raise ShardError(
                f"{self.parts[part].paths[0]}: image {image_id} is also in {first.paths[0]}; "
                "remove one"
            )
        self._part_of_image[image_id] = part

    def _common_width(self, widths: list[int]) -> int:
        for part, width in zip(self.parts, widths, strict=True):
            if width != widths[0]:
                raise ShardError(
                    f"{part.paths[0]}: features of width {width}, but {self.parts[0].paths[0]} has "
                    f"width {widths[0]}; use features of one extractor"
                )
        return widths[0]

    @property
    def paths(self) -> list[Path]:
        """All files and folders that it reads."""
        return [path for part in self.parts for path in part.paths]

    @property
    def image_ids(self) -> list[int]:
        """Ids of all images, in the order of the files."""
        return list(self._part_of_image)

    @property
    def bad(self) -> list[str]:
        """Entries from which no image id can be read, one line each."""
        return [line for part in self.parts for line in part.bad]

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._part_of_image

    def part(self, image_id: int) -> int:
        """The index in ``parts`` of the reader of an image."""
        return self._part_of_image[image_id]

    def read(self, image_id: int) -> RegionFeatures:
        """One image's features, with float32 boxes in [0, 1]; without boxes, the whole image.

        Raises:
            ShardError: naming the position in the file and what is wrong with it.
        """
        part = self.parts[self._part_of_image[image_id]]
        features = part.read(image_id)
        where = ": ".join(
            filter(None, [str(part.paths[0]), features.position, f"image {image_id}"])
        )
        _check_shapes(where, features)
        boxes = features.boxes
        if boxes is None:
            boxes = np.tile(_WHOLE_IMAGE, (len(features.regions), 1))
        size = features.width, features.height
        if 0 in size:
            size = self.sizes.get(image_id, (0, 0))
        if features.pixels:
            boxes = normalise_boxes(where, boxes, *size)
        return RegionFeatures(
            features.regions, boxes.astype(np.float32), features.classes, *size, position=where
        )


def _check_shapes(where: str, features: RegionFeatures) -> None:
    regions, boxes, classes = features.regions, features.boxes, features.classes
    count = len(regions)
    if regions.ndim != 2 or not count:
        raise ShardError(f"{where}: features are {regions.shape}, expected (R, F)")
    if boxes is not None and boxes.shape != (count, 4):
        raise ShardError(f"{where}: boxes are {boxes.shape}, expected ({count}, 4)")
    if classes is not None and len(classes) != count:
        raise ShardError(f"{where}: classes of {len(classes)} regions, expected {count}")


def _first_readable(part: FeatureSource) -> RegionFeatures:
    """The features of the first image without an error."""
    problem = part.bad[0] if part.bad else "no images"
    for image_id in part.image_ids:
        try:
            return part.read(image_id)
        except ShardError as error:
            problem = str(error)
    raise ShardError(f"{part.paths[0]}: no image can be read ({problem}); check the file")
