"""Everything that batches need of a sample except its regions, encoded as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from capdist.vocab import PAD, Vocabulary, WordIds
from shards.image_ids import image_number
from shards.schema import Sample

#: Word ids, and a box's corners.
ID, BOX = np.dtype(np.int32), np.dtype([("box", np.float32, 4)])
#: A sample's image number and the sizes of its fields; -1 for a field that it lacks.
HEADER = np.dtype(
    [
        ("image_id", np.int64),
        ("captions", np.int64),
        ("length", np.int64),
        ("reference_length", np.int64),
        ("concepts", np.int64),
        ("objects", np.int64),
        ("classes", np.int64),
    ]
)


class EncodedSample(NamedTuple):
    """A sample without its regions. Each field is bytes, so that a batch's are joined at once.

    An array per field would be two or three allocations, which the regions of an epoch evict from
    the processor's caches; fetching them again takes longer than copying them.

    ``regions`` is the number of regions; ``header`` is one entry of HEADER; ``tokens`` (S, L) int32
    of all captions, padded with PAD; ``references`` (S, M) int32 the same as references of rewards,
    padded with -1, M = 0 if they are not read; ``concepts`` (A,) int32 word ids, best first;
    ``objects`` (G, 4) float32 boxes of grounded phrases and ``object_captions`` (G,) int32 the
    index of each one's caption; ``boxes`` (R, 4) float32; ``classes`` (R, T) of CLASS_DTYPE.
    """

    key: str
    regions: int
    header: bytes
    tokens: bytes
    references: bytes
    concepts: bytes
    objects: bytes
    object_captions: bytes
    boxes: bytes
    classes: bytes


@dataclass(frozen=True)
class SampleEncoder:
    """Encodes samples, their words as ids.

    Args:
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; concepts outside the vocabulary are dropped.
        reference_ids: ids of the words of references; None: references are not read.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int
    reference_ids: WordIds | None = None

    def __call__(self, sample: Sample) -> EncodedSample:
        tokens = _padded([self.vocab.encode(words, self.max_words) for words in sample.tokens], PAD)
        references = np.empty((len(tokens), 0), np.int32)
        if self.reference_ids:
            references = _padded([self.reference_ids.encode(words) for words in sample.tokens], -1)
        words = [self.vocab.id(word) for word, _ in sample.concepts or () if word in self.vocab]
        concepts = np.array(words[: self.max_concepts], np.int32)
        pairs = [(box, phrase.caption) for phrase in sample.grounding or () for box in phrase.boxes]
        objects = -1 if sample.grounding is None else len(pairs)
        classes = -1 if sample.classes is None else sample.classes.shape[1]
        sizes = (*tokens.shape, references.shape[1], len(concepts), objects, classes)
        return EncodedSample(
            key=sample.key,
            regions=len(sample.regions),
            header=np.array((image_number(sample.image_id), *sizes), HEADER).tobytes(),
            tokens=tokens.tobytes(),
            references=references.tobytes(),
            concepts=concepts.tobytes(),
            objects=np.array([box for box, _ in pairs], np.float32).tobytes(),
            object_captions=np.array([caption for _, caption in pairs], np.int32).tobytes(),
            boxes=sample.boxes.tobytes(),
            classes=b"" if sample.classes is None else sample.classes.tobytes(),
        )


def _padded(captions: Sequence[Sequence[int]], pad: int) -> NDArray[np.int32]:
    tokens = np.full((len(captions), max(map(len, captions), default=0)), pad, np.int32)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption)] = caption
    return tokens
