"""Samples and a source of samples, for tests."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from shards.feature_spec import FeatureSpec
from shards.schema import CLASS_DTYPE, Phrase, Sample

FLICKR8K = os.environ.get("CAPDIST_FLICKR8K", "")

needs_flickr8k = pytest.mark.skipif(
    not FLICKR8K, reason="set CAPDIST_FLICKR8K to the folder of the Flickr8k set to run this"
)


def contents(root: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {path.name: path.read_bytes() for path in root.iterdir()}


def make_sample(i: int, split: str = "train", dim: int = 4) -> Sample:
    """A sample with 1 to 3 regions; all its members depend on i."""
    count = i % 3 + 1
    rng = np.random.default_rng(i)
    box = np.array([0.0, 0.25, 0.5, 1.0], dtype=np.float32)
    classes = np.zeros((count, 2), dtype=CLASS_DTYPE)
    classes["id"] = [1, 0]
    classes["prob"] = [0.75, 0.25]
    return Sample(
        key=f"{i:012d}",
        image_id=i,
        width=640,
        height=480,
        split=split,
        captions=(f"A dog runs {i}.", "Ein Hündchen."),
        tokens=(("a", "dog", "runs", str(i)), ("ein", "hündchen")),
        regions=rng.normal(size=(count, dim)).astype(np.float16),
        boxes=np.tile(box, (count, 1)),
        classes=classes,
        concepts=(("dog", 0.9), ("runs", 0.5)),
        grounding=(Phrase(0, 0, 2, 1, "dog", ((0.0, 0.25, 0.5, 1.0),)),),
        relations=np.array([(n, 0, 1) for n in range(1, count)], np.int16).reshape(-1, 3),
    )


FEATURES = FeatureSpec("random", 4, 0)


@dataclass(frozen=True)
class NumberSource:
    """A source of these samples; picklable for worker processes."""

    sizes: dict[str, int] = field(default_factory=lambda: {"train": 7, "val": 2})
    name: str = "numbers"
    features: FeatureSpec = FEATURES
    class_names: tuple[str, ...] = ("cat", "dog")
    predicates: tuple[str, ...] = ("on",)

    def fingerprint(self) -> str:
        return "numbers-v1"

    def splits(self) -> dict[str, Sequence[int]]:
        starts = np.cumsum([0, *self.sizes.values()])
        return {
            split: range(start, start + size)
            for start, (split, size) in zip(starts.tolist(), self.sizes.items(), strict=False)
        }

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for i in ids:
            yield make_sample(i, split)


@dataclass(frozen=True)
class ChangedSource(NumberSource):
    """A NumberSource with some fields of its fourth sample changed."""

    change: tuple[tuple[str, object], ...] = ()

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            yield replace(sample, **dict(self.change)) if sample.image_id == 3 else sample
