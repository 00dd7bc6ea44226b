"""Samples to padded batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from capdist.batch import Batch
from capdist.data.buffer_pool import empty
from capdist.data.copy import gather
from capdist.data.encoded_sample import BOX, HEAD, ID, EncodedSample, SampleEncoder
from capdist.vocab import PAD, Vocabulary
from shards.schema import CLASS_DTYPE, Array, Sample, ShardError


class SampleError(ShardError):
    """A sample that can't be used; ``row`` is its number among those of its batch."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class Row(NamedTuple):
    """A sample on its way into a batch.

    ``regions`` (R, F) are the stored numbers: in memory, in a mapped file, or in a tensor on the
    GPU where a reader puts them there. ``address`` is theirs in memory, if the reader knows: to
    ask numpy for it takes as long as a tenth of their copy.
    """

    packed: EncodedSample
    regions: Any
    address: int = 0


@dataclass(frozen=True)
class Collate:
    """Pads samples into a `Batch`.

    Args:
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; a concept outside the vocabulary is none.
        classes: how many classes there are names for; 0: those of regions are left out.
        scale: of int8 regions, (F,) float32; None: they are float16, and stay so.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int
    classes: int = 0
    scale: Array | None = None

    @property
    def pack(self) -> SampleEncoder:
        """What packs a sample."""
        return SampleEncoder(self.vocab, self.max_words, self.max_concepts)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of at least one sample; raises what `rows` does."""
        return self.rows([Row(self.pack(sample), sample.regions) for sample in samples])

    def rows(self, rows: Sequence[Row], regions: Tensor | None = None) -> Batch:
        """The batch of at least one row; ``regions`` (B, R, F) where they are at hand already.

        Raises:
            SampleError: naming a sample whose classes there are no names for, or that lacks the
                classes or the grounding that others have.
        """
        packed = [row.packed for row in rows]
        heads = np.frombuffer(b"".join([one.head for one in packed]), HEAD)
        region_mask = _real(np.array([one.regions for one in packed]))
        concept_mask, object_mask = _real(heads["concepts"], 1), _real(heads["objects"])
        token_mask = _real(heads["captions"], 1)[:, :, None] & _real(heads["length"], 2)[:, None]
        class_ids, class_probs = self._classes(packed, heads, region_mask)
        _check_whole(packed, heads["objects"], "grounding.json")
        if regions is None:
            regions = _regions(rows, region_mask.shape[1], self.scale)
        return Batch(
            keys=tuple([one.key for one in packed]),
            image_ids=torch.from_numpy(heads["image_id"].copy()),
            regions=regions,
            region_mask=torch.from_numpy(region_mask),
            boxes=torch.from_numpy(_padded([one.boxes for one in packed], BOX, region_mask)["box"]),
            class_ids=class_ids,
            class_probs=class_probs,
            concepts=_ids([one.concepts for one in packed], concept_mask),
            concept_mask=torch.from_numpy(concept_mask),
            tokens=_ids([one.tokens for one in packed], token_mask, PAD),
            objects=torch.from_numpy(
                _padded([one.objects for one in packed], BOX, object_mask)["box"]
            ),
            object_captions=_ids([one.object_captions for one in packed], object_mask, -1),
        )

    def _classes(
        self, packed: Sequence[EncodedSample], heads: Array, region_mask: Array
    ) -> tuple[Tensor, Tensor]:
        if not self.classes:
            bare = torch.zeros(*region_mask.shape, 0)
            return bare.long(), bare
        _check_whole(packed, heads["classes"], "classes.npy")
        mask = region_mask[:, :, None] & _real(heads["classes"])[:, None]
        found = _padded([one.classes for one in packed], CLASS_DTYPE, mask)
        ids = found["id"].astype(np.int64)
        for row in np.flatnonzero(((ids < 0) | (ids >= self.classes)).any((1, 2))).tolist():
            wrong = ids[row].max() if ids[row].min() >= 0 else ids[row].min()
            raise SampleError(
                row,
                f"sample {packed[row].key}: class {wrong}, but there are names for "
                f"{self.classes}; build the shards again with the class names of their features' "
                "extractor",
            )
        return torch.from_numpy(ids), torch.from_numpy(found["prob"].astype(np.float32))


def _regions(rows: Sequence[Row], longest: int, scale: Array | None) -> Tensor:
    """The numbers (B, R, F) of all rows, zero where an image has no more regions.

    This is the one copy of the bytes.
    """
    arrays = [row.regions for row in rows]
    first, width = arrays[0], arrays[0].shape[1]
    if isinstance(first, Tensor):
        padded = pad_sequence(arrays, batch_first=True)
        return padded if scale is None else padded * torch.from_numpy(scale).to(first.device)
    regions = empty((len(arrays), longest, width), first.dtype if scale is None else scale.dtype)
    numbers = regions.numpy()
    if scale is None:
        gather(numbers, arrays, [row.address for row in rows])
        return regions
    for slot, array in zip(numbers, arrays, strict=True):
        np.multiply(array, scale, out=slot[: len(array)])
        slot[len(array) :] = 0
    return regions


def _check_whole(packed: Sequence[EncodedSample], sizes: Array, member: str) -> None:
    """Refuse that some of the samples have a member and others lack it, whose size is -1."""
    lacking = sizes < 0
    if lacking.any() and not lacking.all():
        row = int(lacking.argmax())
        raise SampleError(
            row, f"sample {packed[row].key}: no {member}, which others of its batch have"
        )


def _real(sizes: Array, least: int = 0) -> Array:
    """The mask (B, largest) of arrays of these sizes (B,), at least ``least`` wide."""
    return np.arange(max(least, int(sizes.max()))) < sizes[:, None]


def _padded(pieces: Iterable[bytes], dtype: np.dtype[Any], mask: Array, pad: int = 0) -> Array:
    """Arrays joined to one that has them where the mask is true, and ``pad`` elsewhere."""
    numbers = np.frombuffer(bytearray().join(pieces), dtype)
    if numbers.size == mask.size:
        return numbers.reshape(mask.shape)
    padded = np.full(mask.shape, pad, dtype)
    padded[mask] = numbers
    return padded


def _ids(pieces: Iterable[bytes], mask: Array, pad: int = 0) -> Tensor:
    return torch.from_numpy(_padded(pieces, ID, mask, pad).astype(np.int64))
