"""Pads samples into batches."""

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
from capdist.data.copy import copy_regions
from capdist.data.encoded_sample import BOX, HEADER, ID, EncodedSample, SampleEncoder
from capdist.vocab import PAD, Vocabulary, WordIds
from shards.schema import CLASS_DTYPE, Array, Sample, ShardError


class SampleError(ShardError):
    """A sample that can't be collated; ``row`` is its index in the batch."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


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
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; concepts outside the vocabulary are dropped.
        classes: number of class names; 0 leaves the regions' classes out.
        scale: (F,) float32, multiplies int8 regions; None: regions are float16 and stay so.
        reference_ids: ids of the words of references; None: batches have no references.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int
    classes: int = 0
    scale: Array | None = None
    reference_ids: WordIds | None = None

    @property
    def encoder(self) -> SampleEncoder:
        return SampleEncoder(self.vocab, self.max_words, self.max_concepts, self.reference_ids)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Pad one or more samples; raises as `rows` does."""
        return self.rows([Row(self.encoder(sample), sample.regions) for sample in samples])

    def rows(self, rows: Sequence[Row], regions: Tensor | None = None) -> Batch:
        """Pad one or more rows; ``regions`` (B, R, F), if given, are taken instead of copied.

        Raises:
            SampleError: naming a sample whose class ids have no names, or that lacks the classes
                or the grounding that others have.
        """
        samples = [row.sample for row in rows]
        headers = np.frombuffer(b"".join([sample.header for sample in samples]), HEADER)
        region_mask = _mask(np.array([sample.regions for sample in samples]))
        concept_mask, object_mask = _mask(headers["concepts"], 1), _mask(headers["objects"])
        token_mask = (
            _mask(headers["captions"], 1)[:, :, None] & _mask(headers["length"], 2)[:, None]
        )
        class_ids, class_probs = self._classes(samples, headers, region_mask)
        _check_all_or_none(samples, headers["objects"], "grounding.json")
        if regions is None:
            regions = _regions(rows, region_mask.shape[1], self.scale)
        return Batch(
            keys=tuple([sample.key for sample in samples]),
            image_ids=torch.from_numpy(headers["image_id"].copy()),
            regions=regions,
            region_mask=torch.from_numpy(region_mask),
            boxes=torch.from_numpy(
                _padded([sample.boxes for sample in samples], BOX, region_mask)["box"]
            ),
            class_ids=class_ids,
            class_probs=class_probs,
            concepts=_ids([sample.concepts for sample in samples], concept_mask),
            concept_mask=torch.from_numpy(concept_mask),
            tokens=_ids([sample.tokens for sample in samples], token_mask, PAD),
            objects=torch.from_numpy(
                _padded([sample.objects for sample in samples], BOX, object_mask)["box"]
            ),
            object_captions=_ids([sample.object_captions for sample in samples], object_mask, -1),
            references=self._references(samples, headers) if self.reference_ids else None,
        )

    def _references(self, samples: Sequence[EncodedSample], headers: Array) -> Array:
        """(B, S, M) int32, padded with -1."""
        length = headers["reference_length"]
        mask = _mask(headers["captions"], 1)[:, :, None] & _mask(length, 1)[:, None]
        return _padded([sample.references for sample in samples], ID, mask, -1)

    def _classes(
        self, samples: Sequence[EncodedSample], headers: Array, region_mask: Array
    ) -> tuple[Tensor, Tensor]:
        if not self.classes:
            none = torch.zeros(*region_mask.shape, 0)
            return none.long(), none
        _check_all_or_none(samples, headers["classes"], "classes.npy")
        mask = region_mask[:, :, None] & _mask(headers["classes"])[:, None]
        classes = _padded([sample.classes for sample in samples], CLASS_DTYPE, mask)
        ids = classes["id"].astype(np.int64)
        for row in np.flatnonzero(((ids < 0) | (ids >= self.classes)).any((1, 2))).tolist():
            wrong = ids[row].max() if ids[row].min() >= 0 else ids[row].min()
            raise SampleError(
                row,
                f"sample {samples[row].key}: class id {wrong}, expected 0 to {self.classes - 1}; "
                "rebuild the shards with the class names of the feature extractor",
            )
        return torch.from_numpy(ids), torch.from_numpy(classes["prob"].astype(np.float32))


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


def _check_all_or_none(samples: Sequence[EncodedSample], sizes: Array, member: str) -> None:
    """Refuse a batch in which only some samples have a member; size -1 means it is missing."""
    lacking = sizes < 0
    if lacking.any() and not lacking.all():
        row = int(lacking.argmax())
        raise SampleError(
            row,
            f"sample {samples[row].key}: {member} is missing, but other samples of the batch have "
            "it; rebuild the shards with it for all samples or for none",
        )


def _mask(sizes: Array, least: int = 0) -> Array:
    """(B, N) True at the first ``sizes[b]`` places; N is the largest size, ``least`` or more."""
    return np.arange(max(least, int(sizes.max()))) < sizes[:, None]


def _padded(pieces: Iterable[bytes], dtype: np.dtype[Any], mask: Array, pad: int = 0) -> Array:
    """An array shaped as ``mask``: the pieces' numbers where it is True, ``pad`` elsewhere."""
    numbers = np.frombuffer(bytearray().join(pieces), dtype)
    if numbers.size == mask.size:
        return numbers.reshape(mask.shape)
    padded = np.full(mask.shape, pad, dtype)
    padded[mask] = numbers
    return padded


def _ids(pieces: Iterable[bytes], mask: Array, pad: int = 0) -> Tensor:
    return torch.from_numpy(_padded(pieces, ID, mask, pad).astype(np.int64))
