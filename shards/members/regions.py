"""``regions.npy``: the features of an image's regions, (R, F) float16 or int8.

In batches: ``regions`` (B, R, F), ``region_mask`` (B, R) and ``region_sets`` (B, R), the number of
the feature set that a region is of: those of the further sets that are read follow the first's.
They are most of a sample's bytes, so readers copy them from where they are read into the batch, and
pack only the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shards.members.base import Member, check_array, region_count
from shards.npy import decode_npy, encode_npy
from shards.sample import Sample, ShardError


class Regions(Member):
    """At least one row per image."""

    suffix, required = "regions.npy", True
    fields = (("regions", "regions"), ("region_mask", "regions"), ("region_sets", "regions"))

    def encode(self, sample: Sample) -> bytes:
        return encode_npy(sample.regions)

    def decode(self, data: bytes) -> dict[str, Any]:
        return {"regions": decode_npy(data)}

    def check(self, sample: Sample) -> None:
        count = region_count(sample)
        dtype = "int8" if sample.regions.dtype == np.int8 else "float16"
        check_array(sample, self.suffix, sample.regions, dtype, (count, None))
        if count == 0:
            raise ShardError(f"sample {sample.key}: no regions, expected at least one")
