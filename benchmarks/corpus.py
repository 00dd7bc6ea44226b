"""Captions made up to be scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from capdist.metrics.captions import Ints
from capdist.vocab import EOS, PAD, SPECIALS

#: COCO's usual sizes: V with specials, captions of an image, words of a caption.
VOCABULARY, REFERENCES, LENGTH = 9_488, 5, (6, 20)


@dataclass(frozen=True)
class Corpus:
    """Captions of M images: ``references`` by image, ``packed`` (M, 1 + L) to be scored."""

    references: dict[int, list[list[int]]]
    packed: Ints

    @property
    def hypotheses(self) -> list[list[int]]:
        """The packed captions as lists, in order of image."""
        return [row[row != PAD].tolist() for row in self.packed[:, 1:]]


def make_corpus(images: int) -> Corpus:
    """Made-up captions, the same every time.

    An image has words of its own, place by place, and each caption has about half of them; the
    others are drawn anew. Both by Zipf's law with Mandelbrot's shift.
    """
    random = np.random.default_rng(1)
    share = 1 / (np.arange(VOCABULARY - len(SPECIALS)) + 2.7)

    def words(*shape: int) -> Ints:
        return len(SPECIALS) + random.choice(len(share), shape, p=share / share.sum())

    shape = (images, 1 + REFERENCES, LENGTH[1])
    kept = random.random(shape) < 0.5
    tokens = np.where(kept, words(images, 1, LENGTH[1]), words(*shape))
    lengths = random.normal(10.5, 2.4, shape[:2]).round().astype(np.int64).clip(*LENGTH)
    tokens = np.pad(tokens, ((0, 0), (0, 0), (0, 1)))
    place = np.arange(LENGTH[1] + 1)
    tokens[place == lengths[..., None]] = EOS
    tokens[place > lengths[..., None]] = PAD
    references = {
        image: [caption[caption != PAD].tolist() for caption in captions]
        for image, captions in enumerate(tokens[:, 1:])
    }
    return Corpus(references, np.column_stack([np.arange(images), tokens[:, 0]]))
