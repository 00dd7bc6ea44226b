"""Everything that batches need of a sample except its regions, encoded as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from capdist.vocab import PAD, Vocabulary
from shards.image_ids import image_number
from shards.schema import Phrase, Sample

#: Word ids, and a box's corners.
ID, BOX = np.dtype(np.int32), np.dtype([("box", np.float32, 4)])
#: A box of a phrase: the phrase's caption; its first word, its last word + 1 and its head; its
#: class, -1 for one without a number.
OBJECT = np.dtype(
    [
        ("box", np.float32, 4),
        ("caption", np.int32),
        ("words", np.int32, 3),
        ("class", np.int32),
    ]
)
#: A sample's image number and the sizes of its fields; -1 for a field that it lacks.
HEADER = np.dtype(
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
    """A sample without its regions. Each field is bytes, so that a batch's are joined at once.

    An array per field would be two or three allocations, which the regions of an epoch evict from
    the processor's caches; fetching them again takes longer than copying them.

    ``regions`` is the number of regions; ``header`` is one entry of HEADER; ``tokens`` (S, L) int32
    of all captions, padded with PAD; ``concepts`` (A,) int32 word ids, best first; ``objects``
    (G,) of OBJECT; ``boxes`` (R, 4) float32; ``classes`` (R, T) of CLASS_DTYPE.
    """

    key: str
    regions: int
    header: bytes
    tokens: bytes
    concepts: bytes
    objects: bytes
    boxes: bytes
    classes: bytes


@dataclass(frozen=True)
class SampleEncoder:
    """Encodes samples, their words as ids.

    Args:
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; concepts outside the vocabulary are dropped.
        class_names: of the detector; objects of other classes have none.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int
    class_names: tuple[str, ...] = ()

    @cached_property
    def _class_ids(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.class_names)}

    def __call__(self, sample: Sample) -> EncodedSample:
        tokens = _padded([self.vocab.encode(words, self.max_words) for words in sample.tokens])
        words = [self.vocab.id(word) for word, _ in sample.concepts or () if word in self.vocab]
        concepts = np.array(words[: self.max_concepts], np.int32)
        objects = self._objects(sample.grounding or ())
        boxes = -1 if sample.grounding is None else len(objects)
        classes = -1 if sample.classes is None else sample.classes.shape[1]
        sizes = (*tokens.shape, len(concepts), boxes, classes)
        return EncodedSample(
            key=sample.key,
            regions=len(sample.regions),
            header=np.array((image_number(sample.image_id), *sizes), HEADER).tobytes(),
            tokens=tokens.tobytes(),
            concepts=concepts.tobytes(),
            objects=objects.tobytes(),
            boxes=sample.boxes.tobytes(),
            classes=b"" if sample.classes is None else sample.classes.tobytes(),
        )

    def _objects(self, phrases: Sequence[Phrase]) -> NDArray[np.void]:
        """Every box of every phrase, (G,) of OBJECT."""
        objects = [
            (box, p.caption, (p.start, p.end, p.head), self._class_ids.get(p.class_name, -1))
            for p in phrases
            for box in p.boxes
        ]
        return np.array(objects, OBJECT)


def _padded(captions: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    tokens = np.full((len(captions), max(map(len, captions), default=0)), PAD, np.int32)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption)] = caption
    return tokens
