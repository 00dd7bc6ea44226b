"""A further feature set of a folder of shards, from feature files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shards.class_vectors import ClassVectors
from shards.feature_scan import (
    SampleLoader,
    check_bad_count,
    check_one_extractor,
    print_boxes,
    scan_features,
)
from shards.feature_spec import FeatureSpec
from shards.file_hash import update_with_files
from shards.formats import Annotation, find_files
from shards.joined_features import JoinedFeatures
from shards.json_types import ImageId
from shards.manifest import Manifest
from shards.pairing import FeatureNames, check_any_pair, describe, image_sizes, pair, with_prefix
from shards.reading import BY_FORMAT, Reading
from shards.schema import RegionSet, decode_sample_json
from shards.stated_extractor import find_extractor
from shards.storage import int8_scale
from shards.write_set import SetSample, check_new, write_set


@dataclass(frozen=True)
class SetConfig:
    """Feature files of a set, and how they are read and stored.

    Args:
        name: of the set.
        features: paths or globs of feature files.
        feature_name: of the extractor; the name of the features' format by default.
        storage: fp16 or int8.
        max_lacking: largest number of images that may lack the set.
        backbone: that made the features.
        projection: path of the projection of the backbone's features, if there is one.
        pair_by: how images find their features, see `shards.pairing.pair`.
        reading: what the user states about the feature files.
    """

    name: str
    features: Sequence[str]
    feature_name: str | None = None
    storage: str = "fp16"
    max_lacking: int = 0
    backbone: str | None = None
    projection: str | None = None
    pair_by: str | None = None
    reading: Reading = BY_FORMAT


class SetFromFiles:
    """The features of images that are in files: a `shards.write_set.SetSource`.

    Args:
        config: the files.
        images: of the shards, with their ids and file names as the features know them.
        prefix: text in front of the images' ids in the shards.
        workers: processes.

    Raises:
        ShardError: if too many images have no features, or bad ones.
    """

    def __init__(
        self,
        config: SetConfig,
        images: Sequence[Annotation],
        prefix: str = "",
        workers: int | None = None,
    ) -> None:
        self.name = config.name
        features = JoinedFeatures(find_files(config.features), reading=config.reading)
        names = FeatureNames.of(features.image_ids)
        paired = pair(images, names, config.pair_by)
        print(f"{config.name}: {describe(paired, names, config.pair_by)}")
        check_any_pair(paired, names, features.paths[0])
        features.sizes = image_sizes(paired, (), config.pair_by)
        found = [image for image in paired if image.feature_id in features]
        features.check_reading(image.feature_id for image in found)
        load = SampleLoader(features, ClassVectors(False), config.storage == "fp16")
        scan = scan_features(load, found, pooling=False, workers=workers)
        lacking = [
            f"no {config.name} features for image {image.image_id} ({image.file_name})"
            for image in paired
            if image.feature_id not in features
        ]
        lacking += [*features.bad, *scan.bad.values()]
        check_bad_count(lacking, config.max_lacking, f"{len(images)} images", "--max-lacking")
        for line in lacking:
            print(f"lacking: {line}")
        print_boxes(features, scan)
        check_one_extractor(features, scan.moments)
        extractor = find_extractor(features, config.backbone, config.projection)
        made_by = extractor.feature_name if extractor else features.format
        spec = FeatureSpec(config.feature_name or made_by, features.dim, 0, extractor=extractor)
        if config.storage == "int8":
            load = replace(load, scale=int8_scale(scan.max_abs))
        self.features = replace(spec, scale=load.scale)
        self._load = load
        self._config = config
        prefixed = zip(with_prefix(paired, prefix), paired, strict=True)
        self._images: Mapping[ImageId, Annotation] = {
            shown.image_id: image
            for shown, image in prefixed
            if image.feature_id in features and image.image_id not in scan.bad
        }

    def fingerprint(self) -> str:
        """A hash of the files' contents and of the settings."""
        settings = {**asdict(self._config), "features": None, "max_lacking": None}
        digest = hashlib.sha256(json.dumps(settings).encode())
        update_with_files(digest, self._load.features.paths)
        return digest.hexdigest()

    def load(self, samples: Sequence[SetSample]) -> Iterator[RegionSet | None]:
        for sample in samples:
            image = self._images.get(sample.image_id)
            loaded = self._load(image) if image else None
            yield RegionSet(loaded.regions, loaded.boxes) if loaded else None


def add_set(config: SetConfig, root: Path, workers: int | None = None) -> Manifest:
    """Add a feature set from files to a folder of shards, whose images they know by their ids.

    Raises:
        ShardError: if the folder has a set of this name, or features are missing or not valid.
    """
    manifest = Manifest.load(root)
    check_new(manifest, config.name)
    return write_set(
        root, SetFromFiles(config, _images(manifest), workers=workers), workers=workers
    )


def _images(manifest: Manifest) -> list[Annotation]:
    """The images of a folder of shards, without captions; their file names are not known."""
    return [
        Annotation(image, str(image), "", (), (), known["width"], known["height"])
        for split in dict.fromkeys(shard.split for shard in manifest.shards)
        for key, data in manifest.read(split, "json")
        for known in [decode_sample_json(key, data)]
        for image in [known["image_id"]]
    ]
