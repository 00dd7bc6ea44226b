"""What batches need of a sample besides its regions, packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from capdist.vocab import PAD, Vocabulary
from shards.schema import Sample

#: Word ids, and a box's corners.
ID, BOX = np.dtype(np.int32), np.dtype([("box", np.float32, 4)])
#: Numbers of a sample: its image, and the sizes of what is packed; -1 is of what it lacks.
HEAD = np.dtype(
    [
        ("image_id", np.int64),
        ("captions", np.int64),
        ("length", np.int64),
        ("concepts", np.int64),
        ("objects", np.int64),
        ("classes", np.int64),
    ]
)


class EncodedSample(NamedTuple):
    """A sample without its regions, as bytes: those of a batch are joined in one go.

    An array for each would be two or three pieces of memory, all of them driven out of the
    processor's caches by the regions of an epoch, and fetching them takes longer than their copy.

    ``regions`` is how many there are; ``head`` is one entry of HEAD; ``tokens`` (S, L) int32 are
    those of all captions, PAD behind the shorter ones; ``concepts`` (A,) int32 are word ids, best
    first; ``objects`` (G, 4) float32 and ``object_captions`` (G,) int32 are the boxes of grounded
    phrases and their captions' numbers; ``boxes`` (R, 4) float32; ``classes`` (R, T) of
    CLASS_DTYPE.
    """

    key: str
    regions: int
    head: bytes
    tokens: bytes
    concepts: bytes
    objects: bytes
    object_captions: bytes
    boxes: bytes
    classes: bytes


@dataclass(frozen=True)
class SampleEncoder:
    """Packs samples, their words as ids.

    Args:
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; a concept outside the vocabulary is none.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int

    def __call__(self, sample: Sample) -> EncodedSample:
        """All of a sample but its regions."""
        tokens = _padded([self.vocab.encode(words, self.max_words) for words in sample.tokens])
        words = [self.vocab.id(word) for word, _ in sample.concepts or () if word in self.vocab]
        concepts = np.array(words[: self.max_concepts], np.int32)
        pairs = [(box, phrase.caption) for phrase in sample.grounding or () for box in phrase.boxes]
        objects = -1 if sample.grounding is None else len(pairs)
        classes = -1 if sample.classes is None else sample.classes.shape[1]
        sizes = (*tokens.shape, len(concepts), objects, classes)
        return EncodedSample(
            key=sample.key,
            regions=len(sample.regions),
            head=np.array((sample.image_id, *sizes), HEAD).tobytes(),
            tokens=tokens.tobytes(),
            concepts=concepts.tobytes(),
            objects=np.array([box for box, _ in pairs], np.float32).tobytes(),
            object_captions=np.array([caption for _, caption in pairs], np.int32).tobytes(),
            boxes=sample.boxes.tobytes(),
            classes=b"" if sample.classes is None else sample.classes.tobytes(),
        )


def _padded(captions: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    tokens = np.full((len(captions), max(map(len, captions), default=0)), PAD, np.int32)
    for slot, caption in zip(tokens, captions, strict=True):
        slot[: len(caption)] = caption
    return tokens
