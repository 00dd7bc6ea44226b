"""Everything that batches need of a sample except its regions, packed as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np

from capdist.vocab import PAD, Vocabulary, WordIds
from shards.members import MEMBERS
from shards.members.base import pad_rows
from shards.schema import Sample

#: Sizes of a sample's members, and the length of its references.
HEADER = np.dtype(
    [
        *((name, np.int64) for member in MEMBERS for name in member.sizes),
        ("reference_length", np.int64),
    ]
)


class EncodedSample(NamedTuple):
    """A sample without its regions.

    ``counts`` are the numbers of regions of the feature sets that are read; ``header`` one entry of
    HEADER; ``parts`` the packed bytes of every member, in the order of `shards.members.MEMBERS`;
    ``references`` (S, M) int32 all captions as references of rewards, padded with -1, M = 0 if they
    are not read.
    """

    key: str
    counts: tuple[int, ...]
    header: bytes
    parts: tuple[bytes, ...]
    references: bytes


@dataclass(frozen=True)
class SampleEncoder:
    """Encodes samples, their words as ids; a `shards.members.base.Encoding`.

    Args:
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; concepts outside the vocabulary are dropped.
        classes: number of the detector's classes; 0 leaves those of regions out.
        class_names: of the detector, for the classes of grounded objects; may be empty.
        reference_ids: ids of the words of references; None: references are not read.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int
    classes: int = 0
    class_names: tuple[str, ...] = ()
    reference_ids: WordIds | None = None

    pad = PAD

    def __call__(self, sample: Sample) -> EncodedSample:
        packed = [member.pack(sample, self) for member in MEMBERS]
        references = np.empty((len(sample.tokens), 0), np.int32)
        if self.reference_ids:
            references = pad_rows([self.reference_ids.encode(words) for words in sample.tokens], -1)
        sizes = (size for _, sizes in packed for size in sizes)
        header = np.array((*sizes, references.shape[1]), HEADER)
        return EncodedSample(
            sample.key,
            (len(sample.regions), *(len(more.regions) if more else 0 for more in sample.further)),
            header.tobytes(),
            tuple(data for data, _ in packed),
            references.tobytes(),
        )

    def caption(self, words: Sequence[str]) -> list[int]:
        return self.vocab.encode(words, self.max_words)

    def concepts(self, words: Iterable[str]) -> list[int]:
        known = (self.vocab.id(word) for word in words if word in self.vocab)
        return list(islice(known, self.max_concepts))

    def class_id(self, name: str) -> int:
        return self._class_ids.get(name, -1)

    @cached_property
    def _class_ids(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.class_names)}
