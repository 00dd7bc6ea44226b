"""A source of shards with given captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shards.caption_counts import END
from shards.schema import Sample
from tests.support.shards import TinySource, tiny_sample

Captions = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Given(TinySource):
    """Images with these captions."""

    captions: tuple[Captions, ...] = ()

    def splits(self) -> dict[str, Sequence[int]]:
        return {"train": range(len(self.captions)), "val": range(1000, 1002)}

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for number in ids:
            sample = tiny_sample(number, split)
            tokens = self.captions[number] if split == "train" else sample.tokens
            yield replace(sample, captions=tuple(map(" ".join, tokens)), tokens=tokens)


def made(seed: int, images: int, *, special: bool = True) -> tuple[Captions, ...]:
    """Captions of few words, some of which occur once, and special tokens if ``special``."""
    random = np.random.default_rng(seed)
    words = [
        *([END, "<pad>"] if special else []),
        "a",
        "é",
        "the",
        "two words",
        *map(str, range(random.integers(1, 9))),
    ]
    share = 1 / np.arange(1, len(words) + 1)

    def caption() -> tuple[str, ...]:
        chosen = random.choice(words, random.integers(1, 9), p=share / share.sum()).tolist()
        return tuple(
            word if random.random() < 0.9 else f"rare {random.random()}" for word in chosen
        )

    return tuple(tuple(caption() for _ in range(random.integers(1, 5))) for _ in range(images))
