"""Shards of COCO's shape for the training benchmark, and the arithmetic of their captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.corpus import REFERENCES
from benchmarks.decode import CLASSES, CONCEPTS
from benchmarks.load_corpus import REGIONS, WORDS, SyntheticSource
from capdist.batch import Batch
from capdist.models.base import CaptionModel
from capdist.vocab import EOS, PAD
from shards.manifest import Manifest
from shards.schema import CLASS_DTYPE, Array, Sample
from shards.writer import write

#: Words of the shortest and the longest caption; longer ones are clipped in training.
SHORTEST, LONGEST = 8, 20


def caption_lengths(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers of words as in COCO's captions: mean 10.5, deviation 2.4, and a tail of long ones."""
    return (SHORTEST + rng.negative_binomial(1.9, 0.432, shape)).clip(max=LONGEST)


@dataclass(frozen=True)
class CaptionedSource(SyntheticSource):
    """Images with captions of COCO's lengths, concepts and classes."""

    name: str = "captioned"
    class_names: tuple[str, ...] = tuple(f"class{number}" for number in range(CLASSES))

    def load(self, split: str, ids: Sequence[int]) -> Iterator[Sample]:
        for sample in super().load(split, ids):
            rng = np.random.default_rng([1, int(sample.image_id)])
            lengths = caption_lengths(rng, (REFERENCES,))
            tokens = tuple(tuple(map(str, rng.choice(WORDS, length))) for length in lengths)
            classes = np.zeros((REGIONS, 1), CLASS_DTYPE)
            classes["id"], classes["prob"] = rng.integers(CLASSES, size=(REGIONS, 1)), 1
            yield replace(
                sample,
                captions=tuple(map(" ".join, tokens)),
                tokens=tokens,
                concepts=tuple((str(word), 0.5) for word in rng.choice(WORDS, CONCEPTS, False)),
                classes=classes,
            )


def make_shards(root: Path, images: int) -> Manifest:
    return write(CaptionedSource(images), root, samples_per_shard=64, workers=1)


class UsefulFlops:
    """Floating-point operations of forward and backward passes without any padding.

    The difference between an image with two captions and with one is a caption's share; the rest is
    the image's.
    """

    def __init__(self, model: CaptionModel[Any], image: Batch) -> None:
        self._model, self._image = model, image
        self._counted = cache(self._count)

    def __call__(self, batch: Batch) -> float:
        """Of a batch whose images have as many regions as the first."""
        lengths = (batch.targets != PAD).sum(-1).flatten().tolist()
        some = next(length for length in lengths if length)
        encode = 2 * self._counted(1, some) - self._counted(2, some)
        captions = [self._counted(2, n) - self._counted(1, n) for n in lengths if n]
        return len(batch.keys) * encode + sum(captions)

    def _count(self, captions: int, length: int) -> float:
        tokens = torch.full((1, captions, length + 1), EOS)
        batch = replace(self._image, tokens=tokens.to(self._image.tokens.device))
        with FlopCounterMode(display=False) as counter:
            logits = self._model(self._model.encode(batch), batch.inputs)
            cross_entropy(logits.flatten(0, 2), batch.targets.flatten()).backward()
        self._model.zero_grad()
        return counter.get_total_flops()


def first_image(batch: Batch) -> Batch:
    tensors: dict[str, Any] = {
        name: value[:1] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)
    }
    return replace(batch, keys=batch.keys[:1], **tensors)
