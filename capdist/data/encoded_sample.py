"""Everything that batches need of a sample except its regions, packed as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np

from capdist.vocab import PAD, Vocabulary
from shards.members import MEMBERS
from shards.schema import Sample

#: Sizes of a sample's members.
HEADER = np.dtype([(name, np.int64) for member in MEMBERS for name in member.sizes])


class EncodedSample(NamedTuple):
    """A sample without its regions.

    ``regions`` is their number; ``header`` one entry of HEADER; ``parts`` the packed bytes of every
    member, in the order of `shards.members.MEMBERS`.
    """

    key: str
    regions: int
    header: bytes
    parts: tuple[bytes, ...]


@dataclass(frozen=True)
class SampleEncoder:
    """Encodes samples, their words as ids; a `shards.members.base.Encoding`.

    Args:
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; concepts outside the vocabulary are dropped.
        classes: number of the detector's classes; 0 leaves those of regions out.
        class_names: of the detector, for the classes of grounded objects; may be empty.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int
    classes: int = 0
    class_names: tuple[str, ...] = ()

    pad = PAD

    def __call__(self, sample: Sample) -> EncodedSample:
        packed = [member.pack(sample, self) for member in MEMBERS]
        header = np.array(tuple(size for _, sizes in packed for size in sizes), HEADER)
        parts = tuple(data for data, _ in packed)
        return EncodedSample(sample.key, len(sample.regions), header.tobytes(), parts)

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
