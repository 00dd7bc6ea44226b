"""Tiny references and packed captions for rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capdist.metrics.captions import Floats
from capdist.metrics.document_frequency import DocumentFrequency
from capdist.rewards.base import Reward, registered
from capdist.vocab import EOS, PAD, Vocabulary

VOCABULARY = Vocabulary([f"w{i}" for i in range(4, 20)])
V = len(VOCABULARY)

Caption = list[int]
PackedCaptions = npt.NDArray[np.int64]


def made_references(seed: int, images: int = 12) -> dict[int, list[Caption]]:
    """1 to 5 references per image, all with EOS; some words are outside the vocabulary."""
    random = np.random.default_rng(seed)
    return {
        image: [
            [*random.integers(4, V + 5, random.integers(0, 9)).tolist(), EOS]
            for _ in range(random.integers(1, 6))
        ]
        for image in random.choice(1000, images, replace=False).tolist()
    }


def made_hypotheses(
    seed: int, references: dict[int, list[Caption]]
) -> tuple[list[int], list[Caption]]:
    """Five per image: a changed reference, the same without EOS, random words, one word, empty."""
    random = np.random.default_rng(seed)
    images, captions = [], []
    for image, (first, *_) in references.items():
        words = [int(word) if word < V else 3 for word in first[:-1]]
        changed = [int(random.integers(4, V)) if random.random() < 0.2 else w for w in words]
        fresh = random.integers(4, V, random.integers(0, 12)).tolist()
        variants = [[*changed, EOS], words, [*fresh, EOS], [*words[:1] * 6, EOS], []]
        images += [image] * len(variants)
        captions += variants
    return images, captions


def pack(images: list[int], captions: list[Caption]) -> PackedCaptions:
    width = max(map(len, captions), default=0)
    rows = [
        [image, *caption, *[PAD] * (width - len(caption))]
        for image, caption in zip(images, captions, strict=True)
    ]
    return np.array(rows, np.int64).reshape(len(rows), 1 + width)


def pack_references(references: dict[int, list[Caption]]) -> PackedCaptions:
    rows = [(image, caption) for image, captions in references.items() for caption in captions]
    packed = np.full((len(rows), 1 + max(len(caption) for _, caption in rows)), -1, np.int64)
    for row, (image, caption) in zip(packed, rows, strict=True):
        row[: 1 + len(caption)] = [image, *caption]
    return packed


@dataclass(frozen=True)
class Scorer:
    """A reward with the references of all images."""

    reward: Reward
    references: PackedCaptions

    @property
    def signature(self) -> str:
        return self.reward.signature

    def __call__(self, packed: PackedCaptions) -> Floats:
        return self.reward(packed, self.references)


def make(
    name: str, references: dict[int, list[Caption]], df: DocumentFrequency | None = None
) -> Scorer:
    """A registered reward; by default with the references' own document frequency."""
    df = df or DocumentFrequency.count(references, VOCABULARY.hash)
    return Scorer(registered()[name](VOCABULARY, df), pack_references(references))
