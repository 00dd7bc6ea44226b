"""Builds shards from files with captions and files with region features."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from shards.build_concepts import BuildConcepts, apply_predictor, learn_concepts
from shards.build_set import SetConfig, SetFromFiles
from shards.caption_tokens import TokenisedCaptions, read_captions
from shards.class_names import names_problem
from shards.class_vectors import CLASSES_KEPT, ClassVectors
from shards.extract_annotated import EXTRACTED, extract_annotated
from shards.extractors import PictureFeatures
from shards.feature_scan import (
    FeatureScan,
    SampleLoader,
    check_bad_count,
    check_one_extractor,
    print_boxes,
    scan_features,
)
from shards.feature_sets import OWN
from shards.feature_spec import FeatureSpec
from shards.file_hash import update_with_files
from shards.fingerprint import Moments
from shards.formats import Annotation, find_files
from shards.formats.coco_captions import CocoCaptions
from shards.formats.records import read_lines
from shards.joined_features import JoinedFeatures
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
from shards.predict_concepts import open_predictor
from shards.reading import BY_FORMAT, Reading
from shards.schema import Sample, ShardError
from shards.stated_extractor import find_extractor
from shards.storage import STORAGES, int8_scale, quantization_error
from shards.tokenisers import PTB_LIKE
from shards.write_set import write_set
from shards.writer import write

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
        concepts_from: folder of a run or of shards, whose concept predictor is applied to all
            images, instead of learning one.
        class_names: path of a text file with the names of the classes, without the background.
        classes_kept: likeliest classes of a region; None: all.
        sizes: paths or globs of COCO files that hold the images' sizes.
        storage: fp16 or int8.
        max_bad: largest number of bad images; they are left out.
        images: folder of pictures, whose features are extracted if there are no feature files, and
            compared with those if there are.
        backbone: that extracts them; with feature files, the one that made them.
        projection: path of the projection of the backbone's features, if there is one.
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
    concepts_from: str | None = None
    class_names: str | None = None
    classes_kept: int | None = CLASSES_KEPT
    sizes: str | Sequence[str] = ()
    storage: str = "fp16"
    max_bad: int = 0
    images: str | None = None
    backbone: str | None = None
    projection: str | None = None
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
        predictor: the file of the predictor that made the concepts; None if there are none.
        images: all that are written, with their ids as the features know them.
    """

    def __init__(self, config: BuildConfig, workers: int | None) -> None:
        if config.storage not in STORAGES:
            raise ShardError(f"storage {config.storage!r}, expected {' or '.join(STORAGES)}")
        caption_files, size_files = find_files(config.annotations), find_files(config.sizes)
        feature_files = find_files(config.features)
        captions = read_captions(caption_files, config.tokeniser, config.language)
        self.text, self.wordless = captions.text, captions.left_out
        features = JoinedFeatures(feature_files, reading=config.reading)
        classes = ClassVectors(features.class_count > 0, config.classes_kept)
        self._load = SampleLoader(features, classes, config.storage == "fp16")
        self._annotated = len(captions.images)
        self._images = captions_with_features = self._pair(config, captions)
        features.sizes = image_sizes(self._images, _read_sizes(size_files), config.pair_by)
        self._images = with_prefix(self._images, config.id_prefix)
        self.name = caption_files[0].stem
        names = _read_class_names(config.class_names)
        self.class_names = classes.names(names)
        _check_class_names(config, names, features.class_count, exact=True)
        given = open_predictor(config.concepts_from) if config.concepts_from else None
        self._extractor = find_extractor(
            features,
            config.backbone,
            config.projection,
            captions_with_features,
            Path(config.images) if config.images else None,
        )
        scan = self._scan(config, workers)
        _check_class_names(config, names, scan.classes)
        self.features = self._choose_storage(config, scan)
        self._fingerprint = _fingerprint(
            config, [*caption_files, *size_files, *self._load.features.paths], given
        )
        concepts = self._concepts_of(config, given, scan)
        self._concepts, self.predictor = concepts.by_image, concepts.predictor
        kept = {image.image_id for image in self._images}
        prefixed = with_prefix(captions_with_features, config.id_prefix)
        pairs = zip(captions_with_features, prefixed, strict=True)
        self.images = [image for image, named in pairs if named.image_id in kept]

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
        check_bad_count(self.left_out, config.max_bad, f"{self._annotated} annotated images")
        return kept

    def _scan(self, config: BuildConfig, workers: int | None) -> FeatureScan:
        """Check all features; leave out bad images, unless there are too many."""
        features = self._load.features
        # Split by split, as they will be written, so that each npz block is read once.
        by_split = [image for images in self.splits().values() for image in images]
        with_features = [image for image in by_split if image.feature_id in features]
        features.check_reading(image.feature_id for image in with_features)
        pooling = config.concepts > 0 or config.concepts_from is not None
        scan = scan_features(self._load, with_features, pooling=pooling, workers=workers)
        self.left_out += scan.bad.values()
        check_bad_count(self.left_out, config.max_bad, f"{self._annotated} annotated images")
        print_boxes(features, scan)
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
        extractor = self._extractor
        made_by = extractor.feature_name if extractor else features.format
        spec = FeatureSpec(config.feature_name or made_by, features.dim, 0, extractor=extractor)
        if config.storage == "fp16":
            return spec
        scale, step = int8_scale(scan.max_abs), -(-len(self._images) // _ERROR_IMAGES)
        images = self._images[::step]
        error = quantization_error((self._load(image).regions for image in images), scale)
        print(f"int8: {error}, over {len(images)} images")
        self._load = replace(self._load, scale=scale)
        return replace(spec, scale=scale)

    def _concepts_of(
        self, config: BuildConfig, given: bytes | None, scan: FeatureScan
    ) -> BuildConcepts:
        """The concepts of all images, by the given predictor or a new one."""
        if not (given or config.concepts):
            return BuildConcepts({}, None)
        found = Moments.total(list(scan.moments.values())).fingerprint()
        if given and config.concepts_from:
            return apply_predictor(config.concepts_from, given, scan.pooled, found)
        count, kept = config.concepts, config.concepts_kept
        return learn_concepts(self._images, scan.pooled, found, count, kept)


def build(
    config: BuildConfig,
    out: Path | str,
    *,
    samples_per_shard: int = 256,
    workers: int | None = None,
    own: str = OWN,
    further: Sequence[SetConfig] = (),
) -> Manifest:
    """Build shards from files; a stopped build of the same input continues.

    Args:
        config: the input and the settings.
        out: the folder.
        samples_per_shard: of all shards except the last of each split.
        workers: processes, one per CPU by default.
        own: name of the features, as a feature set.
        further: other feature sets of the same images.

    Raises:
        ShardError: if the input is not valid or incomplete, or the folder holds something else.
    """
    if config.images and not config.features:
        config = _with_extracted(config, Path(out), workers)
    source = FileSource(config, workers)
    # Before anything is written, so that a mistake in the last set shows at once.
    sets = [SetFromFiles(more, source.images, config.id_prefix, workers) for more in further]
    manifest = write(
        source,
        out,
        samples_per_shard=samples_per_shard,
        workers=workers,
        left_out=[*source.wordless, *source.left_out],
        text=source.text,
        predictor=source.predictor,
        own=own,
    )
    shutil.rmtree(Path(out) / EXTRACTED, ignore_errors=True)
    for more in sets:
        manifest = write_set(Path(out), more, workers=workers)
    return manifest


def _with_extracted(config: BuildConfig, out: Path, workers: int | None) -> BuildConfig:
    """The build of the features of ``config.images``, which are extracted first."""
    assert config.images
    assert config.backbone
    captions = read_captions(find_files(config.annotations), config.tokeniser, config.language)
    # Read again later; a mistake in these should not show after hours of extraction.
    find_files(config.sizes)
    _read_class_names(config.class_names)
    projection = Path(config.projection) if config.projection else None
    folder = extract_annotated(
        captions.images,
        Path(config.images),
        partial(PictureFeatures.open, config.backbone, projection),
        out / EXTRACTED,
        config.max_bad,
        workers or 1,
    )
    by_id = replace(config, features=[str(folder)], pair_by="id")
    return replace(by_id, images=None, backbone=None, projection=None)


def _read_sizes(files: Sequence[Path]) -> list[Annotation]:
    return [image for file in files for image in CocoCaptions(file).annotations()]


def _check_class_names(
    config: BuildConfig, names: Sequence[str], classes: int, *, exact: bool = False
) -> None:
    """Refuse class names that do not fit the classes; raises a ShardError that names their file."""
    if problem := names_problem(names, classes, exact=exact):
        raise ShardError(f"{config.class_names}: {problem}")


def _read_class_names(path: str | None) -> tuple[str, ...]:
    if path is None:
        return ()
    return tuple(read_lines(find_files(path)[0]))


def _fingerprint(config: BuildConfig, paths: Sequence[Path], predictor: bytes | None) -> str:
    """Hash of the settings, of all files' names and contents, and of a given predictor."""
    # Paths may differ for the same content, and max_bad does not change what is written.
    not_hashed = ("annotations", "features", "class_names", "sizes", "max_bad", "images")
    settings = {**asdict(config), **dict.fromkeys(not_hashed)}
    del settings["concepts_from"]  # its content counts, and older builds know no such setting
    digest = hashlib.sha256(json.dumps(settings).encode() + (predictor or b""))
    update_with_files(digest, paths)
    return digest.hexdigest()
