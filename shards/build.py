"""Builds shards from captions and features that lie in files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from shards import concepts as learning
from shards.feature_spec import FeatureSpec
from shards.formats import CAPTION_FORMATS, Annotation, find_files, recognise
from shards.formats.coco_captions import CocoCaptions
from shards.joined_features import JoinedFeatures
from shards.manifest import Manifest
from shards.schema import Array, Sample, ShardError
from shards.storage import STORAGES, loss, scale_of
from shards.survey import Loader, Survey, refuse_mixed, survey
from shards.writer import write

_CHUNK = 1 << 20
_BAD_SHOWN = 20
_LOSS_IMAGES = 256


@dataclass(frozen=True)
class Recipe:
    """What to build shards from.

    ``annotations``, ``features`` and ``sizes`` are paths or globs, one or several; ``sizes`` are
    COCO files that know images' sizes. ``feature_name`` is the features' format by default.
    ``concepts`` words are learned, 0 for none, of which each image keeps its ``concepts_kept``
    best. ``class_names`` is a text file, its line n (from 0) names class n. ``storage`` is fp16 or
    int8. At most ``max_bad`` images are left out because they or their features are bad.
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


class FileSource:
    """Captions joined with features: a `shards.jobs.Source`; ids are the images' annotations.

    ``left_out`` says what is wrong with each image that is left out.
    """

    def __init__(self, recipe: Recipe, workers: int | None) -> None:
        if recipe.storage not in STORAGES:
            raise ShardError(f"storage {recipe.storage!r}, expected {' or '.join(STORAGES)}")
        caption_files, size_files = find_files(recipe.annotations), find_files(recipe.sizes)
        feature_files = find_files(recipe.features)
        self._images = _annotations(caption_files)
        self._load = Loader(
            JoinedFeatures(feature_files, _sizes(size_files, self._images)),
            recipe.storage == "fp16",
        )
        self.name = caption_files[0].stem
        self.class_names = _class_names(recipe.class_names)
        found = self._survey(recipe, workers)
        self.features = self._stored(recipe, found)
        self._fingerprint = _fingerprint(
            recipe, [*caption_files, *size_files, *self._load.features.paths]
        )
        self._concepts = self._learn_concepts(recipe, found.pooled) if recipe.concepts else {}

    def fingerprint(self) -> str:
        """A hash of the files' contents and of the recipe's numbers."""
        return self._fingerprint

    def splits(self) -> dict[str, Sequence[Annotation]]:
        """The annotated images of each split, in the order of the annotation file."""
        names = dict.fromkeys(image.split for image in self._images)
        return {split: self._split(split) for split in names}

    def load(self, split: str, ids: Sequence[Annotation]) -> Iterator[Sample]:
        """The samples of these images."""
        for image in ids:
            yield replace(self._load(image), concepts=self._concepts.get(image.image_id))

    def _split(self, name: str) -> list[Annotation]:
        return [image for image in self._images if image.split == name]

    def _survey(self, recipe: Recipe, workers: int | None) -> Survey:
        """Look at all features, and leave out bad images, or refuse them if they are too many."""
        features = self._load.features
        for path in features.boxless:
            print(f"{path}: no boxes; every region gets the whole image as its box")
        total = len(self._images)
        bad = features.bad + [
            f"no features for image {image.image_id} ({image.file_name})"
            for image in self._images
            if image.image_id not in features
        ]
        _refuse_more(bad, recipe.max_bad, total)
        # Split by split, as they are written: a block then has to be read once.
        by_split = [image for images in self.splits().values() for image in images]
        there = [image for image in by_split if image.image_id in features]
        found = survey(self._load, there, pooling=recipe.concepts > 0, workers=workers)
        self.left_out = bad + list(found.bad.values())
        _refuse_more(self.left_out, recipe.max_bad, total)
        for line in self.left_out:
            print(f"bad: {line}")
        self._images = [image for image in there if image.image_id not in found.bad]
        refuse_mixed(features, found.moments)
        return found

    def _stored(self, recipe: Recipe, found: Survey) -> FeatureSpec:
        """The features' description; from here on, samples are loaded as they are stored."""
        features = self._load.features
        name = recipe.feature_name or features.format
        if recipe.storage == "fp16":
            return FeatureSpec(name, features.dim, 0)
        scale, step = scale_of(found.peaks), -(-len(self._images) // _LOSS_IMAGES)
        sample = self._images[::step]
        lost = loss((self._load(image).regions for image in sample), scale)
        print(f"int8: {lost}, over {len(sample)} images")
        self._load = replace(self._load, scale=scale)
        return FeatureSpec(name, features.dim, 0, scale=scale)

    def _learn_concepts(
        self, recipe: Recipe, found: dict[int, Array]
    ) -> dict[int, learning.Concepts]:
        """Each image's concepts by image id."""
        train = self._split("train")
        others = [image for image in self._images if image.split != "train"]
        words = learning.commonest_words((image.tokens for image in train), recipe.concepts)
        Y = _targets(train, words)
        pooled = np.stack([found[image.image_id] for image in train + others])
        X, X_others = pooled[: len(train)], pooled[len(train) :]
        scores = learning.cross_fit(X, Y)
        print(_precision("train, cross-fitted", scores, Y))
        if others:
            model = learning.fit(X, Y)
            scores = np.concatenate([scores, model(X_others)])
            val = np.array([image.split == "val" for image in others])
            Y_val = _targets(others, words)[val]
            print(_precision(f"val, λ {model.penalty:g}", model(X_others[val]), Y_val))
        kept = learning.best(scores, words, recipe.concepts_kept)
        return {image.image_id: pairs for image, pairs in zip(train + others, kept, strict=True)}


def build(
    recipe: Recipe, out: Path | str, *, samples_per_shard: int = 256, workers: int | None = None
) -> Manifest:
    """Build shards from files; a stopped build of the same input goes on where it was.

    Raises:
        ShardError: if the input is odd or incomplete, or the folder holds something else.
    """
    source = FileSource(recipe, workers)
    return write(
        source,
        out,
        samples_per_shard=samples_per_shard,
        workers=workers,
        left_out=source.left_out,
    )


def _annotations(files: Sequence[Path]) -> list[Annotation]:
    return [
        image for file in files for image in recognise(CAPTION_FORMATS, file)[1](file).annotations()
    ]


def _sizes(files: Sequence[Path], images: Sequence[Annotation]) -> dict[int, tuple[int, int]]:
    """Width and height by image id, of images that are annotated or in files of sizes."""
    known = [*images, *(image for file in files for image in CocoCaptions(file).annotations())]
    return {image.image_id: (image.width, image.height) for image in known if image.width}


def _refuse_more(bad: Sequence[str], most: int, images: int) -> None:
    """Refuse more bad input than ``most``, and name the first of it.

    Raises:
        ShardError: naming the first, and their number.
    """
    if len(bad) <= most:
        return
    for line in bad[:_BAD_SHOWN]:
        print(f"bad: {line}")
    raise ShardError(
        f"{bad[0]}; {len(bad)} bad, of {images} annotated images; mend them, or leave them out by "
        f"--max-bad {len(bad)}"
    )


def _targets(images: Sequence[Annotation], words: Sequence[str]) -> Array:
    said = ({token for tokens in image.tokens for token in tokens} for image in images)
    return learning.targets(said, words)


def _precision(name: str, scores: Array, Y: Array) -> str:
    by_image = learning.mean_average_precision(scores, Y)
    by_word = learning.mean_average_precision(scores.T, Y.T)
    return (
        f"concepts ({name}): mean average precision {by_image:.3f} over {Y.shape[0]} images, "
        f"{by_word:.3f} over {Y.shape[1]} words"
    )


def _class_names(path: str | None) -> tuple[str, ...]:
    if path is None:
        return ()
    return tuple(find_files(path)[0].read_text(encoding="utf-8").splitlines())


def _fingerprint(recipe: Recipe, paths: Sequence[Path]) -> str:
    """Hash of the recipe's numbers and of all files' names and contents."""
    given = ("annotations", "features", "class_names", "sizes", "max_bad")
    settings = {**asdict(recipe), **dict.fromkeys(given)}
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.name.encode())
                with file.open("rb") as content:
                    while chunk := content.read(_CHUNK):
                        digest.update(chunk)
    return digest.hexdigest()
