"""Tiny shards, made inside the test session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.index import Features, Manifest
from shards.schema import Sample
from shards.writer import write

WORDS = ("a", "red", "blue", "dog", "cat", "runs", "sits", "near", "two", "balls")


@dataclass(frozen=True)
class TinySource:
    """Images with 1 to 5 regions, 1 to 3 captions and 0 to 4 concepts, from their ids alone."""

    sizes: tuple[tuple[str, int], ...] = (("train", 53), ("val", 7), ("test", 5))
    dim: int = 6
    name: str = "tiny"
    class_names: tuple[str, ...] = ()

    @property
    def features(self) -> Features:
        return Features("tiny-v1", self.dim, 5)

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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of 53 / 7 / 5 images, 8 to a shard."""
    root: Path = tmp_path_factory.mktemp("tiny")
    return write(TinySource(), root, samples_per_shard=8, workers=1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
