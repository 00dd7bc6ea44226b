"""``relations.npy``: predicates between regions, (E, 3) int16: subject, object, predicate.

Subject and object are numbers of regions; predicates are numbered from 1, in the order of the
manifest's ``predicates``. In batches: ``relations`` (B, E, 3), padded with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shards.members.base import (
    MISSING,
    Encoding,
    Member,
    PackedBatch,
    Sizes,
    check_array,
    mask_of,
    region_count,
)
from shards.npy import decode_npy, encode_npy
from shards.sample import Array, Sample, ShardError

_DTYPE = np.dtype(np.int16)
_EDGE = np.dtype([("edge", _DTYPE, 3)])


class Relations(Member):
    """Every pair of regions has one predicate at most."""

    suffix = "relations.npy"
    sizes = ("relations",)
    fields = (("relations", "relations"),)

    def encode(self, sample: Sample) -> bytes | None:
        return None if sample.relations is None else encode_npy(sample.relations)

    def decode(self, data: bytes) -> dict[str, Any]:
        return {"relations": decode_npy(data)}

    def check(self, sample: Sample) -> None:
        if (edges := sample.relations) is None:
            return
        check_array(sample, self.suffix, edges, str(_DTYPE), (None, 3))
        count = region_count(sample) or 0
        wrong = ((edges < 0) | (edges >= (count, count, np.iinfo(_DTYPE).max))).any(1)
        wrong |= (edges[:, 0] == edges[:, 1]) | (edges[:, 2] == 0)
        if wrong.any():
            raise ShardError(
                f"sample {sample.key}: {self.suffix}: {edges[wrong.argmax()].tolist()} is no "
                f"relation between two of {count} regions"
            )
        if len(np.unique(edges[:, :2], axis=0)) < len(edges):
            raise ShardError(f"sample {sample.key}: {self.suffix}: two relations of one pair")

    def pack(self, sample: Sample, encoding: Encoding) -> tuple[bytes, Sizes]:
        if sample.relations is None:
            return b"", (MISSING,)
        return sample.relations.tobytes(), (len(sample.relations),)

    def collate(self, packed: PackedBatch) -> dict[str, Array]:
        packed.refuse_some("relations", self.suffix)
        edges = packed.padded(_EDGE, mask_of(packed.sizes("relations")))
        return {"relations": edges["edge"].astype(np.int64)}

    def empty(self, pad: int) -> dict[str, Array]:
        return {"relations": np.zeros((1, 0, 3), np.int64)}


def check_predicates(where: str, relations: Array | None, predicates: tuple[str, ...]) -> None:
    """Refuse predicates without a name.

    Raises:
        ShardError: after ``where``.
    """
    if relations is not None and (most := int(relations[:, 2].max(initial=0))) > len(predicates):
        raise ShardError(
            f"{where}: relations.npy: predicate {most}, expected 1 to {len(predicates)}, which "
            "have names"
        )
