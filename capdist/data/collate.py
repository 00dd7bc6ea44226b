"""Pads samples into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from capdist.batch import Batch
from capdist.data.buffer_pool import empty
from capdist.data.copy import copy_regions
from capdist.data.encoded_sample import HEADER, EncodedSample, SampleEncoder
from shards.members import MEMBERS
from shards.members.base import ID, PackedBatch, mask_of, padded
from shards.schema import Array, Sample


class Row(NamedTuple):
    """A sample that is read, before padding.

    ``regions`` (R, F) as stored: an array in memory or in a mapped file, or a tensor on the GPU.
    ``address`` is their memory address, 0 if unknown: asking numpy for it takes a tenth of the
    time of the copy.
    """

    sample: EncodedSample
    regions: Any
    address: int = 0


@dataclass(frozen=True)
class Collate:
    """Pads samples into a `Batch`.

    Args:
        encoder: of the samples.
        scale: (F,) float32, multiplies int8 regions; None: regions are float16 and stay so.
    """

    encoder: SampleEncoder
    scale: Array | None = None

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Pad one or more samples; raises as `rows` does."""
        return self.rows([Row(self.encoder(sample), sample.regions) for sample in samples])

    def rows(self, rows: Sequence[Row], regions: Tensor | None = None) -> Batch:
        """Pad one or more rows; ``regions`` (B, R, F), if given, are taken instead of copied.

        Raises:
            SampleError: naming a sample whose class ids have no names, or that lacks a member that
                others have.
        """
        samples = [row.sample for row in rows]
        keys = tuple([sample.key for sample in samples])
        headers = np.frombuffer(b"".join([sample.header for sample in samples]), HEADER)
        mask = mask_of(np.array([sample.regions for sample in samples]))
        fields: dict[str, Array] = {}
        pieces = zip(*[sample.parts for sample in samples], strict=True)
        for member, parts in zip(MEMBERS, pieces, strict=True):
            fields |= member.collate(PackedBatch(keys, parts, headers, mask, self.encoder))
        if regions is None:
            regions = _regions(rows, mask.shape[1], self.scale)
        return Batch(
            keys=keys,
            regions=regions,
            region_mask=torch.from_numpy(mask),
            references=self._references(samples, headers) if self.encoder.reference_ids else None,
            **{name: torch.from_numpy(array) for name, array in fields.items()},
        )

    def _references(self, samples: Sequence[EncodedSample], headers: Array) -> Array:
        """(B, S, M) int32, padded with -1."""
        length = headers["reference_length"]
        mask = mask_of(headers["captions"], 1)[:, :, None] & mask_of(length, 1)[:, None]
        return padded([sample.references for sample in samples], ID, mask, -1)


def _regions(rows: Sequence[Row], longest: int, scale: Array | None) -> Tensor:
    """(B, R, F) regions of all rows, padded with zeros: the only copy of their bytes."""
    arrays = [row.regions for row in rows]
    first, width = arrays[0], arrays[0].shape[1]
    if isinstance(first, Tensor):
        padded = pad_sequence(arrays, batch_first=True)
        return padded if scale is None else padded * torch.from_numpy(scale).to(first.device)
    regions = empty((len(arrays), longest, width), first.dtype if scale is None else scale.dtype)
    numbers = regions.numpy()
    if scale is None:
        copy_regions(numbers, arrays, [row.address for row in rows])
        return regions
    for slot, array in zip(numbers, arrays, strict=True):
        np.multiply(array, scale, out=slot[: len(array)])
        slot[len(array) :] = 0
    return regions
