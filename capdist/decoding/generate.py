"""Captions of many images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from capdist.batch import Batch
from capdist.config.decoding import DecodingConfig
from capdist.decoding.beam import looked_at
from capdist.decoding.constraints import Constraints, Wanted
from capdist.decoding.cuda_graph import searcher
from capdist.models.base import CaptionModel
from capdist.vocab import Vocabulary


@dataclass(frozen=True)
class Caption:
    """Words, and the sum of the log-probabilities of their tokens.

    ``boxes``, where they were asked for: of the region that got most attention before each word,
    x1 y1 x2 y2 in 0..1.
    """

    words: list[str]
    score: float
    boxes: list[list[float]] = field(default_factory=list)


def caption_images(
    model: CaptionModel[Any],
    batches: Iterable[Batch],
    vocab: Vocabulary,
    decoding: DecodingConfig,
    device: torch.device,
    wanted: Wanted | None = None,
    *,
    boxes: bool = False,
) -> Iterator[tuple[int, list[Caption]]]:
    """Every image's id and captions, best first: at most ``decoding.beam``.

    Args:
        model: in evaluation mode, on ``device``.
        batches: the images.
        vocab: the model's.
        decoding: beam, lengths and what may not be written.
        device: where to decode.
        wanted: words that single images' captions must have.
        boxes: whether to say where the model looked.

    Raises:
        ConfigError: if no caption could be what is asked for.
        DecodingError: if a logit is not a number, or the model looks at no regions.
    """
    limits = Constraints.of(decoding, vocab, wanted)
    search = searcher(model, decoding, limits, device)
    for batch in batches:
        placed = batch.to(device)
        found = search(placed)
        found.check(batch)
        looks = found.tokens.new_zeros(*found.scores.shape, 0)
        if boxes:
            looks = looked_at(model, placed, found.tokens)
        rows = zip(found.tokens.tolist(), found.scores.tolist(), looks.tolist(), strict=True)
        # A batch that stands in for images that a rank lacks has no keys.
        for _, image, row in zip(batch.keys, batch.image_ids.tolist(), rows, strict=False):
            hypotheses = zip(*row, strict=True)
            yield image, [_caption(vocab, *one) for one in hypotheses if one[1] > -torch.inf]


def _caption(
    vocab: Vocabulary, tokens: list[int], score: float, boxes: list[list[float]]
) -> Caption:
    words = vocab.decode(tokens)
    return Caption(words, score, boxes[: len(words)])
