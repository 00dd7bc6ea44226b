"""``classes.npy``: the likeliest classes of each region, (R, T) of CLASS_DTYPE.

In batches: ``class_ids`` and ``class_probs`` (B, R, T), with T = 0 where shards have no classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shards.members.base import (
    MISSING,
    Encoding,
    Member,
    PackedBatch,
    SampleError,
    Sizes,
    check_array,
    mask_of,
    region_count,
)
from shards.npy import decode_npy, encode_npy
from shards.sample import CLASS_DTYPE, Array, Sample


class Classes(Member):
    """One row per region."""

    suffix = "classes.npy"
    sizes = ("classes",)
    fields = (("class_ids", "regions"), ("class_probs", "regions"))

    def encode(self, sample: Sample) -> bytes | None:
        return None if sample.classes is None else encode_npy(sample.classes)

    def decode(self, data: bytes) -> dict[str, Any]:
        return {"classes": decode_npy(data)}

    def check(self, sample: Sample) -> None:
        if sample.classes is not None:
            shape = region_count(sample), None
            check_array(sample, self.suffix, sample.classes, str(CLASS_DTYPE), shape)

    def pack(self, sample: Sample, encoding: Encoding) -> tuple[bytes, Sizes]:
        if sample.classes is None:
            return b"", (MISSING,)
        return sample.classes.tobytes(), sample.classes.shape[1:]

    def collate(self, packed: PackedBatch) -> dict[str, Array]:
        known = packed.encoding.classes
        if not known:
            return _fields(np.zeros((*packed.region_mask.shape, 0), CLASS_DTYPE))
        packed.refuse_some("classes", self.suffix)
        mask = packed.own_mask[:, :, None] & mask_of(packed.sizes("classes"))[:, None]
        fields = _fields(packed.padded(CLASS_DTYPE, mask))
        ids = fields["class_ids"]
        for row in np.flatnonzero(((ids < 0) | (ids >= known)).any((1, 2))).tolist():
            wrong = ids[row].max() if ids[row].min() >= 0 else ids[row].min()
            raise SampleError(
                row,
                f"sample {packed.keys[row]}: class id {wrong}, expected 0 to {known - 1}; "
                "rebuild the shards with the class names of the feature extractor",
            )
        return fields

    def empty(self, pad: int) -> dict[str, Array]:
        return _fields(np.zeros((1, 1, 0), CLASS_DTYPE))


def _fields(classes: Array) -> dict[str, Array]:
    return {
        "class_ids": classes["id"].astype(np.int64),
        "class_probs": classes["prob"].astype(np.float32),
    }
