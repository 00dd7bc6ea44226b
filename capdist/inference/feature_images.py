"""The images of feature files, which are captioned without shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capdist.config.base import ConfigError
from capdist.inference.feature_check import FeatureCheck
from shards.feature_scan import check_bad_count
from shards.feature_spec import FeatureSpec
from shards.fingerprint import UNKNOWN, Fingerprint, Moments
from shards.formats import find_files
from shards.image_ids import image_key
from shards.jobs import check_features
from shards.joined_features import JoinedFeatures
from shards.json_types import ImageId
from shards.progress import Progress
from shards.reading import Reading
from shards.schema import Sample, ShardError

#: Images whose features are compared with those that a model was trained on.
_COMPARED = 256


@dataclass(frozen=True)
class FeatureImages:
    """Images of feature files, all of which can be read; ``classes``: whether they have classes."""

    source: JoinedFeatures
    image_ids: list[ImageId]
    classes: bool

    @classmethod
    def check(
        cls,
        files: str,
        source: JoinedFeatures,
        trained: FeatureSpec,
        check: FeatureCheck,
        max_bad: int,
    ) -> FeatureImages:
        """Read all images once, and refuse those of another extractor.

        Args:
            files: for messages.
            source: of the images.
            trained: the features that a model was trained on.
            check: compares them with these.
            max_bad: largest number of bad images; they are named and left out.

        Raises:
            ShardError: if more images are bad.
            ConfigError: if the features are of another extractor.
        """
        scan = _Scan.of(source)
        check_bad_count(scan.bad, max_bad, f"{len(source.image_ids)} images")
        for line in scan.bad:
            print(f"bad: {line}")
        if not scan.good:
            raise ShardError(f"{files}: no image is left; correct the files")
        check.fingerprint(files, trained, scan.fingerprint)
        return cls(source, scan.good, scan.classes)

    def samples(self, image_ids: list[ImageId]) -> list[Sample]:
        """Some of the images, without captions."""
        return [read_sample(self.source, image) for image in image_ids]


@dataclass(frozen=True)
class _Scan:
    """What reading all images found: those that can be read, a line for each other one."""

    good: list[ImageId]
    bad: list[str]
    fingerprint: Fingerprint
    classes: bool

    @classmethod
    def of(cls, source: JoinedFeatures) -> _Scan:
        """Read every image; features of `_COMPARED` of them, or somewhat fewer, are compared."""
        good, bad, moments, classes = list[ImageId](), list(source.bad), list[Moments](), True
        every = -(-len(source.image_ids) // _COMPARED)
        with Progress(len(source.image_ids), title="checking features", unit="image") as progress:
            for image in source.image_ids:
                try:
                    sample = read_sample(source, image)
                except ShardError as error:
                    bad.append(str(error))
                else:
                    if len(good) % every == 0:
                        moments.append(Moments.of(sample.regions))
                    good.append(image)
                    classes &= sample.classes is not None
                progress.advance()
        found = Moments.total(moments).fingerprint() if moments else UNKNOWN
        return cls(good, bad, found, classes)


def open_features(files: str, trained: FeatureSpec, reading: Reading) -> JoinedFeatures:
    """Feature files, in a format that shards are built from.

    Args:
        files: a path or a glob.
        trained: the features that a model was trained on.
        reading: what their formats leave open.

    Raises:
        ShardError: if the files are of no known format.
        ConfigError: if the features have another width.
    """
    source = JoinedFeatures(find_files(files), reading=reading)
    if source.dim != trained.dim:
        raise ConfigError(
            f"{files}: features of width {source.dim}, but the model was trained on "
            f"{trained.name!r} of width {trained.dim}; use features of the same extractor, or "
            "state another --layout"
        )
    return source


def read_sample(source: JoinedFeatures, image: ImageId) -> Sample:
    """The sample of one image, whatever numbers its file has.

    Raises:
        ShardError: naming the image, if its features have another width, or values that are not
            finite.
    """
    read = source.read(image)
    assert read.boxes is not None
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        regions = np.ascontiguousarray(read.regions, np.float32)
    sample = Sample(
        key=image_key(image),
        image_id=image,
        width=read.width,
        height=read.height,
        split="",
        captions=(),
        tokens=(),
        regions=regions,
        boxes=read.boxes,
        classes=read.classes,
    )
    check_features(read.position, sample, source.dim)
    return sample
