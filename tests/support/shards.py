"""Sources of tiny shards, and damage to shards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from capdist.config.data import DataConfig
from capdist.data.training_captions import TrainingCaptions
from capdist.vocab import Vocabulary
from shards.concept_files import ConceptSet, write_concept_file
from shards.feature_spec import FeatureSpec
from shards.manifest import Manifest
from shards.schema import CLASS_DTYPE, Phrase, RegionSet, Sample
from shards.write_set import SetSample

WORDS = ("a", "red", "blue", "dog", "cat", "runs", "sits", "near", "two", "balls")


@dataclass(frozen=True)
class TinySource:
    """Images with 1 to 5 regions, 1 to 3 captions and 0 to 4 concepts, from their ids alone."""

    sizes: tuple[tuple[str, int], ...] = (("train", 53), ("val", 7), ("test", 5))
    dim: int = 6
    name: str = "tiny"
    class_names: tuple[str, ...] = ()

    @property
    def features(self) -> FeatureSpec:
        return FeatureSpec("tiny-v1", self.dim, 5)

    def fingerprint(self) -> str:
        return f"{self.sizes}{self.dim}"

    def splits(self) -> dict[str, Sequence[int]]:
        firsts = {"train": 0, "val": 1000, "test": 2000}
        return {name: range(firsts[name], firsts[name] + size) for name, size in self.sizes}

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for number in ids:
            yield tiny_sample(number, split, self.dim)


def tiny_sample(number: int, split: str = "train", dim: int = 6) -> Sample:
    rng = np.random.default_rng(number)
    regions = 1 + number % 5
    tokens = tuple(
        tuple(rng.choice(WORDS, 2 + (number + caption) % 6)) for caption in range(1 + number % 3)
    )
    return Sample(
        key=f"{number:012d}",
        image_id=number,
        width=64,
        height=48,
        split=split,
        captions=tuple(" ".join(caption).capitalize() + "." for caption in tokens),
        tokens=tuple(tuple(str(word) for word in caption) for caption in tokens),
        regions=rng.standard_normal((regions, dim)).astype(np.float16),
        boxes=np.tile(np.array([0.1, 0.2, 0.6, 0.7], np.float32), (regions, 1)),
        concepts=tuple((WORDS[(number + i) % 10], 0.9 - 0.1 * i) for i in range(number % 5)),
    )


@dataclass(frozen=True)
class GridSource:
    """A further feature set of tiny images: 1 to 4 cells, from their ids alone.

    The first ``lacking`` training images lack it, and loading stops at image ``stops_at``.
    """

    dim: int = 4
    lacking: int = 0
    name: str = "grid"
    seed: int = 0
    scale: tuple[float, ...] = ()
    stops_at: int | None = None

    @property
    def features(self) -> FeatureSpec:
        return FeatureSpec("tiny-grid", self.dim, 0, scale=self.scale)

    def fingerprint(self) -> str:
        return f"{self.dim} {self.lacking} {self.seed}"

    def load(self, samples: Sequence[SetSample]) -> Iterator[RegionSet | None]:
        for sample in samples:
            number = int(sample.image_id)
            if number == self.stops_at:
                raise RuntimeError("stopped")
            yield None if number < self.lacking else self.cells(number)

    def cells(self, number: int) -> RegionSet:
        rng = np.random.default_rng((self.seed, number))
        count = 1 + number % 4
        regions = rng.standard_normal((count, self.dim))
        stored = regions * 9 if self.scale else regions
        boxes = np.tile(np.array([0, 0, number % 7 / 10, 0.5], np.float32), (count, 1))
        return RegionSet(stored.astype(self.features.stored_dtype), boxes)


NAMES = {"dog": "dog", "cat": "cat", "balls": "ball"}


@dataclass(frozen=True)
class GroundedSource(TinySource):
    """Tiny images whose boxes differ, with classes, and 0 to 3 boxes for every noun."""

    class_names: tuple[str, ...] = ("background", *NAMES.values())

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            rng = np.random.default_rng(sample.image_id)
            regions = len(sample.regions)
            classes = np.zeros((regions, 2), CLASS_DTYPE)
            classes["id"], classes["prob"] = rng.integers(0, 4, (regions, 2)), [0.75, 0.125]
            phrases = tuple(
                Phrase(number, at, at + 1, at, NAMES[word], boxes(rng, int(rng.integers(0, 4))))
                for number, caption in enumerate(sample.tokens)
                for at, word in enumerate(caption)
                if word in NAMES
            )
            seen = np.array(boxes(rng, regions), np.float32)
            yield replace(sample, boxes=seen, classes=classes, grounding=phrases)


def boxes(rng: np.random.Generator, count: int) -> tuple[tuple[float, float, float, float], ...]:
    """Boxes of some size, as shares of the picture's."""
    low = rng.uniform(0, 0.5, (count, 2))
    both = np.hstack([low, low + rng.uniform(0.2, 0.5, (count, 2))])
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in both.tolist())


def count_words(manifest: Manifest, min_count: int) -> Vocabulary:
    """The vocabulary of the training captions."""
    return TrainingCaptions.read(manifest, DataConfig(shards="", min_count=min_count)).vocab


def damaged(manifest: Manifest, tmp_path: Path) -> tuple[Manifest, Path]:
    root = tmp_path / "shards"
    shutil.copytree(manifest.root, root)
    copy = Manifest.load(root)
    return copy, root / copy.split("train")[2].name


def with_concepts(manifest: Manifest, root: Path, lost: str | None = None) -> Manifest:
    """The same shards with concepts beside the tars, one for each sample but the lost one."""
    files = {}
    for shard in manifest.shards:
        concepts = {
            entry.key: (("dog" if int(entry.key) % 2 else "cat", 0.5), ("nowhere", 0.25))
            for entry in manifest.index(shard)
            if entry.key != lost
        }
        files[shard.name] = write_concept_file(root, shard.name, shard.sha256, concepts)
    ConceptSet(root, "a detector", {}, 2, files).save()
    return manifest.with_concepts(ConceptSet.load(root))
