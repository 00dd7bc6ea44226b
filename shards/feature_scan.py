"""The first pass over all features: finds bad images, and computes statistics of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from shards.class_names import names_needed
from shards.class_vectors import ClassVectors
from shards.concepts import pool_regions
from shards.fingerprint import Moments
from shards.formats import Annotation, RegionFeatures
from shards.image_ids import image_key
from shards.jobs import check_captions, check_features
from shards.joined_features import JoinedFeatures
from shards.json_types import ImageId
from shards.parallel import parallel_map
from shards.schema import Array, Sample, ShardError
from shards.storage import quantize_int8, to_float16

_CHUNK = 64
_BAD_LINES_SHOWN = 20


@dataclass(frozen=True, eq=False)
class SampleLoader:
    """Loads the sample of an annotated image; picklable.

    Args:
        features: of all images.
        classes: chooses the classes that are kept.
        float16: convert regions to float16.
        scale: convert regions to int8 of this scale; if empty, and without ``float16``, regions
            stay as they were read.
    """

    features: JoinedFeatures
    classes: ClassVectors
    float16: bool
    scale: tuple[float, ...] = ()

    def __call__(self, image: Annotation) -> Sample:
        """The sample of an image.

        Raises:
            ShardError: naming file, position and image, if it is bad.
        """
        return self.sample(image, self.read(image))

    def read(self, image: Annotation) -> RegionFeatures:
        """The features of an image that is paired with some; raises as `JoinedFeatures.read`."""
        return self.features.read(image.feature_id)

    def sample(self, image: Annotation, features: RegionFeatures) -> Sample:
        """The sample of an image with the features that were read; raises as `__call__`."""
        assert features.boxes is not None
        sample = Sample(
            key=image_key(image.image_id),
            image_id=image.image_id,
            width=image.width or features.width,
            height=image.height or features.height,
            split=image.split,
            captions=image.captions,
            tokens=image.tokens,
            regions=self._convert(features.regions),
            boxes=features.boxes,
            classes=self.classes(features.classes),
            grounding=image.grounding,
        )
        check_captions(f"image {image.image_id} ({image.file_name})", sample)
        check_features(f"{features.position} ({image.file_name})", sample, self.features.dim)
        return sample

    def _convert(self, regions: Array) -> Array:
        if self.float16:
            return to_float16(regions)
        return quantize_int8(regions, self.scale) if self.scale else regions


@dataclass(frozen=True, eq=False)
class FeatureScan:
    """The result of a scan.

    Args:
        bad: what is wrong with each bad image, by image id.
        pooled: `pool_regions` of the good images by id; empty unless asked for.
        max_abs: (F,) largest absolute value of each dimension.
        moments: of each part of the features, by its number.
        classes: the smallest number of class names, without the background, that the images need.
        clipped: number of boxes that were clipped, by image id.
    """

    bad: dict[ImageId, str]
    pooled: dict[ImageId, Array]
    max_abs: Array
    moments: dict[int, Moments]
    classes: int = 0
    clipped: dict[ImageId, int] = field(default_factory=dict)


def scan_features(
    load: SampleLoader, images: Sequence[Annotation], *, pooling: bool, workers: int | None
) -> FeatureScan:
    """Load and check all images, in worker processes.

    Args:
        load: how samples are loaded.
        images: that have features.
        pooling: also compute pooled features.
        workers: processes, one per CPU by default.
    """
    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    scan = partial(_scan_chunk, load, pooling)
    scans = parallel_map(scan, chunks, workers, "checking features", "chunk")
    return _merge(scans, load.features.dim)


def _scan_chunk(load: SampleLoader, pooling: bool, images: Sequence[Annotation]) -> FeatureScan:
    return _merge([_scan_image(load, pooling, image) for image in images], load.features.dim)


def _scan_image(load: SampleLoader, pooling: bool, image: Annotation) -> FeatureScan:
    image_id = image.image_id
    try:
        features = load.read(image)
        sample = load.sample(image, features)
    except ShardError as error:
        return FeatureScan({image_id: str(error)}, {}, np.zeros(load.features.dim, np.float32), {})
    regions = sample.regions
    return FeatureScan(
        {},
        {image_id: pool_regions(regions)} if pooling else {},
        np.abs(regions).max(axis=0).astype(np.float32),
        {load.features.part(image.feature_id): Moments.of(regions)},
        max(features.class_count, names_needed(features.classes)),
        {image_id: features.clipped} if features.clipped else {},
    )


def _merge(scans: list[FeatureScan], dim: int) -> FeatureScan:
    classes = max((scan.classes for scan in scans), default=0)
    total = FeatureScan({}, {}, np.zeros(dim, np.float32), {}, classes)
    for scan in scans:
        total.clipped.update(scan.clipped)
        total.bad.update(scan.bad)
        total.pooled.update(scan.pooled)
        np.maximum(total.max_abs, scan.max_abs, out=total.max_abs)
        for part, moments in scan.moments.items():
            previous = total.moments.get(part)
            total.moments[part] = previous + moments if previous else moments
    return total


def print_boxes(features: JoinedFeatures, scan: FeatureScan) -> None:
    """Say which files have no boxes, and how many boxes were clipped."""
    for path in features.paths_without_boxes:
        print(f"{path}: no boxes; every region gets the whole image as its box")
    if scan.clipped:
        count, images = sum(scan.clipped.values()), len(scan.clipped)
        print(f"clipped {count} boxes of {images} images to the edges of the image")


def check_one_extractor(features: JoinedFeatures, moments: dict[int, Moments]) -> None:
    """Refuse features of different extractors.

    Args:
        features: their parts are files or folders.
        moments: of each part, by its number.

    Raises:
        ShardError: naming the part that differs from the one with the most images.
    """
    largest = max(moments, key=lambda part: moments[part].images)
    for part, part_moments in moments.items():
        difference = part_moments.fingerprint().difference(moments[largest].fingerprint())
        if difference:
            raise ShardError(
                f"{features.parts[part].paths[0]}: features {difference} than those in "
                f"{features.parts[largest].paths[0]}; use features of one extractor with the same "
                "settings"
            )


def check_bad_count(
    bad: Sequence[str], max_bad: int, images: str, option: str = "--max-bad"
) -> None:
    """Refuse more than ``max_bad`` bad images; prints the first of them.

    Args:
        bad: a line for each.
        max_bad: how many may be left out.
        images: how many there are, for the message: "123 annotated images".
        option: that raises the limit.

    Raises:
        ShardError: with the first line and their number.
    """
    if len(bad) <= max_bad:
        return
    for line in bad[:_BAD_LINES_SHOWN]:
        print(f"bad: {line}")
    raise ShardError(
        f"{bad[0]}; {len(bad)} bad, of {images}; correct them, or leave them out with "
        f"{option} {len(bad)}"
    )
