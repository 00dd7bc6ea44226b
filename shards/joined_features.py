"""Joins several feature files, checks each image, and converts boxes to [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from shards.formats import FEATURE_FORMATS, FeatureSource, RegionFeatures, detect_format
from shards.formats.boxes import TOLERANCE, check_pixels, clip_boxes, normalise_boxes
from shards.formats.layout import arrange, check_layout
from shards.json_types import ImageId
from shards.reading import BY_FORMAT, Reading
from shards.schema import Array, ShardError

#: Images of a part by which its layout and its boxes are judged.
_COMPARED = 16

_CLIP_HINT = "; give --clip-boxes if they only reach a little over the edge"
_WHOLE_IMAGE = np.array([0, 0, 1, 1], np.float32)


class JoinedFeatures:
    """Features from several files or folders, each of which may have another format; picklable.

    Args:
        paths: of the files or folders, at least one.
        sizes: width and height by image id, used where the features do not have them.
        reading: what the user states about them.

    Attributes:
        format: name of the first path's format.
        parts: the reader of each path.
        dim: feature width F.
        class_count: classes of the first path that says how many there are, 0 if none does.
        paths_without_boxes: those whose first image has no boxes.
        bad: entries that can't be used and images that an earlier path has, one line each.

    Raises:
        ShardError: if a path has no known format, or the widths differ.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        sizes: dict[ImageId, tuple[int, int]] | None = None,
        reading: Reading = BY_FORMAT,
    ) -> None:
        formats = [detect_format(FEATURE_FORMATS, path) for path in paths]
        self.format = formats[0][0]
        self.parts: list[FeatureSource] = [
            format_(path) for path, (_, format_) in zip(paths, formats, strict=True)
        ]
        self.sizes = sizes or {}
        self.reading = reading
        self.bad = [line for part in self.parts for line in part.bad]
        self._part_of_image: dict[ImageId, int] = {}
        for number, part in enumerate(self.parts):
            for image_id in part.image_ids:
                self._add(image_id, number)
        first_images, self._defined = [], list[bool]()
        for part in self.parts:
            raw, arranged = self._first_readable(part)
            first_images.append(arranged)
            self._defined.append(raw.arranged and not raw.pixels)
        self.class_count = next((f.class_count for f in first_images if f.class_count), 0)
        self.dim = self._common_width([first.regions.shape[-1] for first in first_images])
        self.paths_without_boxes = [
            path for path, first in zip(paths, first_images, strict=True) if first.boxes is None
        ]

    def _add(self, image_id: ImageId, part: int) -> None:
        first = self.parts[self._part_of_image.setdefault(image_id, part)]
        if first is not self.parts[part]:
            self.bad.append(
                f"{self.parts[part].paths[0]}: image {image_id} is also in {first.paths[0]}"
            )

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
    def image_ids(self) -> list[ImageId]:
        """Ids of all images, in the order of the files."""
        return list(self._part_of_image)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._part_of_image

    def part(self, image_id: ImageId) -> int:
        """The index in ``parts`` of the reader of an image."""
        return self._part_of_image[image_id]

    def read(self, image_id: ImageId) -> RegionFeatures:
        """One image's features, with float32 boxes in [0, 1]; without boxes, the whole image.

        Raises:
            ShardError: naming the position in the file and what is wrong with it.
        """
        part = self.parts[self._part_of_image[image_id]]
        features = part.read(image_id)
        where = ": ".join(
            filter(None, [str(part.paths[0]), features.position, f"image {image_id}"])
        )
        features = _arranged(where, features, self.reading.layout)
        size = features.width, features.height
        if 0 in size:
            size = self.sizes.get(image_id, (0, 0))
        boxes, clipped = self._boxes(where, features, size)
        return RegionFeatures(
            features.regions,
            boxes,
            features.classes,
            *size,
            position=where,
            class_count=features.class_count,
            clipped=clipped,
        )

    def _boxes(
        self, where: str, features: RegionFeatures, size: tuple[int, int]
    ) -> tuple[Array, int]:
        """Boxes (R, 4) in [0, 1], and how many were clipped."""
        boxes, clipped = features.boxes, 0
        if boxes is None:
            return np.tile(_WHOLE_IMAGE, (len(features.regions), 1)), 0
        pixels = features.pixels and not self.reading.relative_boxes
        if pixels:
            check_pixels(where, boxes)
        if self.reading.clip_boxes and not (pixels and 0 in size):
            limits = (*size, TOLERANCE) if pixels else (1, 1, 0)
            boxes, clipped = clip_boxes(boxes, *limits)
        if pixels:
            hint = "" if self.reading.clip_boxes else _CLIP_HINT
            boxes = normalise_boxes(where, boxes, *size, hint)
        return boxes.astype(np.float32), clipped

    def check_reading(self, image_ids: Iterable[ImageId]) -> None:
        """Refuse files whose arrays mean something else than `reading` states.

        Args:
            image_ids: the images that will be read; some of each part are compared.

        Raises:
            ShardError: naming the file or folder, and the flag, if their axes may mean two things,
                or the boxes of all are shares of the image instead of pixels.
        """
        by_part: dict[int, list[ImageId]] = {}
        for image_id in image_ids:
            by_part.setdefault(self._part_of_image[image_id], []).append(image_id)
        for number, ids in by_part.items():
            part = self.parts[number]
            if self._defined[number]:
                continue  # reading one image of a block reads all
            some = list(_readable(part, ids[:: -(-len(ids) // _COMPARED)]))
            if self.reading.layout is None:
                check_layout(str(part.paths[0]), some)
            boxes = [image.boxes for image in some if image.boxes is not None and image.pixels]
            if boxes and not self.reading.relative_boxes:
                check_pixels(str(part.paths[0]), np.vstack(boxes))

    def _first_readable(self, part: FeatureSource) -> tuple[RegionFeatures, RegionFeatures]:
        """The features of the first image without an error, as stored and arranged."""
        problem = part.bad[0] if part.bad else "no images"
        for image_id in part.image_ids:
            try:
                raw = part.read(image_id)
                return raw, _arranged(f"image {image_id}", raw, self.reading.layout)
            except ShardError as error:
                problem = str(error)
        raise ShardError(f"{part.paths[0]}: no image can be read ({problem}); check the file")


def _readable(part: FeatureSource, image_ids: Sequence[ImageId]) -> Iterator[RegionFeatures]:
    for image_id in image_ids:
        with suppress(ShardError):
            yield part.read(image_id)


def _arranged(where: str, features: RegionFeatures, layout: str | None) -> RegionFeatures:
    """Regions (R, F), with as many boxes and classes, if there are any."""
    features = arrange(where, features, layout)
    regions, boxes, classes = features.regions, features.boxes, features.classes
    count = len(regions)
    if regions.ndim != 2 or not count:
        raise ShardError(f"{where}: features are {regions.shape}, expected (R, F)")
    if boxes is not None and boxes.shape != (count, 4):
        raise ShardError(f"{where}: boxes are {boxes.shape}, expected ({count}, 4)")
    if classes is not None and len(classes) != count:
        raise ShardError(f"{where}: classes of {len(classes)} regions, expected {count}")
    return features
