"""Random captions with many common n-grams, repeated words, and ids that may collide."""

from __future__ import annotations

import numpy as np

#: Some have the same lowest bits, some are as large as an id may be.
IDS = [*range(7), 1024, 1025, 2048, 2049, 1 << 20, (1 << 20) + 1, (1 << 31) - 2, (1 << 31) - 1]

Caption = list[int]


def captions(
    random: np.random.Generator, count: int, longest: int, words: list[int]
) -> list[Caption]:
    lengths = random.integers(0, longest + 1, count)
    return [random.choice(words, length).tolist() for length in lengths]


def made(
    seed: int, images: int, *, longest: int = 12
) -> tuple[dict[int, list[Caption]], dict[int, Caption]]:
    """1 to 5 references and one hypothesis per image; image ids are not in order."""
    random = np.random.default_rng(seed)
    words = random.choice(IDS, random.integers(2, len(IDS)), replace=False).tolist()
    numbers = random.choice(1000, images, replace=False).tolist()
    references = {
        image: captions(random, int(random.integers(1, 6)), longest, words) for image in numbers
    }
    hypotheses = {}
    for image in numbers:
        copied = list(references[image][0])
        changed = [random.choice(IDS) if random.random() < 0.3 else word for word in copied]
        fresh = captions(random, 1, longest, IDS)[0]
        kinds = [copied, [int(word) for word in changed], fresh, fresh[:1] * 5, []]
        hypotheses[image] = kinds[random.integers(len(kinds))]
    return references, hypotheses


def as_words(caption: Caption) -> str:
    return " ".join(f"w{word}" for word in caption)
