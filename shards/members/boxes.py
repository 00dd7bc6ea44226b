"""``boxes.npy``: where the regions lie, (R, 4) float32, x1 y1 x2 y2 in [0, 1].

In batches: ``boxes`` (B, R, 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shards.members.base import Encoding, Member, PackedBatch, Sizes, check_array, region_count
from shards.npy import decode_npy, encode_npy
from shards.sample import Array, Sample

_BOX = np.dtype([("box", np.float32, 4)])


class Boxes(Member):
    """One row per region."""

    suffix, required = "boxes.npy", True
    fields = (("boxes", "regions"),)

    def encode(self, sample: Sample) -> bytes:
        return encode_npy(sample.boxes)

    def decode(self, data: bytes) -> dict[str, Any]:
        return {"boxes": decode_npy(data)}

    def check(self, sample: Sample) -> None:
        check_array(sample, self.suffix, sample.boxes, "float32", (region_count(sample), 4))

    def pack(self, sample: Sample, encoding: Encoding) -> tuple[bytes, Sizes]:
        boxes = [sample.boxes, *(more.boxes for more in sample.further if more)]
        return b"".join(one.tobytes() for one in boxes), ()

    def collate(self, packed: PackedBatch) -> dict[str, Array]:
        return {"boxes": packed.padded(_BOX, packed.region_mask)["box"]}

    def empty(self, pad: int) -> dict[str, Array]:
        return {"boxes": np.zeros((1, 1, 4), np.float32)}
