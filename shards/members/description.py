"""``json``: the image's id, size and split, and its captions with their tokens.

In batches: ``image_ids`` (B,), and ``tokens`` (B, S, L) of all captions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from shards.image_ids import image_number
from shards.json_types import Count, ImageId, parse_json
from shards.members.base import ID, Encoding, Member, PackedBatch, Sizes, mask_of, pad_rows, to_json
from shards.sample import Array, Sample, ShardError


class SampleJson(TypedDict):
    """Its content; fields as in `Sample`."""

    image_id: ImageId
    width: Count
    height: Count
    split: str
    captions: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]


_ADAPTER = TypeAdapter(SampleJson)


class Description(Member):
    """What every sample says of itself."""

    suffix, required = "json", True
    sizes = ("image_id", "captions", "length")
    fields = (("image_ids", None), ("tokens", None))

    def encode(self, sample: Sample) -> bytes:
        return to_json({name: getattr(sample, name) for name in SampleJson.__annotations__})

    def decode(self, data: bytes) -> dict[str, Any]:
        return dict(self.parse(data))

    def parse(self, data: bytes) -> SampleJson:
        """As `decode`, with the types of its fields."""
        return parse_json(_ADAPTER, data)

    def check(self, sample: Sample) -> None:
        if len(sample.captions) != len(sample.tokens):
            raise ShardError(
                f"sample {sample.key}: {len(sample.captions)} captions but {len(sample.tokens)} "
                "token lists, expected one list per caption"
            )

    def pack(self, sample: Sample, encoding: Encoding) -> tuple[bytes, Sizes]:
        """Captions (S, L), padded to the longest."""
        tokens = pad_rows([encoding.caption(words) for words in sample.tokens], encoding.pad)
        return tokens.tobytes(), (image_number(sample.image_id), *tokens.shape)

    def collate(self, packed: PackedBatch) -> dict[str, Array]:
        captions, lengths = packed.sizes("captions"), packed.sizes("length")
        mask = mask_of(captions, 1)[:, :, None] & mask_of(lengths, 2)[:, None]
        tokens = packed.padded(ID, mask, packed.encoding.pad).astype(np.int64)
        return {"image_ids": packed.sizes("image_id").copy(), "tokens": tokens}

    def empty(self, pad: int) -> dict[str, Array]:
        return {"image_ids": np.full(1, -1), "tokens": np.full((1, 1, 2), pad)}
