"""Pads samples into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
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

    ``regions`` (R, F) of each feature set that is read, as stored: arrays in memory or in a mapped
    file, or tensors on the GPU. ``addresses`` are their memory addresses, 0 where unknown: asking
    numpy for one takes a tenth of the time of the copy.
    """

    sample: EncodedSample
    regions: tuple[Any, ...]
    addresses: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Collate:
    """Pads samples into a `Batch`.

    Args:
        encoder: of the samples.
        scales: of each feature set that is read, (F,) float32, which multiplies int8 regions, or
            None: regions are float16 and stay so, unless those of another set are int8.
    """

    encoder: SampleEncoder
    scales: tuple[Array | None, ...] = (None,)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Pad one or more samples of one feature set; raises as `rows` does."""
        return self.rows([Row(self.encoder(sample), (sample.regions,)) for sample in samples])

    def rows(self, rows: Sequence[Row], regions: Tensor | None = None) -> Batch:
        """Pad one or more rows; ``regions`` (B, R, F), if given, are taken instead of copied.

        Raises:
            SampleError: naming a sample whose class ids have no names, or that lacks a member that
                others have.
        """
        samples = [row.sample for row in rows]
        keys = tuple([sample.key for sample in samples])
        headers = np.frombuffer(b"".join([sample.header for sample in samples]), HEADER)
        counts = np.array([sample.counts for sample in samples])
        mask = mask_of(counts.sum(1))
        sets = _region_sets(counts, mask)
        own = mask & (sets == 0) if counts.shape[1] > 1 else mask
        fields: dict[str, Array] = {}
        pieces = zip(*[sample.parts for sample in samples], strict=True)
        for member, parts in zip(MEMBERS, pieces, strict=True):
            fields |= member.collate(PackedBatch(keys, parts, headers, mask, own, self.encoder))
        if regions is None:
            regions = _regions(rows, mask.shape[1], self.scales)
        return Batch(
            keys=keys,
            regions=regions,
            region_mask=torch.from_numpy(mask),
            region_sets=torch.from_numpy(sets),
            references=self._references(samples, headers) if self.encoder.reference_ids else None,
            **{name: torch.from_numpy(array) for name, array in fields.items()},
        )

    def _references(self, samples: Sequence[EncodedSample], headers: Array) -> Array:
        """(B, S, M) int32, padded with -1."""
        length = headers["reference_length"]
        mask = mask_of(headers["captions"], 1)[:, :, None] & mask_of(length, 1)[:, None]
        return padded([sample.references for sample in samples], ID, mask, -1)


def _region_sets(counts: Array, mask: Array) -> Array:
    """(B, R) the set of each region, from the numbers of regions (B, sets); 0 elsewhere."""
    if counts.shape[1] == 1:
        return np.zeros(mask.shape, np.int64)
    ends = counts.cumsum(1)[:, None, :-1]
    sets: Array = (np.arange(mask.shape[1])[:, None] >= ends).sum(2) * mask
    return sets


def _regions(rows: Sequence[Row], longest: int, scales: Sequence[Array | None]) -> Tensor:
    """(B, R, F) regions of all rows, padded with zeros: the only copy of their bytes."""
    if isinstance(rows[0].regions[0], Tensor):
        return _on_gpu(rows, scales)
    width = max(array.shape[1] for array in rows[0].regions)
    plain = all(scale is None for scale in scales)
    dtype = rows[0].regions[0].dtype if plain else np.dtype(np.float32)
    regions = empty((len(rows), longest, width), dtype)
    numbers = regions.numpy()
    if plain and all(array.shape[1] == width for array in rows[0].regions):
        copy_regions(numbers, [row.regions for row in rows], [row.addresses for row in rows])
        return regions
    for slot, row in zip(numbers, rows, strict=True):
        start = 0
        for array, scale in zip(row.regions, scales, strict=True):
            count, of_set = array.shape
            part = slot[start : start + count]
            np.multiply(array, 1 if scale is None else scale, out=part[:, :of_set])
            part[:, of_set:] = 0
            start += count
        slot[start:] = 0
    return regions


def _on_gpu(rows: Sequence[Row], scales: Sequence[Array | None]) -> Tensor:
    """As `_regions`, of regions on a GPU."""
    width = max(tensor.shape[1] for tensor in rows[0].regions)
    device = rows[0].regions[0].device
    factors = [None if scale is None else torch.from_numpy(scale).to(device) for scale in scales]

    def scaled(row: Row) -> Tensor:
        parts = [
            pad(tensor if factor is None else tensor * factor, (0, width - tensor.shape[1]))
            for tensor, factor in zip(row.regions, factors, strict=True)
        ]
        return torch.cat(parts)

    return pad_sequence([scaled(row) for row in rows], batch_first=True)
