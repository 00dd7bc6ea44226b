"""Builds shards from files with captions and files with region features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from shards import concepts
from shards.caption_tokens import TokenisedCaptions, read_captions
from shards.class_names import names_problem
from shards.feature_scan import FeatureScan, SampleLoader, check_one_extractor, scan_features
from shards.feature_spec import FeatureSpec
from shards.formats import Annotation, find_files
from shards.formats.coco_captions import CocoCaptions
from shards.formats.records import read_lines
from shards.joined_features import JoinedFeatures
from shards.json_types import ImageId
from shards.manifest import Manifest
from shards.pairing import (
    FeatureNames,
    check_any_pair,
    describe,
    image_sizes,
    leave_out_repeated,
    pair,
    with_prefix,
)
from shards.reading import BY_FORMAT, Reading
from shards.schema import Array, Sample, ShardError
from shards.storage import STORAGES, int8_scale, quantization_error
from shards.tokenisers import PTB_LIKE
from shards.writer import write

_READ_BYTES = 1 << 20
_BAD_LINES_SHOWN = 20
#: Images from which the error of int8 storage is estimated.
_ERROR_IMAGES = 256


@dataclass(frozen=True)
class BuildConfig:
    """The input and the settings of a build.

    Args:
        annotations: paths or globs of caption files.
        features: paths or globs of feature files.
        feature_name: of the extractor; the name of the features' format by default.
        concepts: number of words to learn as concepts, 0 for none.
        concepts_kept: concepts per image, the best first.
        class_names: path of a text file, whose line n (from 0) is the name of class n.
        sizes: paths or globs of COCO files that hold the images' sizes.
        storage: fp16 or int8.
        max_bad: largest number of bad images; they are left out.
        tokeniser: of the captions, by name.
        language: of the captions, see `read_captions`.
        pair_by: how captions find their features, see `shards.pairing.pair`.
        id_prefix: text that the ids of all images get in front.
        reading: what the user states about the feature files.
    """

    annotations: str | Sequence[str]
    features: str | Sequence[str]
    feature_name: str | None = None
    concepts: int = 500
    concepts_kept: int = 49
    class_names: str | None = None
    sizes: str | Sequence[str] = ()
    storage: str = "fp16"
    max_bad: int = 0
    tokeniser: str = PTB_LIKE
    language: str | None = None
    pair_by: str | None = None
    id_prefix: str = ""
    reading: Reading = BY_FORMAT


class FileSource:
    """Captions joined with features: a `shards.jobs.SampleSource` whose ids are `Annotation`s.

    Attributes:
        left_out: what is wrong with each image that is left out.
        wordless: the captions that are left out.
        text: tokeniser and language of the captions.
    """

    def __init__(self, config: BuildConfig, workers: int | None) -> None:
        if config.storage not in STORAGES:
            raise ShardError(f"storage {config.storage!r}, expected {' or '.join(STORAGES)}")
        caption_files, size_files = find_files(config.annotations), find_files(config.sizes)
        feature_files = find_files(config.features)
        captions = read_captions(caption_files, config.tokeniser, config.language)
        self.text, self.wordless = captions.text, captions.left_out
        features = JoinedFeatures(feature_files, reading=config.reading)
        self._load = SampleLoader(features, config.storage == "fp16")
        self._annotated = len(captions.images)
        self._images = self._pair(config, captions)
        features.sizes = image_sizes(self._images, _read_sizes(size_files), config.pair_by)
        self._images = with_prefix(self._images, config.id_prefix)
        self.name = caption_files[0].stem
        self.class_names = _read_class_names(config.class_names)
        _check_class_names(config, self.class_names, features.class_count, exact=True)
        scan = self._scan(config, workers)
        _check_class_names(config, self.class_names, scan.classes)
        self.features = self._choose_storage(config, scan)
        self._fingerprint = _fingerprint(
            config, [*caption_files, *size_files, *self._load.features.paths]
        )
        self._concepts = self._learn_concepts(config, scan.pooled) if config.concepts else {}

    def fingerprint(self) -> str:
        """A hash of the files' contents and of the settings."""
        return self._fingerprint

    def splits(self) -> dict[str, Sequence[Annotation]]:
        """The images of each split, in the order of the annotation files."""
        names = dict.fromkeys(image.split for image in self._images)
        return {split: self._split(split) for split in names}

    def load(self, split: str, ids: Sequence[Annotation]) -> Iterator[Sample]:
        for image in ids:
            yield replace(self._load(image), concepts=self._concepts.get(image.image_id))

    def _split(self, name: str) -> list[Annotation]:
        return [image for image in self._images if image.split == name]

    def _pair(self, config: BuildConfig, captions: TokenisedCaptions) -> list[Annotation]:
        """The images with the ids of their features; prints how they are paired.

        Images that an earlier one repeats are left out, unless there are too many.
        """
        features, images = self._load.features, captions.images
        names = FeatureNames.of(features.image_ids)
        paired = pair(images, names, config.pair_by)
        print("\n".join([describe(paired, names, config.pair_by), *captions.notes]))
        check_any_pair(paired, names, features.paths[0])
        kept, repeated = leave_out_repeated(paired)
        missing = [
            f"no features for image {image.image_id} ({image.file_name})"
            for image in kept
            if image.feature_id not in features
        ]
        self.left_out = features.bad + repeated + missing
        _check_bad_count(self.left_out, config.max_bad, self._annotated)
        return kept

    def _scan(self, config: BuildConfig, workers: int | None) -> FeatureScan:
        """Check all features; leave out bad images, unless there are too many."""
        features = self._load.features
        for path in features.paths_without_boxes:
            print(f"{path}: no boxes; every region gets the whole image as its box")
        # Split by split, as they will be written, so that each npz block is read once.
        by_split = [image for images in self.splits().values() for image in images]
        with_features = [image for image in by_split if image.feature_id in features]
        features.check_reading(image.feature_id for image in with_features)
        pooling = config.concepts > 0
        scan = scan_features(self._load, with_features, pooling=pooling, workers=workers)
        self.left_out += scan.bad.values()
        _check_bad_count(self.left_out, config.max_bad, self._annotated)
        if scan.clipped:
            count, images = sum(scan.clipped.values()), len(scan.clipped)
            print(f"clipped {count} boxes of {images} images to the edges of the image")
        for line in self.left_out:
            print(f"bad: {line}")
        self._images = [image for image in with_features if image.image_id not in scan.bad]
        if not self._images:
            raise ShardError(f"{self.left_out[0]}; no image is left; correct the features")
        check_one_extractor(features, scan.moments)
        return scan

    def _choose_storage(self, config: BuildConfig, scan: FeatureScan) -> FeatureSpec:
        """The features' description; from here on, samples are loaded as they will be stored."""
        features = self._load.features
        name = config.feature_name or features.format
        if config.storage == "fp16":
            return FeatureSpec(name, features.dim, 0)
        scale, step = int8_scale(scan.max_abs), -(-len(self._images) // _ERROR_IMAGES)
        images = self._images[::step]
        error = quantization_error((self._load(image).regions for image in images), scale)
        print(f"int8: {error}, over {len(images)} images")
        self._load = replace(self._load, scale=scale)
        return FeatureSpec(name, features.dim, 0, scale=scale)

    def _learn_concepts(
        self, config: BuildConfig, pooled_by_id: dict[ImageId, Array]
    ) -> dict[ImageId, concepts.Concepts]:
        """Concepts by image id, as `shards.concepts` describes; prints their precision."""
        train = self._split("train")
        others = [image for image in self._images if image.split != "train"]
        words = concepts.commonest_words((image.tokens for image in train), config.concepts)
        Y = _word_targets(train, words)
        pooled = np.stack([pooled_by_id[image.image_id] for image in train + others])
        X, X_others = pooled[: len(train)], pooled[len(train) :]
        scores = concepts.cross_fit(X, Y)
        print(_precision_line("train, cross-fitted", scores, Y))
        if others:
            model = concepts.fit(X, Y)
            scores = np.concatenate([scores, model(X_others)])
            val = np.array([image.split == "val" for image in others])
            Y_val = _word_targets(others, words)[val]
            print(_precision_line(f"val, λ {model.penalty:g}", model(X_others[val]), Y_val))
        kept = concepts.top_concepts(scores, words, config.concepts_kept)
        return {image.image_id: pairs for image, pairs in zip(train + others, kept, strict=True)}


def build(
    config: BuildConfig,
    out: Path | str,
    *,
    samples_per_shard: int = 256,
    workers: int | None = None,
) -> Manifest:
    """Build shards from files; a stopped build of the same input continues.

    Raises:
        ShardError: if the input is not valid or incomplete, or the folder holds something else.
    """
    source = FileSource(config, workers)
    return write(
        source,
        out,
        samples_per_shard=samples_per_shard,
        workers=workers,
        left_out=[*source.wordless, *source.left_out],
        text=source.text,
    )


def _read_sizes(files: Sequence[Path]) -> list[Annotation]:
    return [image for file in files for image in CocoCaptions(file).annotations()]


def _check_class_names(
    config: BuildConfig, names: Sequence[str], classes: int, *, exact: bool = False
) -> None:
    """Refuse class names that do not fit the classes; raises a ShardError that names their file."""
    if problem := names_problem(names, classes, exact=exact):
        raise ShardError(f"{config.class_names}: {problem}")


def _check_bad_count(bad: Sequence[str], max_bad: int, image_count: int) -> None:
    """Refuse more than ``max_bad`` bad lines; prints the first of them.

    Raises:
        ShardError: with the first line and their number.
    """
    if len(bad) <= max_bad:
        return
    for line in bad[:_BAD_LINES_SHOWN]:
        print(f"bad: {line}")
    raise ShardError(
        f"{bad[0]}; {len(bad)} bad, of {image_count} annotated images; correct them, or leave them "
        f"out with --max-bad {len(bad)}"
    )


def _word_targets(images: Sequence[Annotation], words: Sequence[str]) -> Array:
    tokens = ({token for tokens in image.tokens for token in tokens} for image in images)
    return concepts.word_targets(tokens, words)


def _precision_line(name: str, scores: Array, Y: Array) -> str:
    by_image = concepts.mean_average_precision(scores, Y)
    by_word = concepts.mean_average_precision(scores.T, Y.T)
    return (
        f"concepts ({name}): mean average precision {by_image:.3f} over {Y.shape[0]} images, "
        f"{by_word:.3f} over {Y.shape[1]} words"
    )


def _read_class_names(path: str | None) -> tuple[str, ...]:
    if path is None:
        return ()
    return tuple(read_lines(find_files(path)[0]))


def _fingerprint(config: BuildConfig, paths: Sequence[Path]) -> str:
    """Hash of the settings and of all files' names and contents."""
    # Paths may differ for the same content, and max_bad does not change what is written.
    not_hashed = ("annotations", "features", "class_names", "sizes", "max_bad")
    settings = {**asdict(config), **dict.fromkeys(not_hashed)}
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                name = file.relative_to(path).as_posix() if path.is_dir() else file.name
                digest.update(name.encode())
                with file.open("rb") as content:
                    while chunk := content.read(_READ_BYTES):
                        digest.update(chunk)
    return digest.hexdigest()
