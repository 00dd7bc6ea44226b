"""What batches need of a sample besides its arrays, as compact integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capdist.vocab import PAD, Vocabulary
from shards.schema import Sample

Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Text:
    """A sample's words.

    ``tokens`` (S, L) are those of all captions, PAD behind the shorter ones; ``concepts`` (A,)
    are word ids, best first; ``objects`` (G, 4) and ``object_captions`` (G,) are the boxes of
    grounded phrases and their captions' numbers, None without grounding.
    """

    key: str
    image_id: int
    tokens: Ints
    concepts: Ints
    objects: NDArray[np.float32] | None
    object_captions: Ints | None


@dataclass(frozen=True)
class Encode:
    """Turns a sample's words into ids.

    Args:
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; a concept outside the vocabulary is none.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int

    def __call__(self, sample: Sample) -> Text:
        """The words of a sample."""
        captions = [self.vocab.encode(caption, self.max_words) for caption in sample.tokens]
        words = [self.vocab.id(word) for word, _ in sample.concepts or () if word in self.vocab]
        objects = object_captions = None
        if sample.grounding is not None:
            pairs = [(box, phrase.caption) for phrase in sample.grounding for box in phrase.boxes]
            objects = np.array([box for box, _ in pairs], np.float32).reshape(-1, 4)
            object_captions = np.array([caption for _, caption in pairs], np.int32)
        return Text(
            key=sample.key,
            image_id=sample.image_id,
            tokens=_padded(captions),
            concepts=np.array(words[: self.max_concepts], np.int32),
            objects=objects,
            object_captions=object_captions,
        )


def _padded(captions: Sequence[Sequence[int]]) -> Ints:
    tokens = np.full((len(captions), max(map(len, captions), default=0)), PAD, np.int32)
    for slot, caption in zip(tokens, captions, strict=True):
        slot[: len(caption)] = caption
    return tokens
