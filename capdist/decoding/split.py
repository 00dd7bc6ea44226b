"""Captions of many images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from capdist.batch import Batch
from capdist.config import DecodingConfig
from capdist.decoding.limits import Limits, Wanted
from capdist.decoding.replay import searcher
from capdist.models.base import CaptionModel
from capdist.vocab import Vocabulary


@dataclass(frozen=True)
class Caption:
    """Words, and the sum of the log-probabilities of their tokens."""

    words: list[str]
    score: float


def caption_images(
    model: CaptionModel[Any],
    batches: Iterable[Batch],
    vocab: Vocabulary,
    decoding: DecodingConfig,
    device: torch.device,
    wanted: Wanted | None = None,
) -> Iterator[tuple[int, list[Caption]]]:
    """Every image's id and captions, best first: at most ``decoding.beam``.

    Args:
        model: in evaluation mode, on ``device``.
        batches: the images.
        vocab: the model's.
        decoding: beam, lengths and what may not be written.
        device: where to decode.
        wanted: words that single images' captions must have.

    Raises:
        ConfigError: if no caption could be what is asked for.
        DecodingError: if a logit is not a number.
    """
    limits = Limits.of(decoding, vocab, wanted)
    search = searcher(model, decoding, limits, device)
    for batch in batches:
        found = search(batch.to(device))
        found.check(batch)
        rows = zip(found.tokens.tolist(), found.scores.tolist(), strict=True)
        # A batch that stands in for images that a rank lacks has no keys.
        for _, image, (tokens, scores) in zip(
            batch.keys, batch.image_ids.tolist(), rows, strict=False
        ):
            captions = zip(tokens, scores, strict=True)
            yield image, [Caption(vocab.decode(t), s) for t, s in captions if s > -torch.inf]
