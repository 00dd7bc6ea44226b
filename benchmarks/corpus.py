"""Synthetic captions to score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capdist.metrics.captions import Ints
from capdist.vocab import EOS, PAD, SPECIALS

#: COCO's usual sizes: V including special tokens, captions per image, words per caption.
VOCABULARY, REFERENCES, LENGTH = 9_488, 5, (6, 20)


@dataclass(frozen=True)
class Corpus:
    """Captions of M images: ``references`` by image, and ``packed`` (M, 1 + L) to score."""

    references: dict[int, list[list[int]]]
    packed: Ints

    @property
    def packed_references(self) -> Ints:
        """(M', 1 + L) as rewards read them."""
        rows = [(image, caption) for image, of in self.references.items() for caption in of]
        packed = np.full((len(rows), 1 + max(len(caption) for _, caption in rows)), -1)
        for row, (image, caption) in zip(packed, rows, strict=True):
            row[: 1 + len(caption)] = [image, *caption]
        return packed

    @property
    def hypotheses(self) -> list[list[int]]:
        """The packed captions as lists of token ids, in order of image."""
        return [row[row != PAD].tolist() for row in self.packed[:, 1:]]


def make_corpus(images: int) -> Corpus:
    """Deterministic synthetic captions.

    Each image has a word for every position, and a caption takes about half of them; it draws the
    others itself. All words follow Zipf's law with Mandelbrot's shift.
    """
    rng = np.random.default_rng(1)
    weight = 1 / (np.arange(VOCABULARY - len(SPECIALS)) + 2.7)

    def words(*shape: int) -> Ints:
        return len(SPECIALS) + rng.choice(len(weight), shape, p=weight / weight.sum())

    shape = (images, 1 + REFERENCES, LENGTH[1])
    shared = rng.random(shape) < 0.5
    tokens = np.where(shared, words(images, 1, LENGTH[1]), words(*shape))
    lengths = rng.normal(10.5, 2.4, shape[:2]).round().astype(np.int64).clip(*LENGTH)
    tokens = np.pad(tokens, ((0, 0), (0, 0), (0, 1)))
    position = np.arange(LENGTH[1] + 1)
    tokens[position == lengths[..., None]] = EOS
    tokens[position > lengths[..., None]] = PAD
    references = {
        image: [caption[caption != PAD].tolist() for caption in captions]
        for image, captions in enumerate(tokens[:, 1:])
    }
    return Corpus(references, np.column_stack([np.arange(images), tokens[:, 0]]))
