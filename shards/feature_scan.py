"""The first pass over all features: finds bad images, and computes statistics of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from shards.concepts import pool_regions
from shards.fingerprint import Moments
from shards.formats import Annotation
from shards.jobs import check_trainable
from shards.joined_features import JoinedFeatures
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
        float16: convert regions to float16.
        scale: convert regions to int8 of this scale; if empty, and without ``float16``, regions
            stay as they were read.
    """

    features: JoinedFeatures
    float16: bool
    scale: tuple[float, ...] = ()

    def __call__(self, image: Annotation) -> Sample:
        """The sample of an image.

        Raises:
            ShardError: naming file, position and image, if it is bad.
        """
        features = self.features.read(image.image_id)
        assert features.boxes is not None
        sample = Sample(
            key=f"{image.image_id:012d}",
            image_id=image.image_id,
            width=image.width or features.width,
            height=image.height or features.height,
            split=image.split,
            captions=image.captions,
            tokens=image.tokens,
            regions=self._convert(features.regions),
            boxes=features.boxes,
            classes=features.classes,
            grounding=image.grounding,
        )
        check_trainable(f"{features.position} ({image.file_name})", sample, self.features.dim)
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
    """

    bad: dict[int, str]
    pooled: dict[int, Array]
    max_abs: Array
    moments: dict[int, Moments]


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
        regions = load(image).regions
    except ShardError as error:
        return FeatureScan({image_id: str(error)}, {}, np.zeros(load.features.dim, np.float32), {})
    pooled = {image_id: pool_regions(regions)} if pooling else {}
    moments = {load.features.part(image_id): Moments.of(regions)}
    return FeatureScan({}, pooled, np.abs(regions).max(axis=0).astype(np.float32), moments)


def _merge(scans: list[FeatureScan], dim: int) -> FeatureScan:
    total = FeatureScan({}, {}, np.zeros(dim, np.float32), {})
    for scan in scans:
        total.bad.update(scan.bad)
        total.pooled.update(scan.pooled)
        np.maximum(total.max_abs, scan.max_abs, out=total.max_abs)
        for part, moments in scan.moments.items():
            previous = total.moments.get(part)
            total.moments[part] = previous + moments if previous else moments
    return total


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


def check_bad_count(bad: Sequence[str], max_bad: int, images: str) -> None:
    """Refuse more than ``max_bad`` bad images; prints the first of them.

    Args:
        bad: a line for each.
        max_bad: how many may be left out.
        images: how many there are, for the message: "123 annotated images".

    Raises:
        ShardError: with the first line and their number.
    """
    if len(bad) <= max_bad:
        return
    for line in bad[:_BAD_LINES_SHOWN]:
        print(f"bad: {line}")
    raise ShardError(
        f"{bad[0]}; {len(bad)} bad, of {images}; correct them, or leave them out with "
        f"--max-bad {len(bad)}"
    )
