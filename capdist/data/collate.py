"""Samples to padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from capdist.batch import Batch
from capdist.vocab import PAD, Vocabulary
from shards.schema import Array, Sample, ShardError


@dataclass(frozen=True)
class Collate:
    """Pads samples into a `Batch`.

    Args:
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; a concept outside the vocabulary is none.
        classes: how many classes there are names for; 0: those of regions are left out.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int
    classes: int = 0

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of at least one sample.

        Raises:
            ShardError: naming a sample whose classes there are no names for, or that lacks the
                classes or the grounding that others have.
        """
        regions, region_mask = _pad([s.regions for s in samples], np.float32)
        boxes, _ = _pad([s.boxes for s in samples], np.float32)
        concepts, concept_mask = _pad([self._concepts(s) for s in samples], np.int64)
        class_ids, class_probs = self._classes(samples, regions.shape[1])
        objects, object_captions = _objects(samples)
        return Batch(
            keys=tuple(s.key for s in samples),
            image_ids=torch.tensor([s.image_id for s in samples]),
            regions=regions,
            region_mask=region_mask,
            boxes=boxes,
            class_ids=class_ids,
            class_probs=class_probs,
            concepts=concepts,
            concept_mask=concept_mask,
            tokens=self._tokens(samples),
            objects=objects,
            object_captions=object_captions,
        )

    def _classes(
        self, samples: Sequence[Sample], regions: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = [s.classes for s in samples if self.classes and s.classes is not None]
        if found and len(found) < len(samples):
            bare = next(sample for sample in samples if sample.classes is None)
            raise ShardError(f"sample {bare.key}: no classes.npy, which others of its batch have")
        kept = max((classes.shape[1] for classes in found), default=0)
        ids = np.zeros((len(samples), regions, kept), np.int64)
        probs = np.zeros(ids.shape, np.float32)
        for i, classes in enumerate(found):
            self._check_classes(samples[i].key, classes["id"])
            place = (i, slice(classes.shape[0]), slice(classes.shape[1]))
            ids[place], probs[place] = classes["id"], classes["prob"]
        return torch.from_numpy(ids), torch.from_numpy(probs)

    def _check_classes(self, key: str, ids: Array) -> None:
        if ids.size and not 0 <= ids.min() <= ids.max() < self.classes:
            wrong = ids.max() if ids.min() >= 0 else ids.min()
            raise ShardError(
                f"sample {key}: class {wrong}, but there are names for {self.classes}; build the "
                "shards again with the class names of their features' extractor"
            )

    def _concepts(self, sample: Sample) -> np.ndarray:
        known = [self.vocab.id(word) for word, _ in sample.concepts or () if word in self.vocab]
        return np.array(known[: self.max_concepts], np.int64)

    def _tokens(self, samples: Sequence[Sample]) -> torch.Tensor:
        ids = [[self.vocab.encode(c, self.max_words) for c in s.tokens] for s in samples]
        captions = max(1, max(len(of_image) for of_image in ids))
        length = max((len(caption) for of_image in ids for caption in of_image), default=2)
        tokens = np.full((len(samples), captions, length), PAD, np.int64)
        for i, of_image in enumerate(ids):
            for j, caption in enumerate(of_image):
                tokens[i, j, : len(caption)] = caption
        return torch.from_numpy(tokens)


def _objects(samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """The boxes of all grounded phrases, and the numbers of their captions."""
    bare = [s.key for s in samples if s.grounding is None]
    if bare and len(bare) < len(samples):
        raise ShardError(f"sample {bare[0]}: no grounding.json, which others of its batch have")
    pairs = [
        [(box, phrase.caption) for phrase in s.grounding or () for box in phrase.boxes]
        for s in samples
    ]
    shape = (len(samples), max(map(len, pairs)))
    boxes, captions = np.zeros((*shape, 4), np.float32), np.full(shape, -1, np.int64)
    for i, of_image in enumerate(pairs):
        for j, (box, caption) in enumerate(of_image):
            boxes[i, j], captions[i, j] = box, caption
    return torch.from_numpy(boxes), torch.from_numpy(captions)


def _pad(
    arrays: Sequence[np.ndarray], dtype: type[np.generic]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrays stacked along a new first axis, zero-padded along their own first, and the mask."""
    longest = max(1, max(len(array) for array in arrays))
    padded = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), dtype)
    mask = np.zeros((len(arrays), longest), np.bool_)
    for i, array in enumerate(arrays):
        padded[i, : len(array)] = array
        mask[i, : len(array)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask)
