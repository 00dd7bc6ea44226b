"""Builds shards from captions and features that lie in files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from shards import concepts as learning
from shards.formats import (
    CAPTION_FORMATS,
    FEATURE_FORMATS,
    Annotation,
    FeatureSource,
    find_files,
    recognise,
)
from shards.index import Features, Manifest
from shards.jobs import CAPTIONED_SPLITS
from shards.schema import Array, Sample, ShardError
from shards.writer import write

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Recipe:
    """What to build shards from.

    ``annotations`` and ``features`` are a path or a glob; ``feature_name`` is the features'
    format by default. ``concepts`` words are learned, 0 for none, of which each image keeps its
    ``concepts_kept`` best. ``class_names`` is a text file, its line n (from 0) names class n.
    """

    annotations: str
    features: str
    feature_name: str | None = None
    concepts: int = 500
    concepts_kept: int = 49
    class_names: str | None = None


class FileSource:
    """Captions joined with features: a `shards.jobs.Source`; ids are the images' annotations."""

    def __init__(self, recipe: Recipe) -> None:
        caption_files, feature_files = find_files(recipe.annotations), find_files(recipe.features)
        caption_format = recognise(CAPTION_FORMATS, caption_files)[1]
        feature_format, open_features = recognise(FEATURE_FORMATS, feature_files)
        self._features: FeatureSource = open_features(feature_files)
        self._images = caption_format(caption_files).annotations()
        self._refuse_missing(recipe.features)
        self.name = caption_files[0].stem
        self.features = Features(recipe.feature_name or feature_format, self._features.dim, 0)
        self.class_names = _class_names(recipe.class_names)
        self._fingerprint = _fingerprint(recipe, [*caption_files, *feature_files])
        self._concepts = self._learn_concepts(recipe) if recipe.concepts else {}

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
            found = self._features.read(image.image_id)
            yield Sample(
                key=f"{image.image_id:012d}",
                image_id=image.image_id,
                width=image.width or found.width,
                height=image.height or found.height,
                split=split,
                captions=image.captions,
                tokens=image.tokens,
                regions=found.regions,
                boxes=found.boxes,
                classes=found.classes,
                concepts=self._concepts.get(image.image_id),
            )

    def _split(self, name: str) -> list[Annotation]:
        return [image for image in self._images if image.split == name]

    def _refuse_missing(self, features: str) -> None:
        """Refuse now what a worker would find only in the middle of a long build."""
        if missing := [image for image in self._images if image.image_id not in self._features]:
            raise ShardError(
                f"{features}: no features for image {missing[0].image_id} "
                f"({missing[0].file_name}), {len(missing)} of {len(self._images)} images lack them"
            )
        for image in self._images:
            if not image.captions and image.split in CAPTIONED_SPLITS:
                raise ShardError(
                    f"image {image.image_id} ({image.file_name}): an image without captions in "
                    f"split {image.split}; remove it or move it to split test"
                )

    def _learn_concepts(self, recipe: Recipe) -> dict[int, learning.Concepts]:
        """Each image's concepts by image id."""
        train = self._split("train")
        others = [image for image in self._images if image.split != "train"]
        words = learning.commonest_words((image.tokens for image in train), recipe.concepts)
        Y = _targets(train, words)
        pooled = self._pool(train + others)
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

    def _pool(self, images: list[Annotation]) -> Array:
        progress = tqdm(images, desc="pooling features for concepts", unit="image")
        return np.stack(
            [learning.pool(self._features.read(image.image_id).regions) for image in progress]
        )


def build(
    recipe: Recipe, out: Path | str, *, samples_per_shard: int = 256, workers: int | None = None
) -> Manifest:
    """Build shards from files; a stopped build of the same input goes on where it was.

    Raises:
        ShardError: if the input is odd or incomplete, or the folder holds something else.
    """
    source = FileSource(recipe)
    return write(source, out, samples_per_shard=samples_per_shard, workers=workers)


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
    settings = {**asdict(recipe), "annotations": "", "features": "", "class_names": ""}
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.name.encode())
                with file.open("rb") as content:
                    while chunk := content.read(_CHUNK):
                        digest.update(chunk)
    return digest.hexdigest()
