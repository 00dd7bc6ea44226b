"""``concepts.json``: words that describe the image, with their scores, highest first.

In batches: ``concepts`` (B, A), word ids, and ``concept_mask`` (B, A).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import TypeAdapter

from shards.json_types import WordScores, parse_json
from shards.members.base import ID, Encoding, Member, PackedBatch, Sizes, mask_of, to_json
from shards.sample import Array, Sample

_ADAPTER = TypeAdapter(WordScores)


class ConceptWords(Member):
    """Pairs of a word and its score."""

    suffix = "concepts.json"
    sizes = ("concepts",)
    fields = (("concepts", "concepts"), ("concept_mask", "concepts"))

    def encode(self, sample: Sample) -> bytes | None:
        return None if sample.concepts is None else to_json(sample.concepts)

    def decode(self, data: bytes) -> dict[str, Any]:
        return {"concepts": parse_json(_ADAPTER, data)}

    def check(self, sample: Sample) -> None:
        """Its form is all that there is to check."""

    def pack(self, sample: Sample, encoding: Encoding) -> tuple[bytes, Sizes]:
        """Word ids; concepts that the model does not know are left out."""
        ids = encoding.concepts(word for word, _ in sample.concepts or ())
        return np.array(ids, ID).tobytes(), (len(ids),)

    def collate(self, packed: PackedBatch) -> dict[str, Array]:
        mask = mask_of(packed.sizes("concepts"), 1)
        return {"concepts": packed.padded(ID, mask).astype(np.int64), "concept_mask": mask}

    def empty(self, pad: int) -> dict[str, Array]:
        return {"concepts": np.zeros((1, 1), np.int64), "concept_mask": np.ones((1, 1), bool)}
