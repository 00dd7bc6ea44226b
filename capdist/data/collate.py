"""Samples to padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from capdist.batch import Batch
from capdist.vocab import PAD, Vocabulary
from shards.schema import Sample


@dataclass(frozen=True)
class Collate:
    """Pads samples into a `Batch`.

    Args:
        vocab: ids of caption and concept words.
        max_words: longest caption, in words; longer ones are clipped and lose their EOS.
        max_concepts: best-scored concepts kept; a concept outside the vocabulary is none.
    """

    vocab: Vocabulary
    max_words: int
    max_concepts: int

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of at least one sample."""
        regions, region_mask = _pad([s.regions for s in samples], np.float32)
        boxes, _ = _pad([s.boxes for s in samples], np.float32)
        concepts, concept_mask = _pad([self._concepts(s) for s in samples], np.int64)
        return Batch(
            keys=tuple(s.key for s in samples),
            image_ids=torch.tensor([s.image_id for s in samples]),
            regions=regions,
            region_mask=region_mask,
            boxes=boxes,
            concepts=concepts,
            concept_mask=concept_mask,
            tokens=self._tokens(samples),
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
