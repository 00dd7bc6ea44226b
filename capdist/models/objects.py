"""The objects that captions name: where their words are, and which regions show them."""

from __future__ import annotations

from torch import Tensor

from capdist.batch import Batch
from capdist.models.boxes import pairwise_iou
from capdist.vocab import PAD


def matches(batch: Batch, iou: float) -> Tensor:
    """(B, G, R): whether a region's IoU with an object's box is above ``iou``.

    False for objects whose word the caption does not have, because it was clipped.
    """
    length = batch.targets.shape[-1]
    there = (batch.object_captions >= 0) & (batch.object_words[..., 2] < length)
    there = there & (at_words(batch, batch.targets[..., None])[..., 0] != PAD)
    near = pairwise_iou(batch.objects, batch.boxes) > iou
    return near & there[..., None] & batch.region_mask[:, None]


def at_words(batch: Batch, values: Tensor) -> Tensor:
    """Of (B, S, L, N) values those at the word that names each object, (B, G, N)."""
    return values.flatten(1, 2).gather(1, word_rows(batch, values.shape[-1]))


def word_rows(batch: Batch, width: int) -> Tensor:
    """(B, G, width): the row of each object's word among the S L positions of the captions."""
    captions, length = batch.targets.shape[1:]
    heads = batch.object_words[..., 2].clamp(max=length - 1)
    row = batch.object_captions.clamp(0, captions - 1) * length + heads
    return row[..., None].expand(-1, -1, width)
