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
from shards.schema import CLASS_DTYPE, Phrase, Sample

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
