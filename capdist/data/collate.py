"""Samples to padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from capdist.batch import Batch
from capdist.data.memory import empty
from capdist.data.texts import Encode, Text
from capdist.vocab import PAD, Vocabulary
from shards.schema import Array, Sample, ShardError


class SampleError(ShardError):
    """A sample that can't be used; ``row`` is its number among those of its batch."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class Row(NamedTuple):
    """A sample on its way into a batch.

    ``regions`` (R, F) are the stored numbers: in memory, in a mapped file, or in a tensor on the
    GPU where a reader puts them there; ``boxes`` (R, 4); ``classes`` (R, T) of CLASS_DTYPE.
    """

    text: Text
    regions: Any
    boxes: Array
    classes: Array | None


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
    def encode(self) -> Encode:
        """What turns a sample's words into ids."""
        return Encode(self.vocab, self.max_words, self.max_concepts)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of at least one sample; raises what `rows` does."""
        return self.rows([row_of(sample, self.encode(sample)) for sample in samples])

    def rows(self, rows: Sequence[Row], regions: Tensor | None = None) -> Batch:
        """The batch of at least one row; ``regions`` (B, R, F) where they are at hand already.

        Raises:
            SampleError: naming a sample whose classes there are no names for, or that lacks the
                classes or the grounding that others have.
        """
        texts, counts = [row.text for row in rows], np.array([len(row.boxes) for row in rows])
        longest = int(counts.max())
        boxes = np.zeros((len(rows), longest, 4), np.float32)
        for row, count, slot in zip(rows, counts.tolist(), boxes, strict=True):
            slot[:count] = row.boxes
        class_ids, class_probs = self._classes(rows, longest)
        concepts, concept_mask = _pad([text.concepts for text in texts])
        objects, object_captions = _objects(texts)
        if regions is None:
            regions = _regions([row.regions for row in rows], longest, self.scale)
        return Batch(
            keys=tuple(text.key for text in texts),
            image_ids=torch.tensor([text.image_id for text in texts]),
            regions=regions,
            region_mask=torch.from_numpy(np.arange(longest) < counts[:, None]),
            boxes=torch.from_numpy(boxes),
            class_ids=class_ids,
            class_probs=class_probs,
            concepts=concepts,
            concept_mask=concept_mask,
            tokens=_tokens(texts),
            objects=objects,
            object_captions=object_captions,
        )

    def _classes(self, rows: Sequence[Row], longest: int) -> tuple[Tensor, Tensor]:
        found = [row.classes for row in rows if self.classes and row.classes is not None]
        if found and len(found) < len(rows):
            bare = next(i for i, row in enumerate(rows) if row.classes is None)
            key = rows[bare].text.key
            raise SampleError(bare, f"sample {key}: no classes.npy, which others of its batch have")
        kept = max((classes.shape[1] for classes in found), default=0)
        ids = np.zeros((len(rows), longest, kept), np.int64)
        probs = np.zeros(ids.shape, np.float32)
        for i, classes in enumerate(found):
            place = (i, slice(classes.shape[0]), slice(classes.shape[1]))
            ids[place], probs[place] = classes["id"], classes["prob"]
        for row in np.flatnonzero(((ids < 0) | (ids >= self.classes)).any((1, 2))).tolist():
            wrong = ids[row].max() if ids[row].min() >= 0 else ids[row].min()
            raise SampleError(
                row,
                f"sample {rows[row].text.key}: class {wrong}, but there are names for "
                f"{self.classes}; build the shards again with the class names of their features' "
                "extractor",
            )
        return torch.from_numpy(ids), torch.from_numpy(probs)


def row_of(sample: Sample, text: Text) -> Row:
    """A sample in memory as a row."""
    return Row(text, sample.regions, sample.boxes, sample.classes)


def _regions(arrays: Sequence[Any], longest: int, scale: Array | None) -> Tensor:
    """The numbers (B, R, F) of all rows, zero where an image has no more regions.

    This is the one copy of the bytes, and does little else: what it copies drives all else out of
    the processor's caches.
    """
    first, shape = arrays[0], (len(arrays), longest, arrays[0].shape[1])
    if isinstance(first, Tensor):
        dtype = first.dtype if scale is None else torch.float32
        regions = torch.empty(shape, dtype=dtype, device=first.device)
        slots: Any = regions
        scales: Any = None if scale is None else torch.from_numpy(scale).to(first.device)
        multiply: Any = torch.mul
    else:
        regions = empty(shape, first.dtype if scale is None else scale.dtype)
        slots, scales, multiply = regions.numpy(), scale, np.multiply
    for slot, array in zip(slots, arrays, strict=True):
        if scales is None:
            slot[: len(array)] = array
        else:
            multiply(array, scales, out=slot[: len(array)])
        if len(array) < longest:
            slot[len(array) :] = 0
    return regions


def _tokens(texts: Sequence[Text]) -> Tensor:
    shapes = np.array([text.tokens.shape for text in texts])
    captions, length = shapes.max(0).tolist()
    tokens = np.full((len(texts), captions or 1, length or 2), PAD, np.int64)
    for slot, text in zip(tokens, texts, strict=True):
        count, longest = text.tokens.shape
        slot[:count, :longest] = text.tokens
    return torch.from_numpy(tokens)


def _objects(texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
    """The boxes of all grounded phrases, and the numbers of their captions."""
    found = [text.objects for text in texts if text.objects is not None]
    if found and len(found) < len(texts):
        bare = next(i for i, text in enumerate(texts) if text.objects is None)
        key = texts[bare].key
        raise SampleError(bare, f"sample {key}: no grounding.json, which others of its batch have")
    shape = (len(texts), max(map(len, found), default=0))
    boxes, captions = np.zeros((*shape, 4), np.float32), np.full(shape, -1, np.int64)
    for i, text in enumerate(texts):
        if text.objects is not None and text.object_captions is not None:
            count = len(text.objects)
            boxes[i, :count], captions[i, :count] = text.objects, text.object_captions
    return torch.from_numpy(boxes), torch.from_numpy(captions)


def _pad(arrays: Sequence[Array]) -> tuple[Tensor, Tensor]:
    """Lists of ids stacked along a new first axis, zero-padded, and the mask."""
    lengths = np.array([len(array) for array in arrays])
    mask = np.arange(max(1, int(lengths.max()))) < lengths[:, None]
    padded = np.zeros(mask.shape, np.int64)
    padded[mask] = np.concatenate(arrays)
    return torch.from_numpy(padded), torch.from_numpy(mask)
