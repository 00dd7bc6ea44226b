"""``grounding.json``: phrases of the captions, each with its boxes in the image.

In batches, of every box of a phrase: ``objects`` (B, G, 4), the box; ``object_captions`` (B, G) the
number of the caption, padded with -1; ``object_words`` (B, G, 3) the phrase's first word, its last
word + 1 and its head; ``object_classes`` (B, G) its class, -1 for one without a number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import TypeAdapter

from shards.json_types import parse_json
from shards.members.base import MISSING, Encoding, Member, PackedBatch, Sizes, mask_of, to_json
from shards.sample import Array, Phrase, Sample, ShardError

_ADAPTER = TypeAdapter(tuple[Phrase, ...])
_OBJECT = np.dtype(
    [
        ("box", np.float32, 4),
        ("caption", np.int32),
        ("words", np.int32, 3),
        ("class", np.int32),
    ]
)


class Grounding(Member):
    """Phrases lie within their captions."""

    suffix, on_request = "grounding.json", True
    sizes = ("objects",)
    fields = (
        ("objects", None),
        ("object_captions", None),
        ("object_words", None),
        ("object_classes", None),
    )

    def encode(self, sample: Sample) -> bytes | None:
        if sample.grounding is None:
            return None
        return to_json([vars(phrase) for phrase in sample.grounding])

    def decode(self, data: bytes) -> dict[str, Any]:
        return {"grounding": self.parse(data)}

    def parse(self, data: bytes) -> tuple[Phrase, ...]:
        """As `decode`, its phrases alone."""
        return parse_json(_ADAPTER, data)

    def check(self, sample: Sample) -> None:
        for phrase in sample.grounding or ():
            exists = 0 <= phrase.caption < len(sample.tokens)
            length = len(sample.tokens[phrase.caption]) if exists else 0
            if not 0 <= phrase.start <= phrase.head < phrase.end <= length:
                raise ShardError(
                    f"sample {sample.key}: {self.suffix}: tokens {phrase.start} to {phrase.end} "
                    f"with head {phrase.head} are not a phrase of caption {phrase.caption}, which "
                    f"has {length} tokens"
                )

    def pack(self, sample: Sample, encoding: Encoding) -> tuple[bytes, Sizes]:
        if sample.grounding is None:
            return b"", (MISSING,)
        objects = [
            (box, p.caption, (p.start, p.end, p.head), encoding.class_id(p.class_name))
            for p in sample.grounding
            for box in p.boxes
        ]
        return np.array(objects, _OBJECT).tobytes(), (len(objects),)

    def collate(self, packed: PackedBatch) -> dict[str, Array]:
        packed.refuse_some("objects", self.suffix)
        mask = mask_of(packed.sizes("objects"))
        return _fields(packed.padded(_OBJECT, mask), mask)

    def empty(self, pad: int) -> dict[str, Array]:
        return _fields(np.zeros((1, 0), _OBJECT), np.zeros((1, 0), bool))


def _fields(objects: Array, mask: Array) -> dict[str, Array]:
    return {
        "objects": objects["box"].copy(),
        "object_captions": np.where(mask, objects["caption"], -1).astype(np.int64),
        "object_words": objects["words"].astype(np.int64),
        "object_classes": np.where(mask, objects["class"], -1).astype(np.int64),
    }
